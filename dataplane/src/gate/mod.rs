//! The gate of one host: opens or adopts what is in the kernel, puts policy in force, and keeps
//! interfaces and programs together.
//!
//! Invariants
//! - A port is *blessed* when its policy is in force and both programs are on its interface and first. Only then may
//!   its frames leave by an uplink or enter another port; its slot is bound last, and until then its programs drop.
//! - The uplinks' guard is attached before any port.
//! - Every public function can be interrupted anywhere (kill -9) and called again.

mod conservation;
mod follow;
mod meter;
mod publish;
mod report;
mod witness;

pub use meter::{Owned, Reading};
pub use report::{
    LiveFlows, Pinned, PortState, PortStatus, UplinkStatus, detach_pinned, read_conversations,
    read_flows, read_pinned,
};
pub use witness::{Side, Witness};

use crate::{
    Result,
    attach::{self, Mechanism},
    cut::{self, Barrier, Sealed},
    encryption::{self, Parts},
    flows::Flows,
    maps::Maps,
    netlink,
    object::{self, Plan},
    pins::Pins,
    policy::{self, Policy, ZoneTable},
    provide::{self, Provided, Providing},
    registers::Both,
    shaping::{self, Shaper},
    share::{self, Queued},
    slots::Slots,
};
use aya::Ebpf;
use conservation::Conservation;
use dataplane_common::abi::{Epoch, slot_state};
use follow::shape_events;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// A gate, open.
pub struct Gate {
    object: Ebpf,
    maps: Maps,
    plan: Plan,
    pins: Pins,
    slots: Slots,
    mechanism: Mechanism,
    shaper: Shaper,
    policy: Policy,
    adopted: bool,
    /// Interface and program that this process has attached, or put in an earlier one's place.
    held: BTreeSet<(u32, &'static str)>,
    /// Slots that were given up, and whose last window is not committed. `None`: nobody meters.
    unsettled: Option<BTreeSet<u32>>,
    /// By slot: an incarnation, and what its registers stood at when it began.
    bases: BTreeMap<u32, (u64, [Both; 2])>,
    /// By tenant: the entry of `FLOW_USE` that its flows are counted in.
    accounts: BTreeMap<u32, u32>,
    /// By tenant: its encryption policy, and its part of the conversations.
    parts: Parts,
    /// The flow table; `None`: nobody meters.
    flows: Option<Flows>,
    /// Whether the last sealed windows add up.
    conservation: Conservation,
    /// Tunnels that this host provides; `None`: nobody has looked yet.
    provided: Option<Provided>,
    /// By set of policy: the zones that are written there, where that is known.
    zones: [Option<ZoneTable>; 2],
    /// By set of policy: whether budgets of bytes may be written there.
    budgets: [bool; 2],
    /// Where the revision in force has packets wait for their share.
    queued: Queued,
    /// How long it took to write the last set of policy.
    writing: Duration,
}

/// Something that an operator wants to know about.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Event {
    /// A port was blessed: name, interface.
    Blessed(String, String),
    /// A port's interface is not there: name, interface.
    Waiting(String, String),
    /// A port's interface went away: name, interface.
    Gone(String, String),
    /// A program was missing and was put back: interface, program.
    Repaired(String, String),
    /// Foreign programs come before ours: interface, their names.
    Foreign(String, Vec<String>),
    /// A tunnel that this host provides changed: its name, or a device; what happened.
    Provided(String, String),
    /// A step failed and is tried again: what, why.
    Failed(String, String),
}

impl Gate {
    /// Opens the gate: adopts the maps that an earlier run pinned, after comparing them, or makes
    /// them; loads the programs. Attaches nothing yet.
    ///
    /// # Errors
    /// Any; what was enforced before stays enforced.
    pub fn open(plan: Plan, pins: Pins) -> Result<Self> {
        pins.prepare()?;
        let adopted = pins.exist();
        let mut object = object::load(&plan, Some(&pins))?;
        let mechanism = attach::mechanism();
        attach::load_programs(&mut object, mechanism, Some(&pins))?;
        let maps = Maps::take(&mut object)?;
        let slots = Slots::open(&maps, &plan)?;
        let parts = Parts::read(&maps, &plan, cut::epoch(&maps)?.policy_set())?;
        Ok(Self {
            object,
            maps,
            plan,
            pins,
            slots,
            mechanism,
            shaper: Shaper::open()?,
            policy: Policy::default(),
            adopted,
            held: BTreeSet::new(),
            unsettled: None,
            bases: BTreeMap::new(),
            accounts: BTreeMap::new(),
            parts,
            flows: None,
            conservation: Conservation::default(),
            provided: None,
            zones: [None, None],
            budgets: [true; 2],
            queued: Queued::new(),
            writing: publish::SWITCH_MARGIN / 2,
        })
    }

    /// True when an earlier run's maps were taken over.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// How programs are attached.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Sizes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Maps, for the cut and for tests.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// The policy in force.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Window and revision in force.
    ///
    /// # Errors
    /// [`crate::Error::Map`].
    pub fn epoch(&self) -> Result<Epoch> {
        cut::epoch(&self.maps)
    }

    /// Closes the open window.
    ///
    /// # Errors
    /// [`crate::Error::Map`].
    pub fn cut(&mut self, barrier: Barrier) -> Result<Sealed> {
        cut::cut(&mut self.maps, barrier)
    }

    /// Puts a policy in force as one revision, all or nothing, and returns its number. Then makes
    /// interfaces and programs follow ([`Gate::reconcile`]).
    ///
    /// # Errors
    /// Any; then the revision before stays in force.
    pub fn apply(&mut self, policy: Policy) -> Result<(u32, Vec<Event>)> {
        policy::check_room(&self.plan, &policy)?;
        encryption::check_room(&self.plan, &policy)?;
        share::check(&policy)?;
        self.allocate_ports(&policy)?;
        let shaped = self.shaper.prepare(&policy, &netlink::interfaces()?);
        let mut events = shape_events(shaped.failed);
        let (revision, switch) = self.publish(&policy)?;
        self.policy = policy;
        events.extend(self.reconcile()?);
        // A line has one corner: the next revision may change it once this one's is behind.
        std::thread::sleep(switch.saturating_duration_since(Instant::now()));
        Ok((revision, events))
    }

    /// Every port, live or retired, with its registers.
    ///
    /// # Errors
    /// [`crate::Error::Map`].
    pub fn ports(&self) -> Result<Vec<PortStatus>> {
        report::ports(
            &self.maps,
            &self.plan,
            &self.slots,
            self.epoch()?,
            Some(&self.shaper),
        )
    }

    /// Every uplink, with what left by it.
    ///
    /// # Errors
    /// [`crate::Error::Map`].
    pub fn uplinks(&self) -> Result<Vec<UplinkStatus>> {
        let read = (&self.maps, &self.pins);
        report::uplinks(read, &self.plan, &self.slots, self.epoch()?)
    }

    /// Every tunnel that this host provides, as of the last [`Gate::reconcile`].
    pub fn provided(&self) -> &[Providing] {
        self.provided.as_ref().map_or(&[], Provided::status)
    }

    /// Takes all programs off: from now on nothing is checked, limited or counted. What was counted stays
    /// readable.
    ///
    /// # Errors
    /// [`crate::Error::Map`].
    pub fn retire_all(&mut self) -> Result<()> {
        let live: Vec<u32> = self
            .slots
            .iter()
            .filter(|(_, book)| matches!(book.state, slot_state::PORT | slot_state::UPLINK))
            .map(|(slot, _)| slot)
            .collect();
        for slot in live {
            self.retire(slot)?;
        }
        Ok(())
    }

    /// Takes everything that octroi put into the kernel out of it.
    ///
    /// # Errors
    /// [`crate::Error::Pin`].
    pub fn detach(mut self) -> Result<()> {
        self.retire_all()?;
        shaping::remove_all()?;
        provide::remove_all()?;
        self.pins.remove()
    }
}
