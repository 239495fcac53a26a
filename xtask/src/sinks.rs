//! Measures how fast records come to each sink: `tests/fleet/sinks.rs` is what is measured; this builds it, lets it run with many
//! records, stores what it prints as lines of JSON, and makes the table of `bench/README.md` from them.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::host::{self, say};
use crate::setup::{self, Need};
use crate::test;

const TEST: &str = "sinks::every_sink_has_a_ledger_whole_and_says_how_fast";
/// What a line of the result begins with.
const RESULT: &str = "SINK: ";
const LIMIT: Duration = Duration::from_mins(30);
/// Records of a run that is stored, and of a short one.
const RECORDS: [u64; 2] = [200_000, 10_000];
const RESULTS: &str = "bench/results/sinks.jsonl";
const PAGE: &str = "bench/README.md";
/// Between these the page has the table.
const MARKS: [&str; 2] = ["<!-- sinks: begin -->", "<!-- sinks: end -->"];

/// Runs it. `is_short`: with few records, and nothing is stored.
///
/// # Errors
/// When it cannot be built or run, or a sink has not what it should.
pub fn run(is_short: bool) -> Result<()> {
    setup::run(Need::Test)?;
    let executable = test::build_one("fleet")?;
    let records = RECORDS[usize::from(is_short)];
    let mut command = host::with_time_limit(LIMIT, &executable);
    command
        .current_dir(host::root())
        .env("CARGO_MANIFEST_DIR", host::root())
        .env("OCTROI_SINK_RECORDS", records.to_string())
        .args([TEST, "--exact", "--nocapture", "--test-threads=1"]);
    say(format!(
        "bench: {records} records to each sink: {} {TEST}",
        executable.display()
    ));
    let mut lines = Vec::new();
    let status = host::stream(&mut command, |line| {
        match line.split_once(RESULT) {
            Some((_, json)) => lines.push(json.to_owned()),
            None => say(line),
        };
    })?;
    ensure!(status.success() && !lines.is_empty(), "bench: {status}");
    let (commit, kernel) = (host::commit().unwrap_or_default(), host::kernel()?);
    let mut results = Vec::new();
    for line in &lines {
        let mut result: Value = serde_json::from_str(line)?;
        result["commit"] = commit.clone().into();
        result["kernel"] = kernel.clone().into();
        result["load"] = load().into();
        println!("{result}");
        results.push(result);
    }
    let table = table(&results);
    println!("\n{table}");
    if is_short {
        return Ok(());
    }
    let path = host::root().join(RESULTS);
    let mut file = fs::File::options().create(true).append(true).open(path)?;
    for result in &results {
        writeln!(file, "{result}")?;
    }
    let page = host::root().join(PAGE);
    let text = fs::read_to_string(&page)?;
    fs::write(&page, with_table(&text, &table)?)?;
    say(format!("bench: {RESULTS} and the table of {PAGE} are new"));
    Ok(())
}

/// What else runs here, over the last five minutes.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// One run: a row for each sink.
fn table(results: &[Value]) -> String {
    let mut table = String::from(
        "| sink | at the other end | records | records/s | CPU of octroi, µs a record | CPU of the servers, µs a record |\n\
         | --- | --- | ---: | ---: | ---: | ---: |\n",
    );
    for result in results {
        let records = result["records"].as_f64().unwrap_or(1.0).max(1.0);
        let each = |name: &str| {
            let seconds = result[name].as_f64().unwrap_or_default();
            format!("{:.1}", seconds * 1e6 / records)
        };
        table += &format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            text(&result["sink"]),
            text(&result["to"]),
            result["records"],
            result["records_per_second"],
            each("octroi_cpu_seconds"),
            each("servers_cpu_seconds")
        );
    }
    if let Some(result) = results.first() {
        table += &format!(
            "\nCommit {}, Linux {}, load {} on {} processors.\n",
            text(&result["commit"]),
            text(&result["kernel"]),
            text(&result["load"]),
            std::thread::available_parallelism().map_or(0, usize::from)
        );
    }
    table
}

/// The page with this table in place of the one that it has.
fn with_table(page: &str, table: &str) -> Result<String> {
    let (before, rest) = page.split_once(MARKS[0]).context("no mark of a table")?;
    let (_, after) = rest.split_once(MARKS[1]).context("no end of a table")?;
    Ok(format!(
        "{before}{}\n\n{}\n{}{after}",
        MARKS[0], table, MARKS[1]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_the_one_before() {
        let result = serde_json::json!({
            "sink": "postgres", "to": "PostgreSQL", "records": 200_000, "records_per_second": 9_000,
            "octroi_cpu_seconds": 2.5, "servers_cpu_seconds": 7.0, "commit": "abc", "kernel": "6.18", "load": "1.0",
        });
        let table = table(&[result]);
        assert!(table.contains("| postgres | PostgreSQL | 200000 | 9000 | 12.5 | 35.0 |"));
        let page = format!("a\n{}\nold\n{}\nb\n", MARKS[0], MARKS[1]);
        let page = with_table(&page, &table).unwrap();
        assert!(!page.contains("old") && page.starts_with("a\n") && page.ends_with("\nb\n"));
        assert_eq!(with_table(&page, &table).unwrap(), page);
        assert!(with_table("no marks", &table).is_err());
    }
}
