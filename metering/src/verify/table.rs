//! A ledger's file: every table against the tree and the seal.

use super::{Report, VerifyError, columns, heads::Heads};
use crate::{
    ledger::{head, schema},
    note::{self, Head, Note, Verifier},
    record::{self, Kind, Record, Rotation},
    tree::{Frontier, Hash},
};
use rusqlite::{Connection, OptionalExtension as _};
use std::{collections::BTreeMap, path::Path};

/// A ledger that is read from its first leaf to its last.
pub(super) struct Reader {
    pub db: Connection,
    ledger_id: [u8; 16],
    secret: Option<[u8; 32]>,
    frontier: Vec<u8>,
}

/// Verifies a ledger: its rows, columns, leaves, numbers, heads and seal. `each` is given every record
/// that can be read.
///
/// # Errors
/// [`VerifyError`] where it is no ledger, or no key of it is known.
pub fn ledger(
    path: &Path,
    keyring: &[Verifier],
    against: Option<&Head>,
) -> Result<Report, VerifyError> {
    walk(path, keyring, against, &mut |_, _| {})
}

/// As [`ledger`]; each record that can be read is handed on.
pub(super) fn walk(
    path: &Path,
    keyring: &[Verifier],
    against: Option<&Head>,
    each: &mut impl FnMut(&Record, &mut Report),
) -> Result<Report, VerifyError> {
    let mut report = Report::default();
    let reader = open(path)?;
    let looked = reader.look(keyring, against, &mut report, each);
    match looked {
        Ok(()) => Ok(report),
        Err(Stop::Verify(error)) => Err(error),
        Err(Stop::Sqlite(error)) => {
            report.file(format!("{}: {error}", path.display()));
            Ok(report)
        }
    }
}

enum Stop {
    Verify(VerifyError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn open(path: &Path) -> Result<Reader, VerifyError> {
    let unreadable = |what: String| VerifyError::Unreadable { what };
    let db = schema::open_to_read(path).map_err(|error| unreadable(error.to_string()))?;
    let about = |key: &str| {
        let value = "SELECT value FROM about WHERE key = ?1";
        db.query_row(value, [key], |row| row.get::<_, Vec<u8>>(0))
            .optional()
    };
    let read = || -> rusqlite::Result<_> {
        // One state of the file, whatever a daemon writes meanwhile.
        db.execute_batch("BEGIN")?;
        Ok((about("ledger_id")?, about("secret")?, about("frontier")?))
    };
    let (id, secret, frontier) =
        read().map_err(|error| unreadable(format!("{}: {error}", path.display())))?;
    let ledger_id = id.and_then(|id| id.try_into().ok());
    let ledger_id = ledger_id
        .ok_or_else(|| unreadable(format!("{}: it does not say whose it is", path.display())))?;
    Ok(Reader {
        ledger_id,
        secret: secret.and_then(|secret| secret.try_into().ok()),
        frontier: frontier.unwrap_or_default(),
        db,
    })
}

/// What was counted on the way through the records.
#[derive(Default)]
struct Numbers {
    streams: BTreeMap<u8, u64>,
    tenants: BTreeMap<u32, u64>,
    /// Records that were erased so far: their numbers are not known.
    erased: u64,
    /// Rows that are empty, and those that an ERASURE says are.
    rows: Ranges,
    said: Vec<[u64; 2]>,
}

/// Ranges of seq; neighbours are one.
#[derive(Default)]
struct Ranges(Vec<[u64; 2]>);

impl Ranges {
    /// Adds one that begins at or above the last one's beginning.
    fn push(&mut self, range: [u64; 2]) {
        match self.0.last_mut() {
            Some(last) if range[0] <= last[1].saturating_add(1) => last[1] = last[1].max(range[1]),
            _ => self.0.push(range),
        }
    }

    /// Those that are in this one and not in the other.
    fn without(&self, other: &Self) -> Option<[u64; 2]> {
        let covers = |range: &[u64; 2]| {
            let at = other.0.partition_point(|known| known[1] < range[0]);
            let known = other.0.get(at);
            known.is_some_and(|known| known[0] <= range[0] && range[1] <= known[1])
        };
        self.0.iter().find(|range| !covers(range)).copied()
    }
}

impl Numbers {
    /// Rows are empty where an ERASURE says so, and nowhere else.
    fn erasures(&mut self, report: &mut Report) {
        self.said.sort_unstable();
        let mut said = Ranges::default();
        self.said.iter().for_each(|range| said.push(*range));
        for (range, what) in [
            (self.rows.without(&said), "erased, and no ERASURE says so"),
            (
                said.without(&self.rows),
                "an ERASURE says that it was erased",
            ),
        ] {
            if let Some([first, last]) = range {
                report.find(Some((first, last)), what);
            }
        }
    }

    /// The numbers of a record follow those of its stream and tenant; erased ones may be between.
    fn take(&mut self, record: &Record, report: &mut Report) {
        let erased = self.erased;
        let mut follow = |next: &mut u64, found: u64, what: &str| {
            let gap = found.checked_sub(*next);
            if gap.is_none_or(|gap| gap > erased) {
                report.record(record.seq, format!("{what} is {found} instead of {next}"));
            }
            *next = found.saturating_add(1);
        };
        self.said.extend(&record.erased);
        let stream = self.streams.entry(record.kind as u8).or_default();
        follow(stream, record.stream_seq, "stream_seq");
        if record.kind.is_of_a_tenant() {
            let tenant = self.tenants.entry(record.tenant).or_default();
            follow(tenant, record.tenant_seq, "tenant_seq");
        }
    }
}

impl Reader {
    fn look(
        &self,
        keyring: &[Verifier],
        against: Option<&Head>,
        report: &mut Report,
        each: &mut impl FnMut(&Record, &mut Report),
    ) -> Result<(), Stop> {
        self.file(report)?;
        // Who began it is what the first record says, or where that cannot be read, the file.
        let first = "SELECT canonical FROM record ORDER BY seq LIMIT 1";
        let first: Option<Vec<u8>> = self
            .db
            .query_row(first, [], |row| row.get(0))
            .optional()
            .unwrap_or_default();
        let host = "SELECT CAST(value AS BLOB) FROM about WHERE key = 'host'";
        let host: Option<Vec<u8>> = self.db.query_row(host, [], |row| row.get(0)).optional()?;
        let host = host.map(|host| String::from_utf8_lossy(&host).into_owned());
        let begun = first.and_then(|first| Record::decode(&first).ok());
        let host = begun.map(|first| first.host).or(host).unwrap_or_default();
        report.origin = note::origin(&host, &self.ledger_id);
        let keys: Vec<Verifier> = keyring
            .iter()
            .filter(|key| key.name() == report.origin)
            .cloned()
            .collect();
        let mut heads = Heads::read(&self.db)?;
        let Some(mut key) = heads.first_key(&keys) else {
            return Err(Stop::Verify(VerifyError::NoKey {
                origin: report.origin.clone(),
            }));
        };
        let mut grown = Frontier::default();
        let mut numbers = Numbers::default();
        let mut then: Option<Hash> = against.filter(|head| head.size == 0).map(|_| grown.root());
        let mut statement = self.db.prepare(columns::SELECT)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let mut found = columns::read(row)?;
            let expected = grown.size();
            if found.seq < expected as i64 {
                report.file(format!("record {} belongs to no ledger", found.seq));
                continue;
            }
            if found.seq != expected as i64 {
                let last = (found.seq as u64).saturating_sub(1).max(expected);
                let what = format!("missing: what follows is record {} of the table", found.seq);
                report.find(Some((expected, last)), what);
                return Ok(());
            }
            for what in std::mem::take(&mut found.wrong) {
                report.record(expected, what);
            }
            grown.push(found.leaf.unwrap_or_default());
            match &found.record {
                Some(record) => {
                    self.record(record, expected, report);
                    numbers.take(record, report);
                    if let Some(next) = rotated(record, &key, report) {
                        key = next;
                    }
                    report.verified += 1;
                    each(record, report);
                }
                None if found.erased => {
                    numbers.erased += 1;
                    report.pruned += 1;
                    numbers.rows.push([expected, expected]);
                }
                None => {}
            }
            heads.reach(&grown, &key, report);
            if against.is_some_and(|head| head.size == grown.size()) {
                then = Some(grown.root());
            }
        }
        (report.size, report.root) = (grown.size(), grown.root());
        heads.end(grown.size(), report);
        report.against(against, then);
        numbers.erasures(report);
        self.series(&numbers, report)?;
        if self.frontier != grown.bytes() {
            report.file("table about: the frontier is not that of the leaves");
        }
        self.seal(&grown, heads.count(), &key, report)?;
        Ok(())
    }

    /// A record is in its place, and its salt is what nobody can guess.
    fn record(&self, record: &Record, seq: u64, report: &mut Report) {
        if record.seq != seq || record.ledger_id != self.ledger_id {
            report.record(seq, "its bytes are those of another record");
        }
        if (record.kind == Kind::Begin) != (seq == 0) {
            report.record(seq, "a ledger begins with BEGIN, once");
        }
        let salt = self.secret.map(|secret| record::salt(&secret, seq));
        if salt.is_some_and(|salt| salt != record.salt) {
            report.record(seq, "its salt is not that of its place");
        }
    }

    /// The file as such: tables, indices and pages are what they should be.
    fn file(&self, report: &mut Report) -> rusqlite::Result<()> {
        for (pragma, known) in [
            ("application_id", schema::APPLICATION),
            ("user_version", schema::FORMAT),
        ] {
            let found: i64 = self.db.pragma_query_value(None, pragma, |row| row.get(0))?;
            if found != known {
                report.file(format!("{pragma} is {found} instead of {known}"));
            }
        }
        let encoding: String = self
            .db
            .pragma_query_value(None, "encoding", |row| row.get(0))?;
        if encoding != "UTF-8" {
            report.file(format!("its text is in {encoding}"));
        }
        let model = Connection::open_in_memory()?;
        model.execute_batch(schema::TABLES)?;
        let (found, known) = (definitions(&self.db)?, definitions(&model)?);
        for (name, definition) in &found {
            if known.get(name) != Some(definition) {
                report.file(format!("{name} is not a ledger's, or was changed"));
            }
        }
        for name in known.keys().filter(|name| !found.contains_key(*name)) {
            report.file(format!("{name} is missing"));
        }
        let mut check = self.db.prepare("PRAGMA integrity_check(20)")?;
        let lines = check.query_map([], |row| row.get::<_, String>(0))?;
        for line in lines {
            let line = line?;
            if line != "ok" {
                report.file(line);
            }
        }
        Ok(())
    }

    /// `series` counts the records that are there.
    fn series(&self, numbers: &Numbers, report: &mut Report) -> rusqlite::Result<()> {
        let mut statement = self.db.prepare("SELECT series, of, next FROM series")?;
        let rows = statement.query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?,
            ))
        })?;
        let mut counted = BTreeMap::new();
        let streams = numbers.streams.iter();
        let streams = streams.map(|(of, next)| (("stream".to_owned(), i64::from(*of)), *next));
        let tenants = numbers.tenants.iter();
        let tenants = tenants.map(|(of, next)| (("tenant".to_owned(), i64::from(*of)), *next));
        counted.extend(streams.chain(tenants));
        for row in rows {
            let (series, of, next) = row?;
            let known = counted.remove(&(series.clone(), of)).unwrap_or(0);
            let gap = (next as u64).checked_sub(known);
            if gap.is_none_or(|gap| gap > numbers.erased) {
                report.file(format!(
                    "table series: {series} {of} says {next}, and the records say {known}"
                ));
            }
        }
        for ((series, of), _) in counted {
            report.file(format!("table series: {series} {of} is missing"));
        }
        Ok(())
    }

    /// The tables that are no records are those of the seal.
    fn seal(
        &self,
        grown: &Frontier,
        heads: u64,
        key: &Verifier,
        report: &mut Report,
    ) -> rusqlite::Result<()> {
        let mut statement = self.db.prepare("SELECT only, note FROM seal")?;
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        })?;
        let rows: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
        let [(0, seal)] = &rows[..] else {
            report.file("table seal: not one row");
            return Ok(());
        };
        let signed = Note::parse(seal).and_then(|note| {
            note.signers(std::slice::from_ref(key))?;
            Ok((note.signatures(), note.text))
        });
        let digest = head::digest(&self.db)?;
        let text = head::seal_text(key.name(), grown.size(), heads, &digest);
        match signed {
            Err(error) => report.file(format!("table seal: {error}")),
            Ok((1, said)) if said == text => {}
            Ok((1, said)) => {
                let counts = |text: &str| -> Vec<String> {
                    text.lines().take(4).map(str::to_owned).collect()
                };
                report.file(if counts(said) == counts(&text) {
                    format!(
                        "one of the tables {} is not what was sealed",
                        head::SEALED.join(", ")
                    )
                } else {
                    "the seal is of another number of records or heads".into()
                });
            }
            Ok(_) => report.file("table seal: it has other signatures, too"),
        }
        Ok(())
    }
}

/// The key that signs from this record on, if it is another, and if both have signed that.
fn rotated(record: &Record, key: &Verifier, report: &mut Report) -> Option<Verifier> {
    let rotation = record.rotation.as_ref()?;
    let text = Rotation::text(key.name(), record.seq, &key.public(), &rotation.public);
    let next = Verifier::new(key.name(), &rotation.public);
    let next = next.filter(|next| {
        key.has_signed(&text, &rotation.by_old) && next.has_signed(&text, &rotation.by_new)
    });
    if next.is_none() {
        report.record(
            record.seq,
            "the key before it and its own have not both signed it",
        );
    }
    next
}

/// What each table and index was made with.
fn definitions(db: &Connection) -> rusqlite::Result<BTreeMap<String, (String, Option<String>)>> {
    let mut statement = db.prepare("SELECT type, name, tbl_name, sql FROM sqlite_master")?;
    let rows = statement.query_map([], |row| {
        let (kind, name): (String, String) = (row.get(0)?, row.get(1)?);
        let (table, sql): (String, Option<String>) = (row.get(2)?, row.get(3)?);
        Ok((format!("{kind} {name}"), (table, sql)))
    })?;
    rows.collect()
}
