//! Ways around the encryption policy: clear text behind a handshake and inside what looks like records, datagrams of
//! another kind in a known conversation, fragments, extension headers, split headers, suites without encryption, and floods of
//! conversations. On the host where only the classifier matters, with real packets where the rest does.

#[path = "oracle/dice.rs"]
#[allow(dead_code, reason = "written for tests/parser.rs")]
mod dice;
#[path = "encryption/ends.rs"]
mod ends;
#[path = "encryption_cheats/fake.rs"]
mod fake;
#[path = "encryption/path.rs"]
#[allow(dead_code, reason = "written for tests/encryption_streams.rs")]
mod path;
#[path = "encryption_cheats/raw.rs"]
mod raw;
#[path = "encryption_cheats/shapes.rs"]
mod shapes;
#[path = "encryption/sniffer.rs"]
mod sniffer;
#[path = "encryption_cheats/split.rs"]
mod split;
mod support;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::{
    encryption::{Bytes, Class, Conversation, Segment, Why, datagram, veto},
    reason::DropReason,
};
use dice::Dice;
use fake::{Server, connect};
use octroi::{
    config::Profile,
    lab::{
        Site,
        frames::RawSocket,
        site::{INSIDE, REMOTE, UPLINK, ipv4},
        traffic::inside,
    },
};
use path::{agreed, rule};
use sniffer::{CANARY, Sniffer};
use std::{
    io::Write as _,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};
use support::{alone, by_level, can_run, octroi, registers, tenant};

/// Clear payloads, as long as asked.
fn clear(len: usize) -> [(&'static str, Vec<u8>); 6] {
    let again = |text: &[u8]| text.iter().cycle().take(len).copied().collect::<Vec<u8>>();
    [
        ("HTTP", again(CANARY.as_bytes())),
        (
            "JSON",
            again(
                b"{\"tenant\":\"a\",\"port\":\"a-port\",\"bytes\":123456,\"zone\":\"internet\"},",
            ),
        ),
        (
            "base64",
            again(b"TWFuIGlzIGRpc3Rpbmd1aXNoZWQsIG5vdCBvbmx5IGJ5IGhpcyByZWFzb24sIGJ1dCBieSB0aGlz"),
        ),
        (
            "rows",
            again(
                b"\x00\x00\x00\x1e\x00\x02\x00\x00\x00\x04\x00\x00\x2a\x17\x00\x00\x00\x08octroi-1",
            ),
        ),
        (
            "hex",
            again(b"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
        ),
        ("zeros", again(&[0])),
    ]
}

#[test]
fn clear_text_in_records_is_refused_within_three_windows() {
    let mut passed_most = 0;
    for len in [72, 100, 136, 200, 1_400, 16_000] {
        for (name, text) in clear(len) {
            let mut talk = agreed(rule(Profile::Anssi2026));
            let (mut at, mut passed) = (talk.next, 0);
            for _ in 0..100 {
                let bytes = [&[23, 3, 3, (len >> 8) as u8, len as u8][..], &text].concat();
                if talk.gate.sends(at, &bytes).is_err() {
                    break;
                }
                passed += bytes.len();
                at += bytes.len() as u32;
            }
            let most = veto::IN_A_ROW as usize * (veto::WINDOW as usize + 13 + len.min(72));
            assert!(
                passed <= most,
                "{passed} bytes of {name} pass in records of {len}"
            );
            if len >= 200 {
                assert_eq!(passed, 0, "{name} in records of {len}");
            }
            passed_most = passed_most.max(passed);
            assert_eq!(
                talk.gate.talk.why,
                Why::Clear as u8,
                "{name} in records of {len}"
            );
        }
    }
    println!("CASES: clear text in records of TLS: 36, {passed_most} bytes at most pass");
}

#[test]
fn ciphertext_is_never_vetoed() {
    let rounds = by_level(200, 2_000, 200_000);
    let mut dice = Dice::new(0, 0x0C71);
    let mut records = 0_u64;
    for _ in 0..rounds {
        let mut talk = agreed(rule(Profile::Anssi2026));
        let mut at = talk.next;
        for _ in 0..200 {
            let len = dice.pick(&[72, 100, 300, 1_400]);
            let bytes = [
                &[23, 3, 3, (len >> 8) as u8, len as u8][..],
                &dice.bytes(len),
            ]
            .concat();
            assert_eq!(talk.gate.sends(at, &bytes), Ok(Class::Records));
            at += bytes.len() as u32;
            records += 1;
        }
    }
    println!("CASES: records of noise that pass: {records}");
}

/// Judges a datagram.
fn says(talk: &mut Conversation, direction: u32, bytes: &[u8]) -> Result<Class, Why> {
    let segment = Segment {
        len: bytes.len() as u32,
        direction,
        ..Segment::default()
    };
    datagram::judge(talk, &rule(Profile::Anssi2026), &segment, &Bytes(bytes))
}

/// Opened conversations of WireGuard, QUIC and DTLS, and what their packets begin with.
fn opened() -> Vec<(&'static str, Conversation, Vec<u8>)> {
    let mut dice = Dice::new(0, 5);
    let mut all = Vec::new();
    let wireguard = [
        (
            0,
            [&[1, 0, 0, 0, 9, 9, 9, 9][..], &dice.bytes(140)].concat(),
        ),
        (
            1,
            [&[2, 0, 0, 0, 8, 8, 8, 8, 9, 9, 9, 9][..], &dice.bytes(80)].concat(),
        ),
    ];
    let initial = [
        &[0xC0, 0, 0, 0, 1, 8][..],
        &[7; 8],
        &[8],
        &[6; 8],
        &dice.bytes(1_200),
    ]
    .concat();
    let quic = [(0, initial.clone()), (1, initial)];
    let hello = |kind: u8| {
        let head = [
            22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 1, 0, 92, kind, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 80,
            0xFE, 0xFD,
        ];
        [&head[..], &[3; 78]].concat()
    };
    let dtls = [(0, hello(1)), (1, hello(2))];
    let begin = [
        (
            "WireGuard",
            wireguard,
            vec![4, 0, 0, 0, 8, 8, 8, 8, 1, 0, 0, 0, 0, 0, 0, 0],
        ),
        ("QUIC", quic, [&[0x41][..], &[6; 24]].concat()),
        ("DTLS", dtls, vec![]),
    ];
    for (name, said, head) in begin {
        let mut talk = Conversation::default();
        talk.become_new(&Default::default(), 0, 0);
        for (direction, bytes) in said {
            let judged = says(&mut talk, direction, &bytes);
            assert_eq!(judged, Ok(Class::Opening), "{name}");
        }
        all.push((name, talk, head));
    }
    all
}

#[test]
fn clear_text_in_datagrams_of_a_known_conversation_is_refused() {
    let mut tried = 0;
    for (name, talk, head) in opened() {
        for (what, text) in clear(1_100) {
            let head = if name == "DTLS" {
                let len = (text.len() as u16).to_be_bytes();
                [&[23, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 1][..], &len].concat()
            } else {
                head.clone()
            };
            let mut known = talk;
            let judged = says(&mut known, 0, &[head.clone(), text].concat());
            assert_eq!(judged, Err(Why::Clear), "{what} in {name}");
            // What is ciphertext still passes: nobody else can end the conversation.
            let sealed = Dice::new(0, 9).bytes(1_100);
            let judged = says(&mut known, 0, &[head, sealed].concat());
            assert_eq!(judged, Ok(Class::Handshake), "after {what} in {name}");
            tried += 1;
        }
    }
    println!("CASES: clear text in datagrams of a known conversation: {tried}");
}

#[test]
fn an_initiation_that_is_lost_ends_no_session_of_wireguard() {
    let Some((_, mut talk, head)) = opened().into_iter().next() else {
        panic!("no WireGuard");
    };
    let mut dice = Dice::new(0, 6);
    let data = |dice: &mut Dice, index: u8| {
        [
            &[4, 0, 0, 0, index, index, index, index][..],
            &[0; 8],
            &dice.bytes(200),
        ]
        .concat()
    };
    for index in 20..40 {
        let again = [
            &[1, 0, 0, 0, index, index, index, index][..],
            &dice.bytes(140),
        ]
        .concat();
        assert_eq!(says(&mut talk, 0, &again), Ok(Class::Opening));
        assert_eq!(
            says(&mut talk, 1, &data(&mut dice, 9)),
            Ok(Class::Handshake),
            "{index}"
        );
        let sealed = [head.clone(), dice.bytes(200)].concat();
        assert_eq!(says(&mut talk, 0, &sealed), Ok(Class::Handshake));
    }
    // It is answered at last: both sessions pass, and an index of which no session came does not.
    let answer = [
        &[2, 0, 0, 0, 50, 50, 50, 50, 39, 39, 39, 39][..],
        &dice.bytes(80),
    ]
    .concat();
    assert_eq!(says(&mut talk, 1, &answer), Ok(Class::Opening));
    for (index, wanted) in [
        (9, Ok(Class::Handshake)),
        (39, Ok(Class::Handshake)),
        (30, Err(Why::Sequence)),
    ] {
        assert_eq!(
            says(&mut talk, 1, &data(&mut dice, index)),
            wanted,
            "{index}"
        );
    }
}

const ENFORCE: &str = "\n[[encryption]]\ntenant = \"a\"\nmode = \"enforce\"\nprofile = \"anssi-2026\"\nmidstream = \"drop\"\n\
                       \n[[encryption]]\ntenant = \"b\"\nmode = \"enforce\"\nprofile = \"anssi-2026\"\nmidstream = \"drop\"\n";
const PORT: u16 = 4_433;

fn site(test: &str) -> Result<Option<Site>> {
    if !can_run(test) {
        return Ok(None);
    }
    let mut site = Site::new(&[tenant("a", true), tenant("b", true), tenant("c", true)])?;
    site.write_config(&(site.config("") + ENFORCE))?;
    site.start(octroi())?;
    Ok(Some(site))
}

fn remote() -> Result<SocketAddr> {
    Ok(SocketAddr::new(ipv4(REMOTE).parse()?, PORT))
}

fn refused(site: &Site, index: usize) -> Result<u64> {
    let (from, _) = registers(site, index)?;
    Ok(from.dropped_for(DropReason::EncryptionPolicy).packets)
}

#[test]
fn clear_text_behind_a_handshake_never_reaches_the_uplink() -> Result<()> {
    let _alone = alone();
    let Some(site) = site("clear_text_behind_a_handshake")? else {
        return Ok(());
    };
    let server = Server::start(&site.remote, PORT)?;
    let mut sniffer = Sniffer::start(&site.host, UPLINK)?;
    let mut ways: Vec<(&str, Vec<u8>)> = vec![("as it is", CANARY.as_bytes().to_vec())];
    let sealed = path::record(23, 400);
    ways.push(("behind a record", [&sealed[..], CANARY.as_bytes()].concat()));
    let long = CANARY.repeat(20);
    let header = [23, 3, 3, (long.len() >> 8) as u8, long.len() as u8];
    ways.push(("in a record", [&header[..], long.as_bytes()].concat()));
    ways.push((
        "in a record behind one",
        [&sealed[..], &header, long.as_bytes()].concat(),
    ));
    for (name, said) in &ways {
        let before = refused(&site, 0)?;
        let mut stream = connect(&site, 0, remote()?)?;
        stream.write_all(said)?;
        std::thread::sleep(Duration::from_millis(150));
        let _ = stream.write_all(CANARY.as_bytes());
        std::thread::sleep(Duration::from_millis(300));
        ensure!(refused(&site, 0)? > before, "{name}: nothing is refused");
        ensure!(sniffer.seen() == 0, "{name}: the canary reached the uplink");
    }
    // The same for who has no rule: it arrives, and the sniffer sees it.
    let before = server.received();
    let mut stream = connect(&site, 2, remote()?)?;
    stream.write_all(&ways[2].1)?;
    ensure!(
        server.receives(before + long.len() as u64, Duration::from_secs(3)),
        "nothing arrives"
    );
    ensure!(sniffer.seen() > 0, "the sniffer sees nothing");
    println!(
        "CASES: clear text behind a handshake, none of it on the uplink: {}",
        ways.len()
    );
    Ok(())
}

#[test]
fn frames_that_no_honest_end_sends_do_not_pass() -> Result<()> {
    let _alone = alone();
    let Some(site) = site("frames_that_no_honest_end_sends")? else {
        return Ok(());
    };
    let mut sniffer = Sniffer::start(&site.host, UPLINK)?;
    let index = site.tenants[0].interfaces()?;
    let index = index.get(INSIDE).context("no interface")?.index;
    let frames = raw::frames();
    let dropped = |site: &Site| anyhow::Ok(registers(site, 0)?.0.dropped().packets);
    for (name, frame) in &frames {
        let before = dropped(&site)?;
        site.tenants[0].run(|| RawSocket::open(index)?.send(frame))??;
        std::thread::sleep(Duration::from_millis(20));
        ensure!(dropped(&site)? > before, "{name} is not dropped");
    }
    ensure!(sniffer.seen() == 0, "a canary reached the uplink");
    println!(
        "CASES: frames that no honest end sends, each dropped: {}",
        frames.len()
    );
    Ok(())
}

#[test]
fn thousands_of_records_in_one_packet_pass() -> Result<()> {
    let _alone = alone();
    let Some(site) = site("thousands_of_records")? else {
        return Ok(());
    };
    let server = Server::start(&site.remote, PORT)?;
    let mut stream = connect(&site, 0, remote()?)?;
    // 2,811 records of 23 bytes: as many as 64 KB hold at 18 bytes of content.
    let mut sent = 0;
    for round in 0..20 {
        let mut dice = Dice::new(7, round);
        let records: Vec<u8> = (0..2_811)
            .flat_map(|_| [&[23, 3, 3, 0, 18][..], &dice.bytes(18)].concat())
            .collect();
        stream.write_all(&records)?;
        sent += records.len() as u64;
    }
    ensure!(
        server.receives(sent, Duration::from_secs(10)),
        "{} of {sent} bytes arrive",
        server.received()
    );
    let (from, _) = registers(&site, 0)?;
    let largest = from.skbs.delivered_len / from.skbs.delivered.max(1);
    let dropped = from.dropped().packets;
    println!(
        "CASES: records in packets of GSO: {} (packets of {largest} bytes on average, {dropped} dropped)",
        20 * 2_811
    );
    ensure!(dropped == 0, "{dropped} packets are dropped");
    Ok(())
}

/// A tenant begins conversations, one each source port and address, while another talks.
#[test]
fn a_flood_of_conversations_costs_its_tenant_alone() -> Result<()> {
    let _alone = alone();
    let Some(site) = site("a_flood_of_conversations")? else {
        return Ok(());
    };
    let server = Server::start(&site.remote, PORT)?;
    let mut talk = connect(&site, 1, remote()?)?;
    let flows: u64 = by_level(20_000, 200_000, 10_000_000);
    let to = ipv4(REMOTE);
    let flood = inside(site.tenants[0].open()?, move || {
        // QUIC's first datagram: the largest state that one packet makes. Each port of 64 sockets to another port.
        let initial = [
            &[0xC0, 0, 0, 0, 1, 8][..],
            &[7; 8],
            &[8],
            &[6; 8],
            &[9; 1_200],
        ]
        .concat();
        let sockets: Vec<UdpSocket> = (0..64)
            .map(|_| UdpSocket::bind("0.0.0.0:0"))
            .collect::<std::io::Result<_>>()?;
        let begun = Instant::now();
        for flow in 0..flows {
            let port = 1_024 + (flow / 64 % 60_000) as u16;
            // Nobody listens: an error that came for an earlier one is no reason to stop.
            let _ = sockets[(flow % 64) as usize].send_to(&initial, (to.as_str(), port));
        }
        Ok(begun.elapsed())
    });
    let (mut sent, mut rounds) = (0_u64, 0_u64);
    let before = registers(&site, 1)?.0;
    let from = server.received();
    while !flood.is_finished() || rounds < 50 {
        let record = [&[23, 3, 3, 4, 0][..], &Dice::new(3, rounds).bytes(1_024)].concat();
        talk.write_all(&record).context("B is cut while A floods")?;
        sent += record.len() as u64;
        rounds += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = flood.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    ensure!(
        server.receives(from + sent, Duration::from_secs(5)),
        "{} of B's {sent} bytes arrive",
        server.received() - from
    );
    let after = registers(&site, 1)?.0;
    ensure!(
        after.dropped().packets == before.dropped().packets,
        "B loses packets: {after:?}"
    );
    // What B's kernel says to its neighbours by itself is exempt.
    let class = |direction: &dataplane::registers::Direction, wanted: bool| -> u64 {
        let classes = direction.evidence.iter();
        classes
            .filter(|(name, _)| (name == "E3") == wanted && name != "exempt")
            .map(|(_, counts)| counts.l2_bytes)
            .sum()
    };
    let flooded = registers(&site, 0)?.0;
    let seen = flooded.total().packets + flooded.dropped().packets;
    ensure!(
        seen >= flows / 2,
        "of {flows} packets of A, the gate has seen {seen}"
    );
    let (checked, other) = (
        class(&after, true) - class(&before, true),
        class(&after, false) - class(&before, false),
    );
    ensure!(
        checked >= sent && other == 0,
        "of B's {sent} bytes, {checked} are E3 and {other} something else"
    );
    println!(
        "CASES: conversations that a neighbour began meanwhile: {seen} of {flows} in {:.1} s; {sent} bytes of B, all E3",
        took.as_secs_f64()
    );
    Ok(())
}
