//! The clock of `cargo xtask vm --virtual-time` is true: a count of instructions is a count of ns by every clock that programs
//! and kernel read, a sleep takes what it says, and a processor's time is time. Everything that is measured in such a machine
//! rests on it.
//!
//! It runs there alone, and is skipped everywhere else:
//! `cargo xtask vm --kernel 6.12 --virtual-time --test virtual_clock`.
//!
//! `CLOCK: what …`

use anyhow::{Result, ensure};
use std::{env, time::Duration};

/// Clocks that go on at the same pace in a machine that nobody adjusts.
const CLOCKS: [(&str, libc::clockid_t); 5] = [
    ("monotonic", libc::CLOCK_MONOTONIC),
    ("monotonic raw", libc::CLOCK_MONOTONIC_RAW),
    ("boottime", libc::CLOCK_BOOTTIME),
    ("realtime", libc::CLOCK_REALTIME),
    ("thread's processor time", libc::CLOCK_THREAD_CPUTIME_ID),
];

/// Rounds of [`spin`]; a second for the longest.
const ROUNDS: [u64; 3] = [5_000_000, 50_000_000, 500_000_000];
/// What else ran in between may take one in so many, the kernel's tick for one, and so many ns once, a daemon's turn.
const OTHERS: u64 = 100;
const ONCE_NS: u64 = 500_000;
const SLEEPS_MS: [u64; 4] = [1, 10, 100, 1_000];
/// What a timer and a switch of threads take, at 10^9 instructions a second.
const WAKING_NS: u64 = 300_000;

fn ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills a plain struct.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn all() -> [u64; 5] {
    CLOCKS.map(|(_, clock)| ns(clock))
}

/// Two instructions for each round.
#[cfg(target_arch = "x86_64")]
fn spin(rounds: u64) {
    // SAFETY: counts down a register, and touches nothing else.
    unsafe {
        std::arch::asm!("2:", "dec {0}", "jnz 2b", inout(reg) rounds => _, options(nomem, nostack));
    }
}

/// Only x86-64 is booted.
#[cfg(not(target_arch = "x86_64"))]
fn spin(_: u64) {}

#[test]
fn an_instruction_takes_a_nanosecond_by_every_clock() -> Result<()> {
    if env::var_os("OCTROI_VIRTUAL_TIME").is_none() {
        println!(
            "SKIPPED: an_instruction_takes_a_nanosecond_by_every_clock: this machine's clock counts no instructions"
        );
        return Ok(());
    }
    let mut cases = 0;
    for rounds in ROUNDS {
        let before = all();
        spin(rounds);
        let after = all();
        let instructions = 2 * rounds;
        for (at, (name, _)) in CLOCKS.iter().enumerate() {
            let ns = after[at] - before[at];
            println!("CLOCK: {name}: {instructions} instructions took {ns} ns");
            // A clock's own resolution is some ns.
            let least = instructions - 1_000;
            let most = instructions + instructions / OTHERS + ONCE_NS;
            ensure!(
                (least..=most).contains(&ns),
                "{name}: {ns} ns for {instructions} instructions"
            );
            cases += 1;
        }
    }
    for ms in SLEEPS_MS {
        let before = all();
        std::thread::sleep(Duration::from_millis(ms));
        let after = all();
        for (at, (name, _)) in CLOCKS[..4].iter().enumerate() {
            let late = (after[at] - before[at]).checked_sub(ms * 1_000_000);
            println!("CLOCK: {name}: a sleep of {ms} ms is late by {late:?} ns");
            ensure!(
                late.is_some_and(|late| late <= WAKING_NS),
                "{name}: {ms} ms: {late:?} ns"
            );
            cases += 1;
        }
    }
    println!("CASES: virtual clocks: {cases}");
    Ok(())
}
