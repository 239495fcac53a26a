//! What an uplink's guard asks of a frame that the host itself sends: is it an overlay in clear?
//!
//! An overlay's device builds a new packet, which the kernel takes for the host's own (`skb_scrub_packet` forgets where it
//! came in). So what the guard looks at are frames that came in nowhere; a tenant's own overlay crosses its port, which has
//! judged it.
//!
//! Invariants
//! - Whatever the guard cannot read is refused: it asks only where the configuration says that no overlay may leave.
//! - A later fragment passes behind its first, and only if that one passed.
//!
//! What it is not: a search for clear text. ESP and WireGuard are taken for what they say.

use crate::{
    encryption::{fragment::Piece, overlay},
    parse::{Fragment, Network, Packet, proto},
};

/// What a frame of the host is to the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// No overlay.
    Other,
    /// An overlay, or something in which one may be and that encrypts nothing.
    Overlay,
    /// The first of several fragments, of no overlay.
    First,
    /// A later one, of which its first knows more.
    Later,
}

/// IP protocols that carry packets, or hide what they carry, and encrypt nothing: authentication header (behind which
/// the parser looks in IPv6 only), EtherIP (RFC 3378), compression (RFC 3173), L2TP (RFC 3931), MPLS (RFC 4023).
const ETHER_IP: u8 = 97;
const COMPRESSION: u8 = 108;
const L2TP: u8 = 115;
const MPLS: u8 = 137;

/// EtherTypes of MPLS (RFC 5332) and of the network service header (RFC 8300).
const ETHERTYPES: [u16; 3] = [0x8847, 0x8848, 0x894F];

/// UDP ports that overlays are sent to: VXLAN as IANA has it and as Linux does by itself, VXLAN-GPE, Geneve, GTP-U,
/// GUE, MPLS in UDP (RFC 7510), L2TP.
pub const PORTS: [u16; 8] = [
    overlay::VXLAN_PORT,
    8_472,
    4_790,
    overlay::GENEVE_PORT,
    2_152,
    6_080,
    6_635,
    1_701,
];

/// What `packet` is.
#[inline(always)]
pub fn sent(packet: &Packet) -> Sent {
    match packet.network {
        Network::Ipv4 | Network::Ipv6 => {}
        Network::Arp | Network::Rarp => return Sent::Other,
        Network::Other => {
            return if carries(packet.ethertype, &ETHERTYPES) {
                Sent::Overlay
            } else {
                Sent::Other
            };
        }
    }
    match packet.protocol {
        proto::IPIP
        | proto::IPV6
        | proto::GRE
        | proto::AH
        | ETHER_IP
        | COMPRESSION
        | L2TP
        | MPLS => return Sent::Overlay,
        _ => {}
    }
    if packet.fragment == Fragment::Later {
        return Sent::Later;
    }
    if packet.protocol == proto::UDP && carries(packet.dst_port, &PORTS) {
        return Sent::Overlay;
    }
    if packet.fragment == Fragment::First {
        Sent::First
    } else {
        Sent::Other
    }
}

/// Is the number in the list? It leaves as soon as it is found.
#[inline(always)]
fn carries(number: u16, list: &[u16]) -> bool {
    let mut at = 0;
    while at < list.len() {
        if list[at] == number {
            return true;
        }
        at += 1;
    }
    false
}

/// What fragments of one packet are known by; never 0. Of 64 bits, so that two packets of one host hardly ever share it; who
/// makes both is the host.
#[inline(always)]
pub fn mark(packet: &Packet, piece: &Piece) -> u64 {
    let mut mark = 0x9E37_79B9_7F4A_7C15 ^ piece.id as u64;
    let words = [
        packet.src[0] as u64 | (packet.src[1] as u64) << 32,
        packet.src[2] as u64 | (packet.src[3] as u64) << 32,
        packet.dst[0] as u64 | (packet.dst[1] as u64) << 32,
        packet.dst[2] as u64 | (packet.dst[3] as u64) << 32,
    ];
    let mut at = 0;
    while at < words.len() {
        // The finalizer of MurmurHash3 (Appleby).
        mark ^= words[at];
        mark ^= mark >> 33;
        mark = mark.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        mark ^= mark >> 33;
        mark = mark.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
        mark ^= mark >> 33;
        at += 1;
    }
    mark | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::ethertype;

    fn packet(protocol: u8, dst_port: u16, fragment: Fragment) -> Packet {
        Packet {
            network: Network::Ipv4,
            ethertype: ethertype::IPV4,
            protocol,
            dst_port,
            fragment,
            ..Packet::default()
        }
    }

    #[test]
    fn overlays_are_told_by_protocol_and_port_and_fragments_by_their_first() {
        for protocol in [4, 41, 47, 51, 97, 108, 115, 137] {
            for fragment in [Fragment::No, Fragment::First, Fragment::Later] {
                assert_eq!(sent(&packet(protocol, 0, fragment)), Sent::Overlay);
            }
        }
        for port in PORTS {
            assert_eq!(sent(&packet(17, port, Fragment::No)), Sent::Overlay);
            assert_eq!(sent(&packet(17, port, Fragment::First)), Sent::Overlay);
            // To TCP the number means nothing, and a later fragment has none.
            assert_eq!(sent(&packet(6, port, Fragment::No)), Sent::Other);
            assert_eq!(sent(&packet(17, 0, Fragment::Later)), Sent::Later);
        }
        for (protocol, port) in [
            (17, 51_820),
            (17, 4_500),
            (50, 0),
            (6, 443),
            (1, 0),
            (58, 0),
        ] {
            assert_eq!(sent(&packet(protocol, port, Fragment::No)), Sent::Other);
        }
        assert_eq!(sent(&packet(17, 53, Fragment::First)), Sent::First);
        let other = |ethertype| Packet {
            ethertype,
            ..Packet::default()
        };
        assert_eq!(sent(&other(0x8847)), Sent::Overlay);
        // MACsec and LLDP.
        assert_eq!(sent(&other(0x88E5)), Sent::Other);
        assert_eq!(sent(&other(ethertype::LLDP)), Sent::Other);
    }

    #[test]
    fn marks_of_packets_are_apart() {
        let mut marks = std::collections::HashSet::new();
        for id in 0..5_000 {
            for end in 0..4 {
                let mut packet = packet(17, 0, Fragment::Later);
                packet.dst[0] = end;
                let piece = Piece {
                    id,
                    ..Piece::default()
                };
                assert!(marks.insert(mark(&packet, &piece)));
                assert!(!marks.contains(&0));
            }
        }
    }
}
