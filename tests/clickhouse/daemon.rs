//! Under a daemon, with real packets: a server that dies, ways that break, ledgers that are put back, deleted and copied.

use crate::{
    Server,
    delivered::{self, FORKS, caught_up, copy_of, quiet},
    has_engine,
    server::PASSWORD,
    sink,
    site::{Metered, Traffic},
    support::{self, alone, by_level, can_run, octroi},
    views_agree,
    way::{self, Broken},
};
use anyhow::{Context as _, Result, ensure};
use metering::sink::{Courier, clickhouse::ClickHouse};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

/// How long a sink may stay behind.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server in whose place nobody answers from the daemon's namespace but by a way that breaks.
fn deliver_to(metered: &Metered, server: &Server, seed: u64, broken: &Broken) -> Result<()> {
    // A batch is some 10 KB of questions and answers.
    way::narrow(&metered.site.host, server.port, seed, 12, broken)?;
    let sink = format!(
        "kind = \"clickhouse\"\nurl = \"{}\"\npassword_file = \"{}\"",
        server.url(),
        server.password_file().display()
    );
    delivered::deliver_to(metered, "100ms", &sink)
}

/// Packets and bytes that a tenant sent, as the engine adds them up.
fn billed_of(server: &Server, tenant: usize) -> Result<(u64, u64)> {
    let answer = server.ask(&format!(
        "SELECT sum(packets), sum(l2_bytes) FROM billed WHERE tenant = {} AND direction = 0",
        tenant + 1
    ))?;
    let (packets, bytes) = answer.split_once('|').context("two numbers")?;
    Ok((packets.parse()?, bytes.parse()?))
}

/// `forks`: those that may have been told.
fn nothing_is_twice(server: &Server, forks: &[&str]) -> Result<()> {
    let twice = server.ask(
        "SELECT count() FROM (SELECT 1 FROM record FINAL WHERE kind = 1 GROUP BY host, boot_id, map_generation, \
         port_uid, incarnation, direction, zone, window_id HAVING count() > 1)",
    )?;
    ensure!(twice == "0", "{twice} windows are there twice");
    let totals = server.ask("SELECT count() FROM record WHERE kind = 1 AND zone < 0")?;
    ensure!(totals == "0", "{totals} totals beside their zones");
    let told = server.ask("SELECT count() FROM fork FINAL")?;
    ensure!(forks.contains(&told.as_str()), "{told} forks");
    views_agree(server).map(drop)
}

/// An `octroi` command, beside the server: here no way breaks.
fn command(metered: &Metered, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(octroi());
    command
        .args(arguments)
        .args(["--sink", "billing", "--config"])
        .arg(metered.site.config_path());
    Ok(command.output()?)
}

fn reconcile(metered: &Metered) -> Result<(bool, String)> {
    let output = command(metered, &["reconcile"])?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

#[test]
fn a_server_that_dies_and_answers_that_are_lost_cost_no_byte_and_bill_none_twice() -> Result<()> {
    const TEST: &str =
        "a_server_that_dies_and_answers_that_are_lost_cost_no_byte_and_bill_none_twice";
    let _alone = alone();
    if !has_engine(TEST) || !can_run(TEST) {
        return Ok(());
    }
    let mut server = Server::new("lost")?;
    let mut metered = Metered::new("100ms", None)?;
    let broken = Broken::default();
    deliver_to(&metered, &server, 2_026, &broken)?;
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    let rounds = by_level(2, 3, 40);
    for round in 0..rounds {
        server.moods(&["done-late", "busy", "well", "done-reset", "nobody"])?;
        std::thread::sleep(Duration::from_millis(1_100 + round * 137 % 700));
        match round % 3 {
            0 => {
                server.kill()?;
                std::thread::sleep(Duration::from_millis(400));
                server.start()?;
            }
            1 => {
                metered.site.kill()?;
                metered.site.start(octroi())?;
            }
            _ => {
                metered.site.kill()?;
                server.kill()?;
                server.start()?;
                metered.site.start(octroi())?;
            }
        }
    }
    traffic.stop()?;
    delivered::exactly_once(&mut metered, PATIENCE, |index| billed_of(&server, index))?;
    nothing_is_twice(&server, &["0"])?;
    ensure!(
        !metered.site.log().contains(PASSWORD),
        "the log has a secret"
    );
    let (is_same, said) = reconcile(&metered)?;
    ensure!(is_same, "{said}");

    // What was taken away there is told, and brought back.
    let gone = server.ask("SELECT count() FROM billed WHERE seq % 7 = 3")?;
    server.ask("ALTER TABLE record DELETE WHERE seq % 7 = 3 SETTINGS mutations_sync = 2")?;
    let (is_same, said) = reconcile(&metered)?;
    ensure!(!is_same && said.contains("are not the ledger's"), "{said}");
    let replayed = command(&metered, &["replay", "--from", "0"])?;
    ensure!(replayed.status.success(), "{replayed:?}");
    let (is_same, said) = reconcile(&metered)?;
    ensure!(is_same, "{said}");
    nothing_is_twice(&server, &["0"])?;

    let records = server.ask("SELECT count() FROM record FINAL")?;
    let rows = server.ask("SELECT count() FROM record")?;
    let broken = broken.load(Relaxed);
    ensure!(broken > 0, "no connection broke");
    println!("CASES: connections broken under delivery: {broken}");
    println!("CASES: records in ClickHouse exactly once: {records}");
    println!("CASES: rows of them, before they are merged: {rows}");
    println!("CASES: records taken away there and brought back: {gone}");
    println!("CASES: kills of server and daemon under delivery: {rounds}");
    Ok(())
}

#[test]
fn a_ledger_that_is_deleted_put_back_or_copied_bills_nothing_twice() -> Result<()> {
    const TEST: &str = "a_ledger_that_is_deleted_put_back_or_copied_bills_nothing_twice";
    let _alone = alone();
    if !has_engine(TEST) || !can_run(TEST) {
        return Ok(());
    }
    let server = Server::new("copies")?;
    let mut metered = Metered::new("100ms", None)?;
    deliver_to(&metered, &server, 0, &Broken::default())?;
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    metered.wait("windows", |status| status.windows > 10)?;
    let copy = metered.site.directory().join("copy.db");
    copy_of(&metered, &copy, &[])?;
    let windows = metered.status()?.windows;
    metered.wait("more windows", |status| status.windows > windows + 10)?;
    quiet(&metered, traffic, PATIENCE)?;
    let first = metered.status()?.ledger_id;

    // An old copy in its place, and then nothing: the daemon supersedes it, and what the sink has of it stays.
    for way in ["old", "deleted"] {
        let before = metered.status()?.ledger_id;
        for name in ["ledger.db-wal", "ledger.db-shm"] {
            let _ = fs::remove_file(metered.site.directory().join(name));
        }
        if way == "old" {
            fs::rename(&copy, &metered.ledger)?;
        } else {
            fs::remove_file(&metered.ledger)?;
        }
        metered.wait("another ledger", |status| {
            status.ledger_id != before && status.ledger_id != first && status.error.is_none()
        })?;
        let traffic = Traffic::start(&metered.site)?;
        let windows = metered.status()?.windows;
        metered.wait("its windows", |status| status.windows > windows + 10)?;
        quiet(&metered, traffic, PATIENCE)?;
        let after = Metered::sent(&metered.site)?;
        for (index, (after, before)) in after.into_iter().zip(&metered.before).enumerate() {
            let sent = support::between(*before, after);
            let billed = billed_of(&server, index)?;
            ensure!(
                billed == (sent[2], sent[3]),
                "{way}: tenant {index}: the sink has {billed:?}, the interface sent {} and {}\n{}",
                sent[2],
                sent[3],
                metered.site.log()
            );
        }
        // The sink may have looked before the daemon put the copy aside: then it told that, rightly, and waited a minute.
        nothing_is_twice(&server, &["0", "1"])?;
    }
    caught_up(&metered, PATIENCE)?;
    let ledgers = server.ask("SELECT count() FROM ledger")?;
    ensure!(ledgers == "3", "{ledgers} ledgers");
    let (is_same, said) = reconcile(&metered)?;
    ensure!(is_same, "{said}");
    metered.site.stop();
    forks(&metered, &server)?;
    println!("CASES: ledgers put back, deleted and copied under ClickHouse: 5");
    Ok(())
}

/// Copies that say something else under the same names are refused and told, and the tables stay as they were.
fn forks(metered: &Metered, server: &Server) -> Result<()> {
    let host = server.ask("SELECT DISTINCT host FROM ledger")?;
    let rows = || server.ask("SELECT count(), sum(l2_bytes) FROM billed");
    let raw = || server.ask("SELECT count() FROM record FINAL");
    let told = || -> Result<u64> { Ok(server.ask("SELECT count() FROM fork FINAL")?.parse()?) };
    let (before, told_before) = ((rows()?, raw()?), told()?);
    for (name, change) in FORKS {
        let copy = metered.site.directory().join(name);
        copy_of(metered, &copy, &[change])?;
        let mut courier = courier(server, &copy, &host);
        courier.step(Instant::now());
        let progress = courier.progress();
        ensure!(progress.fork, "{name}: {progress:?}");
        let after = (rows()?, raw()?);
        ensure!(before == after, "{name}: {before:?} became {after:?}");
    }
    let told = told()? - told_before;
    ensure!(told == 3, "the server was told of {told} forks");
    Ok(())
}

fn courier(server: &Server, ledger: &Path, host: &str) -> Courier<ClickHouse> {
    Courier::new(sink(server), ledger, host, 1)
}
