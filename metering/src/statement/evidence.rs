//! What a statement says of encryption: by direction and class, and what nobody looked at.

use super::{Digits, Line, way};
use crate::usage::Report;
use serde::{Serialize, Serializer};

/// Name of what is in no class.
pub const NOT_CLASSIFIED: &str = "not_classified";

/// What of one class of evidence was delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Classified {
    /// `from` or `to` the tenant.
    pub direction: &'static str,
    /// Name of the class; `not_classified`: the rest of the direction.
    pub class: String,
    /// Frames.
    pub packets: Digits,
    /// Layer-2 bytes.
    pub l2_bytes: Digits,
}

/// Evidence of encryption.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Evidence {
    /// Nobody looked at any of it: the word NOT_CLASSIFIED.
    #[default]
    NotClassified,
    /// By direction and class; of a direction they add up to it.
    Classes(Vec<Classified>),
}

impl Serialize for Evidence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::NotClassified => serializer.serialize_str("NOT_CLASSIFIED"),
            Self::Classes(classes) => classes.serialize(serializer),
        }
    }
}

impl Evidence {
    /// What was classified, and in each direction what is left of it.
    pub(super) fn of(usage: &Report, directions: &[Line], name: &dyn Fn(u8) -> String) -> Self {
        if usage.evidence.is_empty() {
            return Self::NotClassified;
        }
        let mut all = Vec::new();
        for line in directions {
            let (mut packets, mut l2_bytes) = (line.amount.packets.0, line.amount.l2_bytes.0);
            for ((_, direction, class), counts) in &usage.evidence {
                if way(*direction) == line.direction {
                    packets -= i128::from(counts.packets);
                    l2_bytes -= i128::from(counts.l2_bytes);
                    all.push(Classified {
                        direction: line.direction,
                        class: name(*class),
                        packets: counts.packets.into(),
                        l2_bytes: counts.l2_bytes.into(),
                    });
                }
            }
            // Corrections have no class, and may take more away than was never looked at.
            if packets != 0 || l2_bytes != 0 {
                all.push(Classified {
                    direction: line.direction,
                    class: NOT_CLASSIFIED.into(),
                    packets: Digits(packets),
                    l2_bytes: Digits(l2_bytes),
                });
            }
        }
        Self::Classes(all)
    }
}
