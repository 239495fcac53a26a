//! What Lago says.

use super::event::{self, Event};
use crate::sink::{SinkError, Sums, Totals, http::Answer};
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashSet},
    ops::Range,
};

/// How Lago calls a `transaction_id` that it has: in a batch, and when one event is sent.
const HAS: [&str; 2] = ["value_already_exist", "value_is_missing_or_already_exists"];

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// All of it is there.
    Taken,
    /// None of it was taken; these are there from before, by index.
    Has(BTreeSet<usize>),
    /// None of it was taken, and none will be.
    Refuses(String),
}

/// What an answer to a batch means; others than 2xx, 404 and 422 were judged before.
pub(super) fn read(url: &str, answer: &Answer, events: &[&Event]) -> Said {
    let status = answer.status.as_u16();
    if status == 404 {
        return Said::Refuses(format!(
            "{url} answered {}: there is no Lago; write its address without /api/v1 as `url`",
            answer.status
        ));
    }
    if status != 422 {
        return Said::Taken;
    }
    let refuses = |why: String| Said::Refuses(format!("{url} refuses a batch: {why}"));
    let body: Value = match serde_json::from_str(&answer.text) {
        Ok(body) => body,
        Err(error) => return refuses(format!("422, and what is no JSON ({error})")),
    };
    let Some(details) = body["error_details"]
        .as_object()
        .filter(|it| !it.is_empty())
    else {
        return refuses(short(&body));
    };
    let mut known = BTreeSet::new();
    for (index, errors) in details {
        let event = index
            .parse()
            .ok()
            .and_then(|at: usize| Some((at, events.get(at)?)));
        let Some((at, event)) = event else {
            return refuses(format!("{index}: {}", short(errors)));
        };
        if !is_known(errors) {
            return refuses(format!("{}: {}", event.transaction_id, short(errors)));
        }
        known.insert(at);
    }
    Said::Has(known)
}

/// It says of an event that it has its name, and nothing else.
fn is_known(errors: &Value) -> bool {
    let Some(errors) = errors.as_object().filter(|errors| errors.len() == 1) else {
        return false;
    };
    let words = errors.get("transaction_id").and_then(Value::as_array);
    words.is_some_and(|words| {
        let is_that = |word: &Value| word.as_str().is_some_and(|word| HAS.contains(&word));
        !words.is_empty() && words.iter().all(is_that)
    })
}

/// A value in a line.
fn short(value: &Value) -> String {
    value.to_string().chars().take(200).collect()
}

/// Whether the event that it shows is the one that was to be sent.
pub(super) fn is_ours(url: &str, shown: &Answer, event: &Event) -> Result<(), SinkError> {
    let name = &event.transaction_id;
    if shown.status.as_u16() != 200 {
        return Err(SinkError::Refused(format!(
            "{url} has the event {name}, and answered {} when it was to show it: somebody deleted its billable metric there; \
             bring it back, or begin with another `code`, another sink's `name` and other subscriptions",
            shown.status
        )));
    }
    let body: Value = serde_json::from_str(&shown.text)
        .map_err(|error| SinkError::Unavailable(format!("{url}: the event {name}: {error}")))?;
    match body["event"]["properties"]["leaf"].as_str() {
        Some(leaf) if leaf == event.leaf() => Ok(()),
        _ => Err(SinkError::Fork(format!(
            "{url} has another record as {name}"
        ))),
    }
}

/// Sums of one ledger, event by event.
pub(super) struct ReadBack<'a> {
    prefix: String,
    below: u64,
    without: &'a [Range<u64>],
    /// What was added up: pages overlap when events come meanwhile.
    seen: HashSet<u64>,
    pub totals: Totals,
}

impl<'a> ReadBack<'a> {
    pub fn new(ledger_id: &[u8; 16], below: u64, without: &'a [Range<u64>]) -> Self {
        Self {
            prefix: event::prefix(ledger_id),
            below,
            without,
            seen: HashSet::new(),
            totals: Totals::default(),
        }
    }

    /// Adds a page, and says which is the next.
    pub fn page(&mut self, url: &str, answer: &Answer) -> Result<Option<u64>, SinkError> {
        let wrong =
            |what: &str| SinkError::Refused(format!("{url}: its list of events has {what}"));
        if answer.status.as_u16() != 200 {
            return Err(SinkError::Refused(format!(
                "{url} answered {} when it was to list events",
                answer.status
            )));
        }
        let body: Value =
            serde_json::from_str(&answer.text).map_err(|error| wrong(&error.to_string()))?;
        let events = body["events"]
            .as_array()
            .ok_or_else(|| wrong("no events"))?;
        for event in events {
            let name = event["transaction_id"].as_str().unwrap_or_default();
            // Other ledgers' and other programs' events are none of this one's.
            let Some(seq) = name
                .strip_prefix(&self.prefix)
                .and_then(|seq| seq.parse().ok())
            else {
                continue;
            };
            let is_gone = self.without.iter().any(|gone| gone.contains(&seq));
            if seq >= self.below || is_gone || !self.seen.insert(seq) {
                continue;
            }
            self.add(&event["properties"])
                .ok_or_else(|| wrong(&format!("{name}, which is not as it was sent")))?;
        }
        Ok(body["meta"]["next_page"].as_u64())
    }

    fn add(&mut self, properties: &Value) -> Option<()> {
        let text = |name: &str| properties[name].as_str();
        let number = |name: &str| text(name)?.parse::<i128>().ok();
        let direction = match text("direction")? {
            "from" => 0,
            "to" => 1,
            _ => return None,
        };
        let zone = match text("zone") {
            Some(zone) => zone.parse().ok()?,
            None => -1,
        };
        let more = Sums {
            records: 1,
            packets: number("packets")?,
            l2_bytes: number("l2_bytes")?,
            l3_bytes: number("l3_bytes")?,
        };
        let key = (text("tenant")?.parse().ok()?, direction, zone);
        let sums = self.totals.0.entry(key).or_default();
        sums.records = sums.records.saturating_add(more.records);
        sums.packets = sums.packets.saturating_add(more.packets);
        sums.l2_bytes = sums.l2_bytes.saturating_add(more.l2_bytes);
        sums.l3_bytes = sums.l3_bytes.saturating_add(more.l3_bytes);
        Some(())
    }
}
