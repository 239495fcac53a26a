//! A month of a tenant in a ledger that the library itself writes: what it takes to reckon it, and that
//! usage, explanation and statement say the same.
//!
//! `OCTROI_TEST_MONTH=FILE` keeps the ledger, to be looked at.

#[path = "month/site.rs"]
mod site;

use metering::{
    ledger::{Addition, Correct, append},
    usage::{self, By, Part, Query, SLOT_NS, Source, Sum},
};
use site::{CORRECTED, FROM, File, SLOTS, TENANT, carried, month};
use std::{fs, time::Instant};

fn by_level<T>(quick: T, normal: T, long: T) -> T {
    match std::env::var("OCTROI_TEST_LEVEL").as_deref() {
        Ok("quick") => quick,
        Ok("long") => long,
        _ => normal,
    }
}

fn query(by: By, percentile: bool) -> Query {
    Query {
        // The 29th has 23 hours.
        bounds: (0..=31)
            .map(|day| FROM + (day * 288 - if day > 28 { 12 } else { 0 }) * SLOT_NS)
            .collect(),
        tenant: Some(TENANT),
        by,
        percentile,
        ..Query::default()
    }
}

/// Peak of this process's memory, KiB.
fn memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let digits = line.map(|line| {
        line.chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
    });
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[test]
fn a_month_comes_to_the_same_on_every_way() {
    let ports = by_level(2, 4, 100);
    let file = File::new();
    let begun = Instant::now();
    let records = month(&file.0, ports);
    println!(
        "{records} records of {ports} ports written in {:?}",
        begun.elapsed()
    );
    // Written after the last window: billed in the next month.
    let correct = Correct {
        seq: 4,
        l2_bytes: -1,
        reason: "late".into(),
        ..Correct::default()
    };
    append(&file.0, &Addition::Correct(correct), FROM).expect("a correction");
    let sources = Source::open(std::slice::from_ref(&file.0)).expect("it can be read");
    let mut totals = Vec::new();
    for by in [
        By::default(),
        By {
            zone: true,
            ..By::default()
        },
        By {
            port: true,
            direction: true,
            zone: true,
            host: true,
        },
    ] {
        let begun = Instant::now();
        let report = usage::read(&sources, &query(by, true), &[], |_| ()).expect("it adds up");
        println!(
            "usage by {by:?}: {:?}, {} rows",
            begun.elapsed(),
            report.rows.len()
        );
        let sums = report.rows.iter().map(|row| row.kept.sum);
        let sum = sums.fold(Sum::default(), |sum, row| sum.plus(row).expect("a sum"));
        assert!(!report.percentiles.is_empty());
        assert!(report.settled, "{:?}", report.missing);
        totals.push(sum);
    }
    let begun = Instant::now();
    let explained = usage::explain(&sources, &query(By::default(), false)).expect("it adds up");
    println!(
        "explanation: {:?}, {} records",
        begun.elapsed(),
        explained.len()
    );
    let billed = explained.iter().filter(|one| one.part == Part::Billed);
    let sum = billed.fold(Sum::default(), |sum, one| sum.plus(one.sum).expect("a sum"));
    totals.push(sum);
    // What the ports' registers say in the end, less what was taken off.
    let mut hand = CORRECTED;
    for slot in 0..SLOTS as u64 {
        for port in 0..ports {
            for zone in [0, 1, 4, 5] {
                let bytes = carried(port, slot, zone);
                hand += i128::from(bytes / 2) + i128::from(bytes * 4 / 2);
            }
        }
    }
    for total in totals {
        assert_eq!(total.l2_bytes(), hand);
    }
    println!(
        "CASES: records of a month, reckoned four ways: {}",
        records * 4
    );
    println!("largest memory: {} KiB", memory_kib());
}
