//! Flow detail in real files: kill -9 between its file and the ledger's commit, what it costs, and
//! `octroi flows` over it.

#[path = "flow_detail/host.rs"]
mod host;

use host::{BEGUN_NS, Dir, Host, write};
use metering::{
    flow::Detail,
    ledger::{self, AddError, Addition, Anchor, FlowFilter, Forget, Ledger},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    env, fs,
    ops::ControlFlow,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, Output},
    time::Instant,
};

/// Rows by record; every root has its rows, and nothing has rows without a root.
fn whole(path: &Path) -> BTreeMap<u64, u64> {
    let mut rows = BTreeMap::new();
    let faults = ledger::flows(path, &FlowFilter::default(), &mut |line| {
        *rows.entry(line.seq).or_default() += 1;
        ControlFlow::Continue(())
    });
    assert_eq!(faults.expect("it can be read"), []);
    let records = ledger::records(path, &ledger::Filter::default()).expect("it can be read");
    let mut windows = 0;
    for record in records {
        let record = record.expect("a record");
        let found = rows.get(&record.seq).copied();
        assert_eq!(record.flows.map(|flows| flows.rows), found, "{record:?}");
        if let (Some(total), true) = (&record.total, record.direction == 0) {
            // One packet a window is of no flow.
            assert_eq!(total.unattributed.packets, 1);
            windows += 1;
        }
    }
    assert_eq!(rows.len(), windows);
    rows
}

const CHILD: &str = "OCTROI_TEST_FLOWS_CHILD";
/// Set: the child erases tenant 1 instead.
const ERASES: &str = "OCTROI_TEST_FLOWS_ERASES";

/// The child of the test below: it writes until the fault ends it.
#[test]
fn child_that_is_killed() {
    let Ok(path) = env::var(CHILD) else {
        return;
    };
    let fault = env::var("OCTROI_TEST_FAULT").expect("which fault");
    let (name, count) = fault.split_once(':').expect("NAME:COUNT");
    // SAFETY: a signal to this process, which nothing survives.
    let end = || unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
    };
    assert!(dataplane_common::fault::arm(
        name,
        count.parse().expect("a number"),
        end
    ));
    if env::var_os(ERASES).is_some() {
        erase(Path::new(&path)).expect("it is erased");
    } else {
        write(Path::new(&path), 50);
    }
}

fn erase(path: &Path) -> Result<u64, AddError> {
    let forget = Forget {
        tenant: 1,
        who: "uid 0".into(),
        reason: "asked".into(),
        unconfirmed: u64::MAX,
        ..Forget::default()
    };
    ledger::append(path, &Addition::Forget(forget), BEGUN_NS)
}

#[test]
fn an_erasure_that_kill_9_ends_is_not_begun_or_is_finished_by_the_next_start() {
    let dir = Dir::new("erase");
    let path = dir.ledger();
    write(&path, 3);
    let held = || ledger::held(&path, 1, 0).expect("it can be read");
    let leaves = || {
        let records = ledger::records(&path, &ledger::Filter::default()).expect("it can be read");
        let erased = records.iter().flatten();
        erased
            .filter(|record| record.erased_flows.is_some())
            .count()
    };
    let rows = held().flow_rows;
    for (point, left, leaf) in [("written", false, 0), ("committed", true, 1)] {
        let child = Command::new(env::current_exe().expect("this test"))
            .args(["--exact", "child_that_is_killed", "--nocapture"])
            .env(CHILD, &path)
            .env(ERASES, "1")
            .env("OCTROI_TEST_FAULT", format!("{point}:1"))
            .output()
            .expect("this test runs");
        assert_eq!(child.status.signal(), Some(libc::SIGKILL), "{child:?}");
        // Either way the rows are all there, and the ledger knows whether they should be.
        assert_eq!((held().flow_rows, held().unfinished), (rows, left));
        assert_eq!(leaves(), leaf);
    }
    // As the next daemon does. Window 3 has four flows for each tenant.
    write(&path, 1);
    assert_eq!((held().flow_rows, held().unfinished), (4, false));
    assert_eq!(leaves(), 1);
    erase(&path).expect("it is erased");
    assert_eq!((held().flow_rows, leaves()), (0, 2));
    let refused = erase(&path).expect_err("nothing is kept").to_string();
    assert!(refused.contains("nothing of tenant 1"), "{refused}");
}

#[test]
fn after_kill_9_at_each_step_every_root_has_its_rows_and_no_row_is_without() {
    let dir = Dir::new("kill");
    let path = dir.ledger();
    let mut kills = 0;
    for round in 1..6 {
        for point in ["flows_written", "written", "committed"] {
            let child = Command::new(env::current_exe().expect("this test"))
                .args(["--exact", "child_that_is_killed", "--nocapture"])
                .env(CHILD, &path)
                .env("OCTROI_TEST_FAULT", format!("{point}:{round}"))
                .output()
                .expect("this test runs");
            assert_eq!(child.status.signal(), Some(libc::SIGKILL), "{child:?}");
            kills += 1;
            // As the next daemon does: it opens, discards, and goes on.
            write(&path, 1);
            whole(&path);
        }
    }
    // Nothing was put aside: each start went on with the ledger of the one before.
    let names = fs::read_dir(&dir.0).expect("the directory");
    let names: Vec<String> = names
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    assert!(!names.iter().any(|name| name.contains("superseded")));
    assert!(
        names.iter().any(|name| name.contains("2026-11-24")),
        "{names:?}"
    );
    println!("CASES: kills around the commit of flow detail: {kills}");
}

/// CPU time of this thread, ns.
fn cpu_ns() -> u64 {
    dataplane::host::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

#[test]
fn a_window_of_100_000_flows_costs_well_below_a_second() {
    const FLOWS: u64 = 100_000;
    let dir = Dir::new("cost");
    for detail in [Detail::Off, Detail::Prefix, Detail::Full] {
        let path = dir.0.join(format!("{}.db", detail.as_str()));
        let mut host = Host::new();
        let begun = Ledger::open(&path, &host.identity(), &Anchor::default(), None);
        let mut ledger = begun.expect("it opens").ledger;
        host.owners.truncate(1);
        host.owners[0].detail = detail;
        ledger.commit(&host.cut(), None).expect("it is committed");
        host.flows = FLOWS;
        let cut = host.cut();
        let before = cpu_ns();
        ledger.commit(&cut, None).expect("it is committed");
        let spent = cpu_ns() - before;
        println!(
            "flow detail {}: {} ms of CPU for a window of {FLOWS} flows",
            detail.as_str(),
            spent / 1_000_000
        );
        assert!(spent < 1_000_000_000, "{spent} ns");
        let rows: u64 = {
            let mut rows = 0;
            let faults = ledger::flows(&path, &FlowFilter::default(), &mut |_| {
                rows += 1;
                ControlFlow::Continue(())
            });
            assert_eq!(faults.expect("it can be read"), []);
            rows
        };
        let expected = match detail {
            Detail::Off => 0,
            // The first window's flow, and a /24 for 256 addresses.
            Detail::Prefix => 1 + FLOWS.div_ceil(256),
            Detail::Full => 1 + FLOWS,
        };
        assert_eq!(rows, expected);
    }
}

#[test]
fn erasing_one_tenant_of_two_from_600_000_rows_takes_as_long_as_is_printed() {
    let dir = Dir::new("large");
    let path = dir.ledger();
    let mut host = Host::new();
    let begun = Ledger::open(&path, &host.identity(), &Anchor::default(), None);
    let mut ledger = begun.expect("it opens").ledger;
    host.flows = 100_000;
    for _ in 0..3 {
        ledger.commit(&host.cut(), None).expect("it is committed");
    }
    drop(ledger);
    let held = |tenant| ledger::held(&path, tenant, 0).expect("it can be read");
    let [goes, stays] = [1, 2].map(|tenant| held(tenant).flow_rows);
    let (begun, before) = (Instant::now(), cpu_ns());
    erase(&path).expect("it is erased");
    let (took, spent) = (begun.elapsed(), cpu_ns() - before);
    println!(
        "erased {goes} of {} rows in {} ms, {} ms of CPU",
        goes + stays,
        took.as_millis(),
        spent / 1_000_000
    );
    // The ledger's thread is busy meanwhile.
    assert!(spent < 20_000_000_000, "{spent} ns");
    assert_eq!([1, 2].map(|tenant| held(tenant).flow_rows), [0, stays]);
    assert!(goes > 300_000);
}

fn octroi(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_octroi"))
        .args(arguments)
        .output()
        .expect("octroi runs")
}

#[test]
fn octroi_flows_shows_rows_and_enters_who_looked_first() {
    let dir = Dir::new("cli");
    let path = dir.ledger();
    write(&path, 3);
    let file = path.display().to_string();
    let shown = octroi(&[
        "flows", "--ledger", &file, "--tenant", "2", "--format", "json",
    ]);
    assert!(shown.status.success(), "{shown:?}");
    let lines: Vec<Value> = String::from_utf8_lossy(&shown.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 1 + 2 + 3);
    assert_eq!(lines[5]["remote"], "198.0.0.2");
    assert_eq!(lines[5]["l2_bytes"], "200");
    assert_eq!(lines[5]["port"], "port-2");
    let looks = ledger::looks(&path).expect("it can be read");
    assert_eq!(looks.len(), 1);
    assert_eq!(looks[0].what, "flows --tenant 2");
    assert!(looks[0].who.starts_with("uid "), "{looks:?}");
    let csv = octroi(&[
        "flows", "--ledger", &file, "--limit", "2", "--format", "csv",
    ]);
    assert_eq!(String::from_utf8_lossy(&csv.stdout).lines().count(), 3);
    let table = octroi(&["flows", "--ledger", &file, "--remote", "198.0.0.1/32"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert_eq!(table.lines().count(), 1 + 2 * 2, "{table}");
    for wrong in ["198.0.0.1/33", "host", "::/129", "1.2.3.4/x"] {
        let refused = octroi(&["flows", "--ledger", &file, "--remote", wrong]);
        assert!(
            !refused.status.success() && refused.stdout.is_empty(),
            "{wrong}"
        );
    }
    assert_eq!(ledger::looks(&path).expect("it can be read").len(), 3);
    // A ledger that takes no entry shows nothing, though its rows could be read.
    let lock = rusqlite::Connection::open(&path).expect("the ledger");
    lock.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    let refused = octroi(&["flows", "--ledger", &file]);
    assert!(
        !refused.status.success() && refused.stdout.is_empty(),
        "{refused:?}"
    );
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("cannot be entered"), "{said}");
}

#[test]
fn a_copy_is_made_and_put_back_by_the_command_and_the_status_says_what_goes_when() {
    let dir = Dir::new("copy");
    let path = dir.ledger();
    write(&path, 3);
    let (file, copy) = (path.display().to_string(), dir.0.join("copy.db"));
    let copy = copy.display().to_string();
    let made = octroi(&["ledger", "backup", "--ledger", &file, &copy]);
    assert!(made.status.success(), "{made:?}");
    let again = octroi(&["ledger", "backup", "--ledger", &file, &copy]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        !again.status.success() && said.contains("this exists"),
        "{said}"
    );
    // With a daemon's lock held, and with a ledger in the place, nothing is put back.
    let run = dir.0.join("run");
    fs::create_dir(&run).expect("a run directory");
    let run_dir = run.display().to_string();
    let restore = || {
        octroi(&[
            "ledger",
            "restore",
            "--ledger",
            &file,
            "--run-dir",
            &run_dir,
            &copy,
        ])
    };
    assert!(!restore().status.success());
    for suffix in ["", "-wal", "-shm"] {
        // Looking at a ledger leaves a journal, which is moved away with it.
        let _ = fs::rename(format!("{file}{suffix}"), format!("{file}.old{suffix}"));
    }
    let lock = fs::File::create(run.join("lock")).expect("the lock");
    lock.lock().expect("nobody has it");
    let refused = restore();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("no daemon"),
        "{said}"
    );
    assert!(!path.exists());
    drop(lock);
    let restored = restore();
    assert!(restored.status.success(), "{restored:?}");
    whole(&path);
    let shown = octroi(&["flows", "--ledger", &file, "--limit", "1"]);
    assert!(shown.status.success(), "{shown:?}");
    let status = octroi(&["ledger", "status", "--ledger", &file, "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["looks"], "1");
    assert_eq!(status["pruned"], "0");
    assert_eq!(status["flow_files"], "1");
    // The file of 2026-11-24, seven days after its end; 13 months after the first window's end.
    assert_eq!(status["oldest_flow_file_goes"], "2026-12-02T00:00:00.000Z");
    assert_eq!(status["oldest_record_goes"], "2028-01-01T23:31:00.000Z");
    let looks = octroi(&["ledger", "looks", "--ledger", &file]);
    let looks = String::from_utf8_lossy(&looks.stdout).into_owned();
    assert!(looks.trim_end().ends_with(": flows --limit 1"), "{looks}");
}
