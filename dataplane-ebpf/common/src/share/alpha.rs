//! How α is found: once a period, by the first packet past its end, from four sums and no walk.
//!
//! `f(α) = Σ min(demand_i, guarantee_i + weight_i · α)` is what the link would have to carry. It grows with
//! α, and is concave: each tenant's part is a slope until the tenant has enough. The α that is wanted is
//! where `f(α)` is the capacity. Measured over a period are f(α) at the α of now, and its slope: the
//! weights of those who asked for more than they had.
//! - Below the capacity, a step along the slope (Newton's) ends below it too, for `f` lies below its
//!   tangents: `α += spare / slope`. With the same tenants limited it is exact.
//! - Above it, the tangent leads too far down: who has enough now may be limited then. The chord does not:
//!   what is borrowed, `b(α) = f(α) − guaranteed`, is concave from b(0) = 0, so that `b(r · α) ≥ r · b(α)`
//!   for r ≤ 1: `α *= room / b(α)` ends at the capacity or above it. With everybody limited it is exact.
//!
//! So neither step overshoots while demands stand still, and `α /= 4` is not needed. What the link
//! refused counts in b(α): else a full link would hide by how much it is over. A standing queue counts
//! against the capacity, so that it is drained.

use super::{Link, UNIT_SHIFT, ahead, due};
use crate::{
    abi::share::{ShareLine, SharePace, UplinkPolicy, UplinkShare},
    limiter::{Clock, product},
};

/// A period that lasted for more than this many says nothing of what tenants ask for now, but for who was refused:
/// nothing came for most of it.
const PERIODS_MAX: u64 = 8;

/// A part of the queue that stands at the end of a period is to be gone by the end of the next.
const DRAIN: u64 = 4;

/// The same where what is over a share waits: what was promised at an α leaves for a horizon after it has fallen.
const DRAIN_WAITING: u64 = 2;

/// There the link is full when more than this part of what may leave early stands before it at the end of a period.
const FULL: u64 = 2;

/// There α rises by this part of a step while anything is ahead of the link: TCP asks for more when it rises and for less when it
/// falls, a round trip later, and at whole steps swings with it.
const RISE: u64 = 2;

/// After so many periods of too much in a row, in the last of which the link was full, the chord is too slow: most tenants have
/// enough at any α near this one. While it is not, there is a queue within its bound and no haste: a quarter of α for that would
/// leave the link idle for a period.
const PRESSED: u64 = 4;

/// Horizons follow a rising α by this part of the way in a period.
const SLOW: u64 = 16;

/// At most this part of α is left by one step down, were nothing else left of the link.
const ROOM_MIN: u64 = 64;

/// What a period saw, bytes of the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How long it was, ns, not 0.
    pub time_ns: u64,
    /// What the link carries in that time.
    pub capacity: u64,
    /// What of its queue at the end is to be gone by the end of the next, besides.
    pub drain: u64,
    /// Passed within guarantees.
    pub guaranteed: u64,
    /// Within the tenants' shares, passed or not.
    pub borrowed: u64,
    /// The link refused some of it, or more stood before it in the end than may for long.
    pub full: bool,
    /// Weights of the tenants that asked for more lately: of the most of them, and fading.
    pub held: u64,
    /// Periods in a row before this one in which more was asked for than there was room.
    pub pressed: u64,
}

/// `alpha · part / whole`, for a part of at most twice the whole, below 2^32.
#[inline(always)]
const fn chord(alpha: u64, part: u64, whole: u64) -> u64 {
    let (high, low) = product(alpha, quotient(part << 32, whole));
    if high >> 32 != 0 {
        return u64::MAX;
    }
    (high << 32) | (low >> 32)
}

/// `a / b`; 0 for a `b` of 0, which nobody asks for: a program that could panic is no program.
#[inline(always)]
const fn quotient(a: u64, b: u64) -> u64 {
    match a.checked_div(b) {
        Some(quotient) => quotient,
        None => 0,
    }
}

/// The α for the next period, bytes per ns and weight, times 2^58, at most `rate`.
#[inline(always)]
pub const fn next(alpha: u64, rate: u64, seen: &Seen) -> u64 {
    let drain = if seen.drain < seen.capacity / 2 {
        seen.drain
    } else {
        seen.capacity / 2
    };
    let room = (seen.capacity - drain).saturating_sub(seen.guaranteed);
    if seen.borrowed > room {
        return down(alpha, room, seen);
    }
    if seen.held == 0 {
        return alpha;
    }
    let tangent = tangent(room - seen.borrowed, seen);
    let chord = if seen.borrowed * 2 <= room {
        alpha
    } else {
        chord(alpha, room, seen.borrowed) - alpha
    };
    let step = if tangent < chord { chord } else { tangent };
    if rate.saturating_sub(alpha) < step {
        rate
    } else {
        alpha + step
    }
}

/// By how much α changes along the slope to change what is borrowed by `bytes`, which are below 2^32: eight
/// periods carry 2^31, at 400 Gbit/s.
#[inline(always)]
const fn tangent(bytes: u64, seen: &Seen) -> u64 {
    quotient(quotient(bytes << 32, seen.time_ns) << 26, seen.held)
}

/// The α after a time in which the link was idle: along the slope, all of it is spare. Else whoever asks less than
/// once in a few periods, as one does whose connections cannot even begin, would be refused for ever. At the very
/// beginning α is 0, and that is nobody's fault.
#[inline(always)]
const fn after_idling(alpha: u64, rate: u64, held: u64) -> u64 {
    if alpha == 0 {
        return rate;
    }
    if held == 0 {
        return alpha;
    }
    let step = quotient(rate, held);
    if rate.saturating_sub(alpha) < step {
        rate
    } else {
        alpha + step
    }
}

/// The α for a link that is asked for more than it has room for.
#[inline(always)]
const fn down(alpha: u64, room: u64, seen: &Seen) -> u64 {
    let least = seen.capacity / ROOM_MIN;
    let room = if room < least { least } else { room };
    if seen.borrowed <= room {
        return alpha;
    }
    let above = chord(alpha, room, seen.borrowed);
    if seen.pressed < PRESSED || !seen.full {
        // One packet more or less is no reason to go all the way.
        let far = seen.borrowed / 2 >= room;
        return if far { above } else { alpha / 2 + above / 2 };
    }
    let quarter = above / 4;
    if seen.held == 0 {
        return quarter;
    }
    let over = seen.borrowed - room;
    let over = if over < u32::MAX as u64 {
        over
    } else {
        u32::MAX as u64
    };
    let below = alpha.saturating_sub(tangent(over, seen));
    let below = if below < quarter { quarter } else { below };
    below / 2 + above / 2
}

/// Begins the next period, unless another CPU does: until it has, the one before goes on.
#[inline(always)]
pub fn renew<L: Link>(uplink: &UplinkPolicy, link: &L, period: u64, now_ns: u64) {
    let state = link.state();
    if state.compare_exchange(period << 1, period << 1 | 1) != period << 1 {
        return;
    }
    let (from, to) = (
        period % UplinkShare::LINES,
        period.wrapping_add(1) % UplinkShare::LINES,
    );
    let SharePace {
        origin_ns,
        alpha,
        carried,
        pressed,
        ..
    } = link.pace(from);
    let mut seen = Seen {
        time_ns: now_ns.saturating_sub(origin_ns).max(1),
        pressed,
        ..Seen::default()
    };
    seen.capacity = uplink.carries(seen.time_ns);
    let passed = count(link, (from, to), &mut seen);
    let queue = ahead(passed, carried.wrapping_add(seen.capacity));
    // What the link had no work for is gone: time that was idle is not saved up.
    link.set_carried(to, passed.wrapping_sub(queue));
    let mut stands = queue;
    seen.drain = queue / DRAIN;
    let waits = uplink.horizon_ns != 0;
    if waits {
        // What waits for its departure is no queue of the link's.
        stands = queue.saturating_sub(due::waiting(uplink, link, origin_ns, now_ns));
        seen.drain = stands / DRAIN_WAITING;
        seen.full |= stands > uplink.early / FULL;
    }
    let long = seen.time_ns > PERIODS_MAX * uplink.period_ns;
    let mut renewed = if long {
        after_idling(alpha, uplink.rate, seen.held)
    } else {
        next(alpha, uplink.rate, &seen)
    };
    if waits && queue != 0 && renewed > alpha {
        renewed = alpha + (renewed - alpha) / RISE;
    }
    let pressed = if renewed < alpha { pressed + 1 } else { 0 };
    // Read again: a program has few places to keep the pace meanwhile.
    let mut pace = pace(uplink, &link.pace(from), renewed, now_ns);
    pace.pressed = pressed;
    pace.stands = stands.wrapping_sub(link.early().load());
    link.set_pace(to, &pace);
    // Everybody else leaves an odd state alone: this publishes the line.
    state.compare_exchange(period << 1 | 1, period.wrapping_add(1) << 1);
}

/// Notes the counts of the period that ends, and what it saw. Returns what passed, ever.
#[inline(always)]
fn count<L: Link>(link: &L, (from, to): (u64, u64), seen: &mut Seen) -> u64 {
    let before = link.counts(from);
    let mut counts = ShareLine {
        guaranteed: link.guaranteed().load(),
        borrowed: link.borrowed().load(),
        refused: link.refused().load(),
        limited: link.limited().load(),
        ..ShareLine::default()
    };
    let lately = counts.limited.wrapping_sub(before.limited);
    let faded = before.held / 2;
    counts.held = if lately < faded { faded } else { lately };
    link.set_counts(to, &counts);
    seen.guaranteed = counts.guaranteed.wrapping_sub(before.guaranteed);
    let borrowed = counts.borrowed.wrapping_sub(before.borrowed);
    let refused = counts.refused.wrapping_sub(before.refused);
    seen.full = refused != 0;
    seen.borrowed = borrowed.wrapping_add(refused);
    seen.held = counts.held;
    counts.guaranteed.wrapping_add(counts.borrowed)
}

/// The pace after `before`, with another α.
#[inline(always)]
const fn pace(uplink: &UplinkPolicy, before: &SharePace, alpha: u64, now_ns: u64) -> SharePace {
    let (integral, fraction) = before.integral_at(now_ns);
    let horizon_ns = if uplink.horizon_ns == 0 {
        uplink.period_ns
    } else {
        uplink.horizon_ns
    };
    let (high, low) = product(horizon_ns, alpha);
    let shift = crate::limiter::RATE_SHIFT - UNIT_SHIFT;
    let given = (high << (64 - shift)) | (low >> shift);
    SharePace {
        origin_ns: now_ns,
        alpha,
        integral,
        fraction,
        // Up slowly: what all horizons grow by is asked for once, and looks like demand. Down at once: else
        // whoever had the link alone would go on for many periods.
        reach: if given < before.reach {
            given
        } else {
            before.reach + (given - before.reach) / SLOW
        },
        ..*before
    }
}
