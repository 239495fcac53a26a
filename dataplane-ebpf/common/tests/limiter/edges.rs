//! The arithmetic, and limits at the edge of sense.

use crate::{
    Alone, Time, for_all, level, limit,
    schedule::{any_rate, log_uniform},
};
use dataplane_common::{
    abi::LimitPolicy,
    limit::{BURST_MAX, Rate},
    limiter::{Clock as _, Decision, RATE_MAX_PER_SECOND, RATE_SHIFT, scale},
    units::BitsPerSecond,
};
use proptest::prelude::*;

/// 2^64 bytes at 400 Gbit/s: 11.7 years.
const AROUND_NS: u64 = (u64::MAX / 50) + 1;

#[test]
fn scale_is_the_product_of_128_bits() {
    let exact = |a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> RATE_SHIFT) as u64;
    let edges = (0..64)
        .flat_map(|power| [(1_u64 << power) - 1, 1 << power, (1 << power) + 1])
        .chain([u64::MAX - 1, u64::MAX]);
    for a in edges.clone() {
        for b in edges.clone() {
            assert_eq!(scale(a, b), exact(a, b), "{a} · {b}");
        }
    }
    let any = || prop_oneof![any::<u64>(), log_uniform(0, 63)];
    let cases = level(10_000, 1_000_000, 100_000_000);
    for_all("products", cases, &(any(), any()), |(a, b)| {
        if scale(a, b) == exact(a, b) {
            Ok(())
        } else {
            Err(format!("{a} · {b}"))
        }
    });
}

/// The line against the rate as asked for: never above it, and less than one unit and the rate's
/// last digit (3.5 units in a billion seconds) below, at any distance.
#[test]
fn the_line_is_exact_for_years() {
    let cases = level(10_000, 500_000, 20_000_000);
    let strategy = (any_rate(), any::<u64>(), any::<u64>(), log_uniform(0, 60));
    for_all(
        "points of lines",
        cases,
        &strategy,
        |(rate, clock, origin_ns, after_ns)| {
            let policy = LimitPolicy {
                origin_units: clock,
                ..limit(rate, 100_000, 0, origin_ns)
            };
            let Some(now_ns) = origin_ns.checked_add(after_ns) else {
                return Ok(());
            };
            let line = policy.line(now_ns).wrapping_sub(clock);
            let exact = u128::from(rate.units) * u128::from(after_ns) / u128::from(rate.period_ns);
            let missing = (exact as u64).wrapping_sub(line);
            let allowed = 1 + (after_ns >> RATE_SHIFT);
            if missing <= allowed {
                Ok(())
            } else {
                Err(format!("{missing} units below"))
            }
        },
    );
}

fn passes(policy: &LimitPolicy, clock: &Alone, now_ns: u64, units: u64) -> bool {
    matches!(
        policy.take(clock, &Time::at(now_ns), units),
        Decision::Pass { .. }
    )
}

#[test]
fn no_packet_is_larger_than_a_limit_lets_through() {
    let cases = level(1_000, 100_000, 1_000_000);
    let strategy = (any_rate(), 0..100_000_u64, 1..=65_536_u64);
    for_all(
        "packets above the burst",
        cases,
        &strategy,
        |(rate, burst, units)| {
            let policy = limit(rate, burst, 0, 0);
            let clock = Alone::default();
            let mut now_ns = 1;
            for packet in 0..3 {
                if !passes(&policy, &clock, now_ns, units) {
                    return Err(format!("packet {packet} is black-holed"));
                }
                // After the time that it takes at the rate, and a unit for rounding, the queue is empty.
                now_ns += crate::schedule::packet_ns(rate, units + 1);
            }
            Ok(())
        },
    );
}

#[test]
fn a_clock_that_goes_round_is_no_backlog() {
    let rate = Rate::bytes(BitsPerSecond(400_000_000_000));
    let policy = limit(rate, 1_000_000, 0, 0);
    let clock = Alone::default();
    // Busy on both sides of 2^64, with every bound in place.
    for now_ns in AROUND_NS - 1_000..AROUND_NS + 1_000 {
        passes(&policy, &clock, now_ns, 64);
        let backlog = clock.load().wrapping_sub(policy.line(now_ns));
        assert!(backlog <= 1_000_064, "{backlog} at {now_ns} ns");
    }
    // Idle from the beginning for up to 5.8 years, and once more after that.
    for begin_ns in [0, 9 * AROUND_NS / 2] {
        for gap_ns in [1, AROUND_NS / 4, AROUND_NS / 2 - 100_000] {
            let clock = Alone::default();
            clock.fetch_add(policy.line(begin_ns));
            assert!(passes(&policy, &clock, begin_ns, 64));
            assert!(
                passes(&policy, &clock, begin_ns + gap_ns, 64),
                "idle for {gap_ns} ns"
            );
        }
    }
}

#[test]
fn a_limit_never_becomes_no_limit() {
    for units in [0, 1, 7, RATE_MAX_PER_SECOND, u64::MAX] {
        for period_ns in [1, 1_000_000_000, 8_000_000_000] {
            let policy = limit(Rate { units, period_ns }, u64::MAX, 1, 0);
            assert!(policy.limited());
            assert!(policy.horizon < BURST_MAX);
        }
    }
}

#[test]
fn departures_are_in_time_and_never_wrap() {
    let cases = level(10_000, 200_000, 10_000_000);
    let strategy = (any_rate(), log_uniform(10, 40), 0.0..1.0);
    for_all(
        "departure times",
        cases,
        &strategy,
        |(rate, burst, part)| {
            let policy = limit(rate, burst, 0, 0);
            let backlog = (policy.horizon as f64 * part) as u64;
            let delay_ns = policy.delay_ns(backlog) as f64;
            let exact = backlog as f64 * rate.period_ns as f64 / rate.units as f64;
            // Of a burst that lasts longer than 2^44 ns, all are early alike.
            let longest = (1_u64 << 44) as f64 * backlog as f64 / policy.horizon as f64;
            let wanted = exact.min(longest);
            let error = (delay_ns - wanted).abs();
            if error <= 2.0 + wanted * 1e-4 {
                Ok(())
            } else {
                Err(format!("{delay_ns} for {wanted}"))
            }
        },
    );
}
