//! What a biller's database has is what the tenants' interfaces sent: whatever is lost, killed, deleted, put back or
//! copied on the way. Real packets, a real daemon, a real PostgreSQL; the totals are reckoned by the database.

#[path = "delivery/batches.rs"]
mod batches;
#[path = "meter/bill.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod bill;
#[path = "support/certificate.rs"]
mod certificate;
#[path = "delivery/database.rs"]
mod database;
#[path = "meter/delivered.rs"]
#[allow(dead_code, reason = "each test of a sink uses its own part of this")]
mod delivered;
#[path = "meter/site.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod site;
mod support;

use anyhow::{Context as _, Result, ensure};
use database::{Database, Lossy, Stall, url};
use delivered::{FORKS, copy_of, quiet};
use metering::sink::{
    Courier, Mark, Sink as _, SinkError,
    postgres::{Postgres, Target},
};
use site::{Metered, Traffic};
use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use support::{alone, by_level, can_run, octroi};

/// How long a sink may stay behind.
const PATIENCE: Duration = Duration::from_secs(120);

const HOST_OF_SITES: &str = "SELECT DISTINCT host FROM octroi.ledger";

fn ready(test: &str) -> bool {
    if Database::programs().is_none() {
        println!("SKIPPED: {test}: there is no PostgreSQL; `cargo xtask setup` installs it");
        return false;
    }
    can_run(test)
}

/// The sink's section in the daemon's file; the daemon is not started yet.
fn deliver_to(metered: &Metered, window: &str, url: &str) -> Result<()> {
    let sink = format!("kind = \"postgres\"\nurl = \"{url}\"");
    delivered::deliver_to(metered, window, &sink)
}

/// Packets and bytes that a tenant sent, as the database adds them up.
fn billed(database: &Database, tenant: usize) -> Result<(u64, u64)> {
    let answer = database.ask(&format!(
        "SELECT coalesce(sum(packets), 0), coalesce(sum(l2_bytes), 0) FROM octroi.billed \
         WHERE tenant = {} AND direction = 0",
        tenant + 1
    ))?;
    let (packets, bytes) = answer.split_once('|').context("two numbers")?;
    Ok((packets.parse()?, bytes.parse()?))
}

fn nothing_is_twice(database: &Database) -> Result<()> {
    let twice = database.ask(
        "SELECT count(*) FROM (SELECT 1 FROM octroi.record WHERE kind = 1 GROUP BY host, boot_id, map_generation, \
         port_uid, incarnation, direction, zone, window_id HAVING count(*) > 1) AS twice",
    )?;
    ensure!(twice == "0", "{twice} windows are there twice");
    let totals = database.ask("SELECT count(*) FROM octroi.record WHERE kind = 1 AND zone < 0")?;
    ensure!(totals == "0", "{totals} totals beside their zones");
    let forks = database.ask("SELECT count(*) FROM octroi.fork")?;
    ensure!(forks == "0", "{forks} forks");
    Ok(())
}

fn exactly_once(metered: &mut Metered, database: &Database) -> Result<()> {
    delivered::exactly_once(metered, PATIENCE, |index| billed(database, index))?;
    nothing_is_twice(database)
}

#[test]
fn a_database_that_dies_and_answers_that_are_lost_cost_no_byte_and_bill_none_twice() -> Result<()> {
    const TEST: &str =
        "a_database_that_dies_and_answers_that_are_lost_cost_no_byte_and_bill_none_twice";
    let _alone = alone();
    if !ready(TEST) {
        return Ok(());
    }
    let mut database = Database::new("lost")?;
    let lossy = Lossy::new(&database, 2_026)?;
    let mut metered = Metered::new("100ms", None)?;
    deliver_to(&metered, "100ms", &url(&lossy.directory))?;
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    let rounds = by_level(2, 6, 40);
    for round in 0..rounds {
        std::thread::sleep(Duration::from_millis(900 + round * 137 % 700));
        match round % 3 {
            0 => {
                database.kill()?;
                std::thread::sleep(Duration::from_millis(400));
                database.start()?;
            }
            1 => {
                metered.site.kill()?;
                metered.site.start(octroi())?;
            }
            _ => {
                metered.site.kill()?;
                database.kill()?;
                database.start()?;
                metered.site.start(octroi())?;
            }
        }
    }
    traffic.stop()?;
    exactly_once(&mut metered, &database)?;
    let records = database.ask("SELECT count(*) FROM octroi.record")?;
    ensure!(lossy.broken() > 2, "{} connections broke", lossy.broken());
    println!("CASES: records delivered exactly once: {records}");
    println!("CASES: kills of database and daemon under delivery: {rounds}");
    println!(
        "CASES: connections broken under delivery: {}",
        lossy.broken()
    );
    Ok(())
}

/// A window's total that is gone or changed at the biller is told, though it bills nothing.
fn totals_too(config: &Path, database: &Database) -> Result<()> {
    let one = "(ledger_id, seq) IN (SELECT ledger_id, seq FROM octroi.total WHERE seq > 30 AND ledger_id = \
               (SELECT ledger_id FROM octroi.ledger ORDER BY moved DESC LIMIT 1) ORDER BY seq LIMIT 1)";
    database.ask(&format!(
        "CREATE TABLE kept AS SELECT * FROM octroi.total WHERE {one}; DELETE FROM octroi.total WHERE {one}"
    ))?;
    let gone = reconcile(config)?;
    ensure!(
        !gone.0 && gone.1.contains("zone *: ") && gone.1.contains(", of -1 records"),
        "{}",
        gone.1
    );
    database.ask("INSERT INTO octroi.total SELECT * FROM kept; DROP TABLE kept")?;
    let same = reconcile(config)?;
    ensure!(same.0 && same.1.contains("zone *: "), "{}", same.1);
    let changed =
        format!("UPDATE octroi.total SET canonical = canonical || '\\x00'::bytea WHERE {one}");
    database.ask(&changed)?;
    let wrong = reconcile(config)?;
    ensure!(
        !wrong.0 && wrong.1.contains("is not what its leaf says"),
        "{}",
        wrong.1
    );
    let back =
        "UPDATE octroi.total SET canonical = substr(canonical, 1, length(canonical) - 1) WHERE ";
    database.ask(&format!("{back}{one}"))?;
    let same = reconcile(config)?;
    ensure!(same.0, "{}", same.1);
    Ok(())
}

#[test]
fn a_ledger_that_is_deleted_put_back_or_copied_bills_nothing_twice() -> Result<()> {
    const TEST: &str = "a_ledger_that_is_deleted_put_back_or_copied_bills_nothing_twice";
    let _alone = alone();
    if !ready(TEST) {
        return Ok(());
    }
    let mut database = Database::new("copies")?;
    let mut metered = Metered::new("100ms", None)?;
    deliver_to(&metered, "100ms", &database.url())?;
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    metered.wait("windows", |status| status.windows > 10)?;
    let copy = metered.site.directory().join("copy.db");
    copy_of(&metered, &copy, &[])?;
    let windows = metered.status()?.windows;
    metered.wait("more windows", |status| status.windows > windows + 10)?;
    quiet(&metered, traffic, PATIENCE)?;
    let first = metered.status()?.ledger_id;

    // An old copy in its place: the daemon supersedes it, and what the sink has of it stays.
    for name in ["ledger.db-wal", "ledger.db-shm"] {
        let _ = fs::remove_file(metered.site.directory().join(name));
    }
    fs::rename(&copy, &metered.ledger)?;
    metered.wait("another ledger", |status| {
        status.ledger_id != first && status.error.is_none()
    })?;
    let traffic = Traffic::start(&metered.site)?;
    let windows = metered.status()?.windows;
    metered.wait("its windows", |status| status.windows > windows + 10)?;
    quiet(&metered, traffic, PATIENCE)?;
    let sent: Vec<_> = Metered::sent(&metered.site)?
        .into_iter()
        .zip(&metered.before)
        .map(|(after, before)| support::between(*before, after))
        .collect();
    for (index, sent) in sent.iter().enumerate() {
        let billed = billed(&database, index)?;
        ensure!(
            billed == (sent[2], sent[3]),
            "tenant {index}: the database has {billed:?}, the interface sent {} and {}\n{}",
            sent[2],
            sent[3],
            metered.site.log()
        );
    }
    nothing_is_twice(&database)?;
    let ledgers = database.ask("SELECT count(*) FROM octroi.ledger")?;
    ensure!(ledgers == "2", "{ledgers} ledgers");
    let config = metered.site.config_path();
    let reconciled = reconcile(&config)?;
    ensure!(reconciled.0, "{}", reconciled.1);
    metered.site.stop();
    // What retention took away here and the biller has is no difference.
    let pruned = "UPDATE record SET canonical = NULL WHERE seq BETWEEN 5 AND 30";
    rusqlite::Connection::open(&metered.ledger)?.execute(pruned, [])?;
    let reconciled = reconcile(&config)?;
    ensure!(
        reconciled.0
            && reconciled
                .1
                .contains("26 records are pruned or erased here"),
        "{}",
        reconciled.1
    );

    totals_too(&config, &database)?;
    forks(&metered, &database)?;
    // Reconciliation says when the biller's totals are not the ledger's.
    database.ask(
        "UPDATE octroi.record SET l2_bytes = l2_bytes + 1 WHERE (ledger_id, seq) IN \
         (SELECT ledger_id, seq FROM octroi.record WHERE kind = 1 AND l2_bytes > 0 AND seq > 30 AND ledger_id = \
         (SELECT ledger_id FROM octroi.ledger ORDER BY moved DESC LIMIT 1) LIMIT 1)",
    )?;
    let wrong = reconcile(&config)?;
    ensure!(
        !wrong.0 && wrong.1.contains("are not the ledger's"),
        "{}",
        wrong.1
    );
    ledgers_stand_alone(&metered, &mut database)?;
    println!("CASES: ledgers put back, copied and changed under a sink: 6");
    Ok(())
}

fn reconcile(config: &Path) -> Result<(bool, String)> {
    let output = Command::new(octroi())
        .args(["reconcile", "--sink", "billing", "--config"])
        .arg(config)
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

fn target(url: String) -> Target {
    Target {
        url,
        password_file: None,
        ca_file: None,
    }
}

fn courier(database: &Database, ledger: &Path, host: &str) -> Courier<Postgres> {
    let sink = Postgres::new(target(database.url()));
    Courier::new(sink, ledger, host, 1)
}

/// Nobody is behind a socket that takes connections: at once, and in the middle of an answer. Both are noticed, and what was
/// asked is asked again.
#[test]
fn a_database_that_hangs_is_noticed() -> Result<()> {
    if !ready("a_database_that_hangs_is_noticed") {
        return Ok(());
    }
    let database = Database::new("hangs")?;
    let mut cases = 0;
    for answers_bytes in [0, 1, 9, 300, 500] {
        let stall = Stall::new(&database, answers_bytes)?;
        let patience = Duration::from_millis(300);
        let mut sink = Postgres::with_patience(target(url(&stall.directory)), patience);
        let begun = Instant::now();
        let error = sink.mark(&[1; 16], "h").expect_err("it does not answer");
        ensure!(
            begun.elapsed() < Duration::from_secs(3),
            "{:?}",
            begun.elapsed()
        );
        let unavailable = matches!(&error, SinkError::Unavailable(why) if why.contains("did not answer within 300 ms"));
        ensure!(unavailable, "{answers_bytes}: {error}");
        stall.release();
        ensure!(sink.mark(&[1; 16], "h")? == Mark::NONE);
        cases += 1;
    }
    println!("CASES: ways of a database to hang: {cases}");
    Ok(())
}

/// Records go over TLS to whom the certificates of `ca_file` speak for, and to nobody else.
#[test]
fn a_database_behind_tls_is_reached_and_one_that_is_not_trusted_gets_nothing() -> Result<()> {
    const TEST: &str = "a_database_behind_tls_is_reached_and_one_that_is_not_trusted_gets_nothing";
    if !ready(TEST) {
        return Ok(());
    }
    let mut database = Database::new("tls")?;
    let (Some(own), Some(other)) = (
        certificate::make(&database.directory, "own")?,
        certificate::make(&database.directory, "other")?,
    ) else {
        println!("SKIPPED: {TEST}: there is no openssl");
        return Ok(());
    };
    let batch = batches::correction([1; 16], 5);
    let port = database.listen(None)?;
    let over = |port: u16, name: &str, ca_file: &Path| {
        Postgres::new(Target {
            url: format!("host={name} port={port} user=octroi dbname=postgres"),
            password_file: None,
            ca_file: Some(ca_file.to_owned()),
        })
    };
    let plain = over(port, "localhost", &own.0).deliver(&batch);
    ensure!(plain.is_err(), "a server without TLS got records");
    let port = database.listen(Some(&own))?;
    for (name, ca_file) in [("localhost", &other.0), ("127.0.0.1", &own.0)] {
        let refused = over(port, name, ca_file).deliver(&batch);
        ensure!(refused.is_err(), "{name}: records went to somebody else");
    }
    let known = database.ask("SELECT to_regclass('octroi.record') IS NULL")?;
    ensure!(known == "t", "somebody wrote");
    ensure!(over(port, "localhost", &own.0).deliver(&batch)? == batch.to);
    let there = database.ask("SELECT count(*) FROM octroi.record")?;
    ensure!(there == "1", "{there}");
    Ok(())
}

/// Tables of an earlier octroi get what they lack, and a correction has one name whatever the ledger is called.
#[test]
fn tables_of_version_1_are_brought_up_and_corrections_are_unique() -> Result<()> {
    if !ready("tables_of_version_1_are_brought_up_and_corrections_are_unique") {
        return Ok(());
    }
    let database = Database::new("upgrade")?;
    database.ask(include_str!("fixtures/store_2.sql"))?;
    database.ask(
        "DROP INDEX octroi.correction_once; DELETE FROM octroi.about; INSERT INTO octroi.about (version) VALUES (1)",
    )?;
    let mut sink = Postgres::new(target(database.url()));
    let first = batches::correction([1; 16], 5);
    ensure!(sink.deliver(&first)? == first.to);
    let version = database.ask("SELECT max(version) FROM octroi.about")?;
    ensure!(version == "3", "{version}");
    let error = sink
        .deliver(&batches::correction([2; 16], 5))
        .expect_err("the same correction in another ledger");
    ensure!(matches!(error, SinkError::Fork(_)), "{error}");
    // Another one of the same window.
    let mut other = batches::correction([2; 16], 6);
    other.from = Mark::NONE;
    sink.deliver(&other)?;
    database.ask("INSERT INTO octroi.about (version) VALUES (4)")?;
    let mut sink = Postgres::new(target(database.url()));
    let error = sink.mark(&[1; 16], "h").expect_err("a newer schema");
    ensure!(error.to_string().contains("version 4"), "{error}");
    Ok(())
}

/// A bad ledger that was put aside is told, and holds the one of now up by nothing. When another takes its place while
/// the sink is away, nothing of that one is confirmed: retention goes by it.
fn ledgers_stand_alone(metered: &Metered, database: &mut Database) -> Result<()> {
    const ANOTHER_ID: &str = "UPDATE about SET value = randomblob(16) WHERE key = 'ledger_id'";
    let host = database.ask(HOST_OF_SITES)?;
    database.ask("DROP SCHEMA octroi CASCADE")?;
    let directory = metered.site.directory().join("two");
    fs::create_dir(&directory)?;
    let ledger = directory.join("ledger.db");
    copy_of(metered, &ledger, &[])?;
    let damaged = "UPDATE record SET leaf = zeroblob(32) WHERE seq = 3";
    let aside = directory.join("ledger.db.superseded-00000000-1");
    copy_of(metered, &aside, &[ANOTHER_ID, damaged])?;
    let size: i64 = rusqlite::Connection::open(&ledger)?.query_row(
        "SELECT count(*) FROM record",
        [],
        |row| row.get(0),
    )?;
    let size = u64::try_from(size)?;
    let mut courier = courier(database, &ledger, &host);
    let mut waited = Duration::ZERO;
    while courier.progress().confirmed < size {
        waited += courier.step(Instant::now());
        ensure!(
            waited < Duration::from_secs(5),
            "after {waited:?}: {:?}",
            courier.progress()
        );
    }
    // It is told, and looked at again later; what is new in the other would go at once.
    waited += courier.step(Instant::now());
    let progress = courier.progress().clone();
    let error = progress.error.unwrap_or_default();
    ensure!(error.contains("not what its leaf says"), "{error}");
    ensure!(
        progress.lag == Some(0) && waited < Duration::from_secs(5),
        "{waited:?}"
    );

    fs::remove_file(&ledger)?;
    copy_of(metered, &ledger, &[ANOTHER_ID])?;
    database.kill()?;
    courier.step(Instant::now());
    let after = courier.progress();
    ensure!(
        after.ledger_id != progress.ledger_id && after.confirmed == 0 && after.lag.is_none(),
        "{after:?}"
    );
    Ok(())
}

/// Copies that say something else under the same names are refused and told, and the database stays as it was.
fn forks(metered: &Metered, database: &Database) -> Result<()> {
    let host = database.ask(HOST_OF_SITES)?;
    let before = database.ask("SELECT count(*), sum(l2_bytes) FROM octroi.record")?;
    for (name, change) in FORKS {
        let copy = metered.site.directory().join(name);
        copy_of(metered, &copy, &[change])?;
        let mut courier = courier(database, &copy, &host);
        courier.step(Instant::now());
        let progress = courier.progress();
        ensure!(progress.fork, "{name}: {progress:?}");
        let after = database.ask("SELECT count(*), sum(l2_bytes) FROM octroi.record")?;
        ensure!(before == after, "{name}: {before} became {after}");
    }
    // Two of them were seen before anything was delivered.
    let told = database.ask("SELECT count(*) FROM octroi.fork")?;
    ensure!(told == "3", "the database was told of {told} forks");
    Ok(())
}
