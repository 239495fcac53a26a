//! Looking into a ledger: `octroi records` and `octroi ledger status`.

use crate::{
    config::{self, Config, Meter},
    keeping,
    usage::Ledgers,
};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use metering::{
    ledger::{self, Filter},
    note,
    record::Record,
};
use serde::Serialize;
use std::{
    io::{self, Write as _},
    path::PathBuf,
};

/// Where the ledger is.
#[derive(Debug, Args)]
pub struct At {
    /// The ledger's file.
    #[arg(long, value_name = "FILE", default_value = Meter::LEDGER)]
    ledger: PathBuf,
    /// Takes the ledger of this configuration.
    #[arg(long, value_name = "FILE", conflicts_with = "ledger")]
    config: Option<PathBuf>,
}

impl At {
    /// The configuration, where one is named.
    pub(crate) fn config(&self) -> Result<Option<Config>> {
        Ok(self.config.as_deref().map(config::load).transpose()?)
    }

    /// What `octroi usage` takes, for the same ledger.
    ///
    /// # Errors
    /// As [`At::path`].
    pub(crate) fn ledgers(&self) -> Result<Ledgers> {
        Ok(Ledgers::of(self.path()?, self.config.clone()))
    }

    /// The ledger's file.
    ///
    /// # Errors
    /// When the configuration cannot be read, or names none.
    pub fn path(&self) -> Result<PathBuf> {
        let Some(file) = &self.config else {
            return Ok(self.ledger.clone());
        };
        let meter = config::load(file)?.meter;
        let meter = meter.with_context(|| format!("{}: there is no [meter]", file.display()))?;
        Ok(meter.ledger)
    }
}

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// A JSON object in each line; numbers of 64 bits are strings.
    Json,
    /// With a line of names.
    Csv,
}

/// `octroi records`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    at: At,
    /// Tenant's number.
    #[arg(long)]
    tenant: Option<u32>,
    /// Name of a port.
    #[arg(long)]
    port: Option<String>,
    /// Number of a zone, or `*` for all of them together.
    #[arg(long)]
    zone: Option<String>,
    /// `from` the tenant, or `to` the tenant.
    #[arg(long)]
    direction: Option<String>,
    /// Windows that begin at or after this time, as in 2026-11-24T03:00:00Z.
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Windows that begin before this time.
    #[arg(long, value_name = "TIME")]
    to: Option<Timestamp>,
    /// At most so many records, the oldest first.
    #[arg(long)]
    limit: Option<u64>,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// `octroi ledger`.
#[derive(Debug, Subcommand)]
pub enum LedgerAction {
    /// Copy the ledger, also while the daemon writes it. Flow detail is in no copy.
    Backup {
        #[command(flatten)]
        at: At,
        /// The copy; nothing may have this name.
        file: PathBuf,
    },
    /// Put a copy where the ledger belongs. No daemon may run, and the old ledger must be moved away.
    Restore {
        #[command(flatten)]
        at: At,
        /// The daemon's run directory; with --config that of the configuration.
        #[arg(long, default_value = config::Host::RUN_DIR, value_name = "DIR", conflicts_with = "config")]
        run_dir: PathBuf,
        /// The copy.
        file: PathBuf,
    },
    /// Who looked at flow detail or changed something by the API, and what.
    Looks {
        #[command(flatten)]
        at: At,
    },
    /// What is in it, and since when.
    Status {
        #[command(flatten)]
        at: At,
        /// One JSON object on standard output.
        #[arg(long)]
        json: bool,
    },
    /// The signed head of its tree: a checkpoint for `verify --against`, to be kept elsewhere.
    Head {
        #[command(flatten)]
        at: At,
    },
}

/// A record as it is shown. Numbers of 64 bits are strings: they do not fit a double.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    seq: String,
    kind: &'static str,
    window_id: String,
    window_start: String,
    window_end: String,
    tenant: u32,
    port: String,
    incarnation: String,
    direction: &'static str,
    zone: String,
    packets: String,
    l2_bytes: String,
    l3_bytes: String,
    drop_packets: String,
    drop_l2_bytes: String,
    flags: String,
    bytes_min: String,
    bytes_max: String,
    cause: String,
}

/// A time as it is shown.
pub(crate) fn time(utc_ns: i64) -> String {
    Timestamp::from_nanosecond(i128::from(utc_ns))
        .map_or_else(|_| utc_ns.to_string(), |time| format!("{time:.3}"))
}

fn or_empty(value: Option<u64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

impl Line {
    /// A record as it is shown.
    pub(crate) fn of(record: &Record) -> Self {
        let counted = record.counted();
        let drops = record.total.iter().flat_map(|total| &total.drops);
        let (packets, bytes) = drops.fold((0_u64, 0_u64), |sum, dropped| {
            (
                sum.0.saturating_add(dropped.packets),
                sum.1.saturating_add(dropped.l2_bytes),
            )
        });
        let has_total = record.total.is_some();
        Self {
            seq: record.seq.to_string(),
            kind: record.kind.name(),
            window_id: record.window_id.to_string(),
            window_start: time(record.window_start),
            window_end: time(record.window_end),
            tenant: record.tenant,
            port: record.port_uid.clone(),
            incarnation: record.incarnation.to_string(),
            direction: if record.direction == 0 { "from" } else { "to" },
            zone: record
                .zone
                .map_or_else(|| "*".into(), |zone| zone.to_string()),
            packets: or_empty(counted.map(|counted| counted.packets)),
            l2_bytes: or_empty(counted.map(|counted| counted.l2_bytes)),
            l3_bytes: or_empty(counted.map(|counted| counted.l3_bytes)),
            drop_packets: or_empty(has_total.then_some(packets)),
            drop_l2_bytes: or_empty(has_total.then_some(bytes)),
            flags: record.flags.to_string(),
            bytes_min: or_empty(record.bytes_min),
            bytes_max: or_empty(record.bytes_max),
            cause: record.cause.clone().unwrap_or_default(),
        }
    }
}

/// The number of a direction.
pub(crate) fn direction(word: Option<&str>) -> Result<Option<u8>> {
    match word {
        None => Ok(None),
        Some("from") => Ok(Some(0)),
        Some("to") => Ok(Some(1)),
        Some(other) => bail!("--direction {other}: write from or to"),
    }
}

fn filter(options: &Options) -> Result<Filter> {
    let zone = match options.zone.as_deref() {
        None => None,
        Some("*") => Some(None),
        Some(number) => Some(Some(number.parse().with_context(|| {
            format!("--zone {number}: write the number of a zone, or '*'")
        })?)),
    };
    let direction = direction(options.direction.as_deref())?;
    let utc_ns = |time: &Timestamp| i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
    Ok(Filter {
        tenant: options.tenant,
        port: options.port.clone(),
        zone,
        direction,
        from: options.from.as_ref().map(utc_ns),
        to: options.to.as_ref().map(utc_ns),
        after: None,
        limit: options.limit,
    })
}

/// `octroi records`.
///
/// # Errors
/// When the ledger cannot be read; a record that cannot be is named, and the others are shown.
pub fn show(options: &Options) -> Result<()> {
    let rows = ledger::records(&options.at.path()?, &filter(options)?)?;
    let mut bad = Vec::new();
    let mut lines = Vec::with_capacity(rows.len());
    for row in &rows {
        match row {
            Ok(record) => lines.push(Line::of(record)),
            Err((seq, error)) => bad.push(format!("record {seq}: {error}")),
        }
    }
    match write(&lines, options.format) {
        // `octroi records | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.context("standard output")?,
    }
    if bad.is_empty() {
        Ok(())
    } else {
        bail!(
            "{}; the ledger was changed by somebody else",
            bad.join("; ")
        )
    }
}

fn write(lines: &[Line], format: Format) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match format {
        Format::Json => {
            for line in lines {
                serde_json::to_writer(&mut out, line)?;
                out.write_all(b"\n")?;
            }
        }
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(&mut out);
            for line in lines {
                csv.serialize(line).map_err(io::Error::other)?;
            }
            csv.flush()?;
        }
        Format::Table => {
            writeln!(
                out,
                "{:>7} {:<24} {:>8} {:>6} {:<20} {:<4} {:>4} {:>12} {:>15} {:>10} flags",
                "seq",
                "window from",
                "seconds",
                "tenant",
                "port",
                "way",
                "zone",
                "packets",
                "l2 bytes",
                "dropped"
            )?;
            for line in lines {
                table_line(&mut out, line)?;
            }
        }
    }
    out.flush()
}

fn table_line(out: &mut impl io::Write, line: &Line) -> io::Result<()> {
    let bounds = if line.bytes_min.is_empty() {
        String::new()
    } else {
        let most = if line.bytes_max.is_empty() {
            "?"
        } else {
            &line.bytes_max
        };
        format!(" [{} to {most} bytes: {}]", line.bytes_min, line.cause)
    };
    let seconds = seconds_between(&line.window_start, &line.window_end);
    writeln!(
        out,
        "{:>7} {:<24} {:>8} {:>6} {:<20} {:<4} {:>4} {:>12} {:>15} {:>10} {}{bounds}",
        line.seq,
        line.window_start,
        seconds,
        line.tenant,
        if line.kind == "METER" {
            &line.port
        } else {
            line.kind
        },
        line.direction,
        line.zone,
        line.packets,
        line.l2_bytes,
        line.drop_packets,
        line.flags
    )
}

/// Milliseconds are enough for a table.
fn seconds_between(start: &str, end: &str) -> String {
    match (start.parse::<Timestamp>(), end.parse::<Timestamp>()) {
        (Ok(start), Ok(end)) => {
            let milliseconds = end.as_millisecond() - start.as_millisecond();
            format!("{}.{:03}", milliseconds / 1_000, milliseconds % 1_000)
        }
        _ => String::new(),
    }
}

/// `octroi ledger …`.
///
/// # Errors
/// When the ledger cannot be read, or the copy not be made.
pub fn ledger(action: &LedgerAction) -> Result<()> {
    match action {
        LedgerAction::Status { at, json } => status(at, *json),
        LedgerAction::Backup { at, file } => keeping::backup(at, file),
        LedgerAction::Restore { at, run_dir, file } => keeping::restore(at, run_dir, file),
        LedgerAction::Looks { at } => keeping::looks(at),
        LedgerAction::Head { at } => {
            print!("{}", ledger::last_head(&at.path()?)?);
            Ok(())
        }
    }
}

fn status(at: &At, json: bool) -> Result<()> {
    let path = at.path()?;
    let kept = keeping::kept(at)?;
    let summary = ledger::summary(&path)?;
    let id = note::hex(&summary.ledger_id);
    if json {
        let mut object = serde_json::json!({
            "ledger": path,
            "ledger_id": id,
            "host": summary.host,
            "records": summary.records.to_string(),
            "first_window_start": summary.first.map(time),
            "last_window_end": summary.last.map(time),
            "file_bytes": summary.file_bytes.to_string(),
        });
        keeping::add(&mut object, &kept);
        println!("{object}");
        return Ok(());
    }
    println!("{}: ledger {id} of {}", path.display(), summary.host);
    println!(
        "{} records in {} bytes",
        summary.records, summary.file_bytes
    );
    if let (Some(first), Some(last)) = (summary.first, summary.last) {
        println!("windows from {} to {}", time(first), time(last));
    }
    keeping::tell(&kept);
    Ok(())
}
