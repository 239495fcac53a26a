//! The packet's flow: found or begun, and counted. The law is `dataplane_common::flow`.
//!
//! Two functions of their own ([`crate::packet::Context`] says why), called once the limiter has decided: what
//! is counted here is delivered, and what is refused begins no flow. Whose packet it is waits for them in this
//! CPU's [`maps::FLOW_NOTED`], where the verifier does not look: as variables, the many ways to parse would be
//! walked through limiter and flow table once each.

use crate::{account::Book, maps};
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};
use dataplane_common::{
    abi::{FROM_TENANT, PortPolicy, TO_TENANT},
    flow::{
        Flow, FlowCounts, FlowEvidence, FlowKey, FlowOpened, FlowPlace, FlowRing, Places, take,
    },
    parse::Packet,
    reason::DropReason,
    wire::Wire,
};

const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
const BPF_NOEXIST: u64 = 1;

/// A packet whose fate is not known yet.
#[repr(C)]
pub struct Noted {
    /// Its flow, with the zone still missing.
    pub key: FlowKey,
    /// Its TCP flags.
    pub tcp_flags: u32,
    /// Entry of `FLOW_USE`, and how many flows may be counted in it.
    pub account: u32,
    pub quota: u32,
    /// What the encryption policy needs of its headers; not set for ports that have none.
    pub headers: crate::encryption::Headers,
    /// [`FlowEvidence`] to be noted in its flow; 0: none, or none that is new.
    pub evidence: u64,
    /// The conversation inside an overlay, or that of a fragment: see `encryption::look`.
    pub inner: FlowKey,
    /// Where a fragment stands.
    pub piece: dataplane_common::encryption::fragment::Piece,
}

/// Notes whose packet this is, for [`passed`] or [`refused`]. The rest of the program runs on this CPU, and
/// no other in between. `APART`: in a function of its own, as the parser is then; Linux 6.1 rounds every frame
/// up, and the program's would outgrow the stack.
#[inline(always)]
pub fn note<const DIRECTION: u32, const APART: bool>(
    packet: &Packet,
    port: &PortPolicy,
    slot: u32,
) {
    if !port.has(PortPolicy::FLOWS) && port.encryption == 0 {
        return;
    }
    if APART {
        flow_note(packet, port, slot, DIRECTION);
    } else {
        write::<DIRECTION>(packet, port, slot);
    }
}

/// [`write`], apart.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_note(
    packet: *const Packet,
    port: *const PortPolicy,
    slot: u32,
    direction: u32,
) -> u64 {
    // SAFETY: `note` gives its own. To the verifier a pointer may be null.
    let (Some(packet), Some(port)) = (unsafe { packet.as_ref() }, unsafe { port.as_ref() }) else {
        return 0;
    };
    if direction == FROM_TENANT {
        write::<FROM_TENANT>(packet, port, slot);
    } else {
        write::<TO_TENANT>(packet, port, slot);
    }
    1
}

#[inline(always)]
fn write<const DIRECTION: u32>(packet: &Packet, port: &PortPolicy, slot: u32) {
    if let Some(noted) = maps::FLOW_NOTED.get_ptr_mut(0) {
        // SAFETY: this CPU's own copy.
        unsafe {
            (*noted).key.note::<DIRECTION>(packet, port, slot);
            (*noted).tcp_flags = packet.tcp_flags as u32;
            (*noted).account = port.flow_account;
            (*noted).quota = port.flow_quota;
            (*noted).evidence = 0;
            if port.encryption != 0 {
                (*noted).evidence = FlowEvidence::LOOKED;
                (*noted).headers.note::<DIRECTION>(packet);
            }
        }
    }
}

/// Counts the packet that was noted in its flow, or as unattributed.
#[inline(always)]
pub fn passed(zone: u32, class: u32, wire: &Wire, book: &Book, port: &PortPolicy) {
    if port.has(PortPolicy::FLOWS) {
        flow_passed(
            wire.packets,
            wire.l2_bytes,
            wire.l3_bytes,
            about(book, zone) | (class as u64) << 16,
        );
    }
}

/// Notes in its flow, if it has one, that the packet that was noted is dropped.
#[inline(always)]
pub fn refused(zone: u32, wire: &Wire, book: &Book, port: &PortPolicy, reason: DropReason) {
    if port.has(PortPolicy::FLOWS) {
        flow_refused(wire.packets, about(book, zone), reason as u32);
    }
}

/// Bank, direction and zone, for the functions below.
#[inline(always)]
fn about(book: &Book, zone: u32) -> u64 {
    book.epoch.bank() as u64 | (book.direction as u64) << 1 | (zone as u64) << 8
}

/// The packet that was noted, with its zone.
#[inline(always)]
fn noted(about: u64) -> Option<&'static Noted> {
    let noted = maps::FLOW_NOTED.get_ptr_mut(0)?;
    // SAFETY: this CPU's own copy, which lives as long as the map.
    unsafe {
        (*noted).key.zone = (about >> 8) as u8;
        Some(&*noted)
    }
}

/// A flow's place. Volatile: one load, as `FlowPlace` asks for.
#[inline(always)]
fn find(key: &FlowKey) -> Option<FlowPlace> {
    let flow = maps::FLOWS.get_ptr(key)?;
    // SAFETY: elements live as long as the map; the word is aligned and stored whole.
    Some(FlowPlace(unsafe {
        (&raw const (*flow).place).read_volatile()
    }))
}

/// The counters of `owner`'s place in the bank.
#[inline(always)]
fn counts(place: FlowPlace, owner: u64, bank: u32) -> Option<*mut FlowCounts> {
    let place = place.of(owner)?;
    maps::FLOW_COUNTS.get_ptr_mut(FlowCounts::at(maps::flow_places(), bank, place))
}

/// # Safety
/// `at` points into an array map.
#[inline(always)]
unsafe fn add(at: *mut u64, units: u64) {
    // SAFETY: the caller's; aligned.
    unsafe { atomic_xadd::<u64, u64, ORDER>(at, units) };
}

/// `about`: bank, direction << 1, zone << 8, class of evidence << 16.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_passed(packets: u64, l2_bytes: u64, l3_bytes: u64, about: u64) -> u64 {
    let Some(noted) = noted(about) else {
        return 0;
    };
    let key = &noted.key;
    let wire = &Wire {
        packets,
        l2_bytes,
        l3_bytes,
    };
    let (bank, direction) = ((about & 1) as u32, (about >> 1 & 1) as u32);
    let owner = FlowPlace::owner(key);
    let place = match find(key) {
        Some(place) => place,
        None => begin(noted, owner),
    };
    let Some(counts) = counts(place, owner, bank) else {
        return unattributed(key, wire, bank, direction);
    };
    if noted.evidence != 0 {
        note_evidence(place, owner, (about >> 16) as u32 & 7, noted.evidence);
    }
    // SAFETY: takes no argument.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let at = direction as usize & 1;
    // SAFETY: elements live as long as the map. Sums are atomic; time and flags are for looking at, and may
    // lose what another CPU writes at the same moment.
    unsafe {
        let delivered = &raw mut (*counts).delivered[at];
        add(&raw mut (*delivered).packets, wire.packets);
        add(&raw mut (*delivered).l2_bytes, wire.l2_bytes);
        add(&raw mut (*delivered).l3_bytes, wire.l3_bytes);
        (*counts).last = (now / FlowCounts::UNIT_NS) as u32;
        let flags = noted.tcp_flags as u8;
        if (*counts).tcp_flags[at] & flags != flags {
            (*counts).tcp_flags[at] |= flags;
        }
    }
    1
}

/// Notes what is known of the flow's encryption, if that is new. Like flags, it may lose what another CPU writes at the
/// same moment, and gets it back with the next packet.
#[inline(always)]
fn note_evidence(place: FlowPlace, owner: u64, class: u32, seen: u64) {
    let Some(place) = place.of(owner) else {
        return;
    };
    if let Some(opened) = maps::FLOW_KEYS.get_ptr_mut(place) {
        // SAFETY: elements live as long as the map; the word is aligned and stored whole.
        unsafe {
            let known = FlowEvidence((*opened).evidence);
            let now = known.with(class, FlowEvidence(seen));
            if now.0 != known.0 {
                (&raw mut (*opened).evidence).write_volatile(now.0);
            }
        }
    }
}

/// `about`: as above, without a class.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_refused(packets: u64, about: u64, reason: u32) -> u64 {
    let Some(noted) = noted(about) else {
        return 0;
    };
    let key = &noted.key;
    let (bank, at) = ((about & 1) as u32, (about >> 1 & 1) as usize);
    let place = find(key).unwrap_or_default();
    let Some(counts) = counts(place, FlowPlace::owner(key), bank) else {
        return 0;
    };
    // SAFETY: as above.
    unsafe {
        atomic_xadd::<u32, u32, ORDER>(&raw mut (*counts).refused[at], packets as u32);
        (*counts).reasons[at] |= FlowCounts::bit(reason);
    }
    1
}

/// Books a packet that no flow accounts for.
#[inline(always)]
fn unattributed(key: &FlowKey, wire: &Wire, bank: u32, direction: u32) -> u64 {
    let number = maps::sizes().register(bank, key.slot as u32, direction, key.zone as u32);
    if let Some(register) = maps::UNATTRIBUTED.get_ptr_mut(number) {
        // SAFETY: elements live as long as the map.
        unsafe {
            add(&raw mut (*register).packets, wire.packets);
            add(&raw mut (*register).l2_bytes, wire.l2_bytes);
            add(&raw mut (*register).l3_bytes, wire.l3_bytes);
        }
    }
    0
}

/// Begins a flow: quota, place, key, and only then the hash. [`FlowPlace`] of nowhere when one of them
/// cannot be had.
#[inline(always)]
fn begin(noted: &Noted, owner: u64) -> FlowPlace {
    let nowhere = FlowPlace::default();
    let (key, account, quota) = (&noted.key, noted.account, noted.quota as u64);
    let Some(used) = maps::FLOW_USE.get_ptr_mut(account) else {
        return nowhere;
    };
    // SAFETY: elements live as long as the map; the daemon subtracts as atomically.
    if unsafe { atomic_xadd::<u64, u64, ORDER>(used, 1) } >= quota {
        // SAFETY: as above.
        unsafe { add(used, u64::MAX) };
        return nowhere;
    }
    let Some(spare) = maps::FLOW_SPARE.get_ptr_mut(0) else {
        return nowhere;
    };
    // SAFETY: this CPU's own copy, for a place that it took and could not use.
    let spare = unsafe { &mut *spare };
    let place = match *spare {
        0 => take(&Ring),
        place => Some(place - 1),
    };
    *spare = 0;
    let begun = match place {
        Some(place) => enter(key, owner, place, account),
        None => None,
    };
    if let Some(begun) = begun {
        return begun;
    }
    // SAFETY: as above.
    unsafe { add(used, u64::MAX) };
    if let Some(place) = place {
        *spare = place + 1;
    }
    // Another CPU may have begun the same flow.
    find(key).unwrap_or(nowhere)
}

/// Writes whose the place is, and puts the flow into the hash.
#[inline(always)]
fn enter(key: &FlowKey, owner: u64, place: u32, account: u32) -> Option<FlowPlace> {
    let places = maps::flow_places();
    let opened = maps::FLOW_KEYS.get_ptr_mut(place)?;
    for bank in 0..2 {
        let counts = maps::FLOW_COUNTS.get_ptr_mut(FlowCounts::at(places, bank, place))?;
        // SAFETY: elements live as long as the map. Nobody else has the place: what is not a sum begins anew.
        unsafe {
            (*counts).tcp_flags = [0; 2];
            (*counts).reasons = [0; 2];
            (*counts).last = 0;
        }
    }
    // SAFETY: as above.
    unsafe {
        *opened = FlowOpened {
            key: *key,
            account,
            first_ns: bpf_ktime_get_coarse_ns(),
            evidence: 0,
        };
    }
    let word = FlowPlace::new(owner, place);
    let flow = Flow {
        place: word.0,
        reserved: [0; 3],
    };
    maps::FLOWS.insert(key, &flow, BPF_NOEXIST).ok()?;
    Some(word)
}

struct Ring;

impl Ring {
    #[inline(always)]
    fn word(&self) -> Option<*mut FlowRing> {
        maps::FLOW_RING.get_ptr_mut(0)
    }
}

impl Places for Ring {
    #[inline(always)]
    fn taken(&self) -> u64 {
        match self.word() {
            // SAFETY: elements live as long as the map.
            Some(ring) => unsafe { (&raw const (*ring).taken).read_volatile() },
            None => 0,
        }
    }

    #[inline(always)]
    fn given(&self) -> u64 {
        match self.word() {
            // SAFETY: as above.
            Some(ring) => unsafe { (&raw const (*ring).given).read_volatile() },
            None => 0,
        }
    }

    #[inline(always)]
    fn at(&self, number: u64) -> Option<u32> {
        let places = maps::flow_places() as u64;
        let place = maps::FLOW_FREE.get_ptr(number.checked_rem(places)? as u32)?;
        // SAFETY: as above.
        Some(unsafe { place.read_volatile() })
    }

    #[inline(always)]
    fn take(&self, taken: u64) -> bool {
        match self.word() {
            // SAFETY: as above.
            Some(ring) => unsafe {
                let word = &raw mut (*ring).taken;
                atomic_cxchg::<u64, ORDER, ORDER>(word, taken, taken + 1).1
            },
            None => false,
        }
    }
}
