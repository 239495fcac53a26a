//! The columns of a record's row against its canonical bytes.

use crate::record::{self, Record};
use rusqlite::{Row, types::ValueRef};

/// The table's columns in the order in which they are read here.
pub(super) const SELECT: &str = "SELECT seq, canonical, leaf, kind, stream_seq, tenant, tenant_seq, \
     boot_id, map_generation, port_uid, incarnation, direction, zone, window_id, window_start, window_end, \
     flags, packets, l2_bytes, l3_bytes FROM record ORDER BY seq";

/// Names of what is read after `leaf`.
const NAMES: [&str; 17] = [
    "kind",
    "stream_seq",
    "tenant",
    "tenant_seq",
    "boot_id",
    "map_generation",
    "port_uid",
    "incarnation",
    "direction",
    "zone",
    "window_id",
    "window_start",
    "window_end",
    "flags",
    "packets",
    "l2_bytes",
    "l3_bytes",
];

/// What a column has to say.
#[derive(Clone, Copy)]
enum Value<'a> {
    Number(i64),
    Bytes(&'a [u8]),
    Text(&'a str),
}

impl Value<'_> {
    fn is(self, found: ValueRef<'_>) -> bool {
        match (self, found) {
            (Self::Number(number), ValueRef::Integer(found)) => number == found,
            (Self::Bytes(bytes), ValueRef::Blob(found)) => bytes == found,
            (Self::Text(text), ValueRef::Text(found)) => text.as_bytes() == found,
            _ => false,
        }
    }
}

/// The columns of a record that is there.
fn of(record: &Record) -> [Value<'_>; 17] {
    use Value::{Bytes, Number, Text};
    let counted = record.counted().unwrap_or_default();
    [
        Number(record.kind as i64),
        Number(record.stream_seq as i64),
        Number(record.tenant.into()),
        Number(record.tenant_seq as i64),
        Bytes(&record.boot_id),
        Bytes(&record.map_generation),
        Text(&record.port_uid),
        Number(record.incarnation as i64),
        Number(record.direction.into()),
        Number(record.zone.map_or(-1, i64::from)),
        Number(record.window_id as i64),
        Number(record.window_start),
        Number(record.window_end),
        Number(record.flags.0.into()),
        Number(counted.packets as i64),
        Number(counted.l2_bytes as i64),
        Number(counted.l3_bytes as i64),
    ]
}

/// The columns of a record that was erased: they say nothing.
fn erased() -> [Value<'static>; 17] {
    let mut columns = [Value::Number(0); 17];
    columns[4] = Value::Bytes(&[]);
    columns[5] = Value::Bytes(&[]);
    columns[6] = Value::Text("");
    columns
}

/// A row as far as it can be believed.
pub(super) struct Found {
    /// Its place.
    pub seq: i64,
    /// Its leaf; `None`: that is no hash.
    pub leaf: Option<[u8; 32]>,
    /// The record; `None`: erased, or no record.
    pub record: Option<Record>,
    /// It was erased.
    pub erased: bool,
    /// What is wrong with it.
    pub wrong: Vec<String>,
}

/// Reads a row, and holds its columns against its bytes.
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Found> {
    let mut found = Found {
        seq: row.get(0)?,
        leaf: match row.get_ref(2)? {
            ValueRef::Blob(leaf) => leaf.try_into().ok(),
            _ => None,
        },
        record: None,
        erased: false,
        wrong: Vec::new(),
    };
    if found.leaf.is_none() {
        found.wrong.push("its leaf is no hash".into());
    }
    match row.get_ref(1)? {
        ValueRef::Null => found.erased = true,
        ValueRef::Blob(canonical) => {
            if found.leaf != Some(record::leaf_hash(canonical)) {
                found
                    .wrong
                    .push("its bytes are not those of its leaf".into());
            }
            match Record::decode(canonical) {
                Ok(record) => found.record = Some(record),
                Err(error) => found
                    .wrong
                    .push(format!("its bytes are no record: {error}")),
            }
        }
        _ => found.wrong.push("its canonical bytes are none".into()),
    }
    let columns = match &found.record {
        Some(record) => of(record),
        None if found.erased => erased(),
        None => return Ok(found),
    };
    let mut wrong = Vec::new();
    for (at, (name, value)) in NAMES.iter().zip(columns).enumerate() {
        if !value.is(row.get_ref(at + 3)?) {
            wrong.push(format!("column {name} is not what its bytes say"));
        }
    }
    found.wrong.extend(wrong);
    Ok(found)
}
