//! What a run leaves: lines of JSON, one for each figure, with the commit and the kernel that it is of.

use super::measure::median;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
};

/// One figure, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The commit that was measured; `-dirty` when files had changed.
    pub commit: String,
    /// The kernel's release.
    pub kernel: String,
    /// What was done.
    pub scenario: String,
    /// Who limited.
    pub system: String,
    /// What was measured: see [`METRICS`].
    pub metric: String,
    /// In `unit`; the median of the runs.
    pub value: f64,
    /// Of `value`.
    pub unit: String,
}

/// Which of two figures is the better one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Better {
    /// The lower.
    Lower,
    /// The higher.
    Higher,
    /// The nearer to this, from either side.
    Near(f64),
    /// Neither: it says how things were.
    Neither,
}

/// What can be measured.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As it stands in the results.
    pub name: &'static str,
    /// Of its values.
    pub unit: &'static str,
    /// What is good.
    pub better: Better,
    /// Digits behind the point in the table.
    pub digits: usize,
}

impl Metric {
    /// How a table calls it.
    pub fn label(&self) -> String {
        match self.unit {
            "" => format!("`{}`", self.name),
            unit => format!("`{}`, {unit}", self.name),
        }
    }
}

const fn metric(name: &'static str, unit: &'static str, better: Better, digits: usize) -> Metric {
    Metric {
        name,
        unit,
        better,
        digits,
    }
}

/// All metrics, in the order of the table's columns.
pub const METRICS: [Metric; 33] = {
    use Better::{Higher, Lower, Near, Neither};
    [
        metric("rate_mbit", "Mbit/s", Neither, 2),
        metric("rate_error_percent", "%", Near(0.0), 1),
        metric("goodput_mbit", "Mbit/s", Higher, 1),
        metric("burst_kb", "kB", Lower, 0),
        metric("victim_goodput_ratio", "", Higher, 3),
        metric("victim_rr_p99_ratio", "", Lower, 2),
        metric("victim_goodput_mbit", "Mbit/s", Higher, 1),
        metric("flood_offered_mbit", "Mbit/s", Neither, 1),
        metric("flood_passed_mbit", "Mbit/s", Lower, 1),
        metric("both_a_mbit", "Mbit/s", Neither, 1),
        metric("both_b_mbit", "Mbit/s", Neither, 1),
        metric("a_alone_mbit", "Mbit/s", Neither, 1),
        metric("b_alone_mbit", "Mbit/s", Neither, 1),
        metric("guarantee_kept_percent", "%", Higher, 1),
        metric("link_used_percent", "%", Near(100.0), 1),
        metric("a_grows_ms", "ms", Lower, 0),
        metric("b_returns_ms", "ms", Lower, 0),
        metric("least_tenant_mbit", "Mbit/s", Higher, 1),
        metric("most_tenant_mbit", "Mbit/s", Neither, 1),
        metric("tcp_mbit", "Mbit/s", Higher, 1),
        metric("udp_mbit", "Mbit/s", Neither, 1),
        metric("jain", "", Higher, 3),
        metric("rr_p50_ms", "ms", Lower, 2),
        metric("rr_p99_ms", "ms", Lower, 2),
        metric("rr_max_ms", "ms", Lower, 1),
        metric("rr_count", "", Neither, 0),
        metric("rr_rtos", "", Lower, 0),
        metric("rr_again", "", Lower, 0),
        metric("rtos", "", Lower, 0),
        metric("retransmits", "", Lower, 0),
        metric("cpu_percent", "% of a CPU", Lower, 0),
        metric("others_cpu_percent", "% of a CPU", Neither, 0),
        metric("runs", "", Neither, 0),
    ]
};

/// The metric of this name.
pub fn find(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

/// What one run of one system in one scenario gave, by metric.
pub type Cell = BTreeMap<&'static str, f64>;

/// The medians of several runs of a cell, and how many there were.
pub fn medians(runs: &[Cell]) -> Cell {
    let mut result = Cell::new();
    for metric in &METRICS {
        let values = runs.iter().filter_map(|run| run.get(metric.name));
        let values: Vec<f64> = values.copied().collect();
        if !values.is_empty() {
            result.insert(metric.name, median(values));
        }
    }
    result.insert("runs", runs.len() as f64);
    result
}

/// A cell as lines; values are rounded to what was measured, three digits behind the point.
pub fn lines(
    cell: &Cell,
    (commit, kernel): (&str, &str),
    scenario: &str,
    system: &str,
) -> Vec<Line> {
    let line = |(name, value): (&&'static str, &f64)| Line {
        commit: commit.to_owned(),
        kernel: kernel.to_owned(),
        scenario: scenario.to_owned(),
        system: system.to_owned(),
        metric: (*name).to_owned(),
        value: (value * 1e3).round() / 1e3,
        unit: find(name).map_or("", |metric| metric.unit).to_owned(),
    };
    cell.iter().map(line).collect()
}

/// Reads lines of JSON.
///
/// # Errors
/// Which line is none, and why.
pub fn read(text: &str) -> Result<Vec<Line>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

/// Appends lines to a file, which is made when it is not there.
///
/// # Errors
/// When it cannot be written.
pub fn append(file: &Path, lines: &[Line]) -> Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    for line in lines {
        writeln!(file, "{}", serde_json::to_string(line)?)?;
    }
    Ok(())
}

/// Figures by metric, of one scenario and system.
pub type Cells = BTreeMap<(String, String), BTreeMap<String, Line>>;

/// What is newest of each series of kernels that was measured, the newest series first: one is this machine's, others ran
/// under QEMU.
pub fn by_series(lines: &[Line]) -> Vec<(String, Cells)> {
    let mut found: Vec<(String, Cells)> = Vec::new();
    for line in lines.iter().rev() {
        let series = series(&line.kernel);
        if found.iter().all(|(known, _)| known != series) {
            let of: Vec<Line> = lines
                .iter()
                .filter(|line| self::series(&line.kernel) == series)
                .cloned()
                .collect();
            found.push((series.to_owned(), newest(&of)));
        }
    }
    // Numbers, so that 6.18 is after 6.12 and 6.2.
    let number = |series: &str| -> Vec<u32> {
        series
            .split('.')
            .filter_map(|part| part.parse().ok())
            .collect()
    };
    found.sort_by_key(|(series, _)| std::cmp::Reverse(number(series)));
    found
}

/// `6.12` of `6.12.48+deb13-cloud-amd64`.
fn series(kernel: &str) -> &str {
    let second = kernel.match_indices('.').nth(1).map(|(at, _)| at);
    &kernel[..second.unwrap_or(kernel.len())]
}

/// In a kernel's name: its clock counted instructions (docs/decisions/0064). There a figure depends on nothing but the programs.
const VIRTUAL: &str = "virtual time";

/// The newest figures of each cell, of the kernel that was measured last. What stands beside each other in a scenario is
/// of one commit: what an older one had measured besides is left out. But in virtual time, where each system runs alone and
/// undisturbed: there a peer is the same beside every commit.
pub fn newest(lines: &[Line]) -> Cells {
    let Some(last) = lines.last() else {
        return Cells::new();
    };
    let mut cells = Cells::new();
    let mut before = None;
    for line in lines.iter().filter(|line| line.kernel == last.kernel) {
        let key = (line.scenario.clone(), line.system.clone());
        let cell = cells.entry(key.clone()).or_default();
        // The lines of a cell are written in one go.
        if before.as_ref() != Some(&key) || cell.contains_key(&line.metric) {
            cell.clear();
        }
        cell.insert(line.metric.clone(), line.clone());
        before = Some(key);
    }
    if last.kernel.contains(VIRTUAL) {
        return cells;
    }
    let commits: BTreeMap<&str, &str> = lines
        .iter()
        .filter(|line| line.kernel == last.kernel)
        .map(|line| (line.scenario.as_str(), line.commit.as_str()))
        .collect();
    cells.retain(|(scenario, _), cell| {
        let of = cell.values().next().map(|line| line.commit.as_str());
        of == commits.get(scenario.as_str()).copied()
    });
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(values: &[(&'static str, f64)]) -> Cell {
        values.iter().copied().collect()
    }

    #[test]
    fn a_line_has_the_form_that_is_asked_for() {
        let lines = lines(
            &cell(&[("rr_p99_ms", 0.123_456)]),
            ("abc", "6.18"),
            "bulk",
            "htb",
        );
        let text = serde_json::to_string(&lines[0]).unwrap();
        assert_eq!(
            text,
            r#"{"commit":"abc","kernel":"6.18","scenario":"bulk","system":"htb","metric":"rr_p99_ms","value":0.123,"unit":"ms"}"#
        );
        assert_eq!(read(&text).unwrap(), lines);
        assert!(read("{\"commit\":\"abc\"}").is_err());
    }

    #[test]
    fn a_cell_is_the_median_of_its_runs() {
        let runs = [
            cell(&[("jain", 0.9), ("rtos", 3.0)]),
            cell(&[("jain", 0.5)]),
            cell(&[("jain", 0.7), ("rtos", 1.0)]),
        ];
        let cell = medians(&runs);
        assert_eq!(cell, [("jain", 0.7), ("rtos", 1.0), ("runs", 3.0)].into());
    }

    #[test]
    fn the_newest_run_of_a_cell_has_nothing_of_an_older_one() {
        let old = cell(&[("jain", 0.5), ("rtos", 9.0)]);
        let new = cell(&[("jain", 0.9)]);
        let mut all = lines(&old, ("old", "6.1"), "bulk", "htb");
        all.extend(lines(&old, ("old", "6.18"), "bulk", "htb"));
        all.extend(lines(&old, ("old", "6.18"), "bulk", "tbf"));
        all.extend(lines(&new, ("new", "6.18"), "bulk", "htb"));
        let newest = newest(&all);
        assert_eq!(newest.len(), 1);
        let cell = &newest[&("bulk".to_owned(), "htb".to_owned())];
        assert_eq!(cell.len(), 1);
        assert_eq!(cell["jain"].commit, "new");
    }

    #[test]
    fn in_virtual_time_peers_of_an_older_commit_stay() {
        let kernel = "6.12.1 (virtual time)";
        let mut all = lines(&cell(&[("jain", 0.5)]), ("old", kernel), "bulk", "htb");
        all.extend(lines(
            &cell(&[("jain", 0.4)]),
            ("old", kernel),
            "bulk",
            "tbf",
        ));
        all.extend(lines(
            &cell(&[("jain", 0.9)]),
            ("new", kernel),
            "bulk",
            "htb",
        ));
        let newest = newest(&all);
        let commit = |system: &str| {
            let cell = &newest[&("bulk".to_owned(), system.to_owned())];
            cell["jain"].commit.clone()
        };
        assert_eq!((commit("htb"), commit("tbf")), ("new".into(), "old".into()));
    }

    #[test]
    fn kernels_stand_apart_by_series() {
        let mut all = lines(&cell(&[("jain", 0.5)]), ("a", "6.12.1+deb"), "bulk", "htb");
        all.extend(lines(
            &cell(&[("jain", 0.6)]),
            ("b", "6.18.44-x"),
            "bulk",
            "htb",
        ));
        all.extend(lines(
            &cell(&[("jain", 0.7)]),
            ("c", "6.12.9+deb"),
            "bulk",
            "htb",
        ));
        let found = by_series(&all);
        let of = |at: usize| {
            let (series, cells) = &found[at];
            let line = &cells[&("bulk".to_owned(), "htb".to_owned())]["jain"];
            (series.as_str(), line.commit.as_str())
        };
        assert_eq!(
            (found.len(), of(0), of(1)),
            (2, ("6.18", "b"), ("6.12", "c"))
        );
    }

    #[test]
    fn metrics_are_told_apart() {
        for (at, metric) in METRICS.iter().enumerate() {
            assert!(METRICS[..at].iter().all(|other| other.name != metric.name));
            assert!(find(metric.name).is_some());
        }
        assert!(find("nonsense").is_none());
    }
}
