//! The demo's traffic, and the counters around it.

use super::{Options, checks::Check, interrupted};
use crate::{
    lab::{
        Namespace, Site,
        frames::{RawSocket, udp4},
        site::{INSIDE, REMOTE, UPLINK, ipv4, ipv6, mac},
        traffic::{self, Datagrams, Sink, inside},
    },
    status::Report,
};
use anyhow::{Context as _, Result};
use dataplane::{gate::PortStatus, registers::Direction};
use dataplane_common::{abi::ABI_VERSION, reason::DropReason};
use std::{
    net::IpAddr,
    path::Path,
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// What was counted for a tenant while the demo ran.
pub struct Tenant {
    pub name: &'static str,
    pub offloads: bool,
    pub from_tenant: Direction,
    pub to_tenant: Direction,
    /// Of the tenant's own interface: rx packets, rx bytes, tx packets, tx bytes.
    pub inside: [u64; 4],
    /// Of its port on the host, likewise.
    pub port: [u64; 4],
}

/// Bob against his ceiling.
#[derive(Default)]
pub struct Ceiling {
    pub bytes: u64,
    pub drops: u64,
    /// From the first packet to the last that could still be counted.
    pub elapsed_ns: u64,
    /// While everybody was sending.
    pub sending_ns: u64,
}

/// Everything that was counted.
pub struct Measured {
    pub tenants: Vec<Tenant>,
    pub uplink: [u64; 4],
    pub spoofed_sent: u64,
    pub spoofed_dropped: u64,
    pub spoofed_arrived: u64,
    pub ceiling: Ceiling,
}

pub const ALICE: usize = 0;
pub const BOB: usize = 1;
const MALLORY: usize = 2;
/// Frames of each kind of lie.
const LIES: u64 = 500;
/// Where the liar's frames would arrive if they did.
const CANARY: u16 = 9;

pub fn address(text: String) -> IpAddr {
    text.parse().unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

/// Shows that the site forwards before octroi is there, so that "nothing passes" means something.
pub fn unguarded_before_the_gate(site: &Site) -> Result<Check> {
    let sink = traffic::udp_sink(&site.remote, 7)?;
    sink.set_read_timeout(Some(Duration::from_secs(2)))?;
    let to = (address(ipv4(REMOTE)), 7);
    site.tenants[ALICE].run(move || {
        let how = Datagrams {
            size: 100,
            segment: None,
            gap: Duration::from_millis(10),
        };
        traffic::udp_send(to, how, Instant::now() + Duration::from_millis(200))
    })??;
    let arrived = sink.recv(&mut [0; 200]).is_ok();
    Ok(Check::equal(
        "without octroi, alice reaches the remote end",
        arrived.into(),
        1,
        "yes/no",
    ))
}

/// True when neither pins nor programs are left.
pub fn nothing_left(site: &Site) -> Check {
    let pins = u64::from(site.pin_dir().join(format!("v{ABI_VERSION}")).exists());
    let attached = site.host.run(|| {
        let interfaces = dataplane::netlink::interfaces().unwrap_or_default();
        let left = interfaces
            .values()
            .filter(|interface| dataplane::attach::any(interface));
        left.count() as u64
    });
    Check::equal(
        "pins and programs left behind",
        pins + attached.unwrap_or(1),
        0,
        "objects",
    )
}

/// Runs all traffic for the demo's time, kills the daemon with -9 in the middle and starts it again.
pub fn traffic(site: &mut Site, octroi: &Path, options: &Options) -> Result<Measured> {
    let sinks = sinks(site)?;
    let canary = traffic::udp_sink(&site.remote, CANARY)?;
    let before = snapshot(site)?;
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let senders = senders(site, until)?;
    let ceiling_begun = Instant::now();
    let kill_at = Instant::now() + Duration::from_secs(options.seconds / 2);
    let mut killed = false;
    let mut shown = (Instant::now(), before.report.ports.clone());
    while Instant::now() < until && !interrupted() {
        std::thread::sleep(
            Duration::from_secs(1).min(until.saturating_duration_since(Instant::now())),
        );
        if !killed && Instant::now() >= kill_at {
            site.kill()?;
            eprintln!("demo: kill -9 of the daemon, under traffic; starting it again");
            site.start(octroi)?;
            killed = true;
        }
        let now = (Instant::now(), site.report()?.ports);
        show(&shown.1, &now.1, now.0 - shown.0);
        shown = now;
    }
    let sending_ns = ceiling_begun.elapsed().as_nanos() as u64;
    for sender in senders {
        sender
            .join()
            .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
    }
    drop(sinks);
    let after = settle(site)?;
    let elapsed_ns = ceiling_begun.elapsed().as_nanos() as u64;
    let mut measured = measure(&before, &after)?;
    let bob = &measured.tenants[BOB].from_tenant;
    measured.ceiling = Ceiling {
        bytes: bob.total().l2_bytes,
        drops: bob.dropped_for(DropReason::CeilingBytes).packets,
        elapsed_ns,
        sending_ns,
    };
    measured.spoofed_arrived = arrived(&canary);
    Ok(measured)
}

fn arrived(canary: &std::net::UdpSocket) -> u64 {
    let _ = canary.set_nonblocking(true);
    let mut count = 0;
    while canary.recv(&mut [0; 2048]).is_ok() {
        count += 1;
    }
    count
}

fn sinks(site: &Site) -> Result<Vec<Sink>> {
    [&site.remote, &site.tenants[ALICE], &site.tenants[BOB]]
        .into_iter()
        .map(|namespace| Sink::tcp(namespace, 5001))
        .collect()
}

/// Everybody who sends: TCP and UDP, v4 and v6, small and large, with and without GSO, both ways,
/// tenant to tenant, and the liar.
fn senders(site: &Site, until: Instant) -> Result<Vec<JoinHandle<Result<u64>>>> {
    let remote4 = address(ipv4(REMOTE));
    let remote6 = address(ipv6(REMOTE));
    let (alice4, bob4) = (address(ipv4(ALICE + 1)), address(ipv4(BOB + 1)));
    let bob6 = address(ipv6(BOB + 1));
    let (alice, bob) = (&site.tenants[ALICE], &site.tenants[BOB]);
    let ms = Duration::from_millis;
    let mut senders = Vec::new();
    let mut tcp = |from: &Namespace, to: IpAddr, chunk: usize| -> Result<()> {
        let from = from.open()?;
        senders.push(inside(from, move || {
            traffic::tcp_send((to, 5001), chunk, until)
        }));
        Ok(())
    };
    tcp(alice, remote4, 1 << 17)?;
    tcp(alice, remote6, 1 << 17)?;
    tcp(&site.remote, alice4, 1 << 17)?;
    tcp(&site.remote, bob6, 1 << 16)?;
    tcp(alice, bob4, 1 << 16)?;
    for _ in 0..4 {
        tcp(bob, remote4, 1 << 16)?;
    }
    let mut udp = |from: &Namespace, to: IpAddr, size, segment, gap| -> Result<()> {
        let (from, how) = (from.open()?, Datagrams { size, segment, gap });
        senders.push(inside(from, move || traffic::udp_send((to, 7), how, until)));
        Ok(())
    };
    udp(alice, remote4, 22, None, ms(1))?;
    udp(alice, remote4, 60_000, Some(1_400), ms(5))?;
    udp(alice, remote6, 60_000, Some(1_350), ms(5))?;
    udp(alice, remote4, 4_000, None, ms(5))?;
    udp(alice, bob4, 50_000, Some(1_200), ms(20))?;
    udp(bob, alice4, 1_000, None, ms(1))?;
    udp(bob, remote4, 22, None, ms(1))?;
    // Twice what his ceiling allows, and deaf to drops: he stays backlogged.
    udp(bob, remote4, 50_400, Some(1_400), ms(2))?;
    udp(&site.remote, bob4, 40_000, Some(1_000), ms(20))?;
    udp(&site.remote, alice4, 30, None, ms(1))?;
    senders.push(lies(site)?);
    Ok(senders)
}

/// Mallory sends as bob, as somebody unknown, and with bob's MAC.
fn lies(site: &Site) -> Result<JoinHandle<Result<u64>>> {
    let ifindex = site.tenants[MALLORY]
        .interfaces()?
        .get(INSIDE)
        .context("no interface")?
        .index;
    let own = mac(MALLORY + 1);
    let remote = ([10, 77, 0, REMOTE as u8], mac(REMOTE));
    let frames = [
        udp4(own, remote.1, [10, 77, 0, BOB as u8 + 1], remote.0, 100),
        udp4(own, remote.1, [192, 0, 2, 1], remote.0, 100),
        udp4(
            mac(BOB + 1),
            remote.1,
            [10, 77, 0, MALLORY as u8 + 1],
            remote.0,
            100,
        ),
    ];
    let namespace = site.tenants[MALLORY].open()?;
    Ok(inside(namespace, move || {
        let socket = RawSocket::open(ifindex)?;
        for _ in 0..LIES {
            for frame in &frames {
                socket.send(frame)?;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(LIES * frames.len() as u64)
    }))
}

struct Snapshot {
    report: Report,
    inside: Vec<[u64; 4]>,
    ports: Vec<[u64; 4]>,
    uplink: [u64; 4],
}

impl Snapshot {
    fn report_of(&self, tenant: usize) -> Result<&PortStatus> {
        let number = tenant as u32 + 1;
        let found = self.report.ports.iter().find(|port| port.tenant == number);
        found.context("a tenant without a port")
    }
}

fn snapshot(site: &Site) -> Result<Snapshot> {
    let host = site.host.interfaces()?;
    let stats = |name: &str| {
        host.get(name)
            .map(|found| found.stats)
            .context("no such interface")
    };
    Ok(Snapshot {
        report: site.report()?,
        inside: site
            .tenants
            .iter()
            .map(|n| n.counters(INSIDE))
            .collect::<Result<_>>()?,
        ports: (0..site.tenants.len())
            .map(|i| stats(&site.port(i)))
            .collect::<Result<_>>()?,
        uplink: stats(UPLINK)?,
    })
}

/// Waits until nothing moves any more: connections end, queues run empty.
fn settle(site: &Site) -> Result<Snapshot> {
    let mut last = snapshot(site)?;
    let begun = Instant::now();
    let mut quiet = 0;
    while begun.elapsed() < Duration::from_secs(20) && quiet < 3 {
        std::thread::sleep(Duration::from_millis(300));
        let now = snapshot(site)?;
        let still =
            now.inside == last.inside && now.ports == last.ports && now.uplink == last.uplink;
        quiet = if still { quiet + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

fn less(after: [u64; 4], before: [u64; 4]) -> [u64; 4] {
    std::array::from_fn(|index| after[index] - before[index])
}

fn measure(before: &Snapshot, after: &Snapshot) -> Result<Measured> {
    let mut tenants = Vec::new();
    for (index, spec) in super::TENANTS.iter().enumerate() {
        let (old, new) = (before.report_of(index)?, after.report_of(index)?);
        tenants.push(Tenant {
            name: spec.name,
            offloads: spec.offloads,
            from_tenant: new.from_tenant.since(&old.from_tenant),
            to_tenant: new.to_tenant.since(&old.to_tenant),
            inside: less(after.inside[index], before.inside[index]),
            port: less(after.ports[index], before.ports[index]),
        });
    }
    let liar = &tenants[MALLORY].from_tenant;
    Ok(Measured {
        spoofed_sent: 3 * LIES,
        spoofed_dropped: liar.dropped_for(DropReason::SpoofedMac).packets
            + liar.dropped_for(DropReason::SpoofedIpv4).packets,
        spoofed_arrived: 0,
        uplink: less(after.uplink, before.uplink),
        ceiling: Ceiling::default(),
        tenants,
    })
}

/// A line for each tenant: what went through in between, and at what rate.
pub fn show(before: &[PortStatus], now: &[PortStatus], took: Duration) {
    for port in now {
        let Some(old) = before.iter().find(|old| old.slot == port.slot) else {
            continue;
        };
        let from = port.from_tenant.since(&old.from_tenant);
        let to = port.to_tenant.since(&old.to_tenant);
        // Bits in a microsecond are megabits in a second.
        let megabits = |bytes: u64| u128::from(bytes) * 8 / took.as_micros().max(1);
        eprintln!(
            "  {:<14} from tenant {:>6} Mbit/s {:>8} packets   to tenant {:>6} Mbit/s {:>8} packets   \
             drops {:>8}",
            port.name,
            megabits(from.total().l2_bytes),
            from.total().packets,
            megabits(to.total().l2_bytes),
            to.total().packets,
            from.dropped().packets + to.dropped().packets,
        );
    }
}
