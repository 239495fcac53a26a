//! News that somebody set the wall clock: a timer that the kernel cancels then (`TFD_TIMER_CANCEL_ON_SET`,
//! timerfd_create(2)).
//!
//! What it is not: it does not say by how much (two readings do), and slewing is no news.

use anyhow::{Context as _, Result};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

/// A watch on CLOCK_REALTIME. Readable when the clock was set.
#[derive(Debug)]
pub struct Watch {
    timer: OwnedFd,
}

/// The timer is meant to be cancelled, not to expire: the latest time that 32 bits of seconds can say,
/// because some kernels keep no more.
const NEVER_S: libc::time_t = 0x7fff_ffff;

impl Watch {
    /// Watches from now on.
    ///
    /// # Errors
    /// What the system refused.
    pub fn new() -> Result<Self> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: takes plain numbers.
        let timer = unsafe { libc::timerfd_create(libc::CLOCK_REALTIME, flags) };
        if timer < 0 {
            return Err(io::Error::last_os_error()).context("timerfd");
        }
        // SAFETY: the descriptor was just made, and is nobody else's.
        let timer = unsafe { OwnedFd::from_raw_fd(timer) };
        let watch = Self { timer };
        watch.arm().context("timerfd")?;
        Ok(watch)
    }

    fn arm(&self) -> io::Result<()> {
        let at = libc::timespec {
            tv_sec: NEVER_S,
            tv_nsec: 0,
        };
        let once = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: at,
        };
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        // SAFETY: the structure lives through the call; the old setting is not asked for.
        let failed = unsafe {
            libc::timerfd_settime(
                self.timer.as_raw_fd(),
                flags,
                &raw const once,
                std::ptr::null_mut(),
            )
        };
        // Set between the last news and now: the timer is armed nevertheless.
        match io::Error::last_os_error() {
            _ if failed == 0 => Ok(()),
            error if error.raw_os_error() == Some(libc::ECANCELED) => Ok(()),
            error => Err(error),
        }
    }

    /// Was the clock set since the last time that this was asked? To be asked when the watch is readable.
    pub fn was_set(&self) -> bool {
        let mut expirations = 0_u64;
        // SAFETY: eight bytes, which a timerfd fills.
        let read = unsafe {
            libc::read(
                self.timer.as_raw_fd(),
                (&raw mut expirations).cast(),
                size_of::<u64>(),
            )
        };
        let error = io::Error::last_os_error();
        let cancelled = read < 0 && error.raw_os_error() == Some(libc::ECANCELED);
        // Cancelled, or, in 2038, expired: it watches on only when it is armed again.
        if (cancelled || read > 0)
            && let Err(error) = self.arm()
        {
            eprintln!(
                "octroi: warning: steps of the wall clock are noticed a second late: {error}"
            );
        }
        cancelled
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readable within 50 ms? The clock of a shared machine is set by nobody: what happens then is tested
    /// in a virtual machine.
    fn is_readable(watch: &Watch) -> bool {
        let mut asked = libc::pollfd {
            fd: watch.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one structure, which lives through the call.
        unsafe { libc::poll(&raw mut asked, 1, 50) == 1 }
    }

    #[test]
    fn a_clock_that_nobody_sets_is_no_news() -> Result<()> {
        let watch = Watch::new()?;
        assert!(!is_readable(&watch));
        assert!(!watch.was_set());
        Ok(())
    }

    #[test]
    fn it_is_armed_and_can_be_armed_again() -> Result<()> {
        let watch = Watch::new()?;
        for _ in 0..2 {
            let mut left: libc::itimerspec = unsafe_zero();
            // SAFETY: fills the structure.
            let failed = unsafe { libc::timerfd_gettime(watch.as_raw_fd(), &raw mut left) };
            assert_eq!(failed, 0);
            assert!(left.it_value.tv_sec > 0, "it is not armed");
            watch.arm()?;
        }
        Ok(())
    }

    fn unsafe_zero() -> libc::itimerspec {
        // SAFETY: plain numbers, for which zero is a value.
        unsafe { std::mem::zeroed() }
    }
}
