//! Runs all tests, here and on the oldest supported kernel, and counts them.
//!
//! Cargo builds the test binaries, and this runs them, so that each can have its own number of threads, a
//! time limit, and a place in the sum. Those of the root package make network namespaces and load programs:
//! one test at a time. Which of them run on the other kernel, too, stands in the root `Cargo.toml`:
//!
//! ```toml
//! [package.metadata.vm]
//! tests = ["netns"]
//! virtual = ["queues"]  # there the machine's clock counts instructions
//! only = ["clock"]      # these would harm this machine: they run there alone
//! ```

use std::env;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Deserialize;

use crate::accept;
use crate::host::{self, say};
use crate::power_cut;
use crate::setup::{self, Need};
use crate::tally::Tally;
use crate::vm::{self, Clock, Job, Machine};

/// The oldest kernel that is supported.
const OLDEST_KERNEL: &str = "6.1";

/// An emulated machine is slow, and there may be many tests.
const VM_LIMIT: Duration = Duration::from_mins(20);

/// Run all tests, and count passed, failed and skipped.
#[derive(Args)]
pub struct Test {
    /// Fewer cases, and no virtual machine.
    #[arg(long, conflicts_with = "long")]
    quick: bool,
    /// Many more cases: hours.
    #[arg(long)]
    long: bool,
}

/// How much the tests try. They read it in `OCTROI_TEST_LEVEL`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Quick,
    Normal,
    Long,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Normal => "normal",
            Self::Long => "long",
        }
    }

    /// What a test binary may take.
    fn limit(self) -> Duration {
        match self {
            Self::Quick => Duration::from_mins(15),
            Self::Normal => Duration::from_mins(40),
            Self::Long => Duration::from_hours(12),
        }
    }
}

/// A test binary that cargo built.
struct Binary {
    package: String,
    target: String,
    executable: PathBuf,
    /// The directory of its package.
    dir: PathBuf,
}

impl Binary {
    fn name(&self) -> String {
        format!("{}/{}", self.package, self.target)
    }

    fn of_root_package(&self) -> bool {
        self.dir == host::root()
    }
}

/// A message of `cargo --message-format=json`, as far as it is read here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Counts, and keeps all that the tests print.
struct Recorder {
    tally: Tally,
    log: File,
}

impl Recorder {
    fn heading(&mut self, name: &str) {
        println!("\n== {name}");
        self.record(&format!("== {name}"));
    }

    fn line(&mut self, line: &str) {
        self.record(line);
        if self.tally.line(line) {
            println!("{line}");
        }
    }

    /// A full disk shall not end the tests.
    fn record(&mut self, line: &str) {
        let _ = writeln!(self.log, "{line}");
    }
}

impl Test {
    /// Runs the subcommand.
    pub fn run(self) -> Result<ExitCode> {
        setup::run(Need::Test)?;
        let level = self.level();
        let target = host::target_dir();
        fs::create_dir_all(&target)?;
        let log = target.join("test.log");
        let summary = target.join("test-summary.txt");
        // Whatever happens now, an old summary must not be taken for this run's.
        fs::write(&summary, "0 passed, 1 failed, 0 skipped\n")?;

        let mut recorder = Recorder {
            tally: Tally::default(),
            log: File::create(&log)?,
        };
        // `accept --of-run` writes it beside what it finds here.
        recorder.record(&format!("{}{}", accept::run::COMMIT, host::commit()?));
        match build() {
            Ok(binaries) => {
                let only = vm_tests("only")?;
                // Without a virtual machine they are run here, to say that they are skipped.
                let here =
                    |binary: &&Binary| level == Level::Quick || !only.contains(&binary.target);
                for binary in binaries.iter().filter(here) {
                    run_binary(binary, level, &mut recorder)?;
                }
                run_doc_tests(level, &mut recorder)?;
                if level == Level::Quick {
                    say("test: --quick leaves the virtual machine out");
                } else {
                    run_in_vm(&binaries, level, &mut recorder)?;
                    cut_power(&binaries, level, &mut recorder)?;
                }
            }
            Err(error) => recorder.tally.fail(&format!("{error:#}")),
        }

        let tally = recorder.tally;
        fs::write(&summary, format!("{tally}\n"))?;
        say(format!("test: all output is in {}", log.display()));
        print!("\n{}\n{tally}\n", tally.report());
        Ok(ExitCode::from(u8::from(tally.failed > 0)))
    }

    fn level(&self) -> Level {
        match (
            self.quick,
            self.long,
            env::var("OCTROI_TEST_LEVEL").as_deref(),
        ) {
            (true, _, _) | (false, false, Ok("quick")) => Level::Quick,
            (_, true, _) | (_, _, Ok("long")) => Level::Long,
            _ => Level::Normal,
        }
    }
}

/// Builds all tests of the workspace. Those of the root package come last: they take longest.
fn build() -> Result<Vec<Binary>> {
    let mut cargo = host::cargo();
    cargo.args(["test", "--workspace", "--release", "--no-run"]);
    let mut binaries = built(&mut cargo)?;
    binaries.sort_by_key(Binary::of_root_package);
    Ok(binaries)
}

/// The test binaries that this cargo builds.
fn built(cargo: &mut Command) -> Result<Vec<Binary>> {
    let mut child = cargo
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut binaries = Vec::new();
    for line in BufReader::new(stdout).lines() {
        binaries.extend(binary(&line?)?);
    }
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "the tests do not build");
    Ok(binaries)
}

/// Builds one integration test of the root package, and octroi with it.
///
/// # Errors
/// When it does not build, or there is none of this name.
pub fn build_one(name: &str) -> Result<PathBuf> {
    let mut cargo = host::cargo();
    // Of the workspace, as all of them together: with other features everything would be built once more.
    cargo.args([
        "test",
        "--workspace",
        "--release",
        "--no-run",
        "--test",
        name,
    ]);
    let binaries = built(&mut cargo)?;
    let found = binaries.into_iter().find(|binary| binary.target == name);
    Ok(found
        .with_context(|| format!("there is no test {name}"))?
        .executable)
}

/// The test binary that a message of cargo's announces, if it does.
fn binary(message: &str) -> Result<Option<Binary>> {
    let message: Message = serde_json::from_str(message).context("cargo prints no JSON")?;
    let Message {
        reason,
        manifest_path: Some(manifest),
        target: Some(target),
        profile: Some(Profile { test: true }),
        executable: Some(executable),
    } = message
    else {
        return Ok(None);
    };
    let dir = manifest
        .parent()
        .context("a manifest without a directory")?;
    if reason != "compiler-artifact" {
        return Ok(None);
    }
    let package = dir.file_name().unwrap_or_default().to_string_lossy();
    let is_test = target.kind.iter().any(|kind| kind == "test");
    Ok(Some(Binary {
        package: if dir == host::root() {
            "octroi".into()
        } else {
            package.into_owned()
        },
        target: if is_test {
            target.name
        } else {
            target.kind.join(" ")
        },
        executable,
        dir: dir.to_owned(),
    }))
}

fn run_binary(binary: &Binary, level: Level, recorder: &mut Recorder) -> Result<()> {
    let name = binary.name();
    recorder.heading(&name);
    recorder.tally.begin(&name);
    let mut command = host::with_time_limit(level.limit(), &binary.executable);
    command
        .current_dir(&binary.dir)
        .env("CARGO_MANIFEST_DIR", &binary.dir)
        .env("OCTROI_TEST_LEVEL", level.name())
        .arg("--show-output");
    if binary.of_root_package() {
        command.arg("--test-threads=1");
    }
    let status = host::stream(&mut command, |line| recorder.line(line))?;
    let how = if host::timed_out(status) {
        format!("not finished after {} s", level.limit().as_secs())
    } else {
        status.to_string()
    };
    recorder.tally.end(status.success(), &how);
    Ok(())
}

fn run_doc_tests(level: Level, recorder: &mut Recorder) -> Result<()> {
    recorder.heading("doc tests");
    recorder.tally.begin("doc tests");
    let mut cargo = host::cargo();
    cargo
        .args([
            "test",
            "--workspace",
            "--release",
            "--doc",
            "--no-fail-fast",
        ])
        .env("OCTROI_TEST_LEVEL", level.name());
    let status = host::stream(&mut cargo, |line| recorder.line(line))?;
    recorder.tally.end(status.success(), &status.to_string());
    Ok(())
}

/// Runs the demo, and the tests that the manifest names, on the oldest kernel.
fn run_in_vm(binaries: &[Binary], level: Level, recorder: &mut Recorder) -> Result<()> {
    recorder.heading(&format!("kernel {OLDEST_KERNEL}"));
    let mut machine = match Machine::new(OLDEST_KERNEL) {
        Ok(machine) => machine,
        Err(reason) => {
            let skip = format!("kernel {OLDEST_KERNEL}: {reason:#}");
            recorder.tally.skip_whole(&skip);
            return Ok(());
        }
    };
    let mut chosen = vm_tests("tests")?;
    chosen.extend(vm_tests("only")?);
    let in_virtual_time = vm_tests("virtual")?;
    chosen.extend(in_virtual_time.iter().cloned());
    for binary in binaries.iter().filter(|binary| binary.of_root_package()) {
        // That one is not run to its end.
        if !chosen.contains(&binary.target) || binary.target == power_cut::INSIDE {
            continue;
        }
        let name = format!("kernel {OLDEST_KERNEL}: {}", binary.name());
        recorder.heading(&name);
        recorder.tally.begin(&name);
        let command = format!(
            "export OCTROI_TEST_LEVEL={}\n{}",
            level.name(),
            command(&binary.executable, "--show-output")
        );
        let job = Job {
            programs: vec![binary.executable.clone()],
            files: fixtures(&binary.dir.join("tests"))?,
            command,
            limit: VM_LIMIT,
            lean: false,
        };
        machine = machine.with(if in_virtual_time.contains(&binary.target) {
            Clock::Virtual
        } else {
            Clock::Real
        });
        match machine.run(job, |line| recorder.line(line)) {
            Ok(status) => recorder
                .tally
                .end(status == 0, &format!("exit status {status}")),
            Err(error) => recorder.tally.end(false, &format!("{error:#}")),
        }
    }
    run_demo_in_vm(&machine.with(Clock::Real), recorder);
    Ok(())
}

fn run_demo_in_vm(machine: &Machine, recorder: &mut Recorder) {
    let name = format!("kernel {OLDEST_KERNEL}: {}", vm::DEFAULT_COMMAND);
    recorder.heading(&name);
    let job = Job {
        programs: Vec::new(),
        files: Vec::new(),
        command: vm::DEFAULT_COMMAND.to_owned(),
        limit: VM_LIMIT,
        lean: false,
    };
    recorder.tally.begin(&name);
    let result = machine.run(job, |line| {
        recorder.record(line);
        println!("{line}");
    });
    recorder.tally.end(true, "");
    match result {
        Ok(0) => recorder.tally.pass(),
        Ok(status) => recorder
            .tally
            .fail(&format!("{name}: exit status {status}")),
        Err(error) => recorder.tally.fail(&format!("{name}: {error:#}")),
    }
}

/// Cuts the power of a host under traffic: `power_cut.rs` says how, and needs its test alone.
fn cut_power(binaries: &[Binary], level: Level, recorder: &mut Recorder) -> Result<()> {
    recorder.heading("power cut");
    let machine = match power_cut::possible(OLDEST_KERNEL) {
        Ok(machine) => machine,
        Err(reason) => {
            recorder.tally.skip_whole(&format!("power cut: {reason:#}"));
            return Ok(());
        }
    };
    let inside = binaries
        .iter()
        .find(|binary| binary.target == power_cut::INSIDE);
    let inside = inside.context("the inside of the power cut is not built")?;
    let times = power_cut::times(level);
    recorder.tally.begin("power cut");
    let done = power_cut::run(&machine, &inside.executable, times, None, |line| {
        println!("{line}");
        recorder.line(line);
    });
    recorder.tally.end(true, "");
    match done {
        Ok(()) => recorder.tally.pass(),
        Err(error) => recorder.tally.fail(&format!("power cut: {error:#}")),
    }
    Ok(())
}

/// The integration tests that the root package wants to run on the other kernel: `tests`, `virtual`, or `only`.
fn vm_tests(key: &str) -> Result<Vec<String>> {
    let manifest = fs::read_to_string(host::root().join("Cargo.toml"))?;
    let manifest: toml_edit::DocumentMut = manifest.parse()?;
    let metadata = manifest
        .get("package")
        .and_then(|package| package.get("metadata"));
    let tests = metadata.and_then(|metadata| metadata.get("vm")?.get(key)?.as_array());
    let names = tests.into_iter().flatten().filter_map(|name| name.as_str());
    Ok(names.map(str::to_owned).collect())
}

/// Runs a test binary, as a line for the shell at the root of the repository.
pub fn command(executable: &Path, option: &str) -> String {
    let executable = vm::quoted(&executable.to_string_lossy());
    format!("export CARGO_MANIFEST_DIR=$PWD\n{executable} {option} --test-threads=1")
}

/// What lies beside the tests, but for the fuzz targets: they have a build directory of their own.
pub fn fixtures(tests: &Path) -> Result<Vec<PathBuf>> {
    let mut fixtures = Vec::new();
    for entry in fs::read_dir(tests)? {
        let path = entry?.path();
        if !path.ends_with("fuzz") {
            fixtures.push(path);
        }
    }
    Ok(fixtures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_test_binaries_alone_from_what_cargo_says() {
        let artifact = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/r/metering/Cargo.toml",
                "target":{{"name":"ledger","kind":["test"]}},"profile":{{"test":{test}}},
                "executable":{executable}}}"#
            )
        };
        let found = binary(&artifact(true, r#""/t/ledger-1""#))
            .unwrap()
            .unwrap();
        assert_eq!(found.name(), "metering/ledger");
        assert!(
            binary(&artifact(false, r#""/t/octroi""#))
                .unwrap()
                .is_none()
        );
        assert!(binary(&artifact(true, "null")).unwrap().is_none());
        assert!(binary(r#"{"reason":"build-finished"}"#).unwrap().is_none());
    }
}
