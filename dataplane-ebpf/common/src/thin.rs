//! Thin before fat: which flows of a limit hold no queue, so that theirs need not wait behind those that do.
//!
//! A flow has two clocks, found by a hash that nobody outside knows, and is judged by the one that is less far ahead:
//! another flow disturbs it only where it hits both. A clock says until when the flow is *fat*:
//! - A thin packet takes from a bucket of [`DEPTH_NS`] (two full frames at least) that fills with a [`RATE_PART`]th of the
//!   ceiling. What does not fit is fat.
//! - A fat packet puts it to the latest time at which that packet leaves the queue, with thin ones taking half of the
//!   rate meanwhile. So a flow is thin again when none of its packets waits any more, and overtakes none. Its rate tells
//!   bulk from a conversation badly (a ceiling's 128th part is more than many a conversation sends); that it keeps packets
//!   waiting does.
//! - But each packet holds it for what it would take at a [`HELD_PART`]th of that rate at most: a flow of small packets that
//!   was taken for a fat one in a long queue is thin again before its next packet.
//! - Where packets have a price ([`crate::abi::LimitPolicy::price`]), all bytes here are priced ones, and so are the two frames of a bucket: a flood of
//!   small packets is no thinner than what it takes of the ceiling.
//!
//! Invariants (`tests/thin`)
//! - All thin packets of a limit together: at most half its rate, [`TOGETHER_NS`] of that (two full frames at least), and
//!   one packet. Whoever fakes
//!   thin flows, by a new address for each packet, delays what is fat by a factor of two, on his own port alone.
//! - A class changes nothing of what the limiter accepts: rate · t + burst + one packet, whatever is said here. A fat
//!   packet is refused at [`crate::abi::LimitPolicy::horizon_fat`], a thin one at the whole horizon.
//! - With one CPU, a flow's thin packets are at most rate / [`RATE_PART`] · t + one bucket for each rotation of the hash
//!   ([`ROTATION_SHIFT`]), at which a bucket of each flow also goes before what waits of it.
//!   Words are loaded and stored without a lock: of two CPUs at the same flow one may forget what the other added, so
//!   that with n of them it is n times as much.
//!
//! Where it comes from: a queue that was empty is served first in fq_codel (RFC 8290, 4.2); two hashed clocks of which
//! the lower counts are a count-min sketch (Cormode, Muthukrishnan 2005) with conservative update (Estan, Varghese 2002).

use crate::{
    limiter::Clock,
    parse::{Fragment, Network, Packet, proto},
    wire::FRAME_BYTES,
};

/// A thin flow has at most this part of the ceiling.
pub const RATE_PART: u64 = 16;

/// A fat packet holds its flow for no longer than it takes at this part of a thin flow's rate.
pub const HELD_PART: u64 = 64;

/// A thin flow's bucket, ns of its rate.
pub const DEPTH_NS: u64 = 2_000_000;

/// The bucket's least, bytes: two full frames.
pub const DEPTH_BYTES: u64 = 2 * FRAME_BYTES;

/// What thin packets may be ahead of half the rate, ns of it: a tick of the coarse clock at 250 Hz, which stands still in
/// between; and [`DEPTH_BYTES`] at least. A packet of more than [`SMALL_BYTES`], or that takes its flow more than an eighth
/// into its bucket, has half of that: who has just begun, or begins again after a loss, leaves room for who says a little
/// now and then.
pub const TOGETHER_NS: u64 = 4_000_000;

/// The largest packet that is small.
pub const SMALL_BYTES: u64 = DEPTH_BYTES / 8;

/// Swaps tried before a packet is fat.
const TRIES: u32 = 4;

/// The hash is drawn anew each 2^36 ns, 69 s: two flows that hit the same clocks do so no longer.
pub const ROTATION_SHIFT: u32 = 36;

/// A clock's unit is 2^12 ns. It wraps after 4.9 hours; what is further ahead than any hold is past. Once in that time, for
/// a second, one that nobody has touched since says fat.
const UNIT_SHIFT: u32 = 12;

/// Longest bucket and longest hold, units: 1.07 s each.
const UNITS_MAX: u64 = 1 << 18;

/// Digits after the point of a pace, and of a time of all together.
const PACE_SHIFT: u32 = 20;
const TOGETHER_SHIFT: u32 = 4;

/// Slowest pace that is told from slower ones, ns per byte: 1 kbit/s.
const PACE_MAX: u64 = 1 << 43;

/// In the word of [`pace`]: the price is above.
const PRICE_SHIFT: u32 = 48;

/// A pace ([`Limit`]), and a price of at most [`crate::limit::PRICE_MAX`] bytes, in one word. A pace slower than 62 bit/s, at which
/// there is no ceiling, is cut off. Without a branch, which the verifier would walk twice.
#[inline(always)]
pub const fn pace(ns_per_byte: u64, price: u64) -> u64 {
    ns_per_byte & ((1 << PRICE_SHIFT) - 1) | price << PRICE_SHIFT
}

/// The two rows of clocks of one limit.
pub trait Cells {
    /// Reads one.
    fn load(&self, row: u32, cell: u32) -> u32;
    /// Writes one.
    fn store(&self, row: u32, cell: u32, clock: u32);
}

/// Where a flow's clocks are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// In the first row.
    pub first: u32,
    /// In the second.
    pub second: u32,
}

impl Place {
    /// For a [`hash`], in rows of `cells`, a power of two up to 65,536.
    #[inline(always)]
    pub const fn of(hash: u64, secret: u64, now_ns: u64, cells: u32) -> Self {
        let turn = (now_ns >> ROTATION_SHIFT).wrapping_mul(secret | 1);
        // Stafford's variant 13 of MurmurHash3's finalizer, as in SplitMix64.
        let mut mixed = hash ^ turn;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let mask = cells.wrapping_sub(1) & 0xFFFF;
        Self {
            first: mixed as u32 & mask,
            second: (mixed >> 32) as u32 & mask,
        }
    }

    /// Both in one word.
    #[inline(always)]
    pub const fn packed(self) -> u32 {
        self.second << 16 | self.first & 0xFFFF
    }

    /// From [`Place::packed`].
    #[inline(always)]
    pub const fn unpacked(word: u32) -> Self {
        Self {
            first: word & 0xFFFF,
            second: word >> 16,
        }
    }
}

/// A packet's flow as a number: NH of UMAC (RFC 4418, 5.2.2) over addresses, protocol and ports. Who does not know the
/// keys finds no two flows with the same one but by a chance of 2^-32 for each pair.
///
/// Fragments have no ports: all of a datagram's are one flow.
#[inline(always)]
pub fn hash(packet: &Packet, keys: &[u64; 5]) -> u64 {
    #[inline(always)]
    const fn pair(key: u64, a: u32, b: u32) -> u64 {
        let (a, b) = (
            a.wrapping_add(key as u32),
            b.wrapping_add((key >> 32) as u32),
        );
        (a as u64).wrapping_mul(b as u64)
    }
    let ported = matches!(packet.protocol, proto::TCP | proto::UDP | proto::SCTP)
        && packet.fragment == Fragment::No;
    let ports = if ported {
        (packet.src_port as u32) << 16 | packet.dst_port as u32
    } else {
        0
    };
    let mut sum = pair(keys[0], packet.src[0], packet.dst[0]);
    sum = sum.wrapping_add(pair(keys[1], ports, packet.protocol as u32));
    if packet.network == Network::Ipv6 {
        let (src, dst) = (&packet.src, &packet.dst);
        sum = sum.wrapping_add(pair(keys[2], src[1], dst[1]));
        sum = sum.wrapping_add(pair(keys[3], src[2], dst[2]));
        sum = sum.wrapping_add(pair(keys[4], src[3], dst[3]));
    }
    sum
}

/// A limit at one moment. `pace`: ns that a byte takes at the ceiling, times 2^20
/// ([`crate::abi::LimitPolicy::ns_per_unit`]).
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// CLOCK_MONOTONIC, ns; the coarse clock will do.
    pub now_ns: u64,
    /// As above.
    pub pace: u64,
    /// What an skb pays above its bytes, bytes.
    pub price: u64,
}

impl Limit {
    /// The limit with this pace and price: a word of [`pace`].
    #[inline(always)]
    pub const fn new(now_ns: u64, word: u64) -> Self {
        let pace = word & ((1 << PRICE_SHIFT) - 1);
        Self {
            now_ns,
            pace: if pace < PACE_MAX { pace } else { PACE_MAX },
            price: word >> PRICE_SHIFT,
        }
    }

    /// What an skb of `bytes` takes; below 2^21.
    #[inline(always)]
    const fn priced(&self, bytes: u64) -> u64 {
        // A packet is below 2^20 bytes.
        (bytes & 0xF_FFFF) + self.price
    }

    /// Two full frames.
    #[inline(always)]
    const fn frames(&self) -> u64 {
        DEPTH_BYTES + 2 * self.price
    }

    #[inline(always)]
    const fn now(&self) -> u32 {
        (self.now_ns >> UNIT_SHIFT) as u32
    }

    /// Units that `priced` bytes take at a thin flow's rate, rounded up, at most twice the longest bucket.
    #[inline(always)]
    const fn cost(&self, priced: u64) -> u64 {
        let ns = (priced * self.pace) >> PACE_SHIFT;
        let units = (ns >> (UNIT_SHIFT - RATE_PART.trailing_zeros())) + 1;
        if units < 2 * UNITS_MAX {
            units
        } else {
            2 * UNITS_MAX
        }
    }

    #[inline(always)]
    const fn depth(&self) -> u64 {
        let frames = self.cost(self.frames());
        let least = DEPTH_NS >> UNIT_SHIFT;
        if frames < least {
            least
        } else if frames < UNITS_MAX {
            frames
        } else {
            UNITS_MAX
        }
    }

    /// How far a clock is ahead of the time at which a bucket would be full: up to `depth`, the flow is thin.
    #[inline(always)]
    const fn used(&self, clock: u32, depth: u64) -> u64 {
        let ahead = clock.wrapping_sub(self.now().wrapping_sub(depth as u32)) as u64;
        if ahead > depth + UNITS_MAX { 0 } else { ahead }
    }

    #[inline(always)]
    fn load<C: Cells>(&self, cells: &C, place: Place, depth: u64) -> (u64, u64) {
        (
            self.used(cells.load(0, place.first), depth),
            self.used(cells.load(1, place.second), depth),
        )
    }

    /// Raises both clocks to `used`; leaves what is further ahead alone.
    #[inline(always)]
    fn raise<C: Cells>(
        &self,
        cells: &C,
        place: Place,
        (first, second): (u64, u64),
        depth: u64,
        used: u64,
    ) {
        let clock = self
            .now()
            .wrapping_sub(depth as u32)
            .wrapping_add(used as u32);
        if first < used {
            cells.store(0, place.first, clock);
        }
        if second < used {
            cells.store(1, place.second, clock);
        }
    }

    /// What both clocks of a flow are ahead of a full bucket of `depth`, how far they would be with the packet, and whether it is
    /// large for its flow: then less of the time together is its.
    #[inline(always)]
    fn asked<C: Cells>(
        &self,
        cells: &C,
        place: Place,
        bytes: u64,
        depth: u64,
    ) -> ((u64, u64), u64, bool) {
        let seen = self.load(cells, place, depth);
        let least = if seen.0 < seen.1 { seen.0 } else { seen.1 };
        let used = least + self.cost(self.priced(bytes));
        (seen, used, bytes > SMALL_BYTES || used * 8 > depth)
    }

    /// Decides whether a packet is thin, and books it as such.
    #[inline(always)]
    pub fn thin<C: Cells, T: Clock>(
        &self,
        cells: &C,
        together: &T,
        place: Place,
        bytes: u64,
    ) -> bool {
        let depth = self.depth();
        let (seen, used, large) = self.asked(cells, place, bytes, depth);
        if used > depth || !self.take(together, bytes, large) {
            return false;
        }
        self.raise(cells, place, seen, depth, used);
        true
    }

    /// What [`Limit::thin`] would say now. Books nothing.
    #[inline(always)]
    pub fn would_be_thin<C: Cells, T: Clock>(
        &self,
        cells: &C,
        together: &T,
        place: Place,
        bytes: u64,
    ) -> bool {
        let depth = self.depth();
        let (_, used, large) = self.asked(cells, place, bytes, depth);
        let ahead = together.load().wrapping_sub(self.now_ns << TOGETHER_SHIFT);
        used <= depth && (ahead >= 1 << 63 || ahead <= self.window(large))
    }

    /// The time that `priced` bytes take at half the rate, 2^-4 ns. Below 2^64: a pace is at most 2^43.
    #[inline(always)]
    const fn half(&self, priced: u64) -> u64 {
        (priced * self.pace) >> (PACE_SHIFT - TOGETHER_SHIFT - 1)
    }

    /// How far all thin packets may be ahead of half the rate, 16ths of ns.
    #[inline(always)]
    const fn window(&self, large: bool) -> u64 {
        let frames = self.half(self.frames());
        let least = TOGETHER_NS << TOGETHER_SHIFT;
        let window = if frames < least { least } else { frames };
        if large { window / 2 } else { window }
    }

    /// Takes a thin packet from half the rate.
    #[inline(always)]
    fn take<T: Clock>(&self, together: &T, bytes: u64, large: bool) -> bool {
        let cost = self.half(self.priced(bytes));
        let window = self.window(large);
        let line = self.now_ns << TOGETHER_SHIFT;
        let mut seen = together.load();
        let mut tries = 0;
        while tries < TRIES {
            let ahead = seen.wrapping_sub(line);
            let ahead = if ahead < 1 << 63 { ahead } else { 0 };
            if ahead > window {
                return false;
            }
            let next = line.wrapping_add(ahead).wrapping_add(cost);
            let was = together.compare_exchange(seen, next);
            if was == seen {
                return true;
            }
            seen = was;
            tries += 1;
        }
        false
    }

    /// Notes that a fat packet of the flow was accepted, which leaves at `departure_ns` if nothing goes before it; 0: now.
    #[inline(always)]
    pub fn hold<C: Cells>(&self, cells: &C, place: Place, bytes: u64, departure_ns: u64) {
        let depth = self.depth();
        let seen = self.load(cells, place, depth);
        let least = if seen.0 < seen.1 { seen.0 } else { seen.1 };
        let own_ns = (self.priced(bytes) * self.pace) >> PACE_SHIFT;
        let ahead_ns = departure_ns
            .saturating_sub(self.now_ns)
            .wrapping_add(own_ns);
        // Thin ones that come meanwhile go first: half the rate is left, less what they may be ahead.
        let waits = (ahead_ns >> (UNIT_SHIFT - 1)) + (TOGETHER_NS >> UNIT_SHIFT) + 1;
        let slow = least.saturating_sub(depth) + self.cost(self.priced(bytes)) * HELD_PART;
        let held = if waits < slow { waits } else { slow };
        let held = if held < UNITS_MAX { held } else { UNITS_MAX };
        self.raise(cells, place, seen, depth, depth + held);
    }
}
