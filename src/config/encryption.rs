//! `[[encryption]]`: what is asked of a tenant's packets, rule by rule. The first that matches holds.

use super::{
    draft::{Field, List},
    errors::{At, Faults, Located},
    file::{header, key},
    model::{BUILT_IN_ZONES, Config},
    own_profile::{Accepts, OwnProfile},
    reader::{Key, Reader, nearest},
    units::parse_packet_rate,
    values::{Name, ValueError, shown},
};
use dataplane_common::encryption::{PREFIX_PORTS, WAYS, buckets, exempt};
use std::{
    collections::{BTreeMap, HashSet},
    fmt::{self, Display, Formatter},
    ops::RangeInclusive,
    str::FromStr,
};
use toml::de::DeTable;

pub(super) const ENCRYPTION: Key = header("encryption", "[[encryption]]");
const TENANT: Key = key("tenant", "\"acme\"");
const DIRECTION: Key = key("direction", "\"both\"");
const ZONES: Key = key("zones", "[\"internet-fr\"]");
const MODE: Key = key("mode", "\"observe\"");
const PROFILE: Key = key("profile", "\"anssi-2026\"");
const MIN_EVIDENCE: Key = key("min_evidence", "\"E2\"");
const MIDSTREAM: Key = key("midstream", "\"relock\"");
const FRAGMENTS: Key = key("fragments", "\"drop\"");
const UNVERIFIED_BYTES: Key = key("unverified_bytes", "256000");
const UNCLASSIFIED_BYTES: Key = key("unclassified_bytes", "0");
const UNCLASSIFIED_PACKETS: Key = key("unclassified_packets", "0");
const STARTTLS_PORTS: Key = key("starttls_ports", "[\"25\", \"587\"]");
const STARTTLS_BYTES: Key = key("starttls_bytes", "2048");
const EXEMPT: Key = key("exempt", "[\"arp\", \"icmp-echo:10pps\"]");
const CONVERSATIONS: Key = key("conversations", "4096");
const KEYS: [Key; 15] = [
    TENANT,
    DIRECTION,
    ZONES,
    MODE,
    PROFILE,
    MIN_EVIDENCE,
    MIDSTREAM,
    FRAGMENTS,
    UNVERIFIED_BYTES,
    UNCLASSIFIED_BYTES,
    UNCLASSIFIED_PACKETS,
    STARTTLS_PORTS,
    STARTTLS_BYTES,
    EXEMPT,
    CONVERSATIONS,
];

/// What happens to what a rule refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nobody looks.
    Off,
    /// It passes, and is counted as what `enforce` would drop.
    #[default]
    Observe,
    /// It is dropped.
    Enforce,
}

/// Which packets a rule is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Both.
    #[default]
    Both,
    /// What the tenant sends.
    FromTenant,
    /// What the tenant receives.
    ToTenant,
}

/// Least evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The shape alone.
    E1,
    /// A handshake in both directions.
    E2,
    /// Parameters read, and every record's header checked.
    E3,
}

/// What becomes of a conversation that began before anybody looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Midstream {
    /// It must begin anew.
    Drop,
    /// It is taken up within the budget for what is unverified.
    #[default]
    Relock,
}

/// What becomes of fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragments {
    /// They are refused.
    #[default]
    Drop,
    /// The first is judged, and those that follow it.
    Track,
    /// They pass, unverified.
    Allow,
}

/// The words of an enum in the file.
macro_rules! words {
    ($type:ident, $what:literal: $($variant:ident $word:literal),+) => {
        impl $type {
            /// The word in the file.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl FromStr for $type {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(ValueError(format!(
                        concat!("there is no ", $what, " {}; write one of ", $($word, " "),+),
                        shown(text)
                    ).trim_end().to_owned())),
                }
            }
        }
    };
}

pub(super) use words;

words!(Mode, "mode": Off "off", Observe "observe", Enforce "enforce");
words!(Direction, "direction": Both "both", FromTenant "from_tenant", ToTenant "to_tenant");
words!(Evidence, "evidence": E1 "E1", E2 "E2", E3 "E3");
words!(Midstream, "midstream": Drop "drop", Relock "relock");
words!(Fragments, "fragments": Drop "drop", Track "track", Allow "allow");

/// Something clear that passes all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exemption {
    /// `dataplane_common::encryption::exempt`.
    pub which: u32,
    /// Packets a second, each direction and port; `None`: any number.
    pub rate: Option<u64>,
}

impl FromStr for Exemption {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (name, rate) = match text.split_once(':') {
            Some((name, rate)) => (name, Some(parse_packet_rate(rate)?.0)),
            None => (text, None),
        };
        let which = exempt::NAMES.iter().position(|known| *known == name);
        match which {
            Some(which) => Ok(Self {
                which: which as u32,
                rate,
            }),
            None => Err(ValueError(format!(
                "nothing is exempt as {}; write one of {}",
                shown(name),
                exempt::NAMES.join(" ")
            ))),
        }
    }
}

impl Display for Exemption {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(exempt::NAMES.get(self.which as usize).unwrap_or(&"?"))?;
        match self.rate {
            Some(rate) => write!(out, ":{rate}pps"),
            None => Ok(()),
        }
    }
}

/// A port of TCP as a text: lists of the file hold texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpPort(pub u16);

impl FromStr for TcpPort {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.parse() {
            Ok(port) if port != 0 => Ok(Self(port)),
            _ => Err(ValueError(format!(
                "{} is no port; write 1 to 65535",
                shown(text)
            ))),
        }
    }
}

impl Display for TcpPort {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, out)
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// Name of the tenant.
    pub tenant: Name,
    /// Which packets.
    pub direction: Direction,
    /// Names of the zones of the other end; none: every zone.
    pub zones: Vec<Name>,
    /// What happens to what is refused.
    pub mode: Mode,
    /// What is accepted.
    pub profile: Accepts,
    /// Least evidence.
    pub min_evidence: Evidence,
    /// Conversations that began earlier.
    pub midstream: Midstream,
    /// Fragments.
    pub fragments: Fragments,
    /// Payload of a conversation that may pass unchecked at once, bytes.
    pub unverified_bytes: u32,
    /// Payload of datagrams before it is known what they are, bytes.
    pub unclassified_bytes: u32,
    /// The same, packets.
    pub unclassified_packets: u32,
    /// Ports of servers that begin in clear.
    pub starttls_ports: Vec<TcpPort>,
    /// How much clear text may come first there, bytes.
    pub starttls_bytes: u32,
    /// What passes in clear.
    pub exempt: Vec<Exemption>,
    /// Conversations of the tenant whose state is kept; of several rules the largest.
    pub conversations: u32,
}

impl Encryption {
    /// `unverified` of a file that names none.
    pub const UNVERIFIED_BYTES: u32 = 256_000;
    /// What `unverified_bytes` may be: the largest packet, and more than any path loses at once.
    pub(super) const UNVERIFIED_RANGE: RangeInclusive<u64> = 65_536..=1 << 30;
    /// `starttls_bytes` of a file that names none.
    pub const STARTTLS_BYTES: u32 = 2_048;
    /// `conversations` of a file that names none.
    pub const CONVERSATIONS: u32 = 4_096;
    /// Without these nothing else can work: addresses, neighbours, a path's MTU.
    pub const EXEMPT: [Exemption; 4] = [
        Exemption {
            which: exempt::ARP,
            rate: None,
        },
        Exemption {
            which: exempt::ND,
            rate: None,
        },
        Exemption {
            which: exempt::DHCP,
            rate: Some(10),
        },
        Exemption {
            which: exempt::ICMP_ERROR,
            rate: Some(100),
        },
    ];
}

/// A rule as the file has it.
pub(super) struct DraftEncryption {
    tenant: Field<Name>,
    direction: Field<Direction>,
    zones: List<Name>,
    mode: Field<Mode>,
    pub profile: Field<Accepts>,
    min_evidence: Field<Evidence>,
    midstream: Field<Midstream>,
    fragments: Field<Fragments>,
    unverified_bytes: Field<u32>,
    unclassified_bytes: Field<u32>,
    unclassified_packets: Field<u32>,
    starttls_ports: List<TcpPort>,
    starttls_bytes: Field<u32>,
    exempt: Option<List<Exemption>>,
    conversations: Field<u32>,
    at: At,
}

impl DraftEncryption {
    /// A rule that was checked before.
    pub fn of(rule: &Encryption) -> Self {
        Self {
            tenant: Field::of(rule.tenant.clone()),
            direction: Field::of(rule.direction),
            zones: List::of(&rule.zones),
            mode: Field::of(rule.mode),
            profile: Field::of(rule.profile.clone()),
            min_evidence: Field::of(rule.min_evidence),
            midstream: Field::of(rule.midstream),
            fragments: Field::of(rule.fragments),
            unverified_bytes: Field::of(rule.unverified_bytes),
            unclassified_bytes: Field::of(rule.unclassified_bytes),
            unclassified_packets: Field::of(rule.unclassified_packets),
            starttls_ports: List::of(&rule.starttls_ports),
            starttls_bytes: Field::of(rule.starttls_bytes),
            exempt: Some(List::of(&rule.exempt)),
            conversations: Field::of(rule.conversations),
            at: At::NOWHERE,
        }
    }

    /// The rule; `None` if a value of it was refused. Budgets that it leaves out are those of its profile.
    pub fn build(self, profiles: &[OwnProfile]) -> Option<Encryption> {
        let profile = self.profile.or_default()?;
        let own = match &profile {
            Accepts::BuiltIn(_) => None,
            Accepts::Own(name) => profiles.iter().find(|own| own.name == *name),
        };
        let budgets = own.map_or((Encryption::UNVERIFIED_BYTES, 0, 0), |own| {
            (
                own.unverified_bytes,
                own.unclassified_bytes,
                own.unclassified_packets,
            )
        });
        Some(Encryption {
            tenant: self.tenant.required()?,
            direction: self.direction.or_default()?,
            zones: self.zones.values()?,
            mode: self.mode.or_default()?,
            profile,
            min_evidence: self.min_evidence.or(Evidence::E2)?,
            midstream: self.midstream.or_default()?,
            fragments: self.fragments.or_default()?,
            unverified_bytes: self.unverified_bytes.or(budgets.0)?,
            unclassified_bytes: self.unclassified_bytes.or(budgets.1)?,
            unclassified_packets: self.unclassified_packets.or(budgets.2)?,
            starttls_ports: self.starttls_ports.values()?,
            starttls_bytes: self.starttls_bytes.or(Encryption::STARTTLS_BYTES)?,
            exempt: match self.exempt {
                Some(exempt) => exempt.values()?,
                None => Encryption::EXEMPT.to_vec(),
            },
            conversations: self.conversations.or(Encryption::CONVERSATIONS)?,
        })
    }
}

/// Reads one.
pub(super) fn read(table: (&DeTable<'_>, At), faults: &mut Faults<'_>) -> DraftEncryption {
    let at = table.1;
    let exempts = table.0.contains_key(EXEMPT.name);
    let mut rule = Reader::open(table, ("encryption", "[[encryption]]"), &KEYS, faults);
    let tenant = rule.text(TENANT, Name::from_str);
    let exempt = rule.texts(EXEMPT, Exemption::from_str);
    DraftEncryption {
        tenant: rule.required(TENANT, tenant),
        direction: rule.text(DIRECTION, Direction::from_str),
        zones: rule.texts(ZONES, Name::from_str),
        mode: rule.text(MODE, Mode::from_str),
        profile: rule.text(PROFILE, Accepts::from_str),
        min_evidence: rule.text(MIN_EVIDENCE, Evidence::from_str),
        midstream: rule.text(MIDSTREAM, Midstream::from_str),
        fragments: rule.text(FRAGMENTS, Fragments::from_str),
        unverified_bytes: rule.integer(UNVERIFIED_BYTES, Encryption::UNVERIFIED_RANGE),
        unclassified_bytes: rule.integer(UNCLASSIFIED_BYTES, 0..=65_536),
        unclassified_packets: rule.integer(UNCLASSIFIED_PACKETS, 0..=255),
        starttls_ports: rule.texts(STARTTLS_PORTS, TcpPort::from_str),
        starttls_bytes: rule.integer(STARTTLS_BYTES, 0..=65_536),
        exempt: exempts.then_some(exempt),
        conversations: rule.integer(CONVERSATIONS, 4..=4_194_304),
        at,
    }
}

/// Reports tenants whose conversations do not fit the room that the host has.
pub(super) fn check_room(
    rules: &[DraftEncryption],
    conversations_max: Option<u32>,
    faults: &mut Faults<'_>,
) {
    let Some(room) = conversations_max else {
        return;
    };
    // Each tenant's part is as large as its largest rule asks for, and a power of two.
    let mut parts: BTreeMap<&str, u64> = BTreeMap::new();
    for rule in rules {
        let Some(tenant) = rule.tenant.value() else {
            continue;
        };
        let asked = rule.conversations.clone().or(Encryption::CONVERSATIONS);
        let part = u64::from(buckets(asked.unwrap_or(0))) * WAYS as u64;
        let known = parts.entry(tenant.as_str()).or_default();
        *known = part.max(*known);
        let sum: u64 = parts.values().sum();
        let room = u64::from(room.div_ceil(WAYS as u32)) * WAYS as u64;
        if sum > room {
            let at = rule.conversations.get().map_or(rule.at, |asked| asked.at);
            let message = format!(
                "with this rule of `{tenant}`, {sum} conversations are asked for, in parts that are powers of two, \
                 and there is room for {room}; write fewer, or raise `conversations_max` in [host]"
            );
            faults.add(at, message);
            return;
        }
    }
}

/// Reports names that are nobody's, and rules that can never hold.
pub(super) fn check(
    rules: &[DraftEncryption],
    (tenants, tenants_complete): (&[&Name], bool),
    zones: &[&Name],
    faults: &mut Faults<'_>,
) {
    for rule in rules {
        if let Some(tenant) = rule.tenant.get()
            && tenants_complete
            && !tenants.contains(&&tenant.value)
        {
            let names = tenants.iter().map(|name| name.as_str());
            unknown("tenant", tenant, names, faults);
        }
        let mut seen = HashSet::new();
        for zone in &rule.zones.items {
            let built_in = BUILT_IN_ZONES.contains(&zone.value.as_str());
            if !built_in && !zones.contains(&&zone.value) {
                let names = zones.iter().map(|name| name.as_str());
                unknown("zone", zone, names.chain(BUILT_IN_ZONES), faults);
            }
            if !seen.insert(&zone.value) {
                let message = format!("the zone `{}` is named twice; keep one", zone.value);
                faults.add(zone.at, message);
            }
        }
        if let Some(port) = rule.starttls_ports.items.get(PREFIX_PORTS) {
            let message = format!("there is room for {PREFIX_PORTS} ports; leave one out");
            faults.add(port.at, message);
        }
    }
}

fn unknown<'n>(
    kind: &str,
    name: &Located<Name>,
    known: impl Iterator<Item = &'n str>,
    faults: &mut Faults<'_>,
) {
    let hint = match nearest(name.value.as_str(), known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("add a [[{kind}]] of that name"),
    };
    let message = format!("there is no {kind} `{}`; {hint}", name.value);
    faults.add(name.at, message);
}

impl Config {
    /// The rules of a tenant, in file order.
    pub fn encryption_of(&self, tenant: &Name) -> impl Iterator<Item = &Encryption> {
        let rules = self.encryption.iter();
        rules.filter(move |rule| rule.tenant == *tenant)
    }
}
