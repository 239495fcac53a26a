//! The audit of a window: did the interface carry what its ports' registers counted?
//!
//! An interface and the programs on it count the same packets at two moments. What is between the moments
//! at a cut (in a backlog, a queue, a ring) and what happens to a packet there (merged, segmented) is known
//! only as a bound. So the excess of the interface over the registers is known as an interval, and only what
//! is outside of it counts.
//!
//! Invariants (`docs/METERING.md`, M-7.13; property tests in `audit/tests.rs`)
//! - No false alarm: what is flagged is more, or less, than every history allows in which all was counted.
//! - No hidden hole: where every packet is one skb, what one busy cut cannot tell is told by a later one,
//!   because the excess is kept, and not forgotten, from window to window.
//! - What is not known to belong together (another device, registers that went back) is not compared.
//!
//! What it is not: it reads nothing, and does not know kinds of interfaces.

use super::{Cut, Outcome, State, Sums};
use crate::record::{Flags, Kind};
use dataplane_common::reason::DropReason;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An interface at a cut, and who it carried for. The fields of [`Side`] are the dataplane's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name, for people.
    pub name: String,
    /// Incarnations of the ports on it.
    pub owners: Vec<u64>,
    /// From the tenants, to the tenants.
    pub sides: [Side; 2],
}

/// What an interface counted in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Packets and bytes before the next window was published.
    pub before: [u64; 2],
    /// The same when the window was sealed.
    pub after: [u64; 2],
    /// At most so many packets of `before` had no program yet.
    pub early: u64,
    /// At most so many skbs, and bytes, that a program has seen wait in a queue, and are not in `after`.
    pub queued: [u64; 2],
    /// And so many packets in the device's ring.
    pub ring: u64,
    /// The ring is emptied within a second, whatever a guest does.
    pub ring_drains: bool,
    /// Packets that it has counted and that may be lost before a program, since it was made.
    pub unsure: u64,
    /// One skb of a program may be several packets of the interface.
    pub merges: bool,
    /// Bytes of a packet that the interface's count may leave out.
    pub header: u64,
    /// Bytes of a packet that neither `skbs` nor the registers have.
    pub tag: u64,
    /// Packets lost behind the meter, since the interface was made.
    pub lost: Option<u64>,
}

/// What is kept of one direction of an interface from one committed cut to the next. Packets of excess are
/// reckoned from what the interface stood at after that cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    before: [u64; 2],
    after: [u64; 2],
    unsure: u64,
    lost: Option<u64>,
    /// The excess that is explained: in a queue, told already, or from before the audit.
    settled: i128,
    /// The least that the excess was. It never shrinks.
    floor: i128,
    /// Bytes that had no program yet, and that waited behind it.
    early_bytes: u64,
    late_bytes: u64,
    /// Bytes that may have been missed since the excess was last known to be explained.
    open_bytes: u64,
    /// GSO packets may be in the queue.
    segments: bool,
}

/// What is kept of an interface, by direction.
pub type Brackets = BTreeMap<u32, [Kept; 2]>;

/// The largest skb, bytes: `GSO_MAX_SIZE`.
const SKB_BYTES_MAX: u64 = 512 << 10;
/// A GSO packet becomes at most so many segments: 512 KB at the smallest common MSS.
const SEGMENTS_MAX: u64 = 1_024;
/// A dropped skb that was not taken apart may be so many packets of an interface that merges.
const MERGED_MAX: u64 = 1 << 16;
/// The kernel itself drops a tagged frame shorter than this before any program: nobody carried it.
const RUNT_BYTES: i128 = 20;
/// A ring that the kernel empties is empty after this, ns.
const DRAINED_NS: u64 = 1_000_000_000;

/// What ports counted in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Metered {
    skbs: u64,
    skb_bytes: u64,
    /// As on the wire.
    packets: u64,
    bytes: u64,
    /// skbs that were dropped before it was known what they are on the wire.
    opaque: u64,
}

impl Metered {
    fn of(before: &Sums, now: &Sums, direction: usize) -> Option<Self> {
        let counted = now.total()?.checked_sub(before.total()?)?;
        let skb = |at: usize| now.skbs[at].checked_sub(before.skbs[at]);
        let mut all = Self {
            skbs: skb(0)?,
            skb_bytes: skb(1)?,
            packets: counted.packets,
            bytes: counted.l2_bytes,
            opaque: 0,
        };
        // What is dropped on the way to the tenant never comes to the device.
        if direction == 0 {
            all.skbs += skb(2)?;
            all.skb_bytes += skb(3)?;
            for reason in 1..now.drops.len() {
                let (old, now) = (before.drop(reason), now.drop(reason));
                let packets = now[0].checked_sub(old[0])?;
                all.packets += packets;
                all.bytes += now[1].checked_sub(old[1])?;
                // Booked before the byte contract was applied: as one packet, whatever it is.
                let known = DropReason::from_number(reason as u64)
                    .is_some_and(|known| known as u8 > DropReason::PortInactive as u8);
                if !known {
                    all.opaque += packets;
                }
            }
        }
        Some(all)
    }

    fn add(&mut self, other: &Self) {
        self.skbs += other.skbs;
        self.skb_bytes += other.skb_bytes;
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.opaque += other.opaque;
    }
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    cause: String,
    /// At most so many bytes were carried beside what was counted; `None`: nothing bounds it.
    more_bytes: Option<u64>,
}

/// Compares, and marks the `*` and zone records of the window; what is kept goes into the next state.
pub(super) fn audit(state: &State, cut: &Cut, outcome: &mut Outcome) {
    let Some(interfaces) = &cut.interfaces else {
        return; // nobody could be asked: the next window is compared together with this one
    };
    outcome.state.brackets = Brackets::new();
    let window_ns = state
        .last
        .map_or(0, |last| cut.time.boot_ns.saturating_sub(last.time.boot_ns));
    for interface in interfaces {
        let kept = state.brackets.get(&interface.index);
        let kept = kept.filter(|_| continues(state, cut, interface));
        let mut next = <[Kept; 2]>::default();
        for (direction, next) in next.iter_mut().enumerate() {
            let side = &interface.sides[direction];
            let metered = metered(state, cut, interface, direction);
            let known = kept.map(|kept| &kept[direction]).zip(metered);
            let Some((kept, metered)) = known.filter(|(kept, _)| kept.is_before(side)) else {
                *next = Kept::begin(side);
                continue;
            };
            let (then, found) = compare(kept, side, &metered, direction, window_ns);
            let lost = side
                .lost
                .zip(kept.lost)
                .and_then(|(now, old)| now.checked_sub(old));
            *next = then;
            mark(outcome, interface, direction, found.as_ref(), lost);
        }
        outcome.state.brackets.insert(interface.index, next);
    }
}

/// Has one of its ports been there all the time? Else programs were taken off and put on meanwhile.
fn continues(state: &State, cut: &Cut, interface: &Interface) -> bool {
    cut.owners.iter().any(|owner| {
        owner.live
            && interface.owners.contains(&owner.incarnation)
            && state.owners.contains_key(&owner.incarnation)
    })
}

/// What the ports of an interface counted together; `None` where that is not known.
fn metered(state: &State, cut: &Cut, interface: &Interface, direction: usize) -> Option<Metered> {
    let nothing = Sums::default();
    let mut all = Metered::default();
    let on_it = |incarnation: &u64| interface.owners.contains(incarnation);
    for owner in cut.owners.iter().filter(|owner| on_it(&owner.incarnation)) {
        if state.closed.contains(&owner.incarnation) {
            continue;
        }
        let known = state.owners.get(&owner.incarnation);
        let before = known.map_or(&nothing, |known| &known.directions[direction]);
        let now = &owner.directions.as_ref()?[direction];
        all.add(&Metered::of(before, now, direction)?);
    }
    Some(all)
}

impl Kept {
    /// Compares nothing yet: the first cut that sees an interface.
    fn begin(side: &Side) -> Self {
        Self {
            settled: i128::from(late(side, true, None)[0]),
            // What was put into its queue before may be anything.
            segments: side.queued[0] != 0,
            ..Self::after(side)
        }
    }

    fn after(side: &Side) -> Self {
        Self {
            before: side.before,
            after: side.after,
            unsure: side.unsure,
            lost: side.lost,
            settled: 0,
            floor: gain(side.after[0], side.before[0]) - i128::from(side.early),
            early_bytes: side.early.saturating_mul(SKB_BYTES_MAX),
            late_bytes: late(side, true, None)[1],
            open_bytes: 0,
            segments: false,
        }
    }

    /// Nothing of the interface stands below what it did: it may be the same device.
    fn is_before(&self, side: &Side) -> bool {
        let counters = self.after.iter().zip(&side.before);
        counters.into_iter().all(|(old, now)| old <= now) && self.unsure <= side.unsure
    }
}

/// From `old` to `new`, which may be less.
fn gain(old: u64, new: u64) -> i128 {
    i128::from(new) - i128::from(old)
}

/// What a program may have seen and the interface not counted yet: packets, bytes. `metered`: what was seen
/// in a time in which a ring that drains was emptied.
fn late(side: &Side, segments: bool, metered: Option<u64>) -> [u64; 2] {
    let each = if segments { SEGMENTS_MAX } else { 1 };
    let ring = match metered {
        Some(metered) if side.ring_drains => side.ring.min(metered),
        _ => side.ring,
    };
    [
        side.queued[0].saturating_mul(each).saturating_add(ring),
        side.queued[1].saturating_add(ring.saturating_mul(SKB_BYTES_MAX)),
    ]
}

fn compare(
    kept: &Kept,
    side: &Side,
    metered: &Metered,
    direction: usize,
    window_ns: u64,
) -> (Kept, Option<Found>) {
    let unsure = side.unsure - kept.unsure;
    let opaque = if side.merges { metered.opaque } else { 0 };
    // What the interface can have counted of what was metered: least, most.
    let least = i128::from(metered.skbs);
    let packets = if side.merges {
        metered.packets.max(metered.skbs)
    } else {
        metered.skbs
    };
    let most =
        i128::from(packets) + i128::from(unsure) + i128::from(opaque) * i128::from(MERGED_MAX);
    let wide = most != least;
    let segments = side.merges && (wide || kept.segments && side.queued[0] != 0);
    let drained = (window_ns >= DRAINED_NS).then_some(packets);
    let [late, late_bytes] = late(side, segments, drained);

    let gained = gain(kept.after[0], side.after[0]);
    let low = gain(kept.after[0], side.before[0]) - i128::from(side.early) - most;
    let high = gained + i128::from(late) - least;

    // Bytes: those that the interface says at most, and those that were metered.
    let headers = i128::from(side.header) * gain(kept.before[0], side.after[0]);
    let lost = side
        .lost
        .zip(kept.lost)
        .map_or(0, |(now, old)| now.saturating_sub(old));
    let behind = if direction == 1 {
        i128::from(late_bytes) + i128::from(lost) * i128::from(SKB_BYTES_MAX)
    } else {
        0
    };
    let whole = gain(kept.before[1], side.after[1]);
    let missed = whole + behind + i128::from(kept.early_bytes) - i128::from(metered.skb_bytes);
    // To the tenant no more can have been carried than the interface says, or what still waits in its queue.
    let missed = if direction == 1 {
        missed.min(whole + i128::from(side.queued[1]))
    } else {
        missed
    }
    .max(0);
    let bytes_low = gain(kept.after[1], side.before[1])
        - i128::from(side.early) * i128::from(SKB_BYTES_MAX)
        - i128::from(kept.late_bytes)
        - i128::from(metered.bytes)
        - i128::from(side.tag) * i128::from(metered.packets);
    let bytes_tell = wide && unsure == 0 && opaque == 0;

    let runts = direction == 0
        && missed + i128::from(kept.open_bytes) <= RUNT_BYTES * (high - kept.settled).max(0);
    let more = low > kept.settled && !runts;
    let more_bytes = bytes_tell && bytes_low > 0;
    let less = direction == 0 && high < kept.floor;
    let upper = missed + headers + i128::from(kept.open_bytes);
    let found = if more || more_bytes {
        Some(Found {
            cause: if more {
                format!(
                    "the interface carried at least {} packets that no program of octroi saw",
                    low - kept.settled
                )
            } else {
                format!(
                    "the interface carried at least {bytes_low} bytes that no program of octroi saw"
                )
            },
            more_bytes: u64::try_from(upper).ok(),
        })
    } else if less {
        Some(Found {
            cause: format!(
                "octroi counted at least {} packets that the interface did not carry",
                kept.floor - high
            ),
            more_bytes: Some(0),
        })
    } else {
        None
    };
    // What is merged or segmented is explained as far as it may go, what is told as far as it was told: were it
    // more, packets that are missed later would take the place of some that were not. Else the excess of before
    // is all that is.
    let explained = if wide || less || (runts && low > kept.settled) {
        high
    } else if more {
        low
    } else {
        high.min(kept.settled)
    };
    let told = found.is_some() && explained == high;
    let closed = told || high <= kept.settled;
    let next = Kept {
        settled: explained - gained + least,
        open_bytes: if closed {
            0
        } else {
            u64::try_from(missed + i128::from(kept.open_bytes)).unwrap_or(u64::MAX)
        },
        late_bytes,
        segments,
        ..Kept::after(side)
    };
    (next, found)
}

/// Says on the records of an interface's ports what was found.
fn mark(
    outcome: &mut Outcome,
    interface: &Interface,
    direction: usize,
    found: Option<&Found>,
    lost: Option<u64>,
) {
    // What an interface lost for several ports is nobody's alone.
    let lost = lost.filter(|_| interface.owners.len() == 1);
    for record in &mut outcome.records {
        let on_it = record.kind == Kind::Meter
            && usize::from(record.direction) == direction
            && interface.owners.contains(&record.incarnation);
        if !on_it {
            continue;
        }
        if let Some(total) = &mut record.total {
            total.post_meter_drops = lost;
        }
        let Some(found) = found else { continue };
        record.flags |= Flags::UNMETERED;
        if record.zone.is_none() {
            let counted = record.counted().map_or(0, |counted| counted.l2_bytes);
            let unseen = record
                .bytes_max
                .map_or(Some(0), |most| most.checked_sub(counted));
            record.bytes_min = Some(counted);
            record.bytes_max = unseen
                .zip(found.more_bytes)
                .and_then(|(unseen, more)| counted.checked_add(more)?.checked_add(unseen));
            record.cause = Some(found.cause.clone());
        }
    }
    if let Some(found) = found {
        let way = ["from", "to"][direction];
        outcome.unmetered.push(format!(
            "{}, {way} the tenant, window {}: {}",
            interface.name,
            outcome.state.last.map_or(0, |last| last.window),
            found.cause
        ));
    }
}

#[cfg(test)]
mod tests;
