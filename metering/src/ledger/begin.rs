//! A new ledger: made beside its place, and moved there when it is whole.

use super::{
    Anchor, Begun, Ceilings, Identity, Ledger, LedgerError,
    flows::FlowFiles,
    head::{Grown, Signing},
    inode, keys, schema,
};
use crate::{
    meter::{Lost, Outcome, State},
    note::{self, Signer},
    record::{Kind, Record, Supersedes, TEXT_BYTES_MAX},
};
use dataplane_common::fault::{self, Point};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// What was at the path, or should have been.
pub(super) struct Before {
    /// Why that is not continued, for people.
    pub why: String,
    /// The ledger that it was.
    pub ledger_id: [u8; 16],
    /// Where its file goes; `None`: there is none.
    pub aside: Option<PathBuf>,
    /// The ledger whose place is taken, and the highest seq of it that anybody here knows of.
    pub supersedes: Option<Supersedes>,
    /// What it knew of the registers that are read from now on.
    pub known: State,
    /// It may have delivered what these registers counted.
    pub lost: bool,
}

impl Ledger {
    /// Begins a ledger. Whatever fails, what was at the path is there still, or is put aside.
    pub(super) fn begin(
        path: &Path,
        identity: &Identity,
        remembered: &Anchor,
        memory: Option<&State>,
        before: Option<Before>,
    ) -> Result<Begun, LedgerError> {
        let system = Self::system(path);
        let state = match (memory, &before) {
            (Some(memory), _) => memory.clone(),
            (None, Some(before)) => State {
                lost: before.lost.then(|| Lost {
                    cause: short(&before.why),
                    begun_ns: identity.now.boot_ns,
                    windows: remembered
                        .windows
                        .max(before.known.lost.as_ref().map_or(0, |lost| lost.windows)),
                }),
                ..before.known.clone()
            },
            (None, None) => State::default(),
        };
        let supersedes = before.as_ref().and_then(|before| before.supersedes);
        let new = beside(path, "new");
        let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
        fs::metadata(directory.unwrap_or(Path::new("."))).map_err(&system)?;
        let signer = match keys::read(&keys::key_path(path))? {
            Some(signer) => signer,
            None => {
                let mut seed = [0; 32];
                random(path, &mut seed)?;
                keys::make(&keys::key_path(path), &seed)?
            }
        };
        let Made {
            id,
            secret,
            mut anchor,
            signing,
            grown,
        } = make(path, &new, identity, supersedes, &state, signer)?;
        anchor.windows = state.windows();
        fault::reach(Point::LedgerMade);
        let of = before
            .as_ref()
            .map_or(remembered.ledger_id, |before| before.ledger_id);
        match before.as_ref().and_then(|before| before.aside.as_ref()) {
            Some(aside) => move_away(path, aside, &["wal", "shm", ""]),
            // SQLite would read a journal that is left here into the new file.
            None => put_aside(path, of, &["wal", "shm"]).map(drop),
        }
        .map_err(&system)?;
        fs::rename(&new, path).map_err(&system)?;
        fault::reach(Point::LedgerNamed);
        if let Some(directory) = path.parent() {
            let directory = match directory.as_os_str().is_empty() {
                true => Path::new("."),
                false => directory,
            };
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(&system)?;
        }
        let db = schema::open(path, false)?;
        Ok(Begun {
            ledger: Self {
                path: path.to_owned(),
                file: inode(path).map_err(&system)?,
                journal: inode(&beside(path, "wal")).ok(),
                db,
                id,
                secret,
                epoch: identity.epoch.clone(),
                state,
                anchor,
                detail: FlowFiles::of(path),
                ceilings: Ceilings::new(),
                noted: Ceilings::new(),
                signing,
                grown,
            },
            superseded: before.map(|before| before.why),
            recovered: None,
        })
    }
}

fn random(path: &Path, bytes: &mut [u8]) -> Result<(), LedgerError> {
    getrandom::fill(bytes).map_err(|error| LedgerError::Storage {
        path: path.to_owned(),
        what: format!("no random numbers: {error}"),
    })
}

/// What a new ledger begins with.
struct Made {
    id: [u8; 16],
    secret: [u8; 32],
    anchor: Anchor,
    signing: Signing,
    grown: Grown,
}

/// Makes a whole ledger at `new`, for `path`.
fn make(
    path: &Path,
    new: &Path,
    identity: &Identity,
    supersedes: Option<Supersedes>,
    state: &State,
    signer: Signer,
) -> Result<Made, LedgerError> {
    let (storage, system) = (Ledger::storage(path), Ledger::system(path));
    let (mut id, mut secret) = ([0; 16], [0; 32]);
    random(path, &mut id)?;
    random(path, &mut secret)?;
    let signing = Signing::new(signer, &identity.epoch.host, &id);
    let signing = signing.ok_or_else(|| LedgerError::Storage {
        path: keys::key_path(path),
        what: "this key cannot sign".into(),
    })?;
    // Known before anything that it has signed is.
    keys::publish(path, &signing.verifier)?;
    for left in [new.to_owned(), beside(new, "wal"), beside(new, "shm")] {
        let _ = fs::remove_file(left);
    }
    let db = schema::open(new, true)?;
    // Who sent how much to where is nobody else's business.
    fs::set_permissions(new, fs::Permissions::from_mode(0o600)).map_err(&system)?;
    for (key, value) in [
        ("ledger_id", id.to_vec()),
        ("secret", secret.to_vec()),
        ("machine_id", identity.machine_id.clone().into_bytes()),
        ("host", identity.epoch.host.clone().into_bytes()),
    ] {
        db.execute(
            "INSERT INTO about (key, value) VALUES (?1, ?2)",
            (key, value),
        )
        .map_err(&storage)?;
    }
    let mut ledger = Ledger {
        path: path.to_owned(),
        file: (0, 0),
        journal: None,
        db,
        id,
        secret,
        epoch: identity.epoch.clone(),
        state: State::default(),
        anchor: Anchor {
            ledger_id: id,
            ..Anchor::default()
        },
        detail: FlowFiles::of(path),
        ceilings: Ceilings::new(),
        noted: Ceilings::new(),
        signing,
        grown: Grown::default(),
    };
    let first = Record {
        kind: Kind::Begin,
        host: identity.epoch.host.clone(),
        boot_id: identity.epoch.boot_id,
        map_generation: identity.epoch.map_generation,
        window_start: identity.now.utc_ns,
        window_end: identity.now.utc_ns,
        supersedes,
        ..Record::default()
    };
    let outcome = Outcome {
        records: vec![first],
        state: state.clone(),
        ..Outcome::default()
    };
    let anchor = ledger.write(outcome, None)?.anchor;
    // Closing empties the journal into the file, so that one name is all of it.
    let Ledger {
        db, signing, grown, ..
    } = ledger;
    db.close().map_err(|(_, error)| storage(error))?;
    File::open(new)
        .and_then(|file| file.sync_all())
        .map_err(system)?;
    Ok(Made {
        id,
        secret,
        anchor,
        signing,
        grown,
    })
}

/// A cause that fits a record.
fn short(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX as usize);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let printable = |char: char| if char.is_control() { '?' } else { char };
    text[..end].chars().map(printable).collect()
}

/// The name of what belongs to the file at `path`; the empty suffix is itself.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(match suffix {
        "" => "",
        "wal" | "shm" => "-",
        _ => ".",
    });
    name.push(suffix);
    name.into()
}

/// What follows a ledger's name when it is put aside, before the id.
pub(super) const ASIDE: &str = ".superseded-";

/// The files that were put aside for the ledger at `path`, the eldest first.
pub fn aside(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{name}{ASIDE}");
    let directory = path.parent().filter(|at| !at.as_os_str().is_empty());
    let entries = fs::read_dir(directory.unwrap_or(Path::new(".")));
    let mut found: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&prefix) && !name.ends_with("-wal") && !name.ends_with("-shm")
        })
        .map(|entry| {
            let changed = entry.metadata().and_then(|found| found.modified()).ok();
            (changed, entry.path())
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// A name beside `path` that nothing has.
pub(super) fn free_name(path: &Path, id: [u8; 16]) -> PathBuf {
    let id = note::hex(&id[..4]);
    (1..)
        .map(|number| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!("{ASIDE}{id}-{number}"));
            PathBuf::from(name)
        })
        .find(|name| {
            ["", "wal", "shm"]
                .iter()
                .all(|suffix| fs::symlink_metadata(beside(name, suffix)).is_err())
        })
        .unwrap_or_default()
}

/// Moves what is there of a ledger to a name that is free.
pub(super) fn put_aside(path: &Path, id: [u8; 16], suffixes: &[&str]) -> io::Result<PathBuf> {
    let free = free_name(path, id);
    move_away(path, &free, suffixes)?;
    Ok(free)
}

fn move_away(path: &Path, free: &Path, suffixes: &[&str]) -> io::Result<()> {
    for suffix in suffixes {
        match fs::rename(beside(path, suffix), beside(free, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
