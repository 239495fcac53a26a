//! A TCP segment of a tenant under a policy.
//!
//! [`enter`] says what its place in the stream decides alone; [`Payload::walk`] reads on from there; [`leave`] says
//! what came of it. Three functions, because the kernel's walk is a loop of its own.

use super::{
    Class, Conversation, Payload, Rule, Segment, Stream, Why, accept, fragment, protocol, ssh,
    tcp_flag,
    tls::{self, Step},
};

/// Payload of one direction before its keys are in use, bytes: chains of certificates are below it.
pub const OPENING_MAX: u32 = 131_072;
/// Of so many bytes that are checked, one may pass unchecked: what is lost on a path and sent again.
const CREDIT_PART: u32 = 8;
/// Checked bytes before credit is given for them.
const CHECKED_STEP: u32 = 65_536;
/// Credit that comes with each second, bytes.
const CREDIT_SECOND: u32 = 65_536;

/// Is the segment within a record of TLS whose header was read, in a conversation that has nothing else to decide? Then it
/// is E3 and changes nothing: [`judge`] need not be asked, and the kernel takes no lock for it. What another CPU writes
/// meanwhile is the header of a later record, or another conversation that has yet to shake hands.
#[inline(always)]
pub fn is_within(talk: &Conversation, segment: &Segment) -> bool {
    const OPENED: u8 = Conversation::OPEN | Conversation::AGREED;
    const ELSE: u8 = Conversation::CONDEMNED | Conversation::MIDSTREAM;
    let stream = &talk.streams[(segment.direction & 1) as usize];
    let end = segment.seq.wrapping_add(segment.len);
    talk.protocol == protocol::TLS
        && talk.flags & (OPENED | ELSE) == OPENED
        && stream.flags & (Stream::LOST | Stream::TENTATIVE) == 0
        && tls::is_past_hello(stream)
        && (talk.version == tls::TLS_1_3 || stream.has(Stream::KEYED))
        && segment.flags & tcp_flag::SYN == 0
        && segment.len != 0
        && segment.seq.wrapping_sub(stream.from) as i32 >= 0
        && stream.want.wrapping_sub(end) as i32 >= 0
}

/// How to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It is decided.
    Pass(Class),
    /// It is decided.
    Refuse(Why),
    /// Read on; `charged`: a part of it cannot be checked, and was charged.
    Walk {
        /// See above.
        charged: bool,
    },
    /// A header went by unread: look for the next one in this segment, and read on from there.
    Scan,
}

/// Decides what the segment's place decides. `server_port`: of the end that serves.
#[inline(always)]
pub fn enter(
    talk: &mut Conversation,
    rule: &Rule,
    segment: &Segment,
    server_port: [u16; 2],
    payload: &impl Payload,
) -> Entry {
    talk.last_ms = segment.now_ms;
    if segment.flags & tcp_flag::SYN != 0 {
        return open(talk, rule, segment);
    }
    if segment.len == 0 {
        return Entry::Pass(class(talk, segment.direction));
    }
    if talk.has(Conversation::CONDEMNED) {
        return Entry::Refuse(Why::from_number(talk.why).unwrap_or(Why::Clear));
    }
    if !talk.has(Conversation::OPEN) && !talk.has(Conversation::MIDSTREAM) {
        if !rule.accepts(accept::MIDSTREAM) {
            return Entry::Refuse(Why::Midstream);
        }
        take_up(talk);
    }
    give_credit(talk, rule, segment.now_ms);
    if talk.protocol == protocol::UNKNOWN {
        // The tenant's port, or the other end's.
        let serves = talk.has(Conversation::SERVES);
        let port = if serves {
            server_port[0]
        } else {
            server_port[1]
        };
        match first(talk, rule, segment, port, payload) {
            Ok(None) => {}
            Ok(Some(class)) => return Entry::Pass(class),
            Err(why) => return Entry::Refuse(why),
        }
    }
    place(talk, segment)
}

/// A SYN. One alone changes nothing: whoever can forge one cannot forge the answer.
#[inline(always)]
fn open(talk: &mut Conversation, rule: &Rule, segment: &Segment) -> Entry {
    if segment.len != 0 || segment.piece != fragment::piece::WHOLE {
        // TCP Fast Open: its sender falls back to a SYN without payload.
        return Entry::Refuse(Why::SynPayload);
    }
    let side = (segment.direction & 1) as usize;
    let begin = segment.seq.wrapping_add(1);
    if segment.flags & tcp_flag::ACK == 0 {
        talk.pending[side] = begin;
        talk.flags |= Conversation::syn(segment.direction);
        return Entry::Pass(Class::Opening);
    }
    let answers =
        talk.has(Conversation::syn(segment.direction ^ 1)) && talk.pending[side ^ 1] == segment.ack;
    if answers {
        let (from, to) = if side == 0 {
            (begin, segment.ack)
        } else {
            (segment.ack, begin)
        };
        let same = talk.has(Conversation::OPEN) && talk.start[0] == from && talk.start[1] == to;
        if !same {
            talk.restart(from, to, segment.now_ms, rule.unverified_bytes);
            let serves = if side == 0 { Conversation::SERVES } else { 0 };
            talk.flags = Conversation::OPEN | Conversation::syn(segment.direction ^ 1) | serves;
        }
    }
    Entry::Pass(Class::Opening)
}

/// Takes up a conversation that began before anybody looked, as TLS whose headers must be found.
#[inline(always)]
fn take_up(talk: &mut Conversation) {
    talk.flags |= Conversation::MIDSTREAM | Conversation::AGREED;
    talk.protocol = protocol::TLS;
    // What both 1.2 and 1.3 write on their records, once there are keys.
    talk.version = tls::TLS_1_2;
    let mut side = 0;
    while side < 2 {
        talk.streams[side].phase = tls::PAST_HELLO;
        talk.streams[side].flags = Stream::LOST;
        side += 1;
    }
}

/// What the first bytes of a direction say; `Some`: of a prefix that may be clear.
#[inline(always)]
fn first(
    talk: &mut Conversation,
    rule: &Rule,
    segment: &Segment,
    port: u16,
    payload: &impl Payload,
) -> Result<Option<Class>, Why> {
    let prefix = rule.has_prefix(port);
    let stream = &mut talk.streams[(segment.direction & 1) as usize];
    let at = stream.want.wrapping_sub(segment.seq);
    if at as i32 >= segment.len as i32 {
        // A prefix that is sent again.
        return charge(talk, segment.len).map(Some);
    }
    if (at as i32) < 0 {
        return Err(Why::Order);
    }
    let byte = payload.be(at, 1).ok_or(Why::Malformed)? as u8;
    if rule.accepts(accept::TLS) && tls::begins(byte) {
        talk.protocol = protocol::TLS;
    } else if prefix {
        return clear_prefix(talk, rule, segment, at, payload).map(Some);
    } else if rule.accepts(accept::SSH) && ssh::begins(byte) {
        talk.protocol = protocol::SSH;
    } else {
        return Err(Why::Clear);
    }
    talk.checked = 0;
    Ok(None)
}

/// PostgreSQL's requests for encryption (its protocol, "SSLRequest" and "GSSENCRequest"): 8 bytes, answered by one.
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
/// What a client of SMTP, POP3 or FTP says only where it goes on in clear, in small letters.
const IN_CLEAR: [&[u8; 4]; 8] = [
    b"mail", b"rcpt", b"data", b"bdat", b"auth", b"user", b"pass", b"apop",
];

/// A segment in front of TLS, where the rule lets so much be clear. It begins a command, or an answer.
#[inline(always)]
fn clear_prefix(
    talk: &mut Conversation,
    rule: &Rule,
    segment: &Segment,
    at: u32,
    payload: &impl Payload,
) -> Result<Class, Why> {
    let mut used = talk.checked.saturating_add(segment.len);
    if used > rule.prefix_bytes {
        return Err(Why::Clear);
    }
    let serves = talk.has(Conversation::SERVES) as u32;
    if segment.direction & 1 == serves && segment.len - at >= 8 {
        let eight = payload.be(at, 8).ok_or(Why::Malformed)?;
        if eight >> 48 == 0 {
            // PostgreSQL: what is no request for encryption is a session in clear. Its answer is one byte, and
            // GSSAPI declined is followed by the other request.
            let answer = match eight as u32 {
                SSL_REQUEST if segment.len == 8 => 1,
                GSS_REQUEST if segment.len == 8 => 10,
                _ => return Err(Why::Clear),
            };
            let rest = rule.prefix_bytes.saturating_sub(answer);
            used = if used > rest { used } else { rest };
        } else if goes_on_in_clear(eight) {
            return Err(Why::Clear);
        }
    }
    talk.checked = used;
    let stream = &mut talk.streams[(segment.direction & 1) as usize];
    stream.want = segment.seq.wrapping_add(segment.len);
    stream.from = stream.want;
    Ok(Class::Opening)
}

/// Is this a client's command of a session in clear? A server that declines, or an offer that was stripped on the way,
/// is told by that.
#[inline(always)]
fn goes_on_in_clear(eight: u64) -> bool {
    const SMALL: u64 = 0x2020_2020_2020_2020;
    let small = eight | SMALL;
    let word = (small >> 32) as u32;
    // FTP asks for TLS so (RFC 4217).
    let asks =
        small == u64::from_be_bytes(*b"auth tls") || small == u64::from_be_bytes(*b"auth ssl");
    let mut number = 0;
    while number < IN_CLEAR.len() {
        if word == u32::from_be_bytes(*IN_CLEAR[number]) {
            return !asks;
        }
        number += 1;
    }
    false
}

/// Where the segment stands in its stream.
#[inline(always)]
fn place(talk: &mut Conversation, segment: &Segment) -> Entry {
    let side = (segment.direction & 1) as usize;
    let keyed = is_keyed(talk, segment.direction);
    let stream = &mut talk.streams[side];
    let end = segment.seq.wrapping_add(segment.len);
    if !keyed && end.wrapping_sub(talk.start[side]) as i32 > OPENING_MAX as i32 {
        return Entry::Refuse(Why::Sequence);
    }
    if talk.protocol == protocol::SSH && keyed {
        return Entry::Pass(class(talk, segment.direction));
    }
    if stream.flags & (Stream::LOST | Stream::TENTATIVE) == Stream::LOST {
        return scan_or_refuse(talk, segment);
    }
    let at = stream.want.wrapping_sub(segment.seq) as i32;
    if at < 0 {
        if talk.protocol != protocol::TLS || !keyed {
            return Entry::Refuse(Why::Order);
        }
        stream.flags |= Stream::LOST;
        stream.flags &= !Stream::TENTATIVE;
        return scan_or_refuse(talk, segment);
    }
    // What came before `from` was checked then; what comes now in its place may be something else.
    let behind = stream.from.wrapping_sub(segment.seq) as i32;
    let doubtful = stream.has(Stream::TENTATIVE);
    let old = if behind <= 0 && !doubtful {
        0
    } else if doubtful || behind as u32 > segment.len {
        segment.len
    } else {
        behind as u32
    };
    if old != 0
        && let Err(why) = charge(talk, old)
    {
        return Entry::Refuse(why);
    }
    if at as u32 >= segment.len {
        if old != 0 {
            return Entry::Pass(Class::Unverified);
        }
        return Entry::Pass(class(talk, segment.direction));
    }
    Entry::Walk { charged: old != 0 }
}

#[inline(always)]
fn scan_or_refuse(talk: &mut Conversation, segment: &Segment) -> Entry {
    match charge(talk, segment.len) {
        Ok(_) => Entry::Scan,
        Err(_) if talk.has(Conversation::MIDSTREAM) => Entry::Refuse(Why::Midstream),
        Err(why) => Entry::Refuse(why),
    }
}

/// Takes what passes unchecked from the credit.
#[inline(always)]
fn charge(talk: &mut Conversation, len: u32) -> Result<Class, Why> {
    if talk.credit < len {
        return Err(Why::Unverified);
    }
    talk.credit -= len;
    Ok(Class::Unverified)
}

/// Credit that comes with time; not for what was never seen to be encrypted.
#[inline(always)]
fn give_credit(talk: &mut Conversation, rule: &Rule, now_ms: u32) {
    let since = now_ms.wrapping_sub(talk.credit_ms);
    if since < 1_000 || !talk.has(Conversation::AGREED) || talk.has(Conversation::MIDSTREAM) {
        return;
    }
    talk.credit_ms = now_ms;
    add_credit(talk, rule.unverified_bytes, CREDIT_SECOND);
}

#[inline(always)]
fn add_credit(talk: &mut Conversation, most: u32, bytes: u32) {
    let sum = talk.credit.saturating_add(bytes);
    talk.credit = if sum < most { sum } else { most };
}

/// Are the keys of a direction in use?
#[inline(always)]
fn is_keyed(talk: &Conversation, direction: u32) -> bool {
    let stream = &talk.streams[(direction & 1) as usize];
    match talk.protocol {
        protocol::TLS => {
            talk.has(Conversation::AGREED)
                && tls::is_past_hello(stream)
                && (talk.version == tls::TLS_1_3
                    || stream.has(Stream::KEYED)
                    || talk.has(Conversation::MIDSTREAM))
        }
        _ => stream.has(Stream::KEYED),
    }
}

/// What a packet is that changes nothing.
#[inline(always)]
pub fn class(talk: &Conversation, direction: u32) -> Class {
    let stream = &talk.streams[(direction & 1) as usize];
    match talk.protocol {
        protocol::TLS if talk.has(Conversation::MIDSTREAM) => Class::Unverified,
        protocol::TLS if is_keyed(talk, direction) => {
            if stream.flags & (Stream::LOST | Stream::TENTATIVE) == 0 {
                Class::Records
            } else {
                Class::Unverified
            }
        }
        protocol::SSH
            if talk.streams[0].has(Stream::KEYED) && talk.streams[1].has(Stream::KEYED) =>
        {
            Class::Handshake
        }
        _ => Class::Opening,
    }
}

/// One step of the walk.
#[inline(always)]
pub fn step(
    talk: &mut Conversation,
    rule: &Rule,
    segment: &Segment,
    payload: &impl Payload,
) -> Step {
    if talk.protocol == protocol::TLS {
        tls::step(talk, rule, segment, payload)
    } else {
        ssh::step(talk, segment, payload)
    }
}

/// One step of a scan: `at` is where it looks. True: go on at `at + 6`.
#[inline(always)]
pub fn scan(talk: &mut Conversation, segment: &Segment, at: u32, payload: &impl Payload) -> bool {
    if at + 8 > segment.len {
        return false;
    }
    match payload.be(at, 8) {
        Some(eight) => !tls::relock(talk, segment, at, eight),
        None => false,
    }
}

/// What came of the walk.
#[inline(always)]
pub fn leave(
    talk: &mut Conversation,
    rule: &Rule,
    segment: &Segment,
    charged: bool,
    last: Step,
) -> Result<Class, Why> {
    match last {
        Step::Refuse(why) => return Err(why),
        Step::More => return Err(Why::Bound),
        Step::Done => {}
    }
    let class = class(talk, segment.direction);
    if class as u8 == Class::Handshake as u8 && rule.evidence_min > 2 {
        return Err(Why::Evidence);
    }
    if charged {
        return Ok(Class::Unverified);
    }
    if talk.checked >= CHECKED_STEP && talk.has(Conversation::AGREED) {
        let earned = talk.checked / CREDIT_PART;
        talk.checked = 0;
        add_credit(talk, rule.unverified_bytes, earned);
    }
    Ok(class)
}

/// The whole of it: [`enter`], the walk, [`leave`].
///
/// # Errors
/// Why the segment may not pass under the rule; the conversation has noted it.
#[inline(always)]
pub fn judge(
    talk: &mut Conversation,
    rule: &Rule,
    segment: &Segment,
    ports: [u16; 2],
    payload: &impl Payload,
) -> Result<Class, Why> {
    if is_within(talk, segment) {
        return Ok(Class::Records);
    }
    let verdict = match enter(talk, rule, segment, ports, payload) {
        Entry::Pass(class) => Ok(class),
        Entry::Refuse(why) => Err(why),
        Entry::Walk { charged } => {
            let last = payload.walk(talk, rule, segment);
            leave(talk, rule, segment, charged, last)
        }
        Entry::Scan => {
            payload.scan(talk, segment);
            let last = payload.walk(talk, rule, segment);
            leave(talk, rule, segment, true, last)
        }
    };
    if let Err(why) = verdict {
        talk.refuse(why, segment.len);
    }
    verdict
}
