//! Where everything is pinned, and whether what an earlier run left can be taken over.
//!
//! `PIN_DIR/v{ABI}/maps/NAME`, `…/programs/NAME`, `…/links/{ifindex}-{program}`. aya adopts a pinned
//! map without comparing it: [`Pins::check`] does, before any use.

use crate::{
    Error, Result,
    error::chain,
    host,
    maps::{Block, NAMES},
    object::Plan,
};
use aya::maps::MapInfo;
use dataplane_common::abi::quota::{Marks, QuotaCounts, QuotaPolicy};
use dataplane_common::abi::share::{ShareClocks, SharePolicy, UplinkPolicy, UplinkShare};
use dataplane_common::abi::{
    ABI_VERSION, AddressKey, Anchor, Binding, BindingKey, Drops, MacKey, PortPolicy, Register,
    Skbs, Slot, ZoneKey,
};
use dataplane_common::encryption::{Bucket, Policy, Rule};
use dataplane_common::flow::{Flow, FlowCounts, FlowKey, FlowOpened, FlowRing};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The pins of one gate.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

/// Key bytes, value bytes of each map.
fn shape(name: &str) -> (usize, usize) {
    match name {
        "EPOCH" | "CLOCKS" | "INTERFACES" => (4, 8),
        "BARRIER" => (4, 4),
        "BINDINGS" => (size_of::<BindingKey>(), size_of::<Binding>()),
        "BLESSED" | "TRUSTED" => (4, 8),
        "PORTS" => (4, size_of::<PortPolicy>()),
        "SHARES" => (4, size_of::<SharePolicy>()),
        "SHARE_CLOCKS" => (4, size_of::<ShareClocks>()),
        "UPLINKS" => (4, size_of::<UplinkPolicy>()),
        "UPLINK_SHARE" => (4, size_of::<UplinkShare>()),
        "QUOTAS" => (4, size_of::<QuotaPolicy>()),
        "QUOTA_COUNTS" => (4, size_of::<QuotaCounts>()),
        "MARKS" => (4, size_of::<Block<Marks>>()),
        "BASE_MARKS" => (4, size_of::<Marks>()),
        "MACS" => (size_of::<MacKey>(), 4),
        "ADDRESSES" => (4 + size_of::<AddressKey>(), 4),
        "ZONES" => (4 + size_of::<ZoneKey>(), 4),
        "REGISTERS" => (4, size_of::<Block<Register>>()),
        "DROPS" => (4, size_of::<Block<Drops>>()),
        "SKBS" => (4, size_of::<Block<Skbs>>()),
        "BASE_REGISTERS" => (4, size_of::<Register>()),
        "BASE_DROPS" => (4, size_of::<Drops>()),
        "BASE_SKBS" => (4, size_of::<Skbs>()),
        "FLOWS" => (size_of::<FlowKey>(), size_of::<Flow>()),
        "FLOW_KEYS" => (4, size_of::<FlowOpened>()),
        "FLOW_COUNTS" => (4, size_of::<FlowCounts>()),
        "FLOW_FREE" | "FLOW_SPARE" => (4, 4),
        "FLOW_RING" => (4, size_of::<FlowRing>()),
        "FLOW_USE" => (4, 8),
        "UNATTRIBUTED" => (4, size_of::<Register>()),
        "POLICIES" => (4, size_of::<Policy>()),
        "RULES" => (4, size_of::<Rule>()),
        "CONVERSATIONS" => (4, size_of::<Bucket>()),
        "EXEMPT_DUE" => (4, 8),
        "EVIDENCE" => (4, size_of::<Block<Drops>>()),
        "BASE_EVIDENCE" => (4, size_of::<Drops>()),
        "SLOTS" => (4, size_of::<Slot>()),
        "ANCHOR" => (4, size_of::<Anchor>()),
        _ => (0, 0),
    }
}

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Map type (`BPF_MAP_TYPE_*`) and flags of each map.
fn kind(name: &str) -> (u32, u32) {
    match name {
        "BARRIER" => (12, 0),
        "BINDINGS" | "MACS" | "FLOWS" => (1, 0),
        "PORTS" | "CLOCKS" | "FLOW_KEYS" | "FLOW_COUNTS" | "FLOW_FREE" | "FLOW_RING"
        | "FLOW_USE" | "UNATTRIBUTED" => (2, MMAPABLE),
        "BLESSED" | "TRUSTED" => (25, 0),
        "ADDRESSES" | "ZONES" => (11, 1),
        "REGISTERS" | "DROPS" | "SKBS" | "EVIDENCE" | "MARKS" | "FLOW_SPARE" => (6, 0),
        _ => (2, 0),
    }
}

/// A pinned map's shape, as it is compared before it is adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Name in the object and of the pin.
    pub name: &'static str,
    /// `BPF_MAP_TYPE_*`.
    pub map_type: u32,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Bytes of a value, on one CPU.
    pub value_bytes: usize,
    /// `BPF_F_*`.
    pub flags: u32,
}

/// The shape of every pinned map; how many entries it has is for the [`Plan`] to say.
pub fn shapes() -> [Shape; NAMES.len()] {
    NAMES.map(|name| {
        let (map_type, flags) = kind(name);
        let (key_bytes, value_bytes) = shape(name);
        Shape {
            name,
            map_type,
            key_bytes,
            value_bytes,
            flags,
        }
    })
}

impl Pins {
    /// Pins below `pin_dir` (a directory on a bpffs), of this ABI.
    pub fn new(pin_dir: &Path) -> Self {
        Self {
            root: pin_dir.join(format!("v{ABI_VERSION}")),
        }
    }

    /// Directory of this ABI.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.root.join("programs").join(name)
    }

    pub(crate) fn link(&self, ifindex: u32, program: &str) -> PathBuf {
        self.root.join("links").join(format!("{ifindex}-{program}"))
    }

    /// True when an earlier run left a gate here.
    pub fn exist(&self) -> bool {
        self.map("EPOCH").exists()
    }

    /// Makes the directories.
    ///
    /// # Errors
    /// [`Error::NoBpf`], [`Error::NoBpffs`], [`Error::PinVersion`], [`Error::Pin`].
    pub fn prepare(&self) -> Result<()> {
        host::require_bpf()?;
        let pin_dir = self.root.parent().unwrap_or(&self.root);
        let mut below = pin_dir;
        while !below.exists() {
            below = below.parent().unwrap_or(Path::new("/"));
        }
        let mount = PathBuf::from("/sys/fs/bpf");
        let made = || pin_dir.starts_with(&mount) && mount_bpffs(&mount);
        if !on_bpffs(below) && !made() {
            return Err(Error::NoBpffs {
                path: pin_dir.into(),
                mount,
            });
        }
        if let Some(path) = self.other_versions().into_iter().next() {
            return Err(Error::PinVersion { path });
        }
        for directory in ["maps", "programs", "links"] {
            let path = self.root.join(directory);
            fs::create_dir_all(&path).map_err(|source| Error::Pin { path, source })?;
        }
        Ok(())
    }

    /// Directories of other ABI versions beside this one.
    pub fn other_versions(&self) -> Vec<PathBuf> {
        let Some(Ok(entries)) = self.root.parent().map(fs::read_dir) else {
            return Vec::new();
        };
        let mut found: Vec<_> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| *path != self.root && is_version(path) && path.join("maps").exists())
            .collect();
        found.sort();
        found
    }

    /// Compares every pinned map with what `plan` needs: type, key, value, entries, flags.
    ///
    /// # Errors
    /// [`Error::PinShape`] for the first that differs.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        let reasons = plan.sizes.slots * 2 * dataplane_common::reason::REASONS_MAX as u32;
        for name in NAMES {
            let path = self.map(name);
            if !path.exists() {
                continue;
            }
            let entries = plan
                .entries()
                .into_iter()
                .find(|(known, _)| *known == name)
                .map_or(reasons, |(_, entries)| entries);
            let (map_type, flags) = kind(name);
            let (key, value) = shape(name);
            let wanted = describe(map_type, key as u32, value as u32, entries, flags);
            let info = MapInfo::from_pin(&path).map_err(|error| Error::Pin {
                path: path.clone(),
                source: io::Error::other(chain(&error)),
            })?;
            let found_type = info.map_type().map_or(0, |kind| kind as u32);
            let found = describe(
                found_type,
                info.key_size(),
                info.value_size(),
                info.max_entries(),
                // BPF_F_RDONLY_PROG and its like are the kernel's own; only these are ours.
                info.map_flags() & (1 | MMAPABLE),
            );
            if found != wanted {
                return Err(Error::PinShape {
                    path,
                    found,
                    wanted,
                });
            }
        }
        Ok(())
    }

    /// Removes every pin of this version. Links end with their pins.
    ///
    /// # Errors
    /// [`Error::Pin`].
    pub fn remove(&self) -> Result<()> {
        remove_tree(&self.root)
    }

    /// Removes the pins of every version.
    ///
    /// # Errors
    /// [`Error::Pin`].
    pub fn remove_all_versions(&self) -> Result<()> {
        for path in self.other_versions() {
            remove_tree(&path)?;
        }
        self.remove()
    }
}

fn describe(kind: u32, key: u32, value: u32, entries: u32, flags: u32) -> String {
    format!("type {kind}, key {key} B, value {value} B, {entries} entries, flags {flags}")
}

fn is_version(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.strip_prefix('v')
        .is_some_and(|digits| digits.parse::<u32>().is_ok())
}

/// bpffs has no rename and no recursive remove of its own; std's works entry by entry.
fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Pin {
            path: path.into(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Mounts a bpffs where systemd would have; false when that is not allowed.
fn mount_bpffs(at: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let Ok(at) = std::ffi::CString::new(at.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: all strings are terminated; no data.
    unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            at.as_ptr(),
            c"bpf".as_ptr(),
            0,
            std::ptr::null(),
        ) == 0
    }
}

fn on_bpffs(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    const BPF_FS_MAGIC: i64 = 0xCAFE_4A11;
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: statfs fills a plain struct; zero is a valid one.
    unsafe {
        let mut info: libc::statfs = std::mem::zeroed();
        libc::statfs(path.as_ptr(), &mut info) == 0 && info.f_type as i64 == BPF_FS_MAGIC
    }
}
