//! An old copy of a ledger under a courier that runs: told while it lies there, and no longer.

use crate::{
    batches::Dir,
    fake::Service,
    ledgers::{ACME, MARCH_NS, Metering, Shelf},
};
use anyhow::{Result, ensure};
use metering::sink::{
    Courier,
    cloudevents::{CloudEvents, Target},
};
use std::{
    fs,
    net::TcpListener,
    time::{Duration, Instant},
};

#[test]
fn a_fork_is_told_while_the_old_copy_lies_there_and_no_longer() -> Result<()> {
    let shelf = Shelf::new("put-back")?;
    let dir = Dir::new("events-put-back")?;
    let mut host = Metering::new(&shelf, "par1", 1, MARCH_NS[0])?;
    let port = host.port("acme", ACME);
    let windows = |host: &mut Metering| -> Result<()> {
        for _ in 0..5 {
            host.pass();
            host.carry(port, 0, 4, 1_000);
            host.cut(None)?;
        }
        Ok(())
    };
    let service = Service::new(TcpListener::bind("127.0.0.1:0")?, None)?;
    let target = Target {
        url: service.url.clone(),
        token_file: None,
        ca_file: None,
    };
    let sink = CloudEvents::new(target, dir.0.join("cursor"));
    let mut courier = Courier::new(sink, &host.path, "par1", 1);
    let mut now = Instant::now();
    let mut steps = |courier: &mut Courier<CloudEvents>| {
        // Less than the minute for which a fork is left alone.
        for _ in 0..5 {
            now += Duration::from_secs(1);
            courier.step(now);
        }
    };
    windows(&mut host)?;
    let copy = shelf.0.join("copy.db");
    rusqlite::Connection::open(&host.path)?.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
    windows(&mut host)?;
    steps(&mut courier);
    let first = courier.progress().clone();
    ensure!(
        first.error.is_none() && first.confirmed == host.size(),
        "{first:?}"
    );

    for name in ["ledger.db-wal", "ledger.db-shm"] {
        let _ = fs::remove_file(host.path.with_file_name(name));
    }
    fs::rename(&copy, &host.path)?;
    steps(&mut courier);
    let forked = courier.progress().clone();
    ensure!(
        forked.fork && forked.ledger_id == first.ledger_id,
        "{forked:?}"
    );

    // With its next window the meter puts it aside, and another one in its place.
    let said = host.open_again()?;
    ensure!(said.is_some(), "it went on with an old copy");
    windows(&mut host)?;
    steps(&mut courier);
    let mended = courier.progress().clone();
    ensure!(!mended.fork && mended.error.is_none(), "{mended:?}");
    ensure!(
        mended.ledger_id != first.ledger_id && mended.confirmed == host.size(),
        "{mended:?}"
    );
    ensure!(mended.lag == Some(0), "{mended:?}");
    println!("CASES: old copies under a courier, told and over: 1");
    Ok(())
}
