//! The maps with their types, opened from a loaded object or from their pins.

mod table;

use crate::{Error, Result, host, pins::Pins};
use aya::{
    Ebpf, Pod,
    maps::{Array, ArrayOfMaps, DevMapHash, HashMap, LpmTrie, Map, MapData, PerCpuArray},
};
use dataplane_common::abi::quota::{Marks, QuotaCounts, QuotaPolicy};
use dataplane_common::abi::share::{ShareClocks, SharePolicy, UplinkPolicy, UplinkShare};
use dataplane_common::abi::{
    AddressKey, Anchor, BLOCK, Binding, BindingKey, Drops, MacKey, PortPolicy, Register, Skbs,
    Slot, ZoneKey,
};
use dataplane_common::encryption::{Bucket, Policy, Rule};
use dataplane_common::flow::{Flow, FlowKey};

pub use table::Table;

/// Every map that is pinned.
pub const NAMES: [&str; 41] = [
    "EPOCH",
    "BARRIER",
    "BINDINGS",
    "INTERFACES",
    "BLESSED",
    "TRUSTED",
    "PORTS",
    "MACS",
    "ADDRESSES",
    "ZONES",
    "CLOCKS",
    "SHARES",
    "SHARE_CLOCKS",
    "UPLINKS",
    "UPLINK_SHARE",
    "QUOTAS",
    "QUOTA_COUNTS",
    "MARKS",
    "REGISTERS",
    "DROPS",
    "SKBS",
    "FLOWS",
    "FLOW_KEYS",
    "FLOW_COUNTS",
    "FLOW_FREE",
    "FLOW_RING",
    "FLOW_SPARE",
    "FLOW_USE",
    "UNATTRIBUTED",
    "POLICIES",
    "RULES",
    "CONVERSATIONS",
    "EXEMPT_DUE",
    "EVIDENCE",
    "SLOTS",
    "ANCHOR",
    "BASE_REGISTERS",
    "BASE_SKBS",
    "BASE_DROPS",
    "BASE_EVIDENCE",
    "BASE_MARKS",
];

/// An ABI type as aya wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Raw<T>(pub T);

macro_rules! raw {
    ($($type:ty),+) => {
        // SAFETY: `#[repr(C)]`, no padding (zerocopy's IntoBytes is derived), any bit pattern valid.
        $(unsafe impl Pod for Raw<$type> {})+
    };
}
raw!(
    AddressKey,
    Anchor,
    Binding,
    BindingKey,
    Bucket,
    Drops,
    Flow,
    FlowKey,
    MacKey,
    Marks,
    Policy,
    PortPolicy,
    QuotaCounts,
    QuotaPolicy,
    Register,
    Rule,
    ShareClocks,
    SharePolicy,
    Skbs,
    Slot,
    UplinkPolicy,
    UplinkShare,
    ZoneKey
);
raw!(Block<Register>, Block<Drops>, Block<Skbs>, Block<Marks>);

/// Registers as they stand in their maps.
pub type Block<T> = [T; BLOCK as usize];

/// The maps of a gate.
#[allow(
    missing_docs,
    reason = "the maps of dataplane-ebpf/src/maps.rs, by their names"
)]
pub struct Maps {
    pub epoch: Array<MapData, u64>,
    pub barrier: ArrayOfMaps<MapData, Array<MapData, u32>>,
    pub bindings: HashMap<MapData, Raw<BindingKey>, Raw<Binding>>,
    pub interfaces: Array<MapData, u64>,
    pub blessed: DevMapHash<MapData>,
    pub trusted: DevMapHash<MapData>,
    pub ports: Table<PortPolicy>,
    pub macs: HashMap<MapData, Raw<MacKey>, u32>,
    pub addresses: LpmTrie<MapData, Raw<AddressKey>, u32>,
    pub zones: LpmTrie<MapData, Raw<ZoneKey>, u32>,
    pub clocks: Array<MapData, u64>,
    pub shares: Table<SharePolicy>,
    pub share_clocks: Table<ShareClocks>,
    pub uplinks: Array<MapData, Raw<UplinkPolicy>>,
    pub uplink_share: Array<MapData, Raw<UplinkShare>>,
    pub quotas: Array<MapData, Raw<QuotaPolicy>>,
    pub quota_counts: Array<MapData, Raw<QuotaCounts>>,
    pub marks: PerCpuArray<MapData, Raw<Block<Marks>>>,
    pub registers: PerCpuArray<MapData, Raw<Block<Register>>>,
    pub drops: PerCpuArray<MapData, Raw<Block<Drops>>>,
    pub skbs: PerCpuArray<MapData, Raw<Block<Skbs>>>,
    pub flows: HashMap<MapData, Raw<FlowKey>, Raw<Flow>>,
    pub flow_keys: MapData,
    pub flow_counts: MapData,
    pub flow_free: MapData,
    pub flow_ring: MapData,
    pub flow_spare: PerCpuArray<MapData, u32>,
    pub flow_use: MapData,
    pub unattributed: MapData,
    pub policies: Table<Policy>,
    pub rules: Array<MapData, Raw<Rule>>,
    pub conversations: Array<MapData, Raw<Bucket>>,
    pub exempt_due: Array<MapData, u64>,
    pub evidence: PerCpuArray<MapData, Raw<Block<Drops>>>,
    pub slots: Array<MapData, Raw<Slot>>,
    pub anchor: Array<MapData, Raw<Anchor>>,
    pub base_registers: Array<MapData, Raw<Register>>,
    pub base_skbs: Array<MapData, Raw<Skbs>>,
    pub base_drops: Array<MapData, Raw<Drops>>,
    pub base_evidence: Array<MapData, Raw<Drops>>,
    pub base_marks: Array<MapData, Raw<Marks>>,
}

impl Maps {
    /// Takes them out of a loaded object.
    ///
    /// # Errors
    /// [`Error::Map`] when one is missing or has another type.
    pub fn take(object: &mut Ebpf) -> Result<Self> {
        Self::from(|name| {
            object.take_map(name).ok_or_else(|| Error::Map {
                map: name,
                reason: "not in the object".into(),
            })
        })
    }

    /// Opens the pinned ones: what `status` does when no daemon answers.
    ///
    /// # Errors
    /// [`Error::NoBpf`], [`Error::Map`].
    pub fn open(pins: &Pins) -> Result<Self> {
        host::require_bpf()?;
        Self::from(|name| {
            MapData::from_pin(pins.map(name))
                .and_then(Map::from_map_data)
                .map_err(Error::map(name))
        })
    }

    /// Entries of `FLOW_USE`.
    pub(crate) fn flow_accounts(&self) -> Result<u32> {
        let info = self.flow_use.info().map_err(Error::map("FLOW_USE"))?;
        Ok(info.max_entries())
    }

    fn from(mut map: impl FnMut(&'static str) -> Result<Map>) -> Result<Self> {
        /// One that is mapped and not asked.
        macro_rules! mapped {
            ($name:literal) => {
                match map($name)? {
                    Map::Array(data) => data,
                    _ => {
                        return Err(Error::Map {
                            map: $name,
                            reason: "it is no array".into(),
                        });
                    }
                }
            };
        }
        macro_rules! typed {
            ($name:literal) => {
                map($name)?.try_into().map_err(Error::map($name))?
            };
        }
        macro_rules! table {
            ($name:literal) => {
                Table::new($name, map($name)?)?
            };
        }
        Ok(Self {
            epoch: typed!("EPOCH"),
            barrier: typed!("BARRIER"),
            bindings: typed!("BINDINGS"),
            interfaces: typed!("INTERFACES"),
            blessed: typed!("BLESSED"),
            trusted: typed!("TRUSTED"),
            ports: table!("PORTS"),
            macs: typed!("MACS"),
            addresses: typed!("ADDRESSES"),
            zones: typed!("ZONES"),
            clocks: typed!("CLOCKS"),
            shares: table!("SHARES"),
            share_clocks: table!("SHARE_CLOCKS"),
            uplinks: typed!("UPLINKS"),
            uplink_share: typed!("UPLINK_SHARE"),
            quotas: typed!("QUOTAS"),
            quota_counts: typed!("QUOTA_COUNTS"),
            marks: typed!("MARKS"),
            registers: typed!("REGISTERS"),
            drops: typed!("DROPS"),
            skbs: typed!("SKBS"),
            flows: typed!("FLOWS"),
            flow_keys: mapped!("FLOW_KEYS"),
            flow_counts: mapped!("FLOW_COUNTS"),
            flow_free: mapped!("FLOW_FREE"),
            flow_ring: mapped!("FLOW_RING"),
            flow_spare: typed!("FLOW_SPARE"),
            flow_use: mapped!("FLOW_USE"),
            unattributed: mapped!("UNATTRIBUTED"),
            policies: table!("POLICIES"),
            rules: typed!("RULES"),
            conversations: typed!("CONVERSATIONS"),
            exempt_due: typed!("EXEMPT_DUE"),
            evidence: typed!("EVIDENCE"),
            slots: typed!("SLOTS"),
            anchor: typed!("ANCHOR"),
            base_registers: typed!("BASE_REGISTERS"),
            base_skbs: typed!("BASE_SKBS"),
            base_drops: typed!("BASE_DROPS"),
            base_evidence: typed!("BASE_EVIDENCE"),
            base_marks: typed!("BASE_MARKS"),
        })
    }
}
