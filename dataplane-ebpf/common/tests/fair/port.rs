//! A port with a ceiling, as `dataplane-ebpf/src/gate.rs` and `limiter.rs` judge its packets: class, limit, part.

use crate::harness::{Alone, Draw};
use dataplane_common::{
    abi::{LimitPolicy, shape},
    fair::{self, Asked, Seen, Words},
    limit::{Rate, Times},
    limiter::{Clock as _, Decision, Now},
    thin::{self, Cells, Place},
    units::BitsPerSecond,
};
use std::cell::{Cell, RefCell};

/// Clocks in a row.
pub const CELLS: u32 = 1_024;
const SECRET: u64 = 0x5EC2_E700;
/// A tick at 250 Hz.
pub const TICK_NS: u64 = 4_000_000;

/// Two rows of clocks, and how often they were touched.
pub struct Rows {
    clocks: RefCell<[Vec<u32>; 2]>,
    pub touched: Cell<u64>,
}

impl Rows {
    pub fn new(fill: u32) -> Self {
        let row = || vec![fill; CELLS as usize];
        Self {
            clocks: RefCell::new([row(), row()]),
            touched: Cell::new(0),
        }
    }

    pub fn all(&self) -> [Vec<u32>; 2] {
        self.clocks.borrow().clone()
    }
}

impl Cells for Rows {
    fn load(&self, row: u32, cell: u32) -> u32 {
        self.touched.set(self.touched.get() + 1);
        self.clocks.borrow()[row as usize][cell as usize]
    }

    fn store(&self, row: u32, cell: u32, clock: u32) {
        self.touched.set(self.touched.get() + 1);
        self.clocks.borrow_mut()[row as usize][cell as usize] = clock;
    }
}

/// The words of a line.
#[derive(Default)]
pub struct Line(pub [Cell<u64>; fair::WORDS]);

impl Words for Line {
    fn load(&self, word: u32) -> u64 {
        self.0[word as usize].get()
    }

    fn store(&self, word: u32, to: u64) {
        self.0[word as usize].set(to);
    }

    fn compare_exchange(&self, word: u32, old: u64, new: u64) -> u64 {
        let was = self.load(word);
        if was == old {
            self.store(word, new);
        }
        was
    }
}

/// A time, and what the coarse clock says then.
#[derive(Clone, Copy)]
pub struct At(pub u64);

impl Now for At {
    fn coarse_ns(&self) -> u64 {
        self.0 / TICK_NS * TICK_NS
    }

    fn exact_ns(&self) -> u64 {
        self.0
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It leaves then, ns.
    Leaves(u64),
    /// The limit was at its end.
    Full,
    /// Its flow has had its part.
    Unfair,
}

impl Fate {
    pub fn passed(self) -> bool {
        matches!(self, Self::Leaves(_))
    }
}

/// Moves the line if the period is over; true when it was.
pub fn turn(asked: &Asked, line: &Line, rows: &Rows) -> bool {
    let ended = asked.turns(line);
    if ended {
        settle(line, rows);
    }
    ended
}

fn settle(line: &Line, rows: &Rows) {
    Asked::settle(line, |by, most| {
        Seen::all(CELLS, |first| Seen::of(line, rows, first, by, most))
    });
}

pub struct Port {
    pub policy: LimitPolicy,
    pub clock: Alone,
    together: Alone,
    thin: Rows,
    pub rows: Rows,
    pub line: Line,
    /// What is fat waits: `htb`, `edt`.
    waits: bool,
    /// Parts are asked for; else it is as it was before.
    pub fair: bool,
    /// Refused: at the limit, and by flows.
    pub refused: [u64; 2],
}

impl Port {
    pub fn new(bits: u64, burst_ms: u64, now_ns: u64) -> Self {
        Self::that_waits(bits, burst_ms, now_ns, true)
    }

    /// One where what is fat waits, or is refused.
    pub fn that_waits(bits: u64, burst_ms: u64, now_ns: u64, waits: bool) -> Self {
        let shape = if waits { shape::EDT } else { shape::POLICE };
        let rate = Rate::bytes(BitsPerSecond(bits));
        let times = Times {
            now_ns,
            switch_ns: now_ns,
            coarse_slack_ns: TICK_NS,
        };
        let burst = rate.units_in(u128::from(burst_ms) * 1_000_000).max(1_514);
        Self {
            policy: LimitPolicy::begin(rate, burst, 0, &times).shaped(shape),
            clock: Alone::default(),
            together: Alone::default(),
            thin: Rows::new(0),
            rows: Rows::new(0),
            line: Line::default(),
            waits,
            fair: true,
            refused: [0; 2],
        }
    }

    pub fn place(flow: u64, now_ns: u64) -> Place {
        Place::of(Draw(flow).next(), SECRET, now_ns, CELLS)
    }

    /// Units that wait now.
    pub fn backlog(&self, now_ns: u64) -> u64 {
        let by = self.clock.load().wrapping_sub(self.policy.line(now_ns));
        if by < 1 << 63 { by } else { 0 }
    }

    fn asked(&self, now_ns: u64, backlog: u64, bytes: u64) -> Asked {
        self.policy
            .asked(At(now_ns).coarse_ns(), backlog, self.policy.charge(bytes))
    }

    /// A packet of `flow` comes.
    pub fn send(&mut self, flow: u64, bytes: u64, now_ns: u64) -> Fate {
        let at = At(now_ns);
        let place = Self::place(flow, at.coarse_ns());
        let class = thin::Limit::new(at.coarse_ns(), self.policy.pace());
        let units = self.policy.charge(bytes);
        let mut fat = false;
        let taken = self
            .policy
            .take_classed(&self.clock, &at, units, |matters| {
                fat = matters != 0 && !class.thin(&self.thin, &self.together, place, bytes);
                u64::from(fat)
            });
        let Decision::Pass { backlog, at_ns } = taken else {
            self.refused[0] += 1;
            return Fate::Full;
        };
        if !fat {
            return Fate::Leaves(now_ns);
        }
        let departs_ns = match backlog {
            0 => 0,
            _ => at_ns + self.policy.delay_ns(backlog),
        };
        let asked = (self.policy).asked_at(self.policy.now_ns(&at), departs_ns, units);
        if self.fair && asked.books_flows() {
            let ended = asked.turns(&self.line);
            let taken = asked.take(&self.line, &self.rows, place);
            // Behind all that is done to the packet.
            if ended {
                settle(&self.line, &self.rows);
            }
            if !taken {
                self.policy.give_back(&self.clock, units);
                class.hold(&self.thin, place, bytes, asked.held_ns());
                self.refused[1] += 1;
                return Fate::Unfair;
            }
        }
        class.hold(&self.thin, place, bytes, departs_ns);
        Fate::Leaves(if self.waits {
            departs_ns.max(now_ns)
        } else {
            now_ns
        })
    }

    /// Another stage refused a packet that passed here.
    pub fn give_back(&self, flow: u64, bytes: u64, now_ns: u64) {
        let place = Self::place(flow, At(now_ns).coarse_ns());
        self.asked(now_ns, 0, bytes)
            .give_back(&self.line, &self.rows, place);
        self.policy
            .give_back(&self.clock, self.policy.charge(bytes));
    }

    /// What an uplink would be told of it.
    pub fn would_refuse(&self, flow: u64, bytes: u64, now_ns: u64) -> bool {
        let at = At(now_ns);
        let horizon = self.policy.horizon_fat();
        let backlog = self.policy.backlog(&self.clock, &at, horizon);
        let place = Self::place(flow, at.coarse_ns());
        let class = thin::Limit::new(at.coarse_ns(), self.policy.pace());
        !class.would_be_thin(&self.thin, &self.together, place, bytes)
            && backlog <= horizon
            && self.policy.books_flows(backlog)
            && self
                .asked(now_ns, backlog, bytes)
                .refuses(&self.line, &self.rows, place)
    }

    /// Units that a flow is ahead.
    pub fn ahead(&self, flow: u64, now_ns: u64) -> u32 {
        let place = Self::place(flow, At(now_ns).coarse_ns());
        ahead_of(&self.line, &self.rows, place)
    }
}

/// Units of 32 ns that a flow's clocks are ahead of the line: the lesser.
pub fn ahead_of(line: &Line, rows: &Rows, place: Place) -> u32 {
    let line = (line.load(fair::LINE) >> 5) as u32;
    let by = |row, cell| {
        let by = rows.load(row, cell).wrapping_sub(line);
        if by > 1 << 28 { 0 } else { by }
    };
    by(0, place.first).min(by(1, place.second))
}
