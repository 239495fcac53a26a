//! What a flow's record is made of: information elements of IANA's registry (RFC 7012), none of our own, so that a collector
//! knows them all. `docs/IPFIX.md` has the table for people.

use crate::{
    flow::{Detail, Row},
    record::Record,
};

/// An information element: its number, and how many bytes of it are sent.
type Element = (u16, u16);

const START: Element = (152, 8); // flowStartMilliseconds
const END: Element = (153, 8); // flowEndMilliseconds
const OCTETS: Element = (1, 8); // octetDeltaCount: IP, with its headers
const PACKETS: Element = (2, 8); // packetDeltaCount
const LAYER2_OCTETS: Element = (352, 8); // layer2OctetDeltaCount
const DROPPED: Element = (133, 8); // droppedPacketDeltaCount
const FLOWS: Element = (3, 8); // deltaFlowCount
const TENANT_IN: Element = (234, 4); // ingressVRFID
const TENANT_OUT: Element = (235, 4); // egressVRFID
const POINT: Element = (138, 8); // observationPointId
const DIRECTION: Element = (61, 1); // flowDirection
const PROTOCOL: Element = (4, 1); // protocolIdentifier
const TCP_FLAGS: Element = (6, 1); // tcpControlBits, the lower eight (RFC 7125 §3)
const ETHERTYPE: Element = (256, 2); // ethernetType
const VLAN: Element = (58, 2); // vlanId
const SOURCE_PORT: Element = (7, 2); // sourceTransportPort
const DESTINATION_PORT: Element = (11, 2); // destinationTransportPort
const SERVICE: Element = (95, 3); // applicationId
const SOURCE_4: Element = (8, 4); // sourceIPv4Address
const DESTINATION_4: Element = (12, 4); // destinationIPv4Address
const SOURCE_BITS_4: Element = (9, 1); // sourceIPv4PrefixLength
const DESTINATION_BITS_4: Element = (13, 1); // destinationIPv4PrefixLength
const SOURCE_6: Element = (27, 16); // sourceIPv6Address
const DESTINATION_6: Element = (28, 16); // destinationIPv6Address
const SOURCE_BITS_6: Element = (29, 1); // sourceIPv6PrefixLength
const DESTINATION_BITS_6: Element = (30, 1); // destinationIPv6PrefixLength

/// `flowDirection`: what the tenant sends enters at the observation point.
const INGRESS: u8 = 0;
const EGRESS: u8 = 1;
/// Classification engine of `applicationId` (RFC 6759 §4.1): IANA's numbers of ports.
const IANA_L4: u8 = 3;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86DD;

/// A template: its id, and its elements in the order of the record.
pub(super) struct Template {
    pub id: u16,
    pub elements: &'static [Element],
}

/// All that there are. Ids from 256 on are free (RFC 7011 §3.4.1).
pub(super) const TEMPLATES: [Template; 6] = [
    Template {
        id: 256,
        elements: &[
            START,
            END,
            OCTETS,
            PACKETS,
            LAYER2_OCTETS,
            DROPPED,
            FLOWS,
            TENANT_IN,
            TENANT_OUT,
            POINT,
            DIRECTION,
            PROTOCOL,
            TCP_FLAGS,
            SOURCE_4,
            DESTINATION_4,
            SOURCE_PORT,
            DESTINATION_PORT,
            VLAN,
        ],
    },
    Template {
        id: 257,
        elements: &[
            START,
            END,
            OCTETS,
            PACKETS,
            LAYER2_OCTETS,
            DROPPED,
            FLOWS,
            TENANT_IN,
            TENANT_OUT,
            POINT,
            DIRECTION,
            PROTOCOL,
            TCP_FLAGS,
            SOURCE_6,
            DESTINATION_6,
            SOURCE_PORT,
            DESTINATION_PORT,
            VLAN,
        ],
    },
    Template {
        id: 258,
        elements: &[
            START,
            END,
            PACKETS,
            LAYER2_OCTETS,
            DROPPED,
            FLOWS,
            TENANT_IN,
            TENANT_OUT,
            POINT,
            DIRECTION,
            ETHERTYPE,
            VLAN,
        ],
    },
    Template {
        id: 259,
        elements: &[
            START,
            END,
            OCTETS,
            PACKETS,
            LAYER2_OCTETS,
            DROPPED,
            FLOWS,
            TENANT_IN,
            TENANT_OUT,
            POINT,
            DIRECTION,
            PROTOCOL,
            TCP_FLAGS,
            SOURCE_4,
            DESTINATION_4,
            SOURCE_BITS_4,
            DESTINATION_BITS_4,
            SERVICE,
        ],
    },
    Template {
        id: 260,
        elements: &[
            START,
            END,
            OCTETS,
            PACKETS,
            LAYER2_OCTETS,
            DROPPED,
            FLOWS,
            TENANT_IN,
            TENANT_OUT,
            POINT,
            DIRECTION,
            PROTOCOL,
            TCP_FLAGS,
            SOURCE_6,
            DESTINATION_6,
            SOURCE_BITS_6,
            DESTINATION_BITS_6,
            SERVICE,
        ],
    },
    Template {
        id: 261,
        elements: &[
            START,
            END,
            PACKETS,
            LAYER2_OCTETS,
            DROPPED,
            FLOWS,
            TENANT_IN,
            TENANT_OUT,
            POINT,
            DIRECTION,
            ETHERTYPE,
        ],
    },
];

/// The template that says all of a row.
pub(super) fn template(row: &Row) -> &'static Template {
    let place = match row.ethertype {
        IPV4 => 0,
        IPV6 => 1,
        _ => 2,
    };
    let of_detail = if row.detail == Detail::Full { 0 } else { 3 };
    &TEMPLATES[of_detail + place]
}

/// First and last packet, ms since 1970: of a full row its own times, within the window that the counts are of; of a prefix the
/// window's.
fn times(record: &Record, row: &Row) -> (u64, u64) {
    let ms = |utc_ns: i64| u64::try_from(utc_ns.div_euclid(1_000_000)).unwrap_or_default();
    match &record.reading {
        Some(reading) if row.detail == Detail::Full => {
            let utc = |boot_ns: u64| {
                let boot_ns = boot_ns.clamp(reading.cut_start_ns, reading.cut_end_ns);
                let boot_ns = i64::try_from(boot_ns).unwrap_or(i64::MAX);
                ms(boot_ns.saturating_add(reading.utc_offset_ns))
            };
            (utc(row.first_ns), utc(row.last_ns))
        }
        _ => (ms(record.window_start), ms(record.window_end)),
    }
}

/// Appends the record of a row, in the order of its template.
pub(super) fn write(record: &Record, row: &Row, out: &mut Vec<u8>) {
    let is_from = u32::from(record.direction) == dataplane_common::abi::FROM_TENANT;
    let (start, end) = times(record, row);
    // The tenant's side is the source of what the tenant sends.
    let by_way = |tenants: u16, others: u16| {
        if is_from {
            (tenants, others)
        } else {
            (others, tenants)
        }
    };
    let (source, destination) = if is_from {
        (&row.local, &row.remote)
    } else {
        (&row.remote, &row.local)
    };
    let (source_port, destination_port) = by_way(row.local_port, row.port);
    let bits = row.remote_bytes().map_or(0, |bytes| 8 * bytes as u16);
    let (source_bits, destination_bits) = by_way(0, bits);
    let (tenant_in, tenant_out) = if is_from {
        (record.tenant, 0)
    } else {
        (0, record.tenant)
    };
    for element in template(row).elements {
        match *element {
            START => out.extend(start.to_be_bytes()),
            END => out.extend(end.to_be_bytes()),
            OCTETS => out.extend(row.counts.l3_bytes.to_be_bytes()),
            PACKETS => out.extend(row.counts.packets.to_be_bytes()),
            LAYER2_OCTETS => out.extend(row.counts.l2_bytes.to_be_bytes()),
            DROPPED => out.extend(row.drop_packets.to_be_bytes()),
            FLOWS => out.extend(row.flows.to_be_bytes()),
            TENANT_IN => out.extend(tenant_in.to_be_bytes()),
            TENANT_OUT => out.extend(tenant_out.to_be_bytes()),
            POINT => out.extend(record.incarnation.to_be_bytes()),
            DIRECTION => out.push(if is_from { INGRESS } else { EGRESS }),
            PROTOCOL => out.push(row.protocol),
            TCP_FLAGS => out.push(row.tcp_flags),
            ETHERTYPE => out.extend(row.ethertype.to_be_bytes()),
            VLAN => out.extend(row.vlan.to_be_bytes()),
            SOURCE_PORT => out.extend(source_port.to_be_bytes()),
            DESTINATION_PORT => out.extend(destination_port.to_be_bytes()),
            SERVICE => {
                out.push(IANA_L4);
                out.extend(row.port.to_be_bytes());
            }
            SOURCE_4 => out.extend(&source[..4]),
            DESTINATION_4 => out.extend(&destination[..4]),
            SOURCE_6 => out.extend(source),
            DESTINATION_6 => out.extend(destination),
            SOURCE_BITS_4 | SOURCE_BITS_6 => out.extend(source_bits.to_be_bytes().get(1)),
            DESTINATION_BITS_4 | DESTINATION_BITS_6 => {
                out.extend(destination_bits.to_be_bytes().get(1));
            }
            (_, bytes) => out.extend(std::iter::repeat_n(0, bytes.into())),
        }
    }
}
