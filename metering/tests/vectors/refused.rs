//! Bytes that are no record, each for one reason.

#[path = "refused_evidence.rs"]
mod evidence;

use crate::accepted::{
    begin, checkpoint, correction, counts, crashed, detailed, erasure, erasure_of_flows, merged,
    reading, rotation, statement, superseding, total, total_record, zone_record,
};
use metering::record::{Dropped, ErasedFlows, Flags, Flows, Record, Statement};

type Vector = (&'static str, Vec<u8>, &'static str);

/// The bytes of the zone record with the first `old` in them replaced, and so many pairs more.
fn edited(old: &[u8], new: &[u8], pairs: u8) -> Vec<u8> {
    let mut bytes = zone_record().encode();
    let at = bytes
        .windows(old.len())
        .position(|part| part == old)
        .expect("the bytes are there");
    bytes.splice(at..at + old.len(), new.iter().copied());
    // A head of two bytes: the map has 24 pairs or more.
    assert_eq!(bytes[0], 0xB8);
    bytes[1] += pairs;
    bytes
}

/// Faults of the encoding.
fn bytes() -> Vec<Vector> {
    // Version 1, kind 1, and the key of the ledger's id.
    const BEGINNING: [u8; 5] = [0, 1, 1, 1, 2];
    const HOST: &[u8] = b"\x07\x66host-1";
    // The last field: the program's tag.
    const TAG: &[u8] = b"\x18\x1d\x48\x0f\x1e\x2d\x3c\x4b\x5a\x69\x78";
    let whole = zone_record().encode();
    let start = |new: &[u8]| edited(&BEGINNING, new, 0);
    let host = |new: &[u8]| edited(HOST, new, 0);
    let indefinite = [&[0xBF], &whole[2..], &[0xFF]].concat();
    let cut = whole[..whole.len() - 1].to_vec();
    let more = [&whole[..], &[0]].concat();
    let unknown = edited(TAG, &[TAG, b"\x18\x2e\x00"].concat(), 1);
    let float = start(b"\x00\xfb\x3f\xf0\x00\x00\x00\x00\x00\x00\x01\x01\x02");
    vec![
        ("no bytes", vec![], "truncated"),
        ("the last byte missing", cut, "truncated"),
        (
            "one pair less than promised",
            edited(&BEGINNING, &BEGINNING, 1),
            "truncated",
        ),
        ("a byte too many", more, "trailing"),
        (
            "a value that is not shortest",
            start(b"\x00\x18\x01\x01\x01\x02"),
            "not_shortest",
        ),
        (
            "a key that is not shortest",
            start(b"\x00\x01\x19\x00\x01\x01\x02"),
            "not_shortest",
        ),
        (
            "a length that is not shortest",
            host(b"\x07\x78\x06host-1"),
            "not_shortest",
        ),
        ("an indefinite map", indefinite, "indefinite"),
        (
            "an indefinite text",
            host(b"\x07\x7f\x66host-1\xff"),
            "indefinite",
        ),
        ("a float", float, "forbidden"),
        ("null", host(b"\x07\xf6"), "forbidden"),
        ("true", start(b"\x00\xf5\x01\x01\x02"), "forbidden"),
        ("a tag", start(b"\x00\xc1\x01\x01\x01\x02"), "forbidden"),
        (
            "a head that CBOR keeps for later",
            start(b"\x00\x1c\x01\x01\x02"),
            "forbidden",
        ),
        ("keys not in order", start(b"\x01\x01\x00\x01\x02"), "order"),
        ("a key twice", start(b"\x00\x01\x00\x01\x02"), "duplicate"),
        ("an unknown key", unknown, "unknown_key"),
        (
            "a key that is text",
            start(b"\x61\x30\x01\x01\x01\x02"),
            "type",
        ),
        ("an array instead of a map", vec![0x80], "type"),
        ("bytes instead of text", host(b"\x07\x46host-1"), "type"),
        ("a negative version", start(b"\x00\x20\x01\x01\x02"), "type"),
        ("version 3", start(b"\x00\x03\x01\x01\x02"), "version"),
        ("kind 0", start(b"\x00\x01\x01\x00\x02"), "kind"),
        ("kind 8", start(b"\x00\x01\x01\x08\x02"), "kind"),
        (
            "a text that is not UTF-8",
            host(b"\x07\x66host-\xff"),
            "text",
        ),
        (
            "a surrogate in UTF-8",
            host(b"\x07\x66hos\xed\xa0\x80"),
            "text",
        ),
        (
            "a program's tag of 7 bytes",
            edited(TAG, &[b"\x18\x1d\x47", &TAG[4..]].concat(), 0),
            "range",
        ),
        (
            "a tenant of 33 bits",
            edited(
                b"\x0d\x18\x2a",
                b"\x0d\x1b\x00\x00\x00\x01\x00\x00\x00\x00",
                0,
            ),
            "range",
        ),
        ("nothing but an empty map", vec![0xA0], "missing"),
    ]
}

/// A record with one fault, encoded all the same.
fn with(mut record: Record, fault: impl FnOnce(&mut Record)) -> Vec<u8> {
    fault(&mut record);
    record.encode()
}

/// A record whose last field is a byte string of 32, with 31 of them.
fn shortened(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = bytes.len() - 33;
    assert_eq!(bytes[length], 32);
    bytes[length] = 31;
    bytes.pop();
    bytes
}

/// Faults of the fields.
fn fields() -> Vec<Vector> {
    let zone = |fault: fn(&mut Record)| with(zone_record(), fault);
    let all = |fault: fn(&mut Record)| with(total_record(), fault);
    let drops = |reasons: [u8; 2]| {
        with(total_record(), |r| {
            let dropped = |reason| Dropped {
                reason,
                packets: 1,
                l2_bytes: 60,
            };
            total(r).drops = reasons.map(dropped).to_vec();
        })
    };
    vec![
        (
            "a total without its part",
            all(|r| r.total = None),
            "missing",
        ),
        (
            "a correction without what to add",
            with(correction(), |r| r.correction = None),
            "missing",
        ),
        (
            "partial without bounds",
            all(|r| r.flags = Flags::PARTIAL),
            "missing",
        ),
        (
            "partial without a cause",
            with(crashed(), |r| r.cause = None),
            "missing",
        ),
        (
            "a zone with a cause",
            zone(|r| r.cause = Some("c".into())),
            "not_allowed",
        ),
        (
            "a zone with bounds",
            zone(|r| r.bytes_min = Some(15_140)),
            "not_allowed",
        ),
        (
            "bounds with everything seen",
            all(|r| r.bytes_min = Some(15_182)),
            "not_allowed",
        ),
        (
            "a meter that supersedes",
            all(|r| r.supersedes = superseding().supersedes),
            "not_allowed",
        ),
        (
            "an upper bound alone",
            all(|r| r.bytes_max = Some(20_000)),
            "not_allowed",
        ),
        (
            "a zone with flow detail",
            zone(|r| r.flows = detailed().flows),
            "not_allowed",
        ),
        (
            "a tree of flows without a row",
            with(detailed(), |r| r.flows = Some(Flows::default())),
            "range",
        ),
        (
            "a root of 31 bytes",
            shortened(detailed().encode()),
            "range",
        ),
        ("an empty host", zone(|r| r.host.clear()), "range"),
        (
            "a host of 254 bytes",
            zone(|r| r.host = "h".repeat(254)),
            "range",
        ),
        (
            "a port's name of 65 bytes",
            zone(|r| r.port_uid = "é".repeat(32) + "x"),
            "range",
        ),
        (
            "an empty cause",
            all(|r| r.cause = Some(String::new())),
            "range",
        ),
        (
            "a control character",
            zone(|r| r.port_uid = "web\n1".into()),
            "text",
        ),
        (
            "a control character of Latin-1",
            zone(|r| r.port_uid = "web\u{85}1".into()),
            "text",
        ),
        ("direction 2", zone(|r| r.direction = 2), "range"),
        (
            "a window first that is above its window",
            with(merged(), |r| r.window_first = 1_443),
            "range",
        ),
        ("drop reason 0", drops([0, 1]), "range"),
        ("drop reason 32", drops([1, 32]), "range"),
        ("drop reasons not in order", drops([24, 14]), "order"),
        ("a drop reason twice", drops([14, 14]), "duplicate"),
        (
            "a drop of no packet",
            all(|r| total(r).drops[0].packets = 0),
            "range",
        ),
        (
            "a register that goes back",
            zone(|r| reading(r).register_end.l3_bytes = 1_499_999),
            "backwards",
        ),
        (
            "a cut before the one before",
            zone(|r| reading(r).cut_start_ns = u64::MAX),
            "backwards",
        ),
        (
            "a revision that goes back",
            zone(|r| reading(r).revision_last = 6),
            "backwards",
        ),
        (
            "a label that goes back",
            zone(|r| r.window_end = r.window_start - 1),
            "backwards",
        ),
        (
            "skbs that go back",
            all(|r| total(r).skbs_end.dropped = 1),
            "backwards",
        ),
        (
            "an upper bound below the lower",
            with(crashed(), |r| r.bytes_max = Some(15_181)),
            "backwards",
        ),
        (
            "a flag without a name",
            zone(|r| r.flags = Flags(512)),
            "flags",
        ),
        (
            "several windows without MERGED",
            zone(|r| r.window_first = 1_439),
            "flags",
        ),
        (
            "CORRECTION in a meter",
            zone(|r| r.flags = Flags::CORRECTION),
            "flags",
        ),
        (
            "a correction without its flag",
            with(correction(), |r| r.flags = Flags::NONE),
            "flags",
        ),
        (
            "NODATA in a meter",
            zone(|r| r.flags = Flags::NODATA),
            "flags",
        ),
        (
            "a first record with a flag",
            with(begin(), |r| r.flags = Flags::LATE),
            "flags",
        ),
        (
            "more unattributed than counted",
            all(|r| total(r).unattributed = counts(12, 0, 0)),
            "sum",
        ),
        (
            "a lower bound that was not counted",
            with(crashed(), |r| r.bytes_min = Some(15_183)),
            "sum",
        ),
        (
            "longer than between its cuts",
            zone(|r| reading(r).elapsed_ns += 1),
            "sum",
        ),
        (
            "a first record that lasts",
            with(begin(), |r| r.window_end += 1),
            "sum",
        ),
        (
            "a first record that is not the first",
            with(begin(), |r| r.seq = 1),
            "range",
        ),
        (
            "a ledger that supersedes itself",
            with(superseding(), |r| r.ledger_id = [0x4C; 16]),
            "range",
        ),
        (
            "a checkpoint with a seq",
            with(checkpoint(), |r| r.seq = 1),
            "range",
        ),
        (
            "a checkpoint with a salt",
            with(checkpoint(), |r| r.salt = [1; 16]),
            "range",
        ),
        (
            "a statement that sums what comes later",
            with(statement(), |r| r.seq = 129),
            "range",
        ),
        (
            "a statement without a number",
            with(statement(), |r| {
                let statement = r.statement.unwrap_or_default();
                r.statement = Some(Statement {
                    number: 0,
                    ..statement
                });
            }),
            "range",
        ),
        (
            "a statement with a flag",
            with(statement(), |r| r.flags = Flags::LATE),
            "flags",
        ),
        (
            "a statement without what was told",
            with(statement(), |r| r.statement = None),
            "missing",
        ),
        (
            "a correction of what comes later",
            with(correction(), |r| r.seq = 17),
            "range",
        ),
        (
            "another key of a tenant",
            with(rotation(), |r| r.tenant_seq = 1),
            "range",
        ),
        (
            "another key with a flag",
            with(rotation(), |r| r.flags = Flags::LATE),
            "flags",
        ),
        (
            "another key that lasts",
            with(rotation(), |r| r.window_end += 1),
            "sum",
        ),
        (
            "another key without one",
            with(rotation(), |r| r.rotation = None),
            "missing",
        ),
        (
            "an erasure of nothing",
            with(erasure(), |r| r.erased.clear()),
            "missing",
        ),
        (
            "an erasure without a cause",
            with(erasure(), |r| r.cause = None),
            "missing",
        ),
        (
            "an erasure of BEGIN",
            with(erasure(), |r| r.erased[0] = [0, 1]),
            "order",
        ),
        (
            "an erasure of neighbours in two ranges",
            with(erasure(), |r| r.erased[1] = [2, 17]),
            "order",
        ),
        (
            "an erasure of a range that goes back",
            with(erasure(), |r| r.erased[1] = [17, 3]),
            "backwards",
        ),
        (
            "an erasure of itself",
            with(erasure(), |r| r.erased[2] = [255, 300]),
            "range",
        ),
        (
            "an erasure of 65 ranges",
            with(erasure(), |r| {
                r.erased = (0..65).map(|at| [1 + 3 * at, 2 + 3 * at]).collect()
            }),
            "range",
        ),
        (
            "an erasure of the flow detail of no record",
            with(erasure_of_flows(), |r| {
                r.erased_flows = Some(ErasedFlows {
                    records: 0,
                    ..r.erased_flows.unwrap_or_default()
                });
            }),
            "range",
        ),
        (
            "an erasure of fewer rows than records",
            with(erasure_of_flows(), |r| {
                r.erased_flows = Some(ErasedFlows {
                    rows: 20_159,
                    ..r.erased_flows.unwrap_or_default()
                });
            }),
            "range",
        ),
        (
            "another key that erases flow detail",
            with(rotation(), |r| {
                r.erased_flows = erasure_of_flows().erased_flows
            }),
            "not_allowed",
        ),
    ]
}

/// Every vector: name, bytes, and the word for what is wrong.
pub fn all() -> Vec<Vector> {
    let parts = [bytes(), fields(), evidence::all()];
    parts.into_iter().flatten().collect()
}
