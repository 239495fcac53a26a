//! Sets the wall clock of a machine that is there for it.

use anyhow::{Result, ensure};
use std::{
    io,
    time::{Duration, Instant},
};

pub const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;

/// A clock, ns.
pub fn clock_ns(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills a plain struct.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec * SECOND + time.tv_nsec
}

/// CLOCK_REALTIME less CLOCK_BOOTTIME, of some readings the quickest one's.
pub fn offset_ns() -> i64 {
    let read = |_| {
        let before = clock_ns(libc::CLOCK_BOOTTIME);
        let utc = clock_ns(libc::CLOCK_REALTIME);
        let after = clock_ns(libc::CLOCK_BOOTTIME);
        (after - before, utc - before)
    };
    (0..20).map(read).min().unwrap_or_default().1
}

/// clock_settime(2).
pub fn set(utc_ns: i64) -> Result<()> {
    let time = libc::timespec {
        tv_sec: utc_ns.div_euclid(SECOND),
        tv_nsec: utc_ns.rem_euclid(SECOND),
    };
    // SAFETY: reads a plain struct.
    let failed = unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) };
    ensure!(failed == 0, "clock_settime: {}", io::Error::last_os_error());
    Ok(())
}

/// Adds to it.
pub fn step(by_ns: i64) -> Result<()> {
    set(clock_ns(libc::CLOCK_REALTIME) + by_ns)
}

fn adjust(modes: u32, change: impl FnOnce(&mut libc::timex)) -> Result<i32> {
    // SAFETY: all zero is a question without a change.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    timex.modes = modes;
    change(&mut timex);
    // SAFETY: reads and fills the struct.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    ensure!(state >= 0, "adjtimex: {}", io::Error::last_os_error());
    Ok(state)
}

/// Three seconds before a midnight.
pub fn before_midnight() -> Result<()> {
    let now = clock_ns(libc::CLOCK_REALTIME);
    set((now.div_euclid(DAY) + 1) * DAY - 3 * SECOND)
}

/// CLOCK_BOOTTIME before and after something, ns.
pub type Between = (i64, i64);

/// Does it, and says when.
pub fn timed(act: impl FnOnce() -> Result<()>) -> Result<Between> {
    let begun = clock_ns(libc::CLOCK_BOOTTIME);
    act()?;
    Ok((begun, clock_ns(libc::CLOCK_BOOTTIME)))
}

/// A leap second (`STA_INS` or `STA_DEL`) at the next midnight. Returns when it is over.
pub fn leap(status: i32) -> Result<Between> {
    // Twice: the kernel takes a new wish when it has forgotten the one before.
    adjust(libc::ADJ_STATUS, |timex| timex.status = 0)?;
    adjust(libc::ADJ_STATUS, |timex| timex.status = status)?;
    let (begun, before) = (Instant::now(), offset_ns());
    let mut last = clock_ns(libc::CLOCK_BOOTTIME);
    loop {
        let looked = clock_ns(libc::CLOCK_BOOTTIME);
        // What adjtimex returns says nothing of a clock that nobody synchronises.
        if (offset_ns() - before).abs() > SECOND / 2 {
            break;
        }
        last = looked;
        ensure!(
            begun.elapsed() < Duration::from_secs(20),
            "the leap second never came"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let between = (last, clock_ns(libc::CLOCK_BOOTTIME));
    adjust(libc::ADJ_STATUS, |timex| timex.status = 0)?;
    Ok(between)
}

/// The clock runs this much faster, in units of 1/10,000; 0: as before.
pub fn slew(by: i64) -> Result<()> {
    adjust(libc::ADJ_TICK, |timex| timex.tick = 10_000 + by).map(drop)
}
