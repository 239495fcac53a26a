//! What must be looked at before it can be judged: overlays, for the packet inside, and fragments, for their first.
//!
//! Between two calls of [`super::encryption_judge`], from the program itself: Linux lets calls be eight deep, and the judge's
//! are. What is found stands in this CPU's [`maps::FLOW_NOTED`].

use super::{REFUSED, enter, leave, noted, rule_of, walk::Skb};
use crate::{flow::Noted, maps};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_ktime_get_coarse_ns, bpf_skb_load_bytes},
};
use dataplane_common::{
    abi::FROM_TENANT,
    encryption::{
        Class, Conversation, Payload as _, Why, accept,
        fragment::{self, First, piece},
        hash,
        kind::{Found, Kind},
        mode,
        overlay::{self, Inner},
        spare,
    },
    flow::FlowKey,
    parse::{Extensions, Fragment, Frame, Meta, Network, Packet, extensions, parse_inside, proto},
    reason::DropReason,
};

/// What [`encryption_look`] returns for a packet that is to be judged again, as what was found.
pub const AGAIN: u64 = 512;

/// Looks at the packet that was noted. `about`, `number`: of [`super::encryption_judge`]. [`AGAIN`], or a verdict.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_look(skb: *mut __sk_buff, about: u64, number: u32) -> u64 {
    let (Some((policy, rule)), Some(noted)) = (rule_of(about, number), noted()) else {
        return REFUSED;
    };
    let direction = (about & 1) as u32;
    let found = match noted.headers.found.kind(direction) {
        Kind::Overlay(which) => encryption_inner(skb, direction, which),
        Kind::Fragment => {
            encryption_piece(skb, direction, policy.buckets_first, policy.buckets_mask)
        }
        _ => REFUSED,
    };
    if found & REFUSED != 0 && rule.mode == mode::OBSERVE {
        return Class::WouldDrop as u64;
    }
    found
}

/// Where what the headers describe ends, bytes from the packet's beginning.
#[inline(always)]
fn end(skb: *mut __sk_buff, noted: &Noted) -> u32 {
    // SAFETY: the context is valid for the whole program.
    noted.headers.end(unsafe { (*skb).len })
}

/// Notes the packet that an overlay carries in place of the one outside.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_inner(skb: *mut __sk_buff, direction: u32, which: u32) -> u64 {
    let refused = REFUSED | Why::Overlay as u64;
    let Some(noted) = noted() else {
        return refused;
    };
    let outer = noted.headers.payload;
    let payload = Skb { skb, base: outer };
    let Ok(inner) = overlay::read(which, noted.headers.found.protocol, &payload) else {
        return refused;
    };
    let end = end(skb, noted);
    let base = outer + inner.at;
    if end < base {
        return refused;
    }
    let mut packet = Packet::default();
    let about = base as u64 | (inner.ethertype as u64) << 32;
    if inside_parse(skb, &mut packet, about, end - base) != 0 {
        return refused;
    }
    note_inside(noted, &packet, &inner, which, direction);
    let headers = &mut noted.headers;
    headers.found = if direction == FROM_TENANT {
        Found::of::<FROM_TENANT>(&packet)
    } else {
        Found::of::<{ dataplane_common::abi::TO_TENANT }>(&packet)
    };
    headers.frame = base;
    headers.network = base + packet.l3_offset as u32;
    headers.transport = base + packet.l4_offset as u32;
    headers.payload = base + packet.header_end as u32;
    headers.len = packet.l3_len;
    headers.segment.flags = packet.tcp_flags;
    AGAIN
}

#[inline(always)]
fn note_inside(noted: &mut Noted, packet: &Packet, inner: &Inner, which: u32, direction: u32) {
    overlay::note(&mut noted.inner, &noted.key, packet, which, inner.network);
    overlay::note_ends(&mut noted.inner, packet, direction);
}

/// Parses what a tunnel carries. `about`: where it begins, its EtherType << 32. 0, or the number of a reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inside_parse(
    skb: *mut __sk_buff,
    packet: *mut Packet,
    about: u64,
    len: u32,
) -> u64 {
    // SAFETY: `encryption_inner` gives its own. To the verifier a pointer may be null.
    let Some(packet) = (unsafe { packet.as_mut() }) else {
        return DropReason::Internal as u64;
    };
    let meta = Meta {
        len,
        tag_in_skb: false,
        tag_vid: 0,
        // SAFETY: the context is valid for the whole program.
        gso: unsafe { (*skb).gso_size } != 0,
    };
    let frame = Within {
        skb,
        base: about as u32,
    };
    match parse_inside(&frame, &meta, (about >> 32) as u16, packet) {
        Ok(()) => 0,
        Err(reason) => reason as u64,
    }
}

/// Bytes of the packet from `base` on, wherever they lie.
#[derive(Clone, Copy)]
struct Within {
    skb: *mut __sk_buff,
    base: u32,
}

impl Within {
    #[inline(always)]
    fn load<const SIZE: usize>(&self, offset: u32) -> Option<[u8; SIZE]> {
        let mut bytes = [0; SIZE];
        // SAFETY: `SIZE` bytes of `bytes`; the helper checks the offset.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast(),
                self.base + offset,
                bytes.as_mut_ptr().cast(),
                SIZE as u32,
            )
        };
        if failed != 0 { None } else { Some(bytes) }
    }
}

impl Frame for Within {
    #[inline(always)]
    fn u8(&self, offset: u32) -> Option<u8> {
        self.load::<1>(offset).map(|bytes| bytes[0])
    }

    #[inline(always)]
    fn be16(&self, offset: u32) -> Option<u16> {
        self.load(offset).map(u16::from_be_bytes)
    }

    #[inline(always)]
    fn raw32(&self, offset: u32) -> Option<u32> {
        self.load(offset).map(u32::from_ne_bytes)
    }

    #[inline(always)]
    fn plain(&self) -> Option<impl dataplane_common::parse::Plain> {
        None::<[u8; dataplane_common::parse::PLAIN]>
    }

    #[inline(always)]
    fn extensions(&self, start: Extensions, limit: u32, gso: bool) -> u64 {
        let start = start.offset as u64 | (start.next as u64) << 16 | (gso as u64) << 32;
        inside_extensions(self.skb, self.base, start, limit)
    }
}

/// `parse::extensions` of what a tunnel carries. `start`: offset, next header << 16, BIG TCP << 32.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inside_extensions(skb: *mut __sk_buff, base: u32, start: u64, limit: u32) -> u64 {
    let from = Extensions {
        offset: start as u16,
        next: (start >> 16) as u8,
        ..Extensions::default()
    };
    extensions(&Within { skb, base }, from, limit, start >> 32 != 0)
}

/// Ties a fragment to its packet: notes where a first one stands, and makes of a later one the segment that it is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_piece(
    skb: *mut __sk_buff,
    direction: u32,
    first: u32,
    mask: u32,
) -> u64 {
    let refused = REFUSED | Why::Fragment as u64;
    let Some(noted) = noted() else {
        return refused;
    };
    let v6 = noted.headers.found.network == Network::Ipv6 as u8;
    let base = noted.headers.network;
    let Some(found) = fragment::read(&Skb { skb, base }, v6) else {
        return refused;
    };
    let end = end(skb, noted);
    let len = end.saturating_sub(base + found.start);
    if found.check(len).is_err() {
        return refused;
    }
    noted.piece = found;
    noted.inner = noted.key;
    if found.offset != 0 {
        noted.headers.payload = base + found.start;
        return encryption_later(direction, first, mask, len);
    }
    let headers = &mut noted.headers;
    headers.found.fragment = Fragment::No as u8;
    headers.segment.piece = piece::FIRST;
    headers.segment.more = 0;
    if headers.found.protocol == proto::UDP {
        let udp = Skb {
            skb,
            base: headers.transport,
        };
        let whole = udp.be(4, 2).unwrap_or(0) as u32;
        let there = end.saturating_sub(headers.transport);
        if whole < there {
            return refused;
        }
        headers.segment.more = whole - there;
    }
    AGAIN
}

/// What the packet that was noted is remembered by, and where: a bucket.
#[inline(always)]
fn remembered(
    noted: &Noted,
    direction: u32,
    key: &mut FlowKey,
    first: u32,
    mask: u32,
) -> Option<*mut dataplane_common::encryption::Bucket> {
    *key = noted.key;
    let v6 = noted.key.ethertype == dataplane_common::parse::ethertype::IPV6;
    noted.piece.note(key, direction, v6);
    maps::CONVERSATIONS.get_ptr_mut(first + (hash(key) & mask))
}

/// Finds what a later fragment of `len` bytes follows.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_later(direction: u32, first: u32, mask: u32, len: u32) -> u64 {
    let refused = REFUSED | Why::Fragment as u64;
    let Some(noted) = noted() else {
        return refused;
    };
    let mut key = FlowKey::default();
    let Some(bucket) = remembered(noted, direction, &mut key, first, mask) else {
        return refused;
    };
    // SAFETY: points into an array map, whose elements live as long as the map.
    let lock = unsafe { &raw mut (*bucket).lock };
    if !enter(lock) {
        return REFUSED | Why::Contended as u64;
    }
    // SAFETY: takes no argument.
    let now_ms = spare::milliseconds(unsafe { bpf_ktime_get_coarse_ns() });
    let picked = super::encryption_pick(bucket, &key, now_ms);
    // SAFETY: as above; whoever has the lock is alone in the bucket.
    let talk = unsafe { &mut (*bucket).ways[picked as usize & 3] };
    let follows = picked & 4 != 0 && fragment::follow(talk, &noted.piece, len, now_ms).is_ok();
    if follows {
        fragment::becomes(talk, &noted.piece, &mut noted.headers.segment);
        let headers = &mut noted.headers;
        headers.segment.more = 0;
        headers.found.fragment = Fragment::No as u8;
        headers.found.protocol = talk.suite as u8;
        headers.found.near = talk.credit as u16;
        headers.found.far = (talk.credit >> 16) as u16;
        noted.inner.protocol = talk.suite as u8;
        let ports = matches!(
            headers.found.protocol,
            proto::TCP | proto::UDP | proto::SCTP
        );
        noted.inner.local_port = if ports { headers.found.near } else { 0 };
        noted.inner.remote_port = if ports { headers.found.far } else { 0 };
    }
    leave(lock);
    if follows { AGAIN } else { refused }
}

/// Remembers a first fragment that passed, so that others may follow; of one that did not, nothing may. `judged`: what
/// became of it. The same, or the refusal of what cannot be remembered.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_follow(
    skb: *mut __sk_buff,
    about: u64,
    number: u32,
    judged: u64,
) -> u64 {
    let (Some((policy, rule)), Some(noted)) = (rule_of(about, number), noted()) else {
        return REFUSED;
    };
    if noted.headers.segment.piece != piece::FIRST || !rule.accepts(accept::FRAGMENTS_TRACKED) {
        return judged;
    }
    let direction = (about & 1) as u32;
    let base = noted.headers.network + noted.piece.start;
    let end = end(skb, noted);
    let is_udp = noted.headers.found.protocol == proto::UDP;
    let first = First {
        len: end - base,
        origin: noted.headers.payload - base,
        seq: if noted.headers.found.protocol == proto::TCP {
            noted.headers.segment.seq
        } else {
            0
        },
        end: if is_udp {
            end - base + noted.headers.segment.more
        } else {
            u16::MAX as u32
        },
        ports: noted.headers.found.near as u32 | (noted.headers.found.far as u32) << 16,
        protocol: noted.headers.found.protocol,
    };
    let mut key = FlowKey::default();
    let (from, mask) = (policy.buckets_first, policy.buckets_mask);
    let refused = REFUSED | Why::Fragment as u64;
    let Some(bucket) = remembered(noted, direction, &mut key, from, mask) else {
        return refused;
    };
    // SAFETY: points into an array map, whose elements live as long as the map.
    let lock = unsafe { &raw mut (*bucket).lock };
    if !enter(lock) {
        return REFUSED | Why::Contended as u64;
    }
    // SAFETY: takes no argument.
    let now_ms = spare::milliseconds(unsafe { bpf_ktime_get_coarse_ns() });
    let picked = super::encryption_pick(bucket, &key, now_ms);
    // SAFETY: as above; whoever has the lock is alone in the bucket.
    let talk: &mut Conversation = unsafe { &mut (*bucket).ways[picked as usize & 3] };
    let known = picked & 4 != 0;
    let passed = judged & REFUSED == 0 && judged != Class::WouldDrop as u64;
    let begins = fragment::begins(talk, known, now_ms).is_ok();
    if passed && begins {
        fragment::remember(talk, &key, &first, judged as u8, now_ms);
    } else if known {
        fragment::end(talk);
    }
    leave(lock);
    match (passed, begins) {
        (true, false) if rule.mode == mode::OBSERVE => Class::WouldDrop as u64,
        (true, false) => refused,
        _ => judged,
    }
}
