//! The flow table: what a flow is, where it is counted, and how places are handed out.
//!
//! One long-lived hash finds a flow's *place*, a line of counters in each bank. Money never depends on
//! it: what has no place is booked to the port's `unattributed`.
//!
//! Invariants
//! - Counters of a place only grow, whoever has it: readers take differences, as with registers.
//! - A place is given away again only after its flow was taken out of the hash, a barrier, and a last
//!   reading. So a program may book to the place that it found for as long as it runs.
//! - The hash may hand a program an element that is just being used again for another flow. So its value
//!   is one word that also names port and zone ([`FlowPlace`]): what is booked to a place is always of
//!   the port and zone that the reader takes it for.
//!
//! What it is not: it ends no flow. The daemon does, by time.

use crate::{
    abi::{FROM_TENANT, PortPolicy, Register},
    parse::{Network, Packet, proto},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Key of `FLOWS`: both directions of one flow through one port, in one zone.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct FlowKey {
    /// The tenant's address, memory order; IPv4 in the first word, 0 for what is not IP.
    pub local: [u32; 4],
    /// The other end's address, likewise.
    pub remote: [u32; 4],
    /// The tenant's port of TCP, UDP and SCTP; else 0.
    pub local_port: u16,
    /// The other end's.
    pub remote_port: u16,
    /// Register slot of the tenant's port.
    pub slot: u16,
    /// EtherType after the tags.
    pub ethertype: u16,
    /// The tenant's own outermost VLAN id; 0: none.
    pub vlan: u16,
    /// Zone's number.
    pub zone: u8,
    /// IP protocol; 0 for what is not IP.
    pub protocol: u8,
}

impl FlowKey {
    /// Becomes the flow of a packet, in a zone that is still to be told. ICMP has no ports here: a scan by type
    /// and code is one flow. Written in place: Linux 6.1 leaves the programs no room for a copy on the stack.
    #[inline(always)]
    pub fn note<const DIRECTION: u32>(&mut self, packet: &Packet, port: &PortPolicy, slot: u32) {
        self.slot = slot as u16;
        self.ethertype = packet.ethertype;
        self.zone = 0;
        self.vlan = if port.has(PortPolicy::VLAN) {
            0
        } else {
            packet.vid
        };
        let ip = packet.network == Network::Ipv4 || packet.network == Network::Ipv6;
        if !ip {
            (self.local, self.remote) = ([0; 4], [0; 4]);
            (self.local_port, self.remote_port, self.protocol) = (0, 0, 0);
            return;
        }
        self.protocol = packet.protocol;
        let (source, target) = match packet.protocol {
            proto::TCP | proto::UDP | proto::SCTP => (packet.src_port, packet.dst_port),
            _ => (0, 0),
        };
        if DIRECTION == FROM_TENANT {
            (self.local, self.remote) = (packet.src, packet.dst);
            (self.local_port, self.remote_port) = (source, target);
        } else {
            (self.local, self.remote) = (packet.dst, packet.src);
            (self.local_port, self.remote_port) = (target, source);
        }
    }

    /// The bytes of one of its addresses, as on the wire; those of IPv4 are the first four.
    pub fn address_bytes(words: [u32; 4]) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (four, word) in bytes.chunks_exact_mut(4).zip(words) {
            four.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// 18 bits that tell flows of one port and zone apart, nearly always.
    #[inline(always)]
    const fn fingerprint(&self) -> u64 {
        let ends = (self.local[0] ^ self.local[3]) as u64
            ^ ((self.remote[0] ^ self.remote[1]) as u64) << 32
            ^ (self.remote[2] ^ self.remote[3]) as u64;
        let ports = (self.local_port as u64) << 48
            | (self.remote_port as u64) << 16
            | (self.protocol as u64) << 8;
        // Fibonacci hashing: Knuth, TAOCP vol. 3, 6.4.
        (ends ^ ports).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 46
    }
}

/// Where a flow is counted, and whose it is, in one word that is stored whole: place + 1 in the low 24
/// bits, then 16 bits of register slot, 6 of zone and 18 of a fingerprint. 0: nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowPlace(pub u64);

impl FlowPlace {
    /// Places that can be told apart.
    pub const PLACES_MAX: u32 = (1 << 24) - 1;

    /// What the place of this flow must say, whatever place it is.
    #[inline(always)]
    pub const fn owner(key: &FlowKey) -> u64 {
        (key.slot as u64) << 24 | ((key.zone & 63) as u64) << 40 | key.fingerprint() << 46
    }

    /// Joins an owner and a place.
    #[inline(always)]
    pub const fn new(owner: u64, place: u32) -> Self {
        Self(owner | (place as u64 + 1))
    }

    /// The place, if it is this owner's.
    #[inline(always)]
    pub const fn of(self, owner: u64) -> Option<u32> {
        let place = self.0 & 0xFF_FFFF;
        if place != 0 && self.0 ^ place == owner {
            Some(place as u32 - 1)
        } else {
            None
        }
    }

    /// The place, whoever has it.
    pub const fn place(self) -> Option<u32> {
        match self.0 & 0xFF_FFFF {
            0 => None,
            place => Some(place as u32 - 1),
        }
    }
}

/// Value of `FLOWS`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Flow {
    /// [`FlowPlace`].
    pub place: u64,
    /// For what encryption policy and fair sharing will remember of a flow; 0.
    pub reserved: [u64; 3],
}

/// Entry of `FLOW_KEYS` by place: whose the place is. Written before the flow is in the hash, and but for its evidence not
/// again while it is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FlowOpened {
    /// The flow.
    pub key: FlowKey,
    /// Entry of `FLOW_USE` that the flow is counted in.
    pub account: u32,
    /// CLOCK_MONOTONIC ns of its first packet, as the coarse clock has it.
    pub first_ns: u64,
    /// [`FlowEvidence`], since the flow began; the one word that is written again while it is in the hash.
    pub evidence: u64,
}

/// What is known of a flow's encryption: the classes of what was delivered, and what its server chose. 0: nobody looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
pub struct FlowEvidence(pub u64);

impl FlowEvidence {
    /// Somebody looks: what [`FlowEvidence::of`] makes is to be noted.
    pub const LOOKED: u64 = 1 << 63;

    /// Version and suite of TLS, as on the wire; 0: none was read.
    #[inline(always)]
    pub const fn of(version: u16, suite: u16) -> Self {
        Self(Self::LOOKED | (version as u64) << 16 | (suite as u64) << 32)
    }

    /// With a packet of `class`, which is `encryption::Class`, of which `seen` is known beside.
    #[inline(always)]
    pub const fn with(self, class: u32, seen: Self) -> Self {
        const TLS: u64 = 0xFFFF_FFFF << 16;
        let chosen = if seen.0 & TLS != 0 { seen.0 } else { self.0 } & TLS;
        Self(self.0 & 0xFF | 1 << (class & 7) | chosen)
    }

    /// Bit n: something of class n was delivered.
    pub const fn classes(self) -> u8 {
        self.0 as u8
    }

    /// Version of TLS; 0: none was read.
    pub const fn version(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Suite of TLS; 0: none was read.
    pub const fn suite(self) -> u16 {
        (self.0 >> 32) as u16
    }
}

/// Entry of `FLOW_COUNTS` by bank and place: one line of the cache.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FlowCounts {
    /// Delivered, by direction. Only grows.
    pub delivered: [Register; 2],
    /// Packets over a ceiling, by direction. Only grows; wraps at 2^32.
    pub refused: [u32; 2],
    /// When the last packet came: CLOCK_MONOTONIC ns / 2^20, as the coarse clock has it; wraps.
    pub last: u32,
    /// TCP flags seen, by direction, since the flow began.
    pub tcp_flags: [u8; 2],
    /// Why packets were refused, since the flow began: [`FlowCounts::bit`].
    pub reasons: [u8; 2],
}

impl FlowCounts {
    /// The first reason that a flow remembers, `encryption_policy`: those before it are no flow's.
    pub const REASON_FIRST: u32 = 23;
    /// The last one, `quota_spent`. It has the bit of `guard_unblessed`, which is an uplink's and no flow's.
    pub const REASON_LAST: u32 = 31;
    const LAST_BIT: u32 = 4;

    /// The bit of a reason in [`FlowCounts::reasons`].
    #[inline(always)]
    pub const fn bit(reason: u32) -> u8 {
        if reason == Self::REASON_LAST {
            1 << Self::LAST_BIT
        } else {
            1 << (reason.wrapping_sub(Self::REASON_FIRST) & 7)
        }
    }

    /// Bit n: reason n, for the bits of [`FlowCounts::reasons`].
    pub const fn reasons(bits: u8) -> u32 {
        let (bits, last) = (bits as u32, 1 << Self::LAST_BIT);
        let rest = (bits & !last) << Self::REASON_FIRST;
        if bits & last != 0 {
            rest | 1 << Self::REASON_LAST
        } else {
            rest
        }
    }

    /// ns of a unit of [`FlowCounts::last`].
    pub const UNIT_NS: u64 = 1 << 20;

    /// Entry of a place.
    #[inline(always)]
    pub const fn at(places: u32, bank: u32, place: u32) -> u32 {
        bank * places + place
    }
}

/// The one value of `FLOW_RING`: how many places were given to the programs, and how many they took.
/// Those between stand in `FLOW_FREE`, at their number modulo its length.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FlowRing {
    /// Taken by programs.
    pub taken: u64,
    /// Given by the daemon; never more than the ring's length ahead of `taken`.
    pub given: u64,
}

/// The ring as a program sees it.
pub trait Places {
    /// [`FlowRing::taken`].
    fn taken(&self) -> u64;
    /// [`FlowRing::given`].
    fn given(&self) -> u64;
    /// The place at this number, modulo the ring's length.
    fn at(&self, number: u64) -> Option<u32>;
    /// Stores `taken + 1` if [`FlowRing::taken`] is still `taken`.
    fn take(&self, taken: u64) -> bool;
}

/// How often a program tries while other CPUs take places at the same time.
pub const TAKE_TRIES: u32 = 8;

/// Takes a free place; `None`: there is none, or it is contended past its bound. Detail is lost then.
///
/// Many takers, one giver, no lock: the entry at `taken` is not written again before `taken` is past it.
#[inline(always)]
pub fn take(ring: &impl Places) -> Option<u32> {
    let mut tries = 0;
    while tries < TAKE_TRIES {
        let taken = ring.taken();
        if taken >= ring.given() {
            return None;
        }
        let place = ring.at(taken)?;
        if ring.take(taken) {
            return Some(place);
        }
        tries += 1;
    }
    None
}

const _: () = {
    assert!(size_of::<FlowKey>() == 44 && size_of::<Flow>() == 32);
    assert!(size_of::<FlowOpened>() == 64 && size_of::<FlowCounts>() == 64);
    assert!(size_of::<FlowRing>() == 16);
    use crate::reason::DropReason;
    assert!(DropReason::EncryptionPolicy as u32 == FlowCounts::REASON_FIRST);
    assert!(DropReason::QuotaSpent as u32 == FlowCounts::REASON_LAST);
    assert!(FlowCounts::bit(DropReason::GuardUnblessed as u32) == 1 << FlowCounts::LAST_BIT);
};

#[cfg(test)]
mod tests;
