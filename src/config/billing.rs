//! What bills need to know beside the records: the time zone of days and months, and how a tenant's
//! traffic is charged.

use super::values::{ValueError, shown};
use jiff::{civil::Date, tz::TimeZone};
use std::{fmt, str::FromStr};

/// `[billing]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Billing {
    /// Whose midnights days and months begin at.
    pub timezone: Zone,
}

/// Name of a time zone of the IANA database, such as `Europe/Paris`. The database is octroi's own: a host's
/// older one does not move a month's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(String);

impl Zone {
    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The zone itself.
    pub fn get(&self) -> TimeZone {
        // It was there when the name was read, and the database does not change while octroi runs.
        TimeZone::get(&self.0).unwrap_or(TimeZone::UTC)
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self("UTC".into())
    }
}

impl FromStr for Zone {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let known = TimeZone::get(text).ok();
        let name = known.as_ref().and_then(TimeZone::iana_name);
        match name {
            Some(name) => Ok(Self(name.to_owned())),
            None => Err(ValueError(format!(
                "there is no time zone {}; write UTC, or a name such as Europe/Paris",
                shown(text)
            ))),
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a tenant's traffic is charged. octroi has no prices: it says which of them applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChargeClass {
    /// As usual.
    #[default]
    Standard,
    /// The tenant moves to another provider: the Data Act of the European Union has its own rule for that.
    Switching,
    /// The tenant uses several providers side by side, likewise.
    Parallel,
    /// It is not charged.
    Credit,
}

impl ChargeClass {
    /// Every class.
    pub const ALL: [Self; 4] = [
        Self::Standard,
        Self::Switching,
        Self::Parallel,
        Self::Credit,
    ];

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Switching => "switching",
            Self::Parallel => "parallel",
            Self::Credit => "credit",
        }
    }
}

impl FromStr for ChargeClass {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut classes = Self::ALL.into_iter();
        let found = classes.find(|class| class.as_str() == text);
        found.ok_or_else(|| {
            ValueError(format!(
                "there is no charge class {}; write standard, switching, parallel or credit",
                shown(text)
            ))
        })
    }
}

/// A class that begins on a day, in the time zone of `[billing]`; prints as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChargeChange {
    /// From the beginning of this day.
    pub from: Date,
    /// How it is charged from then on.
    pub class: ChargeClass,
}

impl FromStr for ChargeChange {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let parts = text.split_once(' ');
        let day = parts.and_then(|(day, class)| Some((day.parse::<Date>().ok()?, class)));
        match day {
            // A date has other spellings; one of them is enough.
            Some((from, class)) if text.starts_with(&from.to_string()) => Ok(Self {
                from,
                class: class.parse()?,
            }),
            _ => Err(ValueError(format!(
                "{} is no change; write a day and a class, such as `2027-01-12 switching`",
                shown(text)
            ))),
        }
    }
}

impl fmt::Display for ChargeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.from, self.class.as_str())
    }
}
