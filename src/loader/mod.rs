//! The loader: the process that `octroi run` starts as, and the only one that may change the kernel (decision 0041).
//!
//! It keeps three capabilities, opens the gate, starts the meter as a process of its own without any, and then does
//! what that asks for over a socket: nothing but `wire::Request`.
//!
//! Invariants (`tests/privilege.rs`)
//! - It reads one file, the configuration, when it starts. It listens nowhere, and connects to nobody.
//! - Whatever the meter says is checked as if an enemy had said it. What is no request ends both.
//! - Neither process outlives the other: the kernel ends the meter with the loader, and the loader ends when the
//!   meter has. What is attached goes on.

mod remote;
mod serve;
pub(crate) mod signals;
mod wire;

pub use remote::{Error, Gate};

use crate::{
    config,
    daemon::{self, privilege},
};
use anyhow::{Context as _, Result, bail};
use dataplane::{gate, pins::Pins};
use std::{
    fs::{self, File},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            net::UnixStream,
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

/// The command that the loader calls itself by again.
pub const METER: &str = "run-meter";

/// How long the halves of a daemon that was killed may take to go.
const DYING: Duration = Duration::from_secs(3);

/// Runs until the meter ends, and returns what that returned. What was attached stays attached.
///
/// # Errors
/// The configuration's mistakes, or what the system refused.
pub fn run(path: &Path) -> Result<ExitCode> {
    daemon::arm_fault();
    let config = config::load(path)?;
    privilege::require_three()?;
    let run_dir = &config.host.run_dir;
    fs::create_dir_all(run_dir)
        .with_context(|| format!("{}: name another [host] run_dir", run_dir.display()))?;
    let lock = daemon::lock(run_dir, DYING)?;
    let pins = Pins::new(&config.host.pin_dir);
    pins.prepare()?;
    privilege::keep_three()?;
    privilege::no_new_privileges()?;
    signals::hold()?;
    let gate = gate::Gate::open(daemon::plan(&config), pins)?;
    if gate.adopted() {
        eprintln!("octroi: adopted what an earlier run left");
    }
    let (mut ours, theirs) = UnixStream::pair().context("a socket to the meter")?;
    let mut meter = start(path, theirs, &lock)?;
    signals::forward(meter.id())?;
    let served = serve::serve(gate, config, &mut ours);
    drop(ours);
    if served.is_err() {
        // It says what no meter of this version says.
        let _ = meter.kill();
    }
    let ended = meter.wait().context("the meter")?;
    served?;
    match (ended.code(), ended.signal()) {
        // Why, it has said.
        (Some(code), _) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        (None, signal) => bail!(
            "the meter ended by signal {}; what was attached goes on enforcing and counting; start octroi again",
            signal.unwrap_or_default()
        ),
    }
}

/// The same program, and nothing of this process but the socket and the lock: it is loaded to other addresses.
fn start(path: &Path, socket: UnixStream, lock: &File) -> Result<Child> {
    // The next daemon waits for both.
    // SAFETY: the descriptor is open, and the flag is all that F_SETFD sets.
    let kept = unsafe { libc::fcntl(lock.as_raw_fd(), libc::F_SETFD, 0) };
    if kept != 0 {
        return Err(std::io::Error::last_os_error()).context("the run directory's lock");
    }
    Command::new("/proc/self/exe")
        .arg0("octroi")
        .arg(METER)
        .arg(path)
        // The loader tells systemd.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .spawn()
        .context("/proc/self/exe: the meter does not start")
}
