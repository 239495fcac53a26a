//! Floods at an uplink while windows are cut.

use crate::{
    dice,
    fixtures::ports::{self, Interfaces, slot},
    limit, now_ns,
    oracle::people,
    place, write_owners,
};
use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::Array,
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use dataplane::{
    cut::{self, Barrier},
    maps::Maps,
    object::{self, Plan},
};
use dataplane_common::{
    abi::{BLOCK, Epoch, LimitPolicy, Sizes, TO_TENANT},
    flood::{PACKETS, SURPLUS_CLOCKS},
    reason::DropReason,
};
use octroi::lab::traffic::pin;
use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// Windows that are cut, at least.
const CUTS_MIN: u64 = 10;

/// A port whose limit is at its end, and its surplus too: all that comes for it ends at the uplink.
struct Flooded {
    object: Ebpf,
    maps: Maps,
    sizes: Sizes,
}

impl Flooded {
    fn new() -> Result<Self> {
        let gate = ports::gate(&Interfaces::ON_PAPER);
        let plan = Plan {
            sizes: gate.sizes,
            zone_prefixes: 64,
            overflow: 64,
            // So that a program is nearly always between the epoch and its booking when a window is closed.
            test_linger: 4_096,
            ..Plan::new(1, gate.sizes.zones)
        };
        let mut object = object::load(&plan, None)?;
        let program: &mut Xdp = object.program_mut("uplink").context("uplink")?.try_into()?;
        program.load()?;
        let mut maps = Maps::take(&mut object)?;
        let mut surplus: Array<_, u64> = object
            .take_map("SURPLUS")
            .context("no SURPLUS")?
            .try_into()?;
        let limit = limit(1, now_ns());
        let full = limit.horizon + 1_000_000;
        for set in [0, 1] {
            write_owners(&mut maps, set)?;
            let mut policy = gate.ports.get(&slot::PLAIN).context("no port")?.policy;
            policy.set_limits(TO_TENANT, [LimitPolicy::default(), limit]);
            let at = gate.sizes.port(set, slot::PLAIN);
            maps.ports.set(at, policy)?;
        }
        let at = gate.sizes.clock(slot::PLAIN, TO_TENANT, 1);
        maps.clocks.set(at, full, 0)?;
        surplus.set(slot::PLAIN * SURPLUS_CLOCKS + PACKETS, full, 0)?;
        maps.epoch.set(0, Epoch::new(2, 0).0, 0)?;
        Ok(Self {
            object,
            maps,
            sizes: gate.sizes,
        })
    }

    /// Cuts windows for `time`, or until something came behind one, while a processor floods. Cuts, frames, and how many
    /// came behind.
    fn run(&mut self, barrier: Barrier, time: Duration) -> Result<(u64, u64, u64)> {
        let stop = AtomicBool::new(false);
        let (maps, sizes) = (&mut self.maps, &self.sizes);
        let program: &Xdp = self
            .object
            .program("uplink")
            .context("uplink")?
            .try_into()?;
        let (from, to) = (people::GATEWAY4, people::OWN4);
        let frame = octroi::lab::frames::udp4(people::GATEWAY, people::OWN, from, to, 18);
        thread::scope(|scope| {
            let (stop, frame) = (&stop, &frame);
            // Each on a processor of its own: on one, the kernel lets the program end before it lets the window be cut.
            pin(0);
            let sender = scope.spawn(move || -> Result<u64> {
                pin(1);
                let mut sent = 0;
                while !stop.load(Relaxed) {
                    program.test_run(TestRunOptions {
                        data_in: Some(frame),
                        repeat: 16,
                        ..TestRunOptions::default()
                    })?;
                    sent += 16;
                }
                Ok(sent)
            });
            let mut cuts = || -> Result<(u64, u64)> {
                let begun = Instant::now();
                let (mut cuts, mut behind) = (0, 0);
                // An emulated machine makes few in that time.
                while (begun.elapsed() < time || cuts < CUTS_MIN) && behind == 0 {
                    let sealed = cut::cut(maps, barrier)?;
                    let first = ended(maps, sizes, sealed.bank)?;
                    thread::sleep(Duration::from_millis(1));
                    behind = ended(maps, sizes, sealed.bank)? - first;
                    cuts += 1;
                }
                Ok((cuts, behind))
            };
            let done = cuts();
            stop.store(true, Relaxed);
            let sent = sender
                .join()
                .map_err(|_| anyhow::anyhow!("the sender panicked"))??;
            let (cuts, behind) = done?;
            Ok((cuts, sent, behind))
        })
    }
}

/// Frames that ended, by one bank: one call, so that it is read as soon as the window is closed.
fn ended(maps: &Maps, sizes: &Sizes, bank: u32) -> Result<u64> {
    let reason = DropReason::FloodPackets as u32;
    let number = sizes.drops(bank, slot::PLAIN, TO_TENANT, reason);
    let copies = maps.drops.get(&(number / BLOCK), 0)?;
    let within = (number % BLOCK) as usize;
    Ok(copies.iter().map(|copy| copy.0[within].packets).sum())
}

#[test]
fn no_flood_is_booked_behind_a_cut_and_without_its_barrier_some_is() -> Result<()> {
    const TEST: &str = "no_flood_is_booked_behind_a_cut_and_without_its_barrier_some_is";
    if !place::can_run(TEST) {
        return Ok(());
    }
    let time = Duration::from_secs(dice::cases(1, 3, 30));
    let (cuts, frames) = place::alone(|| {
        let mut flooded = Flooded::new()?;
        let (cuts, sent, behind) = flooded.run(Barrier::Wait, time)?;
        ensure!(behind == 0, "{behind} of {sent} frames came behind a cut");
        let all =
            ended(&flooded.maps, &flooded.sizes, 0)? + ended(&flooded.maps, &flooded.sizes, 1)?;
        ensure!(all == sent, "{sent} frames ended, {all} are booked");
        ensure!(cuts >= CUTS_MIN && sent > 0, "{cuts} cuts, {sent} frames");
        // The test would see it, where a program can run while this thread does.
        if thread::available_parallelism()?.get() == 1 {
            println!("SKIPPED: {TEST}: one processor: nothing comes behind a cut here");
            return Ok((cuts, sent));
        }
        let (cuts_without, _, behind) = flooded.run(Barrier::Skip, Duration::from_secs(60))?;
        ensure!(
            behind > 0,
            "{cuts_without} cuts without a barrier, and nothing came behind"
        );
        Ok((cuts, sent))
    })?;
    println!("CASES: cuts in a flood: {cuts}, frames: {frames}");
    Ok(())
}
