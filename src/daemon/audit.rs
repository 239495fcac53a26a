//! The audit's part in the daemon: hands what the interfaces say to the meter, and keeps what it found for
//! `status`.

use crate::loader::Gate;
use dataplane::gate;
use metering::meter;
use serde::{Deserialize, Serialize};

/// What `status` says of the audit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStatus {
    /// Directions and windows in which an interface carried what was not counted, since this daemon started.
    pub unmetered: u64,
    /// The last of them.
    pub last: Option<String>,
    /// Interfaces of ports that are not audited: how their kind counts is not known.
    pub not_audited: Vec<String>,
}

impl AuditStatus {
    /// Takes what a window's audit found, and returns what to tell the operator.
    pub(super) fn take(&mut self, unmetered: &[String]) -> Vec<String> {
        self.unmetered += unmetered.len() as u64;
        if let Some(last) = unmetered.last() {
            self.last = Some(last.clone());
        }
        let alarm = |line: &String| format!("ALARM: UNMETERED: {line}");
        unmetered.iter().map(alarm).collect()
    }

    /// Which interfaces bear no witness now.
    pub(super) fn look(&mut self, gate: &Gate) {
        if let Ok(names) = gate.not_audited() {
            self.not_audited = names;
        }
    }
}

/// What the gate read, as the meter takes it.
pub(super) fn interfaces(witnesses: Vec<gate::Witness>) -> Vec<meter::Interface> {
    let all = witnesses.into_iter().map(|witness| meter::Interface {
        index: witness.index,
        name: witness.name,
        owners: witness.owners,
        sides: witness.sides.map(side),
    });
    all.collect()
}

fn side(side: gate::Side) -> meter::Side {
    meter::Side {
        before: side.before,
        after: side.after,
        early: side.early,
        queued: side.queued,
        ring: side.ring,
        ring_drains: side.ring_drains,
        unsure: side.unsure,
        merges: side.merges,
        header: side.header,
        tag: side.tag,
        lost: side.lost,
    }
}
