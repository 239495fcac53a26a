//! A row of OpenMeter's answer, and the number in it.

use super::Api;
use crate::sink::{Cell, text::Fields};
use serde_json::{Map, Number, Value};
use std::collections::HashMap;

/// What a double still counts one by one: 2^53.
const EXACT_BELOW: u128 = 1 << 53;

/// A row of an answer.
pub(super) fn read(
    row: &Value,
    api: Api,
    starts: &HashMap<String, i64>,
) -> Result<(Cell, i128), String> {
    let (start, groups) = match api {
        Api::V1 => ("windowStart", "groupBy"),
        Api::V3 => ("from", "dimensions"),
    };
    let start = row[start].as_str().and_then(|start| starts.get(start));
    let start = *start.ok_or("a window that was not asked for")?;
    let none = Map::new();
    let groups = row[groups].as_object().unwrap_or(&none);
    let subject = match api {
        Api::V1 => &row["subject"],
        Api::V3 => groups.get("subject").unwrap_or(&Value::Null),
    };
    let tenant = subject
        .as_str()
        .and_then(|subject| subject.parse::<u32>().ok());
    let tenant = tenant.ok_or("a subject that is no tenant")?.into();
    let direction = groups.get("direction").and_then(Value::as_str);
    let direction = Fields::direction(direction.unwrap_or_default()).ok_or("no direction")?;
    let value = match api {
        Api::V1 => row["value"].as_number().map(digits),
        Api::V3 => row["value"].as_str().map(str::to_owned),
    };
    let value = whole(&value.ok_or("no value")?)?;
    let cell = Cell {
        start,
        tenant,
        direction,
    };
    Ok((cell, value))
}

/// A number of an answer as text. OpenMeter writes whole numbers below 10^21 as digits alone, and those are integers to the reader
/// of JSON, too; what it had to make a double of stays marked as that, and is refused.
fn digits(number: &Number) -> String {
    let text = number.to_string();
    match text.as_str() {
        "-0.0" => "0".to_owned(),
        _ if !(number.is_i64() || number.is_u64()) => format!("{text} (a double)"),
        _ => text,
    }
}

/// A whole number that a double holds, from its digits.
fn whole(text: &str) -> Result<i128, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    // A number that is whole may be written with a fraction that is none.
    let digits = match digits.split_once('.') {
        Some((digits, fraction)) if fraction.bytes().all(|byte| byte == b'0') => digits,
        _ => digits,
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{text} is no whole number"));
    }
    let value: u128 = digits
        .parse()
        .map_err(|_| format!("{text} is too large a number"))?;
    if value >= EXACT_BELOW {
        return Err(format!(
            "{text} is more than a double counts one by one (2^53): compare shorter spans, --by minute"
        ));
    }
    let value = value as i128;
    Ok(if text.starts_with('-') { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_digit_by_digit_and_what_a_double_rounds_is_refused() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("12", 12),
            ("-12", -12),
            ("12.000", 12),
            ("9007199254740991", 9_007_199_254_740_991),
            ("-9007199254740991", -9_007_199_254_740_991),
        ] {
            assert_eq!(whole(text), Ok(value), "{text}");
        }
        for text in [
            "",
            "-",
            ".",
            ".0",
            "1.5",
            "1e3",
            "1E3",
            "+1",
            " 1",
            "0x1",
            "9007199254740992",
            "-9007199254740992",
            "1e+21",
            "340282366920938463463374607431768211456",
            "NaN",
            "١",
        ] {
            assert!(whole(text).is_err(), "{text}");
        }
        for (json, value) in [("1234", 1234), ("-7", -7), ("0", 0), ("-0", 0)] {
            let number: Number = serde_json::from_str(json).expect("JSON");
            assert_eq!(whole(&digits(&number)), Ok(value), "{json}");
        }
        for json in [
            "1.5",
            "1.0",
            "1e3",
            "1234.99999999999999999999",
            "1e300",
            "18446744073709551616",
            "1e21",
        ] {
            let number: Number = serde_json::from_str(json).expect("JSON");
            assert!(whole(&digits(&number)).is_err(), "{json}");
        }
    }
}
