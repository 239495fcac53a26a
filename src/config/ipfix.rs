//! What a `[[sink]]` of the kind `ipfix` has of its own.

use super::{
    draft::Field,
    errors::At,
    file::key,
    reader::{Key, Reader},
};
use metering::sink::ipfix::Target;
use std::path::PathBuf;

pub(super) const URL: Key = key("url", "\"tls://collector.example:4740\"");
pub(super) const DOMAIN: Key = key("domain", "1");
pub(super) const IN_CLEAR: Key = key("in_clear", "true");

/// Its keys as the file has them.
pub(super) struct DraftIpfix {
    domain: Field<u32>,
    in_clear: Field<bool>,
}

impl DraftIpfix {
    /// Of another kind.
    pub fn none() -> Self {
        Self {
            domain: Field::Missing,
            in_clear: Field::Missing,
        }
    }

    /// One that was checked before.
    pub fn of(target: &Target) -> Self {
        Self {
            domain: Field::of(target.domain),
            in_clear: Field::of(target.in_clear),
        }
    }

    pub fn read(sink: &mut Reader<'_, '_, '_>) -> Self {
        Self {
            domain: sink.integer(DOMAIN, 1..=u32::MAX.into()),
            in_clear: sink.boolean(IN_CLEAR),
        }
    }

    /// Which are written, and where.
    pub fn written(&self) -> [(Key, Option<At>); 2] {
        [
            (DOMAIN, self.domain.get().map(|domain| domain.at)),
            (IN_CLEAR, self.in_clear.get().map(|clear| clear.at)),
        ]
    }

    /// The target; `None` if a value of it was refused.
    pub fn target(&self, url: &Field<String>, ca_file: &Field<PathBuf>) -> Option<Target> {
        Some(Target {
            url: url.value()?.clone(),
            domain: self.domain.clone().or(Target::DOMAIN)?,
            in_clear: self.in_clear.clone().or_default()?,
            ca_file: ca_file.clone().optional()?,
        })
    }
}
