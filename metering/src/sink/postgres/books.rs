//! What a database has of ledgers, read as their files are: for a statement of a tenant on many hosts.
//!
//! Invariants (`tests/fleet/statement.rs`)
//! - Nothing is written, and nothing is locked: whoever delivers goes on.
//! - What is below a ledger's mark never changes: pages of it, read one after the other, are one answer.
//! - A window that has no total here is missing. Where totals were never sent that cannot be told, and there is no answer.

use super::{LATE, Target, tables, told};
use crate::{
    ledger::Row,
    note,
    record::{Flags, Record},
    sink::{SinkError, wait::Connection},
    usage::{Records, UsageError},
};
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio_postgres::{Client, types::ToSql};

/// Records that are asked for at once: memory is bounded by them, 2 KiB each at most.
const PAGE: i64 = 5_000;
/// A page of a large store takes less, or nobody is there.
const PATIENCE: Duration = Duration::from_mins(30);

/// A database that is read.
#[derive(Clone)]
pub struct Books(Arc<Mutex<Line>>);

struct Line {
    target: Target,
    connection: Connection<Client>,
}

/// What it has of one ledger: the records below its mark, as it was when this was asked for.
struct Book {
    books: Books,
    id: [u8; 16],
    host: String,
    size: u64,
    last_leaf: Vec<u8>,
    head: Option<String>,
    totals_from: i64,
    begun: i64,
}

/// A seq as the database has it.
fn number(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

fn decoded((seq, canonical): (i64, Vec<u8>)) -> Row {
    Record::decode(&canonical).map_err(|error| (seq as u64, error))
}

impl Books {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self(Arc::new(Mutex::new(Line {
            target,
            connection: Connection::new(PATIENCE),
        })))
    }

    /// Which database it is, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.target.describe()
    }

    /// The ledgers that have something of a tenant, or all.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn ledgers(&self, tenant: Option<u32>) -> Result<Vec<Box<dyn Records>>, SinkError> {
        let text = "SELECT ledger.ledger_id, ledger.host, next_seq, last_leaf, head, totals_from, first.window_start \
            FROM octroi.ledger LEFT JOIN octroi.record AS first \
            ON first.ledger_id = ledger.ledger_id AND first.seq = 0 WHERE $1::bigint IS NULL \
            OR EXISTS (SELECT 1 FROM octroi.total WHERE tenant = $1 AND total.ledger_id = ledger.ledger_id) \
            OR EXISTS (SELECT 1 FROM octroi.record WHERE tenant = $1 AND record.ledger_id = ledger.ledger_id)";
        let rows = self.ask(text, &[&tenant.map(i64::from)])?;
        let book = |row: tokio_postgres::Row| -> Box<dyn Records> {
            let id: Vec<u8> = row.get(0);
            Box::new(Book {
                books: self.clone(),
                id: id.try_into().unwrap_or_default(),
                host: row.get(1),
                size: u64::try_from(row.get::<_, i64>(2)).unwrap_or_default(),
                last_leaf: row.get(3),
                head: row.get(4),
                totals_from: row.get(5),
                begun: row.get::<_, Option<i64>>(6).unwrap_or(i64::MAX),
            })
        };
        Ok(rows.into_iter().map(book).collect())
    }

    /// Hosts that somebody wrote down as having ports of a tenant.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn expected(&self, tenant: u32) -> Result<Vec<String>, SinkError> {
        let text = "SELECT host FROM octroi.expected WHERE tenant = $1 ORDER BY host";
        let rows = self.ask(text, &[&i64::from(tenant)])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    fn ask(
        &self,
        text: &str,
        with: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, SinkError> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Line { target, connection } = &mut *line;
        connection.ask(
            LATE,
            |client| !client.is_closed(),
            tables::open_to_read(target),
            async |client| client.query(text, with).await.map_err(told),
        )
    }
}

/// The same columns of records and of totals of a ledger, `$1`: those that `of_record` and `of_total` let through, in the
/// order of the ledger or against it.
fn both(columns: &str, of_record: &str, of_total: &str, order: &str, limit: i64) -> String {
    let part = |table: &str, wanted: &str| {
        format!(
            "(SELECT {columns} FROM octroi.{table} WHERE ledger_id = $1 AND {wanted} ORDER BY seq {order} LIMIT {limit})"
        )
    };
    format!(
        "SELECT * FROM ({} UNION ALL {}) AS both_tables ORDER BY seq {order} LIMIT {limit}",
        part("record", of_record),
        part("total", of_total)
    )
}

/// A condition of its own for a tenant, so that there is an index for it; `place`: the parameter's.
fn of(tenant: Option<u32>, place: &str) -> String {
    match tenant {
        Some(_) => format!("tenant = {place}"),
        None => format!("{place}::bigint IS NULL"),
    }
}

impl Book {
    fn ask(
        &self,
        text: &str,
        with: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, UsageError> {
        Ok(self.books.ask(text, with)?)
    }

    /// Refuses a period of which not every window's total was sent.
    fn covers(&self, tenant: Option<u32>, (from, to): (i64, i64)) -> Result<(), UsageError> {
        if self.totals_from == 0 || self.begun >= to {
            return Ok(());
        }
        let id = &self.id[..];
        let since = "SELECT window_start FROM octroi.total WHERE ledger_id = $1 AND seq >= $2 ORDER BY seq LIMIT 1";
        let since = self.ask(since, &[&id, &self.totals_from])?;
        let since: Option<i64> = since.first().map(|row| row.get(0));
        if since.is_some_and(|since| since <= from) {
            return Ok(());
        }
        // A tenant that came later has nothing before its first record, which says so.
        let wanted = of(tenant, "$2");
        let first = both("seq, canonical", &wanted, &wanted, "", 1);
        let first = self.ask(&first, &[&id, &tenant.map(i64::from)])?;
        let first = first.first().map(|row| decoded((row.get(0), row.get(1))));
        let is_whole = |record: &Record| {
            record.tenant_seq == 0 && number(record.seq) >= self.totals_from && tenant.is_some()
        };
        match first {
            None if tenant.is_some() => Ok(()),
            Some(Ok(record)) if is_whole(&record) => Ok(()),
            _ => Err(UsageError::Period(format!(
                "the store has the `*` records of {} only from record {} on (what came before was sent by an octroi \
                 that did not send them, or was deleted there), so that missing windows cannot be told in all of this \
                 period; name the ledgers instead, --ledger FILE for each",
                self.name(),
                self.totals_from
            ))),
        }
    }
}

impl Records for Book {
    fn name(&self) -> String {
        note::origin(&self.host, &self.id)
    }

    fn path(&self) -> Option<&Path> {
        None
    }

    fn id(&self) -> Result<[u8; 16], UsageError> {
        Ok(self.id)
    }

    fn host(&self) -> Result<String, UsageError> {
        Ok(self.host.clone())
    }

    fn size(&self) -> Result<u64, UsageError> {
        Ok(self.size)
    }

    fn begun(&self) -> Result<i64, UsageError> {
        Ok(self.begun)
    }

    fn leaf(&self, seq: u64) -> Result<Option<[u8; 32]>, UsageError> {
        if seq.checked_add(1) == Some(self.size) {
            return Ok(self.last_leaf.clone().try_into().ok());
        }
        let leaf = both("seq, leaf", "seq = $2", "seq = $2", "", 1);
        let rows = self.ask(&leaf, &[&&self.id[..], &number(seq)])?;
        let leaf = rows.first().map(|row| row.get::<_, Vec<u8>>(1));
        Ok(leaf.and_then(|leaf| leaf.try_into().ok()))
    }

    /// The newest that came along: of all that is here, or of more.
    fn head(&self, _: u64) -> Result<Option<String>, UsageError> {
        Ok(self.head.clone())
    }

    fn usage(
        &self,
        tenant: Option<u32>,
        period: (i64, i64),
        size: u64,
        each: &mut dyn FnMut(Row) -> Result<(), UsageError>,
    ) -> Result<(), UsageError> {
        self.covers(tenant, period)?;
        let (from, to) = period;
        let late = i64::from(Flags::LATE.0);
        let touches = format!(
            "{} AND seq >= $3 AND seq < $4 AND (flags & $7 <> 0 OR (window_start < $6 AND window_end >= $5))",
            of(tenant, "$2")
        );
        let of_record = format!("{touches} AND kind IN (1, 4, 5)");
        let text = both("seq, canonical", &of_record, &touches, "", PAGE);
        let (mut next, size) = (0, number(size));
        loop {
            let tenant = tenant.map(i64::from);
            let rows = self.ask(
                &text,
                &[&&self.id[..], &tenant, &next, &size, &from, &to, &late],
            )?;
            let is_last = (rows.len() as i64) < PAGE;
            for row in rows {
                let seq: i64 = row.get(0);
                next = seq.saturating_add(1);
                each(decoded((seq, row.get(1))))?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    fn corrections(&self, tenant: Option<u32>, size: u64) -> Result<Vec<Row>, UsageError> {
        let text = format!(
            "SELECT seq, canonical FROM octroi.record WHERE ledger_id = $1 AND {} AND kind = 4 AND seq < $3 ORDER BY seq",
            of(tenant, "$2")
        );
        let rows = self.ask(
            &text,
            &[&&self.id[..], &tenant.map(i64::from), &number(size)],
        )?;
        let rows = rows.iter().map(|row| decoded((row.get(0), row.get(1))));
        Ok(rows.collect())
    }

    fn statements(&self, size: u64) -> Result<Vec<Row>, UsageError> {
        let text = "SELECT seq, canonical FROM octroi.record WHERE ledger_id = $1 AND kind = 9 AND seq < $2 ORDER BY seq";
        let rows = self.ask(text, &[&&self.id[..], &number(size)])?;
        let rows = rows.iter().map(|row| decoded((row.get(0), row.get(1))));
        Ok(rows.collect())
    }

    fn label_end(&self, tenant: Option<u32>, before: u64) -> Result<Option<i64>, UsageError> {
        let wanted = format!("{} AND seq < $3 AND flags & $4 = 0", of(tenant, "$2"));
        let of_record = format!("{wanted} AND kind IN (1, 5)");
        let text = both("seq, window_end", &of_record, &wanted, "DESC", 1);
        let late = i64::from(Flags::LATE.0);
        let rows = self.ask(
            &text,
            &[
                &&self.id[..],
                &tenant.map(i64::from),
                &number(before),
                &late,
            ],
        )?;
        Ok(rows.first().map(|row| row.get(1)))
    }

    fn extent(&self, tenant: Option<u32>) -> Result<Option<(i64, i64)>, UsageError> {
        let wanted = of(tenant, "$2");
        let text = format!(
            "SELECT min(window_start), max(window_end) FROM (SELECT window_start, window_end FROM octroi.record \
             WHERE ledger_id = $1 AND {wanted} AND kind IN (1, 4, 5) UNION ALL SELECT window_start, window_end \
             FROM octroi.total WHERE ledger_id = $1 AND {wanted}) AS both_tables"
        );
        let rows = self.ask(&text, &[&&self.id[..], &tenant.map(i64::from)])?;
        let ends = rows.first().map(|row| (row.get(0), row.get(1)));
        let (first, last): (Option<i64>, Option<i64>) = ends.unwrap_or_default();
        Ok(first.zip(last))
    }

    /// A port stands whose newest window here, of all ledgers, is in this one's last and is not RESET.
    fn stands(&self, tenant: Option<u32>) -> Result<bool, UsageError> {
        let Some(last) = self.label_end(tenant, self.size)? else {
            return Ok(false);
        };
        // The same port's row of windows, further on; what is not METER is among the records.
        let further = |table: &str, kind: &str| {
            format!(
                "SELECT 1 FROM octroi.{table} AS later WHERE later.host = here.host AND later.boot_id = here.boot_id \
                 AND later.map_generation = here.map_generation AND later.incarnation = here.incarnation \
                 AND later.direction = here.direction AND later.window_id > here.window_id{kind}"
            )
        };
        let part = |table: &str, kind: &str| {
            format!(
                "SELECT 1 FROM octroi.{table} AS here WHERE ledger_id = $1 AND {} AND window_end = $3 \
                 AND flags & $4 = 0{kind} AND NOT EXISTS ({}) AND NOT EXISTS ({})",
                of(tenant, "$2"),
                further("total", ""),
                further("record", " AND later.kind = 5")
            )
        };
        let text = format!(
            "SELECT EXISTS ({} UNION ALL {})",
            part("total", ""),
            part("record", " AND kind = 5")
        );
        let reset = i64::from(Flags::RESET.0);
        let rows = self.ask(
            &text,
            &[&&self.id[..], &tenant.map(i64::from), &last, &reset],
        )?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }
}
