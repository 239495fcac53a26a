//! What the proofs of the limiter and of the sharing law draw and count with.
//!
//! `OCTROI_TEST_LEVEL` is `quick`, `normal` or `long`. `OCTROI_TEST_SEED` repeats a run: the seed is
//! printed by every test that draws.
#![allow(dead_code, reason = "each proof uses its own part of this")]

use dataplane_common::limiter::Clock;
use std::{
    cell::Cell,
    time::{SystemTime, UNIX_EPOCH},
};

/// How much to try: one of three, by `OCTROI_TEST_LEVEL`.
pub fn level<T>(quick: T, normal: T, long: T) -> T {
    match std::env::var("OCTROI_TEST_LEVEL").as_deref() {
        Ok("quick") => quick,
        Ok("long") => long,
        _ => normal,
    }
}

/// The seed of this run.
pub fn seed() -> u64 {
    let given = std::env::var("OCTROI_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        since.as_nanos() as u64
    })
}

/// Numbers for what is not worth shrinking: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// 0..=most.
    pub fn up_to(&mut self, most: u64) -> u64 {
        ((u128::from(self.next()) * (u128::from(most) + 1)) >> 64) as u64
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.up_to(times - 1) == 0
    }

    /// One of them.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.up_to(choices.len() as u64 - 1) as usize]
    }
}

/// Fairness by Jain: 1 when all have the same, 1/n when one has everything (Jain, Chiu, Hawe 1984).
pub fn jain(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    if squares == 0.0 {
        return 0.0;
    }
    sum * sum / (shares.len() as f64 * squares)
}

/// A word that one thread uses.
#[derive(Debug, Default)]
pub struct Alone(pub Cell<u64>);

impl Clock for Alone {
    fn load(&self) -> u64 {
        self.0.get()
    }

    fn compare_exchange(&self, old: u64, new: u64) -> u64 {
        let was = self.0.get();
        if was == old {
            self.0.set(new);
        }
        was
    }

    fn fetch_add(&self, units: u64) -> u64 {
        self.0.replace(self.0.get().wrapping_add(units))
    }
}

/// The words of a link are lent.
impl Clock for &Alone {
    fn load(&self) -> u64 {
        (**self).load()
    }

    fn compare_exchange(&self, old: u64, new: u64) -> u64 {
        (**self).compare_exchange(old, new)
    }

    fn fetch_add(&self, units: u64) -> u64 {
        (**self).fetch_add(units)
    }
}
