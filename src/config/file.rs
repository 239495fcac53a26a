//! From TOML to a draft: which keys there are, and what each alone may be.

use std::str::FromStr;

use dataplane_common::limit::PRICE_MAX;
use metering::flow::Detail;
use toml::de::DeTable;

use super::api::{self, API};
use super::billing::{ChargeChange, ChargeClass, Zone};
use super::draft::{
    Draft, DraftHost, DraftLimits, DraftMeter, DraftPort, DraftRetention, DraftTenant, DraftUplink,
    DraftZone, Field,
};
use super::encryption::{self, ENCRYPTION};
use super::errors::{At, Faults};
use super::metrics::{self, METRICS};
use super::model::{ClearOverlays, Meter, Shape, ZONE_ID_FIRST};
use super::own_profile::{self, ENCRYPTION_PROFILE};
use super::paths::{directory, file};
use super::provide::{self, PROVIDE};
use super::quota;
use super::reader::{Key, Reader};
use super::share;
use super::sink::{self, SINK};
use super::units::{parse_burst, parse_days, parse_packet_rate, parse_rate, parse_time};
use super::values::{Cidr, InterfaceName, Mac, Name, ValueError, shown};

/// The smallest configuration, for the message about an empty file.
const SMALLEST: &str = "write at least [host] and on the next line name = \"host-1\"";

/// A key with a value for messages.
pub(super) const fn key(name: &'static str, example: &'static str) -> Key {
    Key {
        name,
        example,
        is_header: false,
    }
}

/// A key that is written as a header.
pub(super) const fn header(name: &'static str, example: &'static str) -> Key {
    Key {
        name,
        example,
        is_header: true,
    }
}

const HOST: Key = header("host", "[host]");
const UPLINK: Key = header("uplink", "[[uplink]]");
const ZONE: Key = header("zone", "[[zone]]");
const TENANT: Key = header("tenant", "[[tenant]]");
const PORT: Key = header("port", "[[port]]");
const METER: Key = header("meter", "[meter]");
const RETENTION: Key = header("retention", "[retention]");
const BILLING: Key = header("billing", "[billing]");
const SECTIONS: [Key; 14] = [
    HOST,
    METER,
    RETENTION,
    BILLING,
    API,
    METRICS,
    SINK,
    UPLINK,
    ZONE,
    TENANT,
    PORT,
    ENCRYPTION,
    ENCRYPTION_PROFILE,
    PROVIDE,
];

const HOST_NAME: Key = key("name", "\"host-1\"");
const PIN_DIR: Key = key("pin_dir", "\"/sys/fs/bpf/octroi\"");
const RUN_DIR: Key = key("run_dir", "\"/run/octroi\"");
const TRUSTED: Key = key("trusted_interfaces", "[\"br-mgmt\"]");
const SHAPE: Key = key("shape", "\"auto\"");
const PACKET_PRICE: Key = key("packet_price_bytes", "1500");
const PORTS_MAX: Key = key("ports_max", "1024");
const ZONES_MAX: Key = key("zones_max", "16");
const FLOWS_MAX: Key = key("flows_max", "262144");
const CONVERSATIONS_MAX: Key = key("conversations_max", "65536");
const HOST_KEYS: [Key; 10] = [
    HOST_NAME,
    PIN_DIR,
    RUN_DIR,
    TRUSTED,
    SHAPE,
    PACKET_PRICE,
    PORTS_MAX,
    ZONES_MAX,
    FLOWS_MAX,
    CONVERSATIONS_MAX,
];

const LEDGER: Key = key("ledger", "\"/var/lib/octroi/ledger.db\"");
const WINDOW: Key = key("window", "\"60s\"");
const TENANT_FLOWS_MAX: Key = key("tenant_flows_max", "65536");
const FLOW_IDLE: Key = key("flow_idle", "\"60s\"");
const FLOW_ACTIVE: Key = key("flow_active", "\"1800s\"");
const METER_KEYS: [Key; 5] = [LEDGER, WINDOW, TENANT_FLOWS_MAX, FLOW_IDLE, FLOW_ACTIVE];

const FLOWS: Key = key("flows", "\"7d\"");
const RECORDS: Key = key("records", "\"13mo\"");
const ROLLUPS: Key = key("rollups", "\"10y\"");
const RETENTION_KEYS: [Key; 3] = [FLOWS, RECORDS, ROLLUPS];

const TIMEZONE: Key = key("timezone", "\"Europe/Paris\"");

const UPLINK_INTERFACE: Key = key("interface", "\"eth0\"");
const CAPACITY: Key = key("capacity", "\"10Gbit/s\"");
const OVERHEAD: Key = key("overhead_bytes", "24");
const XDP: Key = key("xdp", "false");
const CLEAR_OVERLAYS: Key = key("clear_overlays", "\"drop\"");
const UPLINK_KEYS: [Key; 5] = [UPLINK_INTERFACE, CAPACITY, OVERHEAD, XDP, CLEAR_OVERLAYS];

const ZONE_NAME: Key = key("name", "\"internet-fr\"");
const ZONE_ID: Key = key("id", "4");
const CIDRS: Key = key("cidrs", "[\"192.0.2.0/24\", \"2001:db8::/32\"]");
const ZONE_KEYS: [Key; 3] = [ZONE_NAME, ZONE_ID, CIDRS];

const TENANT_NAME: Key = key("name", "\"acme\"");
const TENANT_ID: Key = key("id", "17");
const FLOW_DETAIL: Key = key("flow_detail", "\"prefix\"");
const CHARGE_CLASS: Key = key("charge_class", "\"standard\"");
const CHARGE_CHANGES: Key = key("charge_changes", "[\"2027-01-12 switching\"]");
const TENANT_KEYS: [Key; 9] = [
    TENANT_NAME,
    TENANT_ID,
    FLOW_DETAIL,
    CHARGE_CLASS,
    CHARGE_CHANGES,
    share::UPLINK,
    share::FROM_TENANT,
    share::TO_TENANT,
    quota::QUOTA,
];

const PORT_NAME: Key = key("name", "\"acme-vm1\"");
const PORT_TENANT: Key = key("tenant", "\"acme\"");
const PORT_INTERFACE: Key = key("interface", "\"tap0\"");
const VLAN: Key = key("vlan", "100");
const MACS: Key = key("macs", "[\"52:54:00:00:00:01\"]");
const ADDRESSES: Key = key("addresses", "[\"10.0.0.5\", \"2001:db8::5\"]");
const FROM_TENANT: Key = key("from_tenant", "{ ceiling = \"200Mbit/s\" }");
const TO_TENANT: Key = key("to_tenant", "{ ceiling = \"200Mbit/s\" }");
const PORT_KEYS: [Key; 8] = [
    PORT_NAME,
    PORT_TENANT,
    PORT_INTERFACE,
    VLAN,
    MACS,
    ADDRESSES,
    FROM_TENANT,
    TO_TENANT,
];

const CEILING: Key = key("ceiling", "\"200Mbit/s\"");
const BURST: Key = key("burst", "\"250ms\"");
const PACKET_RATE: Key = key("packet_rate", "\"10kpps\"");
const LIMIT_KEYS: [Key; 3] = [CEILING, BURST, PACKET_RATE];

/// Reads a whole file. `None` if it is no TOML or says nothing, which is reported.
pub(super) fn read_config(text: &str, faults: &mut Faults<'_>) -> Option<Draft> {
    let table = read_toml(text, faults)?;
    let top = (&table, At(Some(0)));
    if table.is_empty() {
        faults.add(top.1, format!("the file says nothing; {SMALLEST}"));
        return None;
    }
    let mut root = Reader::open(top, ("file", "the file"), &SECTIONS, faults);
    let (sinks, _) = root.sections(SINK);
    let (uplinks, _) = root.sections(UPLINK);
    let (zones, _) = root.sections(ZONE);
    let (tenants, tenants_complete) = root.sections(TENANT);
    let (ports, _) = root.sections(PORT);
    let (rules, _) = root.sections(ENCRYPTION);
    let (profiles, _) = root.sections(ENCRYPTION_PROFILE);
    let (tunnels, _) = root.sections(PROVIDE);
    let host = read_host(&mut root);
    let meter = read_meter(&mut root);
    let retention = read_retention(&mut root);
    let timezone = read_billing(&mut root);
    let api = api::read(&mut root);
    let metrics = metrics::read(&mut root);
    Some(Draft {
        host,
        meter,
        retention,
        timezone,
        api,
        metrics,
        sinks: sinks
            .into_iter()
            .map(|table| sink::read(table, faults))
            .collect(),
        encryption: rules
            .into_iter()
            .map(|table| encryption::read(table, faults))
            .collect(),
        encryption_profiles: profiles
            .into_iter()
            .map(|table| own_profile::read(table, faults))
            .collect(),
        provide: tunnels
            .into_iter()
            .map(|table| provide::read(table, faults))
            .collect(),
        uplinks: uplinks
            .into_iter()
            .map(|table| read_uplink(table, faults))
            .collect(),
        zones: zones
            .into_iter()
            .map(|table| read_zone(table, faults))
            .collect(),
        tenants: tenants
            .into_iter()
            .map(|table| read_tenant(table, faults))
            .collect(),
        ports: ports
            .into_iter()
            .map(|table| read_one_port(table, faults))
            .collect(),
        tenants_complete,
    })
}

/// Reads a port that is alone in its text: its keys, or one `[[port]]` with them.
pub(super) fn read_port(text: &str, faults: &mut Faults<'_>) -> Option<DraftPort> {
    let table = read_toml(text, faults)?;
    let mut body = (&table, At(Some(0)));
    if table.len() == 1 && table.contains_key(PORT.name) {
        let mut root = Reader::open(body, ("text", "the text"), &[PORT], faults);
        let (ports, all) = root.sections(PORT);
        match (ports.as_slice(), all) {
            ([port], true) => body = *port,
            ([_, second, ..], _) => {
                faults.add(second.1, "this is a second port; write one".to_string());
                return None;
            }
            _ => {
                if all {
                    faults.add(body.1, "there is no port; write its keys".to_string());
                }
                return None;
            }
        }
    }
    Some(read_one_port(body, faults))
}

/// The text as a TOML table; reports the first place where it is not TOML.
fn read_toml<'t>(text: &'t str, faults: &mut Faults<'_>) -> Option<DeTable<'t>> {
    match DeTable::parse(text) {
        Ok(table) => Some(table.into_inner()),
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            let written = text.get(span.clone()).unwrap_or("");
            faults.add(At(Some(span.start)), not_toml(error.message(), written));
            None
        }
    }
}

/// What the TOML parser says, in our words where people are most likely to meet it.
fn not_toml(message: &str, written: &str) -> String {
    if message == "duplicate key" && !written.is_empty() {
        return format!(
            "{} is written twice in the same table; keep one",
            shown(written)
        );
    }
    if message.starts_with("string values must be quoted") {
        return match written.trim() {
            "" => "there is no value; write one after the `=`".to_string(),
            bare => {
                let quoted = format!("\"{bare}\"");
                format!("{} needs quotes; write {}", shown(bare), shown(&quoted))
            }
        };
    }
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match written.trim() {
        "" => format!("this is not TOML: {message}"),
        written => format!("{} is not TOML here: {message}", shown(written)),
    }
}

fn read_host(root: &mut Reader<'_, '_, '_>) -> DraftHost {
    let empty = DeTable::new();
    let (table, missing) = match root.table(HOST) {
        Ok(Some(table)) => (table, false),
        Ok(None) => {
            let message = format!("there is no [host]; {SMALLEST}");
            if !root.is_misspelt(HOST) {
                root.faults().add(At(Some(0)), message);
            }
            ((&empty, At::NOWHERE), true)
        }
        Err(()) => ((&empty, At::NOWHERE), true),
    };
    let mut host = Reader::open(table, ("host", "[host]"), &HOST_KEYS, root.faults());
    let mut name = host.text(HOST_NAME, Name::from_str);
    name = if missing {
        Field::Bad
    } else {
        host.required(HOST_NAME, name)
    };
    DraftHost {
        name,
        pin_dir: host.text(PIN_DIR, directory),
        run_dir: host.text(RUN_DIR, directory),
        trusted_interfaces: host.texts(TRUSTED, InterfaceName::from_str),
        shape: host.text(SHAPE, shape),
        packet_price_bytes: host.integer(PACKET_PRICE, 0..=u64::from(PRICE_MAX)),
        ports_max: host.integer(PORTS_MAX, 1..=65_535),
        zones_max: host.integer(ZONES_MAX, 8..=64),
        flows_max: host.integer(FLOWS_MAX, 16..=4_194_304),
        conversations_max: host.integer(CONVERSATIONS_MAX, 4..=4_194_304),
    }
}

/// `[meter]`; `None` when there is none.
fn read_meter(root: &mut Reader<'_, '_, '_>) -> Option<DraftMeter> {
    let bad = DraftMeter {
        ledger: Field::Bad,
        window_ns: Field::Bad,
        tenant_flows_max: Field::Bad,
        flow_idle_ns: Field::Bad,
        flow_active_ns: Field::Bad,
    };
    let table = match root.table(METER) {
        Ok(None) => return None,
        Ok(Some(table)) => table,
        Err(()) => return Some(bad),
    };
    let mut meter = Reader::open(table, ("meter", "[meter]"), &METER_KEYS, root.faults());
    let ledger = meter.text(LEDGER, file);
    Some(DraftMeter {
        ledger: meter.required(LEDGER, ledger),
        window_ns: meter.text(WINDOW, window_ns),
        tenant_flows_max: meter.integer(TENANT_FLOWS_MAX, 0..=4_194_304),
        flow_idle_ns: meter.text(FLOW_IDLE, flow_time_ns),
        flow_active_ns: meter.text(FLOW_ACTIVE, flow_time_ns),
    })
}

fn read_retention(root: &mut Reader<'_, '_, '_>) -> DraftRetention {
    let table = match root.table(RETENTION) {
        Ok(Some(table)) => table,
        absent => {
            let field = || absent.as_ref().map_or(Field::Bad, |_| Field::Missing);
            return DraftRetention {
                flows: field(),
                records: field(),
                rollups: field(),
            };
        }
    };
    let header = ("retention", "[retention]");
    let mut retention = Reader::open(table, header, &RETENTION_KEYS, root.faults());
    DraftRetention {
        flows: retention.text(FLOWS, parse_days),
        records: retention.text(RECORDS, parse_days),
        rollups: retention.text(ROLLUPS, parse_days),
    }
}

/// `[billing]`: its time zone.
fn read_billing(root: &mut Reader<'_, '_, '_>) -> Field<Zone> {
    let table = match root.table(BILLING) {
        Ok(None) => return Field::Missing,
        Ok(Some(table)) => table,
        Err(()) => return Field::Bad,
    };
    let mut billing = Reader::open(table, ("billing", "[billing]"), &[TIMEZONE], root.faults());
    billing.text(TIMEZONE, Zone::from_str)
}

fn window_ns(text: &str) -> Result<u64, ValueError> {
    let window_ns = parse_time(text)?;
    if window_ns < Meter::WINDOW_NS_MIN || !Meter::SLOT_NS.is_multiple_of(window_ns) {
        return Err(ValueError(format!(
            "{} is no window; write a part of 300s that goes into it without a rest, such as 60s, and \
             at least 50ms",
            shown(text)
        )));
    }
    Ok(window_ns)
}

/// How long a flow may be quiet, or last.
fn flow_time_ns(text: &str) -> Result<u64, ValueError> {
    let time_ns = parse_time(text)?;
    if !Meter::FLOW_NS.contains(&time_ns) {
        return Err(ValueError(format!(
            "{} is out of range; write 1s to 86400s",
            shown(text)
        )));
    }
    Ok(time_ns)
}

fn shape(text: &str) -> Result<Shape, ValueError> {
    let mut shapes = Shape::ALL.into_iter();
    shapes.find(|shape| shape.as_str() == text).ok_or_else(|| {
        ValueError(format!(
            "there is no shape {}; write auto, edt, htb or police",
            shown(text)
        ))
    })
}

fn flow_detail(text: &str) -> Result<Detail, ValueError> {
    let mut details = Detail::ALL.into_iter();
    let detail = details.find(|detail| detail.as_str() == text);
    detail.ok_or_else(|| {
        ValueError(format!(
            "there is no detail {}; write off, prefix or full",
            shown(text)
        ))
    })
}

fn read_uplink(table: (&DeTable<'_>, At), faults: &mut Faults<'_>) -> DraftUplink {
    let mut uplink = Reader::open(table, ("uplink", "[[uplink]]"), &UPLINK_KEYS, faults);
    let interface = uplink.text(UPLINK_INTERFACE, InterfaceName::from_str);
    DraftUplink {
        interface: uplink.required(UPLINK_INTERFACE, interface),
        capacity: uplink.text(CAPACITY, parse_rate),
        overhead_bytes: uplink.integer(OVERHEAD, 0..=256),
        xdp: uplink.boolean(XDP),
        clear_overlays: uplink.text(CLEAR_OVERLAYS, ClearOverlays::from_str),
    }
}

fn read_zone(table: (&DeTable<'_>, At), faults: &mut Faults<'_>) -> DraftZone {
    let mut zone = Reader::open(table, ("zone", "[[zone]]"), &ZONE_KEYS, faults);
    let name = zone.text(ZONE_NAME, Name::from_str);
    DraftZone {
        at: table.1,
        name: zone.required(ZONE_NAME, name),
        id: zone.integer(ZONE_ID, u64::from(ZONE_ID_FIRST)..=63),
        cidrs: zone.texts(CIDRS, Cidr::from_str),
    }
}

fn read_tenant(table: (&DeTable<'_>, At), faults: &mut Faults<'_>) -> DraftTenant {
    let mut tenant = Reader::open(table, ("tenant", "[[tenant]]"), &TENANT_KEYS, faults);
    let name = tenant.text(TENANT_NAME, Name::from_str);
    let id = tenant.integer(TENANT_ID, 1..=u64::from(u32::MAX));
    DraftTenant {
        at: table.1,
        name: tenant.required(TENANT_NAME, name),
        id: tenant.required(TENANT_ID, id),
        flow_detail: tenant.text(FLOW_DETAIL, flow_detail),
        charge_class: tenant.text(CHARGE_CLASS, ChargeClass::from_str),
        charge_changes: tenant.texts(CHARGE_CHANGES, ChargeChange::from_str),
        uplink: share::read_uplink(&mut tenant),
        shares: [share::FROM_TENANT, share::TO_TENANT].map(|key| share::read(&mut tenant, key)),
        quota: quota::read(&mut tenant),
    }
}

fn read_one_port(table: (&DeTable<'_>, At), faults: &mut Faults<'_>) -> DraftPort {
    let mut port = Reader::open(table, ("port", "[[port]]"), &PORT_KEYS, faults);
    let name = port.text(PORT_NAME, Name::from_str);
    let tenant = port.text(PORT_TENANT, Name::from_str);
    let interface = port.text(PORT_INTERFACE, InterfaceName::from_str);
    DraftPort {
        at: table.1,
        name: port.required(PORT_NAME, name),
        tenant: port.required(PORT_TENANT, tenant),
        interface: port.required(PORT_INTERFACE, interface),
        vlan: port.integer(VLAN, 1..=4_094),
        macs: port.texts(MACS, Mac::from_str),
        addresses: port.texts(ADDRESSES, Cidr::from_str),
        from_tenant: read_limits(&mut port, FROM_TENANT),
        to_tenant: read_limits(&mut port, TO_TENANT),
    }
}

fn read_limits(port: &mut Reader<'_, '_, '_>, key: Key) -> DraftLimits {
    let table = match port.table(key) {
        Ok(Some(table)) => table,
        Ok(None) => return DraftLimits::none(false),
        Err(()) => return DraftLimits::none(true),
    };
    let header = format!("`{}`", key.name);
    let mut limits = Reader::open(table, ("", &header), &LIMIT_KEYS, port.faults());
    DraftLimits {
        ceiling: limits.text(CEILING, parse_rate),
        burst: limits.text(BURST, parse_burst),
        packet_rate: limits.text(PACKET_RATE, parse_packet_rate),
        bad: false,
    }
}
