//! Records that belong to no window: what an administrator adds.

use super::{Committed, Correct, FlowError, Forget, Issue, Ledger, LedgerError};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What is to be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Addition {
    /// A correction.
    Correct(Correct),
    /// A statement that was given to somebody.
    Issue(Issue),
    /// A tenant's data are erased.
    Forget(Forget),
}

/// Why a record is not added. Nothing is written then.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The ledger cannot be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// No such record.
    #[error("record {seq} is not there: the ledger has {size}; `octroi records` shows them")]
    NoRecord {
        /// What was asked for.
        seq: u64,
        /// Records in the ledger.
        size: u64,
    },
    /// The record bills nothing that could be corrected.
    #[error("record {seq} is a {kind}, which bills no window; correct {instead}")]
    Kind {
        /// What was asked for.
        seq: u64,
        /// What it is.
        kind: &'static str,
        /// What to do.
        instead: String,
    },
    /// The record cannot be read.
    #[error("record {seq} cannot be read: {what}; the ledger was changed by somebody else")]
    Unreadable {
        /// Which record.
        seq: u64,
        /// Why.
        what: String,
    },
    /// Nothing would change.
    #[error("nothing is added; write --l2 with the bytes to add or to take away")]
    Nothing,
    /// More would be billed.
    #[error("this bills more than before; write --increase if that is meant")]
    Increase,
    /// Less than nothing would be billed.
    #[error(
        "record {seq} with its corrections would fall below 0: {what} has {left} {unit} left to take away"
    )]
    BelowZero {
        /// Which record.
        seq: u64,
        /// The record, or the total that it is a part of.
        what: &'static str,
        /// What can be taken away at most.
        left: i128,
        /// Of what.
        unit: &'static str,
    },
    /// A statement that is not the next one: somebody else issued one meanwhile.
    #[error("another statement was issued meanwhile; try again")]
    Taken,
    /// A statement of records that are not there.
    #[error("the statement sums {size} records, and the ledger has {found}")]
    Beyond {
        /// What it sums.
        size: u64,
        /// What there is.
        found: u64,
    },
    /// Nothing of this tenant is kept that could be erased.
    #[error("nothing of tenant {tenant} is kept that could be erased")]
    NothingKept {
        /// Tenant's number.
        tenant: u32,
    },
    /// A sink that bills has not got them yet.
    #[error(
        "record {seq} of tenant {tenant} is not confirmed by every sink, and what is not delivered is not \
         erased; `octroi sinks` shows how far they are"
    )]
    Unconfirmed {
        /// Tenant's number.
        tenant: u32,
        /// The first record that is not.
        seq: u64,
    },
    /// A day's file cannot be looked through.
    #[error("{0}; nothing is erased")]
    Flows(#[from] FlowError),
    /// The leaf is there, and rows are, too.
    #[error(
        "record {seq} says that flow detail is erased, and some is still there: {what}; ask again"
    )]
    NotErased {
        /// The ERASURE.
        seq: u64,
        /// Why.
        what: String,
    },
    /// The reason is empty, too long, or has control characters.
    #[error("the reason has 1 to 256 bytes, without control characters")]
    Reason,
}

impl Ledger {
    /// Adds a record, and returns when it is durable; with it, its `seq`.
    ///
    /// # Errors
    /// Any [`AddError`]; the ledger is then as before.
    pub fn append(
        &mut self,
        addition: &Addition,
        utc_ns: i64,
    ) -> Result<(u64, Committed), AddError> {
        self.check_file()?;
        let record = match addition {
            Addition::Correct(correct) => self.correction(correct, utc_ns)?,
            Addition::Issue(issue) => self.issue(issue)?,
            Addition::Forget(forget) => return self.forget(forget, utc_ns),
        };
        let seq = self.anchor.size;
        Ok((seq, self.add(record)?))
    }
}

/// Adds a record to a ledger that no daemon has open, and returns its `seq`.
///
/// # Errors
/// Any [`AddError`]; the ledger is then as before.
pub fn append(path: &Path, addition: &Addition, utc_ns: i64) -> Result<u64, AddError> {
    let mut ledger = Ledger::open_as_it_is(path)?;
    Ok(ledger.append(addition, utc_ns)?.0)
}
