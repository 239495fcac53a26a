//! Every order in which a few CPUs can go through [`Limit::thin`].
//!
//! As in `tests/limiter/replay.rs`: a CPU in the middle of a packet is the list of answers that its steps got; to go on,
//! it runs again from the beginning.

use super::*;
use dataplane_common::limiter::Clock;
use std::cell::Cell;

#[derive(Clone, Copy, Debug)]
enum Step {
    Load(u32, u32),
    Store(u32, u32, u32),
    Look,
    Swap(u64, u64),
}

struct Playback<'a> {
    answers: &'a [u64],
    used: Cell<usize>,
    open: Cell<Option<Step>>,
}

impl Playback<'_> {
    fn ask(&self, step: Step) -> u64 {
        let index = self.used.replace(self.used.get() + 1);
        self.answers.get(index).copied().unwrap_or_else(|| {
            self.open.set(self.open.get().or(Some(step)));
            0
        })
    }
}

impl Cells for Playback<'_> {
    fn load(&self, row: u32, cell: u32) -> u32 {
        self.ask(Step::Load(row, cell)) as u32
    }

    fn store(&self, row: u32, cell: u32, clock: u32) {
        self.ask(Step::Store(row, cell, clock));
    }
}

impl Clock for Playback<'_> {
    fn load(&self) -> u64 {
        self.ask(Step::Look)
    }

    fn compare_exchange(&self, old: u64, new: u64) -> u64 {
        self.ask(Step::Swap(old, new))
    }

    fn fetch_add(&self, _: u64) -> u64 {
        unreachable!("no thin packet is added blindly")
    }
}

#[derive(Clone, Debug, Default)]
struct World {
    cells: [[u32; 4]; 2],
    together: u64,
    /// Packets that each CPU has found thin.
    thin: Vec<u32>,
}

/// A CPU: packets left, and the answers that the one it is at has got.
#[derive(Clone, Debug)]
struct Cpu {
    packets: u32,
    place: Place,
    answers: Vec<u64>,
}

/// Runs the packet that `cpu` is at from its beginning: its next step, or none, and what came of it.
fn run(limit: &Limit, size: u64, cpu: &Cpu) -> (Option<Step>, bool) {
    let playback = Playback {
        answers: &cpu.answers,
        used: Cell::new(0),
        open: Cell::new(None),
    };
    let thin = limit.thin(&playback, &playback, cpu.place, size);
    (playback.open.get(), thin)
}

fn answer(world: &mut World, step: Step) -> u64 {
    match step {
        Step::Load(row, cell) => world.cells[row as usize][cell as usize].into(),
        Step::Store(row, cell, clock) => {
            world.cells[row as usize][cell as usize] = clock;
            0
        }
        Step::Look => world.together,
        Step::Swap(old, new) => {
            let was = world.together;
            if was == old {
                world.together = new;
            }
            was
        }
    }
}

fn explore(limit: &Limit, size: u64, world: &World, cpus: &[Cpu], ended: &mut impl FnMut(&World)) {
    let busy: Vec<(usize, Step)> = cpus
        .iter()
        .enumerate()
        .filter(|(_, cpu)| cpu.packets != 0)
        .filter_map(|(index, cpu)| Some((index, run(limit, size, cpu).0?)))
        .collect();
    if busy.is_empty() {
        ended(world);
        return;
    }
    // A step on clocks that no other CPU looks at may come at any time: one order stands for all.
    let alone = busy.iter().find(|(index, step)| {
        let others = cpus.iter().enumerate().filter(|(other, _)| other != index);
        matches!(step, Step::Load(..) | Step::Store(..))
            && others
                .clone()
                .all(|(_, cpu)| cpu.place != cpus[*index].place)
    });
    let next = alone.map_or(&busy[..], std::slice::from_ref);
    for (index, step) in next {
        let (mut world, mut cpus) = (world.clone(), cpus.to_vec());
        let cpu = &mut cpus[*index];
        cpu.answers.push(answer(&mut world, *step));
        if let (None, thin) = run(limit, size, cpu) {
            world.thin[*index] += u32::from(thin);
            cpu.packets -= 1;
            cpu.answers.clear();
        }
        explore(limit, size, &world, &cpus, ended);
    }
}

fn all_orders(
    limit: &Limit,
    size: u64,
    cpus: &[(u32, Place)],
    mut judge: impl FnMut(&[u32]),
) -> u64 {
    let world = World {
        thin: vec![0; cpus.len()],
        ..World::default()
    };
    let cpus: Vec<Cpu> = cpus
        .iter()
        .map(|(packets, place)| Cpu {
            packets: *packets,
            place: *place,
            answers: Vec::new(),
        })
        .collect();
    let mut orders = 0;
    explore(limit, size, &world, &cpus, &mut |world| {
        orders += 1;
        judge(&world.thin);
    });
    println!("CASES: thin, orders of steps, all tried: {orders}");
    orders
}

fn own(cell: u32) -> Place {
    Place {
        first: cell,
        second: cell,
    }
}

/// At 4 Mbit/s thin flows may be 1,514 bytes ahead of their half with large packets: the third at one moment is fat.
#[test]
fn flows_of_several_cpus_have_no_more_than_their_half() {
    let now_ns = 1 << 40;
    let limit = Limit::new(now_ns, ceiling(4_000_000, 50, now_ns).ns_per_unit);
    let mut most = 0;
    let cpus = [(1, own(0)), (1, own(1)), (1, own(2))];
    all_orders(&limit, 1_500, &cpus, |thin| {
        most = most.max(thin.iter().sum());
    });
    assert_eq!(most, 2);
    most = 0;
    all_orders(&limit, 1_500, &[(2, own(0)), (2, own(1))], |thin| {
        most = most.max(thin.iter().sum());
    });
    assert_eq!(most, 2);
}

/// A bucket holds 3,028 bytes at 100 Mbit/s: one packet of this size. Two CPUs that are at the same flow at once have it
/// twice at most.
#[test]
fn one_flow_on_two_cpus_has_its_bucket_twice_at_most() {
    let now_ns = 1 << 40;
    let limit = Limit::new(now_ns, ceiling(100_000_000, 50, now_ns).ns_per_unit);
    let (mut most, mut least) = (0, u32::MAX);
    for cpus in level(&[[2, 1]][..], &[[2, 1], [1, 3]], &[[2, 2], [1, 3]]) {
        let cpus = cpus.map(|packets| (packets, own(0)));
        all_orders(&limit, 3_000, &cpus, |thin| {
            let sum = thin.iter().sum();
            (most, least) = (most.max(sum), least.min(sum));
        });
    }
    assert_eq!((least, most), (1, 2));
}
