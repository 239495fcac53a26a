//! Frames around a payload: with options, extension headers and padding, in tunnels and in fragments, so that where the
//! payload begins differs.

use super::{
    dice::Dice,
    kernel::{IPV4, MACS, ipv6},
};
use dataplane_common::encryption::{Segment, fragment};

/// Frames up to this length may have something behind their packet.
const PADDED: usize = 72;

/// What a conversation is inside of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    Vxlan,
    Geneve,
    Gre,
    GreBridged,
    Ip,
}

/// What stays the same in a conversation.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub v6: bool,
    pub tcp: bool,
    /// Of the tenant and of the other end.
    pub ports: [u16; 2],
    pub tunnel: Option<Tunnel>,
    /// The tunnel is over IPv6.
    outer_v6: bool,
    /// Of ten packets, so many come in fragments.
    cut: usize,
}

impl Shape {
    pub fn drawn(dice: &mut Dice) -> Self {
        let tunnels = [
            Tunnel::Vxlan,
            Tunnel::Geneve,
            Tunnel::Gre,
            Tunnel::GreBridged,
            Tunnel::Ip,
        ];
        let tcp = !dice.one_in(3);
        let far = if tcp {
            dice.pick(&[443, 25])
        } else {
            dice.weighted(&[(6, 443), (1, 500), (1, 4_500)])
        };
        Self {
            v6: dice.one_in(2),
            tcp,
            ports: [dice.pick(&[40_000, 25]), far],
            tunnel: dice.one_in(3).then(|| dice.pick(&tunnels)),
            outer_v6: dice.one_in(2),
            cut: dice.pick(&[0, 0, 3, 10]),
        }
    }
}

/// A packet, or a fragment of one.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// Where it stands; `None`: it is whole.
    pub place: Option<fragment::Piece>,
    /// Of the transport's payload, what is in it.
    pub bytes: Vec<u8>,
    /// Bytes of what is cut that are in it.
    pub len: u32,
    /// The transport's whole payload, bytes.
    pub payload: u32,
}

/// The frames that carry `payload` as `segment` says: one, or several fragments, of which some are lost, late or repeated.
/// `number`: of the packet in its conversation.
pub fn frames(
    dice: &mut Dice,
    shape: &Shape,
    number: usize,
    segment: &Segment,
    payload: &[u8],
) -> Vec<(Vec<u8>, Piece)> {
    let from = (segment.direction & 1) as usize;
    let transport = transport(dice, shape, segment, payload);
    let header = transport.len() - payload.len();
    if payload.len() < 100 || dice.below(10) >= shape.cut {
        let piece = Piece {
            place: None,
            bytes: payload.to_vec(),
            len: transport.len() as u32,
            payload: payload.len() as u32,
        };
        let packet = network(dice, shape, from, None, &transport);
        return vec![(framed(dice, shape, from, &packet), piece)];
    }
    // Of IPv6, destination options may stand in what is cut.
    let options: &[u8] = if shape.v6 && dice.one_in(4) {
        &[0, 0, 1, 4, 0, 0, 0, 0]
    } else {
        &[]
    };
    let mut whole = options.to_vec();
    if let Some(next) = whole.first_mut() {
        *next = if shape.tcp { 6 } else { 17 };
    }
    whole.extend(transport);
    let origin = options.len() + header;
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < whole.len() {
        // The first has the transport's header; some are tiny.
        let least = if at == 0 {
            12
        } else {
            dice.pick(&[8, 8, 8, 3])
        };
        let len = (dice.within(least, 60) * 8).min(whole.len() - at);
        pieces.push((at, len));
        at += len;
    }
    let last = pieces.len() - 1;
    match dice.below(8) {
        0 => drop(pieces.remove(dice.below(last + 1))),
        1 => pieces.swap(dice.below(last + 1), last),
        2 => pieces.push(pieces[dice.below(last + 1)]),
        3 => {
            // It begins in what came before.
            let (at, len) = pieces[last];
            if at > 8 {
                pieces[last] = (at - 8, len + 8);
            }
        }
        _ => {}
    }
    let id = number as u32 + 1;
    let framed = pieces.into_iter().map(|(at, len)| {
        let place = fragment::Piece {
            id,
            offset: at as u32,
            more: u32::from(at + len < whole.len()),
            start: 0,
        };
        let part = &whole[at..at + len];
        let packet = network(dice, shape, from, Some((&place, !options.is_empty())), part);
        let piece = Piece {
            // Of IPv6 such a one is an atomic fragment (RFC 6946), which is a whole packet.
            place: (at != 0 || place.more != 0).then_some(place),
            bytes: part[if at == 0 { origin } else { 0 }..].to_vec(),
            len: len as u32,
            payload: payload.len() as u32,
        };
        (framed(dice, shape, from, &packet), piece)
    });
    framed.collect()
}

fn transport(dice: &mut Dice, shape: &Shape, segment: &Segment, payload: &[u8]) -> Vec<u8> {
    let from = (segment.direction & 1) as usize;
    let mut transport = Vec::with_capacity(payload.len() + 60);
    transport.extend(shape.ports[from].to_be_bytes());
    transport.extend(shape.ports[from ^ 1].to_be_bytes());
    if shape.tcp {
        let options = dice.pick(&[0, 0, 12, 4, 40]);
        transport.extend(segment.seq.to_be_bytes());
        transport.extend(segment.ack.to_be_bytes());
        let header = ((20 + options) as u8 / 4) << 4;
        transport.extend([header, segment.flags, 4, 0, 0, 0, 0, 0]);
        // NOP: what options say does not matter here.
        transport.extend(vec![1; options]);
    } else {
        transport.extend((payload.len() as u16 + 8).to_be_bytes());
        transport.extend([0, 0]);
    }
    transport.extend_from_slice(payload);
    transport
}

/// An IP packet around what it carries, or a part of that.
fn network(
    dice: &mut Dice,
    shape: &Shape,
    from: usize,
    cut: Option<(&fragment::Piece, bool)>,
    body: &[u8],
) -> Vec<u8> {
    let to = from ^ 1;
    let protocol = if shape.tcp { 6 } else { 17 };
    if shape.v6 {
        let mut packet = vec![0x60, 0, 0, 0];
        let mut next = protocol;
        // Hop-by-hop options, then destination options.
        let extensions: &[u8] = dice.pick(&[&[][..], &[], &[60], &[0, 60]]);
        let mut headers = Vec::new();
        if let Some((piece, options)) = cut {
            let inside = if options { 60 } else { protocol };
            let field = piece.offset as u16 | piece.more as u16;
            headers = [
                &[inside, 0][..],
                &field.to_be_bytes(),
                &piece.id.to_be_bytes(),
            ]
            .concat();
            next = 44;
        }
        for kind in extensions.iter().rev() {
            let mut header = vec![next, 0, 1, 4, 0, 0, 0, 0];
            if dice.one_in(2) {
                header = [&[next, 1, 1, 12][..], &[0; 12]].concat();
            }
            headers = [header, headers].concat();
            next = *kind;
        }
        packet.extend(((headers.len() + body.len()) as u16).to_be_bytes());
        packet.extend([next, 64]);
        packet.extend(ipv6(from));
        packet.extend(ipv6(to));
        packet.extend(headers);
        packet.extend(body);
        return packet;
    }
    let options = dice.pick(&[0, 0, 0, 4, 40]);
    let mut packet = vec![0x40 | ((20 + options) as u8 / 4), 0];
    packet.extend(((20 + options + body.len()) as u16).to_be_bytes());
    let (id, field) = cut.map_or((0, 0x4000), |(piece, _)| {
        let more = (piece.more as u16) << 13;
        (piece.id as u16, more | (piece.offset / 8) as u16)
    });
    packet.extend(id.to_be_bytes());
    packet.extend(field.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(IPV4[from]);
    packet.extend(IPV4[to]);
    packet.extend(vec![1; options]);
    packet.extend(body);
    packet
}

fn ethertype(v6: bool) -> [u8; 2] {
    if v6 { [0x86, 0xDD] } else { [0x08, 0x00] }
}

/// The frame of a packet, through the tunnel if there is one.
fn framed(dice: &mut Dice, shape: &Shape, from: usize, packet: &[u8]) -> Vec<u8> {
    let ethernet = |v6: bool, packet: &[u8], dice: &mut Dice| {
        let mut frame = [MACS[from ^ 1], MACS[from]].concat();
        frame.extend(ethertype(v6));
        frame.extend(packet);
        if dice.one_in(8) && frame.len() < PADDED {
            // Behind the packet, as the shortest frames have it: nobody may read it.
            let behind = dice.within(1, PADDED - frame.len());
            frame.extend(b"GET / HTTP/1.1\r\nHost: a.example\r\n".iter().take(behind));
        }
        frame
    };
    let Some(tunnel) = shape.tunnel else {
        return ethernet(shape.v6, packet, dice);
    };
    let bridged = ethernet(shape.v6, packet, dice);
    let kind = ethertype(shape.v6);
    let udp = |port: u16, header: &[u8]| {
        let mut bytes = [0xC0_u8, 0x01].to_vec();
        bytes.extend(port.to_be_bytes());
        bytes.extend(((8 + header.len() + bridged.len()) as u16).to_be_bytes());
        bytes.extend([0, 0]);
        [&bytes[..], header, &bridged].concat()
    };
    let (protocol, body) = match tunnel {
        Tunnel::Vxlan => (17, udp(4_789, &[8, 0, 0, 0, 0, 0, 7, 0])),
        Tunnel::Geneve => {
            let options = dice.pick(&[0, 2, 4]);
            let mut header = vec![options, 0, 0x65, 0x58, 0, 0, 7, 0];
            header.extend(vec![0; usize::from(options) * 4]);
            (17, udp(6_081, &header))
        }
        Tunnel::Gre => {
            let header: &[u8] = dice.pick(&[&[0, 0][..], &[0xB0, 0]]);
            let fields = if header[0] == 0 { 0 } else { 12 };
            let mut body = [header, &kind, &vec![0; fields][..]].concat();
            body.extend(packet);
            (47, body)
        }
        Tunnel::GreBridged => (47, [&[0, 0, 0x65, 0x58][..], &bridged].concat()),
        Tunnel::Ip => (if shape.v6 { 41 } else { 4 }, packet.to_vec()),
    };
    let mut frame = [MACS[from ^ 1], MACS[from]].concat();
    frame.extend(ethertype(shape.outer_v6));
    if shape.outer_v6 {
        frame.extend([0x60, 0, 0, 0]);
        frame.extend((body.len() as u16).to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend(ipv6(from));
        frame.extend(ipv6(from ^ 1));
    } else {
        frame.extend([0x45, 0]);
        frame.extend(((20 + body.len()) as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend(IPV4[from]);
        frame.extend(IPV4[from ^ 1]);
    }
    frame.extend(body);
    frame
}
