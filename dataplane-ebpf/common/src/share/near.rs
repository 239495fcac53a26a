//! Is a tenant near the end of its part of an uplink? What [`crate::ecn`] marks by where a share is the limit.

use super::{Clocks, Link, ahead, in_force, queue};
use crate::{
    abi::share::{SharePolicy, UplinkPolicy},
    limiter::Clock,
};

/// Asked where nothing of a share waits: half of each horizon, as [`crate::ecn`] says.
const PART: u64 = 2;

/// Looked at beside the decision, which it does not touch: after a packet that passed.
#[inline(always)]
pub fn near<C: Clock, L: Link>(
    (policy, clocks): (&SharePolicy, &Clocks<C>),
    (uplink, link): (&UplinkPolicy, &L),
    now_ns: u64,
) -> bool {
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
