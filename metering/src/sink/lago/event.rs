//! A record as an event of Lago. Numbers of 64 bits are decimal strings, which Lago adds up as `numeric`; a JSON number would be a
//! double on the way.

use super::Target;
use crate::{
    note::hex,
    sink::{
        Batch, Item, SinkError,
        text::{direction, is_billed, rfc3339},
    },
};
use serde::Serialize;

/// The names are those of Lago's API.
#[derive(Debug, Serialize)]
pub(super) struct Event {
    /// The ledger's id and the seq in 20 digits: one name, whichever host and ledger it comes from.
    pub transaction_id: String,
    external_subscription_id: String,
    code: String,
    /// `window_start`, seconds with milliseconds: as fine as Lago keeps them everywhere.
    timestamp: String,
    properties: Properties,
}

/// What a metric sums (`l2_bytes`) and filters by (`direction`, `zone`), and what leads back to the record. Values are texts
/// alone: Lago's API has no objects in there.
#[derive(Debug, Serialize)]
struct Properties {
    kind: &'static str,
    host: String,
    tenant: String,
    port: String,
    direction: &'static str,
    /// Absent: of no zone, as a correction of a total is.
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    window_start: String,
    window_end: String,
    flags: String,
    packets: String,
    l2_bytes: String,
    l3_bytes: String,
    leaf: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    corrects_ledger: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    corrects_seq: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Event {
    /// Hash of its record's leaf, in hexadecimal digits.
    pub fn leaf(&self) -> &str {
        &self.properties.leaf
    }
}

/// The name of a ledger's events.
pub(super) fn prefix(ledger_id: &[u8; 16]) -> String {
    hex(ledger_id) + "-"
}

/// Seconds since 1970 with three digits behind the point; towards the past.
fn timestamp(utc_ns: i64) -> String {
    let ms = i128::from(utc_ns.div_euclid(1_000_000));
    let sign = if ms < 0 { "-" } else { "" };
    let ms = ms.unsigned_abs();
    format!("{sign}{}.{:03}", ms / 1_000, ms % 1_000)
}

fn event(item: &Item, prefix: &str, target: &Target) -> Result<Event, SinkError> {
    let record = &item.record;
    let tenant = record.tenant;
    let subscription = target.subscription(tenant).ok_or_else(|| {
        SinkError::Refused(format!(
            "record {}: tenant {tenant} has no subscription; add \"{tenant} SUBSCRIPTION\" to `subscriptions`",
            item.seq
        ))
    })?;
    let [packets, l2_bytes, l3_bytes] = item.billed().unwrap_or_default();
    let correction = record.correction.as_ref();
    Ok(Event {
        transaction_id: format!("{prefix}{:020}", item.seq),
        external_subscription_id: subscription.to_owned(),
        code: target.code.clone(),
        timestamp: timestamp(record.window_start),
        properties: Properties {
            kind: record.kind.name(),
            host: record.host.clone(),
            tenant: tenant.to_string(),
            port: record.port_uid.clone(),
            direction: direction(item),
            zone: record.zone.map(|zone| zone.to_string()),
            window_start: rfc3339(record.window_start),
            window_end: rfc3339(record.window_end),
            flags: record.flags.to_string(),
            packets: packets.to_string(),
            l2_bytes: l2_bytes.to_string(),
            l3_bytes: l3_bytes.to_string(),
            leaf: hex(&item.leaf),
            corrects_ledger: correction.map(|correction| hex(&correction.ledger_id)),
            corrects_seq: correction.map(|correction| correction.corrects.to_string()),
            reason: correction.map(|correction| correction.reason.clone()),
        },
    })
}

/// What of a batch bills something.
pub(super) fn of(batch: &Batch, target: &Target) -> Result<Vec<Event>, SinkError> {
    let prefix = prefix(&batch.ledger_id);
    let billed = batch.items.iter().filter(|item| is_billed(item));
    // The host's own traffic is of tenant 0: nobody pays for it.
    let billed = billed.filter(|item| item.record.tenant != 0);
    billed.map(|item| event(item, &prefix, target)).collect()
}

/// The body of a request.
pub(super) fn body(events: &[&Event]) -> Result<Vec<u8>, SinkError> {
    #[derive(Serialize)]
    struct Body<'a> {
        events: &'a [&'a Event],
    }
    serde_json::to_vec(&Body { events })
        .map_err(|error| SinkError::Refused(format!("events: {error}")))
}

#[cfg(test)]
mod tests {
    use super::timestamp;

    #[test]
    fn a_timestamp_is_cut_to_the_millisecond_before_it() {
        for (utc_ns, text) in [
            (0, "0.000"),
            (1_795_748_640_500_999_999, "1795748640.500"),
            (-1, "-0.001"),
            (-1_000_000_001, "-1.001"),
            (i64::MAX, "9223372036.854"),
        ] {
            assert_eq!(timestamp(utc_ns), text);
        }
    }
}
