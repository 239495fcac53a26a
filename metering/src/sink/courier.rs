//! Brings what is new in a host's ledgers to one sink. Pure but for the ledger's files and the sink: whoever drives it
//! sleeps.

use super::{Backoff, Feed, Mark, Sink, SinkError};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// How long to wait when there is nothing new.
const IDLE: Duration = Duration::from_millis(500);
/// How long to wait before a fork, or what the sink refuses, is looked at again: somebody has to do something.
const STUCK: Duration = Duration::from_secs(60);

/// Records in a batch: at most a second's work of a database; at least what goes through when connections break
/// after some kilobytes.
const BATCH: std::ops::RangeInclusive<u32> = 16..=2_000;

/// Where a sink stands, for `octroi sinks`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The first seq of the ledger of now that the sink has not confirmed; 0 until it was asked.
    pub confirmed: u64,
    /// Records that the ledgers have and the sink has not.
    pub lag: u64,
    /// Records that it took since this process began.
    pub delivered: u64,
    /// What went wrong last, if it is not good again.
    pub error: Option<String>,
    /// Two records have one name: an alarm.
    pub fork: bool,
}

/// One sink, and the ledgers of its host.
pub struct Courier<S> {
    sink: S,
    ledger: PathBuf,
    host: String,
    backoff: Backoff,
    progress: Progress,
    /// Records in the next batch: less after a failure, more after a success.
    batch: u32,
    /// Of ledgers that were put aside: those that it has whole.
    done: Vec<PathBuf>,
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
            batch: *BATCH.end(),
            done: Vec::new(),
        }
    }

    /// Where it stands.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Delivers what there is, a batch at most of each ledger, and says how long to wait.
    pub fn step(&mut self) -> Duration {
        match self.round() {
            Ok(more) => {
                self.backoff.worked();
                self.progress.error = None;
                self.progress.fork = false;
                if more { Duration::ZERO } else { IDLE }
            }
            Err(error) => {
                self.batch = (self.batch / 4).max(*BATCH.start());
                self.progress.fork = matches!(error, SinkError::Fork(_));
                self.progress.error = Some(error.to_string());
                match error {
                    SinkError::Unavailable(_) | SinkError::Ledger(_) => self.backoff.failed(),
                    SinkError::Fork(_) | SinkError::Refused(_) => STUCK,
                }
            }
        }
    }

    /// True: there is more.
    fn round(&mut self) -> Result<bool, SinkError> {
        let (mut more, mut lag) = (false, 0);
        let mut wrong = None;
        for path in Feed::files(&self.ledger) {
            let aside = path != self.ledger;
            if aside && self.done.contains(&path) {
                continue;
            }
            if !aside && !path.exists() {
                continue; // the daemon makes it with its first window
            }
            match self.one(&path, aside) {
                Ok(left) => {
                    lag += left;
                    more |= left != 0;
                }
                // What is wrong with one ledger, which somebody may have put there, holds no other up. A sink that
                // is not there is so for all.
                Err(error @ SinkError::Unavailable(_)) => return Err(error),
                Err(error) => wrong = wrong.or(Some(error)),
            }
        }
        self.progress.lag = lag;
        wrong.map_or(Ok(more), Err)
    }

    /// How many records are left to deliver.
    fn one(&mut self, path: &Path, aside: bool) -> Result<u64, SinkError> {
        let feed = Feed::open(path)?;
        if feed.host() != self.host {
            // Somebody else's file: its own host delivers it.
            if aside {
                self.done.push(path.to_owned());
                return Ok(0);
            }
            return Err(SinkError::Refused(format!(
                "{} is not of the host {}",
                feed.name(),
                self.host
            )));
        }
        let mut mark = self.sink.mark(feed.id(), feed.host())?;
        let held = feed.holds(&mark);
        if aside && matches!(held, Err(SinkError::Fork(_))) && self.is_a_part(&feed, &mark)? {
            // A copy that ends before what the sink has: nothing of it is new.
            self.done.push(path.to_owned());
            return Ok(0);
        }
        held?;
        if let Some(batch) = feed.batch(mark, self.batch)? {
            mark = self.sink.deliver(&batch)?;
            self.batch = self.batch.saturating_mul(2).min(*BATCH.end());
            self.progress.delivered += batch.items.len() as u64;
        }
        if !aside {
            self.progress.confirmed = mark.next;
        }
        let left = feed.size()?.saturating_sub(mark.next);
        if aside && left == 0 {
            self.done.push(path.to_owned());
        }
        Ok(left)
    }

    fn is_a_part(&self, feed: &Feed, mark: &Mark) -> Result<bool, SinkError> {
        Ok(feed.size()? < mark.next)
    }
}
