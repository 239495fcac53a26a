//! One key, one record (M-3.6): ClickHouse has no unique index, so it is asked before something goes in.

use super::server::Server;
use crate::{
    note::hex,
    record::{Kind, Record},
    sink::{Batch, SinkError},
};
use std::collections::{BTreeMap, BTreeSet};

/// Rows that are looked at: of a ledger's own windows another one has none, and a copy has all.
const ROWS_MAX: u32 = 100_000;

/// A record's key within an epoch, without the ledger; of a correction with its number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    port_uid: String,
    incarnation: u64,
    direction: u8,
    zone: i64,
    window_id: u64,
    kind: u8,
    seq: u64,
}

fn is_keyed(record: &Record) -> bool {
    matches!(record.kind, Kind::Meter | Kind::Nodata | Kind::Correction)
}

/// Refuses a batch with a key that another ledger of the host has below its mark.
///
/// # Errors
/// [`SinkError`].
pub(super) async fn nobody_elses(server: &mut Server<'_>, batch: &Batch) -> Result<(), SinkError> {
    let mut epochs: BTreeMap<([u8; 16], [u8; 16]), BTreeSet<Key>> = BTreeMap::new();
    for item in batch.items.iter().filter(|item| is_keyed(&item.record)) {
        let record = &item.record;
        let is_correction = record.kind == Kind::Correction;
        let key = Key {
            port_uid: record.port_uid.clone(),
            incarnation: record.incarnation,
            direction: record.direction,
            zone: item.zone(),
            window_id: record.window_id,
            kind: record.kind as u8,
            seq: if is_correction { item.seq } else { 0 },
        };
        let epoch = (record.boot_id, record.map_generation);
        epochs.entry(epoch).or_default().insert(key);
    }
    for ((boot_id, map_generation), keys) in epochs {
        let windows = keys.iter().map(|key| key.window_id);
        let (first, last) = (windows.clone().min(), windows.max());
        let params = [
            ("id", hex(&batch.ledger_id)),
            ("host", batch.host.clone()),
            ("boot", hex(&boot_id)),
            ("generation", hex(&map_generation)),
            ("first", first.unwrap_or_default().to_string()),
            ("last", last.unwrap_or_default().to_string()),
        ];
        let params = params
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let select = format!(
            "SELECT record.port_uid, record.incarnation, record.direction, record.zone, record.window_id, record.kind, \
             if(record.kind = 4, record.seq, 0), lower(hex(record.ledger_id)) FROM record INNER JOIN \
             (SELECT ledger_id, max(next_seq) AS next_seq FROM mark GROUP BY ledger_id) AS known \
             ON record.ledger_id = known.ledger_id \
             WHERE record.map_generation = toFixedString(unhex({{generation:String}}), 16) \
             AND record.boot_id = toFixedString(unhex({{boot:String}}), 16) AND record.host = {{host:String}} \
             AND record.ledger_id != toFixedString(unhex({{id:String}}), 16) AND record.kind IN (1, 4, 5) \
             AND record.window_id >= {{first:UInt64}} AND record.window_id <= {{last:UInt64}} \
             AND record.seq < known.next_seq LIMIT {ROWS_MAX}"
        );
        for row in server.rows(&select, &params).await? {
            let key = Key {
                port_uid: row.text(0).to_owned(),
                incarnation: row.number(1)?,
                direction: row.number(2)?,
                zone: row.number(3)?,
                window_id: row.number(4)?,
                kind: row.number(5)?,
                seq: row.number(6)?,
            };
            if keys.contains(&key) {
                return Err(SinkError::Fork(format!(
                    "the sink has a record of the same window already: {} of port {:?}, from the ledger {}",
                    key.window_id,
                    key.port_uid,
                    row.text(7)
                )));
            }
        }
    }
    Ok(())
}
