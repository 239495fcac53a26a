//! The limiter: a virtual queue with one clock per limit, counted in units of what it limits.
//!
//! The clock `v` is a u64 that counts units (bytes, or packets), modulo 2^64. The *line* `R(t)` is
//! what the rate has let through since the clock began: `R(t) = v0 + (t − t0) · rate`. A packet of
//! `n` units raises `v` to `max(v, R(t)) + n`; `backlog = v − R(t)` is what a real queue would hold.
//!
//! Invariants, for any packet sizes, idle gaps and number of CPUs (`tests/limiter`)
//! - Accepted iff the backlog *before* the packet is within the horizon: no packet larger than the
//!   burst is black-holed. Hence over every interval t: accepted ≤ rate · t + burst + one packet.
//!   A packet belongs to the instant at which its clock was read.
//! - Between two packets that were over the limit: accepted ≥ rate · t − one packet.
//! - What a packet costs is a whole number of units, and `R` is computed afresh from `t0` each time:
//!   nothing is rounded per packet, so no error accumulates, at 1 kbit/s as at 400 Gbit/s.
//! - What a packet costs is its bytes and, once for each skb, a price ([`LimitPolicy::charge`]): the bounds are of those
//!   *priced* bytes, and one packet is the largest with its price. No register knows of it.
//! - A new rate begins where the old line stands ([`crate::limit`]): no clock is reset.
//!
//! Why units and not time: docs/decisions/0002-limiter-counts-units.md. GCRA: ITU-T I.371;
//! the virtual queue: Golestani 1994, Kelly 1996.

use crate::{
    abi::{LimitPolicy, shape},
    ecn, thin,
};
#[cfg(feature = "std")]
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Binary digits of [`LimitPolicy::rate`] after the point: units per ns are below 64.
pub const RATE_SHIFT: u32 = 58;

/// Highest rate that fits: 50 units per ns, 400 Gbit/s in bytes.
pub const RATE_MAX_PER_SECOND: u64 = 50_000_000_000;

/// Where nothing waits, this part of a burst is nobody's queue: no class is asked for, and [`crate::fair`] books nothing.
pub const EASY_PART: u64 = 8;

/// The clock of one limit: a u64 that several CPUs change at once.
pub trait Clock {
    /// Compare-and-swaps tried before the clock is raised by a plain addition.
    const TRIES: u32 = 8;
    /// Reads it.
    fn load(&self) -> u64;
    /// Sets it to `new` if it is `old`; returns what it was.
    fn compare_exchange(&self, old: u64, new: u64) -> u64;
    /// Adds (wrapping), returns what it was.
    fn fetch_add(&self, units: u64) -> u64;
}

/// A clock that threads share: tests and benches.
#[cfg(feature = "std")]
impl Clock for &AtomicU64 {
    fn load(&self) -> u64 {
        AtomicU64::load(self, SeqCst)
    }

    fn compare_exchange(&self, old: u64, new: u64) -> u64 {
        AtomicU64::compare_exchange(self, old, new, SeqCst, SeqCst).unwrap_or_else(|was| was)
    }

    fn fetch_add(&self, units: u64) -> u64 {
        AtomicU64::fetch_add(self, units, SeqCst)
    }
}

/// Where `now` comes from. The exact clock costs more than the rest of the limiter together, so it
/// is read only when the coarse one cannot prove that the limit is far away.
pub trait Now {
    /// A time not after [`Now::exact_ns`] and at most [`LimitPolicy::slack`]'s time before it.
    fn coarse_ns(&self) -> u64;
    /// CLOCK_MONOTONIC, ns.
    fn exact_ns(&self) -> u64;
}

/// A time that was read already, by both clocks: the exact one is read once a packet.
#[derive(Clone, Copy, Debug)]
pub struct At(pub u64);

impl Now for At {
    #[inline(always)]
    fn coarse_ns(&self) -> u64 {
        self.0
    }

    #[inline(always)]
    fn exact_ns(&self) -> u64 {
        self.0
    }
}

/// What the limiter decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Accepted.
    Pass {
        /// Units ahead of this packet in the virtual queue.
        backlog: u64,
        /// The time that the backlog was reckoned at, ns: coarse or exact.
        at_ns: u64,
    },
    /// Over the limit.
    Over,
    /// The clock was contended past the bound, with no clear room to add to it blindly.
    Contended,
}

/// A limit at the moment at which a packet finds it.
#[derive(Clone, Copy)]
struct Found {
    /// The exact clock was read.
    exact: bool,
    at_ns: u64,
    /// `R(at_ns)`.
    line: u64,
    /// What its clock stood at.
    clock: u64,
}

/// `a · b`, the high and the low half. BPF has no 128-bit multiply.
#[inline(always)]
pub const fn product(a: u64, b: u64) -> (u64, u64) {
    let (a1, a0) = (a >> 32, a & 0xFFFF_FFFF);
    let (b1, b0) = (b >> 32, b & 0xFFFF_FFFF);
    let low = a0 * b0;
    let middle = a1 * b0 + (low >> 32);
    let middle2 = a0 * b1 + (middle & 0xFFFF_FFFF);
    let high = a1 * b1 + (middle >> 32) + (middle2 >> 32);
    (high, (middle2 << 32) | (low & 0xFFFF_FFFF))
}

/// `(a · b) >> 58` without losing a bit in between.
#[inline(always)]
pub const fn scale(a: u64, b: u64) -> u64 {
    let (high, low) = product(a, b);
    (high << (64 - RATE_SHIFT)) | (low >> RATE_SHIFT)
}

/// The units that `clock` is ahead of `line`; 0 when it is behind.
///
/// Both count modulo 2^64: what is more than 2^63 ahead is behind. A limit may be idle, and a CPU be
/// held up in the middle of a packet, for 5.8 years at 400 Gbit/s.
#[inline(always)]
const fn ahead(clock: u64, line: u64) -> u64 {
    let by = clock.wrapping_sub(line);
    if by < 1 << 63 { by } else { 0 }
}

impl LimitPolicy {
    /// True when there is a limit.
    #[inline(always)]
    pub const fn limited(&self) -> bool {
        self.rate != 0
    }

    /// Units that an skb of `l2_bytes` takes: those, and the price once, however many packets of the wire it becomes. What it
    /// costs a host is to carry an skb through its programs and queues; headers and padding of segments are bytes anyway.
    #[inline(always)]
    pub const fn charge(&self, l2_bytes: u64) -> u64 {
        l2_bytes.wrapping_add(self.price as u64)
    }

    /// ns that a byte takes, times 2^20, with the price above it, in one word: what [`crate::thin::Limit::new`] reads.
    #[inline(always)]
    pub const fn pace(&self) -> u64 {
        thin::pace(self.ns_per_unit, self.price as u64)
    }

    /// The same limit where packets are made to wait, or not: a [`crate::abi::shape`]. Where they are, the coarse clock is not
    /// used: while it stands still, what was sent looks like a queue, and each packet of it would be asked for its class.
    #[must_use]
    pub const fn shaped(self, shape: u16) -> Self {
        let slack = if shape == shape::POLICE {
            0
        } else {
            self.slack
        };
        Self {
            horizon: self.horizon + slack as u64,
            slack: self.slack - slack,
            mark: ecn::mark(&self, shape),
            ..self
        }
    }

    /// `R(t)`, units.
    #[inline(always)]
    pub const fn line(&self, now_ns: u64) -> u64 {
        // A revision is in force a moment before its rate is.
        if now_ns < self.origin_ns {
            let missing = scale(self.origin_ns - now_ns, self.rate_before);
            return self.origin_units.wrapping_sub(missing);
        }
        self.origin_units
            .wrapping_add(scale(now_ns - self.origin_ns, self.rate))
    }

    /// The backlog within which a packet of a fat flow is accepted: an eighth less, so that a thin one
    /// ([`crate::thin`]) is refused last.
    #[inline(always)]
    pub const fn horizon_fat(&self) -> u64 {
        self.horizon - self.horizon / 8
    }

    /// The backlog within which a packet is accepted.
    #[inline(always)]
    pub const fn horizon_of(&self, fat: bool) -> u64 {
        self.horizon_less(fat as u64)
    }

    /// The same for 1 (fat) or 0, without a branch.
    #[inline(always)]
    pub const fn horizon_less(&self, fat: u64) -> u64 {
        self.horizon - self.horizon / 8 * fat
    }

    /// Decides on a packet of `units`, and books it on `clock` when it is accepted.
    #[inline(always)]
    pub fn take<C: Clock, N: Now>(&self, clock: &C, now: &N, units: u64) -> Decision {
        self.take_within(clock, now, units, self.horizon)
    }

    /// The same with another horizon, up to [`LimitPolicy::horizon`].
    #[inline(always)]
    pub fn take_within<C: Clock, N: Now>(
        &self,
        clock: &C,
        now: &N,
        units: u64,
        horizon: u64,
    ) -> Decision {
        let found = self.find(clock, now);
        self.book(clock, now, units, horizon, found)
    }

    /// The same for a packet whose flow's class matters only when others have filled the queue: `fat` is told 1 when the
    /// backlog is over an eighth of the horizon, or where the exact clock is read, as it is where packets wait, when there is any;
    /// then it says 1 for a fat flow, else 0. Told 0, it says 0 and need not look: nothing would be refused, marked or held up
    /// for another one. What looking for a flow costs is more than all else of a packet's way past its limits.
    ///
    /// Another CPU may add to the queue in between: then a packet passes as what is thin that was not asked for its class.
    #[inline(always)]
    pub fn take_classed<C: Clock, N: Now>(
        &self,
        clock: &C,
        now: &N,
        units: u64,
        fat: impl FnOnce(u64) -> u64,
    ) -> Decision {
        let found = self.find(clock, now);
        let easy = if found.exact {
            0
        } else {
            self.horizon / EASY_PART
        };
        // Both are below 2^63. Without a branch, which the verifier would walk all that follows twice for.
        let over = easy.wrapping_sub(ahead(found.clock, found.line)) >> 63;
        let horizon = self.horizon_less(fat(over));
        self.book(clock, now, units, horizon, found)
    }

    /// The time by the clock that the limit reads first.
    #[inline(always)]
    pub fn now_ns<N: Now>(&self, now: &N) -> u64 {
        if self.slack == 0 {
            now.exact_ns()
        } else {
            now.coarse_ns()
        }
    }

    /// How the limit stands.
    #[inline(always)]
    fn find<C: Clock, N: Now>(&self, clock: &C, now: &N) -> Found {
        let at_ns = self.now_ns(now);
        Found {
            exact: self.slack == 0,
            at_ns,
            line: self.line(at_ns),
            clock: clock.load(),
        }
    }

    /// Decides on a packet, and books it on the clock that stands as `found`, when it is accepted.
    #[inline(always)]
    fn book<C: Clock, N: Now>(
        &self,
        clock: &C,
        now: &N,
        units: u64,
        horizon: u64,
        found: Found,
    ) -> Decision {
        let Found {
            mut exact,
            mut at_ns,
            mut line,
            clock: mut seen,
        } = found;
        let mut tries = 0;
        while tries < C::TRIES {
            let mut backlog = ahead(seen, line);
            if backlog > horizon {
                if exact {
                    return Decision::Over;
                }
                exact = true;
                at_ns = now.exact_ns();
                line = self.line(at_ns);
                backlog = ahead(seen, line);
                if backlog > horizon {
                    return Decision::Over;
                }
            }
            let base = line.wrapping_add(backlog);
            let was = clock.compare_exchange(seen, base.wrapping_add(units));
            if was == seen {
                return Decision::Pass { backlog, at_ns };
            }
            seen = was;
            tries += 1;
        }
        let at = (line, at_ns);
        Self::add(clock, seen, at, units, horizon)
    }

    /// Would a packet that came now find more than `horizon` ahead of it? Books nothing.
    #[inline(always)]
    pub fn refuses<C: Clock, N: Now>(&self, clock: &C, now: &N, horizon: u64) -> bool {
        let seen = clock.load();
        // Late, so that the backlog is less than this.
        if ahead(seen, self.line(now.coarse_ns())) <= horizon {
            return false;
        }
        ahead(seen, self.line(now.exact_ns())) > horizon
    }

    /// Units ahead that [`LimitPolicy::take_within`] would find now. Books nothing.
    #[inline(always)]
    pub fn backlog<C: Clock, N: Now>(&self, clock: &C, now: &N, horizon: u64) -> u64 {
        let seen = clock.load();
        if self.slack != 0 {
            let backlog = ahead(seen, self.line(now.coarse_ns()));
            if backlog <= horizon {
                return backlog;
            }
        }
        ahead(seen, self.line(now.exact_ns()))
    }

    /// Books a packet after other CPUs have raised the clock under every try: an addition cannot
    /// fail. It cannot look first either, so it is used only where there is room for what others
    /// add meanwhile. Units that went past the horizon all the same stay on the clock, though their
    /// packet is dropped: taking them back would break the bound of whoever has seen them.
    #[inline(always)]
    fn add<C: Clock>(
        clock: &C,
        seen: u64,
        (line, at_ns): (u64, u64),
        units: u64,
        horizon: u64,
    ) -> Decision {
        let room = seen.wrapping_sub(line) <= horizon / 2;
        if !room {
            return Decision::Contended;
        }
        let backlog = ahead(clock.fetch_add(units), line);
        if backlog > horizon {
            return Decision::Contended;
        }
        Decision::Pass { backlog, at_ns }
    }

    /// Takes back `units` that were accepted: another limit refused the packet.
    ///
    /// Who reads the clock in between sees a packet that was never sent, so each CPU that is between
    /// the two at that moment adds one packet to the bound.
    #[inline(always)]
    pub fn give_back<C: Clock>(&self, clock: &C, units: u64) {
        clock.fetch_add(units.wrapping_neg());
    }

    /// How long a real queue would hold a packet behind `backlog` units, ns, below 2^44.
    #[inline(always)]
    pub const fn delay_ns(&self, backlog: u64) -> u64 {
        (backlog * self.ns_per_unit) >> 20
    }
}
