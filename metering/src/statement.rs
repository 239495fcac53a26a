//! A tenant's month on one page, as JSON and as CSV: `docs/METERING.md`, M-17.
//!
//! Invariants (tests below)
//! - Every number is a sum of rows of one usage report: zones, days, ports and the total agree to the byte.
//! - The same statement is the same bytes of JSON; their hash is what the ledger keeps.
//! - The page asks for nothing from anywhere, and has no text of a configuration that is not escaped.
//!
//! What it is not: it has no prices, no clock and no calendar (dates and names are given), and writes nothing.

mod chart;
mod csv;
mod evidence;
mod html;
mod number;
mod words;

pub(crate) use csv::field as csv_field;
pub use csv::to_csv;
pub use evidence::{Classified, Evidence, NOT_CLASSIFIED};
pub use html::to_html;

use crate::usage::{P95, Report, Row, Sum, UsageError, bits_per_second};
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// What [`Statement::format`] says.
pub const FORMAT: &str = "octroi statement 1";
/// What it says where there is evidence of encryption: the rest is as in [`FORMAT`].
pub const FORMAT_WITH_EVIDENCE: &str = "octroi statement 2";

/// A language of the page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// French.
    Fr,
}

/// An integer that is written as its digits: 2^53 is not enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digits(pub i128);

impl Serialize for Digits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl From<u64> for Digits {
    fn from(value: u64) -> Self {
        Self(value.into())
    }
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Frames.
    pub packets: Digits,
    /// Layer-2 bytes: what is billed.
    pub l2_bytes: Digits,
    /// IP bytes.
    pub l3_bytes: Digits,
}

impl From<Sum> for Amount {
    fn from(sum: Sum) -> Self {
        Self {
            packets: Digits(sum.packets()),
            l2_bytes: Digits(sum.l2_bytes()),
            l3_bytes: Digits(sum.l3_bytes()),
        }
    }
}

/// A statement that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// Its number in the ledger, from 1. A new version has the number of the one before.
    pub number: u64,
    /// From 1.
    pub version: u64,
    /// When, UTC.
    pub issued: String,
}

/// Whose month it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// Tenant's number.
    pub tenant: u32,
    /// Tenant's name; empty where it is not known.
    pub tenant_name: String,
    /// As 2026-11.
    pub month: String,
    /// Name of the time zone that its days are of.
    pub timezone: String,
    /// When it begins, UTC.
    pub from: String,
    /// When it ends, UTC.
    pub to: String,
}

/// Bytes of one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// `from` or `to` the tenant.
    pub direction: &'static str,
    /// Name of the port, date of the day, class; the zone's number, or `-`.
    pub of: String,
    /// The zone's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Sums.
    #[serde(flatten)]
    pub amount: Amount,
}

/// One day of one port, direction and zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Index of the day.
    pub day: usize,
    /// Name of the port.
    pub port: String,
    /// `from` or `to` the tenant.
    pub direction: &'static str,
    /// The zone's number, or `-`.
    pub zone: String,
    /// Sums.
    #[serde(flatten)]
    pub amount: Amount,
}

/// A day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Day {
    /// As 2026-11-24.
    pub date: String,
    /// When it begins, UTC.
    pub from: String,
    /// When it ends, UTC.
    pub to: String,
    /// Its hours: 23, 24 or 25, and less of a period that is cut off.
    pub hours: u64,
    /// How the tenant is charged on it; empty where nobody says.
    pub charge_class: String,
}

/// Percentiles, in layer-2 bytes of five minutes and in bits per second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Where its slots end, UTC.
    pub until: String,
    /// Slots.
    pub slots: u64,
    /// Left out: from the tenant, to the tenant, in either.
    pub left_out: [u64; 3],
    /// p95 from, p95 to, the larger of both, p95 of the larger; `None`: no slot.
    pub bytes: [Option<Digits>; 4],
    /// The same in bits per second, rounded down.
    pub bits_per_second: [Option<Digits>; 4],
    /// Records that are billed here and are in no slot.
    pub in_no_slot: Vec<u64>,
}

/// Drops of one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drop {
    /// `from` or `to` the tenant.
    pub direction: &'static str,
    /// Name of the reason.
    pub reason: String,
    /// Frames.
    pub packets: Digits,
    /// Layer-2 bytes.
    pub l2_bytes: Digits,
}

/// A correction, a late record, or one that was spread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// Which record.
    pub seq: u64,
    /// Name of the port.
    pub port: String,
    /// `from` or `to` the tenant.
    pub direction: &'static str,
    /// Layer-2 bytes.
    pub l2_bytes: Digits,
    /// A correction's reason; empty of another record.
    pub reason: String,
}

/// What is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Name of the host.
    pub host: String,
    /// Name of the port; empty: all of the tenant's there.
    pub port: String,
    /// Since when, UTC.
    pub from: String,
    /// Until when.
    pub to: String,
    /// Why.
    pub why: String,
}

/// A ledger that the numbers are from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LedgerLine {
    /// Name of the host.
    pub host: String,
    /// Its id, in hexadecimal digits.
    pub ledger_id: String,
    /// So many records of it.
    pub records: u64,
    /// Hash of the leaf of the last of them, in hexadecimal digits.
    pub leaf: String,
    /// A signed head of that size or a later one, as it is published; `None`: there is none.
    pub head: Option<String>,
}

/// A tenant's month.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// [`FORMAT`] or [`FORMAT_WITH_EVIDENCE`].
    pub format: &'static str,
    /// `None`: it is provisional.
    pub issue: Option<Issue>,
    /// Whose.
    #[serde(flatten)]
    pub subject: Subject,
    /// Nothing of it can change any more.
    pub settled: bool,
    /// Both directions together.
    pub total: Amount,
    /// By direction.
    pub directions: Vec<Line>,
    /// By direction and zone.
    pub zones: Vec<Line>,
    /// By direction and port.
    pub ports: Vec<Line>,
    /// By direction and charge class.
    pub classes: Vec<Line>,
    /// Its days.
    pub days: Vec<Day>,
    /// Everything by day, port, direction and zone.
    pub cells: Vec<Cell>,
    /// Percentiles.
    pub percentiles: Percentiles,
    /// What was not delivered.
    pub drops: Vec<Drop>,
    /// What is known of its encryption.
    pub evidence: Evidence,
    /// Corrections and late records.
    pub corrections: Vec<Remark>,
    /// Records that cover more than one slot.
    pub spread: Vec<Remark>,
    /// What is not known.
    pub missing: Vec<Missing>,
    /// Where the numbers are from.
    pub ledgers: Vec<LedgerLine>,
}

/// What a statement is made of.
pub struct Parts<'a> {
    /// `None`: provisional.
    pub issue: Option<Issue>,
    /// Whose.
    pub subject: Subject,
    /// Its days, in the order of the report's periods.
    pub days: Vec<Day>,
    /// Usage by day, port, direction and zone.
    pub usage: &'a Report,
    /// Usage with the tenant's percentile.
    pub percentile: &'a Report,
    /// Ends of the days, UTC, ns since 1970.
    pub bounds: &'a [i64],
    /// Where the numbers are from.
    pub ledgers: Vec<LedgerLine>,
    /// A zone's name; empty where it is not known.
    pub zone_name: &'a dyn Fn(u32) -> String,
    /// A drop's reason by its number.
    pub reason_name: &'a dyn Fn(u8) -> String,
    /// A class of evidence by its number.
    pub class_name: &'a dyn Fn(u8) -> String,
    /// A time as it is shown, UTC.
    pub time: &'a dyn Fn(i64) -> String,
}

fn way(direction: u8) -> &'static str {
    if direction == 0 { "from" } else { "to" }
}

/// Adds up rows by direction and by what `of` makes of them.
fn lines<K: Ord>(
    rows: &[Row],
    of: impl Fn(&Row) -> K,
    name: impl Fn(&K) -> (String, String),
) -> Result<Vec<Line>, UsageError> {
    let mut sums = BTreeMap::<(u8, K), Sum>::new();
    for row in rows {
        let direction = row.group.direction.unwrap_or_default();
        let sum = sums.entry((direction, of(row))).or_default();
        *sum = sum.plus(row.kept.sum)?;
    }
    let line = |((direction, key), sum): ((u8, K), Sum)| {
        let (of, name) = name(&key);
        Line {
            direction: way(direction),
            of,
            name,
            amount: sum.into(),
        }
    };
    Ok(sums.into_iter().map(line).collect())
}

/// A zone as it is written: its number, or `-`.
fn zone_text(zone: Option<u32>) -> String {
    zone.map_or_else(|| "-".into(), |zone| zone.to_string())
}

impl Statement {
    /// Puts a statement together.
    ///
    /// # Errors
    /// [`UsageError::Overflow`].
    pub fn of(parts: Parts<'_>) -> Result<Self, UsageError> {
        let Parts {
            usage, percentile, ..
        } = parts;
        let day_of = |row: &Row| parts.bounds.partition_point(|bound| *bound <= row.from) - 1;
        let class_of = |row: &Row| {
            let day = parts.days.get(day_of(row));
            day.map_or_else(String::new, |day| day.charge_class.clone())
        };
        let rows = &usage.rows;
        let mut total = Sum::default();
        for row in rows {
            total = total.plus(row.kept.sum)?;
        }
        let cells = rows.iter().map(|row| Cell {
            day: day_of(row),
            port: row.group.port.clone().unwrap_or_default(),
            direction: way(row.group.direction.unwrap_or_default()),
            zone: zone_text(row.group.zone.flatten()),
            amount: row.kept.sum.into(),
        });
        let zone_name = |zone: &Option<u32>| {
            let name = zone.map_or_else(String::new, |zone| (parts.zone_name)(zone));
            (zone_text(*zone), name)
        };
        let port_name = |port: &Option<String>| (port.clone().unwrap_or_default(), String::new());
        let drops = usage
            .drops
            .iter()
            .map(|((_, direction, reason), drops)| Drop {
                direction: way(*direction),
                reason: (parts.reason_name)(*reason),
                packets: drops.packets.into(),
                l2_bytes: drops.l2_bytes.into(),
            });
        let late = usage.late.iter().map(|late| Remark {
            seq: late.seq,
            port: late.port.clone(),
            direction: way(late.direction),
            l2_bytes: Digits(late.sum.l2_bytes()),
            reason: late.reason.clone().unwrap_or_default(),
        });
        let spread = usage.spread.iter().map(|spread| Remark {
            seq: spread.seq,
            port: spread.port.clone(),
            direction: way(spread.direction),
            l2_bytes: spread.l2_bytes.into(),
            reason: String::new(),
        });
        let missing = usage.missing.iter().map(|missing| Missing {
            host: missing.host.clone(),
            port: missing.port.clone().unwrap_or_default(),
            from: (parts.time)(missing.from),
            to: (parts.time)(missing.to),
            why: missing.why.clone(),
        });
        let directions = lines(rows, |_| (), |()| (String::new(), String::new()))?;
        let evidence = Evidence::of(usage, &directions, parts.class_name);
        let format = match evidence {
            Evidence::NotClassified => FORMAT,
            Evidence::Classes(_) => FORMAT_WITH_EVIDENCE,
        };
        Ok(Self {
            format,
            issue: parts.issue,
            subject: parts.subject,
            settled: usage.settled,
            total: total.into(),
            directions,
            zones: lines(rows, |row| row.group.zone.flatten(), zone_name)?,
            ports: lines(rows, |row| row.group.port.clone(), port_name)?,
            classes: lines(rows, class_of, |class| (class.clone(), String::new()))?,
            cells: cells.collect(),
            percentiles: percentiles(percentile, parts.time),
            drops: drops.collect(),
            evidence,
            corrections: late.collect(),
            spread: spread.collect(),
            missing: missing.collect(),
            ledgers: parts.ledgers,
            days: parts.days,
        })
    }

    /// As one line of JSON: what is hashed.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// SHA-256 of [`Statement::to_json`].
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.to_json()).into()
    }
}

fn percentiles(report: &Report, time: &dyn Fn(i64) -> String) -> Percentiles {
    let none = P95::default();
    let found = report.percentiles.first().map_or(&none, |found| &found.p95);
    let [from, to] = found.by_direction;
    let all = [from, to, found.max_of_both, found.of_max];
    Percentiles {
        until: time(report.slots_until),
        slots: found.slots,
        left_out: found.left_out,
        bytes: all.map(|value| value.map(Digits::from)),
        bits_per_second: all.map(|value| value.map(|value| bits_per_second(value).into())),
        in_no_slot: report.in_no_slot.clone(),
    }
}

#[cfg(test)]
mod tests;
