//! What usage is reckoned from: a ledger's file, or what a store has of a ledger.

use super::UsageError;
use crate::ledger::{Reader, Row};
use std::path::Path;

/// Records of one ledger, in its order. What is asked for with a `size` is as the ledger stood with so many records, and
/// the same whenever it is asked.
pub trait Records: Send {
    /// What people call it.
    fn name(&self) -> String;

    /// Its file; `None`: it is elsewhere, and nobody here can write into it.
    fn path(&self) -> Option<&Path>;

    /// Its id.
    ///
    /// # Errors
    /// [`UsageError`], as with all that follow.
    fn id(&self) -> Result<[u8; 16], UsageError>;

    /// Name of the host that began it.
    ///
    /// # Errors
    /// [`UsageError`].
    fn host(&self) -> Result<String, UsageError>;

    /// Records by number.
    ///
    /// # Errors
    /// [`UsageError`].
    fn size(&self) -> Result<u64, UsageError>;

    /// When it was begun, UTC, ns since 1970; `i64::MAX`: that is not known.
    ///
    /// # Errors
    /// [`UsageError`].
    fn begun(&self) -> Result<i64, UsageError>;

    /// Hash of a record's leaf.
    ///
    /// # Errors
    /// [`UsageError`].
    fn leaf(&self, seq: u64) -> Result<Option<[u8; 32]>, UsageError>;

    /// A signed head of at least so many leaves.
    ///
    /// # Errors
    /// [`UsageError`].
    fn head(&self, size: u64) -> Result<Option<String>, UsageError>;

    /// The records of a tenant, or of all, that a period's usage may need, in the order of the ledger: windows that touch
    /// `period`, and what came late, whatever it is called.
    ///
    /// # Errors
    /// [`UsageError`], and what `each` returns.
    fn usage(
        &self,
        tenant: Option<u32>,
        period: (i64, i64),
        size: u64,
        each: &mut dyn FnMut(Row) -> Result<(), UsageError>,
    ) -> Result<(), UsageError>;

    /// The corrections of a tenant, or of all.
    ///
    /// # Errors
    /// [`UsageError`].
    fn corrections(&self, tenant: Option<u32>, size: u64) -> Result<Vec<Row>, UsageError>;

    /// The statements that were issued, oldest first.
    ///
    /// # Errors
    /// [`UsageError`].
    fn statements(&self, size: u64) -> Result<Vec<Row>, UsageError>;

    /// The end of the last label, of a tenant or of all, among the readings before a record; LATE ones do not count.
    ///
    /// # Errors
    /// [`UsageError`].
    fn label_end(&self, tenant: Option<u32>, before: u64) -> Result<Option<i64>, UsageError>;

    /// The beginning of the first label and the end of the last, of a tenant or of all.
    ///
    /// # Errors
    /// [`UsageError`].
    fn extent(&self, tenant: Option<u32>) -> Result<Option<(i64, i64)>, UsageError>;

    /// Does a port of this tenant, or of any, have windows still to come?
    ///
    /// # Errors
    /// [`UsageError`].
    fn stands(&self, tenant: Option<u32>) -> Result<bool, UsageError>;
}

impl Records for Reader {
    fn name(&self) -> String {
        Self::path(self).display().to_string()
    }

    fn path(&self) -> Option<&Path> {
        Some(Self::path(self))
    }

    fn id(&self) -> Result<[u8; 16], UsageError> {
        Ok(Self::id(self)?)
    }

    fn host(&self) -> Result<String, UsageError> {
        Ok(Self::host(self)?)
    }

    fn size(&self) -> Result<u64, UsageError> {
        Ok(Self::size(self)?)
    }

    fn begun(&self) -> Result<i64, UsageError> {
        let first = self.record(0)?.and_then(Result::ok);
        Ok(first.map_or(i64::MAX, |first| first.window_start))
    }

    fn leaf(&self, seq: u64) -> Result<Option<[u8; 32]>, UsageError> {
        Ok(Self::leaf(self, seq)?)
    }

    fn head(&self, size: u64) -> Result<Option<String>, UsageError> {
        Ok(Self::head(self, size)?)
    }

    fn usage(
        &self,
        tenant: Option<u32>,
        period: (i64, i64),
        size: u64,
        each: &mut dyn FnMut(Row) -> Result<(), UsageError>,
    ) -> Result<(), UsageError> {
        Self::usage(self, tenant, period, size, each)
    }

    fn corrections(&self, tenant: Option<u32>, size: u64) -> Result<Vec<Row>, UsageError> {
        Ok(Self::corrections(self, tenant, size)?)
    }

    fn statements(&self, size: u64) -> Result<Vec<Row>, UsageError> {
        Ok(Self::statements(self, size)?)
    }

    fn label_end(&self, tenant: Option<u32>, before: u64) -> Result<Option<i64>, UsageError> {
        Ok(Self::label_end(self, tenant, before)?)
    }

    fn extent(&self, tenant: Option<u32>) -> Result<Option<(i64, i64)>, UsageError> {
        Ok(Self::extent(self, tenant)?)
    }

    fn stands(&self, tenant: Option<u32>) -> Result<bool, UsageError> {
        Ok(Self::stands(self, tenant)?)
    }
}
