//! The loaded programs and the host's build of the encryption policy say the same of generated conversations: verdict
//! and class of each packet, and all that is remembered of the conversation behind it. Through `BPF_PROG_TEST_RUN`.

#[path = "oracle/dice.rs"]
#[allow(dead_code, reason = "written for tests/parser.rs")]
mod dice;
#[path = "encryption/ends.rs"]
mod ends;
#[path = "encryption_agree/frames.rs"]
mod frames;
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
use dataplane_common::encryption::{
    Bytes, Class, Conversation, Rule, Segment, Why, datagram, mode, tcp,
};
use dice::Dice;
use frames::{Shape, frame};
use kernel::{Kernel, Sums};
use std::time::{Duration, Instant};
use support::by_level;

/// Of which the seed is printed when they differ.
const SEED: u64 = 0x0C72_0CA1;
/// Conversations between two readings of the registers.
const BATCH: u64 = 200;

/// What the host says of a packet, and its sums.
struct Host {
    talk: Conversation,
    rule: Rule,
    sums: Sums,
}

impl Host {
    /// True when it passes. `known`: what the kernel remembers behind it, of which only the time is taken.
    fn judge(
        &mut self,
        shape: &Shape,
        segment: &Segment,
        payload: &[u8],
        known: &Conversation,
    ) -> bool {
        let now_ms = known.last_ms;
        if self.talk.key.ethertype == 0 {
            self.talk
                .become_new(&known.key, now_ms, self.rule.unverified_bytes);
        }
        let segment = Segment {
            now_ms,
            len: payload.len() as u32,
            ..*segment
        };
        let (talk, rule, payload) = (&mut self.talk, &self.rule, &Bytes(payload));
        let judged: Result<Class, Why> = if shape.tcp {
            tcp::judge(talk, rule, &segment, shape.ports, payload)
        } else {
            datagram::judge(talk, rule, &segment, payload)
        };
        let side = (segment.direction & 1) as usize;
        let class = match judged {
            Ok(class) => class,
            Err(_) if self.rule.mode == mode::OBSERVE => Class::WouldDrop,
            Err(_) => {
                self.sums.dropped[side] += 1;
                return false;
            }
        };
        self.sums.classes[side][class as usize] += 1;
        true
    }
}

/// One conversation through both; how many packets it had.
fn compare(kernel: &mut Kernel, sums: &mut Sums, case: u64) -> Result<u64> {
    let mut dice = Dice::new(SEED, case);
    let rule = streams::rule(&mut dice);
    let shape = Shape {
        v6: dice.one_in(2),
        tcp: !dice.one_in(3),
        ports: [dice.pick(&[40_000, 25]), dice.pick(&[443, 25])],
    };
    let packets = if shape.tcp {
        streams::over_tcp(&mut dice)
    } else {
        streams::over_udp(&mut dice)
    };
    kernel.begin(&rule)?;
    let mut host = Host {
        talk: Conversation::default(),
        rule,
        sums: std::mem::take(sums),
    };
    for (number, (segment, payload)) in packets.iter().enumerate() {
        let bytes = frame(&mut dice, &shape, segment, payload);
        let passed = kernel.run(segment.direction, &bytes)?;
        let known = kernel.conversation()?;
        let before = host.talk;
        let allowed = host.judge(&shape, segment, payload, &known);
        ensure!(
            passed == allowed && known == host.talk,
            "packet {number} of {}: the kernel lets it pass: {passed}, the host: {allowed}\n{segment:?} {shape:?} \
             {} bytes {:02x?}\nbefore {before:?}\nkernel {known:?}\nhost   {:?}",
            packets.len(),
            payload.len(),
            &payload[..payload.len().min(40)],
            host.talk
        );
    }
    *sums = host.sums;
    Ok(packets.len() as u64)
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
