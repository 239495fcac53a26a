//! The host: kernel, clock and disk, and a daemon on it that does what octroi's does, with the same parts
//! (`Pace`, `Writer`). It may die at any point, and so may the host.

use super::{
    auditor::{Auditor, Cut as SealedCut, Over},
    clock::Clock,
    dice::Dice,
    disk::{self, Trouble},
    kernel::{Kernel, Mutation, Totals},
};
use metering::{
    ledger::{Anchor, Checkpoint, CheckpointOwner, Committed, Done, Job, Writer},
    meter::{CHECKPOINT_NS, Cut, Epoch, Next, Owner, Pace, Time},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

pub const SECOND_NS: u64 = 1_000_000_000;
pub const MACHINE: &str = "machine";

/// The daemon is gone, at whatever point it was.
pub struct Killed;

/// The daemon: what `src/daemon/meter.rs` and the gate keep in memory.
pub struct Daemon {
    pub pace: Pace,
    writer: Writer,
    job: Option<Job>,
    done: VecDeque<Done>,
    /// Owners whose last window is committed, as this daemon knows.
    settled: BTreeSet<u64>,
}

pub struct World {
    pub dice: Dice,
    pub clock: Clock,
    pub kernel: Kernel,
    pub daemon: Option<Daemon>,
    dir: Dir,
    pub path: PathBuf,
    pub auditor: Auditor,
    /// What the kernel should remember of the ledger.
    pub anchor: Anchor,
    pub window_ns: u64,
    /// Map generations so far, and boots.
    made: u8,
    boots: u8,
    /// The daemon dies after so many points.
    pub kill_in: Option<u64>,
    /// The ledger takes its time.
    pub slow: bool,
    /// Since when nothing holds the meter up, CLOCK_BOOTTIME ns; `None`: something does.
    pub calm_since_ns: Option<u64>,
    pub counts: BTreeMap<&'static str, u64>,
}

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let shm = Path::new("/dev/shm");
        let base = if shm.is_dir() {
            shm.to_owned()
        } else {
            std::env::temp_dir()
        };
        // Causes name the file: a name of another length would be another run.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, next) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = base.join(format!("octroi-simulation-{process:010}-{next:010}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory for the simulation");
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl World {
    pub fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        disk::install();
        disk::forget();
        let mut dice = Dice::new(seed);
        let dir = Dir::new();
        let path = dir.0.join("ledger.db");
        let window_ns = [1, 2, 5, 10, 60][dice.index(5)] * SECOND_NS;
        let mut world = Self {
            clock: Clock::new(),
            kernel: Kernel::new(([1; 16], [101; 16]), dice.below(3), mutation),
            dice,
            daemon: None,
            dir,
            path,
            auditor: Auditor::new(window_ns),
            anchor: Anchor::default(),
            window_ns,
            made: 1,
            boots: 1,
            kill_in: None,
            slow: false,
            calm_since_ns: None,
            counts: BTreeMap::new(),
        };
        world.repair();
        for number in 0..3 {
            world.come(&format!("port-{number}"), 1 + number % 2);
        }
        world.start();
        world
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn dir(&self) -> &Path {
        &self.dir.0
    }

    /// A daemon starts, with whatever is there.
    pub fn start(&mut self) {
        let (boot_id, map_generation) = self.kernel.epoch;
        let epoch = Epoch {
            host: "host".into(),
            boot_id,
            map_generation,
        };
        let remembered = self.kernel.anchor;
        let mut pace = Pace::new(self.window_ns, &self.clock.now());
        // It puts a policy in force, and that cuts.
        pace.want();
        self.daemon = Some(Daemon {
            pace,
            writer: Writer::new(self.path.clone(), epoch, MACHINE.into(), remembered),
            job: None,
            done: VecDeque::new(),
            settled: BTreeSet::new(),
        });
        self.calm();
    }

    /// From now on nothing holds the meter up, unless something does.
    pub fn calm(&mut self) {
        let calm = self.daemon.is_some() && !self.slow && !disk::is_broken();
        self.calm_since_ns = calm.then_some(self.clock.now().boot_ns);
    }

    /// The disk works again.
    pub fn repair(&mut self) {
        disk::heal();
        if self.kernel.mutation == Some(Mutation::Unsynced) {
            disk::break_it(0, Trouble::Lying);
        }
        self.calm();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        disk::break_it(0, Trouble::Dead);
        self.daemon = None;
        self.kill_in = None;
        self.repair();
        self.calm_since_ns = None;
    }

    /// The power goes, and comes back; the host has other registers then, and none of the old.
    pub fn power_cut(&mut self) {
        let (died, calm) = (self.clock.now(), self.calm_since_ns);
        self.kill();
        disk::power_cut(&self.dir.0, &mut self.dice);
        self.over(&died, calm);
        self.boots += 1;
        let off_ns = SECOND_NS + self.dice.below(100 * SECOND_NS);
        self.clock.boot(off_ns);
        self.new_maps();
    }

    /// The pins are gone, and with them the registers.
    pub fn reset(&mut self) {
        let (died, calm) = (self.clock.now(), self.calm_since_ns);
        self.kill();
        self.over(&died, calm);
        self.new_maps();
    }

    fn over(&mut self, died: &Time, calm_since_ns: Option<u64>) {
        let truth = std::mem::take(&mut self.kernel.truth);
        // Ten seconds, a turn that comes a second late, and one that was under way.
        let most = CHECKPOINT_NS + 3 * SECOND_NS;
        let calm = calm_since_ns.is_some_and(|since| died.boot_ns - since > 2 * most);
        let over = Over {
            truth,
            died_boot_ns: died.boot_ns,
            set_back_boot_ns: self.clock.set_back_boot_ns,
            unseen_ns_max: calm.then_some(most),
        };
        self.auditor.over(self.kernel.epoch, over);
    }

    fn new_maps(&mut self) {
        self.made += 1;
        self.anchor = Anchor::default();
        let ports = self
            .kernel
            .live()
            .into_iter()
            .filter_map(|slot| self.kernel.go(slot));
        let ports: Vec<_> = ports.collect();
        let epoch = ([self.boots; 16], [100 + self.made; 16]);
        let packets = self.kernel.packets;
        self.kernel = Kernel::new(epoch, self.dice.below(3), self.kernel.mutation);
        self.kernel.packets = packets;
        for (name, tenant) in ports {
            self.come(&name, tenant);
        }
    }

    pub fn come(&mut self, name: &str, tenant: u32) {
        let settled = self.daemon.as_ref().map(|daemon| daemon.settled.clone());
        let settled = |incarnation| {
            settled
                .as_ref()
                .is_some_and(|all| all.contains(&incarnation))
        };
        self.kernel
            .come(name, tenant, &self.clock, &mut self.dice, settled);
        self.auditor.people(self.kernel.epoch, &self.kernel.people);
    }

    /// Time passes between any two steps, packets pass, and the daemon may die there.
    fn point(&mut self, late: bool) -> Result<(), Killed> {
        self.clock.pass(self.dice.next() % 200_000);
        self.kernel.traffic(&self.clock, &mut self.dice, late);
        match &mut self.kill_in {
            Some(0) => {
                self.count("kills at a step");
                Err(Killed)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// As `Gate::seal`.
    fn seal(&mut self) -> Result<(u64, Vec<Owner>, Totals), Killed> {
        self.point(false)?;
        let slots = self.owned();
        let window = self.kernel.window;
        let other = self.kernel.bank(window + 1);
        self.point(false)?;
        self.kernel.publish();
        self.point(true)?;
        let sealed = self.kernel.barrier();
        if self.kernel.mutation == Some(Mutation::Late) {
            self.kernel.traffic(&self.clock, &mut self.dice, true);
        }
        self.point(false)?;
        let bank = self.kernel.bank(window);
        self.point(false)?;
        let owners = slots.into_iter();
        let owners = owners.filter_map(|slot| self.kernel.owner(slot, &other, &bank));
        Ok((window, owners.collect(), sealed))
    }

    fn owned(&self) -> Vec<usize> {
        let daemon = self.daemon.as_ref();
        daemon.map_or_else(Vec::new, |daemon| self.kernel.owned(&daemon.settled))
    }

    /// As `Meter::cut`.
    fn cut(&mut self, nominal_ns: Option<i64>) -> Result<(), Killed> {
        let time = self.clock.now();
        let (window, owners, sealed) = self.seal()?;
        let members = owners.iter().map(|owner| owner.incarnation).collect();
        self.auditor.sealed(
            self.kernel.epoch,
            window,
            SealedCut {
                truth: sealed,
                members,
                time,
                nominal_ns,
            },
        );
        let cut = Cut {
            window,
            revision: self.kernel.revision,
            time,
            nominal_ns,
            window_ns: self.window_ns,
            clock: self.clock.state(),
            owners,
            ..Cut::default()
        };
        self.hand_over(Job::Cut(Box::new(cut)), &time);
        self.count("cuts");
        self.point(false)
    }

    /// As `Meter::checkpoint`.
    fn checkpoint(&mut self) -> Result<(), Killed> {
        let time = self.clock.now();
        let low = self.kernel.truth.clone();
        let mut owners = Vec::new();
        for slot in self.owned() {
            self.point(false)?;
            let (even, odd) = (self.kernel.bank(0), self.kernel.bank(1));
            let ceilings = self.kernel.slots[slot].as_ref().map(|port| port.ceilings);
            let Some(owner) = self.kernel.owner(slot, &even, &odd) else {
                continue;
            };
            owners.push(CheckpointOwner {
                incarnation: owner.incarnation,
                name: owner.name,
                tenant: owner.tenant,
                since_ns: owner.since_ns,
                directions: owner.directions.unwrap_or_default(),
                ceilings: ceilings.unwrap_or_default(),
            });
        }
        let high = self.kernel.truth.clone();
        self.auditor
            .noted(self.kernel.epoch, time.boot_ns, low, high);
        let checkpoint = Checkpoint {
            window: self.kernel.window,
            revision: self.kernel.revision,
            time,
            owners,
        };
        self.hand_over(Job::Checkpoint(Box::new(checkpoint)), &time);
        self.count("checkpoints");
        self.point(false)
    }

    fn hand_over(&mut self, job: Job, time: &Time) {
        if let Some(daemon) = &mut self.daemon {
            assert!(
                daemon.job.is_none() && !daemon.pace.is_busy(),
                "one job at a time"
            );
            daemon.job = Some(job);
            daemon.pace.handed_over(time);
        }
    }

    /// The ledger's thread does what it has to.
    fn write(&mut self) -> Result<(), Killed> {
        let Some(job) = self.daemon.as_mut().and_then(|daemon| daemon.job.take()) else {
            return Ok(());
        };
        self.point(false)?;
        let now = self.clock.now();
        let drops = self.kernel.mutation == Some(Mutation::Dropped) && self.dice.one_in(4);
        let Some(daemon) = &mut self.daemon else {
            return Ok(());
        };
        if drops && let Job::Cut(cut) = &job {
            let (window, anchor) = (cut.window, self.kernel.anchor);
            daemon.done.push_back(Done::Committed(Committed {
                window,
                anchor,
                ..Committed::default()
            }));
        } else {
            let done = &mut daemon.done;
            daemon.writer.work(job, now, |told| done.push_back(told));
        }
        if disk::has_died() {
            self.count("kills at a disk operation");
            return Err(Killed);
        }
        let told: Vec<Done> = daemon.done.iter().cloned().collect();
        for done in &told {
            self.told(done);
        }
        self.audit();
        self.point(false)
    }

    fn told(&mut self, done: &Done) {
        match done {
            Done::Begun {
                superseded,
                recovered,
                anchor,
            } => {
                if superseded.is_some() {
                    self.count("ledgers superseded");
                }
                if recovered.is_some() {
                    self.count("epochs closed");
                }
                self.auditor.begun(anchor, superseded.is_some());
            }
            Done::Committed(committed) => {
                self.count("commits");
                self.auditor.committed(self.kernel.epoch, committed);
            }
            Done::Failed(why) => {
                self.count("jobs that the disk refused");
                let path = self.path.display().to_string();
                assert!(why.contains(&path) && !why.contains('\n'), "{why}");
                assert!(disk::has_failed() || why.contains("replaced"), "{why}");
            }
            Done::Noted | Done::Retained(_) => {}
        }
    }

    /// Reads what is new, though the disk may be broken.
    pub fn audit(&mut self) {
        let (path, auditor) = (&self.path, &mut self.auditor);
        disk::spare(|| {
            if path.exists() {
                auditor.read(path);
            }
        });
    }

    /// As `Meter::hear`.
    fn hear(&mut self) -> Result<(), Killed> {
        while let Some(done) = self
            .daemon
            .as_mut()
            .and_then(|daemon| daemon.done.pop_front())
        {
            self.point(false)?;
            if let (Some(daemon), Some(durable)) = (&mut self.daemon, done.ends()) {
                daemon.pace.ended(durable);
            }
            match done {
                Done::Begun { anchor, .. } => self.set_anchor(anchor),
                Done::Committed(committed) => {
                    for incarnation in committed.closed {
                        if let Some(daemon) = &mut self.daemon {
                            daemon.settled.insert(incarnation);
                        }
                        self.point(false)?;
                    }
                    self.set_anchor(committed.anchor);
                }
                Done::Failed(_) | Done::Noted | Done::Retained(_) => {}
            }
        }
        Ok(())
    }

    fn set_anchor(&mut self, anchor: Anchor) {
        self.anchor = anchor;
        if self.kernel.mutation != Some(Mutation::Forgotten) {
            self.kernel.anchor = anchor;
        }
    }

    /// As `Meter::turn`.
    pub fn turn(&mut self) -> Result<(), Killed> {
        self.hear()?;
        let now = self.clock.now();
        let Some(daemon) = &mut self.daemon else {
            return Ok(());
        };
        match daemon.pace.turn(&now) {
            Next::Cut { nominal_ns } => self.cut(nominal_ns)?,
            Next::Checkpoint => self.checkpoint()?,
            Next::Wait => {}
        }
        if self.slow && !self.dice.one_in(12) {
            return Ok(());
        }
        self.write()
    }

    /// Until nothing is under way, or the daemon is gone.
    pub fn settle(&mut self) -> Result<(), Killed> {
        for _ in 0..4 {
            self.write()?;
            self.hear()?;
        }
        Ok(())
    }
}
