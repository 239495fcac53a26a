//! What a ledger does to itself: another key, and records that are erased.

use crate::{
    python::{self, Said},
    site::{HOUR_NS, Site},
};
use metering::{
    ledger::{keys, last_head, records},
    note::{Signer, Verifier, keyring},
    proof::{ProofError, prove},
    record::{Kind, Record},
    verify::{self, Report},
};
use rusqlite::Connection;
use std::{fs, os::unix::fs::PermissionsExt as _};

fn verified(site: &Site, keys: &[Verifier]) -> Report {
    verify::ledger(&site.path(), keys, None).expect("it can be read")
}

fn all(site: &Site) -> Vec<Record> {
    let rows = records(&site.path(), &Default::default()).expect("records");
    rows.into_iter().map(|row| row.expect("a record")).collect()
}

/// Python says of the ledger what we say.
fn agrees(site: &Site, report: &Report) {
    let Some(said) = python::verify(site, &[site.path()], &[]) else {
        return;
    };
    let expected = Said::Verified(report.verified, report.pruned);
    assert_eq!(said, [expected], "{:?}", report.findings);
}

fn rotate(site: &Site, seed: u8) {
    keys::make(&keys::next_key_path(&site.path()), &[seed; 32]).expect("a key");
}

#[test]
fn the_key_is_its_owners_alone_and_is_not_taken_where_others_can_read_it() {
    let mut site = Site::new(1);
    let key = keys::key_path(&site.path());
    let mode = |path| {
        fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(&key), 0o600);
    assert_eq!(site.keys().len(), 1);
    site.close();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("a mode");
    let error = keys::read(&key).map(drop).expect_err("others may read it");
    assert!(error.to_string().contains("others may read"), "{error}");
}

#[test]
fn another_key_signs_after_a_leaf_that_both_have_signed() {
    let mut site = Site::new(2);
    let first = site.keys();
    for seed in [1, 2] {
        rotate(&site, seed);
        site.cut();
        site.cut();
        assert!(
            !keys::next_key_path(&site.path()).exists(),
            "it took its place"
        );
    }
    let leaves = all(&site)
        .iter()
        .filter(|record| record.kind == Kind::Key)
        .count();
    assert_eq!((leaves, site.keys().len()), (2, 3));
    // Who trusts the first key alone trusts those that it handed over to.
    let report = verified(&site, &first);
    assert_eq!(report.findings, []);
    assert_eq!(report.heads, 7);
    agrees(&site, &report);
    let last = keys::read(&keys::key_path(&site.path())).expect("it can be read");
    let last = last.expect("it is there").public();
    assert_eq!(last, Signer::from_seed(&[2; 32]).public());
    // And the next daemon goes on.
    site.reopen();
    site.cut();
    assert_eq!(verified(&site, &first).findings, []);
}

#[test]
fn a_crash_between_a_new_keys_commit_and_its_place_is_repaired() {
    let mut site = Site::new(1);
    let (key, next) = (
        keys::key_path(&site.path()),
        keys::next_key_path(&site.path()),
    );
    let old = fs::read(&key).expect("a key");
    rotate(&site, 9);
    site.cut();
    site.close();
    fs::rename(&key, &next).expect("as it was before the renaming");
    fs::write(&key, old).expect("as it was before the renaming");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a mode");
    site.reopen();
    assert!(!next.exists());
    site.cut();
    let report = verified(&site, &site.keys());
    assert_eq!(report.findings, []);
    let begun = all(&site)
        .iter()
        .filter(|record| record.kind == Kind::Key)
        .count();
    assert_eq!(begun, 1);
    agrees(&site, &report);
}

#[test]
fn a_key_that_the_one_before_did_not_sign_is_found() {
    let mut site = Site::new(1);
    rotate(&site, 1);
    site.cut();
    site.close();
    let seq = all(&site)
        .iter()
        .find(|record| record.kind == Kind::Key)
        .expect("a leaf")
        .seq;
    let mut record = all(&site).swap_remove(seq as usize);
    if let Some(rotation) = &mut record.rotation {
        rotation.by_old[7] ^= 1;
    }
    let canonical = record.encode();
    let db = Connection::open(site.path()).expect("it can be opened");
    let leaf = metering::record::leaf_hash(&canonical);
    let update = "UPDATE record SET canonical = ?2, leaf = ?3 WHERE seq = ?1";
    db.execute(update, (seq as i64, canonical, leaf))
        .expect("it is changed");
    drop(db);
    let report = verified(&site, &site.keys());
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.records == Some((seq, seq))),
        "{report:?}"
    );
}

#[test]
fn a_ledger_whose_key_is_gone_is_superseded_and_nothing_is_lost() {
    let mut site = Site::new(2);
    let before = last_head(&site.path()).expect("a head");
    site.close();
    fs::remove_file(keys::key_path(&site.path())).expect("it was there");
    site.reopen();
    site.cut();
    let records = all(&site);
    assert!(records[0].supersedes.is_some());
    assert!(
        records[1..].iter().all(|record| record.kind == Kind::Meter),
        "nothing is NODATA"
    );
    let first = records
        .iter()
        .find(|record| record.zone.is_none() && record.kind == Kind::Meter);
    assert_eq!(first.expect("a record").window_first, 2);
    assert_eq!(verified(&site, &site.keys()).findings, []);
    assert_ne!(before, last_head(&site.path()).expect("a head"));
    assert_eq!(site.keys().len(), 2, "the keyring keeps the one before");
}

#[test]
fn erased_records_leave_their_leaves_and_everything_else_verifies() {
    let mut site = Site::new(4);
    let kept = last_head(&site.path()).expect("a head");
    let before = all(&site);
    let text = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|part| part == what);
    assert!(text(&fs::read(site.path()).expect("a file"), b"web-1") || site.ledger.is_some());
    let of = |tenant| {
        before
            .iter()
            .filter(move |record| record.kind.is_of_a_tenant() && record.tenant == tenant)
    };
    let mine = of(7).count() as u64;
    let ledger = site.ledger.as_mut().expect("it is open");
    let all_of_it = (0, u64::MAX);
    assert_eq!(
        ledger
            .erase(Some(7), all_of_it, "asked for", HOUR_NS)
            .expect("it is erased"),
        mine
    );
    assert_eq!(
        ledger
            .erase(Some(7), all_of_it, "asked for", HOUR_NS)
            .expect("nothing is there"),
        0
    );
    site.cut();
    // And by age: the first window of everybody.
    let ledger = site.ledger.as_mut().expect("it is open");
    let window = before
        .iter()
        .filter(|record| record.window_id == 0 && record.kind.is_of_a_tenant());
    let last = window
        .clone()
        .map(|record| record.seq)
        .max()
        .expect("records");
    let more = window.filter(|record| record.tenant != 7).count() as u64;
    assert_eq!(
        ledger
            .erase(None, (0, last), "retention", HOUR_NS)
            .expect("it is erased"),
        more
    );
    site.cut();
    let report = verified(&site, &site.keys());
    assert_eq!(report.findings, []);
    assert_eq!(report.pruned, mine + more);
    agrees(&site, &report);
    assert_eq!(
        verify::audit(&site.path(), &site.keys(), None)
            .expect("it can be read")
            .findings,
        []
    );
    let head = verify::kept(&kept, &site.keys()).expect("it is signed");
    let against = verify::ledger(&site.path(), &site.keys(), Some(&head)).expect("it can be read");
    assert_eq!(against.findings, [], "a root from before is the same");
    // A proof says how many are missing.
    let key = keys::read(&keys::key_path(&site.path())).expect("it can be read");
    let mut out = Vec::new();
    let proved = prove(
        &site.path(),
        &key.expect("a key"),
        7,
        (None, None),
        &mut out,
    )
    .expect("a proof");
    let checked = verify::proof(&out[..], &site.keys(), None).expect("it can be read");
    assert_eq!((checked.findings, checked.pruned), (Vec::new(), mine));
    assert_eq!(proved.claim.tenant_seq.1 - proved.claim.records, mine);
    println!(
        "CASES: records erased, and everything else verified: {}",
        mine + more
    );
}

#[test]
fn an_erasure_that_no_leaf_says_and_one_that_was_taken_back_are_found() {
    let mut site = Site::new(2);
    let before = all(&site);
    let ledger = site.ledger.as_mut().expect("it is open");
    ledger
        .erase(None, (3, 4), "retention", HOUR_NS)
        .expect("it is erased");
    site.close();
    assert_eq!(verified(&site, &site.keys()).findings, []);
    let original = fs::read(site.path()).expect("a file");
    let names = |seq| {
        let report = verified(&site, &site.keys());
        let named = report
            .findings
            .iter()
            .any(|finding| finding.records == Some((seq, seq)));
        assert!(named, "{:?}", report.findings);
        let said = python::verify(&site, &[site.path()], &[]);
        assert!(said.is_none_or(|said| matches!(said[0], Said::Wrong(_))));
    };
    let empty = "UPDATE record SET canonical = NULL, kind = 0, stream_seq = 0, tenant = 0, tenant_seq = 0, \
         boot_id = x'', map_generation = x'', port_uid = '', incarnation = 0, direction = 0, zone = 0, \
         window_id = 0, window_start = 0, window_end = 0, flags = 0, packets = 0, l2_bytes = 0, l3_bytes = 0 \
         WHERE seq = 9";
    let db = Connection::open(site.path()).expect("it can be opened");
    db.execute_batch(empty).expect("it is emptied");
    drop(db);
    names(9);
    fs::write(site.path(), original).expect("the file is put back");
    let db = Connection::open(site.path()).expect("it can be opened");
    let back = "UPDATE record SET canonical = ?1 WHERE seq = 4";
    db.execute(back, [before[4].encode()])
        .expect("it is put back");
    drop(db);
    names(4);
}

#[test]
fn a_proof_needs_the_key_in_force() {
    let mut site = Site::new(1);
    let old = keys::read(&keys::key_path(&site.path()))
        .expect("it can be read")
        .expect("a key");
    rotate(&site, 5);
    site.cut();
    let refused = prove(&site.path(), &old, 7, (None, None), &mut Vec::new());
    assert!(matches!(refused, Err(ProofError::Head(_))), "{refused:?}");
    assert!(keyring("no key\n").is_err());
}
