//! What the tests of sinks ask of a site: how far its sink is, and ledgers that say something else.

use super::site::Metered;
use anyhow::{Context as _, Result, ensure};
use octroi::daemon::SinkStatus;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// What makes another ledger of a copy, and what it is called.
pub const FORKS: [(&str, &str); 3] = [
    // The same ledger with another last record.
    (
        "another.db",
        "UPDATE record SET leaf = zeroblob(32) WHERE seq > 5",
    ),
    // The same windows in a ledger of another id: a copy that was made to look new.
    (
        "renamed.db",
        "UPDATE about SET value = randomblob(16) WHERE key = 'ledger_id'",
    ),
    // Shorter than what was delivered.
    ("short.db", "DELETE FROM record WHERE seq > 20"),
];

/// Makes a copy of the site's ledger, and changes it.
pub fn copy_of(metered: &Metered, copy: &Path, changes: &[&str]) -> Result<()> {
    let db = rusqlite::Connection::open(&metered.ledger)?;
    db.execute("VACUUM INTO ?1", [copy.display().to_string()])?;
    let db = rusqlite::Connection::open(copy)?;
    for change in changes {
        ensure!(db.execute(change, [])? > 0, "{change} changes nothing");
    }
    Ok(())
}

/// The site's one sink.
pub fn sink_status(metered: &Metered) -> Result<SinkStatus> {
    let mut sinks = metered.site.report()?.sinks;
    sinks.pop().context("no sink")
}

/// Waits until the sink has every record of the ledger that was there when this began.
pub fn caught_up(metered: &Metered, patience: Duration) -> Result<()> {
    // A daemon that has just begun does not know its ledger before the first window.
    metered.wait("a window", |status| status.windows > 0)?;
    let begun = Instant::now();
    let records = metered.status()?.records;
    loop {
        let status = sink_status(metered)?;
        if status.progress.confirmed >= records {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < patience,
            "the sink stays behind {records}: {status:?}\n{}",
            metered.site.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
