//! What makes two packets one flow.

use super::Draw;
use dataplane_common::{
    parse::{Fragment, Network, Packet, proto},
    thin::{Place, hash},
};
use std::collections::HashSet;

const KEYS: [u64; 5] = [
    0x0123_4567_89AB_CDEF,
    0xFEDC_BA98_7654_3210,
    0x0F1E_2D3C_4B5A_6978,
    0x8796_A5B4_C3D2_E1F0,
    0x1357_9BDF_0246_8ACE,
];

fn tcp(network: Network) -> Packet {
    Packet {
        network,
        src: [1, 2, 3, 4],
        dst: [5, 6, 7, 8],
        src_port: 1_000,
        dst_port: 443,
        protocol: proto::TCP,
        ..Packet::default()
    }
}

#[test]
fn every_part_of_a_flow_counts_and_nothing_else_does() {
    let flow = tcp(Network::Ipv6);
    let mut found = HashSet::from([hash(&flow, &KEYS)]);
    let mut differs = |what: &str, change: fn(&mut Packet)| {
        let mut other = flow;
        change(&mut other);
        assert!(found.insert(hash(&other, &KEYS)), "{what} does not count");
    };
    differs("src 0", |packet| packet.src[0] ^= 1);
    differs("src 1", |packet| packet.src[1] ^= 1);
    differs("src 2", |packet| packet.src[2] ^= 1);
    differs("src 3", |packet| packet.src[3] ^= 1);
    differs("dst 0", |packet| packet.dst[0] ^= 1);
    differs("dst 1", |packet| packet.dst[1] ^= 1);
    differs("dst 2", |packet| packet.dst[2] ^= 1);
    differs("dst 3", |packet| packet.dst[3] ^= 1);
    differs("source port", |packet| packet.src_port ^= 1);
    differs("target port", |packet| packet.dst_port ^= 1);
    differs("protocol", |packet| packet.protocol = proto::UDP);
    let mut same = flow;
    (same.l3_len, same.tcp_flags, same.vid) = (999, 16, 7);
    assert_eq!(hash(&same, &KEYS), hash(&flow, &KEYS));
}

#[test]
fn fragments_of_a_datagram_and_icmp_are_one_flow_each() {
    let mut first = tcp(Network::Ipv4);
    first.protocol = proto::UDP;
    first.fragment = Fragment::First;
    let mut later = first;
    later.fragment = Fragment::Later;
    (later.src_port, later.dst_port) = (0, 0);
    assert_eq!(hash(&first, &KEYS), hash(&later, &KEYS));
    let mut request = tcp(Network::Ipv4);
    request.protocol = proto::ICMP;
    let mut other = request;
    other.src_port = 3;
    assert_eq!(hash(&request, &KEYS), hash(&other, &KEYS));
}

/// Ports that count up, as a sender of many flows has them, spread as if they were drawn.
#[test]
fn flows_spread_over_the_clocks() {
    let mut cells = [[0_u32; 256]; 2];
    let mut flow = tcp(Network::Ipv4);
    for port in 0..25_600_u16 {
        flow.src_port = port;
        let place = Place::of(hash(&flow, &KEYS), KEYS[0], 1 << 40, 256);
        cells[0][place.first as usize] += 1;
        cells[1][place.second as usize] += 1;
        assert_eq!(Place::unpacked(place.packed()), place);
    }
    for row in cells {
        // χ² with 255 degrees of freedom: 360 is six deviations away.
        let chi: f64 = row
            .iter()
            .map(|n| (f64::from(*n) - 100.0).powi(2) / 100.0)
            .sum();
        assert!(chi < 400.0, "{chi}");
    }
}

/// For who does not know the keys, a collision of any two flows is a chance of 2^-32.
#[test]
fn another_key_makes_other_collisions() {
    let mut draw = Draw(1);
    let (mut a, mut b) = (tcp(Network::Ipv4), tcp(Network::Ipv4));
    // These meet under keys of zero: (src, dst) and (dst, src) have one product.
    (b.src, b.dst) = (a.dst, a.src);
    assert_eq!(hash(&a, &[0; 5]), hash(&b, &[0; 5]));
    for _ in 0..10_000 {
        let keys = [(); 5].map(|()| draw.next());
        assert_ne!(hash(&a, &keys), hash(&b, &keys));
        a.src_port = a.src_port.wrapping_add(1);
        b.src_port = a.src_port;
    }
}
