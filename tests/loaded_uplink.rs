//! The uplink's two programs: what cannot be parsed ends before an skb exists, and nothing leaves
//! that did not come through a blessed port, a trusted interface or the host itself.

mod fixtures;
#[path = "loaded/kernel.rs"]
mod kernel;
mod oracle;
#[path = "loaded/place.rs"]
mod place;

use anyhow::{Context as _, Result, ensure};
use dataplane::attach;
use dataplane_common::{
    abi::{Epoch, FROM_TENANT, PortPolicy, TO_TENANT},
    reason::DropReason,
    wire::{Gso, Wire},
    zone,
};
use fixtures::ports::{self, Interfaces};
use kernel::{Kernel, Ledger, difference};
use oracle::{
    compare,
    dice::{self, Dice},
    host::{Outcome, Verdict, Way},
    mutate,
    reader::{self, Answer, Fragment},
    shapes::{Sample, Scope},
};
use std::collections::HashSet;

const EPOCH: Epoch = Epoch::new(5, 3);
/// Uplinks without a slot of their own are booked to the host's.
const SLOT: u32 = 0;

/// `XDP_DROP` and `XDP_PASS`.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

fn dropped(reason: DropReason, len: usize) -> Outcome {
    let verdict = Verdict::Dropped {
        reason,
        packets: 1,
        l2_bytes: len as u64,
    };
    Outcome {
        slot: SLOT,
        verdict,
    }
}

/// Compares one direction of the host's slot with the ledger.
fn compare_booked(kernel: &Kernel, ledger: &Ledger, direction: u32) -> Result<()> {
    let Some(host) = ledger.bank(SLOT, direction) else {
        return Ok(());
    };
    let booked = &kernel.booked(EPOCH.bank(), SLOT)?[direction as usize];
    ensure!(
        booked == host,
        "registers differ:{}",
        difference(booked, host)
    );
    Ok(())
}

#[test]
fn the_uplink_drops_before_an_skb_exists_exactly_what_cannot_be_parsed() -> Result<()> {
    const TEST: &str = "the_uplink_drops_before_an_skb_exists_exactly_what_cannot_be_parsed";
    if !place::can_run(TEST) {
        return Ok(());
    }
    let (seed, cases) = (dice::seed(), dice::cases(10_000, 100_000, 1_000_000));
    place::alone(|| {
        let gate = bare();
        let mut kernel = Kernel::load(gate.clone(), EPOCH, attach::mechanism())?;
        let mut ledger = Ledger::new(&gate);
        kernel.xdp()?.load()?;
        let mut run = 0;
        for case in 0.. {
            if run == cases {
                break;
            }
            let mut dice = Dice::new(seed, case);
            let Some(sample) = mutate::for_xdp(&mut dice) else {
                continue;
            };
            run += 1;
            let parsed = compare::ours(&sample);
            let returned = kernel.run_xdp(&sample)?;
            if let Err(reason) = parsed {
                ledger.book(
                    &dropped(reason, sample.bytes.len()),
                    FROM_TENANT,
                    sample.bytes.len(),
                );
            }
            let expected = if parsed.is_ok() { XDP_PASS } else { XDP_DROP };
            let context = || {
                format!(
                    "OCTROI_TEST_SEED={seed}, case {case}: {}",
                    compare::describe(&sample)
                )
            };
            ensure!(
                returned == expected,
                "{}: XDP says {returned}, {parsed:?}",
                context()
            );
            if parsed.is_err() {
                compare_booked(&kernel, &ledger, FROM_TENANT).with_context(context)?;
            }
        }
        Ok(())
    })?;
    println!("CASES: loaded uplink program vs the host's parser, test run: {cases}");
    Ok(())
}

/// The tables of a host without ports.
fn bare() -> oracle::host::Gate {
    let mut gate = ports::gate(&Interfaces::ON_PAPER);
    gate.bindings.clear();
    gate.ports.clear();
    gate.blessed.clear();
    gate.trusted.clear();
    gate
}

#[test]
fn the_guard_lets_out_what_a_blessed_port_an_uplink_or_the_host_sends_and_nothing_else()
-> Result<()> {
    const TEST: &str =
        "the_guard_lets_out_what_a_blessed_port_an_uplink_or_the_host_sends_and_nothing_else";
    if !place::can_run(TEST) {
        return Ok(());
    }
    let mut cases = 0;
    place::alone(|| {
        let [out, port, uplink, stranger] = ["out", "port", "uplink", "stranger"].map(place::veth);
        let (out, port, uplink, stranger) = (out?, port?, uplink?, stranger?);
        let gate = oracle::host::Gate {
            blessed: [port].into(),
            trusted: [uplink].into(),
            ..bare()
        };
        let mut kernel = Kernel::load(gate.clone(), EPOCH, attach::mechanism())?;
        let mut ledger = Ledger::new(&gate);
        for (number, ingress_ifindex) in [0, port, uplink, stranger, out].into_iter().enumerate() {
            for case in 0..100 {
                let mut dice = Dice::new(dice::seed(), case);
                // Even what is no packet at all: the guard looks at nothing but where it came from.
                let mut sample = Sample {
                    bytes: dice.bytes(60),
                    ..Sample::default()
                };
                sample.bytes[12] = 0x90;
                let len = sample.bytes.len();
                let wire = Wire {
                    packets: 1,
                    l2_bytes: len as u64,
                    l3_bytes: 0,
                };
                let expected = if number < 3 {
                    let verdict = Verdict::Delivered {
                        zone: zone::OTHER,
                        wire,
                    };
                    Outcome {
                        slot: SLOT,
                        verdict,
                    }
                } else {
                    dropped(DropReason::GuardUnblessed, len)
                };
                let way = Way {
                    direction: TO_TENANT,
                    ifindex: out,
                    ingress_ifindex,
                    gso: Gso::default(),
                };
                let passed = kernel.run_as("guard", &sample, &way)?;
                ledger.book(&expected, TO_TENANT, len);
                ensure!(passed == (number < 3), "source {number}: {passed}");
                compare_booked(&kernel, &ledger, TO_TENANT)?;
                cases += 1;
            }
        }
        Ok(())
    })?;
    println!("CASES: loaded guard, test run: {cases}");
    Ok(())
}

/// UDP ports, IP protocols and EtherTypes that decision 0059 names.
const OVERLAY_PORTS: [u16; 8] = [4_789, 8_472, 4_790, 6_081, 6_080, 2_152, 6_635, 1_701];
const OVERLAY_PROTOCOLS: [u8; 8] = [4, 41, 47, 97, 115, 137, 51, 108];
const OVERLAY_ETHERTYPES: [u16; 3] = [0x8847, 0x8848, 0x894F];

/// What etherparse makes of a frame: may it leave where no overlay may? `None`: if its first fragment could.
fn may_leave(bytes: &[u8]) -> Option<bool> {
    let Answer::Accept(seen) = reader::read(bytes, None, false) else {
        return Some(false);
    };
    if OVERLAY_ETHERTYPES.contains(&seen.ethertype) {
        return Some(false);
    }
    if !matches!(seen.ethertype, 0x0800 | 0x86DD) {
        return Some(true);
    }
    let is_overlay = OVERLAY_PROTOCOLS.contains(&seen.protocol)
        || (seen.protocol == 17
            && seen.fragment != Fragment::Later
            && OVERLAY_PORTS.contains(&seen.ports.1));
    match (is_overlay, seen.fragment) {
        (true, _) => Some(false),
        (false, Fragment::Later) => None,
        (false, _) => Some(true),
    }
}

/// A frame that says what an overlay does where it is looked for.
fn towards_overlays(dice: &mut Dice, sample: &mut Sample) {
    let l3 = match reader::read(&sample.bytes, None, false) {
        Answer::Accept(seen) => (seen.l3_offset, seen.ethertype, seen.l4_offset),
        Answer::Reject(_) => return,
    };
    match (dice.below(4), l3.1) {
        (0, 0x0800) => {
            if let Some(protocol) = sample.bytes.get_mut(l3.0 + 9) {
                *protocol = dice.pick(&OVERLAY_PROTOCOLS);
            }
        }
        (0, 0x86DD) => {
            if let Some(next) = sample.bytes.get_mut(l3.0 + 6) {
                *next = dice.pick(&OVERLAY_PROTOCOLS);
            }
        }
        (1, _) => {
            let port = dice.pick(&OVERLAY_PORTS).to_be_bytes();
            if l3.2 != 0
                && let Some(place) = sample.bytes.get_mut(l3.2 + 2..l3.2 + 4)
            {
                place.copy_from_slice(&port);
            }
        }
        (2, _) if sample.bytes.len() > 14 => {
            let kind = dice.pick(&OVERLAY_ETHERTYPES).to_be_bytes();
            sample.bytes[12..14].copy_from_slice(&kind);
        }
        _ => {}
    }
}

#[test]
fn where_no_overlay_may_leave_the_guard_drops_what_etherparse_says_is_one() -> Result<()> {
    const TEST: &str = "where_no_overlay_may_leave_the_guard_drops_what_etherparse_says_is_one";
    if !place::can_run(TEST) {
        return Ok(());
    }
    let (seed, cases) = (dice::seed(), dice::cases(10_000, 50_000, 1_000_000));
    let (mut left, mut dropped, mut fragments) = (0_u64, 0_u64, 0_u64);
    place::alone(|| {
        let out = place::veth("out")?;
        let gate = bare();
        let slot = gate.sizes.port(EPOCH.policy_set(), SLOT);
        let mut kernel = Kernel::load(gate, EPOCH, attach::mechanism())?;
        let uplink = PortPolicy {
            flags: PortPolicy::DROPS_CLEAR_OVERLAYS,
            ..PortPolicy::default()
        };
        kernel.maps.ports.set(slot, uplink)?;
        let way = Way {
            direction: TO_TENANT,
            ifindex: out,
            ingress_ifindex: 0,
            gso: Gso::default(),
        };
        let mut firsts = HashSet::new();
        for case in 0..cases {
            let mut dice = Dice::new(seed, case);
            let scope = Scope {
                gso: false,
                ..Scope::TEST_RUN
            };
            let mut sample = mutate::sample(&mut dice, scope);
            towards_overlays(&mut dice, &mut sample);
            sample.bytes.truncate(3_400);
            // The kernel runs no program on less: an IP header must be there.
            if sample.bytes.len() < 14 + 40 {
                continue;
            }
            let passed = kernel.run_as("guard", &sample, &way)?;
            let (ends, is_first) = match reader::read(&sample.bytes, None, false) {
                Answer::Accept(seen) => (seen.addresses, seen.fragment == Fragment::First),
                Answer::Reject(_) => (None, false),
            };
            let expected = match may_leave(&sample.bytes) {
                Some(expected) => {
                    if passed && is_first {
                        firsts.insert(ends);
                    }
                    expected
                }
                // Behind nobody it must not pass. Behind somebody between the same ends it may be the rest of.
                None => {
                    fragments += 1;
                    passed && firsts.contains(&ends)
                }
            };
            ensure!(
                passed == expected,
                "OCTROI_TEST_SEED={seed}, case {case}: {}: passed {passed}",
                compare::describe(&sample)
            );
            *if passed { &mut left } else { &mut dropped } += 1;
        }
        // With `count` nothing is dropped; what comes in elsewhere is not looked at.
        let mut vxlan = Sample {
            bytes: vec![0; 60],
            ..Sample::default()
        };
        vxlan.bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
        vxlan.bytes[17] = 46;
        vxlan.bytes[23] = 47;
        ensure!(!kernel.run_as("guard", &vxlan, &way)?, "GRE leaves");
        let uplink = PortPolicy {
            flags: PortPolicy::COUNTS_CLEAR_OVERLAYS,
            ..PortPolicy::default()
        };
        kernel.maps.ports.set(slot, uplink)?;
        ensure!(kernel.run_as("guard", &vxlan, &way)?, "count drops");
        Ok(())
    })?;
    println!(
        "CASES: guard where no overlay may leave vs etherparse: {} ({left} left, {dropped} dropped, {fragments} later fragments)",
        left + dropped
    );
    ensure!(
        left > 1_000 && dropped > 1_000,
        "{left} left, {dropped} dropped"
    );
    Ok(())
}
