//! What ClickHouse adds up is what the tenants' interfaces sent: whatever is lost, sent twice, killed, deleted, put back or
//! copied on the way. Real packets, a real daemon, ClickHouse's own engine; the totals are reckoned by the engine. Its HTTP
//! interface stands in for the server's, which Debian has not, and the first test says what it refuses.

#[path = "delivery/batches.rs"]
mod batches;
#[path = "meter/bill.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod bill;
#[path = "support/certificate.rs"]
mod certificate;
#[path = "fleet/cluster.rs"]
#[allow(dead_code, reason = "written for tests/fleet.rs")]
mod cluster;
#[path = "clickhouse/daemon.rs"]
mod daemon;
#[path = "fleet/day.rs"]
#[allow(dead_code, reason = "each page uses its own part of this")]
mod day;
#[path = "meter/delivered.rs"]
#[allow(dead_code, reason = "each test of a sink uses its own part of this")]
mod delivered;
#[path = "clickhouse/door.rs"]
mod door;
#[path = "clickhouse/fleet.rs"]
mod fleet;
#[path = "fleet/ledgers.rs"]
#[allow(dead_code, reason = "written for tests/fleet.rs")]
mod ledgers;
#[path = "clickhouse/page.rs"]
mod page;
#[path = "clickhouse/server.rs"]
mod server;
#[path = "meter/site.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod site;
#[path = "fleet/story.rs"]
#[allow(dead_code, reason = "written for tests/fleet.rs")]
mod story;
mod support;
#[path = "clickhouse/tables.rs"]
mod tables;
#[path = "fleet/way.rs"]
#[allow(dead_code, reason = "written for tests/fleet.rs")]
mod way;

use anyhow::{Context as _, Result, ensure};
use metering::sink::{
    Mark, Sink as _, SinkError,
    clickhouse::{ClickHouse, Target},
};
use server::{PASSWORD, Server};
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};
use story::Story;

fn has_engine(test: &str) -> bool {
    let has = server::engine().is_some();
    if !has {
        println!("SKIPPED: {test}: there is no chdb; `cargo xtask setup` installs it");
    }
    has
}

fn target(server: &Server, ca_file: Option<PathBuf>) -> Target {
    Target {
        url: server.url(),
        password_file: Some(server.password_file()),
        ca_file,
    }
}

fn sink(server: &Server) -> ClickHouse {
    ClickHouse::new(target(server, None))
}

fn sink_that_waits(server: &Server, milliseconds: u64) -> ClickHouse {
    let patience = Duration::from_millis(milliseconds);
    ClickHouse::with_patience(target(server, None), patience)
}

/// Records and bytes of a ledger, as everything that is read there adds them up: all must say the same.
fn billed(server: &Server, story: &Story) -> Result<(u64, u64)> {
    let id = story.id.map(|byte| format!("{byte:02x}")).concat();
    let of = format!("ledger_id = unhex('{id}')");
    let said = server.ask(&format!(
        "SELECT count(), sum(l2_bytes) FROM billed WHERE {of}"
    ))?;
    let (records, bytes) = said.split_once('|').context("two numbers")?;
    Ok((records.parse()?, bytes.parse()?))
}

/// Takes a sum of every view, which must be one.
fn views_agree(server: &Server) -> Result<String> {
    let sums = "sum(packets), sum(l2_bytes), sum(l3_bytes)";
    let whole = server.ask(&format!("SELECT {sums} FROM billed"))?;
    for view in ["slot", "usage_hour", "usage_day"] {
        let part = server.ask(&format!("SELECT {sums} FROM {view}"))?;
        ensure!(part == whole, "{view}: {part}, billed: {whole}");
    }
    Ok(whole)
}

#[test]
fn answers_mean_what_they_mean_and_the_mark_moves_behind_the_records() -> Result<()> {
    if !has_engine("answers_mean_what_they_mean_and_the_mark_moves_behind_the_records") {
        return Ok(());
    }
    let server = Server::new("answers")?;
    let mut slow = sink(&server);
    ensure!(slow.mark(&[1; 16], "h")? == Mark::NONE);
    let mut cases = 0;
    let (mut ids, mut bytes) = (1, 0);
    // The first change is that of the records, the second that of the mark.
    const RECORDS: [&str; 8] = [
        "busy",
        "gateway",
        "nobody",
        "reset",
        "hang",
        "done-reset",
        "done-hang",
        "done-late",
    ];
    const MARK: [&str; 5] = ["busy", "nobody", "reset", "done-reset", "done-late"];
    for (before, moods) in [(0, RECORDS.as_slice()), (1, &MARK)] {
        for mood in moods {
            ids += 1;
            // Of a host of its own: windows of one host have one ledger.
            let host = format!("h{ids}");
            let story = Story::new(ids, &host, 20);
            let batch = story.batch(Mark::NONE, 20);
            let mut moods = vec!["well"; before];
            moods.push(mood);
            // The tables are looked at before anything goes wrong.
            let waits = if mood.ends_with("hang") {
                3_000
            } else {
                40_000
            };
            let mut sink = sink_that_waits(&server, waits);
            sink.mark(&story.id, &host)?;
            server.moods(&moods)?;
            let begun = Instant::now();
            let error = sink.deliver(&batch).expect_err(mood);
            ensure!(server.left()? == 0, "{mood} {before} was not used: {error}");
            ensure!(
                matches!(error, SinkError::Unavailable(_)),
                "{mood}: {error}"
            );
            let error = error.to_string();
            ensure!(
                !error.contains('\n') && !error.contains(PASSWORD),
                "{mood}: {error}"
            );
            if mood.ends_with("hang") {
                let took = begun.elapsed();
                ensure!(took < Duration::from_secs(10), "{mood}: {took:?}");
            }
            let mark = sink.mark(&story.id, &host)?;
            let is_marked = before == 1 && mood.starts_with("done");
            ensure!(
                (mark == batch.to) == is_marked && (mark == Mark::NONE) != is_marked,
                "{mood} {before}: {mark:?}: {error}"
            );
            let there = if is_marked { story.sum(20) } else { (0, 0) };
            ensure!(billed(&server, &story)? == there, "{mood} {before}");
            if !is_marked {
                ensure!(sink.deliver(&batch)? == batch.to);
            }
            ensure!(billed(&server, &story)? == story.sum(20), "{mood} {before}");
            bytes += story.sum(20).1;
            cases += 1;
        }
    }
    let host = "h2";
    // What reads: an answer that fails behind its 200 is none, however it says so.
    for mood in ["read-late", "read-tag", "read-json", "read-short"] {
        server.moods(&[mood])?;
        let error = slow.mark(&[2; 16], host).expect_err(mood);
        ensure!(server.left()? == 0, "{mood} was not used");
        ensure!(
            matches!(error, SinkError::Unavailable(_)),
            "{mood}: {error}"
        );
        if mood != "read-short" && mood != "read-tag" {
            ensure!(
                error.to_string().contains("Memory limit"),
                "{mood}: {error}"
            );
        }
        ensure!(slow.mark(&[2; 16], host)?.next == 20);
        cases += 1;
    }
    let story = Story::new(2, host, 20);
    ensure!(slow.mark(&story.id, "another").is_err_and(is_fork));
    let error = slow
        .deliver(&story.batch(Mark::NONE, 20))
        .expect_err("it moved");
    ensure!(matches!(error, SinkError::Unavailable(_)), "{error}");
    ensure!(slow.sums(&story.id, 20, &[])?.0.len() == 2);
    let sums = views_agree(&server)?;
    ensure!(
        sums.split('|').nth(1) == Some(bytes.to_string().as_str()),
        "{sums}"
    );

    // What no later try makes good.
    fs::write(server.directory.join("other"), "another")?;
    for (file, says) in [("other", "403"), ("nothing", "nothing")] {
        let target = Target {
            password_file: Some(server.directory.join(file)),
            ..target(&server, None)
        };
        let error = ClickHouse::new(target)
            .mark(&[2; 16], host)
            .expect_err(file);
        ensure!(matches!(error, SinkError::Refused(_)), "{error}");
        ensure!(error.to_string().contains(says), "{error}");
        cases += 1;
    }
    let nobody = Target {
        password_file: None,
        ..target(&server, None)
    };
    let error = ClickHouse::new(nobody)
        .mark(&[2; 16], host)
        .expect_err("401");
    ensure!(
        matches!(&error, SinkError::Refused(why) if why.contains("401") && why.contains("password_file")),
        "{error}"
    );
    println!(
        "CASES: answers of ClickHouse and what they mean: {}",
        cases + 1
    );
    Ok(())
}

fn is_fork(error: SinkError) -> bool {
    matches!(error, SinkError::Fork(_))
}

/// Records go over TLS to whom the certificates of `ca_file` speak for, and to nobody else.
#[test]
fn a_server_that_is_not_trusted_gets_nothing() -> Result<()> {
    const TEST: &str = "a_server_that_is_not_trusted_gets_nothing";
    if !has_engine(TEST) {
        return Ok(());
    }
    let directory = std::env::temp_dir().join(format!("octroi-ch-ca-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let (Some(own), Some(other)) = (
        certificate::make(&directory, "own")?,
        certificate::make(&directory, "other")?,
    ) else {
        println!("SKIPPED: {TEST}: there is no openssl");
        return Ok(());
    };
    let server = Server::with("tls", Some(own.clone()))?;
    let batch = Story::new(1, "h", 5).batch(Mark::NONE, 5);
    let here = server.url().replace("localhost", "127.0.0.1");
    for (url, ca_file) in [(server.url(), &other.0), (here, &own.0)] {
        let target = Target {
            url,
            ..target(&server, Some(ca_file.clone()))
        };
        let refused = ClickHouse::new(target).deliver(&batch);
        ensure!(refused.is_err(), "records went to somebody else");
    }
    let known = server.request("?query=SELECT+1", &[])?;
    ensure!(known.status == 401, "{}", known.body);
    ensure!(ClickHouse::new(target(&server, Some(own.0))).deliver(&batch)? == batch.to);
    ensure!(server.ask("SELECT count() FROM record")? == "5");
    fs::remove_dir_all(&directory)?;
    Ok(())
}
