//! Reading the registers. Read-only: a register is never set back, here or anywhere.

use crate::{
    Error, Result,
    maps::{Block, Maps, Raw},
};
use aya::maps::PerCpuValues;
use dataplane_common::{
    abi::{BLOCK, DIRECTIONS, Drops, Register, Sizes, Skbs},
    reason::{DropReason, REASONS_MAX},
};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, hash_map::Entry};

/// One direction of a slot, both banks together, since its owner of now began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direction {
    /// Delivered, by zone; zones without a packet are left out.
    pub zones: Vec<(u32, Counts)>,
    /// Dropped, by reason; reasons without a packet are left out.
    pub drops: Vec<(String, DropCounts)>,
    /// Raw skbs.
    pub skbs: SkbCounts,
}

/// What was delivered, as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see dataplane_common::abi::Register")]
pub struct Counts {
    pub packets: u64,
    pub l2_bytes: u64,
    pub l3_bytes: u64,
}

/// What was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see dataplane_common::abi::Drops")]
pub struct DropCounts {
    pub packets: u64,
    pub l2_bytes: u64,
}

/// Raw skbs and `skb->len`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see dataplane_common::abi::Skbs")]
pub struct SkbCounts {
    pub delivered: u64,
    pub delivered_len: u64,
    pub dropped: u64,
    pub dropped_len: u64,
}

impl Direction {
    /// All zones together.
    pub fn total(&self) -> Counts {
        self.zones
            .iter()
            .fold(Counts::default(), |sum, (_, counts)| Counts {
                packets: sum.packets + counts.packets,
                l2_bytes: sum.l2_bytes + counts.l2_bytes,
                l3_bytes: sum.l3_bytes + counts.l3_bytes,
            })
    }

    /// One zone; zero when it has no packet.
    pub fn zone(&self, zone: u32) -> Counts {
        self.zones
            .iter()
            .find(|(known, _)| *known == zone)
            .map_or_else(Counts::default, |z| z.1)
    }

    /// All reasons together.
    pub fn dropped(&self) -> DropCounts {
        self.drops
            .iter()
            .fold(DropCounts::default(), |sum, (_, counts)| DropCounts {
                packets: sum.packets + counts.packets,
                l2_bytes: sum.l2_bytes + counts.l2_bytes,
            })
    }

    /// What came after `before`, an earlier reading of the same slot and owner.
    pub fn since(&self, before: &Self) -> Self {
        let zones = self.zones.iter().map(|(zone, now)| {
            let old = before.zone(*zone);
            let counts = Counts {
                packets: now.packets.saturating_sub(old.packets),
                l2_bytes: now.l2_bytes.saturating_sub(old.l2_bytes),
                l3_bytes: now.l3_bytes.saturating_sub(old.l3_bytes),
            };
            (*zone, counts)
        });
        let drops = self.drops.iter().map(|(name, now)| {
            let old = before.drops.iter().find(|(known, _)| known == name);
            let old = old.map_or_else(DropCounts::default, |found| found.1);
            let counts = DropCounts {
                packets: now.packets.saturating_sub(old.packets),
                l2_bytes: now.l2_bytes.saturating_sub(old.l2_bytes),
            };
            (name.clone(), counts)
        });
        let (now, old) = (&self.skbs, &before.skbs);
        Self {
            zones: zones.collect(),
            drops: drops.collect(),
            skbs: SkbCounts {
                delivered: now.delivered.saturating_sub(old.delivered),
                delivered_len: now.delivered_len.saturating_sub(old.delivered_len),
                dropped: now.dropped.saturating_sub(old.dropped),
                dropped_len: now.dropped_len.saturating_sub(old.dropped_len),
            },
        }
    }

    /// One reason.
    pub fn dropped_for(&self, reason: DropReason) -> DropCounts {
        let name = reason.name();
        self.drops
            .iter()
            .find(|(known, _)| *known == name)
            .map_or_else(DropCounts::default, |d| d.1)
    }
}

/// One bank of a slot and direction, as it stands: what [`crate::cut`] reads when the bank is still.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bank {
    /// By zone.
    pub zones: Vec<Counts>,
    /// By reason's number.
    pub drops: Vec<DropCounts>,
    /// Raw skbs.
    pub skbs: SkbCounts,
}

/// The copies of all CPUs together, of a block of registers with `N` counters each.
type Totals<const N: usize> = Box<Block<[u64; N]>>;

fn totals<T: Copy, const N: usize>(
    copies: &PerCpuValues<Raw<Block<T>>>,
    counters: fn(T) -> [u64; N],
) -> Totals<N>
where
    Raw<Block<T>>: aya::Pod,
{
    let mut totals = Box::new([[0; N]; BLOCK as usize]);
    for copy in copies.iter() {
        for (total, register) in totals.iter_mut().zip(copy.0) {
            *total = more(*total, counters(register));
        }
    }
    totals
}

fn more<const N: usize>(total: [u64; N], other: [u64; N]) -> [u64; N] {
    std::array::from_fn(|index| total[index].wrapping_add(other[index]))
}

fn less<const N: usize>(total: [u64; N], base: [u64; N]) -> [u64; N] {
    std::array::from_fn(|index| total[index].saturating_sub(base[index]))
}

fn register_counters(register: Register) -> [u64; 3] {
    [register.packets, register.l2_bytes, register.l3_bytes]
}

fn drop_counters(drops: Drops) -> [u64; 2] {
    [drops.packets, drops.l2_bytes]
}

fn skb_counters(skbs: Skbs) -> [u64; 4] {
    let Skbs {
        delivered,
        delivered_len,
        dropped,
        dropped_len,
    } = skbs;
    [delivered, delivered_len, dropped, dropped_len]
}

impl Counts {
    const fn numbers(self) -> [u64; 3] {
        [self.packets, self.l2_bytes, self.l3_bytes]
    }

    fn new([packets, l2_bytes, l3_bytes]: [u64; 3]) -> Self {
        Self {
            packets,
            l2_bytes,
            l3_bytes,
        }
    }
}

impl DropCounts {
    const fn numbers(self) -> [u64; 2] {
        [self.packets, self.l2_bytes]
    }

    fn new([packets, l2_bytes]: [u64; 2]) -> Self {
        Self { packets, l2_bytes }
    }
}

impl SkbCounts {
    const fn numbers(self) -> [u64; 4] {
        [
            self.delivered,
            self.delivered_len,
            self.dropped,
            self.dropped_len,
        ]
    }

    fn new([delivered, delivered_len, dropped, dropped_len]: [u64; 4]) -> Self {
        Self {
            delivered,
            delivered_len,
            dropped,
            dropped_len,
        }
    }
}

/// Reads registers, each block of them once: a reader is for one look, and sees nothing that is
/// booked after it has read a block.
pub struct Reader<'a> {
    maps: &'a Maps,
    sizes: &'a Sizes,
    registers: HashMap<u32, Totals<3>>,
    drops: HashMap<u32, Totals<2>>,
    skbs: HashMap<u32, Totals<4>>,
}

/// A register of a map in blocks; the block is read when no register of it was before.
macro_rules! in_block {
    ($reader:ident.$map:ident, $name:literal, $number:expr, $counters:expr) => {{
        let number: u32 = $number;
        let block = match $reader.$map.entry(number / BLOCK) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let copies = $reader.maps.$map.get(unknown.key(), 0);
                let copies = copies.map_err(Error::map($name))?;
                unknown.insert(totals(&copies, $counters))
            }
        };
        block[(number % BLOCK) as usize]
    }};
}

impl<'a> Reader<'a> {
    /// Nothing is read yet.
    pub fn new(maps: &'a Maps, sizes: &'a Sizes) -> Self {
        Self {
            maps,
            sizes,
            registers: HashMap::new(),
            drops: HashMap::new(),
            skbs: HashMap::new(),
        }
    }

    fn register(&mut self, bank: u32, slot: u32, direction: u32, zone: u32) -> Result<[u64; 3]> {
        let number = self.sizes.register(bank, slot, direction, zone);
        Ok(in_block!(
            self.registers,
            "REGISTERS",
            number,
            register_counters
        ))
    }

    fn drops(&mut self, bank: u32, slot: u32, direction: u32, reason: u32) -> Result<[u64; 2]> {
        let number = self.sizes.drops(bank, slot, direction, reason);
        Ok(in_block!(self.drops, "DROPS", number, drop_counters))
    }

    fn skbs(&mut self, bank: u32, slot: u32, direction: u32) -> Result<[u64; 4]> {
        let number = self.sizes.skbs(bank, slot, direction);
        Ok(in_block!(self.skbs, "SKBS", number, skb_counters))
    }

    /// Both banks of a slot and direction together, as numbers: by zone, by reason, and skbs.
    fn both(&mut self, slot: u32, direction: u32) -> Result<Both> {
        let mut both = Both::default();
        for zone in 0..self.sizes.zones {
            let [even, odd] = [
                self.register(0, slot, direction, zone)?,
                self.register(1, slot, direction, zone)?,
            ];
            both.zones.push(more(even, odd));
        }
        for reason in 0..REASONS_MAX as u32 {
            let [even, odd] = [
                self.drops(0, slot, direction, reason)?,
                self.drops(1, slot, direction, reason)?,
            ];
            both.drops.push(more(even, odd));
        }
        both.skbs = more(
            self.skbs(0, slot, direction)?,
            self.skbs(1, slot, direction)?,
        );
        Ok(both)
    }

    /// Reads one direction of a slot.
    ///
    /// The banks may be written while they are read: these are totals to look at, not a window.
    /// [`crate::cut`] reads windows.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn read(&mut self, slot: u32, direction: u32) -> Result<Direction> {
        let both = self.since_base(slot, direction)?;
        let mut result = Direction::default();
        for (zone, numbers) in (0..).zip(both.zones) {
            let counts = Counts::new(numbers);
            if counts.packets != 0 {
                result.zones.push((zone, counts));
            }
        }
        for reason in DropReason::ALL {
            let counts = DropCounts::new(both.drops[*reason as usize]);
            if counts.packets != 0 {
                result.drops.push((reason.name().to_owned(), counts));
            }
        }
        result.skbs = SkbCounts::new(both.skbs);
        Ok(result)
    }

    /// Both banks of a slot and direction since its owner began, as numbers to look at.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn since_base(&mut self, slot: u32, direction: u32) -> Result<Both> {
        let both = self.both(slot, direction)?;
        let base = base(self.maps, self.sizes, slot, direction)?;
        let zones = both.zones.into_iter().zip(base.zones);
        let drops = both.drops.into_iter().zip(base.drops);
        Ok(Both {
            zones: zones.map(|(total, base)| less(total, base)).collect(),
            drops: drops.map(|(total, base)| less(total, base)).collect(),
            skbs: less(both.skbs, base.skbs),
        })
    }

    /// Reads one bank of a slot and direction.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn bank(&mut self, bank: u32, slot: u32, direction: u32) -> Result<Bank> {
        let mut read = Bank::default();
        for zone in 0..self.sizes.zones {
            let counters = self.register(bank, slot, direction, zone)?;
            read.zones.push(Counts::new(counters));
        }
        for reason in 0..REASONS_MAX as u32 {
            let counters = self.drops(bank, slot, direction, reason)?;
            read.drops.push(DropCounts::new(counters));
        }
        read.skbs = SkbCounts::new(self.skbs(bank, slot, direction)?);
        Ok(read)
    }
}

/// A slot's counters in one direction, as numbers in the order of [`Counts`], [`DropCounts`] and
/// [`SkbCounts`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Both {
    /// By zone.
    pub zones: Vec<[u64; 3]>,
    /// By reason's number.
    pub drops: Vec<[u64; 2]>,
    /// Raw skbs.
    pub skbs: [u64; 4],
}

impl Both {
    /// What both banks stand at, less what they stood at when the slot's owner began. `None` when
    /// that was more: the registers are not those that the base was taken of.
    pub(crate) fn of(even: &Bank, odd: &Bank, base: &Self) -> Option<Self> {
        let zones = even.zones.iter().zip(&odd.zones).zip(&base.zones);
        let drops = even.drops.iter().zip(&odd.drops).zip(&base.drops);
        Some(Self {
            zones: zones
                .map(|((even, odd), base)| strictly(even.numbers(), odd.numbers(), *base))
                .collect::<Option<_>>()?,
            drops: drops
                .map(|((even, odd), base)| strictly(even.numbers(), odd.numbers(), *base))
                .collect::<Option<_>>()?,
            skbs: strictly(even.skbs.numbers(), odd.skbs.numbers(), base.skbs)?,
        })
    }
}

fn strictly<const N: usize>(even: [u64; N], odd: [u64; N], base: [u64; N]) -> Option<[u64; N]> {
    let mut sums = [0; N];
    for (at, sum) in sums.iter_mut().enumerate() {
        *sum = even[at].checked_add(odd[at])?.checked_sub(base[at])?;
    }
    Some(sums)
}

/// Where the base of one direction of a slot stands: those of both banks together are one.
fn base_numbers(sizes: &Sizes, slot: u32, direction: u32) -> (Vec<u32>, Vec<u32>, u32) {
    let zones = (0..sizes.zones).map(|zone| sizes.register(0, slot, direction, zone));
    let drops = (0..REASONS_MAX as u32).map(|reason| sizes.drops(0, slot, direction, reason));
    (
        zones.collect(),
        drops.collect(),
        sizes.skbs(0, slot, direction),
    )
}

/// What one direction of a slot stood at when its owner of now began.
pub(crate) fn base(maps: &Maps, sizes: &Sizes, slot: u32, direction: u32) -> Result<Both> {
    let (zones, drops, skbs) = base_numbers(sizes, slot, direction);
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
    let skbs = maps.base_skbs.get(&skbs, 0);
    Ok(Both {
        zones: zones.iter().map(register).collect::<Result<_>>()?,
        drops: drops.iter().map(dropped).collect::<Result<_>>()?,
        skbs: skb_counters(skbs.map_err(Error::map("BASE_SKBS"))?.0),
    })
}

/// Notes what a slot stands at as the base of its next owner. Nothing may be booked to the slot.
///
/// # Errors
/// [`Error::Map`].
pub(crate) fn rebase(maps: &mut Maps, sizes: &Sizes, slot: u32) -> Result<()> {
    const { assert!(DIRECTIONS == 2) };
    let mut reader = Reader::new(maps, sizes);
    let both = [reader.both(slot, 0)?, reader.both(slot, 1)?];
    for (direction, both) in (0..).zip(both) {
        let (zones, drops, skbs) = base_numbers(sizes, slot, direction);
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
        let [delivered, delivered_len, dropped, dropped_len] = both.skbs;
        let base = Skbs {
            delivered,
            delivered_len,
            dropped,
            dropped_len,
        };
        maps.base_skbs
            .set(skbs, Raw(base), 0)
            .map_err(Error::map("BASE_SKBS"))?;
    }
    Ok(())
}
