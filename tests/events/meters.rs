//! What the fake counted, as OpenMeter tells it: `GET /api/v1/meters/{slug}/query` and `POST /api/v3/openmeter/meters/{id}/query`. It
//! refuses what OpenMeter's handlers refuse, has a row only where an event is, and adds up in doubles, as OpenMeter does.
//!
//! OpenMeter takes a `from` and a `to` that are not the ends of windows, and then shows parts of windows as if they were whole; so
//! does this, and it counts such questions: `octroi` must ask none.

use super::{Refused, State, header};
use anyhow::{Context as _, Result};
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How a meter is defined.
#[derive(Clone, Debug)]
pub struct Meter {
    pub slug: String,
    pub event_type: String,
    pub aggregation: String,
    pub value_property: String,
    pub group_by: BTreeMap<String, String>,
    pub event_from: Option<String>,
}

impl Meter {
    /// From what `octroi reconcile` says that is to be made.
    pub fn of(definition: &Value) -> Result<Self> {
        let text = |name: &str| {
            let text = definition[name].as_str().context(name.to_owned());
            text.map(str::to_owned)
        };
        Ok(Self {
            slug: text("slug")?,
            event_type: text("eventType")?,
            aggregation: text("aggregation")?,
            value_property: text("valueProperty")?,
            group_by: serde_json::from_value(definition["groupBy"].clone())?,
            event_from: None,
        })
    }

    /// What OpenMeter would call it: 26 letters of Crockford's base 32.
    fn id(&self) -> String {
        let sum: u32 = self.slug.bytes().map(u32::from).sum();
        format!("01G65Z755AFWAKHE12NY0CQ{:03}", sum % 1_000)
    }

    fn v1(&self) -> Value {
        let mut meter = json!({
            "id": self.id(), "slug": self.slug, "name": self.slug, "eventType": self.event_type,
            "aggregation": self.aggregation, "valueProperty": self.value_property, "groupBy": self.group_by,
            "createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z",
        });
        if let Some(from) = &self.event_from {
            meter["eventFrom"] = json!(from);
        }
        meter
    }

    fn v3(&self) -> Value {
        let mut meter = json!({
            "id": self.id(), "key": self.slug, "name": self.slug, "event_type": self.event_type,
            "aggregation": self.aggregation.to_lowercase(), "value_property": self.value_property,
            "dimensions": self.group_by,
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        });
        if let Some(from) = &self.event_from {
            meter["events_from"] = json!(from);
        }
        meter
    }
}

/// What is asked of a meter.
#[derive(Default)]
struct Query {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    window: Option<Window>,
    group_by: Vec<String>,
    filter: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Copy)]
enum Window {
    Minute,
    Hour,
    Day,
}

impl Window {
    fn seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }
}

fn bad(why: &str) -> Refused {
    ("400 Bad Request", why.to_owned())
}

fn time(text: &str) -> Result<Timestamp, Refused> {
    text.parse()
        .map_err(|_| bad(&format!("the time {text} is not of RFC 3339")))
}

/// Answers a question; `None`: it is none for a meter.
pub fn answer(head: &[String], body: &[u8], state: &mut State) -> Option<Result<String, Refused>> {
    let mut words = head.first()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (path, parameters) = target.split_once('?').unwrap_or((target, ""));
    let v1 = path.strip_prefix("/api/v1/meters");
    let v3 = path.strip_prefix("/api/v3/openmeter/meters");
    let rest = v1.or(v3)?;
    if let Some(token) = &state.token
        && header(head, "authorization") != Some(&format!("Bearer {token}"))
    {
        return Some(Err(("401 Unauthorized", "another token".into())));
    }
    let parameters = match decode(parameters) {
        Ok(parameters) => parameters,
        Err(refused) => return Some(Err(refused)),
    };
    let parts: Vec<&str> = rest.split('/').skip(1).collect();
    let is_v1 = v1.is_some();
    Some(match (method, parts.as_slice()) {
        ("GET", []) if !is_v1 => list(&parameters, state),
        ("GET", [id]) if is_v1 => found(id, is_v1, state).map(|meter| meter.v1().to_string()),
        ("GET", [id, "query"]) if is_v1 => found(id, is_v1, state).and_then(|meter| {
            let query = of_parameters(&parameters, &meter)?;
            rows(&meter, &query, true, state)
        }),
        ("POST", [id, "query"]) if !is_v1 => found(id, is_v1, state).and_then(|meter| {
            if header(head, "content-type") != Some("application/json") {
                return Err(bad("the body is not application/json"));
            }
            let query = of_body(body, &meter)?;
            rows(&meter, &query, false, state)
        }),
        _ => Err(("405 Method Not Allowed", format!("{method} {path}"))),
    })
}

/// The parameters of an address, in their order.
fn decode(parameters: &str) -> Result<Vec<(String, String)>, Refused> {
    let plain = |text: &str| -> Result<String, Refused> {
        let (mut bytes, mut rest) = (Vec::new(), text.bytes());
        while let Some(byte) = rest.next() {
            match byte {
                b'%' => {
                    let digits = [rest.next(), rest.next()].map(|byte| byte.unwrap_or(b'?'));
                    let digits = String::from_utf8_lossy(&digits).into_owned();
                    let byte = u8::from_str_radix(&digits, 16);
                    bytes.push(byte.map_err(|_| bad("an escape that is none"))?);
                }
                b'+' => bytes.push(b' '),
                byte => bytes.push(byte),
            }
        }
        String::from_utf8(bytes).map_err(|_| bad("no text"))
    };
    let parts = parameters.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((plain(name)?, plain(value)?))
        })
        .collect()
}

fn list(parameters: &[(String, String)], state: &State) -> Result<String, Refused> {
    let mut key = None;
    for (name, value) in parameters {
        match name.as_str() {
            "filter[key]" => key = Some(value),
            _ => return Err(bad(&format!("the parameter {name}"))),
        }
    }
    let wanted = |meter: &&Meter| key.is_none_or(|key| meter.slug == *key);
    let meters: Vec<Value> = state.meters.iter().filter(wanted).map(Meter::v3).collect();
    let meta = json!({"page": {"number": 1, "size": 20, "total": meters.len()}});
    Ok(json!({"data": meters, "meta": meta}).to_string())
}

/// In v1 by id or slug, in v3 by id.
fn found(id: &str, is_v1: bool, state: &State) -> Result<Meter, Refused> {
    let is_ulid = id.len() == 26 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_v1 && !is_ulid {
        return Err(bad(&format!("{id} is no ULID")));
    }
    let mut meters = state.meters.iter();
    let is_it = |meter: &&Meter| meter.id() == id || is_v1 && meter.slug == id;
    let meter = meters.find(is_it).cloned();
    meter.ok_or_else(|| ("404 Not Found", format!("meter not found: {id}")))
}

/// v1.
fn of_parameters(parameters: &[(String, String)], meter: &Meter) -> Result<Query, Refused> {
    let mut query = Query::default();
    for (name, value) in parameters {
        match name.as_str() {
            "from" => query.from = Some(time(value)?),
            "to" => query.to = Some(time(value)?),
            "windowSize" => {
                query.window = Some(match value.as_str() {
                    "MINUTE" => Window::Minute,
                    "HOUR" => Window::Hour,
                    "DAY" => Window::Day,
                    other => return Err(bad(&format!("the window size {other}"))),
                });
            }
            "windowTimeZone" => zone(value)?,
            "groupBy" => query.group_by.push(value.clone()),
            _ => match name
                .strip_prefix("filterGroupBy[")
                .and_then(|name| name.strip_suffix(']'))
            {
                Some(group) => {
                    query.filter.insert(group.to_owned(), vec![value.clone()]);
                }
                None => return Err(bad(&format!("the parameter {name}"))),
            },
        }
    }
    checked(query, meter)
}

/// v3.
fn of_body(body: &[u8], meter: &Meter) -> Result<Query, Refused> {
    let body: Value = serde_json::from_slice(body).map_err(|error| bad(&error.to_string()))?;
    let body = body.as_object().ok_or_else(|| bad("no object"))?;
    let mut query = Query::default();
    for (name, value) in body {
        let text = || {
            value
                .as_str()
                .ok_or_else(|| bad(&format!("{name} is no text")))
        };
        match name.as_str() {
            "from" => query.from = Some(time(text()?)?),
            "to" => query.to = Some(time(text()?)?),
            "granularity" => {
                query.window = Some(match text()? {
                    "PT1M" => Window::Minute,
                    "PT1H" => Window::Hour,
                    "P1D" => Window::Day,
                    other => return Err(bad(&format!("invalid_window_size {other}"))),
                });
            }
            "time_zone" => zone(text()?)?,
            "group_by_dimensions" => {
                let groups: Result<Vec<String>, _> = serde_json::from_value(value.clone());
                query.group_by = groups.map_err(|error| bad(&error.to_string()))?;
            }
            "filters" => {
                let wrong = || bad("filters");
                let filters = value
                    .as_object()
                    .filter(|it| it.len() == 1)
                    .ok_or_else(wrong)?;
                let dimensions = filters.get("dimensions").and_then(Value::as_object);
                for (group, by) in dimensions.ok_or_else(wrong)? {
                    let by = by
                        .as_object()
                        .filter(|by| by.len() == 1)
                        .ok_or_else(wrong)?;
                    let wanted = by.get("eq").and_then(Value::as_str).ok_or_else(wrong)?;
                    query.filter.insert(group.clone(), vec![wanted.to_owned()]);
                }
            }
            _ => return Err(bad(&format!("the property {name}"))),
        }
    }
    checked(query, meter)
}

fn zone(name: &str) -> Result<(), Refused> {
    let zone = TimeZone::get(name).map_err(|_| bad(&format!("invalid time zone {name}")))?;
    // Others are right there, and here nobody asks for them.
    if zone.iana_name() != Some("UTC") {
        return Err(bad(&format!("the fake knows UTC alone, not {name}")));
    }
    Ok(())
}

/// What both refuse.
fn checked(query: Query, meter: &Meter) -> Result<Query, Refused> {
    if let (Some(from), Some(to)) = (query.from, query.to) {
        if from == to {
            return Err(bad("from and to cannot be equal"));
        }
        if from > to {
            return Err(bad("from must be before to"));
        }
    }
    for group in &query.group_by {
        if group == "customer_id" {
            return Err(bad("customer filter is required with customer_id group by"));
        }
        if group != "subject" && !meter.group_by.contains_key(group) {
            return Err(bad(&format!("invalid group by: {group}")));
        }
    }
    if let Some(group) = query
        .filter
        .keys()
        .find(|it| !meter.group_by.contains_key(*it))
    {
        return Err(bad(&format!("invalid group by filter: {group}")));
    }
    Ok(query)
}

/// `JSON_VALUE` of a path of one name.
fn json_value(event: &Value, path: &str) -> String {
    let name = path.strip_prefix("$.").unwrap_or_default();
    match &event["data"][name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn rows(meter: &Meter, query: &Query, is_v1: bool, state: &mut State) -> Result<String, Refused> {
    state.questions += 1;
    let since = meter.event_from.as_deref().map(time).transpose()?;
    let from = query.from.max(since).map(Timestamp::as_second);
    let to = query.to.map(Timestamp::as_second);
    let seconds = query.window.map(Window::seconds);
    let is_end = |at: Option<Timestamp>| match (at, seconds) {
        (Some(at), Some(seconds)) => {
            at.subsec_nanosecond() == 0 && at.as_second().rem_euclid(seconds) == 0
        }
        _ => false,
    };
    if !is_end(query.from) || !is_end(query.to) {
        state.unaligned += 1;
    }
    let mut sums: BTreeMap<(i64, Vec<String>), f64> = BTreeMap::new();
    let copies = state.twice.iter().map(|key| &state.events[key]);
    for event in state.events.values().chain(copies) {
        let at = event["time"].as_str().unwrap_or_default();
        // A column of whole seconds.
        let at = time(at)?.as_second();
        let is_outside = from.is_some_and(|from| at < from) || to.is_some_and(|to| at >= to);
        let is_filtered = query
            .filter
            .iter()
            .any(|(group, wanted)| !wanted.contains(&json_value(event, &meter.group_by[group])));
        if is_outside || is_filtered || event["type"] != meter.event_type.as_str() {
            continue;
        }
        let start = seconds.map_or(0, |seconds| at - at.rem_euclid(seconds));
        let groups = query.group_by.iter().map(|group| match group.as_str() {
            "subject" => event["subject"].as_str().unwrap_or_default().to_owned(),
            group => json_value(event, &meter.group_by[group]),
        });
        // toFloat64OrNull, as there.
        if let Ok(value) = json_value(event, &meter.value_property).parse::<f64>() {
            *sums.entry((start, groups.collect())).or_default() += value;
        }
    }
    let rows = sums.into_iter().map(|((start, groups), value)| {
        let start = Timestamp::from_second(start).unwrap_or_default();
        let end = start.saturating_add(seconds.unwrap_or(60).seconds());
        let end = end.unwrap_or_default().to_string();
        let mut named: BTreeMap<&str, String> =
            query.group_by.iter().map(String::as_str).zip(groups).collect();
        let start = start.to_string();
        if is_v1 {
            let subject = named.remove("subject");
            // As Go writes a double: a whole one below 10^21 has digits alone.
            let value: Value = serde_json::from_str(&format!("{value}")).unwrap_or_default();
            json!({"value": value, "windowStart": start, "windowEnd": end, "subject": subject, "groupBy": named})
        } else {
            json!({"value": format!("{value}"), "from": start, "to": end, "dimensions": named})
        }
    });
    let rows: Vec<Value> = rows.collect();
    let mut answer = json!({"data": rows});
    if let Some(from) = query.from {
        answer["from"] = json!(from.to_string());
    }
    if let Some(to) = query.to {
        answer["to"] = json!(to.to_string());
    }
    Ok(answer.to_string())
}
