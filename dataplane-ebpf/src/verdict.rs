//! What becomes of a packet that passes: the shape of its port's limit.

use crate::thin;
use aya_ebpf::{
    helpers::{bpf_redirect, bpf_skb_set_tstamp},
    programs::TcContext,
};
use dataplane_common::abi::{FROM_TENANT, PortPolicy, TO_TENANT, shape};

/// `TCX_NEXT` and `TC_ACT_UNSPEC`: programs and filters after us have their say.
pub const PASS: i32 = -1;
/// `TC_ACT_SHOT`.
pub const DROP: i32 = 2;

/// No verdict yet: the packet is held for the encryption policy. No action of tc has this number.
pub const HELD: i32 = 0x6F63;

/// `BPF_SKB_CLOCK_REALTIME`: with 0, no departure time.
const NO_TIME: u32 = 0;
/// `BPF_SKB_CLOCK_MONOTONIC`.
const DELIVERY_MONO: u32 = 1;

/// Hands the packet to the shape that its port has in this direction. `departure_ns`: when it may
/// leave in its turn, CLOCK_MONOTONIC; 0: at once.
#[inline(always)]
pub fn pass<const DIRECTION: u32>(ctx: &TcContext, port: &PortPolicy, departure_ns: u64) -> i32 {
    if DIRECTION == FROM_TENANT {
        forget_departure(ctx);
    }
    match port.shape[(DIRECTION & 1) as usize] {
        shape::EDT => {
            if departure_ns != 0 && !thin::first(ctx) {
                // Kept across bridge and route, where a plain timestamp is cleared.
                // SAFETY: the context is the program's own.
                unsafe { bpf_skb_set_tstamp(ctx.skb.skb, departure_ns, DELIVERY_MONO) };
            }
            PASS
        }
        shape::HTB => {
            // What is not bulk goes to HTB's default class, the first.
            let class = if thin::first(ctx) { 0 } else { shape::HTB_LEAF };
            // SAFETY: the context is the program's own; tc programs may write its priority.
            unsafe { (*ctx.skb.skb).priority = class };
            if DIRECTION == TO_TENANT || port.ifb_ifindex == 0 {
                return PASS;
            }
            // SAFETY: takes plain numbers. The IFB queues the frame and hands it back behind us.
            unsafe { bpf_redirect(port.ifb_ifindex, 0) as i32 }
        }
        _ => PASS,
    }
}

/// A container's packets come with the departure times that its own stack, or a malicious socket,
/// gave them: an fq further on would hold them, in a queue that all tenants share.
#[inline(always)]
fn forget_departure(ctx: &TcContext) {
    // SAFETY: the context is the program's own.
    unsafe {
        if (*ctx.skb.skb).tstamp_type != 0 {
            bpf_skb_set_tstamp(ctx.skb.skb, 0, NO_TIME);
        }
    }
}
