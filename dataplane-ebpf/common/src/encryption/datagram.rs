//! Datagrams of a tenant under a policy: WireGuard, QUIC, DTLS, ESP ([`esp`]), and what else has a shape ([`shape`]). Each of the first three is E2 once its handshake was seen in both
//! directions; before that, only the packets of a handshake pass, and so many.
//!
//! Of a conversation's [`Stream`], `from` counts the packets of its opening. WireGuard: `want` is the index that this
//! direction began a handshake with last; `left`, `record_end` and `field` are those of its last three sessions, which is
//! as many as its ends keep. An initiation that is lost must not end the session that it was to follow.

use super::{
    Class, Conversation, Payload, Rule, Segment, Stream, Why, accept, esp, fragment, protocol,
    shape, veto,
};
use crate::parse::proto;

/// Datagrams of an opening in each direction: DTLS and QUIC send theirs again while they are lost.
const OPENING_PACKETS: u32 = 256;
/// QUIC's versions on the wire (RFC 9000, RFC 9369).
const QUIC_V1: u32 = 1;
const QUIC_V2: u32 = 0x6B33_43CF;
/// A client's first datagram (RFC 9000 §14.1), bytes.
const QUIC_INITIAL_MIN: u32 = 1_200;
/// Longest connection id (RFC 9000 §17.2).
const QUIC_ID_MAX: u64 = 20;

/// Judges a datagram whose payload is `segment.len` bytes.
///
/// # Errors
/// Why it may not pass under the rule; the conversation has noted it.
#[inline(always)]
pub fn judge(
    talk: &mut Conversation,
    rule: &Rule,
    segment: &Segment,
    payload: &impl Payload,
) -> Result<Class, Why> {
    talk.last_ms = segment.now_ms;
    let verdict = read(talk, rule, segment, payload);
    match verdict {
        Ok(class @ (Class::Shape | Class::Handshake))
            if rule.evidence_min as u32 > least(class) =>
        {
            talk.refuse(Why::Evidence, segment.len);
            Err(Why::Evidence)
        }
        Ok(class) => Ok(class),
        Err(why) => {
            // Another handshake may follow: a datagram that is refused condemns no conversation.
            talk.why = why as u8;
            talk.refused = talk.refused.saturating_add(segment.len);
            Err(why)
        }
    }
}

/// The least evidence that a class is enough for.
#[inline(always)]
const fn least(class: Class) -> u32 {
    class as u32 - Class::Shape as u32 + 1
}

#[inline(always)]
fn read(
    talk: &mut Conversation,
    rule: &Rule,
    segment: &Segment,
    payload: &impl Payload,
) -> Result<Class, Why> {
    if segment.piece == fragment::piece::LATER {
        return fragment::judge(talk, segment, payload);
    }
    if talk.key.protocol == proto::ESP {
        let stream = &mut talk.streams[(segment.direction & 1) as usize];
        return esp::judge(stream, segment, payload);
    }
    if rule.accepts(accept::IKE)
        && shape::is_ike(talk)
        && let Some(class) = shape::ike(talk, rule, segment, payload)?
    {
        return Ok(class);
    }
    if segment.len < 8 {
        return unclassified(talk, rule, segment);
    }
    let Some(eight) = payload.be(0, 8) else {
        return Err(Why::Malformed);
    };
    let first = (eight >> 56) as u8;
    let known = talk.protocol;
    // 1 to 4 and three zeros: no other protocol here begins so.
    let wireguard = (eight >> 32) as u32 & 0x00FF_FFFF == 0 && (1..=4).contains(&first);
    if known == protocol::WIREGUARD || (known == protocol::UNKNOWN && wireguard) {
        if !rule.accepts(accept::WIREGUARD) || !wireguard {
            return Err(Why::Clear);
        }
        return wireguard_message(talk, segment, payload, first, eight);
    }
    let quic = accept::QUIC_V1 | accept::QUIC_V2;
    if rule.accepts(quic)
        && (known == protocol::QUIC || (known == protocol::UNKNOWN && first >= 0xC0))
    {
        return quic_packet(talk, rule, segment, payload, first, eight);
    }
    if rule.accepts(accept::DTLS) {
        let begins = first == 22 && (eight >> 40) as u16 >= 0xFEFD;
        if known == protocol::DTLS || (known == protocol::UNKNOWN && begins) {
            return dtls_record(talk, segment, payload, first, eight);
        }
    }
    if rule.accepts(accept::OPENVPN)
        && (known == protocol::OPENVPN || (known == protocol::UNKNOWN && shape::begins(first)))
    {
        return shape::openvpn(talk, segment, payload, first);
    }
    unclassified(talk, rule, segment)
}

/// What is still unknown may be so few packets and bytes in all.
#[inline(always)]
fn unclassified(talk: &mut Conversation, rule: &Rule, segment: &Segment) -> Result<Class, Why> {
    let bytes = talk.checked.saturating_add(segment.whole());
    let packets = talk.unclassified.saturating_add(1);
    if talk.protocol != protocol::UNKNOWN
        || bytes > rule.unclassified_bytes
        || packets as u32 > rule.unclassified_packets
    {
        return Err(Why::Clear);
    }
    talk.checked = bytes;
    talk.unclassified = packets;
    Ok(Class::Opening)
}

/// A packet that has no place before the handshake's end, and whose ciphertext begins at `at` at the latest.
#[inline(always)]
fn opened(
    talk: &mut Conversation,
    segment: &Segment,
    payload: &impl Payload,
    at: u32,
) -> Result<Class, Why> {
    if !talk.has(Conversation::OPEN) {
        return Err(Why::Sequence);
    }
    let side = (segment.direction & 1) as usize;
    ciphertext(&mut talk.streams[side], segment, payload, at)
}

/// A packet whose ciphertext begins at `at`, unless that looks clear.
#[inline(always)]
fn ciphertext(
    stream: &mut Stream,
    segment: &Segment,
    payload: &impl Payload,
    at: u32,
) -> Result<Class, Why> {
    if is_clear(stream, segment, payload, at) {
        return Err(Why::Clear);
    }
    Ok(Class::Handshake)
}

/// Does what must be ciphertext from `at` on look clear? Of whole datagrams some are looked at, of fragments all: they are few,
/// and what follows one that passed passes more easily.
#[inline(always)]
pub fn is_clear(stream: &mut Stream, segment: &Segment, payload: &impl Payload, at: u32) -> bool {
    let len = segment.len.saturating_sub(at);
    if segment.piece == fragment::piece::WHOLE {
        return veto::refuses(stream, payload, at, len);
    }
    payload.holds_text(segment.len) || veto::looks(stream, payload, at, len)
}

/// A packet of a handshake: it passes while there are not too many.
#[inline(always)]
pub fn opening(stream: &mut Stream) -> Result<Class, Why> {
    stream.from = stream.from.saturating_add(1);
    if stream.from > OPENING_PACKETS {
        return Err(Why::Unverified);
    }
    Ok(Class::Opening)
}

/// WireGuard (its white paper, §5.4): initiation 148 bytes, response 92, cookie 64, data 32 and more.
#[inline(always)]
fn wireguard_message(
    talk: &mut Conversation,
    segment: &Segment,
    payload: &impl Payload,
    kind: u8,
    eight: u64,
) -> Result<Class, Why> {
    talk.protocol = protocol::WIREGUARD;
    let side = (segment.direction & 1) as usize;
    let index = eight as u32;
    let fresh = !talk.has(Conversation::OPEN);
    let other = &talk.streams[side ^ 1];
    let named =
        !fresh && (other.left == index || other.record_end == index || other.field as u32 == index);
    match kind {
        1 if segment.whole() == 148 => {
            talk.streams[side].want = index;
            talk.streams[side].flags |= Stream::SPOKEN;
            opening(&mut talk.streams[side])
        }
        2 if segment.whole() == 92 => {
            let receiver = payload.be(8, 4).ok_or(Why::Malformed)? as u32;
            if !other.has(Stream::SPOKEN) || other.want != receiver {
                return Err(Why::Sequence);
            }
            // Both ends may have begun at once: what this one named for its own beginning stays.
            talk.streams[side].flags |= Stream::SPOKEN;
            agree(&mut talk.streams[side], index, fresh);
            agree(&mut talk.streams[side ^ 1], receiver, fresh);
            talk.flags |= Conversation::OPEN;
            Ok(Class::Opening)
        }
        3 if segment.whole() == 64
            && other.has(Stream::SPOKEN)
            && (other.want == index || other.left == index) =>
        {
            opening(&mut talk.streams[side])
        }
        4 if segment.whole() >= 32 => {
            if talk.has(Conversation::OPEN) && named {
                ciphertext(&mut talk.streams[side], segment, payload, 16)
            } else {
                Err(Why::Sequence)
            }
        }
        _ => Err(Why::Malformed),
    }
}

/// A session is made in which this direction is known by `index`; the one before it ends only with the next.
#[inline(always)]
fn agree(stream: &mut Stream, index: u32, fresh: bool) {
    if fresh {
        stream.left = index;
    }
    if fresh || stream.left != index {
        stream.field = (if fresh { index } else { stream.record_end }) as u64;
        stream.record_end = stream.left;
        stream.left = index;
    }
    stream.from = 0;
}

/// QUIC (RFC 9000 §17): long headers in both directions, the client's first one in a datagram of 1,200 bytes.
#[inline(always)]
fn quic_packet(
    talk: &mut Conversation,
    rule: &Rule,
    segment: &Segment,
    payload: &impl Payload,
    first: u8,
    eight: u64,
) -> Result<Class, Why> {
    let side = (segment.direction & 1) as usize;
    if first & 0x80 == 0 {
        // A short header: the fixed bit may be greased (RFC 9287).
        return opened(talk, segment, payload, 1 + QUIC_ID_MAX as u32 + 4);
    }
    let version = (eight >> 24) as u32;
    let answered = talk.streams[side ^ 1].has(Stream::SPOKEN);
    if version == 0 {
        // Version negotiation (§17.2.1) answers, and opens nothing.
        return if answered {
            opening(&mut talk.streams[side])
        } else {
            Err(Why::Sequence)
        };
    }
    let allowed = (version == QUIC_V1 && rule.accepts(accept::QUIC_V1))
        || (version == QUIC_V2 && rule.accepts(accept::QUIC_V2));
    if !allowed {
        return Err(Why::Version);
    }
    let destination = eight >> 16 & 0xFF;
    if destination > QUIC_ID_MAX {
        return Err(Why::Malformed);
    }
    let source = payload
        .be(6 + destination as u32, 1)
        .ok_or(Why::Malformed)?;
    if source > QUIC_ID_MAX {
        return Err(Why::Malformed);
    }
    // Initial is type 0 in version 1, 1 in version 2 (RFC 9369 §3.2).
    let kind = first >> 4 & 3;
    let initial = kind == if version == QUIC_V1 { 0 } else { 1 };
    if !answered && !talk.streams[side].has(Stream::SPOKEN) {
        if !initial || segment.whole() < QUIC_INITIAL_MIN {
            return Err(Why::Sequence);
        }
        talk.protocol = protocol::QUIC;
    }
    talk.version = version as u16;
    talk.streams[side].flags |= Stream::SPOKEN;
    if answered {
        talk.flags |= Conversation::OPEN;
    }
    if talk.has(Conversation::OPEN) && !initial {
        return Ok(Class::Handshake);
    }
    opening(&mut talk.streams[side])
}

/// DTLS (RFC 6347, RFC 9147): hellos in both directions in epoch 0, then records of later epochs.
#[inline(always)]
fn dtls_record(
    talk: &mut Conversation,
    segment: &Segment,
    payload: &impl Payload,
    first: u8,
    eight: u64,
) -> Result<Class, Why> {
    let side = (segment.direction & 1) as usize;
    if first & 0xE0 == 0x20 {
        // The unified header of 1.3, with the longest id that is usual.
        return opened(talk, segment, payload, 1 + QUIC_ID_MAX as u32 + 4);
    }
    let version = (eight >> 40) as u16;
    let epoch = (eight >> 24) as u16;
    if !(20..=25).contains(&first) || (version != 0xFEFD && version != 0xFEFF) || segment.len < 14 {
        return Err(Why::Malformed);
    }
    let len = payload.be(11, 2).ok_or(Why::Malformed)? as u32;
    if len == 0 || len > segment.whole() - 13 {
        return Err(Why::Malformed);
    }
    if epoch != 0 {
        // Behind the explicit nonce, or the id and the nonce of a record with an id (RFC 9146).
        let at = if first == 25 {
            13 + QUIC_ID_MAX as u32 + 8
        } else {
            13 + 8
        };
        return opened(talk, segment, payload, at);
    }
    if first == 23 {
        return Err(Why::Sequence);
    }
    if first == 22 && segment.len >= 25 {
        let kind = payload.be(13, 1).ok_or(Why::Malformed)?;
        let other = talk.streams[side ^ 1].has(Stream::SPOKEN);
        match kind {
            1 => {
                talk.protocol = protocol::DTLS;
                talk.streams[side].flags |= Stream::SPOKEN;
            }
            2 if other => {
                talk.version = payload.be(25, 2).ok_or(Why::Malformed)? as u16;
                if talk.version != 0xFEFD {
                    return Err(Why::Version);
                }
                talk.streams[side].flags |= Stream::SPOKEN;
                talk.flags |= Conversation::OPEN;
            }
            _ => {}
        }
    }
    if talk.protocol != protocol::DTLS {
        return Err(Why::Sequence);
    }
    opening(&mut talk.streams[side])
}
