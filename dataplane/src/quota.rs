//! Budgets of bytes: from what is asked for and granted to what the programs read.

use crate::{
    Error, Result, host,
    maps::{Maps, Raw},
    object::Plan,
    policy::{Limit, Policy, Shape, limits},
};
use dataplane_common::{
    abi::{
        DIRECTIONS, Epoch, LimitPolicy,
        quota::{QuotaPolicy, quota_index},
    },
    limit::Times,
    units::BitsPerSecond,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A tenant's budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The tenant's number.
    pub tenant: u32,
    /// Layer-2 bytes in a period, 1..=2^62.
    pub budget: u64,
    /// Does it count what the tenant sends, and what it receives?
    pub directions: [bool; 2],
    /// The zones that count, a bit each.
    pub zones: u64,
    /// What passes when it is spent, in each direction that counts; none: nothing.
    pub then: Option<BitsPerSecond>,
    /// How much of it there is.
    pub grant: Grant,
}

/// How much of a budget there is, as whoever keeps the books says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The tenant's number.
    pub tenant: u32,
    /// What is left of the budget, layer-2 bytes. More than the budget is as much as the budget.
    pub left: u64,
    /// Where the tenant's count stood when so much was left: [`Spent::within`] of a cut. None: nobody knows, and what is
    /// in force goes on, or the count as it stands is taken.
    pub at: Option<u64>,
    /// CLOCK_MONOTONIC ns after which the next grant is overdue; 0: never.
    pub until_ns: u64,
    /// How long the periods after that are, ns.
    pub period_ns: u64,
}

/// What a tenant has had of what its quotas count, ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The tenant's number.
    pub tenant: u32,
    /// Whose count it is: another tenant may have had it before.
    pub account: u32,
    /// Layer-2 bytes within budgets.
    pub within: u64,
    /// Layer-2 bytes after they were spent.
    pub beyond: u64,
    /// How far the first may go now.
    pub reach: u64,
    /// The budget of a period, as it is in force.
    pub budget: u64,
}

impl Spent {
    /// What is left, layer-2 bytes.
    pub const fn left(&self) -> u64 {
        self.reach.saturating_sub(self.within)
    }
}

/// Tenants with a budget.
pub(crate) fn tenants(policy: &Policy) -> BTreeSet<u32> {
    policy.quotas.iter().map(|quota| quota.tenant).collect()
}

/// Writes the budgets of a whole set of policy, which must not be in force. `set_before`: the one that is.
///
/// # Errors
/// [`Error::Map`].
pub(crate) fn write(
    maps: &mut Maps,
    plan: &Plan,
    policy: &Policy,
    accounts: &BTreeMap<u32, u32>,
    (set_before, set): (u32, u32),
    times: &Times,
) -> Result<()> {
    let slots = plan.sizes.slots;
    let mut written = BTreeSet::new();
    for quota in &policy.quotas {
        let Some(account) = accounts.get(&quota.tenant) else {
            continue;
        };
        let before = get(maps, quota_index(slots, set_before, *account))?;
        let counts = maps.quota_counts.get(account, 0);
        let counts = counts.map_err(Error::map("QUOTA_COUNTS"))?.0;
        let within = counts.within[0].wrapping_add(counts.within[1]);
        let entry = entry(quota, &before, (within, counts.clocks), times);
        put(maps, quota_index(slots, set, *account), entry)?;
        written.insert(*account);
    }
    for account in (0..slots).filter(|account| !written.contains(account)) {
        let index = quota_index(slots, set, account);
        // Most hosts have none: reading is cheaper than a change of the cache line.
        if get(maps, index)?.directions != 0 {
            put(maps, index, QuotaPolicy::default())?;
        }
    }
    Ok(())
}

fn get(maps: &Maps, index: u32) -> Result<QuotaPolicy> {
    let entry = maps.quotas.get(&index, 0).map_err(Error::map("QUOTAS"))?;
    Ok(entry.0)
}

fn put(maps: &mut Maps, index: u32, entry: QuotaPolicy) -> Result<()> {
    maps.quotas
        .set(index, Raw(entry), 0)
        .map_err(Error::map("QUOTAS"))
}

/// `before`: the tenant's entry in force. `within` and `clocks`: what its words stand at.
fn entry(
    quota: &Quota,
    before: &QuotaPolicy,
    (within, clocks): (u64, [u64; 2]),
    times: &Times,
) -> QuotaPolicy {
    let grant = &quota.grant;
    let bits = [QuotaPolicy::FROM, QuotaPolicy::TO];
    let wanted = bits.iter().zip(quota.directions);
    let directions = wanted.filter(|(_, wanted)| *wanted).map(|(bit, _)| bit);
    let directions = directions.sum();
    let left = grant.left.min(quota.budget);
    let same = before.directions == directions && before.zones == quota.zones;
    let threshold = match grant.at {
        // Nobody can have seen more than there is.
        Some(at) => at.min(within).saturating_add(left),
        // A raise counts at once, and what is late stays granted.
        None if same => before
            .reach(times.now_ns)
            .saturating_sub(before.budget)
            .saturating_add(quota.budget),
        None => within.saturating_add(left),
    };
    let mut then = [LimitPolicy::default(); DIRECTIONS as usize];
    for (direction, then) in then.iter_mut().enumerate() {
        let limit = Limit {
            ceiling: quota.then,
            ..Limit::default()
        };
        let old = [before.then[direction], LimitPolicy::default()];
        // Nothing of its own holds packets back: as a port's that only drops.
        let clocks = [clocks[direction], 0];
        *then = limits((&limit, 0), Shape::Police, Some(&old), clocks, times)[0];
    }
    QuotaPolicy {
        threshold,
        budget: quota.budget,
        until_ns: grant.until_ns,
        period_ns: grant.period_ns,
        zones: quota.zones,
        directions,
        reserved: 0,
        then,
    }
}

/// What every tenant with a budget in `epoch`'s policy has had. `only`: the words of one bank, which is still; a cut's counts are
/// those of two such readings ([`sealed`]). None: both banks as they stand.
///
/// # Errors
/// [`Error::Map`].
pub(crate) fn spent(
    maps: &Maps,
    plan: &Plan,
    accounts: &BTreeMap<u32, u32>,
    epoch: Epoch,
    only: Option<u32>,
) -> Result<Vec<Spent>> {
    let now_ns = host::clock_ns(libc::CLOCK_MONOTONIC);
    let mut all = Vec::new();
    for (tenant, account) in accounts {
        let entry = get(
            maps,
            quota_index(plan.sizes.slots, epoch.policy_set(), *account),
        )?;
        if entry.directions == 0 {
            continue;
        }
        let counts = maps.quota_counts.get(account, 0);
        let counts = counts.map_err(Error::map("QUOTA_COUNTS"))?.0;
        let of = |words: [u64; 2]| match only {
            Some(bank) => words[bank as usize & 1],
            None => words[0].wrapping_add(words[1]),
        };
        all.push(Spent {
            tenant: *tenant,
            account: *account,
            within: of(counts.within),
            beyond: of(counts.beyond),
            reach: entry.reach(now_ns),
            budget: entry.budget,
        });
    }
    Ok(all)
}

/// The halves of a cut together: what the other bank stood at, still since its own cut, and the one that was sealed.
pub(crate) fn sealed(other: Vec<Spent>, bank: Vec<Spent>) -> Vec<Spent> {
    let others: BTreeMap<(u32, u32), Spent> = other
        .into_iter()
        .map(|half| ((half.tenant, half.account), half))
        .collect();
    let halves = bank.into_iter().filter_map(|half| {
        let other = others.get(&(half.tenant, half.account))?;
        Some(Spent {
            within: half.within.wrapping_add(other.within),
            beyond: half.beyond.wrapping_add(other.beyond),
            ..half
        })
    });
    halves.collect()
}
