//! The limiter's clocks and times. The law is `dataplane_common::limiter`.

use crate::{fair, maps};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
};
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};
use dataplane_common::{
    abi::{DIRECTIONS, LimitPolicy, PortPolicy, Sizes},
    ecn::Departure,
    limiter::{Clock, Decision, Now},
    reason::DropReason,
    wire::Wire,
};

/// A clock in `CLOCKS`.
pub struct Shared(pub *mut u64);

impl Clock for Shared {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: points into an array map, whose elements live as long as the map.
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    fn compare_exchange(&self, old: u64, new: u64) -> u64 {
        const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
        // SAFETY: as above; elements are 8-aligned.
        unsafe { atomic_cxchg::<u64, { ORDER }, { ORDER }>(self.0, old, new).0 }
    }

    #[inline(always)]
    fn fetch_add(&self, units: u64) -> u64 {
        // SAFETY: as above.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(self.0, units) }
    }
}

/// The kernel's clocks.
pub struct Kernel;

impl Now for Kernel {
    #[inline(always)]
    fn coarse_ns(&self) -> u64 {
        // SAFETY: takes no argument.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn exact_ns(&self) -> u64 {
        // SAFETY: takes no argument.
        unsafe { bpf_ktime_get_ns() }
    }
}

/// Takes `wire` from both limits of a direction, or from none. Returns when the packet may leave. What is fat is refused
/// earlier than what is not: `class` says so (1, else 0), and is told whether its answer matters (1, else 0).
///
/// # Errors
/// The ceiling that it is over.
#[inline(always)]
pub fn take(
    port: &PortPolicy,
    slot: u32,
    direction: u32,
    wire: &Wire,
    class: impl Fn(&Wire, u64) -> u64,
) -> Result<Departure, DropReason> {
    let [bytes, packets] = &port.limits[(direction & 1) as usize];
    let sizes = maps::sizes();
    let by_packets = port.has(PortPolicy::limited(direction, 1));
    let by_bytes = port.has(PortPolicy::limited(direction, 0));
    if by_packets {
        // Such a limit is for floods: its class is asked at once, where there is one.
        let flag = PortPolicy::limited(direction, 0);
        let has_class = (port.flags & flag) as u64 >> flag.trailing_zeros();
        match limiter_packets(
            packets,
            slot,
            direction,
            wire.packets,
            class(wire, has_class),
        ) {
            PASSED => {}
            OVER => return Err(DropReason::CeilingPackets),
            CONTENDED => return Err(DropReason::LimiterContended),
            _ => return Err(DropReason::Internal),
        }
    }
    if !by_bytes {
        return Ok(Departure::NOW);
    }
    let clock = maps::CLOCKS.get_ptr_mut(sizes.clock(slot, direction, 0));
    let clock = Shared(clock.ok_or(DropReason::Internal)?);
    let units = bytes.charge(wire.l2_bytes);
    let taken = bytes.take_classed(&clock, &Kernel, units, |over| class(wire, over));
    let refused = match taken {
        Decision::Pass { backlog: 0, .. } => return Ok(Departure::NOW),
        Decision::Pass { backlog, at_ns } => {
            let at_ns = at_ns + bytes.delay_ns(backlog);
            return Ok(Departure::at(at_ns, backlog, bytes.mark));
        }
        Decision::Over => DropReason::CeilingBytes,
        Decision::Contended => DropReason::LimiterContended,
    };
    if by_packets && let Some(clock) = maps::CLOCKS.get_ptr_mut(sizes.clock(slot, direction, 1)) {
        packets.give_back(&Shared(clock), wire.packets);
    }
    Err(refused)
}

// What `limiter_packets` returns.
const PASSED: u64 = 0;
const OVER: u64 = 1;
const CONTENDED: u64 = 2;
const MISSING: u64 = 3;

/// Takes `packets` from a limit of packets. A function of its own, which the verifier walks once: few ports have one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_packets(
    limit: *const LimitPolicy,
    slot: u32,
    direction: u32,
    packets: u64,
    fat: u64,
) -> u64 {
    let clock = maps::CLOCKS.get_ptr_mut(maps::sizes().clock(slot, direction, 1));
    // SAFETY: the caller gives a port's own. To the verifier a pointer may be null.
    let (Some(limit), Some(clock)) = (unsafe { limit.as_ref() }, clock) else {
        return MISSING;
    };
    // More than one would be no answer of `thin::look`.
    let horizon = limit.horizon_less(fat & 1);
    match limit.take_within(&Shared(clock), &Kernel, packets, horizon) {
        Decision::Pass { .. } => PASSED,
        Decision::Over => OVER,
        Decision::Contended => CONTENDED,
    }
}

/// Takes `wire` back from both limits of a direction: a later stage refused the packet.
#[inline(always)]
pub fn give_back(skb: *mut __sk_buff, port: &PortPolicy, slot: u32, direction: u32, wire: &Wire) {
    fair::give_back(skb, port, slot, direction, wire);
    let limits = &port.limits[(direction & 1) as usize];
    let which = slot * DIRECTIONS + direction;
    both_give_back(limits, which, wire.l2_bytes, wire.packets);
}

/// The same of the limits alone. `which`: slot and direction.
#[inline(always)]
pub fn both_give_back(limits: &[LimitPolicy; 2], which: u32, l2_bytes: u64, packets: u64) {
    for (unit, units) in [l2_bytes, packets].into_iter().enumerate() {
        let limit = &limits[unit & 1];
        if limit.limited()
            && let Some(clock) = maps::CLOCKS.get_ptr_mut(which * Sizes::CLOCKS + unit as u32)
        {
            // Packets have no price.
            limit.give_back(&Shared(clock), limit.charge(units));
        }
    }
}
