//! `[[sink]]`: where records go.

use super::{
    draft::Field,
    errors::{At, Faults},
    file::{file, header, key},
    reader::{Key, Reader},
    values::{Name, ValueError, shown},
};
use metering::sink::postgres::Target;
use std::{collections::HashSet, path::PathBuf, str::FromStr as _};
use toml::de::DeTable;

pub(super) const SINK: Key = header("sink", "[[sink]]");
const NAME: Key = key("name", "\"billing\"");
const KIND: Key = key("kind", "\"postgres\"");
const URL: Key = key("url", "\"postgres://octroi@billing.example/metering\"");
const PASSWORD_FILE: Key = key("password_file", "\"/etc/octroi/billing.password\"");
const CA_FILE: Key = key("ca_file", "\"/etc/octroi/billing-ca.pem\"");
const KEYS: [Key; 5] = [NAME, KIND, URL, PASSWORD_FILE, CA_FILE];

/// A sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// What `octroi sinks` calls it.
    pub name: Name,
    /// Where it is.
    pub target: Target,
}

/// A sink as the file has it.
pub(super) struct DraftSink {
    name: Field<Name>,
    url: Field<String>,
    password_file: Field<PathBuf>,
    ca_file: Field<PathBuf>,
    at: At,
}

impl DraftSink {
    /// A sink that was checked before.
    pub fn of(sink: &Sink) -> Self {
        Self {
            name: Field::of(sink.name.clone()),
            url: Field::of(sink.target.url.clone()),
            password_file: Field::of_optional(sink.target.password_file.clone()),
            ca_file: Field::of_optional(sink.target.ca_file.clone()),
            at: At::NOWHERE,
        }
    }

    /// The sink; `None` if a value of it was refused.
    pub fn build(self) -> Option<Sink> {
        Some(Sink {
            name: self.name.required()?,
            target: Target {
                url: self.url.required()?,
                password_file: self.password_file.optional()?,
                ca_file: self.ca_file.optional()?,
            },
        })
    }
}

/// Reads one.
pub(super) fn read(table: (&DeTable<'_>, At), faults: &mut Faults<'_>) -> DraftSink {
    let at = table.1;
    let mut sink = Reader::open(table, ("sink", "[[sink]]"), &KEYS, faults);
    let name = sink.text(NAME, Name::from_str);
    let kind = sink.text(KIND, |text| match text {
        "postgres" => Ok(()),
        _ => Err(ValueError(format!(
            "there is no sink of the kind {}; write postgres",
            shown(text)
        ))),
    });
    sink.required(KIND, kind);
    let url = sink.text(URL, |text| Ok(text.to_owned()));
    DraftSink {
        name: sink.required(NAME, name),
        url: sink.required(URL, url),
        password_file: sink.text(PASSWORD_FILE, file),
        ca_file: sink.text(CA_FILE, file),
        at,
    }
}

/// Reports names that are taken and addresses that are none.
pub(super) fn check(sinks: &[DraftSink], has_meter: bool, faults: &mut Faults<'_>) {
    let mut names = HashSet::new();
    for sink in sinks {
        if !has_meter {
            let message = "a sink has no records without a ledger; add [meter]";
            faults.add(sink.at, message.into());
        }
        if let Some(name) = sink.name.get()
            && !names.insert(name.value.clone())
        {
            let message = format!(
                "there are two sinks `{}`; name one of them otherwise",
                name.value
            );
            faults.add(name.at, message);
        }
        let Some(url) = sink.url.get() else { continue };
        let target = Target {
            url: url.value.clone(),
            password_file: sink.password_file.value().cloned(),
            ca_file: sink.ca_file.value().cloned(),
        };
        if let Err(wrong) = target.check() {
            faults.add(url.at, format!("`url`: {wrong}"));
        }
    }
}
