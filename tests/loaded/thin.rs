//! Thin before fat in the loaded programs: which class of HTB a packet is put in, and who is refused first.

use crate::{EPOCH, dice, kernel, now_ns, place, plain_port};
use crate::{
    fixtures::ports::slot,
    kernel::Kernel,
    oracle::{
        headers::{self, Ipv4, Part},
        host::Way,
        people,
    },
};
use anyhow::{Context as _, Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions};
use dataplane::{attach::Mechanism, host};
use dataplane_common::{
    abi::{DIRECTIONS, LimitPolicy, Sizes, TO_TENANT, shape},
    limit::{Rate, Times},
    units::BitsPerSecond,
};
use std::time::Duration;

/// `priority` in `struct __sk_buff`.
const PRIORITY: usize = 32;
/// `TC_ACT_SHOT`.
const DROP: u32 = 2;

/// At this rate the test's frames take seconds, and the test takes milliseconds.
pub const CEILING: BitsPerSecond = BitsPerSecond(1_000_000);
/// The burst, bytes.
pub const BURST: u64 = 62_500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    First,
    Bulk,
    Dropped,
}

/// A TCP segment or a datagram to the tenant, of the flow with this source port.
pub fn frame(protocol: u8, port: u16, len: usize) -> Vec<u8> {
    let header = Ipv4 {
        src: people::GATEWAY4,
        dst: people::OWN4,
        protocol,
        ..Ipv4::default()
    };
    let payload = |headers: usize| Part::zeros(len - 14 - 20 - headers);
    let data = if protocol == 6 {
        headers::tcp(port, 443, 0x10, &[], payload(20))
    } else {
        headers::udp(port, 443, payload(8))
    };
    let ip = headers::ipv4(&header, data);
    headers::ethernet(people::OWN, people::GATEWAY, &[], 0x0800, ip).bytes
}

/// A port with a ceiling, loaded.
pub struct Port {
    pub kernel: Kernel,
    pub way: Way,
    pub slot: u32,
    pub sizes: Sizes,
}

impl Port {
    /// A port with a ceiling to the tenant, whose queue is empty.
    pub fn new(mechanism: Mechanism, shape: u16) -> Result<Self> {
        let (plain, gate) = plain_port()?;
        let mut policy = gate.ports.get(&slot::PLAIN).context("no such port")?.policy;
        let sizes = gate.sizes;
        let at = sizes.port(EPOCH.policy_set(), slot::PLAIN);
        let mut kernel = Kernel::load(gate, EPOCH, mechanism)?;
        let begun_ns = now_ns();
        let times = Times {
            now_ns: begun_ns,
            switch_ns: begun_ns,
            coarse_slack_ns: host::coarse_slack_ns(),
        };
        let limit = LimitPolicy::begin(Rate::bytes(CEILING), BURST, 0, &times);
        policy.shape[TO_TENANT as usize] = shape;
        policy.set_limits(TO_TENANT, [limit, LimitPolicy::default()]);
        kernel.maps.ports.set(at, policy)?;
        let way = Way {
            direction: TO_TENANT,
            ifindex: plain,
            ..Way::default()
        };
        Ok(Self {
            kernel,
            way,
            slot: slot::PLAIN,
            sizes,
        })
    }

    /// Where the shape is not `htb`, what passes is the first.
    pub fn send(&mut self, frame: &[u8]) -> Result<Became> {
        let context = kernel::context(&self.way);
        let mut out = [0; 192];
        let ran = self.kernel.program(TO_TENANT)?.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            ctx_out: Some(&mut out),
            ..TestRunOptions::default()
        })?;
        let priority = u32::from_ne_bytes(out[PRIORITY..PRIORITY + 4].try_into()?);
        Ok(match (ran.return_value, priority) {
            (DROP, _) => Became::Dropped,
            (_, 0) => Became::First,
            (_, shape::HTB_LEAF) => Became::Bulk,
            other => anyhow::bail!("verdict and priority {other:x?}"),
        })
    }
}

/// How many frames of 1,514 bytes of one flow pass until one is refused; and what the first ones became.
fn fill(port: &mut Port, frame: &[u8]) -> Result<(u64, Vec<Became>)> {
    let mut became = Vec::new();
    for passed in 0..200 {
        match port.send(frame)? {
            Became::Dropped => return Ok((passed, became)),
            other => became.push(other),
        }
    }
    anyhow::bail!("nothing is refused")
}

fn case(mechanism: Mechanism) -> Result<()> {
    let bulk = frame(6, 1_000, 1_514);
    let mut port = Port::new(mechanism, shape::HTB)?;
    let (passed, became) = fill(&mut port, &bulk)?;
    ensure!(
        became[0] == Became::Bulk && became[1] == Became::First,
        "nothing waits before the first, which is not asked for its class, and a flow begins thin: {became:?}"
    );
    // Two frames are its bucket; a tick of the clock may fill a part of it again.
    let fat = became.iter().filter(|one| **one == Became::Bulk).count();
    ensure!(
        fat >= became.len() - 4 && became[4..].iter().all(|one| *one == Became::Bulk),
        "{became:?}"
    );
    // Seven eighths of the burst are for what is fat.
    let most = BURST * 7 / 8 / 1_514 + 2;
    ensure!(
        (most - 6..=most + 4).contains(&passed),
        "{passed} fat frames in a burst of {BURST} bytes"
    );
    // All thin flows together have half the rate; the two frames are made up for in 48 ms.
    std::thread::sleep(Duration::from_millis(60));
    let (_, became) = fill(&mut port, &bulk)?;
    ensure!(
        became.iter().all(|one| *one == Became::Bulk),
        "thin, though its packets wait: {became:?}"
    );
    // Each of these is a flow of its own, and what the fat one may not have is left for them.
    let mut thin = 0;
    for number in 0..30 {
        let one = frame(17, 2_000 + number, 67);
        thin += u32::from(port.send(&one)? == Became::First);
    }
    ensure!(thin >= 25, "{thin} of 30 conversations were thin");
    ensure!(
        port.send(&bulk)? == Became::Dropped,
        "a fat frame passes after thin ones"
    );
    // Whoever fakes flows is fat when they have had half the rate and two frames, and refused with the fat ones.
    let mut firsts = 0;
    for number in 0..100 {
        firsts += u32::from(port.send(&frame(17, 10_000 + number, 590))? == Became::First);
    }
    ensure!(firsts <= 8, "{firsts} of 100 faked flows were thin");
    Ok(())
}

/// Without a queue no class is set, and none is looked for while less than an eighth of the burst is used.
fn police(mechanism: Mechanism) -> Result<()> {
    let mut port = Port::new(mechanism, shape::POLICE)?;
    let at = (port.slot * DIRECTIONS + TO_TENANT) * Sizes::CLOCKS + Sizes::THIN;
    for number in 0..4 {
        port.send(&frame(6, 3_000 + number, 1_514))?;
    }
    let looked = port.kernel.maps.clocks.get(&at, 0)?;
    ensure!(
        looked == 0,
        "a tenth of the burst is used, and flows are looked for"
    );
    for number in 0..20 {
        port.send(&frame(6, 3_000 + number, 1_514))?;
    }
    let looked = port.kernel.maps.clocks.get(&at, 0)?;
    ensure!(
        looked != 0,
        "most of the burst is used, and no flow is looked for"
    );
    let (_, became) = fill(&mut port, &frame(6, 1_000, 1_514))?;
    ensure!(became.iter().all(|one| *one == Became::First), "{became:?}");
    ensure!(
        port.send(&frame(17, 2_000, 67))? == Became::First,
        "a thin packet was refused for a fat one"
    );
    Ok(())
}

#[test]
fn thin_flows_go_first_and_are_refused_last() -> Result<()> {
    const TEST: &str = "thin_flows_go_first_and_are_refused_last";
    if !place::can_run(TEST) {
        return Ok(());
    }
    let rounds = dice::cases(1, 5, 50);
    for mechanism in kernel::mechanisms() {
        for _ in 0..rounds {
            place::alone(|| case(mechanism)).with_context(|| format!("{mechanism:?}"))?;
            place::alone(|| police(mechanism)).with_context(|| format!("{mechanism:?}"))?;
        }
    }
    println!("CASES: loaded thin flows: {rounds}");
    Ok(())
}
