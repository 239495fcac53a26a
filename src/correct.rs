//! `octroi correct`: takes bytes off a bill, or puts them on, with a reason that stays.

use crate::{
    config,
    daemon::control::{self, Refusal, Request},
    records::At,
};
use anyhow::{Context as _, Result};
use clap::Args;
use jiff::Timestamp;
use metering::ledger::{self, Addition, Correct};
use std::path::{Path, PathBuf};

/// `octroi correct`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    at: At,
    /// Directory of the control socket: a daemon that runs writes the correction itself.
    #[arg(long, default_value = config::Host::RUN_DIR, value_name = "DIR")]
    run_dir: PathBuf,
    /// The record to correct: `octroi records` and `octroi explain` show its number.
    #[arg(long)]
    seq: u64,
    /// Layer-2 bytes to add; less than 0 takes them away.
    #[arg(long, value_name = "±BYTES", allow_negative_numbers = true)]
    l2: i64,
    /// Packets to add, likewise.
    #[arg(
        long,
        value_name = "±N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    packets: i64,
    /// IP bytes to add, likewise.
    #[arg(
        long,
        value_name = "±BYTES",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    l3: i64,
    /// Why, for whoever reads the bill.
    #[arg(long)]
    reason: String,
    /// More is billed than before, and that is meant.
    #[arg(long)]
    increase: bool,
}

/// `octroi correct`.
///
/// # Errors
/// Why not; nothing is written then.
pub fn run(options: &Options) -> Result<(), Refusal> {
    let correct = Correct {
        seq: options.seq,
        packets: options.packets,
        l2_bytes: options.l2,
        l3_bytes: options.l3,
        reason: options.reason.clone(),
        increase: options.increase,
    };
    let seq = correct.seq;
    let written = add(
        &options.run_dir,
        &options.at.path()?,
        &Addition::Correct(correct),
    )?;
    println!("record {written} corrects record {seq}");
    Ok(())
}

/// Adds a record to a ledger, through the daemon if one has it open; returns its seq.
///
/// # Errors
/// Why not; nothing is written then.
pub fn add(run_dir: &Path, ledger: &Path, addition: &Addition) -> Result<String, Refusal> {
    if writes(run_dir, ledger) {
        let addition = addition.clone();
        return control::call(run_dir, &Request::Add { addition });
    }
    Ok(alone(ledger, addition)?)
}

/// Does a daemon that runs have this ledger open?
pub(crate) fn writes(run_dir: &Path, ledger: &Path) -> bool {
    let Ok(answer) = control::call(run_dir, &Request::Status) else {
        return false;
    };
    let report: Option<serde_json::Value> = serde_json::from_str(&answer).ok();
    let its = report.and_then(|report| Some(PathBuf::from(report["meter"]["ledger"].as_str()?)));
    let same =
        |its: PathBuf| its == ledger || its.canonicalize().ok() == ledger.canonicalize().ok();
    its.is_some_and(same)
}

fn alone(path: &Path, addition: &Addition) -> Result<String> {
    let now = i64::try_from(Timestamp::now().as_nanosecond()).context("the clock is past 2262")?;
    Ok(ledger::append(path, addition, now)?.to_string())
}
