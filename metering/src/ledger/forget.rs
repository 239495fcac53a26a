//! A tenant's data go before their time is over: `docs/METERING.md`, M-13.13 to M-13.16.
//!
//! Invariants
//! - The leaf that says so is durable before the first row goes. What a crash leaves is finished when the
//!   ledger is opened, and never begun twice.
//! - A day's file is written anew without the rows, and its journal emptied: its bytes have none of them.
//! - No record goes that a sink has not confirmed, and no STATEMENT.
//! - Who asked is in the leaf and among those who looked.

use super::{
    AddError, Committed, FlowError, Ledger, days,
    erase::{empty_rows, ranges},
    flows::{FlowFiles, TABLES, open_to_read, open_to_write, storage, system},
    head,
    keep::about,
    schema,
};
use crate::{
    meter::Outcome,
    record::{ERASED_MAX, ErasedFlows, Kind, Record, TEXT_BYTES_MAX},
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Records in one transaction: a window waits for it.
const RECORDS_MAX: u32 = 4_000;

/// Whose data, and how much of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forget {
    /// Tenant's number.
    pub tenant: u32,
    /// Beside flow detail, METER, NODATA and CORRECTION records whose label ends at or before this time, UTC,
    /// ns since 1970; `None`: none.
    pub records_until: Option<i64>,
    /// Who asked, for people.
    pub who: String,
    /// Why, for people. With `who` at most 253 bytes, without control characters.
    pub reason: String,
    /// The lowest seq that a sink has not confirmed; `u64::MAX`: there is no sink.
    pub unconfirmed: u64,
}

/// What is kept of a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// `*` records with flow detail, those of ledgers before this one among them.
    pub flow_records: u64,
    /// Their rows.
    pub flow_rows: u64,
    /// METER, NODATA and CORRECTION records in the period.
    pub records: u64,
    /// An erasure was begun and is not finished.
    pub unfinished: bool,
}

/// An erasure that is in the ledger and not finished.
#[derive(Debug, Serialize, Deserialize)]
struct Unfinished {
    tenant: u32,
    /// Its leaf: what was written since stays.
    seq: u64,
}

/// How much is kept of a tenant, while a daemon may be writing: flow detail, and records whose label ends at or
/// before `until`.
///
/// # Errors
/// [`AddError::Ledger`], [`AddError::Flows`].
pub fn held(path: &Path, tenant: u32, until: i64) -> Result<Held, AddError> {
    let db = schema::open_to_read(path)?;
    let storage = Ledger::storage(path);
    let count = "SELECT count(*) FROM record WHERE tenant = ?1 AND window_start <= ?2 AND window_end <= ?2 \
                 AND kind IN (1, 4, 5)";
    let records: i64 = db
        .query_row(count, params![tenant, until], |row| row.get(0))
        .map_err(&storage)?;
    let id = "SELECT CAST(value AS BLOB) FROM about WHERE key = 'ledger_id'";
    let id: [u8; 16] = db.query_row(id, [], |row| row.get(0)).map_err(&storage)?;
    let (flow_records, flow_rows) = FlowFiles::of(path).kept(&id, tenant)?;
    Ok(Held {
        flow_records,
        flow_rows,
        records: records as u64,
        unfinished: unfinished(&db).map_err(&storage)?.is_some(),
    })
}

impl Ledger {
    /// Erases a tenant's flow detail and, where they are asked for, so many of its records; returns when they
    /// are gone, with the seq of the leaf that says so. To be asked again while records are left.
    ///
    /// # Errors
    /// Any [`AddError`]. Nothing is erased then, but for [`AddError::NotErased`].
    pub(super) fn forget(
        &mut self,
        forget: &Forget,
        utc_ns: i64,
    ) -> Result<(u64, Committed), AddError> {
        let cause = cause(forget)?;
        self.finish_erasing()?;
        let storage = Self::storage(&self.path);
        let tenant = forget.tenant;
        let (records, rows) = self.detail.kept(&self.id, tenant)?;
        let seqs = match forget.records_until {
            Some(until) => old(&self.db, tenant, until).map_err(&storage)?,
            None => Vec::new(),
        };
        if let Some(until) = forget.records_until
            && let Some(seq) =
                unconfirmed(&self.db, tenant, until, forget.unconfirmed).map_err(&storage)?
        {
            return Err(AddError::Unconfirmed { tenant, seq });
        }
        let flows = (records != 0).then_some(ErasedFlows {
            tenant,
            records,
            rows,
        });
        let seq = self.anchor.size;
        let erased = ranges(&seqs);
        let mut leaves: Vec<Record> = erased
            .chunks(ERASED_MAX as usize)
            .map(|ranges| Record {
                erased: ranges.to_vec(),
                cause: Some(cause.clone()),
                ..self.own(Kind::Erasure, utc_ns)
            })
            .collect();
        if flows.is_some() && leaves.is_empty() {
            leaves.push(Record {
                cause: Some(cause),
                ..self.own(Kind::Erasure, utc_ns)
            });
        }
        let Some(first) = leaves.first_mut() else {
            return Err(AddError::NothingKept { tenant });
        };
        first.erased_flows = flows;
        let outcome = Outcome {
            records: leaves,
            state: self.state.clone(),
            ..Outcome::default()
        };
        self.db
            .pragma_update(None, "secure_delete", "ON")
            .map_err(&storage)?;
        let said = what(forget, &seqs, (records, rows));
        let committed = self.transact(outcome, None, None, |transaction, _| {
            erased
                .iter()
                .try_for_each(|range| empty_rows(transaction, range))?;
            let look = "INSERT INTO look (at, who, what) VALUES (?1, ?2, ?3)";
            transaction.execute(look, params![utc_ns, forget.who, said])?;
            let unfinished = flows.map(|_| Unfinished { tenant, seq });
            let unfinished = unfinished.map(|one| serde_json::to_string(&one).unwrap_or_default());
            about(transaction, "erasing", unfinished)
        })?;
        // Whoever reads just now may be in the way: then the next one empties it.
        let _ = self
            .db
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        self.note_journal();
        self.finish_erasing()?;
        Ok((seq, committed))
    }

    /// Does what an ERASURE says, if that is not done yet.
    pub(super) fn finish_erasing(&mut self) -> Result<(), AddError> {
        let storage = Self::storage(&self.path);
        let Some(Unfinished { tenant, seq }) = unfinished(&self.db).map_err(&storage)? else {
            return Ok(());
        };
        self.detail
            .forget(&self.id, tenant, seq)
            .map_err(|error| AddError::NotErased {
                seq,
                what: error.to_string(),
            })?;
        let transaction = self.db.transaction().map_err(&storage)?;
        about(&transaction, "erasing", None::<String>).map_err(&storage)?;
        head::seal(&transaction, &self.signing, &self.grown).map_err(&storage)?;
        transaction.commit().map_err(&storage)?;
        self.note_journal();
        Ok(())
    }
}

/// What the leaf says of why.
fn cause(forget: &Forget) -> Result<String, AddError> {
    let cause = format!("{}: {}", forget.who, forget.reason);
    let fits = !forget.reason.is_empty() && cause.len() as u64 <= TEXT_BYTES_MAX;
    if fits && !cause.chars().any(char::is_control) {
        Ok(cause)
    } else {
        Err(AddError::Reason)
    }
}

/// What the entry of whoever asked says.
fn what(forget: &Forget, seqs: &[u64], (records, rows): (u64, u64)) -> String {
    format!(
        "privacy erase --tenant {}: {rows} rows of flow detail of {records} records, and {} records; {}",
        forget.tenant,
        seqs.len(),
        forget.reason
    )
}

fn unfinished(db: &Connection) -> rusqlite::Result<Option<Unfinished>> {
    let about = "SELECT CAST(value AS TEXT) FROM about WHERE key = 'erasing'";
    let text: Option<String> = db.query_row(about, [], |row| row.get(0)).optional()?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// A tenant's records whose label ends at or before this time, the first so many.
fn old(db: &Connection, tenant: u32, until: i64) -> rusqlite::Result<Vec<u64>> {
    let which = "SELECT seq FROM record WHERE tenant = ?1 AND window_start <= ?2 AND window_end <= ?2 \
                 AND kind IN (1, 4, 5) ORDER BY seq LIMIT ?3";
    let mut statement = db.prepare_cached(which)?;
    let rows = statement.query_map(params![tenant, until, RECORDS_MAX], |row| {
        row.get::<_, i64>(0)
    })?;
    rows.map(|seq| seq.map(|seq| seq as u64)).collect()
}

/// The first of those records that a sink waits for.
fn unconfirmed(
    db: &Connection,
    tenant: u32,
    until: i64,
    unconfirmed: u64,
) -> rusqlite::Result<Option<u64>> {
    let which = "SELECT min(seq) FROM record WHERE tenant = ?1 AND window_start <= ?2 AND window_end <= ?2 \
                 AND kind IN (1, 4, 5) AND seq >= ?3";
    let unconfirmed = i64::try_from(unconfirmed).unwrap_or(i64::MAX);
    let seq: Option<i64> =
        db.query_row(which, params![tenant, until, unconfirmed], |row| row.get(0))?;
    Ok(seq.map(|seq| seq as u64))
}

impl FlowFiles {
    /// How many `*` records of a tenant have detail, and how many rows: those of ledgers before this one, too. Of
    /// one that was put aside, its own alone: the others are of the ledger in its place.
    fn kept(&self, id: &[u8; 16], tenant: u32) -> Result<(u64, u64), FlowError> {
        let count = "SELECT count(DISTINCT tree.id), count(*) FROM tree JOIN flow ON flow.tree = tree.id \
                     WHERE tree.tenant = ?1 AND (tree.ledger_id = ?2 OR ?3)";
        let all = !days::is_aside(&self.ledger);
        let (mut records, mut rows) = (0, 0);
        for (_, path) in days::files(&self.ledger).map_err(system(&self.ledger))? {
            if std::fs::metadata(&path).is_ok_and(|found| found.len() == 0) {
                continue;
            }
            let db = open_to_read(&path)?;
            let found: (i64, i64) = db
                .query_row(count, params![tenant, id, all], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .map_err(storage(&path))?;
            records += found.0 as u64;
            rows += found.1 as u64;
        }
        Ok((records, rows))
    }

    /// Erases a tenant's rows: those of this ledger before the record `below`, and all of ledgers before it, unless
    /// this is such a one.
    fn forget(&mut self, id: &[u8; 16], tenant: u32, below: u64) -> Result<(), FlowError> {
        // A second connection of this process would keep the journal from being emptied.
        self.day = None;
        let all = !days::is_aside(&self.ledger);
        for (_, path) in days::files(&self.ledger).map_err(system(&self.ledger))? {
            let mut db = open_to_write(&path)?;
            rewrite(&mut db, (id, tenant, below), all).map_err(storage(&path))?;
            let busy: i64 = db
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
                .map_err(storage(&path))?;
            if busy != 0 {
                return Err(FlowError::Storage {
                    path,
                    what: "somebody reads this file, and its journal cannot be emptied meanwhile"
                        .into(),
                });
            }
        }
        Ok(())
    }
}

/// Writes a day's tables anew without these rows. Deleting them would not do: where a page was divided before,
/// a part of it that nothing refers to may still have what was in it.
fn rewrite(
    db: &mut Connection,
    (id, tenant, below): (&[u8; 16], u32, u64),
    all: bool,
) -> rusqlite::Result<()> {
    const GOES: &str = "tenant = ?1 AND (ledger_id = ?2 AND seq < ?3 OR ledger_id <> ?2 AND ?4)";
    let below = i64::try_from(below).unwrap_or(i64::MAX);
    let which = params![tenant, id, below, all];
    let transaction: Transaction<'_> = db.transaction()?;
    let any = format!("SELECT EXISTS (SELECT 1 FROM tree WHERE {GOES})");
    if !transaction.query_row(&any, which, |row| row.get::<_, bool>(0))? {
        return Ok(());
    }
    transaction.execute_batch(&format!(
        "ALTER TABLE tree RENAME TO old_tree; ALTER TABLE flow RENAME TO old_flow; {TABLES}"
    ))?;
    transaction.execute(
        &format!("INSERT INTO tree SELECT * FROM old_tree WHERE NOT ({GOES}) ORDER BY id"),
        which,
    )?;
    transaction.execute_batch(
        "INSERT INTO flow SELECT * FROM old_flow WHERE tree IN (SELECT id FROM tree) ORDER BY tree, at; \
         DROP TABLE old_flow; DROP TABLE old_tree;",
    )?;
    transaction.commit()
}
