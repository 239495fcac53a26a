//! From guarantee, ceiling, weight and capacity as people ask for them to what [`super::take`] reads.
//!
//! Invariants
//! - A revision keeps the lines of ceilings and guarantees ([`crate::limit`]). A new weight makes what is
//!   borrowed begin anew, with at most one period's share.
//! - What a link carries while one change of α is waited for is at least [`FRAMES_MIN`] full frames: a
//!   count of three packets says nothing about a rate.

use crate::{
    abi::{
        LimitPolicy,
        share::{ShareClocks, SharePolicy, UplinkPolicy},
    },
    limit::{PRICE_MAX, Rate, Times},
    share::due,
    units::BitsPerSecond,
};

/// The shortest time between two changes of α, ns.
pub const PERIOD_NS: u64 = 4_000_000;

/// Full frames that a link carries in a period, at least.
pub const FRAMES_MIN: u64 = 32;

pub use crate::wire::FRAME_BYTES;

/// The smallest, likewise.
pub const FRAME_MIN_BYTES: u16 = 60;

/// What a guarantee lets through at once after a pause, ns of it, where nothing can wait.
pub const GUARANTEE_BURST_NS: u64 = 8_000_000;

/// Where it can: the longest wait for a departure, ns; or two periods, where they are longer.
pub const HORIZON_NS: u64 = 32_000_000;

/// A tenant's part of an uplink in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Always available, bytes of the link; none: nothing is.
    pub guarantee: Option<BitsPerSecond>,
    /// Never exceeded, layer-2 bytes, and its burst in bytes; none: the link.
    pub ceiling: Option<(BitsPerSecond, u64)>,
    /// Part of what is left, 1..=[`SharePolicy::WEIGHT_MAX`].
    pub weight: u32,
    /// The uplink's number.
    pub uplink: u32,
    /// [`UplinkPolicy::horizon_ns`] of that uplink.
    pub horizon_ns: u64,
    /// What an skb pays above its bytes, bytes: the uplink's.
    pub price: u32,
}

impl SharePolicy {
    /// What is asked for, continuing `before` in the revision before; `clocks` is what they stand at.
    pub fn new(ask: &Ask, before: Option<&Self>, clocks: &ShareClocks, times: &Times) -> Self {
        // The exact clock is read anyway.
        let times = &Times {
            coarse_slack_ns: 0,
            ..*times
        };
        let line = |old: Option<&LimitPolicy>, bits: BitsPerSecond, burst: u64, clock: u64| {
            let rate = Rate::bytes(bits);
            match old.filter(|old| old.limited()) {
                Some(old) => old.revise(rate, burst, times),
                None => LimitPolicy::begin(rate, burst, clock, times),
            }
        };
        let ceiling = ask.ceiling.map(|(bits, burst)| {
            let old = before.map(|before| &before.ceiling);
            line(old, bits, burst, clocks.ceiling).priced(ask.price)
        });
        let guarantee = ask.guarantee.map(|bits| {
            let old = before.map(|before| &before.guarantee);
            // What waits has its departure by then: the clock is as far ahead as the last one of them.
            let burst = match ask.horizon_ns {
                0 => guarantee_burst(bits, ask.price),
                time_ns => Rate::bytes(bits)
                    .units_in(time_ns.into())
                    .max(two_frames(ask.price)),
            };
            line(old, bits, burst, clocks.guarantee).priced(ask.price)
        });
        Self {
            ceiling: ceiling.unwrap_or_default(),
            guarantee: guarantee.unwrap_or_default(),
            weight: ask.weight.clamp(1, Self::WEIGHT_MAX),
            uplink: ask.uplink,
            reserved: 0,
        }
    }
}

/// Bytes of the link that a guarantee lets through at once after a pause: two full frames at least.
pub fn guarantee_burst(guarantee: BitsPerSecond, price: u32) -> u64 {
    let burst = Rate::bytes(guarantee).units_in(GUARANTEE_BURST_NS.into());
    burst.max(two_frames(price))
}

/// What two full frames take at this price, bytes.
fn two_frames(price: u32) -> u64 {
    2 * (FRAME_BYTES + u64::from(price))
}

impl UplinkPolicy {
    /// A link of so many bits a second that so many `tenants` share, with `overhead` bytes on the wire beside each packet,
    /// and a `price` that each skb pays above them, up to [`PRICE_MAX`].
    pub fn new(capacity: BitsPerSecond, (overhead, price): (u16, u32), tenants: u32) -> Self {
        let price = price.min(PRICE_MAX);
        let bits = capacity.0.max(1);
        let frames = u64::from(tenants / 2).max(FRAMES_MIN);
        let frames = frames * (FRAME_BYTES + u64::from(overhead) + u64::from(price));
        let period_ns = (frames * 8_000_000_000 / bits).max(PERIOD_NS);
        let rate = Rate::bytes(capacity);
        let fixed = LimitPolicy::begin(rate, 0, 0, &Times::default()).rate;
        Self {
            rate: fixed,
            period_ns,
            stop: rate.units_in(period_ns.into()),
            overhead,
            packet_min: FRAME_MIN_BYTES,
            price,
            horizon_ns: 0,
            ns_per_byte: 0,
            early: 0,
            slice_shift: 0,
            reserved: 0,
        }
    }

    /// The same where what is over a share waits for its departure. Of the link's `capacity`, `guaranteed` is all that
    /// tenants have guaranteed.
    ///
    /// What is guaranteed goes before what waits, and may come while a horizon of it waits already: so much stands before
    /// the link then. It is to be no more than half a period and [`GUARANTEE_BURST_NS`]: with half a period that departures are behind
    /// their slot, half of one before it, a quarter for their order, and a quarter for what happens between two looks at what
    /// stands before the link, that is the bound of a link without a queue.
    #[must_use]
    pub fn queued(self, capacity: BitsPerSecond, guaranteed: BitsPerSecond) -> Self {
        let most = u128::from(self.period_ns / 2 + GUARANTEE_BURST_NS);
        let most = most * u128::from(capacity.0) / u128::from(guaranteed.0.max(1));
        let horizon_ns = u64::try_from(most).unwrap_or(u64::MAX);
        let horizon_ns = horizon_ns.min(HORIZON_NS.max(2 * self.period_ns));
        let rate = Rate::bytes(capacity);
        let stop = rate.units_in((horizon_ns + self.period_ns).into());
        let ns_per_byte = (u128::from(rate.period_ns) << 20) / u128::from(rate.units.max(1));
        Self {
            stop,
            horizon_ns,
            ns_per_byte: u64::try_from(ns_per_byte)
                .unwrap_or(u64::MAX)
                .min(u64::MAX / LARGEST / 2),
            early: self.carries(self.period_ns / 2).max(1),
            slice_shift: due::slice_shift(horizon_ns + 2 * self.period_ns),
            ..self
        }
    }
}

/// More than any packet has, bytes.
const LARGEST: u64 = 1 << 20;
