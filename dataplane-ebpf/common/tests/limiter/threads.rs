//! Real threads on one atomic word, and the machine's own clock.

use crate::{
    check::{Asked, Journal, Passed},
    level, limit,
};
use dataplane_common::{
    abi::LimitPolicy,
    limit::Rate,
    limiter::{Decision, Now},
    units::BitsPerSecond,
};
use std::{
    cell::Cell,
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

const TICK_NS: u64 = 4_000_000;
const START_NS: u64 = 2 * TICK_NS;

/// The machine's clock, and what it said last.
struct Machine {
    began: Instant,
    read_ns: Cell<u64>,
}

impl Machine {
    fn read(&self) -> u64 {
        self.read_ns
            .set(START_NS + self.began.elapsed().as_nanos() as u64);
        self.read_ns.get()
    }
}

impl Now for Machine {
    fn coarse_ns(&self) -> u64 {
        let now_ns = self.read();
        now_ns - now_ns % TICK_NS
    }

    fn exact_ns(&self) -> u64 {
        self.read()
    }
}

/// What one thread did.
struct Flood {
    passed: Vec<Passed>,
    /// When its last refusal was decided.
    refused_ns: u64,
}

fn flood(policy: &LimitPolicy, clock: &AtomicU64, began: Instant, until_ns: u64) -> Flood {
    let machine = Machine {
        began,
        read_ns: Cell::new(0),
    };
    let mut flood = Flood {
        passed: Vec::new(),
        refused_ns: 0,
    };
    let mut units = 64;
    while machine.read() < until_ns {
        units = 64 + (units * 7 + 13) % 1_450;
        match policy.take(&clock, &machine, units) {
            Decision::Pass { .. } => {
                let read_ns = machine.read_ns.get();
                flood.passed.push(Passed {
                    read_ns,
                    booked_ns: machine.read(),
                    units,
                });
            }
            Decision::Over => flood.refused_ns = machine.read_ns.get(),
            Decision::Contended => {}
        }
    }
    flood
}

/// Runs four threads against one limit; returns the packets that passed.
fn run(bits: u64, slack_ns: u64, time: Duration) -> usize {
    const THREADS: u64 = 4;
    let rate = Rate::bytes(BitsPerSecond(bits));
    let asked = Asked {
        rate,
        burst: rate.units_in(250_000_000),
    };
    let policy = limit(rate, asked.burst, slack_ns, START_NS);
    let (clock, start) = (AtomicU64::new(0), Barrier::new(THREADS as usize));
    let began = Instant::now();
    let until_ns = START_NS + time.as_nanos() as u64;
    let floods: Vec<Flood> = thread::scope(|scope| {
        let thread = || {
            start.wait();
            flood(&policy, &clock, began, until_ns)
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(thread)).collect();
        threads
            .into_iter()
            .map(|one| one.join().expect("no panic"))
            .collect()
    });
    let refused_ns = floods
        .iter()
        .map(|flood| flood.refused_ns)
        .max()
        .unwrap_or(0);
    let passed: Vec<Passed> = floods.into_iter().flat_map(|flood| flood.passed).collect();
    let accepted: u64 = passed.iter().map(|packet| packet.units).sum();
    let packets = passed.len();
    let journal = Journal {
        passed,
        refused: Vec::new(),
    };
    if let Err(error) = journal.check(&asked, THREADS, 0) {
        panic!("{bits} bit/s: {error:.300}");
    }
    // At the last refusal the queue was full: all of the line and the horizon had been given out.
    let given_out = policy.line(refused_ns).saturating_add(policy.horizon);
    println!("{bits} bit/s: {accepted} bytes, {given_out} by the last refusal");
    // More on the clock than was accepted: the machine was too busy, and the queue ran empty.
    let ran_empty = clock.load(SeqCst) != accepted;
    assert!(refused_ns != 0 || bits > 1_000_000_000, "never refused");
    assert!(
        refused_ns == 0 || ran_empty || accepted >= given_out,
        "less than the rate"
    );
    packets
}

#[test]
fn real_threads_keep_within_the_bounds() {
    let time = Duration::from_millis(level(300, 1_000, 20_000));
    let limits = [
        (1_000_000, 0),
        (100_000_000, 2 * TICK_NS),
        (1_000_000_000, 0),
        (8_000_000_000, 2 * TICK_NS),
    ];
    let packets: usize = limits
        .iter()
        .map(|(bits, slack_ns)| run(*bits, *slack_ns, time))
        .sum();
    println!("CASES: limiter packets of real threads: {packets}");
}
