//! A service that takes CloudEvents, as strict as OpenMeter, and as unreliable as anybody: it resets, hangs, answers 5xx before
//! and after it has taken a batch, and forgets what it acknowledged. It adds up what it has, each event once.

#[path = "meters.rs"]
#[allow(dead_code, reason = "only the test of a service that counts asks it")]
pub mod meters;

use anyhow::{Context as _, Result};
use meters::Meter;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::{BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// What the service does with a batch that is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Takes it: 204, as OpenMeter v1.
    Takes,
    /// Takes it: 202, as v3.
    TakesLater,
    /// Takes it, and breaks the connection instead of an answer.
    TakesAndBreaks,
    /// Takes it, and answers 500.
    TakesAndFails,
    /// Takes nothing and answers 204: an acknowledgement that is lost.
    Loses,
    /// Takes it, and counts it twice: its memory of names is gone.
    TakesTwice,
    /// Acknowledges it, and counts it when it is asked for the third time.
    CountsLater,
    /// Takes nothing and answers 503.
    Busy,
    /// Takes nothing and breaks the connection.
    Breaks,
    /// Takes nothing and never answers.
    Hangs,
}

/// What a mark of an event is in OpenMeter: namespace, source and id, joined by `-`.
const NAMESPACE: &str = "default";

/// Packets and bytes by tenant, direction and zone.
pub type Totals = BTreeMap<(String, String, String), (i128, i128)>;

#[derive(Default)]
pub struct State {
    /// By their key.
    pub events: BTreeMap<String, Value>,
    /// Batches by how they ended.
    pub ended: BTreeMap<String, u64>,
    /// What is done next, the last first; then `Takes`.
    pub moods: Vec<Mood>,
    /// A wish for each batch after those; `None`: takes.
    pub seed: Option<u64>,
    /// Events that came again.
    pub again: u64,
    /// Why batches were refused.
    pub refused: Vec<String>,
    /// Keys of events that it counts twice.
    pub twice: Vec<String>,
    /// Events that are not counted yet.
    pub late: Vec<(String, Value)>,
    /// What it adds up.
    pub meters: Vec<Meter>,
    /// Questions that a meter answered.
    pub questions: u64,
    /// Of those, the ones whose ends are no windows' ends.
    pub unaligned: u64,
    token: Option<String>,
}

pub struct Service {
    pub url: String,
    pub state: Arc<Mutex<State>>,
}

impl Service {
    /// Serves a listener. `token`: the bearer that it wants.
    pub fn new(listener: TcpListener, token: Option<&str>) -> Result<Self> {
        let url = format!("http://{}/api/v1/events", listener.local_addr()?);
        let state = Arc::new(Mutex::new(State {
            token: token.map(str::to_owned),
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

    /// How often a batch ended so.
    pub fn ended(&self, how: &str) -> u64 {
        self.state().ended.get(how).copied().unwrap_or_default()
    }

    /// Packets and bytes by tenant, direction and zone.
    pub fn totals(&self) -> Result<Totals> {
        let mut totals = BTreeMap::new();
        for event in self.state().events.values() {
            let data = &event["data"];
            let text = |name: &str| data[name].as_str().context(name.to_owned());
            let key = (
                event["subject"].as_str().context("subject")?.to_owned(),
                text("direction")?.to_owned(),
                data["zone"].to_string(),
            );
            let sums: &mut (i128, i128) = totals.entry(key).or_default();
            sums.0 += text("packets")?.parse::<i128>()?;
            sums.1 += text("l2_bytes")?.parse::<i128>()?;
        }
        Ok(totals)
    }
}

/// One request and its answer.
pub fn serve(stream: impl std::io::Read + Write + Shut, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    let Ok((head, body)) = request(&mut reader) else {
        return;
    };
    let mut stream = reader.into_inner();
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let told = meters::answer(&head, &body, &mut lock());
    if let Some(told) = told {
        let mut state = lock();
        if state.questions >= 3 {
            let late = std::mem::take(&mut state.late);
            state.events.extend(late);
        }
        match told {
            Ok(told) => answer(&mut stream, "200 OK", &told),
            Err((status, why)) => {
                state.refused.push(why.clone());
                answer(&mut stream, status, &format!("{{\"detail\":\"{why}\"}}"));
            }
        }
        return;
    }
    let checked = check(&head, &body, lock().token.as_deref());
    let events = match checked {
        Ok(events) => events,
        Err((status, why)) => {
            lock().refused.push(why.clone());
            answer(&mut stream, status, &format!("{{\"detail\":\"{why}\"}}"));
            return;
        }
    };
    let mood = mood(&mut lock());
    *lock().ended.entry(format!("{mood:?}")).or_default() += 1;
    use Mood::{
        Breaks, Busy, CountsLater, Hangs, Loses, Takes, TakesAndBreaks, TakesAndFails, TakesLater,
        TakesTwice,
    };
    if !matches!(mood, Loses | Busy | Breaks | Hangs) {
        let mut state = lock();
        for event in events {
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            let key = format!("{NAMESPACE}-{}-{}", text("source"), text("id"));
            if mood == CountsLater {
                state.late.push((key, event));
                continue;
            }
            if mood == TakesTwice {
                state.twice.push(key.clone());
            }
            // The first that has the name stays, as there.
            if let std::collections::btree_map::Entry::Vacant(entry) = state.events.entry(key) {
                entry.insert(event);
            } else {
                state.again += 1;
            }
        }
    }
    match mood {
        Takes | Loses | TakesTwice | CountsLater => answer(&mut stream, "204 No Content", ""),
        TakesLater => answer(&mut stream, "202 Accepted", "{}"),
        TakesAndFails => answer(&mut stream, "500 Internal Server Error", "oh\nno"),
        Busy => answer(&mut stream, "503 Service Unavailable", ""),
        TakesAndBreaks | Breaks => stream.shut(),
        Hangs => thread::sleep(Duration::from_secs(120)),
    }
}

/// What ends a connection without an answer.
pub trait Shut {
    fn shut(&mut self);
}

impl Shut for TcpStream {
    fn shut(&mut self) {
        let _ = self.shutdown(std::net::Shutdown::Both);
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
    match *seed % 10 {
        0 => Mood::Busy,
        1 => Mood::Breaks,
        2 => Mood::TakesAndBreaks,
        3 => Mood::TakesAndFails,
        4 => Mood::TakesLater,
        _ => Mood::Takes,
    }
}

pub fn answer(stream: &mut impl Write, status: &str, body: &str) {
    // A 204 has no body, and so no length (RFC 9110, 8.6).
    let length = if status.starts_with("204") {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let text = format!("HTTP/1.1 {status}\r\n{length}\r\n{body}");
    let _ = stream.write_all(text.as_bytes());
    let _ = stream.flush();
}

/// The lines of a request's head, and its body.
pub fn request(reader: &mut impl std::io::BufRead) -> Result<(Vec<String>, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        anyhow::ensure!(reader.read_line(&mut line)? != 0, "it ended");
        let line = line.strip_suffix("\r\n").context("a line")?.to_owned();
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let length = match header(&head, "content-length") {
        Some(length) => length.parse()?,
        None if head.first().is_some_and(|line| line.starts_with("GET ")) => 0,
        None => anyhow::bail!("no length"),
    };
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((head, body))
}

pub fn header<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    let mut lines = head.iter().skip(1).filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    Some(found.1.trim())
}

pub type Refused = (&'static str, String);

/// Refuses what OpenMeter refuses, and what would bill wrong.
pub fn check(head: &[String], body: &[u8], token: Option<&str>) -> Result<Vec<Value>, Refused> {
    let bad = |why: &str| ("400 Bad Request", why.to_owned());
    let line = head.first().map_or("", String::as_str);
    if ![
        "POST /api/v1/events HTTP/1.1",
        "POST /api/v3/openmeter/events HTTP/1.1",
    ]
    .contains(&line)
    {
        return Err(("404 Not Found", format!("{:?}", head.first())));
    }
    if header(head, "host").is_none_or(str::is_empty) {
        return Err(bad("no host"));
    }
    if let Some(token) = token
        && header(head, "authorization") != Some(&format!("Bearer {token}"))
    {
        return Err(("401 Unauthorized", "another token".into()));
    }
    // OpenMeter compares the header with these bytes: a charset, or another case, is another type.
    let kind = header(head, "content-type").unwrap_or_default();
    if kind != "application/cloudevents-batch+json" {
        return Err(("415 Unsupported Media Type", kind.to_owned()));
    }
    let Ok(Value::Array(events)) = serde_json::from_slice(body) else {
        return Err(bad("no array"));
    };
    if events.is_empty() {
        return Err(bad("an empty batch"));
    }
    for event in &events {
        event_is_right(event).map_err(|why| bad(&why))?;
    }
    Ok(events)
}

fn event_is_right(event: &Value) -> Result<(), String> {
    const KEYS: [&str; 8] = [
        "specversion",
        "id",
        "source",
        "type",
        "subject",
        "time",
        "datacontenttype",
        "data",
    ];
    let object = event.as_object().ok_or("no object")?;
    let text = |name: &str| {
        let text = event[name].as_str().filter(|text| !text.is_empty());
        text.ok_or(format!("no {name}"))
    };
    if let Some(unknown) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("an attribute {unknown}"));
    }
    if text("specversion")? != "1.0" || text("datacontenttype")? != "application/json" {
        return Err("another version, or other data".into());
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let id = text("id")?;
    if id.len() != 20 || !is_number(id) {
        return Err(format!("the id {id}: 20 digits"));
    }
    let source = text("source")?
        .strip_prefix("//octroi/")
        .ok_or("the source")?;
    let ledger = source.split_once('/').ok_or("the source")?.1;
    if ledger.len() != 32 || !ledger.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("the source's ledger {ledger}"));
    }
    text("type")?;
    if !is_number(text("subject")?) {
        return Err("the subject is no tenant".into());
    }
    let time = text("time")?;
    if time.parse::<jiff::Timestamp>().is_err() {
        return Err(format!("the time {time}"));
    }
    let data = event["data"].as_object().ok_or("no data")?;
    let kind = data.get("kind").and_then(Value::as_str).ok_or("no kind")?;
    let is_reading = match kind {
        "METER" => true,
        "CORRECTION" => false,
        other => return Err(format!("a {other} bills nothing")),
    };
    // A total beside its zones would be billed twice.
    if is_reading && !data.get("zone").is_some_and(Value::is_u64) {
        return Err("a reading of no zone".into());
    }
    for name in ["packets", "l2_bytes", "l3_bytes"] {
        let digits = data.get(name).and_then(Value::as_str).unwrap_or_default();
        let unsigned = digits
            .strip_prefix('-')
            .filter(|_| !is_reading)
            .unwrap_or(digits);
        if !is_number(unsigned) {
            return Err(format!("{name} is no decimal string"));
        }
    }
    Ok(())
}
