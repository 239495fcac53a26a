//! Headers and hellos cut in two at every offset, early data, and payload in SYNs.

use crate::path::{Gate, agreed, client_hello, record, rule, server_hello};
use dataplane_common::encryption::{Class, Rule, Segment, Why, accept, tcp_flag};
use octroi::config::Profile;

/// Says `bytes` in two segments, of which the first has `at` bytes; the first refusal.
fn in_two(gate: &mut Gate, direction: u32, seq: u32, bytes: &[u8], at: usize) -> Result<(), Why> {
    let (first, second) = bytes.split_at(at);
    let mut seq = seq;
    for part in [first, second] {
        if !part.is_empty() {
            gate.side(direction, seq, part)?;
            seq = seq.wrapping_add(part.len() as u32);
        }
    }
    Ok(())
}

#[test]
fn headers_cut_at_every_offset_are_read_as_whole_ones() {
    let allowed = [record(23, 40), record(23, 70), record(21, 2), record(23, 9)].concat();
    // Behind a record: clear text, a plain handshake, another version, no length, one that is too long.
    let behind: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x03\x00\x20\x0b\x00",
        b"\x17\x03\x01\x00\x20\x0b\x00",
        b"\x17\x03\x03\x00\x00\x17\x03",
        b"\x17\x03\x03\x42\x01\x17\x03",
    ];
    let (mut cuts, mut refusals) = (0, 0);
    for direction in 0..2 {
        let start = |talk: &crate::path::Talk| {
            if direction == 0 {
                talk.next
            } else {
                9_000 + server_hello(0x0304, 0x1302, Some(0x11EC)).len() as u32
            }
        };
        for at in 0..=allowed.len() {
            let mut talk = agreed(rule(Profile::Anssi2026));
            let seq = start(&talk);
            let said = in_two(&mut talk.gate, direction, seq, &allowed, at);
            assert_eq!(said, Ok(()), "cut at {at} in direction {direction}");
            cuts += 1;
        }
        for bad in behind {
            let said = [&record(23, 40), bad].concat();
            for at in 0..=said.len() {
                let mut talk = agreed(rule(Profile::Anssi2026));
                let seq = start(&talk);
                let found = in_two(&mut talk.gate, direction, seq, &said, at);
                assert!(found.is_err(), "{bad:02x?} passes, cut at {at}");
                // What its ends say from now on is refused, too.
                let more = record(23, 100);
                let seq = seq + said.len() as u32;
                assert!(talk.gate.side(direction, seq, &more).is_err());
                refusals += 1;
            }
        }
    }
    println!("CASES: headers cut in two at every offset: {cuts} that pass, {refusals} that do not");
}

#[test]
fn hellos_cut_at_every_offset_are_judged_as_whole_ones() {
    let hellos = [
        (server_hello(0x0304, 0x1302, Some(0x11EC)), None),
        (server_hello(0x0303, 0xC02F, None), None),
        (server_hello(0x0304, 0xC0B4, Some(0x11EC)), Some(Why::Suite)),
        (server_hello(0x0302, 0xC02F, None), Some(Why::Version)),
        (server_hello(0x0304, 0x1302, Some(0x0100)), Some(Why::Group)),
    ];
    let mut cuts = 0;
    for (server, wanted) in hellos {
        let hello = client_hello(60);
        for at in 0..=server.len() {
            let mut gate = Gate::new(rule(Profile::Anssi2026));
            gate.open(1_000, 9_000);
            let client = in_two(&mut gate, 0, 1_000, &hello, at.min(hello.len()));
            assert_eq!(client, Ok(()), "the client's, cut at {at}");
            let found = in_two(&mut gate, 1, 9_000, &server, at);
            assert_eq!(found.err(), wanted, "cut at {at}");
            cuts += 1;
        }
    }
    println!("CASES: hellos cut in two at every offset: {cuts}");
}

#[test]
fn early_data_passes_only_where_the_profile_says_so() {
    let early = record(23, 300);
    let with = |bit: u32| {
        let mut rule = rule(Profile::Anssi2026);
        rule.accepts |= bit;
        rule
    };
    let begin = |rule: Rule| {
        let mut gate = Gate::new(rule);
        gate.open(1_000, 9_000);
        let hello = client_hello(60);
        assert_eq!(gate.sends(1_000, &hello), Ok(Class::Opening));
        (gate, 1_000 + hello.len() as u32)
    };
    let (mut gate, next) = begin(with(0));
    assert_eq!(gate.sends(next, &early), Err(Why::Sequence));
    let (mut gate, next) = begin(with(accept::EARLY_DATA));
    // It is not E3: nothing was chosen yet.
    assert_eq!(gate.sends(next, &early), Ok(Class::Opening));
    let server = server_hello(0x0304, 0x1302, Some(0x11EC));
    assert!(gate.receives(9_000, &server).is_ok());
    let more = gate.sends(next + early.len() as u32, &record(23, 300));
    assert_eq!(more, Ok(Class::Records));
    // A server has none, and neither has who said no hello.
    let (mut gate, _) = begin(with(accept::EARLY_DATA));
    assert_eq!(gate.receives(9_000, &early), Err(Why::Sequence));
    let mut gate = Gate::new(with(accept::EARLY_DATA));
    gate.open(1_000, 9_000);
    assert!(gate.sends(1_000, &early).is_err());
}

#[test]
fn payload_in_syns_is_refused_and_opens_nothing() {
    for (direction, flags) in [
        (0, tcp_flag::SYN),
        (1, tcp_flag::SYN | tcp_flag::ACK),
        (0, tcp_flag::SYN | tcp_flag::FIN),
        (0, tcp_flag::SYN | tcp_flag::RST),
    ] {
        let mut rule = rule(Profile::Anssi2026);
        rule.accepts &= !accept::MIDSTREAM;
        let mut gate = Gate::new(rule);
        let hello = client_hello(60);
        let segment = Segment {
            seq: 999,
            len: hello.len() as u32,
            direction,
            flags,
            ..Segment::default()
        };
        assert_eq!(
            gate.judge(segment, &hello),
            Err(Why::SynPayload),
            "{flags:#x}"
        );
        // What follows it is of no conversation that opened.
        let next = 1_000 + hello.len() as u32;
        let follows = gate.side(direction, next, &record(23, 100));
        assert_eq!(follows, Err(Why::Midstream), "{flags:#x}");
    }
}
