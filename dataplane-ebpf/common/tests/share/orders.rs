//! Another CPU's packets at every step of one packet.

use crate::harness::Alone;
use dataplane_common::{
    abi::share::{ShareClocks, ShareLine, SharePace, SharePolicy, UplinkPolicy, UplinkShare},
    limit::Times,
    limiter::Clock,
    share::{self, Clocks, Link, ask::Ask},
    units::BitsPerSecond,
};
use std::cell::{Cell, RefCell};

const BYTES: u64 = 1_500;
const CAPACITY: BitsPerSecond = BitsPerSecond(1_000_000_000);

/// What runs when so many steps are done.
type Interrupt<'a> = Box<dyn FnOnce() + 'a>;

/// Counts steps, and lets another CPU in before one of them.
#[derive(Default)]
struct Steps<'a> {
    done: Cell<u32>,
    before: Cell<u32>,
    interrupt: RefCell<Option<Interrupt<'a>>>,
}

impl Steps<'_> {
    fn step(&self) {
        self.done.set(self.done.get() + 1);
        if self.done.get() == self.before.get() {
            let interrupt = self.interrupt.borrow_mut().take();
            if let Some(interrupt) = interrupt {
                interrupt();
            }
        }
    }
}

/// A word, seen by a CPU that may be interrupted at each use.
#[derive(Clone, Copy)]
struct Seen<'a, 's>(&'a Alone, &'a Steps<'s>);

impl Clock for Seen<'_, '_> {
    fn load(&self) -> u64 {
        self.1.step();
        self.0.load()
    }

    fn compare_exchange(&self, old: u64, new: u64) -> u64 {
        self.1.step();
        self.0.compare_exchange(old, new)
    }

    fn fetch_add(&self, units: u64) -> u64 {
        self.1.step();
        self.0.fetch_add(units)
    }
}

/// What both CPUs share.
struct Memory {
    link: [Alone; 6],
    due: [Alone; UplinkShare::SLICES as usize],
    lines: [Cell<ShareLine>; 4],
    clocks: [[Alone; 5]; 2],
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            link: Default::default(),
            due: std::array::from_fn(|_| Alone::default()),
            lines: Default::default(),
            clocks: Default::default(),
        }
    }
}

struct Cpu<'a, 's>(&'a Memory, &'a Steps<'s>);

impl<'a, 's> Link for Cpu<'a, 's> {
    type Word = Seen<'a, 's>;

    fn state(&self) -> Seen<'a, 's> {
        Seen(&self.0.link[0], self.1)
    }

    fn guaranteed(&self) -> Seen<'a, 's> {
        Seen(&self.0.link[1], self.1)
    }

    fn borrowed(&self) -> Seen<'a, 's> {
        Seen(&self.0.link[2], self.1)
    }

    fn refused(&self) -> Seen<'a, 's> {
        Seen(&self.0.link[3], self.1)
    }

    fn limited(&self) -> Seen<'a, 's> {
        Seen(&self.0.link[4], self.1)
    }

    fn early(&self) -> Seen<'a, 's> {
        Seen(&self.0.link[5], self.1)
    }

    fn due(&self, at: u64) -> Seen<'a, 's> {
        Seen(&self.0.due[at as usize], self.1)
    }

    fn pace(&self, at: u64) -> SharePace {
        self.1.step();
        self.0.lines[at as usize].get().pace
    }

    fn counts(&self, at: u64) -> ShareLine {
        self.1.step();
        self.0.lines[at as usize].get()
    }

    fn began_ns(&self, at: u64) -> u64 {
        self.pace(at).origin_ns
    }

    fn set_carried(&self, at: u64, carried: u64) {
        self.1.step();
        let mut line = self.0.lines[at as usize].get();
        line.pace.carried = carried;
        self.0.lines[at as usize].set(line);
    }

    fn set_pace(&self, at: u64, pace: &SharePace) {
        self.1.step();
        let line = self.0.lines[at as usize].get();
        let carried = line.pace.carried;
        let pace = SharePace { carried, ..*pace };
        self.0.lines[at as usize].set(ShareLine { pace, ..line });
    }

    fn set_counts(&self, at: u64, line: &ShareLine) {
        self.1.step();
        let pace = self.0.lines[at as usize].get().pace;
        self.0.lines[at as usize].set(ShareLine { pace, ..*line });
    }
}

/// One packet of a tenant; returns whether it passed.
fn offer(
    cpu: &Cpu<'_, '_>,
    uplink: &UplinkPolicy,
    tenant: (usize, &SharePolicy),
    now_ns: u64,
) -> bool {
    let [ceiling, guarantee, borrowed, limited, departs] = &cpu.0.clocks[tenant.0];
    let seen = |word| Seen(word, cpu.1);
    let clocks = Clocks {
        ceiling: seen(ceiling),
        guarantee: seen(guarantee),
        borrowed: seen(borrowed),
        limited: seen(limited),
        departs: seen(departs),
    };
    share::renew(uplink, cpu, now_ns);
    let fat = now_ns.is_multiple_of(2);
    share::take_of((tenant.1, &clocks), (uplink, cpu), now_ns, (1, BYTES), fat).is_ok()
}

fn policies(now_ns: u64, horizon_ns: u64) -> [SharePolicy; 2] {
    let times = Times {
        now_ns,
        switch_ns: now_ns,
        coarse_slack_ns: 0,
    };
    let ask = |guarantee, ceiling| Ask {
        guarantee,
        ceiling,
        weight: 3,
        uplink: 0,
        horizon_ns,
        price: 0,
    };
    [
        ask(Some(BitsPerSecond(8_000_000)), None),
        ask(None, Some((BitsPerSecond(80_000_000), 100 * BYTES))),
    ]
    .map(|ask| SharePolicy::new(&ask, None, &ShareClocks::default(), &times))
}

/// A link whose α is `capacity / 8`, whose period ends before the next packet if that is `due`.
fn memory(uplink: &UplinkPolicy, now_ns: u64, due: bool) -> Memory {
    let memory = Memory::default();
    let age_ns = uplink.period_ns / 2 + if due { uplink.period_ns } else { 0 };
    let mut line = ShareLine::default();
    line.pace.origin_ns = now_ns - age_ns;
    line.pace.alpha = uplink.rate / 8;
    // It was behind then, and has caught up since.
    line.pace.carried = 100_000_u64.wrapping_neg();
    line.pace.reach = (4 * BYTES) << share::UNIT_SHIFT;
    memory.lines[0].set(line);
    memory
}

/// Interrupts CPU 0's packet before its step `at` by packets of CPU 1; returns the steps that it took.
fn interrupt(
    at: u32,
    (first, second): (usize, usize),
    packets: usize,
    (due, queued): (bool, bool),
) -> u32 {
    let mut uplink = UplinkPolicy::new(CAPACITY, (0, 0), 2);
    if queued {
        uplink = uplink.queued(CAPACITY, BitsPerSecond(8_000_000));
    }
    uplink.packet_min = 0;
    let now_ns = 1 << 40;
    let policies = policies(now_ns, uplink.horizon_ns);
    let memory = memory(&uplink, now_ns, due);
    let before = memory.lines[0].get().pace;
    let passed = Cell::new(0_u64);
    let other = Steps::default();
    let cpu1 = Cpu(&memory, &other);
    let steps = Steps::default();
    steps.before.set(at);
    *steps.interrupt.borrow_mut() = Some(Box::new(|| {
        for _ in 0..packets {
            let did = offer(&cpu1, &uplink, (second, &policies[second]), now_ns + 1);
            passed.set(passed.get() + u64::from(did));
        }
    }));
    let did = offer(
        &Cpu(&memory, &steps),
        &uplink,
        (first, &policies[first]),
        now_ns,
    );
    let passed = passed.get() + u64::from(did);
    let what = format!(
        "step {at}, tenants {first} and {second}, {packets} packets, due {due}, queued {queued}"
    );

    let [state, guaranteed, borrowed, _, limited, _] = &memory.link;
    let sums = guaranteed.0.get() + borrowed.0.get();
    assert_eq!(sums, passed * BYTES, "{what}: what passed is counted once");
    assert_eq!(
        state.0.get(),
        if due { 2 } else { 0 },
        "{what}: one period, and published"
    );
    let period = state.0.get() >> 1;
    let now = memory.lines[(period % UplinkShare::LINES) as usize]
        .get()
        .pace;
    assert!(
        !due || now.carried <= sums,
        "{what}: idle time is not saved up"
    );
    let went_on = before.integral_at(now.origin_ns).0;
    assert!(
        !due || now.integral == went_on,
        "{what}: a corner, not a step"
    );
    assert!(limited.0.get() <= 6, "{what}: each weight once a period");
    // Nobody had used anything: what is borrowed is the horizon, and a packet for each CPU.
    let horizon = (before.reach.max(now.reach) * 3) >> share::UNIT_SHIFT;
    assert!(
        borrowed.0.get() <= 2 * (horizon + 2 * BYTES),
        "{what}: {}",
        borrowed.0.get()
    );
    let burst_ns = uplink.horizon_ns.max(8_000_000);
    let guarantee = burst_ns / 1_000 + 2 * BYTES;
    assert!(
        guaranteed.0.get() <= guarantee,
        "{what}: {}",
        guaranteed.0.get()
    );
    // What the ceiling's clock holds is what passed: refused packets were given back.
    let ceiling = memory.clocks[1][0].0.get();
    let second_only = first == 1 && second == 1;
    assert!(
        !second_only || ceiling == passed * BYTES,
        "{what}: {ceiling} on the ceiling"
    );
    steps.done.get()
}

#[test]
fn another_cpu_at_every_step_changes_no_sum() {
    let mut orders = 0;
    for tenants in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for packets in [1, 3, 40] {
            for how in [(false, false), (true, false), (false, true), (true, true)] {
                let mut at = 1;
                while at <= interrupt(at, tenants, packets, how) {
                    (at, orders) = (at + 1, orders + 1);
                }
            }
        }
    }
    println!("CASES: share orders: {orders}");
    assert!(orders > 200, "only {orders}");
}
