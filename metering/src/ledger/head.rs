//! The head of a ledger's tree, and the seal over the tables that are no records: both are signed in the
//! transaction that they speak of.
//!
//! Invariants (`docs/METERING.md`, M-14)
//! - After each commit the last head has the size and the root of the leaves, and the seal the digest of
//!   every other table. Only the frontier is read for that, never a leaf.
//! - A transaction that changes a table of [`SEALED`] ends with [`seal`].
//!
//! What it is not: it does not look for what was tampered with (`verify` does).

use super::Ledger;
use crate::{
    note::{self, Head, Note, Signer, Verifier},
    tree::{Frontier, Hash},
};
use rusqlite::{
    Connection, OptionalExtension as _, Transaction, TransactionBehavior, params, types::ValueRef,
};
use sha2::{Digest as _, Sha256};

/// The tables that the seal covers: all but `record` and `head`, which have the tree, and `seal`.
pub const SEALED: [&str; 4] = ["about", "look", "owner", "series"];

/// The key of a ledger.
pub(super) struct Signing {
    pub signer: Signer,
    /// Its public half, under the ledger's origin.
    pub verifier: Verifier,
}

impl Signing {
    /// The key of the ledger that this host began; `None`: the key is none.
    pub fn new(signer: Signer, host: &str, ledger_id: &[u8; 16]) -> Option<Self> {
        Self::named(signer, &note::origin(host, ledger_id))
    }

    /// The key of this name.
    pub fn named(signer: Signer, name: &str) -> Option<Self> {
        let verifier = Verifier::new(name, &signer.public())?;
        Some(Self { signer, verifier })
    }
}

/// How far a ledger's tree is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Grown {
    pub frontier: Frontier,
    /// Heads that were signed.
    pub heads: u64,
}

/// Signs the head of what was written, if that is more than the last one had, and the seal.
pub(super) fn commit(
    db: &Connection,
    signing: &Signing,
    grown: &mut Grown,
    is_more: bool,
) -> rusqlite::Result<()> {
    let frontier = "INSERT OR REPLACE INTO about (key, value) VALUES ('frontier', ?1)";
    db.prepare_cached(frontier)?
        .execute([grown.frontier.bytes()])?;
    if is_more {
        let head = Head {
            origin: signing.verifier.name().to_owned(),
            size: grown.frontier.size(),
            root: grown.frontier.root(),
        };
        let note = signing.signer.note(&head.text());
        db.prepare_cached("INSERT INTO head (number, size, note) VALUES (?1, ?2, ?3)")?
            .execute(params![grown.heads as i64, head.size as i64, note])?;
        grown.heads += 1;
    }
    seal(db, signing, grown)
}

/// Signs what the tables of [`SEALED`] say now.
pub(super) fn seal(db: &Connection, signing: &Signing, grown: &Grown) -> rusqlite::Result<()> {
    put(
        db,
        &signing.signer,
        signing.verifier.name(),
        (grown.frontier.size(), grown.heads),
    )
}

fn put(
    db: &Connection,
    signer: &Signer,
    origin: &str,
    (size, heads): (u64, u64),
) -> rusqlite::Result<()> {
    let text = seal_text(origin, size, heads, &digest(db)?);
    db.prepare_cached("INSERT OR REPLACE INTO seal (only, note) VALUES (0, ?1)")?
        .execute([signer.note(&text)])
        .map(drop)
}

/// Changes a table of [`SEALED`] in a transaction of its own, and seals it, where nobody has the ledger open
/// or somebody else has.
pub(super) fn sealed(
    db: &Connection,
    signer: &Signer,
    change: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let transaction = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    change(&transaction)?;
    let grown = "SELECT count(*), coalesce(max(size), 0) FROM head";
    let (heads, size) = transaction.query_row(grown, [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
    })?;
    let head = last(&transaction)?.unwrap_or_default();
    let origin = head.lines().next().unwrap_or_default();
    put(&transaction, signer, origin, (size as u64, heads as u64))?;
    transaction.commit()
}

/// What the seal says.
pub(crate) fn seal_text(origin: &str, size: u64, heads: u64, digest: &Hash) -> String {
    format!(
        "{origin}\nseal\nsize {size}\nheads {heads}\n{}\n",
        note::base64(digest)
    )
}

/// The digest of the sealed tables: M-14.6.
pub(crate) fn digest(db: &Connection) -> rusqlite::Result<Hash> {
    let mut hash = Sha256::new();
    for table in SEALED {
        let sql = format!("SELECT * FROM {table} ORDER BY 1, 2");
        let mut statement = db.prepare_cached(&sql)?;
        let columns = statement.column_count();
        hash.update(b"T");
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            hash.update(b"R");
            for column in 0..columns {
                let (kind, bytes) = match row.get_ref(column)? {
                    ValueRef::Null => (b'N', &[][..]),
                    ValueRef::Integer(number) => {
                        hash.update(b"I");
                        hash.update(number.to_be_bytes());
                        continue;
                    }
                    ValueRef::Real(number) => {
                        hash.update(b"F");
                        hash.update(number.to_be_bytes());
                        continue;
                    }
                    ValueRef::Text(bytes) => (b'S', bytes),
                    ValueRef::Blob(bytes) => (b'B', bytes),
                };
                hash.update([kind]);
                if kind != b'N' {
                    hash.update((bytes.len() as u64).to_be_bytes());
                    hash.update(bytes);
                }
            }
        }
    }
    Ok(hash.finalize().into())
}

/// The last head of a ledger, as it was signed.
pub(crate) fn last(db: &Connection) -> rusqlite::Result<Option<String>> {
    let note = "SELECT note FROM head ORDER BY number DESC LIMIT 1";
    db.query_row(note, [], |row| row.get(0)).optional()
}

/// Whether a file may be continued with this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its head and seal are by this key, and are those of what is in it.
    Sound,
    /// They are by another key.
    OtherKey,
    /// They are not those of what is in it.
    Changed(&'static str),
}

/// Are head and seal those of what is in the file? The leaves are not read.
pub(super) fn look(
    db: &Connection,
    grown: &Grown,
    verifier: &Verifier,
) -> rusqlite::Result<Standing> {
    let keys = std::slice::from_ref(verifier);
    let seal: Option<String> = db
        .query_row("SELECT note FROM seal", [], |row| row.get(0))
        .optional()?;
    let (Some(head), Some(seal)) = (last(db)?, seal) else {
        return Ok(Standing::Changed("its head or its seal is gone"));
    };
    for (note, text) in [
        (
            &head,
            Head {
                origin: verifier.name().to_owned(),
                size: grown.frontier.size(),
                root: grown.frontier.root(),
            }
            .text(),
        ),
        (
            &seal,
            seal_text(
                verifier.name(),
                grown.frontier.size(),
                grown.heads,
                &digest(db)?,
            ),
        ),
    ] {
        let read = Note::parse(note).and_then(|note| Ok((note.signers(keys)?, note)));
        match read {
            Err(note::NoteError::Unsigned) => return Ok(Standing::OtherKey),
            Ok((_, note)) if note.text == text => {}
            _ => {
                return Ok(Standing::Changed(
                    "its head or its seal is not that of what is in it",
                ));
            }
        }
    }
    Ok(Standing::Sound)
}

impl Ledger {
    /// The public half of its key, under its origin.
    pub fn verifier(&self) -> &Verifier {
        &self.signing.verifier
    }

    /// The head of its tree as it was signed with the last commit.
    ///
    /// # Errors
    /// [`super::LedgerError::Storage`].
    pub fn head(&self) -> Result<Option<String>, super::LedgerError> {
        last(&self.db).map_err(Self::storage(&self.path))
    }
}
