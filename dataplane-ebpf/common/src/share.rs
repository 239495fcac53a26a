//! How tenants share an uplink: a guarantee, and a part by weight of what is left, with no lock.
//!
//! `rate_i = min(ceiling_i, guarantee_i + weight_i · α)`, with one α per uplink and direction. A packet
//! is paid for by the tenant's guarantee, or else *borrowed*: from the line `weight_i · A(t)` of its
//! tenant, where `A = ∫α` is one number for all of them, and from the link.
//!
//! Invariants, proved or tested in `tests/share` and told in docs/ISOLATION.md
//! - What is within a guarantee passes, whatever α is and whoever else sends: the guarantee is a limit
//!   of [`crate::limiter`] with a clock of its own, and asks for nothing else.
//! - What is borrowed passes only while the link is at most `stop` bytes behind: a link's real queue
//!   holds at most that, the guarantees' bursts, and one packet a CPU.
//! - Where an fq qdisc sits ([`UplinkPolicy::horizon_ns`]) what is over a share has a departure time instead: `share/turn.rs`.
//! - A change of α is a corner in every tenant's line and never a step. What a tenant borrows between
//!   two times is at most `weight · ΔA`, one period's share, and one packet.
//!
//! Source: the water-filling that α solves is weighted max-min fairness (Bertsekas, Gallager 1987,
//! 6.5.2); packets are coloured as in RFC 2697. How α is found: [`alpha`].

pub mod alpha;
#[cfg(feature = "std")]
pub mod ask;
mod due;
mod near;
mod turn;

pub use near::near;

use crate::{
    abi::share::{ShareLine, SharePace, SharePolicy, UplinkPolicy, UplinkShare},
    limiter::{At, Clock, Decision, product},
};

/// Digits after the point of a line, binary: 256ths of a byte.
pub const UNIT_SHIFT: u32 = 8;

/// From α to a line: 2^58 · 2^-8.
pub(crate) const LINE_SHIFT: u32 = 50;

/// More than the largest packet (BIG TCP) takes with all that it pays beside its bytes: a clock that is further ahead than
/// this and its horizon was left behind by a change of α or of a weight, or has been idle for years. 256ths of a byte.
const STRAY: u64 = (1 << 20) << UNIT_SHIFT;

/// What a tenant has used, by clock: [`crate::abi::share::ShareClocks`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks<C> {
    /// Of the ceiling.
    pub ceiling: C,
    /// Of the guarantee.
    pub guarantee: C,
    /// Of what is borrowed.
    pub borrowed: C,
    /// 1 + the last period in which it was limited.
    pub limited: C,
    /// When the last that had to wait departs.
    pub departs: C,
}

/// An uplink's words: [`UplinkShare`].
pub trait Link {
    /// One of the words that count.
    type Word: Clock;
    /// [`UplinkShare::state`].
    fn state(&self) -> Self::Word;
    /// [`UplinkShare::guaranteed`].
    fn guaranteed(&self) -> Self::Word;
    /// [`UplinkShare::borrowed`].
    fn borrowed(&self) -> Self::Word;
    /// [`UplinkShare::refused`].
    fn refused(&self) -> Self::Word;
    /// [`UplinkShare::limited`].
    fn limited(&self) -> Self::Word;
    /// [`UplinkShare::early`].
    fn early(&self) -> Self::Word;
    /// The word of [`UplinkShare::due`] at `at`, below [`UplinkShare::SLICES`].
    fn due(&self, at: u64) -> Self::Word;
    /// The pace at `at`, below [`UplinkShare::LINES`].
    fn pace(&self, at: u64) -> SharePace;
    /// When the period at `at` began.
    fn began_ns(&self, at: u64) -> u64;
    /// All of the period at `at`, but for its pace.
    fn counts(&self, at: u64) -> ShareLine;
    /// Writes [`SharePace::carried`]. Only who made the state odd does.
    fn set_carried(&self, at: u64, carried: u64);
    /// Writes the rest of the pace.
    fn set_pace(&self, at: u64, pace: &SharePace);
    /// Writes all else.
    fn set_counts(&self, at: u64, line: &ShareLine);
}

/// What paid for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paid {
    /// The tenant's guarantee.
    Guarantee,
    /// What others leave.
    Borrowed,
}

/// A packet that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// By what.
    pub paid: Paid,
    /// When it leaves in its turn, CLOCK_MONOTONIC ns: now where nothing can wait.
    pub departs_ns: u64,
}

/// Why a packet does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Over the tenant's ceiling.
    Ceiling,
    /// Over the tenant's share of what is left.
    Share,
    /// Within its share, but the link has no room: others were given too much a moment ago.
    Link,
    /// A clock was contended past its bound.
    Contended,
}

impl UplinkPolicy {
    /// Bytes of the link that an skb takes: `packets` of together `l2_bytes`, each padded to the
    /// smallest, and what the wire carries beside it; and the price, once
    /// ([`crate::abi::LimitPolicy::charge`]).
    #[inline(always)]
    pub const fn charge(&self, packets: u64, l2_bytes: u64) -> u64 {
        let least = packets.wrapping_mul(self.packet_min as u64);
        let padded = if l2_bytes < least { least } else { l2_bytes };
        padded
            .wrapping_add(packets.wrapping_mul(self.overhead as u64))
            .wrapping_add(self.price as u64)
    }

    /// Bytes that the link carries in `time_ns`, rounded down.
    #[inline(always)]
    pub const fn carries(&self, time_ns: u64) -> u64 {
        crate::limiter::scale(time_ns, self.rate)
    }
}

impl SharePace {
    /// `A(now)`, 256ths of a byte per weight, and what is less than that.
    #[inline(always)]
    pub const fn integral_at(&self, now_ns: u64) -> (u64, u64) {
        let (high, low) = product(now_ns.saturating_sub(self.origin_ns), self.alpha);
        let below = (1 << LINE_SHIFT) - 1;
        let fraction = (low & below) + self.fraction;
        let whole = (high << (64 - LINE_SHIFT)) | (low >> LINE_SHIFT);
        let integral = self.integral.wrapping_add(whole);
        (
            integral.wrapping_add(fraction >> LINE_SHIFT),
            fraction & below,
        )
    }
}

/// Number of the period in force, and its pace.
#[inline(always)]
fn in_force(link: &impl Link) -> (u64, SharePace) {
    let period = link.state().load() >> 1;
    let pace = link.pace(period % UplinkShare::LINES);
    // Held up here for the time of two periods, a program may have read half of a new one.
    let now = link.state().load() >> 1;
    if now.wrapping_sub(period) < UplinkShare::LINES - 1 {
        return (period, pace);
    }
    (now, link.pace(now % UplinkShare::LINES))
}

/// Begins the next period when this one is over. To be called before [`take`], at the same time; in the
/// kernel both have a stack of their own.
#[inline(always)]
pub fn renew<L: Link>(uplink: &UplinkPolicy, link: &L, now_ns: u64) {
    let period = link.state().load() >> 1;
    let began_ns = link.began_ns(period % UplinkShare::LINES);
    if now_ns.saturating_sub(began_ns) >= uplink.period_ns {
        alpha::renew(uplink, link, period, now_ns);
    }
}

/// Decides on a packet of `l2_bytes` that is `packets` on the wire, and books it when it passes.
///
/// # Errors
/// [`Refused`]; then the ceiling has its bytes back. What the link refused stays booked on the tenant's
/// share: asking again is not free.
#[inline(always)]
pub fn take<C: Clock, L: Link>(
    (policy, clocks): (&SharePolicy, &Clocks<C>),
    (uplink, link): (&UplinkPolicy, &L),
    now_ns: u64,
    (packets, l2_bytes): (u64, u64),
) -> Result<Paid, Refused> {
    let taken = take_of(
        (policy, clocks),
        (uplink, link),
        now_ns,
        (packets, l2_bytes),
        false,
    );
    taken.map(|taken| taken.paid)
}

/// The same for a packet of a flow that may be fat ([`crate::thin`]): that one is refused earlier, by an eighth of each
/// horizon but the guarantee's, which refuses nobody; and it alone waits for its departure.
///
/// # Errors
/// As [`take`].
#[inline(always)]
pub fn take_of<C: Clock, L: Link>(
    (policy, clocks): (&SharePolicy, &Clocks<C>),
    (uplink, link): (&UplinkPolicy, &L),
    now_ns: u64,
    (packets, l2_bytes): (u64, u64),
    fat: bool,
) -> Result<Taken, Refused> {
    let (period, pace) = in_force(link);
    let waits = uplink.horizon_ns != 0;
    let mut ceiling_ns = 0;
    if policy.ceiling.limited() {
        let horizon = policy.ceiling.horizon_of(fat);
        let (clock, now) = (&clocks.ceiling, At(now_ns));
        let units = policy.ceiling.charge(l2_bytes);
        match policy.ceiling.take_within(clock, &now, units, horizon) {
            Decision::Pass { backlog, .. } if waits => {
                ceiling_ns = policy.ceiling.delay_ns(backlog)
            }
            Decision::Pass { .. } => {}
            Decision::Over => return Err(Refused::Ceiling),
            Decision::Contended => return Err(Refused::Contended),
        }
    }
    let bytes = uplink.charge(packets, l2_bytes);
    let asked = Asked {
        now_ns,
        bytes,
        fat,
        period,
        pace,
    };
    let taken = if waits {
        turn::take((policy, clocks), (uplink, link), &asked, ceiling_ns)
    } else {
        at_once((policy, clocks), (uplink, link), &asked)
    };
    if taken.is_err() && policy.ceiling.limited() {
        let units = policy.ceiling.charge(l2_bytes);
        policy.ceiling.give_back(&clocks.ceiling, units);
    }
    taken
}

/// A packet, and when.
struct Asked {
    now_ns: u64,
    /// Of the link.
    bytes: u64,
    fat: bool,
    /// The period in force, and its pace.
    period: u64,
    pace: SharePace,
}

/// Takes a packet from the guarantee or from what is left, where nothing can wait.
#[inline(always)]
fn at_once<C: Clock, L: Link>(
    (policy, clocks): (&SharePolicy, &Clocks<C>),
    (uplink, link): (&UplinkPolicy, &L),
    asked: &Asked,
) -> Result<Taken, Refused> {
    let passes = |paid| Taken {
        paid,
        departs_ns: asked.now_ns,
    };
    if policy.guarantee.limited() {
        let now = At(asked.now_ns);
        let guarantee = policy.guarantee.take(&clocks.guarantee, &now, asked.bytes);
        if let Decision::Pass { .. } = guarantee {
            link.guaranteed().fetch_add(asked.bytes);
            return Ok(passes(Paid::Guarantee));
        }
    }
    borrow_from((policy, clocks), (uplink, link), asked)?;
    Ok(passes(Paid::Borrowed))
}

/// Books a packet on its tenant's share and on the link.
#[inline(always)]
fn borrow_from<C: Clock, L: Link>(
    (policy, clocks): (&SharePolicy, &Clocks<C>),
    (uplink, link): (&UplinkPolicy, &L),
    asked: &Asked,
) -> Result<(), Refused> {
    let (now_ns, of) = (asked.now_ns, (asked.bytes, asked.fat));
    match borrow(policy, clocks, &asked.pace, now_ns, of) {
        Ok(()) => from_link(uplink, link, &asked.pace, now_ns, of),
        Err(refused) => {
            if refused == Refused::Share {
                mark(policy, clocks, link, asked.period);
            }
            Err(refused)
        }
    }
}

/// A horizon, of which a fat packet has an eighth less.
#[inline(always)]
const fn less(horizon: u64, fat: bool) -> u64 {
    if fat { horizon - horizon / 8 } else { horizon }
}

/// Books `bytes` on the tenant's share of what is left.
#[inline(always)]
fn borrow<C: Clock>(
    policy: &SharePolicy,
    clocks: &Clocks<C>,
    pace: &SharePace,
    now_ns: u64,
    (bytes, fat): (u64, bool),
) -> Result<(), Refused> {
    let weight = policy.weight as u64;
    let reached = pace.integral_at(now_ns).0.wrapping_mul(weight);
    let horizon = less(pace.reach.wrapping_mul(weight), fat);
    let units = bytes << UNIT_SHIFT;
    let clock = &clocks.borrowed;
    let mut seen = clock.load();
    let mut tries = 0;
    while tries < C::TRIES {
        let mut backlog = ahead(seen, reached);
        let stray = backlog > horizon.saturating_add(STRAY);
        if backlog > horizon && !stray {
            return Err(Refused::Share);
        }
        if stray {
            backlog = horizon;
        }
        let base = reached.wrapping_add(backlog);
        let was = clock.compare_exchange(seen, base.wrapping_add(units));
        if was == seen {
            return Ok(());
        }
        seen = was;
        tries += 1;
    }
    // As in the limiter: an addition cannot fail, but cannot look first either.
    if ahead(seen, reached) > horizon / 2 || ahead(clock.fetch_add(units), reached) > horizon {
        return Err(Refused::Contended);
    }
    Ok(())
}

/// Lets `bytes` of a tenant's share pass if the link has room, or counts them as refused.
#[inline(always)]
fn from_link<L: Link>(
    uplink: &UplinkPolicy,
    link: &L,
    pace: &SharePace,
    now_ns: u64,
    (bytes, fat): (u64, bool),
) -> Result<(), Refused> {
    let queue = queue(uplink, link, pace, now_ns);
    if queue > less(uplink.stop, fat) {
        link.refused().fetch_add(bytes);
        return Err(Refused::Link);
    }
    link.borrowed().fetch_add(bytes);
    Ok(())
}

/// Bytes that passed and that the link cannot have carried yet.
#[inline(always)]
fn queue<L: Link>(uplink: &UplinkPolicy, link: &L, pace: &SharePace, now_ns: u64) -> u64 {
    let elapsed = now_ns.saturating_sub(pace.origin_ns);
    let carried = pace.carried.wrapping_add(uplink.carries(elapsed));
    let passed = link
        .guaranteed()
        .load()
        .wrapping_add(link.borrowed().load());
    ahead(passed, carried)
}

/// Counts the tenant's weight among the limited of this period, once.
#[inline(always)]
fn mark<C: Clock, L: Link>(policy: &SharePolicy, clocks: &Clocks<C>, link: &L, period: u64) {
    let seen = clocks.limited.load();
    let this = period + 1;
    if seen != this && clocks.limited.compare_exchange(seen, this) == seen {
        link.limited().fetch_add(policy.weight as u64);
    }
}

/// How far `clock` is ahead of `line`; 0 when it is behind. Both count modulo 2^64.
#[inline(always)]
pub(crate) const fn ahead(clock: u64, line: u64) -> u64 {
    let by = clock.wrapping_sub(line);
    if by < 1 << 63 { by } else { 0 }
}
