//! What is told by its shape alone, E1: IKEv2 (RFC 7296), ESP inside UDP (RFC 3948), and OpenVPN over UDP.
//!
//! Whoever wants to can write such headers around anything: the parts that are clear by nature are capped in bytes a
//! second, and what must be ciphertext is looked at by [`super::veto`]. Of OpenVPN, and of IKE that begins here, both ends must
//! have spoken first.

use super::{
    Class, Conversation, Payload, Rule, Segment, Stream, Why, accept, datagram::is_clear, esp,
    protocol,
};

/// UDP ports of IKE, and of IKE and ESP behind a NAT.
const IKE_PORT: u16 = 500;
const NAT_PORT: u16 = 4_500;
/// Bytes of IKE's header, and of the zeros in front of it on [`NAT_PORT`].
const IKE_HEADER: u32 = 28;
const MARKER: u32 = 4;
/// Version 2.0, and the minor ones that speak it too.
const IKE_MAJOR: u64 = 2;
/// IKE_SA_INIT; exchanges from IKE_AUTH to INFORMATIONAL, and RFC 9370's and RFC 9242's two.
const SA_INIT: u64 = 34;
const EXCHANGES: [u64; 5] = [35, 36, 37, 43, 44];
/// Payloads that are encrypted: SK, and SKF (RFC 7383).
const ENCRYPTED: [u64; 2] = [46, 53];
/// What is clear by nature may be so many bytes at once, and so many a second, of one conversation.
const CAP: u32 = 32_768;
const CAP_SECOND: u32 = 16_384;

/// Is a conversation of UDP one of IKE, by its ports?
#[inline(always)]
pub fn is_ike(talk: &Conversation) -> bool {
    let has = |port| talk.key.local_port == port || talk.key.remote_port == port;
    has(IKE_PORT) || has(NAT_PORT)
}

/// Judges a datagram of IKE's ports. `None`: it is of neither IKE nor ESP.
#[inline(always)]
pub fn ike(
    talk: &mut Conversation,
    rule: &Rule,
    segment: &Segment,
    payload: &impl Payload,
) -> Result<Option<Class>, Why> {
    let nat = talk.key.local_port == NAT_PORT || talk.key.remote_port == NAT_PORT;
    if nat && segment.len == 1 {
        // RFC 3948 §2.3: one byte keeps the way open.
        return match payload.be(0, 1) {
            Some(0xFF) => capped(talk, segment).map(Some),
            _ => Ok(None),
        };
    }
    let Some(marker) = payload.be(0, 4) else {
        return Ok(None);
    };
    if nat && marker != 0 {
        if !rule.accepts(accept::ESP) {
            return Ok(None);
        }
        let stream = &mut talk.streams[(segment.direction & 1) as usize];
        let class = esp::judge(stream, segment, payload)?;
        talk.protocol = protocol::IKE;
        talk.flags |= Conversation::OPEN;
        return Ok(Some(class));
    }
    let at = if nat { MARKER } else { 0 };
    if segment.whole() < at + IKE_HEADER {
        return Ok(None);
    }
    let (Some(initiator), Some(header), Some(len)) = (
        payload.be(at, 8),
        payload.be(at + 16, 4),
        payload.be(at + 24, 4),
    ) else {
        return Ok(None);
    };
    let (next, major, exchange) = (header >> 24, header >> 20 & 15, header >> 8 & 0xFF);
    if initiator == 0 || len as u32 != segment.whole() - at {
        return Ok(None);
    }
    if major != IKE_MAJOR {
        return Err(Why::Version);
    }
    let mut number = 0;
    let mut known = false;
    while number < EXCHANGES.len() {
        known |= exchange == EXCHANGES[number];
        number += 1;
    }
    if exchange == SA_INIT {
        talk.protocol = protocol::IKE;
        return capped(talk, segment).map(Some);
    }
    if !known || (next != ENCRYPTED[0] && next != ENCRYPTED[1]) {
        return Err(Why::Sequence);
    }
    talk.protocol = protocol::IKE;
    talk.flags |= Conversation::OPEN;
    capped(talk, segment)?;
    Ok(Some(Class::Shape))
}

/// What is clear by nature, within its cap.
#[inline(always)]
fn capped(talk: &mut Conversation, segment: &Segment) -> Result<Class, Why> {
    let since = segment.now_ms.wrapping_sub(talk.credit_ms);
    if since >= 1_000 {
        talk.credit_ms = segment.now_ms;
        talk.credit = talk.credit.saturating_add(CAP_SECOND);
    }
    if talk.credit > CAP {
        talk.credit = CAP;
    }
    let len = segment.whole();
    if talk.credit < len {
        return Err(Why::Unverified);
    }
    talk.credit -= len;
    Ok(Class::Opening)
}

/// OpenVPN's opcodes, in the high five bits of its first byte (its protocol, "ssl_pkt.h").
mod opcode {
    pub const SOFT_RESET: u8 = 3;
    pub const CONTROL: u8 = 4;
    pub const ACK: u8 = 5;
    pub const DATA_V1: u8 = 6;
    pub const CLIENT_V2: u8 = 7;
    pub const SERVER_V2: u8 = 8;
    pub const DATA_V2: u8 = 9;
    pub const CLIENT_V3: u8 = 10;
    pub const CONTROL_WKC: u8 = 11;
}

/// Opcode, session, number of packets acknowledged, number of this one.
const RESET_MIN: u32 = 14;
/// Opcode and session.
const CONTROL_MIN: u32 = 10;

/// Can this be the first byte of OpenVPN? A client's reset, with key 0.
#[inline(always)]
pub const fn begins(first: u8) -> bool {
    first == opcode::CLIENT_V2 << 3 || first == opcode::CLIENT_V3 << 3
}

/// Judges a datagram of OpenVPN.
#[inline(always)]
pub fn openvpn(
    talk: &mut Conversation,
    segment: &Segment,
    payload: &impl Payload,
    first: u8,
) -> Result<Class, Why> {
    let side = (segment.direction & 1) as usize;
    let answered = talk.streams[side ^ 1].has(Stream::SPOKEN);
    let open = talk.has(Conversation::OPEN);
    let kind = first >> 3;
    match kind {
        opcode::CLIENT_V2 | opcode::CLIENT_V3 if first & 7 == 0 && segment.whole() >= RESET_MIN => {
            talk.protocol = protocol::OPENVPN;
            talk.streams[side].flags |= Stream::SPOKEN;
            capped(talk, segment)
        }
        opcode::SERVER_V2 if answered && first & 7 == 0 && segment.whole() >= RESET_MIN => {
            talk.streams[side].flags |= Stream::SPOKEN;
            talk.flags |= Conversation::OPEN;
            capped(talk, segment)
        }
        opcode::CONTROL | opcode::ACK | opcode::CONTROL_WKC | opcode::SOFT_RESET
            if open && segment.whole() >= CONTROL_MIN =>
        {
            capped(talk, segment)
        }
        opcode::DATA_V1 | opcode::DATA_V2 if open => {
            // Behind the peer's number, the packet's, and the tag of an AEAD cipher.
            let at = if kind == opcode::DATA_V2 { 24 } else { 21 };
            if is_clear(&mut talk.streams[side], segment, payload, at) {
                return Err(Why::Clear);
            }
            Ok(Class::Shape)
        }
        _ => Err(Why::Sequence),
    }
}
