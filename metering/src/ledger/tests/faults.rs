//! Storage that does not work: one message with the path, nothing changed, and every byte once when it
//! works again.

use super::*;
use crate::record::Flags;
use std::cell::Cell;

thread_local! {
    static FAULTS: Cell<u64> = const { Cell::new(0) };
}

fn told(what: &str) {
    println!("CASES: ledger, {what}: {}", FAULTS.take());
}

/// A host with some windows in its ledger, and bytes that are in none.
fn metered() -> Host {
    let mut host = Host::new();
    for packets in 1..30 {
        host.carry(0, 0, (packets % 4) as usize, packets, 900);
        host.wait(MINUTE_NS);
        host.cut(true).expect("the disk works");
    }
    host.audit();
    host.carry(0, 1, 2, 17, 100);
    host
}

/// The window is refused as often as it is tried, always in the same words.
fn refused(host: &mut Host, what: &str) -> String {
    FAULTS.set(FAULTS.get() + 1);
    let mut said = Vec::new();
    for _ in 0..2 {
        let error = host.cut(true).expect_err(what).to_string();
        let path = host.path.display().to_string();
        assert!(error.contains(&path), "{what}: {error}");
        assert!(
            !error.contains('\n') && error.len() < 300,
            "{what}: {error}"
        );
        said.push(error);
        host.carry(0, 0, 0, 3, 70);
    }
    assert_eq!(said[0], said[1], "{what}");
    said.swap_remove(0)
}

/// It works again: what was counted meanwhile is in one record, which says so.
fn merged(host: &mut Host) {
    let before = host.records().len();
    let first = host.window - 2;
    host.cut(true).expect("it works again");
    let written = host.records().split_off(before);
    assert!(!written.is_empty());
    for record in &written {
        assert!(record.flags.has(Flags::MERGED), "{record:?}");
        assert_eq!(record.window_first, first);
        assert_eq!(record.window_id, host.window - 1);
        assert!(!record.flags.any(Flags::NODATA | Flags::PARTIAL));
    }
    host.audit_all();
}

fn pragma(host: &Host, text: &str) {
    if let Some(ledger) = &host.ledger {
        ledger.db.execute_batch(text).expect("a pragma");
    }
}

#[test]
fn a_window_that_the_disk_does_not_take_is_merged_with_the_next() {
    for (what, on, off, says) in [
        (
            "disk full",
            "PRAGMA max_page_count = 1",
            "PRAGMA max_page_count = 1000000",
            "full",
        ),
        (
            "read-only",
            "PRAGMA query_only = 1",
            "PRAGMA query_only = 0",
            "readonly",
        ),
    ] {
        for anew in [false, true] {
            let mut host = metered();
            // What is free in the last pages is used up, so that every window needs a new one.
            pragma(&host, on);
            let mut windows = host.window;
            while what == "disk full" && host.cut(true).is_ok() {
                windows = host.window;
            }
            host.window = windows;
            host.audit();
            let error = refused(&mut host, what);
            assert!(error.contains(says), "{error}");
            pragma(&host, off);
            if anew {
                host.forget();
            }
            merged(&mut host);
        }
    }
    told("commits that the disk refuses");
}

#[test]
fn a_ledger_that_somebody_else_has_locked_waits() {
    for lock in ["BEGIN EXCLUSIVE", "BEGIN IMMEDIATE"] {
        let mut host = metered();
        pragma(&host, "PRAGMA busy_timeout = 0");
        let other = Connection::open(&host.path).expect("it can be opened");
        other.execute_batch(lock).expect("it can be locked");
        let error = refused(&mut host, lock);
        assert!(error.contains("locked"), "{error}");
        other.execute_batch("ROLLBACK").expect("and given back");
        drop(other);
        merged(&mut host);
    }
    told("locks");
}

/// Something that is no ledger of ours is at its path when the daemon starts. It stays as it is.
fn at_the_path(what: &str, put: impl Fn(&Path, &Copy)) -> String {
    let mut host = metered();
    host.ledger = None;
    let whole = host.copy().expect("the ledger is there");
    host.crash();
    host.delete(true);
    put(&host.path, &whole);
    let before = fs::read(&host.path).ok();
    let error = refused(&mut host, what);
    assert_eq!(fs::read(&host.path).ok(), before, "{what} was changed");
    assert!(host.ledger.is_none() && host.superseded.is_empty());
    if host.path.is_dir() {
        fs::remove_dir(&host.path).expect("the directory is empty");
    }
    host.put(&whole);
    merged(&mut host);
    error
}

#[test]
fn what_is_no_ledger_is_named_and_left_alone() {
    let foreign = |what: &str, put: &dyn Fn(&Path)| {
        let error = at_the_path(what, |path, _| put(path));
        assert!(error.contains("this is no ledger"), "{what}: {error}");
    };
    foreign("an empty file", &|path| fs::write(path, "").expect("room"));
    foreign("a text file", &|path| {
        let text = "host = \"a text file of some length\"\n".repeat(100);
        fs::write(path, text).expect("room");
    });
    foreign("a short text file", &|path| {
        fs::write(path, "text").expect("room");
    });
    foreign("another program's database", &|path| {
        let db = Connection::open(path).expect("room");
        db.execute_batch("CREATE TABLE theirs (a)").expect("room");
    });
    let error = at_the_path("a directory", |path, _| {
        fs::create_dir(path).expect("room");
    });
    assert!(error.contains("unable to open"), "{error}");
    let error = at_the_path("a later format", |path, whole| {
        fs::write(path, &whole.0).expect("room");
        let db = Connection::open(path).expect("a database");
        db.execute_batch("PRAGMA user_version = 3; PRAGMA journal_mode = DELETE")
            .expect("a pragma");
    });
    assert!(
        error.contains("has format 3, and this octroi knows 2"),
        "{error}"
    );
    told("files that are no ledger");
}

#[test]
fn a_missing_directory_is_named() {
    let mut host = Host::new();
    let inside = host.dir.0.join("inside");
    host.path = inside.join("ledger.db");
    // Before there ever was a ledger, too.
    refused(&mut host, "no directory yet");
    fs::create_dir(&inside).expect("room");
    host.cut(true).expect("now there is one");
    assert_eq!(host.records()[1].window_first, 0);
    host.audit();
    let away = host.dir.0.join("away");
    host.carry(0, 0, 0, 5, 100);
    host.crash();
    fs::rename(&inside, &away).expect("a rename");
    refused(&mut host, "no directory any more");
    assert_eq!(host.superseded, [""; 0]);
    fs::rename(&away, &inside).expect("a rename");
    host.audit();
    host.cut(true).expect("it is back");
    host.audit();
    assert_eq!(host.archive.sums().1, 0);
    told("directories that are missing");
}

#[test]
fn a_truncated_ledger_is_never_continued() {
    let mut host = metered();
    host.ledger = None;
    let whole = host.copy().expect("the ledger is there");
    let length = whole.0.len();
    let eighths = (0..8).map(|part| length * part / 8);
    for length in eighths.chain([1, 99, 100, 511, 512, 4_096, length - 1]) {
        let mut host = metered();
        host.ledger = None;
        let whole = host.copy().expect("the ledger is there");
        host.crash();
        host.put(&(whole.0[..length].to_vec(), None, None));
        refused(&mut host, &format!("{length} bytes of it"));
        host.put(&whole);
        merged(&mut host);
    }
    told("truncated ledgers");
}

#[test]
fn half_a_ledger_beside_its_whole_journal_is_refused_or_whole() {
    let (mut refusals, mut whole_ones) = (0, 0);
    let length = metered().copy().expect("the ledger is there").0.len();
    for length in (0..8).map(|part| length * part / 8) {
        let mut host = metered();
        let whole = host.copy().expect("the ledger is there");
        host.crash();
        host.delete(true);
        host.put(&(whole.0[..length].to_vec(), whole.1.clone(), None));
        match host.cut(true) {
            Ok(_) => {
                // Every page that is missing is in the journal.
                host.audit_all();
                whole_ones += 1;
            }
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains(&host.path.display().to_string()), "{error}");
                refusals += 1;
            }
        }
    }
    println!("CASES: ledger, truncated beside a journal, refused: {refusals}");
    println!("CASES: ledger, truncated beside a journal, whole: {whole_ones}");
}

#[test]
fn garbage_in_the_middle_is_an_error_or_found_by_whoever_reads() {
    let (mut refused, mut found, mut harmless) = (0, 0, 0);
    let mut host = metered();
    host.ledger = None;
    let length = host.copy().expect("the ledger is there").0.len();
    let steps = by_level(24, 96, 960);
    for at in (0..steps).map(|step| length * step / steps) {
        let mut host = metered();
        host.ledger = None;
        let mut whole = host.copy().expect("the ledger is there");
        let written = host.records();
        host.crash();
        for (index, byte) in whole.0.iter_mut().skip(at).take(512).enumerate() {
            *byte = (index as u8).wrapping_mul(167) ^ 0xA5;
        }
        host.put(&whole);
        let path = host.path.display().to_string();
        if let Err(error) = host.cut(true) {
            let error = error.to_string();
            assert!(error.contains(&path), "{error}");
            assert!(
                host.ledger
                    .as_ref()
                    .is_none_or(|ledger| ledger.id != [0; 16])
            );
            refused += 1;
            continue;
        }
        host.ledger = None;
        match query::records(&host.path, &Filter::default()) {
            Err(error) => {
                assert!(error.to_string().contains(&path), "{error}");
                found += 1;
            }
            Ok(rows) if rows.iter().any(Result::is_err) => found += 1,
            Ok(rows) => {
                let read = rows.into_iter().map_while(Result::ok);
                let same = read.zip(&written).all(|(now, then)| now == *then);
                // Bytes inside a record that are still a record: its leaf is another then.
                if same { harmless += 1 } else { found += 1 }
            }
        }
    }
    println!("CASES: ledger, garbage, refused: {refused}");
    println!("CASES: ledger, garbage, found by a reader: {found}");
    println!("CASES: ledger, garbage, in what no record needs: {harmless}");
}
