//! A copy of a ledger, and the way back.
//!
//! Invariants
//! - A copy is whole and checked before it has its name, and takes nobody else's.
//! - A ledger that was restored is behind the kernel's anchor, or says that it was where there is none: the
//!   daemon begins a new one that supersedes it (`docs/METERING.md`, M-7.17 and M-7.18), and nothing is
//!   billed twice. One that lacks nothing is continued.
//!
//! What it is not: a copy of flow detail. That goes after some days, and copies of it would not.

use super::{LedgerError, begin::beside, flows::sync_directory, head, keys, schema};
use crate::owner;
use rusqlite::Connection;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Why a ledger was not copied. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The ledger, or what should be a copy of one.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Something has the name already.
    #[error("{path}: this exists; move it away, or name another file")]
    Exists {
        /// It.
        path: PathBuf,
    },
    /// A journal is beside the file: it is not all of a ledger.
    #[error(
        "{path}: there is a journal beside it, so that it is not the whole ledger; \
         take a copy that `octroi ledger backup` made"
    )]
    Journal {
        /// The file.
        path: PathBuf,
    },
    /// The copy is not what a ledger is.
    #[error("{path}: the copy is damaged ({what})")]
    Damaged {
        /// The copy.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// SQLite or the system below it.
    #[error("{path}: {what}")]
    Storage {
        /// The copy.
        path: PathBuf,
        /// What they said.
        what: String,
    },
}

/// What a copy has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// The ledger's id.
    pub ledger_id: [u8; 16],
    /// Its leaves: records, and those that were pruned.
    pub leaves: u64,
    /// Length of the file, bytes.
    pub file_bytes: u64,
}

fn storage<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> BackupError + use<E> {
    let path = path.to_owned();
    move |error| BackupError::Storage {
        path: path.clone(),
        what: error.to_string(),
    }
}

/// Copies the ledger at `path` to `to`, as it is at one moment, while a daemon may be writing it.
///
/// # Errors
/// Any [`BackupError`]; there is no file at `to` then.
pub fn backup(path: &Path, to: &Path) -> Result<Copied, BackupError> {
    refuse_existing(to)?;
    let db = schema::open_to_read(path)?;
    let new = beside(to, "new");
    let done = create(&new).and_then(|()| {
        // What was deleted is not in it, and it needs no journal.
        db.execute("VACUUM INTO ?1", [new.to_string_lossy()])
            .map_err(storage::<rusqlite::Error>(&new))?;
        name(&new, to)
    });
    let _ = fs::remove_file(&new);
    done
}

/// Puts the copy `from` where a ledger belongs. Nobody may be metering into it.
///
/// # Errors
/// Any [`BackupError`]; there is no file at `path` then.
pub fn restore(from: &Path, path: &Path) -> Result<Copied, BackupError> {
    for suffix in ["", "wal", "shm"] {
        refuse_existing(&beside(path, suffix))?;
    }
    if fs::metadata(beside(from, "wal")).is_ok_and(|journal| journal.len() != 0) {
        return Err(BackupError::Journal {
            path: from.to_owned(),
        });
    }
    check(from)?;
    let new = beside(path, "new");
    let done = create(&new).and_then(|()| {
        fs::copy(from, &new).map_err(storage(&new))?;
        // Copying took the mode of the other file.
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&new, mode).map_err(storage(&new))?;
        mark(&new, path)?;
        name(&new, path)
    });
    let _ = fs::remove_file(&new);
    done
}

/// Notes in a copy that it is one, for a daemon that finds no anchor.
fn mark(new: &Path, path: &Path) -> Result<(), BackupError> {
    let db = Connection::open(new).map_err(storage::<rusqlite::Error>(new))?;
    let set = "INSERT OR REPLACE INTO about (key, value) VALUES ('restored', 'from a copy')";
    // Without its key nobody continues it, and nothing has to be noted.
    let signer = keys::read(&keys::key_path(path))?;
    if let Some(signer) = signer {
        head::sealed(&db, &signer, |db| db.execute(set, []).map(drop))
            .map_err(storage::<rusqlite::Error>(new))?;
    }
    db.close()
        .map_err(|(_, error)| storage::<rusqlite::Error>(new)(error))
}

fn refuse_existing(path: &Path) -> Result<(), BackupError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(storage(path)(error)),
        Ok(_) => Err(BackupError::Exists {
            path: path.to_owned(),
        }),
    }
}

/// Makes an empty file that only its owner can read. One that an earlier try left goes.
fn create(new: &Path) -> Result<(), BackupError> {
    let _ = fs::remove_file(new);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let file = options.open(new).map_err(storage(new))?;
    owner::as_its_directory(&file, new).map_err(storage(new))
}

/// Checks a copy, makes it durable, and gives it its name, which nothing has.
fn name(new: &Path, to: &Path) -> Result<Copied, BackupError> {
    let copied = check(new)?;
    let synced = File::open(new).and_then(|file| file.sync_all());
    synced.map_err(storage(new))?;
    // Unlike a rename, this takes nobody's place.
    match fs::hard_link(new, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(BackupError::Exists {
                path: to.to_owned(),
            });
        }
        linked => linked.map_err(storage(to))?,
    }
    sync_directory(to).map_err(storage(to))?;
    Ok(copied)
}

/// Opens a copy, and holds SQLite's own checks and the ledger's numbers against it.
fn check(copy: &Path) -> Result<Copied, BackupError> {
    let db = schema::open_to_read(copy)?;
    let fault = |what: String| BackupError::Damaged {
        path: copy.to_owned(),
        what,
    };
    let sound: String = db
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(storage::<rusqlite::Error>(copy))?;
    if sound != "ok" {
        return Err(fault(sound));
    }
    let copied = read(&db, copy).map_err(storage::<rusqlite::Error>(copy))?;
    if copied.ledger_id == [0; 16] || copied.leaves == 0 {
        return Err(fault("it does not say whose it is".into()));
    }
    Ok(copied)
}

fn read(db: &Connection, copy: &Path) -> rusqlite::Result<Copied> {
    let id = "SELECT CAST(value AS BLOB) FROM about WHERE key = 'ledger_id'";
    let id: Vec<u8> = db.query_row(id, [], |row| row.get(0))?;
    let leaves = "SELECT coalesce(max(seq) + 1, 0) FROM record";
    Ok(Copied {
        ledger_id: id.try_into().unwrap_or_default(),
        leaves: db.query_row(leaves, [], |row| row.get::<_, i64>(0))? as u64,
        file_bytes: fs::metadata(copy).map_or(0, |found| found.len()),
    })
}
