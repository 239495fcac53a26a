//! The gate as the host builds it: the same stages in the same order as the programs, over tables in
//! memory. What the loaded programs book must be what stands here.

use super::{compare, shapes::Sample};
use dataplane_common::{
    abi::{FROM_TENANT, Ipv4Net, Ipv6Net, PortPolicy, Sizes},
    antispoof::{self, Overflow},
    parse::{Network, Packet, Slice},
    reason::DropReason,
    wire::{Gso, Wire, wire},
    zone,
};
use std::collections::{BTreeMap, BTreeSet};

/// A prefix of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// 4 or 6.
    pub family: u8,
    /// IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// Bits.
    pub len: u32,
}

impl Prefix {
    /// An IPv4 prefix.
    pub fn v4(address: [u8; 4], len: u32) -> Self {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&address);
        Self {
            family: 4,
            address: bytes,
            len,
        }
    }

    /// An IPv6 prefix.
    pub const fn v6(address: [u8; 16], len: u32) -> Self {
        Self {
            family: 6,
            address,
            len,
        }
    }

    /// The address as the maps have it.
    pub fn words(&self) -> [u32; 4] {
        words(self.address)
    }

    fn holds(&self, family: u8, address: [u32; 4]) -> bool {
        let number = |words: [u32; 4]| {
            words.iter().fold(0_u128, |number, word| {
                number << 32 | u128::from(u32::from_be(*word))
            })
        };
        let mask = u128::MAX.checked_shl(128 - self.len).unwrap_or(0);
        family == self.family && (number(address) ^ number(self.words())) & mask == 0
    }

    /// As an IPv4 entry of a port's policy.
    pub fn net4(&self) -> Ipv4Net {
        let mask = u32::MAX.checked_shl(32 - self.len).unwrap_or(0).to_be();
        Ipv4Net {
            network: self.words()[0],
            mask,
        }
    }

    /// As an IPv6 entry of a port's policy.
    pub fn net6(&self) -> Ipv6Net {
        let mask = u128::MAX.checked_shl(128 - self.len).unwrap_or(0);
        Ipv6Net {
            network: self.words(),
            mask: words(mask.to_be_bytes()),
        }
    }
}

fn words(bytes: [u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}

/// A MAC as the maps have it.
pub fn mac_number(mac: [u8; 6]) -> u64 {
    mac.iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A port: its entry, and the lists that do not fit there.
#[derive(Clone, Debug, Default)]
pub struct Port {
    pub policy: PortPolicy,
    pub macs: Vec<[u8; 6]>,
    pub prefixes: Vec<Prefix>,
}

impl Overflow for Port {
    fn mac(&self, mac: u64) -> bool {
        self.macs.iter().any(|listed| mac_number(*listed) == mac)
    }

    fn ipv4(&self, address: u32) -> bool {
        self.prefixes
            .iter()
            .any(|prefix| prefix.holds(4, [address, 0, 0, 0]))
    }

    fn ipv6(&self, address: &[u32; 4]) -> bool {
        self.prefixes.iter().any(|prefix| prefix.holds(6, *address))
    }
}

/// What an interface is to the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A port with this slot.
    To(u32),
    /// Its ports are VLANs.
    Shared,
}

/// The tables.
#[derive(Clone, Debug)]
pub struct Gate {
    pub sizes: Sizes,
    /// By interface and VLAN; VLAN 0 is the interface.
    pub bindings: BTreeMap<(u32, u32), Bound>,
    /// By slot.
    pub ports: BTreeMap<u32, Port>,
    pub zones: Vec<(Prefix, u32)>,
    /// Interfaces of blessed ports.
    pub blessed: BTreeSet<u32>,
    /// Uplinks and trusted interfaces.
    pub trusted: BTreeSet<u32>,
}

/// How a frame comes to a port.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// `FROM_TENANT` or `TO_TENANT`.
    pub direction: u32,
    /// The port's interface.
    pub ifindex: u32,
    /// Where the frame came into this host; 0: the host made it.
    pub ingress_ifindex: u32,
    /// How it is to be cut.
    pub gso: Gso,
}

/// What the gate makes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes, booked in a zone.
    Delivered { zone: u32, wire: Wire },
    /// It does not.
    Dropped {
        reason: DropReason,
        packets: u64,
        l2_bytes: u64,
    },
}

/// A verdict and the slot that it is booked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub slot: u32,
    pub verdict: Verdict,
}

impl Gate {
    /// Judges a frame.
    pub fn judge(&self, sample: &Sample, way: &Way) -> Outcome {
        let parsed = compare::ours(sample);
        let vid = parsed.as_ref().ok().map(|packet| packet.vid);
        // A packet that cannot be read counts one, with its bytes in the skb.
        let mut booked = Wire {
            packets: 1,
            l2_bytes: sample.bytes.len() as u64,
            l3_bytes: 0,
        };
        let slot = self.slot(way.ifindex, vid);
        let zone = match slot {
            None => Err(DropReason::UnknownPort),
            Some(slot) => {
                parsed.and_then(|packet| self.stages(sample, way, slot, &packet, &mut booked))
            }
        };
        Outcome {
            slot: slot.unwrap_or(0),
            verdict: match zone {
                Ok(zone) => Verdict::Delivered { zone, wire: booked },
                Err(reason) => Verdict::Dropped {
                    reason,
                    packets: booked.packets,
                    l2_bytes: booked.l2_bytes,
                },
            },
        }
    }

    fn slot(&self, ifindex: u32, vid: Option<u16>) -> Option<u32> {
        match self.bindings.get(&(ifindex, 0))? {
            Bound::To(slot) => Some(*slot),
            Bound::Shared => match self
                .bindings
                .get(&(ifindex, vid.filter(|vid| *vid != 0)?.into()))?
            {
                Bound::To(slot) => Some(*slot),
                Bound::Shared => None,
            },
        }
    }

    fn stages(
        &self,
        sample: &Sample,
        way: &Way,
        slot: u32,
        packet: &Packet,
        booked: &mut Wire,
    ) -> Result<u32, DropReason> {
        let port = self
            .ports
            .get(&slot)
            .filter(|port| port.policy.has(PortPolicy::ACTIVE));
        let port = port.ok_or(DropReason::PortInactive)?;
        let platform = port.policy.has(PortPolicy::VLAN);
        let (in_skb, in_data) = match (sample.tag.is_some(), platform) {
            (true, false) => (4, 0),
            (false, true) => (0, 4),
            _ => (0, 0),
        };
        *booked = wire(sample.bytes.len() as u32, packet, &way.gso, in_skb, in_data)?;
        let mut intra_host = false;
        if way.direction == FROM_TENANT {
            antispoof::from_tenant(&Slice(&sample.bytes), packet, &port.policy, port)?;
        } else {
            antispoof::to_tenant(packet, &port.policy, port)?;
            intra_host = self.blessed.contains(&way.ingress_ifindex);
            let known = intra_host
                || way.ingress_ifindex == 0
                || self.trusted.contains(&way.ingress_ifindex);
            if !known {
                return Err(DropReason::UnblessedSource);
            }
        }
        let remote = if way.direction == FROM_TENANT {
            packet.dst
        } else {
            packet.src
        };
        let zone = zone::of(packet, intra_host, || self.zone(packet.network, remote));
        if port.policy.encryption != 0 {
            return Err(DropReason::EncryptionPolicy);
        }
        Ok(if zone < self.sizes.zones {
            zone
        } else {
            zone::OTHER
        })
    }

    fn zone(&self, network: Network, remote: [u32; 4]) -> Option<u32> {
        let family = network as u8;
        self.zones
            .iter()
            .filter(|(prefix, _)| prefix.holds(family, remote))
            .max_by_key(|(prefix, _)| prefix.len)
            .map(|(_, zone)| *zone)
    }
}
