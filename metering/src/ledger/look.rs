//! Looking at flow detail, and the entry that says who did: `docs/METERING.md`, M-13.11.

use super::{Ledger, LedgerError, days, flows::open_to_read, head, keys, schema};
use crate::{
    flow::{Root, Row},
    record::{Record, RecordError},
};
use rusqlite::{Connection, OptionalExtension as _, params};
use std::{ops::ControlFlow, path::Path};

/// Somebody looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// When: UTC, ns since 1970.
    pub at: i64,
    /// Who: user ids, for people.
    pub who: String,
    /// At what: command and filter.
    pub what: String,
}

/// Enters a look in the ledger, and returns when that is durable.
///
/// # Errors
/// Any [`LedgerError`] of a file that cannot be written: then there is nothing to see, either.
pub fn enter(path: &Path, look: &Look) -> Result<(), LedgerError> {
    let db = schema::open(path, false)?;
    let storage = Ledger::storage(path);
    let key = keys::key_path(path);
    let signer = keys::read(&key)?.ok_or_else(|| LedgerError::Storage {
        path: key,
        what: "there is no key: whoever looks signs for it".into(),
    })?;
    let insert = "INSERT INTO look (at, who, what) VALUES (?1, ?2, ?3)";
    head::sealed(&db, &signer, |db| {
        db.execute(insert, params![look.at, look.who, look.what])
            .map(drop)
    })
    .map_err(&storage)
}

/// Reads who looked, the oldest first.
///
/// # Errors
/// [`LedgerError::Storage`], [`LedgerError::Foreign`].
pub fn looks(path: &Path) -> Result<Vec<Look>, LedgerError> {
    let db = schema::open_to_read(path)?;
    let storage = Ledger::storage(path);
    let mut select = db
        .prepare("SELECT at, who, what FROM look ORDER BY id")
        .map_err(&storage)?;
    let rows = select.query_map([], |row| {
        Ok(Look {
            at: row.get(0)?,
            who: row.get(1)?,
            what: row.get(2)?,
        })
    });
    rows.map_err(&storage)?
        .map(|row| row.map_err(&storage))
        .collect()
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// EtherType of its addresses.
    pub ethertype: u16,
    /// In network order, IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// Bits that count.
    pub bits: u32,
}

impl Network {
    /// Can this row's other end be in it? A prefix that is only partly in it can.
    fn may_hold(&self, row: &Row) -> bool {
        let bits = row
            .remote_bytes()
            .map_or(0, |bytes| self.bits.min(8 * bytes as u32));
        let different = u128::from_be_bytes(self.address) ^ u128::from_be_bytes(row.remote);
        row.ethertype == self.ethertype && different.leading_zeros() >= bits
    }
}

/// Which flow detail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Tenant's number.
    pub tenant: Option<u32>,
    /// Name of the port.
    pub port: Option<String>,
    /// 0 from the tenant, 1 to the tenant.
    pub direction: Option<u8>,
    /// The other end is in it, or may be.
    pub remote: Option<Network>,
    /// Windows that begin at or after this time, UTC, ns since 1970.
    pub from: Option<i64>,
    /// Windows that begin before this time.
    pub to: Option<i64>,
}

/// A row of flow detail, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowLine {
    /// Its `*` record.
    pub seq: u64,
    /// Tenant's number.
    pub tenant: u32,
    /// Name of the port.
    pub port: String,
    /// 0 from the tenant, 1 to the tenant.
    pub direction: u8,
    /// The label's beginning, UTC, ns since 1970.
    pub window_start: i64,
    /// The label's end.
    pub window_end: i64,
    /// What was kept.
    pub row: Row,
}

/// What is wrong with the detail of a window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowFault {
    /// A row that cannot be read.
    #[error("the flows of record {seq} cannot be read: {source}")]
    Row {
        /// The `*` record.
        seq: u64,
        /// Why.
        source: RecordError,
    },
    /// The rows are not those that the record stands for.
    #[error("the flows of record {seq} are not those of its root: somebody changed them")]
    Root {
        /// The `*` record.
        seq: u64,
    },
    /// A day's file cannot be read.
    #[error("{what}")]
    File {
        /// Why.
        what: String,
    },
}

/// Rows in a file, and the record that they say they are of.
pub(super) struct Tree {
    pub id: i64,
    pub seq: u64,
}

/// Shows the flow detail that `filter` lets through, the oldest day and window first, until `show` breaks.
/// A window's rows are shown when they are those of its record's root. Returns what is wrong with others.
///
/// # Errors
/// When the ledger or its directory cannot be read.
pub fn flows(
    path: &Path,
    filter: &FlowFilter,
    show: &mut dyn FnMut(&FlowLine) -> ControlFlow<()>,
) -> Result<Vec<FlowFault>, LedgerError> {
    let ledger = schema::open_to_read(path)?;
    let id = "SELECT CAST(value AS BLOB) FROM about WHERE key = 'ledger_id'";
    let id: [u8; 16] = ledger
        .query_row(id, [], |row| row.get(0))
        .map_err(Ledger::storage(path))?;
    let wanted = days::files(path).map_err(Ledger::system(path))?;
    let wanted = wanted.into_iter().filter(|(day, _)| {
        let begins = day.saturating_mul(days::DAY_NS);
        let ends = begins.saturating_add(days::DAY_NS);
        filter.from.is_none_or(|from| from < ends) && filter.to.is_none_or(|to| begins < to)
    });
    let mut faults = Vec::new();
    for (_, day) in wanted {
        let file = |error: &dyn std::fmt::Display| FlowFault::File {
            what: error.to_string(),
        };
        let db = match open_to_read(&day) {
            Ok(db) => db,
            Err(error) => {
                faults.push(file(&error));
                continue;
            }
        };
        let trees = match trees(&db, &id, filter) {
            Ok(trees) => trees,
            Err(error) => {
                let day = day.display();
                faults.push(file(&format!("{day}: {error}")));
                continue;
            }
        };
        for tree in trees {
            let record = record(&ledger, tree.seq).map_err(Ledger::storage(path))?;
            let Some(record) = record else {
                // It is being committed just now.
                continue;
            };
            let rows = match rows(&db, &tree, &record) {
                Ok(Ok(rows)) => rows,
                Ok(Err(fault)) => {
                    faults.push(fault);
                    continue;
                }
                Err(error) => {
                    let day = day.display();
                    faults.push(file(&format!("{day}: {error}")));
                    continue;
                }
            };
            let mut line = FlowLine {
                seq: record.seq,
                tenant: record.tenant,
                port: record.port_uid,
                direction: record.direction,
                window_start: record.window_start,
                window_end: record.window_end,
                row: Row::default(),
            };
            for row in rows {
                let remote = filter.remote;
                line.row = row;
                if remote.is_none_or(|network| network.may_hold(&row)) && show(&line).is_break() {
                    return Ok(faults);
                }
            }
        }
    }
    Ok(faults)
}

/// The trees of a day that may have what is wanted.
fn trees(db: &Connection, id: &[u8; 16], filter: &FlowFilter) -> rusqlite::Result<Vec<Tree>> {
    let mut select = db.prepare(
        "SELECT id, seq FROM tree \
         WHERE ledger_id = ?1 AND (?2 IS NULL OR tenant = ?2) AND (?3 IS NULL OR port_uid = ?3) \
         AND (?4 IS NULL OR direction = ?4) AND (?5 IS NULL OR window_start >= ?5) \
         AND (?6 IS NULL OR window_start < ?6) ORDER BY seq",
    )?;
    let values = params![
        id,
        filter.tenant,
        filter.port,
        filter.direction,
        filter.from,
        filter.to
    ];
    let trees = select.query_map(values, |row| {
        Ok(Tree {
            id: row.get(0)?,
            seq: row.get::<_, i64>(1)? as u64,
        })
    })?;
    trees.collect()
}

/// A record; `None`: it is not in the ledger.
fn record(ledger: &Connection, seq: u64) -> rusqlite::Result<Option<Record>> {
    let canonical: Option<Vec<u8>> = ledger
        .prepare_cached("SELECT canonical FROM record WHERE seq = ?1")?
        .query_row([seq as i64], |row| row.get(0))
        .optional()?;
    Ok(canonical.and_then(|canonical| Record::decode(&canonical).ok()))
}

/// The rows of a tree, if they are those that the record stands for.
pub(super) fn rows(
    db: &Connection,
    tree: &Tree,
    record: &Record,
) -> rusqlite::Result<Result<Vec<Row>, FlowFault>> {
    let seq = tree.seq;
    let mut select = db.prepare_cached("SELECT canonical FROM flow WHERE tree = ?1 ORDER BY at")?;
    let mut found = select.query([tree.id])?;
    let mut rows = Vec::new();
    let mut root = Root::default();
    while let Some(row) = found.next()? {
        let canonical: Vec<u8> = row.get(0)?;
        root.add(&canonical);
        match Row::decode(&canonical) {
            Ok(row) => rows.push(row),
            Err(source) => return Ok(Err(FlowFault::Row { seq, source })),
        }
    }
    let (count, hash) = root.finish();
    let same = record
        .flows
        .is_some_and(|flows| (flows.rows, flows.root) == (count, hash));
    Ok(if same {
        Ok(rows)
    } else {
        Err(FlowFault::Root { seq })
    })
}
