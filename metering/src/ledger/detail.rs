//! The flow detail of some records, in their order: what an exporter takes away. Whoever looks enters that first
//! ([`super::enter`]).

use super::{
    Ledger, LedgerError, days,
    flows::open_to_read,
    look::{Tree, rows},
    schema,
};
use crate::{flow::Row, record::Record};
use rusqlite::{Connection, OptionalExtension as _, params};
use std::{ops::Range, path::Path};

/// Gives the rows of each `*` record of these seqs that has some, a record at a time: no more of them are in memory. A record's
/// rows are given when they are those of its root. Returns how many rows records stand for that are not there any more: removed
/// by retention, erased, or changed.
///
/// # Errors
/// When a file that is there cannot be read; and what `each` returns.
pub fn detail<E: From<LedgerError>>(
    path: &Path,
    seqs: Range<u64>,
    mut each: impl FnMut(&Record, &[Row]) -> Result<(), E>,
) -> Result<u64, E> {
    let ledger = schema::open_to_read(path)?;
    let mut missing = 0_u64;
    let mut day: Option<(i64, Option<Connection>)> = None;
    for record in totals(&ledger, seqs).map_err(Ledger::storage(path))? {
        let Some(flows) = record.flows else { continue };
        let of = days::of(record.window_start);
        let (_, db) = match day.take().filter(|(open, _)| *open == of) {
            Some(open) => day.insert(open),
            None => day.insert((of, open(path, of)?)),
        };
        let found = match db {
            Some(db) => read(db, &record).map_err(Ledger::storage(path))?,
            None => None,
        };
        match found {
            Some(rows) => each(&record, &rows)?,
            None => missing = missing.saturating_add(flows.rows),
        }
    }
    Ok(missing)
}

/// A day's file; `None`: it is gone, or is no flow file.
fn open(path: &Path, day: i64) -> Result<Option<Connection>, LedgerError> {
    let file = days::name(path, day);
    if !file.exists() {
        return Ok(None);
    }
    match open_to_read(&file) {
        Ok(db) => Ok(Some(db)),
        // Removed meanwhile.
        Err(_) if !file.exists() => Ok(None),
        Err(super::FlowError::Foreign { .. }) => Ok(None),
        Err(super::FlowError::Storage { path, what }) => Err(LedgerError::Storage { path, what }),
    }
}

/// The `*` records of these seqs.
fn totals(ledger: &Connection, seqs: Range<u64>) -> rusqlite::Result<Vec<Record>> {
    let mut select = ledger.prepare(
        "SELECT canonical FROM record WHERE seq >= ?1 AND seq < ?2 AND kind = 1 AND zone < 0 \
         AND canonical IS NOT NULL ORDER BY seq",
    )?;
    let rows = select.query_map(params![seqs.start as i64, seqs.end as i64], |row| {
        row.get::<_, Vec<u8>>(0)
    })?;
    let mut records = Vec::new();
    for canonical in rows {
        // One that cannot be read has no rows; `octroi verify` says more.
        records.extend(Record::decode(&canonical?).ok());
    }
    Ok(records)
}

/// The rows of a record; `None`: they are not there, or are others.
fn read(db: &Connection, record: &Record) -> rusqlite::Result<Option<Vec<Row>>> {
    let id: Option<i64> = db
        .prepare_cached("SELECT id FROM tree WHERE ledger_id = ?1 AND seq = ?2")?
        .query_row(params![record.ledger_id, record.seq as i64], |row| {
            row.get(0)
        })
        .optional()?;
    let Some(id) = id else { return Ok(None) };
    let tree = Tree {
        id,
        seq: record.seq,
    };
    Ok(rows(db, &tree, record)?.ok())
}
