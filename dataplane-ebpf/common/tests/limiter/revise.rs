//! Revisions: the rate changes under load, and nothing is forgiven or invented.
//!
//! A revision is published some time before its rate is to change. CPUs that have begun a packet
//! under the one before go on with it, and are done by then.

use crate::{
    Alone, Draw, Time, for_all, level, limit,
    replay::{Cpu, Job, World},
    schedule::log_uniform,
};
use dataplane_common::{
    abi::LimitPolicy,
    limit::{Rate, Times},
    limiter::{Clock as _, Decision},
    units::BitsPerSecond,
};
use proptest::prelude::*;

const SECOND_NS: u64 = 1_000_000_000;
const PERIOD_NS: u64 = 8 * SECOND_NS;

/// What the rates have let through since the beginning, in bytes times [`PERIOD_NS`].
struct Course {
    /// From when on, and what rate. Bits per second.
    rates: Vec<(u64, u64)>,
}

impl Course {
    fn allowance(&self, now_ns: u64) -> i128 {
        let ends = self
            .rates
            .iter()
            .skip(1)
            .map(|(begin, _)| *begin)
            .chain([u64::MAX]);
        let pieces = self.rates.iter().zip(ends);
        pieces
            .map(|((begin, bits), end)| {
                i128::from(now_ns.min(end).saturating_sub(*begin)) * i128::from(*bits)
            })
            .sum()
    }
}

#[derive(Clone, Debug)]
struct Case {
    /// Bits per second, of each revision.
    rates: Vec<u64>,
    burst: u64,
    slack_ns: u64,
    /// From publishing a revision to its switch.
    ahead_ns: u64,
    cpus: usize,
    steps: u32,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let rates = prop::collection::vec(log_uniform(10, 38), 2..6);
    let slack = prop_oneof![Just(0), Just(8_000_000_u64)];
    (
        rates,
        log_uniform(11, 24),
        slack,
        log_uniform(10, 27),
        1..4_usize,
        any::<u64>(),
    )
        .prop_map(|(rates, burst, slack_ns, ahead_ns, cpus, seed)| Case {
            rates,
            burst,
            slack_ns,
            ahead_ns: ahead_ns + slack_ns,
            cpus,
            steps: 600,
            seed,
        })
}

const LARGEST: u64 = 1_514;

fn run(case: &Case) -> Result<(), String> {
    let mut draw = Draw(case.seed);
    let rate = |bits| Rate::bytes(BitsPerSecond(bits));
    let begin_ns = SECOND_NS;
    let first = rate(case.rates[0]);
    let mut policy = limit(first, case.burst, case.slack_ns, begin_ns);
    let mut slack_max = u64::from(policy.slack);
    let mut course = Course {
        rates: vec![(begin_ns, case.rates[0])],
    };
    let mut world = World::<8>::new(0, begin_ns);
    let mut cpus = vec![Cpu::default(); case.cpus];
    for revision in 0..case.rates.len() {
        let bits = case.rates[revision];
        if revision != 0 {
            let switch_ns = world.now_ns + case.ahead_ns;
            let now_ns = world.now_ns;
            let times = Times {
                now_ns,
                switch_ns,
                coarse_slack_ns: case.slack_ns,
            };
            policy = policy.revise(rate(bits), case.burst, &times);
            slack_max = slack_max.max(policy.slack.into());
            course.rates.push((switch_ns, bits));
            // The packets that had begun, and some under the revision before its switch.
            let steps = case.steps.into();
            for _ in 0..steps {
                world.now_ns += draw.up_to(case.ahead_ns / steps / 2);
                step(case, &mut draw, &mut world, &mut cpus, &policy);
            }
            world.now_ns = world.now_ns.max(switch_ns);
        }
        // A packet takes three steps: at twice the rate.
        let packet_ns = LARGEST * PERIOD_NS / bits;
        for _ in 0..case.steps {
            world.now_ns += draw.up_to(packet_ns / 6);
            step(case, &mut draw, &mut world, &mut cpus, &policy);
        }
    }
    // For intervals that begin in one revision and end in a later one: what the coarse clock may
    // hide and what is taken off the burst for it differ. Each loses up to two units to rounding.
    let rounding = 2 * case.rates.len() as u64;
    world.journal.check_revised(
        PERIOD_NS,
        |time_ns| course.allowance(time_ns),
        |largest| {
            let late = case.cpus as u64 * largest;
            let over = case.burst + largest + slack_max;
            (over, largest + slack_max + rounding, late)
        },
    )
}

fn step(
    case: &Case,
    draw: &mut Draw,
    world: &mut World<8>,
    cpus: &mut [Cpu],
    policy: &LimitPolicy,
) {
    let index = draw.up_to(cpus.len() as u64 - 1) as usize;
    if cpus[index].idle() {
        cpus[index].begin(policy, Job::Send(1 + draw.up_to(LARGEST - 1)));
    }
    let lag_ns = draw.up_to(case.slack_ns);
    world.step(&mut cpus[index], lag_ns);
}

#[test]
fn a_new_rate_forgives_nothing_and_invents_nothing() {
    for_all(
        "revisions under load",
        level(500, 10_000, 500_000),
        &cases(),
        |case| run(&case),
    );
}

fn mbit(megabits: u64) -> Rate {
    Rate::bytes(BitsPerSecond(megabits * 1_000_000))
}

fn switch(now_ns: u64, switch_ns: u64) -> Times {
    Times {
        now_ns,
        switch_ns,
        coarse_slack_ns: 0,
    }
}

#[test]
fn the_same_rate_again_changes_nothing_but_the_burst() {
    let first = limit(mbit(10), 50_000, 0, 1_000);
    let second = first.revise(mbit(20), 50_000, &switch(2_000, 5_000));
    assert_eq!((second.origin_ns, second.rate_before), (5_000, first.rate));
    // In a hurry: the second revision's switch is still to come.
    let third = second.revise(mbit(20), 60_000, &switch(3_000, 9_000));
    assert_eq!(
        third,
        LimitPolicy {
            horizon: second.horizon + 10_000,
            ..second
        }
    );
    let fourth = third.revise(mbit(20), 60_000, &switch(6_000, 9_000));
    assert_eq!(
        fourth,
        LimitPolicy {
            rate_before: 0,
            ..third
        }
    );
}

#[test]
fn the_coarse_clock_is_not_used_where_it_may_show_a_much_faster_rate() {
    let coarse = Times {
        now_ns: 10_000_000,
        switch_ns: 50_000_000,
        coarse_slack_ns: 8_000_000,
    };
    let fast = LimitPolicy::begin(mbit(10_000), 1_000_000, 0, &coarse);
    let slow = fast.revise(mbit(1), 1_000_000, &coarse);
    assert_eq!((fast.slack, slow.slack), (0, 0));
    let later = Times {
        now_ns: 60_000_000,
        ..coarse
    };
    assert_eq!(slow.revise(mbit(1), 1_000_000, &later).slack, 1_001);
}

#[test]
fn the_line_has_a_corner_and_no_step() {
    let cases = level(1_000, 100_000, 10_000_000);
    let strategy = (
        log_uniform(10, 38),
        log_uniform(10, 38),
        0..1_u64 << 50,
        0..1_u64 << 40,
    );
    for_all(
        "corners of lines",
        cases,
        &strategy,
        |(before, after, switch_ns, apart_ns)| {
            let rate = |bits| Rate::bytes(BitsPerSecond(bits));
            let old = limit(rate(before), 50_000, 0, 0);
            let new = old.revise(rate(after), 50_000, &switch(0, switch_ns));
            let early_ns = switch_ns.saturating_sub(apart_ns);
            let corner = new.line(switch_ns) == old.line(switch_ns);
            // Rounded the other way, before the corner.
            let apart = new.line(early_ns).wrapping_sub(old.line(early_ns));
            if corner && (apart <= 1 || before == after) {
                Ok(())
            } else {
                Err(format!("{apart}"))
            }
        },
    );
}

/// Time until a packet passes, ns, after a busy port went from 10 Gbit/s to 10 Mbit/s by a revision
/// that was `written_ns` in the writing.
fn blackout_ns(switch_after_ns: u64, written_ns: u64) -> u64 {
    let begin_ns = SECOND_NS;
    let old = limit(mbit(10_000), 312_500, 0, begin_ns);
    let new = old.revise(
        mbit(10),
        312_500,
        &switch(begin_ns, begin_ns + switch_after_ns),
    );
    let (clock, time) = (Alone::default(), Time::at(begin_ns));
    let send = |policy: &LimitPolicy, now_ns: u64| {
        time.now_ns.set(now_ns);
        matches!(policy.take(&clock, &time, 1_514), Decision::Pass { .. })
    };
    for now_ns in (begin_ns..begin_ns + written_ns).step_by(600) {
        send(&old, now_ns);
    }
    assert!(clock.load() > 60_000_000, "the port is busy");
    let published_ns = begin_ns + written_ns;
    let waits = (0..100_000).map(|step| step * 1_000_000);
    waits
        .into_iter()
        .find(|wait| send(&new, published_ns + wait))
        .unwrap_or(u64::MAX)
}

/// A revision used to switch when the writing of it began: with 10,000 ports, long before it was
/// in force.
#[test]
fn a_slower_rate_does_not_shut_the_port() {
    const WRITTEN_NS: u64 = 50_000_000;
    let before = blackout_ns(0, WRITTEN_NS);
    let now = blackout_ns(2 * WRITTEN_NS, WRITTEN_NS);
    println!(
        "10 Gbit/s to 10 Mbit/s: shut for {} ms, before {} ms",
        now / 1_000_000,
        before / 1_000_000
    );
    assert!(before > 40 * SECOND_NS, "the control must black out");
    // No longer than the larger of a burst and a packet needs at the new rate.
    assert!(now <= SECOND_NS / 4);
}
