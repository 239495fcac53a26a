//! Every order in which a few CPUs can go through the limiter.
//!
//! Each choice of who does the next step, and of how far the coarse clock lags when it is read, is
//! tried: a depth-first search over [`replay::World`]. What no order breaks here, no memory model
//! breaks on the machine: the limiter shares one word, and its steps on it are atomic.

use crate::{
    check::Asked,
    level, limit,
    replay::{Cpu, Job, World},
};
use dataplane_common::{abi::LimitPolicy, limit::Rate};

/// One unit per ns.
const RATE: Rate = Rate {
    units: 1,
    period_ns: 1,
};
const BURST: u64 = 160;
const START_NS: u64 = 10_000;

/// What the search found over all orders.
#[derive(Debug, Default)]
struct Found {
    orders: u64,
    passed: u64,
    refused: u64,
    contended: u64,
    added: u64,
}

struct Search<'a> {
    policy: &'a LimitPolicy,
    jobs: &'a [&'a [Job]],
    step_ns: u64,
    slack_ns: u64,
    found: Found,
}

impl Search<'_> {
    /// Goes on from a state: `begun` are the jobs that each CPU has begun.
    fn explore<const TRIES: u32>(&mut self, world: &World<TRIES>, cpus: &[Cpu], begun: &[usize]) {
        let mut ended = true;
        for (index, cpu) in cpus.iter().enumerate() {
            let mut cpu = cpu.clone();
            let mut begun = begun.to_vec();
            if cpu.idle() {
                let Some(job) = self.jobs[index].get(begun[index]) else {
                    continue;
                };
                cpu.begin(self.policy, *job);
                begun[index] += 1;
            }
            ended = false;
            for lag_ns in [0, self.slack_ns] {
                let (mut world, mut cpu) = (world.clone(), cpu.clone());
                world.now_ns += self.step_ns;
                let lag_matters = world.step(&mut cpu, lag_ns) && self.slack_ns != 0;
                let mut cpus = cpus.to_vec();
                cpus[index] = cpu;
                self.explore(&world, &cpus, &begun);
                if !lag_matters {
                    break;
                }
            }
        }
        if ended {
            self.judge(world, cpus.len() as u64);
        }
    }

    fn judge<const TRIES: u32>(&mut self, world: &World<TRIES>, cpus: u64) {
        self.found.orders += 1;
        self.found.passed += world.journal.passed.len() as u64;
        self.found.refused += world.journal.refused.len() as u64;
        self.found.contended += world.contended;
        self.found.added += world.added;
        let asked = Asked {
            rate: RATE,
            burst: BURST,
        };
        let mut jobs = self.jobs.iter().flat_map(|jobs| jobs.iter());
        let between = if jobs.any(|job| matches!(job, Job::SendFat(_))) {
            self.policy.horizon - self.policy.horizon_fat()
        } else {
            0
        };
        let journal = &world.journal;
        if let Err(error) = journal.check_classes(&asked, cpus, world.phantoms, between) {
            panic!("{error}\n{world:?}");
        }
    }
}

/// Tries all orders of `jobs` on queues from empty to overfull, with slow and fast steps.
fn all_orders<const TRIES: u32>(jobs: &[&[Job]], found: &mut Found) {
    for slack_ns in [0, 10] {
        let policy = limit(RATE, BURST, slack_ns, 0);
        assert_eq!(policy.slack != 0, slack_ns != 0);
        let line = policy.line(START_NS);
        for clock in [
            line - 1_000,
            line + policy.horizon - 100,
            line + policy.horizon_fat() + 1,
            line + policy.horizon,
            line + policy.horizon + 1,
        ] {
            for &step_ns in level(&[50][..], &[1, 50], &[1, 15, 50, 150]) {
                let mut search = Search {
                    policy: &policy,
                    jobs,
                    step_ns,
                    slack_ns,
                    found: Found::default(),
                };
                let cpus = vec![Cpu::default(); jobs.len()];
                let world = World::<TRIES>::new(clock, START_NS);
                search.explore(&world, &cpus, &vec![0; jobs.len()]);
                found.orders += search.found.orders;
                found.passed += search.found.passed;
                found.refused += search.found.refused;
                found.contended += search.found.contended;
                found.added += search.found.added;
            }
        }
    }
}

#[test]
fn no_order_of_steps_breaks_the_bounds() {
    const SEND: Job = Job::Send(70);
    const SMALL: Job = Job::Send(20);
    let mut found = Found::default();
    all_orders::<8>(&[&[SEND], &[SMALL], &[SEND]], &mut found);
    all_orders::<8>(&[&[SEND, SMALL], &[SMALL, SEND]], &mut found);
    if level(false, false, true) {
        all_orders::<8>(&[&[SEND, SMALL], &[SMALL], &[SEND]], &mut found);
        all_orders::<8>(&[&[SEND, SMALL, SEND], &[SEND, SEND, SMALL]], &mut found);
    }
    println!("{found:?}");
    println!(
        "CASES: limiter orders of steps, all tried: {}",
        found.orders
    );
    assert!(found.passed > 0 && found.refused > 0 && found.contended == 0);
}

/// With one try instead of eight, three CPUs are enough to reach what follows the last one.
#[test]
fn no_order_breaks_the_bounds_after_the_last_try() {
    const SEND: Job = Job::Send(70);
    let mut found = Found::default();
    all_orders::<1>(&[&[SEND], &[SEND], &[SEND]], &mut found);
    all_orders::<1>(&[&[SEND], &[SEND], &[Job::Send(20), SEND]], &mut found);
    all_orders::<1>(&[&[SEND, SEND], &[SEND, SEND]], &mut found);
    all_orders::<2>(&[&[SEND], &[SEND], &[Job::Send(20)]], &mut found);
    if level(false, false, true) {
        all_orders::<1>(&[&[SEND, SEND], &[SEND], &[SEND]], &mut found);
    }
    println!("{found:?}");
    println!(
        "CASES: limiter orders of steps, all tried: {}",
        found.orders
    );
    assert!(found.contended > 0 && found.added > 0);
}

#[test]
fn a_packet_that_is_given_back_counts_for_its_own_cpu_alone() {
    const SEND: Job = Job::Send(70);
    let mut found = Found::default();
    all_orders::<8>(&[&[Job::SendAndGiveBack(70)], &[SEND], &[SEND]], &mut found);
    all_orders::<8>(
        &[&[Job::SendAndGiveBack(70), SEND], &[SEND, SEND]],
        &mut found,
    );
    println!("{found:?}");
    println!(
        "CASES: limiter orders of steps, all tried: {}",
        found.orders
    );
}

#[test]
fn thin_and_fat_packets_keep_the_same_bounds() {
    const FAT: Job = Job::SendFat(70);
    const THIN: Job = Job::Send(20);
    let mut found = Found::default();
    all_orders::<8>(&[&[FAT], &[THIN], &[FAT]], &mut found);
    all_orders::<8>(&[&[FAT, THIN], &[THIN, FAT]], &mut found);
    all_orders::<1>(&[&[FAT], &[THIN], &[FAT]], &mut found);
    println!("{found:?}");
    println!(
        "CASES: limiter orders of steps, all tried: {}",
        found.orders
    );
    assert!(found.passed > 0 && found.refused > 0);
}
