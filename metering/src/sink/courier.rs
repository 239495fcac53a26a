//! Brings what is new in a host's ledgers to one sink. It reads the ledgers' files and asks the sink; the time is an
//! argument, and whoever drives it sleeps.
//!
//! Invariants
//! - What is wrong with one ledger holds no other up: each has its own mark, batch and next try. A sink that is not
//!   there is so for all.
//! - What is wrong with a file is wrong with that file: another one that takes its place, as the meter puts one where an old copy was
//!   put under it, is looked at at once.
//! - [`Progress::confirmed`] is of the ledger that [`Progress::ledger_id`] names: 0 until the sink has answered for that one.

use super::{Backoff, Feed, Mark, Sink, SinkError};
use crate::{ledger, note};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long to wait when there is nothing new.
const IDLE: Duration = Duration::from_millis(500);
/// How long to wait before a fork, or what the sink refuses, is looked at again: somebody has to do something.
const STUCK: Duration = Duration::from_secs(60);

/// Least records in a batch, which go through when connections break after some kilobytes; the most are
/// [`Sink::batch_max`].
const BATCH_LEAST: u32 = 16;

/// Where a sink stands, for `octroi sinks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The ledger of now, in hexadecimal digits; empty until there is one.
    pub ledger_id: String,
    /// The first seq of it that the sink has not confirmed; 0 until it was asked.
    pub confirmed: u64,
    /// Records that the ledgers have and the sink has not confirmed, but for those that it refuses; `None`: it does not answer,
    /// or was not asked yet.
    pub lag: Option<u64>,
    /// Records that it took since this process began.
    pub delivered: u64,
    /// What is wrong.
    pub error: Option<String>,
    /// Two records have one name: an alarm.
    pub fork: bool,
    /// Rows that it could not send since this process began; `None`: its kind loses none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}

/// One ledger, as the sink has it.
struct Standing {
    id: [u8; 16],
    /// Device and inode of the file that it was.
    file: Option<(u64, u64)>,
    /// `None`: the sink is to be asked.
    mark: Option<Mark>,
    /// Records in the next batch: less after a failure, more after a success.
    batch: u32,
    /// Records that are to be sent.
    left: u64,
    /// Records that the sink does not keep for good.
    unconfirmed: u64,
    /// What is wrong with it, whether it is a fork, and when to look again.
    wrong: Option<(String, bool, Instant)>,
    /// It was put aside, and nothing of it is new.
    done: bool,
}

impl Standing {
    fn new(id: [u8; 16], batch: u32) -> Self {
        Self {
            id,
            file: None,
            mark: None,
            batch,
            left: 0,
            unconfirmed: 0,
            wrong: None,
            done: false,
        }
    }
}

/// One sink, and the ledgers of its host.
pub struct Courier<S> {
    sink: S,
    ledger: PathBuf,
    host: String,
    backoff: Backoff,
    progress: Progress,
    standings: BTreeMap<PathBuf, Standing>,
}

impl<S: Sink> Courier<S> {
    /// Nothing is asked yet. `seed`: see [`Backoff::new`].
    pub fn new(sink: S, ledger: &Path, host: &str, seed: u64) -> Self {
        Self {
            sink,
            ledger: ledger.to_owned(),
            host: host.to_owned(),
            backoff: Backoff::new(seed),
            progress: Progress::default(),
            standings: BTreeMap::new(),
        }
    }

    /// Where it stands.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Delivers what there is, a batch at most of each ledger, and says how long to wait.
    pub fn step(&mut self, now: Instant) -> Duration {
        let round = self.round(now);
        self.progress.lost = self.sink.lost();
        match round {
            Ok(()) => {
                self.backoff.worked();
                let mut wrong = self.standings.values().filter_map(|s| s.wrong.as_ref());
                self.progress.fork = wrong.clone().any(|(_, fork, _)| *fork);
                self.progress.error = wrong.next().map(|(what, ..)| what.clone());
                let well = self.standings.values().filter(|s| s.wrong.is_none());
                let lag = well.clone().map(|standing| standing.unconfirmed).sum();
                self.progress.lag = Some(lag);
                let is_idle = well.map(|standing| standing.left).all(|left| left == 0);
                if is_idle { IDLE } else { Duration::ZERO }
            }
            Err(error) => {
                self.progress.fork = false;
                self.progress.error = Some(error.to_string());
                self.progress.lag = None;
                self.backoff.failed()
            }
        }
    }

    /// Fails when the sink is not there.
    fn round(&mut self, now: Instant) -> Result<(), SinkError> {
        let files = Feed::files(&self.ledger);
        self.standings.retain(|path, _| files.contains(path));
        for path in files {
            let of_now = path == self.ledger;
            if of_now && !path.exists() {
                continue; // the daemon makes it with its first window
            }
            // Before it is opened: what takes its place meanwhile is another one next time.
            let file = ledger::inode(&path).ok();
            let standing = self.standings.get(&path);
            let waits = |standing: &Standing| {
                let is_later = standing.wrong.as_ref().is_some_and(|(.., at)| *at > now);
                standing.done || is_later && standing.file == file
            };
            if standing.is_some_and(waits) {
                continue;
            }
            let error = match self.one(&path, of_now) {
                Ok(()) => continue,
                Err(error) => error,
            };
            let standing = self.standings.entry(path);
            let most = self.sink.batch_max();
            let standing = standing.or_insert_with(|| Standing::new([0; 16], most));
            standing.file = file;
            standing.mark = None;
            standing.batch = (standing.batch / 4).max(BATCH_LEAST);
            if let SinkError::Fork(what) = &error {
                // A sink that is not there now is told when this is looked at again.
                drop(self.sink.fork(&standing.id, &self.host, what));
            }
            let again = match error {
                SinkError::Unavailable(_) => return Err(error),
                SinkError::Ledger(_) => IDLE,
                SinkError::Fork(_) | SinkError::Refused(_) => STUCK,
            };
            let fork = matches!(error, SinkError::Fork(_));
            standing.wrong = Some((error.to_string(), fork, now + again));
        }
        Ok(())
    }

    fn one(&mut self, path: &Path, of_now: bool) -> Result<(), SinkError> {
        let feed = Feed::open(path)?;
        let standing = self.standings.entry(path.to_owned());
        let most = self.sink.batch_max();
        let standing = standing.or_insert_with(|| Standing::new(*feed.id(), most));
        if standing.id != *feed.id() {
            // Another ledger took its place: what is known is of the one before.
            *standing = Standing::new(*feed.id(), most);
        }
        if of_now {
            let id = note::hex(feed.id());
            if self.progress.ledger_id != id {
                self.progress.ledger_id = id;
                self.progress.confirmed = 0;
            }
        }
        if feed.host() != self.host {
            if of_now {
                let why = format!("{} is not of the host {}", feed.name(), self.host);
                return Err(SinkError::Refused(why));
            }
            // Somebody else's file: its own host delivers it.
            standing.done = true;
            return Ok(());
        }
        let mut mark = match standing.mark {
            Some(mark) => mark,
            None => self.sink.mark(feed.id(), feed.host())?,
        };
        if !of_now && feed.size()? < mark.next {
            // A copy that ends before what the sink has: nothing of it is new.
            standing.done = true;
            return Ok(());
        }
        feed.holds(&mark)?;
        if let Some(batch) = feed.batch(mark, standing.batch)? {
            mark = self.sink.deliver(&batch)?;
            standing.batch = standing.batch.saturating_mul(2).min(most);
            self.progress.delivered += batch.items.len() as u64;
        }
        let confirmed = self.sink.confirmed(feed.id(), &mark)?;
        if confirmed != mark {
            feed.holds(&confirmed)?;
        }
        if of_now {
            self.progress.confirmed = confirmed.next;
        }
        let size = feed.size()?;
        standing.mark = Some(mark);
        standing.left = size.saturating_sub(mark.next);
        standing.unconfirmed = size.saturating_sub(confirmed.next);
        standing.wrong = None;
        standing.done = !of_now && standing.unconfirmed == 0;
        Ok(())
    }
}
