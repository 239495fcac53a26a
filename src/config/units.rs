//! Rates, sizes and times as people write them, read exactly.
//!
//! `200Mbit/s`, `1.5Gbit/s`, `10kpps`, `625kB`, `1MiB`, `250ms`; a blank before the unit is allowed.
//! Integers only: a number that is not whole in its smallest unit is refused, not rounded. A unit
//! that can be meant in two ways (`Mbps`) is refused with what to write for each.

use dataplane_common::units::{BitsPerSecond, Bytes, PacketsPerSecond};

use super::model::Retention;
use super::values::{ValueError, shown};

/// A burst as it is written: a size, or for how long the ceiling would need to carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Burst {
    /// In bytes.
    Size(Bytes),
    /// In nanoseconds at the ceiling.
    Nanos(u64),
}

/// Reads a rate in bits: `bit/s`, `kbit/s`, `Mbit/s`, `Gbit/s`, `Tbit/s`, powers of 1,000.
///
/// # Errors
/// Anything else, with what to write instead.
pub fn parse_rate(text: &str) -> Result<BitsPerSecond, ValueError> {
    let quantity = Quantity::split(text, "a rate such as 200Mbit/s")?;
    if let Some(scale) = si_prefix(quantity.unit.strip_suffix("bit/s")) {
        return quantity.whole(scale, "bits per second").map(BitsPerSecond);
    }
    Err(wrong_rate_unit(text, &quantity))
}

/// Reads a rate in packets: `pps`, `kpps`, `Mpps`, `Gpps`, powers of 1,000.
///
/// # Errors
/// Anything else, with what to write instead.
pub fn parse_packet_rate(text: &str) -> Result<PacketsPerSecond, ValueError> {
    let quantity = Quantity::split(text, "a packet rate such as 10kpps")?;
    if let Some(scale) = si_prefix(quantity.unit.strip_suffix("pps")) {
        return quantity
            .whole(scale, "packets per second")
            .map(PacketsPerSecond);
    }
    let stems = [
        "pps",
        "p/s",
        "packets/s",
        "packet/s",
        "pkts/s",
        "pkt/s",
        "packets",
        "pkts",
    ];
    let write = match quantity.meant(&stems) {
        Some(packets) => PacketsPerSecond(packets).to_string(),
        None => format!("{}pps, or kpps, Mpps or Gpps", quantity.number),
    };
    Err(quantity.wrong_unit(text, "packet rate", &write))
}

/// Reads a time (`ns`, `us`, `ms`, `s`), in ns.
///
/// # Errors
/// Anything else, with what to write instead.
pub(super) fn parse_time(text: &str) -> Result<u64, ValueError> {
    match parse_burst(text) {
        Ok(Burst::Nanos(nanos)) => Ok(nanos),
        _ => Err(ValueError(format!(
            "{} is no time; write a number and ms or s, such as 60s",
            shown(text)
        ))),
    }
}

/// Reads a number of days (`d`), months of 31 days (`mo`) or years of 366 (`y`).
///
/// # Errors
/// Anything else, with what to write instead.
pub(super) fn parse_days(text: &str) -> Result<u32, ValueError> {
    let number = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let days = match &text[number.len()..] {
        "d" => Some(1),
        "mo" => Some(Retention::MONTH_DAYS),
        "y" => Some(Retention::YEAR_DAYS),
        _ => None,
    };
    let digits = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.is_empty();
    let Some(unit) = days.filter(|_| digits) else {
        return Err(ValueError(format!(
            "{} is no number of days, months or years; write such as 7d, 13mo or 10y",
            shown(text)
        )));
    };
    // What is too long for a number is too long for a retention.
    let days = number.parse::<u32>().ok();
    match days.and_then(|number| number.checked_mul(unit)) {
        Some(0) => Err(ValueError(format!(
            "{} is less than a day; write at least 1d",
            shown(text)
        ))),
        Some(days) if days <= Retention::DAYS_MAX => Ok(days),
        _ => Err(ValueError(format!(
            "{} is too long; write at most 100y",
            shown(text)
        ))),
    }
}

/// Reads a size (`B`, `kB`, `MB`, `GB`, `TB`; `KiB`, `MiB`, `GiB`, `TiB`) or a time (`ns`, `us`,
/// `ms`, `s`).
///
/// # Errors
/// Anything else, with what to write instead.
pub(super) fn parse_burst(text: &str) -> Result<Burst, ValueError> {
    let quantity = Quantity::split(text, "a size such as 625kB or a time such as 250ms")?;
    let nanos = match quantity.unit {
        "ns" => Some(1),
        "us" | "µs" | "μs" => Some(1_000),
        "ms" => Some(1_000_000),
        "s" => Some(1_000_000_000),
        _ => None,
    };
    if let Some(scale) = nanos {
        return quantity.whole(scale, "nanoseconds").map(Burst::Nanos);
    }
    let prefix = quantity.unit.strip_suffix('B');
    if let Some(scale) = si_prefix(prefix).or_else(|| iec_prefix(prefix)) {
        return quantity
            .whole(scale, "bytes")
            .map(|bytes| Burst::Size(Bytes(bytes)));
    }
    Err(wrong_size_unit(text, &quantity))
}

/// A number and its unit, as written.
struct Quantity<'t> {
    /// The number's text, for messages.
    number: &'t str,
    whole: u128,
    /// Digits after the point without trailing zeros, and how many they are.
    fraction: u128,
    fraction_digits: u32,
    unit: &'t str,
}

impl<'t> Quantity<'t> {
    /// Splits `text` after its number; `want` says what a right text looks like.
    fn split(text: &'t str, want: &str) -> Result<Self, ValueError> {
        let refuse = |what: &str| Err(ValueError(format!("{} {what}; write {want}", shown(text))));
        if text.is_empty() {
            return Err(ValueError(format!(
                "there is nothing in the quotes; write {want}"
            )));
        }
        if text.starts_with('-') {
            return refuse("is negative");
        }
        let (whole, rest) = split_digits(text);
        if whole.is_empty() {
            return refuse("does not start with a number");
        }
        let (fraction, rest) = match rest.strip_prefix('.') {
            Some(rest) => split_digits(rest),
            None => ("", rest),
        };
        let number = &text[..text.len() - rest.len()];
        if number.ends_with('.') {
            return refuse("has no digit after the point");
        }
        if let Some(after) = rest.strip_prefix(',') {
            let digits = split_digits(after).0;
            return refuse(&format!("has a comma: {number}.{digits} is a fraction"));
        }
        let unit = rest.trim_start_matches(' ');
        if unit.is_empty() {
            return refuse("has no unit");
        }
        let fraction = fraction.trim_end_matches('0');
        let (Some(whole), Some(fraction_value)) = (number_of(whole), number_of(fraction)) else {
            return refuse("has too many digits");
        };
        let fraction_digits = fraction.len() as u32;
        Ok(Self {
            number,
            whole,
            fraction: fraction_value,
            fraction_digits,
            unit,
        })
    }

    /// The quantity in the unit's base, exactly; `base` names it.
    fn whole(&self, scale: u128, base: &str) -> Result<u64, ValueError> {
        // Both have at most 18 digits and the scale is at most 1024⁴: below 2¹⁰³.
        let divisor = 10u128.pow(self.fraction_digits);
        let scaled = self.fraction * scale;
        let text = format!("{}{}", self.number, self.unit);
        if !scaled.is_multiple_of(divisor) {
            return Err(ValueError(format!(
                "{} is no whole number of {base}; write fewer digits after the point",
                shown(&text)
            )));
        }
        u64::try_from(self.whole * scale + scaled / divisor).map_err(|_| {
            ValueError(format!(
                "{} is more than any link carries; write less",
                shown(&text)
            ))
        })
    }

    /// The quantity if the unit is one of `stems` after a prefix in any case, exactly.
    fn meant(&self, stems: &[&str]) -> Option<u64> {
        let prefix = |stem: &&str| loose_prefix(self.unit.strip_suffix(*stem)?);
        self.whole(stems.iter().find_map(prefix)?, "").ok()
    }

    /// The error for a unit that is none, when there is nothing more to explain.
    fn wrong_unit(&self, text: &str, kind: &str, write: &str) -> ValueError {
        ValueError(format!(
            "{} has the unit {}, which is none for a {kind}; write {write}",
            shown(text),
            shown(self.unit)
        ))
    }
}

/// Splits after the leading ASCII digits.
fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .bytes()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// The value of up to 18 digits; 0 for none.
fn number_of(digits: &str) -> Option<u128> {
    match digits.len() {
        0 => Some(0),
        1..=18 => digits.parse().ok(),
        _ => None,
    }
}

/// What an SI prefix stands for.
fn si_prefix(prefix: Option<&str>) -> Option<u128> {
    match prefix? {
        "" => Some(1),
        "k" => Some(1_000),
        "M" => Some(1_000_000),
        "G" => Some(1_000_000_000),
        "T" => Some(1_000_000_000_000),
        _ => None,
    }
}

/// What an IEC prefix stands for.
fn iec_prefix(prefix: Option<&str>) -> Option<u128> {
    match prefix? {
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        "Ti" => Some(1 << 40),
        _ => None,
    }
}

/// What a prefix was meant to be, whatever its case: for hints only.
fn loose_prefix(prefix: &str) -> Option<u128> {
    let lower = prefix.to_ascii_lowercase();
    let power = match lower.trim_end_matches('i') {
        "" => return lower.is_empty().then_some(1),
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    let step: u128 = if lower.ends_with('i') { 1_024 } else { 1_000 };
    Some(step.pow(power))
}

/// Explains a rate's unit: bytes, ambiguous, or spelt in another way.
fn wrong_rate_unit(text: &str, quantity: &Quantity<'_>) -> ValueError {
    let in_bits = |bytes: u64| {
        let bits = BitsPerSecond(bytes.checked_mul(8)?);
        Some(format!("{bits} for {}/s", Bytes(bytes)))
    };
    if let Some(ambiguous) = quantity.meant(&["bps"])
        && let Some(as_bytes) = in_bits(ambiguous)
    {
        let as_bits = BitsPerSecond(ambiguous);
        return ValueError(format!(
            "{} can mean bits or bytes; write {as_bits}, or {as_bytes}",
            shown(text)
        ));
    }
    if let Some(bytes) = quantity.meant(&["B/s", "Bps", "bytes/s", "byte/s"])
        && let Some(write) = in_bits(bytes)
    {
        return ValueError(format!(
            "{} counts bytes, and a rate counts bits; write {write}",
            shown(text)
        ));
    }
    let write = match quantity.meant(&["bit/s", "bits/s", "bit", "bits", "b/s"]) {
        Some(bits) => BitsPerSecond(bits).to_string(),
        None => format!(
            "{}bit/s, or kbit/s, Mbit/s, Gbit/s or Tbit/s",
            quantity.number
        ),
    };
    quantity.wrong_unit(text, "rate", &write)
}

/// Explains a size's unit: bits, ambiguous, or spelt in another way.
fn wrong_size_unit(text: &str, quantity: &Quantity<'_>) -> ValueError {
    if quantity.unit == "KB" {
        let number = quantity.number;
        return ValueError(format!(
            "{} can mean 1,000 or 1,024 bytes each; write {number}kB or {number}KiB",
            shown(text)
        ));
    }
    if let Some(bits) = quantity.meant(&["bit", "bits", "b"])
        && bits % 8 == 0
    {
        return ValueError(format!(
            "{} counts bits, and a size counts bytes; write {}",
            shown(text),
            Bytes(bits / 8)
        ));
    }
    let write = match quantity.meant(&["B", "bytes", "byte"]) {
        Some(bytes) => Bytes(bytes).to_string(),
        None => "a size such as 625kB or 1MiB, or a time such as 250ms".to_string(),
    };
    quantity.wrong_unit(text, "burst", &write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{Random, seed};

    #[test]
    fn rates_are_read_as_people_write_them() {
        let cases = [
            ("200Mbit/s", 200_000_000),
            ("200 Mbit/s", 200_000_000),
            ("1.5Gbit/s", 1_500_000_000),
            ("1.500000000000Gbit/s", 1_500_000_000),
            ("0.001kbit/s", 1),
            ("007bit/s", 7),
            ("0bit/s", 0),
            ("18446744.073709551615Tbit/s", u64::MAX),
        ];
        for (text, bits) in cases {
            assert_eq!(parse_rate(text), Ok(BitsPerSecond(bits)), "{text}");
        }
        assert!(parse_rate("18446744.073709551616Tbit/s").is_err());
    }

    #[test]
    fn packet_rates_are_read_as_people_write_them() {
        let cases = [
            ("1pps", 1),
            ("10kpps", 10_000),
            ("1.25 Mpps", 1_250_000),
            ("1Gpps", 1_000_000_000),
        ];
        for (text, packets) in cases {
            assert_eq!(
                parse_packet_rate(text),
                Ok(PacketsPerSecond(packets)),
                "{text}"
            );
        }
    }

    #[test]
    fn bursts_are_read_as_people_write_them() {
        let sizes = [
            ("1514B", 1_514),
            ("625kB", 625_000),
            ("6MB", 6_000_000),
            ("0.5GB", 500_000_000),
            ("1TB", 1_000_000_000_000),
            ("1.5KiB", 1_536),
            ("1MiB", 1 << 20),
            ("2GiB", 2 << 30),
            ("0.125 TiB", 1 << 37),
        ];
        for (text, bytes) in sizes {
            assert_eq!(parse_burst(text), Ok(Burst::Size(Bytes(bytes))), "{text}");
        }
        let times = [
            ("250ms", 250_000_000),
            ("10s", 10_000_000_000),
            ("1.5us", 1_500),
            ("1 µs", 1_000),
            ("1μs", 1_000),
            ("7ns", 7),
        ];
        for (text, nanos) in times {
            assert_eq!(parse_burst(text), Ok(Burst::Nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_printed_is_read_the_same() {
        let mut random = Random(seed() ^ 4);
        for _ in 0..20_000 {
            let number = random.magnitude(0, u64::MAX);
            let (rate, packets, bytes) = (
                BitsPerSecond(number),
                PacketsPerSecond(number),
                Bytes(number),
            );
            // More than 18 digits before the point are refused, and nobody has such a link.
            if number < 1_000_000_000_000_000_000 {
                assert_eq!(parse_rate(&rate.to_string()), Ok(rate));
                assert_eq!(parse_burst(&bytes.to_string()), Ok(Burst::Size(bytes)));
                if number < 1_000_000_000_000 {
                    assert_eq!(parse_packet_rate(&packets.to_string()), Ok(packets));
                }
            }
        }
        println!("CASES: config quantities: 20000");
    }

    #[test]
    fn no_text_panics_the_parsers() {
        let mut random = Random(seed() ^ 5);
        let pieces = [
            "9",
            "0",
            "1",
            ".",
            ",",
            "-",
            "+",
            " ",
            "e",
            "k",
            "K",
            "M",
            "m",
            "G",
            "T",
            "i",
            "bit",
            "/s",
            "b",
            "B",
            "pps",
            "ps",
            "s",
            "µ",
            "\0",
            "999999999999999999",
        ];
        for _ in 0..50_000 {
            let text: String = (0..random.below(7))
                .map(|_| *random.pick(&pieces))
                .collect();
            for refused in [
                parse_rate(&text).err(),
                parse_packet_rate(&text).err(),
                parse_burst(&text).err(),
            ] {
                let one_line =
                    refused.is_none_or(|e| e.0.contains("; write ") && !e.0.contains('\n'));
                assert!(one_line, "{text}");
            }
        }
        println!("CASES: config quantity texts: 50000");
    }
}
