//! TLS over TCP, record by record, in both directions: RFC 8446 §5.1, RFC 5246 §6.2.
//!
//! The algorithm is that of a network card that takes over TLS while receiving (Pismenny et al., "Autonomous NIC
//! Offloads", ASPLOS 2021): of each direction, the sequence number of the next record's header is known, and what lies
//! before it passes unread. The server's hello is read to its end, wherever segments and records break it, because
//! version, suite and group are *chosen* there, in clear.
//!
//! Behind a gap that swallowed a header, [`relock`] looks for the next one. What passes meanwhile is charged.

use super::{Conversation, Payload, Rule, Segment, Stream, Why, accept};

/// Content types.
mod content {
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const APPLICATION_DATA: u8 = 23;
}

/// What a stream reads next; those of a hello are fields of the handshake message.
mod phase {
    /// The first record is still to come.
    pub const FIRST: u8 = 0;
    /// Only headers of records.
    pub const RECORDS: u8 = 1;
    /// Type and length of the hello.
    pub const HELLO: u8 = 2;
    /// The rest of the client's hello.
    pub const CLIENT_REST: u8 = 3;
    /// The server's: legacy version.
    pub const VERSION: u8 = 4;
    /// First 8 bytes of its random.
    pub const RANDOM: u8 = 5;
    /// Length of the session id.
    pub const SESSION: u8 = 6;
    /// Suite and compression.
    pub const SUITE: u8 = 7;
    /// Length of the extensions.
    pub const EXTENSIONS: u8 = 8;
    /// Type and length of one.
    pub const EXTENSION: u8 = 9;
    /// `supported_versions`: the one chosen.
    pub const CHOSEN_VERSION: u8 = 10;
    /// `key_share`: the group.
    pub const CHOSEN_GROUP: u8 = 11;
}

/// Bytes of a record's header.
const HEADER: u32 = 5;
/// Longest record, bytes: 1.3, and 1.2 (RFC 8446 §5.2, RFC 5246 §6.2.3).
const RECORD_MAX: u32 = 16_384 + 256;
const RECORD_MAX_1_2: u32 = 16_384 + 2_048;
/// Longest handshake message that is taken for a hello.
const HELLO_MAX: u32 = 65_536;
/// The first bytes of a HelloRetryRequest's random (RFC 8446 §4.1.3).
const RETRY_RANDOM: u64 = 0xCF21_AD74_E59A_6111;
/// Versions on the wire.
pub const TLS_1_2: u16 = 0x0303;
/// See above.
pub const TLS_1_3: u16 = 0x0304;

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Go on.
    More,
    /// The packet has been read as far as it needs to be.
    Done,
    /// It may not pass.
    Refuse(Why),
}

/// Can this be the first byte of TLS?
#[inline(always)]
pub const fn begins(first: u8) -> bool {
    first == content::HANDSHAKE
}

/// Phase of a stream that was taken up behind its hello.
pub const PAST_HELLO: u8 = phase::RECORDS;

/// Has the stream only headers left to read?
#[inline(always)]
pub const fn is_past_hello(stream: &Stream) -> bool {
    stream.phase == phase::RECORDS
}

/// True for a segment of the server.
#[inline(always)]
fn is_by_server(talk: &Conversation, segment: &Segment) -> bool {
    // From the tenant by a tenant who serves, or to one who does not.
    let client = !talk.has(Conversation::SERVES) as u32;
    segment.direction & 1 == client
}

/// One step: a header, a field, or a jump over what need not be read. The caller has made sure that `want` is not
/// before the segment.
#[inline(always)]
pub fn step(
    talk: &mut Conversation,
    rule: &Rule,
    segment: &Segment,
    payload: &impl Payload,
) -> Step {
    let midstream = talk.has(Conversation::MIDSTREAM);
    let stream = &mut talk.streams[(segment.direction & 1) as usize];
    let at = stream.want.wrapping_sub(segment.seq);
    let waits = midstream && stream.flags & (Stream::LOST | Stream::TENTATIVE) == Stream::LOST;
    if at >= segment.len || waits {
        return Step::Done;
    }
    let there = segment.len - at;
    let in_record = stream.record_end.wrapping_sub(stream.want);
    if stream.phase < phase::HELLO || in_record == 0 || stream.header_have != 0 {
        let missing = HEADER - (stream.header_have as u32 & 7);
        let take = if missing < there { missing } else { there };
        let Some(bytes) = payload.be(at, take) else {
            return Step::Refuse(Why::Malformed);
        };
        stream.header = stream.header << ((take * 8) & 63) | bytes;
        stream.header_have += take as u8;
        stream.want = stream.want.wrapping_add(take);
        let read = payload.header(talk, rule, segment);
        return match read {
            Step::More => payload.veto(talk, segment),
            _ => read,
        };
    }
    if stream.skip != 0 {
        let jump = if stream.skip < in_record {
            stream.skip
        } else {
            in_record
        };
        stream.from = stream.want;
        stream.want = stream.want.wrapping_add(jump);
        stream.skip -= jump;
        stream.left = stream.left.wrapping_sub(jump);
    } else if stream.field_have < stream.field_need {
        let missing = (stream.field_need - stream.field_have) as u32 & 15;
        let mut take = if missing < there { missing } else { there };
        take = if take < in_record { take } else { in_record };
        let Some(bytes) = payload.be(at, take) else {
            return Step::Refuse(Why::Malformed);
        };
        // A field of 8 bytes that comes whole shifts everything out.
        let kept = if take == 8 {
            0
        } else {
            stream.field << ((take * 8) & 63)
        };
        stream.field = kept | bytes;
        stream.field_have += take as u8;
        stream.want = stream.want.wrapping_add(take);
        stream.from = stream.want;
        if stream.phase != phase::HELLO {
            stream.left = stream.left.wrapping_sub(take);
        }
    }
    if stream.skip != 0 {
        return Step::More;
    }
    payload.field(talk, rule, segment)
}

/// A record's header is whole, or a part of it is there.
#[inline(always)]
pub fn header(talk: &mut Conversation, rule: &Rule, segment: &Segment) -> Step {
    let stream = &mut talk.streams[(segment.direction & 1) as usize];
    let tentative = stream.has(Stream::TENTATIVE);
    if stream.header_have as u32 != HEADER {
        // Its first byte is enough to refuse it.
        let behind = ((stream.header_have as u32).wrapping_sub(1) * 8) & 63;
        let first = (stream.header >> behind) as u8;
        let known = (content::CHANGE_CIPHER_SPEC..=content::APPLICATION_DATA).contains(&first);
        return if known || tentative {
            Step::Done
        } else {
            Step::Refuse(Why::Clear)
        };
    }
    match read_header(talk, rule, segment) {
        Ok(()) => Step::More,
        Err(why) => {
            let stream = &mut talk.streams[(segment.direction & 1) as usize];
            stream.header = 0;
            stream.header_have = 0;
            if !tentative {
                return Step::Refuse(why);
            }
            // It was no header that was found behind the gap.
            stream.flags |= Stream::LOST;
            stream.flags &= !Stream::TENTATIVE;
            Step::Done
        }
    }
}

#[inline(always)]
fn read_header(talk: &mut Conversation, rule: &Rule, segment: &Segment) -> Result<(), Why> {
    let agreed = talk.has(Conversation::AGREED);
    let version = talk.version;
    let by_server = is_by_server(talk, segment);
    let stream = &mut talk.streams[(segment.direction & 1) as usize];
    let kind = (stream.header >> 32) as u8;
    let wire = (stream.header >> 16) as u16;
    let len = stream.header as u16 as u32;
    if !(content::CHANGE_CIPHER_SPEC..=content::APPLICATION_DATA).contains(&kind) {
        return Err(Why::Clear);
    }
    // Before the version is agreed on, 1.0 to 1.2 are written; after that, what was agreed, and 1.2 for 1.3.
    let written = if version == TLS_1_3 { TLS_1_2 } else { version };
    let known = if agreed {
        wire == written
    } else {
        (0x0301..=TLS_1_2).contains(&wire)
    };
    let most = if agreed && version == TLS_1_3 {
        RECORD_MAX
    } else {
        RECORD_MAX_1_2
    };
    if !known || len == 0 || len > most {
        return Err(Why::Malformed);
    }
    let first = stream.phase == phase::FIRST;
    let inside = stream.phase >= phase::HELLO;
    let in_time = match kind {
        content::HANDSHAKE => !agreed || version != TLS_1_3 || inside,
        content::ALERT => true,
        content::CHANGE_CIPHER_SPEC => len == 1 && !inside && !first,
        _ if inside => false,
        _ if agreed => version == TLS_1_3 || stream.has(Stream::KEYED),
        _ => !by_server && !first && rule.accepts(accept::EARLY_DATA),
    };
    if !in_time {
        return Err(Why::Sequence);
    }
    if kind == content::CHANGE_CIPHER_SPEC {
        stream.flags |= Stream::KEYED;
    }
    // The header that was found behind a gap, then the one that follows it.
    stream.flags &= !if stream.has(Stream::LOST) {
        Stream::LOST
    } else {
        Stream::TENTATIVE
    };
    stream.header = 0;
    stream.header_have = 0;
    stream.from = stream.want;
    stream.record_end = stream.want.wrapping_add(len);
    if agreed {
        // With its header, what it holds is checked as far as it ever is.
        talk.checked = talk.checked.saturating_add(len);
    }
    // A handshake message goes on in the next record of its kind, and only there.
    let reads = kind == content::HANDSHAKE && (first || inside || (by_server && !agreed));
    if !reads {
        stream.want = stream.record_end;
    } else if !inside {
        expect(stream, phase::HELLO, 4);
    }
    Ok(())
}

/// The next field.
#[inline(always)]
fn expect(stream: &mut Stream, phase: u8, bytes: u8) {
    stream.phase = phase;
    stream.field = 0;
    stream.field_have = 0;
    stream.field_need = bytes;
}

/// Nothing is left to pass over: a field is whole, or a part of it is there, or the message ends.
#[inline(always)]
pub fn field(talk: &mut Conversation, rule: &Rule, segment: &Segment) -> Step {
    let direction = segment.direction;
    let by_server = is_by_server(talk, segment);
    let stream = &mut talk.streams[(direction & 1) as usize];
    if stream.field_have < stream.field_need {
        return if stream.phase > phase::CLIENT_REST && stream.left == 0 {
            ended(talk, rule, direction, by_server)
        } else {
            Step::More
        };
    }
    let value = stream.field;
    match stream.phase {
        phase::HELLO => {
            let (kind, len) = ((value >> 24) as u8, value as u32 & 0xFF_FFFF);
            if kind != if by_server { 2 } else { 1 } {
                // A server's handshake messages in front of its hello: HelloRequest (0) alone.
                return Step::Refuse(Why::Sequence);
            }
            if !(38..=HELLO_MAX).contains(&len) {
                return Step::Refuse(Why::Malformed);
            }
            stream.left = len;
            if by_server {
                expect(stream, phase::VERSION, 2);
            } else {
                expect(stream, phase::CLIENT_REST, 0);
                stream.skip = len;
            }
        }
        phase::CLIENT_REST => {
            close(stream);
            return Step::More;
        }
        phase::VERSION => {
            talk.version = value as u16;
            talk.group = 0;
            expect(stream, phase::RANDOM, 8);
        }
        phase::RANDOM => {
            if value == RETRY_RANDOM {
                talk.flags |= Conversation::RETRY;
            } else {
                talk.flags &= !Conversation::RETRY;
            }
            expect(stream, phase::SESSION, 1);
            stream.skip = 24;
        }
        phase::SESSION => {
            if value > 32 {
                return Step::Refuse(Why::Malformed);
            }
            expect(stream, phase::SUITE, 3);
            stream.skip = value as u32;
        }
        phase::SUITE => {
            talk.suite = (value >> 8) as u16;
            expect(stream, phase::EXTENSIONS, 2);
        }
        phase::EXTENSIONS => {
            if value as u32 != stream.left {
                return Step::Refuse(Why::Malformed);
            }
            expect(stream, phase::EXTENSION, 4);
        }
        phase::EXTENSION => {
            let (kind, len) = ((value >> 16) as u16, value as u16 as u32);
            if len > stream.left {
                return Step::Refuse(Why::Malformed);
            }
            if kind == 43 && len == 2 {
                expect(stream, phase::CHOSEN_VERSION, 2);
            } else if kind == 51 && len >= 2 {
                expect(stream, phase::CHOSEN_GROUP, 2);
                stream.then = (len - 2) as u16;
            } else {
                expect(stream, phase::EXTENSION, 4);
                stream.skip = len;
            }
        }
        phase::CHOSEN_VERSION => {
            talk.version = value as u16;
            expect(stream, phase::EXTENSION, 4);
        }
        phase::CHOSEN_GROUP => {
            talk.group = value as u16;
            expect(stream, phase::EXTENSION, 4);
            stream.skip = stream.then as u32;
            // Behind the hello, the veto counts in it.
            stream.then = 0;
        }
        _ => return Step::Refuse(Why::Malformed),
    }
    ended(talk, rule, direction, by_server)
}

/// Is the server's hello read to its end? TLS 1.2 may leave extensions out.
#[inline(always)]
fn ended(talk: &mut Conversation, rule: &Rule, direction: u32, by_server: bool) -> Step {
    let agreed = talk.has(Conversation::AGREED);
    let stream = &mut talk.streams[(direction & 1) as usize];
    if stream.left > HELLO_MAX {
        // More was read than the message has.
        return Step::Refuse(Why::Malformed);
    }
    if !by_server || stream.left != 0 {
        return Step::More;
    }
    let ends = stream.phase == phase::EXTENSION || stream.phase == phase::EXTENSIONS;
    if !ends || stream.skip != 0 || stream.field_have != 0 {
        return Step::Refuse(Why::Malformed);
    }
    close(stream);
    if agreed {
        return Step::More;
    }
    decide(talk, rule)
}

/// A hello is read: the rest of its record holds messages that nobody reads.
#[inline(always)]
fn close(stream: &mut Stream) {
    expect(stream, phase::RECORDS, 0);
    stream.skip = 0;
    stream.left = 0;
    stream.flags |= Stream::SPOKEN;
    // `from` stays: the message's end may have been passed over without having come yet.
    stream.want = stream.record_end;
}

/// The server has chosen.
#[inline(always)]
fn decide(talk: &mut Conversation, rule: &Rule) -> Step {
    if talk.version < rule.tls_min || talk.version > TLS_1_3 {
        return Step::Refuse(Why::Version);
    }
    if !rule.allows_suite(talk.suite) {
        return Step::Refuse(Why::Suite);
    }
    if !rule.allows_group(talk.group) {
        return Step::Refuse(Why::Group);
    }
    if talk.has(Conversation::RETRY) {
        // The client's second hello is not read again: what counts is chosen by the server.
        return Step::More;
    }
    talk.flags |= Conversation::AGREED;
    Step::More
}

/// Looks for a header behind a gap, at byte `at` of the segment. True when it is there: the stream then reads on
/// from the record after it, and is believed once that has a header, too.
#[inline(always)]
pub fn relock(talk: &mut Conversation, segment: &Segment, at: u32, eight: u64) -> bool {
    // Three bytes at each of six offsets of eight: 23, and the version that is written from 1.2 on.
    let mut shift = 0;
    while shift < 6 {
        let three = eight >> ((5 - shift) * 8) & 0xFF_FFFF;
        if three == 0x17_0303 {
            break;
        }
        shift += 1;
    }
    if shift == 6 {
        return false;
    }
    let stream = &mut talk.streams[(segment.direction & 1) as usize];
    stream.begin(segment.seq.wrapping_add(at + shift));
    stream.phase = phase::RECORDS;
    stream.flags = Stream::LOST | Stream::TENTATIVE | Stream::KEYED | Stream::SPOKEN;
    true
}
