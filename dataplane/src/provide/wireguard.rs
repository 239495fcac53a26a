//! The kernel's WireGuard, by generic netlink.
//!
//! Each side is a device of kind `wireguard`. When its key was drawn stands in its alias: the kernel keeps it as long as it
//! keeps the key, and no file can disagree.

use super::{Heard, Key, MARK, Peer, Provider, Side, Standing, Tunnel, law, link::Device};
use crate::{
    Error, Result,
    policy::Prefix,
    shaping::rtnl::{Refusal, Rtnl},
};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
    WireguardCmd, WireguardDeviceFlags, WireguardMessage, WireguardPeer, WireguardPeerAttribute,
    WireguardPeerFlags,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr as Endpoint},
    time::{SystemTime, UNIX_EPOCH},
};

/// What the kernel names the kind of device.
const KIND: &str = "wireguard";

/// Sides that are WireGuard devices.
pub(crate) struct Wireguard {
    rtnl: Rtnl,
    /// Where each peer of a device was last told to be: the kernel itself follows a peer that moves.
    told: BTreeMap<(String, Key), Endpoint>,
    /// Of this round: the devices that were made here, and all addresses by device.
    devices: Vec<Device>,
    addresses: Vec<(u32, IpAddr)>,
    family: Family,
}

/// A device as the kernel has it.
#[derive(Debug, Default)]
struct Found {
    public_key: Option<Key>,
    port: u16,
    peers: Vec<FoundPeer>,
}

#[derive(Debug, Default)]
struct FoundPeer {
    heard: Heard,
    allowed: Vec<Prefix>,
    keepalive_s: u16,
}

pub(super) fn unix_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

fn failed(device: &str, reason: impl std::fmt::Display) -> Error {
    Error::Provide {
        tunnel: device.to_owned(),
        reason: reason.to_string(),
    }
}

impl Wireguard {
    /// # Errors
    /// [`Error::Netlink`].
    pub(super) fn open() -> Result<Self> {
        let rtnl = Rtnl::open().map_err(|refusal| Error::Netlink(refusal.to_string()))?;
        Ok(Self {
            rtnl,
            told: BTreeMap::new(),
            devices: Vec::new(),
            addresses: Vec::new(),
            family: Family::default(),
        })
    }

    /// The device of that name, made where there is none.
    fn device(&mut self, name: &str) -> Result<(Device, bool)> {
        if let Some(known) = self.devices.iter().find(|device| device.name == name) {
            return Ok((known.clone(), false));
        }
        let made = self.rtnl.add_link(name, KIND);
        match made {
            Ok(()) => {}
            // Somebody else's; or of a daemon that was killed before it could mark it, and then it has no key.
            Err(Refusal { code, .. }) if code == libc::EEXIST => {
                let found = self.family.get(name).map_err(|error| failed(name, error))?;
                if found.public_key.is_some() {
                    let reason = "there is an interface of this name that octroi did not make; write another `device` in [[provide]]";
                    return Err(failed(name, reason));
                }
            }
            Err(refusal) if refusal.code == libc::EOPNOTSUPP => {
                let reason = format!("this kernel has no WireGuard ({refusal}); load its module");
                return Err(failed(name, reason));
            }
            Err(refusal) => return Err(failed(name, refusal)),
        }
        let Some(ifindex) = crate::netlink::index(name) else {
            return Err(failed(name, "the device is gone"));
        };
        let device = Device {
            ifindex,
            name: name.to_owned(),
            up: false,
            says: String::new(),
        };
        self.devices.push(device.clone());
        Ok((device, true))
    }

    /// Gives the device a key that nobody has seen, and notes when. Its peers go with the old one, and are made again by the next
    /// [`Provider::settle`]: Linux ends with a key what is sent by its sessions (`wg_noise_expire_current_peer_keypairs`), and receives by
    /// them for three minutes more, in which a peer that does not know the new key would seem to be heard.
    fn draw(&mut self, tunnel: &Tunnel, side: Side, ifindex: u32) -> Result<u64> {
        let name = tunnel.device_of(side);
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| failed(&name, error))?;
        // As curve25519 wants it (RFC 7748 §5); the kernel does the same.
        key[0] &= 248;
        key[31] = key[31] & 127 | 64;
        let drawn = vec![
            WireguardAttribute::Flags(WireguardDeviceFlags::ReplacePeers),
            WireguardAttribute::PrivateKey(key),
        ];
        let set = self.family.set(&name, drawn);
        key.fill(0);
        set.map_err(|error| failed(&name, error))?;
        let since_s = unix_s();
        self.mark(tunnel, side, ifindex, since_s)?;
        Ok(since_s)
    }

    fn mark(&mut self, tunnel: &Tunnel, side: Side, ifindex: u32, since_s: u64) -> Result<()> {
        let says = format!("{} {} {since_s}", tunnel.name, side.letter());
        let marked = self.rtnl.mark(ifindex, &says);
        marked.map_err(|refusal| failed(&tunnel.device_of(side), refusal))
    }

    /// Makes the device know whom the tunnel names, and nobody else.
    fn settle_peers(&mut self, tunnel: &Tunnel, side: Side, found: &Found) -> io::Result<bool> {
        let name = tunnel.device_of(side);
        let of = |peer: &Peer| peer.keys[side as usize];
        let wanted: BTreeMap<Key, &Peer> = tunnel
            .peers
            .iter()
            .filter_map(|peer| Some((of(peer)?, peer)))
            .collect();
        let mut changed = false;
        // First those who go: an address belongs to one peer.
        for gone in found.peers.iter().filter_map(|peer| peer.heard.key) {
            if !wanted.contains_key(&gone) {
                let peer = WireguardPeer(vec![
                    WireguardPeerAttribute::PublicKey(gone.0),
                    WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
                ]);
                let peers = vec![WireguardAttribute::Peers(vec![peer])];
                self.family.set(&name, peers)?;
                self.told.remove(&(name.clone(), gone));
                changed = true;
            }
        }
        for (key, peer) in wanted {
            let mut endpoint = peer.endpoint;
            endpoint.set_port(endpoint.port().saturating_add(side as u16));
            let told = self.told.get(&(name.clone(), key)) == Some(&endpoint);
            let known = found.peers.iter().any(|known| {
                known.heard.key == Some(key)
                    && known.keepalive_s == law::KEEPALIVE_S
                    && same(&known.allowed, &peer.addresses)
            });
            if told && known {
                continue;
            }
            let wanted = WireguardPeer(vec![
                WireguardPeerAttribute::PublicKey(key.0),
                WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
                WireguardPeerAttribute::Endpoint(endpoint),
                WireguardPeerAttribute::PersistentKeepalive(law::KEEPALIVE_S),
                WireguardPeerAttribute::AllowedIps(peer.addresses.iter().map(allowed).collect()),
            ]);
            let peers = vec![WireguardAttribute::Peers(vec![wanted])];
            self.family.set(&name, peers)?;
            self.told.insert((name.clone(), key), endpoint);
            changed = true;
        }
        Ok(changed)
    }
}

impl Provider for Wireguard {
    fn name(&self) -> &'static str {
        "WireGuard (Curve25519, ChaCha20-Poly1305, BLAKE2s)"
    }

    fn look(&mut self) -> Result<()> {
        let failed = |refusal: Refusal| Error::Netlink(refusal.to_string());
        self.devices = self.rtnl.provided().map_err(failed)?;
        self.addresses = self.rtnl.addresses().map_err(failed)?;
        Ok(())
    }

    fn settle(&mut self, tunnel: &Tunnel, side: Side) -> Result<Standing> {
        let name = tunnel.device_of(side);
        let (device, made) = self.device(&name)?;
        let ifindex = device.ifindex;
        let why = |error: io::Error| failed(&name, error);
        let mut found = self.family.get(&name).map_err(why)?;
        let mark = format!("{} {} ", tunnel.name, side.letter());
        let noted = device.says.strip_prefix(&mark);
        let since_s = match (found.public_key, noted.and_then(|since| since.parse().ok())) {
            (Some(_), Some(since_s)) => since_s,
            (Some(_), None) => {
                let since_s = unix_s();
                self.mark(tunnel, side, ifindex, since_s)?;
                since_s
            }
            (None, _) => self.draw(tunnel, side, ifindex)?,
        };
        let port = tunnel.port_of(side);
        if found.port != port {
            let listens = vec![WireguardAttribute::ListenPort(port)];
            self.family.set(&name, listens).map_err(|error| {
                let reason = format!("UDP port {port}: {error}; write another `listen_port`");
                failed(&name, reason)
            })?;
        }
        let changed = self.settle_peers(tunnel, side, &found).map_err(why)?;
        if changed || found.public_key.is_none() {
            found = self.family.get(&name).map_err(why)?;
        }
        let refused = |refusal: Refusal| failed(&name, refusal);
        if !self.addresses.contains(&(ifindex, tunnel.address)) {
            self.rtnl
                .give_address(ifindex, tunnel.address)
                .map_err(refused)?;
        }
        if !device.up && !made {
            self.rtnl.set_up(ifindex).map_err(refused)?;
        }
        let Some(public_key) = found.public_key else {
            return Err(failed(&name, "the kernel has no key"));
        };
        Ok(Standing {
            ifindex,
            made,
            public_key,
            since_s,
            peers: found.peers.into_iter().map(|peer| peer.heard).collect(),
        })
    }

    fn renew(&mut self, tunnel: &Tunnel, side: Side) -> Result<()> {
        let (device, _) = self.device(&tunnel.device_of(side))?;
        self.draw(tunnel, side, device.ifindex).map(drop)
    }

    fn clear(&mut self, but: &[Tunnel]) -> Result<Vec<String>> {
        let kept: Vec<String> = but
            .iter()
            .flat_map(|tunnel| Side::BOTH.map(|side| tunnel.device_of(side)))
            .collect();
        let mut gone = Vec::new();
        for device in std::mem::take(&mut self.devices) {
            if !kept.contains(&device.name) {
                let deleted = self.rtnl.delete_link(device.ifindex);
                deleted.map_err(|refusal| failed(&device.name, refusal))?;
                self.told.retain(|(of, _), _| *of != device.name);
                gone.push(device.name);
            }
        }
        Ok(gone)
    }
}

/// The same prefixes, in whatever order.
fn same(one: &[Prefix], other: &[Prefix]) -> bool {
    one.len() == other.len() && one.iter().all(|prefix| other.contains(prefix))
}

fn allowed(prefix: &Prefix) -> WireguardAllowedIp {
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(match prefix.address {
            IpAddr::V4(_) => WireguardAddressFamily::Ipv4,
            IpAddr::V6(_) => WireguardAddressFamily::Ipv6,
        }),
        WireguardAllowedIpAttr::IpAddr(prefix.address),
        WireguardAllowedIpAttr::Cidr(prefix.len),
    ])
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Asks, and hands on every message of the answer.
fn ask<T: std::fmt::Debug>(
    payload: GenlMessage<T>,
    flags: u16,
    mut each: impl FnMut(GenlMessage<T>),
) -> io::Result<()>
where
    GenlMessage<T>: NetlinkSerializable + NetlinkDeserializable + std::fmt::Debug,
{
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = NetlinkMessage::from(payload);
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = 1;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let sent = socket.send(&bytes, 0);
    // It may have held a private key.
    bytes.fill(0);
    sent?;
    loop {
        let (packet, _) = socket.recv_from_full()?;
        let mut rest = packet.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<GenlMessage<T>>::deserialize(rest).map_err(invalid)?;
            let len = (message.header.length as usize).next_multiple_of(4);
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(inner) => {
                    each(inner);
                    if flags & (NLM_F_DUMP | NLM_F_ACK) == 0 {
                        return Ok(());
                    }
                }
                _ => {}
            }
            rest = rest.get(len.max(16)..).unwrap_or_default();
        }
    }
}

/// The number that the kernel gave to the family, once it was asked.
#[derive(Debug, Default)]
struct Family(Option<u16>);

impl Family {
    fn number(&mut self) -> io::Result<u16> {
        if let Some(number) = self.0 {
            return Ok(number);
        }
        let request = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(KIND.into())],
        });
        ask(request, 0, |answer| {
            self.0 = answer.payload.nlas.iter().find_map(|nla| match nla {
                GenlCtrlAttrs::FamilyId(id) => Some(*id),
                _ => None,
            });
        })?;
        self.0
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }

    fn ask(
        &mut self,
        cmd: WireguardCmd,
        attributes: Vec<WireguardAttribute>,
        flags: u16,
        each: impl FnMut(GenlMessage<WireguardMessage>),
    ) -> io::Result<()> {
        let mut message = GenlMessage::from_payload(WireguardMessage { cmd, attributes });
        message.set_resolved_family_id(self.number()?);
        ask(message, flags, each).inspect_err(|_| {
            // A module that was taken out and loaded again has another number.
            self.0 = None;
        })
    }

    fn set(&mut self, device: &str, more: Vec<WireguardAttribute>) -> io::Result<()> {
        let mut attributes = vec![WireguardAttribute::IfName(device.to_owned())];
        attributes.extend(more);
        self.ask(WireguardCmd::SetDevice, attributes, NLM_F_ACK, |_| ())
    }

    /// Reads a device. Its private key comes along, and goes no further.
    fn get(&mut self, device: &str) -> io::Result<Found> {
        let name = vec![WireguardAttribute::IfName(device.to_owned())];
        let mut found = Found::default();
        self.ask(WireguardCmd::GetDevice, name, NLM_F_DUMP, |part| {
            for attribute in part.payload.attributes {
                match attribute {
                    WireguardAttribute::PublicKey(key) => found.public_key = Some(Key(key)),
                    WireguardAttribute::ListenPort(port) => found.port = port,
                    WireguardAttribute::Peers(peers) => {
                        peers.into_iter().for_each(|peer| found.add(peer));
                    }
                    _ => {}
                }
            }
        })?;
        Ok(found)
    }
}

impl Found {
    /// A peer with many addresses comes in several messages.
    fn add(&mut self, peer: WireguardPeer) {
        let mut next = FoundPeer::default();
        for attribute in peer.0 {
            match attribute {
                WireguardPeerAttribute::PublicKey(key) => next.heard.key = Some(Key(key)),
                WireguardPeerAttribute::LastHandshake(at) => {
                    next.heard.handshake_s = u64::try_from(at.seconds).unwrap_or(0);
                }
                WireguardPeerAttribute::RxBytes(bytes) => next.heard.received = bytes,
                WireguardPeerAttribute::TxBytes(bytes) => next.heard.sent = bytes,
                WireguardPeerAttribute::PersistentKeepalive(seconds) => next.keepalive_s = seconds,
                WireguardPeerAttribute::AllowedIps(addresses) => {
                    next.allowed
                        .extend(addresses.into_iter().filter_map(read_prefix));
                }
                _ => {}
            }
        }
        match self.peers.last_mut() {
            Some(last) if last.heard.key == next.heard.key => last.allowed.extend(next.allowed),
            _ => self.peers.push(next),
        }
    }
}

fn read_prefix(allowed: WireguardAllowedIp) -> Option<Prefix> {
    let (mut address, mut len) = (None, None);
    for attribute in allowed.0 {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(is) => address = Some(is),
            WireguardAllowedIpAttr::Cidr(is) => len = Some(is),
            _ => {}
        }
    }
    Some(Prefix {
        address: address?,
        len: len?,
    })
}

const _: () = {
    // An alias that the kernel takes (IFALIASZ).
    assert!(MARK.len() + 64 + 2 + 20 < 256);
};
