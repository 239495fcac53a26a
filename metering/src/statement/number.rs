//! Numbers as people of a language write them. Integers only, and what is rounded is beside what is exact.

use super::Lang;

/// Between groups of three digits: a comma, or a narrow space that does not break.
fn separator(lang: Lang) -> char {
    match lang {
        Lang::En => ',',
        Lang::Fr => '\u{202f}',
    }
}

/// Before a unit: a space that does not break.
pub const NBSP: char = '\u{a0}';

/// 1234567 as 1,234,567.
pub fn whole(value: i128, lang: Lang) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut grouped = String::from(if value < 0 { "\u{2212}" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(separator(lang));
        }
        grouped.push(digit);
    }
    grouped
}

/// `value / unit` with three decimals, half of the last one rounded up. What is not 0 is never shown as 0.
fn decimal(value: i128, unit: i128, lang: Lang) -> String {
    let point = match lang {
        Lang::En => '.',
        Lang::Fr => ',',
    };
    let magnitude = value.unsigned_abs();
    let unit = unit.unsigned_abs().max(1);
    let thousandths = magnitude.saturating_mul(1_000).saturating_add(unit / 2) / unit;
    if thousandths == 0 && magnitude != 0 {
        return format!("<{NBSP}0{point}001");
    }
    let (integer, rest) = (thousandths / 1_000, thousandths % 1_000);
    let sign = if value < 0 { "\u{2212}" } else { "" };
    let integer = whole(i128::try_from(integer).unwrap_or(i128::MAX), lang);
    format!("{sign}{integer}{point}{rest:03}")
}

/// Bytes in decimal gigabytes: 10^9.
pub fn gigabytes(bytes: i128, lang: Lang) -> String {
    let unit = match lang {
        Lang::En => "GB",
        Lang::Fr => "Go",
    };
    format!("{}{NBSP}{unit}", decimal(bytes, 1_000_000_000, lang))
}

/// Bits per second in the unit that leaves at least one digit before the point.
pub fn rate(bits: u64, lang: Lang) -> String {
    let units = [
        (1_000_000_000, "Gbit/s"),
        (1_000_000, "Mbit/s"),
        (1_000, "kbit/s"),
    ];
    for (unit, name) in units {
        if bits >= unit {
            return format!("{}{NBSP}{name}", decimal(bits.into(), unit.into(), lang));
        }
    }
    format!("{}{NBSP}bit/s", whole(bits.into(), lang))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_as_the_language_does() {
        for (value, en, fr) in [
            (0, "0", "0"),
            (999, "999", "999"),
            (1_000, "1,000", "1\u{202f}000"),
            (
                -1_234_567,
                "\u{2212}1,234,567",
                "\u{2212}1\u{202f}234\u{202f}567",
            ),
            (
                18_446_744_073_709_551_616,
                "18,446,744,073,709,551,616",
                "18\u{202f}446\u{202f}744\u{202f}073\u{202f}709\u{202f}551\u{202f}616",
            ),
        ] {
            assert_eq!(whole(value, Lang::En), en);
            assert_eq!(whole(value, Lang::Fr), fr);
        }
    }

    #[test]
    fn gigabytes_are_rounded_and_never_hide_a_byte() {
        for (bytes, en, fr) in [
            (0, "0.000\u{a0}GB", "0,000\u{a0}Go"),
            (1, "<\u{a0}0.001\u{a0}GB", "<\u{a0}0,001\u{a0}Go"),
            (499_999, "<\u{a0}0.001\u{a0}GB", "<\u{a0}0,001\u{a0}Go"),
            (500_000, "0.001\u{a0}GB", "0,001\u{a0}Go"),
            (
                1_234_567_890_123,
                "1,234.568\u{a0}GB",
                "1\u{202f}234,568\u{a0}Go",
            ),
            (
                -2_000_000_000,
                "\u{2212}2.000\u{a0}GB",
                "\u{2212}2,000\u{a0}Go",
            ),
        ] {
            assert_eq!(gigabytes(bytes, Lang::En), en);
            assert_eq!(gigabytes(bytes, Lang::Fr), fr);
        }
        assert_eq!(rate(999, Lang::En), "999\u{a0}bit/s");
        assert_eq!(rate(1_500, Lang::Fr), "1,500\u{a0}kbit/s");
        assert_eq!(rate(12_345_678_901, Lang::En), "12.346\u{a0}Gbit/s");
        // The largest there is does not overflow.
        assert!(gigabytes(i128::MAX, Lang::En).ends_with("GB"));
    }
}
