//! The meter's runtime: one thread that follows interfaces, signals and the control socket, and asks the loader
//! ([`crate::loader`]) for what takes a capability. Enforcing and counting happen in the kernel and need neither.

mod api;
mod audit;
mod change;
mod clock;
mod confine;
pub mod control;
mod hooks;
mod live;
mod meter;
pub(crate) mod privilege;
mod quota;
mod reading;
mod sinks;
mod state;
mod tickets;
mod translate;
mod wall_clock;

pub(crate) use api::loopback_owner;
pub use audit::AuditStatus;
pub use clock::state as clock_state;
pub use confine::Confined;
pub use meter::{MeterStatus, keep};
pub use quota::QuotaStatus;
pub(crate) use reading::flow_of;
pub use sinks::SinkStatus;
pub use translate::{plan, policy};

use crate::{config, loader};
use anyhow::{Context as _, Result, bail};
use dataplane::{netlink::Monitor, object, pins::Pins};
use state::{State, Step};
use std::{
    cell::RefCell,
    fs::{self, File},
    os::fd::AsRawFd as _,
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{
    io::unix::AsyncFd,
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    time,
};

/// How often everything is looked at though no news came: news can be lost, and a foreign tcx
/// program makes none.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The meter's process: what a loader starts. Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What the system or the loader refused.
pub fn run(path: &Path) -> Result<()> {
    arm_fault();
    end_with_the_loader()?;
    let (gate, config) = loader::Gate::inherited()?;
    let config = config::parse(&config, &path.display().to_string())?;
    let run_dir = config.host.run_dir.clone();
    let confined = confine::confine(&config)?;
    if confined.landlock == 0 {
        eprintln!(
            "octroi: warning: no Landlock: the meter may write whatever its user may; `octroi doctor` says more"
        );
    }
    let state = State::start(config, path, gate, confined)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(serve(state, &run_dir)))
}

async fn serve(state: State, run_dir: &Path) -> Result<()> {
    let state = Rc::new(RefCell::new(state));
    let socket = run_dir.join(control::SOCKET);
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)
        .with_context(|| format!("{}: cannot listen", socket.display()))?;
    restrict(&socket)?;
    let _api = api::start(&state)?;
    api::scrape::start(&state)?;
    // SAFETY: a netlink socket is one descriptor for its whole life, and the monitor owns it.
    let monitor = unsafe { AsyncFd::register(Monitor::new()?) }?;
    // SAFETY: a timerfd is one descriptor for its whole life, and the watch owns it.
    let wall_clock = unsafe { AsyncFd::register(wall_clock::Watch::new()?) }?;
    let mut reload = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loader::signals::release()?;
    let told = state.borrow().ledger_told();
    let mut look = time::interval(LOOK_AGAIN);
    look.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    state.borrow_mut().look();
    state.borrow().ready()?;
    eprintln!("octroi: ready; {}", state.borrow().summary());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = reload.recv() => drop(tokio::task::spawn_local(reload_file(Rc::clone(&state)))),
            _ = look.tick() => {
                state.borrow_mut().look();
                // This tick puts the sleep below off again and again.
                state.borrow_mut().turn();
            }
            () = told.notified() => state.borrow_mut().turn(),
            () = time::sleep(state.borrow().until_turn()) => state.borrow_mut().turn(),
            ready = monitor.readable() => {
                let mut ready = ready?;
                let news = ready.get_inner().drain();
                ready.clear_ready();
                if news {
                    state.borrow_mut().look();
                }
            }
            ready = wall_clock.readable() => {
                let mut ready = ready?;
                let was_set = ready.get_inner().was_set();
                ready.clear_ready();
                if was_set {
                    state.borrow_mut().clock_was_set();
                }
            }
            client = listener.accept() => {
                if let Ok((stream, _)) = client {
                    tokio::task::spawn_local(control::answer(stream, Rc::clone(&state)));
                }
            }
        }
        if state.borrow().detached() {
            break;
        }
        let first = state.borrow_mut().is_to_enter_the_start();
        if first {
            tokio::task::spawn_local(enter_start(Rc::clone(&state)));
        }
        let entries = state.borrow_mut().take_entries();
        if !entries.is_empty() {
            tokio::task::spawn_local(enter_all(Rc::clone(&state), entries));
        }
    }
    state.borrow().stopping();
    state.borrow_mut().farewell();
    let _ = fs::remove_file(&socket);
    if state.borrow().detached() {
        eprintln!("octroi: detached; nothing of it is left in the kernel");
    } else {
        eprintln!("octroi: stopped; what was attached goes on enforcing and counting");
    }
    Ok(())
}

/// Which program wrote the records from here on, and which programs it loaded.
async fn enter_start(state: Rc<RefCell<State>>) {
    let (ledger, revision) = {
        let state = state.borrow();
        (state.ledger(), state.revision())
    };
    let who = concat!("octroi ", env!("CARGO_PKG_VERSION"));
    let what = format!(
        "start: BPF object sha256:{}, revision {revision}",
        object::OBJECT_SHA256
    );
    if let Err(error) = change::enter(ledger, who, what).await {
        eprintln!("octroi: warning: the start is not entered in the ledger: {error}");
    }
}

/// What happened to tunnels, one after the other.
async fn enter_all(state: Rc<RefCell<State>>, entries: Vec<String>) {
    let (ledger, changes) = {
        let state = state.borrow();
        (state.ledger(), state.changes())
    };
    let _alone = changes.lock().await;
    for what in entries {
        let who = concat!("octroi ", env!("CARGO_PKG_VERSION"));
        if let Err(error) = change::enter(ledger.clone(), who, what).await {
            eprintln!("octroi: warning: not entered in the ledger: {error}");
        }
    }
}

/// Reads the file again, on SIGHUP. A mistake leaves everything as it was.
async fn reload_file(state: Rc<RefCell<State>>) {
    let path = state.borrow().path.clone();
    let loaded = config::load(&path).map_err(control::Refusal::from);
    let done = match loaded {
        Ok(file) => {
            let what = change::difference(state.borrow().file(), &file);
            let change = change::Change {
                who: "SIGHUP".into(),
                what: format!("apply {}: {what}", path.display()),
                step: Step::Apply(file.into()),
            };
            change::make(&state, change, |_, _| Ok(())).await.map(drop)
        }
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = done {
        let message = refusal.message;
        eprintln!("{message}\noctroi: the configuration before stays in force");
    }
}

/// The kernel ends this process when the loader's ends: there is no gate without it, and the next daemon writes
/// the same ledger.
fn end_with_the_loader() -> Result<()> {
    // SAFETY: plain numbers. A loader that is gone already has closed its socket, which is read next.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("PR_SET_PDEATHSIG"),
    }
}

/// For the tests of crashes: `OCTROI_TEST_FAULT=NAME:COUNT` ends the process that is at that point for the
/// COUNTth time with SIGKILL: the loader, or the meter. Who starts a daemon as root can end it anyhow.
pub(crate) fn arm_fault() {
    let Ok(text) = std::env::var("OCTROI_TEST_FAULT") else {
        return;
    };
    let armed = text.split_once(':').is_some_and(|(name, count)| {
        // SAFETY: a signal to this process, which nothing survives.
        let end = || unsafe {
            libc::kill(libc::getpid(), libc::SIGKILL);
        };
        count
            .parse()
            .is_ok_and(|count| dataplane_common::fault::arm(name, count, end))
    });
    let done = if armed { "armed" } else { "is no fault point" };
    eprintln!("octroi: OCTROI_TEST_FAULT={text}: {done}");
}

/// Only root may talk to the daemon.
fn restrict(socket: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("{}: cannot be restricted", socket.display()))
}

/// # Errors
/// When this user is not root.
pub(crate) fn require_root() -> Result<()> {
    // SAFETY: takes nothing, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!("the gate needs root; run it with sudo, or as the systemd unit does");
    }
    Ok(())
}

/// One daemon for one run directory. The lock ends with its processes, however they end; `patience` is for those of
/// a daemon that was killed a moment ago.
pub(crate) fn lock(run_dir: &Path, patience: Duration) -> Result<File> {
    let path = run_dir.join("lock");
    let file = File::create(&path).with_context(|| format!("{}", path.display()))?;
    let begun = Instant::now();
    // SAFETY: the descriptor is open.
    while unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        if begun.elapsed() >= patience {
            bail!(
                "{}: another octroi runs here; stop it first, or use `octroi apply`",
                path.display()
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(file)
}

/// Removes everything: through the daemon where one runs, else from the pins.
///
/// # Errors
/// What the system refused.
pub fn detach(run_dir: &Path, pin_dir: &Path, all_versions: bool) -> Result<()> {
    require_root()?;
    if run_dir.join(control::SOCKET).exists()
        && let Ok(answer) = control::call(run_dir, &control::Request::Detach)
    {
        println!("{answer}");
    } else {
        let pins = Pins::new(pin_dir);
        if pins.exist() {
            dataplane::gate::detach_pinned(&pins)?;
            println!("detached");
        } else {
            println!(
                "nothing of octroi is attached under {}",
                pins.root().display()
            );
        }
    }
    if all_versions {
        Pins::new(pin_dir).remove_all_versions()?;
    }
    let _ = fs::remove_dir(pin_dir);
    let _ = fs::remove_file(run_dir.join(hooks::DYNAMIC_PORTS));
    Ok(())
}
