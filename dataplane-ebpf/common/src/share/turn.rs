//! When a packet leaves that is over its tenant's share, where an fq qdisc can hold it.
//!
//! A packet is booked when it comes, as where nothing can wait, and each of its clocks says when it would have paid for it:
//! - the guarantee's, `backlog / guarantee`;
//! - the tenant's line, `horizon · backlog / what the line gives in a horizon`;
//! - the link's, its *slot*: what passed and is not carried yet, at the link's rate.
//!
//! It is paid for by the guarantee if that lets it leave first. Else it leaves when its line says, but no earlier than its
//! slot and no later than a period behind it: a link that has room does not wait for a line whose α is too low.
//!
//! Invariants, tested in `tests/share`
//! - What is borrowed is at most the line and one horizon of it ([`super::borrow`]), as everywhere.
//! - Slots follow each other at the link's rate. What is borrowed departs in its slot or within a period and
//!   [`ORDER`] behind it; what is guaranteed may be before its slot by a horizon. So before the link there is at most: the
//!   guarantees' horizon, a period and a part, and a packet of each tenant and CPU.
//! - Who goes no further than its guarantee waits for nobody but itself.
//! - What had to wait leaves in the order in which it came, but where α rose by so much at once that the order would hold
//!   it for longer than [`ORDER`].
//! - What is thin leaves now: it is booked as all else, and half of its tenant's pace at most.

use super::{Asked, Clocks, Link, Paid, Refused, Taken, ahead, borrow_from, less, mark, queue};
use crate::{
    abi::share::{SharePolicy, UplinkPolicy},
    limiter::{At, Clock, Decision},
};

/// By this part of a period a packet may leave later than its turn, so as not to overtake another one.
const ORDER: u64 = 4;

/// A tenant whose line holds packets back for more than this part of the horizon has too little.
const HELD: u64 = 8;

/// No time: it may not leave at all.
const NEVER: u64 = u64::MAX;

/// Digits of a part of a horizon.
const PART_SHIFT: u32 = 15;

/// Takes a packet from what lets it leave first.
#[inline(always)]
pub(super) fn take<C: Clock, L: Link>(
    (policy, clocks): (&SharePolicy, &Clocks<C>),
    (uplink, link): (&UplinkPolicy, &L),
    asked: &Asked,
) -> Result<Taken, Refused> {
    let line_ns = line_ns(policy, clocks, uplink, asked);
    if line_ns > uplink.horizon_ns / HELD {
        mark(policy, clocks, link, asked.period);
    }
    let ahead_of_link = queue(uplink, link, &asked.pace, asked.now_ns);
    let slot_ns = if ahead_of_link > less(uplink.stop, asked.fat) {
        NEVER
    } else {
        (ahead_of_link * uplink.ns_per_byte) >> 20
    };
    let turn_ns = turn_ns(line_ns, slot_ns, uplink.period_ns);
    if policy.guarantee.limited() {
        let line = policy.guarantee.line(asked.now_ns);
        let backlog = ahead(clocks.guarantee.load(), line);
        let own =
            backlog <= policy.guarantee.horizon && policy.guarantee.delay_ns(backlog) <= turn_ns;
        if own
            && let Decision::Pass { backlog, .. } =
                (policy.guarantee).take(&clocks.guarantee, &At(asked.now_ns), asked.bytes)
        {
            link.guaranteed().fetch_add(asked.bytes);
            return Ok(Taken {
                paid: Paid::Guarantee,
                departs_ns: asked.now_ns + policy.guarantee.delay_ns(backlog),
            });
        }
    }
    borrow_from((policy, clocks), (uplink, link), asked)?;
    // Where another CPU was in between, there was room all the same: it leaves at the end.
    let turn_ns = if turn_ns == NEVER {
        uplink.horizon_ns
    } else {
        turn_ns
    };
    Ok(Taken {
        paid: Paid::Borrowed,
        departs_ns: asked.now_ns + turn_ns,
    })
}

/// When the line and the link let a packet leave, ns from now.
#[inline(always)]
const fn turn_ns(line_ns: u64, slot_ns: u64, period_ns: u64) -> u64 {
    if line_ns == NEVER || slot_ns == NEVER {
        return NEVER;
    }
    let latest = slot_ns + period_ns;
    if line_ns < slot_ns {
        slot_ns
    } else if line_ns < latest {
        line_ns
    } else {
        latest
    }
}

/// When the tenant's line reaches what it has borrowed, ns from now.
#[inline(always)]
fn line_ns<C: Clock>(
    policy: &SharePolicy,
    clocks: &Clocks<C>,
    uplink: &UplinkPolicy,
    asked: &Asked,
) -> u64 {
    let weight = policy.weight as u64;
    let reached = asked.pace.integral_at(asked.now_ns).0.wrapping_mul(weight);
    let horizon = asked.pace.reach.wrapping_mul(weight);
    let backlog = ahead(clocks.borrowed.load(), reached);
    if backlog == 0 {
        return 0;
    }
    if backlog > less(horizon, asked.fat) {
        return NEVER;
    }
    let part = match backlog.checked_div(horizon >> PART_SHIFT) {
        Some(part) => part,
        None => 1 << PART_SHIFT,
    };
    (part * uplink.horizon_ns) >> PART_SHIFT
}

/// The departure of a packet that waits until `departs_ns`, not before the one before it.
#[inline(always)]
pub(super) fn in_order<C: Clock>(
    clocks: &Clocks<C>,
    uplink: &UplinkPolicy,
    departs_ns: u64,
) -> u64 {
    let last = clocks.departs.load();
    let by = ahead(last, departs_ns);
    if by != 0 && by <= uplink.period_ns / ORDER {
        return last;
    }
    // Of two CPUs one is the last: nothing but an order rests on it.
    clocks.departs.compare_exchange(last, departs_ns);
    departs_ns
}
