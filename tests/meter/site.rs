//! A site whose daemon has a ledger, traffic through it, and a disk that can be full.

use super::bill::Bill;
use crate::support::{between, octroi, registers, settle, tenant};
use anyhow::{Context as _, Result, ensure};
use octroi::{
    daemon::MeterStatus,
    lab::{
        Site, TenantSpec, command,
        site::INSIDE,
        traffic::{Mixed, mixed},
    },
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Two that send, on both processors, and one whose port comes and goes.
pub const TENANTS: [TenantSpec; 3] = [
    tenant("alice", false),
    tenant("bob", false),
    tenant("carol", false),
];
pub const SENDERS: usize = 2;
pub const CHURNED: usize = 2;

/// A site whose daemon has a ledger.
pub struct Metered {
    pub site: Site,
    pub ledger: PathBuf,
    /// What the senders' interfaces had sent that octroi did not see: before it was there.
    pub before: Vec<[u64; 4]>,
}

impl Metered {
    /// Not started yet. `window`: its length.
    pub fn new(window: &str, directory: Option<&Path>) -> Result<Self> {
        let site = Site::new(&TENANTS)?;
        let ledger = directory.unwrap_or(site.directory()).join("ledger.db");
        let metered = Self {
            site,
            ledger,
            before: Vec::new(),
        };
        metered.configure(window)?;
        Ok(metered)
    }

    /// Writes the configuration, for the next start.
    pub fn configure(&self, window: &str) -> Result<()> {
        let section = format!(
            "\n[meter]\nledger = \"{}\"\nwindow = \"{window}\"\n",
            self.ledger.display()
        );
        let config = self.site.config("shape = \"police\"") + &section;
        self.site.write_config(&config)
    }

    /// Starts the daemon, and notes what was sent before every port was blessed.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// The same, with more in its environment.
    pub fn start_with(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        self.site.start_with(octroi(), environment)?;
        let (sent, seen) = settle(|| {
            let seen: Vec<_> = (0..SENDERS)
                .map(|index| Ok(registers(&self.site, index)?.0))
                .collect::<Result<_>>()?;
            Ok((Self::sent(&self.site)?, seen))
        })?;
        self.before = sent
            .into_iter()
            .zip(seen)
            .map(|(mut sent, seen)| {
                sent[2] -= seen.total().packets + seen.dropped().packets;
                sent[3] -= seen.total().l2_bytes + seen.dropped().l2_bytes;
                sent
            })
            .collect();
        Ok(())
    }

    pub fn sent(site: &Site) -> Result<Vec<[u64; 4]>> {
        let senders = site.tenants.iter().take(SENDERS);
        senders.map(|tenant| tenant.counters(INSIDE)).collect()
    }

    pub fn status(&self) -> Result<MeterStatus> {
        self.site.report()?.meter.context("no meter")
    }

    /// Waits until the status says so; 20 s at most.
    pub fn wait(&self, what: &str, done: impl Fn(&MeterStatus) -> bool) -> Result<MeterStatus> {
        let begun = Instant::now();
        loop {
            let status = self.status()?;
            if done(&status) {
                return Ok(status);
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(20),
                "{what}: never happened: {status:?}\n{}",
                self.site.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the daemon with its last window written, and compares all records with the interfaces.
    pub fn conserved(&mut self) -> Result<Bill> {
        // What an interface sends by itself (a report of a group's member) after the last cut is in its
        // counter and in no record: the daemon then cuts once more.
        let after = loop {
            let settled = settle(|| Self::sent(&self.site))?;
            self.site.stop();
            let after = Self::sent(&self.site)?;
            if after == settled {
                break after;
            }
            self.site.start(octroi())?;
        };
        let bill = Bill::read(&self.ledger)?;
        for (index, (before, after)) in self.before.iter().zip(&after).enumerate() {
            let sent = between(*before, *after);
            let billed = bill.sent_by(TENANTS[index].name);
            ensure!(
                (billed.packets, billed.l2_bytes) == (sent[2], sent[3]),
                "tenant {index}: its interface sent {} packets and {} bytes, its records have {billed:?}\n{}",
                sent[2],
                sent[3],
                self.site.log()
            );
            ensure!(sent[2] > 100, "tenant {index} hardly sent");
        }
        Ok(bill)
    }
}

/// Datagrams small and large, v4 and v6, from both senders, until told to stop.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Traffic {
    pub fn start(site: &Site) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for namespace in site.tenants.iter().take(SENDERS) {
            let how = Mixed {
                gap: Duration::from_micros(200),
                turn: Duration::from_millis(10),
                limit: Duration::from_secs(1_500),
            };
            threads.push(mixed(namespace, how, &stop)?);
        }
        Ok(Self { stop, threads })
    }

    pub fn stop(self) -> Result<()> {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        Ok(())
    }
}

/// A small file system of its own, gone with this value.
pub struct Disk(pub PathBuf);

impl Disk {
    pub fn new(kib: u32) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("octroi-disk-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        command(&format!(
            "mount -t tmpfs -o size={kib}k,mode=700 octroi-test {}",
            path.display()
        ))?;
        Ok(Self(path))
    }

    pub fn fill(&self) -> Result<()> {
        let filler = self.0.join("filler");
        // Until there is no room for a page.
        let mut file = fs::File::options().create(true).append(true).open(filler)?;
        while std::io::Write::write_all(&mut file, &[0; 4_096]).is_ok() {}
        Ok(())
    }

    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = command(&format!("umount -l {}", self.0.display()));
        let _ = fs::remove_dir(&self.0);
    }
}
