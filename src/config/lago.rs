//! What a `[[sink]]` of the kind `lago` has of its own: a billable metric, and whose subscription is which.

use super::{
    draft::{Field, List},
    errors::At,
    file::key,
    reader::{Key, Reader},
    values::ValueError,
};
use metering::sink::lago::{Subscription, Target};
use std::{collections::HashSet, path::PathBuf};

pub(super) const URL: Key = key("url", "\"https://lago.example\"");
pub(super) const CODE: Key = key("code", "\"octroi_bytes\"");
pub(super) const SUBSCRIPTIONS: Key = key("subscriptions", "[\"17 sub_1234\"]");

/// Its keys as the file has them.
pub(super) struct DraftLago {
    code: Field<String>,
    subscriptions: List<Subscription>,
}

impl DraftLago {
    /// Of another kind.
    pub fn none() -> Self {
        Self {
            code: Field::Missing,
            subscriptions: List::of(&[]),
        }
    }

    /// One that was checked before.
    pub fn of(target: &Target) -> Self {
        Self {
            code: Field::of(target.code.clone()),
            subscriptions: List::of(&target.subscriptions),
        }
    }

    pub fn read(sink: &mut Reader<'_, '_, '_>) -> Self {
        Self {
            code: sink.text(CODE, |text| {
                Target::check_code(text).map_err(ValueError)?;
                Ok(text.to_owned())
            }),
            subscriptions: sink.texts(SUBSCRIPTIONS, |text| text.parse().map_err(ValueError)),
        }
    }

    /// Reports what is missing, and tenants that have two subscriptions.
    pub fn required(&mut self, sink: &mut Reader<'_, '_, '_>) {
        let code = std::mem::replace(&mut self.code, Field::Missing);
        self.code = sink.required(CODE, code);
        let list = &mut self.subscriptions;
        if list.items.is_empty() && !list.bad {
            list.bad = true;
            let missing: Field<()> = sink.required(SUBSCRIPTIONS, Field::Missing);
            debug_assert!(matches!(missing, Field::Bad));
        }
        let mut tenants = HashSet::new();
        for item in &list.items {
            if !tenants.insert(item.value.tenant) {
                list.bad = true;
                let message = format!(
                    "tenant {} has another subscription already; take one of them out",
                    item.value.tenant
                );
                sink.faults().add(item.at, message);
            }
        }
    }

    /// Which are written, and where.
    pub fn written(&self) -> [(Key, Option<At>); 2] {
        let list = &self.subscriptions;
        let is_written = !list.items.is_empty() || list.bad;
        [
            (CODE, self.code.get().map(|code| code.at)),
            (SUBSCRIPTIONS, is_written.then_some(list.at)),
        ]
    }

    /// The target; `None` if a value of it was refused.
    pub fn target(
        &self,
        url: &Field<String>,
        token_file: &Field<PathBuf>,
        ca_file: &Field<PathBuf>,
    ) -> Option<Target> {
        Some(Target {
            url: url.value()?.clone(),
            token_file: token_file.value()?.clone(),
            ca_file: ca_file.clone().optional()?,
            code: self.code.value()?.clone(),
            subscriptions: self.subscriptions.clone().values()?,
        })
    }
}
