//! The tables, and how a file is opened.

use super::{LedgerError, journal};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

/// `PRAGMA application_id`: "octr" in ASCII.
pub(crate) const APPLICATION: i64 = 0x6F63_7472;
/// `PRAGMA user_version`.
pub(crate) const FORMAT: i64 = 2;

/// A record without canonical bytes was erased; its leaf stays.
/// WITHOUT ROWID is left out on purpose: `seq` is the rowid, so that records lie in their order.
pub(crate) const TABLES: &str = "
    CREATE TABLE about (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT;
    CREATE TABLE series (
        series TEXT NOT NULL, of INTEGER NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (series, of)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE owner (incarnation INTEGER PRIMARY KEY, state TEXT) STRICT;
    CREATE TABLE look (
        id INTEGER PRIMARY KEY, at INTEGER NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL
    ) STRICT;
    CREATE TABLE record (
        seq INTEGER PRIMARY KEY,
        kind INTEGER NOT NULL,
        stream_seq INTEGER NOT NULL,
        tenant INTEGER NOT NULL,
        tenant_seq INTEGER NOT NULL,
        boot_id BLOB NOT NULL,
        map_generation BLOB NOT NULL,
        port_uid TEXT NOT NULL,
        incarnation INTEGER NOT NULL,
        direction INTEGER NOT NULL,
        zone INTEGER NOT NULL,
        window_id INTEGER NOT NULL,
        window_start INTEGER NOT NULL,
        window_end INTEGER NOT NULL,
        flags INTEGER NOT NULL,
        packets INTEGER NOT NULL,
        l2_bytes INTEGER NOT NULL,
        l3_bytes INTEGER NOT NULL,
        canonical BLOB,
        leaf BLOB NOT NULL
    ) STRICT;
    CREATE TABLE head (number INTEGER PRIMARY KEY, size INTEGER NOT NULL, note TEXT NOT NULL) STRICT;
    CREATE TABLE seal (only INTEGER PRIMARY KEY, note TEXT NOT NULL) STRICT;
    CREATE UNIQUE INDEX record_once ON record
        (boot_id, map_generation, port_uid, incarnation, direction, zone, window_id)
        WHERE kind IN (1, 5);
    CREATE INDEX record_correction ON record (window_id) WHERE kind = 4;
    CREATE INDEX record_statement ON record (seq) WHERE kind = 9;
    CREATE INDEX record_by_time ON record (window_start);
    CREATE INDEX record_by_tenant ON record (tenant, window_start);
";

/// Opens a file as a ledger; makes the tables when it is new and empty.
pub(super) fn open(path: &Path, create: bool) -> Result<Connection, LedgerError> {
    let storage = super::Ledger::storage(path);
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    // Asked before SQLite makes one.
    let journal_is_empty = std::fs::metadata(super::begin::beside(path, "wal"))
        .map_or(true, |journal| journal.len() == 0);
    let db = Connection::open_with_flags(path, flags).map_err(&storage)?;
    db.busy_timeout(std::time::Duration::from_secs(2))
        .map_err(&storage)?;
    let number = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let foreign = |what: &str| LedgerError::Foreign {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let application =
        number("application_id").map_err(|error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => foreign("not a database"),
            _ => storage(error),
        })?;
    // Only a ledger's journal is changed: the file may be somebody else's.
    let keep_journal = || {
        db.pragma_update(None, "journal_mode", "WAL")
            .and_then(|()| db.pragma_update(None, "synchronous", "FULL"))
            .map_err(&storage)
    };
    if create {
        keep_journal()?;
        let make = format!(
            "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION}; \
             PRAGMA user_version = {FORMAT}; COMMIT;"
        );
        db.execute_batch(&make).map_err(&storage)?;
        return Ok(db);
    }
    if application != APPLICATION {
        return Err(foreign("it has another application id"));
    }
    let found = number("user_version").map_err(&storage)?;
    // Formats below 2 were never released.
    if found != FORMAT {
        return Err(LedgerError::Format {
            path: path.to_owned(),
            found,
            known: FORMAT,
        });
    }
    // SQLite fills up a last page that is cut off, and says nothing. A journal may have it whole.
    let pages = number("page_count").map_err(&storage)?;
    let page_bytes = number("page_size").map_err(&storage)?;
    let length = std::fs::metadata(path).map_or(0, |found| found.len());
    let whole = u64::try_from(pages.saturating_mul(page_bytes)).unwrap_or(u64::MAX);
    if journal_is_empty && length < whole {
        return Err(LedgerError::Damaged {
            path: path.to_owned(),
            what: format!("it has {length} bytes instead of {whole}"),
        });
    }
    keep_journal()?;
    // What is in the journal goes into the file, once it is durable. Somebody who writes or reads may put
    // it off, which is no error.
    if journal::write_anew(&db).map_err(&storage)? {
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(&storage)?;
    }
    Ok(db)
}

/// Opens a ledger to look at, while a daemon may be writing it.
pub(crate) fn open_to_read(path: &Path) -> Result<Connection, LedgerError> {
    let storage = super::Ledger::storage(path);
    if !path.exists() {
        return Err(LedgerError::Missing {
            path: path.to_owned(),
        });
    }
    let db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(&storage)?;
    db.busy_timeout(std::time::Duration::from_secs(2))
        .map_err(&storage)?;
    let application: i64 = db
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .map_err(&storage)?;
    if application == APPLICATION {
        Ok(db)
    } else {
        Err(LedgerError::Foreign {
            path: path.to_owned(),
            what: "it has another application id".into(),
        })
    }
}
