//! Is a tenant near the end of its part of an uplink? What [`crate::ecn`] marks by where a share is the limit.

use super::{Clocks, Link, SharePace, UNIT_SHIFT, ahead, in_force, queue, turn::HELD};
use crate::{
    abi::share::{SharePolicy, UplinkPolicy},
    ecn::QUEUE_NS,
    limiter::Clock,
};

/// Asked where nothing of a share waits: half of each horizon, as [`crate::ecn`] says.
const PART: u64 = 2;

/// Looked at beside the decision, which it does not touch: after a packet that passed, of so many bytes of the link.
#[inline(always)]
pub fn near<C: Clock, L: Link>(
    (policy, clocks): (&SharePolicy, &Clocks<C>),
    (uplink, link): (&UplinkPolicy, &L),
    now_ns: u64,
    bytes: u64,
) -> bool {
    if uplink.horizon_ns != 0 {
        let (_, pace) = in_force(link);
        return has_queue((policy, clocks), &pace, now_ns, bytes);
    }
    if policy.ceiling.limited() {
        let line = policy.ceiling.line(now_ns);
        let backlog = ahead(clocks.ceiling.load(), line);
        if backlog > policy.ceiling.horizon / PART {
            return true;
        }
    }
    let (_, pace) = in_force(link);
    let weight = policy.weight as u64;
    let reached = pace.integral_at(now_ns).0.wrapping_mul(weight);
    let horizon = pace.reach.wrapping_mul(weight);
    if ahead(clocks.borrowed.load(), reached) > horizon / PART {
        return true;
    }
    queue(uplink, link, &pace, now_ns) > uplink.stop / PART
}

/// Where packets wait: had the tenant more of its own before this one than it may have without having too little? That is
/// [`QUEUE_NS`] of its ceiling, or a part of its line's horizon. Who waits for others is not to slow down: they are. Within its
/// guarantee it waits for nobody.
#[inline(always)]
fn has_queue<C: Clock>(
    policy: (&SharePolicy, &Clocks<C>),
    pace: &SharePace,
    now_ns: u64,
    bytes: u64,
) -> bool {
    let (policy, clocks) = policy;
    if policy.ceiling.limited() {
        let backlog = ahead(clocks.ceiling.load(), policy.ceiling.line(now_ns));
        if policy.ceiling.delay_ns(backlog.saturating_sub(bytes)) > QUEUE_NS {
            return true;
        }
    }
    if policy.guarantee.limited() {
        let backlog = ahead(clocks.guarantee.load(), policy.guarantee.line(now_ns));
        if policy.guarantee.delay_ns(backlog.saturating_sub(bytes)) <= QUEUE_NS {
            return false;
        }
    }
    let weight = policy.weight as u64;
    let reached = pace.integral_at(now_ns).0.wrapping_mul(weight);
    let backlog = ahead(clocks.borrowed.load(), reached).saturating_sub(bytes << UNIT_SHIFT);
    let horizon = pace.reach.wrapping_mul(weight);
    backlog > horizon / HELD
}
