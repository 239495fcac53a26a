//! Two builds of the programs side by side: the same packets through each, in short turns, so that what else runs on the machine
//! meets all of them alike.
//!
//! Each build has processes of its own ([`worker`]), which stand ready and run a batch of `BPF_PROG_TEST_RUN` when it is their
//! turn. Of many turns the least tells what the code costs where nobody disturbs it, and the median of the differences
//! within a turn what it costs on this machine. Where maps and programs come to lie in memory differs from one loading to the next and
//! is worth some nanoseconds: so everything is loaded anew in each of some rounds.

pub mod worker;

use crate::cases;
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// What a comparison is made of.
#[derive(Clone, Debug)]
pub struct Turns {
    /// What is measured: as below; `None`: the programs that this was built with.
    pub this: Option<PathBuf>,
    /// What this is compared with: objects of eBPF, or executables of another commit's `bench-turns`.
    pub against: Vec<PathBuf>,
    /// Rows to be measured: whose names begin so. None: all.
    pub rows: Vec<String>,
    /// Turns in a round.
    pub turns: usize,
    /// Rounds, each with everything loaded anew.
    pub rounds: usize,
    /// Packets in a turn.
    pub batch: u32,
}

/// What can be measured: the gate, the gate that keeps flows, and what a policy makes of a packet.
pub fn rows() -> Vec<String> {
    let mut rows = vec!["empty".to_owned()];
    for kind in ["gate", "metered"] {
        for direction in ["from_tenant", "to_tenant"] {
            for limit in ["unlimited", "below"] {
                for spread in ["hot", "zipf"] {
                    rows.push(format!("{kind}/{direction}/{limit}/{spread}"));
                }
            }
        }
    }
    rows.extend(
        cases()
            .iter()
            .map(|case| format!("encryption/{}", case.name)),
    );
    rows
}

/// `EM_BPF`.
const BPF: [u8; 2] = 247_u16.to_le_bytes();

/// A process that measures one build.
struct Worker {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    name: String,
}

impl Worker {
    fn start(build: Option<&Path>) -> Result<Self> {
        let (mut command, name) = match build {
            None => (Command::new(std::env::current_exe()?), "this".to_owned()),
            Some(path) => {
                let elf = fs::read(path).with_context(|| format!("{}", path.display()))?;
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                ensure!(
                    elf.starts_with(b"\x7fELF"),
                    "{}: neither an object of eBPF nor a program; see bench/README.md",
                    path.display()
                );
                if elf.get(18..20) == Some(&BPF[..]) {
                    let mut command = Command::new(std::env::current_exe()?);
                    command.arg("--object").arg(path);
                    (command, name.into_owned())
                } else {
                    // Whole, or it would be looked for on PATH.
                    (Command::new(fs::canonicalize(path)?), name.into_owned())
                }
            }
        };
        command.arg("--worker");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{name} does not run"))?;
        let (ask, answers) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            child,
            ask: ask.context("no pipe")?,
            answers: BufReader::new(answers.context("no pipe")?),
            name,
        })
    }

    fn ask(&mut self, what: &str) -> Result<String> {
        writeln!(self.ask, "{what}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match answer.trim() {
            "" => bail!("{}: ended at {what:?}", self.name),
            answer => match answer.strip_prefix("error ") {
                Some(error) => bail!("{}: {what}: {error}", self.name),
                None => Ok(answer.to_owned()),
            },
        }
    }

    fn run(&mut self, batch: u32) -> Result<f64> {
        let answer = self.ask(&format!("run {batch}"))?;
        answer
            .parse()
            .with_context(|| format!("{}: {answer:?}", self.name))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Ours, and it keeps nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// ns a packet, turn by turn, of one build: with what the row asks for, and the same packet without a policy.
#[derive(Clone, Debug, Default)]
struct Lane {
    row: Vec<f64>,
    plain: Vec<f64>,
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn differences(these: &[f64], those: &[f64]) -> Vec<f64> {
    these.iter().zip(those).map(|(a, b)| a - b).collect()
}

impl Turns {
    /// Measures, and prints a block of lines for each row.
    ///
    /// # Errors
    /// When a build cannot be loaded or run, or there is no such row.
    pub fn run(&self) -> Result<()> {
        let wanted = |row: &String| {
            self.rows.is_empty() || self.rows.iter().any(|name| row.starts_with(name.as_str()))
        };
        let rows: Vec<String> = rows().into_iter().filter(wanted).collect();
        ensure!(
            !rows.is_empty(),
            "there is no row {:?}; they are: {}",
            self.rows,
            self::rows().join(", ")
        );
        let builds: Vec<Option<&Path>> = std::iter::once(self.this.as_deref())
            .chain(self.against.iter().map(|path| Some(path.as_path())))
            .collect();
        let mut names = Vec::new();
        let mut lanes = vec![vec![Lane::default(); builds.len()]; rows.len()];
        for _ in 0..self.rounds {
            let mut workers = Vec::new();
            for build in &builds {
                workers.push((Worker::start(*build)?, Worker::start(*build)?));
            }
            names = workers.iter().map(|(own, _)| own.name.clone()).collect();
            for (row, lanes) in rows.iter().zip(&mut lanes) {
                self.round(row, &mut workers, lanes)?;
            }
        }
        println!(
            "ns a packet, {} rounds of {} turns of {} packets: the least; the median",
            self.rounds, self.turns, self.batch
        );
        for (row, lanes) in rows.iter().zip(&lanes) {
            show(row, &names, lanes);
        }
        Ok(())
    }

    fn round(&self, row: &str, workers: &mut [(Worker, Worker)], lanes: &mut [Lane]) -> Result<()> {
        let has_plain = row.starts_with("encryption/");
        for (own, plain) in &mut *workers {
            own.ask(&format!("set {row}"))?;
            own.run(self.batch)?;
            if has_plain {
                plain.ask(&format!("set {row}/plain"))?;
                plain.run(self.batch)?;
            }
        }
        for _ in 0..self.turns {
            for ((own, plain), lane) in workers.iter_mut().zip(&mut *lanes) {
                lane.row.push(own.run(self.batch)?);
                if has_plain {
                    lane.plain.push(plain.run(self.batch)?);
                }
            }
        }
        Ok(())
    }
}

fn show(row: &str, names: &[String], lanes: &[Lane]) {
    println!("TURNS: {row}");
    for (name, lane) in names.iter().zip(lanes) {
        let mut line = format!(
            "  {name:<24} {:>7.1} {:>7.1}",
            least(&lane.row),
            median(&lane.row)
        );
        if !lane.plain.is_empty() {
            let adds = differences(&lane.row, &lane.plain);
            line += &format!(
                "   beside {:.1} {:.1} without a policy: {:+.1} {:+.1}",
                least(&lane.plain),
                median(&lane.plain),
                least(&lane.row) - least(&lane.plain),
                median(&adds)
            );
        }
        println!("{line}");
    }
    if let Some((this, others)) = lanes.split_first() {
        for (name, other) in names.iter().skip(1).zip(others) {
            println!(
                "  this less {name:<14} {:>+7.1} {:>+7.1}",
                least(&this.row) - least(&other.row),
                median(&differences(&this.row, &other.row))
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_and_the_median_are_told_from_one_another() {
        let (a, b) = ([5.0, 3.0, 9.0], [1.0, 2.0, 3.0]);
        assert_eq!(least(&a), 3.0);
        assert_eq!(median(&a), 5.0);
        assert_eq!(median(&differences(&a, &b)), 4.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn each_row_is_there_once() {
        let mut all = rows();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(count > 20, "{all:?}");
    }

    #[test]
    fn what_is_no_build_is_refused() {
        let file = std::env::temp_dir().join(format!("bench-turns-{}", std::process::id()));
        fs::write(&file, "no program").unwrap();
        let refused = Worker::start(Some(&file)).map(drop);
        fs::remove_file(&file).unwrap();
        let said = format!("{:#}", refused.unwrap_err());
        assert!(said.contains("neither an object"), "{said}");
    }
}
