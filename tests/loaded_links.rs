//! The loaded programs on real links, for what `BPF_PROG_TEST_RUN` cannot carry: tags that the
//! kernel keeps beside the data, frames longer than a page, and GSO packets of a guest's making.
//!
//! ```text
//!  portx ── port ─┐                    what comes in by `port` or `tap` is the tenant's;
//!  tap ───────────┴─ bridge ─ out ── outx   what leaves by `out` goes to another tenant
//! ```

mod fixtures;
#[path = "loaded/kernel.rs"]
mod kernel;
mod oracle;
#[path = "loaded/place.rs"]
mod place;

use anyhow::{Context as _, Result, ensure};
use aya::programs::{TcAttachType, tc};
use dataplane::{attach, netlink};
use dataplane_common::{
    abi::{Epoch, FROM_TENANT, TO_TENANT},
    wire::Gso,
};
use fixtures::ports::{self, Interfaces, slot};
use kernel::{Kernel, Ledger, difference};
use octroi::lab::frames::RawSocket;
use octroi::lab::tap::{self, Header, Tap};
use oracle::{
    compare,
    dice::{self, Dice},
    host::{Outcome, Verdict, Way},
    mutate, people,
    segments::{Carrier, Recipe, Tunnel},
    shapes::{Sample, Scope},
};
use place::command;
use std::time::{Duration, Instant};

const EPOCH: Epoch = Epoch::new(3, 7);

/// How long a frame may be on its way. It usually arrives before the sender's call returns.
const PATIENCE: Duration = Duration::from_secs(2);

/// A port with the plain policy, another with the listed one, and a bridge between them.
struct Scene {
    kernel: Kernel,
    ledger: Ledger,
    on: Interfaces,
    gate: oracle::host::Gate,
    /// Layer-2 bytes and frames that the other tenant must receive.
    received: (u64, u64),
}

impl Scene {
    /// `inside` is the interface of the plain port; it exists.
    fn new(inside: &str) -> Result<Self> {
        let out = place::veth("out")?;
        // Its counter is to count frames as they are on the wire.
        command("ethtool -K out gso off tso off tx-udp-segmentation off tx-gso-list off")?;
        command("ip link add bridge mtu 65535 type bridge mcast_snooping 0")?;
        std::fs::write("/proc/sys/net/ipv6/conf/bridge/disable_ipv6", "1")?;
        for family in ["ip", "ip6", "arp"] {
            // Where bridges filter packets, they look at checksums; elsewhere there is no such file.
            let _ = std::fs::write(
                format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables"),
                "0",
            );
        }
        for port in [inside, "out"] {
            command(&format!("ip link set {port} master bridge"))?;
            // Every frame goes out by the other port, whatever was seen before.
            command(&format!("bridge link set dev {port} learning off"))?;
        }
        command("ip link set bridge up")?;
        let on = Interfaces {
            plain: place::index(inside)?,
            listed: out,
            ..Interfaces {
                trusted: place::index("bridge")?,
                ..Interfaces::ON_PAPER
            }
        };
        let gate = ports::gate(&on);
        let mut kernel = Kernel::load(gate.clone(), EPOCH, attach::mechanism())?;
        for (interface, direction, hook) in [
            (inside, FROM_TENANT, TcAttachType::Ingress),
            ("out", TO_TENANT, TcAttachType::Egress),
        ] {
            if attach::mechanism() == attach::Mechanism::Clsact {
                tc::qdisc_add_clsact(interface)?;
            }
            kernel.program(direction)?.attach(interface, hook)?;
        }
        Ok(Self {
            kernel,
            ledger: Ledger::new(&gate),
            on,
            gate,
            received: (0, 0),
        })
    }

    /// Sends a frame by `send` and compares what both ports booked with the host's build.
    fn check(
        &mut self,
        sample: &Sample,
        gso: Gso,
        send: impl FnOnce() -> Result<()>,
    ) -> Result<Outcome> {
        let mut way = Way {
            direction: FROM_TENANT,
            ifindex: self.on.plain,
            ingress_ifindex: 0,
            gso,
        };
        let expected = self.gate.judge(sample, &way);
        send()?;
        self.ledger
            .book(&expected, way.direction, sample.bytes.len());
        self.compare(slot::PLAIN, FROM_TENANT)?;
        if matches!(expected.verdict, Verdict::Delivered { .. }) {
            way = Way {
                direction: TO_TENANT,
                ifindex: self.on.listed,
                ingress_ifindex: self.on.plain,
                gso,
            };
            let expected = self.gate.judge(sample, &way);
            self.ledger
                .book(&expected, way.direction, sample.bytes.len());
            self.compare(slot::LISTED, TO_TENANT)?;
            if let Verdict::Delivered { wire, .. } = expected.verdict {
                // The other end does not count a tag beside the data.
                let tag = if sample.tag.is_some() {
                    4 * wire.packets
                } else {
                    0
                };
                self.received.0 += wire.l2_bytes - tag;
                self.received.1 += wire.packets;
            }
        }
        Ok(expected)
    }

    /// Waits until the kernel has booked as many skbs as the host, then compares all.
    fn compare(&self, slot: u32, direction: u32) -> Result<()> {
        let host = self
            .ledger
            .bank(slot, direction)
            .context("something is booked")?;
        let begun = Instant::now();
        loop {
            let booked = &self.kernel.booked(EPOCH.bank(), slot)?[direction as usize];
            let skbs = |bank: &dataplane::registers::Bank| bank.skbs.delivered + bank.skbs.dropped;
            if skbs(booked) < skbs(host) && begun.elapsed() < PATIENCE {
                std::thread::yield_now();
                continue;
            }
            ensure!(
                booked == host,
                "slot {slot}: registers differ:{}",
                difference(booked, host)
            );
            return Ok(());
        }
    }

    /// What is booked as delivered has arrived at the other tenant, and nothing else has.
    fn check_receiver(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let found = netlink::interfaces()?;
            let [packets, bytes, ..] = found.get("outx").context("outx is gone")?.stats;
            if (bytes, packets) == self.received {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "{packets} frames and {bytes} bytes arrived, booked are {:?}",
                self.received
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What the kernel makes of a frame at ingress: the outermost tag goes beside the data. `None` when
/// the frame ends in its EtherType or its tag: the kernel drops it before any program sees it.
fn at_ingress(mut sample: Sample) -> Option<Sample> {
    if matches!(sample.bytes.get(12..14)?, [0x81, 0x00] | [0x88, 0xA8]) {
        let &[high, low, ..] = sample.bytes.get(14..20)? else {
            return None;
        };
        sample.tag = Some(u16::from_be_bytes([high, low]));
        sample.bytes.drain(12..16);
    }
    Some(sample)
}

#[test]
fn frames_on_a_link_are_booked_on_both_sides_of_a_bridge_as_the_host_says() -> Result<()> {
    const TEST: &str = "frames_on_a_link_are_booked_on_both_sides_of_a_bridge_as_the_host_says";
    if !place::can_run(TEST) {
        return Ok(());
    }
    let (seed, cases) = (dice::seed(), dice::cases(3_000, 30_000, 300_000));
    let (mut carried, mut tagged, mut long) = (0, 0, 0);
    place::alone(|| {
        place::veth("port")?;
        let mut scene = Scene::new("port")?;
        let socket = RawSocket::open(place::index("portx")?)?;
        for case in 0.. {
            if carried == cases {
                break;
            }
            let mut dice = Dice::new(seed, case);
            let mut frame = mutate::sample(&mut dice, Scope::LINK).bytes;
            mutate::between_tenants(&mut dice, &mut frame, 6);
            let sample = Sample {
                bytes: frame.clone(),
                ..Sample::default()
            };
            let Some(sample) = at_ingress(sample) else {
                continue;
            };
            carried += 1;
            tagged += u64::from(sample.tag.is_some());
            long += u64::from(sample.bytes.len() > 4_096);
            scene
                .check(&sample, Gso::default(), || socket.send(&frame))
                .map_err(|error| {
                    error.context(format!(
                        "OCTROI_TEST_SEED={seed}, case {case}: {}",
                        compare::describe(&sample)
                    ))
                })?;
        }
        scene.check_receiver()
    })?;
    ensure!(
        tagged > carried / 10 && long > 0,
        "{tagged} tagged, {long} longer than a page"
    );
    println!("CASES: loaded program vs host build, frames on a veth: {carried}");
    Ok(())
}

/// True when the kernel does not know the kind of GSO.
fn is_invalid(error: &anyhow::Error) -> bool {
    let os = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::raw_os_error);
    os == Some(libc::EINVAL)
}

/// A GSO packet that a guest may send, and the header that goes with it.
fn from_a_guest(dice: &mut Dice) -> (Recipe, Header) {
    let mut recipe = Recipe::any(dice, false);
    while recipe.tunnel != Tunnel::None || recipe.carrier == Carrier::Sctp {
        recipe = Recipe::any(dice, false);
    }
    // The guest's tag is in the data; the kernel takes the outermost out.
    recipe.tag = None;
    recipe.options = if recipe.families[0] == 4 {
        recipe.options
    } else {
        0
    };
    // The kernel cuts at most 128 datagrams, takes what fits one segment for no GSO at all, and the
    // receiver's queue holds 1,000 frames.
    let segments = if recipe.carrier == Carrier::Udp {
        128
    } else {
        500
    };
    recipe.payload = dice.within(recipe.size + 1, (segments * recipe.size).min(60_000));
    let v4 = recipe.families[0] == 4;
    let l4 = 14 + 4 * recipe.tags.len() + if v4 { 20 + recipe.options } else { 40 };
    let (gso_type, header, csum_offset) = match recipe.carrier {
        Carrier::Tcp if v4 => (tap::gso::TCPV4, 20 + recipe.tcp_options, 16),
        Carrier::Tcp => (tap::gso::TCPV6, 20 + recipe.tcp_options, 16),
        Carrier::Ufo => (tap::gso::UFO, 8, 6),
        _ => (tap::gso::UDP_L4, 8, 6),
    };
    let header = Header {
        gso_type,
        hdr_len: (l4 + header) as u16,
        gso_size: recipe.size as u16,
        csum_start: l4 as u16,
        csum_offset,
    };
    (recipe, header)
}

#[test]
fn gso_packets_of_a_guest_are_booked_as_the_frames_that_the_kernel_makes_of_them() -> Result<()> {
    const TEST: &str =
        "gso_packets_of_a_guest_are_booked_as_the_frames_that_the_kernel_makes_of_them";
    if !place::can_run(TEST) {
        return Ok(());
    }
    if !std::fs::exists("/dev/net/tun")? {
        println!("SKIPPED: {TEST}: there is no /dev/net/tun");
        return Ok(());
    }
    let (seed, cases) = (dice::seed(), dice::cases(500, 5_000, 50_000));
    let (mut refused, mut cut) = (0, [0; 2]);
    place::alone(|| {
        let mut tap = Tap::new("tap")?;
        std::fs::write("/proc/sys/net/ipv6/conf/tap/disable_ipv6", "1")?;
        command("ip link set tap mtu 65521 up")?;
        let mut scene = Scene::new("tap")?;
        for case in 0..cases {
            let mut dice = Dice::new(seed, case);
            let (recipe, header) = from_a_guest(&mut dice);
            let mut sample = recipe.sample();
            sample.bytes[..6].copy_from_slice(&people::OWN_LISTED);
            let frame = sample.bytes.clone();
            let sample = at_ingress(sample).context("long enough")?;
            let context = || format!("OCTROI_TEST_SEED={seed}, case {case}: {recipe:?}");
            let outcome = scene.check(&sample, recipe.gso(), || tap.send(&header, &frame));
            if recipe.carrier == Carrier::Udp && outcome.as_ref().is_err_and(is_invalid) {
                refused += 1;
                continue;
            }
            let outcome = outcome.with_context(context)?;
            ensure!(
                matches!(outcome.verdict, Verdict::Delivered { .. }),
                "{}: {outcome:?}",
                context()
            );
            cut[usize::from(recipe.carrier == Carrier::Udp)] += 1;
            // The kernel's own cut, frame by frame.
            scene.check_receiver().with_context(context)?;
        }
        Ok(())
    })?;
    // Guests have UDP GSO since Linux 6.2.
    ensure!(
        refused == 0 || cut[1] == 0,
        "the tap refused {refused} of {cases}"
    );
    let [others, udp] = cut;
    println!("CASES: loaded program vs host build and the kernel's own cut, TSO and UFO: {others}");
    println!("CASES: loaded program vs host build and the kernel's own cut, UDP GSO: {udp}");
    Ok(())
}
