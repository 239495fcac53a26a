//! Conservation over random histories: owners that come, go and change, cuts that are lost, clocks that
//! step.

use super::*;
use crate::{flow::FlowDelta, record::Clock};
use dataplane_common::reason::{self, REASONS_MAX, RECORDED_MAX};
use proptest::prelude::*;

fn epoch() -> Epoch {
    Epoch {
        host: "h".into(),
        boot_id: [1; 16],
        map_generation: [2; 16],
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Packets of an owner, direction and zone, with this many bytes each.
    Carry(usize, usize, usize, u64, u64),
    /// Packets dropped.
    Drop(usize, usize, usize, u64),
    /// A new owner.
    Come,
    /// An owner goes; this is its last window.
    Go(usize),
    /// The clocks move: ns, and a step of the wall clock.
    Wait(u64, i64),
    /// A cut; false: its commit fails.
    Cut(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..8_usize, 0..2_usize, 0..4_usize, 1..1_000_u64, 60..9_000_u64)
            .prop_map(|(a, b, c, d, e)| Step::Carry(a, b, c, d, e)),
        2 => (0..8_usize, 0..2_usize, 1..REASONS_MAX, 1..50_u64).prop_map(|(a, b, c, d)| Step::Drop(a, b, c, d)),
        1 => Just(Step::Come),
        1 => (0..8_usize).prop_map(Step::Go),
        2 => (1..200_000_000_000_u64, prop_oneof![9 => Just(0), 1 => -90_000_000_000_000..90_000_000_000_000_i64])
            .prop_map(|(a, b)| Step::Wait(a, b)),
        4 => prop::bool::weighted(0.8).prop_map(Step::Cut),
    ]
}

/// The kernel, as far as the meter sees it.
struct Kernel {
    owners: Vec<Owner>,
    time: Time,
    window: u64,
    next: u64,
}

impl Kernel {
    fn come(&mut self) {
        let sums = || Sums {
            zones: vec![Counts::default(); 4],
            drops: vec![[0; 2]; REASONS_MAX],
            evidence: vec![[0; 2]; 8],
            skbs: [0; 4],
        };
        self.owners.push(Owner {
            incarnation: self.next,
            name: format!("port-{}", self.next % 5),
            tenant: (self.next % 3) as u32,
            live: true,
            since_ns: self.time.boot_ns,
            directions: Some([sums(), sums()]),
            ..Owner::default()
        });
        self.next += 1;
    }

    fn sums(&mut self, owner: usize, direction: usize) -> Option<&mut Sums> {
        let live: Vec<usize> = (0..self.owners.len())
            .filter(|at| self.owners[*at].live)
            .collect();
        let at = *live.get(owner % live.len().max(1))?;
        Some(&mut self.owners[at].directions.as_mut()?[direction])
    }
}

fn check(steps: &[Step]) -> Result<u64, TestCaseError> {
    let mut kernel = Kernel {
        owners: Vec::new(),
        time: Time {
            boot_ns: 1_000,
            mono_ns: 1_000,
            utc_ns: 1_800_000_000_000_000_000,
        },
        window: 7,
        next: 1,
    };
    kernel.come();
    let mut state = State::default();
    let mut written: Vec<Record> = Vec::new();
    let mut finals = BTreeMap::new();
    for step in steps {
        match *step {
            Step::Carry(owner, direction, zone, packets, bytes) => {
                if let Some(sums) = kernel.sums(owner, direction) {
                    let counts = &mut sums.zones[zone];
                    counts.packets += packets;
                    counts.l2_bytes += packets * bytes;
                    counts.l3_bytes += packets * (bytes - 14);
                    sums.skbs[0] += packets;
                    sums.skbs[1] += packets * bytes;
                    // Of the rest nobody asked what it is.
                    if let Some(class) = sums.evidence.get_mut(packets as usize % 11) {
                        class[0] += packets;
                        class[1] += packets * bytes;
                    }
                }
            }
            Step::Drop(owner, direction, reason, packets) => {
                if let Some(sums) = kernel.sums(owner, direction) {
                    sums.drops[reason][0] += packets;
                    sums.drops[reason][1] += packets * 64;
                    sums.skbs[2] += packets;
                }
            }
            Step::Come => kernel.come(),
            Step::Go(owner) => {
                let count = kernel.owners.len().max(1);
                if let Some(owner) = kernel.owners.get_mut(owner % count) {
                    owner.live = false;
                }
            }
            Step::Wait(ns, wall_step) => {
                kernel.time.boot_ns += ns;
                kernel.time.mono_ns += ns / 2; // suspended half of it
                kernel.time.utc_ns += ns as i64 + wall_step;
            }
            Step::Cut(commits) => {
                let cut = Cut {
                    window: kernel.window,
                    revision: 1,
                    time: kernel.time,
                    nominal_ns: None,
                    window_ns: 0,
                    clock: Clock::default(),
                    owners: kernel.owners.clone(),
                    interfaces: None,
                    ..Cut::default()
                };
                kernel.window += 1;
                let outcome = records(&epoch(), &state, &cut, None);
                for record in &outcome.records {
                    record
                        .check()
                        .map_err(|error| TestCaseError::fail(format!("{error}: {record:?}")))?;
                }
                if !commits {
                    continue;
                }
                check_window(&outcome, &cut, &state)?;
                for owner in &cut.owners {
                    finals.insert(
                        owner.incarnation,
                        owner.directions.clone().unwrap_or_default(),
                    );
                }
                written.extend(outcome.records);
                state = outcome.state;
                kernel
                    .owners
                    .retain(|owner| !outcome.closed.contains(&owner.incarnation));
            }
        }
    }
    conserved(&finals, &written)?;
    Ok(written.len() as u64)
}

/// One window: `*` for everybody, zones that sum to it, readings that continue.
fn check_window(outcome: &Outcome, cut: &Cut, before: &State) -> Result<(), TestCaseError> {
    for owner in &cut.owners {
        for direction in 0..2 {
            let of = |zone: bool| {
                outcome.records.iter().filter(move |record| {
                    record.incarnation == owner.incarnation
                        && record.direction == direction
                        && record.zone.is_some() == zone
                })
            };
            let all: Vec<_> = of(false).collect();
            prop_assert_eq!(all.len(), 1);
            let total = all[0].counted().unwrap_or_default();
            let zones = of(true)
                .filter_map(Record::counted)
                .try_fold(Counts::default(), Counts::checked_add);
            prop_assert_eq!(zones, Some(total));
            let first = before.last.map_or(0, |last| last.window + 1);
            prop_assert_eq!(all[0].window_first, first);
            prop_assert_eq!(all[0].flags.has(Flags::MERGED), first != cut.window);
        }
    }
    Ok(())
}

/// All windows together are the registers of the last committed cut, and readings follow each other.
fn conserved(finals: &BTreeMap<u64, [Sums; 2]>, written: &[Record]) -> Result<(), TestCaseError> {
    let mut ends = BTreeMap::<(u64, u8, Option<u32>), Counts>::new();
    let mut drops = BTreeMap::<(u64, u8, u8), u64>::new();
    let mut classes = BTreeMap::<(u64, u8, u8), [u64; 2]>::new();
    for record in written {
        let Some(reading) = record.reading else {
            continue;
        };
        let key = (record.incarnation, record.direction, record.zone);
        let end = ends.insert(key, reading.register_end).unwrap_or_default();
        prop_assert_eq!(end, reading.register_start);
        for drop in record.total.iter().flat_map(|total| &total.drops) {
            *drops
                .entry((record.incarnation, record.direction, drop.reason))
                .or_default() += drop.packets;
        }
        for one in record.total.iter().flat_map(|total| &total.evidence) {
            let key = (record.incarnation, record.direction, one.class);
            let sums = classes.entry(key).or_default();
            sums[0] += one.packets;
            sums[1] += one.l2_bytes;
        }
    }
    for (incarnation, directions) in finals {
        for (direction, sums) in (0..).zip(directions) {
            let end = ends.get(&(*incarnation, direction, None)).copied();
            prop_assert_eq!(end, sums.total());
            // A record has them under the numbers that it knows.
            let mut recorded = [0; RECORDED_MAX];
            for (number, dropped) in sums.drops.iter().enumerate() {
                recorded[reason::recorded(number)] += dropped[0];
            }
            for (reason, packets) in (0..).zip(recorded) {
                let seen = drops.get(&(*incarnation, direction, reason)).copied();
                prop_assert_eq!(seen.unwrap_or_default(), packets);
            }
            for (class, counts) in (0..).zip(&sums.evidence) {
                let seen = classes.get(&(*incarnation, direction, class)).copied();
                prop_assert_eq!(seen.unwrap_or_default(), *counts);
            }
        }
    }
    Ok(())
}

#[test]
fn every_byte_is_in_one_record_whatever_happens_between_cuts() {
    let level = std::env::var("OCTROI_TEST_LEVEL").unwrap_or_default();
    let cases = match level.as_str() {
        "quick" => 200,
        "long" => 100_000,
        _ => 2_000,
    };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(cases));
    let written = std::cell::Cell::new(0);
    runner
        .run(&prop::collection::vec(step(), 1..120), |steps| {
            written.set(written.get() + check(&steps)?);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    println!("CASES: meter, histories: {cases}");
    println!("CASES: meter, records of them: {}", written.get());
}

#[test]
fn a_register_that_goes_back_is_its_owners_nodata_and_nobody_elses() {
    let owner = |incarnation, packets| Owner {
        incarnation,
        name: format!("port-{incarnation}"),
        tenant: 1,
        live: true,
        since_ns: 0,
        directions: Some([0, 1].map(|_| Sums {
            zones: vec![Counts {
                packets,
                l2_bytes: packets * 100,
                l3_bytes: packets * 86,
            }],
            ..Sums::default()
        })),
        ..Owner::default()
    };
    let cut = |window, owners| Cut {
        window,
        revision: 1,
        time: Time::default(),
        nominal_ns: None,
        window_ns: 0,
        clock: Clock::default(),
        owners,
        interfaces: None,
        ..Cut::default()
    };
    let first = records(
        &epoch(),
        &State::default(),
        &cut(1, vec![owner(1, 10), owner(2, 10)]),
        None,
    );
    let second = records(
        &epoch(),
        &first.state,
        &cut(2, vec![owner(1, 5), owner(2, 12)]),
        None,
    );
    let kinds: Vec<_> = second
        .records
        .iter()
        .map(|record| (record.incarnation, record.kind))
        .collect();
    assert_eq!(kinds[..2], [(1, Kind::Nodata), (1, Kind::Nodata)]);
    assert!(kinds[2..].iter().all(|kind| *kind == (2, Kind::Meter)));
    // What was believed last is where the next good reading continues.
    let third = records(
        &epoch(),
        &second.state,
        &cut(3, vec![owner(1, 11), owner(2, 12)]),
        None,
    );
    assert_eq!(
        third.records[0].counted().map(|counted| counted.packets),
        Some(1)
    );
    for record in second.records.iter().chain(&third.records) {
        assert_eq!(record.check(), Ok(()));
    }
}

#[test]
fn a_gap_is_said_with_its_bounds() {
    let owner = Owner {
        incarnation: 3,
        name: "port".into(),
        tenant: 1,
        live: false,
        since_ns: 0,
        directions: Some(Default::default()),
        ..Owner::default()
    };
    let cut = Cut {
        window: 4,
        revision: 1,
        time: Time::default(),
        nominal_ns: Some(900_000_000),
        window_ns: 0,
        clock: Clock::default(),
        owners: vec![owner],
        interfaces: None,
        ..Cut::default()
    };
    let gap = Gap {
        cause: "the host crashed".into(),
        bytes_max: [(3, [Some(1_000), None])].into(),
        reset: true,
        until_ns: None,
    };
    let outcome = records(&epoch(), &State::default(), &cut, Some(&gap));
    let [from, to] = &outcome.records[..] else {
        panic!("{:?}", outcome.records);
    };
    assert_eq!((from.bytes_min, from.bytes_max), (Some(0), Some(1_000)));
    assert_eq!((to.bytes_min, to.bytes_max), (Some(0), None));
    assert!(
        from.flags
            .has(Flags::RESET | Flags::PARTIAL | Flags::MISALIGNED)
    );
    assert_eq!(outcome.closed, [3]);
    assert_eq!((from.check(), to.check()), (Ok(()), Ok(())));
}

#[test]
fn what_no_flow_accounts_for_is_unattributed_and_flows_beyond_the_registers_attribute_nothing() {
    let counts = |packets| Counts {
        packets,
        l2_bytes: packets * 100,
        l3_bytes: packets * 86,
    };
    let flow = |direction, zone, packets| FlowDelta {
        direction,
        zone,
        counts: counts(packets),
        ..FlowDelta::default()
    };
    let unattributed = |flows: Vec<FlowDelta>| {
        let sums = || Sums {
            zones: vec![counts(10), counts(20)],
            ..Sums::default()
        };
        let owner = Owner {
            incarnation: 1,
            name: "port".into(),
            live: true,
            directions: Some([sums(), sums()]),
            flows,
            ..Owner::default()
        };
        let cut = Cut {
            window: 1,
            revision: 1,
            time: Time::default(),
            nominal_ns: None,
            window_ns: 0,
            clock: Clock::default(),
            owners: vec![owner],
            ..Cut::default()
        };
        let outcome = records(&epoch(), &State::default(), &cut, None);
        let totals = outcome.records.iter().filter_map(|record| {
            assert_eq!(record.check(), Ok(()));
            let total = record.total.as_ref()?;
            Some(total.unattributed.packets)
        });
        let totals: Vec<u64> = totals.collect();
        (totals, outcome.alarms)
    };
    assert_eq!(unattributed(vec![]), (vec![30, 30], vec![]));
    let some = vec![flow(0, 0, 4), flow(0, 0, 6), flow(0, 1, 1), flow(1, 1, 20)];
    assert_eq!(unattributed(some), (vec![19, 10], vec![]));
    let wrong = [
        vec![flow(0, 0, 11)],                             // more than its zone has
        vec![flow(0, 2, 1)],                              // of a zone that nobody counted
        vec![flow(0, 1, u64::MAX / 100), flow(0, 1, 99)], // past 2^64
    ];
    for flows in wrong {
        let (totals, alarms) = unattributed(flows);
        assert_eq!(totals, [30, 30]);
        assert_eq!(alarms.len(), 1, "{alarms:?}");
        assert!(alarms[0].contains("port (incarnation 1)"), "{alarms:?}");
    }
}
