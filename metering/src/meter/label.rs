//! What a window is called, and whether that is the truth: `docs/METERING.md`, M-2.7 and M-4.4.
//!
//! Pure. What it is not: it is no measure of time. Rates are reckoned from `elapsed_ns`.

use super::{Cut, Gap, MISALIGNED_NS, State, pace};

/// A window's label.
pub(super) struct Label {
    /// UTC, ns since 1970, included.
    pub start: i64,
    /// UTC, ns since 1970, excluded.
    pub end: i64,
    /// The cut was not when it was meant to be.
    pub misaligned: bool,
    /// It is in more than one nominal window.
    pub long: bool,
}

impl Label {
    pub fn of(state: &State, cut: &Cut, gap: Option<&Gap>) -> Self {
        let (utc, offset) = (cut.time.utc_ns, cut.time.utc_offset_ns());
        let until = gap.and_then(|gap| gap.until_ns);
        let meant = cut.nominal_ns.unwrap_or(utc);
        let before = state.last.map(|last| last.time.utc_offset_ns());
        let before = before.unwrap_or(offset);
        let was_set = offset.abs_diff(before) > MISALIGNED_NS;
        let end = match until {
            Some(until) => until,
            // What is left of a clock that is slewed goes into this window: the next one begins where it ends.
            None if !was_set => meant,
            // As the clock stood when the window began.
            None => before.saturating_add_unsigned(cut.time.boot_ns),
        };
        let start = match state.last {
            Some(last) => last.next_start.unwrap_or(last.window_end),
            // The first window begins with the first of those who are counted.
            None => {
                let eldest_ns = cut.owners.iter().map(|owner| owner.since_ns).min();
                eldest_ns.map_or(end, |since_ns| offset.saturating_add_unsigned(since_ns))
            }
        };
        let start = match state.last {
            // The clock went back while nobody was there. The label is as long as what is known of it.
            Some(last) if start > end => {
                let between_ns = cut.time.boot_ns.saturating_sub(last.time.boot_ns);
                let unseen_ns = until.map_or(0, |until| until.max(utc).abs_diff(utc));
                end.saturating_sub_unsigned(between_ns.saturating_add(unseen_ns))
            }
            _ => start.min(end),
        };
        Self {
            start,
            end,
            misaligned: utc.abs_diff(meant) > MISALIGNED_NS,
            long: cut.window_ns != 0 && pace::boundary_after(start, cut.window_ns) < end,
        }
    }
}
