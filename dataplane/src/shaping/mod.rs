//! How a ceiling is held without starving TCP: queues of the kernel, chosen, made, kept, shown and
//! taken away again.
//!
//! In this order, each direction of each port has the first that it can have
//! 1. EDT: the program gives every packet a departure time, an fq qdisc holds it until then;
//! 2. HTB on the port's own device, and on an IFB for what comes from the tenant;
//! 3. police: no queue, a longer burst.
//!
//! Invariants
//! - The limiter decides what passes. A queue never drops: it is made before the policy that uses
//!   it, is never tighter than the limiter, and goes only when it is empty.
//! - A root qdisc that somebody put on a device on purpose stays.
//! - Everything made here can be told from its name alone: root qdiscs have the handle `6f63:`, IFBs
//!   are `oct{ifindex of the port}`. So a new daemon, and `detach` without one, find all of it.

mod choose;
mod edt;
mod htb;
mod probe;
pub(crate) mod rtnl;

pub use choose::{Choice, InForce};
pub use probe::{Abilities, abilities};

use crate::{
    Error, Result,
    netlink::{self, Interface},
    policy::{Policy, Port, Shape},
    share::{self, Queued},
};
use choose::Input;
use dataplane_common::abi::DIRECTIONS;
use htb::Pace;
use rtnl::{ROOT, Refusal, Rtnl};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// A revision's rates are in force this long after it was prepared, and its queues may be narrowed.
const SETTLED: Duration = Duration::from_millis(500);

/// What octroi put on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Htb(Pace),
    Fq,
}

impl Queue {
    /// The kind of its root qdisc on a device with so many transmit queues.
    fn kind(self, tx_queues: u32) -> &'static str {
        match self {
            Self::Htb(_) => "htb",
            Self::Fq if tx_queues > 1 => "mq",
            Self::Fq => "fq",
        }
    }
}

/// What was decided for a port, and from what: the same again needs no look.
#[derive(Debug)]
struct Known {
    input: Input,
    choices: [Choice; 2],
    queues: Vec<(u32, Queue)>,
}

/// The shapes of all ports.
#[derive(Debug)]
pub struct Shaper {
    ports: BTreeMap<String, Known>,
    /// By interface index. What an earlier daemon made is in here from the start.
    made: BTreeMap<u32, Queue>,
    /// What the policy that was prepared last wants, likewise.
    wanted: BTreeMap<u32, Queue>,
    /// Devices that were given their queue since interfaces were listed: the list does not have it yet.
    fresh: BTreeSet<u32>,
    prepared: Instant,
}

/// What [`Shaper::prepare`] did.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Ports whose entry in the policy must be written anew.
    pub changed: Vec<String>,
    /// Ports that did not get what they could have had, and why.
    pub failed: Vec<(String, String)>,
}

impl Shaper {
    /// Takes over what an earlier daemon made in this network namespace.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn open() -> Result<Self> {
        let mut made = BTreeMap::new();
        for root in our_roots(&mut open()?).map_err(listing)? {
            // With what numbers is not known: `settle` and `prepare` set their own.
            let queue = if root.kind == "htb" {
                Queue::Htb(Pace::UNKNOWN)
            } else {
                Queue::Fq
            };
            made.insert(root.ifindex, queue);
        }
        Ok(Self {
            ports: BTreeMap::new(),
            made,
            wanted: BTreeMap::new(),
            fresh: BTreeSet::new(),
            prepared: Instant::now(),
        })
    }

    /// Chooses a shape for every port and makes what it needs. To be called before `policy` is put
    /// in force, and again whenever interfaces changed: what is there already costs a comparison.
    ///
    /// Where rates differ from those in force, queues are made as wide as the wider of both.
    pub fn prepare(
        &mut self,
        policy: &Policy,
        interfaces: &BTreeMap<String, Interface>,
    ) -> Prepared {
        let mut done = Prepared::default();
        self.fresh.clear();
        let mut wanted = BTreeMap::new();
        let sharing = share::tenants(policy);
        let uplinks = Input::uplinks(policy, interfaces);
        for port in &policy.ports {
            let input = Input::of(port, policy, &sharing, &uplinks, interfaces);
            let old = self.ports.get(&port.name);
            if let Some(known) = old.filter(|known| known.input == input) {
                wanted.extend(known.queues.iter().copied());
                continue;
            }
            let old = old.map(Known::in_the_policy);
            let known = self.choose(input, &mut done.failed, &port.name);
            if old != Some(known.in_the_policy()) {
                done.changed.push(port.name.clone());
            }
            wanted.extend(known.queues.iter().copied());
            self.ports.insert(port.name.clone(), known);
        }
        if self.ports.len() > policy.ports.len() {
            let names: BTreeSet<&str> = policy.ports.iter().map(|port| &*port.name).collect();
            self.ports.retain(|name, _| names.contains(&**name));
        }
        if wanted != self.wanted {
            self.wanted = wanted;
            self.prepared = Instant::now();
        }
        self.loosen();
        done
    }

    /// Opens what no port wants any more, before its limit goes: else the queue would be the limit.
    fn loosen(&mut self) {
        let open_pace = Queue::Htb(Pace::OPEN);
        let narrow = |(index, queue): &(&u32, &Queue)| {
            !self.wanted.contains_key(index)
                && matches!(queue, Queue::Htb(_))
                && **queue != open_pace
        };
        let old: Vec<u32> = self
            .made
            .iter()
            .filter(narrow)
            .map(|(index, _)| *index)
            .collect();
        if old.is_empty() {
            return;
        }
        let Ok(mut rtnl) = open() else { return };
        for index in old {
            // A device that is gone needs none; `settle` forgets it.
            let _ = htb::set(&mut rtnl, index, Pace::OPEN);
            self.made.insert(index, open_pace);
        }
    }

    /// Narrows queues to what the policy in force says, and takes away empty ones that nobody wants.
    /// To be called after the policy that was prepared is in force; it waits for its rates by itself.
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::Shape`]: then it is tried again at the next call.
    pub fn settle(&mut self, interfaces: &BTreeMap<String, Interface>) -> Result<()> {
        if self.made == self.wanted || self.prepared.elapsed() < SETTLED {
            return Ok(());
        }
        let mut rtnl = open()?;
        let queued: BTreeMap<u32, u32> = our_roots(&mut rtnl)
            .map_err(listing)?
            .into_iter()
            .map(|root| (root.ifindex, root.queued))
            .collect();
        let by_index: BTreeMap<u32, &Interface> = interfaces
            .values()
            .map(|interface| (interface.index, interface))
            .collect();
        for (index, queue) in self.made.clone() {
            let Some(interface) = by_index.get(&index) else {
                if !self.wanted.contains_key(&index) {
                    self.made.remove(&index);
                }
                continue;
            };
            let failed = |refusal| failed(&interface.name, refusal);
            match self.wanted.get(&index) {
                Some(wanted) if *wanted == queue => {}
                Some(Queue::Htb(pace)) => {
                    htb::set(&mut rtnl, index, *pace).map_err(failed)?;
                    self.made.insert(index, Queue::Htb(*pace));
                }
                Some(Queue::Fq) => {}
                None if queued.get(&index).is_some_and(|skbs| *skbs != 0) => {}
                None => {
                    remove(&mut rtnl, interface).map_err(failed)?;
                    self.made.remove(&index);
                }
            }
        }
        Ok(())
    }

    /// The shared uplinks and directions in which everything that is over a share can wait: all ports that share have fq.
    pub(crate) fn queued(&self, policy: &Policy) -> Queued {
        let mut queued = Queued::new();
        for uplink in &policy.shared {
            let tenants: BTreeSet<u32> = uplink.tenants.iter().map(|share| share.tenant).collect();
            let shares = |port: &&Port| tenants.contains(&port.tenant);
            for direction in 0..DIRECTIONS {
                let waits = |port: &Port| {
                    let known = self.ports.get(&port.name);
                    known.is_some_and(|known| {
                        known.choices[direction as usize & 1].shape == Shape::Edt
                    })
                };
                if policy.ports.iter().filter(shares).all(waits) {
                    queued.insert((uplink.number, direction));
                }
            }
        }
        queued
    }

    /// What was chosen for a port, by direction.
    pub fn of(&self, port: &str) -> Option<&[Choice; 2]> {
        self.ports.get(port).map(|known| &known.choices)
    }

    /// Sees to it that `queue` is on a device, at least as wide as it says.
    fn ensure(&mut self, device: &Interface, queue: Queue) -> std::result::Result<(), String> {
        let ours = self.made.get(&device.index).copied();
        let fresh = self.fresh.contains(&device.index);
        let ours = ours.filter(|made| fresh || made.kind(device.tx_queues) == device.qdisc);
        let target = match (ours, queue) {
            (Some(Queue::Htb(made)), Queue::Htb(pace)) => Queue::Htb(made.or_wider(pace)),
            _ => queue,
        };
        if ours == Some(target) {
            return Ok(());
        }
        if ours.is_none() {
            self.made.remove(&device.index);
            if !is_default(&device.qdisc) {
                return Err(format!(
                    "{} has a root qdisc {} already",
                    device.name, device.qdisc
                ));
            }
        }
        let done = Rtnl::open().and_then(|mut rtnl| {
            match (ours, target) {
                (Some(Queue::Htb(_)), Queue::Htb(pace)) => {
                    return htb::set(&mut rtnl, device.index, pace);
                }
                // The kernel does not put another kind in the place of one with the same handle.
                (Some(_), _) => rtnl.delete_root(device.index, htb::HANDLE)?,
                (None, _) => {}
            }
            match target {
                Queue::Htb(pace) => htb::make(&mut rtnl, device.index, pace),
                Queue::Fq => edt::make(&mut rtnl, device.index, device.tx_queues),
            }
        });
        done.map_err(|refusal| format!("{}: {refusal}", device.name))?;
        self.made.insert(device.index, target);
        self.fresh.insert(device.index);
        Ok(())
    }
}

/// True for a qdisc that the kernel, or the system's default, put there: nobody's wish.
fn is_default(qdisc: &str) -> bool {
    const KERNEL: [&str; 6] = ["", "noop", "noqueue", "pfifo_fast", "mq", "fq_codel"];
    KERNEL.contains(&qdisc)
        || std::fs::read_to_string("/proc/sys/net/core/default_qdisc")
            .is_ok_and(|default| default.trim() == qdisc)
}

/// Name of the IFB that queues what comes in by the interface with this index.
pub(crate) fn ifb_name(ifindex: u32) -> String {
    format!("oct{ifindex}")
}

fn is_our_ifb(interface: &Interface) -> bool {
    interface.kind == "ifb"
        && interface
            .name
            .strip_prefix("oct")
            .is_some_and(|index| index.parse::<u32>().is_ok())
}

fn open() -> Result<Rtnl> {
    Rtnl::open().map_err(|refusal| Error::Netlink(refusal.to_string()))
}

fn listing(refusal: Refusal) -> Error {
    Error::Netlink(format!("qdiscs cannot be listed: {refusal}"))
}

fn failed(interface: &str, refusal: Refusal) -> Error {
    Error::Shape {
        interface: interface.to_owned(),
        reason: refusal.to_string(),
    }
}

fn our_roots(rtnl: &mut Rtnl) -> rtnl::Result<Vec<rtnl::Qdisc>> {
    let mut all = rtnl.qdiscs()?;
    all.retain(|qdisc| qdisc.parent == ROOT && qdisc.handle == htb::HANDLE);
    Ok(all)
}

/// Takes the queue off a device; an IFB goes as a whole.
fn remove(rtnl: &mut Rtnl, interface: &Interface) -> rtnl::Result<()> {
    let done = if is_our_ifb(interface) {
        rtnl.delete_link(interface.index)
    } else {
        rtnl.delete_root(interface.index, htb::HANDLE)
    };
    // Gone already, with its device or by somebody's hand (EINVAL: another handle), is as good.
    match done {
        Err(refusal) if matches!(refusal.code, libc::ENODEV | libc::ENOENT | libc::EINVAL) => {
            Ok(())
        }
        other => other,
    }
}

/// skbs that octroi's queues dropped after they had been billed, by interface index: 0 where all is
/// well. Devices without a queue of octroi's are left out.
///
/// # Errors
/// [`Error::Netlink`].
pub fn drops() -> Result<BTreeMap<u32, u64>> {
    let roots = our_roots(&mut open()?).map_err(listing)?;
    Ok(roots
        .into_iter()
        .map(|root| (root.ifindex, u64::from(root.drops)))
        .collect())
}

/// What waits in a device's queue, whoever made it: skbs, and their bytes on the wire; and what it dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub skbs: u64,
    pub bytes: u64,
    pub drops: u64,
}

/// The root queues of all devices, by interface index. A device without one is left out.
pub(crate) fn waiting() -> Result<BTreeMap<u32, Waiting>> {
    let all = open()?.qdiscs().map_err(listing)?;
    let roots = all.into_iter().filter(|qdisc| qdisc.parent == ROOT);
    let waiting = roots.map(|root| {
        let waiting = Waiting {
            skbs: root.queued.into(),
            bytes: root.queued_bytes.into(),
            drops: root.drops.into(),
        };
        (root.ifindex, waiting)
    });
    Ok(waiting.collect())
}

/// Takes every queue of octroi's out of this network namespace, with or without a daemon. No program
/// may redirect to an IFB any more: what waits in a queue is lost.
///
/// # Errors
/// [`Error::Netlink`], [`Error::Shape`].
pub fn remove_all() -> Result<()> {
    let mut rtnl = open()?;
    let roots = our_roots(&mut rtnl).map_err(listing)?;
    for interface in netlink::interfaces()?.values() {
        let rooted = roots.iter().any(|root| root.ifindex == interface.index);
        if rooted || is_our_ifb(interface) {
            remove(&mut rtnl, interface).map_err(|refusal| failed(&interface.name, refusal))?;
        }
    }
    Ok(())
}
