//! The spoof check's look-ups: what does not fit a port's entry.

use crate::maps;
use crate::packet::{Context, Linear};
use aya_ebpf::{bindings::__sk_buff, btf_maps::lpm_trie::Key};
use dataplane_common::{
    abi::{AddressKey, MacKey, PortPolicy},
    antispoof::{Neighbour, Overflow, neighbour},
    parse::Frame,
};

/// A port's longer lists.
pub struct Lists {
    pub skb: *mut __sk_buff,
    pub slot: u32,
    pub policy_set: u32,
}

impl Lists {
    #[inline(always)]
    fn address(&self, family: u8, address: [u32; 4], bits: u32) -> bool {
        let key = AddressKey {
            slot: self.slot,
            policy_set: self.policy_set as u8,
            family,
            reserved: [0; 2],
            address,
        };
        maps::ADDRESSES
            .get(&Key::new(AddressKey::PREFIX_BITS + bits, key))
            .is_some()
    }
}

impl Overflow for Lists {
    #[inline(always)]
    fn mac(&self, mac: u64) -> bool {
        let key = MacKey {
            mac,
            slot: self.slot,
            policy_set: self.policy_set,
        };
        // SAFETY: presence is all that is asked.
        unsafe { maps::MACS.get(&key) }.is_some()
    }

    #[inline(always)]
    fn ipv4(&self, address: u32) -> bool {
        self.address(4, [address, 0, 0, 0], 32)
    }

    #[inline(always)]
    fn ipv6(&self, address: &[u32; 4]) -> bool {
        self.address(6, *address, 128)
    }

    #[inline(always)]
    fn neighbour<F: Frame>(&self, _: &F, nd: Neighbour, _: &PortPolicy) -> bool {
        let nd = nd.offset as u64 | (nd.kind as u64) << 16 | (nd.end as u64) << 32;
        self.skb.neighbour(nd, self.slot, self.policy_set) != 0
    }
}

/// `antispoof::neighbour` for tc: see [`Context`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tc_neighbour(skb: *mut __sk_buff, nd: u64, slot: u32, policy_set: u32) -> u64 {
    let nd = Neighbour {
        offset: nd as u16,
        kind: (nd >> 16) as u8,
        end: (nd >> 32) as u32,
    };
    let Some(port) = maps::PORTS.get(maps::slots().port(policy_set & 1, slot)) else {
        return 0;
    };
    let lists = Lists {
        skb,
        slot,
        policy_set,
    };
    neighbour(&Linear::new(skb), nd, port, &lists) as u64
}
