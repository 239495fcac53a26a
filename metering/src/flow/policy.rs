//! What may be kept of whose flows: `docs/METERING.md`, M-13.2.

use super::Detail;
use std::collections::BTreeMap;

/// Details by tenant, of the open window and of those after it.
///
/// A window in which a detail changed has the lesser one: nobody's flows are kept who was told that they
/// are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    open: BTreeMap<u32, Detail>,
    next: BTreeMap<u32, Detail>,
}

impl Details {
    /// The details that are in force from now on, by tenant's number.
    pub fn set(&mut self, details: BTreeMap<u32, Detail>) {
        for (tenant, open) in &mut self.open {
            // A tenant that goes keeps what it had until its last window is cut.
            *open = details.get(tenant).copied().unwrap_or(*open).min(*open);
        }
        for (tenant, detail) in &details {
            self.open.entry(*tenant).or_insert(*detail);
        }
        self.next = details;
    }

    /// What may be kept of the open window; nothing of a tenant that nobody knows.
    #[must_use]
    pub fn of(&self, tenant: u32) -> Detail {
        self.open.get(&tenant).copied().unwrap_or(Detail::Off)
    }

    /// The open window was cut.
    pub fn cut(&mut self) {
        self.open.clone_from(&self.next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_in_which_a_detail_changed_has_the_lesser_one() {
        use Detail::{Full, Off, Prefix};
        let mut details = Details::default();
        details.set([(1, Full), (2, Off), (3, Prefix)].into());
        assert_eq!(
            [1, 2, 3, 4].map(|of| details.of(of)),
            [Full, Off, Prefix, Off]
        );
        details.set([(1, Prefix), (2, Full), (4, Full)].into());
        assert_eq!(
            [1, 2, 3, 4].map(|of| details.of(of)),
            [Prefix, Off, Prefix, Full]
        );
        // And again before the cut.
        details.set([(1, Full), (2, Full), (4, Full)].into());
        assert_eq!(
            [1, 2, 3, 4].map(|of| details.of(of)),
            [Prefix, Off, Prefix, Full]
        );
        details.cut();
        assert_eq!(
            [1, 2, 3, 4].map(|of| details.of(of)),
            [Full, Full, Off, Full]
        );
    }
}
