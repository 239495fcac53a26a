//! Hosts, a real NATS server, the real `octroi store`, and ClickHouse's engine: the store and the server are killed in the middle of
//! it, answers are lost, rows are taken away, the server is put back, and each record is there once.

use crate::{
    cluster::{self, Cluster},
    has_engine,
    ledgers::{ACME, MARCH_NS, Metering, Shelf},
    server::Server,
    story::Story,
    support::{by_level, octroi},
    views_agree,
};
use anyhow::{Result, ensure};
use metering::sink::{
    Courier, Sink as _, SinkError,
    nats::{Nats, Target},
};
use std::{
    fs,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

fn ready(test: &str) -> bool {
    if cluster::program().is_none() {
        println!("SKIPPED: {test}: there is no nats-server; `cargo xtask setup` installs it");
        return false;
    }
    has_engine(test)
}

fn host(cluster: &Cluster) -> Nats {
    Nats::new(Target {
        url: cluster.url(),
        stream: "octroi".into(),
        replicas: Some(cluster.copies()),
        password_file: Some(cluster.password_file()),
        token_file: None,
        ca_file: None,
    })
}

fn prepare(cluster: &Cluster, server: &Server, name: &str) -> Command {
    let mut command = Command::new(octroi());
    command
        .args(["store", "--from", &cluster.url(), "--replicas", "1"])
        .arg("--from-password-file")
        .arg(cluster.password_file())
        .args(["--to", &server.url(), "--to-password-file"])
        .arg(server.password_file())
        .args(["--name", name, "--ack-wait", "1"]);
    command
}

/// `octroi store`, which goes with the test.
struct Store(Child);

impl Store {
    fn start(cluster: &Cluster, server: &Server, name: &str) -> Result<Self> {
        let log = server.directory.join("store.log");
        let log = fs::File::options().create(true).append(true).open(log)?;
        let mut command = prepare(cluster, server, name);
        command.stdin(Stdio::null()).stdout(log.try_clone()?);
        Ok(Self(command.stderr(log).spawn()?))
    }
}

impl Drop for Store {
    /// SIGKILL.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Takes what the stream has, and ends.
fn drain(cluster: &Cluster, server: &Server, name: &str) -> Result<Output> {
    Ok(prepare(cluster, server, name).arg("--drain").output()?)
}

/// Asks until the way holds, as the daemon does.
fn at_last<T>(mut ask: impl FnMut() -> Result<T, SinkError>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match ask() {
            Err(SinkError::Unavailable(_)) if begun.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(30));
            }
            answer => return Ok(answer?),
        }
    }
}

/// Sends what the stream has not, as the daemon does, in batches of some records.
fn send(sink: &mut Nats, story: &Story, past: u64, most: u64) -> Result<()> {
    loop {
        let sent = at_last(|| {
            let at = sink.mark(&story.id, &story.host)?;
            if at.next >= past {
                return Ok(true);
            }
            sink.deliver(&story.batch(at, past.min(at.next + most)))?;
            Ok(false)
        })?;
        if sent {
            return Ok(());
        }
    }
}

/// Waits until the store says that it keeps so much, sending again what it asks for.
fn kept(sink: &mut Nats, story: &Story, past: u64, log: &Server) -> Result<()> {
    let begun = Instant::now();
    loop {
        send(sink, story, past, 50)?;
        match sink.confirmed(&story.id, &story.mark(past)) {
            Ok(mark) if mark == story.mark(past) => return Ok(()),
            Ok(_) | Err(SinkError::Unavailable(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let said = || fs::read_to_string(log.directory.join("store.log")).unwrap_or_default();
        ensure!(
            begun.elapsed() < PATIENCE,
            "the store stays behind {past}: {}",
            said()
        );
        thread::sleep(Duration::from_millis(100));
    }
}

fn exactly(server: &Server, stories: &[(&Story, u64)]) -> Result<()> {
    let (mut records, mut bytes) = (0, 0);
    for (story, past) in stories {
        let sum = story.sum(*past);
        records += sum.0;
        bytes += sum.1;
    }
    let there = server.ask("SELECT count(), sum(l2_bytes) FROM billed")?;
    ensure!(
        there == format!("{records}|{bytes}"),
        "the store has {there}, the ledgers {records}|{bytes}"
    );
    let rows = server.ask("SELECT count(), uniqExact(ledger_id, seq) FROM record FINAL")?;
    ensure!(rows == format!("{records}|{records}"), "{rows}");
    views_agree(server).map(drop)
}

#[test]
fn a_stream_comes_to_clickhouse_once_whatever_dies() -> Result<()> {
    if !ready("a_stream_comes_to_clickhouse_once_whatever_dies") {
        return Ok(());
    }
    let mut server = Server::new("stream")?;
    let cluster = Cluster::alone("stream", "")?;
    let rounds = by_level(3, 4, 40);
    let size = 40 * rounds;
    let (one, other) = (Story::new(1, "a", size), Story::new(2, "b", size));
    let mut sink = host(&cluster);
    let mut store = Some(Store::start(&cluster, &server, "store")?);
    for round in 1..=rounds {
        send(&mut sink, &one, round * 40, 10)?;
        server.moods(&["well", "done-late", "busy", "well", "done-reset", "nobody"])?;
        send(&mut sink, &other, round * 40, 14)?;
        thread::sleep(Duration::from_millis(300 + round * 137 % 500));
        // SIGKILL of the store, of the server, of both.
        if round % 3 != 1 {
            store = None;
        }
        if round % 3 != 2 {
            server.kill()?;
            server.start()?;
        }
        if store.is_none() {
            store = Some(Store::start(&cluster, &server, "store")?);
        }
    }
    for story in [&one, &other] {
        kept(&mut sink, story, size, &server)?;
    }
    exactly(&server, &[(&one, size), (&other, size)])?;
    ensure!(server.ask("SELECT count() FROM fork")? == "0");

    // Rows that somebody took away below the mark come back with their messages.
    drop(store.take());
    let id = "01".repeat(16);
    server.ask(&format!(
        "DELETE FROM record WHERE ledger_id = unhex('{id}') AND seq < 10"
    ))?;
    ensure!(exactly(&server, &[(&one, size), (&other, size)]).is_err());
    let drained = drain(&cluster, &server, "another")?;
    ensure!(drained.status.success(), "{drained:?}");
    exactly(&server, &[(&one, size), (&other, size)])?;

    // The server is an old copy of itself: what it said it had is asked for, and sent again.
    server.ask(&format!(
        "DELETE FROM record WHERE ledger_id = unhex('{id}') AND seq >= 20"
    ))?;
    let leaf = server.ask(&format!(
        "SELECT hex(leaf) FROM record WHERE ledger_id = unhex('{id}') AND seq = 19"
    ))?;
    server.ask(&format!("DELETE FROM mark WHERE ledger_id = unhex('{id}')"))?;
    server.ask(&format!(
        "INSERT INTO mark (ledger_id, host, next_seq, last_leaf, head) VALUES (unhex('{id}'), 'a', 20, unhex('{leaf}'), '')"
    ))?;
    let running = Store::start(&cluster, &server, "store")?;
    let begun = Instant::now();
    while sink.mark(&one.id, "a").is_ok_and(|at| at.next == size) {
        ensure!(begun.elapsed() < PATIENCE, "nothing is asked for");
        thread::sleep(Duration::from_millis(50));
    }
    kept(&mut sink, &one, size, &server)?;
    exactly(&server, &[(&one, size), (&other, size)])?;

    forks(&cluster, &server, &mut sink, [&one, &other])?;
    drop(running);
    let log = fs::read_to_string(server.directory.join("store.log"))?;
    ensure!(
        !log.contains(crate::server::PASSWORD) && !log.contains(cluster::PASSWORD),
        "a password in a log"
    );
    println!(
        "CASES: records by way of a stream in ClickHouse once: {}",
        2 * size
    );
    println!("CASES: kills of the store and of ClickHouse under delivery: {rounds}");
    Ok(())
}

/// What has a name that is taken is an alarm there and at its host; nothing of it goes in, and other ledgers go on.
fn forks(cluster: &Cluster, server: &Server, sink: &mut Nats, stories: [&Story; 2]) -> Result<()> {
    let [one, other] = stories;
    let there = [(one, one.size()), (other, other.size())];
    let told = |count: &str| -> Result<()> {
        let begun = Instant::now();
        while server.ask("SELECT count() FROM fork FINAL")? != count {
            ensure!(begun.elapsed() < PATIENCE, "fork {count} is not noticed");
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    };
    // A copy under another id bills the same windows.
    let copy = Story::new(3, "a", 20);
    send(sink, &copy, 20, 10)?;
    told("1")?;
    let error = at_last_fork(sink, &copy, 20)?;
    ensure!(error.contains("same window"), "{error}");
    let honest = Story::new(4, "c", 30);
    kept(sink, &honest, 30, server)?;
    exactly(server, &[there[0], there[1], (&honest, 30)])?;
    // Another history under the same id, sent behind the stream's back: the store sees another leaf.
    let mut changed = Story::new(4, "c", 20);
    changed.add(20, 9);
    cluster.order("$JS.API.STREAM.PURGE.octroi", "")?;
    cluster.order("$JS.API.STREAM.PURGE.octroi-ack", "")?;
    send(sink, &changed, 21, 21)?;
    told("2")?;
    at_last_fork(sink, &changed, 21)?;
    exactly(server, &[there[0], there[1], (&honest, 30)])?;
    println!("CASES: forks by way of a stream that ClickHouse does not get: 2");
    Ok(())
}

/// Waits until its host is told.
fn at_last_fork(sink: &mut Nats, story: &Story, past: u64) -> Result<String> {
    let begun = Instant::now();
    loop {
        if let Err(SinkError::Fork(what)) = sink.confirmed(&story.id, &story.mark(past)) {
            return Ok(what);
        }
        ensure!(begun.elapsed() < PATIENCE, "its host is not told");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn reconcile_holds_a_store_in_clickhouse_against_the_ledger() -> Result<()> {
    if !ready("reconcile_holds_a_store_in_clickhouse_against_the_ledger") {
        return Ok(());
    }
    let server = Server::new("reconciled")?;
    let cluster = Cluster::alone("reconciled", "")?;
    let shelf = Shelf::new("reconciled")?;
    let mut metering = Metering::new(&shelf, "par1", 1, MARCH_NS[0])?;
    let port = metering.port("acme", ACME);
    for at in 0..30 {
        metering.pass();
        metering.carry(port, at as usize % 2, 4, 1_000 + at);
        metering.cut(None)?;
    }
    metering.correct(ACME, 4, -500)?;
    let mut courier = Courier::new(host(&cluster), &metering.path, "par1", 1);
    let begun = Instant::now();
    while courier.progress().confirmed != metering.size() {
        courier.step(Instant::now());
        let drained = drain(&cluster, &server, "store")?;
        ensure!(
            begun.elapsed() < PATIENCE,
            "{:?} {drained:?}",
            courier.progress()
        );
    }
    let config = shelf.0.join("octroi.toml");
    let text = format!(
        "[host]\nname = \"par1\"\n\n[meter]\nledger = \"{}\"\nwindow = \"300s\"\n",
        metering.path.display()
    );
    fs::write(&config, text)?;
    let reconcile = |address: &str| -> Result<(bool, String)> {
        let output = Command::new(octroi())
            .args(["reconcile", "--store", address, "--store-password-file"])
            .arg(server.password_file())
            .arg("--config")
            .arg(&config)
            .output()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok((output.status.success(), said))
    };
    let same = reconcile(&server.url())?;
    ensure!(same.0 && same.1.contains("difference 0"), "{}", same.1);
    server.ask("DELETE FROM record WHERE seq = (SELECT max(seq) FROM record WHERE kind = 1)")?;
    let wrong = reconcile(&server.url())?;
    ensure!(
        !wrong.0 && wrong.1.contains("are not the ledger's"),
        "{}",
        wrong.1
    );
    // What cannot be said from there is said to be so, with what to write.
    for (arguments, words) in [
        (
            ["statement", "--tenant", "7", "--month", "2026-03"],
            "PostgreSQL store",
        ),
        (
            ["usage", "--tenant", "7", "--month", "2026-03"],
            "PostgreSQL store",
        ),
    ] {
        let output = Command::new(octroi())
            .args(arguments)
            .args(["--store", &server.url()])
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains(words), "{said}");
    }
    let far = reconcile("http://clickhouse.example:8123")?;
    ensure!(!far.0 && far.1.contains("https"), "{}", far.1);
    Ok(())
}
