//! What the privileged tests share: whether they can run, how much of them, and how they count.
#![allow(dead_code, reason = "each test uses its own part of this")]

use anyhow::{Context as _, Result};
use dataplane::registers::{Counts, Direction};
use octroi::{
    lab::{Site, TenantSpec, site},
    status::Report,
};
use std::{
    path::Path,
    sync::{Mutex, MutexGuard, OnceLock},
    time::{Duration, Instant},
};

/// The binary under test.
pub fn octroi() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_octroi"))
}

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Quick,
    Normal,
    Long,
}

/// `OCTROI_TEST_LEVEL`, normal when it is not set.
pub fn level() -> Level {
    match std::env::var("OCTROI_TEST_LEVEL").as_deref() {
        Ok("quick") => Level::Quick,
        Ok("long") => Level::Long,
        _ => Level::Normal,
    }
}

/// One of three by level.
pub fn by_level<T>(quick: T, normal: T, long: T) -> T {
    match level() {
        Level::Quick => quick,
        Level::Normal => normal,
        Level::Long => long,
    }
}

/// True when a site can be made here; else says that `test` is skipped.
pub fn can_run(test: &str) -> bool {
    match site::possible() {
        Ok(()) => true,
        Err(reason) => {
            println!("SKIPPED: {test}: {reason}");
            false
        }
    }
}

/// Sites of one process share names: one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static LOCK: OnceLock<Mutex<()>> = OnceLock::new();
    LOCK.get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A tenant without limits.
pub const fn tenant(name: &'static str, offloads: bool) -> TenantSpec {
    TenantSpec {
        name,
        offloads,
        limits: "",
    }
}

/// A site with its daemon running.
pub fn running(specs: &[TenantSpec], host: &str) -> Result<Site> {
    let mut site = Site::new(specs)?;
    site.write_config(&site.config(host))?;
    site.start(octroi())?;
    Ok(site)
}

/// Registers of tenant `index`'s live port.
pub fn registers(site: &Site, index: usize) -> Result<(Direction, Direction)> {
    registers_of(&site.report()?, index)
}

/// The same, from a report of whatever daemon.
pub fn registers_of(report: &Report, index: usize) -> Result<(Direction, Direction)> {
    let number = index as u32 + 1;
    let ports = report.ports.iter().filter(|port| port.tenant == number);
    let port = ports.max_by_key(|port| port.incarnation);
    let port = port.context("no such port")?;
    Ok((port.from_tenant.clone(), port.to_tenant.clone()))
}

/// Waits until `read` gives the same three times in a row, 100 ms apart; 10 s at most.
pub fn settle<T: PartialEq>(read: impl Fn() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let (mut last, mut still) = (read()?, 0);
    while still < 2 && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(100));
        let now = read()?;
        still = if now == last { still + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

/// What came between two readings of an interface: (rx packets, rx bytes, tx packets, tx bytes).
pub fn between(before: [u64; 4], after: [u64; 4]) -> [u64; 4] {
    std::array::from_fn(|index| after[index] - before[index])
}

/// Packets and layer-2 bytes.
pub fn pair(counts: Counts) -> (u64, u64) {
    (counts.packets, counts.l2_bytes)
}
