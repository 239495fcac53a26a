//! Lists of ports as JSON: what Neutron's API answers to `GET /v2.0/ports`, and what `openstack port list --long -f
//! json` makes of it. The second says neither project nor host: `openstack port list --host HOST --project ID` asks
//! for those of one, and `--project` says here which it was.

use super::{Found, Import};
use crate::config::{Cidr, InterfaceName, Mac, Name};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Nova's and Zun's ports are tenants'; those of `network:…` are the platform's.
const OWNERS: [&str; 1] = ["compute:"];
/// Kinds of `binding:vif_type` that pass through no interface of the host.
const BYPASS: [&str; 3] = ["vhostuser", "hw_veb", "hostdev_physical"];
/// How much of a port's number the name of its device has.
const DEVICE_CHARS: usize = 11;

/// Reads a list; `name` stands for the text in messages.
///
/// # Errors
/// What is wrong, on one line.
pub(super) fn read(
    text: &str,
    name: &str,
    host: Option<&str>,
    project: Option<&Name>,
) -> Result<Import, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        format!("{name}: not JSON: {error}; write what `GET /v2.0/ports` answers or `openstack port list --long -f json` prints")
    })?;
    let list = match &value {
        Value::Object(object) => object.get("ports").and_then(Value::as_array),
        Value::Array(list) => Some(list),
        _ => None,
    };
    let list =
        list.ok_or_else(|| format!("{name}: neither a list nor an object with a list `ports`"))?;
    let mut ports = Vec::new();
    for (number, item) in (1..).zip(list) {
        let object = item.as_object();
        let object = object.ok_or_else(|| format!("{name}: port {number} is not an object"))?;
        ports.push(Port {
            keys: alike(object),
            at: format!("{name}: port {number}"),
        });
    }
    one_host(&ports, name, host)?;
    let mut import = Import::default();
    for port in &ports {
        match port.found(host, project)? {
            Ok(Some(found)) => import.ports.push(found),
            Ok(None) => {}
            Err(note) => import.notes.push(format!("{}: {note}", port.at)),
        }
    }
    Ok(import)
}

/// A port with its keys as [`alike`] writes them.
struct Port<'a> {
    keys: BTreeMap<String, &'a Value>,
    at: String,
}

/// `binding:host_id`, `Binding Host ID` and `binding_host_id` are one key.
fn alike(object: &Map<String, Value>) -> BTreeMap<String, &Value> {
    let small = |c: char| match c {
        ' ' | ':' | '-' => '_',
        _ => c.to_ascii_lowercase(),
    };
    let pairs = object.iter();
    pairs
        .map(|(key, value)| (key.chars().map(small).collect(), value))
        .collect()
}

/// # Errors
/// When nobody said which of several hosts.
fn one_host(ports: &[Port<'_>], name: &str, host: Option<&str>) -> Result<(), String> {
    let hosts = ports
        .iter()
        .filter_map(|port| port.text(&["binding_host_id"]));
    let hosts: BTreeSet<&str> = hosts.filter(|host| !host.is_empty()).collect();
    let shown = hosts.iter().take(4).copied().collect::<Vec<_>>().join(", ");
    match host {
        None if hosts.len() > 1 => Err(format!(
            "{name}: ports of {} hosts ({shown}…); say which one with --host",
            hosts.len()
        )),
        Some(host) if !hosts.is_empty() && !hosts.contains(host) => Err(format!(
            "{name}: no port is bound to {host:?}, but to {shown}; write the host as Neutron does"
        )),
        _ => Ok(()),
    }
}

impl Port<'_> {
    fn text(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().find_map(|key| self.keys.get(*key)?.as_str())
    }

    /// `Ok(None)`: of another host, or the platform's; `Err` inside: left out, and why.
    fn found(
        &self,
        host: Option<&str>,
        project: Option<&Name>,
    ) -> Result<Result<Option<Found>, String>, String> {
        let bound = self.text(&["binding_host_id"]);
        if host.is_some() && bound.is_some() && bound != host {
            return Ok(Ok(None));
        }
        let owner = self.text(&["device_owner"]).ok_or_else(|| {
            format!(
                "{}: no device owner; list with `openstack port list --long`",
                self.at
            )
        })?;
        if !OWNERS.iter().any(|begin| owner.starts_with(begin)) {
            return Ok(Ok(None));
        }
        let kind = self.text(&["binding_vif_type"]).unwrap_or_default();
        if BYPASS.contains(&kind) {
            return Ok(Err(format!(
                "left out: vif_type {kind} does not pass through the gate; `octroi doctor` names what bypasses it"
            )));
        }
        if matches!(kind, "unbound" | "binding_failed") {
            return Ok(Err(format!("left out: vif_type {kind}: it is on no host")));
        }
        let id = self.needed(&["id"])?;
        let begin = id.get(..DEVICE_CHARS);
        let begin = begin.ok_or_else(|| format!("{}: {id:?} is no port's number", self.at))?;
        let interface: InterfaceName = self.value(&format!("tap{begin}"))?;
        let (macs, addresses) = self.may_use()?;
        if addresses.is_empty() {
            return Ok(Err(super::NO_ADDRESS.into()));
        }
        Ok(Ok(Some(Found {
            name: self.value(id)?,
            tenant: self.project(project)?,
            interface,
            macs,
            addresses,
        })))
    }

    fn project(&self, said: Option<&Name>) -> Result<Name, String> {
        match (self.text(&["project_id", "tenant_id", "project"]), said) {
            // A list without projects has the column empty in some versions.
            (Some(text), _) if !text.is_empty() => self.value(text),
            (_, Some(said)) => Ok(said.clone()),
            _ => Err(format!(
                "{}: it names no project: list one project with `openstack port list --project ID`, and say it with \
                 --project, or take the API's own list",
                self.at
            )),
        }
    }

    /// Its own MAC and addresses, and those of its allowed address pairs.
    fn may_use(&self) -> Result<(Vec<Mac>, Vec<Cidr>), String> {
        let mut macs = vec![self.value(self.needed(&["mac_address"])?)?];
        let mut addresses = Vec::new();
        let fixed = ["fixed_ips", "fixed_ip_addresses"];
        let fixed = fixed.iter().find_map(|key| self.keys.get(*key));
        for pair in self.pairs(fixed.copied(), "fixed_ips")? {
            self.add(&mut addresses, pair.get("ip_address"))?;
        }
        let allowed = self.keys.get("allowed_address_pairs").copied();
        for pair in self.pairs(allowed, "allowed_address_pairs")? {
            self.add(&mut addresses, pair.get("ip_address"))?;
            if let Some(mac) = pair.get("mac_address").and_then(Value::as_str) {
                let mac = self.value(mac)?;
                if !macs.contains(&mac) {
                    macs.push(mac);
                }
            }
        }
        Ok((macs, addresses))
    }

    /// A list of objects; an absent one is empty.
    fn pairs(&self, value: Option<&Value>, key: &str) -> Result<Vec<Map<String, Value>>, String> {
        let wrong = || format!("{}: `{key}` is not a list of objects", self.at);
        match value {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                let objects = items.iter().map(|item| item.as_object().cloned());
                objects.collect::<Option<_>>().ok_or_else(wrong)
            }
            // Clients before 2018 print each as `ip_address='10.0.0.5', subnet_id='…'`.
            Some(Value::String(text)) => Ok(text.lines().filter_map(old_pair).collect()),
            Some(_) => Err(wrong()),
        }
    }

    fn add(&self, addresses: &mut Vec<Cidr>, value: Option<&Value>) -> Result<(), String> {
        let text = value.and_then(Value::as_str);
        let text = text.ok_or_else(|| format!("{}: an address is missing", self.at))?;
        let address = self.value(text)?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
        Ok(())
    }

    fn needed(&self, keys: &[&str]) -> Result<&str, String> {
        let missing = || format!("{}: no `{}`", self.at, keys.join("` or `"));
        self.text(keys).ok_or_else(missing)
    }

    fn value<T: std::str::FromStr<Err: std::fmt::Display>>(&self, text: &str) -> Result<T, String> {
        text.parse()
            .map_err(|error| format!("{}: {error}", self.at))
    }
}

/// `ip_address='10.0.0.5', subnet_id='…'` as an object of its address.
fn old_pair(line: &str) -> Option<Map<String, Value>> {
    let (_, rest) = line.split_once("ip_address='")?;
    let (address, _) = rest.split_once('\'')?;
    let mut object = Map::new();
    object.insert("ip_address".into(), address.into());
    Some(object)
}
