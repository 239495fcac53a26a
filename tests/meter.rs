//! Windows and records of the real daemon: under traffic, through kill -9 at every step, and through
//! everything that can happen to the file.
//!
//! The reference is what the tenants' own interfaces have sent: octroi's records, all of them together,
//! must say the same to the byte.

#[path = "meter/bill.rs"]
mod bill;
#[path = "meter/site.rs"]
mod site;
mod support;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::fault::Point;
use metering::{
    ledger::{self, Filter},
    record::{Flags, Kind, Record},
};
use site::{CHURNED, Disk, Metered, Traffic};
use std::{
    fs,
    time::{Duration, Instant},
};
use support::{alone, by_level, can_run, octroi, settle};

#[test]
fn every_window_adds_up_and_all_of_them_are_what_the_tenants_sent() -> Result<()> {
    const TEST: &str = "every_window_adds_up_and_all_of_them_are_what_the_tenants_sent";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let mut metered = Metered::new("50ms", None)?;
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    let windows = by_level(50, 300, 1_100);
    let begun = Instant::now();
    let (mut moved, mut churned) = (0, 0);
    while metered.status()?.windows < windows {
        ensure!(
            begun.elapsed() < Duration::from_secs(600),
            "{:?}\n{}",
            metered.status()?,
            metered.site.log()
        );
        // In the middle of it, zones and the tenant of a port change, and a port comes and goes.
        let config = fs::read_to_string(metered.site.config_path())?;
        let tenant = if moved % 2 == 0 { "alice" } else { "carol" };
        let changed = config
            .replace("cidrs = [\"10.77.0.254/32\"", "cidrs = [\"10.77.0.252/30\"")
            .replace(
                "name = \"carol-port\"\ntenant = \"carol\"",
                &format!("name = \"carol-port\"\ntenant = \"{tenant}\""),
            );
        let request = octroi::daemon::control::Request::Apply {
            config: if moved % 4 < 2 { changed } else { config },
        };
        metered.site.ask(&request)?;
        moved += 1;
        if moved % 5 == 0 {
            let port = metered.site.port(CHURNED);
            metered.site.host.command(&format!("ip link del {port}"))?;
            metered.site.connect_tenant(CHURNED)?;
            churned += 1;
        }
        std::thread::sleep(Duration::from_millis(150));
    }
    traffic.stop()?;
    let bill = metered.conserved()?;
    ensure!(
        bill.windows() as u64 >= windows,
        "{} windows",
        bill.windows()
    );
    println!(
        "CASES: windows of the daemon under traffic: {}",
        bill.windows()
    );
    println!("CASES: revisions of zones and tenants in between: {moved}");
    println!("CASES: ports that went and came in between: {churned}");
    Ok(())
}

/// Starts the daemon with a fault armed, and returns when it has ended there.
fn crash_at(metered: &mut Metered, point: Point, count: u32) -> Result<()> {
    let fault = format!("{}:{count}", point.name());
    let environment = [("OCTROI_TEST_FAULT", fault.as_str())];
    if metered.site.start_with(octroi(), &environment).is_err() {
        return Ok(()); // it ended before it answered
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        if metered.site.ends_within(Duration::from_millis(300))? {
            return Ok(());
        }
        if matches!(point, Point::Retired | Point::Released) {
            let port = metered.site.port(CHURNED);
            // The daemon may die in the middle of either.
            let _ = metered.site.host.command(&format!("ip link del {port}"));
            let _ = metered.site.connect_tenant(CHURNED);
        }
    }
    anyhow::bail!("{fault} was never reached:\n{}", metered.site.log())
}

#[test]
fn kill_9_at_every_step_loses_no_byte_and_writes_none_twice() -> Result<()> {
    const TEST: &str = "kill_9_at_every_step_loses_no_byte_and_writes_none_twice";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let rounds = by_level(1, 4, 18);
    let mut metered = Metered::new("100ms", None)?;
    // A ledger is made once: these two before anything else.
    crash_at(&mut metered, Point::LedgerMade, 1)?;
    crash_at(&mut metered, Point::LedgerNamed, 1)?;
    let mut kills = 2;
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    metered.wait("a first window", |status| status.windows > 1)?;
    metered.site.kill()?;
    kills += 1;
    for round in 0..rounds {
        for point in Point::ALL {
            if matches!(point, Point::LedgerMade | Point::LedgerNamed) {
                continue;
            }
            // A checkpoint comes every ten seconds: once is enough.
            if *point == Point::Noted && round != 0 {
                continue;
            }
            if *point == Point::Noted {
                // Each cut puts the next checkpoint off.
                metered.configure("60s")?;
                crash_at(&mut metered, *point, 1)?;
                metered.configure("100ms")?;
            } else {
                crash_at(&mut metered, *point, 1 + round % 3)?;
            }
            kills += 1;
        }
    }
    metered.site.start(octroi())?;
    metered.wait("a last window", |status| status.windows > 1)?;
    traffic.stop()?;
    let bill = metered.conserved()?;
    ensure!(bill.flagged(Flags::MERGED) > 0, "no window was merged");
    println!("CASES: kill -9 at a step of the meter, under traffic: {kills}");
    println!("CASES: steps at which it was killed: {}", Point::ALL.len());
    println!("CASES: records of it: {}", bill.records.len());
    Ok(())
}

#[test]
fn what_happens_to_the_file_stops_no_counting_and_heals() -> Result<()> {
    const TEST: &str = "what_happens_to_the_file_stops_no_counting_and_heals";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let disk = Disk::new(4_096)?;
    let mut metered = Metered::new("100ms", Some(&disk.0))?;
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    let mut cases = 0;
    let mut fault = |name: &str, begin: &dyn Fn() -> Result<()>, end: &dyn Fn() -> Result<()>| {
        let windows = metered.wait("a window", |status| {
            status.error.is_none() && status.windows > 2
        })?;
        begin()?;
        let failed = metered.wait(name, |status| status.error.is_some())?;
        let message = failed.error.unwrap_or_default();
        ensure!(
            message.contains("ledger.db") && message.contains("bytes are counted on"),
            "{name}: {message}"
        );
        // Nothing is written, and counting goes on.
        std::thread::sleep(Duration::from_millis(300));
        end()?;
        metered.wait(name, |status| {
            status.error.is_none() && status.windows > windows.windows + 1
        })?;
        cases += 1;
        Ok(())
    };
    fault("disk full", &|| disk.fill(), &|| disk.free())?;
    let holder = std::cell::RefCell::new(None);
    fault(
        "locked",
        &|| {
            let db = rusqlite::Connection::open(disk.0.join("ledger.db"))?;
            db.execute_batch("BEGIN EXCLUSIVE")?;
            *holder.borrow_mut() = Some(db);
            Ok(())
        },
        &|| {
            drop(holder.borrow_mut().take());
            Ok(())
        },
    )?;
    traffic.stop()?;
    let bill = metered.conserved()?;
    ensure!(bill.flagged(Flags::MERGED) > 0, "no window was merged");
    println!("CASES: faults of the ledger's disk under traffic: {cases}");
    Ok(())
}

#[test]
fn a_ledger_that_is_deleted_restored_or_foreign_is_superseded_and_no_byte_is_billed_twice()
-> Result<()> {
    const TEST: &str =
        "a_ledger_that_is_deleted_restored_or_foreign_is_superseded_and_no_byte_is_billed_twice";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let mut metered = Metered::new("100ms", None)?;
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    let first = metered
        .wait("windows", |status| status.windows > 3)?
        .ledger_id;
    // A backup, as people make it.
    let backup = metered.site.directory().join("backup.db");
    let db = rusqlite::Connection::open(&metered.ledger)?;
    db.execute("VACUUM INTO ?1", [backup.display().to_string()])?;
    drop(db);
    let windows = metered.status()?.windows;
    metered.wait("more windows", |status| status.windows > windows + 3)?;
    // Deleted while it is open: what was committed is gone with the file, kept here to be added up.
    let kept = metered.site.directory().join("kept");
    fs::create_dir_all(&kept)?;
    let db = rusqlite::Connection::open(&metered.ledger)?;
    db.execute(
        "VACUUM INTO ?1",
        [kept.join("scratch.db").display().to_string()],
    )?;
    drop(db);
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        let from = metered.site.directory().join(name);
        let _ = fs::rename(&from, kept.join(name));
    }
    let second = metered
        .wait("another ledger", |status| {
            status.ledger_id != first && status.error.is_none()
        })?
        .ledger_id;
    let windows = metered.status()?.windows;
    metered.wait("its windows", |status| status.windows > windows + 2)?;
    // The backup is put back in its place: it is the first ledger, and an old state of it.
    fs::rename(&backup, &metered.ledger)?;
    for name in ["ledger.db-wal", "ledger.db-shm"] {
        let _ = fs::remove_file(metered.site.directory().join(name));
    }
    let third = metered
        .wait("a third ledger", |status| {
            status.ledger_id != second && status.error.is_none()
        })?
        .ledger_id;
    ensure!(third != first, "an old copy was continued");
    let windows = metered.status()?.windows;
    metered.wait("its windows", |status| status.windows > windows + 2)?;
    traffic.stop()?;
    settle(|| Metered::sent(&metered.site))?;
    metered.site.stop();
    let log = metered.site.log();
    ensure!(log.contains("ALARM"), "{log}");
    let begins: Vec<Record> = ledger::records(&metered.ledger, &Filter::default())?
        .into_iter()
        .filter_map(Result::ok)
        .filter(|record| record.kind == Kind::Begin)
        .collect();
    let [begin] = &begins[..] else {
        anyhow::bail!("{} BEGIN records", begins.len());
    };
    ensure!(
        begin.supersedes.is_some(),
        "the new ledger does not say what it supersedes"
    );
    // The third ledger goes on where the second one was: its first reading is not 0.
    let continued = ledger::records(&metered.ledger, &Filter::default())?
        .into_iter()
        .filter_map(Result::ok)
        .find(|record| record.kind == Kind::Meter && record.tenant == 1 && record.direction == 0)
        .and_then(|record| record.reading)
        .context("no record of alice")?;
    ensure!(continued.register_start.packets > 0, "it begins at 0 again");
    println!("CASES: ledgers deleted and restored under a daemon: 2");
    Ok(())
}

#[test]
fn a_copy_under_traffic_is_whole_and_put_back_is_superseded_and_old_flow_files_go() -> Result<()> {
    const TEST: &str =
        "a_copy_under_traffic_is_whole_and_put_back_is_superseded_and_old_flow_files_go";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let mut metered = Metered::new("100ms", None)?;
    let old = metered
        .site
        .directory()
        .join("ledger.db.flows-2020-02-29.db");
    fs::write(&old, "rows that are years old")?;
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    let first = metered
        .wait("windows", |status| status.windows > 3)?
        .ledger_id;
    let begun = Instant::now();
    while old.exists() {
        ensure!(
            begun.elapsed() < Duration::from_secs(20),
            "an old flow file stays\n{}",
            metered.site.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let (ledger, copy) = (
        metered.ledger.display().to_string(),
        metered.site.directory().join("copy.db"),
    );
    let run_dir = metered.site.run_dir().display().to_string();
    let command = |arguments: &[&str]| {
        let output = std::process::Command::new(octroi())
            .arg("ledger")
            .args(arguments)
            .output()?;
        let said = [output.stdout, output.stderr].concat();
        anyhow::Ok((
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        ))
    };
    let copy_name = copy.display().to_string();
    let copied = command(&["backup", "--ledger", &ledger, &copy_name])?;
    ensure!(copied.0, "{}", copied.1);
    let restore = [
        "restore",
        "--ledger",
        &ledger,
        "--run-dir",
        &run_dir,
        &copy_name,
    ];
    let refused = command(&restore)?;
    ensure!(!refused.0, "{}", refused.1);
    // All records up to one window, while the daemon went on.
    let rows = ledger::records(&copy, &Filter::default())?;
    for (seq, row) in (0..).zip(&rows) {
        let record = row.as_ref().map_err(|(_, error)| *error)?;
        ensure!(record.seq == seq, "record {seq} is not in the copy");
    }
    let windows = metered.status()?.windows;
    metered.wait("more windows", |status| status.windows > windows + 3)?;
    metered.site.kill()?;
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::rename(
            format!("{ledger}{suffix}"),
            format!("{ledger}.lost{suffix}"),
        );
    }
    let restored = command(&restore)?;
    ensure!(restored.0, "{}", restored.1);
    metered.site.start(octroi())?;
    let status = metered.wait("its windows", |status| status.windows > 2)?;
    ensure!(status.ledger_id != first, "an old copy was continued");
    traffic.stop()?;
    metered.site.stop();
    // What the copy does not have is told, and not billed: together they are all that was counted.
    let records = ledger::records(&metered.ledger, &Filter::default())?;
    let records: Vec<Record> = records.into_iter().filter_map(Result::ok).collect();
    let supersedes = records[0].supersedes.context("it supersedes nothing")?;
    ensure!(supersedes.last_seq >= rows.len() as u64, "{supersedes:?}");
    let gap = records
        .iter()
        .find(|record| record.kind == Kind::Nodata && record.port_uid == "alice-port")
        .context("nothing is told of what was lost")?;
    let last = rows
        .iter()
        .flatten()
        .rfind(|record| {
            record.kind == Kind::Meter
                && record.zone.is_none()
                && (record.port_uid.as_str(), record.direction) == ("alice-port", gap.direction)
        })
        .and_then(|record| record.reading)
        .context("the copy has no record of alice")?;
    let start = gap.reading.context("it has no reading")?.register_start;
    ensure!(start == last.register_end, "{gap:?} after {last:?}");
    Ok(())
}
