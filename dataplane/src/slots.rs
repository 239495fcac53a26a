//! Who owns which register slot: the daemon's book, kept in a pinned map so that the next daemon
//! reads what the last one knew.

use crate::{
    Error, Result, host,
    maps::{Maps, Raw},
    object::Plan,
    registers,
};
use dataplane_common::abi::{Slot, slot_state};
use std::collections::HashMap;

/// The book.
#[derive(Debug)]
pub(crate) struct Slots {
    all: Vec<Slot>,
    /// Live ones, by state and name: thousands are looked up in each revision.
    live: HashMap<(u32, [u8; 64]), u32>,
    /// No slot below it is free: none becomes so again.
    fresh: usize,
    next_incarnation: u64,
}

/// Who gets a slot.
pub(crate) struct Owner<'a> {
    /// [`slot_state`].
    pub(crate) state: u32,
    /// Name of the port or uplink.
    pub(crate) name: &'a str,
    /// Tenant's number; 0 for an uplink.
    pub(crate) tenant: u32,
    /// Name of the interface.
    pub(crate) interface: &'a str,
    /// VLAN id, or 0.
    pub(crate) vlan: u32,
}

pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (place, byte) in bytes.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    bytes
}

fn boottime_ns() -> u64 {
    host::clock_ns(libc::CLOCK_BOOTTIME)
}

fn is_live(slot: &Slot) -> bool {
    matches!(slot.state, slot_state::PORT | slot_state::UPLINK)
}

impl Slots {
    /// Reads the book.
    pub(crate) fn open(maps: &Maps, plan: &Plan) -> Result<Self> {
        let mut all = Vec::with_capacity(plan.sizes.slots as usize);
        for index in 0..plan.sizes.slots {
            all.push(maps.slots.get(&index, 0).map_err(Error::map("SLOTS"))?.0);
        }
        let next_incarnation = all.iter().map(|slot| slot.incarnation).max().unwrap_or(0) + 1;
        let live = all.iter().enumerate().rev();
        let live = live.filter(|(_, slot)| is_live(slot));
        let live = live.map(|(number, slot)| ((slot.state, slot.name), number as u32));
        Ok(Self {
            live: live.collect(),
            all,
            fresh: 1,
            next_incarnation,
        })
    }

    pub(crate) fn get(&self, slot: u32) -> &Slot {
        &self.all[slot as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Slot)> {
        (0u32..).zip(&self.all)
    }

    /// The live slot of a port or uplink by name.
    pub(crate) fn find(&self, state: u32, name: &str) -> Option<u32> {
        self.live.get(&(state, padded(name))).copied()
    }

    /// Writes one entry, in memory and in the kernel.
    pub(crate) fn set(&mut self, maps: &mut Maps, slot: u32, entry: Slot) -> Result<()> {
        maps.slots
            .set(slot, Raw(entry), 0)
            .map_err(Error::map("SLOTS"))?;
        let before = std::mem::replace(&mut self.all[slot as usize], entry);
        let key = (before.state, before.name);
        if self.live.get(&key) == Some(&slot) {
            self.live.remove(&key);
        }
        if is_live(&entry) {
            self.live.insert((entry.state, entry.name), slot);
        }
        Ok(())
    }

    /// Gives a new owner a slot: a fresh one while there is one, then the one that was given up
    /// longest ago and is not `kept`, with its counts noted as the new owner's zero.
    pub(crate) fn allocate(
        &mut self,
        maps: &mut Maps,
        plan: &Plan,
        owner: &Owner<'_>,
        kept: impl Fn(u32) -> bool,
    ) -> Result<u32> {
        let is_used = |slot: &&Slot| slot.state != slot_state::FREE;
        self.fresh += self.all[self.fresh..].iter().take_while(is_used).count();
        let fresh = self.iter().nth(self.fresh);
        let oldest = || {
            self.iter()
                .filter(|(number, slot)| slot.state == slot_state::RETIRED && !kept(*number))
                .min_by_key(|(_, slot)| slot.incarnation)
        };
        let (slot, _) = fresh
            .or_else(oldest)
            .ok_or(Error::NoSlot(plan.sizes.slots))?;
        // A fresh slot too: an earlier daemon may have died before it wrote the book.
        registers::rebase(maps, &plan.sizes, slot)?;
        let entry = Slot {
            state: owner.state,
            tenant: owner.tenant,
            vlan: owner.vlan,
            incarnation: self.next_incarnation,
            since_ns: boottime_ns(),
            name: padded(owner.name),
            interface: padded(owner.interface),
            ..Slot::default()
        };
        self.next_incarnation += 1;
        self.set(maps, slot, entry)?;
        Ok(slot)
    }
}
