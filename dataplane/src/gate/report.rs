//! What is known of the ports, from a running gate or from its pins.

use crate::{
    Error, Result,
    attach::{self, Hook, Mechanism},
    cut,
    encryption::{self, Talking},
    flows::{self, Seen},
    maps::Maps,
    netlink::{self, Interface},
    object::Plan,
    pins::Pins,
    provide,
    registers::{Direction, Reader},
    shaping::{self, InForce, Shaper},
    slots::{Slots, text},
};
use dataplane_common::{
    abi::{
        DIRECTIONS, Epoch, PortPolicy, TO_TENANT,
        share::{UPLINKS_MAX, uplink_index},
        slot_state,
    },
    flood,
};
use std::collections::BTreeMap;

/// Whether a port is enforced and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortState {
    /// Enforced and counted.
    Blessed,
    /// In the policy; its interface is not there, or not yet attached.
    Waiting,
    /// No longer in the policy, or its interface went away: its counts stay.
    Retired,
}

/// What is known of a port.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct PortStatus {
    /// Name.
    pub name: String,
    /// Tenant's number.
    pub tenant: u32,
    /// Interface.
    pub interface: String,
    /// Interface index; 0: none.
    pub ifindex: u32,
    /// VLAN id, 0: none.
    pub vlan: u32,
    /// Register slot.
    pub slot: u32,
    /// Number of this incarnation.
    pub incarnation: u64,
    /// Blessed or not.
    pub state: PortState,
    /// What the interface had counted before octroi: rx packets, rx bytes, tx packets, tx bytes.
    pub before_attach: [u64; 4],
    /// How the ceilings from and to the tenant are held.
    pub shape: [InForce; 2],
    /// From the tenant.
    pub from_tenant: Direction,
    /// To the tenant.
    pub to_tenant: Direction,
}

/// What is known of an uplink.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct UplinkStatus {
    /// Interface.
    pub interface: String,
    /// Interface index; 0: none.
    pub ifindex: u32,
    /// What becomes of overlays in clear that the host itself sends: `allow`, `count` or `drop`.
    pub clear_overlays: String,
    /// Whether floods end there before an skb exists: `off`; `native`; `refused`, where the driver has no native XDP.
    #[serde(default)]
    pub xdp: String,
    /// What left, and what the guard did not let out.
    pub leaving: Direction,
}

/// Uplinks of the policy in force.
pub(super) fn uplinks(
    (maps, pins): (&Maps, &Pins),
    plan: &Plan,
    slots: &Slots,
    epoch: Epoch,
) -> Result<Vec<UplinkStatus>> {
    let mut registers = Reader::new(maps, &plan.sizes);
    let live = slots
        .iter()
        .filter(|(_, book)| book.state == slot_state::UPLINK);
    live.map(|(slot, book)| {
        let index = plan.sizes.port(epoch.policy_set(), slot);
        let entry = maps.ports.get(index)?;
        let interface = text(&book.interface);
        // What its hook has is asked of the kernel only where it matters: that lists all interfaces.
        let xdp = if !entry.has(flood::POLICES) {
            "off"
        } else if netlink::interfaces()?
            .get(&interface)
            .is_some_and(|interface| attach::has_xdp(pins, interface))
        {
            "native"
        } else {
            "refused"
        };
        Ok(UplinkStatus {
            interface,
            ifindex: book.ifindex,
            xdp: xdp.into(),
            clear_overlays: if entry.has(PortPolicy::DROPS_CLEAR_OVERLAYS) {
                "drop"
            } else if entry.has(PortPolicy::COUNTS_CLEAR_OVERLAYS) {
                "count"
            } else {
                "allow"
            }
            .into(),
            leaving: registers.read(slot, TO_TENANT)?,
        })
    })
    .collect()
}

pub(super) fn ports(
    maps: &Maps,
    plan: &Plan,
    slots: &Slots,
    epoch: Epoch,
    shaper: Option<&Shaper>,
) -> Result<Vec<PortStatus>> {
    let mut found = Vec::new();
    let drops = shaping::drops()?;
    let mut registers = Reader::new(maps, &plan.sizes);
    for (slot, book) in slots.iter() {
        let state = match (book.state, book.blessed) {
            (slot_state::PORT, 1) => PortState::Blessed,
            (slot_state::PORT, _) => PortState::Waiting,
            (slot_state::RETIRED, _) if book.tenant != 0 => PortState::Retired,
            _ => continue,
        };
        let index = plan.sizes.port(epoch.policy_set(), slot);
        let entry = maps.ports.get(index)?;
        let name = text(&book.name);
        let choices = shaper.and_then(|shaper| shaper.of(&name));
        let shape = [0, 1].map(|direction| {
            let choice = choices.map(|choices| &choices[direction as usize]);
            InForce::of(&entry, direction, book.ifindex, choice, &drops)
        });
        found.push(PortStatus {
            name,
            tenant: book.tenant,
            interface: text(&book.interface),
            ifindex: book.ifindex,
            vlan: book.vlan,
            slot,
            incarnation: book.incarnation,
            state,
            before_attach: book.before_attach,
            shape,
            from_tenant: registers.read(slot, 0)?,
            to_tenant: registers.read(slot, 1)?,
        });
    }
    Ok(found)
}

/// A gate as its pins have it.
pub struct Pinned {
    /// Window and revision in force.
    pub epoch: Epoch,
    /// Ports, retired ones too.
    pub ports: Vec<PortStatus>,
    /// Uplinks.
    pub uplinks: Vec<UplinkStatus>,
    /// What an skb pays above its bytes, bytes: the same at all limits.
    pub packet_price: u32,
}

/// The price of a packet in the policy in force, as its limits have it: without any there is none to pay.
fn packet_price(maps: &Maps, plan: &Plan, epoch: Epoch) -> Result<u32> {
    let set = epoch.policy_set();
    let mut most = 0;
    let all = maps
        .ports
        .values(plan.sizes.port(set, 0), plan.sizes.slots)?;
    for entry in all {
        most = most
            .max(entry.limits[0][0].price)
            .max(entry.limits[1][0].price);
    }
    for (uplink, direction) in (0..UPLINKS_MAX).flat_map(|uplink| [(uplink, 0), (uplink, 1)]) {
        let index = uplink_index(set, uplink, direction);
        let link = maps
            .uplinks
            .get(&index, 0)
            .map_err(Error::map("UPLINKS"))?
            .0;
        most = most.max(link.price);
    }
    Ok(most)
}

/// Reads a pinned gate without a daemon.
///
/// # Errors
/// [`Error::Map`] when the pins are not there.
pub fn read_pinned(pins: &Pins) -> Result<Pinned> {
    let maps = Maps::open(pins)?;
    let plan = pinned_plan(pins)?;
    let slots = Slots::open(&maps, &plan)?;
    let epoch = cut::epoch(&maps)?;
    Ok(Pinned {
        epoch,
        ports: ports(&maps, &plan, &slots, epoch, None)?,
        uplinks: uplinks((&maps, pins), &plan, &slots, epoch)?,
        packet_price: packet_price(&maps, &plan, epoch)?,
    })
}

/// Flows in the table now, with the names of their ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LiveFlows {
    /// What is in the table.
    pub seen: Seen,
    /// By register slot: name and tenant of the port.
    pub ports: BTreeMap<u16, (String, u32)>,
}

impl LiveFlows {
    /// The flows of a tenant's ports, of one of them, or of all.
    pub(super) fn look(
        slots: &Slots,
        (tenant, port): (Option<u32>, Option<&str>),
        look: impl FnOnce(&dyn Fn(u32) -> bool) -> Result<Seen>,
    ) -> Result<Self> {
        let owners = slots.iter().filter_map(|(slot, book)| {
            let name = text(&book.name);
            let wanted = book.state == slot_state::PORT
                && tenant.is_none_or(|tenant| tenant == book.tenant)
                && port.is_none_or(|port| port == name);
            wanted.then_some((u16::try_from(slot).ok()?, (name, book.tenant)))
        });
        let ports: BTreeMap<u16, (String, u32)> = owners.collect();
        let wanted = |slot| u16::try_from(slot).is_ok_and(|slot| ports.contains_key(&slot));
        let seen = look(&wanted)?;
        Ok(Self { seen, ports })
    }
}

/// The flows that are in a pinned table now, without a daemon: of a tenant's ports, of one port, or of all.
///
/// # Errors
/// [`Error::Map`] when the pins are not there.
pub fn read_flows(pins: &Pins, tenant: Option<u32>, port: Option<&str>) -> Result<LiveFlows> {
    let maps = Maps::open(pins)?;
    let slots = Slots::open(&maps, &pinned_plan(pins)?)?;
    let places = entries(pins, "FLOW_KEYS")?;
    LiveFlows::look(&slots, (tenant, port), |wanted| {
        flows::look(&maps, places, wanted)
    })
}

/// What is known of the conversations of tenants with an encryption policy, from the pins.
///
/// # Errors
/// [`Error::Map`] when the pins are not there.
pub fn read_conversations(pins: &Pins) -> Result<Vec<Talking>> {
    let maps = Maps::open(pins)?;
    let plan = pinned_plan(pins)?;
    encryption::conversations(&maps, &plan, cut::epoch(&maps)?.policy_set())
}

/// Takes a pinned gate out of the kernel without a daemon.
///
/// # Errors
/// [`Error::Pin`].
pub fn detach_pinned(pins: &Pins) -> Result<()> {
    let mechanism = attach::mechanism();
    if mechanism == Mechanism::Clsact {
        let maps = Maps::open(pins)?;
        let slots = Slots::open(&maps, &pinned_plan(pins)?)?;
        for (_, book) in slots.iter().filter(|(_, book)| book.ifindex != 0) {
            let interface = Interface {
                index: book.ifindex,
                name: text(&book.interface),
                ..Default::default()
            };
            for hook in [Hook::FromTenant, Hook::ToTenant, Hook::Guard] {
                attach::detach(mechanism, pins, &interface, hook);
            }
        }
    }
    pins.remove()?;
    shaping::remove_all()?;
    provide::remove_all()
}

/// The sizes that pinned maps were made with.
fn pinned_plan(pins: &Pins) -> Result<Plan> {
    let slots = entries(pins, "SLOTS")?;
    let zones = entries(pins, "BASE_REGISTERS")? / (slots * DIRECTIONS);
    let mut plan = Plan::new(1, zones);
    plan.sizes.slots = slots;
    Ok(plan)
}

/// Entries of a pinned map.
fn entries(pins: &Pins, name: &'static str) -> Result<u32> {
    aya::maps::MapInfo::from_pin(pins.map(name))
        .map(|info| info.max_entries())
        .map_err(Error::map(name))
}
