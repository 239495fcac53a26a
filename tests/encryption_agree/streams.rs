//! Generated conversations: what the ends of each protocol say, then what goes wrong with it.

use super::{
    dice::Dice,
    frames::Shape,
    path::{client_hello, record, server_hello},
};
use dataplane_common::encryption::{Rule, Segment, accept, mode, tcp_flag};
use octroi::config::Profile;

/// Payload that a test run carries.
const PAYLOAD_MAX: usize = 3_000;

/// A packet: its segment without length and time, and its payload.
pub type Said = (Segment, Vec<u8>);

/// A rule, of any kind.
pub fn rule(dice: &mut Dice) -> Rule {
    let mut rule = Rule {
        mode: if dice.one_in(8) {
            mode::OBSERVE
        } else {
            mode::ENFORCE
        },
        evidence_min: dice.pick(&[1, 2, 2, 2, 3]),
        unverified_bytes: dice.pick(&[65_536, 256_000]),
        prefix_bytes: dice.pick(&[0, 40, 2_048]),
        unclassified_bytes: dice.pick(&[0, 0, 600]),
        unclassified_packets: dice.pick(&[0, 3]),
        ..Rule::default()
    };
    rule.prefix_ports[0] = 25;
    let profile = dice.pick(&[
        Profile::Anssi2026,
        Profile::Anssi2026,
        Profile::AnssiPq,
        Profile::Nist80052r2,
    ]);
    profile.fill(&mut rule);
    for bit in [
        accept::MIDSTREAM,
        accept::EARLY_DATA,
        accept::FRAGMENTS_TRACKED,
        accept::OPENVPN,
    ] {
        if dice.one_in(3) {
            rule.accepts |= bit;
        }
    }
    rule
}

fn text(dice: &mut Dice, len: usize) -> Vec<u8> {
    let clear = b"GET /index.html HTTP/1.1\r\nHost: remote.example\r\n";
    let skip = dice.below(20);
    clear.iter().cycle().skip(skip).take(len).copied().collect()
}

/// A record whose content is noise, or text.
fn sealed(dice: &mut Dice, kind: u8) -> Vec<u8> {
    let len = dice.weighted(&[(4, 1), (4, 20), (4, 100), (4, 300), (2, 1_500), (1, 6_000)]);
    let len = dice.within(len, len * 2);
    let content = if dice.one_in(12) {
        text(dice, len)
    } else {
        dice.bytes(len)
    };
    [vec![kind, 3, 3, (len >> 8) as u8, len as u8], content].concat()
}

/// What TLS says in both directions, in turn.
fn tls(dice: &mut Dice) -> Vec<(u32, Vec<u8>)> {
    let version = dice.weighted(&[(6, 0x0304), (4, 0x0303), (1, 0x0302)]);
    let suite = match version {
        0x0304 => dice.pick(&[0x1301, 0x1302, 0x1303, 0xC0B4]),
        _ => dice.pick(&[0xC02F, 0xC030, 0xCCA8, 0x009C]),
    };
    let group = (version == 0x0304).then(|| dice.pick(&[0x001D, 0x11EC, 0x0017, 0x0100]));
    let len = dice.within(60, 200);
    let mut said = vec![
        (0, client_hello(len)),
        (1, server_hello(version, suite, group)),
    ];
    if version == 0x0304 {
        if dice.one_in(3) {
            said.insert(1, (0, sealed(dice, 23)));
        }
        said.push((1, record(20, 1)));
    } else {
        said.push((1, record(22, 700)));
        for direction in [0, 1] {
            said.push((direction, record(20, 1)));
            said.push((direction, record(22, 40)));
        }
    }
    for _ in 0..dice.below(24) {
        let kind = dice.weighted(&[(30, 23), (2, 21), (1, 22), (1, 20)]);
        said.push((dice.below(2) as u32, sealed(dice, kind)));
    }
    said
}

fn ssh(dice: &mut Dice) -> Vec<(u32, Vec<u8>)> {
    let packet = |dice: &mut Dice, kind: u8| {
        let len = dice.within(6, 900);
        let mut bytes = (len as u32).to_be_bytes().to_vec();
        bytes.extend([4, kind]);
        bytes.extend(dice.bytes(len - 2));
        bytes
    };
    let mut said = Vec::new();
    for direction in [1, 0] {
        said.push((direction, b"SSH-2.0-octroi_1.0\r\n".to_vec()));
    }
    for kind in [20, 30, 31, 21] {
        let kind = if dice.one_in(30) { dice.byte() } else { kind };
        for direction in [0, 1] {
            said.push((direction, packet(dice, kind)));
        }
    }
    for _ in 0..dice.below(8) {
        let len = dice.within(20, 900);
        said.push((dice.below(2) as u32, dice.bytes(len)));
    }
    said
}

/// A protocol in clear, or one that asks for TLS first.
fn clear(dice: &mut Dice) -> Vec<(u32, Vec<u8>)> {
    let postgres = |code: u32| [8_u32.to_be_bytes(), code.to_be_bytes()].concat();
    let first = match dice.below(8) {
        0 => postgres(80_877_103),
        1 => postgres(80_877_104),
        2 => postgres(196_608),
        3 => b"EHLO tenant.example\r\n".to_vec(),
        4 => b"MAIL FROM:<a@tenant.example>\r\n".to_vec(),
        5 => b"AUTH TLS\r\n".to_vec(),
        6 => text(dice, 60),
        _ => {
            let len = dice.within(1, 300);
            dice.bytes(len)
        }
    };
    let answer = dice.pick(&[
        &b"S"[..],
        b"N",
        b"220 mail.example\r\n",
        b"234 go ahead\r\n",
    ]);
    let mut said = vec![(0, first), (1, answer.to_vec())];
    if dice.one_in(2) {
        said.extend(tls(dice));
    } else {
        said.push((0, text(dice, 400)));
    }
    said
}

/// Segments of what is said: cut, and some lost, late, repeated or changed.
pub fn over_tcp(dice: &mut Dice) -> Vec<Said> {
    let whole = match dice.weighted(&[(12, 0), (4, 1), (4, 2), (1, 3)]) {
        0 => tls(dice),
        1 => ssh(dice),
        2 => clear(dice),
        _ => (0..10).map(|at| (at & 1, sealed(dice, 23))).collect(),
    };
    let mut next = [dice.roll() as u32, dice.roll() as u32];
    let mut packets = Vec::new();
    let packet = |seq: [u32; 2], direction: u32, flags: u8| Segment {
        seq: seq[direction as usize],
        ack: seq[(direction ^ 1) as usize],
        direction,
        flags,
        ..Segment::default()
    };
    // The tenant is the client or the server.
    let client = dice.weighted(&[(4, 0), (1, 1)]);
    if !dice.one_in(12) {
        let mut before = next;
        for seq in &mut before {
            *seq = seq.wrapping_sub(1);
        }
        let payload = if dice.one_in(40) {
            b"early".to_vec()
        } else {
            Vec::new()
        };
        packets.push((packet(before, client, tcp_flag::SYN), payload));
        let mut answer = before;
        answer[client as usize] = next[client as usize];
        packets.push((
            packet(answer, client ^ 1, tcp_flag::SYN | tcp_flag::ACK),
            Vec::new(),
        ));
    }
    let most = dice.pick(&[1, 7, 60, 500, 1_448, PAYLOAD_MAX]);
    for (direction, bytes) in whole {
        let direction = direction ^ client;
        // Short segments of long records would be all that is tried.
        let most = if bytes.len() > 40 * most { 1_448 } else { most };
        for piece in bytes.chunks(dice.within(1, most).max(most / 2)) {
            packets.push((packet(next, direction, tcp_flag::ACK), piece.to_vec()));
            let side = direction as usize;
            next[side] = next[side].wrapping_add(piece.len() as u32);
        }
    }
    spoil(dice, &mut packets);
    packets
}

fn spoil(dice: &mut Dice, packets: &mut Vec<Said>) {
    let rate = dice.pick(&[1_000_000, 60, 12]);
    let mut at = 2;
    while at + 1 < packets.len() {
        if dice.one_in(rate) {
            match dice.below(6) {
                0 => drop(packets.remove(at)),
                1 => packets.swap(at, at + 1),
                2 => {
                    let again = packets[at].clone();
                    packets.insert(at, again);
                }
                3 => {
                    let len = packets[at].1.len();
                    packets[at].1 = text(dice, len);
                }
                4 => {
                    // Longer at its beginning: it overlaps what came before.
                    let more = dice.within(1, 50);
                    packets[at].0.seq = packets[at].0.seq.wrapping_sub(more as u32);
                    let bytes = dice.bytes(more);
                    packets[at].1.splice(0..0, bytes);
                }
                _ => {
                    let len = packets[at].1.len().max(1);
                    let place = dice.below(len);
                    if let Some(byte) = packets[at].1.get_mut(place) {
                        *byte = dice.byte();
                    }
                }
            }
        }
        at += 1;
    }
    for (segment, payload) in packets.iter_mut() {
        if dice.one_in(200) {
            segment.flags = dice.pick(&[
                tcp_flag::RST,
                tcp_flag::FIN | tcp_flag::ACK,
                tcp_flag::SYN,
                0,
            ]);
        }
        payload.truncate(PAYLOAD_MAX);
    }
}

fn datagram(direction: u32, payload: Vec<u8>) -> Said {
    let segment = Segment {
        direction,
        ..Segment::default()
    };
    (segment, payload)
}

fn wireguard(dice: &mut Dice) -> Vec<Said> {
    let mut indices = [dice.roll() as u32, dice.roll() as u32];
    let head = |kind: u8, index: u32| [vec![kind, 0, 0, 0], index.to_be_bytes().to_vec()].concat();
    let mut said = Vec::new();
    for _ in 0..dice.within(1, 4) {
        let from = dice.below(2) as u32;
        let side = from as usize;
        for _ in 0..dice.within(1, 3) {
            indices[side] = dice.roll() as u32;
            said.push(datagram(
                from,
                [head(1, indices[side]), dice.bytes(140)].concat(),
            ));
        }
        if !dice.one_in(6) {
            indices[side ^ 1] = dice.roll() as u32;
            let receiver = indices[side].to_be_bytes().to_vec();
            let answer = [head(2, indices[side ^ 1]), receiver, dice.bytes(80)].concat();
            said.push(datagram(from ^ 1, answer));
        }
        for _ in 0..dice.below(12) {
            let direction = dice.below(2) as u32;
            let index = indices[(direction ^ 1) as usize];
            let kind = dice.weighted(&[(20, 4), (1, 3), (1, 7)]);
            let len = dice.pick(&[24, 56, 100, 300, 1_400]);
            let inner = if dice.one_in(10) {
                text(dice, len)
            } else {
                dice.bytes(len)
            };
            said.push(datagram(
                direction,
                [head(kind, index), vec![0; 8], inner].concat(),
            ));
        }
    }
    said
}

fn quic(dice: &mut Dice) -> Vec<Said> {
    let version = dice.weighted(&[(4, 1_u32), (4, 0x6B33_43CF), (1, 0), (1, 0xFF00_001D)]);
    let kind = if version == 0x6B33_43CF { 0xD0 } else { 0xC0 };
    let long = |dice: &mut Dice, first: u8, len: usize| {
        let ids = [dice.pick(&[8_u8, 20, 0, 21]), dice.pick(&[0_u8, 8, 20])];
        let mut bytes = vec![first];
        bytes.extend(version.to_be_bytes());
        for id in ids {
            bytes.push(id);
            bytes.extend(dice.bytes(id.into()));
        }
        let rest = dice.bytes(len);
        bytes.extend(rest);
        bytes
    };
    let mut said = Vec::new();
    for (direction, first) in [(0, kind), (1, kind), (1, kind | 0x20), (0, kind | 0x20)] {
        let len = dice.pick(&[1_200, 1_200, 1_200, 600]);
        said.push(datagram(direction, long(dice, first, len)));
    }
    for _ in 0..dice.below(16) {
        let len = dice.pick(&[20, 60, 200, 1_200]);
        let mut bytes = if dice.one_in(10) {
            text(dice, len)
        } else {
            dice.bytes(len)
        };
        bytes[0] = bytes[0] & 0x7F | 0x40;
        said.push(datagram(dice.below(2) as u32, bytes));
    }
    said
}

fn dtls(dice: &mut Dice) -> Vec<Said> {
    let record = |dice: &mut Dice, kind: u8, epoch: u8, content: Vec<u8>| {
        let mut bytes = vec![kind, 0xFE, 0xFD, 0, epoch];
        bytes.extend(dice.bytes(6));
        bytes.extend((content.len() as u16).to_be_bytes());
        bytes.extend(content);
        bytes
    };
    let hello = |dice: &mut Dice, kind: u8, version: u16| {
        let mut bytes = vec![kind, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 80];
        bytes.extend(version.to_be_bytes());
        bytes.extend(dice.bytes(78));
        bytes
    };
    let version = dice.weighted(&[(6, 0xFEFD), (1, 0xFEFF)]);
    let mut said = Vec::new();
    for (direction, kind) in [(0, 1), (1, 3), (0, 1), (1, 2), (1, 11), (0, 16)] {
        let content = hello(dice, kind, version);
        said.push(datagram(direction, record(dice, 22, 0, content)));
    }
    for _ in 0..dice.below(16) {
        let len = dice.pick(&[20, 100, 300, 1_200]);
        let content = if dice.one_in(10) {
            text(dice, len)
        } else {
            dice.bytes(len)
        };
        let (kind, epoch) =
            dice.weighted(&[(20, (23, 1)), (1, (23, 0)), (1, (25, 1)), (1, (44, 0))]);
        said.push(datagram(
            dice.below(2) as u32,
            record(dice, kind, epoch, content),
        ));
    }
    said
}

/// IKE on its ports, and ESP in UDP behind a NAT.
fn ike(dice: &mut Dice, nat: bool) -> Vec<Said> {
    let message = |dice: &mut Dice, next: u8, exchange: u8, len: usize| {
        let marker = if nat { 4 } else { 0 };
        let mut bytes = vec![0; marker];
        bytes.extend(dice.bytes(16));
        let version = dice.weighted(&[(20, 0x20), (1, 0x10)]);
        bytes.extend([next, version, exchange, 8, 0, 0, 0, 1]);
        let claimed = dice.weighted(&[(20, len + 28), (1, len)]) as u32;
        bytes.extend(claimed.to_be_bytes());
        let content = dice.bytes(len);
        bytes.extend(content);
        bytes
    };
    let mut said = Vec::new();
    for round in 0..dice.within(1, 12) {
        let from = round as u32 & 1;
        let (next, exchange) = dice.weighted(&[
            (4, (33, 34)),
            (8, (46, 35)),
            (2, (46, 37)),
            (1, (41, 37)),
            (1, (46, 99)),
        ]);
        let len = dice.pick(&[8, 60, 300, 1_400]);
        said.push(datagram(from, message(dice, next, exchange, len)));
        if nat && dice.one_in(2) {
            let len = dice.pick(&[1, 60, 500]);
            let esp = if len == 1 {
                vec![0xFF]
            } else {
                dice.bytes(len)
            };
            said.push(datagram(from ^ 1, esp));
        }
    }
    said
}

fn openvpn(dice: &mut Dice) -> Vec<Said> {
    let packet = |dice: &mut Dice, opcode: u8, len: usize| {
        let content = if dice.one_in(10) {
            text(dice, len)
        } else {
            dice.bytes(len)
        };
        [vec![opcode << 3], content].concat()
    };
    let mut said = vec![
        datagram(0, packet(dice, 7, 13)),
        datagram(1, packet(dice, 8, 25)),
    ];
    for _ in 0..dice.below(24) {
        let opcode = dice.weighted(&[(3, 4), (3, 5), (12, 9), (2, 6), (1, 3), (1, 2), (1, 7)]);
        let len = dice.pick(&[9, 21, 100, 400, 1_400]);
        said.push(datagram(dice.below(2) as u32, packet(dice, opcode, len)));
    }
    said
}

/// Datagrams of a conversation.
pub fn over_udp(dice: &mut Dice, shape: &Shape) -> Vec<Said> {
    let ports = shape.ports;
    if ports.contains(&500) || ports.contains(&4_500) {
        return ike(dice, ports.contains(&4_500));
    }
    let mut said = match dice.below(8) {
        7 => openvpn(dice),
        0 | 1 => wireguard(dice),
        2 | 3 => quic(dice),
        4 | 5 => dtls(dice),
        _ => (0..dice.within(1, 6))
            .map(|at| {
                let len = dice.below(300);
                datagram(
                    at as u32 & 1,
                    if dice.one_in(2) {
                        text(dice, len)
                    } else {
                        dice.bytes(len)
                    },
                )
            })
            .collect(),
    };
    let rate = dice.pick(&[1_000_000, 60, 12]);
    let mut at = 0;
    while at + 1 < said.len() {
        if dice.one_in(rate) {
            match dice.below(4) {
                0 => drop(said.remove(at)),
                1 => said.swap(at, at + 1),
                2 => said[at].1.truncate(dice.below(200)),
                _ => {
                    let len = said[at].1.len().clamp(1, 30);
                    let place = dice.below(len);
                    if let Some(byte) = said[at].1.get_mut(place) {
                        *byte = dice.byte();
                    }
                }
            }
        }
        at += 1;
    }
    said
}
