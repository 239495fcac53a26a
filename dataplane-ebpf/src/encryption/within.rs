//! The packets of a record whose header was read: most of a busy conversation of TLS. They are asked about before anything else,
//! change nothing, and take neither a lock nor a helper.

use super::{PADDED, noted, rule_of};
use crate::{account::Book, maps, packet};
use aya_ebpf::bindings::__sk_buff;
use dataplane_common::{
    abi::Epoch,
    encryption::{Bucket, Class, Segment, find, hash, mode, tcp},
    flow::FlowKey,
    parse::{Fragment, proto},
    wire::Wire,
};

/// Is the packet that was noted a segment of TCP within a record of TLS whose header was read ([`tcp::is_within`])? Most of a
/// busy conversation is, so this is asked before anything else, changes nothing, and takes no lock and no helper. 1: it is, and its
/// class is [`Class::Records`], under which `packets` and `l2_bytes` are then booked here: the gate's own stack is full. 0:
/// [`super::encryption_judge`] must be asked. `about`: direction, zone << 8, slot << 16, number of the policy << 32.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_within(
    skb: *mut __sk_buff,
    epoch: u64,
    about: u64,
    packets: u64,
    l2_bytes: u64,
) -> u64 {
    let epoch = Epoch(epoch);
    let number = (about >> 32) as u32;
    let of_rule = about | (epoch.policy_set() as u64) << 2;
    let (Some((policy, rule)), Some(noted)) = (rule_of(of_rule, number), noted()) else {
        return 0;
    };
    let headers = &noted.headers;
    let found = &headers.found;
    let whole = found.protocol == proto::TCP && found.fragment == Fragment::No as u8;
    if !whole || policy.tenant == 0 || rule.mode == mode::OFF {
        return 0;
    }
    let Some(bucket) =
        maps::CONVERSATIONS.get(policy.buckets_first + (hash(&noted.key) & policy.buckets_mask))
    else {
        return 0;
    };
    let Some(numbers) = packet::be64(skb, headers.transport + 4) else {
        return 0;
    };
    let Some(talk) = find(bucket, &noted.key) else {
        return 0;
    };
    // SAFETY: the context is valid for the whole program.
    let len = unsafe { (*skb).len };
    let end = headers.end(len);
    if len > end && len > PADDED || end < headers.payload {
        return 0;
    }
    let segment = Segment {
        seq: (numbers >> 32) as u32,
        len: end - headers.payload,
        direction: (about & 1) as u32,
        flags: headers.segment.flags,
        ..Segment::default()
    };
    if !tcp::is_within(talk, &segment) {
        return 0;
    }
    // Its flow has it already: from the record's header.
    noted.evidence = 0;
    let book = Book {
        epoch,
        slot: (about >> 16) as u32 & 0xFFFF,
        direction: segment.direction,
    };
    let wire = Wire {
        packets,
        l2_bytes,
        l3_bytes: 0,
    };
    book.evidence(Class::Records as u32, &wire);
    1
}

/// [`tcp::is_within`] of the conversation, if it stands in its bucket. Without the lock: see there. 1: it is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_inside(
    bucket: *const Bucket,
    key: *const FlowKey,
    segment: *const Segment,
) -> u64 {
    // SAFETY: the caller's; to the verifier a pointer may be null.
    let (Some(bucket), Some(key), Some(segment)) =
        (unsafe { (bucket.as_ref(), key.as_ref(), segment.as_ref()) })
    else {
        return 0;
    };
    match find(bucket, key) {
        Some(talk) => tcp::is_within(talk, segment) as u64,
        None => 0,
    }
}
