//! ClickHouse, over its HTTP interface.
//!
//! There is no transaction there, so records and mark are two inserts, in this order, and what counts is below the mark: the views
//! that a bill reads see nothing else. A crash between the two leaves records that do not count; the next try finds them,
//! compares their leaves and brings what is missing (decision 0036).
//!
//! Invariants (`tests/clickhouse.rs`)
//! - The mark moves when every record below it was read back from there with its leaf. An acknowledgement is not believed.
//! - The same record twice is one row to whoever reads FINAL, whether the server's memory of tokens caught it or not.
//! - Another leaf under a number, or another ledger's record of the same window, is a fork, before anything is inserted.

mod keys;
mod row;
mod schema;
mod server;
mod target;

pub use target::Target;

use super::{Batch, Item, Mark, Sink, SinkError, Store, Sums, Totals, wait::Connection};
use crate::note::hex;
use row::{MARK, RECORD, RowBinary};
use server::Server;
use std::{collections::BTreeMap, ops::Range, time::Duration};

/// Connecting and what is asked together take less, or nobody is there behind the socket.
const PATIENCE: Duration = Duration::from_secs(45);
/// Records in one insert: fewer and larger parts are what the server wants, and a part of 2 MB is what memory has for it here.
const RECORDS_MAX: u32 = 5_000;

/// A server, whose tables are looked at or not.
pub struct ClickHouse {
    target: Target,
    connection: Connection<()>,
    /// Added to tokens: how often one was known to the server, and its records were not there.
    known: u64,
}

impl ClickHouse {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self::with_patience(target, PATIENCE)
    }

    /// The same, that waits so long for whatever it asks: connecting, signing on and the answers together.
    #[must_use]
    pub fn with_patience(target: Target, patience: Duration) -> Self {
        Self {
            target,
            connection: Connection::new(patience),
            known: 0,
        }
    }

    /// A connection for each: the server ends one that is quiet for some seconds, and a batch comes once a window.
    fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Server<'_>) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let target = &self.target;
        self.connection.ask(
            "it took the connection and did not answer",
            |()| true,
            schema::open(target),
            async |()| work(&mut Server::open(target).await?).await,
        )
    }
}

/// What is known of a ledger.
#[derive(Default)]
struct Known {
    mark: Option<Mark>,
    head: String,
}

async fn known(server: &mut Server<'_>, id: &[u8; 16], host: &str) -> Result<Known, SinkError> {
    let select = "SELECT next_seq, lower(hex(last_leaf)), host, head FROM ledger \
                  WHERE ledger_id = toFixedString(unhex({id:String}), 16)";
    let rows = server.rows(select, &[("id", &hex(id))]).await?;
    let Some(row) = rows.first() else {
        return Ok(Known::default());
    };
    let of = row.text(2);
    if of != host {
        return Err(SinkError::Fork(format!(
            "the ledger is {of}'s at the sink, and {host}'s here"
        )));
    }
    Ok(Known {
        mark: Some(Mark {
            next: row.number(0)?,
            leaf: row.bytes(1)?,
        }),
        head: row.text(3).to_owned(),
    })
}

/// Which of some records of a ledger, in ascending order, are not there.
///
/// # Errors
/// [`SinkError::Fork`]: another one is under a number.
async fn missing<'b>(
    server: &mut Server<'_>,
    id: &[u8; 16],
    items: &'b [Item],
) -> Result<Vec<&'b Item>, SinkError> {
    let (Some(first), Some(last)) = (items.first(), items.last()) else {
        return Ok(Vec::new());
    };
    let select = "SELECT seq, lower(hex(leaf)) FROM record WHERE ledger_id = toFixedString(unhex({id:String}), 16) \
                  AND seq >= {first:UInt64} AND seq <= {last:UInt64}";
    let params = [
        ("id", hex(id)),
        ("first", first.seq.to_string()),
        ("last", last.seq.to_string()),
    ];
    let params = params
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    // Not FINAL: of two rows under one number, each must be the one that is here.
    let mut there: BTreeMap<u64, Vec<[u8; 32]>> = BTreeMap::new();
    for row in server.rows(select, &params).await? {
        there.entry(row.number(0)?).or_default().push(row.bytes(1)?);
    }
    let mut missing = Vec::new();
    for item in items {
        match there.get(&item.seq) {
            None => missing.push(item),
            Some(leaves) if leaves.iter().all(|leaf| *leaf == item.leaf) => {}
            Some(_) => {
                return Err(SinkError::Fork(format!(
                    "record {} of the ledger {} is another one at the sink",
                    item.seq,
                    hex(id)
                )));
            }
        }
    }
    Ok(missing)
}

async fn insert(
    server: &mut Server<'_>,
    id: &[u8; 16],
    items: impl Iterator<Item = &Item>,
    token: Option<&str>,
) -> Result<(), SinkError> {
    let rows = items.fold(RowBinary::new(), |rows, item| rows.record(id, item));
    server.insert(RECORD, rows.into_bytes(), token).await
}

/// Brings a batch's records, so that all of them are there; `true`: they were, or are, and `false`: they were acknowledged and are not.
async fn bring(server: &mut Server<'_>, batch: &Batch, token: &str) -> Result<bool, SinkError> {
    let (id, items) = (&batch.ledger_id, &batch.items);
    if missing(server, id, items).await?.is_empty() {
        return Ok(true);
    }
    // All of them, also where some are there: a token names the same block every time.
    insert(server, id, items.iter(), Some(token)).await?;
    Ok(missing(server, id, items).await?.is_empty())
}

/// Brings back what was taken away there below the mark, and nothing that is there.
async fn bring_back(
    server: &mut Server<'_>,
    id: &[u8; 16],
    items: &[Item],
) -> Result<(), SinkError> {
    let gone = missing(server, id, items).await?;
    if gone.is_empty() {
        return Ok(());
    }
    // Without a token: the server may remember that of the first time.
    insert(server, id, gone.into_iter(), None).await?;
    if missing(server, id, items).await?.is_empty() {
        return Ok(());
    }
    Err(SinkError::Unavailable(
        "it acknowledged records and does not have them".into(),
    ))
}

impl Sink for ClickHouse {
    fn mark(&mut self, id: &[u8; 16], host: &str) -> Result<Mark, SinkError> {
        self.run(async |server| {
            let known = known(server, id, host).await?;
            Ok(known.mark.unwrap_or(Mark::NONE))
        })
    }

    fn deliver(&mut self, batch: &Batch) -> Result<Mark, SinkError> {
        let (id, host, to) = (&batch.ledger_id, &batch.host, batch.to);
        let token = format!(
            "octroi-{}-{}-{}-{}",
            hex(id),
            batch.from.next,
            to.next,
            self.known
        );
        let is_there = self.run(async |server| {
            let before = known(server, id, host).await?;
            if before.mark.unwrap_or(Mark::NONE) != batch.from {
                return Err(SinkError::Unavailable(
                    "the sink moved meanwhile; asking it again".into(),
                ));
            }
            keys::nobody_elses(server, batch).await?;
            if !bring(server, batch, &token).await? {
                return Ok(false);
            }
            let head = batch.head.as_ref().unwrap_or(&before.head);
            let row = RowBinary::new().mark(id, host, &to, head).into_bytes();
            server.insert(MARK, row, None).await?;
            let after = known(server, id, host).await?.mark.unwrap_or(Mark::NONE);
            if after.next < to.next {
                return Err(SinkError::Unavailable(
                    "it acknowledged a mark and does not have it; asking it again".into(),
                ));
            }
            Ok(true)
        })?;
        if is_there {
            return Ok(to);
        }
        // It remembers the token of what somebody took away, or something else answered in its place.
        self.known = self.known.wrapping_add(1);
        Err(SinkError::Unavailable(
            "it acknowledged records and does not have them; sending them again".into(),
        ))
    }

    fn fork(&mut self, id: &[u8; 16], host: &str, what: &str) -> Result<(), SinkError> {
        let row = RowBinary::new().fixed(id).text(host.as_bytes());
        let row = row.text(what.as_bytes()).into_bytes();
        self.run(async |server| {
            server
                .insert("fork (ledger_id, host, what)", row, None)
                .await
        })
    }

    fn sums(
        &mut self,
        id: &[u8; 16],
        below: u64,
        without: &[Range<u64>],
    ) -> Result<Totals, SinkError> {
        let mut select = String::from(
            "SELECT tenant, direction, zone, count(), sum(packets), sum(l2_bytes), sum(l3_bytes) FROM billed \
             WHERE ledger_id = toFixedString(unhex({id:String}), 16) AND seq < {below:UInt64}",
        );
        if !without.is_empty() {
            // Two texts: as an array each number would be a node of the query, of which there are not to be 50,000.
            let list = |of: fn(&Range<u64>) -> u64| {
                let numbers: Vec<String> = without.iter().map(|at| of(at).to_string()).collect();
                format!(
                    "arrayMap(at -> toUInt64(at), splitByChar(',', '{}'))",
                    numbers.join(",")
                )
            };
            let (first, past) = (list(|at| at.start), list(|at| at.end));
            select += &format!(
                " AND NOT arrayExists((first, past) -> seq >= first AND seq < past, {first}, {past})"
            );
        }
        select += " GROUP BY tenant, direction, zone";
        let params = [("id", hex(id)), ("below", below.to_string())];
        let params = params
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        self.run(async |server| {
            let mut totals = Totals::default();
            for row in server.rows(&select, &params).await? {
                let key = (row.number(0)?, row.number(1)?, row.number(2)?);
                let sums = Sums {
                    records: row.number(3)?,
                    packets: row.number(4)?,
                    l2_bytes: row.number(5)?,
                    l3_bytes: row.number(6)?,
                };
                totals.0.insert(key, sums);
            }
            Ok(totals)
        })
    }

    fn replay(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.run(async |server| bring_back(server, &batch.ledger_id, &batch.items).await)
    }

    fn batch_max(&self) -> u32 {
        RECORDS_MAX
    }
}

impl Store for ClickHouse {
    fn marks(&mut self) -> Result<BTreeMap<[u8; 16], Mark>, SinkError> {
        let select = "SELECT lower(hex(ledger_id)), next_seq, lower(hex(last_leaf)) FROM ledger";
        self.run(async |server| {
            let rows = server.rows(select, &[]).await?;
            let marks = rows.iter().map(|row| {
                let (next, leaf) = (row.number(1)?, row.bytes(2)?);
                Ok((row.bytes(0)?, Mark { next, leaf }))
            });
            marks.collect()
        })
    }

    /// What was taken away there comes back, for it is at hand. Totals are not kept (decision 0036), so none is compared.
    fn holds(&mut self, id: &[u8; 16], items: &[Item], _: &[Item]) -> Result<(), SinkError> {
        self.run(async |server| bring_back(server, id, items).await)
    }
}
