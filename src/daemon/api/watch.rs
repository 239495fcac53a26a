//! What changes from second to second: everything that the page shows, in one answer.
//!
//! Counters are texts: whoever reads JSON with doubles would lose single bytes beyond 2^53.

use super::{
    Answer, Shared, look,
    problem::{Problem, respond},
};
use crate::{
    daemon::{MeterStatus, SinkStatus, clock},
    status::Report,
    usage::time,
};
use dataplane::{
    gate::{PortState, PortStatus},
    registers::Direction,
};
use hyper::{StatusCode, body::Bytes};
use metering::{
    ledger::{self, Reader},
    note::{self, Head, Note},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// All who look within this see the same: ten thousand ports are not read for each of them.
const FRESH: Duration = Duration::from_millis(500);

/// An overview, and when it was made.
#[derive(Default)]
pub struct Seen(Option<(Instant, Bytes)>);

/// `GET /v1/overview`.
///
/// # Errors
/// When the maps cannot be read.
pub fn overview(shared: &Shared) -> Result<Answer, Problem> {
    let mut seen = shared.seen.borrow_mut();
    let known = seen.0.as_ref().filter(|(at, _)| at.elapsed() < FRESH);
    let text = match known {
        Some((_, text)) => text.clone(),
        None => {
            let text = Bytes::from(made(shared)?.to_string());
            seen.0 = Some((Instant::now(), text.clone()));
            text
        }
    };
    Ok(respond(StatusCode::OK, "application/json", text))
}

fn made(shared: &Shared) -> Result<Value, Problem> {
    let mut state = shared.state.borrow_mut();
    let at = clock::now();
    let report = state.report()?;
    let config = state.config();
    let count = |state| {
        report
            .ports
            .iter()
            .filter(|port| port.state == state)
            .count()
    };
    let under_rule = |name: &str| {
        let mut rules = config.encryption.iter();
        rules.any(|rule| rule.tenant.as_str() == name)
    };
    let mut tenants: BTreeMap<u32, Sums> = BTreeMap::new();
    for (number, name) in &report.tenants {
        tenants.entry(*number).or_default().under_rule = under_rule(name);
    }
    for port in &report.ports {
        tenants.entry(port.tenant).or_default().add(port);
    }
    let tenants = tenants.into_iter().map(|(number, sums)| {
        let name = report.tenants.get(&number);
        sums.shown(number, name.map_or("", String::as_str))
    });
    Ok(json!({
        "at": time(at.utc_ns),
        "boot_ns": at.boot_ns.to_string(),
        "host": config.host.name.as_str(),
        "version": env!("CARGO_PKG_VERSION"),
        "timezone": config.billing.timezone.to_string(),
        "mechanism": report.mechanism,
        "revision": report.revision.to_string(),
        "ports": {
            "blessed": count(PortState::Blessed),
            "waiting": count(PortState::Waiting),
            "retired": count(PortState::Retired),
        },
        "meter": report.meter.as_ref().map(|meter| metered(meter, at.utc_ns)),
        "sinks": sinks(&report),
        "tenants": tenants.collect::<Vec<_>>(),
    }))
}

fn metered(meter: &MeterStatus, now_utc_ns: i64) -> Value {
    let age_ns = meter
        .committed_utc_ns
        .map(|at| now_utc_ns.saturating_sub(at));
    json!({
        "ledger": meter.ledger,
        "ledger_id": meter.ledger_id,
        "records": meter.records.to_string(),
        "windows": meter.windows.to_string(),
        "window_ns": meter.window_ns.to_string(),
        "committed_window": meter.committed_window.map(|window| window.to_string()),
        "committed": meter.committed_utc_ns.map(time),
        "age_ns": age_ns.map(|age| age.max(0).to_string()),
        "error": meter.error,
        "unmetered": meter.audit.unmetered.to_string(),
        "unmetered_last": meter.audit.last,
        "not_audited": meter.audit.not_audited,
        "unattributed_bytes": meter.unattributed_bytes.to_string(),
        "superseded": meter.superseded.to_string(),
    })
}

fn sinks(report: &Report) -> Vec<Value> {
    let shown = report.sinks.iter().map(|sink: &SinkStatus| {
        let at = &sink.progress;
        json!({
            "name": sink.name,
            "lag": at.lag.map(|lag| lag.to_string()),
            "confirmed": at.confirmed.to_string(),
            "delivered": at.delivered.to_string(),
            "error": at.error,
            "fork": at.fork,
            "next_try_ms": sink.next_try_ms.to_string(),
        })
    });
    shown.collect()
}

/// Of one tenant, all its ports together, retired ones too: what `octroi top` adds up.
#[derive(Default)]
struct Sums {
    ports: u64,
    /// Another number as soon as a port comes or goes: totals before and after are not to be compared.
    registers: u64,
    under_rule: bool,
    /// From the tenant, to the tenant: packets, layer-2 bytes, layer-3 bytes.
    delivered: [[u64; 3]; 2],
    /// Packets and layer-2 bytes by direction and reason, and by direction and class.
    drops: BTreeMap<(&'static str, String), [u64; 2]>,
    evidence: BTreeMap<(&'static str, String), [u64; 2]>,
}

impl Sums {
    fn add(&mut self, port: &PortStatus) {
        self.ports += u64::from(port.state != PortState::Retired);
        self.registers = self.registers.wrapping_add(mixed(port.incarnation));
        let ways = [("from", &port.from_tenant), ("to", &port.to_tenant)];
        for (place, (way, direction)) in ways.into_iter().enumerate() {
            self.add_direction(place, way, direction);
        }
    }

    fn add_direction(&mut self, place: usize, way: &'static str, direction: &Direction) {
        let total = direction.total();
        more(
            &mut self.delivered[place],
            [total.packets, total.l2_bytes, total.l3_bytes],
        );
        for (reason, counts) in &direction.drops {
            let sum = self.drops.entry((way, reason.clone())).or_default();
            more(sum, [counts.packets, counts.l2_bytes]);
        }
        for (class, counts) in &direction.evidence {
            let sum = self.evidence.entry((way, class.clone())).or_default();
            more(sum, [counts.packets, counts.l2_bytes]);
        }
    }

    fn shown(&self, number: u32, name: &str) -> Value {
        let delivered = |[packets, l2_bytes, l3_bytes]: [u64; 3]| {
            json!({
                "packets": packets.to_string(),
                "l2_bytes": l2_bytes.to_string(),
                "l3_bytes": l3_bytes.to_string(),
            })
        };
        json!({
            "id": number,
            "name": name,
            "ports": self.ports,
            "registers": self.registers.to_string(),
            "encryption_rule": self.under_rule,
            "from": delivered(self.delivered[0]),
            "to": delivered(self.delivered[1]),
            "drops": listed(&self.drops, "reason"),
            "evidence": listed(&self.evidence, "class"),
        })
    }
}

/// A sum of incarnations alone would be the same for 1 and 4 as for 2 and 3 (the finaliser of splitmix64).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn more<const N: usize>(sums: &mut [u64; N], counts: [u64; N]) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum = sum.saturating_add(count);
    }
}

fn listed(sums: &BTreeMap<(&'static str, String), [u64; 2]>, what: &str) -> Vec<Value> {
    let listed = sums.iter().map(|((way, of), [packets, l2_bytes])| {
        let mut line = json!({
            "direction": way,
            "packets": packets.to_string(),
            "l2_bytes": l2_bytes.to_string(),
        });
        line[what] = of.as_str().into();
        line
    });
    listed.collect()
}

/// `GET /v1/ledger`: what can be held against a copy that somebody else keeps.
///
/// # Errors
/// When there is none, or it cannot be read.
pub async fn ledger(shared: &Shared) -> Result<Value, Problem> {
    look::read(shared, |path| {
        let failed = |error: ledger::LedgerError| look::unread(&error.to_string());
        let reader = Reader::open(&path).map_err(failed)?;
        let signed = ledger::last_head(&path).map_err(failed)?;
        let note = Note::parse(&signed).map_err(|error| look::broken(&error))?;
        let head = Head::parse(note.text).map_err(|error| look::broken(&error))?;
        Ok(json!({
            "ledger": path,
            "ledger_id": note::hex(&reader.id().map_err(failed)?),
            "host": reader.host().map_err(failed)?,
            "records": reader.size().map_err(failed)?.to_string(),
            "file_bytes": std::fs::metadata(&path).map_or(0, |file| file.len()).to_string(),
            "head": {
                "origin": head.origin,
                "size": head.size.to_string(),
                "root": note::base64(&head.root),
                "signatures": note.signatures(),
                "note": signed,
            },
        }))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::registers::{Counts, DropCounts};

    fn port(incarnation: u64, l2_bytes: u64) -> PortStatus {
        let counts = Counts {
            packets: 1,
            l2_bytes,
            l3_bytes: 1,
        };
        let drops = DropCounts {
            packets: 2,
            l2_bytes: 3,
        };
        PortStatus {
            name: "p".into(),
            tenant: 1,
            interface: "i".into(),
            ifindex: 1,
            vlan: 0,
            slot: 0,
            incarnation,
            state: PortState::Blessed,
            before_attach: [0; 4],
            shape: Default::default(),
            from_tenant: Direction {
                zones: vec![(0, counts), (1, counts)],
                drops: vec![("spoofed_ipv4".into(), drops)],
                evidence: vec![("E3".into(), drops)],
                ..Direction::default()
            },
            to_tenant: Direction::default(),
        }
    }

    #[test]
    fn sums_are_texts_and_exact_where_doubles_are_not() {
        let mut sums = Sums::default();
        sums.add(&port(1, (1 << 53) + 1));
        let shown = sums.shown(1, "a");
        assert_eq!(shown["from"]["l2_bytes"], "18014398509481986");
        assert_eq!(shown["to"]["l2_bytes"], "0");
        assert_eq!(shown["drops"][0]["reason"], "spoofed_ipv4");
        assert_eq!(shown["drops"][0]["direction"], "from");
        assert_eq!(shown["evidence"][0]["l2_bytes"], "3");
        sums.add(&port(2, u64::MAX));
        let most = sums.shown(1, "a")["from"]["l2_bytes"].clone();
        assert_eq!(most, u64::MAX.to_string());
    }

    #[test]
    fn other_ports_are_other_registers() {
        let of = |incarnations: [u64; 2]| {
            let mut sums = Sums::default();
            for incarnation in incarnations {
                sums.add(&port(incarnation, 1));
            }
            sums.registers
        };
        assert_eq!(of([1, 4]), of([4, 1]));
        assert_ne!(of([1, 4]), of([2, 3]));
    }
}
