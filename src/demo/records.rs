//! What the ledger says after the demo, against the registers that were read before the daemon ended.

use super::checks::{Check, Outcome};
use crate::status::Report;
use anyhow::{Context as _, Result, ensure};
use dataplane_common::encryption::Class;
use metering::{
    ledger::{self, Filter, FlowFilter},
    record::{Flags, Kind, Record},
    window::Counts,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    path::Path,
};

/// Length of a window: several in every demo.
pub const WINDOW: &str = "1s";

/// The configuration's part for the meter.
pub fn section(ledger: &Path) -> String {
    format!(
        "\n[meter]\nledger = \"{}\"\nwindow = \"{WINDOW}\"\n",
        ledger.display()
    )
}

/// Compares all records of all ports with the registers at rest. `before` is the last report of the
/// daemon, which has ended and written its last window since.
pub fn compare(path: &Path, before: &Report, outcome: &mut Outcome) -> Result<()> {
    let rows = ledger::records(path, &Filter::default())?;
    let records: Vec<Record> = rows
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|(seq, error)| anyhow::anyhow!("record {seq}: {error}"))?;
    let mut totals = BTreeMap::<(u64, u8), Counts>::new();
    let mut zones = BTreeMap::<(u64, u8), Counts>::new();
    for record in records.iter().filter(|record| record.kind == Kind::Meter) {
        let sums = if record.zone.is_none() {
            &mut totals
        } else {
            &mut zones
        };
        let sum = sums
            .entry((record.incarnation, record.direction))
            .or_default();
        let counted = record.counted().context("a record without a reading")?;
        *sum = sum.checked_add(counted).context("a sum past 2^64")?;
    }
    let (mut register_bytes, mut off, mut zones_off) = (0, [0; 2], 0);
    for port in &before.ports {
        for (direction, registers) in [(0, &port.from_tenant), (1, &port.to_tenant)] {
            let key = (port.incarnation, direction);
            let (registers, billed) = (
                registers.total(),
                totals.get(&key).copied().unwrap_or_default(),
            );
            register_bytes += registers.l2_bytes;
            off[0] += registers.l2_bytes.abs_diff(billed.l2_bytes);
            off[1] += registers.packets.abs_diff(billed.packets);
            let zones = zones.get(&key).copied().unwrap_or_default();
            zones_off += zones.l2_bytes.abs_diff(billed.l2_bytes);
        }
    }
    flows(path, &records, outcome)?;
    evidence(&records, before, outcome);
    let windows: BTreeSet<u64> = records
        .iter()
        .filter(|record| record.kind == Kind::Meter)
        .map(|record| record.window_id)
        .collect();
    let merged = records.iter().any(|record| record.flags.has(Flags::MERGED));
    eprintln!(
        "demo: the ledger has {} records of {} windows, {} bytes{}",
        records.len(),
        windows.len(),
        register_bytes,
        if merged {
            "; the window in which the daemon was killed is MERGED with the next"
        } else {
            ""
        }
    );
    outcome.push(Check::at_least(
        "windows in the ledger",
        windows.len() as u64,
        3,
        "windows",
    ));
    outcome.push(Check::equal(
        "difference: ports, all their records and their registers",
        off[0],
        0,
        "bytes",
    ));
    outcome.push(Check::equal(
        "difference: ports, all their records and their registers",
        off[1],
        0,
        "packets",
    ));
    outcome.push(Check::equal(
        "difference: ports, records by zone and records of all zones",
        zones_off,
        0,
        "bytes",
    ));
    outcome.push(Check::at_least(
        "bytes in the ledger",
        register_bytes,
        1_000_000,
        "bytes",
    ));
    Ok(())
}

/// Classes of evidence of all records, against the registers; and how much of it was checked record by record.
fn evidence(records: &[Record], before: &Report, outcome: &mut Outcome) {
    let mut told = BTreeMap::<(u64, u8, &str), u64>::new();
    for record in records {
        for one in record.total.iter().flat_map(|total| &total.evidence) {
            let class = Class::ALL[usize::from(one.class)].name();
            let key = (record.incarnation, record.direction, class);
            *told.entry(key).or_default() += one.l2_bytes;
        }
    }
    let checked = told.iter().filter(|((_, _, class), _)| *class == "E3");
    let checked = checked.map(|(_, bytes)| bytes).sum();
    let mut off = 0;
    for port in &before.ports {
        for (direction, registers) in [(0, &port.from_tenant), (1, &port.to_tenant)] {
            for (class, counts) in &registers.evidence {
                let key = (port.incarnation, direction, class.as_str());
                let billed = told.remove(&key).unwrap_or_default();
                off += counts.l2_bytes.abs_diff(billed);
            }
        }
    }
    // What is left no register has.
    off += told.into_values().sum::<u64>();
    outcome.push(Check::equal(
        "difference: evidence of encryption in all records, and registers",
        off,
        0,
        "bytes",
    ));
    outcome.push(Check::at_least(
        "bytes in the ledger that are TLS whose every record was checked (E3)",
        checked,
        u64::from(crate::lab::ends::openssl()),
        "bytes",
    ));
}

/// Flow detail and what no flow accounts for, against what was counted, record by record.
fn flows(path: &Path, records: &[Record], outcome: &mut Outcome) -> Result<()> {
    let mut kept = BTreeMap::<u64, Counts>::new();
    let mut rows = 0;
    let mut past = false;
    let faults = ledger::flows(path, &FlowFilter::default(), &mut |line| {
        rows += 1;
        let sum = kept.entry(line.seq).or_default();
        let more = sum.checked_add(line.row.counts);
        past |= more.is_none();
        *sum = more.unwrap_or_default();
        ControlFlow::Continue(())
    })?;
    ensure!(faults.is_empty() && !past, "flow detail: {faults:?}");
    let (mut flow_bytes, mut off) = (0, 0);
    for record in records.iter().filter(|record| record.zone.is_none()) {
        let (Some(total), Some(flows)) = (&record.total, kept.get(&record.seq)) else {
            continue;
        };
        let counted = record.counted().context("a record without a reading")?;
        flow_bytes += flows.l2_bytes;
        off += (flows.l2_bytes + total.unattributed.l2_bytes).abs_diff(counted.l2_bytes);
    }
    outcome.push(Check::equal(
        "difference: flow detail with what is unattributed, and their records",
        off,
        0,
        "bytes",
    ));
    outcome.push(Check::at_least("rows of flow detail", rows, 10, "rows"));
    outcome.push(Check::at_least(
        "bytes in flow detail",
        flow_bytes,
        1_000_000,
        "bytes",
    ));
    Ok(())
}
