//! A tenant's part of an uplink: `from_tenant`, `to_tenant` and `uplink` of `[[tenant]]`.
//!
//! An uplink is shared when a tenant asks for a part of it; then all tenants on it share it, who says nothing
//! with weight 1 and no guarantee: else a guarantee would be worth nothing.

use super::{
    draft::{Draft, DraftLimits, DraftTenant, Field},
    errors::{At, Faults, Located},
    file::key,
    model::{Config, Limits, Tenant, Uplink},
    reader::{Key, Reader},
    units::{parse_burst, parse_rate},
    values::InterfaceName,
};
use dataplane_common::{
    abi::share::{SharePolicy, UPLINKS_MAX},
    units::{BitsPerSecond, Bytes},
};
use std::str::FromStr as _;

pub(super) const UPLINK: Key = key("uplink", "\"eth0\"");
pub(super) const FROM_TENANT: Key = key("from_tenant", "{ guarantee = \"100Mbit/s\" }");
pub(super) const TO_TENANT: Key = key("to_tenant", "{ guarantee = \"100Mbit/s\" }");
const GUARANTEE: Key = key("guarantee", "\"100Mbit/s\"");
const WEIGHT: Key = key("weight", "1");
const CEILING: Key = key("ceiling", "\"200Mbit/s\"");
const BURST: Key = key("burst", "\"250ms\"");
const KEYS: [Key; 4] = [GUARANTEE, WEIGHT, CEILING, BURST];

/// What a tenant has of its uplink in one direction, all its ports together; `None`: not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Always available; bits of the link, overhead included.
    pub guarantee: Option<BitsPerSecond>,
    /// Part of what is left, 1..=10,000.
    pub weight: Option<u32>,
    /// Never exceeded; layer-2 bits, as a port's.
    pub ceiling: Option<BitsPerSecond>,
    /// What may pass the ceiling at once after a pause; only with one.
    pub burst: Option<Bytes>,
}

impl Share {
    /// Whether the tenant asks for anything here.
    pub fn is_asked(&self) -> bool {
        *self != Self::default()
    }
}

/// The same of a text.
pub(super) struct DraftShare {
    pub guarantee: Field<BitsPerSecond>,
    pub weight: Field<u32>,
    /// Ceiling and burst, as a port's.
    pub limits: DraftLimits,
}

impl DraftShare {
    fn none(bad: bool) -> Self {
        Self {
            guarantee: Field::Missing,
            weight: Field::Missing,
            limits: DraftLimits::none(bad),
        }
    }

    fn says_nothing(&self) -> bool {
        let Self {
            guarantee,
            weight,
            limits,
        } = self;
        let missing = matches!(guarantee, Field::Missing) && matches!(weight, Field::Missing);
        missing && !limits.bad && matches!(limits.ceiling, Field::Missing)
    }

    /// The share; `None` if a value of it was refused.
    pub fn build(self) -> Option<Share> {
        let limits = super::validate::build_limits(self.limits)?;
        Some(Share {
            guarantee: self.guarantee.optional()?,
            weight: self.weight.optional()?,
            ceiling: limits.ceiling,
            burst: limits.burst,
        })
    }
}

impl From<&Share> for DraftShare {
    fn from(share: &Share) -> Self {
        Self {
            guarantee: Field::of_optional(share.guarantee),
            weight: Field::of_optional(share.weight),
            limits: DraftLimits::from(&Limits {
                ceiling: share.ceiling,
                burst: share.burst,
                packet_rate: None,
            }),
        }
    }
}

/// Reads the share of one direction.
pub(super) fn read(tenant: &mut Reader<'_, '_, '_>, key: Key) -> DraftShare {
    let table = match tenant.table(key) {
        Ok(Some(table)) => table,
        Ok(None) => return DraftShare::none(false),
        Err(()) => return DraftShare::none(true),
    };
    let header = format!("`{}`", key.name);
    let mut share = Reader::open(table, ("", &header), &KEYS, tenant.faults());
    DraftShare {
        guarantee: share.text(GUARANTEE, parse_rate),
        weight: share.integer(WEIGHT, 1..=u64::from(SharePolicy::WEIGHT_MAX)),
        limits: DraftLimits {
            ceiling: share.text(CEILING, parse_rate),
            burst: share.text(BURST, parse_burst),
            packet_rate: Field::Missing,
            bad: false,
        },
    }
}

/// Reads the uplink that a tenant is on.
pub(super) fn read_uplink(tenant: &mut Reader<'_, '_, '_>) -> Field<InterfaceName> {
    tenant.text(UPLINK, InterfaceName::from_str)
}

/// Reports guarantees that cannot be kept, and tenants whose uplink is not known.
pub(super) fn check(draft: &Draft, faults: &mut Faults<'_>) {
    for tenant in &draft.tenants {
        let label = super::validate::label("tenant", &tenant.name);
        check_uplink(draft, tenant, &label, faults);
        for (direction, share) in directions(tenant) {
            let label = format!("{label} {direction}");
            check_guarantee(&label, share, faults);
            super::validate::check_limits(&label, &share.limits, faults);
        }
    }
    for (at, uplink) in draft.uplinks.iter().enumerate() {
        if let (Some(interface), Some(capacity)) = (uplink.interface.value(), uplink.capacity.get())
        {
            for direction in [0, 1] {
                admit(draft, at, (interface, capacity), direction, faults);
            }
        }
    }
}

fn directions(tenant: &DraftTenant) -> [(&'static str, &DraftShare); 2] {
    let [from, to] = &tenant.shares;
    [("from_tenant", from), ("to_tenant", to)]
}

fn check_uplink(draft: &Draft, tenant: &DraftTenant, label: &str, faults: &mut Faults<'_>) {
    let asks = tenant.shares.iter().any(|share| !share.says_nothing());
    let known = |name: &InterfaceName| {
        let mut uplinks = draft.uplinks.iter();
        uplinks.position(|uplink| uplink.interface.value() == Some(name))
    };
    match &tenant.uplink {
        Field::Is(named) => match known(&named.value) {
            None => {
                let message = format!("{label}: `{}` is no [[uplink]]; add it", named.value);
                faults.add(named.at, message);
            }
            Some(at) if at >= UPLINKS_MAX as usize => {
                let message =
                    format!("{label}: only the first {UPLINKS_MAX} uplinks can be shared");
                faults.add(named.at, message);
            }
            Some(_) => {}
        },
        Field::Missing if asks && draft.uplinks.len() != 1 => {
            let message = if draft.uplinks.is_empty() {
                format!("{label}: there is no link to have a part of; add an [[uplink]]")
            } else {
                format!(
                    "{label}: there are several uplinks; write uplink = \"…\" to say which one it shares"
                )
            };
            faults.add(tenant.at, message);
        }
        _ => {}
    }
}

fn check_guarantee(label: &str, share: &DraftShare, faults: &mut Faults<'_>) {
    let Some(guarantee) = share.guarantee.get() else {
        return;
    };
    if let Some(wrong) = super::validate::rate_wrong(guarantee.value) {
        let what = format!("{label}: the guarantee is {}; {wrong}", guarantee.value);
        faults.add(guarantee.at, format!("{what}, or leave it out for none"));
    }
    if let Some(ceiling) = share.limits.ceiling.value()
        && *ceiling < guarantee.value
    {
        let message = format!(
            "{label}: the guarantee {} is above the ceiling {ceiling}; write at most that",
            guarantee.value
        );
        faults.add(guarantee.at, message);
    }
}

/// Which uplink a tenant is on: the one that it names, or the only one.
fn uplink_of(draft: &Draft, tenant: &DraftTenant) -> Option<usize> {
    match &tenant.uplink {
        Field::Is(named) => {
            let mut uplinks = draft.uplinks.iter();
            uplinks.position(|uplink| uplink.interface.value() == Some(&named.value))
        }
        Field::Missing => (draft.uplinks.len() == 1).then_some(0),
        Field::Bad => None,
    }
}

/// No more is guaranteed than there is.
fn admit(
    draft: &Draft,
    at: usize,
    (interface, capacity): (&InterfaceName, &Located<BitsPerSecond>),
    direction: usize,
    faults: &mut Faults<'_>,
) {
    let mut sum = 0_u64;
    let (mut count, mut last) = (0, At::NOWHERE);
    for tenant in &draft.tenants {
        if let Some(guarantee) = tenant.shares[direction].guarantee.get()
            && uplink_of(draft, tenant) == Some(at)
        {
            sum = sum.saturating_add(guarantee.value.0);
            (count, last) = (count + 1, guarantee.at);
        }
    }
    let capacity = capacity.value;
    if let Some(over) = sum.checked_sub(capacity.0).filter(|over| *over > 0) {
        let direction = ["from_tenant", "to_tenant"][direction];
        let message = format!(
            "the guarantees of {count} tenants {direction} are {} together, and the capacity of `{interface}` is \
             {capacity}; guarantee {} less",
            BitsPerSecond(sum),
            BitsPerSecond(over)
        );
        faults.add(last, message);
    }
}

/// An uplink that is shared.
pub struct Shared<'c> {
    /// Its place among the uplinks, which is its number.
    pub at: usize,
    /// Itself.
    pub uplink: &'c Uplink,
    /// The tenants on it.
    pub tenants: Vec<&'c Tenant>,
}

/// The uplinks that are shared.
pub fn shared(config: &Config) -> Vec<Shared<'_>> {
    let mut shared = Vec::new();
    let only = config.uplinks.len() == 1;
    for (at, uplink) in config.uplinks.iter().enumerate() {
        let here = |tenant: &&Tenant| match &tenant.uplink {
            Some(named) => *named == uplink.interface,
            None => only,
        };
        let tenants: Vec<&Tenant> = config.tenants.iter().filter(here).collect();
        let asks = |tenant: &&Tenant| tenant.shares.iter().any(Share::is_asked);
        if tenants.iter().any(asks) {
            shared.push(Shared {
                at,
                uplink,
                tenants,
            });
        }
    }
    shared
}

/// The keys of one direction, as they are written.
pub(super) fn keys(share: &Share) -> Vec<String> {
    let text = |value: &dyn std::fmt::Display| format!("\"{value}\"");
    [
        share
            .guarantee
            .map(|rate| format!("guarantee = {}", text(&rate))),
        share.weight.map(|weight| format!("weight = {weight}")),
        share
            .ceiling
            .map(|rate| format!("ceiling = {}", text(&rate))),
        share.burst.map(|bytes| format!("burst = {}", text(&bytes))),
    ]
    .into_iter()
    .flatten()
    .collect()
}
