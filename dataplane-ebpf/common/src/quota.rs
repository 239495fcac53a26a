//! A budget of bytes for each period, spent where the packets are.
//!
//! A tenant has one count of the bytes that passed within its budgets, which only grows, and each revision of policy
//! has a place on it, the *threshold*, at which the budget of its period is spent. A new period is a new threshold.
//! Nobody sets a count back, and no byte is lost or counted twice at a period's end: it was counted before it or after it.
//!
//! The count has a word for each bank of registers, written under the same epoch as the registers. So a cut reads what it
//! stood at when the window ended, to the byte what the window's records add up to.
//!
//! Invariants (`tests/quota`)
//! - What is counted passed, and what passed is counted, once: `within` or `beyond`.
//! - `within` ends at most one packet above the threshold, whatever the number of CPUs. While a window is cut, programs
//!   that began before and after it write two words and see each other's late: one packet for each CPU.
//! - Beyond the budget: what [`QuotaPolicy::then`] lets through, with the limiter's bound in each direction.
//! - Past [`QuotaPolicy::until_ns`] there is a budget more for each period that has begun since: whoever should have
//!   written the threshold is away, which is no fault of the tenant's.

use crate::{
    abi::{LimitPolicy, quota::QuotaPolicy},
    limiter::{Clock, Decision, Now, product},
};

/// The words of one tenant's [`crate::abi::quota::QuotaCounts`].
pub trait Counts {
    /// A word that several CPUs change at once.
    type Word: Clock;
    /// Bytes within budgets, of one bank.
    fn within(&self, bank: u32) -> Self::Word;
    /// Bytes beyond them, of one bank.
    fn beyond(&self, bank: u32) -> Self::Word;
    /// The clock of the slower rate in one direction.
    fn clock(&self, direction: u32) -> Self::Word;
}

/// A packet that a quota counts.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Layer-2 bytes as on the wire.
    pub l2_bytes: u64,
    /// Bank of the epoch that it is booked under.
    pub bank: u32,
    /// 0 from the tenant, 1 to the tenant.
    pub direction: u32,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// It passes within the budget.
    Within,
    /// The budget is spent; it passes at the slower rate.
    Beyond,
    /// The budget is spent, and it is dropped.
    Refused,
}

impl QuotaPolicy {
    /// [`QuotaPolicy::directions`] of what the tenant sends.
    pub const FROM: u32 = 1;
    /// Of what it receives.
    pub const TO: u32 = 2;

    /// Does it count what crosses in this direction and zone?
    #[inline(always)]
    pub const fn counts(&self, direction: u32, zone: u32) -> bool {
        self.directions >> (direction & 1) & 1 != 0 && self.zones >> (zone & 63) & 1 != 0
    }

    /// Up to where the count may go at `now_ns`: the threshold, and a budget for each period that began after the last
    /// one that somebody wrote a threshold for.
    #[inline(always)]
    pub const fn reach(&self, now_ns: u64) -> u64 {
        if self.until_ns == 0 || now_ns < self.until_ns {
            return self.threshold;
        }
        let late_ns = now_ns - self.until_ns;
        let periods = match late_ns.checked_div(self.period_ns) {
            Some(whole) => whole + 1,
            None => 1,
        };
        // A period is an hour at least; 2^16 of them are seven years.
        let periods = if periods < 1 << 16 { periods } else { 1 << 16 };
        // What would not fit is no bound any more.
        match product(self.budget, periods) {
            (0, more) => self.threshold.saturating_add(more),
            _ => u64::MAX,
        }
    }

    /// Decides on a packet that this quota counts, and books it when it passes.
    #[inline(always)]
    pub fn take<C: Counts, N: Now>(&self, counts: &C, now: &N, packet: Packet) -> Spent {
        let Packet {
            l2_bytes,
            bank,
            direction,
        } = packet;
        let (own, other) = (counts.within(bank & 1), counts.within(bank & 1 ^ 1));
        let mut reach = self.threshold;
        if own.load().wrapping_add(other.load()) >= reach {
            reach = self.reach(now.coarse_ns());
        }
        if own.load().wrapping_add(other.load()) < reach {
            // Of all that add at once, those pass that find the count below: one at most ends above.
            let was = own.fetch_add(l2_bytes).wrapping_add(other.load());
            if was < reach {
                return Spent::Within;
            }
            own.fetch_add(l2_bytes.wrapping_neg());
        }
        let then: &LimitPolicy = &self.then[(direction & 1) as usize];
        if !then.limited() {
            return Spent::Refused;
        }
        match then.take(&counts.clock(direction & 1), now, l2_bytes) {
            Decision::Pass { .. } => {
                counts.beyond(bank & 1).fetch_add(l2_bytes);
                Spent::Beyond
            }
            Decision::Over | Decision::Contended => Spent::Refused,
        }
    }
}
