//! What of a window's flows is kept: rows, by the tenant's detail.

use super::{Detail, FlowDelta, Row, row::address_bytes};

/// Ports from here on are nobody's service (RFC 6335 §6).
const EPHEMERAL: u16 = 49_152;

/// Protocols whose first two fields are ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// The rows that are kept of an owner's flows in one direction, in the order of M-13.6, without salts.
///
/// Sums are those of [`super::unattributed`], which has refused what does not fit.
pub(crate) fn rows(flows: &[FlowDelta], direction: u8, detail: Detail) -> Vec<Row> {
    if detail == Detail::Off {
        return Vec::new();
    }
    let mine = flows.iter().filter(|flow| flow.direction == direction);
    let mut rows: Vec<Row> = mine.map(|flow| kept(flow, detail)).collect();
    rows.sort_unstable_by_key(order);
    rows.dedup_by(|next, kept| {
        let same = order(next) == order(kept);
        if same {
            add(kept, next);
        }
        same
    });
    rows
}

/// What makes a row another one.
type Order = (u32, u16, u8, [u8; 16], u16, u16, [u8; 16], u16);

fn order(row: &Row) -> Order {
    let (near, far) = ((row.local, row.local_port), (row.remote, row.port));
    let kind = (row.zone, row.ethertype, row.protocol);
    (
        kind.0, kind.1, kind.2, far.0, far.1, row.vlan, near.0, near.1,
    )
}

/// What a detail leaves of one flow. Of [`Detail::Off`] there is no row: it is cut as [`Detail::Prefix`] is.
#[must_use]
pub fn kept(flow: &FlowDelta, detail: Detail) -> Row {
    let cut = |address: [u8; 16]| {
        let mut kept = [0; 16];
        let length = address_bytes(flow.ethertype, detail).unwrap_or(0);
        kept[..length].copy_from_slice(&address[..length]);
        kept
    };
    let common = Row {
        detail,
        zone: flow.zone,
        ethertype: flow.ethertype,
        protocol: flow.protocol,
        remote: cut(flow.remote),
        flows: 1,
        counts: flow.counts,
        tcp_flags: flow.tcp_flags,
        drop_reasons: flow.drop_reasons,
        drop_packets: flow.drop_packets,
        evidence: flow.evidence,
        ..Row::default()
    };
    match detail {
        Detail::Full => Row {
            port: flow.remote_port,
            vlan: flow.vlan & 0xFFF,
            local: cut(flow.local),
            local_port: flow.local_port,
            first_ns: flow.first_ns.min(flow.last_ns),
            last_ns: flow.last_ns,
            ..common
        },
        Detail::Prefix | Detail::Off => Row {
            port: service(flow),
            ..common
        },
    }
}

/// The port that names a service, or 0: the port of a client's socket says who it was.
fn service(flow: &FlowDelta) -> u16 {
    let lower = flow.local_port.min(flow.remote_port);
    let named = WITH_PORTS.contains(&flow.protocol) && lower < EPHEMERAL;
    if named { lower } else { 0 }
}

fn add(kept: &mut Row, next: &Row) {
    // At most what was counted, which is a u64: a sum that is not is refused before.
    kept.counts = kept.counts.checked_add(next.counts).unwrap_or(kept.counts);
    kept.flows += next.flows;
    kept.tcp_flags |= next.tcp_flags;
    kept.evidence = kept.evidence.joined(next.evidence);
    kept.drop_reasons |= next.drop_reasons;
    // Billed to nobody.
    kept.drop_packets = kept.drop_packets.saturating_add(next.drop_packets);
    kept.first_ns = kept.first_ns.min(next.first_ns);
    kept.last_ns = kept.last_ns.max(next.last_ns);
}
