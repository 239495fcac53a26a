//! The meter's part in the daemon: it cuts on the daemon's thread and writes on one of its own.
//!
//! Between the two are bounded queues. When the disk is slow or full, the daemon does not wait: the
//! open window grows, and the next record covers it.

use super::{
    clock,
    owed::Owed,
    reading::{alarms, owner, timeouts},
};
use crate::config::{Config, Limits};
use anyhow::Result;
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use dataplane::gate::Gate;
use dataplane_common::{
    abi,
    fault::{self, Point},
};
use metering::{
    flow::Details,
    ledger::{Anchor, Checkpoint, CheckpointOwner, Committed, Identity, Ledger},
    meter::{Cut, Epoch, Owner, State},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How often the registers are noted for the day the host crashes: so much may be unseen then.
const CHECKPOINT: Duration = Duration::from_secs(10);
/// How long a daemon that ends waits for its last window to be durable.
const FAREWELL: Duration = Duration::from_secs(10);

enum Job {
    Cut(Box<Cut>),
    Checkpoint(Box<Checkpoint>),
}

enum Done {
    /// Another ledger was begun, or records were written for registers that are gone.
    Begun(Option<String>, Option<Committed>, Anchor),
    Committed(Committed),
    Failed(String),
    Noted,
}

/// What `status` says of the meter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterStatus {
    /// The ledger's file.
    pub ledger: PathBuf,
    /// Its id, in hexadecimal digits; empty while it could not be opened.
    pub ledger_id: String,
    /// Records in it.
    pub records: u64,
    /// The window that was last committed.
    pub committed_window: Option<u64>,
    /// Windows that this daemon committed.
    pub windows: u64,
    /// Why the last window is not committed yet; counting goes on.
    pub error: Option<String>,
}

/// The meter.
pub struct Meter {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
    window_ns: u64,
    /// The end of the open window, UTC, ns since 1970.
    due_ns: i64,
    checkpointed: Instant,
    /// Jobs whose end is not known.
    under_way: u32,
    generation: [u8; 16],
    details: Details,
    status: MeterStatus,
}

impl Meter {
    /// Starts the meter on a gate, or `None` when the configuration has none.
    ///
    /// # Errors
    /// When the gate's anchor cannot be read or written.
    pub fn start(config: &Config, gate: &mut Gate) -> Result<Option<Self>> {
        let Some(meter) = &config.meter else {
            eprintln!("octroi: there is no [meter]: bytes are counted, and no record is kept");
            return Ok(None);
        };
        gate.meter(timeouts(meter))?;
        let mut anchor = gate.anchor()?;
        if anchor.generation == [0; 16] {
            getrandom::fill(&mut anchor.generation)
                .map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
            gate.set_anchor(anchor)?;
        }
        let writer = Writer {
            path: meter.ledger.clone(),
            epoch: Epoch {
                host: config.host.name.as_str().to_owned(),
                boot_id: clock::boot_id(),
                map_generation: anchor.generation,
            },
            remembered: Anchor {
                ledger_id: anchor.ledger,
                size: anchor.size,
                windows: anchor.windows,
                head: anchor.head,
            },
            memory: None,
            ledger: None,
            owed: Owed::default(),
        };
        let (jobs, inbox) = bounded(1);
        let (outbox, done) = unbounded();
        let thread = thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.work(&inbox, &outbox))?;
        let mut started = Self {
            jobs: Some(jobs),
            done,
            thread: Some(thread),
            window_ns: meter.window_ns,
            due_ns: boundary_after(clock::utc_ns(), meter.window_ns),
            checkpointed: Instant::now(),
            under_way: 0,
            generation: anchor.generation,
            status: MeterStatus {
                ledger: meter.ledger.clone(),
                ..MeterStatus::default()
            },
            details: Details::default(),
        };
        started.configure(config);
        Ok(Some(started))
    }

    /// Another configuration is in force.
    pub fn configure(&mut self, config: &Config) {
        let details = config.tenants.iter();
        self.details.set(
            details
                .map(|tenant| (tenant.id.0, tenant.flow_detail))
                .collect(),
        );
    }

    /// How long until there may be something to do. A step of the wall clock is noticed within a second.
    pub fn wait(&self) -> Duration {
        let left_ns = self.due_ns.saturating_sub(clock::utc_ns());
        Duration::from_nanos(u64::try_from(left_ns).unwrap_or(0)).min(Duration::from_secs(1))
    }

    /// What `status` says.
    pub fn status(&self) -> &MeterStatus {
        &self.status
    }

    /// Cuts when it is time, notes the registers, and hears what the ledger did. Returns what there is to
    /// say to an operator.
    pub fn turn(&mut self, gate: &mut Gate, config: &Config) -> Vec<String> {
        let mut said = self.hear(gate);
        let now = clock::utc_ns();
        let window_ns = i64::try_from(self.window_ns).unwrap_or(i64::MAX);
        if now >= self.due_ns {
            let nominal = self.due_ns;
            self.due_ns = boundary_after(now, self.window_ns);
            // Far off: somebody set the clock, or the host slept. The label is then the truth.
            let near = now - nominal < window_ns;
            said.extend(self.cut(gate, near.then_some(nominal)));
        } else if self.due_ns - now > window_ns {
            // The clock was set back: the window that is open ends here, and the next one is aligned.
            self.due_ns = boundary_after(now, self.window_ns);
            said.extend(self.cut(gate, None));
        } else if self.checkpointed.elapsed() >= CHECKPOINT {
            self.checkpoint(gate, config);
        }
        said
    }

    /// Cuts now, because something happened.
    pub fn cut_now(&mut self, gate: &mut Gate) -> Vec<String> {
        self.cut(gate, None)
    }

    fn cut(&mut self, gate: &mut Gate, nominal_ns: Option<i64>) -> Vec<String> {
        // The ledger is still writing: the open window grows.
        if self.under_way != 0 {
            return Vec::new();
        }
        match gate.seal() {
            Ok(mut reading) => {
                let mut said = alarms(&mut reading);
                let time = clock::now();
                let suspended_ns = time.boot_ns.saturating_sub(time.mono_ns);
                let owners = reading.owners.into_iter();
                let cut = Cut {
                    window: u64::from(reading.window),
                    revision: reading.revision,
                    time,
                    nominal_ns,
                    window_ns: self.window_ns,
                    clock: clock::state(),
                    owners: owners
                        .map(|owned| Owner {
                            detail: self.details.of(owned.tenant),
                            ..owner(owned, suspended_ns)
                        })
                        .collect(),
                };
                let broken = cut.owners.iter().filter(|owner| owner.directions.is_none());
                let broken: Vec<&str> = broken.map(|owner| owner.name.as_str()).collect();
                if !broken.is_empty() {
                    said.push(format!(
                        "ALARM: registers of {} went back: somebody wrote to octroi's maps",
                        broken.join(", ")
                    ));
                }
                self.send(Job::Cut(Box::new(cut)));
                self.details.cut();
                fault::reach(Point::HandedOver);
                self.checkpointed = Instant::now();
                said
            }
            Err(error) => vec![format!("warning: the window could not be cut: {error}")],
        }
    }

    fn checkpoint(&mut self, gate: &mut Gate, config: &Config) {
        self.checkpointed = Instant::now();
        if self.under_way != 0 {
            return;
        }
        let (Ok(registers), Ok(epoch)) = (gate.look_at_registers(), gate.epoch()) else {
            return;
        };
        let ceilings: BTreeMap<&str, [Option<(u64, u64)>; 2]> = config
            .ports
            .iter()
            .map(|port| {
                let bits = [port.from_tenant, port.to_tenant].map(|limit| most(&limit));
                (port.name.as_str(), bits)
            })
            .collect();
        let owners = registers.into_iter().map(|owned| {
            let owner = owner(owned, 0);
            CheckpointOwner {
                incarnation: owner.incarnation,
                ceilings: ceilings
                    .get(owner.name.as_str())
                    .copied()
                    .unwrap_or_default(),
                name: owner.name,
                tenant: owner.tenant,
                since_ns: owner.since_ns,
                directions: owner.directions.unwrap_or_default(),
            }
        });
        let checkpoint = Checkpoint {
            window: u64::from(epoch.window()),
            revision: epoch.revision(),
            owners: owners.collect(),
            time: clock::now(),
        };
        self.send(Job::Checkpoint(Box::new(checkpoint)));
    }

    fn send(&mut self, job: Job) {
        if let Some(jobs) = &self.jobs
            && jobs.try_send(job).is_ok()
        {
            self.under_way += 1;
        }
    }

    fn hear(&mut self, gate: &mut Gate) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            match self.done.try_recv() {
                Ok(done) => said.extend(self.take(done, gate)),
                Err(TryRecvError::Empty) => return said,
                Err(TryRecvError::Disconnected) => {
                    self.under_way = 0;
                    return said;
                }
            }
        }
    }

    fn take(&mut self, done: Done, gate: &mut Gate) -> Vec<String> {
        let mut said = Vec::new();
        match done {
            Done::Begun(superseded, recovered, anchor) => {
                said.extend(superseded.map(|why| format!("ALARM: {why}")));
                said.extend(recovered.map(|recovered| {
                    format!(
                        "{} records close the registers of an earlier start",
                        recovered.records
                    )
                }));
                said.extend(self.anchor(gate, anchor));
            }
            Done::Committed(committed) => {
                fault::reach(Point::Heard);
                self.under_way = self.under_way.saturating_sub(1);
                if self.status.error.take().is_some() {
                    said.push("the ledger is written again".into());
                }
                for incarnation in &committed.closed {
                    gate.settle(*incarnation);
                    fault::reach(Point::Released);
                }
                self.status.committed_window = Some(committed.window);
                self.status.windows += 1;
                let alarms = committed.alarms.iter();
                said.extend(alarms.map(|alarm| format!("ALARM: {alarm}")));
                said.extend(self.anchor(gate, committed.anchor));
                fault::reach(Point::Anchored);
            }
            Done::Failed(why) => {
                self.under_way = self.under_way.saturating_sub(1);
                if self.status.error.as_ref() != Some(&why) {
                    said.push(format!("ALARM: {why}"));
                }
                self.status.error = Some(why);
            }
            Done::Noted => self.under_way = self.under_way.saturating_sub(1),
        }
        said
    }

    fn anchor(&mut self, gate: &mut Gate, anchor: Anchor) -> Option<String> {
        self.status.records = anchor.size;
        self.status.ledger_id = anchor
            .ledger_id
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let anchor = abi::Anchor {
            generation: self.generation,
            ledger: anchor.ledger_id,
            size: anchor.size,
            windows: anchor.windows,
            head: anchor.head,
        };
        let error = gate.set_anchor(anchor).err()?;
        Some(format!(
            "warning: the ledger's place cannot be noted: {error}"
        ))
    }

    /// Cuts a last time, and returns when that is durable, or after ten seconds.
    pub fn farewell(&mut self, gate: &mut Gate) -> Vec<String> {
        let begun = Instant::now();
        let mut said = Vec::new();
        let mut cut = false;
        while begun.elapsed() < FAREWELL && !(cut && self.under_way == 0) {
            if self.under_way == 0 {
                said.extend(self.cut(gate, None));
                cut = true;
            }
            if let Ok(done) = self.done.recv_timeout(Duration::from_millis(50)) {
                said.extend(self.take(done, gate));
            }
        }
        if self.under_way != 0 {
            said.push(
                "warning: the last window is not in the ledger yet; the next start writes it"
                    .into(),
            );
        }
        said
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // The thread ends when nobody can send any more. One that hangs in the disk is left behind.
        self.jobs = None;
        if self.under_way == 0
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// The first multiple of the window after `now`, both UTC, ns since 1970.
fn boundary_after(now: i64, window_ns: u64) -> i64 {
    let window = i64::try_from(window_ns).unwrap_or(i64::MAX).max(1);
    (now.div_euclid(window) + 1).saturating_mul(window)
}

/// What a ceiling lets through: bits/s, and bytes at once.
fn most(limits: &Limits) -> Option<(u64, u64)> {
    let bits = limits.ceiling?.0;
    // The longest of the limiter's own bursts: 250 ms.
    let burst = limits.burst.map_or(bits / 32, |burst| burst.0);
    Some((bits, burst))
}

/// The thread that has the ledger.
struct Writer {
    path: PathBuf,
    epoch: Epoch,
    remembered: Anchor,
    /// What this process last committed: a ledger that is lost later loses nothing.
    memory: Option<State>,
    ledger: Option<Ledger>,
    /// Flows of windows that are not in it yet.
    owed: Owed,
}

impl Writer {
    fn work(mut self, jobs: &Receiver<Job>, done: &Sender<Done>) {
        for mut job in jobs {
            if let Job::Cut(cut) = &mut job {
                self.owed.join(cut);
            }
            let answer = self.open(done).and_then(|()| self.run(&job));
            if let (Err(_), Job::Cut(cut)) = (&answer, job) {
                self.owed.keep(*cut);
            }
            let answer = answer.unwrap_or_else(|error| {
                // Opened again for the next job: whatever it was may be over then.
                self.forget();
                Done::Failed(error)
            });
            if done.send(answer).is_err() {
                return;
            }
        }
    }

    fn open(&mut self, done: &Sender<Done>) -> Result<(), String> {
        if self.ledger.is_some() {
            return Ok(());
        }
        let identity = Identity {
            epoch: self.epoch.clone(),
            machine_id: clock::machine_id(),
            now: clock::now(),
        };
        let begun = Ledger::open(
            &self.path,
            &identity,
            &self.remembered,
            self.memory.as_ref(),
        )
        .map_err(|error| error.to_string())?;
        self.remembered = begun.ledger.anchor();
        let _ = done.send(Done::Begun(
            begun.superseded,
            begun.recovered,
            self.remembered,
        ));
        self.ledger = Some(begun.ledger);
        Ok(())
    }

    fn run(&mut self, job: &Job) -> Result<Done, String> {
        let ledger = self.ledger.as_mut().ok_or("the ledger is not open")?;
        match job {
            Job::Cut(cut) => {
                let committed = ledger
                    .commit(cut, None)
                    .map_err(|error| error.to_string())?;
                self.remembered = committed.anchor;
                Ok(Done::Committed(committed))
            }
            Job::Checkpoint(checkpoint) => ledger
                .checkpoint(checkpoint)
                .map(|()| Done::Noted)
                .map_err(|error| error.to_string()),
        }
    }

    fn forget(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            self.memory = Some(ledger.state().clone());
        }
    }
}
