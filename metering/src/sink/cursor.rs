//! How far a service is, in a file beside the ledger: one that says nothing itself.
//!
//! The file is written anew beside itself, made durable and given its name: it is the old one or the new one, whatever
//! happens. One that is gone sends everything again, under the same names.

use crate::{
    note::hex,
    owner,
    sink::{
        Batch, Mark, SinkError, Windows,
        text::unhex_exact,
        windows::{self, decimal},
    },
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

const VERSION: u32 = 1;

/// The cursor of a sink: `LEDGER.sink-NAME`.
#[must_use]
pub(super) fn file(ledger: &Path, name: &str) -> PathBuf {
    let mut path = ledger.as_os_str().to_owned();
    path.push(format!(".sink-{name}"));
    path.into()
}

/// How far a sink is.
pub(super) fn mark(path: &Path, id: &[u8; 16], host: &str) -> Result<Mark, SinkError> {
    Cursor::read(path)?.mark(id, host)
}

/// The ledgers of a host that a sink has something of.
pub(super) fn ledgers(path: &Path, host: &str) -> Result<Vec<[u8; 16]>, SinkError> {
    let cursor = Cursor::read(path)?;
    let of_host = cursor.ledgers.iter().filter(|(_, at)| at.host == host);
    let ids = of_host.filter_map(|(name, _)| cursor.ids.get(name).copied());
    Ok(ids.collect())
}

/// Sends a batch where the cursor is, and moves it behind the batch when that is acknowledged.
pub(super) fn advance(
    path: &Path,
    batch: &Batch,
    send: impl FnOnce() -> Result<(), SinkError>,
) -> Result<Mark, SinkError> {
    let mut cursor = Cursor::read(path)?;
    if cursor.mark(&batch.ledger_id, &batch.host)? != batch.from {
        return Err(SinkError::Unavailable(format!(
            "{}: it changed meanwhile; reading it again",
            path.display()
        )));
    }
    let new = Windows::of(batch);
    windows::nobody_elses(&new, cursor.others(&batch.ledger_id, &batch.host))?;
    send()?;
    cursor.move_to(batch, new);
    cursor.write(path)?;
    Ok(batch.to)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    version: u32,
    /// By the ledger's id in hexadecimal digits.
    ledgers: BTreeMap<String, At>,
    /// The same by its bytes.
    #[serde(skip)]
    ids: BTreeMap<String, [u8; 16]>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct At {
    host: String,
    #[serde(with = "decimal")]
    next_seq: u64,
    /// Hash of the leaf before, in hexadecimal digits.
    leaf: String,
    windows: Vec<Windows>,
}

impl Cursor {
    /// What the file says; nothing, where there is none.
    fn read(path: &Path) -> Result<Self, SinkError> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    version: VERSION,
                    ledgers: BTreeMap::new(),
                    ids: BTreeMap::new(),
                });
            }
            text => text.map_err(|error| failed(path, &error))?,
        };
        let refused = |why: &str| {
            SinkError::Refused(format!(
                "{}: this does not say how far the sink is ({why}); move it away, and everything is sent again under the \
                 same ids",
                path.display()
            ))
        };
        let mut cursor: Self =
            serde_json::from_slice(&text).map_err(|error| refused(&error.to_string()))?;
        if cursor.version != VERSION {
            return Err(refused("another version"));
        }
        for (id, at) in &cursor.ledgers {
            let bytes = unhex_exact::<16>(id).ok_or_else(|| refused("a ledger's id is none"))?;
            unhex_exact::<32>(&at.leaf).ok_or_else(|| refused("a leaf is none"))?;
            cursor.ids.insert(id.clone(), bytes);
        }
        Ok(cursor)
    }

    fn mark(&self, id: &[u8; 16], host: &str) -> Result<Mark, SinkError> {
        let Some(at) = self.ledgers.get(&hex(id)) else {
            return Ok(Mark::NONE);
        };
        if at.host != host {
            return Err(SinkError::Fork(format!(
                "the ledger was delivered as {}'s, and is {host}'s now",
                at.host
            )));
        }
        Ok(Mark {
            next: at.next_seq,
            leaf: unhex_exact(&at.leaf).unwrap_or_default(),
        })
    }

    /// Windows of the host's other ledgers.
    fn others<'a>(
        &'a self,
        id: &[u8; 16],
        host: &str,
    ) -> impl Iterator<Item = (&'a [u8; 16], &'a [Windows])> {
        let (id, host) = (*id, host.to_owned());
        let named = self.ledgers.iter().filter_map(|(name, at)| {
            let bytes = self.ids.get(name)?;
            Some((bytes, at))
        });
        named
            .filter(move |(other, at)| **other != id && at.host == host)
            .map(|(other, at)| (other, at.windows.as_slice()))
    }

    /// A batch was acknowledged.
    fn move_to(&mut self, batch: &Batch, windows: Vec<Windows>) {
        let name = hex(&batch.ledger_id);
        let at = self.ledgers.entry(name.clone()).or_insert_with(|| At {
            host: batch.host.clone(),
            next_seq: 0,
            leaf: String::new(),
            windows: Vec::new(),
        });
        at.next_seq = batch.to.next;
        at.leaf = hex(&batch.to.leaf);
        Windows::join(&mut at.windows, windows);
        self.ids.insert(name, batch.ledger_id);
    }

    /// Makes it durable.
    fn write(&self, path: &Path) -> Result<(), SinkError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| SinkError::Refused(format!("{}: {error}", path.display())))?;
        let write = || -> io::Result<()> {
            let mut options = fs::OpenOptions::new();
            options.create_new(true).write(true).mode(0o600);
            // What an earlier try left, also a link that somebody else put there.
            let _ = fs::remove_file(&temporary);
            let mut file = options.open(&temporary)?;
            owner::as_its_directory(&file, &temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|error| failed(path, &error))
    }
}

fn failed(path: &Path, error: &io::Error) -> SinkError {
    SinkError::Unavailable(format!("{}: {error}", path.display()))
}
