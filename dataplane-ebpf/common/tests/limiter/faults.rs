//! Two faults of limiters in the field. Each is shown on a bucket that has it, the control, and to be
//! absent here: a test that cannot fail proves nothing.

use crate::{Alone, Time, limit};
use dataplane_common::{abi::LimitPolicy, limit::Rate, limiter::Decision, units::BitsPerSecond};

const SECOND_NS: u64 = 1_000_000_000;

/// The limiter under test, alone on its CPU.
struct Ours {
    policy: LimitPolicy,
    clock: Alone,
    time: Time,
}

impl Ours {
    fn new(bits: u64, burst: u64, slack_ns: u64, now_ns: u64) -> Self {
        let rate = Rate::bytes(BitsPerSecond(bits));
        Self {
            policy: limit(rate, burst, slack_ns, now_ns),
            clock: Alone::default(),
            time: Time::at(now_ns),
        }
    }

    fn take(&self, now_ns: u64, bytes: u64) -> bool {
        self.time.now_ns.set(now_ns);
        // A coarse clock of 250 Hz.
        self.time.lag_ns.set(now_ns % 4_000_000);
        matches!(
            self.policy.take(&self.clock, &self.time, bytes),
            Decision::Pass { .. }
        )
    }
}

/// Moves its clock on every packet, and loses what rounds to nothing.
struct Truncating {
    bytes_per_second: u64,
    burst: u64,
    tokens: u64,
    last_ns: u64,
}

impl Truncating {
    fn take(&mut self, now_ns: u64, bytes: u64) -> bool {
        let earned = (now_ns - self.last_ns) * self.bytes_per_second / SECOND_NS;
        self.last_ns = now_ns;
        self.tokens = (self.tokens + earned).min(self.burst);
        let passes = self.tokens >= bytes;
        self.tokens -= if passes { bytes } else { 0 };
        passes
    }
}

/// Bytes that a flood of 64-byte packets gets from second 2 to second 12: 1.49 million a second, a
/// full link of 1 Gbit/s.
fn flooded(mut take: impl FnMut(u64, u64) -> bool) -> u64 {
    const GAP_NS: u64 = 672;
    let begin_ns = SECOND_NS;
    let mut delivered = 0;
    let mut now_ns = begin_ns;
    while now_ns < begin_ns + 12 * SECOND_NS {
        if take(now_ns, 64) && now_ns >= begin_ns + 2 * SECOND_NS {
            delivered += 64;
        }
        now_ns += GAP_NS;
    }
    delivered
}

#[test]
fn a_flood_of_small_packets_gets_its_whole_rate() {
    let wanted = 10 * 1_000_000 / 8;
    let mut control = Truncating {
        bytes_per_second: 125_000,
        burst: 31_250,
        tokens: 31_250,
        last_ns: SECOND_NS,
    };
    let theirs = flooded(|now_ns, bytes| control.take(now_ns, bytes));
    assert!(
        theirs * 100 < wanted,
        "the control must starve: {theirs} of {wanted}"
    );

    for slack_ns in [0, 8_000_000] {
        let ours = Ours::new(1_000_000, 31_250, slack_ns, SECOND_NS);
        let delivered = flooded(|now_ns, bytes| ours.take(now_ns, bytes));
        println!("64-byte flood at 1 Mbit/s: {delivered} of {wanted} bytes, truncating: {theirs}");
        assert!(delivered * 100 >= wanted * 99, "{delivered} of {wanted}");
        assert!(delivered <= wanted + 64);
    }
    println!("CASES: limiter faults of others: 1");
}

/// A virtual clock in 16 bits of milliseconds, compared modulo 2^16.
struct SixteenBits {
    ns_per_byte: u64,
    horizon_ms: i16,
    next_ms: u16,
}

impl SixteenBits {
    fn take(&mut self, now_ns: u64, bytes: u64) -> bool {
        let now_ms = (now_ns / 1_000_000) as u16;
        let ahead = self.next_ms.wrapping_sub(now_ms) as i16;
        if ahead > self.horizon_ms {
            return false;
        }
        let base = if ahead > 0 { self.next_ms } else { now_ms };
        self.next_ms = base.wrapping_add((bytes * self.ns_per_byte / 1_000_000) as u16);
        true
    }
}

/// Milliseconds until one of a row of packets, one a millisecond, passes.
fn blackout_ms(begin_ns: u64, mut take: impl FnMut(u64, u64) -> bool) -> Option<u64> {
    (0..40_000).find(|ms| take(begin_ns + ms * 1_000_000, 1_000))
}

#[test]
fn an_idle_limit_lets_the_next_packet_through() {
    let begin_ns = 3_600 * SECOND_NS;
    let mut control = SixteenBits {
        ns_per_byte: 8_000,
        horizon_ms: 250,
        next_ms: 0,
    };
    control.next_ms = (begin_ns / 1_000_000) as u16;
    assert!(control.take(begin_ns, 1_000));
    let after = begin_ns + 33 * SECOND_NS;
    let theirs = blackout_ms(after, |now_ns, bytes| control.take(now_ns, bytes));
    assert!(
        theirs > Some(30_000),
        "the control must black out: {theirs:?} ms"
    );
    println!("after 33 s of idleness: 0 ms, in 16 bits: {theirs:?} ms");

    // 2^k ns and 33 s, up to 9 years.
    let gaps = (0..58).map(|power| 1_u64 << power).chain([33 * SECOND_NS]);
    let mut tried = 0;
    for bits in [1_000, 1_000_000, 400_000_000_000] {
        for gap_ns in gaps.clone() {
            let ours = Ours::new(bits, 1_514, 8_000_000, begin_ns);
            // Packets until the burst is spent: at most its 1,514 bytes and one more packet.
            let spent = (0..9).take_while(|_| ours.take(begin_ns, 1_000)).count();
            assert!((1..=3).contains(&spent), "{spent}");
            // No gap is shorter than a packet's time plus the last one's at 1 kbit/s.
            let wait_ns = gap_ns + 24 * SECOND_NS;
            let blackout =
                blackout_ms(begin_ns + wait_ns, |now_ns, bytes| ours.take(now_ns, bytes));
            assert_eq!(blackout, Some(0), "{bits} bit/s after {gap_ns} ns");
            tried += 1;
        }
    }
    println!("CASES: limiter idle gaps: {tried}");
}
