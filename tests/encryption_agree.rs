//! The loaded programs and the host's build of the encryption policy say the same of generated conversations: verdict
//! and class of each packet, and all that is remembered of the conversation behind it. Through `BPF_PROG_TEST_RUN`.

#[path = "oracle/dice.rs"]
#[allow(dead_code, reason = "written for tests/parser.rs")]
mod dice;
#[path = "encryption/ends.rs"]
mod ends;
#[path = "encryption_agree/frames.rs"]
mod frames;
#[path = "encryption_agree/host.rs"]
mod host;
#[path = "encryption_agree/kernel.rs"]
mod kernel;
#[path = "encryption/path.rs"]
#[allow(dead_code, reason = "written for tests/encryption_streams.rs")]
mod path;
#[path = "loaded/place.rs"]
#[allow(dead_code, reason = "written for tests/loaded.rs")]
mod place;
#[path = "encryption_agree/streams.rs"]
mod streams;
mod support;

use anyhow::{Context as _, Result, ensure};
use dataplane::attach::{self, Mechanism};
use dataplane_common::encryption::Class;
use dice::Dice;
use frames::{Shape, frames};
use host::Host;
use kernel::{Kernel, Sums};
use std::time::{Duration, Instant};
use support::by_level;

/// Of which the seed is printed when they differ.
const SEED: u64 = 0x0C72_0CA1;
/// Conversations between two readings of the registers.
const BATCH: u64 = 200;

/// One conversation through both; how many packets it had.
fn compare(kernel: &mut Kernel, sums: &mut Sums, case: u64) -> Result<u64> {
    let mut dice = Dice::new(SEED, case);
    let rule = streams::rule(&mut dice);
    let shape = Shape::drawn(&mut dice);
    let packets = if shape.tcp {
        streams::over_tcp(&mut dice)
    } else {
        streams::over_udp(&mut dice, &shape)
    };
    kernel.begin(&rule, case % 2 == 1)?;
    let mut host = Host::new(rule, std::mem::take(sums));
    let mut ran = 0;
    for (number, (segment, payload)) in packets.iter().enumerate() {
        for (frame, piece) in frames(&mut dice, &shape, number, segment, payload) {
            let passed = kernel.run(segment.direction, &frame)?;
            let known = kernel.remembers()?;
            let before = host.talk;
            let allowed = host.judge(&shape, segment, &piece, &known);
            let same = known.talk == host.talk && known.packet == host.packet;
            ensure!(
                passed == allowed && same,
                "packet {number} of {}: the kernel lets it pass: {passed}, the host: {allowed}\n{segment:?} {shape:?} \
                 {piece:?}\n{frame:02x?}\nbefore {before:?}\nkernel {known:?}\nhost   {:?} {:?}",
                packets.len(),
                host.talk,
                host.packet
            );
            ran += 1;
        }
    }
    *sums = host.sums;
    Ok(ran)
}

fn agree(mechanism: Mechanism, most: u64, patience: Duration) -> Result<()> {
    let mut kernel = Kernel::load(mechanism)?;
    let (begun, mut sums, mut packets, mut case) = (Instant::now(), Sums::default(), 0, 0);
    while case < most && begun.elapsed() < patience {
        for _ in 0..BATCH {
            packets += compare(&mut kernel, &mut sums, case)
                .with_context(|| format!("conversation {case} of seed {SEED:#x}, {mechanism:?}"))?;
            case += 1;
        }
        let booked = kernel.sums()?;
        ensure!(
            booked == sums,
            "up to conversation {case}, the kernel has booked {booked:?}, the host {sums:?}"
        );
    }
    let passed: u64 = sums.classes.iter().flatten().sum();
    let dropped: u64 = sums.dropped.iter().sum();
    println!(
        "CASES: conversations that host and kernel judge alike, {mechanism:?}: {case} ({packets} packets: {passed} passed, \
         {dropped} dropped, by class {:?})",
        sums.classes
    );
    // Every class but those that need no conversation was seen, and both verdicts.
    for class in [
        Class::Opening,
        Class::Shape,
        Class::Handshake,
        Class::Records,
        Class::Unverified,
        Class::WouldDrop,
    ] {
        let seen: u64 = sums
            .classes
            .iter()
            .map(|direction| direction[class as usize])
            .sum();
        ensure!(case < 1_000 || seen > 0, "no packet was {}", class.name());
    }
    ensure!(
        packets > 0 && dropped > 0 && passed > 0,
        "nothing was compared"
    );
    Ok(())
}

#[test]
fn the_loaded_program_judges_as_the_host_does() -> Result<()> {
    if !place::can_run("the_loaded_program_judges_as_the_host_does") {
        return Ok(());
    }
    let (most, seconds) = by_level((500, 20), (20_000, 30), (100_000, 3_600));
    place::alone(|| agree(attach::mechanism(), most, Duration::from_secs(seconds)))?;
    // The programs for Linux 6.1 are the same behind their parser.
    if attach::mechanism() == Mechanism::Tcx {
        place::alone(|| {
            agree(
                Mechanism::Clsact,
                most / 10,
                Duration::from_secs(seconds / 3),
            )
        })?;
    }
    Ok(())
}
