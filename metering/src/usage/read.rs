//! Usage from ledgers.

use super::{Explained, Query, Records, Report, Usage, UsageError, explain::Explain};
use crate::{
    ledger::{Reader, Row},
    record::{Flags, Kind, Record},
};
use std::path::PathBuf;

/// A ledger, and up to which record it is read.
pub struct Source {
    /// The ledger.
    pub reader: Box<dyn Records>,
    /// So many records of it.
    pub size: u64,
}

impl Source {
    /// Opens ledgers, the oldest first.
    ///
    /// # Errors
    /// Any [`UsageError`].
    pub fn open(paths: &[PathBuf]) -> Result<Vec<Self>, UsageError> {
        let mut readers: Vec<Box<dyn Records>> = Vec::new();
        for path in paths {
            readers.push(Box::new(Reader::open(path)?));
        }
        Self::of(readers)
    }

    /// Ledgers as they are now, the oldest first.
    ///
    /// # Errors
    /// Any [`UsageError`].
    pub fn of(readers: Vec<Box<dyn Records>>) -> Result<Vec<Self>, UsageError> {
        let mut sources = Vec::new();
        for reader in readers {
            let size = reader.size()?;
            sources.push((reader.begun()?, reader.id()?, Self { reader, size }));
        }
        sources.sort_by_key(|(begun, id, _)| (*begun, *id));
        for pair in sources.windows(2) {
            if pair[0].1 == pair[1].1 {
                return Err(UsageError::Twice {
                    first: pair[0].2.name(),
                    second: pair[1].2.name(),
                    port: "every port".into(),
                });
            }
        }
        Ok(sources.into_iter().map(|(_, _, source)| source).collect())
    }

    /// Its file, or whose ledger it is, to be shown.
    #[must_use]
    pub fn name(&self) -> String {
        self.reader.name()
    }

    fn record(&self, row: Row) -> Result<Record, UsageError> {
        row.map_err(|(seq, error)| UsageError::Record {
            ledger: self.name(),
            seq,
            what: error.to_string(),
        })
    }

    /// Every record that the query may need, with the time at which a LATE one is billed.
    fn each(
        &self,
        query: &Query,
        mut each: impl FnMut(&Record, Option<i64>) -> Result<(), UsageError>,
    ) -> Result<(), UsageError> {
        let period = query.period();
        let reader = &self.reader;
        reader.usage(query.tenant, period, self.size, &mut |row| {
            let record = self.record(row)?;
            let open = if record.flags.has(Flags::LATE) && record.kind != Kind::Correction {
                reader.label_end(Some(record.tenant), record.seq)?
            } else {
                None
            };
            each(&record, open)
        })
    }
}

/// The end of the last label in any of the ledgers: the time that the meter has reached.
///
/// # Errors
/// Any [`UsageError`].
pub fn open_end(sources: &[Source]) -> Result<Option<i64>, UsageError> {
    let mut last = None;
    for source in sources {
        last = last.max(source.reader.label_end(None, source.size)?);
    }
    Ok(last)
}

/// Usage from these ledgers together. `hosts`: those that should have records. `look` sees every record that
/// was read.
///
/// # Errors
/// Any [`UsageError`].
pub fn read(
    sources: &[Source],
    query: &Query,
    hosts: &[String],
    mut look: impl FnMut(&Record),
) -> Result<Report, UsageError> {
    let mut usage = Usage::new(query.clone())?;
    for source in sources {
        for row in source.reader.corrections(query.tenant, source.size)? {
            usage.expect(&source.record(row)?)?;
        }
    }
    for source in sources {
        let host = source.reader.host()?;
        usage.begin(&source.name(), &host);
        let mut none = true;
        source.each(query, |record, open| {
            none &= record.kind == Kind::Correction;
            look(record);
            usage.add(record, open)
        })?;
        if none && source.reader.stands(query.tenant)? {
            let last = source.reader.label_end(query.tenant, source.size)?;
            usage.stands(&host, last.unwrap_or(query.period().0));
        }
    }
    let now = open_end(sources)?.unwrap_or(query.period().0);
    usage.finish(now, hosts)
}

/// Every record behind the numbers of a query, with its part of them.
///
/// # Errors
/// Any [`UsageError`].
pub fn explain(sources: &[Source], query: &Query) -> Result<Vec<Explained>, UsageError> {
    let mut explain = Explain::new(query)?;
    for source in sources {
        source.each(query, |record, open| {
            explain.add(&source.name(), record, open);
            Ok(())
        })?;
    }
    Ok(explain.finish())
}
