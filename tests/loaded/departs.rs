//! What is over a share and waits, in the loaded programs: the departure time that a packet is given.

use crate::{EPOCH, kernel, now_ns, place, plain_port};
use crate::{fixtures::ports::slot, kernel::Kernel, oracle::host::Way, thin::frame};
use anyhow::{Context as _, Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions};
use dataplane::{attach::Mechanism, maps::Raw};
use dataplane_common::{
    abi::{
        TO_TENANT, shape,
        share::{
            ShareClocks, SharePolicy, UplinkPolicy, UplinkShare, share_index, uplink_index,
            uplink_share_index,
        },
    },
    limit::Times,
    share::ask::Ask,
    units::BitsPerSecond,
};

/// `tstamp` in `struct __sk_buff`.
const TSTAMP: usize = 152;
/// `TC_ACT_SHOT`.
const DROP: u32 = 2;
const FRAME_BYTES: u64 = 1_514;
/// So slow that the test's frames take seconds, and the test takes milliseconds.
const CAPACITY: BitsPerSecond = BitsPerSecond(2_000_000);
const GUARANTEE: BitsPerSecond = BitsPerSecond(1_000_000);

/// What became of frames of one flow until one was refused.
struct Departures {
    uplink: UplinkPolicy,
    /// 0: it left at once.
    found: Vec<u64>,
    begun_ns: u64,
    took_ns: u64,
}

/// Where as much stands before the link already as may because of what left early, or nothing.
fn departures(
    mechanism: Mechanism,
    guarantee: Option<BitsPerSecond>,
    alpha: u64,
    stands: bool,
) -> Result<Departures> {
    let (plain, gate) = plain_port()?;
    let mut policy = gate.ports.get(&slot::PLAIN).context("no such port")?.policy;
    let (set, slots) = (EPOCH.policy_set(), gate.sizes.slots);
    let at = gate.sizes.port(set, slot::PLAIN);
    let mut kernel = Kernel::load(gate, EPOCH, mechanism)?;
    policy.shape[TO_TENANT as usize] = shape::EDT;
    policy.share = 1;
    kernel.maps.ports.set(at, policy)?;

    let sum = guarantee.unwrap_or(BitsPerSecond(0));
    let uplink = UplinkPolicy::new(CAPACITY, (0, 0), 1).queued(CAPACITY, sum);
    let ask = Ask {
        guarantee,
        ceiling: None,
        weight: 1,
        uplink: 0,
        horizon_ns: uplink.horizon_ns,
        price: 0,
    };
    let begun_ns = now_ns();
    let times = Times {
        now_ns: begun_ns,
        switch_ns: begun_ns,
        coarse_slack_ns: 0,
    };
    let share = SharePolicy::new(&ask, None, &ShareClocks::default(), &times);
    let maps = &mut kernel.maps;
    maps.shares
        .set(share_index(slots, set, 0, TO_TENANT), share)?;
    maps.uplinks
        .set(uplink_index(set, 0, TO_TENANT), Raw(uplink), 0)?;
    // A period that has just begun: α stays as it is while the test runs.
    let mut words = UplinkShare::default();
    words.lines[0].pace.origin_ns = begun_ns;
    words.lines[0].pace.alpha = alpha;
    // Long lines: what is borrowed waits for the link alone.
    words.lines[0].pace.reach = if alpha == 0 { 0 } else { 1 << 40 };
    words.lines[0].pace.stands = if stands { uplink.early } else { 0 };
    maps.uplink_share
        .set(uplink_share_index(0, TO_TENANT), Raw(words), 0)?;

    let way = Way {
        direction: TO_TENANT,
        ifindex: plain,
        ..Way::default()
    };
    let bulk = frame(6, 1_000, FRAME_BYTES as usize);
    let mut found = Vec::new();
    for _ in 0..1_000 {
        let context = kernel::context(&way);
        let mut out = [0; 192];
        let ran = kernel.program(TO_TENANT)?.test_run(TestRunOptions {
            data_in: Some(&bulk),
            ctx_in: Some(&context),
            ctx_out: Some(&mut out),
            ..TestRunOptions::default()
        })?;
        if ran.return_value == DROP {
            let took_ns = now_ns() - begun_ns;
            ensure!(took_ns < uplink.period_ns, "too slow: {took_ns} ns");
            return Ok(Departures {
                uplink,
                found,
                begun_ns,
                took_ns,
            });
        }
        found.push(u64::from_ne_bytes(out[TSTAMP..TSTAMP + 8].try_into()?));
    }
    anyhow::bail!("nothing is refused")
}

/// Departures follow each other by a frame's time at `rate`, and reach to the horizon, or to what is fat's of it.
fn spaced(what: &str, found: &[u64], rate: BitsPerSecond, horizon_ns: u64) -> Result<()> {
    let waiting: Vec<u64> = found
        .iter()
        .copied()
        .filter(|departs| *departs != 0)
        .collect();
    let (first, last) = (
        *waiting.first().context("nothing waits")?,
        *waiting.last().context("nothing waits")?,
    );
    let time_ns = FRAME_BYTES * 8_000_000_000 / rate.0;
    for pair in waiting.windows(2) {
        let gap = pair[1].wrapping_sub(pair[0]);
        // A clock counts whole bytes.
        ensure!(
            gap.abs_diff(time_ns) <= 20_000,
            "{what}: {gap} ns between two frames, not {time_ns}"
        );
    }
    let span = last - first;
    ensure!(
        span + 4 * time_ns >= horizon_ns / 8 * 7 && span <= horizon_ns + time_ns,
        "{what}: departures over {span} ns of {horizon_ns}"
    );
    Ok(())
}

/// With nothing before the link its first frame leaves at once, and each waits for the part of its slot that the early ones have
/// filled of what may stand there: a half after eleven frames where sixteen may, all of it in the end.
fn early(departures: &Departures) -> Result<()> {
    let frame_ns = (FRAME_BYTES * 8_000_000_000 / CAPACITY.0) as f64;
    let may_stand = departures.uplink.period_ns as f64 / 2.0 / frame_ns;
    let mut stands = 0.0;
    for (number, departs_ns) in departures.found.iter().enumerate() {
        let part = f64::min(stands / may_stand, 1.0);
        let turn_ns = number as f64 * frame_ns * part;
        let found_ns = departs_ns.saturating_sub(departures.begun_ns) as f64;
        // Slots are nearer by what the link has carried meanwhile; thin are the first frames.
        let apart_ns = (departures.took_ns + 1_000_000) as f64;
        ensure!(
            number < 8 || (found_ns - turn_ns).abs() <= apart_ns,
            "frame {number}: leaves after {found_ns} ns, not {turn_ns}; {} ns for all",
            departures.took_ns
        );
        stands += match (number, departs_ns) {
            // The first had nothing before it: it left in its slot.
            (0, _) => 0.0,
            (_, 0) => 1.0,
            _ => 1.0 - part,
        };
    }
    ensure!(
        departures.found.len() as f64 > 2.0 * may_stand && stands > 0.85 * may_stand,
        "{} frames are too few",
        departures.found.len()
    );
    Ok(())
}

#[test]
fn what_is_over_a_share_is_given_its_departure() -> Result<()> {
    const TEST: &str = "what_is_over_a_share_is_given_its_departure";
    if !place::can_run(TEST) {
        return Ok(());
    }
    let mut cases = 0;
    for mechanism in kernel::mechanisms() {
        // Nothing is left by anybody: the guarantee alone, in its own time.
        let alone = place::alone(|| departures(mechanism, Some(GUARANTEE), 0, true))?;
        let paced: Vec<u64> = alone.found.iter().copied().skip(3).collect();
        spaced("guarantee", &paced, GUARANTEE, alone.uplink.horizon_ns)?;
        // Nothing is guaranteed, and there is a queue: the link's slots, a frame after the other.
        let slots = place::alone(|| departures(mechanism, None, alone.uplink.rate, true))?;
        ensure!(
            slots.found[0] == 0,
            "the first frames of a flow are thin, and leave now"
        );
        let time_ns = slots.uplink.horizon_ns + slots.uplink.period_ns;
        spaced("slots", &slots.found, CAPACITY, time_ns)?;
        // The same without a queue.
        let free = place::alone(|| departures(mechanism, None, alone.uplink.rate, false))?;
        early(&free)?;
        cases += alone.found.len() + slots.found.len() + free.found.len();
    }
    println!("CASES: loaded departures: {cases}");
    Ok(())
}
