//! Batches of a ledger that is made up, for the tests of sinks.

use super::{Batch, Item, Mark, Totals};
use crate::{
    record::{Correction, Flags, Kind, Reading, Record, Total, leaf_hash},
    window::Counts,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// A ledger of which every third record is a total, which is not offered, and every tenth a correction.
pub(super) struct Story {
    pub id: [u8; 16],
    pub host: &'static str,
    /// Added to the numbers of its windows.
    pub window: u64,
    records: Vec<Record>,
}

impl Story {
    pub fn new(id: u8, records: u64) -> Self {
        let mut story = Self {
            id: [id; 16],
            host: "host",
            window: 0,
            records: Vec::new(),
        };
        story.grow(records);
        story
    }

    pub fn grow(&mut self, records: u64) {
        let from = self.records.len() as u64;
        self.records.extend((from..from + records).map(|seq| {
            let bytes = 1 << (seq % 64);
            let mut record = Record {
                ledger_id: self.id,
                seq,
                kind: Kind::Meter,
                host: self.host.into(),
                boot_id: [7; 16],
                map_generation: [8; 16],
                port_uid: format!("=port \"{}\"", seq % 2),
                tenant: (seq % 5) as u32,
                direction: (seq % 2) as u8,
                zone: Self::is_offered(seq).then_some((seq % 4) as u32),
                total: (!Self::is_offered(seq)).then(Total::default),
                window_id: self.window + seq / 4,
                window_first: self.window + seq / 4,
                window_start: 1_795_000_000_000_000_000 + seq as i64,
                window_end: 1_795_000_060_000_000_000 + seq as i64,
                reading: Some(Reading {
                    register_end: Counts {
                        packets: bytes,
                        l2_bytes: bytes,
                        l3_bytes: bytes / 2,
                    },
                    ..Reading::default()
                }),
                ..Record::default()
            };
            if seq % 10 == 9 {
                record.kind = Kind::Correction;
                record.flags = Flags::CORRECTION;
                record.reading = None;
                record.correction = Some(Correction {
                    ledger_id: self.id,
                    corrects: seq - 1,
                    l2_bytes: -5,
                    reason: "a, \"reason\"".into(),
                    ..Correction::default()
                });
            }
            record
        }));
    }

    pub fn size(&self) -> u64 {
        self.records.len() as u64
    }

    fn is_offered(seq: u64) -> bool {
        seq % 3 != 2 || seq % 10 == 9
    }

    fn item(&self, seq: u64) -> Item {
        let record = self.records[seq as usize].clone();
        let canonical = record.encode();
        assert_eq!(record.check(), Ok(()));
        Item {
            seq,
            leaf: leaf_hash(&canonical),
            record,
            canonical,
        }
    }

    pub fn mark(&self, next: u64) -> Mark {
        match next.checked_sub(1) {
            None => Mark::NONE,
            Some(last) => Mark {
                next,
                leaf: self.item(last).leaf,
            },
        }
    }

    pub fn batch(&self, from: u64, past: u64) -> Batch {
        let offered = (from..past).filter(|seq| Self::is_offered(*seq));
        let totals = (from..past).filter(|seq| !Self::is_offered(*seq));
        Batch {
            ledger_id: self.id,
            host: self.host.into(),
            from: self.mark(from),
            to: self.mark(past),
            items: offered.map(|seq| self.item(seq)).collect(),
            totals: Some(totals.map(|seq| self.item(seq)).collect()),
            head: None,
        }
    }

    /// What a sink must have of the records below a seq.
    pub fn totals(&self, below: u64) -> Totals {
        let mut totals = Totals::default();
        for item in self.batch(0, below).items {
            totals.add(&item);
        }
        totals
    }
}

/// A directory that goes with the test.
pub(super) struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(format!("octroi-sink-{process}-{number}"));
        fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }

    /// Names of what is in a directory, ascending.
    pub fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).expect("a directory");
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
