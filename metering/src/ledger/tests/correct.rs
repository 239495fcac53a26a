//! Corrections: M-10.1 to M-10.4.

use super::*;
use crate::{ledger, record::Flags};

const NOW: i64 = 1_900_000_030_000_000_000;

/// A host with a window of 1,000 bytes in zone 1 and 500 in zone 2, from the tenant.
fn metered() -> Host {
    let mut host = Host::new();
    host.carry(0, 0, 1, 10, 100);
    host.carry(0, 0, 2, 5, 100);
    host.wait(MINUTE_NS);
    host.cut(true).expect("the disk works");
    host.wait(MINUTE_NS);
    host
}

/// The record of a zone; `None`: the total.
fn seq_of(host: &Host, zone: Option<u32>) -> u64 {
    let records = host.records();
    let mut found = records.iter().filter(|record| {
        record.kind == Kind::Meter && record.zone == zone && record.direction == 0
    });
    found.next().expect("a record").seq
}

fn less(seq: u64, l2_bytes: i64) -> Correct {
    Correct {
        seq,
        l2_bytes,
        reason: "measured twice".into(),
        ..Correct::default()
    }
}

fn wanted(correct: &Correct) -> Addition {
    Addition::Correct(correct.clone())
}

#[test]
fn a_correction_is_a_record_of_its_own_and_changes_no_other() {
    let mut host = metered();
    let before = host.records();
    let zone = seq_of(&host, Some(1));
    let mut open = host.ledger.take().expect("it is open");
    let (seq, committed) = open
        .append(&wanted(&less(zone, -400)), NOW)
        .expect("a correction");
    assert_eq!((seq, committed.records), (before.len() as u64, 1));
    assert_eq!(committed.anchor, open.anchor());
    host.remembered = committed.anchor;
    host.kernel = committed.anchor;
    host.ledger = Some(open);
    let after = host.records();
    assert_eq!(after[..before.len()], before);
    let (record, subject) = (&after[before.len()], &before[zone as usize]);
    assert_eq!(
        (record.kind, record.flags),
        (Kind::Correction, Flags::CORRECTION)
    );
    // The window in which it is written, whole.
    let minute = MINUTE_NS as i64;
    assert_eq!(record.window_start, NOW / minute * minute);
    assert_eq!(record.window_end - record.window_start, minute);
    for (mine, its) in [
        (record.window_id, subject.window_id),
        (record.incarnation, subject.incarnation),
        (u64::from(record.tenant), u64::from(subject.tenant)),
        (record.zone.map_or(99, u64::from), 1),
    ] {
        assert_eq!(mine, its);
    }
    let said = record.correction.as_ref().expect("a correction");
    assert_eq!((said.corrects, said.l2_bytes), (zone, -400));
    assert_eq!(said.reason, "measured twice");
    // And the meter goes on behind it.
    host.carry(0, 0, 1, 1, 100);
    host.cut(true).expect("the next window");
    host.audit();
}

#[test]
fn nothing_is_taken_away_that_was_not_billed() {
    let host = metered();
    let (one, two, total) = (
        seq_of(&host, Some(1)),
        seq_of(&host, Some(2)),
        seq_of(&host, None),
    );
    let correct = |wanted: &Correct| ledger::append(&host.path, &self::wanted(wanted), NOW);
    let refused = |wanted: &Correct| correct(wanted).expect_err("refused").to_string();
    let size = host.records().len();
    assert!(refused(&less(one, -1_001)).contains("the record has 1000 bytes left"));
    assert!(
        refused(&Correct {
            packets: -11,
            ..less(one, -1)
        })
        .contains("10 packets left")
    );
    assert!(refused(&less(one, 1)).contains("--increase"));
    assert!(
        refused(&Correct {
            increase: true,
            ..less(one, 0)
        })
        .contains("nothing is added")
    );
    assert!(refused(&less(9_999, -1)).contains("is not there"));
    assert!(refused(&less(u64::MAX, -1)).contains("is not there"));
    assert!(refused(&less(0, -1)).contains("BEGIN"));
    assert!(
        refused(&Correct {
            reason: String::new(),
            ..less(one, -1)
        })
        .contains("reason")
    );
    assert!(
        refused(&Correct {
            reason: "a\nb".into(),
            ..less(one, -1)
        })
        .contains("reason")
    );
    assert_eq!(host.records().len(), size, "what is refused leaves nothing");
    let first = correct(&less(one, -600)).expect("400 are left");
    assert!(refused(&less(first, -1)).contains(&format!("correct record {one}")));
    assert!(refused(&less(one, -401)).contains("the record has 400 bytes left"));
    // 900 of 1,500 are left of all; of zone 2 all of its 500, until the total is corrected.
    correct(&less(total, -700)).expect("200 are left of all");
    assert!(refused(&less(two, -201)).contains("its total has 200 bytes left"));
    assert!(refused(&less(total, -201)).contains("the record has 200 bytes left"));
    correct(&less(two, -200)).expect("nothing is left");
    assert!(refused(&less(two, -1)).contains("its total has 0 bytes left"));
    correct(&Correct {
        increase: true,
        ..less(one, 50)
    })
    .expect("an increase that is meant");
    correct(&less(two, -50)).expect("what was put on can be taken away");
}

#[test]
fn a_correction_beside_an_open_ledger_loses_no_window() {
    let mut host = metered();
    let zone = seq_of(&host, Some(1));
    let before = host.records().len();
    // Somebody corrects the file while a daemon has it open, and does not ask the daemon.
    ledger::append(&host.path, &wanted(&less(zone, -1)), NOW).expect("the file takes it");
    host.carry(0, 0, 3, 7, 100);
    assert!(host.cut(true).is_err(), "the daemon's place was taken");
    host.forget();
    host.wait(MINUTE_NS);
    host.cut(true).expect("it reads the file again");
    let records = host.records();
    assert_eq!(records[before].kind, Kind::Correction);
    assert!(records.len() > before + 1);
    host.audit();
    assert!(host.superseded.is_empty(), "{:?}", host.superseded);
}

#[test]
fn a_correction_is_never_billed_before_the_last_window() {
    let host = metered();
    let zone = seq_of(&host, Some(1));
    let last = host.records().iter().map(|record| record.window_end).max();
    // The wall clock stands in 1970.
    ledger::append(&host.path, &wanted(&less(zone, -1)), 0).expect("a correction");
    let record = host.records().pop().expect("a record");
    assert!(Some(record.window_end) > last);
}

fn issue(number: u64, version: u64, size: u64) -> Addition {
    Addition::Issue(Issue {
        tenant: 1,
        from: 0,
        to: 1,
        statement: record::Statement {
            number,
            version,
            size,
            ..record::Statement::default()
        },
    })
}

#[test]
fn statements_are_numbered_without_gaps_and_versions_too() {
    let host = metered();
    let append = |addition: &Addition| ledger::append(&host.path, addition, NOW);
    let refused = |addition: &Addition| append(addition).expect_err("refused").to_string();
    let size = host.records().len() as u64;
    assert!(
        refused(&issue(2, 1, 1)).contains("meanwhile"),
        "1 is the first number"
    );
    assert!(
        refused(&issue(1, 2, 1)).contains("meanwhile"),
        "1 is the first version"
    );
    assert!(refused(&issue(1, 1, size + 1)).contains(&format!("has {size}")));
    append(&issue(1, 1, size)).expect("the first");
    assert!(
        refused(&issue(1, 1, size)).contains("meanwhile"),
        "it is there"
    );
    append(&issue(1, 2, size + 1)).expect("a new version has the number of the one before");
    let Addition::Issue(mut other) = issue(1, 1, 1) else {
        unreachable!("it is one");
    };
    other.to = 2;
    assert!(
        refused(&Addition::Issue(other)).contains("meanwhile"),
        "another month"
    );
    other.statement.number = 2;
    append(&Addition::Issue(other)).expect("the next number");
    let records = host.records();
    let kinds: Vec<Kind> = records[size as usize..]
        .iter()
        .map(|one| one.kind)
        .collect();
    assert_eq!(kinds, [Kind::Statement; 3]);
}
