//! Who has the ledger: takes one job after the other, opens the file when it is not open, and forgets it
//! after a failure.
//!
//! Invariants (`tests/simulation.rs`)
//! - Every job is answered by exactly one [`Done`] that ends it ([`Done::ends`]).
//! - After a failure the file is opened anew for the next job: whatever it was may be over then. What this
//!   process has committed it remembers.
//!
//! What it is not: no thread and no queue; the daemon has those, and the simulation has none.

use super::{
    AddError, Addition, Anchor, Checkpoint, Committed, Identity, Keep, Ledger, Retained, owed::Owed,
};
use crate::meter::{Cut, Epoch, State, Time};
use std::path::PathBuf;

/// What is to be written.
#[derive(Clone, Debug)]
pub enum Job {
    /// The records of a window.
    Cut(Box<Cut>),
    /// What the registers stand at.
    Checkpoint(Box<Checkpoint>),
    /// What is too old goes, by this wall clock: UTC, ns since 1970.
    Retain(Keep, i64),
    /// A record that belongs to no window is added.
    Add(Box<Addition>),
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The ledger is open: its anchor is to be remembered.
    Begun {
        /// Why another ledger was begun, for the operator.
        superseded: Option<String>,
        /// Records that were written for registers that are gone.
        recovered: Option<Committed>,
        /// Where it stands.
        anchor: Anchor,
    },
    /// A window is durable.
    Committed(Committed),
    /// A checkpoint is.
    Noted,
    /// What was too old is gone, or some of it.
    Retained(Retained),
    /// A record that belongs to no window is durable: its seq.
    Added(u64, Committed),
    /// It is not written, and why not.
    Refused(String),
    /// The job is not done, and nothing of it is written.
    Failed(String),
}

impl Done {
    /// Is a job done with this, and durable? `None`: it is not done.
    pub fn ends(&self) -> Option<bool> {
        match self {
            Self::Begun { .. } => None,
            Self::Committed(_) | Self::Noted | Self::Retained(_) | Self::Added(..) => Some(true),
            Self::Failed(_) | Self::Refused(_) => Some(false),
        }
    }
}

/// The ledger, open or not, and what is known of it.
pub struct Writer {
    path: PathBuf,
    epoch: Epoch,
    machine_id: String,
    remembered: Anchor,
    /// What this process last committed: a ledger that is lost later loses nothing.
    memory: Option<State>,
    ledger: Option<Ledger>,
    /// Flows of windows that are not in it yet.
    owed: Owed,
}

impl Writer {
    /// Nothing is opened yet. `remembered`: what the kernel knows of this host's ledger.
    pub fn new(path: PathBuf, epoch: Epoch, machine_id: String, remembered: Anchor) -> Self {
        Self {
            path,
            epoch,
            machine_id,
            remembered,
            memory: None,
            ledger: None,
            owed: Owed::default(),
        }
    }

    /// Does a job, and tells what there is to tell of it. `now`: when it begins.
    pub fn work(&mut self, mut job: Job, now: Time, mut tell: impl FnMut(Done)) {
        if let Job::Cut(cut) = &mut job {
            self.owed.join(cut);
        }
        let done = self.open(now, &mut tell).and_then(|()| self.run(&job, now));
        tell(done.unwrap_or_else(|error| {
            self.forget();
            if let Job::Cut(cut) = job {
                self.owed.keep(*cut);
            }
            Done::Failed(error)
        }));
    }

    fn open(&mut self, now: Time, tell: &mut impl FnMut(Done)) -> Result<(), String> {
        if self.ledger.is_some() {
            return Ok(());
        }
        let identity = Identity {
            epoch: self.epoch.clone(),
            machine_id: self.machine_id.clone(),
            now,
        };
        let begun = Ledger::open(
            &self.path,
            &identity,
            &self.remembered,
            self.memory.as_ref(),
        )
        .map_err(|error| error.to_string())?;
        self.remembered = begun.ledger.anchor();
        tell(Done::Begun {
            superseded: begun.superseded,
            recovered: begun.recovered,
            anchor: self.remembered,
        });
        self.ledger = Some(begun.ledger);
        Ok(())
    }

    fn run(&mut self, job: &Job, now: Time) -> Result<Done, String> {
        let ledger = self.ledger.as_mut().ok_or("the ledger is not open")?;
        match job {
            Job::Cut(cut) => {
                ledger.follow(cut.ceilings.clone());
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
            Job::Add(addition) => match ledger.append(addition, now.utc_ns) {
                Ok((seq, committed)) => {
                    self.remembered = committed.anchor;
                    Ok(Done::Added(seq, committed))
                }
                Err(AddError::Ledger(error)) => Err(error.to_string()),
                Err(refused) => Ok(Done::Refused(refused.to_string())),
            },
            Job::Retain(keep, now) => ledger
                .retain(keep, *now)
                .map(Done::Retained)
                .map_err(|error| error.to_string()),
        }
    }

    fn forget(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            self.memory = Some(ledger.state().clone());
        }
    }
}
