//! A tenant's part of its uplink: the maps and the time. The law is `dataplane_common::share`.

use crate::{
    account::Book,
    fair,
    limiter::{self, Shared},
    maps, thin,
};
use aya_ebpf::{bindings::__sk_buff, helpers::bpf_ktime_get_ns};
use core::ptr::{addr_of, addr_of_mut};
use dataplane_common::{
    abi::{
        DIRECTIONS, Epoch, LimitPolicy, PortPolicy,
        share::{
            ShareLine, SharePace, SharePolicy, UPLINKS_MAX, UplinkShare, share_clocks_index,
            share_index, uplink_index, uplink_share_index,
        },
    },
    ecn::Departure,
    reason::DropReason,
    share::{self, Clocks, Link, Paid, Refused},
    thin::pace,
    wire::Wire,
    zone,
};

/// An element of `UPLINK_SHARE`.
struct Uplink(*mut UplinkShare);

macro_rules! word {
    ($($name:ident = $field:ident;)+) => {
        $(#[inline(always)]
        fn $name(&self) -> Shared {
            // SAFETY: points into an array map, whose elements live as long as the map.
            Shared(unsafe { addr_of_mut!((*self.0).$field) })
        })+
    };
}

impl Uplink {
    #[inline(always)]
    fn at(&self, at: u64) -> *mut ShareLine {
        // SAFETY: as above; `at` stays below the number of lines.
        unsafe {
            addr_of_mut!((*self.0).lines)
                .cast::<ShareLine>()
                .add((at % UplinkShare::LINES) as usize)
        }
    }
}

impl Link for Uplink {
    type Word = Shared;

    word! {
        state = state;
        guaranteed = guaranteed;
        borrowed = borrowed;
        refused = refused;
        limited = limited;
        early = early;
    }

    #[inline(always)]
    fn due(&self, at: u64) -> Shared {
        // SAFETY: as above; `at` stays below the number of slices.
        Shared(unsafe {
            addr_of_mut!((*self.0).due)
                .cast::<u64>()
                .add((at % UplinkShare::SLICES) as usize)
        })
    }

    #[inline(always)]
    fn pace(&self, at: u64) -> SharePace {
        // SAFETY: as above. Volatile: between two reads of the state.
        unsafe {
            let pace = addr_of!((*self.at(at)).pace);
            SharePace {
                origin_ns: addr_of!((*pace).origin_ns).read_volatile(),
                alpha: addr_of!((*pace).alpha).read_volatile(),
                integral: addr_of!((*pace).integral).read_volatile(),
                fraction: addr_of!((*pace).fraction).read_volatile(),
                reach: addr_of!((*pace).reach).read_volatile(),
                carried: addr_of!((*pace).carried).read_volatile(),
                pressed: addr_of!((*pace).pressed).read_volatile(),
                stands: addr_of!((*pace).stands).read_volatile(),
            }
        }
    }

    #[inline(always)]
    fn counts(&self, at: u64) -> ShareLine {
        // SAFETY: as above. Nobody writes it: only who made the state odd reads all of it. Field by field:
        // the whole would go over the stack.
        unsafe {
            let line = self.at(at);
            ShareLine {
                pace: SharePace::default(),
                guaranteed: addr_of!((*line).guaranteed).read_volatile(),
                borrowed: addr_of!((*line).borrowed).read_volatile(),
                refused: addr_of!((*line).refused).read_volatile(),
                limited: addr_of!((*line).limited).read_volatile(),
                held: addr_of!((*line).held).read_volatile(),
                reserved: [0; 3],
            }
        }
    }

    #[inline(always)]
    fn began_ns(&self, at: u64) -> u64 {
        // SAFETY: as above.
        unsafe { addr_of!((*self.at(at)).pace.origin_ns).read_volatile() }
    }

    #[inline(always)]
    fn set_carried(&self, at: u64, carried: u64) {
        // SAFETY: as above. Nobody else writes: the state is odd.
        unsafe { addr_of_mut!((*self.at(at)).pace.carried).write_volatile(carried) }
    }

    #[inline(always)]
    fn set_pace(&self, at: u64, pace: &SharePace) {
        // SAFETY: as above. Nobody else writes: the state is odd.
        unsafe {
            let to = addr_of_mut!((*self.at(at)).pace);
            addr_of_mut!((*to).origin_ns).write_volatile(pace.origin_ns);
            addr_of_mut!((*to).alpha).write_volatile(pace.alpha);
            addr_of_mut!((*to).integral).write_volatile(pace.integral);
            addr_of_mut!((*to).fraction).write_volatile(pace.fraction);
            addr_of_mut!((*to).reach).write_volatile(pace.reach);
            addr_of_mut!((*to).pressed).write_volatile(pace.pressed);
            addr_of_mut!((*to).stands).write_volatile(pace.stands);
        }
    }

    #[inline(always)]
    fn set_counts(&self, at: u64, line: &ShareLine) {
        // SAFETY: as above.
        unsafe {
            let to = self.at(at);
            addr_of_mut!((*to).guaranteed).write_volatile(line.guaranteed);
            addr_of_mut!((*to).borrowed).write_volatile(line.borrowed);
            addr_of_mut!((*to).refused).write_volatile(line.refused);
            addr_of_mut!((*to).limited).write_volatile(line.limited);
            addr_of_mut!((*to).held).write_volatile(line.held);
        }
    }
}

/// Takes the packet from its tenant's guarantee or share, if the tenant shares an uplink and the packet
/// does not stay on this host. Returns when it leaves. A packet that is refused is given back to its port's limits.
///
/// # Errors
/// [`DropReason::ShareExceeded`], [`DropReason::UplinkFull`], [`DropReason::CeilingBytes`] of the tenant,
/// [`DropReason::LimiterContended`].
#[inline(always)]
pub fn take(
    skb: *mut __sk_buff,
    port: &PortPolicy,
    book: &Book,
    zone: u32,
    wire: &Wire,
) -> Result<Departure, DropReason> {
    if port.share == 0 || zone == zone::INTRA_HOST {
        return Ok(Departure::NOW);
    }
    let whose = whose(port, book.epoch, book.direction);
    let now_ns = share_renew(whose);
    let pace = share_pace(whose);
    let which = book.slot * DIRECTIONS + book.direction;
    let looked = thin::look_for_share(skb, which, wire, pace);
    let class = thin::fat(skb) << FAT_SHIFT;
    // At a port's ceiling its flows have their parts already.
    let parts = class != 0 && port.flags & PortPolicy::limited(book.direction, 0) == 0;
    if parts {
        let until_ns = fair::fair_share(skb, which, whose, wire.l2_bytes);
        if until_ns != 0 {
            thin::shared(skb, which, wire, pace, until_ns);
            limiter::give_back(skb, port, book.slot, book.direction, wire);
            return Err(DropReason::CeilingBytes);
        }
    }
    let taken = share_take(whose | class, wire.packets, wire.l2_bytes, now_ns);
    let refused = match taken {
        SHARE => DropReason::ShareExceeded,
        LINK => DropReason::UplinkFull,
        CEILING => DropReason::CeilingBytes,
        CONTENDED => DropReason::LimiterContended,
        MISSING => DropReason::Internal,
        passed => {
            let departs_ns = if passed > BORROWED { passed } else { 0 };
            if looked {
                thin::shared(skb, which, wire, pace, departs_ns);
            }
            // Who has no more than its guarantee is told nothing: others are to slow down.
            let near = if passed >= BORROWED && class != 0 {
                share_near(whose, now_ns, wire.packets, wire.l2_bytes)
            } else {
                0
            };
            return Ok(Departure::at(departs_ns, near, 0));
        }
    };
    if parts {
        fair::fair_share_give_back(skb, which, whose, wire.l2_bytes);
    }
    limiter::give_back(skb, port, book.slot, book.direction, wire);
    Err(refused)
}

// What `share_take` returns; anything else is when the packet leaves.
const PASSED: u64 = 0;
const SHARE: u64 = 1;
const LINK: u64 = 2;
const CEILING: u64 = 3;
const CONTENDED: u64 = 4;
const MISSING: u64 = 5;
const BORROWED: u64 = 6;

/// In the word of [`policy`]: the packet's flow is fat.
const FAT_SHIFT: u32 = 63;

/// What [`policy`] reads: the account of a port that shares an uplink, the set of policy, the direction.
#[inline(always)]
pub fn whose(port: &PortPolicy, epoch: Epoch, direction: u32) -> u64 {
    (port.share as u64 - 1) << 2 | (epoch.policy_set() as u64) << 1 | direction as u64
}

/// The tenant's ceiling and its clock, if it has one.
#[inline(always)]
pub fn ceiling(whose: u64) -> Option<(&'static LimitPolicy, Shared)> {
    let (policy, _) = policy(whose)?;
    if policy.weight == 0 || !policy.ceiling.limited() {
        return None;
    }
    Some((&policy.ceiling, clocks(whose)?.ceiling))
}

/// The same where what is over a share waits, and so is a queue.
#[inline(always)]
pub fn queued_ceiling(whose: u64) -> Option<(&'static LimitPolicy, Shared)> {
    let (_, index) = policy(whose)?;
    if maps::UPLINKS.get(index)?.horizon_ns == 0 {
        return None;
    }
    ceiling(whose)
}

/// ns that a byte takes at what the tenant has at least, times 2^20: its guarantee, else its ceiling, else an eighth of
/// the link; with the price of a packet ([`dataplane_common::thin::pace`]). What is thin is told by it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn share_pace(whose: u64) -> u64 {
    let Some((policy, index)) = policy(whose) else {
        return 0;
    };
    if policy.guarantee.limited() {
        return policy.guarantee.pace();
    }
    if policy.ceiling.limited() {
        return policy.ceiling.pace();
    }
    let Some(uplink) = maps::UPLINKS.get(index) else {
        return 0;
    };
    // 2^78 / rate.
    match (1_u64 << 63).checked_div(uplink.rate) {
        Some(quotient) => pace(quotient << 18, uplink.price as u64),
        None => 0,
    }
}

/// An account, set of policy and direction, in one word.
#[inline(always)]
fn policy(whose: u64) -> Option<(&'static SharePolicy, u32)> {
    let (account, set, direction) = (
        (whose >> 2) as u32 & 0xFFFF,
        (whose >> 1) as u32 & 1,
        whose as u32 & 1,
    );
    let index = share_index(maps::sizes().slots, set, account, direction);
    let policy = maps::SHARES.get(index)?;
    Some((
        policy,
        uplink_index(set, policy.uplink % UPLINKS_MAX, direction),
    ))
}

#[inline(always)]
fn link(policy: &SharePolicy, whose: u64) -> Option<Uplink> {
    let index = uplink_share_index(policy.uplink % UPLINKS_MAX, whose as u32 & 1);
    maps::UPLINK_SHARE.get_ptr_mut(index).map(Uplink)
}

#[inline(always)]
fn clocks(whose: u64) -> Option<Clocks<Shared>> {
    let index = share_clocks_index((whose >> 2) as u32 & 0xFFFF, whose as u32 & 1);
    let clocks = maps::SHARE_CLOCKS.get_ptr_mut(index)?;
    // SAFETY: points into an array map, as above.
    Some(unsafe {
        Clocks {
            ceiling: Shared(addr_of_mut!((*clocks).ceiling)),
            guarantee: Shared(addr_of_mut!((*clocks).guarantee)),
            borrowed: Shared(addr_of_mut!((*clocks).borrowed)),
            limited: Shared(addr_of_mut!((*clocks).limited)),
            departs: Shared(addr_of_mut!((*clocks).departs)),
        }
    })
}

/// 1: the tenant is near the end of what it may borrow, or where packets wait, has a queue of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn share_near(whose: u64, now_ns: u64, packets: u64, l2_bytes: u64) -> u64 {
    let Some((policy, index)) = policy(whose) else {
        return 0;
    };
    let (Some(uplink), Some(link), Some(clocks)) =
        (maps::UPLINKS.get(index), link(policy, whose), clocks(whose))
    else {
        return 0;
    };
    let bytes = uplink.charge(packets, l2_bytes);
    share::near((policy, &clocks), (uplink, &link), now_ns, bytes) as u64
}

/// Renews α when it is time, and returns the time. This and the next are functions of their own, which the
/// verifier walks once, and with a stack of their own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn share_renew(whose: u64) -> u64 {
    // SAFETY: takes no argument.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if let Some((policy, index)) = policy(whose)
        && let Some(uplink) = maps::UPLINKS.get(index)
        && let Some(link) = link(policy, whose)
        && uplink.rate != 0
    {
        share::renew(uplink, &link, now_ns);
    }
    now_ns
}

/// Decides on `packets` of together `l2_bytes`. Returns [`PASSED`], why not, or when it leaves.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn share_take(whose: u64, packets: u64, l2_bytes: u64, now_ns: u64) -> u64 {
    let Some((policy, index)) = policy(whose) else {
        return MISSING;
    };
    if policy.weight == 0 {
        return PASSED;
    }
    let uplink = maps::UPLINKS.get(index);
    let (Some(uplink), Some(link), Some(clocks)) = (uplink, link(policy, whose), clocks(whose))
    else {
        return MISSING;
    };
    match share::take_of(
        (policy, &clocks),
        (uplink, &link),
        now_ns,
        (packets, l2_bytes),
        whose >> FAT_SHIFT != 0,
    ) {
        Ok(taken) if taken.departs_ns > now_ns => taken.departs_ns,
        Ok(taken) if taken.paid == Paid::Borrowed && uplink.horizon_ns == 0 => BORROWED,
        Ok(_) => PASSED,
        Err(Refused::Share) => SHARE,
        Err(Refused::Link) => LINK,
        Err(Refused::Ceiling) => CEILING,
        Err(Refused::Contended) => CONTENDED,
    }
}
