//! `docs/TUTORIAL.md`, command by command, on a host of its own: what it says is printed is printed.
//!
//! A block of `sh` is run, in one shell for the whole page; the block of `text` after it is compared with what came, line
//! by line. In it `…` is anything, and a line with nothing else is any number of lines.

#[path = "pages/blocks.rs"]
mod blocks;
#[path = "pages/shell.rs"]
mod shell;
mod support;

use anyhow::{Context as _, Result, bail, ensure};
use blocks::blocks;
use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};
use support::{can_run, octroi};

const PAGE: &str = include_str!("../docs/TUTORIAL.md");
const ANYTHING: char = '…';

#[derive(Debug)]
struct Step {
    /// Line of the page on which it begins.
    line: usize,
    commands: String,
    /// What is to be printed, if the page says.
    prints: Option<String>,
}

fn steps(page: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for block in blocks(page)? {
        let line = block.line;
        match block.language.as_str() {
            "sh" => steps.push(Step {
                line,
                commands: block.text,
                prints: None,
            }),
            "text" => {
                let step = steps.last_mut().context("text before any command")?;
                ensure!(step.prints.is_none(), "line {line}: printed twice");
                step.prints = Some(block.text);
            }
            // The one command that the reader types outside.
            "console" => {}
            other => bail!("line {line}: a block of {other:?}"),
        }
    }
    Ok(steps)
}

/// Is this line what the page has?
fn line_fits(wanted: &str, got: &str) -> bool {
    let mut parts = wanted.split(ANYTHING);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = got.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        last = Some(part);
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    match last {
        None => rest.is_empty(),
        Some("") => true,
        // The end may stand further to the right.
        Some(part) => rest.is_empty() || got.ends_with(part),
    }
}

fn fits(wanted: &[&str], got: &[&str]) -> bool {
    match wanted.split_first() {
        None => got.is_empty(),
        Some((line, more)) if line.trim() == ANYTHING.to_string() => {
            (0..=got.len()).any(|skipped| fits(more, &got[skipped..]))
        }
        Some((line, more)) => got
            .split_first()
            .is_some_and(|(first, rest)| line_fits(line, first) && fits(more, rest)),
    }
}

#[test]
fn what_is_anything_is_anything_and_the_rest_is_not() {
    let fit = |wanted: &str, got: &str| {
        let [wanted, got] = [wanted, got].map(|text| text.lines().collect::<Vec<_>>());
        fits(&wanted, &got)
    };
    for (wanted, got) in [
        ("a b", "a b"),
        ("a … c", "a b b c"),
        ("a …", "a "),
        ("… c", "a c b c"),
        ("…", ""),
        ("…\nb", "a\na\nb"),
        ("a\n…", "a"),
    ] {
        assert!(fit(wanted, got), "{wanted:?} {got:?}");
    }
    for (wanted, got) in [
        ("a", "a b"),
        ("a … c", "a b"),
        ("a\nb", "a"),
        ("a", "a\nb"),
        ("…\nb", "a\nc"),
        ("b …", "a b "),
    ] {
        assert!(!fit(wanted, got), "{wanted:?} {got:?}");
    }
}

/// A shell whose network, processes and mounts end with it.
const UNSHARE: [&str; 7] = [
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "bash",
];

#[test]
fn every_command_of_the_tutorial_does_what_the_page_says() -> Result<()> {
    let _alone = support::alone();
    if !can_run("tutorial") {
        return Ok(());
    }
    for needed in ["unshare", "busybox", "ping", "python3", "timeout"] {
        let found = Command::new("which").arg(needed).output()?;
        if !found.status.success() {
            println!("SKIPPED: tutorial: there is no {needed}");
            return Ok(());
        }
    }
    let command = format!("unshare {}", UNSHARE.join(" "));
    ensure!(PAGE.contains(&command), "the page does not say `{command}`");

    let steps = steps(PAGE)?;
    ensure!(steps.len() > 10, "only {} steps", steps.len());
    let script = shell::script("", steps.iter().map(|step| &step.commands));
    let directory = octroi().parent().context("octroi has a directory")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("timeout")
        .args(["--kill-after=5", "240", "unshare"])
        .args(UNSHARE)
        .env("PATH", format!("{}:{path}", directory.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    // As a file, so that no command reads the next ones.
    let file = std::env::temp_dir().join(format!("octroi-tutorial-{}", std::process::id()));
    fs::write(&file, script)?;
    let mut stdin = shell.stdin.take().context("no input")?;
    writeln!(stdin, "exec bash '{}' < /dev/null", file.display())?;
    drop(stdin);
    let output = shell.wait_with_output();
    fs::remove_file(&file)?;
    let output = String::from_utf8_lossy(&output?.stdout).into_owned();

    let name = |step: &Step| format!("line {}", step.line);
    let names: Vec<String> = steps.iter().map(name).collect();
    for (step, printed) in steps.iter().zip(shell::printed(&output, &names)?) {
        let got: Vec<&str> = printed.lines().map(str::trim_end).collect();
        if let Some(wanted) = &step.prints {
            let wanted: Vec<&str> = wanted.lines().map(str::trim_end).collect();
            ensure!(
                fits(&wanted, &got),
                "line {}: the page says\n{}\nand this came:\n{printed}",
                step.line,
                wanted.join("\n")
            );
        }
    }
    println!("CASES: steps of the tutorial: {}", steps.len());
    Ok(())
}

/// Commands of octroi in a page: in code of a line, and in blocks of `sh`.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut prose = String::new();
    let mut block = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), block) {
            (Some(language), None) => block = Some(language == "sh"),
            (Some(_), Some(_)) => block = None,
            (None, Some(true)) => {
                let line = line.split(" #").next().unwrap_or_default();
                found.extend(line.strip_prefix("octroi ").map(ToOwned::to_owned));
            }
            (None, Some(false)) => {}
            (None, None) => {
                prose.push_str(line);
                prose.push(' ');
            }
        }
    }
    let spans = prose.split('`').skip(1).step_by(2);
    found.extend(spans.filter_map(|span| Some(span.strip_prefix("octroi ")?.to_owned())));
    found
}

#[test]
fn every_command_of_octroi_in_the_documentation_exists() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    for entry in fs::read_dir(root.join("docs"))? {
        let path = entry?.path();
        pages.extend(
            path.extension()
                .is_some_and(|kind| kind == "md")
                .then_some(path),
        );
    }
    let mut checked = BTreeSet::new();
    for page in pages {
        for command in commands(&fs::read_to_string(&page)?) {
            if !checked.insert(command.clone()) {
                continue;
            }
            let words: Vec<&str> = command.split_whitespace().collect();
            // Subcommands are words of small letters; what follows are their arguments.
            let is_name = |word: &&&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
            let path: Vec<&str> = words.iter().take_while(is_name).copied().collect();
            let help = Command::new(octroi()).args(&path).arg("--help").output()?;
            let said = String::from_utf8_lossy(&help.stdout).into_owned();
            let at = page.display();
            ensure!(
                help.status.success(),
                "{at}: `octroi {command}`: there is no such command"
            );
            let options = words.iter().filter(|word| word.starts_with("--"));
            for option in options {
                let option = option.split('=').next().unwrap_or_default();
                ensure!(
                    said.contains(option) || ["--help", "--version"].contains(&option),
                    "{at}: `octroi {command}`: there is no {option}"
                );
            }
        }
    }
    ensure!(checked.len() > 60, "{} commands", checked.len());
    println!(
        "CASES: commands of octroi in the documentation that exist: {}",
        checked.len()
    );
    Ok(())
}
