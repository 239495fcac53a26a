//! What an encryption policy costs per packet, in the kernel: `BPF_PROG_TEST_RUN`, each packet beside the same one of
//! a port without a policy, in turns of one run. Ports keep flows: what it is compared with is the metered gate.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use anyhow::Result;
use bench::{Ports, Rig, cases};
use criterion::{Criterion, criterion_group, criterion_main};
use std::time::Duration;

/// Runs in one call.
const BATCH: u32 = 50_000;
/// Turns of the table.
const TURNS: usize = 15;

fn runs(rig: &mut Rig, program: &str, frame: &[u8]) -> Result<f64> {
    let time = rig.run(program, frame, BATCH)?;
    Ok(time.as_nanos() as f64 / f64::from(BATCH))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Prints each case beside the gate without a policy, in turns.
fn table(rig: &mut Rig) -> Result<()> {
    println!(
        "ns a packet, medians of {TURNS} turns: empty, gate, gate with a policy; what the policy adds"
    );
    for case in cases() {
        let mut turns: [Vec<f64>; 4] = Default::default();
        for _ in 0..TURNS {
            rig.police(None)?;
            let (plain, frame) = if case.packet.from_tenant {
                ("bench_from_tenant", &case.packet.frame)
            } else {
                ("bench_to_tenant", &case.packet.frame)
            };
            let empty = runs(rig, "empty", frame)?;
            let rewinding = if case.again {
                runs(rig, "bench_again", frame)? - empty
            } else {
                0.0
            };
            let gate = runs(rig, plain, frame)?;
            case.set(rig)?;
            let policed = runs(rig, case.program(), frame)? - rewinding;
            for (turn, value) in turns.iter_mut().zip([empty, gate, policed, policed - gate]) {
                turn.push(value);
            }
        }
        let [empty, gate, policed, adds] = turns.map(median);
        println!(
            "ENCRYPTION: {:<32} {empty:>5.0} {gate:>6.0} {policed:>6.0}  +{adds:.0}",
            case.name
        );
    }
    Ok(())
}

fn encryption(criterion: &mut Criterion) {
    let ready = Rig::with_flows(65_536).and_then(|mut rig| {
        rig.draw(Ports::Hot)?;
        table(&mut rig)?;
        Ok(rig)
    });
    let mut rig = match ready {
        Ok(rig) => rig,
        Err(error) => {
            println!("SKIPPED: bench encryption: {error:#}");
            return;
        }
    };
    for case in cases() {
        if let Err(error) = case.set(&mut rig) {
            panic!("{error:#}");
        }
        criterion.bench_function(&format!("encryption/{}", case.name), |bencher| {
            bencher.iter_custom(|iterations| {
                // All that it asks for: it learns from the time that passes meanwhile how much that is.
                let runs = iterations.max(1_000);
                let (mut left, mut time) = (runs, Duration::ZERO);
                while left > 0 {
                    let part = u32::try_from(left).unwrap_or(BATCH).min(BATCH);
                    match rig.run(case.program(), &case.packet.frame, part) {
                        Ok(took) => time += took,
                        Err(error) => panic!("{}: {error:#}", case.name),
                    }
                    left -= u64::from(part);
                }
                time.mul_f64(iterations as f64 / runs as f64)
            });
        });
    }
}

criterion_group!(benches, encryption);
criterion_main!(benches);
