//! When the meter cuts, and when it notes the registers. Pure: what the clocks say is an argument, so that
//! the daemon and the simulation (`tests/simulation.rs`) run the same decisions.
//!
//! Invariants (tests below; `docs/METERING.md`, M-2.6, M-7.3, M-7.9, M-9.1)
//! - One job at a time is with the ledger. Until its end is known nothing is cut: the open window grows.
//! - A nominal cut that was missed is not made up for: the next one covers it. A cut for a cause is made as
//!   soon as the ledger is free, at most one a second; several causes are one cut.
//! - What is counted becomes durable every ten seconds, by a commit or by a checkpoint, while the disk
//!   takes it. What the disk refused is tried again a second later.
//!
//! What it is not: it reads no clock and no register, and it does not know what a ledger is.

use super::{MISALIGNED_NS, Time};

/// How often the registers are noted for the day the host crashes, ns: two seconds below what METERING.md grants,
/// for a turn that is late and a disk that is slow.
pub const CHECKPOINT_NS: u64 = 8_000_000_000;
/// Cuts for a cause are this far apart, checkpoints that fail as well, and so late may a step of the wall
/// clock be noticed, ns.
pub const MOMENT_NS: u64 = 1_000_000_000;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Wait,
    /// Cut.
    Cut {
        /// The time it is meant for, UTC, ns since 1970; `None`: something happened.
        nominal_ns: Option<i64>,
    },
    /// Note the registers.
    Checkpoint,
}

/// The meter's sense of time.
#[derive(Clone, Debug)]
pub struct Pace {
    window_ns: u64,
    /// The end of the open window, UTC, ns since 1970.
    due_ns: i64,
    /// The wall clock less BOOTTIME, as last seen.
    offset_ns: i64,
    /// CLOCK_MONOTONIC ns of what is durable.
    durable_ns: u64,
    /// When that was last tried.
    tried_ns: u64,
    /// Something happened, and its cut is not made.
    wanted: bool,
    /// CLOCK_MONOTONIC ns of the last cut for a cause.
    caused_ns: Option<u64>,
    /// CLOCK_MONOTONIC ns of the reading that is with the ledger.
    under_way: Option<u64>,
}

impl Pace {
    /// A meter that starts now. `window_ns`: how long a window is, above 0.
    pub fn new(window_ns: u64, now: &Time) -> Self {
        Self {
            window_ns,
            due_ns: boundary_after(now.utc_ns, window_ns),
            offset_ns: now.utc_offset_ns(),
            durable_ns: now.mono_ns,
            tried_ns: now.mono_ns,
            wanted: false,
            caused_ns: None,
            under_way: None,
        }
    }

    /// How long until [`Pace::turn`] may have something to say, ns; at most a second.
    pub fn wait_ns(&self, now: &Time) -> u64 {
        let due = self.until_cut_ns(now);
        let noted = self.note_ns().saturating_sub(now.mono_ns);
        let wanted = self.caused_ns.filter(|_| self.wanted);
        let wanted = wanted.map(|caused| (caused + MOMENT_NS).saturating_sub(now.mono_ns));
        let soonest = match self.under_way {
            // Its end is told otherwise.
            Some(_) => due,
            None => due.min(noted).min(wanted.unwrap_or(MOMENT_NS)),
        };
        soonest.min(MOMENT_NS)
    }

    /// Something happened that a window must not span (M-2.6).
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// What is to be done now.
    pub fn turn(&mut self, now: &Time) -> Next {
        let offset_ns = now.utc_offset_ns();
        if offset_ns.abs_diff(self.offset_ns) > MISALIGNED_NS {
            // The wall clock was set: the open window ends here, and the next one is aligned.
            self.wanted = true;
            self.due_ns = boundary_after(now.utc_ns, self.window_ns);
        }
        self.offset_ns = offset_ns;
        let nominal = (now.utc_ns >= self.due_ns).then_some(self.due_ns);
        if nominal.is_some() {
            self.due_ns = boundary_after(now.utc_ns, self.window_ns);
        }
        if self.under_way.is_some() {
            return Next::Wait;
        }
        if let Some(nominal) = nominal {
            self.wanted = false;
            // Far off: the host slept, or this process did. The label is then the truth.
            let late_ns = now.utc_ns.abs_diff(nominal);
            let nominal_ns = (late_ns < self.window_ns).then_some(nominal);
            return Next::Cut { nominal_ns };
        }
        let quiet = |caused: u64| now.mono_ns.saturating_sub(caused) >= MOMENT_NS;
        if self.wanted && self.caused_ns.is_none_or(quiet) {
            self.wanted = false;
            self.caused_ns = Some(now.mono_ns);
            return Next::Cut { nominal_ns: None };
        }
        if now.mono_ns >= self.note_ns() {
            self.tried_ns = now.mono_ns;
            return Next::Checkpoint;
        }
        Next::Wait
    }

    /// A reading of this time was handed to the ledger.
    pub fn handed_over(&mut self, read: &Time) {
        self.under_way = Some(read.mono_ns);
        self.tried_ns = read.mono_ns;
    }

    /// Something that is no reading was handed to the ledger.
    pub fn handed_over_other(&mut self) {
        self.under_way = Some(self.durable_ns);
    }

    /// How long until the next nominal cut, ns.
    pub fn until_cut_ns(&self, now: &Time) -> u64 {
        self.due_ns.saturating_sub(now.utc_ns).max(0).unsigned_abs()
    }

    /// Is something with the ledger?
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// The ledger is done with it; `durable`: and has it.
    pub fn ended(&mut self, durable: bool) {
        if let Some(read_ns) = self.under_way.take()
            && durable
        {
            self.durable_ns = read_ns;
        }
    }

    /// When the registers are to be noted, CLOCK_MONOTONIC ns.
    fn note_ns(&self) -> u64 {
        let due = self.durable_ns.saturating_add(CHECKPOINT_NS);
        due.max(self.tried_ns.saturating_add(MOMENT_NS))
    }
}

/// The first multiple of the window after `now`, both UTC, ns since 1970.
pub(super) fn boundary_after(now: i64, window_ns: u64) -> i64 {
    let window = i64::try_from(window_ns).unwrap_or(i64::MAX).max(1);
    (now.div_euclid(window) + 1).saturating_mul(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const MINUTE: u64 = 60 * SECOND;
    const CUT: Next = Next::Cut { nominal_ns: None };

    /// So many seconds after a full minute, by all clocks.
    fn at(seconds: u64) -> Time {
        Time {
            boot_ns: seconds * SECOND,
            mono_ns: seconds * SECOND,
            utc_ns: ((30_000_000 * 60 + seconds) * SECOND) as i64,
        }
    }

    fn stepped(seconds: u64, by: i64) -> Time {
        let mut time = at(seconds);
        time.utc_ns += by * SECOND as i64;
        time
    }

    fn nominal(minute: u64) -> Next {
        let nominal_ns = Some(at(minute * 60).utc_ns);
        Next::Cut { nominal_ns }
    }

    fn started() -> Pace {
        Pace::new(MINUTE, &at(5))
    }

    #[test]
    fn windows_end_on_the_minute_and_registers_are_noted_every_eight_seconds() {
        let mut pace = started();
        let mut done = Vec::new();
        for second in 5..=125 {
            let now = at(second);
            let next = pace.turn(&now);
            if next != Next::Wait {
                done.push((second, next));
                pace.handed_over(&now);
                pace.ended(true);
            }
        }
        let cuts = |(at, next): &(u64, Next)| (*next != Next::Checkpoint).then_some((*at, *next));
        let cuts: Vec<_> = done.iter().filter_map(cuts).collect();
        assert_eq!(cuts, [(60, nominal(1)), (120, nominal(2))]);
        let notes = done.iter().filter(|(_, next)| *next == Next::Checkpoint);
        let notes: Vec<_> = notes.map(|(at, _)| *at).collect();
        // Eight seconds after whatever was durable last.
        assert_eq!(
            notes,
            [13, 21, 29, 37, 45, 53, 68, 76, 84, 92, 100, 108, 116]
        );
    }

    #[test]
    fn nothing_is_cut_while_the_ledger_writes_and_a_missed_minute_is_covered_by_the_next() {
        let mut pace = started();
        pace.handed_over(&at(50));
        pace.want();
        assert_eq!(pace.turn(&at(60)), Next::Wait);
        pace.ended(false);
        // The cause is made up for, the minute is not.
        assert_eq!(pace.turn(&at(61)), CUT);
        assert_eq!(pace.turn(&at(62)), Next::Checkpoint);
        assert_eq!(pace.turn(&at(121)), nominal(2));
    }

    #[test]
    fn causes_are_one_cut_a_second() {
        let mut pace = started();
        for _ in 0..3 {
            pace.want();
        }
        assert_eq!(pace.turn(&at(6)), CUT);
        pace.want();
        let mut soon = at(6);
        soon.mono_ns += SECOND / 4;
        assert_eq!(pace.turn(&soon), Next::Wait);
        assert_eq!(pace.wait_ns(&soon), 3 * SECOND / 4);
        assert_eq!(pace.turn(&at(7)), CUT);
        assert_eq!(pace.turn(&at(8)), Next::Wait);
        // A minute that is due is the cut of a cause, too.
        pace.want();
        assert_eq!(pace.turn(&at(60)), nominal(1));
        pace.ended(true);
        assert_ne!(pace.turn(&at(61)), CUT);
    }

    #[test]
    fn a_wall_clock_that_is_set_cuts_whichever_way_and_however_little() {
        for by in [-86_400, -20, -1, 1, 20, 86_400] {
            let mut pace = started();
            assert_eq!(pace.turn(&at(6)), Next::Wait);
            assert_eq!(pace.turn(&stepped(7, by)), CUT, "{by}");
            assert_eq!(pace.turn(&stepped(8, by)), Next::Wait);
            let left = pace.wait_ns(&stepped(8, by));
            assert!(left <= SECOND);
        }
    }

    #[test]
    fn a_cut_after_a_sleep_says_what_it_is_meant_for_only_when_that_is_near() {
        let mut pace = started();
        assert_eq!(pace.turn(&at(119)), nominal(1));
        let mut pace = started();
        assert_eq!(pace.turn(&at(120)), CUT);
        assert_eq!(pace.turn(&at(180)), nominal(3));
    }

    #[test]
    fn a_checkpoint_that_fails_is_tried_again_a_second_later() {
        let mut pace = started();
        assert_eq!(pace.turn(&at(12)), Next::Wait);
        for second in 13..18 {
            assert_eq!(pace.turn(&at(second)), Next::Checkpoint);
            pace.handed_over(&at(second));
            pace.ended(false);
        }
        assert_eq!(pace.wait_ns(&at(17)), SECOND);
        assert_eq!(pace.turn(&at(18)), Next::Checkpoint);
        pace.handed_over(&at(18));
        pace.ended(true);
        assert_eq!(pace.turn(&at(25)), Next::Wait);
        assert_eq!(pace.turn(&at(26)), Next::Checkpoint);
    }
}
