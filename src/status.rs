//! What an operator looks at: `status`, the memory of `check`.

use crate::{
    config::{self, BUILT_IN_ZONES, Config},
    daemon::{self, control},
    flood, loader, price, provide, quota,
};
use anyhow::Result;
use dataplane::{
    gate::{self, PortState, PortStatus, UplinkStatus},
    host, object,
    pins::Pins,
    provide::Providing,
    registers::Direction,
};
use dataplane_common::{encryption::Class, reason::DropReason};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// `octroi status --json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// A daemon runs.
    pub daemon: bool,
    /// How programs are attached.
    pub mechanism: String,
    /// SHA-256 of the BPF object that the daemon loads; empty: no daemon runs.
    #[serde(default)]
    pub bpf_sha256: String,
    /// Policy revision in force.
    pub revision: u32,
    /// What a packet pays above its bytes at every ceiling, guarantee and share, bytes; 0: nothing. Without a daemon: 0 also
    /// where no limit is.
    #[serde(default)]
    pub packet_price_bytes: u32,
    /// Open window.
    pub window: u32,
    /// Names of zones by number.
    pub zones: BTreeMap<u32, String>,
    /// Names of tenants by number.
    pub tenants: BTreeMap<u32, String>,
    /// The meter; `None`: no daemon runs, or it keeps no records.
    pub meter: Option<daemon::MeterStatus>,
    /// What holds the meter's process; `None`: no daemon runs.
    #[serde(default)]
    pub confined: Option<daemon::Confined>,
    /// Where records go.
    #[serde(default)]
    pub sinks: Vec<daemon::SinkStatus>,
    /// Tenants' budgets of bytes; without a daemon nobody knows a period's beginning.
    #[serde(default)]
    pub quotas: Vec<daemon::QuotaStatus>,
    /// Ports, retired ones too.
    pub ports: Vec<PortStatus>,
    /// Uplinks, with what left by them.
    #[serde(default)]
    pub uplinks: Vec<UplinkStatus>,
    /// Tunnels that this host provides; empty where no daemon runs.
    #[serde(default)]
    pub provided: Vec<Providing>,
}

impl Report {
    /// Of a running gate.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn of(gate: &loader::Gate, config: &Config) -> Result<Self, loader::Error> {
        let epoch = gate.epoch()?;
        let built_in = (0u32..).zip(BUILT_IN_ZONES.map(String::from));
        let configured = config
            .zones
            .iter()
            .map(|zone| (u32::from(zone.id), zone.name.as_str().to_owned()));
        Ok(Self {
            daemon: true,
            mechanism: gate.mechanism().name().into(),
            bpf_sha256: object::OBJECT_SHA256.into(),
            revision: epoch.revision(),
            packet_price_bytes: config.host.packet_price_bytes.into(),
            window: epoch.window(),
            zones: built_in.chain(configured).collect(),
            tenants: config
                .tenants
                .iter()
                .map(|tenant| (tenant.id.0, tenant.name.as_str().to_owned()))
                .collect(),
            meter: None,
            confined: None,
            sinks: Vec::new(),
            quotas: Vec::new(),
            ports: gate.ports()?,
            uplinks: gate.uplinks()?,
            provided: gate.provided()?,
        })
    }

    /// From the pins alone: no daemon runs, the kernel goes on.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn of_pins(pins: &Pins) -> dataplane::Result<Self> {
        let gate::Pinned {
            epoch,
            ports,
            uplinks,
            packet_price,
        } = gate::read_pinned(pins)?;
        Ok(Self {
            daemon: false,
            mechanism: dataplane::attach::mechanism().name().into(),
            bpf_sha256: String::new(),
            revision: epoch.revision(),
            packet_price_bytes: packet_price,
            window: epoch.window(),
            zones: (0u32..).zip(BUILT_IN_ZONES.map(String::from)).collect(),
            tenants: BTreeMap::new(),
            meter: None,
            confined: None,
            sinks: Vec::new(),
            quotas: Vec::new(),
            ports,
            uplinks,
            provided: Vec::new(),
        })
    }
}

/// What `octroi status` shows: the daemon's report, or what the pins say when none answers.
///
/// # Errors
/// When neither a daemon nor pins are there.
pub fn read(run_dir: &Path, pin_dir: &Path) -> Result<Report> {
    Ok(serde_json::from_str(&text(run_dir, pin_dir)?)?)
}

fn text(run_dir: &Path, pin_dir: &Path) -> Result<String> {
    let answer = control::call(run_dir, &control::Request::Status);
    match answer {
        Ok(text) => Ok(text),
        Err(refusal) => {
            let pins = Pins::new(pin_dir);
            if !pins.exist() {
                anyhow::bail!(refusal.message);
            }
            let report = Report::of_pins(&pins).map_err(|error| {
                // SAFETY: takes nothing, cannot fail.
                if unsafe { libc::geteuid() } == 0 {
                    return anyhow::Error::from(error);
                }
                anyhow::anyhow!(
                    "{}: only root may read this gate; use sudo",
                    pins.root().display()
                )
            })?;
            Ok(serde_json::to_string(&report)?)
        }
    }
}

/// `octroi status`.
///
/// # Errors
/// When neither a daemon nor pins are there.
pub fn show(run_dir: &Path, pin_dir: &Path, json: bool) -> Result<()> {
    let text = text(run_dir, pin_dir)?;
    if json {
        println!("{text}");
        return Ok(());
    }
    print!("{}", table(&serde_json::from_str(&text)?));
    Ok(())
}

fn table(report: &Report) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "{}; {}; revision {}, window {}\n{:<20} {:<12} {:<16} {:<8} {:>20} {:>20} {:>12}\n",
        if report.daemon {
            "daemon runs"
        } else {
            "no daemon; the kernel goes on"
        },
        report.mechanism,
        report.revision,
        report.window,
        "PORT",
        "TENANT",
        "INTERFACE",
        "STATE",
        "FROM TENANT, BYTES",
        "TO TENANT, BYTES",
        "DROPS"
    );
    if let Some(confined) = &report.confined {
        text.insert_str(0, &confined_line(confined));
    }
    if let Some(meter) = &report.meter {
        text.insert_str(0, &audit_lines(&meter.audit));
    }
    text.insert_str(0, &quota::lines(report));
    if let Some(line) = price::line(report.packet_price_bytes) {
        text.insert_str(0, &(line + "\n"));
    }
    for port in &report.ports {
        let drops = |direction: &Direction| -> u64 {
            direction
                .drops
                .iter()
                .map(|(_, counts)| counts.packets)
                .sum()
        };
        let tenant = report.tenants.get(&port.tenant).cloned();
        let state = match port.state {
            PortState::Blessed => "blessed",
            PortState::Waiting => "waiting",
            PortState::Retired => "retired",
        };
        let _ = writeln!(
            text,
            "{:<20} {:<12} {:<16} {:<8} {:>20} {:>20} {:>12}",
            port.name,
            tenant.unwrap_or_else(|| port.tenant.to_string()),
            port.interface,
            state,
            delivered(&port.from_tenant),
            delivered(&port.to_tenant),
            drops(&port.from_tenant) + drops(&port.to_tenant),
        );
        for (direction, shape) in ["from tenant", "to tenant"].iter().zip(&port.shape) {
            if shape.shape == "none" || port.state == PortState::Retired {
                continue;
            }
            let _ = write!(text, "  {direction}: {} ({})", shape.shape, shape.reason);
            // Billed, and then lost: never in a queue that keeps up with its limiter.
            if shape.leaf_drops != 0 {
                let _ = write!(
                    text,
                    "; ITS QUEUE DROPPED {} BILLED PACKETS",
                    shape.leaf_drops
                );
            }
            text.push('\n');
        }
        text += &flood::line(port);
    }
    // Those that only let everything out have nothing to say.
    let asked = |uplink: &&UplinkStatus| {
        uplink.clear_overlays != "allow"
            || uplink.leaving.dropped().packets != 0
            || !flood::mode(uplink).is_empty()
    };
    for uplink in report.uplinks.iter().filter(asked) {
        let _ = writeln!(text, "{}", uplink_line(uplink));
    }
    for tunnel in &report.provided {
        text += &provide::lines(tunnel);
    }
    text
}

/// What an uplink's guard did.
fn uplink_line(uplink: &UplinkStatus) -> String {
    let would = uplink.leaving.evidence.iter();
    let would: u64 = would
        .filter(|(class, _)| class == Class::WouldDrop.name())
        .map(|(_, counts)| counts.packets)
        .sum();
    let overlays = uplink.leaving.dropped_for(DropReason::ClearOverlay).packets;
    let all: u64 = uplink.leaving.dropped().packets;
    let guard = match uplink.clear_overlays.as_str() {
        "drop" => format!("{overlays} packets of overlays in clear dropped"),
        "count" => format!("{would} packets of overlays left in clear (count)"),
        _ => "overlays may leave in clear (allow)".to_owned(),
    };
    format!(
        "uplink {}: {} bytes left; {guard}; {} dropped for other reasons{}",
        uplink.interface,
        delivered(&uplink.leaving),
        all - overlays.min(all),
        flood::mode(uplink)
    )
}

/// What an operator would miss: the rest is as `docs/SECURITY.md` says.
fn confined_line(confined: &daemon::Confined) -> String {
    if confined.landlock == 0 {
        "no Landlock: the meter may write whatever root may\n".into()
    } else {
        String::new()
    }
}

/// What the audit found, if it found something.
fn audit_lines(audit: &daemon::AuditStatus) -> String {
    let mut text = String::new();
    if let Some(last) = &audit.last {
        text += &format!("UNMETERED: {} times; last: {last}\n", audit.unmetered);
    }
    if !audit.not_audited.is_empty() {
        let names = audit.not_audited.join(", ");
        text += &format!("not audited, because their counters are not known: {names}\n");
    }
    text
}

/// Prints what the maps of `config` take on this machine.
pub fn print_memory(config: &Config) {
    let cpus = host::possible_cpus();
    let mut total = 0;
    for (name, bytes) in daemon::plan(config).memory_bytes(cpus) {
        total += bytes;
        if bytes >= 1 << 16 {
            println!("  {name:<16} {:>12} kB", bytes / 1_000);
        }
    }
    println!(
        "  {:<16} {:>12} kB of kernel memory with {cpus} possible CPUs",
        "total",
        total / 1_000
    );
}

/// A direction's delivered layer-2 bytes, all zones.
pub fn delivered(direction: &Direction) -> u64 {
    direction.total().l2_bytes
}

/// Ports that are blessed.
pub fn blessed(report: &Report) -> usize {
    report
        .ports
        .iter()
        .filter(|port| port.state == PortState::Blessed)
        .count()
}

/// Zone names of a configuration, built-in ones too.
pub fn zone_names(config: &config::Config) -> Vec<String> {
    BUILT_IN_ZONES
        .map(String::from)
        .into_iter()
        .chain(
            config
                .zones
                .iter()
                .map(|zone| zone.name.as_str().to_owned()),
        )
        .collect()
}
