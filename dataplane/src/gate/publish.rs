//! Putting a policy in force: written beside the one that is, then published with one store.

use super::Gate;
use crate::{
    Error, Result, cut, host,
    policy::{self, Policy, Port},
    quota, share,
    slots::{Owner, Slots, text},
};
use dataplane_common::{
    abi::{DIRECTIONS, Epoch, LimitPolicy, PortPolicy, slot_state},
    limit::Times,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet, btree_map::Entry},
    time::{Duration, Instant},
};

/// What a policy says of a port beside the port's own part: what its tenant has an account for, and the price.
#[derive(Clone, Copy)]
pub(super) struct Holds {
    /// A part of an uplink.
    share: bool,
    /// A budget of bytes.
    budget: bool,
    /// [`Policy::packet_price`].
    price: u32,
}

impl Gate {
    /// Writes a policy, with the shapes that were prepared for it, and puts it in force. Returns its
    /// revision, and when its rates change: the next may be published after that.
    pub(super) fn publish(&mut self, policy: &Policy) -> Result<(u32, Instant)> {
        let epoch = self.epoch()?;
        let revision = epoch.revision().wrapping_add(1).max(1);
        let next = Epoch::new(revision, epoch.window());
        let before = self.entries(epoch)?;
        self.open_accounts(policy, &before);
        let keep = |policy: &Policy| -> BTreeSet<String> {
            let ports = policy.ports.iter().filter(|port| port.flows.is_some());
            ports.map(|port| port.name.clone()).collect()
        };
        if keep(policy) != keep(&self.policy) {
            self.conservation.unsure();
        }
        let switch = self.write_ahead(policy, next, &before)?;
        cut::publish(&mut self.maps, next)?;
        // No program reads the set before any more when this returns: the next revision may write it.
        cut::barrier(&mut self.maps)?;
        Ok((revision, switch))
    }

    /// Gives every port of `policy` a slot. A port that changes its tenant begins anew.
    pub(super) fn allocate_ports(&mut self, policy: &Policy) -> Result<()> {
        for port in &policy.ports {
            if let Some(slot) = self.slots.find(slot_state::PORT, &port.name) {
                let known = self.slots.get(slot);
                let same = known.tenant == port.tenant
                    && text(&known.interface) == port.interface
                    && known.vlan == port.vlan.map_or(0, u32::from);
                if same {
                    continue;
                }
                self.retire(slot)?;
            }
            self.allocate_port(port)?;
        }
        Ok(())
    }

    pub(super) fn allocate(&mut self, owner: &Owner<'_>) -> Result<u32> {
        let unsettled = self.unsettled.as_ref();
        let kept = |slot| unsettled.is_some_and(|kept| kept.contains(&slot));
        self.slots.allocate(&mut self.maps, &self.plan, owner, kept)
    }

    pub(super) fn allocate_port(&mut self, port: &Port) -> Result<u32> {
        let owner = Owner {
            state: slot_state::PORT,
            name: &port.name,
            tenant: port.tenant,
            interface: &port.interface,
            vlan: port.vlan.map_or(0, u32::from),
        };
        self.allocate(&owner)
    }

    /// The ports' entries in the set of `epoch`, by slot.
    fn entries(&self, epoch: Epoch) -> Result<BTreeMap<u32, PortPolicy>> {
        let first = self.plan.sizes.port(epoch.policy_set(), 0);
        let all = self.maps.ports.values(first, self.plan.sizes.slots)?;
        let ports = self
            .slots
            .iter()
            .filter(|(_, book)| book.state == slot_state::PORT);
        let entries = ports.filter_map(|(slot, _)| Some((slot, *all.get(slot as usize)?)));
        Ok(entries.collect())
    }

    /// Gives every tenant an entry of `FLOW_USE`, of `SHARES` and of `QUOTAS`: the one that it has in the kernel, or one that nobody has.
    fn open_accounts(&mut self, policy: &Policy, before: &BTreeMap<u32, PortPolicy>) {
        for entry in before.values() {
            let shares = entry.share.saturating_sub(1);
            let flows = entry.has(PortPolicy::FLOWS).then_some(entry.flow_account);
            let budget = entry.quota.saturating_sub(1);
            let shares = (entry.share != 0).then_some(shares);
            let budget = (entry.quota != 0).then_some(budget);
            if let Some(account) = flows.or(shares).or(budget) {
                self.accounts.entry(entry.tenant).or_insert(account);
            }
        }
        let tenants: BTreeSet<u32> = policy.ports.iter().map(|port| port.tenant).collect();
        let live: BTreeSet<u32> = before.values().map(|entry| entry.tenant).collect();
        self.accounts
            .retain(|tenant, _| tenants.contains(tenant) || live.contains(tenant));
        let used: HashSet<u32> = self.accounts.values().copied().collect();
        let mut free = (0..self.plan.sizes.slots).filter(|entry| !used.contains(entry));
        for tenant in tenants {
            if let Entry::Vacant(place) = self.accounts.entry(tenant)
                && let Some(free) = free.next()
            {
                place.insert(free);
            }
        }
    }

    /// What the policy in force says of a port.
    pub(super) fn holds(&self, port: &Port) -> Holds {
        let mut shared = self.policy.shared.iter().flat_map(|uplink| &uplink.tenants);
        let mut quotas = self.policy.quotas.iter();
        Holds {
            share: shared.any(|share| share.tenant == port.tenant),
            budget: quotas.any(|quota| quota.tenant == port.tenant),
            price: self.policy.packet_price,
        }
    }

    pub(super) fn slot_of(slots: &Slots, port: &Port) -> Option<u32> {
        slots.find(slot_state::PORT, &port.name)
    }

    /// Writes a whole set of policy, with rates that change at a time when it will be in force and
    /// no program reads the set before any more: the time that is returned.
    fn write_ahead(
        &mut self,
        policy: &Policy,
        epoch: Epoch,
        before: &BTreeMap<u32, PortPolicy>,
    ) -> Result<Instant> {
        let mut ahead = 2 * self.writing + SWITCH_MARGIN;
        loop {
            let begun = Instant::now();
            let times = times(ahead);
            self.write_set(policy, epoch, before, &times)?;
            let took = begun.elapsed();
            self.writing = took.max(SWITCH_MARGIN / 2);
            if took + SWITCH_MARGIN <= ahead {
                return Ok(begun + ahead);
            }
            ahead = 2 * took + SWITCH_MARGIN;
        }
    }

    /// Writes a whole set of policy. `epoch` is the one that will publish it.
    fn write_set(
        &mut self,
        policy: &Policy,
        epoch: Epoch,
        before: &BTreeMap<u32, PortPolicy>,
        times: &Times,
    ) -> Result<()> {
        let set = epoch.policy_set();
        self.parts.write(&mut self.maps, &self.plan, policy, set)?;
        let slots = &self.slots;
        let zones = &mut self.zones[set as usize & 1];
        policy::write_tables(&mut self.maps, policy, set as u8, zones, |port| {
            Self::slot_of(slots, port)
        })?;
        let sets = (1 - set, set);
        let queued = self.shaper.queued(policy);
        share::write(
            &mut self.maps,
            &self.plan,
            policy,
            &self.accounts,
            sets,
            (times, &queued),
        )?;
        self.queued = queued;
        // Most hosts have none, and a look at each account takes a call.
        let budgets = &mut self.budgets[set as usize & 1];
        let wanted = !policy.quotas.is_empty();
        if *budgets || wanted {
            // Some may be written, whatever becomes of this.
            *budgets = true;
            let (accounts, plan) = (&self.accounts, &self.plan);
            quota::write(&mut self.maps, plan, policy, accounts, sets, times)?;
            *budgets = wanted;
        }
        let (sharing, budgeted) = (share::tenants(policy), quota::tenants(policy));
        // A slot that is nobody's lets nothing pass.
        let mut entries = vec![PortPolicy::default(); self.plan.sizes.slots as usize];
        for port in &policy.ports {
            let Some(slot) = Self::slot_of(&self.slots, port) else {
                continue;
            };
            let holds = Holds {
                share: sharing.contains(&port.tenant),
                budget: budgeted.contains(&port.tenant),
                price: policy.packet_price,
            };
            let entry = self.entry(port, slot, before.get(&slot), holds, times)?;
            if let Some(place) = entries.get_mut(slot as usize) {
                *place = entry;
            }
        }
        for uplink in &policy.uplinks {
            let slot = self.slots.find(slot_state::UPLINK, &uplink.interface);
            if let Some(place) = slot.and_then(|slot| entries.get_mut(slot as usize)) {
                *place = uplink.entry();
            }
        }
        self.maps.ports.put(self.plan.sizes.port(set, 0), &entries)
    }

    pub(super) fn set_entry(&mut self, set: u32, slot: u32, entry: PortPolicy) -> Result<()> {
        let index = self.plan.sizes.port(set, slot);
        self.maps.ports.set(index, entry)
    }

    pub(super) fn entry(
        &self,
        port: &Port,
        slot: u32,
        before: Option<&PortPolicy>,
        holds: Holds,
        times: &Times,
    ) -> Result<PortPolicy> {
        let (mut entry, _, _) = policy::compile(port);
        if let Some((quota, account)) = port.flows.zip(self.accounts.get(&port.tenant)) {
            entry.flags |= PortPolicy::FLOWS;
            (entry.flow_quota, entry.flow_account) = (quota, *account);
        }
        entry.encryption = self.parts.number(port.tenant);
        if let Some(account) = self.accounts.get(&port.tenant) {
            let of = |held: bool| if held { 1 + *account } else { 0 };
            entry.share = of(holds.share);
            entry.quota = of(holds.budget);
        }
        for direction in 0..DIRECTIONS {
            let at = direction as usize;
            let old: Option<&[LimitPolicy; 2]> = before.map(|entry| &entry.limits[at]);
            // A limit that is in force has its line; the others begin at their clock.
            let wanted = &port.limits[at];
            let begins = [wanted.ceiling.is_some(), wanted.packet_rate.is_some()];
            let clock = |unit: usize| {
                let has_line = old.is_some_and(|old| old[unit].limited());
                if has_line || !begins[unit] {
                    return Ok(0);
                }
                let index = self.plan.sizes.clock(slot, direction, unit as u32);
                let clock = self.maps.clocks.get(&index, 0);
                clock.map_err(Error::map("CLOCKS"))
            };
            let clocks = [clock(0)?, clock(1)?];
            if let Some(choice) = self.shaper.of(&port.name).map(|choices| &choices[at]) {
                entry.shape[at] = choice.shape.number();
                entry.ifb_ifindex = entry.ifb_ifindex.max(choice.ifb(direction));
            }
            let shape = policy::Shape::from_number(entry.shape[at]);
            let wanted = (wanted, holds.price);
            let limits = policy::limits(wanted, shape, old, clocks, times);
            entry.set_limits(direction, limits);
        }
        Ok(entry)
    }
}

/// From publishing a revision to the change of its rates, at least: longer than any program runs,
/// also when a hypervisor stops its CPU in the middle.
pub(super) const SWITCH_MARGIN: Duration = Duration::from_millis(20);

pub(super) fn times(ahead: Duration) -> Times {
    let now_ns = host::clock_ns(libc::CLOCK_MONOTONIC);
    Times {
        now_ns,
        switch_ns: now_ns + ahead.as_nanos() as u64,
        coarse_slack_ns: host::coarse_slack_ns(),
    }
}
