//! The rate of an exemption: so few packets a second that a clock of its own is enough for each.
//!
//! The generic cell rate algorithm (ITU-T I.371, Annex A) with one word: when the next packet is due. A packet passes
//! unless it comes more than [`BURST_NS`] ahead of that.

/// How far ahead of its time a packet may come, ns: pings and a resolver's first questions come in bursts.
pub const BURST_NS: u64 = 1_000_000_000;

/// Milliseconds of a clock, wrapping. Without a division, which costs a CPU more than all else here: 2^20 ns are 1.048576
/// ms, and the clock runs slow by 3 in 10^9.
#[inline(always)]
pub const fn milliseconds(ns: u64) -> u32 {
    /// 0.048576 × 2^26.
    const REST: u64 = 3_259_880;
    let units = ns >> 20;
    (units + (units.wrapping_mul(REST) >> 26)) as u32
}

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

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn milliseconds_go_on_and_are_right_for_years() {
        let year = 365 * 86_400 * 1_000_000_000_u64;
        for begin in [0, 1_000_000_000, year, 50 * year] {
            let mut last = milliseconds(begin);
            for step in 0..10_000_u64 {
                let ns = begin + step * 777_777;
                let now = milliseconds(ns);
                let since = now.wrapping_sub(last);
                assert!(since <= 2, "{since} ms after 0.78");
                last = now;
            }
            let exact = (begin / 1_000_000) as u32;
            let off = exact.wrapping_sub(milliseconds(begin)) as i32;
            // A tenth of a second a year.
            assert!(
                off.unsigned_abs() as u64 <= 2 + begin / year * 100,
                "{off} ms off"
            );
        }
    }
}
