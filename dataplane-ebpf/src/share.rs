//! A tenant's part of its uplink: the maps and the time. The law is `dataplane_common::share`.

use crate::{
    account::Book,
    limiter::{self, Shared},
    maps,
};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use core::ptr::{addr_of, addr_of_mut};
use dataplane_common::{
    abi::{
        PortPolicy,
        share::{
            ShareLine, SharePace, UPLINKS_MAX, UplinkShare, share_clocks_index, share_index,
            uplink_index, uplink_share_index,
        },
    },
    reason::DropReason,
    share::{self, Clocks, Link, Refused},
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
                reserved: [0; 2],
            }
        }
    }

    #[inline(always)]
    fn line(&self, at: u64) -> ShareLine {
        // SAFETY: as above. Nobody writes it: only who made the state odd reads all of it.
        unsafe { *self.at(at) }
    }

    #[inline(always)]
    fn set_line(&self, at: u64, line: &ShareLine) {
        // SAFETY: as above. Nobody else writes: the state is odd.
        unsafe { *self.at(at) = *line };
    }
}

/// Takes the packet from its tenant's guarantee or share, if the tenant shares an uplink and the packet
/// does not stay on this host. A packet that is refused is given back to its port's limits.
///
/// # Errors
/// [`DropReason::ShareExceeded`], [`DropReason::UplinkFull`], [`DropReason::CeilingBytes`] of the tenant,
/// [`DropReason::LimiterContended`].
#[inline(always)]
pub fn take(port: &PortPolicy, book: &Book, zone: u32, wire: &Wire) -> Result<(), DropReason> {
    if port.share == 0 || zone == zone::INTRA_HOST {
        return Ok(());
    }
    let account = port.share - 1;
    let set = book.epoch.policy_set() as u64;
    let whose = account << 2 | set << 1 | book.direction as u64;
    let refused = match share_take(whose, wire.packets, wire.l2_bytes) {
        PASSED => return Ok(()),
        SHARE => DropReason::ShareExceeded,
        LINK => DropReason::UplinkFull,
        CEILING => DropReason::CeilingBytes,
        CONTENDED => DropReason::LimiterContended,
        _ => DropReason::Internal,
    };
    limiter::give_back(port, book.slot, book.direction, wire);
    Err(refused)
}

const PASSED: u64 = 0;
const SHARE: u64 = 1;
const LINK: u64 = 2;
const CEILING: u64 = 3;
const CONTENDED: u64 = 4;
const MISSING: u64 = 5;

/// The same, for an account, set and direction in one word: a function of its own, which the verifier
/// walks once, and with a stack of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn share_take(whose: u64, packets: u64, l2_bytes: u64) -> u64 {
    let (account, set, direction) = (
        (whose >> 2) as u32,
        (whose >> 1) as u32 & 1,
        whose as u32 & 1,
    );
    let accounts = maps::sizes().slots;
    let Some(policy) = maps::SHARES.get(share_index(accounts, set, account, direction)) else {
        return MISSING;
    };
    if policy.weight == 0 {
        return PASSED;
    }
    let number = policy.uplink % UPLINKS_MAX;
    let uplink = maps::UPLINKS.get(uplink_index(set, number, direction));
    let link = maps::UPLINK_SHARE.get_ptr_mut(uplink_share_index(number, direction));
    let clocks = maps::SHARE_CLOCKS.get_ptr_mut(share_clocks_index(account, direction));
    let (Some(uplink), Some(link), Some(clocks)) = (uplink, link, clocks) else {
        return MISSING;
    };
    // SAFETY: `clocks` points into an array map, as above.
    let clocks = unsafe {
        Clocks {
            ceiling: Shared(addr_of_mut!((*clocks).ceiling)),
            guarantee: Shared(addr_of_mut!((*clocks).guarantee)),
            borrowed: Shared(addr_of_mut!((*clocks).borrowed)),
            limited: Shared(addr_of_mut!((*clocks).limited)),
        }
    };
    // SAFETY: takes no argument.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    match share::take(
        (policy, &clocks),
        (uplink, &Uplink(link)),
        now_ns,
        (packets, l2_bytes),
    ) {
        Ok(_) => PASSED,
        Err(Refused::Share) => SHARE,
        Err(Refused::Link) => LINK,
        Err(Refused::Ceiling) => CEILING,
        Err(Refused::Contended) => CONTENDED,
    }
}
