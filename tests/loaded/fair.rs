//! Equal parts in the loaded programs: who has had its part is refused, who has not passes, and what is refused is booked nowhere.

use crate::thin::{BURST, Became, CEILING, Port, frame};
use crate::{EPOCH, dice, kernel, now_ns, place};
use anyhow::{Context as _, Result, ensure};
use dataplane::{attach::Mechanism, maps::Raw};
use dataplane_common::{
    abi::{
        LimitPolicy, TO_TENANT, shape,
        share::{
            ShareClocks, SharePolicy, UplinkPolicy, UplinkShare, share_clocks_index, share_index,
            uplink_index, uplink_share_index,
        },
    },
    limit::Times,
    share::{UNIT_SHIFT, ask::Ask},
    units::BitsPerSecond,
};
use std::time::{Duration, Instant};

/// Frames of 1,514 bytes that leave in this time at the test's ceiling: one.
const TURN: Duration = Duration::from_millis(13);

/// What bounds the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// Their port's ceiling.
    Port,
    /// Their tenant's, where what is over a share waits.
    Tenant,
}

/// Has the port share an uplink instead of a ceiling of its own.
fn share(port: &mut Port) -> Result<()> {
    let (set, sizes) = (EPOCH.policy_set(), port.sizes);
    let at = sizes.port(set, port.slot);
    let maps = &mut port.kernel.maps;
    let mut policy = maps.ports.get(at)?;
    policy.set_limits(TO_TENANT, [LimitPolicy::default(); 2]);
    policy.shape[TO_TENANT as usize] = shape::EDT;
    policy.share = 1;
    maps.ports.set(at, policy)?;
    let capacity = BitsPerSecond(1_000_000_000);
    let mut uplink = UplinkPolicy::new(capacity, (0, 0), 1).queued(capacity, BitsPerSecond(0));
    let begun_ns = now_ns();
    let ask = Ask {
        guarantee: None,
        ceiling: Some((CEILING, BURST)),
        weight: 1,
        uplink: 0,
        horizon_ns: uplink.horizon_ns,
        price: 0,
    };
    let times = Times {
        now_ns: begun_ns,
        switch_ns: begun_ns,
        coarse_slack_ns: 0,
    };
    let share = SharePolicy::new(&ask, None, &ShareClocks::default(), &times);
    // α is what the link has, and stays so.
    let mut words = UplinkShare::default();
    words.lines[0].pace.origin_ns = begun_ns;
    words.lines[0].pace.alpha = uplink.rate;
    words.lines[0].pace.reach = uplink.carries(uplink.horizon_ns) << UNIT_SHIFT;
    uplink.period_ns = 1 << 60;
    maps.shares
        .set(share_index(sizes.slots, set, 0, TO_TENANT), share)?;
    maps.uplinks
        .set(uplink_index(set, 0, TO_TENANT), Raw(uplink), 0)?;
    maps.uplink_share
        .set(uplink_share_index(0, TO_TENANT), Raw(words), 0)?;
    Ok(())
}

/// The clock that a refused packet must not move.
fn clock(port: &Port, bound: Bound) -> Result<u64> {
    let maps = &port.kernel.maps;
    let shared = || maps.share_clocks.get(share_clocks_index(0, TO_TENANT));
    Ok(match bound {
        Bound::Port => {
            let clock = port.sizes.clock(port.slot, TO_TENANT, 0);
            maps.clocks.get(&clock, 0)?
        }
        Bound::Tenant => shared()?.ceiling,
    })
}

/// One flow fills the queue; then another one comes, whose frames are sent after the first one's each time.
fn case(mechanism: Mechanism, bound: Bound) -> Result<[u64; 2]> {
    let (first, second) = (frame(6, 1_000, 1_514), frame(6, 1_001, 1_514));
    let mut port = Port::new(mechanism, shape::HTB)?;
    if bound != Bound::Port {
        share(&mut port)?;
    }
    let mut filled = 0;
    while port.send(&first)? != Became::Dropped {
        filled += 1;
        ensure!(filled < 200, "nothing is refused");
    }
    let mut passed = [0; 2];
    let mut refused = 0;
    let mut turns = 0;
    for _ in 0..1_000 {
        let slept = Instant::now();
        std::thread::sleep(TURN);
        if slept.elapsed() > TURN * 3 / 2 {
            // The machine is busy: more than a frame has left. Full again, and once more.
            while port.send(&first)? != Became::Dropped {}
            continue;
        }
        if turns == 40 {
            break;
        }
        turns += 1;
        let before = clock(&port, bound)?;
        if port.send(&first)? == Became::Dropped {
            let after = clock(&port, bound)?;
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
    ensure!(
        turns == 40,
        "the machine is too busy: {turns} turns of 1,000 were in time"
    );
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
        for bound in [Bound::Port, Bound::Tenant] {
            for _ in 0..rounds {
                let passed = place::alone(|| case(mechanism, bound))
                    .with_context(|| format!("{mechanism:?}, {bound:?}"))?;
                println!("{mechanism:?}, {bound:?}: {passed:?} frames of both passed");
            }
        }
    }
    println!("CASES: loaded parts of flows: {}", 2 * rounds);
    Ok(())
}
