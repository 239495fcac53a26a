//! The fleet as it runs: three hosts, a cluster, a store.

use crate::{
    PATIENCE,
    cluster::Cluster,
    database::Database,
    hosts::{self, Host, Store},
    ready,
    stated::{self, Stated},
    support::{alone, can_run, octroi},
    way::Broken,
};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// What is printed, in this order.
#[derive(Serialize)]
struct Report {
    difference_bytes: u64,
    difference_packets: u64,
    missing_records: u64,
    duplicate_records: u64,
    forks: u64,
    /// From the store, from the ledgers and in Python: the same bytes.
    statements: Stated,
    hosts: usize,
    ledger_records: u64,
    ledger_bytes: u64,
    sent_bytes: u64,
    compared_rows: u64,
    stream_messages: u64,
    stream_bytes: u64,
    /// As PostgreSQL prints it: records, bytes of their table and its indexes.
    store_records_and_bytes: String,
    connections_broken: u64,
    killed: [&'static str; 3],
    seconds: u64,
}

/// Three daemons on hosts of their own, real traffic, and in the middle of it the cluster's leader, one host's daemon and the
/// store are killed. `OCTROI_FLEET_SECONDS`: how long traffic flows before and after.
#[test]
fn three_hosts_a_cluster_and_a_store_agree_to_the_byte_when_each_is_killed_once() -> Result<()> {
    const TEST: &str =
        "three_hosts_a_cluster_and_a_store_agree_to_the_byte_when_each_is_killed_once";
    let _alone = alone();
    if !ready(TEST) || !can_run(TEST) {
        return Ok(());
    }
    let seconds = std::env::var("OCTROI_FLEET_SECONDS");
    let seconds = seconds.ok().and_then(|text| text.parse().ok());
    let pause = Duration::from_secs(seconds.unwrap_or(2));
    let begun = Instant::now();
    let database = Database::new("fleet")?;
    let mut cluster = Cluster::new("hosts")?;
    let broken = Broken::default();
    let mut hosts = ["h1", "h2", "h3"]
        .iter()
        .zip(1..)
        .map(|(name, seed)| Host::new(name, &cluster, seed, &broken))
        .collect::<Result<Vec<_>>>()?;
    let mut store = Store::start(&cluster, &database)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for host in &hosts {
        threads.extend(host.traffic(&stop)?);
    }
    std::thread::sleep(pause);
    // In the middle of it, one after the other.
    let leader = cluster.leader("octroi")?;
    cluster.kill(leader)?;
    hosts[1].site.kill()?;
    std::thread::sleep(pause);
    store.kill()?;
    hosts[1].site.start(octroi())?;
    cluster.start(leader)?;
    std::thread::sleep(pause / 2);
    let mut store = Store::start(&cluster, &database)?;
    std::thread::sleep(pause);
    stop.store(true, Relaxed);
    for thread in threads {
        let ended = thread.join();
        ended.map_err(|_| anyhow::anyhow!("a sender panicked"))??;
    }
    let mut sent = 0;
    for host in &mut hosts {
        sent += host.conserved()?;
        // The last window is written when the daemon ends: it is delivered by the next.
        host.site.start(octroi())?;
        host.caught_up(PATIENCE)?;
    }
    // A window that is cut now is delivered a moment later.
    let looked = Instant::now();
    let compared = loop {
        let compared = hosts::compare(&hosts, &database)?;
        if compared.missing == 0 || looked.elapsed() > Duration::from_secs(5) {
            break compared;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let stated = stated::check(&mut hosts, &cluster, &database)?;
    store.kill()?;
    let forks = database.ask("SELECT count(*) FROM octroi.fork")?;
    let info = cluster.order("$JS.API.STREAM.INFO.octroi", "")?;
    let size = database
        .ask("SELECT count(*), pg_total_relation_size('octroi.record') FROM octroi.record")?;
    let state = &info["state"];
    let report = Report {
        difference_bytes: compared.difference_bytes,
        difference_packets: compared.difference_packets,
        missing_records: compared.missing,
        duplicate_records: compared.duplicates,
        forks: forks.parse()?,
        statements: stated,
        hosts: hosts.len(),
        ledger_records: compared.records,
        ledger_bytes: compared.bytes,
        sent_bytes: sent,
        compared_rows: compared.rows,
        stream_messages: state["messages"].as_u64().unwrap_or_default(),
        stream_bytes: state["bytes"].as_u64().unwrap_or_default(),
        store_records_and_bytes: size,
        connections_broken: broken.load(Relaxed),
        killed: ["the stream's leader", "the daemon of h2", "the store"],
        seconds: begun.elapsed().as_secs(),
    };
    let report = serde_json::to_string(&report)?;
    println!("FLEET: {report}");
    let wrong = compared.difference_bytes + compared.difference_packets + compared.missing;
    ensure!(wrong + compared.duplicates == 0 && forks == "0", "{report}");
    ensure!(compared.bytes >= sent && sent > 0, "{report}");
    println!(
        "CASES: hosts of a fleet that agree with the store to the byte: {}",
        hosts.len()
    );
    println!(
        "CASES: records of three hosts in one store, each once: {}",
        compared.records
    );
    Ok(())
}
