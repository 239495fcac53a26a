//! PostgreSQL: the reference for exactly once.
//!
//! Records and mark are in one transaction there, so that no cursor is kept here: what the database says it has is
//! what it has, after a lost answer, a crash on either side, and when it was restored from a copy of its own. The
//! ledger's row is locked while a batch goes in: two daemons with one ledger take turns, and the second finds a mark
//! that is not where its batch begins.

mod books;
mod put;
mod tables;
mod target;

pub use books::Books;
pub use target::Target;

use super::{
    Batch, Item, Mark, Sink, SinkError, Store, Sums, Totals,
    wait::{Connection, Wait, whole},
};
use crate::record::{Record, leaf_hash};
use std::{cell::Cell, collections::BTreeMap, ops::Range, time::Duration};
use tokio_postgres::{Client, Error, GenericClient, Row};

/// A statement takes less, or the database is not well.
const ANSWER: Duration = Duration::from_secs(30);
/// Connecting and what is asked together take less, or nobody is there behind the socket.
const PATIENCE: Duration = Duration::from_secs(45);
/// Tables of an earlier octroi are brought up within this: an index over a year of records is made meanwhile.
const BRINGING_UP: Duration = Duration::from_hours(2);
/// What is said of a server that takes a connection and then nothing.
const LATE: &str = "it took the connection and did not answer";

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

    fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        self.bring_up()?;
        self.ask(&Cell::new(false), work)
    }

    /// Connects, if need be, and brings tables of an earlier octroi up. That takes as long as it takes: a patience that
    /// ends in the middle of it would end there at each try.
    fn bring_up(&mut self) -> Result<(), SinkError> {
        let is_old = Cell::new(false);
        let opened = self.ask(&is_old, async |_| Ok(()));
        if !is_old.get() {
            return opened;
        }
        let bring_up = tables::bring_up(&self.target);
        Wait::new(BRINGING_UP).wait("its tables were not brought up", bring_up)
    }

    fn ask<T>(
        &mut self,
        is_old: &Cell<bool>,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        // A server that takes the connection and then says nothing is stopped by nothing else: the kernel sees
        // bytes acknowledged, and `statement_timeout` is the server's own.
        self.connection.ask(
            LATE,
            |client| !client.is_closed(),
            tables::open(&self.target, is_old),
            work,
        )
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

fn number(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// The first of a ledger's totals from a seq on: what their bytes say, which their leaves are of.
async fn page_of_totals(
    client: &Client,
    id: &[u8; 16],
    seqs: Range<i64>,
) -> Result<Vec<Item>, SinkError> {
    let text = "SELECT seq, leaf, canonical FROM octroi.total WHERE ledger_id = $1 AND seq >= $2 AND seq < $3 \
                ORDER BY seq LIMIT 10000";
    let rows = client
        .query(text, &[&&id[..], &seqs.start, &seqs.end])
        .await;
    let rows = rows.map_err(told)?;
    let item = |row: &Row| {
        let (seq, leaf, canonical): (i64, Vec<u8>, Vec<u8>) = (row.get(0), row.get(1), row.get(2));
        let hash = leaf_hash(&canonical);
        let record = Record::decode(&canonical).ok().filter(|_| hash[..] == leaf);
        let record = record.ok_or_else(|| {
            SinkError::Refused(format!(
                "octroi.total: record {seq} is not what its leaf says"
            ))
        })?;
        Ok(Item {
            seq: u64::try_from(seq).unwrap_or_default(),
            leaf: hash,
            record,
            canonical,
        })
    };
    rows.iter().map(item).collect()
}

impl Sink for Postgres {
    fn mark(&mut self, id: &[u8; 16], host: &str) -> Result<Mark, SinkError> {
        self.run(async |client| Ok(mark(client, id, host, "").await?.unwrap_or(Mark::NONE)))
    }

    fn deliver(&mut self, batch: &Batch) -> Result<Mark, SinkError> {
        self.run(async |client| {
            let mut transaction = client.transaction().await.map_err(told)?;
            match put::put(&mut transaction, batch).await {
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

    fn window_totals(
        &mut self,
        id: &[u8; 16],
        below: u64,
        without: &[Range<u64>],
    ) -> Result<Option<(u64, Totals)>, SinkError> {
        let from = self.run(async |client| {
            let text = "SELECT totals_from FROM octroi.ledger WHERE ledger_id = $1";
            let row = client.query_opt(text, &[&&id[..]]).await.map_err(told)?;
            Ok(row.map_or(0, |row| row.get::<_, i64>(0)))
        })?;
        let (mut totals, mut next) = (Totals::default(), from);
        loop {
            let page =
                self.run(async |client| page_of_totals(client, id, next..number(below)).await)?;
            let Some(last) = page.last() else { break };
            next = number(last.seq).saturating_add(1);
            // Ascending, and none in another.
            let is_gone = |seq| {
                let range = without.partition_point(|gone| gone.end <= seq);
                without.get(range).is_some_and(|gone| gone.contains(&seq))
            };
            for total in page.iter().filter(|total| !is_gone(total.seq)) {
                totals.add(total);
            }
        }
        Ok(Some((u64::try_from(from).unwrap_or_default(), totals)))
    }

    fn replay(&mut self, _: &Batch) -> Result<(), SinkError> {
        Err(SinkError::Refused(
            "a database says itself how far it is, and has no record twice: one that was restored from a copy is \
             filled up by itself; `octroi reconcile` says what is there"
                .into(),
        ))
    }
}

impl Store for Postgres {
    fn marks(&mut self) -> Result<BTreeMap<[u8; 16], Mark>, SinkError> {
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

    fn holds(&mut self, id: &[u8; 16], items: &[Item], totals: &[Item]) -> Result<(), SinkError> {
        // Of records that came without their totals, none is to be found.
        let known = "AND sent.seq >= (SELECT totals_from FROM octroi.ledger WHERE ledger_id = $1)";
        self.run(async |client| {
            for (sent, table, known) in [(items, "record", ""), (totals, "total", known)] {
                let seqs: Vec<i64> = sent.iter().map(|item| item.seq as i64).collect();
                let leaves: Vec<&[u8]> = sent.iter().map(|item| &item.leaf[..]).collect();
                let text = format!(
                    "SELECT min(seq) FROM unnest($2::bigint[], $3::bytea[]) AS sent (seq, leaf) WHERE NOT EXISTS \
                     (SELECT 1 FROM octroi.{table} AS there WHERE ledger_id = $1 AND there.seq = sent.seq \
                     AND there.leaf = sent.leaf) {known}"
                );
                let row = client.query_one(&text, &[&&id[..], &seqs, &leaves]).await;
                if let Some(seq) = row.map_err(told)?.get::<_, Option<i64>>(0) {
                    let what = format!("record {seq} is another one at the sink");
                    return Err(SinkError::Fork(what));
                }
            }
            Ok(())
        })
    }
}
