//! What a window is called: `docs/METERING.md`, M-4.4.

use super::{Cut, Gap, MISALIGNED_NS, State};

/// What a window is called, and whether that is the truth.
pub(super) struct Label {
    pub start: i64,
    pub end: i64,
    pub misaligned: bool,
    /// Longer than a window.
    pub long: bool,
}

impl Label {
    pub fn of(state: &State, cut: &Cut, gap: Option<&Gap>) -> Self {
        let utc = cut.time.utc_ns;
        let until = gap.and_then(|gap| gap.until_ns);
        let meant = cut.nominal_ns.unwrap_or(utc);
        let end = until.unwrap_or(meant);
        // The first window begins with the first of those who are counted.
        let eldest_ns = cut.owners.iter().map(|owner| owner.since_ns).min();
        let first = eldest_ns.map_or(end, |since_ns| {
            let since = cut.time.utc_offset_ns().saturating_add_unsigned(since_ns);
            since.min(end)
        });
        let start = state.last.map_or(first, |last| {
            let between_ns = cut.time.boot_ns.saturating_sub(last.time.boot_ns);
            let unseen_ns = until.map_or(0, |until| until.max(utc).abs_diff(utc));
            let between_ns = between_ns.saturating_add(unseen_ns);
            let step = cut.time.utc_offset_ns().abs_diff(last.time.utc_offset_ns());
            if step > MISALIGNED_NS || last.window_end > end {
                // The wall clock was set. The label is as long as the window was, and may overlap.
                end.saturating_sub_unsigned(between_ns)
            } else {
                last.window_end
            }
        });
        let length_ns = end.abs_diff(start);
        Self {
            start,
            end,
            misaligned: utc.abs_diff(meant) > MISALIGNED_NS,
            long: cut.window_ns != 0 && length_ns > cut.window_ns.saturating_add(MISALIGNED_NS),
        }
    }
}
