//! What the meter costs: from a sealed bank to records that are durable, on a real file with real syncs; and
//! reading a sealed bank out of the kernel. The disk is the one of the target directory.
//!
//! Beside criterion's times, per number of ports: `LATENCY: meter/durable/PORTS: …` with percentiles of one
//! commit, and records a second.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use bench::Rig;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hdrhistogram::Histogram;
use metering::{
    ledger::{Anchor, Identity, Ledger},
    meter::{Cut, Owner, Sums, Time},
    record::Clock,
    window::Counts,
};
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Zones that a port sends to in every window, of the sixteen that there are.
const BUSY_ZONES: usize = 3;
/// A `*` record and one by busy zone, in both directions.
const RECORDS_A_PORT: u64 = 2 * (1 + BUSY_ZONES as u64);
/// A file with more records is put away: the disk is not what is measured here.
const RECORDS_MAX: u64 = 400_000;
const WINDOW_NS: u64 = 60_000_000_000;

/// A ledger in a directory that goes with it, and the registers of its ports.
struct Metered {
    directory: PathBuf,
    ledger: Option<Ledger>,
    owners: Vec<Owner>,
    time: Time,
    window: u64,
}

impl Metered {
    fn new(ports: u64) -> Self {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("octroi-bench-{}-{ports}", std::process::id()));
        let sums = || Sums {
            zones: vec![Counts::default(); 16],
            drops: vec![[0; 2]; 32],
            evidence: vec![[0; 2]; 8],
            skbs: [0; 4],
        };
        let owners = (1..=ports).map(|incarnation| Owner {
            incarnation,
            name: format!("tap{incarnation:08}"),
            tenant: (incarnation % 50) as u32 + 1,
            live: true,
            since_ns: 0,
            directions: Some([sums(), sums()]),
            ..Owner::default()
        });
        let mut metered = Self {
            directory,
            ledger: None,
            owners: owners.collect(),
            time: Time {
                boot_ns: 1,
                mono_ns: 1,
                utc_ns: 1_800_000_000_000_000_000,
            },
            window: 0,
        };
        metered.begin();
        metered
    }

    fn begin(&mut self) {
        self.ledger = None;
        let _ = fs::remove_dir_all(&self.directory);
        fs::create_dir_all(&self.directory).expect("room in the target directory");
        let mut identity = Identity {
            now: self.time,
            ..Identity::default()
        };
        identity.epoch.host = "host".into();
        let path = self.directory.join("ledger.db");
        let begun = Ledger::open(&path, &identity, &Anchor::default(), None);
        self.ledger = Some(begun.expect("a new ledger").ledger);
    }

    /// Everybody has carried something, and the window is sealed.
    fn seal(&mut self) -> Cut {
        for owner in &mut self.owners {
            for sums in owner.directions.iter_mut().flatten() {
                for counts in &mut sums.zones[..BUSY_ZONES] {
                    counts.packets += 1_000;
                    counts.l2_bytes += 1_000_000;
                    counts.l3_bytes += 986_000;
                }
                sums.skbs[0] += 3_000;
                sums.skbs[1] += 3_000_000;
            }
        }
        self.time.boot_ns += WINDOW_NS;
        self.time.mono_ns += WINDOW_NS;
        self.time.utc_ns += WINDOW_NS as i64;
        self.window += 1;
        Cut {
            window: self.window,
            revision: 1,
            time: self.time,
            nominal_ns: Some(self.time.utc_ns),
            window_ns: WINDOW_NS,
            clock: Clock::default(),
            owners: self.owners.clone(),
            ..Cut::default()
        }
    }

    /// Makes a window durable; how long that took.
    fn commit(&mut self) -> Duration {
        if self
            .ledger
            .as_ref()
            .is_some_and(|ledger| ledger.anchor().size > RECORDS_MAX)
        {
            self.begin();
        }
        let cut = self.seal();
        let ledger = self.ledger.as_mut().expect("it is open");
        let begun = Instant::now();
        let committed = ledger.commit(&cut, None).expect("the disk works");
        let took = begun.elapsed();
        assert_eq!(committed.records, RECORDS_A_PORT * self.owners.len() as u64);
        took
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.ledger = None;
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn durable(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("meter/durable");
    for ports in [10, 100, 1_000] {
        let records = ports * RECORDS_A_PORT;
        let mut latency = Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3)
            .expect("from a microsecond to a minute");
        group.throughput(Throughput::Elements(records));
        group.bench_with_input(
            BenchmarkId::from_parameter(ports),
            &ports,
            |bencher, ports| {
                let mut metered = Metered::new(*ports);
                bencher.iter_custom(|iterations| {
                    (0..iterations)
                        .map(|_| {
                            let took = metered.commit();
                            latency.saturating_record(took.as_nanos() as u64);
                            took
                        })
                        .sum()
                });
            },
        );
        if latency.is_empty() {
            continue; // filtered out
        }
        let at = |percentile| latency.value_at_percentile(percentile);
        let a_second = u128::from(records) * 1_000_000_000 / u128::from(at(50.0).max(1));
        println!(
            "LATENCY: meter/durable/{ports}: p50 {} µs, p99 {} µs, most {} µs, {} commits; {a_second} records/s",
            at(50.0) / 1_000,
            at(99.0) / 1_000,
            latency.max() / 1_000,
            latency.len(),
        );
    }
    group.finish();
}

fn drain(criterion: &mut Criterion) {
    let mut rig = match Rig::new() {
        Ok(rig) => rig,
        Err(error) => {
            println!("SKIPPED: bench meter/drain: {error:#}");
            return;
        }
    };
    let mut group = criterion.benchmark_group("meter/drain");
    group.sample_size(10);
    for ports in [1_000, bench::PORTS] {
        group.bench_with_input(
            BenchmarkId::from_parameter(ports),
            &ports,
            |bencher, ports| {
                bencher.iter_custom(|iterations| {
                    let drained = (0..iterations).map(|_| rig.drain(*ports));
                    let drained: anyhow::Result<Duration> = drained.sum();
                    drained.unwrap_or_else(|error| panic!("drain: {error:#}"))
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, durable, drain);
criterion_main!(benches);
