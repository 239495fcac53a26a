//! The proof of the limiter, as far as tests can be one.
//!
//! | promise | where |
//! | --- | --- |
//! | over every interval: accepted ≤ rate · t + burst + one packet | `interleave`, `schedule`, `steady`, `threads` |
//! | between two refusals: accepted ≥ rate · t − one packet | the same |
//! | rate error ≤ 0.5 % over max(5 s, 400 packet times) | `steady` |
//! | no packet larger than the burst is black-holed | `edges` |
//! | a new rate forgives nothing and invents nothing | `revise` |
//! | the class of a packet is asked for only where it matters | `classed` |
//! | with a price of a packet all of that holds of priced bytes, also while the price changes | `price` |
//! | the arithmetic is exact, at any distance in time | `edges` |
//! | the two faults that others' limiters had | `faults` |
//!
//! `interleave` tries *every* order in which a few CPUs can do the limiter's loads, swaps and clock
//! readings; `schedule` draws orders for many CPUs and packets; `threads` leaves it to the machine.
//!
//! `OCTROI_TEST_LEVEL` is `quick`, `normal` or `long`. `OCTROI_TEST_SEED` repeats a run: the seed is
//! printed by every test that draws.

mod check;
mod classed;
mod edges;
mod faults;
#[path = "../harness/mod.rs"]
mod harness;
mod interleave;
mod price;
mod replay;
mod revise;
mod schedule;
mod steady;
mod threads;

use harness::{Alone, Draw, level, seed};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use std::cell::Cell;

use dataplane_common::{
    abi::LimitPolicy,
    limit::{Rate, Times},
    limiter::Now,
};

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
