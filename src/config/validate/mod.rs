//! What needs more than one value: names that resolve, numbers that are unique, room for all.
//!
//! Every check looks at what was read well and leaves out what was refused before, so that one
//! mistake is one message.

mod limits;
mod ports;

pub(super) use limits::{build as build_limits, check as check_limits, rate_wrong};

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::path::PathBuf;

use dataplane_common::units::TenantId;

use super::api;
use super::billing::Billing;
use super::draft::{Draft, DraftHost, DraftPort, DraftTenant, DraftUplink, DraftZone, Field};
use super::encryption;
use super::errors::{At, Faults};
use super::model::{
    BUILT_IN_ZONES, Config, Host, Meter, Port, Retention, Tenant, Uplink, ZONE_ID_FIRST, Zone,
};
use super::own_profile::{self, DraftProfile};
use super::provide::{self, DraftProvide};
use super::quota;
use super::share::{self, DraftShare};
use super::sink::{self, DraftSink};
use super::values::{Cidr, InterfaceName, Name};

/// Checks the whole. `None` if a value was refused; other faults are only in `faults`.
pub(super) fn check(draft: Draft, faults: &mut Faults<'_>) -> Option<Config> {
    check_host(&draft.host, faults);
    api::check(draft.api.as_ref(), &draft.host, faults);
    sink::check(&draft.sinks, draft.meter.is_some(), faults);
    check_uplinks(&draft, faults);
    let zones_max = draft.host.zones_max.clone().or(Host::ZONES_MAX);
    check_zones(&draft.zones, zones_max, faults);
    check_tenants(&draft.tenants, faults);
    share::check(&draft, faults);
    quota::check(&draft, faults);
    for port in &draft.ports {
        ports::check_alone(port, faults);
    }
    ports::check_together(&draft, faults);
    let tenants: Vec<&Name> = draft
        .tenants
        .iter()
        .filter_map(|tenant| tenant.name.value())
        .collect();
    let zones: Vec<&Name> = draft
        .zones
        .iter()
        .filter_map(|zone| zone.name.value())
        .collect();
    let known = (tenants.as_slice(), draft.tenants_complete);
    encryption::check(&draft.encryption, known, &zones, faults);
    provide::check(&draft, faults);
    own_profile::check(&draft.encryption_profiles, &draft.encryption, faults);
    let room = draft.host.conversations_max.clone();
    encryption::check_room(&draft.encryption, room.or(Host::CONVERSATIONS_MAX), faults);
    build(draft)
}

/// Checks a port without the others. `None` if a value was refused; other faults are only in `faults`.
pub(super) fn check_port(draft: DraftPort, faults: &mut Faults<'_>) -> Option<Port> {
    ports::check_alone(&draft, faults);
    ports::build(draft)
}

/// What something is called in messages: its kind and, if it has one, its name.
pub(super) fn label(kind: &str, name: &Field<Name>) -> String {
    match name.value() {
        Some(name) => format!("{kind} `{name}`"),
        None => format!("[[{kind}]]"),
    }
}

/// The first holder of each value, to find the second.
struct Seen<K, V>(HashMap<K, V>);

impl<K: Eq + Hash, V: Copy> Seen<K, V> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// The first holder of `key`, if this is not it.
    fn before(&mut self, key: K, holder: V) -> Option<V> {
        match self.0.entry(key) {
            std::collections::hash_map::Entry::Occupied(first) => Some(*first.get()),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(holder);
                None
            }
        }
    }
}

/// Reports names that are used twice among things of one kind.
fn check_names<'n>(
    kind: &str,
    names: impl Iterator<Item = &'n Field<Name>>,
    faults: &mut Faults<'_>,
) {
    let mut seen = Seen::new();
    for name in names.filter_map(Field::get) {
        if let Some(first) = seen.before(&name.value, name.at) {
            let line = faults.line_note(first);
            let message = format!(
                "there is a {kind} `{}` already{line}; choose another name",
                name.value
            );
            faults.add(name.at, message);
        }
    }
}

fn check_host(host: &DraftHost, faults: &mut Faults<'_>) {
    let pin_dir = host.pin_dir.clone().or(PathBuf::from(Host::PIN_DIR));
    if let (Some(pin_dir), Some(run_dir)) = (pin_dir, host.run_dir.get())
        && pin_dir == run_dir.value
    {
        let message = "`run_dir` is the same as `pin_dir`, which only holds pins; write another";
        faults.add(run_dir.at, message.to_string());
    }
    let mut seen = Seen::new();
    for interface in &host.trusted_interfaces.items {
        if seen.before(&interface.value, ()).is_some() {
            let message = format!("`{}` is trusted twice; keep one", interface.value);
            faults.add(interface.at, message);
        }
    }
}

/// The trusted interfaces.
fn trusted(draft: &Draft) -> HashSet<&InterfaceName> {
    let interfaces = draft.host.trusted_interfaces.items.iter();
    interfaces.map(|interface| &interface.value).collect()
}

fn check_uplinks(draft: &Draft, faults: &mut Faults<'_>) {
    let trusted = trusted(draft);
    let mut seen = Seen::new();
    for uplink in &draft.uplinks {
        let Some(interface) = uplink.interface.get() else {
            continue;
        };
        if let Some(first) = seen.before(&interface.value, interface.at) {
            let line = faults.line_note(first);
            let message = format!("`{}` is an uplink already{line}; keep one", interface.value);
            faults.add(interface.at, message);
        }
        if trusted.contains(&interface.value) {
            let message = format!(
                "the uplink `{}` is in `trusted_interfaces`; take it out there",
                interface.value
            );
            faults.add(interface.at, message);
        }
        limits::check_capacity(&interface.value, &uplink.capacity, faults);
    }
}

/// The number of a zone: its own, or that of its place in the file. `None` if refused or past 255.
fn zone_id(index: usize, zone: &DraftZone) -> Option<u8> {
    let by_place = u8::try_from(index + usize::from(ZONE_ID_FIRST)).ok();
    zone.id.clone().optional()?.or(by_place)
}

fn check_zones(zones: &[DraftZone], zones_max: Option<u8>, faults: &mut Faults<'_>) {
    check_names("zone", zones.iter().map(|zone| &zone.name), faults);
    if let Some(zones_max) = zones_max {
        check_zone_count(zones, zones_max, faults);
    }
    let mut ids: Seen<u8, (usize, At)> = Seen::new();
    let mut cidrs: Seen<Cidr, (usize, At)> = Seen::new();
    for (index, zone) in zones.iter().enumerate() {
        let this = label("zone", &zone.name);
        if let Some(name) = zone.name.get()
            && BUILT_IN_ZONES.contains(&name.value.as_str())
        {
            let message = format!("the zone `{}` is built in; choose another name", name.value);
            faults.add(name.at, message);
        }
        let id_at = zone.id.get().map_or(zone.at, |id| id.at);
        if let Some(id) = zone_id(index, zone)
            && let Some((first, at)) = ids.before(id, (index, id_at))
        {
            let other = label("zone", &zones[first].name);
            let line = faults.line_note(at);
            let message = match zone.id {
                Field::Missing => format!(
                    "{this} is number {id} by its place, which {other}{line} has; \
                     write an `id` for each zone"
                ),
                _ => format!("{this} has the id {id} of {other}{line}; write another"),
            };
            faults.add(id_at, message);
        }
        if zone.cidrs.items.is_empty() && !zone.cidrs.bad {
            let message = format!("{this} has no `cidrs`; write cidrs = [\"192.0.2.0/24\"]");
            faults.add(zone.cidrs.at, message);
        }
        for cidr in &zone.cidrs.items {
            let Some((first, at)) = cidrs.before(cidr.value, (index, cidr.at)) else {
                continue;
            };
            let line = faults.line_note(at);
            let message = if first == index {
                format!("{this} has {} twice; keep one", cidr.value)
            } else {
                let other = label("zone", &zones[first].name);
                format!(
                    "{this} has {}, which is in {other}{line}; keep one",
                    cidr.value
                )
            };
            faults.add(cidr.at, message);
        }
    }
}

/// Reports zones for which the host has no room.
fn check_zone_count(zones: &[DraftZone], zones_max: u8, faults: &mut Faults<'_>) {
    let room = usize::from(zones_max.saturating_sub(ZONE_ID_FIRST));
    if let Some(zone) = zones.get(room) {
        let message = format!(
            "{} is number {} of the file, and `zones_max` = {zones_max} leaves {room} beside the \
             built-in ones; raise it in [host], up to 64",
            label("zone", &zone.name),
            room + 1
        );
        faults.add(zone.at, message);
    }
    for zone in zones {
        if let Some(id) = zone.id.get()
            && id.value >= zones_max
        {
            let message = format!(
                "{} has the id {}; with `zones_max` = {zones_max} write 4 to {}, or raise it in \
                 [host], up to 64",
                label("zone", &zone.name),
                id.value,
                zones_max.saturating_sub(1)
            );
            faults.add(id.at, message);
        }
    }
}

fn check_tenants(tenants: &[DraftTenant], faults: &mut Faults<'_>) {
    check_names("tenant", tenants.iter().map(|tenant| &tenant.name), faults);
    let mut seen: Seen<u32, (usize, At)> = Seen::new();
    for (index, tenant) in tenants.iter().enumerate() {
        check_charges(tenant, faults);
        let Some(id) = tenant.id.get() else {
            continue;
        };
        if let Some((first, at)) = seen.before(id.value, (index, id.at)) {
            let message = format!(
                "{} has the id {} of {}{}; write one that no tenant ever had",
                label("tenant", &tenant.name),
                id.value,
                label("tenant", &tenants[first].name),
                faults.line_note(at)
            );
            faults.add(id.at, message);
        }
    }
}

/// Each class begins later than the one before it.
fn check_charges(tenant: &DraftTenant, faults: &mut Faults<'_>) {
    for pair in tenant.charge_changes.items.windows(2) {
        let (before, after) = (pair[0].value.from, pair[1].value.from);
        if after <= before {
            let message = format!(
                "{} changes its charge class on {after} after {before}; write each day once, the \
                 earliest first",
                label("tenant", &tenant.name)
            );
            faults.add(pair[1].at, message);
        }
    }
}

/// Both directions; `None` if a value was refused.
fn shares([from, to]: [DraftShare; 2]) -> Option<[share::Share; 2]> {
    Some([from.build()?, to.build()?])
}

/// The configuration of a draft; `None` if a value of it was refused.
fn build(draft: Draft) -> Option<Config> {
    let meter = match draft.meter {
        None => None,
        Some(meter) => Some(Meter {
            ledger: meter.ledger.required()?,
            window_ns: meter.window_ns.or(Meter::WINDOW_NS)?,
            tenant_flows_max: meter.tenant_flows_max.or(Meter::TENANT_FLOWS_MAX)?,
            flow_idle_ns: meter.flow_idle_ns.or(Meter::FLOW_IDLE_NS)?,
            flow_active_ns: meter.flow_active_ns.or(Meter::FLOW_ACTIVE_NS)?,
        }),
    };
    let kept = Retention::default();
    let retention = Retention {
        flows_days: draft.retention.flows.or(kept.flows_days)?,
        records_days: draft.retention.records.or(kept.records_days)?,
        rollups_days: draft.retention.rollups.or(kept.rollups_days)?,
    };
    let host = draft.host;
    let host = Host {
        name: host.name.required()?,
        pin_dir: host.pin_dir.or(PathBuf::from(Host::PIN_DIR))?,
        run_dir: host.run_dir.or(PathBuf::from(Host::RUN_DIR))?,
        trusted_interfaces: host.trusted_interfaces.values()?,
        shape: host.shape.or_default()?,
        packet_price_bytes: host.packet_price_bytes.or_default()?,
        ports_max: host.ports_max.or(Host::PORTS_MAX)?,
        zones_max: host.zones_max.or(Host::ZONES_MAX)?,
        flows_max: host.flows_max.or(Host::FLOWS_MAX)?,
        conversations_max: host.conversations_max.or(Host::CONVERSATIONS_MAX)?,
    };
    let api = match draft.api {
        None => None,
        Some(api) => Some(api.build(&host.run_dir)?),
    };
    let metrics = match draft.metrics {
        None => None,
        Some(metrics) => Some(metrics.build()?),
    };
    let uplink = |uplink: DraftUplink| {
        Some(Uplink {
            interface: uplink.interface.required()?,
            capacity: uplink.capacity.optional()?,
            overhead_bytes: uplink.overhead_bytes.or(Uplink::OVERHEAD_BYTES)?,
            xdp: uplink.xdp.or_default()?,
            clear_overlays: uplink.clear_overlays.or_default()?,
        })
    };
    let zone = |(index, zone): (usize, DraftZone)| {
        let id = zone_id(index, &zone)?;
        Some(Zone {
            name: zone.name.required()?,
            id,
            cidrs: zone.cidrs.values()?,
        })
    };
    let tenant = |tenant: DraftTenant| {
        Some(Tenant {
            name: tenant.name.required()?,
            id: TenantId(tenant.id.required()?),
            flow_detail: tenant.flow_detail.or_default()?,
            charge_class: tenant.charge_class.or_default()?,
            charge_changes: tenant.charge_changes.values()?,
            uplink: tenant.uplink.optional()?,
            shares: shares(tenant.shares)?,
            quota: tenant.quota.build()?,
        })
    };
    let encryption_profiles: Vec<_> = draft
        .encryption_profiles
        .into_iter()
        .map(DraftProfile::build)
        .collect::<Option<_>>()?;
    Some(Config {
        host,
        meter,
        retention,
        billing: Billing {
            timezone: draft.timezone.or_default()?,
        },
        api,
        metrics,
        sinks: draft
            .sinks
            .into_iter()
            .map(DraftSink::build)
            .collect::<Option<_>>()?,
        uplinks: draft
            .uplinks
            .into_iter()
            .map(uplink)
            .collect::<Option<_>>()?,
        zones: draft
            .zones
            .into_iter()
            .enumerate()
            .map(zone)
            .collect::<Option<_>>()?,
        tenants: draft
            .tenants
            .into_iter()
            .map(tenant)
            .collect::<Option<_>>()?,
        ports: draft
            .ports
            .into_iter()
            .map(ports::build)
            .collect::<Option<_>>()?,
        encryption: draft
            .encryption
            .into_iter()
            .map(|rule| rule.build(&encryption_profiles))
            .collect::<Option<_>>()?,
        encryption_profiles,
        provide: draft
            .provide
            .into_iter()
            .map(DraftProvide::build)
            .collect::<Option<_>>()?,
    })
}
