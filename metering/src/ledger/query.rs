//! Looking at records.

use super::{Ledger, LedgerError, schema};
use crate::record::{Record, RecordError};
use rusqlite::types::Value;
use std::path::Path;

/// Which records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Tenant's number.
    pub tenant: Option<u32>,
    /// Name of the port.
    pub port: Option<String>,
    /// Zone's number; `Some(None)`: `*`.
    pub zone: Option<Option<u32>>,
    /// 0 from the tenant, 1 to the tenant.
    pub direction: Option<u8>,
    /// Windows that begin at or after this time, UTC, ns since 1970.
    pub from: Option<i64>,
    /// Windows that begin before this time.
    pub to: Option<i64>,
    /// Later records than this one: its seq.
    pub after: Option<u64>,
    /// At most so many, the oldest first.
    pub limit: Option<u64>,
}

/// A record, and whether it can be read.
pub type Row = Result<Record, (u64, RecordError)>;

/// Reads the records that `filter` lets through, in the order of the ledger.
///
/// # Errors
/// [`LedgerError::Storage`], [`LedgerError::Foreign`].
pub fn records(path: &Path, filter: &Filter) -> Result<Vec<Row>, LedgerError> {
    let db = schema::open_to_read(path)?;
    let storage = Ledger::storage(path);
    let mut wanted = Vec::new();
    let mut values = Vec::new();
    let mut want = |column: &str, value: Value| {
        values.push(value);
        wanted.push(format!("{column} ?{}", values.len()));
    };
    if let Some(tenant) = filter.tenant {
        want("tenant =", i64::from(tenant).into());
    }
    if let Some(port) = &filter.port {
        want("port_uid =", port.clone().into());
    }
    if let Some(zone) = filter.zone {
        want("zone =", zone.map_or(-1, i64::from).into());
    }
    if let Some(direction) = filter.direction {
        want("direction =", i64::from(direction).into());
    }
    if let Some(from) = filter.from {
        want("window_start >=", from.into());
    }
    if let Some(to) = filter.to {
        want("window_start <", to.into());
    }
    if let Some(after) = filter.after {
        want("seq >", i64::try_from(after).unwrap_or(i64::MAX).into());
    }
    let conditions = if wanted.is_empty() {
        "canonical IS NOT NULL".to_owned()
    } else {
        wanted.push("canonical IS NOT NULL".into());
        wanted.join(" AND ")
    };
    let limit = filter
        .limit
        .map_or(-1, |limit| limit.min(i64::MAX as u64) as i64);
    let text =
        format!("SELECT seq, canonical FROM record WHERE {conditions} ORDER BY seq LIMIT {limit}");
    let mut statement = db.prepare(&text).map_err(&storage)?;
    let rows = statement
        .query_map(rusqlite::params_from_iter(values), |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
        })
        .map_err(&storage)?;
    rows.map(|row| {
        let (seq, canonical) = row.map_err(&storage)?;
        Ok(Record::decode(&canonical).map_err(|error| (seq as u64, error)))
    })
    .collect()
}

/// A ledger in short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Its id.
    pub ledger_id: [u8; 16],
    /// Name of the host that began it.
    pub host: String,
    /// Its records.
    pub records: u64,
    /// Beginning of the first window, UTC, ns since 1970.
    pub first: Option<i64>,
    /// End of the last one.
    pub last: Option<i64>,
    /// Length of its file, bytes, without the journal.
    pub file_bytes: u64,
}

/// The last head of a ledger's tree, as it was signed.
///
/// # Errors
/// [`LedgerError::Storage`], [`LedgerError::Foreign`].
pub fn last_head(path: &Path) -> Result<String, LedgerError> {
    let db = schema::open_to_read(path)?;
    let head = super::head::last(&db).map_err(Ledger::storage(path))?;
    head.ok_or_else(|| LedgerError::Foreign {
        path: path.to_owned(),
        what: "it has no head".into(),
    })
}

/// Reads a ledger's summary.
///
/// # Errors
/// [`LedgerError::Storage`], [`LedgerError::Foreign`].
pub fn summary(path: &Path) -> Result<Summary, LedgerError> {
    let db = schema::open_to_read(path)?;
    let storage = Ledger::storage(path);
    let about = "SELECT CAST(value AS BLOB) FROM about WHERE key = ?1";
    let of = |key: &str| db.query_row(about, [key], |row| row.get::<_, Vec<u8>>(0));
    let ledger_id = of("ledger_id").map_err(&storage)?;
    let host = of("host").map_err(&storage)?;
    let (records, first, last) = db
        .query_row(
            "SELECT count(*), min(window_start), max(window_end) FROM record WHERE kind IN (1, 4, 5)",
            [],
            |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?)),
        )
        .map_err(&storage)?;
    Ok(Summary {
        ledger_id: ledger_id.try_into().unwrap_or_default(),
        host: String::from_utf8_lossy(&host).into_owned(),
        records: records as u64,
        first,
        last,
        file_bytes: std::fs::metadata(path).map_or(0, |found| found.len()),
    })
}
