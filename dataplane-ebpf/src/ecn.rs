//! Congestion Experienced, for packets that a limit's queue makes wait: the helper and the counters. The law is
//! `dataplane_common::ecn`.

use crate::{
    account::{Book, on},
    maps, thin,
};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_skb_ecn_set_ce},
};
use dataplane_common::{abi::DIRECTIONS, ecn, wire::Wire};

/// A departure time that is always far ahead: a share has none.
const FAR: u64 = u64::MAX;

/// Marks the packet if it has to. `departure_ns`: when it leaves in its turn, 0: now. `near`: its tenant is near the end of
/// its part of an uplink.
#[inline(always)]
pub fn mark(skb: *mut __sk_buff, book: &Book, wire: &Wire, departure_ns: u64, near: bool) {
    let departure_ns = if near { FAR } else { departure_ns };
    if departure_ns != 0 {
        ecn_mark(
            skb,
            book.slot * DIRECTIONS + book.direction,
            departure_ns,
            wire.packets,
        );
    }
}

/// 1 when the packet was marked. `which`: slot and direction. The kernel keeps the checksums right. A GSO packet's header is
/// that of each of its segments, so that it counts as these.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ecn_mark(skb: *mut __sk_buff, which: u32, departure_ns: u64, packets: u64) -> u64 {
    // SAFETY: take no argument. The coarse clock lags: what it finds near is near.
    let (coarse, exact) = (|| unsafe { bpf_ktime_get_coarse_ns() }, || unsafe {
        bpf_ktime_get_ns()
    });
    if thin::fat(skb) == 0
        || !ecn::congested(departure_ns, coarse())
        || !ecn::congested(departure_ns, exact())
    {
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
