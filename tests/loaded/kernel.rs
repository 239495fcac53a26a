//! The loaded programs, unpinned, with the tables of a `host::Gate`.
#![allow(dead_code, reason = "each test uses its own part of this")]

use crate::oracle::{
    host::{Bound, Gate, Outcome, Verdict, Way, mac_number},
    shapes::Sample,
};
use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf,
    maps::lpm_trie::Key,
    programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use dataplane::{
    attach::{self, Hook, Mechanism},
    cut,
    maps::{Maps, Raw},
    object::{self, Plan},
    registers::Bank,
};
use dataplane_common::{
    abi::{
        AddressKey, Binding, BindingKey, Epoch, FROM_TENANT, InterfaceSlot, MacKey, PortPolicy,
        ZoneKey,
    },
    encryption::Class,
    reason::REASONS_MAX,
};
use std::{collections::BTreeMap, time::Duration};

/// `TC_ACT_SHOT`, and what lets programs behind ours have their say.
const DROP: u32 = 2;
const PASS: u32 = u32::MAX;

/// Programs and maps of one load.
pub struct Kernel {
    pub object: Ebpf,
    pub maps: Maps,
    gate: Gate,
    mechanism: Mechanism,
}

/// The mechanisms whose programs this kernel loads: those for old kernels load everywhere.
pub fn mechanisms() -> Vec<Mechanism> {
    match attach::mechanism() {
        Mechanism::Tcx => vec![Mechanism::Tcx, Mechanism::Clsact],
        Mechanism::Clsact => vec![Mechanism::Clsact],
    }
}

impl Kernel {
    /// Loads the programs that `mechanism` attaches, and fills their maps from `gate`. Interfaces that
    /// it names must exist.
    pub fn load(gate: Gate, epoch: Epoch, mechanism: Mechanism) -> Result<Self> {
        let zones = gate.sizes.zones;
        // Few slots and zones, so that all of them can be read after every frame.
        let plan = Plan {
            sizes: gate.sizes,
            zone_prefixes: 64,
            overflow: 64,
            ..Plan::new(1, zones)
        };
        let mut object = object::load(&plan, None)?;
        attach::load_programs(&mut object, mechanism, None)?;
        let maps = Maps::take(&mut object)?;
        let mut kernel = Self {
            object,
            maps,
            gate,
            mechanism,
        };
        kernel.fill(epoch)?;
        Ok(kernel)
    }

    fn fill(&mut self, epoch: Epoch) -> Result<()> {
        let (maps, gate) = (&mut self.maps, &self.gate);
        let set = epoch.policy_set();
        for ((ifindex, vlan), bound) in &gate.bindings {
            let slot = match bound {
                Bound::To(slot) => *slot,
                Bound::Shared => Binding::SHARED,
            };
            let key = BindingKey {
                ifindex: *ifindex,
                vlan: *vlan,
            };
            maps.bindings
                .insert(Raw(key), Raw(Binding { slot, reserved: 0 }), 0)?;
            // Every second port is found by its interface's entry. The others' is another one's.
            let entry = match bound {
                Bound::To(slot) if *vlan == 0 && slot % 2 == 1 => {
                    InterfaceSlot::new(*ifindex, *slot)
                }
                _ => InterfaceSlot::new(*ifindex + InterfaceSlot::ENTRIES, 0),
            };
            let place = InterfaceSlot::place(*ifindex);
            maps.interfaces.set(place, entry.0, 0)?;
        }
        for (slot, port) in &gate.ports {
            maps.ports.set(gate.sizes.port(set, *slot), port.policy)?;
            // The other set of policy lets everything pass that this one does not: nobody may look.
            let open = PortPolicy {
                flags: PortPolicy::ACTIVE,
                ..PortPolicy::default()
            };
            maps.ports.set(gate.sizes.port(1 - set, *slot), open)?;
            for mac in &port.macs {
                let key = MacKey {
                    mac: mac_number(*mac),
                    slot: *slot,
                    policy_set: set,
                };
                maps.macs.insert(Raw(key), 1, 0)?;
            }
            for prefix in &port.prefixes {
                let key = AddressKey {
                    slot: *slot,
                    policy_set: set as u8,
                    family: prefix.family,
                    reserved: [0; 2],
                    address: prefix.words(),
                };
                let key = Key::new(AddressKey::PREFIX_BITS + prefix.len, Raw(key));
                maps.addresses.insert(&key, 1, 0)?;
            }
        }
        for (prefix, zone) in &gate.zones {
            let key = ZoneKey {
                policy_set: set as u8,
                family: prefix.family,
                reserved: [0; 2],
                address: prefix.words(),
            };
            maps.zones.insert(
                &Key::new(ZoneKey::PREFIX_BITS + prefix.len, Raw(key)),
                *zone,
                0,
            )?;
        }
        for ifindex in &gate.blessed {
            maps.blessed.insert(*ifindex, *ifindex, None, 0)?;
        }
        for ifindex in &gate.trusted {
            maps.trusted.insert(*ifindex, *ifindex, None, 0)?;
        }
        maps.epoch.set(0, epoch.0, 0)?;
        Ok(())
    }

    /// Name of the program of a direction.
    pub fn name(&self, direction: u32) -> &'static str {
        let hook = if direction == FROM_TENANT {
            Hook::FromTenant
        } else {
            Hook::ToTenant
        };
        hook.in_object(self.mechanism)
    }

    /// The program of a direction.
    pub fn program(&mut self, direction: u32) -> Result<&mut SchedClassifier> {
        let name = self.name(direction);
        Ok(self.object.program_mut(name).context(name)?.try_into()?)
    }

    /// Runs a direction's program on a frame; true when it lets it pass.
    ///
    /// # Errors
    /// When the kernel cannot carry the frame, or the program says something else than pass or drop.
    pub fn run(&mut self, sample: &Sample, way: &Way) -> Result<bool> {
        self.run_as(self.name(way.direction), sample, way)
    }

    /// Runs any tc program likewise.
    pub fn run_as(&mut self, program: &str, sample: &Sample, way: &Way) -> Result<bool> {
        let context = context(way);
        let options = TestRunOptions {
            data_in: Some(&sample.bytes),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let program: &mut SchedClassifier = self
            .object
            .program_mut(program)
            .context("no such program")?
            .try_into()?;
        match program.test_run(options)?.return_value {
            PASS => Ok(true),
            DROP => Ok(false),
            other => Err(anyhow!("verdict {other:#x}")),
        }
    }

    /// The uplink's XDP program.
    pub fn xdp(&mut self) -> Result<&mut Xdp> {
        Ok(self
            .object
            .program_mut("uplink")
            .context("uplink")?
            .try_into()?)
    }

    /// Runs it on a frame, as if it came in by the loopback, and gives back what it says.
    pub fn run_xdp(&mut self, sample: &Sample) -> Result<u32> {
        let options = TestRunOptions {
            data_in: Some(&sample.bytes),
            ..TestRunOptions::default()
        };
        Ok(self.xdp()?.test_run(options)?.return_value)
    }

    /// What is booked in one bank of a slot, by direction.
    pub fn booked(&self, bank: u32, slot: u32) -> Result<[Bank; 2]> {
        let sealed = cut::Sealed {
            window: bank,
            bank,
            barrier: Duration::ZERO,
        };
        let mut banks = sealed.read(&self.maps, &self.gate.sizes, &[slot])?;
        banks.pop().context("one slot, one entry")
    }
}

/// `struct __sk_buff` (include/uapi/linux/bpf.h) with the fields that a test run takes.
pub fn context(way: &Way) -> [u8; 192] {
    const INGRESS_IFINDEX: usize = 36;
    const IFINDEX: usize = 40;
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;
    let mut bytes = [0; 192];
    for (at, value) in [
        (INGRESS_IFINDEX, way.ingress_ifindex),
        (IFINDEX, way.ifindex),
        (GSO_SEGS, way.gso.segments),
        (GSO_SIZE, way.gso.size),
    ] {
        bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

/// What the host's build says must be booked, by slot and direction.
#[derive(Clone, Debug)]
pub struct Ledger {
    zones: usize,
    banks: BTreeMap<(u32, u32), Bank>,
}

impl Ledger {
    /// Nothing booked yet.
    pub fn new(gate: &Gate) -> Self {
        Self {
            zones: gate.sizes.zones as usize,
            banks: BTreeMap::new(),
        }
    }

    /// Books a frame of `len` bytes in the skb.
    pub fn book(&mut self, outcome: &Outcome, direction: u32, len: usize) {
        let empty = || Bank {
            zones: vec![Default::default(); self.zones],
            drops: vec![Default::default(); REASONS_MAX],
            evidence: vec![Default::default(); Class::ALL.len()],
            skbs: Default::default(),
        };
        let bank = self
            .banks
            .entry((outcome.slot, direction))
            .or_insert_with(empty);
        match &outcome.verdict {
            Verdict::Delivered { zone, wire } => {
                let counts = &mut bank.zones[*zone as usize];
                counts.packets += wire.packets;
                counts.l2_bytes += wire.l2_bytes;
                counts.l3_bytes += wire.l3_bytes;
                bank.skbs.delivered += 1;
                bank.skbs.delivered_len += len as u64;
            }
            Verdict::Dropped {
                reason,
                packets,
                l2_bytes,
            } => {
                let counts = &mut bank.drops[*reason as usize];
                counts.packets += packets;
                counts.l2_bytes += l2_bytes;
                bank.skbs.dropped += 1;
                bank.skbs.dropped_len += len as u64;
            }
        }
    }

    /// What stands in one bank; `None` when nothing does.
    pub fn bank(&self, slot: u32, direction: u32) -> Option<&Bank> {
        self.banks.get(&(slot, direction))
    }
}

/// The first difference between two banks, for a message that can be read.
pub fn difference(kernel: &Bank, host: &Bank) -> String {
    let mut text = String::new();
    for (zone, (kernel, host)) in kernel.zones.iter().zip(&host.zones).enumerate() {
        if kernel != host {
            text += &format!("\n  zone {zone}: kernel {kernel:?}, host {host:?}");
        }
    }
    for (reason, (kernel, host)) in kernel.drops.iter().zip(&host.drops).enumerate() {
        if kernel != host {
            text += &format!("\n  reason {reason}: kernel {kernel:?}, host {host:?}");
        }
    }
    if kernel.skbs != host.skbs {
        text += &format!("\n  skbs: kernel {:?}, host {:?}", kernel.skbs, host.skbs);
    }
    text
}
