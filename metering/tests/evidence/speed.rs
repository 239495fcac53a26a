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

/// What this thread had of a processor so far, s; where the kernel does not say, the time since `begun`.
fn cpu_seconds(begun: Instant) -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok());
    ns.map_or(begun.elapsed().as_secs_f64(), |ns| ns / 1e9)
}

/// A month has 43,200 windows of a minute: `OCTROI_TEST_LEVEL=long`. Seconds are of a processor: what else
/// runs on the machine is not measured.
#[test]
fn verifying_and_proving_are_as_fast_as_is_printed() {
    let windows = by_level(20, 1_000, 43_200);
    let began = Instant::now();
    let mut last = cpu_seconds(began);
    let mut lap = || {
        let now = cpu_seconds(began);
        now - std::mem::replace(&mut last, now)
    };
    let mut site = Site::new(0);
    lap();
    (0..windows).for_each(|_| site.cut());
    let each_ms = lap() * 1e3 / windows as f64;
    println!("SPEED: commit of a window of 24 records with head and seal: {each_ms:.2} ms");
    let report = verify::ledger(&site.path(), &site.keys(), None).expect("it can be read");
    let took = lap();
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
    let key = key.expect("a key");
    let mut out = Vec::new();
    let proved = prove(&site.path(), &key, 7, (None, None), &mut out).expect("a proof");
    println!(
        "SPEED: proof of {} records of a tenant in {:.2} s, {} bytes, {} MB with it",
        proved.claim.records,
        lap(),
        out.len(),
        memory_mb()
    );
    let checked = verify::proof(&out[..], &site.keys(), None).expect("it can be read");
    assert!(checked.is_sound());
    println!("SPEED: that proof verified in {:.2} s", lap());
}
