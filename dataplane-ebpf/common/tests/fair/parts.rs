//! Senders that look at nothing, each at a rate of its own: who has which part.

use crate::{
    draw,
    harness::{Draw, jain, level},
    port::Port,
};
use std::{cmp::Reverse, collections::BinaryHeap};

const MILLISECOND: u64 = 1_000_000;
const BEGUN_NS: u64 = 1_000_000_000;

/// A sender: bits a second, bytes of a packet, and when it sends, ms.
#[derive(Clone, Copy, Debug)]
struct Sender {
    bits: u64,
    packet: u64,
    from_ms: u64,
    to_ms: u64,
}

const ALWAYS: (u64, u64) = (0, u64::MAX / MILLISECOND / 2);

fn sender(bits: u64, packet: u64, (from_ms, to_ms): (u64, u64)) -> Sender {
    Sender {
        bits,
        packet,
        from_ms,
        to_ms,
    }
}

/// Bytes that passed of each, by the spans that `ends_ms` cut.
fn run(port: &mut Port, draw: &mut Draw, senders: &[Sender], ends_ms: &[u64]) -> Vec<Vec<u64>> {
    let base = draw.next();
    let mut events = BinaryHeap::new();
    for (at, sender) in senders.iter().enumerate() {
        let gap_ns = sender.packet * 8_000_000_000 / sender.bits;
        events.push(Reverse((
            BEGUN_NS + sender.from_ms * MILLISECOND + draw.up_to(gap_ns),
            at,
        )));
    }
    let mut passed = vec![vec![0; senders.len()]; ends_ms.len()];
    while let Some(Reverse((now_ns, at))) = events.pop() {
        let span = ends_ms
            .iter()
            .position(|end_ms| now_ns < BEGUN_NS + end_ms * MILLISECOND);
        let Some(span) = span else { break };
        let Sender {
            bits,
            packet,
            to_ms,
            ..
        } = senders[at];
        if now_ns >= BEGUN_NS + to_ms * MILLISECOND {
            continue;
        }
        if port
            .send(base.wrapping_add(at as u64), packet, now_ns)
            .passed()
        {
            passed[span][at] += packet;
        }
        // No two clocks of this world run alike.
        let gap_ns = packet * 8_000_000_000 / bits;
        let jitter_ns = draw.up_to(gap_ns / 8);
        events.push(Reverse((now_ns + gap_ns - gap_ns / 16 + jitter_ns, at)));
    }
    passed
}

/// Flows that share none of their clocks with all of the others: whom nobody may disturb.
#[test]
fn senders_have_equal_parts_from_a_trickle_to_a_flood() {
    let mut draw = draw("equal parts");
    for (bits, flows, packet, seconds, least) in [
        (1_000_000, 2, 1_514, 20, 0.98),
        (1_000_000, 16, 1_514, 60, 0.90),
        (100_000_000, 1, 1_514, 2, 1.0),
        (100_000_000, 3, 1_514, 2, 0.99),
        (100_000_000, 128, 1_514, 4, 0.98),
        (100_000_000, 1_000, 1_514, 8, 0.80),
        (1_000_000_000, 128, 9_014, 2, 0.98),
        (25_000_000_000, 10, 65_226, 1, 0.99),
        (25_000_000_000, 1_000, 65_226, 1, 0.80),
    ] {
        for waits in [true, false] {
            let burst_ms = if waits { 50 } else { 250 };
            let mut port = Port::that_waits(bits, burst_ms, BEGUN_NS, waits);
            // From 1.2 times the part to five times: who shouts has no more. More than a thin flow may have in any case.
            let part = bits / flows;
            let senders: Vec<Sender> = (0..flows)
                .map(|_| (part / 10 * (12 + draw.up_to(38))).max(bits / 12))
                .map(|wants| sender(wants, packet, ALWAYS))
                .collect();
            let ends = [500, 500 + seconds * 1_000 / level(2, 1, 1)];
            let passed = &run(&mut port, &mut draw, &senders, &ends)[1];
            let line = bits / 8 * (ends[1] - ends[0]) / 1_000;
            let used = passed.iter().sum::<u64>() as f64 / line as f64;
            println!(
                "CASES: fair parts, {bits} bit/s, waits {waits}, flows: {flows}: Jain {:.3}, used {used:.3}",
                jain(passed)
            );
            assert!(jain(passed) >= least - 1e-9 && used >= 0.97);
        }
    }
}

#[test]
fn packets_of_other_sizes_make_no_other_part() {
    let mut draw = draw("sizes");
    let sizes = [60, 300, 1_514, 9_014, 65_226];
    let senders = sizes.map(|size| sender(60_000_000, size, ALWAYS));
    let mut port = Port::new(100_000_000, 50, BEGUN_NS);
    let passed = &run(&mut port, &mut draw, &senders, &[500, 4_500])[1];
    println!("CASES: fair sizes: {}: {passed:?}", sizes.len());
    assert!(jain(passed) >= 0.98);
}

#[test]
fn who_wants_less_has_it_and_the_rest_is_parted() {
    let mut draw = draw("less");
    // 5 and 10 of 100 Mbit/s are less than a part; the other three have 28.3 each.
    let wants = [5, 10, 40, 80, 200].map(|mbit| sender(mbit * 1_000_000, 1_514, ALWAYS));
    let mut port = Port::new(100_000_000, 50, BEGUN_NS);
    let passed = &run(&mut port, &mut draw, &wants, &[500, 4_500])[1];
    let mbit: Vec<f64> = passed.iter().map(|bytes| *bytes as f64 * 2e-6).collect();
    println!("CASES: fair, less than a part: {}: {mbit:.1?}", mbit.len());
    for (at, least) in [(0, 4.8), (1, 9.6), (2, 27.0), (3, 27.0), (4, 27.0)] {
        assert!(mbit[at] >= least && mbit[at] <= least * 1.1, "{mbit:?}");
    }
}

/// Eight senders, from the second on 128 more, from the third on one of the eight alone.
#[test]
fn who_comes_has_a_part_at_once_and_who_goes_leaves_it() {
    let mut draw = draw("comings and goings");
    for waits in [true, false] {
        let burst_ms = if waits { 50 } else { 250 };
        let mut port = Port::that_waits(100_000_000, burst_ms, BEGUN_NS, waits);
        let mut senders = vec![sender(25_000_000, 1_514, (0, 2_000)); 8];
        senders[0] = sender(120_000_000, 1_514, ALWAYS);
        senders.extend([sender(10_000_000, 1_514, (1_000, 2_000)); 128]);
        // A queue's length after each change is not looked at: what waits, waits.
        let ends = [300, 1_000, 1_300, 2_000, 2_300, 3_000];
        let passed = run(&mut port, &mut draw, &senders, &ends);
        let few = jain(&passed[1][..8]);
        let many = jain(&passed[3]);
        let alone = passed[5][0] as f64 / (12_500.0 * 700.0);
        println!(
            "CASES: fair, comings and goings, waits {waits}: 3: Jain {few:.3} of 8, {many:.3} of 136, alone {alone:.3}"
        );
        assert!(few >= 0.99 && many >= if waits { 0.97 } else { 0.90 } && alone >= 0.98);
        // A newcomer does not wait for its part.
        let begun: u64 = passed[2][8..].iter().sum();
        assert!(begun as f64 >= 0.8 * 12_500.0 * 300.0 * 128.0 / 136.0);
    }
}

/// Flows that hit clocks of others in both rows have less, and nobody else has: what a hash is drawn anew for.
#[test]
fn who_hits_the_clocks_of_others_disturbs_nobody_else() {
    let mut draw = draw("collisions");
    let senders = [sender(8_000_000, 1_514, ALWAYS); 400];
    let mut port = Port::new(100_000_000, 50, BEGUN_NS);
    let passed = &run(&mut port, &mut draw, &senders, &[500, 4_500])[1];
    let part = 12_500_000 * 4 / 400;
    let short = passed.iter().filter(|bytes| **bytes < part / 2).count();
    let long = passed.iter().filter(|bytes| **bytes > part * 3 / 2).count();
    println!(
        "CASES: fair collisions, of 400 flows less than half a part: {short}, more than one and a half: {long}"
    );
    assert!(short <= 60 && long == 0);
}
