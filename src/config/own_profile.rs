//! `[[encryption_profile]]`: what a rule accepts, in an operator's own words, beginning with a built-in profile.
//!
//! What a profile leaves out is as in the one that it is based on, and is written out when the file is written: a built-in
//! list that changes with a later octroi changes no profile of one's own behind its owner's back.

use super::{
    draft::{Field, List},
    encryption::{DraftEncryption, Encryption, words},
    errors::{At, Faults, Located},
    file::{header, key},
    model::Config,
    profile::Profile,
    reader::{Key, Reader},
    suites::{Group, Suite},
    values::{Name, ValueError, shown},
};
use dataplane_common::encryption::{GROUPS, Rule, SUITES, accept, tls};
use std::{
    collections::{HashMap, HashSet},
    fmt::{self, Display, Formatter},
    hash::Hash,
    str::FromStr,
};
use toml::de::DeTable;

pub(super) const ENCRYPTION_PROFILE: Key = header("encryption_profile", "[[encryption_profile]]");
const NAME: Key = key("name", "\"partner\"");
const BASED_ON: Key = key("based_on", "\"anssi-2026\"");
const PROTOCOLS: Key = key("protocols", "[\"tls\", \"ssh\"]");
const TLS_MIN: Key = key("tls_min", "\"1.3\"");
const SUITE_LIST: Key = key("suites", "[\"TLS_AES_256_GCM_SHA384\"]");
const GROUP_LIST: Key = key("groups", "[\"X25519MLKEM768\"]");
const GROUP_REQUIRED: Key = key("group_required", "false");
const EARLY_DATA: Key = key("early_data", "false");
const OVERLAYS: Key = key("overlays", "\"inspect\"");
const UNVERIFIED_BYTES: Key = key("unverified_bytes", "256000");
const UNCLASSIFIED_BYTES: Key = key("unclassified_bytes", "0");
const UNCLASSIFIED_PACKETS: Key = key("unclassified_packets", "0");
const KEYS: [Key; 12] = [
    NAME,
    BASED_ON,
    PROTOCOLS,
    TLS_MIN,
    SUITE_LIST,
    GROUP_LIST,
    GROUP_REQUIRED,
    EARLY_DATA,
    OVERLAYS,
    UNVERIFIED_BYTES,
    UNCLASSIFIED_BYTES,
    UNCLASSIFIED_PACKETS,
];

/// What a profile may accept, by name in the file and bit of [`accept`].
const SPOKEN: [(&str, u32, &str); 9] = [
    ("tls", accept::TLS, "TLS"),
    ("ssh", accept::SSH, "SSH"),
    ("wireguard", accept::WIREGUARD, "WireGuard"),
    ("quic-v1", accept::QUIC_V1, "QUIC v1"),
    ("quic-v2", accept::QUIC_V2, "QUIC v2"),
    ("dtls", accept::DTLS, "DTLS 1.2"),
    ("esp", accept::ESP, "ESP by its shape"),
    ("ike", accept::IKE, "IKEv2 by its shape"),
    ("openvpn", accept::OPENVPN, "OpenVPN by its shape"),
];

/// One of what a profile accepts: a bit of [`accept`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocol(pub u32);

impl FromStr for Protocol {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match SPOKEN.iter().find(|(name, ..)| *name == text) {
            Some((_, bit, _)) => Ok(Self(*bit)),
            None => Err(ValueError(format!(
                "nobody can tell {} here; write one of {}",
                shown(text),
                SPOKEN.map(|(name, ..)| name).join(" ")
            ))),
        }
    }
}

impl Display for Protocol {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let known = SPOKEN.iter().find(|(_, bit, _)| *bit == self.0);
        out.write_str(known.map_or("?", |(name, ..)| name))
    }
}

/// Least version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMin {
    /// 1.2, RFC 5246.
    V1_2,
    /// 1.3, RFC 8446.
    V1_3,
}

/// What becomes of VXLAN, Geneve, GRE and IP in IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlays {
    /// What is inside is judged.
    Inspect,
    /// They are refused, whatever is inside.
    Refuse,
}

words!(TlsMin, "version": V1_2 "1.2", V1_3 "1.3");
words!(Overlays, "overlays": Inspect "inspect", Refuse "refuse");

/// A profile of the file, with nothing left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnProfile {
    /// Its name; no built-in profile's.
    pub name: Name,
    /// Where it began.
    pub based_on: Profile,
    /// What it accepts; not empty.
    pub protocols: Vec<Protocol>,
    /// Least version of TLS.
    pub tls_min: TlsMin,
    /// Suites that a server may choose, 1..=32.
    pub suites: Vec<Suite>,
    /// Groups that a server may choose, 1..=16.
    pub groups: Vec<Group>,
    /// A server must name its group: TLS 1.2, which names none in its hello, is refused.
    pub group_required: bool,
    /// Application data before the server's hello may pass.
    pub early_data: bool,
    /// Overlays.
    pub overlays: Overlays,
    /// Of rules that say nothing else.
    pub unverified_bytes: u32,
    /// Likewise.
    pub unclassified_bytes: u32,
    /// Likewise.
    pub unclassified_packets: u32,
}

impl OwnProfile {
    /// What a built-in profile says, under another name.
    pub fn of(name: Name, based_on: Profile) -> Self {
        let mut rule = Rule::default();
        based_on.fill(&mut rule);
        let listed = |list: &[u16]| -> Vec<u16> {
            let listed = list.iter().copied();
            listed.take_while(|number| *number != 0).collect()
        };
        let protocols = SPOKEN.iter().filter(|(_, bit, _)| rule.accepts(*bit));
        Self {
            name,
            based_on,
            protocols: protocols.map(|(_, bit, _)| Protocol(*bit)).collect(),
            tls_min: if rule.tls_min == tls::TLS_1_3 {
                TlsMin::V1_3
            } else {
                TlsMin::V1_2
            },
            suites: listed(&rule.suites).into_iter().map(Suite).collect(),
            groups: listed(&rule.groups).into_iter().map(Group).collect(),
            group_required: rule.accepts(accept::GROUP_REQUIRED),
            early_data: rule.accepts(accept::EARLY_DATA),
            overlays: if rule.accepts(accept::OVERLAYS) {
                Overlays::Inspect
            } else {
                Overlays::Refuse
            },
            unverified_bytes: Encryption::UNVERIFIED_BYTES,
            unclassified_bytes: 0,
            unclassified_packets: 0,
        }
    }

    /// Writes into a rule what is accepted.
    pub fn fill(&self, rule: &mut Rule) {
        for protocol in &self.protocols {
            rule.accepts |= protocol.0;
        }
        for (is, bit) in [
            (self.group_required, accept::GROUP_REQUIRED),
            (self.early_data, accept::EARLY_DATA),
            (self.overlays == Overlays::Inspect, accept::OVERLAYS),
        ] {
            rule.accepts |= if is { bit } else { 0 };
        }
        rule.tls_min = match self.tls_min {
            TlsMin::V1_2 => tls::TLS_1_2,
            TlsMin::V1_3 => tls::TLS_1_3,
        };
        for (place, suite) in rule.suites.iter_mut().zip(&self.suites) {
            *place = suite.0;
        }
        for (place, group) in rule.groups.iter_mut().zip(&self.groups) {
            *place = group.0;
        }
    }

    /// What it says, in words.
    pub fn words(&self) -> String {
        let mut said: Vec<String> = Vec::new();
        let named = |what: &str, names: Vec<String>| match names.as_slice() {
            [one] => format!("the {what} {one}"),
            [first, .., last] if names.len() > 3 => {
                format!("{} {what}s from {first} to {last}", names.len())
            }
            _ => format!("the {what}s {}", names.join(", ")),
        };
        for (_, bit, words) in SPOKEN {
            if !self.protocols.contains(&Protocol(bit)) {
                continue;
            }
            if bit != accept::TLS {
                said.push(words.to_owned());
                continue;
            }
            let suites = self.suites.iter().map(ToString::to_string).collect();
            let groups = self.groups.iter().map(ToString::to_string).collect();
            said.push(format!(
                "TLS {} with {} and {}{}{}",
                match self.tls_min {
                    TlsMin::V1_2 => "1.2 and 1.3",
                    TlsMin::V1_3 => "1.3",
                },
                named("suite", suites),
                named("group", groups),
                if self.group_required {
                    ", one of which must be named"
                } else {
                    ""
                },
                if self.early_data {
                    ", early data allowed"
                } else {
                    ""
                }
            ));
        }
        if self.overlays == Overlays::Inspect {
            said.push("and the same inside VXLAN, Geneve, GRE and IP in IP".into());
        }
        said.join(", ")
    }
}

/// The profile of a rule, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// A built-in one.
    BuiltIn(Profile),
    /// One of the file.
    Own(Name),
}

impl Default for Accepts {
    fn default() -> Self {
        Self::BuiltIn(Profile::default())
    }
}

impl Accepts {
    /// The word in the file.
    pub fn as_str(&self) -> &str {
        match self {
            Self::BuiltIn(profile) => profile.as_str(),
            Self::Own(name) => name.as_str(),
        }
    }
}

impl FromStr for Accepts {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match Profile::from_str(text) {
            Ok(profile) => Ok(Self::BuiltIn(profile)),
            Err(unknown) => Name::from_str(text).map(Self::Own).map_err(|_| unknown),
        }
    }
}

impl Config {
    /// The profile of the file with this name.
    pub fn own_profile(&self, name: &Name) -> Option<&OwnProfile> {
        let profiles = self.encryption_profiles.iter();
        let mut profiles = profiles.filter(|profile| profile.name == *name);
        profiles.next()
    }

    /// Writes into `rule` what a rule's profile accepts. A name that resolves nowhere, of which this configuration has none,
    /// accepts nothing.
    pub fn fill(&self, profile: &Accepts, rule: &mut Rule) {
        match profile {
            Accepts::BuiltIn(profile) => profile.fill(rule),
            Accepts::Own(name) => {
                if let Some(own) = self.own_profile(name) {
                    own.fill(rule);
                }
            }
        }
    }

    /// What a rule's profile says, in words.
    pub fn profile_words(&self, profile: &Accepts) -> String {
        match profile {
            Accepts::BuiltIn(profile) => profile.words().to_owned(),
            Accepts::Own(name) => self
                .own_profile(name)
                .map_or_else(|| "nothing".to_owned(), OwnProfile::words),
        }
    }
}

/// A profile as the file has it.
pub(super) struct DraftProfile {
    pub name: Field<Name>,
    based_on: Field<Profile>,
    protocols: Option<List<Protocol>>,
    tls_min: Field<TlsMin>,
    suites: Option<List<Suite>>,
    groups: Option<List<Group>>,
    group_required: Field<bool>,
    early_data: Field<bool>,
    overlays: Field<Overlays>,
    unverified_bytes: Field<u32>,
    unclassified_bytes: Field<u32>,
    unclassified_packets: Field<u32>,
}

impl DraftProfile {
    /// A profile that was checked before.
    pub fn of(profile: &OwnProfile) -> Self {
        Self {
            name: Field::of(profile.name.clone()),
            based_on: Field::of(profile.based_on),
            protocols: Some(List::of(&profile.protocols)),
            tls_min: Field::of(profile.tls_min),
            suites: Some(List::of(&profile.suites)),
            groups: Some(List::of(&profile.groups)),
            group_required: Field::of(profile.group_required),
            early_data: Field::of(profile.early_data),
            overlays: Field::of(profile.overlays),
            unverified_bytes: Field::of(profile.unverified_bytes),
            unclassified_bytes: Field::of(profile.unclassified_bytes),
            unclassified_packets: Field::of(profile.unclassified_packets),
        }
    }

    /// The profile; `None` if a value of it was refused.
    pub fn build(self) -> Option<OwnProfile> {
        let base = OwnProfile::of(self.name.required()?, self.based_on.required()?);
        Some(OwnProfile {
            protocols: or(self.protocols, base.protocols)?,
            tls_min: self.tls_min.or(base.tls_min)?,
            suites: or(self.suites, base.suites)?,
            groups: or(self.groups, base.groups)?,
            group_required: self.group_required.or(base.group_required)?,
            early_data: self.early_data.or(base.early_data)?,
            overlays: self.overlays.or(base.overlays)?,
            unverified_bytes: self.unverified_bytes.or(base.unverified_bytes)?,
            unclassified_bytes: self.unclassified_bytes.or(base.unclassified_bytes)?,
            unclassified_packets: self.unclassified_packets.or(base.unclassified_packets)?,
            name: base.name,
            based_on: base.based_on,
        })
    }
}

fn or<T: Clone>(list: Option<List<T>>, of_the_base: Vec<T>) -> Option<Vec<T>> {
    match list {
        Some(list) => list.values(),
        None => Some(of_the_base),
    }
}

/// Reads one.
pub(super) fn read(table: (&DeTable<'_>, At), faults: &mut Faults<'_>) -> DraftProfile {
    let has = |key: Key| table.0.contains_key(key.name);
    let written = [PROTOCOLS, SUITE_LIST, GROUP_LIST].map(has);
    let header = ("encryption_profile", "[[encryption_profile]]");
    let mut profile = Reader::open(table, header, &KEYS, faults);
    let name = profile.text(NAME, Name::from_str);
    let based_on = profile.text(BASED_ON, Profile::from_str);
    let protocols = profile.texts(PROTOCOLS, Protocol::from_str);
    let suites = profile.texts(SUITE_LIST, Suite::from_str);
    let groups = profile.texts(GROUP_LIST, Group::from_str);
    DraftProfile {
        name: profile.required(NAME, name),
        based_on: profile.required(BASED_ON, based_on),
        protocols: written[0].then_some(protocols),
        tls_min: profile.text(TLS_MIN, TlsMin::from_str),
        suites: written[1].then_some(suites),
        groups: written[2].then_some(groups),
        group_required: profile.boolean(GROUP_REQUIRED),
        early_data: profile.boolean(EARLY_DATA),
        overlays: profile.text(OVERLAYS, Overlays::from_str),
        unverified_bytes: profile.integer(UNVERIFIED_BYTES, Encryption::UNVERIFIED_RANGE),
        unclassified_bytes: profile.integer(UNCLASSIFIED_BYTES, 0..=65_536),
        unclassified_packets: profile.integer(UNCLASSIFIED_PACKETS, 0..=255),
    }
}

/// Reports names that are taken, lists that are empty, too long, or name something twice, and rules whose profile
/// is nowhere.
pub(super) fn check(profiles: &[DraftProfile], rules: &[DraftEncryption], faults: &mut Faults<'_>) {
    let mut seen: HashMap<&Name, At> = HashMap::new();
    for profile in profiles {
        if let Some(name) = profile.name.get() {
            if Profile::from_str(name.value.as_str()).is_ok() {
                let message = format!(
                    "the profile `{}` is built in; choose another name",
                    name.value
                );
                faults.add(name.at, message);
            } else if let Some(first) = seen.insert(&name.value, name.at) {
                let line = faults.line_note(first);
                let message = format!(
                    "there is a profile `{}` already{line}; choose another name",
                    name.value
                );
                faults.add(name.at, message);
            }
        }
        check_list(PROTOCOLS, &profile.protocols, SPOKEN.len(), faults);
        check_list(SUITE_LIST, &profile.suites, SUITES, faults);
        check_list(GROUP_LIST, &profile.groups, GROUPS, faults);
    }
    for rule in rules {
        if let Some(Located {
            value: Accepts::Own(name),
            at,
        }) = rule.profile.get()
            && !seen.contains_key(name)
        {
            let built_in = Profile::ALL.map(Profile::as_str);
            let own = profiles.iter().filter_map(|profile| profile.name.value());
            let names: Vec<&str> = built_in
                .into_iter()
                .chain(own.map(Name::as_str))
                .take(12)
                .collect();
            let message = format!(
                "there is no profile {}; write one of {}",
                shown(name.as_str()),
                names.join(" ")
            );
            faults.add(*at, message);
        }
    }
}

fn check_list<T: Display + Eq + Hash>(
    key: Key,
    list: &Option<List<T>>,
    room: usize,
    faults: &mut Faults<'_>,
) {
    let Some(list) = list else {
        return;
    };
    let Key { name, example, .. } = key;
    if list.items.is_empty() && !list.bad {
        let message = format!(
            "`{name}` is empty: nothing would pass; write {name} = {example}, or leave it out for those of `based_on`"
        );
        faults.add(list.at, message);
    }
    let mut seen = HashSet::new();
    for item in &list.items {
        if !seen.insert(&item.value) {
            let message = format!("`{}` is named twice; keep one", item.value);
            faults.add(item.at, message);
        }
    }
    if let Some(item) = list.items.get(room) {
        let message = format!("there is room for {room} `{name}`; leave one out");
        faults.add(item.at, message);
    }
}
