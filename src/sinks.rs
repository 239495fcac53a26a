//! `octroi sinks` and `octroi reconcile`: does the biller have what was metered?

use crate::{
    config::{self, Config},
    daemon::{SinkStatus, control},
    status::Report,
};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use metering::sink::{
    Feed, Mark, Sink as _,
    postgres::{Postgres, Sums},
};
use serde_json::json;
use std::{collections::BTreeMap, path::PathBuf};

/// `octroi sinks`.
#[derive(Debug, Args)]
pub struct SinksOptions {
    /// Directory of the control socket.
    #[arg(long, default_value = config::Host::RUN_DIR, value_name = "DIR")]
    run_dir: PathBuf,
    /// A JSON array.
    #[arg(long)]
    json: bool,
}

/// `octroi reconcile`.
#[derive(Debug, Args)]
pub struct ReconcileOptions {
    /// The configuration that has the ledger and the sink.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Name of the sink.
    #[arg(long)]
    sink: String,
    /// JSON.
    #[arg(long)]
    json: bool,
}

/// Prints where each sink stands.
///
/// # Errors
/// When no daemon answers.
pub fn sinks(options: &SinksOptions) -> Result<()> {
    let answer = control::call(&options.run_dir, &control::Request::Status)
        .map_err(|refusal| anyhow::anyhow!(refusal.message))?;
    let report: Report = serde_json::from_str(&answer)?;
    if options.json {
        println!("{}", serde_json::to_string(&report.sinks)?);
        return Ok(());
    }
    if report.sinks.is_empty() {
        println!("no sink: records stay in the ledger; add [[sink]]");
    }
    for sink in &report.sinks {
        println!("{}", line(sink));
    }
    Ok(())
}

fn line(sink: &SinkStatus) -> String {
    let at = &sink.progress;
    let lag = at.lag.map_or("unknown".into(), |lag| lag.to_string());
    let mut line = format!(
        "{}: confirmed below {}, lag {lag} records, {} delivered",
        sink.name, at.confirmed, at.delivered
    );
    if let Some(error) = &at.error {
        line += &format!("; {error}; next try in {} ms", sink.next_try_ms);
    }
    line
}

type Key = (i64, i16, i64);

/// Adds up what a ledger has below a mark, as [`Postgres::sums`] adds up what the sink has.
fn ledger_sums(feed: &Feed, until: u64) -> Result<BTreeMap<Key, Sums>> {
    let mut all: BTreeMap<Key, Sums> = BTreeMap::new();
    let mut mark = Mark {
        next: 0,
        leaf: [0; 32],
    };
    while let Some(batch) = feed.batch(mark, 10_000)? {
        mark = batch.to;
        for item in batch.items.iter().filter(|item| item.seq < until) {
            let record = &item.record;
            let Some([packets, l2_bytes, l3_bytes]) = item.billed() else {
                continue;
            };
            let direction = i16::from(record.direction);
            let key = (i64::from(record.tenant), direction, item.zone());
            let sums = all.entry(key).or_insert(Sums {
                tenant: key.0,
                direction: key.1,
                zone: key.2,
                ..Sums::default()
            });
            sums.records += 1;
            sums.packets += packets;
            sums.l2_bytes += l2_bytes;
            sums.l3_bytes += l3_bytes;
        }
    }
    Ok(all)
}

/// Compares the totals at a sink with the ledger, by tenant, direction and zone.
///
/// # Errors
/// When something cannot be read, or is not the same.
pub fn reconcile(options: &ReconcileOptions) -> Result<()> {
    let config: Config = config::load(&options.config)?;
    let meter = config.meter.as_ref();
    let ledger = &meter.context("there is no [meter]")?.ledger;
    let mut sinks = config.sinks.iter();
    let Some(sink) = sinks.find(|sink| sink.name.as_str() == options.sink) else {
        bail!(
            "{}: there is no sink `{}`; `octroi sinks` has their names",
            options.config.display(),
            options.sink
        );
    };
    let mut there = Postgres::new(sink.target.clone());
    let (mut differences, mut rows) = (0_u64, Vec::new());
    for path in Feed::files(ledger) {
        let feed = Feed::open(&path)?;
        if feed.host() != config.host.name.as_str() {
            continue;
        }
        let mark = there.mark(feed.id(), feed.host())?;
        let here = ledger_sums(&feed, mark.next)?;
        let size = feed.size()?;
        // A copy that was put aside is shorter than what its ledger delivered: the longer one is compared.
        if mark.next > size {
            eprintln!(
                "octroi: {}: this copy has {size} records of {}, the sink has {}: not compared",
                feed.name(),
                path.display(),
                mark.next
            );
            continue;
        }
        feed.holds(&mark)?;
        let sink_sums = there.sums(feed.id(), mark.next)?;
        let mut keys: BTreeMap<Key, (Sums, Sums)> = BTreeMap::new();
        for (key, sums) in here {
            keys.entry(key).or_default().0 = sums;
        }
        for sums in sink_sums {
            let key = (sums.tenant, sums.direction, sums.zone);
            keys.entry(key).or_default().1 = sums;
        }
        for ((tenant, direction, zone), (here, there)) in keys {
            let bytes = there.l2_bytes - here.l2_bytes;
            let wrong = bytes != 0
                || there.packets != here.packets
                || there.l3_bytes != here.l3_bytes
                || there.records != here.records;
            differences += u64::from(wrong);
            rows.push(json!({
                "ledger": feed.name(), "tenant": tenant, "direction": direction, "zone": zone,
                "ledger_l2_bytes": here.l2_bytes.to_string(), "sink_l2_bytes": there.l2_bytes.to_string(),
                "difference_bytes": bytes.to_string(),
                "difference_packets": (there.packets - here.packets).to_string(),
                "difference_records": there.records - here.records,
            }));
        }
        if !options.json {
            println!("{}: {} of {size} records are there", feed.name(), mark.next);
        }
    }
    if options.json {
        println!("{}", json!({"differences": differences, "totals": rows}));
    } else {
        for row in &rows {
            println!(
                "tenant {} direction {} zone {}: ledger {} bytes, sink {} bytes, difference {}",
                row["tenant"],
                row["direction"],
                row["zone"],
                row["ledger_l2_bytes"].as_str().unwrap_or_default(),
                row["sink_l2_bytes"].as_str().unwrap_or_default(),
                row["difference_bytes"].as_str().unwrap_or_default()
            );
        }
    }
    ensure!(
        differences == 0,
        "{differences} totals at {} are not the ledger's",
        options.sink
    );
    Ok(())
}
