//! The flow table from the daemon's side: reads what each flow gained in a sealed window, ends flows by
//! time, and hands their places out again.
//!
//! Invariants (`dataplane_common::flow` has those of the kernel's side)
//! - A place goes back to the programs only after its flow left the hash, a barrier, and a last reading.
//! - A reading is the difference to the last one of the same bank. Nothing is ever set back.
//! - What this table does not know (a daemon that was killed, a place that was lost) is missing here and
//!   nowhere else: it is unattributed, and the registers have it.
//!
//! What it is not: it bills nothing, and it does not know whose a register slot is.

mod live;
mod memory;

pub use live::{LIVE_MAX, Live, Seen};

use crate::{
    Error, Result, cut, host,
    maps::{Maps, Raw},
    object::Plan,
};
use dataplane_common::{
    abi::{DIRECTIONS, Register},
    flow::{FlowCounts, FlowEvidence, FlowKey, FlowPlace},
};
use memory::{Lines, Table};
use std::{collections::BTreeSet, time::Duration};

/// When a flow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Timeouts {
    /// No packet for so long.
    pub idle: Duration,
    /// Begun so long ago: a packet after that begins it anew.
    pub active: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            active: Duration::from_secs(1_800),
        }
    }
}

/// What a flow gained in a window, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Gain {
    /// Whose.
    pub key: FlowKey,
    /// `dataplane_common::abi::FROM_TENANT` or `TO_TENANT`.
    pub direction: u32,
    /// Delivered.
    pub delivered: Register,
    /// Packets over a ceiling.
    pub refused: u32,
    /// Bit n: since the flow began, a packet was refused for reason n.
    pub reasons: u32,
    /// TCP flags seen since the flow began.
    pub tcp_flags: u8,
    /// What is known of its encryption, both directions, since the flow began.
    pub evidence: FlowEvidence,
    /// CLOCK_MONOTONIC ns of its first packet, to a tick.
    pub first_ns: u64,
    /// CLOCK_MONOTONIC ns of its last packet in either direction, to a tick.
    pub last_ns: u64,
}

/// How full the table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fill {
    /// Places that programs have taken.
    pub taken: u32,
    /// All places.
    pub places: u32,
}

/// What is known of a place that is not free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Life {
    /// Taken; nothing was counted there yet.
    #[default]
    Taken,
    /// A flow is counted there.
    Counted,
    /// Its flow left the hash; the next reading is the last one.
    Ended,
}

/// The table, mapped.
pub struct Flows {
    table: Table,
    timeouts: Timeouts,
    /// Number in the ring of the first place that is not in `taken` yet.
    seen: u64,
    taken: Vec<u32>,
    lives: Vec<Life>,
    /// By bank and place: the last reading.
    last: Vec<FlowCounts>,
}

impl Flows {
    /// Maps the table. One that an earlier daemon left goes on: its flows are kept, what they gained before
    /// now is not known here, and places that it lost are found again.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn open(maps: &mut Maps, plan: &Plan, timeouts: Timeouts) -> Result<Self> {
        let table = Table::map(maps, plan)?;
        let places = plan.flows;
        if table.given() == 0 {
            for place in 0..places {
                table.set_free(u64::from(place), place);
            }
            table.set_given(u64::from(places));
        }
        // Whoever took a place before this has put its flow into the hash, or the place aside.
        cut::barrier(maps)?;
        let seen = table.taken();
        let free: BTreeSet<u32> = (seen..table.given()).map(|at| table.free(at)).collect();
        let spare = spares(maps)?;
        let mut flows = Self {
            timeouts,
            seen,
            taken: Vec::new(),
            lives: vec![Life::Taken; places as usize],
            last: vec![FlowCounts::default(); 2 * places as usize],
            table,
        };
        for place in (0..places).filter(|place| !free.contains(place)) {
            flows.taken.push(place);
            for bank in 0..2 {
                let at = FlowCounts::at(places, bank, place);
                flows.last[at as usize] = flows.table.counts(at);
            }
            flows.lives[place as usize] = if flows.is_counted(maps, place) {
                Life::Counted
            } else if spare.contains(&place) {
                Life::Taken
            } else {
                // Its flow was taken out, and then the daemon was killed.
                Life::Ended
            };
        }
        Ok(flows)
    }

    /// The flows that are in the table now, of the register slots that are wanted. Nothing changes.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn look(&self, maps: &Maps, wanted: impl Fn(u32) -> bool) -> Result<Seen> {
        live::look(&self.table.lines, maps, wanted)
    }

    /// Is the flow that the place was taken for counted there?
    fn is_counted(&self, maps: &Maps, place: u32) -> bool {
        let key = self.table.opened(place).key;
        let found = maps.flows.get(&Raw(key), 0);
        found.is_ok_and(|flow| FlowPlace(flow.0.place).place() == Some(place))
    }

    /// What no flow accounts for, at a number of `Sizes::register`.
    pub fn unattributed(&self, number: u32) -> Register {
        self.table.unattributed(number)
    }

    /// How full the table is, by now.
    pub fn fill(&self) -> Fill {
        let places = self.lives.len() as u32;
        let free = self.table.given().saturating_sub(self.table.taken());
        Fill {
            taken: places.saturating_sub(u32::try_from(free).unwrap_or(places)),
            places,
        }
    }

    /// Reads what every flow gained in the sealed `bank`, ends those whose time is up or whose register
    /// slot is in `gone`, and gives the places of those that ended before back to the programs.
    ///
    /// To be called once after each cut, before the next one. Also why a flow could not be taken out: that is
    /// tried again next time.
    pub fn drain(
        &mut self,
        maps: &mut Maps,
        bank: u32,
        gone: impl Fn(u32) -> bool,
    ) -> (Vec<Gain>, Option<Error>) {
        let now_ns = host::clock_ns(libc::CLOCK_MONOTONIC);
        self.learn_taken();
        let mut gains = Vec::new();
        let mut kept = Vec::with_capacity(self.taken.len());
        let mut failed = None;
        for place in std::mem::take(&mut self.taken) {
            self.read(bank, place, now_ns, &mut gains);
            match self.lives[place as usize] {
                Life::Ended => {
                    self.give_back(place);
                    continue;
                }
                Life::Counted if self.is_over(place, now_ns, &gone) => {
                    match self.end(maps, place) {
                        Ok(()) => self.lives[place as usize] = Life::Ended,
                        Err(error) => failed = Some(error),
                    }
                }
                Life::Counted | Life::Taken => {}
            }
            kept.push(place);
        }
        self.taken = kept;
        (gains, failed)
    }

    /// Notes the places that programs took since the last look.
    fn learn_taken(&mut self) {
        let taken = self.table.taken();
        for number in self.seen..taken {
            let place = self.table.free(number);
            if let Some(life) = self.lives.get_mut(place as usize) {
                *life = Life::Taken;
                self.taken.push(place);
            }
        }
        self.seen = taken;
    }

    /// Reads one place, and keeps the reading.
    fn read(&mut self, bank: u32, place: u32, now_ns: u64, gains: &mut Vec<Gain>) {
        let at = FlowCounts::at(self.lives.len() as u32, bank, place);
        let now = self.table.counts(at);
        let last = std::mem::replace(&mut self.last[at as usize], now);
        if now.delivered == last.delivered && now.refused == last.refused {
            return;
        }
        if self.lives[place as usize] == Life::Taken {
            self.lives[place as usize] = Life::Counted;
        }
        let opened = self.table.opened(place);
        for direction in 0..DIRECTIONS {
            let side = direction as usize;
            let delivered = since(now.delivered[side], last.delivered[side]);
            let refused = now.refused[side].wrapping_sub(last.refused[side]);
            if delivered == Register::default() && refused == 0 {
                continue;
            }
            gains.push(Gain {
                key: opened.key,
                direction,
                delivered,
                refused,
                reasons: FlowCounts::reasons(now.reasons[side]),
                tcp_flags: now.tcp_flags[side],
                evidence: FlowEvidence(opened.evidence),
                first_ns: opened.first_ns,
                last_ns: before(now_ns, now.last),
            });
        }
    }

    fn is_over(&self, place: u32, now_ns: u64, gone: &impl Fn(u32) -> bool) -> bool {
        let opened = self.table.opened(place);
        if gone(u32::from(opened.key.slot)) {
            return true;
        }
        let quiet_ns = (0..2)
            .map(|bank| FlowCounts::at(self.lives.len() as u32, bank, place))
            .map(|at| now_ns.saturating_sub(before(now_ns, self.table.counts(at).last)))
            .min()
            .unwrap_or(0);
        u128::from(quiet_ns) >= self.timeouts.idle.as_nanos()
            || u128::from(now_ns.saturating_sub(opened.first_ns)) >= self.timeouts.active.as_nanos()
    }

    /// Takes a place's flow out of the hash: packets that come now begin it anew.
    fn end(&self, maps: &mut Maps, place: u32) -> Result<()> {
        let key = self.table.opened(place).key;
        match maps.flows.remove(&Raw(key)) {
            Ok(()) => Ok(()),
            Err(aya::maps::MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(())
            }
            Err(error) => Err(Error::map("FLOWS")(error)),
        }
    }

    /// Gives a place back. A daemon that is killed between the two steps has a tenant's quota too low by
    /// one.
    fn give_back(&mut self, place: u32) {
        let account = self.table.opened(place).account;
        self.lives[place as usize] = Life::Taken;
        let given = self.table.given();
        self.table.set_free(given, place);
        self.table.set_given(given + 1);
        self.table.use_less(account);
    }
}

/// As [`Flows::look`], of a table with `places` that nobody has opened here.
///
/// # Errors
/// [`Error::Map`].
pub(crate) fn look(maps: &Maps, places: u32, wanted: impl Fn(u32) -> bool) -> Result<Seen> {
    live::look(&Lines::map(maps, places)?, maps, wanted)
}

fn since(now: Register, last: Register) -> Register {
    Register {
        packets: now.packets.saturating_sub(last.packets),
        l2_bytes: now.l2_bytes.saturating_sub(last.l2_bytes),
        l3_bytes: now.l3_bytes.saturating_sub(last.l3_bytes),
    }
}

/// The last time before `now_ns` that `units` stands for.
fn before(now_ns: u64, units: u32) -> u64 {
    let age = ((now_ns / FlowCounts::UNIT_NS) as u32).wrapping_sub(units);
    // A clock that ticked between the two readings is not 52 days ago.
    let age = if age > u32::MAX - 1_000 { 0 } else { age };
    now_ns.saturating_sub(u64::from(age) * FlowCounts::UNIT_NS)
}

/// Places that CPUs took and could not use.
fn spares(maps: &Maps) -> Result<BTreeSet<u32>> {
    let spares = maps
        .flow_spare
        .get(&0, 0)
        .map_err(Error::map("FLOW_SPARE"))?;
    Ok(spares
        .iter()
        .filter_map(|place| place.checked_sub(1))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_units_is_the_last_one_before_now() {
        let unit = FlowCounts::UNIT_NS;
        let now = (1_u64 << 32) * unit + 7 * unit + 5;
        assert_eq!(before(now, 7), now);
        assert_eq!(before(now, 3), now - 4 * unit);
        assert_eq!(before(now, u32::MAX), now - 8 * unit);
        assert_eq!(before(now, 8), now);
    }
}
