//! Encryption that the host provides: what goes to another host's underlay addresses goes through a tunnel whose keys are
//! this host's, or not at all.
//!
//! A tunnel's peers have addresses that nothing but overlays is sent to. Routes to them lead into the tunnel's devices;
//! behind each stands one that leads nowhere, so that a tunnel that is gone sends nothing. The uplinks' guard
//! ([`crate::policy::ClearOverlays`]) holds what leaves in spite of that.
//!
//! Invariants
//! - The route that leads nowhere is made before everything else of a peer, and goes last.
//! - Private keys are drawn here, given to the kernel, and kept nowhere else: in no file, log or answer.
//! - What was made can be told from the kernel alone (`MARK`, `link::PROTOCOL`): a new daemon goes on with it.

mod follow;
pub mod law;
mod link;
mod wireguard;

pub use follow::{PeerStatus, Provided, Providing, SideStatus};
pub use law::Side;

use crate::{Result, policy::Prefix};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// What the alias of a device begins with that was made here.
pub(crate) const MARK: &str = "octroi provide ";

/// A public key of X25519.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Key(pub [u8; 32]);

impl fmt::Display for Key {
    /// As `wg` shows it: base64.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl std::str::FromStr for Key {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let bytes = STANDARD.decode(text).ok();
        let bytes: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("no 32 bytes in base64")
    }
}

impl TryFrom<String> for Key {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

/// Another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it is called.
    pub name: String,
    /// Where its first side listens; its second one at the next port.
    pub endpoint: SocketAddr,
    /// Its underlay addresses.
    pub addresses: Vec<Prefix>,
    /// Its public keys, by side; `None`: not known yet.
    pub keys: [Option<Key>; 2],
}

/// A tunnel to other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// What it is called.
    pub name: String,
    /// What the names of its devices begin with: `a` or `b` follows.
    pub device: String,
    /// Where its first side listens; its second one at the next port.
    pub listen_port: u16,
    /// The underlay address of this host.
    pub address: IpAddr,
    /// How long a side carries what leaves; `None`: keys stay.
    pub rotate: Option<Duration>,
    /// The other hosts.
    pub peers: Vec<Peer>,
}

impl Tunnel {
    /// Name of the device of a side.
    pub fn device_of(&self, side: Side) -> String {
        format!("{}{}", self.device, side.letter())
    }

    /// Where a side listens.
    pub fn port_of(&self, side: Side) -> u16 {
        self.listen_port.saturating_add(side as u16)
    }
}

/// What the kernel says of a peer on one side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Its public key.
    pub key: Option<Key>,
    /// When the last handshake was, Unix seconds; 0: never.
    pub handshake_s: u64,
    /// Bytes received and sent, encrypted ones.
    pub received: u64,
    /// See above.
    pub sent: u64,
}

/// One side of a tunnel, as it stands in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Index of the device that carries it.
    pub ifindex: u32,
    /// The device was made a moment ago, with a new key.
    pub made: bool,
    /// This host's public key.
    pub public_key: Key,
    /// When it was drawn, Unix seconds.
    pub since_s: u64,
    /// The peers that it knows.
    pub peers: Vec<Heard>,
}

/// A way to encrypt what leaves for peers: WireGuard; XFRM is to be another.
///
/// A side is a device into which routes lead, with a key of its own. Nobody but the provider knows what is behind it.
pub trait Provider: Send {
    /// What it is called, and with which algorithms.
    fn name(&self) -> &'static str;

    /// Begins a round: reads what is there of all tunnels, once. What is asked below is answered from that.
    ///
    /// # Errors
    /// What the kernel refused.
    fn look(&mut self) -> Result<()>;

    /// Makes the kernel have a side as the tunnel wants it, with a new key if it has none. Changes nothing that is right:
    /// a session that stands goes on.
    ///
    /// # Errors
    /// What the kernel refused.
    fn settle(&mut self, tunnel: &Tunnel, side: Side) -> Result<Standing>;

    /// Draws a new key for a side. Sessions with the old one end at once, in both directions: nobody is heard by them.
    ///
    /// # Errors
    /// What the kernel refused.
    fn renew(&mut self, tunnel: &Tunnel, side: Side) -> Result<()>;

    /// Takes all sides out of the kernel that are of none of these tunnels, and names them.
    ///
    /// # Errors
    /// What the kernel refused.
    fn clear(&mut self, but: &[Tunnel]) -> Result<Vec<String>>;
}

/// Takes everything out of the kernel that was made here.
///
/// # Errors
/// [`crate::Error::Provide`].
pub fn remove_all() -> Result<()> {
    Provided::open()?.follow(&[]).map(drop)
}
