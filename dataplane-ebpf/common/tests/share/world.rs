//! An uplink and its tenants in a time that the test makes: every packet goes through the law as it is
//! in the kernel.

use crate::{Draw, fill::Want, harness::Alone};
use dataplane_common::{
    abi::share::{ShareClocks, ShareLine, SharePace, SharePolicy, UplinkPolicy, UplinkShare},
    limit::Times,
    share::{self, Clocks, Link, Refused, Taken, ask::Ask},
    units::BitsPerSecond,
};
use std::{cell::Cell, cmp::Reverse, collections::BinaryHeap};

/// An uplink's words.
#[derive(Debug)]
pub struct Words {
    counts: [Alone; 6],
    lines: [Cell<ShareLine>; 4],
    due: [Alone; UplinkShare::SLICES as usize],
}

impl Default for Words {
    fn default() -> Self {
        Self {
            counts: Default::default(),
            lines: Default::default(),
            due: std::array::from_fn(|_| Alone::default()),
        }
    }
}

impl<'a> Link for &'a Words {
    type Word = &'a Alone;

    fn state(&self) -> &'a Alone {
        &self.counts[0]
    }

    fn guaranteed(&self) -> &'a Alone {
        &self.counts[1]
    }

    fn borrowed(&self) -> &'a Alone {
        &self.counts[2]
    }

    fn refused(&self) -> &'a Alone {
        &self.counts[3]
    }

    fn limited(&self) -> &'a Alone {
        &self.counts[4]
    }

    fn early(&self) -> &'a Alone {
        &self.counts[5]
    }

    fn due(&self, at: u64) -> &'a Alone {
        &self.due[at as usize]
    }

    fn pace(&self, at: u64) -> SharePace {
        self.counts(at).pace
    }

    fn counts(&self, at: u64) -> ShareLine {
        self.lines[at as usize].get()
    }

    fn began_ns(&self, at: u64) -> u64 {
        self.pace(at).origin_ns
    }

    fn set_carried(&self, at: u64, carried: u64) {
        let mut line = self.lines[at as usize].get();
        line.pace.carried = carried;
        self.lines[at as usize].set(line);
    }

    fn set_pace(&self, at: u64, pace: &SharePace) {
        let line = self.lines[at as usize].get();
        let carried = line.pace.carried;
        let pace = SharePace { carried, ..*pace };
        self.lines[at as usize].set(ShareLine { pace, ..line });
    }

    fn set_counts(&self, at: u64, line: &ShareLine) {
        let pace = self.lines[at as usize].get().pace;
        self.lines[at as usize].set(ShareLine { pace, ..*line });
    }
}

/// A tenant's clocks, in their order.
pub fn clocks<C>(all: &[C; 5]) -> Clocks<&C> {
    let [ceiling, guarantee, borrowed, limited, departs] = all;
    Clocks {
        ceiling,
        guarantee,
        borrowed,
        limited,
        departs,
    }
}

/// A tenant that sends without looking at what becomes of it.
#[derive(Debug)]
pub struct Tenant {
    pub want: Want,
    /// Largest packet, layer-2 bytes.
    pub largest: u64,
    pub policy: SharePolicy,
    clocks: [Alone; 5],
    /// Bytes of the link that passed since the test took them.
    pub passed: u64,
    /// And what was offered.
    pub offered: u64,
    /// When it offers its next packet.
    turn: u64,
}

/// A link and who shares it.
pub struct World {
    pub uplink: UplinkPolicy,
    pub words: Words,
    pub tenants: Vec<Tenant>,
    pub now_ns: u64,
    pub draw: Draw,
    /// Whether the last packet was of a fat flow; and the first so many tenants have no others.
    pub fat: bool,
    pub bulk: usize,
    /// What passed and a link of so many bits per second has not carried, bits times ns per second, and when that was.
    behind: (u64, u128, u64),
    due: BinaryHeap<Reverse<(u64, usize, u64)>>,
}

/// Bits per second times ns in a byte.
const PARTS: u128 = 8_000_000_000;

/// Where packets wait, one packet in so many is thin.
pub const THIN: u64 = 32;

/// Burst of a ceiling here, bytes: 4 ms of it, and a few packets.
pub fn ceiling_burst(ceiling: u64, largest: u64) -> u64 {
    (ceiling / 2_000).max(4 * largest)
}

impl World {
    /// Nobody has sent anything yet. No overhead: rates are those of the oracle. Nothing can wait.
    pub fn new(capacity: u64, wants: &[Want], largest: &[u64], draw: Draw) -> Self {
        Self::with(capacity, wants, largest, draw, false)
    }

    /// The same; where it is `queued`, what is over a share waits for its departure.
    pub fn with(capacity: u64, wants: &[Want], largest: &[u64], draw: Draw, queued: bool) -> Self {
        Self::priced(capacity, wants, largest, draw, (queued, 0))
    }

    /// The same where each packet pays `price` bytes above its own.
    pub fn priced(
        capacity: u64,
        wants: &[Want],
        largest: &[u64],
        mut draw: Draw,
        (queued, price): (bool, u32),
    ) -> Self {
        let now_ns = 1 + draw.up_to(1 << 55);
        let times = Times {
            now_ns,
            switch_ns: now_ns,
            coarse_slack_ns: 0,
        };
        let mut uplink = UplinkPolicy::new(BitsPerSecond(capacity), (0, price), wants.len() as u32);
        uplink.packet_min = 0;
        if queued {
            let guaranteed = wants.iter().map(|want| want.guarantee).sum();
            uplink = uplink.queued(BitsPerSecond(capacity), BitsPerSecond(guaranteed));
        }
        let tenant = |(want, largest): (&Want, &u64)| {
            let bits = |bits: u64| (bits != 0 && bits != u64::MAX).then_some(BitsPerSecond(bits));
            let ask = Ask {
                guarantee: bits(want.guarantee),
                ceiling: bits(want.ceiling).map(|bits| (bits, ceiling_burst(bits.0, *largest))),
                weight: want.weight as u32,
                uplink: 0,
                horizon_ns: uplink.horizon_ns,
                price,
            };
            Tenant {
                want: *want,
                largest: *largest,
                policy: SharePolicy::new(&ask, None, &ShareClocks::default(), &times),
                clocks: Default::default(),
                passed: 0,
                offered: 0,
                turn: 0,
            }
        };
        let mut world = Self {
            uplink,
            words: Words::default(),
            tenants: wants.iter().zip(largest).map(tenant).collect(),
            now_ns,
            draw,
            fat: false,
            bulk: 0,
            behind: (capacity, 0, now_ns),
            due: BinaryHeap::new(),
        };
        for at in 0..world.tenants.len() {
            world.demand(at, wants[at].demand);
        }
        world
    }

    /// From now on this tenant sends so many bits per second.
    pub fn demand(&mut self, at: usize, bits: u64) {
        let tenant = &mut self.tenants[at];
        tenant.want.demand = bits;
        tenant.turn += 1;
        if bits != 0 {
            let gap = tenant.largest * 8_000_000_000 / bits;
            let first = self.now_ns + self.draw.up_to(gap.min(1_000_000));
            self.due.push(Reverse((first, at, tenant.turn)));
        }
    }

    /// One packet of `bytes`, now.
    pub fn offer(&mut self, at: usize, bytes: u64) -> Result<Taken, Refused> {
        // Half of the packets are of fat flows: what is promised of tenants does not depend on it. What is thin leaves now,
        // and is little.
        self.fat = if self.uplink.horizon_ns == 0 {
            self.draw.once_in(2)
        } else {
            at < self.bulk || !self.draw.once_in(THIN as _)
        };
        self.offer_of(at, bytes, self.fat)
    }

    /// The same of a fat flow or a thin one.
    pub fn offer_of(&mut self, at: usize, bytes: u64, fat: bool) -> Result<Taken, Refused> {
        let tenant = &mut self.tenants[at];
        let clocks = clocks(&tenant.clocks);
        share::renew(&self.uplink, &&self.words, self.now_ns);
        let decided = share::take_of(
            (&tenant.policy, &clocks),
            (&self.uplink, &&self.words),
            self.now_ns,
            (1, bytes),
            fat,
        );
        tenant.offered += bytes;
        if decided.is_ok() {
            tenant.passed += bytes;
            let behind = self.behind() + u128::from(bytes) * PARTS;
            (self.behind.1, self.behind.2) = (behind, self.now_ns);
        }
        decided
    }

    /// In [`PARTS`] of a byte.
    fn behind(&self) -> u128 {
        let (capacity, behind, at_ns) = self.behind;
        behind.saturating_sub(u128::from(self.now_ns - at_ns) * u128::from(capacity))
    }

    /// Bytes that passed and that the link has not carried yet, reckoned without the law.
    pub fn queue(&self) -> u64 {
        (self.behind() / PARTS) as u64
    }

    /// Would a packet of a fat flow of this tenant's, of so many bytes and just taken, be marked?
    pub fn is_near(&self, at: usize, bytes: u64) -> bool {
        let tenant = &self.tenants[at];
        let clocks = clocks(&tenant.clocks);
        let bytes = self.uplink.charge(1, bytes);
        share::near(
            (&tenant.policy, &clocks),
            (&self.uplink, &&self.words),
            self.now_ns,
            bytes,
        )
    }

    /// Lets tenants send for so long; `seen` is told of each packet.
    pub fn run(
        &mut self,
        time_ns: u64,
        mut seen: impl FnMut(&Self, usize, u64, Result<Taken, Refused>),
    ) {
        let end = self.now_ns + time_ns;
        while let Some(Reverse((at_ns, at, turn))) = self.due.peek().copied() {
            if at_ns >= end {
                break;
            }
            self.due.pop();
            let tenant = &self.tenants[at];
            if tenant.turn != turn {
                continue;
            }
            self.now_ns = at_ns;
            let (largest, demand) = (tenant.largest, tenant.want.demand);
            let bytes = largest - self.draw.up_to(largest / 4);
            let decided = self.offer(at, bytes);
            seen(self, at, bytes, decided);
            // The next comes after this one's time, a half more or less.
            let gap = bytes * 8_000_000_000 / demand;
            let gap = gap / 2 + self.draw.up_to(gap);
            self.due.push(Reverse((at_ns + gap.max(1), at, turn)));
        }
        self.now_ns = end;
    }

    /// What passed since the last time, by tenant, bytes of the link; what was offered begins anew, too.
    pub fn taken(&mut self) -> Vec<u64> {
        let taken = |tenant: &mut Tenant| {
            tenant.offered = 0;
            std::mem::take(&mut tenant.passed)
        };
        self.tenants.iter_mut().map(taken).collect()
    }
}
