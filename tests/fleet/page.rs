//! The queries of `docs/FLEET.md`, as they stand there, against sums that are made by hand.

use crate::{
    database::Database,
    day::{Day, queries},
    postgres, ready,
};
use anyhow::{Context as _, Result, ensure};

#[test]
fn the_queries_of_the_page_give_what_ledgers_of_two_hosts_have() -> Result<()> {
    if !ready("the_queries_of_the_page_give_what_ledgers_of_two_hosts_have") {
        return Ok(());
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/FLEET.md"))?;
    let queries = queries(&page);
    let [total, by_host, percentile, ledgers] = queries.as_slice() else {
        anyhow::bail!("the page has {} queries", queries.len());
    };
    let database = Database::new("fleet-page")?;
    let mut sink = postgres(&database);
    let day = Day::deliver(&mut sink)?;
    ensure!(database.ask(total)? == day.total());
    let (said, expected) = (database.ask(by_host)?, day.by_host());
    ensure!(said == expected, "{said}\n{expected}");
    let (said, expected) = (database.ask(percentile)?, day.percentile());
    ensure!(said == expected, "{said}\n{expected}");
    let said = database.ask(ledgers)?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines.len() == 2, "{said}");
    let second = lines.get(1).context("two ledgers")?;
    let begins = format!("b|{}|{}|", "02".repeat(16), day.size);
    ensure!(second.starts_with(&begins), "{second}");
    println!("CASES: queries of a bill that give what was added up by hand: 4");
    Ok(())
}
