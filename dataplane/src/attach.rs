//! Putting the programs on interfaces, keeping them there, taking them off.
//!
//! tcx where the kernel has it (6.6): a link, pinned, first in its chain, replaced atomically.
//! Before that, clsact and cls_bpf: no link to pin, so a fixed priority and handle stand for it.

mod xdp;

use crate::{Error, Result, error::chain, netlink::Interface, pins::Pins};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, Link as _, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
};
use std::process::Command;
pub use xdp::{XDP, attach_xdp, detach_xdp, has_xdp};

/// Priority and handle of the cls_bpf filters on kernels without tcx: what a later daemon, and
/// `detach`, recognise as octroi's. "oc" in ASCII.
const PRIORITY: u16 = 1;
const HANDLE: u16 = 0x6F63;

/// How programs are attached on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Mechanism {
    /// tcx links.
    Tcx,
    /// clsact and cls_bpf.
    Clsact,
}

impl Mechanism {
    /// Name in `status` and `doctor`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// A tc program and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Ingress of a port.
    FromTenant,
    /// Egress of a port.
    ToTenant,
    /// Egress of an uplink.
    Guard,
}

impl Hook {
    /// Name of the program, and of its pins.
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromTenant => "from_tenant",
            Self::ToTenant => "to_tenant",
            Self::Guard => "guard",
        }
    }

    /// Name of the program in the object. Kernels without tcx (before 6.6) have a verifier too that
    /// follows no precision into functions (before 6.5): docs/decisions/0008-two-ways-to-parse.md.
    pub const fn in_object(self, mechanism: Mechanism) -> &'static str {
        match (self, mechanism) {
            (Self::FromTenant, Mechanism::Clsact) => "from_tenant_6_1",
            (Self::ToTenant, Mechanism::Clsact) => "to_tenant_6_1",
            _ => self.program(),
        }
    }

    const fn attach_type(self) -> TcAttachType {
        match self {
            Self::FromTenant => TcAttachType::Ingress,
            Self::ToTenant | Self::Guard => TcAttachType::Egress,
        }
    }

    const fn direction(self) -> &'static str {
        match self {
            Self::FromTenant => "ingress",
            Self::ToTenant | Self::Guard => "egress",
        }
    }
}

/// What a look at an interface found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Ours is there and first.
    InPlace,
    /// Ours is there, but these come before it.
    Behind(Vec<String>),
    /// Ours is not there.
    Missing,
}

fn program(object: &mut Ebpf, mechanism: Mechanism, hook: Hook) -> Result<&mut SchedClassifier> {
    let name = hook.in_object(mechanism);
    let missing = || Error::Load {
        reason: format!("no program {name}"),
    };
    object
        .program_mut(name)
        .ok_or_else(missing)?
        .try_into()
        .map_err(|error: aya::programs::ProgramError| Error::Load {
            reason: chain(&error),
        })
}

/// Loads the programs that `mechanism` attaches into the kernel, and pins them.
///
/// # Errors
/// [`Error::Load`] with the verifier's last words.
pub fn load_programs(object: &mut Ebpf, mechanism: Mechanism, pins: Option<&Pins>) -> Result<()> {
    for hook in [Hook::FromTenant, Hook::ToTenant, Hook::Guard] {
        let program = program(object, mechanism, hook)?;
        program.load().map_err(|error| Error::Load {
            reason: chain(&error),
        })?;
        if let Some(pins) = pins {
            let path = pins.program(hook.program());
            let _ = std::fs::remove_file(&path);
            program.pin(&path).map_err(|error| Error::Load {
                reason: chain(&error),
            })?;
        }
    }
    Ok(())
}

/// The chain of an interface's tcx hook, front first: program and link ids. A link id of 0: attached
/// without a link.
///
/// aya's own query opens every program it finds, which takes CAP_SYS_ADMIN; this one takes
/// CAP_NET_ADMIN.
fn tcx_chain(ifindex: u32, hook: TcAttachType) -> std::io::Result<Vec<(u32, u32)>> {
    const BPF_PROG_QUERY: libc::c_long = 16;
    const ROOM: usize = 64;
    /// `bpf_attr.query`, to its end: what is not set must be 0.
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        target_ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        count: u32,
        padding: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let (mut programs, mut links) = ([0_u32; ROOM], [0_u32; ROOM]);
    let mut query = Query {
        target_ifindex: ifindex,
        // BPF_TCX_INGRESS, BPF_TCX_EGRESS
        attach_type: if hook == TcAttachType::Ingress {
            46
        } else {
            47
        },
        prog_ids: programs.as_mut_ptr() as u64,
        link_ids: links.as_mut_ptr() as u64,
        count: ROOM as u32,
        ..Query::default()
    };
    // SAFETY: the structure and both arrays live through the call, and count says their room.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut query,
            size_of::<Query>(),
        )
    };
    if failed != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let count = (query.count as usize).min(ROOM);
    Ok(programs[..count]
        .iter()
        .copied()
        .zip(links[..count].iter().copied())
        .collect())
}

/// Finds out how this kernel attaches, by asking for the tcx chain of the loopback, index 1 in every
/// namespace.
pub fn mechanism() -> Mechanism {
    match tcx_chain(1, TcAttachType::Ingress) {
        Ok(_) => Mechanism::Tcx,
        Err(_) => Mechanism::Clsact,
    }
}

fn attach_error(interface: &Interface, hook: Hook) -> impl Fn(&dyn std::error::Error) -> Error {
    let (interface, program) = (interface.name.clone(), hook.program());
    move |error| Error::Attach {
        interface: interface.clone(),
        program,
        reason: chain(error),
    }
}

/// Attaches a program, or puts this one in the place of an earlier one, with no packet in between
/// that neither sees.
///
/// # Errors
/// [`Error::Attach`].
pub fn attach(
    object: &mut Ebpf,
    mechanism: Mechanism,
    pins: &Pins,
    interface: &Interface,
    hook: Hook,
) -> Result<()> {
    match mechanism {
        Mechanism::Tcx => attach_tcx(object, pins, interface, hook),
        Mechanism::Clsact => attach_clsact(object, pins, interface, hook),
    }
}

fn attach_tcx(object: &mut Ebpf, pins: &Pins, interface: &Interface, hook: Hook) -> Result<()> {
    let failed = attach_error(interface, hook);
    let path = pins.link(interface.index, hook.program());
    let program = program(object, Mechanism::Tcx, hook)?;
    if let Ok(pinned) = PinnedLink::from_pin(&path) {
        let updated = SchedClassifierLink::try_from(FdLink::from(pinned))
            .ok()
            .and_then(|link| program.attach_to_link(link).ok());
        if let Some(id) = updated {
            // Our copy of the descriptor may go: the pin holds the link.
            drop(program.take_link(id).map_err(|error| failed(&error))?);
            if state(Mechanism::Tcx, pins, interface, hook)? != State::Missing {
                return Ok(());
            }
        }
        // The link's device is gone, or it was detached: make a new one.
        let _ = std::fs::remove_file(&path);
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(&interface.name, hook.attach_type(), order)
        .map_err(|error| failed(&error))?;
    let link = program.take_link(id).map_err(|error| failed(&error))?;
    let link = FdLink::try_from(link).map_err(|error| failed(&error))?;
    link.pin(&path).map_err(|error| failed(&error))?;
    Ok(())
}

fn attach_clsact(object: &mut Ebpf, pins: &Pins, interface: &Interface, hook: Hook) -> Result<()> {
    let failed = attach_error(interface, hook);
    // Fails when it is there already; whether it is shows in the next step.
    let _ = tc::qdisc_add_clsact(&interface.name);
    let handle = TcHandle::new(0, HANDLE);
    let present = state(Mechanism::Clsact, pins, interface, hook)? != State::Missing;
    let program = program(object, Mechanism::Clsact, hook)?;
    let id = if present {
        let link = SchedClassifierLink::attached(
            &interface.name,
            hook.attach_type(),
            PRIORITY,
            handle,
            None,
        )
        .map_err(|error| failed(&error))?;
        program
            .attach_to_link(link)
            .map_err(|error| failed(&error))?
    } else {
        let options = NlOptions {
            priority: PRIORITY,
            handle,
            classid: None,
        };
        program
            .attach_with_options(
                &interface.name,
                hook.attach_type(),
                TcAttachOptions::Netlink(options),
            )
            .map_err(|error| failed(&error))?
    };
    // Dropping the link would detach it; a filter lives as long as its interface.
    std::mem::forget(program.take_link(id).map_err(|error| failed(&error))?);
    Ok(())
}

/// Looks whether ours is attached, and first.
///
/// # Errors
/// [`Error::Attach`] when the interface cannot be asked.
pub fn state(
    mechanism: Mechanism,
    pins: &Pins,
    interface: &Interface,
    hook: Hook,
) -> Result<State> {
    let failed = attach_error(interface, hook);
    match mechanism {
        Mechanism::Tcx => {
            let chain =
                tcx_chain(interface.index, hook.attach_type()).map_err(|error| failed(&error))?;
            let ours = PinnedLink::from_pin(pins.link(interface.index, hook.program()))
                .and_then(|link| FdLink::from(link).info())
                .map_or(0, |info| info.id());
            Ok(
                match chain
                    .iter()
                    .position(|(_, link)| ours != 0 && *link == ours)
                {
                    Some(0) => State::InPlace,
                    Some(before) => State::Behind(
                        chain[..before]
                            .iter()
                            .map(|(program, _)| format!("program {program}"))
                            .collect(),
                    ),
                    None => State::Missing,
                },
            )
        }
        Mechanism::Clsact => clsact_state(interface, hook).map_err(|error| failed(&error)),
    }
}

/// Without tcx: the filters of a hook as `tc` lists them, ours known by its fixed handle.
fn clsact_state(interface: &Interface, hook: Hook) -> std::io::Result<State> {
    let output = Command::new("tc")
        .args(["filter", "show", "dev", &interface.name, hook.direction()])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mine = format!("handle {HANDLE:#x} {}", hook.in_object(Mechanism::Clsact));
    let mut filters = text.lines().filter(|line| line.contains("handle"));
    Ok(match filters.position(|line| line.contains(&mine)) {
        Some(0) => State::InPlace,
        Some(_) => State::Behind(vec!["a tc filter".into()]),
        None => State::Missing,
    })
}

/// Programs in the tcx chains of an interface, front first, by number: ingress, then egress. Empty on
/// kernels without tcx.
///
/// # Errors
/// What the kernel said.
pub fn chains(interface: &Interface) -> std::io::Result<[Vec<u32>; 2]> {
    if mechanism() != Mechanism::Tcx {
        return Ok([Vec::new(), Vec::new()]);
    }
    let chain = |hook| -> std::io::Result<Vec<u32>> {
        let chain = tcx_chain(interface.index, hook)?;
        Ok(chain.into_iter().map(|(program, _)| program).collect())
    };
    Ok([chain(TcAttachType::Ingress)?, chain(TcAttachType::Egress)?])
}

/// True when any program is on this interface, ours or not.
pub fn any(interface: &Interface) -> bool {
    match mechanism() {
        Mechanism::Tcx => [TcAttachType::Ingress, TcAttachType::Egress]
            .into_iter()
            .any(|hook| tcx_chain(interface.index, hook).is_ok_and(|chain| !chain.is_empty())),
        Mechanism::Clsact => [Hook::FromTenant, Hook::ToTenant, Hook::Guard]
            .into_iter()
            .any(|hook| clsact_state(interface, hook).is_ok_and(|state| state != State::Missing)),
    }
}

/// Takes a program off an interface. That it is not there is not an error.
pub fn detach(mechanism: Mechanism, pins: &Pins, interface: &Interface, hook: Hook) {
    match mechanism {
        Mechanism::Tcx => remove_link(pins, interface.index, hook),
        Mechanism::Clsact => {
            let link = SchedClassifierLink::attached(
                &interface.name,
                hook.attach_type(),
                PRIORITY,
                TcHandle::new(0, HANDLE),
                None,
            );
            if let Ok(link) = link {
                let _ = link.detach();
            }
        }
    }
}

/// Removes the pin of a link: the link ends with it.
pub fn remove_link(pins: &Pins, ifindex: u32, hook: Hook) {
    let _ = std::fs::remove_file(pins.link(ifindex, hook.program()));
}
