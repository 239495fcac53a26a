//! The kernel, as the gate leaves it there: registers in two banks, a word with the window's number, slots
//! and their owners, and the anchor. Beside it the truth, which no program reads: what was booked, and in
//! which window.
//!
//! What it is not: no packet is parsed, and nothing of this is octroi's code.

use super::{clock::Clock, dice::Dice};
use metering::{
    ledger::Anchor,
    meter::{Owner, Sums},
    window::Counts,
};
use std::collections::{BTreeMap, BTreeSet};

pub const ZONES: usize = 4;
const REASONS: usize = 32;
const CLASSES: usize = 8;
const SLOTS: usize = 7;
/// What goes wrong on purpose, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A program books in a window that is sealed and read.
    Late,
    /// A slot gets its next owner before the last window of the one before is committed.
    Reused,
    /// What is booked in the last of the zones is not counted.
    Uncounted,
    /// The disk says that it has synced, and has not.
    Unsynced,
    /// A window is said to be committed, and is not.
    Dropped,
    /// The kernel does not keep the anchor.
    Forgotten,
}

impl Mutation {
    pub const ALL: [Self; 6] = [
        Self::Late,
        Self::Reused,
        Self::Uncounted,
        Self::Unsynced,
        Self::Dropped,
        Self::Forgotten,
    ];
}

/// Registers of one direction of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub zones: [[u64; 3]; ZONES],
    pub drops: [[u64; 2]; REASONS],
    pub classes: [[u64; 2]; CLASSES],
    pub skbs: [u64; 4],
}

impl Counters {
    fn all(&mut self) -> impl Iterator<Item = &mut u64> {
        let zones = self.zones.as_flattened_mut().iter_mut();
        let drops = self.drops.as_flattened_mut().iter_mut();
        let classes = self.classes.as_flattened_mut().iter_mut();
        zones.chain(drops).chain(classes).chain(&mut self.skbs)
    }

    fn add(&mut self, other: &Self) {
        let mut other = *other;
        self.all()
            .zip(other.all())
            .for_each(|(sum, more)| *sum += *more);
    }

    /// None of `other` may be above this.
    fn less(mut self, other: &Self) -> Self {
        let mut other = *other;
        self.all()
            .zip(other.all())
            .for_each(|(sum, less)| *sum -= *less);
        self
    }

    fn sums(&self) -> Sums {
        let counts = |[packets, l2_bytes, l3_bytes]: [u64; 3]| Counts {
            packets,
            l2_bytes,
            l3_bytes,
        };
        Sums {
            zones: self.zones.into_iter().map(counts).collect(),
            drops: self.drops.to_vec(),
            evidence: self.classes.to_vec(),
            skbs: self.skbs,
        }
    }

    /// Packets, layer-2 and layer-3 bytes of all zones.
    pub fn total(&self) -> [u64; 3] {
        let add = |sum: [u64; 3], zone: &[u64; 3]| std::array::from_fn(|at| sum[at] + zone[at]);
        self.zones.iter().fold([0; 3], add)
    }
}

pub type Both = [Counters; 2];
/// By incarnation.
pub type Totals = BTreeMap<u64, Both>;

/// Bits/s, and bytes at once.
pub type Ceiling = Option<(u64, u64)>;

#[derive(Clone)]
pub struct Port {
    pub incarnation: u64,
    pub name: String,
    pub tenant: u32,
    pub live: bool,
    pub since_ns: u64,
    base: Both,
    pub ceilings: [Ceiling; 2],
    /// Billionths of a bit that may pass now, and when that was so, CLOCK_MONOTONIC ns.
    tokens: [(u128, u64); 2],
}

/// What is known of an owner for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    pub name: String,
    pub tenant: u32,
    pub since_ns: u64,
}

pub struct Kernel {
    /// Boot and maps.
    pub epoch: ([u8; 16], [u8; 16]),
    pub window: u64,
    pub revision: u32,
    pub slots: Vec<Option<Port>>,
    banks: [Vec<Both>; 2],
    pub anchor: Anchor,
    incarnations: u64,
    /// Everything that was ever booked.
    pub truth: Totals,
    /// Of it, what is in the window that was published last.
    fresh: Totals,
    pub people: BTreeMap<u64, Person>,
    pub mutation: Option<Mutation>,
    pub packets: u64,
}

impl Kernel {
    pub fn new(epoch: ([u8; 16], [u8; 16]), first_window: u64, mutation: Option<Mutation>) -> Self {
        Self {
            epoch,
            window: first_window,
            revision: 1,
            slots: vec![None; SLOTS],
            banks: [vec![Both::default(); SLOTS], vec![Both::default(); SLOTS]],
            anchor: Anchor::default(),
            incarnations: 0,
            truth: Totals::new(),
            fresh: Totals::new(),
            people: BTreeMap::new(),
            mutation,
            packets: 0,
        }
    }

    /// A port comes. `settled`: owners whose slot may be given away. False: there is no slot.
    pub fn come(
        &mut self,
        name: &str,
        tenant: u32,
        clock: &Clock,
        dice: &mut Dice,
        settled: impl Fn(u64) -> bool,
    ) -> bool {
        let reuse = self.mutation == Some(Mutation::Reused);
        let free = self.slots.iter().position(Option::is_none);
        let retired = |port: &Option<Port>| {
            port.as_ref()
                .is_some_and(|port| !port.live && (reuse || settled(port.incarnation)))
        };
        let Some(slot) = free.or_else(|| self.slots.iter().position(retired)) else {
            return false;
        };
        self.incarnations += 1;
        let incarnation = self.incarnations;
        let now = clock.now();
        let ceilings = [0, 1].map(|_| match dice.below(4) {
            0 => None,
            _ => Some((
                1_000_001 + dice.below(1_000_000_000),
                3_000 + dice.below(3_000_000),
            )),
        });
        let full = |ceiling: Ceiling| {
            (
                u128::from(ceiling.unwrap_or_default().1) * 8_000_000_000,
                now.mono_ns,
            )
        };
        self.people.insert(
            incarnation,
            Person {
                name: name.to_owned(),
                tenant,
                since_ns: now.boot_ns,
            },
        );
        self.truth.insert(incarnation, Both::default());
        self.slots[slot] = Some(Port {
            incarnation,
            name: name.to_owned(),
            tenant,
            live: true,
            since_ns: now.boot_ns,
            base: self.both(slot),
            ceilings,
            tokens: ceilings.map(full),
        });
        true
    }

    pub fn live(&self) -> Vec<usize> {
        let live = |slot: &usize| self.slots[*slot].as_ref().is_some_and(|port| port.live);
        (0..SLOTS).filter(live).collect()
    }

    pub fn go(&mut self, slot: usize) -> Option<(String, u32)> {
        let port = self.slots[slot].as_mut().filter(|port| port.live)?;
        port.live = false;
        Some((port.name.clone(), port.tenant))
    }

    /// Some packets of some ports pass. `late`: programs that read the window's number before the last one
    /// was published are still running.
    pub fn traffic(&mut self, clock: &Clock, dice: &mut Dice, late: bool) {
        for slot in self.live() {
            for direction in 0..2 {
                if dice.one_in(3) {
                    let late = late && dice.one_in(2);
                    self.carry(slot, direction, clock, dice, late);
                }
            }
        }
    }

    fn carry(&mut self, slot: usize, direction: usize, clock: &Clock, dice: &mut Dice, late: bool) {
        let zone = dice.index(ZONES);
        let frame = 60 + dice.below(1_455);
        let wanted = match dice.below(3) {
            0 => 1,
            1 => dice.below(100),
            _ => u64::from(u32::MAX), // as much as passes
        };
        let Some(port) = self.slots[slot].as_mut() else {
            return;
        };
        let packets = admit(
            port,
            direction,
            clock.now().mono_ns,
            frame,
            wanted.min(1_000_000),
        );
        let incarnation = port.incarnation;
        let mut more = Counters::default();
        more.zones[zone] = [packets, packets * frame, packets * (frame - 14)];
        more.skbs = [packets, packets * frame, 0, 0];
        if dice.one_in(3) {
            let dropped = dice.below(50);
            more.drops[1 + dice.index(REASONS - 1)] = [dropped, dropped * 64];
            (more.skbs[2], more.skbs[3]) = (dropped, dropped * 64);
        }
        // By the frame's length, not by the dice, whose every throw would be another one. Of the rest nobody asked.
        if let Some(class) = more.classes.get_mut(frame as usize % (CLASSES + 4)) {
            *class = [packets, packets * frame];
        }
        self.packets += packets;
        self.book(slot, incarnation, direction, &more, late);
    }

    fn book(
        &mut self,
        slot: usize,
        incarnation: u64,
        direction: usize,
        more: &Counters,
        late: bool,
    ) {
        let bank = (self.window & 1) as usize ^ usize::from(late);
        let mut counted = *more;
        if self.mutation == Some(Mutation::Uncounted) {
            counted.zones[ZONES - 1] = [0; 3];
        }
        self.banks[bank][slot][direction].add(&counted);
        self.truth.entry(incarnation).or_default()[direction].add(more);
        if !late {
            self.fresh.entry(incarnation).or_default()[direction].add(more);
        }
    }

    /// The next window is open. Programs that run book in the one before until [`Kernel::barrier`].
    pub fn publish(&mut self) {
        self.window += 1;
        self.fresh.clear();
    }

    /// They have ended: what everybody was booked in the windows before the open one.
    pub fn barrier(&self) -> Totals {
        let sealed = |(incarnation, total): (&u64, &Both)| {
            let fresh = self.fresh.get(incarnation).copied().unwrap_or_default();
            (*incarnation, [0, 1].map(|at| total[at].less(&fresh[at])))
        };
        self.truth.iter().map(sealed).collect()
    }

    /// A bank as it stands.
    pub fn bank(&self, bank: u64) -> Vec<Both> {
        self.banks[(bank & 1) as usize].clone()
    }

    fn both(&self, slot: usize) -> Both {
        let mut both = self.banks[0][slot];
        (0..2).for_each(|at| both[at].add(&self.banks[1][slot][at]));
        both
    }

    /// What an owner stands at, from readings of both banks.
    pub fn owner(&self, slot: usize, even: &[Both], odd: &[Both]) -> Option<Owner> {
        let port = self.slots[slot].as_ref()?;
        let direction = |at: usize| {
            let mut both = even[slot][at];
            both.add(&odd[slot][at]);
            both.less(&port.base[at]).sums()
        };
        Some(Owner {
            incarnation: port.incarnation,
            name: port.name.clone(),
            tenant: port.tenant,
            live: port.live,
            since_ns: port.since_ns,
            directions: Some([direction(0), direction(1)]),
            ..Owner::default()
        })
    }

    /// Slots with owners that may be booked to: those who live, and those whose last window is not settled.
    pub fn owned(&self, settled: &BTreeSet<u64>) -> Vec<usize> {
        let is_owned = |slot: &usize| {
            let port = self.slots[*slot].as_ref();
            port.is_some_and(|port| port.live || !settled.contains(&port.incarnation))
        };
        (0..SLOTS).filter(is_owned).collect()
    }
}

/// How many frames pass a port's ceiling now: a bucket of its burst, refilled at its rate, from which the
/// last packet may borrow.
fn admit(port: &mut Port, direction: usize, mono_ns: u64, frame: u64, wanted: u64) -> u64 {
    let Some((bits, burst)) = port.ceilings[direction] else {
        return wanted.min(10_000);
    };
    let (tokens, at_ns) = &mut port.tokens[direction];
    let refill = u128::from(bits) * u128::from(mono_ns - *at_ns);
    let full = u128::from(burst) * 8_000_000_000;
    *tokens = (*tokens + refill).min(full);
    *at_ns = mono_ns;
    let price = u128::from(frame) * 8_000_000_000;
    let packets = (*tokens / price).min(u128::from(wanted));
    *tokens -= packets * price;
    packets as u64
}
