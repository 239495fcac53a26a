//! The heads that a ledger keeps, held against its leaves while these are read.

use super::Report;
use crate::{
    note::{Head, Note, Verifier},
    tree::Frontier,
};
use rusqlite::Connection;

/// A row of `head`.
struct Row {
    number: i64,
    size: i64,
    note: String,
}

/// All heads, and how many of them the leaves have reached.
pub(super) struct Heads {
    rows: Vec<Row>,
    next: usize,
    /// The number that the next one should have.
    expected: i64,
    /// Size of the last head whose root was right.
    sound: u64,
    /// Nothing that follows a wrong root can be right.
    broken: bool,
}

impl Heads {
    pub fn read(db: &Connection) -> rusqlite::Result<Self> {
        let mut statement = db.prepare("SELECT number, size, note FROM head ORDER BY number")?;
        let rows = statement.query_map([], |row| {
            Ok(Row {
                number: row.get(0)?,
                size: row.get(1)?,
                note: row.get(2)?,
            })
        })?;
        Ok(Self {
            rows: rows.collect::<rusqlite::Result<_>>()?,
            next: 0,
            expected: 0,
            sound: 0,
            broken: false,
        })
    }

    /// The key of the first head, if it is one of these; the last of them where none has signed.
    pub fn first_key(&self, keys: &[Verifier]) -> Option<Verifier> {
        let note = self
            .rows
            .first()
            .and_then(|row| Note::parse(&row.note).ok());
        let signers = note.and_then(|note| note.signers(keys).ok());
        let at = signers.and_then(|signers| signers.first().copied());
        at.map_or(keys.last(), |at| keys.get(at)).cloned()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Holds the heads of this size against the tree so far. `key` is in force.
    pub fn reach(&mut self, grown: &Frontier, key: &Verifier, report: &mut Report) {
        while let Some(row) = self.rows.get(self.next) {
            let size = row.size as u64;
            if size > grown.size() {
                return;
            }
            let name = format!("head {}", row.number);
            if row.number != self.expected {
                report.file(format!("head {} is missing", self.expected));
            }
            // One finding for a hole, not one for each head behind it.
            self.expected = row.number.saturating_add(1);
            self.next += 1;
            let keys = std::slice::from_ref(key);
            let read = Note::parse(&row.note).and_then(|note| {
                note.signers(keys)?;
                Ok((note.signatures(), Head::parse(note.text)?))
            });
            match read {
                Err(error) => report.file(format!("{name}: {error}")),
                Ok((1, head)) if head.size == size && head.origin == key.name() => {
                    if size < grown.size() || (self.next > 1 && size <= self.sound) {
                        report.file(format!("{name}: out of order"));
                    } else if head.root == grown.root() {
                        report.heads += 1;
                        self.sound = size;
                    } else if !self.broken {
                        self.broken = true;
                        let among = (self.sound, size.saturating_sub(1));
                        let what = format!("{name} was signed over something else");
                        report.find(Some(among), what);
                    }
                }
                Ok(_) => report.file(format!("{name}: its row or its note was changed")),
            }
        }
    }

    /// No leaf follows: what is left, and whether the last head is that of the last leaf.
    pub fn end(&self, size: u64, report: &mut Report) {
        if let Some(row) = self.rows.get(self.next) {
            let missing = (size, (row.size as u64).saturating_sub(1).max(size));
            report.find(
                Some(missing),
                format!("missing: head {} has more records", row.number),
            );
        } else if self.sound < size && !self.broken {
            let among = (self.sound, size.saturating_sub(1));
            report.find(Some(among), "no head was signed over this");
        }
    }
}
