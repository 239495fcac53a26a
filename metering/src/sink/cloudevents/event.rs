//! A record as a CloudEvent, version 1.0.

use crate::{
    note,
    sink::{
        Batch, Item, SinkError,
        text::{Fields, is_billed, rfc3339},
    },
};
use serde::Serialize;

/// OpenMeter compares this literally: no charset.
pub const CONTENT_TYPE: &str = "application/cloudevents-batch+json";
/// `type` of every event. Corrections have it too: whoever adds up all of it has the bill.
pub const TYPE: &str = "octroi.usage";

/// The names are those of CloudEvents.
#[derive(Serialize)]
struct Event {
    specversion: &'static str,
    id: String,
    source: String,
    r#type: &'static str,
    /// The tenant's number.
    subject: String,
    /// `window_start`.
    time: String,
    datacontenttype: &'static str,
    data: Fields,
}

fn event(batch: &Batch, item: &Item) -> Event {
    Event {
        specversion: "1.0",
        // Digits alone: a service may join this with others by `-`.
        id: format!("{:020}", item.seq),
        source: format!("//{}", note::origin(&batch.host, &batch.ledger_id)),
        r#type: TYPE,
        subject: item.record.tenant.to_string(),
        time: rfc3339(item.record.window_start),
        datacontenttype: "application/json",
        data: Fields::of(item),
    }
}

/// What of a batch bills something, as a JSON array; `None`: nothing does.
pub(super) fn batch(batch: &Batch) -> Result<Option<Vec<u8>>, SinkError> {
    let billed = batch.items.iter().filter(|item| is_billed(item));
    let events: Vec<Event> = billed.map(|item| event(batch, item)).collect();
    if events.is_empty() {
        return Ok(None);
    }
    let body = serde_json::to_vec(&events);
    body.map(Some)
        .map_err(|error| SinkError::Refused(format!("events: {error}")))
}
