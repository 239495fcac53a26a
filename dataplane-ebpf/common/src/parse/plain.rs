//! What most packets are, parsed with one bounds check: IPv4 without options, whole, TCP or UDP, no tag in the data.
//!
//! Invariant: [`ipv4`] either gives what the general way gives, or says no and changes nothing (property test
//! below). It knows no reason to drop: what is wrong with a packet is for the general way to say.

use super::{Meta, Network, Packet, ethertype, proto};
use core::array;

/// Bytes of an Ethernet, an IPv4 and a TCP header without tags and options.
pub const PLAIN: usize = 14 + 20 + 20;

/// [`PLAIN`] bytes that are there: reads are at constants, and need no check.
pub trait Plain {
    /// The byte at `AT`.
    fn u8<const AT: usize>(&self) -> u8;
    /// Two bytes in network order.
    fn be16<const AT: usize>(&self) -> u16;
    /// Four bytes in memory order.
    fn raw32<const AT: usize>(&self) -> u32;
    /// Eight bytes in network order.
    fn be64<const AT: usize>(&self) -> u64;
}

impl Plain for [u8; PLAIN] {
    fn u8<const AT: usize>(&self) -> u8 {
        self[AT]
    }

    fn be16<const AT: usize>(&self) -> u16 {
        u16::from_be_bytes(array::from_fn(|index| self[AT + index]))
    }

    fn raw32<const AT: usize>(&self) -> u32 {
        u32::from_ne_bytes(array::from_fn(|index| self[AT + index]))
    }

    fn be64<const AT: usize>(&self) -> u64 {
        u64::from_be_bytes(array::from_fn(|index| self[AT + index]))
    }
}

const IPV4: usize = 14;
const TRANSPORT: usize = IPV4 + 20;

/// Parses such a packet. False: it is another one, and `packet` is as before.
#[inline(always)]
pub(super) fn ipv4<P: Plain>(bytes: &P, meta: &Meta, packet: &mut Packet) -> bool {
    let total = bytes.be16::<{ IPV4 + 2 }>() as u32;
    let known = bytes.be16::<12>() == ethertype::IPV4
        && bytes.u8::<IPV4>() == 0x45
        && bytes.be16::<{ IPV4 + 6 }>() & 0x3FFF == 0 // neither offset nor more to come
        && total <= meta.len.saturating_sub(IPV4 as u32);
    if !known {
        return false;
    }
    let protocol = bytes.u8::<{ IPV4 + 9 }>();
    let header_len = match protocol {
        proto::TCP => {
            let header_len = ((bytes.u8::<{ TRANSPORT + 12 }>() >> 4) as u32) * 4;
            if header_len < 20 || 20 + header_len > total {
                return false;
            }
            packet.tcp_flags = bytes.u8::<{ TRANSPORT + 13 }>();
            header_len
        }
        proto::UDP => {
            let udp_len = bytes.be16::<{ TRANSPORT + 4 }>() as u32;
            let fits = meta.gso || 20 + udp_len <= total;
            if total < 28 || !fits || !meta.gso && udp_len < 8 {
                return false;
            }
            8
        }
        _ => return false,
    };
    if meta.tag_in_skb {
        packet.tags = 1;
        packet.vid = meta.tag_vid & 0x0FFF;
    }
    packet.dst_mac = bytes.be64::<0>() >> 16;
    packet.src_mac = bytes.be64::<4>() & 0xFFFF_FFFF_FFFF;
    packet.ethertype = ethertype::IPV4;
    packet.network = Network::Ipv4;
    packet.l3_offset = IPV4 as u16;
    packet.l3_len = total;
    packet.protocol = protocol;
    packet.src[0] = bytes.raw32::<{ IPV4 + 12 }>();
    packet.dst[0] = bytes.raw32::<{ IPV4 + 16 }>();
    packet.l4_offset = TRANSPORT as u16;
    packet.src_port = bytes.be16::<TRANSPORT>();
    packet.dst_port = bytes.be16::<{ TRANSPORT + 2 }>();
    packet.header_end = (TRANSPORT as u32 + header_len) as u16;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Slice, general};
    use proptest::{prelude::*, strategy::ValueTree as _};

    /// A frame that is often plain: its fields are right, or one off, or anything.
    fn frame() -> impl Strategy<Value = (Vec<u8>, Meta)> {
        let bytes = prop::collection::vec(any::<u8>(), 50..80);
        let damage = prop::collection::vec((12..54_usize, any::<u8>()), 0..3);
        let meta = (0..1_600_u32, any::<bool>(), any::<u16>(), any::<bool>());
        let fields = (
            prop::sample::select(vec![6_u8, 17, 1]),
            0..60_u16,
            4..16_u8,
            0..4_u16,
        );
        (bytes, damage, meta, fields).prop_map(|(mut bytes, damage, meta, fields)| {
            let (protocol, less, words, of_udp) = fields;
            let len = meta.0;
            let total = (len as u16).saturating_sub(14 + less / 10);
            bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
            bytes[16..18].copy_from_slice(&total.to_be_bytes());
            bytes[20..22].copy_from_slice(&[0x40, 0]);
            bytes[23] = protocol;
            if protocol == 6 {
                bytes[46] = words << 4;
            } else {
                let udp = total.saturating_sub(19 + of_udp);
                bytes[38..40].copy_from_slice(&udp.to_be_bytes());
            }
            for (at, value) in damage {
                bytes.get_mut(at).into_iter().for_each(|byte| *byte = value);
            }
            let meta = Meta {
                len,
                tag_in_skb: meta.1,
                tag_vid: meta.2,
                gso: meta.3,
            };
            (bytes, meta)
        })
    }

    #[test]
    fn the_short_way_says_what_the_general_way_says_or_nothing() {
        let mut runner = proptest::test_runner::TestRunner::default();
        let (mut taken, mut left) = (0_u32, 0_u32);
        for _ in 0..200_000 {
            let tree = frame().new_tree(&mut runner).expect("a frame");
            let (bytes, meta) = tree.current();
            let Some(near) = bytes.first_chunk::<PLAIN>() else {
                continue;
            };
            let (mut short, mut long) = (Packet::default(), Packet::default());
            let slow = general(&Slice(&bytes), &meta, &mut long);
            if ipv4(near, &meta, &mut short) {
                assert_eq!((Ok(()), long), (slow, short), "{bytes:02x?} {meta:?}");
                taken += 1;
            } else {
                assert_eq!(short, Packet::default(), "{bytes:02x?} {meta:?}");
                // What it refuses is wrong, or not plain.
                left += 1;
            }
        }
        assert!(taken > 20_000 && left > 20_000, "{taken} and {left}");
        println!("CASES: frames parsed both ways: {}", taken + left);
    }
}
