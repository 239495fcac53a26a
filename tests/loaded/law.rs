//! The sharing law in the loaded programs beside the host's build of it, on traces: packet by packet, each word of the uplink and of
//! the tenant.
//!
//! The law's `now` is the kernel's, and is read from it where it can be: who begins a period writes when. Such a packet is replayed to
//! the bit. Any other one came between two times that the test knows, and each word is between what the law makes of the one and of
//! the other.

use crate::{EPOCH, dice, kernel, now_ns, place, plain_port};
use crate::{fixtures::ports::slot, kernel::Kernel, oracle::host::Way, thin::frame};
use anyhow::{Context as _, Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions};
use dataplane::{attach::Mechanism, maps::Raw};
use dataplane_common::{
    abi::{
        LimitPolicy, PortPolicy, TO_TENANT, shape,
        share::{
            ShareClocks, ShareLine, SharePace, SharePolicy, UplinkPolicy, UplinkShare,
            share_clocks_index, share_index, uplink_index, uplink_share_index,
        },
    },
    limit::{Rate, Times},
    share::{self, Clocks, Link, ask::Ask},
    units::BitsPerSecond,
};
use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

/// `TC_ACT_SHOT`.
const DROP: u32 = 2;
const OVERHEAD: u16 = 24;
const LENGTHS: [usize; 4] = [60, 590, 1_514, 1_514];
/// So slow that an emulated machine sends more than that.
const CAPACITY: BitsPerSecond = BitsPerSecond(10_000_000);
/// Guarantee, ceiling with its burst, weight.
const TENANTS: [(Option<u64>, Option<u64>, u32); 3] = [
    (Some(2_000_000), None, 1),
    (None, Some(4_000_000), 3),
    (None, None, 10),
];

/// An uplink's words, as the law wants them.
struct Words {
    words: [AtomicU64; 6],
    due: [AtomicU64; UplinkShare::SLICES as usize],
    lines: [Cell<ShareLine>; 4],
}

impl Words {
    fn of(link: &UplinkShare) -> Self {
        let words = [
            link.state,
            link.guaranteed,
            link.borrowed,
            link.refused,
            link.limited,
            link.early,
        ];
        Self {
            words: words.map(AtomicU64::new),
            due: link.due.map(AtomicU64::new),
            lines: link.lines.map(Cell::new),
        }
    }

    fn link(&self) -> UplinkShare {
        let [state, guaranteed, borrowed, refused, limited, early] =
            self.words.each_ref().map(|word| word.load(SeqCst));
        UplinkShare {
            state,
            guaranteed,
            borrowed,
            refused,
            limited,
            early,
            reserved: [0; 2],
            lines: self.lines.each_ref().map(Cell::get),
            due: self.due.each_ref().map(|word| word.load(SeqCst)),
        }
    }

    fn change(&self, at: u64, change: impl FnOnce(&mut ShareLine)) {
        let cell = &self.lines[at as usize];
        let mut line = cell.get();
        change(&mut line);
        cell.set(line);
    }
}

impl<'a> Link for &'a Words {
    type Word = &'a AtomicU64;

    fn state(&self) -> &'a AtomicU64 {
        &self.words[0]
    }

    fn guaranteed(&self) -> &'a AtomicU64 {
        &self.words[1]
    }

    fn borrowed(&self) -> &'a AtomicU64 {
        &self.words[2]
    }

    fn refused(&self) -> &'a AtomicU64 {
        &self.words[3]
    }

    fn limited(&self) -> &'a AtomicU64 {
        &self.words[4]
    }

    fn early(&self) -> &'a AtomicU64 {
        &self.words[5]
    }

    fn due(&self, at: u64) -> &'a AtomicU64 {
        &self.due[at as usize]
    }

    fn pace(&self, at: u64) -> SharePace {
        self.counts(at).pace
    }

    fn began_ns(&self, at: u64) -> u64 {
        self.pace(at).origin_ns
    }

    fn counts(&self, at: u64) -> ShareLine {
        self.lines[at as usize].get()
    }

    fn set_carried(&self, at: u64, carried: u64) {
        self.change(at, |line| line.pace.carried = carried);
    }

    fn set_pace(&self, at: u64, pace: &SharePace) {
        self.change(at, |line| {
            let carried = line.pace.carried;
            line.pace = SharePace { carried, ..*pace };
        });
    }

    fn set_counts(&self, at: u64, line: &ShareLine) {
        self.change(at, |to| {
            *to = ShareLine {
                pace: to.pace,
                ..*line
            }
        });
    }
}

/// What stands in the maps, and whether the last packet passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    link: UplinkShare,
    clocks: ShareClocks,
    passed: bool,
}

impl State {
    /// Each word of it.
    fn words(&self) -> Vec<u64> {
        let link = &self.link;
        let clocks = &self.clocks;
        let mut words = vec![
            link.state,
            link.guaranteed,
            link.borrowed,
            link.refused,
            link.limited,
            link.early,
        ];
        words.extend(link.due);
        for line in &link.lines {
            let pace = &line.pace;
            words.extend([
                pace.origin_ns,
                pace.alpha,
                pace.integral,
                pace.fraction,
                pace.reach,
                pace.carried,
                pace.pressed,
                pace.stands,
                line.guaranteed,
                line.borrowed,
                line.refused,
                line.limited,
                line.held,
            ]);
        }
        words.extend([
            clocks.ceiling,
            clocks.guarantee,
            clocks.borrowed,
            clocks.limited,
            clocks.departs,
            u64::from(self.passed),
        ]);
        words
    }

    /// Numbers of the words that are none of `a`'s and `b`'s, nor between them.
    fn apart(&self, a: &Self, b: &Self) -> Vec<(usize, u64, u64, u64)> {
        let (a, b) = (a.words(), b.words());
        (self.words().iter().zip(a.iter().zip(&b)).enumerate())
            .filter(|(_, (word, (a, b)))| !(**a.min(b)..=**a.max(b)).contains(*word))
            .map(|(at, (word, (a, b)))| (at, *word, *a, *b))
            .collect()
    }
}

struct Rig {
    kernel: Kernel,
    policy: PortPolicy,
    port: u32,
    way: Way,
    uplink: UplinkPolicy,
    shares: Vec<SharePolicy>,
}

impl Rig {
    fn new(mechanism: Mechanism, queued: bool) -> Result<Self> {
        let (plain, gate) = plain_port()?;
        let mut policy = gate.ports.get(&slot::PLAIN).context("no such port")?.policy;
        // A ceiling that is far away: flows have parts there, where nobody wants more, and none at the share, of which the law says
        // nothing.
        let far = Times {
            now_ns: now_ns(),
            switch_ns: now_ns(),
            coarse_slack_ns: 0,
        };
        let far = LimitPolicy::begin(Rate::bytes(BitsPerSecond(1 << 36)), 1 << 30, 0, &far);
        policy.set_limits(TO_TENANT, [far, LimitPolicy::default()]);
        let (set, slots) = (EPOCH.policy_set(), gate.sizes.slots);
        let port = gate.sizes.port(set, slot::PLAIN);
        let mut kernel = Kernel::load(gate, EPOCH, mechanism)?;
        let mut uplink = UplinkPolicy::new(CAPACITY, (OVERHEAD, 0), TENANTS.len() as u32);
        if queued {
            policy.shape[TO_TENANT as usize] = shape::EDT;
            uplink = uplink.queued(CAPACITY, BitsPerSecond(2_000_000));
        }
        let begun_ns = now_ns();
        let times = Times {
            now_ns: begun_ns,
            switch_ns: begun_ns,
            coarse_slack_ns: 0,
        };
        let maps = &mut kernel.maps;
        let mut shares = Vec::new();
        for (account, (guarantee, ceiling, weight)) in TENANTS.into_iter().enumerate() {
            let ask = Ask {
                guarantee: guarantee.map(BitsPerSecond),
                ceiling: ceiling.map(|bits| (BitsPerSecond(bits), 60_000)),
                weight,
                uplink: 0,
                horizon_ns: uplink.horizon_ns,
                price: 0,
            };
            let share = SharePolicy::new(&ask, None, &ShareClocks::default(), &times);
            let at = share_index(slots, set, account as u32, TO_TENANT);
            maps.shares.set(at, share)?;
            shares.push(share);
        }
        maps.uplinks
            .set(uplink_index(set, 0, TO_TENANT), Raw(uplink), 0)?;
        let way = Way {
            direction: TO_TENANT,
            ifindex: plain,
            ..Way::default()
        };
        Ok(Self {
            kernel,
            policy,
            port,
            way,
            uplink,
            shares,
        })
    }

    fn state(&self, tenant: usize, passed: bool) -> Result<State> {
        let maps = &self.kernel.maps;
        let clocks = share_clocks_index(tenant as u32, TO_TENANT);
        let link = uplink_share_index(0, TO_TENANT);
        Ok(State {
            link: maps.uplink_share.get(&link, 0)?.0,
            clocks: maps.share_clocks.get(clocks)?,
            passed,
        })
    }

    /// Sends a frame of this tenant's. Returns what stands then, and between which times it came.
    fn send(&mut self, tenant: usize, frame: &[u8]) -> Result<(State, (u64, u64))> {
        self.policy.share = 1 + tenant as u32;
        self.kernel.maps.ports.set(self.port, self.policy)?;
        let context = kernel::context(&self.way);
        let program = self.kernel.program(TO_TENANT)?;
        let from_ns = now_ns();
        let ran = program.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        })?;
        let to_ns = now_ns();
        let state = self.state(tenant, ran.return_value != DROP)?;
        Ok((state, (from_ns, to_ns)))
    }

    /// What the law makes of it, at one time.
    fn replay(&self, before: &State, tenant: usize, bytes: u64, now_ns: u64, fat: bool) -> State {
        let words = Words::of(&before.link);
        let link = &words;
        let stood = &before.clocks;
        let clocks = [
            stood.ceiling,
            stood.guarantee,
            stood.borrowed,
            stood.limited,
            stood.departs,
        ]
        .map(AtomicU64::new);
        let [ceiling, guarantee, borrowed, limited, departs] = &clocks;
        let law = Clocks {
            ceiling,
            guarantee,
            borrowed,
            limited,
            departs,
        };
        share::renew(&self.uplink, &link, now_ns);
        let taken = share::take_of(
            (&self.shares[tenant], &law),
            (&self.uplink, &link),
            now_ns,
            (1, bytes),
            fat,
        );
        let [ceiling, guarantee, borrowed, limited, departs] =
            clocks.each_ref().map(|clock| clock.load(SeqCst));
        State {
            link: words.link(),
            clocks: ShareClocks {
                ceiling,
                guarantee,
                borrowed,
                limited,
                departs,
                ..*stood
            },
            passed: taken.is_ok(),
        }
    }
}

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    frames: u64,
    /// That began a period.
    exact: u64,
    thin: u64,
    /// That were found at a time between.
    between: u64,
    refused: u64,
}

fn trace(mechanism: Mechanism, queued: bool, seed: u64) -> Result<Seen> {
    let mut rig = Rig::new(mechanism, queued)?;
    let mut dice = dice::Dice::new(0, seed);
    let mut seen = Seen::default();
    let end = Instant::now() + Duration::from_millis(dice::cases(1_000, 3_000, 20_000));
    while Instant::now() < end {
        // Bursts of one tenant's, so that lines are left behind and overrun, and pauses.
        let tenant = dice.pick(&[0, 1, 2]);
        let burst = dice.pick(&[1, 5, 40, 200]);
        for _ in 0..burst {
            let bytes = dice.pick(&LENGTHS);
            let frame = frame(6, 1_000 + tenant as u16, bytes);
            let before = rig.state(tenant, false)?;
            let (after, (from_ns, to_ns)) = rig.send(tenant, &frame)?;
            seen.frames += 1;
            seen.refused += u64::from(!after.passed);
            let began = before.link.state != after.link.state;
            let (from_ns, to_ns) = if began {
                let line = (after.link.state >> 1) % UplinkShare::LINES;
                let origin_ns = after.link.lines[line as usize].pace.origin_ns;
                ensure!((from_ns..=to_ns).contains(&origin_ns));
                (origin_ns, origin_ns)
            } else {
                (from_ns, to_ns)
            };
            seen.exact += u64::from(began);
            // Which class the frame had is another test's business (`thin`).
            let law = [true, false].map(|fat| {
                [from_ns, to_ns]
                    .map(|now_ns| rig.replay(&before, tenant, bytes as u64, now_ns, fat))
            });
            let apart = law.each_ref().map(|[a, b]| after.apart(a, b));
            seen.thin += u64::from(!apart[0].is_empty());
            if !apart.iter().any(Vec::is_empty) {
                // Decided otherwise in between than at both ends: then there is a time to the bit.
                let found = (from_ns..=to_ns).any(|now_ns| {
                    [true, false]
                        .into_iter()
                        .any(|fat| rig.replay(&before, tenant, bytes as u64, now_ns, fat) == after)
                });
                ensure!(
                    found,
                    "frame {} of {bytes} bytes, tenant {tenant}, a new period: {began}, within {} ns: words that are not the \
                     law's, fat and thin: {apart:?}",
                    seen.frames,
                    to_ns - from_ns,
                );
                seen.between += 1;
            }
        }
        std::thread::sleep(Duration::from_micros(dice.pick(&[0, 100, 2_000, 9_000])));
    }
    Ok(seen)
}

#[test]
fn the_loaded_law_is_the_hosts_on_traces() -> Result<()> {
    const TEST: &str = "the_loaded_law_is_the_hosts_on_traces";
    if !place::can_run(TEST) {
        return Ok(());
    }
    for mechanism in kernel::mechanisms() {
        for queued in [false, true] {
            let seen = place::alone(|| trace(mechanism, queued, 0))?;
            println!("CASES: loaded sharing law, {mechanism:?}, queued {queued}: {seen:?}");
            ensure!(seen.exact >= 5, "{seen:?}");
            ensure!(seen.thin * 2 < seen.frames, "{seen:?}");
            ensure!(
                seen.refused * 20 > seen.frames && seen.refused < seen.frames,
                "{seen:?}"
            );
        }
    }
    Ok(())
}
