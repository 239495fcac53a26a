//! Flow detail beside the ledger: a SQLite file for each UTC day. `docs/METERING.md`, M-13.
//!
//! Invariants
//! - Rows are durable before the ledger commits the root over them: never a root without its rows. Rows
//!   that a crash left without a root are discarded when the ledger is opened.
//! - Whatever is wrong with these files, the ledger's commit goes on without detail, and says why.
//!
//! What it is not: evidence of a bill. A file that is gone takes nothing from a sum.

use super::{begin::beside, days, inode};
use crate::{
    flow::{Root, Row},
    meter::Outcome,
    owner,
    record::{Flows, Record},
};
use rusqlite::{Connection, OpenFlags, Transaction, params};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// `PRAGMA application_id`: "octf" in ASCII.
const APPLICATION: i64 = 0x6F63_7466;
/// `PRAGMA user_version`.
const FORMAT: i64 = 1;

pub(super) const TABLES: &str = "
    CREATE TABLE tree (
        id INTEGER PRIMARY KEY,
        ledger_id BLOB NOT NULL,
        seq INTEGER NOT NULL,
        tenant INTEGER NOT NULL,
        port_uid TEXT NOT NULL,
        direction INTEGER NOT NULL,
        window_start INTEGER NOT NULL,
        window_end INTEGER NOT NULL,
        UNIQUE (ledger_id, seq)
    ) STRICT;
    CREATE TABLE flow (
        tree INTEGER NOT NULL, at INTEGER NOT NULL, canonical BLOB NOT NULL, PRIMARY KEY (tree, at)
    ) STRICT, WITHOUT ROWID;
";

/// Why flow detail is not kept, or not read. Nothing that is billed depends on it.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// SQLite or the system below it.
    #[error("{path}: {what}")]
    Storage {
        /// The day's file.
        path: PathBuf,
        /// What they said.
        what: String,
    },
    /// The file is no flow file, or one of a later octroi.
    #[error("{path}: this is no flow file that this octroi knows; move it away")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

pub(super) fn storage(path: &Path) -> impl Fn(rusqlite::Error) -> FlowError + use<> {
    let path = path.to_owned();
    move |error| FlowError::Storage {
        path: path.clone(),
        what: error.to_string(),
    }
}

pub(super) fn system(path: &Path) -> impl Fn(io::Error) -> FlowError + use<> {
    let path = path.to_owned();
    move |error| FlowError::Storage {
        path: path.clone(),
        what: error.to_string(),
    }
}

/// The open file of a day.
pub(super) struct Day {
    path: PathBuf,
    file: (u64, u64),
    db: Connection,
}

/// The flow files of a ledger.
pub(super) struct FlowFiles {
    pub(super) ledger: PathBuf,
    pub(super) day: Option<Day>,
    /// What went wrong last, so that it is told once.
    trouble: Option<String>,
    /// What is not told yet.
    pub(super) untold: Option<String>,
}

impl FlowFiles {
    pub(super) fn of(ledger: &Path) -> Self {
        Self {
            ledger: ledger.to_owned(),
            day: None,
            trouble: None,
            untold: None,
        }
    }

    /// Discards rows of windows that are not in the ledger: a crash was between the two.
    pub(super) fn discard(&mut self, ledger_id: [u8; 16], size: u64) {
        let done = days::files(&self.ledger)
            .map_err(system(&self.ledger))
            .and_then(|files| {
                files.iter().try_for_each(|(_, path)| {
                    let mut db = open_to_write(path)?;
                    let transaction = db.transaction().map_err(storage(path))?;
                    discard_from(&transaction, ledger_id, size).map_err(storage(path))?;
                    transaction.commit().map_err(storage(path))
                })
            });
        self.untold = done.err().map(|error| error.to_string());
    }

    /// Makes the outcome's flow detail durable, and puts its roots into the records. `size`: the seq of
    /// the first of them. What cannot be kept is said in the record and in the outcome's alarms.
    pub(super) fn keep(&mut self, ledger_id: [u8; 16], size: u64, outcome: &mut Outcome) {
        outcome.alarms.extend(self.untold.take());
        let trees = std::mem::take(&mut outcome.flows);
        if trees.is_empty() {
            return;
        }
        let written = self.write(ledger_id, size, &trees, &outcome.records);
        match written {
            Ok(roots) => {
                for ((at, _), flows) in trees.iter().zip(roots) {
                    if let Some(record) = outcome.records.get_mut(*at) {
                        record.flows = Some(flows);
                    }
                }
                if self.trouble.take().is_some() {
                    outcome.alarms.push("flow detail is kept again".into());
                }
            }
            Err(error) => {
                // Opened again for the next window: whatever it was may be over then.
                self.day = None;
                for (at, _) in &trees {
                    if let Some(record) = outcome.records.get_mut(*at) {
                        record
                            .cause
                            .get_or_insert_with(|| "flow detail could not be kept".into());
                    }
                }
                let why = format!("{error}; flow detail is lost, and nothing of the bill");
                if self.trouble.as_ref() != Some(&why) {
                    outcome.alarms.push(why.clone());
                }
                self.trouble = Some(why);
            }
        }
    }

    fn write(
        &mut self,
        ledger_id: [u8; 16],
        size: u64,
        trees: &[(usize, Vec<Row>)],
        records: &[Record],
    ) -> Result<Vec<Flows>, FlowError> {
        // All records of a window have one label.
        let label = records.first().map_or(0, |record| record.window_start);
        let day = self.open_day(days::of(label))?;
        let storage = storage(&day.path);
        let transaction = day.db.transaction().map_err(&storage)?;
        discard_from(&transaction, ledger_id, size).map_err(&storage)?;
        let mut roots = Vec::with_capacity(trees.len());
        for (at, rows) in trees {
            let Some(record) = records.get(*at) else {
                continue;
            };
            let mut salts = vec![0; rows.len() * 16];
            getrandom::fill(&mut salts).map_err(|error| FlowError::Storage {
                path: day.path.clone(),
                what: format!("no random numbers: {error}"),
            })?;
            let seq = size + *at as u64;
            let tree = insert_tree(&transaction, ledger_id, seq, record).map_err(&storage)?;
            roots.push(insert_rows(&transaction, tree, rows, &salts).map_err(&storage)?);
        }
        transaction.commit().map_err(&storage)?;
        Ok(roots)
    }

    /// Removes the files of days that ended at or before this time, and says how many they were.
    pub(super) fn remove(&mut self, before: i64) -> io::Result<u64> {
        let mut removed = 0;
        for (day, path) in days::files(&self.ledger)? {
            if day.saturating_add(1).saturating_mul(days::DAY_NS) > before {
                continue;
            }
            if self.day.as_ref().is_some_and(|open| open.path == path) {
                self.day = None;
            }
            // The file last: while it is there, whatever is left is found again.
            for suffix in ["wal", "shm", ""] {
                match fs::remove_file(beside(&path, suffix)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            removed += 1;
        }
        Ok(removed)
    }

    /// The file of a day, which is open, or opened, or made.
    fn open_day(&mut self, day: i64) -> Result<&mut Day, FlowError> {
        let path = days::name(&self.ledger, day);
        let open = self.day.take().filter(|open| {
            // Deleted or replaced: it would go on taking writes.
            open.path == path && inode(&path).is_ok_and(|file| file == open.file)
        });
        let open = match open {
            Some(open) => open,
            None => {
                let db = if path.exists() {
                    open_to_write(&path)?
                } else {
                    create(&path)?
                };
                Day {
                    file: inode(&path).map_err(system(&path))?,
                    path,
                    db,
                }
            }
        };
        Ok(self.day.insert(open))
    }
}

/// Makes a day's file, 0600: it says who talked to whom.
fn create(path: &Path) -> Result<Connection, FlowError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
        .open(path)
        .and_then(|file| owner::as_its_directory(&file, path))
        .map_err(system(path))?;
    let db = connect(path)?;
    let make = format!(
        "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION}; \
         PRAGMA user_version = {FORMAT}; COMMIT;"
    );
    db.execute_batch(&make).map_err(storage(path))?;
    // The journal's name is in the directory by now, and so is the file's.
    sync_directory(path).map_err(system(path))?;
    Ok(db)
}

/// Makes the names in the directory of `path` durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|found| !found.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Bytes of a day's file and its journal.
pub(super) fn length(path: &Path) -> u64 {
    ["", "wal"]
        .iter()
        .map(|suffix| fs::metadata(beside(path, suffix)).map_or(0, |found| found.len()))
        .sum()
}

fn connect(path: &Path) -> Result<Connection, FlowError> {
    let storage = storage(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(&storage)?;
    db.busy_timeout(std::time::Duration::from_secs(2))
        .map_err(&storage)?;
    db.pragma_update(None, "journal_mode", "WAL")
        .and_then(|()| db.pragma_update(None, "synchronous", "FULL"))
        // Rows that are discarded or erased are not to be found in free pages.
        .and_then(|()| db.pragma_update(None, "secure_delete", "ON"))
        .map_err(&storage)?;
    Ok(db)
}

/// Opens a day's file to write. One that a crash left without tables is made anew.
pub(super) fn open_to_write(path: &Path) -> Result<Connection, FlowError> {
    if fs::metadata(path).is_ok_and(|found| found.len() == 0) {
        fs::remove_file(path).map_err(system(path))?;
        return create(path);
    }
    let db = connect(path)?;
    check(&db, path)?;
    Ok(db)
}

/// Opens a day's file to look at, while a daemon may be writing it.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, FlowError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(storage(path))?;
    db.busy_timeout(std::time::Duration::from_secs(2))
        .map_err(storage(path))?;
    check(&db, path)?;
    Ok(db)
}

fn check(db: &Connection, path: &Path) -> Result<(), FlowError> {
    let number = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application = number("application_id").map_err(storage(path))?;
    let format = number("user_version").map_err(storage(path))?;
    if application == APPLICATION && format <= FORMAT {
        Ok(())
    } else {
        Err(FlowError::Foreign {
            path: path.to_owned(),
        })
    }
}

fn discard_from(
    transaction: &Transaction<'_>,
    ledger_id: [u8; 16],
    size: u64,
) -> rusqlite::Result<()> {
    let which = "SELECT id FROM tree WHERE ledger_id = ?1 AND seq >= ?2";
    for delete in [
        format!("DELETE FROM flow WHERE tree IN ({which})"),
        "DELETE FROM tree WHERE ledger_id = ?1 AND seq >= ?2".to_owned(),
    ] {
        transaction
            .prepare_cached(&delete)?
            .execute(params![ledger_id, size as i64])?;
    }
    Ok(())
}

fn insert_tree(
    transaction: &Transaction<'_>,
    ledger_id: [u8; 16],
    seq: u64,
    record: &Record,
) -> rusqlite::Result<i64> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO tree (ledger_id, seq, tenant, port_uid, direction, window_start, window_end) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    insert.insert(params![
        ledger_id,
        seq as i64,
        record.tenant,
        record.port_uid,
        record.direction,
        record.window_start,
        record.window_end,
    ])
}

/// Writes the rows of a tree, each with its salt, and returns what stands for them.
fn insert_rows(
    transaction: &Transaction<'_>,
    tree: i64,
    rows: &[Row],
    salts: &[u8],
) -> rusqlite::Result<Flows> {
    let mut insert =
        transaction.prepare_cached("INSERT INTO flow (tree, at, canonical) VALUES (?1, ?2, ?3)")?;
    let mut root = Root::default();
    let (salts, _) = salts.as_chunks::<16>();
    for (at, (row, salt)) in (0_i64..).zip(rows.iter().zip(salts)) {
        let canonical = Row {
            salt: *salt,
            ..*row
        }
        .encode();
        root.add(&canonical);
        insert.execute(params![tree, at, canonical])?;
    }
    let (rows, root) = root.finish();
    Ok(Flows { rows, root })
}
