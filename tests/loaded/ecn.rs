//! Congestion Experienced in the loaded programs: which packets are marked, that their checksum stays right, and that each is
//! counted.

use crate::thin::{BURST, Port};
use crate::{
    EPOCH, dice, kernel,
    oracle::{
        headers::{self, Ipv4, Ipv6, Part},
        people,
    },
    place,
};
use anyhow::{Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions};
use dataplane::{attach::Mechanism, registers::Reader};
use dataplane_common::abi::{TO_TENANT, shape};

/// ECT(0), and Congestion Experienced.
const ECT0: u8 = 2;
const CE: u8 = 3;

/// A full TCP segment to the tenant with these two bits, as IPv4 or IPv6.
fn frame(version: u8, ecn: u8, port: u16, len: usize) -> Vec<u8> {
    let ip_bytes = if version == 4 { 20 } else { 40 };
    let data = headers::tcp(port, 443, 0x10, &[], Part::zeros(len - 14 - ip_bytes - 20));
    let (kind, ip) = if version == 4 {
        let header = Ipv4 {
            src: people::GATEWAY4,
            dst: people::OWN4,
            protocol: 6,
            ..Ipv4::default()
        };
        (0x0800, headers::ipv4(&header, data))
    } else {
        let header = Ipv6 {
            src: people::GATEWAY6,
            dst: people::OWN6,
            next: 6,
        };
        (0x86DD, headers::ipv6(&header, data))
    };
    let mut bytes = headers::ethernet(people::OWN, people::GATEWAY, &[], kind, ip).bytes;
    if version == 4 {
        bytes[15] = bytes[15] & !3 | ecn;
        bytes[24..26].fill(0);
        let sum = checksum(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        // The traffic class straddles the first two bytes.
        bytes[15] = bytes[15] & !0x30 | ecn << 4;
    }
    bytes
}

/// RFC 1071, of an IPv4 header.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2);
    let sum: u32 = words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    !((folded & 0xFFFF) + (folded >> 16)) as u16
}

/// The two bits of a frame.
fn bits(frame: &[u8]) -> u8 {
    match frame[12] {
        0x08 => frame[15] & 3,
        _ => frame[15] >> 4 & 3,
    }
}

/// Sends it; what came out, if it passed.
fn send(port: &mut Port, frame: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut out = vec![0; frame.len()];
    let context = kernel::context(&port.way);
    let program = port.kernel.program(TO_TENANT)?;
    let ran = program.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    })?;
    Ok((ran.return_value != 2).then_some(out))
}

fn case(mechanism: Mechanism, version: u8, shape: u16) -> Result<u64> {
    let mut port = Port::new(mechanism, shape)?;
    let (mut marked, mut not) = (0_u64, 0_u64);
    // At 1 Mbit/s a full frame takes 12 ms: the first ones are thin, and what follows them has a queue before it. Where
    // nothing waits, a mark comes at half the burst.
    let (first, last) = match shape {
        shape::POLICE => (BURST / 2 / 1_514 + 4, BURST * 7 / 8 / 1_514 - 2),
        _ => (5, 20),
    };
    for number in 0..last {
        let sent = frame(version, ECT0, 1_000, 1_514);
        let Some(out) = send(&mut port, &sent)? else {
            break;
        };
        let expected = match bits(&out) {
            CE => {
                marked += 1;
                frame(version, CE, 1_000, 1_514)
            }
            _ => sent,
        };
        // Nothing else of it changed, and the header's checksum is of what it says now.
        ensure!(
            out == expected,
            "frame {number} of IPv{version}: {:02x?}",
            &out[..54]
        );
        ensure!(
            version == 6 || checksum(&out[14..34]) == 0,
            "the checksum of frame {number}"
        );
        ensure!(
            number < first || bits(&out) == CE,
            "frame {number} was not marked"
        );
        let early = number == 0 || (shape == shape::POLICE && number < first - 6);
        ensure!(!early || bits(&out) == ECT0, "frame {number} was marked");
    }
    ensure!(marked >= last - first, "only {marked} were marked");
    // A conversation that keeps nothing waiting.
    let thin = send(&mut port, &frame(version, ECT0, 2_000, 90))?;
    ensure!(
        thin.is_some_and(|out| bits(&out) == ECT0),
        "a thin packet was marked"
    );
    // Who does not listen is not told, and is counted; who was told before counts as told.
    for (ecn, was) in [(0, &mut not), (CE, &mut marked)] {
        let sent = frame(version, ecn, 1_000, 1_514);
        let out = send(&mut port, &sent)?;
        ensure!(out.is_none_or(|out| out == sent), "it was changed");
        *was += 1;
    }
    let mut reader = Reader::new(&port.kernel.maps, &port.sizes);
    let read = reader.read(port.slot, TO_TENANT)?;
    let refused: u64 = read.drops.iter().map(|(_, drops)| drops.packets).sum();
    ensure!(refused == 0, "{read:?}");
    ensure!(
        (read.ecn.marked, read.ecn.not_marked) == (marked, not),
        "{marked} were marked and {not} were not: {read:?}"
    );
    Ok(marked + not)
}

#[test]
fn packets_over_a_queue_are_marked_and_counted() -> Result<()> {
    const TEST: &str = "packets_over_a_queue_are_marked_and_counted";
    if !place::can_run(TEST) {
        return Ok(());
    }
    ensure!(EPOCH.bank() < 2);
    let rounds = dice::cases(1, 3, 30);
    let mut cases = 0;
    for mechanism in kernel::mechanisms() {
        for _ in 0..rounds {
            for version in [4, 6] {
                for shape in [shape::POLICE, shape::HTB] {
                    cases += place::alone(|| case(mechanism, version, shape))?;
                }
            }
        }
    }
    println!("CASES: packets over a queue, marked or counted: {cases}");
    Ok(())
}
