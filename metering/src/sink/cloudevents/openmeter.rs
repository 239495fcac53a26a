//! What OpenMeter counted: `api/openapi.yaml` (v1) and `api/v3/openapi.yaml` of openmeterio/openmeter, and the handlers behind them.
//!
//! OpenMeter shows no events by ledger, but sums of a meter by window, subject and group. Its windows are whole minutes, hours, days and
//! months, in the time zone that is asked for: UTC here. It has a row where at least one event is, and none where there is none.
//!
//! Numbers: v1 answers a JSON number, v3 a decimal string, and both were a double there (`InexactFloat64`). A sum of whole numbers
//! that stays below 2^53 is exact in a double, whatever the order, so such a number is taken, digit by digit, as an integer. What has a
//! fraction or an exponent, or is 2^53 or more, is refused: nobody can say which number it was. No float is made here.

mod row;

use super::{CloudEvents, TYPE};
use crate::{
    note::percent,
    sink::{Cell, SinkError, Span, http::Answer, text::rfc3339},
};
use hyper::Method;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

/// What is read of an answer, bytes: a row has some 200.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Spans in one question.
const SPANS_MAX: i64 = 1_500;
/// Rows that one question may be expected to bring.
const ROWS_MAX: usize = 50_000;
const SECOND_NS: i64 = 1_000_000_000;

/// Which of OpenMeter's interfaces an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Api {
    /// `/api/v1/events`.
    V1,
    /// `/api/v3/openmeter/events`; at Kong `/v3/openmeter/events`.
    V3,
}

impl Api {
    /// By the path that events are posted to; with it, the path that meters are under.
    fn of(path: &str) -> Option<(Self, String)> {
        let before = path.strip_suffix("/events")?;
        let api = if before.ends_with("/v1") {
            Self::V1
        } else if before.ends_with("/v3/openmeter") {
            Self::V3
        } else {
            return None;
        };
        Some((api, format!("{before}/meters")))
    }

    const fn span(self, span: Span) -> &'static str {
        match (self, span) {
            (Self::V1, Span::Minute) => "MINUTE",
            (Self::V1, Span::Hour) => "HOUR",
            (Self::V1, Span::Day) => "DAY",
            (Self::V3, Span::Minute) => "PT1M",
            (Self::V3, Span::Hour) => "PT1H",
            (Self::V3, Span::Day) => "P1D",
        }
    }
}

/// What is added up, in the order of [`crate::sink::Billed::adds`]: each by a meter of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Packets.
    Packets,
    /// Layer-2 bytes: what is billed.
    L2Bytes,
    /// IP bytes.
    L3Bytes,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Packets, Self::L2Bytes, Self::L3Bytes];

    /// Its name in an event's data.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Packets => "packets",
            Self::L2Bytes => "l2_bytes",
            Self::L3Bytes => "l3_bytes",
        }
    }

    /// The meter's slug, in v3 its key.
    #[must_use]
    pub fn slug(self) -> String {
        format!("octroi_{}", self.name())
    }

    /// How the meter must be defined, as v1 takes it.
    #[must_use]
    pub fn definition(self) -> Value {
        json!({
            "slug": self.slug(),
            "eventType": TYPE,
            "aggregation": "SUM",
            "valueProperty": self.property(),
            "groupBy": {"host": "$.host", "direction": "$.direction"},
        })
    }

    fn property(self) -> String {
        format!("$.{}", self.name())
    }
}

/// A meter that is there and defined as it must be.
#[derive(Clone, Debug)]
pub struct Meter {
    measure: Measure,
    /// How its questions are asked for.
    path: String,
    api: Api,
    /// It counts events from then on: a time as OpenMeter writes it.
    pub from: Option<String>,
}

impl Meter {
    /// What it adds up.
    #[must_use]
    pub const fn measure(&self) -> Measure {
        self.measure
    }
}

impl CloudEvents {
    /// Looks for a meter. `None`: it is not there.
    ///
    /// # Errors
    /// [`SinkError::Refused`]: the address is not OpenMeter's, or the meter is defined otherwise: how it must be is said.
    pub fn meter(&mut self, measure: Measure) -> Result<Option<Meter>, SinkError> {
        let address = self.target.address().map_err(SinkError::Refused)?;
        let Some((api, meters)) = Api::of(&address.path) else {
            return Err(SinkError::Refused(format!(
                "{}: only OpenMeter can be asked what it has, whose address ends with /api/v1/events or /api/v3/openmeter/events; \
                 compare this one's totals with `octroi usage`; if it lost some, `octroi replay` sends them again",
                self.target.url
            )));
        };
        let slug = measure.slug();
        let meter = match api {
            Api::V1 => {
                let answer = self.question(Method::GET, &format!("{meters}/{slug}"), None)?;
                match answer.status.as_u16() {
                    404 => return Ok(None),
                    _ => self.json(&answer)?,
                }
            }
            Api::V3 => {
                let list = format!("{meters}?filter%5Bkey%5D={slug}");
                let answer = self.question(Method::GET, &list, None)?;
                let mut list = self.json(&answer)?;
                let Some(found) = list["data"].as_array_mut() else {
                    return Err(self.wrong("a list of meters without `data`"));
                };
                let found = found.iter_mut().find(|meter| meter["key"] == slug);
                match found {
                    None => return Ok(None),
                    Some(meter) => meter.take(),
                }
            }
        };
        self.defined(&meter, measure, api, &meters).map(Some)
    }

    /// Is a meter defined as it must be?
    fn defined(
        &self,
        meter: &Value,
        measure: Measure,
        api: Api,
        meters: &str,
    ) -> Result<Meter, SinkError> {
        let [kind, aggregation, property, groups, from] = match api {
            Api::V1 => [
                "eventType",
                "aggregation",
                "valueProperty",
                "groupBy",
                "eventFrom",
            ],
            Api::V3 => [
                "event_type",
                "aggregation",
                "value_property",
                "dimensions",
                "events_from",
            ],
        };
        let text = |name: &str| meter[name].as_str().unwrap_or_default().to_owned();
        let is_right = text(kind) == TYPE
            && text(aggregation).eq_ignore_ascii_case("SUM")
            && text(property) == measure.property()
            && meter[groups]["host"] == "$.host"
            && meter[groups]["direction"] == "$.direction";
        let id = meter["id"].as_str().unwrap_or_default();
        if !is_right || id.is_empty() {
            return Err(SinkError::Refused(format!(
                "{}: its meter {} is not defined as it must be: {}; it is {}",
                self.target.url,
                measure.slug(),
                measure.definition(),
                short(meter)
            )));
        }
        Ok(Meter {
            measure,
            path: format!("{meters}/{}/query", percent(id)),
            api,
            from: meter[from].as_str().map(str::to_owned),
        })
    }

    /// What a meter has of a host's events in whole spans. `starts`: of the first span, and behind the last one, seconds
    /// since 1970. `expected`: cells that the ledger has there, by which questions are cut into answers of some megabytes.
    ///
    /// # Errors
    /// [`SinkError::Refused`]: an answer that is none, or a number that a double does not hold.
    pub fn counted(
        &mut self,
        meter: &Meter,
        host: &str,
        span: Span,
        starts: Range<i64>,
        expected: &[Cell],
    ) -> Result<BTreeMap<Cell, i128>, SinkError> {
        let mut cells = BTreeMap::new();
        for some in questions(starts, span, expected) {
            let answer = match meter.api {
                Api::V1 => {
                    let path = format!(
                        "{}?from={}&to={}&windowSize={}&windowTimeZone=UTC&groupBy=subject&groupBy=direction&filterGroupBy%5Bhost%5D={}",
                        meter.path,
                        percent(&time(some.start)),
                        percent(&time(some.end)),
                        meter.api.span(span),
                        percent(host)
                    );
                    self.question(Method::GET, &path, None)?
                }
                Api::V3 => {
                    let body = json!({
                        "from": time(some.start),
                        "to": time(some.end),
                        "granularity": meter.api.span(span),
                        "time_zone": "UTC",
                        "group_by_dimensions": ["subject", "direction"],
                        "filters": {"dimensions": {"host": {"eq": host}}},
                    });
                    let body = body.to_string().into_bytes();
                    self.question(Method::POST, &meter.path, Some(("application/json", body)))?
                }
            };
            let answer = self.json(&answer)?;
            let texts = some.clone().step_by(span.seconds() as usize);
            let texts: HashMap<String, i64> = texts.map(|start| (time(start), start)).collect();
            let rows = answer["data"].as_array();
            let rows = rows.ok_or_else(|| self.wrong("no `data`"))?;
            for row in rows {
                let (cell, value) = row::read(row, meter.api, &texts)
                    .map_err(|why| self.wrong(&format!("{why}: {}", short(row))))?;
                if cells.insert(cell, value).is_some() {
                    return Err(self.wrong(&format!("the same row twice: {}", short(row))));
                }
            }
        }
        Ok(cells)
    }

    fn question(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<Answer, SinkError> {
        self.ask(method, path, body, ANSWER_BYTES_MAX)
    }

    /// The JSON of an answer that was judged, but for 404.
    fn json(&self, answer: &Answer) -> Result<Value, SinkError> {
        if answer.status.as_u16() == 404 {
            return Err(self.wrong(&format!("{}: {}", answer.status, answer.text)));
        }
        if answer.text.is_empty() {
            return Err(self.wrong(&format!("nothing, or more than {ANSWER_BYTES_MAX} bytes")));
        }
        serde_json::from_str(&answer.text).map_err(|error| self.wrong(&error.to_string()))
    }

    fn wrong(&self, what: &str) -> SinkError {
        SinkError::Refused(format!(
            "{}: it was asked what it has, and answered {what}",
            self.target.url
        ))
    }
}

fn time(second: i64) -> String {
    rfc3339(second.saturating_mul(SECOND_NS))
}

/// A value in a line.
fn short(value: &Value) -> String {
    value.to_string().chars().take(300).collect()
}

/// Cuts what is asked into questions, each of whole spans.
fn questions(starts: Range<i64>, span: Span, expected: &[Cell]) -> Vec<Range<i64>> {
    let (mut some, mut from) = (Vec::new(), starts.start);
    while from < starts.end {
        let mut to = from
            .saturating_add(SPANS_MAX * span.seconds())
            .min(starts.end);
        let first = expected.partition_point(|cell| cell.start < from);
        if let Some(cell) = expected.get(first.saturating_add(ROWS_MAX)) {
            // Of one span all, however many tenants it has.
            to = to.min(cell.start.max(from + span.seconds()));
        }
        some.push(from..to);
        from = to;
    }
    some
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_addresses_of_openmeter_have_meters() {
        for (path, meters) in [
            ("/api/v1/events", Some((Api::V1, "/api/v1/meters"))),
            ("/om/api/v1/events", Some((Api::V1, "/om/api/v1/meters"))),
            (
                "/api/v3/openmeter/events",
                Some((Api::V3, "/api/v3/openmeter/meters")),
            ),
            (
                "/v3/openmeter/events",
                Some((Api::V3, "/v3/openmeter/meters")),
            ),
            ("/api/v2/events", None),
            ("/api/v3/events", None),
            ("/events", None),
            ("/", None),
            ("/api/v1/events/", None),
            ("/api/v1/events?x=1", None),
        ] {
            let expected = meters.map(|(api, meters)| (api, meters.to_owned()));
            assert_eq!(Api::of(path), expected, "{path}");
        }
    }

    #[test]
    fn questions_cover_what_is_asked_once_and_end_at_spans() {
        let cells = |spans: i64, each: i64| -> Vec<Cell> {
            let starts = (0..spans).map(|at| at * 3_600);
            let cell = |start| {
                (0..each).map(move |tenant| Cell {
                    start,
                    tenant,
                    direction: 0,
                })
            };
            starts.flat_map(cell).collect()
        };
        for (spans, each, most) in [
            (10, 3, 1),
            (1_501, 1, 2),
            (10, 30_000, 10),
            (3, 60_000, 3),
            (4_000, 100, 9),
        ] {
            let cells = cells(spans, each);
            let some = questions(0..spans * 3_600, Span::Hour, &cells);
            assert!(
                some.len() <= most,
                "{spans} spans of {each}: {} questions",
                some.len()
            );
            let mut at = 0;
            for question in &some {
                assert_eq!(question.start, at);
                assert!(question.end > at && question.end % 3_600 == 0);
                at = question.end;
            }
            assert_eq!(at, spans * 3_600);
        }
        assert!(questions(0..0, Span::Hour, &[]).is_empty());
    }
}
