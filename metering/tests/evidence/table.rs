//! A ledger's tables.

use crate::{
    mutate::{self, Dice},
    python::{self, Said},
    site::{Site, by_level},
};
use metering::{
    ledger::last_head,
    note::{Head, Note},
    verify::{self, Report},
};
use rusqlite::Connection;
use std::{collections::BTreeMap, fs, path::PathBuf};

fn report(site: &Site) -> Report {
    verify::ledger(&site.path(), &site.keys(), None).expect("it can be read")
}

#[test]
fn a_ledger_that_nobody_touched_is_verified_and_audited() {
    let mut site = Site::new(5);
    for closed in [false, true] {
        if closed {
            site.close();
        }
        let report = report(&site);
        assert_eq!(report.findings, []);
        let rows = metering::ledger::records(&site.path(), &Default::default()).expect("records");
        assert_eq!(report.verified, rows.len() as u64);
        assert_eq!((report.pruned, report.heads), (0, 6));
        let audited = verify::audit(&site.path(), &site.keys(), None).expect("it can be read");
        assert_eq!(audited, report);
    }
    let said = python::verify(&site, &[site.path()], &[]);
    if let Some(said) = said {
        assert_eq!(said, [Said::Verified(report(&site).verified, 0)]);
    }
}

/// Is the record that was touched named, or the table?
fn names(report: &Report, change: &mutate::Change) -> bool {
    report.findings.iter().any(|finding| {
        let within = |seq: &i64| {
            let named = |(first, last): (u64, u64)| (first..=last).contains(&(*seq as u64));
            finding.records.is_some_and(named) || finding.what.contains(&format!("record {seq} "))
        };
        match change.table {
            "record" => change.records.iter().any(within),
            table => finding.what.contains(table) || finding.what.contains("heads"),
        }
    })
}

#[test]
fn whatever_is_changed_by_sql_is_found_and_the_record_is_named() {
    let changes = by_level(300, 10_000, 100_000);
    let sample = by_level(60, 1_000, 4_000);
    let mut site = Site::new(4);
    site.close();
    let original = fs::read(site.path()).expect("the ledger");
    let keys = site.keys();
    let mut dice = Dice::new();
    let mut tables = BTreeMap::<&str, u64>::new();
    let mut batch: Vec<PathBuf> = Vec::new();
    let mut python = 0;
    for number in 0..changes {
        let path = site.dir.0.join(format!("changed-{number}.db"));
        fs::write(&path, &original).expect("a copy");
        let change = mutate::change(&path, &mut dice);
        *tables.entry(change.table).or_default() += 1;
        match verify::ledger(&path, &keys, None) {
            // What says whose ledger it is, or is its key, is gone.
            Err(error) => assert!(
                matches!(change.table, "about" | "record"),
                "{change:?}: {error}"
            ),
            Ok(report) => {
                assert!(
                    !report.is_sound(),
                    "not found: {}: {}",
                    change.table,
                    change.what
                );
                assert!(names(&report, &change), "{change:?}: {:?}", report.findings);
            }
        }
        if number < sample {
            batch.push(path);
        } else {
            fs::remove_file(path).expect("it was there");
        }
        if batch.len() == 50 || (number + 1 == sample && !batch.is_empty()) {
            for said in python::verify(&site, &batch, &[]).unwrap_or_default() {
                assert!(
                    matches!(said, Said::Wrong(_)),
                    "Python finds nothing in one of {batch:?}"
                );
                python += 1;
            }
            batch
                .drain(..)
                .for_each(|path| fs::remove_file(path).expect("it was there"));
        }
    }
    println!("CASES: changes by SQL that were found and named: {changes}: {tables:?}");
    println!("CASES: changes by SQL that Python found: {python}");
}

#[test]
fn a_tail_that_is_cut_off_is_found_against_a_head_that_was_kept_and_without_one_is_not() {
    let mut site = Site::new(3);
    site.close();
    let older = fs::read(site.path()).expect("the ledger");
    site.reopen();
    site.cut();
    site.close();
    let kept = last_head(&site.path()).expect("a head");
    let file = site.dir.0.join("kept");
    fs::write(&file, &kept).expect("it can be kept");
    let head = Head::parse(Note::parse(&kept).expect("a note").text).expect("a head");
    let against = |site: &Site| {
        verify::ledger(&site.path(), &site.keys(), Some(&head)).expect("it can be read")
    };
    assert_eq!(against(&site).findings, []);
    fs::write(site.path(), older).expect("the copy is put back");
    let found = against(&site).findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].records.map(|(_, last)| last), Some(head.size - 1));
    assert_eq!(
        report(&site).findings,
        [],
        "M-14.8: without a head it cannot be known"
    );
    let option = ["--against", file.to_str().expect("a name")];
    let said = python::verify(&site, &[site.path()], &option);
    assert!(said.is_none_or(|said| matches!(said[0], Said::Wrong(_))));
    let said = python::verify(&site, &[site.path()], &[]);
    assert!(said.is_none_or(|said| matches!(said[0], Said::Verified(..))));
}

#[test]
fn another_history_under_the_same_key_is_found_against_a_head_that_was_kept() {
    let mut site = Site::new(2);
    let kept = last_head(&site.path()).expect("a head");
    let mut head = Head::parse(Note::parse(&kept).expect("a note").text).expect("a head");
    head.root[3] ^= 1;
    site.cut();
    site.close();
    let report = verify::ledger(&site.path(), &site.keys(), Some(&head)).expect("it can be read");
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
}

#[test]
fn an_index_a_trigger_or_a_table_more_or_less_is_found() {
    for change in [
        "DROP INDEX record_by_time",
        "CREATE TABLE more (a)",
        "CREATE VIEW also AS SELECT * FROM record",
        "CREATE TRIGGER t AFTER INSERT ON record BEGIN DELETE FROM owner; END",
        "PRAGMA user_version = 7",
        "PRAGMA application_id = 7",
    ] {
        let mut site = Site::new(1);
        site.close();
        let db = Connection::open(site.path()).expect("it can be opened");
        db.execute_batch(change).expect("it can be done");
        drop(db);
        let found = verify::ledger(&site.path(), &site.keys(), None);
        assert!(
            found.is_err() || found.is_ok_and(|report| !report.is_sound()),
            "{change}"
        );
    }
}

#[test]
fn without_a_key_of_this_ledger_nothing_is_verified() {
    let (site, other) = (Site::new(1), Site::new(1));
    let error = verify::ledger(&site.path(), &other.keys(), None).expect_err("it has other keys");
    assert!(error.to_string().contains("octroi/host-1/"), "{error}");
}
