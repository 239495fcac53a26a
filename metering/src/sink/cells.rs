//! What was billed, by tenant, direction and span of time: for a service that adds up what it took and shows nothing else.

use super::Item;
use std::{collections::BTreeMap, ops::RangeInclusive};

const SECOND_NS: i64 = 1_000_000_000;

/// How long the spans are that are compared. They begin at whole minutes, hours and days of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// 60 s.
    Minute,
    /// 3,600 s.
    Hour,
    /// 86,400 s: Unix time has no leap seconds.
    Day,
}

impl Span {
    /// Its length, seconds.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// Where the span begins that a time is in: seconds since 1970, UTC.
    #[must_use]
    pub const fn start(self, utc_ns: i64) -> i64 {
        let second = utc_ns.div_euclid(SECOND_NS);
        second - second.rem_euclid(self.seconds())
    }
}

/// A tenant's traffic in one direction in one span. A record is in the span in which its window began, as the `time` of its
/// event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// Where the span begins: seconds since 1970, UTC.
    pub start: i64,
    /// The tenant's number.
    pub tenant: i64,
    /// 0 from the tenant, 1 to the tenant.
    pub direction: i16,
}

/// What a ledger bills in a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Billed {
    /// Packets, layer-2 bytes, IP bytes: what adds to a bill, without what takes off.
    pub adds: [i128; 3],
    /// The same of what corrections take off: 0 or less.
    pub takes_off: [i128; 3],
    /// The first record of it, by its seq.
    pub first: u64,
}

/// What some records of a ledger bill, by cell.
#[derive(Clone, Debug, Default)]
pub struct Cells {
    /// By cell.
    pub billed: BTreeMap<Cell, Billed>,
    /// Records that are pruned or erased: nobody here can say what those billed.
    pub gone: u64,
    /// The spans, by where they begin, in which records may have been that are gone.
    pub unsure: Vec<RangeInclusive<i64>>,
    /// Where the last span begins that was seen, and whether something was gone since.
    last: Option<i64>,
    is_open: bool,
}

impl Cells {
    /// Adds a record that is there.
    pub(super) fn add(&mut self, span: Span, item: &Item) {
        let record = &item.record;
        let start = span.start(record.window_start);
        if self.is_open {
            // What is gone lies between its neighbours: windows follow each other.
            let from = self.last.unwrap_or(i64::MIN);
            self.unsure.push(from.min(start)..=from.max(start));
            self.is_open = false;
        }
        self.last = Some(start);
        let Some(by) = item.billed().filter(|_| !item.is_total()) else {
            return;
        };
        let cell = Cell {
            start,
            tenant: record.tenant.into(),
            direction: record.direction.into(),
        };
        let seq = item.seq;
        let billed = self.billed.entry(cell).or_insert(Billed {
            first: seq,
            ..Billed::default()
        });
        for (at, by) in by.into_iter().enumerate() {
            let side = if by < 0 {
                &mut billed.takes_off
            } else {
                &mut billed.adds
            };
            side[at] = side[at].saturating_add(by);
        }
    }

    /// Notes a record that is gone.
    pub(super) fn lose(&mut self) {
        self.gone += 1;
        self.is_open = true;
    }

    /// Nothing follows.
    pub(super) fn end(&mut self) {
        if self.is_open {
            self.unsure.push(self.last.unwrap_or(i64::MIN)..=i64::MAX);
            self.is_open = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_begin_at_whole_minutes_hours_and_days_before_1970_too() {
        let at = |second: i64| second * SECOND_NS + 999_999_999;
        for (second, minute, hour, day) in [
            (0, 0, 0, 0),
            (86_399, 86_340, 82_800, 0),
            (86_400, 86_400, 86_400, 86_400),
            (-1, -60, -3_600, -86_400),
        ] {
            assert_eq!(Span::Minute.start(at(second)), minute);
            assert_eq!(Span::Hour.start(at(second)), hour);
            assert_eq!(Span::Day.start(at(second)), day);
        }
        assert!(Span::Day.start(i64::MIN) < 0 && Span::Day.start(i64::MAX) > 0);
    }

    #[test]
    fn what_is_gone_makes_the_spans_between_its_neighbours_unsure_and_no_other() {
        let item = |seq: u64, minute: i64| Item {
            seq,
            leaf: [0; 32],
            record: crate::record::Record {
                window_start: minute * 60 * SECOND_NS,
                ..crate::record::Record::default()
            },
            canonical: Vec::new(),
        };
        let mut cells = Cells::default();
        cells.lose();
        cells.add(Span::Minute, &item(1, 10));
        cells.add(Span::Minute, &item(2, 11));
        cells.lose();
        cells.lose();
        cells.add(Span::Minute, &item(5, 13));
        cells.add(Span::Minute, &item(6, 14));
        cells.lose();
        cells.end();
        assert_eq!(cells.gone, 4);
        let minutes = [(i64::MIN, 600), (660, 780), (840, i64::MAX)];
        let unsure: Vec<(i64, i64)> = cells
            .unsure
            .iter()
            .map(|spans| (*spans.start(), *spans.end()))
            .collect();
        assert_eq!(unsure, minutes);
    }
}
