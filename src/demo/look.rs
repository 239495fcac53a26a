//! What the demo leaves to look at: the page, the statement, the records, and what the sink took.

use super::{
    LEDGER, Options,
    checks::{Check, Outcome},
    door::{Door, PAGE},
    interrupted,
};
use crate::lab::{
    Site,
    site::{REMOTE, ipv4},
    traffic::{self, Datagrams, inside},
};
use anyhow::{Context as _, Result, ensure};
use metering::{
    ledger::{self, Filter},
    record::Kind,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Alice's statement, and what the sink closed, in the site's directory.
pub const STATEMENT: &str = "alice.html";
pub const SINK: &str = "export";

/// The configuration's part for the page and the sink.
pub fn section(site: &Site) -> Result<String> {
    let directory = site.directory();
    fs::create_dir_all(directory.join(SINK))?;
    Ok(format!(
        "\n[api]\nsocket = \"{}\"\npage = \"{PAGE}\"\n\n[[sink]]\nname = \"{SINK}\"\nkind = \"files\"\ndirectory = \"{}\"\n",
        directory.join("api.sock").display(),
        directory.join(SINK).display(),
    ))
}

/// Asks for the page, as a browser does: it is served.
pub fn page(site: &Site, outcome: &mut Outcome) -> Result<()> {
    use std::io::{Read as _, Write as _};
    let served = site.host.run(|| -> Result<bool> {
        let mut stream = std::net::TcpStream::connect(PAGE)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let request = format!("GET / HTTP/1.1\r\nhost: {PAGE}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200") && answer.contains("<title>octroi</title>"))
    })??;
    outcome.push(Check::equal(
        "the page is served",
        served.into(),
        1,
        "yes/no",
    ));
    Ok(())
}

/// Keeps the daemon and some traffic for a browser.
pub fn hold(site: &Site, octroi: &Path, options: &Options) -> Result<()> {
    let Some(seconds) = options.hold else {
        return Ok(());
    };
    statement(site, octroi)?;
    let door = Door::open(site)?;
    let place = site.directory();
    eprintln!(
        "\ndemo: for {seconds} s, or until Ctrl-C, look at\n  the page       http://{}/ (as root, or whoever used sudo)\n  \
         the statement  {}\n  the records    octroi records --ledger {} --tenant 1\n  the sink       octroi sinks --run-dir {}",
        door.address,
        place.join(STATEMENT).display(),
        place.join(LEDGER).display(),
        site.run_dir().display(),
    );
    let stop = Arc::new(AtomicBool::new(false));
    let remote = ipv4(REMOTE).parse()?;
    let mut senders = Vec::new();
    for (index, size) in [(0, 200), (1, 1_000)] {
        let (namespace, stop) = (site.tenants[index].open()?, Arc::clone(&stop));
        senders.push(inside(namespace, move || {
            let gap = Duration::from_millis(2);
            let how = Datagrams {
                size,
                segment: None,
                gap,
            };
            while !stop.load(Relaxed) {
                let until = Instant::now() + Duration::from_millis(500);
                traffic::udp_send((remote, 7), how, until)?;
            }
            Ok(())
        }));
    }
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until && !interrupted() {
        std::thread::sleep(Duration::from_millis(100));
    }
    // The first Ctrl-C ends this, and the demo goes on to its checks.
    super::INTERRUPTED.store(false, Relaxed);
    stop.store(true, Relaxed);
    for sender in senders {
        sender
            .join()
            .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
    }
    std::thread::sleep(Duration::from_millis(300));
    Ok(())
}

/// Writes alice's statement of this month, as the ledger stands.
pub fn statement(site: &Site, octroi: &Path) -> Result<()> {
    let month = jiff::Timestamp::now().strftime("%Y-%m").to_string();
    let output = Command::new(octroi)
        .arg("statement")
        .arg("--config")
        .arg(site.config_path())
        .args(["--tenant", "alice", "--month", &month, "--out"])
        .arg(site.directory().join(STATEMENT))
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "octroi statement: {said}");
    Ok(())
}

/// What the sink's closed files add up to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    files: u64,
    records: u64,
    l2_bytes: u64,
    /// Highest record that a bill adds up.
    last_seq: u64,
}

/// The sink has a directory for each ledger; here is one.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for ledger in fs::read_dir(directory)? {
        let ledger = ledger?.path();
        if ledger.is_dir() {
            for file in fs::read_dir(ledger)? {
                files.push(file?.path());
            }
        }
    }
    Ok(files)
}

/// Adds up all rows, as a biller does who has only the files: records by zone, and none of their sums (M-12.5).
fn taken(directory: &Path) -> Result<Taken> {
    let mut taken = Taken::default();
    let is_table = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "csv");
    for path in files(directory)?.into_iter().filter(is_table) {
        let mut reader = csv::Reader::from_path(&path)?;
        let names = reader.headers()?.clone();
        let place = |name: &str| {
            let found = names.iter().position(|known| known == name);
            found.with_context(|| format!("{}: no {name}", path.display()))
        };
        let [bytes, seq] = [place("ConsumedQuantity")?, place("x_Seq")?];
        taken.files += 1;
        for row in reader.records() {
            let row = row?;
            let number = |place: usize| row.get(place).unwrap_or_default().parse::<u64>();
            taken.records += 1;
            taken.l2_bytes += number(bytes)?;
            taken.last_seq = taken.last_seq.max(number(seq)?);
        }
    }
    Ok(taken)
}

/// Compares the sink with the ledger, as far as the sink had come when the daemon ended.
pub fn sink(site: &Site, outcome: &mut Outcome) -> Result<Taken> {
    let taken = taken(&site.directory().join(SINK))?;
    let rows = ledger::records(&site.directory().join(LEDGER), &Filter::default())?;
    let mut in_ledger = (0, 0);
    for row in rows {
        let record = row.map_err(|(seq, error)| anyhow::anyhow!("record {seq}: {error}"))?;
        if record.kind == Kind::Meter && record.zone.is_some() && record.seq <= taken.last_seq {
            let counted = record.counted().context("a record without a reading")?;
            in_ledger = (in_ledger.0 + 1, in_ledger.1 + counted.l2_bytes);
        }
    }
    outcome.push(Check::at_least(
        "records that the sink has in closed files",
        taken.records,
        3,
        "records",
    ));
    outcome.push(Check::difference(
        "sink and ledger, as far as the sink has come",
        taken.records,
        in_ledger.0,
        "records",
    ));
    outcome.push(Check::difference(
        "sink and ledger, as far as the sink has come",
        taken.l2_bytes,
        in_ledger.1,
        "bytes",
    ));
    Ok(taken)
}

/// Where to look, when all is over: lines of a name and what is there.
pub fn places(options: &Options, taken: &Taken) -> Vec<(&'static str, String)> {
    let kept = |what: &str, keep: &dyn Fn(&Path) -> String| match &options.keep {
        Some(directory) => keep(directory),
        None => format!("{what}; --keep DIR leaves it there"),
    };
    let page = match options.hold {
        Some(seconds) => format!("was served on http://{PAGE}/ for {seconds} s"),
        None => "--hold SECONDS keeps the daemon and its page for a browser".to_owned(),
    };
    let sink = format!(
        "{} bytes of ports and uplinks in {} records, {} closed files",
        taken.l2_bytes, taken.records, taken.files
    );
    vec![
        ("page", page),
        (
            "statement",
            kept("alice's month, as HTML", &|directory| {
                directory.join(STATEMENT).display().to_string()
            }),
        ),
        (
            "records",
            kept("octroi records", &|directory| {
                let ledger = directory.join(LEDGER);
                format!("octroi records --ledger {} --tenant 1", ledger.display())
            }),
        ),
        (
            "sink",
            kept(&sink, &|directory| {
                format!("{sink}: {}", directory.join(SINK).display())
            }),
        ),
    ]
}

/// Copies what the sink closed.
pub fn keep(site: &Site, directory: &Path) -> Result<()> {
    let from = site.directory().join(SINK);
    for path in files(&from)? {
        let to = directory.join(SINK).join(path.strip_prefix(&from)?);
        fs::create_dir_all(to.parent().unwrap_or(directory))?;
        fs::copy(path, to)?;
    }
    Ok(())
}
