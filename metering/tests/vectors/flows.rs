//! The golden vectors of flow rows: `docs/METERING.md`, M-13.12.

use crate::{accepted::counts, at, bytes, entries, fields::hex};
use metering::{
    flow::{Detail, FlowEvidence, Root, Row},
    record::leaf_hash,
};
use serde_json::{Value, json};
use std::{fs, io, process::Command};

const FILE: &str = "vectors/flows.json";

/// HTTPS from a server to a client: what a prefix keeps of it.
fn prefix() -> Row {
    let mut remote = [0; 16];
    remote[..3].copy_from_slice(&[198, 51, 100]);
    Row {
        salt: *b"sixteen of salt.",
        detail: Detail::Prefix,
        zone: 4,
        ethertype: 0x0800,
        protocol: 6,
        remote,
        port: 443,
        flows: 3,
        counts: counts(1_011, 1_529_182, 1_515_028),
        tcp_flags: 0x1B,
        ..Row::default()
    }
}

/// The same, of one flow, in full.
fn full() -> Row {
    let (mut local, mut remote) = ([0; 16], [0; 16]);
    local[..4].copy_from_slice(&[10, 0, 0, 5]);
    remote[..4].copy_from_slice(&[198, 51, 100, 7]);
    Row {
        detail: Detail::Full,
        remote,
        port: 51_034,
        flows: 1,
        local,
        local_port: 443,
        first_ns: 86_400_000_000_000,
        last_ns: 86_459_999_999_999,
        ..prefix()
    }
}

fn ipv6(detail: Detail) -> Row {
    let network = *b"\x20\x01\x0d\xb8\x00\x07\0\0\0\0\0\0\0\0\0\0";
    let row = Row {
        ethertype: 0x86DD,
        protocol: 17,
        port: 53,
        tcp_flags: 0,
        remote: network,
        ..full()
    };
    match detail {
        Detail::Full => Row {
            remote: network.map(|byte| byte | 1),
            local: network.map(|byte| byte | 2),
            vlan: 100,
            ..row
        },
        _ => Row {
            detail,
            local: [0; 16],
            local_port: 0,
            first_ns: 0,
            last_ns: 0,
            ..row
        },
    }
}

fn accepted() -> Vec<(&'static str, Row)> {
    let dropped = Row {
        counts: counts(0, 0, 0),
        drop_reasons: 1 << 14 | 1 << 24,
        drop_packets: 24,
        ..prefix()
    };
    let arp = Row {
        ethertype: 0x0806,
        protocol: 0,
        remote: [0; 16],
        local: [0; 16],
        port: 0,
        local_port: 0,
        tcp_flags: 0,
        ..full()
    };
    const MOST: u64 = u64::MAX;
    let most = Row {
        salt: [0xFF; 16],
        zone: u32::MAX,
        protocol: u8::MAX,
        remote: [0xFF; 16],
        local: [0xFF; 16],
        port: u16::MAX,
        local_port: u16::MAX,
        flows: MOST,
        counts: counts(MOST, MOST, MOST),
        tcp_flags: u8::MAX,
        drop_reasons: u32::MAX,
        drop_packets: MOST,
        vlan: 4_095,
        first_ns: MOST,
        last_ns: MOST,
        ..ipv6(Detail::Full)
    };
    let evidence = FlowEvidence {
        classes: 1 << 2 | 1 << 5,
        tls_version: 0x0304,
        tls_suite: 0x1302,
    };
    let all = FlowEvidence {
        classes: u8::MAX,
        tls_version: u16::MAX,
        tls_suite: u16::MAX,
    };
    vec![
        ("a service in a /24", prefix()),
        ("a service in a /48", ipv6(Detail::Prefix)),
        ("a flow of IPv4", full()),
        ("a flow of IPv6 in a VLAN", ipv6(Detail::Full)),
        ("nothing but drops", dropped),
        ("no addresses", arp),
        ("every number at its end", most),
        (
            "evidence of a service in a /24",
            Row {
                evidence,
                ..prefix()
            },
        ),
        ("evidence of a flow of IPv4", Row { evidence, ..full() }),
        (
            "every number at its end, with evidence",
            Row {
                evidence: all,
                ..most
            },
        ),
    ]
}

/// The row's bytes with the first `old` in them replaced, and so many pairs more.
fn edited(row: Row, old: &[u8], new: &[u8], pairs: u8) -> Vec<u8> {
    let mut bytes = row.encode();
    let place = bytes.windows(old.len()).position(|part| part == old);
    let place = place.expect("the bytes are there");
    bytes.splice(place..place + old.len(), new.iter().copied());
    bytes[0] += pairs;
    bytes
}

fn refused() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let with = |fault: fn(&mut Row)| {
        let mut row = full();
        fault(&mut row);
        row.encode()
    };
    const FLAGS: &[u8] = b"\x0b\x18\x1b";
    const LAST: &[u8] = b"\x11\x1b\x00\x00\x4e\xa2\x89\x96\x57\xff";
    let ports = edited(full(), b"\x0f\x19\x01\xbb", b"", 255);
    let local = edited(full(), b"\x0e\x44\x0a\x00\x00\x05", b"", 255);
    let cut = prefix().encode();
    vec![
        ("no bytes", vec![], "truncated"),
        (
            "the last byte missing",
            cut[..cut.len() - 1].to_vec(),
            "truncated",
        ),
        ("a byte too many", [&cut[..], &[0]].concat(), "trailing"),
        (
            "a record's kind",
            edited(prefix(), b"\x01\x10\x02", b"\x01\x01\x02", 0),
            "kind",
        ),
        (
            "version 3",
            edited(prefix(), b"\x00\x01\x01", b"\x00\x03\x01", 0),
            "version",
        ),
        (
            "version 2 without evidence",
            edited(prefix(), b"\x00\x01\x01", b"\x00\x02\x01", 0),
            "missing",
        ),
        (
            "version 1 with evidence",
            edited(
                prefix(),
                FLAGS,
                &[FLAGS, b"\x12\x83\x01\x00\x00"].concat(),
                1,
            ),
            "not_allowed",
        ),
        (
            "evidence of no class",
            edited(
                prefix(),
                FLAGS,
                &[FLAGS, b"\x12\x83\x00\x00\x00"].concat(),
                1,
            ),
            "range",
        ),
        (
            "detail 0",
            edited(prefix(), b"\x03\x01\x04", b"\x03\x00\x04", 0),
            "range",
        ),
        (
            "detail 3",
            edited(prefix(), b"\x03\x01\x04", b"\x03\x03\x04", 0),
            "range",
        ),
        (
            "a prefix of 4 bytes",
            edited(prefix(), b"\x43\xc6\x33\x64", b"\x44\xc6\x33\x64\x07", 0),
            "range",
        ),
        (
            "an address of 3 bytes",
            edited(full(), b"\x44\xc6\x33\x64\x07", b"\x43\xc6\x33\x64", 0),
            "range",
        ),
        (
            "ARP with an address",
            edited(prefix(), b"\x05\x19\x08\x00", b"\x05\x19\x08\x06", 0),
            "not_allowed",
        ),
        (
            "a prefix with a port of its own",
            edited(prefix(), FLAGS, &[FLAGS, b"\x0f\x00"].concat(), 1),
            "not_allowed",
        ),
        (
            "a prefix with a VLAN",
            edited(prefix(), FLAGS, &[FLAGS, b"\x0d\x01"].concat(), 1),
            "not_allowed",
        ),
        (
            "a VLAN of 0",
            edited(full(), FLAGS, &[FLAGS, b"\x0d\x00"].concat(), 1),
            "range",
        ),
        (
            "a VLAN of 13 bits",
            edited(full(), FLAGS, &[FLAGS, b"\x0d\x19\x10\x00"].concat(), 1),
            "range",
        ),
        (
            "drops of nothing",
            edited(prefix(), FLAGS, &[FLAGS, b"\x0c\x82\x00\x00"].concat(), 1),
            "range",
        ),
        ("a flow without its own port", ports, "missing"),
        ("a flow without its own address", local, "missing"),
        ("no flow at all", with(|row| row.flows = 0), "range"),
        (
            "a last packet before the first",
            with(|row| row.last_ns = row.first_ns - 1),
            "backwards",
        ),
        (
            "an unknown key",
            edited(full(), LAST, &[LAST, b"\x13\x00"].concat(), 1),
            "unknown_key",
        ),
        (
            "a key twice",
            edited(prefix(), FLAGS, &[FLAGS, FLAGS].concat(), 1),
            "duplicate",
        ),
        (
            "keys not in order",
            edited(prefix(), b"\x00\x01\x01\x10", b"\x01\x10\x00\x01", 0),
            "order",
        ),
        (
            "flags of 9 bits",
            edited(prefix(), FLAGS, b"\x0b\x19\x01\x00", 0),
            "range",
        ),
        (
            "counts of two",
            edited(prefix(), b"\x0a\x83\x19\x03\xf3", b"\x0a\x82", 0),
            "range",
        ),
    ]
}

fn of(row: &Row) -> Value {
    let mut fields = serde_json::Map::new();
    let mut number = |name: &str, value: u64| {
        fields.insert(name.into(), json!(value.to_string()));
    };
    let evidence = row.evidence;
    number("version", if evidence.classes == 0 { 1 } else { 2 });
    number("kind", 16);
    number("detail", row.detail as u64);
    number("zone", row.zone.into());
    number("ethertype", row.ethertype.into());
    number("protocol", row.protocol.into());
    number("port", row.port.into());
    number("flows", row.flows);
    number("tcp_flags", row.tcp_flags.into());
    if row.vlan != 0 {
        number("vlan", row.vlan.into());
    }
    if row.detail == Detail::Full {
        number("local_port", row.local_port.into());
        number("first_ns", row.first_ns);
        number("last_ns", row.last_ns);
    }
    fields.insert("salt".into(), json!(hex(&row.salt)));
    let texts = |numbers: &[u64]| json!(numbers.iter().map(u64::to_string).collect::<Vec<_>>());
    let sums = row.counts;
    let sums = [sums.packets, sums.l2_bytes, sums.l3_bytes];
    fields.insert("counts".into(), texts(&sums));
    if row.drop_reasons != 0 || row.drop_packets != 0 {
        let drops = [row.drop_reasons.into(), row.drop_packets];
        fields.insert("drops".into(), texts(&drops));
    }
    if evidence.classes != 0 {
        let known = [
            evidence.classes.into(),
            evidence.tls_version.into(),
            evidence.tls_suite.into(),
        ];
        fields.insert("evidence".into(), texts(&known));
    }
    let address = match (row.ethertype, row.detail) {
        (0x0800, Detail::Full) => 4,
        (0x0800, _) => 3,
        (0x86DD, Detail::Full) => 16,
        (0x86DD, _) => 6,
        _ => 0,
    };
    if address != 0 {
        fields.insert("remote".into(), json!(hex(&row.remote[..address])));
        if row.detail == Detail::Full {
            fields.insert("local".into(), json!(hex(&row.local[..address])));
        }
    }
    fields.into()
}

fn vectors() -> Value {
    let rows = accepted().into_iter().map(|(name, row)| {
        let bytes = row.encode();
        json!({ "name": name, "fields": of(&row), "hex": hex(&bytes), "leaf": hex(&leaf_hash(&bytes)) })
    });
    let refused = refused()
        .into_iter()
        .map(|(name, bytes, error)| json!({ "name": name, "hex": hex(&bytes), "error": error }));
    let trees = (1..10_u8).map(|size| {
        let rows: Vec<Vec<u8>> = (0..size)
            .map(|at| {
                Row {
                    salt: [at; 16],
                    zone: at.into(),
                    ..prefix()
                }
                .encode()
            })
            .collect();
        let mut root = Root::default();
        rows.iter().for_each(|row| root.add(row));
        let rows: Vec<String> = rows.iter().map(|row| hex(row)).collect();
        json!({ "rows": rows, "root": hex(&root.finish().1) })
    });
    json!({
        "version": "1",
        "accepted": rows.collect::<Vec<_>>(),
        "refused": refused.collect::<Vec<_>>(),
        "trees": trees.collect::<Vec<_>>(),
    })
}

fn file() -> Value {
    let text = fs::read_to_string(at(FILE)).expect(FILE);
    serde_json::from_str(&text).expect(FILE)
}

#[test]
fn the_vectors_of_flows_are_what_this_library_writes_and_reads() {
    let vectors = vectors();
    if std::env::var_os("OCTROI_REGENERATE").is_some() {
        let text = serde_json::to_string_pretty(&vectors).expect("it is JSON");
        fs::write(at(FILE), text + "\n").expect(FILE);
    }
    let file = file();
    assert_eq!(vectors, file);
    for (name, bytes, entry) in entries(&file, "accepted") {
        let row = Row::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            (of(&row), row.encode()),
            (entry["fields"].clone(), bytes),
            "{name}"
        );
    }
    for (name, bytes, entry) in entries(&file, "refused") {
        let word = Row::decode(&bytes).map_err(|error| error.word());
        assert_eq!(word.err(), entry["error"].as_str(), "{name}");
    }
    for tree in file["trees"].as_array().expect("trees") {
        let mut root = Root::default();
        let rows = tree["rows"].as_array().expect("rows");
        rows.iter().for_each(|row| root.add(&bytes(row)));
        assert_eq!(json!(hex(&root.finish().1)), tree["root"]);
    }
}

/// The reader in Python knows the page, and nothing of this library.
#[test]
fn a_reader_of_flows_written_from_the_page_alone_agrees() {
    const LINES_MAX: usize = 160;
    let reader = at("../tests/verify/flow.py");
    let text = fs::read_to_string(&reader).expect("tests/verify/flow.py");
    assert!(
        text.lines().count() <= LINES_MAX,
        "more than {LINES_MAX} lines"
    );
    let output = Command::new("python3").arg(reader).arg(at(FILE)).output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!(
                "SKIPPED: a_reader_of_flows_written_from_the_page_alone_agrees: there is no python3"
            );
            return;
        }
        output => output.expect("python3"),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    let file = file();
    let count = |list: &str| file[list].as_array().map_or(0, Vec::len);
    let counts = ["accepted", "refused", "trees"].map(count);
    let [accepted, refused, trees] = counts;
    assert_eq!(
        said.trim(),
        format!("{accepted} accepted, {refused} refused, {trees} trees")
    );
    println!(
        "CASES: flow vectors checked in Python: {}",
        counts.iter().sum::<usize>()
    );
}
