//! Floods at an uplink: whose a frame is, and whether its port is about to refuse it. The law is
//! `dataplane_common::flood`.
//!
//! Three questions, each only after the one before: is a limit of the port, or of its tenant, at its end; is the frame's flow
//! fat; is the surplus used up. What nobody floods answers no to the first, and nothing is written for it.

use crate::{
    account::Book,
    fair,
    limiter::{Kernel, Shared},
    maps, port, share, thin, zone,
};
use aya_ebpf::btf_maps::lpm_trie::Key;
use dataplane_common::{
    abi::{AddressKey, DIRECTIONS, Epoch, LimitPolicy, MacKey, PortPolicy, Sizes, TO_TENANT},
    flood::{self, BYTES, NOBODY, PACKETS, SURPLUS_CLOCKS, TENANT, WHOSE},
    parse::{Network, Packet},
    reason::DropReason,
    zone::INTRA_HOST,
};

/// Books and ends a frame of `len` bytes that its port is about to refuse, and that costs more than refusing may. False: it
/// passes.
#[inline(always)]
pub fn ends(epoch: Epoch, packet: &Packet, len: u32) -> bool {
    let Some(slot) = whose(epoch, packet) else {
        return false;
    };
    let Ok(port) = port::policy(epoch, slot) else {
        return false;
    };
    let Some(reason) = over(epoch, packet, port, slot, len) else {
        return false;
    };
    let book = Book {
        epoch,
        slot,
        direction: TO_TENANT,
    };
    book.ended(reason, 1, len as u64);
    true
}

/// The slot of the port that has the frame's destination: the MAC, else the address. None where several have it, and for
/// groups. No tag is asked for: a driver may have taken it off.
#[inline(always)]
fn whose(epoch: Epoch, packet: &Packet) -> Option<u32> {
    if packet.to_group() {
        return None;
    }
    let policy_set = epoch.policy_set();
    let key = MacKey {
        mac: packet.dst_mac,
        slot: WHOSE,
        policy_set,
    };
    // SAFETY: a word that the daemon replaces whole.
    let mut owner = unsafe { maps::MACS.get(&key) }.copied();
    if owner.is_none() {
        let (family, bits) = match packet.network {
            Network::Ipv4 => (4, 32),
            Network::Ipv6 => (6, 128),
            _ => return None,
        };
        let key = AddressKey {
            slot: WHOSE,
            policy_set: policy_set as u8,
            family,
            reserved: [0; 2],
            address: packet.dst,
        };
        let key = Key::new(AddressKey::PREFIX_BITS + bits, key);
        owner = maps::ADDRESSES.get(&key).copied();
    }
    owner.filter(|slot| *slot != NOBODY)
}

/// Why the frame ends here, if it does.
#[inline(always)]
fn over(
    epoch: Epoch,
    packet: &Packet,
    port: &PortPolicy,
    slot: u32,
    len: u32,
) -> Option<DropReason> {
    let [bytes, packets] = &port.limits[(TO_TENANT & 1) as usize];
    let has_bytes = port.has(PortPolicy::limited(TO_TENANT, 0));
    let has_packets = port.has(PortPolicy::limited(TO_TENANT, 1));
    let which = slot * DIRECTIONS + TO_TENANT;
    if has_packets && refuses(packets, which, 1, has_bytes) {
        let ends = !(has_bytes && is_thin(packet, which, len, bytes.pace()))
            && is_spent(packets, slot, PACKETS, 1);
        return ends.then_some(DropReason::FloodPackets);
    }
    if has_bytes && (refuses(bytes, which, 0, true) || has_its_part(packet, bytes, which, len)) {
        let ends = !is_thin(packet, which, len, bytes.pace())
            && is_spent(bytes, slot, BYTES, bytes.charge(len as u64));
        return ends.then_some(DropReason::FloodBytes);
    }
    if port.share == 0 {
        return None;
    }
    let whose = share::whose(port, epoch, TO_TENANT);
    let (ceiling, clock) = share::ceiling(whose)?;
    if !ceiling.refuses(&clock, &Kernel, flood::horizon(ceiling, true)) {
        return None;
    }
    // What stays on the host is not asked for it, and a source may say that it does.
    if zone::of::<TO_TENANT>(epoch, packet, false) == INTRA_HOST {
        return None;
    }
    let pace = if has_bytes {
        bytes.pace()
    } else {
        share::share_pace(whose)
    };
    let ends = !is_thin(packet, which, len, pace)
        && is_spent(ceiling, slot, TENANT, ceiling.charge(len as u64));
    ends.then_some(DropReason::FloodBytes)
}

/// Is the port's limit at its end? Nothing is written.
#[inline(always)]
fn refuses(limit: &LimitPolicy, which: u32, unit: u32, has_classes: bool) -> bool {
    match maps::CLOCKS.get_ptr_mut(which * Sizes::CLOCKS + unit) {
        Some(clock) => limit.refuses(&Shared(clock), &Kernel, flood::horizon(limit, has_classes)),
        None => false,
    }
}

/// Has the frame's flow had its part of the port's ceiling? Nothing is written.
#[inline(always)]
fn has_its_part(packet: &Packet, limit: &LimitPolicy, which: u32, len: u32) -> bool {
    let Some(clock) = maps::CLOCKS.get_ptr_mut(which * Sizes::CLOCKS) else {
        return false;
    };
    let backlog = limit.backlog(&Shared(clock), &Kernel, limit.horizon_fat());
    if !limit.books_flows(backlog) {
        return false;
    }
    let hash = dataplane_common::thin::hash(packet, &maps::thin_keys());
    fair::fair_would(hash, which, limit, backlog, limit.charge(len as u64)) != 0
}

/// Would the port take the frame for one of a thin flow? What finds neighbours is none of a flow, and passes as well.
#[inline(always)]
fn is_thin(packet: &Packet, which: u32, len: u32, pace: u64) -> bool {
    if packet.finds_neighbours() {
        return true;
    }
    let hash = dataplane_common::thin::hash(packet, &maps::thin_keys());
    thin::thin_would(hash, which, len as u64, pace) != 0
}

/// Is there no surplus left for the frame? Takes it from there if there is.
#[inline(always)]
fn is_spent(limit: &LimitPolicy, slot: u32, clock: u32, units: u64) -> bool {
    match maps::SURPLUS.get_ptr_mut(slot * SURPLUS_CLOCKS + clock) {
        Some(surplus) => flood::ends(limit, &Shared(surplus), &Kernel, units),
        None => false,
    }
}
