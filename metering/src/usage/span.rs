//! Where a record's bytes are in time: `docs/METERING.md`, M-16.4 to M-16.6.

use super::{SLOT_NS, Sum};
use crate::record::{Flags, Kind, Record};

/// A time, UTC, ns since 1970, that is spread over evenly. Without a length it is one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Included.
    pub start: i64,
    /// Excluded; not below `start`.
    pub end: i64,
}

impl Span {
    /// One instant.
    #[must_use]
    pub const fn at(time: i64) -> Self {
        Self {
            start: time,
            end: time,
        }
    }

    /// When the bytes of a record were carried: its label; of one that was not seen to its end, up to the
    /// last reading.
    #[must_use]
    pub fn carried(record: &Record) -> Self {
        let (start, label_end) = (record.window_start, record.window_end);
        let read = record.reading.filter(|_| {
            record.kind == Kind::Meter && record.flags.has(Flags::PARTIAL | Flags::RESET)
        });
        let end = read.map_or(label_end, |reading| {
            let wall = i128::from(reading.cut_end_ns)
                + i128::from(reading.utc_offset_ns)
                + i128::from(reading.step_ns);
            let wall = wall.clamp(i128::from(start), i128::from(label_end));
            i64::try_from(wall).unwrap_or(label_end)
        });
        Self {
            start,
            end: end.max(start),
        }
    }

    /// How much of `whole` lies before `time`: ⌊whole · elapsed / length⌋. The differences of this at the
    /// ends of slots are the slots' shares, and add up to `whole`.
    #[must_use]
    pub fn before(self, whole: u64, time: i64) -> u64 {
        if self.start == self.end {
            return if time > self.start { whole } else { 0 };
        }
        let at = time.clamp(self.start, self.end);
        let (elapsed, length) = (at.abs_diff(self.start), self.end.abs_diff(self.start));
        // At most `whole`.
        (u128::from(whole) * u128::from(elapsed) / u128::from(length)) as u64
    }

    /// How much of `whole` lies in `from..to`, both ends of slots.
    #[must_use]
    pub fn share(self, whole: u64, from: i64, to: i64) -> u64 {
        self.before(whole, to)
            .saturating_sub(self.before(whole, from))
    }

    /// The same for three sums.
    #[must_use]
    pub fn share_of(self, whole: [u64; 3], from: i64, to: i64) -> Sum {
        Sum(whole.map(|whole| i128::from(self.share(whole, from, to))))
    }

    /// Does it lie in `from..to`, at least in part?
    #[must_use]
    pub fn meets(self, from: i64, to: i64) -> bool {
        if self.start == self.end {
            (from..to).contains(&self.start)
        } else {
            self.start < to && self.end > from
        }
    }

    /// The first slot that it lies in, and the one after the last, counted from 1970.
    #[must_use]
    pub fn slots(self) -> (i64, i64) {
        let first = self.start.div_euclid(SLOT_NS);
        let last = if self.start == self.end {
            first
        } else {
            (self.end - 1).div_euclid(SLOT_NS)
        };
        (first, last + 1)
    }
}
