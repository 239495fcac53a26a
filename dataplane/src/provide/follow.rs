//! Tunnels and routes follow what is wanted; what was heard decides which side carries.

use super::{
    Heard, Key, Peer, Provider, Side, Standing, Tunnel,
    law::{self, Ear, Use},
    link::Route,
    wireguard::{self, Wireguard},
};
use crate::{
    Error, Result,
    gate::Event,
    host,
    policy::Prefix,
    shaping::rtnl::{Refusal, Rtnl},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What is known of a tunnel.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Providing {
    /// What it is called.
    pub name: String,
    /// What encrypts, with which algorithms, as the kernel has it.
    pub provider: String,
    /// This host's underlay address.
    pub address: String,
    /// Its sides; none while they cannot be made.
    pub sides: Vec<SideStatus>,
    /// The other hosts.
    pub peers: Vec<PeerStatus>,
    /// Why it does not stand; empty: it does.
    #[serde(default)]
    pub error: String,
}

/// What is known of a side.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct SideStatus {
    /// Which.
    pub side: Side,
    /// Its device.
    pub device: String,
    /// UDP port that it listens at.
    pub listen_port: u16,
    /// This host's public key.
    pub public_key: Key,
    /// When it was drawn, Unix seconds.
    pub key_since_s: u64,
}

/// What is known of another host.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct PeerStatus {
    /// What it is called.
    pub name: String,
    /// The side that carries what leaves to it; `None`: nothing leaves.
    pub carries: Option<Side>,
    /// `E4`: it is heard there, by a key of this host's; else nothing is known.
    pub evidence: String,
    /// By side: when the last handshake was, Unix seconds, 0: never.
    pub handshake_s: [u64; 2],
    /// By side: encrypted bytes received, and sent.
    pub received: [u64; 2],
    /// See above.
    pub sent: [u64; 2],
    /// By side: whether its key is known.
    pub key_known: [bool; 2],
}

/// The tunnels that this host provides.
pub struct Provided {
    provider: Box<dyn Provider>,
    rtnl: Rtnl,
    /// By tunnel, peer and side.
    ears: BTreeMap<(String, String, Side), Ear>,
    status: Vec<Providing>,
    /// Devices that stood when somebody last looked.
    stood: BTreeSet<String>,
}

fn told(tunnel: &Tunnel, what: String) -> Event {
    Event::Provided(tunnel.name.clone(), what)
}

fn refused(tunnel: &str) -> impl Fn(Refusal) -> Error + '_ {
    |refusal| Error::Provide {
        tunnel: tunnel.to_owned(),
        reason: refusal.to_string(),
    }
}

impl Provided {
    /// Nothing is made yet.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn open() -> Result<Self> {
        Ok(Self {
            provider: Box::new(Wireguard::open()?),
            rtnl: Rtnl::open().map_err(|refusal| Error::Netlink(refusal.to_string()))?,
            ears: BTreeMap::new(),
            status: Vec::new(),
            stood: BTreeSet::new(),
        })
    }

    /// What is known of each tunnel, as of the last time that somebody looked.
    pub fn status(&self) -> &[Providing] {
        &self.status
    }

    /// Makes devices and routes follow `tunnels`. Safe to call at any time.
    ///
    /// # Errors
    /// [`Error::Netlink`]; failures of single tunnels are events.
    pub fn follow(&mut self, tunnels: &[Tunnel]) -> Result<Vec<Event>> {
        let now = Duration::from_nanos(host::clock_ns(libc::CLOCK_BOOTTIME));
        let unix_s = wireguard::unix_s();
        let mut events = Vec::new();
        self.provider.look()?;
        let routes = self.rtnl.provided_routes();
        let routes = routes.map_err(|refusal| Error::Netlink(refusal.to_string()))?;
        let mut all = Vec::new();
        for tunnel in tunnels {
            let mut status = Providing {
                name: tunnel.name.clone(),
                provider: self.provider.name().into(),
                address: tunnel.address.to_string(),
                sides: Vec::new(),
                peers: Vec::new(),
                error: String::new(),
            };
            let done = self.follow_one(tunnel, &routes, (now, unix_s), &mut status, &mut events);
            if let Err(error) = done {
                status.error = error.to_string();
                let what = format!("provide {}", tunnel.name);
                events.push(Event::Failed(what, error.to_string()));
            }
            all.push(status);
        }
        for device in self.provider.clear(tunnels)? {
            self.stood.remove(&device);
            events.push(Event::Provided(device, "taken away".into()));
        }
        self.forget_routes(tunnels, &routes)?;
        let names: BTreeSet<&str> = tunnels.iter().map(|tunnel| tunnel.name.as_str()).collect();
        self.ears
            .retain(|(tunnel, ..), _| names.contains(tunnel.as_str()));
        self.status = all;
        Ok(events)
    }

    fn follow_one(
        &mut self,
        tunnel: &Tunnel,
        routes: &[Route],
        (now, unix_s): (Duration, u64),
        status: &mut Providing,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let failed = refused(&tunnel.name);
        for to in tunnel.peers.iter().flat_map(|peer| &peer.addresses) {
            let nowhere = Route {
                to: *to,
                into: None,
            };
            if !routes.contains(&nowhere) {
                self.rtnl.lead_nowhere(*to).map_err(&failed)?;
            }
        }
        let mut sides = Vec::new();
        for side in Side::BOTH {
            let standing = self.provider.settle(tunnel, side)?;
            self.tell_made(tunnel, side, &standing, events);
            status.sides.push(SideStatus {
                side,
                device: tunnel.device_of(side),
                listen_port: tunnel.port_of(side),
                public_key: standing.public_key,
                key_since_s: standing.since_s,
            });
            sides.push(standing);
        }
        let turn = law::turn(tunnel.rotate, unix_s);
        let mut uses = Vec::new();
        for peer in &tunnel.peers {
            let (peer_status, of) = self.listen(tunnel, peer, &sides, now);
            let heard = of.map(|(hears, _)| hears);
            let known = peer.keys.map(|key| key.is_some());
            let into = leads(peer, routes, &sides);
            let chosen = law::choose(into, turn, heard, known);
            if let Some(side) = chosen
                && (into != chosen || !leads_all(peer, routes, &sides[side as usize]))
            {
                let ifindex = sides[side as usize].ifindex;
                for to in &peer.addresses {
                    let led = self.rtnl.lead(*to, ifindex, tunnel.address);
                    led.map_err(&failed)?;
                }
                let device = tunnel.device_of(side);
                events.push(told(tunnel, format!("{} by {device}", peer.name)));
            }
            let heard_there = chosen.is_some_and(|side| heard[side as usize]);
            uses.push(Use {
                carries: chosen,
                heard: heard_there,
                sends: of[turn.other() as usize].1,
            });
            status.peers.push(PeerStatus {
                carries: chosen,
                evidence: if heard_there { "E4" } else { "" }.into(),
                ..peer_status
            });
        }
        let since = [sides[0].since_s, sides[1].since_s];
        if let Some(side) = law::renews(tunnel.rotate, unix_s, since, &uses) {
            self.provider.renew(tunnel, side)?;
            // Those who know the old key are heard no more: the provider has ended their sessions.
            self.ears
                .retain(|(of, _, on), _| *of != tunnel.name || *on != side);
            let device = tunnel.device_of(side);
            events.push(told(
                tunnel,
                format!("{device} has a new key; the other hosts need it"),
            ));
        }
        Ok(())
    }

    fn tell_made(
        &mut self,
        tunnel: &Tunnel,
        side: Side,
        standing: &Standing,
        events: &mut Vec<Event>,
    ) {
        let device = tunnel.device_of(side);
        if standing.made {
            let again = if self.stood.contains(&device) {
                "somebody deleted it; made anew"
            } else {
                "made"
            };
            let what = format!("{device} {again}, with a new key; the other hosts need it");
            events.push(told(tunnel, what));
        }
        self.stood.insert(device);
    }

    /// What is heard of a peer, by side: whether it is there, and whether it sends more than keepalives.
    fn listen(
        &mut self,
        tunnel: &Tunnel,
        peer: &Peer,
        sides: &[Standing],
        now: Duration,
    ) -> (PeerStatus, [(bool, bool); 2]) {
        let mut status = PeerStatus {
            name: peer.name.clone(),
            carries: None,
            evidence: String::new(),
            handshake_s: [0; 2],
            received: [0; 2],
            sent: [0; 2],
            key_known: peer.keys.map(|key| key.is_some()),
        };
        let of = Side::BOTH.map(|side| {
            let at = side as usize;
            let mut known = sides[at].peers.iter();
            let heard = known.find(|known| known.key.is_some() && known.key == peer.keys[at]);
            let id = (tunnel.name.clone(), peer.name.clone(), side);
            let Some(heard) = heard else {
                self.ears.remove(&id);
                return (false, false);
            };
            let Heard {
                handshake_s,
                received,
                sent,
                ..
            } = *heard;
            (status.handshake_s[at], status.received[at], status.sent[at]) =
                (handshake_s, received, sent);
            let ear = self.ears.entry(id).or_default();
            ear.listen(now, received);
            (ear.hears(now), ear.sends())
        });
        (status, of)
    }

    /// Takes away what leads to nobody any more: first into devices, then nowhere.
    fn forget_routes(&mut self, tunnels: &[Tunnel], routes: &[Route]) -> Result<()> {
        let wanted: BTreeSet<Prefix> = tunnels
            .iter()
            .flat_map(|tunnel| &tunnel.peers)
            .flat_map(|peer| peer.addresses.iter().copied())
            .collect();
        let mut gone: Vec<&Route> = routes
            .iter()
            .filter(|route| !wanted.contains(&route.to))
            .collect();
        gone.sort_by_key(|route| route.into.is_none());
        for route in gone {
            match self.rtnl.forget_route(route) {
                Ok(()) => {}
                // It went with its device.
                Err(refusal) if refusal.code == libc::ESRCH => {}
                Err(refusal) => return Err(Error::Netlink(refusal.to_string())),
            }
        }
        Ok(())
    }
}

/// The side that the routes to a peer lead to.
fn leads(peer: &Peer, routes: &[Route], sides: &[Standing]) -> Option<Side> {
    let first = peer.addresses.first()?;
    let into = |standing: &Standing| {
        let mut to = routes.iter().filter(|route| route.to == *first);
        to.any(|route| route.into == Some(standing.ifindex))
    };
    Side::BOTH
        .into_iter()
        .find(|side| sides.get(*side as usize).is_some_and(into))
}

/// Do all routes to a peer lead there?
fn leads_all(peer: &Peer, routes: &[Route], standing: &Standing) -> bool {
    peer.addresses.iter().all(|to| {
        let wanted = Route {
            to: *to,
            into: Some(standing.ifindex),
        };
        routes.contains(&wanted)
    })
}
