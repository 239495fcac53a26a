//! Encryption policies: from the rules of the file to a rule for each direction and zone.

use crate::config::{
    BUILT_IN_ZONES, Config, Direction, Encryption, Evidence, Fragments, Midstream, Mode,
};
use dataplane::policy;
use dataplane_common::encryption::{Rule, accept, mode};

/// One for each tenant that has a rule.
pub fn policies(config: &Config) -> Vec<policy::Encryption> {
    let zones = usize::from(config.host.zones_max);
    let tenants = config.tenants.iter();
    let policies = tenants.filter_map(|tenant| {
        let rules: Vec<&Encryption> = config.encryption_of(&tenant.name).collect();
        let conversations = rules.iter().map(|rule| rule.conversations).max()?;
        let of = |direction: Direction| {
            let zones = 0..zones;
            zones
                .map(|zone| holds(config, &rules, direction, zone))
                .collect()
        };
        Some(policy::Encryption {
            tenant: tenant.id.0,
            conversations,
            rules: [of(Direction::FromTenant), of(Direction::ToTenant)],
        })
    });
    policies.collect()
}

/// The first rule that matches; none looks at nothing.
fn holds(config: &Config, rules: &[&Encryption], direction: Direction, zone: usize) -> Rule {
    let name = BUILT_IN_ZONES.get(zone).copied().or_else(|| {
        let zones = config.zones.iter();
        let mut zones = zones.filter(|known| usize::from(known.id) == zone);
        zones.next().map(|known| known.name.as_str())
    });
    let matches = |rule: &&&Encryption| {
        let way = rule.direction == Direction::Both || rule.direction == direction;
        let mut zones = rule.zones.iter();
        way && (rule.zones.is_empty() || zones.any(|zone| Some(zone.as_str()) == name))
    };
    rules
        .iter()
        .find(matches)
        .map_or_else(Rule::default, |rule| compile(config, rule))
}

fn compile(config: &Config, rule: &Encryption) -> Rule {
    let mut compiled = Rule {
        mode: match rule.mode {
            Mode::Off => mode::OFF,
            Mode::Observe => mode::OBSERVE,
            Mode::Enforce => mode::ENFORCE,
        },
        evidence_min: match rule.min_evidence {
            Evidence::E1 => 1,
            Evidence::E2 => 2,
            Evidence::E3 => 3,
        },
        unverified_bytes: rule.unverified_bytes,
        unclassified_bytes: rule.unclassified_bytes,
        unclassified_packets: rule.unclassified_packets,
        prefix_bytes: rule.starttls_bytes,
        ..Rule::default()
    };
    config.fill(&rule.profile, &mut compiled);
    if rule.midstream == Midstream::Relock {
        compiled.accepts |= accept::MIDSTREAM;
    }
    compiled.accepts |= match rule.fragments {
        Fragments::Drop => 0,
        Fragments::Track => accept::FRAGMENTS_TRACKED,
        Fragments::Allow => accept::FRAGMENTS,
    };
    for (place, port) in compiled.prefix_ports.iter_mut().zip(&rule.starttls_ports) {
        *place = port.0;
    }
    for exemption in &rule.exempt {
        compiled.exempt |= 1 << exemption.which;
        if let Some(interval) = compiled
            .exempt_interval_ns
            .get_mut(exemption.which as usize)
        {
            let rate = exemption.rate.unwrap_or(0);
            let ns = 1_000_000_000_u64.checked_div(rate).unwrap_or(0);
            // Four seconds is the longest that a word holds; a rate is at least one a second.
            *interval = u32::try_from(ns).unwrap_or(u32::MAX);
        }
    }
    compiled
}
