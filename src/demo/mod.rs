//! `octroi demo`: the main job, seen. Tenants in network namespaces, the real daemon, real traffic, a
//! kill -9 in the middle, and checks against counters that are not octroi's.

mod checks;
mod door;
mod encryption;
mod look;
mod neighbour;
mod records;
mod scene;

use crate::lab::{Site, TenantSpec, site};
use anyhow::{Context as _, Result};
use checks::{Check, Outcome};
use std::{
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Options of the demo.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Seconds of traffic, 3 to 600.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(3..=600))]
    pub seconds: u64,
    /// One JSON object, alone on standard output; the exit status follows its `ok`.
    #[arg(long)]
    pub json: bool,
    /// Leave the configuration, the daemon's log, the ledger and its keys, a statement and the sink's files in DIR.
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Before the checks of the records, leave the daemon, its page and some traffic there for so long, 1 to 86400 s, or until
    /// Ctrl-C.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub hold: Option<u64>,
}

/// Ceiling of the tenant that tries to exceed it, bits/s, and its burst, bytes: low enough that an
/// emulated machine exceeds it too.
const CEILING: (u64, u64) = (10_000_000, 250_000);

/// The tenants: one that hands over GSO packets, one that segments by itself and has ceilings, one
/// that lies about who it is.
const TENANTS: [TenantSpec; 3] = [
    TenantSpec {
        name: "alice",
        offloads: true,
        limits: "",
    },
    TenantSpec {
        name: "bob",
        offloads: false,
        limits: "from_tenant = { ceiling = \"10Mbit/s\", burst = \"250kB\" }\n\
                 to_tenant = { ceiling = \"200Mbit/s\", burst = \"625kB\", packet_rate = \"200kpps\" }",
    },
    TenantSpec {
        name: "mallory",
        offloads: false,
        limits: "",
    },
];

/// Name of the ledger in the site's directory, and of its keys beside it: with the private one `octroi prove` works on
/// what was kept.
const LEDGER: &str = "ledger.db";
const KEYS: [&str; 2] = ["ledger.pub", "ledger.key"];

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Relaxed);
}

/// True after SIGINT or SIGTERM.
fn interrupted() -> bool {
    INTERRUPTED.load(Relaxed)
}

/// Runs the demo; everything it made is gone when it returns.
pub fn run(options: &Options) -> ExitCode {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(signal, interrupt as *const () as libc::sighandler_t) };
    }
    match play(options) {
        Ok(outcome) => {
            if options.json {
                println!("{}", outcome.json());
            } else {
                print!("{}", outcome.text());
            }
            if outcome.ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            if options.json {
                let error = format!("{error:#}");
                println!(
                    "{}",
                    serde_json::json!({ "ok": false, "checks": [], "error": error })
                );
            }
            eprintln!("octroi demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(options: &Options) -> Result<Outcome> {
    site::possible().map_err(anyhow::Error::msg)?;
    let say = |line: &str| eprintln!("{line}");
    say("demo: making a host, three tenants and a remote end in network namespaces");
    let mut site = Site::new(&TENANTS)?;
    let ledger = site.directory().join(LEDGER);
    let config = site.config("") + &records::section(&ledger) + &look::section(&site)?;
    site.write_config(&config)?;
    let octroi = std::env::current_exe().context("this program's own path")?;

    let mut outcome = Outcome::default();
    outcome.push(scene::unguarded_before_the_gate(&site)?);
    site.start(&octroi)?;
    say("demo: the daemon runs; traffic begins");
    let blessed = crate::status::blessed(&site.report()?);
    outcome.push(Check::equal(
        "ports blessed",
        blessed as u64,
        TENANTS.len() as u64,
        "ports",
    ));
    let measured = scene::traffic(&mut site, &octroi, options)?;
    checks::compare(&measured, CEILING, &mut outcome);
    neighbour::scene(&site, &config, CEILING, &mut outcome)?;
    encryption::scene(&site, &config, &mut outcome)?;
    look::page(&site, &mut outcome)?;
    look::hold(&site, &octroi, options)?;
    let report = site.report()?;
    site.stop();
    records::compare(&ledger, &report, &mut outcome)?;
    let taken = look::sink(&site, &mut outcome)?;
    look::statement(&site, &octroi)?;
    outcome.look = look::places(options, &taken);
    if let Some(directory) = &options.keep {
        keep(&site, directory)?;
    }
    outcome.push(scene::nothing_left(&site));
    drop(site);
    anyhow::ensure!(!interrupted(), "interrupted; everything is removed");
    Ok(outcome)
}

fn keep(site: &Site, directory: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("{}", directory.display()))?;
    let files = ["octroi.toml", "daemon.log", look::STATEMENT, LEDGER];
    for name in files.into_iter().chain(KEYS) {
        std::fs::copy(site.directory().join(name), directory.join(name))
            .with_context(|| format!("{}/{name}", directory.display()))?;
    }
    look::keep(site, directory)
}
