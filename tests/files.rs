//! What closed files have is what the tenants' interfaces sent: through kill -9 of the daemon wherever it is, and no file
//! that somebody changes goes unnoticed. Real packets, a real daemon; the files are read by a reader of this test.

#[path = "meter/bill.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod bill;
#[path = "meter/delivered.rs"]
#[allow(dead_code, reason = "each test of a sink uses its own part of this")]
mod delivered;
#[path = "files/parquet.rs"]
mod parquet;
#[path = "support/python.rs"]
mod python;
#[path = "meter/site.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod site;
mod support;

use anyhow::{Context as _, Result, ensure};
use delivered::{FORKS, caught_up, copy_of};
use metering::{
    record::{Record, leaf_hash},
    sink::{
        Courier,
        files::{Files, Target},
    },
};
use serde_json::Value;
use site::{Metered, Traffic};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use support::{alone, by_level, can_run, octroi};

/// How long a sink may stay behind.
const PATIENCE: Duration = Duration::from_secs(60);

/// The sink's section in the daemon's file; the daemon is not started yet. Returns the directory.
fn deliver_to(metered: &Metered) -> Result<PathBuf> {
    let directory = metered.site.directory().join("export");
    fs::create_dir(&directory)?;
    let config = metered.site.config("shape = \"police\"")
        + &format!(
            "\n[meter]\nledger = \"{}\"\nwindow = \"100ms\"\n\
             \n[[sink]]\nname = \"export\"\nkind = \"files\"\ndirectory = \"{}\"\nparquet = true\n",
            metered.ledger.display(),
            directory.display()
        );
    metered.site.write_config(&config)?;
    Ok(directory)
}

fn reconcile(metered: &Metered) -> Result<(bool, String)> {
    let output = Command::new(octroi())
        .args(["reconcile", "--sink", "export", "--config"])
        .arg(metered.site.config_path())
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok((output.status.success(), said))
}

/// What the files say that a tenant sent, read without the library's own reader.
#[derive(Debug, Default)]
struct Read {
    /// By tenant: packets, bytes; of JSON lines, and of CSV.
    lines: [(u64, u64); site::SENDERS],
    table: [(u64, u64); site::SENDERS],
    records: usize,
    manifests: usize,
}

fn read(directory: &Path) -> Result<Read> {
    let (mut read, mut seqs) = (Read::default(), BTreeSet::new());
    let mut ledgers: Vec<PathBuf> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    ledgers.retain(|path| path.is_dir());
    for ledger in ledgers {
        let mut names: Vec<PathBuf> = fs::read_dir(&ledger)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        names.retain(|path| path.to_string_lossy().ends_with(".manifest.json"));
        names.sort();
        let mut next = 0;
        for manifest in names {
            let text: Value = serde_json::from_slice(&fs::read(&manifest)?)?;
            let number = |name: &str| -> Result<u64> {
                Ok(text[name].as_str().context(name.to_owned())?.parse()?)
            };
            ensure!(
                number("first_seq")? == next,
                "{}: after {next}",
                manifest.display()
            );
            next = number("next_seq")?;
            read.manifests += 1;
            for file in text["files"].as_array().context("files")? {
                let path = ledger.join(file["name"].as_str().context("a name")?);
                let sum = Command::new("sha256sum").arg(&path).output()?.stdout;
                let sum = String::from_utf8(sum)?;
                ensure!(
                    Some(&sum[..64]) == file["sha256"].as_str(),
                    "{}",
                    path.display()
                );
                if path.extension().is_some_and(|ending| ending == "parquet") {
                    continue;
                }
                let text = fs::read_to_string(&path)?;
                if path.extension().is_some_and(|ending| ending == "csv") {
                    add_table(&text, &mut read)?;
                    continue;
                }
                for line in text.lines() {
                    add_line(line, &ledger, &mut seqs, &mut read)?;
                }
            }
        }
    }
    Ok(read)
}

fn add_line(
    line: &str,
    ledger: &Path,
    seqs: &mut BTreeSet<(PathBuf, u64)>,
    read: &mut Read,
) -> Result<()> {
    let line: Value = serde_json::from_str(line)?;
    let text = |name: &str| line[name].as_str().context(name.to_owned());
    let seq: u64 = text("seq")?.parse()?;
    ensure!(
        seqs.insert((ledger.to_owned(), seq)),
        "record {seq} is there twice"
    );
    // The canonical bytes are those of the leaf, and say what the line says.
    let digits = text("canonical")?;
    let bytes: Vec<u8> = (0..digits.len() / 2)
        .map(|at| Ok(u8::from_str_radix(&digits[2 * at..2 * at + 2], 16)?))
        .collect::<Result<_>>()?;
    let leaf: String = leaf_hash(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    ensure!(leaf == text("leaf")?, "record {seq}: another leaf");
    let record = Record::decode(&bytes)?;
    read.records += 1;
    if text("kind")? != "METER" {
        return Ok(());
    }
    ensure!(
        line["zone"].is_u64(),
        "a total is billed beside its zones: {line}"
    );
    let counted = record.counted().context("no counts")?;
    ensure!(text("l2_bytes")? == counted.l2_bytes.to_string());
    let index = (record.tenant as usize).wrapping_sub(1);
    if record.direction == 0 && index < site::SENDERS {
        read.lines[index].0 += counted.packets;
        read.lines[index].1 += counted.l2_bytes;
    }
    Ok(())
}

fn add_table(text: &str, read: &mut Read) -> Result<()> {
    let mut table = csv::Reader::from_reader(text.as_bytes());
    let names = table.headers()?.clone();
    let column = |name: &str| {
        let found = names.iter().position(|known| known == name);
        found.with_context(|| format!("no column {name}"))
    };
    let (tenant, way) = (column("SubAccountId")?, column("x_Direction")?);
    let (packets, bytes) = (column("x_Packets")?, column("ConsumedQuantity")?);
    for row in table.records() {
        let row = row?;
        let index = row[tenant].parse::<usize>()?.wrapping_sub(1);
        if &row[way] == "from" && index < site::SENDERS {
            read.table[index].0 += row[packets].parse::<u64>()?;
            read.table[index].1 += row[bytes].parse::<u64>()?;
        }
    }
    Ok(())
}

#[test]
fn closed_files_have_each_byte_once_through_kill_9_and_changes_are_found() -> Result<()> {
    const TEST: &str = "closed_files_have_each_byte_once_through_kill_9_and_changes_are_found";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let mut metered = Metered::new("100ms", None)?;
    let directory = deliver_to(&metered)?;
    before_the_first_window(&metered)?;
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    let kills = by_level(4, 25, 150);
    for round in 0..kills {
        std::thread::sleep(Duration::from_millis(250 + round * 137 % 400));
        metered.site.kill()?;
        metered.site.start(octroi())?;
    }
    traffic.stop()?;
    let sent = metered.conserved()?;
    metered.site.start(octroi())?;
    caught_up(&metered, PATIENCE)?;
    let reconciled = reconcile(&metered)?;
    ensure!(reconciled.0, "{}", reconciled.1);
    metered.site.stop();

    let found = read(&directory)?;
    let bill = bill::Bill::read(&metered.ledger)?;
    for (index, tenant) in site::TENANTS.iter().take(site::SENDERS).enumerate() {
        let (sent, after) = (sent.sent_by(tenant.name), bill.sent_by(tenant.name));
        let after = (after.packets, after.l2_bytes);
        ensure!(
            found.lines[index] == after,
            "{index}: {found:?}, the ledger {after:?}"
        );
        ensure!(
            found.table[index] == after,
            "{index}: {found:?}, the ledger {after:?}"
        );
        ensure!(sent.packets <= after.0 && sent.packets > 100, "{sent:?}");
    }

    parquet::reads(&directory, found.records, &found.lines)?;

    let mut changes = 0;
    for ending in ["jsonl", "csv", "parquet", "manifest.json"] {
        let ledger = directory.join(status_id(&metered)?);
        let path = first(&ledger, ending)?;
        let whole = fs::read(&path)?;
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        fs::write(&path, &changed)?;
        let wrong = reconcile(&metered)?;
        ensure!(
            !wrong.0 && wrong.1.contains("somebody changed it"),
            "{ending}: {}",
            wrong.1
        );
        fs::write(&path, &whole)?;
        changes += 1;
    }
    let right = reconcile(&metered)?;
    ensure!(right.0, "{}", right.1);
    forks(&metered, &directory, &found)?;
    let replay = Command::new(octroi())
        .args(["replay", "--sink", "export", "--from", "0", "--config"])
        .arg(metered.site.config_path())
        .output()?;
    let said = String::from_utf8_lossy(&replay.stderr).into_owned();
    ensure!(
        !replay.status.success() && said.contains("newest manifests"),
        "{said}"
    );
    println!(
        "CASES: records in closed files exactly once: {}",
        found.records
    );
    println!("CASES: closed files with a manifest: {}", found.manifests);
    println!("CASES: kills of the daemon while it closed files: {kills}");
    println!("CASES: changed files found by reconcile: {changes}");
    Ok(())
}

/// The first closed file of a kind.
fn first(ledger: &Path, ending: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(ledger)?.map(|entry| Ok(entry?.path()));
    let mut names: Vec<PathBuf> = entries.collect::<Result<_>>()?;
    names.retain(|path| path.to_string_lossy().ends_with(ending));
    names.sort();
    names.into_iter().next().context("no file")
}

/// `octroi check` says where records go, and `octroi reconcile` that there are none yet.
fn before_the_first_window(metered: &Metered) -> Result<()> {
    let check = Command::new(octroi())
        .arg("check")
        .arg(metered.site.config_path())
        .output()?;
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    ensure!(
        said.contains("sink export: closed files of JSON lines, CSV and Parquet in /")
            && said.contains("records are kept in /"),
        "{said}"
    );
    let none = reconcile(metered)?;
    ensure!(
        !none.0 && none.1.contains("there is no ledger here") && !none.1.contains("move"),
        "{}",
        none.1
    );
    Ok(())
}

/// The ledger's directory among the closed files.
fn status_id(metered: &Metered) -> Result<String> {
    let db = rusqlite::Connection::open(&metered.ledger)?;
    let id: Vec<u8> = db.query_row(
        "SELECT CAST(value AS BLOB) FROM about WHERE key = 'ledger_id'",
        [],
        |row| row.get(0),
    )?;
    Ok(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Copies that say something else under the same names are refused, and the files stay as they were.
fn forks(metered: &Metered, directory: &Path, before: &Read) -> Result<()> {
    for (name, change) in FORKS {
        let copy = metered.site.directory().join(name);
        copy_of(metered, &copy, &[change])?;
        let target = Target {
            directory: directory.to_owned(),
            parquet: true,
        };
        let mut courier = Courier::new(Files::new(target), &copy, "demo", 1);
        courier.step(Instant::now());
        let progress = courier.progress();
        ensure!(progress.fork, "{name}: {progress:?}");
        let after = read(directory)?;
        ensure!(
            after.records == before.records && after.lines == before.lines,
            "{name}"
        );
    }
    let told = fs::read_to_string(directory.join("forks.jsonl"))?;
    ensure!(told.lines().count() == 3, "{told}");
    Ok(())
}
