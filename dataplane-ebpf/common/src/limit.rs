//! From a rate and a burst as people ask for them to the [`LimitPolicy`] that the limiter reads.
//!
//! Invariants
//! - A limit never becomes "no limit" by rounding, and never lets through more than was asked for.
//! - A revision's line continues the one before it: it has a corner at the time of the switch, not a
//!   step. A step down would be a backlog that nobody caused: from 10 Gbit/s to 10 Mbit/s, one that
//!   is 50 ms late holds the port shut for 50 s.
//! - An interval across revisions keeps the bound but for the slack of one before, at most an eighth
//!   of its burst: that is how far its packets may have been judged in the past.

use crate::{
    abi::LimitPolicy,
    limiter::{RATE_SHIFT, scale},
    units::{BitsPerSecond, PacketsPerSecond},
};

/// Largest burst, units: far from 2^63, where a clock that is ahead looks like one that is behind.
pub const BURST_MAX: u64 = 1 << 56;

/// The highest price of a packet, bytes: with it the largest packet (BIG TCP) is below 2^20, which [`crate::thin`] counts in,
/// and it fits beside a pace ([`LimitPolicy::pace`]).
pub const PRICE_MAX: u32 = (1 << 16) - 1;

/// The line is rounded down at both ends of an interval, and once more at its corner.
const ROUNDING: u64 = 2;

/// A rate of bytes or packets, exact: `units` in `period_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units per period.
    pub units: u64,
    /// The period, ns.
    pub period_ns: u64,
}

impl Rate {
    /// Layer-2 bytes.
    pub const fn bytes(BitsPerSecond(bits): BitsPerSecond) -> Self {
        Self {
            units: bits,
            period_ns: 8_000_000_000,
        }
    }

    /// Packets.
    pub const fn packets(PacketsPerSecond(packets): PacketsPerSecond) -> Self {
        Self {
            units: packets,
            period_ns: 1_000_000_000,
        }
    }

    /// Units that it lets through in `time_ns`, rounded down.
    pub fn units_in(&self, time_ns: u128) -> u64 {
        saturated(u128::from(self.units).saturating_mul(time_ns) / u128::from(self.period_ns))
    }

    fn fixed_point(&self) -> u64 {
        let units_per_ns = (u128::from(self.units) << RATE_SHIFT) / u128::from(self.period_ns);
        // 0 would mean that there is no limit.
        saturated(units_per_ns).max(1)
    }
}

fn saturated(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// When a revision's limits begin, and how far this host's coarse clock lags. CLOCK_MONOTONIC, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// When the revision is compiled: limits begin that were not there before.
    pub now_ns: u64,
    /// When rates change. The revision must be in force by then, and the coarse clock past `now_ns`.
    pub switch_ns: u64,
    /// The most that the coarse clock lags; 0 forbids its use.
    pub coarse_slack_ns: u64,
}

impl LimitPolicy {
    /// A limit where there was none: its queue is empty at `now_ns`. `clock` is what the limit's
    /// clock stands at.
    pub fn begin(rate: Rate, burst_units: u64, clock: u64, times: &Times) -> Self {
        let limit = Self {
            rate: rate.fixed_point(),
            origin_ns: times.now_ns,
            origin_units: clock,
            ..Self::default()
        };
        limit.with_burst(rate, burst_units, times)
    }

    /// The same limit in the next revision: another rate from `switch_ns` on, another burst as soon
    /// as the revision is in force.
    pub fn revise(&self, rate: Rate, burst_units: u64, times: &Times) -> Self {
        let fixed_point = rate.fixed_point();
        let limit = if fixed_point == self.rate {
            // A corner that even the coarse clock has passed needs no thought any more.
            let passed = times.now_ns > self.origin_ns.saturating_add(times.coarse_slack_ns);
            Self {
                rate_before: if passed { 0 } else { self.rate_before },
                ..*self
            }
        } else {
            // A line has one corner: an earlier revision's must be behind this one's.
            let switch_ns = times.switch_ns.max(self.origin_ns);
            Self {
                rate: fixed_point,
                origin_ns: switch_ns,
                origin_units: self.line(switch_ns),
                rate_before: self.rate,
                ..Self::default()
            }
        };
        limit.with_burst(rate, burst_units, times)
    }

    /// The same limit, at which each skb takes so many units above its own, up to [`PRICE_MAX`].
    ///
    /// A revision changes it with itself, and no clock: each packet is booked at the price of the revision that judges it.
    #[must_use]
    pub fn priced(self, price: u32) -> Self {
        Self {
            price: price.min(PRICE_MAX),
            ..self
        }
    }

    fn with_burst(self, rate: Rate, burst_units: u64, times: &Times) -> Self {
        // Just after the corner, the coarse clock may still show the rate before.
        let fastest = self.rate.max(self.rate_before);
        let slack = scale(times.coarse_slack_ns, fastest).saturating_add(2);
        // The coarse clock pays only where it costs a small part of the burst.
        let pays = times.coarse_slack_ns != 0 && slack.saturating_mul(8) <= burst_units;
        let slack = u32::try_from(slack).ok().filter(|_| pays).unwrap_or(0);
        let horizon = burst_units
            .min(BURST_MAX)
            .saturating_sub(u64::from(slack) + ROUNDING);
        let ns_per_unit = (u128::from(rate.period_ns) << 20) / u128::from(rate.units.max(1));
        Self {
            horizon,
            slack,
            // Departure times more than 2^44 ns away come early, rather than wrap.
            ns_per_unit: saturated(ns_per_unit).min(u64::MAX / horizon.max(1)),
            ..self
        }
    }
}
