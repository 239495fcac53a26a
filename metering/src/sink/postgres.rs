//! PostgreSQL: the reference for exactly once.
//!
//! Records and mark are in one transaction there, so that no cursor is kept here: what the database says it has is
//! what it has, after a lost answer, a crash on either side, and when it was restored from a copy of its own. The
//! ledger's row is locked while a batch goes in: two daemons with one ledger take turns, and the second finds a mark
//! that is not where its batch begins.

use super::{Batch, Item, Mark, Sink, SinkError};
use ::postgres::{
    Client, Config, Error, GenericClient, NoTls, Transaction, config::Host, error::SqlState,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The tables; the version that [`VERSION`] says.
const SCHEMA: &str = include_str!("schema.sql");
const VERSION: i32 = 1;
/// Names the lock under which tables are made: "octroi" in ASCII.
const SCHEMA_LOCK: i64 = 0x6F63_7472_6F69;
/// A statement takes less, or the database is not well.
const ANSWER: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);

/// Where a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As libpq writes it: `postgres://octroi@billing.example/metering`, or `host=/run/postgresql dbname=metering`.
    pub url: String,
    /// A file with the password and nothing else.
    pub password_file: Option<PathBuf>,
    /// Certificates, PEM, that the server's must descend from: TLS is then all that is spoken.
    pub ca_file: Option<PathBuf>,
}

impl Target {
    /// What is wrong with it that can be told without asking anybody: what, and what to write instead.
    ///
    /// # Errors
    /// A line for people.
    pub fn check(&self) -> Result<(), String> {
        self.parsed().map(drop)
    }

    fn parsed(&self) -> Result<Config, String> {
        let config: Config = self
            .url
            .parse()
            .map_err(|error| format!("it is no address of a database ({error}); write \"postgres://octroi@billing.example/metering\""))?;
        if config.get_password().is_some() {
            return Err(
                "it has a password; write that into a file, and the file's name as `password_file`"
                    .into(),
            );
        }
        if config.get_hosts().is_empty() {
            return Err("it names no host; write \"postgres://octroi@billing.example/metering\" or \"host=/run/postgresql\"".into());
        }
        if self.ca_file.is_none() && config.get_hosts().iter().any(is_far) {
            return Err("its host is another machine; write `ca_file`, the certificates to trust, so that records are not sent in clear".into());
        }
        Ok(config)
    }

    fn config(&self) -> Result<Config, SinkError> {
        let refused = |path: &PathBuf, error: &dyn std::fmt::Display| {
            SinkError::Refused(format!("{}: {error}", path.display()))
        };
        let mut config = self.parsed().map_err(SinkError::Refused)?;
        if let Some(path) = &self.password_file {
            let password = std::fs::read_to_string(path).map_err(|error| refused(path, &error))?;
            config.password(password.trim_end_matches(['\r', '\n']));
        }
        config
            .application_name("octroi")
            .connect_timeout(CONNECT)
            .keepalives_idle(Duration::from_secs(20))
            .tcp_user_timeout(ANSWER);
        Ok(config)
    }

    fn connect(&self) -> Result<Client, SinkError> {
        let mut config = self.config()?;
        let Some(path) = &self.ca_file else {
            return config.connect(NoTls).map_err(told);
        };
        let refused = |error: &dyn std::fmt::Display| {
            SinkError::Refused(format!("{}: {error}", path.display()))
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| refused(&error))? {
            let certificate = certificate.map_err(|error| refused(&error))?;
            roots.add(certificate).map_err(|error| refused(&error))?;
        }
        if roots.is_empty() {
            return Err(refused(&"no certificate is in it"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.ssl_mode(::postgres::config::SslMode::Require);
        config.connect(MakeRustlsConnect::new(tls)).map_err(told)
    }
}

fn is_far(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            let address = name.parse::<std::net::IpAddr>();
            name != "localhost" && !address.is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => false,
    }
}

/// Whether it is worth trying again, and what to tell. An error of the crate says little by itself.
fn told(error: Error) -> SinkError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    // Classes that no later try makes good: rights, names, types, contents.
    let refused = error.code().is_some_and(|state| {
        ["22", "23", "28", "3D", "3F", "42"]
            .iter()
            .any(|class| state.code().starts_with(class))
    });
    if refused {
        SinkError::Refused(text)
    } else {
        SinkError::Unavailable(text)
    }
}

/// A database, connected or not.
pub struct Postgres {
    target: Target,
    client: Option<Client>,
}

impl Postgres {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            client: None,
        }
    }

    fn run<T>(
        &mut self,
        work: impl FnOnce(&mut Client) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let mut client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => open(&self.target)?,
        };
        let done = work(&mut client);
        // After anything unexpected the state of the connection is a guess.
        if !matches!(done, Err(SinkError::Unavailable(_))) {
            self.client = Some(client);
        }
        done
    }

    /// Sums of what it has of one ledger below a seq, to be held against the ledger: by tenant, direction and zone.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn sums(&mut self, id: &[u8; 16], below: u64) -> Result<Vec<Sums>, SinkError> {
        self.run(|client| {
            let text = "SELECT tenant, direction, zone, count(*), sum(packets)::text, sum(l2_bytes)::text, \
                        sum(l3_bytes)::text FROM octroi.billed WHERE ledger_id = $1 AND seq < $2 \
                        GROUP BY tenant, direction, zone ORDER BY tenant, direction, zone";
            let below = i64::try_from(below).unwrap_or(i64::MAX);
            let rows = client.query(text, &[&&id[..], &below]).map_err(told)?;
            let number = |text: String| {
                text.parse::<i128>()
                    .map_err(|_| SinkError::Refused(format!("a sum is no number: {text}")))
            };
            rows.into_iter()
                .map(|row| {
                    Ok(Sums {
                        tenant: row.get::<_, i64>(0),
                        direction: row.get::<_, i16>(1),
                        zone: row.get::<_, i64>(2),
                        records: row.get(3),
                        packets: number(row.get(4))?,
                        l2_bytes: number(row.get(5))?,
                        l3_bytes: number(row.get(6))?,
                    })
                })
                .collect()
        })
    }
}

/// What a sink has of a tenant in one direction and zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sums {
    /// The tenant's number.
    pub tenant: i64,
    /// 0 from the tenant, 1 to the tenant.
    pub direction: i16,
    /// The zone's number; −1: none.
    pub zone: i64,
    /// Records.
    pub records: i64,
    /// Frames.
    pub packets: i128,
    /// Layer-2 bytes.
    pub l2_bytes: i128,
    /// IP bytes.
    pub l3_bytes: i128,
}

fn open(target: &Target) -> Result<Client, SinkError> {
    let mut client = target.connect()?;
    let timeout = format!("SET statement_timeout = {}", ANSWER.as_millis());
    client.batch_execute(&timeout).map_err(told)?;
    let mut transaction = client.transaction().map_err(told)?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&SCHEMA_LOCK])
        .map_err(told)?;
    let known: bool = transaction
        .query_one("SELECT to_regclass('octroi.about') IS NOT NULL", &[])
        .map_err(told)?
        .get(0);
    if !known {
        transaction.batch_execute(SCHEMA).map_err(told)?;
    }
    let version: i32 = transaction
        .query_one("SELECT max(version) FROM octroi.about", &[])
        .map_err(told)?
        .get(0);
    transaction.commit().map_err(told)?;
    if version == VERSION {
        Ok(client)
    } else {
        Err(SinkError::Refused(format!(
            "its schema has version {version}, and this octroi knows {VERSION}; update the older one"
        )))
    }
}

fn mark(
    client: &mut impl GenericClient,
    id: &[u8; 16],
    host: &str,
    lock: &str,
) -> Result<Option<Mark>, SinkError> {
    let text =
        format!("SELECT next_seq, last_leaf, host FROM octroi.ledger WHERE ledger_id = $1 {lock}");
    let Some(row) = client.query_opt(&text, &[&&id[..]]).map_err(told)? else {
        return Ok(None);
    };
    let of: String = row.get(2);
    if of != host {
        return Err(SinkError::Fork(format!(
            "the ledger is {of}'s at the sink, and {host}'s here"
        )));
    }
    let leaf: Vec<u8> = row.get(1);
    Ok(Some(Mark {
        next: u64::try_from(row.get::<_, i64>(0)).unwrap_or_default(),
        leaf: leaf.try_into().unwrap_or_default(),
    }))
}

impl Sink for Postgres {
    fn mark(&mut self, id: &[u8; 16], host: &str) -> Result<Mark, SinkError> {
        let none = Mark {
            next: 0,
            leaf: [0; 32],
        };
        self.run(|client| Ok(mark(client, id, host, "")?.unwrap_or(none)))
    }

    fn deliver(&mut self, batch: &Batch) -> Result<Mark, SinkError> {
        self.run(|client| {
            let mut transaction = client.transaction().map_err(told)?;
            match put(&mut transaction, batch) {
                Ok(()) => transaction.commit().map_err(told).map(|()| batch.to),
                Err(error) => {
                    drop(transaction.rollback());
                    if let SinkError::Fork(what) = &error {
                        let alarm = "INSERT INTO octroi.fork (ledger_id, host, what) \
                                     VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
                        let id = &batch.ledger_id[..];
                        client
                            .execute(alarm, &[&id, &batch.host, what])
                            .map_err(told)?;
                    }
                    Err(error)
                }
            }
        })
    }
}

fn put(transaction: &mut Transaction<'_>, batch: &Batch) -> Result<(), SinkError> {
    let id = &batch.ledger_id[..];
    let begin = "INSERT INTO octroi.ledger (ledger_id, host, next_seq, last_leaf) \
                 VALUES ($1, $2, 0, $3) ON CONFLICT DO NOTHING";
    transaction
        .execute(begin, &[&id, &batch.host, &&[0_u8; 32][..]])
        .map_err(told)?;
    let there = mark(transaction, &batch.ledger_id, &batch.host, "FOR UPDATE")?;
    if there != Some(batch.from) {
        // Somebody else with this ledger was faster, or the database was put back: the next try asks first.
        return Err(SinkError::Unavailable(
            "the sink moved meanwhile; asking it again".into(),
        ));
    }
    if !batch.items.is_empty() {
        insert(transaction, batch)?;
    }
    let moved = "UPDATE octroi.ledger SET next_seq = $2, last_leaf = $3, \
                 head = coalesce($4, head), moved = now() WHERE ledger_id = $1";
    let next = i64::try_from(batch.to.next).unwrap_or(i64::MAX);
    transaction
        .execute(moved, &[&id, &next, &&batch.to.leaf[..], &batch.head])
        .map_err(told)?;
    Ok(())
}

fn insert(transaction: &mut Transaction<'_>, batch: &Batch) -> Result<(), SinkError> {
    let items = &batch.items;
    fn column<'a, T>(items: &'a [Item], of: impl Fn(&'a Item) -> T) -> Vec<T> {
        items.iter().map(of).collect()
    }
    let seqs = column(items, |item| item.seq as i64);
    let leaves = column(items, |item| &item.leaf[..]);
    let kinds = column(items, |item| item.record.kind as i16);
    let hosts = column(items, |item| item.record.host.as_str());
    let boots = column(items, |item| &item.record.boot_id[..]);
    let generations = column(items, |item| &item.record.map_generation[..]);
    let ports = column(items, |item| item.record.port_uid.as_str());
    let incarnations = column(items, |item| item.record.incarnation.to_string());
    let tenants = column(items, |item| i64::from(item.record.tenant));
    let directions = column(items, |item| i16::from(item.record.direction));
    let zones = column(items, Item::zone);
    let windows = column(items, |item| item.record.window_id.to_string());
    let starts = column(items, |item| item.record.window_start);
    let ends = column(items, |item| item.record.window_end);
    let flags = column(items, |item| i64::from(item.record.flags.0));
    // Decimal digits: u64 fits neither bigint nor a double.
    let billed = column(items, |item| {
        item.billed().unwrap_or_default().map(|sum| sum.to_string())
    });
    let sum = |at: usize| -> Vec<&str> { billed.iter().map(|sums| sums[at].as_str()).collect() };
    let (packets, l2_bytes, l3_bytes) = (sum(0), sum(1), sum(2));
    let canonicals = column(items, |item| &item.canonical[..]);
    let text = "INSERT INTO octroi.record (ledger_id, seq, leaf, kind, host, boot_id, map_generation, port_uid, \
        incarnation, tenant, direction, zone, window_id, window_start, window_end, flags, packets, l2_bytes, \
        l3_bytes, canonical) SELECT $1, * FROM unnest($2::bigint[], $3::bytea[], $4::smallint[], $5::text[], \
        $6::bytea[], $7::bytea[], $8::text[], $9::text[]::numeric[], $10::bigint[], $11::smallint[], \
        $12::bigint[], $13::text[]::numeric[], $14::bigint[], $15::bigint[], $16::bigint[], \
        $17::text[]::numeric[], $18::text[]::numeric[], $19::text[]::numeric[], $20::bytea[])";
    let done = transaction.execute(
        text,
        &[
            &&batch.ledger_id[..],
            &seqs,
            &leaves,
            &kinds,
            &hosts,
            &boots,
            &generations,
            &ports,
            &incarnations,
            &tenants,
            &directions,
            &zones,
            &windows,
            &starts,
            &ends,
            &flags,
            &packets,
            &l2_bytes,
            &l3_bytes,
            &canonicals,
        ],
    );
    match done {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            let detail = error.as_db_error().and_then(|error| error.detail());
            Err(SinkError::Fork(format!(
                "the sink has a record of the same window already: {}",
                detail.unwrap_or("it does not say which")
            )))
        }
        Err(error) => Err(told(error)),
    }
}
