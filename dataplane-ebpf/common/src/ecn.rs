//! Explicit congestion notification (RFC 3168): when a limit's queue, real or virtual, is long enough to say so.
//!
//! A packet of a fat flow that has more than [`MARK_NS`] ahead of it in the virtual queue leaves with Congestion
//! Experienced, if its sender has said that it listens. One step, as of a queue that DCTCP (RFC 8257) or CUBIC drives: the
//! queue itself is the average. A thin packet is not marked ([`crate::thin`]): its flow keeps nothing waiting.

/// Virtual backlog over which packets are marked, ns at the limit's rate.
pub const MARK_NS: u64 = 1_000_000;

/// Is a packet that leaves at `departure_ns` in its turn, 0: now, to be marked? CLOCK_MONOTONIC; the coarse clock marks
/// earlier by its lag at most.
#[inline(always)]
pub const fn congested(departure_ns: u64, now_ns: u64) -> bool {
    departure_ns.saturating_sub(now_ns) > MARK_NS
}
