//! The budget's law on the host: every order of two CPUs' steps, threads, periods that end, and what is late.

use dataplane_common::{
    abi::{LimitPolicy, quota::QuotaPolicy},
    limit::{Rate, Times},
    limiter::{At, Clock},
    quota::{Counts, Packet, Spent},
    units::BitsPerSecond,
};
use std::{
    cell::{Cell, RefCell},
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
};

/// A tenant's words, which threads share.
#[derive(Default)]
struct Words([AtomicU64; 6]);

impl<'w> Counts for &'w Words {
    type Word = &'w AtomicU64;

    fn within(&self, bank: u32) -> Self::Word {
        &self.0[bank as usize]
    }

    fn beyond(&self, bank: u32) -> Self::Word {
        &self.0[2 + bank as usize]
    }

    fn clock(&self, direction: u32) -> Self::Word {
        &self.0[4 + direction as usize]
    }
}

impl Words {
    fn sum(&self, first: usize) -> u64 {
        self.0[first].load(SeqCst) + self.0[first + 1].load(SeqCst)
    }
}

fn budget(threshold: u64) -> QuotaPolicy {
    QuotaPolicy {
        threshold,
        budget: threshold,
        zones: u64::MAX,
        directions: QuotaPolicy::FROM | QuotaPolicy::TO,
        ..QuotaPolicy::default()
    }
}

fn packet(l2_bytes: u64, bank: u32, direction: u32) -> Packet {
    Packet {
        l2_bytes,
        bank,
        direction,
    }
}

#[test]
fn a_budget_ends_with_the_packet_that_finds_some_of_it() {
    let words = Words::default();
    let policy = budget(1_000);
    let take = |bytes| policy.take(&&words, &At(1), packet(bytes, 0, 0));
    assert_eq!(take(999), Spent::Within);
    assert_eq!(take(1_514), Spent::Within);
    assert_eq!((take(60), take(60)), (Spent::Refused, Spent::Refused));
    assert_eq!((words.sum(0), words.sum(2)), (2_513, 0));
    // Raised: what was had is still had.
    let raised = budget(2_514);
    let take = |bytes| raised.take(&&words, &At(1), packet(bytes, 1, 1));
    assert_eq!((take(60), take(60)), (Spent::Within, Spent::Refused));
    assert_eq!(words.sum(0), 2_573);
    println!("CASES: a budget's end: 6");
}

#[test]
fn what_is_beyond_passes_at_the_slower_rate_and_is_counted() {
    let words = Words::default();
    let times = Times::default();
    let slow = LimitPolicy::begin(Rate::bytes(BitsPerSecond(8_000)), 3_000, 0, &times);
    let mut policy = budget(0);
    policy.then = [slow, LimitPolicy::default()];
    // A second has 1,000 bytes; the burst is 3,000.
    let mut passed = [0_u64; 2];
    for second in 0..100 {
        for _ in 0..10 {
            let now = At(second * 1_000_000_000);
            for direction in [0, 1] {
                let packet = packet(500, second as u32 & 1, direction);
                match policy.take(&&words, &now, packet) {
                    Spent::Beyond => passed[direction as usize] += 500,
                    Spent::Refused => {}
                    Spent::Within => panic!("there is no budget"),
                }
            }
        }
    }
    // Nothing passes in the direction that has no rate.
    assert_eq!((words.sum(0), words.sum(2), passed[1]), (0, passed[0], 0));
    assert!(
        (99_000..=99_000 + 3_000 + 500).contains(&passed[0]),
        "{passed:?}"
    );
    println!("CASES: packets beyond a budget: 2000");
}

#[test]
fn who_should_have_written_the_next_threshold_is_away() {
    let mut policy = budget(1_000);
    policy.until_ns = 1_000_000;
    policy.period_ns = 100;
    for (now, reach) in [
        (0, 1_000),
        (999_999, 1_000),
        (1_000_000, 2_000),
        (1_000_099, 2_000),
        (1_000_100, 3_000),
        (1_000_950, 11_000),
        (u64::MAX, 1_000 + 65_536 * 1_000),
    ] {
        assert_eq!(policy.reach(now), reach, "{now}");
    }
    // Never late, a period of which nobody knows the length, and more than a count can hold.
    policy.until_ns = 0;
    assert_eq!(policy.reach(u64::MAX), 1_000);
    (policy.until_ns, policy.period_ns) = (1, 0);
    assert_eq!(policy.reach(u64::MAX), 2_000);
    (policy.period_ns, policy.budget) = (1, 1 << 62);
    assert_eq!(policy.reach(u64::MAX), u64::MAX);
    let words = Words::default();
    let mut policy = budget(1_000);
    (policy.until_ns, policy.period_ns) = (500, 100);
    let take = |now, bytes| policy.take(&&words, &At(now), packet(bytes, 0, 0));
    assert_eq!(
        (take(1, 1_000), take(499, 1)),
        (Spent::Within, Spent::Refused)
    );
    assert_eq!(
        (take(500, 1_000), take(599, 1)),
        (Spent::Within, Spent::Refused)
    );
    assert_eq!((take(600, 1), words.sum(0)), (Spent::Within, 2_001));
    println!("CASES: times after a period's end: 15");
}

/// A word on which another CPU's whole packet comes before the `n`th step.
struct Interrupted<'w> {
    words: &'w Words,
    steps: &'w Cell<u32>,
    other: &'w dyn Fn(),
}

#[derive(Clone)]
struct Word<'w> {
    word: &'w AtomicU64,
    steps: &'w Cell<u32>,
    other: &'w dyn Fn(),
}

impl Word<'_> {
    fn step(&self) {
        let left = self.steps.get();
        self.steps.set(left.wrapping_sub(1));
        if left == 0 {
            (self.other)();
        }
    }
}

impl Clock for Word<'_> {
    fn load(&self) -> u64 {
        self.step();
        self.word.load(SeqCst)
    }

    fn compare_exchange(&self, old: u64, new: u64) -> u64 {
        self.step();
        Clock::compare_exchange(&self.word, old, new)
    }

    fn fetch_add(&self, units: u64) -> u64 {
        self.step();
        self.word.fetch_add(units, SeqCst)
    }
}

impl<'w> Counts for Interrupted<'w> {
    type Word = Word<'w>;

    fn within(&self, bank: u32) -> Self::Word {
        self.word(self.words.within_of(bank))
    }

    fn beyond(&self, bank: u32) -> Self::Word {
        self.word(&self.words.0[2 + bank as usize])
    }

    fn clock(&self, direction: u32) -> Self::Word {
        self.word(&self.words.0[4 + direction as usize])
    }
}

impl<'w> Interrupted<'w> {
    fn word(&self, word: &'w AtomicU64) -> Word<'w> {
        Word {
            word,
            steps: self.steps,
            other: self.other,
        }
    }
}

impl Words {
    fn within_of(&self, bank: u32) -> &AtomicU64 {
        &self.0[bank as usize]
    }
}

#[test]
fn two_cpus_in_every_order_pass_one_packet_over_the_end_and_count_what_passed() {
    let mut cases = 0;
    // Before, at and after the budget's end; both in one bank, and in two, as while a window is cut.
    for had in [0, 900, 999, 1_000] {
        for banks in [(0, 0), (0, 1), (1, 0)] {
            for steps in 0..8 {
                let words = Words::default();
                words.0[0].store(had, SeqCst);
                let policy = budget(1_000);
                let passed = RefCell::new(Vec::new());
                let other = || {
                    let spent = policy.take(&&words, &At(1), packet(70, banks.1, 1));
                    passed.borrow_mut().push((spent, 70));
                };
                let steps = Cell::new(steps);
                let interrupted = Interrupted {
                    words: &words,
                    steps: &steps,
                    other: &other,
                };
                let spent = policy.take(&interrupted, &At(1), packet(60, banks.0, 0));
                passed.borrow_mut().push((spent, 60));
                let sum: u64 = passed
                    .borrow()
                    .iter()
                    .map(|(spent, bytes)| if *spent == Spent::Within { *bytes } else { 0 })
                    .sum();
                assert_eq!(words.sum(0), had + sum, "{had} {banks:?} {passed:?}");
                // One packet; two where they are in two banks.
                let over = if banks.0 == banks.1 { 70 } else { 130 };
                assert!(words.sum(0) < 1_000 + over || had == 1_000, "{passed:?}");
                assert!(had < 1_000 || sum == 0, "{passed:?}");
                cases += 1;
            }
        }
    }
    println!("CASES: orders of two CPUs at a budget's end: {cases}");
}

#[test]
fn threads_pass_a_budget_and_one_packet() {
    const THREADS: usize = 4;
    let rounds = match std::env::var("OCTROI_TEST_LEVEL").as_deref() {
        Ok("quick") => 20,
        Ok("long") => 2_000,
        _ => 200,
    };
    for round in 0..rounds {
        let words = Words::default();
        let policy = budget(100_000 + round);
        let barrier = Barrier::new(THREADS);
        let passed: u64 = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|number| {
                    let (words, policy, barrier) = (&words, &policy, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        let mut passed = 0;
                        for at in 0..500_u64 {
                            let bytes = 60 + (at * 37 + number as u64 * 11) % 1_455;
                            let packet = packet(bytes, 0, number as u32 & 1);
                            if policy.take(&words, &At(1), packet) == Spent::Within {
                                passed += bytes;
                            }
                        }
                        passed
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .sum()
        });
        assert_eq!(words.sum(0), passed);
        let end = policy.threshold..policy.threshold + 1_514;
        assert!(end.contains(&passed), "{passed} of {}", policy.threshold);
    }
    println!("CASES: budgets that four threads spent: {rounds}");
}
