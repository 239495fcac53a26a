//! Interfaces and programs follow the policy in force: what came is attached, what went is given up,
//! what somebody took off is put back.

use super::{
    Event, Gate,
    publish::{SWITCH_MARGIN, times},
};
use crate::{
    Error, Result,
    attach::{self, Hook, State},
    cut,
    maps::Raw,
    netlink::{self, Interface},
    policy::{self, Port},
    provide::Provided,
    slots::{Owner, text},
};
use dataplane_common::{
    abi::{Binding, BindingKey, InterfaceSlot, Slot, slot_state},
    fault::{self, Point},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Instant,
};

impl Gate {
    /// Makes interfaces and programs follow the policy in force: attaches what came, gives up what
    /// went, puts back what somebody took off. Safe to call at any time.
    ///
    /// # Errors
    /// [`Error::Netlink`] and [`Error::Map`]; failures of single interfaces are events.
    pub fn reconcile(&mut self) -> Result<Vec<Event>> {
        let interfaces = netlink::interfaces()?;
        let mut events = self.follow_shapes(&interfaces)?;
        self.follow_trusted(&interfaces)?;
        self.follow_uplinks(&interfaces, &mut events)?;
        self.follow_provided(&mut events);
        self.give_up_gone(&interfaces, &mut events)?;
        for at in 0..self.policy.ports.len() {
            let port = &self.policy.ports[at];
            let Some(interface) = interfaces.get(&port.interface) else {
                events.push(Event::Waiting(port.name.clone(), port.interface.clone()));
                continue;
            };
            let port = port.clone();
            let step = self.follow_port(&port, interface, &mut events);
            if let Err(error) = step {
                events.push(Event::Failed(
                    format!("port {}", port.name),
                    error.to_string(),
                ));
            }
        }
        if let Err(error) = self.shaper.settle(&interfaces) {
            events.push(Event::Failed("shapes".into(), error.to_string()));
        }
        Ok(events)
    }

    /// Puts back queues that somebody took, and publishes anew when a port must do without, or can
    /// have one again. A port that is not bound yet gets its entry when it is.
    fn follow_shapes(&mut self, interfaces: &BTreeMap<String, Interface>) -> Result<Vec<Event>> {
        let policy = std::mem::take(&mut self.policy);
        let shaped = self.shaper.prepare(&policy, interfaces);
        let bound = policy.ports.iter().any(|port| {
            shaped.changed.contains(&port.name)
                && Self::slot_of(&self.slots, port)
                    .is_some_and(|slot| self.slots.get(slot).ifindex != 0)
        });
        // Everybody waits at an uplink, or nobody: one port that came or went changes it for all.
        let published = if bound || self.shaper.queued(&policy) != self.queued {
            self.publish(&policy).map(Some)
        } else {
            Ok(None)
        };
        self.policy = policy;
        if let Some((_, switch)) = published? {
            std::thread::sleep(switch.saturating_duration_since(Instant::now()));
        }
        Ok(shape_events(shaped.failed))
    }

    fn follow_trusted(&mut self, interfaces: &BTreeMap<String, Interface>) -> Result<()> {
        let uplinks = self.policy.uplinks.iter();
        let uplinks = uplinks.map(|uplink| &uplink.interface);
        let wanted: BTreeSet<u32> = uplinks
            .chain(&self.policy.trusted)
            .filter_map(|name| interfaces.get(name))
            .map(|interface| interface.index)
            .collect();
        let known: BTreeSet<u32> = self
            .maps
            .trusted
            .keys()
            .filter_map(|key| key.ok())
            .collect();
        for index in wanted.difference(&known) {
            insert_device(&mut self.maps.trusted, "TRUSTED", *index)?;
        }
        for index in known.difference(&wanted) {
            let _ = self.maps.trusted.remove(*index);
        }
        Ok(())
    }

    fn follow_uplinks(
        &mut self,
        interfaces: &BTreeMap<String, Interface>,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        for uplink in self.policy.uplinks.clone() {
            let (name, xdp) = (uplink.interface.clone(), uplink.xdp);
            let Some(interface) = interfaces.get(&name) else {
                events.push(Event::Waiting(format!("uplink {name}"), name));
                continue;
            };
            let slot = match self.slots.find(slot_state::UPLINK, &name) {
                Some(slot) if self.slots.get(slot).ifindex == interface.index => slot,
                other => {
                    if let Some(slot) = other {
                        self.retire(slot)?;
                    }
                    let owner = Owner {
                        state: slot_state::UPLINK,
                        name: &name,
                        tenant: 0,
                        interface: &name,
                        vlan: 0,
                    };
                    let slot = self.allocate(&owner)?;
                    // Before it is bound: no frame leaves by an entry that asks nothing.
                    let set = self.epoch()?.policy_set();
                    self.set_entry(set, slot, uplink.entry())?;
                    slot
                }
            };
            self.bind(slot, interface, 0)?;
            if let Err(error) = self.hold(interface, Hook::Guard, false, events) {
                events.push(Event::Failed(format!("uplink {name}"), error.to_string()));
            }
            let held = (interface.index, attach::XDP);
            if !xdp {
                attach::detach_xdp(&self.pins, interface.index);
                self.held.remove(&held);
            } else if !(self.held.contains(&held) && attach::has_xdp(&self.pins, interface)) {
                match attach::attach_xdp(&mut self.object, &self.pins, interface) {
                    Ok(()) => drop(self.held.insert(held)),
                    Err(error) => {
                        events.push(Event::Failed(format!("uplink {name}"), error.to_string()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Tunnels, whose failure is nobody else's.
    fn follow_provided(&mut self, events: &mut Vec<Event>) {
        let tunnels = &self.policy.provide;
        if tunnels.is_empty()
            && self
                .provided
                .as_ref()
                .is_some_and(|p| p.status().is_empty())
        {
            return;
        }
        let mut provided = match self.provided.take().map_or_else(Provided::open, Ok) {
            Ok(provided) => provided,
            Err(error) => {
                events.push(Event::Failed("provide".into(), error.to_string()));
                return;
            }
        };
        match provided.follow(tunnels) {
            Ok(told) => events.extend(told),
            Err(error) => events.push(Event::Failed("provide".into(), error.to_string())),
        }
        self.provided = Some(provided);
    }

    /// Retires slots whose port left the policy or whose interface left the host.
    fn give_up_gone(
        &mut self,
        interfaces: &BTreeMap<String, Interface>,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let live: Vec<(u32, Slot)> = self
            .slots
            .iter()
            .map(|(slot, book)| (slot, *book))
            .collect();
        let ports = self.policy.ports.iter();
        let ports: HashSet<String> = ports.map(|port| port.name.clone()).collect();
        let uplinks = self.policy.uplinks.iter();
        let uplinks: HashSet<String> = uplinks.map(|uplink| uplink.interface.clone()).collect();
        for (slot, book) in live {
            let (name, interface) = (text(&book.name), text(&book.interface));
            let wanted = match book.state {
                slot_state::PORT => ports.contains(&name),
                slot_state::UPLINK => uplinks.contains(&name),
                _ => continue,
            };
            let present = interfaces.get(&interface).map(|found| found.index);
            let same = book.ifindex == 0 || present == Some(book.ifindex);
            if wanted && same {
                continue;
            }
            if !same {
                events.push(Event::Gone(name.clone(), interface));
            }
            let replaced = wanted && book.state == slot_state::PORT;
            self.retire(slot)?;
            if replaced
                && let Some(port) = self.policy.ports.iter().find(|p| p.name == name).cloned()
            {
                self.place(&port)?;
            }
        }
        Ok(())
    }

    /// A new incarnation of a port of the policy in force: slot and policy, no interface yet.
    fn place(&mut self, port: &Port) -> Result<u32> {
        let slot = self.allocate_port(port)?;
        let entry = self.entry(port, slot, None, self.holds(port), &times(SWITCH_MARGIN))?;
        let set = self.epoch()?.policy_set();
        policy::write_overflow(&mut self.maps, port, slot, set as u8)?;
        let ports = &self.policy.ports;
        if let Some(own) = ports.iter().position(|one| one.name == port.name) {
            let owners = policy::Owners::of(&self.policy);
            owners.write(&mut self.maps, set as u8, Some(own), |_| Some(slot))?;
        }
        // Nothing is bound to the slot yet, so no program reads what is written here.
        self.set_entry(set, slot, entry)?;
        Ok(slot)
    }

    fn follow_port(
        &mut self,
        port: &Port,
        interface: &Interface,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let slot = match Self::slot_of(&self.slots, port) {
            Some(slot) => slot,
            None => self.place(port)?,
        };
        let fresh = self.slots.get(slot).ifindex == 0;
        if fresh {
            // Its queues could only be made now that the interface is there.
            self.rewrite(port, slot)?;
        }
        let blessed = self.slots.get(slot).blessed == 1;
        self.hold(interface, Hook::FromTenant, blessed, events)?;
        self.hold(interface, Hook::ToTenant, blessed, events)?;
        if self.maps.blessed.get(interface.index, 0).is_err() {
            insert_device(&mut self.maps.blessed, "BLESSED", interface.index)?;
        }
        // Last: until then its programs drop what comes. The other way round, what they pass and bill would be dropped
        // by the guard for as long as the interface is not blessed.
        self.bind(slot, interface, port.vlan.map_or(0, u32::from))?;
        if !blessed || fresh {
            let mut book = *self.slots.get(slot);
            book.blessed = 1;
            self.slots.set(&mut self.maps, slot, book)?;
            events.push(Event::Blessed(port.name.clone(), interface.name.clone()));
        }
        Ok(())
    }

    /// Writes the entry of a port whose slot nothing is bound to, so that no program reads it.
    fn rewrite(&mut self, port: &Port, slot: u32) -> Result<()> {
        let epoch = self.epoch()?;
        let index = self.plan.sizes.port(epoch.policy_set(), slot);
        let before = self.maps.ports.get(index)?;
        let entry = self.entry(
            port,
            slot,
            Some(&before),
            self.holds(port),
            &times(SWITCH_MARGIN),
        )?;
        self.set_entry(epoch.policy_set(), slot, entry)
    }

    /// Binds an interface to a slot and notes what the interface had counted by then.
    fn bind(&mut self, slot: u32, interface: &Interface, vlan: u32) -> Result<()> {
        let mut book = *self.slots.get(slot);
        if book.ifindex != interface.index {
            book.ifindex = interface.index;
            book.before_attach = interface.stats;
            self.slots.set(&mut self.maps, slot, book)?;
        }
        let mut put = |vlan, slot| {
            let key = BindingKey {
                ifindex: interface.index,
                vlan,
            };
            self.maps
                .bindings
                .insert(Raw(key), Raw(Binding { slot, reserved: 0 }), 0)
                .map_err(Error::map("BINDINGS"))
        };
        put(vlan, slot)?;
        if vlan != 0 {
            put(0, Binding::SHARED)?;
        }
        self.point(interface.index, (vlan == 0).then_some(slot))
    }

    /// Writes what `INTERFACES` says of an interface. Where another one has its place, nothing.
    fn point(&mut self, ifindex: u32, slot: Option<u32>) -> Result<()> {
        let interfaces = &mut self.maps.interfaces;
        let place = InterfaceSlot::place(ifindex);
        let there = interfaces.get(&place, 0);
        let there = InterfaceSlot(there.map_err(Error::map("INTERFACES"))?);
        if ![0, ifindex].contains(&there.ifindex()) {
            return Ok(());
        }
        let entry = slot.map(|slot| InterfaceSlot::new(ifindex, slot));
        interfaces
            .set(place, entry.unwrap_or_default().0, 0)
            .map_err(Error::map("INTERFACES"))
    }

    /// Sees to it that a program of *this* object is attached and first.
    fn hold(
        &mut self,
        interface: &Interface,
        hook: Hook,
        was_there: bool,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let held = (interface.index, hook.program());
        let state = attach::state(self.mechanism, &self.pins, interface, hook)?;
        if let State::Behind(names) = &state {
            events.push(Event::Foreign(interface.name.clone(), names.clone()));
            // The link has to be made anew to get to the front. Until it is, nothing of this port
            // leaves: what would pass in between would pass unseen.
            let _ = self.maps.blessed.remove(interface.index);
            attach::remove_link(&self.pins, interface.index, hook);
        } else if state == State::InPlace && self.held.contains(&held) {
            return Ok(());
        }
        attach::attach(
            &mut self.object,
            self.mechanism,
            &self.pins,
            interface,
            hook,
        )?;
        self.held.insert(held);
        if was_there && state == State::Missing {
            let program = hook.program().to_owned();
            events.push(Event::Repaired(interface.name.clone(), program));
        }
        Ok(())
    }

    /// Ends an incarnation: its interface is no longer blessed, its counts stay readable.
    pub(super) fn retire(&mut self, slot: u32) -> Result<()> {
        let mut book = *self.slots.get(slot);
        if book.state == slot_state::PORT && self.policy.polices() {
            // Before the barrier: behind it no uplink books anything to this slot.
            let (name, set) = (text(&book.name), self.epoch()?.policy_set());
            let mut ports = self.policy.ports.iter();
            if let Some(port) = ports.find(|port| port.name == name) {
                policy::forget(&mut self.maps, port, slot, set as u8);
            }
        }
        let shared = book.vlan != 0;
        if book.ifindex != 0 {
            let others = self.slots.iter().any(|(other, entry)| {
                other != slot
                    && entry.state == slot_state::PORT
                    && entry.ifindex == book.ifindex
                    && text(&entry.interface) == text(&book.interface)
            });
            if !others {
                let _ = self.maps.blessed.remove(book.ifindex);
                self.point(book.ifindex, None)?;
                let key = BindingKey {
                    ifindex: book.ifindex,
                    vlan: 0,
                };
                let _ = self.maps.bindings.remove(&Raw(key));
                let interface = Interface {
                    index: book.ifindex,
                    name: text(&book.interface),
                    ..Interface::default()
                };
                let hooks: &[Hook] = if book.state == slot_state::UPLINK {
                    &[Hook::Guard]
                } else {
                    &[Hook::FromTenant, Hook::ToTenant]
                };
                if book.state == slot_state::UPLINK {
                    attach::detach_xdp(&self.pins, book.ifindex);
                    self.held.remove(&(book.ifindex, attach::XDP));
                }
                for hook in hooks {
                    attach::detach(self.mechanism, &self.pins, &interface, *hook);
                    self.held.remove(&(book.ifindex, hook.program()));
                }
            }
            if shared {
                let key = BindingKey {
                    ifindex: book.ifindex,
                    vlan: book.vlan,
                };
                let _ = self.maps.bindings.remove(&Raw(key));
            }
            // Programs that had found the slot before may still book to it.
            cut::barrier(&mut self.maps)?;
        }
        book.state = slot_state::RETIRED;
        book.blessed = 0;
        if let Some(unsettled) = &mut self.unsettled {
            unsettled.insert(slot);
        }
        self.slots.set(&mut self.maps, slot, book)?;
        fault::reach(Point::Retired);
        Ok(())
    }
}

pub(super) fn shape_events(failed: Vec<(String, String)>) -> Vec<Event> {
    let event = |(port, why)| Event::Failed(format!("shape of port {port}"), why);
    failed.into_iter().map(event).collect()
}

fn insert_device(
    map: &mut aya::maps::DevMapHash<aya::maps::MapData>,
    name: &'static str,
    ifindex: u32,
) -> Result<()> {
    map.insert(ifindex, ifindex, None, 0)
        .map_err(|error| Error::Map {
            map: name,
            reason: crate::error::chain(&error),
        })
}
