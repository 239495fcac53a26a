//! Named frames get the answer that the table has for them: the host's build of the whole gate.
//! `loaded.rs` runs the same table through the loaded programs.

mod fixtures;
mod oracle;

use dataplane_common::reason::DropReason;
use fixtures::ports::{self, Interfaces};
use std::collections::BTreeSet;

#[test]
fn every_named_frame_gets_its_answer() {
    let gate = ports::gate(&Interfaces::ON_PAPER);
    let all = fixtures::all();
    let wrong: Vec<_> = all
        .iter()
        .filter_map(|fixture| {
            let (_, said) = fixture.judged(&gate, &Interfaces::ON_PAPER);
            (said != fixture.expected).then(|| {
                format!(
                    "{:?}, {}: {said:?}, not {:?}",
                    fixture.crossing, fixture.name, fixture.expected
                )
            })
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("CASES: named frames, host build: {}", all.len());
}

#[test]
fn names_are_told_once() {
    let mut told = BTreeSet::new();
    for fixture in fixtures::all() {
        assert!(
            told.insert(fixture.name),
            "\"{}\" is told twice",
            fixture.name
        );
    }
}

#[test]
fn every_reason_of_the_spoof_check_has_a_named_frame() {
    let reasons: Vec<_> = fixtures::all()
        .iter()
        .filter_map(|fixture| fixture.expected.err())
        .collect();
    for reason in [
        DropReason::SpoofedMac,
        DropReason::SpoofedArp,
        DropReason::SpoofedIpv4,
        DropReason::SpoofedIpv6,
        DropReason::SpoofedNd,
        DropReason::RogueRouter,
        DropReason::RogueDhcp,
        DropReason::LinkControl,
        DropReason::EthertypeDenied,
        DropReason::NotMine,
        DropReason::UnblessedSource,
        DropReason::UnknownPort,
        DropReason::PortInactive,
        DropReason::EncryptionPolicy,
    ] {
        assert!(reasons.contains(&reason), "{reason:?}");
    }
}
