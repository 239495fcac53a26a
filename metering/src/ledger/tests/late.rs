//! Labels in an hour that is settled: M-10.7, through crashes and restarts, and what an audit says.

use super::*;
use crate::{ledger::keys, note, record::Flags, verify};

/// The host begins at the full hour.
const HOUR_NS: u64 = 3_600_000_000_000;

/// Cuts so many windows of ten minutes, with bytes in each; returns whether each is LATE.
fn windows(host: &mut Host, count: u64) -> Vec<bool> {
    let before = host.window;
    for _ in 0..count {
        host.wait(HOUR_NS / 6);
        host.carry(0, 0, 1, 3, 100);
        host.cut(true).expect("it is committed");
    }
    let map = host.identity.epoch.map_generation;
    let records = host.records().into_iter();
    let mut late = BTreeMap::new();
    for record in records.filter(|one| one.kind == Kind::Meter && one.map_generation == map) {
        let is_late = record.flags.has(Flags::LATE);
        // All records of a window, zones too.
        assert_eq!(*late.entry(record.window_id).or_insert(is_late), is_late);
    }
    late.range(before..).map(|(_, late)| *late).collect()
}

fn findings(host: &Host) -> Vec<String> {
    let keys = fs::read_to_string(keys::keyring_path(&host.path)).expect("a keyring");
    let keys = note::keyring(&keys).expect("keys");
    let report = verify::audit(&host.path, &keys, None).expect("it can be read");
    report.findings.iter().map(ToString::to_string).collect()
}

fn set_back(host: &mut Host, ns: u64) {
    host.time().utc_ns -= ns as i64;
}

#[test]
fn windows_of_a_settled_hour_are_late_whoever_writes_them() {
    let mut host = Host::new();
    assert_eq!(windows(&mut host, 13), [false; 13]);
    // From 02:10 to 00:35; 00 and 01 are settled. The first cut ends a window that began before the step.
    set_back(&mut host, HOUR_NS * 95 / 60);
    assert_eq!(windows(&mut host, 3), [false, true, true]);
    // The next process knows it from the file.
    host.crash();
    assert_eq!(windows(&mut host, 2), [true; 2]);
    // Another boot, too: the last records of the one before, and those of its own, until 02:00.
    host.restart(true);
    host.come();
    let late = windows(&mut host, 5);
    assert_eq!(late.last(), Some(&false), "{late:?}");
    assert!(
        late[0] && late.is_sorted_by(|one, next| one >= next),
        "{late:?}"
    );
    assert_eq!(findings(&host), [""; 0]);
    host.audit();
}

#[test]
fn an_audit_finds_what_should_be_late_and_is_not() {
    let mut host = Host::new();
    windows(&mut host, 13);
    set_back(&mut host, HOUR_NS * 95 / 60);
    windows(&mut host, 1);
    assert_eq!(findings(&host), [""; 0]);
    // As a meter that had forgotten.
    let ledger = host.ledger.as_mut().expect("it is open");
    ledger.state.settled = Default::default();
    assert_eq!(windows(&mut host, 1), [false]);
    let found = findings(&host);
    assert!(
        !found.is_empty() && found.iter().all(|one| one.contains("it is not LATE")),
        "{found:?}"
    );
}

#[test]
fn a_correction_is_written_where_nothing_is_settled() {
    let mut host = Host::new();
    windows(&mut host, 13);
    let begun = host.records()[1].window_start;
    set_back(&mut host, HOUR_NS * 95 / 60);
    windows(&mut host, 2);
    let now = host.identity.now.utc_ns;
    let subject = host.records();
    let subject = subject
        .iter()
        .find(|one| one.zone.is_some())
        .expect("a zone");
    let correct = Correct {
        seq: subject.seq,
        l2_bytes: -1,
        reason: "counted twice".into(),
        ..Correct::default()
    };
    let ledger = host.ledger.as_mut().expect("it is open");
    let added = ledger.append(&Addition::Correct(correct), now);
    let (seq, _) = added.expect("a correction");
    let record = host.records().swap_remove(seq as usize);
    assert!(now < begun + 2 * HOUR_NS as i64);
    assert_eq!(record.window_start, begun + 2 * HOUR_NS as i64);
}
