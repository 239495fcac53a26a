//! What the daemon may do: exactly what loading and attaching take.

use anyhow::{Result, ensure};

/// CAP_NET_ADMIN: attach, qdiscs. CAP_PERFMON: the verifier's leave for kernel reads. CAP_BPF: maps
/// and programs. Numbers of include/uapi/linux/capability.h.
const KEPT: [u32; 3] = [12, 38, 39];

/// Highest capability number that is tried; the kernel says where its own end.
const LAST: u32 = 63;

/// Gives up every capability but the three, for this process and for what it starts (`tc`).
///
/// # Errors
/// When one of the three is not there.
pub fn keep_three() -> Result<()> {
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
    let mut wanted = [0_u32; 2];
    for capability in KEPT {
        wanted[(capability / 32) as usize] |= 1 << (capability % 32);
    }
    // struct __user_cap_header_struct (version 3, this thread), then twice effective, permitted,
    // inheritable.
    let header = [0x2008_0522_u32, 0];
    let data = [
        wanted[0], wanted[0], wanted[0], wanted[1], wanted[1], wanted[1],
    ];
    // SAFETY: both live through the call and have the sizes of version 3.
    let failed = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    ensure!(
        failed == 0,
        "this user lacks CAP_BPF, CAP_NET_ADMIN or CAP_PERFMON ({}); run as root",
        std::io::Error::last_os_error()
    );
    Ok(())
}
