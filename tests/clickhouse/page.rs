//! The queries of `docs/CLICKHOUSE.md`, as they stand there, against sums that are made by hand, with every record there twice.

use crate::{
    day::{Day, queries},
    has_engine,
    server::Server,
    sink,
};
use anyhow::{Result, ensure};
use metering::sink::Sink as _;

#[test]
fn the_queries_of_the_page_give_what_ledgers_of_two_hosts_have() -> Result<()> {
    if !has_engine("the_queries_of_the_page_give_what_ledgers_of_two_hosts_have") {
        return Ok(());
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CLICKHOUSE.md"))?;
    let queries: Vec<&str> = queries(&page)
        .into_iter()
        .map(|query| query.trim_end().trim_end_matches(';'))
        .collect();
    let [
        total,
        by_host,
        hours,
        days,
        percentile,
        ledgers,
        kept,
        forks,
        removal,
    ] = queries.as_slice()
    else {
        anyhow::bail!("the page has {} queries", queries.len());
    };
    let server = Server::new("page")?;
    let mut sink = sink(&server);
    let day = Day::deliver(&mut sink)?;
    server.ask("SYSTEM STOP MERGES record")?;
    server.ask("INSERT INTO record SELECT * FROM record")?;
    ensure!(server.ask(total)? == day.total());
    let (said, expected) = (server.ask(by_host)?, day.by_host());
    ensure!(said == expected, "{said}\n{expected}");
    let expected: Vec<String> = (0..)
        .zip(&day.hours)
        .filter(|(_, bytes)| **bytes > 0)
        .map(|(hour, bytes)| format!("2026-12-01 {hour:02}:00:00|0|{bytes}"))
        .collect();
    let said = server.ask(hours)?;
    ensure!(said == expected.join("\n"), "{said}\n{expected:?}");
    // In Paris the day before, whose last hour is the first of this one there, begins an hour earlier.
    let said = server.ask(days)?;
    let in_paris = day.bytes[0] + day.bytes[1] - day.hours[23] + (1 << 40);
    ensure!(
        said.starts_with(&format!("2026-12-01|0|{in_paris}")),
        "{said}, {in_paris}"
    );
    let (said, expected) = (server.ask(percentile)?, day.percentile());
    ensure!(said == expected, "{said}\n{expected}");
    let said = server.ask(ledgers)?;
    let begins = format!("b|{}|{}|", "02".repeat(16), day.size);
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines.len() == 2 && lines[1].starts_with(&begins), "{said}");

    // What is kept and made anew is what was asked.
    server.ask(kept)?;
    server.ask("SYSTEM REFRESH VIEW usage_hour_kept")?;
    server.ask("SYSTEM WAIT VIEW usage_hour_kept")?;
    let kept = server.ask("SELECT sum(l2_bytes), count() FROM usage_hour_kept")?;
    let asked = server.ask("SELECT sum(l2_bytes), count() FROM usage_hour")?;
    ensure!(kept == asked && !kept.starts_with("0|"), "{kept}, {asked}");
    sink.fork(&[1; 16], "a", "what it was")?;
    let said = server.ask(forks)?;
    ensure!(
        said.starts_with(&format!("a|{}|what it was|", "01".repeat(16))),
        "{said}"
    );
    // A deletion waits for merges. What is above the mark goes, and what is below it stays.
    server.ask("SYSTEM START MERGES record")?;
    server.ask("INSERT INTO record SELECT * REPLACE (seq + 100000 AS seq) FROM record WHERE ledger_id = unhex('01010101010101010101010101010101')")?;
    let above = "SELECT count() FROM record WHERE seq >= 100000";
    ensure!(server.ask(above)? != "0");
    server.ask(removal)?;
    ensure!(server.ask(above)? == "0" && server.ask(total)? == day.total());
    println!("CASES: queries of a bill in ClickHouse that give what was added up by hand: 9");
    Ok(())
}
