//! What was unusual about a window.

use std::{fmt, ops};

/// A set of flags; `docs/METERING.md`, M-6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(
    /// One bit each; bits without a name are refused by `decode`.
    pub u32,
);

impl Flags {
    /// Nothing unusual.
    pub const NONE: Self = Self(0);
    /// Covers more than one nominal window: nobody cut, or nothing could be written.
    pub const MERGED: Self = Self(1);
    /// What was carried in some of the time was not seen.
    pub const PARTIAL: Self = Self(1 << 1);
    /// The last of its registers: they are gone, or another map's are read from here on.
    pub const RESET: Self = Self(1 << 2);
    /// `bytes_max` or a label is reckoned from a clock or a ceiling that may have been another.
    pub const ESTIMATED: Self = Self(1 << 3);
    /// Its hour was settled before it was written.
    pub const LATE: Self = Self(1 << 4);
    /// A signed difference to an earlier record, not a reading.
    pub const CORRECTION: Self = Self(1 << 5);
    /// The interface carried more, or less, than the registers say.
    pub const UNMETERED: Self = Self(1 << 6);
    /// What was carried is not known.
    pub const NODATA: Self = Self(1 << 7);
    /// A cut was more than 500 ms away from the time it was meant for.
    pub const MISALIGNED: Self = Self(1 << 8);

    /// Each flag and its name, from the lowest bit up.
    pub const NAMES: [(Self, &str); 9] = [
        (Self::MERGED, "MERGED"),
        (Self::PARTIAL, "PARTIAL"),
        (Self::RESET, "RESET"),
        (Self::ESTIMATED, "ESTIMATED"),
        (Self::LATE, "LATE"),
        (Self::CORRECTION, "CORRECTION"),
        (Self::UNMETERED, "UNMETERED"),
        (Self::NODATA, "NODATA"),
        (Self::MISALIGNED, "MISALIGNED"),
    ];

    /// The flags that have a name.
    pub const ALL: Self = Self((1 << Self::NAMES.len()) - 1);

    /// Is every flag of `other` set?
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Is one of the flags of `other` set?
    #[must_use]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl ops::BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl ops::BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Names joined by `|`; nothing for no flag.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMES.into_iter().filter(|(flag, _)| self.has(*flag));
        for (index, (_, name)) in names.enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { "|" })?;
        }
        Ok(())
    }
}
