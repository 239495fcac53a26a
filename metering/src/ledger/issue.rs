//! Statements that were issued: `docs/METERING.md`, M-17.6.

use super::{Ledger, LedgerError, add::AddError};
use crate::record::{Kind, Record, Statement};
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

/// What a tenant was told about a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issue {
    /// Tenant's number.
    pub tenant: u32,
    /// Beginning of the period, UTC, ns since 1970.
    pub from: i64,
    /// Its end.
    pub to: i64,
    /// What was told. Number and version are those of [`next`].
    pub statement: Statement,
}

/// The number and version of the next statement of this tenant and period, after these.
#[must_use]
pub fn next(issued: &[Record], tenant: u32, (from, to): (i64, i64)) -> (u64, u64) {
    let told = |record: &Record| record.statement.unwrap_or_default();
    let same = issued.iter().filter(|record| {
        (record.tenant, record.window_start, record.window_end) == (tenant, from, to)
    });
    match same.map(told).max_by_key(|told| told.version) {
        Some(last) => (last.number, last.version.saturating_add(1)),
        None => {
            let last = issued.iter().map(|record| told(record).number).max();
            (last.unwrap_or(0).saturating_add(1), 1)
        }
    }
}

/// All statements of a ledger, or those of a tenant among the first `size` records.
pub(super) fn statements(
    db: &Connection,
    storage: &impl Fn(rusqlite::Error) -> LedgerError,
    size: u64,
) -> Result<Vec<super::Row>, LedgerError> {
    let mut statement = db
        .prepare_cached(
            "SELECT seq, canonical FROM record WHERE kind = 9 AND seq < ?1 ORDER BY seq",
        )
        .map_err(storage)?;
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let rows = statement
        .query_map(params![size], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
        })
        .map_err(storage)?;
    rows.map(|row| {
        let (seq, canonical) = row.map_err(storage)?;
        Ok(Record::decode(&canonical).map_err(|error| (seq as u64, error)))
    })
    .collect()
}

impl Ledger {
    /// The record of a statement, if it is the next one.
    pub(super) fn issue(&self, issue: &Issue) -> Result<Record, AddError> {
        let (size, found) = (issue.statement.size, self.anchor.size);
        if size > found {
            return Err(AddError::Beyond { size, found });
        }
        let issued = statements(&self.db, &Self::storage(&self.path), found)?;
        let issued = issued.into_iter().collect::<Result<Vec<_>, _>>();
        let issued = issued.map_err(|(seq, error)| AddError::Unreadable {
            seq,
            what: error.to_string(),
        })?;
        let told = &issue.statement;
        if next(&issued, issue.tenant, (issue.from, issue.to)) != (told.number, told.version) {
            return Err(AddError::Taken);
        }
        Ok(Record {
            kind: Kind::Statement,
            host: self.epoch.host.clone(),
            boot_id: self.epoch.boot_id,
            map_generation: self.epoch.map_generation,
            tenant: issue.tenant,
            window_start: issue.from,
            window_end: issue.to,
            statement: Some(*told),
            ..Record::default()
        })
    }
}
