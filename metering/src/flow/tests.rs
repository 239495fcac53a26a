//! Rows and their bytes, what is kept of flows, and the tree over it.

use super::*;
use crate::record::{RecordError, leaf_hash};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

fn cases() -> u32 {
    match std::env::var("OCTROI_TEST_LEVEL").as_deref() {
        Ok("quick") => 200,
        Ok("long") => 200_000,
        _ => 5_000,
    }
}

fn ethertype() -> impl Strategy<Value = u16> {
    prop_oneof![3 => Just(0x0800), 3 => Just(0x86DD), 1 => any::<u16>()]
}

prop_compose! {
    /// Flows of few addresses and ports, so that some are the same by prefix, and some are the same.
    fn any_flow()(
        (direction, zone) in (0..2_u8, 0..3_u32),
        (ethertype, protocol) in (ethertype(), prop::sample::select(vec![0, 1, 6, 17, 58, 132])),
        vlan in prop_oneof![Just(0), any::<u16>()],
        (local, remote) in (any::<[bool; 2]>(), any::<[bool; 3]>()),
        [local_port, remote_port] in [0, 1].map(|_| prop::sample::select(vec![0, 53, 443, 49_151, 49_152, 65_535])),
        [first_ns, last_ns] in any::<[u64; 2]>(),
        (packets, bytes) in (0..1_000_u64, 60..9_000_u64),
        (tcp_flags, drop_reasons, drop_packets) in (any::<u8>(), any::<u32>(), 0..9_u64),
        (classes, tls_version, tls_suite) in (prop::sample::select(vec![0, 1, 0x24, 0xFF]), 0x0303..0x0305_u16, 0x1301..0x1303_u16),
    ) -> FlowDelta {
        let mut addresses = [[0; 16]; 2];
        for (at, bit) in [(0, local[0]), (3, local[1])] {
            addresses[0][at] = 10 + u8::from(bit);
        }
        // Within the prefix, at its last byte, and behind it.
        for (at, bit) in [(2, remote[0]), (3, remote[1]), (5, remote[2])] {
            addresses[1][at] = 192 + u8::from(bit);
        }
        FlowDelta {
            direction, zone, ethertype, vlan, protocol, local_port, remote_port, first_ns, last_ns,
            local: addresses[0], remote: addresses[1], tcp_flags, drop_reasons, drop_packets,
            evidence: if classes == 0 { FlowEvidence::default() } else { FlowEvidence { classes, tls_version, tls_suite } },
            counts: Counts { packets, l2_bytes: packets * bytes, l3_bytes: packets * (bytes - 14) },
        }
    }
}

fn sum<'a>(counts: impl Iterator<Item = &'a Counts>) -> Counts {
    counts.fold(Counts::default(), |sum, one| {
        sum.checked_add(*one).expect("it is below 2^64")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn rows_have_what_their_flows_have_whatever_the_detail(
        flows in prop::collection::vec(any_flow(), 0..40),
        salt in any::<[u8; 16]>(),
    ) {
        for direction in 0..2 {
            let mine: Vec<_> = flows.iter().filter(|flow| flow.direction == direction).collect();
            prop_assert_eq!(rows(&flows, direction, Detail::Off), []);
            for detail in [Detail::Prefix, Detail::Full] {
                let rows = rows(&flows, direction, detail);
                for zone in 0..3 {
                    let kept = rows.iter().filter(|row| row.zone == zone).map(|row| &row.counts);
                    let gained = mine.iter().filter(|flow| flow.zone == zone).map(|flow| &flow.counts);
                    prop_assert_eq!(sum(kept), sum(gained));
                }
                let count: u64 = rows.iter().map(|row| row.flows).sum();
                prop_assert_eq!(count, mine.len() as u64);
                let drops: u64 = rows.iter().map(|row| row.drop_packets).sum();
                prop_assert_eq!(drops, mine.iter().map(|flow| flow.drop_packets).sum::<u64>());
                for row in &rows {
                    let row = Row { salt, ..*row };
                    let bytes = row.encode();
                    prop_assert_eq!(Row::decode(&bytes), Ok(row));
                    prop_assert!(bytes.len() <= ENCODED_BYTES_MAX);
                }
            }
        }
    }

    #[test]
    fn the_rows_are_the_same_in_whatever_order_flows_come(
        flows in prop::collection::vec(any_flow(), 0..20).prop_shuffle(),
    ) {
        let mut sorted = flows.clone();
        sorted.sort_by_key(|flow| (flow.remote, flow.counts.l2_bytes, flow.first_ns));
        for detail in Detail::ALL {
            prop_assert_eq!(rows(&flows, 0, detail), rows(&sorted, 0, detail));
        }
    }

    #[test]
    fn a_prefix_tells_no_address_no_client_and_no_time(flow in any_flow(), other in any_flow()) {
        // What may be told: the network, the service, the counts and the flags.
        let told = |flow: &FlowDelta| {
            let bytes = match flow.ethertype { 0x0800 => 3, 0x86DD => 6, _ => 0 };
            let ports = [6, 17, 132].contains(&flow.protocol);
            let lower = flow.local_port.min(flow.remote_port);
            let service = if ports && lower < 49_152 { lower } else { 0 };
            (flow.zone, flow.ethertype, flow.protocol, flow.remote[..bytes].to_vec(), service)
        };
        let mut twin = FlowDelta { direction: flow.direction, counts: flow.counts, ..other };
        (twin.tcp_flags, twin.evidence) = (flow.tcp_flags, flow.evidence);
        (twin.drop_reasons, twin.drop_packets) = (flow.drop_reasons, flow.drop_packets);
        let rows = [flow, twin].map(|flow| rows(&[flow], flow.direction, Detail::Prefix));
        prop_assert_eq!(rows[0] == rows[1], told(&flow) == told(&twin));
    }

    #[test]
    fn every_changed_byte_is_refused_or_another_row(flow in any_flow(), at in any::<prop::sample::Index>(), by in 1..=u8::MAX) {
        for detail in [Detail::Prefix, Detail::Full] {
            for row in rows(&[flow], flow.direction, detail) {
                let bytes = row.encode();
                for end in 0..bytes.len() {
                    prop_assert!(Row::decode(&bytes[..end]).is_err());
                }
                let mut changed = bytes.clone();
                let at = at.index(bytes.len());
                changed[at] ^= by;
                if let Ok(other) = Row::decode(&changed) {
                    prop_assert_ne!(other, row);
                    prop_assert_eq!(other.encode(), changed);
                }
            }
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(row) = Row::decode(&bytes) {
            prop_assert_eq!(row.encode(), bytes);
        }
    }
}

#[test]
fn the_longest_row_is_within_its_bound() {
    const MOST: u64 = u64::MAX;
    let row = Row {
        salt: [0xFF; 16],
        detail: Detail::Full,
        zone: u32::MAX,
        ethertype: 0x86DD,
        protocol: u8::MAX,
        remote: [0xFF; 16],
        port: u16::MAX,
        flows: MOST,
        counts: Counts {
            packets: MOST,
            l2_bytes: MOST,
            l3_bytes: MOST,
        },
        tcp_flags: u8::MAX,
        drop_reasons: u32::MAX,
        drop_packets: MOST,
        vlan: 4_095,
        local: [0xFF; 16],
        local_port: u16::MAX,
        first_ns: MOST,
        last_ns: MOST,
        evidence: FlowEvidence {
            classes: u8::MAX,
            tls_version: u16::MAX,
            tls_suite: u16::MAX,
        },
    };
    let bytes = row.encode();
    assert_eq!(Row::decode(&bytes), Ok(row));
    assert!(bytes.len() <= ENCODED_BYTES_MAX, "{}", bytes.len());
}

/// RFC 9162 §2.1.1, as it is written there.
fn tree_hash(leaves: &[Vec<u8>]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => leaf_hash(leaf),
        _ => {
            let mut left = 1;
            while left * 2 < leaves.len() {
                left *= 2;
            }
            let (left, right) = leaves.split_at(left);
            let whole = [&[1], &tree_hash(left)[..], &tree_hash(right)[..]].concat();
            Sha256::digest(whole).into()
        }
    }
}

#[test]
fn the_root_is_that_of_the_rfc_for_every_size() {
    let leaves: Vec<Vec<u8>> = (0..600_u32).map(|at| at.to_le_bytes().to_vec()).collect();
    for size in 0..leaves.len() {
        let mut root = Root::default();
        leaves[..size].iter().for_each(|leaf| root.add(leaf));
        assert_eq!(root.finish(), (size as u64, tree_hash(&leaves[..size])));
    }
    println!("CASES: flow trees: {}", leaves.len());
}

#[test]
fn a_record_is_no_row_and_a_row_no_record() {
    let row = Row {
        detail: Detail::Prefix,
        flows: 1,
        ..Row::default()
    };
    let bytes = row.encode();
    assert_eq!(Row::decode(&bytes), Ok(row));
    let found = 16;
    let refused = crate::record::Record::decode(&bytes);
    assert_eq!(refused, Err(RecordError::Kind { found }));
}
