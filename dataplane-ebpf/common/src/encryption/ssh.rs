//! SSH over TCP until its keys change: RFC 4253.
//!
//! A banner, then packets in clear whose types are those of a key exchange, to NEWKEYS, in both directions. After that
//! nothing can be checked: E2. The cipher `none` is not told apart from others.

use super::{Conversation, Payload, Segment, Stream, Why, tls::Step};

/// What a stream reads next.
mod phase {
    /// "SSH-".
    pub const FIRST: u8 = 0;
    /// The banner's end.
    pub const BANNER: u8 = 1;
    /// Length, padding and type of a packet.
    pub const PACKET: u8 = 2;
}

/// The longest banner, bytes (§4.2), and the longest packet that everybody takes (§6.1).
const BANNER_MAX: u32 = 255;
const PACKET_MAX: u32 = 35_000;
/// SSH_MSG_NEWKEYS; the last type of a key exchange (RFC 4250 §4.1.2).
const NEWKEYS: u8 = 21;
const KEY_EXCHANGE_LAST: u8 = 49;

/// Can this be the first byte of SSH?
#[inline(always)]
pub const fn begins(first: u8) -> bool {
    first == b'S'
}

/// One step. The caller has made sure that `want` is not before the segment.
#[inline(always)]
pub fn step(talk: &mut Conversation, segment: &Segment, payload: &impl Payload) -> Step {
    let stream = &mut talk.streams[(segment.direction & 1) as usize];
    let at = stream.want.wrapping_sub(segment.seq);
    if at >= segment.len || stream.has(Stream::KEYED) {
        return Step::Done;
    }
    let there = segment.len - at;
    let need: u32 = match stream.phase {
        phase::FIRST => 4,
        phase::PACKET => 6,
        _ => 8,
    };
    let missing = need.wrapping_sub(stream.field_have as u32) & 15;
    let mut take = if missing < there { missing } else { there };
    if take > 8 || take == 0 {
        take = 1;
    }
    let Some(bytes) = payload.be(at, take) else {
        return Step::Refuse(Why::Malformed);
    };
    if stream.phase == phase::BANNER {
        return banner(stream, bytes, take);
    }
    stream.field = stream.field << ((take * 8) & 63) | bytes;
    stream.field_have += take as u8;
    stream.want = stream.want.wrapping_add(take);
    stream.from = stream.want;
    if (stream.field_have as u32) < need {
        return Step::More;
    }
    let value = stream.field;
    stream.field = 0;
    stream.field_have = 0;
    if stream.phase == phase::FIRST {
        if value as u32 != u32::from_be_bytes(*b"SSH-") {
            return Step::Refuse(Why::Clear);
        }
        stream.phase = phase::BANNER;
        stream.left = BANNER_MAX - 4;
        return Step::More;
    }
    let (len, kind) = ((value >> 16) as u32, value as u8);
    if !(5..=PACKET_MAX).contains(&len) {
        return Step::Refuse(Why::Malformed);
    }
    if kind == 0 || kind > KEY_EXCHANGE_LAST {
        return Step::Refuse(Why::Sequence);
    }
    stream.want = stream.want.wrapping_add(len - 2);
    if kind == NEWKEYS {
        stream.flags |= Stream::KEYED;
    }
    Step::More
}

/// Looks for the line's end in `take` bytes.
#[inline(always)]
fn banner(stream: &mut Stream, bytes: u64, take: u32) -> Step {
    let mut used = 0;
    let mut ended = false;
    while used < 8 {
        if used >= take || ended {
            break;
        }
        ended = (bytes >> (((take - 1 - used) * 8) & 63)) as u8 == b'\n';
        used += 1;
    }
    if used > stream.left {
        return Step::Refuse(Why::Malformed);
    }
    stream.left -= used;
    stream.want = stream.want.wrapping_add(used);
    stream.from = stream.want;
    if ended {
        stream.phase = phase::PACKET;
        stream.field = 0;
        stream.field_have = 0;
    }
    Step::More
}
