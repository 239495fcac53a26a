//! A thread for each sink. It reads the ledger itself: no sink, however slow, is in the meter's way.

use crate::config::{Config, Sink};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use metering::sink::{self, Courier, Progress};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

/// What `octroi sinks` says of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// Where it stands.
    #[serde(flatten)]
    pub progress: Progress,
    /// Until it is tried again, ms.
    pub next_try_ms: u64,
}

/// One sink's thread.
struct Running {
    /// Its records are kept until it has them.
    holds: bool,
    seen: Arc<Mutex<(SinkStatus, Instant)>>,
    /// The thread ends when this goes.
    _stop: Sender<()>,
}

/// All sinks of a daemon.
#[derive(Default)]
pub struct Sinks {
    of: Option<(Vec<Sink>, PathBuf, String)>,
    running: Vec<Running>,
}

impl Sinks {
    /// Another configuration is in force: threads are started anew where it says something else.
    pub fn configure(&mut self, config: &Config, ledger: &Path, random: &[u8; 16]) {
        let host = config.host.name.as_str().to_owned();
        let wanted = (config.sinks.clone(), ledger.to_owned(), host);
        if self.of.as_ref() == Some(&wanted) {
            return;
        }
        let (sinks, ledger, host) = &wanted;
        let seed = u64::from_le_bytes(random[..8].try_into().unwrap_or_default());
        let started = (0..).zip(sinks);
        self.running = started
            .map(|(number, sink)| start(sink, ledger, host, seed.wrapping_add(number)))
            .collect();
        self.of = Some(wanted);
    }

    /// The lowest seq of a ledger that a sink that bills has not confirmed; `u64::MAX`: there is none. One that speaks of
    /// another ledger has confirmed nothing of this one.
    pub fn unconfirmed(&self, ledger_id: &str) -> u64 {
        let held = self.running.iter().map(|running| running.holds);
        let all = self.status().into_iter().zip(held);
        let all = all.filter(|(_, holds)| *holds).map(|(status, _)| {
            let is_of_it = status.progress.ledger_id == ledger_id;
            if is_of_it {
                status.progress.confirmed
            } else {
                0
            }
        });
        all.min().unwrap_or(u64::MAX)
    }

    /// Where each stands.
    pub fn status(&self) -> Vec<SinkStatus> {
        let seen = self.running.iter().map(|running| {
            let seen = running.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = seen.1.saturating_duration_since(Instant::now());
            SinkStatus {
                next_try_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                ..seen.0.clone()
            }
        });
        seen.collect()
    }
}

fn start(sink: &Sink, ledger: &Path, host: &str, seed: u64) -> Running {
    let name = sink.name.as_str().to_owned();
    let status = SinkStatus {
        name: name.clone(),
        ..SinkStatus::default()
    };
    let seen = Arc::new(Mutex::new((status, Instant::now())));
    let (stop, stopped) = bounded(0);
    let opened = sink.target.open(ledger, &name);
    let courier = Courier::new(opened, ledger, host, seed);
    let tell = Arc::clone(&seen);
    let began = thread::Builder::new()
        .name(format!("sink {name}"))
        .spawn(move || deliver(courier, &name, &tell, &stopped));
    if let Err(error) = began {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0.progress.error = Some(format!("there is no thread for it: {error}"));
    }
    Running {
        holds: sink.target.holds_records(),
        seen,
        _stop: stop,
    }
}

fn deliver(
    mut courier: Courier<Box<dyn sink::Sink + Send>>,
    name: &str,
    tell: &Mutex<(SinkStatus, Instant)>,
    stopped: &Receiver<()>,
) {
    let mut said: Option<String> = None;
    loop {
        let wait = courier.step(Instant::now());
        let progress = courier.progress().clone();
        // Once, and again when it is something else: an operator reads this at night.
        if progress.error != said {
            match &progress.error {
                Some(error) if progress.fork => eprintln!("octroi: ALARM: sink {name}: {error}"),
                Some(error) => eprintln!("octroi: warning: sink {name}: {error}"),
                None => eprintln!("octroi: sink {name} takes records again"),
            }
            said.clone_from(&progress.error);
        }
        {
            let mut seen = tell.lock().unwrap_or_else(PoisonError::into_inner);
            seen.0.progress = progress;
            seen.1 = Instant::now() + wait;
        }
        if stopped.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}
