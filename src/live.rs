//! The flows that are in the kernel's table now, as far as somebody may see them: what `octroi top` shows of a tenant.
//!
//! Invariants (`tests/top.rs`; decision 0053)
//! - Nobody sees more of a tenant's flows than its `flow_detail` keeps of them: networks where that is `prefix`, nothing
//!   where it is `off`. Without a daemon nobody knows what was agreed on, and networks are shown.
//! - A daemon shows nothing before the look is in the ledger.

use crate::{
    daemon::{control, flow_of},
    flows::{address, chosen, evidence},
};
use anyhow::{Context as _, Result, bail};
use dataplane::{
    flows::Live,
    gate::{self, LiveFlows},
    pins::Pins,
};
use dataplane_common::abi::Register;
use metering::flow::{Detail, Row, kept};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Whose flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Number of the tenant.
    pub tenant: u32,
    /// Name of one of its ports; `None`: of all of them.
    pub port: Option<String>,
}

impl Subject {
    /// As it is entered in the ledger.
    pub fn what(&self) -> String {
        let mut what = format!("live flows --tenant {}", self.tenant);
        what.extend(self.port.as_ref().map(|port| format!(" --port {port}")));
        what
    }
}

/// A flow as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// What tells it from every other flow of this boot: its place in the table, and CLOCK_MONOTONIC ns of its first packet.
    pub id: (u32, u64),
    /// Name of the port.
    pub port: String,
    /// Number of the zone.
    pub zone: u32,
    /// EtherType.
    pub ethertype: u16,
    /// IP protocol; 0: it is not IP.
    pub protocol: u8,
    /// Address of the tenant's end; empty where only networks are shown, and where there is none.
    pub local: String,
    /// Its port; 0: none, or only networks are shown.
    pub local_port: u16,
    /// Address or network of the other end.
    pub remote: String,
    /// Its port, or the service's; 0: none.
    pub remote_port: u16,
    /// From the tenant and to the tenant, at its place since the table was made: a difference says something, a sum does not.
    pub packets: [u64; 2],
    /// The same, layer-2 bytes.
    pub bytes: [u64; 2],
    /// Classes of what was delivered, both directions, since it began; empty: nobody looked.
    pub evidence: String,
    /// Version of TLS that its server chose; empty: none was read.
    pub tls_version: String,
}

/// Flows, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// At most `dataplane::flows::LIVE_MAX`.
    pub flows: Vec<Shown>,
    /// How many more there are.
    pub more: u64,
    /// What is shown of each.
    pub detail: String,
    /// To be said with the next question, so that it is the same look; 0: no daemon has entered it.
    pub look: u64,
}

impl Seen {
    /// What may be seen of one tenant's flows.
    pub fn of(found: &LiveFlows, detail: Detail) -> Self {
        let flows = found.seen.flows.iter().filter_map(|flow| {
            let (port, _) = found.ports.get(&flow.key.slot)?;
            shown(flow, port, detail)
        });
        Self {
            flows: flows.collect(),
            more: if detail == Detail::Off {
                0
            } else {
                found.seen.more
            },
            detail: detail.as_str().into(),
            look: 0,
        }
    }
}

fn shown(flow: &Live, port: &str, detail: Detail) -> Option<Shown> {
    if detail == Detail::Off {
        return None;
    }
    let row: Row = kept(&flow_of(&flow.key, flow.evidence), detail);
    let of = |count: fn(&Register) -> u64| [0, 1].map(|side: usize| count(&flow.counted[side]));
    Some(Shown {
        id: (flow.place, flow.first_ns),
        port: port.to_owned(),
        zone: row.zone,
        ethertype: row.ethertype,
        protocol: row.protocol,
        local: match detail {
            Detail::Full => address(&row, &row.local),
            _ => String::new(),
        },
        local_port: row.local_port,
        remote: address(&row, &row.remote),
        remote_port: row.port,
        packets: of(|register| register.packets),
        bytes: of(|register| register.l2_bytes),
        evidence: evidence(&row),
        tls_version: chosen(row.evidence.tls_version),
    })
}

/// Asks the daemon; without one, the pins. `look`: what the answer before said, 0 at first.
///
/// # Errors
/// The daemon's refusal; that neither is there.
pub fn read(run_dir: &Path, pin_dir: &Path, subject: &Subject, look: u64) -> Result<Seen> {
    let request = control::Request::Flows {
        subject: subject.clone(),
        look,
    };
    match control::call(run_dir, &request) {
        Ok(text) => serde_json::from_str(&text).context("the daemon's flows"),
        // A daemon that says no is not gone round.
        Err(refusal) if refusal.answered => bail!("{}", refusal.message),
        Err(refusal) => {
            let pins = Pins::new(pin_dir);
            if !pins.exist() {
                bail!("{}", refusal.message);
            }
            let found = gate::read_flows(&pins, Some(subject.tenant), subject.port.as_deref())?;
            Ok(Seen::of(&found, Detail::Prefix))
        }
    }
}
