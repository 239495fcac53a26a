//! Which shape a port gets, and why not a better one.

use super::{
    Known, Queue, Shaper, edt,
    htb::Pace,
    ifb_name,
    probe::{Abilities, abilities},
    rtnl::Rtnl,
};
use crate::{
    netlink::Interface,
    policy::{Limit, Policy, Port, Shape},
};
use dataplane_common::abi::{FROM_TENANT, PortPolicy};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A shape for one direction of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The shape; [`Shape::Police`] also where there is nothing to limit.
    pub shape: Shape,
    /// Why this one and no better one.
    pub why: String,
    /// Devices with the queues, by index.
    devices: Vec<u32>,
}

impl Choice {
    /// IFB to redirect to; 0: none.
    pub fn ifb(&self, direction: u32) -> u32 {
        match (self.shape, direction, self.devices.first()) {
            (Shape::Htb, FROM_TENANT, Some(ifb)) => *ifb,
            _ => 0,
        }
    }

    fn police(why: String) -> Self {
        Self {
            shape: Shape::Police,
            why,
            devices: Vec::new(),
        }
    }
}

/// How the ceiling of one direction of a port is held.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct InForce {
    /// `edt`, `htb`, `police`; `none` without a ceiling.
    pub shape: String,
    /// Why this one and no better one.
    pub reason: String,
    /// skbs that its queue has dropped though they were billed. 0 where all is well. With EDT from
    /// the tenant the queue is the uplinks', and all ports share its count.
    pub leaf_drops: u64,
}

impl InForce {
    /// Of a port's entry in the policy in force, with what is known beside it: what was chosen
    /// (nothing without a daemon), and [`super::drops`].
    pub fn of(
        entry: &PortPolicy,
        direction: u32,
        ifindex: u32,
        choice: Option<&Choice>,
        drops: &BTreeMap<u32, u64>,
    ) -> Self {
        let at = (direction & 1) as usize;
        let shape = Shape::from_number(entry.shape[at]);
        let limited = entry.limits[at][0].limited() || shape == Shape::Edt;
        let device = match (shape, direction) {
            (Shape::Police, _) => None,
            (Shape::Htb, FROM_TENANT) => Some(entry.ifb_ifindex),
            (_, FROM_TENANT) => None,
            _ => Some(ifindex),
        };
        let devices = choice.map_or_else(|| device.into_iter().collect(), |c| c.devices.clone());
        Self {
            shape: if limited { shape.name() } else { "none" }.to_owned(),
            reason: choice
                .map_or("no daemon runs that could tell", |c| &c.why)
                .to_owned(),
            leaf_drops: devices.iter().filter_map(|device| drops.get(device)).sum(),
        }
    }
}

/// Everything that a choice depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    limits: [Limit; 2],
    asked: Option<Shape>,
    /// Its tenant shares an uplink.
    shares: bool,
    vlan: bool,
    /// The port's device and its IFB, where they are there; the counters are left out.
    device: Option<Interface>,
    ifb: Option<Interface>,
    uplinks: Uplinks,
}

/// Those of a policy, by name; the same for all ports.
pub(super) type Uplinks = Arc<Vec<(String, Option<Interface>)>>;

/// An interface without its counters.
fn find(interfaces: &BTreeMap<String, Interface>, name: &str) -> Option<Interface> {
    interfaces.get(name).map(|found| Interface {
        stats: [0; 4],
        dropped: [0; 2],
        ..found.clone()
    })
}

impl Input {
    pub(super) fn uplinks(policy: &Policy, interfaces: &BTreeMap<String, Interface>) -> Uplinks {
        let uplinks = policy.uplinks.iter();
        let named = uplinks.map(|uplink| {
            let name = &uplink.interface;
            (name.clone(), find(interfaces, name))
        });
        Arc::new(named.collect())
    }

    /// `sharing`: the tenants that have a part of an uplink.
    pub(super) fn of(
        port: &Port,
        policy: &Policy,
        sharing: &BTreeSet<u32>,
        uplinks: &Uplinks,
        interfaces: &BTreeMap<String, Interface>,
    ) -> Self {
        let device = find(interfaces, &port.interface);
        Self {
            limits: port.limits,
            asked: policy.shape,
            shares: sharing.contains(&port.tenant),
            vlan: port.vlan.is_some(),
            ifb: device
                .as_ref()
                .and_then(|device| find(interfaces, &ifb_name(device.index))),
            device,
            uplinks: Arc::clone(uplinks),
        }
    }

    /// What would be tried, best first; police is what is left.
    fn candidates(&self) -> &'static [Shape] {
        match self.asked {
            None => &[Shape::Edt, Shape::Htb],
            Some(Shape::Edt) => &[Shape::Edt],
            Some(Shape::Htb) => &[Shape::Htb],
            Some(Shape::Police) => &[],
        }
    }
}

impl Known {
    /// What the port's entry in the policy holds of it.
    pub(super) fn in_the_policy(&self) -> ([Shape; 2], u32) {
        let [from, to] = &self.choices;
        ([from.shape, to.shape], from.ifb(FROM_TENANT))
    }
}

/// Devices that hold a shape's queues, and a word on where; or why the shape cannot be had.
type Offer = Result<(Vec<(u32, Queue)>, String), String>;

impl Shaper {
    /// Chooses for both directions, and makes what was chosen.
    pub(super) fn choose(
        &mut self,
        input: Input,
        failed: &mut Vec<(String, String)>,
        name: &str,
    ) -> Known {
        let mut queues = Vec::new();
        let choices = [FROM_TENANT, 1].map(|direction| {
            let limit = &input.limits[direction as usize];
            // Without a ceiling there is nothing to queue but what is over a share, and only fq knows when that may leave.
            let candidates = match (limit.ceiling, input.shares) {
                (None, false) => return Choice::police("no ceiling".into()),
                (None, true) if input.candidates().contains(&Shape::Edt) => &[Shape::Edt][..],
                (None, true) => return Choice::police("no ceiling; its share has no queue".into()),
                (Some(_), _) => input.candidates(),
            };
            let mut missed = Vec::new();
            for shape in candidates {
                match self.offer(*shape, direction, &input, abilities()) {
                    Ok((made, why)) => {
                        let devices = made.iter().map(|(index, _)| *index).collect();
                        queues.extend(made);
                        missed.push(why);
                        return Choice {
                            shape: *shape,
                            why: missed.join("; "),
                            devices,
                        };
                    }
                    Err(why) => missed.push(format!("no {}: {why}", shape.name())),
                }
            }
            if missed.is_empty() {
                return Choice::police("asked for".into());
            }
            let why = missed.join("; ");
            if input.asked.is_some() && limit.ceiling.is_some() {
                failed.push((name.to_owned(), why.clone()));
            }
            Choice::police(why)
        });
        Known {
            input,
            choices,
            queues,
        }
    }

    fn offer(&mut self, shape: Shape, direction: u32, input: &Input, can: &Abilities) -> Offer {
        let limit = &input.limits[direction as usize];
        match shape {
            Shape::Police => Err("a policer has no queue".into()),
            Shape::Htb => {
                can.htb.clone()?;
                if input.vlan {
                    return Err("VLANs of one interface would share a queue".into());
                }
                let queue = Queue::Htb(Pace::of(
                    limit.ceiling.ok_or("no ceiling")?,
                    limit.burst_bytes(shape).unwrap_or(0),
                ));
                if direction == FROM_TENANT {
                    can.ifb.clone()?;
                    self.offer_ifb(input, queue)
                } else {
                    self.offer_device(input.device.as_ref(), queue)
                }
            }
            Shape::Edt => {
                can.fq.clone()?;
                if limit.burst_ns(shape) > edt::BURST_NS_MAX {
                    return Err("the burst is longer than fq's horizon".into());
                }
                if direction == FROM_TENANT {
                    self.offer_uplinks(&input.uplinks)
                } else {
                    self.offer_device(input.device.as_ref(), Queue::Fq)
                }
            }
        }
    }

    /// A queue on the port's own device.
    fn offer_device(&mut self, device: Option<&Interface>, queue: Queue) -> Offer {
        // The shape is the policy's already; the queue comes with the interface, before its traffic.
        let Some(device) = device else {
            return Ok((Vec::new(), "no interface yet".into()));
        };
        self.ensure(device, queue)?;
        Ok((
            vec![(device.index, queue)],
            format!("queue on {}, thin flows first", device.name),
        ))
    }

    /// A queue on an IFB of the port's own.
    fn offer_ifb(&mut self, input: &Input, queue: Queue) -> Offer {
        let Some(device) = &input.device else {
            return Ok((Vec::new(), "no interface yet".into()));
        };
        let name = ifb_name(device.index);
        let ifb = match &input.ifb {
            Some(ifb) if ifb.kind != "ifb" => return Err(format!("{name} is no IFB of ours")),
            Some(ifb) => ifb.clone(),
            None => {
                let refused = |refusal| format!("{name}: {refusal}");
                Rtnl::open()
                    .and_then(|mut rtnl| rtnl.add_link(&name, "ifb"))
                    .map_err(refused)?;
                let index =
                    crate::netlink::index(&name).ok_or_else(|| format!("{name} is gone"))?;
                Interface {
                    index,
                    name,
                    up: true,
                    tx_queues: 1,
                    ..Interface::default()
                }
            }
        };
        self.ensure(&ifb, queue)?;
        if !ifb.up {
            // A packet that is redirected to a device that is down is lost.
            let up = Rtnl::open().and_then(|mut rtnl| rtnl.set_up(ifb.index));
            up.map_err(|refusal| format!("{}: {refusal}", ifb.name))?;
        }
        Ok((
            vec![(ifb.index, queue)],
            format!("queue on {}, thin flows first", ifb.name),
        ))
    }

    /// fq on every uplink: departure times are set when a packet comes, and kept where it leaves.
    fn offer_uplinks(&mut self, uplinks: &[(String, Option<Interface>)]) -> Offer {
        if uplinks.is_empty() {
            return Err("there is no [[uplink]] that could have an fq qdisc".into());
        }
        let (mut queues, mut names) = (Vec::new(), Vec::new());
        for (name, uplink) in uplinks {
            let Some(uplink) = uplink else {
                return Err(format!("uplink {name} is not there"));
            };
            self.ensure(uplink, Queue::Fq)?;
            queues.push((uplink.index, Queue::Fq));
            names.push(name.as_str());
        }
        Ok((
            queues,
            format!("queue on {}, thin flows first", names.join(", ")),
        ))
    }
}
