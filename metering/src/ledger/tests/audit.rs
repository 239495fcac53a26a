//! What is held against the records of all ledgers together: M-3.6, M-5.6, M-8, and that no byte is
//! billed twice or forgotten.

use super::{
    super::{Anchor, schema},
    Registers,
};
use crate::{
    record::{Flags, Kind, Record, leaf_hash},
    window::Counts,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Epoch, incarnation, direction and zone.
type Key = ([u8; 16], [u8; 16], u64, u8, Option<u32>);
type Span = [Counts; 2];

/// Every ledger that was ever seen, by its id.
#[derive(Default)]
pub struct Archive {
    ledgers: BTreeMap<[u8; 16], Vec<(Record, [u8; 32])>>,
}

impl Archive {
    /// Reads a file: its records must be those that are known of this ledger, or follow them.
    pub fn read(&mut self, path: &Path) {
        let rows = rows(path);
        let Some((first, _)) = rows.first() else {
            panic!("{}: no record at all", path.display());
        };
        audit_one(&rows);
        let known = self.ledgers.entry(first.ledger_id).or_default();
        let both = known.len().min(rows.len());
        assert_eq!(
            known[..both],
            rows[..both],
            "a committed record was changed"
        );
        if rows.len() > known.len() {
            *known = rows;
        }
    }

    /// What the anchor says of this ledger is so.
    pub fn is_at(&self, anchor: &Anchor) {
        let known = &self.ledgers[&anchor.ledger_id];
        assert_eq!(known.len() as u64, anchor.size);
        assert_eq!(known.last().map(|row| row.1), Some(anchor.head));
    }

    pub fn records(&self) -> usize {
        self.ledgers.values().map(Vec::len).sum()
    }

    /// Every byte of the registers is in one METER record, or in a NODATA that says it may have been.
    pub fn accounts_for(&self, registers: &Registers) {
        let mut billed = BTreeMap::<Key, Vec<Span>>::new();
        let mut said = BTreeMap::<Key, Vec<Span>>::new();
        let mut once = BTreeSet::new();
        for (record, _) in self.ledgers.values().flatten() {
            // A correction is a difference to a reading, and not the only one that a window may have.
            if !matches!(
                record.kind,
                Kind::Begin | Kind::Correction | Kind::Statement
            ) {
                let window = (key(record), record.window_id, record.kind as u8);
                assert!(once.insert(window), "a sink would refuse it: {record:?}");
            }
            let (Some(reading), at) = (record.reading, key(record)) else {
                continue;
            };
            let span = [reading.register_start, reading.register_end];
            match record.kind {
                Kind::Meter => billed.entry(at).or_default().push(span),
                _ => said.entry(at).or_default().push(span),
            }
        }
        for (key, spans) in &mut billed {
            spans.sort_by_key(|span| (span[0].packets, span[1].packets));
            for two in spans.windows(2) {
                let (end, start) = (two[0][1], two[1][0]);
                assert!(
                    start.checked_sub(end).is_some(),
                    "{key:?}: billed twice: {two:?}"
                );
            }
        }
        for (((boot, maps), incarnation), directions) in registers {
            for (direction, sums) in (0..).zip(directions) {
                let key = (*boot, *maps, *incarnation, direction, None);
                let mut spans = billed.get(&key).cloned().unwrap_or_default();
                spans.extend(said.get(&key).into_iter().flatten());
                spans.sort_by_key(|span| (span[0].packets, span[1].packets));
                let mut reach = Counts::default();
                for [start, end] in &spans {
                    assert!(
                        reach.checked_sub(*start).is_some(),
                        "{key:?}: forgotten between {reach:?} and {start:?}"
                    );
                    if end.checked_sub(reach).is_some() {
                        reach = *end;
                    }
                }
                let zones = sums.zones.iter().copied();
                let total = zones.fold(Counts::default(), |sum, zone| {
                    sum.checked_add(zone).expect("registers do not overflow")
                });
                assert_eq!(reach, total, "{key:?}: not all is accounted for: {spans:?}");
            }
        }
    }

    /// Packets, bytes that are billed, and bytes that are said to be perhaps delivered.
    pub fn sums(&self) -> (u64, u64) {
        let mut sums = (0, 0);
        let records = self.ledgers.values().flatten().map(|row| &row.0);
        for record in records.filter(|record| record.zone.is_none()) {
            let bytes = record.counted().unwrap_or_default().l2_bytes;
            match record.kind {
                Kind::Meter => sums.0 += bytes,
                _ => sums.1 += bytes,
            }
        }
        sums
    }
}

fn key(record: &Record) -> Key {
    (
        record.boot_id,
        record.map_generation,
        record.incarnation,
        record.direction,
        record.zone,
    )
}

/// The rows of a file. The columns and the leaf are those of the canonical bytes.
fn rows(path: &Path) -> Vec<(Record, [u8; 32])> {
    let db = schema::open_to_read(path).expect("a ledger can be read");
    let mut statement = db
        .prepare(
            "SELECT canonical, leaf, seq, kind, stream_seq, tenant, tenant_seq, incarnation, direction, \
             zone, window_id, window_start, window_end, flags, packets, l2_bytes, l3_bytes, boot_id, \
             map_generation, port_uid FROM record ORDER BY seq",
        )
        .expect("it has the table");
    let rows = statement.query_map([], |row| {
        let canonical: Vec<u8> = row.get(0)?;
        let leaf: [u8; 32] = row.get(1)?;
        let record = Record::decode(&canonical).expect("canonical bytes are a record");
        assert_eq!(record.encode(), canonical);
        assert_eq!(leaf, leaf_hash(&canonical));
        let counted = record.counted().unwrap_or_default();
        let columns = [
            record.seq as i64,
            record.kind as i64,
            record.stream_seq as i64,
            i64::from(record.tenant),
            record.tenant_seq as i64,
            record.incarnation as i64,
            i64::from(record.direction),
            record.zone.map_or(-1, i64::from),
            record.window_id as i64,
            record.window_start,
            record.window_end,
            i64::from(record.flags.0),
            counted.packets as i64,
            counted.l2_bytes as i64,
            counted.l3_bytes as i64,
        ];
        for (at, column) in (2..).zip(columns) {
            assert_eq!(row.get::<_, i64>(at)?, column, "column {at} of {record:?}");
        }
        assert_eq!(row.get::<_, [u8; 16]>(17)?, record.boot_id);
        assert_eq!(row.get::<_, [u8; 16]>(18)?, record.map_generation);
        assert_eq!(row.get::<_, String>(19)?, record.port_uid);
        Ok((record, leaf))
    });
    rows.expect("it can be asked")
        .collect::<Result<_, _>>()
        .expect("it can be read")
}

/// What holds inside one ledger.
fn audit_one(rows: &[(Record, [u8; 32])]) {
    let (mut streams, mut tenants) = (BTreeMap::<u8, u64>::new(), BTreeMap::<u32, u64>::new());
    let mut ends = BTreeMap::<Key, Counts>::new();
    let mut windows = BTreeMap::<Key, u64>::new();
    let mut totals = BTreeMap::<(Key, u64), (Counts, Counts)>::new();
    let mut over = BTreeSet::new();
    for (seq, (record, _)) in (0..).zip(rows) {
        assert_eq!(record.seq, seq);
        assert_eq!(record.ledger_id, rows[0].0.ledger_id);
        let stream = streams.entry(record.kind as u8).or_default();
        assert_eq!(record.stream_seq, *stream);
        *stream += 1;
        assert_eq!(record.kind == Kind::Begin, seq == 0);
        if record.kind == Kind::Begin {
            continue;
        }
        let tenant = tenants.entry(record.tenant).or_default();
        assert_eq!(record.tenant_seq, *tenant);
        *tenant += 1;
        if matches!(record.kind, Kind::Correction | Kind::Statement) {
            continue;
        }
        let key = key(record);
        assert!(!over.contains(&key), "after RESET: {record:?}");
        if record.flags.has(Flags::RESET) && record.zone.is_none() {
            over.insert(key);
        }
        if record.zone.is_none()
            && let Some(window) = windows.insert(key, record.window_id)
        {
            assert_eq!(record.window_first, window + 1, "{record:?}");
        }
        let Some(reading) = record.reading else {
            continue;
        };
        let counted = record.counted().expect("a reading goes forward");
        if let Some(end) = ends.insert(key, reading.register_end) {
            assert_eq!(end, reading.register_start, "{record:?}");
        }
        let mut all = key;
        all.4 = None;
        let sums = totals.entry((all, record.window_id)).or_default();
        let side = match record.zone {
            None => &mut sums.0,
            Some(_) => &mut sums.1,
        };
        *side = side.checked_add(counted).expect("sums fit");
        if record.kind == Kind::Nodata {
            sums.1 = counted;
        }
    }
    for (key, (total, zones)) in totals {
        assert_eq!(total, zones, "zones do not sum to their * record: {key:?}");
    }
}
