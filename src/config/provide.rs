//! `[[provide]]`: tunnels to other hosts, whose keys are this host's.

use super::{
    draft::{Draft, Field, List},
    errors::{At, Faults, Located},
    file::{header, key},
    model::ClearOverlays,
    reader::{Key, Reader},
    sink::Written,
    values::{Cidr, InterfaceName, Name, ValueError, shown},
};
use dataplane::provide::{Key as PublicKey, law};
use std::{
    collections::HashMap,
    fmt::{self, Display, Formatter},
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};
use toml::de::DeTable;

pub(super) const PROVIDE: Key = header("provide", "[[provide]]");
const NAME: Key = key("name", "\"fabric\"");
const DEVICE: Key = key("device", "\"oct-fab\"");
const LISTEN_PORT: Key = key("listen_port", "51820");
const ADDRESS: Key = key("address", "\"198.51.100.1\"");
const ROTATE: Key = key("rotate", "\"24h\"");
const PEERS: Key = header("peers", "[[provide.peers]]");
const KEYS: [Key; 6] = [NAME, DEVICE, LISTEN_PORT, ADDRESS, ROTATE, PEERS];
const PEER_NAME: Key = key("name", "\"host-2\"");
const ENDPOINT: Key = key("endpoint", "\"192.0.2.2:51820\"");
const ADDRESSES: Key = key("addresses", "[\"198.51.100.2\"]");
const PEER_KEYS: Key = key("keys", "[\"…\", \"…\"]");
const PEER_ALL: [Key; 4] = [PEER_NAME, ENDPOINT, ADDRESSES, PEER_KEYS];

/// Longest time between two turns.
const ROTATE_MAX: Duration = Duration::from_secs(366 * 86_400);

/// A tunnel to other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provide {
    /// What it is called.
    pub name: Name,
    /// What the names of its two devices begin with, at most 14 bytes.
    pub device: InterfaceName,
    /// UDP port of its first side, 1..=65534; the second one listens at the next.
    pub listen_port: u16,
    /// Underlay address of this host.
    pub address: IpAddr,
    /// How long a side carries what leaves, 60 s ..= 366 d; `None`: keys stay.
    pub rotate: Option<Duration>,
    /// The other hosts, in file order.
    pub peers: Vec<Peer>,
}

/// Another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it is called.
    pub name: Name,
    /// Where its first side listens; its second one at the next port.
    pub endpoint: SocketAddr,
    /// Its underlay addresses, at least one.
    pub addresses: Vec<Cidr>,
    /// Its public keys, by side; `None`: not known yet.
    pub keys: [Option<PublicKey>; 2],
}

/// A key in the file: empty where it is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MaybeKey(Option<PublicKey>);

impl FromStr for MaybeKey {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        // What is wrong is not shown: it may be a private key.
        let key = text.parse().map_err(|_| {
            ValueError(
                "this is no public key; write the 44 characters that `octroi provide` shows on the other host, \
                 or \"\" while it is not known"
                    .into(),
            )
        })?;
        Ok(Self(Some(key)))
    }
}

impl Display for MaybeKey {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |key| Display::fmt(&key, out))
    }
}

/// Reads a number of seconds, hours or days.
fn rotate(text: &str) -> Result<Duration, ValueError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "s" => Some(1),
        "h" => Some(3_600),
        "d" => Some(86_400),
        _ => None,
    };
    let number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.then(|| digits.parse::<u64>().ok()).flatten();
    let seconds = number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit));
    let time = seconds.map(Duration::from_secs);
    match time.filter(|time| (law::ROTATE_MIN..=ROTATE_MAX).contains(time)) {
        Some(time) => Ok(time),
        None => Err(ValueError(format!(
            "{} is no time between two keys; write 60s to 366d, such as 24h",
            shown(text)
        ))),
    }
}

fn device(text: &str) -> Result<InterfaceName, ValueError> {
    if text.len() > 14 {
        return Err(ValueError(format!(
            "{} leaves no room for the `a` and `b` of its two devices; write at most 14 bytes",
            shown(text)
        )));
    }
    text.parse()
}

fn unicast(text: &str) -> Result<IpAddr, ValueError> {
    let address: Option<IpAddr> = text.parse().ok();
    let legal = |address: &IpAddr| {
        !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
    };
    address.filter(legal).ok_or_else(|| {
        ValueError(format!(
            "{} is no address that a host can have; write one such as 198.51.100.1",
            shown(text)
        ))
    })
}

fn endpoint(text: &str) -> Result<SocketAddr, ValueError> {
    let endpoint: Option<SocketAddr> = text.parse().ok();
    let legal = |endpoint: &SocketAddr| {
        (1..u16::MAX).contains(&endpoint.port()) && unicast(&endpoint.ip().to_string()).is_ok()
    };
    endpoint.filter(legal).ok_or_else(|| {
        ValueError(format!(
            "{} is no endpoint; write an address and a port, 1 to 65534, such as 192.0.2.2:51820",
            shown(text)
        ))
    })
}

/// A tunnel as the file has it.
pub(super) struct DraftProvide {
    at: At,
    name: Field<Name>,
    device: Field<InterfaceName>,
    listen_port: Field<u16>,
    address: Field<IpAddr>,
    rotate: Field<Duration>,
    peers: Vec<DraftPeer>,
    complete: bool,
}

struct DraftPeer {
    at: At,
    name: Field<Name>,
    endpoint: Field<SocketAddr>,
    addresses: List<Cidr>,
    keys: List<MaybeKey>,
}

impl DraftProvide {
    /// One that was checked before.
    pub fn of(tunnel: &Provide) -> Self {
        let peer = |peer: &Peer| DraftPeer {
            at: At::NOWHERE,
            name: Field::of(peer.name.clone()),
            endpoint: Field::of(peer.endpoint),
            addresses: List::of(&peer.addresses),
            keys: List::of(&peer.keys.map(MaybeKey)),
        };
        Self {
            at: At::NOWHERE,
            name: Field::of(tunnel.name.clone()),
            device: Field::of(tunnel.device.clone()),
            listen_port: Field::of(tunnel.listen_port),
            address: Field::of(tunnel.address),
            rotate: Field::of_optional(tunnel.rotate),
            peers: tunnel.peers.iter().map(peer).collect(),
            complete: true,
        }
    }

    /// The tunnel; `None` if a value of it was refused.
    pub fn build(self) -> Option<Provide> {
        let peer = |peer: DraftPeer| {
            let keys = peer.keys.values()?;
            let key = |at: usize| keys.get(at).and_then(|key| key.0);
            Some(Peer {
                name: peer.name.required()?,
                endpoint: peer.endpoint.required()?,
                addresses: peer.addresses.values()?,
                keys: [key(0), key(1)],
            })
        };
        let peers: Option<Vec<Peer>> = self.peers.into_iter().map(peer).collect();
        Some(Provide {
            name: self.name.required()?,
            device: self.device.required()?,
            listen_port: self.listen_port.required()?,
            address: self.address.required()?,
            rotate: self.rotate.optional()?,
            peers: peers.filter(|_| self.complete)?,
        })
    }
}

/// Reads one.
pub(super) fn read(table: (&DeTable<'_>, At), faults: &mut Faults<'_>) -> DraftProvide {
    let at = table.1;
    let mut tunnel = Reader::open(table, ("provide", "[[provide]]"), &KEYS, faults);
    let name = tunnel.text(NAME, Name::from_str);
    let device = tunnel.text(DEVICE, device);
    let listen_port = tunnel.integer(LISTEN_PORT, 1..=65_534);
    let address = tunnel.text(ADDRESS, unicast);
    let (peers, complete) = tunnel.sections(PEERS);
    DraftProvide {
        at,
        name: tunnel.required(NAME, name),
        device: tunnel.required(DEVICE, device),
        listen_port: tunnel.required(LISTEN_PORT, listen_port),
        address: tunnel.required(ADDRESS, address),
        rotate: tunnel.text(ROTATE, rotate),
        complete,
        peers: peers
            .into_iter()
            .map(|peer| read_peer(peer, tunnel.faults()))
            .collect(),
    }
}

fn read_peer(table: (&DeTable<'_>, At), faults: &mut Faults<'_>) -> DraftPeer {
    let at = table.1;
    let mut peer = Reader::open(table, ("peer", "[[provide.peers]]"), &PEER_ALL, faults);
    let name = peer.text(PEER_NAME, Name::from_str);
    let endpoint = peer.text(ENDPOINT, endpoint);
    DraftPeer {
        at,
        name: peer.required(PEER_NAME, name),
        endpoint: peer.required(ENDPOINT, endpoint),
        addresses: peer.texts(ADDRESSES, Cidr::from_str),
        keys: peer.texts(PEER_KEYS, MaybeKey::from_str),
    }
}

/// Reports tunnels that cannot stand beside each other or beside the rest, and uplinks that would let out what they protect.
pub(super) fn check(draft: &Draft, faults: &mut Faults<'_>) {
    let tunnels = &draft.provide;
    let mut names = HashMap::new();
    let mut devices = HashMap::new();
    let mut ports: Vec<&Located<u16>> = Vec::new();
    let mut taken: Vec<(Cidr, String)> = Vec::new();
    let interfaces = interfaces(draft);
    for tunnel in tunnels {
        if let Some(name) = tunnel.name.get()
            && names.insert(&name.value, name.at).is_some()
        {
            let message = format!(
                "there is a provide `{}` already; choose another name",
                name.value
            );
            faults.add(name.at, message);
        }
        if let Some(device) = tunnel.device.get() {
            if devices.insert(&device.value, device.at).is_some() {
                let message = format!(
                    "the device `{}` is another tunnel's; choose another",
                    device.value
                );
                faults.add(device.at, message);
            }
            let own = ['a', 'b'].map(|side| format!("{}{side}", device.value));
            if let Some((used, what)) = interfaces.iter().find(|(used, _)| own.contains(used)) {
                let message =
                    format!("the device `{used}` would be made, and {what}; choose another");
                faults.add(device.at, message);
            }
        }
        if let Some(port) = tunnel.listen_port.get() {
            if ports
                .iter()
                .any(|other| other.value.abs_diff(port.value) < 2)
            {
                let message = format!(
                    "`listen_port` {} and the next one are another tunnel's in part; leave two for each",
                    port.value
                );
                faults.add(port.at, message);
            }
            ports.push(port);
        }
        if let Some(own) = tunnel.address.get()
            && let Some(own_cidr) = host_cidr(own.value)
        {
            take(&mut taken, own_cidr, "this host".into(), own.at, faults);
        }
        if tunnel.peers.is_empty() && tunnel.complete {
            let message = "this tunnel has no peers; add [[provide.peers]] behind it";
            faults.add(tunnel.at, message.into());
        }
        check_peers(tunnel, &mut taken, faults);
    }
    if tunnels.is_empty() {
        return;
    }
    for uplink in &draft.uplinks {
        let asked = uplink.clear_overlays.clone().or_default();
        if let (Some(interface), Some(asked)) = (uplink.interface.get(), asked)
            && asked != ClearOverlays::Drop
        {
            let at = uplink
                .clear_overlays
                .get()
                .map_or(interface.at, |asked| asked.at);
            let message = format!(
                "by the uplink `{}` what [[provide]] protects could leave in clear; write clear_overlays = \"drop\"",
                interface.value
            );
            faults.add(at, message);
        }
    }
}

fn check_peers(tunnel: &DraftProvide, taken: &mut Vec<(Cidr, String)>, faults: &mut Faults<'_>) {
    let mut names = HashMap::new();
    let mut keys = HashMap::new();
    for peer in &tunnel.peers {
        let called = peer
            .name
            .value()
            .map_or("a peer".to_owned(), ToString::to_string);
        if let Some(name) = peer.name.get()
            && names.insert(&name.value, name.at).is_some()
        {
            let message = format!(
                "there is a peer `{}` already; choose another name",
                name.value
            );
            faults.add(name.at, message);
        }
        if peer.addresses.items.is_empty() && !peer.addresses.bad {
            let message =
                format!("`{called}` has no addresses; write addresses = [\"198.51.100.2\"]");
            faults.add(peer.at, message);
        }
        for address in &peer.addresses.items {
            take(taken, address.value, called.clone(), address.at, faults);
            let into_itself = peer.endpoint.value().and_then(|to| host_cidr(to.ip()));
            if into_itself.is_some_and(|to| address.value.contains(to)) {
                let message = format!(
                    "the endpoint of `{called}` is in its `addresses`: the tunnel would lead into itself; write the \
                     underlay's own addresses, which nothing else uses"
                );
                faults.add(address.at, message);
            }
            let same = tunnel
                .address
                .value()
                .is_none_or(|own| own.is_ipv4() == address.value.addr().is_ipv4());
            if !same {
                let message = format!(
                    "{} is of another family than this host's `address`; use one of the two in a tunnel",
                    shown(&address.value.to_string())
                );
                faults.add(address.at, message);
            }
        }
        if peer.keys.items.len() > 2 {
            let message = format!(
                "`{called}` has {} keys; write one for each of its two sides",
                peer.keys.items.len()
            );
            faults.add(peer.keys.at, message);
        }
        for key in peer
            .keys
            .items
            .iter()
            .filter_map(|key| Some((key.value.0?, key.at)))
        {
            if keys.insert(key.0, ()).is_some() {
                faults.add(
                    key.1,
                    "this key is written twice; each side of each host has its own".into(),
                );
            }
        }
    }
}

fn host_cidr(address: IpAddr) -> Option<Cidr> {
    Cidr::new(address, if address.is_ipv4() { 32 } else { 128 })
}

fn take(
    taken: &mut Vec<(Cidr, String)>,
    address: Cidr,
    whose: String,
    at: At,
    faults: &mut Faults<'_>,
) {
    if let Some((_, other)) = taken.iter().find(|(known, _)| known.overlaps(address)) {
        let message = format!(
            "{} is {} already; an underlay address leads to one host",
            shown(&address.to_string()),
            if other == "this host" {
                "this host's".into()
            } else {
                format!("`{other}`'s")
            }
        );
        faults.add(at, message);
    }
    taken.push((address, whose));
}

/// Interfaces that somebody else has, and as what.
fn interfaces(draft: &Draft) -> Vec<(String, &'static str)> {
    let mut all = Vec::new();
    for uplink in draft
        .uplinks
        .iter()
        .filter_map(|uplink| uplink.interface.value())
    {
        all.push((uplink.as_str().to_owned(), "is an uplink"));
    }
    for trusted in &draft.host.trusted_interfaces.items {
        all.push((trusted.value.as_str().to_owned(), "is trusted"));
    }
    for port in draft.ports.iter().filter_map(|port| port.interface.value()) {
        all.push((port.as_str().to_owned(), "is a port's"));
    }
    all
}

impl Provide {
    /// The lines of its section.
    pub(super) fn lines(&self) -> Vec<(&'static str, Written)> {
        let mut lines = vec![
            ("name", Written::Text(self.name.to_string())),
            ("device", Written::Text(self.device.to_string())),
            ("listen_port", Written::Number(self.listen_port.into())),
            ("address", Written::Text(self.address.to_string())),
        ];
        if let Some(rotate) = self.rotate {
            lines.push(("rotate", Written::Text(format!("{}s", rotate.as_secs()))));
        }
        lines
    }
}

impl Peer {
    /// The lines of its section.
    pub(super) fn lines(&self) -> Vec<(&'static str, Written)> {
        let addresses = self.addresses.iter().map(ToString::to_string);
        let keys = self.keys.map(|key| MaybeKey(key).to_string());
        vec![
            ("name", Written::Text(self.name.to_string())),
            ("endpoint", Written::Text(self.endpoint.to_string())),
            ("addresses", Written::Texts(addresses.collect())),
            ("keys", Written::Texts(keys.to_vec())),
        ]
    }
}
