//! Runs a command on another kernel: one of Debian's, under QEMU; with KVM where this machine has it, else emulated.
//!
//! The machine has the kernel's modules and a handful of the host's programs in an initramfs, and no disk.
//! What the command prints comes back as it was written, and its exit status is handed on.
//! Where rates and times are to be measured, its clock counts instructions: see [`Clock`].

mod apt;
mod initramfs;
mod kernel;
mod newc;

use std::fs;
use std::path::{Path, PathBuf, absolute};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::host::{self, say};
use crate::setup::{self, Need};
use crate::test;

/// What `init.sh` prints before the command's exit status.
const MARKER: &str = "OCTROI-VM-EXIT:";

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";

/// The exit status of what could not run here, as automake and others have it.
pub const SKIPPED: u8 = 77;

/// Run a command on another kernel, under QEMU.
#[derive(Args)]
pub struct Vm {
    /// The kernel: 6.1, 6.12, 7.x (the newest 7 there is).
    #[arg(long, default_value = "6.1")]
    kernel: String,
    /// A test of the root package: it is built, taken along with its fixtures, and run.
    #[arg(long, value_name = "NAME", conflicts_with = "command")]
    test: Option<String>,
    /// Its clock counts instructions, 10^9 a second, however slow the emulation is: one processor, no KVM.
    #[arg(long)]
    virtual_time: bool,
    /// Another program to take along, with its libraries. May be repeated.
    #[arg(long = "binary", value_name = "PATH")]
    binaries: Vec<PathBuf>,
    /// Another file or directory to take along. May be repeated.
    #[arg(long = "file", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Seconds of this host's after which the machine is switched off.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// The command: a line for the shell.
    #[arg(last = true)]
    command: Vec<String>,
}

impl Vm {
    /// Runs the subcommand.
    pub fn run(mut self) -> Result<ExitCode> {
        setup::run(Need::Test)?;
        if let Some(name) = &self.test {
            let executable = test::build_one(name)?;
            self.command = vec![test::command(&executable, "--nocapture")];
            self.binaries.push(executable);
            self.files
                .extend(test::fixtures(&host::root().join("tests"))?);
        }
        let command = match self.command.join(" ") {
            command if command.is_empty() => DEFAULT_COMMAND.to_owned(),
            command => command,
        };
        let clock = if self.virtual_time {
            Clock::Virtual
        } else {
            Clock::Real
        };
        let machine = match Machine::new(&self.kernel) {
            Ok(machine) => machine.with(clock),
            Err(reason) => {
                println!("SKIPPED: vm {}: {reason:#}", self.kernel);
                return Ok(SKIPPED.into());
            }
        };
        let job = Job {
            programs: self.binaries,
            files: self.files,
            command,
            limit: Duration::from_secs(self.timeout),
            lean: false,
        };
        let status = machine.run(job, |line| println!("{line}"))?;
        Ok(u8::try_from(status).unwrap_or(1).into())
    }
}

/// What a machine does when it is told nothing else.
pub const DEFAULT_COMMAND: &str = "octroi demo --seconds 12 --json";

/// What a machine is to do. octroi, if it is built, is always there.
pub struct Job {
    /// Programs to take along.
    pub programs: Vec<PathBuf>,
    /// Files and directories to take along.
    pub files: Vec<PathBuf>,
    /// A script for the shell, run at the root of the repository.
    pub command: String,
    /// The time it may take, booting included.
    pub limit: Duration,
    /// No more modules and tools than a site of the laboratory needs: it boots sooner.
    pub lean: bool,
}

/// What the machine's clock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The host's: two processors, which are as fast as they are.
    Real,
    /// A count of instructions: one processor, and a ns passes with each. Where it idles, the clock goes on to the next timer.
    /// Rates, round trips and timers are so in proportion to each other whatever else the host does, and a run can be
    /// repeated. Two processors would take turns at the same instructions, so one has all of them.
    Virtual,
}

/// A machine that could be booted.
pub struct Machine {
    kernel: kernel::Kernel,
    clock: Clock,
    cache: PathBuf,
}

impl Machine {
    /// # Errors
    /// The reason why this kernel cannot be had here.
    pub fn new(series: &str) -> Result<Self> {
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '.';
        ensure!(
            series.chars().all(valid),
            "{series:?} is not a kernel's version"
        );
        ensure!(cfg!(target_arch = "x86_64"), "only x86-64 is supported");
        host::find(QEMU).with_context(|| format!("{QEMU} is not installed"))?;
        let cache = host::target_dir().join("vm").join(series);
        let kernel = kernel::fetch(series, &cache)?;
        Ok(Self {
            kernel,
            clock: Clock::Real,
            cache,
        })
    }

    /// The same with another clock.
    pub fn with(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Boots, runs the job and returns its exit status. `on_line` gets what the job prints.
    ///
    /// # Errors
    /// When the machine did not come to the end of the job: it hung, crashed or was too slow.
    pub fn run(&self, job: Job, mut on_line: impl FnMut(&str)) -> Result<i32> {
        let initramfs = self.initramfs("initramfs", &job)?;
        say(format!("vm: booting {}", self.kernel.release));
        let begin = Instant::now();
        let console = self.cache.join("console.log");
        let mut exit = None;
        let qemu = host::with_time_limit(job.limit, QEMU);
        let status = host::stream(&mut self.boot(qemu, &initramfs, &console, ""), |line| {
            let (output, marker) = line
                .split_once(MARKER)
                .map_or((line, None), |(a, b)| (a, Some(b)));
            if marker.is_none() || !output.is_empty() {
                on_line(output);
            }
            if let Some(marker) = marker {
                exit = marker.trim().parse().ok();
            }
        })?;
        if let Some(exit) = exit {
            say(format!(
                "vm: exit status {exit} after {} s",
                begin.elapsed().as_secs()
            ));
            return Ok(exit);
        }
        show_tail(&console);
        if host::timed_out(status) {
            bail!(
                "the machine was switched off after {} s",
                job.limit.as_secs()
            );
        }
        bail!("the machine ended without an exit status ({status}): see the console above")
    }

    /// Writes the root file system of a job to a file of this name.
    ///
    /// # Errors
    /// When something that it is to have is not there.
    pub fn initramfs(&self, name: &str, job: &Job) -> Result<PathBuf> {
        let mut programs = Vec::new();
        for program in &job.programs {
            programs.push(absolute(program)?);
        }
        let octroi = host::target_dir().join("release/octroi");
        programs.extend(Some(octroi).filter(|octroi| octroi.is_file()));
        let mut files = Vec::new();
        for file in &job.files {
            files.push(absolute(file)?);
        }
        let content = initramfs::Content {
            programs: &programs,
            files: &files,
            script: &script(&job.command, self.clock),
            lean: job.lean,
        };
        let initramfs = self.cache.join(name);
        fs::write(
            &initramfs,
            initramfs::build(&self.kernel, &content, &self.cache)?,
        )?;
        Ok(initramfs)
    }

    /// Completes the command `qemu`, which so far says how QEMU is called. The job's output is its standard
    /// output; `console` is the kernel's; `words` go to the kernel's command line.
    pub fn boot(
        &self,
        mut qemu: Command,
        initramfs: &Path,
        console: &Path,
        words: &str,
    ) -> Command {
        // An oops must end the machine, or a broken kernel would pass for a working one.
        // no_timer_check: on a loaded machine the guest's check of its emulated timer fails, and it panics.
        const APPEND: &str =
            "console=ttyS0 panic=-1 oops=panic quiet mitigations=off no_timer_check";

        // The first that works: without KVM, times say nothing, but everything else is as it is.
        if has_kvm() && self.clock == Clock::Real {
            qemu.args(["-accel", "kvm"]);
        }
        qemu.args(self.clock.options());
        qemu.args(["-m", "2G", "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-serial", &format!("file:{}", console.display())])
            .args(["-serial", "stdio"])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", &format!("{APPEND} {words}")]);
        qemu
    }

    /// Where what belongs to this kernel is kept.
    pub fn cache(&self) -> &Path {
        &self.cache
    }
}

impl Clock {
    /// What makes it, as QEMU is told.
    const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Real => &["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"],
            Self::Virtual => &[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
                // Nothing of the host's time comes in, nor of its chance.
                "-rtc",
                "clock=vm,base=2026-01-01",
                "-seed",
                "1",
                // With them the kernel copies by an instruction for each byte, and each would be a ns.
                "-cpu",
                "max,-erms,-fsrm",
                "-smp",
                "1",
            ],
        }
    }
}

/// Whether QEMU may use the processor itself. A KVM without the processor's help (`kvm_pvm`) boots only kernels that were
/// built for it: Debian's end in an internal error.
pub fn has_kvm() -> bool {
    let helped = ["kvm_intel", "kvm_amd"];
    let mut options = fs::OpenOptions::new();
    helped
        .iter()
        .any(|name| Path::new("/sys/module").join(name).is_dir())
        && options.read(true).write(true).open("/dev/kvm").is_ok()
}

/// The job's command with the variables that octroi's tests read, and from where `cargo test` would call it.
fn script(command: &str, clock: Clock) -> String {
    let mut script = format!("cd {}\n", quoted(&host::root().to_string_lossy()));
    for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with("OCTROI_")) {
        script += &format!("export {name}={}\n", quoted(&value));
    }
    if clock == Clock::Virtual {
        script += "export OCTROI_VIRTUAL_TIME=1\n";
    }
    script + command + "\n"
}

/// A word for the shell.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Shows the end of the kernel's console.
pub fn show_tail(console: &Path) {
    const TAIL: usize = 60;

    let log = fs::read(console).unwrap_or_default();
    let lines: Vec<_> = log.split(|byte| *byte == b'\n').collect();
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        eprintln!("  {}", String::from_utf8_lossy(line).trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn quotes_for_the_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
