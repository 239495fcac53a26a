//! May this file be continued? And if not: what takes its place, and what is said of the time between.

use super::{
    Anchor, Ceiling, Ceilings, Committed, Ledger, LedgerError,
    begin::{Before, beside, free_name},
    flows::FlowFiles,
    head::{self, Grown, Signing, Standing},
    inode, keys, retention, schema,
};
use crate::{
    meter::{Epoch, State, Sums, Time},
    record::{Record, Supersedes},
    tree::Frontier,
};
use rusqlite::{Connection, OptionalExtension as _};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Whose ledger it has to be, and whose registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Host, boot and maps.
    pub epoch: Epoch,
    /// The machine's own id: a copy of the file on another machine is another ledger.
    pub machine_id: String,
    /// The time now.
    pub now: Time,
}

/// What the registers stood at between two cuts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The open window.
    pub window: u64,
    /// The revision in force.
    pub revision: u32,
    /// When.
    pub time: Time,
    /// Everybody.
    pub owners: Vec<CheckpointOwner>,
}

/// An owner in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointOwner {
    /// Unique under these maps.
    pub incarnation: u64,
    /// Name of the port.
    pub name: String,
    /// Tenant's number.
    pub tenant: u32,
    /// CLOCK_BOOTTIME ns when it began.
    pub since_ns: u64,
    /// Its registers.
    pub directions: [Sums; 2],
    /// Its ceilings.
    pub ceilings: [Option<Ceiling>; 2],
}

/// A ledger that can be written.
pub struct Begun {
    /// The ledger.
    pub ledger: Ledger,
    /// What an operator must know: why another ledger was begun, and where the one before is.
    pub superseded: Option<String>,
    /// Records that were written for registers that are gone.
    pub recovered: Option<Committed>,
}

/// What an existing file says of itself.
struct Found {
    db: Connection,
    id: [u8; 16],
    secret: [u8; 32],
    machine_id: String,
    epoch: Epoch,
    state: State,
    checkpoint: Option<Checkpoint>,
    ceilings: Ceilings,
    anchor: Anchor,
    grown: Grown,
    /// The host that began it.
    host: String,
    /// Put back from a copy, and not continued since.
    restored: bool,
}

impl Ledger {
    /// Opens the ledger at `path`, or begins one.
    ///
    /// `remembered`: what the kernel knows of this host's ledger. `memory`: what this process last
    /// committed, when it did not just start.
    ///
    /// # Errors
    /// Any [`LedgerError`].
    pub fn open(
        path: &Path,
        identity: &Identity,
        remembered: &Anchor,
        memory: Option<&State>,
    ) -> Result<Begun, LedgerError> {
        // A path that cannot be looked at is no reason to begin anew.
        if !path.try_exists().map_err(Self::system(path))? {
            let gone = remembered.ledger_id != [0; 16];
            let before = gone.then(|| Before {
                why: format!("{}: the ledger is gone; a new one begins", path.display()),
                ledger_id: remembered.ledger_id,
                aside: None,
                supersedes: supersedes(remembered, None),
                known: State::default(),
                lost: true,
            });
            return Self::begin(path, identity, remembered, memory, before);
        }
        let found = read(path, &identity.epoch)?;
        let signing = sign(path, &found)?;
        let why = refuse(&found, identity, remembered).map_err(Self::storage(path))?;
        // Of a ledger whose key alone is gone, nothing is forgotten.
        let whole = why.is_none() && found.epoch == identity.epoch;
        let gone = "the key that signs this ledger is gone";
        let Some(signing) = signing.filter(|_| why.is_none()) else {
            let why = why.unwrap_or(gone);
            // Registers of another epoch are not those that are read from now on, and where nobody
            // remembers a ledger, none has delivered what they counted.
            let same_registers = found.epoch == identity.epoch;
            let aside = free_name(path, found.id);
            let why = format!(
                "{}: {why}; it is kept as {}, and a new one begins",
                path.display(),
                aside.display()
            );
            let before = Before {
                why,
                ledger_id: found.id,
                aside: Some(aside),
                supersedes: supersedes(remembered, Some(&found.anchor)),
                known: if same_registers {
                    found.state
                } else {
                    State::default()
                },
                lost: same_registers || remembered.ledger_id != [0; 16],
            };
            drop(found.db);
            let known = before.known.clone();
            let memory = memory.or(whole.then_some(&known));
            return Self::begin(path, identity, remembered, memory, Some(before));
        };
        let same_registers = found.epoch == identity.epoch;
        let mut ledger = Self {
            path: path.to_owned(),
            file: inode(path).map_err(Self::system(path))?,
            journal: inode(&beside(path, "wal")).ok(),
            db: found.db,
            id: found.id,
            secret: found.secret,
            epoch: found.epoch,
            state: found.state,
            detail: FlowFiles::of(path),
            anchor: found.anchor,
            noted: found.ceilings.clone(),
            ceilings: found.ceilings,
            signing,
            grown: found.grown,
        };
        keys::publish(path, &ledger.signing.verifier)?;
        ledger.detail.discard(ledger.id, ledger.anchor.size);
        if let Err(error) = ledger.finish_erasing() {
            ledger.detail.untold.get_or_insert(error.to_string());
        }
        let recovered = if same_registers {
            None
        } else {
            Some(ledger.close_epoch(found.checkpoint, identity)?)
        };
        Ok(Begun {
            ledger,
            superseded: None,
            recovered,
        })
    }
}

impl Ledger {
    /// Opens a ledger to add to it while no daemon does: whoever meters this host next finds it ahead of the
    /// anchor, and goes on (M-7.19).
    ///
    /// # Errors
    /// Any [`LedgerError`].
    pub(super) fn open_as_it_is(path: &Path) -> Result<Self, LedgerError> {
        if !path.try_exists().map_err(Self::system(path))? {
            return Err(LedgerError::Foreign {
                path: path.to_owned(),
                what: "there is no such file".into(),
            });
        }
        let found = read(path, &Epoch::default())?;
        let signing = sign(path, &found)?.ok_or_else(|| LedgerError::Damaged {
            path: path.to_owned(),
            what: "the key that signs it is gone".into(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            file: inode(path).map_err(Self::system(path))?,
            journal: inode(&beside(path, "wal")).ok(),
            db: found.db,
            id: found.id,
            secret: found.secret,
            epoch: Epoch {
                host: found.host,
                ..found.epoch
            },
            state: found.state,
            anchor: found.anchor,
            detail: FlowFiles::of(path),
            noted: found.ceilings.clone(),
            ceilings: found.ceilings,
            signing,
            grown: found.grown,
        })
    }
}

/// Whose place a ledger takes, and the highest seq of that one that the kernel or the file knows.
fn supersedes(remembered: &Anchor, found: Option<&Anchor>) -> Option<Supersedes> {
    let found = found
        .filter(|found| remembered.ledger_id == [0; 16] || remembered.ledger_id == found.ledger_id);
    let ledger_id = found.map_or(remembered.ledger_id, |found| found.ledger_id);
    let size = found.map_or(0, |found| found.size).max(remembered.size);
    (ledger_id != [0; 16]).then(|| Supersedes {
        ledger_id,
        last_seq: size.saturating_sub(1),
    })
}

/// Did this ledger take the place of the remembered one, with all of its records?
fn follows(found: &Found, remembered: &Anchor) -> rusqlite::Result<bool> {
    let first = "SELECT canonical FROM record WHERE seq = 0";
    let first: Option<Vec<u8>> = found.db.query_row(first, [], |row| row.get(0)).optional()?;
    let first = first.and_then(|canonical| Record::decode(&canonical).ok());
    let before = first.and_then(|first| first.supersedes);
    Ok(before.is_some_and(|before| {
        before.ledger_id == remembered.ledger_id && before.last_seq + 1 >= remembered.size
    }))
}

/// Why a ledger may not be continued; `None`: it may.
fn refuse(
    found: &Found,
    identity: &Identity,
    remembered: &Anchor,
) -> rusqlite::Result<Option<&'static str>> {
    if found.machine_id != identity.machine_id {
        return Ok(Some("this ledger was begun on another machine"));
    }
    if remembered.ledger_id == [0; 16] {
        // Its numbers after the copy may have been given to other records.
        let why = "this ledger was put back from a copy, and nobody knows how far it had come";
        return Ok(found.restored.then_some(why));
    }
    if remembered.ledger_id != found.id {
        // The crash was between its first commit and the anchor.
        if follows(found, remembered)? {
            return Ok(None);
        }
        return Ok(Some(
            "this is not the ledger that metered this host until now",
        ));
    }
    if found.anchor.size < remembered.size {
        return Ok(Some(
            "this ledger is an older copy of itself: records are missing",
        ));
    }
    let Some(last) = remembered.size.checked_sub(1) else {
        return Ok(None);
    };
    let leaf = retention::leaf(&found.db, last)?;
    if leaf == Some(remembered.head) {
        Ok(None)
    } else {
        Ok(Some(
            "this ledger has another history than the one that metered this host",
        ))
    }
}

/// The key that has signed this file; `None`: it is not there any more.
fn sign(path: &Path, found: &Found) -> Result<Option<Signing>, LedgerError> {
    // A crash between the commit of a new key and its renaming leaves it in its waiting place.
    for (at, waits) in [
        (keys::key_path(path), false),
        (keys::next_key_path(path), true),
    ] {
        let signer = keys::read(&at)?;
        let signing = signer.and_then(|signer| Signing::new(signer, &found.host, &found.id));
        let Some(signing) = signing else {
            continue;
        };
        let standing = head::look(&found.db, &found.grown, &signing.verifier);
        match standing.map_err(Ledger::storage(path))? {
            Standing::Sound if waits => {
                keys::take_place(path)?;
                return Ok(Some(signing));
            }
            Standing::Sound => return Ok(Some(signing)),
            Standing::OtherKey => {}
            Standing::Changed(what) => {
                return Err(LedgerError::Damaged {
                    path: path.to_owned(),
                    what: what.into(),
                });
            }
        }
    }
    Ok(None)
}

/// Reads what a file says of itself.
fn read(path: &Path, epoch: &Epoch) -> Result<Found, LedgerError> {
    let db = schema::open(path, false)?;
    let storage = Ledger::storage(path);
    let foreign = |what: &str| LedgerError::Foreign {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let bytes = |key: &str| -> Result<Option<Vec<u8>>, LedgerError> {
        db.query_row(
            "SELECT CAST(value AS BLOB) FROM about WHERE key = ?1",
            [key],
            |row| row.get(0),
        )
        .optional()
        .map_err(&storage)
    };
    let text = |key: &str| -> Result<Option<String>, LedgerError> {
        Ok(bytes(key)?.and_then(|bytes| String::from_utf8(bytes).ok()))
    };
    let sixteen = |key: &str| -> Result<[u8; 16], LedgerError> {
        let found = bytes(key)?.and_then(|bytes| bytes.try_into().ok());
        found.ok_or_else(|| foreign("it does not say whose it is"))
    };
    let id = sixteen("ledger_id")?;
    let secret = bytes("secret")?.and_then(|bytes| bytes.try_into().ok());
    let secret = secret.ok_or_else(|| foreign("it has no secret"))?;
    let unreadable = || foreign("the meter's state in it cannot be read");
    let mut state = State::default();
    if let Some(last) = text("last")? {
        state.last = Some(serde_json::from_str(&last).map_err(|_| unreadable())?);
    }
    if let Some(lost) = text("lost")? {
        state.lost = Some(serde_json::from_str(&lost).map_err(|_| unreadable())?);
    }
    // The audit of an earlier octroi, or none: it begins anew.
    if let Some(brackets) = text("brackets")? {
        state.brackets = serde_json::from_str(&brackets).unwrap_or_default();
    }
    // One that an earlier octroi wrote knows of no hour: none is settled before the next one ends.
    if let Some(settled) = text("settled")? {
        state.settled = serde_json::from_str(&settled).map_err(|_| unreadable())?;
    }
    let mut owners = db
        .prepare("SELECT incarnation, state FROM owner")
        .map_err(&storage)?;
    let rows = owners
        .query_map([], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?))
        })
        .map_err(&storage)?;
    for row in rows {
        let (incarnation, owner) = row.map_err(&storage)?;
        match owner {
            None => {
                state.closed.insert(incarnation as u64);
            }
            Some(text) => {
                let owner = serde_json::from_str(&text).map_err(|_| unreadable())?;
                state.owners.insert(incarnation as u64, owner);
            }
        }
    }
    drop(owners);
    let (size, head): (i64, Option<[u8; 32]>) = db
        .query_row(
            "SELECT coalesce(max(seq) + 1, 0), \
             (SELECT leaf FROM record ORDER BY seq DESC LIMIT 1) FROM record",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .map_err(&storage)?;
    let heads = db
        .query_row("SELECT count(*) FROM head", [], |row| row.get::<_, i64>(0))
        .map_err(&storage)?;
    let frontier = Frontier::from_bytes(size as u64, &bytes("frontier")?.unwrap_or_default());
    let frontier = frontier.ok_or_else(|| LedgerError::Damaged {
        path: path.to_owned(),
        what: "it does not know its own tree".into(),
    })?;
    Ok(Found {
        grown: Grown {
            frontier,
            heads: heads as u64,
        },
        host: text("host")?.unwrap_or_default(),
        id,
        secret,
        machine_id: text("machine_id")?.unwrap_or_default(),
        epoch: Epoch {
            host: epoch.host.clone(),
            boot_id: sixteen("boot_id")?,
            map_generation: sixteen("map_generation")?,
        },
        restored: text("restored")?.is_some(),
        ceilings: text("ceilings")?
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default(),
        checkpoint: text("checkpoint")?.and_then(|text| serde_json::from_str(&text).ok()),
        anchor: Anchor {
            ledger_id: id,
            size: size as u64,
            windows: state.windows(),
            head: head.unwrap_or_default(),
        },
        state,
        db,
    })
}
