//! The queries of `docs/CLICKHOUSE.md`, as they stand there, against sums that are made by hand, with every record there twice.

use crate::{has_engine, server::Server, sink, story::Story};
use anyhow::{Result, ensure};
use metering::sink::{Mark, Sink as _};

const MINUTE_NS: i64 = 60_000_000_000;
/// 2026-12-01, the day of the page.
const DAY_NS: i64 = 1_796_083_200_000_000_000;

#[test]
fn the_queries_of_the_page_give_what_ledgers_of_two_hosts_have() -> Result<()> {
    if !has_engine("the_queries_of_the_page_give_what_ledgers_of_two_hosts_have") {
        return Ok(());
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CLICKHOUSE.md"))?;
    let queries: Vec<&str> = page
        .split("```sql\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
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
    // Fifteen hours on one host, half of the day on another, with other bytes, and one window of three slots.
    let one = (0..15 * 60).map(|minute| (minute, 1, 1_000 + minute * 7 % 997));
    let other = (6 * 60..18 * 60).map(|minute| (minute, 1, 5_000 + minute * 31 % 4_999));
    let mut windows: [Vec<(i64, i64, i64)>; 2] = [one.collect(), other.collect()];
    windows[1].push((20 * 60 + 2, 12, 1_000_003));
    // The day before, and another tenant's: not asked for.
    windows[0].push((-1, 1, 1 << 40));
    let mut slots = vec![0_i64; 288];
    let mut by_hour = vec![0_i64; 24];
    let (mut bytes, mut records) = ([0_i64; 2], [0_u64; 2]);
    for (host, windows) in windows.iter().enumerate() {
        let name = ["a", "b"][host];
        let mut story = Story::new(host as u8 + 1, name, 0);
        for (number, (minute, minutes, sum)) in windows.iter().enumerate() {
            let start = DAY_NS + minute * MINUTE_NS;
            let end = start + minutes * MINUTE_NS;
            story.span(number as u64, (start, end), 1, *sum as u64);
            if *minute < 0 {
                continue;
            }
            bytes[host] += sum;
            records[host] += 1;
            // Minute by minute, as nobody else does it: what came before each one's end less what came before it.
            for part in 0..*minutes {
                let before = |minute: i64| sum * minute / minutes;
                let more = before(part + 1) - before(part);
                slots[((minute + part) / 5) as usize] += more;
                by_hour[((minute + part) / 60) as usize] += more;
            }
        }
        story.span(windows.len() as u64, (DAY_NS, DAY_NS + MINUTE_NS), 2, 99);
        sink.deliver(&story.batch(Mark::NONE, story.size()))?;
    }
    server.ask("SYSTEM STOP MERGES record")?;
    server.ask("INSERT INTO record SELECT * FROM record")?;
    let sum = bytes[0] + bytes[1];
    let packets = records[0] + records[1];
    ensure!(server.ask(total)? == format!("0|4|{packets}|{sum}"));
    let expected = format!(
        "a|{}|{}|{}\nb|{}|{}|{}",
        "01".repeat(16),
        bytes[0],
        records[0],
        "02".repeat(16),
        bytes[1],
        records[1]
    );
    let said = server.ask(by_host)?;
    ensure!(said == expected, "{said}\n{expected}");
    let expected: Vec<String> = (0..)
        .zip(&by_hour)
        .filter(|(_, bytes)| **bytes > 0)
        .map(|(hour, bytes)| format!("2026-12-01 {hour:02}:00:00|0|{bytes}"))
        .collect();
    let said = server.ask(hours)?;
    ensure!(said == expected.join("\n"), "{said}\n{expected:?}");
    // In Paris the day before, whose last hour is the first of this one there, begins an hour earlier.
    let said = server.ask(days)?;
    let late: i64 = by_hour[23];
    let day = sum - late + (1 << 40);
    ensure!(
        said.starts_with(&format!("2026-12-01|0|{day}")),
        "{said}, {day}"
    );
    slots.sort_unstable();
    // Of 288 values the one at place 274.
    let p95 = slots[273];
    ensure!(p95 > 0);
    let said = server.ask(percentile)?;
    let expected = format!("0|{p95}|{}|288\n1|0|0|288", p95 * 8 / 300);
    ensure!(said == expected, "{said}\n{expected}");
    let said = server.ask(ledgers)?;
    let size = windows[1].len() + 1;
    let begins = format!("b|{}|{size}|", "02".repeat(16));
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
    ensure!(server.ask(above)? == "0" && server.ask(total)?.ends_with(&format!("|{sum}")));
    println!("CASES: queries of a bill in ClickHouse that give what was added up by hand: 9");
    Ok(())
}
