//! What a store keeps of totals, as tables: brought up from an earlier version, each once, and none of them billed.

use crate::{
    PATIENCE, at_last,
    cluster::Cluster,
    database::Database,
    intake,
    ledgers::{ACME, DAY_NS, MARCH_NS, Metering, Shelf},
    postgres, ready,
    statement::{courier, deliver, deliver_by_cluster, of_ledgers, of_store, run, statement},
    target,
};
use anyhow::{Context as _, Result, ensure};
use metering::sink::{Feed, Mark, Sink as _, SinkError, Store as _, nats::Nats};
use std::time::Instant;

/// The tables as version 2 had them.
const VERSION_2: &str = include_str!("../fixtures/store_2.sql");

/// Columns, indexes and constraints of the tables, in an order of their own.
const TABLES: &str = "SELECT string_agg(line, E'\\n' ORDER BY line) FROM ( \
    SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || coalesce(column_default, '') AS line \
    FROM information_schema.columns WHERE table_schema = 'octroi' UNION ALL \
    SELECT indexdef FROM pg_indexes WHERE schemaname = 'octroi' UNION ALL \
    SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint \
    WHERE connamespace = 'octroi'::regnamespace) AS lines";

/// A store of an earlier octroi, with rows and with a message of it on the way, is brought up and goes on: months that begin
/// later are as the ledgers have them, and of an earlier one it is said what the store lacks.
#[test]
fn a_store_of_the_version_before_is_brought_up_and_goes_on() -> Result<()> {
    if !ready("a_store_of_the_version_before_is_brought_up_and_goes_on") {
        return Ok(());
    }
    let shelf = Shelf::new("migrated")?;
    let mut host = Metering::new(&shelf, "par1", 1, MARCH_NS[1] - DAY_NS)?;
    host.port("uplink", 0);
    let acme = host.port("acme", ACME);
    let windows = |host: &mut Metering, count: u64| -> Result<()> {
        for number in 0..count {
            host.pass();
            host.carry(acme, 0, 4, 10_000 + number * 31);
            host.cut(None)?;
        }
        Ok(())
    };
    windows(&mut host, 100)?;
    let database = Database::new("migrated")?;
    deliver(&mut courier(postgres(&database), &host), &host, || Ok(()))?;
    let fresh = database.ask(TABLES)?;
    // The same rows in tables of version 2.
    database.ask("ALTER SCHEMA octroi RENAME TO newer")?;
    database.ask(VERSION_2)?;
    database.ask(
        "INSERT INTO octroi.ledger SELECT ledger_id, host, next_seq, last_leaf, head, moved FROM newer.ledger; \
         INSERT INTO octroi.record SELECT * FROM newer.record; DROP SCHEMA newer CASCADE",
    )?;
    let rows = "SELECT count(*), sum(l2_bytes), min(seq), max(seq) FROM octroi.record";
    let before = database.ask(rows)?;
    let (fine, _, err) = run(
        &["statement", "--tenant", "7", "--month", "2026-03"],
        &of_store(&database),
    )?;
    ensure!(!fine && err.contains("schema has version 2"), "{err}");

    // A host that was not updated yet has sent a batch without totals; the store is.
    let cluster = Cluster::alone("migrated", "")?;
    windows(&mut host, 20)?;
    let feed = Feed::open(&host.path)?;
    let mut sink = Nats::new(target(&cluster, cluster.url()));
    let mut store = intake(&cluster, &database, "store");
    let mut at = feed.before(
        database
            .ask("SELECT next_seq FROM octroi.ledger")?
            .parse()?,
    )?;
    at_last(|| sink.mark(feed.id(), "par1"))?;
    while let Some(mut batch) = feed.batch(at, 30)? {
        batch.totals = None;
        at = sink.deliver(&batch)?;
    }
    let begun = Instant::now();
    while database.ask("SELECT next_seq FROM octroi.ledger").ok() != Some(at.next.to_string()) {
        match store.step() {
            Ok(_) | Err(SinkError::Unavailable(_)) => {}
            Err(error) => return Err(error.into()),
        }
        ensure!(begun.elapsed() < PATIENCE, "it does not go on");
    }
    ensure!(database.ask("SELECT max(version) FROM octroi.about")? == "3");
    ensure!(
        database.ask(TABLES)? == fresh,
        "{}\n{fresh}",
        database.ask(TABLES)?
    );
    let kept = format!(
        "SELECT count(*), sum(l2_bytes), min(seq), max(seq) FROM octroi.record WHERE seq < {}",
        { before.rsplit('|').next().context("a seq")?.parse::<u64>()? + 1 }
    );
    ensure!(database.ask(&kept)? == before, "{before}");
    ensure!(
        database.ask(
            "SELECT totals_from = next_seq, (SELECT count(*) FROM octroi.total) FROM octroi.ledger"
        )? == "t|0"
    );

    // It is updated; a tenant comes, and April.
    let late = host.port("late", 9);
    for _ in 0..288 - 120 + 400 {
        host.pass();
        host.carry(acme, 0, 4, 20_000);
        host.carry(late, 1, 5, 3_000);
        host.cut(None)?;
    }
    deliver_by_cluster(&cluster, &database, std::slice::from_ref(&host))?;
    let (ledgers, store) = (of_ledgers(&[&host]), of_store(&database));
    for (tenant, month) in [(ACME, "2026-04"), (9, "2026-03"), (9, "2026-04")] {
        let from_store = statement(tenant, month, &store)?;
        ensure!(
            from_store == statement(tenant, month, &ledgers)?,
            "{tenant} {month}: {from_store}"
        );
        ensure!(!from_store.contains("\"l2_bytes\":\"0\""), "{from_store}");
    }
    let march = ["statement", "--tenant", "7", "--month", "2026-03"];
    let (fine, _, err) = run(&march, &store)?;
    ensure!(
        !fine && err.contains("missing windows cannot be told") && err.contains("--ledger FILE"),
        "{err}"
    );
    ensure!(run(&march, &ledgers)?.0);
    println!("CASES: records of a store of version 2 that stayed, and it went on: {before}");
    Ok(())
}

/// Totals of one window under two names, or two under one, are forks, though no zone says so: nothing was carried.
#[test]
fn an_idle_ledger_that_was_copied_or_changed_is_a_fork_at_the_store() -> Result<()> {
    if !ready("an_idle_ledger_that_was_copied_or_changed_is_a_fork_at_the_store") {
        return Ok(());
    }
    let shelf = Shelf::new("idle")?;
    let mut host = Metering::new(&shelf, "par1", 1, MARCH_NS[0])?;
    host.port("acme", ACME);
    for _ in 0..30 {
        host.pass();
        host.cut(None)?;
    }
    let database = Database::new("idle")?;
    deliver(&mut courier(postgres(&database), &host), &host, || Ok(()))?;
    let totals = "SELECT count(*), count(DISTINCT (direction, window_id)) FROM octroi.total";
    ensure!(
        database.ask(totals)? == "60|60",
        "{}",
        database.ask(totals)?
    );
    let zones = database.ask("SELECT count(*) FROM octroi.billed")?;
    ensure!(zones == "0", "totals are billed: {zones}");

    let feed = Feed::open(&host.path)?;
    let mut batch = feed.batch(Mark::NONE, 1_000)?.context("a batch")?;
    let mut sink = postgres(&database);
    sink.holds(
        feed.id(),
        &batch.items,
        batch.totals.as_deref().unwrap_or_default(),
    )?;
    // Another record under the number of a total.
    let mut changed = batch.totals.clone().context("totals")?;
    changed[7].leaf[0] ^= 1;
    let error = sink
        .holds(feed.id(), &batch.items, &changed)
        .expect_err("it is another one");
    ensure!(matches!(error, SinkError::Fork(_)), "{error}");
    // The same windows in a ledger with another id.
    batch.ledger_id = [9; 16];
    batch.items.clear();
    let error = sink.deliver(&batch).expect_err("a copy");
    let is_fork = matches!(&error, SinkError::Fork(what) if what.contains("total_once") || what.contains("window_id"));
    ensure!(is_fork, "{error}");
    ensure!(database.ask(totals)? == "60|60");
    ensure!(database.ask("SELECT count(*) FROM octroi.ledger")? == "1");
    println!("CASES: forks of ledgers that carried nothing: 2");
    Ok(())
}
