//! The parser: from a frame's first bytes to what the later stages decide on.
//!
//! Ethernet, up to two VLAN tags (in the data and in the skb), ARP, IPv4 with options and
//! fragments, IPv6 with extension headers and fragments, TCP, UDP, ICMP. Bounded and fail-closed:
//! what cannot be parsed is a [`DropReason`], never "unknown, let it pass".
//!
//! Generic over [`Frame`], where the bytes come from: a slice on the host, the packet in the
//! kernel. Nothing is read past [`HEADER_WINDOW`], so that both see the same bytes.

mod ipv6;
mod names;
mod plain;

pub use ipv6::{Extensions, IPV6_EXTENSIONS_MAX, extensions};
pub use names::{ethertype, proto};
pub use plain::{PLAIN, Plain};

use crate::reason::DropReason;
use ipv6::ipv6;

/// How deep headers may reach, in bytes from the start of the frame. The kernel pulls this much
/// into the linear part at most once per packet.
pub const HEADER_WINDOW: u32 = 192;

/// Where a frame's bytes come from. Each read returns `None` past the end of the bytes.
pub trait Frame {
    /// The byte at `offset`.
    fn u8(&self, offset: u32) -> Option<u8>;
    /// Two bytes in network order.
    fn be16(&self, offset: u32) -> Option<u16>;
    /// Four bytes in memory order, for addresses that are only compared.
    fn raw32(&self, offset: u32) -> Option<u32>;
    /// The first [`PLAIN`] bytes, when all of them are there.
    fn plain(&self) -> Option<impl Plain>;
    /// [`extensions`] on this frame. The kernel calls it as a function that the verifier checks
    /// once, by itself: inlined, its paths would multiply with all that follow.
    #[inline(always)]
    fn extensions(&self, start: Extensions, limit: u32, gso: bool) -> u64
    where
        Self: Sized,
    {
        extensions(self, start, limit, gso)
    }
}

/// What the kernel knows about the frame beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// `skb->len`, bytes, from the Ethernet header on.
    pub len: u32,
    /// A VLAN tag sits in the skb instead of the data.
    pub tag_in_skb: bool,
    /// Its VLAN id, 0..=4095.
    pub tag_vid: u16,
    /// A GSO packet: its IP length may be 0 (BIG TCP), its UDP length is not checked.
    pub gso: bool,
}

/// Network layer of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Network {
    /// Neither of the below.
    #[default]
    Other = 0,
    /// ARP for Ethernet and IPv4.
    Arp = 1,
    /// Reverse ARP: what QEMU announces a migrated guest with.
    Rarp = 2,
    /// IPv4.
    Ipv4 = 4,
    /// IPv6.
    Ipv6 = 6,
}

/// A fragment of an IP packet, or not one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// A whole packet.
    #[default]
    No = 0,
    /// The first of several.
    First = 1,
    /// A later one: no transport header.
    Later = 2,
}

/// A parsed frame. Offsets are bytes from the Ethernet header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Destination MAC, in the low 48 bits, first byte highest.
    pub dst_mac: u64,
    /// Source MAC, likewise.
    pub src_mac: u64,
    /// Source address in memory order; IPv4 in the first word. For ARP the sender's.
    pub src: [u32; 4],
    /// Destination address, likewise. For ARP the target's.
    pub dst: [u32; 4],
    /// IP total length in bytes as the headers say, 0 for BIG TCP and for other protocols.
    pub l3_len: u32,
    /// EtherType after the tags, or an 802.3 length.
    pub ethertype: u16,
    /// Offset of the network header.
    pub l3_offset: u16,
    /// Offset of the transport header; 0 when there is none.
    pub l4_offset: u16,
    /// End of the transport header; for GSO the bytes that each segment repeats. 0 when not known.
    pub header_end: u16,
    /// Source port of TCP, UDP and SCTP; for ICMP the type.
    pub src_port: u16,
    /// Destination port; for ICMP the code.
    pub dst_port: u16,
    /// Outermost VLAN id; 0 when there is none or its tag is a priority tag.
    pub vid: u16,
    /// VLAN tags in data and skb together, 0..=2.
    pub tags: u8,
    /// Network layer.
    pub network: Network,
    /// Transport protocol, after extension headers.
    pub protocol: u8,
    /// Fragment or not.
    pub fragment: Fragment,
    /// Bytes of IPv6 hop-by-hop header that BIG TCP put in front and segmentation takes out: 0 or 8.
    pub jumbo_len: u8,
    /// TCP flags byte.
    pub tcp_flags: u8,
}

impl Packet {
    /// True when the destination MAC is a group's (multicast or broadcast).
    #[inline(always)]
    pub const fn to_group(&self) -> bool {
        self.dst_mac & 0x0100_0000_0000 != 0
    }

    /// True for what finds neighbours (ARP, RARP, ND): without it nothing else passes, so it never
    /// waits behind bulk.
    #[inline(always)]
    pub const fn finds_neighbours(&self) -> bool {
        match self.network {
            Network::Arp | Network::Rarp => true,
            Network::Ipv6 => self.protocol == proto::ICMPV6 && matches!(self.src_port, 133..=137),
            _ => false,
        }
    }
}

/// Reads through [`Frame`] that keep to [`HEADER_WINDOW`].
macro_rules! read {
    ($frame:expr, $method:ident, $offset:expr, $size:literal) => {{
        let offset: u32 = $offset;
        if offset > HEADER_WINDOW - $size {
            return Err(DropReason::HeadersTooDeep);
        }
        match $frame.$method(offset) {
            Some(value) => value,
            None => return Err(DropReason::Truncated),
        }
    }};
}
pub(crate) use read;

/// Parses a frame.
///
/// # Errors
/// The reason why it must be dropped.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F, meta: &Meta) -> Result<Packet, DropReason> {
    let mut packet = Packet::default();
    parse_into(frame, meta, &mut packet)?;
    Ok(packet)
}

/// The same, into `packet`, which must be [`Packet::default`] before and is not to be used after an
/// error.
///
/// # Errors
/// The reason why the frame must be dropped.
#[inline(always)]
pub fn parse_into<F: Frame>(frame: &F, meta: &Meta, packet: &mut Packet) -> Result<(), DropReason> {
    if let Some(plain) = frame.plain()
        && plain::ipv4(&plain, meta, packet)
    {
        return Ok(());
    }
    general(frame, meta, packet)
}

/// Any frame, field by field.
#[inline(always)]
fn general<F: Frame>(frame: &F, meta: &Meta, packet: &mut Packet) -> Result<(), DropReason> {
    ethernet(frame, meta, packet)?;
    match packet.network {
        Network::Ipv4 => ipv4(frame, meta, packet),
        Network::Ipv6 => ipv6(frame, meta, packet),
        Network::Arp | Network::Rarp => arp(frame, packet),
        Network::Other => Ok(()),
    }
}

/// Parses what a tunnel carries: an Ethernet frame, or an IP packet alone whose EtherType is `ethertype`. Field by field:
/// what is inside may begin anywhere.
///
/// # Errors
/// The reason why it cannot be parsed.
#[inline(always)]
pub fn parse_inside<F: Frame>(
    frame: &F,
    meta: &Meta,
    ethertype: u16,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    if ethertype == 0 {
        return general(frame, meta, packet);
    }
    packet.ethertype = ethertype;
    if ethertype == ethertype::IPV6 {
        packet.network = Network::Ipv6;
        return ipv6(frame, meta, packet);
    }
    packet.network = Network::Ipv4;
    ipv4(frame, meta, packet)
}

/// The MAC at `offset`, in the low 48 bits.
#[inline(always)]
pub(crate) fn mac<F: Frame>(frame: &F, offset: u32) -> Result<u64, DropReason> {
    let high = read!(frame, be16, offset, 2);
    let low = u32::from_be(read!(frame, raw32, offset + 2, 4));
    Ok((high as u64) << 32 | low as u64)
}

const fn is_tag(ethertype: u16) -> bool {
    ethertype == ethertype::VLAN || ethertype == ethertype::QINQ
}

#[inline(always)]
fn ethernet<F: Frame>(frame: &F, meta: &Meta, packet: &mut Packet) -> Result<(), DropReason> {
    packet.dst_mac = mac(frame, 0)?;
    packet.src_mac = mac(frame, 6)?;
    let mut ethertype = read!(frame, be16, 12, 2);
    let mut offset = 14;
    if meta.tag_in_skb {
        packet.tags = 1;
        packet.vid = meta.tag_vid & 0x0FFF;
    }
    // Two tags at most, wherever they sit; unrolled by hand: the verifier sees no loop.
    if is_tag(ethertype) {
        let vid = read!(frame, be16, offset, 2) & 0x0FFF;
        if packet.tags == 0 {
            packet.vid = vid;
        }
        packet.tags += 1;
        ethertype = read!(frame, be16, offset + 2, 2);
        offset += 4;
        if is_tag(ethertype) {
            if packet.tags == 2 {
                return Err(DropReason::VlanDepth);
            }
            packet.tags += 1;
            ethertype = read!(frame, be16, offset + 2, 2);
            offset += 4;
            if is_tag(ethertype) {
                return Err(DropReason::VlanDepth);
            }
        }
    }
    packet.ethertype = ethertype;
    packet.l3_offset = offset as u16;
    packet.network = match ethertype {
        ethertype::IPV4 => Network::Ipv4,
        ethertype::IPV6 => Network::Ipv6,
        ethertype::ARP => Network::Arp,
        ethertype::RARP => Network::Rarp,
        _ => Network::Other,
    };
    Ok(())
}

/// ARP and RARP share a layout (RFC 826, RFC 903). Only Ethernet and IPv4 are known here; the
/// sender's and target's addresses go to `src` and `dst`.
#[inline(always)]
fn arp<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), DropReason> {
    let at = packet.l3_offset as u32;
    let kind = read!(frame, raw32, at, 4);
    let sizes = read!(frame, be16, at + 4, 2);
    // Hardware Ethernet, protocol IPv4, 6 and 4 bytes.
    if u32::from_be(kind) != 0x0001_0800 || sizes != 0x0604 {
        return Err(DropReason::SpoofedArp);
    }
    packet.src[0] = read!(frame, raw32, at + 14, 4);
    packet.dst[0] = read!(frame, raw32, at + 24, 4);
    packet.l4_offset = 0;
    packet.header_end = (at + 28) as u16;
    Ok(())
}

#[inline(always)]
fn ipv4<F: Frame>(frame: &F, meta: &Meta, packet: &mut Packet) -> Result<(), DropReason> {
    let at = packet.l3_offset as u32;
    let first = read!(frame, u8, at, 1);
    let header_len = ((first & 0x0F) as u32) * 4;
    if first >> 4 != 4 || header_len < 20 {
        return Err(DropReason::IpHeader);
    }
    let total = read!(frame, be16, at + 2, 2) as u32;
    let fragment = read!(frame, be16, at + 6, 2);
    packet.protocol = read!(frame, u8, at + 9, 1);
    packet.src[0] = read!(frame, raw32, at + 12, 4);
    packet.dst[0] = read!(frame, raw32, at + 16, 4);
    let available = meta.len.saturating_sub(at);
    let end = if total == 0 && meta.gso && available > 0xFFFF {
        available // BIG TCP: the length does not fit its field
    } else {
        if total < header_len || total > available {
            return Err(DropReason::IpLength);
        }
        total
    };
    packet.l3_len = total;
    let fragment_offset = fragment & 0x1FFF;
    if fragment_offset != 0 {
        packet.fragment = Fragment::Later;
        // RFC 1858: a fragment at 8 bytes can only serve to rewrite the TCP flags.
        if fragment_offset == 1 && packet.protocol == proto::TCP {
            return Err(DropReason::TinyFragment);
        }
        packet.header_end = (at + header_len) as u16;
        return Ok(());
    }
    if fragment & 0x2000 != 0 {
        packet.fragment = Fragment::First;
    }
    transport(frame, meta, packet, at + header_len, at + end)
}

/// `offset` is where the transport header begins, `limit` where the IP packet ends.
#[inline(always)]
fn transport<F: Frame>(
    frame: &F,
    meta: &Meta,
    packet: &mut Packet,
    offset: u32,
    limit: u32,
) -> Result<(), DropReason> {
    let need = match packet.protocol {
        proto::TCP => 20,
        proto::UDP | proto::ICMP | proto::ICMPV6 => 8,
        proto::SCTP => 12,
        _ => 0,
    };
    packet.l4_offset = offset as u16;
    packet.header_end = (offset + need) as u16;
    if need == 0 {
        return Ok(());
    }
    let short = if packet.fragment == Fragment::First {
        DropReason::TinyFragment
    } else {
        DropReason::TransportHeader
    };
    if offset + need > limit {
        return Err(short);
    }
    if packet.protocol == proto::ICMP || packet.protocol == proto::ICMPV6 {
        packet.src_port = read!(frame, u8, offset, 1) as u16;
        packet.dst_port = read!(frame, u8, offset + 1, 1) as u16;
        return Ok(());
    }
    packet.src_port = read!(frame, be16, offset, 2);
    packet.dst_port = read!(frame, be16, offset + 2, 2);
    if packet.protocol == proto::TCP {
        let header_len = ((read!(frame, u8, offset + 12, 1) >> 4) as u32) * 4;
        packet.tcp_flags = read!(frame, u8, offset + 13, 1);
        if header_len < 20 {
            return Err(DropReason::TransportHeader);
        }
        if offset + header_len > limit {
            return Err(short);
        }
        packet.header_end = (offset + header_len) as u16;
    } else if packet.protocol == proto::UDP && !meta.gso {
        let udp_len = read!(frame, be16, offset + 4, 2) as u32;
        // The first of several fragments announces the whole datagram.
        if udp_len < 8 || (packet.fragment == Fragment::No && offset + udp_len > limit) {
            return Err(DropReason::TransportHeader);
        }
    }
    Ok(())
}

/// A frame in memory: the host's tests, the fuzzer, and captures.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a>(pub &'a [u8]);

impl Slice<'_> {
    fn array<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = usize::try_from(offset).ok()?;
        self.0.get(start..start.checked_add(N)?)?.try_into().ok()
    }
}

impl Frame for Slice<'_> {
    fn u8(&self, offset: u32) -> Option<u8> {
        self.array::<1>(offset).map(|bytes| bytes[0])
    }

    fn be16(&self, offset: u32) -> Option<u16> {
        self.array(offset).map(u16::from_be_bytes)
    }

    fn raw32(&self, offset: u32) -> Option<u32> {
        self.array(offset).map(u32::from_ne_bytes)
    }

    fn plain(&self) -> Option<impl Plain> {
        self.array::<PLAIN>(0)
    }
}
