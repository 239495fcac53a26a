//! What sinks are offered: the ledgers of a host, the eldest first, in batches.
//!
//! A ledger that was put aside may have records that no sink has. They are billed by it, not by the one that took
//! its place: so it is read to its end first.

use super::{Cells, Mark, SinkError, Span, Totals};
use crate::{
    ledger::{self, Leaf, Reader},
    note,
    record::{Kind, Record, leaf_hash},
};
use std::{
    ops::Range,
    path::{Path, PathBuf},
};

/// A record as a sink gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its number.
    pub seq: u64,
    /// Hash of its leaf.
    pub leaf: [u8; 32],
    /// What it says.
    pub record: Record,
    /// The bytes of the leaf.
    pub canonical: Vec<u8>,
}

impl Item {
    /// What it adds to a bill: packets, layer-2 bytes, IP bytes. `None`: it bills nothing.
    #[must_use]
    pub fn billed(&self) -> Option<[i128; 3]> {
        match (&self.record.correction, self.record.kind) {
            (Some(by), _) => Some([by.packets, by.l2_bytes, by.l3_bytes].map(i128::from)),
            (None, Kind::Meter) => {
                let counted = self.record.counted().unwrap_or_default();
                Some([counted.packets, counted.l2_bytes, counted.l3_bytes].map(i128::from))
            }
            _ => None,
        }
    }

    /// Is it a window's `*`, which says in total what its zones say one by one?
    #[must_use]
    pub fn is_total(&self) -> bool {
        self.record.kind == Kind::Meter && self.record.zone.is_none()
    }

    /// The zone's number; −1: none.
    #[must_use]
    pub fn zone(&self) -> i64 {
        self.record.zone.map_or(-1, i64::from)
    }
}

/// Records of one ledger that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The ledger.
    pub ledger_id: [u8; 16],
    /// The host that began it.
    pub host: String,
    /// Where the sink must stand.
    pub from: Mark,
    /// Where it stands afterwards.
    pub to: Mark,
    /// What of it is for a sink that bills (M-12.5), and what says what happened to the ledger. Records that are
    /// erased are left out.
    pub items: Vec<Item>,
    /// The windows' `*` records between the two marks, for a store that tells by them which windows it has. They bill
    /// nothing: beside their zones they would be billed twice. `None`: whoever sent the batch does not send them.
    pub totals: Option<Vec<Item>>,
    /// The signed head that covers the batch, if there is one by now.
    pub head: Option<String>,
}

/// One ledger that is offered.
pub struct Feed {
    reader: Reader,
    id: [u8; 16],
    host: String,
}

impl Feed {
    /// The files of a ledger and of what was put aside for it, the eldest first.
    #[must_use]
    pub fn files(ledger: &Path) -> Vec<PathBuf> {
        let mut files = ledger::aside(ledger);
        files.push(ledger.to_owned());
        files
    }

    /// Opens a ledger.
    ///
    /// # Errors
    /// [`SinkError::Ledger`].
    pub fn open(path: &Path) -> Result<Self, SinkError> {
        let reader = Reader::open(path)?;
        Ok(Self {
            id: reader.id()?,
            host: reader.host()?,
            reader,
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its name for people.
    #[must_use]
    pub fn name(&self) -> String {
        note::origin(&self.host, &self.id)
    }

    /// Its records, by number.
    ///
    /// # Errors
    /// [`SinkError::Ledger`].
    pub fn size(&self) -> Result<u64, SinkError> {
        Ok(self.reader.size()?)
    }

    /// Is what a sink has of this ledger a part of it?
    ///
    /// # Errors
    /// [`SinkError::Fork`]: of another one with the same id.
    pub fn holds(&self, mark: &Mark) -> Result<(), SinkError> {
        let Some(last) = mark.next.checked_sub(1) else {
            return Ok(());
        };
        match self.reader.leaf(last)? {
            Some(leaf) if leaf == mark.leaf => Ok(()),
            Some(_) => Err(SinkError::Fork(format!(
                "record {last} of {} is another one at the sink",
                self.name()
            ))),
            None => Err(SinkError::Fork(format!(
                "the sink has {} records of {}, and the ledger has {}",
                mark.next,
                self.name(),
                self.reader.size()?
            ))),
        }
    }

    /// The mark of a sink that has every record below a seq.
    ///
    /// # Errors
    /// [`SinkError::Ledger`]; [`SinkError::Refused`]: it has not so many.
    pub fn before(&self, seq: u64) -> Result<Mark, SinkError> {
        let Some(last) = seq.checked_sub(1) else {
            return Ok(Mark::NONE);
        };
        let leaf = self
            .reader
            .leaf(last)?
            .ok_or_else(|| SinkError::Refused(format!("{} has no record {last}", self.name())))?;
        Ok(Mark { next: seq, leaf })
    }

    /// What comes after a mark, at most so many records; `None`: nothing.
    ///
    /// # Errors
    /// [`SinkError::Ledger`]; [`SinkError::Refused`]: a record that cannot be read.
    pub fn batch(&self, from: Mark, most: u32) -> Result<Option<Batch>, SinkError> {
        let leaves = self.reader.leaves(from.next, most)?;
        let Some(last) = leaves.last() else {
            return Ok(None);
        };
        let to = Mark {
            next: last.seq + 1,
            leaf: last.hash,
        };
        let (mut items, mut totals) = (Vec::with_capacity(leaves.len()), Vec::new());
        for (expected, leaf) in (from.next..).zip(leaves) {
            if leaf.seq != expected {
                return Err(SinkError::Refused(format!(
                    "{}: record {expected} is missing; `octroi verify` says more",
                    self.name()
                )));
            }
            match self.item(leaf)? {
                Some(total) if total.is_total() => totals.push(total),
                item => items.extend(item),
            }
        }
        Ok(Some(Batch {
            ledger_id: self.id,
            host: self.host.clone(),
            from,
            to,
            items,
            totals: Some(totals),
            head: self.reader.head(to.next)?,
        }))
    }

    /// A record that a sink gets; `None`: it is pruned or erased.
    fn item(&self, leaf: Leaf) -> Result<Option<Item>, SinkError> {
        let Leaf {
            seq,
            hash,
            canonical,
        } = leaf;
        let Some(canonical) = canonical else {
            return Ok(None);
        };
        if leaf_hash(&canonical) != hash {
            return Err(SinkError::Refused(format!(
                "{}: record {seq} is not what its leaf says; `octroi verify` says more",
                self.name()
            )));
        }
        let record = Record::decode(&canonical).map_err(|error| {
            SinkError::Refused(format!(
                "{}: record {seq}: {error}; `octroi verify` says more",
                self.name()
            ))
        })?;
        Ok(Some(Item {
            seq,
            leaf: hash,
            record,
            canonical,
        }))
    }

    /// What its records below a seq bill, and which are pruned or erased: nobody here can say what those billed.
    ///
    /// # Errors
    /// As [`Feed::batch`].
    pub fn totals(&self, below: u64) -> Result<(Totals, Vec<Range<u64>>), SinkError> {
        let (mut totals, mut gone) = (Totals::default(), Vec::<Range<u64>>::new());
        self.each(0..below, |seq, item| match item {
            None => match gone.last_mut() {
                Some(range) if range.end == seq => range.end = seq + 1,
                _ => gone.push(seq..seq + 1),
            },
            Some(item) if item.is_total() => {}
            Some(item) => totals.add(&item),
        })?;
        Ok((totals, gone))
    }

    /// What its windows' totals say from a seq on and below another one, those that are there.
    ///
    /// # Errors
    /// As [`Feed::batch`].
    pub fn window_totals(&self, seqs: Range<u64>) -> Result<Totals, SinkError> {
        let mut totals = Totals::default();
        self.each(seqs, |_, item| {
            if let Some(total) = item.filter(Item::is_total) {
                totals.add(&total);
            }
        })?;
        Ok(totals)
    }

    /// What some of its records bill, by tenant, direction and span of time.
    ///
    /// # Errors
    /// As [`Feed::batch`].
    pub fn cells(&self, seqs: Range<u64>, span: Span) -> Result<Cells, SinkError> {
        let mut cells = Cells::default();
        self.each(seqs, |_, item| match item {
            None => cells.lose(),
            Some(item) => cells.add(span, &item),
        })?;
        cells.end();
        Ok(cells)
    }

    /// Its records of some numbers, one after the other; `None`: it is pruned or erased.
    fn each(
        &self,
        seqs: Range<u64>,
        mut take: impl FnMut(u64, Option<Item>),
    ) -> Result<(), SinkError> {
        const STEP: u32 = 10_000;
        let mut next = seqs.start;
        while next < seqs.end {
            let leaves = self.reader.leaves(next, STEP)?;
            let Some(last) = leaves.last() else { break };
            next = last.seq + 1;
            for leaf in leaves.into_iter().filter(|leaf| leaf.seq < seqs.end) {
                take(leaf.seq, self.item(leaf)?);
            }
        }
        Ok(())
    }
}
