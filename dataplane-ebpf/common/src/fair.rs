//! Fat flows of one limit have equal parts of it while they want more than there is.
//!
//! A limit's queue ([`crate::limiter`]) says how much waits, not whose it is. So while it is long ([`BOOKED_PART`]), each fat
//! packet is booked on a clock of its flow as well, found by a hash as in [`crate::thin`]. Clocks are held against a *line*
//! that all flows of the limit share: it goes forward by 1/n of the time while n flows are ahead of it. That is the virtual
//! time of fair queueing, and what a flow is ahead is what a queue of its own would hold. A flow that is further ahead than
//! an n-th of what all may have waiting, its *reach*, is refused; the closer the limit is to its end ([`CLOSE_PART`]), the
//! earlier. So who has little waiting finds room.
//!
//! Invariants (`tests/fair`)
//! - It only refuses: accepted ≤ rate · t + burst + one packet, whatever is said here. And only while the queue is longer
//!   than [`REFUSED_PART`] of what fat packets may wait for: a limit is used as long as one flow wants it.
//! - While it is shorter than [`BOOKED_PART`] of that, nothing is read or written here.
//! - While packets are refused, a flow with one clock of its own has at most the line's growth, a reach, one packet, and what it
//!   is let off when others come ([`Asked::settle`]). Where others hit both clocks, all of them together have that.
//! - A packet larger than a reach is not black-holed: what counts is how far its flow is ahead *before* it.
//! - What is refused is not booked, here and at the limit.
//! - Words are loaded and stored without a lock: of two CPUs at the same flow one may forget what the other booked, and a flow
//!   that begins may be counted a period late. Nothing that is billed or bounded rests on it.
//!
//! Times of flows are *virtual*, ns that their bytes take at the whole ceiling: the same numbers serve at 1 Mbit/s and at
//! 400 Gbit/s.
//!
//! Where it comes from: the line is the virtual time of Demers, Keshav, Shenker 1989 and of Parekh, Gallager 1993; to bound a
//! flow in a shared FIFO by the number of active flows is FRED's (Lin, Morris 1997); that the bound falls with the room that is
//! left, dynamic thresholds' (Choudhury, Hahne 1998).

use crate::{
    abi::LimitPolicy,
    thin::{Cells, Place},
    wire::FRAME_BYTES,
};

/// Words of one limit: loads and stores of single ones, and one swap.
pub trait Words {
    /// Reads one.
    fn load(&self, word: u32) -> u64;
    /// Writes one.
    fn store(&self, word: u32, to: u64);
    /// Sets it to `new` if it is `old`; returns what it was.
    fn compare_exchange(&self, word: u32, old: u64, new: u64) -> u64;
}

/// Words of a limit, one of them for later.
pub const WORDS: usize = 8;
/// When the period began, CLOCK_MONOTONIC, ns. Who swaps it ends the period.
pub const BEGAN: u32 = 0;
/// The line, virtual ns.
pub const LINE: u32 = 1;
/// Flows that are ahead of it.
pub const FLOWS: u32 = 2;
/// How long the period lasted that has ended, ns, until the line is moved: else 0.
pub const LASTED: u32 = 3;
/// [`Asked::haste`] at its end.
pub const HASTE: u32 = 4;
/// [`Asked::widths`] at its end: this and the next.
pub const HORIZON: u32 = 5;
const FRAMES_TAKE: u32 = 6;

/// Packets are booked while the queue is longer than this part of what fat ones may wait for.
pub const BOOKED_PART: u64 = 8;
/// And refused over this part.
pub const REFUSED_PART: u64 = 4;
/// In the last part of it, a reach falls to nothing.
pub const CLOSE_PART: u64 = 8;

/// A reach is at least so many full frames.
pub const FRAMES: u64 = 3;
/// A GSO packet is at most so many times those frames: 68 kB.
const OWED: u64 = 15;

/// A period is this part of what fat packets may wait for; at least [`PERIOD_MIN_NS`] and two full frames.
pub const PERIOD_PART: u64 = 8;
/// See there.
pub const PERIOD_MIN_NS: u64 = 1_000_000;

/// A period that lasted longer, ns, ends all that was ahead.
const FORGOTTEN_NS: u64 = (AHEAD_MAX as u64) << UNIT_SHIFT;

/// Clocks that are looked at by one function of the programs: the verifier walks every way through each anew.
pub const CHUNK: u32 = 4;

/// Clocks in a row, at most; a multiple of [`CHUNK`].
pub const CELLS_MAX: u32 = 1_024;

/// A clock's unit, 2^5 virtual ns: a full frame at 100 Gbit/s is four. It wraps after 137 s of the line's.
const UNIT_SHIFT: u32 = 5;

/// What is further ahead, units, is past; what is further behind is set anew before it could be ahead again: 8.6 s.
const AHEAD_MAX: u32 = 1 << 28;

/// What is less far behind needs no care yet.
const WRAPS: u64 = (1 << 32) - AHEAD_MAX as u64;

/// Longest reach, and most that one packet takes, units: 4.3 s each.
const UNITS_MAX: u64 = 1 << 27;

/// A limit at one moment, and the packet that it took.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// CLOCK_MONOTONIC, ns; the coarse clock will do.
    pub now_ns: u64,
    /// ns that what is queued before the packet takes.
    pub queue_ns: u64,
    /// ns that fat packets may wait for.
    pub horizon_ns: u64,
    /// ns that a full frame takes.
    pub frame_ns: u64,
    /// ns that the packet takes, its price with it.
    pub packet_ns: u64,
}

impl LimitPolicy {
    /// Is a fat packet that found `backlog` units before it to be booked by its flow?
    #[inline(always)]
    pub const fn books_flows(&self, backlog: u64) -> bool {
        backlog > self.horizon_fat() / BOOKED_PART
    }

    /// The question for a fat packet of `units` that found `backlog` units before it.
    #[inline(always)]
    pub const fn asked(&self, now_ns: u64, backlog: u64, units: u64) -> Asked {
        Asked {
            now_ns,
            queue_ns: self.delay_ns(backlog),
            horizon_ns: self.delay_ns(self.horizon_fat()),
            frame_ns: self.takes_ns(FRAME_BYTES + self.price as u64),
            packet_ns: self.takes_ns(units),
        }
    }

    /// The same for a packet that leaves at `departs_ns` when nothing goes before it.
    #[inline(always)]
    pub const fn asked_at(&self, now_ns: u64, departs_ns: u64, units: u64) -> Asked {
        Asked {
            queue_ns: departs_ns.saturating_sub(now_ns),
            ..self.asked(now_ns, 0, units)
        }
    }

    /// What up to 2^21 units take, ns: below 2^44.
    #[inline(always)]
    const fn takes_ns(&self, units: u64) -> u64 {
        // 2^42 · 2^21 fits; a pace that is slower gives more than the bound anyway.
        let units = if units < 1 << 21 { units } else { 1 << 21 };
        let pace = self.ns_per_unit;
        let pace = if pace < 1 << 42 { pace } else { 1 << 42 };
        (units * pace) >> 20
    }
}

/// How far a clock is ahead of the line, units.
#[inline(always)]
const fn ahead(clock: u32, line: u32) -> u64 {
    let by = clock.wrapping_sub(line);
    if by > AHEAD_MAX { 0 } else { by as u64 }
}

/// How far both clocks of a flow are ahead of the line, and the lesser of both, units.
#[inline(always)]
fn clocks<C: Cells>(cells: &C, place: Place, line: u32) -> (u64, u64, u64) {
    let first = ahead(cells.load(0, place.first), line);
    let second = ahead(cells.load(1, place.second), line);
    (first, second, if first < second { first } else { second })
}

/// 1 for `a < b`, else 0, of numbers below 2^63.
#[inline(always)]
const fn less(a: u64, b: u64) -> u64 {
    a.wrapping_sub(b) >> 63
}

/// Units of so many virtual ns, at most [`UNITS_MAX`].
#[inline(always)]
const fn units(ns: u64) -> u64 {
    let units = ns >> UNIT_SHIFT;
    if units < UNITS_MAX { units } else { UNITS_MAX }
}

#[inline(always)]
fn line<W: Words>(words: &W) -> u32 {
    (words.load(LINE) >> UNIT_SHIFT) as u32
}

/// What a look at all clocks of the first row found, if the line were so much further.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Flows that would still be ahead.
    pub flows: u64,
    /// What all flows together would have had, units; below 2^48.
    pub had: u64,
}

impl Seen {
    /// Both in one word.
    #[inline(always)]
    pub const fn packed(self) -> u64 {
        self.flows << 48 | self.had & ((1 << 48) - 1)
    }

    /// From [`Seen::packed`].
    #[inline(always)]
    pub const fn unpacked(word: u64) -> Self {
        Self {
            flows: word >> 48,
            had: word & ((1 << 48) - 1),
        }
    }

    /// Looks at all `number` clocks, [`CHUNK`] by [`CHUNK`] from the first on that `look` is told.
    #[inline(always)]
    pub fn all(number: u32, mut look: impl FnMut(u32) -> Self) -> Self {
        let mut all = Self::default();
        let mut first = 0;
        while first < CELLS_MAX && first < number {
            let seen = look(first);
            all.flows += seen.flows;
            all.had += seen.had;
            first += CHUNK;
        }
        all
    }

    /// Looks at [`CHUNK`] clocks, with the line `by` units further. What would be more than `most` ahead of it is set to that,
    /// and what is far behind to the line, before it wraps.
    #[inline(always)]
    pub fn of<W: Words, C: Cells>(words: &W, cells: &C, first: u32, by: u64, most: u64) -> Self {
        let line = line(words);
        let by = if by < UNITS_MAX { by } else { UNITS_MAX };
        let most = by + if most < UNITS_MAX { most } else { UNITS_MAX };
        let mut seen = Self::default();
        let mut cell = 0;
        while cell < CHUNK {
            // With one branch: the verifier walks both ways of each. `less` is 1 where the first number is the lesser.
            let at = first + cell;
            let clock = cells.load(0, at).wrapping_sub(line) as u64;
            let is_ahead = less(clock, AHEAD_MAX as u64 + 1);
            let ahead = clock & is_ahead.wrapping_neg();
            let owes = less(most, ahead);
            let wraps = less(AHEAD_MAX as u64, clock) & less(clock, WRAPS);
            if owes | wraps != 0 {
                let to = most & owes.wrapping_neg();
                cells.store(0, at, line.wrapping_add(to as u32));
            }
            let beyond = ahead.wrapping_sub(by) & less(ahead, by).wrapping_neg();
            seen.had += by.wrapping_add(beyond);
            seen.flows += less(by, ahead);
            cell += 1;
        }
        seen
    }
}

impl Asked {
    /// As [`LimitPolicy::books_flows`].
    #[inline(always)]
    pub const fn books_flows(&self) -> bool {
        self.queue_ns > self.horizon_ns / BOOKED_PART
    }

    #[inline(always)]
    const fn period_ns(&self) -> u64 {
        let part = self.horizon_ns / PERIOD_PART;
        let part = if part > PERIOD_MIN_NS {
            part
        } else {
            PERIOD_MIN_NS
        };
        let frames = 2 * self.frame_ns;
        if part > frames { part } else { frames }
    }

    /// How long the period has lasted, if it is over.
    #[inline(always)]
    const fn over(&self, began: u64) -> Option<u64> {
        let lasted = self.now_ns.wrapping_sub(began);
        // A clock of another CPU may be a little later.
        if lasted >= 1 << 63 || lasted < self.period_ns() {
            None
        } else {
            Some(lasted)
        }
    }

    /// Ends the period if it is over, and true for who ended it: it is to call [`Asked::settle`].
    #[inline(always)]
    pub fn turns<W: Words>(&self, words: &W) -> bool {
        let began = words.load(BEGAN);
        match self.over(began) {
            Some(lasted) if words.compare_exchange(BEGAN, began, self.now_ns) == began => {
                let (horizon, frames) = self.widths();
                words.store(HASTE, self.haste());
                words.store(HORIZON, horizon);
                words.store(FRAMES_TAKE, frames);
                words.store(LASTED, lasted);
                true
            }
            _ => false,
        }
    }

    /// How fast the line goes, in 1024ths, by the queue: see [`Asked::settle`]. 2,048 where nobody is refused, 1,024 from three
    /// fourths of what may wait on, and less in the last [`CLOSE_PART`], 256 at its end.
    #[inline(always)]
    pub const fn haste(&self) -> u64 {
        let fourth = self.horizon_ns / 4;
        let (least, most) = (self.horizon_ns / REFUSED_PART, 3 * fourth);
        if self.queue_ns <= least {
            2_048
        } else if self.queue_ns < most {
            1_024 + (most - self.queue_ns) / ((most - least) / 1_024 + 1)
        } else {
            let room = self.horizon_ns.saturating_sub(self.queue_ns);
            let part = room / (self.horizon_ns / CLOSE_PART / 1_024 + 1);
            if part < 256 {
                256
            } else if part < 1_024 {
                part
            } else {
                1_024
            }
        }
    }

    /// Moves the line at a period's end. `look` is [`Seen::all`] of the limit's clocks.
    ///
    /// - Each of n flows that were ahead had an n-th of the period. What those leave that needed less is parted among the
    ///   others: by a tangent of what all together have had, a concave function of the line's way, so that it never goes too far.
    /// - But only while the queue is short. A long one is there because somebody asks for it: who looks at losses, and is not
    ///   ahead just now because it lost something, has it then.
    /// - Close to the queue's end the line is slower than that. Flows that hit each other's clocks are not all counted; and
    ///   before all are refused, those that are ahead are to be.
    /// - Who had much while few were there is let off what it owes when others come: it is then ahead by two reaches and a
    ///   GSO packet at most.
    #[inline(always)]
    pub fn settle<W: Words>(words: &W, mut look: impl FnMut(u64, u64) -> Seen) {
        let lasted_ns = words.load(LASTED);
        if lasted_ns == 0 {
            return;
        }
        words.store(LASTED, 0);
        let haste = words.load(HASTE);
        let (horizon, frames) = (words.load(HORIZON), words.load(FRAMES_TAKE));
        let line = words.load(LINE);
        // The line has stood since they were counted, and who began since has added itself.
        let all = words.load(FLOWS);
        if lasted_ns > FORGOTTEN_NS {
            look(0, UNITS_MAX);
            words.store(LINE, line.wrapping_add(FORGOTTEN_NS + (1 << UNIT_SHIFT)));
            words.store(FLOWS, 0);
            return;
        }
        let lasted = lasted_ns >> UNIT_SHIFT;
        let mut by = lasted;
        if let Some(each) = lasted.checked_div(all) {
            by = each;
            if haste <= 1_024 {
                by = by * haste / 1_024;
            } else {
                let seen = look(by, UNITS_MAX);
                let left = lasted.saturating_sub(seen.had);
                let more = left.checked_div(seen.flows).unwrap_or(left);
                by += more * (haste - 1_024) / 1_024;
            }
        }
        let part = horizon.checked_div(all).unwrap_or(horizon);
        let reach = if part > frames { part } else { frames };
        let flows = look(by, 2 * reach + OWED * frames).flows;
        words.store(LINE, line.wrapping_add(by << UNIT_SHIFT));
        words.store(FLOWS, flows);
    }

    /// How far ahead a flow is not refused yet, units.
    #[inline(always)]
    fn reach<W: Words>(&self, words: &W) -> u64 {
        let flows = words.load(FLOWS);
        let (horizon, frames) = self.widths();
        let part = horizon / if flows == 0 { 1 } else { flows };
        let reach = if part > frames { part } else { frames };
        let room = self.horizon_ns.saturating_sub(self.queue_ns);
        let close = self.horizon_ns / CLOSE_PART;
        // Who is alone leaves nobody without room.
        if room < close && flows > 1 {
            // In 1024ths: a reach is at most 2^27.
            (reach * (room / (close / 1_024 + 1))) >> 10
        } else {
            reach
        }
    }

    /// Units that fat packets may wait for, and that [`FRAMES`] full frames take.
    #[inline(always)]
    pub const fn widths(&self) -> (u64, u64) {
        (units(self.horizon_ns), units(FRAMES * self.frame_ns))
    }

    #[inline(always)]
    fn refused(&self, least: u64, reach: u64) -> bool {
        least > reach && self.queue_ns > self.horizon_ns / REFUSED_PART
    }

    /// Books the packet on its flow's clocks; false: the flow is to be refused.
    #[inline(always)]
    pub fn take<W: Words, C: Cells>(&self, words: &W, cells: &C, place: Place) -> bool {
        let line = line(words);
        let (first, second, least) = clocks(cells, place, line);
        if self.refused(least, self.reach(words)) {
            return false;
        }
        if first == 0 {
            words.store(FLOWS, words.load(FLOWS) + 1);
        }
        let to = least + units(self.packet_ns) + 1;
        let to = if to < AHEAD_MAX as u64 {
            to
        } else {
            AHEAD_MAX as u64
        };
        let clock = line.wrapping_add(to as u32);
        if first < to {
            cells.store(0, place.first, clock);
        }
        if second < to {
            cells.store(1, place.second, clock);
        }
        true
    }

    /// Until when the flow of a packet that was refused is fat, CLOCK_MONOTONIC, ns: for an eighth of the queue. It may have nothing
    /// in there any more. Who goes on sending is not thin for that; who sends again after a timer is.
    #[inline(always)]
    pub const fn held_ns(&self) -> u64 {
        self.now_ns + self.queue_ns / 8
    }

    /// Would [`Asked::take`] refuse it now, whoever ends the period? Books nothing.
    #[inline(always)]
    pub fn refuses<W: Words, C: Cells>(&self, words: &W, cells: &C, place: Place) -> bool {
        if self.over(words.load(BEGAN)).is_some() {
            return false;
        }
        let (_, _, least) = clocks(cells, place, line(words));
        self.refused(least, self.reach(words))
    }

    /// Takes back what was booked: another stage refused the packet.
    #[inline(always)]
    pub fn give_back<W: Words, C: Cells>(&self, words: &W, cells: &C, place: Place) {
        let line = line(words);
        let (first, second, least) = clocks(cells, place, line);
        let cost = units(self.packet_ns) + 1;
        let clock = line.wrapping_add(least.saturating_sub(cost) as u32);
        // The one that is further ahead is another flow's as well.
        if first == least {
            cells.store(0, place.first, clock);
        }
        if second == least {
            cells.store(1, place.second, clock);
        }
    }
}
