//! `[[sink]]`: where records go.

use super::{
    draft::Field,
    errors::{At, Faults},
    file::{header, key},
    ipfix::{self, DraftIpfix},
    lago::{self, DraftLago},
    paths::{file, folder},
    reader::{Key, Reader},
    values::{Name, ValueError, shown},
};
use metering::sink::{Target, clickhouse, cloudevents, files, nats, postgres};
use std::{collections::HashSet, path::PathBuf, str::FromStr as _};
use toml::de::DeTable;

pub(super) const SINK: Key = header("sink", "[[sink]]");
const NAME: Key = key("name", "\"billing\"");
const KIND: Key = key("kind", "\"postgres\"");
const URL: Key = key("url", "\"postgres://octroi@billing.example/metering\"");
const EVENTS_URL: Key = key("url", "\"https://billing.example/api/v1/events\"");
const CLUSTER_URL: Key = key("url", "\"tls://octroi@nats.example:4222\"");
const CLICKHOUSE_URL: Key = key("url", "\"https://octroi@clickhouse.example:8443\"");
const STREAM: Key = key("stream", "\"octroi\"");
const REPLICAS: Key = key("replicas", "3");
const DIRECTORY: Key = key("directory", "\"/var/lib/octroi/export\"");
const PARQUET: Key = key("parquet", "true");
const PASSWORD_FILE: Key = key("password_file", "\"/etc/octroi/billing.password\"");
const TOKEN_FILE: Key = key("token_file", "\"/etc/octroi/billing.token\"");
const CA_FILE: Key = key("ca_file", "\"/etc/octroi/billing-ca.pem\"");
const KEYS: [Key; 14] = [
    NAME,
    KIND,
    URL,
    STREAM,
    REPLICAS,
    DIRECTORY,
    PARQUET,
    PASSWORD_FILE,
    TOKEN_FILE,
    CA_FILE,
    lago::CODE,
    lago::SUBSCRIPTIONS,
    ipfix::DOMAIN,
    ipfix::IN_CLEAR,
];

/// A value of a key, to be written.
pub(super) enum Written {
    Text(String),
    Texts(Vec<String>),
    Number(u64),
    Boolean(bool),
}

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
    pub(super) fn keys(&self) -> Vec<(&'static str, Written)> {
        let path = |path: &PathBuf| path.display().to_string();
        let mut keys = Vec::new();
        let mut add = |key: Key, value: Option<Written>| {
            keys.extend(value.map(|value| (key.name, value)));
        };
        let text = |text: &String| Some(Written::Text(text.clone()));
        let file = |file: &Option<PathBuf>| file.as_ref().map(path).map(Written::Text);
        match &self.target {
            Target::Postgres(target) => {
                add(URL, text(&target.url));
                add(PASSWORD_FILE, file(&target.password_file));
                add(CA_FILE, file(&target.ca_file));
            }
            Target::Files(target) => {
                add(DIRECTORY, text(&path(&target.directory)));
                add(PARQUET, Some(Written::Boolean(target.parquet)));
            }
            Target::CloudEvents(target) => {
                add(EVENTS_URL, text(&target.url));
                add(TOKEN_FILE, file(&target.token_file));
                add(CA_FILE, file(&target.ca_file));
            }
            Target::Nats(target) => {
                let replicas = target.replicas.map(u64::from).map(Written::Number);
                add(CLUSTER_URL, text(&target.url));
                add(STREAM, text(&target.stream));
                add(REPLICAS, replicas);
                add(PASSWORD_FILE, file(&target.password_file));
                add(TOKEN_FILE, file(&target.token_file));
                add(CA_FILE, file(&target.ca_file));
            }
            Target::ClickHouse(target) => {
                add(CLICKHOUSE_URL, text(&target.url));
                add(PASSWORD_FILE, file(&target.password_file));
                add(CA_FILE, file(&target.ca_file));
            }
            Target::Lago(target) => {
                let all = target.subscriptions.iter().map(ToString::to_string);
                add(lago::URL, text(&target.url));
                add(TOKEN_FILE, text(&path(&target.token_file)));
                add(CA_FILE, file(&target.ca_file));
                add(lago::CODE, text(&target.code));
                add(lago::SUBSCRIPTIONS, Some(Written::Texts(all.collect())));
            }
            Target::Ipfix(target) => {
                add(ipfix::URL, text(&target.url));
                add(CA_FILE, file(&target.ca_file));
                add(ipfix::DOMAIN, Some(Written::Number(target.domain.into())));
                add(ipfix::IN_CLEAR, Some(Written::Boolean(target.in_clear)));
            }
        }
        keys
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Postgres,
    Files,
    CloudEvents,
    Nats,
    ClickHouse,
    Lago,
    Ipfix,
}

impl Kind {
    /// In the order of [`Target::KINDS`].
    const ALL: [Self; 7] = [
        Self::Postgres,
        Self::Files,
        Self::CloudEvents,
        Self::Nats,
        Self::ClickHouse,
        Self::Lago,
        Self::Ipfix,
    ];

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
    stream: Field<String>,
    replicas: Field<u8>,
    directory: Field<PathBuf>,
    parquet: Field<bool>,
    password_file: Field<PathBuf>,
    token_file: Field<PathBuf>,
    ca_file: Field<PathBuf>,
    lago: DraftLago,
    ipfix: DraftIpfix,
    at: At,
}

impl DraftSink {
    /// A sink that was checked before.
    pub fn of(sink: &Sink) -> Self {
        let mut draft = Self {
            name: Field::of(sink.name.clone()),
            kind: Field::Missing,
            url: Field::Missing,
            stream: Field::Missing,
            replicas: Field::Missing,
            directory: Field::Missing,
            parquet: Field::Missing,
            password_file: Field::Missing,
            token_file: Field::Missing,
            ca_file: Field::Missing,
            lago: DraftLago::none(),
            ipfix: DraftIpfix::none(),
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
                draft.parquet = Field::of(target.parquet);
            }
            Target::CloudEvents(target) => {
                draft.kind = Field::of(Kind::CloudEvents);
                draft.url = Field::of(target.url);
                draft.token_file = Field::of_optional(target.token_file);
                draft.ca_file = Field::of_optional(target.ca_file);
            }
            Target::Nats(target) => {
                draft.kind = Field::of(Kind::Nats);
                draft.url = Field::of(target.url);
                draft.stream = Field::of(target.stream);
                draft.replicas = Field::of_optional(target.replicas);
                draft.password_file = Field::of_optional(target.password_file);
                draft.token_file = Field::of_optional(target.token_file);
                draft.ca_file = Field::of_optional(target.ca_file);
            }
            Target::ClickHouse(target) => {
                draft.kind = Field::of(Kind::ClickHouse);
                draft.url = Field::of(target.url);
                draft.password_file = Field::of_optional(target.password_file);
                draft.ca_file = Field::of_optional(target.ca_file);
            }
            Target::Lago(target) => {
                draft.kind = Field::of(Kind::Lago);
                draft.lago = DraftLago::of(&target);
                draft.url = Field::of(target.url);
                draft.token_file = Field::of(target.token_file);
                draft.ca_file = Field::of_optional(target.ca_file);
            }
            Target::Ipfix(target) => {
                draft.kind = Field::of(Kind::Ipfix);
                draft.ipfix = DraftIpfix::of(&target);
                draft.url = Field::of(target.url);
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
                parquet: self.parquet.clone().or_default()?,
            }),
            Kind::CloudEvents => Target::CloudEvents(cloudevents::Target {
                url: self.url.value()?.clone(),
                token_file: file(&self.token_file)?,
                ca_file: file(&self.ca_file)?,
            }),
            Kind::Nats => Target::Nats(nats::Target {
                url: self.url.value()?.clone(),
                stream: self.stream.clone().or(nats::Target::STREAM.into())?,
                replicas: self.replicas.clone().optional()?,
                password_file: file(&self.password_file)?,
                token_file: file(&self.token_file)?,
                ca_file: file(&self.ca_file)?,
            }),
            Kind::ClickHouse => Target::ClickHouse(clickhouse::Target {
                url: self.url.value()?.clone(),
                password_file: file(&self.password_file)?,
                ca_file: file(&self.ca_file)?,
            }),
            Kind::Lago => {
                let (token_file, ca_file) = (&self.token_file, &self.ca_file);
                Target::Lago(self.lago.target(&self.url, token_file, ca_file)?)
            }
            Kind::Ipfix => Target::Ipfix(self.ipfix.target(&self.url, &self.ca_file)?),
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
    let mut token_file = sink.text(TOKEN_FILE, file);
    let mut lago = DraftLago::read(&mut sink);
    match kind.value() {
        Some(Kind::Files) => directory = sink.required(DIRECTORY, directory),
        Some(Kind::CloudEvents) => url = sink.required(EVENTS_URL, url),
        Some(Kind::Nats) => url = sink.required(CLUSTER_URL, url),
        Some(Kind::ClickHouse) => url = sink.required(CLICKHOUSE_URL, url),
        Some(Kind::Lago) => {
            url = sink.required(lago::URL, url);
            token_file = sink.required(TOKEN_FILE, token_file);
            lago.required(&mut sink);
        }
        Some(Kind::Ipfix) => url = sink.required(ipfix::URL, url),
        Some(Kind::Postgres) | None => url = sink.required(URL, url),
    }
    let draft = DraftSink {
        name: sink.required(NAME, name),
        kind,
        url,
        stream: sink.text(STREAM, |text| {
            nats::Target::check_stream(text).map_err(ValueError)?;
            Ok(text.to_owned())
        }),
        replicas: replicas(&mut sink),
        directory,
        parquet: sink.boolean(PARQUET),
        password_file: sink.text(PASSWORD_FILE, file),
        token_file,
        ca_file: sink.text(CA_FILE, file),
        lago,
        ipfix: DraftIpfix::read(&mut sink),
        at,
    };
    others_keys(&draft, faults);
    draft
}

/// How many copies a stream has that is made.
fn replicas(sink: &mut Reader<'_, '_, '_>) -> Field<u8> {
    let copies: Field<u8> = sink.integer(REPLICAS, 1..=5);
    match copies.get().map(|copies| (copies.value, copies.at)) {
        Some((value, at)) => match nats::Target::check_replicas(value) {
            Ok(()) => copies,
            Err(wrong) => {
                sink.faults().add(at, wrong);
                Field::Bad
            }
        },
        None => copies,
    }
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
        (
            STREAM,
            sink.stream.get().map(|it| it.at),
            kind != Kind::Nats,
        ),
        (
            REPLICAS,
            sink.replicas.get().map(|it| it.at),
            kind != Kind::Nats,
        ),
        (DIRECTORY, at(&sink.directory), kind != Kind::Files),
        (
            PARQUET,
            sink.parquet.get().map(|it| it.at),
            kind != Kind::Files,
        ),
        (
            PASSWORD_FILE,
            at(&sink.password_file),
            !matches!(kind, Kind::Postgres | Kind::Nats | Kind::ClickHouse),
        ),
        (
            TOKEN_FILE,
            at(&sink.token_file),
            !matches!(kind, Kind::CloudEvents | Kind::Nats | Kind::Lago),
        ),
        (CA_FILE, at(&sink.ca_file), kind == Kind::Files),
    ];
    let of_lago = sink.lago.written().into_iter();
    let of_lago = of_lago.map(|(key, at)| (key, at, kind != Kind::Lago));
    let of_ipfix = sink.ipfix.written().into_iter();
    let of_ipfix = of_ipfix.map(|(key, at)| (key, at, kind != Kind::Ipfix));
    for (key, at, is_anothers) in written.into_iter().chain(of_lago).chain(of_ipfix) {
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
            Some(Target::Nats(target)) => target.check(),
            Some(Target::ClickHouse(target)) => target.check(),
            Some(Target::Lago(target)) => target.check(),
            Some(Target::Ipfix(target)) => target.check(),
            Some(Target::Files(_)) | None => Ok(()),
        };
        if let (Err(wrong), Some(url)) = (wrong, sink.url.get()) {
            faults.add(url.at, format!("`url`: {wrong}"));
        }
    }
}
