//! What a slot stood at when its owner of now began: readers subtract it, and no register is ever set back.

use super::{Both, Reader, drop_counters, mark_counters, register_counters, skb_counters};
use crate::{
    Error, Result,
    maps::{Maps, Raw},
};
use dataplane_common::{
    abi::{DIRECTIONS, Drops, Register, Sizes, Skbs, quota::Marks},
    encryption::CLASSES,
    reason::REASONS_MAX,
};

/// Where the base of one direction of a slot stands: those of both banks together are one.
struct BaseNumbers {
    zones: Vec<u32>,
    drops: Vec<u32>,
    evidence: Vec<u32>,
    skbs: u32,
}

fn base_numbers(sizes: &Sizes, slot: u32, direction: u32) -> BaseNumbers {
    let zones = (0..sizes.zones).map(|zone| sizes.register(0, slot, direction, zone));
    let drops = (0..REASONS_MAX as u32).map(|reason| sizes.drops(0, slot, direction, reason));
    let evidence = (0..CLASSES).map(|class| sizes.evidence(0, slot, direction, class));
    BaseNumbers {
        zones: zones.collect(),
        drops: drops.collect(),
        evidence: evidence.collect(),
        skbs: sizes.skbs(0, slot, direction),
    }
}

/// What one direction of a slot stood at when its owner of now began.
pub(crate) fn base(maps: &Maps, sizes: &Sizes, slot: u32, direction: u32) -> Result<Both> {
    let numbers = base_numbers(sizes, slot, direction);
    let register = |number: &u32| {
        let base = maps.base_registers.get(number, 0);
        base.map_err(Error::map("BASE_REGISTERS"))
            .map(|raw| register_counters(raw.0))
    };
    let dropped = |number: &u32| {
        let base = maps.base_drops.get(number, 0);
        base.map_err(Error::map("BASE_DROPS"))
            .map(|raw| drop_counters(raw.0))
    };
    let shown = |number: &u32| {
        let base = maps.base_evidence.get(number, 0);
        base.map_err(Error::map("BASE_EVIDENCE"))
            .map(|raw| drop_counters(raw.0))
    };
    let skbs = maps.base_skbs.get(&numbers.skbs, 0);
    Ok(Both {
        zones: numbers.zones.iter().map(register).collect::<Result<_>>()?,
        drops: numbers.drops.iter().map(dropped).collect::<Result<_>>()?,
        evidence: numbers.evidence.iter().map(shown).collect::<Result<_>>()?,
        skbs: skb_counters(skbs.map_err(Error::map("BASE_SKBS"))?.0),
    })
}

/// The same of packets that were marked, or could not be.
pub(super) fn marks(maps: &Maps, sizes: &Sizes, slot: u32, direction: u32) -> Result<[u64; 2]> {
    let base = maps.base_marks.get(&sizes.marks(slot, direction), 0);
    let base = base.map_err(Error::map("BASE_MARKS"))?;
    Ok(mark_counters(base.0))
}

/// Notes what a slot stands at as the base of its next owner. Nothing may be booked to the slot.
///
/// # Errors
/// [`Error::Map`].
pub(crate) fn rebase(maps: &mut Maps, sizes: &Sizes, slot: u32) -> Result<()> {
    const { assert!(DIRECTIONS == 2) };
    let mut marks_now = Vec::new();
    let mut reader = Reader::new(maps, sizes);
    let both = [reader.both(slot, 0)?, reader.both(slot, 1)?];
    for direction in 0..DIRECTIONS {
        let [marked, not_marked] = reader.marks(slot, direction)?;
        marks_now.push((sizes.marks(slot, direction), Marks { marked, not_marked }));
    }
    for (number, base) in marks_now {
        maps.base_marks
            .set(number, Raw(base), 0)
            .map_err(Error::map("BASE_MARKS"))?;
    }
    for (direction, both) in (0..).zip(both) {
        let numbers = base_numbers(sizes, slot, direction);
        let (zones, drops) = (numbers.zones, numbers.drops);
        for (number, [packets, l2_bytes, l3_bytes]) in zones.into_iter().zip(both.zones) {
            let base = Register {
                packets,
                l2_bytes,
                l3_bytes,
            };
            maps.base_registers
                .set(number, Raw(base), 0)
                .map_err(Error::map("BASE_REGISTERS"))?;
        }
        for (number, [packets, l2_bytes]) in drops.into_iter().zip(both.drops) {
            let base = Drops { packets, l2_bytes };
            maps.base_drops
                .set(number, Raw(base), 0)
                .map_err(Error::map("BASE_DROPS"))?;
        }
        for (number, [packets, l2_bytes]) in numbers.evidence.into_iter().zip(both.evidence) {
            let base = Drops { packets, l2_bytes };
            maps.base_evidence
                .set(number, Raw(base), 0)
                .map_err(Error::map("BASE_EVIDENCE"))?;
        }
        let [delivered, delivered_len, dropped, dropped_len] = both.skbs;
        let base = Skbs {
            delivered,
            delivered_len,
            dropped,
            dropped_len,
        };
        maps.base_skbs
            .set(numbers.skbs, Raw(base), 0)
            .map_err(Error::map("BASE_SKBS"))?;
    }
    Ok(())
}
