//! The flows that are in the table now, for somebody who looks: nothing is ended, drained or remembered.
//!
//! What a place has counted is of all flows that it ever had, so that a look says how fast a flow is only beside an
//! earlier look at the same flow ([`Live::place`] and [`Live::first_ns`]). No bill and no record rests on it.

use super::{before, memory::Lines};
use crate::{
    Result, host,
    maps::{Maps, Raw},
};
use dataplane_common::{
    abi::Register,
    flow::{FlowCounts, FlowEvidence, FlowKey, FlowPlace},
};

/// So many flows are told at once; who wants to see one tenant's has no more on a screen.
pub const LIVE_MAX: usize = 20_000;

/// A flow that is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Live {
    /// Its place: no other flow has it at the same time.
    pub place: u32,
    /// CLOCK_MONOTONIC ns of its first packet, to a tick: with the place, what makes it another flow.
    pub first_ns: u64,
    /// CLOCK_MONOTONIC ns of its last packet in either direction, to a tick.
    pub last_ns: u64,
    /// Whose.
    pub key: FlowKey,
    /// Delivered from the tenant and to the tenant at this place, by this flow and those that had it before.
    pub counted: [Register; 2],
    /// What is known of its encryption, both directions, since it began.
    pub evidence: FlowEvidence,
}

/// Flows in the table, and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Seen {
    /// At most [`LIVE_MAX`], by place.
    pub flows: Vec<Live>,
    /// How many more there are.
    pub more: u64,
}

/// Looks at every place whose register slot is wanted.
pub(super) fn look(lines: &Lines, maps: &Maps, wanted: impl Fn(u32) -> bool) -> Result<Seen> {
    let now_ns = host::clock_ns(libc::CLOCK_MONOTONIC);
    let mut seen = Seen::default();
    for place in 0..lines.places() {
        if !wanted(lines.slot(place)) {
            continue;
        }
        let opened = lines.opened(place);
        // A place that is free, or about to be, still says whose it was; the hash knows who is there.
        let found = maps.flows.get(&Raw(opened.key), 0);
        let there = found.is_ok_and(|flow| FlowPlace(flow.0.place).place() == Some(place));
        if opened.first_ns == 0 || !there {
            continue;
        }
        if seen.flows.len() >= LIVE_MAX {
            seen.more += 1;
            continue;
        }
        let banks = [0, 1].map(|bank| lines.counts(FlowCounts::at(lines.places(), bank, place)));
        let counted = [0, 1].map(|side| sum(banks[0].delivered[side], banks[1].delivered[side]));
        let last = banks.map(|counts| before(now_ns, counts.last));
        seen.flows.push(Live {
            place,
            first_ns: opened.first_ns,
            last_ns: last[0].max(last[1]),
            key: opened.key,
            counted,
            evidence: FlowEvidence(opened.evidence),
        });
    }
    Ok(seen)
}

fn sum(a: Register, b: Register) -> Register {
    Register {
        packets: a.packets.wrapping_add(b.packets),
        l2_bytes: a.l2_bytes.wrapping_add(b.l2_bytes),
        l3_bytes: a.l3_bytes.wrapping_add(b.l3_bytes),
    }
}
