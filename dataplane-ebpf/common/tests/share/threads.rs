//! Many threads on the same words, in the order that the machine chooses.

use crate::{level, world};
use dataplane_common::{
    abi::share::{ShareClocks, ShareLine, SharePace, SharePolicy, UplinkPolicy, UplinkShare},
    limit::Times,
    share::{
        self, Link, Paid,
        ask::{Ask, guarantee_burst},
    },
    units::BitsPerSecond,
};
use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};
use zerocopy::{FromBytes as _, IntoBytes as _};

const BYTES: u64 = 1_500;
const THREADS: usize = 4;
const CAPACITY: u64 = 1_000_000_000;

struct Words {
    counts: [AtomicU64; 6],
    lines: [[AtomicU64; size_of::<ShareLine>() / 8]; 4],
    due: [AtomicU64; UplinkShare::SLICES as usize],
}

impl Default for Words {
    fn default() -> Self {
        Self {
            counts: Default::default(),
            lines: Default::default(),
            due: std::array::from_fn(|_| AtomicU64::default()),
        }
    }
}

impl<'a> Link for &'a Words {
    type Word = &'a AtomicU64;

    fn state(&self) -> &'a AtomicU64 {
        &self.counts[0]
    }

    fn guaranteed(&self) -> &'a AtomicU64 {
        &self.counts[1]
    }

    fn borrowed(&self) -> &'a AtomicU64 {
        &self.counts[2]
    }

    fn refused(&self) -> &'a AtomicU64 {
        &self.counts[3]
    }

    fn limited(&self) -> &'a AtomicU64 {
        &self.counts[4]
    }

    fn early(&self) -> &'a AtomicU64 {
        &self.counts[5]
    }

    fn due(&self, at: u64) -> &'a AtomicU64 {
        &self.due[at as usize]
    }

    fn pace(&self, at: u64) -> SharePace {
        self.counts(at).pace
    }

    fn counts(&self, at: u64) -> ShareLine {
        let words = self.lines[at as usize]
            .each_ref()
            .map(|word| word.load(SeqCst));
        ShareLine::read_from_bytes(words.as_bytes()).expect("of its size")
    }

    fn began_ns(&self, at: u64) -> u64 {
        self.lines[at as usize][0].load(SeqCst)
    }

    fn set_carried(&self, at: u64, carried: u64) {
        self.write(at, CARRIED, carried.as_bytes());
    }

    fn set_pace(&self, at: u64, pace: &SharePace) {
        self.write(at, 0, &pace.as_bytes()[..8 * CARRIED]);
        self.write(at, CARRIED + 1, &pace.as_bytes()[8 * CARRIED + 8..]);
    }

    fn set_counts(&self, at: u64, line: &ShareLine) {
        let pace = size_of::<SharePace>();
        self.write(at, pace / 8, &line.as_bytes()[pace..]);
    }
}

/// The word of [`SharePace::carried`].
const CARRIED: usize = core::mem::offset_of!(SharePace, carried) / 8;

impl Words {
    fn write(&self, at: u64, first: usize, bytes: &[u8]) {
        let words = self.lines[at as usize][first..].iter();
        for (word, bytes) in words.zip(bytes.chunks_exact(8)) {
            let value = bytes.try_into().map(u64::from_ne_bytes).expect("eight");
            word.store(value, SeqCst);
        }
    }
}

#[test]
fn threads_share_a_link_within_its_bounds() {
    let uplink = UplinkPolicy::new(BitsPerSecond(CAPACITY), (0, 0), 2);
    let zero = Instant::now();
    let now = move || 1_000_000_000 + zero.elapsed().as_nanos() as u64;
    let times = Times {
        now_ns: now(),
        switch_ns: now(),
        coarse_slack_ns: 0,
    };
    let guarantee = BitsPerSecond(CAPACITY / 4);
    let policies = [Some(guarantee), None].map(|guarantee| {
        let ask = Ask {
            guarantee,
            ceiling: None,
            weight: 1,
            uplink: 0,
            horizon_ns: 0,
            price: 0,
        };
        SharePolicy::new(&ask, None, &ShareClocks::default(), &times)
    });
    let words = Words::default();
    let clocks: [[AtomicU64; 5]; 2] = Default::default();
    let time = Duration::from_millis(level(100, 400, 5_000));
    let begun = now();
    // By thread: what the guarantee paid, and what was borrowed.
    let passed: Vec<[u64; 2]> = thread::scope(|scope| {
        let send = |which: usize| {
            let (words, policy) = (&words, &policies[which]);
            let clocks = world::clocks(&clocks[which]);
            let mut passed = [0, 0];
            while zero.elapsed() < time {
                let now_ns = now();
                share::renew(&uplink, &words, now_ns);
                match share::take((policy, &clocks), (&uplink, &words), now_ns, (1, BYTES)) {
                    Ok(Paid::Guarantee) => passed[0] += BYTES,
                    Ok(Paid::Borrowed) => passed[1] += BYTES,
                    Err(_) => {}
                }
            }
            passed
        };
        let threads: Vec<_> = (0..THREADS)
            .map(|at| scope.spawn(move || send(at % 2)))
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended.map(|passed| passed.expect("no panic")).collect()
    });
    let elapsed = now() - begun;
    let sum = |paid: usize| passed.iter().map(|passed| passed[paid]).sum::<u64>();
    let [guaranteed, borrowed] = [sum(0), sum(1)];
    assert_eq!(
        words.counts[1].load(SeqCst),
        guaranteed,
        "each counted once"
    );
    assert_eq!(words.counts[2].load(SeqCst), borrowed, "each counted once");
    assert_eq!(
        words.counts[0].load(SeqCst) % 2,
        0,
        "no period is left half made"
    );
    let packets = THREADS as u64 * BYTES;
    let most = elapsed / 32 + guarantee_burst(guarantee, 0) + packets;
    assert!(guaranteed <= most, "{guaranteed} of {most} guaranteed");
    let most = uplink.carries(elapsed + uplink.period_ns)
        + uplink.stop
        + guarantee_burst(guarantee, 0)
        + packets;
    let all = guaranteed + borrowed;
    assert!(all <= most, "{all} of {most} on the link");
    println!(
        "CASES: share threads: {THREADS} for {time:?}: {guaranteed} guaranteed of {}, {all} of {} bytes, {} periods",
        elapsed / 32,
        elapsed / 8,
        words.counts[0].load(SeqCst) / 2
    );
}
