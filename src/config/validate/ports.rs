//! Ports: each in itself, and beside the others.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::limits;
use super::{Seen, check_names, label};
use crate::config::draft::{Draft, DraftPort};
use crate::config::errors::{At, Faults, Located};
use crate::config::model::{Host, Port};
use crate::config::reader::nearest;
use crate::config::values::{Cidr, InterfaceName, Mac, Name, Vlan};

const MACS_MAX: usize = 64;
const ADDRESSES_MAX: usize = 256;

/// Addresses that no interface has: first address, prefix length, what they are.
const NO_INTERFACE: [(IpAddr, u8, &str); 7] = [
    (
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        32,
        "the unspecified address",
    ),
    (
        IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)),
        8,
        "a loopback address",
    ),
    (
        IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)),
        4,
        "a multicast address",
    ),
    (IpAddr::V4(Ipv4Addr::BROADCAST), 32, "the broadcast address"),
    (
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        128,
        "the unspecified address",
    ),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), 128, "a loopback address"),
    (
        IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)),
        8,
        "a multicast address",
    ),
];

/// Reports what is wrong with a port by itself.
pub(super) fn check_alone(port: &DraftPort, faults: &mut Faults<'_>) {
    let label = label("port", &port.name);
    check_macs(&label, port, faults);
    check_addresses(&label, port, faults);
    limits::check(&format!("{label} from_tenant"), &port.from_tenant, faults);
    limits::check(&format!("{label} to_tenant"), &port.to_tenant, faults);
}

fn check_macs(label: &str, port: &DraftPort, faults: &mut Faults<'_>) {
    let macs = &port.macs;
    if macs.items.is_empty() && !macs.bad {
        faults.add(
            macs.at,
            format!("{label} has no `macs`; write macs = [\"52:54:00:00:00:01\"]"),
        );
    }
    if macs.items.len() > MACS_MAX {
        let count = macs.items.len();
        faults.add(
            macs.at,
            format!("{label} has {count} `macs`; write at most {MACS_MAX}"),
        );
    }
    let mut seen = Seen::new();
    for mac in &macs.items {
        if seen.before(mac.value, ()).is_some() {
            faults.add(mac.at, format!("{label} has {} twice; keep one", mac.value));
        }
    }
}

fn check_addresses(label: &str, port: &DraftPort, faults: &mut Faults<'_>) {
    let addresses = &port.addresses;
    let count = addresses.items.len();
    if count == 0 && !addresses.bad {
        let message = format!("{label} has no `addresses`; write addresses = [\"10.0.0.5\"]");
        faults.add(addresses.at, message);
    }
    if count > ADDRESSES_MAX {
        let message = format!("{label} has {count} `addresses`; write at most {ADDRESSES_MAX}");
        faults.add(addresses.at, message);
    }
    let mut seen = Seen::new();
    for cidr in &addresses.items {
        if seen.before(cidr.value, ()).is_some() {
            faults.add(
                cidr.at,
                format!("{label} has {} twice; keep one", cidr.value),
            );
        }
        if let Some((forbidden, kind)) = no_interface(cidr.value) {
            let verb = if forbidden.contains(cidr.value) {
                "is"
            } else {
                "contains"
            };
            let message = format!(
                "{label} cannot have {}, which {verb} {kind}; write the addresses of the tenant's \
                 interface",
                cidr.value
            );
            faults.add(cidr.at, message);
        }
    }
}

/// The addresses of [`NO_INTERFACE`] that `cidr` overlaps, if any.
fn no_interface(cidr: Cidr) -> Option<(Cidr, &'static str)> {
    let forbidden = NO_INTERFACE
        .into_iter()
        .filter_map(|(addr, prefix_len, kind)| {
            Cidr::new(addr, prefix_len).map(|forbidden| (forbidden, kind))
        });
    let mut overlapping = forbidden.filter(|(forbidden, _)| forbidden.overlaps(cidr));
    overlapping.next()
}

/// Reports what is wrong between ports, and between ports and the rest.
pub(super) fn check_together(draft: &Draft, faults: &mut Faults<'_>) {
    let ports = draft.ports.as_slice();
    check_names("port", ports.iter().map(|port| &port.name), faults);
    check_count(draft, faults);
    if draft.tenants_complete {
        check_tenants(draft, faults);
    }
    check_interfaces(draft, faults);
    check_shared_macs(ports, faults);
    check_overlaps(ports, faults);
}

fn check_count(draft: &Draft, faults: &mut Faults<'_>) {
    let Some(ports_max) = draft.host.ports_max.clone().or(Host::PORTS_MAX) else {
        return;
    };
    if let Some(port) = draft.ports.get(usize::from(ports_max)) {
        let message = format!(
            "{} is number {} of {}, and `ports_max` = {ports_max}; raise it in [host], up to 65535",
            label("port", &port.name),
            usize::from(ports_max) + 1,
            draft.ports.len()
        );
        faults.add(port.at, message);
    }
}

fn check_tenants(draft: &Draft, faults: &mut Faults<'_>) {
    let names = || {
        draft
            .tenants
            .iter()
            .filter_map(|tenant| tenant.name.value())
            .map(Name::as_str)
    };
    let known: HashSet<&str> = names().collect();
    for port in &draft.ports {
        let Some(tenant) = port.tenant.get() else {
            continue;
        };
        let name = tenant.value.as_str();
        if known.contains(name) {
            continue;
        }
        let near = if faults.is_full() {
            None
        } else {
            nearest(name, names())
        };
        let hint = match near {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("add [[tenant]] with name = \"{name}\" and its id"),
        };
        let label = label("port", &port.name);
        faults.add(
            tenant.at,
            format!("{label} is of tenant `{name}`, which is not there; {hint}"),
        );
    }
}

fn check_interfaces(draft: &Draft, faults: &mut Faults<'_>) {
    let uplinks: HashSet<&InterfaceName> = draft
        .uplinks
        .iter()
        .filter_map(|uplink| uplink.interface.value())
        .collect();
    let trusted = super::trusted(draft);
    // The first port of an interface, and the first of each VLAN of it.
    let mut interfaces: Seen<&InterfaceName, (usize, Option<Vlan>)> = Seen::new();
    let mut vlans: Seen<(&InterfaceName, Vlan), usize> = Seen::new();
    for (index, port) in draft.ports.iter().enumerate() {
        let Some(&Located {
            value: ref interface,
            at,
        }) = port.interface.get()
        else {
            continue;
        };
        for (set, what) in [(&uplinks, "is an uplink"), (&trusted, "is trusted")] {
            if set.contains(interface) {
                let label = label("port", &port.name);
                let message = format!(
                    "{label} has `{interface}`, which {what}; write the tenant's interface"
                );
                faults.add(at, message);
            }
        }
        let Some(vlan) = port.vlan.clone().optional() else {
            continue;
        };
        let same_vlan = vlan.and_then(|vlan| vlans.before((interface, vlan), index));
        let same_interface = interfaces.before(interface, (index, vlan));
        let first = match (same_vlan, vlan, same_interface) {
            (Some(first), _, _) => first,
            (None, Some(_), Some((_, Some(_)))) | (None, _, None) => continue,
            (None, _, Some((first, _))) => first,
        };
        let message = same_interface_message(port, &draft.ports[first], interface, faults);
        faults.add(at, message);
    }
}

/// Two ports that cannot both be on `interface`.
fn same_interface_message(
    port: &DraftPort,
    first: &DraftPort,
    interface: &InterfaceName,
    faults: &Faults<'_>,
) -> String {
    let this = label("port", &port.name);
    let line = faults.line_note(first.interface.get().map_or(At::NOWHERE, |first| first.at));
    let other = format!("{}{line}", label("port", &first.name));
    match (port.vlan.value(), first.vlan.value()) {
        (Some(vlan), Some(_)) => {
            format!("{this} and {other} are both VLAN {vlan} of `{interface}`; write another VLAN")
        }
        (None, None) => format!(
            "{this} and {other} are both on `{interface}`; write another interface, or a `vlan` for \
             each"
        ),
        (Some(_), None) => format!(
            "{this} is a VLAN of `{interface}`, all of which {other} has; write a `vlan` for that \
             port too"
        ),
        (None, Some(vlan)) => format!(
            "{this} has all of `{interface}`, of which {other} is VLAN {vlan}; write a `vlan` here \
             too"
        ),
    }
}

fn check_shared_macs(ports: &[DraftPort], faults: &mut Faults<'_>) {
    let mut seen: Seen<Mac, (usize, At)> = Seen::new();
    for (index, port) in ports.iter().enumerate() {
        for mac in &port.macs.items {
            let Some((first, at)) = seen.before(mac.value, (index, mac.at)) else {
                continue;
            };
            if first != index {
                let message = format!(
                    "{} has {}, which {}{} has; a MAC address belongs to one port of a host",
                    label("port", &port.name),
                    mac.value,
                    label("port", &ports[first].name),
                    faults.line_note(at)
                );
                faults.add(mac.at, message);
            }
        }
    }
}

/// An address of a port, to be sorted.
#[derive(Clone, Copy)]
struct Owned {
    cidr: Cidr,
    port: usize,
    at: At,
    /// Place among all addresses of the file.
    order: usize,
}

/// Reports addresses that two ports of one tenant have.
fn check_overlaps(ports: &[DraftPort], faults: &mut Faults<'_>) {
    let mut by_tenant: HashMap<&Name, Vec<Owned>> = HashMap::new();
    let mut order = 0;
    for (index, port) in ports.iter().enumerate() {
        let Some(tenant) = port.tenant.value() else {
            continue;
        };
        let owned = by_tenant.entry(tenant).or_default();
        for &Located { value: cidr, at } in &port.addresses.items {
            owned.push(Owned {
                cidr,
                port: index,
                at,
                order,
            });
            order += 1;
        }
    }
    let mut overlaps: Vec<(Owned, Owned)> = by_tenant.into_values().flat_map(overlaps_of).collect();
    overlaps.sort_by_key(|(_, later)| later.order);
    for (first, later) in overlaps {
        let how = if first.cidr == later.cidr {
            "which".to_string()
        } else if first.cidr.contains(later.cidr) {
            format!("which is in {} that", first.cidr)
        } else {
            format!("which contains {} that", first.cidr)
        };
        let message = format!(
            "{} has {}, {how} {}{} of the same tenant has; an address belongs to one port",
            label("port", &ports[later.port].name),
            later.cidr,
            label("port", &ports[first.port].name),
            faults.line_note(first.at)
        );
        faults.add(later.at, message);
    }
}

/// Pairs of addresses of different ports that overlap, the earlier in the file first: for each
/// address at most one, so that their number is bounded by that of the addresses.
fn overlaps_of(mut owned: Vec<Owned>) -> Vec<(Owned, Owned)> {
    // A prefix comes before what it contains: the ones that contain the current are a stack, all of
    // one port, since one of another port is reported and not pushed.
    owned.sort_by_key(|owned| (owned.cidr, owned.order));
    let mut overlaps = Vec::new();
    let mut around: Vec<Owned> = Vec::new();
    for current in owned {
        while around
            .last()
            .is_some_and(|outer| !outer.cidr.contains(current.cidr))
        {
            around.pop();
        }
        match around.last() {
            Some(outer) if outer.port != current.port => {
                let (first, later) = if outer.order < current.order {
                    (*outer, current)
                } else {
                    (current, *outer)
                };
                overlaps.push((first, later));
            }
            _ => around.push(current),
        }
    }
    overlaps
}

/// The port of a draft; `None` if a value of it was refused.
pub(super) fn build(port: DraftPort) -> Option<Port> {
    Some(Port {
        name: port.name.required()?,
        tenant: port.tenant.required()?,
        interface: port.interface.required()?,
        vlan: port.vlan.optional()?,
        macs: port.macs.values()?,
        addresses: port.addresses.values()?,
        from_tenant: limits::build(port.from_tenant)?,
        to_tenant: limits::build(port.to_tenant)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{Random, seed};

    /// Among few addresses, so that many overlap.
    fn owned(random: &mut Random, order: usize) -> Owned {
        let prefix_len = 26 + random.below(7) as u32;
        let mask = u32::MAX << (32 - prefix_len);
        let addr = Ipv4Addr::from_bits((0x0a00_0000 | random.below(64) as u32) & mask);
        let cidr = Cidr::new(IpAddr::V4(addr), prefix_len as u8).expect("host bits are cleared");
        Owned {
            cidr,
            port: random.below(4),
            at: At::NOWHERE,
            order,
        }
    }

    #[test]
    fn overlaps_are_those_that_comparing_all_pairs_finds() {
        let mut random = Random(seed() ^ 6);
        let mut found = 0;
        for _ in 0..5_000 {
            let count = random.below(9);
            let all: Vec<Owned> = (0..count).map(|order| owned(&mut random, order)).collect();
            let overlap = |a: &Owned, b: &Owned| a.port != b.port && a.cidr.overlaps(b.cidr);
            let exists = all.iter().any(|a| all.iter().any(|b| overlap(a, b)));
            let overlaps = overlaps_of(all);
            assert_eq!(!overlaps.is_empty(), exists);
            for (first, later) in &overlaps {
                assert!(overlap(first, later) && first.order < later.order);
            }
            found += usize::from(exists);
        }
        assert!((1_000..4_500).contains(&found), "{found} had an overlap");
        println!("CASES: config overlaps: 5000");
    }
}
