//! The uplink's guard: nothing leaves that did not come through a blessed port, another uplink, a
//! trusted interface, or the host itself.

use crate::{
    account::Book,
    maps,
    packet::Linear,
    port::{self, Source},
    verdict,
};
use aya_ebpf::{
    bindings::xdp_action,
    programs::{TcContext, XdpContext},
};
use dataplane_common::{
    abi::{Epoch, FROM_TENANT, TO_TENANT},
    parse::{Meta, parse},
    reason::DropReason,
    wire::Wire,
    zone,
};

#[inline(always)]
fn book(ifindex: u32, direction: u32) -> Option<Book> {
    let epoch = Epoch(*maps::EPOCH.get(0)?);
    // An uplink without a slot is booked to the host's own, 0.
    let slot = port::slot(ifindex, None).unwrap_or(0);
    Some(Book {
        epoch,
        slot,
        direction,
    })
}

/// Egress of an uplink.
#[inline(always)]
pub fn leave(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid for the whole program.
    let skb = unsafe { &*ctx.skb.skb };
    let Some(book) = book(skb.ifindex, TO_TENANT) else {
        return verdict::DROP;
    };
    let len = skb.len;
    if port::source(skb.ingress_ifindex) == Source::Unknown {
        book.dropped(DropReason::GuardUnblessed, 1, len as u64, len);
        return verdict::DROP;
    }
    let raw = Wire {
        packets: 1,
        l2_bytes: len as u64,
        l3_bytes: 0,
    };
    book.delivered(zone::OTHER, &raw, len);
    verdict::PASS
}

/// Ingress of an uplink, before an skb exists.
#[inline(always)]
pub fn enter(ctx: &XdpContext) -> u32 {
    let len = (ctx.data_end() - ctx.data()) as u32;
    let frame = Linear::new(ctx.ctx);
    let meta = Meta {
        len,
        ..Meta::default()
    };
    match parse(&frame, &meta) {
        Ok(_) => xdp_action::XDP_PASS,
        Err(reason) => {
            // SAFETY: the context is valid for the whole program.
            let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
            if let Some(book) = book(ifindex, FROM_TENANT) {
                book.dropped(reason, 1, len as u64, len);
            }
            xdp_action::XDP_DROP
        }
    }
}
