//! `packaging/grafana.json`: each metric and label that it names is in what a host really says, and Prometheus can read each
//! expression.

use super::{at, parse, promtool};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

const FILE: &str = "packaging/grafana.json";
/// Labels that Prometheus adds.
const ADDED: [&str; 2] = ["instance", "job"];

/// Every expression of the panels, and every query of the variables.
fn expressions(dashboard: &Value) -> (Vec<String>, Vec<String>) {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let texts = |key: &'static str| move |from: &Value| from[key].as_str().map(str::to_owned);
    let variables = dashboard["templating"]["list"].as_array();
    (
        targets.filter_map(texts("expr")).collect(),
        variables
            .into_iter()
            .flatten()
            .filter_map(texts("definition"))
            .collect(),
    )
}

/// What an expression selects: names of metrics, each with the labels in its braces.
fn selected(expression: &str) -> Vec<(String, BTreeSet<String>)> {
    let mut found = Vec::new();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = expression;
    while let Some(begin) = rest.find("octroi_") {
        rest = &rest[begin..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let inside = after
            .strip_prefix('{')
            .and_then(|after| after.split('}').next());
        let labels = inside.unwrap_or_default().split(',').filter_map(|pair| {
            let name = pair.split(['=', '!']).next()?.trim();
            (!name.is_empty()).then(|| name.to_owned())
        });
        found.push((name.to_owned(), labels.collect()));
        rest = after;
    }
    found
}

/// Labels that an expression sums by, or that a variable lists.
fn grouped(expression: &str) -> Vec<String> {
    let by = expression
        .split(" by (")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let listed = expression
        .strip_prefix("label_values(")
        .and_then(|rest| rest.rsplit(", ").next());
    let listed = listed.map(|label| label.trim_end_matches(')'));
    by.flat_map(|labels| labels.split(", "))
        .chain(listed)
        .map(str::to_owned)
        .collect()
}

/// Holds the dashboard against what a host said at several times.
pub fn names_what_there_is(said: &[&str]) -> Result<()> {
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for series in said
        .iter()
        .map(|text| parse(text))
        .collect::<Result<Vec<_>>>()?
    {
        for series in series.keys() {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.split("\",").filter_map(|pair| pair.split_once('='));
            let all = known.entry(name.to_owned()).or_default();
            all.extend(labels.map(|(label, _)| label.to_owned()));
            all.extend(ADDED.map(str::to_owned));
        }
    }
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(at(FILE))?)?;
    let (panels, variables) = expressions(&dashboard);
    ensure!(
        panels.len() > 20 && variables.len() == 2,
        "{} {}",
        panels.len(),
        variables.len()
    );
    let mut used = BTreeSet::new();
    for expression in panels.iter().chain(&variables) {
        let selected = selected(expression);
        ensure!(!selected.is_empty(), "{expression} selects nothing");
        for (name, mut labels) in selected {
            let there = known.get(&name);
            let there = there.with_context(|| format!("{expression}: no host says {name}"))?;
            labels.extend(grouped(expression));
            let strange: Vec<_> = labels.difference(there).collect();
            ensure!(
                strange.is_empty(),
                "{expression}: {name} has no {strange:?}"
            );
            used.insert(name);
        }
    }
    // What a host says and nobody sees is as good as not said.
    let unseen: Vec<_> = known.keys().filter(|name| !used.contains(*name)).collect();
    ensure!(unseen.is_empty(), "on no panel: {unseen:?}");
    let ids = dashboard["panels"].as_array().into_iter().flatten();
    let ids: Vec<_> = ids.filter_map(|panel| panel["id"].as_u64()).collect();
    ensure!(
        ids.iter().collect::<BTreeSet<_>>().len() == ids.len(),
        "{ids:?}"
    );
    if promtool() {
        readable(&panels)?;
    }
    println!(
        "CASES: metrics on the dashboard that a host says: {}",
        used.len()
    );
    Ok(())
}

/// Prometheus reads each expression, once Grafana has put its variables in.
fn readable(expressions: &[String]) -> Result<()> {
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (number, expression) in expressions.iter().enumerate() {
        let filled = expression
            .replace("$__rate_interval", "5m")
            .replace("$instance", ".*")
            .replace("$tenant", ".*");
        ensure!(!filled.contains('$'), "{expression}");
        rules += &format!("  - record: dashboard:{number}\n    expr: '{filled}'\n");
    }
    let path = std::env::temp_dir().join(format!("octroi-dashboard-{}.yml", std::process::id()));
    fs::write(&path, rules)?;
    let output = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&path)
        .output();
    let _ = fs::remove_file(&path);
    let output = output?;
    ensure!(output.status.success(), "{output:?}");
    println!(
        "CASES: expressions of the dashboard that promtool reads: {}",
        expressions.len()
    );
    Ok(())
}

#[test]
fn what_an_expression_names_is_found() {
    let expression =
        "sum by (tenant, x) (rate(octroi_a_total{tenant=~\"$t\", way!=\"to\"}[5m])) / octroi_b";
    let found = selected(expression);
    let labels = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            ("octroi_a_total".to_owned(), labels(&["tenant", "way"])),
            ("octroi_b".to_owned(), labels(&[])),
        ]
    );
    assert_eq!(grouped(expression), ["tenant", "x"]);
    assert_eq!(grouped("label_values(octroi_up, instance)"), ["instance"]);
    let host = ["octroi_up 1"];
    assert!(names_what_there_is(&host).is_err());
}
