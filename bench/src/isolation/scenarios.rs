//! What is done to a system: the traffic, and what is read of it.
//!
//! `to_tenant` scenarios limit what the remote end sends to the first tenant; the others limit what tenants send by
//! the uplink. All of it is in one site, with the same namespaces for every system.

use super::{
    measure::{Counters, Cpu, Series, jain},
    results::Cell,
    sharing::{CAPACITY, GUARANTEES, SHARED, equal_tenants, guarantees},
    systems::{Part, Plan},
    traffic::{Blast, Bulk, RoundTrips, Way, frame_bytes},
};
use anyhow::{Context as _, Result};
use octroi::lab::{
    Namespace, Site,
    site::{INSIDE, REMOTE, ipv4},
    traffic::UdpSink,
};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// Tenants of the site.
pub const TENANTS: usize = 8;

pub(super) const BULK_PORT: u16 = 5_001;
const RR_PORT: u16 = 5_002;
pub(super) const UDP_PORT: u16 = 5_003;

/// The smallest frame of a datagram is 60 bytes long, without FCS.
const SMALL: usize = 18;
/// A large datagram, and how many go in one GSO packet.
pub(super) const LARGE: (usize, usize) = (1_400, 20);

/// Of the neighbours, Mbit/s: the victim's ceiling, and the flooder's.
const VICTIM: u64 = 300;
const FLOODER: u64 = 10;
/// So much more does the flooder send.
const TIMES: f64 = 10.0;
/// Flows of the victim.
const VICTIM_FLOWS: usize = 4;
/// When figures are taken.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Seconds that pass first.
    pub before: f64,
    /// Seconds that are measured.
    pub measured: f64,
    /// All rates are divided by it: for machines that are so slow that they would be what is measured.
    pub slower: u64,
}

impl Timing {
    /// Seconds of both.
    pub fn end(self) -> f64 {
        self.before + self.measured
    }
}

/// One kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Bulk flows and a request-response connection to one tenant.
    Bulk {
        /// The ceiling.
        mbit: u64,
        /// Flows.
        flows: usize,
        /// With ECN.
        ecn: bool,
    },
    /// A flow of UDP that looks at nothing, ten TCP flows, and a request-response connection, to one tenant.
    Mixed,
    /// 1 Mbit/s under ten times as much in frames of 60 bytes (64 with FCS).
    SmallFrames,
    /// A neighbour floods by UDP in small frames.
    NeighbourUdp,
    /// A neighbour floods with 128 TCP flows.
    NeighbourTcp,
    /// Two tenants with guarantees: both, one, both, the other. UDP that looks at nothing.
    GuaranteesUdp,
    /// The same with 16 TCP flows each.
    GuaranteesTcp,
    /// Eight equal tenants with 1, 2, 4 … 128 TCP flows.
    EqualTenants {
        /// With ECN.
        ecn: bool,
        /// Each has an eighth of the link guaranteed, as the classes of HTB have in any case; else it has its weight alone.
        guaranteed: bool,
    },
}

impl Scenario {
    /// All, in the order of the table.
    pub const ALL: [Self; 14] = [
        Self::bulk(100, 64, false),
        Self::bulk(100, 128, false),
        Self::bulk(1_000, 64, false),
        Self::bulk(1_000, 128, false),
        Self::bulk(100, 128, true),
        Self::Mixed,
        Self::SmallFrames,
        Self::NeighbourUdp,
        Self::NeighbourTcp,
        Self::GuaranteesUdp,
        Self::GuaranteesTcp,
        Self::equal_tenants(false, false),
        Self::equal_tenants(true, false),
        Self::equal_tenants(false, true),
    ];

    const fn bulk(mbit: u64, flows: usize, ecn: bool) -> Self {
        Self::Bulk { mbit, flows, ecn }
    }

    const fn equal_tenants(ecn: bool, guaranteed: bool) -> Self {
        Self::EqualTenants { ecn, guaranteed }
    }

    /// As it stands in the results.
    pub fn name(self) -> String {
        match self {
            Self::Bulk { mbit, flows, ecn } => {
                format!("bulk-{mbit}mbit-{flows}flows{}", suffix(ecn))
            }
            Self::Mixed => "mixed-udp-and-10tcp".to_owned(),
            Self::SmallFrames => "small-frames-1mbit".to_owned(),
            Self::NeighbourUdp => "neighbour-udp-64b".to_owned(),
            Self::NeighbourTcp => "neighbour-tcp-128flows".to_owned(),
            Self::GuaranteesUdp => "guarantees-udp".to_owned(),
            Self::GuaranteesTcp => "guarantees-tcp".to_owned(),
            Self::EqualTenants { ecn, guaranteed } => {
                let what = if guaranteed { "-guaranteed" } else { "" };
                format!("equal-tenants{what}{}", suffix(ecn))
            }
        }
    }

    /// Whether TCP asks for ECN.
    pub const fn ecn(self) -> bool {
        matches!(
            self,
            Self::Bulk { ecn: true, .. } | Self::EqualTenants { ecn: true, .. }
        )
    }

    /// What the systems are asked for.
    pub fn plan(self, slower: u64) -> Plan {
        let of = |mbit: u64| (mbit / slower).max(1);
        let ceiling = |mbit| Part {
            guarantee: None,
            ceiling: Some(of(mbit)),
        };
        match self {
            Self::Bulk { mbit, .. } => Plan::ToTenant(of(mbit)),
            Self::Mixed => Plan::ToTenant(of(100)),
            Self::SmallFrames => Plan::ToTenant(of(1)),
            Self::NeighbourUdp | Self::NeighbourTcp => Plan::Uplink {
                capacity: None,
                parts: vec![ceiling(VICTIM), ceiling(FLOODER)],
            },
            Self::GuaranteesUdp | Self::GuaranteesTcp => Plan::Uplink {
                capacity: Some(of(CAPACITY)),
                parts: GUARANTEES
                    .map(|mbit| Part {
                        guarantee: Some(of(mbit)),
                        ceiling: None,
                    })
                    .to_vec(),
            },
            Self::EqualTenants { guaranteed, .. } => Plan::Uplink {
                capacity: Some(of(SHARED)),
                parts: vec![
                    Part {
                        guarantee: guaranteed.then(|| of(SHARED) / TENANTS as u64),
                        ceiling: None,
                    };
                    TENANTS
                ],
            },
        }
    }

    /// Runs it once.
    ///
    /// # Errors
    /// When traffic or counters fail.
    pub fn run(self, site: &Site, timing: Timing) -> Result<Cell> {
        match self {
            Self::Bulk { mbit, flows, .. } => {
                bulk(site, timing, (mbit / timing.slower).max(1), flows)
            }
            Self::Mixed => mixed(site, timing),
            Self::SmallFrames => small_frames(site, timing),
            Self::NeighbourUdp => neighbour(site, timing, false),
            Self::NeighbourTcp => neighbour(site, timing, true),
            Self::GuaranteesUdp => guarantees(site, timing, false),
            Self::GuaranteesTcp => guarantees(site, timing, true),
            Self::EqualTenants { .. } => equal_tenants(site, timing),
        }
    }
}

const fn suffix(ecn: bool) -> &'static str {
    if ecn { "-ecn" } else { "" }
}

fn address(index: usize) -> Result<IpAddr> {
    ipv4(index).parse().context("address")
}

fn to_tenant(site: &Site) -> Result<Way<'_>> {
    Ok(Way {
        from: &site.remote,
        to: &site.tenants[0],
        address: address(1)?,
    })
}

pub(super) fn from_tenant(site: &Site, index: usize) -> Result<Way<'_>> {
    Ok(Way {
        from: &site.tenants[index],
        to: &site.remote,
        address: address(REMOTE)?,
    })
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// What everything is read by: begun together, ended together.
pub(super) struct Watch {
    timing: Timing,
    /// What was read.
    pub series: Series,
    /// What is known by now.
    pub cell: Cell,
}

impl Watch {
    /// Lets `timing` pass, and reads `read` all the time; TCP's own counters are `sender`'s.
    pub fn over(
        begin: Instant,
        timing: Timing,
        sender: &Namespace,
        read: impl FnMut() -> Result<Vec<u64>>,
    ) -> Result<Self> {
        let mut read = read;
        let counters = Counters::open(sender)?;
        let mut middle = None;
        let series = Series::watch(begin, seconds(timing.end()), || {
            if middle.is_none() && begin.elapsed() >= seconds(timing.before) {
                middle = Some((counters.tcp()?, Cpu::now()?));
            }
            read()
        })?;
        let (tcp, cpu) = (counters.tcp()?, Cpu::now()?);
        let (tcp_before, cpu_before) = middle.context("no time to measure in")?;
        let used = cpu.since(&cpu_before);
        let cell = Cell::from([
            ("rtos", (tcp.timeouts - tcp_before.timeouts) as f64),
            (
                "retransmits",
                (tcp.retransmits - tcp_before.retransmits) as f64,
            ),
            ("cpu_percent", used.own_percent),
            ("others_cpu_percent", used.others_percent),
        ]);
        Ok(Self {
            timing,
            series,
            cell,
        })
    }

    /// Mbit/s of a counter while it was measured.
    pub fn mbit(&self, which: usize) -> f64 {
        self.series
            .mbit(which, self.timing.before, self.timing.end())
    }

    /// What round trips say.
    fn answers(&mut self, trips: RoundTrips) -> Result<()> {
        let answered = trips.end()?;
        self.cell.extend([
            ("rr_p50_ms", answered.ms(50.0)),
            ("rr_p99_ms", answered.ms(99.0)),
            ("rr_max_ms", answered.ms(100.0)),
            ("rr_count", answered.times.len() as f64),
        ]);
        if let Some(timeouts) = answered.timeouts {
            self.cell.insert("rr_rtos", timeouts as f64);
        }
        if let Some(again) = answered.again {
            self.cell.insert("rr_again", again as f64);
        }
        Ok(())
    }

    /// How the rate at the tenant's interface keeps to a ceiling.
    fn ceiling(&mut self, mbit: u64) {
        let rate = self.mbit(0);
        let mbit = mbit as f64;
        self.cell.extend([
            ("rate_mbit", rate),
            ("rate_error_percent", 100.0 * (rate - mbit) / mbit),
            ("burst_kb", self.series.burst_bytes(0, mbit) / 1e3),
        ]);
    }
}

/// Begins round trips that last as long as everything does.
fn ask(way: Way<'_>, begin: Instant, timing: Timing) -> Result<RoundTrips> {
    RoundTrips::start(
        way,
        RR_PORT,
        begin + seconds(timing.before),
        begin + seconds(timing.end()),
    )
}

fn bulk(site: &Site, timing: Timing, mbit: u64, flows: usize) -> Result<Cell> {
    let way = to_tenant(site)?;
    let at = Counters::open(way.to)?;
    let bulk = Bulk::connect(way, BULK_PORT, flows)?;
    let begin = Instant::now();
    let trips = ask(way, begin, timing)?;
    bulk.go(true);
    let mut by_flow = None;
    let mut watch = Watch::over(begin, timing, way.from, || {
        if by_flow.is_none() && begin.elapsed() >= seconds(timing.before) {
            by_flow = Some(bulk.received());
        }
        Ok(vec![at.bytes(INSIDE)?.0, bulk.total()])
    })?;
    let before = by_flow.context("no time to measure in")?;
    let flows: Vec<f64> = bulk
        .received()
        .iter()
        .zip(&before)
        .map(|(after, before)| (after - before) as f64)
        .collect();
    watch.answers(trips)?;
    bulk.end()?;
    watch.ceiling(mbit);
    watch.cell.insert("goodput_mbit", watch.mbit(1));
    watch.cell.insert("jain", jain(&flows));
    Ok(watch.cell)
}

/// Of 100 Mbit/s, the UDP flow alone wants twice.
fn mixed(site: &Site, timing: Timing) -> Result<Cell> {
    let way = to_tenant(site)?;
    let at = Counters::open(way.to)?;
    let taker = UdpSink::start(way.to, UDP_PORT)?;
    let bulk = Bulk::connect(way, BULK_PORT, 10)?;
    let begin = Instant::now();
    let trips = ask(way, begin, timing)?;
    let blast = Blast {
        payload: LARGE.0,
        at_once: 1,
        mbit: 200.0 / timing.slower as f64,
    };
    let blast = blast.start(way, UDP_PORT, begin, vec![(0.0, timing.end())])?;
    bulk.go(true);
    let mut watch = Watch::over(begin, timing, way.from, || {
        Ok(vec![at.bytes(INSIDE)?.0, bulk.total(), frame_bytes(&taker)])
    })?;
    watch.answers(trips)?;
    blast.end()?;
    bulk.end()?;
    watch.ceiling((100 / timing.slower).max(1));
    watch.cell.insert("tcp_mbit", watch.mbit(1));
    watch.cell.insert("udp_mbit", watch.mbit(2));
    Ok(watch.cell)
}

fn small_frames(site: &Site, timing: Timing) -> Result<Cell> {
    let way = to_tenant(site)?;
    let at = Counters::open(way.to)?;
    let _taker = UdpSink::start(way.to, UDP_PORT)?;
    let begin = Instant::now();
    let blast = Blast {
        payload: SMALL,
        at_once: 1,
        mbit: TIMES,
    };
    let blast = blast.start(way, UDP_PORT, begin, vec![(0.0, timing.end())])?;
    let sent = Counters::open(way.from)?;
    let mut watch = Watch::over(begin, timing, way.from, || {
        Ok(vec![at.bytes(INSIDE)?.0, sent.bytes(INSIDE)?.1])
    })?;
    blast.end()?;
    watch.ceiling(1);
    watch.cell.insert("flood_offered_mbit", watch.mbit(1));
    // There is no TCP here.
    for none in ["rtos", "retransmits"] {
        watch.cell.remove(none);
    }
    Ok(watch.cell)
}

/// The victim beside a flood, against the victim beside the same flood that is dropped where it is sent.
fn neighbour(site: &Site, timing: Timing, tcp: bool) -> Result<Cell> {
    let home = &site.tenants[1];
    let table = "netdev home";
    for line in [
        format!("nft add table {table}"),
        format!(
            "nft add chain {table} leaving {{ type filter hook egress device \"{INSIDE}\" priority 0 ; }}"
        ),
        // The connections of the flood are made; what they carry is dropped.
        format!(
            "nft add rule {table} leaving meta length > {} drop",
            if tcp { 100 } else { 0 }
        ),
    ] {
        home.command(&line)?;
    }
    let control = flooded(site, timing, tcp);
    home.command(&format!("nft delete table {table}"))?;
    let control = control?;
    let mut cell = flooded(site, timing, tcp)?;
    let of = |cell: &Cell, name: &str| cell.get(name).copied().unwrap_or_default();
    for (ratio, name) in [
        ("victim_goodput_ratio", "victim_goodput_mbit"),
        ("victim_rr_p99_ratio", "rr_p99_ms"),
    ] {
        cell.insert(ratio, of(&cell, name) / of(&control, name).max(1e-9));
    }
    Ok(cell)
}

fn flooded(site: &Site, timing: Timing, tcp: bool) -> Result<Cell> {
    let (victim, flooder) = (from_tenant(site, 0)?, from_tenant(site, 1)?);
    let sent = Counters::open(flooder.from)?;
    let taker = UdpSink::start(flooder.to, UDP_PORT)?;
    let bulk = Bulk::connect(victim, BULK_PORT, VICTIM_FLOWS)?;
    let flood = tcp
        .then(|| Bulk::connect(flooder, BULK_PORT + 100, 128))
        .transpose()?;
    let begin = Instant::now();
    let trips = ask(victim, begin, timing)?;
    let blast = Blast {
        payload: SMALL,
        at_once: 1,
        mbit: TIMES * (FLOODER as f64 / timing.slower as f64).max(1.0),
    };
    let spans = if tcp {
        Vec::new()
    } else {
        vec![(0.0, timing.end())]
    };
    let blast = blast.start(flooder, UDP_PORT, begin, spans)?;
    bulk.go(true);
    if let Some(flood) = &flood {
        flood.go(true);
    }
    let mut watch = Watch::over(begin, timing, victim.from, || {
        let passed = flood.as_ref().map_or(frame_bytes(&taker), Bulk::total);
        Ok(vec![bulk.total(), sent.bytes(INSIDE)?.1, passed])
    })?;
    watch.answers(trips)?;
    blast.end()?;
    bulk.end()?;
    flood.map(Bulk::end).transpose()?;
    for (which, name) in [
        "victim_goodput_mbit",
        "flood_offered_mbit",
        "flood_passed_mbit",
    ]
    .into_iter()
    .enumerate()
    {
        watch.cell.insert(name, watch.mbit(which));
    }
    Ok(watch.cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_told_apart() {
        let names = Scenario::ALL.map(Scenario::name);
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name}");
        }
    }
}
