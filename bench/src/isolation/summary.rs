//! One table of a series of kernels: of each scenario the figures that it is made for. All that was measured is in a page of its
//! own ([`super::table`]).

use super::{
    results::{Cells, find},
    scenarios::Scenario,
    systems::System,
    table::{Rows, leads, rows, shown},
};
use std::fmt::Write as _;

/// What a scenario is made for, by the beginning of its name.
const ASKED: [(&str, &[&str]); 6] = [
    ("bulk", &["rate_error_percent", "rr_p99_ms", "jain", "rtos"]),
    ("mixed", &["tcp_mbit", "rr_p99_ms"]),
    ("small", &["rate_error_percent"]),
    (
        "neighbour",
        &["victim_goodput_ratio", "victim_rr_p99_ratio"],
    ),
    (
        "guarantees",
        &["guarantee_kept_percent", "link_used_percent"],
    ),
    ("equal", &["jain", "least_tenant_mbit"]),
];

/// The table; the figures of peers that are ahead of octroi in each of its shapes stand out.
pub fn markdown(cells: &Cells) -> String {
    let systems: Vec<&str> = System::ALL
        .iter()
        .map(|system| system.name())
        .filter(|system| cells.keys().any(|(_, of)| of == system))
        .collect();
    let mut text = String::from("\n| |");
    for system in &systems {
        let _ = write!(text, " {system} |");
    }
    let _ = write!(text, "\n| --- |{}\n", " ---: |".repeat(systems.len()));
    for scenario in Scenario::ALL {
        let name = scenario.name();
        let rows = rows(cells, &name);
        let asked = ASKED.iter().find(|(begin, _)| name.starts_with(begin));
        for metric in asked.map_or(&[][..], |(_, metrics)| metrics) {
            line(&mut text, &name, metric, &systems, &rows);
        }
    }
    text
}

fn line(text: &mut String, scenario: &str, metric: &str, systems: &[&str], rows: &Rows) {
    let is_there = rows.iter().any(|(_, cell)| cell.contains_key(metric));
    let Some(metric) = find(metric).filter(|_| is_there) else {
        return;
    };
    let _ = write!(text, "| {scenario}: {} |", metric.label());
    for system in systems {
        let cell = rows.iter().find(|(row, _)| row == system);
        let value = cell.and_then(|(_, cell)| cell.get(metric.name));
        let value = value.map_or_else(|| "-".to_owned(), |line| shown(metric, line.value));
        let mark = if leads(metric, system, rows) {
            "**"
        } else {
            ""
        };
        let _ = write!(text, " {mark}{value}{mark} |");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each scenario is made for something.
    #[test]
    fn every_scenario_is_in_the_table() {
        for scenario in Scenario::ALL {
            let name = scenario.name();
            let asked = ASKED.iter().find(|(begin, _)| name.starts_with(begin));
            let (_, metrics) = asked.unwrap_or_else(|| panic!("{name}"));
            assert!(
                metrics.iter().all(|metric| find(metric).is_some()),
                "{name}"
            );
        }
    }
}
