//! Congestion Experienced, for packets that a limit's queue makes wait: the helper and the counters. The law is
//! `dataplane_common::ecn`.

use crate::{
    account::{Book, on},
    maps, thin,
};
use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_ecn_set_ce};
use dataplane_common::{abi::DIRECTIONS, ecn::Departure, wire::Wire};

/// Marks the packet if it has to.
#[inline(always)]
pub fn mark(skb: *mut __sk_buff, book: &Book, wire: &Wire, departure: Departure) {
    if departure.marked() != 0 {
        ecn_mark(skb, book.slot * DIRECTIONS + book.direction, wire.packets);
    }
}

/// 1 when the packet was marked. `which`: slot and direction. The kernel keeps the checksums right. A GSO packet's header is
/// that of each of its segments, so that it counts as these.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ecn_mark(skb: *mut __sk_buff, which: u32, packets: u64) -> u64 {
    if thin::fat(skb) == 0 {
        return 0;
    }
    // SAFETY: the context is the program's own.
    let marked = unsafe { bpf_skb_ecn_set_ce(skb) } != 0;
    on(&maps::MARKS, which, |marks| {
        if marked {
            marks.marked += packets;
        } else {
            marks.not_marked += packets;
        }
    });
    marked as u64
}
