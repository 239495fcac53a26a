//! What a packet is to the policy, by its headers alone.

use super::exempt;
use crate::{
    abi::FROM_TENANT,
    parse::{Fragment, Network, Packet, proto},
};

/// How a packet is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Passes if the rule exempts it: the number of the exemption.
    Exempt(u32),
    /// A segment of TCP.
    Tcp,
    /// A datagram of UDP.
    Udp,
    /// Encapsulating security payload.
    Esp,
    /// A fragment whose transport is not known.
    Fragment,
    /// Of nothing that can be encrypted: clear.
    Other,
}

/// IP protocols that nothing else here needs.
const IGMP: u8 = 2;
const ESP: u8 = 50;
/// UDP ports of a service.
const DNS: u16 = 53;
const NTP: u16 = 123;

/// The kind of a packet.
#[inline(always)]
pub fn of(packet: &Packet, direction: u32) -> Kind {
    match packet.network {
        Network::Arp | Network::Rarp => return Kind::Exempt(exempt::ARP),
        Network::Ipv4 | Network::Ipv6 => {}
        Network::Other => return Kind::Other,
    }
    if packet.fragment as u8 != Fragment::No as u8 {
        return Kind::Fragment;
    }
    match packet.protocol {
        proto::TCP => Kind::Tcp,
        proto::UDP => udp(packet, direction),
        ESP => Kind::Esp,
        IGMP => Kind::Exempt(exempt::ND),
        // Unreachable, quench, redirect's place is not here; exceeded, parameter problem (RFC 792); echo.
        proto::ICMP => match packet.src_port {
            3 | 11 | 12 => Kind::Exempt(exempt::ICMP_ERROR),
            0 | 8 => Kind::Exempt(exempt::ICMP_ECHO),
            _ => Kind::Other,
        },
        // RFC 4443; 130 to 137 and 143 of RFC 4861, 2710 and 3810.
        proto::ICMPV6 => match packet.src_port {
            1..=4 => Kind::Exempt(exempt::ICMP_ERROR),
            128 | 129 => Kind::Exempt(exempt::ICMP_ECHO),
            130..=137 | 143 => Kind::Exempt(exempt::ND),
            _ => Kind::Other,
        },
        _ => Kind::Other,
    }
}

#[inline(always)]
fn udp(packet: &Packet, direction: u32) -> Kind {
    let (near, far) = if direction == FROM_TENANT {
        (packet.src_port, packet.dst_port)
    } else {
        (packet.dst_port, packet.src_port)
    };
    match (near, far) {
        (68, 67) | (67, 68) | (546, 547) | (547, 546) => Kind::Exempt(exempt::DHCP),
        (_, DNS) => Kind::Exempt(exempt::DNS),
        (_, NTP) => Kind::Exempt(exempt::NTP),
        _ => Kind::Udp,
    }
}
