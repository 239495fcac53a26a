//! The proof of the limiter, as far as tests can be one.
//!
//! | promise | where |
//! | --- | --- |
//! | over every interval: accepted ≤ rate · t + burst + one packet | `interleave`, `schedule`, `steady`, `threads` |
//! | between two refusals: accepted ≥ rate · t − one packet | the same |
//! | rate error ≤ 0.5 % over max(5 s, 400 packet times) | `steady` |
//! | no packet larger than the burst is black-holed | `edges` |
//! | a new rate forgives nothing and invents nothing | `revise` |
//! | the arithmetic is exact, at any distance in time | `edges` |
//! | the two faults that others' limiters had | `faults` |
//!
//! `interleave` tries *every* order in which a few CPUs can do the limiter's loads, swaps and clock
//! readings; `schedule` draws orders for many CPUs and packets; `threads` leaves it to the machine.
//!
//! `OCTROI_TEST_LEVEL` is `quick`, `normal` or `long`. `OCTROI_TEST_SEED` repeats a run: the seed is
//! printed by every test that draws.

mod check;
mod edges;
mod faults;
mod interleave;
mod replay;
mod revise;
mod schedule;
mod steady;
mod threads;

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use std::{
    cell::Cell,
    time::{SystemTime, UNIX_EPOCH},
};

use dataplane_common::{
    abi::LimitPolicy,
    limit::{Rate, Times},
    limiter::{Clock, Now},
};

/// How much to try: one of three, by `OCTROI_TEST_LEVEL`.
fn level<T>(quick: T, normal: T, long: T) -> T {
    match std::env::var("OCTROI_TEST_LEVEL").as_deref() {
        Ok("quick") => quick,
        Ok("long") => long,
        _ => normal,
    }
}

/// The seed of this run.
fn seed() -> u64 {
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

/// Tries a property on `cases` values of `strategy`, and says how many there were of `what`.
fn for_all<S: proptest::strategy::Strategy>(
    what: &str,
    cases: u32,
    strategy: &S,
    property: impl Fn(S::Value) -> Result<(), String>,
) {
    let seed = seed();
    println!("SEED: OCTROI_TEST_SEED={seed}");
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(strategy, |value| {
        property(value).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    println!("CASES: limiter {what}: {cases}");
}

/// Numbers for what is not worth shrinking: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone)]
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

    /// True once in `times`.
    fn once_in(&mut self, times: u64) -> bool {
        self.up_to(times - 1) == 0
    }
}

/// A limit that begins with its clock at 0 and an empty queue at `now_ns`.
fn limit(rate: Rate, burst: u64, coarse_slack_ns: u64, now_ns: u64) -> LimitPolicy {
    LimitPolicy::begin(
        rate,
        burst,
        0,
        &Times {
            now_ns,
            switch_ns: now_ns,
            coarse_slack_ns,
        },
    )
}

/// A limit's clock that one thread uses.
#[derive(Default)]
struct Alone(Cell<u64>);

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

/// A time that the test sets, and how far the coarse clock lags now.
#[derive(Default)]
struct Time {
    now_ns: Cell<u64>,
    lag_ns: Cell<u64>,
}

impl Time {
    fn at(now_ns: u64) -> Self {
        Self {
            now_ns: Cell::new(now_ns),
            lag_ns: Cell::new(0),
        }
    }
}

impl Now for Time {
    fn coarse_ns(&self) -> u64 {
        self.now_ns.get() - self.lag_ns.get()
    }

    fn exact_ns(&self) -> u64 {
        self.now_ns.get()
    }
}
