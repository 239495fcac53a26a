//! The window cut: every packet is in exactly one window, and a sealed window is still.

mod support;

use anyhow::{Context as _, Result, ensure};
use dataplane::{cut::Barrier, gate::Gate, object::Plan, pins::Pins, policy::Policy};
use hdrhistogram::Histogram;
use metering::window::{Counts, Key, Windows};
use octroi::lab::{
    Site,
    site::{INSIDE, REMOTE, ipv4},
    traffic::{self, Datagrams, inside},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use support::{alone, by_level, can_run, octroi, settle, tenant};

/// What a run of cuts found.
struct Found {
    cuts: u32,
    /// Packets that a bank gained after it had been sealed and read.
    late: u64,
    /// Sum of all windows, and what the senders' own interfaces counted.
    windows: (u64, u64),
    sent: (u64, u64),
    barrier_us: Histogram<u64>,
}

/// A gate of this process in the site's host namespace.
fn open(site: &Site, linger: u32) -> Result<Gate> {
    let config = octroi::config::parse(&site.config("shape = \"police\""), "site")
        .map_err(|errors| anyhow::anyhow!("{errors}"))?;
    let mut plan: Plan = octroi::daemon::plan(&config);
    plan.test_linger = linger;
    let mut gate = Gate::open(plan, Pins::new(&site.pin_dir()))?;
    let policy: Policy = octroi::daemon::policy(&config);
    gate.apply(policy)?;
    Ok(gate)
}

fn key(slot: u32, direction: u32, zone: u32) -> Key {
    Key {
        slot,
        direction,
        zone,
    }
}

/// One sealed bank of all ports, drops as one more column so that nothing is left out.
fn read(
    gate: &Gate,
    sealed: &dataplane::cut::Sealed,
    slots: &[u32],
) -> Result<BTreeMap<Key, Counts>> {
    let banks = sealed.read(gate.maps(), &gate.plan().sizes, slots)?;
    let mut all = BTreeMap::new();
    for (slot, directions) in slots.iter().zip(banks) {
        for (direction, bank) in (0..).zip(&directions) {
            for (zone, counts) in (0..).zip(&bank.zones) {
                let counts = Counts {
                    packets: counts.packets,
                    l2_bytes: counts.l2_bytes,
                    l3_bytes: counts.l3_bytes,
                };
                all.insert(key(*slot, direction, zone), counts);
            }
            let dropped = bank
                .drops
                .iter()
                .fold(Counts::default(), |sum, drops| Counts {
                    packets: sum.packets + drops.packets,
                    l2_bytes: sum.l2_bytes + drops.l2_bytes,
                    l3_bytes: 0,
                });
            all.insert(key(*slot, direction, u32::MAX), dropped);
        }
    }
    Ok(all)
}

fn packets(bank: &BTreeMap<Key, Counts>) -> u64 {
    bank.values().map(|counts| counts.packets).sum()
}

/// Cuts `count` times under traffic of two tenants, `gap` apart; without barrier, until that shows.
fn cuts(count: u32, gap: impl Fn(u32) -> Duration, linger: u32, mode: Barrier) -> Result<Found> {
    let site = Site::new(&[tenant("alice", false), tenant("bob", false)])?;
    let mut gate = site.host.run(|| open(&site, linger))??;
    let slots: Vec<u32> = gate.ports()?.iter().map(|port| port.slot).collect();
    let counters = || -> Result<Vec<[u64; 4]>> {
        site.tenants
            .iter()
            .map(|tenant| tenant.counters(INSIDE))
            .collect()
    };
    // Both banks' state of now is the zero of the first two windows. A report of a group's member that
    // an interface sends by itself in between would be in its counter and in no window.
    let (begin, mut windows) = loop {
        let begin = settle(counters)?;
        let mut windows = Windows::new();
        for _ in 0..2 {
            let sealed = gate.cut(Barrier::Wait)?;
            let bank = read(&gate, &sealed, &slots)?;
            windows.seal(sealed.window, bank).context("first windows")?;
        }
        if counters()? == begin {
            break (begin, windows);
        }
    };
    let until = Instant::now() + Duration::from_secs(600);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let remote = ipv4(REMOTE).parse()?;
    let mut senders = Vec::new();
    for namespace in &site.tenants {
        for (size, segment) in [(30, None), (1_400, None), (28_000, Some(1_400))] {
            let (namespace, stop) = (namespace.open()?, stop.clone());
            senders.push(inside(namespace, move || {
                let how = Datagrams {
                    size,
                    segment,
                    gap: Duration::from_micros(100),
                };
                let mut sent = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) && Instant::now() < until {
                    let slice = Instant::now() + Duration::from_millis(50);
                    sent += traffic::udp_send((remote, 7), how, slice)?;
                }
                Ok(sent)
            }));
        }
    }
    let mut found = Found {
        cuts: 0,
        late: 0,
        windows: (0, 0),
        sent: (0, 0),
        barrier_us: Histogram::new_with_bounds(1, 60_000_000, 3)?,
    };
    let add = |found: &mut Found, delta: BTreeMap<Key, Counts>| {
        for (key, counts) in delta.iter().filter(|(key, _)| key.direction == 0) {
            let _ = key;
            found.windows.0 += counts.packets;
            found.windows.1 += counts.l2_bytes;
        }
    };
    for number in 0..count {
        std::thread::sleep(gap(number));
        let sealed = gate.cut(mode)?;
        found
            .barrier_us
            .saturating_record(sealed.barrier.as_micros() as u64);
        let bank = read(&gate, &sealed, &slots)?;
        let first = packets(&bank);
        add(&mut found, windows.seal(sealed.window, bank)?);
        // The bank is closed: whatever it gains from now on was booked too late.
        std::thread::sleep(Duration::from_millis(2));
        found.late += packets(&read(&gate, &sealed, &slots)?) - first;
        found.cuts += 1;
        if mode == Barrier::Skip && found.late != 0 {
            break;
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for sender in senders {
        sender
            .join()
            .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
    }
    let end = loop {
        let end = settle(counters)?;
        for _ in 0..2 {
            let sealed = gate.cut(Barrier::Wait)?;
            let bank = read(&gate, &sealed, &slots)?;
            add(&mut found, windows.seal(sealed.window, bank)?);
        }
        if counters()? == end {
            break end;
        }
    };
    for (begin, end) in begin.iter().zip(&end) {
        found.sent.0 += end[2] - begin[2];
        found.sent.1 += end[3] - begin[3];
    }
    site.host.run(|| gate.detach())??;
    Ok(found)
}

#[test]
fn windows_sum_to_what_the_peers_sent_and_stay_still_once_sealed() -> Result<()> {
    if !can_run("windows_sum_to_what_the_peers_sent_and_stay_still_once_sealed") {
        return Ok(());
    }
    let _alone = alone();
    let _ = octroi();
    let count = by_level(60, 1_000, 1_000);
    let spread = by_level(10, 20, 150);
    let gap = |number: u32| Duration::from_millis(u64::from(50 + number * 7 % spread));
    let found = cuts(count, gap, 0, Barrier::Wait)?;
    println!("CASES: window cuts under traffic: {}", found.cuts);
    println!(
        "{} packets, {} bytes in {} windows; barrier p50 {} us, p99 {} us",
        found.windows.0,
        found.windows.1,
        found.cuts,
        found.barrier_us.value_at_quantile(0.5),
        found.barrier_us.value_at_quantile(0.99),
    );
    ensure!(
        found.windows.0 > u64::from(count) * 10,
        "too little traffic to prove anything"
    );
    assert_eq!(found.late, 0, "packets booked in a sealed window");
    assert_eq!(
        found.windows, found.sent,
        "sum of windows, and what the peers counted"
    );
    Ok(())
}

#[test]
fn without_its_barrier_the_same_cut_is_caught() -> Result<()> {
    if !can_run("without_its_barrier_the_same_cut_is_caught") {
        return Ok(());
    }
    let _alone = alone();
    // The programs linger between reading the epoch and booking, so that the race is wide; with the
    // barrier that changes nothing.
    let gap = |_| Duration::from_millis(20);
    let with = cuts(40, gap, 4_096, Barrier::Wait)?;
    assert_eq!(
        with.late, 0,
        "with its barrier, a slow program is waited for"
    );
    assert_eq!(with.windows, with.sent);
    // One late packet is enough; on a busy machine it may take some cuts until one is caught.
    let without = cuts(2_000, |_| Duration::from_millis(3), 4_096, Barrier::Skip)?;
    println!(
        "without barrier: {} late after {} cuts",
        without.late, without.cuts
    );
    println!(
        "CASES: window cuts without barrier until caught: {}",
        without.cuts
    );
    assert_ne!(without.late, 0, "a missing barrier must show");
    Ok(())
}
