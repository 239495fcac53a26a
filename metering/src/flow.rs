//! Flows: what they gained in a window, and what of that is kept: `docs/METERING.md`, M-13.
//!
//! Invariants
//! - Bills need no flows. Whatever is wrong with them, the registers are billed, and the difference is
//!   `unattributed`.
//! - Σ flows + `unattributed` = what was counted, in each owner's direction and window.
//!
//! What it is not: it has no flow table (the kernel has) and keeps no file (the ledger does).

mod keep;
mod policy;
mod row;

pub use keep::kept;
pub(crate) use keep::rows;
pub use policy::Details;
pub use row::{ENCODED_BYTES_MAX, KIND, Root, Row, VERSION, VERSION_WITH_EVIDENCE};

use crate::{
    meter::{Owner, Sums},
    window::Counts,
};
use std::collections::BTreeMap;

/// What one flow gained in a window, in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowDelta {
    /// `dataplane_common::abi::FROM_TENANT` or `TO_TENANT`.
    pub direction: u8,
    /// Zone's number.
    pub zone: u32,
    /// EtherType of what is in the frame, behind VLAN tags.
    pub ethertype: u16,
    /// The tenant's own VLAN, 0: none.
    pub vlan: u16,
    /// IP protocol; 0 where there is none.
    pub protocol: u8,
    /// Address of the tenant's end, network order, IPv4 in the first four bytes; zero where there is none.
    pub local: [u8; 16],
    /// Address of the other end, likewise.
    pub remote: [u8; 16],
    /// Port of the tenant's end; 0 where there is none.
    pub local_port: u16,
    /// Port of the other end; 0 where there is none.
    pub remote_port: u16,
    /// CLOCK_BOOTTIME ns of its first packet.
    pub first_ns: u64,
    /// CLOCK_BOOTTIME ns of its last one.
    pub last_ns: u64,
    /// What was delivered.
    pub counts: Counts,
    /// All TCP flags of its packets, or'ed.
    pub tcp_flags: u8,
    /// Bit n: packets were dropped for reason n.
    pub drop_reasons: u32,
    /// Frames dropped, as on the wire.
    pub drop_packets: u64,
    /// What is known of its encryption, since it began.
    pub evidence: FlowEvidence,
}

/// What is known of the encryption of flows: M-13.18. All zero: nobody looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEvidence {
    /// Bit n: something of class n (M-5.11) was delivered.
    pub classes: u8,
    /// Version of TLS that the server chose, as on the wire; 0: none was read, or not the same in all.
    pub tls_version: u16,
    /// Suite that it chose, likewise.
    pub tls_suite: u16,
}

impl FlowEvidence {
    /// What is known of both together, in whatever order they come.
    #[must_use]
    pub const fn joined(self, other: Self) -> Self {
        let same = self.tls_version == other.tls_version && self.tls_suite == other.tls_suite;
        Self {
            classes: self.classes | other.classes,
            tls_version: if same { self.tls_version } else { 0 },
            tls_suite: if same { self.tls_suite } else { 0 },
        }
    }
}

/// What of a tenant's flows is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Detail {
    /// Nothing.
    Off,
    /// Networks of the other end and services, no addresses.
    #[default]
    Prefix,
    /// Every flow.
    Full,
}

impl Detail {
    /// Every detail.
    pub const ALL: [Self; 3] = [Self::Off, Self::Prefix, Self::Full];

    /// The word in configuration and output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Prefix => "prefix",
            Self::Full => "full",
        }
    }
}

/// What was counted between two readings of an owner in one direction, and no flow accounts for.
///
/// # Errors
/// What there is to say when the flows of a zone, or all of them, have more than was counted.
pub(crate) fn unattributed(
    owner: &Owner,
    direction: u8,
    before: &Sums,
    now: &Sums,
) -> Result<Counts, String> {
    let more = || {
        let way = ["from", "to"][usize::from(direction & 1)];
        format!(
            "the flows {way} the tenant of {} (incarnation {}) have more than its registers: \
             somebody wrote to octroi's maps, or this is a mistake of octroi; nothing is attributed",
            owner.name, owner.incarnation
        )
    };
    let mut zones: BTreeMap<u32, Counts> = BTreeMap::new();
    for flow in owner
        .flows
        .iter()
        .filter(|flow| flow.direction == direction)
    {
        let zone = zones.entry(flow.zone).or_default();
        *zone = zone.checked_add(flow.counts).ok_or_else(more)?;
    }
    let mut left = delta(before.total(), now.total()).unwrap_or_default();
    for (zone, flows) in zones {
        let at = zone as usize;
        delta(Some(before.zone(at)), Some(now.zone(at)))
            .and_then(|counted| counted.checked_sub(flows))
            .ok_or_else(more)?;
        left = left.checked_sub(flows).ok_or_else(more)?;
    }
    Ok(left)
}

fn delta(before: Option<Counts>, now: Option<Counts>) -> Option<Counts> {
    now?.checked_sub(before?)
}

#[cfg(test)]
mod tests;
