//! When a packet leaves that is over its tenant's share, where an fq qdisc can hold it.
//!
//! A packet is booked when it comes, as where nothing can wait, and each of its clocks says when it would have paid for it:
//! - the guarantee's, `backlog / guarantee`;
//! - the tenant's line, `horizon · backlog / what the line gives in a horizon`;
//! - the link's, its *slot*: what passed and is not carried yet, at the link's rate.
//!
//! It is paid for by the guarantee if that lets it leave first. Else it leaves when its line says, within reason:
//! - **Before its slot** as far as little stands before the link ([`super::due`]): with nothing there it waits for its line alone, with
//!   [`UplinkPolicy::early`] there for its slot. So who keeps to its line does not wait behind what others have waiting.
//! - **Behind its slot** by no more than half a period: a link that has room does not wait for a line whose α is too low.
//!
//! Invariants, tested in `tests/share`
//! - What is borrowed is at most the line and one horizon of it ([`super::borrow`]), as everywhere.
//! - Slots follow each other at the link's rate. What is borrowed departs within half a period and [`ORDER`] behind its slot; what is
//!   guaranteed may be before its slot by a horizon, and what is borrowed as far as `early` bytes stand before the link. So there
//!   stand at most: the guarantees' horizon, a period and a part, and a packet of each tenant and CPU.
//! - Who goes no further than its guarantee waits for nobody but itself.
//! - What had to wait leaves in the order in which it came, but where α rose, or what stands before the link fell, by so much at
//!   once that the order would hold it for longer than [`ORDER`].
//! - What is thin leaves now: it is booked as all else, and half of its tenant's pace at most.

use super::{
    Asked, Clocks, Link, Paid, Refused, Taken, ahead, borrow_from, due, less, mark, queue,
};
use crate::{
    abi::share::{SharePolicy, UplinkPolicy},
    limiter::{At, Clock, Decision},
};

/// By this part of a period a packet may leave later than its turn, so as not to overtake another one.
const ORDER: u64 = 4;

/// A tenant whose line holds packets back for more than this part of the horizon has too little; and it is told so
/// ([`super::near`]): one that slowed down before would not count among those who have too little.
pub(super) const HELD: u64 = 8;

/// By this part of a period a packet may leave behind its slot.
const LATE: u64 = 2;

/// No time: it may not leave at all.
const NEVER: u64 = u64::MAX;

/// Digits of a part of a horizon.
const PART_SHIFT: u32 = 15;

/// Takes a packet from what lets it leave first; `ceiling_ns` is when its tenant's ceiling does, ns from now.
#[inline(always)]
pub(super) fn take<C: Clock, L: Link>(
    (policy, clocks): (&SharePolicy, &Clocks<C>),
    (uplink, link): (&UplinkPolicy, &L),
    asked: &Asked,
    ceiling_ns: u64,
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
    let turn_ns = turn_ns(uplink, link, asked, (line_ns, slot_ns));
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
            let waits_ns = policy.guarantee.delay_ns(backlog).max(ceiling_ns);
            return Ok(Taken {
                paid: Paid::Guarantee,
                departs_ns: departs((clocks, uplink, link), asked, waits_ns),
            });
        }
    }
    borrow_from((policy, clocks), (uplink, link), asked)?;
    // Where another CPU was in between, there was room all the same: it leaves at the end.
    let (turn_ns, slot_ns) = if turn_ns == NEVER {
        (uplink.horizon_ns, 0)
    } else {
        (turn_ns, slot_ns)
    };
    let waits_ns = turn_ns.max(ceiling_ns);
    let departs_ns = departs((clocks, uplink, link), asked, waits_ns);
    let waits_ns = departs_ns - asked.now_ns;
    if waits_ns < slot_ns {
        let bytes = part(asked.bytes, slot_ns - waits_ns, slot_ns);
        link.early().fetch_add(bytes);
    }
    Ok(Taken {
        paid: Paid::Borrowed,
        departs_ns,
    })
}

/// When a packet departs that is to wait for `waits_ns`; what is thin departs now. What waits is counted.
#[inline(always)]
fn departs<C: Clock, L: Link>(
    (clocks, uplink, link): (&Clocks<C>, &UplinkPolicy, &L),
    asked: &Asked,
    waits_ns: u64,
) -> u64 {
    let now_ns = asked.now_ns;
    if !asked.fat {
        return now_ns;
    }
    let departs_ns = in_order(clocks, uplink, now_ns + waits_ns);
    due::note(uplink, link, (now_ns, departs_ns), asked.bytes);
    departs_ns
}

/// When the line and the link let a packet leave, ns from now.
#[inline(always)]
fn turn_ns<L: Link>(
    uplink: &UplinkPolicy,
    link: &L,
    asked: &Asked,
    (line_ns, slot_ns): (u64, u64),
) -> u64 {
    if line_ns == NEVER || slot_ns == NEVER {
        return NEVER;
    }
    if line_ns < slot_ns {
        let stands = asked.pace.stands.wrapping_add(link.early().load());
        let stands = if stands < uplink.early {
            stands
        } else {
            uplink.early
        };
        let earliest = part(slot_ns, stands, uplink.early);
        return if line_ns < earliest {
            earliest
        } else {
            line_ns
        };
    }
    let latest = slot_ns + uplink.period_ns / LATE;
    if line_ns < latest { line_ns } else { latest }
}

/// `whole · of / by`; the whole for a `by` of 0. A slot is at most 2^32 ns of four periods, and a part of a link's bytes in a period: the
/// product has 58 bits at the most.
#[inline(always)]
const fn part(whole: u64, of: u64, by: u64) -> u64 {
    match whole.wrapping_mul(of).checked_div(by) {
        Some(part) => part,
        None => whole,
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

/// The departure of a packet that may leave at `departs_ns`: not before the one before it, where that costs it no more than a part
/// of a period.
#[inline(always)]
fn in_order<C: Clock>(clocks: &Clocks<C>, uplink: &UplinkPolicy, departs_ns: u64) -> u64 {
    let last = clocks.departs.load();
    let by = ahead(last, departs_ns);
    if by != 0 && by <= uplink.period_ns / ORDER {
        return last;
    }
    // Of two CPUs one is the last: nothing but an order rests on it.
    clocks.departs.compare_exchange(last, departs_ns);
    departs_ns
}
