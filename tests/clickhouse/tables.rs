//! What is in the tables: records that are there twice or half, others under their names, tables of other versions.

use crate::{
    Server, batches, billed, has_engine, is_fork, sink, story::Story, target, views_agree,
};
use anyhow::{Result, ensure};
use metering::{
    record::leaf_hash,
    sink::{
        Batch, Mark, Sink as _, SinkError,
        clickhouse::{ClickHouse, Target},
    },
};
use std::time::Instant;

/// The same records twice, three times and half, by whomever: each is billed once, and by no sum twice.
#[test]
fn a_record_that_is_there_twice_counts_once_and_one_above_the_mark_not_at_all() -> Result<()> {
    if !has_engine("a_record_that_is_there_twice_counts_once_and_one_above_the_mark_not_at_all") {
        return Ok(());
    }
    let server = Server::new("twice")?;
    let mut sink = sink(&server);
    let story = Story::new(1, "h", 300);
    let first = story.batch(Mark::NONE, 200);
    ensure!(sink.deliver(&first)? == first.to);
    // Merges would hide what is to be seen.
    server.ask("SYSTEM STOP MERGES record")?;
    let columns = server.ask(
        "SELECT arrayStringConcat(groupArray(name), ', ') FROM system.columns WHERE database = 'octroi' AND table = 'record'",
    )?;
    for part in ["1", "seq % 2 = 0", "seq > 190"] {
        server.ask(&format!(
            "INSERT INTO record ({columns}) SELECT * FROM record WHERE {part}"
        ))?;
    }
    let raw: u64 = server.ask("SELECT count() FROM record")?.parse()?;
    ensure!(raw > 400, "{raw} rows: nothing is there twice");
    ensure!(billed(&server, &story)? == story.sum(200));
    let sums = format!("200|{}", story.sum(200).1);
    ensure!(views_agree(&server)?.starts_with(&sums), "{sums}");

    // A daemon that died before it moved the mark: what it brought counts when the mark has moved, and is not brought again.
    let second = story.batch(first.to, 300);
    server.moods(&["well", "reset"])?;
    ensure!(sink.deliver(&second).is_err());
    let above = server.ask("SELECT count() FROM record WHERE seq >= 200")?;
    ensure!(above == "100", "{above}");
    ensure!(billed(&server, &story)? == story.sum(200));
    ensure!(crate::sink(&server).deliver(&second)? == second.to);
    let above = server.ask("SELECT count() FROM record WHERE seq >= 200")?;
    ensure!(above == "100", "{above} rows: brought again");
    ensure!(billed(&server, &story)? == story.sum(300));

    // An answer that is lost while the server is still at it: the second insert of the same name is dropped.
    let third = Story::new(3, "i", 50);
    server.moods(&["done-reset"])?;
    ensure!(sink.deliver(&third.batch(Mark::NONE, 50)).is_err());
    // Somebody takes records and mark away: the server still knows the name, and says that all is well.
    server.ask("SYSTEM START MERGES record")?;
    server.ask("ALTER TABLE record DELETE WHERE host = 'i' SETTINGS mutations_sync = 2")?;
    let error = sink
        .deliver(&third.batch(Mark::NONE, 50))
        .expect_err("it has no record");
    ensure!(
        matches!(&error, SinkError::Unavailable(why) if why.contains("does not have them")),
        "{error}"
    );
    ensure!(billed(&server, &third)? == (0, 0));
    ensure!(sink.deliver(&third.batch(Mark::NONE, 50))?.next == 50);
    ensure!(billed(&server, &third)? == third.sum(50));

    // And below the mark: nobody notices but who compares, and `octroi replay` brings it back.
    server.ask(
        "ALTER TABLE record DELETE WHERE host = 'i' AND seq < 20 SETTINGS mutations_sync = 2",
    )?;
    ensure!(billed(&server, &third)?.0 == 30);
    sink.replay(&third.batch(Mark::NONE, 50))?;
    ensure!(billed(&server, &third)? == third.sum(50));
    let rows = server.ask("SELECT count() FROM record WHERE host = 'i'")?;
    ensure!(rows == "50", "{rows} rows: replayed what was there");
    views_agree(&server)?;

    // Sums that do not fit 64 bits are told as they are.
    let mut large = Story::new(4, "l", 0);
    for window in 0..3 {
        large.add(window, u64::MAX);
    }
    sink.deliver(&large.batch(Mark::NONE, 3))?;
    let said = server.ask("SELECT sum(l2_bytes) FROM billed WHERE host = 'l'")?;
    ensure!(said == (3 * u128::from(u64::MAX)).to_string(), "{said}");
    let totals = sink.sums(&large.id, 3, std::slice::from_ref(&(1..2)))?;
    let bytes: i128 = totals.0.values().map(|sums| sums.l2_bytes).sum();
    ensure!(bytes == 2 * i128::from(u64::MAX), "{bytes}");
    let floats = server.ask(
        "SELECT count() FROM system.columns WHERE database = 'octroi' AND type LIKE '%Float%' OR type LIKE '%Decimal%' \
         AND database = 'octroi'",
    )?;
    ensure!(floats == "0", "{floats} columns are no integers");
    println!("CASES: ways of a record to be there twice or half: 7");
    Ok(())
}

/// Another record under a number or of the same window is refused before anything goes in, whoever was first.
#[test]
fn another_record_under_a_name_is_a_fork_and_nothing_of_it_stays() -> Result<()> {
    if !has_engine("another_record_under_a_name_is_a_fork_and_nothing_of_it_stays") {
        return Ok(());
    }
    let server = Server::new("forks")?;
    let mut sink = sink(&server);
    let story = Story::new(1, "h", 100);
    let first = story.batch(Mark::NONE, 60);
    sink.deliver(&first)?;
    // Brought by another one that has the ledger's id, whose mark has not moved.
    let mut other = Story::new(1, "h", 60);
    for window in 60..80 {
        other.add(window, 7);
    }
    server.moods(&["well", "reset"])?;
    let theirs = Batch {
        from: first.to,
        ..other.batch(other.mark(60), 80)
    };
    ensure!(sink.deliver(&theirs).is_err_and(|error| !is_fork(error)));
    let rows = || server.ask("SELECT count(), sum(cityHash64(leaf)) FROM record");
    let before = rows()?;
    let error = sink
        .deliver(&story.batch(first.to, 100))
        .expect_err("a fork");
    ensure!(error.to_string().contains("FORK: record 60"), "{error}");
    ensure!(rows()? == before && billed(&server, &story)? == story.sum(60));
    // Below the mark it is who replays that sees it.
    let mut changed = story.batch(Mark::NONE, 60);
    if let Some(item) = changed.items.get_mut(30) {
        item.record.tenant = 9;
        item.canonical = item.record.encode();
        item.leaf = leaf_hash(&item.canonical);
    }
    ensure!(sink.replay(&changed).is_err_and(is_fork));
    // A copy under another id, of windows that are billed.
    let copy = Story::new(2, "h", 100);
    ensure!(
        sink.deliver(&copy.batch(Mark::NONE, 100))
            .is_err_and(is_fork)
    );
    // A copy of what is not billed is not in its way.
    let past = copy.batch(copy.mark(60), 100);
    let past = Batch {
        from: Mark::NONE,
        ..past
    };
    ensure!(sink.deliver(&past)?.next == 100);
    // The same windows of another host are its own.
    let elsewhere = Story::new(3, "elsewhere", 100);
    ensure!(sink.deliver(&elsewhere.batch(Mark::NONE, 100))?.next == 100);
    // Corrections have one name, whatever the ledger is called.
    let correction = batches::correction([11; 16], 5);
    sink.deliver(&correction)?;
    ensure!(
        sink.deliver(&batches::correction([12; 16], 5))
            .is_err_and(is_fork)
    );
    ensure!(sink.deliver(&batches::correction([12; 16], 6))?.next == 7);
    let minus = server.ask("SELECT sum(l2_bytes) FROM billed WHERE kind = 4")?;
    ensure!(minus == "-14", "{minus}");
    views_agree(&server)?;

    for _ in 0..2 {
        sink.fork(&[1; 16], "h", "a\ttab, a 'quote' and a \\")?;
    }
    let told = server.ask("SELECT host, what FROM fork FINAL FORMAT JSONCompactEachRow")?;
    ensure!(told == r#"["h", "a\ttab, a 'quote' and a \\"]"#, "{told}");
    println!("CASES: forks that ClickHouse does not get: 5");
    Ok(())
}

/// Tables of an earlier octroi get what they lack; those of a later one are left alone.
#[test]
fn tables_of_version_1_are_brought_up_and_later_ones_refused() -> Result<()> {
    if !has_engine("tables_of_version_1_are_brought_up_and_later_ones_refused") {
        return Ok(());
    }
    let server = Server::new("versions")?;
    let story = Story::new(1, "h", 10);
    sink(&server).deliver(&story.batch(Mark::NONE, 10))?;
    for view in ["usage_day", "usage_hour", "slot", "billed", "ledger"] {
        server.ask(&format!("DROP VIEW {view}"))?;
    }
    server.ask("ALTER TABLE about DELETE WHERE version = 2 SETTINGS mutations_sync = 2")?;
    ensure!(sink(&server).mark(&story.id, "h")?.next == 10);
    ensure!(views_agree(&server)?.starts_with("10|"));
    // One that died between its tables and its word that they are there.
    server.ask("DROP TABLE about")?;
    server.ask("DROP TABLE fork")?;
    ensure!(sink(&server).mark(&story.id, "h")?.next == 10);
    ensure!(server.ask("SELECT count() FROM fork")? == "0");
    // A server whose disk was changed under a sink that runs.
    let mut runs = sink(&server);
    runs.mark(&story.id, "h")?;
    server.ask("DROP DATABASE octroi SYNC")?;
    ensure!(runs.mark(&story.id, "h").is_err());
    ensure!(runs.mark(&story.id, "h")? == Mark::NONE);
    // Another database by its name.
    let other = Target {
        url: format!("{}/metering_2", server.url()),
        ..target(&server, None)
    };
    ClickHouse::new(other).deliver(&story.batch(Mark::NONE, 10))?;
    ensure!(server.ask("SELECT count() FROM metering_2.billed")? == "10");
    server.ask("INSERT INTO about (version) VALUES (3)")?;
    let error = sink(&server)
        .mark(&story.id, "h")
        .expect_err("newer tables");
    ensure!(error.to_string().contains("version 3"), "{error}");
    println!("CASES: tables of other versions: 6");
    Ok(())
}

/// How fast it is, end to end: reading what is there, inserting, and reading back.
#[test]
fn a_backlog_goes_in_batches() -> Result<()> {
    const RECORDS: u64 = 20_000;
    if !has_engine("a_backlog_goes_in_batches") {
        return Ok(());
    }
    let server = Server::new("speed")?;
    let mut sink = sink(&server);
    let story = Story::new(1, "h", RECORDS);
    let mut mark = sink.mark(&story.id, "h")?;
    let begun = Instant::now();
    while mark.next < RECORDS {
        let past = RECORDS.min(mark.next + u64::from(sink.batch_max()));
        mark = sink.deliver(&story.batch(mark, past))?;
    }
    let took = begun.elapsed();
    ensure!(billed(&server, &story)? == story.sum(RECORDS));
    let parts = server.ask("SELECT uniqExact(_part) FROM record")?;
    println!("CASES: records of a backlog in ClickHouse: {RECORDS}");
    println!(
        "{} records/s into ClickHouse, {parts} parts, {} ms",
        u128::from(RECORDS) * 1_000 / took.as_millis().max(1),
        took.as_millis()
    );
    Ok(())
}
