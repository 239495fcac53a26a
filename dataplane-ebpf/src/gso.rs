//! How a GSO packet is cut, from the kernel's structures where its own headers do not tell.
//!
//! `__sk_buff` hides `gso_type` and the inner headers: a tenant's VXLAN looks like one UDP datagram
//! of 64 kB. They are read from `sk_buff` and `skb_shared_info` at offsets taken from BTF.

use crate::maps;
use aya_ebpf::{
    helpers::{bpf_probe_read_kernel, bpf_skb_load_bytes},
    programs::TcContext,
};
use dataplane_common::{
    parse::Packet,
    reason::DropReason,
    wire::{Gso, gso_type, headers_tell},
};

/// Reads a `T` at a kernel address. A bad address reads as an error, never as a fault.
#[inline(always)]
fn read<T>(address: u64) -> Result<T, DropReason> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const T) }.map_err(|_| DropReason::GsoUnknown)
}

/// The cut of the packet in `ctx`.
///
/// # Errors
/// [`DropReason::GsoUnknown`] when it cannot be read.
#[inline(always)]
pub fn cut(ctx: &TcContext, packet: &Packet) -> Result<Gso, DropReason> {
    // SAFETY: the context is valid for the whole program.
    let skb = unsafe { &*ctx.skb.skb };
    let mut gso = Gso {
        size: skb.gso_size,
        segments: skb.gso_segs,
        ..Gso::default()
    };
    if gso.size == 0 || headers_tell(packet) {
        return Ok(gso);
    }
    let at = maps::offsets();
    // The context of a tc program *is* the kernel's sk_buff; only its view is another.
    let sk_buff = ctx.skb.skb as u64;
    let head: u64 = read(sk_buff + at.head as u64)?;
    let end: u32 = read(sk_buff + at.end as u64)?;
    gso.kind = read(head + end as u64 + at.gso_type as u64)?;
    if gso.kind & gso_type::TUNNELS != 0 {
        let data: u64 = read(sk_buff + at.data as u64)?;
        let inner: u16 = read(sk_buff + at.inner_transport as u64)?;
        let offset = (head + inner as u64).wrapping_sub(data);
        if offset > 0xFFFF {
            return Err(DropReason::GsoUnknown);
        }
        gso.inner_header_end = offset as u32 + inner_header_len(ctx, offset as u32, gso.kind)?;
    }
    Ok(gso)
}

/// Length of the inner transport header that begins at `offset`.
#[inline(always)]
fn inner_header_len(ctx: &TcContext, offset: u32, kind: u32) -> Result<u32, DropReason> {
    if kind & (gso_type::TCPV4 | gso_type::TCPV6) != 0 {
        let mut byte = 0u8;
        // SAFETY: the helper checks offset and length against the packet.
        let failed = unsafe {
            bpf_skb_load_bytes(ctx.skb.skb.cast(), offset + 12, (&raw mut byte).cast(), 1)
        };
        let len = (byte >> 4) as u32 * 4;
        if failed != 0 || len < 20 {
            return Err(DropReason::GsoUnknown);
        }
        return Ok(len);
    }
    if kind & gso_type::UDP_L4 != 0 {
        Ok(8)
    } else {
        Err(DropReason::GsoUnknown)
    }
}
