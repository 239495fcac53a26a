//! Is the packet's flow thin? The maps; the law is `dataplane_common::thin`.
//!
//! What was found waits in the skb's scratch words, not in variables: the verifier would walk all that follows once for
//! each answer.

use crate::{limiter::Shared, maps};
use aya_ebpf::{bindings::__sk_buff, helpers::bpf_ktime_get_coarse_ns, programs::TcContext};
use dataplane_common::{
    abi::{DIRECTIONS, PortPolicy, Sizes},
    parse::Packet,
    thin::{Cells, Limit, Place},
    wire::Wire,
};

/// In the first scratch word: goes ahead of what is queued, because nothing else passes without it.
const URGENT: u32 = 1;
/// Likewise: because its flow is thin.
const THIN: u32 = 2;
/// The flow's clocks were found: the second word has their place.
const FOUND: u32 = 4;

/// Two rows of clocks of one direction of a port, `which`, in an array that `at` finds elements of.
pub struct Rows<F> {
    pub which: u32,
    pub at: F,
}

impl<F: Fn(u32) -> Option<*mut u32>> Rows<F> {
    #[inline(always)]
    fn clock(&self, row: u32, cell: u32) -> Option<*mut u32> {
        (self.at)((self.which * 2 + row) * maps::thin_cells() + cell)
    }
}

impl<F: Fn(u32) -> Option<*mut u32>> Cells for Rows<F> {
    #[inline(always)]
    fn load(&self, row: u32, cell: u32) -> u32 {
        match self.clock(row, cell) {
            // SAFETY: elements live as long as the map; the word is aligned and stored whole.
            Some(clock) => unsafe { clock.read_volatile() },
            None => 0,
        }
    }

    #[inline(always)]
    fn store(&self, row: u32, cell: u32, to: u32) {
        if let Some(clock) = self.clock(row, cell) {
            // SAFETY: as above.
            unsafe { clock.write_volatile(to) };
        }
    }
}

/// Those that classes are told by.
#[inline(always)]
fn rows(which: u32) -> Rows<impl Fn(u32) -> Option<*mut u32>> {
    Rows {
        which,
        at: |number| maps::THIN.get_ptr_mut(number),
    }
}

/// Begins anew for a packet: urgent or not, nothing is known of its flow.
#[inline(always)]
pub fn begin(ctx: &TcContext, urgent: bool) {
    // SAFETY: the context is the program's own; these words are for its programs.
    unsafe {
        (*ctx.skb.skb).cb[0] = urgent as u32;
        (*ctx.skb.skb).cb[4] = 0;
    }
}

/// True for what goes ahead of bulk, and is refused after it.
#[inline(always)]
pub fn first(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).cb[0] & (URGENT | THIN) != 0 }
}

/// 1 for a packet whose flow was looked for and is not thin, else 0. A number from the skb, of which the verifier knows
/// nothing: it would walk the limiter twice for a bool.
#[inline(always)]
pub fn fat(skb: *mut __sk_buff) -> u64 {
    // SAFETY: as above.
    unsafe { (*skb).cb[4] as u64 & 1 }
}

/// Notes the packet's flow on a port with a ceiling, or with a part of an uplink: who finds a queue asks for its class. `APART`:
/// see [`crate::packet::parsed`].
#[inline(always)]
pub fn note<const DIRECTION: u32, const APART: bool>(
    ctx: &TcContext,
    packet: &Packet,
    port: &PortPolicy,
) {
    // One question, and what was parsed is not looked at any more behind it: else the verifier walks all ways to parse
    // through what follows.
    let limited = port.flags & PortPolicy::limited(DIRECTION, 0);
    if limited | port.share == 0 {
        return;
    }
    let hash = if APART {
        thin_hash(packet)
    } else {
        dataplane_common::thin::hash(packet, &maps::thin_keys())
    };
    // SAFETY: as above.
    unsafe {
        (*ctx.skb.skb).cb[2] = hash as u32;
        (*ctx.skb.skb).cb[3] = (hash >> 32) as u32;
    }
}

/// Asks whether the flow that was noted is thin, at the port's ceiling, where that `matters` (1, else 0). Returns [`fat`].
#[inline(always)]
pub fn look<const DIRECTION: u32>(
    ctx: &TcContext,
    port: &PortPolicy,
    slot: u32,
    wire: &Wire,
    matters: u64,
) -> u64 {
    let pace = port.limits[(DIRECTION & 1) as usize][0].pace();
    let which = slot * DIRECTIONS + DIRECTION;
    thin_look(ctx.skb.skb, which, wire.l2_bytes, pace, matters)
}

/// [`dataplane_common::thin::hash`], in a function of its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn thin_hash(packet: *const Packet) -> u64 {
    // SAFETY: `note` gives its own. To the verifier a pointer may be null.
    match unsafe { packet.as_ref() } {
        Some(packet) => dataplane_common::thin::hash(packet, &maps::thin_keys()),
        None => 0,
    }
}

#[inline(always)]
fn limit(pace: u64) -> Limit {
    // SAFETY: takes no argument.
    Limit::new(unsafe { bpf_ktime_get_coarse_ns() }, pace)
}

/// Asks the same of a packet that no port's ceiling has asked for, at its tenant's `pace` (with its price). True when it was asked now: then
/// [`shared`] is to be told that the packet was accepted.
#[inline(always)]
pub fn look_for_share(skb: *mut __sk_buff, which: u32, wire: &Wire, pace: u64) -> bool {
    // SAFETY: as above.
    if unsafe { (*skb).cb[0] } & FOUND != 0 {
        return false;
    }
    thin_look(skb, which, wire.l2_bytes, pace, 1);
    true
}

/// Holds the flow of a fat packet that its share let through: until it leaves, at `departs_ns`. Where nothing of a share's
/// waits that is 0: for as long as the packet takes at the tenant's pace.
#[inline(always)]
pub fn shared(skb: *mut __sk_buff, which: u32, wire: &Wire, pace: u64, departs_ns: u64) {
    thin_hold(skb, which, wire.l2_bytes, pace, departs_ns);
}

/// Notes in the skb what is found, once, and returns [`fat`]; 0, and nothing, where it does not matter. `which`: slot and
/// direction.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn thin_look(
    skb: *mut __sk_buff,
    which: u32,
    l2_bytes: u64,
    pace: u64,
    matters: u64,
) -> u64 {
    if matters == 0 {
        return 0;
    }
    // SAFETY: the context is the program's own; these words are for its programs. A limit of packets may have asked already.
    if unsafe { (*skb).cb[0] } & FOUND != 0 {
        return fat(skb);
    }
    let together = maps::CLOCKS.get_ptr_mut(which * Sizes::CLOCKS + Sizes::THIN);
    let Some(together) = together else {
        return 0;
    };
    let limit = limit(pace);
    // SAFETY: the context is the program's own; these words are for its programs.
    let (low, high) = unsafe { ((*skb).cb[2], (*skb).cb[3]) };
    let hash = (high as u64) << 32 | low as u64;
    let place = Place::of(hash, maps::thin_keys()[0], limit.now_ns, maps::thin_cells());
    let thin = limit.thin(&rows(which), &Shared(together), place, l2_bytes);
    // SAFETY: the context is the program's own; these words are for its programs.
    unsafe {
        (*skb).cb[1] = place.packed();
        let urgent = (*skb).cb[0] & URGENT;
        (*skb).cb[0] = urgent | FOUND | if thin { THIN } else { 0 };
        (*skb).cb[4] = !thin as u32 & (urgent ^ URGENT);
    }
    fat(skb)
}

/// What [`thin_look`] would say of a packet with this `hash`: 1 for thin, else 0. Nothing is noted.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn thin_would(hash: u64, which: u32, l2_bytes: u64, pace: u64) -> u64 {
    let together = maps::CLOCKS.get_ptr_mut(which * Sizes::CLOCKS + Sizes::THIN);
    let Some(together) = together else {
        return 1;
    };
    let limit = limit(pace);
    let place = Place::of(hash, maps::thin_keys()[0], limit.now_ns, maps::thin_cells());
    limit.would_be_thin(&rows(which), &Shared(together), place, l2_bytes) as u64
}

/// Holds the packet's flow if it is fat: it was accepted, and leaves at `departure_ns`; 0: now. `which`: slot and direction.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn thin_hold(
    skb: *mut __sk_buff,
    which: u32,
    l2_bytes: u64,
    pace: u64,
    departure_ns: u64,
) -> u64 {
    if fat(skb) == 0 {
        return 0;
    }
    // SAFETY: the context is the program's own; these words are for its programs.
    let place = Place::unpacked(unsafe { (*skb).cb[1] });
    limit(pace).hold(&rows(which), place, l2_bytes, departure_ns);
    1
}
