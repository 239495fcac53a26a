//! What is promised of thin flows (`dataplane_common::thin`).
//!
//! | promise | where |
//! | --- | --- |
//! | a conversation is thin beside any number of bulk flows, waits for none of them, and is never refused | `port` |
//! | no flow's packets overtake each other, but where the hash is drawn anew | `port` |
//! | all thin packets together have half the rate, in every order of steps of several CPUs | `bounds`, `orders` |
//! | who fakes thin flows gains nothing over the ceiling, and leaves half of it to what is fat | `port` |
//! | a flow disturbs another only where it hits both clocks, and not after the next rotation | `bounds` |
//! | clocks wrap, and what is left of years ago is past | `bounds` |
//! | every part of a flow's identity counts; fragments of a datagram are one flow | `identity` |
//!
//! That ceilings hold whatever is thin: `tests/limiter`, whose packets are of both kinds. `OCTROI_TEST_LEVEL` and
//! `OCTROI_TEST_SEED` are as there.

mod bounds;
#[path = "../harness/mod.rs"]
mod harness;
mod identity;
mod orders;
mod port;

use dataplane_common::{
    abi::LimitPolicy,
    limit::{Rate, Times},
    thin::{Cells, Limit, Place},
    units::BitsPerSecond,
};
use harness::{Alone, Draw, level, seed};
use std::cell::RefCell;

/// Clocks in a row.
const CELLS: u32 = 1_024;

/// The clocks of one limit.
struct Rows {
    cells: RefCell<[Vec<u32>; 2]>,
    together: Alone,
}

impl Rows {
    fn new() -> Self {
        let row = || vec![0; CELLS as usize];
        Self {
            cells: RefCell::new([row(), row()]),
            together: Alone::default(),
        }
    }

    fn thin(&self, limit: &Limit, place: Place, bytes: u64) -> bool {
        limit.thin(self, &self.together, place, bytes)
    }
}

impl Cells for Rows {
    fn load(&self, row: u32, cell: u32) -> u32 {
        self.cells.borrow()[row as usize][cell as usize]
    }

    fn store(&self, row: u32, cell: u32, clock: u32) {
        self.cells.borrow_mut()[row as usize][cell as usize] = clock;
    }
}

/// A ceiling with a burst of so many milliseconds.
fn ceiling(bits: u64, burst_ms: u64, now_ns: u64) -> LimitPolicy {
    let rate = Rate::bytes(BitsPerSecond(bits));
    let times = Times {
        now_ns,
        switch_ns: now_ns,
        coarse_slack_ns: 0,
    };
    let burst = rate.units_in(u128::from(burst_ms) * 1_000_000);
    LimitPolicy::begin(rate, burst, 0, &times)
}

fn place(flow: u64, now_ns: u64) -> Place {
    Place::of(Draw(flow).next(), 0x5EC2_E700, now_ns, CELLS)
}

fn draw(what: &str) -> Draw {
    let seed = seed();
    println!("SEED: OCTROI_TEST_SEED={seed} ({what})");
    Draw(seed)
}
