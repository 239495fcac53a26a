//! What the meter needs of the gate: a cut with the registers of every owner of a slot as they were
//! sealed, and the promise that a slot has no new owner before its last window is committed.

use super::{Gate, LiveFlows, Witness, conservation};
use crate::{
    Error, Result,
    cut::{self, Barrier},
    flows::{Fill, Flows, Gain, Seen, Timeouts},
    maps::Raw,
    quota::{self, Grant, Spent},
    registers::{self, Bank, Both, Reader},
    slots::text,
};
use dataplane_common::{
    abi::{Anchor, Epoch, Slot, slot_state},
    fault::{self, Point},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// The registers of one owner of a slot, since it began.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Owned {
    /// Its number, never used again under these maps.
    pub incarnation: u64,
    /// Name of the port; of the interface for an uplink.
    pub name: String,
    /// Tenant's number; 0 for an uplink.
    pub tenant: u32,
    /// False: given up. This is its last reading, and its slot waits for [`Gate::settle`].
    pub live: bool,
    /// CLOCK_BOOTTIME ns when it began.
    pub since_ns: u64,
    /// From the tenant, to the tenant. `None` when a register stands below what it stood at when the
    /// owner began: somebody wrote to the map.
    pub directions: Option<[Both; 2]>,
    /// What its flows gained in the window. What they did not is unattributed.
    pub flows: Vec<Gain>,
}

/// What a cut found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reading {
    /// The window that was closed.
    pub window: u32,
    /// The policy revision in force.
    pub revision: u32,
    /// How long the barrier took.
    pub barrier: Duration,
    /// Everybody who can have been booked to in it.
    pub owners: Vec<Owned>,
    /// Names of ports whose flows and unattributed rest are not what their registers gained: a mistake of
    /// this program, or somebody wrote to the maps.
    pub unbalanced: Vec<String>,
    /// Why flows could not be read or ended.
    pub flows_failed: Option<String>,
    /// What tenants with a budget of bytes had had when the window ended.
    pub quotas: Vec<Spent>,
    /// What their interfaces say; `None`: they could not be asked.
    pub witnesses: Option<Vec<Witness>>,
}

fn owned(book: &Slot, directions: Option<[Both; 2]>) -> Owned {
    Owned {
        incarnation: book.incarnation,
        name: text(&book.name),
        tenant: book.tenant,
        live: book.state != slot_state::RETIRED,
        since_ns: book.since_ns,
        directions,
        flows: Vec::new(),
    }
}

impl Gate {
    /// From now on the slot of a port that went is given to nobody before [`Gate::settle`], and flows are
    /// read and ended.
    ///
    /// # Errors
    /// [`Error::Map`] when the flow table cannot be mapped.
    pub fn meter(&mut self, timeouts: Timeouts) -> Result<()> {
        let retired = |slot: &u32| self.slots.get(*slot).state == slot_state::RETIRED;
        let all = 0..self.plan.sizes.slots;
        self.unsettled = Some(all.filter(retired).collect());
        self.flows = Some(Flows::open(&mut self.maps, &self.plan, timeouts)?);
        // What flows gained before this process knew them is in none of its readings.
        self.conservation.unsure();
        Ok(())
    }

    /// How full the flow table is; `None`: nobody meters.
    pub fn flows(&self) -> Option<Fill> {
        self.flows.as_ref().map(Flows::fill)
    }

    /// The flows that are in the table now: of a tenant's ports, of one port, or of all. Nothing changes.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn live_flows(&self, tenant: Option<u32>, port: Option<&str>) -> Result<LiveFlows> {
        LiveFlows::look(&self.slots, (tenant, port), |wanted| match &self.flows {
            Some(flows) => flows.look(&self.maps, wanted),
            None => Ok(Seen::default()),
        })
    }

    /// Reads the flows of a sealed bank. Also what does not add up, and what failed.
    fn drain(
        &mut self,
        sealed: &cut::Sealed,
        slots: &[u32],
        banks: &[[Bank; 2]],
    ) -> (Vec<Gain>, Vec<String>, Option<String>) {
        let Some(flows) = &mut self.flows else {
            return Default::default();
        };
        let book = &self.slots;
        let gone = |slot| book.get(slot).state != slot_state::PORT;
        let (gains, failed) = flows.drain(&mut self.maps, sealed.bank, gone);
        let ports = self.policy.ports.iter().filter(|port| port.flows.is_some());
        let kept: BTreeSet<&str> = ports.map(|port| port.name.as_str()).collect();
        let keeps = |slot: u32| !gone(slot) && kept.contains(text(&book.get(slot).name).as_str());
        let wrong = self.conservation.check(
            &conservation::Sealed {
                bank: sealed.bank,
                sizes: &self.plan.sizes,
                registers: slots.iter().copied().zip(banks).collect(),
                flows,
                gains: &gains,
            },
            keeps,
        );
        let names = wrong.iter().map(|slot| text(&book.get(*slot).name));
        (
            gains,
            names.collect(),
            failed.map(|error| error.to_string()),
        )
    }

    /// Closes the open window and reads what everybody stands at.
    ///
    /// When it fails, nothing is lost: what was booked is found by the next one.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn seal(&mut self) -> Result<Reading> {
        fault::reach(Point::CutBegins);
        let slots: Vec<u32> = self
            .slots
            .iter()
            .filter(|(slot, book)| match book.state {
                slot_state::FREE => false,
                slot_state::RETIRED => self.is_unsettled(*slot),
                _ => true,
            })
            .map(|(slot, _)| slot)
            .collect();
        for slot in &slots {
            self.learn_base(*slot)?;
        }
        let witness = self.witness_before().ok();
        // The bank of the window before has been still since its own cut, and is written again as
        // soon as the open window closes. So it is read first.
        let epoch = self.epoch()?;
        let other = cut::Sealed {
            window: epoch.window(),
            bank: 1 - epoch.bank(),
            barrier: Duration::ZERO,
        }
        .read(&self.maps, &self.plan.sizes, &slots)?;
        let quotas = self.spent(epoch, Some(1 - epoch.bank()))?;
        let sealed = cut::cut(&mut self.maps, Barrier::Wait)?;
        let quotas = quota::sealed(quotas, self.spent(epoch, Some(sealed.bank))?);
        let banks = sealed.read(&self.maps, &self.plan.sizes, &slots)?;
        let witnesses = witness.and_then(|before| self.witness_after(&before, &slots).ok());
        let (gains, unbalanced, flows_failed) = self.drain(&sealed, &slots, &banks);
        let mut by_slot = BTreeMap::<u32, Vec<Gain>>::new();
        for gain in gains {
            by_slot.entry(gain.key.slot.into()).or_default().push(gain);
        }
        fault::reach(Point::Drained);

        let mut owners = Vec::with_capacity(slots.len());
        for (slot, (other, bank)) in slots.into_iter().zip(other.iter().zip(&banks)) {
            let book = self.slots.get(slot);
            let both = |at: usize| {
                let (_, base) = self.bases.get(&slot)?;
                Both::of(&other[at], &bank[at], &base[at])
            };
            owners.push(Owned {
                flows: by_slot.remove(&slot).unwrap_or_default(),
                ..owned(book, both(0).zip(both(1)).map(Into::into))
            });
        }
        Ok(Reading {
            window: sealed.window,
            revision: epoch.revision(),
            barrier: sealed.barrier,
            owners,
            unbalanced,
            flows_failed,
            quotas,
            witnesses,
        })
    }

    /// What everybody stands at, without a cut: for a checkpoint. Both banks may be written meanwhile.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn look_at_registers(&self) -> Result<Vec<Owned>> {
        let mut reader = Reader::new(&self.maps, &self.plan.sizes);
        // Owners that went and whose last window is not committed, too: their counts are in no record.
        let owners = self.slots.iter().filter(|(slot, book)| match book.state {
            slot_state::PORT | slot_state::UPLINK => true,
            slot_state::RETIRED => self.is_unsettled(*slot),
            _ => false,
        });
        owners
            .map(|(slot, book)| {
                let both = [reader.since_base(slot, 0)?, reader.since_base(slot, 1)?];
                Ok(owned(book, Some(both)))
            })
            .collect()
    }

    fn spent(&self, epoch: Epoch, only: Option<u32>) -> Result<Vec<Spent>> {
        quota::spent(&self.maps, &self.plan, &self.accounts, epoch, only)
    }

    /// What tenants with a budget of bytes have had, now.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn quotas(&self) -> Result<Vec<Spent>> {
        self.spent(self.epoch()?, None)
    }

    /// Puts other grants in force, as a revision of the policy that is. Returns its number. Grants of tenants that have no
    /// budget are nobody's.
    ///
    /// # Errors
    /// Any; then the revision before stays in force.
    pub fn grant(&mut self, grants: &[Grant]) -> Result<u32> {
        let mut policy = self.policy.clone();
        policy.grant(grants);
        let (revision, switch) = self.publish(&policy)?;
        self.policy = policy;
        // A line has one corner: the next revision may change it once this one's is behind.
        std::thread::sleep(switch.saturating_duration_since(Instant::now()));
        Ok(revision)
    }

    /// The last window of this owner is committed: its slot may be given away.
    pub fn settle(&mut self, incarnation: u64) {
        let slots = &self.slots;
        if let Some(unsettled) = &mut self.unsettled {
            unsettled.retain(|slot| slots.get(*slot).incarnation != incarnation);
        }
    }

    pub(super) fn is_unsettled(&self, slot: u32) -> bool {
        let known = self.unsettled.as_ref();
        known.is_some_and(|unsettled| unsettled.contains(&slot))
    }

    fn learn_base(&mut self, slot: u32) -> Result<()> {
        let incarnation = self.slots.get(slot).incarnation;
        if self
            .bases
            .get(&slot)
            .is_some_and(|(of, _)| *of == incarnation)
        {
            return Ok(());
        }
        let base = |direction| registers::base(&self.maps, &self.plan.sizes, slot, direction);
        let base = [base(0)?, base(1)?];
        self.bases.insert(slot, (incarnation, base));
        Ok(())
    }

    /// What the last ledger left in the kernel.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn anchor(&self) -> Result<Anchor> {
        let anchor = self.maps.anchor.get(&0, 0);
        anchor.map(|raw| raw.0).map_err(Error::map("ANCHOR"))
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn set_anchor(&mut self, anchor: Anchor) -> Result<()> {
        self.maps
            .anchor
            .set(0, Raw(anchor), 0)
            .map_err(Error::map("ANCHOR"))
    }
}
