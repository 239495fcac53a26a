//! `[[sink]]`: where records go.

use super::{
    draft::Field,
    errors::{At, Faults},
    file::{header, key},
    paths::{file, folder},
    reader::{Key, Reader},
    values::{Name, ValueError, shown},
};
use metering::sink::{Target, cloudevents, files, postgres};
use std::{collections::HashSet, path::PathBuf, str::FromStr as _};
use toml::de::DeTable;

pub(super) const SINK: Key = header("sink", "[[sink]]");
const NAME: Key = key("name", "\"billing\"");
const KIND: Key = key("kind", "\"postgres\"");
const URL: Key = key("url", "\"postgres://octroi@billing.example/metering\"");
const EVENTS_URL: Key = key("url", "\"https://billing.example/api/v1/events\"");
const DIRECTORY: Key = key("directory", "\"/var/lib/octroi/export\"");
const PASSWORD_FILE: Key = key("password_file", "\"/etc/octroi/billing.password\"");
const TOKEN_FILE: Key = key("token_file", "\"/etc/octroi/billing.token\"");
const CA_FILE: Key = key("ca_file", "\"/etc/octroi/billing-ca.pem\"");
const KEYS: [Key; 7] = [
    NAME,
    KIND,
    URL,
    DIRECTORY,
    PASSWORD_FILE,
    TOKEN_FILE,
    CA_FILE,
];

/// A sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// What `octroi sinks` calls it.
    pub name: Name,
    /// What and where it is.
    pub target: Target,
}

impl Sink {
    /// The keys of its kind and their values, as the file has them.
    pub(super) fn keys(&self) -> Vec<(&'static str, String)> {
        let path = |path: &PathBuf| path.display().to_string();
        let (required, optional) = match &self.target {
            Target::Postgres(target) => (
                (URL, target.url.clone()),
                vec![
                    (PASSWORD_FILE, &target.password_file),
                    (CA_FILE, &target.ca_file),
                ],
            ),
            Target::Files(target) => ((DIRECTORY, path(&target.directory)), Vec::new()),
            Target::CloudEvents(target) => (
                (EVENTS_URL, target.url.clone()),
                vec![(TOKEN_FILE, &target.token_file), (CA_FILE, &target.ca_file)],
            ),
        };
        let optional = optional
            .into_iter()
            .filter_map(|(key, value)| Some((key.name, path(value.as_ref()?))));
        [(required.0.name, required.1)]
            .into_iter()
            .chain(optional)
            .collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Postgres,
    Files,
    CloudEvents,
}

impl Kind {
    /// In the order of [`Target::KINDS`].
    const ALL: [Self; 3] = [Self::Postgres, Self::Files, Self::CloudEvents];

    fn read(text: &str) -> Result<Self, ValueError> {
        let named = Target::KINDS.iter().position(|name| *name == text);
        named.map(|place| Self::ALL[place]).ok_or_else(|| {
            ValueError(format!(
                "there is no sink of the kind {}; write {}",
                shown(text),
                Target::KINDS.join(" or ")
            ))
        })
    }

    fn name(self) -> &'static str {
        Target::KINDS[self as usize]
    }
}

/// A sink as the file has it.
pub(super) struct DraftSink {
    name: Field<Name>,
    kind: Field<Kind>,
    url: Field<String>,
    directory: Field<PathBuf>,
    password_file: Field<PathBuf>,
    token_file: Field<PathBuf>,
    ca_file: Field<PathBuf>,
    at: At,
}

impl DraftSink {
    /// A sink that was checked before.
    pub fn of(sink: &Sink) -> Self {
        let mut draft = Self {
            name: Field::of(sink.name.clone()),
            kind: Field::Missing,
            url: Field::Missing,
            directory: Field::Missing,
            password_file: Field::Missing,
            token_file: Field::Missing,
            ca_file: Field::Missing,
            at: At::NOWHERE,
        };
        match sink.target.clone() {
            Target::Postgres(target) => {
                draft.kind = Field::of(Kind::Postgres);
                draft.url = Field::of(target.url);
                draft.password_file = Field::of_optional(target.password_file);
                draft.ca_file = Field::of_optional(target.ca_file);
            }
            Target::Files(target) => {
                draft.kind = Field::of(Kind::Files);
                draft.directory = Field::of(target.directory);
            }
            Target::CloudEvents(target) => {
                draft.kind = Field::of(Kind::CloudEvents);
                draft.url = Field::of(target.url);
                draft.token_file = Field::of_optional(target.token_file);
                draft.ca_file = Field::of_optional(target.ca_file);
            }
        }
        draft
    }

    /// The sink; `None` if a value of it was refused.
    pub fn build(self) -> Option<Sink> {
        Some(Sink {
            target: self.target()?,
            name: self.name.required()?,
        })
    }

    /// What and where it is; `None` if a value of it was refused.
    fn target(&self) -> Option<Target> {
        let file = |field: &Field<PathBuf>| field.clone().optional();
        Some(match self.kind.value()? {
            Kind::Postgres => Target::Postgres(postgres::Target {
                url: self.url.value()?.clone(),
                password_file: file(&self.password_file)?,
                ca_file: file(&self.ca_file)?,
            }),
            Kind::Files => Target::Files(files::Target {
                directory: self.directory.value()?.clone(),
            }),
            Kind::CloudEvents => Target::CloudEvents(cloudevents::Target {
                url: self.url.value()?.clone(),
                token_file: file(&self.token_file)?,
                ca_file: file(&self.ca_file)?,
            }),
        })
    }
}

/// Reads one.
pub(super) fn read(table: (&DeTable<'_>, At), faults: &mut Faults<'_>) -> DraftSink {
    let at = table.1;
    let mut sink = Reader::open(table, ("sink", "[[sink]]"), &KEYS, faults);
    let name = sink.text(NAME, Name::from_str);
    let kind = sink.text(KIND, Kind::read);
    let kind = sink.required(KIND, kind);
    let mut url = sink.text(URL, |text| Ok(text.to_owned()));
    let mut directory = sink.text(DIRECTORY, folder);
    match kind.value() {
        Some(Kind::Files) => directory = sink.required(DIRECTORY, directory),
        Some(Kind::CloudEvents) => url = sink.required(EVENTS_URL, url),
        Some(Kind::Postgres) | None => url = sink.required(URL, url),
    }
    let draft = DraftSink {
        name: sink.required(NAME, name),
        kind,
        url,
        directory,
        password_file: sink.text(PASSWORD_FILE, file),
        token_file: sink.text(TOKEN_FILE, file),
        ca_file: sink.text(CA_FILE, file),
        at,
    };
    others_keys(&draft, faults);
    draft
}

/// Reports keys that belong to a sink of another kind: what they ask for would not be done.
fn others_keys(sink: &DraftSink, faults: &mut Faults<'_>) {
    let Some(kind) = sink.kind.value().copied() else {
        return;
    };
    let url = sink.url.get().map(|url| url.at);
    let at = |file: &Field<PathBuf>| file.get().map(|file| file.at);
    let written = [
        (URL, url, kind == Kind::Files),
        (DIRECTORY, at(&sink.directory), kind != Kind::Files),
        (
            PASSWORD_FILE,
            at(&sink.password_file),
            kind != Kind::Postgres,
        ),
        (TOKEN_FILE, at(&sink.token_file), kind != Kind::CloudEvents),
        (CA_FILE, at(&sink.ca_file), kind == Kind::Files),
    ];
    for (key, at, is_anothers) in written {
        if let (Some(at), true) = (at, is_anothers) {
            let message = format!(
                "a sink of the kind {} has no `{}`; take it out",
                kind.name(),
                key.name
            );
            faults.add(at, message);
        }
    }
}

/// Reports names that are taken and addresses that are none.
pub(super) fn check(sinks: &[DraftSink], has_meter: bool, faults: &mut Faults<'_>) {
    let mut names = HashSet::new();
    let mut directories = HashSet::new();
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
        if let Some(directory) = sink.directory.get()
            && !directories.insert(directory.value.clone())
        {
            let message = "another sink writes there already; name another `directory`";
            faults.add(directory.at, message.into());
        }
        let wrong = match sink.target() {
            Some(Target::Postgres(target)) => target.check(),
            Some(Target::CloudEvents(target)) => target.check(),
            Some(Target::Files(_)) | None => Ok(()),
        };
        if let (Err(wrong), Some(url)) = (wrong, sink.url.get()) {
            faults.add(url.at, format!("`url`: {wrong}"));
        }
    }
}
