//! The gate: entry points only. A packet's way is the order of the modules:
//! [`parse`] → [`port`] → [`spoof`] → [`zone`] → [`thin`] → [`limiter`] → [`fair`] → [`share`] → [`encryption`] → [`quota`] → [`ecn`] →
//! [`account`] → [`verdict`].
//!
//! Every decision lives in `dataplane_common`, which also runs on the host; what stands here is the
//! part that needs a helper call or a map. Programs read [`maps::EPOCH`] once per packet.
#![no_std]
#![no_main]
#![feature(core_intrinsics, asm_experimental_arch)]
#![allow(
    internal_features,
    unstable_features,
    reason = "BPF's atomics and packet loads have no stable form; the toolchain is pinned"
)]

mod account;
mod bench;
mod ecn;
mod encryption;
mod fair;
mod flood;
mod flow;
mod gate;
mod gso;
mod guard;
mod held;
mod limiter;
mod maps;
mod packet;
mod port;
mod quota;
mod share;
mod spoof;
mod thin;
mod verdict;
mod zone;

use aya_ebpf::{
    bindings::xdp_action,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use dataplane_common::abi::{FROM_TENANT, TO_TENANT};

/// Ingress of a tenant's port.
#[classifier]
pub fn from_tenant(ctx: TcContext) -> i32 {
    gate::pass::<FROM_TENANT, false>(&ctx)
}

/// Egress of a tenant's port.
#[classifier]
pub fn to_tenant(ctx: TcContext) -> i32 {
    gate::pass::<TO_TENANT, false>(&ctx)
}

/// [`from_tenant`] for kernels whose verifier is as old as Linux 6.1's.
#[classifier]
pub fn from_tenant_6_1(ctx: TcContext) -> i32 {
    gate::pass::<FROM_TENANT, true>(&ctx)
}

/// [`to_tenant`] for kernels whose verifier is as old as Linux 6.1's.
#[classifier]
pub fn to_tenant_6_1(ctx: TcContext) -> i32 {
    gate::pass::<TO_TENANT, true>(&ctx)
}

/// Egress of an uplink.
#[classifier]
pub fn guard(ctx: TcContext) -> i32 {
    guard::leave(&ctx)
}

/// Native XDP ingress of an uplink: frames that cannot be parsed, and floods, end before an skb exists.
#[xdp]
pub fn uplink(ctx: XdpContext) -> u32 {
    guard::enter::<false>(&ctx)
}

/// [`uplink`] for interfaces whose frames are longer than a page.
#[xdp(frags)]
pub fn uplink_frags(ctx: XdpContext) -> u32 {
    guard::enter::<true>(&ctx)
}

/// What an empty XDP program costs on this machine.
#[xdp]
pub fn empty_xdp(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// [`from_tenant`] on a port that is drawn anew for each packet. Benches only.
#[classifier]
pub fn bench_from_tenant(ctx: TcContext) -> i32 {
    gate::on::<FROM_TENANT, false>(&ctx, bench::pick())
}

/// [`to_tenant`], likewise.
#[classifier]
pub fn bench_to_tenant(ctx: TcContext) -> i32 {
    gate::on::<TO_TENANT, false>(&ctx, bench::pick())
}

/// [`bench_from_tenant`], with the conversation as it was before the packet.
#[classifier]
pub fn bench_again_from_tenant(ctx: TcContext) -> i32 {
    bench::rewind();
    gate::on::<FROM_TENANT, false>(&ctx, bench::pick())
}

/// [`bench_to_tenant`], likewise.
#[classifier]
pub fn bench_again_to_tenant(ctx: TcContext) -> i32 {
    bench::rewind();
    gate::on::<TO_TENANT, false>(&ctx, bench::pick())
}

/// What that costs alone.
#[classifier]
pub fn bench_again(_ctx: TcContext) -> i32 {
    bench::rewind();
    verdict::PASS
}

/// What an empty program costs on this machine: the benches' zero.
#[classifier]
pub fn empty(_ctx: TcContext) -> i32 {
    verdict::PASS
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Never reached: nothing here panics, and the verifier would refuse the loop if it could be.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
