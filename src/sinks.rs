//! `octroi sinks`: how far each sink is.

use crate::{
    config::{self, Config},
    daemon::{SinkStatus, control},
    status::Report,
};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// `octroi sinks`.
#[derive(Debug, Args)]
pub struct Options {
    /// Directory of the control socket.
    #[arg(long, default_value = config::Host::RUN_DIR, value_name = "DIR")]
    run_dir: PathBuf,
    /// A JSON array.
    #[arg(long)]
    json: bool,
}

/// Prints where each sink stands.
///
/// # Errors
/// When no daemon answers.
pub fn show(options: &Options) -> Result<()> {
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
    if let Some(lost @ 1..) = at.lost {
        line += &format!(", {lost} rows of flow detail were gone before they were sent");
    }
    if let Some(error) = &at.error {
        line += &format!("; {error}; next try in {} ms", sink.next_try_ms);
    }
    line
}

/// Says in words where records of a configuration go.
pub fn tell(config: &Config) {
    match &config.meter {
        None => println!("  no [meter]: bytes are counted, and no record is kept"),
        Some(meter) => println!("  records are kept in {}", meter.ledger.display()),
    }
    for sink in &config.sinks {
        println!("  sink {}: {}", sink.name, sink.target.describe());
    }
    if config.meter.is_some() && config.sinks.is_empty() {
        println!("  no sink: records stay there");
    }
}
