//! A record as text, for those who do not read its bytes. Numbers of 64 bits are decimal strings: they do not fit a
//! double.

use super::Item;
use crate::{
    ledger::days::{self, civil},
    note::hex,
    record::Kind,
};
use serde::{Deserialize, Serialize};

const SECOND_NS: i64 = 1_000_000_000;

/// A time as RFC 3339 has it, UTC, with as many digits as it has.
pub(super) fn rfc3339(utc_ns: i64) -> String {
    let (year, month, day) = civil(days::of(utc_ns));
    let of_day = utc_ns.rem_euclid(days::DAY_NS);
    let (second, nanos) = (of_day / SECOND_NS, of_day % SECOND_NS);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let fraction = match nanos {
        0 => String::new(),
        nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// The bytes of hexadecimal digits; `None`: they are none.
pub(super) fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = digits.chunks_exact(2);
    pairs
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}

/// As [`unhex`], of so many bytes.
pub(super) fn unhex_exact<const N: usize>(digits: &str) -> Option<[u8; N]> {
    unhex(digits)?.try_into().ok()
}

/// `from` the tenant, or `to` the tenant.
pub(super) fn direction(item: &Item) -> &'static str {
    if item.record.direction == 0 {
        "from"
    } else {
        "to"
    }
}

/// What a record says in words; the names are those of `octroi records`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Fields {
    pub kind: String,
    pub host: String,
    pub tenant: u32,
    pub port: String,
    pub incarnation: String,
    pub direction: String,
    /// `None`: of all, or of none.
    pub zone: Option<u32>,
    pub window_id: String,
    pub window_start: String,
    pub window_end: String,
    pub flags: String,
    /// What it adds to a bill, with a sign; absent: it bills nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l2_bytes: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l3_bytes: Option<String>,
    /// Of a correction, what it corrects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrects: Option<Corrects>,
    pub seq: String,
    pub leaf: String,
}

/// What a correction corrects, and why.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Corrects {
    pub ledger_id: String,
    pub seq: String,
    pub reason: String,
}

impl Fields {
    /// A direction's number, from its word.
    pub fn direction(word: &str) -> Option<i16> {
        match word {
            "from" => Some(0),
            "to" => Some(1),
            _ => None,
        }
    }

    pub fn of(item: &Item) -> Self {
        let record = &item.record;
        let billed = item.billed();
        let sum = |at: usize| billed.map(|sums| sums[at].to_string());
        let correction = record.correction.as_ref();
        Self {
            kind: record.kind.name().to_owned(),
            host: record.host.clone(),
            tenant: record.tenant,
            port: record.port_uid.clone(),
            incarnation: record.incarnation.to_string(),
            direction: direction(item).to_owned(),
            zone: record.zone,
            window_id: record.window_id.to_string(),
            window_start: rfc3339(record.window_start),
            window_end: rfc3339(record.window_end),
            flags: record.flags.to_string(),
            packets: sum(0),
            l2_bytes: sum(1),
            l3_bytes: sum(2),
            corrects: correction.map(|correction| Corrects {
                ledger_id: hex(&correction.ledger_id),
                seq: correction.corrects.to_string(),
                reason: correction.reason.clone(),
            }),
            seq: item.seq.to_string(),
            leaf: hex(&item.leaf),
        }
    }
}

/// Whether a record is a reading or a difference that a bill adds up.
pub(super) fn is_billed(item: &Item) -> bool {
    matches!(item.record.kind, Kind::Meter | Kind::Correction) && item.billed().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_to_the_nanosecond_and_before_1970_too() {
        for (utc_ns, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_795_748_640_500_000_000, "2026-11-27T03:04:00.5Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
            (i64::MIN, "1677-09-21T00:12:43.145224192Z"),
        ] {
            assert_eq!(rfc3339(utc_ns), text);
        }
    }

    #[test]
    fn hexadecimal_digits_come_back_and_nothing_else_is_taken() {
        assert_eq!(unhex("00ff1a"), Some(vec![0, 255, 26]));
        assert_eq!(unhex(""), Some(vec![]));
        for wrong in ["0", "0g", "0G", "é", "0x", "FF", " 0"] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
        assert_eq!(unhex_exact::<2>("00ff"), Some([0, 255]));
        assert_eq!(unhex_exact::<2>("00"), None);
    }
}
