//! The price of a packet in the loaded programs: every clock that a frame is booked on, by the unit, beside what the host's build
//! of the law says of the same trace; and the registers, which know of no price.

use crate::{EPOCH, dice, kernel, now_ns, place, plain_port};
use crate::{fixtures::ports::slot, kernel::Kernel, oracle::host::Way, thin::frame};
use anyhow::{Context as _, Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions};
use dataplane::{attach::Mechanism, maps::Raw};
use dataplane_common::{
    abi::{
        LimitPolicy, PortPolicy, Sizes, TO_TENANT,
        share::{
            ShareClocks, SharePolicy, UplinkPolicy, UplinkShare, share_clocks_index, share_index,
            uplink_index, uplink_share_index,
        },
    },
    fair,
    limit::{PRICE_MAX, Rate, Times},
    limiter::{At, Decision},
    share::ask::Ask,
    units::BitsPerSecond,
};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// `TC_ACT_SHOT`.
const DROP: u32 = 2;
/// Eight bytes a second: in the time of a trace, and of a busy machine's loading, the line moves by less than [`LINE`].
const RATE: BitsPerSecond = BitsPerSecond(64);
/// Units.
const LINE: u64 = 1_000;
const OVERHEAD: u16 = 24;
const LENGTHS: [usize; 4] = [60, 61, 590, 1_514];

/// A port, loaded, and how to send to it.
struct Rig {
    kernel: Kernel,
    policy: PortPolicy,
    way: Way,
    sizes: Sizes,
}

impl Rig {
    /// A port to whose tenant frames are sent.
    fn new(mechanism: Mechanism) -> Result<Self> {
        let (plain, gate) = plain_port()?;
        let sizes = gate.sizes;
        let policy = gate.ports.get(&slot::PLAIN).context("no such port")?.policy;
        let way = Way {
            direction: TO_TENANT,
            ifindex: plain,
            ..Way::default()
        };
        Ok(Self {
            kernel: Kernel::load(gate, EPOCH, mechanism)?,
            policy,
            way,
            sizes,
        })
    }

    /// Begins anew with this ceiling, all clocks at 0; `share`: the tenant shares an uplink.
    fn begin(&mut self, limit: LimitPolicy, share: bool) -> Result<()> {
        self.policy
            .set_limits(TO_TENANT, [limit, LimitPolicy::default()]);
        self.policy.share = u32::from(share);
        let maps = &mut self.kernel.maps;
        let at = self.sizes.port(EPOCH.policy_set(), slot::PLAIN);
        maps.ports.set(at, self.policy)?;
        let clock = self.sizes.clock(slot::PLAIN, TO_TENANT, 0);
        maps.clocks.set(clock, 0, 0)?;
        let clocks = share_clocks_index(0, TO_TENANT);
        maps.share_clocks.set(clocks, ShareClocks::default())?;
        Ok(())
    }

    /// True when the frame passed.
    fn send(&mut self, frame: &[u8]) -> Result<bool> {
        let context = kernel::context(&self.way);
        let ran = self.kernel.program(TO_TENANT)?.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        })?;
        Ok(ran.return_value != DROP)
    }

    /// The clock of the port's ceiling.
    fn ceiling(&self) -> Result<u64> {
        let at = self.sizes.clock(slot::PLAIN, TO_TENANT, 0);
        Ok(self.kernel.maps.clocks.get(&at, 0)?)
    }

    fn shared(&self) -> Result<(ShareClocks, UplinkShare)> {
        let maps = &self.kernel.maps;
        let clocks = maps.share_clocks.get(share_clocks_index(0, TO_TENANT))?;
        let link = maps
            .uplink_share
            .get(&uplink_share_index(0, TO_TENANT), 0)?;
        Ok((clocks, link.0))
    }

    /// Layer-2 bytes that stand in the port's registers as delivered.
    fn billed(&self) -> Result<u64> {
        let bank = &self.kernel.booked(EPOCH.bank(), slot::PLAIN)?[TO_TENANT as usize];
        Ok(bank.zones.iter().map(|counts| counts.l2_bytes).sum())
    }
}

fn times() -> Times {
    let now_ns = now_ns();
    Times {
        now_ns,
        switch_ns: now_ns,
        coarse_slack_ns: 0,
    }
}

/// One trace at a port's ceiling: every frame beside the host's build. Returns the frames.
fn ceiling(rig: &mut Rig, price: u32, seed: u64) -> Result<u64> {
    let times = times();
    let burst = 20 * (1_514 + u64::from(price));
    let limit = LimitPolicy::begin(Rate::bytes(RATE), burst, 0, &times).priced(price);
    rig.begin(limit, false)?;
    let billed_before = rig.billed()?;
    let (host, still) = (AtomicU64::new(0), At(times.now_ns));
    let mut dice = dice::Dice::new(0, seed);
    let (mut billed, mut passed, mut refused, mut sent) = (0, 0, 0, 0);
    while refused < 20 && sent < 1_000 {
        let len = dice.pick(&LENGTHS);
        // Now of one flow, now each of its own: fat and thin.
        let port = if dice.below(2) == 0 {
            7
        } else {
            1_000 + sent as u16
        };
        let before = rig.ceiling()?;
        let did = rig.send(&frame(17, port, len))?;
        let after = rig.ceiling()?;
        sent += 1;
        let units = limit.charge(len as u64);
        ensure!(units == len as u64 + u64::from(price), "{units}");
        if did {
            billed += len as u64;
            passed += 1;
            // Where the queue is empty the line has moved a little.
            let took = after - before;
            ensure!(
                took >= units && took <= units + LINE,
                "{took} units for {len} bytes at {price}"
            );
            let decided = limit.take(&&host, &still, units);
            let passes = matches!(decided, Decision::Pass { .. });
            ensure!(
                passes || host.load(SeqCst) <= limit.horizon + LINE,
                "the host's build refuses what the program lets pass"
            );
            if !passes {
                // Its time stands still, and the program's does not.
                host.fetch_add(units, SeqCst);
            }
        } else {
            ensure!(after == before, "a refused frame was booked");
            // What is thin is refused last, and who has had its part before all others.
            let backlog = host.load(SeqCst) + LINE;
            refused += u64::from(backlog > limit.horizon_fat());
            ensure!(
                backlog > limit.horizon_fat() / fair::REFUSED_PART,
                "refused at {backlog} of {} units",
                limit.horizon
            );
        }
        let (own, other) = (rig.ceiling()?, host.load(SeqCst));
        ensure!(
            own.wrapping_sub(other) <= LINE,
            "{own} units on the program's clock, {other} on the host's"
        );
    }
    ensure!(refused == 20, "{passed} of {sent} frames passed");
    let stands = rig.billed()? - billed_before;
    ensure!(stands == billed, "{stands} bytes billed, not {billed}");
    Ok(sent)
}

/// The same at a guarantee of an uplink, with nothing beside it, under a port's ceiling that is far away: what the share
/// refuses is given back there, with its price.
fn share(rig: &mut Rig, price: u32, seed: u64) -> Result<u64> {
    let times = times();
    let far = LimitPolicy::begin(Rate::bytes(RATE), 1 << 40, 0, &times).priced(price);
    rig.begin(far, true)?;
    let billed_before = rig.billed()?;
    let (set, slots) = (EPOCH.policy_set(), rig.sizes.slots);
    let mut uplink = UplinkPolicy::new(BitsPerSecond(1_000_000), (OVERHEAD, price), 1);
    // α stays as it is, 0.
    uplink.period_ns = 1 << 60;
    let ask = Ask {
        guarantee: Some(RATE),
        ceiling: Some((RATE, 1 << 40)),
        weight: 1,
        uplink: 0,
        horizon_ns: 0,
        price,
    };
    let mut share = SharePolicy::new(&ask, None, &ShareClocks::default(), &times);
    // Twenty full frames at once.
    share.guarantee.horizon = 20 * (1_514 + u64::from(price));
    let maps = &mut rig.kernel.maps;
    maps.shares
        .set(share_index(slots, set, 0, TO_TENANT), share)?;
    maps.uplinks
        .set(uplink_index(set, 0, TO_TENANT), Raw(uplink), 0)?;
    let mut words = UplinkShare::default();
    words.lines[0].pace.origin_ns = times.now_ns;
    maps.uplink_share
        .set(uplink_share_index(0, TO_TENANT), Raw(words), 0)?;
    let mut dice = dice::Dice::new(0, seed);
    let (mut billed, mut ceilings, mut guaranteed, mut refused, mut sent) = (0, 0, 0, 0, 0);
    // The first frame may be borrowed: its horizon is 0, and so is what was borrowed.
    while refused < 20 && sent < 1_000 {
        let len = dice.pick(&LENGTHS) as u64;
        let (before, link_before) = rig.shared()?;
        let did = rig.send(&frame(17, 7, len as usize))?;
        let (after, link) = rig.shared()?;
        sent += 1;
        let units = uplink.charge(1, len);
        ensure!(
            units == len.max(60) + u64::from(OVERHEAD) + u64::from(price),
            "{units}"
        );
        let passed =
            link.guaranteed + link.borrowed - link_before.guaranteed - link_before.borrowed;
        if did {
            billed += len;
            ensure!(
                passed == units,
                "{passed} units of the link for {len} bytes"
            );
            if link.borrowed == link_before.borrowed {
                let took = after.guarantee - before.guarantee;
                ensure!(
                    took >= units && took <= units + LINE,
                    "{took} units of the guarantee, not {units}"
                );
                guaranteed += 1;
            }
            ceilings += len + u64::from(price);
        } else {
            refused += 1;
            ensure!(passed == 0 && after.guarantee == before.guarantee);
        }
        // Both ceilings have what passed, and nothing of what was refused.
        for (what, stands) in [("tenant's", after.ceiling), ("port's", rig.ceiling()?)] {
            ensure!(
                stands.wrapping_sub(ceilings) <= LINE,
                "{stands} units on the {what} ceiling, not {ceilings}"
            );
        }
    }
    ensure!(refused == 20 && guaranteed >= 20, "{guaranteed} of {sent}");
    let stands = rig.billed()? - billed_before;
    ensure!(stands == billed, "{stands} bytes billed, not {billed}");
    Ok(sent)
}

#[test]
fn a_packet_pays_its_price_on_every_clock_and_in_no_register() -> Result<()> {
    const TEST: &str = "a_packet_pays_its_price_on_every_clock_and_in_no_register";
    if !place::can_run(TEST) {
        return Ok(());
    }
    let mut frames = 0;
    for mechanism in kernel::mechanisms() {
        frames += place::alone(|| {
            let mut rig = Rig::new(mechanism)?;
            let mut frames = 0;
            for seed in 0..dice::cases(1, 3, 30) {
                for price in [0, 1, 1_500, PRICE_MAX] {
                    let of =
                        |what: &str| format!("{mechanism:?}, price {price}, {what}, seed {seed}");
                    frames += ceiling(&mut rig, price, seed).with_context(|| of("ceiling"))?;
                    frames += share(&mut rig, price, seed).with_context(|| of("share"))?;
                }
            }
            Ok(frames)
        })?;
    }
    println!("CASES: frames that paid a price in the loaded programs: {frames}");
    Ok(())
}
