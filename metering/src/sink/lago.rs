//! Lago, a biller: `POST /api/v1/events/batch` of its REST API, as getlago/lago-openapi and getlago/lago-api have it.
//!
//! Lago keeps one event of a subscription and `transaction_id`. One that it has already makes it roll the whole batch back, with a
//! 422 that names the indexes of those: they are there, and the rest goes again (decision 0038). It does not say how far it
//! is, so the mark is here, in a file beside the ledger (decision 0020). It shows events, so it can be compared.
//!
//! Invariants (`tests/lago.rs`)
//! - The mark moves when every event of a batch was taken, or is said to be there and has our leaf.
//! - A record of a tenant without a subscription stops the sink: nothing that bills is left out in silence. The host's own
//!   records, of tenant 0, bill nobody.
//!
//! What it is not: it does not know prices, nor whether Lago has a billable metric of that code: Lago takes such events and bills
//! nothing.

mod answer;
mod event;
mod target;

pub use target::{Subscription, Target};

use super::{
    Batch, Mark, Sink, SinkError, Totals, cursor,
    http::{Answer, Server},
    trust,
    wait::Wait,
};
use answer::Said;
use event::Event;
use hyper::Method;
use std::{
    collections::BTreeSet,
    ops::Range,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Connecting, sending and the answer together take less, or nobody is there behind the socket.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lago refuses a batch of more (`LAGO_EVENTS_BATCH_MAX_LENGTH`).
const EVENTS_MAX: u32 = 100;
/// Events of a page when they are read back; Lago's default.
const PAGE: u32 = 100;
/// What is read of an answer, bytes: it repeats the events, each of less than 2 KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// No answer keeps the sink waiting for longer, whatever it says.
const RESET_MAX: Duration = Duration::from_secs(3_600);
/// What an answer of 429 says: seconds until the next request (getlago.com, API reference, rate limits).
const RESET: &str = "x-ratelimit-reset";
/// The path of events, behind the address.
const EVENTS: &str = "/api/v1/events";

/// A Lago.
pub struct Lago {
    target: Target,
    cursor: PathBuf,
    wait: Wait,
    /// It asked not to be asked before this.
    not_before: Option<Instant>,
}

impl Lago {
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
            not_before: None,
        }
    }

    /// Asks once. 429 is no answer, and nobody is asked until its time is over.
    fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Answer, SinkError> {
        let url = &self.target.url;
        if let Some(left) = self
            .not_before
            .map(|at| at.saturating_duration_since(Instant::now()))
            .filter(|left| !left.is_zero())
        {
            let seconds = left.as_secs() + 1;
            return Err(SinkError::Unavailable(format!(
                "{url}: it limits how often it is asked; again in {seconds} s"
            )));
        }
        let token = trust::secret(&self.target.token_file)?;
        let server = Server {
            url,
            address: self.target.address().map_err(SinkError::Refused)?,
            ca_file: self.target.ca_file.as_deref(),
            token: Some(&token),
        };
        let path = format!("{}{path}", server.address.path.trim_end_matches('/'));
        let body = body.map(|body| ("application/json", body));
        let late = format!("{url} did not answer");
        let asked = server.ask(method, &path, body, ANSWER_BYTES_MAX);
        let answer = self.wait.wait(&late, asked)?;
        if answer.status.as_u16() == 429 {
            let reset = answer.headers.get(RESET);
            let seconds = reset.and_then(|reset| reset.to_str().ok()?.trim().parse().ok());
            let wait = Duration::from_secs(seconds.unwrap_or_default()).min(RESET_MAX);
            self.not_before = Some(Instant::now() + wait);
        }
        // What it refuses with 422 or 404 is for who asked.
        if !matches!(answer.status.as_u16(), 404 | 422) {
            server.judge(&answer)?;
        }
        Ok(answer)
    }

    /// Sends what of a batch bills something, and returns when all of it is there.
    fn send(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let events = event::of(batch, &self.target)?;
        for some in events.chunks(EVENTS_MAX as usize) {
            let mut left: Vec<&Event> = some.iter().collect();
            while !left.is_empty() {
                match self.post(&left)? {
                    Said::Taken => break,
                    // At least one less: this ends.
                    Said::Has(known) => self.leave_out(&mut left, &known)?,
                    Said::Refuses(why) => return Err(SinkError::Refused(why)),
                }
            }
        }
        Ok(())
    }

    fn post(&mut self, events: &[&Event]) -> Result<Said, SinkError> {
        let body = event::body(events)?;
        let answer = self.ask(Method::POST, &format!("{EVENTS}/batch"), Some(body))?;
        Ok(answer::read(&self.target.url, &answer, events))
    }

    /// Takes those out that are there, if they are ours: a ledger that was copied and went on has other records under the same
    /// names, and from the one on where it parted all are others. So the last one tells.
    fn leave_out(
        &mut self,
        left: &mut Vec<&Event>,
        known: &BTreeSet<usize>,
    ) -> Result<(), SinkError> {
        if let Some(last) = known.last().and_then(|index| left.get(*index)) {
            let path = format!("{EVENTS}/{}", last.transaction_id);
            let shown = self.ask(Method::GET, &path, None)?;
            answer::is_ours(&self.target.url, &shown, last)?;
        }
        let mut index = 0;
        left.retain(|_| {
            index += 1;
            !known.contains(&(index - 1))
        });
        Ok(())
    }

    /// Reads all events of a subscription, page by page. The newest come first: what is added meanwhile moves others behind, and
    /// they are seen twice.
    fn read_back(
        &mut self,
        subscription: &str,
        ledger: &mut answer::ReadBack<'_>,
    ) -> Result<(), SinkError> {
        let mut page = 1;
        loop {
            let path = format!(
                "{EVENTS}?external_subscription_id={}&code={}&per_page={PAGE}&page={page}",
                crate::note::percent(subscription),
                crate::note::percent(&self.target.code)
            );
            let answer = self.paced(&path)?;
            match ledger.page(&self.target.url, &answer)? {
                Some(next) if next > page => page = next,
                _ => return Ok(()),
            }
        }
    }

    /// A page; where Lago limits how often it is asked, somebody waits for this and it waits.
    fn paced(&mut self, path: &str) -> Result<Answer, SinkError> {
        loop {
            let error = match self.ask(Method::GET, path, None) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match self.not_before {
                Some(at) if at > Instant::now() => {
                    std::thread::sleep(at.saturating_duration_since(Instant::now()));
                }
                _ => return Err(error),
            }
        }
    }
}

impl Sink for Lago {
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

    fn sums(
        &mut self,
        id: &[u8; 16],
        below: u64,
        without: &[Range<u64>],
    ) -> Result<Totals, SinkError> {
        let subscriptions: BTreeSet<String> = self
            .target
            .subscriptions
            .iter()
            .map(|subscription| subscription.id.clone())
            .collect();
        let mut ledger = answer::ReadBack::new(id, below, without);
        for subscription in subscriptions {
            self.read_back(&subscription, &mut ledger)?;
        }
        Ok(ledger.totals)
    }

    fn replay(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.send(batch)
    }

    fn batch_max(&self) -> u32 {
        EVENTS_MAX
    }

    fn bills(&self, tenant: i64) -> bool {
        tenant != 0
    }
}
