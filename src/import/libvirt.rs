//! The domain XML of libvirt, as `virsh dumpxml` prints it of a running guest.
//!
//! Read of it: the guest's name; Nova's `owner` and `ports` in `<metadata>` (versions 1.0 and 1.1 of its schema), or
//! an element of octroi's own there; of each `<interface>` its type, `<mac>`, `<target dev>`, `<ip>`, the `interfaceid`
//! of its `<virtualport>`, and the parameters `IP` and `IPV6` of its `<filterref>`.

use super::{Found, Import};
use crate::config::{Cidr, InterfaceName, Mac, Name};
use roxmltree::{Document, Node, ParsingOptions};
use std::collections::BTreeMap;

/// Namespace of `<octroi:tenant>` in a guest's metadata.
const OWN_NAMESPACE: &str = "urn:octroi:libvirt:1";
/// Part of the name of Nova's namespace, whatever the version.
const NOVA: &str = "/xmlns/libvirt/nova/";
/// Elements and attributes of a guest are some hundred.
const NODES_MAX: u32 = 100_000;
/// Interfaces of these types do not pass through the host's network stack.
const BYPASS: [&str; 6] = ["direct", "hostdev", "vdpa", "vhostuser", "user", "null"];

/// Reads one guest; `name` stands for the text in messages.
///
/// # Errors
/// What is wrong, on one line.
pub(super) fn read(text: &str, name: &str, tenant: Option<&Name>) -> Result<Import, String> {
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: NODES_MAX,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(text, options).map_err(|error| {
        format!("{name}: {error}; write what `virsh dumpxml GUEST` prints, a file a guest")
    })?;
    let root = document.root_element();
    // libvirt's own status files have the domain one level down.
    let domain = if root.has_tag_name("domain") {
        Some(root)
    } else {
        child(root, "domain").filter(|_| root.has_tag_name("domstatus"))
    };
    let domain = domain.ok_or_else(|| {
        let found = root.tag_name().name();
        format!("{name}: the root is <{found}> and not <domain>; write what `virsh dumpxml GUEST` prints")
    })?;
    let guest = child(domain, "name").and_then(|node| node.text());
    let guest = guest.map(str::trim).filter(|guest| !guest.is_empty());
    let guest = guest.ok_or_else(|| format!("{name}: the domain has no <name>"))?;
    let guest = Guest {
        domain,
        name: guest,
        ports: ports_of_nova(domain),
        said: tenant,
    };
    let mut import = Import::default();
    let interfaces = child(domain, "devices");
    let interfaces = interfaces
        .into_iter()
        .flat_map(|node| children(node, "interface"));
    for (number, interface) in (1..).zip(interfaces) {
        let at = format!("{name}: guest {:?}, interface {number}", guest.name);
        match one(interface, &guest, &at)? {
            Ok(found) => import.ports.push(found),
            Err(note) => import.notes.push(format!("{at}: {note}")),
        }
    }
    Ok(import)
}

/// What is the same for all interfaces.
struct Guest<'a, 'input> {
    domain: Node<'a, 'input>,
    name: &'a str,
    /// Nova's ports: number → fixed addresses.
    ports: BTreeMap<String, Vec<String>>,
    /// The tenant of a guest that names none.
    said: Option<&'a Name>,
}

/// One interface, or why it is left out.
fn one(
    interface: Node<'_, '_>,
    guest: &Guest<'_, '_>,
    at: &str,
) -> Result<Result<Found, String>, String> {
    let kind = interface.attribute("type").unwrap_or("(none)");
    if BYPASS.contains(&kind) {
        return Ok(Err(format!(
            "left out: type {kind} does not pass through the gate; `octroi doctor` names what bypasses it"
        )));
    }
    let device = child(interface, "target").and_then(|node| node.attribute("dev"));
    let Some(device) = device else {
        return Ok(Err(
            "left out: it has no <target dev>; dump the guest while it runs".into(),
        ));
    };
    let mac = child(interface, "mac").and_then(|node| node.attribute("address"));
    let mac = mac.ok_or_else(|| format!("{at}: it has no <mac address>"))?;
    let mac: Mac = mac.parse().map_err(|error| format!("{at}: {error}"))?;
    let interface_name: InterfaceName = device.parse().map_err(|error| format!("{at}: {error}"))?;
    let uuid = port_uuid(interface, device, &guest.ports);
    let novas = uuid.as_ref().and_then(|uuid| guest.ports.get(uuid));
    let texts = novas.cloned().unwrap_or_else(|| addresses_of(interface));
    let mut addresses: Vec<Cidr> = Vec::new();
    for text in texts {
        let address = text.parse().map_err(|error| format!("{at}: {error}"))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Ok(Err(super::NO_ADDRESS.into()));
    }
    let name = uuid.unwrap_or_else(|| named(guest.name, &mac));
    Ok(Ok(Found {
        name: name.parse().map_err(|error| format!("{at}: {error}"))?,
        tenant: owner(guest.domain, guest.said, at)?,
        interface: interface_name,
        macs: vec![mac],
        addresses,
    }))
}

/// The project in Nova's metadata, else octroi's own element, else what was said on the command line.
fn owner(domain: Node<'_, '_>, said: Option<&Name>, at: &str) -> Result<Name, String> {
    let metadata = child(domain, "metadata");
    let in_metadata = || metadata.into_iter().flat_map(|node| node.descendants());
    let project = in_metadata()
        .find(|node| is_nova(*node, "project"))
        .and_then(|node| node.attribute("uuid"));
    let own = in_metadata()
        .find(|node| node.has_tag_name((OWN_NAMESPACE, "tenant")))
        .and_then(|node| node.text());
    match (own.or(project), said) {
        (Some(text), _) => text
            .trim()
            .parse()
            .map_err(|error| format!("{at}: the tenant: {error}")),
        (None, Some(said)) => Ok(said.clone()),
        (None, None) => Err(format!(
            "{at}: nothing names its tenant; give --tenant NAME, or put <octroi:tenant xmlns:octroi=\
             \"{OWN_NAMESPACE}\">NAME</octroi:tenant> in its <metadata>"
        )),
    }
}

/// Nova's ports: number → fixed addresses.
fn ports_of_nova(domain: Node<'_, '_>) -> BTreeMap<String, Vec<String>> {
    let metadata = child(domain, "metadata").into_iter();
    let ports = metadata.flat_map(|node| node.descendants());
    let ports = ports.filter(|node| is_nova(*node, "port"));
    let named = ports.filter_map(|port| Some((port.attribute("uuid")?.to_owned(), port)));
    named
        .map(|(uuid, port)| {
            let fixed = port
                .children()
                .filter(|node| is_nova(*node, "ip") && node.attribute("type") == Some("fixed"));
            let addresses = fixed.filter_map(|node| node.attribute("address"));
            (uuid, addresses.map(ToOwned::to_owned).collect())
        })
        .collect()
}

/// The port's number in Neutron: as the switch is told, or by the name of the device, which begins with it.
fn port_uuid(
    interface: Node<'_, '_>,
    device: &str,
    known: &BTreeMap<String, Vec<String>>,
) -> Option<String> {
    let told = child(interface, "virtualport")
        .and_then(|node| child(node, "parameters"))
        .and_then(|node| node.attribute("interfaceid"));
    if let Some(told) = told {
        return Some(told.to_owned());
    }
    // A device is `tap` and 11 characters.
    let begin = device
        .strip_prefix("tap")
        .filter(|begin| begin.len() == 11)?;
    let mut fitting = known.keys().filter(|uuid| uuid.starts_with(begin));
    let first = fitting.next()?;
    fitting.next().is_none().then(|| first.clone())
}

/// What libvirt itself was told of the guest's addresses.
fn addresses_of(interface: Node<'_, '_>) -> Vec<String> {
    let said = children(interface, "ip").filter_map(|node| node.attribute("address"));
    let filters = children(interface, "filterref");
    let parameters = filters.flat_map(|node| children(node, "parameter"));
    let filtered = parameters
        .filter(|node| matches!(node.attribute("name"), Some("IP" | "IPV6")))
        .filter_map(|node| node.attribute("value"));
    said.chain(filtered).map(ToOwned::to_owned).collect()
}

/// A name that stays over restarts, as `vnet3` does not.
fn named(guest: &str, mac: &Mac) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let guest = guest.chars().map(|c| if legal(c) { c } else { '_' });
    let guest: String = guest.take(50).collect();
    let mac = mac.to_string().replace(':', "");
    format!("{}-{mac}", guest.trim_start_matches(['.', '-']))
        .trim_start_matches('-')
        .to_owned()
}

fn is_nova(node: Node<'_, '_>, name: &str) -> bool {
    let space = node.tag_name().namespace().unwrap_or_default();
    node.is_element() && node.tag_name().name() == name && space.contains(NOVA)
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|node| node.has_tag_name(name))
}

fn children<'a, 'input: 'a>(
    node: Node<'a, 'input>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> {
    node.children().filter(move |node| node.has_tag_name(name))
}
