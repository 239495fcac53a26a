//! A configuration whose values are right one by one and not yet together.
//!
//! Each value has its place, so that a fault between two of them can name both. A value that was
//! refused is [`Field::Bad`], which no later check complains about again.

use std::path::PathBuf;

use super::api::DraftApi;
use super::encryption::DraftEncryption;
use super::metrics::DraftMetrics;
use super::own_profile::DraftProfile;
use super::provide::DraftProvide;
use super::quota::DraftQuota;
use super::share::DraftShare;
use super::sink::DraftSink;
use dataplane_common::units::{BitsPerSecond, PacketsPerSecond};
use metering::flow::Detail;

use super::billing::{ChargeChange, ChargeClass, Zone};
use super::errors::{At, Located};
use super::model::{ClearOverlays, Config, Limits, Port, Shape};
use super::units::Burst;
use super::values::{Cidr, InterfaceName, Mac, Name, Vlan};

/// One key of a table.
#[derive(Clone, Debug)]
pub(super) enum Field<T> {
    /// Not written.
    Missing,
    /// Written wrong, or missing where it is needed, and reported.
    Bad,
    /// Read.
    Is(Located<T>),
}

impl<T> Field<T> {
    /// A value that was not read from a text.
    pub fn of(value: T) -> Self {
        Field::Is(Located {
            value,
            at: At::NOWHERE,
        })
    }

    /// As [`Field::of`], of a key that may be missing.
    pub fn of_optional(value: Option<T>) -> Self {
        value.map_or(Field::Missing, Field::of)
    }

    /// The value, if there is one.
    pub fn get(&self) -> Option<&Located<T>> {
        match self {
            Field::Is(located) => Some(located),
            Field::Missing | Field::Bad => None,
        }
    }

    /// The value without its place.
    pub fn value(&self) -> Option<&T> {
        self.get().map(|located| &located.value)
    }

    /// The value if written, `Some(None)` if not, `None` if bad.
    pub fn optional(self) -> Option<Option<T>> {
        match self {
            Field::Is(located) => Some(Some(located.value)),
            Field::Missing => Some(None),
            Field::Bad => None,
        }
    }

    /// The value, or `default` if it was not written; `None` if bad.
    pub fn or(self, default: T) -> Option<T> {
        self.optional().map(|value| value.unwrap_or(default))
    }

    /// The value, or the default of its type if it was not written; `None` if bad.
    pub fn or_default(self) -> Option<T>
    where
        T: Default,
    {
        self.optional().map(Option::unwrap_or_default)
    }

    /// The value of a key that has to be there; `None` if bad.
    pub fn required(self) -> Option<T> {
        self.optional().flatten()
    }
}

/// A key that holds several values.
#[derive(Clone, Debug)]
pub(super) struct List<T> {
    /// The list, or the table that has none.
    pub at: At,
    /// The elements that were read.
    pub items: Vec<Located<T>>,
    /// Whether something of it was refused.
    pub bad: bool,
}

impl<T: Clone> List<T> {
    /// Values that were not read from a text.
    pub fn of(values: &[T]) -> Self {
        let located = |value: &T| Located {
            value: value.clone(),
            at: At::NOWHERE,
        };
        Self {
            at: At::NOWHERE,
            items: values.iter().map(located).collect(),
            bad: false,
        }
    }

    /// The values alone; `None` if something was refused.
    pub fn values(self) -> Option<Vec<T>> {
        (!self.bad).then(|| self.items.into_iter().map(|item| item.value).collect())
    }
}

/// The whole file.
pub(super) struct Draft {
    pub host: DraftHost,
    pub meter: Option<DraftMeter>,
    pub retention: DraftRetention,
    pub timezone: Field<Zone>,
    pub api: Option<DraftApi>,
    pub metrics: Option<DraftMetrics>,
    pub sinks: Vec<DraftSink>,
    pub encryption: Vec<DraftEncryption>,
    pub encryption_profiles: Vec<DraftProfile>,
    pub provide: Vec<DraftProvide>,
    pub uplinks: Vec<DraftUplink>,
    pub zones: Vec<DraftZone>,
    pub tenants: Vec<DraftTenant>,
    pub ports: Vec<DraftPort>,
    /// Whether nothing among the tenants was refused as a whole; ports refer to them.
    pub tenants_complete: bool,
}

/// `[host]`.
pub(super) struct DraftHost {
    pub name: Field<Name>,
    pub pin_dir: Field<PathBuf>,
    pub run_dir: Field<PathBuf>,
    pub trusted_interfaces: List<InterfaceName>,
    pub shape: Field<Shape>,
    pub packet_price_bytes: Field<u16>,
    pub ports_max: Field<u16>,
    pub zones_max: Field<u8>,
    pub flows_max: Field<u32>,
    pub conversations_max: Field<u32>,
}

/// `[meter]`.
pub(super) struct DraftMeter {
    pub ledger: Field<PathBuf>,
    pub window_ns: Field<u64>,
    pub tenant_flows_max: Field<u32>,
    pub flow_idle_ns: Field<u64>,
    pub flow_active_ns: Field<u64>,
}

/// `[retention]`, in days.
pub(super) struct DraftRetention {
    pub flows: Field<u32>,
    pub records: Field<u32>,
    pub rollups: Field<u32>,
}

/// One `[[uplink]]`.
pub(super) struct DraftUplink {
    pub interface: Field<InterfaceName>,
    pub capacity: Field<BitsPerSecond>,
    pub overhead_bytes: Field<u16>,
    pub xdp: Field<bool>,
    pub clear_overlays: Field<ClearOverlays>,
}

/// One `[[zone]]`.
pub(super) struct DraftZone {
    pub at: At,
    pub name: Field<Name>,
    pub id: Field<u8>,
    pub cidrs: List<Cidr>,
}

/// One `[[tenant]]`.
pub(super) struct DraftTenant {
    pub at: At,
    pub name: Field<Name>,
    pub id: Field<u32>,
    pub flow_detail: Field<Detail>,
    pub charge_class: Field<ChargeClass>,
    pub charge_changes: List<ChargeChange>,
    pub uplink: Field<InterfaceName>,
    pub shares: [DraftShare; 2],
    pub quota: DraftQuota,
}

/// One `[[port]]`.
pub(super) struct DraftPort {
    pub at: At,
    pub name: Field<Name>,
    pub tenant: Field<Name>,
    pub interface: Field<InterfaceName>,
    pub vlan: Field<Vlan>,
    pub macs: List<Mac>,
    pub addresses: List<Cidr>,
    pub from_tenant: DraftLimits,
    pub to_tenant: DraftLimits,
}

/// `from_tenant` or `to_tenant`.
pub(super) struct DraftLimits {
    pub ceiling: Field<BitsPerSecond>,
    pub burst: Field<Burst>,
    pub packet_rate: Field<PacketsPerSecond>,
    /// Whether it was refused as a whole.
    pub bad: bool,
}

impl DraftLimits {
    /// No limit.
    pub fn none(bad: bool) -> Self {
        Self {
            ceiling: Field::Missing,
            burst: Field::Missing,
            packet_rate: Field::Missing,
            bad,
        }
    }
}

impl From<&Config> for Draft {
    fn from(config: &Config) -> Self {
        let host = &config.host;
        let meter = config.meter.as_ref().map(|meter| DraftMeter {
            ledger: Field::of(meter.ledger.clone()),
            window_ns: Field::of(meter.window_ns),
            tenant_flows_max: Field::of(meter.tenant_flows_max),
            flow_idle_ns: Field::of(meter.flow_idle_ns),
            flow_active_ns: Field::of(meter.flow_active_ns),
        });
        let uplinks = config.uplinks.iter().map(|uplink| DraftUplink {
            interface: Field::of(uplink.interface.clone()),
            capacity: Field::of_optional(uplink.capacity),
            overhead_bytes: Field::of(uplink.overhead_bytes),
            xdp: Field::of(uplink.xdp),
            clear_overlays: Field::of(uplink.clear_overlays),
        });
        let zones = config.zones.iter().map(|zone| DraftZone {
            at: At::NOWHERE,
            name: Field::of(zone.name.clone()),
            id: Field::of(zone.id),
            cidrs: List::of(&zone.cidrs),
        });
        let tenants = config.tenants.iter().map(|tenant| DraftTenant {
            at: At::NOWHERE,
            name: Field::of(tenant.name.clone()),
            id: Field::of(tenant.id.0),
            flow_detail: Field::of(tenant.flow_detail),
            charge_class: Field::of(tenant.charge_class),
            charge_changes: List::of(&tenant.charge_changes),
            uplink: Field::of_optional(tenant.uplink.clone()),
            shares: tenant.shares.each_ref().map(DraftShare::from),
            quota: DraftQuota::from(&tenant.quota),
        });
        Self {
            meter,
            retention: DraftRetention {
                flows: Field::of(config.retention.flows_days),
                records: Field::of(config.retention.records_days),
                rollups: Field::of(config.retention.rollups_days),
            },
            timezone: Field::of(config.billing.timezone.clone()),
            api: config.api.as_ref().map(DraftApi::of),
            metrics: config.metrics.as_ref().map(DraftMetrics::of),
            host: DraftHost {
                name: Field::of(host.name.clone()),
                pin_dir: Field::of(host.pin_dir.clone()),
                run_dir: Field::of(host.run_dir.clone()),
                trusted_interfaces: List::of(&host.trusted_interfaces),
                shape: Field::of(host.shape),
                packet_price_bytes: Field::of(host.packet_price_bytes),
                ports_max: Field::of(host.ports_max),
                zones_max: Field::of(host.zones_max),
                flows_max: Field::of(host.flows_max),
                conversations_max: Field::of(host.conversations_max),
            },
            sinks: config.sinks.iter().map(DraftSink::of).collect(),
            encryption: config.encryption.iter().map(DraftEncryption::of).collect(),
            encryption_profiles: config
                .encryption_profiles
                .iter()
                .map(DraftProfile::of)
                .collect(),
            provide: config.provide.iter().map(DraftProvide::of).collect(),
            uplinks: uplinks.collect(),
            zones: zones.collect(),
            tenants: tenants.collect(),
            ports: config.ports.iter().map(DraftPort::from).collect(),
            tenants_complete: true,
        }
    }
}

impl From<&Port> for DraftPort {
    fn from(port: &Port) -> Self {
        Self {
            at: At::NOWHERE,
            name: Field::of(port.name.clone()),
            tenant: Field::of(port.tenant.clone()),
            interface: Field::of(port.interface.clone()),
            vlan: Field::of_optional(port.vlan),
            macs: List::of(&port.macs),
            addresses: List::of(&port.addresses),
            from_tenant: DraftLimits::from(&port.from_tenant),
            to_tenant: DraftLimits::from(&port.to_tenant),
        }
    }
}

impl From<&Limits> for DraftLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            ceiling: Field::of_optional(limits.ceiling),
            burst: Field::of_optional(limits.burst.map(Burst::Size)),
            packet_rate: Field::of_optional(limits.packet_rate),
            bad: false,
        }
    }
}
