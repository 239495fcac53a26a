//! Explicit congestion notification (RFC 3168): when a limit's queue, real or virtual, is long enough to say so.
//!
//! A packet of a fat flow that has more than that ahead of it in the virtual queue leaves with Congestion Experienced, if its
//! sender has said that it listens. One step, as of a queue that DCTCP (RFC 8257) or CUBIC drives. A thin packet is not
//! marked ([`crate::thin`]): its flow keeps nothing waiting.
//! - Where packets wait (`htb`, `edt`, a share where fq is), over [`QUEUE_NS`].
//! - Where nothing waits (`police`, a share without fq), over half of the backlog at which packets are refused: there a sender's round
//!   trip does not grow with the backlog, so that a mark at once would take from it the burst that it may have. Measured:
//!   docs/decisions/0056-ecn-marks-by-the-virtual-queue.md.

use crate::{
    abi::{LimitPolicy, shape},
    limiter::RATE_SHIFT,
};

/// Queue over which packets are marked, ns at the limit's rate.
pub const QUEUE_NS: u64 = 1_000_000;

/// Backlog over which packets are marked at a limit that has this [`shape`], units.
pub const fn mark(limit: &LimitPolicy, shaped: u16) -> u64 {
    let queue = (limit.rate as u128 * QUEUE_NS as u128) >> RATE_SHIFT;
    if shaped == shape::POLICE || queue > limit.horizon as u128 {
        limit.horizon / 2
    } else {
        queue as u64
    }
}

/// When a packet leaves, and whether it is to be marked, in one word: the lowest bit. A time without it is 1 ns early. In the
/// kernel a bool would have the verifier walk twice what follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Departure(pub u64);

impl Departure {
    /// Now, of which nothing is said.
    pub const NOW: Self = Self(0);

    /// At `at_ns`, CLOCK_MONOTONIC, with a mark when the `backlog` is over `mark`; both are below 2^63.
    #[inline(always)]
    pub const fn at(at_ns: u64, backlog: u64, mark: u64) -> Self {
        Self(at_ns & !1 | mark.wrapping_sub(backlog) >> 63)
    }

    /// CLOCK_MONOTONIC, ns; 0: now.
    #[inline(always)]
    pub const fn ns(self) -> u64 {
        self.0 & !1
    }

    /// 1: to be marked.
    #[inline(always)]
    pub const fn marked(self) -> u64 {
        self.0 & 1
    }

    /// The later of two, marked if one is.
    #[inline(always)]
    pub const fn later(self, other: Self) -> Self {
        let later = if other.ns() > self.ns() { other } else { self };
        Self(later.0 | self.marked() | other.marked())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_departure_keeps_its_time_and_says_what_is_over_the_mark(
            at_ns in 0..=u64::MAX, backlog in 0..1_u64 << 63, mark in 0..1_u64 << 63,
        ) {
            let departure = Departure::at(at_ns, backlog, mark);
            prop_assert_eq!(departure.marked() == 1, backlog > mark);
            prop_assert!(at_ns - departure.ns() <= 1);
        }

        #[test]
        fn the_later_of_two_is_marked_if_one_is(a in 0..=u64::MAX, b in 0..=u64::MAX) {
            let later = Departure(a).later(Departure(b));
            prop_assert_eq!(later.ns(), Departure(a).ns().max(Departure(b).ns()));
            prop_assert_eq!(later.marked(), (a | b) & 1);
        }
    }

    #[test]
    fn a_queue_is_marked_over_a_millisecond_and_a_policer_over_half_of_its_horizon() {
        // 8 Mbit/s: a byte takes a microsecond.
        let limit = LimitPolicy {
            rate: (1 << RATE_SHIFT) / 1_000,
            horizon: 50_000,
            ..LimitPolicy::default()
        };
        assert_eq!(mark(&limit, shape::POLICE), 25_000);
        assert!((999..=1_000).contains(&mark(&limit, shape::HTB)));
        assert!((999..=1_000).contains(&mark(&limit, shape::EDT)));
        let short = LimitPolicy {
            horizon: 500,
            ..limit
        };
        assert_eq!(mark(&short, shape::HTB), 250);
    }
}
