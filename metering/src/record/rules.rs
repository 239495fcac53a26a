//! Which fields a record has, and what they may say together: `docs/METERING.md`, M-5 and M-6.

use super::{Flags, Kind, Reading, Record, RecordError, Total};

/// The fields' keys. A key is never given another meaning.
pub(super) mod key {
    macro_rules! keys {
        ($($name:ident = $number:literal, $field:literal;)+) => {
            $(pub const $name: u64 = $number;)+
            /// Each key and the name of its field.
            #[cfg(test)]
            pub const NAMES: &[(u64, &str)] = &[$(($number, $field),)+];
        };
    }

    keys! {
        VERSION = 0, "version";
        KIND = 1, "kind";
        LEDGER_ID = 2, "ledger_id";
        SEQ = 3, "seq";
        STREAM_SEQ = 4, "stream_seq";
        TENANT_SEQ = 5, "tenant_seq";
        SALT = 6, "salt";
        HOST = 7, "host";
        FLAGS = 8, "flags";
        BOOT_ID = 9, "boot_id";
        MAP_GENERATION = 10, "map_generation";
        PORT_UID = 11, "port_uid";
        INCARNATION = 12, "incarnation";
        TENANT = 13, "tenant";
        DIRECTION = 14, "direction";
        ZONE = 15, "zone";
        WINDOW_ID = 16, "window_id";
        WINDOW_FIRST = 17, "window_first";
        WINDOW_START = 18, "window_start";
        WINDOW_END = 19, "window_end";
        CUT_START = 20, "cut_start_ns";
        CUT_END = 21, "cut_end_ns";
        ELAPSED = 22, "elapsed_ns";
        UTC_OFFSET = 23, "utc_offset_ns";
        STEP = 24, "step_ns";
        REVISION_FIRST = 25, "revision_first";
        REVISION_LAST = 26, "revision_last";
        REGISTER_START = 27, "register_start";
        REGISTER_END = 28, "register_end";
        PROGRAM_TAG = 29, "program_tag";
        SKBS_START = 30, "skbs_start";
        SKBS_END = 31, "skbs_end";
        DROPS = 32, "drops";
        UNATTRIBUTED = 33, "unattributed";
        CLOCK = 34, "clock";
        EVIDENCE = 35, "evidence";
        POST_METER_DROPS = 36, "post_meter_drops";
        BYTES_MIN = 37, "bytes_min";
        BYTES_MAX = 38, "bytes_max";
        CAUSE = 39, "cause";
        CORRECTION = 40, "correction";
        SUPERSEDES = 41, "supersedes";
        FLOWS = 42, "flows";
        ROTATION = 43, "rotation";
        ERASED = 44, "erased";
        ERASED_FLOWS = 45, "erased_flows";
        STATEMENT = 48, "statement";
    }

    pub const LAST: u64 = STATEMENT;

    /// Keys below the last one that no field has.
    pub const fn is_free(key: u64) -> bool {
        key > ERASED_FLOWS && key < STATEMENT
    }
}

/// A set of keys, as bits.
pub(super) type Keys = u64;

const fn keys(first: u64, last: u64) -> Keys {
    (1 << (last + 1)) - (1 << first)
}

pub(super) const fn bit(key: u64) -> Keys {
    1 << key
}

const HEAD: Keys = keys(key::VERSION, key::MAP_GENERATION);
const LABEL: Keys = keys(key::WINDOW_START, key::WINDOW_END);
const SUBJECT: Keys = keys(key::PORT_UID, key::DIRECTION)
    | bit(key::WINDOW_ID)
    | keys(key::WINDOW_START, key::WINDOW_END);
/// What every reading has.
pub(super) const READING: Keys = keys(key::CUT_START, key::REGISTER_END);
/// What every total has.
pub(super) const TOTAL: Keys = keys(key::SKBS_START, key::EVIDENCE);

/// The fields that a record is written with.
pub(super) fn present(record: &Record) -> Keys {
    let optional = [
        (key::ZONE, record.zone.is_some()),
        (key::WINDOW_FIRST, record.window_first != record.window_id),
        (key::BYTES_MIN, record.bytes_min.is_some()),
        (key::BYTES_MAX, record.bytes_max.is_some()),
        (key::CAUSE, record.cause.is_some()),
        (key::CORRECTION, record.correction.is_some()),
        (key::SUPERSEDES, record.supersedes.is_some()),
        (key::FLOWS, record.flows.is_some()),
        (key::ROTATION, record.rotation.is_some()),
        (key::ERASED, !record.erased.is_empty()),
        (key::ERASED_FLOWS, record.erased_flows.is_some()),
        (key::STATEMENT, record.statement.is_some()),
    ];
    let mut present = HEAD;
    present |= match record.kind {
        Kind::Statement => LABEL | bit(key::TENANT),
        kind if kind.is_of_the_ledger() => LABEL,
        _ => SUBJECT,
    };
    for (key, _) in optional.into_iter().filter(|(_, there)| *there) {
        present |= bit(key);
    }
    if let Some(reading) = &record.reading {
        present |= READING;
        present |= u64::from(reading.program_tag.is_some()) << key::PROGRAM_TAG;
    }
    if let Some(total) = &record.total {
        present |= TOTAL;
        present |= u64::from(total.post_meter_drops.is_some()) << key::POST_METER_DROPS;
    }
    present
}

/// The fields that a record of this kind, with these flags and that have been `seen`, has to have,
/// and those that it may have beside them.
fn belonging(kind: Kind, flags: Flags, seen: Keys) -> (Keys, Keys) {
    let unseen = flags.any(Flags::PARTIAL | Flags::UNMETERED);
    let bounds = bit(key::BYTES_MIN) | bit(key::CAUSE);
    match kind {
        Kind::Begin => (HEAD | LABEL, bit(key::CAUSE) | bit(key::SUPERSEDES)),
        Kind::Key => (HEAD | LABEL | bit(key::ROTATION), bit(key::CAUSE)),
        Kind::Erasure => {
            // Records, flow detail, or both; never nothing.
            let both = bit(key::ERASED) | bit(key::ERASED_FLOWS);
            let needed = HEAD | LABEL | bit(key::CAUSE);
            if seen & bit(key::ERASED_FLOWS) == 0 {
                (needed | bit(key::ERASED), 0)
            } else {
                (needed, both)
            }
        }
        Kind::Statement => (HEAD | LABEL | bit(key::TENANT) | bit(key::STATEMENT), 0),
        Kind::Correction => (
            HEAD | SUBJECT | bit(key::CORRECTION),
            bit(key::ZONE) | bit(key::WINDOW_FIRST),
        ),
        Kind::Nodata => {
            // All of a reading or nothing of it.
            let some = seen & (READING | bit(key::PROGRAM_TAG)) != 0;
            let reading = if some { READING } else { 0 };
            (
                HEAD | SUBJECT | reading | bounds,
                bit(key::WINDOW_FIRST) | bit(key::PROGRAM_TAG) | bit(key::BYTES_MAX),
            )
        }
        Kind::Meter | Kind::Checkpoint => {
            let needed = HEAD | SUBJECT | READING;
            let may = bit(key::WINDOW_FIRST) | bit(key::PROGRAM_TAG);
            if seen & bit(key::ZONE) != 0 {
                (needed | bit(key::ZONE), may)
            } else {
                let may = may | bit(key::POST_METER_DROPS) | bit(key::FLOWS);
                if unseen {
                    (needed | TOTAL | bounds, may | bit(key::BYTES_MAX))
                } else {
                    (needed | TOTAL, may | bit(key::CAUSE))
                }
            }
        }
    }
}

/// Are these the fields of such a record?
pub(super) fn check_fields(kind: Kind, flags: Flags, seen: Keys) -> Result<(), RecordError> {
    let first = |keys: Keys| u64::from(keys.trailing_zeros());
    let (needed, may) = belonging(kind, flags, seen);
    let missing = needed & !seen;
    let strange = seen & !(needed | may);
    if missing != 0 {
        Err(RecordError::Missing {
            key: first(missing),
        })
    } else if strange != 0 {
        Err(RecordError::NotAllowed {
            key: first(strange),
        })
    } else {
        Ok(())
    }
}

/// Do the flags go together, and with the kind?
pub(super) fn check_flags(kind: Kind, flags: Flags, merged: bool) -> Result<(), RecordError> {
    let fits = Flags::ALL.has(flags)
        && flags.has(Flags::CORRECTION) == (kind == Kind::Correction)
        && flags.has(Flags::NODATA) == (kind == Kind::Nodata)
        && (!(kind.is_of_the_ledger() || kind == Kind::Statement) || flags == Flags::NONE)
        && (!merged || flags.has(Flags::MERGED));
    if fits {
        Ok(())
    } else {
        Err(RecordError::Flags { found: flags.0 })
    }
}

fn ordered<T: PartialOrd>(start: T, end: T, key: u64) -> Result<(), RecordError> {
    if start <= end {
        Ok(())
    } else {
        Err(RecordError::Backwards { key })
    }
}

fn require(holds: bool, error: RecordError) -> Result<(), RecordError> {
    if holds { Ok(()) } else { Err(error) }
}

/// What the values of a record whose fields are those of its kind may be together.
pub(super) fn check_values(record: &Record) -> Result<(), RecordError> {
    ordered(record.window_start, record.window_end, key::WINDOW_END)?;
    match record.kind {
        Kind::Begin | Kind::Key | Kind::Erasure => {
            let first = record.kind == Kind::Begin;
            for (value, key) in [
                (if first { record.seq } else { 0 }, key::SEQ),
                (if first { record.stream_seq } else { 0 }, key::STREAM_SEQ),
                (record.tenant_seq, key::TENANT_SEQ),
            ] {
                require(value == 0, RecordError::Range { key })?;
            }
            require(
                record.window_start == record.window_end,
                RecordError::Sum {
                    key: key::WINDOW_END,
                },
            )?;
        }
        Kind::Checkpoint => {
            for (is_zero, key) in [
                (record.seq == 0, key::SEQ),
                (record.stream_seq == 0, key::STREAM_SEQ),
                (record.tenant_seq == 0, key::TENANT_SEQ),
                (record.salt == [0; 16], key::SALT),
            ] {
                require(is_zero, RecordError::Range { key })?;
            }
        }
        Kind::Meter | Kind::Correction | Kind::Nodata | Kind::Statement => {}
    }
    if let Some(reading) = &record.reading {
        check_reading(reading)?;
    }
    if let Some(total) = &record.total {
        check_total(record, total)?;
    }
    check_bounds(record)?;
    if let Some(correction) = &record.correction {
        let earlier = correction.ledger_id != record.ledger_id || correction.corrects < record.seq;
        let key = key::CORRECTION;
        require(earlier, RecordError::Range { key })?;
    }
    if let Some(statement) = &record.statement {
        let key = key::STATEMENT;
        let counted = statement.number != 0 && statement.version != 0;
        let earlier = statement.size <= record.seq;
        require(counted && earlier, RecordError::Range { key })?;
    }
    if let Some(supersedes) = &record.supersedes {
        let key = key::SUPERSEDES;
        let other = supersedes.ledger_id != record.ledger_id;
        require(other, RecordError::Range { key })?;
    }
    if let Some(last) = record.erased.last() {
        let key = key::ERASED;
        require(last[1] < record.seq, RecordError::Range { key })?;
    }
    Ok(())
}

fn check_reading(reading: &Reading) -> Result<(), RecordError> {
    let forward = reading.register_end.checked_sub(reading.register_start);
    let key = key::REGISTER_END;
    require(forward.is_some(), RecordError::Backwards { key })?;
    ordered(reading.cut_start_ns, reading.cut_end_ns, key::CUT_END)?;
    let between_ns = reading.cut_end_ns - reading.cut_start_ns;
    let key = key::ELAPSED;
    require(reading.elapsed_ns <= between_ns, RecordError::Sum { key })?;
    ordered(
        reading.revision_first,
        reading.revision_last,
        key::REVISION_LAST,
    )
}

fn check_total(record: &Record, total: &Total) -> Result<(), RecordError> {
    let (start, end) = (&total.skbs_start, &total.skbs_end);
    for (start, end) in [
        (start.delivered, end.delivered),
        (start.delivered_len, end.delivered_len),
        (start.dropped, end.dropped),
        (start.dropped_len, end.dropped_len),
    ] {
        ordered(start, end, key::SKBS_END)?;
    }
    let key = key::UNATTRIBUTED;
    let counted = record.counted().unwrap_or_default();
    let attributed = counted.checked_sub(total.unattributed);
    require(attributed.is_some(), RecordError::Sum { key })?;
    let (mut packets, mut l2_bytes) = (Some(counted.packets), Some(counted.l2_bytes));
    for one in &total.evidence {
        packets = packets.and_then(|rest| rest.checked_sub(one.packets));
        l2_bytes = l2_bytes.and_then(|rest| rest.checked_sub(one.l2_bytes));
    }
    let key = key::EVIDENCE;
    require(
        packets.is_some() && l2_bytes.is_some(),
        RecordError::Sum { key },
    )
}

/// The least that was carried is what was counted, and what is not known is billed as nothing.
fn check_bounds(record: &Record) -> Result<(), RecordError> {
    let Some(least) = record.bytes_min else {
        return Ok(());
    };
    let counted = match record.kind {
        Kind::Nodata => 0,
        _ => record.counted().map_or(0, |counted| counted.l2_bytes),
    };
    let key = key::BYTES_MIN;
    require(least == counted, RecordError::Sum { key })?;
    record
        .bytes_max
        .map_or(Ok(()), |most| ordered(least, most, key::BYTES_MAX))
}
