//! The meter's state beside its records: what the next window begins with.

use super::Ceilings;
use crate::meter::{Epoch, OwnerState, Settled, State};
use rusqlite::{Transaction, params};
use serde::Serialize;

/// Keeps the meter's state: what has changed since `before`.
pub(super) fn save(
    transaction: &Transaction<'_>,
    epoch: &Epoch,
    before: &State,
    now: &State,
) -> rusqlite::Result<()> {
    let mut put = transaction
        .prepare_cached("INSERT OR REPLACE INTO owner (incarnation, state) VALUES (?1, ?2)")?;
    for (incarnation, owner) in &now.owners {
        if before.owners.get(incarnation) != Some(owner) {
            put.execute(params![*incarnation as i64, text::<OwnerState>(owner)])?;
        }
    }
    for incarnation in now.closed.difference(&before.closed) {
        put.execute(params![*incarnation as i64, None::<String>])?;
    }
    let stays = |incarnation: &u64| {
        now.owners.contains_key(incarnation) || now.closed.contains(incarnation)
    };
    let known = before.owners.keys().chain(&before.closed);
    for incarnation in known.filter(|incarnation| !stays(incarnation)) {
        transaction
            .prepare_cached("DELETE FROM owner WHERE incarnation = ?1")?
            .execute([*incarnation as i64])?;
    }
    about(transaction, "boot_id", Some(epoch.boot_id))?;
    about(transaction, "map_generation", Some(epoch.map_generation))?;
    about(transaction, "last", now.last.as_ref().map(text))?;
    about(transaction, "lost", now.lost.as_ref().map(text))?;
    about(transaction, "restored", None::<String>)?;
    let brackets = (!now.brackets.is_empty()).then(|| text(&now.brackets));
    about(transaction, "brackets", brackets)?;
    let settled = (now.settled != Settled::default()).then(|| text(&now.settled));
    about(transaction, "settled", settled)?;
    // One that was noted before these records says nothing any more, least of all in another boot.
    about(transaction, "checkpoint", None::<String>)
}

/// Keeps what bounds the bytes that nobody sees when the host crashes.
pub(super) fn note_ceilings(
    transaction: &Transaction<'_>,
    ceilings: &Ceilings,
) -> rusqlite::Result<()> {
    about(transaction, "ceilings", Some(text(ceilings)))
}

fn text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Sets what the ledger says of itself, or takes it back.
pub(super) fn about(
    transaction: &Transaction<'_>,
    key: &str,
    value: Option<impl rusqlite::ToSql>,
) -> rusqlite::Result<()> {
    match value {
        Some(value) => transaction
            .prepare_cached("INSERT OR REPLACE INTO about (key, value) VALUES (?1, ?2)")?
            .execute(params![key, value]),
        None => transaction
            .prepare_cached("DELETE FROM about WHERE key = ?1")?
            .execute([key]),
    }
    .map(drop)
}
