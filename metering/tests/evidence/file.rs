//! The bytes of a ledger's file.

use crate::{
    mutate::Dice,
    python::{self, Said},
    site::{Site, by_level},
};
use metering::{ledger::records, verify};
use rusqlite::{Connection, OpenFlags, types::Value};
use std::{fs, path::Path};

/// All that a reader gets out of a ledger: every column of every table, and the records by an index.
fn contents(path: &Path) -> Result<Vec<Vec<Value>>, String> {
    let read = || -> rusqlite::Result<Vec<Vec<Value>>> {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut all = Vec::new();
        for table in ["record", "head", "seal", "about", "look", "owner", "series"] {
            let mut statement = db.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2"))?;
            let columns = statement.column_count();
            let rows =
                statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect())?;
            for row in rows {
                all.push(row?);
            }
        }
        Ok(all)
    };
    let mut all = read().map_err(|error| error.to_string())?;
    let filter = metering::ledger::Filter {
        tenant: Some(7),
        ..Default::default()
    };
    for row in records(path, &filter).map_err(|error| error.to_string())? {
        let record = row.map_err(|(seq, error)| format!("{seq}: {error}"))?;
        all.push(vec![Value::Blob(record.encode())]);
    }
    Ok(all)
}

#[test]
fn a_byte_of_the_file_that_is_changed_is_found_or_changes_nothing() {
    let changes = by_level(300, 4_000, 40_000);
    let sample = by_level(40, 400, 2_000);
    let mut site = Site::new(4);
    site.close();
    let (original, keys) = (fs::read(site.path()).expect("the ledger"), site.keys());
    let known = contents(&site.path()).expect("it can be read");
    let mut dice = Dice::new();
    let (mut found, mut harmless, mut python_found) = (0, 0, 0);
    let mut batch = Vec::new();
    for number in 0..changes {
        let mut bytes = original.clone();
        let at = dice.below(bytes.len() as u64) as usize;
        let bit = 1 << dice.below(8);
        bytes[at] ^= bit;
        let path = site.dir.0.join(format!("bent-{number}.db"));
        fs::write(&path, &bytes).expect("a copy");
        let sound = verify::ledger(&path, &keys, None).is_ok_and(|report| report.is_sound());
        if sound {
            assert_eq!(contents(&path).as_ref(), Ok(&known), "byte {at}, bit {bit}");
            harmless += 1;
        } else {
            found += 1;
        }
        if number < sample {
            batch.push((path, at));
        } else {
            remove(&path);
        }
        if batch.len() == 50 || (number + 1 == sample && !batch.is_empty()) {
            let files: Vec<_> = batch.iter().map(|(path, _)| path.clone()).collect();
            let said = python::verify(&site, &files, &[]).unwrap_or_default();
            for (said, (path, at)) in said.iter().zip(&batch) {
                match said {
                    Said::Wrong(_) => python_found += 1,
                    Said::Verified(..) => {
                        assert_eq!(contents(path).as_ref(), Ok(&known), "Python, byte {at}");
                    }
                }
            }
            batch.drain(..).for_each(|(path, _)| remove(&path));
        }
    }
    assert!(found > harmless / 10, "{found} found, {harmless} harmless");
    println!(
        "CASES: bytes of a ledger's file changed: {changes}: {found} found, {harmless} without effect"
    );
    println!(
        "CASES: bytes of a ledger's file changed, found in Python: {python_found} of {sample}"
    );
}

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let _ = fs::remove_file(name);
    }
}
