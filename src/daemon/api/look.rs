//! What can be looked at.

use super::{Shared, problem::Problem, route::Query};
use crate::{
    config::{Config, Limits, Port},
    period::{self, Moment, Step},
    records::Line,
    usage::{self, Opened},
};
use dataplane::gate::{PortState, PortStatus};
use hyper::StatusCode;
use jiff::Timestamp;
use metering::{
    ledger::{self, Filter},
    usage::{By, Query as UsageQuery, Source, UsageError},
};
use serde_json::{Map, Value, json};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{task, time::timeout};

/// How long a question waits for those before it.
const TURN: Duration = Duration::from_secs(20);
/// How long the ledger is read for one question.
const READ: Duration = Duration::from_secs(30);
/// Ports of a page.
const PORTS_MAX: usize = 1_000;
/// Records of a page.
const RECORDS_MAX: usize = 1_000;
/// Parts of a period of usage, and rows of all.
const PARTS_MAX: usize = 1_000;
const ROWS_MAX: usize = 10_000;
pub const TIME: &str = "a time such as 2026-11-24T03:00:00Z";

/// What `octroi status` says; ports are only counted.
pub fn status(shared: &Shared) -> Result<Value, Problem> {
    let mut report = shared.state.borrow_mut().report()?;
    let ports = std::mem::take(&mut report.ports);
    let count = |state| ports.iter().filter(|port| port.state == state).count();
    let counts = json!({
        "blessed": count(PortState::Blessed),
        "waiting": count(PortState::Waiting),
        "retired": count(PortState::Retired),
    });
    let mut value = serde_json::to_value(&report).map_err(|error| broken(&error))?;
    value["ports"] = counts;
    Ok(value)
}

pub fn broken(error: &dyn std::fmt::Display) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// Who pays, and the ports of each.
pub fn tenants(shared: &Shared) -> Value {
    let config = shared.state.borrow().config();
    let tenants = config.tenants.iter().map(|tenant| {
        let ports = config
            .ports
            .iter()
            .filter(|port| port.tenant == tenant.name);
        let changes = tenant.charge_changes.iter().map(ToString::to_string);
        json!({
            "name": tenant.name.as_str(),
            "id": tenant.id.0,
            "flow_detail": tenant.flow_detail.as_str(),
            "charge_class": tenant.charge_class.as_str(),
            "charge_changes": changes.collect::<Vec<_>>(),
            "ports": ports.map(|port| port.name.as_str()).collect::<Vec<_>>(),
        })
    });
    json!({ "tenants": tenants.collect::<Vec<_>>() })
}

/// Ports by name, a page of them.
pub fn ports(shared: &Shared, query: &Query) -> Result<Value, Problem> {
    let limit = query.limit(PORTS_MAX)?;
    let config = shared.state.borrow().config();
    let after = query.text("after");
    let tenant = query.text("tenant");
    let mut wanted: Vec<&Port> = config
        .ports
        .iter()
        .filter(|port| tenant.is_none_or(|tenant| is_of(&config, port, tenant)))
        .filter(|port| after.is_none_or(|after| port.name.as_str() > after))
        .collect();
    wanted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let more = wanted.len() > limit;
    wanted.truncate(limit);
    let statuses = shared.state.borrow_mut().ports()?;
    let next = wanted.last().filter(|_| more);
    let next = next.map(|port| port.name.as_str().to_owned());
    let ports = wanted
        .into_iter()
        .map(|port| shown(shared, port, &statuses));
    Ok(json!({ "ports": ports.collect::<Vec<_>>(), "next": next }))
}

/// Is a port one of this tenant, by number or name?
fn is_of(config: &Config, port: &Port, tenant: &str) -> bool {
    let number = config.tenant_of(port).map(|tenant| tenant.id.0);
    port.tenant.as_str() == tenant || number.is_some_and(|number| number.to_string() == tenant)
}

/// One port.
pub fn port(shared: &Shared, name: &str) -> Result<Value, Problem> {
    let config = shared.state.borrow().config();
    let Some(port) = config.port(name) else {
        return Err(no_port(name));
    };
    let statuses = shared.state.borrow_mut().ports()?;
    Ok(shown(shared, port, &statuses))
}

/// There is no such port.
pub fn no_port(name: &str) -> Problem {
    let detail = format!(
        "there is no port `{}`; /v1/ports lists them",
        name.escape_debug()
    );
    Problem::new(StatusCode::NOT_FOUND, detail)
}

/// A port: its settings, where they are from, and its status.
fn shown(shared: &Shared, port: &Port, statuses: &[PortStatus]) -> Value {
    let name = port.name.as_str();
    let status = statuses
        .iter()
        .find(|status| status.name == name && status.state != PortState::Retired);
    let in_file = shared.state.borrow().file().port(name).is_some();
    let mut shown = settings(port);
    shown["origin"] = if in_file { "file" } else { "hook" }.into();
    shown["status"] = json!(status);
    shown
}

/// What a port is given, as it is given.
fn settings(port: &Port) -> Value {
    let mut settings = Map::new();
    settings.insert("name".into(), port.name.as_str().into());
    settings.insert("tenant".into(), port.tenant.as_str().into());
    settings.insert("interface".into(), port.interface.as_str().into());
    if let Some(vlan) = port.vlan {
        settings.insert("vlan".into(), vlan.get().into());
    }
    let macs: Vec<String> = port.macs.iter().map(ToString::to_string).collect();
    settings.insert("macs".into(), macs.into());
    let addresses: Vec<String> = port.addresses.iter().map(ToString::to_string).collect();
    settings.insert("addresses".into(), addresses.into());
    settings.insert("from_tenant".into(), limits(&port.from_tenant));
    settings.insert("to_tenant".into(), limits(&port.to_tenant));
    settings.into()
}

fn limits(limits: &Limits) -> Value {
    let mut object = Map::new();
    let mut say = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            object.insert(name.into(), value.into());
        }
    };
    say("ceiling", limits.ceiling.map(|rate| rate.to_string()));
    say("burst", limits.burst.map(|bytes| bytes.to_string()));
    say(
        "packet_rate",
        limits.packet_rate.map(|rate| rate.to_string()),
    );
    object.into()
}

/// Reads the ledger on a thread of its own.
pub async fn read<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce(PathBuf) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let busy = |detail: &str| Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
    let path = shared.state.borrow().ledger().ok_or_else(|| {
        let detail = "the daemon keeps no records; add [meter] to its configuration";
        Problem::new(StatusCode::NOT_FOUND, detail)
    })?;
    let turn = timeout(TURN, Arc::clone(&shared.readers).acquire_owned()).await;
    let Ok(Ok(turn)) = turn else {
        return Err(busy("others read the ledger; try again later"));
    };
    let work = task::spawn_blocking(move || {
        // Given back when the reading ends, not when somebody stops waiting for it.
        let _turn = turn;
        work(path)
    });
    match timeout(READ, work).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(busy("this takes more than 30 s; ask for a shorter period")),
    }
}

pub fn utc_ns(text: &str) -> Option<i64> {
    let time: Timestamp = text.parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}

pub fn direction(query: &Query) -> Result<Option<u8>, Problem> {
    query.read("direction", "from or to", |text| match text {
        "from" => Some(0),
        "to" => Some(1),
        _ => None,
    })
}

/// A tenant by its number, or by its name in the configuration.
pub fn tenant(query: &Query, config: &Config) -> Result<Option<u32>, Problem> {
    let what = "the number or the name of a tenant of /v1/tenants, or the number of an earlier one";
    query.read("tenant", what, |text| {
        let named = config.tenants.iter().find(|one| one.name.as_str() == text);
        text.parse().ok().or(named.map(|one| one.id.0))
    })
}

/// Records, a page of them, in the order of the ledger.
pub async fn records(shared: &Shared, query: &Query) -> Result<Value, Problem> {
    let limit = query.limit(RECORDS_MAX)?;
    let config = shared.state.borrow().config();
    let zone = query.read("zone", "the number of a zone, or *", |text| match text {
        "*" => Some(None),
        number => number.parse().ok().map(Some),
    })?;
    let filter = Filter {
        tenant: tenant(query, &config)?,
        port: query.text("port").map(Into::into),
        zone,
        direction: direction(query)?,
        from: query.read("from", TIME, utc_ns)?,
        to: query.read("to", TIME, utc_ns)?,
        after: query.read("after", "the `next` of the page before", |text| {
            text.parse().ok()
        })?,
        limit: Some(limit as u64 + 1),
    };
    read(shared, move |path| {
        let mut rows =
            ledger::records(&path, &filter).map_err(|error| unread(&error.to_string()))?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let (mut records, mut faults, mut last) = (Vec::new(), Vec::new(), 0);
        for row in &rows {
            match row {
                Ok(record) => {
                    last = record.seq;
                    records.push(Line::of(record));
                }
                Err((seq, error)) => {
                    last = *seq;
                    faults.push(format!("record {seq}: {error}"));
                }
            }
        }
        let next = more.then(|| last.to_string());
        Ok(json!({ "records": records, "faults": faults, "next": next }))
    })
    .await
}

/// The ledger cannot be read.
pub fn unread(why: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)
}

fn by(query: &Query) -> Result<By, Problem> {
    let what = "some of port,direction,zone,host";
    let by = query.read("by", what, |text| {
        let mut by = By::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            match part {
                "port" => by.port = true,
                "direction" => by.direction = true,
                "zone" => by.zone = true,
                "host" => by.host = true,
                _ => return None,
            }
        }
        Some(by)
    })?;
    Ok(by.unwrap_or(By {
        port: true,
        direction: true,
        zone: true,
        host: false,
    }))
}

/// Usage, as `octroi usage --format json` has it.
pub async fn usage(shared: &Shared, query: &Query) -> Result<Value, Problem> {
    let config = shared.state.borrow().config();
    let zone = config.billing.timezone.get();
    let bad = |error: anyhow::Error| Problem::bad(format!("{error:#}"));
    let time = |name: &str| {
        let moment = query.read(name, TIME, |text| text.parse::<Moment>().ok())?;
        let missing = || Problem::bad(format!("`{name}` is missing; write {TIME}, or a day"));
        moment.ok_or_else(missing)?.utc_ns(&zone).map_err(bad)
    };
    let step = query.read(
        "step",
        "whole, slot, hour, day or month",
        |text| match text {
            "whole" => Some(Step::Whole),
            "slot" => Some(Step::Slot),
            "hour" => Some(Step::Hour),
            "day" => Some(Step::Day),
            "month" => Some(Step::Month),
            _ => None,
        },
    )?;
    let period = (time("from")?, time("to")?);
    let bounds = period::bounds(period, step.unwrap_or(Step::Whole), &zone).map_err(bad)?;
    if bounds.len() > PARTS_MAX {
        return Err(Problem::bad(format!(
            "these are {} parts, and {PARTS_MAX} are told at once; write a shorter period",
            bounds.len() - 1
        )));
    }
    let wanted = UsageQuery {
        bounds,
        tenant: tenant(query, &config)?,
        port: query.text("port").map(Into::into),
        direction: direction(query)?,
        zone: None,
        by: by(query)?,
        percentile: query
            .read("p95", "true or false", |text| text.parse().ok())?
            .unwrap_or_default(),
    };
    read(shared, move |path| {
        let failed = |error: anyhow::Error| match error.downcast_ref() {
            Some(UsageError::Period(why)) => Problem::bad(why.clone()),
            _ => unread(&format!("{error:#}")),
        };
        let sources = Source::open(&[path]).map_err(|error| failed(error.into()))?;
        let opened = Opened {
            sources,
            zone_name: config.billing.timezone.to_string(),
            zone: config.billing.timezone.get(),
            hosts: Vec::new(),
            store: None,
            config: Some(config),
        };
        let items = usage::objects(&opened, &wanted).map_err(failed)?;
        if items.len() > ROWS_MAX {
            return Err(Problem::bad(format!(
                "these are {} rows, and {ROWS_MAX} are told at once; write a shorter period, a longer \
                 step or one tenant",
                items.len()
            )));
        }
        Ok(json!({ "timezone": opened.zone_name, "items": items }))
    })
    .await
}
