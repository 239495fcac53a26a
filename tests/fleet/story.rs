//! Ledgers that are made up, and what a store must have of them: added up here, by hand.

use metering::{
    record::{Kind, Reading, Record, leaf_hash},
    sink::{Batch, Item, Mark},
    window::Counts,
};

/// A ledger of readings of one port, each of a window of its own, two tenants in turn.
pub struct Story {
    pub id: [u8; 16],
    pub host: String,
    items: Vec<Item>,
}

impl Story {
    pub fn new(id: u8, host: &str, records: u64) -> Self {
        let mut story = Self {
            id: [id; 16],
            host: host.into(),
            items: Vec::new(),
        };
        for seq in 0..records {
            story.add(seq, 1_000 + seq);
        }
        story
    }

    /// Adds a reading of so many bytes in the window of this number.
    pub fn add(&mut self, window: u64, bytes: u64) {
        let minute = 60_000_000_000_i64;
        let start = 1_795_000_020_000_000_000 + minute * window as i64;
        let tenant = 1 + (window % 2) as u32;
        self.span(window, (start, start + minute), tenant, bytes);
    }

    /// The same of a tenant, from one moment to another.
    pub fn span(&mut self, window: u64, (start, end): (i64, i64), tenant: u32, bytes: u64) {
        let seq = self.items.len() as u64;
        let record = Record {
            ledger_id: self.id,
            seq,
            kind: Kind::Meter,
            host: self.host.clone(),
            boot_id: [7; 16],
            map_generation: [8; 16],
            port_uid: "port".into(),
            incarnation: 1,
            tenant,
            zone: Some(4),
            window_id: window,
            window_first: window,
            window_start: start,
            window_end: end,
            reading: Some(Reading {
                register_end: Counts {
                    packets: 1,
                    l2_bytes: bytes,
                    l3_bytes: bytes / 2,
                },
                ..Reading::default()
            }),
            ..Record::default()
        };
        let canonical = record.encode();
        self.items.push(Item {
            seq,
            leaf: leaf_hash(&canonical),
            record,
            canonical,
        });
    }

    pub fn size(&self) -> u64 {
        self.items.len() as u64
    }

    pub fn mark(&self, next: u64) -> Mark {
        match next.checked_sub(1) {
            None => Mark::NONE,
            Some(last) => Mark {
                next,
                leaf: self.items[last as usize].leaf,
            },
        }
    }

    pub fn batch(&self, from: Mark, past: u64) -> Batch {
        Batch {
            ledger_id: self.id,
            host: self.host.clone(),
            from,
            to: self.mark(past),
            items: self.items[from.next as usize..past as usize].to_vec(),
            totals: None,
            head: None,
        }
    }

    /// Records and bytes of the first so many.
    pub fn sum(&self, past: u64) -> (u64, u64) {
        (past, (0..past).map(|seq| 1_000 + seq).sum())
    }
}
