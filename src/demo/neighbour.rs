//! The demo's scene of a noisy neighbour: alice has a guarantee of the uplink and sends less than that; bob floods, with
//! ten times his ceiling. What alice gets, and how long her round trips take, before, during and after.

use super::{
    checks::{Check, Outcome},
    interrupted,
    scene::{ALICE, BOB, address, show},
};
use crate::{
    daemon::control::Request,
    lab::{
        Site,
        site::{REMOTE, UPLINK, ipv4},
        traffic::{self, Datagrams, UdpSink, inside},
    },
};
use anyhow::{Context as _, Result, ensure};
use dataplane::registers::Direction;
use std::time::{Duration, Instant};

/// Of the uplink, and of it alice's.
const CAPACITY: &str = "60Mbit/s";
const GUARANTEE: &str = "40Mbit/s";
/// Payload bytes of a datagram of alice's, each millisecond: 8 Mbit/s at most.
const ALICE_SENDS: (usize, Duration) = (1_000, Duration::from_millis(1));
/// Bob's, in GSO packets: 100 Mbit/s from all his sockets. One socket's buffer is smaller than the queue of his port, and
/// would be held up by it.
const BOB_SENDS: (usize, u16, Duration) = (12_600, 1_400, Duration::from_millis(8));
const BOB_SOCKETS: usize = 8;
const SINK_PORT: u16 = 7_001;
const ECHO_PORT: u16 = 7_002;
/// Seconds of each part.
const PART: Duration = Duration::from_secs(2);

/// What alice saw in one part.
struct Part {
    sent: u64,
    arrived: u64,
    /// Packets of hers that octroi dropped.
    dropped: u64,
    took: Duration,
    round_trips: hdrhistogram::Histogram<u64>,
}

impl Part {
    fn line(&self, when: &str) -> String {
        let ms = |percentile| self.round_trips.value_at_percentile(percentile) as f64 / 1e6;
        let bits = self.arrived * ALICE_SENDS.0 as u64 * 8;
        format!(
            "demo: alice {when:<6} {:>5.2} Mbit/s, {} of {} datagrams; round trips: half within {:.2} ms, 99 of 100 \
             within {:.2} ms",
            bits as f64 / self.took.as_secs_f64() / 1e6,
            self.arrived,
            self.sent,
            ms(50.0),
            ms(99.0),
        )
    }
}

/// Gives alice her guarantee, and lets bob flood.
pub fn scene(
    site: &Site,
    config: &str,
    (ceiling, burst): (u64, u64),
    outcome: &mut Outcome,
) -> Result<()> {
    eprintln!(
        "demo: of {CAPACITY}, alice has {GUARANTEE} guaranteed and sends 8 Mbit/s; bob, whose ceiling is 10 Mbit/s, \
         floods with 100"
    );
    let config = shared(config)?;
    site.ask(&Request::Apply { config })
        .context("the guarantee")?;
    traffic::echo(&site.remote, ECHO_PORT)?;
    let sink = UdpSink::start(&site.remote, SINK_PORT)?;
    let _bobs = traffic::udp_sink(&site.remote, 7)?;
    let uplink = settled(site)?;
    let before = registers(site)?;

    let quiet = part(site, &sink, false)?;
    eprintln!("{}", quiet.line("before"));
    let (flood_begins, bob_before) = (Instant::now(), registers(site)?[BOB].clone());
    let flooded = part(site, &sink, true)?;
    let (lasted, bob) = (
        flood_begins.elapsed(),
        registers(site)?[BOB].since(&bob_before),
    );
    eprintln!("{}", flooded.line("during"));
    let after = part(site, &sink, false)?;
    eprintln!("{}", after.line("after"));

    for (when, part) in [("before", &quiet), ("during", &flooded), ("after", &after)] {
        outcome.push(Check::equal(
            format!("alice's datagrams {when} the flood that neither arrived nor were dropped"),
            part.sent.saturating_sub(part.arrived + part.dropped),
            0,
            "packets",
        ));
    }
    outcome.push(Check::at_least(
        "alice's datagrams that arrived during the flood, of 1,000",
        flooded.arrived * 1_000 / flooded.sent.max(1),
        950,
        "packets",
    ));
    outcome.push(Check::at_most(
        "half of alice's round trips during the flood",
        flooded.round_trips.value_at_percentile(50.0) / 1_000,
        1_000_000,
        "µs",
    ));
    let allowed = u128::from(ceiling / 8) * lasted.as_nanos() / 1_000_000_000;
    outcome.push(Check::at_most(
        "bob's flood, what passed: rate · t + burst + one skb",
        bob.total().l2_bytes,
        allowed as u64 + burst + 1_514,
        "bytes",
    ));
    outcome.push(Check::at_least(
        "bob's flood, what was dropped, against what passed",
        bob.dropped().l2_bytes,
        bob.total().l2_bytes,
        "bytes",
    ));
    let wire = settled(site)? - uplink;
    let booked = registers(site)?.into_iter().zip(&before);
    let booked = booked.map(|(after, before)| after.since(before).total().l2_bytes);
    outcome.push(Check::difference(
        "the scene, registers of all tenants and what the uplink sent",
        booked.sum(),
        wire,
        "bytes",
    ));
    Ok(())
}

/// The configuration, with an uplink that is shared.
fn shared(config: &str) -> Result<String> {
    let mut config = config.to_owned();
    for (old, new) in [
        (
            "capacity = \"10Gbit/s\"",
            format!("capacity = \"{CAPACITY}\""),
        ),
        (
            "name = \"alice\"\nid = 1\n",
            format!("name = \"alice\"\nid = 1\nfrom_tenant = {{ guarantee = \"{GUARANTEE}\" }}\n"),
        ),
    ] {
        ensure!(config.contains(old), "the configuration has no {old:?}");
        config = config.replacen(old, &new, 1);
    }
    Ok(config)
}

/// From each tenant, in their order.
fn registers(site: &Site) -> Result<Vec<Direction>> {
    let ports = site.report()?.ports;
    let of = |number| {
        let mut ports = ports.iter();
        let found = ports.find(|port| port.tenant == number);
        Ok(found
            .context("a tenant without a port")?
            .from_tenant
            .clone())
    };
    (1..=site.tenants.len() as u32).map(of).collect()
}

/// What the uplink has sent, when nothing moves any more.
fn settled(site: &Site) -> Result<u64> {
    let read = || Ok::<_, anyhow::Error>(site.host.counters(UPLINK)?[3]);
    let (mut last, mut still) = (read()?, 0);
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(100));
        let now = read()?;
        still = if now == last { still + 1 } else { 0 };
        last = now;
        if still == 3 {
            break;
        }
    }
    Ok(last)
}

fn part(site: &Site, sink: &UdpSink, flood: bool) -> Result<Part> {
    let remote = address(ipv4(REMOTE));
    let (begun, until) = (Instant::now(), Instant::now() + PART);
    let before = (sink.received().0, registers(site)?[ALICE].dropped().packets);
    let (size, gap) = ALICE_SENDS;
    let alice = inside(site.tenants[ALICE].open()?, move || {
        let how = Datagrams {
            size,
            segment: None,
            gap,
        };
        traffic::udp_send((remote, SINK_PORT), how, until)
    });
    let trips = inside(site.tenants[ALICE].open()?, move || {
        traffic::round_trips((remote, ECHO_PORT), until)
    });
    let (size, segment, gap) = BOB_SENDS;
    let bob = |_| {
        Ok(inside(site.tenants[BOB].open()?, move || {
            let how = Datagrams {
                size,
                segment: Some(segment),
                gap,
            };
            traffic::udp_send((remote, 7), how, until)
        }))
    };
    let sockets = if flood { BOB_SOCKETS } else { 0 };
    let bob = (0..sockets).map(bob).collect::<Result<Vec<_>>>()?;
    let mut shown = (Instant::now(), site.report()?.ports);
    while Instant::now() < until && !interrupted() {
        std::thread::sleep(
            Duration::from_secs(1).min(until.saturating_duration_since(Instant::now())),
        );
        let now = (Instant::now(), site.report()?.ports);
        show(&shown.1, &now.1, now.0 - shown.0);
        shown = now;
    }
    let panicked = |_| anyhow::anyhow!("a sender panicked");
    let sent = alice.join().map_err(panicked)?? / ALICE_SENDS.0 as u64;
    let round_trips = trips.join().map_err(panicked)??;
    for socket in bob {
        socket.join().map_err(panicked)??;
    }
    let took = begun.elapsed();
    settled(site)?;
    Ok(Part {
        sent,
        arrived: sink.received().0 - before.0,
        dropped: registers(site)?[ALICE].dropped().packets - before.1,
        took,
        round_trips,
    })
}
