//! A record's bytes: a map from the keys of `rules::key`, in ascending order, to the fields.

use super::{
    Classified, Clock, Correction, Dropped, ERASED_MAX, ErasedFlows, Flags, Flows, HOST_BYTES_MAX,
    Kind, PORT_BYTES_MAX, Reading, Record, RecordError, Rotation, Statement, Supersedes,
    TEXT_BYTES_MAX, Total, VERSION, VERSION_WITH_EVIDENCE,
    cbor::{Reader, Writer},
    rules::{self, Keys, READING, TOTAL, bit, key},
};
use crate::window::Counts;
use dataplane_common::{abi::Skbs, encryption::CLASSES, reason::RECORDED_MAX};

/// See [`Record::encode`].
pub(super) fn encode(record: &Record) -> Vec<u8> {
    let present = rules::present(record);
    let mut writer = Writer::default();
    writer.map(present.count_ones().into());
    let (reading, total) = (
        record.reading.unwrap_or_default(),
        record.total.clone().unwrap_or_default(),
    );
    for key in (0..=key::LAST).filter(|key| present & bit(*key) != 0) {
        writer.unsigned(key);
        match key {
            key::VERSION..=key::MAP_GENERATION => write_head(&mut writer, key, record),
            key::PORT_UID..=key::WINDOW_END => write_subject(&mut writer, key, record),
            key::CUT_START..=key::PROGRAM_TAG => write_reading(&mut writer, key, &reading),
            key::SKBS_START..=key::POST_METER_DROPS => write_total(&mut writer, key, &total),
            _ => write_remarks(&mut writer, key, record),
        }
    }
    writer.finish()
}

fn write_head(writer: &mut Writer, key: u64, record: &Record) {
    match key {
        key::VERSION => writer.unsigned(record.version()),
        key::KIND => writer.unsigned(record.kind as u64),
        key::LEDGER_ID => writer.bytes(&record.ledger_id),
        key::SEQ => writer.unsigned(record.seq),
        key::STREAM_SEQ => writer.unsigned(record.stream_seq),
        key::TENANT_SEQ => writer.unsigned(record.tenant_seq),
        key::SALT => writer.bytes(&record.salt),
        key::HOST => writer.text(&record.host),
        key::FLAGS => writer.unsigned(record.flags.0.into()),
        key::BOOT_ID => writer.bytes(&record.boot_id),
        _ => writer.bytes(&record.map_generation),
    }
}

fn write_subject(writer: &mut Writer, key: u64, record: &Record) {
    match key {
        key::PORT_UID => writer.text(&record.port_uid),
        key::INCARNATION => writer.unsigned(record.incarnation),
        key::TENANT => writer.unsigned(record.tenant.into()),
        key::DIRECTION => writer.unsigned(record.direction.into()),
        key::ZONE => writer.unsigned(record.zone.unwrap_or_default().into()),
        key::WINDOW_ID => writer.unsigned(record.window_id),
        key::WINDOW_FIRST => writer.unsigned(record.window_first),
        key::WINDOW_START => writer.signed(record.window_start),
        _ => writer.signed(record.window_end),
    }
}

fn write_reading(writer: &mut Writer, key: u64, reading: &Reading) {
    match key {
        key::CUT_START => writer.unsigned(reading.cut_start_ns),
        key::CUT_END => writer.unsigned(reading.cut_end_ns),
        key::ELAPSED => writer.unsigned(reading.elapsed_ns),
        key::UTC_OFFSET => writer.signed(reading.utc_offset_ns),
        key::STEP => writer.signed(reading.step_ns),
        key::REVISION_FIRST => writer.unsigned(reading.revision_first.into()),
        key::REVISION_LAST => writer.unsigned(reading.revision_last.into()),
        key::REGISTER_START => write_counts(writer, reading.register_start),
        key::REGISTER_END => write_counts(writer, reading.register_end),
        _ => writer.bytes(&reading.program_tag.unwrap_or_default()),
    }
}

fn write_total(writer: &mut Writer, key: u64, total: &Total) {
    match key {
        key::SKBS_START => write_skbs(writer, &total.skbs_start),
        key::SKBS_END => write_skbs(writer, &total.skbs_end),
        key::DROPS => {
            writer.array(total.drops.len() as u64);
            for drops in &total.drops {
                writer.row([drops.reason.into(), drops.packets, drops.l2_bytes]);
            }
        }
        key::UNATTRIBUTED => write_counts(writer, total.unattributed),
        key::CLOCK => {
            writer.array(4);
            writer.signed(total.clock.state.into());
            writer.unsigned(total.clock.est_error_us);
            writer.unsigned(total.clock.max_error_us);
            writer.unsigned(total.clock.synchronised.into());
        }
        // NOT_CLASSIFIED.
        key::EVIDENCE if total.evidence.is_empty() => writer.unsigned(0),
        key::EVIDENCE => {
            writer.array(total.evidence.len() as u64);
            for one in &total.evidence {
                writer.row([one.class.into(), one.packets, one.l2_bytes]);
            }
        }
        _ => writer.unsigned(total.post_meter_drops.unwrap_or_default()),
    }
}

fn write_remarks(writer: &mut Writer, key: u64, record: &Record) {
    match key {
        key::BYTES_MIN => writer.unsigned(record.bytes_min.unwrap_or_default()),
        key::BYTES_MAX => writer.unsigned(record.bytes_max.unwrap_or_default()),
        key::CAUSE => writer.text(record.cause.as_deref().unwrap_or_default()),
        key::CORRECTION => {
            let correction = record.correction.clone().unwrap_or_default();
            writer.array(6);
            writer.bytes(&correction.ledger_id);
            writer.unsigned(correction.corrects);
            writer.signed(correction.packets);
            writer.signed(correction.l2_bytes);
            writer.signed(correction.l3_bytes);
            writer.text(&correction.reason);
        }
        key::ROTATION => {
            if let Some(rotation) = &record.rotation {
                writer.array(3);
                writer.bytes(&rotation.public);
                writer.bytes(&rotation.by_old);
                writer.bytes(&rotation.by_new);
            }
        }
        key::ERASED => {
            writer.array(record.erased.len() as u64);
            for range in &record.erased {
                writer.row(*range);
            }
        }
        key::ERASED_FLOWS => {
            let erased = record.erased_flows.unwrap_or_default();
            writer.row([erased.tenant.into(), erased.records, erased.rows]);
        }
        key::STATEMENT => {
            let statement = record.statement.unwrap_or_default();
            writer.array(8);
            writer.unsigned(statement.number);
            writer.unsigned(statement.version);
            writer.signed(statement.issued);
            writer.unsigned(statement.size);
            writer.signed(statement.packets);
            writer.signed(statement.l2_bytes);
            writer.signed(statement.l3_bytes);
            writer.bytes(&statement.digest);
        }
        key::SUPERSEDES => {
            let supersedes = record.supersedes.unwrap_or_default();
            writer.array(2);
            writer.bytes(&supersedes.ledger_id);
            writer.unsigned(supersedes.last_seq);
        }
        _ => {
            let flows = record.flows.unwrap_or_default();
            writer.array(2);
            writer.unsigned(flows.rows);
            writer.bytes(&flows.root);
        }
    }
}

fn write_counts(writer: &mut Writer, counts: Counts) {
    writer.row([counts.packets, counts.l2_bytes, counts.l3_bytes]);
}

fn write_skbs(writer: &mut Writer, skbs: &Skbs) {
    writer.row([
        skbs.delivered,
        skbs.delivered_len,
        skbs.dropped,
        skbs.dropped_len,
    ]);
}

/// See [`Record::decode`].
pub(super) fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
    let mut reader = Reader::new(bytes);
    let mut record = Record::default();
    let (mut reading, mut total) = (Reading::default(), Total::default());
    let mut seen: Keys = 0;
    let mut version = VERSION;
    for _ in 0..reader.map()? {
        let key = next_key(&mut reader, seen)?;
        match key {
            key::VERSION => version = read_version(&mut reader)?,
            key::KIND..=key::MAP_GENERATION => read_head(&mut reader, &mut record)?,
            key::PORT_UID..=key::WINDOW_END => read_subject(&mut reader, &mut record)?,
            key::CUT_START..=key::PROGRAM_TAG => read_reading(&mut reader, &mut reading)?,
            key::SKBS_START..=key::POST_METER_DROPS => read_total(&mut reader, &mut total)?,
            _ => read_remarks(&mut reader, &mut record)?,
        }
        seen |= bit(key);
    }
    if !reader.is_empty() {
        return Err(RecordError::Trailing);
    }
    rules::check_fields(record.kind, record.flags, seen)?;
    let merged = seen & bit(key::WINDOW_FIRST) != 0;
    rules::check_flags(record.kind, record.flags, merged)?;
    if !merged {
        record.window_first = record.window_id;
    } else if record.window_first >= record.window_id {
        let key = key::WINDOW_FIRST;
        return Err(RecordError::Range { key });
    }
    record.reading = (seen & READING != 0).then_some(reading);
    record.total = (seen & TOTAL != 0).then_some(total);
    if version != record.version() {
        return Err(RecordError::Version { found: version });
    }
    rules::check_values(&record)?;
    Ok(record)
}

fn read_version(reader: &mut Reader<'_>) -> Result<u64, RecordError> {
    match reader.unsigned()? {
        known @ (VERSION | VERSION_WITH_EVIDENCE) => Ok(known),
        found => Err(RecordError::Version { found }),
    }
}

/// The next pair's key, which is above all those that were `seen`.
fn next_key(reader: &mut Reader<'_>, seen: Keys) -> Result<u64, RecordError> {
    let key = reader.unsigned()?;
    reader.key = key;
    if key > key::LAST || key::is_free(key) {
        Err(RecordError::UnknownKey { key })
    } else if seen & bit(key) != 0 {
        Err(RecordError::Duplicate { key })
    } else if seen > bit(key) {
        Err(RecordError::Order { key })
    } else {
        Ok(key)
    }
}

fn read_head(reader: &mut Reader<'_>, record: &mut Record) -> Result<(), RecordError> {
    match reader.key {
        key::KIND => {
            let found = reader.unsigned()?;
            record.kind = Kind::from_number(found).ok_or(RecordError::Kind { found })?;
        }
        key::LEDGER_ID => record.ledger_id = reader.bytes()?,
        key::SEQ => record.seq = reader.unsigned()?,
        key::STREAM_SEQ => record.stream_seq = reader.unsigned()?,
        key::TENANT_SEQ => record.tenant_seq = reader.unsigned()?,
        key::SALT => record.salt = reader.bytes()?,
        key::HOST => record.host = reader.text(1, HOST_BYTES_MAX)?,
        key::FLAGS => record.flags = Flags(reader.unsigned()?),
        key::BOOT_ID => record.boot_id = reader.bytes()?,
        _ => record.map_generation = reader.bytes()?,
    }
    Ok(())
}

fn read_subject(reader: &mut Reader<'_>, record: &mut Record) -> Result<(), RecordError> {
    match reader.key {
        key::PORT_UID => record.port_uid = reader.text(0, PORT_BYTES_MAX)?,
        key::INCARNATION => record.incarnation = reader.unsigned()?,
        key::TENANT => record.tenant = reader.unsigned()?,
        key::DIRECTION => {
            record.direction = reader.unsigned()?;
            if record.direction > 1 {
                return Err(reader.range());
            }
        }
        key::ZONE => record.zone = Some(reader.unsigned()?),
        key::WINDOW_ID => record.window_id = reader.unsigned()?,
        key::WINDOW_FIRST => record.window_first = reader.unsigned()?,
        key::WINDOW_START => record.window_start = reader.signed()?,
        _ => record.window_end = reader.signed()?,
    }
    Ok(())
}

fn read_reading(reader: &mut Reader<'_>, reading: &mut Reading) -> Result<(), RecordError> {
    match reader.key {
        key::CUT_START => reading.cut_start_ns = reader.unsigned()?,
        key::CUT_END => reading.cut_end_ns = reader.unsigned()?,
        key::ELAPSED => reading.elapsed_ns = reader.unsigned()?,
        key::UTC_OFFSET => reading.utc_offset_ns = reader.signed()?,
        key::STEP => reading.step_ns = reader.signed()?,
        key::REVISION_FIRST => reading.revision_first = reader.unsigned()?,
        key::REVISION_LAST => reading.revision_last = reader.unsigned()?,
        key::REGISTER_START => reading.register_start = read_counts(reader)?,
        key::REGISTER_END => reading.register_end = read_counts(reader)?,
        _ => reading.program_tag = Some(reader.bytes()?),
    }
    Ok(())
}

fn read_total(reader: &mut Reader<'_>, total: &mut Total) -> Result<(), RecordError> {
    match reader.key {
        key::SKBS_START => total.skbs_start = read_skbs(reader)?,
        key::SKBS_END => total.skbs_end = read_skbs(reader)?,
        key::DROPS => total.drops = read_drops(reader)?,
        key::UNATTRIBUTED => total.unattributed = read_counts(reader)?,
        key::CLOCK => {
            reader.tuple(4)?;
            total.clock = Clock {
                state: reader.signed()?,
                est_error_us: reader.unsigned()?,
                max_error_us: reader.unsigned()?,
                synchronised: match reader.unsigned()? {
                    0_u8 => false,
                    1 => true,
                    _ => return Err(reader.range()),
                },
            };
        }
        key::EVIDENCE => total.evidence = read_evidence(reader)?,
        _ => total.post_meter_drops = Some(reader.unsigned()?),
    }
    Ok(())
}

fn read_drops(reader: &mut Reader<'_>) -> Result<Vec<Dropped>, RecordError> {
    let key = reader.key;
    let mut drops: Vec<Dropped> = Vec::new();
    // Reason 0 is none, so that there is one less than there are columns.
    for _ in 0..reader.array(RECORDED_MAX as u64 - 1)? {
        let [reason, packets, l2_bytes] = reader.row()?;
        let last = drops.last().map_or(0, |last| last.reason.into());
        if reason == 0 || reason >= RECORDED_MAX as u64 || packets == 0 {
            return Err(reader.range());
        } else if reason == last {
            return Err(RecordError::Duplicate { key });
        } else if reason < last {
            return Err(RecordError::Order { key });
        }
        drops.push(Dropped {
            reason: reason as u8,
            packets,
            l2_bytes,
        });
    }
    Ok(drops)
}

/// 0, or at least one row.
fn read_evidence(reader: &mut Reader<'_>) -> Result<Vec<Classified>, RecordError> {
    let key = reader.key;
    let mut evidence: Vec<Classified> = Vec::new();
    if !reader.is_array() {
        return match reader.unsigned()? {
            0_u64 => Ok(evidence),
            _ => Err(reader.range()),
        };
    }
    let rows = reader.array(CLASSES.into())?;
    if rows == 0 {
        return Err(reader.range());
    }
    for _ in 0..rows {
        let [class, packets, l2_bytes] = reader.row()?;
        let last = evidence.last().map(|last| u64::from(last.class));
        if class >= CLASSES.into() || packets == 0 {
            return Err(reader.range());
        } else if last == Some(class) {
            return Err(RecordError::Duplicate { key });
        } else if last.is_some_and(|last| last > class) {
            return Err(RecordError::Order { key });
        }
        evidence.push(Classified {
            class: class as u8,
            packets,
            l2_bytes,
        });
    }
    Ok(evidence)
}

fn read_remarks(reader: &mut Reader<'_>, record: &mut Record) -> Result<(), RecordError> {
    match reader.key {
        key::BYTES_MIN => record.bytes_min = Some(reader.unsigned()?),
        key::BYTES_MAX => record.bytes_max = Some(reader.unsigned()?),
        key::CAUSE => record.cause = Some(reader.text(1, TEXT_BYTES_MAX)?),
        key::CORRECTION => {
            reader.tuple(6)?;
            record.correction = Some(Correction {
                ledger_id: reader.bytes()?,
                corrects: reader.unsigned()?,
                packets: reader.signed()?,
                l2_bytes: reader.signed()?,
                l3_bytes: reader.signed()?,
                reason: reader.text(1, TEXT_BYTES_MAX)?,
            });
        }
        key::ROTATION => {
            reader.tuple(3)?;
            record.rotation = Some(Rotation {
                public: reader.bytes()?,
                by_old: reader.bytes()?,
                by_new: reader.bytes()?,
            });
        }
        key::ERASED => record.erased = read_erased(reader)?,
        key::ERASED_FLOWS => {
            reader.tuple(3)?;
            let erased = ErasedFlows {
                tenant: reader.unsigned()?,
                records: reader.unsigned()?,
                rows: reader.unsigned()?,
            };
            if erased.records == 0 || erased.rows < erased.records {
                return Err(reader.range());
            }
            record.erased_flows = Some(erased);
        }
        key::STATEMENT => {
            reader.tuple(8)?;
            record.statement = Some(Statement {
                number: reader.unsigned()?,
                version: reader.unsigned()?,
                issued: reader.signed()?,
                size: reader.unsigned()?,
                packets: reader.signed()?,
                l2_bytes: reader.signed()?,
                l3_bytes: reader.signed()?,
                digest: reader.bytes()?,
            });
        }
        key::SUPERSEDES => {
            reader.tuple(2)?;
            record.supersedes = Some(Supersedes {
                ledger_id: reader.bytes()?,
                last_seq: reader.unsigned()?,
            });
        }
        _ => {
            reader.tuple(2)?;
            let flows = Flows {
                rows: reader.unsigned()?,
                root: reader.bytes()?,
            };
            if flows.rows == 0 {
                return Err(reader.range());
            }
            record.flows = Some(flows);
        }
    }
    Ok(())
}

fn read_erased(reader: &mut Reader<'_>) -> Result<Vec<[u64; 2]>, RecordError> {
    let key = reader.key;
    let mut ranges: Vec<[u64; 2]> = Vec::new();
    for _ in 0..reader.array(ERASED_MAX)? {
        let range: [u64; 2] = reader.row()?;
        if range[0] > range[1] {
            return Err(RecordError::Backwards { key });
        }
        // BEGIN is never erased, and neighbours are one range.
        let least = ranges.last().map_or(1, |last| last[1].saturating_add(2));
        if range[0] < least {
            return Err(RecordError::Order { key });
        }
        ranges.push(range);
    }
    if ranges.is_empty() {
        return Err(reader.range());
    }
    Ok(ranges)
}

fn read_counts(reader: &mut Reader<'_>) -> Result<Counts, RecordError> {
    let [packets, l2_bytes, l3_bytes] = reader.row()?;
    Ok(Counts {
        packets,
        l2_bytes,
        l3_bytes,
    })
}

fn read_skbs(reader: &mut Reader<'_>) -> Result<Skbs, RecordError> {
    let [delivered, delivered_len, dropped, dropped_len] = reader.row()?;
    Ok(Skbs {
        delivered,
        delivered_len,
        dropped,
        dropped_len,
    })
}
