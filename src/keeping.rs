//! How a ledger is kept: `octroi ledger backup`, `restore`, `looks`, and what goes when.

use crate::{
    config::Retention,
    daemon,
    records::{At, time},
};
use anyhow::{Context as _, Result};
use metering::{
    ledger::{self, Copied, Kept},
    note,
};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

fn said(copied: &Copied) -> String {
    format!(
        "ledger {} with {} records, {} bytes",
        note::hex(&copied.ledger_id),
        copied.leaves,
        copied.file_bytes
    )
}

/// Copies the ledger.
///
/// # Errors
/// When it cannot be read, or the copy not be made.
pub fn backup(at: &At, file: &Path) -> Result<()> {
    let copied = ledger::backup(&at.path()?, file)?;
    println!("{}: {}", file.display(), said(&copied));
    println!("it has the ledger's secret; flow detail is not in it");
    Ok(())
}

/// Puts a copy in the ledger's place.
///
/// # Errors
/// When a daemon runs, something is in that place, or the copy is not whole.
pub fn restore(at: &At, run_dir: &Path, file: &Path) -> Result<()> {
    let path = at.path()?;
    let config = at.config()?;
    let run_dir = config
        .as_ref()
        .map_or(run_dir, |config| config.host.run_dir.as_path());
    // Where there is no directory for a lock, nobody has it.
    let lock = run_dir
        .is_dir()
        .then(|| daemon::lock(run_dir, Duration::ZERO))
        .transpose();
    let _lock = lock.context("a ledger is restored while no daemon meters into it")?;
    let copied = ledger::restore(file, &path)?;
    println!("{}: {}", path.display(), said(&copied));
    println!(
        "where its later records were metered, the daemon keeps it beside a new ledger that \
         supersedes it; what is not in this copy is told as NODATA, and billed by corrections"
    );
    Ok(())
}

/// Prints who looked at flow detail, or changed something by the API.
///
/// # Errors
/// When the ledger cannot be read.
pub fn looks(at: &At) -> Result<()> {
    for look in ledger::looks(&at.path()?)? {
        println!("{}  {}: {}", time(look.at), look.who, look.what);
    }
    Ok(())
}

/// What is kept, and what goes when, by the configuration or by what it says when nothing is written.
///
/// # Errors
/// When the ledger cannot be read.
pub fn kept(at: &At) -> Result<Kept> {
    let retention = at.config()?.map(|config| config.retention);
    let keep = daemon::keep(&retention.unwrap_or_else(Retention::default), u64::MAX);
    Ok(ledger::kept(&at.path()?, &keep)?)
}

/// Adds it to a JSON object.
pub fn add(object: &mut Value, kept: &Kept) {
    for (key, value) in [
        ("pruned", json!(kept.pruned.to_string())),
        ("looks", json!(kept.looks.to_string())),
        ("flow_files", json!(kept.flow_files.to_string())),
        ("flow_bytes", json!(kept.flow_bytes.to_string())),
        ("oldest_flow_file_goes", json!(kept.flows_go.map(time))),
        ("oldest_record_goes", json!(kept.records_go.map(time))),
    ] {
        object[key] = value;
    }
}

/// Tells it to a person.
pub fn tell(kept: &Kept) {
    if kept.pruned != 0 {
        println!("{} records are pruned; their hashes are kept", kept.pruned);
    }
    if let Some(goes) = kept.records_go {
        println!("the oldest record goes at {}", time(goes));
    }
    match kept.flows_go {
        None => println!("no flow detail"),
        Some(goes) => println!(
            "flow detail in {} files, {} bytes; the oldest goes at {}",
            kept.flow_files,
            kept.flow_bytes,
            time(goes)
        ),
    }
    println!("{} looks at flow detail and changes by the API", kept.looks);
}
