//! A model of an interface with a program on it, packet by packet, and everything that can be between them
//! at a cut. The model knows which packets no program saw; the audit has to find out.

use super::*;
use crate::{
    meter::{Epoch, Owner, Time, records},
    record::{Clock, Record},
    window::Counts,
};
use proptest::prelude::*;
use std::collections::VecDeque;

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Packets come: how many, bytes of each as the interface counts it, segments.
    Come(u64, u64, u64),
    /// So many go on: from the backlog to the program, or from the queue to the wire.
    GoOn(usize),
    /// So many in the queue are lost by the device.
    Lose(usize),
    /// Somebody takes the program off, or puts it back.
    Detach(bool),
    /// A cut: so many packets go on between its first reading and the publishing, and between that and
    /// the second reading, while as many come.
    Cut(usize, usize, u64),
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    bytes: u64,
    segments: u64,
}

/// An interface in one direction, its program, and the port's registers.
struct Model {
    direction: usize,
    queue: VecDeque<Packet>,
    attached: bool,
    packets: u64,
    bytes: u64,
    lost: u64,
    sums: Sums,
    missed: Packet,
}

impl Model {
    fn new(direction: usize) -> Self {
        Self {
            direction,
            queue: VecDeque::new(),
            attached: true,
            packets: 0,
            bytes: 0,
            lost: 0,
            sums: Sums {
                zones: vec![Counts::default(); 4],
                drops: vec![[0; 2]; 32],
                ..Sums::default()
            },
            missed: Packet {
                bytes: 0,
                segments: 0,
            },
        }
    }

    fn count(&mut self, packet: Packet) {
        self.packets += 1;
        self.bytes += packet.bytes;
    }

    fn program(&mut self, packet: Packet) {
        if !self.attached {
            self.missed.bytes += packet.bytes;
            self.missed.segments += 1;
            return;
        }
        let wire = packet.bytes + (packet.segments - 1) * 54;
        // From the tenant every fourth packet size is one that the gate drops.
        if self.direction == 0 && packet.bytes % 4 == 3 {
            self.sums.drops[12][0] += packet.segments;
            self.sums.drops[12][1] += wire;
            self.sums.skbs[2] += 1;
            self.sums.skbs[3] += packet.bytes;
            return;
        }
        let zone = &mut self.sums.zones[1];
        zone.packets += packet.segments;
        zone.l2_bytes += wire;
        self.sums.skbs[0] += 1;
        self.sums.skbs[1] += packet.bytes;
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Come(count, bytes, segments) => {
                for _ in 0..count {
                    let packet = Packet { bytes, segments };
                    if self.direction == 0 {
                        self.count(packet);
                    } else {
                        self.program(packet);
                    }
                    self.queue.push_back(packet);
                }
            }
            Step::GoOn(count) => {
                for _ in 0..count {
                    let Some(packet) = self.queue.pop_front() else {
                        return;
                    };
                    if self.direction == 0 {
                        self.program(packet);
                    } else {
                        self.count(packet);
                    }
                }
            }
            Step::Lose(count) if self.direction == 1 => {
                for _ in 0..count {
                    if self.queue.pop_front().is_some() {
                        self.lost += 1;
                    }
                }
            }
            Step::Detach(off) => self.attached = !off,
            Step::Lose(_) | Step::Cut(..) => {}
        }
    }

    fn counters(&self) -> [u64; 2] {
        [self.packets + self.lost, self.bytes]
    }

    /// A cut; what it found, as the meter gets it.
    fn cut(&mut self, first: usize, second: usize, come: u64) -> (Sums, Side) {
        let mut side = Side {
            before: self.counters(),
            merges: self.direction == 1,
            ring_drains: true,
            lost: Some(self.lost),
            ..Side::default()
        };
        if self.direction == 0 {
            side.early = self.queue.len() as u64;
        }
        self.step(Step::Come(come, 900, 1));
        self.step(Step::GoOn(first));
        let sealed = self.sums.clone();
        self.step(Step::Come(come, 901, 1));
        if self.direction == 1 {
            let bytes = self.queue.iter().map(|packet| packet.bytes).sum();
            side.queued = [self.queue.len() as u64, bytes];
        }
        self.step(Step::GoOn(second));
        side.after = self.counters();
        (sealed, side)
    }
}

fn step(segments: u64) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..40_u64, 60..1_500_u64, 1..=segments).prop_map(|(count, bytes, segments)| {
            Step::Come(count, bytes * segments, segments)
        }),
        5 => (0..80_usize).prop_map(Step::GoOn),
        1 => (0..5_usize).prop_map(Step::Lose),
        3 => (0..9_usize, 0..9_usize, 0..9_u64).prop_map(|(a, b, c)| Step::Cut(a, b, c)),
    ]
}

/// What the audit said of a history: flagged `*` records, and what more each allows.
struct Verdict {
    flagged: Vec<Record>,
    missed: Packet,
    cuts: usize,
}

fn run(direction: usize, steps: &[Step]) -> Verdict {
    let mut model = Model::new(direction);
    let mut state = State::default();
    let mut flagged = Vec::new();
    let quiet = [Step::GoOn(usize::MAX), Step::Cut(0, 0, 0)];
    let mut cuts = 0;
    // The first cut only begins: what is in a queue then is never told.
    let all = [Step::Cut(0, 0, 0)].iter().chain(steps).chain(&quiet);
    for step in all {
        let Step::Cut(first, second, come) = *step else {
            model.step(*step);
            continue;
        };
        let (sealed, side) = model.cut(first, second, come);
        let mut directions = [Sums::default(), Sums::default()];
        directions[direction] = sealed;
        let mut sides = [Side::default(); 2];
        sides[direction] = side;
        cuts += 1;
        let now_ns = cuts as u64 * 60_000_000_000;
        let cut = Cut {
            window: cuts as u64,
            revision: 1,
            time: Time {
                boot_ns: now_ns,
                mono_ns: now_ns,
                utc_ns: now_ns as i64,
            },
            nominal_ns: None,
            window_ns: 0,
            clock: Clock::default(),
            owners: vec![Owner {
                incarnation: 1,
                name: "p".into(),
                tenant: 1,
                live: true,
                since_ns: 0,
                directions: Some(directions),
                ..Owner::default()
            }],
            interfaces: Some(vec![Interface {
                index: 7,
                name: "tap7".into(),
                owners: vec![1],
                sides,
            }]),
            ..Cut::default()
        };
        let epoch = Epoch {
            host: "h".into(),
            ..Epoch::default()
        };
        let outcome = records(&epoch, &state, &cut, None);
        for record in &outcome.records {
            assert_eq!(record.check(), Ok(()), "{record:?}");
        }
        let found = outcome
            .records
            .iter()
            .filter(|record| record.zone.is_none() && record.flags.has(Flags::UNMETERED));
        flagged.extend(found.cloned());
        assert_eq!(
            outcome.unmetered.is_empty(),
            !outcome
                .records
                .iter()
                .any(|r| r.flags.has(Flags::UNMETERED))
        );
        // As the ledger keeps it, and the next daemon reads it.
        let kept = serde_json::to_string(&outcome.state.brackets).unwrap_or_default();
        state = outcome.state;
        assert_eq!(
            serde_json::from_str::<Brackets>(&kept).ok().as_ref(),
            Some(&state.brackets)
        );
    }
    Verdict {
        flagged,
        missed: model.missed,
        cuts,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// M-7.13: whatever waits, is dropped, lost or segmented, a program that is there is no alarm.
    #[test]
    fn a_program_that_saw_everything_is_never_an_alarm(
        direction in 0..2_usize,
        steps in prop::collection::vec(step(40), 1..60),
    ) {
        let verdict = run(direction, &steps);
        prop_assert!(verdict.flagged.is_empty(), "{:?}", verdict.flagged);
        prop_assert!(verdict.cuts > 1);
    }

    /// M-7.13: where every packet is one skb, not one of them stays hidden, and what is told is enough.
    #[test]
    fn every_packet_that_no_program_saw_is_found_at_the_latest_when_it_is_quiet(
        direction in 0..2_usize,
        steps in prop::collection::vec(prop_oneof![
            9 => step(1).prop_map(|step| match step {
                Step::Lose(count) => Step::GoOn(count),
                step => step,
            }),
            1 => any::<bool>().prop_map(Step::Detach),
        ], 1..60),
    ) {
        let verdict = run(direction, &steps);
        prop_assert_eq!(verdict.flagged.is_empty(), verdict.missed.segments == 0, "{:?}", verdict.missed);
        let more: u64 = verdict.flagged.iter()
            .map(|record| record.bytes_max.unwrap_or(u64::MAX) - record.bytes_min.unwrap_or(0))
            .sum();
        prop_assert!(more >= verdict.missed.bytes, "{} of {:?}", more, verdict.missed);
    }
}

/// What was told at a busy cut once explained more than was known, and a large packet hid behind small ones.
#[test]
fn a_packet_that_is_missed_after_a_busy_cut_was_told_is_told_too() {
    let steps = [
        Step::Come(1, 60, 1),
        Step::Detach(true),
        Step::GoOn(1),
        Step::Detach(false),
        Step::Come(11, 60, 1),
        Step::Cut(0, 0, 0),
        Step::GoOn(11),
        Step::Detach(true),
        Step::Come(1, 661, 1),
    ];
    let verdict = run(0, &steps);
    let causes: Vec<_> = verdict.flagged.iter().map(|record| &record.cause).collect();
    assert_eq!(verdict.flagged.len(), 2, "{causes:?}");
    let more = verdict.flagged.iter().map(|record| {
        let (most, least) = record
            .bytes_max
            .zip(record.bytes_min)
            .expect("both are known");
        most - least
    });
    assert!(more.sum::<u64>() >= 721);
}

#[test]
fn a_window_without_a_program_is_told_with_its_bytes() {
    let steps = [
        Step::Come(100, 1_000, 1),
        Step::GoOn(100),
        Step::Cut(9, 9, 0),
        Step::Detach(true),
        Step::Come(50, 1_000, 1),
        Step::GoOn(50),
        Step::Detach(false),
        Step::Come(10, 1_000, 1),
        Step::GoOn(10),
        Step::Cut(9, 9, 0),
        Step::Come(10, 1_000, 1),
        Step::GoOn(10),
        Step::Cut(9, 9, 0),
    ];
    let verdict = run(0, &steps);
    let [found] = &verdict.flagged[..] else {
        panic!("{:?}", verdict.flagged);
    };
    assert_eq!(found.window_id, 3);
    assert_eq!(
        (found.bytes_min, found.bytes_max),
        (Some(10_000), Some(60_000))
    );
    let cause = found.cause.as_deref().unwrap_or_default();
    assert!(cause.contains("at least 50 packets"), "{cause}");
}

#[test]
fn gso_packets_that_were_missed_show_in_the_bytes() {
    let steps = [
        Step::Come(100, 60_000, 40),
        Step::GoOn(100),
        Step::Cut(9, 9, 0),
        Step::Detach(true),
        Step::Come(50, 60_000, 40),
        Step::GoOn(50),
        Step::Detach(false),
        Step::Come(100, 60_000, 40),
        Step::GoOn(100),
        Step::Cut(9, 9, 0),
    ];
    let verdict = run(1, &steps);
    assert_eq!(verdict.flagged.len(), 1, "{:?}", verdict.flagged);
    let cause = verdict.flagged[0].cause.as_deref().unwrap_or_default();
    assert!(cause.contains("bytes"), "{cause}");
}

#[test]
fn tagged_frames_too_short_for_the_kernel_are_no_alarm() {
    let steps = [
        Step::Come(100, 1_000, 1),
        Step::GoOn(100),
        Step::Cut(9, 9, 0),
        // The kernel drops them before any program.
        Step::Detach(true),
        Step::Come(5_000, 18, 1),
        Step::GoOn(5_000),
        Step::Detach(false),
        Step::Cut(9, 9, 0),
        Step::Come(7, 1_000, 1),
        Step::GoOn(7),
        Step::Cut(9, 9, 0),
    ];
    assert_eq!(run(0, &steps).flagged, []);
}

#[test]
fn a_port_that_counts_each_packet_twice_is_told() {
    let side = |packets: u64| Side {
        before: [packets, packets * 100],
        after: [packets, packets * 100],
        ..Side::default()
    };
    let kept = Kept::begin(&side(10));
    let metered = Metered {
        skbs: 20,
        skb_bytes: 2_000,
        packets: 20,
        bytes: 2_000,
        opaque: 0,
    };
    let (_, found) = compare(&kept, &side(20), &metered, 0, 60_000_000_000);
    let found = found.map(|found| (found.cause, found.more_bytes));
    let cause = "octroi counted at least 10 packets that the interface did not carry";
    assert_eq!(found, Some((cause.to_owned(), Some(0))));
    // What is lost on the way to the tenant is no such thing.
    assert_eq!(
        compare(&kept, &side(20), &metered, 1, 60_000_000_000).1,
        None
    );
}

#[test]
fn another_device_with_the_same_index_is_not_compared() {
    let side = |packets: u64| Side {
        before: [packets, packets * 100],
        after: [packets, packets * 100],
        ..Side::default()
    };
    assert!(Kept::begin(&side(10)).is_before(&side(10)));
    assert!(!Kept::begin(&side(10)).is_before(&side(9)));
}
