//! The tenant's encryption policy: which rule holds, the conversation's state, and the payload's bytes. The law is
//! `dataplane_common::encryption`.
//!
//! Called once the limiter has accepted: what a limiter drops must not have been read as delivered, or the same bytes
//! would be taken for others when they come again. What is refused here is given back to the limiter.
//!
//! Each step is a function of its own ([`crate::packet::Context`] says why), and what it is about waits in this CPU's
//! [`maps::FLOW_NOTED`].

mod look;
mod walk;
mod within;

pub use look::{AGAIN, encryption_follow, encryption_look};

use crate::{maps, packet};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_ktime_get_coarse_ns, bpf_loop},
};
use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering, atomic_cxchg},
};
use dataplane_common::{
    abi::RULES_MAX,
    encryption::{
        Bucket, Class, Conversation, Payload as _, Policy, Rule, Segment, Why, accept, datagram,
        exempt,
        fragment::piece,
        hash,
        kind::{Found, Kind},
        mode, overlay, pick, protocol, spare,
        tcp::{self, Entry},
    },
    flow::{FlowEvidence, FlowKey},
    parse::{HEADER_WINDOW, Packet, proto},
};
pub use walk::Skb;
use walk::{encryption_walk, given, unpacked};
use within::encryption_inside;
pub use within::encryption_within;

const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
/// How often a CPU looks whether another has left the bucket: some 100 µs in all, as long as that may read a packet of
/// 64 KB in small records. Shorter, and the acknowledgements of such a packet are dropped.
const LOCK_TRIES: u32 = 16_384;
/// Bit of what [`encryption_judge`] returns: the packet may not pass; its [`Why`] stands below.
pub const REFUSED: u64 = 256;
/// What [`encryption_judge`] returns for a packet that must be looked at first: [`encryption_look`].
pub const LOOK: u64 = 1_024;
/// Bit of `about`: it was.
pub const LOOKED: u64 = 2;
/// Behind what IP says may be so many bytes of a frame of [`PADDED`] bytes or less, and none of a longer one: nobody judges
/// them. 64 bytes are the shortest frame, two tags come before it.
const PADDED: u32 = 64 + 8;

/// What is needed of a packet's headers, from the parser to the judge.
#[repr(C)]
pub struct Headers {
    found: Found,
    /// Offsets of the frame, of the network header, of the transport header, and of the payload.
    frame: u32,
    network: u32,
    transport: u32,
    payload: u32,
    /// IP length; 0: to the frame's end.
    len: u32,
    segment: Segment,
}

impl Headers {
    /// Notes them.
    #[inline(always)]
    pub fn note<const DIRECTION: u32>(&mut self, packet: &Packet) {
        self.found = Found::of::<DIRECTION>(packet);
        self.frame = 0;
        self.network = packet.l3_offset as u32;
        self.transport = packet.l4_offset as u32;
        self.payload = packet.header_end as u32;
        self.len = packet.l3_len;
        self.segment.flags = packet.tcp_flags;
        self.segment.direction = DIRECTION;
        self.segment.piece = piece::WHOLE;
        self.segment.more = 0;
    }
}

impl Headers {
    /// Where what they describe ends, bytes from the beginning of a packet of `len` bytes.
    #[inline(always)]
    fn end(&self, len: u32) -> u32 {
        if self.len == 0 {
            len
        } else {
            self.network + self.len
        }
    }
}

#[inline(always)]
fn noted() -> Option<&'static mut crate::flow::Noted> {
    let noted = maps::FLOW_NOTED.get_ptr_mut(0)?;
    // SAFETY: this CPU's own copy, which lives as long as the map.
    Some(unsafe { &mut *noted })
}

/// The policy `number`, and which of its rules holds for the packet. `about`: of [`encryption_judge`].
#[inline(always)]
fn rule_of(about: u64, number: u32) -> Option<(&'static Policy, &'static Rule)> {
    let (direction, policy_set) = ((about & 1) as u32, (about >> 2 & 1) as u32);
    let policy = maps::POLICIES.get(maps::slots().port(policy_set, number))?;
    let rule = policy.rule(direction, (about >> 8) as u32 & 63);
    let rule = maps::RULES.get(policy_set * RULES_MAX + rule as u32)?;
    Some((policy, rule))
}

/// Judges the packet that was noted, of a port with the policy `number`. `about`: direction, [`LOOKED`], policy set << 2,
/// zone << 8, slot << 16. Its class, [`REFUSED`], or [`LOOK`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_judge(skb: *mut __sk_buff, about: u64, number: u32) -> u64 {
    let direction = (about & 1) as u32;
    let slot = (about >> 16) as u32 & 0xFFFF;
    let Some((policy, rule)) = rule_of(about, number) else {
        return REFUSED;
    };
    if policy.tenant == 0 {
        // The port names a policy that nobody has: it cannot be held.
        return REFUSED | Why::Clear as u64;
    }
    let Some(noted) = noted() else {
        return REFUSED;
    };
    if rule.mode == mode::OFF {
        return Class::Clear as u64;
    }
    let looked = about & LOOKED != 0;
    let (first, mask) = (policy.buckets_first, policy.buckets_mask);
    let key = if looked {
        &mut noted.inner
    } else {
        &mut noted.key
    };
    let verdict = match noted.headers.found.kind(direction) {
        Kind::Tcp => encryption_talk(skb, rule, first, mask, key),
        Kind::Exempt(which) => match exempted(slot, direction, which, rule) {
            Exempted::Yes => Class::Exempt as u64,
            Exempted::No(why) => REFUSED | why as u64,
            // DNS and NTP are datagrams like others where the rule does not exempt them.
            Exempted::AsOthers => encryption_talk(skb, rule, first, mask, key),
        },
        Kind::Udp => encryption_talk(skb, rule, first, mask, key),
        Kind::Esp if rule.accepts(accept::ESP) && rule.evidence_min < 2 => {
            encryption_talk(skb, rule, first, mask, key)
        }
        Kind::Overlay(_) if rule.accepts(accept::OVERLAYS) => {
            if !looked {
                return LOOK;
            }
            REFUSED | Why::Overlay as u64
        }
        // Datagrams like others, which are of no protocol that is known.
        Kind::Overlay(overlay::kind::VXLAN | overlay::kind::GENEVE) => {
            encryption_talk(skb, rule, first, mask, key)
        }
        Kind::Fragment if rule.accepts(accept::FRAGMENTS_TRACKED) && !looked => return LOOK,
        Kind::Fragment if rule.accepts(accept::FRAGMENTS) => Class::Unverified as u64,
        Kind::Fragment => REFUSED | Why::Fragment as u64,
        _ => REFUSED | Why::Clear as u64,
    };
    if verdict & REFUSED != 0 && rule.mode == mode::OBSERVE {
        return Class::WouldDrop as u64;
    }
    verdict
}

enum Exempted {
    Yes,
    No(Why),
    AsOthers,
}

/// May the packet pass as the exemption `which`?
#[inline(always)]
fn exempted(slot: u32, direction: u32, which: u32, rule: &Rule) -> Exempted {
    let which = which & 7;
    if rule.exempt & 1 << which == 0 {
        return if which == exempt::DNS || which == exempt::NTP {
            Exempted::AsOthers
        } else {
            Exempted::No(Why::Clear)
        };
    }
    let Some(interval) = rule.exempt_interval_ns.get(which as usize) else {
        return Exempted::No(Why::Clear);
    };
    if *interval == 0 {
        return Exempted::Yes;
    }
    let at = maps::slots().exemption(slot, direction, which);
    let Some(due) = maps::EXEMPT_DUE.get_ptr_mut(at) else {
        return Exempted::No(Why::ExemptRate);
    };
    // SAFETY: takes no argument.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if spare::take(&Due(due), *interval as u64, now) {
        Exempted::Yes
    } else {
        Exempted::No(Why::ExemptRate)
    }
}

struct Due(*mut u64);

impl spare::Spare for Due {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: points into an array map, whose elements live as long as the map.
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    fn compare_exchange(&self, old: u64, new: u64) -> bool {
        // SAFETY: as above; elements are 8-aligned.
        unsafe { atomic_cxchg::<u64, ORDER, ORDER>(self.0, old, new).1 }
    }
}

/// A result as the functions below hand it on.
#[inline(always)]
fn packed(verdict: Result<Class, Why>) -> u64 {
    match verdict {
        Ok(class) => class as u64,
        Err(why) => REFUSED | why as u64,
    }
}

/// Finds the packet's conversation in its tenant's part of the table, or begins it, and judges.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_talk(
    skb: *mut __sk_buff,
    rule: *const Rule,
    first: u32,
    mask: u32,
    key: *mut FlowKey,
) -> u64 {
    let contended = REFUSED | Why::Contended as u64;
    // SAFETY: the caller's; to the verifier a pointer may be null.
    let (Some(rule), Some(noted), Some(key)) =
        (unsafe { rule.as_ref() }, noted(), unsafe { key.as_mut() })
    else {
        return contended;
    };
    key.zone = 0;
    let at = first + (hash(key) & mask);
    let Some(bucket) = maps::CONVERSATIONS.get_ptr_mut(at) else {
        return contended;
    };
    let headers = &mut noted.headers;
    // SAFETY: the context is valid for the whole program.
    let len = unsafe { (*skb).len };
    let end = headers.end(len);
    headers.segment.len = end.saturating_sub(headers.payload);
    if len > end && len - headers.frame > PADDED {
        return REFUSED | Why::Malformed as u64;
    }
    if headers.found.protocol == proto::TCP {
        if headers.segment.piece != piece::LATER {
            let Some(numbers) = numbers(skb, headers.transport + 4) else {
                return REFUSED | Why::Malformed as u64;
            };
            headers.segment.seq = (numbers >> 32) as u32;
            headers.segment.ack = numbers as u32;
        }
        // Of a whole packet that is in no tunnel, `encryption_within` was asked before.
        let asked = headers.frame == 0 && headers.segment.piece == piece::WHOLE;
        if !asked && encryption_inside(bucket, key, &headers.segment) != 0 {
            // Its flow has it already: from the record's header.
            noted.evidence = 0;
            return Class::Records as u64;
        }
    }
    // SAFETY: points into an array map, whose elements live as long as the map.
    let lock = unsafe { &raw mut (*bucket).lock };
    if !enter(lock) {
        return contended;
    }
    // SAFETY: takes no argument.
    let now_ms = spare::milliseconds(unsafe { bpf_ktime_get_coarse_ns() });
    let picked = encryption_pick(bucket, key, now_ms);
    // SAFETY: as above; whoever has the lock is alone in the bucket.
    let talk = unsafe { &mut (*bucket).ways[picked as usize & 3] };
    if picked & 4 == 0 {
        talk.become_new(key, now_ms, rule.unverified_bytes);
    }
    noted.headers.segment.now_ms = now_ms;
    let judged = encryption_payload(skb, talk, rule);
    if talk.protocol == protocol::TLS
        && talk.flags & (Conversation::AGREED | Conversation::MIDSTREAM) == Conversation::AGREED
    {
        noted.evidence = FlowEvidence::of(talk.version, talk.suite).0;
    }
    leave(lock);
    judged
}

/// Sequence and acknowledgement number of TCP. The parser has read the header where it lies: it is in the linear part,
/// but for one deep in a tunnel.
#[inline(always)]
fn numbers(skb: *mut __sk_buff, at: u32) -> Option<u64> {
    if at + 8 <= HEADER_WINDOW {
        return packet::be64(skb, at);
    }
    Skb { skb, base: at }.be(0, 8)
}

/// Leaves a bucket.
#[inline(always)]
fn leave(lock: *mut u32) {
    // SAFETY: the caller's. An exchange, so that what was written is seen before the lock is free.
    unsafe { atomic_cxchg::<u32, ORDER, ORDER>(lock, 1, 0) };
}

/// Who waits for a bucket, and whether it is theirs.
struct Wait {
    lock: *mut u32,
    entered: u32,
}

#[inline(always)]
fn enter(lock: *mut u32) -> bool {
    // SAFETY: the caller's.
    if unsafe { atomic_cxchg::<u32, ORDER, ORDER>(lock, 0, 1).1 } {
        return true;
    }
    let mut wait = Wait { lock, entered: 0 };
    // SAFETY: the callback's own context, which outlives the loop.
    unsafe {
        bpf_loop(
            LOCK_TRIES,
            try_again as *mut c_void,
            (&raw mut wait).cast(),
            0,
        )
    };
    wait.entered != 0
}

/// One try; 1: it was the last.
unsafe extern "C" fn try_again(_: u32, wait: *mut c_void) -> i64 {
    // SAFETY: `enter` gives its own.
    let wait = unsafe { &mut *wait.cast::<Wait>() };
    // SAFETY: the lock is within an element of an array map, which lives as long as the map.
    if !unsafe { atomic_cxchg::<u32, ORDER, ORDER>(wait.lock, 0, 1).1 } {
        return 0;
    }
    wait.entered = 1;
    1
}

/// [`pick`]: the place, and 4 when the conversation stands there.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_pick(bucket: *const Bucket, key: *const FlowKey, now_ms: u32) -> u64 {
    // SAFETY: the caller's; to the verifier a pointer may be null.
    let (Some(bucket), Some(key)) = (unsafe { bucket.as_ref() }, unsafe { key.as_ref() }) else {
        return 0;
    };
    let (way, known) = pick(bucket, key, now_ms);
    way as u64 & 3 | (known as u64) << 2
}

/// Judges the payload, whose segment was noted.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_payload(
    skb: *mut __sk_buff,
    talk: *mut Conversation,
    rule: *const Rule,
) -> u64 {
    let malformed = REFUSED | Why::Malformed as u64;
    let (Some(known), Some(rule), Some(noted)) =
        // SAFETY: the caller's; to the verifier a pointer may be null.
        (unsafe { talk.as_mut() }, unsafe { rule.as_ref() }, noted())
    else {
        return malformed;
    };
    let headers = &noted.headers;
    if headers.found.protocol != proto::TCP {
        return encryption_datagram(skb, known, rule, &headers.segment, headers.payload);
    }
    let ports = known.key.local_port as u32 | (known.key.remote_port as u32) << 16;
    let about = headers.payload as u64 | (ports as u64) << 32;
    let entry = encryption_enter(skb, known, rule, &headers.segment, about);
    let judged = if entry & WALKS == 0 {
        entry
    } else {
        let last = encryption_walk(skb, known, rule, &headers.segment, about | entry << 16);
        encryption_leave(
            known,
            rule,
            &headers.segment,
            last | (entry & CHARGED) << 16,
        )
    };
    if judged & REFUSED != 0
        && let Some(why) = Why::from_number(judged as u8)
    {
        known.refuse(why, headers.segment.len);
    }
    judged
}

/// Bits of what [`encryption_enter`] returns beside those of a verdict.
const WALKS: u64 = 512;
const SCANS: u64 = 1_024;
const CHARGED: u64 = 2_048;

/// [`tcp::enter`]. `about`: offset of the payload, the ports << 32.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_enter(
    skb: *mut __sk_buff,
    talk: *mut Conversation,
    rule: *const Rule,
    segment: *const Segment,
    about: u64,
) -> u64 {
    // SAFETY: the caller's.
    let Some((talk, rule, segment)) = (unsafe { given(talk, rule, segment) }) else {
        return REFUSED | Why::Malformed as u64;
    };
    let payload = Skb {
        skb,
        base: about as u32 & 0xFFFF,
    };
    let ports = [(about >> 32) as u16, (about >> 48) as u16];
    match tcp::enter(talk, rule, segment, ports, &payload) {
        Entry::Pass(class) => class as u64,
        Entry::Refuse(why) => REFUSED | why as u64,
        Entry::Walk { charged: false } => WALKS,
        Entry::Walk { charged: true } => WALKS | CHARGED,
        Entry::Scan => WALKS | SCANS | CHARGED,
    }
}

/// [`tcp::leave`]. `last`: what [`encryption_walk`] returned, [`CHARGED`] << 16.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_leave(
    talk: *mut Conversation,
    rule: *const Rule,
    segment: *const Segment,
    last: u64,
) -> u64 {
    // SAFETY: the caller's.
    let Some((talk, rule, segment)) = (unsafe { given(talk, rule, segment) }) else {
        return REFUSED | Why::Malformed as u64;
    };
    let step = unpacked(last as u32 & 0xFFFF);
    let charged = last & CHARGED << 16 != 0;
    packed(tcp::leave(talk, rule, segment, charged, step))
}

/// [`datagram::judge`]. `base`: offset of the payload.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_datagram(
    skb: *mut __sk_buff,
    talk: *mut Conversation,
    rule: *const Rule,
    segment: *const Segment,
    base: u32,
) -> u64 {
    // SAFETY: the caller's.
    let Some((talk, rule, segment)) = (unsafe { given(talk, rule, segment) }) else {
        return REFUSED | Why::Malformed as u64;
    };
    packed(datagram::judge(talk, rule, segment, &Skb { skb, base }))
}
