//! Batches of ledgers that are made up.

use metering::{
    record::{Correction, Flags, Kind, Record, leaf_hash},
    sink::{Batch, Item, Mark},
};

/// A ledger's first batch, of one correction with the number `seq`.
pub fn correction(ledger_id: [u8; 16], seq: u64) -> Batch {
    let record = Record {
        ledger_id,
        seq,
        kind: Kind::Correction,
        host: "h".into(),
        flags: Flags::CORRECTION,
        tenant: 1,
        zone: Some(4),
        window_id: 9,
        window_first: 9,
        correction: Some(Correction {
            ledger_id: [1; 16],
            corrects: 2,
            l2_bytes: -7,
            reason: "a reason".into(),
            ..Correction::default()
        }),
        ..Record::default()
    };
    let canonical = record.encode();
    let leaf = leaf_hash(&canonical);
    Batch {
        ledger_id,
        host: "h".into(),
        from: Mark::NONE,
        to: Mark {
            next: seq + 1,
            leaf,
        },
        items: vec![Item {
            seq,
            leaf,
            record,
            canonical,
        }],
        totals: Some(Vec::new()),
        head: None,
    }
}
