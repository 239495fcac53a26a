//! The tables of what was measured, made from the stored results.

use super::{
    results::{Better, Cells, Line, METRICS, Metric},
    scenarios::Scenario,
    summary,
    systems::System,
};
use anyhow::{Context as _, Result};
use std::{collections::BTreeMap, fmt::Write as _};

/// What stands between the two is made, not written.
pub const BEGIN: &str = "<!-- isolation: begin -->";
/// Its end.
pub const END: &str = "<!-- isolation: end -->";

/// What a page has of each series of kernels.
pub fn by_series(series: &[(String, Cells)]) -> String {
    let part = |(series, cells): &(String, Cells)| {
        format!(
            "\n### Linux {series}\n{}\nAll that was measured: [isolation-{series}.md](results/isolation-{series}.md).\n",
            summary::markdown(cells)
        )
    };
    series.iter().map(part).collect()
}

/// The page of a series: its name, and all that was measured.
pub fn pages(series: &[(String, Cells)]) -> impl Iterator<Item = (String, String)> {
    series.iter().map(|(series, cells)| {
        let title = format!(
            "# Isolation, Linux {series}\n\nMade by `cargo xtask bench --isolation` from `isolation.jsonl`; \
             [README](../README.md) says how it is measured.\n"
        );
        (format!("isolation-{series}.md"), title + &markdown(cells))
    })
}

/// Systems in their order, with what was measured of them.
pub(super) type Rows<'c> = Vec<(&'static str, &'c BTreeMap<String, Line>)>;

/// What was measured in a scenario.
pub(super) fn rows<'c>(cells: &'c Cells, scenario: &str) -> Rows<'c> {
    let of = |system: &System| {
        let key = (scenario.to_owned(), system.name().to_owned());
        Some((system.name(), cells.get(&key)?))
    };
    System::ALL.iter().filter_map(of).collect()
}

/// Of each scenario that was measured a table, and in which figures a peer is ahead of octroi in all its shapes.
pub fn markdown(cells: &Cells) -> String {
    let mut text = String::new();
    for scenario in Scenario::ALL {
        let name = scenario.name();
        let rows = rows(cells, &name);
        if !rows.is_empty() {
            section(&mut text, &name, &rows);
        }
    }
    text
}

/// Which commit was measured; where there are several, whose figures are of which.
fn commits(rows: &Rows) -> String {
    let mut by_commit: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (system, cell) in rows {
        if let Some(line) = cell.values().next() {
            by_commit.entry(&line.commit).or_default().push(system);
        }
    }
    if let [commit] = by_commit.keys().collect::<Vec<_>>()[..] {
        return format!("Commit {commit}");
    }
    let each = by_commit
        .iter()
        .map(|(commit, systems)| format!("{commit} ({})", systems.join(", ")));
    format!("Commits {}", each.collect::<Vec<_>>().join(" and "))
}

fn section(text: &mut String, name: &str, rows: &Rows) {
    let columns: Vec<&Metric> = METRICS
        .iter()
        .filter(|metric| metric.name != "runs")
        .filter(|metric| rows.iter().any(|(_, cell)| cell.contains_key(metric.name)))
        .collect();
    let first = rows.iter().find_map(|(_, cell)| cell.values().next());
    let kernel = first.map_or("", |line| &line.kernel);
    let commits = commits(rows);
    let runs = rows.iter().find_map(|(_, cell)| cell.get("runs"));
    let runs = runs.map_or(0.0, |line| line.value);
    let _ = writeln!(
        text,
        "\n## {name}\n\n{commits}, Linux {kernel}, median of {runs:.0}.\n"
    );
    let _ = write!(text, "| |");
    for (system, _) in rows {
        let _ = write!(text, " {system} |");
    }
    let _ = write!(text, "\n| --- |");
    for _ in rows {
        let _ = write!(text, " ---: |");
    }
    let _ = writeln!(text);
    let mut ahead = Vec::new();
    for metric in columns {
        let _ = write!(text, "| {} |", metric.label());
        for (system, cell) in rows {
            let shown = cell.get(metric.name).map(|line| shown(metric, line.value));
            let leads = leads(metric, system, rows);
            if let (true, Some(value)) = (leads, &shown) {
                ahead.push(format!("{system} {value} in `{}`", metric.name));
            }
            let mark = if leads { "**" } else { "" };
            let _ = write!(
                text,
                " {mark}{}{mark} |",
                shown.unwrap_or_else(|| "-".to_owned())
            );
        }
        let _ = writeln!(text);
    }
    let has_ours = rows.iter().any(|(system, _)| System::is_ours(system));
    if ahead.is_empty() && has_ours {
        let _ = writeln!(text, "\nNo peer is ahead of octroi here.");
    } else if !ahead.is_empty() {
        let _ = writeln!(
            text,
            "\nAhead of octroi in each of its shapes: {}.",
            ahead.join("; ")
        );
    }
}

pub(super) fn shown(metric: &Metric, value: f64) -> String {
    let text = format!("{value:.*}", metric.digits);
    // There is one zero.
    if text.trim_start_matches(['-', '0', '.']).is_empty() {
        return format!("{:.*}", metric.digits, 0.0);
    }
    text
}

/// Whether a peer's figure, as it is shown, is better than that of octroi in every shape.
pub(super) fn leads(metric: &Metric, system: &str, rows: &Rows) -> bool {
    if System::is_ours(system) || system == System::None.name() {
        return false;
    }
    // More than it may let through is no better a goodput.
    let error = rows.iter().find(|(row, _)| *row == system);
    let error = error.and_then(|(_, cell)| Some(cell.get("rate_error_percent")?.value));
    if metric.unit == "Mbit/s" && error.is_some_and(|percent| percent > 1.0) {
        return false;
    }
    let score = |name: &str| -> Option<f64> {
        let (_, cell) = rows.iter().find(|(row, _)| *row == name)?;
        let value: f64 = shown(metric, cell.get(metric.name)?.value).parse().ok()?;
        match metric.better {
            Better::Lower => Some(-value),
            Better::Higher => Some(value),
            Better::Near(wanted) => Some(-(value - wanted).abs()),
            Better::Neither => None,
        }
    };
    let ours = rows.iter().filter(|(row, _)| System::is_ours(row));
    let best = ours
        .filter_map(|(row, _)| score(row))
        .fold(f64::NEG_INFINITY, f64::max);
    best.is_finite() && score(system).is_some_and(|score| score > best)
}

/// Puts what was made between the marks of a page.
///
/// # Errors
/// When the page has not both.
pub fn put_into(page: &str, made: &str) -> Result<String> {
    let marks = || format!("the page has no {BEGIN} before {END}");
    let (before, rest) = page.split_once(BEGIN).with_context(marks)?;
    let (_, after) = rest.split_once(END).with_context(marks)?;
    Ok(format!("{before}{BEGIN}\n{made}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::super::results::{Cell, lines, newest};
    use super::*;

    fn cells(values: &[(&str, &[(&'static str, f64)])]) -> Cells {
        let name = Scenario::ALL[0].name();
        let mut all = Vec::new();
        for (system, cell) in values {
            let cell: Cell = cell.iter().copied().collect();
            all.extend(lines(&cell, ("abc", "6.18"), &name, system));
        }
        newest(&all)
    }

    #[test]
    fn says_where_a_peer_is_ahead_of_each_of_octrois_shapes() {
        let text = markdown(&cells(&[
            ("none", &[("rr_p99_ms", 0.01)]),
            ("octroi-htb", &[("rr_p99_ms", 0.3), ("jain", 0.9)]),
            ("octroi-police", &[("rr_p99_ms", 0.2), ("jain", 0.5)]),
            ("htb", &[("rr_p99_ms", 0.25), ("jain", 0.7)]),
            (
                "nftables",
                &[
                    ("rr_p99_ms", 0.1),
                    ("jain", 0.9001),
                    ("rate_error_percent", -19.0),
                ],
            ),
        ]));
        assert!(
            text.contains("| `rr_p99_ms`, ms | 0.01 | 0.30 | 0.20 | 0.25 | **0.10** |"),
            "{text}"
        );
        // As shown, they are equal; and where octroi has no figure nobody is ahead.
        assert!(
            text.contains("| `jain` | - | 0.900 | 0.500 | 0.700 | 0.900 |"),
            "{text}"
        );
        assert!(text.contains("| - | - | - | - | -19.0 |"), "{text}");
        assert!(
            text.contains("Ahead of octroi in each of its shapes: nftables 0.10 in `rr_p99_ms`."),
            "{text}"
        );
    }

    #[test]
    fn nearer_to_zero_is_better_from_either_side() {
        let text = markdown(&cells(&[
            ("octroi-htb", &[("rate_error_percent", -0.5)]),
            ("tbf", &[("rate_error_percent", 0.4)]),
            ("htb", &[("rate_error_percent", -4.0)]),
        ]));
        assert!(text.contains("| -0.5 | -4.0 | **0.4** |"), "{text}");
        let text = markdown(&cells(&[("octroi-htb", &[("rate_error_percent", -0.01)])]));
        assert!(
            text.contains("| 0.0 |") && text.contains("No peer is ahead"),
            "{text}"
        );
    }

    #[test]
    fn a_peer_that_lets_too_much_through_is_not_ahead_in_goodput() {
        let with = |percent| {
            markdown(&cells(&[
                ("octroi-htb", &[("goodput_mbit", 95.0)]),
                (
                    "nftables",
                    &[("goodput_mbit", 103.0), ("rate_error_percent", percent)],
                ),
            ]))
        };
        assert!(with(0.5).contains("nftables 103.0 in `goodput_mbit`"));
        assert!(!with(8.0).contains("103.0 in"), "{}", with(8.0));
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nz\n");
        let page = put_into(&page, "new").unwrap();
        assert_eq!(page, format!("a\n{BEGIN}\nnew\n{END}\nz\n"));
        assert!(put_into("a", "new").is_err());
    }
}
