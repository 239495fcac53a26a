//! Usage as a table, as lines of JSON, as CSV.

use super::{Format, Opened, peaks::Peak, time};
use anyhow::{Context as _, Result};
use dataplane_common::{encryption::Class, reason::DropReason};
use metering::usage::{Percentile, Query, Report, Row, bits_per_second};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, Write as _};

/// What is shown.
pub struct Shown<'a> {
    pub opened: &'a Opened,
    pub query: &'a Query,
    pub report: &'a Report,
    pub peaks: Vec<Peak>,
}

/// A row. Numbers of bytes and packets are strings: they do not fit a double.
#[derive(Debug, Serialize)]
struct Line {
    from: String,
    to: String,
    state: &'static str,
    tenant: u32,
    tenant_name: String,
    charge_class: String,
    host: String,
    port: String,
    direction: &'static str,
    zone: String,
    zone_name: String,
    packets: String,
    l2_bytes: String,
    l3_bytes: String,
    late_l2_bytes: String,
    corrected_l2_bytes: String,
    spread_l2_bytes: String,
}

/// Percentiles; bytes are those of a slot of five minutes.
#[derive(Debug, Serialize)]
struct Line95 {
    tenant: u32,
    tenant_name: String,
    port: String,
    zone: String,
    from: String,
    to: String,
    slots: String,
    left_out_from: String,
    left_out_to: String,
    left_out_either: String,
    p95_from_bytes: String,
    p95_to_bytes: String,
    max_of_p95_bytes: String,
    p95_of_max_bytes: String,
    p95_from_bits_per_second: String,
    p95_to_bits_per_second: String,
    max_of_p95_bits_per_second: String,
    p95_of_max_bits_per_second: String,
}

fn way(direction: Option<u8>) -> &'static str {
    match direction {
        None => "*",
        Some(0) => "from",
        Some(_) => "to",
    }
}

impl Shown<'_> {
    fn name(&self, tenant: u32) -> String {
        self.opened.tenant_name(tenant).unwrap_or_default().into()
    }

    fn line(&self, row: &Row) -> Result<Line> {
        let group = &row.group;
        let or_all = |name: &Option<String>| name.clone().unwrap_or_else(|| "*".into());
        let zone = group.zone.or(self.query.zone.map(Some));
        let classes = self.opened.charge_classes(group.tenant, row.from, row.to)?;
        let kept = &row.kept;
        Ok(Line {
            from: time(row.from),
            to: time(row.to),
            state: if row.settled { "settled" } else { "open" },
            tenant: group.tenant,
            tenant_name: self.name(group.tenant),
            charge_class: classes.join("+"),
            host: or_all(&group.host),
            port: or_all(&group.port.clone().or_else(|| self.query.port.clone())),
            direction: way(group.direction.or(self.query.direction)),
            zone: match zone {
                None => "*".into(),
                Some(None) => "-".into(),
                Some(Some(zone)) => zone.to_string(),
            },
            zone_name: zone
                .flatten()
                .and_then(|zone| self.opened.zone_name(zone))
                .unwrap_or_default()
                .into(),
            packets: kept.sum.packets().to_string(),
            l2_bytes: kept.sum.l2_bytes().to_string(),
            l3_bytes: kept.sum.l3_bytes().to_string(),
            late_l2_bytes: kept.late.to_string(),
            corrected_l2_bytes: kept.corrected.to_string(),
            spread_l2_bytes: kept.spread.to_string(),
        })
    }

    fn line95(&self, found: &Percentile) -> Line95 {
        let p95 = &found.p95;
        let bytes = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
        let bits = |value: Option<u64>| bytes(value.map(bits_per_second));
        let [from, to] = p95.by_direction;
        let zone = found.zone.map(|zone| zone.to_string());
        Line95 {
            tenant: found.tenant,
            tenant_name: self.name(found.tenant),
            port: found.port.clone().unwrap_or_else(|| "*".into()),
            zone: zone.unwrap_or_else(|| "*".into()),
            from: time(self.query.period().0),
            to: time(self.report.slots_until),
            slots: p95.slots.to_string(),
            left_out_from: p95.left_out[0].to_string(),
            left_out_to: p95.left_out[1].to_string(),
            left_out_either: p95.left_out[2].to_string(),
            p95_from_bytes: bytes(from),
            p95_to_bytes: bytes(to),
            max_of_p95_bytes: bytes(p95.max_of_both),
            p95_of_max_bytes: bytes(p95.of_max),
            p95_from_bits_per_second: bits(from),
            p95_to_bits_per_second: bits(to),
            max_of_p95_bits_per_second: bits(p95.max_of_both),
            p95_of_max_bits_per_second: bits(p95.of_max),
        }
    }

    /// All of it, each with what it is.
    pub fn objects(&self) -> Result<Vec<Value>> {
        let rows = self.report.rows.iter().map(|row| self.line(row));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let percentiles = self.report.percentiles.iter();
        let percentiles: Vec<Line95> = percentiles.map(|found| self.line95(found)).collect();
        Ok(self.all(&rows, &percentiles)?)
    }

    fn all(&self, rows: &[Line], percentiles: &[Line95]) -> serde_json::Result<Vec<Value>> {
        let lines = rows.iter().map(|row| ("usage", serde_json::to_value(row)));
        let p95 = percentiles
            .iter()
            .map(|row| ("p95", serde_json::to_value(row)));
        let mut all = Vec::new();
        for (what, line) in lines.chain(p95) {
            let mut line = line?;
            line["what"] = what.into();
            all.push(line);
        }
        all.extend(self.remarks());
        Ok(all)
    }

    /// Writes it to standard output.
    pub fn write(&self, format: Format) -> Result<()> {
        let rows = self.report.rows.iter().map(|row| self.line(row));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let percentiles = self.report.percentiles.iter();
        let percentiles: Vec<Line95> = percentiles.map(|found| self.line95(found)).collect();
        let mut out = io::BufWriter::new(io::stdout().lock());
        let written = match format {
            Format::Json => self.json(&mut out, &rows, &percentiles),
            Format::Csv if self.query.percentile => csv(&mut out, &percentiles),
            Format::Csv => csv(&mut out, &rows),
            Format::Table => self.table(&mut out, &rows, &percentiles),
        };
        match written.and_then(|()| out.flush()) {
            // `octroi usage | head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("standard output"),
        }
    }

    /// What is beside the rows, one object each.
    fn remarks(&self) -> Vec<Value> {
        let report = self.report;
        let mut remarks = Vec::new();
        for ((tenant, direction, reason), drops) in &report.drops {
            remarks.push(json!({
                "what": "drops", "tenant": tenant, "direction": way(Some(*direction)),
                "reason": reason_name(*reason), "packets": drops.packets.to_string(),
                "l2_bytes": drops.l2_bytes.to_string(),
            }));
        }
        for ((tenant, direction, class), counts) in &report.evidence {
            remarks.push(json!({
                "what": "evidence", "tenant": tenant, "direction": way(Some(*direction)),
                "class": class_name(*class), "packets": counts.packets.to_string(),
                "l2_bytes": counts.l2_bytes.to_string(),
            }));
        }
        for peak in &self.peaks {
            remarks.push(json!({
                "what": "peak", "for_information_only": true, "host": peak.host,
                "tenant": peak.tenant, "port": peak.port, "direction": way(Some(peak.direction)),
                "windows": peak.windows.to_string(), "p50_bits_per_second": peak.p50.to_string(),
                "p99_bits_per_second": peak.p99.to_string(),
                "max_bits_per_second": peak.max.to_string(),
            }));
        }
        for spread in &report.spread {
            remarks.push(json!({
                "what": "spread", "ledger": spread.ledger, "seq": spread.seq.to_string(),
                "tenant": spread.tenant, "port": spread.port,
                "direction": way(Some(spread.direction)), "from": time(spread.from),
                "to": time(spread.to), "l2_bytes": spread.l2_bytes.to_string(),
            }));
        }
        for late in &report.late {
            remarks.push(json!({
                "what": if late.reason.is_some() { "correction" } else { "late" },
                "ledger": late.ledger, "seq": late.seq.to_string(), "tenant": late.tenant,
                "port": late.port, "direction": way(Some(late.direction)),
                "zone": late.zone.map_or_else(|| "-".into(), |zone| zone.to_string()),
                "packets": late.sum.packets().to_string(),
                "l2_bytes": late.sum.l2_bytes().to_string(),
                "l3_bytes": late.sum.l3_bytes().to_string(), "reason": late.reason,
            }));
        }
        for seq in &report.in_no_slot {
            remarks.push(json!({ "what": "in_no_slot", "seq": seq.to_string() }));
        }
        for missing in &report.missing {
            remarks.push(json!({
                "what": "missing", "host": missing.host, "port": missing.port,
                "direction": missing.direction.map(|direction| way(Some(direction))),
                "from": time(missing.from), "to": time(missing.to), "why": missing.why,
            }));
        }
        remarks
    }

    fn json(
        &self,
        out: &mut impl io::Write,
        rows: &[Line],
        percentiles: &[Line95],
    ) -> io::Result<()> {
        for object in self.all(rows, percentiles)? {
            writeln!(out, "{object}")?;
        }
        Ok(())
    }

    fn table(
        &self,
        out: &mut impl io::Write,
        rows: &[Line],
        percentiles: &[Line95],
    ) -> io::Result<()> {
        let (from, to) = self.query.period();
        let zone = &self.opened.zone_name;
        writeln!(
            out,
            "usage from {} to {} (days of {zone})",
            time(from),
            time(to)
        )?;
        writeln!(
            out,
            "{:<20} {:<20} {:>6} {:<12} {:<16} {:<4} {:>4} {:>12} {:>16} {:>16} state",
            "from",
            "to",
            "tenant",
            "host",
            "port",
            "way",
            "zone",
            "packets",
            "l2 bytes",
            "l3 bytes"
        )?;
        for row in rows {
            writeln!(
                out,
                "{:<20} {:<20} {:>6} {:<12} {:<16} {:<4} {:>4} {:>12} {:>16} {:>16} {}",
                row.from,
                row.to,
                row.tenant,
                row.host,
                row.port,
                row.direction,
                row.zone,
                row.packets,
                row.l2_bytes,
                row.l3_bytes,
                row.state
            )?;
        }
        for row in percentiles {
            writeln!(
                out,
                "\n95th percentile of tenant {}, port {}, zone {}: {} slots to {}, left out {} from, {} to",
                row.tenant,
                row.port,
                row.zone,
                row.slots,
                row.to,
                row.left_out_from,
                row.left_out_to
            )?;
            for (name, bytes, bits) in [
                (
                    "from the tenant",
                    &row.p95_from_bytes,
                    &row.p95_from_bits_per_second,
                ),
                (
                    "to the tenant",
                    &row.p95_to_bytes,
                    &row.p95_to_bits_per_second,
                ),
                (
                    "max(p95 from, p95 to)",
                    &row.max_of_p95_bytes,
                    &row.max_of_p95_bits_per_second,
                ),
                (
                    "p95(max(from, to))",
                    &row.p95_of_max_bytes,
                    &row.p95_of_max_bits_per_second,
                ),
            ] {
                writeln!(
                    out,
                    "  {name:<22} {bytes:>20} bytes in 5 min {bits:>20} bit/s"
                )?;
            }
        }
        let remarks = self.remarks();
        if !remarks.is_empty() {
            writeln!(out)?;
        }
        for remark in remarks {
            writeln!(out, "{}", remark_text(&remark))?;
        }
        Ok(())
    }
}

/// A remark in a line: its values, as they are named.
fn remark_text(remark: &Value) -> String {
    let fields = remark.as_object().into_iter().flatten();
    let fields = fields.filter(|(name, value)| *name != "what" && !value.is_null());
    let fields = fields.map(|(name, value)| match value.as_str() {
        Some(text) => format!("{name} {text}"),
        None => format!("{name} {value}"),
    });
    let what = remark["what"].as_str().unwrap_or_default();
    format!("{what}: {}", fields.collect::<Vec<_>>().join(", "))
}

/// A drop's reason, by name.
pub fn reason_name(number: u8) -> String {
    let mut reasons = DropReason::ALL.iter();
    let found = reasons.find(|reason| **reason as u32 == u32::from(number));
    found.map_or_else(|| number.to_string(), |reason| reason.name().to_owned())
}

/// A class of evidence, by name.
pub fn class_name(number: u8) -> String {
    let found = Class::ALL.get(usize::from(number));
    found.map_or_else(|| number.to_string(), |class| class.name().to_owned())
}

fn csv<T: Serialize>(out: &mut impl io::Write, lines: &[T]) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    for line in lines {
        csv.serialize(line).map_err(io::Error::other)?;
    }
    csv.flush()
}
