//! PostgreSQL: the reference for exactly once.
//!
//! Records and mark are in one transaction there, so that no cursor is kept here: what the database says it has is
//! what it has, after a lost answer, a crash on either side, and when it was restored from a copy of its own. The
//! ledger's row is locked while a batch goes in: two daemons with one ledger take turns, and the second finds a mark
//! that is not where its batch begins.

mod target;

pub use target::Target;

use super::{
    Batch, Item, Mark, Sink, SinkError, Sums, Totals,
    wait::{Connection, whole},
};
use std::{collections::BTreeMap, ops::Range, time::Duration};
use tokio_postgres::{Client, Error, GenericClient, Transaction, error::SqlState};

/// The tables; the version that [`VERSION`] says.
const SCHEMA: &str = include_str!("schema.sql");
/// What makes them of those of version 1.
const FROM_1: &str = include_str!("schema_from_1.sql");
const VERSION: i32 = 2;
/// Names the lock under which tables are made: "octroi" in ASCII.
const SCHEMA_LOCK: i64 = 0x6F63_7472_6F69;
/// A statement takes less, or the database is not well.
const ANSWER: Duration = Duration::from_secs(30);
/// Connecting and what is asked together take less, or nobody is there behind the socket.
const PATIENCE: Duration = Duration::from_secs(45);

/// Whether it is worth trying again, and what to tell.
fn told(error: Error) -> SinkError {
    let text = whole(&error);
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
    connection: Connection<Client>,
}

impl Postgres {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self::with_patience(target, PATIENCE)
    }

    /// The same, that waits so long for whatever it asks: connecting, signing on and the answer together.
    #[must_use]
    pub fn with_patience(target: Target, patience: Duration) -> Self {
        Self {
            target,
            connection: Connection::new(patience),
        }
    }

    /// How far it is in every ledger that it knows.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn marks(&mut self) -> Result<BTreeMap<[u8; 16], Mark>, SinkError> {
        self.run(async |client| {
            let text = "SELECT ledger_id, next_seq, last_leaf FROM octroi.ledger";
            let rows = client.query(text, &[]).await.map_err(told)?;
            let marks = rows.iter().map(|row| {
                let (id, leaf): (Vec<u8>, Vec<u8>) = (row.get(0), row.get(2));
                let next = u64::try_from(row.get::<_, i64>(1)).unwrap_or_default();
                let leaf = leaf.try_into().unwrap_or_default();
                (id.try_into().unwrap_or_default(), Mark { next, leaf })
            });
            Ok(marks.collect())
        })
    }

    /// Whether it has these records of a ledger, which are below its mark.
    ///
    /// # Errors
    /// [`SinkError::Fork`]: others under their numbers, or none.
    pub fn holds(&mut self, id: &[u8; 16], items: &[Item]) -> Result<(), SinkError> {
        let seqs: Vec<i64> = items.iter().map(|item| item.seq as i64).collect();
        let leaves: Vec<&[u8]> = items.iter().map(|item| &item.leaf[..]).collect();
        self.run(async |client| {
            let text = "SELECT min(seq) FROM unnest($2::bigint[], $3::bytea[]) AS sent (seq, leaf) WHERE NOT EXISTS \
                        (SELECT 1 FROM octroi.record AS there WHERE ledger_id = $1 AND there.seq = sent.seq \
                        AND there.leaf = sent.leaf)";
            let row = client.query_one(text, &[&&id[..], &seqs, &leaves]).await;
            match row.map_err(told)?.get::<_, Option<i64>>(0) {
                None => Ok(()),
                Some(seq) => Err(SinkError::Fork(format!("record {seq} is another one at the sink"))),
            }
        })
    }

    fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        // A server that takes the connection and then says nothing is stopped by nothing else: the kernel sees
        // bytes acknowledged, and `statement_timeout` is the server's own.
        self.connection.ask(
            "it took the connection and did not answer",
            |client| !client.is_closed(),
            open(&self.target),
            work,
        )
    }
}

async fn open(target: &Target) -> Result<Client, SinkError> {
    let mut client = target.connect(ANSWER).await?;
    let timeout = format!("SET statement_timeout = {}", ANSWER.as_millis());
    client.batch_execute(&timeout).await.map_err(told)?;
    let transaction = client.transaction().await.map_err(told)?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&SCHEMA_LOCK])
        .await
        .map_err(told)?;
    let known: bool = transaction
        .query_one("SELECT to_regclass('octroi.about') IS NOT NULL", &[])
        .await
        .map_err(told)?
        .get(0);
    if !known {
        transaction.batch_execute(SCHEMA).await.map_err(told)?;
    }
    let version = "SELECT max(version) FROM octroi.about";
    let mut version: i32 = transaction
        .query_one(version, &[])
        .await
        .map_err(told)?
        .get(0);
    if version == 1 {
        transaction.batch_execute(FROM_1).await.map_err(told)?;
        version = 2;
    }
    transaction.commit().await.map_err(told)?;
    if version == VERSION {
        Ok(client)
    } else {
        Err(SinkError::Refused(format!(
            "its schema has version {version}, and this octroi knows {VERSION}; update the older one"
        )))
    }
}

async fn mark(
    client: &impl GenericClient,
    id: &[u8; 16],
    host: &str,
    lock: &str,
) -> Result<Option<Mark>, SinkError> {
    let text =
        format!("SELECT next_seq, last_leaf, host FROM octroi.ledger WHERE ledger_id = $1 {lock}");
    let found = client.query_opt(&text, &[&&id[..]]).await.map_err(told)?;
    let Some(row) = found else {
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
        self.run(async |client| Ok(mark(client, id, host, "").await?.unwrap_or(Mark::NONE)))
    }

    fn deliver(&mut self, batch: &Batch) -> Result<Mark, SinkError> {
        self.run(async |client| {
            let mut transaction = client.transaction().await.map_err(told)?;
            match put(&mut transaction, batch).await {
                Ok(()) => transaction.commit().await.map_err(told).map(|()| batch.to),
                Err(error) => {
                    drop(transaction.rollback().await);
                    Err(error)
                }
            }
        })
    }

    fn fork(&mut self, id: &[u8; 16], host: &str, what: &str) -> Result<(), SinkError> {
        self.run(async |client| {
            let alarm = "INSERT INTO octroi.fork (ledger_id, host, what) \
                         VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
            let done = client.execute(alarm, &[&&id[..], &host, &what]).await;
            done.map(drop).map_err(told)
        })
    }

    fn sums(
        &mut self,
        id: &[u8; 16],
        below: u64,
        without: &[Range<u64>],
    ) -> Result<Totals, SinkError> {
        let number = |seq: u64| i64::try_from(seq).unwrap_or(i64::MAX);
        let first: Vec<i64> = without.iter().map(|range| number(range.start)).collect();
        let end: Vec<i64> = without.iter().map(|range| number(range.end)).collect();
        self.run(async |client| {
            let text = "SELECT tenant, direction, zone, count(*), sum(packets)::text, sum(l2_bytes)::text, \
                        sum(l3_bytes)::text FROM octroi.billed WHERE ledger_id = $1 AND seq < $2 AND NOT EXISTS \
                        (SELECT 1 FROM unnest($3::bigint[], $4::bigint[]) AS gone (first, past) \
                        WHERE seq >= first AND seq < past) GROUP BY tenant, direction, zone";
            let below = number(below);
            let rows = client
                .query(text, &[&&id[..], &below, &first, &end])
                .await;
            let mut totals = Totals::default();
            for row in rows.map_err(told)? {
                let sum = |at: usize| {
                    let text: String = row.get(at);
                    text.parse::<i128>()
                        .map_err(|_| SinkError::Refused(format!("a sum is no number: {text}")))
                };
                let sums = Sums {
                    records: row.get(3),
                    packets: sum(4)?,
                    l2_bytes: sum(5)?,
                    l3_bytes: sum(6)?,
                };
                totals.0.insert((row.get(0), row.get(1), row.get(2)), sums);
            }
            Ok(totals)
        })
    }

    fn replay(&mut self, _: &Batch) -> Result<(), SinkError> {
        Err(SinkError::Refused(
            "a database says itself how far it is, and has no record twice: one that was restored from a copy is \
             filled up by itself; `octroi reconcile` says what is there"
                .into(),
        ))
    }
}

async fn put(transaction: &mut Transaction<'_>, batch: &Batch) -> Result<(), SinkError> {
    let id = &batch.ledger_id[..];
    let begin = "INSERT INTO octroi.ledger (ledger_id, host, next_seq, last_leaf) \
                 VALUES ($1, $2, 0, $3) ON CONFLICT DO NOTHING";
    transaction
        .execute(begin, &[&id, &batch.host, &&[0_u8; 32][..]])
        .await
        .map_err(told)?;
    let there = mark(transaction, &batch.ledger_id, &batch.host, "FOR UPDATE").await?;
    if there != Some(batch.from) {
        // Somebody else with this ledger was faster, or the database was put back: the next try asks first.
        return Err(SinkError::Unavailable(
            "the sink moved meanwhile; asking it again".into(),
        ));
    }
    if !batch.items.is_empty() {
        insert(transaction, batch).await?;
    }
    let moved = "UPDATE octroi.ledger SET next_seq = $2, last_leaf = $3, \
                 head = coalesce($4, head), moved = now() WHERE ledger_id = $1";
    let next = i64::try_from(batch.to.next).unwrap_or(i64::MAX);
    transaction
        .execute(moved, &[&id, &next, &&batch.to.leaf[..], &batch.head])
        .await
        .map_err(told)?;
    Ok(())
}

async fn insert(transaction: &mut Transaction<'_>, batch: &Batch) -> Result<(), SinkError> {
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
    let done = transaction
        .execute(
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
        )
        .await;
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
