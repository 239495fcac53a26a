//! From the gate's words to the meter's: what a cut found, and what is wrong with it.

use super::clock;
use crate::{
    config::{self, Config, Limits},
    loader::Gate,
};
use dataplane::{
    flows::{Gain, Timeouts},
    gate::{Owned, Reading},
    registers::Both,
};
use dataplane_common::flow::FlowKey;
use metering::{
    flow::{FlowDelta, FlowEvidence},
    ledger::{Ceiling, Checkpoint, CheckpointOwner},
    meter::{Owner, Sums},
    window::Counts,
};
use std::{collections::BTreeMap, time::Duration};

/// When flows end.
pub(super) fn timeouts(meter: &config::Meter) -> Timeouts {
    Timeouts {
        idle: Duration::from_nanos(meter.flow_idle_ns),
        active: Duration::from_nanos(meter.flow_active_ns),
    }
}

/// What a cut found wrong with flows. Bills do not rest on them.
pub(super) fn alarms(reading: &mut Reading) -> Vec<String> {
    let mut said = Vec::new();
    if !reading.unbalanced.is_empty() {
        said.push(format!(
            "ALARM: flows of {} are not what their registers gained; the bill is not touched; please report this",
            reading.unbalanced.join(", ")
        ));
    }
    let failed = reading.flows_failed.take();
    said.extend(failed.map(|why| format!("warning: flows: {why}")));
    said
}

fn sums(both: Both) -> Sums {
    let counts = |[packets, l2_bytes, l3_bytes]: [u64; 3]| Counts {
        packets,
        l2_bytes,
        l3_bytes,
    };
    Sums {
        zones: both.zones.into_iter().map(counts).collect(),
        drops: both.drops,
        evidence: both.evidence,
        skbs: both.skbs,
    }
}

/// An owner's reading. `suspended_ns`: CLOCK_BOOTTIME less CLOCK_MONOTONIC.
pub(super) fn owner(owned: Owned, suspended_ns: u64) -> Owner {
    Owner {
        incarnation: owned.incarnation,
        name: owned.name,
        tenant: owned.tenant,
        live: owned.live,
        since_ns: owned.since_ns,
        directions: owned.directions.map(|both| both.map(sums)),
        flows: owned
            .flows
            .iter()
            .map(|gain| flow(gain, suspended_ns))
            .collect(),
        ..Owner::default()
    }
}

/// Whose flow it is and what is known of its encryption, as a record has it; nothing is counted.
pub(crate) fn flow_of(key: &FlowKey, evidence: dataplane_common::flow::FlowEvidence) -> FlowDelta {
    FlowDelta {
        zone: key.zone.into(),
        ethertype: key.ethertype,
        vlan: key.vlan,
        protocol: key.protocol,
        local: FlowKey::address_bytes(key.local),
        remote: FlowKey::address_bytes(key.remote),
        local_port: key.local_port,
        remote_port: key.remote_port,
        evidence: FlowEvidence {
            classes: evidence.classes(),
            tls_version: evidence.version(),
            tls_suite: evidence.suite(),
        },
        ..FlowDelta::default()
    }
}

fn flow(gain: &Gain, suspended_ns: u64) -> FlowDelta {
    FlowDelta {
        direction: gain.direction as u8,
        first_ns: gain.first_ns.saturating_add(suspended_ns),
        last_ns: gain.last_ns.saturating_add(suspended_ns),
        counts: Counts {
            packets: gain.delivered.packets,
            l2_bytes: gain.delivered.l2_bytes,
            l3_bytes: gain.delivered.l3_bytes,
        },
        tcp_flags: gain.tcp_flags,
        drop_reasons: gain.reasons,
        drop_packets: gain.refused.into(),
        ..flow_of(&gain.key, gain.evidence)
    }
}

/// What everybody stands at without a cut (`docs/METERING.md`, M-9); `None`: it cannot be read now.
pub(super) fn checkpoint(
    gate: &Gate,
    ceilings: &BTreeMap<String, [Option<Ceiling>; 2]>,
) -> Option<Checkpoint> {
    // M-9.3: when the reading began.
    let time = clock::now();
    let (Ok(registers), Ok(epoch)) = (gate.look_at_registers(), gate.epoch()) else {
        return None;
    };
    let owners = registers.into_iter().map(|owned| {
        let owner = owner(owned, 0);
        CheckpointOwner {
            incarnation: owner.incarnation,
            ceilings: ceilings.get(&owner.name).copied().unwrap_or_default(),
            name: owner.name,
            tenant: owner.tenant,
            since_ns: owner.since_ns,
            directions: owner.directions.unwrap_or_default(),
        }
    });
    Some(Checkpoint {
        window: u64::from(epoch.window()),
        revision: epoch.revision(),
        owners: owners.collect(),
        time,
    })
}

/// By port: from the tenant, to the tenant.
pub(super) fn ceilings(config: &Config) -> BTreeMap<String, [Option<Ceiling>; 2]> {
    let ports = config.ports.iter().map(|port| {
        let both = [port.from_tenant, port.to_tenant].map(|limit| most(&limit));
        (port.name.as_str().to_owned(), both)
    });
    ports.collect()
}

/// What a ceiling lets through: bits/s, and bytes at once.
fn most(limits: &Limits) -> Option<Ceiling> {
    let bits = limits.ceiling?.0;
    // The longest of the limiter's own bursts: 250 ms.
    let burst = limits.burst.map_or(bits / 32, |burst| burst.0);
    Some((bits, burst))
}
