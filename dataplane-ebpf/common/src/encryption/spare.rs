//! The rate of an exemption: so few packets a second that a clock of its own is enough for each.
//!
//! The generic cell rate algorithm (ITU-T I.371, Annex A) with one word: when the next packet is due. A packet passes
//! unless it comes more than [`BURST_NS`] ahead of that.

/// How far ahead of its time a packet may come, ns: pings and a resolver's first questions come in bursts.
pub const BURST_NS: u64 = 1_000_000_000;

/// A word that several CPUs advance.
pub trait Spare {
    /// Its value.
    fn load(&self) -> u64;
    /// Stores `new` if it is `old`; true when it was.
    fn compare_exchange(&self, old: u64, new: u64) -> bool;
}

/// Takes one packet at `now_ns`, one each `interval_ns` in the long run. False: it is too early, or other CPUs were
/// faster too often.
#[inline(always)]
pub fn take(spare: &impl Spare, interval_ns: u64, now_ns: u64) -> bool {
    let mut tries = 0;
    while tries < 4 {
        let due = spare.load();
        if due > now_ns + BURST_NS {
            return false;
        }
        let from = if due > now_ns { due } else { now_ns };
        if spare.compare_exchange(due, from + interval_ns) {
            return true;
        }
        tries += 1;
    }
    false
}
