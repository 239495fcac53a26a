//! Names of the daily files: `LEDGER.flows-YYYY-MM-DD.db`, a UTC day each.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub(crate) const DAY_NS: i64 = 86_400_000_000_000;

/// The UTC day of a time, counted from 1970-01-01. Both may be negative.
pub(crate) const fn of(utc_ns: i64) -> i64 {
    utc_ns.div_euclid(DAY_NS)
}

/// The name of a ledger, as its flow files have it: one that was put aside keeps the files that it had.
fn stem(ledger: &Path) -> String {
    let name = ledger.file_name().unwrap_or_default().to_string_lossy();
    let first = name.split(super::begin::ASIDE).next();
    first.unwrap_or_default().to_owned()
}

/// Was this ledger put aside? Its flow files are those of the one in its place, too.
pub(super) fn is_aside(ledger: &Path) -> bool {
    let name = ledger.file_name().unwrap_or_default().to_string_lossy();
    name.contains(super::begin::ASIDE)
}

/// The file of a day.
pub(super) fn name(ledger: &Path, day: i64) -> PathBuf {
    let (year, month, day) = civil(day);
    let stem = stem(ledger);
    ledger.with_file_name(format!("{stem}.flows-{year:04}-{month:02}-{day:02}.db"))
}

/// The flow files of a ledger, by day.
pub(super) fn files(ledger: &Path) -> io::Result<Vec<(i64, PathBuf)>> {
    let directory = ledger
        .parent()
        .filter(|found| !found.as_os_str().is_empty());
    let prefix = format!("{}.flows-", stem(ledger));
    let mut found = Vec::new();
    for entry in fs::read_dir(directory.unwrap_or(Path::new(".")))? {
        let entry = entry?.file_name();
        let entry = entry.to_string_lossy();
        let date = entry
            .strip_prefix(&prefix)
            .and_then(|rest| rest.strip_suffix(".db"));
        if let Some(day) = date.and_then(day) {
            found.push((day, name(ledger, day)));
        }
    }
    found.sort();
    Ok(found)
}

/// The day that `YYYY-MM-DD` names; only as [`name`] writes it.
fn day(date: &str) -> Option<i64> {
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, of_month) = (parts.next()??, parts.next()??, parts.next()??);
    let in_range = (0..=9_999).contains(&year) && (1..=12).contains(&month);
    let whole = in_range && (1..=31).contains(&of_month);
    let day = whole.then(|| from_civil(year, month, of_month))?;
    let (year, month, of_month) = civil(day);
    (format!("{year:04}-{month:02}-{of_month:02}") == date).then_some(day)
}

/// Year, month and day of the Gregorian calendar. Years begin in March here, so that the day of a leap
/// year is the last; an era is 400 of them, 146,097 days.
pub(crate) const fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400;
    (if month <= 2 { year + 1 } else { year }, month, of_month)
}

const fn from_civil(year: i64, month: i64, of_month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * month + 2) / 5 + of_month - 1;
    let of_era = year.rem_euclid(400);
    let of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    year.div_euclid(400) * 146_097 + of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Days from Python's `datetime.date.toordinal() - 719163`.
    #[test]
    fn a_day_has_its_name_and_a_name_its_day() {
        for (number, date) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (19_782, "2024-02-29"),
            (20_781, "2026-11-24"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            let (year, month, of_month) = civil(number);
            assert_eq!(format!("{year:04}-{month:02}-{of_month:02}"), date);
            assert_eq!(day(date), Some(number), "{date}");
        }
        for number in -200_000..200_000 {
            let (year, month, of_month) = civil(number);
            assert_eq!(from_civil(year, month, of_month), number);
        }
        for wrong in [
            "2026-02-29",
            "2026-13-01",
            "26-01-01",
            "2026-1-1",
            "2026-01",
            "",
            "x",
        ] {
            assert_eq!(day(wrong), None, "{wrong}");
        }
    }
}
