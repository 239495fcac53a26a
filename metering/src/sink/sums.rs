//! What is added up, here and at a sink, to be compared.

use super::Item;
use std::collections::BTreeMap;

/// Sums of a tenant in one direction and zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Records.
    pub records: i64,
    /// Frames.
    pub packets: i128,
    /// Layer-2 bytes.
    pub l2_bytes: i128,
    /// IP bytes.
    pub l3_bytes: i128,
}

/// Sums by the tenant's number, the direction (0 from the tenant, 1 to the tenant) and the zone's number (−1: none).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals(
    /// By (tenant, direction, zone).
    pub BTreeMap<(i64, i16, i64), Sums>,
);

impl Totals {
    /// Adds what a record bills, if it bills something.
    pub fn add(&mut self, item: &Item) {
        let Some([packets, l2_bytes, l3_bytes]) = item.billed() else {
            return;
        };
        let record = &item.record;
        let key = (
            i64::from(record.tenant),
            i16::from(record.direction),
            item.zone(),
        );
        let sums = self.0.entry(key).or_default();
        sums.records = sums.records.saturating_add(1);
        sums.packets = sums.packets.saturating_add(packets);
        sums.l2_bytes = sums.l2_bytes.saturating_add(l2_bytes);
        sums.l3_bytes = sums.l3_bytes.saturating_add(l3_bytes);
    }
}
