//! Which windows a ledger has brought: what tells a copy with another id from the ledger that follows (M-3.6).

use super::{Batch, SinkError};
use crate::{note::hex, record::Kind};
use serde::{Deserialize, Serialize};

/// Windows of one counter epoch (M-3.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Windows {
    /// The kernel's id of the boot, in hexadecimal digits.
    pub boot_id: String,
    /// The maps' id, in hexadecimal digits.
    pub map_generation: String,
    /// The first window's number, a decimal string.
    #[serde(with = "decimal")]
    pub first: u64,
    /// The last one's, likewise.
    #[serde(with = "decimal")]
    pub last: u64,
}

/// Numbers of 64 bits as decimal strings: they do not fit a double.
pub(super) mod decimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&number.to_string())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl Windows {
    /// Of a batch's readings, by epoch.
    pub(super) fn of(batch: &Batch) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for item in &batch.items {
            let record = &item.record;
            if record.kind == Kind::Meter {
                let new = Self {
                    boot_id: hex(&record.boot_id),
                    map_generation: hex(&record.map_generation),
                    first: record.window_first,
                    last: record.window_id,
                };
                Self::join(&mut all, [new]);
            }
        }
        all
    }

    fn is_of(&self, other: &Self) -> bool {
        self.boot_id == other.boot_id && self.map_generation == other.map_generation
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.is_of(other) && self.first <= other.last && other.first <= self.last
    }

    /// Adds more of them.
    pub(super) fn join(all: &mut Vec<Self>, more: impl IntoIterator<Item = Self>) {
        for new in more {
            match all.iter_mut().find(|known| known.is_of(&new)) {
                Some(known) => {
                    known.first = known.first.min(new.first);
                    known.last = known.last.max(new.last);
                }
                None => all.push(new),
            }
        }
    }
}

/// Refuses windows that another ledger of the host has brought already. Within one map generation each window is in one
/// ledger, and their numbers grow: spans that overlap are copies.
pub(super) fn nobody_elses<'a>(
    windows: &[Windows],
    others: impl Iterator<Item = (&'a [u8; 16], &'a [Windows])>,
) -> Result<(), SinkError> {
    for (id, theirs) in others {
        let mut pairs = windows
            .iter()
            .flat_map(|new| theirs.iter().map(move |old| (new, old)));
        if let Some((new, old)) = pairs.find(|(new, old)| new.overlaps(old)) {
            return Err(SinkError::Fork(format!(
                "windows {} to {} of the same registers came from the ledger {} already, as {} to {}",
                new.first,
                new.last,
                hex(id),
                old.first,
                old.last
            )));
        }
    }
    Ok(())
}
