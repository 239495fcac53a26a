//! The command line. Exit status: 0 done, 1 the system refused, 2 the configuration or the command
//! is wrong.

use crate::{
    access,
    config::{self, Config},
    correct,
    daemon::{self, control},
    demo, doctor, encryption, explain, flood, flows, generate, import, loader, metrics, price,
    privacy, proof, provide, quota, reconcile, records, sinks, statement, status, store, top,
    usage,
};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use dataplane::object;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::LazyLock,
};

/// The gate for a cloud host's tenants: limits, checks and counts every byte in the kernel.
#[derive(Debug, Parser)]
#[command(name = "octroi", version, long_version = version())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What `--version` says: of the program, and of what it loads into the kernel.
fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        format!(
            "{}\nBPF object sha256:{}",
            env!("CARGO_PKG_VERSION"),
            object::OBJECT_SHA256
        )
    });
    &VERSION
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: attach, enforce, count, follow interfaces.
    Run {
        /// Configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Put a configuration in force, all or nothing.
    Apply {
        /// Configuration.
        file: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Add, change or remove one port; returns when the port is blessed.
    Port {
        #[command(subcommand)]
        action: PortAction,
    },
    /// Tenants and ports of a configuration, from what libvirt or Neutron says.
    Import {
        #[command(subcommand)]
        source: import::Source,
    },
    /// Check a configuration and say what memory it takes.
    Check {
        /// Configuration.
        file: PathBuf,
        /// Also whether this user may read and write what it names, as the daemon must be able to.
        #[arg(long)]
        access: bool,
    },
    /// What this kernel and host can do, what will be used, and what bypasses the gate.
    Doctor {
        /// One JSON object on standard output.
        #[arg(long)]
        json: bool,
        /// Measure instead what a packet and a byte cost this host, in namespaces of its own, for at most 15 seconds, and say
        /// what `packet_price_bytes` that makes.
        #[arg(long)]
        calibrate: bool,
    },
    /// Ports, rates, drops, and what is in force.
    Status {
        /// One JSON object on standard output.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: At,
    },
    /// What Prometheus watches, in its text format. For alarms, not for bills: its numbers are floats.
    Metrics {
        #[command(flatten)]
        at: At,
    },
    /// Tenants and ports with their rates, in a terminal.
    Top(top::Options),
    /// Remove everything that octroi put into the kernel.
    Detach {
        #[command(flatten)]
        at: At,
        /// Where the daemon of this configuration is.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["run_dir", "pin_dir"])]
        config: Option<PathBuf>,
        /// Also what other versions of octroi pinned.
        #[arg(long)]
        all_versions: bool,
    },
    /// Meter records: who carried how much, when, to where.
    Records(records::Options),
    /// Flow detail: where bytes went. Who looks is in the ledger.
    Flows(flows::Options),
    /// What of each tenant's traffic is encrypted, by what, and what a rule refuses or would.
    Encryption(encryption::Options),
    /// Tenants' budgets of bytes: what was had of each, what is left, and what is in force.
    Quota(quota::Options),
    /// Tunnels to other hosts whose keys are this host's, and what the others need to know.
    Provide(provide::Options),
    /// Totals, roll-ups by hour and day, 95th percentiles: what a bill is made of.
    Usage(usage::Options),
    /// Every record, flag, drop and policy revision behind a number of a bill.
    Explain(explain::Options),
    /// A tenant's month on one page that prints, as CSV or as JSON.
    Statement(statement::Options),
    /// Adds a correction to the ledger: signed, with a reason, and nothing is changed.
    Correct(correct::Options),
    /// A tenant's data: hand them over, or erase them before their time.
    Privacy {
        #[command(subcommand)]
        action: privacy::Action,
    },
    /// Where records go, and how far each sink is.
    Sinks(sinks::Options),
    /// Compare the totals at a sink with the ledger.
    Reconcile(reconcile::ReconcileOptions),
    /// Send a sink once more what it acknowledged and lost; it drops what it has.
    Replay(reconcile::ReplayOptions),
    /// Take the records of many hosts out of a NATS stream into one PostgreSQL database, each exactly once.
    Store(store::Options),
    /// The file that the records are in.
    Ledger {
        #[command(subcommand)]
        action: records::LedgerAction,
    },
    /// Check a ledger, or a proof from one, against its signed heads.
    Verify(proof::VerifyOptions),
    /// Verify a ledger, and reckon everything again from its records.
    Audit(proof::AuditOptions),
    /// A tenant's records with the way from each to the signed head, and nothing of anybody else.
    Prove(proof::ProveOptions),
    /// The key that signs a ledger's heads.
    Key {
        #[command(subcommand)]
        action: proof::KeyAction,
    },
    /// Tenants in network namespaces, real traffic, the real daemon, and checks at the end.
    Demo(demo::Options),
    /// What `run` starts for everything that takes no capability.
    #[command(hide = true, name = loader::METER)]
    RunMeter {
        /// Configuration, for messages and SIGHUP: its content comes from the loader.
        config: PathBuf,
    },
    /// Manual pages and completions, for packages.
    #[command(hide = true)]
    Generate {
        /// Where to.
        directory: PathBuf,
    },
}

/// Where the daemon is.
#[derive(Clone, Debug, Args)]
pub struct At {
    /// Directory of the control socket.
    #[arg(long, default_value = config::Host::RUN_DIR, value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
    /// Directory of the pins.
    #[arg(long, default_value = config::Host::PIN_DIR, value_name = "DIR")]
    pub(crate) pin_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum PortAction {
    /// Add a port.
    Add(PortText),
    /// Change a port that was added with `port add`.
    Set(PortText),
    /// Remove a port that was added with `port add`.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Debug, Args)]
struct PortText {
    /// The body of a `[[port]]` as in the configuration, or a JSON object with its keys; `-` reads standard input.
    #[arg(value_name = "TOML | JSON")]
    port: String,
    #[command(flatten)]
    at: At,
}

/// How a command failed.
enum Failure {
    /// Exit status 2.
    Config(String),
    /// Exit status 1.
    System(String),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<config::Errors>() {
            Ok(errors) => Self::Config(errors.to_string()),
            Err(error) => Self::System(format!("{error:#}")),
        }
    }
}

impl From<config::Errors> for Failure {
    fn from(errors: config::Errors) -> Self {
        Self::Config(errors.to_string())
    }
}

impl From<control::Refusal> for Failure {
    fn from(refusal: control::Refusal) -> Self {
        if refusal.config {
            Self::Config(refusal.message)
        } else {
            Self::System(refusal.message)
        }
    }
}

/// The command line, for its manual pages.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line and runs the command.
pub fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run { config } => match loader::run(&config) {
            Ok(status) => return status,
            Err(error) => Err(Failure::from(error)),
        },
        Command::RunMeter { config } => daemon::run(&config).map_err(Failure::from),
        Command::Apply { file, at } => apply(&file, &at),
        Command::Port { action } => port(action),
        Command::Import { source } => import::run(&source).map_err(Failure::from),
        Command::Check { file, access } => check(&file, access),
        Command::Doctor {
            json,
            calibrate: true,
        } => doctor::calibrate(json).map_err(Failure::from),
        Command::Doctor { json, .. } => return doctor::run(json),
        Command::Status { json, at } => {
            status::show(&at.run_dir, &at.pin_dir, json).map_err(Failure::from)
        }
        Command::Metrics { at } => metrics::show(&at.run_dir, &at.pin_dir).map_err(Failure::from),
        Command::Top(options) => top::run(&options).map_err(Failure::from),
        Command::Detach {
            at,
            config,
            all_versions,
        } => detach(at, config.as_deref(), all_versions),
        Command::Records(options) => records::show(&options).map_err(Failure::from),
        Command::Encryption(options) => encryption::encryption(&options).map_err(Failure::from),
        Command::Provide(options) => provide::provide(&options).map_err(Failure::from),
        Command::Flows(options) => flows::show(&options).map_err(Failure::from),
        Command::Quota(options) => quota::show(&options).map_err(Failure::from),
        Command::Usage(options) => usage::show(&options).map_err(Failure::from),
        Command::Explain(options) => explain::show(&options).map_err(Failure::from),
        Command::Statement(options) => statement::run(&options).map_err(Failure::from),
        Command::Correct(options) => correct::run(&options).map_err(Failure::from),
        Command::Privacy { action } => privacy::run(&action).map_err(Failure::from),
        Command::Sinks(options) => sinks::show(&options).map_err(Failure::from),
        Command::Reconcile(options) => reconcile::reconcile(&options).map_err(Failure::from),
        Command::Replay(options) => reconcile::replay(&options).map_err(Failure::from),
        Command::Store(options) => store::run(&options).map_err(Failure::from),
        Command::Ledger { action } => records::ledger(&action).map_err(Failure::from),
        Command::Verify(options) => proof::verify(&options).map_err(Failure::from),
        Command::Audit(options) => proof::audit(&options).map_err(Failure::from),
        Command::Prove(options) => proof::prove(&options).map_err(Failure::from),
        Command::Key { action } => proof::key(&action).map_err(Failure::from),
        Command::Demo(options) => return demo::run(&options),
        Command::Generate { directory } => {
            generate::run(command(), &directory).map_err(Failure::from)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Config(message)) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
        Err(Failure::System(message)) => {
            eprintln!("octroi: {message}");
            ExitCode::FAILURE
        }
    }
}

fn apply(file: &Path, at: &At) -> Result<(), Failure> {
    // Checked here too, so that a mistake is told in the operator's own terminal and file name.
    let config = config::load(file)?;
    let request = control::Request::Apply {
        config: config.to_toml(),
    };
    let answer = control::call(&at.run_dir, &request)?;
    println!("{answer}");
    Ok(())
}

fn detach(mut at: At, config: Option<&Path>, all_versions: bool) -> Result<(), Failure> {
    if let Some(config) = config {
        let host = config::load(config)?.host;
        at = At {
            run_dir: host.run_dir,
            pin_dir: host.pin_dir,
        };
    }
    daemon::detach(&at.run_dir, &at.pin_dir, all_versions).map_err(Failure::from)
}

fn port(action: PortAction) -> Result<(), Failure> {
    let read = |text: &PortText| -> Result<String, Failure> {
        let toml = if text.port == "-" {
            std::io::read_to_string(std::io::stdin())
                .map_err(|error| Failure::System(format!("standard input: {error}")))?
        } else {
            text.port.clone()
        };
        let toml = config::port_toml(toml).map_err(Failure::Config)?;
        config::parse_port(&toml, "port")?;
        Ok(toml)
    };
    let (request, at) = match action {
        PortAction::Add(text) => (control::Request::PortAdd { port: read(&text)? }, text.at),
        PortAction::Set(text) => (control::Request::PortSet { port: read(&text)? }, text.at),
        PortAction::Remove { name, at } => (control::Request::PortRemove { name }, at),
    };
    println!("{}", control::call(&at.run_dir, &request)?);
    Ok(())
}

fn check(file: &Path, with_access: bool) -> Result<(), Failure> {
    let config: Config = config::load(file)?;
    if with_access {
        access::check(&config)?;
    }
    println!(
        "{}: {} tenants, {} ports, {} zones, {} uplinks: no mistake",
        file.display(),
        config.tenants.len(),
        config.ports.len(),
        config.zones.len() + config::BUILT_IN_ZONES.len(),
        config.uplinks.len()
    );
    config::quota::tell(&config);
    price::tell(&config);
    encryption::explain(&config);
    provide::explain(&config);
    flood::tell(&config);
    sinks::tell(&config);
    status::print_memory(&config);
    Ok(())
}
