//! Whatever records there are: parts add up to the whole, however it is split.

use super::*;
use crate::record::{Flags, Kind, Reading, Total};
use proptest::prelude::*;

const HOST: &str = "h";

/// Windows of two ports of one tenant, of any length, with up to three zones.
fn windows() -> impl Strategy<Value = Vec<Record>> {
    let counts = prop_oneof![
        4 => 0..5_000_u64,
        1 => (1_u64 << 53)..(1 << 55),
    ];
    let window = (
        0..2_u64,
        0..2_u8,
        prop::collection::btree_map(0..6_u32, counts, 0..3),
        prop_oneof![Just(60_i64), Just(300), 1..4_000_i64],
        prop::bool::weighted(0.1),
    );
    prop::collection::vec(window, 1..60).prop_map(|windows| {
        let mut records = Vec::new();
        let mut ends = [[0_i64; 2]; 2];
        let mut ids = [[0_u64; 2]; 2];
        for (port, direction, zones, seconds, late) in windows {
            let at = (port as usize, usize::from(direction));
            let start = ends[at.0][at.1];
            ends[at.0][at.1] += seconds * 1_000_000_000;
            let subject = Record {
                kind: Kind::Meter,
                host: HOST.into(),
                flags: if late { Flags::LATE } else { Flags::NONE },
                port_uid: format!("p{port}"),
                incarnation: port,
                tenant: 7,
                direction,
                window_id: ids[at.0][at.1],
                window_first: ids[at.0][at.1],
                window_start: start,
                window_end: ends[at.0][at.1],
                ..Record::default()
            };
            ids[at.0][at.1] += 1;
            let reading = |bytes: u64| {
                let register_end = Counts {
                    packets: bytes / 100,
                    l2_bytes: bytes,
                    l3_bytes: bytes / 2,
                };
                Some(Reading {
                    register_end,
                    ..Reading::default()
                })
            };
            let sums = zones.values().map(|bytes| reading(*bytes));
            let sums = sums.map(|reading| reading.unwrap_or_default().register_end);
            let sum = sums.fold(Counts::default(), |sum, one| {
                sum.checked_add(one).unwrap_or_default()
            });
            records.push(Record {
                reading: Some(Reading {
                    register_end: sum,
                    ..Reading::default()
                }),
                total: Some(Total::default()),
                ..subject.clone()
            });
            for (zone, bytes) in zones {
                records.push(Record {
                    zone: Some(zone),
                    reading: reading(bytes),
                    ..subject.clone()
                });
            }
        }
        for (seq, record) in (1..).zip(&mut records) {
            record.seq = seq;
        }
        records
    })
}

fn reckon(records: &[Record], bounds: Vec<i64>, by: By) -> Report {
    let mut usage = Usage::new(Query {
        bounds,
        by,
        percentile: true,
        ..Query::default()
    })
    .expect("a query");
    usage.begin("ledger", HOST);
    let mut open = None;
    for record in records {
        let late = record.flags.has(Flags::LATE);
        usage
            .add(record, open.filter(|_| late))
            .expect("it adds up");
        if !late {
            open = Some(record.window_end);
        }
    }
    usage.finish(open.unwrap_or(0), &[]).expect("a report")
}

fn total(report: &Report) -> Sum {
    let rows = report.rows.iter().map(|row| row.kept.sum);
    rows.fold(Sum::default(), |sum, row| sum.plus(row).expect("a sum"))
}

proptest! {
    #[test]
    fn every_split_adds_up_to_what_the_records_bill(
        records in windows(),
        cuts in prop::collection::btree_set(1..800_i64, 0..12),
        by in any::<[bool; 4]>(),
    ) {
        let whole = 1_000 * SLOT_NS;
        let by = By { port: by[0], direction: by[1], zone: by[2], host: by[3] };
        let zones = records.iter().filter(|record| record.zone.is_some());
        let billed = zones.map(|record| Sum::from(record.counted().unwrap_or_default()));
        let billed = billed.fold(Sum::default(), |sum, one| sum.plus(one).expect("a sum"));
        prop_assert_eq!(total(&reckon(&records, vec![0, whole], by)), billed);
        let mut bounds = vec![0];
        bounds.extend(cuts.iter().map(|cut| cut * SLOT_NS));
        bounds.push(whole);
        let split = reckon(&records, bounds.clone(), by);
        prop_assert_eq!(total(&split), billed);
        // And a part is what it is alone.
        for pair in bounds.windows(2) {
            let alone = reckon(&records, pair.to_vec(), by);
            let rows = split.rows.iter().filter(|row| row.from == pair[0]);
            let sum = rows.fold(Sum::default(), |sum, row| sum.plus(row.kept.sum).expect("a sum"));
            prop_assert_eq!(total(&alone), sum);
        }
    }

    #[test]
    fn slots_add_up_to_what_was_carried(records in windows()) {
        // Without late ones, what is carried is what is billed.
        let records: Vec<Record> = records
            .into_iter()
            .map(|record| Record { flags: Flags::NONE, ..record })
            .collect();
        let report = reckon(&records, vec![0, 1_000 * SLOT_NS], By::default());
        let slots = report.percentiles.iter().flat_map(|found| &found.slots.bytes).flatten();
        let sum: u128 = slots.map(|bytes| u128::from(*bytes)).sum();
        prop_assert_eq!(sum as i128, total(&report).l2_bytes());
    }

    #[test]
    fn a_percentile_is_what_sorting_says(mut values in prop::collection::vec(0..50_u64, 1..300)) {
        let found = p95(values.clone());
        values.sort_unstable();
        let below = values.iter().filter(|value| Some(**value) <= found).count();
        // The least value that at least 95 % are not above.
        prop_assert!(below * 100 >= values.len() * 95);
        let less = values.iter().filter(|value| Some(**value) < found).count();
        prop_assert!(less * 100 < values.len() * 95);
    }
}

#[test]
fn windows_of_one_port_in_two_ledgers_are_no_sum() {
    let record = Record {
        kind: Kind::Meter,
        reading: Some(Reading::default()),
        total: Some(Total::default()),
        port_uid: "p".into(),
        window_end: 60,
        ..Record::default()
    };
    let bounds = vec![0, SLOT_NS];
    let mut usage = Usage::new(Query {
        bounds,
        ..Query::default()
    })
    .expect("a query");
    usage.begin("a.db", "h");
    usage.add(&record, None).expect("the first");
    usage.begin("b.db", "h");
    let error = usage.add(&record, None).expect_err("a copy");
    assert!(
        error
            .to_string()
            .contains("a.db and b.db both have windows of p"),
        "{error}"
    );
}

#[test]
fn zones_that_are_not_their_total_are_no_sum() {
    let record = Record {
        kind: Kind::Meter,
        reading: Some(Reading {
            register_end: Counts {
                l2_bytes: 5,
                ..Counts::default()
            },
            ..Reading::default()
        }),
        total: Some(Total::default()),
        port_uid: "p".into(),
        window_id: 9,
        window_end: 60,
        ..Record::default()
    };
    let bounds = vec![0, SLOT_NS];
    let mut usage = Usage::new(Query {
        bounds,
        ..Query::default()
    })
    .expect("a query");
    usage.begin("a.db", "h");
    usage.add(&record, None).expect("a total");
    let error = usage.finish(0, &[]).expect_err("its zones are missing");
    assert!(
        error.to_string().contains("the zones of p in window 9"),
        "{error}"
    );
}

#[test]
fn a_period_is_made_of_slots() {
    for (bounds, said) in [
        (vec![0, 60], "slot of five minutes"),
        (vec![0], "empty"),
        (vec![], "empty"),
        (vec![SLOT_NS, 0], "empty"),
        (vec![0, SLOT_NS * (SLOTS_MAX + 1)], "ten years"),
    ] {
        let error = Usage::new(Query {
            bounds,
            ..Query::default()
        })
        .err()
        .expect("refused");
        assert!(error.to_string().contains(said), "{error}");
    }
}
