//! A sink that is down while a hundred ports queue records: other sinks, windows and the kernel's counting are not delayed, memory is
//! bounded, and what was queued is there once in the end. A real daemon, real frames of a hundred ports, a real PostgreSQL.

#[path = "delivery/database.rs"]
#[allow(dead_code, reason = "written for tests/delivery.rs")]
mod database;
mod support;

use anyhow::{Context as _, Result, ensure};
use database::Database;
use octroi::{
    daemon::SinkStatus,
    lab::{
        Site,
        frames::{RawSocket, udp4},
        site::{INSIDE, REMOTE, mac},
        traffic::{Mixed, mixed},
    },
    status::Report,
};
use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use support::{alone, between, by_level, can_run, octroi, registers, settle, tenant};

/// Ports beside the two whose tenants have an end of their own.
const CROWD: usize = 98;
/// The tenant of all of them.
const CROWD_TENANT: u32 = 3;
/// What delivery may add to the daemon's memory, KiB: a batch and its columns are a few MiB.
const MORE_KIB: u64 = 48 << 10;
/// How long anything may take beside what it is measured by.
const PATIENCE: Duration = Duration::from_secs(240);

/// A site with a hundred ports, and who sends through them.
struct Crowded {
    site: Site,
    ledger: PathBuf,
    /// Frames that the crowd sent, and their bytes.
    sent: Arc<[AtomicU64; 2]>,
}

fn address(port: usize) -> [u8; 4] {
    [10, 78, 0, port as u8]
}

fn mac_of(port: usize) -> [u8; 6] {
    [2, 0, 0, 1, 0, port as u8]
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Crowded {
    fn new(database: &Database) -> Result<Self> {
        let site = Site::new(&[tenant("alice", false), tenant("bob", false)])?;
        let mut batch = String::new();
        for port in 1..=CROWD {
            batch += &format!(
                "link add c{port} type veth peer name d{port}\nlink set c{port} up\nlink set d{port} address {} up\n",
                text(mac_of(port))
            );
        }
        let file = site.directory().join("links");
        fs::write(&file, batch)?;
        site.host
            .command(&format!("ip -batch {}", file.display()))?;
        let ledger = site.directory().join("ledger.db");
        fs::create_dir(site.directory().join("export"))?;
        let mut config = site
            .config("shape = \"police\"")
            .replace("ports_max = 64", "ports_max = 128");
        config += &format!(
            "\n[meter]\nledger = \"{}\"\nwindow = \"100ms\"\n\n[[sink]]\nname = \"billing\"\nkind = \"postgres\"\n\
             url = \"{}\"\n\n[[sink]]\nname = \"files\"\nkind = \"files\"\ndirectory = \"{}\"\n\n[[tenant]]\n\
             name = \"crowd\"\nid = {CROWD_TENANT}\n",
            ledger.display(),
            database.url(),
            site.directory().join("export").display()
        );
        for port in 1..=CROWD {
            let [a, b, c, d] = address(port);
            config += &format!(
                "\n[[port]]\nname = \"c{port}\"\ntenant = \"crowd\"\ninterface = \"c{port}\"\nmacs = [\"{}\"]\n\
                 addresses = [\"{a}.{b}.{c}.{d}\"]\n",
                text(mac_of(port))
            );
        }
        site.write_config(&config)?;
        Ok(Self {
            site,
            ledger,
            sent: Arc::default(),
        })
    }

    /// A frame of every port in turn, some forty times a second, until told to stop.
    fn crowd(&self, stop: &Arc<AtomicBool>) -> Result<thread::JoinHandle<Result<()>>> {
        let sockets = self.site.host.run(|| {
            let of = |port: usize| {
                let name = std::ffi::CString::new(format!("d{port}"))?;
                // SAFETY: a string with an end.
                RawSocket::open(unsafe { libc::if_nametoindex(name.as_ptr()) })
            };
            (1..=CROWD).map(of).collect::<Result<Vec<_>>>()
        })??;
        let (stop, sent) = (Arc::clone(stop), Arc::clone(&self.sent));
        Ok(thread::spawn(move || {
            while !stop.load(Relaxed) {
                for (port, socket) in (1..).zip(&sockets) {
                    let remote = [10, 77, 0, REMOTE as u8];
                    let frame = udp4(mac_of(port), mac(REMOTE), address(port), remote, 3 * port);
                    socket.send(&frame)?;
                    sent[0].fetch_add(1, Relaxed);
                    sent[1].fetch_add(frame.len() as u64, Relaxed);
                }
                thread::sleep(Duration::from_millis(25));
            }
            Ok(())
        }))
    }

    /// Records that the ledger has, and whether its meter has something to say.
    fn records(&self, report: &Report) -> Result<u64> {
        let meter = report.meter.as_ref().context("no meter")?;
        ensure!(meter.error.is_none(), "{:?}", meter.error);
        Ok(meter.records)
    }

    fn sink<'a>(&self, report: &'a Report, name: &str) -> Result<&'a SinkStatus> {
        let mut sinks = report.sinks.iter();
        sinks.find(|sink| sink.name == name).context("no sink")
    }

    /// Memory of the daemon, KiB.
    fn rss_kib(&self) -> Result<u64> {
        let pid = self.site.daemon_pid().context("no daemon")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let digits = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(digits.context("VmRSS")?.parse()?)
    }

    /// Looks at the daemon until `done`, and keeps the worst of what it saw.
    fn watch(&self, done: impl Fn(&Report) -> Result<bool>) -> Result<Seen> {
        let begun = Instant::now();
        let mut seen = Seen::default();
        let first = self.site.report()?;
        let (windows, records) = (windows(&first)?, self.records(&first)?);
        let frames = self.sent[0].load(Relaxed);
        loop {
            let report = self.site.report()?;
            seen.rss_kib = seen.rss_kib.max(self.rss_kib()?);
            let of_files = self.sink(&report, "files")?;
            let progress = &of_files.progress;
            ensure!(progress.error.is_none(), "files are away: {progress:?}");
            seen.files_lag = seen.files_lag.max(progress.lag.unwrap_or_default());
            if done(&report)? {
                seen.windows = self::windows(&report)? - windows;
                seen.records = self.records(&report)? - records;
                seen.frames = self.sent[0].load(Relaxed) - frames;
                seen.took = begun.elapsed();
                return Ok(seen);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn windows(report: &Report) -> Result<u64> {
    Ok(report.meter.as_ref().context("no meter")?.windows)
}

/// What was seen of a time.
#[derive(Debug, Default)]
struct Seen {
    took: Duration,
    windows: u64,
    records: u64,
    frames: u64,
    rss_kib: u64,
    /// Records that the other sink had still to take, at most.
    files_lag: u64,
}

impl Seen {
    fn per_second(&self, count: u64) -> u64 {
        let took = self.took.as_millis().max(1);
        u64::try_from(u128::from(count) * 1_000 / took).unwrap_or(u64::MAX)
    }

    fn line(&self, what: &str) -> String {
        format!(
            "{what}: {} s, {} windows/s, {} records/s, {} frames/s of the crowd, RSS {} KiB, files behind by {} at most",
            self.took.as_secs(),
            self.per_second(self.windows),
            self.per_second(self.records),
            self.per_second(self.frames),
            self.rss_kib,
            self.files_lag
        )
    }
}

/// `OCTROI_BACKLOG_RECORDS`: how many are queued; at the level long 1,000,000.
#[test]
fn a_sink_that_is_down_delays_nobody_and_what_was_queued_is_there_once() -> Result<()> {
    const TEST: &str = "a_sink_that_is_down_delays_nobody_and_what_was_queued_is_there_once";
    let _alone = alone();
    if Database::programs().is_none() {
        println!("SKIPPED: {TEST}: there is no PostgreSQL; `cargo xtask setup` installs it");
        return Ok(());
    }
    if !can_run(TEST) {
        return Ok(());
    }
    let asked = std::env::var("OCTROI_BACKLOG_RECORDS").ok();
    let asked = asked.and_then(|text| text.parse().ok());
    let queued = asked.unwrap_or(by_level(8_000, 15_000, 1_000_000));
    let mut database = Database::new("backlog")?;
    let mut crowded = Crowded::new(&database)?;
    crowded.site.start(octroi())?;
    let (before, seen) = settle(|| {
        let tenants = crowded.site.tenants.iter();
        let sent: Vec<_> = tenants
            .map(|one| one.counters(INSIDE))
            .collect::<Result<_>>()?;
        let seen = (0..2).map(|index| Ok(registers(&crowded.site, index)?.0.total().packets));
        Ok((sent, seen.collect::<Result<Vec<u64>>>()?))
    })?;
    // Every port is blessed by now: a frame is counted or, later, missing.
    crowded.watch(|report| Ok(windows(report)? > 3 && report.ports.len() > CROWD))?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = vec![crowded.crowd(&stop)?];
    for namespace in &crowded.site.tenants {
        let how = Mixed {
            gap: Duration::from_millis(1),
            turn: Duration::from_millis(20),
            limit: Duration::from_secs(3_000),
        };
        threads.push(mixed(namespace, how, &stop)?);
    }

    // Everybody is there: what follows is held against this.
    crowded.watch(|report| Ok(windows(report)? > 20))?;
    let begun = Instant::now();
    let up = crowded.watch(|_| Ok(begun.elapsed() > Duration::from_secs(4)))?;
    println!("{}", up.line("BACKLOG: the sink is there"));
    database.kill()?;
    let before_down = crowded.records(&crowded.site.report()?)?;
    let down = crowded.watch(|report| Ok(crowded.records(report)? >= before_down + queued))?;
    println!("{}", down.line("BACKLOG: it is down"));
    let report = crowded.site.report()?;
    let billing = crowded.sink(&report, "billing")?;
    ensure!(
        billing.progress.error.is_some(),
        "it is not down: {billing:?}"
    );
    let until = crowded.records(&report)?;
    let from = billing.progress.confirmed;
    ensure!(until - from >= queued, "{from} to {until}");

    database.start()?;
    let begun = Instant::now();
    let after = crowded.watch(|report| {
        let billing = crowded.sink(report, "billing")?;
        let limit = PATIENCE + Duration::from_millis(queued);
        ensure!(begun.elapsed() < limit, "it stays behind: {billing:?}");
        Ok(billing.progress.confirmed >= until)
    })?;
    println!("{}", after.line("BACKLOG: it catches up"));
    println!(
        "BACKLOG: {} records queued by {} ports, caught up at {} records/s, RSS {} KiB with the sink, {} without, {} while it \
         caught up",
        until - from,
        CROWD + 2,
        after.per_second(until - from),
        up.rss_kib,
        down.rss_kib,
        after.rss_kib
    );
    stop.store(true, Relaxed);
    for thread in threads {
        let ended = thread.join();
        ended.map_err(|_| anyhow::anyhow!("a sender panicked"))??;
    }

    for seen in [&down, &after] {
        // A machine that others use is slower at one time than at another, and while a backlog is brought in its processors
        // are shared; a meter that waits for a sink stands still.
        ensure!(
            seen.per_second(seen.windows) * 4 >= up.per_second(up.windows),
            "windows were delayed: {up:?}, {seen:?}"
        );
        ensure!(
            seen.per_second(seen.frames) * 4 >= up.per_second(up.frames),
            "frames were delayed: {up:?}, {seen:?}"
        );
        ensure!(
            seen.rss_kib <= up.rss_kib + MORE_KIB,
            "memory grows with what is queued: {up:?}, {seen:?}"
        );
        // Some windows: what it is behind by when nothing is wrong.
        ensure!(
            seen.files_lag <= 20_000.min(queued / 2).max(8 * up.files_lag),
            "the other sink was delayed: {up:?}, {seen:?}"
        );
    }
    let sent = [0, 1].map(|at| crowded.sent[at].load(Relaxed));
    let interfaces = settle(|| {
        let tenants = crowded.site.tenants.iter();
        tenants
            .map(|one| one.counters(INSIDE))
            .collect::<Result<Vec<_>>>()
    })?;
    exactly_once(&mut crowded, &database, sent)?;
    for (index, (before, after)) in before.into_iter().zip(interfaces).enumerate() {
        let sent = between(before, after)[2] + seen[index];
        let billed = database.ask(&format!(
            "SELECT sum(packets) FROM octroi.billed WHERE tenant = {} AND direction = 0",
            index + 1
        ))?;
        // What an interface says by itself, after the traffic.
        let more = billed.parse::<u64>()?.checked_sub(sent);
        ensure!(more.is_some_and(|more| more <= 20), "{billed} of {sent}");
    }
    println!(
        "CASES: records queued for a sink that was down, each once: {}",
        until - from
    );
    Ok(())
}

/// The daemon ends, another delivers the last window: the database has every record of the ledger, and the crowd's frames.
fn exactly_once(crowded: &mut Crowded, database: &Database, sent: [u64; 2]) -> Result<()> {
    settle(|| registers(&crowded.site, 0))?;
    crowded.site.stop();
    let db = rusqlite::Connection::open(&crowded.ledger)?;
    let size: u64 = db.query_row("SELECT count(*) FROM record", [], |row| {
        row.get::<_, i64>(0)
    })? as u64;
    let (records, bytes): (i64, i64) = db.query_row(
        "SELECT count(*), coalesce(sum(CASE WHEN kind = 1 AND zone >= 0 THEN l2_bytes END), 0) FROM record",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    drop(db);
    crowded.site.start(octroi())?;
    let begun = Instant::now();
    loop {
        let report = crowded.site.report()?;
        if crowded.sink(&report, "billing")?.progress.confirmed >= size {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "{:?}", report.sinks);
        thread::sleep(Duration::from_millis(100));
    }
    crowded.site.stop();
    let there = database.ask(&format!(
        "SELECT (SELECT count(*) FROM octroi.record WHERE seq < {size}) + (SELECT count(*) FROM octroi.total WHERE seq < {size}), \
         (SELECT sum(l2_bytes) FROM octroi.billed WHERE seq < {size})"
    ))?;
    ensure!(
        there == format!("{records}|{bytes}"),
        "{there}: {records}|{bytes}"
    );
    let crowd = database.ask(&format!(
        "SELECT sum(packets), sum(l2_bytes) FROM octroi.billed WHERE tenant = {CROWD_TENANT}"
    ))?;
    ensure!(
        crowd == format!("{}|{}", sent[0], sent[1]),
        "{crowd}: {sent:?}"
    );
    let forks = database.ask("SELECT count(*) FROM octroi.fork")?;
    ensure!(forks == "0", "{forks} forks");
    Ok(())
}
