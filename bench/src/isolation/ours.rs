//! What a plan is to octroi: its configuration, and the daemon with it.

use super::systems::{Part, Plan, ROOM};
use anyhow::Result;
use octroi::lab::Site;
use std::path::Path;

/// A line for `[[tenant]]` or `[[port]]` number `.0`, from 0.
pub(super) struct Limits {
    of_ports: bool,
    capacity: Option<u64>,
    lines: Vec<(usize, String)>,
}

/// The plan as ceilings of ports.
pub(super) fn ports(plan: &Plan) -> Limits {
    let ceiling = |key: &str, mbit: u64| format!("{key} = {{ ceiling = \"{mbit}Mbit/s\" }}");
    let lines = match plan {
        Plan::ToTenant(mbit) => vec![(0, ceiling("to_tenant", *mbit))],
        Plan::Uplink { parts, .. } => {
            let parts = parts.iter().enumerate();
            parts
                .filter_map(|(at, part)| Some((at, ceiling("from_tenant", part.ceiling?))))
                .collect()
        }
    };
    Limits {
        of_ports: true,
        capacity: None,
        lines,
    }
}

/// The plan as shares of the uplink.
pub(super) fn shares(plan: &Plan) -> Limits {
    let (capacity, lines) = match plan {
        Plan::ToTenant(mbit) => {
            let share = format!("to_tenant = {{ ceiling = \"{mbit}Mbit/s\" }}");
            (None, vec![(0, share)])
        }
        Plan::Uplink { capacity, parts } => {
            let line = |(at, part): (usize, &Part)| {
                let key = |name: &str, mbit: Option<u64>| {
                    mbit.map(|mbit| format!("{name} = \"{mbit}Mbit/s\""))
                };
                let keys = [
                    key("guarantee", part.guarantee),
                    key("ceiling", part.ceiling),
                    Some("weight = 1".to_owned()),
                ];
                let keys: Vec<String> = keys.into_iter().flatten().collect();
                (at, format!("from_tenant = {{ {} }}", keys.join(", ")))
            };
            (*capacity, parts.iter().enumerate().map(line).collect())
        }
    };
    Limits {
        of_ports: false,
        capacity,
        lines,
    }
}

pub(super) fn start(site: &mut Site, octroi: &Path, shape: &str, limits: &Limits) -> Result<()> {
    let mut text = site.config(&format!("shape = \"{shape}\""));
    if let Some(mbit) = limits.capacity {
        // As the peers count.
        let said = format!("capacity = \"{mbit}Mbit/s\"\noverhead_bytes = 0");
        text = text.replace(&format!("capacity = \"{}Gbit/s\"", ROOM / 1_000), &said);
    }
    for (at, line) in &limits.lines {
        // The first line of the tenant's, and the last of the port's, keys.
        let after = if limits.of_ports {
            format!("\ninterface = \"{}\"\n", site.port(*at))
        } else {
            format!("\nid = {}\n", at + 1)
        };
        anyhow::ensure!(text.contains(&after), "no {after:?} in:\n{text}");
        text = text.replacen(&after, &format!("{after}{line}\n"), 1);
    }
    site.write_config(&text)?;
    site.start(octroi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_ceilings_of_ports_or_shares() {
        let plan = Plan::example();
        let limits = shares(&plan);
        assert_eq!(limits.capacity, Some(500));
        assert_eq!(
            limits.lines[0].1,
            "from_tenant = { guarantee = \"100Mbit/s\", weight = 1 }"
        );
        assert_eq!(
            limits.lines[1].1,
            "from_tenant = { ceiling = \"10Mbit/s\", weight = 1 }"
        );
        assert_eq!(
            ports(&plan).lines,
            [(1, "from_tenant = { ceiling = \"10Mbit/s\" }".to_owned())]
        );
    }
}
