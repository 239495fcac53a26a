//! Equal parts in the loaded programs: who has had its part is refused, who has not passes, and what is refused is booked nowhere.

use crate::thin::{Became, Port, frame};
use crate::{dice, kernel, place};
use anyhow::{Context as _, Result, ensure};
use dataplane::attach::Mechanism;
use dataplane_common::abi::{TO_TENANT, shape};
use std::time::Duration;

/// Frames of 1,514 bytes that leave in this time at the test's ceiling: one.
const TURN: Duration = Duration::from_millis(13);

/// One flow fills the queue; then another one comes, whose frames are sent after the first one's each time.
fn case(mechanism: Mechanism) -> Result<[u64; 2]> {
    let (first, second) = (frame(6, 1_000, 1_514), frame(6, 1_001, 1_514));
    let mut port = Port::new(mechanism, shape::HTB)?;
    let mut filled = 0;
    while port.send(&first)? != Became::Dropped {
        filled += 1;
        ensure!(filled < 200, "nothing is refused");
    }
    let clock = port.sizes.clock(port.slot, TO_TENANT, 0);
    let mut passed = [0; 2];
    let mut refused = 0;
    for _ in 0..40 {
        std::thread::sleep(TURN);
        let before = port.kernel.maps.clocks.get(&clock, 0)?;
        if port.send(&first)? == Became::Dropped {
            let after = port.kernel.maps.clocks.get(&clock, 0)?;
            ensure!(
                before == after,
                "{before} became {after} by a packet that was refused"
            );
            refused += 1;
        } else {
            passed[0] += 1;
        }
        passed[1] += u64::from(port.send(&second)? != Became::Dropped);
    }
    // Without parts the first one has all: there is room for one frame, and it comes first.
    ensure!(
        passed[1] >= 15 && passed[1] >= 2 * passed[0] && refused >= 15,
        "{filled} filled it; then {passed:?} of both passed, {refused} of the first were refused"
    );
    Ok(passed)
}

#[test]
fn who_has_had_its_part_is_refused_and_who_comes_has_one() -> Result<()> {
    const TEST: &str = "who_has_had_its_part_is_refused_and_who_comes_has_one";
    if !place::can_run(TEST) {
        return Ok(());
    }
    let rounds = dice::cases(1, 3, 20);
    for mechanism in kernel::mechanisms() {
        for _ in 0..rounds {
            let passed =
                place::alone(|| case(mechanism)).with_context(|| format!("{mechanism:?}"))?;
            println!("{mechanism:?}: {passed:?} frames of both passed");
        }
    }
    println!("CASES: loaded parts of flows: {rounds}");
    Ok(())
}
