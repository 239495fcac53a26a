//! A policy revision: from what is asked for to what the programs read.

mod owners;
mod uplink;

use crate::{
    Error, Result,
    maps::{Maps, Raw},
    object::Plan,
    provide::Tunnel,
    quota::{Grant, Quota},
    share::SharedUplink,
};
pub(crate) use owners::{Owners, forget};
pub use uplink::{ClearOverlays, Uplink};

use aya::maps::lpm_trie::Key;
use dataplane_common::{
    abi::{
        AddressKey, Ipv4Net, Ipv6Net, LimitPolicy, MacKey, PortPolicy, ZoneKey, shape as abi_shape,
    },
    encryption::Rule,
    limit::{Rate, Times},
    units::{BitsPerSecond, PacketsPerSecond},
    zone,
};
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

/// A prefix: host bits are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// Network address.
    pub address: IpAddr,
    /// Length in bits, 0..=32 or 0..=128.
    pub len: u8,
}

impl Prefix {
    /// Is all of `other` within this one?
    fn holds(&self, other: Self) -> bool {
        let number = |address| match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
            IpAddr::V6(v6) => (v6.to_bits(), false),
        };
        let ((own, v4), (others, other_v4)) = (number(self.address), number(other.address));
        let past = u128::MAX.checked_shr(self.len.into()).unwrap_or(0);
        v4 == other_v4 && self.len <= other.len && (own ^ others) & !past == 0
    }
}

/// How much may be sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Burst {
    /// Layer-2 bytes.
    Bytes(u64),
    /// Time at the ceiling.
    Time(Duration),
}

/// What limits one direction of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Ceiling; none: unlimited.
    pub ceiling: Option<BitsPerSecond>,
    /// Burst; none: what the shape asks for.
    pub burst: Option<Burst>,
    /// Packet-rate ceiling.
    pub packet_rate: Option<PacketsPerSecond>,
}

impl Limit {
    /// What may pass at once under `shape`, bytes; none without a ceiling.
    pub fn burst_bytes(&self, shape: Shape) -> Option<u64> {
        let burst = self.burst.unwrap_or(shape.default_burst());
        self.ceiling
            .map(|ceiling| burst_units(burst, Rate::bytes(ceiling)).max(1_514))
    }

    /// The time that a burst takes at the ceiling, ns; 0 without a ceiling.
    pub fn burst_ns(&self, shape: Shape) -> u64 {
        let Some((ceiling, burst)) = self.ceiling.zip(self.burst_bytes(shape)) else {
            return 0;
        };
        let ns = u128::from(burst) * 8_000_000_000 / u128::from(ceiling.0.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

/// How limits are enforced on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Drop above the horizon.
    Police,
    /// Departure times for fq.
    Edt,
    /// HTB leaves on the port's device.
    Htb,
}

impl Shape {
    /// As the ABI has it.
    pub const fn number(self) -> u16 {
        match self {
            Self::Police => abi_shape::POLICE,
            Self::Edt => abi_shape::EDT,
            Self::Htb => abi_shape::HTB,
        }
    }

    /// From the ABI's number; what it does not know is a policer's.
    pub const fn from_number(number: u16) -> Self {
        match number {
            abi_shape::EDT => Self::Edt,
            abi_shape::HTB => Self::Htb,
            _ => Self::Police,
        }
    }

    /// Name in the configuration and in `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Police => "police",
            Self::Edt => "edt",
            Self::Htb => "htb",
        }
    }

    /// The burst when the configuration names none. Police: above TCP's RTO_min of 200 ms, without
    /// which many flows starve (docs/ARCHITECTURE.md, "The limiter").
    pub const fn default_burst(self) -> Burst {
        Burst::Time(match self {
            Self::Police => Duration::from_millis(250),
            Self::Edt | Self::Htb => Duration::from_millis(50),
        })
    }
}

/// A port as the policy wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Unique name.
    pub name: String,
    /// Tenant's number.
    pub tenant: u32,
    /// Interface name.
    pub interface: String,
    /// The port is this VLAN on the interface.
    pub vlan: Option<u16>,
    /// MACs, at least one.
    pub macs: Vec<[u8; 6]>,
    /// Addresses and prefixes.
    pub addresses: Vec<Prefix>,
    /// From the tenant, to the tenant.
    pub limits: [Limit; 2],
    /// Flows that the port's tenant may have at once, all its ports together; `None`: none are kept.
    pub flows: Option<u32>,
}

/// What is asked of a tenant's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// Tenant's number.
    pub tenant: u32,
    /// Conversations whose state is kept at once.
    pub conversations: u32,
    /// By direction and zone; zones that are left out are as the last one.
    pub rules: [Vec<Rule>; 2],
}

/// Everything that changes together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Ports.
    pub ports: Vec<Port>,
    /// Prefixes with their zone's number.
    pub zones: Vec<(Prefix, u32)>,
    /// Uplinks.
    pub uplinks: Vec<Uplink>,
    /// Interfaces whose frames may leave by an uplink or go to a port.
    pub trusted: Vec<String>,
    /// Uplinks that tenants share.
    pub shared: Vec<SharedUplink>,
    /// Asked for; none: the best that the host has.
    pub shape: Option<Shape>,
    /// What an skb pays above its bytes at every ceiling, guarantee and share, bytes up to [`dataplane_common::limit::PRICE_MAX`]; 0: nothing.
    pub packet_price: u32,
    /// Tenants' encryption policies, one each at most.
    pub encryption: Vec<Encryption>,
    /// Tenants' budgets of bytes, one each at most.
    pub quotas: Vec<Quota>,
    /// Tunnels that this host provides.
    pub provide: Vec<Tunnel>,
}

impl Policy {
    /// Does an uplink police floods?
    pub fn polices(&self) -> bool {
        self.uplinks.iter().any(|uplink| uplink.xdp)
    }

    /// Notes how much of their budgets tenants have. A grant that is for this revision alone, what nobody says of a tenant,
    /// leaves its count to the kernel ([`Grant::at`]).
    pub fn grant(&mut self, grants: &[Grant]) {
        for quota in &mut self.quotas {
            let of = |grant: &&Grant| grant.tenant == quota.tenant;
            quota.grant = match grants.iter().find(of) {
                Some(grant) => *grant,
                None => Grant {
                    at: None,
                    ..quota.grant
                },
            };
        }
    }
}

/// A MAC as the ABI has it.
pub fn mac_number(mac: [u8; 6]) -> u64 {
    mac.iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn words(address: IpAddr) -> ([u32; 4], u8) {
    match address {
        IpAddr::V4(v4) => ([u32::from_ne_bytes(v4.octets()), 0, 0, 0], 4),
        IpAddr::V6(v6) => {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(v6.octets().chunks_exact(4)) {
                *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            (words, 6)
        }
    }
}

fn mask_word(len: u32) -> u32 {
    u32::MAX.checked_shl(32 - len.min(32)).unwrap_or(0).to_be()
}

/// Units that `burst` is at `rate`.
pub fn burst_units(burst: Burst, rate: Rate) -> u64 {
    match burst {
        Burst::Bytes(bytes) => bytes,
        Burst::Time(time) => rate.units_in(time.as_nanos()),
    }
}

/// Time that packets may come in a row at the packet ceiling, and the least number of them.
const PACKET_BURST: (Duration, u64) = (Duration::from_millis(100), 64);

/// Compiles both limits of one direction, of which that of bytes has a `price`. `before` are those in force, `clocks` what
/// their clocks stand at.
pub(crate) fn limits(
    (wanted, price): (&Limit, u32),
    shape: Shape,
    before: Option<&[LimitPolicy; 2]>,
    clocks: [u64; 2],
    times: &Times,
) -> [LimitPolicy; 2] {
    let compile = |unit: usize, rate: Rate, burst: u64| match before {
        Some(old) if old[unit].limited() => old[unit].revise(rate, burst, times),
        _ => LimitPolicy::begin(rate, burst, clocks[unit], times),
    };
    let mut compiled = [LimitPolicy::default(); 2];
    if let Some(ceiling) = wanted.ceiling {
        let rate = Rate::bytes(ceiling);
        let burst = wanted.burst_bytes(shape).unwrap_or(0);
        compiled[0] = compile(0, rate, burst).priced(price);
    }
    if let Some(packet_rate) = wanted.packet_rate {
        let rate = Rate::packets(packet_rate);
        let burst = burst_units(Burst::Time(PACKET_BURST.0), rate).max(PACKET_BURST.1);
        compiled[1] = compile(1, rate, burst);
    }
    compiled
}

/// A prefix as a trie's key has it: family, address, length in bits.
type KeyPrefix = (u8, [u32; 4], u32);

/// A port's entry, its overflow MACs and its overflow prefixes.
pub(crate) fn compile(port: &Port) -> (PortPolicy, Vec<u64>, Vec<KeyPrefix>) {
    let mut entry = PortPolicy {
        flags: PortPolicy::ACTIVE
            | if port.vlan.is_some() {
                PortPolicy::VLAN
            } else {
                0
            },
        tenant: port.tenant,
        ipv4: [Ipv4Net::NONE; 2],
        ipv6: Ipv6Net::NONE,
        ..PortPolicy::default()
    };
    let mut macs = Vec::new();
    for (index, mac) in port.macs.iter().enumerate() {
        match entry.macs.get_mut(index) {
            Some(place) => *place = mac_number(*mac),
            None => macs.push(mac_number(*mac)),
        }
    }
    let mut prefixes = Vec::new();
    let (mut v4, mut v6) = (0, 0);
    for prefix in &port.addresses {
        let (address, family) = words(prefix.address);
        let len = u32::from(prefix.len);
        if family == 4 && v4 < entry.ipv4.len() {
            entry.ipv4[v4] = Ipv4Net {
                network: address[0],
                mask: mask_word(len),
            };
            v4 += 1;
        } else if family == 6 && v6 == 0 {
            let mask = [0, 32, 64, 96].map(|from| mask_word(len.saturating_sub(from)));
            entry.ipv6 = Ipv6Net {
                network: address,
                mask,
            };
            v6 += 1;
        } else {
            prefixes.push((family, address, len));
        }
    }
    if !macs.is_empty() {
        entry.flags |= PortPolicy::MORE_MACS;
    }
    if !prefixes.is_empty() {
        entry.flags |= PortPolicy::MORE_ADDRESSES;
    }
    (entry, macs, prefixes)
}

/// Zones by prefix.
pub(crate) type ZoneTable = BTreeMap<KeyPrefix, u32>;

/// Zones with the ports' own host addresses as intra-host, longest prefix by longest prefix.
fn zone_table(policy: &Policy) -> ZoneTable {
    let mut table = BTreeMap::new();
    for (prefix, zone) in &policy.zones {
        let (address, family) = words(prefix.address);
        table.insert((family, address, u32::from(prefix.len)), *zone);
    }
    for prefix in policy.ports.iter().flat_map(|port| &port.addresses) {
        let (address, family) = words(prefix.address);
        let full = if family == 4 { 32 } else { 128 };
        // Only single addresses: a CIDR behind a port says nothing about who else is on this host.
        if u32::from(prefix.len) == full {
            table.insert((family, address, full), zone::INTRA_HOST);
        }
    }
    table
}

/// Compares what `policy` holds with the room that `plan` has made for one set, before anything is
/// changed for its sake.
///
/// # Errors
/// [`Error::NoRoom`].
pub(crate) fn check_room(plan: &Plan, policy: &Policy) -> Result<()> {
    let listed = policy.ports.iter();
    let listed: usize = listed
        .map(|port| port.addresses.len() + port.macs.len())
        .sum();
    // Each once more where floods are policed: whose it is.
    let overflow = listed * if policy.polices() { 2 } else { 1 };
    for (what, wanted, room) in [
        (
            "zone prefixes",
            zone_table(policy).len(),
            plan.zone_prefixes,
        ),
        ("MACs and addresses of ports", overflow, plan.overflow),
    ] {
        let room = room as usize / 2;
        if wanted > room {
            return Err(Error::NoRoom { what, wanted, room });
        }
    }
    Ok(())
}

/// Writes what both tries and the MAC table hold for `policy_set`, after removing what it held before and is not
/// wanted. The set must not be in force. `zones`: what is known to stand in the set, and does from then on.
pub(crate) fn write_tables(
    maps: &mut Maps,
    policy: &Policy,
    policy_set: u8,
    zones: &mut Option<ZoneTable>,
    slot_of: impl Fn(&Port) -> Option<u32>,
) -> Result<()> {
    clear_overflow(maps, policy_set)?;
    // Unknown again until all is written.
    let before = match zones.take() {
        Some(before) => before,
        None => {
            clear_zones(maps, policy_set)?;
            ZoneTable::new()
        }
    };
    let wanted = zone_table(policy);
    for prefix in before.keys().filter(|prefix| !wanted.contains_key(prefix)) {
        let key = zone_key(policy_set, *prefix);
        maps.zones.remove(&key).map_err(Error::map("ZONES"))?;
    }
    let changed = |(prefix, zone): &(&KeyPrefix, &u32)| before.get(prefix) != Some(zone);
    for (prefix, zone) in wanted.iter().filter(changed) {
        maps.zones
            .insert(&zone_key(policy_set, *prefix), zone, 0)
            .map_err(Error::map("ZONES"))?;
    }
    *zones = Some(wanted);
    for port in &policy.ports {
        if let Some(slot) = slot_of(port) {
            write_overflow(maps, port, slot, policy_set)?;
        }
    }
    let slot = |number: usize| slot_of(&policy.ports[number]);
    Owners::of(policy).write(maps, policy_set, None, slot)
}

/// Writes one port's overflow entries.
pub(crate) fn write_overflow(
    maps: &mut Maps,
    port: &Port,
    slot: u32,
    policy_set: u8,
) -> Result<()> {
    let (_, macs, prefixes) = compile(port);
    for mac in macs {
        let key = MacKey {
            mac,
            slot,
            policy_set: policy_set.into(),
        };
        maps.macs
            .insert(Raw(key), 1, 0)
            .map_err(Error::map("MACS"))?;
    }
    for (family, address, len) in prefixes {
        let key = AddressKey {
            slot,
            policy_set,
            family,
            reserved: [0; 2],
            address,
        };
        let key = Key::new(AddressKey::PREFIX_BITS + len, Raw(key));
        maps.addresses
            .insert(&key, 1, 0)
            .map_err(Error::map("ADDRESSES"))?;
    }
    Ok(())
}

fn zone_key(policy_set: u8, (family, address, len): KeyPrefix) -> Key<Raw<ZoneKey>> {
    let key = ZoneKey {
        policy_set,
        family,
        reserved: [0; 2],
        address,
    };
    Key::new(ZoneKey::PREFIX_BITS + len, Raw(key))
}

fn clear_zones(maps: &mut Maps, policy_set: u8) -> Result<()> {
    // Keys first, then removal: removing while walking restarts the walk.
    let zones: Vec<_> = maps.zones.keys().filter_map(|key| key.ok()).collect();
    for key in zones
        .iter()
        .filter(|key| key.data().0.policy_set == policy_set)
    {
        maps.zones.remove(key).map_err(Error::map("ZONES"))?;
    }
    Ok(())
}

fn clear_overflow(maps: &mut Maps, policy_set: u8) -> Result<()> {
    let addresses: Vec<_> = maps.addresses.keys().filter_map(|key| key.ok()).collect();
    for key in addresses
        .iter()
        .filter(|key| key.data().0.policy_set == policy_set)
    {
        maps.addresses
            .remove(key)
            .map_err(Error::map("ADDRESSES"))?;
    }
    let macs: Vec<_> = maps.macs.keys().filter_map(|key| key.ok()).collect();
    for key in macs
        .iter()
        .filter(|key| key.0.policy_set == u32::from(policy_set))
    {
        maps.macs.remove(key).map_err(Error::map("MACS"))?;
    }
    Ok(())
}
