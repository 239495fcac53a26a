//! The meter's part in the daemon: it cuts on the daemon's thread and writes on one of its own.
//!
//! Between the two are bounded queues. When the disk is slow or full, the daemon does not wait: the
//! open window grows, and the next record covers it.

use super::{
    audit::{self, AuditStatus},
    clock,
    quota::Books,
    reading::{alarms, ceilings, checkpoint, owner, timeouts},
    sinks::{SinkStatus, Sinks},
    tickets::{Answer, Tickets},
};
use crate::{
    config::{Config, Retention},
    loader::Gate,
};
use anyhow::Result;
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use dataplane_common::{
    abi,
    fault::{self, Point},
};
use metering::{
    flow::Details,
    ledger::{Addition, Anchor, Ceiling, Done, Job, Keep, Writer},
    meter::{Cut, Epoch, Next, Owner, Pace},
    note,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// How often what is too old is removed; its first time is with the first window.
const RETAIN: Duration = Duration::from_secs(86_400);
/// How soon it is tried again after it failed, or while the clock was not to be believed.
const RETAIN_AGAIN: Duration = Duration::from_secs(3_600);
/// So long before a cut nothing is removed: the cut would have to wait, ns.
const RETAIN_CLEAR_NS: u64 = 2_000_000_000;
/// How long a daemon that ends waits for its last window to be durable.
const FAREWELL: Duration = Duration::from_secs(10);

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
    /// What the interfaces' own counters said.
    pub audit: AuditStatus,
    /// Length of a window, ns.
    #[serde(default)]
    pub window_ns: u64,
    /// When a window was last committed: UTC, ns since 1970; `None`: not since this daemon started.
    #[serde(default)]
    pub committed_utc_ns: Option<i64>,
    /// Layer-2 bytes of this daemon's windows that no flow accounts for.
    #[serde(default)]
    pub unattributed_bytes: u64,
    /// Ledgers that this daemon could not continue.
    #[serde(default)]
    pub superseded: u64,
}

/// The meter.
pub struct Meter {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    told: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
    window_ns: u64,
    pace: Pace,
    /// What of each tenant's flows may be kept.
    details: Details,
    /// When to look for what is too old.
    retain_at: Instant,
    tickets: Tickets,
    sinks: Sinks,
    pub(super) books: Books,
    generation: [u8; 16],
    /// By port: from the tenant, to the tenant.
    ceilings: BTreeMap<String, [Option<Ceiling>; 2]>,
    /// The gate is being taken down: each owner's next record is its last.
    ending: bool,
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
        let epoch = Epoch {
            host: config.host.name.as_str().to_owned(),
            boot_id: clock::boot_id(),
            map_generation: anchor.generation,
        };
        let remembered = Anchor {
            ledger_id: anchor.ledger,
            size: anchor.size,
            windows: anchor.windows,
            head: anchor.head,
        };
        let path = meter.ledger.clone();
        let mut writer = Writer::new(path, epoch, clock::machine_id(), remembered);
        let (jobs, inbox) = bounded(1);
        let (outbox, done) = unbounded();
        let told = Arc::new(Notify::new());
        let tell = Arc::clone(&told);
        let thread = thread::Builder::new()
            .name("ledger".into())
            .spawn(move || {
                for job in inbox {
                    writer.work(job, clock::now(), |done| {
                        // The other end goes when the daemon does, and then there is no job any more.
                        drop(outbox.send(done));
                        tell.notify_one();
                    });
                }
            })?;
        let mut started = Self {
            jobs: Some(jobs),
            done,
            told,
            thread: Some(thread),
            window_ns: meter.window_ns,
            pace: Pace::new(meter.window_ns, &clock::now()),
            details: Details::default(),
            retain_at: Instant::now(),
            tickets: Tickets::default(),
            sinks: Sinks::default(),
            books: Books::default(),
            generation: anchor.generation,
            ceilings: BTreeMap::new(),
            ending: false,
            status: MeterStatus {
                ledger: meter.ledger.clone(),
                window_ns: meter.window_ns,
                ..MeterStatus::default()
            },
        };
        started.configure(config);
        Ok(Some(started))
    }

    /// Another configuration is in force.
    pub fn configure(&mut self, config: &Config) {
        self.sinks
            .configure(config, &self.status.ledger, &self.generation);
        let details = config.tenants.iter();
        self.details.set(
            details
                .map(|tenant| (tenant.id.0, tenant.flow_detail))
                .collect(),
        );
        self.ceilings = ceilings(config);
    }

    /// How long until there may be something to do.
    pub fn wait(&self) -> Duration {
        Duration::from_nanos(self.pace.wait_ns(&clock::now()))
    }

    /// Woken whenever the ledger's thread has done something: [`Meter::turn`] hears of it.
    pub fn told(&self) -> Arc<Notify> {
        Arc::clone(&self.told)
    }

    /// What `status` says.
    pub fn status(&self) -> &MeterStatus {
        &self.status
    }

    /// What `sinks` says.
    pub fn sinks(&self) -> Vec<SinkStatus> {
        self.sinks.status()
    }

    /// The gate is taken down on purpose: the records of [`Meter::farewell`] are the last ones.
    pub fn end(&mut self) {
        self.ending = true;
    }

    /// Cuts when it is time, notes the registers, and hears what the ledger did. Returns what there is to
    /// say to an operator.
    pub fn turn(&mut self, gate: &mut Gate, config: &Config) -> Vec<String> {
        let mut said = self.hear(gate);
        match self.pace.turn(&clock::now()) {
            Next::Cut { nominal_ns } => said.extend(self.cut(gate, nominal_ns)),
            Next::Checkpoint => self.checkpoint(gate),
            Next::Wait => self.retain(config),
        }
        said
    }

    /// The wall clock was set: the open window ends now, or as soon as the ledger is free.
    pub fn clock_was_set(&mut self) {
        self.pace.want();
    }

    /// Cuts because something happened: now, or as soon as the ledger is free, once a second at most.
    pub fn cut_now(&mut self, gate: &mut Gate) -> Vec<String> {
        self.pace.want();
        match self.pace.turn(&clock::now()) {
            Next::Cut { nominal_ns } => self.cut(gate, nominal_ns),
            Next::Checkpoint | Next::Wait => Vec::new(),
        }
    }

    fn cut(&mut self, gate: &mut Gate, nominal_ns: Option<i64>) -> Vec<String> {
        // Read first: what is booked from here on may be in this window, and is not said to be before it.
        let time = clock::now();
        match gate.seal() {
            Ok(mut reading) => {
                let mut said = alarms(&mut reading);
                let suspended_ns = time.boot_ns.saturating_sub(time.mono_ns);
                let owners = reading.owners.into_iter();
                let mut cut = Cut {
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
                    interfaces: reading.witnesses.map(audit::interfaces),
                    ceilings: BTreeMap::new(),
                };
                self.status.audit.look(gate);
                for owner in &mut cut.owners {
                    owner.live &= !self.ending;
                    if let Some(ceilings) = self.ceilings.get(&owner.name) {
                        cut.ceilings.insert(owner.incarnation, *ceilings);
                    }
                }
                let broken = cut.owners.iter().filter(|owner| owner.directions.is_none());
                let broken: Vec<&str> = broken.map(|owner| owner.name.as_str()).collect();
                if !broken.is_empty() {
                    said.push(format!(
                        "ALARM: registers of {} went back: somebody wrote to octroi's maps",
                        broken.join(", ")
                    ));
                }
                self.books.cut(cut.window, reading.quotas);
                self.send(Job::Cut(Box::new(cut)));
                self.details.cut();
                fault::reach(Point::HandedOver);
                said
            }
            Err(error) => vec![format!("warning: the window could not be cut: {error}")],
        }
    }

    fn checkpoint(&mut self, gate: &Gate) {
        if let Some(checkpoint) = checkpoint(gate, &self.ceilings) {
            self.send(Job::Checkpoint(Box::new(checkpoint)));
        }
    }

    /// Hands a record that belongs to no window to the ledger's thread and returns a ticket for the answer;
    /// `None` while that is at work: to be asked again.
    pub fn add(&mut self, addition: &Addition) -> Option<u64> {
        if self.pace.is_busy() {
            return None;
        }
        let mut addition = addition.clone();
        if let Addition::Forget(forget) = &mut addition {
            forget.unconfirmed = self.sinks.unconfirmed(&self.status.ledger_id);
        }
        self.send(Job::Add(Box::new(addition)));
        Some(self.tickets.give())
    }

    /// The answer for a ticket. It is told once.
    pub fn answer(&mut self, ticket: u64) -> Option<Answer> {
        self.tickets.take(ticket)
    }

    /// Removes what is too old, when nothing else is to be done.
    fn retain(&mut self, config: &Config) {
        let now = clock::now();
        let clear_ns = RETAIN_CLEAR_NS.min(self.window_ns / 2);
        if self.retain_at <= Instant::now()
            && !self.pace.is_busy()
            && self.status.windows != 0
            && self.pace.until_cut_ns(&now) > clear_ns
        {
            self.retain_at = Instant::now() + RETAIN_AGAIN;
            self.send(Job::Retain(
                keep(
                    &config.retention,
                    self.sinks.unconfirmed(&self.status.ledger_id),
                ),
                now.utc_ns,
            ));
        }
    }

    fn send(&mut self, job: Job) {
        let read = match &job {
            Job::Cut(cut) => Some(cut.time),
            Job::Checkpoint(checkpoint) => Some(checkpoint.time),
            Job::Retain(..) | Job::Add(_) => None,
        };
        if let Some(jobs) = &self.jobs
            && jobs.try_send(job).is_ok()
        {
            match read {
                Some(read) => self.pace.handed_over(&read),
                None => self.pace.handed_over_other(),
            }
        }
    }

    fn hear(&mut self, gate: &mut Gate) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            match self.done.try_recv() {
                Ok(done) => said.extend(self.take(done, gate)),
                Err(TryRecvError::Empty) => return said,
                Err(TryRecvError::Disconnected) => {
                    self.pace.ended(false);
                    return said;
                }
            }
        }
    }

    fn take(&mut self, done: Done, gate: &mut Gate) -> Vec<String> {
        let mut said = Vec::new();
        if let Some(durable) = done.ends() {
            self.pace.ended(durable);
        }
        match done {
            Done::Begun {
                superseded,
                recovered,
                anchor,
            } => {
                self.status.superseded += u64::from(superseded.is_some());
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
                if self.status.error.take().is_some() {
                    said.push("the ledger is written again".into());
                }
                for incarnation in &committed.closed {
                    let settled = gate.settle(*incarnation);
                    said.extend(
                        settled
                            .err()
                            .map(|error| format!("warning: a slot: {error}")),
                    );
                    fault::reach(Point::Released);
                }
                said.extend(self.status.audit.take(&committed.unmetered));
                self.status.committed_window = Some(committed.window);
                self.status.windows += 1;
                self.status.committed_utc_ns = Some(clock::now().utc_ns);
                let unattributed = &mut self.status.unattributed_bytes;
                *unattributed = unattributed.saturating_add(committed.unattributed_bytes);
                let alarms = committed.alarms.iter();
                said.extend(alarms.map(|alarm| format!("ALARM: {alarm}")));
                said.extend(self.anchor(gate, committed.anchor));
                fault::reach(Point::Anchored);
                said.extend(self.books.committed(gate, committed.window));
            }
            Done::Failed(why) => {
                if self.status.error.as_ref() != Some(&why) {
                    said.push(format!("ALARM: {why}"));
                }
                self.tickets.answered(Err(why.clone()));
                self.status.error = Some(why);
            }
            Done::Added(seq, committed) => {
                self.books.corrected();
                said.extend(self.anchor(gate, committed.anchor));
                self.tickets.answered(Ok(seq));
            }
            Done::Refused(why) => self.tickets.answered(Err(why)),
            Done::Retained(retained) => {
                if retained.more {
                    self.retain_at = Instant::now();
                } else if clock::state().synchronised {
                    self.retain_at = Instant::now() + RETAIN;
                }
                if retained.pruned + retained.flow_files != 0 {
                    said.push(format!(
                        "retention: {} records pruned, {} flow files removed",
                        retained.pruned, retained.flow_files
                    ));
                }
            }
            Done::Noted => {}
        }
        said
    }

    fn anchor(&mut self, gate: &mut Gate, anchor: Anchor) -> Option<String> {
        self.status.records = anchor.size;
        self.status.ledger_id = note::hex(&anchor.ledger_id);
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
        while begun.elapsed() < FAREWELL && (!cut || self.pace.is_busy()) {
            if !self.pace.is_busy() {
                said.extend(self.cut(gate, None));
                cut = true;
            }
            if let Ok(done) = self.done.recv_timeout(Duration::from_millis(50)) {
                said.extend(self.take(done, gate));
            }
        }
        if self.pace.is_busy() {
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
        if !self.pace.is_busy()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// What is kept, now. `unconfirmed`: the lowest seq that a sink has not confirmed; `u64::MAX`: there is no sink.
pub fn keep(retention: &Retention, unconfirmed: u64) -> Keep {
    Keep {
        flows_days: retention.flows_days,
        records_days: retention.records_days,
        rollups_days: retention.rollups_days,
        unconfirmed,
        clock_is_sound: clock::state().synchronised,
    }
}
