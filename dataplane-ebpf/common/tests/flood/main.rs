//! What is promised of floods at an uplink (`dataplane_common::flood`).
//!
//! | promise | test |
//! | --- | --- |
//! | what ends at the uplink, the port would have refused; it accepts the same packets with and without | `the_port_accepts_…` |
//! | with d ns between both, at most rate · d and one packet fewer | `on_its_way_…` |
//! | what is refused and still costs an skb: rate · t + burst + one packet, and what is thin | `what_passes_…` |
//! | who keeps to twice the ceiling loses nothing at the uplink | `up_to_twice_…` |
//!
//! The port here is all that its program does with a limit: classes, both limits, holds, revisions, a coarse clock.
//! `OCTROI_TEST_LEVEL` and `OCTROI_TEST_SEED` are as in `tests/limiter`.

#[path = "../harness/mod.rs"]
mod harness;

use dataplane_common::{
    abi::LimitPolicy,
    flood,
    limit::{Rate, Times},
    limiter::{Decision, Now},
    thin::{Cells, Limit, Place},
    units::{BitsPerSecond, PacketsPerSecond},
};
use harness::{Alone, Draw, level, seed};
use std::{cell::RefCell, collections::VecDeque};

const CELLS: u32 = 64;
const SECRET: u64 = 0x5EC2_E700;
/// Layer-2 bytes of the longest packet here.
const LONGEST: u64 = 1_514;

/// A time, and how far the coarse clock lags.
#[derive(Clone, Copy)]
struct At(u64, u64);

impl Now for At {
    fn coarse_ns(&self) -> u64 {
        self.0 - self.1
    }

    fn exact_ns(&self) -> u64 {
        self.0
    }
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    flow: u64,
    bytes: u64,
    urgent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Accepted { fat: bool },
    Packets,
    Bytes,
}

/// A port, as `dataplane-ebpf/src/gate.rs` judges what is to it. Bytes, then packets.
#[derive(Default)]
struct Port {
    limits: [LimitPolicy; 2],
    clocks: [Alone; 2],
    cells: RefCell<[Vec<u32>; 2]>,
    together: Alone,
}

impl Cells for Port {
    fn load(&self, row: u32, cell: u32) -> u32 {
        self.cells.borrow()[row as usize][cell as usize]
    }

    fn store(&self, row: u32, cell: u32, clock: u32) {
        self.cells.borrow_mut()[row as usize][cell as usize] = clock;
    }
}

impl Port {
    fn new() -> Self {
        let row = || vec![0; CELLS as usize];
        Self {
            cells: RefCell::new([row(), row()]),
            ..Self::default()
        }
    }

    /// Flows are told apart where there is a ceiling in bytes.
    fn has_classes(&self) -> bool {
        self.limits[0].limited()
    }

    fn class(&self, now_ns: u64) -> Limit {
        Limit::new(now_ns, self.limits[0].ns_per_unit)
    }

    fn is_thin(&self, packet: Packet, at: At) -> bool {
        let class = self.class(at.coarse_ns());
        let place = Place::of(packet.flow, SECRET, class.now_ns, CELLS);
        class.would_be_thin(self, &self.together, place, packet.bytes)
    }

    fn judge(&self, packet: Packet, at: At) -> Fate {
        let [bytes, packets] = &self.limits;
        let class = self.class(at.coarse_ns());
        let place = Place::of(packet.flow, SECRET, class.now_ns, CELLS);
        let is_fat = || !class.thin(self, &self.together, place, packet.bytes) && !packet.urgent;
        let mut fat = false;
        if packets.limited() {
            fat = self.has_classes() && is_fat();
            let horizon = packets.horizon_of(fat);
            match packets.take_within(&self.clocks[1], &at, 1, horizon) {
                Decision::Pass { .. } => {}
                _ => return Fate::Packets,
            }
        }
        if bytes.limited() {
            let taken = bytes.take_classed(&self.clocks[0], &at, packet.bytes, |matters| {
                if !packets.limited() {
                    fat = matters != 0 && is_fat();
                }
                u64::from(fat)
            });
            match taken {
                Decision::Pass { backlog, at_ns } if fat => {
                    let departs_ns = match backlog {
                        0 => 0,
                        _ => at_ns + bytes.delay_ns(backlog),
                    };
                    class.hold(self, place, packet.bytes, departs_ns);
                }
                Decision::Pass { .. } => {}
                _ => {
                    if packets.limited() {
                        packets.give_back(&self.clocks[1], 1);
                    }
                    return Fate::Bytes;
                }
            }
        }
        Fate::Accepted { fat }
    }

    /// Units ahead of each limit's line.
    fn backlogs(&self, now_ns: u64) -> [u64; 2] {
        [0, 1].map(|unit| {
            if !self.limits[unit].limited() {
                return 0;
            }
            let by = self.clocks[unit]
                .0
                .get()
                .wrapping_sub(self.limits[unit].line(now_ns));
            if by < 1 << 63 { by } else { 0 }
        })
    }
}

/// The uplink, as `dataplane-ebpf/src/flood.rs` asks.
#[derive(Default)]
struct Uplink {
    surplus: [Alone; 2],
}

impl Uplink {
    /// Why it ends here, if it does: of packets or of bytes.
    fn ends(&self, port: &Port, packet: Packet, at: At) -> Option<Fate> {
        let classes = port.has_classes();
        for (unit, units, fate) in [(1, 1, Fate::Packets), (0, packet.bytes, Fate::Bytes)] {
            let limit = &port.limits[unit];
            let horizon = flood::horizon(limit, classes);
            if limit.limited() && limit.refuses(&port.clocks[unit], &at, horizon) {
                let thin = packet.urgent || port.is_thin(packet, at);
                let ends =
                    !(classes && thin) && flood::ends(limit, &self.surplus[unit], &at, units);
                return ends.then_some(fate);
            }
        }
        None
    }
}

/// Rate and burst of the bytes and of the packets; none: no limit.
#[derive(Clone, Copy, Debug)]
struct Ask([Option<(Rate, u64)>; 2]);

fn ask(draw: &mut Draw) -> Ask {
    let bytes = (!draw.once_in(8)).then(|| {
        let bits = draw.of(&[64_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000]);
        let rate = Rate::bytes(BitsPerSecond(bits));
        let ms = draw.of(&[1, 8, 50, 250]);
        (rate, rate.units_in(ms * 1_000_000).max(LONGEST))
    });
    let packets = (bytes.is_none() || draw.once_in(2)).then(|| {
        let rate = Rate::packets(PacketsPerSecond(draw.of(&[100, 10_000, 200_000])));
        (rate, rate.units_in(100_000_000).max(64))
    });
    Ask([bytes, packets])
}

/// Puts a revision in force, as `dataplane/src/policy.rs` does.
fn revise(ports: &mut [&mut Port], ask: Ask, times: &Times) {
    for port in ports {
        for (unit, wanted) in ask.0.into_iter().enumerate() {
            let old = port.limits[unit];
            port.limits[unit] = match wanted {
                None => LimitPolicy::default(),
                Some((rate, burst)) if old.limited() => old.revise(rate, burst, times),
                Some((rate, burst)) => {
                    LimitPolicy::begin(rate, burst, port.clocks[unit].0.get(), times)
                }
            };
        }
    }
}

/// Bulk, conversations, flows that nobody has seen before, neighbours.
fn packet(draw: &mut Draw) -> Packet {
    let (flow, bytes) = match draw.up_to(9) {
        0..=4 => (draw.up_to(2), draw.of(&[60, 590, 1_514])),
        5..=6 => (100 + draw.up_to(5), 60 + draw.up_to(100)),
        7 => (200 + draw.up_to(40), 60 + draw.up_to(1_454)),
        _ => (draw.next() | 1 << 63, draw.of(&[60, 60, 1_514])),
    };
    Packet {
        flow: Draw(flow).next(),
        bytes,
        urgent: draw.once_in(50),
    }
}

#[test]
fn the_port_accepts_the_same_packets_with_and_without_an_uplink_that_ends_floods() {
    let seed = seed();
    println!("SEED: OCTROI_TEST_SEED={seed}");
    let mut draw = Draw(seed);
    let runs = level(20, 200, 5_000);
    let (mut came, mut ended, mut thin_in_flood, mut by) = (0_u64, 0_u64, 0_u64, [0_u64; 2]);
    let mut rounded = 0_u64;
    for _ in 0..runs {
        let slack_ns = draw.of(&[0, 0, 4_000_000]);
        let (mut alone, mut behind) = (Port::new(), Port::new());
        let uplink = Uplink::default();
        let mut now_ns = 1 << 40;
        let mut switched_ns = 0;
        let mut flood = 0;
        for step in 0..4_000 {
            // As the gate does: the next revision comes when the last one's corner is behind.
            if step == 0 || now_ns > switched_ns + slack_ns && draw.once_in(800) {
                let times = Times {
                    now_ns,
                    switch_ns: now_ns + 20_000_000,
                    coarse_slack_ns: slack_ns,
                };
                switched_ns = times.switch_ns;
                revise(&mut [&mut alone, &mut behind], ask(&mut draw), &times);
            }
            if flood == 0 {
                now_ns += draw.of(&[0, 1_000, 100_000, 2_000_000, 60_000_000]);
                flood = if draw.once_in(40) { 1_000 } else { 0 };
            } else {
                now_ns += draw.up_to(2_000);
                flood -= 1;
            }
            // It stands still between two ticks.
            let at = At(now_ns, now_ns % slack_ns.max(1));
            let packet = packet(&mut draw);
            came += 1;
            let fate = alone.judge(packet, at);
            if let Some(reason) = uplink.ends(&behind, packet, at) {
                assert_eq!(
                    fate, reason,
                    "{packet:?} ends, and the port has room; step {step}"
                );
                ended += 1;
                by[usize::from(reason == Fate::Packets)] += 1;
                continue;
            }
            assert_eq!(behind.judge(packet, at), fate, "{packet:?}, step {step}");
            thin_in_flood += u64::from(flood != 0 && fate == Fate::Accepted { fat: false });
            let (with, without) = (behind.backlogs(now_ns), alone.backlogs(now_ns));
            assert_eq!(with[0], without[0], "step {step}");
            // What bytes refuse is given back to the packets' clock, which stands at the line then; at a revision's corner
            // that may be one more than the line, which is rounded down there.
            if without[1] == with[1] + 1 {
                behind.clocks[1].0.set(alone.clocks[1].0.get());
                rounded += 1;
            } else {
                assert_eq!(with[1], without[1], "step {step}");
            }
        }
        assert_eq!(*alone.cells.borrow(), *behind.cells.borrow());
        assert_eq!(alone.together.0.get(), behind.together.0.get());
    }
    println!(
        "{came} packets, {ended} ended at the uplink: {} over bytes, {} over packets; {thin_in_flood} thin ones passed in floods",
        by[0], by[1]
    );
    println!("CASES: runs of a port with and without an uplink that ends floods: {runs}");
    assert!(ended > came / 20 && by[0] > 100 && by[1] > 100 && thin_in_flood > 100);
    assert!(
        rounded <= runs / 100 + 1,
        "{rounded} of {runs} runs were rounded"
    );
}

/// A frame meets the port up to `delay_ns` after the uplink. All of one class: a single horizon.
#[test]
fn on_its_way_from_the_uplink_a_packet_is_missed_by_at_most_what_drains_meanwhile() {
    let seed = seed();
    println!("SEED: OCTROI_TEST_SEED={seed}");
    let mut draw = Draw(seed);
    let runs = level(20, 200, 5_000);
    let (mut missed, mut most) = (0_u64, 0_u64);
    for _ in 0..runs {
        let bits = draw.of(&[1_000_000, 100_000_000, 10_000_000_000]);
        let delay_ns = draw.of(&[1_000, 100_000, 5_000_000]);
        let rate = Rate::bytes(BitsPerSecond(bits));
        let burst = rate.units_in(50_000_000).max(LONGEST);
        let times = Times {
            now_ns: 1 << 40,
            switch_ns: 1 << 40,
            coarse_slack_ns: 0,
        };
        let limit = LimitPolicy::begin(rate, burst, 0, &times);
        let horizon = limit.horizon;
        let clocks = [Alone::default(), Alone::default()];
        let surplus = Alone::default();
        let mut accepted = [0_u64; 2];
        let mut way: VecDeque<(u64, u64, bool)> = VecDeque::new();
        let mut now_ns = 1 << 40;
        let bound = rate.units_in(delay_ns.into()) + LONGEST + 2;
        for _ in 0..4_000 {
            let gap_ns = 1_514 * 8_000_000_000 / bits / 4;
            now_ns += match draw.up_to(99) {
                0 => 40_000_000 * draw.up_to(1),
                1..=20 => draw.up_to(delay_ns),
                _ => draw.up_to(gap_ns),
            };
            // What is on its way arrives first, in order.
            while way.front().is_some_and(|(at_ns, ..)| *at_ns <= now_ns) {
                let Some((at_ns, bytes, ended)) = way.pop_front() else {
                    break;
                };
                for (with, clock) in clocks.iter().enumerate() {
                    let line = limit.line(at_ns);
                    let by = clock.0.get().wrapping_sub(line);
                    if by == 0 || by >= 1 << 63 {
                        // The queue is empty: what was missed so far is settled, and counted from here.
                        if with == 1 {
                            accepted = [0; 2];
                        }
                    }
                    let comes = with == 0 || !ended;
                    if comes
                        && matches!(
                            limit.take_within(clock, &At(at_ns, 0), bytes, horizon),
                            Decision::Pass { .. }
                        )
                    {
                        accepted[with] += bytes;
                    }
                }
                let less = clocks[0].0.get().wrapping_sub(clocks[1].0.get());
                if less < 1 << 63 {
                    assert!(
                        less <= bound,
                        "{less} of {bound} at {bits} bit/s, {delay_ns} ns"
                    );
                    most = most.max(less);
                    missed += u64::from(less != 0);
                }
                let fewer = accepted[0].saturating_sub(accepted[1]);
                assert!(fewer <= bound, "{fewer} of {bound} fewer bytes accepted");
            }
            let bytes = draw.of(&[60, 590, 1_514]);
            let at = At(now_ns, 0);
            let ended = limit.refuses(&clocks[1], &at, horizon)
                && flood::ends(&limit, &surplus, &at, bytes);
            let last_ns = way.back().map_or(0, |(at_ns, ..)| *at_ns);
            way.push_back((last_ns.max(now_ns + draw.up_to(delay_ns)), bytes, ended));
        }
    }
    println!(
        "CASES: runs with packets on their way from uplink to port: {runs} ({missed} packets late, {most} bytes fewer at most)"
    );
    assert!(missed > 0, "no packet was ever late");
}

/// Over every interval, as the limiter's own proof has it for any clock: here for the whole of each run, and windows of it.
#[test]
fn what_passes_and_is_refused_is_no_more_than_the_ceiling_once_more() {
    let mut draw = Draw(seed());
    let mut shown = 0;
    for bits in [1_000_000, 100_000_000, 1_000_000_000] {
        for bytes in [60, 1_514] {
            let (mut port, uplink) = (Port::new(), Uplink::default());
            let rate = Rate::bytes(BitsPerSecond(bits));
            let burst = rate.units_in(50_000_000).max(2 * LONGEST);
            let now = 1 << 40;
            let times = Times {
                now_ns: now,
                switch_ns: now,
                coarse_slack_ns: 0,
            };
            revise(&mut [&mut port], Ask([Some((rate, burst)), None]), &times);
            // Twenty times the ceiling, of one flow.
            let gap_ns = (bytes * 8_000_000_000 / bits / 20).max(1);
            let (mut now_ns, mut refused, mut accepted, mut thin) = (now, 0, 0, 0);
            let mut window: VecDeque<(u64, u64)> = VecDeque::new();
            for _ in 0..level(20_000, 100_000, 1_000_000) {
                now_ns += draw.up_to(2 * gap_ns);
                let at = At(now_ns, 0);
                let packet = Packet {
                    flow: 7,
                    bytes,
                    urgent: false,
                };
                if uplink.ends(&port, packet, at).is_some() {
                    continue;
                }
                let is_thin = port.is_thin(packet, at);
                match port.judge(packet, at) {
                    Fate::Accepted { .. } => accepted += bytes,
                    // Never ends at the uplink, and is at most half of the rate: `tests/thin`.
                    _ if is_thin => thin += bytes,
                    _ => {
                        refused += bytes;
                        window.push_back((now_ns, refused));
                    }
                }
                while window.len() > 500 {
                    window.pop_front();
                }
                if let Some((from_ns, before)) = window.front() {
                    let most = rate.units_in((now_ns - from_ns).into()) + burst + LONGEST;
                    assert!(refused - before <= most);
                }
            }
            let line = rate.units_in((now_ns - now).into());
            println!(
                "{bits} bit/s, frames of {bytes}: {accepted} accepted, {refused} fat and {thin} thin ones refused, line {line}"
            );
            assert!(refused <= line + burst + LONGEST && accepted <= line + burst + LONGEST);
            assert!(thin <= line / 2 + burst / 8 + LONGEST);
            assert!(accepted >= line - LONGEST, "the ceiling was not used");
            shown += 1;
        }
    }
    println!("CASES: floods of twenty times a ceiling: {shown}");
}

#[test]
fn up_to_twice_the_ceiling_nothing_ends_at_the_uplink() {
    let mut ended = Vec::new();
    for percent in [90, 110, 150, 190, 230, 1_000] {
        let (mut port, uplink) = (Port::new(), Uplink::default());
        let rate = Rate::bytes(BitsPerSecond(100_000_000));
        let times = Times {
            now_ns: 1 << 40,
            switch_ns: 1 << 40,
            coarse_slack_ns: 0,
        };
        let burst = rate.units_in(250_000_000);
        revise(&mut [&mut port], Ask([Some((rate, burst)), None]), &times);
        let gap_ns = 1_514 * 80 * 100 / percent;
        let mut gone = 0_u64;
        for number in 0..400_000_u64 {
            let at = At((1 << 40) + number * gap_ns, 0);
            let packet = Packet {
                flow: Draw(number % 16).next(),
                bytes: 1_514,
                urgent: false,
            };
            match uplink.ends(&port, packet, at) {
                Some(_) => gone += 1,
                None => drop(port.judge(packet, at)),
            }
        }
        ended.push((percent, gone));
    }
    println!("packets that ended at the uplink of 400,000, by percent of the ceiling: {ended:?}");
    for (percent, gone) in ended {
        assert_eq!(gone != 0, percent > 200, "at {percent} %: {gone}");
    }
    println!("CASES: rates around twice a ceiling: 6");
}
