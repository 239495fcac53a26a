//! One step of α, on a fluid that the step knows nothing of.

use crate::{Draw, draw, level};
use dataplane_common::share::alpha::{Seen, next};

/// 1 Gbit/s is an eighth of a byte per ns; α has 58 digits after the point.
const RATE: u64 = 1 << 55;

/// Tenants: weight, and what each would borrow, bytes in a period.
struct Fluid(Vec<(u64, u64)>);

impl Fluid {
    /// Bytes that one weight is given in a period of 4 ms.
    fn given(alpha: u64, weight: u64) -> u64 {
        ((u128::from(alpha) * u128::from(weight) * 4_000_000) >> 58) as u64
    }

    fn borrowed(&self, alpha: u64) -> u64 {
        let of = |&(weight, demand): &(u64, u64)| demand.min(Self::given(alpha, weight));
        self.0.iter().map(of).sum()
    }

    fn limited(&self, alpha: u64) -> u64 {
        let wants_more = |(weight, demand): &&(u64, u64)| *demand > Self::given(alpha, *weight);
        self.0
            .iter()
            .filter(wants_more)
            .map(|(weight, _)| weight)
            .sum()
    }

    fn draw(draw: &mut Draw, capacity: u64) -> Self {
        let tenants = draw.of(&[1, 2, 10, 100]);
        let one = |_| {
            (
                draw.of(&[1, 2, 10, 1_000]),
                draw.up_to(4 * capacity / tenants),
            )
        };
        Self((0..tenants).map(one).collect())
    }
}

#[test]
fn a_step_never_overshoots_and_a_few_arrive() {
    let mut draw = draw("step");
    let rate = RATE;
    let capacity = ((u128::from(rate) * 4_000_000) >> 58) as u64;
    let (cases, mut most) = (level(1_000, 20_000, 1_000_000), 0);
    for _ in 0..cases {
        let fluid = Fluid::draw(&mut draw, capacity);
        let guaranteed = draw.up_to(capacity / 2);
        let room = capacity - guaranteed;
        let mut alpha = draw.up_to(rate) >> draw.up_to(20);
        let (mut steps, mut pressed) = (0, 0);
        loop {
            let borrowed = fluid.borrowed(alpha);
            let enough = room - room / 20;
            let limited = fluid.limited(alpha);
            if (borrowed >= enough || limited == 0) && borrowed <= room + room / 20 {
                break;
            }
            let seen = Seen {
                time_ns: 4_000_000,
                capacity,
                drain: 0,
                guaranteed,
                borrowed,
                full: borrowed > room,
                held: limited,
                pressed,
            };
            let stepped = next(alpha, rate, &seen);
            let then = fluid.borrowed(stepped);
            if borrowed > room {
                assert!(
                    stepped < alpha && stepped >= alpha / 512,
                    "{then} below {room}"
                );
            } else {
                assert!(
                    stepped > alpha && then <= room + room / 1_000 + 100,
                    "{then} above {room}"
                );
            }
            pressed = if stepped < alpha { pressed + 1 } else { 0 };
            alpha = stepped;
            steps += 1;
            assert!(steps < 60, "still at {then} of {room}");
        }
        most = most.max(steps);
    }
    println!("CASES: share step: {cases}, at most {most} steps to within 5 %");
    assert!(most <= 24);
}
