//! A record's fields as the vectors have them: by the names of the page, integers as decimal strings,
//! byte strings as hex, and nothing for a field that is absent.

use dataplane_common::abi::Skbs;
use metering::{
    record::{Reading, Record, Total},
    window::Counts,
};
use serde_json::{Map, Value, json};

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(value: impl ToString) -> Value {
    value.to_string().into()
}

fn counts(counts: Counts) -> Value {
    [counts.packets, counts.l2_bytes, counts.l3_bytes]
        .map(number)
        .to_vec()
        .into()
}

fn skbs(skbs: Skbs) -> Value {
    let all = [
        skbs.delivered,
        skbs.delivered_len,
        skbs.dropped,
        skbs.dropped_len,
    ];
    all.map(number).to_vec().into()
}

/// Fields that are written.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn may<T>(&mut self, name: &str, value: Option<T>, show: impl Fn(T) -> Value) {
        if let Some(value) = value {
            self.set(name, show(value));
        }
    }
}

/// All fields of a record.
pub fn of(record: &Record) -> Value {
    let mut fields = Fields::default();
    fields.set("version", number(record.version()));
    fields.set("kind", number(record.kind as u8));
    fields.set("ledger_id", hex(&record.ledger_id));
    fields.set("seq", number(record.seq));
    fields.set("stream_seq", number(record.stream_seq));
    fields.set("tenant_seq", number(record.tenant_seq));
    fields.set("salt", hex(&record.salt));
    fields.set("host", record.host.clone());
    fields.set("flags", number(record.flags.0));
    fields.set("boot_id", hex(&record.boot_id));
    fields.set("map_generation", hex(&record.map_generation));
    if record.kind == metering::record::Kind::Statement {
        fields.set("tenant", number(record.tenant));
    } else if !record.kind.is_of_the_ledger() {
        fields.set("port_uid", record.port_uid.clone());
        fields.set("incarnation", number(record.incarnation));
        fields.set("tenant", number(record.tenant));
        fields.set("direction", number(record.direction));
        fields.set("window_id", number(record.window_id));
    }
    fields.may("zone", record.zone, number);
    let first = (record.window_first != record.window_id).then_some(record.window_first);
    fields.may("window_first", first, number);
    fields.set("window_start", number(record.window_start));
    fields.set("window_end", number(record.window_end));
    if let Some(reading) = &record.reading {
        of_reading(&mut fields, reading);
    }
    if let Some(total) = &record.total {
        of_total(&mut fields, total);
    }
    fields.may("bytes_min", record.bytes_min, number);
    fields.may("bytes_max", record.bytes_max, number);
    fields.may("cause", record.cause.clone(), Value::from);
    fields.may("correction", record.correction.as_ref(), |correction| {
        json!([
            hex(&correction.ledger_id),
            number(correction.corrects),
            number(correction.packets),
            number(correction.l2_bytes),
            number(correction.l3_bytes),
            correction.reason,
        ])
    });
    fields.may("statement", record.statement, |told| {
        json!([
            number(told.number),
            number(told.version),
            number(told.issued),
            number(told.size),
            number(told.packets),
            number(told.l2_bytes),
            number(told.l3_bytes),
            hex(&told.digest),
        ])
    });
    fields.may("supersedes", record.supersedes, |old| {
        json!([hex(&old.ledger_id), number(old.last_seq)])
    });
    fields.may("flows", record.flows, |flows| {
        json!([number(flows.rows), hex(&flows.root)])
    });
    fields.may("rotation", record.rotation, |keys| {
        json!([hex(&keys.public), hex(&keys.by_old), hex(&keys.by_new)])
    });
    let ranges = record.erased.iter();
    let ranges = ranges.map(|[first, last]| json!([number(*first), number(*last)]));
    let erased = (!record.erased.is_empty()).then(|| ranges.collect::<Vec<_>>());
    fields.may("erased", erased, Value::from);
    fields.may("erased_flows", record.erased_flows, |erased| {
        json!([
            number(erased.tenant),
            number(erased.records),
            number(erased.rows)
        ])
    });
    fields.0.into()
}

fn of_reading(fields: &mut Fields, reading: &Reading) {
    fields.set("cut_start_ns", number(reading.cut_start_ns));
    fields.set("cut_end_ns", number(reading.cut_end_ns));
    fields.set("elapsed_ns", number(reading.elapsed_ns));
    fields.set("utc_offset_ns", number(reading.utc_offset_ns));
    fields.set("step_ns", number(reading.step_ns));
    fields.set("revision_first", number(reading.revision_first));
    fields.set("revision_last", number(reading.revision_last));
    fields.set("register_start", counts(reading.register_start));
    fields.set("register_end", counts(reading.register_end));
    fields.may("program_tag", reading.program_tag, |tag| hex(&tag).into());
}

fn of_total(fields: &mut Fields, total: &Total) {
    fields.set("skbs_start", skbs(total.skbs_start));
    fields.set("skbs_end", skbs(total.skbs_end));
    let drops = total.drops.iter().map(|drops| {
        json!([
            number(drops.reason),
            number(drops.packets),
            number(drops.l2_bytes)
        ])
    });
    fields.set("drops", drops.collect::<Vec<_>>());
    fields.set("unattributed", counts(total.unattributed));
    let clock = json!([
        number(total.clock.state),
        number(total.clock.est_error_us),
        number(total.clock.max_error_us),
        number(u8::from(total.clock.synchronised)),
    ]);
    fields.set("clock", clock);
    let evidence = total
        .evidence
        .iter()
        .map(|one| json!([number(one.class), number(one.packets), number(one.l2_bytes)]));
    let evidence: Vec<_> = evidence.collect();
    match evidence.is_empty() {
        true => fields.set("evidence", number(0)),
        false => fields.set("evidence", evidence),
    }
    fields.may("post_meter_drops", total.post_meter_drops, number);
}
