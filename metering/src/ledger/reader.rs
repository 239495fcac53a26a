//! Reading a ledger record by record, while a daemon may be writing it.

use super::{Ledger, LedgerError, issue, query::Row, schema};
use crate::record::Record;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::path::{Path, PathBuf};

/// A leaf, and the bytes of its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its index.
    pub seq: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// The record; `None`: it was pruned or erased.
    pub canonical: Option<Vec<u8>>,
}

/// A ledger that is read. No read lasts longer than one question, so that the journal stays small; who wants
/// the same answer again asks for the first so many records, which never change.
pub struct Reader {
    path: PathBuf,
    db: Connection,
}

impl Reader {
    /// Opens a ledger.
    ///
    /// # Errors
    /// [`LedgerError::Storage`], [`LedgerError::Foreign`].
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let db = schema::open_to_read(path)?;
        let reader = Self {
            path: path.to_owned(),
            db,
        };
        reader.size()?;
        Ok(reader)
    }

    fn failed(&self) -> impl Fn(rusqlite::Error) -> LedgerError + use<> {
        Ledger::storage(&self.path)
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn about(&self, key: &str) -> Result<Vec<u8>, LedgerError> {
        let about = "SELECT CAST(value AS BLOB) FROM about WHERE key = ?1";
        self.db
            .query_row(about, [key], |row| row.get(0))
            .map_err(self.failed())
    }

    /// Its id.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub fn id(&self) -> Result<[u8; 16], LedgerError> {
        Ok(self.about("ledger_id")?.try_into().unwrap_or_default())
    }

    /// Name of the host that began it.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub fn host(&self) -> Result<String, LedgerError> {
        Ok(String::from_utf8_lossy(&self.about("host")?).into_owned())
    }

    /// Its records, by number.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub fn size(&self) -> Result<u64, LedgerError> {
        let size = "SELECT coalesce(max(seq) + 1, 0) FROM record";
        let size: i64 = self
            .db
            .query_row(size, [], |row| row.get(0))
            .map_err(self.failed())?;
        Ok(size as u64)
    }

    /// Hash of a record's leaf.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub fn leaf(&self, seq: u64) -> Result<Option<[u8; 32]>, LedgerError> {
        let leaf = "SELECT leaf FROM record WHERE seq = ?1";
        self.db
            .query_row(leaf, [seq as i64], |row| row.get(0))
            .optional()
            .map_err(self.failed())
    }

    /// The leaves from `from` on, at most `count`.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub fn leaves(&self, from: u64, count: u32) -> Result<Vec<Leaf>, LedgerError> {
        let select =
            "SELECT seq, leaf, canonical FROM record WHERE seq >= ?1 ORDER BY seq LIMIT ?2";
        let mut statement = self.db.prepare_cached(select).map_err(self.failed())?;
        let rows = statement
            .query_map(params![from as i64, count], |row| {
                Ok(Leaf {
                    seq: row.get::<_, i64>(0)? as u64,
                    hash: row.get(1)?,
                    canonical: row.get(2)?,
                })
            })
            .map_err(self.failed())?;
        rows.collect::<Result<_, _>>().map_err(self.failed())
    }

    /// The first signed head of at least so many leaves: it is the same one whenever it is asked for.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub fn head(&self, size: u64) -> Result<Option<String>, LedgerError> {
        let head = "SELECT note FROM head WHERE size >= ?1 ORDER BY number LIMIT 1";
        self.db
            .query_row(head, [size as i64], |row| row.get(0))
            .optional()
            .map_err(self.failed())
    }

    /// One record.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub fn record(&self, seq: u64) -> Result<Option<Row>, LedgerError> {
        let select = "SELECT canonical FROM record WHERE seq = ?1";
        let canonical: Option<Vec<u8>> = self
            .db
            .query_row(select, [seq as i64], |row| row.get(0))
            .optional()
            .map_err(self.failed())?;
        Ok(canonical.map(|bytes| Record::decode(&bytes).map_err(|error| (seq, error))))
    }

    /// The records of a tenant, or of all, that a period's usage may need, in the order of the ledger:
    /// windows that touch `from..to`, and what came late, whatever it is called. `size`: as the ledger
    /// stood with so many records.
    ///
    /// # Errors
    /// [`LedgerError::Storage`], and what `each` returns.
    pub fn usage<E: From<LedgerError>>(
        &self,
        tenant: Option<u32>,
        (from, to): (i64, i64),
        size: u64,
        mut each: impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let storage = self.failed();
        // A condition of its own for a tenant, so that there is an index for it.
        let of_tenant = if tenant.is_some() {
            "tenant = ?2"
        } else {
            "?2 IS NULL"
        };
        let text = format!(
            "SELECT seq, canonical FROM record WHERE seq < ?1 AND {of_tenant} AND kind IN (1, 4, 5) AND \
             (flags & 16 != 0 OR (window_start < ?4 AND window_end >= ?3)) ORDER BY seq"
        );
        let mut statement = self.db.prepare(&text).map_err(&storage)?;
        let mut rows = statement
            .query(params![size as i64, tenant, from, to])
            .map_err(&storage)?;
        while let Some(row) = rows.next().map_err(&storage)? {
            let seq: i64 = row.get(0).map_err(&storage)?;
            let canonical = row.get_ref(1).map_err(&storage)?;
            let canonical = canonical.as_blob().unwrap_or_default();
            each(Record::decode(canonical).map_err(|error| (seq as u64, error)))?;
        }
        Ok(())
    }

    /// The corrections of a tenant, or of all.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub fn corrections(&self, tenant: Option<u32>, size: u64) -> Result<Vec<Row>, LedgerError> {
        let storage = self.failed();
        let mut statement = self
            .db
            .prepare(
                "SELECT seq, canonical FROM record \
                 WHERE kind = 4 AND seq < ?1 AND (?2 IS NULL OR tenant = ?2) ORDER BY seq",
            )
            .map_err(&storage)?;
        let rows = statement
            .query_map(params![size as i64, tenant], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
            })
            .map_err(&storage)?;
        rows.map(|row| {
            let (seq, canonical) = row.map_err(&storage)?;
            Ok(Record::decode(&canonical).map_err(|error| (seq as u64, error)))
        })
        .collect()
    }

    /// The statements among the first `size` records, oldest first.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub fn statements(&self, size: u64) -> Result<Vec<Row>, LedgerError> {
        issue::statements(&self.db, &self.failed(), size)
    }

    /// The end of the last label, of a tenant or of all, among the readings before a record.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub fn label_end(&self, tenant: Option<u32>, before: u64) -> Result<Option<i64>, LedgerError> {
        let select = "SELECT window_end FROM record WHERE seq < ?1 AND kind IN (1, 5) \
                      AND flags & 16 = 0 AND (?2 IS NULL OR tenant = ?2) ORDER BY seq DESC LIMIT 1";
        self.db
            .query_row(select, params![before as i64, tenant], |row| row.get(0))
            .optional()
            .map_err(self.failed())
    }

    /// The beginning of the first label and the end of the last, of a tenant or of all.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub fn extent(&self, tenant: Option<u32>) -> Result<Option<(i64, i64)>, LedgerError> {
        let select = "SELECT min(window_start), max(window_end) FROM record \
                      WHERE kind IN (1, 4, 5) AND (?1 IS NULL OR tenant = ?1)";
        let (first, last): (Option<i64>, Option<i64>) = self
            .db
            .query_row(select, [tenant], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(self.failed())?;
        Ok(first.zip(last))
    }

    /// Does a port of this tenant, or of any, have windows still to come?
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub fn stands(&self, tenant: Option<u32>) -> Result<bool, LedgerError> {
        let select = "SELECT EXISTS (SELECT 1 FROM owner WHERE state IS NOT NULL AND \
                      (?1 IS NULL OR json_extract(state, '$.tenant') = ?1))";
        self.db
            .query_row(select, [tenant], |row| row.get(0))
            .map_err(self.failed())
    }
}
