//! What the flow table costs: per packet in the kernel (a flow that is known, one that is new, a table that is
//! full), and per window in the daemon. Beside the empty program and the gate without flows, in one run.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use anyhow::Result;
use aya::maps::{Array, Map};
use bench::{EACH, Ports, Rig, frame};
use criterion::{Criterion, criterion_group, criterion_main};
use dataplane::{
    flows::{Flows, Timeouts},
    maps::Maps,
    object::{self, Plan},
};
use std::time::Duration;

/// One program, one frame; `each` is done after so many packets as it says.
fn packets(criterion: &mut Criterion, rig: &mut Rig, name: &str, program: &str, each: Option<u32>) {
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let mut left = iterations;
            let mut total = Duration::ZERO;
            while left != 0 {
                let wanted = u32::try_from(left).unwrap_or(u32::MAX);
                let runs = each.unwrap_or(100_000.min(wanted).max(1_000));
                let counted = runs.min(wanted);
                let ran = rig.run(program, &frame(true), runs).and_then(|time| {
                    if each.is_some() {
                        rig.end_flows()?;
                    }
                    Ok(time)
                });
                match ran {
                    Ok(time) => total += time * counted / runs,
                    Err(error) => panic!("{name}: {error:#}"),
                }
                left -= u64::from(counted);
            }
            total
        });
    });
}

fn kernel(criterion: &mut Criterion) {
    let rigs =
        Rig::new().and_then(|plain| Ok((plain, Rig::with_flows(65_536)?, Rig::with_flows(1)?)));
    let (mut plain, mut table, mut full) = match rigs {
        Ok(rigs) => rigs,
        Err(error) => {
            println!("SKIPPED: bench flows: {error:#}");
            return;
        }
    };
    packets(criterion, &mut plain, "flows/empty", "empty", None);
    for (spread, ports) in [("hot", Ports::Hot), ("uniform", Ports::Uniform)] {
        for (name, rig) in [
            ("none", &mut plain),
            ("known", &mut table),
            ("full", &mut full),
        ] {
            if let Err(error) = rig.draw(ports) {
                panic!("rig: {error:#}");
            }
            let name = format!("flows/{name}/{spread}");
            packets(criterion, rig, &name, "bench_from_tenant", None);
        }
    }
    if let Err(error) = table.draw(Ports::Each).and_then(|()| table.end_flows()) {
        panic!("rig: {error:#}");
    }
    packets(
        criterion,
        &mut table,
        "flows/new",
        "bench_from_tenant",
        Some(EACH),
    );
}

/// A table of a million places, all taken, and how many of them gain something in a window.
struct Taken {
    maps: Maps,
    flows: Flows,
    counts: Array<aya::maps::MapData, [u64; 8]>,
    round: u64,
}

const PLACES: u32 = 1 << 20;

impl Taken {
    fn new() -> Result<Self> {
        let plan = Plan::new(1, 16).with_flows(PLACES);
        let mut object = object::load(&plan, None)?;
        let mut maps = Maps::take(&mut object)?;
        let timeouts = Timeouts {
            idle: Duration::MAX,
            active: Duration::MAX,
        };
        let flows = Flows::open(&mut maps, &plan, timeouts)?;
        let again = |map: &aya::maps::MapData| {
            let id = map.info()?.id();
            Map::from_map_data(aya::maps::MapData::from_id(id)?)
        };
        let mut ring: Array<_, [u64; 2]> = again(&maps.flow_ring)?.try_into()?;
        ring.set(0, [u64::from(PLACES); 2], 0)?;
        let counts = again(&maps.flow_counts)?.try_into()?;
        Ok(Self {
            maps,
            flows,
            counts,
            round: 0,
        })
    }

    /// Every `one_in`th flow gains a packet of 100 bytes from its tenant.
    fn gain(&mut self, one_in: u32) {
        self.round += 1;
        let line = [self.round, 100 * self.round, 86 * self.round, 0, 0, 0, 0, 0];
        for place in (0..PLACES).step_by(one_in as usize) {
            if let Err(error) = self.counts.set(place, line, 0) {
                panic!("{error}");
            }
        }
    }
}

fn daemon(criterion: &mut Criterion) {
    let mut taken = match Taken::new() {
        Ok(taken) => taken,
        Err(error) => {
            println!("SKIPPED: bench flows: {error:#}");
            return;
        }
    };
    for (name, one_in) in [("quiet", PLACES), ("100k", 10), ("all", 1)] {
        criterion.bench_function(&format!("flows/drain_1M/{name}"), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut total = Duration::ZERO;
                for _ in 0..iterations {
                    taken.gain(one_in);
                    let begun = std::time::Instant::now();
                    let (gains, failed) = taken.flows.drain(&mut taken.maps, 0, |_| false);
                    total += begun.elapsed();
                    assert!(failed.is_none() && gains.len() as u32 >= PLACES / one_in);
                }
                total
            });
        });
    }
}

criterion_group!(benches, kernel, daemon);
criterion_main!(benches);
