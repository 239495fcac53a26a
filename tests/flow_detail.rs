//! Flow detail in real files: kill -9 between its file and the ledger's commit, what it costs, and
//! `octroi flows` over it.

use metering::{
    flow::{Detail, FlowDelta},
    ledger::{self, Anchor, FlowFilter, Identity, Ledger},
    meter::{Cut, Epoch, Owner, Sums, Time},
    record::Clock,
    window::Counts,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    env, fs,
    ops::ControlFlow,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const MINUTE_NS: u64 = 60_000_000_000;
/// 2026-11-24 23:30:00 UTC: the day ends within a test.
const BEGUN_NS: i64 = 1_795_563_000_000_000_000;

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("octroi-flows-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }

    fn ledger(&self) -> PathBuf {
        self.0.join("ledger.db")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Two ports of two tenants; window `n` has `n + 1` flows each of 2 packets, and a packet of none.
struct Host {
    window: u64,
    owners: Vec<Owner>,
    flows: u64,
}

impl Host {
    fn new() -> Self {
        let owner = |incarnation: u64| Owner {
            incarnation,
            name: format!("port-{incarnation}"),
            tenant: incarnation as u32,
            live: true,
            since_ns: 1,
            directions: Some([0, 1].map(|_| Sums {
                zones: vec![Counts::default(); 4],
                ..Sums::default()
            })),
            detail: Detail::Full,
            ..Owner::default()
        };
        Self {
            window: 0,
            owners: vec![owner(1), owner(2)],
            flows: 1,
        }
    }

    fn time(&self) -> Time {
        let boot_ns = (self.window + 1) * MINUTE_NS;
        Time {
            boot_ns,
            mono_ns: boot_ns,
            utc_ns: BEGUN_NS + boot_ns as i64,
        }
    }

    fn cut(&mut self) -> Cut {
        for owner in &mut self.owners {
            owner.flows = (0..self.flows).map(flow).collect();
            let counted = &mut owner.directions.as_mut().expect("it has registers")[0].zones[1];
            counted.packets += 2 * self.flows + 1;
            counted.l2_bytes += 200 * self.flows + 100;
            counted.l3_bytes += 172 * self.flows + 86;
        }
        let cut = Cut {
            window: self.window,
            revision: 1,
            time: self.time(),
            nominal_ns: None,
            window_ns: MINUTE_NS,
            clock: Clock::default(),
            owners: self.owners.clone(),
            ..Cut::default()
        };
        self.window += 1;
        self.flows += 1;
        cut
    }

    fn identity(&self) -> Identity {
        Identity {
            epoch: Epoch {
                host: "host".into(),
                boot_id: [1; 16],
                map_generation: [2; 16],
            },
            machine_id: "machine".into(),
            now: self.time(),
        }
    }
}

fn flow(number: u64) -> FlowDelta {
    let address = |first: u8| {
        let mut address = [0; 16];
        address[0] = first;
        address[1..4].copy_from_slice(&(number as u32).to_be_bytes()[1..]);
        address
    };
    FlowDelta {
        zone: 1,
        ethertype: 0x0800,
        protocol: 6,
        local: address(10),
        remote: address(198),
        local_port: 443,
        remote_port: 50_000 + (number % 10_000) as u16,
        first_ns: 1,
        last_ns: 2,
        counts: Counts {
            packets: 2,
            l2_bytes: 200,
            l3_bytes: 172,
        },
        tcp_flags: 0x1B,
        ..FlowDelta::default()
    }
}

/// The anchor that a daemon before left: here a file, which is written after the commit as the map is.
fn remembered(path: &Path) -> Anchor {
    let file = path.with_extension("anchor");
    let Ok(bytes) = fs::read(file) else {
        return Anchor::default();
    };
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    Anchor {
        ledger_id: bytes[..16].try_into().expect("16 bytes"),
        size: number(16),
        windows: number(24),
        head: bytes[32..].try_into().expect("32 bytes"),
    }
}

fn remember(path: &Path, anchor: &Anchor) {
    let bytes = [
        &anchor.ledger_id[..],
        &anchor.size.to_le_bytes(),
        &anchor.windows.to_le_bytes(),
        &anchor.head,
    ]
    .concat();
    let new = path.with_extension("anchor-new");
    fs::write(&new, bytes).expect("the anchor");
    fs::rename(new, path.with_extension("anchor")).expect("the anchor");
}

/// Opens the ledger and commits so many windows from where it stands; returns their records.
fn write(path: &Path, windows: u64) -> u64 {
    let mut host = Host::new();
    let begun = Ledger::open(path, &host.identity(), &remembered(path), None).expect("it opens");
    let mut ledger = begun.ledger;
    remember(path, &ledger.anchor());
    while host.window < ledger.state().windows() {
        host.cut();
    }
    let mut records = 0;
    for _ in 0..windows {
        let committed = ledger.commit(&host.cut(), None).expect("it is committed");
        assert_eq!(committed.alarms, [""; 0]);
        remember(path, &committed.anchor);
        records += committed.records;
    }
    records
}

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
    write(Path::new(&path), 50);
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
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec that lives.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
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
