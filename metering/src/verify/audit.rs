//! Do the records make a bill? Everything of M-8, reckoned from the canonical bytes alone, beside what
//! [`super::ledger`] verifies.

use super::{Report, VerifyError, table};
use crate::{
    ledger::schema,
    meter::Settled,
    note::{Head, Verifier},
    record::{Flags, Kind, Reading, Record},
    window::Counts,
};
use rusqlite::OptionalExtension as _;
use std::{collections::BTreeMap, path::Path};

/// Epoch, incarnation and direction.
type Subject = ([u8; 16], [u8; 16], u64, u8);

/// Where a subject stands.
#[derive(Default)]
struct Standing {
    /// How many records were erased when it was last heard of: with more, anything may be between.
    erased: u64,
    /// Its last window.
    window: Option<u64>,
    /// The `*` record of that: its seq, what it counted, and what its zones have so far.
    open: Option<(u64, Counts, Counts)>,
    /// Registers of all zones, and by zone; `None`: not known.
    end: Option<Counts>,
    zones: Option<BTreeMap<u32, Counts>>,
    /// Of the last `*` record, if it has a reading.
    reading: Option<Reading>,
    /// Its last record is written.
    over: bool,
}

/// What is added to a record.
#[derive(Default)]
struct Added {
    by: u64,
    sums: [i128; 3],
}

/// A window, and what it is called.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Labelled {
    window: ([u8; 16], [u8; 16], u64),
    start: i64,
    end: i64,
    late: bool,
}

#[derive(Default)]
struct Audit {
    subjects: BTreeMap<Subject, Standing>,
    /// The last window of each epoch.
    windows: BTreeMap<([u8; 16], [u8; 16]), u64>,
    corrected: BTreeMap<u64, Added>,
    /// The hours that nothing may be added to any more: M-10.7.
    settled: Settled,
    /// The window that is read.
    window: Option<Labelled>,
    /// The ledger took another's place: what its subjects begin with is not 0.
    supersedes: bool,
}

/// Verifies a ledger as [`super::ledger`] does, and holds its records against each other.
///
/// # Errors
/// As [`super::ledger`].
pub fn audit(
    path: &Path,
    keyring: &[Verifier],
    against: Option<&Head>,
) -> Result<Report, VerifyError> {
    let mut audit = Audit::default();
    let mut report = table::walk(path, keyring, against, &mut |record, report| {
        audit.take(record, report);
    })?;
    audit.end(&mut report);
    if let Err(error) = audit.corrections(path, &mut report) {
        report.file(format!("{}: {error}", path.display()));
    }
    Ok(report)
}

fn sum(one: Counts, other: Counts) -> Counts {
    one.checked_add(other).unwrap_or_default()
}

impl Audit {
    fn take(&mut self, record: &Record, report: &mut Report) {
        match record.kind {
            Kind::Begin => self.supersedes = record.supersedes.is_some(),
            Kind::Correction => self.correct(record),
            Kind::Meter | Kind::Nodata => {
                self.label(record, report);
                self.reading(record, report);
            }
            _ => {}
        }
    }

    /// M-10.7, as far as the records that are there tell.
    fn label(&mut self, record: &Record, report: &mut Report) {
        let now = Labelled {
            window: (record.boot_id, record.map_generation, record.window_id),
            start: record.window_start,
            end: record.window_end,
            late: record.flags.has(Flags::LATE),
        };
        if self.window.map(|before| before.window) != Some(now.window)
            && let Some(before) = self.window.replace(now)
            && !before.late
        {
            self.settled.take(before.start, before.end);
        }
        if !now.late && self.settled.has(now.start, now.end) {
            report.file(format!(
                "record {}: its label is in an hour that was settled, and it is not LATE",
                record.seq
            ));
        }
    }

    fn correct(&mut self, record: &Record) {
        let correction = record.correction.as_ref();
        let here = correction.filter(|correction| correction.ledger_id == record.ledger_id);
        let Some(correction) = here else {
            return;
        };
        let added = self.corrected.entry(correction.corrects).or_default();
        added.by = record.seq;
        let sums = [correction.packets, correction.l2_bytes, correction.l3_bytes];
        for (sum, more) in added.sums.iter_mut().zip(sums) {
            *sum += i128::from(more);
        }
    }

    fn reading(&mut self, record: &Record, report: &mut Report) {
        let epoch = (record.boot_id, record.map_generation);
        let last = self.windows.entry(epoch).or_default();
        *last = record.window_id.max(*last);
        let subject = (epoch.0, epoch.1, record.incarnation, record.direction);
        let begins_at_zero = !self.supersedes;
        let standing = self.subjects.entry(subject).or_insert_with(|| Standing {
            end: begins_at_zero.then(Counts::default),
            zones: begins_at_zero.then(BTreeMap::new),
            ..Standing::default()
        });
        if standing.erased != report.pruned {
            *standing = Standing {
                erased: report.pruned,
                ..Standing::default()
            };
        }
        match record.zone {
            None => standing.total(record, report),
            Some(zone) => standing.zone(record, zone, report),
        }
    }

    /// What is due, and what is not whole, when there are no more records.
    fn end(&mut self, report: &mut Report) {
        for (subject, standing) in &mut self.subjects {
            standing.close(report);
            let last = self.windows.get(&(subject.0, subject.1)).copied();
            let lacks = standing.window < last && !standing.over;
            if lacks && standing.erased == report.pruned {
                report.file(format!(
                    "incarnation {}, direction {}: there is no record of window {}, and none says RESET",
                    subject.2,
                    subject.3,
                    last.unwrap_or_default()
                ));
            }
        }
    }

    /// A record with its corrections is not below 0: M-10.4.
    fn corrections(&self, path: &Path, report: &mut Report) -> Result<(), String> {
        if self.corrected.is_empty() {
            return Ok(());
        }
        let db = schema::open_to_read(path).map_err(|error| error.to_string())?;
        for (seq, added) in &self.corrected {
            let canonical = "SELECT canonical FROM record WHERE seq = ?1";
            let canonical: Option<Option<Vec<u8>>> = db
                .query_row(canonical, [*seq as i64], |row| row.get(0))
                .optional()
                .map_err(|error| error.to_string())?;
            // Of one that was erased nobody can say.
            let Some(canonical) = canonical.flatten() else {
                continue;
            };
            let record = Record::decode(&canonical).unwrap_or_default();
            let counted = match record.kind {
                Kind::Meter => record.counted().unwrap_or_default(),
                _ => Counts::default(),
            };
            let counted = [counted.packets, counted.l2_bytes, counted.l3_bytes];
            let below = counted
                .into_iter()
                .zip(added.sums)
                .any(|(sum, more)| i128::from(sum) + more < 0);
            if below {
                report.record(added.by, format!("it takes record {seq} below 0"));
            }
        }
        Ok(())
    }
}

impl Standing {
    /// The zones of the window that ends here sum to its `*` record.
    fn close(&mut self, report: &mut Report) {
        if let Some((seq, total, zones)) = self.open.take()
            && total != zones
        {
            report.record(seq, "its zones do not sum to it");
        }
    }

    fn total(&mut self, record: &Record, report: &mut Report) {
        self.close(report);
        let seq = record.seq;
        if self.over {
            report.record(seq, "it follows a record that says RESET");
        }
        self.over = record.flags.has(Flags::RESET);
        if let Some(window) = self.window.replace(record.window_id)
            && record.window_first != window + 1
        {
            report.record(
                seq,
                format!(
                    "it begins with window {} after {window}",
                    record.window_first
                ),
            );
        }
        let before = std::mem::replace(&mut self.reading, record.reading);
        let Some(reading) = &record.reading else {
            return;
        };
        if self.end.is_some_and(|end| end != reading.register_start) {
            report.record(seq, "its registers do not begin where the last ones ended");
        }
        self.end = Some(reading.register_end);
        if let Some(before) = &before {
            let offset_ns = before.utc_offset_ns.saturating_add(before.step_ns);
            for (holds, what) in [
                (
                    before.cut_end_ns == reading.cut_start_ns,
                    "its cut is not the last one's end",
                ),
                (
                    offset_ns == reading.utc_offset_ns,
                    "its wall clock is not the last one's",
                ),
                (
                    before.revision_last <= reading.revision_first,
                    "its revision went back",
                ),
            ] {
                if !holds {
                    report.record(seq, what);
                }
            }
        }
        if record.kind == Kind::Meter {
            self.open = Some((seq, record.counted().unwrap_or_default(), Counts::default()));
        } else {
            // It says nothing of the zones.
            self.zones = None;
        }
    }

    fn zone(&mut self, record: &Record, zone: u32, report: &mut Report) {
        let (seq, counted) = (record.seq, record.counted().unwrap_or_default());
        match &mut self.open {
            Some((_, _, zones)) if self.window == Some(record.window_id) => {
                *zones = sum(*zones, counted);
            }
            _ if self.window.is_none() => {}
            _ => report.record(seq, "there is no record of all zones before it"),
        }
        let Some(reading) = &record.reading else {
            return;
        };
        let zones = self.zones.as_mut();
        let known = zones.map(|zones| zones.insert(zone, reading.register_end).unwrap_or_default());
        if known.is_some_and(|known| known != reading.register_start) {
            report.record(
                seq,
                "its registers do not begin where the zone's last ones ended",
            );
        }
    }
}
