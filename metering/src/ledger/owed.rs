//! Flows of windows that could not be written: they go into the record that covers those windows.
//!
//! Bounded: when the disk is away for long, detail is lost, and the record says how much by what is
//! unattributed. Bytes are not kept here, the registers have them.

use crate::{flow::FlowDelta, meter::Cut};
use std::collections::HashMap;

/// So many flows are kept at most.
const OWED_MAX: usize = 1_000_000;

/// A flow of an incarnation: everything that tells it from others.
type Key = (
    (u64, u8, u32),
    (u16, u16, u8),
    ([u8; 16], [u8; 16], u16, u16),
);

fn key(incarnation: u64, flow: &FlowDelta) -> Key {
    (
        (incarnation, flow.direction, flow.zone),
        (flow.ethertype, flow.vlan, flow.protocol),
        (flow.local, flow.remote, flow.local_port, flow.remote_port),
    )
}

/// What is owed to the next record.
#[derive(Debug, Default)]
pub(super) struct Owed {
    flows: HashMap<Key, FlowDelta>,
}

impl Owed {
    /// A window was not written.
    pub(super) fn keep(&mut self, cut: Cut) {
        for owner in cut.owners {
            for flow in owner.flows {
                let key = key(owner.incarnation, &flow);
                if let Some(known) = self.flows.get_mut(&key) {
                    *known = joined(*known, flow);
                } else if self.flows.len() < OWED_MAX {
                    self.flows.insert(key, flow);
                }
            }
        }
    }

    /// Puts what is owed into the next window.
    pub(super) fn join(&mut self, cut: &mut Cut) {
        if self.flows.is_empty() {
            return;
        }
        let mut flows = std::mem::take(&mut self.flows);
        for owner in &mut cut.owners {
            for flow in &mut owner.flows {
                if let Some(owed) = flows.remove(&key(owner.incarnation, flow)) {
                    *flow = joined(owed, *flow);
                }
            }
        }
        let mut rest = HashMap::<u64, Vec<FlowDelta>>::new();
        for (((incarnation, ..), ..), flow) in flows {
            rest.entry(incarnation).or_default().push(flow);
        }
        for owner in &mut cut.owners {
            owner
                .flows
                .extend(rest.remove(&owner.incarnation).unwrap_or_default());
        }
    }
}

fn joined(one: FlowDelta, other: FlowDelta) -> FlowDelta {
    let sum = one.counts.checked_add(other.counts);
    FlowDelta {
        first_ns: one.first_ns.min(other.first_ns),
        last_ns: one.last_ns.max(other.last_ns),
        // Past 2^64: what is not attributed loses detail, and nothing else.
        counts: sum.unwrap_or_default(),
        tcp_flags: one.tcp_flags | other.tcp_flags,
        drop_reasons: one.drop_reasons | other.drop_reasons,
        drop_packets: one.drop_packets.saturating_add(other.drop_packets),
        evidence: one.evidence.joined(other.evidence),
        ..other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{meter::Owner, window::Counts};

    fn cut(flows: &[(u16, u64)]) -> Cut {
        let flow = |(port, packets): &(u16, u64)| FlowDelta {
            local_port: *port,
            counts: Counts {
                packets: *packets,
                ..Counts::default()
            },
            ..FlowDelta::default()
        };
        Cut {
            owners: vec![Owner {
                incarnation: 7,
                flows: flows.iter().map(flow).collect(),
                ..Owner::default()
            }],
            ..Cut::default()
        }
    }

    #[test]
    fn what_two_windows_owe_is_in_the_third_once() {
        let mut owed = Owed::default();
        owed.keep(cut(&[(1, 10), (2, 20)]));
        owed.keep(cut(&[(2, 2), (3, 30)]));
        let mut next = cut(&[(1, 1), (4, 4)]);
        owed.join(&mut next);
        let mut found: Vec<_> = next.owners[0]
            .flows
            .iter()
            .map(|flow| (flow.local_port, flow.counts.packets))
            .collect();
        found.sort_unstable();
        assert_eq!(found, [(1, 11), (2, 22), (3, 30), (4, 4)]);
        let mut after = cut(&[(1, 1)]);
        owed.join(&mut after);
        assert_eq!(after, cut(&[(1, 1)]));
    }
}
