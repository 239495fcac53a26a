//! The classifier on streams of a real TLS implementation, cut into segments of every size, lost, repeated and
//! reordered before and behind the gate; and on what must not pass. On the host: the loaded programs run the same code
//! (`tests/encryption.rs`).

#[path = "oracle/dice.rs"]
#[allow(dead_code, reason = "written for tests/parser.rs")]
mod dice;
#[path = "encryption/ends.rs"]
mod ends;
#[path = "encryption/path.rs"]
mod path;
mod support;

use anyhow::{Result, ensure};
use dataplane_common::encryption::{Bytes, Class, Rule, Segment, Why, tcp, tcp_flag};
use dice::Dice;
use ends::{Versions, credentials};
use octroi::config::Profile;
use path::{Faults, Gate, Talk, exchange, rule};
use support::by_level;

#[test]
fn what_the_rule_allows_is_never_broken() -> Result<()> {
    let Some(credentials) = credentials("encryption_streams")? else {
        return Ok(());
    };
    let rounds = by_level(60, 400, 20_000);
    let mut worst = 0_u64;
    let mut unverified = 0;
    let mut checked = 0;
    for seed in 0..rounds {
        let faults = match seed % 4 {
            0 => Faults::none(),
            1 => Faults {
                lost_before: 20,
                lost_behind: 0,
                again: 10,
                late: 0,
            },
            2 => Faults {
                lost_before: 10,
                lost_behind: 20,
                again: 10,
                late: 10,
            },
            _ => Faults {
                lost_before: 0,
                lost_behind: 10,
                again: 0,
                late: 30,
            },
        };
        let versions = [Versions::Both, Versions::Only12, Versions::Retry][(seed / 4 % 3) as usize];
        let gate = Gate::new(rule(Profile::Anssi2026));
        let done = exchange(&credentials, gate, versions, faults, seed)?;
        worst = worst.max(done.unverified);
        unverified += done.unverified;
        checked += done.bytes;
        if faults == Faults::none() {
            ensure!(
                done.refused == 0 && done.unverified == 0,
                "seed {seed}: {done:?}"
            );
        }
        ensure!(done.records > 0, "seed {seed}: nothing is E3: {done:?}");
    }
    println!(
        "CASES: conversations of rustls through faults: {rounds} ({checked} bytes, {unverified} of them unverified, {worst} at most in one)"
    );
    Ok(())
}

/// A conversation whose SYNs were seen; the client is the tenant.
fn open(rule: Rule) -> Gate {
    let mut gate = Gate::new(rule);
    gate.open(1_000, 9_000);
    gate
}

#[test]
fn clear_text_is_refused_at_its_first_byte() {
    let clear: [&[u8]; 44] = [
        b"GET / HTTP/1.1\r\n",
        b"POST /x HTTP/1.0\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"220 mail.example ESMTP\r\n",
        b"EHLO x\r\n",
        b"+OK POP3 ready\r\n",
        b"* OK IMAP4 ready\r\n",
        b"a1 LOGIN u p\r\n",
        b"USER anonymous\r\n",
        b"NICK a\r\n",
        b"CAP LS 302\r\n",
        b"<?xml version='1.0'?><stream>",
        b"<stream:stream>",
        b"{\"jsonrpc\":\"2.0\"}",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"\x4a\x00\x00\x00\x0a5.7.1\x00",
        b"\x03\x00\x00\x13\x0e\xe0\x00\x00",
        b"RFB 003.008\n",
        b"\x05\x01\x00",
        b"\x04\x01\x00\x50",
        b"CONNECT x:443 HTTP/1.1\r\n",
        b"OPTIONS rtsp://a.example RTSP/1.0\r\n",
        b"INVITE sip:a.example SIP/2.0\r\n",
        b"\x00\x85\xffSMBr",
        b"\xfeSMB",
        b"MZ\x90\x00",
        b"\x7fELF",
        b"PK\x03\x04",
        b"\x1f\x8b\x08",
        b"\xff\xd8\xff\xe0",
        b"%PDF-1.7",
        b"\x10\x0e\x00\x04MQTT",
        b"INFO {\"server_id\":\"x\"}\r\n",
        b"@RSYNCD: 31.0\n",
        b"NFS",
        b"\x80\x00\x00\x28\x00\x00\x00\x01",
        b"git-upload-pack /x\0host=x\0",
        b"0032git-upload-pack",
        b"\x00\x01\x00\x00\x00\x06\x01\x03",
        b"dig\n",
        b"\x17\x03\x03\x00\x20",
        b"\x15\x03\x03\x00\x02\x02\x28",
    ];
    for first in clear {
        let mut gate = open(rule(Profile::Anssi2026));
        let verdict = gate.sends(1_000, first);
        assert!(
            verdict.is_err(),
            "{:?} passes: {verdict:?}",
            String::from_utf8_lossy(first)
        );
        assert!(gate.sends(1_000, first).is_err(), "what comes again passes");
    }
    println!(
        "CASES: clear protocols refused at the first byte: {}",
        clear.len()
    );
}

#[test]
fn what_is_wrapped_or_comes_before_its_time_is_refused() {
    // Application data before any hello, a ChangeCipherSpec first, a hello of the wrong side.
    for first in [
        b"\x17\x03\x03\x00\x05hello".as_slice(),
        b"\x14\x03\x03\x00\x01\x01",
        b"\x16\x03\x03\x00\x30\x02\x00\x00\x2c\x03\x03",
        b"\x16\x02\x00\x00\x30\x01\x00\x00\x2c\x03\x03",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff\x01",
    ] {
        let mut gate = open(rule(Profile::Anssi2026));
        assert!(gate.sends(1_000, first).is_err(), "{first:02x?} passes");
    }
    // The client's hello, then data before the server has answered.
    let mut gate = open(rule(Profile::Anssi2026));
    let hello = path::client_hello(60);
    assert_eq!(gate.sends(1_000, &hello), Ok(Class::Opening));
    let early = gate.sends(1_000 + hello.len() as u32, b"\x17\x03\x03\x00\x05early");
    assert_eq!(early, Err(Why::Sequence));
}

#[test]
fn a_suite_version_or_group_that_is_not_listed_is_refused_at_the_hello() {
    type Case = (u16, u16, Option<u16>, Profile, Result<(), Why>);
    let cases: [Case; 11] = [
        (0x0304, 0x1301, Some(0x001D), Profile::Anssi2026, Ok(())),
        (
            0x0304,
            0x1305,
            Some(0x001D),
            Profile::Anssi2026,
            Err(Why::Suite),
        ),
        (
            0x0304,
            0xC0B4,
            Some(0x001D),
            Profile::Anssi2026,
            Err(Why::Suite),
        ),
        (
            0x0304,
            0x0000,
            Some(0x001D),
            Profile::Anssi2026,
            Err(Why::Suite),
        ),
        (0x0304, 0x1301, Some(0x0019), Profile::Anssi2026, Ok(())),
        (
            0x0304,
            0x1301,
            Some(0x0100),
            Profile::Anssi2026,
            Err(Why::Group),
        ),
        (
            0x0304,
            0x1301,
            Some(0x001D),
            Profile::AnssiPq,
            Err(Why::Group),
        ),
        (0x0304, 0x1301, Some(0x11EC), Profile::AnssiPq, Ok(())),
        (0x0303, 0xC02F, None, Profile::AnssiPq, Err(Why::Version)),
        (0x0303, 0x009C, None, Profile::Anssi2026, Err(Why::Suite)),
        (0x0302, 0xC02F, None, Profile::Anssi2026, Err(Why::Version)),
    ];
    for (version, suite, group, profile, wanted) in cases {
        // Whole, and in segments of every size.
        let server = path::server_hello(version, suite, group);
        for size in 1..=server.len() {
            let mut gate = open(rule(profile));
            let hello = path::client_hello(60);
            assert_eq!(gate.sends(1_000, &hello), Ok(Class::Opening));
            let mut found = Ok(());
            let mut at = 9_000;
            for part in server.chunks(size) {
                if let Err(why) = gate.receives(at, part) {
                    found = Err(why);
                    break;
                }
                at += part.len() as u32;
            }
            assert_eq!(
                found, wanted,
                "{version:04x} {suite:04x} {group:04x?} in {size}"
            );
        }
    }
    println!(
        "CASES: hellos of servers, in segments of every size: {}",
        cases.len()
    );
}

#[test]
fn two_windows_that_look_clear_are_chance_and_three_are_clear_text() {
    let mut cases = 0;
    for group in [None, Some(0x001D), Some(0x11EC)] {
        // What was read of a hello, whole or byte by byte, must leave nothing to the veto that counts from there on.
        for size in [1, 1_000] {
            for clear in 0..=3_usize {
                for direction in [0, 1] {
                    let mut gate = open(rule(Profile::Anssi2026));
                    let hello = path::client_hello(60);
                    assert_eq!(gate.sends(1_000, &hello), Ok(Class::Opening));
                    let server = path::server_hello(0x0304, 0x1302, group);
                    let mut next = [1_000 + hello.len() as u32, 9_000];
                    for part in server.chunks(size) {
                        assert!(gate.receives(next[1], part).is_ok());
                        next[1] += part.len() as u32;
                    }
                    let mut dice = Dice::new(0, cases);
                    let mut record = vec![23, 3, 3, 1, 0x90];
                    record.extend(dice.bytes(400));
                    record[13..13 + clear * 64].fill(b'a');
                    let verdict = gate.side(direction, next[direction as usize], &record);
                    let wanted = if clear < 3 {
                        Ok(Class::Records)
                    } else {
                        Err(Why::Clear)
                    };
                    assert_eq!(verdict, wanted, "{group:?} {size} {clear} {direction}");
                    cases += 1;
                }
            }
        }
    }
    println!("CASES: records that begin as clear text does: {cases}");
}

#[test]
fn nobody_ends_or_restarts_a_conversation_alone() {
    let mut talk = path::agreed(rule(Profile::Anssi2026));
    let (mut seq, record) = (talk.next, path::record(23, 100));
    assert_eq!(talk.gate.sends(seq, &record), Ok(Class::Records));
    seq += record.len() as u32;
    // A forged SYN and a forged RST, from outside and from inside.
    for direction in [0, 1] {
        for flags in [tcp_flag::SYN, tcp_flag::RST, tcp_flag::SYN | tcp_flag::ACK] {
            let _ = talk.gate.judge(
                Segment {
                    seq: 77,
                    ack: 5,
                    len: 0,
                    direction,
                    flags,
                    ..Segment::default()
                },
                &[],
            );
        }
    }
    assert_eq!(talk.gate.sends(seq, &record), Ok(Class::Records));
    seq += record.len() as u32;
    let clear = talk.gate.sends(seq, b"GET / HTTP/1.1\r\n");
    assert_eq!(clear, Err(Why::Clear), "clear text after the handshake");
    assert!(talk.gate.sends(seq, &record).is_err(), "it stays refused");
}

#[test]
fn a_gap_over_a_header_is_charged_and_closed_by_two_headers() {
    let mut talk: Talk = path::agreed(rule(Profile::Anssi2026));
    let body = path::record(23, 1_000);
    let mut seq = talk.next;
    // A whole record and the next one's header are lost before the gate.
    seq += body.len() as u32;
    let lost = talk.gate.sends(seq + 3, &body[3..]);
    assert_eq!(lost, Ok(Class::Unverified));
    seq += body.len() as u32;
    assert_eq!(
        talk.gate.sends(seq, &body),
        Ok(Class::Unverified),
        "the first header is a guess"
    );
    seq += body.len() as u32;
    let _ = talk.gate.sends(seq, &body);
    seq += body.len() as u32;
    assert_eq!(
        talk.gate.sends(seq, &body),
        Ok(Class::Records),
        "two headers that follow each other"
    );
    // Random bytes are never taken for a stream again, and end with the budget.
    let mut talk = path::agreed(rule(Profile::Anssi2026));
    let (mut seq, mut passed) = (talk.next + 5_000, 0);
    let mut dice = Dice::new(0, 7);
    for _ in 0..2_000 {
        let noise = dice.bytes(1_000);
        if talk.gate.sends(seq, &noise).is_ok() {
            passed += noise.len();
        }
        seq += 1_000;
    }
    let budget = rule(Profile::Anssi2026).unverified_bytes as usize;
    assert!(passed <= budget, "{passed} bytes of noise pass");
}

#[test]
fn no_bytes_panic_or_loop() {
    let rounds: u64 = by_level(20_000, 200_000, 10_000_000);
    let mut dice = Dice::new(0, 0x0C71);
    for _ in 0..rounds {
        let mut gate = open(rule(Profile::Anssi2026));
        for _ in 0..4 {
            let len = dice.below(80);
            let mut bytes = dice.bytes(len);
            // Half of them begin as a record does.
            if dice.one_in(2) && len > 5 {
                bytes[..5].copy_from_slice(&[22, 3, 3, 0, dice.below(80) as u8]);
            }
            let segment = Segment {
                seq: 1_000 + dice.below(64) as u32,
                ack: dice.roll() as u32,
                len: bytes.len() as u32,
                direction: dice.roll() as u32 & 1,
                now_ms: dice.roll() as u32,
                flags: dice.byte() & 0x12,
                ..Segment::default()
            };
            let _ = tcp::judge(
                &mut gate.talk,
                &gate.rule,
                &segment,
                [1, 443],
                &Bytes(&bytes),
            );
        }
    }
    println!("CASES: conversations of random bytes: {rounds}");
}
