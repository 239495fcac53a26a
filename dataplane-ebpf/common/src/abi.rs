//! The memory that the programs and the daemon share: layouts, indices, versions. The flow table's are in
//! [`crate::flow`].
//!
//! Invariants
//! - A change of any layout, index or meaning here bumps [`ABI_VERSION`] and the golden layout
//!   (`tests/golden/abi.txt`) in the same commit, with a decision page. The version is in the path
//!   of every pin, so that two versions never share a map.
//! - No bool, enum, usize or Option in a layout, and no hidden padding: `IntoBytes` refuses it.
//! - Registers only grow. Nothing in the kernel or the daemon sets one back.

use crate::{
    encryption::{CLASSES, exempt},
    parse::Network,
    reason::REASONS_MAX,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

mod book;
pub mod quota;
pub mod share;

pub use book::{Anchor, Slot, slot_state};

/// Version of everything in this file; part of the pin path.
pub const ABI_VERSION: u32 = 8;

/// From the tenant: ingress of its port.
pub const FROM_TENANT: u32 = 0;
/// To the tenant: egress of its port.
pub const TO_TENANT: u32 = 1;
/// Directions of a port.
pub const DIRECTIONS: u32 = 2;

/// The one word that a program reads per packet: policy revision in the high half, window in the low one. It decides the bank
/// that the packet is booked in and the policy that it is judged by, so that no packet sees half of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Joins a revision and a window.
    pub const fn new(revision: u32, window: u32) -> Self {
        Self((revision as u64) << 32 | window as u64)
    }

    /// Policy revision; 0 before the first.
    #[inline(always)]
    pub const fn revision(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Window id, wrapping at 2^32: 8,000 years of minutes.
    #[inline(always)]
    pub const fn window(self) -> u32 {
        self.0 as u32
    }

    /// Which of the two banks of registers is open: 0 or 1.
    #[inline(always)]
    pub const fn bank(self) -> u32 {
        self.window() & 1
    }

    /// Which of the two sets of policy is in force: 0 or 1.
    #[inline(always)]
    pub const fn policy_set(self) -> u32 {
        self.revision() & 1
    }
}

/// Registers stand in blocks of this many. The kernel keeps a pointer for each element of a per-CPU map: with one for a whole
/// block, all of them stay in the cache, and a cut reads 64 at a time.
pub const BLOCK: u32 = 64;

/// Rules in one set of policy; number 0 looks at nothing.
pub const RULES_MAX: u32 = 256;

/// Sizes that the loader fixes when the maps are made (constants of the loaded programs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Register slots; slot 0 is the host's own. 2..=65,536.
    pub slots: u32,
    /// Columns by zone, 8..=64.
    pub zones: u32,
}

impl Sizes {
    /// Index into `PORTS`.
    #[inline(always)]
    pub const fn port(&self, policy_set: u32, slot: u32) -> u32 {
        policy_set * self.slots + slot
    }

    /// Number of a register, in blocks of `REGISTERS`: most ports use few zones, so that what is
    /// used stands together.
    #[inline(always)]
    pub const fn register(&self, bank: u32, slot: u32, direction: u32, zone: u32) -> u32 {
        ((bank * self.zones + zone) * self.slots + slot) * DIRECTIONS + direction
    }

    /// Number of an entry in blocks of `SKBS`.
    #[inline(always)]
    pub const fn skbs(&self, bank: u32, slot: u32, direction: u32) -> u32 {
        (bank * self.slots + slot) * DIRECTIONS + direction
    }

    /// Number of an entry in blocks of `DROPS`.
    #[inline(always)]
    pub const fn drops(&self, bank: u32, slot: u32, direction: u32, reason: u32) -> u32 {
        ((bank * REASONS_MAX as u32 + reason) * self.slots + slot) * DIRECTIONS + direction
    }

    /// Number of an entry in blocks of `EVIDENCE`: `class` is `encryption::Class`.
    #[inline(always)]
    pub const fn evidence(&self, bank: u32, slot: u32, direction: u32, class: u32) -> u32 {
        ((bank * CLASSES + class) * self.slots + slot) * DIRECTIONS + direction
    }

    /// Number of an entry in blocks of `MARKS`.
    #[inline(always)]
    pub const fn marks(&self, slot: u32, direction: u32) -> u32 {
        slot * DIRECTIONS + direction
    }

    /// Index into `EXEMPT_DUE`: `which` is `encryption::exempt`.
    #[inline(always)]
    pub const fn exemption(&self, slot: u32, direction: u32, which: u32) -> u32 {
        (slot * DIRECTIONS + direction) * exempt::COUNT + which
    }

    /// Index into `CLOCKS`: `unit` is 0 for bytes, 1 for packets, [`Sizes::THIN`] for what all thin flows together have
    /// used of their half of the bytes.
    #[inline(always)]
    pub const fn clock(&self, slot: u32, direction: u32, unit: u32) -> u32 {
        (slot * DIRECTIONS + direction) * Self::CLOCKS + unit
    }

    /// Clocks of one direction of a port, one of them for later: none is in two lines of 64 bytes.
    pub const CLOCKS: u32 = 4;

    /// See [`Sizes::clock`].
    pub const THIN: u32 = 2;
}

/// Key of `BINDINGS`: which port an interface, or a VLAN on a shared one, is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct BindingKey {
    /// Interface index in the daemon's network namespace.
    pub ifindex: u32,
    /// VLAN id of a port on a shared interface; 0 when the interface is the port.
    pub vlan: u32,
}

/// Value of `BINDINGS`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Binding {
    /// Register slot; [`Binding::SHARED`] in the entry of an interface whose ports are VLANs.
    pub slot: u32,
    /// For later; 0.
    pub reserved: u32,
}

impl Binding {
    /// The interface is shared: look again with the frame's VLAN.
    pub const SHARED: u32 = u32::MAX;
}

/// Value of `INTERFACES`: the slot that `BINDINGS` has for an interface, where one load finds it. Indexed by the low bits of
/// the interface's index; of two that share them, one has to do with `BINDINGS`. One word, which is stored whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceSlot(pub u64);

impl InterfaceSlot {
    /// Entries of `INTERFACES`, a power of two.
    pub const ENTRIES: u32 = 65_536;

    /// Interface `ifindex` is the port in `slot`.
    pub const fn new(ifindex: u32, slot: u32) -> Self {
        Self((ifindex as u64) << 32 | slot as u64)
    }

    /// Where the entry of an interface is, if it has one.
    #[inline(always)]
    pub const fn place(ifindex: u32) -> u32 {
        ifindex % Self::ENTRIES
    }

    /// Index of the interface that the entry is for; 0: none.
    #[inline(always)]
    pub const fn ifindex(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Its slot.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self.0 as u32
    }
}

/// One IPv4 prefix. Memory order, so that comparing needs no swap.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Ipv4Net {
    /// Network address.
    pub network: u32,
    /// Mask. An unused entry has a network that its mask cannot give.
    pub mask: u32,
}

impl Ipv4Net {
    /// Holds no address.
    pub const NONE: Self = Self {
        network: 1,
        mask: 0,
    };

    #[inline(always)]
    pub(crate) const fn contains(&self, address: u32) -> bool {
        address & self.mask == self.network
    }
}

/// One IPv6 prefix, likewise.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Ipv6Net {
    /// Network address.
    pub network: [u32; 4],
    /// Mask.
    pub mask: [u32; 4],
}

impl Ipv6Net {
    /// Holds no address.
    pub const NONE: Self = Self {
        network: [1; 4],
        mask: [0; 4],
    };

    #[inline(always)]
    pub(crate) const fn contains(&self, address: &[u32; 4]) -> bool {
        (address[0] & self.mask[0]) ^ self.network[0]
            | (address[1] & self.mask[1]) ^ self.network[1]
            | (address[2] & self.mask[2]) ^ self.network[2]
            | (address[3] & self.mask[3]) ^ self.network[3]
            == 0
    }
}

/// One limit in one direction: see [`crate::limiter`]. All zero: no limit.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct LimitPolicy {
    /// Units per ns, times 2^58.
    pub rate: u64,
    /// `t0` of the line, CLOCK_MONOTONIC ns.
    pub origin_ns: u64,
    /// `v0` of the line, units.
    pub origin_units: u64,
    /// Units per ns, times 2^58, until `t0`: the rate of the revision before.
    pub rate_before: u64,
    /// Backlog within which a packet is accepted, units: the burst less `slack` and rounding.
    pub horizon: u64,
    /// Units that the rate lets through while the coarse clock stands still; 0: exact clock only.
    pub slack: u32,
    /// Units that an skb takes above its own: [`LimitPolicy::charge`]. Of packets, and of a budget's slower rate, 0.
    pub price: u32,
    /// ns per unit, times 2^20: for departure times.
    pub ns_per_unit: u64,
    /// Backlog over which packets are marked, units: [`crate::ecn::mark`]. Of a port's bytes; else 0, and not asked for.
    pub mark: u64,
}

/// How a direction's limit is made to hurt less than a drop.
pub mod shape {
    /// Drop over the horizon; nothing is queued.
    pub const POLICE: u16 = 0;
    /// Departure time for an fq qdisc.
    pub const EDT: u16 = 1;
    /// An HTB leaf chosen by `skb->priority`.
    pub const HTB: u16 = 2;
    /// The class of [`HTB`] for what is limited, as `skb->priority` names it: `6f63:10`. "oc" in
    /// ASCII: no class of somebody else's HTB further on is meant.
    pub const HTB_LEAF: u32 = 0x6F63_0010;
}

/// A port in one set of policy, or an uplink, of which only the flags count. All zero: no such port.
///
/// In lines of 64 bytes, as the map has them: what every packet asks is in the first, and each limit has one to itself.
/// A packet of 10,000 ports pays for each line that it is the first to touch (decision 0062).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PortPolicy {
    /// `PortPolicy::ACTIVE` and the other flags.
    pub flags: u32,
    /// 1 + the account of the port's tenant in `SHARES`; 0: it shares no uplink.
    pub share: u32,
    /// 1 + the account of the port's tenant in `QUOTAS`; 0: it has no budget of bytes.
    pub quota: u32,
    /// By direction: [`shape`].
    pub shape: [u16; 2],
    /// IFB that what comes from the tenant is queued on under [`shape::HTB`]; 0: none.
    pub ifb_ifindex: u32,
    /// Number of its encryption policy in `POLICIES`; 0: none.
    pub encryption: u32,
    /// Entry of `FLOW_USE` that the flows of the port's tenant are counted in.
    pub flow_account: u32,
    /// Flows that the tenant may have at once.
    pub flow_quota: u32,
    /// First two MACs, as [`crate::parse::Packet`] has them; 0: none.
    pub macs: [u64; 2],
    /// First two IPv4 prefixes.
    pub ipv4: [Ipv4Net; 2],
    /// First IPv6 prefix.
    pub ipv6: Ipv6Net,
    /// Tenant's number.
    pub tenant: u32,
    /// For later; 0.
    pub reserved: [u32; 7],
    /// By direction, bytes then packets.
    pub limits: [[LimitPolicy; 2]; 2],
}

/// Bytes that a processor fetches at once.
const LINE: usize = 64;

const _: () = {
    assert!(size_of::<PortPolicy>() == 6 * LINE);
    assert!(core::mem::offset_of!(PortPolicy, ipv6) == LINE);
    assert!(core::mem::offset_of!(PortPolicy, limits) == 2 * LINE);
    assert!(size_of::<LimitPolicy>() == LINE);
};

impl PortPolicy {
    /// The port is in this revision.
    pub const ACTIVE: u32 = 1;
    /// More MACs are in `MACS`.
    pub const MORE_MACS: u32 = 2;
    /// More prefixes are in `ADDRESSES`.
    pub const MORE_ADDRESSES: u32 = 4;
    /// The port is a VLAN: its outermost tag is the platform's and is not billed.
    pub const VLAN: u32 = 8;
    /// The first of four flags: there is a limit in [`PortPolicy::limits`], so that where there is
    /// none, they are not fetched from memory.
    pub const LIMITED: u32 = 16;
    /// The port's flows are kept in `FLOWS`.
    pub const FLOWS: u32 = 256;
    /// In the entry of an uplink, which has nothing else: overlays that the host sends in clear are counted as
    /// `would_drop`.
    pub const COUNTS_CLEAR_OVERLAYS: u32 = 512;
    /// Likewise: they are dropped.
    pub const DROPS_CLEAR_OVERLAYS: u32 = 1_024;

    /// The flag of a limit: `unit` is 0 for bytes, 1 for packets.
    #[inline(always)]
    pub const fn limited(direction: u32, unit: u32) -> u32 {
        Self::LIMITED << (direction * 2 + unit)
    }

    /// Sets the limits of a direction, with their flags, and the backlog over which the shape that it has marks packets.
    pub fn set_limits(&mut self, direction: u32, mut limits: [LimitPolicy; 2]) {
        limits[0] = limits[0].shaped(self.shape[direction as usize]);
        for (unit, limit) in (0..).zip(&limits) {
            let flag = Self::limited(direction, unit);
            self.flags &= !flag;
            self.flags |= if limit.limited() { flag } else { 0 };
        }
        self.limits[direction as usize] = limits;
    }

    /// Is this flag set?
    #[inline(always)]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// What was delivered, by bank, slot, direction and zone: this is the bill.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct Register {
    /// Frames as on the wire.
    pub packets: u64,
    /// Layer-2 bytes as on the wire.
    pub l2_bytes: u64,
    /// IP bytes as on the wire.
    pub l3_bytes: u64,
}

/// What was dropped for one reason, by bank, slot and direction.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Drops {
    /// Frames as on the wire; a packet that cannot be parsed counts one.
    pub packets: u64,
    /// Layer-2 bytes as on the wire; of a packet that cannot be parsed, `skb->len`.
    pub l2_bytes: u64,
}

/// Raw skbs by bank, slot and direction: what the interface's own counters are audited against.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Skbs {
    /// skbs that passed.
    pub delivered: u64,
    /// Their `skb->len`.
    pub delivered_len: u64,
    /// skbs that were dropped.
    pub dropped: u64,
    /// Their `skb->len`.
    pub dropped_len: u64,
}

/// Key data of `ZONES` (after the prefix length): one trie for both sets of policy and families.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ZoneKey {
    /// Policy set, 0 or 1.
    pub policy_set: u8,
    /// 4 or 6.
    pub family: u8,
    /// 0.
    pub reserved: [u8; 2],
    /// Address, memory order; IPv4 in the first word.
    pub address: [u32; 4],
}

impl ZoneKey {
    /// Bits in front of the address.
    pub const PREFIX_BITS: u32 = 32;
}

/// Key data of `ADDRESSES`: a port's prefixes that do not fit [`PortPolicy`], and whose prefixes are ([`crate::flood::WHOSE`]).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct AddressKey {
    /// Register slot, or [`crate::flood::WHOSE`].
    pub slot: u32,
    /// Policy set, 0 or 1.
    pub policy_set: u8,
    /// 4 or 6.
    pub family: u8,
    /// 0.
    pub reserved: [u8; 2],
    /// Address, memory order; IPv4 in the first word.
    pub address: [u32; 4],
}

impl AddressKey {
    /// Bits in front of the address.
    pub const PREFIX_BITS: u32 = 64;
}

/// Key of `MACS`: a port's MACs that do not fit [`PortPolicy`], and whose MACs are ([`crate::flood::WHOSE`]).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct MacKey {
    /// As [`crate::parse::Packet`] has it.
    pub mac: u64,
    /// Register slot, or [`crate::flood::WHOSE`].
    pub slot: u32,
    /// Policy set, 0 or 1.
    pub policy_set: u32,
}

const _: () = {
    assert!(size_of::<BindingKey>() == 8 && size_of::<Binding>() == 8);
    assert!(size_of::<LimitPolicy>() == 64);
    assert!(size_of::<Register>() == 24 && size_of::<Drops>() == 16 && size_of::<Skbs>() == 32);
    assert!(size_of::<ZoneKey>() == 20 && size_of::<AddressKey>() == 24);
    assert!(size_of::<MacKey>() == 16 && size_of::<Slot>() == 152);
    assert!(Network::Ipv6 as u8 == 6);
};
