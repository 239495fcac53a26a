//! The CloudEvents SDK of Python parses what is sent, and has what was sent.

use crate::{
    batches::{Dir, batch},
    python::{python, run},
    service, sink,
};
use anyhow::{Result, ensure};
use metering::sink::{Mark, Sink as _};
use serde_json::{Value, json};

/// Each event of a batch through both of the SDK's readers: that of versions 1 and that of 2. Prints what they have.
const PROGRAM: &str = r#"
import json, sys
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from cloudevents.v1.exceptions import MissingRequiredFields
from cloudevents.v1.http import from_json

seen = []
for event in json.load(sys.stdin):
    body = json.dumps(event).encode()
    old = from_json(body)
    new = from_structured_event(HTTPMessage({"content-type": "application/cloudevents+json"}, body))
    for name in ("id", "source", "type", "subject", "specversion", "datacontenttype"):
        assert old[name] == event[name] == new.get_attributes()[name], name
    assert old.data == event["data"] == new.get_data(), "data"
    seen.append({"id": new.get_id(), "time": new.get_time().isoformat(), "bytes": new.get_data()["l2_bytes"]})
wrong = dict(event)
del wrong["id"]
try:
    from_json(json.dumps(wrong).encode())
    sys.exit("an event without an id is taken")
except MissingRequiredFields:
    pass
print(json.dumps(seen))
"#;

#[test]
fn the_sdk_of_cloudevents_parses_what_is_sent() -> Result<()> {
    let Some(python) = python("cloudevents") else {
        println!(
            "SKIPPED: the_sdk_of_cloudevents_parses_what_is_sent: it is not here; `cargo xtask setup` installs it"
        );
        return Ok(());
    };
    let dir = Dir::new("events-sdk")?;
    let service = service(None)?;
    let mut sink = sink(&service, &dir, None);
    let first = batch(Mark::NONE, 0);
    let mark = sink.deliver(&first)?;
    sink.deliver(&batch(mark, 1))?;
    let events: Vec<Value> = service.state().events.values().cloned().collect();
    let text = serde_json::to_vec(&events)?;
    let seen: Value = serde_json::from_str(&run(python, PROGRAM, &[], &text)?)?;
    let expected = |id: &str| json!({"id": id, "time": "2026-11-18T11:06:40+00:00", "bytes": u64::MAX.to_string()});
    ensure!(
        seen == json!([
            expected("00000000000000000000"),
            expected("00000000000000000001")
        ]),
        "{seen}"
    );
    println!(
        "CASES: events that the SDK of CloudEvents parses: {}",
        events.len()
    );
    Ok(())
}
