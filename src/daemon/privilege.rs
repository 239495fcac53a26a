//! What a process may do: the loader exactly what loading and attaching take, the meter nothing.

use anyhow::{Context as _, Result, ensure};
use std::io::Error;

/// CAP_NET_ADMIN: attach, qdiscs. CAP_PERFMON: the verifier's leave for kernel reads. CAP_BPF: maps
/// and programs. Numbers of include/uapi/linux/capability.h.
const KEPT: [u32; 3] = [12, 38, 39];
const NAMES: [&str; 3] = ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"];

/// `_LINUX_CAPABILITY_VERSION_3`, for this thread.
const HEADER: [u32; 2] = [0x2008_0522, 0];

/// Highest capability number that is tried; the kernel says where its own end.
const LAST: u32 = 63;

/// Whoever may not load programs is told so before anything is touched. Which user that is does not matter: the unit
/// gives the three to a user of octroi's own (decision 0052), by hand it is root.
///
/// # Errors
/// When one of the three is not there.
pub fn require_three() -> Result<()> {
    let here = permitted().context("capabilities")?;
    let missing: Vec<&str> = KEPT
        .into_iter()
        .zip(NAMES)
        .filter(|(number, _)| here & (1 << number) == 0)
        .map(|(_, name)| name)
        .collect();
    ensure!(
        missing.is_empty(),
        "the gate needs root, or a user who is given {}; run it with sudo, or as the systemd unit does",
        missing.join(", ")
    );
    Ok(())
}

/// Gives up every capability but the three. What this process starts gets none, unless it is root who starts it: then
/// the bounding set is what it gets, and the meter gives that up itself.
///
/// # Errors
/// When one of the three is not there.
pub fn keep_three() -> Result<()> {
    clear_ambient();
    for capability in (0..=LAST).filter(|capability| !KEPT.contains(capability)) {
        // A number that this kernel does not know fails, and there is nothing to drop.
        // SAFETY: plain numbers.
        unsafe {
            libc::prctl(
                libc::PR_CAPBSET_DROP,
                libc::c_ulong::from(capability),
                0,
                0,
                0,
            )
        };
    }
    ensure!(
        set(&KEPT).is_ok(),
        "this user lacks CAP_BPF, CAP_NET_ADMIN or CAP_PERFMON ({}); run as root",
        Error::last_os_error()
    );
    Ok(())
}

/// Gives up every capability.
///
/// # Errors
/// What the system said.
pub fn keep_none() -> Result<()> {
    clear_ambient();
    set(&[]).context("capabilities")
}

fn clear_ambient() {
    // SAFETY: plain numbers. Before Linux 4.3 there are no ambient ones.
    unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
}

/// Nothing that this process starts has more than it has, whatever is written on the file.
///
/// # Errors
/// What the system said.
pub fn no_new_privileges() -> Result<()> {
    // SAFETY: plain numbers.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()).context("no_new_privs"),
    }
}

/// Bit by bit, the capabilities that this process may make effective.
fn permitted() -> std::io::Result<u64> {
    let mut data = [0_u32; 6];
    // SAFETY: both live through the call and have the sizes of version 3.
    match unsafe { libc::syscall(libc::SYS_capget, HEADER.as_ptr(), data.as_mut_ptr()) } {
        0 => Ok(u64::from(data[4]) << 32 | u64::from(data[1])),
        _ => Err(Error::last_os_error()),
    }
}

/// Effective, permitted and inheritable ones.
fn set(capabilities: &[u32]) -> std::io::Result<()> {
    let mut wanted = [0_u32; 2];
    for capability in capabilities {
        wanted[(capability / 32) as usize] |= 1 << (capability % 32);
    }
    // struct __user_cap_header_struct (version 3, this thread), then twice effective, permitted,
    // inheritable.
    let data = [
        wanted[0], wanted[0], wanted[0], wanted[1], wanted[1], wanted[1],
    ];
    // SAFETY: both live through the call and have the sizes of version 3.
    match unsafe { libc::syscall(libc::SYS_capset, HEADER.as_ptr(), data.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}
