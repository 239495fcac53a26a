//! Runs the benches and shows their times beside the stored ones.
//!
//! A time is never a reason to fail: machines differ, and neighbours are noisy. The stored results are lines
//! of JSON, so that a diff shows what a commit costs.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::host::{self, say};
use crate::setup::{self, Need};
use crate::vm;

/// Enough to see that every bench runs, and an effect of 20 %.
const SHORT: [&str; 6] = [
    "--warm-up-time",
    "0.3",
    "--measurement-time",
    "1",
    "--sample-size",
    "10",
];

/// Run the benches, and compare with the stored results.
#[derive(Args)]
pub struct Bench {
    /// About two seconds a bench.
    #[arg(long)]
    short: bool,
    /// Append the results to bench/results/criterion.ndjson.
    #[arg(long)]
    store: bool,
    /// octroi beside HTB, TBF and nftables instead; `cargo xtask bench --isolation --help` has its options.
    #[arg(long)]
    isolation: bool,
    /// The same on another kernel under QEMU, which has more peers: 6.1, 6.12, 7.x.
    #[arg(long, value_name = "KERNEL", requires = "isolation")]
    vm: Option<String>,
    /// A packet's cost in these programs and in those of FILE instead, in turns: an object of eBPF, or the `bench-turns` of another
    /// commit. `--help` behind `--` has its options.
    #[arg(long, value_name = "FILE", conflicts_with = "isolation")]
    against: Vec<PathBuf>,
    /// There the clock counts instructions, even if this machine has KVM (without, it always does).
    #[arg(long, requires = "vm")]
    virtual_time: bool,
    /// How fast records come to each sink instead, and what that costs; stored in bench/results/sinks.jsonl.
    #[arg(long, conflicts_with = "isolation")]
    sinks: bool,
    /// Handed on to criterion: a filter, or its options. `meter` also runs octroi beside its peers.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// A line of `bench/results/criterion.ndjson`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Measured {
    commit: String,
    kernel: String,
    bench: String,
    /// The median of one iteration.
    value_ns: f64,
}

/// Criterion's `benchmark.json`.
#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
}

/// Criterion's `estimates.json`.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

impl Bench {
    /// Runs the subcommand.
    pub fn run(self) -> Result<ExitCode> {
        setup::run(Need::Build)?;
        let first = self.args.first().map(String::as_str);
        if self.isolation || first == Some("isolation") {
            return self.isolation();
        }
        if !self.against.is_empty() {
            return self.in_turns();
        }
        if self.sinks {
            crate::sinks::run(self.short)?;
            return Ok(ExitCode::SUCCESS);
        }
        let begin = SystemTime::now();
        let peers = host::target_dir().join("peers.ndjson");
        let compares = self.args.iter().any(|arg| arg.starts_with("meter"));
        if compares {
            setup::peers()?;
            let _ = fs::remove_file(&peers);
            host::run(host::cargo().args(["build", "--release", "--bin", "octroi"]))?;
        }
        let mut cargo = host::cargo();
        cargo.env("OCTROI_PEERS_RESULTS", &peers);
        cargo.args(["bench", "--package", "bench", "--"]);
        if self.short {
            cargo.args(SHORT);
        }
        let status = cargo
            .args(&self.args)
            .status()
            .context("cargo does not run")?;
        if !status.success() {
            anyhow::bail!("the benches do not run: {status}");
        }

        let stored = host::root().join("bench/results/criterion.ndjson");
        let before = read(&stored)?;
        let now = measured(&host::target_dir().join("criterion"), begin)?;
        print!("{}{}", table(&now, &before), goals(&now));
        if self.store {
            append(&stored, &now)?;
            say(format!(
                "bench: {} results appended to {}",
                now.len(),
                stored.display()
            ));
            if compares {
                let stored = host::root().join("bench/results/peers.ndjson");
                let compared = compared(&peers)?;
                append(&stored, &compared)?;
                say(format!(
                    "bench: {} runs appended to {}",
                    compared.len(),
                    stored.display()
                ));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Bench {
    /// The table beside what would be used instead: its program is of the crate `bench`.
    fn isolation(&self) -> Result<ExitCode> {
        build()?;
        let program = host::target_dir().join("release/bench-isolation");
        if let Some(kernel) = &self.vm {
            return self.isolation_in_vm(kernel, program);
        }
        let mut bench = Command::new(program);
        bench.args(["--commit", &host::commit().unwrap_or_default()]);
        bench.arg("--root").arg(host::root());
        if self.short {
            bench.arg("--short");
        }
        let named = usize::from(self.args.first().is_some_and(|arg| arg == "isolation"));
        let status = bench
            .args(&self.args[named..])
            .status()
            .context("bench-isolation does not run")?;
        anyhow::ensure!(status.success(), "bench --isolation: {status}");
        Ok(ExitCode::SUCCESS)
    }
}

/// Builds the programs of the crate `bench`, among others.
fn build() -> Result<()> {
    host::run(host::cargo().args(["build", "--release", "--workspace", "--bins"]))
}

impl Bench {
    /// Two builds of the gate side by side.
    fn in_turns(&self) -> Result<ExitCode> {
        build()?;
        let mut bench = Command::new(host::target_dir().join("release/bench-turns"));
        for against in &self.against {
            bench.arg("--against").arg(against);
        }
        if self.short {
            bench.args(["--turns", "10", "--rounds", "1"]);
        }
        let status = bench.args(&self.args).status();
        let status = status.context("bench-turns does not run")?;
        anyhow::ensure!(status.success(), "bench --against: {status}");
        Ok(ExitCode::SUCCESS)
    }
}

/// Longest run of all scenarios in a machine of QEMU's, of this host's time.
const VM_LIMIT: Duration = Duration::from_hours(12);

/// What stands before a figure in the output of `bench-isolation --lines`.
const FIGURE: &str = "FIGURE: ";

impl Bench {
    /// The same in a machine of QEMU's, whose figures come out on its console.
    fn isolation_in_vm(&self, kernel: &str, program: PathBuf) -> Result<ExitCode> {
        let clock = if self.virtual_time || !vm::has_kvm() {
            vm::Clock::Virtual
        } else {
            vm::Clock::Real
        };
        let machine = match vm::Machine::new(kernel) {
            Ok(machine) => machine.with(clock),
            Err(reason) => {
                println!("SKIPPED: bench --isolation --vm {kernel}: {reason:#}");
                return Ok(vm::SKIPPED.into());
            }
        };
        let mut words = vec![program.display().to_string(), "--lines".into()];
        words.extend(["--commit".into(), host::commit().unwrap_or_default()]);
        if clock == vm::Clock::Virtual {
            say(
                "bench: in virtual time: a second of the machine's takes several, and less where it idles",
            );
            words.extend(["--machine".into(), "virtual time".into()]);
        }
        if self.short {
            words.push("--short".into());
        }
        words.extend(self.args.iter().cloned());
        let words: Vec<String> = words.iter().map(|word| vm::quoted(word)).collect();
        let job = vm::Job {
            programs: vec![program.clone()],
            files: Vec::new(),
            command: words.join(" "),
            limit: VM_LIMIT,
            lean: false,
        };
        let stored = host::root().join("bench/results/isolation.jsonl");
        // As the program itself does it: a table has all systems.
        let stores = !self.short && !self.args.iter().any(|arg| arg.starts_with("--system"));
        let (mut figures, mut failed) = (String::new(), None);
        // Stored with each scenario: what was measured is not lost with what comes after. In one go, for another machine may
        // measure other scenarios at the same time.
        let mut keep = |figures: &mut String| {
            let file = OpenOptions::new().create(true).append(true).open(&stored);
            let kept = file.and_then(|mut file| file.write_all(figures.as_bytes()));
            failed = failed.take().or(kept.err());
            figures.clear();
        };
        let status = machine.run(job, |line| match line.strip_prefix(FIGURE) {
            Some(figure) if stores => {
                figures.push_str(figure);
                figures.push('\n');
            }
            _ => {
                if !figures.is_empty() {
                    keep(&mut figures);
                }
                println!("{line}");
            }
        })?;
        keep(&mut figures);
        if let Some(error) = failed {
            return Err(error).context("a figure could not be stored");
        }
        if stores {
            let mut publish = Command::new(program);
            publish.arg("--root").arg(host::root()).arg("--publish");
            host::run(&mut publish)?;
        }
        Ok(u8::try_from(status).unwrap_or(1).into())
    }
}

/// The runs beside peers, with the commit and the kernel that they are of.
fn compared(file: &Path) -> Result<Vec<serde_json::Value>> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let (commit, kernel) = (host::commit().unwrap_or_default(), host::kernel()?);
    let runs = text.lines().map(|line| {
        let mut run: serde_json::Value = serde_json::from_str(line)?;
        run["commit"] = commit.clone().into();
        run["kernel"] = kernel.clone().into();
        Ok(run)
    });
    runs.collect()
}

/// What criterion has written below `dir` since `begin`, by name.
fn measured(dir: &Path, begin: SystemTime) -> Result<Vec<Measured>> {
    let commit = host::commit().unwrap_or_else(|_| "unknown".into());
    let kernel = host::kernel()?;
    let mut reports = Vec::new();
    find_reports(dir, &mut reports)?;
    let mut results = Vec::new();
    for report in reports {
        let file = report.join("estimates.json");
        // Results of a bench that was not run this time, or that is no more.
        if fs::metadata(&file)?.modified()? < begin {
            continue;
        }
        let estimates: Estimates = serde_json::from_slice(&fs::read(&file)?)?;
        let benchmark: Benchmark =
            serde_json::from_slice(&fs::read(report.join("benchmark.json"))?)?;
        results.push(Measured {
            commit: commit.clone(),
            kernel: kernel.clone(),
            bench: benchmark.full_id,
            value_ns: (estimates.median.point_estimate * 100.0).round() / 100.0,
        });
    }
    results.sort_by(|a, b| a.bench.cmp(&b.bench));
    Ok(results)
}

/// All directories `new` with estimates in them.
fn find_reports(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        if path.ends_with("new") && path.join("estimates.json").is_file() {
            found.push(path);
        } else if path.is_dir() {
            find_reports(&path, found)?;
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<Measured>> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("{}: {line}", file.display()))
        })
        .collect()
}

fn append<T: Serialize>(file: &Path, results: &[T]) -> Result<()> {
    fs::create_dir_all(file.parent().context("a file without a directory")?)?;
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    for result in results {
        writeln!(file, "{}", serde_json::to_string(result)?)?;
    }
    Ok(())
}

/// Each result beside the last stored one, of the same kernel if there is one.
fn table(now: &[Measured], before: &[Measured]) -> String {
    let width = now
        .iter()
        .map(|result| result.bench.chars().count())
        .max()
        .unwrap_or(5);
    let mut table = format!(
        "\n{:width$} {:>14} {:>14} {:>8}\n",
        "bench", "now ns", "stored ns", "change"
    );
    for result in now {
        let same_bench = || before.iter().rev().filter(|old| old.bench == result.bench);
        let old = same_bench()
            .find(|old| old.kernel == result.kernel)
            .or_else(|| same_bench().next());
        table += &format!("{:width$} {:>14.2}", result.bench, result.value_ns);
        table += &match old {
            None => format!(" {:>14} {:>8}\n", "-", "-"),
            Some(old) => {
                let change = (result.value_ns / old.value_ns - 1.0) * 100.0;
                let kernel = if old.kernel == result.kernel {
                    ""
                } else {
                    &old.kernel
                };
                let from = format!("({} {kernel}", old.commit);
                format!(
                    " {:>14.2} {change:>+7.1}% {})\n",
                    old.value_ns,
                    from.trim_end()
                )
            }
        };
    }
    table
}

/// A port that is alone costs this much more than the empty program, at most, ns.
const HOT_NS: f64 = 60.0;
/// Zipf(1.1) over 10,000 ports costs this much of the port that is alone, at most.
const ZIPF: f64 = 1.3;

/// The gate's times against what they should be, both of this run. Nothing when it was not measured.
fn goals(now: &[Measured]) -> String {
    let of = |name: &str| Some(now.iter().find(|found| found.bench == name)?.value_ns);
    let (mut text, mut met, mut all) = (String::new(), 0, 0);
    let mut goal = |what: String, value: f64, most: f64, unit: &str| {
        let says = if value <= most { "met" } else { "missed" };
        met += i32::from(value <= most);
        all += 1;
        text += &format!("GOAL: {what}: {value:.2} {unit}, at most {most} {unit}: {says}\n");
    };
    for direction in ["from_tenant", "to_tenant"] {
        for limit in ["unlimited", "below"] {
            let cost = |spread: &str| of(&format!("gate/{direction}/{limit}/{spread}"));
            let (Some(empty), Some(hot), Some(zipf)) =
                (of("gate/empty"), cost("hot"), cost("zipf"))
            else {
                continue;
            };
            let port = format!("{direction}, {limit}, one port above the empty program");
            goal(port, hot - empty, HOT_NS, "ns");
            goal(
                format!("{direction}, {limit}, Zipf"),
                zipf / hot,
                ZIPF,
                "times",
            );
        }
    }
    if all == 0 {
        return text;
    }
    format!("\n{text}GOALS: {met} of {all} met\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(kernel: &str, bench: &str, value_ns: f64) -> Measured {
        Measured {
            commit: "abc".into(),
            kernel: kernel.into(),
            bench: bench.into(),
            value_ns,
        }
    }

    #[test]
    fn compares_with_the_last_result_of_the_same_kernel() {
        let before = [
            result("6.1", "gcra", 50.0),
            result("6.18", "gcra", 40.0),
            result("6.1", "gcra", 80.0),
        ];
        let table = table(
            &[result("6.18", "gcra", 60.0), result("6.18", "new", 1.0)],
            &before,
        );
        assert!(
            table.contains("60.00          40.00   +50.0% (abc)"),
            "{table}"
        );
        assert!(
            table.lines().last().unwrap().ends_with("-        -"),
            "{table}"
        );
    }

    #[test]
    fn finds_what_criterion_wrote() {
        let dir = std::env::temp_dir().join(format!("xtask-bench-{}", std::process::id()));
        let new = dir.join("group/bench/new");
        fs::create_dir_all(&new).unwrap();
        fs::write(
            new.join("benchmark.json"),
            r#"{"full_id":"group/bench","title":"x"}"#,
        )
        .unwrap();
        fs::write(
            new.join("estimates.json"),
            r#"{"median":{"point_estimate":12.345}}"#,
        )
        .unwrap();
        let found = measured(&dir, SystemTime::UNIX_EPOCH).unwrap();
        let future = SystemTime::now() + std::time::Duration::from_secs(60);
        assert!(measured(&dir, future).unwrap().is_empty());
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(
            (found[0].bench.as_str(), found[0].value_ns),
            ("group/bench", 12.35)
        );
    }

    #[test]
    fn stored_results_come_back() {
        let file = std::env::temp_dir().join(format!("xtask-{}.ndjson", std::process::id()));
        let results = [result("6.18", "a", 1.5), result("6.18", "b", 2.0)];
        append(&file, &results[..1]).unwrap();
        append(&file, &results[1..]).unwrap();
        let back = read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(back, results);
    }
}
