//! Flow detail beside the ledger: there before its root, and never in a bill's way.

use super::*;
use crate::flow::{Detail, FlowDelta};
use std::ops::ControlFlow;

const DAY_NS: u64 = 86_400_000_000_000;

/// A flow of the first owner, from the tenant, and the registers to it.
fn carry(host: &mut Host, remote: [u8; 4], packets: u64) {
    host.carry(0, 0, 1, packets, 100);
    let mut address = [0; 16];
    address[..4].copy_from_slice(&remote);
    host.owners[0].flows.push(FlowDelta {
        zone: 1,
        ethertype: 0x0800,
        protocol: 6,
        remote: address,
        local_port: 50_000,
        remote_port: 443,
        counts: Counts {
            packets,
            l2_bytes: packets * 100,
            l3_bytes: packets * 86,
        },
        ..FlowDelta::default()
    });
}

fn cut(host: &mut Host) -> Result<Committed, LedgerError> {
    host.wait(MINUTE_NS);
    let committed = host.cut(true);
    host.owners[0].flows.clear();
    committed
}

fn see(host: &Host, filter: &FlowFilter) -> (Vec<FlowLine>, Vec<FlowFault>) {
    let mut lines = Vec::new();
    let faults = super::flows(&host.path, filter, &mut |line| {
        lines.push(line.clone());
        ControlFlow::Continue(())
    });
    (lines, faults.expect("it can be read"))
}

fn day_files(host: &Host) -> Vec<PathBuf> {
    let files = days::files(&host.path).expect("the directory is there");
    files.into_iter().map(|(_, path)| path).collect()
}

/// Packets of the rows of each record.
fn packets(lines: &[FlowLine]) -> BTreeMap<u64, u64> {
    let mut packets = BTreeMap::new();
    for line in lines {
        *packets.entry(line.seq).or_default() += line.row.counts.packets;
    }
    packets
}

/// In each window the rows are what the record's flows are, or there is no root.
fn holds(host: &Host) -> u64 {
    let (lines, faults) = see(host, &FlowFilter::default());
    assert_eq!(faults, []);
    let seen = packets(&lines);
    let mut roots = 0;
    for record in host.records() {
        let Some(total) = &record.total else {
            assert_eq!(record.flows, None);
            continue;
        };
        match record.flows {
            None => assert_eq!(seen.get(&record.seq), None),
            Some(_) => {
                let counted = record.counted().expect("it has a reading").packets;
                let attributed = counted - total.unattributed.packets;
                assert_eq!(seen.get(&record.seq), Some(&attributed));
                roots += 1;
            }
        }
    }
    assert_eq!(roots, seen.len());
    roots as u64
}

#[test]
fn rows_of_each_detail_are_those_of_their_root_and_a_day_has_a_file() {
    let mut host = Host::new();
    for detail in [Detail::Prefix, Detail::Full, Detail::Off] {
        host.owners[0].detail = detail;
        carry(&mut host, [198, 51, 100, 7], 5);
        carry(&mut host, [198, 51, 100, 8], 6);
        carry(&mut host, [192, 0, 2, 1], 1);
        host.carry(0, 0, 1, 4, 100); // of no flow
        cut(&mut host).expect("it is committed");
        // The next one begins on the next day.
        host.wait(DAY_NS);
        cut(&mut host).expect("it is committed");
    }
    assert_eq!(holds(&host), 2);
    assert_eq!(day_files(&host).len(), 2);
    let (lines, _) = see(&host, &FlowFilter::default());
    let remotes: Vec<_> = lines.iter().map(|line| &line.row.remote[..4]).collect();
    assert_eq!(remotes[..2], [[192, 0, 2, 0], [198, 51, 100, 0]]);
    assert_eq!(
        remotes[2..],
        [[192, 0, 2, 1], [198, 51, 100, 7], [198, 51, 100, 8]]
    );
    let records = host.records();
    let totals = records.iter().filter(|record| record.direction == 0);
    let totals = totals.filter_map(|record| record.total.as_ref());
    let unattributed: Vec<u64> = totals.map(|total| total.unattributed.packets).collect();
    assert_eq!(unattributed, [4, 0, 4, 0, 4, 0]);
    use std::os::unix::fs::PermissionsExt as _;
    for file in day_files(&host) {
        let mode = fs::metadata(&file)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}

#[test]
fn filters_show_what_they_say() {
    let mut host = Host::new();
    carry(&mut host, [198, 51, 100, 7], 5);
    carry(&mut host, [192, 0, 2, 1], 1);
    cut(&mut host).expect("it is committed");
    let count = |filter: FlowFilter| see(&host, &filter).0.len();
    let network = |address: [u8; 4], bits| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&address);
        let (ethertype, address) = (0x0800, bytes);
        FlowFilter {
            remote: Some(Network {
                ethertype,
                address,
                bits,
            }),
            ..FlowFilter::default()
        }
    };
    let tenant = host.owners[0].tenant;
    let of_tenant = |tenant| FlowFilter {
        tenant: Some(tenant),
        ..FlowFilter::default()
    };
    assert_eq!(
        (count(of_tenant(tenant)), count(of_tenant(tenant + 1))),
        (2, 0)
    );
    let port = |port: &str| FlowFilter {
        port: Some(port.into()),
        ..FlowFilter::default()
    };
    assert_eq!((count(port("port-1")), count(port("port"))), (2, 0));
    let way = |direction| FlowFilter {
        direction: Some(direction),
        ..FlowFilter::default()
    };
    assert_eq!((count(way(0)), count(way(1))), (2, 0));
    // A /24 may hold an address within it, and is no other network.
    assert_eq!(count(network([198, 51, 100, 200], 32)), 1);
    assert_eq!(count(network([198, 51, 0, 0], 16)), 1);
    assert_eq!(count(network([198, 51, 101, 0], 24)), 0);
    assert_eq!(count(network([0; 4], 0)), 2);
    let start = host.records()[1].window_start;
    let from = |from| FlowFilter {
        from: Some(from),
        ..FlowFilter::default()
    };
    let to = |to| FlowFilter {
        to: Some(to),
        ..FlowFilter::default()
    };
    assert_eq!((count(from(start)), count(from(start + 1))), (2, 0));
    assert_eq!((count(to(start + 1)), count(to(start))), (2, 0));
}

#[test]
fn rows_that_a_failed_commit_left_are_discarded_and_the_window_has_its_own() {
    let mut host = Host::new();
    carry(&mut host, [198, 51, 100, 7], 1);
    cut(&mut host).expect("it is committed");
    let before = see(&host, &FlowFilter::default()).0;
    let lock = Connection::open(&host.path).expect("the ledger");
    lock.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    carry(&mut host, [192, 0, 2, 1], 2);
    cut(&mut host).expect_err("somebody has the lock");
    let trees = |host: &Host| -> i64 {
        let db = Connection::open(&day_files(host)[0]).expect("the day's file");
        db.query_row("SELECT count(*) FROM tree", [], |row| row.get(0))
            .expect("a count")
    };
    // They are there, and nobody sees them.
    assert_eq!(trees(&host), 2);
    assert_eq!(see(&host, &FlowFilter::default()), (before, vec![]));
    drop(lock);
    host.crash();
    host.open().expect("it opens");
    assert_eq!(trees(&host), 1);
    carry(&mut host, [203, 0, 113, 1], 3);
    let committed = cut(&mut host).expect("it is committed");
    assert_eq!(committed.alarms, [""; 0]);
    assert_eq!(holds(&host), 2);
    host.audit_all();
}

#[test]
fn a_file_that_cannot_be_written_costs_detail_and_no_byte() {
    let mut host = Host::new();
    cut(&mut host).expect("it is committed");
    let day = days::name(&host.path, days::of(host.identity.now.utc_ns));
    fs::write(
        &day,
        "no database at all, and long enough to be looked at".repeat(30),
    )
    .expect("a file");
    let mut alarms = Vec::new();
    for _ in 0..3 {
        carry(&mut host, [192, 0, 2, 1], 2);
        host.carry(0, 0, 1, 3, 100);
        alarms.extend(cut(&mut host).expect("it is committed").alarms);
        let records = host.records();
        let last = records
            .iter()
            .rfind(|record| record.direction == 0 && record.total.is_some());
        let last = last.expect("a total");
        assert_eq!(last.flows, None);
        assert_eq!(last.cause.as_deref(), Some("flow detail could not be kept"));
        // The flow table knew: that stays true.
        let total = last.total.as_ref().expect("it has one");
        assert_eq!(total.unattributed.packets, 3);
    }
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert!(alarms[0].contains(&day.display().to_string()), "{alarms:?}");
    fs::remove_file(&day).expect("it goes");
    carry(&mut host, [192, 0, 2, 1], 2);
    let alarms = cut(&mut host).expect("it is committed").alarms;
    assert_eq!(alarms, ["flow detail is kept again"]);
    assert_eq!(holds(&host), 1);
    host.audit_all();
}

#[test]
fn a_file_that_is_deleted_while_it_is_open_takes_no_later_rows_with_it() {
    let mut host = Host::new();
    for _ in 0..2 {
        carry(&mut host, [192, 0, 2, 1], 2);
        cut(&mut host).expect("it is committed");
        for file in day_files(&host) {
            fs::remove_file(file).expect("it goes");
        }
    }
    carry(&mut host, [192, 0, 2, 1], 7);
    cut(&mut host).expect("it is committed");
    let (lines, faults) = see(&host, &FlowFilter::default());
    assert_eq!((lines.len(), faults), (1, vec![]));
    assert_eq!(lines[0].row.counts.packets, 7);
}

#[test]
fn rows_that_somebody_changed_are_named_and_not_shown() {
    let mut host = Host::new();
    for _ in 0..4 {
        carry(&mut host, [192, 0, 2, 1], 2);
        carry(&mut host, [198, 51, 100, 7], 5);
        cut(&mut host).expect("it is committed");
    }
    let seqs: Vec<u64> = packets(&see(&host, &FlowFilter::default()).0)
        .into_keys()
        .collect();
    let db = Connection::open(&day_files(&host)[0]).expect("the day's file");
    for change in [
        // A count, a row too few, and the rows of another tenant's window.
        "UPDATE flow SET canonical = (SELECT canonical FROM flow WHERE tree = 2 AND at = 0) WHERE tree = 1 AND at = 0",
        "DELETE FROM flow WHERE tree = 2 AND at = 1",
        "UPDATE flow SET canonical = x'A0' WHERE tree = 3 AND at = 0",
    ] {
        assert_eq!(db.execute(change, []), Ok(1), "{change}");
    }
    let (lines, faults) = see(&host, &FlowFilter::default());
    assert_eq!(packets(&lines).into_keys().collect::<Vec<_>>(), seqs[3..]);
    let source = RecordError::Missing { key: 0 };
    assert_eq!(
        faults,
        [
            FlowFault::Root { seq: seqs[0] },
            FlowFault::Root { seq: seqs[1] },
            FlowFault::Row {
                seq: seqs[2],
                source
            },
        ]
    );
}

#[test]
fn a_look_is_in_the_ledger_while_the_daemon_goes_on_writing() {
    let mut host = Host::new();
    carry(&mut host, [192, 0, 2, 1], 2);
    cut(&mut host).expect("it is committed");
    assert_eq!(looks(&host.path).expect("it can be read"), []);
    let look = |at| Look {
        at,
        who: "uid 0".into(),
        what: "flows --tenant 1".into(),
    };
    for at in [1, 2] {
        enter(&host.path, &look(at)).expect("it is entered");
        carry(&mut host, [192, 0, 2, 1], 2);
        cut(&mut host).expect("it is committed");
    }
    assert_eq!(
        looks(&host.path).expect("it can be read"),
        [look(1), look(2)]
    );
    host.audit_all();
}
