//! Faults of what a record says of encryption.

use super::{Vector, with};
use crate::accepted::{classified, total, total_record, zone_record};
use metering::record::{Classified, Record};

/// Each with its name and its reason.
pub fn all() -> Vec<Vector> {
    let versioned = |version, record: Record| {
        let mut bytes = record.encode();
        // After the map's head of two bytes and the key 0.
        assert_eq!(bytes[2], 0);
        bytes[3] = version;
        bytes
    };
    let instead = |version, field: u8| {
        let mut bytes = versioned(version, total_record());
        let mut windows = bytes.windows(3);
        let at = windows.position(|three| three == [0x18, 35, 0]);
        bytes[at.expect("the field is there") + 2] = field;
        bytes
    };
    let rows =
        |change: fn(&mut Vec<Classified>)| with(classified(), |r| change(&mut total(r).evidence));
    vec![
        (
            "version 2 of what version 1 can say",
            versioned(2, total_record()),
            "version",
        ),
        (
            "version 1 of what only version 2 can say",
            versioned(1, classified()),
            "version",
        ),
        (
            "version 2 of a zone",
            versioned(2, zone_record()),
            "version",
        ),
        ("evidence 1", instead(1, 1), "range"),
        ("evidence in no class", instead(2, 0x80), "range"),
        ("class 8", rows(|rows| rows[1].class = 8), "range"),
        (
            "classes not in order",
            rows(|rows| rows.swap(0, 1)),
            "order",
        ),
        (
            "a class twice",
            rows(|rows| rows[0].class = rows[1].class),
            "duplicate",
        ),
        (
            "a class of no packet",
            rows(|rows| rows[0].packets = 0),
            "range",
        ),
        (
            "more packets of classes than were counted",
            rows(|rows| rows[0].packets = 6),
            "sum",
        ),
        (
            "more bytes of classes than were counted",
            rows(|rows| rows[0].l2_bytes = 663),
            "sum",
        ),
        (
            "more of a class than a register holds",
            rows(|rows| rows[0].packets = u64::MAX),
            "sum",
        ),
    ]
}
