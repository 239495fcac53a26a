//! Fragments of IP packets, tied to the first of them.
//!
//! A first fragment has the transport's header, and is judged as any packet is; one that passes is remembered in the
//! tenant's own part of the conversations' table, as a conversation that never opened, so that a flood of fragments pushes
//! out nothing but its own kind and what the tenant itself began. A later one passes only behind its first, in ascending
//! order, without an overlap: of TCP it is a segment like any other, whose sequence number follows from the first's; of
//! datagrams it is more of the same ciphertext, and looked at as such.
//!
//! Invariants
//! - No byte of a packet is taken from two fragments that passed: an offset below the end of what came is refused.
//! - Nothing but a packet's last fragment is smaller than a window of the veto: none gets past it by being short.
//! - What was forgotten is refused.
//!
//! What it is not: it puts no packet together, and holds none back: one that overtakes another is lost, as on a path that
//! drops it.

use super::{Class, Conversation, Payload, Segment, Why, protocol, veto};
use crate::{
    flow::FlowKey,
    parse::{IPV6_EXTENSIONS_MAX, proto},
};

/// Longest IP packet, bytes.
const PACKET_MAX: u32 = 65_535;
/// How long a first fragment is followed: as long as Linux waits for the rest (`net.ipv4.ipfrag_time`), ms.
const FOLLOWED_MS: u32 = 30_000;
/// How long another first fragment of the same number is an overlap, and not a number that is used again, ms.
const AGAIN_MS: u32 = 1_000;
/// Offset at which nothing can follow.
const ENDED: u32 = u32::MAX;
/// A fragment's key stands beside those of VLAN ids and of overlays, which are below this.
const PIECES: u16 = 0xF000;

/// Where a segment or datagram stands in its IP packet: [`Segment::piece`].
pub mod piece {
    /// It is the whole of it.
    pub const WHOLE: u8 = 0;
    /// The first of several.
    pub const FIRST: u8 = 1;
    /// A later one.
    pub const LATER: u8 = 2;
}

/// A fragment, as its IP header has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Piece {
    /// The packet's number: 16 bits of IPv4, 32 of IPv6.
    pub id: u32,
    /// Where it begins in what is cut, bytes.
    pub offset: u32,
    /// 1: more follow.
    pub more: u32,
    /// Where what is cut begins, bytes behind the IP header's beginning.
    pub start: u32,
}

/// Reads where a fragment stands. `network`: from the IP header on.
#[inline(always)]
pub fn read(network: &impl Payload, v6: bool) -> Option<Piece> {
    if !v6 {
        let first = network.be(0, 1)? as u32;
        let word = network.be(4, 4)? as u32;
        return Some(Piece {
            id: word >> 16,
            offset: (word & 0x1FFF) * 8,
            more: word >> 13 & 1,
            start: (first & 15) * 4,
        });
    }
    // The parser has walked them once: they are well formed, and so many at most.
    let mut next = network.be(6, 1)? as u8;
    let mut at = 40;
    let mut walked = 0;
    while walked < IPV6_EXTENSIONS_MAX {
        let eight = network.be(at, 8)?;
        let units = (eight >> 48) as u32 & 0xFF;
        if next == proto::FRAGMENT {
            let field = (eight >> 32) as u32 & 0xFFFF;
            return Some(Piece {
                id: eight as u32,
                offset: field & 0xFFF8,
                more: field & 1,
                start: at + 8,
            });
        }
        at += if next == proto::AH {
            (units + 2) * 4
        } else {
            (units + 1) * 8
        };
        next = (eight >> 56) as u8;
        walked += 1;
    }
    None
}

impl Piece {
    /// The key that its packet is remembered by: `key` is the fragment's own. What an IPv6 fragment says of its next
    /// header counts in the first alone (RFC 8200 §4.5).
    #[inline(always)]
    pub fn note(&self, key: &mut FlowKey, direction: u32, v6: bool) {
        key.local_port = self.id as u16;
        key.remote_port = (self.id >> 16) as u16;
        key.vlan = PIECES | (key.vlan & 0x7FF) << 1 | direction as u16 & 1;
        key.zone = 0;
        if v6 {
            key.protocol = proto::FRAGMENT;
        }
    }

    /// May a fragment of `len` bytes be as it is?
    ///
    /// # Errors
    /// [`Why::Fragment`]: it is tiny, or no other fragment fits behind it, or it reaches past the longest packet.
    #[inline(always)]
    pub fn check(&self, len: u32) -> Result<(), Why> {
        let cut_short = self.more != 0 && (len & 7 != 0 || len < veto::WINDOW);
        if len == 0 || cut_short || self.offset + len + self.start > PACKET_MAX {
            return Err(Why::Fragment);
        }
        Ok(())
    }
}

/// What is remembered of a first fragment, in the fields of a conversation: `start[0]` is where the next may begin,
/// `start[1]` where the transport's payload began, `pending[0]` the sequence number of that, `pending[1]` where the datagram ends, `credit` both ports, and
/// `unclassified` the class of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// Bytes of the first fragment, from where what is cut begins.
    pub len: u32,
    /// Where the transport's payload begins in it.
    pub origin: u32,
    /// Sequence number of TCP there.
    pub seq: u32,
    /// Where the datagram of UDP ends, as its own length says; `PACKET_MAX` of others.
    pub end: u32,
    /// Port of the tenant in the low half, the other end's in the high one.
    pub ports: u32,
    /// The transport.
    pub protocol: u8,
}

/// A first fragment may pass: what follows it may follow. `known`: its number is remembered already.
///
/// # Errors
/// [`Why::Fragment`]: the packet has a first fragment, and is not whole.
#[inline(always)]
pub fn begins(talk: &Conversation, known: bool, now_ms: u32) -> Result<(), Why> {
    let young = now_ms.wrapping_sub(talk.last_ms) < AGAIN_MS;
    if known && young && talk.start[0] != ENDED {
        return Err(Why::Fragment);
    }
    Ok(())
}

/// Remembers a first fragment that passed as `class`.
#[inline(always)]
pub fn remember(talk: &mut Conversation, key: &FlowKey, first: &First, class: u8, now_ms: u32) {
    talk.become_new(key, now_ms, first.ports);
    talk.protocol = protocol::FRAGMENT;
    talk.start = [first.len, first.origin];
    talk.pending = [first.seq, first.end];
    talk.suite = first.protocol as u16;
    talk.unclassified = class;
}

/// Nothing may follow any more.
#[inline(always)]
pub fn end(talk: &mut Conversation) {
    talk.start[0] = ENDED;
}

/// A later fragment of `len` bytes behind what is remembered of the first.
///
/// # Errors
/// [`Why::Fragment`]: there is no first that passed, or it overlaps with what came, or with what is behind the datagram.
#[inline(always)]
pub fn follow(talk: &mut Conversation, piece: &Piece, len: u32, now_ms: u32) -> Result<(), Why> {
    let old = now_ms.wrapping_sub(talk.last_ms) > FOLLOWED_MS;
    let end = piece.offset + len;
    let fits = piece.offset >= talk.start[0] && end <= talk.pending[1];
    if talk.protocol != protocol::FRAGMENT || old || !fits {
        return Err(Why::Fragment);
    }
    talk.start[0] = if piece.more == 0 { ENDED } else { end };
    Ok(())
}

/// Makes of a later fragment the segment that it is. The ports and the transport are `talk`'s.
#[inline(always)]
pub fn becomes(talk: &Conversation, piece: &Piece, segment: &mut Segment) {
    segment.seq = talk.pending[0]
        .wrapping_add(piece.offset)
        .wrapping_sub(talk.start[1]);
    segment.flags = super::tcp_flag::ACK;
    segment.piece = piece::LATER;
    segment.class = talk.unclassified;
}

/// Judges a later fragment of a datagram: the conversation is that of its first.
#[inline(always)]
pub fn judge(
    talk: &mut Conversation,
    segment: &Segment,
    payload: &impl Payload,
) -> Result<Class, Why> {
    const OPENING: u8 = Class::Opening as u8;
    const SHAPE: u8 = Class::Shape as u8;
    const HANDSHAKE: u8 = Class::Handshake as u8;
    let open = talk.has(Conversation::OPEN);
    let known = open || talk.protocol != protocol::UNKNOWN || talk.unclassified != 0;
    let is_esp = talk.key.protocol == proto::ESP;
    let stream = &mut talk.streams[(segment.direction & 1) as usize];
    match segment.class {
        OPENING if known => super::datagram::opening(stream),
        SHAPE if open || is_esp => sealed(stream, segment, payload, Class::Shape),
        HANDSHAKE if open => sealed(stream, segment, payload, Class::Handshake),
        _ => Err(Why::Fragment),
    }
}

#[inline(always)]
fn sealed(
    stream: &mut super::Stream,
    segment: &Segment,
    payload: &impl Payload,
    class: Class,
) -> Result<Class, Why> {
    if super::datagram::is_clear(stream, segment, payload, 0) {
        return Err(Why::Clear);
    }
    Ok(class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encryption::Bytes;

    const FIRST: First = First {
        len: 1_480,
        origin: 20,
        seq: 1_000,
        end: PACKET_MAX,
        ports: 0,
        protocol: 6,
    };

    fn piece(offset: u32, more: u32) -> Piece {
        Piece {
            id: 7,
            offset,
            more,
            start: 20,
        }
    }

    fn followed() -> Conversation {
        let mut talk = Conversation::default();
        remember(&mut talk, &FlowKey::default(), &FIRST, 5, 100);
        talk
    }

    #[test]
    fn fragments_are_read_where_they_stand() {
        let mut v4 = vec![0x46, 0, 0, 0, 0x12, 0x34, 0x20, 0xB9];
        v4.extend([0; 16]);
        let read_v4 = read(&Bytes(&v4), false);
        assert_eq!(
            read_v4,
            Some(Piece {
                id: 0x1234,
                offset: 0xB9 * 8,
                more: 1,
                start: 24
            })
        );
        // Hop-by-hop of 16 bytes, then the fragment header.
        let mut v6 = vec![0x60, 0, 0, 0, 0, 0, 0, 64];
        v6.extend([0; 32]);
        v6.extend([44, 1, 1, 12]);
        v6.extend([0; 12]);
        v6.extend([6, 0, 0x05, 0xC9, 0xDE, 0xAD, 0xBE, 0xEF]);
        let wanted = Piece {
            id: 0xDEAD_BEEF,
            offset: 0x5C8,
            more: 1,
            start: 64,
        };
        assert_eq!(read(&Bytes(&v6), true), Some(wanted));
        assert_eq!(read(&Bytes(&v6[..62]), true), None);
        assert_eq!(read(&Bytes(&v4[..6]), false), None);
    }

    #[test]
    fn tiny_and_impossible_ones_are_refused() {
        for (offset, more, len, wanted) in [
            (0, 1, 64, true),
            (0, 1, 56, false),
            (0, 1, 100, false),
            (1_480, 0, 1, true),
            (1_480, 0, 0, false),
            (65_000, 0, 515, true),
            (65_000, 0, 516, false),
        ] {
            let checked = piece(offset, more).check(len);
            assert_eq!(checked.is_ok(), wanted, "{offset} {more} {len}");
        }
    }

    #[test]
    fn nothing_overlaps_and_nothing_follows_what_is_gone() {
        let mut talk = followed();
        for (offset, more, len, now, wanted) in [
            (1_472, 1, 64, 101, false), // into the first
            (1_480, 1, 1_480, 101, true),
            (1_480, 1, 1_480, 101, false), // again
            (2_952, 0, 100, 101, false),   // into the second
            (4_440, 1, 1_480, 101, true),  // behind a hole
            (2_960, 1, 1_480, 101, false), // into the hole
            (5_920, 0, 8, 30_101, false),  // too late
            (5_920, 0, 8, 30_100, true),
            (5_928, 0, 8, 30_100, false), // behind the last
        ] {
            let followed = follow(&mut talk, &piece(offset, more), len, now);
            assert_eq!(followed.is_ok(), wanted, "{offset} {more} {len} at {now}");
        }
        let mut nobody = Conversation::default();
        assert!(follow(&mut nobody, &piece(1_480, 0), 8, 0).is_err());
    }

    #[test]
    fn a_second_first_fragment_is_an_overlap_until_the_packet_ends() {
        let mut talk = followed();
        assert!(begins(&talk, true, 1_099).is_err());
        assert!(begins(&talk, true, 1_100).is_ok());
        assert!(begins(&talk, false, 100).is_ok());
        assert!(follow(&mut talk, &piece(1_480, 0), 8, 100).is_ok());
        assert!(begins(&talk, true, 100).is_ok());
    }

    #[test]
    fn the_sequence_number_goes_on() {
        let talk = followed();
        let mut segment = Segment::default();
        becomes(&talk, &piece(1_480, 1), &mut segment);
        assert_eq!(segment.seq, 1_000 + 1_460);
        assert_eq!((segment.piece, segment.class), (piece::LATER, 5));
    }
}
