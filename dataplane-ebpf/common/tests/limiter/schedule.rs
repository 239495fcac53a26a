//! Many CPUs, many packets, any time between any two steps: orders that a seeded scheduler draws.

use crate::{
    Draw,
    check::Asked,
    for_all, level, limit,
    replay::{Cpu, Job, World},
};
use dataplane_common::limit::Rate;
use proptest::prelude::*;

/// Nanoseconds in a year.
const YEAR_NS: u64 = 31_557_600_000_000_000;

#[derive(Clone, Debug)]
struct Case {
    rate: Rate,
    burst: u64,
    slack_ns: u64,
    cpus: usize,
    largest: u64,
    /// Half the packets are of fat flows.
    fat: bool,
    /// Time between two steps is drawn up to this.
    step_ns: u64,
    start_ns: u64,
    seed: u64,
}

/// 2^low ..= 2^high, each power as likely as the next.
pub fn log_uniform(low: u32, high: u32) -> impl Strategy<Value = u64> {
    (low..high, any::<u64>()).prop_map(|(power, bits)| (1 << power) + bits % (1 << power))
}

/// Bytes at 1 kbit/s to 400 Gbit/s, or packets at 1 to 2^32 a second.
pub fn any_rate() -> impl Strategy<Value = Rate> {
    prop_oneof![
        3 => prop_oneof![
            log_uniform(10, 38),
            Just(1_000),
            Just(1_007),
            Just(1_000_000),
            Just(400_000_000_000),
        ].prop_map(|bits| Rate { units: bits, period_ns: 8_000_000_000 }),
        1 => log_uniform(0, 32).prop_map(|packets| Rate { units: packets, period_ns: 1_000_000_000 }),
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    let limit = (
        any_rate(),
        log_uniform(6, 36),
        prop_oneof![Just(0), 1..20_000_000_u64],
    );
    let load = (
        1..=8_usize,
        log_uniform(0, 17),
        0..4_u32,
        0..5 * YEAR_NS,
        any::<u64>(),
        any::<bool>(),
    );
    (limit, load).prop_map(
        |((rate, burst, slack_ns), (cpus, largest, pace, start_ns, seed, fat))| Case {
            rate,
            burst,
            slack_ns,
            cpus,
            largest,
            fat,
            // From far above the rate to about at it: a packet takes four steps.
            step_ns: packet_ns(rate, largest) / 10_u64.pow(pace),
            // The coarse clock may lag from the beginning.
            start_ns: start_ns + slack_ns,
            seed,
        },
    )
}

/// Time that the rate needs for `units`, ns, rounded up.
pub fn packet_ns(rate: Rate, units: u64) -> u64 {
    let ns = (u128::from(units) * u128::from(rate.period_ns)).div_ceil(u128::from(rate.units));
    u64::try_from(ns).expect("below 500 years")
}

/// The time that passes before the next step: mostly little, now and then as long as a CPU that a
/// hypervisor has stopped, rarely an idle gap of anything up to years.
fn gap_ns(draw: &mut Draw, case: &Case) -> u64 {
    if draw.once_in(2_000) {
        let most = draw.up_to(57);
        draw.up_to(1 << most)
    } else if draw.once_in(50) {
        draw.up_to(case.step_ns * 100)
    } else {
        draw.up_to(case.step_ns)
    }
}

fn run<const TRIES: u32>(case: &Case, steps: u32) -> Result<(), String> {
    let policy = limit(case.rate, case.burst, case.slack_ns, case.slack_ns);
    let mut draw = Draw(case.seed);
    let mut world = World::<TRIES>::new(0, case.start_ns);
    let mut cpus = vec![Cpu::default(); case.cpus];
    for _ in 0..steps {
        world.now_ns += gap_ns(&mut draw, case);
        let cpu = &mut cpus[draw.up_to(case.cpus as u64 - 1) as usize];
        if cpu.idle() {
            let units = 1 + draw.up_to(case.largest - 1);
            let fat = case.fat && draw.once_in(2);
            cpu.begin(
                &policy,
                if fat {
                    Job::SendFat(units)
                } else {
                    Job::Send(units)
                },
            );
        }
        let lag_ns = draw.up_to(case.slack_ns);
        world.step(cpu, lag_ns);
    }
    let asked = Asked {
        rate: case.rate,
        burst: case.burst,
    };
    let between = if case.fat {
        policy.horizon - policy.horizon_fat()
    } else {
        0
    };
    world
        .journal
        .check_classes(&asked, case.cpus as u64, world.phantoms, between)
}

#[test]
fn no_schedule_of_many_cpus_breaks_the_bounds() {
    let (count, steps) = level((2_000, 1_000), (25_000, 2_000), (1_000_000, 4_000));
    for_all("schedules of 1 to 8 CPUs", count, &cases(), |case| {
        run::<8>(&case, steps)
    });
    for_all("schedules of 1 to 8 CPUs", count, &cases(), |case| {
        run::<2>(&case, steps)
    });
}
