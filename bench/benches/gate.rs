//! What the gate costs per packet, in the kernel: `BPF_PROG_TEST_RUN`, beside the empty program of
//! the same run. Reads the kernel's own clock of the runs.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use bench::{Ceiling, Ports, Rig, frame};
use criterion::{Criterion, criterion_group, criterion_main};
use std::time::Duration;

/// Runs in one call; more would be interrupted by the scheduler, fewer would measure the call.
const BATCH: u32 = 100_000;

fn measure(criterion: &mut Criterion, rig: &mut Rig, name: &str, program: &str, frame: &[u8]) {
    measure_runs(criterion, name, |runs| rig.run(program, frame, runs));
}

/// The same of any program.
fn measure_runs(
    criterion: &mut Criterion,
    name: &str,
    mut run: impl FnMut(u32) -> anyhow::Result<Duration>,
) {
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let mut left = iterations;
            let mut total = Duration::ZERO;
            while left != 0 {
                let repeat = u32::try_from(left).unwrap_or(u32::MAX).min(BATCH);
                // At least a thousand runs a call, scaled: the kernel says whole nanoseconds a run.
                let runs = repeat.max(1_000);
                match run(runs) {
                    Ok(time) => total += time * repeat / runs,
                    Err(error) => panic!("{name}: {error:#}"),
                }
                left -= u64::from(repeat);
            }
            total
        });
    });
}

fn gate(criterion: &mut Criterion) {
    let mut rig = match Rig::new() {
        Ok(rig) => rig,
        Err(error) => {
            println!("SKIPPED: bench gate: {error:#}");
            return;
        }
    };
    measure(criterion, &mut rig, "gate/empty", "empty", &frame(true));
    for (direction, program, frame) in [
        ("from_tenant", "bench_from_tenant", frame(true)),
        ("to_tenant", "bench_to_tenant", frame(false)),
    ] {
        for (limit, ceiling) in [
            ("unlimited", Ceiling::None),
            ("below", Ceiling::Below),
            ("at", Ceiling::At),
        ] {
            for (spread, ports) in [
                ("hot", Ports::Hot),
                ("zipf", Ports::Zipf),
                ("uniform", Ports::Uniform),
            ] {
                let ready = rig.set(ceiling).and_then(|()| rig.draw(ports));
                if let Err(error) = ready {
                    panic!("rig: {error:#}");
                }
                let name = format!("gate/{direction}/{limit}/{spread}");
                measure(criterion, &mut rig, &name, program, &frame);
            }
        }
    }
}

/// The uplink's XDP program beside the empty one: frames that are nobody's, of a port without a ceiling, below it, and in a
/// flood, which end there.
fn uplink(criterion: &mut Criterion) {
    const XDP_DROP: u32 = 1;
    const XDP_PASS: u32 = 2;
    let mut rig = match Rig::new() {
        Ok(rig) => rig,
        Err(error) => {
            println!("SKIPPED: bench uplink: {error:#}");
            return;
        }
    };
    let frame = frame(false);
    for (name, program, polices, ceiling, verdict) in [
        ("uplink/empty", "empty_xdp", false, Ceiling::None, XDP_PASS),
        ("uplink/nobody", "uplink", false, Ceiling::None, XDP_PASS),
        ("uplink/unlimited", "uplink", true, Ceiling::None, XDP_PASS),
        ("uplink/below", "uplink", true, Ceiling::Below, XDP_PASS),
        ("uplink/flood", "uplink", true, Ceiling::At, XDP_DROP),
    ] {
        let floods = verdict == XDP_DROP;
        let ready = rig
            .set(ceiling)
            .and_then(|()| rig.find_by_mac(polices))
            .and_then(|()| if floods { rig.flood() } else { Ok(()) });
        if let Err(error) = ready {
            panic!("rig: {error:#}");
        }
        measure_runs(criterion, name, |runs| {
            let (said, time) = rig.run_xdp(program, &frame, runs)?;
            anyhow::ensure!(said == verdict, "{program} says {said}");
            Ok(time)
        });
    }
}

criterion_group!(benches, gate, uplink);
criterion_main!(benches);
