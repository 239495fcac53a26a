//! Which hours are settled, and what comes late: `docs/METERING.md`, M-10.6 and M-10.7.
//!
//! Pure. What it is not: it is not what `octroi usage` says of one tenant, which is reckoned from that
//! tenant's records (M-16.7); this says which label may not be written any more without LATE.

use serde::{Deserialize, Serialize};

const HOUR_NS: i64 = 3_600_000_000_000;
/// So many spans are kept; each jump of the wall clock by more than an hour may begin another.
const SPANS_MAX: usize = 64;

/// The settled hours of a ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// Whole hours, UTC, ns since 1970: the first included, the second excluded; ascending and apart.
    spans: Vec<[i64; 2]>,
    /// Where the last label ends that was not late.
    last: Option<i64>,
}

/// The beginning of this time's hour.
fn hour_of(time: i64) -> i64 {
    time.div_euclid(HOUR_NS).saturating_mul(HOUR_NS)
}

impl Settled {
    /// Would a label from `start` to `end` add to an hour that is settled?
    #[must_use]
    pub fn has(&self, start: i64, end: i64) -> bool {
        let last = end.saturating_sub(1).max(start);
        let mut spans = self.spans.iter();
        spans.any(|[from, to]| hour_of(start) < *to && *from <= hour_of(last))
    }

    /// A label that is not late was written.
    pub fn take(&mut self, start: i64, end: i64) {
        if let Some(last) = self.last
            && hour_of(last) < hour_of(start)
        {
            // The clock jumped out of an hour that a label had begun: nothing more is due in it.
            let begun = hour_of(last.saturating_sub(1));
            self.settle(begun, begun.saturating_add(HOUR_NS));
        }
        self.settle(hour_of(start), hour_of(end));
        self.last = Some(end);
    }

    /// The first time at or after `time` that is in no settled hour.
    #[must_use]
    pub fn open_from(&self, time: i64) -> i64 {
        let mut spans = self.spans.iter();
        spans
            .find(|[from, to]| (*from..*to).contains(&time))
            .map_or(time, |[_, to]| *to)
    }

    fn settle(&mut self, mut from: i64, mut to: i64) {
        if from >= to {
            return;
        }
        self.spans.retain(|[first, end]| {
            let apart = *end < from || to < *first;
            if !apart {
                from = from.min(*first);
                to = to.max(*end);
            }
            apart
        });
        let at = self.spans.partition_point(|[first, _]| *first < from);
        self.spans.insert(at, [from, to]);
        if self.spans.len() > SPANS_MAX {
            self.spans.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_NS: i64 = 60_000_000_000;
    /// 2026-11-24 10:00:00 UTC.
    const TEN: i64 = 1_795_514_400_000_000_000;

    fn at(hour: i64, minute: i64) -> i64 {
        TEN + (hour - 10) * HOUR_NS + minute * MINUTE_NS
    }

    /// Writes labels of a minute from one time to another, and says how many were late.
    fn run(settled: &mut Settled, from: i64, to: i64) -> usize {
        let mut late = 0;
        for start in (from..to).step_by(MINUTE_NS as usize) {
            if settled.has(start, start + MINUTE_NS) {
                late += 1;
            } else {
                settled.take(start, start + MINUTE_NS);
            }
        }
        late
    }

    #[test]
    fn while_the_clock_goes_on_nothing_is_late() {
        let mut settled = Settled::default();
        assert_eq!(run(&mut settled, at(9, 17), at(40, 3)), 0);
        assert_eq!(settled.spans, [[at(9, 0), at(40, 0)]]);
        assert!(settled.has(at(39, 59), at(41, 0)));
        assert!(!settled.has(at(40, 3), at(40, 4)));
        // A label of no length, at the hour's end, is in the next one.
        assert!(!settled.has(at(40, 0), at(40, 0)));
    }

    #[test]
    fn a_clock_that_is_set_back_is_late_until_its_hour_is_open() {
        let mut settled = Settled::default();
        run(&mut settled, at(9, 0), at(14, 10));
        // Three hours back, in the middle of hour 11: hours 11 to 13 were told, hour 14 was not.
        assert_eq!(run(&mut settled, at(11, 10), at(14, 0)), 170);
        assert_eq!(run(&mut settled, at(14, 0), at(15, 0)), 0);
        // Within an hour that is open nothing was told.
        run(&mut settled, at(15, 0), at(15, 30));
        assert_eq!(run(&mut settled, at(15, 10), at(16, 0)), 0);
    }

    #[test]
    fn a_clock_that_is_years_ahead_for_a_while_makes_only_the_rest_of_its_hour_late() {
        const YEAR: i64 = 365 * 24;
        let mut settled = Settled::default();
        run(&mut settled, at(9, 0), at(10, 30));
        run(&mut settled, at(YEAR, 10), at(YEAR, 30));
        assert_eq!(run(&mut settled, at(10, 40), at(11, 0)), 20);
        assert_eq!(run(&mut settled, at(11, 0), at(30, 0)), 0);
        // A label that ends with its hour leaves none behind when the clock jumps then.
        let mut settled = Settled::default();
        run(&mut settled, at(9, 0), at(10, 0));
        run(&mut settled, at(YEAR, 10), at(YEAR, 30));
        assert_eq!(run(&mut settled, at(10, 1), at(12, 0)), 0);
    }

    #[test]
    fn a_correction_is_written_where_no_hour_is_settled() {
        let mut settled = Settled::default();
        run(&mut settled, at(9, 0), at(14, 10));
        assert_eq!(settled.open_from(at(11, 10)), at(14, 0));
        assert_eq!(settled.open_from(at(14, 5)), at(14, 5));
        assert_eq!(settled.open_from(at(8, 59)), at(8, 59));
    }

    #[test]
    fn jumps_without_end_take_no_memory() {
        let mut settled = Settled::default();
        for jump in 0..1_000 {
            run(&mut settled, at(jump * 5, 0), at(jump * 5 + 1, 0));
        }
        assert_eq!(settled.spans.len(), SPANS_MAX);
        assert!(settled.has(at(4_995, 0), at(4_995, 1)));
    }
}
