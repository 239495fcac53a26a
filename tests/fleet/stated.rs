//! What tenants of a fleet that ran are told: the statement from the store is the one from the three ledgers, and both are
//! what Python makes of these.

use crate::{
    PATIENCE,
    cluster::Cluster,
    database::Database,
    hosts::{Host, TENANTS},
    statement::{by_hand, is_reckoned, run, statement},
    target,
};
use anyhow::{Context as _, Result, ensure};
use jiff::{Timestamp, Unit};
use metering::{
    sink::{Courier, Feed, nats::Nats},
    usage::SLOT_NS,
};
use serde::Serialize;
use serde_json::Value;
use std::{path::PathBuf, time::Instant};

/// What was compared of statements.
#[derive(Debug, Default, Serialize)]
pub struct Stated {
    tenants: usize,
    ledgers: usize,
    /// Records of the tenants, reckoned again.
    records: u64,
    /// Both directions of all tenants.
    bytes: u64,
    /// The larger of both directions' 95th percentiles, over the slots that were met.
    p95_bytes: Vec<u64>,
}

/// Ends the daemons, brings what they wrote last to the store, and compares.
pub fn check(hosts: &mut [Host], cluster: &Cluster, database: &Database) -> Result<Stated> {
    let mut ledgers = Vec::new();
    for host in hosts {
        host.site.stop();
        let feed = Feed::open(&host.ledger)?;
        let sink = Nats::new(target(cluster, cluster.url()));
        let mut courier = Courier::new(sink, &host.ledger, feed.host(), 1);
        let begun = Instant::now();
        while courier.progress().confirmed < feed.size()? {
            let wait = courier.step(Instant::now());
            std::thread::sleep(wait.min(PATIENCE / 500));
            let progress = courier.progress();
            ensure!(begun.elapsed() < PATIENCE, "it stays behind: {progress:?}");
        }
        ledgers.push(host.ledger.clone());
    }
    let mut stated = Stated {
        ledgers: ledgers.len(),
        ..Stated::default()
    };
    for tenant in 1..=TENANTS.len() as u32 {
        one(tenant, &ledgers, database, &mut stated)?;
    }
    Ok(stated)
}

fn one(tenant: u32, ledgers: &[PathBuf], database: &Database, stated: &mut Stated) -> Result<()> {
    let store = ["--store".to_owned(), database.url()];
    let paths = ledgers.iter().map(|path| path.display().to_string());
    let files: Vec<String> = paths.flat_map(|path| ["--ledger".into(), path]).collect();
    let now = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let month = now.strftime("%Y-%m").to_string();
    let from_store = statement(tenant, &month, &store)?;
    ensure!(
        from_store == statement(tenant, &month, &files)?,
        "tenant {tenant}: {from_store}"
    );
    let first = now.date().first_of_month();
    let ends = [first, first.checked_add(jiff::Span::new().months(1))?];
    let ends = ends.map(|day| Ok(day.to_zoned(now.time_zone().clone())?.timestamp()));
    let [from, to] = ends.map(|end: Result<Timestamp>| end.map(nanos));
    let read: Value = serde_json::from_str(&from_store)?;
    let hand = by_hand(tenant, [from?, to?], ledgers)?;
    stated.records += is_reckoned(&read, &hand)?;
    let heads = read["ledgers"].as_array().context("ledgers")?;
    ensure!(heads.len() == ledgers.len(), "{heads:?}");
    ensure!(
        heads.iter().all(|line| line["head"].is_string()),
        "{heads:?}"
    );
    let bytes = read["total"]["l2_bytes"].as_str().context("bytes")?;
    stated.bytes += bytes.parse::<u64>()?;
    // A minute of a month is in no percentile of it: the same over the last three slots.
    let last = nanos(now.round(Unit::Minute)?.timestamp()).div_euclid(SLOT_NS) + 1;
    let period = [(last - 3) * SLOT_NS, last * SLOT_NS];
    let hand = by_hand(tenant, period, ledgers)?;
    let ends = period.map(|end| Timestamp::from_nanosecond(i128::from(end)));
    let [from, to] = ends.map(|end| end.map(|end| end.to_string()));
    let (tenant, from, to) = (tenant.to_string(), from?, to?);
    let arguments = [
        "usage",
        "--tenant",
        &tenant,
        "--from",
        &from,
        "--to",
        &to,
        "--p95",
        "--by",
        "direction",
        "--format",
        "csv",
    ];
    let (fine, of_store, err) = run(&arguments, &store)?;
    ensure!(fine, "{err}");
    ensure!(of_store == run(&arguments, &files)?.1, "{of_store}");
    let mut table = csv::Reader::from_reader(of_store.as_bytes());
    let names = table.headers()?.clone();
    let row = table.records().next().context("a row")??;
    let of = |name: &str| {
        let at = names.iter().position(|known| known == name);
        at.and_then(|at| row.get(at)).context("a column")
    };
    let columns = [
        "p95_from_bytes",
        "p95_to_bytes",
        "max_of_p95_bytes",
        "p95_of_max_bytes",
    ];
    for (column, by_hand) in columns.iter().zip(hand["p95"].as_array().context("p95")?) {
        ensure!(
            of(column)? == by_hand.as_str().unwrap_or_default(),
            "{hand}: {of_store}"
        );
    }
    // A run of a minute may be over before a slot is: then there is none.
    let most = of("max_of_p95_bytes")?.parse();
    stated.p95_bytes.push(most.unwrap_or_default());
    stated.tenants += 1;
    Ok(())
}

fn nanos(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}
