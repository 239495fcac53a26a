//! What goes when its time is over, and copies.

use super::*;
use std::os::unix::fs::PermissionsExt as _;

const DAY_NS: i64 = 86_400_000_000_000;

fn keep(records_days: u32) -> Keep {
    Keep {
        flows_days: 7,
        records_days,
        rollups_days: 3_660,
        unconfirmed: u64::MAX,
        clock_is_sound: true,
    }
}

/// Cuts so many windows with bytes in each.
fn windows(host: &mut Host, count: usize) {
    for _ in 0..count {
        host.wait(MINUTE_NS);
        host.carry(0, 0, 1, 3, 100);
        host.cut(true).expect("it is committed");
    }
}

fn retain(host: &mut Host, keep: &Keep, now: i64) -> Retained {
    let ledger = host.ledger.as_mut().expect("it is open");
    ledger.retain(keep, now).expect("it works")
}

fn seqs(host: &Host) -> Vec<u64> {
    // What is said of the ledger itself stays.
    let records = host.records();
    let erasures = records.iter().filter(|record| record.erased.is_empty());
    erasures.map(|record| record.seq).collect()
}

/// Every leaf that was ever there has the hash that it had, with its record or without.
fn leaves(host: &Host) -> Vec<[u8; 32]> {
    let db = schema::open_to_read(&host.path).expect("it can be read");
    let size = host
        .ledger
        .as_ref()
        .map_or(0, |ledger| ledger.anchor().size);
    (0..size)
        .map(|seq| {
            let leaf = retention::leaf(&db, seq).expect("it can be read");
            leaf.unwrap_or_else(|| panic!("leaf {seq} is gone"))
        })
        .collect()
}

#[test]
fn what_is_older_than_it_may_be_goes_and_its_hash_stays() {
    let mut host = Host::new();
    windows(&mut host, 5);
    let before = leaves(&host);
    let records = host.records();
    let second = records.iter().rfind(|record| record.window_id == 1);
    let second = second.expect("it is there").clone();
    let now = second.window_end + 30 * DAY_NS;
    assert_eq!(retain(&mut host, &keep(30), now - 1).pruned, second.seq - 3);
    let retained = retain(&mut host, &keep(30), now);
    assert_eq!((retained.pruned, retained.more), (3, false));
    let left: Vec<u64> = [0]
        .into_iter()
        .chain(second.seq + 1..before.len() as u64)
        .collect();
    assert_eq!(seqs(&host), left);
    assert_eq!(leaves(&host)[..before.len()], before);
    assert_eq!(retain(&mut host, &keep(30), now), Retained::default());
    let status = kept(&host.path, &keep(30)).expect("it can be read");
    assert_eq!(status.pruned, second.seq);
    assert_eq!(status.records_go, Some(now + MINUTE_NS as i64));
    // The next start goes on with it.
    host.crash();
    windows(&mut host, 1);
    assert_eq!(host.superseded, [""; 0]);
    assert_eq!(seqs(&host).len(), left.len() + 3);
}

#[test]
fn the_first_record_and_the_last_one_stay_and_the_ledger_is_known_again() {
    let mut host = Host::new();
    windows(&mut host, 2);
    let early = host.kernel;
    windows(&mut host, 3);
    let before = leaves(&host);
    let last = before.len() as u64 - 1;
    assert_eq!(retain(&mut host, &keep(1), i64::MAX).pruned, last - 1);
    assert_eq!(seqs(&host), [0, last]);
    assert_eq!(leaves(&host)[..before.len()], before);
    // An anchor whose leaf is pruned by now.
    host.kernel = early;
    host.crash();
    host.memory = None;
    host.open().expect("it opens");
    assert_eq!(host.superseded, [""; 0]);
    assert_eq!(
        host.ledger.as_ref().map(|ledger| ledger.anchor().size),
        Some(last + 2)
    );
    windows(&mut host, 1);
    assert_eq!(leaves(&host)[..before.len()], before);
}

#[test]
fn what_a_sink_has_not_confirmed_stays() {
    let mut host = Host::new();
    windows(&mut host, 4);
    let all = seqs(&host);
    let unconfirmed = Keep {
        unconfirmed: 4,
        ..keep(1)
    };
    assert_eq!(retain(&mut host, &unconfirmed, i64::MAX).pruned, 3);
    assert_eq!(seqs(&host), [&[0], &all[4..]].concat());
    let none = Keep {
        unconfirmed: 0,
        ..keep(1)
    };
    assert_eq!(retain(&mut host, &none, i64::MAX).pruned, 0);
}

#[test]
fn a_transaction_is_bounded_and_a_clock_that_may_be_wrong_prunes_nothing() {
    let mut host = Host::new();
    windows(&mut host, 400);
    let all = seqs(&host).len() as u64;
    let unsound = Keep {
        clock_is_sound: false,
        ..keep(1)
    };
    assert_eq!(retain(&mut host, &unsound, i64::MAX), Retained::default());
    let first = retain(&mut host, &keep(1), i64::MAX);
    assert_eq!((first.pruned, first.more), (1_000, true));
    let second = retain(&mut host, &keep(1), i64::MAX);
    assert_eq!((second.pruned, second.more), (all - 1_000 - 1, false));
}

#[test]
fn nothing_goes_while_somebody_has_the_lock() {
    let mut host = Host::new();
    windows(&mut host, 2);
    let all = seqs(&host);
    let lock = Connection::open(&host.path).expect("the ledger");
    lock.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    let ledger = host.ledger.as_mut().expect("it is open");
    ledger
        .retain(&keep(1), i64::MAX)
        .expect_err("somebody has the lock");
    drop(lock);
    assert_eq!(seqs(&host), all);
    windows(&mut host, 1);
    host.audit_all();
}

#[test]
fn a_flow_file_goes_when_its_day_ended_long_enough_ago() {
    let mut host = Host::new();
    windows(&mut host, 1);
    let today = days::of(host.identity.now.utc_ns);
    let files = [today - 9, today - 8, today - 7, today];
    for day in files {
        let file = days::name(&host.path, day);
        fs::write(&file, "rows").expect("a file");
        fs::write(begin::beside(&file, "wal"), "a journal").expect("a file");
    }
    fs::write(
        host.path.with_file_name("ledger.db.flows-notes.db"),
        "not ours",
    )
    .expect("a file");
    let there = |host: &Host| -> Vec<i64> {
        let files = days::files(&host.path).expect("the directory is there");
        files.into_iter().map(|(day, _)| day).collect()
    };
    assert_eq!(there(&host), files);
    let status = kept(&host.path, &keep(30)).expect("it can be read");
    assert_eq!((status.flow_files, status.flow_bytes), (4, 4 * (4 + 9)));
    let now = today * DAY_NS;
    assert_eq!(status.flows_go, Some(now - DAY_NS));
    // Of the file of 8 days ago the last window ended exactly 7 days ago.
    let unsound = Keep {
        clock_is_sound: false,
        ..keep(30)
    };
    assert_eq!(retain(&mut host, &unsound, now - 1).flow_files, 1);
    assert_eq!(retain(&mut host, &unsound, now).flow_files, 1);
    assert_eq!(there(&host), [today - 7, today]);
    assert!(!begin::beside(&days::name(&host.path, today - 8), "wal").exists());
}

#[test]
fn a_copy_that_is_made_while_windows_are_written_is_whole() {
    let mut host = Host::new();
    windows(&mut host, 3);
    let (path, dir) = (host.path.clone(), host.dir.0.clone());
    let copies = std::thread::spawn(move || {
        (0..20)
            .map(|number| {
                let to = dir.join(format!("copy-{number}.db"));
                let copied = backup(&path, &to).expect("it is copied");
                let rows = query::records(&to, &Filter::default()).expect("it can be read");
                let seqs: Vec<u64> = rows.iter().flatten().map(|record| record.seq).collect();
                // All records up to one window, and nothing of the next.
                assert_eq!(seqs, (0..copied.leaves).collect::<Vec<_>>());
                assert_eq!(copied.leaves % 3, 1);
                let mode = fs::metadata(&to).expect("it is there").permissions().mode();
                assert_eq!(mode & 0o777, 0o600);
                copied.leaves
            })
            .collect::<Vec<u64>>()
    });
    while !copies.is_finished() {
        windows(&mut host, 1);
    }
    let leaves = copies.join().expect("every copy is whole");
    assert!(leaves.first() < leaves.last(), "{leaves:?}");
    println!(
        "CASES: copies of a ledger that is written: {}",
        leaves.len()
    );
    host.audit_all();
}

#[test]
fn a_ledger_that_comes_back_from_a_copy_is_superseded_and_bills_nothing_twice() {
    let mut host = Host::new();
    windows(&mut host, 3);
    let copy = host.dir.0.join("copy.db");
    let copied = backup(&host.path, &copy).expect("it is copied");
    windows(&mut host, 2);
    host.audit();
    assert!(matches!(
        restore(&copy, &host.path),
        Err(BackupError::Exists { .. })
    ));
    host.crash();
    host.delete(true);
    assert_eq!(
        restore(&copy, &host.path).expect("it comes back").leaves,
        copied.leaves
    );
    let mode = fs::metadata(&host.path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    windows(&mut host, 1);
    assert!(
        host.superseded[0].contains("older copy of itself"),
        "{:?}",
        host.superseded
    );
    let supersedes = host
        .begin_record()
        .supersedes
        .expect("it says whose place it takes");
    assert_eq!(supersedes.ledger_id, copied.ledger_id);
    host.audit_all();
}

#[test]
fn a_copy_that_lacks_nothing_is_continued_and_one_without_an_anchor_is_not() {
    let mut host = Host::new();
    windows(&mut host, 3);
    let copy = host.dir.0.join("copy.db");
    backup(&host.path, &copy).expect("it is copied");
    host.crash();
    host.delete(true);
    restore(&copy, &host.path).expect("it comes back");
    windows(&mut host, 2);
    assert_eq!(host.superseded, [""; 0]);
    // It is the ledger again: the next boot goes on with it, and so does the one after.
    host.restart(true);
    host.come();
    windows(&mut host, 1);
    assert_eq!(host.superseded, [""; 0]);
    host.audit();
    // But a copy of before, after a reboot that nobody remembers a ledger over, is not what it was.
    host.crash();
    host.delete(true);
    restore(&copy, &host.path).expect("it comes back");
    host.restart(true);
    host.come();
    windows(&mut host, 1);
    assert_eq!(host.superseded.len(), 1);
    assert!(host.superseded[0].contains("put back from a copy"));
    assert!(host.begin_record().supersedes.is_some());
}

#[test]
fn what_is_no_whole_ledger_is_no_copy_of_one_and_no_name_is_taken() {
    let mut host = Host::new();
    windows(&mut host, 30);
    let dir = host.dir.0.clone();
    let copy = dir.join("copy.db");
    backup(&host.path, &copy).expect("it is copied");
    assert!(matches!(
        backup(&host.path, &copy),
        Err(BackupError::Exists { .. })
    ));
    let link = dir.join("link.db");
    std::os::unix::fs::symlink(dir.join("nowhere"), &link).expect("a link");
    assert!(matches!(
        backup(&host.path, &link),
        Err(BackupError::Exists { .. })
    ));
    backup(&dir.join("none.db"), &dir.join("x.db")).expect_err("there is no ledger");
    let whole = fs::read(&copy).expect("the copy");
    let target = dir.join("back.db");
    let (middle, mut refused) = (whole.len() / 2, 0);
    let zeroed = |from: usize, to: usize| {
        let mut bytes = whole.clone();
        bytes[from..to].fill(0);
        bytes
    };
    for bad in [
        Vec::new(),
        b"text".to_vec(),
        whole[..middle].to_vec(),
        whole[..whole.len() - 4_096].to_vec(),
        zeroed(0, 100),
        zeroed(middle, middle + 4_096),
        zeroed(8_192, 8_300),
    ] {
        let file = dir.join("bad.db");
        fs::write(&file, bad).expect("a file");
        restore(&file, &target).expect_err("it is no whole ledger");
        assert!(!target.exists());
        refused += 1;
    }
    println!("CASES: bad copies refused: {refused}");
    // The open ledger's own file, without the journal beside it.
    assert!(matches!(
        restore(&host.path, &target),
        Err(BackupError::Journal { .. })
    ));
    restore(&copy, &target).expect("the good one comes back");
    let names = fs::read_dir(&dir).expect("the directory");
    let left = names.filter_map(Result::ok).filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().ends_with(".new")
    });
    assert_eq!(left.count(), 0);
}
