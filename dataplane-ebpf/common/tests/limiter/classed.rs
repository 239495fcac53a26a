//! When a packet's class is asked for, and that it changes nothing else.

use super::{Time, for_all, limit};
use crate::harness::{Alone, level};
use dataplane_common::{abi::shape, limit::Rate, limiter::Decision, units::BitsPerSecond};
use proptest::prelude::*;
use std::cell::Cell;

#[derive(Clone, Debug)]
struct Case {
    bits: u64,
    burst: u64,
    slack_ns: u64,
    waits: bool,
    /// ns since the last one, bytes, what its flow is, and how far the coarse clock lags, in 256ths of the most.
    packets: Vec<(u64, u64, bool, u64)>,
}

fn cases() -> impl Strategy<Value = Case> {
    let packet = (0..3_000_000_u64, 60..65_536_u64, any::<bool>(), 0..=256_u64);
    (
        1_000_000..10_000_000_000_u64,
        2_000..1_000_000_u64,
        prop_oneof![Just(0), Just(8_000_000_u64)],
        any::<bool>(),
        prop::collection::vec(packet, 1..200),
    )
        .prop_map(|(bits, burst, slack_ns, waits, packets)| Case {
            bits,
            burst,
            slack_ns,
            waits,
            packets,
        })
}

fn check(case: &Case) -> Result<(), String> {
    let began_ns = 1_000_000_000;
    let shape = if case.waits {
        shape::EDT
    } else {
        shape::POLICE
    };
    let limit = limit(
        Rate::bytes(BitsPerSecond(case.bits)),
        case.burst,
        case.slack_ns,
        began_ns,
    )
    .shaped(shape);
    if case.waits && limit.slack != 0 {
        return Err("where packets wait, the exact clock is read".into());
    }
    // What a real queue would hold, reckoned apart from the limiter's own arithmetic.
    let line = |at_ns: u64| (u128::from(at_ns - began_ns) * u128::from(limit.rate)) >> 58;
    let clock = Alone::default();
    let mut stands = 0_u128;
    let mut now_ns = began_ns + case.slack_ns;
    for (after_ns, bytes, fat, lag) in &case.packets {
        now_ns += after_ns;
        let time = Time::at(now_ns);
        time.lag_ns.set(case.slack_ns * lag / 256);
        let exact = limit.slack == 0;
        let looked_ns = if exact {
            now_ns
        } else {
            now_ns - time.lag_ns.get()
        };
        let seen = stands.saturating_sub(line(looked_ns));
        let easy = if exact {
            0
        } else {
            u128::from(limit.horizon / 8)
        };
        let told = Cell::new(None);
        let decision = limit.take_classed(&clock, &time, *bytes, |matters| {
            told.set(Some(matters));
            u64::from(*fat) & matters
        });
        if told.get() != Some(u64::from(seen > easy)) {
            return Err(format!("{seen} over {easy}, and told {told:?}"));
        }
        let horizon = if *fat && seen > easy {
            limit.horizon - limit.horizon / 8
        } else {
            limit.horizon
        };
        // Over it by the coarse clock, the exact one decides.
        let backlog = stands.saturating_sub(line(now_ns));
        let passes = seen <= u128::from(horizon) || backlog <= u128::from(horizon);
        if passes != matches!(decision, Decision::Pass { .. }) {
            return Err(format!("{backlog} of {horizon}: {decision:?}"));
        }
        if passes {
            let at_ns = if seen <= u128::from(horizon) {
                looked_ns
            } else {
                now_ns
            };
            stands = stands.max(line(at_ns)) + u128::from(*bytes);
        }
    }
    Ok(())
}

#[test]
fn a_class_is_asked_for_where_it_matters_and_decides_what_it_did() {
    for_all(
        "classes that are asked for",
        level(200, 2_000, 100_000),
        &cases(),
        |case| check(&case),
    );
}
