//! CloudEvents in batches over HTTP: OpenMeter, and whatever else takes `application/cloudevents-batch+json`.
//!
//! A service that takes events does not say how far it is, so the mark is here, in a file beside the ledger, and moves
//! after the acknowledgement (decision 0020). Between the two a crash may come: then the same events go again. An event has the
//! same `source` and `id` every time, and whoever adds up must drop what it has (CloudEvents 1.0, `id`).
//!
//! What it is not: it is not the proof that the service kept what it acknowledged. Its totals are, which OpenMeter tells
//! ([`CloudEvents::counted`], decision 0050), and `octroi replay`.

mod event;
mod openmeter;
mod target;

pub use event::{CONTENT_TYPE, TYPE};
pub use openmeter::{Measure, Meter};
pub use target::Target;

use super::{
    Batch, Mark, Sink, SinkError, Totals, cursor,
    http::{Answer, Server},
    trust,
    wait::Wait,
};
use hyper::Method;
use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

/// Connecting, sending and the answer together take less, or nobody is there behind the socket.
const PATIENCE: Duration = Duration::from_secs(30);
/// Some 700 bytes each: below what a service refuses as too large when nobody set it up.
const EVENTS_MAX: u32 = 500;
/// What is read of an answer, bytes: it says nothing but why not.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A service that takes events.
pub struct CloudEvents {
    target: Target,
    cursor: PathBuf,
    wait: Wait,
}

impl CloudEvents {
    /// That of a ledger and a sink's name, by which its cursor is found. Nothing is sent yet.
    #[must_use]
    pub fn of(target: Target, ledger: &Path, name: &str) -> Self {
        Self::new(target, cursor::file(ledger, name))
    }

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

    /// The ledgers of a host of which something was delivered.
    ///
    /// # Errors
    /// [`SinkError`]: the cursor cannot be read.
    pub fn ledgers(&self, host: &str) -> Result<Vec<[u8; 16]>, SinkError> {
        cursor::ledgers(&self.cursor, host)
    }

    /// Sends what of a batch bills something, and returns when it is acknowledged.
    fn send(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let Some(body) = event::batch(batch)? else {
            return Ok(());
        };
        let path = self.target.address().map_err(SinkError::Refused)?.path;
        let body = Some((CONTENT_TYPE, body));
        let answer = self.ask(Method::POST, &path, body, ANSWER_BYTES_MAX)?;
        match answer.status.as_u16() {
            404 => Err(SinkError::Refused(format!(
                "{} answered {}: nobody takes events there; write the address of them as `url`",
                self.target.url, answer.status
            ))),
            _ => Ok(()),
        }
    }

    /// Asks once, and judges the answer; 404 is for who asked.
    fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
        answer_bytes_max: usize,
    ) -> Result<Answer, SinkError> {
        let token = self.target.token_file.as_deref().map(trust::secret);
        let token = token.transpose()?;
        let server = Server {
            url: &self.target.url,
            address: self.target.address().map_err(SinkError::Refused)?,
            ca_file: self.target.ca_file.as_deref(),
            token: token.as_deref(),
        };
        let late = format!("{} did not answer", self.target.url);
        let asked = server.ask(method, path, body, answer_bytes_max);
        let answer = self.wait.wait(&late, asked)?;
        if answer.status.as_u16() != 404 {
            server.judge(&answer)?;
        }
        Ok(answer)
    }
}

impl Sink for CloudEvents {
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
            "a service that takes events shows them by ledger to nobody; OpenMeter's meters are read by `octroi reconcile`"
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
