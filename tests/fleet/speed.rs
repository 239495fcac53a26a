//! How fast records go through a cluster into a store, and what it costs: of this process, which is the host's sink and the
//! store's end, of the three servers, and of the database.

use crate::{
    cluster::Cluster, database::Database, exactly, intake, ready, send, story::Story, take, target,
};
use anyhow::Result;
use metering::sink::nats::Nats;
use std::{fs, time::Instant};

/// CPU time of a process and its children that ended, ticks of 10 ms.
fn ticks(pid: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may have spaces.
    let rest = stat.rsplit_once(')').map_or("", |parts| parts.1);
    let field = |at: usize| {
        rest.split_whitespace()
            .nth(at)
            .and_then(|word| word.parse().ok())
    };
    let fields = (11..15).map(|at| field(at).unwrap_or(0_u64));
    fields.sum()
}

/// CPU time of all processes of this name, ticks.
fn ticks_of(name: &str) -> u64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let named = pids.filter(|pid| {
        let said = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        said.trim() == name
    });
    named.map(|pid| ticks(&pid)).sum()
}

/// `OCTROI_FLEET_RECORDS`: how many records.
#[test]
fn records_per_second_to_a_cluster_and_from_it_into_a_store() -> Result<()> {
    if !ready("records_per_second_to_a_cluster_and_from_it_into_a_store") {
        return Ok(());
    }
    let asked = std::env::var("OCTROI_FLEET_RECORDS").ok();
    let asked = asked.and_then(|text| text.parse().ok());
    // A number from a test that others run beside says little: one server will do.
    let (records, cluster) = match asked {
        Some(records) => (records, Cluster::new("speed")?),
        None => (8_000, Cluster::alone("speed", "")?),
    };
    let database = Database::new("fleet-speed")?;
    let story = Story::new(1, "a", records);
    let mut sink = Nats::new(target(&cluster, cluster.url()));
    let used = || [ticks("self"), ticks_of("nats-server"), ticks_of("postgres")];
    let (begun, before) = (Instant::now(), used());
    send(&mut sink, &story, records, 400)?;
    let (sent, between) = (begun.elapsed(), used());
    let mut intake = intake(&cluster, &database, "store");
    let begun = Instant::now();
    take(&mut intake, &database, &story, records)?;
    let (taken, after) = (begun.elapsed(), used());
    exactly(&database, &[(&story, records)])?;
    let info = cluster.order("$JS.API.STREAM.INFO.octroi", "")?;
    let stream_bytes = info["state"]["bytes"].as_u64().unwrap_or_default();
    let table = "SELECT pg_total_relation_size('octroi.record')";
    let store_bytes: u64 = database.ask(table)?.parse()?;
    let per_second =
        |time: std::time::Duration| u128::from(records) * 1_000_000 / time.as_micros().max(1);
    // Ticks of 10 ms for so many records: µs for each.
    let cost = |from: [u64; 3], to: [u64; 3]| {
        [0, 1, 2].map(|at| (to[at].saturating_sub(from[at])) * 10_000 / records.max(1))
    };
    let report = serde_json::json!({
        "records": records,
        "servers": cluster.copies(),
        "stream_bytes_per_record": stream_bytes / records.max(1),
        "store_bytes_per_record": store_bytes / records.max(1),
        "to_cluster_records_per_second": per_second(sent),
        "to_cluster_cpu_us_per_record": cost(before, between),
        "into_store_records_per_second": per_second(taken),
        "into_store_cpu_us_per_record": cost(between, after),
        "cpu_of": ["octroi", "nats-servers", "postgres"],
    });
    println!("FLEET: {report}");
    Ok(())
}
