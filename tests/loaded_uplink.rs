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
    abi::{Epoch, FROM_TENANT, TO_TENANT},
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
    shapes::{Sample, Scope},
};

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
            // XDP knows neither tags beside the data nor GSO.
            let scope = Scope {
                gso: false,
                ..Scope::TEST_RUN
            };
            let mut sample = mutate::sample(&mut dice, scope);
            sample.bytes.truncate(3_400);
            if sample.bytes.len() < 14 {
                continue;
            }
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
