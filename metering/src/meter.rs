//! The meter: from what a cut found to the records of its window.
//!
//! Pure: readings, clocks and the last committed state are arguments, records and the next state are
//! results. The caller commits both in one transaction, or neither; then the next cut covers this
//! window too. Nothing has to be undone, whatever failed.
//!
//! Invariants (`docs/METERING.md`; property tests below)
//! - Σ records of an owner = its registers at the last committed cut.
//! - Every live owner has one `zone = *` record in each direction and window; its zones sum to it.
//! - A register that goes back is a NODATA record of its owner and nobody else's concern.
//!
//! What it is not: it reads no register and no clock, and it does not know what a disk is.

mod audit;
mod classes;
mod cut;
mod label;
mod pace;
mod settled;

pub use audit::{Brackets, Interface, Side};
pub use cut::{Cut, Owner, Sums, Time};
pub use pace::{CHECKPOINT_NS, MOMENT_NS, Next, Pace};
pub use settled::Settled;

use crate::{
    flow,
    record::{Flags, Kind, Reading, Record, Total},
    window::Counts,
};
use label::Label;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A cut this far from the time it was meant for is flagged, ns.
pub const MISALIGNED_NS: u64 = 500_000_000;

/// What stands between two cuts, all of it committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The last committed cut.
    pub last: Option<Last>,
    /// By incarnation: whose last record is not written.
    pub owners: BTreeMap<u64, OwnerState>,
    /// Incarnations whose last record is.
    pub closed: BTreeSet<u64>,
    /// The ledger that metered these registers was lost, and nothing was committed since.
    pub lost: Option<Lost>,
    /// What the interfaces stood at.
    pub brackets: Brackets,
    /// Which hours nothing may be added to any more.
    pub settled: Settled,
}

impl State {
    /// The first window that is not committed, by this ledger or by one that it took the place of.
    pub fn windows(&self) -> u64 {
        let committed = self.last.map_or(0, |last| last.window + 1);
        committed.max(self.lost.as_ref().map_or(0, |lost| lost.windows))
    }
}

/// A ledger is lost: what was counted until then is perhaps delivered, and nobody knows how much of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Why, for people.
    pub cause: String,
    /// CLOCK_BOOTTIME ns when the next one began: of an owner that came later, nothing is lost.
    pub begun_ns: u64,
    /// The first window that no ledger before it can have a record of.
    pub windows: u64,
}

/// The last committed cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// Its window.
    pub window: u64,
    /// The revision in force.
    pub revision: u32,
    /// When.
    pub time: Time,
    /// The end of its label, UTC, ns since 1970.
    pub window_end: i64,
    /// The beginning of the next one's, UTC, ns since 1970, where it is not that end (M-4.4).
    #[serde(default)]
    pub next_start: Option<i64>,
    /// Length of a window then, ns; 0: any.
    #[serde(default)]
    pub window_ns: u64,
}

/// What an owner stood at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerState {
    /// Name of the port.
    pub name: String,
    /// Tenant's number.
    pub tenant: u32,
    /// Its registers.
    pub directions: [Sums; 2],
}

/// Whose registers these are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Name of the host.
    pub host: String,
    /// The kernel's id of this boot.
    pub boot_id: [u8; 16],
    /// Drawn when the maps were made.
    pub map_generation: [u8; 16],
}

/// The records of a window, without what the ledger gives them (ledger, numbers, salt), and the state
/// behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// In the order of the owners: `*`, then its zones, for each direction.
    pub records: Vec<Record>,
    /// To be kept with them.
    pub state: State,
    /// Owners whose last record this is.
    pub closed: Vec<u64>,
    /// Flow detail that is kept: of which of the records, and its rows without salts.
    pub flows: Vec<(usize, Vec<flow::Row>)>,
    /// What an operator has to be told of this window.
    pub alarms: Vec<String>,
    /// For people: where an interface carried what was not counted.
    pub unmetered: Vec<String>,
}

/// What was not seen before this window, for all its owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Why, for people.
    pub cause: String,
    /// By incarnation: the most layer-2 bytes that each direction can have carried unseen, if that can be
    /// reckoned.
    pub bytes_max: BTreeMap<u64, [Option<u64>; 2]>,
    /// The registers are gone: no later record continues these.
    pub reset: bool,
    /// The end of the label, UTC, ns since 1970, where that is later than the reading.
    pub until_ns: Option<i64>,
}

impl Gap {
    /// What it says of every record. A label that ends when the registers were gone rests on two wall
    /// clocks, of which nobody knows whether they were synchronised.
    fn flags(&self) -> Flags {
        if self.reset {
            Flags::PARTIAL | Flags::RESET | Flags::ESTIMATED
        } else {
            Flags::PARTIAL
        }
    }

    fn unseen(&self, incarnation: u64, direction: u8) -> Option<u64> {
        let unseen = self.bytes_max.get(&incarnation)?;
        unseen.get(usize::from(direction)).copied().flatten()
    }
}

/// Writes the records of a window.
///
/// `gap`: some of the time was not seen; every owner's `*` record says so.
pub fn records(epoch: &Epoch, state: &State, cut: &Cut, gap: Option<&Gap>) -> Outcome {
    let label = Label::of(state, cut, gap);
    let mut outcome = Outcome {
        state: State {
            last: Some(Last {
                window: cut.window,
                revision: cut.revision,
                time: cut.time,
                window_end: label.end,
                next_start: Some(cut.nominal_ns.unwrap_or(cut.time.utc_ns)),
                window_ns: cut.window_ns,
            }),
            lost: None,
            ..state.clone()
        },
        ..Outcome::default()
    };
    for owner in &cut.owners {
        if state.closed.contains(&owner.incarnation) {
            // Whoever keeps its slot did not hear of that: it is said again.
            outcome.closed.push(owner.incarnation);
            continue;
        }
        let window = Window {
            epoch,
            cut,
            label: &label,
            state,
            owner,
            gap,
        };
        window.write(&mut outcome);
    }
    if let Some(lost) = &state.lost {
        gone(epoch, state, cut, &label, lost, &mut outcome);
    }
    audit::audit(state, cut, &mut outcome);
    if state.settled.has(label.start, label.end) {
        for record in &mut outcome.records {
            record.flags |= Flags::LATE;
        }
    } else if !outcome.records.is_empty() {
        outcome.state.settled.take(label.start, label.end);
    }
    outcome
}

/// Owners that a lost ledger may have closed, or not: nobody is there to be read any more.
fn gone(
    epoch: &Epoch,
    state: &State,
    cut: &Cut,
    label: &Label,
    lost: &Lost,
    outcome: &mut Outcome,
) {
    let counted: BTreeSet<u64> = cut.owners.iter().map(|owner| owner.incarnation).collect();
    for (incarnation, known) in &state.owners {
        if counted.contains(incarnation) {
            continue;
        }
        let owner = Owner {
            incarnation: *incarnation,
            name: known.name.clone(),
            tenant: known.tenant,
            ..Owner::default()
        };
        let window = Window {
            epoch,
            cut,
            label,
            state,
            owner: &owner,
            gap: None,
        };
        for direction in 0..2 {
            outcome.records.push(window.nodata(direction, &lost.cause));
        }
        outcome.state.owners.remove(incarnation);
        outcome.state.closed.insert(*incarnation);
    }
}

struct Window<'a> {
    epoch: &'a Epoch,
    cut: &'a Cut,
    label: &'a Label,
    state: &'a State,
    owner: &'a Owner,
    gap: Option<&'a Gap>,
}

impl Window<'_> {
    fn write(&self, outcome: &mut Outcome) {
        let known = self.state.owners.get(&self.owner.incarnation);
        let lost = self.state.lost.as_ref();
        let lost = lost.filter(|lost| self.owner.since_ns <= lost.begun_ns);
        let nothing = Sums::default();
        let before = |at: usize| known.map_or(&nothing, |known| &known.directions[at]);
        let sound = self.owner.directions.as_ref().filter(|now| {
            now.iter()
                .enumerate()
                .all(|(at, now)| now.is_after(before(at)) && now.total().is_some())
        });
        for direction in 0..2_u8 {
            let at = usize::from(direction);
            match (sound, lost) {
                (Some(now), Some(lost)) => {
                    let (start, end) = (before(at).total(), now[at].total());
                    let record = self.lost(direction, start, end, lost);
                    outcome.records.push(record);
                }
                (Some(now), _) => self.measured(direction, before(at), &now[at], outcome),
                (None, _) => outcome
                    .records
                    .push(self.nodata(direction, "a register stands below its last reading")),
            }
        }
        let directions = match (sound, known) {
            (Some(now), _) => now.clone(),
            // A later reading continues where this owner was last believed.
            (None, Some(known)) => known.directions.clone(),
            (None, None) => <[Sums; 2]>::default(),
        };
        if !self.owner.live {
            outcome.closed.push(self.owner.incarnation);
            outcome.state.closed.insert(self.owner.incarnation);
            outcome.state.owners.remove(&self.owner.incarnation);
            return;
        }
        outcome.state.owners.insert(
            self.owner.incarnation,
            OwnerState {
                name: self.owner.name.clone(),
                tenant: self.owner.tenant,
                directions,
            },
        );
    }

    /// What all records of the owner have in common.
    fn record(&self, direction: u8) -> Record {
        // Nothing committed: the windows before this one are in it, from the epoch's first.
        let first = self.state.last.map_or(0, |last| last.window + 1);
        let first = first.min(self.cut.window);
        let mut flags = Flags::NONE;
        if first != self.cut.window || self.label.long {
            flags |= Flags::MERGED;
        }
        if !self.owner.live {
            flags |= Flags::RESET;
        }
        if self.label.misaligned {
            flags |= Flags::MISALIGNED;
        }
        Record {
            kind: Kind::Meter,
            host: self.epoch.host.clone(),
            flags,
            boot_id: self.epoch.boot_id,
            map_generation: self.epoch.map_generation,
            port_uid: self.owner.name.clone(),
            incarnation: self.owner.incarnation,
            tenant: self.owner.tenant,
            direction,
            window_id: self.cut.window,
            window_first: first,
            window_start: self.label.start,
            window_end: self.label.end,
            ..Record::default()
        }
    }

    fn reading(&self, register_start: Counts, register_end: Counts) -> Reading {
        let end = self.cut.time;
        // An owner that is younger than the window began when it did, not with the window.
        let begun = Time {
            boot_ns: self.owner.since_ns,
            mono_ns: end
                .mono_ns
                .saturating_sub(end.boot_ns.saturating_sub(self.owner.since_ns)),
            utc_ns: end
                .utc_offset_ns()
                .saturating_add_unsigned(self.owner.since_ns),
        };
        let start = match self.state.last {
            Some(last) if last.time.boot_ns >= begun.boot_ns => last.time,
            _ => begun,
        };
        let cut_start_ns = start.boot_ns.min(end.boot_ns);
        let revision_first = self
            .state
            .last
            .map_or(self.cut.revision, |last| last.revision);
        Reading {
            register_start,
            register_end,
            cut_start_ns,
            cut_end_ns: end.boot_ns,
            elapsed_ns: end
                .mono_ns
                .saturating_sub(start.mono_ns)
                .min(end.boot_ns - cut_start_ns),
            utc_offset_ns: start.utc_offset_ns(),
            step_ns: end.utc_offset_ns().saturating_sub(start.utc_offset_ns()),
            revision_first: revision_first.min(self.cut.revision),
            revision_last: self.cut.revision,
            program_tag: None,
        }
    }

    fn measured(&self, direction: u8, before: &Sums, now: &Sums, outcome: &mut Outcome) {
        let (start, end) = (
            before.total().unwrap_or_default(),
            now.total().unwrap_or_default(),
        );
        let counted = end.checked_sub(start).unwrap_or_default();
        let unattributed = match flow::unattributed(self.owner, direction, before, now) {
            Ok(unattributed) => {
                let rows = flow::rows(&self.owner.flows, direction, self.owner.detail);
                if !rows.is_empty() {
                    outcome.flows.push((outcome.records.len(), rows));
                }
                unattributed
            }
            Err(why) => {
                // Bills need no flows: nothing is attributed, and everything is billed.
                outcome.alarms.push(why);
                counted
            }
        };
        let drops = now.dropped_since(before);
        let evidence = classes::between(before, now, counted).unwrap_or_else(|| {
            // Nothing is said then, and nothing that is billed rests on it.
            outcome.alarms.push(format!(
                "{}: classes went back, or are more than was delivered; this window has no evidence of encryption; please report this",
                self.owner.name
            ));
            Vec::new()
        });
        let mut all = Record {
            reading: Some(self.reading(start, end)),
            total: Some(Total {
                skbs_start: before.raw(),
                skbs_end: now.raw(),
                drops,
                unattributed,
                clock: self.cut.clock,
                post_meter_drops: None,
                evidence,
            }),
            ..self.record(direction)
        };
        if let Some(gap) = self.gap {
            all.flags |= gap.flags();
            let unseen = gap.unseen(self.owner.incarnation, direction);
            if unseen.is_some() {
                all.flags |= Flags::ESTIMATED;
            }
            all.bytes_min = Some(counted.l2_bytes);
            all.bytes_max = unseen.and_then(|unseen| counted.l2_bytes.checked_add(unseen));
            all.cause = Some(gap.cause.clone());
        }
        let flags = all.flags;
        outcome.records.push(all);
        for zone in 0..now.zones.len() {
            let (start, end) = (before.zone(zone), now.zone(zone));
            if start != end {
                outcome.records.push(Record {
                    zone: Some(zone as u32),
                    reading: Some(self.reading(start, end)),
                    flags,
                    ..self.record(direction)
                });
            }
        }
    }

    /// What was counted, and perhaps delivered, while a ledger was in force that is lost.
    fn lost(
        &self,
        direction: u8,
        start: Option<Counts>,
        end: Option<Counts>,
        lost: &Lost,
    ) -> Record {
        let (start, end) = (start.unwrap_or_default(), end.unwrap_or_default());
        let counted = end.checked_sub(start).unwrap_or_default().l2_bytes;
        let mut record = self.record(direction);
        record.kind = Kind::Nodata;
        record.flags |= Flags::NODATA;
        record.reading = Some(self.reading(start, end));
        record.bytes_min = Some(0);
        record.bytes_max = Some(counted);
        record.cause = Some(lost.cause.clone());
        if let Some(gap) = self.gap {
            // And then the registers were lost, too.
            record.flags |= gap.flags();
            let unseen = gap.unseen(self.owner.incarnation, direction);
            record.bytes_max = unseen.and_then(|unseen| counted.checked_add(unseen));
        }
        record
    }

    /// Nothing to read, or registers that went back: somebody else wrote to them.
    fn nodata(&self, direction: u8, cause: &str) -> Record {
        let mut record = self.record(direction);
        record.kind = Kind::Nodata;
        record.flags |= Flags::NODATA;
        record.bytes_min = Some(0);
        record.cause = Some(cause.into());
        record
    }
}

#[cfg(test)]
mod tests;
