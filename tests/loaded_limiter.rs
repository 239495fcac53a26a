//! The limiter in the loaded programs: two threads, each on a processor of its own, send more than a
//! ceiling allows through one port, and the registers must keep the limiter's bounds.
//!
//! `dataplane-ebpf/common/tests/limiter` proves the bounds of the law; this is about what the kernel
//! makes of it: the atomics, the clocks, the map, and both limits of a direction together.

#[path = "loaded/departs.rs"]
mod departs;
#[path = "loaded/ecn.rs"]
mod ecn;
#[path = "loaded/fair.rs"]
mod fair;
mod fixtures;
#[path = "loaded/kernel.rs"]
mod kernel;
#[path = "loaded/law.rs"]
mod law;
mod oracle;
#[path = "loaded/place.rs"]
mod place;
#[path = "loaded/price.rs"]
mod price;
#[path = "loaded/quota.rs"]
mod quota;
#[path = "loaded/thin.rs"]
mod thin;

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use dataplane::{attach::Mechanism, host};
use dataplane_common::{
    abi::{Epoch, FROM_TENANT, LimitPolicy, TO_TENANT},
    limit::{Rate, Times},
    reason::DropReason,
    units::{BitsPerSecond, PacketsPerSecond},
};
use fixtures::ports::{self, Interfaces, slot};
use kernel::Kernel;
use octroi::lab::traffic::pin;
use oracle::{
    dice,
    headers::{self, Ipv4, Part},
    host::{Gate, Way},
    people,
};
use std::{
    thread,
    time::{Duration, Instant},
};

const EPOCH: Epoch = Epoch::new(3, 7);

/// Runs of a frame in one call: few, so that a thread's gaps can be told from its work.
const BATCH: u32 = 32;

/// Layer-2 bytes of the frames that the two threads send, by turns.
const LENGTHS: [usize; 4] = [64, 1_514, 590, 3_000];

/// A ceiling: rate, and burst in bytes or packets; of priced bytes with the price of a packet.
#[derive(Clone, Copy, Debug)]
enum Limit {
    Bits(u64, u64),
    Priced(u64, u64, u32),
    Packets(u64, u64),
}

/// From a trickle to more than one thread alone can send; each burst with and without room for the
/// coarse clock.
const LIMITS: [Limit; 11] = [
    Limit::Bits(1_000, 1_514),
    Limit::Bits(1_000_000, 12_500),
    Limit::Bits(50_000_000, 3_000),
    Limit::Bits(50_000_000, 625_000),
    Limit::Bits(1_000_000_000, 12_500_000),
    Limit::Bits(5_000_000_000, 62_500_000),
    Limit::Priced(50_000_000, 625_000, 1_500),
    Limit::Priced(5_000_000_000, 62_500_000, 8_000),
    Limit::Packets(10, 2),
    Limit::Packets(10_000, 500),
    Limit::Packets(200_000, 10_000),
];

fn now_ns() -> u64 {
    dataplane::host::clock_ns(libc::CLOCK_MONOTONIC)
}

/// A UDP datagram from the tenant of [`slot::PLAIN`], or to it.
fn frame(direction: u32, len: usize) -> Vec<u8> {
    let (own, remote) = (
        (people::OWN, people::OWN4),
        (people::GATEWAY, people::GATEWAY4),
    );
    let (src, dst) = if direction == FROM_TENANT {
        (own, remote)
    } else {
        (remote, own)
    };
    let header = Ipv4 {
        src: src.1,
        dst: dst.1,
        protocol: 17,
        ..Ipv4::default()
    };
    let datagram = headers::udp(1_000, 2_000, Part::zeros(len - 14 - 20 - 8));
    headers::ethernet(dst.0, src.0, &[], 0x0800, headers::ipv4(&header, datagram)).bytes
}

/// What one thread did.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    packets: u64,
    bytes: u64,
    /// The longest time from a call's end to the next one's.
    gap: Duration,
}

/// Sends for `time`.
fn send(program: &SchedClassifier, way: &Way, first: usize, time: Duration) -> Result<Sent> {
    let frames = LENGTHS.map(|len| frame(way.direction, len));
    let context = kernel::context(way);
    let mut sent = Sent::default();
    let begun = Instant::now();
    let mut last = begun;
    for number in first.. {
        let bytes = &frames[number % frames.len()];
        program.test_run(TestRunOptions {
            data_in: Some(bytes),
            ctx_in: Some(&context),
            repeat: BATCH,
            ..TestRunOptions::default()
        })?;
        let now = Instant::now();
        sent.gap = sent.gap.max(now - last);
        last = now;
        sent.packets += u64::from(BATCH);
        sent.bytes += u64::from(BATCH) * bytes.len() as u64;
        if begun.elapsed() > time {
            break;
        }
    }
    Ok(sent)
}

/// Packets, bytes and drops by ceiling that stand in the port's registers.
fn booked(kernel: &Kernel, direction: u32) -> Result<[u64; 4]> {
    let bank = &kernel.booked(EPOCH.bank(), slot::PLAIN)?[direction as usize];
    let mut sum = [0; 4];
    for counts in &bank.zones {
        sum[0] += counts.packets;
        sum[1] += counts.l2_bytes;
    }
    let ceilings = [
        DropReason::CeilingBytes,
        DropReason::CeilingPackets,
        DropReason::LimiterContended,
    ];
    for (number, drops) in bank.drops.iter().enumerate() {
        if ceilings.iter().any(|reason| *reason as usize == number) {
            sum[2] += drops.packets;
            sum[3] += drops.l2_bytes;
        } else {
            ensure!(drops.packets == 0, "drops for reason {number}");
        }
    }
    Ok(sum)
}

/// One limit on one direction for `time`; true when the lower bound could be judged as well.
fn case(kernel: &mut Kernel, gate: &Gate, way: &Way, limit: Limit, time: Duration) -> Result<bool> {
    let clock_at = |unit| gate.sizes.clock(slot::PLAIN, way.direction, unit);
    let unit = u32::from(matches!(limit, Limit::Packets(..)));
    let (rate, burst) = match limit {
        Limit::Bits(bits, burst) | Limit::Priced(bits, burst, _) => {
            (Rate::bytes(BitsPerSecond(bits)), burst)
        }
        Limit::Packets(packets, burst) => (Rate::packets(PacketsPerSecond(packets)), burst),
    };
    let begun_ns = now_ns();
    let times = Times {
        now_ns: begun_ns,
        switch_ns: begun_ns,
        coarse_slack_ns: host::coarse_slack_ns(),
    };
    let clock = kernel.maps.clocks.get(&clock_at(unit), 0)?;
    let mut limits = [LimitPolicy::default(); 2];
    let price = match limit {
        Limit::Priced(_, _, price) => price,
        Limit::Bits(..) | Limit::Packets(..) => 0,
    };
    limits[unit as usize] = LimitPolicy::begin(rate, burst, clock, &times).priced(price);
    let mut policy = gate.ports.get(&slot::PLAIN).context("no such port")?.policy;
    policy.set_limits(way.direction, limits);
    let place = gate.sizes.port(EPOCH.policy_set(), slot::PLAIN);
    kernel.maps.ports.set(place, policy)?;

    let before = booked(kernel, way.direction)?;
    let program = &*kernel.program(way.direction)?;
    let sent = thread::scope(|scope| -> Result<[Sent; 2]> {
        let threads = [0, 1].map(|number| {
            scope.spawn(move || {
                pin(number);
                send(program, way, number, time)
            })
        });
        let mut sent = [Sent::default(); 2];
        for (sent, thread) in sent.iter_mut().zip(threads) {
            *sent = thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(sent)
    })?;
    let took_ns = now_ns() - begun_ns;
    let after = booked(kernel, way.direction)?;
    let [packets, bytes, dropped, dropped_bytes]: [u64; 4] =
        std::array::from_fn(|at| after[at] - before[at]);

    let offered = (
        sent[0].packets + sent[1].packets,
        sent[0].bytes + sent[1].bytes,
    );
    ensure!(
        (packets + dropped, bytes + dropped_bytes) == offered,
        "{offered:?} were sent; {packets} packets and {bytes} bytes passed, {dropped} and \
         {dropped_bytes} did not"
    );
    let (accepted, largest) = match limit {
        Limit::Bits(..) | Limit::Priced(..) => {
            let price = u64::from(price);
            let largest = LENGTHS.into_iter().max().unwrap_or(0) as u64;
            (bytes + price * packets, largest + price)
        }
        Limit::Packets(..) => (packets, 1),
    };
    let most = rate.units_in(u128::from(took_ns)) + burst + largest;
    ensure!(
        accepted <= most,
        "{accepted} units passed in {took_ns} ns, at most {most} may; {sent:?}"
    );
    // From below only while the queue was never empty: not when the offer fell short, or both threads
    // were held up for as long as what was queued lasts. A flow that has had its part is refused over a
    // fourth of what fat packets may wait for, and that is 7/8 of the burst.
    let burst_ns = burst * rate.period_ns / rate.units.max(1);
    let gap_ns = sent[0].gap.min(sent[1].gap).as_nanos();
    let first_refused_ns = u128::from(time.as_millis() as u64) * 1_000_000;
    let judged = dropped > offered.0 / 4 && gap_ns < u128::from(burst_ns / 5);
    if judged {
        let least = rate.units_in(first_refused_ns).saturating_sub(largest);
        ensure!(
            accepted >= least,
            "{accepted} units passed in at least {time:?}, at least {least} must; {sent:?}"
        );
    }
    Ok(judged)
}

/// A port on an interface of its own, and the gate that knows nothing but that.
fn plain_port() -> Result<(u32, Gate)> {
    let plain = place::veth("port0")?;
    let on = Interfaces {
        plain,
        ..Interfaces::ON_PAPER
    };
    let gate = Gate {
        blessed: [plain].into(),
        trusted: [].into(),
        ..ports::gate(&on)
    };
    Ok((plain, gate))
}

fn bounds(mechanism: Mechanism, rounds: u64, time: Duration) -> Result<[u64; 2]> {
    let (plain, gate) = plain_port()?;
    let mut kernel = Kernel::load(gate.clone(), EPOCH, mechanism)?;
    let mut count = [0; 2];
    for _ in 0..rounds {
        for direction in [FROM_TENANT, TO_TENANT] {
            let way = Way {
                direction,
                ifindex: plain,
                ..Way::default()
            };
            for limit in LIMITS {
                let judged = case(&mut kernel, &gate, &way, limit, time)
                    .with_context(|| format!("{mechanism:?}, direction {direction}, {limit:?}"))?;
                count[0] += 1;
                count[1] += u64::from(judged);
            }
        }
    }
    Ok(count)
}

#[test]
fn the_loaded_limiter_keeps_its_bounds_on_two_processors() -> Result<()> {
    const TEST: &str = "the_loaded_limiter_keeps_its_bounds_on_two_processors";
    if !place::can_run(TEST) {
        return Ok(());
    }
    let rounds = dice::cases(1, 5, 50);
    let mut count = [0; 2];
    for mechanism in kernel::mechanisms() {
        let [cases, judged] =
            place::alone(|| bounds(mechanism, rounds, Duration::from_millis(100)))?;
        count[0] += cases;
        count[1] += judged;
    }
    println!("CASES: loaded limiter, upper bound: {}", count[0]);
    println!("CASES: loaded limiter, lower bound: {}", count[1]);
    if count[1] == 0 {
        println!("SKIPPED: {TEST}: lower bound: the threads were held up in every case");
    }
    Ok(())
}
