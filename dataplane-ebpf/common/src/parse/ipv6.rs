//! IPv6: the fixed header, and the walk over the extension headers behind it.

use super::{Fragment, Frame, HEADER_WINDOW, Meta, Packet, proto, read, transport};
use crate::reason::DropReason;

/// IPv6 extension headers that are walked; one more drops the packet.
pub const IPV6_EXTENSIONS_MAX: u32 = 6;

#[inline(always)]
pub(super) fn ipv6<F: Frame>(
    frame: &F,
    meta: &Meta,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    let at = packet.l3_offset as u32;
    if read!(frame, u8, at, 1) >> 4 != 6 {
        return Err(DropReason::IpHeader);
    }
    let payload = read!(frame, be16, at + 4, 2) as u32;
    let next = read!(frame, u8, at + 6, 1);
    packet.src = address6(frame, at + 8)?;
    packet.dst = address6(frame, at + 24)?;
    let available = meta.len.saturating_sub(at);
    let big = payload == 0 && meta.gso && available > 0xFFFF;
    let end = if big {
        available
    } else {
        if payload + 40 > available {
            return Err(DropReason::IpLength);
        }
        payload + 40
    };
    packet.l3_len = if big { 0 } else { end };
    let limit = at + end;
    let start = Extensions {
        next,
        offset: (at + 40) as u16,
        ..Extensions::default()
    };
    let walked = if is_extension(next) {
        Extensions::unpack(frame.extensions(start, limit, big))?
    } else {
        start
    };
    packet.protocol = walked.next;
    packet.fragment = walked.fragment;
    packet.jumbo_len = walked.jumbo_len;
    let offset = walked.offset as u32;
    if packet.fragment == Fragment::Later {
        packet.header_end = offset as u16;
        return Ok(());
    }
    transport(frame, meta, packet, offset, limit)
}

/// Where the walk over IPv6 extension headers stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Protocol of the header at `offset`.
    pub next: u8,
    /// Bytes from the start of the frame.
    pub offset: u16,
    /// What the fragment header said, if there was one.
    pub fragment: Fragment,
    /// See [`Packet::jumbo_len`].
    pub jumbo_len: u8,
}

impl Extensions {
    /// As one scalar: what a BPF function can return.
    #[inline(always)]
    const fn pack(self) -> u64 {
        self.offset as u64
            | (self.next as u64) << 16
            | (self.fragment as u64) << 24
            | (self.jumbo_len as u64) << 32
    }

    #[inline(always)]
    const fn pack_error(reason: DropReason) -> u64 {
        (reason as u64) << 40
    }

    #[inline(always)]
    fn unpack(packed: u64) -> Result<Self, DropReason> {
        match (packed >> 40) as u8 {
            0 => Ok(Self {
                next: (packed >> 16) as u8,
                offset: packed as u16,
                fragment: match (packed >> 24) as u8 {
                    0 => Fragment::No,
                    1 => Fragment::First,
                    _ => Fragment::Later,
                },
                jumbo_len: (packed >> 32) as u8 & 8,
            }),
            code if code == DropReason::Truncated as u8 => Err(DropReason::Truncated),
            code if code == DropReason::HeadersTooDeep as u8 => Err(DropReason::HeadersTooDeep),
            code if code == DropReason::IpLength as u8 => Err(DropReason::IpLength),
            code if code == DropReason::TinyFragment as u8 => Err(DropReason::TinyFragment),
            _ => Err(DropReason::Ipv6Extension),
        }
    }
}

#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        proto::HOP_BY_HOP
            | proto::ROUTING
            | proto::FRAGMENT
            | proto::AH
            | proto::DESTINATION
            | proto::MOBILITY
            | proto::HIP
            | proto::SHIM6
    )
}

/// Walks IPv6 extension headers from `start` to the transport header or to the end of what a later
/// fragment has. `limit` is where the IP packet ends; `jumbo`: a BIG TCP packet. The result is packed.
#[inline(always)]
pub fn extensions<F: Frame>(frame: &F, start: Extensions, limit: u32, jumbo: bool) -> u64 {
    match walk(frame, start, limit, jumbo) {
        Ok(end) => end.pack(),
        Err(reason) => Extensions::pack_error(reason),
    }
}

#[inline(always)]
fn walk<F: Frame>(
    frame: &F,
    mut at: Extensions,
    limit: u32,
    jumbo: bool,
) -> Result<Extensions, DropReason> {
    // Written out, not a loop: LLVM enters the loop in its middle, and the verifier of Linux 6.1
    // takes the way back for one without end.
    const { assert!(IPV6_EXTENSIONS_MAX == 6) };
    if at.next == proto::HOP_BY_HOP {
        // Only as the first: the steps refuse it.
        jump_over(frame, &mut at, limit, jumbo)?;
    } else if step(frame, &mut at, limit)? {
        return Ok(at);
    }
    if step(frame, &mut at, limit)?
        || step(frame, &mut at, limit)?
        || step(frame, &mut at, limit)?
        || step(frame, &mut at, limit)?
        || step(frame, &mut at, limit)?
        || !is_extension(at.next)
    {
        return Ok(at);
    }
    Err(DropReason::Ipv6Extension)
}

/// The hop-by-hop header, which BIG TCP puts in front of a packet and segmentation takes out.
#[inline(always)]
fn jump_over<F: Frame>(
    frame: &F,
    at: &mut Extensions,
    limit: u32,
    jumbo: bool,
) -> Result<(), DropReason> {
    let offset = at.offset as u32;
    let following = read!(frame, u8, offset, 1);
    let size = (read!(frame, u8, offset + 1, 1) as u32 + 1) * 8;
    if offset + size > limit {
        return Err(DropReason::IpLength);
    }
    if jumbo && size == 8 {
        at.jumbo_len = 8;
    }
    at.next = following;
    at.offset = (offset + size) as u16;
    Ok(())
}

/// One extension header; true when there is nothing more to walk.
#[inline(always)]
fn step<F: Frame>(frame: &F, at: &mut Extensions, limit: u32) -> Result<bool, DropReason> {
    if !is_extension(at.next) {
        return Ok(true);
    }
    if at.next == proto::HOP_BY_HOP {
        return Err(DropReason::Ipv6Extension);
    }
    let offset = at.offset as u32;
    let following = read!(frame, u8, offset, 1);
    let units = read!(frame, u8, offset + 1, 1) as u32;
    let size = match at.next {
        proto::FRAGMENT => 8,
        proto::AH => (units + 2) * 4,
        _ => (units + 1) * 8,
    };
    // RFC 4302: the fields that an AH cannot do without are 12 bytes.
    if at.next == proto::AH && units == 0 {
        return Err(DropReason::Ipv6Extension);
    }
    if offset + size > limit {
        return Err(DropReason::IpLength);
    }
    if at.next == proto::FRAGMENT {
        let field = read!(frame, be16, offset + 2, 2);
        if field & 0xFFF8 != 0 {
            // RFC 1858: a fragment at 8 bytes can only serve to rewrite the TCP flags.
            if field >> 3 == 1 && following == proto::TCP {
                return Err(DropReason::TinyFragment);
            }
            at.fragment = Fragment::Later;
            at.next = following;
            at.offset = (offset + 8) as u16;
            return Ok(true);
        }
        // An atomic fragment (offset 0, none follow) is a whole packet: RFC 6946.
        if field & 1 != 0 {
            at.fragment = Fragment::First;
        }
    }
    at.next = following;
    at.offset = (offset + size) as u16;
    Ok(false)
}

#[inline(always)]
fn address6<F: Frame>(frame: &F, at: u32) -> Result<[u32; 4], DropReason> {
    Ok([
        read!(frame, raw32, at, 4),
        read!(frame, raw32, at + 4, 4),
        read!(frame, raw32, at + 8, 4),
        read!(frame, raw32, at + 12, 4),
    ])
}
