//! The checked configuration: what every other part of the program reads.
//!
//! A value of these types came through [`parse`](super::parse) or one of the `with_…` functions, so
//! names resolve, numbers are in range and nothing overlaps. Fields are public to be read.

use std::{path::PathBuf, str::FromStr};

use dataplane_common::units::{BitsPerSecond, Bytes, PacketsPerSecond, TenantId};
use metering::flow::Detail;

use super::api::Api;
use super::billing::{Billing, ChargeChange, ChargeClass};
use super::encryption::{Encryption, words};
use super::metrics::Metrics;
use super::own_profile::OwnProfile;
use super::provide::Provide;
use super::quota::Quota;
use super::share::Share;
use super::sink::Sink;
use super::values::{Cidr, InterfaceName, Mac, Name, ValueError, Vlan, shown};

/// Zones that exist on every host, by number. The file cannot use their names.
pub const BUILT_IN_ZONES: [&str; 4] = ["other", "intra-host", "group", "link"];

/// Number of the first zone of the file; those below are [`BUILT_IN_ZONES`].
pub const ZONE_ID_FIRST: u8 = 4;

/// One host: its links, its zones, its tenants and their ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The host itself.
    pub host: Host,
    /// Where records go; `None`: bytes are counted, and no record is kept.
    pub meter: Option<Meter>,
    /// How long what the meter wrote is kept.
    pub retention: Retention,
    /// What bills need to know.
    pub billing: Billing,
    /// The control API; `None`: there is no socket for it.
    pub api: Option<Api>,
    /// Where metrics are scraped; `None`: nowhere.
    pub metrics: Option<Metrics>,
    /// Where records go, in file order; none without [`Config::meter`].
    pub sinks: Vec<Sink>,
    /// The links by which packets leave the host; may be empty.
    pub uplinks: Vec<Uplink>,
    /// The zones of the file, in file order, without the built-in ones.
    pub zones: Vec<Zone>,
    /// The tenants, in file order.
    pub tenants: Vec<Tenant>,
    /// The tenants' ports, in file order.
    pub ports: Vec<Port>,
    /// What is asked of the tenants' packets, in file order.
    pub encryption: Vec<Encryption>,
    /// Tunnels whose keys are this host's, in file order.
    pub provide: Vec<Provide>,
    /// What the rules may accept beside the built-in profiles, in file order.
    pub encryption_profiles: Vec<OwnProfile>,
}

impl Config {
    /// The tenant that `port` belongs to. `None` only for a port that is not of this configuration.
    pub fn tenant_of(&self, port: &Port) -> Option<&Tenant> {
        self.tenants
            .iter()
            .find(|tenant| tenant.name == port.tenant)
    }

    /// The port of that name.
    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.name.as_str() == name)
    }
}

/// `[host]`: what concerns the host as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The host's name in records and statements.
    pub name: Name,
    /// Directory in a bpffs for pinned links, programs and maps; absolute.
    pub pin_dir: PathBuf,
    /// Directory of the control socket and the lock; absolute.
    pub run_dir: PathBuf,
    /// Interfaces whose frames may leave by an uplink though they belong to no port.
    pub trusted_interfaces: Vec<InterfaceName>,
    /// How ceilings are held.
    pub shape: Shape,
    /// What an skb pays above its bytes at every ceiling, guarantee and share; 0: nothing.
    pub packet_price_bytes: u16,
    /// Register slots for ports, 1..=65535.
    pub ports_max: u16,
    /// Zones, the built-in ones included, 8..=64.
    pub zones_max: u8,
    /// Flows that are counted one by one at the same time, 16..=4,194,304.
    pub flows_max: u32,
    /// Conversations of tenants with an encryption policy whose state is kept at once, 4..=4,194,304.
    pub conversations_max: u32,
}

impl Host {
    /// `pin_dir` of a file that names none.
    pub const PIN_DIR: &str = "/sys/fs/bpf/octroi";
    /// `run_dir` of a file that names none.
    pub const RUN_DIR: &str = "/run/octroi";
    /// `ports_max` of a file that names none.
    pub const PORTS_MAX: u16 = 1_024;
    /// `zones_max` of a file that names none.
    pub const ZONES_MAX: u8 = 16;
    /// `flows_max` of a file that names none.
    pub const FLOWS_MAX: u32 = 262_144;
    /// `conversations_max` of a file that names none.
    pub const CONVERSATIONS_MAX: u32 = 65_536;
}

/// `[meter]`: how counts become records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meter {
    /// The ledger's file; absolute. Its directory must exist.
    pub ledger: PathBuf,
    /// Length of a window, ns: a divisor of 300 s, at least 50 ms.
    pub window_ns: u64,
    /// Flows that one tenant may have at once, 0..=4,194,304: others keep their detail.
    pub tenant_flows_max: u32,
    /// A flow without a packet for so long ends, ns, within [`Meter::FLOW_NS`].
    pub flow_idle_ns: u64,
    /// A flow that began so long ago begins anew, ns, likewise.
    pub flow_active_ns: u64,
}

impl Meter {
    /// Where commands look for a ledger that nobody names.
    pub const LEDGER: &str = "/var/lib/octroi/ledger.db";
    /// `window` of a file that names none: 60 s.
    pub const WINDOW_NS: u64 = 60_000_000_000;
    /// `tenant_flows_max` of a file that names none.
    pub const TENANT_FLOWS_MAX: u32 = 65_536;
    /// `flow_idle` of a file that names none: 60 s.
    pub const FLOW_IDLE_NS: u64 = 60_000_000_000;
    /// `flow_active` of a file that names none: 30 minutes.
    pub const FLOW_ACTIVE_NS: u64 = 1_800_000_000_000;
    /// What both may be: 1 s to a day.
    pub const FLOW_NS: std::ops::RangeInclusive<u64> = 1_000_000_000..=86_400_000_000_000;
    /// Every window is a part of this: 300 s, the slot of a 95th percentile.
    pub const SLOT_NS: u64 = 300_000_000_000;
    /// The shortest: a cut waits for a grace period of the kernel, 10 to 40 ms.
    pub const WINDOW_NS_MIN: u64 = 50_000_000;
}

/// `[retention]`: how long what the meter wrote is kept, in whole days, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Flow detail.
    pub flows_days: u32,
    /// Meter records.
    pub records_days: u32,
    /// Roll-ups, statements and heads.
    pub rollups_days: u32,
}

impl Default for Retention {
    /// 7 days, 13 months and 10 years.
    fn default() -> Self {
        Self {
            flows_days: 7,
            records_days: 13 * Self::MONTH_DAYS,
            rollups_days: 10 * Self::YEAR_DAYS,
        }
    }
}

impl Retention {
    /// The longest month: nothing goes too early.
    pub const MONTH_DAYS: u32 = 31;
    /// The longest year.
    pub const YEAR_DAYS: u32 = 366;
    /// The longest time, 100 years.
    pub const DAYS_MAX: u32 = 100 * Self::YEAR_DAYS;
}

/// How ceilings are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// The best of the others that the host can do.
    #[default]
    Auto,
    /// Departure times, kept by an `fq` qdisc.
    Edt,
    /// HTB leaves on the port's own device.
    Htb,
    /// No queue: what is above the ceiling is dropped.
    Police,
}

impl Shape {
    /// Every shape.
    pub const ALL: [Shape; 4] = [Shape::Auto, Shape::Edt, Shape::Htb, Shape::Police];

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Shape::Auto => "auto",
            Shape::Edt => "edt",
            Shape::Htb => "htb",
            Shape::Police => "police",
        }
    }
}

/// `[[uplink]]`: a link by which packets leave the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The interface.
    pub interface: InterfaceName,
    /// What the link carries, overhead included; `None`: the link's own speed.
    pub capacity: Option<BitsPerSecond>,
    /// Bytes on the wire beside a packet's layer-2 bytes, for each packet, 0..=256.
    pub overhead_bytes: u16,
    /// Whether floods above a ceiling end there before an skb exists, by native XDP.
    pub xdp: bool,
    /// What becomes of overlays that the host itself sends there in clear.
    pub clear_overlays: ClearOverlays,
}

/// What becomes of overlays (VXLAN, Geneve, GRE, IP in IP …) that the host's own devices build and an uplink would send in
/// clear. Tenants' own overlays cross their ports, and are judged there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClearOverlays {
    /// They leave; nobody looks.
    #[default]
    Allow,
    /// They leave, and are counted.
    Count,
    /// They do not leave.
    Drop,
}

words!(ClearOverlays, "clear_overlays": Allow "allow", Count "count", Drop "drop");

impl Uplink {
    /// `overhead_bytes` of a file that names none: preamble, frame check sequence and gap.
    pub const OVERHEAD_BYTES: u16 = 24;
}

/// `[[zone]]`: remote addresses that are accounted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// The zone's name in records; none of [`BUILT_IN_ZONES`].
    pub name: Name,
    /// The zone's number, `ZONE_ID_FIRST..zones_max`; the place in the file unless it says `id`.
    pub id: u8,
    /// The zone's prefixes; among all zones the longest match wins, and no prefix is in two.
    pub cidrs: Vec<Cidr>,
}

/// `[[tenant]]`: who pays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The tenant's name, which ports refer to.
    pub name: Name,
    /// The tenant's number in records, at least 1.
    pub id: TenantId,
    /// What is kept of its flows.
    pub flow_detail: Detail,
    /// How the tenant's traffic is charged.
    pub charge_class: ChargeClass,
    /// When that changes, in order of time.
    pub charge_changes: Vec<ChargeChange>,
    /// The uplink that it shares; `None`: the only one.
    pub uplink: Option<InterfaceName>,
    /// Its part of that, of what it sends and of what it receives.
    pub shares: [Share; 2],
    /// Its budget of bytes; `None`: as many as it likes.
    pub quota: Option<Quota>,
}

/// `[[port]]`: an interface, or one VLAN of it, by which a tenant is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The port's name.
    pub name: Name,
    /// Name of the tenant: see [`Config::tenant_of`].
    pub tenant: Name,
    /// The host's end of the connection.
    pub interface: InterfaceName,
    /// The VLAN of the interface that the port is; `None`: all of the interface.
    pub vlan: Option<Vlan>,
    /// Source addresses the tenant may use, 1..=64, unicast, on no other port.
    pub macs: Vec<Mac>,
    /// IP addresses and prefixes the tenant may use, 1..=256, on no other port of the tenant.
    pub addresses: Vec<Cidr>,
    /// Limits of what the tenant sends.
    pub from_tenant: Limits,
    /// Limits of what the tenant receives.
    pub to_tenant: Limits,
}

/// Limits in one direction; `None` is no limit (for `burst`: the limiter's default).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Never exceeded, 1 kbit/s ..= 400 Gbit/s.
    pub ceiling: Option<BitsPerSecond>,
    /// What may pass at once after a pause, from 1,514 bytes to 10 s of the ceiling; only with one.
    pub burst: Option<Bytes>,
    /// Packets, as the wire carries them, 1 pps ..= 1 Gpps.
    pub packet_rate: Option<PacketsPerSecond>,
}
