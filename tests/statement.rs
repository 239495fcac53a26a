//! The end of a month, and an hour that is settled, with the daemon running: a statement is issued, a record
//! corrected, a version reissued, every number led back to its records and held against what the tenant's own
//! interface has sent. Then the wall clock is set back, and what is late stays out of what was told.
//!
//! The daemon has a wall clock of its own (`own_clock`), so that a month ends when the test wants it to.

#[path = "meter/bill.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod bill;
#[path = "statement/host.rs"]
mod host;
mod own_clock;
#[path = "meter/site.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod site;
mod support;

use anyhow::{Context as _, Result, bail, ensure};
use bill::Bill;
use host::{Host, Said};
use metering::{
    ledger::keys,
    record::{Flags, Kind, Record},
};
use serde_json::Value;
use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};
use support::{alone, octroi};

const SECOND: i64 = 1_000_000_000;
/// 2026-12-01 00:00:00 UTC.
const DECEMBER: i64 = 1_796_083_200 * SECOND;
/// 2026-11-24 10:00:00 UTC.
const TEN: i64 = 1_795_514_400 * SECOND;

fn json(said: &Said) -> Result<Value> {
    serde_json::from_str(&said.out).with_context(|| said.out.clone())
}

/// A number that is written as its digits.
fn number(value: &Value) -> Result<i64> {
    let digits = value
        .as_str()
        .with_context(|| format!("{value} is no number"))?;
    Ok(digits.parse()?)
}

/// Of the lines of one direction, the bytes.
fn bytes_of(statement: &Value, lines: &str, direction: &str) -> Result<i64> {
    let lines = statement[lines].as_array().context("no lines")?;
    lines
        .iter()
        .filter(|line| line["direction"] == direction)
        .map(|line| number(&line["l2_bytes"]))
        .sum()
}

/// SHA-256 as another program has it.
fn sha256(text: &str) -> Result<String> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    input.write_all(text.as_bytes())?;
    drop(input);
    let said = String::from_utf8(child.wait_with_output()?.stdout)?;
    Ok(said
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}

fn records(host: &Host) -> Result<Vec<Record>> {
    Ok(Bill::read(&host.metered.ledger)?.records)
}

#[test]
fn a_statement_is_what_was_sent_and_is_corrected_reissued_and_explained() -> Result<()> {
    const TEST: &str = "a_statement_is_what_was_sent_and_is_corrected_reissued_and_explained";
    const LESS: i64 = 1_000;
    let _alone = alone();
    let Some(host) = Host::new(TEST, "1s", DECEMBER - 60 * SECOND)? else {
        return Ok(());
    };
    let run_dir = host.metered.site.run_dir().display().to_string();
    let month = ["--tenant", "alice", "--month", "2026-11"];
    let issue = [
        &month[..],
        &["--format", "json", "--issue", "--run-dir", &run_dir],
    ]
    .concat();
    let [packets, sent, received_packets, received] = host.traffic(Duration::from_secs(2))?;
    ensure!(
        packets > 100 && received_packets > 100,
        "hardly anything was carried"
    );
    let early = host.run(&["statement"], &issue)?;
    ensure!(
        !early.fine && early.err.contains("is not over in UTC"),
        "{}",
        early.err
    );
    let provisional = json(&host.fine(
        &["statement"],
        &[&month[..], &["--format", "json"]].concat(),
    )?)?;
    ensure!(provisional["issue"].is_null() && provisional["settled"] == false);

    // A correction through the daemon, while the month is open.
    let subject = records(&host)?;
    let subject = subject
        .iter()
        .find(|one| {
            one.kind == Kind::Meter
                && (one.tenant, one.direction) == (1, 0)
                && one.zone.is_some()
                && one
                    .counted()
                    .is_some_and(|counted| counted.l2_bytes > LESS as u64)
        })
        .context("no record to correct")?;
    let seq = subject.seq.to_string();
    let correct = [
        "--run-dir",
        &run_dir,
        "--seq",
        &seq,
        "--l2=-1000",
        "--reason",
        "counted twice",
    ];
    let said = host.fine(&["correct"], &correct)?;
    ensure!(
        said.out.contains(&format!("corrects record {seq}")),
        "{}",
        said.out
    );
    ensure!(
        host.clock.now() < DECEMBER,
        "this machine is too slow: the month is over"
    );

    // The month is over: it is issued, by the daemon, and it is what was sent.
    host.wait_until(DECEMBER + SECOND)?;
    let first = host.fine(&["statement"], &issue)?;
    ensure!(
        first.err.contains("statement 1 version 1 is record "),
        "{}",
        first.err
    );
    let told = json(&first)?;
    ensure!(
        told["settled"] == true && told["missing"] == serde_json::json!([]),
        "{told}"
    );
    // What a neighbour's interface says by itself before it is blessed goes nowhere.
    let drops = told["drops"].as_array().context("no drops")?;
    let by_itself = |drop: &serde_json::Value| drop["reason"] == "unblessed_source";
    ensure!(drops.iter().all(by_itself), "{told}");
    for (lines, name) in [
        ("directions", "direction"),
        ("zones", "zone"),
        ("ports", "port"),
        ("classes", "class"),
    ] {
        ensure!(
            bytes_of(&told, lines, "from")? == sent as i64 - LESS,
            "by {name}, from: {told}\nsent {sent}"
        );
        ensure!(
            bytes_of(&told, lines, "to")? == received as i64,
            "by {name}, to: {told}\nreceived {received}"
        );
    }
    let total = number(&told["total"]["l2_bytes"])?;
    ensure!(total == (sent + received) as i64 - LESS, "{total}");
    ensure!(number(&told["total"]["packets"])? == (packets + received_packets) as i64);
    ensure!(
        told["corrections"][0]["reason"] == "counted twice",
        "{told}"
    );

    // The leaf has its hash.
    let statement = |records: &[Record], version| {
        let mut found = records
            .iter()
            .filter_map(|one| Some((one.seq, one.statement?)));
        found.find(|(_, told)| told.version == version)
    };
    let all = records(&host)?;
    let (at, leaf) = statement(&all, 1).context("no STATEMENT")?;
    ensure!(
        first.err.contains(&format!("is record {at}")),
        "{}",
        first.err
    );
    ensure!(metering::note::hex(&leaf.digest) == sha256(&first.out)?);
    ensure!((leaf.number, leaf.l2_bytes) == (1, total));
    let shown = host.fine(
        &["statement"],
        &[&month[..], &["--format", "json"]].concat(),
    )?;
    ensure!(shown.out == first.out, "it is not what was issued");
    let again = host.run(&["statement"], &issue)?;
    ensure!(
        !again.fine && again.err.contains("nothing has changed"),
        "{}",
        again.err
    );

    // What is corrected now is billed in the month that is open, and November stays as it is.
    let correct = [
        "--run-dir",
        &run_dir,
        "--seq",
        &seq,
        "--l2=-1",
        "--reason",
        "later",
    ];
    host.fine(&["correct"], &correct)?;
    let shown = host.fine(
        &["statement"],
        &[&month[..], &["--format", "json"]].concat(),
    )?;
    ensure!(shown.out == first.out, "a settled month has changed");
    let december = [
        "--tenant", "alice", "--month", "2026-12", "--format", "json",
    ];
    let open = json(&host.fine(&["statement"], &december)?)?;
    ensure!(open["corrections"][0]["reason"] == "later", "{open}");

    // The operator charges it otherwise: another version, with the same number and the same bytes.
    let config = host.metered.site.config_path();
    let text = fs::read_to_string(&config)?;
    fs::write(
        &config,
        text.replace("id = 1\n", "id = 1\ncharge_class = \"credit\"\n"),
    )?;
    let second = host.fine(&["statement"], &issue)?;
    ensure!(
        second.err.contains("statement 1 version 2 is record "),
        "{}",
        second.err
    );
    let told = json(&second)?;
    ensure!(
        told["issue"]["version"] == 2 && told["classes"][0]["of"] == "credit",
        "{told}"
    );
    ensure!(number(&told["total"]["l2_bytes"])? == total);
    let all = records(&host)?;
    let (_, leaf) = statement(&all, 2).context("no second STATEMENT")?;
    ensure!(metering::note::hex(&leaf.digest) == sha256(&second.out)?);
    ensure!(statement(&all, 1).is_some(), "the first version is gone");

    explained(&host, &month, &all, total)?;
    println!(
        "CASES: bytes of a statement that was issued by a daemon, and of the interface: {total}"
    );
    Ok(())
}

/// From the statement's number to its records: all of them, and they add up.
fn explained(host: &Host, month: &[&str], all: &[Record], total: i64) -> Result<()> {
    let said = host.fine(&["explain"], &[month, &["--format", "json"]].concat())?;
    let lines: Vec<Value> = said
        .out
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let (sum, lines) = lines.split_last().context("nothing")?;
    ensure!(
        sum["equal"] == true && number(&sum["l2_bytes"])? == total,
        "{sum}"
    );
    let mut billed = 0;
    for line in lines.iter().filter(|line| line["what"] == "billed") {
        let seq = number(&line["seq"])?;
        let record = all.get(seq as usize).context("no such record")?;
        let own = match &record.correction {
            Some(correction) => correction.l2_bytes,
            None => record.counted().unwrap_or_default().l2_bytes as i64,
        };
        ensure!(
            record.tenant == 1 && own == number(&line["l2_bytes"])?,
            "{line}: {record:?}"
        );
        billed += own;
    }
    ensure!(billed == total, "{billed}");
    println!(
        "CASES: records behind a statement's number: {}",
        lines.len()
    );
    // And the ledger that they are in is what was signed.
    let ledger = host.metered.ledger.display().to_string();
    let keyring = keys::keyring_path(&host.metered.ledger)
        .display()
        .to_string();
    let verified = Command::new(octroi())
        .args(["verify", &ledger, "--keyring", &keyring])
        .output()?;
    ensure!(verified.status.success(), "{verified:?}");
    Ok(())
}

/// Bytes from alice of an hour of usage, and what of them came late.
fn hour(host: &Host, from: &str, to: &str) -> Result<(i64, i64, bool)> {
    let arguments = [
        "--tenant",
        "alice",
        "--direction",
        "from",
        "--by",
        "direction",
        "--from",
        from,
        "--to",
        to,
        "--format",
        "json",
    ];
    let said = host.fine(&["usage"], &arguments)?;
    let rows = said.out.lines().map(serde_json::from_str::<Value>);
    for row in rows {
        let row = row?;
        if row["what"] == "usage" {
            let late = row["late_l2_bytes"].as_str().unwrap_or("0").parse()?;
            return Ok((number(&row["l2_bytes"])?, late, row["state"] == "settled"));
        }
    }
    bail!("{}", said.out)
}

#[test]
fn a_clock_that_is_set_back_changes_no_hour_that_was_settled() -> Result<()> {
    const TEST: &str = "a_clock_that_is_set_back_changes_no_hour_that_was_settled";
    let _alone = alone();
    let Some(mut host) = Host::new(TEST, "1s", TEN - 30 * SECOND)? else {
        return Ok(());
    };
    let nine = ["2026-11-24T09:00:00Z", "2026-11-24T10:00:00Z"];
    let ten = ["2026-11-24T10:00:00Z", "2026-11-24T11:00:00Z"];
    host.traffic(Duration::from_secs(1))?;
    ensure!(
        host.clock.now() < TEN,
        "this machine is too slow: the hour is over"
    );
    host.wait_until(TEN + 2 * SECOND)?;
    let (told, late, settled) = hour(&host, nine[0], nine[1])?;
    ensure!(
        settled && late == 0 && told > 10_000,
        "{told} {late} {settled}"
    );

    // Ten seconds to ten again, with traffic.
    host.clock.set(TEN - 10 * SECOND)?;
    let carried = host.traffic(Duration::from_secs(2))?;
    host.wait_until(TEN + 4 * SECOND)?;
    let sent = carried[1] as i64;
    ensure!(
        hour(&host, nine[0], nine[1])? == (told, 0, true),
        "a settled hour has changed"
    );
    let (open, late, settled) = hour(&host, ten[0], ten[1])?;
    ensure!(!settled && late > 10_000, "{open} {late} {settled}");
    ensure!(
        told + open == sent,
        "{told} and {open} are billed, and {sent} were sent"
    );

    host.metered.site.stop();
    let records = records(&host)?;
    let alice = records.iter().filter(|one| {
        one.kind == Kind::Meter && (one.tenant, one.direction) == (1, 0) && one.zone.is_none()
    });
    let (mut runs, mut was_late, mut count) = (0, false, 0);
    for record in alice {
        let is_late = record.flags.has(Flags::LATE);
        runs += u32::from(is_late && !was_late);
        count += u32::from(is_late);
        was_late = is_late;
        ensure!(!is_late || record.window_start < TEN, "{record:?}");
    }
    ensure!(
        // Ten of a second each, where the machine has time to close them.
        runs == 1 && count >= 5 && !was_late,
        "{runs} runs of {count} late windows"
    );
    for command in ["verify", "audit"] {
        let ledger = host.metered.ledger.display().to_string();
        let arguments = if command == "verify" {
            vec![command, &ledger]
        } else {
            vec![command, "--ledger", &ledger]
        };
        let said = Command::new(octroi()).args(arguments).output()?;
        ensure!(said.status.success(), "{said:?}");
    }
    println!("CASES: windows that came late, and no settled sum changed: {count}");
    Ok(())
}
