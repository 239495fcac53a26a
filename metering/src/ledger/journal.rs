//! The journal of a ledger that is opened: its frames are written anew before anything is built on them.
//!
//! After a sync that failed, the page cache may hold frames that the disk will never get, and a later sync
//! says nothing of them (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
//! Who reads the journal then, SQLite among them, takes them for durable. To move them into the file is to
//! bet the file on them: if the power goes in the middle, the file has half of a commit and no journal to
//! make it whole. Written anew, with the same bytes in the same places, they are dirty again, and the next
//! sync makes them durable or fails.

use rusqlite::{Connection, ErrorCode, ffi};
use std::{
    ffi::{c_int, c_void},
    ptr::{from_mut, null_mut},
};

/// Bytes that are read and written at once: SQLite's largest page. Its own layer writes no more than 128 KiB
/// less one in a call (os_unix.c, `seekAndWriteFd`).
const STEP: usize = 1 << 16;

/// Writes the frames anew and syncs them. False: somebody else writes this ledger now, and has done so
/// himself when he opened it.
///
/// # Errors
/// The journal cannot be read, written or synced.
pub(super) fn write_anew(db: &Connection) -> rusqlite::Result<bool> {
    // Nobody else appends to the journal meanwhile, nor begins it anew; those who read are not disturbed.
    match db.execute_batch("BEGIN IMMEDIATE") {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
            return Ok(false);
        }
        begun => begun?,
    }
    let done = Journal::of(db).and_then(|journal| journal.map_or(Ok(()), |file| file.write_anew()));
    let ended = db.execute_batch("ROLLBACK");
    done.and(ended).map(|()| true)
}

/// SQLite's own handle of the journal: what is done with it passes through its layer for files, as
/// everything else does.
struct Journal<'a> {
    file: *mut ffi::sqlite3_file,
    methods: &'a ffi::sqlite3_io_methods,
}

impl<'a> Journal<'a> {
    /// `None`: there is none.
    fn of(db: &'a Connection) -> rusqlite::Result<Option<Self>> {
        let mut file: *mut ffi::sqlite3_file = null_mut();
        // SAFETY: the connection is open, and this control writes one pointer to where the last argument
        // points (sqlite3.h, SQLITE_FCNTL_JOURNAL_POINTER). The file and its methods live as long as the
        // connection keeps its journal open: here, as long as its transaction, which the caller holds.
        unsafe {
            check(ffi::sqlite3_file_control(
                db.handle(),
                c"main".as_ptr(),
                ffi::SQLITE_FCNTL_JOURNAL_POINTER,
                from_mut(&mut file).cast(),
            ))?;
            let methods = file.as_ref().and_then(|file| file.pMethods.as_ref());
            Ok(methods.map(|methods| Self { file, methods }))
        }
    }

    fn write_anew(&self) -> rusqlite::Result<()> {
        let mut left = self.length()?;
        let (mut at, mut bytes) = (0, vec![0; STEP]);
        while left > 0 {
            let count = bytes.len().min(usize::try_from(left).unwrap_or(STEP));
            let part = &mut bytes[..count];
            self.read(part, at)?;
            self.write(part, at)?;
            // At most `STEP`, which fits.
            at += count as i64;
            left -= count as i64;
        }
        self.sync()
    }

    /// Bytes.
    fn length(&self) -> rusqlite::Result<i64> {
        let mut length = 0;
        let ask = self.methods.xFileSize.ok_or_else(lacking)?;
        // SAFETY: an open file with its own method, and a place for the answer.
        check(unsafe { ask(self.file, &mut length) })?;
        Ok(length)
    }

    fn read(&self, bytes: &mut [u8], at: i64) -> rusqlite::Result<()> {
        let read = self.methods.xRead.ok_or_else(lacking)?;
        let place: *mut c_void = bytes.as_mut_ptr().cast();
        // SAFETY: as above; the place has as many bytes as are asked for.
        check(unsafe { read(self.file, place, count(bytes), at) })
    }

    fn write(&self, bytes: &[u8], at: i64) -> rusqlite::Result<()> {
        let write = self.methods.xWrite.ok_or_else(lacking)?;
        let place: *const c_void = bytes.as_ptr().cast();
        // SAFETY: as above; there are as many bytes as are written.
        check(unsafe { write(self.file, place, count(bytes), at) })
    }

    fn sync(&self) -> rusqlite::Result<()> {
        let sync = self.methods.xSync.ok_or_else(lacking)?;
        // SAFETY: as above.
        check(unsafe { sync(self.file, ffi::SQLITE_SYNC_NORMAL) })
    }
}

/// At most `STEP`, which fits.
fn count(bytes: &[u8]) -> c_int {
    bytes.len() as c_int
}

fn check(code: c_int) -> rusqlite::Result<()> {
    if code == ffi::SQLITE_OK {
        Ok(())
    } else {
        Err(failure(code))
    }
}

fn lacking() -> rusqlite::Error {
    failure(ffi::SQLITE_IOERR)
}

fn failure(code: c_int) -> rusqlite::Error {
    let about =
        format!("the frames of the journal could not be written anew (code {code} of SQLite)");
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(about))
}
