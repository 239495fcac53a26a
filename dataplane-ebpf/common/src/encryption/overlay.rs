//! A tenant's own overlays, looked into: VXLAN (RFC 7348), Geneve (RFC 8926), GRE (RFC 2784, 2890) and IP in IP (RFC 2003,
//! 2473, 4213).
//!
//! An overlay encrypts nothing: it is what it carries. So the packet inside is parsed by the gate's own parser, and its
//! conversation is judged as any other, under the rule that holds for the packet outside. One level: an overlay in an
//! overlay is refused, and so are a header that is not understood and one that has room for more than a few options.
//!
//! What it is not: a spoof check. Whose addresses are inside is the tenant's own affair.

use super::{Payload, Why};
use crate::{
    abi::FROM_TENANT,
    flow::FlowKey,
    parse::{Packet, ethertype, proto},
};

/// Which overlay; 0 is none. Part of a conversation's key.
pub mod kind {
    /// UDP port 4789.
    pub const VXLAN: u32 = 1;
    /// UDP port 6081.
    pub const GENEVE: u32 = 2;
    /// IP protocol 47, version 0.
    pub const GRE: u32 = 3;
    /// IP protocols 4 and 41.
    pub const IP: u32 = 4;
}

/// UDP ports that overlays are sent to.
pub const VXLAN_PORT: u16 = 4_789;
/// See above.
pub const GENEVE_PORT: u16 = 6_081;
/// EtherType of a frame in Geneve and GRE: transparent Ethernet bridging.
const BRIDGED: u16 = 0x6558;
/// Bytes of Geneve's options that may come along: those of Open Virtual Network are 8.
const OPTIONS_MAX: u32 = 16;
/// Conversations inside stand beside those of VLAN ids, which are below this.
const INSIDE: u16 = 4_096;

/// What is inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Inner {
    /// Where it begins, bytes behind the overlay's own beginning.
    pub at: u32,
    /// VXLAN's and Geneve's network identifier, GRE's key.
    pub network: u32,
    /// EtherType of what is there; 0: an Ethernet frame.
    pub ethertype: u32,
}

/// Reads an overlay's header, which is where the payload begins: behind UDP, or behind IP.
///
/// # Errors
/// [`Why::Overlay`]: it is not understood.
#[inline(always)]
pub fn read(which: u32, protocol: u8, payload: &impl Payload) -> Result<Inner, Why> {
    match which {
        kind::VXLAN => {
            let eight = payload.be(0, 8).ok_or(Why::Overlay)?;
            // The identifier is there; with it at most a group policy, of which Linux makes use.
            if eight >> 56 & 0x7F != 0x08 {
                return Err(Why::Overlay);
            }
            Ok(Inner {
                at: 8,
                network: (eight >> 8) as u32 & 0xFF_FFFF,
                ethertype: 0,
            })
        }
        kind::GENEVE => {
            let eight = payload.be(0, 8).ok_or(Why::Overlay)?;
            let options = (eight >> 56) as u32 & 0x3F;
            let control = eight >> 48 & 0x80 != 0;
            if eight >> 62 != 0 || control || options * 4 > OPTIONS_MAX {
                return Err(Why::Overlay);
            }
            Ok(Inner {
                at: 8 + options * 4,
                network: (eight >> 8) as u32 & 0xFF_FFFF,
                ethertype: inside((eight >> 32) as u16)?,
            })
        }
        kind::GRE => {
            let four = payload.be(0, 4).ok_or(Why::Overlay)?;
            let flags = (four >> 16) as u32;
            // Checksum, key and sequence number; no routing, version 0.
            if flags & !0xB000 != 0 {
                return Err(Why::Overlay);
            }
            let checksum = (flags >> 15 & 1) * 4;
            let keyed = (flags >> 13 & 1) * 4;
            let numbered = (flags >> 12 & 1) * 4;
            let network = if keyed == 0 {
                0
            } else {
                payload.be(4 + checksum, 4).ok_or(Why::Overlay)? as u32
            };
            Ok(Inner {
                at: 4 + checksum + keyed + numbered,
                network,
                ethertype: inside(four as u16)?,
            })
        }
        _ => Ok(Inner {
            at: 0,
            network: 0,
            ethertype: if protocol == proto::IPV6 {
                ethertype::IPV6
            } else {
                ethertype::IPV4
            } as u32,
        }),
    }
}

/// What may be inside.
#[inline(always)]
fn inside(kind: u16) -> Result<u32, Why> {
    match kind {
        BRIDGED => Ok(0),
        ethertype::IPV4 | ethertype::IPV6 => Ok(kind as u32),
        _ => Err(Why::Overlay),
    }
}

/// Makes of `key` that of the conversation inside: its ends, and which overlay of which network it is in, between whom.
/// Two overlays may share a number of 12 bits by chance: a conversation inside then shares its state with one of the same
/// ends and ports in another network of the same tenant.
#[inline(always)]
pub fn note(key: &mut FlowKey, outer: &FlowKey, packet: &Packet, which: u32, network: u32) {
    let ends = outer.local[0]
        ^ outer.local[3]
        ^ (outer.remote[0] ^ outer.remote[3]).rotate_left(7)
        ^ (outer.remote[1] ^ outer.remote[2]).rotate_left(13);
    let mixed = (ends ^ network.rotate_left(17) ^ packet.vid as u32).wrapping_mul(0x9E37_79B1);
    key.slot = outer.slot;
    key.zone = 0;
    key.vlan = (INSIDE * (which as u16 & 7)) | (mixed >> 20) as u16;
    key.ethertype = packet.ethertype;
    key.protocol = packet.protocol;
}

/// The ends of the packet inside, seen from the tenant.
#[inline(always)]
pub fn note_ends(key: &mut FlowKey, packet: &Packet, direction: u32) {
    let (near, far) = match packet.protocol {
        proto::TCP | proto::UDP | proto::SCTP => (packet.src_port, packet.dst_port),
        _ => (0, 0),
    };
    if direction == FROM_TENANT {
        (key.local, key.remote) = (packet.src, packet.dst);
        (key.local_port, key.remote_port) = (near, far);
    } else {
        (key.local, key.remote) = (packet.dst, packet.src);
        (key.local_port, key.remote_port) = (far, near);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encryption::Bytes;

    fn at(which: u32, bytes: &[u8]) -> Result<(u32, u32, u32), Why> {
        read(which, 4, &Bytes(bytes)).map(|inner| (inner.at, inner.network, inner.ethertype))
    }

    #[test]
    fn headers_are_read_or_refused() {
        let refused = Err(Why::Overlay);
        let vxlan = [0x08, 0, 0, 0, 0x01, 0x02, 0x03, 0];
        assert_eq!(at(kind::VXLAN, &vxlan), Ok((8, 0x01_0203, 0)));
        // With Linux's group policy; without the identifier; another protocol inside (GPE).
        for (first, wanted) in [
            (0x88, Ok((8, 0x01_0203, 0))),
            (0x00, refused),
            (0x0C, refused),
        ] {
            let mut other = vxlan;
            other[0] = first;
            assert_eq!(at(kind::VXLAN, &other), wanted, "{first:#x}");
        }
        assert_eq!(at(kind::VXLAN, &vxlan[..7]), refused);

        let geneve = |first, second, kind: u16| {
            let kind = kind.to_be_bytes();
            vec![first, second, kind[0], kind[1], 0, 0, 9, 0]
        };
        assert_eq!(at(kind::GENEVE, &geneve(2, 0x40, 0x6558)), Ok((16, 9, 0)));
        assert_eq!(at(kind::GENEVE, &geneve(0, 0, 0x86DD)), Ok((8, 9, 0x86DD)));
        for bad in [
            geneve(5, 0, 0x6558),
            geneve(0x40, 0, 0x6558),
            geneve(0, 0x80, 0x6558),
            geneve(0, 0, 0x0806),
        ] {
            assert_eq!(at(kind::GENEVE, &bad), refused, "{bad:?}");
        }

        let gre = |flags: u16, kind: u16| {
            [
                &flags.to_be_bytes()[..],
                &kind.to_be_bytes(),
                &[0; 4],
                &[0, 0, 0, 7],
                &[0; 4],
            ]
            .concat()
        };
        assert_eq!(at(kind::GRE, &gre(0, 0x0800)), Ok((4, 0, 0x0800)));
        assert_eq!(at(kind::GRE, &gre(0xB000, 0x6558)), Ok((16, 7, 0)));
        assert_eq!(at(kind::GRE, &gre(0x2000, 0x86DD)), Ok((8, 0, 0x86DD)));
        // Routing, PPTP's version, a mirror's frames, keepalives.
        for (flags, kind) in [(0x4000, 0x0800), (0x3001, 0x880B), (0x1000, 0x88BE), (0, 0)] {
            assert_eq!(at(kind::GRE, &gre(flags, kind)), refused, "{flags:#x}");
        }
        assert_eq!(at(kind::IP, &[]), Ok((0, 0, 0x0800)));
    }

    #[test]
    fn conversations_inside_are_apart_from_others_and_from_each_other() {
        let outer = FlowKey {
            remote: [9, 0, 0, 0],
            slot: 3,
            ..FlowKey::default()
        };
        let packet = Packet {
            ethertype: ethertype::IPV4,
            ..Packet::default()
        };
        let vlan = |which, network| {
            let mut key = FlowKey::default();
            note(&mut key, &outer, &packet, which, network);
            assert_eq!(key.slot, 3);
            key.vlan
        };
        let all: std::collections::HashSet<u16> = (1..=4)
            .flat_map(|which| (0..50).map(move |network| (which, network)))
            .map(|(which, network)| vlan(which, network))
            .collect();
        assert!(all.len() > 190, "{} of 200", all.len());
        assert!(all.iter().all(|vlan| *vlan >= INSIDE));
    }
}
