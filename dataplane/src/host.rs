//! What this kernel and host can do.

use crate::{
    Error, Result, attach,
    object::{self, Plan},
};
use aya::programs::ProgramInfo;
use std::{collections::BTreeMap, io};

/// Number of possible CPUs: per-CPU maps have a copy for each, online or not.
pub fn possible_cpus() -> u32 {
    aya::util::nr_cpus().map_or(1, |cpus| u32::try_from(cpus).unwrap_or(1))
}

/// Asks whether this process may call `bpf()` at all, with a call that can only fail.
///
/// # Errors
/// [`Error::NoBpf`] when it may not: everything else would fail with less to go by.
pub fn require_bpf() -> Result<()> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    // SAFETY: no attributes are read: their size is 0, which makes a map of no type.
    unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, std::ptr::null::<u8>(), 0) };
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EPERM) => Err(Error::NoBpf(error)),
        _ => Ok(()),
    }
}

/// Reads a clock that this kernel has, ns: see clock_gettime(2).
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills a plain struct.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// How far the coarse clock may lag behind the exact one, ns: two ticks.
///
/// `CLOCK_MONOTONIC_COARSE` moves at each tick of the timekeeping CPU; its resolution is one tick.
pub fn coarse_slack_ns() -> u64 {
    let mut resolution = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills a plain struct.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &mut resolution) };
    2 * (resolution.tv_sec as u64 * 1_000_000_000 + resolution.tv_nsec as u64)
}

/// Names of the BPF programs in this kernel, by number. Empty where this process may not ask.
pub fn program_names() -> BTreeMap<u32, String> {
    let name = |info: &ProgramInfo| info.name_as_str().unwrap_or("unnamed").to_owned();
    aya::programs::loaded_programs()
        .filter_map(|info| info.ok())
        .map(|info| (info.id(), name(&info)))
        .collect()
}

/// Lets the verifier judge every program on this kernel, attaches and pins nothing.
///
/// # Errors
/// What it said.
pub fn try_programs() -> Result<()> {
    let mut object = object::load(&Plan::new(1, 8), None)?;
    attach::load_programs(&mut object, attach::mechanism(), None)
}
