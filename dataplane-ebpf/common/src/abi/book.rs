//! What only the daemon reads and writes: its own book, kept in the kernel so that the next daemon finds it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `SLOTS`, which only the daemon reads and writes: who owns a register slot. It lets a new
/// daemon adopt what an old one left, without a file that could disagree with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Slot {
    /// 0 free, 1 port, 2 uplink, 3 retired.
    pub state: u32,
    /// Tenant's number; 0 for an uplink.
    pub tenant: u32,
    /// Interface it is attached to; 0 when none.
    pub ifindex: u32,
    /// VLAN id, or 0.
    pub vlan: u32,
    /// Grows with each new owner of any slot: an incarnation's number, never used again.
    pub incarnation: u64,
    /// CLOCK_BOOTTIME ns when the incarnation began.
    pub since_ns: u64,
    /// Bytes and packets that the interface had counted before octroi attached:
    /// rx packets, rx bytes, tx packets, tx bytes.
    pub before_attach: [u64; 4],
    /// Name of the port, UTF-8, zero-padded.
    pub name: [u8; 64],
    /// Name of the interface, zero-padded.
    pub interface: [u8; 16],
    /// 1 when blessed.
    pub blessed: u32,
    /// For later; 0.
    pub reserved: u32,
}

impl Default for Slot {
    fn default() -> Self {
        // Every byte pattern is a Slot; zero is a free one.
        zerocopy::FromZeros::new_zeroed()
    }
}

/// Value of `ANCHOR`: which ledger meters this gate, and how far it was. A ledger that is behind it is a
/// copy from before, and is not continued. Only the daemon reads and writes it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct Anchor {
    /// Drawn when the maps were made; zero before the first ledger.
    pub generation: [u8; 16],
    /// The ledger; zero before the first.
    pub ledger: [u8; 16],
    /// Records that are committed.
    pub size: u64,
    /// The window that was last committed, plus 1; 0: none.
    pub windows: u64,
    /// Hash of the last record's leaf.
    pub head: [u8; 32],
}

/// [`Slot::state`].
pub mod slot_state {
    #![allow(missing_docs, reason = "the names say it")]
    pub const FREE: u32 = 0;
    pub const PORT: u32 = 1;
    pub const UPLINK: u32 = 2;
    pub const RETIRED: u32 = 3;
}
