//! The XDP program of an uplink: native, or not at all.
//!
//! In generic mode the skb is there already, merged by GRO and then made linear: it would cost what it is there to spare, and
//! could not tell what is in a merged packet. Who asks for XDP where the driver has none is told so, and the ports' programs
//! do the work.

use crate::{Error, Result, error::chain, netlink::Interface, pins::Pins};
use aya::{
    Ebpf,
    programs::{
        Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};

/// Name of its pin.
pub const XDP: &str = "uplink";

/// In the order in which they are tried: for frames in one buffer, then for those in several, which drivers ask for where the
/// MTU is more than a page holds. The first also has whoever is at the other end of a veth cut what it sends, so that there
/// are frames to count.
const PROGRAMS: [&str; 2] = ["uplink", "uplink_frags"];

/// Attaches the XDP program of an uplink in native mode, or puts this one in the place of an earlier one.
///
/// # Errors
/// [`Error::Attach`], for instance because the driver has no native XDP.
pub fn attach_xdp(object: &mut Ebpf, pins: &Pins, interface: &Interface) -> Result<()> {
    let [whole, frags] = PROGRAMS;
    let first = match attach(object, pins, interface, whole) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    attach(object, pins, interface, frags).map_err(|_| first)
}

fn attach(object: &mut Ebpf, pins: &Pins, interface: &Interface, name: &'static str) -> Result<()> {
    let fail = |reason: String| Error::Attach {
        interface: interface.name.clone(),
        program: name,
        reason,
    };
    let program: &mut Xdp = object
        .program_mut(name)
        .ok_or_else(|| fail("not in the object".into()))?
        .try_into()
        .map_err(|error: aya::programs::ProgramError| fail(chain(&error)))?;
    if program.fd().is_err() {
        program.load().map_err(|error| fail(chain(&error)))?;
    }
    let path = pins.link(interface.index, XDP);
    if let Ok(pinned) = PinnedLink::from_pin(&path)
        && let Ok(link) = XdpLink::try_from(FdLink::from(pinned))
        && let Ok(id) = program.attach_to_link(link)
    {
        drop(program.take_link(id).map_err(|error| fail(chain(&error)))?);
        return Ok(());
    }
    // Another kind of program, another device, or none.
    let _ = std::fs::remove_file(&path);
    let id = program
        .attach(&interface.name, XdpMode::Driver)
        .map_err(|error| fail(chain(&error)))?;
    let link = program.take_link(id).map_err(|error| fail(chain(&error)))?;
    let link = FdLink::try_from(link).map_err(|error| fail(chain(&error)))?;
    link.pin(&path).map_err(|error| fail(chain(&error)))?;
    Ok(())
}

/// Is ours the program at the interface's XDP hook?
pub fn has_xdp(pins: &Pins, interface: &Interface) -> bool {
    interface.xdp != 0
        && PinnedLink::from_pin(pins.link(interface.index, XDP))
            .and_then(|link| FdLink::from(link).info())
            .is_ok_and(|info| info.program_id() == interface.xdp)
}

/// Takes it off: the link ends with its pin. That there is none is no error.
pub fn detach_xdp(pins: &Pins, ifindex: u32) {
    let _ = std::fs::remove_file(pins.link(ifindex, XDP));
}
