//! What happens to a host: by the dice, a step after the other.

use super::{
    disk::{self, Trouble},
    kernel::Mutation,
    world::{MACHINE, SECOND_NS, World},
};
use metering::ledger::{Anchor, Identity, Ledger};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

const STEPS: u64 = 300;

/// What must happen in some seed, or the simulation says less than it seems to.
pub const KINDS: &[&str] = &[
    "ports come",
    "ports go",
    "tenants change",
    "revisions",
    "wall clock set",
    "suspends",
    "disk full",
    "everything is an I/O error",
    "one I/O error",
    "syncs fail",
    "disk read-only",
    "kills between steps",
    "kills at a step",
    "kills at a disk operation",
    "power cuts between steps",
    "power cuts at a step",
    "maps made anew",
    "older copies restored",
    "ledgers deleted",
    "clones",
    "commits",
    "jobs that the disk refused",
    "epochs closed",
    "ledgers superseded",
    "of these, with bounds that hold",
];

/// What a seed did.
#[derive(Default)]
pub struct Told {
    pub counts: std::collections::BTreeMap<&'static str, u64>,
}

/// A copy of the ledger, and where it stood.
type Copy = (PathBuf, Anchor);

/// Runs a seed; the error is what the auditor found.
pub fn run(seed: u64, mutation: Option<Mutation>) -> Result<Told, String> {
    judged(|| live(seed, mutation))
}

/// A host whose journal could not be synced, whose disk fails again from the `at`th operation on of whatever
/// the daemon does next (it opens the ledger, and moves what the journal says into it), and whose power
/// then goes. Was there an operation with that number?
pub fn three_faults(seed: u64, second: Trouble, at: u64) -> Result<bool, String> {
    judged(|| {
        let mut world = World::new(seed, None);
        for _ in 0..3 {
            window(&mut world);
        }
        disk::break_it(0, Trouble::Unsynced);
        window(&mut world);
        world.repair();
        disk::break_it(at, second);
        window(&mut world);
        let reached = disk::has_failed();
        world.power_cut();
        world.start();
        end(&mut world);
        reached
    })
}

/// A window passes, and is written if the disk can.
fn window(world: &mut World) {
    world.clock.pass(2 * SECOND_NS);
    world.kernel.traffic(&world.clock, &mut world.dice, false);
    if let Some(daemon) = &mut world.daemon {
        daemon.pace.want();
    }
    let done = world.turn().and_then(|()| world.settle());
    assert!(done.is_ok(), "nobody kills it");
}

fn judged<T>(live: impl FnOnce() -> T) -> Result<T, String> {
    let ended = catch_unwind(AssertUnwindSafe(live));
    disk::forget();
    ended.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_else(|| "it panicked".into())
    })
}

fn live(seed: u64, mutation: Option<Mutation>) -> Told {
    let mut world = World::new(seed, mutation);
    let mut copy = None;
    let mut sick = 0;
    for _ in 0..STEPS {
        world.count("steps");
        if sick > 0 {
            sick -= 1;
            if sick == 0 {
                world.repair();
            }
        }
        happen(&mut world, &mut copy, &mut sick);
        pass(&mut world);
        if world.turn().is_err() {
            die(&mut world);
        }
    }
    end(&mut world);
    let mut told = Told {
        counts: std::mem::take(&mut world.counts),
    };
    for (what, count) in [
        ("records", world.auditor.records),
        (
            "last records of registers that are gone",
            world.auditor.gaps,
        ),
        ("of these, with bounds that hold", world.auditor.bounded),
        ("packets", world.kernel.packets),
        ("disk operations", disk::operations()),
    ] {
        told.counts.insert(what, count);
    }
    told
}

/// Until the daemon has something to do, or something else happens.
fn pass(world: &mut World) {
    let now = world.clock.now();
    let until = world
        .daemon
        .as_ref()
        .map_or(SECOND_NS, |daemon| daemon.pace.wait_ns(&now));
    let ns = match world.dice.below(3) {
        0 => world.dice.below(SECOND_NS / 2).min(until),
        _ => until,
    };
    world.clock.pass(ns);
    world.kernel.traffic(&world.clock, &mut world.dice, false);
}

/// The daemon is dead; and perhaps the host, too.
fn die(world: &mut World) {
    if world.dice.one_in(3) {
        world.count("power cuts at a step");
        world.power_cut();
        world.start();
    } else {
        world.kill();
        if world.dice.one_in(3) {
            // Nobody cuts for a while.
            let down = world.dice.below(90 * SECOND_NS);
            world.clock.pass(down);
            world.kernel.traffic(&world.clock, &mut world.dice, false);
        }
        world.start();
    }
}

/// At the end everything works, and everything that was counted is in the ledger.
fn end(world: &mut World) {
    world.slow = false;
    world.kill_in = None;
    world.repair();
    for _ in 0..3 {
        window(world);
    }
    world.audit();
    world.auditor.reckon();
    world.auditor.all_closed(world.kernel.epoch);
}

fn happen(world: &mut World, copy: &mut Option<Copy>, sick: &mut u64) {
    match world.dice.below(90) {
        0..=3 => {
            let (name, tenant) = (world.dice.below(9), world.dice.below(4));
            world.count("ports come");
            world.come(&format!("port-{name}"), tenant as u32);
        }
        4..=5 => {
            world.count("ports go");
            go(world);
        }
        6 => {
            // The port is another tenant's from now on.
            if let Some((name, tenant)) = go(world) {
                world.count("tenants change");
                world.come(&name, tenant + 1);
            }
            revise(world);
        }
        7 => {
            world.count("revisions");
            revise(world);
        }
        8 => {
            world.count("wall clock set");
            let far = [
                SECOND_NS / 10,
                SECOND_NS,
                90 * SECOND_NS,
                86_400 * SECOND_NS,
            ];
            let far = far[world.dice.index(4)];
            let ns = world.dice.below(far) as i64;
            let back = world.dice.one_in(2);
            world.clock.step(if back { -ns } else { ns });
        }
        9 => world.clock.slew_ppm = world.dice.below(1_001) as i64 - 500,
        10 => {
            world.count("suspends");
            let ns = world.dice.below(300 * SECOND_NS);
            world.clock.suspend(ns);
            world.calm();
        }
        11..=13 => {
            let trouble = world.dice.index(5);
            let (what, trouble) = [
                ("disk full", Trouble::Full),
                ("everything is an I/O error", Trouble::Broken),
                ("one I/O error", Trouble::Glitch),
                ("syncs fail", Trouble::Unsynced),
                ("disk read-only", Trouble::ReadOnly),
            ][trouble];
            // A disk that lies is trouble enough.
            if world.kernel.mutation != Some(Mutation::Unsynced) {
                world.count(what);
                disk::break_it(world.dice.below(40), trouble);
                *sick = 1 + world.dice.below(12);
                world.calm();
            }
        }
        14 => {
            world.count("kills between steps");
            die_now(world);
        }
        15 => world.kill_in = Some(world.dice.below(25)),
        16 if world.kernel.mutation != Some(Mutation::Unsynced) => {
            disk::break_it(world.dice.below(30), Trouble::Dead);
            *sick = 0;
            world.calm();
        }
        17 => {
            world.count("power cuts between steps");
            world.power_cut();
            world.start();
        }
        18 if world.dice.one_in(3) => {
            world.count("maps made anew");
            world.reset();
            world.start();
        }
        19 => {
            world.slow = !world.slow;
            world.calm();
        }
        20 => {
            if let Some(daemon) = &mut world.daemon {
                daemon.pace.want();
            }
        }
        21..=22 => take_copy(world, copy),
        23 => restore(world, copy),
        24 if world.dice.one_in(2) => delete(world),
        25 => clone(world, copy),
        _ => {}
    }
}

fn die_now(world: &mut World) {
    world.kill();
    world.start();
}

fn go(world: &mut World) -> Option<(String, u32)> {
    let live = world.kernel.live();
    let slot = *live.get(world.dice.index(live.len()))?;
    world.daemon.as_ref()?;
    world.kernel.go(slot)
}

fn revise(world: &mut World) {
    world.kernel.revision += 1;
    if let Some(daemon) = &mut world.daemon {
        daemon.pace.want();
    }
}

/// Is everything that is in the file in the anchor, too, and the disk sound?
fn is_quiet(world: &mut World) -> bool {
    if disk::is_broken()
        || world.kill_in.is_some()
        || world.settle().is_err()
        || !world.path.exists()
    {
        return false;
    }
    world.audit();
    let anchor = world.anchor;
    anchor.size != 0 && world.auditor.known(&anchor.ledger_id) == anchor.size
}

fn beside(path: &std::path::Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn put(from: &std::path::Path, to: &std::path::Path) {
    for suffix in ["", "-wal"] {
        let (from, to) = (beside(from, suffix), beside(to, suffix));
        let _ = fs::remove_file(&to);
        if from.exists() {
            fs::copy(&from, &to).expect("room for a copy");
            disk::adopt(&to);
        }
    }
    let _ = fs::remove_file(beside(to, "-shm"));
}

fn take_copy(world: &mut World, copy: &mut Option<Copy>) {
    if is_quiet(world) {
        let to = world.dir().join("copy");
        put(&world.path, &to);
        *copy = Some((to, world.anchor));
    }
}

/// An older copy takes the file's place; the kernel knows better.
fn restore(world: &mut World, copy: &mut Option<Copy>) {
    let Some((from, anchor)) = copy else { return };
    if is_quiet(world) && world.anchor.ledger_id == anchor.ledger_id {
        world.count("older copies restored");
        world.kill();
        put(from, &world.path);
        begin(world);
    }
}

/// Before anything else happens, the ledger is looked at: a power cut would take the anchor with it.
fn begin(world: &mut World) {
    world.auditor.taken_away();
    world.start();
    let done = world.turn().and_then(|()| world.settle());
    assert!(done.is_ok(), "nobody kills it");
}

/// The file is deleted: under the daemon, or while there is none.
fn delete(world: &mut World) {
    if !is_quiet(world) {
        return;
    }
    world.count("ledgers deleted");
    let open = world.dice.one_in(2);
    if !open {
        world.kill();
    }
    for suffix in ["", "-wal", "-shm"] {
        if suffix.is_empty() || !open || world.dice.one_in(2) {
            let _ = fs::remove_file(beside(&world.path, suffix));
        }
    }
    match open {
        true => world.auditor.taken_away(),
        false => begin(world),
    }
}

/// Another machine has a copy of the ledger: it may not go on from there.
fn clone(world: &mut World, copy: &mut Option<Copy>) {
    let Some((from, _)) = copy.as_ref() else {
        return;
    };
    if disk::is_broken() {
        return;
    }
    world.count("clones");
    let there = world.dir().join("clone");
    put(from, &there);
    let mut identity = Identity {
        machine_id: format!("not-{MACHINE}"),
        now: world.clock.now(),
        ..Identity::default()
    };
    identity.epoch.host = "host".into();
    let begun = Ledger::open(&there, &identity, &Anchor::default(), None);
    let begun = begun.expect("a clone is put aside");
    let why = begun.superseded.unwrap_or_default();
    assert!(why.contains("another machine"), "{why:?}");
}
