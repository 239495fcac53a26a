//! `octroi privacy`: what is kept of a tenant is handed over, or erased before its time is over.
//!
//! Invariants (`docs/METERING.md`, M-13.11 to M-13.16)
//! - Who asked is in the ledger before anything is shown, and with everything that is erased.
//! - What is billed goes only where a time is named, and only what every sink has confirmed.

mod export;

use crate::{
    config, correct,
    daemon::control::Refusal,
    flows::who,
    period::Moment,
    records::{At, time},
};
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use metering::ledger::{self, Addition, Forget};
use std::path::{Path, PathBuf};

/// `octroi privacy`.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Writes everything that is kept of a tenant into a new directory: records with proofs, flow detail, who
    /// looked, statements.
    Export(export::Options),
    /// Erases a tenant's flow detail, which cannot be undone. A leaf of the ledger says so, and `octroi verify`
    /// goes on.
    Erase(Options),
}

/// `octroi privacy erase`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    at: At,
    /// Directory of the control socket: a daemon that runs erases by itself. With --config that of the
    /// configuration.
    #[arg(long, default_value = config::Host::RUN_DIR, value_name = "DIR", conflicts_with = "config")]
    run_dir: PathBuf,
    /// Number of the tenant or, with --config, its name.
    #[arg(long)]
    tenant: String,
    /// Why, for whoever reads the ledger.
    #[arg(long)]
    reason: String,
    /// Also the records of windows that ended by this time, as in 2026-11-24T03:00:00Z or 2026-11-24 (UTC): what
    /// they billed can then be neither reckoned nor proved any more.
    #[arg(long, value_name = "TIME")]
    records_until: Option<Moment>,
}

/// `octroi privacy …`.
///
/// # Errors
/// Why not. What is erased by then is in the ledger.
pub fn run(action: &Action) -> Result<(), Refusal> {
    match action {
        Action::Export(options) => Ok(export::run(options)?),
        Action::Erase(options) => erase(options),
    }
}

/// A tenant by its number or, with a configuration, by its name.
fn tenant(at: &At, text: &str) -> Result<u32> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    at.ledgers()?.open()?.tenant(text)
}

fn erase(options: &Options) -> Result<(), Refusal> {
    let path = options.at.path()?;
    let tenant = tenant(&options.at, &options.tenant)?;
    let config = options.at.config()?;
    let run_dir = config
        .as_ref()
        .map_or(options.run_dir.as_path(), |config| &config.host.run_dir);
    let until = options.records_until.map(|at| at.utc_ns(&TimeZone::UTC));
    let until = until.transpose()?;
    let alone = !correct::writes(run_dir, &path);
    if until.is_some() && alone {
        no_sink_waits(config.as_ref())?;
    }
    let before = held(&path, tenant, until)?;
    if before.flow_rows + before.records == 0 && !before.unfinished {
        println!("nothing of tenant {tenant} is kept that could be erased");
        return Ok(());
    }
    let forget = Forget {
        tenant,
        records_until: until,
        who: who(),
        reason: options.reason.clone(),
        unconfirmed: u64::MAX,
    };
    let mut left = before;
    let mut leaves = Vec::new();
    // So many records at once that no window waits for long.
    while leaves.is_empty() || left.records != 0 {
        let seq = correct::add(run_dir, &path, &Addition::Forget(forget.clone()))?;
        leaves.push(seq);
        let now = held(&path, tenant, until)?;
        if now.records >= left.records && left.records != 0 {
            return Err(Refusal::system(
                "records come as fast as they are erased; name an earlier --records-until",
            ));
        }
        left = now;
    }
    println!(
        "tenant {tenant}: {} rows of flow detail of {} records are erased; record {} says so",
        before.flow_rows,
        before.flow_records,
        leaves.first().map_or("", String::as_str)
    );
    if let Some(until) = until {
        println!(
            "{} records of windows until {} are erased; their hashes are kept",
            before.records,
            time(until)
        );
    }
    let kept = held(&path, tenant, Some(i64::MAX))?.records;
    println!(
        "{kept} meter records are kept until their retention is over; statements are kept, too; flow detail \
         of new windows is kept as [[tenant]] flow_detail says"
    );
    Ok(())
}

/// Nobody but a daemon knows how far its sinks are.
fn no_sink_waits(config: Option<&config::Config>) -> Result<(), Refusal> {
    let Some(config) = config else {
        return Err(Refusal::config(
            "--records-until: no daemon writes this ledger; write --config FILE, which says whether a sink waits \
             for its records",
        ));
    };
    if config.sinks.is_empty() {
        return Ok(());
    }
    Err(Refusal::system(
        "--records-until: no daemon runs, and only it knows how far each [[sink]] is; start it, and try again",
    ))
}

fn held(path: &Path, tenant: u32, until: Option<i64>) -> Result<ledger::Held> {
    ledger::held(path, tenant, until.unwrap_or(i64::MIN))
        .with_context(|| format!("tenant {tenant}"))
}
