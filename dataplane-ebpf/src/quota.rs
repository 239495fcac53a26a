//! A tenant's budget of bytes: the maps. The law is `dataplane_common::quota`.

use crate::{
    account::Book,
    limiter::{Kernel, Shared},
    maps,
};
use core::ptr::addr_of_mut;
use dataplane_common::{
    abi::{
        PortPolicy,
        quota::{QuotaCounts, quota_index},
    },
    quota::{Counts, Packet, Spent},
    wire::Wire,
};

/// An element of `QUOTA_COUNTS`.
struct Tenant(*mut QuotaCounts);

macro_rules! word {
    ($($name:ident = $field:ident;)+) => {
        $(#[inline(always)]
        fn $name(&self, at: u32) -> Shared {
            // SAFETY: points into an array map, whose elements live as long as the map; there are two words.
            Shared(unsafe { addr_of_mut!((*self.0).$field).cast::<u64>().add((at & 1) as usize) })
        })+
    };
}

impl Counts for Tenant {
    type Word = Shared;

    word! {
        within = within;
        beyond = beyond;
        clock = clocks;
    }
}

/// Takes the packet from its tenant's budget. False: that is spent, and the packet is to be dropped.
#[inline(always)]
pub fn take(port: &PortPolicy, book: &Book, zone: u32, wire: &Wire) -> bool {
    let about = book.direction as u64
        | (book.epoch.policy_set() as u64) << 1
        | (book.epoch.bank() as u64) << 2
        | (zone as u64 & 63) << 8
        | (port.quota as u64 - 1) << 16;
    quota_take(about, wire.l2_bytes) == 0
}

/// 0: it passes. `about`: direction, set of policy, bank, zone and account. A function of its own, which the verifier
/// walks once, and with a stack of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn quota_take(about: u64, l2_bytes: u64) -> u64 {
    let (direction, set, bank) = (
        about as u32 & 1,
        (about >> 1) as u32 & 1,
        (about >> 2) as u32 & 1,
    );
    let (zone, account) = ((about >> 8) as u32 & 63, (about >> 16) as u32 & 0xFFFF);
    let policy = maps::QUOTAS.get(quota_index(maps::slots().slots, set, account));
    let (Some(policy), Some(counts)) = (policy, maps::QUOTA_COUNTS.get_ptr_mut(account)) else {
        return 1;
    };
    if !policy.counts(direction, zone) {
        return 0;
    }
    let packet = Packet {
        l2_bytes,
        bank,
        direction,
    };
    (policy.take(&Tenant(counts), &Kernel, packet) == Spent::Refused) as u64
}
