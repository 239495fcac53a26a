//! The tables, made and brought up by whoever comes first.
//!
//! There is no transaction: each step may be run again, and is known to be done when its number is in `about`, behind it.

use super::{row::RowBinary, server::Server, target::Target};
use crate::sink::SinkError;

const ABOUT: &str = "CREATE TABLE IF NOT EXISTS about (version UInt32, made DateTime('UTC') DEFAULT now()) \
                     ENGINE = ReplacingMergeTree ORDER BY version";

/// What makes each version of the one before.
const STEPS: [&str; 2] = [include_str!("schema_1.sql"), include_str!("schema_2.sql")];

/// The statements of a step.
fn statements(step: &str) -> impl Iterator<Item = &str> {
    step.split(";\n").filter(|statement| {
        let mut lines = statement.lines();
        lines.any(|line| !line.is_empty() && !line.starts_with("--"))
    })
}

/// Looks at the tables, and makes what is missing.
pub(super) async fn open(target: &Target) -> Result<(), SinkError> {
    let mut server = Server::open(target).await?;
    let database = server.database().to_owned();
    let named = [("name", database.as_str())];
    let known = "SELECT count() FROM system.databases WHERE name = {name:String}";
    if is_zero(&server.system(known, &named).await?) {
        let make = format!("CREATE DATABASE IF NOT EXISTS `{database}`");
        server.change(None, &make).await?;
    }
    let known =
        "SELECT count() FROM system.tables WHERE database = {name:String} AND name = 'about'";
    if is_zero(&server.system(known, &named).await?) {
        server.change(Some(&database), ABOUT).await?;
    }
    let version = server.rows("SELECT max(version) FROM about", &[]).await?;
    let version = version
        .first()
        .map_or(Ok(0), |row| row.number::<usize>(0))?;
    if version > STEPS.len() {
        return Err(SinkError::Refused(format!(
            "its tables have version {version}, and this octroi knows {}; update the older one",
            STEPS.len()
        )));
    }
    for (step, number) in STEPS.iter().zip(1_u32..).skip(version) {
        for statement in statements(step) {
            server.change(Some(&database), statement).await?;
        }
        let row = RowBinary::new().u32(number).into_bytes();
        server.insert("about (version)", row, None).await?;
    }
    Ok(())
}

fn is_zero(rows: &[super::server::Row]) -> bool {
    rows.first().is_none_or(|row| row.text(0) == "0")
}
