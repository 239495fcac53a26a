//! Runs a fleet on this machine: three hosts, a cluster of three NATS servers, a PostgreSQL. `tests/fleet/three.rs` is what
//! happens; this builds it, lets it take longer, and prints what it compared.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::host::{self, say};
use crate::setup::{self, Need};
use crate::test;

/// What a run may take, however long its traffic.
const LIMIT: Duration = Duration::from_mins(20);
/// What the line of the result begins with.
const RESULT: &str = "FLEET: ";
const TESTS: [&str; 2] = [
    "three::three_hosts_a_cluster_and_a_store_agree_to_the_byte_when_each_is_killed_once",
    "speed::records_per_second_to_a_cluster_and_from_it_into_a_store",
];

/// Run three hosts, a NATS cluster and a store, kill one of each, and compare ledgers and store.
#[derive(Args)]
pub struct Fleet {
    /// The results alone, a JSON object in each line.
    #[arg(long)]
    json: bool,
    /// Seconds of traffic before, between and after the kills.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    seconds: u64,
    /// Records whose way to the cluster and into the store is timed.
    #[arg(long, default_value_t = 100_000)]
    records: u64,
}

impl Fleet {
    /// Runs the subcommand.
    pub fn run(self) -> Result<ExitCode> {
        setup::run(Need::Test)?;
        let executable = test::build_one("fleet")?;
        let (mut results, mut skipped) = (Vec::new(), None);
        let mut is_well = true;
        for test in TESTS {
            let mut command = host::with_time_limit(LIMIT, &executable);
            command
                .current_dir(host::root())
                .env("CARGO_MANIFEST_DIR", host::root())
                .env("OCTROI_FLEET_SECONDS", self.seconds.to_string())
                .env("OCTROI_FLEET_RECORDS", self.records.to_string())
                .args([test, "--exact", "--nocapture", "--test-threads=1"]);
            let status = host::stream(&mut command, |line| {
                if let Some((_, json)) = line.split_once(RESULT) {
                    results.push(json.to_owned());
                } else if line.contains("SKIPPED: ") {
                    skipped = Some(line.to_owned());
                } else if !self.json || line.contains("Error") {
                    say(line);
                }
            })?;
            is_well &= status.success();
        }
        for json in &results {
            println!("{json}");
        }
        if let Some(reason) = skipped {
            say(reason);
        }
        Ok(ExitCode::from(u8::from(
            !(is_well && results.len() == TESTS.len()),
        )))
    }
}
