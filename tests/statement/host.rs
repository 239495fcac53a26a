//! A host whose daemon has a wall clock of its own, and what its tenant's interface says.

use crate::{
    own_clock::OwnClock,
    site::{Metered, Traffic},
    support::{between, can_run, octroi, registers, settle},
};
use anyhow::{Result, ensure};
use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// What a process printed on standard output and standard error, and how it ended.
pub struct Said {
    pub fine: bool,
    pub out: String,
    pub err: String,
}

/// A daemon under a clock of its own.
pub struct Host {
    pub metered: Metered,
    pub clock: OwnClock,
    /// What alice's interface had received that octroi had not seen, when it was started.
    received_before: [u64; 2],
}

impl Host {
    /// `None`: this cannot be made here, and `test` said so.
    pub fn new(test: &str, window: &str, utc_ns: i64) -> Result<Option<Self>> {
        if !can_run(test) {
            return Ok(None);
        }
        let mut metered = Metered::new(window, None)?;
        let Some(clock) = OwnClock::new(metered.site.directory())? else {
            println!("SKIPPED: {test}: there is no rustc to make a clock with");
            return Ok(None);
        };
        clock.set(utc_ns)?;
        metered.start_with(&clock.environment())?;
        let (counters, seen) = settle(|| {
            let counters = metered.site.tenants[0].counters("eth0")?;
            Ok((counters, registers(&metered.site, 0)?.1.total()))
        })?;
        Ok(Some(Self {
            received_before: [counters[0] - seen.packets, counters[1] - seen.l2_bytes],
            metered,
            clock,
        }))
    }

    /// Runs octroi with this host's configuration and clock.
    pub fn run(&self, arguments: &[&str], more: &[&str]) -> Result<Said> {
        let config = self.metered.site.config_path();
        let output = Command::new(octroi())
            .args(arguments)
            .arg("--config")
            .arg(config)
            .args(more)
            .envs(self.clock.environment())
            .output()?;
        Ok(Said {
            fine: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    pub fn fine(&self, arguments: &[&str], more: &[&str]) -> Result<Said> {
        let said = self.run(arguments, more)?;
        ensure!(said.fine, "{arguments:?}: {}{}", said.out, said.err);
        Ok(said)
    }

    /// What alice's own interface has sent and received since octroi was there: packets, bytes, twice.
    pub fn carried(&self) -> Result<[u64; 4]> {
        let counters = settle(|| self.metered.site.tenants[0].counters("eth0"))?;
        let sent = between(self.metered.before[0], counters);
        let [packets, bytes] = self.received_before;
        Ok([sent[2], sent[3], counters[0] - packets, counters[1] - bytes])
    }

    /// Traffic for so long; then what is under way has arrived, and is in a window that is committed.
    pub fn traffic(&self, time: Duration) -> Result<[u64; 4]> {
        let traffic = Traffic::start(&self.metered.site)?;
        thread::sleep(time);
        traffic.stop()?;
        let carried = self.carried()?;
        self.next_window()?;
        Ok(carried)
    }

    pub fn next_window(&self) -> Result<()> {
        let windows = self.metered.status()?.windows;
        self.metered
            .wait("a window", |status| status.windows > windows + 1)
            .map(drop)
    }

    /// Waits until the daemon's clock is past this time, and the window before is committed.
    pub fn wait_until(&self, utc_ns: i64) -> Result<()> {
        let begun = Instant::now();
        while self.clock.now() <= utc_ns {
            ensure!(begun.elapsed() < Duration::from_secs(180), "it never is");
            thread::sleep(Duration::from_millis(50));
        }
        self.next_window()
    }
}
