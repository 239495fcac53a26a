//! What waits at an uplink for its departure, by when it departs; and so what stands before the link.
//!
//! What passed and is not carried yet ([`super::queue`]) is in two places: some of it still waits in an fq qdisc, and the rest
//! has departed and stands before the link. No program runs behind the qdisc. But each departure was said before, so that what
//! waits is the sum of what departs later: it is counted by slices of time.
//!
//! Invariants, tested in `tests/share`
//! - A slice is emptied by who begins a period, when it has gone by: what is added to it meanwhile is of its next turn.
//! - A departure is counted at most [`AHEAD`] slices away, and a period begins within the rest of them; else a slice that is
//!   emptied holds bytes of two turns. Then what stands is told too large, once, and packets wait for their slots.

use super::Link;
use crate::{
    abi::share::{UplinkPolicy, UplinkShare},
    limiter::Clock,
};

/// Slices ahead of now in which departures are counted: what waits for longer is counted in the last of them.
pub const AHEAD: u64 = 48;

/// Slices that a longest wait has, at most: some are left for periods that begin late.
#[cfg(feature = "std")]
const WAITS: u64 = 44;

/// The shortest slice is 2^this ns, half a millisecond: an eighth of a period.
#[cfg(feature = "std")]
const SHIFT_MIN: u32 = 19;

/// Digits of a part of a slice, fewer than a slice has.
const PART_SHIFT: u32 = 16;

/// How long slices are where a packet waits for at most `longest_ns`.
#[cfg(feature = "std")]
pub fn slice_shift(longest_ns: u64) -> u32 {
    let mut shift = SHIFT_MIN;
    while longest_ns >> shift >= WAITS {
        shift += 1;
    }
    shift
}

/// Counts `bytes` that depart at `departs_ns`.
#[inline(always)]
pub fn note<L: Link>(
    uplink: &UplinkPolicy,
    link: &L,
    (now_ns, departs_ns): (u64, u64),
    bytes: u64,
) {
    let shift = uplink.slice_shift & 63;
    let (now, at) = (now_ns >> shift, departs_ns >> shift);
    let last = now + AHEAD;
    let at = if at > last { last } else { at };
    // What departs within this slice is as good as gone.
    if at > now {
        link.due(at % UplinkShare::SLICES).fetch_add(bytes);
    }
}

/// Bytes that wait at `now_ns`; slices that have gone by since `from_ns` are emptied. Only who begins a period asks.
#[inline(always)]
pub fn waiting<L: Link>(uplink: &UplinkPolicy, link: &L, from_ns: u64, now_ns: u64) -> u64 {
    let shift = uplink.slice_shift & 63;
    let (from, now) = (from_ns >> shift, now_ns >> shift);
    let mut waiting = 0_u64;
    let mut slice = 0;
    while slice < UplinkShare::SLICES {
        let word = link.due((from + slice) % UplinkShare::SLICES);
        let bytes = word.load();
        // Without a branch, for the verifier: all ones for a slice that has gone by.
        let gone = ((from + slice).wrapping_sub(now) >> 63).wrapping_neg();
        word.fetch_add((bytes & gone).wrapping_neg());
        waiting += bytes & !gone;
        slice += 1;
    }
    // Of this slice a part has departed.
    let gone = (now_ns & ((1 << shift) - 1)) >> (shift.wrapping_sub(PART_SHIFT) & 63);
    let this = link.due(now % UplinkShare::SLICES).load();
    waiting.saturating_sub((this * gone) >> PART_SHIFT)
}
