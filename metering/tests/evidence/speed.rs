//! How fast, and in how much memory.

use crate::site::{Site, by_level};
use metering::{ledger::keys, proof::prove, verify};
use std::{fs, time::Instant};

/// The most memory that this process ever had, MB.
fn memory_mb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kb.unwrap_or_default() / 1_024
}

/// A month has 43,200 windows of a minute: `OCTROI_TEST_LEVEL=long`.
#[test]
fn verifying_and_proving_are_as_fast_as_is_printed() {
    let windows = by_level(20, 1_000, 43_200);
    let mut site = Site::new(0);
    let begun = Instant::now();
    (0..windows).for_each(|_| site.cut());
    let seconds = |begun: Instant| begun.elapsed().as_secs_f64();
    println!(
        "SPEED: commit of a window with head and seal: {:.2} ms",
        seconds(begun) * 1e3 / windows as f64
    );
    let begun = Instant::now();
    let report = verify::ledger(&site.path(), &site.keys(), None).expect("it can be read");
    let took = seconds(begun);
    assert_eq!(report.findings, []);
    assert_eq!(report.heads, windows + 1);
    println!(
        "SPEED: verify: {} records and {} heads in {took:.2} s, {:.0} records/s, {} MB",
        report.verified,
        report.heads,
        report.verified as f64 / took,
        memory_mb()
    );
    let key = keys::read(&keys::key_path(&site.path())).expect("it can be read");
    let mut out = Vec::new();
    let begun = Instant::now();
    let proved = prove(
        &site.path(),
        &key.expect("a key"),
        7,
        (None, None),
        &mut out,
    )
    .expect("a proof");
    let took = seconds(begun);
    println!(
        "SPEED: proof of {} records of a tenant in {took:.2} s, {} bytes, {} MB with it",
        proved.claim.records,
        out.len(),
        memory_mb()
    );
    let begun = Instant::now();
    let checked = verify::proof(&out[..], &site.keys(), None).expect("it can be read");
    assert!(checked.is_sound());
    println!("SPEED: that proof verified in {:.2} s", seconds(begun));
}
