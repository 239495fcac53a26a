//! Counts what libtest prints: passed, failed and, unlike libtest itself, skipped.
//!
//! A test that cannot run here prints `SKIPPED: <test>: <reason>` and returns; libtest takes that for a
//! pass. With `--show-output` such a line stands in the section of its test, and the test is moved from
//! *passed* to *skipped* once, however many lines it prints. An ignored test is a skipped one.
//!
//! Lines of the form `CASES: <what>: <n>` say how much a test tried; those of the same name add up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

/// What took longer than this is shown with its time.
const LONG: Duration = Duration::from_secs(20);

/// The sums so far, over any number of test binaries.
#[derive(Default)]
pub struct Tally {
    /// Tests that ran, and were content.
    pub passed: u64,
    /// Tests that were not, and binaries that did not come to an end.
    pub failed: u64,
    /// Tests that could not run here.
    pub skipped: u64,
    /// The names of what failed.
    pub failures: Vec<String>,
    /// What was skipped and why, as it was printed.
    pub skips: Vec<String>,
    /// How many cases were tried of what.
    pub cases: BTreeMap<String, u64>,
    /// What took how long, in the order in which it ran.
    times: Vec<(String, Duration)>,
    binary: Binary,
}

/// What is known of the binary that is running.
#[derive(Default)]
struct Binary {
    name: String,
    begun: Option<Instant>,
    part: Part,
    /// The test whose output is being printed.
    test: String,
    skipped: BTreeSet<String>,
    failed: u64,
    /// Verdicts since the last result: all that is known of a binary that crashes.
    seen: Seen,
}

#[derive(Default, PartialEq, Eq)]
struct Seen {
    ok: u64,
    failed: u64,
    ignored: u64,
}

/// Where in libtest's output a line stands.
#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum Part {
    #[default]
    Running,
    /// The output of tests that passed.
    Successes,
    /// The output of tests that failed.
    Failures,
}

impl Tally {
    /// The lines that follow are of this binary.
    pub fn begin(&mut self, name: &str) {
        self.binary = Binary {
            name: name.to_owned(),
            begun: Some(Instant::now()),
            ..Binary::default()
        };
    }

    /// Reads a line. Returns whether it is worth showing: the output of tests that passed is not.
    pub fn line(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.binary.part = Part::Successes,
            "failures:" => self.binary.part = Part::Failures,
            _ => self.content(line),
        }
        self.binary.part != Part::Successes
    }

    fn content(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.result(result);
        } else if let Some(section) = line.strip_prefix("---- ") {
            self.binary.test = section.split(' ').next().unwrap_or_default().to_owned();
        } else if let Some(test) = line.strip_prefix("test ") {
            self.verdict(test);
        }
        // With --nocapture, both of these follow `test name ... ` on the same line.
        if let Some((_, skip)) = line.split_once("SKIPPED: ") {
            self.skip(skip);
        } else if let Some((_, cases)) = line.split_once("CASES: ") {
            self.count_cases(cases);
        }
    }

    /// `name ... ok`, `name ... FAILED` or `name ... ignored, reason`
    fn verdict(&mut self, line: &str) {
        let Some((name, verdict)) = line.split_once(" ... ") else {
            return;
        };
        self.binary.test = name.to_owned();
        if verdict.ends_with("ok") {
            self.binary.seen.ok += 1;
        } else if verdict.ends_with("FAILED") {
            self.binary.seen.failed += 1;
            self.failures.push(format!("{}: {name}", self.binary.name));
        } else if let Some(reason) = verdict.strip_prefix("ignored") {
            self.binary.seen.ignored += 1;
            let reason = reason.trim_start_matches([',', ' ']);
            let reason = if reason.is_empty() { "ignored" } else { reason };
            self.skips
                .push(format!("{}: {name}: {reason}", self.binary.name));
        }
    }

    fn skip(&mut self, skip: &str) {
        if self.binary.part == Part::Failures {
            return;
        }
        let test = match self.binary.test.as_str() {
            "" => skip.split(": ").next().unwrap_or_default(),
            test => test,
        };
        self.binary.skipped.insert(test.to_owned());
        self.skips.push(format!("{}: {skip}", self.binary.name));
    }

    fn count_cases(&mut self, cases: &str) {
        let Some((what, number)) = cases.rsplit_once(": ") else {
            return;
        };
        let digits: String = number
            .chars()
            .filter(|c| !matches!(c, '_' | ',' | ' '))
            .collect();
        if let Ok(number) = digits.parse::<u64>() {
            *self.cases.entry(what.to_owned()).or_default() += number;
        }
    }

    /// `ok. 5 passed; 0 failed; 1 ignored; …`
    fn result(&mut self, line: &str) {
        let number = |label: &str| -> u64 {
            let before = line.split(label).next().unwrap_or_default().trim_end();
            before
                .rsplit(' ')
                .next()
                .and_then(|number| number.parse().ok())
                .unwrap_or(0)
        };
        let silently = self.binary.skipped.len() as u64;
        self.passed += number("passed;").saturating_sub(silently);
        self.failed += number("failed;");
        self.skipped += number("ignored;") + silently;
        self.binary.failed += number("failed;");
        // A run of doc tests prints several results, one per crate.
        self.binary.part = Part::Running;
        self.binary.skipped.clear();
        self.binary.seen = Seen::default();
    }

    /// The binary has ended. A bad end without a failed test is a failure itself.
    pub fn end(&mut self, success: bool, how: &str) {
        let seen = std::mem::take(&mut self.binary.seen);
        if let Some(begun) = self.binary.begun.take() {
            let took = (self.binary.name.clone(), begun.elapsed());
            self.times.push(took);
        }
        let crashed = seen != Seen::default();
        self.passed += seen.ok;
        self.failed += seen.failed;
        self.skipped += seen.ignored;
        if !success && (crashed || self.binary.failed == 0) {
            let name = self.binary.name.clone();
            self.fail(&format!("{name}: {how}"));
        }
    }

    /// Something that is not a test of libtest's passed.
    pub fn pass(&mut self) {
        self.passed += 1;
    }

    /// Something that is not a test of libtest's failed.
    pub fn fail(&mut self, what: &str) {
        self.failed += 1;
        self.failures.push(what.to_owned());
    }

    /// Something that is not a test of libtest's could not run.
    pub fn skip_whole(&mut self, what: &str) {
        self.skipped += 1;
        self.skips.push(what.to_owned());
    }

    /// What is to be read at the end, but for the closing line: cases, what took long, skips and failures.
    pub fn report(&self) -> String {
        let mut report = String::new();
        let width = self
            .cases
            .keys()
            .map(|what| what.chars().count())
            .max()
            .unwrap_or(0);
        for (what, number) in &self.cases {
            report += &format!("CASES    {what:width$}  {number:>15}\n");
        }
        let mut times: Vec<_> = self.times.iter().collect();
        times.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        for (name, took) in times.iter().take_while(|(_, took)| *took >= LONG) {
            report += &format!("TIME     {:>4} s  {name}\n", took.as_secs());
        }
        for skip in &self.skips {
            report += &format!("SKIPPED  {skip}\n");
        }
        for failure in &self.failures {
            report += &format!("FAILED   {failure}\n");
        }
        report
    }
}

/// The closing line.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
            ..
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str) -> Tally {
        let mut tally = Tally::default();
        tally.begin("netns");
        for line in output.lines() {
            tally.line(line);
        }
        tally
    }

    const SHOWN: &str = "\
running 4 tests
test a ... ok
test b ... ok
test c ... FAILED
test d ... ignored, takes an hour

successes:

---- a stdout ----
SKIPPED: a: no fq in this kernel
SKIPPED: a: no cake either
---- b stdout ----
CASES: packets: 1_000
CASES: packets: 234

successes:
    a
    b

failures:

---- c stdout ----
SKIPPED: c: half of it

failures:
    c

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.0s
";

    #[test]
    fn a_test_that_says_skipped_has_not_passed() {
        let mut tally = tally(SHOWN);
        tally.end(false, "exit status: 101");
        assert_eq!(tally.to_string(), "1 passed, 1 failed, 2 skipped");
        assert_eq!(tally.failures, ["netns: c"]);
        assert_eq!(tally.skips.len(), 3);
        assert_eq!(tally.cases["packets"], 1234);
    }

    #[test]
    fn hides_the_output_of_tests_that_passed() {
        let mut tally = Tally::default();
        let shown: Vec<_> = SHOWN.lines().filter(|line| tally.line(line)).collect();
        assert!(shown.contains(&"SKIPPED: c: half of it"));
        assert!(!shown.contains(&"CASES: packets: 234"));
    }

    #[test]
    fn reads_skips_that_were_not_captured() {
        let tally = tally(
            "test a ... SKIPPED: a: no root\nok\ntest b ... ok\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n",
        );
        assert_eq!(tally.to_string(), "1 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_binary_that_crashes_is_a_failure() {
        let mut tally =
            tally("running 4 tests\ntest a ... ok\ntest b ... FAILED\ntest c ... ignored\n");
        tally.end(false, "signal: 11");
        assert_eq!(tally.to_string(), "1 passed, 2 failed, 1 skipped");
        assert_eq!(tally.failures, ["netns: b", "netns: signal: 11"]);
    }

    #[test]
    fn sums_over_binaries() {
        let mut tally = tally("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured\n");
        tally.end(true, "");
        tally.begin("other");
        tally.line("test result: ok. 4 passed; 0 failed; 2 ignored; 0 measured");
        tally.end(true, "");
        assert_eq!(tally.to_string(), "7 passed, 0 failed, 2 skipped");
    }
}
