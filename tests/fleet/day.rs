//! A day of one tenant on two hosts, delivered to a store and added up by hand: for the queries of a page.

use crate::story::Story;
use anyhow::Result;
use metering::sink::{Mark, Sink};

const MINUTE_NS: i64 = 60_000_000_000;
/// 2026-12-01, the day of the pages.
const DAY_NS: i64 = 1_796_083_200_000_000_000;

/// What was added up. Bytes are the tenant's, from it.
pub struct Day {
    /// By host, `a` and `b`.
    pub bytes: [i64; 2],
    /// Windows, likewise.
    pub records: [u64; 2],
    /// Records of the ledger of `b`.
    pub size: usize,
    /// In slots of five minutes.
    pub slots: Vec<i64>,
    pub hours: Vec<i64>,
}

/// The queries of a page in `docs/`, in their order.
pub fn queries(page: &str) -> Vec<&str> {
    page.split("```sql\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect()
}

impl Day {
    /// Delivers both ledgers, and adds them up.
    pub fn deliver(sink: &mut impl Sink) -> Result<Self> {
        // Fifteen hours on one host, half of the day on another, with other bytes, and one window of three slots.
        let one = (0..15 * 60).map(|minute| (minute, 1, 1_000 + minute * 7 % 997));
        let other = (6 * 60..18 * 60).map(|minute| (minute, 1, 5_000 + minute * 31 % 4_999));
        let mut windows: [Vec<(i64, i64, i64)>; 2] = [one.collect(), other.collect()];
        windows[1].push((20 * 60 + 2, 12, 1_000_003));
        // The day before, and another tenant's: not asked for.
        windows[0].push((-1, 1, 1 << 40));
        let mut day = Self {
            bytes: [0; 2],
            records: [0; 2],
            size: windows[1].len() + 1,
            slots: vec![0; 288],
            hours: vec![0; 24],
        };
        for (host, windows) in windows.iter().enumerate() {
            let mut story = Story::new(host as u8 + 1, ["a", "b"][host], 0);
            for (number, (minute, minutes, sum)) in windows.iter().enumerate() {
                let start = DAY_NS + minute * MINUTE_NS;
                let end = start + minutes * MINUTE_NS;
                story.span(number as u64, (start, end), 1, *sum as u64);
                if *minute < 0 {
                    continue;
                }
                day.bytes[host] += sum;
                day.records[host] += 1;
                // Minute by minute, as nobody else does it: what came before each one's end less what came before it.
                for part in 0..*minutes {
                    let before = |minute: i64| sum * minute / minutes;
                    let more = before(part + 1) - before(part);
                    day.slots[((minute + part) / 5) as usize] += more;
                    day.hours[((minute + part) / 60) as usize] += more;
                }
            }
            story.span(windows.len() as u64, (DAY_NS, DAY_NS + MINUTE_NS), 2, 99);
            sink.deliver(&story.batch(Mark::NONE, story.size()))?;
        }
        Ok(day)
    }

    /// What the query of the whole says.
    pub fn total(&self) -> String {
        let packets = self.records[0] + self.records[1];
        format!("0|4|{packets}|{}", self.bytes[0] + self.bytes[1])
    }

    /// What the query by host says.
    pub fn by_host(&self) -> String {
        let line = |host: usize| {
            let (name, id) = [("a", "01"), ("b", "02")][host];
            let (bytes, records) = (self.bytes[host], self.records[host]);
            format!("{name}|{}|{bytes}|{records}", id.repeat(16))
        };
        format!("{}\n{}", line(0), line(1))
    }

    /// What the query of the 95th percentile says: of 288 values the one at place 274.
    pub fn percentile(&self) -> String {
        let mut slots = self.slots.clone();
        slots.sort_unstable();
        let p95 = slots[273];
        assert!(p95 > 0, "a percentile that says something");
        format!("0|{p95}|{}|288\n1|0|0|288", p95 * 8 / 300)
    }
}
