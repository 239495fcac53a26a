//! Tests of the record: examples first, then what no record and no bytes may do.
//!
//! `OCTROI_TEST_LEVEL` is `quick`, `normal` or `long`; `OCTROI_TEST_SEED` repeats a run.

pub(crate) mod draw;

use super::*;
use draw::{any_record, for_all, level};
use proptest::prelude::*;

const PAGE: &str = include_str!("../../../docs/METERING.md");

/// A window of one zone in which nothing was carried.
fn plain() -> Record {
    Record {
        kind: Kind::Meter,
        host: "h".into(),
        zone: Some(4),
        reading: Some(Reading::default()),
        ..Record::default()
    }
}

#[test]
fn the_page_names_every_field_flag_kind_and_error() {
    for (key, name) in rules::key::NAMES {
        let row = format!("| {key} | `{name}` |");
        assert!(PAGE.contains(&row), "no row {row:?}");
    }
    for (flag, name) in Flags::NAMES {
        let words = format!("{} `{name}`", flag.0);
        assert!(PAGE.contains(&words), "no {words:?}");
    }
    for kind in Kind::ALL {
        let words = format!("| {} {}", kind as u8, kind.name());
        assert!(PAGE.contains(&words), "no {words:?}");
    }
    let key = 0;
    for error in [
        RecordError::Truncated,
        RecordError::Trailing,
        RecordError::NotShortest { key },
        RecordError::Indefinite { key },
        RecordError::Forbidden { key },
        RecordError::Type { key },
        RecordError::Order { key },
        RecordError::Duplicate { key },
        RecordError::UnknownKey { key },
        RecordError::Missing { key },
        RecordError::NotAllowed { key },
        RecordError::Version { found: 2 },
        RecordError::Kind { found: 0 },
        RecordError::Range { key },
        RecordError::Text { key },
        RecordError::Backwards { key },
        RecordError::Flags { found: 0 },
        RecordError::Sum { key },
    ] {
        assert!(PAGE.contains(&format!("`{}`", error.word())), "{error:?}");
    }
}

#[test]
fn flags_print_as_their_names() {
    let flags = Flags::RESET | Flags::PARTIAL;
    assert_eq!(flags.to_string(), "PARTIAL|RESET");
    assert_eq!(Flags::NONE.to_string(), "");
    assert!(flags.has(Flags::RESET) && !flags.has(Flags::RESET | Flags::LATE));
    assert!(flags.any(Flags::RESET | Flags::LATE) && !flags.any(Flags::LATE));
}

#[test]
fn a_field_that_the_bytes_do_not_carry_is_not_passed_over_in_silence() {
    assert_eq!(plain().check(), Ok(()));
    let begin = Record {
        kind: Kind::Begin,
        zone: None,
        reading: None,
        port_uid: "a port that a BEGIN does not have".into(),
        ..plain()
    };
    assert_eq!(begin.check(), Err(RecordError::Lost));
}

#[test]
fn a_window_first_that_is_its_window_has_one_encoding() {
    let merged = Record {
        window_id: 9,
        window_first: 8,
        flags: Flags::MERGED,
        ..plain()
    };
    assert_eq!(merged.check(), Ok(()));
    let mut bytes = merged.encode();
    let at = bytes
        .windows(4)
        .position(|pairs| pairs == [16, 9, 17, 8])
        .expect("it has both windows");
    bytes[at + 3] = 9;
    let refused = Record::decode(&bytes);
    assert_eq!(refused, Err(RecordError::Range { key: 17 }));
}

/// A map of 2^64 − 1 pairs, an array, a string: what they promise is not believed.
#[test]
fn a_length_that_is_a_lie_is_refused_before_anything_is_kept_for_it() {
    for head in [0xBB, 0x9B, 0x7B, 0x5B] {
        let mut bytes = vec![head];
        bytes.extend([0xFF; 8]);
        assert!(Record::decode(&bytes).is_err());
        let mut value = vec![0xA1, 0x00];
        value.extend(&bytes);
        assert!(Record::decode(&value).is_err());
    }
}

#[test]
fn counted_is_the_difference_and_never_wraps() {
    let mut record = plain();
    let mut reading = Reading::default();
    reading.register_start.l2_bytes = 60;
    reading.register_end.l2_bytes = u64::MAX;
    record.reading = Some(reading);
    let counted = record.counted().expect("it goes forward");
    assert_eq!(counted.l2_bytes, u64::MAX - 60);
    reading.register_end.l2_bytes = 59;
    record.reading = Some(reading);
    assert_eq!(record.counted(), None);
    assert_eq!(record.check(), Err(RecordError::Backwards { key: 28 }));
}

#[test]
fn the_largest_record_is_within_its_bound() {
    const MOST: u64 = u64::MAX;
    let counts = Counts {
        packets: MOST,
        l2_bytes: MOST,
        l3_bytes: MOST,
    };
    let skbs = Skbs {
        delivered: MOST,
        delivered_len: MOST,
        dropped: MOST,
        dropped_len: MOST,
    };
    let drops = (1..32).map(|reason| Dropped {
        reason,
        packets: MOST,
        l2_bytes: MOST,
    });
    // Everything was counted, and the classes are as even as that allows.
    let classes = (0..8).map(|class| Classified {
        class,
        packets: MOST / 8,
        l2_bytes: MOST / 8,
    });
    let largest = Record {
        seq: MOST,
        stream_seq: MOST,
        tenant_seq: MOST,
        kind: Kind::Meter,
        host: "h".repeat(253),
        flags: Flags(Flags::ALL.0 & !(Flags::CORRECTION | Flags::NODATA).0),
        port_uid: "p".repeat(64),
        incarnation: MOST,
        tenant: u32::MAX,
        direction: 1,
        window_id: MOST,
        window_first: MOST - 1,
        window_start: i64::MIN,
        window_end: i64::MIN,
        reading: Some(Reading {
            register_start: Counts::default(),
            register_end: counts,
            cut_start_ns: MOST / 2,
            cut_end_ns: MOST,
            elapsed_ns: MOST / 2,
            utc_offset_ns: i64::MIN,
            step_ns: i64::MAX,
            revision_first: u32::MAX,
            revision_last: u32::MAX,
            program_tag: Some([0xFF; 8]),
        }),
        total: Some(Total {
            skbs_start: skbs,
            skbs_end: skbs,
            drops: drops.collect(),
            evidence: classes.collect(),
            clock: Clock {
                state: i32::MIN,
                est_error_us: MOST,
                max_error_us: MOST,
                synchronised: true,
            },
            post_meter_drops: Some(MOST),
            ..Total::default()
        }),
        bytes_min: Some(MOST),
        bytes_max: Some(MOST),
        cause: Some("é".repeat(128)),
        flows: Some(Flows {
            rows: MOST,
            root: [0xFF; 32],
        }),
        ..Record::default()
    };
    assert_eq!(largest.check(), Ok(()));
    let bytes = largest.encode().len();
    assert!(bytes <= ENCODED_BYTES_MAX, "{bytes}");
}

#[test]
fn every_record_comes_back_from_its_bytes() {
    let cases = level(200, 5_000, 1_000_000);
    for_all("round trips", cases, &any_record(), |record| {
        record.check().map_err(|error| format!("{error}"))?;
        let bytes = record.encode();
        if bytes.len() > ENCODED_BYTES_MAX {
            return Err(format!("{} bytes", bytes.len()));
        }
        Ok(())
    });
}

/// Bytes are refused, or they are the one encoding of the record that they are read as.
fn refused_or_itself(bytes: &[u8]) -> Result<bool, String> {
    match Record::decode(bytes) {
        Err(_) => Ok(false),
        Ok(record) if record.encode() == bytes => Ok(true),
        Ok(record) => Err(format!("{bytes:02x?} is read as {record:?}")),
    }
}

#[test]
fn every_truncation_is_refused_and_every_other_byte_is_refused_or_another_record() {
    let cases = level(2, 10, 4_000);
    let tried = std::cell::Cell::new([0_u64; 3]);
    for_all("records mutated", cases, &any_record(), |record| {
        let bytes = record.encode();
        let [mut truncated, mut refused, mut accepted] = tried.get();
        for end in 0..bytes.len() {
            if Record::decode(&bytes[..end]).is_ok() {
                return Err(format!("its first {end} bytes are a record"));
            }
            truncated += 1;
        }
        let mut mutated = bytes.clone();
        for at in 0..bytes.len() {
            for change in 1..=u8::MAX {
                mutated[at] = bytes[at] ^ change;
                if refused_or_itself(&mutated)? {
                    accepted += 1;
                } else {
                    refused += 1;
                }
            }
            mutated[at] = bytes[at];
        }
        tried.set([truncated, refused, accepted]);
        Ok(())
    });
    let [truncated, refused, accepted] = tried.get();
    println!("CASES: record truncations: {truncated}");
    println!("CASES: record mutations refused: {refused}");
    println!("CASES: record mutations that are another record: {accepted}");
    // Both happen, or the test shows nothing.
    assert!(refused > 0 && accepted > 0);
}

#[test]
fn no_bytes_make_the_decoder_panic() {
    let cases = level(5_000, 50_000, 20_000_000);
    let noise = prop::collection::vec(any::<u8>(), 0..300);
    for_all("random bytes", cases, &noise, |bytes| {
        refused_or_itself(&bytes).map(|_| ())
    });
    // Bytes that look like a record for longer.
    let cases = level(200, 5_000, 2_000_000);
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    let strategy = (any_record(), edits);
    for_all("bytes of records", cases, &strategy, |(record, edits)| {
        let mut bytes = record.encode();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            match byte % 3 {
                0 => bytes.insert(at, byte),
                1 => drop(bytes.remove(at)),
                _ => bytes[at] = byte,
            }
        }
        refused_or_itself(&bytes).map(|_| ())
    });
}

/// Two records with one leaf would be a bill that can be exchanged for another.
#[test]
fn different_records_have_different_leaves() {
    let cases = level(200, 5_000, 1_000_000);
    let strategy = (any_record(), any_record());
    for_all("pairs of leaves", cases, &strategy, |(one, other)| {
        let same = leaf_hash(&one.encode()) == leaf_hash(&other.encode());
        if same == (one == other) {
            Ok(())
        } else {
            Err("the same leaf".into())
        }
    });
}

/// RFC 4231 has no vector with a key of 32 bytes: this one is from Python's `hmac`.
#[test]
fn a_salt_is_the_hmac_of_its_seq() {
    let secret = std::array::from_fn(|index| index as u8);
    assert_eq!(salt(&secret, 0), SALT_OF_0);
    assert_ne!(salt(&secret, 1), SALT_OF_0);
}

const SALT_OF_0: [u8; 16] = 0x9F0C_D9B9_4097_FE49_2991_8D2B_8942_B344_u128.to_be_bytes();

/// RFC 6962 §2.1.3 of certificate transparency's own tests: the leaf of no bytes.
#[test]
fn a_leaf_is_hashed_apart_from_a_node() {
    let whole = Sha256::digest([0]);
    assert_eq!(leaf_hash(&[]), <[u8; 32]>::from(whole));
    assert_eq!(leaf_hash(&[])[..4], [0x6E, 0x34, 0x0B, 0x9C]);
}
