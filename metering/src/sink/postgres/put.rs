//! Brings a batch in: its records, its totals and the mark, in one transaction.

use super::{mark, told};
use crate::sink::{Batch, Item, SinkError};
use tokio_postgres::{Error, Transaction, error::SqlState};

pub(super) async fn put(transaction: &mut Transaction<'_>, batch: &Batch) -> Result<(), SinkError> {
    let id = &batch.ledger_id[..];
    let begin = "INSERT INTO octroi.ledger (ledger_id, host, next_seq, last_leaf) \
                 VALUES ($1, $2, 0, $3) ON CONFLICT DO NOTHING";
    transaction
        .execute(begin, &[&id, &batch.host, &&[0_u8; 32][..]])
        .await
        .map_err(told)?;
    let there = mark(transaction, &batch.ledger_id, &batch.host, "FOR UPDATE").await?;
    if there != Some(batch.from) {
        // Somebody else with this ledger was faster, or the database was put back: the next try asks first.
        return Err(SinkError::Unavailable(
            "the sink moved meanwhile; asking it again".into(),
        ));
    }
    if !batch.items.is_empty() {
        insert(transaction, batch).await?;
    }
    if let Some(totals) = batch.totals.as_deref().filter(|totals| !totals.is_empty()) {
        insert_totals(transaction, id, totals).await?;
    }
    let moved = "UPDATE octroi.ledger SET next_seq = $2, last_leaf = $3, head = coalesce($4, head), \
                 totals_from = CASE WHEN $5 THEN totals_from ELSE $2 END, moved = now() WHERE ledger_id = $1";
    let next = i64::try_from(batch.to.next).unwrap_or(i64::MAX);
    let has_totals = batch.totals.is_some();
    transaction
        .execute(
            moved,
            &[&id, &next, &&batch.to.leaf[..], &batch.head, &has_totals],
        )
        .await
        .map_err(told)?;
    Ok(())
}

fn column<'a, T>(items: &'a [Item], of: impl Fn(&'a Item) -> T) -> Vec<T> {
    items.iter().map(of).collect()
}

/// A name that is taken is a fork.
fn there_once(done: Result<u64, Error>) -> Result<(), SinkError> {
    match done {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            let detail = error.as_db_error().and_then(|error| error.detail());
            Err(SinkError::Fork(format!(
                "the sink has a record of the same window already: {}",
                detail.unwrap_or("it does not say which")
            )))
        }
        Err(error) => Err(told(error)),
    }
}

async fn insert(transaction: &mut Transaction<'_>, batch: &Batch) -> Result<(), SinkError> {
    let items = &batch.items;
    let seqs = column(items, |item| item.seq as i64);
    let leaves = column(items, |item| &item.leaf[..]);
    let kinds = column(items, |item| item.record.kind as i16);
    let hosts = column(items, |item| item.record.host.as_str());
    let boots = column(items, |item| &item.record.boot_id[..]);
    let generations = column(items, |item| &item.record.map_generation[..]);
    let ports = column(items, |item| item.record.port_uid.as_str());
    let incarnations = column(items, |item| item.record.incarnation.to_string());
    let tenants = column(items, |item| i64::from(item.record.tenant));
    let directions = column(items, |item| i16::from(item.record.direction));
    let zones = column(items, Item::zone);
    let windows = column(items, |item| item.record.window_id.to_string());
    let starts = column(items, |item| item.record.window_start);
    let ends = column(items, |item| item.record.window_end);
    let flags = column(items, |item| i64::from(item.record.flags.0));
    // Decimal digits: u64 fits neither bigint nor a double.
    let billed = column(items, |item| {
        item.billed().unwrap_or_default().map(|sum| sum.to_string())
    });
    let sum = |at: usize| -> Vec<&str> { billed.iter().map(|sums| sums[at].as_str()).collect() };
    let (packets, l2_bytes, l3_bytes) = (sum(0), sum(1), sum(2));
    let canonicals = column(items, |item| &item.canonical[..]);
    let text = "INSERT INTO octroi.record (ledger_id, seq, leaf, kind, host, boot_id, map_generation, port_uid, \
        incarnation, tenant, direction, zone, window_id, window_start, window_end, flags, packets, l2_bytes, \
        l3_bytes, canonical) SELECT $1, * FROM unnest($2::bigint[], $3::bytea[], $4::smallint[], $5::text[], \
        $6::bytea[], $7::bytea[], $8::text[], $9::text[]::numeric[], $10::bigint[], $11::smallint[], \
        $12::bigint[], $13::text[]::numeric[], $14::bigint[], $15::bigint[], $16::bigint[], \
        $17::text[]::numeric[], $18::text[]::numeric[], $19::text[]::numeric[], $20::bytea[])";
    let done = transaction
        .execute(
            text,
            &[
                &&batch.ledger_id[..],
                &seqs,
                &leaves,
                &kinds,
                &hosts,
                &boots,
                &generations,
                &ports,
                &incarnations,
                &tenants,
                &directions,
                &zones,
                &windows,
                &starts,
                &ends,
                &flags,
                &packets,
                &l2_bytes,
                &l3_bytes,
                &canonicals,
            ],
        )
        .await;
    there_once(done)
}

async fn insert_totals(
    transaction: &Transaction<'_>,
    id: &[u8],
    totals: &[Item],
) -> Result<(), SinkError> {
    let seqs = column(totals, |item| item.seq as i64);
    let leaves = column(totals, |item| &item.leaf[..]);
    let hosts = column(totals, |item| item.record.host.as_str());
    let boots = column(totals, |item| &item.record.boot_id[..]);
    let generations = column(totals, |item| &item.record.map_generation[..]);
    let incarnations = column(totals, |item| item.record.incarnation.to_string());
    let tenants = column(totals, |item| i64::from(item.record.tenant));
    let directions = column(totals, |item| i16::from(item.record.direction));
    let windows = column(totals, |item| item.record.window_id.to_string());
    let starts = column(totals, |item| item.record.window_start);
    let ends = column(totals, |item| item.record.window_end);
    let flags = column(totals, |item| i64::from(item.record.flags.0));
    let canonicals = column(totals, |item| &item.canonical[..]);
    let text = "INSERT INTO octroi.total (ledger_id, seq, leaf, host, boot_id, map_generation, incarnation, tenant, \
        direction, window_id, window_start, window_end, flags, canonical) SELECT $1, * FROM unnest($2::bigint[], \
        $3::bytea[], $4::text[], $5::bytea[], $6::bytea[], $7::text[]::numeric[], $8::bigint[], $9::smallint[], \
        $10::text[]::numeric[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bytea[])";
    let done = transaction
        .execute(
            text,
            &[
                &id,
                &seqs,
                &leaves,
                &hosts,
                &boots,
                &generations,
                &incarnations,
                &tenants,
                &directions,
                &windows,
                &starts,
                &ends,
                &flags,
                &canonicals,
            ],
        )
        .await;
    there_once(done)
}
