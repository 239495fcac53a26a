//! A port's windows in one direction, as they follow each other: M-10.5 and M-16.8.

use super::{HOUR_NS, UsageError};
use crate::record::{Flags, Kind, Record};

/// What is known of one.
#[derive(Clone, Debug, Default)]
pub(super) struct Chain {
    pub host: String,
    pub port: String,
    /// The file that the last window is from.
    pub ledger: String,
    pub window: u64,
    /// End of the last label.
    pub end: i64,
    /// No window follows.
    pub reset: bool,
}

impl Chain {
    pub fn begin(record: &Record, ledger: &str) -> Self {
        Self {
            host: record.host.clone(),
            port: record.port_uid.clone(),
            ledger: ledger.to_owned(),
            window: record.window_id,
            end: record.window_end,
            reset: record.flags.has(Flags::RESET),
        }
    }

    /// Takes the next window; returns where one is missing before it.
    pub fn follow(
        &mut self,
        record: &Record,
        ledger: &str,
    ) -> Result<Option<(i64, i64)>, UsageError> {
        if record.window_first <= self.window && record.kind == Kind::Meter {
            return Err(if self.ledger == ledger {
                UsageError::Record {
                    ledger: ledger.to_owned(),
                    seq: record.seq,
                    what: "it begins before the one before it ends".into(),
                }
            } else {
                UsageError::Twice {
                    first: self.ledger.clone(),
                    second: ledger.to_owned(),
                    port: self.port.clone(),
                }
            });
        }
        let hole = record.window_first > self.window.saturating_add(1);
        let from = self.end;
        self.window = self.window.max(record.window_id);
        self.end = record.window_end;
        self.reset = record.flags.has(Flags::RESET);
        self.ledger.clear();
        self.ledger.push_str(ledger);
        Ok(hole.then_some((from.min(record.window_start), record.window_start)))
    }
}

impl Chain {
    /// Takes a window that came late, where it is the next one: its label ends nothing.
    pub fn catch_up(&mut self, record: &Record) {
        if self.window.checked_add(1) == Some(record.window_first) {
            self.window = record.window_id;
            self.reset |= record.flags.has(Flags::RESET);
        }
    }
}

/// The hour's end at or after this time.
pub(super) fn hour_end(time: i64) -> i64 {
    let whole = time.div_euclid(HOUR_NS).saturating_mul(HOUR_NS);
    if whole == time {
        time
    } else {
        whole.saturating_add(HOUR_NS)
    }
}

/// The beginning of this time's hour.
pub(super) fn hour_start(time: i64) -> i64 {
    time.div_euclid(HOUR_NS).saturating_mul(HOUR_NS)
}
