//! What is over a share and waits: when it departs, and what that does to a link.

use crate::{
    draw,
    fill::Want,
    harness::Draw,
    hostile, level,
    world::{THIN, World},
};
use std::{cmp::Reverse, collections::BinaryHeap};

const MILLISECOND: u64 = 1_000_000;
const CAPACITY: u64 = 1_000_000_000;

/// A real link: what departs waits until it has carried what departed before.
#[derive(Default)]
pub struct Link {
    /// Bits per second.
    capacity: u64,
    due: BinaryHeap<Reverse<(u64, usize, u64)>>,
    at_ns: u64,
    /// In 8 · 10^9 parts of a byte.
    held: u128,
    pub most: u64,
    /// What stood there before each packet, in sum, and how many there were.
    pub stood: u128,
    pub packets: u64,
    /// Bytes of each tenant that departed since the test took them.
    departed: Vec<u64>,
}

impl Link {
    const PARTS: u128 = 8_000_000_000;

    pub fn new(capacity: u64, now_ns: u64, tenants: usize) -> Self {
        Self {
            capacity,
            at_ns: now_ns,
            departed: vec![0; tenants],
            ..Self::default()
        }
    }

    pub fn put(&mut self, departs_ns: u64, at: usize, bytes: u64) {
        self.due.push(Reverse((departs_ns, at, bytes)));
    }

    /// Everything that departs before `now_ns`.
    pub fn run(&mut self, now_ns: u64) {
        while let Some(Reverse((departs_ns, at, bytes))) = self.due.peek().copied() {
            if departs_ns >= now_ns {
                return;
            }
            self.due.pop();
            let gone = u128::from(departs_ns - self.at_ns) * u128::from(self.capacity);
            self.at_ns = departs_ns;
            self.held = self.held.saturating_sub(gone);
            self.stood += self.held / Self::PARTS;
            self.packets += 1;
            self.held += u128::from(bytes) * Self::PARTS;
            self.most = self.most.max((self.held / Self::PARTS) as u64);
            self.departed[at] += bytes;
        }
    }
}

/// Ten tenants that keep a little over their guarantee, which is together so much of the link, and foes.
fn wants(foes: usize, part_percent: u64) -> Vec<Want> {
    let friend = CAPACITY / 100 * part_percent / 10;
    let want = |guarantee, weight, demand| Want {
        guarantee,
        ceiling: u64::MAX,
        weight,
        demand,
    };
    let friends = (0..10).map(|_| want(friend, 1, friend / 10 * 12));
    let foes = (0..foes).map(|at| want(0, [1, 100, 10_000][at % 3], 0));
    friends.chain(foes).collect()
}

/// What is asserted of a run, and what it was.
struct Held {
    /// Bytes of a guarantee in the worst 10 ms.
    least: u64,
    used_permille: u64,
    most: u64,
}

/// Foes that come and go, friends that now and then stop for a while: α falls and rises all the time.
fn hold(draw: &mut Draw, foes: usize, part_percent: u64, pauses: bool) -> Held {
    let wants = wants(foes, part_percent);
    let largest = hostile::largest(draw, wants.len());
    let mut world = World::with(CAPACITY, &wants, &largest, draw.clone(), true);
    // What is thin leaves before its turn: a friend's bytes of 10 ms would be in another 10 ms.
    world.bulk = 10;
    let mut link = Link::new(CAPACITY, world.now_ns, wants.len());
    let horizon_ns = world.uplink.horizon_ns;
    let (mut least, mut sum) = (u64::MAX, 0);
    let mut last = vec![0; wants.len()];
    let (mut packets, mut overtaken) = (0_u64, 0_u64);
    let bins = level(30, 200, 2_000);
    for bin in 0..bins + 10 {
        for at in 10..wants.len() {
            if draw.up_to(2) == 0 {
                world.demand(at, draw.of(&[0, 0, CAPACITY / 50, CAPACITY]));
            }
        }
        world.demand(11, 2 * CAPACITY);
        let rest = pauses && bin % 8 < 4;
        for at in 0..10 {
            world.demand(at, if rest { 0 } else { wants[at].demand });
        }
        world.run(10 * MILLISECOND, |world, at, bytes, decided| {
            let Ok(taken) = decided else { return };
            let waits_ns = taken.departs_ns - world.now_ns;
            assert!(
                waits_ns <= horizon_ns + 2 * world.uplink.period_ns,
                "{waits_ns} ns of {horizon_ns}"
            );
            packets += 1;
            overtaken += u64::from(world.fat && taken.departs_ns < last[at]);
            if world.fat {
                last[at] = last[at].max(taken.departs_ns);
            }
            link.run(world.now_ns);
            link.put(taken.departs_ns, at, bytes);
        });
        link.run(world.now_ns);
        let departed = std::mem::replace(&mut link.departed, vec![0; wants.len()]);
        if bin >= 10 {
            sum += departed.iter().sum::<u64>();
            // The first 10 ms after a rest are of one that has just begun.
            if !pauses {
                least = least.min(*departed[..10].iter().min().expect("ten"));
            }
        }
    }
    let most = world
        .uplink
        .carries(2 * world.uplink.period_ns + 8 * MILLISECOND);
    // And what is thin, of a horizon.
    let thin = world.uplink.carries(world.uplink.horizon_ns) / THIN;
    let most = most + thin;
    let packets_waiting: u64 = largest.iter().sum::<u64>().min(4 * 65_000);
    assert!(
        link.most <= most + packets_waiting,
        "{} of {most} and {packets_waiting} bytes ahead of the link",
        link.most
    );
    println!(
        "CASES: share departs: {bins} times 10 ms; {foes} foes, {part_percent} % guaranteed, pauses {pauses}: waits up to \
         {} µs, {} of {most} B ahead of the link, {overtaken} of {packets} packets overtake, {} ms of period",
        horizon_ns / 1_000,
        link.most,
        world.uplink.period_ns / MILLISECOND
    );
    // A tenant a little over its guarantee has both: what is guaranteed overtakes what it borrowed.
    assert!(overtaken * 4 <= packets, "{overtaken} of {packets}");
    Held {
        least,
        used_permille: sum * 1_000 / (CAPACITY / 100 / 8 * bins),
        most: link.most,
    }
}

#[test]
fn a_link_is_not_overrun_by_what_waits() {
    let mut draw = draw("departs");
    for (foes, part) in [(4, 50), (40, 50), (400, 50), (40, 95), (40, 10)] {
        for pauses in [false, true] {
            let held = hold(&mut draw, foes, part, pauses);
            println!(
                "share departs: {foes} foes, {part} %, pauses {pauses}: used {} per mille, least {}, most {}",
                held.used_permille, held.least, held.most
            );
            assert!(held.used_permille >= 850, "{}", held.used_permille);
            let bin = CAPACITY / 100 * part / 10 / 100 / 8;
            assert!(
                pauses || held.least + 4 * 500 >= bin,
                "{} of {bin} bytes guaranteed departed in 10 ms",
                held.least
            );
        }
    }
}

#[test]
fn a_guarantee_departs_at_once_where_others_have_filled_the_link() {
    let wants = wants(12, 50);
    let mut world = World::with(CAPACITY, &wants, &[1_514; 22], draw("at once"), true);
    for at in 0..wants.len() {
        world.demand(at, if at < 10 { 0 } else { 2 * CAPACITY });
    }
    world.run(500 * MILLISECOND, |_, _, _, _| {});
    let mut waits = 0;
    for at in 0..10 {
        let now_ns = world.now_ns;
        let first = world
            .offer_of(at, 1_514, true)
            .expect("within the guarantee");
        assert_eq!(first.departs_ns, now_ns, "the first waits for nobody");
        let second = world
            .offer_of(at, 1_514, true)
            .expect("within the guarantee");
        // 1,514 bytes at 50 Mbit/s.
        waits = second.departs_ns - now_ns;
        assert!(waits <= 243_000, "{waits} ns behind its own first one");
    }
    println!("CASES: share departs at once: 10; the second after {waits} ns");
}

#[test]
fn who_keeps_to_its_line_waits_for_nobody_and_is_not_told_to_slow_down() {
    let want = Want {
        guarantee: 0,
        ceiling: u64::MAX,
        weight: 1,
        demand: 0,
    };
    let wants = [want; 8];
    let mut world = World::with(CAPACITY, &wants, &[1_514; 8], draw("marks"), true);
    // One asks for half of its part, the others for more than the link has.
    for at in 0..8 {
        world.demand(at, if at == 0 { CAPACITY / 16 } else { CAPACITY });
    }
    world.run(500 * MILLISECOND, |_, _, _, _| {});
    // Packets, those that are marked, and µs that they wait.
    let mut counts = [[0_u64; 3]; 8];
    world.run(1_000 * MILLISECOND, |world, at, bytes, decided| {
        let Ok(taken) = decided else { return };
        counts[at][0] += 1;
        counts[at][1] += u64::from(world.is_near(at, bytes));
        counts[at][2] += (taken.departs_ns - world.now_ns) / 1_000;
    });
    println!("CASES: share marks: 8 tenants; packets, marked, µs waited: {counts:?}");
    let [packets, marked, waits] = counts[0];
    let half = world.uplink.period_ns / 2_000;
    assert!(
        waits / packets <= half,
        "it waits behind others: {} µs",
        waits / packets
    );
    assert!(
        marked * 100 <= packets,
        "{marked} of {packets} are marked for others"
    );
    for [packets, marked, _] in &counts[1..] {
        assert!(marked * 10 >= packets * 9, "{marked} of {packets}");
    }
}
