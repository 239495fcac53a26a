//! What the tests of sinks ask of a site: how far its sink is, and ledgers that say something else.

use super::{
    bill::Bill,
    site::{Metered, SENDERS, TENANTS, Traffic},
};
use crate::support::{octroi, settle};
use anyhow::{Context as _, Result, ensure};
use octroi::daemon::{MeterStatus, SinkStatus};
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

/// Writes the daemon's file with the ledger and one sink, whose other keys `sink` has; the daemon is not started yet.
pub fn deliver_to(metered: &Metered, window: &str, sink: &str) -> Result<()> {
    let config = metered.site.config("shape = \"police\"")
        + &format!(
            "\n[meter]\nledger = \"{}\"\nwindow = \"{window}\"\n\n[[sink]]\nname = \"billing\"\n{sink}\n",
            metered.ledger.display()
        );
    metered.site.write_config(&config)
}

/// Ends the traffic, and waits until the sink has all of it.
pub fn quiet(metered: &Metered, traffic: Traffic, patience: Duration) -> Result<()> {
    traffic.stop()?;
    settle(|| Metered::sent(&metered.site))?;
    let windows = metered.status()?.windows;
    metered.wait("quiet windows", |status| status.windows > windows + 3)?;
    caught_up(metered, patience)
}

/// Stops the daemon, whose records must be what the interfaces sent, starts it again so that the last of them are
/// delivered, and compares what the sink has, `billed`: packets and bytes that a tenant sent, with the interfaces.
pub fn exactly_once(
    metered: &mut Metered,
    patience: Duration,
    billed: impl Fn(usize) -> Result<(u64, u64)>,
) -> Result<()> {
    let bill = metered.conserved()?;
    metered.site.start(octroi())?;
    caught_up(metered, patience)?;
    metered.site.stop();
    for (index, tenant) in TENANTS.iter().take(SENDERS).enumerate() {
        let sent = bill.sent_by(tenant.name);
        let (packets, bytes) = billed(index)?;
        // What the second run saw: an interface that says something by itself.
        let more = packets.checked_sub(sent.packets);
        ensure!(
            more.is_some_and(|more| more <= 20),
            "{index}: the sink has {packets} packets, the interface sent {sent:?}"
        );
        let after = Bill::read(&metered.ledger)?.sent_by(tenant.name);
        ensure!(
            (after.packets, after.l2_bytes) == (packets, bytes),
            "{index}: the sink has {packets} packets and {bytes} bytes, the ledger {after:?}"
        );
    }
    Ok(())
}

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
    let MeterStatus {
        ledger_id, records, ..
    } = metered.status()?;
    loop {
        let status = sink_status(metered)?;
        // Of the ledger of now: what is confirmed of one before it says nothing.
        if status.progress.ledger_id == ledger_id && status.progress.confirmed >= records {
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
