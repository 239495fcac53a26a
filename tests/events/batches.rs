//! Batches that are made up, and a directory that goes with the test.

use anyhow::Result;
use metering::{
    record::{Kind, Reading, Record, leaf_hash},
    sink::{Batch, Item, Mark},
    window::Counts,
};
use std::{fs, path::PathBuf};

/// A batch of one reading of a zone, the record `seq` of a ledger.
pub fn batch(from: Mark, seq: u64) -> Batch {
    batch_of(from, seq, 1)
}

/// A batch of so many of them, from `seq` on.
pub fn batch_of(from: Mark, seq: u64, count: u64) -> Batch {
    let items: Vec<Item> = (seq..seq + count).map(item).collect();
    let leaf = items.last().map_or([0; 32], |item| item.leaf);
    Batch {
        ledger_id: [3; 16],
        host: "a host".into(),
        from,
        to: Mark {
            next: seq + count,
            leaf,
        },
        items,
        totals: Some(Vec::new()),
        head: None,
    }
}

fn item(seq: u64) -> Item {
    let record = Record {
        ledger_id: [3; 16],
        seq,
        kind: Kind::Meter,
        host: "a host".into(),
        tenant: 7,
        zone: Some(4),
        window_id: seq,
        window_first: seq,
        window_start: 1_795_000_000_000_000_000,
        window_end: 1_795_000_060_000_000_000,
        reading: Some(Reading {
            register_end: Counts {
                packets: 1,
                l2_bytes: u64::MAX,
                l3_bytes: 0,
            },
            ..Reading::default()
        }),
        ..Record::default()
    };
    let canonical = record.encode();
    Item {
        seq,
        leaf: leaf_hash(&canonical),
        record,
        canonical,
    }
}

/// A directory that goes with the test.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("octroi-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
