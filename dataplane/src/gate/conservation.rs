//! Does every sealed window add up? What flows gained and what no flow accounts for must be what the registers
//! gained, for each port, direction and zone. Counted three times, by three parts of the program, so that a
//! mistake in one of them is seen in the first window that has it.

use crate::{
    flows::{Flows, Gain},
    registers::{Bank, Counts},
};
use dataplane_common::abi::Sizes;
use std::collections::BTreeMap;

/// What one direction of a slot stood at in a bank, by zone: registers, unattributed.
type Stood = Vec<(Counts, Counts)>;

/// The last sealed readings.
#[derive(Debug, Default)]
pub(super) struct Conservation {
    /// By bank and slot.
    last: [BTreeMap<u32, [Stood; 2]>; 2],
    /// Ports began or ceased to keep flows within the open window: it cannot be told.
    unsure: bool,
}

/// A sealed bank, and what goes with it.
pub(super) struct Sealed<'a> {
    pub(super) bank: u32,
    pub(super) sizes: &'a Sizes,
    /// By slot, from the tenant and to the tenant.
    pub(super) registers: Vec<(u32, &'a [Bank; 2])>,
    pub(super) flows: &'a Flows,
    pub(super) gains: &'a [Gain],
}

impl Conservation {
    /// The open window will not be checked.
    pub(super) fn unsure(&mut self) {
        self.unsure = true;
    }

    /// Keeps the readings, and returns the slots of `checked` that do not add up.
    pub(super) fn check(&mut self, sealed: &Sealed<'_>, checked: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut gained = BTreeMap::<(u32, u32, u32), Counts>::new();
        for gain in sealed.gains {
            let of = (
                u32::from(gain.key.slot),
                gain.direction,
                u32::from(gain.key.zone),
            );
            let sum = gained.entry(of).or_default();
            sum.packets = sum.packets.wrapping_add(gain.delivered.packets);
            sum.l2_bytes = sum.l2_bytes.wrapping_add(gain.delivered.l2_bytes);
            sum.l3_bytes = sum.l3_bytes.wrapping_add(gain.delivered.l3_bytes);
        }
        let unsure = std::mem::take(&mut self.unsure);
        let mut wrong = Vec::new();
        let mut now = BTreeMap::new();
        for (slot, banks) in &sealed.registers {
            let stood = [0, 1].map(|direction| stood(sealed, *slot, direction, banks));
            let before = self.last[sealed.bank as usize & 1].get(slot);
            if let Some(before) = before.filter(|_| !unsure && checked(*slot)) {
                let adds_up = (0..2_usize).all(|direction| {
                    let zones = stood[direction].iter().zip(&before[direction]);
                    (0_u32..).zip(zones).all(|(zone, (now, before))| {
                        let of = (*slot, direction as u32, zone);
                        let flows = gained.get(&of).copied().unwrap_or_default();
                        less(now.0, before.0) == more(flows, less(now.1, before.1))
                    })
                });
                if !adds_up {
                    wrong.push(*slot);
                }
            }
            now.insert(*slot, stood);
        }
        self.last[sealed.bank as usize & 1] = now;
        wrong
    }
}

fn stood(sealed: &Sealed<'_>, slot: u32, direction: u32, banks: &[Bank; 2]) -> Stood {
    let zones = (0..).zip(&banks[direction as usize & 1].zones);
    zones
        .map(|(zone, counts)| {
            let number = sealed.sizes.register(sealed.bank, slot, direction, zone);
            let unattributed = sealed.flows.unattributed(number);
            let unattributed = Counts {
                packets: unattributed.packets,
                l2_bytes: unattributed.l2_bytes,
                l3_bytes: unattributed.l3_bytes,
            };
            (*counts, unattributed)
        })
        .collect()
}

// Sums here are compared and not billed: they wrap, so that nothing is hidden.

fn less(now: Counts, before: Counts) -> Counts {
    Counts {
        packets: now.packets.wrapping_sub(before.packets),
        l2_bytes: now.l2_bytes.wrapping_sub(before.l2_bytes),
        l3_bytes: now.l3_bytes.wrapping_sub(before.l3_bytes),
    }
}

fn more(one: Counts, other: Counts) -> Counts {
    Counts {
        packets: one.packets.wrapping_add(other.packets),
        l2_bytes: one.l2_bytes.wrapping_add(other.l2_bytes),
        l3_bytes: one.l3_bytes.wrapping_add(other.l3_bytes),
    }
}
