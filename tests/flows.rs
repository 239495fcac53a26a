//! The flow table under traffic: in every window and zone, what flows gained and what none accounts for is what
//! the registers gained. Each of the three is counted by the kernel on its own.

mod support;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use dataplane::{
    flows::Timeouts,
    gate::{Gate, Owned, Reading},
    maps::Raw,
    object::Plan,
    pins::Pins,
};
use dataplane_common::abi::Register;
use octroi::lab::{
    Site,
    site::{INSIDE, REMOTE, ipv4},
    traffic::{Mixed, inside, mixed},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use support::{alone, by_level, can_run, octroi, settle, tenant};

/// Incarnation, direction, zone.
type At = (u64, u32, u32);
/// Packets, layer-2 and layer-3 bytes.
type Sum = [u64; 3];

fn numbers(register: &Register) -> Sum {
    [register.packets, register.l2_bytes, register.l3_bytes]
}

fn difference(now: Sum, before: Sum) -> Sum {
    std::array::from_fn(|at| now[at] - before[at])
}

/// A gate of this process in the site's host namespace, and what its windows said.
struct Table {
    gate: Gate,
    plan: Plan,
    /// `UNATTRIBUTED`, read as any other program would.
    unattributed: Array<MapData, Raw<Register>>,
    /// By bank.
    rest: [BTreeMap<(u32, u32, u32), Sum>; 2],
    registers: BTreeMap<At, Sum>,
    windows: u32,
    /// Σ of all windows, of all flows, and of what none accounts for, by port, from the tenant.
    counted: BTreeMap<String, [Sum; 3]>,
    flows: u64,
}

impl Table {
    fn open(site: &Site, config: &str, idle: Duration) -> Result<Self> {
        let config =
            octroi::config::parse(config, "site").map_err(|errors| anyhow::anyhow!("{errors}"))?;
        let plan = octroi::daemon::plan(&config);
        let mut gate = Gate::open(plan, Pins::new(&site.pin_dir()))?;
        gate.meter(Timeouts {
            idle,
            ..Timeouts::default()
        })?;
        gate.apply(octroi::daemon::policy(&config))?;
        let pin = Pins::new(&site.pin_dir()).root().join("maps/UNATTRIBUTED");
        let unattributed = Map::from_map_data(MapData::from_pin(pin)?)?.try_into()?;
        let mut table = Self {
            gate,
            plan,
            unattributed,
            rest: Default::default(),
            registers: BTreeMap::new(),
            windows: 0,
            counted: BTreeMap::new(),
            flows: 0,
        };
        // Both banks' state of now is the zero of the first two windows.
        for _ in 0..2 {
            let reading = table.seal()?;
            table.note(&reading)?;
        }
        Ok(table)
    }

    fn seal(&mut self) -> Result<Reading> {
        let reading = self.gate.seal()?;
        ensure!(reading.flows_failed.is_none(), "{reading:?}");
        Ok(reading)
    }

    /// What no flow accounts for in the sealed bank, by slot, direction and zone.
    fn rest(&self, reading: &Reading) -> Result<BTreeMap<(u32, u32, u32), Sum>> {
        let mut rest = BTreeMap::new();
        for port in self.gate.ports()? {
            for direction in 0..2 {
                for zone in 0..self.plan.sizes.zones {
                    let bank = reading.window & 1;
                    let number = self.plan.sizes.register(bank, port.slot, direction, zone);
                    let register = self.unattributed.get(&number, 0)?.0;
                    rest.insert((port.slot, direction, zone), numbers(&register));
                }
            }
        }
        Ok(rest)
    }

    /// Keeps a reading as the zero of later ones, and returns the one of the same bank before it.
    fn note(&mut self, reading: &Reading) -> Result<BTreeMap<(u32, u32, u32), Sum>> {
        for owner in &reading.owners {
            for (at, sum) in sums(owner) {
                self.registers.insert(at, sum);
            }
        }
        let rest = self.rest(reading)?;
        Ok(std::mem::replace(
            &mut self.rest[reading.window as usize & 1],
            rest,
        ))
    }

    /// Cuts, and compares.
    fn window(&mut self) -> Result<()> {
        let reading = self.seal()?;
        ensure!(
            reading.unbalanced.is_empty(),
            "the gate's own check: {:?}",
            reading.unbalanced
        );
        let slots: BTreeMap<u64, u32> = self
            .gate
            .ports()?
            .iter()
            .map(|port| (port.incarnation, port.slot))
            .collect();
        let registers = self.registers.clone();
        let before = self.note(&reading)?;
        let now = &self.rest[reading.window as usize & 1];
        for owner in reading.owners.iter().filter(|owner| owner.tenant != 0) {
            let slot = slots.get(&owner.incarnation).context("no such port")?;
            let mut flows = BTreeMap::<(u32, u32), Sum>::new();
            for gain in &owner.flows {
                let sum = flows
                    .entry((gain.direction, gain.key.zone.into()))
                    .or_default();
                for (sum, more) in sum.iter_mut().zip(numbers(&gain.delivered)) {
                    *sum += more;
                }
                self.flows += 1;
            }
            for ((incarnation, direction, zone), sum) in sums(owner) {
                let of = (*slot, direction, zone);
                let counted = difference(
                    sum,
                    registers
                        .get(&(incarnation, direction, zone))
                        .copied()
                        .unwrap_or_default(),
                );
                let rest = difference(now[&of], before.get(&of).copied().unwrap_or_default());
                let flows = flows.remove(&(direction, zone)).unwrap_or_default();
                ensure!(
                    (0..3).all(|at| flows[at] + rest[at] == counted[at]),
                    "window {}, {} {direction} zone {zone}: flows {flows:?}, unattributed {rest:?}, \
                     registers {counted:?}",
                    reading.window,
                    owner.name,
                );
                if direction == 0 {
                    let all = self.counted.entry(owner.name.clone()).or_default();
                    for (all, one) in all.iter_mut().zip([counted, flows, rest]) {
                        for (all, one) in all.iter_mut().zip(one) {
                            *all += one;
                        }
                    }
                }
            }
            ensure!(
                flows.is_empty(),
                "flows of a zone without a register: {flows:?}"
            );
        }
        self.windows += 1;
        Ok(())
    }
}

fn sums(owner: &Owned) -> Vec<(At, Sum)> {
    let directions = owner.directions.iter().flatten();
    (0..)
        .zip(directions)
        .flat_map(|(direction, both)| {
            let zones = (0..).zip(&both.zones);
            zones.map(move |(zone, sum)| ((owner.incarnation, direction, zone), *sum))
        })
        .collect()
}

fn config(site: &Site, host: &str, meter: &str) -> String {
    let ledger = site.directory().join("ledger.db");
    site.config(&format!("shape = \"police\"\n{host}"))
        + &format!("\n[meter]\nledger = \"{}\"\n{meter}\n", ledger.display())
}

/// Datagrams from every tenant, each 10 ms from another port, until told to stop.
struct Senders {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Senders {
    fn start(site: &Site) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for namespace in &site.tenants {
            let how = Mixed {
                gap: Duration::from_micros(100),
                turn: Duration::from_millis(10),
                limit: Duration::from_secs(900),
            };
            threads.push(mixed(namespace, how, &stop)?);
        }
        Ok(Self { stop, threads })
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        Ok(())
    }
}

/// Sends one datagram in each of `count` flows: from as many ports as that takes, to every port.
fn open_flows(to: IpAddr, count: u32) -> Result<()> {
    let mut left = count;
    while left != 0 {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        for port in 1..=left.min(60_000) {
            // A full queue of the sender is no failure: the flow is tried again.
            while let Err(error) = socket.send_to(&[0; 8], (to, port as u16)) {
                ensure!(
                    matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::ConnectionRefused
                    ) || error.raw_os_error() == Some(libc::ENOBUFS),
                    "{error}"
                );
            }
        }
        left -= left.min(60_000);
    }
    Ok(())
}

#[test]
fn in_every_window_and_zone_flows_and_the_rest_are_what_the_registers_gained() -> Result<()> {
    const TEST: &str = "in_every_window_and_zone_flows_and_the_rest_are_what_the_registers_gained";
    if !can_run(TEST) {
        return Ok(());
    }
    let _alone = alone();
    let _ = octroi();
    let site = Site::new(&[tenant("alice", false), tenant("bob", false)])?;
    let plain = config(&site, "flows_max = 4096", "");
    let moved = plain
        .replace("cidrs = [\"10.77.0.254/32\"", "cidrs = [\"10.77.0.252/30\"")
        .replace(
            "name = \"bob-port\"\ntenant = \"bob\"",
            "name = \"bob-port\"\ntenant = \"alice\"",
        );
    ensure!(moved != plain, "nothing would move");
    let policies = [&plain, &moved].map(|text| {
        octroi::config::parse(text, "site").map(|config| octroi::daemon::policy(&config))
    });
    let idle = Duration::from_millis(200);
    let mut table = site.host.run(|| Table::open(&site, &plain, idle))??;
    let counters = || -> Result<Vec<[u64; 4]>> {
        let tenants = site.tenants.iter();
        tenants.map(|tenant| tenant.counters(INSIDE)).collect()
    };
    let begin = loop {
        let begin = settle(counters)?;
        table.counted.clear();
        site.host
            .run(|| (0..2).try_for_each(|_| table.window()))??;
        if counters()? == begin {
            table.counted.clear();
            break begin;
        }
    };
    let count: u32 = by_level(80, 1_000, 3_000);
    let senders = Senders::start(&site)?;
    let mut revisions = 0;
    for number in 0..count {
        std::thread::sleep(Duration::from_millis(u64::from(50 + number * 7 % 30)));
        if number % 40 == 39 {
            let policy = policies[(number / 40 + 1) as usize % 2].clone();
            let policy = policy.map_err(|errors| anyhow::anyhow!("{errors}"))?;
            site.host.run(|| table.gate.apply(policy))??;
            revisions += 1;
        }
        site.host.run(|| table.window())??;
    }
    senders.stop()?;
    let end = loop {
        let end = settle(counters)?;
        site.host
            .run(|| (0..2).try_for_each(|_| table.window()))??;
        if counters()? == end {
            break end;
        }
    };
    for (index, port) in ["alice-port", "bob-port"].into_iter().enumerate() {
        let sent: [u64; 2] = [2, 3].map(|at| end[index][at] - begin[index][at]);
        let [counted, flows, rest] = table.counted[port].map(|sum| [sum[0], sum[1]]);
        println!("{port}: {flows:?} packets and bytes in flows, {rest:?} in none, sent {sent:?}");
        if index == 0 {
            assert_eq!(
                counted, sent,
                "all windows, and what the tenant's interface sent"
            );
        } else {
            // While a port moves it is closed, and what its tenant sends then ends at the guard.
            ensure!(
                counted[0] <= sent[0] && counted[0] > sent[0] / 2,
                "{counted:?}"
            );
        }
        ensure!(flows[0] > counted[0] / 2, "most packets are in no flow");
    }
    println!(
        "CASES: windows in which flows and the rest are the registers: {}",
        table.windows
    );
    println!("CASES: moves of tenants and zones in between: {revisions}");
    println!("CASES: readings of flows in them: {}", table.flows);
    site.host.run(|| table.gate.detach())??;
    Ok(())
}

#[test]
fn a_table_of_16_places_under_10_000_flows_loses_detail_and_no_byte() -> Result<()> {
    const TEST: &str = "a_table_of_16_places_under_10_000_flows_loses_detail_and_no_byte";
    if !can_run(TEST) {
        return Ok(());
    }
    let _alone = alone();
    let site = Site::new(&[tenant("alice", false), tenant("bob", false)])?;
    let text = config(&site, "flows_max = 16", "");
    let mut table = site
        .host
        .run(|| Table::open(&site, &text, Duration::from_millis(100)))??;
    let to: IpAddr = ipv4(REMOTE).parse()?;
    // In two waves, so that places are given again in between.
    let flood = move || {
        open_flows(to, 10_000)?;
        std::thread::sleep(Duration::from_millis(1_000));
        open_flows(to, 10_000)
    };
    let threads: Vec<_> = site
        .tenants
        .iter()
        .map(|tenant| Ok(inside(tenant.open()?, flood)))
        .collect::<Result<_>>()?;
    let begun = Instant::now();
    while !threads.iter().all(JoinHandle::is_finished) || table.windows < 20 {
        ensure!(begun.elapsed() < Duration::from_secs(120), "it never ended");
        site.host.run(|| table.window())??;
        std::thread::sleep(Duration::from_millis(50));
    }
    for thread in threads {
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
    }
    settle(|| site.tenants[0].counters(INSIDE))?;
    site.host
        .run(|| (0..2).try_for_each(|_| table.window()))??;
    let packets = |at: usize| -> u64 { table.counted.values().map(|sums| sums[at][0]).sum() };
    ensure!(packets(0) >= 40_000, "{} packets", packets(0));
    // More than there are places: they were given again. Answers to the tenants have some of them.
    ensure!(packets(1) > 16, "only {} packets in flows", packets(1));
    ensure!(packets(2) > 0, "16 places held 40,000 flows");
    println!(
        "16 places: {} of {} packets in flows, {} windows",
        packets(1),
        packets(0),
        table.windows
    );
    println!("CASES: flows through a table of 16 places: 40000");
    site.host.run(|| table.gate.detach())??;
    Ok(())
}

#[test]
fn a_tenant_that_opens_a_million_flows_takes_no_detail_from_another() -> Result<()> {
    const TEST: &str = "a_tenant_that_opens_a_million_flows_takes_no_detail_from_another";
    if !can_run(TEST) {
        return Ok(());
    }
    let _alone = alone();
    let site = Site::new(&[tenant("alice", false), tenant("bob", false)])?;
    let text = config(&site, "flows_max = 65536", "tenant_flows_max = 32768");
    let mut table = site
        .host
        .run(|| Table::open(&site, &text, Duration::from_secs(2)))??;
    let count: u32 = by_level(120_000, 1_000_000, 2_000_000);
    let to: IpAddr = ipv4(REMOTE).parse()?;
    let flood = inside(site.tenants[0].open()?, move || open_flows(to, count));
    // Another tenant opens a thousand at the same time, again and again.
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let modest = inside(site.tenants[1].open()?, move || {
        let mut opened = 0;
        while !stopped.load(Relaxed) {
            open_flows(to, 1_000)?;
            opened += 1_000;
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(opened)
    });
    let begun = Instant::now();
    while !flood.is_finished() {
        ensure!(begun.elapsed() < Duration::from_secs(300), "it never ended");
        site.host.run(|| table.window())??;
        std::thread::sleep(Duration::from_millis(100));
    }
    stop.store(true, Relaxed);
    flood
        .join()
        .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
    let opened: u64 = modest
        .join()
        .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
    settle(|| site.tenants[0].counters(INSIDE))?;
    site.host
        .run(|| (0..2).try_for_each(|_| table.window()))??;
    let [all, flows, rest] = table.counted["alice-port"].map(|sum| sum[0]);
    ensure!(all >= u64::from(count), "alice sent {all} packets");
    ensure!(
        flows > 0 && rest > 0,
        "alice: {flows} in flows, {rest} in none"
    );
    let [all, flows, rest] = table.counted["bob-port"].map(|sum| sum[0]);
    ensure!(all >= opened, "bob sent {all} packets in {opened} flows");
    assert_eq!((flows, rest), (all, 0), "bob's detail is whole");
    println!("CASES: flows that one tenant opened: {count}");
    println!("CASES: flows of the other, all of them counted one by one: {opened}");
    site.host.run(|| table.gate.detach())??;
    Ok(())
}
