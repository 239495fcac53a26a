//! Keys, places, and the ring under many takers.

use super::*;
use crate::parse::{Meta, Slice, parse};
use proptest::prelude::*;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

/// A UDP datagram from 10.0.0.1:1000 to 10.0.0.2:53.
fn datagram(back: bool) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
    let (source, target) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let (from, to) = if back {
        (target, source)
    } else {
        (source, target)
    };
    frame.extend(from.iter().chain(&to));
    let ports: [u16; 2] = if back { [53, 1000] } else { [1000, 53] };
    frame.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    frame.extend([0, 8, 0, 0]);
    frame
}

fn parsed(frame: &[u8]) -> Packet {
    let meta = Meta {
        len: frame.len() as u32,
        ..Meta::default()
    };
    parse(&Slice(frame), &meta).unwrap()
}

fn key<const DIRECTION: u32>(back: bool, slot: u32, zone: u8) -> FlowKey {
    // Whatever stood there before.
    let mut key = FlowKey {
        local: [7; 4],
        remote: [7; 4],
        local_port: 7,
        remote_port: 7,
        vlan: 7,
        protocol: 7,
        ..FlowKey::default()
    };
    key.note::<DIRECTION>(&parsed(&datagram(back)), &PortPolicy::default(), slot);
    key.zone = zone;
    key
}

#[test]
fn both_directions_of_a_flow_have_one_key() {
    let out = key::<0>(false, 7, 4);
    assert_eq!(out, key::<1>(true, 7, 4));
    assert_eq!((out.local_port, out.remote_port), (1000, 53));
    assert_eq!(out.local, [u32::from_ne_bytes([10, 0, 0, 1]), 0, 0, 0]);
    assert_eq!((out.vlan, out.protocol), (0, 17));
    assert_ne!(out, key::<0>(false, 8, 4));
    assert_ne!(out, key::<0>(false, 7, 5));
}

proptest! {
    #[test]
    fn a_place_is_found_by_its_owner_and_by_no_other_port_or_zone(
        slot in any::<u16>(), zone in 0_u8..64, place in 0..FlowPlace::PLACES_MAX,
        other_slot in any::<u16>(), other_zone in 0_u8..64, ports in any::<[u16; 2]>(),
    ) {
        let key = FlowKey { slot, zone, local_port: ports[0], remote_port: ports[1], ..FlowKey::default() };
        let word = FlowPlace::new(FlowPlace::owner(&key), place);
        prop_assert_eq!(word.of(FlowPlace::owner(&key)), Some(place));
        prop_assert_eq!(word.place(), Some(place));
        let other = FlowKey { slot: other_slot, zone: other_zone, ..key };
        if (other_slot, other_zone) != (slot, zone) {
            prop_assert_eq!(word.of(FlowPlace::owner(&other)), None);
        }
    }
}

#[test]
fn nowhere_is_nobodys_place() {
    assert_eq!(
        FlowPlace::default().of(FlowPlace::owner(&FlowKey::default())),
        None
    );
    assert_eq!(FlowPlace::default().place(), None);
}

struct Ring {
    taken: AtomicU64,
    given: AtomicU64,
    free: Vec<AtomicU32>,
}

impl Places for Ring {
    fn taken(&self) -> u64 {
        self.taken.load(SeqCst)
    }

    fn given(&self) -> u64 {
        self.given.load(SeqCst)
    }

    fn at(&self, number: u64) -> Option<u32> {
        Some(self.free[number as usize % self.free.len()].load(SeqCst))
    }

    fn take(&self, taken: u64) -> bool {
        self.taken
            .compare_exchange(taken, taken + 1, SeqCst, SeqCst)
            .is_ok()
    }
}

/// Four takers hold places for a moment and hand them back to the one giver, as programs and daemon do.
#[test]
fn no_place_is_ever_taken_by_two() {
    const PLACES: u32 = 16;
    let ring = Ring {
        taken: AtomicU64::new(0),
        given: AtomicU64::new(PLACES.into()),
        free: (0..PLACES).map(AtomicU32::new).collect(),
    };
    let held: Vec<AtomicU32> = (0..PLACES).map(|_| AtomicU32::new(0)).collect();
    let (give_back, given_back) = std::sync::mpsc::channel::<u32>();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (ring, held, give_back) = (&ring, &held, give_back.clone());
            scope.spawn(move || {
                for _ in 0..50_000 {
                    if let Some(place) = take(ring) {
                        assert_eq!(held[place as usize].fetch_add(1, SeqCst), 0, "taken twice");
                        held[place as usize].fetch_sub(1, SeqCst);
                        give_back.send(place).unwrap();
                    }
                }
            });
        }
        drop(give_back);
        for place in given_back {
            let given = ring.given.load(SeqCst);
            assert!(given < ring.taken.load(SeqCst) + u64::from(PLACES));
            ring.free[given as usize % ring.free.len()].store(place, SeqCst);
            ring.given.store(given + 1, SeqCst);
        }
    });
    assert_eq!(
        ring.given.load(SeqCst) - ring.taken.load(SeqCst),
        u64::from(PLACES)
    );
}

#[test]
fn an_empty_ring_gives_nothing() {
    let ring = Ring {
        taken: AtomicU64::new(3),
        given: AtomicU64::new(3),
        free: vec![AtomicU32::new(0)],
    };
    assert_eq!(take(&ring), None);
}

#[test]
fn a_flow_remembers_each_reason_that_is_a_flows() {
    use crate::reason::DropReason;
    let flows = DropReason::ALL.iter().map(|reason| *reason as u32);
    let flows = flows.filter(|reason| {
        *reason != DropReason::GuardUnblessed as u32
            && (FlowCounts::REASON_FIRST..=FlowCounts::REASON_LAST).contains(reason)
    });
    let mut all = (0, 0);
    for reason in flows {
        assert_eq!(FlowCounts::reasons(FlowCounts::bit(reason)), 1 << reason);
        all = (all.0 | FlowCounts::bit(reason), all.1 | 1 << reason);
    }
    assert_eq!(FlowCounts::reasons(all.0), all.1);
    assert_eq!(all.0, u8::MAX);
}
