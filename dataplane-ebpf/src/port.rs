//! Which port a packet belongs to: by the interface that it crosses, never by an address in it.

use crate::maps;
use dataplane_common::{
    abi::{Binding, BindingKey, Epoch, InterfaceSlot, PortPolicy},
    reason::DropReason,
};

/// The register slot of the port on `ifindex`; `vlan` is the frame's outermost tag, if it could be
/// parsed.
///
/// # Errors
/// [`DropReason::UnknownPort`].
#[inline(always)]
pub fn slot(ifindex: u32, vlan: Option<u16>) -> Result<u32, DropReason> {
    if let Some(interface) = maps::INTERFACES.get(InterfaceSlot::place(ifindex)) {
        // SAFETY: a u64 that is stored whole.
        let interface = InterfaceSlot(unsafe { core::ptr::from_ref(interface).read_volatile() });
        if interface.ifindex() == ifindex {
            return Ok(interface.slot());
        }
    }
    let mut key = BindingKey { ifindex, vlan: 0 };
    // SAFETY: values are plain data that the daemon replaces whole.
    let binding = unsafe { maps::BINDINGS.get(&key) }.ok_or(DropReason::UnknownPort)?;
    if binding.slot != Binding::SHARED {
        return Ok(binding.slot);
    }
    key.vlan = match vlan {
        Some(vlan) if vlan != 0 => vlan as u32,
        _ => return Err(DropReason::UnknownPort),
    };
    // SAFETY: as above.
    let binding = unsafe { maps::BINDINGS.get(&key) }.ok_or(DropReason::UnknownPort)?;
    Ok(binding.slot)
}

/// The port's policy in the revision of `epoch`.
///
/// # Errors
/// [`DropReason::PortInactive`].
#[inline(always)]
pub fn policy(epoch: Epoch, slot: u32) -> Result<&'static PortPolicy, DropReason> {
    match maps::PORTS.get(maps::slots().port(epoch.policy_set(), slot)) {
        Some(port) if port.has(PortPolicy::ACTIVE) => Ok(port),
        _ => Err(DropReason::PortInactive),
    }
}

/// Where a frame that leaves through a device came in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The host itself made it.
    Host,
    /// A blessed port.
    Port,
    /// An uplink, or an interface that the configuration trusts.
    Trusted,
    /// None of these.
    Unknown,
}

/// The source of a frame with this `ingress_ifindex`.
#[inline(always)]
pub fn source(ingress_ifindex: u32) -> Source {
    if ingress_ifindex == 0 {
        Source::Host
    } else if maps::BLESSED.get_ifindex(ingress_ifindex).is_some() {
        Source::Port
    } else if maps::TRUSTED.get_ifindex(ingress_ifindex).is_some() {
        Source::Trusted
    } else {
        Source::Unknown
    }
}
