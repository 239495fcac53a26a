//! `octroi encryption`: what of each tenant's traffic is encrypted, by what, and what a rule refuses or would.

use crate::{
    cli::At,
    config::{Config, Mode},
    status::{self, Report},
};
use anyhow::Result;
use clap::Args;
use dataplane::{encryption::Talking, gate, pins::Pins, registers::DropCounts};
use dataplane_common::{
    encryption::{Class, Conversation, Why, protocol},
    flow::FlowKey,
    parse::ethertype,
    reason::DropReason,
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// `octroi encryption`.
#[derive(Debug, Args)]
pub struct Options {
    /// Only this tenant, by name or number.
    #[arg(long)]
    tenant: Option<String>,
    /// How many refused conversations of a tenant to show, those with most bytes first.
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: At,
}

/// What is known of a tenant.
#[derive(Debug, Default, Serialize)]
struct Tenant {
    name: String,
    /// Layer-2 bytes and packets by class, from the tenant and to it, since its ports began.
    from_tenant: BTreeMap<String, DropCounts>,
    to_tenant: BTreeMap<String, DropCounts>,
    /// Dropped by the policy.
    dropped: DropCounts,
    /// Conversations by what they speak.
    conversations: BTreeMap<String, u64>,
    /// Those that the rule refuses, or would.
    refused: Vec<Refused>,
}

/// A conversation that is refused.
#[derive(Debug, Serialize)]
struct Refused {
    local: String,
    remote: String,
    protocol: u8,
    /// Why, as the last packet had it.
    why: &'static str,
    /// Payload, bytes; at 2^32 - 1 it stays.
    bytes: u32,
    /// The version that a server chose, 0: none was read.
    version: u16,
    suite: u16,
}

/// Prints it, from the pins: also when no daemon runs.
///
/// # Errors
/// When there is no gate.
pub fn encryption(options: &Options) -> Result<()> {
    let report = status::read(&options.at.run_dir, &options.at.pin_dir)?;
    let talking = gate::read_conversations(&Pins::new(&options.at.pin_dir))?;
    let wanted = |number: u32| {
        let name = report.tenants.get(&number);
        options.tenant.as_ref().is_none_or(|wanted| {
            name == Some(wanted) || wanted.parse().is_ok_and(|wanted: u32| wanted == number)
        })
    };
    let mut tenants = of_ports(&report);
    for one in &talking {
        add(tenants.entry(one.tenant).or_default(), one);
    }
    tenants.retain(|number, _| wanted(*number));
    for (number, tenant) in &mut tenants {
        tenant.name = report.tenants.get(number).cloned().unwrap_or_default();
        tenant
            .refused
            .sort_by_key(|refused| std::cmp::Reverse(refused.bytes));
        tenant.refused.truncate(options.top);
    }
    if options.json {
        println!("{}", serde_json::to_string(&tenants)?);
        return Ok(());
    }
    if tenants.is_empty() {
        println!("no tenant has an encryption policy; add [[encryption]]");
    }
    for (number, tenant) in &tenants {
        print(*number, tenant);
    }
    Ok(())
}

/// Says what the rules of a configuration do, in words.
pub fn explain(config: &Config) {
    for rule in &config.encryption {
        let direction = match rule.direction {
            crate::config::Direction::Both => "to and from",
            crate::config::Direction::FromTenant => "from",
            crate::config::Direction::ToTenant => "to",
        };
        let zones: Vec<&str> = rule.zones.iter().map(|zone| zone.as_str()).collect();
        let whereto = if zones.is_empty() {
            "anywhere".to_owned()
        } else {
            format!("zone {}", zones.join(", "))
        };
        let accepted = config.profile_words(&rule.profile);
        let doing = match rule.mode {
            Mode::Off => "nothing is looked at".to_owned(),
            Mode::Observe => format!("counted is what is not: {accepted}"),
            Mode::Enforce => format!("dropped is what is not: {accepted}"),
        };
        let exempt: Vec<String> = rule.exempt.iter().map(ToString::to_string).collect();
        println!(
            "  encryption {direction} `{}`, {whereto}: {doing}; evidence {} at least; in clear pass: {}",
            rule.tenant,
            rule.min_evidence.as_str(),
            if exempt.is_empty() {
                "nothing".to_owned()
            } else {
                exempt.join(" ")
            }
        );
    }
}

/// The registers of ports that a policy looks at.
fn of_ports(report: &Report) -> BTreeMap<u32, Tenant> {
    let mut tenants: BTreeMap<u32, Tenant> = BTreeMap::new();
    for port in &report.ports {
        let sides = [&port.from_tenant, &port.to_tenant];
        let reason = DropReason::EncryptionPolicy;
        let dropped = sides.map(|side| side.dropped_for(reason));
        let looked = sides.iter().any(|side| !side.evidence.is_empty());
        if !looked && dropped.iter().all(|one| one.packets == 0) {
            continue;
        }
        let tenant = tenants.entry(port.tenant).or_default();
        for (classes, side) in [&mut tenant.from_tenant, &mut tenant.to_tenant]
            .into_iter()
            .zip(sides)
        {
            for (class, counts) in &side.evidence {
                more(classes.entry(class.clone()).or_default(), *counts);
            }
        }
        for one in dropped {
            more(&mut tenant.dropped, one);
        }
    }
    tenants
}

fn more(sum: &mut DropCounts, counts: DropCounts) {
    sum.packets = sum.packets.saturating_add(counts.packets);
    sum.l2_bytes = sum.l2_bytes.saturating_add(counts.l2_bytes);
}

fn add(tenant: &mut Tenant, one: &Talking) {
    let talk = &one.conversation;
    let spoken = protocol::NAMES.get(usize::from(talk.protocol));
    let spoken = spoken.unwrap_or(&"unknown");
    *tenant
        .conversations
        .entry((*spoken).to_owned())
        .or_default() += 1;
    let Some(why) = Why::from_number(talk.why).filter(|_| talk.refused != 0) else {
        return;
    };
    tenant.refused.push(Refused {
        local: end(talk, talk.key.local, talk.key.local_port),
        remote: end(talk, talk.key.remote, talk.key.remote_port),
        protocol: talk.key.protocol,
        why: why.name(),
        bytes: talk.refused,
        version: talk.version,
        suite: talk.suite,
    });
}

fn end(talk: &Conversation, address: [u32; 4], port: u16) -> String {
    let bytes = FlowKey::address_bytes(address);
    let [a, b, c, d, ..] = bytes;
    let address = if talk.key.ethertype == ethertype::IPV4 {
        IpAddr::from([a, b, c, d])
    } else {
        IpAddr::from(bytes)
    };
    SocketAddr::new(address, port).to_string()
}

fn print(number: u32, tenant: &Tenant) {
    let spoken: Vec<String> = tenant
        .conversations
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    println!(
        "tenant {number} {}: {} dropped by the policy ({} bytes); conversations: {}",
        tenant.name,
        tenant.dropped.packets,
        tenant.dropped.l2_bytes,
        if spoken.is_empty() {
            "none".to_owned()
        } else {
            spoken.join(", ")
        }
    );
    println!(
        "  {:<12} {:>16} {:>16}",
        "class", "from tenant, B", "to tenant, B"
    );
    for class in Class::ALL {
        let bytes = |classes: &BTreeMap<String, DropCounts>| {
            classes
                .get(class.name())
                .map_or(0, |counts| counts.l2_bytes)
        };
        let (from, to) = (bytes(&tenant.from_tenant), bytes(&tenant.to_tenant));
        if from != 0 || to != 0 {
            println!("  {:<12} {from:>16} {to:>16}", class.name());
        }
    }
    for refused in &tenant.refused {
        println!(
            "  refused: {} -> {} protocol {}: {} ({} bytes of payload{})",
            refused.local,
            refused.remote,
            refused.protocol,
            refused.why,
            refused.bytes,
            if refused.version == 0 {
                String::new()
            } else {
                format!(
                    ", version {:#06x}, suite {:#06x}",
                    refused.version, refused.suite
                )
            }
        );
    }
}
