//! A price of a packet: the bounds are the same, of priced bytes, for any price and any revision of it.

use crate::{
    Alone, Draw, Time,
    check::Asked,
    for_all, level, limit,
    replay::{Cpu, Job, World},
    schedule::log_uniform,
};
use dataplane_common::{
    abi::LimitPolicy,
    limit::{PRICE_MAX, Rate, Times},
    limiter::{Clock as _, Decision},
    units::BitsPerSecond,
};
use proptest::prelude::*;

const SECOND_NS: u64 = 1_000_000_000;

#[derive(Clone, Debug)]
struct Case {
    bits: u64,
    burst: u64,
    slack_ns: u64,
    /// By revision.
    prices: Vec<u32>,
    cpus: usize,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let price = prop_oneof![
        Just(0),
        Just(PRICE_MAX),
        0..2_000_u32,
        log_uniform(0, 16).prop_map(|price| price as u32),
    ];
    (
        log_uniform(10, 38),
        log_uniform(11, 26),
        prop_oneof![Just(0), Just(8_000_000_u64)],
        prop::collection::vec(price, 1..5),
        1..4_usize,
        any::<u64>(),
    )
        .prop_map(|(bits, burst, slack_ns, prices, cpus, seed)| Case {
            bits,
            burst,
            slack_ns,
            prices,
            cpus,
            seed,
        })
}

/// Layer-2 bytes: the smallest, full frames, and GSO packets.
const SIZES: [u64; 4] = [60, 590, 1_514, 65_226];

/// Everything that a case did, in priced bytes, held against the rate and the burst that were asked for.
fn run(case: &Case) -> Result<(), String> {
    let mut draw = Draw(case.seed);
    let rate = Rate::bytes(BitsPerSecond(case.bits));
    let mut policy = limit(rate, case.burst, case.slack_ns, SECOND_NS);
    let mut world = World::<8>::new(0, SECOND_NS);
    let mut cpus = vec![Cpu::default(); case.cpus];
    for price in &case.prices {
        let times = Times {
            now_ns: world.now_ns,
            switch_ns: world.now_ns,
            coarse_slack_ns: case.slack_ns,
        };
        let before = policy;
        policy = policy.revise(rate, case.burst, &times).priced(*price);
        // A revision of the price is one of nothing else.
        let same = LimitPolicy {
            price: before.price,
            ..policy
        };
        if same != before {
            return Err(format!("{before:?} became {policy:?}"));
        }
        // A small packet takes three steps: from a trickle to a flood.
        let packet_ns = (60 + u64::from(*price)) * 8 * SECOND_NS / case.bits;
        let most_ns = packet_ns >> draw.up_to(4);
        for _ in 0..600 {
            world.now_ns += draw.up_to(most_ns);
            let index = draw.up_to(cpus.len() as u64 - 1) as usize;
            if cpus[index].idle() {
                let units = policy.charge(draw.of(&SIZES));
                // What is given back is missing from the lower bound: in half of the cases nothing is.
                let job = if case.seed.is_multiple_of(2) && draw.once_in(8) {
                    Job::SendAndGiveBack(units)
                } else {
                    Job::Send(units)
                };
                cpus[index].begin(&policy, job);
            }
            let lag_ns = draw.up_to(case.slack_ns);
            world.step(&mut cpus[index], lag_ns);
        }
    }
    let asked = Asked {
        rate,
        burst: case.burst,
    };
    world
        .journal
        .check(&asked, case.cpus as u64, world.phantoms)
}

#[test]
fn priced_bytes_keep_the_bounds_at_any_price() {
    let count = level(500, 5_000, 500_000);
    for_all("prices under load", count, &cases(), |case| run(&case));
}

/// Packets that pass in `seconds` of a flood.
fn flood(policy: &LimitPolicy, l2_bytes: u64, seconds: u64) -> u64 {
    let (clock, time) = (Alone::default(), Time::at(0));
    let mut passed = 0;
    for step in 0..seconds * 200_000 {
        time.now_ns.set(step * 5_000);
        let units = policy.charge(l2_bytes);
        passed += u64::from(matches!(
            policy.take(&clock, &time, units),
            Decision::Pass { .. }
        ));
    }
    passed
}

#[test]
fn a_flood_of_small_packets_has_what_their_price_leaves() {
    let rate = Rate::bytes(BitsPerSecond(80_000_000));
    for (price, l2_bytes) in [(0, 100), (0, 1_514), (900, 100), (900, 1_514), (65_535, 60)] {
        let policy = limit(rate, 100_000, 0, 0).priced(price);
        let passed = flood(&policy, l2_bytes, 10);
        let each = l2_bytes + u64::from(price);
        let law = (100_000_000 + 100_000) / each;
        assert!(
            passed.abs_diff(law) <= 1 + law / 1_000,
            "{passed} packets of {l2_bytes} bytes at {price}, not {law}"
        );
    }
}

#[test]
fn what_was_taken_is_given_back_to_the_unit() {
    let policy = limit(Rate::bytes(BitsPerSecond(1_000)), 200_000, 0, 0).priced(1_234);
    let (clock, time) = (Alone::default(), Time::at(0));
    for l2_bytes in SIZES {
        let before = clock.load();
        let units = policy.charge(l2_bytes);
        assert!(matches!(
            policy.take(&clock, &time, units),
            Decision::Pass { .. }
        ));
        assert_eq!(clock.load(), before + l2_bytes + 1_234);
        policy.give_back(&clock, units);
        assert_eq!(clock.load(), before);
    }
}

#[test]
fn a_price_beyond_the_highest_is_the_highest() {
    let policy = limit(Rate::bytes(BitsPerSecond(1_000)), 200_000, 0, 0);
    assert_eq!(policy.priced(u32::MAX).price, PRICE_MAX);
    assert_eq!(policy.priced(u32::MAX).pace() >> 48, u64::from(PRICE_MAX));
    assert_eq!(policy.pace(), policy.ns_per_unit);
}
