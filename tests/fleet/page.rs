//! The queries of `docs/FLEET.md`, as they stand there, against sums that are made by hand.

use crate::{database::Database, postgres, ready, story::Story};
use anyhow::{Context as _, Result, ensure};
use metering::sink::{Mark, Sink as _};

const MINUTE_NS: i64 = 60_000_000_000;
/// 2026-12-01, the day of the page.
const DAY_NS: i64 = 1_796_083_200_000_000_000;

#[test]
fn the_queries_of_the_page_give_what_ledgers_of_two_hosts_have() -> Result<()> {
    if !ready("the_queries_of_the_page_give_what_ledgers_of_two_hosts_have") {
        return Ok(());
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/FLEET.md"))?;
    let queries: Vec<&str> = page
        .split("```sql\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    let [total, by_host, percentile, ledgers] = queries.as_slice() else {
        anyhow::bail!("the page has {} queries", queries.len());
    };
    let database = Database::new("fleet-page")?;
    let mut sink = postgres(&database);
    // Fifteen hours on one host, half of the day on another, with other bytes, and one window of three slots.
    let minutes_of = |hours: i64| hours * 60;
    let one = (0..minutes_of(15)).map(|minute| (minute, 1, 1_000 + minute * 7 % 997));
    let other =
        (minutes_of(6)..minutes_of(18)).map(|minute| (minute, 1, 5_000 + minute * 31 % 4_999));
    let mut windows: [Vec<(i64, i64, i64)>; 2] = [one.collect(), other.collect()];
    windows[1].push((minutes_of(20) + 2, 12, 1_000_003));
    // The day before, and another tenant's: not asked for.
    windows[0].push((-1, 1, 1 << 40));
    let mut slots = vec![0_i64; 288];
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
                let slot = ((minute + part) / 5) as usize;
                slots[slot] += before(part + 1) - before(part);
            }
        }
        story.span(windows.len() as u64, (DAY_NS, DAY_NS + MINUTE_NS), 2, 99);
        sink.deliver(&story.batch(Mark::NONE, story.size()))?;
    }
    let packets = records[0] + records[1];
    ensure!(database.ask(total)? == format!("0|4|{packets}|{}", bytes[0] + bytes[1]));
    let expected = format!(
        "a|{}|{}|{}\nb|{}|{}|{}",
        "01".repeat(16),
        bytes[0],
        records[0],
        "02".repeat(16),
        bytes[1],
        records[1]
    );
    let said = database.ask(by_host)?;
    ensure!(said == expected, "{said}\n{expected}");
    slots.sort_unstable();
    // Of 288 values the one at place 274.
    let p95 = slots[273];
    ensure!(p95 > 0);
    let said = database.ask(percentile)?;
    let expected = format!("0|{p95}|{}|288\n1|0|0|288", p95 * 8 / 300);
    ensure!(said == expected, "{said}\n{expected}");
    let said = database.ask(ledgers)?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines.len() == 2, "{said}");
    let size = windows[1].len() + 1;
    let second = lines.get(1).context("two ledgers")?;
    let begins = format!("b|{}|{size}|", "02".repeat(16));
    ensure!(second.starts_with(&begins), "{second}");
    println!("CASES: queries of a bill that give what was added up by hand: 4");
    Ok(())
}
