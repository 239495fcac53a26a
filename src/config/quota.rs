//! A tenant's budget of bytes: `quota` of `[[tenant]]`.

use super::{
    draft::{Draft, DraftTenant, Field, List},
    errors::{At, Faults},
    file::key,
    model::{BUILT_IN_ZONES, Config},
    reader::{Key, Reader},
    units::{Burst, parse_burst, parse_rate},
    values::{Name, ValueError, shown},
};
use dataplane_common::units::{BitsPerSecond, Bytes};
use std::{fmt, str::FromStr};

pub(super) const QUOTA: Key = key(
    "quota",
    "{ bytes = \"20TB\", period = \"month\", then = \"1Mbit/s\" }",
);
const BYTES: Key = key("bytes", "\"20TB\"");
const PERIOD: Key = key("period", "\"month\"");
const DIRECTION: Key = key("direction", "\"both\"");
const ZONES: Key = key("zones", "[\"other\"]");
const THEN: Key = key("then", "\"1Mbit/s\"");
const KEYS: [Key; 5] = [BYTES, PERIOD, DIRECTION, ZONES, THEN];

/// Largest budget, bytes: 2^62, 4.6 EB.
const BYTES_MAX: u64 = 1 << 62;

/// What a tenant may have in each period, all its ports on this host together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Layer-2 bytes, as they are billed; 1..=2^62.
    pub bytes: Bytes,
    /// After which there are as many again.
    pub period: QuotaPeriod,
    /// Which count.
    pub direction: QuotaDirection,
    /// Names of the zones that count; empty: all but `intra-host`.
    pub zones: Vec<Name>,
    /// What happens when they are spent.
    pub then: QuotaThen,
}

/// How long a budget has to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaPeriod {
    /// From midnight to midnight in the time zone of `[billing]`.
    Day,
    /// From the first of a month to that of the next, likewise.
    Month,
    /// So many ns, from midnight UTC on: a multiple of five minutes that a day is a multiple of.
    Every(u64),
}

const MINUTE_NS: u64 = 60_000_000_000;
const DAY_NS: u64 = 1_440 * MINUTE_NS;
/// Usage is kept in slots of this.
const SLOT_NS: u64 = 5 * MINUTE_NS;

impl FromStr for QuotaPeriod {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let units = [("min", MINUTE_NS), ("h", 60 * MINUTE_NS)];
        let every = |(unit, ns): &(&str, u64)| {
            let digits = text.strip_suffix(unit)?;
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<u64>().ok()?.checked_mul(*ns))?
        };
        match text {
            "day" => return Ok(Self::Day),
            "month" => return Ok(Self::Month),
            _ => {}
        }
        match units.iter().find_map(every) {
            Some(ns) if ns != 0 && ns % SLOT_NS == 0 && DAY_NS.is_multiple_of(ns) => {
                Ok(Self::Every(ns))
            }
            Some(_) => Err(ValueError(format!(
                "a period of {} does not end with a slot of five minutes and with the day; write day, month, or such as \
                 5min, 30min, 1h, 6h",
                shown(text)
            ))),
            None => Err(ValueError(format!(
                "{} is no period; write day, month, or such as 5min, 30min, 1h, 6h",
                shown(text)
            ))),
        }
    }
}

impl fmt::Display for QuotaPeriod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day => f.write_str("day"),
            Self::Month => f.write_str("month"),
            Self::Every(ns) if ns % (60 * MINUTE_NS) == 0 => {
                write!(f, "{}h", ns / (60 * MINUTE_NS))
            }
            Self::Every(ns) => write!(f, "{}min", ns / MINUTE_NS),
        }
    }
}

/// Whose bytes count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QuotaDirection {
    /// What the tenant sends.
    FromTenant,
    /// What it receives.
    ToTenant,
    /// Both together.
    #[default]
    Both,
}

impl QuotaDirection {
    const ALL: [Self; 3] = [Self::FromTenant, Self::ToTenant, Self::Both];

    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FromTenant => "from_tenant",
            Self::ToTenant => "to_tenant",
            Self::Both => "both",
        }
    }

    /// Does what crosses in this direction count: from the tenant, to the tenant?
    pub const fn counts(self) -> [bool; 2] {
        match self {
            Self::FromTenant => [true, false],
            Self::ToTenant => [false, true],
            Self::Both => [true, true],
        }
    }
}

impl FromStr for QuotaDirection {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut all = Self::ALL.into_iter();
        all.find(|one| one.as_str() == text).ok_or_else(|| {
            ValueError(format!(
                "{} is no direction; write from_tenant, to_tenant or both",
                shown(text)
            ))
        })
    }
}

/// What happens to what a budget counts when that is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaThen {
    /// It is dropped.
    Drop,
    /// So much of it passes in each direction that counts.
    Slower(BitsPerSecond),
}

impl QuotaThen {
    /// The slower rate.
    pub const fn rate(self) -> Option<BitsPerSecond> {
        match self {
            Self::Drop => None,
            Self::Slower(rate) => Some(rate),
        }
    }
}

impl FromStr for QuotaThen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "drop" {
            return Ok(Self::Drop);
        }
        let rate = parse_rate(text)
            .map_err(|ValueError(why)| ValueError(format!("{why}, or write \"drop\"")))?;
        match super::validate::rate_wrong(rate) {
            None => Ok(Self::Slower(rate)),
            Some(wrong) => Err(ValueError(format!(
                "what is spent passes with {rate}; {wrong}, or \"drop\""
            ))),
        }
    }
}

impl fmt::Display for QuotaThen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str("drop"),
            Self::Slower(rate) => rate.fmt(f),
        }
    }
}

/// Reads a budget.
pub fn parse_bytes(text: &str) -> Result<Bytes, ValueError> {
    let Ok(Burst::Size(bytes)) = parse_burst(text) else {
        return Err(ValueError(format!(
            "{} is no number of bytes; write such as 500GB or 20TB",
            shown(text)
        )));
    };
    match bytes.0 {
        0 => Err(ValueError(
            "a budget of no byte lets nothing pass; write at least 1B, or leave the quota out for none".into(),
        )),
        1..=BYTES_MAX => Ok(bytes),
        _ => Err(ValueError(format!(
            "{} is more than can be counted; write at most {BYTES_MAX}B",
            shown(text)
        ))),
    }
}

/// The same of a text.
pub(super) enum DraftQuota {
    Missing,
    Bad,
    Is(Box<DraftKeys>),
}

pub(super) struct DraftKeys {
    at: At,
    bytes: Field<Bytes>,
    period: Field<QuotaPeriod>,
    direction: Field<QuotaDirection>,
    zones: List<Name>,
    then: Field<QuotaThen>,
}

impl DraftQuota {
    /// The quota; `None` if a value of it was refused.
    pub fn build(self) -> Option<Option<Quota>> {
        let keys = match self {
            Self::Missing => return Some(None),
            Self::Bad => return None,
            Self::Is(keys) => *keys,
        };
        Some(Some(Quota {
            bytes: keys.bytes.required()?,
            period: keys.period.required()?,
            direction: keys.direction.or_default()?,
            zones: keys.zones.values()?,
            then: keys.then.required()?,
        }))
    }
}

impl From<&Option<Quota>> for DraftQuota {
    fn from(quota: &Option<Quota>) -> Self {
        let Some(quota) = quota else {
            return Self::Missing;
        };
        Self::Is(Box::new(DraftKeys {
            at: At::NOWHERE,
            bytes: Field::of(quota.bytes),
            period: Field::of(quota.period),
            direction: Field::of(quota.direction),
            zones: List::of(&quota.zones),
            then: Field::of(quota.then),
        }))
    }
}

/// Reads the quota of a tenant.
pub(super) fn read(tenant: &mut Reader<'_, '_, '_>) -> DraftQuota {
    let table = match tenant.table(QUOTA) {
        Ok(Some(table)) => table,
        Ok(None) => return DraftQuota::Missing,
        Err(()) => return DraftQuota::Bad,
    };
    let at = table.1;
    let mut quota = Reader::open(table, ("", "`quota`"), &KEYS, tenant.faults());
    let (bytes, period) = (
        quota.text(BYTES, parse_bytes),
        quota.text(PERIOD, QuotaPeriod::from_str),
    );
    let then = quota.text(THEN, QuotaThen::from_str);
    DraftQuota::Is(Box::new(DraftKeys {
        at,
        bytes: quota.required(BYTES, bytes),
        period: quota.required(PERIOD, period),
        direction: quota.text(DIRECTION, QuotaDirection::from_str),
        zones: quota.texts(ZONES, Name::from_str),
        then: quota.required(THEN, then),
    }))
}

/// Reports zones that nobody knows, and quotas without books.
pub(super) fn check(draft: &Draft, faults: &mut Faults<'_>) {
    let mut known: Vec<&str> = BUILT_IN_ZONES.to_vec();
    let configured = draft.zones.iter().filter_map(|zone| zone.name.value());
    known.extend(configured.map(Name::as_str));
    for tenant in &draft.tenants {
        if let DraftQuota::Is(keys) = &tenant.quota {
            check_one(tenant, keys, (&known, draft.meter.is_some()), faults);
        }
    }
}

fn check_one(
    tenant: &DraftTenant,
    keys: &DraftKeys,
    (known, metered): (&[&str], bool),
    faults: &mut Faults<'_>,
) {
    let label = super::validate::label("tenant", &tenant.name);
    if !metered {
        let message = format!(
            "{label} has a quota, and nobody keeps its books; add [meter], or leave the quota out"
        );
        faults.add(keys.at, message);
    }
    for (index, zone) in keys.zones.items.iter().enumerate() {
        let name = zone.value.as_str();
        let mut before = keys.zones.items[..index].iter();
        if !known.contains(&name) {
            let message = format!(
                "{label}: its quota counts zone `{name}`, which is none; write one of {}",
                known.join(", ")
            );
            faults.add(zone.at, message);
        } else if before.any(|other| other.value == zone.value) {
            let message = format!("{label}: its quota counts zone `{name}` twice; write it once");
            faults.add(zone.at, message);
        }
    }
}

/// The value of the key, as it is written.
pub(super) fn written(quota: &Quota) -> String {
    let mut keys = vec![
        format!("bytes = \"{}\"", quota.bytes),
        format!("period = \"{}\"", quota.period),
        format!("direction = \"{}\"", quota.direction.as_str()),
    ];
    if !quota.zones.is_empty() {
        let zones = quota.zones.iter().map(|zone| format!("\"{zone}\""));
        keys.push(format!(
            "zones = [{}]",
            zones.collect::<Vec<_>>().join(", ")
        ));
    }
    keys.push(format!("then = \"{}\"", quota.then));
    format!("{{ {} }}", keys.join(", "))
}

impl Quota {
    /// The numbers of the zones that count, a bit each.
    pub fn zone_bits(&self, config: &Config) -> u64 {
        let built_in = (0_u32..).zip(BUILT_IN_ZONES);
        let configured = config.zones.iter();
        let configured = configured.map(|zone| (u32::from(zone.id), zone.name.as_str()));
        if self.zones.is_empty() {
            return !(1 << dataplane_common::zone::INTRA_HOST);
        }
        let counted = |name: &str| self.zones.iter().any(|zone| zone.as_str() == name);
        let zones = built_in.chain(configured);
        zones
            .filter(|(_, name)| counted(name))
            .fold(0, |bits, (number, _)| bits | 1 << (number & 63))
    }

    /// What it says, in words.
    pub fn words(&self) -> String {
        let counts = match self.direction {
            QuotaDirection::FromTenant => "sends",
            QuotaDirection::ToTenant => "receives",
            QuotaDirection::Both => "sends and receives together",
        };
        let zones: Vec<&str> = self.zones.iter().map(Name::as_str).collect();
        let zones = match zones.as_slice() {
            [] => "to and from everywhere but this host".to_owned(),
            zones => format!("in {}", zones.join(", ")),
        };
        let every = match self.period {
            QuotaPeriod::Every(_) => format!("each {}", self.period),
            QuotaPeriod::Day | QuotaPeriod::Month => format!("a {}", self.period),
        };
        let then = match self.then {
            QuotaThen::Drop => "nothing of it passes".to_owned(),
            QuotaThen::Slower(rate) => format!("{rate} of it passes in each direction that counts"),
        };
        format!(
            "{} {every} of what it {counts} {zones}; when they are spent, {then}",
            self.bytes
        )
    }
}

/// Says in words what budgets tenants have.
pub fn tell(config: &Config) {
    for tenant in &config.tenants {
        if let Some(quota) = &tenant.quota {
            println!("  tenant {} has {}", tenant.name, quota.words());
        }
    }
}
