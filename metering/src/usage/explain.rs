//! Which records a number is made of: `docs/METERING.md`, M-16.14.

use super::{Query, Span, Sum, UsageError};
use crate::record::{Flags, Kind, Record};

/// What a record is to a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its bytes are in the sum.
    Billed,
    /// A total: the same bytes as its zones', and what they do not say (drops, clock, evidence).
    Total,
    /// Something of it is not known; it bills nothing.
    Unknown,
    /// It touches the period by its label, and is billed in another.
    Elsewhere,
}

/// A record behind a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The ledger's file.
    pub ledger: String,
    /// The record.
    pub record: Record,
    /// What it is to the number.
    pub part: Part,
    /// What it adds; of a total, what its zones add.
    pub sum: Sum,
    /// When it is billed.
    pub billed: Span,
}

/// Records as they are met.
pub(super) struct Explain<'a> {
    query: &'a Query,
    found: Vec<Explained>,
}

impl<'a> Explain<'a> {
    pub fn new(query: &'a Query) -> Result<Self, UsageError> {
        query.check()?;
        Ok(Self {
            query,
            found: Vec::new(),
        })
    }

    pub fn add(&mut self, ledger: &str, record: &Record, open: Option<i64>) {
        if !self.query.wants(record) {
            return;
        }
        let (from, to) = self.query.period();
        let zone_fits = match (self.query.zone, record.kind) {
            (None, _) => true,
            // A total is shown beside its zone: it has the drops and the flags.
            (Some(_), Kind::Meter | Kind::Nodata) if record.zone.is_none() => true,
            (Some(zone), _) => record.zone == Some(zone),
        };
        let late = open.filter(|_| record.flags.has(Flags::LATE));
        let carried = match record.kind {
            Kind::Correction => Span::at(record.window_start),
            _ => Span::carried(record),
        };
        let billed = late.map_or(carried, Span::at);
        let here = billed.meets(from, to);
        if !zone_fits || !(here || carried.meets(from, to)) {
            return;
        }
        let counted = record.counted().unwrap_or_default();
        let whole = [counted.packets, counted.l2_bytes, counted.l3_bytes];
        let (part, sum) = match (record.kind, record.zone) {
            (Kind::Nodata, _) => (Part::Unknown, Sum::default()),
            _ if !here => (Part::Elsewhere, Sum::default()),
            (Kind::Correction, _) => {
                let added = record.correction.clone().unwrap_or_default();
                let sums = [added.packets, added.l2_bytes, added.l3_bytes];
                (Part::Billed, Sum(sums.map(i128::from)))
            }
            (Kind::Meter, None) => (Part::Total, billed.share_of(whole, from, to)),
            (Kind::Meter, Some(_)) => (Part::Billed, billed.share_of(whole, from, to)),
            (Kind::Begin | Kind::Checkpoint | Kind::Key | Kind::Erasure | Kind::Statement, _) => {
                return;
            }
        };
        self.found.push(Explained {
            ledger: ledger.to_owned(),
            record: record.clone(),
            part,
            sum,
            billed,
        });
    }

    pub fn finish(self) -> Vec<Explained> {
        self.found
    }
}
