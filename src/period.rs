//! Hours, days and months, where the bill says: from dates and a time zone to times in UTC.
//!
//! Invariant: the ends of a period's parts are its own ends and what lies between, ascending; a day is from
//! one local midnight to the next, whatever the clocks do meanwhile.

use anyhow::{Context as _, Result, bail, ensure};
use jiff::{Span, Timestamp, civil::Date, tz::TimeZone};
use metering::usage::{HOUR_NS, SLOT_NS};
use std::str::FromStr;

/// A time in UTC, or the beginning of a day wherever the bill is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// 2026-11-24T03:00:00Z
    Time(Timestamp),
    /// 2026-11-24
    Day(Date),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = text.parse() {
            return Ok(Self::Time(time));
        }
        let day = text.parse::<Date>().map(Self::Day);
        day.map_err(|_| "write a time such as 2026-11-24T03:00:00Z, or a day".into())
    }
}

impl Moment {
    /// UTC, ns since 1970.
    ///
    /// # Errors
    /// When it is past 2262, which no record is.
    pub fn utc_ns(self, zone: &TimeZone) -> Result<i64> {
        match self {
            Self::Time(time) => nanoseconds(time),
            Self::Day(day) => midnight(day, zone),
        }
    }
}

fn nanoseconds(time: Timestamp) -> Result<i64> {
    i64::try_from(time.as_nanosecond()).context("no record is as late or as early as this")
}

/// When a day begins.
///
/// # Errors
/// When that is past 2262.
pub fn midnight(day: Date, zone: &TimeZone) -> Result<i64> {
    nanoseconds(day.to_zoned(zone.clone())?.timestamp())
}

/// The day that it is then.
///
/// # Errors
/// When the time is none that a calendar has.
pub fn day_of(utc_ns: i64, zone: &TimeZone) -> Result<Date> {
    let time = Timestamp::from_nanosecond(i128::from(utc_ns))?;
    Ok(time.to_zoned(zone.clone()).date())
}

/// A month as `2026-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Month(pub Date);

impl FromStr for Month {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let first = format!("{text}-01").parse::<Date>().ok();
        let first = first.filter(|first| first.strftime("%Y-%m").to_string() == text);
        first
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no month; write one such as 2026-11"))
    }
}

impl std::fmt::Display for Month {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.strftime("%Y-%m"))
    }
}

impl Month {
    /// From its first midnight to the next month's.
    ///
    /// # Errors
    /// When that is past 2262.
    pub fn period(self, zone: &TimeZone) -> Result<(i64, i64)> {
        let next = self.0.checked_add(Span::new().months(1))?;
        Ok((midnight(self.0, zone)?, midnight(next, zone)?))
    }
}

/// Parts of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One part: all of it.
    Whole,
    /// Slots of five minutes (M-16.3).
    Slot,
    /// UTC hours.
    Hour,
    /// Days in the time zone.
    Day,
    /// Months in the time zone.
    Month,
}

/// The ends of a period's parts.
///
/// # Errors
/// When the period is empty, does not begin and end with a slot of five minutes, or is longer than what is
/// reckoned at once.
pub fn bounds((from, to): (i64, i64), step: Step, zone: &TimeZone) -> Result<Vec<i64>> {
    const PARTS_MAX: usize = 100_000;
    ensure!(
        from < to,
        "the period is empty; write a --to that is later than --from"
    );
    for time in [from, to] {
        if time % SLOT_NS != 0 {
            let near = Timestamp::from_nanosecond(i128::from(time - time.rem_euclid(SLOT_NS)))?;
            bail!("usage is kept in slots of five minutes; write {near} or a multiple later");
        }
    }
    let mut bounds = vec![from];
    let mut at = from;
    while at < to {
        ensure!(
            bounds.len() < PARTS_MAX,
            "these are too many rows; write a shorter period"
        );
        at = match step {
            Step::Whole => to,
            Step::Slot => (at.div_euclid(SLOT_NS) + 1).saturating_mul(SLOT_NS),
            Step::Hour => (at.div_euclid(HOUR_NS) + 1).saturating_mul(HOUR_NS),
            Step::Day => midnight(day_of(at, zone)?.tomorrow()?, zone)?,
            Step::Month => Month(day_of(at, zone)?.first_of_month()).period(zone)?.1,
        };
        bounds.push(at.min(to));
    }
    Ok(bounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_23_and_25_hours_are_those_of_the_vectors() {
        let file = include_str!("../metering/vectors/usage.json");
        let file: serde_json::Value = serde_json::from_str(file).expect("JSON");
        let mut days = 0;
        for case in file["cases"].as_array().expect("cases") {
            let Some(zone) = case["timezone"].as_str() else {
                continue;
            };
            let zone = TimeZone::get(zone).expect("a time zone");
            let origin: i64 = case["origin"]
                .as_str()
                .and_then(|text| text.parse().ok())
                .expect("s");
            let hand = case["queries"][0]["bounds"].as_array().expect("bounds");
            let hand: Vec<i64> = hand
                .iter()
                .map(|bound| (origin + bound.as_i64().expect("s")) * 1_000_000_000)
                .collect();
            let period = (hand[0], hand[hand.len() - 1]);
            assert_eq!(bounds(period, Step::Day, &zone).expect("days"), hand);
            let names = case["days"].as_array().expect("days");
            for (name, begun) in names.iter().zip(&hand) {
                let day = day_of(*begun, &zone).expect("a day");
                assert_eq!(day.to_string(), name.as_str().expect("a day"));
                days += 1;
            }
            assert_ne!(hand[1] - hand[0], 24 * HOUR_NS);
        }
        assert_eq!(days, 4);
    }

    #[test]
    fn a_month_begins_and_ends_at_local_midnights() {
        let paris = TimeZone::get("Europe/Paris").expect("Paris");
        let hours = |text: &str, zone: &TimeZone| {
            let (from, to) = text
                .parse::<Month>()
                .expect("a month")
                .period(zone)
                .expect("a time");
            (to - from) / HOUR_NS
        };
        assert_eq!(hours("2026-03", &paris), 31 * 24 - 1);
        assert_eq!(hours("2026-10", &paris), 31 * 24 + 1);
        assert_eq!(hours("2026-11", &paris), 30 * 24);
        assert_eq!(hours("2028-02", &TimeZone::UTC), 29 * 24);
        for wrong in ["2026", "2026-13", "2026-1", "2026-11-01", "", "november"] {
            assert!(wrong.parse::<Month>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_add_up_to_the_period() {
        for zone in [
            "UTC",
            "Europe/Paris",
            "Asia/Kathmandu",
            "America/St_Johns",
            "Pacific/Apia",
        ] {
            let zone = TimeZone::get(zone).expect("a time zone");
            let period = (1_790_000_100_000_000_000, 1_809_000_000_000_000_000);
            for step in [Step::Whole, Step::Slot, Step::Hour, Step::Day, Step::Month] {
                let bounds = bounds(period, step, &zone).expect("parts");
                assert_eq!((bounds[0], bounds[bounds.len() - 1]), period);
                assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]));
            }
        }
        let slots = bounds((0, 12 * SLOT_NS), Step::Slot, &TimeZone::UTC).expect("an hour");
        assert_eq!(
            slots,
            (0..=12).map(|slot| slot * SLOT_NS).collect::<Vec<_>>()
        );
        assert!(bounds((1, SLOT_NS), Step::Whole, &TimeZone::UTC).is_err());
        assert!(bounds((SLOT_NS, SLOT_NS), Step::Whole, &TimeZone::UTC).is_err());
    }
}
