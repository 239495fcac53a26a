//! The compiled programs, and how they are loaded into maps of a given size.

use crate::{Error, Result, btf, error::chain, maps::Block, pins::Pins};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel, include_bytes_aligned};
use dataplane_common::{
    abi::{
        BLOCK, DIRECTIONS, InterfaceSlot, RULES_MAX, Sizes,
        quota::{Marks, QuotaCounts, QuotaPolicy},
        share::{ShareClocks, SharePolicy, UPLINKS_MAX, UplinkPolicy, UplinkShare},
    },
    encryption::{CLASSES, WAYS, exempt},
    flood::SURPLUS_CLOCKS,
    reason::REASONS_MAX,
};
use zerocopy::IntoBytes as _;

/// The ELF that `build.rs` made.
pub static OBJECT: &[u8] = include_bytes_aligned!(env!("OCTROI_BPF_OBJECT"));

/// Most memory for the clocks that tell thin flows from fat ones: 1,024 in a row for the ports of a configuration that
/// names no number.
const THIN_BYTES: u64 = 36 << 20;

/// SHA-256 of [`OBJECT`], in hexadecimal digits: which programs judge and count.
pub const OBJECT_SHA256: &str = env!("OCTROI_BPF_SHA256");

/// Everything about the gate that is fixed when its maps are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Slots and columns.
    pub sizes: Sizes,
    /// Prefixes in `ZONES`, both sets of policy together.
    pub zone_prefixes: u32,
    /// Entries of `ADDRESSES` and of `MACS`, both sets together.
    pub overflow: u32,
    /// Places of the flow table, 1..=[`dataplane_common::flow::FlowPlace::PLACES_MAX`].
    pub flows: u32,
    /// Buckets of conversations for tenants with an encryption policy, at least 1; a bucket has
    /// [`dataplane_common::encryption::WAYS`].
    pub buckets: u32,
    /// Tests only: see `TEST_LINGER` in the programs.
    pub test_linger: u32,
    /// Benches only: entries of their table of draws; 1 in service.
    pub bench_picks: u32,
}

impl Plan {
    /// The plan for `ports` at most, each perhaps coming and going, and `zones` columns.
    ///
    /// Four slots for a port that comes and goes, plus uplinks and the host's own: a slot that was
    /// given up is taken again only when no fresh one is left.
    pub fn new(ports: u32, zones: u32) -> Self {
        let slots = ports.saturating_mul(2).saturating_add(64).min(65_536);
        Self {
            sizes: Sizes { slots, zones },
            zone_prefixes: 2 * (16_384 + 8 * ports),
            overflow: 2 * (1_024 + 16 * ports),
            flows: 1,
            buckets: 1,
            test_linger: 0,
            bench_picks: 1,
        }
    }

    /// The same plan with a flow table of so many places.
    #[must_use]
    pub const fn with_flows(mut self, places: u32) -> Self {
        self.flows = places;
        self
    }

    /// The same plan with room for so many conversations of tenants with an encryption policy.
    #[must_use]
    pub const fn with_conversations(mut self, conversations: u32) -> Self {
        let buckets = conversations.div_ceil(WAYS as u32);
        self.buckets = if buckets == 0 { 1 } else { buckets };
        self
    }

    /// The same plan with room for the draws of a bench.
    #[must_use]
    pub const fn with_bench_picks(mut self, picks: u32) -> Self {
        self.bench_picks = picks;
        self
    }

    /// Clocks in a row for the flows of one limit, a power of two: as many as fit in [`THIN_BYTES`].
    ///
    /// Of 128 fat flows, 1,024 clocks take a thin one's place in both rows once in 73 draws of the hash.
    pub(crate) const fn thin_cells(&self) -> u32 {
        let rows = self.sizes.slots as u64 * DIRECTIONS as u64 * 2;
        let mut cells = 1_024;
        while cells > 16 && rows * cells as u64 * size_of::<u32>() as u64 > THIN_BYTES {
            cells /= 2;
        }
        cells
    }

    /// Entries by map.
    pub(crate) fn entries(&self) -> [(&'static str, u32); 40] {
        let Sizes { slots, zones } = self.sizes;
        let by_direction = slots * DIRECTIONS;
        let reasons = by_direction * REASONS_MAX as u32;
        let blocks = |registers: u32| registers.div_ceil(BLOCK);
        [
            ("EPOCH", 1),
            ("BARRIER", 1),
            ("BINDINGS", slots * 2),
            ("INTERFACES", InterfaceSlot::ENTRIES),
            ("BLESSED", slots),
            ("TRUSTED", 1_024),
            ("PORTS", slots * 2),
            ("MACS", self.overflow),
            ("ADDRESSES", self.overflow),
            ("ZONES", self.zone_prefixes),
            ("CLOCKS", by_direction * Sizes::CLOCKS),
            ("SHARES", by_direction * 2),
            ("SHARE_CLOCKS", by_direction),
            ("UPLINKS", 2 * UPLINKS_MAX * DIRECTIONS),
            ("UPLINK_SHARE", UPLINKS_MAX * DIRECTIONS),
            ("QUOTAS", slots * 2),
            ("QUOTA_COUNTS", slots),
            ("MARKS", blocks(by_direction)),
            ("BASE_MARKS", by_direction),
            ("REGISTERS", blocks(2 * by_direction * zones)),
            ("DROPS", blocks(2 * reasons)),
            ("SKBS", blocks(2 * by_direction)),
            ("FLOWS", self.flows),
            ("FLOW_KEYS", self.flows),
            ("FLOW_COUNTS", 2 * self.flows),
            ("FLOW_FREE", self.flows),
            ("FLOW_RING", 1),
            ("FLOW_SPARE", 1),
            ("FLOW_USE", slots),
            ("UNATTRIBUTED", self.unattributed()),
            ("POLICIES", slots * 2),
            ("RULES", RULES_MAX * 2),
            ("CONVERSATIONS", self.buckets),
            ("EXEMPT_DUE", by_direction * exempt::COUNT),
            ("EVIDENCE", blocks(2 * by_direction * CLASSES)),
            ("BASE_EVIDENCE", by_direction * CLASSES),
            ("SLOTS", slots),
            ("ANCHOR", 1),
            ("BASE_REGISTERS", by_direction * zones),
            ("BASE_SKBS", by_direction),
        ]
    }

    /// Entries of `UNATTRIBUTED`.
    pub(crate) const fn unattributed(&self) -> u32 {
        2 * self.sizes.slots * DIRECTIONS * self.sizes.zones
    }

    /// Memory of the maps in bytes, for a machine with `cpus` possible CPUs: values, keys, and the
    /// kernel's 64 bytes or so beside each hash or trie entry.
    pub fn memory_bytes(&self, cpus: u32) -> Vec<(&'static str, u64)> {
        use dataplane_common::abi::{Drops, PortPolicy, Register, Skbs, Slot};
        use dataplane_common::encryption::{Bucket, Policy, Rule};
        let value = |name: &str| match name {
            "REGISTERS" => (size_of::<Block<Register>>() as u64) * u64::from(cpus),
            "DROPS" | "EVIDENCE" => (size_of::<Block<Drops>>() as u64) * u64::from(cpus),
            "SKBS" => (size_of::<Block<Skbs>>() as u64) * u64::from(cpus),
            "MARKS" => (size_of::<Block<Marks>>() as u64) * u64::from(cpus),
            "BASE_MARKS" => size_of::<Marks>() as u64,
            "QUOTAS" => size_of::<QuotaPolicy>() as u64,
            "QUOTA_COUNTS" => size_of::<QuotaCounts>() as u64,
            "PORTS" => size_of::<PortPolicy>() as u64,
            "SLOTS" => size_of::<Slot>() as u64,
            "SHARES" => size_of::<SharePolicy>() as u64,
            "SHARE_CLOCKS" => size_of::<ShareClocks>() as u64,
            "UPLINKS" => size_of::<UplinkPolicy>() as u64,
            "UPLINK_SHARE" => size_of::<UplinkShare>() as u64,
            "BASE_REGISTERS" | "UNATTRIBUTED" => size_of::<Register>() as u64,
            "FLOW_KEYS" | "FLOW_COUNTS" => 64,
            "BASE_EVIDENCE" => size_of::<Drops>() as u64,
            "POLICIES" => size_of::<Policy>() as u64,
            "RULES" => size_of::<Rule>() as u64,
            "CONVERSATIONS" => size_of::<Bucket>() as u64,
            // Key, value, the element's head, and its bucket.
            "FLOWS" => 48 + 32 + 48 + 16,
            "BASE_SKBS" => size_of::<Skbs>() as u64,
            "BINDINGS" | "BLESSED" | "TRUSTED" | "MACS" => 80,
            "ZONES" | "ADDRESSES" => 96,
            _ => 8,
        };
        let mut all: Vec<_> = self
            .entries()
            .into_iter()
            .map(|(name, entries)| (name, u64::from(entries) * value(name)))
            .collect();
        let drops = u64::from(self.sizes.slots * DIRECTIONS) * REASONS_MAX as u64;
        all.push(("BASE_DROPS", drops * size_of::<Drops>() as u64));
        let limits = u64::from(self.sizes.slots * DIRECTIONS);
        let clocks = 2 * u64::from(self.thin_cells()) * size_of::<u32>() as u64;
        all.push(("THIN", limits * clocks));
        all.push(("FAIR", limits * clocks));
        let lines = size_of::<[u64; dataplane_common::fair::WORDS]>() as u64;
        all.push(("FAIR_LINES", limits * lines));
        let surplus = u64::from(self.sizes.slots * SURPLUS_CLOCKS);
        all.push(("SURPLUS", surplus * size_of::<u64>() as u64));
        all
    }
}

/// The programs' constants that nobody may guess: `dataplane_common::thin::hash`.
const THIN_KEYS: [&str; 5] = [
    "THIN_KEY_0",
    "THIN_KEY_1",
    "THIN_KEY_2",
    "THIN_KEY_3",
    "THIN_KEY_4",
];

/// Loads the programs; maps are those of `pins` where they are there, made and pinned where not.
/// With `None`, nothing is pinned (tests, benches, `doctor`).
///
/// # Errors
/// [`Error::Btf`], [`Error::Load`], and what [`Pins::check`] finds.
pub fn load(plan: &Plan, pins: Option<&Pins>) -> Result<Ebpf> {
    load_elf(plan, pins, OBJECT)
}

/// The same of the programs in `elf`: [`OBJECT`], or those of another build that a bench measures beside it.
///
/// # Errors
/// As [`load`].
pub fn load_elf(plan: &Plan, pins: Option<&Pins>, elf: &[u8]) -> Result<Ebpf> {
    let offsets = btf::offsets()?;
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for (name, entries) in plan.entries() {
        loader.map_max_entries(name, entries);
    }
    let reasons = plan.sizes.slots * DIRECTIONS * REASONS_MAX as u32;
    loader.map_max_entries("BASE_DROPS", reasons);
    loader.map_max_entries("BENCH_PICKS", plan.bench_picks);
    let limits = plan.sizes.slots * DIRECTIONS;
    loader.map_max_entries("THIN", limits * 2 * plan.thin_cells());
    loader.map_max_entries("FAIR", limits * 2 * plan.thin_cells());
    loader.map_max_entries("FAIR_LINES", limits);
    loader.map_max_entries("SURPLUS", plan.sizes.slots * SURPLUS_CLOCKS);
    let constants = [
        ("SLOTS_MAX", plan.sizes.slots),
        ("ZONES_MAX", plan.sizes.zones),
        ("FLOWS_MAX", plan.flows),
        ("THIN_CELLS", plan.thin_cells()),
        ("SKB_HEAD", offsets.head),
        ("SKB_DATA", offsets.data),
        ("SKB_END", offsets.end),
        ("SKB_INNER_TRANSPORT", offsets.inner_transport),
        ("SHINFO_GSO_TYPE", offsets.gso_type),
        ("TEST_LINGER", plan.test_linger),
    ];
    for (name, value) in &constants {
        loader.override_global(name, value, true);
    }
    let mut keys = [0_u64; THIN_KEYS.len()];
    getrandom::fill(keys.as_mut_bytes()).map_err(|error| Error::Load {
        reason: format!("getrandom: {error}"),
    })?;
    for (name, key) in THIN_KEYS.iter().zip(&keys) {
        loader.override_global(name, key, true);
    }
    if let Some(pins) = pins {
        pins.check(plan)?;
        for name in crate::maps::NAMES {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    loader.load(elf).map_err(|error| Error::Load {
        reason: chain(&error),
    })
}
