//! A tenant's data that are erased before their time: M-13.13 to M-13.16.

use super::*;
use crate::{
    flow::{Detail, FlowDelta},
    ledger::{self, FlowFilter, FlowLine, held, keys},
    note, verify,
};
use std::ops::ControlFlow;

const NOW: i64 = 1_900_000_030_000_000_000;
const DAY_NS: u64 = 86_400_000_000_000;
/// Flows of each tenant in a window: so many that pages are divided.
const FLOWS: u64 = 150;
/// The networks that tenants 1 and 2 talk to: CBOR's head of 4 bytes, and the first three of them.
const REMOTES: [[u8; 4]; 2] = [[0x44, 198, 51, 100], [0x44, 203, 0, 113]];

/// Two tenants with flows in every window, over two days.
fn host() -> Host {
    let mut host = Host::new();
    host.come();
    for owner in &mut host.owners {
        owner.detail = Detail::Full;
    }
    for window in 0..12 {
        cut(&mut host);
        if window == 5 {
            host.wait(DAY_NS);
        }
    }
    host
}

fn cut(host: &mut Host) {
    for (at, remote) in REMOTES.iter().enumerate() {
        host.carry(at, 0, 1, FLOWS, 100);
        host.owners[at].flows = (0..FLOWS).map(|flow| one(remote, flow)).collect();
    }
    host.wait(MINUTE_NS);
    host.cut(true).expect("it is committed");
}

fn one(remote: &[u8; 4], number: u64) -> FlowDelta {
    let mut address = [0; 16];
    address[..3].copy_from_slice(&remote[1..]);
    address[3] = number as u8;
    FlowDelta {
        zone: 1,
        ethertype: 0x0800,
        protocol: 17,
        remote: address,
        remote_port: 443,
        counts: Counts {
            packets: 1,
            l2_bytes: 100,
            l3_bytes: 86,
        },
        ..FlowDelta::default()
    }
}

fn forget(tenant: u32) -> Forget {
    Forget {
        tenant,
        records_until: None,
        who: "uid 0".into(),
        reason: "the tenant asked".into(),
        unconfirmed: u64::MAX,
    }
}

fn ask(host: &mut Host, forget: &Forget) -> Result<(u64, Committed), AddError> {
    let mut open = host.ledger.take().expect("it is open");
    let done = open.append(&Addition::Forget(forget.clone()), NOW);
    host.remembered = open.anchor();
    host.kernel = open.anchor();
    host.ledger = Some(open);
    done
}

/// The rows of a tenant; every root that has rows has all of them.
fn rows(host: &Host, tenant: u32) -> Vec<FlowLine> {
    let mut lines = Vec::new();
    let filter = FlowFilter {
        tenant: Some(tenant),
        ..FlowFilter::default()
    };
    let faults = ledger::flows(&host.path, &filter, &mut |line| {
        lines.push(line.clone());
        ControlFlow::Continue(())
    });
    assert_eq!(faults.expect("it can be read"), []);
    lines
}

/// How often these bytes are in any file of the directory, journals too.
fn found(host: &Host, what: &[u8]) -> usize {
    let entries = fs::read_dir(&host.dir.0).expect("the directory is there");
    let files = entries.map(|entry| fs::read(entry.expect("a file").path()).expect("its bytes"));
    files
        .map(|bytes| {
            bytes
                .windows(what.len())
                .filter(|part| *part == what)
                .count()
        })
        .sum()
}

fn sound(host: &Host, pruned: u64) {
    let keys = fs::read_to_string(keys::keyring_path(&host.path)).expect("a keyring");
    let keys = note::keyring(&keys).expect("keys");
    let report = verify::ledger(&host.path, &keys, None).expect("it can be read");
    assert!(report.is_sound(), "{:?}", report.findings);
    assert_eq!(report.pruned, pruned);
    let report = verify::audit(&host.path, &keys, None).expect("it can be read");
    assert!(report.is_sound(), "{:?}", report.findings);
}

#[test]
fn a_tenants_rows_go_from_every_day_and_no_byte_of_them_is_left() {
    let mut host = host();
    let windows = 12;
    let [mine, others] = REMOTES.map(|remote| found(&host, &remote));
    assert!(mine as u64 >= windows * FLOWS, "{mine}");
    let kept = rows(&host, 2);
    let records = host.records();
    assert_eq!(kept.len() as u64, windows * FLOWS);
    let (seq, committed) = ask(&mut host, &forget(1)).expect("it is erased");
    assert_eq!(seq, records.len() as u64);
    assert_eq!(committed.anchor.size, seq + 1);
    assert_eq!(found(&host, &REMOTES[0]), 0);
    assert!(found(&host, &REMOTES[1]) > others / 2);
    assert_eq!(rows(&host, 1), []);
    assert_eq!(rows(&host, 2), kept);
    // Every record is as it was, with its root, and a leaf says what is gone.
    let mut after = host.records();
    let leaf = after.pop().expect("a leaf");
    assert_eq!(after, records);
    assert_eq!(leaf.kind, Kind::Erasure);
    let erased = leaf.erased_flows.expect("flow detail");
    assert_eq!(
        (erased.tenant, erased.records, erased.rows),
        (1, windows, windows * FLOWS)
    );
    assert_eq!(leaf.cause.as_deref(), Some("uid 0: the tenant asked"));
    let looks = ledger::looks(&host.path).expect("they can be read");
    assert_eq!(looks.len(), 1);
    assert_eq!(looks[0].who, "uid 0");
    assert!(
        looks[0]
            .what
            .starts_with("privacy erase --tenant 1: 1800 rows"),
        "{looks:?}"
    );
    sound(&host, 0);
    // A second time there is nothing, and no leaf.
    let again = ask(&mut host, &forget(1)).expect_err("nothing is kept");
    assert!(again.to_string().contains("nothing of tenant 1"), "{again}");
    // The next windows are kept again, by this process and the next.
    cut(&mut host);
    assert_eq!(rows(&host, 1).len() as u64, FLOWS);
    host.crash();
    cut(&mut host);
    assert_eq!(rows(&host, 1).len() as u64, 2 * FLOWS);
    host.audit();
    sound(&host, 0);
}

#[test]
fn while_somebody_reads_it_is_said_that_rows_are_left_and_the_next_start_erases_them() {
    let mut host = host();
    let (_, day) = days::files(&host.path).expect("files").remove(0);
    let reader = Connection::open(day).expect("a day's file");
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM flow")
        .expect("it is read");
    let refused = ask(&mut host, &forget(1))
        .expect_err("it is read")
        .to_string();
    assert!(refused.contains("somebody reads this file"), "{refused}");
    let path = host.path.clone();
    let held = || held(&path, 1, 0).expect("it can be read");
    assert!(held().unfinished);
    assert!(found(&host, &REMOTES[0]) > 0);
    drop(reader);
    host.crash();
    cut(&mut host);
    assert!(!held().unfinished);
    assert_eq!(held().flow_rows, FLOWS);
    // Those of the window that came after the leaf.
    assert_eq!(rows(&host, 1).len() as u64, FLOWS);
    ask(&mut host, &forget(1)).expect("it is erased");
    assert_eq!(found(&host, &REMOTES[0]), 0);
    sound(&host, 0);
}

#[test]
fn records_go_until_a_time_and_only_what_every_sink_has() {
    let mut host = host();
    let records = host.records();
    let of = |record: &&Record| record.kind == Kind::Meter && record.tenant == 1;
    let ends: Vec<i64> = records
        .iter()
        .filter(of)
        .map(|one| one.window_end)
        .collect();
    let until = ends[ends.len() / 2];
    let goes = |record: &&Record| of(record) && record.window_end <= until;
    let seqs: Vec<u64> = records.iter().filter(goes).map(|one| one.seq).collect();
    let count = seqs.len() as u64;
    assert!(count > 10 && count < ends.len() as u64);
    let mut wanted = Forget {
        records_until: Some(until),
        unconfirmed: seqs[seqs.len() - 1],
        ..forget(1)
    };
    let refused = ask(&mut host, &wanted).expect_err("a sink waits for the last one");
    assert!(
        matches!(refused, AddError::Unconfirmed { tenant: 1, seq } if seq == wanted.unconfirmed)
    );
    assert_eq!(host.records(), records);
    assert_eq!(rows(&host, 1).len() as u64, 12 * FLOWS);
    wanted.unconfirmed += 1;
    ask(&mut host, &wanted).expect("all of them are confirmed");
    let left = host.records();
    assert_eq!(left.iter().filter(goes).count(), 0);
    let others = |record: &&Record| !goes(record) && record.kind != Kind::Erasure;
    assert!(left.iter().filter(others).eq(records.iter().filter(others)));
    assert_eq!(
        held(&host.path, 1, until).expect("it can be read").records,
        0
    );
    sound(&host, count);
    cut(&mut host);
    sound(&host, count);
}

#[test]
fn flow_detail_of_a_ledger_that_was_put_aside_goes_with_that_of_the_one_beside_it() {
    let mut host = host();
    // A copy of the whole file that is put back: superseded, and its rows are still there.
    let copy = host.copy().expect("a file");
    cut(&mut host);
    host.ledger = None;
    host.memory = None;
    host.put(&copy);
    host.remembered = host.kernel;
    cut(&mut host);
    assert_eq!(host.superseded.len(), 1);
    // The first window of a new ledger is NODATA, and has no detail.
    cut(&mut host);
    // Asked of the one that was put aside, only what is its own goes.
    let aside = host.files().into_iter().find(|file| *file != host.path);
    let aside = aside.expect("a ledger that was put aside");
    // Its key is beside the other one; who wants to write into it has to say so.
    let refused = ledger::append(&aside, &Addition::Forget(forget(2)), NOW);
    assert!(refused.expect_err("no key").to_string().contains("key"));
    fs::copy(keys::key_path(&host.path), keys::key_path(&aside)).expect("a copy");
    let own = rows(&host, 1);
    let wanted = Addition::Forget(forget(2));
    ledger::append(&aside, &wanted, NOW).expect("it is erased");
    assert_eq!(rows(&host, 1), own);
    assert_eq!(rows(&host, 2).len() as u64, FLOWS);
    ask(&mut host, &forget(1)).expect("it is erased");
    assert_eq!(found(&host, &REMOTES[0]), 0);
    let leaf = host.records().pop().expect("a leaf");
    assert!(leaf.erased_flows.expect("flow detail").records > 1);
    sound(&host, 0);
}

#[test]
fn without_a_reason_that_a_record_can_have_nothing_is_erased() {
    let mut host = host();
    for reason in [String::new(), "a\nb".into(), "x".repeat(250)] {
        let wrong = Forget {
            reason,
            ..forget(1)
        };
        let refused = ask(&mut host, &wrong).expect_err("no reason");
        assert!(matches!(refused, AddError::Reason), "{refused}");
    }
    assert_eq!(rows(&host, 1).len() as u64, 12 * FLOWS);
}
