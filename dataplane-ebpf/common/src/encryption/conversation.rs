//! What is remembered of a conversation, and where: in buckets of a few, in a part of one table that is the tenant's
//! alone.
//!
//! No list of free places and nobody who tidies up: a new conversation takes an empty place of its bucket, else the
//! one that has been quiet for longest, of those that never opened first. So a tenant's flood costs that tenant's
//! conversations, which then fall under the rule for midstream, and nobody else's; and nothing of it needs the
//! daemon. The table is an array: it takes no allocation and cannot fill.

use super::Why;
use crate::{flow::FlowKey, parse::ethertype};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Conversations in a bucket.
pub const WAYS: usize = 4;

/// What a conversation speaks.
pub mod protocol {
    /// Not known yet.
    pub const UNKNOWN: u8 = 0;
    /// TLS over TCP.
    pub const TLS: u8 = 1;
    /// SSH over TCP.
    pub const SSH: u8 = 2;
    /// WireGuard.
    pub const WIREGUARD: u8 = 3;
    /// QUIC.
    pub const QUIC: u8 = 4;
    /// DTLS.
    pub const DTLS: u8 = 5;
    /// IKE, and ESP inside UDP.
    pub const IKE: u8 = 6;
    /// OpenVPN over UDP.
    pub const OPENVPN: u8 = 7;
    /// No conversation: a packet that comes in fragments ([`super::super::fragment`]).
    pub const FRAGMENT: u8 = 8;
    /// Their names, by number.
    pub const NAMES: [&str; 9] = [
        "unknown",
        "tls",
        "ssh",
        "wireguard",
        "quic",
        "dtls",
        "ike",
        "openvpn",
        "fragment",
    ];
}

/// One direction of a conversation: a reader of fields that goes on where the last packet ended.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Stream {
    /// The field that is being read, as far as it came.
    pub field: u64,
    /// The record's header, as far as it came.
    pub header: u64,
    /// Sequence number of the next byte that must be read.
    pub want: u32,
    /// Bytes from here to `want` need not be read.
    pub from: u32,
    /// Where the record ends whose content is being read.
    pub record_end: u32,
    /// Bytes to pass over before the field. Once the keys are in use: records or datagrams that `veto` counted.
    pub skip: u32,
    /// Bytes of the handshake message behind `want`.
    pub left: u32,
    /// Bytes of `header` and of `field` that came, and how many the field has.
    pub header_have: u8,
    /// See above.
    pub field_have: u8,
    /// See above.
    pub field_need: u8,
    /// What the field is: of the protocol.
    pub phase: u8,
    /// [`Stream::LOST`] and the other flags.
    pub flags: u8,
    /// 0.
    pub reserved: u8,
    /// Bytes to pass over after the field. Once the keys are in use: windows in a row that look clear.
    pub then: u16,
    /// 0.
    pub reserved_too: u32,
}

impl Stream {
    /// A header went by unread: look for the next one.
    pub const LOST: u8 = 1;
    /// One was found, and no second one that follows it yet. With [`Stream::LOST`]: it is still to be read itself.
    pub const TENTATIVE: u8 = 2;
    /// TLS: a ChangeCipherSpec was seen. SSH: NEWKEYS.
    pub const KEYED: u8 = 4;
    /// What is said in this direction was shown once: QUIC's long header, a hello.
    pub const SPOKEN: u8 = 8;

    /// Is the flag set?
    #[inline(always)]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Begins to read at a sequence number.
    #[inline(always)]
    pub fn begin(&mut self, seq: u32) {
        self.field = 0;
        self.header = 0;
        self.want = seq;
        self.from = seq;
        self.record_end = seq;
        self.skip = 0;
        self.left = 0;
        self.header_have = 0;
        self.field_have = 0;
        self.field_need = 0;
        self.phase = 0;
        self.flags = 0;
        self.then = 0;
    }
}

/// A conversation of two ends through one port of a tenant.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Conversation {
    /// Which: `zone` is 0. All of it 0: nobody's.
    pub key: FlowKey,
    /// CLOCK_MONOTONIC ms of the last packet, wrapping.
    pub last_ms: u32,
    /// From the tenant, to the tenant.
    pub streams: [Stream; 2],
    /// TCP: where a SYN of this direction says that its bytes begin.
    pub pending: [u32; 2],
    /// Where the bytes of the conversation that is open began.
    pub start: [u32; 2],
    /// Bytes that may still pass unchecked.
    pub credit: u32,
    /// When credit was last given, ms; for what is still unknown: when its first packet came.
    pub credit_ms: u32,
    /// Bytes that were checked and gave no credit yet.
    pub checked: u32,
    /// What was refused, bytes of payload, without overflow.
    pub refused: u32,
    /// The chosen suite of TLS.
    pub suite: u16,
    /// The chosen group of TLS; 0: not known.
    pub group: u16,
    /// The chosen version: of TLS as on the wire, of QUIC its low half.
    pub version: u16,
    /// [`protocol`].
    pub protocol: u8,
    /// [`Why`] it stays refused, or the last reason; 0: none.
    pub why: u8,
    /// [`Conversation::OPEN`] and the other flags.
    pub flags: u8,
    /// Packets before it was known what they are.
    pub unclassified: u8,
    /// 0.
    pub reserved: [u8; 6],
}

impl Conversation {
    /// TCP: both SYNs were seen. Others: its handshake was.
    pub const OPEN: u8 = 1;
    /// A SYN from the tenant, to the tenant, is not answered yet.
    pub const SYN: u8 = 2;
    /// The other SYN flag.
    pub const SYN_TO: u8 = 4;
    /// The tenant is the server.
    pub const SERVES: u8 = 8;
    /// It stays refused for [`Conversation::why`].
    pub const CONDEMNED: u8 = 16;
    /// TLS: the server asked for another hello.
    pub const RETRY: u8 = 32;
    /// TLS: the hello of the server was read and allowed.
    pub const AGREED: u8 = 64;
    /// It began before anybody looked.
    pub const MIDSTREAM: u8 = 128;

    /// Is the flag set?
    #[inline(always)]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The SYN flag of a direction.
    #[inline(always)]
    pub const fn syn(direction: u32) -> u8 {
        Self::SYN << (direction & 1)
    }

    /// Becomes another conversation, of which nothing is known.
    #[inline(always)]
    pub fn become_new(&mut self, key: &FlowKey, now_ms: u32, credit: u32) {
        self.key = *key;
        self.last_ms = now_ms;
        self.pending = [0; 2];
        self.flags = 0;
        self.restart(0, 0, now_ms, credit);
    }

    /// Forgets what was said; what stays is who talks.
    #[inline(always)]
    pub fn restart(&mut self, from_tenant: u32, to_tenant: u32, now_ms: u32, credit: u32) {
        self.streams[0].begin(from_tenant);
        self.streams[1].begin(to_tenant);
        self.start = [from_tenant, to_tenant];
        self.credit = credit;
        self.credit_ms = now_ms;
        self.checked = 0;
        self.refused = 0;
        self.suite = 0;
        self.group = 0;
        self.version = 0;
        self.protocol = protocol::UNKNOWN;
        self.why = 0;
        self.unclassified = 0;
    }

    /// Notes why a packet is refused.
    #[inline(always)]
    pub fn refuse(&mut self, why: Why, len: u32) {
        if !self.has(Self::CONDEMNED) {
            self.why = why as u8;
            if why.condemns() {
                self.flags |= Self::CONDEMNED;
            }
        }
        self.refused = self.refused.saturating_add(len);
    }

    /// How readily it gives its place to another: more is readier. An empty one most, then a packet in fragments, then what
    /// never opened, then by how long it was quiet.
    #[inline(always)]
    const fn leaves(&self, now_ms: u32) -> u64 {
        if self.key.ethertype == 0 {
            return u64::MAX;
        }
        let quiet = now_ms.wrapping_sub(self.last_ms) as u64;
        let opened = self.has(Self::OPEN) && !self.has(Self::CONDEMNED);
        let in_fragments = self.protocol == protocol::FRAGMENT;
        quiet | (!opened as u64) << 32 | (in_fragments as u64) << 33
    }
}

/// Some conversations, and who is at them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Bucket {
    /// 1 while a CPU reads or writes below.
    pub lock: u32,
    /// 0.
    pub reserved: u32,
    /// The conversations.
    pub ways: [Conversation; WAYS],
}

/// Buckets of a part for so many conversations: a power of two.
pub const fn buckets(conversations: u32) -> u32 {
    match conversations
        .div_ceil(WAYS as u32)
        .checked_next_power_of_two()
    {
        Some(buckets) => buckets,
        None => 1 << 31,
    }
}

/// An address in 64 bits.
#[inline(always)]
const fn folded(address: [u32; 4]) -> u64 {
    (address[0] ^ address[3]) as u64 | ((address[1] ^ address[2]) as u64) << 32
}

/// 32 bits of a key, evenly.
#[inline(always)]
pub const fn hash(key: &FlowKey) -> u32 {
    let (ends, far) = if key.ethertype == ethertype::IPV4 {
        // The words behind the first are 0.
        (key.local[0] as u64, key.remote[0] as u64)
    } else {
        (folded(key.local), folded(key.remote))
    };
    let ports = (key.local_port as u64) << 48
        | (key.remote_port as u64) << 32
        | (key.slot as u64) << 16
        | (key.protocol as u64) << 8
        | key.vlan as u64;
    // Fibonacci hashing, Knuth, TAOCP vol. 3, 6.4; twice, so that both ends reach the high bits.
    let mixed = (ends ^ ports).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ mixed >> 29 ^ far).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 32) as u32
}

/// The conversation's place in its bucket: where it stands, or where it may begin; and which of the two.
#[inline(always)]
pub fn pick(bucket: &Bucket, key: &FlowKey, now_ms: u32) -> (usize, bool) {
    let mut best = 0;
    let mut readiest = 0;
    let mut way = 0;
    while way < WAYS {
        let here = &bucket.ways[way];
        if same(&here.key, key) {
            return (way, true);
        }
        let leaves = here.leaves(now_ms);
        if leaves > readiest {
            readiest = leaves;
            best = way;
        }
        way += 1;
    }
    (best, false)
}

/// Where the conversation stands in its bucket.
#[inline(always)]
pub fn find<'a>(bucket: &'a Bucket, key: &FlowKey) -> Option<&'a Conversation> {
    let mut way = 0;
    while way < WAYS {
        let here = &bucket.ways[way];
        if same(&here.key, key) {
            return Some(here);
        }
        way += 1;
    }
    None
}

/// Are both keys of one conversation, whatever their zone? Word by word, what differs most first; of IPv4 the words behind the
/// first are 0.
#[inline(always)]
fn same(a: &FlowKey, b: &FlowKey) -> bool {
    a.remote_port == b.remote_port
        && a.local_port == b.local_port
        && a.remote[0] == b.remote[0]
        && a.local[0] == b.local[0]
        && a.slot == b.slot
        && a.ethertype == b.ethertype
        && a.vlan == b.vlan
        && a.protocol == b.protocol
        && (a.ethertype == ethertype::IPV4
            || a.remote[1] == b.remote[1]
                && a.remote[2] == b.remote[2]
                && a.remote[3] == b.remote[3]
                && a.local[1] == b.local[1]
                && a.local[2] == b.local[2]
                && a.local[3] == b.local[3])
}

const _: () = {
    assert!(size_of::<Stream>() == 48);
    assert!(size_of::<Conversation>() == 192);
    assert!(size_of::<Bucket>() == 8 + WAYS * 192);
};
