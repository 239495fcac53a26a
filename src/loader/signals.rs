//! Signals are for whoever started the loader to send, and for the meter to act on.

use anyhow::{Context as _, Result};
use std::{io, mem::MaybeUninit, thread};

/// What the meter acts on: it ends, or reads its configuration again.
const PASSED_ON: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

fn passed_on() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset makes the set, and these are signals.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in PASSED_ON {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

fn mask(how: libc::c_int) -> Result<()> {
    let set = passed_on();
    // SAFETY: the set lives through the call.
    match unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)).context("signals"),
    }
}

/// Signals wait from now on: for [`forward`], and in the meter, which inherits this, for [`release`].
pub fn hold() -> Result<()> {
    mask(libc::SIG_BLOCK)
}

/// In the meter, once it listens to them.
pub fn release() -> Result<()> {
    mask(libc::SIG_UNBLOCK)
}

/// Passes them on to the meter, as long as this process lives.
pub fn forward(meter: u32) -> Result<()> {
    let meter = libc::pid_t::try_from(meter).context("a process number")?;
    let pass = move || {
        let set = passed_on();
        loop {
            let mut signal = 0;
            // SAFETY: both live through the call. The meter is a child that nobody has waited for, so that its
            // number is nobody else's.
            unsafe {
                if libc::sigwait(&raw const set, &raw mut signal) == 0 {
                    libc::kill(meter, signal);
                }
            }
        }
    };
    let started = thread::Builder::new().name("signals".into()).spawn(pass);
    started.map(drop).context("a thread for signals")
}
