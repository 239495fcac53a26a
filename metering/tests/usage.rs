//! The vectors of `docs/METERING.md`, M-16, in `metering/vectors/usage.json`: reckoned by hand, held against
//! this library and against a reader in Python that knows the page alone.

use metering::{
    record::{Correction, Flags, Kind, Reading, Record, Total},
    usage::{By, Query, Report, SLOT_NS, Slots, Span, Usage, p95, rank},
    window::Counts,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, io, path::PathBuf, process::Command};

const SECOND: i64 = 1_000_000_000;
const FILE: &str = "vectors/usage.json";

fn at(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn file() -> Value {
    let text = fs::read_to_string(at(FILE)).expect(FILE);
    serde_json::from_str(&text).expect(FILE)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value[name].as_str()
}

/// A number, written as one or as its digits.
fn number<T: std::str::FromStr>(value: &Value) -> T {
    let digits = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    digits
        .parse()
        .unwrap_or_else(|_| panic!("{value} is no such number"))
}

fn counts(value: &Value) -> Counts {
    Counts {
        packets: number(&value[0]),
        l2_bytes: number(&value[1]),
        l3_bytes: number(&value[2]),
    }
}

/// A case's records, by host.
struct Case<'a> {
    value: &'a Value,
    origin: i64,
    hosts: BTreeMap<String, Vec<Record>>,
}

impl<'a> Case<'a> {
    fn new(value: &'a Value) -> Self {
        let mut case = Self {
            value,
            origin: number::<i64>(&value["origin"]) * SECOND,
            hosts: BTreeMap::new(),
        };
        for item in list(value, "records") {
            case.add(item);
        }
        case
    }

    fn time(&self, seconds: &Value) -> i64 {
        self.origin + number::<i64>(seconds) * SECOND
    }

    fn add(&mut self, item: &Value) {
        let repeat = &item["repeat"];
        let (every, times) = match repeat.is_null() {
            true => (0, 1),
            false => (number::<i64>(&repeat["every"]), number(&repeat["times"])),
        };
        let mut seq: u64 = number(&item["seq"]);
        for time in 0..times {
            let mut record = self.subject(item, time as u64);
            record.window_start += time * every * SECOND;
            record.window_end += time * every * SECOND;
            seq = self.write(item, record, seq);
        }
    }

    /// What a record is about, without its counts.
    fn subject(&self, item: &Value, time: u64) -> Record {
        let host = text(item, "host").unwrap_or("h1");
        let mut record = Record {
            host: host.to_owned(),
            port_uid: text(item, "port").unwrap_or_default().to_owned(),
            incarnation: item.get("incarnation").map_or(1, number),
            tenant: item.get("tenant").map_or(7, number),
            direction: item.get("direction").map_or(0, number),
            window_id: item.get("window").map_or(0, number::<u64>) + time,
            ..Record::default()
        };
        record.map_generation[0] = host.as_bytes()[1];
        record.window_first = item.get("first").map_or(record.window_id, number);
        if let Some(corrects) = item.get("corrects") {
            let corrects: u64 = number(corrects);
            let known = &self.hosts[host];
            let known = known.iter().find(|record| record.seq == corrects);
            record = known.expect("a record to correct").clone();
            (record.reading, record.total) = (None, None);
            record.correction = Some(Correction {
                corrects,
                packets: number(&item["add"][0]),
                l2_bytes: number(&item["add"][1]),
                l3_bytes: number(&item["add"][2]),
                reason: "by hand".into(),
                ..Correction::default()
            });
        }
        record.window_start = self.time(&item["at"][0]);
        record.window_end = self.time(&item["at"][1]);
        for flag in list(item, "flags") {
            let named = Flags::NAMES.iter().find(|(_, name)| flag == name);
            record.flags |= named.expect("a flag").0;
        }
        record
    }

    /// Writes a total and its zones, or another record; returns the next seq.
    fn write(&mut self, item: &Value, mut record: Record, mut seq: u64) -> u64 {
        record.kind = match text(item, "kind") {
            Some("CORRECTION") => Kind::Correction,
            Some("NODATA") => Kind::Nodata,
            _ => Kind::Meter,
        };
        record.cause = text(item, "cause").map(str::to_owned);
        let zones = item["zones"].as_object().cloned().unwrap_or_default();
        let zones: BTreeMap<u32, Counts> = zones
            .iter()
            .map(|(zone, value)| (zone.parse().expect("a zone"), counts(value)))
            .collect();
        let rows = self.hosts.entry(record.host.clone()).or_default();
        let mut push = |record: Record| {
            rows.push(Record { seq, ..record });
            seq += 1;
        };
        if record.kind != Kind::Meter {
            push(record);
            return seq;
        }
        let read_until = item.get("read_until").map_or(0, |seconds| {
            u64::try_from(self.origin + number::<i64>(seconds) * SECOND).expect("a time")
        });
        let reading = |register_end: Counts| Reading {
            register_end,
            cut_end_ns: read_until,
            ..Reading::default()
        };
        let sum = zones.values().fold(Counts::default(), |sum, zone| {
            sum.checked_add(*zone).expect("a sum")
        });
        push(Record {
            reading: Some(reading(sum)),
            total: Some(Total::default()),
            ..record.clone()
        });
        for (zone, counted) in zones {
            push(Record {
                zone: Some(zone),
                reading: Some(reading(counted)),
                ..record.clone()
            });
        }
        seq
    }

    fn query(&self, wanted: &Value) -> Query {
        let by = |name: &str| list(wanted, "by").iter().any(|by| by == name);
        Query {
            bounds: list(wanted, "bounds")
                .iter()
                .map(|bound| self.time(bound))
                .collect(),
            tenant: Some(7),
            zone: wanted.get("zone").map(number),
            by: By {
                port: by("port"),
                direction: by("direction"),
                zone: by("zone"),
                host: by("host"),
            },
            percentile: true,
            ..Query::default()
        }
    }

    /// What the library makes of it.
    fn report(&self, wanted: &Value) -> Report {
        let mut usage = Usage::new(self.query(wanted)).expect("a query");
        for record in self.hosts.values().flatten() {
            usage.expect(record).expect("a sum");
        }
        let mut now = i64::MIN;
        for (host, records) in &self.hosts {
            usage.begin(&format!("{host}.db"), host);
            let mut open = None;
            for record in records {
                let late = record.flags.has(Flags::LATE);
                usage.add(record, open.filter(|_| late)).expect("a record");
                if matches!(record.kind, Kind::Meter | Kind::Nodata) && !late {
                    open = Some(record.window_end);
                }
            }
            now = now.max(open.unwrap_or(now));
        }
        let hosts: Vec<String> = list(wanted, "hosts").iter().map(said).collect();
        usage.finish(now, &hosts).expect("a report")
    }

    /// The same, as the file has it.
    fn shown(&self, report: &Report) -> Value {
        let seconds = |time: i64| json!((time - self.origin) / SECOND);
        let rows = report.rows.iter().map(|row| {
            let mut shown = json!({
                "from": seconds(row.from),
                "to": seconds(row.to),
                "sum": row.kept.sum.0.map(|sum| sum.to_string()),
                "settled": row.settled,
            });
            let group = &row.group;
            for (name, value) in [
                ("host", group.host.clone().map(Value::from)),
                ("port", group.port.clone().map(Value::from)),
                ("direction", group.direction.map(Value::from)),
                ("zone", group.zone.map(zone_name)),
                ("late", unless_zero(row.kept.late)),
                ("corrected", unless_zero(row.kept.corrected)),
                ("spread", unless_zero(row.kept.spread)),
            ] {
                if let Some(value) = value {
                    shown[name] = value;
                }
            }
            shown
        });
        let percentiles = report.percentiles.iter().map(|found| {
            let digits = |value: Option<u64>| value.map(|value| value.to_string());
            let p95 = &found.p95;
            let mut shown = json!({
                "slots": p95.slots.to_string(),
                "left_out": p95.left_out.map(|count| count.to_string()),
                "from": digits(p95.by_direction[0]),
                "to": digits(p95.by_direction[1]),
                "max_of_both": digits(p95.max_of_both),
                "of_max": digits(p95.of_max),
            });
            for (name, value) in [
                ("port", found.port.clone()),
                ("zone", found.zone.map(|zone| zone.to_string())),
            ] {
                if let Some(value) = value {
                    shown[name] = value.into();
                }
            }
            shown
        });
        let spread: Vec<u64> = report.spread.iter().map(|spread| spread.seq).collect();
        let missing = report.missing.iter().map(|missing| {
            json!({
                "host": missing.host,
                "from": seconds(missing.from),
                "to": seconds(missing.to),
                "why": missing.why,
            })
        });
        json!({
            "rows": rows.collect::<Vec<_>>(),
            "p95": percentiles.collect::<Vec<_>>(),
            "spread": spread,
            "in_no_slot": report.in_no_slot,
            "missing": missing.collect::<Vec<_>>(),
        })
    }
}

fn said(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn unless_zero(value: i128) -> Option<Value> {
    (value != 0).then(|| value.to_string().into())
}

fn zone_name(zone: Option<u32>) -> Value {
    zone.map_or_else(|| "-".to_owned(), |zone| zone.to_string())
        .into()
}

#[test]
fn usage_is_what_was_reckoned_by_hand() {
    let file = file();
    let mut queries = 0;
    for value in list(&file, "cases") {
        let case = Case::new(value);
        for wanted in list(value, "queries") {
            let report = case.report(wanted);
            let shown = case.shown(&report);
            let name = format!("{}: {}", case.value["name"], wanted["bounds"]);
            for part in ["rows", "p95", "spread", "in_no_slot", "missing"] {
                let mut hand = wanted.get(part).cloned().unwrap_or_else(|| json!([]));
                for one in hand.as_array_mut().into_iter().flatten() {
                    if let Some(one) = one.as_object_mut() {
                        one.remove("bytes_from");
                        one.remove("bytes_to");
                    }
                }
                assert_eq!(shown[part], hand, "{name}: {part}");
            }
            for (found, hand) in report.percentiles.iter().zip(list(wanted, "p95")) {
                compare_slots(&name, &found.slots, hand);
            }
            queries += 1;
        }
    }
    println!("CASES: usage queries reckoned by hand: {queries}");
}

/// Every slot, where the file says what is in them.
fn compare_slots(name: &str, slots: &Slots, hand: &Value) {
    for (way, key) in ["bytes_from", "bytes_to"].into_iter().enumerate() {
        let Some(hand) = hand[key].as_object() else {
            continue;
        };
        let used = slots.bytes[way].iter().enumerate();
        let used = used.filter(|(_, bytes)| **bytes != 0);
        let used: BTreeMap<String, String> = used
            .map(|(slot, bytes)| (slot.to_string(), bytes.to_string()))
            .collect();
        let hand: BTreeMap<String, String> = hand
            .iter()
            .map(|(slot, bytes)| (slot.clone(), said(bytes)))
            .collect();
        assert_eq!(used, hand, "{name}: {key}");
    }
}

#[test]
fn a_rank_is_what_was_reckoned_by_hand() {
    let file = file();
    for one in list(&file, "ranks") {
        let (count, hand): (u64, u64) = (number(&one["count"]), number(&one["rank"]));
        assert_eq!(rank(count), hand, "of {count}");
        // Of 1, 2, 3 …, the value is its own rank.
        let count = count.min(10_000);
        assert_eq!(p95((1..=count).rev().collect()), Some(rank(count)));
    }
    assert_eq!(p95(Vec::new()), None);
    println!("CASES: ranks by hand: {}", list(&file, "ranks").len());
}

#[test]
fn a_spread_is_what_was_reckoned_by_hand() {
    let file = file();
    for one in list(&file, "spreads") {
        let span = Span {
            start: number::<i64>(&one["at"][0]) * SECOND,
            end: number::<i64>(&one["at"][1]) * SECOND,
        };
        let (first, last) = span.slots();
        let whole: u64 = number(&one["bytes"]);
        let shares = (first..last).map(|slot| {
            let share = span.share(whole, slot * SLOT_NS, (slot + 1) * SLOT_NS);
            (slot.to_string(), Value::from(share.to_string()))
        });
        let shares: serde_json::Map<_, _> = shares.collect();
        assert_eq!(Value::from(shares), one["slots"], "{one}");
    }
    println!("CASES: spreads by hand: {}", list(&file, "spreads").len());
}

/// The reader in Python knows the page, and nothing of this library.
#[test]
fn a_reader_written_from_the_page_alone_agrees() {
    const LINES_MAX: usize = 300;
    let reader = at("../tests/verify/usage.py");
    let text = fs::read_to_string(&reader).expect("tests/verify/usage.py");
    assert!(
        text.lines().count() <= LINES_MAX,
        "more than {LINES_MAX} lines"
    );
    let output = Command::new("python3").arg(reader).arg(at(FILE)).output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("SKIPPED: a_reader_written_from_the_page_alone_agrees: there is no python3");
            return;
        }
        output => output.expect("python3"),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    let file = file();
    let queries: usize = list(&file, "cases")
        .iter()
        .map(|case| list(case, "queries").len())
        .sum();
    let (ranks, spreads) = (list(&file, "ranks").len(), list(&file, "spreads").len());
    let expected = format!("{ranks} ranks, {spreads} spreads, {queries} queries");
    assert_eq!(said.trim(), expected);
    println!(
        "CASES: usage vectors checked in Python: {}",
        ranks + spreads + queries
    );
}
