//! The loaded programs do what the host's build does: verdict, reason, zone and bytes, frame by
//! frame, through `BPF_PROG_TEST_RUN`. What that cannot carry is in `loaded_links.rs`.

mod fixtures;
#[path = "loaded/kernel.rs"]
mod kernel;
mod oracle;
#[path = "loaded/place.rs"]
mod place;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::{
    abi::{Epoch, FROM_TENANT, TO_TENANT},
    wire::{GSO_BY_FRAGS, Gso},
};
use fixtures::ports::{self, Interfaces};
use kernel::{Kernel, Ledger, difference};
use oracle::{
    compare,
    dice::{self, Dice},
    host::{Gate, Outcome, Verdict, Way},
    mutate,
    shapes::{Sample, Scope},
};

/// Bytes that the kernel takes: a page less the headroom and `skb_shared_info`.
const LEN_MAX: usize = 3_400;

/// Seven interfaces for the ports of the fixtures.
fn interfaces() -> Result<Interfaces> {
    let mut made = [0; 7];
    for (number, index) in made.iter_mut().enumerate() {
        *index = place::veth(&format!("port{number}"))?;
    }
    let [plain, listed, shared, encrypted, inactive, trusted, unknown] = made;
    Ok(Interfaces {
        plain,
        listed,
        shared,
        encrypted,
        inactive,
        trusted,
        unknown,
    })
}

/// The four combinations of bank and policy set.
const EPOCHS: [Epoch; 4] = [
    Epoch::new(2, 4),
    Epoch::new(3, 4),
    Epoch::new(2, 5),
    Epoch::new(7, 9),
];

/// A frame that a test run can carry, and how it comes.
fn throw(dice: &mut Dice, on: &Interfaces) -> (Sample, Way) {
    let mut sample = mutate::sample(dice, Scope::TEST_RUN);
    sample.bytes.truncate(LEN_MAX);
    mutate::between_tenants(dice, &mut sample.bytes, 3);
    if sample.gso_size != 0 && dice.one_in(8) {
        sample.gso_size = GSO_BY_FRAGS as u16;
    }
    let ifindex = match dice.below(10) {
        0..4 => on.plain,
        4..7 => on.listed,
        7..9 => on.shared,
        _ => dice.pick(&[on.encrypted, on.inactive, on.unknown]),
    };
    if ifindex == on.shared && !dice.one_in(5) {
        on_vlan(&mut sample.bytes);
    }
    let way = Way {
        direction: dice.pick(&[FROM_TENANT, FROM_TENANT, TO_TENANT]),
        ifindex,
        ingress_ifindex: dice.pick(&[0, on.plain, on.listed, on.trusted, on.trusted, on.unknown]),
        gso: Gso {
            size: sample.gso_size.into(),
            // What an untrusted guest may claim.
            segments: if sample.gso_size == 0 {
                0
            } else {
                dice.below(45) as u32
            },
            ..Gso::default()
        },
    };
    (sample, way)
}

/// Puts a frame on the VLAN that is a port: writes its outermost tag, or gives it one.
fn on_vlan(bytes: &mut Vec<u8>) {
    let tci = (ports::VLAN as u16).to_be_bytes();
    match bytes.get_mut(12..16) {
        Some([0x81, 0x00, place @ ..] | [0x88, 0xA8, place @ ..]) => place.copy_from_slice(&tci),
        Some(_) => drop(bytes.splice(12..12, [0x81, 0x00, tci[0], tci[1]])),
        None => {}
    }
}

/// Shorter than this, the kernel refuses to make an skb of a frame: its EtherType promises more.
fn least(bytes: &[u8]) -> usize {
    match bytes.get(12..14) {
        Some([0x08, 0x00]) => 14 + 20,
        Some([0x86, 0xDD]) => 14 + 40,
        _ => 14,
    }
}

/// Runs one frame and compares verdict and registers of its slot.
fn check(
    kernel: &mut Kernel,
    ledger: &mut Ledger,
    epoch: Epoch,
    (sample, way): (&Sample, &Way),
    expected: &Outcome,
) -> Result<()> {
    let passed = kernel.run(sample, way)?;
    ledger.book(expected, way.direction, sample.bytes.len());
    let delivered = matches!(expected.verdict, Verdict::Delivered { .. });
    ensure!(passed == delivered, "the kernel's verdict is {passed}");
    let booked = kernel.booked(epoch.bank(), expected.slot)?;
    let [booked, host] = [
        Some(&booked[way.direction as usize]),
        ledger.bank(expected.slot, way.direction),
    ];
    if let (Some(booked), Some(host)) = (booked, host) {
        ensure!(
            booked == host,
            "registers differ:{}",
            difference(booked, host)
        );
    }
    Ok(())
}

/// Every cell of every slot, both banks: nothing is booked elsewhere.
fn check_all(kernel: &Kernel, gate: &Gate, ledger: &Ledger, epoch: Epoch) -> Result<()> {
    for slot in 0..gate.sizes.slots {
        for bank in [0, 1] {
            let booked = kernel.booked(bank, slot)?;
            for (direction, booked) in (0..).zip(&booked) {
                match ledger
                    .bank(slot, direction)
                    .filter(|_| bank == epoch.bank())
                {
                    Some(host) => ensure!(
                        booked == host,
                        "slot {slot}, direction {direction}:{}",
                        difference(booked, host)
                    ),
                    None => ensure!(
                        booked.skbs == Default::default()
                            && booked
                                .zones
                                .iter()
                                .all(|counts| *counts == Default::default())
                            && booked
                                .drops
                                .iter()
                                .all(|counts| *counts == Default::default()),
                        "bank {bank}, slot {slot}: {booked:?}"
                    ),
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_loaded_programs_agree_with_the_host_on_generated_frames() -> Result<()> {
    const TEST: &str = "the_loaded_programs_agree_with_the_host_on_generated_frames";
    if !place::can_run(TEST) {
        return Ok(());
    }
    let (seed, cases) = (dice::seed(), dice::cases(10_000, 100_000, 1_000_000));
    let mut carried = 0;
    let mut met = std::collections::BTreeMap::<String, u64>::new();
    place::alone(|| {
        let on = interfaces()?;
        let gate = ports::gate(&on);
        let rounds = kernel::mechanisms()
            .into_iter()
            .flat_map(|mechanism| EPOCHS.map(|epoch| (mechanism, epoch)));
        for (round, (mechanism, epoch)) in (0..).zip(rounds) {
            let mut kernel = Kernel::load(gate.clone(), epoch, mechanism)?;
            let mut ledger = Ledger::new(&gate);
            let mut in_round = 0;
            for case in round << 32.. {
                if in_round == cases / 4 {
                    break;
                }
                let (sample, way) = throw(&mut Dice::new(seed, case), &on);
                if sample.bytes.len() < least(&sample.bytes) {
                    continue; // these go over a link
                }
                in_round += 1;
                let expected = gate.judge(&sample, &way);
                let what = match expected.verdict {
                    Verdict::Delivered { zone, .. } => format!("zone {zone}"),
                    Verdict::Dropped { reason, .. } => reason.name().to_owned(),
                };
                *met.entry(what).or_default() += 1;
                check(&mut kernel, &mut ledger, epoch, (&sample, &way), &expected).map_err(
                    |error| {
                        let frame = compare::describe(&sample);
                        error.context(format!(
                            "OCTROI_TEST_SEED={seed}, case {case}, {mechanism:?}, {way:?}\n  the host \
                             says \
                             {expected:?}\n  {frame}"
                        ))
                    },
                )?;
            }
            check_all(&kernel, &gate, &ledger, epoch)?;
            carried += in_round;
        }
        Ok(())
    })?;
    println!("met: {met:#?}");
    for what in EXPECTED {
        ensure!(
            met.get(what) > Some(&(cases / 10_000)),
            "{what}: {:?} frames",
            met.get(what)
        );
    }
    println!("CASES: loaded program vs host build, test run: {carried}");
    Ok(())
}

#[test]
fn the_loaded_programs_give_every_named_frame_its_answer() -> Result<()> {
    const TEST: &str = "the_loaded_programs_give_every_named_frame_its_answer";
    if !place::can_run(TEST) {
        return Ok(());
    }
    let all = fixtures::all();
    let mut carried = 0;
    place::alone(|| {
        let on = interfaces()?;
        let gate = ports::gate(&on);
        let epoch = EPOCHS[1];
        for mechanism in kernel::mechanisms() {
            let mut kernel = Kernel::load(gate.clone(), epoch, mechanism)?;
            let mut ledger = Ledger::new(&gate);
            for fixture in &all {
                let (outcome, said) = fixture.judged(&gate, &on);
                ensure!(
                    said == fixture.expected,
                    "{}: the host says {said:?}",
                    fixture.name
                );
                let (sample, way) = (fixture.sample(), fixture.way(&on));
                check(&mut kernel, &mut ledger, epoch, (&sample, &way), &outcome).with_context(
                    || format!("{mechanism:?}, {:?}, {}", fixture.crossing, fixture.name),
                )?;
            }
            check_all(&kernel, &gate, &ledger, epoch)?;
            carried += all.len();
        }
        Ok(())
    })?;
    println!("CASES: named frames, loaded program: {carried}");
    Ok(())
}

/// Every zone, and every reason that the gate can give without a limiter.
const EXPECTED: [&str; 29] = [
    "zone 0",
    "zone 1",
    "zone 2",
    "zone 3",
    "zone 4",
    "zone 5",
    "zone 6",
    "truncated",
    "headers_too_deep",
    "vlan_depth",
    "ip_header",
    "ip_length",
    "ipv6_extension",
    "transport_header",
    "tiny_fragment",
    "gso_unknown",
    "unknown_port",
    "port_inactive",
    "spoofed_mac",
    "spoofed_arp",
    "spoofed_ipv4",
    "spoofed_ipv6",
    "spoofed_nd",
    "rogue_router",
    "rogue_dhcp",
    "link_control",
    "ethertype_denied",
    "not_mine",
    "unblessed_source",
];
