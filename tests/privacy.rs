//! A tenant asks for what is kept of it, and to be forgotten: `octroi privacy` beside the running daemon, under
//! traffic, and without one.

#[path = "meter/bill.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod bill;
#[path = "meter/site.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod site;
mod support;

use anyhow::{Context as _, Result, ensure};
use metering::{
    ledger::{self, Filter, keys},
    record::{Kind, Record},
};
use octroi::lab::{
    site::{REMOTE, mac, mac_text},
    traffic::{self, Datagrams, inside},
};
use site::{Metered, Traffic};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use support::{alone, by_level, can_run, octroi};

/// Whom only alice talks to.
const SECRET: &str = "198.51.100.77";
/// How a row has it: CBOR's head of four bytes, and these.
const SECRET_BYTES: [u8; 5] = [0x44, 198, 51, 100, 77];

/// A database that nobody serves.
const SINK: &str = "\n[[sink]]\nname = \"bills\"\nkind = \"postgres\"\nurl = \"host=/nowhere user=octroi dbname=bills\"\n";

/// Runs octroi; what it printed on both, if it ended as it should.
fn run(arguments: &[&str], fine: bool) -> Result<String> {
    let output = Command::new(octroi()).args(arguments).output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success() == fine, "{arguments:?}: {said}");
    Ok(said)
}

/// A program of `tests/verify`; `None`: there is no Python.
fn python(script: &str, arguments: &[&str]) -> Result<Option<String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/verify")
        .join(script);
    match Command::new("python3").arg(script).args(arguments).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        output => {
            let output = output?;
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            ensure!(output.status.success(), "{arguments:?}: {said}");
            Ok(Some(said))
        }
    }
}

/// Files below a directory that have these bytes.
fn files_with(directory: &Path, what: &[u8]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_with(&path, what)?);
        } else if path.is_file()
            && fs::read(&path)?
                .windows(what.len())
                .any(|part| part == what)
        {
            found.push(path);
        }
    }
    Ok(found)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// Alice talks to somebody, and the window with it is committed.
fn talk_in_secret(metered: &Metered) -> Result<()> {
    let namespace = metered.site.tenants[0].open()?;
    let sent = inside(namespace, || {
        let how = Datagrams {
            size: 300,
            segment: None,
            gap: Duration::from_micros(500),
        };
        traffic::udp_send(
            (SECRET.parse()?, 4_433),
            how,
            Instant::now() + Duration::from_millis(50),
        )
    });
    sent.join()
        .map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    let windows = metered.status()?.windows;
    metered.wait("its window", |status| status.windows > windows + 2)?;
    ensure!(
        !files_with(metered.site.directory(), &SECRET_BYTES)?.is_empty(),
        "the flow is in no file"
    );
    Ok(())
}

fn records(metered: &Metered) -> Result<Vec<Record>> {
    let rows = ledger::records(&metered.ledger, &Filter::default())?;
    Ok(rows.into_iter().filter_map(Result::ok).collect())
}

/// Both verifiers say that the ledger is what was signed; returns what the first one said.
fn verified(metered: &Metered) -> Result<String> {
    let ledger = text(&metered.ledger);
    let said = run(&["verify", ledger], true)?;
    let keyring = keys::keyring_path(&metered.ledger);
    if python("ledger.py", &["--keyring", text(&keyring), ledger])?.is_none() {
        println!("SKIPPED: the second verifier: there is no python3");
    }
    Ok(said)
}

#[test]
fn a_tenant_is_told_everything_and_forgotten_beside_a_running_daemon() -> Result<()> {
    const TEST: &str = "a_tenant_is_told_everything_and_forgotten_beside_a_running_daemon";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let mut metered = Metered::new("100ms", None)?;
    let config = fs::read_to_string(metered.site.config_path())?;
    let full = config.replace("id = 1\n", "id = 1\nflow_detail = \"full\"\n");
    ensure!(full != config, "alice is not in the configuration");
    metered.site.write_config(&full)?;
    for line in [
        "ip route add 198.51.100.0/24 dev eth0".into(),
        format!(
            "ip neigh replace {SECRET} lladdr {} dev eth0",
            mac_text(mac(REMOTE))
        ),
    ] {
        metered.site.tenants[0].command(&line)?;
    }
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    talk_in_secret(&metered)?;
    let config = metered.site.config_path();
    let out = metered.site.directory().join("export");
    export(&metered, &config, &out)?;
    fs::remove_dir_all(&out)?;

    let erase = [
        "privacy",
        "erase",
        "--config",
        text(&config),
        "--tenant",
        "alice",
        "--reason",
        "a letter",
    ];
    let rounds = by_level(2, 5, 20);
    for round in 0..rounds {
        if round != 0 {
            talk_in_secret(&metered)?;
        }
        let said = run(&erase, true)?;
        ensure!(said.contains("rows of flow detail of"), "{said}");
        let left = files_with(metered.site.directory(), &SECRET_BYTES)?;
        ensure!(left.is_empty(), "erased and still in {left:?}");
        verified(&metered)?;
    }
    let leaves = records(&metered)?;
    let leaves: Vec<_> = leaves
        .iter()
        .filter(|one| one.kind == Kind::Erasure)
        .collect();
    ensure!(leaves.len() == rounds, "{} leaves", leaves.len());
    for leaf in leaves {
        let erased = leaf.erased_flows.context("it erased no flow detail")?;
        ensure!(
            erased.tenant == 1 && erased.rows >= erased.records,
            "{leaf:?}"
        );
        let cause = leaf.cause.as_deref().unwrap_or_default();
        ensure!(
            cause.starts_with("uid 0") && cause.ends_with(": a letter"),
            "{cause}"
        );
    }
    let looks = run(&["ledger", "looks", "--config", text(&config)], true)?;
    let erasures = looks.matches("privacy erase --tenant 1: ").count();
    ensure!(
        erasures == rounds && looks.contains("privacy export --tenant 1"),
        "{looks}"
    );

    // Every byte that was sent is in the records, whatever was erased meanwhile.
    traffic.stop()?;
    metered.conserved()?;
    records_go_where_they_were_asked_for(&metered, &config)?;
    println!("CASES: erasures of a tenant beside a daemon under traffic: {rounds}");
    Ok(())
}

/// Everything of alice is in the directory, it verifies, and nothing of bob is in it.
fn export(metered: &Metered, config: &Path, out: &Path) -> Result<()> {
    let ask = [
        "privacy",
        "export",
        "--config",
        text(config),
        "--tenant",
        "alice",
        "--out",
    ];
    let said = run(&[&ask[..], &[text(out)]].concat(), true)?;
    for name in [
        "README.txt",
        "records.proof",
        "records.csv",
        "flows.jsonl",
        "looks.csv",
        "configuration.toml",
    ] {
        ensure!(out.join(name).is_file(), "no {name}: {said}");
    }
    let again = run(&[&ask[..], &[text(out)]].concat(), false)?;
    ensure!(again.contains("this exists"), "{again}");
    run(&["verify", text(&out.join("records.proof"))], true)?;
    if let Some(said) = python("export.py", &[text(out)])? {
        println!("a stranger: {}", said.trim());
        ensure!(
            said.contains("0 pruned; ") && !said.contains(" 0 flow rows"),
            "{said}"
        );
    }
    let rows = fs::read_to_string(out.join("flows.jsonl"))?;
    ensure!(rows.contains(SECRET), "the flow is not in the export");
    let mut csv = csv::Reader::from_path(out.join("records.csv"))?;
    let told: u64 = csv
        .deserialize::<std::collections::BTreeMap<String, String>>()
        .flatten()
        .filter(|row| row["zone"] == "*" && row["kind"] == "METER")
        .filter_map(|row| row["l2_bytes"].parse::<u64>().ok())
        .sum();
    ensure!(told > 10_000, "{told} bytes");
    for strange in ["bob", "carol"] {
        let left = files_with(out, strange.as_bytes())?;
        ensure!(left.is_empty(), "{strange} is in {left:?}");
    }
    let looks = ledger::looks(&metered.ledger)?;
    ensure!(
        looks
            .last()
            .is_some_and(|look| look.what == "privacy export --tenant 1"),
        "{looks:?}"
    );
    Ok(())
}

/// Without a daemon: records up to a time, and only where no sink waits for them.
fn records_go_where_they_were_asked_for(metered: &Metered, config: &Path) -> Result<()> {
    let before = records(metered)?;
    let of = |record: &&Record| record.kind == Kind::Meter && record.tenant == 1;
    let last = before.iter().rfind(of).context("no record of alice")?;
    let until = jiff::Timestamp::from_nanosecond(i128::from(last.window_end))?.to_string();
    let erase = |config: &[&str]| {
        let rest = [
            "--tenant",
            "1",
            "--reason",
            "asked",
            "--records-until",
            &until,
        ];
        [&["privacy", "erase"][..], config, &rest]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let ask = |config: &[&str], fine| {
        let arguments = erase(config);
        run(
            &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
            fine,
        )
    };
    // Nobody says whether a sink waits; then one does.
    let run_dir = metered.site.run_dir();
    let alone = [
        "--ledger",
        text(&metered.ledger),
        "--run-dir",
        text(&run_dir),
    ];
    let refused = ask(&alone, false)?;
    ensure!(refused.contains("write --config FILE"), "{refused}");
    let with_sink = metered.site.directory().join("with-sink.toml");
    fs::write(&with_sink, fs::read_to_string(config)? + SINK)?;
    let refused = ask(&["--config", text(&with_sink)], false)?;
    ensure!(
        refused.contains("only it knows how far each [[sink]] is"),
        "{refused}"
    );
    ensure!(records(metered)?.len() == before.len(), "something went");
    let said = ask(&["--config", text(config)], true)?;
    let after = records(metered)?;
    ensure!(!after.iter().any(|record| of(&record)), "{said}");
    let gone = before.iter().filter(of).count();
    ensure!(
        said.contains(&format!("{gone} records of windows until")),
        "{said}"
    );
    let others = |record: &&Record| !of(record) && record.kind != Kind::Erasure;
    ensure!(
        after.iter().filter(others).eq(before.iter().filter(others)),
        "something else went"
    );
    let said = verified(metered)?;
    ensure!(said.contains(&format!("{gone} pruned")), "{said}");
    let audited = run(&["audit", "--config", text(config)], true)?;
    ensure!(audited.contains(&format!("{gone} pruned")), "{audited}");
    let again = ask(&["--config", text(config)], true)?;
    ensure!(again.contains("nothing of tenant 1 is kept"), "{again}");
    println!("CASES: records erased before their time: {gone}");
    Ok(())
}

#[test]
fn what_a_sink_waits_for_is_not_erased_and_flow_detail_is() -> Result<()> {
    const TEST: &str = "what_a_sink_waits_for_is_not_erased_and_flow_detail_is";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let mut metered = Metered::new("100ms", None)?;
    let config = metered.site.config_path();
    metered
        .site
        .write_config(&(fs::read_to_string(&config)? + SINK))?;
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    metered.wait("windows", |status| status.windows > 5)?;
    traffic.stop()?;
    let erase = [
        "privacy",
        "erase",
        "--config",
        text(&config),
        "--tenant",
        "1",
        "--reason",
        "asked",
    ];
    let until = [&erase[..], &["--records-until", "2100-01-01"]].concat();
    let refused = run(&until, false)?;
    ensure!(
        refused.contains("is not confirmed by every sink"),
        "{refused}"
    );
    let of = |record: &&Record| record.kind == Kind::Meter && record.tenant == 1;
    let all = records(&metered)?.iter().filter(of).count();
    ensure!(all > 10, "{all} records");
    let said = run(&erase, true)?;
    ensure!(said.contains("meter records are kept"), "{said}");
    ensure!(
        records(&metered)?.iter().filter(of).count() >= all,
        "a record went"
    );
    verified(&metered)?;
    Ok(())
}
