//! The spoof check: from the tenant, MAC, address, ARP and ND content must be the port's own;
//! to the tenant, the frame must be for it.
//!
//! What passes beside the port's set, because a guest cannot start without it: DHCP from 0.0.0.0,
//! ARP probes (RFC 5227), duplicate address detection from `::` (RFC 4862), `fe80::/10`, MLD from
//! `::` (RFC 3810), RARP with an own MAC. What never passes: router advertisements, redirects, DHCP
//! answers, BPDU, LLDP, and any EtherType that the check cannot read.

use crate::{
    abi::PortPolicy,
    parse::{Fragment, Frame, HEADER_WINDOW, Network, Packet, ethertype, mac, proto, read},
    reason::DropReason,
};

/// What does not fit a [`PortPolicy`] inline: longer lists, looked up by map or by test double.
pub trait Overflow {
    /// Is `mac` one of the port's?
    fn mac(&self, mac: u64) -> bool;
    /// Is the IPv4 address (memory order) one of the port's?
    fn ipv4(&self, address: u32) -> bool;
    /// Is the IPv6 address (memory order) one of the port's?
    fn ipv6(&self, address: &[u32; 4]) -> bool;
    /// [`neighbour`] on this frame: in the kernel a function of its own, as the walk over extension
    /// headers is.
    #[inline(always)]
    fn neighbour<F: Frame>(&self, frame: &F, nd: Neighbour, port: &PortPolicy) -> bool
    where
        Self: Sized,
    {
        neighbour(frame, nd, port, self)
    }
}

/// A neighbour discovery message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// ICMPv6 type: 133, 135 or 136.
    pub kind: u8,
    /// Where the ICMPv6 header begins, bytes from the start of the frame.
    pub offset: u16,
    /// Where the IP packet ends, likewise.
    pub end: u32,
}

/// ND options are walked at most this far; one more drops the packet.
const ND_OPTIONS_MAX: u32 = 4;

const fn net16(high: u8, low: u8) -> u32 {
    u32::from_ne_bytes([high, low, 0, 0])
}

/// `fe80::/10`.
#[inline(always)]
fn link_local(address: &[u32; 4]) -> bool {
    address[0] & net16(0xFF, 0xC0) == net16(0xFE, 0x80)
}

#[inline(always)]
fn unspecified(address: &[u32; 4]) -> bool {
    address[0] | address[1] | address[2] | address[3] == 0
}

#[inline(always)]
fn own_mac<O: Overflow>(port: &PortPolicy, overflow: &O, mac: u64) -> bool {
    port.macs[0] == mac
        || (port.macs[1] == mac && mac != 0)
        || (port.has(PortPolicy::MORE_MACS) && overflow.mac(mac))
}

#[inline(always)]
fn own_ipv4<O: Overflow>(port: &PortPolicy, overflow: &O, address: u32) -> bool {
    let [a, b] = port.ipv4;
    a.contains(address)
        || b.contains(address)
        || (port.has(PortPolicy::MORE_ADDRESSES) && overflow.ipv4(address))
}

#[inline(always)]
fn own_ipv6<O: Overflow>(port: &PortPolicy, overflow: &O, address: &[u32; 4]) -> bool {
    port.ipv6.contains(address) || (port.has(PortPolicy::MORE_ADDRESSES) && overflow.ipv6(address))
}

/// Checks a frame that came from the tenant of `port`.
///
/// # Errors
/// The reason why it must be dropped.
#[inline(always)]
pub fn from_tenant<F: Frame, O: Overflow>(
    frame: &F,
    packet: &Packet,
    port: &PortPolicy,
    overflow: &O,
) -> Result<(), DropReason> {
    // 01:80:C2:00:00:0x is the link's own: BPDU, LACP, pause, LLDP (IEEE 802.1Q table 8-1).
    if packet.dst_mac & !0xF == 0x0180_C200_0000 || packet.ethertype < ethertype::MIN {
        return Err(DropReason::LinkControl);
    }
    if packet.src_mac & 0x0100_0000_0000 != 0 || !own_mac(port, overflow, packet.src_mac) {
        return Err(DropReason::SpoofedMac);
    }
    match packet.network {
        Network::Ipv4 => ipv4(packet, port, overflow),
        Network::Ipv6 => ipv6(frame, packet, port, overflow),
        Network::Arp | Network::Rarp => arp(frame, packet, port, overflow),
        Network::Other => Err(match packet.ethertype {
            ethertype::LLDP | ethertype::PAUSE | ethertype::SLOW | ethertype::EAPOL => {
                DropReason::LinkControl
            }
            _ => DropReason::EthertypeDenied,
        }),
    }
}

/// Checks a frame that is about to go to the tenant of `port`.
///
/// # Errors
/// [`DropReason::NotMine`]: without this, a bridge that floods shows and bills B the frames of A.
#[inline(always)]
pub fn to_tenant<O: Overflow>(
    packet: &Packet,
    port: &PortPolicy,
    overflow: &O,
) -> Result<(), DropReason> {
    if packet.to_group() || own_mac(port, overflow, packet.dst_mac) {
        Ok(())
    } else {
        Err(DropReason::NotMine)
    }
}

#[inline(always)]
fn arp<F: Frame, O: Overflow>(
    frame: &F,
    packet: &Packet,
    port: &PortPolicy,
    overflow: &O,
) -> Result<(), DropReason> {
    let sender = mac(frame, packet.l3_offset as u32 + 8)?;
    if !own_mac(port, overflow, sender) {
        return Err(DropReason::SpoofedArp);
    }
    // A probe (RFC 5227) and RARP have no sender address yet.
    if packet.src[0] == 0 || packet.network == Network::Rarp {
        return Ok(());
    }
    if own_ipv4(port, overflow, packet.src[0]) {
        Ok(())
    } else {
        Err(DropReason::SpoofedArp)
    }
}

#[inline(always)]
fn ipv4<O: Overflow>(packet: &Packet, port: &PortPolicy, overflow: &O) -> Result<(), DropReason> {
    let udp = packet.protocol == proto::UDP && packet.fragment != Fragment::Later;
    if udp && packet.src_port == 67 {
        return Err(DropReason::RogueDhcp);
    }
    if own_ipv4(port, overflow, packet.src[0]) {
        return Ok(());
    }
    let dhcp = udp
        && packet.fragment == Fragment::No
        && packet.src_port == 68
        && packet.dst_port == 67
        && packet.dst[0] == u32::MAX;
    if packet.src[0] == 0 && dhcp {
        return Ok(());
    }
    Err(DropReason::SpoofedIpv4)
}

#[inline(always)]
fn ipv6<F: Frame, O: Overflow>(
    frame: &F,
    packet: &Packet,
    port: &PortPolicy,
    overflow: &O,
) -> Result<(), DropReason> {
    let whole = packet.fragment != Fragment::Later;
    let icmp = packet.protocol == proto::ICMPV6;
    let kind = packet.src_port;
    if whole && packet.protocol == proto::UDP && packet.src_port == 547 {
        return Err(DropReason::RogueDhcp);
    }
    if icmp {
        match (packet.fragment, kind) {
            // Router advertisement and redirect.
            (Fragment::No, 134 | 137) => return Err(DropReason::RogueRouter),
            (Fragment::No, 133 | 135 | 136) => {
                let nd = Neighbour {
                    kind: kind as u8,
                    offset: packet.l4_offset,
                    end: packet.l3_offset as u32 + packet.l3_len,
                };
                if !overflow.neighbour(frame, nd, port) {
                    return Err(DropReason::SpoofedNd);
                }
            }
            // RFC 6980: ND is never fragmented; a later fragment of ICMPv6 may carry one whole.
            (Fragment::First, 133..=137) => return Err(DropReason::SpoofedNd),
            _ => {}
        }
    }
    if own_ipv6(port, overflow, &packet.src) || link_local(&packet.src) {
        return Ok(());
    }
    // Before it has an address: DAD, router solicitation, MLD.
    if unspecified(&packet.src)
        && icmp
        && packet.fragment == Fragment::No
        && matches!(kind, 131 | 132 | 133 | 135 | 143)
    {
        return Ok(());
    }
    Err(DropReason::SpoofedIpv6)
}

/// True when the content of a solicitation (133, 135) or advertisement (136) is the port's own:
/// RFC 4861. What cannot be read is not.
#[inline(always)]
pub fn neighbour<F: Frame, O: Overflow>(
    frame: &F,
    nd: Neighbour,
    port: &PortPolicy,
    overflow: &O,
) -> bool {
    content(frame, nd, port, overflow).is_ok()
}

#[inline(always)]
fn content<F: Frame, O: Overflow>(
    frame: &F,
    nd: Neighbour,
    port: &PortPolicy,
    overflow: &O,
) -> Result<(), DropReason> {
    let at = nd.offset as u32;
    if nd.kind == 136 {
        let target = [
            read!(frame, raw32, at + 8, 4),
            read!(frame, raw32, at + 12, 4),
            read!(frame, raw32, at + 16, 4),
            read!(frame, raw32, at + 20, 4),
        ];
        if !link_local(&target) && !own_ipv6(port, overflow, &target) {
            return Err(DropReason::SpoofedNd);
        }
    }
    let mut option = if nd.kind == 133 { at + 8 } else { at + 24 };
    // Written out, as the walk over extension headers is, and for the same reason.
    const { assert!(ND_OPTIONS_MAX == 4) };
    if nd_option(frame, &mut option, nd.end, port, overflow)?
        || nd_option(frame, &mut option, nd.end, port, overflow)?
        || nd_option(frame, &mut option, nd.end, port, overflow)?
        || nd_option(frame, &mut option, nd.end, port, overflow)?
        || option + 8 > nd.end
    {
        return Ok(());
    }
    Err(DropReason::SpoofedNd)
}

/// One ND option; true when there is none left.
#[inline(always)]
fn nd_option<F: Frame, O: Overflow>(
    frame: &F,
    option: &mut u32,
    end: u32,
    port: &PortPolicy,
    overflow: &O,
) -> Result<bool, DropReason> {
    if *option + 8 > end {
        return Ok(true);
    }
    let kind = read!(frame, u8, *option, 1);
    let size = read!(frame, u8, *option + 1, 1) as u32 * 8;
    if size == 0 {
        return Err(DropReason::SpoofedNd);
    }
    // Source (1) or target (2) link-layer address.
    if (kind == 1 || kind == 2) && !own_mac(port, overflow, mac(frame, *option + 2)?) {
        return Err(DropReason::SpoofedNd);
    }
    *option += size;
    Ok(false)
}
