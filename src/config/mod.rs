//! The configuration file: read, checked, written back.
//!
//! Invariants
//! - What [`parse`] returns is checked: names resolve, numbers are in range, no port overlaps
//!   another, every zone has a number that its host has room for. Nothing needs a second look.
//! - All that is wrong with a file is reported at once, each with line and column and with what to
//!   write instead; no input panics.
//! - `parse(to_toml(c)) == c` for every `c` that was checked.
//! - Numbers are integers in the smallest unit; what cannot be said exactly is refused.
//!
//! It is not: the state of the host (an interface need not exist), nor the history (that a tenant's
//! number was never another's is for the ledger to say).
//!
//! A text goes `file` (TOML to a `draft`, each value with its place) → `validate` (what needs more
//! than one value) → [`Config`]. A port that is added to a running configuration enters at the
//! draft, without places.

mod api;
mod billing;
mod draft;
mod encryption;
mod errors;
mod file;
mod ipfix;
mod lago;
mod metrics;
mod model;
mod own_profile;
mod paths;
mod profile;
mod provide;
pub mod quota;
mod reader;
mod share;
mod sink;
mod suites;
mod validate;
mod values;
mod write;

pub mod units;

#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::Path;

pub use api::{Api, Holder, Tls};
pub use billing::{Billing, ChargeChange, ChargeClass, Zone as BillingZone};
pub use encryption::{
    Direction, Encryption, Evidence, Exemption, Fragments, Midstream, Mode, TcpPort,
};
pub use errors::{ConfigError, Errors, Place};
pub use metrics::Metrics;
pub use model::{
    BUILT_IN_ZONES, ClearOverlays, Config, Host, Limits, Meter, Port, Retention, Shape, Tenant,
    Uplink, ZONE_ID_FIRST, Zone,
};
pub use own_profile::{Accepts, Overlays, OwnProfile, Protocol, TlsMin};
pub use profile::Profile;
pub use provide::{Peer, Provide};
pub use quota::{Quota, QuotaDirection, QuotaPeriod, QuotaThen};
pub use share::{Share, Shared, shared};
pub use sink::Sink;
pub use suites::{Group, Suite};
pub use values::{Cidr, InterfaceName, Mac, Name, ValueError, Vlan};

use draft::Draft;
use errors::Faults;

/// A file larger than this is not read.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A configuration with a comment for each key.
pub const EXAMPLE: &str = include_str!("example.toml");

/// Reads and checks a configuration; `name` stands for the file in messages.
///
/// # Errors
/// All that is wrong with the text; of a text that is not TOML, the first place where it is not.
pub fn parse(text: &str, name: &str) -> Result<Config, Errors> {
    let mut faults = Faults::new(name, text);
    let config =
        file::read_config(text, &mut faults).and_then(|draft| validate::check(draft, &mut faults));
    config
        .filter(|_| faults.is_empty())
        .ok_or_else(|| faults.into_errors())
}

/// Reads and checks the body of one `[[port]]`, with or without that header; `name` stands for the
/// text in messages. What needs the other ports is checked by [`Config::with_port`].
///
/// # Errors
/// As [`parse`].
pub fn parse_port(text: &str, name: &str) -> Result<Port, Errors> {
    let mut faults = Faults::new(name, text);
    let port = file::read_port(text, &mut faults)
        .and_then(|draft| validate::check_port(draft, &mut faults));
    port.filter(|_| faults.is_empty())
        .ok_or_else(|| faults.into_errors())
}

/// The TOML of a port that was given as TOML or as a JSON object: programs have the one, people the other.
///
/// # Errors
/// When it begins as an object does and is none, or has values that TOML has not.
pub fn port_toml(text: String) -> Result<String, String> {
    // No TOML document begins with a brace.
    if !text.trim_start().starts_with('{') {
        return Ok(text);
    }
    let object: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| format!("port: {error}; write a JSON object, or TOML"))?;
    toml::to_string(&object)
        .map_err(|error| format!("port: {error}; leave a key out that has no value"))
}

/// Reads and checks the file at `path`.
///
/// # Errors
/// As [`parse`], and if the file cannot be read, is not a regular file, is larger than 64 MiB or is
/// not UTF-8.
pub fn load(path: &Path) -> Result<Config, Errors> {
    let name = path.display().to_string();
    let bytes = read_bytes(path).map_err(|message| Errors::of_file(&name, message))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(text, &name),
        Err(error) => {
            let valid_len = error.valid_up_to();
            let valid = String::from_utf8_lossy(&bytes[..valid_len]);
            let mut faults = Faults::new(&name, &valid);
            let message = format!(
                "byte {:#04x} is not UTF-8; save the file as UTF-8",
                bytes[valid_len]
            );
            faults.add(errors::At(Some(valid_len)), message);
            Err(faults.into_errors())
        }
    }
}

/// The bytes of a regular file of bounded size.
fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no such file; write one, the example names every key".to_string()
        }
        std::io::ErrorKind::PermissionDenied => {
            "the file may not be read; run as root, or give this user the right to read it"
                .to_string()
        }
        _ => format!("the file cannot be read: {error}"),
    };
    // Asked before the file is opened, since opening a pipe waits for its writer.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err("this is a directory; name the file in it".to_string());
    }
    if !metadata.is_file() {
        return Err("this is not a regular file; copy it to one".to_string());
    }
    let too_large = || "the file is larger than 64MiB; this is no configuration".to_string();
    if metadata.len() > FILE_BYTES_MAX {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(too_large());
    }
    Ok(bytes)
}

impl Config {
    /// This configuration and one more port.
    ///
    /// # Errors
    /// If the port is wrong in itself, does not go with the others, or has the name of one.
    pub fn with_port(&self, port: Port) -> Result<Config, Errors> {
        let mut changed = self.clone();
        changed.ports.push(port);
        changed.checked()
    }

    /// This configuration without the port of that name.
    ///
    /// # Errors
    /// If there is no such port.
    pub fn without_port(&self, name: &str) -> Result<Config, Errors> {
        let index = self.port_index(name)?;
        let mut changed = self.clone();
        changed.ports.remove(index);
        changed.checked()
    }

    /// This configuration with `port` in place of the one that has its name.
    ///
    /// # Errors
    /// If there is no port of that name, or as [`Config::with_port`].
    pub fn with_port_replaced(&self, port: Port) -> Result<Config, Errors> {
        let index = self.port_index(port.name.as_str())?;
        let mut changed = self.clone();
        changed.ports[index] = port;
        changed.checked()
    }

    /// The configuration as a TOML text; [`parse`] makes the same of it again.
    pub fn to_toml(&self) -> String {
        write::to_toml(self)
    }

    /// This configuration if nothing is wrong with it.
    fn checked(&self) -> Result<Config, Errors> {
        let mut faults = Faults::new("", "");
        let config = validate::check(Draft::from(self), &mut faults);
        config
            .filter(|_| faults.is_empty())
            .ok_or_else(|| faults.into_errors())
    }

    /// Place of a port in the list.
    fn port_index(&self, name: &str) -> Result<usize, Errors> {
        let index = self
            .ports
            .iter()
            .position(|port| port.name.as_str() == name);
        index.ok_or_else(|| {
            let names = self.ports.iter().map(|port| port.name.as_str());
            let hint = match reader::nearest(name, names) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => "`octroi status` lists the ports".to_string(),
            };
            Errors::without_place(format!("there is no port {}; {hint}", values::shown(name)))
        })
    }
}
