//! fq on one device: it holds every packet until the departure time that the program gave it.
//!
//! What leaves is limited by the programs alone, so fq must neither drop nor pace by itself: both its
//! limits are far above what the limiters let in, and no rate is set. Its horizon stays at the
//! kernel's 10 s: no limiter gives a later departure to what it accepts, unless its burst is longer.

use super::{
    htb::HANDLE,
    rtnl::{Attributes, ROOT, Result, Rtnl},
};

/// skbs that fq may hold, in all and of one flow: limits, not memory taken. Its default of 100 for a
/// flow drops what is billed already.
const SKBS_MAX: u32 = 1 << 20;

/// Longest burst, ns, whose departures fall within fq's horizon of 10 s, with a margin.
pub(crate) const BURST_NS_MAX: u64 = 9_000_000_000;

const FQ_PLIMIT: u16 = 1;
const FQ_FLOW_PLIMIT: u16 = 2;

/// Makes fq the root of a device; below `mq`, one for each of its transmit queues.
pub(crate) fn make(rtnl: &mut Rtnl, ifindex: u32, tx_queues: u32) -> Result<()> {
    let options = Attributes::default()
        .u32(FQ_PLIMIT, SKBS_MAX)
        .u32(FQ_FLOW_PLIMIT, SKBS_MAX);
    if tx_queues <= 1 {
        return rtnl.qdisc(ifindex, ROOT, HANDLE, "fq", options.bytes());
    }
    rtnl.qdisc(ifindex, ROOT, HANDLE, "mq", &[])?;
    for queue in 1..=tx_queues {
        // Handle 0: the kernel chooses one.
        rtnl.qdisc(ifindex, HANDLE | queue, 0, "fq", options.bytes())?;
    }
    Ok(())
}
