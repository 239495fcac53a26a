//! HTB on one device: a real queue that drains as fast as the limiter's clock says.
//!
//! ```text
//! 6f63: htb ── 6f63:1  the ceiling ─┬─ 6f63:10  bulk     second, bfifo
//!                                   └─ 6f63:20  thin     first,  bfifo
//! ```
//! The limiter decides what enters; HTB only spreads it over time, so that TCP meets a queue and not
//! a wall. So the queue must never be the one that drops: what it drops is billed already.
//! - HTB drains a little faster than the clock ([`Pace::rate`]). Were it slower, a link that is full
//!   for hours would fill the leaf whatever its size.
//! - But only a little: on a link that stays full, the real queue falls behind the clock's backlog
//!   by the difference, and with an empty queue the limiter is a policer again.
//! - It may catch up after it was late ([`Pace::catch_up_us`]): tokens that do not fit are lost, and
//!   make the queue longer for good.
//! - What is thin goes first while it stays within its class's own rate. It does: the programs call less than that thin
//!   ([`THIN_PARTS`]). A class that borrows is served after every class that need not, whatever their order.
//! - A leaf holds four times what the limiter lets in at once ([`Pace::leaf_bytes`]).

use super::rtnl::{Attributes, ROOT, Result, Rtnl};
use dataplane_common::{abi::shape::HTB_LEAF, units::BitsPerSecond};

/// Handle of every root qdisc that octroi makes; "oc" in ASCII, as the cls_bpf filters have it. The
/// program's class has it, too, so that no class of somebody else's HTB is meant.
pub(crate) const HANDLE: u32 = HTB_LEAF & 0xFFFF_0000;

const CEILING: u32 = HANDLE | 0x1;
const BULK: u32 = HTB_LEAF;
const THIN: u32 = HANDLE | 0x20;
/// Handles of the leaves' qdiscs: only distinct.
const BULK_FIFO: u32 = HANDLE + 0x1_0000;
const THIN_FIFO: u32 = HANDLE + 0x2_0000;

/// The largest skb that a limiter may accept beyond its burst, bytes on the wire: `GSO_MAX_SIZE`.
const SKB_BYTES_MAX: u64 = 512 << 10;

/// Eighths of the ceiling that the class for thin flows has of its own: half of it is what thin flows have at most
/// (`dataplane_common::thin`), and an eighth is for what finds neighbours, which nothing bounds but the limiter.
const THIN_PARTS: u64 = 5;

/// Timers and softirqs of a busy host are late by milliseconds.
const CATCH_UP_US_MIN: u64 = 10_000;

/// HTB's numbers for one ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// What HTB lets through, bytes per second.
    pub rate: u64,
    /// Time at that rate that it may catch up, µs: HTB's own burst.
    pub catch_up_us: u64,
    /// What each leaf holds, bytes: a limit, not memory taken.
    pub leaf_bytes: u32,
}

impl Pace {
    /// As good as none: for a device whose port lost its ceiling, until its queue is empty.
    pub(crate) const OPEN: Self = Self {
        rate: 1 << 40,
        catch_up_us: CATCH_UP_US_MIN,
        leaf_bytes: u32::MAX,
    };

    /// What an earlier daemon set: anything is wider.
    pub(crate) const UNKNOWN: Self = Self {
        rate: 0,
        catch_up_us: 0,
        leaf_bytes: 0,
    };

    /// For a ceiling and the limiter's burst in bytes. Why these numbers:
    /// docs/decisions/0004-traffic-control-through-netlink.md, "Measured".
    pub(crate) fn of(BitsPerSecond(ceiling): BitsPerSecond, burst_bytes: u64) -> Self {
        let bytes = ceiling.div_ceil(8).max(1);
        let leaf = burst_bytes.saturating_add(SKB_BYTES_MAX).saturating_mul(4);
        // What HTB lets through at once does not queue, so it is a part of the burst only.
        let burst_us = u128::from(burst_bytes) * 1_000_000 / u128::from(bytes);
        let catch_up_us = u64::try_from(burst_us / 4).unwrap_or(u64::MAX);
        Self {
            rate: bytes + (bytes >> 10) + 1,
            catch_up_us: catch_up_us.clamp(CATCH_UP_US_MIN, 1_000_000),
            leaf_bytes: u32::try_from(leaf).unwrap_or(u32::MAX),
        }
    }

    /// At least as open as both: in force while one revision of the policy gives way to the other.
    pub(crate) fn or_wider(self, other: Self) -> Self {
        Self {
            rate: self.rate.max(other.rate),
            catch_up_us: self.catch_up_us.max(other.catch_up_us),
            leaf_bytes: self.leaf_bytes.max(other.leaf_bytes),
        }
    }
}

/// Makes HTB the root of a device.
pub(crate) fn make(rtnl: &mut Rtnl, ifindex: u32, pace: Pace) -> Result<()> {
    // struct tc_htb_glob: version, r2q, default class, debug, direct packets. Whatever the program
    // did not classify goes first: nothing that is not limited may wait behind what is.
    let globals = [3, 10, THIN & 0xFFFF, 0, 0].map(u32::to_ne_bytes).concat();
    let options = Attributes::default().put(HTB_INIT, &globals);
    rtnl.qdisc(ifindex, ROOT, HANDLE, "htb", options.bytes())?;
    set(rtnl, ifindex, pace)
}

/// Gives HTB that is there other numbers. No packet is lost by it: a class changes in place, and a
/// FIFO keeps what it holds.
pub(crate) fn set(rtnl: &mut Rtnl, ifindex: u32, pace: Pace) -> Result<()> {
    let rate = pace.rate;
    let thin = (rate / 8 * THIN_PARTS).max(1);
    let bulk = rate.saturating_sub(thin).max(1);
    for (parent, class, order, own) in [
        (HANDLE, CEILING, 0, rate),
        (CEILING, BULK, 1, bulk),
        (CEILING, THIN, 0, thin),
    ] {
        rtnl.class(ifindex, parent, class, "htb", &options(pace, own, order))?;
    }
    for (leaf, fifo) in [(BULK, BULK_FIFO), (THIN, THIN_FIFO)] {
        // struct tc_fifo_qopt
        rtnl.qdisc(ifindex, leaf, fifo, "bfifo", &pace.leaf_bytes.to_ne_bytes())?;
    }
    Ok(())
}

const HTB_PARMS: u16 = 1;
const HTB_INIT: u16 = 2;
const HTB_RATE64: u16 = 6;
const HTB_CEIL64: u16 = 7;

/// `TC_LINKLAYER_ETHERNET`: the rate is what it says, no table of cell sizes is wanted.
const ETHERNET: u8 = 1;

/// Options of a class with a rate of its own, bytes per second; `order` 0 is served first.
fn options(pace: Pace, own: u64, order: u32) -> Vec<u8> {
    // struct tc_ratespec
    let spec = |rate: u64| {
        let mut spec = [0; 12];
        spec[1] = ETHERNET;
        spec[8..].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
        spec
    };
    // The kernel keeps a burst as time, in ticks of 64 ns (PSCHED_SHIFT).
    let ticks = u32::try_from((pace.catch_up_us * 1_000) >> 6).unwrap_or(u32::MAX);
    // Bytes served in one turn, where two classes of one order take turns: here they do not.
    let quantum = 64 << 10;
    // struct tc_htb_opt: both specs, then buffer, cbuffer, quantum, level, prio.
    let mut parameters = [spec(own), spec(pace.rate)].concat();
    for number in [ticks, ticks, quantum, 0, order] {
        parameters.extend_from_slice(&u32::to_ne_bytes(number));
    }
    Attributes::default()
        .put(HTB_RATE64, &own.to_ne_bytes())
        .put(HTB_CEIL64, &pace.rate.to_ne_bytes())
        .put(HTB_PARMS, &parameters)
        .bytes()
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CEILINGS: [u64; 7] = [
        1_000,
        1_000_000,
        50_000_000,
        1_000_000_001,
        10_000_000_000,
        100_000_000_000,
        400_000_000_000,
    ];

    #[test]
    fn drains_faster_than_the_clock_but_by_no_more_than_a_part_in_500() {
        for ceiling in CEILINGS {
            let Pace { rate, .. } = Pace::of(BitsPerSecond(ceiling), 1_514);
            assert!(rate * 8 > ceiling, "{ceiling}");
            assert!(rate <= ceiling / 8 + ceiling / 4_000 + 2, "{ceiling}");
        }
    }

    #[test]
    fn a_leaf_holds_four_times_what_the_limiter_lets_in() {
        let leaf = |burst| u64::from(Pace::of(BitsPerSecond(8_000_000), burst).leaf_bytes);
        assert!(leaf(1_514) >= 4 * (1_514 + (64 << 10)));
        assert!(leaf(50_000_000) >= 4 * (50_000_000 + (64 << 10)));
        assert_eq!(leaf(u64::MAX), u64::from(u32::MAX));
    }

    #[test]
    fn what_htb_lets_through_at_once_is_a_quarter_of_the_burst_and_at_least_10_ms() {
        let catch_up = |burst| Pace::of(BitsPerSecond(8_000_000), burst).catch_up_us;
        assert_eq!(catch_up(1_514), 10_000);
        assert_eq!(catch_up(80_000), 20_000);
        assert_eq!(catch_up(u64::MAX), 1_000_000);
    }

    #[test]
    fn options_have_the_sizes_of_the_kernels_structures() {
        assert_eq!(options(Pace::OPEN, 1, 0).len(), 12 + 12 + 4 + 44);
    }

    #[test]
    fn the_programs_class_is_the_bulk_leaf_of_our_own_handle() {
        assert_eq!(HANDLE, 0x6F63_0000);
        assert_eq!(BULK, HANDLE | 0x10);
    }
}
