//! Explicit congestion notification (RFC 3168): when a limit's queue, real or virtual, is long enough to say so.
//!
//! A packet of a fat flow that has more than that ahead of it in the virtual queue leaves with Congestion Experienced, if its
//! sender has said that it listens. One step, as of a queue that DCTCP (RFC 8257) or CUBIC drives. A thin packet is not
//! marked ([`crate::thin`]): its flow keeps nothing waiting.
//! - Where packets wait (`htb`, `edt`, a share where fq is), over [`QUEUE_NS`].
//! - Where nothing waits (`police`, a share without fq), over half of the backlog at which packets are refused: there a sender's round
//!   trip does not grow with the backlog, so that a mark at once would take from it the burst that it may have. Measured:
//!   docs/decisions/0056-ecn-marks-by-the-virtual-queue.md.

use crate::abi::{LimitPolicy, shape};

/// Queue over which packets are marked, ns at the limit's rate.
pub const QUEUE_NS: u64 = 1_000_000;

/// Virtual backlog over which packets are marked at a limit that has this [`shape`], ns.
#[inline(always)]
pub const fn over_ns(limit: &LimitPolicy, shaped: u16) -> u64 {
    if shaped == shape::POLICE {
        limit.delay_ns(limit.horizon) / 2
    } else {
        QUEUE_NS
    }
}

/// Is a packet that leaves at `departure_ns` in its turn, 0: now, to be marked? CLOCK_MONOTONIC; the coarse clock marks
/// earlier by its lag at most.
#[inline(always)]
pub const fn congested(departure_ns: u64, now_ns: u64, over_ns: u64) -> bool {
    departure_ns.saturating_sub(now_ns) > over_ns
}
