//! What a ledger says, audited as it is read.

use anyhow::{Context as _, Result, ensure};
use metering::{
    ledger::{self, Filter},
    record::{Flags, Kind, Record},
    window::Counts,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// All records of a ledger.
pub struct Bill {
    pub records: Vec<Record>,
}

impl Bill {
    /// Reads and audits: nothing is missing, nothing is there twice, everything adds up.
    pub fn read(path: &Path) -> Result<Self> {
        let rows = ledger::records(path, &Filter::default())?;
        let records: Vec<Record> = rows
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|(seq, error)| anyhow::anyhow!("record {seq}: {error}"))?;
        let mut ends = BTreeMap::new();
        let mut zones = BTreeMap::<_, Counts>::new();
        for (seq, record) in (0..).zip(&records) {
            ensure!(record.seq == seq, "record {seq} is missing");
            if record.kind != Kind::Meter {
                continue;
            }
            let owner = (record.map_generation, record.incarnation, record.direction);
            let reading = record.reading.context("no reading")?;
            let end = ends.insert((owner, record.zone), reading.register_end);
            ensure!(
                end.unwrap_or_default() == reading.register_start,
                "record {seq} does not continue: {record:?}"
            );
            let counted = record.counted().context("it goes back")?;
            let sum = zones.entry((owner, record.window_id)).or_default();
            // `*` less its zones, in numbers that wrap: 0 in the end.
            let sign = |value: u64| {
                if record.zone.is_none() {
                    value
                } else {
                    value.wrapping_neg()
                }
            };
            sum.packets = sum.packets.wrapping_add(sign(counted.packets));
            sum.l2_bytes = sum.l2_bytes.wrapping_add(sign(counted.l2_bytes));
            sum.l3_bytes = sum.l3_bytes.wrapping_add(sign(counted.l3_bytes));
        }
        for ((owner, window), rest) in zones {
            ensure!(
                rest == Counts::default(),
                "window {window} of {owner:?}: zones and `*` differ by {rest:?}"
            );
        }
        Ok(Self { records })
    }

    /// What a tenant's port sent, delivered and dropped.
    pub fn sent_by(&self, tenant: &str) -> Counts {
        let port = format!("{tenant}-port");
        let mut sum = Counts::default();
        let all = self.records.iter().filter(|record| {
            record.kind == Kind::Meter
                && record.port_uid == port
                && record.direction == 0
                && record.zone.is_none()
        });
        for record in all {
            let counted = record.counted().unwrap_or_default();
            sum.packets += counted.packets;
            sum.l2_bytes += counted.l2_bytes;
            for dropped in record.total.iter().flat_map(|total| &total.drops) {
                sum.packets += dropped.packets;
                sum.l2_bytes += dropped.l2_bytes;
            }
        }
        sum
    }

    pub fn windows(&self) -> usize {
        let windows: BTreeSet<u64> = self.records.iter().map(|record| record.window_id).collect();
        windows.len()
    }

    pub fn flagged(&self, flags: Flags) -> usize {
        let has = |record: &&Record| record.flags.has(flags);
        self.records.iter().filter(has).count()
    }
}
