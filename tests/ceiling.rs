//! Ceilings, end to end: the real daemon, real TCP and UDP, counted at an interface with its offloads
//! off.
//!
//! What fails a test is what must never happen: more bytes than `ceiling · t + burst + one skb`, a
//! queue that drops what was billed. How near the rate comes to the ceiling is printed; with
//! `OCTROI_ACCEPT=1`, the median of five is held against the targets (98 % shaped, 95 % policed).
//!
//! `CEILING: shape direction rate_mbit protocol measured_percent`
//!
//! On a machine that is too slow for all of it, `OCTROI_CEILING_RATES=1,10` (Mbit/s) and
//! `OCTROI_CEILING_SECONDS=6` choose.

mod support;

use anyhow::{Context as _, Result, ensure};
use octroi::{
    daemon::control::Request,
    lab::{
        Namespace, Site, TenantSpec,
        site::{REMOTE, UPLINK, ipv4},
        traffic::{self, Sink, set_option},
    },
};
use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use support::{Level, alone, can_run, level, running};

const RATES_MBIT: [u64; 4] = [1, 50, 1_000, 5_000];
const FLOWS: usize = 16;
/// Payload of a datagram, bytes.
const DATAGRAM: usize = 1_400;
const UDP_SEGMENT: libc::c_int = 103;
const TCP_PORT: u16 = 5_001;
const UDP_PORT: u16 = 5_002;

/// The largest skb that a limiter may let in beyond the burst, bytes on the wire: a 64 KB payload of
/// TCP with timestamps, cut into 1,448 bytes, each with 66 bytes of headers.
const SKB_BYTES_MAX: f64 = 46.0 * 1_514.0;

/// How long, and how often.
#[derive(Clone, Copy)]
struct Effort {
    before: Duration,
    measured: Duration,
    runs: usize,
}

fn accepting() -> bool {
    std::env::var_os("OCTROI_ACCEPT").is_some_and(|value| value != "0")
}

fn effort() -> Effort {
    let (before, measured, runs) = match level() {
        _ if accepting() => (2.0, 10.0, 5),
        Level::Long => (2.0, 10.0, 5),
        Level::Normal => (0.5, 1.5, 1),
        Level::Quick => (0.3, 0.7, 1),
    };
    let asked = std::env::var("OCTROI_CEILING_SECONDS").ok();
    let measured = asked.and_then(|text| text.parse().ok()).unwrap_or(measured);
    Effort {
        before: Duration::from_secs_f64(before),
        measured: Duration::from_secs_f64(measured),
        runs,
    }
}

/// Ceilings, Mbit/s.
fn rates() -> Vec<u64> {
    match std::env::var("OCTROI_CEILING_RATES") {
        Ok(list) => list
            .split(',')
            .filter_map(|rate| rate.parse().ok())
            .collect(),
        Err(_) => RATES_MBIT.to_vec(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    FromTenant,
    ToTenant,
}

impl Direction {
    const fn name(self) -> &'static str {
        match self {
            Self::FromTenant => "from_tenant",
            Self::ToTenant => "to_tenant",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

/// One line of the table.
struct Case {
    shape: &'static str,
    direction: Direction,
    rate_mbit: u64,
    protocol: Protocol,
}

impl Case {
    fn bytes_per_second(&self) -> f64 {
        self.rate_mbit as f64 * 125_000.0
    }

    /// The limiter's burst when none is configured, bytes: `Shape::default_burst`.
    fn burst_bytes(&self) -> f64 {
        let time = if self.shape == "police" { 0.250 } else { 0.050 };
        (self.bytes_per_second() * time).max(1_514.0)
    }

    fn most(&self, seconds: f64) -> f64 {
        self.bytes_per_second() * seconds + self.burst_bytes() + SKB_BYTES_MAX
    }

    fn target_percent(&self) -> f64 {
        if self.shape == "police" { 95.0 } else { 98.0 }
    }
}

/// Senders of one case: they send until this value goes.
struct Senders {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Senders {
    fn start(site: &Site, case: &Case) -> Result<Self> {
        let (sender, to) = match case.direction {
            Direction::FromTenant => (&site.tenants[0], ipv4(REMOTE)),
            Direction::ToTenant => (&site.remote, ipv4(1)),
        };
        let to: std::net::IpAddr = to.parse()?;
        let mut senders = Self {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        match case.protocol {
            Protocol::Tcp => {
                for _ in 0..FLOWS {
                    senders.spawn(sender, move |go_on| tcp((to, TCP_PORT).into(), go_on))?;
                }
            }
            Protocol::Udp => {
                let rate = case.bytes_per_second();
                senders.spawn(sender, move |go_on| udp((to, UDP_PORT).into(), rate, go_on))?;
            }
        }
        Ok(senders)
    }

    fn spawn(
        &mut self,
        from: &Namespace,
        work: impl FnOnce(&dyn Fn() -> bool) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let stop = Arc::clone(&self.stop);
        let begun = Instant::now();
        let thread = traffic::inside(from.open()?, move || {
            // Bounded, whatever becomes of the test.
            work(&|| !stop.load(Relaxed) && begun.elapsed() < Duration::from_secs(300))
        });
        self.threads.push(thread);
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        Ok(())
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// What is unsent at the end is given up, so that it is not the next case's.
fn tcp(to: SocketAddr, go_on: &dyn Fn() -> bool) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(20))?;
    stream.set_write_timeout(Some(Duration::from_millis(200)))?;
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    set_option(&stream, libc::SOL_SOCKET, libc::SO_LINGER, linger)?;
    let buffer = vec![0x5A; 128 << 10];
    while go_on() {
        match stream.write(&buffer) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("TCP"),
        }
    }
    Ok(())
}

/// Twice the ceiling in time with the clock: datagrams one by one up to 500 Mbit/s, in GSO packets
/// above, where single ones would take more than this machine has.
fn udp(to: SocketAddr, bytes_per_second: f64, go_on: &dyn Fn() -> bool) -> Result<()> {
    let segments = if bytes_per_second < 62_500_000.0 {
        1
    } else {
        40
    };
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(to)?;
    if segments > 1 {
        set_option(&socket, libc::SOL_UDP, UDP_SEGMENT, DATAGRAM as libc::c_int)?;
    }
    let buffer = vec![0xA5; DATAGRAM * segments];
    let (begun, mut sent) = (Instant::now(), 0.0);
    while go_on() {
        let due = 2.0 * bytes_per_second * begun.elapsed().as_secs_f64();
        if sent >= due {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        // A full queue or a port that is closed over there is not this sender's concern.
        let _ = socket.send(&buffer);
        sent += buffer.len() as f64;
        // Who was late does not catch up for long: the bound is on bursts of the limiter's.
        sent = sent.max(due - 0.1 * bytes_per_second);
    }
    Ok(())
}

/// When, seconds between the earliest and the latest it can have been, and two counts of bytes: at the
/// interface, and as the gate has booked them.
struct Reading {
    begun: Instant,
    ended: Instant,
    wire: u64,
    booked: u64,
}

fn read(site: &Site, direction: Direction) -> Result<Reading> {
    let (port, uplink) = (site.port(0), UPLINK);
    let interface = if direction == Direction::ToTenant {
        port.as_str()
    } else {
        uplink
    };
    let begun = Instant::now();
    let wire = site.host.counters(interface)?[3];
    let (from, to) = support::registers(site, 0)?;
    let counts = if direction == Direction::ToTenant {
        to
    } else {
        from
    };
    Ok(Reading {
        begun,
        wire,
        booked: counts.total().l2_bytes,
        ended: Instant::now(),
    })
}

/// Runs a case once; returns percent of the ceiling.
fn measure(site: &Site, case: &Case, effort: Effort) -> Result<f64> {
    let senders = Senders::start(site, case)?;
    std::thread::sleep(effort.before);
    let first = read(site, case.direction)?;
    std::thread::sleep(effort.measured);
    let last = read(site, case.direction)?;
    senders.end()?;
    let longest = (last.ended - first.begun).as_secs_f64();
    for (what, bytes) in [
        ("at the interface", last.wire - first.wire),
        ("booked", last.booked - first.booked),
    ] {
        ensure!(
            bytes as f64 <= case.most(longest),
            "{} {} {} Mbit/s {:?}: {bytes} bytes {what} in {longest:.3} s, at most {:.0} allowed",
            case.shape,
            case.direction.name(),
            case.rate_mbit,
            case.protocol,
            case.most(longest),
        );
    }
    let seconds = (last.begun - first.begun).as_secs_f64();
    Ok((last.wire - first.wire) as f64 / seconds / case.bytes_per_second() * 100.0)
}

fn limits(case: &Case) -> String {
    let limit = format!("{{ ceiling = \"{}Mbit/s\" }}", case.rate_mbit);
    let table = if case.direction == Direction::ToTenant {
        "to_tenant"
    } else {
        "from_tenant"
    };
    format!("{table} = {limit}")
}

const PLACE: &str = "# limits";

fn configure(site: &Site, case: &Case) -> Result<()> {
    let text = site
        .config(&format!("shape = \"{}\"", case.shape))
        .replace(PLACE, &limits(case));
    site.ask(&Request::Apply { config: text }).map(drop)
}

/// Queues are the ones that were asked for, and have dropped nothing that was billed.
fn check_queue(site: &Site, case: &Case) -> Result<()> {
    let report = site.report()?;
    let port = report
        .ports
        .iter()
        .find(|port| port.tenant == 1)
        .context("no port")?;
    let shape = &port.shape[usize::from(case.direction == Direction::ToTenant)];
    ensure!(
        shape.shape == case.shape,
        "{}: {}",
        case.shape,
        shape.reason
    );
    ensure!(
        shape.leaf_drops == 0,
        "{} {} {} Mbit/s {:?}: the queue dropped {} skbs after they were billed",
        case.shape,
        case.direction.name(),
        case.rate_mbit,
        case.protocol,
        shape.leaf_drops,
    );
    Ok(())
}

/// What is under way arrives, or is given up, before the next case.
fn drain(site: &Site) -> Result<()> {
    support::settle(|| Ok(site.host.counters(UPLINK)?[3] + site.host.counters(&site.port(0))?[3]))
        .map(drop)
}

/// Runs all cases of a shape, and prints their table.
fn shape(name: &'static str) -> Result<()> {
    let effort = effort();
    let spec = TenantSpec {
        name: "a",
        offloads: true,
        limits: PLACE,
    };
    let site = running(&[spec], &format!("shape = \"{name}\""))?;
    // The site's wires have a speed below the highest ceiling.
    site.host
        .command(&format!("tc qdisc del dev {UPLINK} root"))?;
    let _sinks = [&site.tenants[0], &site.remote].map(|end| Sink::tcp(end, TCP_PORT));
    let _sockets = [&site.tenants[0], &site.remote].map(|end| traffic::udp_sink(end, UDP_PORT));

    let mut missed = Vec::new();
    for direction in [Direction::FromTenant, Direction::ToTenant] {
        for rate_mbit in rates() {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let case = Case {
                    shape: name,
                    direction,
                    rate_mbit,
                    protocol,
                };
                configure(&site, &case)?;
                let mut percents = Vec::new();
                for _ in 0..effort.runs {
                    percents.push(measure(&site, &case, effort)?);
                    check_queue(&site, &case)?;
                    drain(&site)?;
                }
                percents.sort_by(f64::total_cmp);
                let median = percents[percents.len() / 2];
                println!(
                    "CEILING: {name} {} {rate_mbit} {} {median:.1}",
                    direction.name(),
                    format!("{protocol:?}").to_lowercase(),
                );
                if median < case.target_percent() {
                    missed.push(format!(
                        "{} {rate_mbit} Mbit/s {protocol:?}: {median:.1} %",
                        direction.name()
                    ));
                }
            }
        }
    }
    ensure!(
        !accepting() || missed.is_empty(),
        "{name} is below its target: {}",
        missed.join(", ")
    );
    Ok(())
}

fn test(name: &'static str, can: &Result<(), String>) -> Result<()> {
    if !can_run(name) {
        return Ok(());
    }
    if let Err(reason) = can {
        println!("SKIPPED: {name}: {reason}");
        return Ok(());
    }
    let _alone = alone();
    shape(name)
}

#[test]
fn htb_holds_every_ceiling() -> Result<()> {
    let can = dataplane::shaping::abilities();
    test("htb", &can.htb.clone().and(can.ifb.clone()))
}

#[test]
fn edt_holds_every_ceiling() -> Result<()> {
    test("edt", &dataplane::shaping::abilities().fq)
}

#[test]
fn police_holds_every_ceiling() -> Result<()> {
    test("police", &Ok(()))
}
