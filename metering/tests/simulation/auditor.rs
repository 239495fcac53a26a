//! What is held against the records, as soon as they are in the file: they are read with SQL, and compared
//! with what the kernel booked. Clauses are those of `docs/METERING.md`.

use super::{
    audit_one::{self, Book, Stand},
    kernel::{Both, Person, Totals},
};
use metering::{
    ledger::{Anchor, Committed},
    meter::Time,
    record::{Kind, Record, leaf_hash},
};
use rusqlite::{Connection, OpenFlags};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::Path,
};

/// Boot and maps.
pub type Epoch = ([u8; 16], [u8; 16]);
/// Epoch, incarnation, direction.
pub type Subject = (Epoch, u64, u8);

/// A cut, as the kernel knows it.
pub struct Cut {
    /// What everybody was booked in this window and the ones before.
    pub truth: Totals,
    /// Who was handed to the ledger.
    pub members: BTreeSet<u64>,
    pub time: Time,
    pub nominal_ns: Option<i64>,
}

/// Registers that are gone.
pub struct Over {
    pub truth: Totals,
    pub died_boot_ns: u64,
    /// When the wall clock was last set back in that boot.
    pub set_back_boot_ns: Option<u64>,
    /// Was the meter held up less than this before, ns? Then this may be unseen at most.
    pub unseen_ns_max: Option<u64>,
}

/// Everything that is known, and every record.
pub struct Auditor {
    pub window_ns: u64,
    pub cuts: BTreeMap<(Epoch, u64), Cut>,
    /// By the time of a checkpoint: everybody's registers when its reading began, and when it ended.
    pub notes: BTreeMap<(Epoch, u64), (Totals, Totals)>,
    pub over: BTreeMap<Epoch, Over>,
    pub people: BTreeMap<(Epoch, u64), Person>,
    pub stands: BTreeMap<Subject, Stand>,
    ledgers: BTreeMap<[u8; 16], Book>,
    /// Windows that somebody was told are committed.
    promised: BTreeMap<[u8; 16], u64>,
    once: BTreeSet<(Subject, Option<u32>, u64, u8)>,
    /// Ledgers that another took the place of.
    superseded: u64,
    current: [u8; 16],
    pub records: u64,
    pub gaps: u64,
    pub bounded: u64,
}

impl Auditor {
    pub fn new(window_ns: u64) -> Self {
        Self {
            window_ns,
            cuts: BTreeMap::new(),
            notes: BTreeMap::new(),
            over: BTreeMap::new(),
            people: BTreeMap::new(),
            stands: BTreeMap::new(),
            ledgers: BTreeMap::new(),
            promised: BTreeMap::new(),
            once: BTreeSet::new(),
            superseded: 0,
            current: [0; 16],
            records: 0,
            gaps: 0,
            bounded: 0,
        }
    }

    pub fn people(&mut self, epoch: Epoch, people: &BTreeMap<u64, Person>) {
        for (incarnation, person) in people {
            let known = self.people.insert((epoch, *incarnation), person.clone());
            assert!(known.is_none_or(|known| known == *person), "M-3.3");
        }
    }

    pub fn sealed(&mut self, epoch: Epoch, window: u64, cut: Cut) {
        self.cuts.insert((epoch, window), cut);
    }

    pub fn noted(&mut self, epoch: Epoch, boot_ns: u64, low: Totals, high: Totals) {
        self.notes.insert((epoch, boot_ns), (low, high));
    }

    pub fn over(&mut self, epoch: Epoch, over: Over) {
        self.over.insert(epoch, over);
    }

    pub fn begun(&mut self, anchor: &Anchor, superseded: bool) {
        self.superseded += u64::from(superseded);
        self.current = anchor.ledger_id;
        self.promised.insert(anchor.ledger_id, anchor.size);
    }

    /// Somebody did something to the file that no ledger survives.
    pub fn taken_away(&mut self) {
        self.superseded += 1;
        self.current = [0; 16];
    }

    pub fn committed(&mut self, epoch: Epoch, committed: &Committed) {
        let cut = &self.cuts[&(epoch, committed.window)];
        let closed: BTreeSet<u64> = committed.closed.iter().copied().collect();
        assert!(
            closed.is_subset(&cut.members),
            "it closes who was not there"
        );
        assert!(
            committed.records != 0 || closed == cut.members,
            "M-5.6: no record"
        );
        self.promised
            .insert(committed.anchor.ledger_id, committed.anchor.size);
    }

    /// How many records are known of a ledger.
    pub fn known(&self, ledger_id: &[u8; 16]) -> u64 {
        self.ledgers
            .get(ledger_id)
            .map_or(0, |book| book.rows.len() as u64)
    }

    /// Reads what is new in a file.
    pub fn read(&mut self, path: &Path) {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags).expect("a ledger can be read");
        let about = "SELECT value FROM about WHERE key = 'ledger_id'";
        let id: [u8; 16] = db
            .query_row(about, [], |row| row.get(0))
            .expect("it has an id");
        // A commit that failed may be in the file all the same: nobody was told of it.
        let Some(promised) = self.promised.get(&id).copied() else {
            return;
        };
        let book = self.ledgers.entry(id).or_default();
        let known = book.rows.len() as u64;
        let rows = rows(&db, known.saturating_sub(1)..promised);
        if let Some(last) = book.rows.last() {
            let Some(first) = rows.first() else {
                assert!(id != self.current, "committed records are gone");
                return;
            };
            assert!(
                first == last,
                "a committed record was changed: {first:?} instead of {last:?}"
            );
        }
        let fresh: Vec<_> = rows.into_iter().skip(usize::from(known != 0)).collect();
        self.take(id, fresh);
        let has = self.known(&id);
        assert!(
            has >= promised || id != self.current,
            "{promised} records were committed, {has} are there"
        );
    }

    fn take(&mut self, id: [u8; 16], fresh: Vec<(Record, [u8; 32])>) {
        if fresh.is_empty() {
            return;
        }
        assert!(fresh[0].0.ledger_id == id, "M-5: field 2");
        self.records += fresh.len() as u64;
        for (record, _) in &fresh {
            if record.kind != Kind::Begin {
                let key = (
                    subject(record),
                    record.zone,
                    record.window_id,
                    record.kind as u8,
                );
                assert!(self.once.insert(key), "M-3.6: twice: {record:?}");
            }
        }
        let mut book = self.ledgers.remove(&id).unwrap_or_default();
        audit_one::take(self, &mut book, fresh);
        self.ledgers.insert(id, book);
        // What is older can still be looked at by nobody.
        let last = self.cuts.keys().next_back().copied();
        if let Some((epoch, window)) = last {
            let old = |(of, at): &(Epoch, u64)| *of != epoch || at + 64 < window;
            self.cuts.retain(|key, _| !old(key));
        }
    }

    /// Of all ledgers together: no byte in two METER records, and none that is in no record.
    pub fn reckon(&self) {
        let mut billed = BTreeMap::<(Subject, Option<u32>), Vec<[u64; 2]>>::new();
        let mut said = BTreeMap::<(Subject, Option<u32>), Vec<[u64; 2]>>::new();
        for (record, _) in self.ledgers.values().flat_map(|book| &book.rows) {
            let Some(reading) = record.reading else {
                continue;
            };
            let span = [
                reading.register_start.l2_bytes,
                reading.register_end.l2_bytes,
            ];
            let key = (subject(record), record.zone);
            match record.kind {
                Kind::Meter => billed.entry(key).or_default().push(span),
                _ => said.entry(key).or_default().push(span),
            }
        }
        for (key, spans) in &mut billed {
            spans.sort_unstable();
            for two in spans.windows(2) {
                assert!(two[0][1] <= two[1][0], "{key:?}: billed twice: {two:?}");
            }
        }
        for (key, mut spans) in said {
            spans.extend(billed.remove(&key).into_iter().flatten());
            // NODATA is for all zones together.
            if key.1.is_none() {
                covered(&key.0, spans);
            }
        }
        for ((subject, zone), spans) in billed {
            if zone.is_none() {
                covered(&subject, spans);
            }
        }
    }

    /// Every owner of registers that are gone has a last record; where no ledger was lost.
    pub fn all_closed(&self, epoch: Epoch) {
        if self.superseded != 0 {
            return;
        }
        for (subject, stand) in &self.stands {
            let due = subject.0 != epoch && !stand.closed;
            assert!(!due, "M-7.6: {subject:?} has no last record: {stand:?}");
        }
    }

    pub fn truth_of(&self, record: &Record) -> Option<&Both> {
        let epoch = (record.boot_id, record.map_generation);
        let cut = self.cuts.get(&(epoch, record.window_id))?;
        cut.truth.get(&record.incarnation)
    }
}

fn covered(subject: &Subject, mut spans: Vec<[u64; 2]>) {
    spans.sort_unstable();
    let mut reach = 0;
    for [start, end] in spans {
        assert!(
            start <= reach,
            "{subject:?}: forgotten between {reach} and {start}"
        );
        reach = reach.max(end);
    }
}

pub fn subject(record: &Record) -> Subject {
    let epoch = (record.boot_id, record.map_generation);
    (epoch, record.incarnation, record.direction)
}

fn rows(db: &Connection, seqs: Range<u64>) -> Vec<(Record, [u8; 32])> {
    let select = "SELECT canonical, leaf FROM record WHERE seq >= ?1 AND seq < ?2 ORDER BY seq";
    let mut statement = db.prepare(select).expect("it has the table");
    let rows = statement.query_map([seqs.start as i64, seqs.end as i64], |row| {
        let canonical: Vec<u8> = row.get(0)?;
        let leaf: [u8; 32] = row.get(1)?;
        assert!(leaf == leaf_hash(&canonical), "M-11.6");
        let record = Record::decode(&canonical).expect("canonical bytes are a record");
        Ok((record, leaf))
    });
    rows.expect("it can be asked")
        .collect::<Result<_, _>>()
        .expect("it can be read")
}
