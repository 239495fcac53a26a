//! What the ports' interfaces say themselves, for the audit of each window: read before the next window
//! is published, and once more when the window is sealed.
//!
//! It knows what an interface counts and when, and says so in numbers that mean the same for all of them
//! ([`Side`]). Only kinds whose counting is known bear witness: veth and tap. Where the numbers below come
//! from: `docs/decisions/0013-the-interface-is-a-second-witness.md`.
//!
//! What it is not: it compares nothing, and a failure here stops no cut.

use super::Gate;
use crate::{
    Result, cut,
    netlink::{self, Interface},
    registers::Reader,
    shaping::{self, Waiting},
    slots::text,
};
use dataplane_common::abi::{FROM_TENANT, slot_state};
use std::collections::{BTreeMap, BTreeSet};

/// An interface and the ports on it, at a cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Witness {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Incarnations that it has carried for, one or, with VLANs, several.
    pub owners: Vec<u64>,
    /// From the tenant, to the tenant.
    pub sides: [Side; 2],
}

/// One direction of an interface: what it has counted, and how that relates to what programs count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Side {
    /// Packets and bytes before the next window was published. To the tenant, also packets that the
    /// device itself lost: programs had seen them.
    pub before: [u64; 2],
    /// The same when the window was sealed.
    pub after: [u64; 2],
    /// At most so many packets of `before` had no program yet.
    pub early: u64,
    /// At most so many skbs, and bytes, that a program has seen are not in `after` yet: in a queue.
    pub queued: [u64; 2],
    /// And so many frames in the device's ring.
    pub ring: u64,
    /// The ring is emptied by the kernel; else by a guest, whenever it likes.
    pub ring_drains: bool,
    /// Packets that it has counted and that may be lost before a program, since it was made.
    pub unsure: u64,
    /// One skb of a program may be several packets of the interface.
    pub merges: bool,
    /// Bytes of a packet that the interface's count may leave out: the Ethernet header.
    pub header: u64,
    /// Bytes of a packet that neither sum of the registers has: the platform's tag of a VLAN port.
    pub tag: u64,
    /// Packets that were lost behind the program, since the interface was made; `None`: it does not say.
    pub lost: Option<u64>,
}

/// Packets that GRO may hold, segments of 64 KB at the smallest MSS that is common: an upper bound for
/// 64 held skbs.
const GRO_HELD: u64 = 64 * 128;
/// `VETH_RING_SIZE` of drivers/net/veth.c: frames for a peer that polls.
const VETH_RING: u64 = 256;
const ETHERNET_HEADER: u64 = 14;

/// The first half of a reading.
pub(super) struct Before {
    interfaces: BTreeMap<String, Interface>,
    /// Packets in all CPUs' backlogs.
    backlog: u64,
}

impl Gate {
    /// Reads the interfaces before the cut. `None`: it cannot be read now, and this window has no witness.
    pub(super) fn witness_before(&mut self) -> Result<Before> {
        let interfaces = netlink::interfaces()?;
        let backlog = backlog();
        // What was on its way from the backlog to its program when the backlog was looked at: now it has
        // been there.
        cut::barrier(&mut self.maps)?;
        Ok(Before {
            interfaces,
            backlog,
        })
    }

    /// Reads them when the window is sealed.
    pub(super) fn witness_after(&self, before: &Before, slots: &[u32]) -> Result<Vec<Witness>> {
        // Frames of a VLAN that no port has are booked to slot 0. Before the interfaces: what comes in
        // between is then in the next window for both.
        let mut reader = Reader::new(&self.maps, &self.plan.sizes);
        let strangers = reader.since_base(0, FROM_TENANT)?.skbs[2];
        // Queues first: what leaves one in between is in both, and never in neither.
        let waiting = shaping::waiting()?;
        let interfaces = netlink::interfaces()?;
        let mut found = Vec::new();
        for (index, owners, vlan) in self.audited(slots) {
            let by_index = |all: &&Interface| all.index == index;
            let (Some(old), Some(new)) = (
                before.interfaces.values().find(by_index),
                interfaces.values().find(by_index),
            ) else {
                continue;
            };
            if old.name != new.name || old.kind != new.kind {
                continue;
            }
            let merging = match new.kind.as_str() {
                "veth" => gro(&new.name),
                "tun" => gro(&new.name) && !plain_tap(new),
                _ => continue,
            };
            let facts = Facts {
                old,
                new,
                merging,
                vlan,
                backlog: before.backlog,
                waiting: waiting.get(&index).copied().unwrap_or_default(),
                ifb: interfaces
                    .get(&shaping::ifb_name(index))
                    .filter(|ifb| ifb.kind == "ifb")
                    .map(|ifb| (ifb, waiting.get(&ifb.index).copied().unwrap_or_default())),
                strangers: if vlan { strangers } else { 0 },
            };
            found.push(Witness {
                index,
                name: new.name.clone(),
                owners,
                sides: [facts.received(), facts.sent()],
            });
        }
        Ok(found)
    }

    /// Interfaces with ports among `slots`, who they are, and whether one of them is a VLAN.
    fn audited(&self, slots: &[u32]) -> Vec<(u32, Vec<u64>, bool)> {
        let mut by_index = BTreeMap::<u32, (Vec<u64>, bool)>::new();
        for slot in slots {
            let book = self.slots.get(*slot);
            let is_port = match book.state {
                slot_state::PORT => true,
                // An uplink has no tenant, and nothing of it is metered.
                slot_state::RETIRED => book.tenant != 0,
                _ => false,
            };
            if is_port && book.ifindex != 0 {
                let (owners, vlan) = by_index.entry(book.ifindex).or_default();
                owners.push(book.incarnation);
                *vlan |= book.vlan != 0;
            }
        }
        let all = by_index.into_iter();
        all.map(|(index, (owners, vlan))| (index, owners, vlan))
            .collect()
    }

    /// Interfaces of live ports that bear no witness, because their kind's counting is not known.
    ///
    /// # Errors
    /// [`crate::Error::Netlink`].
    pub fn not_audited(&self) -> Result<Vec<String>> {
        let interfaces = netlink::interfaces()?;
        let ports = self
            .slots
            .iter()
            .filter(|(_, book)| book.state == slot_state::PORT && book.ifindex != 0);
        let names: BTreeSet<String> = ports.map(|(_, book)| text(&book.interface)).collect();
        let known = |name: &String| {
            interfaces
                .get(name)
                .is_some_and(|found| matches!(found.kind.as_str(), "veth" | "tun"))
        };
        Ok(names.into_iter().filter(|name| !known(name)).collect())
    }
}

/// Everything that was read of one interface.
struct Facts<'a> {
    old: &'a Interface,
    new: &'a Interface,
    /// GRO merges what it receives.
    merging: bool,
    vlan: bool,
    backlog: u64,
    waiting: Waiting,
    ifb: Option<(&'a Interface, Waiting)>,
    strangers: u64,
}

impl Facts<'_> {
    fn is_tap(&self) -> bool {
        self.new.kind == "tun"
    }

    fn queues(&self) -> u64 {
        u64::from(self.new.tx_queues.max(1))
    }

    /// From the tenant.
    fn received(&self) -> Side {
        let (old, new) = (&self.old.stats, &self.new.stats);
        let xdp = self.old.xdp != 0 || self.new.xdp != 0;
        // A veth that does not poll counts when a frame is in the backlog, and nothing is lost from there.
        let simple = !self.is_tap() && !self.merging && !xdp;
        let held = if self.merging { GRO_HELD } else { 0 };
        let unsure = if simple { 0 } else { self.new.dropped[0] };
        Side {
            before: [old[0], old[1]],
            after: [new[0], new[1]],
            early: self.backlog + held,
            queued: [0; 2],
            // A tap counts behind the program, where it can be interrupted: a frame for each writer.
            ring: if self.is_tap() { self.queues() } else { 0 },
            ring_drains: true,
            unsure: unsure.wrapping_add(self.strangers),
            merges: self.merging,
            header: if self.is_tap() || simple {
                0
            } else {
                ETHERNET_HEADER
            },
            tag: if self.vlan { 4 } else { 0 },
            lost: self.ifb.map(|(ifb, queue)| {
                let of_its_own = ifb.dropped[0].wrapping_add(ifb.dropped[1]);
                of_its_own.wrapping_add(queue.drops)
            }),
        }
    }

    /// To the tenant.
    fn sent(&self) -> Side {
        let packets = |interface: &Interface| interface.stats[2].wrapping_add(interface.dropped[1]);
        let ring = if self.is_tap() {
            u64::from(self.new.tx_queue_len)
        } else {
            VETH_RING
        };
        Side {
            before: [packets(self.old), self.old.stats[3]],
            after: [packets(self.new), self.new.stats[3]],
            early: 0,
            queued: [self.waiting.skbs, self.waiting.bytes],
            ring: ring.saturating_mul(self.queues()),
            ring_drains: !self.is_tap(),
            unsure: 0,
            // A device without segmentation offload gets a GSO packet as its segments.
            merges: true,
            header: if self.is_tap() { 0 } else { ETHERNET_HEADER },
            tag: if self.vlan { 4 } else { 0 },
            lost: Some(self.new.dropped[1].wrapping_add(self.waiting.drops)),
        }
    }
}

/// Packets that wait between an interface and the stack, on all CPUs: the twelfth column of
/// `softnet_stat` (`softnet_backlog_len` of net/core/net-procfs.c).
fn backlog() -> u64 {
    let text = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    read_backlog(&text).unwrap_or(BACKLOG_UNKNOWN)
}

/// Where the kernel does not say (before 5.10): what a busy host may hold.
const BACKLOG_UNKNOWN: u64 = 1 << 16;

fn read_backlog(text: &str) -> Option<u64> {
    let mut sum = 0_u64;
    for line in text.lines() {
        let column = line.split_whitespace().nth(11)?;
        sum += u64::from_str_radix(column, 16).ok()?;
    }
    (!text.is_empty()).then_some(sum)
}

/// Does the interface merge what it receives? True where nobody can tell.
fn gro(name: &str) -> bool {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    const ETHTOOL_GGRO: u32 = 0x2b;
    /// `struct ethtool_value`.
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    /// `struct ifreq`: a name, and a union of which `ifr_data` is a pointer; 40 bytes.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        data: *mut Value,
        rest: [u64; 2],
    }
    let mut value = Value {
        command: ETHTOOL_GGRO,
        data: 0,
    };
    let mut request = Request {
        name: [0; 16],
        data: &raw mut value,
        rest: [0; 2],
    };
    for (place, byte) in request.name.iter_mut().zip(name.bytes().take(15)) {
        *place = byte;
    }
    // SAFETY: makes a descriptor, which is closed below.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return true;
    }
    // SAFETY: both structures live through the call and have the kernel's layout.
    let failed = unsafe { libc::ioctl(socket, SIOCETHTOOL, &raw mut request) };
    // SAFETY: the descriptor is ours.
    unsafe { libc::close(socket) };
    failed != 0 || value.data != 0
}

/// A tap that receives without NAPI, and so without GRO, whatever its features say. sysfs may show
/// another namespace's interfaces: then nobody can tell.
fn plain_tap(interface: &Interface) -> bool {
    const IFF_NAPI: u32 = 0x10;
    let read = |file: &str| {
        let path = format!("/sys/class/net/{}/{file}", interface.name);
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let same = read("ifindex").trim().parse() == Ok(interface.index);
    let flags = read("tun_flags");
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16);
    same && flags.is_ok_and(|flags| flags & IFF_NAPI == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(kind: &str) -> Interface {
        Interface {
            kind: kind.into(),
            stats: [10, 1_000, 20, 2_000],
            dropped: [3, 5],
            tx_queues: 2,
            tx_queue_len: 500,
            ..Interface::default()
        }
    }

    fn facts<'a>(old: &'a Interface, new: &'a Interface) -> Facts<'a> {
        Facts {
            old,
            new,
            merging: false,
            vlan: false,
            backlog: 7,
            waiting: Waiting {
                skbs: 4,
                bytes: 400,
                drops: 9,
            },
            ifb: None,
            strangers: 0,
        }
    }

    #[test]
    fn a_plain_veth_is_exact_from_the_tenant() {
        let veth = interface("veth");
        let side = facts(&veth, &veth).received();
        assert_eq!((side.early, side.ring, side.unsure), (7, 0, 0));
        assert!(!side.merges && side.header == 0 && side.lost.is_none());
    }

    #[test]
    fn what_a_veth_with_xdp_or_gro_dropped_may_be_in_its_count() {
        let (old, mut new) = (interface("veth"), interface("veth"));
        new.xdp = 8;
        assert_eq!(facts(&old, &new).received().unsure, 3);
        let mut merging = facts(&old, &old);
        merging.merging = true;
        let side = merging.received();
        assert_eq!((side.unsure, side.header, side.merges), (3, 14, true));
        assert_eq!(side.early, 7 + GRO_HELD);
    }

    #[test]
    fn packets_that_a_device_lost_are_in_what_it_was_offered_and_are_told() {
        let veth = interface("veth");
        let side = facts(&veth, &veth).sent();
        assert_eq!(side.after, [25, 2_000]);
        assert_eq!(side.lost, Some(14));
        assert_eq!((side.queued, side.ring), ([4, 400], 512));
        assert!(side.ring_drains);
    }

    #[test]
    fn a_taps_ring_waits_for_its_guest() {
        let tap = interface("tun");
        let side = facts(&tap, &tap).sent();
        assert_eq!((side.ring, side.ring_drains), (1_000, false));
    }

    #[test]
    fn the_backlog_is_the_twelfth_column_of_every_cpu() {
        let line = "00000011 0 0 0 0 0 0 0 0 0 0 0000000a 00000000 0 0\n";
        assert_eq!(read_backlog(&line.repeat(2)), Some(20));
        for other in ["", "1 2 3\n", "0 0 0 0 0 0 0 0 0 0 0 x\n"] {
            assert_eq!(read_backlog(other), None, "{other}");
        }
    }
}
