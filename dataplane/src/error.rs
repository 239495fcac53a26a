//! What can go wrong between the daemon and the kernel. Each message says what to do.

use dataplane_common::units::BitsPerSecond;
use std::{io, path::PathBuf};

/// Result of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the system, not of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no `bpf()`, or not for this process.
    #[error(
        "bpf(): {0}; the kernel must have CONFIG_BPF_SYSCALL, and this process CAP_BPF, \
         CAP_NET_ADMIN and CAP_PERFMON; `octroi doctor` says what is missing"
    )]
    NoBpf(io::Error),
    /// The object could not be loaded.
    #[error("the kernel refused the programs: {reason}; `octroi doctor` says what is missing")]
    Load {
        /// What aya or the verifier said.
        reason: String,
    },
    /// A pin left by an earlier run has another shape.
    #[error(
        "{path}: this pinned map has {found}, this configuration needs {wanted}; the old gate goes \
         on enforcing; keep [host] ports_max, zones_max and flows_max as they were, or run `octroi detach` first"
    )]
    PinShape {
        /// The pin.
        path: PathBuf,
        /// Its shape.
        found: String,
        /// The shape that the configuration asks for.
        wanted: String,
    },
    /// Pins of another ABI.
    #[error(
        "{path}: pins of another version of octroi are there; its gate goes on enforcing; run that \
         version's `octroi detach`, or `octroi detach --all-versions`"
    )]
    PinVersion {
        /// Directory of the other version.
        path: PathBuf,
    },
    /// Tenants share an uplink that does not say what it carries.
    #[error(
        "{interface} has no speed that tenants could share; write its `capacity` in [[uplink]]"
    )]
    NoCapacity {
        /// The uplink.
        interface: String,
    },
    /// More is guaranteed than an uplink carries.
    #[error(
        "the guarantees on {interface} are {guaranteed} together, and it carries {capacity}; guarantee less, or \
         write its `capacity` in [[uplink]]"
    )]
    Guarantees {
        /// The uplink.
        interface: String,
        /// The sum of one direction.
        guaranteed: BitsPerSecond,
        /// What it carries.
        capacity: BitsPerSecond,
    },
    /// No bpffs.
    #[error(
        "{path} is not on a BPF file system; name a [host] pin_dir below {mount}, and run \
         `mount -t bpf bpf {mount}` where none is mounted"
    )]
    NoBpffs {
        /// Where pins should go.
        path: PathBuf,
        /// Where to mount.
        mount: PathBuf,
    },
    /// A file operation on a pin.
    #[error("{path}: {source}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel's BTF does not say what the byte contract needs.
    #[error("/sys/kernel/btf/vmlinux: {0}; the kernel must be built with CONFIG_DEBUG_INFO_BTF")]
    Btf(String),
    /// A map operation.
    #[error("map {map}: {reason}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the system said.
        reason: String,
    },
    /// A program could not be attached.
    #[error("{interface}: cannot attach {program}: {reason}")]
    Attach {
        /// Interface.
        interface: String,
        /// Program.
        program: &'static str,
        /// What the system said.
        reason: String,
    },
    /// The interface does not exist.
    #[error("{0}: there is no such interface; the port is attached as soon as it comes")]
    NoInterface(String),
    /// A tunnel that this host provides.
    #[error("{tunnel}: {reason}; until then nothing goes to its peers")]
    Provide {
        /// Its name, or device.
        tunnel: String,
        /// What the kernel said.
        reason: String,
    },
    /// Every slot has an owner.
    #[error(
        "all {0} register slots are in use; raise [host] ports_max (this needs `octroi detach`)"
    )]
    NoSlot(u32),
    /// A table of the policy is full.
    #[error(
        "{what}: {wanted} do not fit the room of {room} that ports_max gives; the policy before \
         stays in force; write fewer, or raise [host] ports_max (this needs `octroi detach`)"
    )]
    NoRoom {
        /// Which table.
        what: &'static str,
        /// Entries asked for.
        wanted: usize,
        /// Entries that fit.
        room: usize,
    },
    /// Encryption policies ask for more than the gate was made with.
    #[error(
        "{what}: {wanted} do not fit the room of {room}; the policy before stays in force; write fewer, or raise \
         [host] conversations_max (this needs `octroi detach`)"
    )]
    NoRoomForPolicy {
        /// Which table.
        what: &'static str,
        /// Entries asked for.
        wanted: usize,
        /// Entries that fit.
        room: usize,
    },
    /// Netlink.
    #[error("netlink: {0}")]
    Netlink(String),
    /// A queue could not be made, changed or removed.
    #[error("{interface}: its queue: {reason}")]
    Shape {
        /// Device with the queue.
        interface: String,
        /// What the kernel said.
        reason: String,
    },
}

impl Error {
    /// For a map operation.
    pub(crate) fn map(map: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |error| Self::Map {
            map,
            reason: chain(&error),
        }
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line
}
