//! What was found, as tables of a configuration or as lines for `octroi port add`.

use super::{Found, known_id};
use crate::config::{Config, Name, Port};
use serde_json::json;
use std::{collections::BTreeMap, fmt::Write as _};

/// A port as a JSON object on one line.
pub(super) fn line(port: &Found) -> String {
    let texts = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>();
    json!({
        "name": port.name.as_str(),
        "tenant": port.tenant.as_str(),
        "interface": port.interface.to_string(),
        "macs": texts(&mut port.macs.iter().map(ToString::to_string)),
        "addresses": texts(&mut port.addresses.iter().map(ToString::to_string)),
    })
    .to_string()
}

/// The tables of tenants and ports that a configuration does not have, and how many ports these are.
///
/// # Errors
/// When a port is there and is another, or numbers run out.
pub(super) fn tables(
    ports: &[Found],
    config: Option<&Config>,
    first_id: Option<u32>,
) -> Result<(String, usize), String> {
    let mut new = Vec::new();
    for port in ports {
        match config.and_then(|config| config.port(port.name.as_str())) {
            Some(known) => same(port, known)?,
            None => new.push(port),
        }
    }
    let mut text = String::new();
    for (name, id) in numbers(&new, config, first_id)? {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n[[tenant]]\nname = {}\nid = {id}\n", quoted(name));
    }
    for port in &new {
        let _ = write!(
            text,
            "\n[[port]]\nname = {}\ntenant = {}\ninterface = {}\nmacs = {}\naddresses = {}\n",
            quoted(&port.name),
            quoted(&port.tenant),
            quoted(&port.interface),
            list(&port.macs),
            list(&port.addresses),
        );
    }
    Ok((text, new.len()))
}

/// Tenants that have no number yet, with theirs, in the order of their names.
fn numbers<'a>(
    ports: &[&'a Found],
    config: Option<&Config>,
    first_id: Option<u32>,
) -> Result<BTreeMap<&'a Name, u32>, String> {
    let highest = config.map_or(0, |config| {
        let ids = config.tenants.iter().map(|tenant| tenant.id.0);
        ids.max().unwrap_or(0)
    });
    let mut next = first_id.map_or_else(|| highest.checked_add(1), Some);
    let mut given = BTreeMap::new();
    let unknown = ports
        .iter()
        .filter(|port| known_id(config, &port.tenant).is_none());
    for port in unknown {
        given.entry(&port.tenant).or_insert(0);
    }
    for id in given.values_mut() {
        *id = next
            .ok_or("there is no number left above the highest; give one with --first-tenant-id")?;
        next = id.checked_add(1);
    }
    Ok(given)
}

/// # Errors
/// When a port of the configuration has the name of one that was found, and is another.
fn same(found: &Found, known: &Port) -> Result<(), String> {
    let mut differs = Vec::new();
    let mut compare = |what: &str, was: String, is: String| {
        if was != is {
            differs.push(format!("{what} {was} there and {is} here"));
        }
    };
    compare("tenant", known.tenant.to_string(), found.tenant.to_string());
    compare(
        "interface",
        known.interface.to_string(),
        found.interface.to_string(),
    );
    compare("macs", list(&known.macs), list(&found.macs));
    compare("addresses", list(&known.addresses), list(&found.addresses));
    if differs.is_empty() {
        return Ok(());
    }
    Err(format!(
        "port {} is in the configuration and is another: {}; change it there, or take it out and import again",
        found.name,
        differs.join(", ")
    ))
}

fn quoted(value: &impl ToString) -> String {
    toml::Value::String(value.to_string()).to_string()
}

fn list(values: &[impl ToString]) -> String {
    let values: Vec<String> = values.iter().map(quoted).collect();
    format!("[{}]", values.join(", "))
}
