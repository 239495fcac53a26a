//! A site whose daemon has a ledger, for the audit: one tenant hands GSO packets over, one has a ceiling, one
//! comes and goes.

use crate::support::octroi;
use anyhow::{Context as _, Result, ensure};
use metering::{
    ledger::{self, Filter},
    record::Record,
};
use octroi::{
    daemon::MeterStatus,
    lab::{
        Site, TenantSpec,
        frames::{RawSocket, udp4},
        site::{INSIDE, REMOTE, ipv4, ipv6, mac},
        traffic::{self, Datagrams, Sink, inside},
    },
};
use std::{
    net::IpAddr,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

pub const CHURNED: usize = 2;
/// Both directions of bob's port: what he sends is far above it.
pub const CEILING: &str =
    "from_tenant = { ceiling = \"20Mbit/s\" }\nto_tenant = { ceiling = \"20Mbit/s\" }";

const TENANTS: [TenantSpec; 3] = [
    TenantSpec {
        name: "alice",
        offloads: true,
        limits: "",
    },
    TenantSpec {
        name: "bob",
        offloads: false,
        limits: CEILING,
    },
    TenantSpec {
        name: "carol",
        offloads: false,
        limits: "",
    },
];

pub struct Audited {
    pub site: Site,
    ledger: PathBuf,
}

impl Audited {
    /// Not started yet.
    pub fn new(window: &str, shape: &str) -> Result<Self> {
        let site = Site::new(&TENANTS)?;
        let ledger = site.directory().join("ledger.db");
        let audited = Self { site, ledger };
        let config = audited.site.config(&format!("shape = \"{shape}\""));
        audited.configure(config, window)?;
        Ok(audited)
    }

    /// Alice's interface carries VLANs 10 and 20, of a port each.
    pub fn with_vlans(window: &str) -> Result<Self> {
        let audited = Self::new(window, "police")?;
        let config = audited.site.config("shape = \"police\"").replace(
            "interface = \"p-alice\"",
            "interface = \"p-alice\"\nvlan = 10",
        );
        let second = "\n[[port]]\nname = \"alice-2-port\"\ntenant = \"alice\"\ninterface = \"p-alice\"\nvlan = 20\n\
                      macs = [\"02:00:00:00:00:21\"]\naddresses = [\"10.77.0.33\"]\n";
        audited.configure(config + second, window)?;
        Ok(audited)
    }

    fn configure(&self, config: String, window: &str) -> Result<()> {
        let ledger = self.ledger.display();
        let section = format!("\n[meter]\nledger = \"{ledger}\"\nwindow = \"{window}\"\n");
        self.site.write_config(&(config + &section))
    }

    /// Starts the daemon, and waits for two windows: the audit has begun.
    pub fn start(&mut self) -> Result<()> {
        self.site.start(octroi())?;
        self.wait("two windows", |status| status.windows > 2)
            .map(drop)
    }

    pub fn status(&self) -> Result<MeterStatus> {
        self.site.report()?.meter.context("no meter")
    }

    /// Waits until the status says so; 40 s at most.
    pub fn wait(&self, what: &str, done: impl Fn(&MeterStatus) -> bool) -> Result<MeterStatus> {
        let begun = Instant::now();
        loop {
            let status = self.status()?;
            if done(&status) {
                return Ok(status);
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(40),
                "{what}: never happened: {status:?}\n{}",
                self.site.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `octroi status` prints.
    pub fn show_status(&self) -> Result<String> {
        let output = Command::new(octroi())
            .arg("status")
            .arg("--run-dir")
            .arg(self.site.run_dir())
            .arg("--pin-dir")
            .arg(self.site.pin_dir())
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Ends the daemon with its last window written, and reads all records.
    pub fn finish(&mut self) -> Result<Vec<Record>> {
        self.site.stop();
        let rows = ledger::records(&self.ledger, &Filter::default())?;
        rows.into_iter()
            .collect::<Result<_, _>>()
            .map_err(|(seq, error)| anyhow::anyhow!("record {seq}: {error}"))
    }

    /// Sends so many frames into each VLAN, and returns how many skbs each port has counted.
    pub fn send_tagged(&self, frames: u64) -> Result<[u64; 2]> {
        self.send_raw(frames)?;
        std::thread::sleep(Duration::from_millis(200));
        let ports = self.site.report()?.ports;
        let skbs = |name: &str| {
            let port = ports.iter().find(|port| port.name == name);
            port.map_or(0, |port| {
                port.from_tenant.skbs.delivered + port.from_tenant.skbs.dropped
            })
        };
        Ok([skbs("alice-port"), skbs("alice-2-port")])
    }

    /// The same, without a look.
    pub fn send_raw(&self, frames: u64) -> Result<()> {
        let namespace = &self.site.tenants[0];
        let index = namespace.interfaces()?;
        let index = index.get(INSIDE).context("no interface")?.index;
        namespace.run(|| {
            let socket = RawSocket::open(index)?;
            for _ in 0..frames {
                // The third one is nobody's.
                for (vlan, host) in [(10, 1), (20, 33), (30, 1)] {
                    let own = if host == 1 { mac(1) } else { mac(0x21) };
                    let mut frame =
                        udp4(own, mac(REMOTE), [10, 77, 0, host], [10, 77, 0, 254], 200);
                    frame.splice(12..12, [0x81, 0, 0, vlan]);
                    socket.send(&frame)?;
                }
            }
            anyhow::Ok(())
        })?
    }
}

/// So many datagrams from a tenant to the remote end.
pub fn burst(site: &Site, tenant: usize, datagrams: u32) -> Result<()> {
    let to: IpAddr = ipv4(REMOTE).parse()?;
    site.tenants[tenant].run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        for number in 0..datagrams {
            socket.send_to(&[7; 900], (to, 9))?;
            if number % 50 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        anyhow::Ok(())
    })?
}

/// Datagrams, GSO and TCP, within the host and beyond it, above a ceiling, until told to stop.
pub struct Mixed {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
    _sinks: Vec<Sink>,
}

impl Mixed {
    pub fn start(site: &Site) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let sinks = vec![
            Sink::tcp(&site.remote, 5_001)?,
            Sink::tcp(&site.tenants[0], 5_001)?,
            Sink::tcp(&site.tenants[1], 5_001)?,
        ];
        let mut threads = Vec::new();
        // Who sends TCP, and to whom: out, to a tenant with a ceiling, in, and out above a ceiling.
        for (from, to) in [
            (&site.tenants[0], ipv4(REMOTE)),
            (&site.tenants[0], ipv4(2)),
            (&site.remote, ipv4(1)),
            (&site.tenants[1], ipv4(REMOTE)),
        ] {
            let (namespace, stop) = (from.open()?, stop.clone());
            let to: IpAddr = to.parse()?;
            threads.push(inside(namespace, move || {
                while !stop.load(Relaxed) {
                    let until = Instant::now() + Duration::from_millis(700);
                    // A churned port or a full ceiling may refuse one.
                    let _ = traffic::tcp_send((to, 5_001), 60_000, until);
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(())
            }));
        }
        for (from, to) in [
            (&site.tenants[0], ipv6(REMOTE)),
            (&site.tenants[1], ipv4(REMOTE)),
            (&site.remote, ipv4(2)),
            (&site.remote, ipv4(3)),
        ] {
            let (namespace, stop) = (from.open()?, stop.clone());
            let to: IpAddr = to.parse()?;
            threads.push(inside(namespace, move || {
                while !stop.load(Relaxed) {
                    for (size, segment) in [(60, None), (14_000, Some(1_400)), (1_200, None)] {
                        let how = Datagrams {
                            size,
                            segment,
                            gap: Duration::from_micros(100),
                        };
                        traffic::udp_send(
                            (to, 7),
                            how,
                            Instant::now() + Duration::from_millis(20),
                        )?;
                    }
                }
                Ok(())
            }));
        }
        Ok(Self {
            stop,
            threads,
            _sinks: sinks,
        })
    }

    pub fn stop(self) -> Result<()> {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            let ended = thread.join();
            ended.map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        Ok(())
    }
}
