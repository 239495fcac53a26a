//! The uplink's guard: nothing leaves that did not come through a blessed port, another uplink, a
//! trusted interface, or the host itself; and no overlay of the host's own in clear, where the uplink's entry says so.

use crate::{
    account::Book,
    encryption::Skb,
    flood, gate, maps,
    packet::{self, Linear},
    port::{self, Source},
    verdict,
};
use aya_ebpf::{
    bindings::{__sk_buff, xdp_action},
    helpers::bpf_xdp_get_buff_len,
    programs::{TcContext, XdpContext},
};
use dataplane_common::{
    abi::{Epoch, FROM_TENANT, PortPolicy, TO_TENANT},
    encryption::{Class, fragment},
    outgoing::{self, Sent},
    parse::{Meta, Network, Packet, parse},
    reason::DropReason,
    wire::Wire,
    zone,
};

#[inline(always)]
fn book(epoch: Epoch, ifindex: u32, direction: u32) -> Book {
    Book {
        epoch,
        // An uplink without a slot is booked to the host's own, 0.
        slot: port::slot(ifindex, None).unwrap_or(0),
        direction,
    }
}

/// Egress of an uplink.
#[inline(always)]
pub fn leave(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid for the whole program.
    let skb = unsafe { &*ctx.skb.skb };
    let Some(epoch) = maps::epoch() else {
        return verdict::DROP;
    };
    let book = book(epoch, skb.ifindex, TO_TENANT);
    let len = skb.len;
    let raw = Wire {
        packets: 1,
        l2_bytes: len as u64,
        l3_bytes: 0,
    };
    match port::source(skb.ingress_ifindex) {
        Source::Unknown => {
            book.dropped(DropReason::GuardUnblessed, 1, len as u64, len);
            return verdict::DROP;
        }
        Source::Host => {
            let flags = flags(&book);
            let asks = PortPolicy::COUNTS_CLEAR_OVERLAYS | PortPolicy::DROPS_CLEAR_OVERLAYS;
            if flags & asks != 0
                && let Some(reason) = DropReason::from_number(guard_outgoing(ctx.skb.skb))
            {
                if flags & PortPolicy::DROPS_CLEAR_OVERLAYS != 0 {
                    book.dropped(reason, 1, len as u64, len);
                    return verdict::DROP;
                }
                book.evidence(Class::WouldDrop as u32, &raw);
            }
        }
        Source::Port | Source::Trusted => {}
    }
    book.delivered(zone::OTHER, &raw, len);
    verdict::PASS
}

/// What the uplink's entry in the policy in force says; 0: nothing is asked.
#[inline(always)]
fn flags(book: &Book) -> u32 {
    let index = maps::sizes().port(book.epoch.policy_set(), book.slot);
    match maps::PORTS.get(index) {
        Some(uplink) => uplink.flags,
        None => 0,
    }
}

/// Why a frame of the host's own may not leave where no overlay may: the number of a reason; 0: it may.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_outgoing(skb: *mut __sk_buff) -> u64 {
    packet::pull_headers(&TcContext::new(skb));
    let packet = match packet::parsed::<true>(skb) {
        Ok(packet) => packet,
        Err(reason) => return reason as u64,
    };
    let refused = DropReason::ClearOverlay as u64;
    match outgoing::sent(&packet) {
        Sent::Other => 0,
        Sent::Overlay if packet.fragment as u8 == 0 => refused,
        Sent::Overlay => {
            track(skb, &packet, Sent::Overlay);
            refused
        }
        fragment if track(skb, &packet, fragment) => 0,
        _ => refused,
    }
}

/// Notes whether what follows a first fragment may leave; of a later one, whether it may.
#[inline(always)]
fn track(skb: *mut __sk_buff, packet: &Packet, sent: Sent) -> bool {
    let network = Skb {
        skb,
        base: packet.l3_offset as u32,
    };
    let Some(piece) = fragment::read(&network, packet.network as u8 == Network::Ipv6 as u8) else {
        return false;
    };
    let mark = outgoing::mark(packet, &piece);
    let place = (mark >> (64 - maps::FRAGMENTS_SENT_BITS)) as u32;
    let Some(known) = maps::FRAGMENTS_SENT.get_ptr_mut(place) else {
        return false;
    };
    // Read and written whole: of two CPUs that use a place at once, one loses what is left of its packet.
    // SAFETY: points into an array map, whose elements live as long as the map.
    unsafe {
        match sent {
            Sent::First => known.write_volatile(mark),
            Sent::Later => return known.read_volatile() == mark,
            // An earlier packet's number, used again.
            _ if known.read_volatile() == mark => known.write_volatile(0),
            _ => {}
        }
    }
    true
}

/// No link has longer frames, bytes. What is longer is a GSO packet of another interface of this machine, whose segments
/// cannot be told here: that is for its port to do.
const FRAME_MAX: u32 = 16_384;

/// Ingress of an uplink, before an skb exists. `FRAGS`: the frame may lie in several buffers.
#[inline(always)]
pub fn enter<const FRAGS: bool>(ctx: &XdpContext) -> u32 {
    let len = if FRAGS {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_get_buff_len(ctx.ctx) as u32 }
    } else {
        (ctx.data_end() - ctx.data()) as u32
    };
    if FRAGS && len > FRAME_MAX {
        return xdp_action::XDP_PASS;
    }
    let Some(epoch) = maps::epoch() else {
        return xdp_action::XDP_PASS;
    };
    gate::linger();
    let frame = Linear::new(ctx.ctx);
    let meta = Meta {
        len,
        ..Meta::default()
    };
    match parse(&frame, &meta) {
        Ok(packet) if flood::ends(epoch, &packet, len) => xdp_action::XDP_DROP,
        Ok(_) => xdp_action::XDP_PASS,
        Err(reason) => {
            // SAFETY: the context is valid for the whole program.
            let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
            book(epoch, ifindex, FROM_TENANT).dropped(reason, 1, len as u64, len);
            xdp_action::XDP_DROP
        }
    }
}
