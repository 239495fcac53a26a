//! Lago's events, as strict as the real one and stricter: `app/controllers/api/v1/events_controller.rb` and
//! `app/services/events/create_batch_service.rb` of getlago/lago-api, and the types of getlago/lago-openapi. It resets, hangs,
//! limits, answers 5xx before and after it has taken a batch, and forgets what it acknowledged.

use crate::http::{Refused, Shut, answer, header, request};
use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io::{BufReader, Write},
    net::TcpListener,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// Lago's default of `LAGO_EVENTS_BATCH_MAX_LENGTH`.
pub const EVENTS_MAX: usize = 100;
/// Seconds that it wants to be left alone.
pub const RESET: u64 = 1;

/// What the service does with a batch that is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Takes it: 200.
    Takes,
    /// Takes it, and breaks the connection instead of an answer.
    TakesAndBreaks,
    /// Takes it, and answers 500.
    TakesAndFails,
    /// Takes nothing and answers 503.
    Busy,
    /// Takes nothing and answers 429.
    Limits,
    /// Takes nothing and breaks the connection.
    Breaks,
    /// Takes nothing and never answers.
    Hangs,
}

/// Packets and bytes by subscription, direction and zone.
pub type Totals = BTreeMap<(String, String, String), (i128, i128)>;

#[derive(Default)]
pub struct State {
    /// By what is unique there: subscription and `transaction_id`.
    pub events: BTreeMap<(String, String), Value>,
    /// Batches by how they ended.
    pub ended: BTreeMap<String, u64>,
    /// What is done next, the last first; then `Takes`.
    pub moods: Vec<Mood>,
    /// A wish for each batch after those; `None`: takes.
    pub seed: Option<u64>,
    /// Batches that were rolled back, and events named in them.
    pub rolled_back: (u64, u64),
    /// Requests of any kind.
    pub requests: u64,
    /// Why batches were refused, but for those.
    pub refused: Vec<String>,
    token: String,
}

pub struct Service {
    pub url: String,
    pub state: Arc<Mutex<State>>,
}

impl Service {
    /// Serves a listener. `token`: the API key that it wants.
    pub fn new(listener: TcpListener, token: &str) -> Result<Self> {
        let url = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(Mutex::new(State {
            token: token.to_owned(),
            ..State::default()
        }));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Ok(Self { url, state })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a metric of `sum_agg` over `l2_bytes`, and one over `packets`, with filters by direction and zone, come to.
    pub fn totals(&self) -> Result<Totals> {
        let mut totals = BTreeMap::new();
        for ((subscription, _), event) in &self.state().events {
            let data = &event["properties"];
            let text = |name: &str| data[name].as_str().context(name.to_owned());
            let zone = text("zone").unwrap_or_default().to_owned();
            let key = (subscription.clone(), text("direction")?.to_owned(), zone);
            let sums: &mut (i128, i128) = totals.entry(key).or_default();
            sums.0 += text("packets")?.parse::<i128>()?;
            sums.1 += text("l2_bytes")?.parse::<i128>()?;
        }
        Ok(totals)
    }
}

fn serve(stream: impl std::io::Read + Write + Shut, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    let Ok((head, body)) = request(&mut reader) else {
        return;
    };
    let mut stream = reader.into_inner();
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    lock().requests += 1;
    let line = head.first().cloned().unwrap_or_default();
    if line.starts_with("GET ") {
        let (status, body) = read(&head, &lock());
        answer(&mut stream, status, &body);
        return;
    }
    let checked = check(&head, &body, &lock().token);
    let events = match checked {
        Ok(events) => events,
        Err((status, why)) => {
            lock().refused.push(why.clone());
            answer(&mut stream, status, &why);
            return;
        }
    };
    let mood = mood(&mut lock());
    *lock().ended.entry(format!("{mood:?}")).or_default() += 1;
    use Mood::{Breaks, Busy, Hangs, Limits, Takes, TakesAndBreaks, TakesAndFails};
    let mut done = Ok(());
    if matches!(mood, Takes | TakesAndBreaks | TakesAndFails) {
        done = insert(&events, &mut lock());
    }
    match (mood, done) {
        (TakesAndBreaks | Breaks, _) => stream.shut(),
        (Hangs, _) => thread::sleep(Duration::from_secs(120)),
        (TakesAndFails, _) => answer(&mut stream, "500 Internal Server Error", "oh\nno"),
        (Busy, _) => answer(&mut stream, "503 Service Unavailable", ""),
        (Limits, _) => {
            let status = format!("429 Too Many Requests\r\nX-RateLimit-Reset: {RESET}");
            answer(&mut stream, &status, "{\"status\":429}");
        }
        (Takes, Err(why)) => answer(&mut stream, "422 Unprocessable Content", &why),
        (Takes, Ok(())) => {
            let events: Vec<Value> = events.iter().map(shown).collect();
            answer(
                &mut stream,
                "200 OK",
                &json!({"events": events}).to_string(),
            );
        }
    }
}

fn mood(state: &mut State) -> Mood {
    if let Some(mood) = state.moods.pop() {
        return mood;
    }
    let Some(seed) = &mut state.seed else {
        return Mood::Takes;
    };
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    match *seed % 24 {
        0 => Mood::Busy,
        1 => Mood::Breaks,
        2 | 3 => Mood::TakesAndBreaks,
        4 | 5 => Mood::TakesAndFails,
        6 => Mood::Limits,
        _ => Mood::Takes,
    }
}

/// What is unique of an event.
fn key(event: &Value) -> (String, String) {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    (text("external_subscription_id"), text("transaction_id"))
}

/// All of a batch or nothing: `insert_all` and a rollback, which names those that were there, or twice in the batch.
pub fn insert(events: &[Value], state: &mut State) -> Result<(), String> {
    let mut new = BTreeMap::new();
    let mut errors = Map::new();
    for (index, event) in events.iter().enumerate() {
        let key = key(event);
        if state.events.contains_key(&key) || new.contains_key(&key) {
            let error = json!({"transaction_id": ["value_already_exist"]});
            errors.insert(index.to_string(), error);
        } else {
            new.insert(key, event.clone());
        }
    }
    if !errors.is_empty() {
        state.rolled_back.0 += 1;
        state.rolled_back.1 += errors.len() as u64;
        return Err(invalid(&Value::Object(errors)).1);
    }
    state.events.extend(new);
    Ok(())
}

/// `ApiErrors#validation_errors`.
fn invalid(details: &Value) -> Refused {
    let body = json!({
        "status": 422, "error": "Unprocessable Entity", "code": "validation_errors", "error_details": details,
    });
    ("422 Unprocessable Content", body.to_string())
}

/// `V1::EventSerializer`.
fn shown(event: &Value) -> Value {
    json!({
        "lago_id": "1a901a90-1a90-1a90-1a90-1a901a901a90", "transaction_id": event["transaction_id"],
        "lago_customer_id": null, "code": event["code"], "timestamp": event["timestamp"],
        "precise_total_amount_cents": null, "properties": event["properties"], "lago_subscription_id": null,
        "external_subscription_id": event["external_subscription_id"], "created_at": "2026-11-27T00:00:00Z",
    })
}

/// `EventsController#show` and `#index`.
fn read(head: &[String], state: &State) -> (&'static str, String) {
    if let Err((status, why)) = authorised(head, &state.token) {
        return (status, why);
    }
    let path = head[0].split(' ').nth(1).unwrap_or_default();
    if let Some(name) = path.strip_prefix("/api/v1/events/") {
        let mut all = state.events.values();
        return match all.find(|event| event["transaction_id"] == name) {
            Some(event) => ("200 OK", json!({"event": shown(event)}).to_string()),
            None => (
                "404 Not Found",
                json!({"status": 404, "code": "event_not_found"}).to_string(),
            ),
        };
    }
    let Some(query) = path.strip_prefix("/api/v1/events?") else {
        return ("404 Not Found", String::new());
    };
    let asked: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let number = |name: &str, default: usize| {
        asked
            .get(name)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let (page, per_page) = (number("page", 1).max(1), number("per_page", 100).max(1));
    let is = |event: &Value, name: &str| asked.get(name).is_none_or(|value| event[name] == **value);
    let mut found: Vec<&Value> = state
        .events
        .values()
        .filter(|event| is(event, "external_subscription_id") && is(event, "code"))
        .collect();
    let text = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
    found.sort_by_key(|event| {
        (
            Reverse(text(event, "timestamp")),
            text(event, "transaction_id"),
        )
    });
    let pages = found.len().div_ceil(per_page);
    let on_page: Vec<Value> = found
        .iter()
        .skip((page - 1) * per_page)
        .take(per_page)
        .map(|event| shown(event))
        .collect();
    let body = json!({
        "events": on_page,
        "meta": {
            "current_page": page, "next_page": (page < pages).then_some(page + 1), "prev_page": null,
            "total_pages": pages, "total_count": found.len(),
        },
    });
    ("200 OK", body.to_string())
}

/// `BaseController#authenticate`.
fn authorised(head: &[String], token: &str) -> Result<(), Refused> {
    if header(head, "authorization") == Some(&format!("Bearer {token}")) {
        return Ok(());
    }
    let body = json!({"status": 401, "error": "Unauthorized"});
    Err(("401 Unauthorized", body.to_string()))
}

/// Refuses what Lago refuses, and what would bill wrong. Lago itself lets a missing subscription, an unknown key and a number as a
/// name pass, and bills nothing or something else.
pub fn check(head: &[String], body: &[u8], token: &str) -> Result<Vec<Value>, Refused> {
    if head.first().map(String::as_str) != Some("POST /api/v1/events/batch HTTP/1.1") {
        return Err(("404 Not Found", format!("{:?}", head.first())));
    }
    if header(head, "host").is_none_or(str::is_empty) {
        return Err(("400 Bad Request", "no host".into()));
    }
    authorised(head, token)?;
    // Rails parses no other body: its parameters would be empty.
    if header(head, "content-type") != Some("application/json") {
        return Err(invalid(&json!({"events": ["no_events"]})));
    }
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return Err(("400 Bad Request", "no JSON".into()));
    };
    let only = body.as_object().is_some_and(|object| object.len() == 1);
    let events = body["events"]
        .as_array()
        .filter(|events| only && !events.is_empty());
    let Some(events) = events else {
        return Err(invalid(&json!({"events": ["no_events"]})));
    };
    if events.len() > EVENTS_MAX {
        return Err(invalid(&json!({"events": ["too_many_events"]})));
    }
    let mut errors = Map::new();
    for (index, event) in events.iter().enumerate() {
        if let Err((field, why)) = event_is_right(event) {
            errors.insert(index.to_string(), json!({field: [why]}));
        }
    }
    if !errors.is_empty() {
        return Err(invalid(&Value::Object(errors)));
    }
    Ok(events.clone())
}

fn event_is_right(event: &Value) -> Result<(), (&'static str, &'static str)> {
    const KEYS: [&str; 5] = [
        "transaction_id",
        "external_subscription_id",
        "code",
        "timestamp",
        "properties",
    ];
    let object = event.as_object().ok_or(("event", "no object"))?;
    if object.keys().any(|key| !KEYS.contains(&key.as_str())) {
        return Err(("event", "unknown key"));
    }
    for name in ["transaction_id", "external_subscription_id", "code"] {
        let is_there = event[name]
            .as_str()
            .is_some_and(|text| !text.trim().is_empty());
        if !is_there {
            return Err((name, "value_is_mandatory"));
        }
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_time = match &event["timestamp"] {
        Value::Number(number) => number.is_u64(),
        Value::String(text) => text
            .split_once('.')
            .is_some_and(|(whole, part)| is_number(whole) && is_number(part) && part.len() == 3),
        _ => false,
    };
    if !is_time {
        return Err(("timestamp", "invalid_format"));
    }
    let properties = event["properties"]
        .as_object()
        .ok_or(("properties", "no object"))?;
    if properties.values().any(|value| !value.is_string()) {
        return Err(("properties", "a value that is no text"));
    }
    let text = |name: &str| {
        properties
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let is_reading = match text("kind") {
        "METER" => true,
        "CORRECTION" => false,
        _ => return Err(("properties", "it bills nothing")),
    };
    // A total beside its zones would be billed twice.
    if is_reading && !is_number(text("zone")) {
        return Err(("properties", "a reading of no zone"));
    }
    if !matches!(text("direction"), "from" | "to") || text("leaf").len() != 64 {
        return Err(("properties", "no direction, or no leaf"));
    }
    for name in ["packets", "l2_bytes", "l3_bytes"] {
        let digits = text(name);
        let unsigned = digits.strip_prefix('-').filter(|_| !is_reading);
        if !is_number(unsigned.unwrap_or(digits)) {
            return Err(("properties", "value_is_not_valid_number"));
        }
    }
    Ok(())
}
