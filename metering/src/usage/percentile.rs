//! The 95th percentile of five-minute slots: `docs/METERING.md`, M-16.9 to M-16.12.

use super::SLOT_NS;

/// Slots of one group, by direction, over a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// Layer-2 bytes of each slot, from the tenant and to the tenant.
    pub bytes: [Vec<u64>; 2],
    /// Slots that something is not known of, likewise.
    pub unknown: [Vec<bool>; 2],
}

/// Percentiles of a period, in layer-2 bytes of a slot; `None` where no slot is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct P95 {
    /// Slots of the period.
    pub slots: u64,
    /// Slots that were left out: from the tenant, to the tenant, and in either.
    pub left_out: [u64; 3],
    /// From the tenant, to the tenant.
    pub by_direction: [Option<u64>; 2],
    /// `max(p95 from, p95 to)`.
    pub max_of_both: Option<u64>,
    /// `p95(max(from, to))`, over the slots that are known in both directions.
    pub of_max: Option<u64>,
}

/// The place of the 95th percentile among `count` values in ascending order, from 1: ⌈0.95 · count⌉.
#[must_use]
pub const fn rank(count: u64) -> u64 {
    // No product that could overflow: of every whole hundred 95, and of the rest 95 %, rounded up.
    count / 100 * 95 + (count % 100 * 95).div_ceil(100)
}

/// The value at [`rank`]; `None` without values.
#[must_use]
pub fn p95(mut values: Vec<u64>) -> Option<u64> {
    let index = usize::try_from(rank(values.len() as u64).checked_sub(1)?).ok()?;
    let (_, value, _) = values.select_nth_unstable(index);
    Some(*value)
}

/// Bits per second of a slot, rounded down.
#[must_use]
pub fn bits_per_second(bytes: u64) -> u64 {
    let bits = u128::from(bytes) * 8_000_000_000;
    u64::try_from(bits / u128::from(SLOT_NS.unsigned_abs())).unwrap_or(u64::MAX)
}

impl Slots {
    /// None carries anything yet.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            bytes: [vec![0; count], vec![0; count]],
            unknown: [vec![false; count], vec![false; count]],
        }
    }

    /// Both conventions over the first `count` slots.
    #[must_use]
    pub fn p95(&self, count: usize) -> P95 {
        let [from, to] = [0, 1].map(|way: usize| {
            let slots = self.bytes[way].iter().zip(&self.unknown[way]);
            let slots = slots.take(count).map(|(bytes, unknown)| (*bytes, *unknown));
            slots.collect::<Vec<_>>()
        });
        let known = |slots: &[(u64, bool)]| -> Vec<u64> {
            let known = slots.iter().filter(|(_, unknown)| !unknown);
            known.map(|(bytes, _)| *bytes).collect()
        };
        let both = from.iter().zip(&to);
        let both = both.map(|(from, to)| (from.0.max(to.0), from.1 || to.1));
        let lists = [known(&from), known(&to), known(&both.collect::<Vec<_>>())];
        let slots = from.len() as u64;
        let left_out = [0, 1, 2].map(|list: usize| slots - lists[list].len() as u64);
        let [from, to, of_max] = lists.map(p95);
        P95 {
            slots,
            left_out,
            by_direction: [from, to],
            max_of_both: from.zip(to).map(|(from, to)| from.max(to)),
            of_max,
        }
    }
}
