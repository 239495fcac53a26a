//! What usage comes to.

use super::{P95, Slots, Sum, UsageError};

/// Whose row it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Tenant's number.
    pub tenant: u32,
    /// Name of the host; `None`: all of them.
    pub host: Option<String>,
    /// Name of the port; `None`: all of them.
    pub port: Option<String>,
    /// 0 from the tenant, 1 to the tenant; `None`: both.
    pub direction: Option<u8>,
    /// Zone's number; `None`: all of them. `Some(None)`: corrections of totals, which are of no zone.
    pub zone: Option<Option<u32>>,
}

/// What is added up in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// What is billed.
    pub sum: Sum,
    /// Layer-2 bytes of it that came late.
    pub late: i128,
    /// Layer-2 bytes of it that are corrections.
    pub corrected: i128,
    /// Layer-2 bytes of it whose record covers more than one slot.
    pub spread: i128,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Whose.
    pub group: Group,
    /// Beginning of its period, UTC, ns since 1970.
    pub from: i64,
    /// End of its period.
    pub to: i64,
    /// Sums.
    pub kept: Kept,
    /// Nothing of it can change any more.
    pub settled: bool,
}

/// Drops of one reason, or what was delivered of one class of evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Frames as on the wire.
    pub packets: u64,
    /// Layer-2 bytes as on the wire.
    pub l2_bytes: u64,
}

impl Drops {
    pub(super) fn add(&mut self, packets: u64, l2_bytes: u64) -> Result<(), UsageError> {
        for (sum, more) in [(&mut self.packets, packets), (&mut self.l2_bytes, l2_bytes)] {
            *sum = sum.checked_add(more).ok_or(UsageError::Overflow)?;
        }
        Ok(())
    }
}

/// Percentiles of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Percentile {
    /// Tenant's number.
    pub tenant: u32,
    /// Name of the port; `None`: all of them.
    pub port: Option<String>,
    /// Zone's number; `None`: all of them.
    pub zone: Option<u32>,
    /// The numbers.
    pub p95: P95,
    /// What they are of: every slot of the period.
    pub slots: Slots,
}

/// A record that covers more than one slot: nobody knows when in that time its bytes were carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The ledger's file.
    pub ledger: String,
    /// Which record.
    pub seq: u64,
    /// Tenant's number.
    pub tenant: u32,
    /// Port.
    pub port: String,
    /// 0 from the tenant, 1 to the tenant.
    pub direction: u8,
    /// Since when, UTC, ns since 1970.
    pub from: i64,
    /// Until when.
    pub to: i64,
    /// Layer-2 bytes.
    pub l2_bytes: u64,
}

/// A record that is billed at another time than when its bytes were carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// The ledger's file.
    pub ledger: String,
    /// Which record.
    pub seq: u64,
    /// Tenant's number.
    pub tenant: u32,
    /// Port.
    pub port: String,
    /// 0 from the tenant, 1 to the tenant.
    pub direction: u8,
    /// Zone's number; `None`: a total.
    pub zone: Option<u32>,
    /// What it adds.
    pub sum: Sum,
    /// A correction's reason; `None`: a LATE record.
    pub reason: Option<String>,
}

/// What is not known, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Name of the host.
    pub host: String,
    /// Name of the port; `None`: all of the tenant's there.
    pub port: Option<String>,
    /// 0 from the tenant, 1 to the tenant; `None`: both.
    pub direction: Option<u8>,
    /// Since when, UTC, ns since 1970.
    pub from: i64,
    /// Until when.
    pub to: i64,
    /// Why.
    pub why: String,
}

/// Usage of a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By period, then by group.
    pub rows: Vec<Row>,
    /// Drops by tenant, direction and reason, of the whole period.
    pub drops: Vec<((u32, u8, u8), Drops)>,
    /// What was delivered under an encryption policy, by tenant, direction and class, of the whole period.
    pub evidence: Vec<((u32, u8, u8), Drops)>,
    /// Percentiles, if they were asked for.
    pub percentiles: Vec<Percentile>,
    /// Where the percentiles' period ends: slots that are not over are left away.
    pub slots_until: i64,
    /// Records that were spread over slots.
    pub spread: Vec<Spread>,
    /// LATE records and corrections that are billed in the period.
    pub late: Vec<Late>,
    /// Their numbers, of those that are in no slot of the period: not in the percentiles.
    pub in_no_slot: Vec<u64>,
    /// What is not known, and what is not there yet.
    pub missing: Vec<Missing>,
    /// Nothing of the period can change any more.
    pub settled: bool,
}
