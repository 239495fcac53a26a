//! Sinks: what takes records away from the host, to a biller.
//!
//! Invariants (`docs/METERING.md`, M-12.2, M-12.4, M-12.5, M-18; `tests/delivery.rs`)
//! - A record is offered after its commit, in the order of the ledger, with its leaf's hash. What a sink has is a
//!   prefix of the ledger: the *mark*. It moves with the records, in one commit, at the sink; for a sink that cannot
//!   keep one, on the host, after the acknowledgement (decision 0020).
//! - An answer that is lost is asked for again, never guessed: the mark says what is there.
//! - Another leaf under a mark, or another record under a key, is a fork. It is told, and nothing is overwritten.
//! - Nothing here waits for the meter, and the meter waits for nothing here.
//!
//! What it is not: it is no queue. The ledger is, and it keeps what is not confirmed (M-12.7).

mod backoff;
mod cells;
pub mod clickhouse;
pub mod cloudevents;
mod courier;
mod cursor;
mod feed;
pub mod files;
mod http;
pub mod ipfix;
pub mod lago;
mod line;
pub mod nats;
pub mod postgres;
mod store;
mod sums;
#[cfg(test)]
mod testing;
mod text;
mod trust;
mod wait;
mod windows;

pub use backoff::Backoff;
pub use cells::{Billed, Cell, Cells, Span};
pub use courier::{Courier, Progress};
pub use feed::{Batch, Feed, Item};
pub use store::Store;
pub use sums::{Sums, Totals};
pub use windows::Windows;

use crate::ledger::LedgerError;
use std::{ops::Range, path::Path};

/// Where a sink stands in a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The first seq that it has not.
    pub next: u64,
    /// Hash of the leaf before; zeros when there is none.
    pub leaf: [u8; 32],
}

impl Mark {
    /// Of a ledger of which a sink has nothing.
    pub const NONE: Self = Self {
        next: 0,
        leaf: [0; 32],
    };
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

    /// How far it keeps for good what it took: its mark, unless it is only the way to somebody who does.
    ///
    /// # Errors
    /// [`SinkError`].
    fn confirmed(&mut self, _: &[u8; 16], mark: &Mark) -> Result<Mark, SinkError> {
        Ok(*mark)
    }

    /// Keeps an alarm: what another record, or another ledger, has the name of something that is there.
    ///
    /// # Errors
    /// [`SinkError`].
    fn fork(&mut self, id: &[u8; 16], host: &str, what: &str) -> Result<(), SinkError>;

    /// Sums of what it has of one ledger below a seq, without some seqs, to be held against the ledger.
    ///
    /// # Errors
    /// [`SinkError`]; [`SinkError::Refused`] where nobody can ask it.
    fn sums(
        &mut self,
        id: &[u8; 16],
        below: u64,
        without: &[Range<u64>],
    ) -> Result<Totals, SinkError>;

    /// The same of the windows' totals (`*`), which bill nothing and say which windows there are, and the seq from which on it
    /// has those. `None`: it keeps none.
    ///
    /// # Errors
    /// [`SinkError`].
    fn window_totals(
        &mut self,
        _id: &[u8; 16],
        _below: u64,
        _without: &[Range<u64>],
    ) -> Result<Option<(u64, Totals)>, SinkError> {
        Ok(None)
    }

    /// Takes a batch once more, below its mark, which stays.
    ///
    /// # Errors
    /// [`SinkError`]; [`SinkError::Refused`] where that makes no sense.
    fn replay(&mut self, batch: &Batch) -> Result<(), SinkError>;

    /// Most records that it takes at once.
    fn batch_max(&self) -> u32 {
        2_000
    }

    /// Whether it gets a tenant's records; 0: of nobody, such as the host's own.
    fn bills(&self, _tenant: i64) -> bool {
        true
    }

    /// What it could not send since it was opened, of its own kind of rows; `None`: it loses none.
    fn lost(&self) -> Option<u64> {
        None
    }
}

impl<S: Sink + ?Sized> Sink for Box<S> {
    fn mark(&mut self, id: &[u8; 16], host: &str) -> Result<Mark, SinkError> {
        (**self).mark(id, host)
    }

    fn deliver(&mut self, batch: &Batch) -> Result<Mark, SinkError> {
        (**self).deliver(batch)
    }

    fn confirmed(&mut self, id: &[u8; 16], mark: &Mark) -> Result<Mark, SinkError> {
        (**self).confirmed(id, mark)
    }

    fn fork(&mut self, id: &[u8; 16], host: &str, what: &str) -> Result<(), SinkError> {
        (**self).fork(id, host, what)
    }

    fn sums(
        &mut self,
        id: &[u8; 16],
        below: u64,
        without: &[Range<u64>],
    ) -> Result<Totals, SinkError> {
        (**self).sums(id, below, without)
    }

    fn window_totals(
        &mut self,
        id: &[u8; 16],
        below: u64,
        without: &[Range<u64>],
    ) -> Result<Option<(u64, Totals)>, SinkError> {
        (**self).window_totals(id, below, without)
    }

    fn replay(&mut self, batch: &Batch) -> Result<(), SinkError> {
        (**self).replay(batch)
    }

    fn batch_max(&self) -> u32 {
        (**self).batch_max()
    }

    fn bills(&self, tenant: i64) -> bool {
        (**self).bills(tenant)
    }

    fn lost(&self) -> Option<u64> {
        (**self).lost()
    }
}

/// What a sink is, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A database.
    Postgres(postgres::Target),
    /// A directory.
    Files(files::Target),
    /// A service that takes events.
    CloudEvents(cloudevents::Target),
    /// A stream to a store.
    Nats(nats::Target),
    /// A ClickHouse server.
    ClickHouse(clickhouse::Target),
    /// A biller.
    Lago(lago::Target),
    /// A collector of flows.
    Ipfix(ipfix::Target),
}

impl Target {
    /// How the configuration calls each kind.
    pub const KINDS: [&str; 7] = [
        "postgres",
        "files",
        "cloudevents",
        "nats",
        "clickhouse",
        "lago",
        "ipfix",
    ];

    /// How the configuration calls its kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Postgres(_) => Self::KINDS[0],
            Self::Files(_) => Self::KINDS[1],
            Self::CloudEvents(_) => Self::KINDS[2],
            Self::Nats(_) => Self::KINDS[3],
            Self::ClickHouse(_) => Self::KINDS[4],
            Self::Lago(_) => Self::KINDS[5],
            Self::Ipfix(_) => Self::KINDS[6],
        }
    }

    /// Whether records are kept here until it has them (M-18.5): a collector of flows bills nothing, and one that is away for a
    /// year must not fill the disk.
    #[must_use]
    pub const fn holds_records(&self) -> bool {
        !matches!(self, Self::Ipfix(_))
    }

    /// What it is and where, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Postgres(target) => target.describe(),
            Self::Files(target) => target.describe(),
            Self::CloudEvents(target) => target.describe(),
            Self::Nats(target) => target.describe(),
            Self::ClickHouse(target) => target.describe(),
            Self::Lago(target) => target.describe(),
            Self::Ipfix(target) => target.describe(),
        }
    }

    /// The files that it reads: secrets, and whom it trusts. A daemon that may not read one of them delivers nothing.
    #[must_use]
    pub fn reads(&self) -> Vec<&Path> {
        let (secrets, ca) = match self {
            Self::Postgres(target) => ([target.password_file.as_ref(), None], &target.ca_file),
            Self::Files(_) => return Vec::new(),
            Self::CloudEvents(target) => ([target.token_file.as_ref(), None], &target.ca_file),
            Self::Nats(target) => (
                [target.password_file.as_ref(), target.token_file.as_ref()],
                &target.ca_file,
            ),
            Self::ClickHouse(target) => ([target.password_file.as_ref(), None], &target.ca_file),
            Self::Lago(target) => ([Some(&target.token_file), None], &target.ca_file),
            Self::Ipfix(target) => ([None, None], &target.ca_file),
        };
        let all = secrets.into_iter().flatten().chain(ca);
        all.map(AsRef::as_ref).collect()
    }

    /// The sink. Nothing is opened or asked yet. `ledger` and `name`: where it keeps a cursor, if it needs one.
    #[must_use]
    pub fn open(&self, ledger: &Path, name: &str) -> Box<dyn Sink + Send> {
        match self {
            Self::Postgres(target) => Box::new(postgres::Postgres::new(target.clone())),
            Self::Files(target) => Box::new(files::Files::new(target.clone())),
            Self::CloudEvents(target) => {
                let target = target.clone();
                Box::new(cloudevents::CloudEvents::of(target, ledger, name))
            }
            Self::Nats(target) => Box::new(nats::Nats::new(target.clone())),
            Self::ClickHouse(target) => Box::new(clickhouse::ClickHouse::new(target.clone())),
            Self::Lago(target) => {
                let cursor = cursor::file(ledger, name);
                Box::new(lago::Lago::new(target.clone(), cursor))
            }
            Self::Ipfix(target) => {
                let cursor = cursor::file(ledger, name);
                Box::new(ipfix::Ipfix::new(target.clone(), ledger, cursor, name))
            }
        }
    }
}
