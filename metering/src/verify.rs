//! Was anything changed? What a ledger, or a proof from one, says against what was signed.
//!
//! Invariants (`docs/METERING.md`, M-14 and M-15; a second verifier in Python: `tests/verify/ledger.py`)
//! - Every column of every table is held against canonical bytes, the tree or the seal: what is not
//!   vouched for is a finding, and a finding names the record where it is one.
//! - Nothing is believed because the file says so: keys come from the keyring, times from nobody.
//! - A file that is damaged is a finding, not a panic.
//!
//! What it is not: it does not say whether the records make a bill (`audit` does), and it does not see a
//! tail that was cut off with its heads unless somebody kept one.

mod audit;
mod columns;
mod heads;
mod proof;
mod table;

pub use audit::audit;
pub use proof::{kept, proof, proof_of_consistency};
pub use table::ledger;

use crate::{
    note::{Head, NoteError},
    tree::Hash,
};
use std::fmt;

/// How many findings are kept with their words. The others are counted.
pub const FINDINGS_MAX: usize = 100;

/// Why nothing could be verified at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The file cannot be read.
    #[error("{what}")]
    Unreadable {
        /// Why not.
        what: String,
    },
    /// The keyring has no key for this ledger.
    #[error("the keyring has no key of {origin}")]
    NoKey {
        /// The ledger's origin.
        origin: String,
    },
    /// A note that was given is none, or is not signed by a key of the keyring.
    #[error("{what}: {source}")]
    Note {
        /// Which.
        what: &'static str,
        /// Why not.
        source: NoteError,
    },
}

/// Something that is not as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The record, or the records of which one is wrong: first and last seq.
    pub records: Option<(u64, u64)>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.records {
            Some((first, last)) if first == last => write!(f, "record {first}: {}", self.what),
            Some((first, last)) => write!(f, "records {first} to {last}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// What was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whose tree.
    pub origin: String,
    /// Its leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// Records whose bytes are there and are those of their leaves.
    pub verified: u64,
    /// Records of which only the leaf is kept.
    pub pruned: u64,
    /// Heads whose signature and root are right.
    pub heads: u64,
    /// What is wrong, in the order in which it was found.
    pub findings: Vec<Finding>,
    /// How many more findings there are.
    pub more: u64,
}

impl Report {
    /// Nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, records: Option<(u64, u64)>, what: impl Into<String>) {
        if self.findings.len() < FINDINGS_MAX {
            let what = what.into();
            self.findings.push(Finding { records, what });
        } else {
            self.more += 1;
        }
    }

    fn record(&mut self, seq: u64, what: impl Into<String>) {
        self.find(Some((seq, seq)), what);
    }

    fn file(&mut self, what: impl Into<String>) {
        self.find(None, what);
    }

    /// Holds the tree against a head that somebody kept; `root` is the root over as many leaves.
    fn against(&mut self, kept: Option<&Head>, root: Option<Hash>) {
        let Some(kept) = kept else {
            return;
        };
        if kept.origin != self.origin {
            self.file(format!("the head that was kept is of {}", kept.origin));
        } else if kept.size > self.size {
            let missing = (self.size, kept.size - 1);
            self.find(
                Some(missing),
                "missing: the head that was kept has more records",
            );
        } else if root.is_some_and(|root| root != kept.root) {
            let among = (0, kept.size.saturating_sub(1));
            self.find(
                Some(among),
                "the head that was kept has another root: this is another history",
            );
        }
    }
}
