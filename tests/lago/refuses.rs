//! The fake of Lago refuses what the real one refuses, and rolls back as that does.

use crate::{
    KEY,
    fake::{self, EVENTS_MAX, check},
};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// A batch that is right.
fn right(events: usize) -> Value {
    let event = |index: usize| {
        json!({
            "transaction_id": format!("{}-{index:020}", "0".repeat(32)),
            "external_subscription_id": "sub_7", "code": "octroi_bytes", "timestamp": "1795748640.500",
            "properties": {
                "kind": "METER", "zone": "4", "direction": "from", "leaf": "0".repeat(64), "packets": "1",
                "l2_bytes": "18446744073709551615", "l3_bytes": "0",
            },
        })
    };
    json!({"events": (0..events).map(event).collect::<Vec<_>>()})
}

#[test]
fn the_fake_refuses_what_the_real_one_refuses() -> Result<()> {
    let head = |path: &str, kind: &str, authorization: &str| {
        [
            format!("POST {path} HTTP/1.1"),
            "host: localhost".to_owned(),
            format!("Content-Type: {kind}"),
            authorization.to_owned(),
        ]
    };
    let ask = |head: &[String], body: &str| check(head, body.as_bytes(), KEY).err();
    let json = "application/json";
    let bearer = format!("authorization: Bearer {KEY}");
    let good = head("/api/v1/events/batch", json, &bearer);
    ensure!(ask(&good, &right(1).to_string()).is_none());
    ensure!(ask(&good, &right(EVENTS_MAX).to_string()).is_none());
    let mut cases = 0;
    for (head, body, status, word) in [
        (&good, right(EVENTS_MAX + 1), "422", "too_many_events"),
        (&good, right(0), "422", "no_events"),
        (&good, json!({}), "422", "no_events"),
        (&good, right(1)["events"].clone(), "422", "no_events"),
        (&head("/api/v1/events", json, &bearer), right(1), "404", ""),
        (
            &head("/api/v1/events/batch", "text/plain", &bearer),
            right(1),
            "422",
            "no_events",
        ),
        (
            &head("/api/v1/events/batch", json, "x: y"),
            right(1),
            "401",
            "Unauthorized",
        ),
        (
            &head("/api/v1/events/batch", json, "authorization: Bearer other"),
            right(1),
            "401",
            "Unauthorized",
        ),
    ] {
        let refused = ask(head, &body.to_string()).context(word)?;
        ensure!(
            refused.0.starts_with(status) && refused.1.contains(word),
            "{refused:?}"
        );
        cases += 1;
    }
    ensure!(ask(&good, "{\"events\":").is_some_and(|refused| refused.0.starts_with("400")));
    for (pointer, wrong, word) in [
        ("/transaction_id", json!(null), "value_is_mandatory"),
        ("/transaction_id", json!(""), "value_is_mandatory"),
        ("/transaction_id", json!(12), "value_is_mandatory"),
        (
            "/external_subscription_id",
            json!(null),
            "value_is_mandatory",
        ),
        ("/external_subscription_id", json!([]), "value_is_mandatory"),
        ("/code", json!(null), "value_is_mandatory"),
        ("/code", json!(" "), "value_is_mandatory"),
        (
            "/timestamp",
            json!("2026-11-27T00:00:00Z"),
            "invalid_format",
        ),
        ("/timestamp", json!(1.5), "invalid_format"),
        ("/timestamp", json!(null), "invalid_format"),
        ("/properties", json!(null), "properties"),
        ("/properties", json!([]), "properties"),
        ("/properties/l2_bytes", json!(1.5), "properties"),
        (
            "/properties/l2_bytes",
            json!("1.5"),
            "value_is_not_valid_number",
        ),
        (
            "/properties/l2_bytes",
            json!("-1"),
            "value_is_not_valid_number",
        ),
        (
            "/properties/packets",
            json!("1e3"),
            "value_is_not_valid_number",
        ),
        ("/properties/l3_bytes", json!(null), "properties"),
        ("/properties/zone", json!({}), "properties"),
        ("/properties/zone", json!("*"), "no zone"),
        ("/properties/kind", json!("BEGIN"), "bills nothing"),
        ("/properties/direction", json!("both"), "direction"),
        ("/properties/leaf", json!("00"), "leaf"),
        ("", json!({}), "value_is_mandatory"),
    ] {
        // The one in the middle is named, by its index.
        let mut body = right(3);
        *body
            .pointer_mut(&format!("/events/1{pointer}"))
            .context(pointer)? = wrong.clone();
        let refused = ask(&good, &body.to_string());
        let (status, why) = refused.with_context(|| format!("{pointer} {wrong}"))?;
        ensure!(
            status.starts_with("422") && why.contains(word),
            "{pointer} {wrong}: {why}"
        );
        let why: Value = serde_json::from_str(&why)?;
        let named = why["error_details"].as_object().context("details")?;
        ensure!(named.keys().collect::<Vec<_>>() == ["1"], "{why}");
        cases += 1;
    }
    // A batch with one that it has takes nothing, and says which it was; so does one that has it twice.
    let mut state = fake::State::default();
    let events = right(3)["events"].as_array().context("events")?.clone();
    let (all, first) = (events.as_slice(), &events[..1]);
    ensure!(fake::insert(first, &mut state).is_ok() && state.events.len() == 1);
    let why = fake::insert(all, &mut state)
        .err()
        .context("it has the first")?;
    ensure!(
        why.contains("\"0\":{\"transaction_id\":[\"value_already_exist\"]}"),
        "{why}"
    );
    ensure!(state.events.len() == 1, "it was not rolled back");
    let twice = [events[1].clone(), events[2].clone(), events[1].clone()];
    let why = fake::insert(&twice, &mut state)
        .err()
        .context("one is twice")?;
    ensure!(why.contains("\"2\":{") && state.events.len() == 1, "{why}");
    println!(
        "CASES: forms of a batch that the fake of Lago refuses: {}",
        cases + 3
    );
    Ok(())
}
