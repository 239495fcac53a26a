//! What carries packets past the gate: past the kernel altogether, past its tc hooks, or through a
//! program that has its say before ours.
//!
//! Hints, not proofs: which interfaces are ports and uplinks is known to a configuration only.

use super::read;
use dataplane::{
    attach, host,
    netlink::{self, Interface},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
};

/// A way past the gate.
#[derive(Debug, Serialize)]
pub struct Bypass {
    /// Interface, device or file.
    pub at: String,
    /// What is there.
    pub found: String,
    /// What of its packets the gate does not see.
    pub cost: &'static str,
    /// What to do about it.
    pub r#do: &'static str,
}

/// Other namespaces that are looked into, at most.
const NAMESPACES_MAX: usize = 256;

/// Names of octroi's programs.
const OURS: [&str; 7] = [
    "from_tenant",
    "from_tenant_6_1",
    "to_tenant",
    "to_tenant_6_1",
    "guard",
    "uplink",
    "uplink_frags",
];

/// All that can be seen from here.
pub(super) fn all() -> Vec<Bypass> {
    let mut found = Vec::new();
    match netlink::interfaces() {
        Ok(interfaces) => {
            let programs = host::program_names();
            for interface in interfaces.values() {
                found.extend(kind(interface));
                found.extend(hardware(interface));
                found.extend(ahead(interface, &programs));
            }
        }
        Err(error) => found.push(Bypass {
            at: "interfaces".into(),
            found: error.to_string(),
            cost: "none of them was looked at",
            r#do: "run `octroi doctor` where netlink can be used",
        }),
    }
    found.extend(devices());
    found.extend(vhost_user(&read("/proc/net/unix")));
    found.extend(namespaces());
    found
}

/// Interfaces whose packets do not come by the one below.
fn kind(interface: &Interface) -> Option<Bypass> {
    let (cost, todo) = match interface.kind.as_str() {
        "macvtap" | "macvlan" | "ipvlan" | "ipvtap" => (
            "its guests send by the lower device, and to each other, without passing a port",
            "give tenants a tap or a veth on a bridge",
        ),
        "openvswitch" => (
            "with DPDK or offloaded flows, packets pass no tc hook",
            "use Open vSwitch's kernel datapath, other_config:hw-offload=false",
        ),
        _ => return None,
    };
    let lower = lower(&interface.name);
    Some(Bypass {
        at: interface.name.clone(),
        found: match lower.as_str() {
            "" => interface.kind.clone(),
            lower => format!("{} on {lower}", interface.kind),
        },
        cost,
        r#do: todo,
    })
}

/// Names of the devices below, as sysfs links them.
fn lower(name: &str) -> String {
    let entries = fs::read_dir(format!("/sys/class/net/{name}"));
    let names = entries.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.strip_prefix("lower_").map(str::to_owned)
    });
    names.collect::<Vec<_>>().join(", ")
}

/// What a network card does by itself.
fn hardware(interface: &Interface) -> Vec<Bypass> {
    let name = &interface.name;
    let device = PathBuf::from(format!("/sys/class/net/{name}/device"));
    if !device.exists() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let functions = read(device.join("sriov_numvfs"));
    if functions.parse::<u32>().is_ok_and(|count| count > 0) {
        found.push(Bypass {
            at: name.clone(),
            found: format!("{functions} SR-IOV functions"),
            cost: "what a guest sends by one never enters this kernel",
            r#do: "give none to tenants, or limit them on the card (`ip link set … vf … max_tx_rate`)",
        });
    }
    if hw_tc_offload(name) {
        found.push(Bypass {
            at: name.clone(),
            found: "hw-tc-offload is on".into(),
            cost: "packets of an offloaded flower filter are forwarded by the card, uncounted",
            r#do: "`ethtool -K … hw-tc-offload off`, or filters with skip_hw",
        });
    }
    found
}

/// As `ethtool` says; false where it is not installed or the card cannot do it.
fn hw_tc_offload(name: &str) -> bool {
    let output = Command::new("ethtool").arg("-k").arg(name).output();
    output.is_ok_and(|output| offload_is_on(&String::from_utf8_lossy(&output.stdout)))
}

fn offload_is_on(features: &str) -> bool {
    features
        .lines()
        .filter_map(|line| line.trim().strip_prefix("hw-tc-offload:"))
        .any(|state| state.trim().starts_with("on"))
}

/// Programs that see a packet before octroi's do.
fn ahead(interface: &Interface, programs: &BTreeMap<u32, String>) -> Vec<Bypass> {
    let mut found = Vec::new();
    let name = |program: &u32| match programs.get(program) {
        Some(name) => format!("{name} ({program})"),
        None => format!("number {program}"),
    };
    let ours = |program: &u32| {
        programs
            .get(program)
            .is_some_and(|name| OURS.contains(&name.as_str()))
    };
    if interface.xdp != 0 && !ours(&interface.xdp) {
        let mode = if interface.xdp_generic {
            "generic"
        } else {
            "native"
        };
        found.push(Bypass {
            at: interface.name.clone(),
            found: format!("{mode} XDP program {}", name(&interface.xdp)),
            cost: if interface.xdp_generic {
                "it comes before tc, may redirect, and takes segmentation offload from its peer"
            } else {
                "it comes before tc: what it redirects or sends back is not seen"
            },
            r#do: "take it off ports; on uplinks make sure that it only drops",
        });
    }
    for (chain, direction) in attach::chains(interface)
        .unwrap_or_default()
        .iter()
        .zip(["ingress", "egress"])
    {
        // Where none of ours is, it is no port or uplink of a running gate; a new one goes first.
        let before = chain.iter().position(ours).unwrap_or(0);
        if before > 0 {
            let names: Vec<_> = chain[..before].iter().map(name).collect();
            found.push(Bypass {
                at: interface.name.clone(),
                found: format!("{direction} program {} ahead of octroi's", names.join(", ")),
                cost: "what it passes, redirects or drops is not counted or limited",
                r#do: "a running daemon goes ahead again within a second; attach it behind (tcx `after`)",
            });
        }
    }
    found
}

/// Devices that belong to a guest or to a program in user space.
fn devices() -> Vec<Bypass> {
    let mut found = Vec::new();
    for driver in ["vfio-pci", "uio_pci_generic", "igb_uio"] {
        let entries = fs::read_dir(Path::new("/sys/bus/pci/drivers").join(driver));
        for entry in entries.into_iter().flatten().flatten() {
            // Class 02: a network controller.
            if read(entry.path().join("class")).starts_with("0x02") {
                found.push(Bypass {
                    at: entry.file_name().to_string_lossy().into_owned(),
                    found: format!("a network card bound to {driver}"),
                    cost: "its guest, or DPDK, sends past this kernel",
                    r#do: "give it to no tenant that this host must limit or bill",
                });
            }
        }
    }
    let vdpa = fs::read_dir("/sys/bus/vdpa/devices");
    found.extend(vdpa.into_iter().flatten().flatten().map(|entry| Bypass {
        at: entry.file_name().to_string_lossy().into_owned(),
        found: "a vDPA device".into(),
        cost: "its guest's queues are the card's: packets do not enter this kernel",
        r#do: "give it to no tenant that this host must limit or bill",
    }));
    found
}

/// Sockets by which a guest shares its memory with a switch in user space, by the names that QEMU's and
/// Open vSwitch's users give them. `table` is /proc/net/unix.
fn vhost_user(table: &str) -> Vec<Bypass> {
    let mut paths: Vec<_> = table
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(7))
        .filter(|path| {
            let name = path.rsplit('/').next().unwrap_or_default();
            name.starts_with("vhu") || name.contains("vhost-user") || name.contains("vhost_user")
        })
        .collect();
    paths.sort_unstable();
    paths.dedup();
    let one = |path: &str| Bypass {
        at: path.to_owned(),
        found: "a vhost-user socket".into(),
        cost: "the guest behind it sends to a switch in user space, past this kernel",
        r#do: "connect tenants by vhost-net and a tap",
    };
    paths.into_iter().map(one).collect()
}

/// Taps and cards in other namespaces: a gate sees those of its own only.
fn namespaces() -> Vec<Bypass> {
    let inode = |path: &Path| fs::metadata(path).map(|data| data.ino()).ok();
    let own = inode(Path::new("/proc/self/ns/net"));
    let mut found = Vec::new();
    let entries = ["/run/netns", "/run/docker/netns"].map(fs::read_dir);
    for entry in entries.into_iter().flatten().flatten().flatten() {
        if found.len() >= NAMESPACES_MAX || inode(&entry.path()) == own {
            continue;
        }
        let Some(interfaces) = inside(&entry.path()) else {
            continue;
        };
        let links: Vec<_> = interfaces
            .values()
            .filter(|link| link.kind == "tun" || (link.kind.is_empty() && link.name != "lo"))
            .map(|link| link.name.as_str())
            .collect();
        if !links.is_empty() {
            found.push(Bypass {
                at: entry.path().display().to_string(),
                found: format!("another network namespace with {}", links.join(", ")),
                cost: "its taps and cards are not in this namespace: the gate does not see them",
                r#do: "run another octroi there, with a pin_dir and run_dir of its own",
            });
        }
    }
    found
}

/// Interfaces of a namespace; `None` where this process may not enter it.
fn inside(namespace: &Path) -> Option<BTreeMap<String, Interface>> {
    let file = File::open(namespace).ok()?;
    let look = move || {
        // SAFETY: the descriptor is open; concerns this thread alone, which ends with this closure.
        let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } == 0;
        entered.then(netlink::interfaces)
    };
    std::thread::spawn(look).join().ok()??.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(kind: &str, xdp: u32) -> Interface {
        Interface {
            name: "x0".into(),
            kind: kind.into(),
            xdp,
            ..Interface::default()
        }
    }

    #[test]
    fn interfaces_beside_the_gate_are_named() {
        for beside in ["macvtap", "macvlan", "ipvlan", "ipvtap", "openvswitch"] {
            assert!(kind(&interface(beside, 0)).is_some(), "{beside}");
        }
        for through in ["veth", "tun", "bridge", "bond", ""] {
            assert!(kind(&interface(through, 0)).is_none(), "{through}");
        }
    }

    #[test]
    fn an_xdp_program_is_ahead_unless_it_is_ours() {
        let programs = BTreeMap::from([(7, "uplink".to_owned()), (8, "xdp_lb".to_owned())]);
        assert!(ahead(&interface("veth", 7), &programs).is_empty());
        let found = ahead(&interface("veth", 8), &programs);
        assert_eq!(found[0].found, "native XDP program xdp_lb (8)");
        assert_eq!(ahead(&interface("veth", 9), &programs).len(), 1);
    }

    #[test]
    fn offloading_counts_only_when_it_is_on() {
        assert!(offload_is_on("Features for x:\nhw-tc-offload: on\n"));
        assert!(!offload_is_on("hw-tc-offload: off [fixed]\n"));
        assert!(!offload_is_on(""));
    }

    #[test]
    fn vhost_user_sockets_are_known_by_name_and_told_once() {
        let table = "Num RefCount Protocol Flags Type St Inode Path\n\
            0: 00000002 00000000 00010000 0001 01 1 /run/openvswitch/vhu12\n\
            0: 00000002 00000000 00010000 0001 03 2 /run/openvswitch/vhu12\n\
            0: 00000002 00000000 00010000 0001 01 3 /tmp/vhost-user-net0.sock\n\
            0: 00000002 00000000 00010000 0001 01 4 /run/dbus/system_bus_socket\n\
            0: 00000002 00000000 00010000 0001 01 5\n";
        let found = vhost_user(table);
        let at: Vec<_> = found.iter().map(|way| way.at.as_str()).collect();
        assert_eq!(at, ["/run/openvswitch/vhu12", "/tmp/vhost-user-net0.sock"]);
    }
}
