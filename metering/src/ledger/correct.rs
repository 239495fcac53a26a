//! Corrections: `docs/METERING.md`, M-10.1 to M-10.4.

use super::{Ledger, LedgerError, add::AddError};
use crate::{
    meter::State,
    record::{Correction, Flags, Kind, Record, TEXT_BYTES_MAX},
    usage::Sum,
};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

/// What is to be added to a record of the same ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correct {
    /// Which record.
    pub seq: u64,
    /// Added to its packets.
    pub packets: i64,
    /// Added to its layer-2 bytes.
    pub l2_bytes: i64,
    /// Added to its IP bytes.
    pub l3_bytes: i64,
    /// Why, 1..=256 bytes.
    pub reason: String,
    /// Is more to be billed? Nobody is billed more by a slip of the pen.
    pub increase: bool,
}

impl Ledger {
    /// The correction's record, if there may be one.
    pub(super) fn correction(&self, correct: &Correct, utc_ns: i64) -> Result<Record, AddError> {
        let reason = &correct.reason;
        let fits = (1..=TEXT_BYTES_MAX).contains(&(reason.len() as u64));
        if !fits || reason.chars().any(char::is_control) {
            return Err(AddError::Reason);
        }
        let add = [correct.packets, correct.l2_bytes, correct.l3_bytes];
        if add == [0; 3] {
            return Err(AddError::Nothing);
        }
        if add.iter().any(|sum| *sum > 0) && !correct.increase {
            return Err(AddError::Increase);
        }
        let storage = Self::storage(&self.path);
        let subject = subject(&self.db, &storage, correct.seq, self.anchor.size)?;
        check_zero(&self.db, &storage, &subject, add)?;
        let merged = subject.window_first != subject.window_id;
        let (window_start, window_end) = open_window(&self.state, utc_ns);
        Ok(Record {
            kind: Kind::Correction,
            host: self.epoch.host.clone(),
            flags: if merged {
                Flags::CORRECTION | Flags::MERGED
            } else {
                Flags::CORRECTION
            },
            window_start,
            window_end,
            reading: None,
            total: None,
            bytes_min: None,
            bytes_max: None,
            cause: None,
            correction: Some(Correction {
                ledger_id: self.id,
                corrects: correct.seq,
                packets: correct.packets,
                l2_bytes: correct.l2_bytes,
                l3_bytes: correct.l3_bytes,
                reason: reason.clone(),
            }),
            ..subject
        })
    }
}

/// The record that is to be corrected.
fn subject(
    db: &Connection,
    storage: &impl Fn(rusqlite::Error) -> LedgerError,
    seq: u64,
    size: u64,
) -> Result<Record, AddError> {
    let select = "SELECT canonical FROM record WHERE seq = ?1";
    let canonical: Option<Vec<u8>> = match i64::try_from(seq) {
        Ok(seq) => db
            .query_row(select, [seq], |row| row.get(0))
            .optional()
            .map_err(storage)?,
        Err(_) => None,
    };
    let canonical = canonical.ok_or(AddError::NoRecord { seq, size })?;
    let subject = read(seq, &canonical)?;
    match subject.kind {
        Kind::Meter | Kind::Nodata => Ok(subject),
        kind => Err(AddError::Kind {
            seq,
            kind: kind.name(),
            instead: match &subject.correction {
                Some(correction) => format!("record {}, which it corrects", correction.corrects),
                None => "the record of a window".into(),
            },
        }),
    }
}

fn read(seq: u64, canonical: &[u8]) -> Result<Record, AddError> {
    Record::decode(canonical).map_err(|error| AddError::Unreadable {
        seq,
        what: error.to_string(),
    })
}

/// M-10.4: neither the record nor the total that it is a part of falls below 0.
fn check_zero(
    db: &Connection,
    storage: &impl Fn(rusqlite::Error) -> LedgerError,
    subject: &Record,
    add: [i64; 3],
) -> Result<(), AddError> {
    let mut statement = db
        .prepare_cached(
            "SELECT seq, canonical FROM record WHERE kind = 4 AND window_id = ?1 AND boot_id = ?2 AND \
             map_generation = ?3 AND port_uid = ?4 AND incarnation = ?5 AND direction = ?6",
        )
        .map_err(storage)?;
    let key = params![
        subject.window_id as i64,
        subject.boot_id,
        subject.map_generation,
        subject.port_uid,
        subject.incarnation as i64,
        subject.direction,
    ];
    let mut rows = statement.query(key).map_err(storage)?;
    let overflow = |_| AddError::Unreadable {
        seq: subject.seq,
        what: "its corrections are past 2^127".into(),
    };
    let (mut own, mut all) = (Sum::default(), Sum::default());
    while let Some(row) = rows.next().map_err(storage)? {
        let (seq, canonical): (i64, Vec<u8>) =
            (row.get(0).map_err(storage)?, row.get(1).map_err(storage)?);
        let record = read(seq as u64, &canonical)?;
        let Some(earlier) = record.correction else {
            continue;
        };
        let sums = Sum([earlier.packets, earlier.l2_bytes, earlier.l3_bytes].map(i128::from));
        all = all.plus(sums).map_err(overflow)?;
        if record.zone == subject.zone {
            own = own.plus(sums).map_err(overflow)?;
        }
    }
    let own = own.plus(billed(subject)).map_err(overflow)?;
    let mut bounds = vec![("the record", own)];
    if subject.zone.is_some() {
        let total = total_of(db, storage, subject)?;
        bounds.push(("its total", all.plus(billed(&total)).map_err(overflow)?));
    } else {
        bounds[0].1 = all.plus(billed(subject)).map_err(overflow)?;
    }
    for (what, left) in bounds {
        for ((left, add), unit) in left
            .0
            .into_iter()
            .zip(add)
            .zip(["packets", "bytes", "IP bytes"])
        {
            if left + i128::from(add) < 0 {
                return Err(AddError::BelowZero {
                    seq: subject.seq,
                    what,
                    left: left.max(0),
                    unit,
                });
            }
        }
    }
    Ok(())
}

/// The `*` of a zone's window.
fn total_of(
    db: &Connection,
    storage: &impl Fn(rusqlite::Error) -> LedgerError,
    zone: &Record,
) -> Result<Record, AddError> {
    let select = "SELECT seq, canonical FROM record WHERE kind IN (1, 5) AND boot_id = ?1 AND \
                  map_generation = ?2 AND port_uid = ?3 AND incarnation = ?4 AND direction = ?5 AND \
                  zone = -1 AND window_id = ?6";
    let key = params![
        zone.boot_id,
        zone.map_generation,
        zone.port_uid,
        zone.incarnation as i64,
        zone.direction,
        zone.window_id as i64,
    ];
    let found: Option<(i64, Vec<u8>)> = db
        .query_row(select, key, |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
        .map_err(storage)?;
    let (seq, canonical) = found.ok_or_else(|| AddError::Unreadable {
        seq: zone.seq,
        what: "its window has no total".into(),
    })?;
    read(seq as u64, &canonical)
}

/// The open nominal window (M-10.2), never before the last label: a settled hour stays as it is.
fn open_window(state: &State, utc_ns: i64) -> (i64, i64) {
    let last = state.last;
    let nominal = last.map_or(0, |last| last.window_ns);
    let window_ns = match i64::try_from(nominal) {
        Ok(window_ns) if window_ns > 0 => window_ns,
        _ => 60_000_000_000,
    };
    let now = last.map_or(utc_ns, |last| last.window_end.max(utc_ns));
    // The wall clock may have been set back into hours that are.
    let now = state.settled.open_from(now);
    let start = now.div_euclid(window_ns).saturating_mul(window_ns);
    (start, start.saturating_add(window_ns))
}

/// What a record bills by itself: a NODATA bills nothing, whatever its registers say.
fn billed(record: &Record) -> Sum {
    match record.kind {
        Kind::Meter => Sum::from(record.counted().unwrap_or_default()),
        _ => Sum::default(),
    }
}
