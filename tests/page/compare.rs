//! What the page shows, against what octroi's commands say.

use super::site::Served;
use crate::support::{octroi, settle};
use anyhow::{Context as _, Result, ensure};
use octroi::{lab::ends, status::Report};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

/// Rows of a table of the page, without the spaces between digits.
fn rows(found: &Value, table: &str) -> Result<Vec<Vec<String>>> {
    let rows = found["still"]["tables"][table].as_array();
    let rows = rows.with_context(|| format!("{table}: {found}"))?;
    let text = |cell: &Value| cell.as_str().unwrap_or_default().replace('\u{202f}', "");
    let cells = |row: &Value| row.as_array().into_iter().flatten().map(text).collect();
    Ok(rows.iter().map(cells).collect())
}

type Sums = BTreeMap<Vec<String>, [u64; 2]>;

/// What `octroi status --json` says by tenant and direction.
fn by_tenant(report: &Report) -> (BTreeMap<String, [u64; 5]>, Sums, Sums) {
    let (mut totals, mut drops, mut evidence) = (
        BTreeMap::<String, [u64; 5]>::new(),
        Sums::new(),
        Sums::new(),
    );
    for port in &report.ports {
        let name = &report.tenants[&port.tenant];
        let sums = totals.entry(name.clone()).or_default();
        for (place, way, direction) in [(0, "from", &port.from_tenant), (1, "to", &port.to_tenant)]
        {
            let total = direction.total();
            sums[place] += total.l2_bytes;
            sums[place + 2] += total.packets;
            sums[4] += direction.dropped().packets;
            for (lines, of) in [
                (&direction.drops, &mut drops),
                (&direction.evidence, &mut evidence),
            ] {
                for (what, counts) in lines {
                    let key = [name.as_str(), way, what].map(str::to_owned).to_vec();
                    let sum = of.entry(key).or_default();
                    sum[0] += counts.packets;
                    sum[1] += counts.l2_bytes;
                }
            }
        }
    }
    (totals, drops, evidence)
}

fn sums(rows: &[Vec<String>]) -> Result<Sums> {
    let parsed = rows.iter().map(|row| {
        let [packets, bytes] = [&row[3], &row[4]].map(|text| text.parse::<u64>());
        Ok((row[..3].to_vec(), [packets?, bytes?]))
    });
    parsed.collect()
}

/// Everything that the page says at rest, against `octroi status --json`, `octroi usage`, `octroi ledger status` and the sink.
pub fn same_numbers(served: &Served, found: &Value) -> Result<usize> {
    let site = &served.site;
    let report =
        settle(|| Ok(serde_json::to_string(&site.report()?.ports)?)).and_then(|_| site.report())?;
    let (totals, drops, evidence) = by_tenant(&report);
    ensure!(
        totals["alice"][0] > 100_000 && totals["bob"][0] > 10_000,
        "{totals:?}"
    );
    let mut compared = 0;
    let tenants = rows(found, "tenants-table")?;
    ensure!(tenants.len() == totals.len(), "{tenants:?}");
    for row in &tenants {
        let shown = row[5..].iter().map(|text| text.parse::<u64>());
        let shown: Vec<u64> = shown
            .collect::<Result<_, _>>()
            .with_context(|| format!("{row:?}"))?;
        ensure!(
            shown == totals[&row[0]],
            "{row:?}, and status says {totals:?}"
        );
        compared += shown.len();
    }
    ensure!(
        drops.values().map(|sum| sum[0]).sum::<u64>() >= 20,
        "{drops:?}"
    );
    ensure!(
        !ends::openssl() || evidence.keys().any(|key| key[2] == "E3"),
        "{evidence:?}"
    );
    for (table, expected) in [("drops-table", drops), ("evidence-table", evidence)] {
        let shown = sums(&rows(found, table)?)?;
        ensure!(
            shown == expected,
            "{table}: {shown:?}, and status says {expected:?}"
        );
        compared += 2 * shown.len();
    }
    compared += usage(served, found)?;
    compared += history(served, found)?;
    // Windows and the ledger go on; what they were is not less than at the first look, nor more than now.
    let meter = report.meter.context("no meter")?;
    let number = |list: &str, name: &str| -> Result<u64> {
        let text = &found["still"]["lists"][list][name];
        let text = text
            .as_str()
            .with_context(|| format!("{list} {name}: {found}"))?;
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        digits
            .parse()
            .with_context(|| format!("{list} {name}: {text}"))
    };
    let live = &found["live"]["lists"]["windows-list"]["Closed by this daemon"];
    let live: u64 = live.as_str().context("windows")?.parse()?;
    for (shown, most) in [
        (
            number("windows-list", "Closed by this daemon")?,
            meter.windows,
        ),
        (
            number("windows-list", "Last closed")?,
            meter.committed_window.unwrap_or_default(),
        ),
        (number("ledger-list", "Records")?, meter.records),
    ] {
        ensure!(shown >= live && shown <= most, "{live} {shown} {most}");
        compared += 1;
    }
    ensure!(number("windows-list", "UNMETERED")? == 0 && meter.audit.unmetered == 0);
    ensure!(number("ledger-list", "Records after the head")? == 0);
    ensure!(found["still"]["lists"]["ledger-list"]["Id"] == meter.ledger_id);
    let sinks = rows(found, "sinks-table")?;
    let sink = sinks.first().context("no sink")?;
    let confirmed: u64 = sink[2].parse()?;
    let at = &report.sinks.first().context("no sink")?.progress;
    ensure!(sink[0] == "export" && sink[5] == "none", "{sink:?}");
    ensure!(
        confirmed >= live && confirmed <= at.confirmed,
        "{sink:?} {at:?}"
    );
    Ok(compared + 5)
}

fn command(arguments: &[&str]) -> Result<String> {
    let output = Command::new(octroi()).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The month that the page chose: the last one with records.
fn month(found: &Value) -> Result<String> {
    let path = found["downloads"]["csv"].as_str().context("no file")?;
    let name = Path::new(path).file_stem().context("no name")?;
    let name = name.to_str().context("no name")?;
    Ok(name.trim_start_matches("statement-1-").to_owned())
}

/// The table of usage is what `octroi usage` says of alice.
fn usage(served: &Served, found: &Value) -> Result<usize> {
    let config = served.site.config_path();
    let config = config.to_str().context("a path")?;
    let month = month(found)?;
    let said = command(&[
        "usage", "--config", config, "--tenant", "alice", "--month", &month, "--format", "json",
    ])?;
    let mut expected = BTreeSet::new();
    for line in said.lines() {
        let item: Value = serde_json::from_str(line)?;
        if item["what"] == "usage" {
            let text = |key: &str| match &item[key] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let zone = item["zone_name"].as_str().filter(|name| !name.is_empty());
            let zone = zone.map_or_else(|| text("zone"), str::to_owned);
            expected.insert(vec![
                text("port"),
                text("direction"),
                zone,
                text("packets"),
                text("l2_bytes"),
                text("l3_bytes"),
            ]);
        }
    }
    let shown: BTreeSet<Vec<String>> = rows(found, "usage-table")?.into_iter().collect();
    ensure!(
        !shown.is_empty() && shown == expected,
        "{shown:?}, and usage says {expected:?}"
    );
    Ok(3 * shown.len())
}

/// What the page says of the last hour and day is what `octroi usage` says of each five minutes.
fn history(served: &Served, found: &Value) -> Result<usize> {
    let config = served.site.config_path();
    let config = config.to_str().context("a path")?;
    let mut compared = 0;
    for (hours, slots) in [("1", 12), ("24", 288)] {
        let rows = found["history"][hours].as_array().context("a table")?;
        ensure!(rows.len() == slots, "{hours} h: {} rows", rows.len());
        let text = |row: &Value, cell: usize| {
            let text = row[cell].as_str().unwrap_or_default();
            text.replace('\u{202f}', "")
        };
        let time = |row: &Value| text(row, 0).replace(" UTC", "Z").replace(' ', "T");
        let (last, first) = (&rows[0], &rows[slots - 1]);
        let end = time(last).parse::<jiff::Timestamp>()? + jiff::SignedDuration::from_mins(5);
        let said = command(&[
            "usage",
            "--config",
            config,
            "--tenant",
            "alice",
            "--by",
            "slot,direction",
            "--from",
            &time(first),
            "--to",
            &end.to_string(),
            "--format",
            "json",
        ])?;
        let mut shown = BTreeMap::new();
        for row in rows {
            for (cell, way) in [(1, "from"), (2, "to")] {
                let bytes = text(row, cell);
                if bytes != "\u{2013}" {
                    shown.insert((time(row), way.to_owned()), bytes);
                }
                let rate = text(row, cell + 2);
                ensure!(
                    (rate == "\u{2013}") == (text(row, cell) == "\u{2013}"),
                    "{row}"
                );
            }
        }
        let mut expected = BTreeMap::new();
        for line in said.lines() {
            let item: Value = serde_json::from_str(line)?;
            let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
            if item["what"] == "usage" {
                expected.insert((text("from"), text("direction")), text("l2_bytes"));
            }
        }
        ensure!(
            expected.values().any(|bytes| bytes.len() > 5) && shown == expected,
            "{shown:?}, and usage says {expected:?}"
        );
        compared += shown.len();
    }
    ensure!(
        found["history_drawn"] == true,
        "no line in the chart of the history"
    );
    Ok(compared)
}

/// The files are what `octroi statement` makes.
pub fn statements(served: &Served, found: &Value) -> Result<()> {
    let config = served.site.config_path();
    let config = config.to_str().context("a path")?;
    let month = month(found)?;
    let read = |kind: &str| -> Result<String> {
        let path = found["downloads"][kind].as_str().context("no file")?;
        Ok(fs::read_to_string(path)?)
    };
    let made = |kind: &str| {
        command(&[
            "statement",
            "--config",
            config,
            "--tenant",
            "alice",
            "--month",
            &month,
            "--format",
            kind,
        ])
    };
    ensure!(
        read("csv")? == made("csv")?,
        "{}\n{}",
        read("csv")?,
        made("csv")?
    );
    let [shown, expected]: [Value; 2] = [
        serde_json::from_str(&read("json")?)?,
        serde_json::from_str(&made("json")?)?,
    ];
    // The ledger went on meanwhile.
    for key in ["tenant", "tenant_name", "month", "total", "days", "cells"] {
        ensure!(
            shown[key] == expected[key],
            "{key}: {} {}",
            shown[key],
            expected[key]
        );
    }
    ensure!(
        shown["total"]["l2_bytes"]
            .as_str()
            .is_some_and(|sum| sum.len() > 5),
        "{}",
        shown["total"]
    );
    ensure!(read("html")?.contains("<html lang=\"en\""));
    println!("CASES: statements downloaded: 3");
    Ok(())
}
