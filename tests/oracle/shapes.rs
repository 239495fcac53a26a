//! Frames of every legal shape, and some that are legal Ethernet but more than octroi takes: too
//! many tags or extension headers, headers too deep. What is wrong on purpose is in `mutate`.

use super::{
    dice::Dice,
    headers::{self, Ipv4, Ipv6, MORE_FRAGMENTS, Part},
    people,
};

/// A frame, and what the kernel knows of it beside its bytes.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// From the Ethernet header on, without FCS.
    pub bytes: Vec<u8>,
    /// See [`Part::marks`].
    pub marks: Vec<usize>,
    /// The outermost tag's TCI, when the kernel keeps it beside the data.
    pub tag: Option<u16>,
    /// Payload bytes of each segment; 0 when the frame is not a GSO packet.
    pub gso_size: u16,
}

/// Which frames are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Tags beside the data, too.
    pub tags_in_skb: bool,
    /// GSO packets, too.
    pub gso: bool,
    /// GSO packets whose length does not fit the IP header, too.
    pub big: bool,
    /// Bytes of payload.
    pub payload_max: usize,
}

impl Scope {
    /// Everything that can come.
    pub const ANY: Self = Self {
        tags_in_skb: true,
        gso: true,
        big: true,
        payload_max: 1_600,
    };
    /// What `BPF_PROG_TEST_RUN` can carry.
    pub const TEST_RUN: Self = Self {
        tags_in_skb: false,
        big: false,
        ..Self::ANY
    };
    /// What goes through a packet socket.
    pub const LINK: Self = Self {
        tags_in_skb: false,
        gso: false,
        big: false,
        payload_max: 9_000,
    };
}

/// More than an IP header's length field can say.
const BIG: usize = 66_000;

/// Ports that a rule looks at, and some that none does.
const PORTS: [u16; 12] = [53, 67, 67, 68, 68, 443, 546, 547, 547, 4_789, 5_000, 40_000];

/// EtherTypes that are neither a tag, IP nor (R)ARP: LLDP, pause, LACP, EAPOL, MACsec, MPLS, PPPoE,
/// three QinQ TPIDs that are not octroi's, an 802.3 length, and the first value that is none.
const OTHER_TYPES: [u16; 13] = [
    0x88CC, 0x8808, 0x8809, 0x888E, 0x88E5, 0x8847, 0x8864, 0x9100, 0x9200, 0x88E7, 0x0026, 0x05FF,
    0x0600,
];

/// A frame.
pub fn frame(dice: &mut Dice, scope: Scope) -> Sample {
    let mut sample = Sample::default();
    if scope.tags_in_skb && dice.one_in(5) {
        sample.tag = Some(dice.word());
    }
    if scope.gso && dice.one_in(12) {
        sample.gso_size = dice.within(1, 1_448) as u16;
    }
    let big = scope.big && sample.gso_size != 0 && dice.one_in(16);
    let network = dice.weighted(&[(42, 4), (42, 6), (7, 0x0806), (3, 0x8035), (6, 0)]);
    let (ethertype, inner) = match network {
        4 => (0x0800, ipv4(dice, scope, big)),
        6 => (0x86DD, ipv6(dice, scope, big)),
        0x0806 | 0x8035 => (network, arp(dice)),
        _ => {
            let len = dice.below(120);
            (dice.pick(&OTHER_TYPES), Part::data(dice.bytes(len)))
        }
    };
    let tags: Vec<_> = (0..dice.weighted(&[(60, 0), (25, 1), (10, 2), (5, 3)]))
        .map(|_| (dice.pick(&[0x8100, 0x8100, 0x88A8]), tci(dice)))
        .collect();
    let mut frame = headers::ethernet(mac(dice), mac(dice), &tags, ethertype, inner);
    if !big {
        trail(dice, &mut frame.bytes);
    }
    Sample {
        bytes: frame.bytes,
        marks: frame.marks,
        ..sample
    }
}

fn mac(dice: &mut Dice) -> [u8; 6] {
    if dice.one_in(12) {
        dice.array()
    } else {
        dice.pick(&people::MACS)
    }
}

fn tci(dice: &mut Dice) -> u16 {
    if dice.one_in(3) {
        dice.word()
    } else {
        dice.pick(&[0, 100, 100, 100, 101, 0xE064, 4_095])
    }
}

/// What stands behind the packet: nothing, Ethernet's padding, or anything.
fn trail(dice: &mut Dice, bytes: &mut Vec<u8>) {
    match dice.below(6) {
        0 => bytes.resize(bytes.len().max(60), 0),
        1 => {
            let len = dice.within(1, 40);
            bytes.extend_from_slice(&dice.bytes(len));
        }
        _ => {}
    }
}

fn arp(dice: &mut Dice) -> Part {
    let operation = dice.pick(&[1, 1, 2, 2, 3, 4]);
    let sender = (mac(dice), address4(dice));
    headers::arp(operation, sender, (mac(dice), address4(dice)))
}

fn address4(dice: &mut Dice) -> [u8; 4] {
    if dice.one_in(12) {
        dice.array()
    } else {
        dice.pick(&people::ADDRESSES4)
    }
}

fn address6(dice: &mut Dice) -> [u8; 16] {
    if dice.one_in(12) {
        dice.array()
    } else {
        dice.pick(&people::ADDRESSES6)
    }
}

fn ipv4(dice: &mut Dice, scope: Scope, big: bool) -> Part {
    let (protocol, inner) = transport(dice, scope, big);
    let options = if dice.one_in(4) {
        4 * dice.within(1, 10)
    } else {
        0
    };
    let header = Ipv4 {
        src: address4(dice),
        dst: address4(dice),
        protocol,
        fragment: match dice.below(8) {
            0 => MORE_FRAGMENTS,
            1 => dice.within(1, 0x1FFF) as u16,
            2 => dice.within(1, 3) as u16 | MORE_FRAGMENTS,
            3 => 0xC000,
            _ => 0,
        },
        options: dice.bytes(options),
    };
    let mut packet = headers::ipv4(&header, inner);
    if big {
        packet.bytes[2..4].fill(0);
    }
    packet
}

fn ipv6(dice: &mut Dice, scope: Scope, big: bool) -> Part {
    let (mut next, mut inner) = transport(dice, scope, big);
    for _ in 0..dice.weighted(&[
        (50, 0),
        (15, 1),
        (12, 2),
        (8, 3),
        (5, 4),
        (3, 5),
        (3, 6),
        (2, 7),
        (2, 8),
    ]) {
        (next, inner) = extension(dice, next, inner);
    }
    // Hop-by-hop goes first, where it belongs; BIG TCP has one with a jumbo length (RFC 2675).
    if big && dice.one_in(2) {
        let mut hop_by_hop = headers::extension(next, 0, inner);
        hop_by_hop.bytes[2..4].copy_from_slice(&[0xC2, 4]);
        (next, inner) = (0, hop_by_hop);
    } else if dice.one_in(10) {
        (next, inner) = (0, headers::extension(next, units(dice), inner));
    }
    let header = Ipv6 {
        src: address6(dice),
        dst: address6(dice),
        next,
    };
    let mut packet = headers::ipv6(&header, inner);
    if big {
        packet.bytes[4..6].fill(0);
    }
    packet
}

fn units(dice: &mut Dice) -> u8 {
    if dice.one_in(20) {
        dice.byte()
    } else {
        dice.weighted(&[(6, 0), (2, 1), (2, 2), (1, 7)])
    }
}

/// An extension header in front of `inner`, which begins with a header of protocol `next`.
fn extension(dice: &mut Dice, next: u8, inner: Part) -> (u8, Part) {
    let kind = dice.pick(&[43, 44, 44, 51, 60, 60, 135, 139, 140]);
    let part = match kind {
        44 => {
            let (offset, more) = match dice.below(5) {
                0 => (0, false), // an atomic fragment
                1 => (dice.within(1, 3) as u16, dice.one_in(2)),
                2 => (dice.within(1, 0x1FFF) as u16, dice.one_in(2)),
                _ => (0, true),
            };
            headers::fragment6(next, offset, more, inner)
        }
        // On IPv6 a multiple of 8 bytes in all, but nobody checks that.
        51 => headers::authentication(next, units(dice).max(1), inner),
        _ => headers::extension(next, units(dice), inner),
    };
    (kind, part)
}

fn port(dice: &mut Dice) -> u16 {
    if dice.one_in(4) {
        dice.word()
    } else {
        dice.pick(&PORTS)
    }
}

/// A transport protocol's number and its packet.
fn transport(dice: &mut Dice, scope: Scope, big: bool) -> (u8, Part) {
    if big {
        // Half of them where 16 bits just suffice, or just do not.
        let (low, high) = dice.pick(&[(BIG, BIG + 4_000), (BIG - 600, BIG - 450)]);
        let payload = Part::zeros(dice.within(low, high));
        return (
            6,
            headers::tcp(
                port(dice),
                port(dice),
                0x10,
                &[1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0],
                payload,
            ),
        );
    }
    let protocol = dice.weighted(&[
        (30, 6),
        (30, 17),
        (8, 1),
        (18, 58),
        (4, 132),
        (2, 4),
        (2, 41),
        (2, 47),
        (2, 50),
        (1, 51),
        (1, 59),
        (1, 89),
        (1, 112),
        (1, 255),
    ]);
    let payload = payload(dice, scope);
    let part = match protocol {
        6 => {
            let options = if dice.one_in(2) {
                4 * dice.below(11)
            } else {
                0
            };
            let options = dice.bytes(options);
            headers::tcp(port(dice), port(dice), dice.byte(), &options, payload)
        }
        17 => headers::udp(port(dice), port(dice), payload),
        1 => headers::icmp(
            dice.pick(&[0, 3, 5, 8, 11, 13, 14]),
            dice.pick(&[0, 1, 3]),
            dice.array(),
            payload,
        ),
        58 => icmp6(dice, payload),
        132 => headers::sctp(port(dice), port(dice), payload),
        _ => payload,
    };
    (protocol, part)
}

fn payload(dice: &mut Dice, scope: Scope) -> Part {
    let len = match dice.below(10) {
        0 => 0,
        1 => dice.below(scope.payload_max + 1),
        _ => dice.below(48),
    };
    Part::data(dice.bytes(len))
}

/// ICMPv6, most often what neighbour discovery and MLD are made of.
fn icmp6(dice: &mut Dice, payload: Part) -> Part {
    let kind = dice.pick(&[
        1, 3, 128, 129, 130, 131, 132, 133, 134, 135, 135, 136, 136, 137, 143, 151,
    ]);
    let body = match kind {
        133 => options(dice),
        135 | 136 => Part::data(address6(dice).to_vec()).then(options(dice)),
        134 => Part::zeros(8).then(options(dice)),
        137 => Part::data([address6(dice), address6(dice)].concat()).then(options(dice)),
        131 | 132 => Part::data(address6(dice).to_vec()),
        _ => payload,
    };
    headers::icmp(kind, 0, dice.array(), body)
}

/// Options of a neighbour discovery message: none to six, mostly link-layer addresses.
fn options(dice: &mut Dice) -> Part {
    let mut all = Part::default();
    for _ in 0..dice.weighted(&[(4, 0), (6, 1), (3, 2), (1, 4), (1, 5), (1, 6)]) {
        let option = match dice.below(5) {
            0 => Part::data(vec![5, 1, 0, 0, 0, 0, 5, 0xDC]), // MTU
            1 => Part::data([&[14, 2], dice.bytes(14).as_slice()].concat()), // nonce (RFC 3971)
            _ => headers::nd_option(dice.pick(&[1, 1, 2]), mac(dice)),
        };
        all = all.then(option);
    }
    all
}
