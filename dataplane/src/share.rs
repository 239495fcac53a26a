//! Uplinks that tenants share: from what is asked for to what the programs read.

use crate::{
    Error, Result,
    maps::{Maps, Raw},
    object::Plan,
    policy::{Limit, Policy, Shape},
};
use dataplane_common::{
    abi::{
        DIRECTIONS,
        share::{
            ShareClocks, SharePolicy, UPLINKS_MAX, UplinkPolicy, share_clocks_index, share_index,
            uplink_index,
        },
    },
    limit::Times,
    share::ask::Ask,
    units::BitsPerSecond,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

/// An uplink that tenants share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedUplink {
    /// Its number, below [`UPLINKS_MAX`], the same in every revision.
    pub number: u32,
    /// Its interface.
    pub interface: String,
    /// What it carries, overhead included; none: what the interface says.
    pub capacity: Option<BitsPerSecond>,
    /// Bytes on the wire beside each packet.
    pub overhead: u16,
    /// Who shares it.
    pub tenants: Vec<TenantShare>,
}

/// A tenant's part of an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantShare {
    /// The tenant's number.
    pub tenant: u32,
    /// Of what it sends, and of what it receives.
    pub parts: [Part; 2],
}

/// The same in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Always available, bits of the link.
    pub guarantee: Option<BitsPerSecond>,
    /// Part of what is left, 1..=[`SharePolicy::WEIGHT_MAX`].
    pub weight: u32,
    /// Ceiling and burst of all the tenant's ports together.
    pub limit: Limit,
}

impl SharedUplink {
    /// What it carries.
    ///
    /// # Errors
    /// [`Error::NoCapacity`] when nobody says.
    pub fn capacity(&self) -> Result<BitsPerSecond> {
        let said = || {
            let path = format!("/sys/class/net/{}/speed", self.interface);
            let mbit: u64 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
            (mbit > 0).then(|| BitsPerSecond(mbit.saturating_mul(1_000_000)))
        };
        self.capacity
            .or_else(said)
            .ok_or_else(|| Error::NoCapacity {
                interface: self.interface.clone(),
            })
    }
}

/// Refuses what cannot be kept, before anything is changed for its sake.
///
/// # Errors
/// [`Error::NoCapacity`], [`Error::Guarantees`].
pub(crate) fn check(policy: &Policy) -> Result<()> {
    for uplink in &policy.shared {
        let capacity = uplink.capacity()?;
        for direction in 0..DIRECTIONS as usize {
            let parts = uplink.tenants.iter().map(|share| &share.parts[direction]);
            let sum = parts
                .filter_map(|part| part.guarantee)
                .fold(0_u64, |sum, guarantee| sum.saturating_add(guarantee.0));
            if sum > capacity.0 {
                return Err(Error::Guarantees {
                    interface: uplink.interface.clone(),
                    guaranteed: BitsPerSecond(sum),
                    capacity,
                });
            }
        }
    }
    Ok(())
}

/// Tenants that share an uplink.
pub(crate) fn tenants(policy: &Policy) -> BTreeSet<u32> {
    let all = policy.shared.iter().flat_map(|uplink| &uplink.tenants);
    all.map(|share| share.tenant).collect()
}

/// What is over a share waits, by number of the uplink and direction: see [`crate::shaping::Shaper::queued`].
pub(crate) type Queued = BTreeSet<(u32, u32)>;

/// What an uplink carries in a direction.
fn carries(
    uplink: &SharedUplink,
    price: u32,
    direction: u32,
    queued: &Queued,
) -> Result<UplinkPolicy> {
    let capacity = uplink.capacity()?;
    let beside = (uplink.overhead, price);
    let policy = UplinkPolicy::new(capacity, beside, uplink.tenants.len() as u32);
    if !queued.contains(&(uplink.number, direction)) {
        return Ok(policy);
    }
    let parts = uplink.tenants.iter();
    let guaranteed = parts
        .filter_map(|share| share.parts[direction as usize & 1].guarantee)
        .fold(0_u64, |sum, guarantee| sum.saturating_add(guarantee.0));
    Ok(policy.queued(capacity, BitsPerSecond(guaranteed)))
}

/// Writes the shares of a whole set of policy, which must not be in force. `set_before`: the one that is.
///
/// # Errors
/// [`Error::Map`], [`Error::NoCapacity`].
pub(crate) fn write(
    maps: &mut Maps,
    plan: &Plan,
    policy: &Policy,
    accounts: &BTreeMap<u32, u32>,
    (set_before, set): (u32, u32),
    (times, queued): (&Times, &Queued),
) -> Result<()> {
    let slots = plan.sizes.slots;
    let entries = slots * DIRECTIONS;
    let known = Known {
        shares: maps
            .shares
            .values(share_index(slots, set_before, 0, 0), entries)?,
        clocks: maps.share_clocks.values(0, entries)?,
    };
    // An account that nobody has is that of nobody.
    let mut wanted = vec![SharePolicy::default(); entries as usize];
    for number in 0..UPLINKS_MAX {
        let shared = policy.shared.iter().find(|uplink| uplink.number == number);
        let mut links = [UplinkPolicy::default(); DIRECTIONS as usize];
        for direction in 0..DIRECTIONS {
            let carries = match shared {
                Some(uplink) => carries(uplink, policy.packet_price, direction, queued)?,
                None => UplinkPolicy::default(),
            };
            links[direction as usize & 1] = carries;
            let index = uplink_index(set, number, direction);
            maps.uplinks
                .set(index, Raw(carries), 0)
                .map_err(Error::map("UPLINKS"))?;
        }
        for share in shared.iter().flat_map(|uplink| &uplink.tenants) {
            let Some(account) = accounts.get(&share.tenant) else {
                continue;
            };
            for direction in 0..DIRECTIONS {
                let part = &share.parts[direction as usize];
                let index = share_clocks_index(*account, direction) as usize;
                let of = (number, &links[direction as usize & 1]);
                if let Some(entry) = wanted.get_mut(index) {
                    *entry = known.revised(index, part, of, times);
                }
            }
        }
    }
    maps.shares.put(share_index(slots, set, 0, 0), &wanted)
}

/// What is in force, by account and direction.
struct Known {
    shares: Vec<SharePolicy>,
    clocks: Vec<ShareClocks>,
}

impl Known {
    /// The entry that follows the one at `index`.
    fn revised(
        &self,
        index: usize,
        part: &Part,
        (uplink, link): (u32, &UplinkPolicy),
        times: &Times,
    ) -> SharePolicy {
        let shape = if link.horizon_ns == 0 {
            Shape::Police
        } else {
            Shape::Edt
        };
        let ask = Ask {
            guarantee: part.guarantee,
            // Where nothing holds packets back: as a port's that only drops.
            ceiling: part.limit.ceiling.zip(part.limit.burst_bytes(shape)),
            weight: part.weight,
            uplink,
            horizon_ns: link.horizon_ns,
            price: link.price,
        };
        let before = self.shares.get(index).filter(|before| before.weight != 0);
        let clocks = self.clocks.get(index).copied().unwrap_or_default();
        SharePolicy::new(&ask, before, &clocks, times)
    }
}
