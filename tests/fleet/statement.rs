//! A tenant on many hosts: the statement from the store is, byte for byte, the one from the hosts' ledgers, and both are what
//! a reader in Python makes of the ledgers, who knows `docs/METERING.md` alone.

use crate::{
    AGAIN, PATIENCE,
    cluster::Cluster,
    database::Database,
    intake,
    ledgers::{ACME, BETA, CORRECTED, DAY_NS, Fleet, MARCH_NS, Metering, fleet},
    postgres, ready,
    support::octroi,
    target,
};
use anyhow::{Context as _, Result, ensure};
use metering::sink::{Courier, Sink, SinkError, nats::Nats};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// Delivers a ledger as the daemon does, to its end; `meanwhile`: whoever confirms.
pub fn deliver<S: Sink>(
    courier: &mut Courier<S>,
    host: &Metering,
    mut meanwhile: impl FnMut() -> Result<()>,
) -> Result<()> {
    let begun = Instant::now();
    while courier.progress().confirmed < host.size() {
        courier.step(Instant::now());
        meanwhile()?;
        let progress = courier.progress();
        ensure!(begun.elapsed() < PATIENCE, "it stays behind: {progress:?}");
        ensure!(!progress.fork, "{progress:?}");
    }
    Ok(())
}

/// The daemon's courier for a ledger.
pub fn courier<S: Sink>(sink: S, host: &Metering) -> Courier<S> {
    Courier::new(sink, &host.path, &host.host, 1)
}

/// Through a cluster, by what `octroi run` and `octroi store` are made of.
pub fn deliver_by_cluster(
    cluster: &Cluster,
    database: &Database,
    hosts: &[Metering],
) -> Result<()> {
    let mut store = intake(cluster, database, "store");
    for host in hosts {
        let mut courier = courier(Nats::new(target(cluster, cluster.url())), host);
        deliver(&mut courier, host, || match store.step() {
            Ok(done) => {
                ensure!(done.said.is_empty(), "{done:?}");
                Ok(())
            }
            Err(SinkError::Unavailable(_)) => {
                std::thread::sleep(AGAIN / 20);
                Ok(())
            }
            Err(error) => Err(error.into()),
        })?;
    }
    Ok(())
}

pub fn run(arguments: &[&str], from: &[String]) -> Result<(bool, String, String)> {
    let output = Command::new(octroi()).args(arguments).args(from).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((
        output.status.success(),
        text(&output.stdout),
        text(&output.stderr),
    ))
}

pub fn statement(tenant: u32, month: &str, from: &[String]) -> Result<String> {
    let tenant = tenant.to_string();
    let arguments = [
        "statement",
        "--tenant",
        &tenant,
        "--month",
        month,
        "--format",
        "json",
    ];
    let (fine, out, err) = run(&arguments, from)?;
    ensure!(fine, "{from:?}: {err}");
    Ok(out)
}

pub fn of_ledgers(hosts: &[&Metering]) -> Vec<String> {
    let paths = hosts.iter().map(|host| host.path.display().to_string());
    paths.flat_map(|path| ["--ledger".into(), path]).collect()
}

pub fn of_store(database: &Database) -> Vec<String> {
    vec!["--store".into(), database.url()]
}

/// What the reader in Python makes of ledgers, from one time to another.
pub fn by_hand(tenant: u32, period: [i64; 2], ledgers: &[PathBuf]) -> Result<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify/statement.py");
    let output = Command::new("python3")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(script)
        .arg(tenant.to_string())
        .args(period.map(|end| end.to_string()))
        .args(ledgers)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).context(said)
}

/// Holds a statement against what was reckoned elsewhere. Returns the records behind it.
pub fn is_reckoned(statement: &Value, hand: &Value) -> Result<u64> {
    for line in statement["directions"].as_array().context("lines")? {
        let way = if line["direction"] == "from" {
            "0"
        } else {
            "1"
        };
        ensure!(line["l2_bytes"] == hand["bytes"][way], "{line}: {hand}");
        ensure!(line["packets"] == hand["packets"][way], "{line}: {hand}");
    }
    let p95 = &statement["percentiles"];
    ensure!(p95["bytes"] == hand["p95"], "{p95}: {hand}");
    ensure!(p95["slots"].to_string() == hand["slots"].as_str().context("slots")?);
    for (left_out, by_hand) in p95["left_out"]
        .as_array()
        .into_iter()
        .flatten()
        .zip(hand["left_out"].as_array().into_iter().flatten())
    {
        ensure!(left_out.to_string() == by_hand.as_str().context("slots")?);
    }
    Ok(hand["records"].as_u64().unwrap_or_default())
}

/// The lines of what is not known: host, beginning, end, why.
fn missing(statement: &Value) -> Vec<[String; 4]> {
    let lines = statement["missing"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    lines
        .iter()
        .map(|line| ["host", "from", "to", "why"].map(|key| text(&line[key])))
        .collect()
}

fn time(utc_ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(utc_ns))
        .map_or_else(|error| error.to_string(), |time| time.to_string())
}

/// One host silent for part of the period, a NODATA, a correction, late windows, one of three slots; by a `postgres` sink and
/// through a cluster.
#[test]
fn a_statement_from_the_store_is_the_one_from_the_ledgers_to_the_byte() -> Result<()> {
    if !ready("a_statement_from_the_store_is_the_one_from_the_ledgers_to_the_byte") {
        return Ok(());
    }
    let fleet = fleet("statement")?;
    let all: Vec<&Metering> = fleet.hosts.iter().collect();
    let direct = Database::new("statement-direct")?;
    for host in &fleet.hosts {
        deliver(&mut courier(postgres(&direct), host), host, || Ok(()))?;
    }
    let cluster = Cluster::alone("statement", "")?;
    let by_cluster = Database::new("statement-cluster")?;
    deliver_by_cluster(&cluster, &by_cluster, &fleet.hosts)?;
    // Everything once more, to a store that does not know the consumer: it is there, totals too.
    let mut again = intake(&cluster, &by_cluster, "another");
    let done = crate::at_last(|| again.step())?;
    ensure!(
        done.again == done.messages && done.again > 5 && done.records == 0 && done.forks == 0,
        "{done:?}"
    );

    let mut records = 0;
    for (tenant, hosts, march) in [
        (ACME, &all[..], fleet.march[0]),
        (BETA, &all[..1], fleet.march[1]),
    ] {
        let from_ledgers = statement(tenant, "2026-03", &of_ledgers(hosts))?;
        for database in [&direct, &by_cluster] {
            let from_store = statement(tenant, "2026-03", &of_store(database))?;
            ensure!(
                from_store == from_ledgers,
                "tenant {tenant}:\n{from_store}\n{from_ledgers}"
            );
        }
        let read: Value = serde_json::from_str(&from_ledgers)?;
        let paths: Vec<PathBuf> = hosts.iter().map(|host| host.path.clone()).collect();
        let hand = by_hand(tenant, MARCH_NS, &paths)?;
        records += is_reckoned(&read, &hand)?;
        // And what the ports were made to carry.
        let corrected = if tenant == ACME { CORRECTED } else { 0 };
        let sum = march[0] + march[1];
        let billed = sum.checked_add_signed(corrected).context("bytes")?;
        ensure!(
            read["total"]["l2_bytes"].as_str() == Some(&*billed.to_string()),
            "{billed}: {}",
            read["total"]
        );
        ensure!(
            read["percentiles"]["bytes"][0] != "0",
            "{}",
            read["percentiles"]
        );
        let heads = read["ledgers"].as_array().context("ledgers")?;
        ensure!(heads.len() == hosts.len(), "{heads:?}");
        for host in hosts {
            // In the order of ids, which are random: they were begun in the same moment.
            let line = heads.iter().find(|line| line["host"] == host.host.as_str());
            let line = line.with_context(|| format!("{}: {heads:?}", host.host))?;
            let head = line["head"].as_str().context("a head")?;
            ensure!(head.contains(&format!("octroi/{}/", host.host)), "{head}");
            ensure!(line["records"] == host.size(), "{line}");
        }
        told(&read, &hand, tenant)?;
    }
    expected(&fleet, &direct)?;
    others_of_the_store(&fleet, &direct)?;
    holes(&direct)?;
    println!("CASES: statements of a store that are the ledgers' to the byte: 4");
    println!("CASES: records behind them, reckoned again in Python: {records}");
    Ok(())
}

/// What is told beside the numbers: who was silent since when, what was not known, late and corrected.
fn told(read: &Value, hand: &Value, tenant: u32) -> Result<()> {
    let lines = missing(read);
    if tenant == BETA {
        ensure!(lines.is_empty(), "{lines:?}");
        return Ok(());
    }
    let silent = MARCH_NS[1] - 2 * DAY_NS + 400 * metering::usage::SLOT_NS;
    let of_silent = [
        "par2".into(),
        time(silent),
        time(MARCH_NS[1]),
        "no record yet".into(),
    ];
    ensure!(lines.contains(&of_silent), "{lines:?}");
    ensure!(hand["silent"]["par2"] == silent, "{hand}");
    let unknown: Vec<_> = lines.iter().filter(|line| line[0] == "par3").collect();
    // Both directions of one window.
    ensure!(unknown.len() == 2, "{lines:?}");
    let in_python = hand["missing"].as_array().context("lines")?;
    ensure!(
        in_python.len() == 2 && lines.len() == 3,
        "{hand}: {lines:?}"
    );
    for (line, hand) in unknown.iter().zip(in_python) {
        let ends = [&hand[1], &hand[2]].map(|end| time(end.as_i64().unwrap_or_default()));
        ensure!(
            [&line[1], &line[2]] == [&ends[0], &ends[1]],
            "{line:?}: {hand}"
        );
    }
    ensure!(
        read["percentiles"]["left_out"][2] == 1,
        "{}",
        read["percentiles"]
    );
    let corrections = read["corrections"].as_array().context("lines")?;
    let late = corrections
        .iter()
        .filter(|line| line["reason"] == "")
        .count();
    ensure!(
        late > 10 && corrections.len() == late + 1,
        "{corrections:?}"
    );
    ensure!(
        !read["spread"].as_array().context("lines")?.is_empty(),
        "{read}"
    );
    ensure!(
        !read["drops"].as_array().context("lines")?.is_empty(),
        "{read}"
    );
    ensure!(read["settled"] == false, "{read}");
    Ok(())
}

/// A host that somebody wrote down in the store and that never sent anything is named, as one of `--host` is.
fn expected(fleet: &Fleet, database: &Database) -> Result<()> {
    let all: Vec<&Metering> = fleet.hosts.iter().collect();
    let mut from = of_ledgers(&all);
    from.extend(["--host".into(), "par9".into()]);
    let from_ledgers = statement(ACME, "2026-03", &from)?;
    database.ask("INSERT INTO octroi.expected (tenant, host) VALUES (7, 'par9'), (7, 'par1'), (8, 'elsewhere')")?;
    let from_store = statement(ACME, "2026-03", &of_store(database))?;
    ensure!(from_store == from_ledgers, "{from_store}\n{from_ledgers}");
    let lines = missing(&serde_json::from_str(&from_store)?);
    ensure!(
        lines
            .iter()
            .any(|line| line[0] == "par9" && line[3] == "no ledger of this host was given"),
        "{lines:?}"
    );
    database.ask("DELETE FROM octroi.expected")?;
    Ok(())
}

/// `octroi usage` and `octroi explain` of the store are those of the ledgers, too; a statement is not issued there.
fn others_of_the_store(fleet: &Fleet, database: &Database) -> Result<()> {
    let all: Vec<&Metering> = fleet.hosts.iter().collect();
    let (ledgers, store) = (of_ledgers(&all), of_store(database));
    for arguments in [
        &[
            "usage",
            "--month",
            "2026-03",
            "--by",
            "host,port,day,zone",
            "--format",
            "csv",
        ][..],
        &[
            "usage", "--tenant", "7", "--month", "2026-03", "--p95", "--format", "csv",
        ],
        &["usage", "--tenant", "8", "--by", "port", "--format", "csv"],
        &[
            "usage",
            "--tenant",
            "7",
            "--month",
            "2026-04",
            "--p95",
            "--by",
            "direction",
            "--format",
            "csv",
        ],
    ] {
        let of_ledgers = run(
            arguments,
            if arguments[2] == "8" {
                &ledgers[..2]
            } else {
                &ledgers
            },
        )?;
        let of_store = run(arguments, &store)?;
        ensure!(
            of_ledgers.0 && of_store.0,
            "{arguments:?}: {of_ledgers:?}\n{of_store:?}"
        );
        ensure!(
            of_ledgers.1 == of_store.1,
            "{arguments:?}: {of_ledgers:?}\n{of_store:?}"
        );
        ensure!(of_ledgers.1.lines().count() > 1, "{of_ledgers:?}");
    }
    // Nothing of par2 is in April: its ports stand, and it is named.
    let from_ledgers = statement(ACME, "2026-04", &ledgers)?;
    ensure!(from_ledgers == statement(ACME, "2026-04", &store)?);
    let lines = missing(&serde_json::from_str(&from_ledgers)?);
    ensure!(lines.iter().any(|line| line[0] == "par2"), "{lines:?}");
    let issue = [
        "statement",
        "--tenant",
        "7",
        "--month",
        "2026-03",
        "--issue",
    ];
    let (fine, _, err) = run(&issue, &store)?;
    ensure!(!fine && err.contains("--issue"), "{err}");
    let (fine, _, err) = run(
        &["statement", "--tenant", "99", "--month", "2026-03"],
        &store,
    )?;
    ensure!(
        !fine && err.contains("it has no record of tenant 99"),
        "{err}"
    );
    Ok(())
}

/// A window that the store lacks is named, and numbers that do not add up are none. What is counted here is the test: that
/// what is compared above can be wrong.
fn holes(database: &Database) -> Result<()> {
    let window = "host = 'par1' AND tenant = 7 AND window_id = 280";
    let total = database.ask(&format!(
        "SELECT window_start, window_end FROM octroi.total WHERE {window} AND direction = 0"
    ))?;
    let (start, end) = total.split_once('|').context("a window")?;
    database.ask(&format!("DELETE FROM octroi.total WHERE {window}"))?;
    let read = run(
        &["statement", "--tenant", "7", "--month", "2026-03"],
        &of_store(database),
    )?;
    ensure!(
        !read.0 && read.2.contains("do not add up to its total"),
        "{read:?}"
    );
    database.ask(&format!(
        "DELETE FROM octroi.record WHERE {window} AND kind = 1"
    ))?;
    let lines = missing(&serde_json::from_str(&statement(
        ACME,
        "2026-03",
        &of_store(database),
    )?)?);
    let hole = [
        "par1".into(),
        time(start.parse()?),
        time(end.parse()?),
        "a window has no record".into(),
    ];
    ensure!(
        lines.iter().filter(|line| **line == hole).count() == 2,
        "{lines:?}"
    );
    // What was deleted on purpose is said to be, and no 0 is made of it.
    database.ask("UPDATE octroi.ledger SET totals_from = next_seq / 2 WHERE host = 'par1'")?;
    let read = run(
        &["statement", "--tenant", "7", "--month", "2026-03"],
        &of_store(database),
    )?;
    ensure!(
        !read.0 && read.2.contains("missing windows cannot be told"),
        "{read:?}"
    );
    Ok(())
}
