//! `octroi reconcile` and `octroi replay`: does the biller have what was metered, and once more what it lost.

mod openmeter;

use crate::{
    config::{self, Config},
    store::Database,
};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use metering::sink::{Feed, Sink, Sums, Target, Totals, cloudevents::CloudEvents};
use openmeter::{By, How};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// `octroi reconcile`.
#[derive(Debug, Args)]
pub struct ReconcileOptions {
    /// The configuration that has the ledger.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Name of the sink in it.
    #[arg(long, required_unless_present = "store", conflicts_with = "store")]
    sink: Option<String>,
    /// Instead of a sink's, totals of the store of a fleet: the PostgreSQL or ClickHouse database that `octroi store` fills.
    #[arg(long, value_name = "ADDRESS")]
    store: Option<String>,
    /// A file with the password of the store's user and nothing else.
    #[arg(long, value_name = "FILE", requires = "store")]
    store_password_file: Option<PathBuf>,
    /// Certificates, PEM, that the store's must descend from.
    #[arg(long, value_name = "FILE", requires = "store")]
    store_ca_file: Option<PathBuf>,
    /// Of OpenMeter, which adds up spans of time: which ones.
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// Of OpenMeter: how long it may need to count what it acknowledged, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    wait: u64,
    /// JSON.
    #[arg(long)]
    json: bool,
}

/// `octroi replay`.
#[derive(Debug, Args)]
pub struct ReplayOptions {
    /// The configuration that has the ledger and the sink.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Name of the sink.
    #[arg(long)]
    sink: String,
    /// The first record to send again, by its seq; all after it that the sink has confirmed follow.
    #[arg(long, value_name = "SEQ")]
    from: u64,
    /// A ledger that was put aside, instead of the configuration's own.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

/// A configuration and the file of its ledger.
fn metered(path: &Path) -> Result<(Config, PathBuf)> {
    let config: Config = config::load(path)?;
    let meter = config.meter.as_ref();
    let ledger = meter.map(|meter| meter.ledger.clone());
    let ledger = ledger
        .with_context(|| format!("{}: there is no [meter], and so no ledger", path.display()))?;
    Ok((config, ledger))
}

/// A sink of a configuration.
fn named<'c>(config: &'c Config, path: &Path, wanted: &str) -> Result<&'c config::Sink> {
    let file = path.display();
    let mut sinks = config.sinks.iter();
    let Some(sink) = sinks.find(|sink| sink.name.as_str() == wanted) else {
        let names: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
        bail!(
            "{file}: there is no sink `{wanted}`; its sinks: {}",
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        );
    };
    Ok(sink)
}

/// A sink of a configuration, opened, and the ledger's file.
fn open(path: &Path, wanted: &str) -> Result<(Config, PathBuf, Box<dyn Sink + Send>)> {
    let (config, ledger) = metered(path)?;
    let opened = named(&config, path, wanted)?.target.open(&ledger, wanted);
    Ok((config, ledger, opened))
}

/// What was compared of one ledger.
#[derive(Default)]
struct Compared {
    differences: u64,
    rows: Vec<Value>,
    said: Vec<String>,
}

impl Compared {
    /// Compares sums of billed records or of windows' totals.
    fn compare(&mut self, feed: &Feed, are_totals: bool, here: Totals, there: Totals) {
        let mut keys: BTreeMap<(i64, i16, i64), (Sums, Sums)> = BTreeMap::new();
        for (key, sums) in here.0 {
            keys.entry(key).or_default().0 = sums;
        }
        for (key, sums) in there.0 {
            keys.entry(key).or_default().1 = sums;
        }
        for ((tenant, direction, zone), (here, there)) in keys {
            self.differences += u64::from(here != there);
            let zone = if are_totals { json!("*") } else { json!(zone) };
            self.rows.push(json!({
                "ledger": feed.name(), "tenant": tenant, "direction": direction, "zone": zone,
                "ledger_l2_bytes": here.l2_bytes.to_string(), "sink_l2_bytes": there.l2_bytes.to_string(),
                "difference_bytes": (there.l2_bytes - here.l2_bytes).to_string(),
                "difference_packets": (there.packets - here.packets).to_string(),
                "difference_records": there.records - here.records,
            }));
        }
    }
}

/// Compares the totals at a sink with the ledger, by tenant, direction and zone.
///
/// # Errors
/// When something cannot be read, or is not the same.
pub fn reconcile(options: &ReconcileOptions) -> Result<()> {
    let (config, ledger) = metered(&options.config)?;
    let mut there: Box<dyn Sink + Send> = match (&options.store, &options.sink) {
        (Some(address), _) => {
            let store = Database {
                address: address.clone(),
                password_file: options.store_password_file.clone(),
                ca_file: options.store_ca_file.clone(),
            };
            store.open("--store")?
        }
        (None, name) => {
            let name = name.as_deref().unwrap_or_default();
            let target = &named(&config, &options.config, name)?.target;
            if let Target::CloudEvents(target) = target {
                let mut there = CloudEvents::of(target.clone(), &ledger, name);
                let how = How {
                    by: options.by,
                    wait: Duration::from_secs(options.wait),
                    json: options.json,
                };
                let host = config.host.name.as_str();
                return openmeter::reconcile(&mut there, &ledger, host, name, how);
            }
            target.open(&ledger, name)
        }
    };
    let at = options.sink.as_deref().unwrap_or("the store");
    let mut all = Compared::default();
    let mut files = Feed::files(&ledger);
    // A host that has not metered yet has only what was put aside, or nothing.
    if files.len() > 1 && !ledger.exists() {
        files.retain(|path| *path != ledger);
    }
    for path in files {
        let feed = Feed::open(&path)?;
        if feed.host() == config.host.name.as_str() {
            one(&feed, &path, there.as_mut(), &mut all)?;
        }
    }
    if options.json {
        println!(
            "{}",
            json!({"differences": all.differences, "totals": all.rows, "remarks": all.said})
        );
    } else {
        for line in &all.said {
            println!("{line}");
        }
        for row in &all.rows {
            let records = match row["difference_records"].as_i64() {
                None | Some(0) => String::new(),
                Some(records) => format!(", of {records} records"),
            };
            println!(
                "tenant {} direction {} zone {}: ledger {} bytes, sink {} bytes, difference {}{records}",
                row["tenant"],
                row["direction"],
                row["zone"]
                    .as_str()
                    .map_or_else(|| row["zone"].to_string(), str::to_owned),
                row["ledger_l2_bytes"].as_str().unwrap_or_default(),
                row["sink_l2_bytes"].as_str().unwrap_or_default(),
                row["difference_bytes"].as_str().unwrap_or_default()
            );
        }
    }
    ensure!(
        all.differences == 0,
        "{} totals at {} are not the ledger's",
        all.differences,
        at
    );
    Ok(())
}

fn one(feed: &Feed, path: &Path, there: &mut dyn Sink, all: &mut Compared) -> Result<()> {
    let mark = there.mark(feed.id(), feed.host())?;
    let size = feed.size()?;
    // A copy that was put aside is shorter than what its ledger delivered: the longer one is compared.
    if mark.next > size {
        all.said.push(format!(
            "{}: this copy has {size} records of {}, the sink has {}: not compared",
            path.display(),
            feed.name(),
            mark.next
        ));
        return Ok(());
    }
    feed.holds(&mark)?;
    let (mut here, gone) = feed.totals(mark.next)?;
    let sink_sums = there.sums(feed.id(), mark.next, &gone)?;
    here.0.retain(|(tenant, ..), _| there.bills(*tenant));
    all.compare(feed, false, here, sink_sums);
    // Windows' totals bill nothing, but a window without one is missing to whoever reads the store.
    if let Some((from, sink_totals)) = there.window_totals(feed.id(), mark.next, &gone)? {
        let totals = feed.window_totals(from..mark.next)?;
        all.compare(feed, true, totals, sink_totals);
        if from != 0 {
            all.said.push(format!(
                "{}: totals of before record {from} were not sent there: not compared",
                feed.name()
            ));
        }
    }
    all.said.push(format!(
        "{}: {} of {size} records are there",
        feed.name(),
        mark.next
    ));
    let pruned: u64 = gone.iter().map(|range| range.end - range.start).sum();
    if pruned != 0 {
        all.said.push(format!(
            "{}: {pruned} records are pruned or erased here: not compared",
            feed.name()
        ));
    }
    Ok(())
}

/// Sends records again that a sink has acknowledged and lost, under the same names: whoever adds up drops what it has.
///
/// # Errors
/// When something cannot be read, the sink refuses, or it makes no sense for its kind.
pub fn replay(options: &ReplayOptions) -> Result<()> {
    let (config, ledger, mut there) = open(&options.config, &options.sink)?;
    let path = options.ledger.clone().unwrap_or(ledger);
    let feed = Feed::open(&path)?;
    ensure!(
        feed.host() == config.host.name.as_str(),
        "{}: it is {}'s; replay it on its own host",
        path.display(),
        feed.host()
    );
    let mark = there.mark(feed.id(), feed.host())?;
    feed.holds(&mark)?;
    ensure!(
        options.from < mark.next,
        "--from {}: {} has confirmed the records below {}; the daemon delivers the others",
        options.from,
        options.sink,
        mark.next
    );
    let (mut sent, mut at) = (0, feed.before(options.from)?);
    while at.next < mark.next {
        let left = u32::try_from(mark.next - at.next).unwrap_or(u32::MAX);
        let Some(batch) = feed.batch(at, left.min(there.batch_max()))? else {
            break;
        };
        there.replay(&batch).with_context(|| {
            format!("records from {} on; go on with --from {}", at.next, at.next)
        })?;
        sent += batch
            .items
            .iter()
            .filter(|item| item.billed().is_some() && there.bills(item.record.tenant.into()))
            .count();
        at = batch.to;
    }
    println!(
        "{}: {sent} records of {} to {} sent again to {}",
        feed.name(),
        options.from,
        at.next.saturating_sub(1),
        options.sink
    );
    Ok(())
}
