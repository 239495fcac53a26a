//! Two builds of the programs, in turns: see `bench::turns`. `cargo xtask bench --against` builds and runs it.

use anyhow::{Context as _, Result};
use bench::turns::{Turns, worker};
use clap::Parser;
use std::{path::PathBuf, process::ExitCode};

/// What a packet costs in these programs and in others, in turns.
#[derive(Parser)]
#[command(name = "cargo xtask bench --against")]
struct Arguments {
    /// An object of eBPF whose maps are laid out as these, or the `bench-turns` of another commit; may be given more than
    /// once.
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// Measure this, instead of the programs that this was built with.
    #[arg(long, value_name = "FILE")]
    this: Option<PathBuf>,
    /// Measure nothing: write the programs that this was built with to FILE, for a later `--against`.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Only rows whose names begin so; may be given more than once.
    #[arg(long, value_name = "NAME")]
    row: Vec<String>,
    /// Turns in each round.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    turns: u64,
    /// Rounds, in each of which everything is loaded anew.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Packets in each turn.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch: u32,
    /// Be the process that measures one build.
    #[arg(long, hide = true)]
    worker: bool,
    /// Its object.
    #[arg(long, hide = true, value_name = "FILE", requires = "worker")]
    object: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench --against: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    if arguments.worker {
        let elf = match &arguments.object {
            Some(path) => Some(std::fs::read(path).with_context(|| format!("{}", path.display()))?),
            None => None,
        };
        return worker::serve(elf.as_deref());
    }
    if let Some(path) = &arguments.write {
        let written = std::fs::write(path, dataplane::object::OBJECT);
        return written.with_context(|| format!("{}", path.display()));
    }
    let turns = Turns {
        this: arguments.this,
        against: arguments.against,
        rows: arguments.row,
        turns: usize::try_from(arguments.turns)?,
        rounds: usize::try_from(arguments.rounds)?,
        batch: arguments.batch,
    };
    turns.run()
}
