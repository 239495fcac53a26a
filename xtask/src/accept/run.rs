//! What a whole run of the tests showed, for the rows whose command is a part of it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

/// What stands before the commit of a run in its log.
pub const COMMIT: &str = "COMMIT: ";

/// `target/test.log`, as `cargo xtask test` writes it.
#[derive(Debug)]
pub struct Run {
    /// The commit that was tested.
    pub commit: String,
    /// What each test binary of this host printed, by its package and target.
    binaries: BTreeMap<String, String>,
}

impl Run {
    /// # Errors
    /// A log that does not say of which commit it is.
    pub fn read(log: &str) -> Result<Self> {
        let commit = log.lines().find_map(|line| line.strip_prefix(COMMIT));
        let commit = commit.context("the log names no commit: run `cargo xtask test`")?;
        let mut binaries: BTreeMap<String, String> = BTreeMap::new();
        let mut of = String::new();
        for line in log.lines() {
            if let Some(name) = line.strip_prefix("== ") {
                name.clone_into(&mut of);
            }
            let text = binaries.entry(of.clone()).or_default();
            text.push_str(line);
            text.push('\n');
        }
        Ok(Self {
            commit: commit.to_owned(),
            binaries,
        })
    }

    /// What the tests printed that `command` would run, and whether all of their binaries ended well. A filter of the
    /// command does not count: the run did at least as much. None where it is more than tests of this run: another
    /// program, an environment of its own, a target that is not in the log.
    pub fn of(&self, command: &str) -> Option<(bool, String)> {
        let mut words = command.split_whitespace();
        if (words.next(), words.next()) != (Some("cargo"), Some("test")) {
            return None;
        }
        let mut targets = Vec::new();
        while let Some(word) = words.next() {
            match word {
                "--" => break,
                "--test" => targets.push(words.next()?),
                "-p" | "--package" | "--features" => drop(words.next()?),
                "--release" | "--workspace" => {}
                option if option.starts_with('-') => return None,
                // A filter.
                _ => {}
            }
        }
        let mut printed = String::new();
        let mut binaries = 0;
        for target in &targets {
            // `kernel 6.1: octroi/cut` was another kernel's. Several packages may have a target of this name.
            let is_it = |name: &String| {
                let end = name.rsplit_once('/').map(|(_, end)| end);
                !name.contains(' ') && end == Some(*target)
            };
            let before = binaries;
            for (_, text) in self.binaries.iter().filter(|(name, _)| is_it(name)) {
                printed.push_str(text);
                binaries += 1;
            }
            if binaries == before {
                return None;
            }
        }
        let ends = |how: &str| {
            let result = format!("test result: {how}");
            printed
                .lines()
                .filter(|line| line.starts_with(&result))
                .count()
        };
        let well = ends("FAILED") == 0 && ends("ok") == binaries;
        (binaries > 0).then_some((well, printed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "COMMIT: 0123456789ab\n== octroi/api\nCASES: clients: 100\ntest result: ok. 9 passed\n\
                       == other/api\ntest result: ok. 1 passed\n== octroi/page\ntest result: FAILED. 1 passed\n== kernel 6.1: octroi/cut\ntest result: ok. 1 passed\n";

    #[test]
    fn finds_what_a_row_would_run() {
        let run = Run::read(LOG).unwrap();
        assert_eq!(run.commit, "0123456789ab");
        let of = |command: &str| {
            run.of(command)
                .map(|(well, printed)| (well, printed.contains("100")))
        };
        let whole = "cargo test --release --workspace --test api -- --nocapture";
        assert_eq!(of(whole), Some((true, true)));
        assert_eq!(
            of("cargo test --release --workspace --test api tls -- --nocapture"),
            Some((true, true))
        );
        assert_eq!(of("cargo test --test page"), Some((false, false)));
        assert_eq!(of("cargo test --test api --test page"), Some((false, true)));
        for other in [
            "OCTROI_ACCEPT=1 cargo test --test api",
            "cargo test --test cut",
            "cargo test --lib import",
            "cargo test",
            "cargo bench --bench gate",
            "cargo test --test",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        assert!(Run::read("== octroi/api\n").is_err());
    }
}
