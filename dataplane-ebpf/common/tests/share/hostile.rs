//! Tenants that ask for far more than there is, on and off, at the worst times.

use crate::{
    draw,
    fill::Want,
    harness::Draw,
    level,
    world::{World, ceiling_burst},
};
use dataplane_common::{
    abi::share::SharePace,
    limiter::Clock,
    share::{Link, Paid, ask::guarantee_burst},
    units::BitsPerSecond,
};

const MILLISECOND: u64 = 1_000_000;
const CAPACITY: u64 = 1_000_000_000;

/// Ten tenants that keep a little over their guarantee, and `foes` that have nothing guaranteed.
fn wants(foes: usize, part_percent: u64) -> Vec<Want> {
    let friend = CAPACITY / 100 * part_percent / 10;
    let want = |guarantee, ceiling, weight, demand| Want {
        guarantee,
        ceiling,
        weight,
        demand,
    };
    let friends = (0..10).map(|_| want(friend, u64::MAX, 1, friend / 10 * 12));
    let foes = (0..foes).map(|at| match at % 4 {
        0 => want(0, CAPACITY / 5, 10_000, 0),
        _ => want(0, u64::MAX, [1, 100, 10_000][at % 3], 0),
    });
    friends.chain(foes).collect()
}

/// The largest packet of each: of the ten, 500 bytes.
pub fn largest(draw: &mut Draw, tenants: usize) -> Vec<u64> {
    let of = |at| {
        if at < 10 {
            500
        } else {
            draw.of(&[100, 1_514, 9_000, 65_000])
        }
    };
    (0..tenants).map(of).collect()
}

/// What fills as a real queue does, and what it must never hold.
pub struct Queue {
    rate_bits: u64,
    held: u128,
    at_ns: u64,
    pub most: u64,
}

impl Queue {
    /// In 8 · 10^9 parts of a byte.
    const PARTS: u128 = 8_000_000_000;

    pub fn new(rate_bits: u64, at_ns: u64) -> Self {
        Self {
            rate_bits,
            held: 0,
            at_ns,
            most: 0,
        }
    }

    pub fn put(&mut self, at_ns: u64, bytes: u64) {
        let gone = u128::from(at_ns - self.at_ns) * u128::from(self.rate_bits);
        self.at_ns = at_ns;
        self.held = self.held.saturating_sub(gone) + u128::from(bytes) * Self::PARTS;
        self.most = self.most.max((self.held / Self::PARTS) as u64);
    }
}

/// Runs, with foes that come and go, and checks every bound. Returns the part of the link used, per mille.
fn hold(foes: usize, part_percent: u64, frozen: bool) -> u64 {
    let mut draw = draw("hostile");
    let wants = wants(foes, part_percent);
    let largest = largest(&mut draw, wants.len());
    let mut world = World::new(CAPACITY, &wants, &largest, draw.clone());
    let mut link = Queue::new(CAPACITY, world.now_ns);
    let mut ceilings: Vec<Queue> = (wants.iter())
        .map(|want| Queue::new(want.ceiling.min(100 * CAPACITY), world.now_ns))
        .collect();
    if frozen {
        // Somebody began to renew α at the worst moment and never came back.
        world.run(MILLISECOND, |_, _, _, _| {});
        (&&world.words).state().fetch_add(1);
    }
    world.run(10 * MILLISECOND, |_, _, _, _| {});
    world.taken();
    let (mut least, mut sum) = (u64::MAX, 0);
    let bins = level(30, 100, 1_000);
    for _ in 0..bins {
        for at in 10..wants.len() {
            if draw.up_to(2) == 0 {
                let bits = draw.of(&[0, 0, CAPACITY / 50, CAPACITY]);
                world.demand(at, bits);
            }
        }
        // One that always wants more, so that the link has work.
        world.demand(11, 2 * CAPACITY);
        world.run(10 * MILLISECOND, |world, at, bytes, decided| {
            if decided.is_ok() {
                ceilings[at].put(world.now_ns, bytes);
                link.put(world.now_ns, bytes);
            }
        });
        let taken = world.taken();
        least = least.min(*taken[..10].iter().min().expect("ten"));
        sum += taken.iter().sum::<u64>();
    }
    let guarantee = wants[0].guarantee;
    let bin = guarantee / 100 / 8;
    assert!(
        least + 4 * 500 >= bin,
        "{least} of {bin} bytes guaranteed in 10 ms"
    );
    let bursts: u64 = 10 * guarantee_burst(BitsPerSecond(guarantee), 0);
    let most = world.uplink.stop + world.uplink.carries(world.uplink.period_ns) + bursts + 65_000;
    assert!(
        frozen || link.most <= most,
        "{} of {most} bytes ahead of the link",
        link.most
    );
    for (at, ceiling) in ceilings.iter().enumerate() {
        if wants[at].ceiling != u64::MAX {
            let most = ceiling_burst(wants[at].ceiling, largest[at]) + largest[at];
            assert!(ceiling.most <= most, "{} of {most}", ceiling.most);
        }
    }
    let used = sum * 1_000 / (CAPACITY / 100 / 8 * bins);
    println!(
        "CASES: share hostile: {bins} times 10 ms; {foes} foes, {part_percent} % guaranteed, frozen {frozen}: \
         least {least} of {bin} B, used {used} per mille, queue {} of {most} B",
        link.most
    );
    used
}

#[test]
fn a_guarantee_is_there_whoever_comes_and_goes() {
    for (foes, part) in [(4, 50), (40, 50), (400, 50), (40, 95), (40, 10)] {
        let used = hold(foes, part, false);
        // They change more often than α can follow.
        assert!((930..=1_010).contains(&used), "{used}");
    }
}

#[test]
fn a_guarantee_is_there_when_nobody_renews_alpha() {
    hold(40, 50, true);
}

#[test]
fn a_guarantee_comes_back_with_the_first_packet() {
    let draw = draw("back");
    let wants = wants(12, 50);
    let mut world = World::new(CAPACITY, &wants, &[1_514; 22], draw);
    for at in 0..wants.len() {
        world.demand(at, if at < 10 { 0 } else { 2 * CAPACITY });
    }
    world.run(500 * MILLISECOND, |_, _, _, _| {});
    world.taken();
    world.run(100 * MILLISECOND, |_, _, _, _| {});
    let alone: u64 = world.taken().iter().sum();
    assert!(
        alone * 80_000 / CAPACITY >= 950,
        "others had the whole link: {alone}"
    );
    for at in 0..10 {
        let owed = guarantee_burst(BitsPerSecond(wants[at].guarantee), 0);
        let mut had = 0;
        while had < owed {
            let paid = world.offer(at, 1_514).map(|taken| taken.paid);
            assert_eq!(paid, Ok(Paid::Guarantee), "after {had} of {owed} bytes");
            had += 1_514;
        }
    }
}

#[test]
fn who_asks_rarely_is_not_kept_out_of_an_idle_link() {
    // Nothing guaranteed, nobody else there, and the first packets of a connection, farther and farther apart.
    for gap_ms in [1, 10, 40, 1_000, 60_000] {
        let mut world = World::new(CAPACITY, &wants(3, 0)[10..], &[1_514; 3], draw("rarely"));
        let refused = |world: &mut World| {
            let refused = (0..200).filter(|_| {
                world.now_ns += gap_ms * MILLISECOND;
                world.offer(1, 74).is_err()
            });
            refused.count()
        };
        assert_eq!(refused(&mut world), 0, "one each {gap_ms} ms");
        // A share that has become next to nothing, as beside guarantees that took the link.
        let link = &&world.words;
        let at = (link.state().load() >> 1) % 4;
        let pace = SharePace {
            alpha: 1,
            ..link.pace(at)
        };
        link.set_pace(at, &pace);
        let refused = refused(&mut world);
        assert!(
            refused <= 4,
            "{refused} of 200 packets, one each {gap_ms} ms"
        );
    }
}

#[test]
fn a_clock_left_behind_does_not_keep_a_tenant_out() {
    let draw = draw("stray");
    let mut wants = wants(3, 0);
    wants.truncate(12);
    let mut world = World::new(CAPACITY, &wants, &[1_514; 12], draw);
    world.demand(11, 2 * CAPACITY);
    world.run(200 * MILLISECOND, |_, _, _, _| {});
    // The weight goes from 100 to 10,000 and back: lines that have nothing to do with each other.
    for weight in [10_000, 1, 9_999, 3] {
        world.tenants[11].policy.weight = weight;
        world.run(80 * MILLISECOND, |_, _, _, _| {});
        world.taken();
        world.run(100 * MILLISECOND, |_, _, _, _| {});
        let had = world.taken()[11];
        assert!(had * 80_000 / CAPACITY >= 850, "{had} at weight {weight}");
    }
}
