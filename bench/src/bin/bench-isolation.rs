//! octroi beside what an operator would use instead, and no limit at all: see `bench::isolation`. `cargo xtask bench --isolation` builds
//! and runs it.

use anyhow::{Context as _, Result};
use bench::isolation::{self, Options, octroi_binary, results, table};
use clap::Parser;
use std::{path::PathBuf, process::ExitCode};

/// octroi beside what would be used instead.
#[derive(Parser)]
#[command(name = "cargo xtask bench --isolation")]
struct Arguments {
    /// Seconds that are measured in each run, after two that are not.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Runs of each cell, of which the median is taken.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=25))]
    runs: u64,
    /// Only scenarios whose names begin so; may be given more than once.
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Only these systems, by the names in the table; may be given more than once. Nothing is stored, for a table has them all.
    #[arg(long, value_name = "NAME")]
    system: Vec<String>,
    /// A second of a few scenarios; nothing is stored.
    #[arg(long)]
    short: bool,
    /// Print each figure as a line of JSON, and store nothing: for who stores it elsewhere.
    #[arg(long)]
    lines: bool,
    /// What this machine is, where it is none of its own: it stands beside the kernel's name.
    #[arg(long, value_name = "WHAT")]
    machine: Option<String>,
    /// Divide all rates by this, on machines that are so slow that they would be what is measured.
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    slower: u64,
    /// Measure nothing: make the table and the plots of what is stored.
    #[arg(long)]
    publish: bool,
    /// The commit that is measured.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// The repository.
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench --isolation: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let results = arguments.root.join("bench/results/isolation.jsonl");
    let readme = arguments.root.join("bench/README.md");
    if arguments.publish {
        return isolation::publish(&results, &readme);
    }
    if let Err(why) = octroi::lab::site::possible() {
        println!("SKIPPED: bench --isolation: {why}");
        return Ok(());
    }
    let options = Options {
        seconds: arguments.seconds,
        runs: usize::try_from(arguments.runs)?,
        scenarios: arguments.scenario,
        short: arguments.short,
        commit: arguments.commit,
        machine: arguments.machine,
        systems: arguments.system,
        slower: arguments.slower,
        octroi: octroi_binary()?,
    };
    isolation::run(&options, |lines| {
        println!("{}", table::markdown(&results::newest(lines)));
        if options.short || !options.systems.is_empty() || arguments.lines {
            return json(lines);
        }
        results::append(&results, lines)?;
        isolation::publish(&results, &readme)
    })
}

/// What would be stored.
fn json(lines: &[results::Line]) -> Result<()> {
    for line in lines {
        println!("FIGURE: {}", serde_json::to_string(line).context("a line")?);
    }
    Ok(())
}
