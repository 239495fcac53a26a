//! What a cut found: registers, owners and clocks, as the daemon hands them over.

use super::Interface;
use crate::{
    flow::{Detail, FlowDelta},
    record::{Clock, Dropped},
    window::Counts,
};
use dataplane_common::{abi::Skbs, reason::recorded};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Registers of one direction of an owner, since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// By zone.
    pub zones: Vec<Counts>,
    /// By reason's number: packets, layer-2 bytes.
    pub drops: Vec<[u64; 2]>,
    /// Delivered under an encryption policy, by class's number: packets, layer-2 bytes. Empty: not read, as in the
    /// state that an older daemon left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<[u64; 2]>,
    /// Delivered, delivered bytes, dropped, dropped bytes: raw skbs.
    pub skbs: [u64; 4],
}

impl Sums {
    /// All zones together; `None` past 2^64.
    pub(crate) fn total(&self) -> Option<Counts> {
        let mut zones = self.zones.iter();
        zones.try_fold(Counts::default(), |sum, zone| sum.checked_add(*zone))
    }

    pub(crate) fn zone(&self, zone: usize) -> Counts {
        self.zones.get(zone).copied().unwrap_or_default()
    }

    pub(super) fn drop(&self, reason: usize) -> [u64; 2] {
        self.drops.get(reason).copied().unwrap_or_default()
    }

    /// What was dropped since, under the reasons that a record knows: [`recorded`].
    pub(super) fn dropped_since(&self, before: &Self) -> Vec<Dropped> {
        let mut drops = BTreeMap::<u8, [u64; 2]>::new();
        for reason in 1..self.drops.len() {
            let (old, now) = (before.drop(reason), self.drop(reason));
            if now[0] != old[0] {
                let sum = drops.entry(recorded(reason) as u8).or_default();
                // Registers of one slot count one link: together they are far from 2^64.
                sum[0] = sum[0].saturating_add(now[0] - old[0]);
                sum[1] = sum[1].saturating_add(now[1] - old[1]);
            }
        }
        let drops = drops.into_iter();
        drops
            .map(|(reason, [packets, l2_bytes])| Dropped {
                reason,
                packets,
                l2_bytes,
            })
            .collect()
    }

    pub(super) fn class(&self, class: usize) -> [u64; 2] {
        self.evidence.get(class).copied().unwrap_or_default()
    }

    /// Were the classes read? Of somebody new all is known: nothing.
    pub(super) fn has_classes(&self) -> bool {
        !self.evidence.is_empty() || *self == Self::default()
    }

    pub(crate) fn without_classes(mut self) -> Self {
        self.evidence.clear();
        self
    }

    /// Raw skbs, as a record has them.
    pub(super) fn raw(&self) -> Skbs {
        let [delivered, delivered_len, dropped, dropped_len] = self.skbs;
        Skbs {
            delivered,
            delivered_len,
            dropped,
            dropped_len,
        }
    }

    /// Is nothing of this below `before`?
    pub(super) fn is_after(&self, before: &Self) -> bool {
        let zones = self.zones.len().max(before.zones.len());
        let drops = self.drops.len().max(before.drops.len());
        (0..zones).all(|at| self.zone(at).checked_sub(before.zone(at)).is_some())
            && (0..drops).all(|at| {
                let (now, old) = (self.drop(at), before.drop(at));
                now[0] >= old[0] && now[1] >= old[1]
            })
            && self
                .skbs
                .iter()
                .zip(&before.skbs)
                .all(|(now, old)| now >= old)
    }
}

/// Whose registers they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Unique under these maps.
    pub incarnation: u64,
    /// Name of the port, or of the uplink's interface.
    pub name: String,
    /// Tenant's number; 0 for an uplink.
    pub tenant: u32,
    /// False: this is its last reading.
    pub live: bool,
    /// CLOCK_BOOTTIME ns when it began.
    pub since_ns: u64,
    /// From the tenant, to the tenant; `None`: they cannot be right.
    pub directions: Option<[Sums; 2]>,
    /// What its flows gained in this window; empty where nobody kept flows.
    pub flows: Vec<FlowDelta>,
    /// What of that its tenant lets the operator keep.
    pub detail: Detail,
}

/// Clocks at a cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// CLOCK_BOOTTIME, ns.
    pub boot_ns: u64,
    /// CLOCK_MONOTONIC, ns.
    pub mono_ns: u64,
    /// CLOCK_REALTIME, ns since 1970.
    pub utc_ns: i64,
}

impl Time {
    pub(super) fn utc_offset_ns(&self) -> i64 {
        self.utc_ns.saturating_sub_unsigned(self.boot_ns)
    }
}

/// What a cut found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// The window that was closed.
    pub window: u64,
    /// Policy revision in force when it was closed.
    pub revision: u32,
    /// When.
    pub time: Time,
    /// The time it was meant for, UTC, ns since 1970; `None`: something happened.
    pub nominal_ns: Option<i64>,
    /// Length of a window, ns; 0: any.
    pub window_ns: u64,
    /// What the kernel says of its clock.
    pub clock: Clock,
    /// Everybody who can have been booked to.
    pub owners: Vec<Owner>,
    /// By incarnation and direction, what its ceiling lets through: bits/s, and bytes at once. For the day the
    /// host crashes.
    pub ceilings: BTreeMap<u64, [Option<(u64, u64)>; 2]>,
    /// What the ports' interfaces say; `None`: they could not be asked.
    pub interfaces: Option<Vec<Interface>>,
}
