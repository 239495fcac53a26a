//! Cuts the power of a host under traffic, again and again, and holds its ledger against what was seen.
//!
//! A machine under QEMU has the daemon's ledger on a disk (`disk.rs`). A witness inside it
//! (`tests/power_cut.rs`) says all the time what the tenants' interfaces have carried and which records are
//! committed. At a moment that a seed chooses QEMU gets SIGKILL: while the ledger is opened, or under traffic.
//! What is then on the disk is repaired as a boot would do it, copied out, and judged by a program that
//! shares no code with octroi (`tests/verify/power_cut.py`); then the next machine boots from it.
//!
//! The last machine ends in peace. One image is judged that a disk would leave that lies when it is told to
//! flush: the judge has to find it out.

mod dice;
mod disk;
mod nbd;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Serialize;

use crate::host::{self, say};
use crate::setup::{self, Need};
use crate::test::{self, Level};
use crate::vm::{self, Job, Machine};
use dice::Dice;
use disk::{Cache, Disk};

/// The test whose binary is the inside of the machine.
pub const INSIDE: &str = "power_cut";

const PROGRAMS: [&str; 5] = ["mkfs.ext4", "e2fsck", "debugfs", "setpriv", "python3"];

/// Size of the disk, bytes.
const DISK: u64 = 96 << 20;

/// Above this, a machine that says nothing hangs.
const SILENCE: Duration = Duration::from_secs(240);

/// Cut the power of a host under traffic, and see what its ledger says.
#[derive(Args)]
pub struct PowerCut {
    /// How often.
    #[arg(long, default_value_t = 4)]
    times: u32,
    /// What chooses the moments, as a former run printed it.
    #[arg(long)]
    seed: Option<u64>,
    /// The kernel, as in `cargo xtask vm`.
    #[arg(long, default_value = "6.1")]
    kernel: String,
}

impl PowerCut {
    /// Runs the subcommand.
    pub fn run(self) -> Result<ExitCode> {
        setup::run(Need::Test)?;
        let machine = match possible(&self.kernel) {
            Ok(machine) => machine,
            Err(reason) => {
                println!("SKIPPED: power cut: {reason:#}");
                return Ok(vm::SKIPPED.into());
            }
        };
        let inside = test::build_one(INSIDE)?;
        run(&machine, &inside, self.times, self.seed, |line| {
            println!("{line}");
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A machine whose power can be cut here.
///
/// # Errors
/// The reason why there is none.
pub fn possible(kernel: &str) -> Result<Machine> {
    for program in PROGRAMS {
        host::find(program).with_context(|| format!("{program} is not installed"))?;
    }
    Machine::new(kernel)
}

/// How often the power is cut at a level.
pub fn times(level: Level) -> u32 {
    match level {
        Level::Quick => 0,
        Level::Normal => 4,
        Level::Long => 50,
    }
}

/// What was seen from outside; the judge reads it.
#[derive(Default, Serialize)]
struct Truth {
    /// Leaves of records that were said to be committed, by number.
    committed: BTreeMap<u64, String>,
    boots: Vec<Boot>,
}

/// What one machine said.
#[derive(Default, Serialize)]
struct Boot {
    boot_id: String,
    window: String,
    /// CLOCK_BOOTTIME when the witness began, ns.
    begun: i64,
    /// CLOCK_BOOTTIME when the daemon was started, ns.
    opening: i64,
    /// Counters when traffic began: what octroi may not have seen.
    before: Vec<u64>,
    /// CLOCK_BOOTTIME before and after, and the counters between.
    seen: Vec<Vec<i64>>,
    /// The counters in the end, of the machine that ended in peace.
    end: Vec<u64>,
    running: bool,
    /// That this daemon has committed.
    windows: u64,
}

/// When and how the power of a machine goes.
struct Plan {
    cache: Cache,
    window: &'static str,
    /// `after` is counted from the first packet and this number of committed windows; else from the
    /// daemon's start.
    under_traffic: bool,
    windows: u64,
    after: Duration,
    last: bool,
}

impl Plan {
    fn draw(dice: &mut Dice) -> Self {
        let window = *dice.pick(&["1s", "1s", "2s", "60s"]);
        let under_traffic = dice.below(4) != 0;
        // With long windows a checkpoint is all that is known: it comes after eight seconds.
        let (windows, ms) = match (under_traffic, window) {
            (false, _) => (0, dice.below(4_000)),
            (true, "60s") => (0, dice.below(14_000)),
            (true, _) => (dice.below(4), dice.below(2_500)),
        };
        Self {
            cache: *dice.pick(&[Cache::Through, Cache::Volatile, Cache::Volatile]),
            window,
            under_traffic,
            windows,
            after: Duration::from_millis(ms),
            last: false,
        }
    }
}

/// Cuts the power `times` times. `tell` gets a line for each and the sums.
///
/// # Errors
/// What the judge found, or why a machine did not come so far.
pub fn run(
    machine: &Machine,
    inside: &Path,
    times: u32,
    seed: Option<u64>,
    mut tell: impl FnMut(&str),
) -> Result<()> {
    let seed = seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64)
    });
    tell(&format!("power cut: seed {seed}"));
    let mut bench = Bench::new(machine, inside, seed)?;
    let mut dice = Dice::new(seed);
    let (mut under_traffic, mut unflushed, mut lies, mut judgement) = (0, 0, 0, String::new());
    for number in 0..=times {
        let mut plan = Plan::draw(&mut dice);
        if number == times {
            plan.last = true;
            plan.under_traffic = true;
        }
        let known = bench.truth.committed.len();
        let before = bench.directory.join("before.img");
        fs::copy(bench.image(), &before)?;
        let cut = bench
            .boot(&plan)
            .with_context(|| format!("machine {number}, seed {seed}"))?;
        let new = bench.truth.committed.len() - known;
        let image = bench.image();
        judgement = bench
            .judge(&image)
            .with_context(|| format!("machine {number}, seed {seed}"))?;
        if new > 0 && lies == 0 {
            // As if nothing that this machine flushed had come to the medium.
            let found = bench.judge(&before);
            ensure!(found.is_err(), "the judge believes a disk that lies");
            lies += 1;
        }
        let at = if plan.under_traffic {
            "of traffic"
        } else {
            "after the daemon's start"
        };
        tell(&format!(
            "power cut {number}: {} windows and {} ms {at}, windows of {}, {:?}: {} sectors lost, {} kept unflushed, {new} new \
             records; {judgement}",
            plan.windows,
            plan.after.as_millis(),
            plan.window,
            plan.cache,
            cut.lost,
            cut.kept,
        ));
        if !plan.last {
            under_traffic += u32::from(plan.under_traffic);
            unflushed += u32::from(cut.lost + cut.kept > 0);
        }
    }
    ensure!(lies > 0, "no machine committed a record: seed {seed}");
    tell(&format!("CASES: power cuts: {times}"));
    tell(&format!("CASES: power cuts under traffic: {under_traffic}"));
    tell(&format!(
        "CASES: power cuts with writes in the disk's cache: {unflushed}"
    ));
    tell(&format!("CASES: disks that lie, found out: {lies}"));
    tell(&format!("power cut: in the end {judgement}"));
    Ok(())
}

/// The host outside: the disk's image, and what was seen.
struct Bench<'a> {
    machine: &'a Machine,
    initramfs: PathBuf,
    directory: PathBuf,
    seed: u64,
    truth: Truth,
}

impl<'a> Bench<'a> {
    fn new(machine: &'a Machine, inside: &Path, seed: u64) -> Result<Self> {
        let directory = machine
            .cache()
            .join(format!("power-cut-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let name = inside.file_name().unwrap_or_default().to_string_lossy();
        let job = Job {
            programs: vec![inside.to_owned()],
            files: Vec::new(),
            command: format!(
                "modprobe virtio_pci; modprobe virtio_blk; modprobe ext4 2>/dev/null\n\
                 mkdir /disk && mount /dev/vda /disk && {} --nocapture",
                vm::quoted(&name)
            ),
            limit: SILENCE,
            lean: true,
        };
        let bench = Self {
            machine,
            initramfs: machine.initramfs("initramfs-power-cut", &job)?,
            directory,
            seed,
            truth: Truth::default(),
        };
        fs::File::create(bench.image())?.set_len(DISK)?;
        host::output(
            Command::new(program("mkfs.ext4"))
                .arg("-q")
                .arg(bench.image()),
        )?;
        Ok(bench)
    }

    fn image(&self) -> PathBuf {
        self.directory.join("disk.img")
    }

    /// Boots a machine from the image, and cuts its power when the plan says so.
    fn boot(&mut self, plan: &Plan) -> Result<disk::Cut> {
        let socket = self.directory.join("nbd.sock");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        let seed = self.seed ^ self.truth.boots.len() as u64;
        let disk = Disk::open(&self.image(), plan.cache, seed)?;
        let off = disk.off();
        let server = thread::spawn(move || nbd::serve(&listener, disk));
        let console = self.directory.join("console.log");
        let words = format!(
            "octroi.window={} octroi.next={} octroi.last={}",
            plan.window,
            self.truth.committed.len(),
            u8::from(plan.last)
        );
        // It goes when this process goes: nobody else would end it.
        let mut qemu = Command::new(program("setpriv"));
        qemu.args(["--pdeathsig", "KILL", vm::QEMU]);
        let mut qemu = self.machine.boot(qemu, &self.initramfs, &console, &words);
        qemu.args([
            "-blockdev",
            &format!(
                "driver=nbd,node-name=disk,server.type=unix,server.path={}",
                socket.display()
            ),
        ])
        .args([
            "-device",
            "virtio-blk-pci,drive=disk,discard=off,write-zeroes=off",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
        let mut child = qemu.spawn().context("qemu does not run")?;
        let lines = lines(&mut child)?;
        let mut boot = Boot {
            window: plan.window.into(),
            ..Boot::default()
        };
        let listened = self.listen(plan, &lines, &mut boot);
        off.store(!plan.last, Relaxed);
        child.kill()?;
        child.wait()?;
        let rest: Vec<String> = lines.iter().collect();
        for line in rest {
            take(&line, &mut boot, &mut self.truth.committed)?;
        }
        self.truth.boots.push(boot);
        if listened.is_err() {
            vm::show_tail(&console);
        }
        listened?;
        let disk = server
            .join()
            .map_err(|_| anyhow::anyhow!("the disk panicked"))??;
        Ok(disk.cut()?)
    }

    /// Hears the witness until it is time.
    fn listen(&mut self, plan: &Plan, lines: &Receiver<String>, boot: &mut Boot) -> Result<()> {
        let begun = Instant::now();
        let mut due = None;
        loop {
            let now = Instant::now();
            ensure!(begun.elapsed() < SILENCE, "it does not come to the point");
            if due.is_some_and(|due| now >= due) && !plan.last {
                return Ok(());
            }
            let wait = due.map_or(Duration::from_secs(1), |due| {
                due.saturating_duration_since(now)
            });
            match lines.recv_timeout(wait.min(Duration::from_secs(1))) {
                Ok(line) => {
                    let kind = take(&line, boot, &mut self.truth.committed)?;
                    let begins = match kind.as_str() {
                        "opening" => !plan.under_traffic,
                        "running" | "windows" => {
                            boot.running && boot.windows >= plan.windows && due.is_none()
                        }
                        _ => false,
                    };
                    if begins {
                        due = Some(Instant::now() + plan.after);
                    } else if kind == "end" {
                        return Ok(());
                    } else if kind.is_empty() && line.contains("rror") {
                        say(format!("power cut: {line}"));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the machine ended by itself"),
            }
        }
    }

    /// What the judge says of an image, as the next boot would find it.
    fn judge(&self, image: &Path) -> Result<String> {
        let copy = self.directory.join("judged.img");
        fs::copy(image, &copy)?;
        // Replays the file system's journal. 1: it repaired something.
        let mut e2fsck = Command::new(program("e2fsck"));
        let status = e2fsck
            .args(["-p"])
            .arg(&copy)
            .stdin(Stdio::null())
            .output()?
            .status;
        ensure!(
            matches!(status.code(), Some(0 | 1)),
            "the file system needs more than its journal: {status}"
        );
        let files = self.directory.join("files");
        let _ = fs::remove_dir_all(&files);
        fs::create_dir_all(&files)?;
        let mut debugfs = Command::new(program("debugfs"));
        let dump = format!("rdump / {}", files.display());
        host::output(debugfs.args(["-R", &dump]).arg(&copy))?;
        let truth = self.directory.join("truth.json");
        fs::write(&truth, serde_json::to_string(&self.truth)?)?;
        let mut python = Command::new("python3");
        python.arg(host::root().join("tests/verify/power_cut.py"));
        let output = python.arg(&truth).arg(&files).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            return Ok(said.trim().to_owned());
        }
        bail!("{}{}", said, String::from_utf8_lossy(&output.stderr))
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        // What a failure is to be understood from stays.
        if !thread::panicking() && std::env::var_os("OCTROI_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

fn program(name: &str) -> PathBuf {
    host::find(name).unwrap_or_else(|| name.into())
}

/// The lines of a child, as they come. A last one that is not whole was not said.
fn lines(child: &mut Child) -> Result<Receiver<String>> {
    let stdout = child.stdout.take().context("no output")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) && line.ends_with(b"\n") {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    Ok(receiver)
}

/// Takes a line of the witness, and returns what it was about; empty: not the witness.
fn take(line: &str, boot: &mut Boot, committed: &mut BTreeMap<u64, String>) -> Result<String> {
    let mut words = line.split_whitespace();
    if words.next() != Some("CUT") {
        return Ok(String::new());
    }
    let kind = words.next().unwrap_or_default();
    let words: Vec<&str> = words.collect();
    let numbers = || words.iter().map(|word| word.parse::<i64>());
    let counters = || words.iter().map(|word| word.parse::<u64>());
    match (kind, &words[..]) {
        ("boot", [id, time]) => {
            boot.boot_id = (*id).to_owned();
            boot.begun = time.parse()?;
        }
        ("opening", [time]) => boot.opening = time.parse()?,
        ("before", _) => boot.before = counters().collect::<Result<_, _>>()?,
        ("seen", _) => boot.seen.push(numbers().collect::<Result<_, _>>()?),
        ("end", _) => boot.end = counters().collect::<Result<_, _>>()?,
        ("committed", [seq, leaf]) => {
            let before = committed.insert(seq.parse()?, (*leaf).to_owned());
            ensure!(
                before.is_none_or(|before| before == *leaf),
                "record {seq} has changed"
            );
        }
        ("running", [_]) => boot.running = true,
        ("windows", [windows]) => boot.windows = windows.parse()?,
        _ => bail!("the witness says {line:?}"),
    }
    Ok(kind.to_owned())
}
