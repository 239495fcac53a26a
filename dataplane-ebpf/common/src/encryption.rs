//! The encryption policy: what a packet is, as far as its bytes can refute it, and whether that is enough.
//!
//! Looking at the wire refutes encryption and never proves it, so the outcome is a [`Class`]: how much was checked.
//! [`tls`] follows every record of both directions, [`ssh`] the packets before the keys change, [`datagram`]
//! WireGuard, QUIC and DTLS by their handshakes, [`shape`] what is told by its shape alone. What none of them reads is clear,
//! and so is what [`veto`] finds. [`overlay`] looks into tunnels, [`fragment`] ties fragments to the first of them.
//!
//! Invariants
//! - Fail-closed: a state that was lost or cannot be had, a bound that is hit, and bytes out of their order end in
//!   [`Why`], within the budgets of the [`Rule`], never in "let it pass".
//! - A conversation that was refused stays refused until its end points shake hands anew.
//! - Nothing an outsider forges alone ends or restarts a conversation: only a SYN and the SYN-ACK that answers it do.
//! - Every read is within the payload; every loop ends after [`STEPS_MAX`].
//!
//! What it is not: it decrypts nothing, and it keeps no payload.

mod conversation;
pub mod datagram;
pub mod esp;
pub mod fragment;
pub mod kind;
pub mod overlay;
mod rule;
pub mod shape;
pub mod spare;
pub mod ssh;
pub mod tcp;
pub mod tls;
pub mod veto;

pub use conversation::{Bucket, Conversation, Stream, WAYS, buckets, find, hash, pick, protocol};
pub use rule::{GROUPS, PREFIX_PORTS, Policy, Rule, SUITES, accept, exempt, mode};

/// How often a walk goes on within one packet: more records than 64 KB hold at 16 bytes each.
pub const STEPS_MAX: u32 = 4_096;

/// What is known of the bytes that pass. The number is the register's column, and part of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Clear, by an exemption of the rule.
    Exempt = 0,
    /// Clear, because the policy does not ask for more here: mode `off`.
    Clear = 1,
    /// Of a conversation that has still to show what it is: handshakes, and packets without payload before it.
    Opening = 2,
    /// E1: the shape alone: ESP, IKE, OpenVPN.
    Shape = 3,
    /// E2: a handshake was seen in both directions.
    Handshake = 4,
    /// E3: parameters read, and every record's header checked.
    Records = 5,
    /// Of an encrypted conversation, but not checked: behind a gap, or sent again.
    Unverified = 6,
    /// What `enforce` would drop: mode `observe`.
    WouldDrop = 7,
}

/// Columns of classes by port and direction.
pub const CLASSES: u32 = 8;

impl Class {
    /// Every class, by number.
    pub const ALL: [Self; CLASSES as usize] = [
        Self::Exempt,
        Self::Clear,
        Self::Opening,
        Self::Shape,
        Self::Handshake,
        Self::Records,
        Self::Unverified,
        Self::WouldDrop,
    ];

    /// Its name in `octroi encryption`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exempt => "exempt",
            Self::Clear => "clear",
            Self::Opening => "opening",
            Self::Shape => "E1",
            Self::Handshake => "E2",
            Self::Records => "E3",
            Self::Unverified => "unverified",
            Self::WouldDrop => "would_drop",
        }
    }
}

macro_rules! whys {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a packet may not pass under the rule. The number is part of the ABI.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Why {
            $($(#[$doc])* $variant = $number,)+
        }

        impl Why {
            /// Every reason, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The reason with this number.
            #[inline(always)]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// Its name in `octroi encryption`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

whys! {
    /// The bytes are of no protocol that the rule accepts.
    Clear = 1, "clear";
    /// The server chose a version below the rule's.
    Version = 2, "version";
    /// The server chose a suite that is not in the rule's list.
    Suite = 3, "suite";
    /// The server chose a group that is not in the rule's list.
    Group = 4, "group";
    /// A record before its time: application data before the keys, a plain handshake after them.
    Sequence = 5, "sequence";
    /// A header or hello that the protocol forbids.
    Malformed = 6, "malformed";
    /// More bytes than the rule allows could not be checked.
    Unverified = 7, "unverified";
    /// The conversation began before anybody looked, and the rule does not take it up.
    Midstream = 8, "midstream";
    /// Payload in a SYN.
    SynPayload = 9, "syn_payload";
    /// A fragment.
    Fragment = 10, "fragment";
    /// Out of order while every byte must be read: it comes again.
    Order = 11, "order";
    /// More headers in one packet than [`STEPS_MAX`].
    Bound = 12, "bound";
    /// Another CPU held the conversation for too long.
    Contended = 13, "contended";
    /// The evidence is below the rule's.
    Evidence = 14, "evidence";
    /// An exemption's rate is used up.
    ExemptRate = 15, "exempt_rate";
    /// An overlay in an overlay, or one that is not understood.
    Overlay = 16, "overlay";
}

impl Why {
    /// Does the conversation stay refused? What comes again in order may pass then.
    #[inline(always)]
    pub const fn condemns(self) -> bool {
        matches!(
            self,
            Self::Clear
                | Self::Version
                | Self::Suite
                | Self::Group
                | Self::Sequence
                | Self::Malformed
                | Self::Evidence
        )
    }
}

/// What a packet's transport header says, and how much payload follows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Sequence number of the first byte of payload (of TCP; of a SYN, its own).
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Payload, bytes.
    pub len: u32,
    /// `dataplane_common::abi::FROM_TENANT` or `TO_TENANT`.
    pub direction: u32,
    /// CLOCK_MONOTONIC ms, wrapping.
    pub now_ms: u32,
    /// Bytes of the datagram that come in later fragments; of a first fragment alone.
    pub more: u32,
    /// Flags byte of TCP.
    pub flags: u8,
    /// [`fragment::piece`].
    pub piece: u8,
    /// [`Class`] of the first fragment; of a later one alone.
    pub class: u8,
    /// 0.
    pub reserved: u8,
}

impl Segment {
    /// Payload of the datagram, whose first fragment this may be, bytes.
    #[inline(always)]
    pub const fn whole(&self) -> u32 {
        self.len.saturating_add(self.more)
    }
}

/// TCP's flags.
pub mod tcp_flag {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Synchronise.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
}

/// A packet's payload.
pub trait Payload {
    /// `size` bytes at `offset` from its beginning, 1..=8, as one number in network order. `None` past its end.
    fn be(&self, offset: u32, size: u32) -> Option<u64>;

    /// [`tls::header`]. The kernel calls it and the next as functions that its verifier checks once, by themselves:
    /// inlined, their paths would multiply.
    #[inline(always)]
    fn header(&self, talk: &mut Conversation, rule: &Rule, segment: &Segment) -> tls::Step {
        tls::header(talk, rule, segment)
    }

    /// [`tls::field`].
    #[inline(always)]
    fn field(&self, talk: &mut Conversation, rule: &Rule, segment: &Segment) -> tls::Step {
        tls::field(talk, rule, segment)
    }

    /// [`veto::record`], likewise.
    #[inline(always)]
    fn veto(&self, talk: &mut Conversation, segment: &Segment) -> tls::Step
    where
        Self: Sized,
    {
        veto::record(talk, segment, self)
    }

    /// [`veto::looks_clear`], likewise.
    #[inline(always)]
    fn looks_clear(&self, at: u32) -> bool
    where
        Self: Sized,
    {
        veto::looks_clear(self, at)
    }

    /// [`veto::holds_text`], likewise.
    #[inline(always)]
    fn holds_text(&self, len: u32) -> bool
    where
        Self: Sized,
    {
        veto::holds_text(self, len)
    }

    /// [`esp::is_null`], likewise.
    #[inline(always)]
    fn is_null(&self, len: u32) -> bool
    where
        Self: Sized,
    {
        esp::is_null(self, len)
    }

    /// Reads the segment from where its stream stands: [`tcp::step`] until it is done, at most [`STEPS_MAX`] times.
    #[inline(always)]
    fn walk(&self, talk: &mut Conversation, rule: &Rule, segment: &Segment) -> tls::Step
    where
        Self: Sized,
    {
        for _ in 0..STEPS_MAX {
            match tcp::step(talk, rule, segment, self) {
                tls::Step::More => {}
                last => return last,
            }
        }
        tls::Step::More
    }

    /// Looks for a record's header: [`tcp::scan`], likewise.
    #[inline(always)]
    fn scan(&self, talk: &mut Conversation, segment: &Segment)
    where
        Self: Sized,
    {
        for step in 0..STEPS_MAX {
            if !tcp::scan(talk, segment, step * 6, self) {
                return;
            }
        }
    }
}

/// Payload in memory: tests, captures, the fuzzer.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Payload for Bytes<'_> {
    fn be(&self, offset: u32, size: u32) -> Option<u64> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(size.clamp(1, 8)).ok()?)?;
        let bytes = self.0.get(start..end)?;
        Some(
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        )
    }
}
