//! From records to totals, roll-ups and percentiles: `docs/METERING.md`, M-16.
//!
//! Invariants (vectors in `metering/vectors/usage.json`; property tests below)
//! - Every billed byte is in one row: the rows of a table add up to what the records bill in its period,
//!   whatever it is split by. Bytes come from zone records and corrections, never from `*` beside them.
//! - Parts of a period add up to the period: what a record covers is split by one rule that telescopes.
//! - A tenant's numbers need that tenant's records alone, in the order of the ledger: who holds a proof of
//!   them can reckon the bill again.
//!
//! What it is not: it knows no clock and no time zone (ends of days are arguments), and it writes nothing.

mod add;
mod chain;
mod explain;
mod percentile;
mod read;
mod records;
mod report;
mod span;

pub use explain::{Explained, Part};
pub use percentile::{P95, Slots, bits_per_second, p95, rank};
pub use read::{Source, explain, open_end, read};
pub use records::Records;
pub use report::{Drops, Group, Kept, Late, Missing, Percentile, Report, Row, Spread};
pub use span::Span;

use crate::{ledger::LedgerError, record::Record, sink::SinkError, window::Counts};
use std::collections::{BTreeMap, BTreeSet};

/// Length of a slot, ns: five minutes, aligned to UTC.
pub const SLOT_NS: i64 = 300_000_000_000;
/// Length of an hour, ns.
pub const HOUR_NS: i64 = 3_600_000_000_000;
/// A period has at most so many slots: ten years.
pub const SLOTS_MAX: i64 = 12 * 24 * 3_660;

/// Why there is no sum. A bill with a hole in its arithmetic is not made.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// A ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A store cannot be read.
    #[error("the store: {0}")]
    Store(#[from] SinkError),
    /// A record cannot be read, or is not what its place says.
    #[error("{ledger}: record {seq}: {what}; the ledger was changed by somebody else")]
    Record {
        /// The ledger's file.
        ledger: String,
        /// Which record.
        seq: u64,
        /// What is wrong.
        what: String,
    },
    /// Zone records of a window are not what its total says (M-8.3).
    #[error(
        "{ledger}: the zones of {port} in window {window} do not add up to its total; `octroi records` \
         shows them"
    )]
    Zones {
        /// The ledger's file.
        ledger: String,
        /// Port.
        port: String,
        /// Window.
        window: u64,
    },
    /// The same windows of a port are in two ledgers: one is a copy, or was restored.
    #[error(
        "{first} and {second} both have windows of {port}: one is a copy; name each ledger once"
    )]
    Twice {
        /// A ledger.
        first: String,
        /// Another one.
        second: String,
        /// Port.
        port: String,
    },
    /// A sum is past what can be told.
    #[error("a sum is past 2^64 bytes in five minutes; please report this")]
    Overflow,
    /// The period cannot be reckoned with.
    #[error("{0}")]
    Period(String),
}

/// Packets, layer-2 bytes, IP bytes. Signed: a period may have nothing but a correction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(pub [i128; 3]);

impl Sum {
    /// Frames.
    #[must_use]
    pub const fn packets(self) -> i128 {
        self.0[0]
    }

    /// Layer-2 bytes: what is billed.
    #[must_use]
    pub const fn l2_bytes(self) -> i128 {
        self.0[1]
    }

    /// IP bytes.
    #[must_use]
    pub const fn l3_bytes(self) -> i128 {
        self.0[2]
    }

    /// Both together.
    ///
    /// # Errors
    /// [`UsageError::Overflow`].
    pub fn plus(self, other: Self) -> Result<Self, UsageError> {
        let mut sums = self.0;
        for (sum, more) in sums.iter_mut().zip(other.0) {
            *sum = sum.checked_add(more).ok_or(UsageError::Overflow)?;
        }
        Ok(Self(sums))
    }

    /// No packet and no byte.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }
}

impl From<Counts> for Sum {
    fn from(counts: Counts) -> Self {
        Self([counts.packets, counts.l2_bytes, counts.l3_bytes].map(i128::from))
    }
}

/// What a table is split by, beside the tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// A row for each port.
    pub port: bool,
    /// A row for each direction.
    pub direction: bool,
    /// A row for each zone.
    pub zone: bool,
    /// A row for each host.
    pub host: bool,
}

/// Which usage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Ends of the rows' periods, UTC, ns since 1970, ascending: at least two, all of them ends of slots.
    pub bounds: Vec<i64>,
    /// Tenant's number; `None`: all.
    pub tenant: Option<u32>,
    /// Name of a port.
    pub port: Option<String>,
    /// 0 from the tenant, 1 to the tenant.
    pub direction: Option<u8>,
    /// Zone's number.
    pub zone: Option<u32>,
    /// Rows.
    pub by: By,
    /// Are percentiles wanted?
    pub percentile: bool,
}

impl Query {
    /// The whole period.
    #[must_use]
    pub fn period(&self) -> (i64, i64) {
        let end = self.bounds.last().copied().unwrap_or_default();
        (self.bounds.first().copied().unwrap_or(end), end)
    }

    /// # Errors
    /// [`UsageError::Period`].
    fn check(&self) -> Result<(), UsageError> {
        let (from, to) = self.period();
        let aligned = self.bounds.iter().all(|bound| bound % SLOT_NS == 0);
        let ascending = self.bounds.windows(2).all(|pair| pair[0] < pair[1]);
        if self.bounds.len() < 2 || !ascending {
            let what = "the period is empty; write an end that is later than its beginning";
            Err(UsageError::Period(what.into()))
        } else if !aligned {
            let what = "the period does not begin and end with a slot of five minutes, UTC";
            Err(UsageError::Period(what.into()))
        } else if i128::from(to) - i128::from(from) > i128::from(SLOTS_MAX) * i128::from(SLOT_NS) {
            Err(UsageError::Period("a period has ten years at most".into()))
        } else {
            Ok(())
        }
    }

    fn wants(&self, record: &Record) -> bool {
        self.tenant.is_none_or(|tenant| tenant == record.tenant)
            && (self.port.as_ref()).is_none_or(|port| *port == record.port_uid)
            && (self.direction).is_none_or(|direction| direction == record.direction)
    }

    /// The rows' periods that lie between `from` and `to`.
    fn buckets(&self, span: Span) -> impl Iterator<Item = (usize, i64, i64)> + '_ {
        let first = self.bounds.partition_point(|bound| *bound <= span.start);
        let pairs = self.bounds.windows(2).enumerate();
        pairs
            .skip(first.saturating_sub(1))
            .map(|(index, pair)| (index, pair[0], pair[1]))
            .take_while(move |(_, from, _)| *from <= span.end)
            .filter(move |(_, from, to)| span.meets(*from, *to))
    }
}

/// A port's row of windows in one direction: epoch, incarnation, direction.
type ChainKey = ([u8; 16], [u8; 16], u64, u8);

fn chain_of(record: &Record) -> ChainKey {
    (
        record.boot_id,
        record.map_generation,
        record.incarnation,
        record.direction,
    )
}

/// Which slots: tenant, port, zone.
type SlotsKey = (u32, Option<String>, Option<u32>);

/// Usage as it is reckoned: all corrections first ([`Usage::expect`]), then every ledger's records in
/// their order.
pub struct Usage {
    query: Query,
    /// What corrections add to a window, by zone, for percentiles: until the window was met.
    expected: BTreeMap<(ChainKey, u64, Option<u32>), (Sum, u64)>,
    rows: BTreeMap<(usize, Group), Kept>,
    drops: BTreeMap<(u32, u8, u8), Drops>,
    evidence: BTreeMap<(u32, u8, u8), Drops>,
    slots: BTreeMap<SlotsKey, Slots>,
    chains: BTreeMap<ChainKey, chain::Chain>,
    /// Zones that have not been met yet, or totals: 0 when a window is complete.
    open: BTreeMap<(ChainKey, u64), Sum>,
    hosts: BTreeSet<String>,
    ledger: String,
    report: Report,
}

#[cfg(test)]
mod tests;
