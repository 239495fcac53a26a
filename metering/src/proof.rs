//! A tenant's proof: its records with the way from each to a signed root, and nothing of anybody else.
//!
//! Invariants (`docs/METERING.md`, M-15)
//! - What is written of others are hashes, each salted: a neighbour's record cannot be found by trying.
//! - The claim says which `tenant_seq` there are, and is signed: a record that is left out is missed.
//! - Memory does not grow with the ledger, but for 64 bytes for each 1,024 records.
//!
//! What it is not: it does not verify the ledger it is made from, beyond the root.

use crate::{
    ledger::{head, schema},
    note::{self, Head, Note, NoteError, Signer, Verifier},
    tree::{self, BLOCK, Hash, Levels, Outline},
};
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, Write},
    path::Path,
};

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The ledger cannot be read, or the proof cannot be written.
    #[error("{what}")]
    Unusable {
        /// Why.
        what: String,
    },
    /// The ledger's last head is not by this key.
    #[error("the last head of this ledger: {0}")]
    Head(#[from] NoteError),
    /// The leaves are not those that were signed.
    #[error("the leaves of this ledger are not those of its last head; octroi verify says where")]
    Root,
    /// The head that is to be continued is none of this ledger.
    #[error("the head is of {origin} with {size} records, and this ledger is {here} with {has}")]
    Other {
        /// Its origin.
        origin: String,
        /// Its size.
        size: u64,
        /// This one's.
        here: String,
        /// Its size.
        has: u64,
    },
}

impl From<rusqlite::Error> for ProofError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unusable {
            what: error.to_string(),
        }
    }
}

impl From<io::Error> for ProofError {
    fn from(error: io::Error) -> Self {
        Self::Unusable {
            what: error.to_string(),
        }
    }
}

/// The first line of a tenant's proof.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Opening {
    /// `proof 1`.
    pub octroi: String,
    /// The ledger's head, a note.
    pub checkpoint: String,
    /// The [`Claim`], a note.
    pub claim: String,
}

/// Every other line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    /// The record's bytes, base64.
    pub canonical: String,
    /// The hashes to the root, base64, the lowest first.
    pub proof: Vec<String>,
}

/// That one tree continues another: one line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Continuation {
    /// `consistency 1`.
    pub octroi: String,
    /// The head that somebody kept, a note.
    pub old: String,
    /// The one that continues it, a note.
    pub new: String,
    /// The hashes of RFC 9162 §2.1.4, base64.
    pub proof: Vec<String>,
}

/// What `octroi` says in the first line of a proof.
pub(crate) const PROOF: &str = "proof 1";
/// What `octroi` says in a proof of consistency.
pub(crate) const CONSISTENCY: &str = "consistency 1";

/// What a proof claims to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The ledger's origin.
    pub origin: String,
    /// Whose records.
    pub tenant: u32,
    /// Leaves of the tree.
    pub size: u64,
    /// The first `tenant_seq`, included, and the last, excluded.
    pub tenant_seq: (u64, u64),
    /// How many records that is, without those that were erased.
    pub records: u64,
}

impl Claim {
    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}\nproof of tenant {}\nsize {}\ntenant_seq {} {}\nrecords {}\n",
            self.origin, self.tenant, self.size, self.tenant_seq.0, self.tenant_seq.1, self.records
        )
    }

    /// Reads such a text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut after = |prefix: &str| lines.next()?.strip_prefix(prefix);
        let origin = after("")?.to_owned();
        let tenant = after("proof of tenant ")?.parse().ok()?;
        let size = after("size ")?.parse().ok()?;
        let (first, last) = after("tenant_seq ")?.split_once(' ')?;
        let claim = Self {
            origin,
            tenant,
            size,
            tenant_seq: (first.parse().ok()?, last.parse().ok()?),
            records: after("records ")?.parse().ok()?,
        };
        (claim.text() == text).then_some(claim)
    }
}

/// A ledger that proofs are taken from: one state of it, whatever a daemon writes meanwhile.
struct Source {
    db: Connection,
    checkpoint: String,
    head: Head,
    outline: Outline,
}

impl Source {
    fn open(
        path: &Path,
        verify: impl Fn(&Note<'_>) -> Result<(), NoteError>,
    ) -> Result<Self, ProofError> {
        let db = schema::open_to_read(path).map_err(|error| ProofError::Unusable {
            what: error.to_string(),
        })?;
        db.execute_batch("BEGIN")?;
        let checkpoint = head::last(&db)?.ok_or(NoteError::Malformed)?;
        let note = Note::parse(&checkpoint)?;
        verify(&note)?;
        let head = Head::parse(note.text)?;
        let mut outline = Outline::default();
        {
            let mut leaves = db.prepare("SELECT leaf FROM record ORDER BY seq")?;
            let mut rows = leaves.query([])?;
            while let Some(row) = rows.next()? {
                outline.push(row.get(0)?);
            }
        }
        outline.finish();
        if (outline.size(), outline.root()) != (head.size, head.root) {
            return Err(ProofError::Root);
        }
        Ok(Self {
            db,
            checkpoint,
            head,
            outline,
        })
    }

    fn block(&self, number: u64) -> rusqlite::Result<Vec<Hash>> {
        let leaves = "SELECT leaf FROM record WHERE seq >= ?1 AND seq < ?2 ORDER BY seq";
        let mut leaves = self.db.prepare_cached(leaves)?;
        let first = number * BLOCK;
        let rows = leaves.query_map(params![first as i64, (first + BLOCK) as i64], |row| {
            row.get(0)
        })?;
        rows.collect()
    }
}

fn encoded(proof: &[Hash]) -> Vec<String> {
    proof.iter().map(|hash| note::base64(hash)).collect()
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// The claim in it.
    pub claim: Claim,
    /// The head that it leads to.
    pub head: Head,
}

/// Writes the proof of a tenant's records, those of windows that end after `from` and begin before `to`
/// (UTC, ns since 1970; `None`: all), and of what lies between them by `tenant_seq`.
///
/// # Errors
/// [`ProofError`].
pub fn prove(
    path: &Path,
    signer: &Signer,
    tenant: u32,
    (from, to): (Option<i64>, Option<i64>),
    out: &mut impl Write,
) -> Result<Proved, ProofError> {
    let source = Source::open(path, |note| {
        let name = note.text.lines().next().unwrap_or_default();
        let keys = Verifier::new(name, &signer.public());
        note.signers(keys.as_slice()).map(drop)
    })?;
    // BEGIN and others of no tenant have the column 0, as uplinks have.
    let which = "FROM record WHERE tenant = ?1 AND kind IN (1, 4, 5, 9) AND canonical IS NOT NULL";
    let whole = (from, to) == (None, None);
    let tenant_seq: (i64, i64) = if whole {
        let next = "SELECT coalesce(max(next), 0) FROM series WHERE series = 'tenant' AND of = ?1";
        (0, source.db.query_row(next, [tenant], |row| row.get(0))?)
    } else {
        // A statement is of a month, and written after it: it would stretch the period to its own place.
        let range = format!(
            "SELECT coalesce(min(tenant_seq), 0), coalesce(max(tenant_seq) + 1, 0) {which} \
             AND kind != 9 AND window_end > ?2 AND window_start < ?3"
        );
        let (from, to) = (from.unwrap_or(i64::MIN), to.unwrap_or(i64::MAX));
        let range = source
            .db
            .query_row(&range, params![tenant, from, to], |row| {
                Ok((row.get(0)?, row.get(1)?))
            });
        range?
    };
    let within = format!("{which} AND tenant_seq >= ?2 AND tenant_seq < ?3");
    let given = params![tenant, tenant_seq.0, tenant_seq.1];
    let count = format!("SELECT count(*) {within}");
    let records: i64 = source.db.query_row(&count, given, |row| row.get(0))?;
    let claim = Claim {
        origin: source.head.origin.clone(),
        tenant,
        size: source.head.size,
        tenant_seq: (tenant_seq.0 as u64, tenant_seq.1 as u64),
        records: records as u64,
    };
    write_line(
        out,
        &Opening {
            octroi: PROOF.into(),
            checkpoint: source.checkpoint.clone(),
            claim: signer.note(&claim.text()),
        },
    )?;
    let rows = format!("SELECT seq, canonical {within} ORDER BY seq");
    let mut statement = source.db.prepare(&rows)?;
    let mut rows = statement.query(given)?;
    let (mut number, mut block) = (u64::MAX, Levels::default());
    while let Some(row) = rows.next()? {
        let seq = row.get::<_, i64>(0)? as u64;
        if seq / BLOCK != number {
            number = seq / BLOCK;
            block = Levels::over(source.block(number)?);
        }
        let line = Line {
            canonical: note::base64(&row.get::<_, Vec<u8>>(1)?),
            proof: encoded(&source.outline.inclusion(seq, &block)),
        };
        write_line(out, &line)?;
    }
    out.flush()?;
    Ok(Proved {
        claim,
        head: source.head,
    })
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> Result<(), ProofError> {
    serde_json::to_writer(&mut *out, line).map_err(io::Error::from)?;
    Ok(out.write_all(b"\n")?)
}

/// Writes that the ledger continues the tree of a head that somebody kept.
///
/// # Errors
/// [`ProofError`].
pub fn prove_consistency(
    path: &Path,
    kept: &str,
    out: &mut impl Write,
) -> Result<Head, ProofError> {
    let old = Head::parse(Note::parse(kept)?.text)?;
    let source = Source::open(path, |_| Ok(()))?;
    let head = source.head.clone();
    if old.origin != head.origin || old.size > head.size {
        return Err(ProofError::Other {
            origin: old.origin,
            size: old.size,
            here: head.origin,
            has: head.size,
        });
    }
    let mut block = |number| source.block(number);
    let mut hash = |range| source.outline.hash(range, &mut block);
    let proof = tree::consistency(old.size, head.size, &mut hash)?;
    write_line(
        out,
        &Continuation {
            octroi: CONSISTENCY.into(),
            old: kept.to_owned(),
            new: source.checkpoint.clone(),
            proof: encoded(&proof),
        },
    )?;
    out.flush()?;
    Ok(head)
}
