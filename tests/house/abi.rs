//! The golden layout: what the kernel and the daemon both map, written down field by field.

use dataplane::pins;
use dataplane_common::{
    abi::{self, quota::*, share::*, *},
    encryption::{self, Bucket, CLASSES, Class, Conversation, Policy, Rule, Stream, Why},
    flood,
    flow::{Flow, FlowCounts, FlowKey, FlowOpened, FlowPlace, FlowRing},
    reason::{DropReason, REASONS_MAX},
    zone,
};
use std::fmt::Write as _;

/// Bytes of the field that `pick` names.
const fn bytes_of<T, F>(_pick: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// Writes each struct, field by field. A field that is left out here does not compile.
macro_rules! layouts {
    ($text:ident; $($name:ident { $($field:ident),+ $(,)? })+) => {$({
        let _complete = |$name { $($field: _),+ }: $name| {};
        let _ = writeln!($text, "\nstruct {} size {}", stringify!($name), size_of::<$name>());
        $(let _ = writeln!(
            $text,
            "  {:<18} offset {:>3} size {:>3}",
            stringify!($field),
            core::mem::offset_of!($name, $field),
            bytes_of(|whole: &$name| &whole.$field),
        );)+
    })+};
}

/// Writes constants by name.
macro_rules! constants {
    ($text:ident; $($value:expr),+ $(,)?) => {
        $(let _ = writeln!($text, "  {} = {:#x}", stringify!($value), $value);)+
    };
}

/// The whole ABI as text.
pub fn describe() -> String {
    let mut text = format!("ABI_VERSION {ABI_VERSION}\n");
    layouts! { text;
        BindingKey { ifindex, vlan }
        Binding { slot, reserved }
        Ipv4Net { network, mask }
        Ipv6Net { network, mask }
        LimitPolicy {
            rate, origin_ns, origin_units, rate_before, horizon, slack, price, ns_per_unit, mark,
        }
        PortPolicy {
            flags, tenant, shape, ifb_ifindex, encryption, macs, ipv4, ipv6, limits,
            flow_account, flow_quota, quota, reserved, share,
        }
        Register { packets, l2_bytes, l3_bytes }
        Drops { packets, l2_bytes }
        Skbs { delivered, delivered_len, dropped, dropped_len }
        ZoneKey { policy_set, family, reserved, address }
        AddressKey { slot, policy_set, family, reserved, address }
        MacKey { mac, slot, policy_set }
        Slot {
            state, tenant, ifindex, vlan, incarnation, since_ns, before_attach, name, interface,
            blessed, reserved,
        }
        SharePolicy { ceiling, guarantee, weight, uplink, reserved }
        ShareClocks { ceiling, guarantee, borrowed, limited, departs, reserved }
        QuotaPolicy {
            threshold, budget, until_ns, period_ns, zones, directions, reserved, then,
        }
        QuotaCounts { within, beyond, clocks, reserved }
        Marks { marked, not_marked }
        UplinkPolicy {
            rate, period_ns, stop, overhead, packet_min, price, horizon_ns, ns_per_byte, early,
            slice_shift, reserved,
        }
        SharePace { origin_ns, alpha, integral, fraction, reach, carried, pressed, stands }
        ShareLine { pace, guaranteed, borrowed, refused, limited, held, reserved }
        UplinkShare { state, guaranteed, borrowed, refused, limited, early, reserved, lines, due }
        Anchor { generation, ledger, size, windows, head }
        FlowKey {
            local, remote, local_port, remote_port, slot, ethertype, vlan, zone, protocol,
        }
        Flow { place, reserved }
        FlowOpened { key, account, first_ns, evidence }
        FlowCounts { delivered, refused, last, tcp_flags, reasons }
        FlowRing { taken, given }
        Rule {
            mode, evidence_min, tls_min, accepts, exempt, unverified_bytes, unclassified_bytes,
            unclassified_packets, prefix_bytes, prefix_ports, suites, groups, exempt_interval_ns,
        }
        Policy { tenant, reserved, buckets_first, buckets_mask, rules }
        Stream {
            field, header, want, from, record_end, skip, left, header_have, field_have, field_need,
            phase, flags, reserved, then, reserved_too,
        }
        Conversation {
            key, last_ms, streams, pending, start, credit, credit_ms, checked, refused, suite, group,
            version, protocol, why, flags, unclassified, reserved,
        }
        Bucket { lock, reserved, ways }
    }
    text.push_str("\nconstants\n");
    constants! { text;
        abi::FROM_TENANT, abi::TO_TENANT, abi::DIRECTIONS, BLOCK, Binding::SHARED,
        InterfaceSlot::ENTRIES, InterfaceSlot::new(2, 3).0,
        PortPolicy::ACTIVE, PortPolicy::MORE_MACS, PortPolicy::MORE_ADDRESSES, PortPolicy::VLAN,
        PortPolicy::LIMITED, PortPolicy::limited(1, 1), PortPolicy::FLOWS,
        ZoneKey::PREFIX_BITS, AddressKey::PREFIX_BITS,
        shape::POLICE, shape::EDT, shape::HTB,
        slot_state::FREE, slot_state::PORT, slot_state::UPLINK, slot_state::RETIRED,
        zone::OTHER, zone::INTRA_HOST, zone::GROUP, zone::LINK, zone::FIRST_CONFIGURED,
        REASONS_MAX, flood::WHOSE, flood::NOBODY, flood::POLICES,
        FlowPlace::PLACES_MAX, FlowPlace::new(0x0123_4567_8900_0000, 5).0,
        FlowPlace::owner(&FlowKey { slot: 0x1234, zone: 5, ..FlowKey::default() }),
        RULES_MAX, CLASSES, encryption::STEPS_MAX, encryption::exempt::COUNT,
        encryption::hash(&FlowKey { local_port: 443, slot: 7, ..FlowKey::default() }),
        QuotaPolicy::FROM, QuotaPolicy::TO,
        UPLINKS_MAX, SharePolicy::WEIGHT_MAX, UplinkShare::LINES,
        FlowCounts::REASON_FIRST, FlowCounts::UNIT_NS, FlowCounts::at(100, 1, 7),
    }
    indices(&mut text);
    text.push_str("\nmaps: type, key bytes, value bytes, flags\n");
    for pins::Shape {
        name,
        map_type,
        key_bytes,
        value_bytes,
        flags,
    } in pins::shapes()
    {
        let _ = writeln!(
            text,
            "  {name:<16} {map_type:>3} {key_bytes:>3} {value_bytes:>4} {flags}"
        );
    }
    text.push_str("\ndrop reasons\n");
    for reason in DropReason::ALL {
        let _ = writeln!(text, "  {:>3} {}", *reason as u32, reason.name());
    }
    text.push_str("\nclasses of evidence\n");
    for class in Class::ALL {
        let _ = writeln!(text, "  {:>3} {}", class as u32, class.name());
    }
    text.push_str("\nwhy the encryption policy refuses\n");
    for why in Why::ALL {
        let _ = writeln!(text, "  {:>3} {}", *why as u32, why.name());
    }
    text
}

/// Where an epoch's parts and a table's entries are: an example tells each formula from every other.
fn indices(text: &mut String) {
    let sizes = Sizes {
        slots: 100,
        zones: 10,
    };
    let epoch = Epoch::new(0x1234_5679, 0x9ABC_DEF0);
    text.push_str("\nindices with 100 slots and 10 zones\n");
    constants! { text;
        epoch.0, epoch.bank(), epoch.policy_set(),
        sizes.port(1, 7), sizes.register(1, 7, 1, 3), sizes.skbs(1, 7, 1),
        sizes.drops(1, 7, 1, 5), sizes.clock(7, 1, 1), sizes.evidence(1, 7, 1, 3),
        sizes.exemption(7, 1, 3),
        sizes.marks(7, 1), quota_index(100, 1, 7),
        share_index(100, 1, 7, 1), share_clocks_index(7, 1), uplink_index(1, 3, 1), uplink_share_index(3, 1),
    }
}
