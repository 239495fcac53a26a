//! What looks at losses and marks, as TCP does: a window that grows until something is lost or marked. A model of it, not TCP:
//! docs/ISOLATION.md has the real one.

use crate::{Draw, departs::Link, draw, fill::Want, harness::jain, world::World};
use std::{cmp::Reverse, collections::BinaryHeap};

const MILLISECOND: u64 = 1_000_000;
/// Way there and back without a queue.
const PATH_NS: u64 = 50_000;
const SEGMENT: u64 = 1_514;
/// The least timer of Linux.
const RTO_NS: u64 = 200 * MILLISECOND;
/// What CUBIC gives up at a loss or a mark, and by how much its window grows in a round trip in the region where it keeps up with
/// Reno (RFC 9438, 4.3: 3 (1 - β) / (1 + β)).
const BETA: f64 = 0.7;
const GROWS: f64 = 0.53;

/// How they send.
#[derive(Clone, Copy)]
struct Sender {
    /// Whether marks are heard.
    ecn: bool,
    /// Segments that one skb has at most.
    burst: u32,
}

const PLAIN: Sender = Sender {
    ecn: false,
    burst: 1,
};

/// A flow: packets that may be under way, that are, and until when a loss is the same one.
#[derive(Clone, Copy, Debug)]
struct Flow {
    tenant: usize,
    window: f64,
    slow_start: f64,
    flying: u32,
    waits_ns: u64,
    recovers_ns: u64,
    rests_ns: u64,
    lost: bool,
}

impl Flow {
    fn backs_off(&mut self, least: f64, now_ns: u64, waits_ns: u64) {
        if now_ns >= self.recovers_ns {
            self.window = (self.window * BETA).max(least);
            self.slow_start = self.window;
            self.recovers_ns = now_ns + PATH_NS + waits_ns;
        }
    }

    fn grows(&mut self, segments: u32, now_ns: u64) {
        if now_ns >= self.recovers_ns {
            let each = if self.window < self.slow_start {
                1.0
            } else {
                GROWS / self.window
            };
            self.window += each * f64::from(segments);
        }
    }

    /// Nobody tells of what was lost at the end: it rests until then.
    fn times_out(&mut self, now_ns: u64) -> u64 {
        (self.lost, self.rests_ns) = (false, now_ns + RTO_NS);
        (self.slow_start, self.window) = (2.0, 1.0);
        self.rests_ns
    }
}

/// What came of it in a second after a second.
struct Ran {
    bytes: Vec<u64>,
    timers: u64,
    /// What stood before the link: in the middle, and at most, µs of it.
    stood_us: u64,
    most_us: u64,
}

/// An answer to so many segments, marked or not; none: it may try again.
type Answer = Option<(u32, bool)>;

/// Runs flows by tenant.
fn run(
    capacity: u64,
    wants: &[Want],
    flows: &[usize],
    (queued, sender): (bool, Sender),
    draw: Draw,
) -> Ran {
    let largest = vec![SEGMENT * u64::from(sender.burst); wants.len()];
    let mut world = World::with(capacity, wants, &largest, draw, queued);
    let begun = world.now_ns;
    let mut link = Link::new(capacity, begun, wants.len());
    let mut all: Vec<Flow> = Vec::new();
    for (tenant, count) in flows.iter().enumerate() {
        all.extend((0..*count).map(|_| Flow {
            tenant,
            window: 10.0,
            slow_start: f64::INFINITY,
            flying: 0,
            waits_ns: 0,
            recovers_ns: 0,
            rests_ns: 0,
            lost: false,
        }));
    }
    let mut events: BinaryHeap<Reverse<(u64, usize, Answer)>> = (0..all.len())
        .map(|at| Reverse((begun + 1_000 * at as u64, at, None)))
        .collect();
    let mut bytes = vec![0; wants.len()];
    let mut timers = 0;
    while let Some(Reverse((at_ns, at, answer))) = events.pop() {
        if at_ns >= begun + 2_000 * MILLISECOND {
            break;
        }
        world.now_ns = at_ns;
        link.run(at_ns);
        let flow = &mut all[at];
        if let Some((segments, marked)) = answer {
            flow.flying -= segments;
            if at_ns >= begun + 1_000 * MILLISECOND {
                bytes[flow.tenant] += SEGMENT * u64::from(segments);
            }
            if marked {
                flow.backs_off(2.0, at_ns, flow.waits_ns);
            }
            flow.grows(segments, at_ns);
        }
        if flow.flying == 0 && flow.lost {
            timers += 1;
            events.push(Reverse((flow.times_out(at_ns), at, None)));
        }
        if at_ns < flow.rests_ns {
            continue;
        }
        while f64::from(all[at].flying) + 1.0 <= all[at].window {
            let flow = &mut all[at];
            let free = (flow.window - f64::from(flow.flying)) as u32;
            let segments = free.clamp(1, sender.burst);
            let packet = SEGMENT * u64::from(segments);
            let Ok(taken) = world.offer_of(flow.tenant, packet, true) else {
                flow.backs_off(1.0, at_ns, world.uplink.horizon_ns);
                flow.lost = flow.flying < 3;
                if flow.flying == 0 {
                    timers += 1;
                    events.push(Reverse((flow.times_out(at_ns), at, None)));
                }
                break;
            };
            let marked = sender.ecn && world.is_near(flow.tenant, packet);
            flow.flying += segments;
            flow.waits_ns = taken.departs_ns - at_ns;
            // Three answers behind a loss tell of it.
            flow.lost = flow.lost && flow.flying < 3;
            link.put(taken.departs_ns, flow.tenant, packet);
            let back_ns = taken.departs_ns + PATH_NS;
            events.push(Reverse((back_ns, at, Some((segments, marked)))));
        }
    }
    let us = |bytes: u64| bytes * 8_000_000 / capacity;
    Ran {
        bytes,
        timers,
        stood_us: us((link.stood / u128::from(link.packets.max(1))) as u64),
        most_us: us(link.most),
    }
}

fn want(guarantee: u64) -> Want {
    Want {
        guarantee,
        ceiling: u64::MAX,
        weight: 1,
        demand: 0,
    }
}

/// By weight alone, whoever has more flows, whatever they listen to and however large their skbs are.
#[test]
fn equal_tenants_with_unequal_flows_are_equal_where_they_can_wait() {
    let flows: Vec<usize> = (0..8).map(|at| 1 << at).collect();
    let wants = [want(0); 8];
    let mut draw = draw("tcp");
    for queued in [false, true] {
        for (ecn, burst) in [
            (false, 1),
            (false, 4),
            (false, 8),
            (true, 1),
            (true, 4),
            (true, 8),
        ] {
            let sender = Sender { ecn, burst };
            let seed = Draw(draw.up_to(u64::MAX - 1));
            let ran = run(400_000_000, &wants, &flows, (queued, sender), seed);
            let used = ran.bytes.iter().sum::<u64>() * 1_000 / 50_000_000;
            println!(
                "CASES: share tcp, equal tenants, queued {queued}, ecn {ecn}, skbs of {burst}: Jain {:.3}, used {used} per mille, {} \
                 timers, {} \u{b5}s before the link, {} at most: {:?}",
                jain(&ran.bytes),
                ran.timers,
                ran.stood_us,
                ran.most_us,
                ran.bytes
            );
            if queued {
                assert!(jain(&ran.bytes) >= 0.98 && used >= 950);
            }
        }
    }
}

#[test]
fn a_guarantee_is_kept_where_it_can_wait() {
    let wants = [want(100_000_000), want(300_000_000)];
    for queued in [false, true] {
        for flows in [[16, 16], [1, 128], [128, 1], [16, 0], [0, 16]] {
            let Ran { bytes, timers, .. } = run(
                500_000_000,
                &wants,
                &flows,
                (queued, PLAIN),
                draw("tcp guarantees"),
            );
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
