//! Frames that no honest end sends, each with the canary in its payload.

use crate::sniffer::CANARY;
use octroi::lab::site::{REMOTE, mac};

const TENANT: usize = 1;

fn ethernet(kind: u16) -> Vec<u8> {
    [&mac(REMOTE)[..], &mac(TENANT), &kind.to_be_bytes()].concat()
}

/// Sum of 16-bit words, as IP, TCP and UDP want it.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks(2)
        .map(|two| u32::from(two[0]) << 8 | two.get(1).copied().map_or(0, u32::from));
    let sum: u32 = words.sum();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    (!((sum & 0xFFFF) + (sum >> 16)) as u16).to_be_bytes()
}

/// IPv4 from the tenant to the remote end. `fragment`: flags and offset of the header.
pub fn ipv4(protocol: u8, fragment: u16, options: &[u8], body: &[u8]) -> Vec<u8> {
    ipv4_numbered(0x0C70, protocol, fragment, options, body)
}

/// The same, with the packet's number.
pub fn ipv4_numbered(id: u16, protocol: u8, fragment: u16, options: &[u8], body: &[u8]) -> Vec<u8> {
    let mut header = vec![0x40 | ((20 + options.len()) as u8 / 4), 0];
    header.extend(((20 + options.len() + body.len()) as u16).to_be_bytes());
    header.extend(id.to_be_bytes());
    header.extend(fragment.to_be_bytes());
    header.extend([
        64,
        protocol,
        0,
        0,
        10,
        77,
        0,
        TENANT as u8,
        10,
        77,
        0,
        REMOTE as u8,
    ]);
    header.extend_from_slice(options);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [ethernet(0x0800), header, body.to_vec()].concat()
}

/// IPv6 likewise, behind extension headers: the number of each, and its bytes without the first.
pub fn ipv6(protocol: u8, extensions: &[(u8, &[u8])], body: &[u8]) -> Vec<u8> {
    let mut rest = body.to_vec();
    let mut next = protocol;
    for (kind, bytes) in extensions.iter().rev() {
        rest = [&[next], *bytes, &rest].concat();
        next = *kind;
    }
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((rest.len() as u16).to_be_bytes());
    header.extend([next, 64]);
    for end in [TENANT, REMOTE] {
        header.extend([0xFD, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end as u8]);
    }
    [ethernet(0x86DD), header, rest].concat()
}

/// A TCP header with these flags, and the canary behind it.
pub fn tcp(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![
        0x9C, 0x40, 0x01, 0xBB, 0, 0, 3, 0xE8, 0, 0, 0, 0, 0x50, flags, 4, 0, 0, 0, 0, 0,
    ];
    bytes.extend_from_slice(payload);
    bytes
}

pub fn udp(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x9C, 0x40, 0x01, 0xBB];
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend_from_slice(payload);
    bytes
}

/// Each with a name. None may reach the uplink under a rule that drops fragments.
pub fn frames() -> Vec<(&'static str, Vec<u8>)> {
    const MORE: u16 = 0x2000;
    let canary = CANARY.as_bytes();
    let options = [0, 1, 4, 0, 0, 0, 0];
    let two = |kind| [(kind, &options[..]), (60, &options[..])];
    let seven = [(60, &options[..]); 7];
    let first: &[u8] = &[0, 0, 1, 0, 0, 0, 7];
    let later: &[u8] = &[0, 0, 0x10, 0, 0, 0, 7];
    let whole: &[u8] = &[0, 0, 0, 0, 0, 0, 7];
    let segment = tcp(0x18, canary);
    vec![
        ("TCP out of nowhere", ipv4(6, 0, &[], &segment)),
        ("TCP behind IPv4 options", ipv4(6, 0, &[1; 40], &segment)),
        (
            "payload in a SYN (TFO)",
            ipv4(6, 0, &[], &tcp(0x02, canary)),
        ),
        ("payload in a SYN-ACK", ipv4(6, 0, &[], &tcp(0x12, canary))),
        ("payload in a RST", ipv4(6, 0, &[], &tcp(0x04, canary))),
        ("payload in a FIN", ipv4(6, 0, &[], &tcp(0x11, canary))),
        ("UDP", ipv4(17, 0, &[], &udp(canary))),
        ("a first fragment", ipv4(6, MORE, &[], &segment)),
        ("a tiny first fragment", ipv4(6, MORE, &[], &segment[..8])),
        ("a later fragment", ipv4(6, 0x00B9, &[], canary)),
        ("a fragment over the header", ipv4(6, 1, &[], canary)),
        ("a first fragment of UDP", ipv4(17, MORE, &[], &udp(canary))),
        (
            "GRE",
            ipv4(47, 0, &[], &[&[0, 0, 8, 0][..], canary].concat()),
        ),
        (
            "IP in IP",
            ipv4(4, 0, &[], &ipv4(17, 0, &[], &udp(canary))[14..]),
        ),
        (
            "VXLAN",
            ipv4(17, 0, &[], &{
                let mut overlay = udp(&[
                    &[8, 0, 0, 0, 0, 0, 7, 0][..],
                    &ipv4(17, 0, &[], &udp(canary)),
                ]
                .concat());
                overlay[2..4].copy_from_slice(&4_789_u16.to_be_bytes());
                overlay
            }),
        ),
        (
            "AH",
            ipv4(
                51,
                0,
                &[],
                &[
                    &[6, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1][..],
                    &[0; 12],
                    &segment,
                ]
                .concat(),
            ),
        ),
        (
            "ESP that is NULL",
            ipv4(
                50,
                0,
                &[],
                &[
                    &[0, 0, 1, 0, 0, 0, 0, 1][..],
                    &segment,
                    &[1, 2, 2, 6],
                    &[7; 16],
                ]
                .concat(),
            ),
        ),
        ("an unknown protocol", ipv4(253, 0, &[], canary)),
        ("TCP behind extension headers", ipv6(6, &two(0), &segment)),
        ("TCP behind too many of them", ipv6(6, &seven, &segment)),
        (
            "TCP behind a routing header",
            ipv6(6, &[(43, &[0, 4, 0, 0, 0, 0, 0])], &segment),
        ),
        ("an atomic fragment", ipv6(6, &[(44, whole)], &segment)),
        (
            "a first fragment of IPv6",
            ipv6(6, &[(44, first)], &segment),
        ),
        ("a later fragment of IPv6", ipv6(6, &[(44, later)], canary)),
        (
            "a fragment behind options",
            ipv6(17, &[(60, &options), (44, first)], &udp(canary)),
        ),
        ("no next header", ipv6(59, &[], canary)),
        (
            "an unknown ethertype",
            [ethernet(0x88B5), canary.to_vec()].concat(),
        ),
        (
            "MACsec with encryption, whose source nobody sees",
            [
                &ethernet(0x88E5)[..],
                &[0x2C, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 8, 0],
                canary,
            ]
            .concat(),
        ),
        (
            "clear text behind a packet",
            [&ipv4(17, 0, &[], &udp(&[4; 40]))[..], canary].concat(),
        ),
        (
            "an overlay in an overlay",
            ipv4(47, 0, &[], &{
                let inner = ipv4(
                    47,
                    0,
                    &[],
                    &[&[0, 0, 8, 0][..], &ipv4(17, 0, &[], &udp(canary))[14..]].concat(),
                );
                [&[0, 0, 8, 0][..], &inner[14..]].concat()
            }),
        ),
        (
            "GRE with routing",
            ipv4(
                47,
                0,
                &[],
                &[&[0x40, 0, 8, 0, 0, 0, 0, 0][..], canary].concat(),
            ),
        ),
        (
            "a mirror's frames (ERSPAN)",
            ipv4(
                47,
                0,
                &[],
                &[&[0x10, 0, 0x88, 0xBE, 0, 0, 0, 1][..], canary].concat(),
            ),
        ),
        (
            "Geneve with a canary for options",
            ipv4(17, 0, &[], &{
                let mut overlay = udp(&[
                    &[14, 0, 0x65, 0x58, 0, 0, 7, 0][..],
                    &CANARY.repeat(2).as_bytes()[..56],
                    &ipv4(17, 0, &[], &udp(canary)),
                ]
                .concat());
                overlay[2..4].copy_from_slice(&6_081_u16.to_be_bytes());
                overlay
            }),
        ),
        (
            "IPv6 in IPv4",
            ipv4(41, 0, &[], &ipv6(17, &[], &udp(canary))[14..]),
        ),
        (
            "IPv4 in IPv6 behind options",
            ipv6(4, &[(60, &options)], &ipv4(17, 0, &[], &udp(canary))[14..]),
        ),
        (
            "TCP in GRE behind extension headers of both",
            ipv6(
                47,
                &[(60, &options)],
                &[
                    &[0x20, 0, 0x86, 0xDD, 0, 0, 0, 1][..],
                    &ipv6(6, &two(0), &segment)[14..],
                ]
                .concat(),
            ),
        ),
        (
            "a mobility header before TCP",
            ipv6(6, &[(135, &[0, 5, 0, 0, 0, 0, 0])], &segment),
        ),
        (
            "hop-by-hop that is not the first",
            ipv6(6, &[(60, &options), (0, &options)], &segment),
        ),
        (
            "an extension header past the packet's end",
            ipv6(6, &[(60, &[200, 1, 4, 0, 0, 0, 0])], &segment),
        ),
        (
            "AH before TCP",
            ipv6(
                6,
                &[(
                    51,
                    &[
                        4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                    ],
                )],
                &segment,
            ),
        ),
        (
            "payload in a SYN that comes in fragments",
            ipv4(6, MORE, &[], &[&tcp(0x02, &[])[..], &[7; 44]].concat()),
        ),
        (
            "MACsec without encryption",
            [&ethernet(0x88E5)[..], &[0, 0, 0, 0, 0, 1, 8, 0], canary].concat(),
        ),
    ]
}
