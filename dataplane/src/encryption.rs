//! Encryption policies from the daemon's side: which rule has which number, which part of the conversations' table
//! is whose, and what stands in it.
//!
//! Invariants
//! - A tenant keeps its number and its part of the table from one revision to the next, so that no conversation is
//!   forgotten because somebody else's policy changed.
//! - A part that is given to another tenant is empty: what it held is written over before the revision is published.

use crate::{
    Error, Result,
    maps::{Maps, Raw},
    object::Plan,
    policy,
};
use dataplane_common::{
    abi::RULES_MAX,
    encryption::{Bucket, Conversation, Policy, Rule, WAYS, buckets},
};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A tenant's part: its number in `POLICIES`, and its buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    number: u32,
    first: u32,
    /// A power of two.
    buckets: u32,
}

/// Who has which part.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    by_tenant: BTreeMap<u32, Part>,
}

/// Compares what the policies ask for with the room there is.
///
/// # Errors
/// [`Error::NoRoomForPolicy`].
pub(crate) fn check_room(plan: &Plan, policy: &policy::Policy) -> Result<()> {
    let policies = &policy.encryption;
    let wanted: u64 = policies
        .iter()
        .map(|one| u64::from(buckets(one.conversations)))
        .sum();
    let rules: HashSet<&Rule> = policies
        .iter()
        .flat_map(|one| one.rules.iter().flatten())
        .collect();
    for (what, wanted, room) in [
        (
            "conversations of all tenants' encryption policies",
            wanted * WAYS as u64,
            u64::from(plan.buckets) * WAYS as u64,
        ),
        (
            "different rules of encryption policies",
            rules.len() as u64,
            u64::from(RULES_MAX) - 1,
        ),
        (
            "tenants with an encryption policy",
            policies.len() as u64,
            u64::from(plan.sizes.slots) - 1,
        ),
    ] {
        if wanted > room {
            let (wanted, room) = (wanted as usize, room as usize);
            return Err(Error::NoRoomForPolicy { what, wanted, room });
        }
    }
    Ok(())
}

impl Parts {
    /// Those of the set in force: what an earlier daemon left.
    pub(crate) fn read(maps: &Maps, plan: &Plan, policy_set: u32) -> Result<Self> {
        let mut by_tenant = BTreeMap::new();
        let first = plan.sizes.port(policy_set, 0);
        let all = maps.policies.values(first, plan.sizes.slots)?;
        for (number, known) in (0..).zip(all).skip(1) {
            if known.tenant != 0 {
                let part = Part {
                    number,
                    first: known.buckets_first,
                    buckets: known.buckets_mask.saturating_add(1),
                };
                by_tenant.insert(known.tenant, part);
            }
        }
        Ok(Self { by_tenant })
    }

    /// The number of a tenant's policy; 0: none.
    pub(crate) fn number(&self, tenant: u32) -> u32 {
        self.by_tenant.get(&tenant).map_or(0, |part| part.number)
    }

    /// Writes the policies of a set that is not in force. Parts of tenants who have no policy any more stay theirs
    /// until the next time: the set in force may still lead there.
    ///
    /// # Errors
    /// [`Error::Map`], [`Error::NoRoomForPolicy`] when what is free is in pieces.
    pub(crate) fn write(
        &mut self,
        maps: &mut Maps,
        plan: &Plan,
        policy: &policy::Policy,
        policy_set: u32,
    ) -> Result<()> {
        let in_force = Self::read(maps, plan, policy_set ^ 1)?;
        let mut parts = BTreeMap::new();
        for wanted in &policy.encryption {
            let kept = self.by_tenant.get(&wanted.tenant);
            let same = |part: &&Part| part.buckets == buckets(wanted.conversations);
            if let Some(part) = kept.filter(same) {
                parts.insert(wanted.tenant, *part);
            }
        }
        for wanted in &policy.encryption {
            if parts.contains_key(&wanted.tenant) {
                continue;
            }
            let taken: Vec<Part> = parts
                .values()
                .chain(in_force.by_tenant.values())
                .copied()
                .collect();
            let part = place(plan, &taken, buckets(wanted.conversations))?;
            for bucket in part.first..part.first + part.buckets {
                let empty = Raw(Bucket::default());
                let set = maps.conversations.set(bucket, empty, 0);
                set.map_err(Error::map("CONVERSATIONS"))?;
            }
            parts.insert(wanted.tenant, part);
        }
        self.by_tenant = parts;
        self.write_set(maps, plan, policy, policy_set)
    }

    fn write_set(
        &self,
        maps: &mut Maps,
        plan: &Plan,
        policy: &policy::Policy,
        policy_set: u32,
    ) -> Result<()> {
        let mut rules: Vec<Rule> = vec![Rule::default()];
        // A number that is no tenant's is the policy of nobody.
        let mut entries = vec![Policy::default(); plan.sizes.slots as usize];
        for one in &policy.encryption {
            let Some(part) = self.by_tenant.get(&one.tenant) else {
                continue;
            };
            let mut compiled = Policy {
                tenant: one.tenant,
                buckets_first: part.first,
                buckets_mask: part.buckets - 1,
                ..Policy::default()
            };
            for (numbers, wanted) in compiled.rules.iter_mut().zip(&one.rules) {
                for (zone, number) in numbers.iter_mut().enumerate() {
                    if let Some(rule) = wanted.get(zone).or(wanted.last()) {
                        *number = numbered(&mut rules, rule);
                    }
                }
            }
            if let Some(place) = entries.get_mut(part.number as usize) {
                *place = compiled;
            }
        }
        maps.policies
            .put(plan.sizes.port(policy_set, 0), &entries)?;
        for (number, rule) in (0..RULES_MAX).zip(rules) {
            let set = maps
                .rules
                .set(policy_set * RULES_MAX + number, Raw(rule), 0);
            set.map_err(Error::map("RULES"))?;
        }
        Ok(())
    }
}

/// The number of a rule; rules that are alike have one. `check_room` has seen to it that there is one.
fn numbered(rules: &mut Vec<Rule>, rule: &Rule) -> u8 {
    let known = rules.iter().position(|known| known == rule);
    let number = known.unwrap_or_else(|| {
        rules.push(*rule);
        rules.len() - 1
    });
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// The first place for so many buckets beside `taken`, and a number that nobody has.
fn place(plan: &Plan, taken: &[Part], buckets: u32) -> Result<Part> {
    let mut first = 0;
    let mut sorted: Vec<Part> = taken.to_vec();
    sorted.sort_by_key(|part| part.first);
    for part in sorted {
        if part.first >= first + buckets {
            break;
        }
        first = first.max(part.first.saturating_add(part.buckets));
    }
    let numbers: BTreeSet<u32> = taken.iter().map(|part| part.number).collect();
    let number = (1..plan.sizes.slots).find(|number| !numbers.contains(number));
    match number {
        Some(number) if first.saturating_add(buckets) <= plan.buckets => Ok(Part {
            number,
            first,
            buckets,
        }),
        _ => Err(Error::NoRoomForPolicy {
            what: "conversations of a tenant's encryption policy, in one piece",
            wanted: buckets as usize * WAYS,
            room: plan.buckets.saturating_sub(first) as usize * WAYS,
        }),
    }
}

/// What is known of a tenant's conversations by now. Each is as it was at one moment or another.
///
/// # Errors
/// [`Error::Map`].
pub fn conversations(maps: &Maps, plan: &Plan, policy_set: u32) -> Result<Vec<Talking>> {
    let parts = Parts::read(maps, plan, policy_set)?;
    let mut found = Vec::new();
    for (tenant, part) in parts.by_tenant {
        for at in part.first..part.first.saturating_add(part.buckets) {
            let bucket = maps.conversations.get(&at, 0);
            let bucket = bucket.map_err(Error::map("CONVERSATIONS"))?.0;
            let known = bucket.ways.into_iter();
            found.extend(
                known
                    .filter(|one| one.key.ethertype != 0)
                    .map(|conversation| Talking {
                        tenant,
                        conversation,
                    }),
            );
        }
    }
    Ok(found)
}

/// A tenant's conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Talking {
    /// Tenant's number.
    pub tenant: u32,
    /// What is known of it.
    pub conversation: Conversation,
}
