//! `cargo xtask bench --isolation` in small: every system that is here is put in force, loaded and taken away, and what
//! it leaves has the form that is stored. How good a figure is, is not tested: this machine has neighbours.
//!
//! `CASES: isolation, figures: N`

use anyhow::{Context as _, Result, ensure};
use bench::isolation::{
    Options, octroi_binary,
    results::{self, Line},
    run, table,
};
use std::path::{Path, PathBuf};

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn short(scenarios: &[&str]) -> Options {
    Options {
        seconds: 1,
        runs: 1,
        scenarios: scenarios.iter().map(|name| (*name).to_owned()).collect(),
        short: true,
        commit: "abc".to_owned(),
        systems: Vec::new(),
        machine: None,
        slower: 1,
        octroi: PathBuf::new(),
    }
}

fn value(lines: &[Line], scenario: &str, system: &str, metric: &str) -> Option<f64> {
    let mut lines = lines.iter();
    let found = lines
        .find(|line| line.scenario == scenario && line.system == system && line.metric == metric);
    found.map(|line| line.value)
}

#[test]
fn every_system_that_is_here_is_measured() -> Result<()> {
    if let Err(why) = octroi::lab::site::possible() {
        println!("SKIPPED: every_system_that_is_here_is_measured: {why}");
        return Ok(());
    }
    let options = Options {
        octroi: octroi_binary()?,
        ..short(&[])
    };
    let mut lines = Vec::new();
    run(&options, |scenario| {
        lines.extend_from_slice(scenario);
        Ok(())
    })?;
    println!("CASES: isolation, figures: {}", lines.len());
    let mut text = String::new();
    for line in &lines {
        ensure!(
            line.value.is_finite() && line.commit == "abc" && !line.kernel.is_empty(),
            "{line:?}"
        );
        let known = results::find(&line.metric).with_context(|| line.metric.clone())?;
        ensure!(known.unit == line.unit, "{line:?}");
        text += &(serde_json::to_string(line)? + "\n");
    }
    ensure!(results::read(&text)? == lines, "what is stored comes back");
    let shown = table::markdown(&results::newest(&lines));
    for scenario in options.chosen()? {
        let name = scenario.name();
        ensure!(shown.contains(&format!("## {name}\n")), "{shown}");
        // Those that need nothing of the kernel but what octroi needs anyway.
        for system in ["none", "octroi-share"] {
            ensure!(
                lines
                    .iter()
                    .any(|line| line.scenario == name && line.system == system),
                "{name}: nothing of {system}"
            );
        }
    }
    // Real bytes went through a real limit, not through a hole: with none of it ten times as much arrives.
    let rate = |system| value(&lines, "small-frames-1mbit", system, "rate_mbit");
    let (free, held) = (
        rate("none").context("none")?,
        rate("octroi-police").context("octroi-police")?,
    );
    ensure!(
        held < 2.0 && free > 2.0 * held,
        "{free} Mbit/s without a limit, {held} with one"
    );
    Ok(())
}

#[test]
fn the_readme_has_the_table_of_what_is_stored() -> Result<()> {
    let stored = std::fs::read_to_string(at("results/isolation.jsonl"))?;
    let series = results::by_series(&results::read(&stored)?);
    ensure!(!series.is_empty(), "nothing is stored");
    let page = std::fs::read_to_string(at("README.md"))?;
    ensure!(
        table::put_into(&page, &table::by_series(&series))? == page,
        "run `cargo xtask bench --isolation --publish`"
    );
    for (name, picture) in bench::isolation::plot::by_series(&series) {
        let path = at("results").join(name);
        ensure!(
            std::fs::read_to_string(&path)? == picture,
            "{}: run `cargo xtask bench --isolation --publish`",
            path.display()
        );
    }
    Ok(())
}

#[test]
fn a_scenario_that_is_none_is_named() {
    let error = short(&["bulk", "nonsense"]).chosen().unwrap_err();
    assert!(
        error.to_string().contains("no scenario nonsense") && error.to_string().contains("bulk-"),
        "{error}"
    );
    // Three of bulk at 100 Mbit/s, one of them with ECN, and the mixed one.
    assert_eq!(short(&["bulk-100mbit", "mixed"]).chosen().unwrap().len(), 4);
}
