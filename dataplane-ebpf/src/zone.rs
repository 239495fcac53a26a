//! The zone's look-up: longest prefix of the remote address.
//!
//! A trie of some thousand prefixes costs more than all other stages together, and most packets go
//! where one went just before. So each CPU remembers what it found, by address and revision.

use crate::maps::{self, Remembered};
use aya_ebpf::btf_maps::lpm_trie::Key;
use dataplane_common::{
    abi::{Epoch, FROM_TENANT, ZoneKey},
    parse::{Network, Packet},
    zone::{self, Zone},
};

/// The zone that `packet` is booked in.
#[inline(always)]
pub fn of<const DIRECTION: u32>(epoch: Epoch, packet: &Packet, intra_host: bool) -> Zone {
    let zone = zone::of(packet, intra_host, || {
        let family = if packet.network == Network::Ipv4 {
            4
        } else {
            6
        };
        let address = if DIRECTION == FROM_TENANT {
            packet.dst
        } else {
            packet.src
        };
        Some(remembered(epoch, family, address))
    });
    // A number past the columns would be another port's register.
    if zone < maps::sizes().zones {
        zone
    } else {
        zone::OTHER
    }
}

#[inline(always)]
fn remembered(epoch: Epoch, family: u32, address: [u32; 4]) -> Zone {
    // Fibonacci hashing: Knuth, TAOCP vol. 3, 6.4.
    let mixed = (address[0] ^ address[1] ^ address[2] ^ address[3]).wrapping_mul(0x9E37_79B1);
    let place = maps::ZONES_SEEN.get_ptr_mut(mixed >> (32 - maps::ZONES_SEEN_BITS));
    let Some(place) = place else {
        return look_up(epoch, family, address);
    };
    // SAFETY: this CPU's own copy.
    let place = unsafe { &mut *place };
    let key = (epoch.revision() as u64) << 32 | family as u64;
    if place.key == key && place.address == address {
        return place.zone;
    }
    let zone = look_up(epoch, family, address);
    *place = Remembered {
        key,
        address,
        zone,
        reserved: 0,
    };
    zone
}

#[inline(always)]
fn look_up(epoch: Epoch, family: u32, address: [u32; 4]) -> Zone {
    let key = ZoneKey {
        policy_set: epoch.policy_set() as u8,
        family: family as u8,
        reserved: [0; 2],
        address,
    };
    let bits = ZoneKey::PREFIX_BITS + if family == 4 { 32 } else { 128 };
    let zone = maps::ZONES.get(&Key::new(bits, key)).copied();
    zone.unwrap_or(zone::OTHER)
}
