//! From the configuration's words to the dataplane's.

mod encryption;

use crate::config::{ClearOverlays, Config, Limits, Port, Provide, Shape, Share, Shared, Tenant};
use dataplane::{
    object::Plan,
    policy::{self, Burst, Limit, Policy, Prefix},
    provide::{Peer, Tunnel},
    quota::{Grant, Quota},
    share::{Part, SharedUplink, TenantShare},
};
use metering::flow::Detail;
use std::collections::HashMap;

fn prefix(cidr: &crate::config::Cidr) -> Prefix {
    Prefix {
        address: cidr.addr(),
        len: cidr.prefix_len(),
    }
}

fn limit(limits: &Limits) -> Limit {
    Limit {
        ceiling: limits.ceiling,
        burst: limits.burst.map(|burst| Burst::Bytes(burst.0)),
        packet_rate: limits.packet_rate,
    }
}

fn port(config: &Config, tenants: &HashMap<&str, &Tenant>, port: &Port) -> policy::Port {
    let tenant = tenants.get(port.tenant.as_str());
    // Nobody reads the flows of a gate that keeps no records, or of a tenant who wants none kept.
    let flows = config
        .meter
        .as_ref()
        .filter(|_| tenant.is_none_or(|tenant| tenant.flow_detail != Detail::Off));
    policy::Port {
        name: port.name.as_str().to_owned(),
        tenant: tenant.map_or(0, |tenant| tenant.id.0),
        interface: port.interface.as_str().to_owned(),
        vlan: port.vlan.map(|vlan| vlan.get()),
        macs: port.macs.iter().map(|mac| mac.octets()).collect(),
        addresses: port.addresses.iter().map(prefix).collect(),
        limits: [limit(&port.from_tenant), limit(&port.to_tenant)],
        flows: flows.map(|meter| meter.tenant_flows_max),
    }
}

fn part(share: &Share) -> Part {
    Part {
        guarantee: share.guarantee,
        weight: share.weight.unwrap_or(1),
        limit: limit(&Limits {
            ceiling: share.ceiling,
            burst: share.burst,
            packet_rate: None,
        }),
    }
}

fn shared(shared: &Shared<'_>) -> SharedUplink {
    let tenants = shared.tenants.iter().map(|tenant| TenantShare {
        tenant: tenant.id.0,
        parts: tenant.shares.each_ref().map(part),
    });
    SharedUplink {
        number: shared.at as u32,
        interface: shared.uplink.interface.as_str().to_owned(),
        capacity: shared.uplink.capacity,
        overhead: shared.uplink.overhead_bytes,
        tenants: tenants.collect(),
    }
}

fn quota(config: &Config, tenant: &Tenant) -> Option<Quota> {
    let quota = tenant.quota.as_ref()?;
    Some(Quota {
        tenant: tenant.id.0,
        budget: quota.bytes.0,
        directions: quota.direction.counts(),
        zones: quota.zone_bits(config),
        then: quota.then.rate(),
        // All of it, until somebody says how much was had.
        grant: Grant {
            tenant: tenant.id.0,
            left: quota.bytes.0,
            ..Grant::default()
        },
    })
}

fn tunnel(provide: &Provide) -> Tunnel {
    Tunnel {
        name: provide.name.as_str().to_owned(),
        device: provide.device.as_str().to_owned(),
        listen_port: provide.listen_port,
        address: provide.address,
        rotate: provide.rotate,
        peers: provide
            .peers
            .iter()
            .map(|peer| Peer {
                name: peer.name.as_str().to_owned(),
                endpoint: peer.endpoint,
                addresses: peer.addresses.iter().map(prefix).collect(),
                keys: peer.keys,
            })
            .collect(),
    }
}

/// The policy that a configuration asks for.
pub fn policy(config: &Config) -> Policy {
    let tenants = config.tenants.iter();
    let tenants = tenants.map(|tenant| (tenant.name.as_str(), tenant));
    let tenants: HashMap<&str, &Tenant> = tenants.collect();
    let ports = config.ports.iter();
    Policy {
        ports: ports.map(|one| port(config, &tenants, one)).collect(),
        zones: config
            .zones
            .iter()
            .flat_map(|zone| {
                zone.cidrs
                    .iter()
                    .map(|cidr| (prefix(cidr), u32::from(zone.id)))
            })
            .collect(),
        uplinks: config
            .uplinks
            .iter()
            .map(|uplink| policy::Uplink {
                interface: uplink.interface.as_str().to_owned(),
                xdp: uplink.xdp,
                clear_overlays: match uplink.clear_overlays {
                    ClearOverlays::Allow => policy::ClearOverlays::Allow,
                    ClearOverlays::Count => policy::ClearOverlays::Count,
                    ClearOverlays::Drop => policy::ClearOverlays::Drop,
                },
            })
            .collect(),
        trusted: config
            .host
            .trusted_interfaces
            .iter()
            .map(|name| name.as_str().to_owned())
            .collect(),
        encryption: encryption::policies(config),
        quotas: config
            .tenants
            .iter()
            .filter_map(|tenant| quota(config, tenant))
            .collect(),
        provide: config.provide.iter().map(tunnel).collect(),
        shared: crate::config::shared(config).iter().map(shared).collect(),
        shape: match config.host.shape {
            Shape::Auto => None,
            Shape::Edt => Some(policy::Shape::Edt),
            Shape::Htb => Some(policy::Shape::Htb),
            Shape::Police => Some(policy::Shape::Police),
        },
        packet_price: config.host.packet_price_bytes.into(),
    }
}

/// The table sizes that a configuration asks for.
pub fn plan(config: &Config) -> Plan {
    Plan::new(
        u32::from(config.host.ports_max),
        u32::from(config.host.zones_max),
    )
    .with_flows(config.host.flows_max)
    .with_conversations(config.host.conversations_max)
}
