//! IPFIX (RFC 7011): flow detail for collectors, over TCP, TLS or UDP.
//!
//! It takes the flow detail that a tenant's `flow_detail` keeps, from the daily files beside the ledger, when its records are
//! committed. The meter waits for nothing here, and what is in memory is one record's rows and one message.
//!
//! Invariants (`tests/ipfix.rs`)
//! - That flow detail leaves the host is entered in the ledger before the first byte of it does (M-13.11), once for
//!   each time that the sink is started.
//! - What could not be sent is counted: rows that retention or an erasure took first.
//!
//! What it is not: it is not for money. A collector acknowledges nothing and drops nothing that comes twice: a batch that breaks
//! in the middle is sent again from its beginning, and what a dead connection swallowed is lost (decision 0039).

mod elements;
mod link;
mod message;
mod target;

pub use target::{Scheme, Target};

use super::{Batch, Feed, Mark, Sink, SinkError, Totals, cursor};
use crate::ledger::{self, Look};
use link::Link;
use message::Exporter;
use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Connecting, and each write, take less, or nobody is there behind the socket.
const PATIENCE: Duration = Duration::from_secs(10);

/// A collector of flows.
pub struct Ipfix {
    target: Target,
    /// The ledger of now, beside which the daily files are.
    ledger: PathBuf,
    name: String,
    cursor: PathBuf,
    /// The collector, while it takes what it is sent.
    open: Option<(Link, Exporter)>,
    /// Data records that were sent over UDP: its sessions have no beginning (RFC 7011 §10.3.2).
    sequence: u32,
    has_entered: bool,
    lost: u64,
}

impl Ipfix {
    /// Nothing is sent yet. `cursor`: the file that says how far it is; `name`: the sink's, for the entry.
    #[must_use]
    pub fn new(target: Target, ledger: &Path, cursor: PathBuf, name: &str) -> Self {
        Self {
            target,
            ledger: ledger.to_owned(),
            name: name.to_owned(),
            cursor,
            open: None,
            sequence: 0,
            has_entered: false,
            lost: 0,
        }
    }

    /// Enters that flow detail goes away, once.
    fn enter(&mut self) -> Result<(), SinkError> {
        if self.has_entered {
            return Ok(());
        }
        let look = Look {
            at: utc_ns(),
            who: "the daemon".into(),
            what: format!(
                "sink {}: flow detail of all tenants goes to {}",
                self.name, self.target.url
            ),
        };
        ledger::enter(&self.ledger, &look)?;
        self.has_entered = true;
        Ok(())
    }

    /// The file of a ledger: of the one of now, or one that was put aside.
    fn file(&self, id: &[u8; 16]) -> Result<PathBuf, SinkError> {
        for path in Feed::files(&self.ledger) {
            if Feed::open(&path).is_ok_and(|feed| feed.id() == id) {
                return Ok(path);
            }
        }
        Err(SinkError::Unavailable(
            "the ledger was moved meanwhile; looking again".into(),
        ))
    }

    fn send(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let path = self.file(&batch.ledger_id)?;
        self.enter()?;
        let open = self.open.take();
        let alive = open.and_then(|(mut link, it)| link.is_alive().then_some((link, it)));
        let (mut link, mut exporter) = match alive {
            Some(open) => open,
            None => {
                let link = Link::open(&self.target, PATIENCE)?;
                let exporter = Exporter::new(self.target.domain, link.bytes_max(), self.sequence);
                (link, exporter)
            }
        };
        // Whoever lost the templates, or began to listen just now, has them with the next window.
        if link.is_lossy() {
            exporter.say_templates_again();
        }
        let seqs = batch.from.next..batch.to.next;
        let missing = ledger::detail(&path, seqs, |record, rows| {
            for row in rows {
                exporter.add(record, row, |message| link.send(message))?;
            }
            Ok::<(), SinkError>(())
        });
        let missing = missing.and_then(|missing| {
            exporter.finish(|message| link.send(message))?;
            Ok(missing)
        });
        if link.is_lossy() {
            // Also of what was sent in vain: whoever listens sees how much that was.
            self.sequence = exporter.sequence();
        }
        self.lost = self.lost.saturating_add(missing?);
        self.open = Some((link, exporter));
        Ok(())
    }
}

fn utc_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

impl Sink for Ipfix {
    fn mark(&mut self, id: &[u8; 16], host: &str) -> Result<Mark, SinkError> {
        cursor::mark(&self.cursor, id, host)
    }

    fn deliver(&mut self, batch: &Batch) -> Result<Mark, SinkError> {
        let path = self.cursor.clone();
        cursor::advance(&path, batch, || self.send(batch))
    }

    /// There is nobody to tell: the daemon's alarm is all.
    fn fork(&mut self, _: &[u8; 16], _: &str, _: &str) -> Result<(), SinkError> {
        Ok(())
    }

    fn sums(&mut self, _: &[u8; 16], _: u64, _: &[Range<u64>]) -> Result<Totals, SinkError> {
        Err(SinkError::Refused(
            "a collector of flows cannot be asked what it has, and what it has bills nothing: compare it with `octroi flows`"
                .into(),
        ))
    }

    fn replay(&mut self, _: &Batch) -> Result<(), SinkError> {
        Err(SinkError::Refused(
            "a collector of flows adds up whatever comes: what is sent again it would have twice"
                .into(),
        ))
    }

    fn lost(&self) -> Option<u64> {
        Some(self.lost)
    }
}
