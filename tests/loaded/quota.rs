//! A budget in the loaded programs: spent by two processors in both directions, to the byte what the registers have; then
//! the slower rate or nothing; raised, cut and late under the same traffic.

use crate::{EPOCH, LENGTHS, dice, frame, kernel, now_ns, pin, place, plain_port};
use crate::{
    fixtures::ports::slot,
    kernel::Kernel,
    oracle::host::{Gate, Way},
};
use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use dataplane::{
    attach::Mechanism,
    cut, host,
    maps::{Maps, Raw},
};
use dataplane_common::{
    abi::{
        Epoch, FROM_TENANT, LimitPolicy, TO_TENANT,
        quota::{QuotaCounts, QuotaPolicy, quota_index},
    },
    limit::{Rate, Times},
    reason::DropReason,
    units::BitsPerSecond,
};
use dice::Dice;
use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// The tenant's account: not that of anything else here.
const ACCOUNT: u32 = 3;
/// A slower rate and its burst.
const SLOWER: (u64, u64) = (2_000_000, 20_000);

/// Programs of both directions, and their tables.
struct Port {
    object: Ebpf,
    names: [&'static str; 2],
    plain: u32,
    table: Table,
}

struct Table {
    maps: Maps,
    gate: Gate,
    epoch: Epoch,
}

fn quota(threshold: u64) -> QuotaPolicy {
    QuotaPolicy {
        threshold,
        budget: threshold,
        zones: u64::MAX,
        directions: QuotaPolicy::FROM | QuotaPolicy::TO,
        ..QuotaPolicy::default()
    }
}

fn slower() -> LimitPolicy {
    let now_ns = now_ns();
    let times = Times {
        now_ns,
        switch_ns: now_ns,
        coarse_slack_ns: host::coarse_slack_ns(),
    };
    LimitPolicy::begin(Rate::bytes(BitsPerSecond(SLOWER.0)), SLOWER.1, 0, &times)
}

impl Port {
    fn new(mechanism: Mechanism) -> Result<Self> {
        let (plain, gate) = plain_port()?;
        let mut kernel = Kernel::load(gate.clone(), EPOCH, mechanism)?;
        let mut policy = gate.ports.get(&slot::PLAIN).context("no such port")?.policy;
        policy.quota = 1 + ACCOUNT;
        for set in [0, 1] {
            let at = gate.sizes.port(set, slot::PLAIN);
            kernel.maps.ports.set(at, policy)?;
        }
        let names = [FROM_TENANT, TO_TENANT].map(|direction| kernel.name(direction));
        let Kernel { object, maps, .. } = kernel;
        Ok(Self {
            object,
            names,
            plain,
            table: Table {
                maps,
                gate,
                epoch: EPOCH,
            },
        })
    }

    /// Both directions send, each on a processor of its own, while `meanwhile` runs; returns the bytes.
    fn while_sending(&mut self, meanwhile: impl FnOnce(&mut Table) -> Result<()>) -> Result<u64> {
        let stop = AtomicBool::new(false);
        let plain = self.plain;
        let ways = [FROM_TENANT, TO_TENANT].map(|direction| Way {
            direction,
            ifindex: plain,
            ..Way::default()
        });
        let (object, table) = (&self.object, &mut self.table);
        let program = |name: &'static str| -> Result<&SchedClassifier> {
            Ok(object.program(name).context(name)?.try_into()?)
        };
        let programs = [program(self.names[0])?, program(self.names[1])?];
        thread::scope(|scope| {
            let (stop, programs, ways) = (&stop, &programs, &ways);
            let threads = [0, 1].map(|number| {
                scope.spawn(move || {
                    pin(number);
                    send(programs[number], &ways[number], number, stop)
                })
            });
            let done = meanwhile(table);
            stop.store(true, Relaxed);
            let mut sent = 0;
            for thread in threads {
                sent += thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            }
            done.map(|()| sent)
        })
    }
}

impl Table {
    /// Writes the budget beside the one that is in force, and puts it there.
    fn put(&mut self, quota: QuotaPolicy) -> Result<()> {
        let next = Epoch::new(self.epoch.revision() + 1, self.epoch.window());
        let at = quota_index(self.gate.sizes.slots, next.policy_set(), ACCOUNT);
        self.maps.quotas.set(at, Raw(quota), 0)?;
        self.publish(next)
    }

    fn publish(&mut self, epoch: Epoch) -> Result<()> {
        self.maps.epoch.set(0, epoch.0, 0)?;
        cut::barrier(&mut self.maps)?;
        self.epoch = epoch;
        Ok(())
    }

    fn counts(&self) -> Result<QuotaCounts> {
        Ok(self.maps.quota_counts.get(&ACCOUNT, 0)?.0)
    }

    /// Layer-2 bytes by bank that the registers have as delivered; drops by the budget, and all others.
    fn booked(&self) -> Result<([u64; 2], u64, u64)> {
        let (mut delivered, mut spent, mut others) = ([0; 2], 0, 0);
        for bank in [0, 1] {
            let sealed = cut::Sealed {
                window: bank,
                bank,
                barrier: Duration::ZERO,
            };
            let sides = sealed.read(&self.maps, &self.gate.sizes, &[slot::PLAIN])?;
            for side in sides.iter().flatten() {
                let zones = side.zones.iter();
                delivered[bank as usize] += zones.map(|zone| zone.l2_bytes).sum::<u64>();
                for (number, drops) in side.drops.iter().enumerate() {
                    match number == DropReason::QuotaSpent as usize {
                        true => spent += drops.l2_bytes,
                        false => others += drops.l2_bytes,
                    }
                }
            }
        }
        Ok((delivered, spent, others))
    }

    /// What is counted is what was delivered, bank by bank, and nothing else was dropped.
    fn agrees(&self, sent: u64) -> Result<QuotaCounts> {
        let counts = self.counts()?;
        let (delivered, spent, others) = self.booked()?;
        let counted = [0, 1].map(|bank| counts.within[bank] + counts.beyond[bank]);
        ensure!(
            counted == delivered && others == 0 && delivered[0] + delivered[1] + spent == sent,
            "{counts:?}; {delivered:?} delivered, {spent} and {others} dropped of {sent} sent"
        );
        Ok(counts)
    }
}

/// One processor sends in one direction until it is told to stop; returns the bytes.
fn send(program: &SchedClassifier, way: &Way, first: usize, stop: &AtomicBool) -> Result<u64> {
    let frames = LENGTHS.map(|len| frame(way.direction, len));
    let context = kernel::context(way);
    let mut sent = 0;
    for number in first.. {
        if stop.load(Relaxed) {
            break;
        }
        let bytes = &frames[number % frames.len()];
        program.test_run(TestRunOptions {
            data_in: Some(bytes),
            ctx_in: Some(&context),
            repeat: 4,
            ..TestRunOptions::default()
        })?;
        sent += 4 * bytes.len() as u64;
    }
    Ok(sent)
}

/// Waits until something holds, 20 s at most: other machines' work may hold threads up.
fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !holds()? {
        ensure!(begun.elapsed() < Duration::from_secs(20), "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

const LARGEST: u64 = 3_000;

fn case(mechanism: Mechanism, dice: &mut Dice) -> Result<u64> {
    let mut port = Port::new(mechanism)?;
    let budget = 1 + dice.below(3_000_000) as u64;
    port.table.put(quota(budget))?;
    let refused = |table: &Table| Ok(table.booked()?.1 > 0);
    let spent = |counts: &QuotaCounts| counts.within[0] + counts.within[1];
    let ends = |counts: &QuotaCounts, at: u64| {
        let over = spent(counts).checked_sub(at);
        over.is_some_and(|over| over < LARGEST)
    };
    // Spent, and then nothing.
    let mut sent = port.while_sending(|table| until("the budget is spent", || refused(table)))?;
    let counts = port.table.agrees(sent)?;
    ensure!(ends(&counts, budget), "{counts:?} of {budget}");
    // Raised under traffic, with a cut in between: what comes after it is in the other bank.
    let raised = budget + 2_000_000 + dice.below(1_000_000) as u64;
    let before = counts.within;
    sent += port.while_sending(|table| {
        table.put(quota(raised))?;
        until("half of it is spent", || {
            Ok(spent(&table.counts()?) > (budget + raised) / 2 || spent(&table.counts()?) > raised)
        })?;
        let epoch = table.epoch;
        table.publish(Epoch::new(epoch.revision(), epoch.window() + 1))?;
        // Sealed: nobody writes it any more.
        let sealed = table.counts()?.within[epoch.bank() as usize];
        until("the raised budget is spent", || {
            Ok(spent(&table.counts()?) >= raised)
        })?;
        let now = table.counts()?.within[epoch.bank() as usize];
        ensure!(now == sealed, "a sealed word moved: {sealed}, {now}");
        Ok(())
    })?;
    let counts = port.table.agrees(sent)?;
    // Where the cut and the end came together, one packet of each processor.
    let over = spent(&counts) - raised;
    ensure!(over < 2 * LARGEST, "{counts:?} of {raised}");
    ensure!(counts.within[0] >= before[0] && counts.within[1] >= before[1]);
    // A slower rate: no drop that its burst and its rate do not explain.
    let had = spent(&counts);
    let slow = QuotaPolicy {
        then: [slower(), slower()],
        ..quota(raised)
    };
    let begun_ns = now_ns();
    port.table.put(slow)?;
    sent += port.while_sending(|table| {
        until("something passes beyond it", || {
            Ok(table.counts()?.beyond.iter().sum::<u64>() > 4 * SLOWER.1)
        })
    })?;
    let took_ns = u128::from(now_ns() - begun_ns);
    let counts = port.table.agrees(sent)?;
    let beyond: u64 = counts.beyond.iter().sum();
    let most = 2 * (Rate::bytes(BitsPerSecond(SLOWER.0)).units_in(took_ns) + SLOWER.1 + LARGEST);
    ensure!(
        beyond <= most && spent(&counts) == had,
        "{beyond} bytes passed beyond it, at most {most} may; {had} before, {counts:?}"
    );
    // Nobody wrote the next period's threshold: one more budget, to the byte.
    let late = QuotaPolicy {
        budget: 500_000,
        until_ns: now_ns(),
        period_ns: 3_600_000_000_000,
        ..quota(had)
    };
    let late = QuotaPolicy {
        then: Default::default(),
        ..late
    };
    port.table.put(late)?;
    sent += port.while_sending(|table| {
        until("the next period's budget is spent", || {
            Ok(spent(&table.counts()?) >= had + 500_000)
        })
    })?;
    let counts = port.table.agrees(sent)?;
    ensure!(
        ends(&counts, had + 500_000),
        "{counts:?} of {}",
        had + 500_000
    );
    // What does not count passes whatever was spent.
    let other = QuotaPolicy {
        directions: QuotaPolicy::TO,
        ..quota(0)
    };
    port.table.put(other)?;
    let before = port.table.booked()?;
    sent += port.while_sending(|table| {
        until("one direction passes and the other does not", || {
            let now = table.booked()?;
            let gained = (now.0[0] + now.0[1]) - (before.0[0] + before.0[1]);
            Ok(gained > 100_000 && now.1 > before.1 + 100_000)
        })
    })?;
    let now = port.table.booked()?;
    ensure!(
        now.0[0] + now.0[1] + now.1 == sent && port.table.counts()?.within == counts.within,
        "what does not count was counted"
    );
    Ok(6)
}

#[test]
fn a_budget_is_spent_to_the_byte_by_two_processors() -> Result<()> {
    const TEST: &str = "a_budget_is_spent_to_the_byte_by_two_processors";
    if !place::can_run(TEST) {
        return Ok(());
    }
    let rounds = dice::cases(2, 20, 200);
    let mut cases = 0;
    for mechanism in kernel::mechanisms() {
        for round in 0..rounds {
            cases += place::alone(|| case(mechanism, &mut Dice::new(42, round)))
                .with_context(|| format!("{mechanism:?}, round {round}"))?;
        }
    }
    println!("CASES: budgets in the loaded programs: {cases}");
    Ok(())
}
