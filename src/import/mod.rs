//! `octroi import`: tenants and ports out of what a cloud already knows of itself.
//!
//! Invariants
//! - Nothing is guessed: a guest without a tenant, an address that is none, two hosts in one list are refused, with
//!   what to write. What cannot pass through the gate at all is named and left out.
//! - What comes out is checked as a configuration is, and nothing is written when anything is wrong.
//! - Names are stable: a port is called by its number in Neutron where that is known, else by its guest and MAC.
//!
//! It is not: a way to follow changes. Hooks do that, with `octroi port add` (`packaging/examples`).

mod libvirt;
mod neutron;
mod output;
#[cfg(test)]
mod tests;

use crate::config::{self, Cidr, Config, InterfaceName, Mac, Name};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

/// Larger texts are not read.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// Why a port is left out that the gate could not check.
const NO_ADDRESS: &str = "left out: no address of it is known; write its [[port]] by hand";

/// `octroi import`.
#[derive(Debug, Subcommand)]
pub enum Source {
    /// The interfaces of guests, from `virsh dumpxml` of each.
    Libvirt(LibvirtOptions),
    /// The ports of a host, from Neutron's API (`GET /v2.0/ports`) or `openstack port list --long -f json`.
    Neutron(NeutronOptions),
}

/// `octroi import libvirt`.
#[derive(Debug, Args)]
pub struct LibvirtOptions {
    /// XML of a running guest; `-` reads standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Tenant of guests whose XML names none.
    #[arg(long, value_name = "NAME")]
    tenant: Option<Name>,
    /// One port a line, as JSON that `octroi port add` takes: for hooks.
    #[arg(long, conflicts_with_all = ["merge", "first_tenant_id"])]
    lines: bool,
    /// The names of the ports alone: for hooks.
    #[arg(long, conflicts_with_all = ["merge", "first_tenant_id", "lines"])]
    names: bool,
    #[command(flatten)]
    into: Into,
}

/// `octroi import neutron`.
#[derive(Debug, Args)]
pub struct NeutronOptions {
    /// JSON; `-` reads standard input.
    file: PathBuf,
    /// Takes the ports that are bound to this host. Needed where a list has those of several.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Project of ports that name none, as in `openstack port list --project NAME`.
    #[arg(long, value_name = "ID")]
    project: Option<Name>,
    #[command(flatten)]
    into: Into,
}

/// Where to.
#[derive(Debug, Args)]
struct Into {
    /// Adds what is new to this configuration, which keeps its text; left out: standard output.
    #[arg(long, value_name = "FILE")]
    merge: Option<PathBuf>,
    /// Number of the first tenant that has none yet; left out: the one after the highest of the configuration.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    first_tenant_id: Option<u32>,
}

/// A port that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    name: Name,
    tenant: Name,
    interface: InterfaceName,
    macs: Vec<Mac>,
    addresses: Vec<Cidr>,
}

/// What was found in one text, and what was left out, and why.
#[derive(Debug, Default, PartialEq, Eq)]
struct Import {
    ports: Vec<Found>,
    notes: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with a text or with what would come of it; nothing is written then.
pub fn run(source: &Source) -> Result<()> {
    let mut all = Import::default();
    let mut take = |import: Import| {
        all.ports.extend(import.ports);
        all.notes.extend(import.notes);
    };
    let into = match source {
        Source::Libvirt(options) => {
            for file in &options.files {
                let name = file.display().to_string();
                take(libvirt::read(&text(file)?, &name, options.tenant.as_ref()).map_err(wrong)?);
            }
            &options.into
        }
        Source::Neutron(options) => {
            let name = options.file.display().to_string();
            let (host, project) = (options.host.as_deref(), options.project.as_ref());
            take(neutron::read(&text(&options.file)?, &name, host, project).map_err(wrong)?);
            &options.into
        }
    };
    for note in &all.notes {
        eprintln!("octroi: {note}");
    }
    match source {
        Source::Libvirt(options) if options.lines || options.names => {
            for port in &all.ports {
                if options.names {
                    println!("{}", port.name);
                } else {
                    println!("{}", output::line(port));
                }
            }
            Ok(())
        }
        _ => write(&all.ports, into),
    }
}

fn write(ports: &[Found], into: &Into) -> Result<()> {
    let Some(path) = &into.merge else {
        let (text, _) = output::tables(ports, None, into.first_tenant_id).map_err(wrong)?;
        // What is no part of a configuration must not look like one.
        config::parse(&format!("[host]\nname = \"import\"\n{text}"), "import")?;
        print!("{text}");
        return Ok(());
    };
    let before = config::load(path)?;
    let old = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (new, count) = output::tables(ports, Some(&before), into.first_tenant_id).map_err(wrong)?;
    if new.is_empty() {
        println!("{}: nothing is new", path.display());
        return Ok(());
    }
    let end = if old.ends_with('\n') { "" } else { "\n" };
    let text = format!("{old}{end}{new}");
    config::parse(&text, &format!("{} with the import", path.display()))?;
    replace(path, &text).with_context(|| format!("{}: cannot be written", path.display()))?;
    println!(
        "{}: {count} ports added; `octroi apply` puts it in force",
        path.display()
    );
    Ok(())
}

/// All or nothing, with the mode that the file had.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::metadata(path)?.permissions())?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(&new, path)
}

/// A mistake in what was given: exit status 2.
fn wrong(message: String) -> anyhow::Error {
    config::Errors::without_place(message).into()
}

fn text(path: &Path) -> Result<String> {
    let name = path.display();
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin()
            .take(TEXT_BYTES_MAX + 1)
            .read_to_end(&mut bytes)?;
    } else {
        let file = fs::File::open(path).with_context(|| name.to_string())?;
        file.take(TEXT_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .with_context(|| name.to_string())?;
    }
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        bail!("{name} is larger than 64MiB; give it in parts");
    }
    String::from_utf8(bytes).map_err(|_| wrong(format!("{name} is not UTF-8")))
}

/// The number that a configuration gives a tenant.
fn known_id(config: Option<&Config>, name: &Name) -> Option<u32> {
    let mut tenants = config?.tenants.iter();
    Some(tenants.find(|tenant| tenant.name == *name)?.id.0)
}
