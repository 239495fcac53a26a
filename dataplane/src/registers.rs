//! Reading the registers. Read-only: a register is never set back, here or anywhere.

mod base;

use crate::{
    Error, Result,
    maps::{Block, Maps, Raw},
};
use aya::maps::PerCpuValues;
pub(crate) use base::{base, rebase};
use dataplane_common::{
    abi::{BLOCK, Drops, Register, Sizes, Skbs, quota::Marks},
    encryption::{CLASSES, Class},
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
    /// Delivered under an encryption policy, by class; classes without a packet are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<(String, DropCounts)>,
    /// Delivered over a queue, and told so.
    #[serde(default, skip_serializing_if = "MarkCounts::is_none")]
    pub ecn: MarkCounts,
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

/// What was to be marked with Congestion Experienced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see dataplane_common::abi::quota::Marks")]
pub struct MarkCounts {
    pub marked: u64,
    pub not_marked: u64,
}

impl MarkCounts {
    /// No packet was.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
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
        let (now, old) = (&self.skbs, &before.skbs);
        Self {
            zones: zones.collect(),
            drops: by_name(&self.drops, &before.drops),
            evidence: by_name(&self.evidence, &before.evidence),
            ecn: MarkCounts {
                marked: self.ecn.marked.saturating_sub(before.ecn.marked),
                not_marked: (self.ecn.not_marked).saturating_sub(before.ecn.not_marked),
            },
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

/// What came after `before`, name by name.
fn by_name(
    now: &[(String, DropCounts)],
    before: &[(String, DropCounts)],
) -> Vec<(String, DropCounts)> {
    let counts = now.iter().map(|(name, now)| {
        let old = before.iter().find(|(known, _)| known == name);
        let old = old.map_or_else(DropCounts::default, |found| found.1);
        let counts = DropCounts {
            packets: now.packets.saturating_sub(old.packets),
            l2_bytes: now.l2_bytes.saturating_sub(old.l2_bytes),
        };
        (name.clone(), counts)
    });
    counts.collect()
}

/// One bank of a slot and direction, as it stands: what [`crate::cut`] reads when the bank is still.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bank {
    /// By zone.
    pub zones: Vec<Counts>,
    /// By reason's number.
    pub drops: Vec<DropCounts>,
    /// By class's number.
    pub evidence: Vec<DropCounts>,
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

fn mark_counters(marks: Marks) -> [u64; 2] {
    [marks.marked, marks.not_marked]
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
    evidence: HashMap<u32, Totals<2>>,
    marks: HashMap<u32, Totals<2>>,
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
            evidence: HashMap::new(),
            marks: HashMap::new(),
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

    fn evidence(&mut self, bank: u32, slot: u32, direction: u32, class: u32) -> Result<[u64; 2]> {
        let number = self.sizes.evidence(bank, slot, direction, class);
        Ok(in_block!(self.evidence, "EVIDENCE", number, drop_counters))
    }

    fn skbs(&mut self, bank: u32, slot: u32, direction: u32) -> Result<[u64; 4]> {
        let number = self.sizes.skbs(bank, slot, direction);
        Ok(in_block!(self.skbs, "SKBS", number, skb_counters))
    }

    fn marks(&mut self, slot: u32, direction: u32) -> Result<[u64; 2]> {
        let number = self.sizes.marks(slot, direction);
        Ok(in_block!(self.marks, "MARKS", number, mark_counters))
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
        for class in 0..CLASSES {
            let [even, odd] = [
                self.evidence(0, slot, direction, class)?,
                self.evidence(1, slot, direction, class)?,
            ];
            both.evidence.push(more(even, odd));
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
        for class in Class::ALL {
            let counts = DropCounts::new(both.evidence[class as usize]);
            if counts.packets != 0 {
                result.evidence.push((class.name().to_owned(), counts));
            }
        }
        let base = base::marks(self.maps, self.sizes, slot, direction)?;
        let [marked, not_marked] = less(self.marks(slot, direction)?, base);
        result.ecn = MarkCounts { marked, not_marked };
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
        let evidence = both.evidence.into_iter().zip(base.evidence);
        Ok(Both {
            zones: zones.map(|(total, base)| less(total, base)).collect(),
            drops: drops.map(|(total, base)| less(total, base)).collect(),
            evidence: evidence.map(|(total, base)| less(total, base)).collect(),
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
        for class in 0..CLASSES {
            let counters = self.evidence(bank, slot, direction, class)?;
            read.evidence.push(DropCounts::new(counters));
        }
        read.skbs = SkbCounts::new(self.skbs(bank, slot, direction)?);
        Ok(read)
    }
}

/// A slot's counters in one direction, as numbers in the order of [`Counts`], [`DropCounts`] and
/// [`SkbCounts`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Both {
    /// By zone.
    pub zones: Vec<[u64; 3]>,
    /// By reason's number.
    pub drops: Vec<[u64; 2]>,
    /// By class of evidence.
    pub evidence: Vec<[u64; 2]>,
    /// Raw skbs.
    pub skbs: [u64; 4],
}

impl Both {
    /// What both banks stand at, less what they stood at when the slot's owner began. `None` when
    /// that was more: the registers are not those that the base was taken of.
    pub(crate) fn of(even: &Bank, odd: &Bank, base: &Self) -> Option<Self> {
        let zones = even.zones.iter().zip(&odd.zones).zip(&base.zones);
        let drops = even.drops.iter().zip(&odd.drops).zip(&base.drops);
        let evidence = even.evidence.iter().zip(&odd.evidence);
        let evidence = evidence.zip(&base.evidence);
        Some(Self {
            zones: zones
                .map(|((even, odd), base)| strictly(even.numbers(), odd.numbers(), *base))
                .collect::<Option<_>>()?,
            drops: drops
                .map(|((even, odd), base)| strictly(even.numbers(), odd.numbers(), *base))
                .collect::<Option<_>>()?,
            evidence: evidence
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
