//! Which ledger may be continued, and what the one says that takes its place: M-7.17 to M-7.19.

use super::*;
use crate::record::{Flags, Supersedes};

/// A host with `windows` of 10 packets of 100 bytes each.
fn metered(windows: u64) -> Host {
    let mut host = Host::new();
    more(&mut host, windows);
    host
}

fn more(host: &mut Host, windows: u64) {
    for _ in 0..windows {
        host.wait(MINUTE_NS);
        host.carry(0, 0, 1, 10, 100);
        host.cut(true).expect("the disk works");
        host.audit();
    }
}

fn id(host: &Host) -> [u8; 16] {
    host.ledger.as_ref().map(Ledger::id).expect("it is open")
}

/// `*` of the port's direction 0, after `from` records.
fn totals(host: &Host, from: usize) -> Vec<Record> {
    let records = host.records().split_off(from).into_iter();
    records
        .filter(|record| {
            record.direction == 0 && record.zone.is_none() && record.kind != Kind::Begin
        })
        .collect()
}

fn packets(record: &Record) -> (u64, u64) {
    let reading = record.reading.expect("a reading");
    (reading.register_start.packets, reading.register_end.packets)
}

#[test]
fn a_clone_on_another_machine_is_superseded_by_name_and_nothing_of_it_is_repeated() {
    // Its own kernel remembers nothing.
    let mut host = metered(3);
    let (old, size) = (id(&host), host.kernel.size);
    host.restart(true);
    host.identity.machine_id = "another machine".into();
    host.come();
    host.carry(0, 0, 0, 4, 100);
    host.cut(true).expect("a new ledger");
    let begin = host.begin_record();
    let last_seq = size - 1;
    assert_eq!(
        begin.supersedes,
        Some(Supersedes {
            ledger_id: old,
            last_seq
        })
    );
    assert!(host.superseded[0].contains("another machine"));
    // These registers were never metered by anybody: they are billed.
    let totals = totals(&host, 0);
    assert_eq!((totals[0].kind, packets(&totals[0])), (Kind::Meter, (0, 4)));
    host.audit_all();
    assert_eq!(host.files().len(), 2);
}

#[test]
fn the_highest_seq_that_anchor_or_file_knows_is_named() {
    // The file is ahead of the anchor, and may not be continued.
    let mut host = metered(2);
    let old = id(&host);
    host.carry(0, 0, 1, 1, 100);
    let committed = host.cut(false).expect("the disk works");
    assert!(host.kernel.size < committed.anchor.size);
    host.audit();
    host.crash();
    host.identity.machine_id = "another machine".into();
    host.cut(true).expect("a new ledger");
    let last_seq = committed.anchor.size - 1;
    assert_eq!(
        host.begin_record().supersedes,
        Some(Supersedes {
            ledger_id: old,
            last_seq
        })
    );
    // The file is gone: the anchor knows.
    let (old, last_seq) = (id(&host), host.kernel.size - 1);
    host.audit();
    host.crash();
    host.delete(true);
    host.cut(true).expect("a new ledger");
    assert_eq!(
        host.begin_record().supersedes,
        Some(Supersedes {
            ledger_id: old,
            last_seq
        })
    );
    // Another ledger is in its place: the one that metered is named, not that one.
    let (old, last_seq) = (id(&host), host.kernel.size - 1);
    let mut other = Host::new();
    other.identity.epoch.boot_id = [255; 16];
    more(&mut other, 20);
    other.ledger = None;
    host.audit();
    host.crash();
    host.put(&other.copy().expect("the other is there"));
    host.cut(true).expect("a new ledger");
    assert_eq!(
        host.begin_record().supersedes,
        Some(Supersedes {
            ledger_id: old,
            last_seq
        })
    );
    host.audit_all();
}

#[test]
fn an_older_copy_is_superseded_and_what_it_lacks_is_said_and_not_billed() {
    let mut host = metered(2);
    let (old, copy) = (id(&host), host.copy().expect("it is there"));
    more(&mut host, 3);
    let last_seq = host.kernel.size - 1;
    host.crash();
    host.put(&copy);
    more(&mut host, 2);
    assert!(
        host.superseded[0].contains("older copy"),
        "{:?}",
        host.superseded
    );
    assert_eq!(
        host.begin_record().supersedes,
        Some(Supersedes {
            ledger_id: old,
            last_seq
        })
    );
    let totals = totals(&host, 0);
    let [nodata, next] = &totals[..] else {
        panic!("{totals:?}");
    };
    // From where the copy stood to now; windows 0 and 1 are in it.
    assert_eq!((nodata.kind, packets(nodata)), (Kind::Nodata, (20, 60)));
    assert_eq!((nodata.window_first, nodata.window_id), (2, 5));
    assert_eq!((nodata.bytes_min, nodata.bytes_max), (Some(0), Some(4_000)));
    assert_eq!((next.kind, packets(next)), (Kind::Meter, (60, 70)));
    assert_eq!(next.window_first, 6);
    host.audit_all();
    assert_eq!(host.archive.sums(), (6_000, 4_000));
}

#[test]
fn a_daemon_that_remembers_goes_on_where_it_was() {
    type Loss = fn(&Host, &Copy);
    let losses: [(&str, Loss); 4] = [
        ("deleted", |host, _| host.delete(true)),
        ("deleted without its journal", |host, _| host.delete(false)),
        ("replaced by an older copy", |host, copy| host.put(copy)),
        ("replaced without its journal", |host, copy| {
            fs::write(host.beside("x"), &copy.0).expect("room");
            fs::rename(host.beside("x"), &host.path).expect("a rename");
        }),
    ];
    for (what, lose) in losses {
        let mut host = metered(2);
        // A copy without a journal is whole only when the ledger was closed.
        host.forget();
        let copy = host.copy().expect("it is there");
        more(&mut host, 2);
        let (old, last_seq) = (id(&host), host.kernel.size - 1);
        lose(&host, &copy);
        host.carry(0, 0, 1, 5, 100);
        let replaced = host.cut(true);
        assert!(
            matches!(replaced, Err(LedgerError::Replaced { .. })),
            "{what}"
        );
        host.forget();
        host.cut(true).expect("a new ledger");
        assert_eq!(
            host.begin_record().supersedes,
            Some(Supersedes {
                ledger_id: old,
                last_seq
            }),
            "{what}"
        );
        let totals = totals(&host, 0);
        assert_eq!(
            (totals[0].kind, packets(&totals[0])),
            (Kind::Meter, (40, 45))
        );
        // Of the window whose commit failed, too.
        assert_eq!((totals[0].window_first, totals[0].window_id), (4, 5));
        host.audit_all();
        assert_eq!(host.archive.sums(), (4_500, 0), "{what}");
    }
    println!("CASES: ledger, files lost under a daemon: {}", losses.len());
}

#[test]
fn another_history_of_the_same_length_is_superseded() {
    let mut host = metered(2);
    let copy = host.copy().expect("it is there");
    more(&mut host, 1);
    let real = host.kernel;
    // The copy is continued elsewhere, where nobody knows better: same machine, same registers.
    let mut other = Host::new();
    other.put(&copy);
    let key = |host: &Host| keys::key_path(&host.path);
    fs::copy(key(&host), key(&other)).expect("the key is copied, too");
    other.window = 2;
    other.owners = host.owners.clone();
    other.identity = host.identity.clone();
    other.wait(1);
    other.cut(true).expect("it cannot know");
    assert_eq!(
        (other.kernel.ledger_id, other.kernel.size),
        (real.ledger_id, real.size)
    );
    assert_ne!(other.kernel.head, real.head);
    other.ledger = None;
    let fork = other.copy().expect("it is there");
    host.crash();
    host.put(&fork);
    host.carry(0, 0, 1, 7, 100);
    host.cut(true).expect("a new ledger");
    assert!(
        host.superseded[0].contains("another history"),
        "{:?}",
        host.superseded
    );
    assert_eq!(
        host.begin_record().supersedes.map(|before| before.last_seq),
        Some(real.size - 1)
    );
}

#[test]
fn a_ledger_ahead_of_the_anchor_is_continued() {
    let mut host = metered(2);
    let old = id(&host);
    host.carry(0, 0, 1, 3, 100);
    host.go(0);
    let closed = host.cut(false).expect("the disk works").closed;
    assert_eq!(closed, [1]);
    host.audit();
    host.crash();
    host.come();
    // The daemon did not hear that the owner is closed: it is told again, and has no second last record.
    let again = host.cut(true).expect("it is continued").closed;
    assert_eq!(again, [1]);
    assert_eq!((id(&host), host.superseded.len()), (old, 0));
    let last = totals(&host, 0)
        .into_iter()
        .filter(|record| record.incarnation == 1);
    assert_eq!(
        last.filter(|record| record.flags.has(Flags::RESET)).count(),
        1
    );
    host.audit_all();
}

#[test]
fn a_new_ledger_that_nobody_heard_of_is_continued_and_bills_nothing_again() {
    let mut host = metered(3);
    let before = host.kernel;
    host.crash();
    host.delete(true);
    host.carry(0, 0, 1, 5, 100);
    // The crash is between the new ledger's first commit and the anchor.
    host.open().expect("a new ledger");
    let new = id(&host);
    host.kernel = before;
    host.crash();
    host.cut(true).expect("it is continued");
    assert_eq!((id(&host), host.superseded.len()), (new, 1));
    let totals = totals(&host, 0);
    assert_eq!(
        (totals[0].kind, packets(&totals[0])),
        (Kind::Nodata, (0, 35))
    );
    assert_eq!(totals[0].window_first, 0);
    more(&mut host, 1);
    host.audit_all();
    assert_eq!(host.archive.sums(), (4_000, 3_500));
}

#[test]
fn that_a_ledger_was_lost_is_not_forgotten_before_it_is_said() {
    for remembers in [false, true] {
        let mut host = metered(3);
        host.crash();
        host.delete(true);
        host.open().expect("a new ledger");
        // And lost once more, before it took a window.
        if remembers {
            host.forget();
        } else {
            host.crash();
        }
        host.delete(true);
        host.wait(1);
        host.come();
        host.carry(1, 0, 0, 2, 100);
        host.cut(true).expect("a new ledger");
        let totals = totals(&host, 0);
        assert_eq!(
            (totals[0].kind, packets(&totals[0])),
            (Kind::Nodata, (0, 30))
        );
        // Who came after the loss has lost nothing, as far as the process remembers when that was.
        let kind = if remembers { Kind::Meter } else { Kind::Nodata };
        assert_eq!((totals[1].incarnation, totals[1].kind), (2, kind));
        host.audit_all();
        assert_eq!(host.archive.sums().0, if remembers { 3_200 } else { 3_000 });
    }
}

#[test]
fn an_owner_that_only_the_old_copy_knows_is_closed_without_a_reading() {
    let mut host = metered(2);
    host.come();
    more(&mut host, 1);
    let copy = host.copy().expect("it is there");
    host.go(0);
    more(&mut host, 1);
    assert_eq!(host.owners.len(), 1);
    host.crash();
    host.put(&copy);
    host.cut(true).expect("a new ledger");
    let totals = totals(&host, 0);
    let gone = totals.iter().find(|record| record.incarnation == 1);
    let gone = gone.expect("it is said");
    assert!(gone.flags.has(Flags::NODATA | Flags::RESET) && gone.reading.is_none());
    more(&mut host, 2);
    host.audit_all();
}

#[test]
fn a_journal_that_a_deleted_ledger_left_is_not_read_into_the_next() {
    let mut host = metered(3);
    host.crash();
    assert!(host.beside("wal").exists(), "the crash leaves a journal");
    host.delete(false);
    assert_eq!(host.files().len(), 0);
    host.open().expect("a new ledger");
    more(&mut host, 2);
    let kept = fs::read_dir(&host.dir.0).expect("it is there").flatten();
    let kept = kept.filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.contains("superseded") && name.ends_with("-wal")
    });
    assert_eq!(kept.count(), 1);
    host.audit_all();
}
