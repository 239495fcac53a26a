//! The rate itself: a sender that never stops, at every rate and packet size.

use crate::{
    Alone, Draw, Time,
    check::{Asked, Bounds},
    level, limit,
    schedule::packet_ns,
    seed,
};
use dataplane_common::{
    limit::Rate,
    limiter::{Clock as _, Decision},
    units::BitsPerSecond,
};

const SECOND_NS: u64 = 1_000_000_000;

/// Sizes of the packets that a sender sends.
#[derive(Clone, Copy, Debug)]
enum Sizes {
    Always(u64),
    /// 64 B to 64 KB.
    Any,
}

impl Sizes {
    fn draw(self, draw: &mut Draw) -> u64 {
        match self {
            Self::Always(bytes) => bytes,
            Self::Any => 64 + draw.up_to(65_535 - 64),
        }
    }

    fn largest(self) -> u64 {
        if let Self::Always(bytes) = self {
            bytes
        } else {
            65_535
        }
    }
}

/// Sends at twice the rate for `time_ns` or `packets`, whichever ends first; returns the rate's
/// error and the time that it was measured over.
fn flood(
    asked: &Asked,
    slack_ns: u64,
    sizes: Sizes,
    time_ns: u64,
    packets: u64,
    draw: &mut Draw,
) -> (f64, u64) {
    let begin_ns = slack_ns + draw.up_to(u64::from(u32::MAX) * SECOND_NS / 20);
    let policy = limit(asked.rate, asked.burst, slack_ns, begin_ns);
    let (clock, time) = (Alone::default(), Time::at(begin_ns));
    let mut bounds = Bounds::new(asked.rate.period_ns);
    let (mut accepted, mut sent, mut busy_period) = (0, 0, 0);
    let mut first = None;
    let mut last = (begin_ns, 0);
    // In thousandths of a ns: at 400 Gbit/s many packets fall in one.
    let mut now_ps = 0;
    while time.now_ns.get() - begin_ns < time_ns && sent < packets {
        let units = sizes.draw(draw);
        now_ps += draw.up_to(packet_ns(asked.rate, units * 1_000));
        time.now_ns.set(begin_ns + now_ps / 1_000);
        time.lag_ns.set(draw.up_to(slack_ns));
        sent += 1;
        let now_ns = time.now_ns.get();
        let allowance = asked.allowance(now_ns);
        let before = clock.load();
        let judged = match policy.take(&clock, &time, units) {
            Decision::Pass { .. } => {
                busy_period += u64::from(clock.load() - before != units);
                let judged = bounds.passed(allowance, accepted, units, asked.burst + units);
                accepted += units;
                judged
            }
            _ => {
                first.get_or_insert((now_ns, accepted, busy_period));
                last = (now_ns, accepted);
                bounds.refused([allowance; 2], accepted, busy_period, sizes.largest())
            }
        };
        judged.unwrap_or_else(|error| panic!("{asked:?}, {sizes:?}: {error} at {now_ns} ns"));
    }
    let Some(first) = first else { return (0.0, 0) };
    assert_eq!(
        first.2, busy_period,
        "{asked:?} {sizes:?}: the sender was too slow"
    );
    let measured_ns = last.0 - first.0;
    let wanted = asked.rate.units as f64 / asked.rate.period_ns as f64 * measured_ns as f64;
    ((last.1 - first.1) as f64 / wanted - 1.0, measured_ns)
}

#[test]
fn the_rate_is_exact_from_1_kbit_to_400_gbit() {
    let most = level(200_000, 4_000_000, 10_000_000_000);
    let mut draw = Draw(seed());
    println!("SEED: OCTROI_TEST_SEED={}", draw.0);
    let (mut worst, mut runs, mut short) = (0.0_f64, 0, 0);
    for bits in [
        1_000,
        1_007,
        64_000,
        1_000_000,
        33_333_333,
        100_000_000,
        1_000_000_000,
        99_999_999_999,
        400_000_000_000,
    ] {
        let rate = Rate::bytes(BitsPerSecond(bits));
        for sizes in [
            Sizes::Always(64),
            Sizes::Always(1_514),
            Sizes::Always(65_535),
            Sizes::Any,
        ] {
            // As policed, as shaped, and a burst of a few packets.
            for (burst_ns, slack_ns) in [(SECOND_NS / 4, 8_000_000), (SECOND_NS / 20, 0), (0, 0)] {
                let burst = rate.units_in(burst_ns.into()).max(3 * sizes.largest());
                let asked = Asked { rate, burst };
                let packet = packet_ns(rate, sizes.largest());
                let least_ns = (5 * SECOND_NS).max(400 * packet);
                // Until the first refusal, the burst is sent too: at twice the rate.
                let burst_ns = 2 * packet_ns(rate, burst);
                let (error, measured_ns) = flood(
                    &asked,
                    slack_ns,
                    sizes,
                    2 * burst_ns + least_ns,
                    most,
                    &mut draw,
                );
                runs += 1;
                if measured_ns < least_ns {
                    short += 1; // Too many packets for this level; the bounds have held all the same.
                    continue;
                }
                worst = worst.max(error.abs());
                assert!(error.abs() <= 0.005, "{bits} bit/s, {sizes:?}: {error:+.5}");
            }
        }
    }
    println!(
        "worst rate error {:.4} % ({short} of {runs} runs cut short)",
        worst * 100.0
    );
    println!("CASES: limiter steady rates: {}", runs - short);
}
