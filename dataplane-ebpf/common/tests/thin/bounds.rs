//! Bounds of what is thin, for any flows, sizes and times.

use super::*;
use dataplane_common::thin::{DEPTH_BYTES, DEPTH_NS, RATE_PART, ROTATION_SHIFT, TOGETHER_NS, pace};

/// Bytes that `bits` a second let through in `ns`.
fn bytes(bits: u64, ns: u64) -> i128 {
    i128::from(bits) * i128::from(ns) / 8_000_000_000
}

/// The most by which sums exceeded `rate · t` between any two times.
#[derive(Debug, Default)]
struct Excess {
    least: i128,
    most: i128,
    sum: i128,
}

impl Excess {
    fn add(&mut self, allowance: i128, bytes: u64) {
        self.least = self.least.min(self.sum - allowance);
        self.sum += i128::from(bytes);
        self.most = self.most.max(self.sum - allowance - self.least);
    }
}

#[test]
fn thin_packets_have_half_the_rate_and_a_flow_its_part() {
    let mut draw = draw("bounds");
    for _ in 0..level(200, 1_000, 50_000) {
        let bits = 1_000_000 << draw.up_to(17);
        let start_ns = 1 + draw.up_to(1 << 50);
        let price = draw.of(&[0, 0, 100, 1_500, 65_535]);
        let pace = pace(ceiling(bits, 50, start_ns).ns_per_unit, price);
        let rows = Rows::new();
        let power = draw.up_to(10);
        let flows = 1 + draw.up_to(1 << power);
        let (mut all, mut one) = (Excess::default(), Excess::default());
        let mut now_ns = start_ns;
        let frame_ns = (1_514 + price) * 8_000_000_000 / bits;
        let busy = draw.up_to(6);
        for _ in 0..2_000 {
            now_ns += draw.up_to((frame_ns << busy) / 8 + 1);
            let limit = Limit::new(now_ns, pace);
            let flow = draw.up_to(flows - 1);
            let size = draw.of(&[60, 67, 590, 1_514, 1_514, 9_014, 65_226]);
            let place = place(flow, now_ns);
            if rows.thin(&limit, place, size) {
                all.add(bytes(bits / 2, now_ns - start_ns), size + price);
                if flow == 0 {
                    one.add(bytes(bits / RATE_PART, now_ns - start_ns), size + price);
                }
            } else if draw.once_in(2) {
                limit.hold(&rows, place, size, now_ns + draw.up_to(50_000_000));
            }
        }
        // Times are rounded down, to 2^-4 ns for each packet.
        let frames = (DEPTH_BYTES + 2 * price) as i128;
        let window = bytes(bits / 2, TOGETHER_NS).max(frames)
            + i128::from(65_226 + price)
            + bytes(bits / 2, 2_000)
            + 2;
        assert!(all.most <= window, "{bits} bit/s: {} > {window}", all.most);
        let bucket = bytes(bits / RATE_PART, DEPTH_NS).max(frames);
        // A bucket more for each rotation in between; a unit of 1 µs, rounded up.
        let rotations = (now_ns >> ROTATION_SHIFT) - (start_ns >> ROTATION_SHIFT);
        let bucket = (bucket + bytes(bits / RATE_PART, 16_384) + 2) * i128::from(1 + rotations);
        assert!(one.most <= bucket, "{bits} bit/s: {} > {bucket}", one.most);
    }
}

#[test]
fn a_flow_that_pauses_until_its_last_packet_has_left_is_thin_again() {
    let start_ns = 77 << 30;
    let policy = ceiling(100_000_000, 50, start_ns);
    let rows = Rows::new();
    let at = |after_ns: u64| Limit::new(start_ns + after_ns, policy.ns_per_unit);
    let flow = place(1, start_ns);
    // Thin ones may take half of the rate meanwhile, and be 4 ms ahead of it.
    at(0).hold(&rows, flow, 1_514, start_ns + 30_000_000);
    assert!(!rows.thin(&at(64_000_000), flow, 67), "it may be waiting");
    assert!(rows.thin(&at(65_000_000), flow, 67));
    // One of small packets that was taken for a fat one does not have to pause.
    at(70_000_000).hold(&rows, flow, 67, start_ns + 120_000_000);
    assert!(!rows.thin(&at(71_000_000), flow, 67));
    assert!(rows.thin(&at(76_000_000), flow, 67));
}

#[test]
fn a_flow_is_disturbed_only_by_what_hits_both_clocks_and_not_for_long() {
    let start_ns = 3 << ROTATION_SHIFT;
    let policy = ceiling(100_000_000, 50, start_ns);
    let pace = policy.ns_per_unit;
    let victim = place(1, start_ns);
    let limit = Limit::new(start_ns, pace);
    for (first, second, thin) in [
        (true, false, true),
        (false, true, true),
        (true, true, false),
    ] {
        let rows = Rows::new();
        let foe = Place {
            first: victim.first ^ u32::from(!first),
            second: victim.second ^ u32::from(!second),
        };
        limit.hold(&rows, foe, 65_226, start_ns + 40_000_000);
        assert_eq!(rows.thin(&limit, victim, 67), thin, "{first} {second}");
    }
    // The two that shared both clocks share none of them after the rotation, but by chance.
    let (mut pairs, mut again) = (0, 0);
    let later_ns = start_ns + (1 << ROTATION_SHIFT);
    let small = |flow: u64, at_ns| Place::of(Draw(flow).next(), 0x5EC2_E700, at_ns, 16);
    for foe in 2..20_000 {
        if small(foe, start_ns) == small(1, start_ns) {
            pairs += 1;
            again += u32::from(small(foe, later_ns) == small(1, later_ns));
        }
    }
    assert!(
        (40..=130).contains(&pairs),
        "{pairs} of 19,998 in 256 places"
    );
    assert!(again <= 4, "{again} of {pairs} again");
}

#[test]
fn clocks_wrap_and_old_ones_are_past() {
    let pace = ceiling(100_000_000, 50, 0).ns_per_unit;
    for start_ns in [0, 1, (1 << 44) - 5_000_000, 1 << 44, (7 << 44) + 12_345] {
        let rows = Rows::new();
        let flow = Place {
            first: 3,
            second: 4,
        };
        let limit = Limit::new(start_ns, pace);
        // Leaves 15.2 ms from now, or 34.4 ms where thin flows take half the rate.
        limit.hold(&rows, flow, 65_226, start_ns + 10_000_000);
        let thin = |after_ns: u64| rows.thin(&Limit::new(start_ns + after_ns, pace), flow, 67);
        assert!(!thin(34_000_000), "{start_ns}");
        assert!(thin(35_000_000), "{start_ns}");
        // Two thirds of a turn later, where a clock that was left behind would look like one ahead.
        assert!(thin((1 << 44) / 3 * 2), "{start_ns}");
        assert!(thin(300 << 50), "{start_ns}");
    }
}

#[test]
fn any_number_is_a_pace_and_any_packet_a_size() {
    for pace in [0, 1, 1 << 20, 1 << 43, u64::MAX] {
        for size in [0, 1, 60, 65_535, 1 << 19, u64::MAX] {
            for now_ns in [0, 1, 1 << 42, u64::MAX] {
                let rows = Rows::new();
                let limit = Limit::new(now_ns, pace);
                let _ = rows.thin(&limit, Place::default(), size);
                limit.hold(&rows, Place::default(), size, u64::MAX);
                limit.hold(&rows, Place::default(), size, 0);
            }
        }
    }
}
