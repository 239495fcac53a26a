//! Whose a frame is that comes in by an uplink: what floods are policed by.
//!
//! By MAC, then by address, as bridge and route would find it. What several ports list is nobody's, also where one lists an
//! address and another a prefix around it: then nothing is policed, and the port's own program decides.

use super::{Policy, Port, Prefix, mac_number, words};
use crate::{
    Error, Result,
    maps::{Maps, Raw},
};
use aya::maps::lpm_trie::Key;
use dataplane_common::{
    abi::{AddressKey, MacKey},
    flood::{NOBODY, WHOSE},
};
use std::collections::BTreeMap;

/// By MAC and by prefix, the number of a port in the policy; `None`: several have it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Owners {
    macs: BTreeMap<[u8; 6], Option<usize>>,
    prefixes: BTreeMap<Prefix, Option<usize>>,
}

fn note<K: Ord>(table: &mut BTreeMap<K, Option<usize>>, key: K, port: usize) {
    table
        .entry(key)
        .and_modify(|owner| *owner = owner.filter(|known| *known == port))
        .or_insert(Some(port));
}

impl Owners {
    /// Of a policy in which an uplink polices floods; else of nobody.
    pub(crate) fn of(policy: &Policy) -> Self {
        let mut owners = Self::default();
        if !policy.polices() {
            return owners;
        }
        for (number, port) in policy.ports.iter().enumerate() {
            for mac in &port.macs {
                note(&mut owners.macs, *mac, number);
            }
            for prefix in &port.addresses {
                note(&mut owners.prefixes, *prefix, number);
            }
        }
        owners.share_nested();
        owners
    }

    /// A prefix within another port's is nobody's. Sorted by address, then length: what is around a prefix is before it.
    fn share_nested(&mut self) {
        let mut around: Vec<(Prefix, Option<usize>)> = Vec::new();
        for (prefix, owner) in &mut self.prefixes {
            while around
                .last()
                .is_some_and(|(outer, _)| !outer.holds(*prefix))
            {
                around.pop();
            }
            if let Some((_, outer)) = around.last()
                && outer != owner
            {
                *owner = None;
            }
            around.push((*prefix, *owner));
        }
    }

    /// Writes the entries of every port, or of one, into `policy_set`.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn write(
        &self,
        maps: &mut Maps,
        policy_set: u8,
        only: Option<usize>,
        slot_of: impl Fn(usize) -> Option<u32>,
    ) -> Result<()> {
        let wanted = |owner: &Option<usize>| only.is_none() || *owner == only;
        let value = |owner: &Option<usize>| owner.map_or(Some(NOBODY), &slot_of);
        for (mac, owner) in self.macs.iter().filter(|(_, owner)| wanted(owner)) {
            let Some(slot) = value(owner) else { continue };
            maps.macs
                .insert(Raw(mac_key(*mac, policy_set)), slot, 0)
                .map_err(Error::map("MACS"))?;
        }
        for (prefix, owner) in self.prefixes.iter().filter(|(_, owner)| wanted(owner)) {
            let Some(slot) = value(owner) else { continue };
            maps.addresses
                .insert(&address_key(*prefix, policy_set), slot, 0)
                .map_err(Error::map("ADDRESSES"))?;
        }
        Ok(())
    }
}

/// Takes the entries of `port` out of `policy_set`: its slot is given up. What was not there is no error.
pub(crate) fn forget(maps: &mut Maps, port: &Port, slot: u32, policy_set: u8) {
    for mac in &port.macs {
        let key = Raw(mac_key(*mac, policy_set));
        if maps.macs.get(&key, 0).is_ok_and(|owner| owner == slot) {
            let _ = maps.macs.remove(&key);
        }
    }
    for prefix in &port.addresses {
        let key = address_key(*prefix, policy_set);
        if maps.addresses.get(&key, 0).is_ok_and(|owner| owner == slot) {
            let _ = maps.addresses.remove(&key);
        }
    }
}

fn mac_key(mac: [u8; 6], policy_set: u8) -> MacKey {
    MacKey {
        mac: mac_number(mac),
        slot: WHOSE,
        policy_set: policy_set.into(),
    }
}

fn address_key(prefix: Prefix, policy_set: u8) -> Key<Raw<AddressKey>> {
    let (address, family) = words(prefix.address);
    let key = AddressKey {
        slot: WHOSE,
        policy_set,
        family,
        reserved: [0; 2],
        address,
    };
    Key::new(AddressKey::PREFIX_BITS + u32::from(prefix.len), Raw(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Uplink;

    fn prefix(text: &str) -> Prefix {
        let (address, len) = text.split_once('/').expect("a prefix");
        Prefix {
            address: address.parse().expect("an address"),
            len: len.parse().expect("a length"),
        }
    }

    fn port(mac: u8, addresses: &[&str]) -> Port {
        Port {
            name: format!("port {mac}"),
            tenant: 1,
            interface: format!("p{mac}"),
            vlan: None,
            macs: vec![[2, 0, 0, 0, 0, mac]],
            addresses: addresses.iter().map(|text| prefix(text)).collect(),
            limits: Default::default(),
            flows: None,
        }
    }

    fn policy(ports: Vec<Port>) -> Policy {
        Policy {
            ports,
            uplinks: vec![Uplink {
                interface: "up0".into(),
                xdp: true,
                ..Uplink::default()
            }],
            ..Policy::default()
        }
    }

    #[test]
    fn what_one_port_lists_is_its_own_and_what_two_list_is_nobodys() {
        let mut policy = policy(vec![
            port(1, &["192.0.2.1/32", "2001:db8::/64", "2001:db8::7/128"]),
            port(2, &["192.0.2.2/32", "198.51.100.0/24"]),
            // Within the second's prefix, beside one of its own; and the second's MAC as well.
            port(3, &["198.51.100.7/32", "192.0.2.3/32", "2001:db9::/64"]),
            port(4, &["192.0.2.2/32"]),
        ]);
        policy.ports[3].macs.push([2, 0, 0, 0, 0, 2]);
        let owners = Owners::of(&policy);
        let of = |text| owners.prefixes[&prefix(text)];
        assert_eq!(of("192.0.2.1/32"), Some(0));
        assert_eq!(
            (of("2001:db8::/64"), of("2001:db8::7/128")),
            (Some(0), Some(0))
        );
        assert_eq!(of("192.0.2.2/32"), None);
        assert_eq!(
            (of("198.51.100.0/24"), of("198.51.100.7/32")),
            (Some(1), None)
        );
        assert_eq!(
            (of("192.0.2.3/32"), of("2001:db9::/64")),
            (Some(2), Some(2))
        );
        let of = |number| owners.macs[&[2, 0, 0, 0, 0, number]];
        assert_eq!(
            [of(1), of(2), of(3), of(4)],
            [Some(0), None, Some(2), Some(3)]
        );
    }

    #[test]
    fn a_prefix_around_everything_shares_all_that_others_list() {
        let owners = Owners::of(&policy(vec![
            port(1, &["0.0.0.0/0"]),
            port(2, &["192.0.2.0/24"]),
            port(3, &["2001:db8::1/128"]),
        ]));
        assert_eq!(owners.prefixes[&prefix("192.0.2.0/24")], None);
        assert_eq!(owners.prefixes[&prefix("0.0.0.0/0")], Some(0));
        assert_eq!(owners.prefixes[&prefix("2001:db8::1/128")], Some(2));
    }

    #[test]
    fn where_no_uplink_polices_nobody_is_looked_for() {
        let mut policy = policy(vec![port(1, &["192.0.2.1/32"])]);
        policy.uplinks[0].xdp = false;
        assert_eq!(Owners::of(&policy), Owners::default());
    }
}
