//! Floods: what an uplink drops of what a port is about to refuse, before an skb exists.
//!
//! An uplink sees a frame a moment before the port that it is for. It reads the clock of the port's limit and books
//! nothing on it. Where the port would refuse the frame, the uplink lets through as much again as the ceiling allows
//! (the *surplus*: a clock of the uplink's own, held against the same line) and ends the rest.
//!
//! Invariants (`tests/flood`)
//! - What ends here, the port would have refused at that moment: for any arrivals the port accepts the same packets with
//!   and without this. Nothing of the port's changes by a packet that it refuses, but where its flow is thin
//!   ([`crate::thin`]): such a packet never ends here.
//! - While a packet is on its way from here to the port, d ns, the port's queue drains. So of what a port accepts until its
//!   virtual queue is empty, at most rate · d and one packet are lost.
//! - What is fat, is refused by a ceiling and still costs an skb is, over every interval t, at most rate · t + burst + one
//!   packet for each CPU: as much as the port may accept. What is thin is at most half of that ([`crate::thin`]). Who keeps
//!   a little over the ceiling, as TCP does, loses nothing here.
//! - No rate, burst or revision of its own, so none that can be wrong: a line continues through revisions
//!   ([`crate::limit`]). A surplus that another life of the limit left is at most a burst ahead.
//!
//! Frames are counted as they come in, before they are merged: layer-2 bytes of each, without its check sequence.

use crate::{
    abi::LimitPolicy,
    limiter::{Clock, Decision, Now},
};

/// Slot in keys of `MACS` and `ADDRESSES` whose value says whose the address is: a register slot, or [`NOBODY`]. They are
/// there where an uplink polices floods.
pub const WHOSE: u32 = u32::MAX;
/// Such a value: several ports have the address.
pub const NOBODY: u32 = u32::MAX;

/// Flag in the entry of an uplink in `PORTS`: it is to police floods. Programs do not ask: without it, no frame is anybody's.
pub const POLICES: u32 = 1 << 16;

/// Clocks of the uplink for each port: of the port's bytes, of its packets, of its tenant's ceiling, and one for later.
pub const SURPLUS_CLOCKS: u32 = 4;
/// The port's bytes.
pub const BYTES: u32 = 0;
/// The port's packets.
pub const PACKETS: u32 = 1;
/// The bytes of its tenant's ceiling.
pub const TENANT: u32 = 2;

/// The horizon at which an uplink asks. Where a limit tells thin from fat, only what is fat may end.
#[inline(always)]
pub const fn horizon(limit: &LimitPolicy, has_classes: bool) -> u64 {
    limit.horizon_less(has_classes as u64)
}

/// Does a packet of `units` that `limit` is about to refuse end here? Books it on `surplus` where it does not.
#[inline(always)]
pub fn ends<C: Clock, N: Now>(limit: &LimitPolicy, surplus: &C, now: &N, units: u64) -> bool {
    // Contended: others flood the same port on other CPUs, and it is refused in any case.
    !matches!(limit.take(surplus, now, units), Decision::Pass { .. })
}
