//! Has the packet's flow had its part of the ceiling? The maps; the law is `dataplane_common::fair`.
//!
//! Functions of their own: the verifier walks them once, whatever stands before.

use crate::{
    limiter::{Kernel, Shared, both_give_back},
    maps, share,
    thin::{self, Rows},
};
use aya_ebpf::{bindings::__sk_buff, helpers::bpf_ktime_get_coarse_ns};
use dataplane_common::{
    abi::{DIRECTIONS, LimitPolicy, PortPolicy, Sizes},
    ecn::Departure,
    fair::{Asked, Seen, WORDS, Words},
    limiter::Clock as _,
    reason::DropReason,
    thin::{Cells, Place},
    wire::Wire,
};

/// In the last scratch word, beside what [`crate::thin::fat`] reads: the packet is booked on its flow's clocks.
const BOOKED: u32 = 2;
/// Likewise: a period ended with it.
const ENDED: u32 = 4;
/// Likewise: it is booked there at its tenant's ceiling.
const SHARED: u32 = 8;
/// Likewise, above: slot and direction.
const WHICH_SHIFT: u32 = 8;

/// The words of one direction of a port.
struct Line(*mut [u64; WORDS]);

impl Line {
    #[inline(always)]
    fn of(which: u32) -> Option<Self> {
        maps::FAIR_LINES.get_ptr_mut(which).map(Self)
    }

    #[inline(always)]
    fn word(&self, word: u32) -> Shared {
        // SAFETY: points into an array map, whose elements live as long as the map; the index stays within the element.
        Shared(unsafe { self.0.cast::<u64>().add(word as usize % WORDS) })
    }
}

impl Words for Line {
    #[inline(always)]
    fn load(&self, word: u32) -> u64 {
        self.word(word).load()
    }

    #[inline(always)]
    fn store(&self, word: u32, to: u64) {
        // SAFETY: as above; stored whole.
        unsafe { self.word(word).0.write_volatile(to) };
    }

    #[inline(always)]
    fn compare_exchange(&self, word: u32, old: u64, new: u64) -> u64 {
        self.word(word).compare_exchange(old, new)
    }
}

/// The clocks of flows' parts.
#[inline(always)]
fn rows(which: u32) -> Rows<impl Fn(u32) -> Option<*mut u32>> {
    Rows {
        which,
        at: |number| maps::FAIR.get_ptr_mut(number),
    }
}

/// The same, seen from a loop: what it stores, it stores in a function, so that the verifier need not walk that at each turn.
struct Looked<C> {
    which: u32,
    rows: C,
}

impl<C: Cells> Cells for Looked<C> {
    #[inline(always)]
    fn load(&self, row: u32, cell: u32) -> u32 {
        self.rows.load(row, cell)
    }

    #[inline(always)]
    fn store(&self, row: u32, cell: u32, to: u32) {
        fair_store(self.which, row, cell, to);
    }
}

/// Sets a clock.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fair_store(which: u32, row: u32, cell: u32, to: u32) -> u64 {
    rows(which).store(row, cell, to);
    0
}

#[inline(always)]
fn asked(limit: &LimitPolicy, backlog: u64, units: u64) -> Asked {
    // SAFETY: takes no argument.
    limit.asked(unsafe { bpf_ktime_get_coarse_ns() }, backlog, units)
}

/// Books a packet that its limits took, and which may leave at `departure`, as its flow's, if it is fat, and holds that.
///
/// # Errors
/// [`DropReason::CeilingBytes`]: its flow has had its part. Then its limits have back what they took.
#[inline(always)]
pub fn take<const DIRECTION: u32>(
    skb: *mut __sk_buff,
    port: &PortPolicy,
    slot: u32,
    wire: &Wire,
    departure: Departure,
) -> Result<(), DropReason> {
    let which = slot * DIRECTIONS + DIRECTION;
    let limits = &port.limits[(DIRECTION & 1) as usize];
    if thin::fat(skb) == 0 {
        return Ok(());
    }
    if fair_take(skb, which, limits, departure.ns(), wire.l2_bytes) != 0 {
        fair_refuse(skb, which, limits, wire.packets, wire.l2_bytes);
        return Err(DropReason::CeilingBytes);
    }
    thin::thin_hold(skb, which, wire.l2_bytes, limits[0].pace(), departure.ns());
    Ok(())
}

/// The limits of a direction.
type Limits = [LimitPolicy; 2];

/// Gives back to the limits what they took for a packet that [`fair_take`] refused, and holds its flow: [`Asked::held_ns`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fair_refuse(
    skb: *mut __sk_buff,
    which: u32,
    limits: *const Limits,
    packets: u64,
    l2_bytes: u64,
) -> u64 {
    let clock = maps::CLOCKS.get_ptr_mut(which * Sizes::CLOCKS);
    // SAFETY: the caller gives a port's own. To the verifier a pointer may be null.
    let (Some(limits), Some(clock)) = (unsafe { limits.as_ref() }, clock) else {
        return 0;
    };
    both_give_back(limits, which, l2_bytes, packets);
    let (bytes, clock) = (&limits[0], Shared(clock));
    let backlog = bytes.backlog(&clock, &Kernel, bytes.horizon);
    let until_ns = asked(bytes, backlog, 0).held_ns();
    thin::thin_hold(skb, which, l2_bytes, bytes.pace(), until_ns)
}

/// 1 when a fat packet of `l2_bytes`, which the limit took and which would leave at `departs_ns`, is over its flow's part: then
/// [`fair_refuse`] follows. Else it is booked as its flow's. `which`: slot and direction.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fair_take(
    skb: *mut __sk_buff,
    which: u32,
    limits: *const Limits,
    departs_ns: u64,
    l2_bytes: u64,
) -> u64 {
    // SAFETY: the caller gives a port's own. To the verifier a pointer may be null.
    let (Some([limit, _]), Some(line)) = (unsafe { limits.as_ref() }, Line::of(which)) else {
        return 0;
    };
    let asked = limit.asked_at(limit.now_ns(&Kernel), departs_ns, limit.charge(l2_bytes));
    if !asked.books_flows() {
        return 0;
    }
    let ended = asked.turns(&line) as u32;
    // SAFETY: the context is the program's own; these words are for its programs.
    let place = Place::unpacked(unsafe { (*skb).cb[1] });
    let taken = asked.take(&line, &rows(which), place);
    let booked = BOOKED * taken as u32;
    // SAFETY: as above.
    unsafe { (*skb).cb[4] |= which << WHICH_SHIFT | ended * ENDED | booked };
    !taken as u64
}

/// Moves a line whose period ended with this packet. Outside of all that has been walked for it: there is no stack left in there.
#[inline(always)]
pub fn settle(skb: *mut __sk_buff) {
    // SAFETY: as above. What somebody else left in these words is the number of a line that need not move, or of none.
    let word = unsafe { (*skb).cb[4] };
    if word & ENDED != 0 {
        fair_settle(word >> WHICH_SHIFT);
    }
}

/// The same. `which`: slot and direction.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fair_settle(which: u32) -> u64 {
    let Some(line) = Line::of(which) else {
        return 0;
    };
    let cells = maps::thin_cells();
    Asked::settle(&line, |by, most| {
        Seen::all(cells, |first| {
            Seen::unpacked(fair_look(which, first, by, most))
        })
    });
    1
}

/// [`Seen::of`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fair_look(which: u32, first: u32, by: u64, most: u64) -> u64 {
    match Line::of(which) {
        Some(line) => {
            let looked = Looked {
                which,
                rows: rows(which),
            };
            Seen::of(&line, &looked, first, by, most).packed()
        }
        None => 0,
    }
}

/// Would [`fair_take`] say 1 to a packet with this `hash`? Nothing is booked.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fair_would(
    hash: u64,
    which: u32,
    limit: *const LimitPolicy,
    backlog: u64,
    units: u64,
) -> u64 {
    // SAFETY: as above.
    let (Some(limit), Some(line)) = (unsafe { limit.as_ref() }, Line::of(which)) else {
        return 0;
    };
    let asked = asked(limit, backlog, units);
    let place = Place::of(hash, maps::thin_keys()[0], asked.now_ns, maps::thin_cells());
    asked.refuses(&line, &rows(which), place) as u64
}

/// Takes back what [`fair_take`] booked: a later stage refused the packet.
#[inline(always)]
pub fn give_back(skb: *mut __sk_buff, port: &PortPolicy, slot: u32, direction: u32, wire: &Wire) {
    // SAFETY: as above.
    if unsafe { (*skb).cb[4] } & BOOKED != 0 {
        let limit = &port.limits[(direction & 1) as usize][0];
        let which = slot * DIRECTIONS + direction;
        fair_give_back(skb, which, limit, limit.charge(wire.l2_bytes));
    }
}

/// Takes `units` from the clocks of the packet's flow.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fair_give_back(
    skb: *mut __sk_buff,
    which: u32,
    limit: *const LimitPolicy,
    units: u64,
) -> u64 {
    // SAFETY: as above.
    let (Some(limit), Some(line)) = (unsafe { limit.as_ref() }, Line::of(which)) else {
        return 0;
    };
    // SAFETY: as above.
    let place = Place::unpacked(unsafe { (*skb).cb[1] });
    asked(limit, 0, units).give_back(&line, &rows(which), place);
    1
}

/// 0, or until when the flow of a fat packet is to be held that has had its part of its tenant's ceiling: it is refused. Else it is
/// booked as its flow's; to be asked before the share. `which`: slot and direction of its port, which has no ceiling of its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fair_share(skb: *mut __sk_buff, which: u32, whose: u64, l2_bytes: u64) -> u64 {
    let (Some((ceiling, clock)), Some(line)) = (share::queued_ceiling(whose), Line::of(which))
    else {
        return 0;
    };
    let backlog = ceiling.backlog(&clock, &Kernel, ceiling.horizon);
    if !ceiling.books_flows(backlog) {
        return 0;
    }
    let asked = asked(ceiling, backlog, ceiling.charge(l2_bytes));
    let ended = asked.turns(&line) as u32;
    // SAFETY: as above.
    let place = Place::unpacked(unsafe { (*skb).cb[1] });
    let taken = asked.take(&line, &rows(which), place);
    let booked = SHARED * taken as u32;
    // SAFETY: as above.
    unsafe { (*skb).cb[4] |= which << WHICH_SHIFT | ended * ENDED | booked };
    if taken { 0 } else { asked.held_ns() }
}

/// Takes back what [`fair_share`] booked: the share refused the packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fair_share_give_back(
    skb: *mut __sk_buff,
    which: u32,
    whose: u64,
    l2_bytes: u64,
) -> u64 {
    // SAFETY: as above.
    if unsafe { (*skb).cb[4] } & SHARED == 0 {
        return 0;
    }
    let (Some((ceiling, _)), Some(line)) = (share::ceiling(whose), Line::of(which)) else {
        return 0;
    };
    // SAFETY: as above.
    let place = Place::unpacked(unsafe { (*skb).cb[1] });
    let asked = asked(ceiling, 0, ceiling.charge(l2_bytes));
    asked.give_back(&line, &rows(which), place);
    1
}
