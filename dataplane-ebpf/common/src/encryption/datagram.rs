//! Datagrams of a tenant under a policy: WireGuard, QUIC, DTLS. Each is E2 once its handshake was seen in both
//! directions; before that, only the packets of a handshake pass, and so many.
//!
//! Of a conversation's [`Stream`], `want` is what the last handshake of this direction named (WireGuard: the sender's
//! index), `left` the one before it, and `from` the packets of its opening.

use super::{Class, Conversation, Payload, Rule, Segment, Stream, Why, accept, protocol};

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
        Ok(Class::Handshake) if rule.evidence_min > 2 => {
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

#[inline(always)]
fn read(
    talk: &mut Conversation,
    rule: &Rule,
    segment: &Segment,
    payload: &impl Payload,
) -> Result<Class, Why> {
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
    unclassified(talk, rule, segment)
}

/// What is still unknown may be so few packets and bytes in all.
#[inline(always)]
fn unclassified(talk: &mut Conversation, rule: &Rule, segment: &Segment) -> Result<Class, Why> {
    let bytes = talk.checked.saturating_add(segment.len);
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

/// A packet that has no place before the handshake's end.
#[inline(always)]
fn opened(talk: &Conversation) -> Result<Class, Why> {
    if talk.has(Conversation::OPEN) {
        Ok(Class::Handshake)
    } else {
        Err(Why::Sequence)
    }
}

/// A packet of a handshake: it passes while there are not too many.
#[inline(always)]
fn opening(stream: &mut Stream) -> Result<Class, Why> {
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
    let named = talk.streams[side ^ 1].want == index || talk.streams[side ^ 1].left == index;
    match kind {
        1 if segment.len == 148 => {
            name(&mut talk.streams[side], index);
            opening(&mut talk.streams[side])
        }
        2 if segment.len == 92 => {
            let receiver = payload.be(8, 4).ok_or(Why::Malformed)? as u32;
            let other = &talk.streams[side ^ 1];
            if !other.has(Stream::SPOKEN) || (other.want != receiver && other.left != receiver) {
                return Err(Why::Sequence);
            }
            name(&mut talk.streams[side], index);
            talk.flags |= Conversation::OPEN;
            talk.streams[side].from = 0;
            talk.streams[side ^ 1].from = 0;
            Ok(Class::Opening)
        }
        3 if segment.len == 64 && talk.streams[side ^ 1].has(Stream::SPOKEN) && named => {
            opening(&mut talk.streams[side])
        }
        4 if segment.len >= 32 => {
            if talk.has(Conversation::OPEN) && named {
                Ok(Class::Handshake)
            } else {
                Err(Why::Sequence)
            }
        }
        _ => Err(Why::Malformed),
    }
}

/// A direction names its index.
#[inline(always)]
fn name(stream: &mut Stream, index: u32) {
    if !stream.has(Stream::SPOKEN) || stream.want != index {
        stream.left = if stream.has(Stream::SPOKEN) {
            stream.want
        } else {
            index
        };
        stream.want = index;
    }
    stream.flags |= Stream::SPOKEN;
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
        return opened(talk);
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
        if !initial || segment.len < QUIC_INITIAL_MIN {
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
        // The unified header of 1.3.
        return opened(talk);
    }
    let version = (eight >> 40) as u16;
    let epoch = (eight >> 24) as u16;
    if !(20..=25).contains(&first) || (version != 0xFEFD && version != 0xFEFF) || segment.len < 14 {
        return Err(Why::Malformed);
    }
    let len = payload.be(11, 2).ok_or(Why::Malformed)? as u32;
    if len == 0 || len > segment.len - 13 {
        return Err(Why::Malformed);
    }
    if epoch != 0 {
        return opened(talk);
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
