//! Runs the commands that prove the clauses of the specification, and writes down how they ended.
//!
//! `tests/acceptance.toml` has a row for each:
//!
//! ```toml
//! [[row]]
//! id = "2.1"
//! clause = "what is promised"
//! command = "cargo test …"
//! expect = "exit 0"                       # or { exit = 0, output = "a regex" }
//! skip_if = "! test -e /dev/kvm"          # optional: a command that succeeds where this cannot run
//! timeout_seconds = 600                   # optional
//! status = "passed"                       # this and the following are written here
//! last = "2026-01-31T12:00:00Z"
//! commit = "0123456789ab"
//! ```

pub mod run;

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use regex_lite::Regex;
use toml_edit::{DocumentMut, Item, Table, TableLike, value};

use crate::host;
use crate::vm;

const FILE: &str = "tests/acceptance.toml";

const LIMIT: Duration = Duration::from_mins(10);

/// Run the acceptance rows, and write down how they ended.
#[derive(Args)]
pub struct Accept {
    /// Only rows whose id begins with this.
    id: Option<String>,
    /// Runs nothing: takes what the last `cargo xtask test` showed, for the rows whose command is a part of it.
    #[arg(long)]
    of_run: bool,
}

/// A row, read and checked.
#[derive(Debug)]
struct Row {
    id: String,
    clause: String,
    command: String,
    skip_if: Option<String>,
    limit: Duration,
    expect: Expect,
}

/// How the command must end.
#[derive(Debug)]
struct Expect {
    exit: i32,
    /// Found anywhere in what it prints.
    output: Option<Regex>,
}

/// How a row ended, with the reason unless it passed.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Passed,
    Failed(String),
    Skipped(String),
}

impl Ending {
    fn status(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed(_) => "failed",
            Self::Skipped(_) => "skipped",
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::Passed => "",
            Self::Failed(reason) | Self::Skipped(reason) => reason,
        }
    }
}

impl Accept {
    /// Runs the subcommand.
    pub fn run(self) -> Result<ExitCode> {
        let file = host::root().join(FILE);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {FILE}"))?;
        let rows = rows(&text).with_context(|| FILE.to_owned())?;
        // Before the first row is written: that makes the work tree dirty.
        let mut commit = host::commit()?;
        let run = self.of_run.then(|| {
            let log = host::target_dir().join("test.log");
            let log = fs::read_to_string(&log).with_context(|| log.display().to_string())?;
            run::Run::read(&log)
        });
        let run = run.transpose()?;
        if let Some(run) = &run {
            run.commit.clone_into(&mut commit);
        }
        let prefix = self.id.unwrap_or_default();
        let chosen: Vec<&Row> = rows
            .iter()
            .filter(|row| row.id.starts_with(&prefix))
            .collect();
        ensure!(!chosen.is_empty(), "no row's id begins with {prefix:?}");

        let [mut passed, mut failed, mut skipped] = [0_u32; 3];
        for row in chosen {
            let shown = match &run {
                None => None,
                Some(run) => match row.shown(run) {
                    None => continue,
                    shown => shown,
                },
            };
            println!("{:8} {}", row.id, row.clause);
            let ending = match shown {
                None => row.run()?,
                Some(ending) => ending,
            };
            match ending {
                Ending::Passed => passed += 1,
                Ending::Failed(_) => failed += 1,
                Ending::Skipped(_) => skipped += 1,
            }
            println!("         {}  {}", ending.status(), ending.reason());
            record(&file, &row.id, &ending, &commit)?;
        }
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
        Ok(ExitCode::from(u8::from(failed > 0)))
    }
}

impl Row {
    fn run(&self) -> Result<Ending> {
        if let Some(skip_if) = &self.skip_if {
            let (status, output) = shell(skip_if, LIMIT)?;
            if status.success() {
                let reason = output.lines().last().unwrap_or(skip_if);
                return Ok(Ending::Skipped(reason.to_owned()));
            }
        }
        let (status, output) = shell(&self.command, self.limit)?;
        if host::timed_out(status) && status.code() != Some(self.expect.exit) {
            return Ok(Ending::Failed(format!(
                "not finished after {} s",
                self.limit.as_secs()
            )));
        }
        let Some(code) = status.code() else {
            return Ok(Ending::Failed(status.to_string()));
        };
        let ending = self.judge(code, &output);
        if matches!(ending, Ending::Failed(_)) {
            show(&output);
        }
        Ok(ending)
    }

    /// What a whole run shows of it, if that is enough. What the whole prints may differ from what a filtered part does: then it
    /// says nothing.
    fn shown(&self, run: &run::Run) -> Option<Ending> {
        match run.of(&self.command)? {
            (true, printed) => {
                Some(self.judge(0, &printed)).filter(|ending| *ending == Ending::Passed)
            }
            // As cargo ends then.
            (false, printed) => Some(self.judge(101, &printed)),
        }
    }

    /// Of a command that ended with the exit status `code`.
    fn judge(&self, code: i32, output: &str) -> Ending {
        let Expect {
            exit,
            output: regex,
        } = &self.expect;
        if code == i32::from(vm::SKIPPED) && *exit != i32::from(vm::SKIPPED) {
            let mut lines = output.lines().rev();
            let reason = lines.find_map(|line| line.strip_prefix("SKIPPED: "));
            return Ending::Skipped(reason.unwrap_or("the command says so").to_owned());
        }
        if code != *exit {
            return Ending::Failed(format!("exit status {code}, where {exit} is expected"));
        }
        match regex {
            Some(regex) if !regex.is_match(output) => {
                Ending::Failed(format!("the output does not match {:?}", regex.as_str()))
            }
            _ => Ending::Passed,
        }
    }
}

/// Runs a line of shell at the root of the repository.
fn shell(line: &str, limit: Duration) -> Result<(ExitStatus, String)> {
    let mut output = String::new();
    let mut bash: Command = host::with_time_limit(limit, "bash");
    bash.current_dir(host::root()).args(["-c", line]);
    let status = host::stream(&mut bash, |line| {
        output += line;
        output.push('\n');
    })?;
    Ok((status, output))
}

/// The end of what a failed command printed.
fn show(output: &str) {
    const TAIL: usize = 20;

    let lines: Vec<_> = output.lines().collect();
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        println!("         | {line}");
    }
}

/// Reads all rows. A mistake in one is an error: a row that is passed over would look like a proof.
fn rows(text: &str) -> Result<Vec<Row>> {
    let document: DocumentMut = text.parse()?;
    let Some(tables) = document.get("row").and_then(Item::as_array_of_tables) else {
        bail!("there is no [[row]]");
    };
    let mut rows: Vec<Row> = Vec::new();
    for table in tables {
        let id = string(table, "id")?;
        ensure!(
            rows.iter().all(|row| row.id != id),
            "two rows have the id {id}"
        );
        let row = row(id, table);
        rows.push(row.with_context(|| format!("row {}", table["id"]))?);
    }
    Ok(rows)
}

fn row(id: String, table: &Table) -> Result<Row> {
    let limit = match table.get("timeout_seconds") {
        None => LIMIT,
        Some(item) => {
            let seconds = item
                .as_integer()
                .and_then(|seconds| u64::try_from(seconds).ok());
            Duration::from_secs(seconds.context("timeout_seconds is a number of seconds")?)
        }
    };
    Ok(Row {
        id,
        clause: string(table, "clause")?,
        command: string(table, "command")?,
        skip_if: table
            .get("skip_if")
            .map(|_| string(table, "skip_if"))
            .transpose()?,
        limit,
        expect: expect(table.get("expect").context("expect is missing")?)?,
    })
}

fn string(table: &Table, key: &str) -> Result<String> {
    let text = table.get(key).and_then(Item::as_str);
    Ok(text
        .with_context(|| format!("{key} is missing, or no string"))?
        .to_owned())
}

/// `"exit 0"`, `"a regex"`, or `{ exit = 0, output = "a regex" }`
fn expect(item: &Item) -> Result<Expect> {
    const HOW: &str = "expect is \"exit N\", a regex, or { exit = N, output = \"regex\" }";

    if let Some(text) = item.as_str() {
        return Ok(match text.strip_prefix("exit ") {
            Some(exit) => Expect {
                exit: exit.trim().parse().context(HOW)?,
                output: None,
            },
            None => Expect {
                exit: 0,
                output: Some(Regex::new(text)?),
            },
        });
    }
    let table: &dyn TableLike = item.as_table_like().context(HOW)?;
    ensure!(
        table
            .iter()
            .all(|(key, _)| key == "exit" || key == "output"),
        HOW
    );
    let exit = table
        .get("exit")
        .map_or(Some(0), Item::as_integer)
        .context(HOW)?;
    let output = match table.get("output") {
        Some(regex) => Some(Regex::new(regex.as_str().context(HOW)?)?),
        None => None,
    };
    Ok(Expect {
        exit: i32::try_from(exit)?,
        output,
    })
}

/// Writes a row's ending to the file. It is read anew: the row's command may have taken long.
fn record(file: &Path, id: &str, ending: &Ending, commit: &str) -> Result<()> {
    let now = host::output(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]))?;
    let text = recorded(&fs::read_to_string(file)?, id, ending, commit, &now)?;
    fs::write(file, text).with_context(|| format!("cannot write {FILE}"))
}

fn recorded(text: &str, id: &str, ending: &Ending, commit: &str, now: &str) -> Result<String> {
    let mut document: DocumentMut = text.parse()?;
    let rows = document
        .get_mut("row")
        .and_then(Item::as_array_of_tables_mut);
    let is_it = |row: &&mut Table| row.get("id").and_then(Item::as_str) == Some(id);
    let row = rows.and_then(|rows| rows.iter_mut().find(is_it));
    let row = row.with_context(|| format!("row {id} is gone"))?;
    for (key, new) in [
        ("status", ending.status()),
        ("last", now),
        ("commit", commit),
    ] {
        match row.get_mut(key).and_then(Item::as_value_mut) {
            // In place, so that a comment behind it stays.
            Some(old) => {
                let decor = old.decor().clone();
                *old = new.into();
                *old.decor_mut() = decor;
            }
            None => {
                row.insert(key, value(new));
            }
        }
    }
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# kept
[[row]]
id = "1.1"
clause = "true is true"
command = "echo counted 12 bytes"
expect = { exit = 0, output = "counted \\d+ bytes" }
status = "failed" # kept, too

[[row]]
id = "1.2"
clause = "false is false"
command = "false"
expect = "exit 1"
timeout_seconds = 1
"#;

    fn ending(command: &str, expectation: &str, skip_if: Option<&str>) -> Ending {
        let row = Row {
            id: "1".into(),
            clause: "a clause".into(),
            command: command.into(),
            skip_if: skip_if.map(str::to_owned),
            limit: Duration::from_secs(1),
            expect: expect(&value(expectation)).unwrap(),
        };
        row.run().unwrap()
    }

    #[test]
    fn reads_rows() {
        let rows = rows(TEXT).unwrap();
        assert_eq!((rows[0].expect.exit, rows[1].expect.exit), (0, 1));
        assert_eq!(rows[0].run().unwrap(), Ending::Passed);
        assert_eq!(rows[1].limit, Duration::from_secs(1));
        assert!(super::rows(&TEXT.replace("1.2", "1.1")).is_err());
        assert!(super::rows(&TEXT.replace("exit 1", "exit one")).is_err());
        assert!(super::rows(&TEXT.replace("output =", "outptu =")).is_err());
    }

    #[test]
    fn judges_exit_status_and_output() {
        assert_eq!(ending("exit 3", "exit 3", None), Ending::Passed);
        assert!(matches!(ending("true", "exit 3", None), Ending::Failed(_)));
        assert_eq!(ending("echo a1 >&2", "a\\d", None), Ending::Passed);
        assert!(matches!(ending("echo ab", "a\\d", None), Ending::Failed(_)));
        assert!(matches!(
            ending("echo a1; false", "a\\d", None),
            Ending::Failed(_)
        ));
    }

    #[test]
    fn a_row_that_takes_too_long_fails() {
        let reason = Ending::Failed("not finished after 1 s".into());
        assert_eq!(ending("sleep 20", "exit 0", None), reason);
    }

    #[test]
    fn what_cannot_run_is_skipped_with_its_reason() {
        let skipped = Ending::Skipped("no kvm".into());
        assert_eq!(ending("false", "exit 0", Some("echo no kvm")), skipped);
        assert_eq!(ending("true", "exit 0", Some("false")), Ending::Passed);
        let skipped = Ending::Skipped("vm 9.x: none".into());
        assert_eq!(
            ending("echo SKIPPED: vm 9.x: none; exit 77", "exit 0", None),
            skipped
        );
    }

    #[test]
    fn records_an_ending_and_leaves_the_rest_as_it_is() {
        let text = recorded(TEXT, "1.1", &Ending::Passed, "abc", "now").unwrap();
        let expected = TEXT.replace(
            "status = \"failed\" # kept, too\n",
            "status = \"passed\" # kept, too\nlast = \"now\"\ncommit = \"abc\"\n",
        );
        assert_eq!(text, expected);
    }
}
