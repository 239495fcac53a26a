//! Random changes of a ledger by SQL: of a field, of a whole record in all its places, of rows.

use metering::record::{Record, leaf_hash};
use rusqlite::{Connection, params, params_from_iter, types::Value};
use std::time::{SystemTime, UNIX_EPOCH};

/// Numbers that a seed draws (splitmix64).
pub struct Dice(u64);

impl Dice {
    /// The seed of this run, which it says.
    pub fn new() -> Self {
        let given = std::env::var("OCTROI_TEST_SEED").ok();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_nanos() as u64);
        let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or(now);
        println!("SEED: OCTROI_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }
}

/// What was changed.
#[derive(Clone, Debug)]
pub struct Change {
    pub table: &'static str,
    /// Of a record: the rows that were touched.
    pub records: Vec<i64>,
    /// In words.
    pub what: String,
}

/// Tables, the columns that order their rows, and all columns.
const TABLES: [(&str, &str, &[&str]); 7] = [
    (
        "record",
        "seq",
        &[
            "seq",
            "kind",
            "stream_seq",
            "tenant",
            "tenant_seq",
            "boot_id",
            "map_generation",
            "port_uid",
            "incarnation",
            "direction",
            "zone",
            "window_id",
            "window_start",
            "window_end",
            "flags",
            "packets",
            "l2_bytes",
            "l3_bytes",
            "canonical",
            "leaf",
        ],
    ),
    ("head", "number", &["number", "size", "note"]),
    ("seal", "only", &["only", "note"]),
    ("about", "key", &["key", "value"]),
    ("look", "id", &["id", "at", "who", "what"]),
    ("owner", "incarnation", &["incarnation", "state"]),
    ("series", "series || '/' || of", &["series", "of", "next"]),
];

/// Another value of the same type, mostly near the old one.
fn other(value: &Value, dice: &mut Dice) -> Value {
    let bend = |bytes: &[u8], dice: &mut Dice| {
        let mut bytes = bytes.to_vec();
        match dice.below(8) {
            0 => bytes.push(dice.draw() as u8),
            1 => drop(bytes.pop()),
            _ if !bytes.is_empty() => {
                let at = dice.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << dice.below(8);
            }
            _ => bytes.push(7),
        }
        bytes
    };
    match value {
        Value::Null => Value::Text("{}".into()),
        Value::Integer(number) => Value::Integer(match dice.below(4) {
            0 => number.wrapping_add(1),
            1 => number.wrapping_sub(1),
            2 => number ^ (1 << dice.below(63)),
            _ => dice.draw() as i64,
        }),
        Value::Real(number) => Value::Real(number + 1.0),
        Value::Text(text) => {
            Value::Text(String::from_utf8_lossy(&bend(text.as_bytes(), dice)).into_owned())
        }
        Value::Blob(bytes) => Value::Blob(bend(bytes, dice)),
    }
}

/// Another record in the place of one, with its leaf and all columns: what somebody would do who knows the
/// format.
fn forge(db: &Connection, seq: i64, dice: &mut Dice) -> rusqlite::Result<Option<String>> {
    let canonical = "SELECT canonical FROM record WHERE seq = ?1";
    let canonical: Vec<u8> = db.query_row(canonical, [seq], |row| row.get(0))?;
    let mut record = Record::decode(&canonical).expect("it was a record");
    let what = match (dice.below(4), &mut record.reading) {
        (0, Some(reading)) => {
            reading.register_end.l2_bytes += 1 + dice.below(1_000);
            "l2_bytes"
        }
        (1, Some(reading)) => {
            reading.register_end.packets += 1;
            "packets"
        }
        (2, _) => {
            record.window_end += 1;
            record.window_start -= i64::from(record.kind as u8 != 3);
            "window_start, window_end"
        }
        _ => {
            record.host.push('x');
            "host"
        }
    };
    if record.check().is_err() {
        return Ok(None);
    }
    let canonical = record.encode();
    let counted = record.counted().unwrap_or_default();
    db.execute(
        "UPDATE record SET canonical = ?2, leaf = ?3, packets = ?4, l2_bytes = ?5, l3_bytes = ?6, \
         window_start = ?7, window_end = ?8 WHERE seq = ?1",
        params![
            seq,
            canonical,
            leaf_hash(&canonical),
            counted.packets as i64,
            counted.l2_bytes as i64,
            counted.l3_bytes as i64,
            record.window_start,
            record.window_end
        ],
    )?;
    Ok(Some(format!("forged {what}")))
}

/// Changes something; `None`: the tables do not take it, or nothing would be another.
fn attempt(db: &Connection, dice: &mut Dice) -> rusqlite::Result<Option<Change>> {
    // Half of all changes are of records.
    let at = dice.below(12).saturating_sub(5) as usize;
    let (table, key, columns) = TABLES[at];
    let rows = format!("SELECT {key}, * FROM {table} ORDER BY 1");
    let mut statement = db.prepare(&rows)?;
    let rows = statement.query_map([], |row| {
        let values = (1..=columns.len()).map(|at| row.get::<_, Value>(at));
        Ok((
            row.get::<_, Value>(0)?,
            values.collect::<rusqlite::Result<Vec<_>>>()?,
        ))
    })?;
    let rows: Vec<(Value, Vec<Value>)> = rows.collect::<rusqlite::Result<_>>()?;
    let (row, twin) = (
        dice.below(rows.len() as u64) as usize,
        dice.below(rows.len() as u64) as usize,
    );
    let place = |at: usize| match rows[at].0 {
        Value::Integer(seq) if table == "record" => vec![seq],
        _ => Vec::new(),
    };
    let mut records = place(row);
    let column = dice.below(columns.len() as u64) as usize;
    let name = columns[column];
    let update = |name: &str| format!("UPDATE {table} SET {name} = ?2 WHERE {key} = ?1");
    let what = match dice.below(10) {
        0 => {
            db.execute(
                &format!("DELETE FROM {table} WHERE {key} = ?1"),
                [&rows[row].0],
            )?;
            format!("deleted row {:?}", rows[row].0)
        }
        1 => {
            // A copy of a row in another place, or with another key.
            let mut values = rows[row].1.clone();
            values[0] = match (&values[0], table) {
                (Value::Integer(_), _) if dice.below(2) == 0 => Value::Integer(rows.len() as i64),
                (value, _) => other(value, dice),
            };
            records = match values[0] {
                Value::Integer(seq) if table == "record" => vec![seq],
                _ => Vec::new(),
            };
            let holes: Vec<String> = (1..=values.len()).map(|at| format!("?{at}")).collect();
            let insert = format!("INSERT INTO {table} VALUES ({})", holes.join(", "));
            db.execute(&insert, params_from_iter(&values))?;
            format!("inserted row {:?}", values[0])
        }
        2 => {
            // All that two rows say changes places; only their keys stay.
            if rows[row].1[1..] == rows[twin].1[1..] || table == "series" {
                return Ok(None);
            }
            records.extend(place(twin));
            for (to, from) in [(row, twin), (twin, row)] {
                for (column, name) in columns.iter().enumerate().skip(1) {
                    db.execute(&update(name), params![rows[to].0, rows[from].1[column]])?;
                }
            }
            format!("swapped rows {:?} and {:?}", rows[row].0, rows[twin].0)
        }
        3 | 4 if table == "record" => match forge(db, records[0], dice)? {
            Some(what) => what,
            None => return Ok(None),
        },
        _ => {
            let old = &rows[row].1[column];
            let new = match dice.below(6) {
                // What the same column of another row says.
                0 => rows[twin].1[column].clone(),
                1 if name == "canonical" || name == "state" => Value::Null,
                _ => other(old, dice),
            };
            if new == *old {
                return Ok(None);
            }
            if db.execute(&update(name), params![rows[row].0, new])? == 0 {
                return Ok(None);
            }
            format!("{name} of row {:?} from {old:?} to {new:?}", rows[row].0)
        }
    };
    Ok(Some(Change {
        table,
        records,
        what,
    }))
}

/// Changes something in the file.
pub fn change(path: &std::path::Path, dice: &mut Dice) -> Change {
    let db = Connection::open(path).expect("it can be opened");
    // The unique index is in nobody's way who can drop it and make it again; here, it is.
    loop {
        db.execute_batch("BEGIN").expect("a transaction");
        match attempt(&db, dice) {
            Ok(Some(change)) => {
                db.execute_batch("COMMIT").expect("it is committed");
                return change;
            }
            _ => db.execute_batch("ROLLBACK").expect("it is taken back"),
        }
    }
}
