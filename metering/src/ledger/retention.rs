//! What goes when its time is over: `docs/METERING.md`, M-12.7 and M-13.10.
//!
//! Invariants
//! - A leaf's hash is never removed: what was pruned is still in the tree, and an ERASURE says that it was.
//! - The first record and the last one stay: they say whose place a ledger took, and how far it goes.
//! - Nothing that a sink has not confirmed goes.
//! - A transaction is small: no window waits for it.

use super::{Ledger, LedgerError, days, flows};
use crate::record::Kind;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::{io, path::Path};

/// Records in one transaction.
const ROWS_MAX: u32 = 1_000;

/// What is kept for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Flow detail, days.
    pub flows_days: u32,
    /// METER, CORRECTION and NODATA records, days.
    pub records_days: u32,
    /// Records of every other kind but BEGIN, which stays: days.
    pub rollups_days: u32,
    /// The lowest seq that a sink has not confirmed; `u64::MAX`: there is none.
    pub unconfirmed: u64,
    /// The wall clock can be believed. Otherwise no record goes: a clock that is years ahead would take
    /// them all.
    pub clock_is_sound: bool,
}

impl Keep {
    /// What ended before this time goes: UTC, ns since 1970.
    fn before(days: u32, now: i64) -> i64 {
        now.saturating_sub(i64::from(days).saturating_mul(days::DAY_NS))
    }

    fn days_of(&self, kind: i64) -> u32 {
        let meters = [Kind::Meter, Kind::Correction, Kind::Nodata];
        if meters.into_iter().any(|meter| meter as i64 == kind) {
            self.records_days
        } else {
            self.rollups_days
        }
    }
}

/// What went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Records whose hashes alone are kept now.
    pub pruned: u64,
    /// Flow files that were removed.
    pub flow_files: u64,
    /// There is more to do: to be called again.
    pub more: bool,
}

impl Ledger {
    /// Removes what is older than it may be, a bounded number of records at once. `now`: UTC, ns since 1970.
    ///
    /// # Errors
    /// [`LedgerError::Storage`], [`LedgerError::Replaced`]; the ledger is then as before.
    pub fn retain(&mut self, keep: &Keep, now: i64) -> Result<Retained, LedgerError> {
        self.check_file()?;
        let before = Keep::before(keep.flows_days, now);
        let mut retained = Retained {
            flow_files: self.detail.remove(before).map_err(|error| {
                let error: io::Error = error;
                Self::system(self.path())(error)
            })?,
            ..Retained::default()
        };
        if !keep.clock_is_sound {
            return Ok(retained);
        }
        let seqs = due(&self.db, keep, now).map_err(Self::storage(&self.path))?;
        let pruned = self.empty(&seqs, "retention", now)?;
        retained.pruned = pruned;
        retained.more = pruned == u64::from(ROWS_MAX);
        Ok(retained)
    }
}

/// The records that are older than they may be, so many at once.
fn due(db: &Connection, keep: &Keep, now: i64) -> rusqlite::Result<Vec<u64>> {
    let unconfirmed = i64::try_from(keep.unconfirmed).unwrap_or(i64::MAX);
    let kinds: Vec<i64> = db
        .prepare_cached("SELECT DISTINCT of FROM series WHERE series = 'stream' ORDER BY of")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    // What is said of the ledger itself stays: without it nothing of the rest can be verified.
    let stays = [Kind::Begin, Kind::Key, Kind::Erasure].map(|kind| kind as i64);
    let mut seqs = Vec::new();
    for kind in kinds.into_iter().filter(|kind| !stays.contains(kind)) {
        let before = Keep::before(keep.days_of(kind), now);
        let left = i64::from(ROWS_MAX) - seqs.len() as i64;
        let which = "SELECT seq FROM record WHERE kind = ?1 AND window_start < ?2 AND window_end <= ?2 \
                     AND seq < ?3 AND seq < (SELECT max(seq) FROM record) \
                     ORDER BY window_start LIMIT ?4";
        let mut statement = db.prepare_cached(which)?;
        let rows = statement.query_map(params![kind, before, unconfirmed, left], |row| {
            row.get::<_, i64>(0)
        })?;
        for seq in rows {
            seqs.push(seq? as u64);
        }
    }
    seqs.sort_unstable();
    Ok(seqs)
}

/// Hash of the leaf `seq`, whether its record is there or pruned; `None`: there is no such leaf.
pub(super) fn leaf(db: &Connection, seq: u64) -> rusqlite::Result<Option<[u8; 32]>> {
    let select = "SELECT leaf FROM record WHERE seq = ?1";
    db.query_row(select, [seq as i64], |row| row.get(0))
        .optional()
}

/// How many leaves have no record any more.
pub(super) fn pruned(db: &Connection) -> rusqlite::Result<u64> {
    let count = "SELECT count(*) FROM record WHERE kind = 0";
    db.query_row(count, [], |row| row.get::<_, i64>(0))
        .map(|count| count as u64)
}

/// What a ledger keeps beside its records, and what goes next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Records whose hashes alone are kept.
    pub pruned: u64,
    /// Entries of people who looked at flow detail.
    pub looks: u64,
    /// Flow files.
    pub flow_files: u64,
    /// Their length, bytes, journals included.
    pub flow_bytes: u64,
    /// When the oldest flow file goes: UTC, ns since 1970.
    pub flows_go: Option<i64>,
    /// When the oldest record goes that may go, whatever sinks say.
    pub records_go: Option<i64>,
}

/// Reads what a ledger keeps, and when something of it goes.
///
/// # Errors
/// [`LedgerError::Storage`], [`LedgerError::Foreign`].
pub fn kept(path: &Path, keep: &Keep) -> Result<Kept, LedgerError> {
    let db = super::schema::open_to_read(path)?;
    let storage = Ledger::storage(path);
    let files = days::files(path).map_err(Ledger::system(path))?;
    let ends = |day: i64, days: u32| {
        let whole = day.saturating_add(1).saturating_add(i64::from(days));
        whole.saturating_mul(days::DAY_NS)
    };
    let oldest: Option<i64> = db
        .query_row(
            "SELECT min(window_end) FROM record WHERE kind IN (1, 4, 5)",
            [],
            |row| row.get(0),
        )
        .map_err(&storage)?;
    Ok(Kept {
        pruned: pruned(&db).map_err(&storage)?,
        looks: super::looks(path)?.len() as u64,
        flow_files: files.len() as u64,
        flow_bytes: files.iter().map(|(_, file)| flows::length(file)).sum(),
        flows_go: files.first().map(|(day, _)| ends(*day, keep.flows_days)),
        records_go: oldest.map(|oldest| {
            let kept = i64::from(keep.records_days).saturating_mul(days::DAY_NS);
            oldest.saturating_add(kept)
        }),
    })
}
