//! What a packet is to the policy, by its headers alone.

use super::{exempt, overlay};
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
    /// An overlay: [`overlay::kind`].
    Overlay(u32),
    /// Of nothing that can be encrypted: clear.
    Other,
}

/// IP protocols that nothing else here needs.
const IGMP: u8 = 2;
/// UDP ports of a service.
const DNS: u16 = 53;
const NTP: u16 = 123;

/// What the parser found, of which the kind is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Found {
    /// [`Network`]'s number.
    pub network: u8,
    /// [`Fragment`]'s number.
    pub fragment: u8,
    /// Transport protocol.
    pub protocol: u8,
    /// 0.
    pub reserved: u8,
    /// Ports of the tenant and of the other end; of ICMP the type, in one of the two.
    pub near: u16,
    /// See above.
    pub far: u16,
}

impl Found {
    /// That of a packet. Without a branch: what is noted of every packet must not multiply the paths to it.
    #[inline(always)]
    pub fn of<const DIRECTION: u32>(packet: &Packet) -> Self {
        let (near, far) = if DIRECTION == FROM_TENANT {
            (packet.src_port, packet.dst_port)
        } else {
            (packet.dst_port, packet.src_port)
        };
        Self {
            network: packet.network as u8,
            fragment: packet.fragment as u8,
            protocol: packet.protocol,
            reserved: 0,
            near,
            far,
        }
    }

    /// How it is judged.
    #[inline(always)]
    pub fn kind(&self, direction: u32) -> Kind {
        const ARP: u8 = Network::Arp as u8;
        const RARP: u8 = Network::Rarp as u8;
        const IPV4: u8 = Network::Ipv4 as u8;
        const IPV6: u8 = Network::Ipv6 as u8;
        match self.network {
            ARP | RARP => return Kind::Exempt(exempt::ARP),
            IPV4 | IPV6 => {}
            _ => return Kind::Other,
        }
        if self.fragment != Fragment::No as u8 {
            return Kind::Fragment;
        }
        let icmp_type = if direction == FROM_TENANT {
            self.near
        } else {
            self.far
        };
        match self.protocol {
            proto::TCP => Kind::Tcp,
            proto::UDP => self.udp(direction),
            proto::GRE => Kind::Overlay(overlay::kind::GRE),
            proto::IPIP | proto::IPV6 => Kind::Overlay(overlay::kind::IP),
            proto::ESP => Kind::Esp,
            IGMP => Kind::Exempt(exempt::ND),
            // RFC 792: unreachable, time exceeded, parameter problem; echo and its reply.
            proto::ICMP => match icmp_type {
                3 | 11 | 12 => Kind::Exempt(exempt::ICMP_ERROR),
                0 | 8 => Kind::Exempt(exempt::ICMP_ECHO),
                _ => Kind::Other,
            },
            // RFC 4443; 130 to 137 and 143 of RFC 2710, 4861 and 3810.
            proto::ICMPV6 => match icmp_type {
                1..=4 => Kind::Exempt(exempt::ICMP_ERROR),
                128 | 129 => Kind::Exempt(exempt::ICMP_ECHO),
                130..=137 | 143 => Kind::Exempt(exempt::ND),
                _ => Kind::Other,
            },
            _ => Kind::Other,
        }
    }

    #[inline(always)]
    fn udp(&self, direction: u32) -> Kind {
        let target = if direction == FROM_TENANT {
            self.far
        } else {
            self.near
        };
        match target {
            overlay::VXLAN_PORT => return Kind::Overlay(overlay::kind::VXLAN),
            overlay::GENEVE_PORT => return Kind::Overlay(overlay::kind::GENEVE),
            _ => {}
        }
        match (self.near, self.far) {
            (68, 67) | (67, 68) | (546, 547) | (547, 546) => Kind::Exempt(exempt::DHCP),
            (_, DNS) => Kind::Exempt(exempt::DNS),
            (_, NTP) => Kind::Exempt(exempt::NTP),
            _ => Kind::Udp,
        }
    }
}
