//! Records of which only the leaf is kept: `docs/METERING.md`, M-14.11.
//!
//! Whoever decides what is erased, and when, is elsewhere: this empties rows, and says so in a leaf.

use super::{Ledger, LedgerError};
use crate::{
    meter::Outcome,
    record::{ERASED_MAX, Kind, Record},
};
use rusqlite::{Transaction, params};

/// Everything but `seq` and `leaf`.
const EMPTY: &str = "UPDATE record SET canonical = NULL, kind = 0, stream_seq = 0, tenant = 0, \
     tenant_seq = 0, boot_id = x'', map_generation = x'', port_uid = '', incarnation = 0, direction = 0, \
     zone = 0, window_id = 0, window_start = 0, window_end = 0, flags = 0, packets = 0, l2_bytes = 0, \
     l3_bytes = 0 WHERE seq BETWEEN ?1 AND ?2";

impl Ledger {
    /// Erases the records of ports with a seq in `from..=to`, of one tenant or (`None`) of all; returns how
    /// many there were. Rows and leaf are one transaction. `cause`: why, 1..=256 bytes.
    ///
    /// # Errors
    /// Any [`LedgerError`]; nothing is erased then.
    pub fn erase(
        &mut self,
        tenant: Option<u32>,
        (from, to): (u64, u64),
        cause: &str,
        utc_ns: i64,
    ) -> Result<u64, LedgerError> {
        self.check_file()?;
        let seqs = self
            .seqs(tenant, from, to)
            .map_err(Self::storage(&self.path))?;
        self.empty(&seqs, cause, utc_ns)
    }

    /// Empties the rows of these records, which are in ascending order, and says so.
    pub(super) fn empty(
        &mut self,
        seqs: &[u64],
        cause: &str,
        utc_ns: i64,
    ) -> Result<u64, LedgerError> {
        if seqs.is_empty() {
            return Ok(0);
        }
        let ranges = ranges(seqs);
        let said = ranges.chunks(ERASED_MAX as usize).map(|ranges| Record {
            erased: ranges.to_vec(),
            cause: Some(cause.into()),
            ..self.own(Kind::Erasure, utc_ns)
        });
        let outcome = Outcome {
            records: said.collect(),
            state: self.state.clone(),
            ..Outcome::default()
        };
        // What is overwritten is not to be found in the file's free pages.
        let storage = Self::storage(&self.path);
        self.db
            .pragma_update(None, "secure_delete", "ON")
            .map_err(&storage)?;
        self.write_with(outcome, None, None, |transaction| {
            ranges
                .iter()
                .try_for_each(|range| empty_rows(transaction, range))
        })?;
        // Nor in the journal. A reader may be in the way: then the next one empties it.
        let _ = self
            .db
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        self.note_journal();
        Ok(seqs.len() as u64)
    }

    /// The records of ports in there.
    fn seqs(&self, tenant: Option<u32>, from: u64, to: u64) -> rusqlite::Result<Vec<u64>> {
        let seqs = "SELECT seq FROM record WHERE seq BETWEEN ?1 AND ?2 AND kind IN (1, 4, 5) \
             AND (?3 IS NULL OR tenant = ?3) AND canonical IS NOT NULL ORDER BY seq";
        let mut statement = self.db.prepare(seqs)?;
        let last = i64::try_from(to).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![from as i64, last, tenant], |row| {
            row.get::<_, i64>(0)
        })?;
        rows.map(|seq| seq.map(|seq| seq as u64)).collect()
    }
}

/// Numbers in ascending order as ranges.
pub(super) fn ranges(seqs: &[u64]) -> Vec<[u64; 2]> {
    let mut ranges: Vec<[u64; 2]> = Vec::new();
    for seq in seqs {
        match ranges.last_mut() {
            Some(range) if range[1] + 1 == *seq => range[1] = *seq,
            _ => ranges.push([*seq, *seq]),
        }
    }
    ranges
}

pub(super) fn empty_rows(transaction: &Transaction<'_>, range: &[u64; 2]) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(EMPTY)?
        .execute(params![range[0] as i64, range[1] as i64])
        .map(drop)
}
