//! A packet's way through a tenant's port, both directions: one function, read from top to bottom.

use crate::{
    account::Book,
    ecn, fair, flow, gso, held, limiter, maps,
    packet::{self, Linear, meta},
    port::{self, Source},
    spoof::Lists,
    thin, verdict, zone,
};
use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use core::arch::asm;
use dataplane_common::{
    abi::{FROM_TENANT, PortPolicy, TO_TENANT},
    antispoof,
    ecn::Departure,
    parse::Packet,
    reason::DropReason,
    wire::{self, Wire},
};

/// Runs the gate on the interface that the packet crosses, and returns the verdict for tc. `APART`: see
/// [`packet::parsed`].
#[inline(always)]
pub fn pass<const DIRECTION: u32, const APART: bool>(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid for the whole program.
    on::<DIRECTION, APART>(ctx, unsafe { (*ctx.skb.skb).ifindex })
}

/// The same, as if the packet crossed the interface `ifindex`.
///
/// Two functions one after the other, so that neither stands on the other's stack, of which Linux gives all of them
/// together 512 bytes: [`begin`], and what follows for ports that share an uplink, or have an encryption policy or a budget.
#[inline(always)]
pub fn on<const DIRECTION: u32, const APART: bool>(ctx: &TcContext, ifindex: u32) -> i32 {
    let skb = ctx.skb.skb;
    let verdict = match (DIRECTION, APART) {
        (FROM_TENANT, false) => gate_from_tenant(skb, ifindex),
        (FROM_TENANT, true) => gate_from_tenant_apart(skb, ifindex),
        (_, false) => gate_to_tenant(skb, ifindex),
        (_, true) => gate_to_tenant_apart(skb, ifindex),
    } as i32;
    let verdict = if verdict == verdict::HELD {
        held::judge(skb)
    } else {
        verdict
    };
    // Behind both: a share has parts, too.
    fair::settle(skb);
    verdict
}

macro_rules! begin {
    ($($(#[$doc:meta])* $name:ident: $direction:expr, $apart:expr;)+) => {
        $($(#[$doc])*
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $name(skb: *mut __sk_buff, ifindex: u32) -> u64 {
            begin::<{ $direction }, { $apart }>(&TcContext::new(skb), ifindex) as u32 as u64
        })+
    };
}

begin! {
    /// [`begin`].
    gate_from_tenant: FROM_TENANT, false;
    /// [`begin`].
    gate_from_tenant_apart: FROM_TENANT, true;
    /// [`begin`].
    gate_to_tenant: TO_TENANT, false;
    /// [`begin`].
    gate_to_tenant_apart: TO_TENANT, true;
}

/// From the packet's first byte to its verdict, or to [`verdict::HELD`].
#[inline(always)]
fn begin<const DIRECTION: u32, const APART: bool>(ctx: &TcContext, ifindex: u32) -> i32 {
    let Some(epoch) = maps::epoch() else {
        return verdict::DROP;
    };
    linger();
    packet::pull_headers(ctx);
    let parsed = packet::parsed::<APART>(ctx.skb.skb);
    let vlan = match &parsed {
        Ok(packet) => Some(packet.vid),
        Err(_) => None,
    };
    let mut book = Book {
        epoch,
        slot: 0,
        direction: DIRECTION,
    };
    let mut booked = Wire {
        packets: 1,
        l2_bytes: ctx.len() as u64,
        l3_bytes: 0,
    };
    let reason = match port::slot(ifindex, vlan) {
        Err(reason) => reason,
        Ok(slot) => {
            book.slot = slot;
            match parsed {
                Err(reason) => reason,
                Ok(packet) => match stages::<DIRECTION, APART>(ctx, &packet, &book, &mut booked) {
                    Err(reason) => reason,
                    Ok(admitted) => {
                        let port = admitted.port;
                        if port.share | port.quota | port.encryption != 0
                            && !held::within(ctx.skb.skb, &admitted, &book, &booked)
                        {
                            return held::hold(&admitted, &book, &booked, ctx.len());
                        }
                        // Asked for again, not kept: this function's stack is full.
                        let len = ctx.len();
                        return deliver::<DIRECTION>(ctx, &admitted, 0, &book, &booked, len);
                    }
                },
            }
        }
    };
    book.dropped(reason, booked.packets, booked.l2_bytes, ctx.len());
    verdict::DROP
}

/// A packet that its limits let through.
pub struct Admitted {
    pub port: &'static PortPolicy,
    pub zone: u32,
    pub departure: Departure,
}

/// Books a packet that passes, and hands it on. `class`: of evidence, where the port has a policy.
#[inline(always)]
pub fn deliver<const DIRECTION: u32>(
    ctx: &TcContext,
    admitted: &Admitted,
    class: u32,
    book: &Book,
    wire: &Wire,
    len: u32,
) -> i32 {
    flow::passed(admitted.zone, class, wire, book, admitted.port);
    book.delivered(admitted.zone, wire, len);
    // Last, as the verifier walks all that follows once more for it.
    ecn::mark(ctx.skb.skb, book, wire, admitted.departure);
    verdict::pass::<DIRECTION>(ctx, admitted.port, admitted.departure.ns())
}

/// Spoof check, zone, limiter. `booked` becomes what the packet is on the wire as soon as that is known, so
/// that a drop is booked as exactly as a delivery.
#[inline(always)]
fn stages<const DIRECTION: u32, const APART: bool>(
    ctx: &TcContext,
    packet: &Packet,
    book: &Book,
    booked: &mut Wire,
) -> Result<Admitted, DropReason> {
    let port = port::policy(book.epoch, book.slot)?;
    *booked = on_the_wire(ctx, packet, port)?;
    let lists = Lists {
        skb: ctx.skb.skb,
        slot: book.slot,
        policy_set: book.epoch.policy_set(),
    };
    let mut intra_host = false;
    if DIRECTION == FROM_TENANT {
        antispoof::from_tenant(&Linear::new(ctx.skb.skb), packet, port, &lists)?;
    } else {
        antispoof::to_tenant(packet, port, &lists)?;
        intra_host = from_a_port(ctx)?;
    }
    flow::note::<DIRECTION, APART>(packet, port, book.slot);
    let zone = zone::of::<DIRECTION>(book.epoch, packet, intra_host);
    thin::begin(ctx, packet.finds_neighbours());
    thin::note::<DIRECTION, APART>(ctx, packet, port);
    let taken = limiter::take(port, book.slot, DIRECTION, booked, |wire, matters| {
        thin::look::<DIRECTION>(ctx, port, book.slot, wire, matters)
    });
    let taken = taken.and_then(|departure| {
        fair::take::<DIRECTION>(ctx.skb.skb, port, book.slot, booked, departure)?;
        Ok(departure)
    });
    let departure = taken.inspect_err(|reason| {
        flow::refused(zone, booked, book, port, *reason);
    })?;
    Ok(Admitted {
        port,
        zone,
        departure,
    })
}

/// The byte contract for the packet in `ctx`.
#[inline(always)]
fn on_the_wire(ctx: &TcContext, packet: &Packet, port: &PortPolicy) -> Result<Wire, DropReason> {
    let meta = meta(ctx.skb.skb);
    let platform = port.has(PortPolicy::VLAN);
    // The outermost tag of a VLAN port is the platform's, wherever it sits.
    let in_skb = if meta.tag_in_skb && !platform { 4 } else { 0 };
    let in_data = if platform && !meta.tag_in_skb { 4 } else { 0 };
    let gso = gso::cut(ctx, packet)?;
    let wire = wire::wire(meta.len, packet, &gso, in_skb, in_data)?;
    Ok(if gso.size == 0 {
        wire
    } else {
        Wire {
            packets: forget(wire.packets),
            l2_bytes: forget(wire.l2_bytes),
            l3_bytes: forget(wire.l3_bytes),
        }
    })
}

/// Returns `value`, of which the verifier then knows nothing: a function like those of
/// [`crate::packet::Context`]. Else the limiter is walked anew for each way to cut a GSO packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn forget(mut value: u64) -> u64 {
    // SAFETY: a register is copied to itself. LLVM would see through the function otherwise.
    unsafe { asm!("{value} = {value}", value = inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// True when a frame to a tenant came in by another tenant's port.
///
/// # Errors
/// [`DropReason::UnblessedSource`]
#[inline(always)]
fn from_a_port(ctx: &TcContext) -> Result<bool, DropReason> {
    // SAFETY: the context is valid for the whole program.
    match port::source(unsafe { (*ctx.skb.skb).ingress_ifindex }) {
        Source::Port => Ok(true),
        Source::Host | Source::Trusted => Ok(false),
        Source::Unknown => Err(DropReason::UnblessedSource),
    }
}

/// Only in the test that takes the cut's barrier out: makes a late booking likely.
#[inline(always)]
pub fn linger() {
    let rounds = maps::test_linger();
    if rounds != 0 {
        let mut left = if rounds < 4096 { rounds } else { 4096 };
        while left != 0 {
            // SAFETY: takes no argument; the call keeps the loop.
            unsafe { aya_ebpf::helpers::bpf_ktime_get_ns() };
            left -= 1;
        }
    }
}
