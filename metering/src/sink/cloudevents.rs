//! CloudEvents in batches over HTTP: OpenMeter, and whatever else takes `application/cloudevents-batch+json`.
//!
//! A service that takes events does not say how far it is, so the mark is here, in a file beside the ledger, and moves
//! after the acknowledgement (decision 0020). Between the two a crash may come: then the same events go again. An event has the
//! same `source` and `id` every time, and whoever adds up must drop what it has (CloudEvents 1.0, `id`).
//!
//! What it is not: it is not the proof that the service kept what it acknowledged. Its totals are, and `octroi replay`.

mod cursor;
mod event;
mod http;
mod target;

pub use cursor::file as cursor_file;
pub use event::{CONTENT_TYPE, TYPE};
pub use target::Target;

use super::{Batch, Mark, Sink, SinkError, Totals, Windows, trust, wait::Wait, windows};
use cursor::Cursor;
use std::{ops::Range, path::PathBuf, time::Duration};

/// Connecting, sending and the answer together take less, or nobody is there behind the socket.
const PATIENCE: Duration = Duration::from_secs(30);
/// Some 700 bytes each: below what a service refuses as too large when nobody set it up.
const EVENTS_MAX: u32 = 500;

/// A service that takes events.
pub struct CloudEvents {
    target: Target,
    cursor: PathBuf,
    wait: Wait,
}

impl CloudEvents {
    /// Nothing is sent yet. `cursor`: the file that says how far it is.
    #[must_use]
    pub fn new(target: Target, cursor: PathBuf) -> Self {
        Self::with_patience(target, cursor, PATIENCE)
    }

    /// The same, that waits so long for an answer.
    #[must_use]
    pub fn with_patience(target: Target, cursor: PathBuf, patience: Duration) -> Self {
        Self {
            target,
            cursor,
            wait: Wait::new(patience),
        }
    }

    /// Sends what of a batch bills something, and returns when it is acknowledged.
    fn send(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let Some(body) = event::batch(batch)? else {
            return Ok(());
        };
        let token = self.target.token_file.as_deref().map(trust::secret);
        let token = token.transpose()?;
        let answer = http::post(&self.target, body, token.as_deref());
        let late = format!("{} did not answer", self.target.url);
        self.wait.wait(&late, answer)
    }
}

impl Sink for CloudEvents {
    fn mark(&mut self, id: &[u8; 16], host: &str) -> Result<Mark, SinkError> {
        Cursor::read(&self.cursor)?.mark(id, host)
    }

    fn deliver(&mut self, batch: &Batch) -> Result<Mark, SinkError> {
        let mut cursor = Cursor::read(&self.cursor)?;
        if cursor.mark(&batch.ledger_id, &batch.host)? != batch.from {
            return Err(SinkError::Unavailable(format!(
                "{}: it changed meanwhile; reading it again",
                self.cursor.display()
            )));
        }
        let new = Windows::of(batch);
        windows::nobody_elses(&new, cursor.others(&batch.ledger_id, &batch.host))?;
        self.send(batch)?;
        cursor.move_to(batch, new);
        cursor.write(&self.cursor)?;
        Ok(batch.to)
    }

    /// There is nobody to tell: the daemon's alarm is all.
    fn fork(&mut self, _: &[u8; 16], _: &str, _: &str) -> Result<(), SinkError> {
        Ok(())
    }

    fn sums(&mut self, _: &[u8; 16], _: u64, _: &[Range<u64>]) -> Result<Totals, SinkError> {
        Err(SinkError::Refused(
            "a service that takes events cannot be asked what it has: compare its totals with `octroi usage`; if it lost \
             some, `octroi replay` sends them again"
                .into(),
        ))
    }

    fn replay(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.send(batch)
    }

    fn batch_max(&self) -> u32 {
        EVENTS_MAX
    }
}
