//! The maps and the constants that the loader fills in. Layouts: `dataplane_common::abi`.
//!
//! Every `max_entries` here is a placeholder: the loader sets the real one from the configuration.

use aya_ebpf::{
    Global,
    btf_maps::{Array, ArrayOfMaps, DevMapHash, HashMap, LpmTrie, PerCpuArray},
    macros::btf_map,
};
use dataplane_common::abi::quota::{Marks, QuotaCounts, QuotaPolicy};
use dataplane_common::abi::share::{
    ShareClocks, SharePolicy, UPLINKS_MAX, UplinkPolicy, UplinkShare,
};
use dataplane_common::abi::{
    AddressKey, Anchor, BLOCK, Binding, BindingKey, Drops, Epoch, InterfaceSlot, MacKey,
    PortPolicy, Register, Sizes, Skbs, Slot, ZoneKey,
};
use dataplane_common::encryption::{Bucket, Policy, Rule};
use dataplane_common::flow::{Flow, FlowCounts, FlowKey, FlowOpened, FlowRing};

/// `BPF_F_MMAPABLE`: the daemon can read it where it lies, without a call for each entry. And its first value begins a
/// page, so that what is laid out in lines of 64 bytes is fetched in those: elsewhere it follows 312 bytes of the kernel's.
const MMAPABLE: usize = 1 << 10;

/// Revision and window: `abi::Epoch`.
#[btf_map]
pub static EPOCH: Array<u64, 1> = Array::new();
/// Any update of its slot waits until every program that was running has ended.
#[btf_map]
pub static BARRIER: ArrayOfMaps<Array<u32, 1>, 1> = ArrayOfMaps::new();
#[btf_map]
pub static BINDINGS: HashMap<BindingKey, Binding, 1> = HashMap::new();
/// A faster way to what `BINDINGS` says, for ports that have an interface of their own.
#[btf_map]
pub static INTERFACES: Array<u64, { InterfaceSlot::ENTRIES as usize }> = Array::new();
/// Interfaces of blessed ports, by ifindex. A device map, because the kernel itself takes an entry
/// out when its device goes: an index that is used again is not blessed for a moment.
#[btf_map]
pub static BLESSED: DevMapHash<1> = DevMapHash::new();
/// Uplinks and trusted interfaces, likewise.
#[btf_map]
pub static TRUSTED: DevMapHash<1> = DevMapHash::new();
#[btf_map]
pub static PORTS: Array<PortPolicy, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static MACS: HashMap<MacKey, u32, 1> = HashMap::new();
#[btf_map]
pub static ADDRESSES: LpmTrie<AddressKey, u32, 1> = LpmTrie::new();
#[btf_map]
pub static ZONES: LpmTrie<ZoneKey, u32, 1> = LpmTrie::new();
#[btf_map]
pub static CLOCKS: Array<u64, 1, MMAPABLE> = Array::new();
/// By set of policy, tenant's account and direction: its part of its uplink.
#[btf_map]
pub static SHARES: Array<SharePolicy, 1> = Array::new();
/// By account and direction: what it has used of it.
#[btf_map]
pub static SHARE_CLOCKS: Array<ShareClocks, 1> = Array::new();
/// By set of policy, uplink and direction: what it carries.
#[btf_map]
pub static UPLINKS: Array<UplinkPolicy, { 4 * UPLINKS_MAX as usize }> = Array::new();
/// By uplink and direction: α, and what it is found from.
#[btf_map]
pub static UPLINK_SHARE: Array<UplinkShare, { 2 * UPLINKS_MAX as usize }> = Array::new();
/// By set of policy and tenant's account: its budget of bytes.
#[btf_map]
pub static QUOTAS: Array<QuotaPolicy, 1> = Array::new();
/// By account: what it has had.
#[btf_map]
pub static QUOTA_COUNTS: Array<QuotaCounts, 1> = Array::new();
/// By slot and direction, in blocks: packets that were told to slow down, or could not be.
#[btf_map]
pub static MARKS: PerCpuArray<[Marks; BLOCK as usize], 1> = PerCpuArray::new();
#[btf_map]
pub static REGISTERS: PerCpuArray<[Register; BLOCK as usize], 1> = PerCpuArray::new();
#[btf_map]
pub static DROPS: PerCpuArray<[Drops; BLOCK as usize], 1> = PerCpuArray::new();
#[btf_map]
pub static SKBS: PerCpuArray<[Skbs; BLOCK as usize], 1> = PerCpuArray::new();
#[btf_map]
pub static FLOWS: HashMap<FlowKey, Flow, 1> = HashMap::new();
/// By place: whose it is.
#[btf_map]
pub static FLOW_KEYS: Array<FlowOpened, 1, MMAPABLE> = Array::new();
/// By bank and place.
#[btf_map]
pub static FLOW_COUNTS: Array<FlowCounts, 1, MMAPABLE> = Array::new();
/// Places that nobody has, in the order of `FLOW_RING`.
#[btf_map]
pub static FLOW_FREE: Array<u32, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static FLOW_RING: Array<FlowRing, 1, MMAPABLE> = Array::new();
/// A place + 1 that a CPU took and could not use; 0: none.
#[btf_map]
pub static FLOW_SPARE: PerCpuArray<u32, 1> = PerCpuArray::new();
/// Flows by tenant's account: see `PortPolicy::flow_account`.
#[btf_map]
pub static FLOW_USE: Array<u64, 1, MMAPABLE> = Array::new();
/// What was delivered and has no place in the flow table, numbered as registers.
#[btf_map]
pub static UNATTRIBUTED: Array<Register, 1, MMAPABLE> = Array::new();
/// Encryption policies by set and number; number 0 is nobody's.
#[btf_map]
pub static POLICIES: Array<Policy, 1> = Array::new();
/// Their rules by set and number.
#[btf_map]
pub static RULES: Array<Rule, 1> = Array::new();
/// What is known of the conversations of tenants who have a policy.
#[btf_map]
pub static CONVERSATIONS: Array<Bucket, 1> = Array::new();
/// By slot, direction and exemption: when the next packet is due, CLOCK_MONOTONIC ns.
#[btf_map]
pub static EXEMPT_DUE: Array<u64, 1> = Array::new();
/// What was delivered, by class of evidence; of ports with a policy.
#[btf_map]
pub static EVIDENCE: PerCpuArray<[Drops; BLOCK as usize], 1> = PerCpuArray::new();
/// The daemon's own note of its ledger; no program reads it.
#[btf_map]
pub static ANCHOR: Array<Anchor, 1> = Array::new();
/// The daemon's own book of who has which slot; no program reads it.
#[btf_map]
pub static SLOTS: Array<Slot, 1> = Array::new();

/// By slot and direction, row and cell: until when the flows that hash there are fat. Of the programs alone: not pinned.
#[btf_map]
pub static THIN: Array<u32, 1, MMAPABLE> = Array::new();

/// By slot and direction, row and cell: how much the flows that hash there have had: `dataplane_common::fair`. Of the
/// programs alone: not pinned.
#[btf_map]
pub static FAIR: Array<u32, 1, MMAPABLE> = Array::new();

/// By slot and direction: the line that they are held against. Of the programs alone: not pinned.
#[btf_map]
pub static FAIR_LINES: Array<[u64; dataplane_common::fair::WORDS], 1, MMAPABLE> = Array::new();

/// By slot: clocks of what an uplink lets through of a flood. Of the programs alone: not pinned.
#[btf_map]
pub static SURPLUS: Array<u64, 1, MMAPABLE> = Array::new();

/// The packet that this CPU is at: see `flow::note`. Of the programs alone: not pinned.
#[btf_map]
pub static FLOW_NOTED: PerCpuArray<crate::flow::Noted, 1> = PerCpuArray::new();

/// The packet that this CPU holds: see `held`. Of the programs alone: not pinned.
#[btf_map]
pub static HELD: PerCpuArray<crate::held::Held, 1> = PerCpuArray::new();

/// Packets of the host whose first fragment an uplink let out, by [`FRAGMENTS_SENT_BITS`] bits of their mark: see `guard`.
/// Of the programs alone: not pinned.
#[btf_map]
pub static FRAGMENTS_SENT: Array<u64, { 1 << FRAGMENTS_SENT_BITS }> = Array::new();

/// Entries of [`FRAGMENTS_SENT`], a power of two. One that another takes drops what is left of its packet.
pub const FRAGMENTS_SENT_BITS: u32 = 12;

/// Zones that this CPU has looked up, by a hash of the address. Of the programs alone: not pinned.
#[btf_map]
pub static ZONES_SEEN: PerCpuArray<Remembered, { 1 << ZONES_SEEN_BITS }> = PerCpuArray::new();

/// Entries of [`ZONES_SEEN`], a power of two: 32 kB a CPU.
pub const ZONES_SEEN_BITS: u32 = 10;

/// An entry of [`ZONES_SEEN`]. All zero: none, for there is no family 0.
#[repr(C)]
pub struct Remembered {
    /// Policy revision in the high half, family in the low one.
    pub key: u64,
    pub address: [u32; 4],
    pub zone: u32,
    pub reserved: u32,
}

/// What a slot's registers, skbs and drops stood at, both banks together, when its owner of now
/// began: a slot that is used again shows no old counts, and nothing is ever cleared. The daemon's.
#[btf_map]
pub static BASE_REGISTERS: Array<Register, 1> = Array::new();
#[btf_map]
pub static BASE_SKBS: Array<Skbs, 1> = Array::new();
#[btf_map]
pub static BASE_DROPS: Array<Drops, 1> = Array::new();
#[btf_map]
pub static BASE_EVIDENCE: Array<Drops, 1> = Array::new();
#[btf_map]
pub static BASE_MARKS: Array<Marks, 1> = Array::new();

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)+) => {
        $($(#[$doc])*
        #[unsafe(no_mangle)]
        static $name: Global<$type> = Global::new(0);)+
    };
}

constants! {
    /// Register slots.
    SLOTS_MAX: u32;
    /// Columns by zone.
    ZONES_MAX: u32;
    /// Places of the flow table.
    FLOWS_MAX: u32;
    /// Offset of `head` in `struct sk_buff`, from the kernel's BTF, as are the next four.
    SKB_HEAD: u32;
    /// Offset of `data`.
    SKB_DATA: u32;
    /// Offset of `end`.
    SKB_END: u32;
    /// Offset of `inner_transport_header`.
    SKB_INNER_TRANSPORT: u32;
    /// Offset of `gso_type` in `struct skb_shared_info`.
    SHINFO_GSO_TYPE: u32;
    /// Cells in a row of [`THIN`] and of [`FAIR`], a power of two.
    THIN_CELLS: u32;
    /// Keys of `dataplane_common::thin::hash`, random: nobody may choose flows that hit another one's clocks.
    THIN_KEY_0: u64;
    /// Likewise.
    THIN_KEY_1: u64;
    /// Likewise.
    THIN_KEY_2: u64;
    /// Likewise.
    THIN_KEY_3: u64;
    /// Likewise.
    THIN_KEY_4: u64;
    /// Tests only: iterations between reading the epoch and booking, so that a cut without its
    /// barrier is caught. 0 in service, where the verifier removes the loop.
    TEST_LINGER: u32;
}

/// Table sizes, known to the verifier as constants.
#[inline(always)]
pub fn sizes() -> Sizes {
    Sizes {
        slots: SLOTS_MAX.load(),
        zones: ZONES_MAX.load(),
    }
}

/// The word of the moment.
#[inline(always)]
pub fn epoch() -> Option<Epoch> {
    let epoch = EPOCH.get(0)?;
    // SAFETY: a u64 that is stored whole. Volatile: exactly one read decides bank and policy.
    Some(Epoch(unsafe { core::ptr::from_ref(epoch).read_volatile() }))
}

/// The same as [`sizes`] for what the number of zones does not matter to: where a constant is named, it is loaded.
#[inline(always)]
pub fn slots() -> Sizes {
    Sizes {
        slots: SLOTS_MAX.load(),
        zones: 0,
    }
}

/// Places of the flow table, likewise.
#[inline(always)]
pub fn flow_places() -> u32 {
    FLOWS_MAX.load()
}

/// Cells in a row of [`THIN`].
#[inline(always)]
pub fn thin_cells() -> u32 {
    THIN_CELLS.load()
}

/// Keys of `dataplane_common::thin::hash`.
#[inline(always)]
pub fn thin_keys() -> [u64; 5] {
    [
        THIN_KEY_0.load(),
        THIN_KEY_1.load(),
        THIN_KEY_2.load(),
        THIN_KEY_3.load(),
        THIN_KEY_4.load(),
    ]
}

/// Offsets into the kernel's structures.
#[derive(Clone, Copy)]
pub struct Offsets {
    pub head: u32,
    pub data: u32,
    pub end: u32,
    pub inner_transport: u32,
    pub gso_type: u32,
}

#[inline(always)]
pub fn offsets() -> Offsets {
    Offsets {
        head: SKB_HEAD.load(),
        data: SKB_DATA.load(),
        end: SKB_END.load(),
        inner_transport: SKB_INNER_TRANSPORT.load(),
        gso_type: SHINFO_GSO_TYPE.load(),
    }
}

#[inline(always)]
pub fn test_linger() -> u32 {
    TEST_LINGER.load()
}
