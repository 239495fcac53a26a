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
use dataplane_common::{
    abi::{DIRECTIONS, Epoch},
    ecn,
    wire::Wire,
};

/// A departure time that is always far ahead: a share has none.
const FAR: u64 = u64::MAX;

/// Marks the packet if it has to. `departure_ns`: when it leaves in its turn, 0: now. `near`: its tenant is near the end of
/// its part of an uplink.
#[inline(always)]
pub fn mark(skb: *mut __sk_buff, book: &Book, wire: &Wire, departure_ns: u64, near: bool) {
    let departure_ns = if near { FAR } else { departure_ns };
    if departure_ns != 0 {
        let which = book.slot * DIRECTIONS + book.direction;
        ecn_mark(skb, which, departure_ns, wire.packets);
    }
}

/// 1 when the packet was marked. `which`: slot and direction. The kernel keeps the checksums right. A GSO
/// packet's header is that of each of its segments, so that it counts as these.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ecn_mark(skb: *mut __sk_buff, which: u32, departure_ns: u64, packets: u64) -> u64 {
    if thin::fat(skb) == 0 {
        return 0;
    }
    if departure_ns != FAR {
        // The revision of now, which may be the next one: a mark is no verdict, and the caller's stack has no room for
        // the packet's own.
        let Some(epoch) = maps::EPOCH.get(0) else {
            return 0;
        };
        // SAFETY: a u64 that is stored whole.
        let set = Epoch(unsafe { core::ptr::from_ref(epoch).read_volatile() }).policy_set();
        let Some(port) = maps::PORTS.get(maps::sizes().port(set, which / DIRECTIONS)) else {
            return 0;
        };
        let direction = (which & 1) as usize;
        let over_ns = ecn::over_ns(&port.limits[direction][0], port.shape[direction]);
        // SAFETY: take no argument. The coarse clock lags: what it finds near is near.
        let congested = unsafe {
            ecn::congested(departure_ns, bpf_ktime_get_coarse_ns(), over_ns)
                && ecn::congested(departure_ns, bpf_ktime_get_ns(), over_ns)
        };
        if !congested {
            return 0;
        }
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
