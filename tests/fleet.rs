//! Many hosts, one store: what each ledger has is in PostgreSQL once, whatever the cluster between them loses, repeats,
//! reorders or forgets. A real cluster of three NATS servers, a real PostgreSQL, and, in the last test, three daemons with
//! real traffic. The sums are reckoned by SQLite and PostgreSQL, and no question to the cluster goes through octroi.

#[path = "meter/bill.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod bill;
#[path = "support/certificate.rs"]
mod certificate;
#[path = "fleet/cluster.rs"]
mod cluster;
#[path = "delivery/database.rs"]
#[allow(dead_code, reason = "written for tests/delivery.rs")]
mod database;
#[path = "fleet/day.rs"]
#[allow(dead_code, reason = "each page uses its own part of this")]
mod day;
#[path = "events/fake.rs"]
#[allow(dead_code, reason = "written for tests/events.rs")]
mod fake;
#[path = "fleet/hosts.rs"]
mod hosts;
#[path = "lago/fake.rs"]
#[allow(dead_code, reason = "written for tests/lago.rs")]
mod lago;
#[path = "fleet/ledgers.rs"]
#[allow(dead_code, reason = "tests of other sinks open ledgers again")]
mod ledgers;
#[path = "fleet/page.rs"]
mod page;
#[path = "clickhouse/server.rs"]
#[allow(dead_code, reason = "written for tests/clickhouse.rs")]
mod server;
#[path = "fleet/sinks.rs"]
mod sinks;
#[path = "fleet/speed.rs"]
mod speed;
#[path = "fleet/stated.rs"]
mod stated;
#[path = "fleet/statement.rs"]
mod statement;
#[path = "fleet/stored.rs"]
mod stored;
#[path = "fleet/story.rs"]
mod story;
mod support;
#[path = "fleet/three.rs"]
mod three;
#[path = "fleet/way.rs"]
mod way;

use anyhow::{Context as _, Result, ensure};
use cluster::Cluster;
use database::Database;
use fake as http;
use metering::sink::{
    Mark, Sink as _, SinkError,
    nats::{Done, Intake, Nats, Target},
    postgres::{self, Postgres},
};
use std::{
    path::Path,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};
use story::Story;
use way::Broken;

/// Until a message that was not acknowledged comes again, in these tests.
const AGAIN: Duration = Duration::from_secs(1);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn ready(test: &str) -> bool {
    let missing = if Database::programs().is_none() {
        "PostgreSQL"
    } else if cluster::program().is_none() {
        "nats-server"
    } else {
        return true;
    };
    println!("SKIPPED: {test}: there is no {missing}; `cargo xtask setup` installs it");
    false
}

fn target(cluster: &Cluster, url: String) -> Target {
    Target {
        url,
        stream: "octroi".into(),
        replicas: Some(cluster.copies()),
        password_file: Some(cluster.password_file()),
        token_file: None,
        ca_file: None,
    }
}

fn postgres(database: &Database) -> Postgres {
    Postgres::new(postgres::Target {
        url: database.url(),
        password_file: None,
        ca_file: None,
    })
}

fn intake(cluster: &Cluster, database: &Database, name: &str) -> Intake<Postgres> {
    Intake::new(
        target(cluster, cluster.url()),
        postgres(database),
        name,
        AGAIN,
    )
}

/// Takes until the database has so much of a ledger; what was done on the way.
fn take(
    intake: &mut Intake<Postgres>,
    database: &Database,
    story: &Story,
    size: u64,
) -> Result<Vec<Done>> {
    let begun = Instant::now();
    let mut all = Vec::new();
    let there = format!(
        "SELECT coalesce(max(next_seq), 0) FROM octroi.ledger WHERE ledger_id = '\\x{}'",
        story.id.map(|byte| format!("{byte:02x}")).concat()
    );
    let mut last = None;
    loop {
        match intake.step() {
            Ok(done) => {
                let is_idle = done.messages == 0;
                all.push(done);
                if is_idle {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Err(SinkError::Unavailable(why)) => {
                last = Some(why);
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) => return Err(error.into()),
        }
        let is_there = database
            .ask(&there)
            .is_ok_and(|next| next == size.to_string());
        if is_there {
            return Ok(all);
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "the store stays behind {size}: {all:?}, {last:?}"
        );
    }
}

/// Sends what the stream has not of a ledger, as the daemon does: asks, sends, and asks again after what failed.
fn send(sink: &mut Nats, story: &Story, past: u64, most: u64) -> Result<u64> {
    let begun = Instant::now();
    let (mut failed, mut mark) = (0, None);
    loop {
        ensure!(begun.elapsed() < PATIENCE, "{failed} times failed");
        let mut step = || -> Result<Option<Mark>, SinkError> {
            let at = match mark {
                Some(mark) => mark,
                None => sink.mark(&story.id, &story.host)?,
            };
            if at.next >= past {
                return Ok(None);
            }
            let to = past.min(at.next + most);
            sink.deliver(&story.batch(at, to)).map(Some)
        };
        match step() {
            Ok(None) => return Ok(failed),
            Ok(at) => mark = at,
            Err(SinkError::Unavailable(_)) => {
                failed += 1;
                mark = None;
                std::thread::sleep(Duration::from_millis(30));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Asks until the way holds, as the daemon does.
fn at_last<T>(mut ask: impl FnMut() -> Result<T, SinkError>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match ask() {
            Err(SinkError::Unavailable(_)) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(30));
            }
            answer => return Ok(answer?),
        }
    }
}

/// The database has exactly the first so many records of these ledgers.
fn exactly(database: &Database, stories: &[(&Story, u64)]) -> Result<()> {
    let (mut records, mut bytes) = (0, 0);
    for (story, past) in stories {
        let sum = story.sum(*past);
        records += sum.0;
        bytes += sum.1;
    }
    let there = database.ask("SELECT count(*), coalesce(sum(l2_bytes), 0) FROM octroi.billed")?;
    ensure!(
        there == format!("{records}|{bytes}"),
        "the store has {there}, the ledgers {records}|{bytes}"
    );
    Ok(())
}

/// Connections that break anywhere, two daemons with one ledger, a leader that is killed, and a consumer that begins
/// anew: each record is there once.
#[test]
fn answers_that_are_lost_and_messages_that_come_again_bring_nothing_in_twice() -> Result<()> {
    const TEST: &str = "answers_that_are_lost_and_messages_that_come_again_bring_nothing_in_twice";
    if !ready(TEST) {
        return Ok(());
    }
    let database = Database::new("fleet-lost")?;
    let mut cluster = Cluster::new("lost")?;
    let broken = Broken::default();
    let mut ports = cluster.ports;
    for (port, seed) in ports.iter_mut().zip([3, 5, 7]) {
        *port = way::beside(*port, seed, &broken)?;
    }
    let over = |ports| {
        Nats::with_patience(
            target(&cluster, cluster::url(ports)),
            Duration::from_secs(4),
        )
    };
    let (one, other) = (Story::new(1, "a", 900), Story::new(2, "b", 600));
    let (mut first, mut second) = (over(&ports), over(&ports));
    let mut failed = send(&mut first, &one, 300, 7)?;
    // Two with one ledger, in turns: neither comes between the other's records.
    for past in (320..=500).step_by(20) {
        failed += send(&mut first, &one, past - 10, 3)?;
        failed += send(&mut second, &one, past, 5)?;
    }
    ensure!(failed > 0 && broken.load(Relaxed) > 0, "nothing broke");
    let mut intake = intake(&cluster, &database, "store");
    take(&mut intake, &database, &one, 500)?;
    exactly(&database, &[(&one, 500)])?;

    let leader = cluster.leader("octroi")?;
    cluster.kill(leader)?;
    failed += send(&mut second, &other, 600, 50)?;
    cluster.start(leader)?;
    failed += send(&mut second, &one, 900, 100)?;
    take(&mut intake, &database, &one, 900)?;
    take(&mut intake, &database, &other, 600)?;
    exactly(&database, &[(&one, 900), (&other, 600)])?;

    // Everything once more, to a consumer that knows nothing.
    let mut again = self::intake(&cluster, &database, "another");
    let done = at_last(|| again.step())?;
    ensure!(
        done.again == done.messages && done.again > 20 && done.records == 0,
        "{done:?}"
    );
    exactly(&database, &[(&one, 900), (&other, 600)])?;
    let forks = database.ask("SELECT count(*) FROM octroi.fork")?;
    ensure!(forks == "0", "{forks} forks");
    // What the host goes by: the store's own word.
    let mark = at_last(|| first.mark(&one.id, "a"))?;
    ensure!(mark == one.mark(900), "{mark:?}");
    let confirmed = at_last(|| first.confirmed(&one.id, &one.mark(900)))?;
    ensure!(confirmed == one.mark(900), "{confirmed:?}");
    ensure!(!cluster.log().contains(cluster::PASSWORD));
    println!("CASES: records through a cluster whose answers are lost: 1500");
    println!(
        "CASES: connections broken on the way to it: {}",
        broken.load(Relaxed)
    );
    println!("CASES: tries that failed and were made again: {failed}");
    Ok(())
}

/// A broker may lose what it acknowledged. The store notices, asks, and gets it from the ledger.
#[test]
fn what_the_cluster_forgets_is_asked_for_and_sent_again() -> Result<()> {
    if !ready("what_the_cluster_forgets_is_asked_for_and_sent_again") {
        return Ok(());
    }
    let database = Database::new("fleet-forgets")?;
    let cluster = Cluster::alone("forgets", "")?;
    let story = Story::new(1, "a", 300);
    let mut sink = Nats::new(target(&cluster, cluster.url()));
    let mut intake = intake(&cluster, &database, "store");
    send(&mut sink, &story, 100, 10)?;
    take(&mut intake, &database, &story, 100)?;
    // Messages in the middle are gone, and the host cannot know.
    send(&mut sink, &story, 150, 10)?;
    let state = cluster.order("$JS.API.STREAM.INFO.octroi", "")?;
    let last = state["state"]["last_seq"].as_u64().context("a stream")?;
    for number in [last - 3, last - 2] {
        let gone = format!("{{\"seq\":{number}}}");
        cluster.order("$JS.API.STREAM.MSG.DELETE.octroi", &gone)?;
    }
    send(&mut sink, &story, 160, 10)?;
    let begun = Instant::now();
    let asked = loop {
        intake.step()?;
        match sink.confirmed(&story.id, &story.mark(160)) {
            Err(SinkError::Unavailable(why)) => break why,
            Err(error) => return Err(error.into()),
            Ok(mark) => ensure!(mark.next <= 110, "{mark:?}"),
        }
        ensure!(begun.elapsed() < PATIENCE, "nothing is asked for");
        std::thread::sleep(Duration::from_millis(50));
    };
    ensure!(asked.contains("lacks what follows"), "{asked}");
    ensure!(sink.mark(&story.id, "a")? == story.mark(110));
    send(&mut sink, &story, 180, 10)?;
    take(&mut intake, &database, &story, 180)?;
    // Emptied before the store saw anything, within the time in which the server knows names.
    send(&mut sink, &story, 190, 10)?;
    cluster.order("$JS.API.STREAM.PURGE.octroi", "")?;
    send(&mut sink, &story, 200, 10)?;
    take(&mut intake, &database, &story, 200)?;
    exactly(&database, &[(&story, 200)])?;

    // The stream itself is gone: it is made anew, and its numbers begin anew.
    cluster.order("$JS.API.STREAM.DELETE.octroi", "")?;
    send(&mut sink, &story, 210, 10)?;
    take(&mut intake, &database, &story, 210)?;
    // The database is an old copy: it is filled up from the ledger, by way of a question.
    database.ask(
        "DELETE FROM octroi.record WHERE seq >= 120; UPDATE octroi.ledger SET next_seq = 120, last_leaf = \
         (SELECT leaf FROM octroi.record WHERE seq = 119)",
    )?;
    let mut intake = self::intake(&cluster, &database, "store");
    intake.step()?;
    ensure!(sink.mark(&story.id, "a")? == story.mark(120));
    send(&mut sink, &story, 300, 50)?;
    take(&mut intake, &database, &story, 300)?;
    exactly(&database, &[(&story, 300)])?;
    println!("CASES: ways of a cluster and a store to forget: 4");
    Ok(())
}

/// A name that is taken is an alarm at the store and at the host, and holds no other ledger up. What is no batch at all is put
/// aside and told.
#[test]
fn forks_and_what_is_no_batch_are_told_and_hold_nobody_else_up() -> Result<()> {
    if !ready("forks_and_what_is_no_batch_are_told_and_hold_nobody_else_up") {
        return Ok(());
    }
    let database = Database::new("fleet-forks")?;
    let cluster = Cluster::alone("forks", "")?;
    let mut sink = Nats::new(target(&cluster, cluster.url()));
    let mut intake = intake(&cluster, &database, "store");
    let (story, other) = (Story::new(1, "a", 50), Story::new(3, "b", 30));
    send(&mut sink, &story, 50, 10)?;
    take(&mut intake, &database, &story, 50)?;
    // A copy under another id bills the same windows.
    let copy = Story::new(2, "a", 60);
    send(&mut sink, &copy, 60, 10)?;
    let subject = "octroi.record.0102030405060708090a0b0c0d0e0f10";
    let answer = cluster.order(subject, "no batch")?;
    ensure!(answer["stream"] == "octroi", "{answer}");
    send(&mut sink, &other, 30, 10)?;
    let done = take(&mut intake, &database, &other, 30)?;
    let said: Vec<&String> = done.iter().flat_map(|done| &done.said).collect();
    let has = |part: &str| said.iter().any(|line| line.contains(part));
    ensure!(
        has("FORK: the sink has a record of the same window already"),
        "{said:?}"
    );
    ensure!(
        has("is no batch of records (it has no first line); put aside"),
        "{said:?}"
    );
    let error = sink.mark(&copy.id, "a").expect_err("the store refused it");
    ensure!(matches!(error, SinkError::Fork(_)), "{error}");
    let forks = database.ask("SELECT count(*), min(host) FROM octroi.fork")?;
    ensure!(forks == "1|a", "{forks}");
    exactly(&database, &[(&story, 50), (&other, 30)])?;

    // The same ledger with another history: the mark in the stream is not this ledger's.
    let mut changed = Story::new(1, "a", 40);
    changed.add(40, 9);
    ensure!(sink.mark(&changed.id, "a")? == story.mark(50));
    // And sent all the same, behind the stream's back: the store sees another leaf.
    cluster.order("$JS.API.STREAM.PURGE.octroi", "")?;
    cluster.order("$JS.API.STREAM.PURGE.octroi-ack", "")?;
    ensure!(sink.mark(&changed.id, "a")? == Mark::NONE);
    send(&mut sink, &changed, 41, 41)?;
    let begun = Instant::now();
    while database.ask("SELECT count(*) FROM octroi.fork")? != "2" {
        intake.step()?;
        ensure!(begun.elapsed() < PATIENCE, "it is not noticed");
    }
    exactly(&database, &[(&story, 50), (&other, 30)])?;
    let error = sink.confirmed(&changed.id, &changed.mark(41));
    let error = error.expect_err("another history");
    ensure!(matches!(error, SinkError::Fork(_)), "{error}");
    println!("CASES: forks and messages that are none, by way of a stream: 3");
    Ok(())
}

/// Over TLS to whom the certificates speak for; with the password; on streams that keep what they take. Nothing else gets a
/// record, and what is wrong is said in words.
#[test]
fn a_cluster_that_is_not_trusted_or_would_lose_records_gets_none() -> Result<()> {
    const TEST: &str = "a_cluster_that_is_not_trusted_or_would_lose_records_gets_none";
    if !ready(TEST) {
        return Ok(());
    }
    let files = std::env::temp_dir().join(format!("octroi-fleet-tls-{}", std::process::id()));
    std::fs::create_dir_all(&files)?;
    let (Some(own), Some(other)) = (
        certificate::make(&files, "own")?,
        certificate::make(&files, "other")?,
    ) else {
        println!("SKIPPED: {TEST}: there is no openssl");
        return Ok(());
    };
    let tls = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\" }}",
        own.0.display(),
        own.1.display()
    );
    let story = Story::new(1, "a", 10);
    {
        let cluster = Cluster::alone("tls", &tls)?;
        let over = |name: &str, ca_file: &Path, password: &Path| {
            Nats::with_patience(
                Target {
                    url: format!("tls://{}@{name}:{}", cluster::USER, cluster.ports[0]),
                    stream: "octroi".into(),
                    replicas: Some(1),
                    password_file: Some(password.to_owned()),
                    token_file: None,
                    ca_file: Some(ca_file.to_owned()),
                },
                Duration::from_secs(5),
            )
        };
        let password = cluster.password_file();
        let wrong = cluster.directory.join("wrong");
        std::fs::write(&wrong, "something-else\n")?;
        for (name, ca_file, password, part) in [
            ("localhost", &other.0, &password, "certificate"),
            ("127.0.0.1", &own.0, &password, "certificate"),
            ("localhost", &own.0, &wrong, "authorization violation"),
        ] {
            let error = over(name, ca_file, password).mark(&story.id, "a");
            let error = error
                .err()
                .with_context(|| format!("{name}: it answered"))?;
            ensure!(error.to_string().contains(part), "{error}");
            ensure!(!error.to_string().contains("something-else"), "{error}");
        }
        let mut sink = over("localhost", &own.0, &password);
        send(&mut sink, &story, 10, 10)?;
        ensure!(sink.mark(&story.id, "a")? == story.mark(10));
    }
    let cluster = Cluster::alone("streams", "")?;
    let plain = |replicas| {
        Nats::new(Target {
            url: format!("nats://{}@127.0.0.1:{}", cluster::USER, cluster.ports[0]),
            stream: "octroi".into(),
            replicas,
            password_file: Some(cluster.password_file()),
            token_file: None,
            ca_file: None,
        })
    };
    let error = plain(None).mark(&story.id, "a").expect_err("no stream");
    ensure!(
        error.to_string().contains("there is no stream octroi"),
        "{error}"
    );
    let memory = r#"{"name":"octroi","subjects":["octroi.record.*"],"storage":"memory","retention":"limits"}"#;
    cluster.order("$JS.API.STREAM.CREATE.octroi", memory)?;
    for replicas in [None, Some(1)] {
        let error = plain(replicas).mark(&story.id, "a").expect_err("in memory");
        let is_told = matches!(&error, SinkError::Refused(why) if why.contains("storage file"));
        ensure!(is_told, "{error}");
    }
    std::fs::remove_dir_all(&files)?;
    println!("CASES: clusters that are not trusted or would lose records: 5");
    Ok(())
}
