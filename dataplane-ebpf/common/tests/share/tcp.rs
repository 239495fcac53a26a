//! What looks at losses, as TCP does: a window that grows until something is lost. A model of it, not TCP: docs/ISOLATION.md
//! has the real one.

use crate::{draw, fill::Want, harness::jain, world::World};
use std::{cmp::Reverse, collections::BinaryHeap};

const MILLISECOND: u64 = 1_000_000;
/// Way there and back without a queue.
const PATH_NS: u64 = 50_000;
const SEGMENT: u64 = 1_514;
/// The least timer of Linux.
const RTO_NS: u64 = 200 * MILLISECOND;

/// A flow: packets that may be under way, that are, and until when a loss is the same one.
#[derive(Clone, Copy, Debug)]
struct Flow {
    tenant: usize,
    window: f64,
    slow_start: f64,
    flying: u32,
    recovers_ns: u64,
    rests_ns: u64,
    lost: bool,
}

/// Runs flows by tenant for a second after a second, and returns bytes by tenant, and timers that ran out.
fn run(capacity: u64, wants: &[Want], flows: &[usize], queued: bool) -> (Vec<u64>, u64) {
    let largest = vec![SEGMENT; wants.len()];
    let mut world = World::with(capacity, wants, &largest, draw("tcp"), queued);
    let mut all: Vec<Flow> = Vec::new();
    for (tenant, count) in flows.iter().enumerate() {
        all.extend((0..*count).map(|_| Flow {
            tenant,
            window: 10.0,
            slow_start: f64::INFINITY,
            flying: 0,
            recovers_ns: 0,
            rests_ns: 0,
            lost: false,
        }));
    }
    let begun = world.now_ns;
    // When which flow has an answer (true), or may try again.
    let mut events: BinaryHeap<Reverse<(u64, usize, bool)>> = BinaryHeap::new();
    for at in 0..all.len() {
        events.push(Reverse((begun + 1_000 * at as u64, at, false)));
    }
    let mut bytes = vec![0; wants.len()];
    let mut timers = 0;
    while let Some(Reverse((at_ns, at, answer))) = events.pop() {
        if at_ns >= begun + 2_000 * MILLISECOND {
            break;
        }
        world.now_ns = at_ns;
        let flow = &mut all[at];
        if answer {
            flow.flying -= 1;
            if at_ns >= begun + 1_000 * MILLISECOND {
                bytes[flow.tenant] += SEGMENT;
            }
            if at_ns >= flow.recovers_ns {
                let grows = if flow.window < flow.slow_start {
                    1.0
                } else {
                    1.0 / flow.window
                };
                flow.window += grows;
            }
        }
        if flow.flying == 0 && flow.lost {
            // Nobody tells of what was lost at the end.
            (flow.lost, flow.rests_ns) = (false, at_ns + RTO_NS);
            (flow.slow_start, flow.window) = (2.0, 1.0);
            timers += 1;
            events.push(Reverse((flow.rests_ns, at, false)));
        }
        if at_ns < flow.rests_ns {
            continue;
        }
        while f64::from(all[at].flying) + 1.0 <= all[at].window {
            let tenant = all[at].tenant;
            let taken = world.offer_of(tenant, SEGMENT, true);
            let flow = &mut all[at];
            match taken {
                Ok(taken) => {
                    flow.flying += 1;
                    // Three answers behind a loss tell of it.
                    flow.lost = flow.lost && flow.flying < 3;
                    events.push(Reverse((taken.departs_ns + PATH_NS, at, true)));
                }
                Err(_) => {
                    if at_ns >= flow.recovers_ns {
                        flow.window = (flow.window * 0.7).max(1.0);
                        flow.slow_start = flow.window;
                        flow.recovers_ns = at_ns + PATH_NS + world.uplink.horizon_ns;
                    }
                    flow.lost = flow.flying < 3;
                    if flow.flying == 0 {
                        (flow.lost, flow.rests_ns) = (false, at_ns + RTO_NS);
                        (flow.slow_start, flow.window) = (2.0, 1.0);
                        timers += 1;
                        events.push(Reverse((flow.rests_ns, at, false)));
                    }
                    break;
                }
            }
        }
    }
    (bytes, timers)
}

fn want(guarantee: u64) -> Want {
    Want {
        guarantee,
        ceiling: u64::MAX,
        weight: 1,
        demand: 0,
    }
}

#[test]
fn equal_tenants_with_unequal_flows_are_equal_where_they_can_wait() {
    let flows: Vec<usize> = (0..8).map(|at| 1 << at).collect();
    let wants = [want(0); 8];
    for queued in [false, true] {
        let (bytes, timers) = run(400_000_000, &wants, &flows, queued);
        let used = bytes.iter().sum::<u64>() * 1_000 / 50_000_000;
        println!(
            "CASES: share tcp, equal tenants, queued {queued}: Jain {:.3}, used {used} per mille, {timers} timers: {bytes:?}",
            jain(&bytes)
        );
        if queued {
            assert!(jain(&bytes) >= 0.98 && used >= 950);
        }
    }
}

#[test]
fn a_guarantee_is_kept_where_it_can_wait() {
    let wants = [want(100_000_000), want(300_000_000)];
    for queued in [false, true] {
        for flows in [[16, 16], [1, 128], [128, 1], [16, 0], [0, 16]] {
            let (bytes, timers) = run(500_000_000, &wants, &flows, queued);
            let used = bytes.iter().sum::<u64>() * 1_000 / 62_500_000;
            println!(
                "CASES: share tcp, guarantees, flows {flows:?}, queued {queued}: {} and {} Mbit/s, used {used} per mille, \
                 {timers} timers",
                bytes[0] * 8 / 1_000_000,
                bytes[1] * 8 / 1_000_000
            );
            if queued {
                assert!(used >= 950, "{used}");
                for (at, guarantee) in [(0, 12_500_000), (1, 37_500_000)] {
                    assert!(flows[at] == 0 || bytes[at] * 100 >= guarantee * 95);
                }
            }
        }
    }
}
