//! The tables: made where there are none, brought up where an earlier octroi made them, and refused where a later one did.

use super::{ANSWER, Target, told};
use crate::sink::SinkError;
use std::cell::Cell;
use tokio_postgres::{Client, GenericClient, Transaction};

/// The tables; the version that [`VERSION`] says.
const SCHEMA: &str = include_str!("../schema.sql");
/// What makes them of those of the version before, from version 1 on.
const STEPS: [&str; 2] = [
    include_str!("../schema_from_1.sql"),
    include_str!("../schema_from_2.sql"),
];
const VERSION: i32 = 3;
/// Names the lock under which tables are made: "octroi" in ASCII.
const SCHEMA_LOCK: i64 = 0x6F63_7472_6F69;

/// Connects to a database, and makes the tables if there are none. `is_old` is set, and nothing done, where they are an
/// earlier octroi's.
pub(super) async fn open(target: &Target, is_old: &Cell<bool>) -> Result<Client, SinkError> {
    let mut client = connect(target, ANSWER.as_millis()).await?;
    let mut there = version(&client).await?;
    if there.is_none() {
        let transaction = locked(&mut client).await?;
        there = version(&transaction).await?;
        if there.is_none() {
            transaction.batch_execute(SCHEMA).await.map_err(told)?;
            there = Some(VERSION);
        }
        transaction.commit().await.map_err(told)?;
    }
    let there = there.unwrap_or_default();
    if (1..VERSION).contains(&there) {
        is_old.set(true);
        let why = format!("its schema has version {there}, and is brought up to {VERSION}");
        return Err(SinkError::Unavailable(why));
    }
    fits(there)?;
    Ok(client)
}

/// Brings the tables of an earlier octroi up, all of the way or not at all.
pub(super) async fn bring_up(target: &Target) -> Result<(), SinkError> {
    // An index over many records takes longer than any answer.
    let mut client = connect(target, 0).await?;
    let transaction = locked(&mut client).await?;
    let there = version(&transaction).await?.unwrap_or_default();
    // Somebody else may have been faster.
    for (from, step) in (1..VERSION).zip(STEPS) {
        if there > 0 && from >= there {
            transaction.batch_execute(step).await.map_err(told)?;
        }
    }
    transaction.commit().await.map_err(told)
}

/// Connects to a database that is read and never written.
pub(super) async fn open_to_read(target: &Target) -> Result<Client, SinkError> {
    // A tenant's month is read in as long as it takes.
    let client = connect(target, 0).await?;
    match version(&client).await? {
        None => Err(SinkError::Refused(
            "it has no tables of octroi: it is no store, or has taken nothing yet".into(),
        )),
        Some(there) => fits(there).map(|()| client),
    }
}

fn fits(there: i32) -> Result<(), SinkError> {
    if there == VERSION {
        return Ok(());
    }
    Err(SinkError::Refused(format!(
        "its schema has version {there}, and this octroi knows {VERSION}; update the older one"
    )))
}

async fn connect(target: &Target, statement_ms: u128) -> Result<Client, SinkError> {
    let client = target.connect(ANSWER).await?;
    let timeout = format!("SET statement_timeout = {statement_ms}");
    client.batch_execute(&timeout).await.map_err(told)?;
    Ok(client)
}

/// A transaction that nobody else makes tables beside.
async fn locked(client: &mut Client) -> Result<Transaction<'_>, SinkError> {
    let transaction = client.transaction().await.map_err(told)?;
    let lock = "SELECT pg_advisory_xact_lock($1)";
    let done = transaction.execute(lock, &[&SCHEMA_LOCK]).await;
    done.map_err(told)?;
    Ok(transaction)
}

async fn version(client: &impl GenericClient) -> Result<Option<i32>, SinkError> {
    let known = "SELECT to_regclass('octroi.about') IS NOT NULL";
    let row = client.query_one(known, &[]).await.map_err(told)?;
    if !row.get::<_, bool>(0) {
        return Ok(None);
    }
    let version = "SELECT max(version) FROM octroi.about";
    let row = client.query_one(version, &[]).await.map_err(told)?;
    Ok(Some(row.get::<_, Option<i32>>(0).unwrap_or_default()))
}
