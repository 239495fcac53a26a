//! The byte contract: what a packet is on the wire, whatever the offloads did to it.
//!
//! A GSO packet is billed as the segments that it becomes, each with its headers. The number of
//! segments comes from `gso_size`, never from `gso_segs`, which an untrusted guest may leave 0.
//! Sources: `skb_gso_transport_seglen` and `qdisc_pkt_len_segs_init` in the kernel; the traps in
//! docs/ARCHITECTURE.md ("The byte contract").

use crate::{
    parse::{Network, Packet, proto},
    reason::DropReason,
};

/// `SKB_GSO_*` bits of `skb_shared_info.gso_type` that change the arithmetic. The loader refuses a
/// kernel whose BTF gives them other values.
pub mod gso_type {
    #![allow(missing_docs, reason = "the names are the kernel's")]
    pub const TCPV4: u32 = 1 << 0;
    pub const TCPV6: u32 = 1 << 4;
    pub const GRE: u32 = 1 << 6;
    pub const GRE_CSUM: u32 = 1 << 7;
    pub const IPXIP4: u32 = 1 << 8;
    pub const IPXIP6: u32 = 1 << 9;
    pub const UDP_TUNNEL: u32 = 1 << 10;
    pub const UDP_TUNNEL_CSUM: u32 = 1 << 11;
    pub const SCTP: u32 = 1 << 14;
    pub const UDP: u32 = 1 << 16;
    pub const UDP_L4: u32 = 1 << 17;
    pub const TUNNELS: u32 = GRE | GRE_CSUM | IPXIP4 | IPXIP6 | UDP_TUNNEL | UDP_TUNNEL_CSUM;
}

/// A full Ethernet frame, without the check sequence, layer-2 bytes.
pub const FRAME_BYTES: u64 = 1_514;

/// `gso_size` of a packet that is cut along its fragment list (SCTP).
pub const GSO_BY_FRAGS: u32 = 0xFFFF;

/// How a GSO packet is cut, as the kernel's structures say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gso {
    /// Payload bytes of a segment; 0 when the packet is not GSO.
    pub size: u32,
    /// The kernel's own count of segments: used for [`GSO_BY_FRAGS`] only.
    pub segments: u32,
    /// `SKB_GSO_*` bits; 0 when they were not read, which is enough for plain TCP.
    pub kind: u32,
    /// Bytes up to the end of the inner transport header, when encapsulated.
    pub inner_header_end: u32,
}

/// What a packet is on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// Frames.
    pub packets: u64,
    /// Bytes from the Ethernet header to the end of each frame, without FCS.
    pub l2_bytes: u64,
    /// IP total length of each frame, 0 for other protocols.
    pub l3_bytes: u64,
}

/// True when the segments of this GSO packet can be told from its own headers alone, so that the
/// kernel's structures need not be read.
#[inline(always)]
pub fn headers_tell(packet: &Packet) -> bool {
    packet.protocol == proto::TCP
}

/// Computes what `packet` with `len` bytes in the skb is on the wire.
///
/// `skb_tag_bytes`: 4 when the tenant's own VLAN tag sits in the skb beside the data, else 0.
/// `platform_tag_bytes`: 4 when the outermost tag in the *data* is the platform's, which is never
/// billed; else 0.
///
/// # Errors
/// [`DropReason::GsoUnknown`] when the segments cannot be told.
#[inline(always)]
pub fn wire(
    len: u32,
    packet: &Packet,
    gso: &Gso,
    skb_tag_bytes: u32,
    platform_tag_bytes: u32,
) -> Result<Wire, DropReason> {
    let ip = packet.network == Network::Ipv4 || packet.network == Network::Ipv6;
    if gso.size == 0 {
        return Ok(Wire {
            packets: 1,
            l2_bytes: (len + skb_tag_bytes).saturating_sub(platform_tag_bytes) as u64,
            l3_bytes: if ip { packet.l3_len as u64 } else { 0 },
        });
    }
    if !ip {
        return Err(DropReason::GsoUnknown);
    }
    let jumbo = packet.jumbo_len as u32;
    let (repeated, added) = repeated_headers(packet, gso)?;
    // The hop-by-hop header of BIG TCP is in the packet, not on the wire.
    let repeated = repeated.saturating_sub(jumbo);
    let len = len.saturating_sub(jumbo);
    if repeated >= len || repeated <= packet.l3_offset as u32 {
        return Err(DropReason::GsoUnknown);
    }
    let payload = len - repeated;
    let segments = if gso.size == GSO_BY_FRAGS {
        gso.segments
    } else {
        payload.div_ceil(gso.size)
    } as u64;
    if segments == 0 {
        return Err(DropReason::GsoUnknown);
    }
    // One segment needs no added header: it is not a fragment.
    let added = if segments > 1 { added } else { 0 };
    let l3_header = (repeated + added - packet.l3_offset as u32) as u64;
    let l2_header = (packet.l3_offset as u32 + skb_tag_bytes - platform_tag_bytes) as u64;
    let l3_bytes = payload as u64 + segments * l3_header;
    Ok(Wire {
        packets: segments,
        l2_bytes: l3_bytes + segments * l2_header,
        l3_bytes,
    })
}

/// Bytes at the front that every segment repeats, and bytes that segmentation adds to each.
#[inline(always)]
fn repeated_headers(packet: &Packet, gso: &Gso) -> Result<(u32, u32), DropReason> {
    if gso.kind & gso_type::TUNNELS != 0 {
        return if gso.inner_header_end == 0 {
            Err(DropReason::GsoUnknown)
        } else {
            Ok((gso.inner_header_end, 0))
        };
    }
    let end = packet.header_end as u32;
    match packet.protocol {
        proto::TCP => Ok((end, 0)),
        proto::SCTP if gso.size == GSO_BY_FRAGS => Ok((end, 0)),
        proto::UDP if gso.kind & gso_type::UDP_L4 != 0 => Ok((end, 0)),
        // Old guests' UFO: IP fragments. Only the IP headers repeat; IPv6 adds a fragment header.
        proto::UDP if gso.kind & gso_type::UDP != 0 => {
            let added = if packet.network == Network::Ipv6 {
                8
            } else {
                0
            };
            Ok((packet.l4_offset as u32, added))
        }
        _ => Err(DropReason::GsoUnknown),
    }
}
