//! The sharing law, held against an exact water-filling that knows nothing of it, and against what it
//! promises (docs/ISOLATION.md).
//!
//! | promise | where |
//! | --- | --- |
//! | demands that stand still: everybody has its weighted max-min share | `settle` |
//! | the link is used while somebody has demand | `settle`, `hostile` |
//! | a guarantee is there at once, whoever else sends, and with an α that nobody renews | `hostile` |
//! | no ceiling is exceeded, nor the link | `hostile` |
//! | another CPU at every step of a packet; many threads | `orders`, `threads` |
//! | one step of α never overshoots | `step` |
//!
//! `OCTROI_TEST_LEVEL` and `OCTROI_TEST_SEED` are as for `tests/limiter`.
#![allow(
    clippy::needless_range_loop,
    clippy::manual_checked_ops,
    reason = "several tables of tenants are read side by side"
)]

mod fill;
mod hostile;
mod orders;
mod settle;
mod step;
mod threads;
mod world;

use std::time::{SystemTime, UNIX_EPOCH};

/// How much to try: one of three, by `OCTROI_TEST_LEVEL`.
fn level<T>(quick: T, normal: T, long: T) -> T {
    match std::env::var("OCTROI_TEST_LEVEL").as_deref() {
        Ok("quick") => quick,
        Ok("long") => long,
        _ => normal,
    }
}

/// A draw for each case, and how to repeat it.
fn draw(what: &str) -> Draw {
    let given = std::env::var("OCTROI_TEST_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.expect("after 1970").as_nanos() as u64
    });
    println!("SEED: OCTROI_TEST_SEED={seed} ({what})");
    Draw(seed)
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// 0..=most.
    fn up_to(&mut self, most: u64) -> u64 {
        ((u128::from(self.next()) * (u128::from(most) + 1)) >> 64) as u64
    }

    /// One of them.
    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.up_to(choices.len() as u64 - 1) as usize]
    }
}
