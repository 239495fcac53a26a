//! Closed files in a directory: JSON lines, which verify, CSV, which spreadsheets read, and Parquet where it is asked for.
//!
//! `DIRECTORY/LEDGER_ID/FIRST_SEQ.jsonl`, `.csv`, `.parquet` and `.manifest.json`. The manifest is the commit: it gets its name last,
//! when all that it speaks of is durable, and it is what says how far this sink is. So there is no cursor that could disagree
//! with the files, and a crash anywhere leaves at most files without a manifest, which are nobody's and are written again.
//!
//! Invariants
//! - A file that has its name is closed and never written again. Its digest is in its manifest, and the manifest's in
//!   the next one.
//! - One process writes a ledger's files at a time: it has the lock beside them. Whoever only asks takes none.

mod csv;
mod manifest;
mod parquet;
mod read;

pub use manifest::{File, Manifest};

use super::{
    Batch, Item, Mark, Sink, SinkError, Totals,
    text::{Fields, is_billed},
    windows::{self, Windows},
};
use crate::note::hex;
use manifest::{MANIFEST, TEMPORARY, newest};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    ops::Range,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Where files are closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The directory. It must exist: where a disk is not mounted, nothing is to be written below its place.
    pub directory: PathBuf,
    /// Parquet too.
    pub parquet: bool,
}

impl Target {
    /// What it is and where, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        let kinds = if self.parquet {
            "JSON lines, CSV and Parquet"
        } else {
            "JSON lines and CSV"
        };
        format!("closed files of {kinds} in {}", self.directory.display())
    }
}

/// A line of a file of JSON lines.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    fields: Fields,
    /// The bytes of the leaf, in hexadecimal digits.
    canonical: String,
}

/// A directory of closed files.
pub struct Files {
    target: Target,
    /// The newest manifest of each ledger in the directory, as this one saw or wrote it.
    known: BTreeMap<[u8; 16], (Manifest, String)>,
    /// The locks of those that it writes.
    held: BTreeMap<[u8; 16], fs::File>,
}

/// Something is wrong with a file, and may be well later.
fn failed(path: &Path) -> impl Fn(io::Error) -> SinkError + '_ {
    move |error| SinkError::Unavailable(format!("{}: {error}", path.display()))
}

fn sync_directory(path: &Path) -> Result<(), SinkError> {
    let directory = fs::File::open(path).map_err(failed(path))?;
    directory.sync_all().map_err(failed(path))
}

/// A file that its owner writes and its group reads, and nobody else: it says who carried how much.
fn ours() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.create(true).mode(0o640);
    options
}

/// Writes a file and makes its contents durable; its name is a temporary one.
fn write(path: &Path, bytes: &[u8]) -> Result<(), SinkError> {
    let mut file = ours()
        .write(true)
        .truncate(true)
        .open(path)
        .map_err(failed(path))?;
    file.write_all(bytes).map_err(failed(path))?;
    file.sync_all().map_err(failed(path))
}

/// Digest of bytes in hexadecimal digits.
fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

impl Files {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            known: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    fn of(&self, id: &[u8; 16]) -> PathBuf {
        self.target.directory.join(hex(id))
    }

    /// The directory, which somebody else makes.
    fn is_there(&self) -> Result<(), SinkError> {
        let directory = &self.target.directory;
        if directory.is_dir() {
            return Ok(());
        }
        Err(SinkError::Refused(format!(
            "{}: there is no such directory; mount its disk, or make it",
            directory.display()
        )))
    }

    /// Reads the newest manifests of all ledgers that are here.
    fn look(&mut self) -> Result<(), SinkError> {
        self.is_there()?;
        self.known.clear();
        let directory = &self.target.directory;
        for entry in fs::read_dir(directory).map_err(failed(directory))? {
            let path = entry.map_err(failed(directory))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(id) = super::text::unhex_exact::<16>(&name) else {
                continue;
            };
            if let Some(found) = newest(&path)? {
                self.known.insert(id, found);
            }
        }
        Ok(())
    }
}

/// What a batch is as files: name, bytes. On a host where nothing happens most batches are none: a manifest says so.
fn contents(batch: &Batch, parquet: bool) -> Result<Vec<(String, Vec<u8>)>, SinkError> {
    let mut lines = Vec::new();
    for item in &batch.items {
        let line = Line {
            fields: Fields::of(item),
            canonical: hex(&item.canonical),
        };
        serde_json::to_writer(&mut lines, &line)
            .map_err(|error| SinkError::Refused(format!("record {}: {error}", item.seq)))?;
        lines.push(b'\n');
    }
    let first = batch.from.next;
    let mut files = Vec::new();
    if !batch.items.is_empty() {
        files.push((format!("{first:020}.jsonl"), lines));
        if parquet {
            let table = parquet::table(&batch.items)?;
            files.push((format!("{first:020}.parquet"), table));
        }
    }
    let billed: Vec<&Item> = batch.items.iter().filter(|item| is_billed(item)).collect();
    if !billed.is_empty() {
        let table = csv::table(&billed).into_bytes();
        files.push((format!("{first:020}.csv"), table));
    }
    Ok(files)
}

impl Files {
    /// Takes the lock of a ledger's files, and clears away what an earlier writer did not finish.
    fn lock(&mut self, id: &[u8; 16]) -> Result<(), SinkError> {
        if self.held.contains_key(id) {
            return Ok(());
        }
        let directory = self.of(id);
        if !directory.is_dir() {
            let made = fs::DirBuilder::new().mode(0o750).create(&directory);
            made.map_err(failed(&directory))?;
            sync_directory(&self.target.directory)?;
        }
        let path = directory.join("lock");
        let lock = fs::File::create(&path).map_err(failed(&path))?;
        if lock.try_lock().is_err() {
            return Err(SinkError::Unavailable(format!(
                "{}: another process writes these files; end it",
                path.display()
            )));
        }
        // Whoever had it may have written after they were read.
        self.look()?;
        manifest::clear(&directory, self.at(id)?.next)?;
        self.held.insert(*id, lock);
        Ok(())
    }

    /// Where the files of a ledger end, as they were last read or written.
    fn at(&self, id: &[u8; 16]) -> Result<Mark, SinkError> {
        let known = self.known.get(id);
        known.map_or(Ok(Mark::NONE), |(manifest, _)| manifest.mark(&self.of(id)))
    }

    fn put(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.is_there()?;
        self.lock(&batch.ledger_id)?;
        let moved =
            || SinkError::Unavailable("the directory changed meanwhile; reading it again".into());
        if self.at(&batch.ledger_id)? != batch.from {
            return Err(moved());
        }
        let windows = Windows::of(batch);
        let others = self
            .known
            .iter()
            .filter(|(id, (other, _))| **id != batch.ledger_id && other.host == batch.host);
        let others = others.map(|(id, (other, _))| (id, other.windows.as_slice()));
        windows::nobody_elses(&windows, others)?;
        let contents = contents(batch, self.target.parquet)?;
        let before = self.known.get(&batch.ledger_id);
        let manifest = Manifest::of(batch, before, windows, &contents);
        let text = manifest.to_text()?;
        let directory = self.of(&batch.ledger_id);
        for (name, bytes) in &contents {
            let temporary = directory.join(format!("{name}{TEMPORARY}"));
            write(&temporary, bytes)?;
            let path = directory.join(name);
            fs::rename(&temporary, &path).map_err(failed(&path))?;
        }
        // Durable with their names before the manifest speaks of them.
        sync_directory(&directory)?;
        let name = format!("{:020}{MANIFEST}", batch.from.next);
        let temporary = directory.join(format!("{name}{TEMPORARY}"));
        write(&temporary, text.as_bytes())?;
        let path = directory.join(name);
        // Not `rename`, which would take the place of what somebody else closed.
        match fs::hard_link(&temporary, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(moved()),
            done => done.map_err(failed(&path))?,
        }
        sync_directory(&directory)?;
        fs::remove_file(&temporary).map_err(failed(&temporary))?;
        let sum = digest(text.as_bytes());
        self.known.insert(batch.ledger_id, (manifest, sum));
        Ok(())
    }
}

impl Sink for Files {
    fn mark(&mut self, id: &[u8; 16], host: &str) -> Result<Mark, SinkError> {
        self.look()?;
        let Some((manifest, _)) = self.known.get(id) else {
            return Ok(Mark::NONE);
        };
        if manifest.host != host {
            return Err(SinkError::Fork(format!(
                "the ledger is {}'s at the sink, and {host}'s here",
                manifest.host
            )));
        }
        // The newest files at least are as they were closed; `octroi reconcile` reads them all.
        read::files(&self.of(id), manifest, false)?;
        self.at(id)
    }

    fn deliver(&mut self, batch: &Batch) -> Result<Mark, SinkError> {
        let done = self.put(batch);
        if done.is_err() {
            // What is there now is a guess: the next try takes the lock anew, and reads.
            self.held.remove(&batch.ledger_id);
        }
        done.map(|()| batch.to)
    }

    fn fork(&mut self, id: &[u8; 16], host: &str, what: &str) -> Result<(), SinkError> {
        self.is_there()?;
        let path = self.target.directory.join("forks.jsonl");
        let line = serde_json::json!({"ledger_id": hex(id), "host": host, "what": what});
        let line = format!("{line}\n");
        if fs::read_to_string(&path).is_ok_and(|told| told.contains(&line)) {
            return Ok(());
        }
        let mut file = ours().append(true).open(&path).map_err(failed(&path))?;
        file.write_all(line.as_bytes()).map_err(failed(&path))?;
        file.sync_all().map_err(failed(&path))
    }

    fn sums(
        &mut self,
        id: &[u8; 16],
        below: u64,
        without: &[Range<u64>],
    ) -> Result<Totals, SinkError> {
        self.is_there()?;
        read::sums(&self.of(id), id, below, without)
    }

    fn replay(&mut self, _: &Batch) -> Result<(), SinkError> {
        Err(SinkError::Refused(
            "a directory says itself how far it is: move its newest manifests away, and what they named is written again; \
             `octroi reconcile` says what is there"
                .into(),
        ))
    }
}

#[cfg(test)]
mod tests;
