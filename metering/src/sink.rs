//! Sinks: what takes records away from the host, to a biller.
//!
//! Invariants (`docs/METERING.md`, M-12.2, M-12.4, M-12.5, M-18; `tests/delivery.rs`)
//! - A record is offered after its commit, in the order of the ledger, with its leaf's hash. What a sink has is a
//!   prefix of the ledger: the *mark*. It moves with the records, in one transaction, at the sink.
//! - An answer that is lost is asked for again, never guessed: the mark says what is there.
//! - Another leaf under a mark, or another record under a key, is a fork. It is told, and nothing is overwritten.
//! - Nothing here waits for the meter, and the meter waits for nothing here.
//!
//! What it is not: it is no queue. The ledger is, and it keeps what is not confirmed (M-12.7).

mod backoff;
mod courier;
mod feed;
pub mod postgres;

pub use backoff::Backoff;
pub use courier::{Courier, Progress};
pub use feed::{Batch, Feed, Item};

use crate::ledger::LedgerError;

/// Where a sink stands in a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The first seq that it has not.
    pub next: u64,
    /// Hash of the leaf before; zeros when there is none.
    pub leaf: [u8; 32],
}

/// Why a sink did not take what it was offered.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It is not there, or did not answer: again later, with the same records.
    #[error("{0}")]
    Unavailable(String),
    /// It has something else under the same name. No later try makes that good.
    #[error("FORK: {0}")]
    Fork(String),
    /// It refuses, and will until somebody does something.
    #[error("{0}")]
    Refused(String),
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Something that takes records.
pub trait Sink {
    /// How far it has come in the ledger `id` of `host`; asked whenever it is not known.
    ///
    /// # Errors
    /// [`SinkError`].
    fn mark(&mut self, id: &[u8; 16], host: &str) -> Result<Mark, SinkError>;

    /// Takes a batch, all of it or nothing, if its mark is where the batch begins.
    ///
    /// # Errors
    /// [`SinkError`]. Afterwards nothing is known but what [`Sink::mark`] says.
    fn deliver(&mut self, batch: &Batch) -> Result<Mark, SinkError>;
}
