//! How fast the records of a ledger come to each sink, from end to end, and what that costs. `cargo xtask bench --sinks` runs it
//! with many records, and stores what it prints; among the tests it sees that each way is whole.
//!
//! Another sink is another line of [`SINKS`]: a function that sets its counterpart up, has [`drive`] deliver the ledger, and
//! looks at the other end whether the bytes are there.

use crate::{
    PATIENCE,
    cluster::Cluster,
    database::Database,
    fake::Service,
    intake, lago,
    ledgers::{MARCH_NS, Metering, Shelf},
    postgres, ready,
    server::{self, Server},
    target,
};
use anyhow::{Context as _, Result, ensure};
use metering::sink::{
    Courier, Sink, SinkError, clickhouse, cloudevents, files, lago::Lago,
    lago::Target as LagoTarget, nats::Nats,
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// Every sink: its name, what is at the other end, and how it is measured.
const SINKS: [(&str, &str, Way); 7] = [
    ("postgres", "PostgreSQL", to_postgres),
    (
        "clickhouse",
        "ClickHouse's engine behind the tests' HTTP door",
        to_clickhouse,
    ),
    ("files", "a directory, JSON lines and CSV", to_files),
    ("parquet", "the same, and Parquet", to_parquet),
    (
        "cloudevents",
        "a strict stand-in, in octroi's process",
        to_events,
    ),
    (
        "lago",
        "a strict stand-in, in octroi's process, 100 events a batch",
        to_lago,
    ),
    (
        "nats",
        "NATS, and `octroi store` into PostgreSQL",
        through_a_fleet,
    ),
];

/// Whose the hundred ports are.
const TENANTS: u32 = 20;

type Way = fn(&Ledger) -> Result<Cost>;

/// What is delivered.
struct Ledger {
    shelf: Shelf,
    host: Metering,
    /// Layer-2 bytes that it bills.
    bytes: u64,
    /// More than a handful: three servers.
    is_many: bool,
}

/// What it took.
struct Cost {
    took: Duration,
    /// CPU time of this process: the courier, and what of the way is octroi's.
    own: f64,
    /// CPU time of the servers, s.
    servers: f64,
}

/// A line of the results.
#[derive(Serialize)]
struct Line<'a> {
    sink: &'a str,
    to: &'a str,
    records: u64,
    ledger_bytes: u64,
    seconds: f64,
    records_per_second: u64,
    octroi_cpu_seconds: f64,
    servers_cpu_seconds: f64,
}

/// CPU time of a process and of its children that ended, s.
fn cpu(pid: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may have spaces.
    let rest = stat.rsplit_once(')').map_or("", |parts| parts.1);
    let fields = rest.split_whitespace().skip(11).take(4);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

/// CPU time of the processes that work in one of these directories or were given a file of it, by process.
fn cpu_in(directories: &[&Path]) -> BTreeMap<String, f64> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let is_theirs = |pid: &String| {
        let told = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let told = String::from_utf8_lossy(&told).into_owned();
        let works = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        directories
            .iter()
            .any(|one| works.starts_with(one) || told.contains(&*one.to_string_lossy()))
    };
    let theirs = pids.filter(is_theirs);
    theirs.map(|pid| (pid.clone(), cpu(&pid))).collect()
}

/// Delivers the whole ledger as the daemon does; `directories`: of the servers at the other end.
fn drive<S: Sink>(sink: S, ledger: &Ledger, directories: &[&Path]) -> Result<Cost> {
    let host = &ledger.host;
    let mut courier = Courier::new(sink, &host.path, &host.host, 1);
    let (begun, own, before) = (Instant::now(), cpu("self"), cpu_in(directories));
    while courier.progress().confirmed < host.size() {
        let wait = courier.step(Instant::now());
        let progress = courier.progress();
        ensure!(!progress.fork, "{progress:?}");
        ensure!(begun.elapsed() < PATIENCE * 5, "{progress:?}");
        thread::sleep(wait.min(Duration::from_millis(5)));
    }
    let took = begun.elapsed();
    let after = cpu_in(directories);
    // A process that began meanwhile has all of its time from here.
    let more = after.iter().map(|(pid, now)| {
        let before = before.get(pid).copied();
        now - before.unwrap_or_default()
    });
    Ok(Cost {
        took,
        own: cpu("self") - own,
        servers: more.fold(0.0, |sum, one| sum + one),
    })
}

fn billed(database: &Database, ledger: &Ledger) -> Result<()> {
    let there = database.ask("SELECT sum(l2_bytes) FROM octroi.billed")?;
    ensure!(
        there == ledger.bytes.to_string(),
        "{there}: {}",
        ledger.bytes
    );
    let all = database
        .ask("SELECT (SELECT count(*) FROM octroi.record) + (SELECT count(*) FROM octroi.total)")?;
    ensure!(all == ledger.host.size().to_string(), "{all}");
    let sizes = database.ask(
        "SELECT pg_total_relation_size('octroi.record') / (SELECT count(*) FROM octroi.record), \
         pg_total_relation_size('octroi.total') / (SELECT count(*) FROM octroi.total)",
    )?;
    let (record, total) = sizes.split_once('|').context("two numbers")?;
    println!("STORE: {record} bytes a record and {total} a total, with their indexes");
    Ok(())
}

fn to_postgres(ledger: &Ledger) -> Result<Cost> {
    let database = Database::new("sinks-postgres")?;
    let cost = drive(postgres(&database), ledger, &[&database.directory])?;
    billed(&database, ledger)?;
    Ok(cost)
}

fn through_a_fleet(ledger: &Ledger) -> Result<Cost> {
    let database = Database::new("sinks-fleet")?;
    let cluster = match ledger.is_many {
        true => Cluster::new("sinks")?,
        false => Cluster::alone("sinks", "")?,
    };
    let is_over = AtomicBool::new(false);
    let cost = thread::scope(|scope| {
        let store = scope.spawn(|| -> Result<()> {
            let mut store = intake(&cluster, &database, "store");
            while !is_over.load(Relaxed) {
                match store.step() {
                    Ok(done) if done.messages > 0 => {}
                    Ok(_) | Err(SinkError::Unavailable(_)) => {
                        thread::sleep(Duration::from_millis(5));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        });
        let sink = Nats::new(target(&cluster, cluster.url()));
        let cost = drive(sink, ledger, &[&database.directory, &cluster.directory]);
        is_over.store(true, Relaxed);
        let ended = store.join();
        ended.map_err(|_| anyhow::anyhow!("the store panicked"))??;
        cost
    })?;
    billed(&database, ledger)?;
    Ok(cost)
}

fn to_clickhouse(ledger: &Ledger) -> Result<Cost> {
    let server = Server::new("sinks")?;
    let target = clickhouse::Target {
        url: server.url(),
        password_file: Some(server.password_file()),
        ca_file: None,
    };
    let sink = clickhouse::ClickHouse::new(target);
    let cost = drive(sink, ledger, &[&server.directory])?;
    let bytes: u64 = server.ask("SELECT sum(l2_bytes) FROM billed")?.parse()?;
    ensure!(bytes == ledger.bytes, "{bytes}: {}", ledger.bytes);
    Ok(cost)
}

fn to_files(ledger: &Ledger) -> Result<Cost> {
    closed_files(ledger, "files", false)
}

fn to_parquet(ledger: &Ledger) -> Result<Cost> {
    closed_files(ledger, "parquet", true)
}

fn closed_files(ledger: &Ledger, name: &str, parquet: bool) -> Result<Cost> {
    let directory = ledger.shelf.0.join(name);
    fs::create_dir(&directory)?;
    let sink = files::Files::new(files::Target {
        directory: directory.clone(),
        parquet,
    });
    let cost = drive(sink, ledger, &[])?;
    let mut bytes = 0;
    for of_ledger in fs::read_dir(&directory)? {
        for file in fs::read_dir(of_ledger?.path())? {
            let path = file?.path();
            if path.extension().is_none_or(|ending| ending != "jsonl") {
                continue;
            }
            for line in fs::read_to_string(path)?.lines() {
                let line: serde_json::Value = serde_json::from_str(line)?;
                let sum = line["l2_bytes"].as_str().unwrap_or("0");
                bytes += sum.parse::<u64>()?;
            }
        }
    }
    ensure!(bytes == ledger.bytes, "{bytes}: {}", ledger.bytes);
    Ok(cost)
}

fn to_events(ledger: &Ledger) -> Result<Cost> {
    let service = Service::new(TcpListener::bind("127.0.0.1:0")?, None)?;
    let target = cloudevents::Target {
        url: service.url.clone(),
        token_file: None,
        ca_file: None,
    };
    let cursor = ledger.shelf.0.join("events.cursor");
    let cost = drive(cloudevents::CloudEvents::new(target, cursor), ledger, &[])?;
    let totals = service.totals()?;
    let bytes: i128 = totals.values().map(|(_, bytes)| bytes).sum();
    ensure!(
        bytes == i128::from(ledger.bytes),
        "{bytes}: {}",
        ledger.bytes
    );
    Ok(cost)
}

fn to_lago(ledger: &Ledger) -> Result<Cost> {
    let token = "a-key-of-lago";
    let token_file = ledger.shelf.0.join("lago.key");
    fs::write(&token_file, token)?;
    let service = lago::Service::new(TcpListener::bind("127.0.0.1:0")?, token)?;
    let subscription = |tenant: u32| format!("{tenant} sub_{tenant}").parse();
    let subscriptions: Result<Vec<_>, _> = (1..=TENANTS).map(subscription).collect();
    let target = LagoTarget {
        url: service.url.clone(),
        token_file,
        ca_file: None,
        code: "octroi_bytes".into(),
        subscriptions: subscriptions.map_err(|_| anyhow::anyhow!("no subscription"))?,
    };
    let cursor = ledger.shelf.0.join("lago.cursor");
    let cost = drive(Lago::new(target, cursor), ledger, &[])?;
    let totals = service.totals()?;
    let bytes: i128 = totals.values().map(|(_, bytes)| bytes).sum();
    ensure!(
        bytes == i128::from(ledger.bytes),
        "{bytes}: {}",
        ledger.bytes
    );
    Ok(cost)
}

/// A hundred ports, one zone each, of so many records and at least one window.
fn ledger(records: u64) -> Result<Ledger> {
    let shelf = Shelf::new("sinks")?;
    let mut host = Metering::new(&shelf, "par1", 1, MARCH_NS[0])?;
    let ports: Vec<usize> = (0..100_u32)
        .map(|port| host.port(&format!("port{port}"), 1 + port % TENANTS))
        .collect();
    while host.size() < records {
        host.pass();
        for port in &ports {
            for direction in 0..2 {
                host.carry(*port, direction, 4, 60_000 + *port as u64);
            }
        }
        host.cut(None)?;
    }
    Ok(Ledger {
        bytes: host.carried.values().sum(),
        host,
        shelf,
        is_many: records >= 50_000,
    })
}

/// `OCTROI_SINK_RECORDS`: how many.
#[test]
fn every_sink_has_a_ledger_whole_and_says_how_fast() -> Result<()> {
    if !ready("every_sink_has_a_ledger_whole_and_says_how_fast") {
        return Ok(());
    }
    let asked = std::env::var("OCTROI_SINK_RECORDS").ok();
    let asked = asked.and_then(|text| text.parse().ok());
    if server::engine().is_none() {
        println!("SKIPPED: every_sink_has_a_ledger_whole_and_says_how_fast: there is no chdb");
        return Ok(());
    }
    let ledger = ledger(asked.unwrap_or(4_000))?;
    let records = ledger.host.size();
    for (sink, to, way) in SINKS {
        let cost = way(&ledger).context(sink)?;
        let took = cost.took.as_secs_f64();
        let line = Line {
            sink,
            to,
            records,
            ledger_bytes: ledger.bytes,
            seconds: (took * 100.0).round() / 100.0,
            records_per_second: (records as f64 / took.max(0.001)) as u64,
            octroi_cpu_seconds: (cost.own * 100.0).round() / 100.0,
            servers_cpu_seconds: (cost.servers * 100.0).round() / 100.0,
        };
        println!("SINK: {}", serde_json::to_string(&line)?);
    }
    println!("CASES: sinks that had a ledger whole: {}", SINKS.len());
    Ok(())
}
