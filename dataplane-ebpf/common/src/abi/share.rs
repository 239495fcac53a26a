//! How tenants share an uplink: what is asked for, by set of policy, and what happens. The law is
//! [`crate::share`].

use super::{DIRECTIONS, LimitPolicy};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

/// Uplinks that can be shared.
pub const UPLINKS_MAX: u32 = 8;

/// Index into `SHARES`: by set of policy, the tenant's account and direction. `accounts` is the number of
/// register slots.
#[inline(always)]
pub const fn share_index(accounts: u32, policy_set: u32, account: u32, direction: u32) -> u32 {
    (policy_set * accounts + account) * DIRECTIONS + direction
}

/// Index into `SHARE_CLOCKS`: by account and direction.
#[inline(always)]
pub const fn share_clocks_index(account: u32, direction: u32) -> u32 {
    account * DIRECTIONS + direction
}

/// Index into `UPLINKS`: by set of policy, uplink and direction.
#[inline(always)]
pub const fn uplink_index(policy_set: u32, uplink: u32, direction: u32) -> u32 {
    (policy_set * UPLINKS_MAX + uplink) * DIRECTIONS + direction
}

/// Index into `UPLINK_SHARE`: by uplink and direction.
#[inline(always)]
pub const fn uplink_share_index(uplink: u32, direction: u32) -> u32 {
    uplink * DIRECTIONS + direction
}

/// Value of `SHARES`: a tenant's part of its uplink in one direction. `weight` 0: it shares none.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SharePolicy {
    /// Never exceeded; layer-2 bytes.
    pub ceiling: LimitPolicy,
    /// Always available; bytes of the link ([`UplinkPolicy::charge`]), in which its price is.
    pub guarantee: LimitPolicy,
    /// Part of what is left, 1..=[`SharePolicy::WEIGHT_MAX`].
    pub weight: u32,
    /// The uplink's number, below [`UPLINKS_MAX`].
    pub uplink: u32,
    /// For later; 0.
    pub reserved: u64,
}

impl SharePolicy {
    /// Largest weight: a line that is read in 256ths of a byte per weight then moves in steps of 40 bytes.
    pub const WEIGHT_MAX: u32 = 10_000;
}

/// Value of `SHARE_CLOCKS`: what a tenant has used in one direction. Only programs write it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ShareClocks {
    /// Clock of [`SharePolicy::ceiling`].
    pub ceiling: u64,
    /// Clock of [`SharePolicy::guarantee`].
    pub guarantee: u64,
    /// Clock of what is borrowed, 256ths of a byte of the link.
    pub borrowed: u64,
    /// 1 + the last period in which it asked for more than its share; 0: none.
    pub limited: u64,
    /// When the last of its packets that had to wait leaves, CLOCK_MONOTONIC ns.
    pub departs: u64,
    /// For later; 0. A cache line.
    pub reserved: [u64; 3],
}

/// Value of `UPLINKS`: what an uplink carries in one direction. `rate` 0: nobody shares it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct UplinkPolicy {
    /// Bytes of the link per ns, times 2^58.
    pub rate: u64,
    /// Time between two changes of α, ns.
    pub period_ns: u64,
    /// Bytes ahead of the link within which what is borrowed passes.
    pub stop: u64,
    /// Bytes on the wire beside each packet.
    pub overhead: u16,
    /// Layer-2 bytes that the smallest packet takes.
    pub packet_min: u16,
    /// Bytes that an skb takes above those of its packets, as [`LimitPolicy::price`].
    pub price: u32,
    /// How long what is over a share may wait for its departure, ns; 0: it is refused.
    pub horizon_ns: u64,
    /// ns that the link takes for a byte, times 2^20: for departure times.
    pub ns_per_byte: u64,
    /// Bytes that may stand before the link because they left before their slot; 0 where nothing waits.
    pub early: u64,
    /// Departures are counted by slices of 2^this ns: [`UplinkShare::due`].
    pub slice_shift: u32,
    /// For later; 0.
    pub reserved: u32,
}

/// Where the lines of one period begin: all that a packet reads of it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SharePace {
    /// When the period began, CLOCK_MONOTONIC ns.
    pub origin_ns: u64,
    /// α: bytes per ns and weight, times 2^58.
    pub alpha: u64,
    /// ∫α: what one unit of weight has been given, 256ths of a byte, modulo 2^64.
    pub integral: u64,
    /// What is less than that, in 2^-50 of it.
    pub fraction: u64,
    /// What α of lately gives one unit of weight in a period, or in [`UplinkPolicy::horizon_ns`], 256ths of a byte: the
    /// horizon of what is borrowed.
    pub reach: u64,
    /// What the link could have carried by then, on the scale of `guaranteed + borrowed`.
    pub carried: u64,
    /// Periods in a row in which more was asked for than there was room.
    pub pressed: u64,
    /// Bytes that stood before the link at the beginning, neither carried nor waiting, less [`UplinkShare::early`] then;
    /// modulo 2^64.
    pub stands: u64,
}

/// One period of an uplink: its pace, and what the counts stood at.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ShareLine {
    /// Where lines begin.
    pub pace: SharePace,
    /// [`UplinkShare::guaranteed`] at the beginning.
    pub guaranteed: u64,
    /// [`UplinkShare::borrowed`], likewise.
    pub borrowed: u64,
    /// [`UplinkShare::refused`], likewise.
    pub refused: u64,
    /// [`UplinkShare::limited`], likewise.
    pub limited: u64,
    /// Weights of the tenants that asked for more lately: of the most of them, and fading.
    pub held: u64,
    /// For later; 0.
    pub reserved: [u64; 3],
}

/// Value of `UPLINK_SHARE`: what happens on an uplink in one direction. Only programs write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UplinkShare {
    /// Twice the number of the period in force; odd while a program makes the next one.
    pub state: u64,
    /// Bytes that passed within guarantees, ever.
    pub guaranteed: u64,
    /// Bytes that passed beside them.
    pub borrowed: u64,
    /// Bytes that were within a tenant's share, and that the link had no room for.
    pub refused: u64,
    /// Weights of tenants that asked for more than their share, each once a period, ever.
    pub limited: u64,
    /// Bytes that left before their slot, each by the part of its slot that it did not wait for, ever.
    pub early: u64,
    /// For later; 0. The counts have a cache line of their own.
    pub reserved: [u64; 2],
    /// The period in force is at its number modulo [`UplinkShare::LINES`].
    pub lines: [ShareLine; 4],
    /// Bytes that wait, by the slice of time in which they depart: its number modulo [`UplinkShare::SLICES`].
    pub due: [u64; UplinkShare::SLICES as usize],
}

impl Default for UplinkShare {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl UplinkShare {
    /// Periods that are kept: who reads one has the time of two more to do it.
    pub const LINES: u64 = 4;

    /// Slices of time in [`UplinkShare::due`].
    pub const SLICES: u64 = 64;
}

const _: () = {
    assert!(size_of::<SharePolicy>() == 2 * 64 + 16);
    assert!(size_of::<ShareClocks>() == 64 && size_of::<UplinkPolicy>() == 64);
    assert!(
        size_of::<SharePace>() == 64
            && size_of::<ShareLine>() == 128
            && size_of::<UplinkShare>() == 64 + 4 * 128 + 64 * 8
    );
};
