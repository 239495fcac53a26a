//! Several CPUs in the limiter at once, one step at a time.
//!
//! What [`LimitPolicy::take`] does next follows from what its earlier steps returned. So a CPU in
//! the middle of a packet is just that list of answers: to find its next step, `take` runs again
//! from its beginning, is given the same answers, and the first step past them is the one. This
//! needs no thread, can be copied at any point, and runs the very code that the kernel runs.

use crate::check::{Journal, Passed, Refused};
use dataplane_common::{
    abi::LimitPolicy,
    limiter::{Clock, Decision, Now},
};
use std::cell::Cell;

/// What a CPU can do that others may see or that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Coarse,
    Exact,
    Load,
    Swap { old: u64, new: u64 },
    Add(u64),
}

enum Next {
    Step(Step),
    Done(Decision),
}

/// Plays answers back and notes the first question that has none.
struct Playback<'a, const TRIES: u32> {
    answers: &'a [u64],
    used: Cell<usize>,
    open: Cell<Option<Step>>,
}

impl<const TRIES: u32> Playback<'_, TRIES> {
    fn ask(&self, step: Step) -> u64 {
        let index = self.used.replace(self.used.get() + 1);
        self.answers.get(index).copied().unwrap_or_else(|| {
            // From here on `take` runs on noise, until its bound ends it.
            self.open.set(self.open.get().or(Some(step)));
            0
        })
    }
}

impl<const TRIES: u32> Clock for &Playback<'_, TRIES> {
    const TRIES: u32 = TRIES;

    fn load(&self) -> u64 {
        self.ask(Step::Load)
    }

    fn compare_exchange(&self, old: u64, new: u64) -> u64 {
        self.ask(Step::Swap { old, new })
    }

    fn fetch_add(&self, units: u64) -> u64 {
        self.ask(Step::Add(units))
    }
}

impl<const TRIES: u32> Now for &Playback<'_, TRIES> {
    fn coarse_ns(&self) -> u64 {
        self.ask(Step::Coarse)
    }

    fn exact_ns(&self) -> u64 {
        self.ask(Step::Exact)
    }
}

fn next<const TRIES: u32>(policy: &LimitPolicy, job: Job, answers: &[u64]) -> Next {
    let playback = Playback::<TRIES> {
        answers,
        used: Cell::new(0),
        open: Cell::new(None),
    };
    let horizon = policy.horizon_of(matches!(job, Job::SendFat(_)));
    let decision = policy.take_within(&&playback, &&playback, job.units(), horizon);
    playback.open.get().map_or(Next::Done(decision), Next::Step)
}

/// What a CPU is to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    Send(u64),
    /// The same for a packet of a fat flow, which is refused earlier.
    SendFat(u64),
    /// Another limit refuses the packet after this one has accepted it.
    SendAndGiveBack(u64),
}

impl Job {
    fn units(self) -> u64 {
        let (Self::Send(units) | Self::SendFat(units) | Self::SendAndGiveBack(units)) = self;
        units
    }
}

/// One CPU.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    /// In force when it began its job.
    policy: LimitPolicy,
    job: Option<Job>,
    answers: Vec<u64>,
    giving_back: bool,
    read_ns: u64,
    loaded: Loaded,
}

/// What was known when the limit's clock was last seen.
#[derive(Clone, Copy, Debug, Default)]
struct Loaded {
    at_ns: u64,
    booked: u64,
    busy_period: u64,
}

impl Cpu {
    pub fn idle(&self) -> bool {
        self.job.is_none()
    }

    pub fn begin(&mut self, policy: &LimitPolicy, job: Job) {
        *self = Self {
            policy: *policy,
            job: Some(job),
            ..Self::default()
        };
    }
}

/// The limit that the CPUs share.
#[derive(Clone, Debug)]
pub struct World<const TRIES: u32> {
    pub clock: u64,
    pub now_ns: u64,
    pub journal: Journal,
    /// Units that are on the clock and belong to no packet that passed.
    pub phantoms: u64,
    /// Packets that were given up because the clock was contended.
    pub contended: u64,
    /// Packets that were booked by plain addition.
    pub added: u64,
    booked: u64,
    busy_period: u64,
}

impl<const TRIES: u32> World<TRIES> {
    pub fn new(clock: u64, now_ns: u64) -> Self {
        Self {
            clock,
            now_ns,
            journal: Journal::default(),
            phantoms: 0,
            contended: 0,
            added: 0,
            booked: 0,
            busy_period: 0,
        }
    }

    /// Does the next step of `cpu`, which must have a job. The coarse clock lags by `lag_ns`.
    /// Returns whether the lag mattered.
    pub fn step(&mut self, cpu: &mut Cpu, lag_ns: u64) -> bool {
        let Some(job) = cpu.job else { return false };
        let units = job.units();
        if cpu.giving_back {
            self.clock = self.clock.wrapping_sub(units);
            cpu.job = None;
            return false;
        }
        let Next::Step(step) = next::<TRIES>(&cpu.policy, job, &cpu.answers) else {
            unreachable!("a job that is done is taken away at once")
        };
        let answer = self.answer(cpu, job, step, lag_ns);
        cpu.answers.push(answer);
        if let Next::Done(decision) = next::<TRIES>(&cpu.policy, job, &cpu.answers) {
            self.decided(cpu, job, step, decision);
        }
        step == Step::Coarse
    }

    fn answer(&mut self, cpu: &mut Cpu, job: Job, step: Step, lag_ns: u64) -> u64 {
        let loaded = Loaded {
            at_ns: self.now_ns,
            booked: self.booked,
            busy_period: self.busy_period,
        };
        match step {
            Step::Coarse => {
                cpu.read_ns = self.now_ns;
                self.now_ns - lag_ns
            }
            Step::Exact => {
                cpu.read_ns = self.now_ns;
                self.now_ns
            }
            Step::Load => {
                cpu.loaded = loaded;
                self.clock
            }
            Step::Swap { old, new } => {
                let was = self.clock;
                if was == old {
                    self.clock = new;
                    // More than the packet: the line had overtaken the clock.
                    self.busy_period += u64::from(new.wrapping_sub(old) != job.units());
                } else {
                    cpu.loaded = loaded;
                }
                was
            }
            Step::Add(units) => {
                self.added += 1;
                let was = self.clock;
                self.clock = was.wrapping_add(units);
                was
            }
        }
    }

    fn decided(&mut self, cpu: &mut Cpu, job: Job, step: Step, decision: Decision) {
        let units = job.units();
        cpu.job = None;
        match decision {
            Decision::Pass { .. } if matches!(job, Job::SendAndGiveBack(_)) => {
                self.phantoms += units;
                cpu.job = Some(job);
                cpu.giving_back = true;
            }
            Decision::Pass { .. } => {
                self.booked += units;
                let (read_ns, booked_ns) = (cpu.read_ns, self.now_ns);
                self.journal.passed.push(Passed {
                    read_ns,
                    booked_ns,
                    units,
                });
            }
            Decision::Over => {
                let Loaded {
                    at_ns,
                    booked,
                    busy_period,
                } = cpu.loaded;
                let read_ns = cpu.read_ns;
                let refused = Refused {
                    read_ns,
                    loaded_ns: at_ns,
                    booked,
                    busy_period,
                };
                self.journal.refused.push(refused);
            }
            Decision::Contended => {
                self.contended += 1;
                if matches!(step, Step::Add(_)) {
                    self.phantoms += units;
                }
            }
        }
    }
}
