//! The registers are gone: what is said of them, and of what nobody saw (M-7.6 to M-7.8).

use super::*;
use crate::record::Flags;

const BITS: u64 = 1_000_000_001;
const BURST: u64 = 7_000;

/// Three windows of a minute, 10 packets each way and window.
fn metered() -> Host {
    let mut host = Host::new();
    for _ in 0..3 {
        carry(&mut host, 0, 10);
        host.wait(MINUTE_NS);
        host.cut(true).expect("the disk works");
    }
    host.audit();
    host
}

fn carry(host: &mut Host, owner: usize, packets: u64) {
    host.carry(owner, 0, 1, packets, 100);
    host.carry(owner, 1, 2, packets, 200);
}

/// The records that close the earlier boot, by incarnation: `*` of both directions.
fn closing(host: &mut Host, from: usize, incarnation: u64) -> [Record; 2] {
    host.ledger = None;
    let records = host.records().split_off(from);
    let mut all = records.into_iter().filter(|record| {
        record.incarnation == incarnation
            && record.zone.is_none()
            && record
                .flags
                .has(Flags::RESET | Flags::PARTIAL | Flags::ESTIMATED)
    });
    let both = [all.next(), all.next()].map(|record| record.expect("a record"));
    assert_eq!(all.count(), 0, "one record in each direction");
    both
}

/// The limiter's bound of so much unseen time, rounded up.
fn bound(unseen_ns: u64) -> u64 {
    let bytes = (u128::from(BITS) * u128::from(unseen_ns)).div_ceil(8_000_000_000);
    bytes as u64 + BURST + 46 * 1_514
}

#[test]
fn a_checkpoint_is_billed_and_the_time_behind_it_is_bounded() {
    let mut host = metered();
    carry(&mut host, 0, 5);
    host.wait(7_000_000_001);
    host.checkpoint().expect("the disk works");
    let noted = host.identity.now;
    carry(&mut host, 0, 1_000); // nobody sees these
    host.wait(20_000_000_000);
    let from = host.kernel.size as usize;
    host.restart(true);
    host.wait(3_000_000_000);
    host.open().expect("it is continued");
    host.audit();
    let now = host.identity.now;
    let began = now.utc_ns - now.boot_ns as i64;
    let unseen_ns = (began - noted.utc_ns) as u64;
    let [up, down] = closing(&mut host, from, 1);
    let counted = |record: &Record| record.counted().map(|counted| counted.packets);
    assert_eq!((counted(&up), counted(&down)), (Some(5), Some(5)));
    assert_eq!(up.bytes_min, Some(500));
    assert_eq!(up.bytes_max, Some(500 + bound(unseen_ns)));
    assert_eq!((down.bytes_min, down.bytes_max), (Some(1_000), None));
    for record in [&up, &down] {
        let reading = record.reading.expect("a reading");
        assert_eq!(reading.cut_end_ns, noted.boot_ns);
        assert_eq!((record.window_end, record.window_id), (began, 3));
        assert!(!record.flags.any(Flags::MERGED | Flags::MISALIGNED));
        assert!(
            record
                .cause
                .as_ref()
                .is_some_and(|cause| cause.contains("registers are gone"))
        );
    }
    // Nothing of it is left for the next boot, whoever opens it.
    host.crash();
    host.window = 9;
    host.come();
    carry(&mut host, 0, 4);
    host.cut(true).expect("the disk works");
    let next = host.records().pop().expect("a record");
    assert_eq!((next.window_first, next.window_id), (0, 9));
    assert_eq!(next.flags, Flags::MERGED);
    assert_eq!(
        next.reading.map(|reading| reading.register_start.packets),
        Some(0)
    );
    host.audit_all();
    println!("CASES: ledger, registers closed with a checkpoint: 2");
}

#[test]
fn without_a_checkpoint_nothing_is_billed_and_the_ceilings_of_the_last_commit_bound_it() {
    // An older one says nothing.
    for (older, ceilings) in [(false, false), (true, false), (false, true)] {
        let mut host = Host::new();
        host.open().expect("the disk works");
        if let Some(ledger) = host.ledger.as_mut().filter(|_| ceilings) {
            ledger.follow([(1, [Some((BITS, BURST)), None])].into());
        }
        carry(&mut host, 0, 10);
        host.wait(MINUTE_NS);
        if older {
            host.checkpoint().expect("the disk works");
        }
        host.cut(true).expect("the disk works");
        let cut_utc_ns = host.identity.now.utc_ns;
        host.audit();
        carry(&mut host, 0, 9);
        host.wait(300 * MINUTE_NS);
        let from = host.kernel.size as usize;
        let cut_ns = host.identity.now.boot_ns - 300 * MINUTE_NS;
        host.restart(true);
        host.open().expect("it is continued");
        host.audit();
        let now = host.identity.now;
        let unseen_ns = now.utc_ns - now.boot_ns as i64 - cut_utc_ns;
        let unseen = ceilings.then_some(bound(unseen_ns as u64));
        for (record, unseen) in closing(&mut host, from, 1).iter().zip([unseen, None]) {
            let reading = record.reading.expect("a reading");
            assert_eq!(reading.register_start, reading.register_end);
            assert_eq!((reading.cut_start_ns, reading.cut_end_ns), (cut_ns, cut_ns));
            assert_eq!((record.bytes_min, record.bytes_max), (Some(0), unseen));
            assert!(
                record.flags.has(Flags::MERGED),
                "it is longer than a window"
            );
        }
    }
}

#[test]
fn owners_of_the_checkpoint_alone_are_billed_and_those_that_are_closed_are_not() {
    let mut host = metered();
    host.come();
    host.go(0);
    host.cut(true).expect("the disk works");
    host.come();
    carry(&mut host, 1, 6);
    host.wait(1_000_000_000);
    host.checkpoint().expect("the disk works");
    // This one nobody ever noted.
    host.come();
    carry(&mut host, 2, 3);
    let from = host.kernel.size as usize;
    host.restart(true);
    host.open().expect("it is continued");
    host.audit();
    host.ledger = None;
    let records = host.records().split_off(from);
    let of = |incarnation| {
        records
            .iter()
            .filter(move |record| record.incarnation == incarnation)
    };
    assert_eq!((of(1).count(), of(4).count()), (0, 0));
    assert_eq!(of(2).count(), 2);
    let [up, _] = closing(&mut host, from, 3);
    let reading = up.reading.expect("a reading");
    assert_eq!(
        (reading.register_start.packets, reading.register_end.packets),
        (0, 6)
    );
    host.audit_all();
}

#[test]
fn an_epoch_that_never_had_a_window_is_closed_by_its_checkpoint() {
    let mut host = Host::new();
    carry(&mut host, 0, 6);
    host.wait(12_000_000_000);
    host.checkpoint().expect("the disk works");
    host.audit();
    // New maps, in the same boot.
    host.restart(false);
    host.wait(1_000_000_000);
    host.open().expect("it is continued");
    host.audit();
    let [up, _] = closing(&mut host, 1, 1);
    assert_eq!(up.counted().map(|counted| counted.packets), Some(6));
    assert_eq!(up.bytes_max, Some(600 + bound(1_000_000_000)));
    assert_eq!(up.window_end, host.identity.now.utc_ns);
    host.audit_all();
}

#[test]
fn a_checkpoint_of_an_earlier_boot_is_never_billed_again() {
    let mut host = metered();
    carry(&mut host, 0, 5);
    host.wait(90 * MINUTE_NS);
    host.checkpoint().expect("the disk works");
    for boot in 0..3 {
        host.restart(true);
        host.come();
        // Younger by its own clock than the checkpoint of the first boot.
        host.wait(1_000_000_000);
        if boot == 1 {
            carry(&mut host, 0, 2);
            host.cut(true).expect("the disk works");
        }
        host.open().expect("it is continued");
        host.audit();
    }
    host.audit_all();
    // 3 windows of 10 and 5 in the checkpoint, and 2 later, each way.
    assert_eq!(host.archive.sums(), (37 * 300, 0));
}

#[test]
fn the_last_records_of_a_boot_and_the_next_boot_are_one_commit() {
    let mut host = metered();
    carry(&mut host, 0, 5);
    host.checkpoint().expect("the disk works");
    host.restart(true);
    host.come();
    let other = Connection::open(&host.path).expect("it can be opened");
    // Any of the writes may be the one that fails: here it is that of the first record, after others.
    other
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON record BEGIN SELECT RAISE(ABORT, 'disk full'); END",
        )
        .expect("a trigger");
    for _ in 0..2 {
        let error = host.open().expect_err("it is refused").to_string();
        assert!(error.contains("disk full"), "{error}");
        host.audit();
    }
    other
        .execute_batch("DROP TRIGGER full")
        .expect("it is dropped");
    drop(other);
    host.open().expect("it is continued");
    host.audit_all();
    assert_eq!(host.archive.sums(), (35 * 300, 0));
}

#[test]
fn a_ledger_lost_and_then_the_registers_bill_nothing_twice() {
    for checkpoint in [false, true] {
        let mut host = metered();
        host.crash();
        host.delete(true);
        host.open().expect("a new ledger");
        carry(&mut host, 0, 5);
        host.wait(10_000_000_000);
        if checkpoint {
            host.checkpoint().expect("the disk works");
        }
        host.wait(MINUTE_NS);
        host.restart(true);
        host.open().expect("it is continued");
        host.audit();
        host.ledger = None;
        let records = host.records().split_off(1);
        assert_eq!(records.len(), if checkpoint { 2 } else { 0 });
        for record in &records {
            assert_eq!(record.kind, Kind::Nodata);
            assert!(
                record
                    .flags
                    .has(Flags::RESET | Flags::PARTIAL | Flags::ESTIMATED)
            );
        }
        if let Some(up) = records.first() {
            let now = host.identity.now;
            let ends = now.utc_ns - now.boot_ns as i64;
            assert_eq!(up.window_end, ends);
            assert!(up.bytes_max == Some(3_500 + bound(MINUTE_NS - now.boot_ns)));
        }
        host.audit_all();
        assert_eq!(host.archive.sums().0, 30 * 300);
    }
}
