//! `octroi explain`: from a number to every record behind it.

use crate::{
    period::Step,
    usage::{Ledgers, Wanted, class_name, reason_name, time},
};
use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use metering::{
    record::Record,
    usage::{self, By, Explained, Part, Sum},
};
use serde_json::{Value, json};
use std::io::{self, Write as _};

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// A JSON object in each line; numbers of 64 bits are strings.
    Json,
}

/// `octroi explain`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    ledgers: Ledgers,
    /// Number of the tenant or, with --config, its name.
    #[arg(long)]
    tenant: String,
    #[command(flatten)]
    wanted: Wanted,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// `octroi explain`.
///
/// # Errors
/// When a ledger cannot be read, or what it says does not add up.
pub fn show(options: &Options) -> Result<()> {
    let mut opened = options.ledgers.open()?;
    opened.only(opened.tenant(&options.tenant)?)?;
    let tenant = Some(options.tenant.as_str());
    let by = By::default();
    let query = options.wanted.query(&opened, tenant, Step::Whole, by)?;
    let found = usage::explain(&opened.sources, &query)?;
    let mut billed = Sum::default();
    for one in found.iter().filter(|one| one.part == Part::Billed) {
        billed = billed.plus(one.sum)?;
    }
    // The same number on its other way: what a statement or `octroi usage` says.
    let report = usage::read(&opened.sources, &query, &opened.hosts, |_| ())?;
    let mut told = Sum::default();
    for row in &report.rows {
        told = told.plus(row.kept.sum)?;
    }
    let (from, to) = query.period();
    let summary = json!({
        "what": "sum", "tenant": query.tenant, "port": query.port,
        "direction": query.direction.map(way), "zone": query.zone, "from": time(from), "to": time(to),
        "records": found.len().to_string(), "packets": billed.packets().to_string(),
        "l2_bytes": billed.l2_bytes().to_string(), "l3_bytes": billed.l3_bytes().to_string(),
        "usage_l2_bytes": told.l2_bytes().to_string(), "equal": billed == told,
        "settled": report.settled,
    });
    let written = match options.format {
        Format::Json => json_lines(&found, &summary),
        Format::Table => table(&found, &summary),
    };
    match written {
        // `octroi explain | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.context("standard output")?,
    }
    anyhow::ensure!(
        billed == told,
        "these records bill {} bytes, and usage says {}; please report this",
        billed.l2_bytes(),
        told.l2_bytes()
    );
    Ok(())
}

fn way(direction: u8) -> &'static str {
    if direction == 0 { "from" } else { "to" }
}

fn part(part: Part) -> &'static str {
    match part {
        Part::Billed => "billed",
        Part::Total => "total",
        Part::Unknown => "unknown",
        Part::Elsewhere => "elsewhere",
    }
}

/// Everything that a record says of a number, without what every record has.
fn object(one: &Explained) -> Value {
    let record = &one.record;
    let mut object = json!({
        "what": part(one.part), "ledger": one.ledger, "seq": record.seq.to_string(),
        "kind": record.kind.name(), "host": record.host, "port": record.port_uid,
        "incarnation": record.incarnation.to_string(), "tenant": record.tenant,
        "tenant_seq": record.tenant_seq.to_string(), "direction": way(record.direction),
        "zone": record.zone.map_or_else(|| "*".into(), |zone| zone.to_string()),
        "window_id": record.window_id.to_string(), "window_start": time(record.window_start),
        "window_end": time(record.window_end), "flags": record.flags.to_string(),
        "billed_from": time(one.billed.start), "billed_to": time(one.billed.end),
        "packets": one.sum.packets().to_string(), "l2_bytes": one.sum.l2_bytes().to_string(),
        "l3_bytes": one.sum.l3_bytes().to_string(),
    });
    for (name, value) in remarks(record) {
        object[name] = value;
    }
    object
}

/// What only some records have.
fn remarks(record: &Record) -> Vec<(&'static str, Value)> {
    let mut remarks = Vec::new();
    if let Some(reading) = &record.reading {
        let tag = reading
            .program_tag
            .map(|tag| format!("{:016x}", u64::from_be_bytes(tag)));
        remarks.push(("revision_first", reading.revision_first.into()));
        remarks.push(("revision_last", reading.revision_last.into()));
        remarks.push(("elapsed_ns", reading.elapsed_ns.to_string().into()));
        remarks.push(("step_ns", reading.step_ns.to_string().into()));
        remarks.push(("program_tag", tag.into()));
    }
    if let Some(total) = &record.total {
        let drops = total.drops.iter().map(|dropped| {
            json!({
                "reason": reason_name(dropped.reason), "packets": dropped.packets.to_string(),
                "l2_bytes": dropped.l2_bytes.to_string(),
            })
        });
        remarks.push(("drops", drops.collect::<Vec<_>>().into()));
        let classes = total.evidence.iter().map(|one| {
            json!({
                "class": class_name(one.class), "packets": one.packets.to_string(),
                "l2_bytes": one.l2_bytes.to_string(),
            })
        });
        let classes: Vec<Value> = classes.collect();
        let evidence = match classes.is_empty() {
            true => "NOT_CLASSIFIED".into(),
            false => classes.into(),
        };
        remarks.push(("evidence", evidence));
        remarks.push(("clock_synchronised", total.clock.synchronised.into()));
        let lost = total.post_meter_drops.map(|lost| lost.to_string());
        remarks.push(("post_meter_drops", lost.into()));
    }
    for (name, bytes) in [
        ("bytes_min", record.bytes_min),
        ("bytes_max", record.bytes_max),
    ] {
        if let Some(bytes) = bytes {
            remarks.push((name, bytes.to_string().into()));
        }
    }
    if let Some(cause) = &record.cause {
        remarks.push(("cause", cause.clone().into()));
    }
    if let Some(correction) = &record.correction {
        remarks.push(("corrects", correction.corrects.to_string().into()));
        remarks.push(("reason", correction.reason.clone().into()));
    }
    remarks
}

fn json_lines(found: &[Explained], summary: &Value) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for one in found {
        writeln!(out, "{}", object(one))?;
    }
    writeln!(out, "{summary}")?;
    out.flush()
}

fn table(found: &[Explained], summary: &Value) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    writeln!(
        out,
        "{:>8} {:<10} {:<10} {:<16} {:<4} {:>4} {:<20} {:<20} {:>16} remarks",
        "seq", "kind", "part", "port", "way", "zone", "window from", "to", "l2 bytes"
    )?;
    for one in found {
        let record = &one.record;
        let zone = record
            .zone
            .map_or_else(|| "*".into(), |zone| zone.to_string());
        let mut remarks = vec![record.flags.to_string()];
        if let Some(reading) = &record.reading {
            remarks.push(format!("revision {}", reading.revision_last));
        }
        for dropped in record.total.iter().flat_map(|total| &total.drops) {
            let reason = reason_name(dropped.reason);
            remarks.push(format!("dropped {} bytes: {reason}", dropped.l2_bytes));
        }
        for one in record.total.iter().flat_map(|total| &total.evidence) {
            remarks.push(format!("{} bytes {}", one.l2_bytes, class_name(one.class)));
        }
        remarks.extend(record.cause.clone());
        if let Some(correction) = &record.correction {
            remarks.push(format!(
                "corrects {}: {}",
                correction.corrects, correction.reason
            ));
        }
        remarks.retain(|remark| !remark.is_empty());
        writeln!(
            out,
            "{:>8} {:<10} {:<10} {:<16} {:<4} {:>4} {:<20} {:<20} {:>16} {}",
            record.seq,
            record.kind.name(),
            part(one.part),
            record.port_uid,
            way(record.direction),
            zone,
            time(record.window_start),
            time(record.window_end),
            one.sum.l2_bytes(),
            remarks.join("; ")
        )?;
    }
    let text = |name: &str| summary[name].as_str().unwrap_or_default().to_owned();
    let equal = if summary["equal"] == true {
        "as"
    } else {
        "and not as"
    };
    writeln!(
        out,
        "\n{} records from {} to {} bill {} packets, {} layer-2 bytes, {} IP bytes, {equal} `octroi usage` says",
        text("records"),
        text("from"),
        text("to"),
        text("packets"),
        text("l2_bytes"),
        text("l3_bytes")
    )?;
    out.flush()
}
