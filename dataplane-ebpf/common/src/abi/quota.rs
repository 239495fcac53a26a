//! Budgets of bytes: what a tenant may have, by set of policy, and what it has had. The law is [`crate::quota`].

use super::{DIRECTIONS, LimitPolicy};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Index into `QUOTAS`: by set of policy and the tenant's account. `accounts` is the number of register slots.
#[inline(always)]
pub const fn quota_index(accounts: u32, policy_set: u32, account: u32) -> u32 {
    policy_set * accounts + account
}

/// Value of `QUOTAS`: a tenant's budget. `directions` 0: it has none.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct QuotaPolicy {
    /// What [`QuotaCounts::within`] (both words) stands at when the budget is spent, layer-2 bytes: a place on a
    /// count that only grows.
    pub threshold: u64,
    /// The budget of one period, layer-2 bytes.
    pub budget: u64,
    /// CLOCK_MONOTONIC ns: a daemon that lives has written the next period's threshold by then.
    pub until_ns: u64,
    /// How long the next periods are, ns.
    pub period_ns: u64,
    /// The zones that count, a bit each.
    pub zones: u64,
    /// The directions that count, a bit each: 1 from the tenant, 2 to the tenant.
    pub directions: u32,
    /// For later; 0.
    pub reserved: u32,
    /// By direction: what passes when the budget is spent. No limit: nothing does.
    pub then: [LimitPolicy; DIRECTIONS as usize],
}

/// Value of `QUOTA_COUNTS`: what a tenant has had of what its quotas count. Only programs write it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct QuotaCounts {
    /// By bank: layer-2 bytes that passed within a budget. They only grow.
    pub within: [u64; 2],
    /// By bank: layer-2 bytes that passed after it was spent, at the slower rate. They only grow.
    pub beyond: [u64; 2],
    /// By direction: the clock of [`QuotaPolicy::then`].
    pub clocks: [u64; DIRECTIONS as usize],
    /// For later; 0. A cache line.
    pub reserved: [u64; 2],
}

/// How often a port's packets were told to slow down, by slot and direction: what `MARKS` holds, in blocks.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Marks {
    /// Frames as on the wire that left with Congestion Experienced.
    pub marked: u64,
    /// Frames as on the wire that would have, and are not of an ECN-capable transport, or could not be written to.
    pub not_marked: u64,
}

const _: () = {
    assert!(size_of::<QuotaPolicy>() == 48 + 2 * 64 && size_of::<QuotaCounts>() == 64);
    assert!(size_of::<Marks>() == 16);
};
