//! The ledger: records in SQLite, one transaction a window, and the checks that say whether a file may be
//! continued.
//!
//! Invariants (`docs/METERING.md`; tests in `ledger/tests.rs` and `tests/crash.rs`)
//! - Records, their leaf hashes, and the meter's state behind them are in one transaction: after a
//!   crash all are there or none.
//! - `seq` is gap-free, `stream_seq` by kind, `tenant_seq` by tenant. A committed record is never
//!   changed and never removed.
//! - Whatever fails, the state in memory is the last committed one: the caller cuts again, and the
//!   next window covers this one.
//! - A transaction ends with a signed head and seal, so that it shows who wrote what is there.
//! - A file that is behind what the kernel remembers, or that is another's, is put aside and superseded.
//!
//! What it is not: it does not cut and does not reckon (`meter` does).

mod add;
mod backup;
mod begin;
mod close;
mod correct;
pub(crate) mod days;
mod detail;
mod erase;
mod flows;
mod forget;
pub(crate) mod head;
mod issue;
mod journal;
mod keep;
pub mod keys;
mod look;
mod open;
mod owed;
mod query;
mod reader;
mod retention;
mod rotate;
pub(crate) mod schema;
mod writer;

pub use add::{AddError, Addition, append};
pub use backup::{BackupError, Copied, backup, restore};
pub use begin::aside;
pub use correct::Correct;
pub use detail::detail;
pub use flows::FlowError;
pub use forget::{Forget, Held, held};
pub use issue::{Issue, next as next_statement};
pub use look::{FlowFault, FlowFilter, FlowLine, Look, Network, enter, flows, looks};
pub use open::{Begun, Checkpoint, CheckpointOwner, Identity};
pub use query::{Filter, Row, Summary, last_head, records, summary};
pub use reader::{Leaf, Reader};
pub use retention::{Keep, Kept, Retained, kept};
pub use writer::{Done, Job, Writer};

use crate::{
    meter::{self, Cut, Epoch, Gap, Outcome, State},
    record::{self, Record, RecordError},
};
use dataplane_common::fault::{self, Point};
use flows::FlowFiles;
use rusqlite::{Connection, Transaction, params};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Why the ledger did not take a window. Nothing of it is committed then.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// SQLite or the system below it.
    #[error("{path}: {what}; bytes are counted on, and are written as soon as this works again")]
    Storage {
        /// The ledger.
        path: PathBuf,
        /// What they said.
        what: String,
    },
    /// The file was written by a later octroi.
    #[error(
        "{path}: this ledger has format {found}, and this octroi knows {known}; use the newer octroi"
    )]
    Format {
        /// The ledger.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Nobody made it yet, or it is elsewhere.
    #[error(
        "{path}: there is no ledger here; the daemon makes it with its first window; name the right one"
    )]
    Missing {
        /// Its file.
        path: PathBuf,
    },
    /// The file is no ledger.
    #[error("{path}: this is no ledger ({what}); move it away, or name another [meter] ledger")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// The file is a ledger, and parts of it are not what was written.
    #[error(
        "{path}: the ledger is damaged ({what}); bytes are counted on; move it away, and a new one begins"
    )]
    Damaged {
        /// The ledger.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The path does not lead to the open file any more.
    #[error("{path}: the open ledger was deleted or replaced; it is opened again")]
    Replaced {
        /// The ledger.
        path: PathBuf,
    },
    /// A record that could not be read back: a mistake of this program.
    #[error("a record of {port} cannot be written: {source}; please report this")]
    Record {
        /// Port.
        port: String,
        /// Why.
        source: RecordError,
    },
}

/// What must be remembered outside the file, to know it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The ledger; zero: none was ever begun.
    pub ledger_id: [u8; 16],
    /// Its records.
    pub size: u64,
    /// The last committed window, plus 1; 0: none.
    pub windows: u64,
    /// Hash of its last leaf.
    pub head: [u8; 32],
}

/// What a ceiling lets through at most: bits/s, and bytes at once.
pub type Ceiling = (u64, u64);

/// Ceilings by incarnation: from the tenant, to the tenant; `None`: no ceiling.
pub type Ceilings = BTreeMap<u64, [Option<Ceiling>; 2]>;

/// An open ledger.
pub struct Ledger {
    path: PathBuf,
    db: Connection,
    /// Device and inode of the open file.
    file: (u64, u64),
    /// Those of its journal.
    journal: Option<(u64, u64)>,
    id: [u8; 16],
    secret: [u8; 32],
    epoch: Epoch,
    state: State,
    anchor: Anchor,
    detail: FlowFiles,
    ceilings: Ceilings,
    /// The ceilings that are in the file.
    noted: Ceilings,
    signing: head::Signing,
    grown: head::Grown,
}

/// What was committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The window.
    pub window: u64,
    /// Records of it.
    pub records: u64,
    /// Owners whose last record is among them: their slots may be given away.
    pub closed: Vec<u64>,
    /// Where an interface carried what was not counted, for people.
    pub unmetered: Vec<String>,
    /// To be remembered.
    pub anchor: Anchor,
    /// What an operator has to be told.
    pub alarms: Vec<String>,
    /// Layer-2 bytes of tenants that no flow accounts for.
    pub unattributed_bytes: u64,
}

impl Ledger {
    fn storage(path: &Path) -> impl Fn(rusqlite::Error) -> LedgerError + use<> {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let path = path.to_owned();
        move |error| {
            let (path, what) = (path.clone(), error.to_string());
            match error.sqlite_error_code() {
                Some(DatabaseCorrupt | NotADatabase) => LedgerError::Damaged { path, what },
                _ => LedgerError::Storage { path, what },
            }
        }
    }

    fn system(path: &Path) -> impl Fn(io::Error) -> LedgerError + use<> {
        let path = path.to_owned();
        move |error| LedgerError::Storage {
            path: path.clone(),
            what: error.to_string(),
        }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id.
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// What is committed.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What must be remembered of it.
    pub fn anchor(&self) -> Anchor {
        self.anchor
    }

    /// These ceilings are in force: they bound what is unseen when the host crashes. The next commit notes
    /// them.
    pub fn follow(&mut self, ceilings: Ceilings) {
        self.ceilings = ceilings;
    }

    /// Writes the records of a window, and returns when they are durable.
    ///
    /// # Errors
    /// Any [`LedgerError`]; the ledger and its state are then as before.
    pub fn commit(&mut self, cut: &Cut, gap: Option<&Gap>) -> Result<Committed, LedgerError> {
        self.check_file()?;
        let mut outcome = meter::records(&self.epoch, &self.state, cut, gap);
        let Some(next) = self.next_key()? else {
            return self.write(outcome, Some(cut.window));
        };
        outcome
            .records
            .insert(0, self.rotation(&next, cut.time.utc_ns));
        let committed = self.write_with(outcome, Some(cut.window), Some(&next), |_| Ok(()))?;
        self.signing = next;
        // The key that signed last is found in either place, on the next start too.
        let _ = keys::take_place(&self.path);
        Ok(committed)
    }

    /// An editor that replaces a file, or `rm`, leaves a database that goes on taking writes.
    fn check_file(&self) -> Result<(), LedgerError> {
        match inode(&self.path) {
            Ok(file) if file == self.file => Ok(()),
            _ => {
                // SQLite would read this journal into whatever is at the path by now.
                if self.journal.is_some()
                    && inode(&begin::beside(&self.path, "wal")).ok() == self.journal
                {
                    begin::put_aside(&self.path, self.id, &["wal", "shm"])
                        .map_err(Self::system(&self.path))?;
                }
                Err(LedgerError::Replaced {
                    path: self.path.clone(),
                })
            }
        }
    }

    fn note_journal(&mut self) {
        self.journal = inode(&begin::beside(&self.path, "wal")).ok();
    }

    /// Writes one record that belongs to no window: what the meter goes on from stays as it is.
    fn add(&mut self, record: Record) -> Result<Committed, LedgerError> {
        let outcome = Outcome {
            records: vec![record],
            state: self.state.clone(),
            ..Outcome::default()
        };
        self.transact(outcome, None, None, |_, _| Ok(()))
    }

    fn write(&mut self, outcome: Outcome, window: Option<u64>) -> Result<Committed, LedgerError> {
        self.write_with(outcome, window, None, |_| Ok(()))
    }

    /// `next`: signs in the place of the ledger's key. `also` is done in the same transaction.
    fn write_with(
        &mut self,
        mut outcome: Outcome,
        window: Option<u64>,
        next: Option<&head::Signing>,
        also: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<Committed, LedgerError> {
        // Detail is durable before the root that stands for it.
        self.detail.keep(self.id, self.anchor.size, &mut outcome);
        fault::reach(Point::FlowsWritten);
        let (epoch, before) = (self.epoch.clone(), self.state.clone());
        self.transact(outcome, window, next, |transaction, now| {
            keep::save(transaction, &epoch, &before, now)?;
            also(transaction)
        })
    }

    /// `also` gets what the meter goes on from.
    fn transact(
        &mut self,
        outcome: Outcome,
        window: Option<u64>,
        next: Option<&head::Signing>,
        also: impl FnOnce(&Transaction<'_>, &State) -> rusqlite::Result<()>,
    ) -> Result<Committed, LedgerError> {
        let signing = next.unwrap_or(&self.signing);
        let storage = Self::storage(&self.path);
        let mut anchor = self.anchor;
        anchor.windows = window.map_or(anchor.windows, |window| window + 1);
        let mut grown = self.grown.clone();
        let count = outcome.records.len() as u64;
        // Of an uplink nobody keeps flows: all that it carries would be told as a gap.
        let of_tenants = outcome.records.iter().filter(|record| record.tenant != 0);
        let totals = of_tenants.filter_map(|record| record.total.as_ref());
        let unattributed = totals.map(|total| total.unattributed.l2_bytes);
        let unattributed_bytes = unattributed.fold(0, u64::saturating_add);
        let transaction = self.db.transaction().map_err(&storage)?;
        for record in outcome.records {
            let record =
                numbered(&transaction, record, &anchor, self.id, &self.secret).map_err(&storage)?;
            record.check().map_err(|source| LedgerError::Record {
                port: record.port_uid.clone(),
                source,
            })?;
            anchor.head = insert(&transaction, &record).map_err(&storage)?;
            anchor.size += 1;
            grown.frontier.push(anchor.head);
        }
        if self.ceilings != self.noted {
            keep::note_ceilings(&transaction, &self.ceilings).map_err(&storage)?;
        }
        also(&transaction, &outcome.state).map_err(&storage)?;
        head::commit(&transaction, signing, &mut grown, count != 0).map_err(&storage)?;
        fault::reach(Point::Written);
        transaction.commit().map_err(&storage)?;
        fault::reach(Point::Committed);
        self.state = outcome.state;
        self.anchor = anchor;
        self.grown = grown;
        self.noted.clone_from(&self.ceilings);
        self.note_journal();
        Ok(Committed {
            window: window.unwrap_or_default(),
            records: count,
            closed: outcome.closed,
            unmetered: outcome.unmetered,
            unattributed_bytes,
            anchor,
            alarms: outcome.alarms,
        })
    }

    /// Notes what the registers stand at, for the day the host crashes. Not a record: the next one takes
    /// its place.
    ///
    /// # Errors
    /// [`LedgerError::Storage`], [`LedgerError::Replaced`].
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), LedgerError> {
        self.check_file()?;
        let text = serde_json::to_string(checkpoint).unwrap_or_default();
        let set = "INSERT OR REPLACE INTO about (key, value) VALUES ('checkpoint', ?1)";
        let storage = Self::storage(&self.path);
        let transaction = self.db.transaction().map_err(&storage)?;
        transaction.execute(set, [text]).map_err(&storage)?;
        head::seal(&transaction, &self.signing, &self.grown).map_err(&storage)?;
        transaction.commit().map_err(&storage)?;
        self.note_journal();
        fault::reach(Point::Noted);
        Ok(())
    }
}

/// Device and inode of a file.
pub(crate) fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Gives a record its place in the ledger.
fn numbered(
    transaction: &Transaction<'_>,
    mut record: Record,
    anchor: &Anchor,
    ledger_id: [u8; 16],
    secret: &[u8; 32],
) -> rusqlite::Result<Record> {
    record.ledger_id = ledger_id;
    record.seq = anchor.size;
    record.stream_seq = next(transaction, "stream", i64::from(record.kind as u8))?;
    // Others are the ledger's own, and no tenant's.
    if record.kind.is_of_a_tenant() {
        record.tenant_seq = next(transaction, "tenant", i64::from(record.tenant))?;
    }
    record.salt = record::salt(secret, record.seq);
    Ok(record)
}

/// The next number of a series, which has no gap: a transaction that fails takes it back.
fn next(transaction: &Transaction<'_>, series: &str, of: i64) -> rusqlite::Result<u64> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO series (series, of, next) VALUES (?1, ?2, 1) \
         ON CONFLICT (series, of) DO UPDATE SET next = next + 1 RETURNING next - 1",
    )?;
    let number: i64 = statement.query_row(params![series, of], |row| row.get(0))?;
    Ok(number as u64)
}

/// Writes a record, and returns the hash of its leaf. Columns are for looking; the bytes are the truth.
fn insert(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<[u8; 32]> {
    let canonical = record.encode();
    let leaf = record::leaf_hash(&canonical);
    let counted = record.counted().unwrap_or_default();
    let mut statement = transaction.prepare_cached(
        "INSERT INTO record (seq, kind, stream_seq, tenant, tenant_seq, boot_id, map_generation, \
         port_uid, incarnation, direction, zone, window_id, window_start, window_end, flags, packets, \
         l2_bytes, l3_bytes, canonical, leaf) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
    )?;
    statement.execute(params![
        record.seq as i64,
        record.kind as u8,
        record.stream_seq as i64,
        record.tenant,
        record.tenant_seq as i64,
        record.boot_id,
        record.map_generation,
        record.port_uid,
        record.incarnation as i64,
        record.direction,
        record.zone.map_or(-1, i64::from),
        record.window_id as i64,
        record.window_start,
        record.window_end,
        record.flags.0,
        counted.packets as i64,
        counted.l2_bytes as i64,
        counted.l3_bytes as i64,
        canonical,
        leaf,
    ])?;
    Ok(leaf)
}

#[cfg(test)]
mod tests;
