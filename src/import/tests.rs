use super::*;
use proptest::prelude::*;

const NOVA: &str = include_str!("../../tests/fixtures/import/nova-guest.xml");
const PLAIN: &str = include_str!("../../tests/fixtures/import/plain-guest.xml");
const API: &str = include_str!("../../tests/fixtures/import/neutron-api.json");
const CLIENT: &str = include_str!("../../tests/fixtures/import/openstack-port-list.json");

const PROJECT: &str = "995b4947cc4044fba99bade057053803";
const PORT: &str = "77c1dc00-af39-4463-bea0-12808f4bc340";

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn found(name: &str, tenant: &str, interface: &str, macs: &[&str], addresses: &[&str]) -> Found {
    Found {
        name: self::name(name),
        tenant: self::name(tenant),
        interface: interface.parse().expect("an interface"),
        macs: macs.iter().map(|mac| mac.parse().expect("a MAC")).collect(),
        addresses: addresses
            .iter()
            .map(|address| address.parse().expect("an address"))
            .collect(),
    }
}

#[test]
fn a_guest_of_nova_has_the_ports_and_addresses_of_its_metadata() {
    let import = libvirt::read(NOVA, "guest.xml", None).expect("a guest");
    let other = "a3ca97e2-0cf9-4159-9bfc-afd55bc13ead";
    assert_eq!(
        import.ports,
        [
            found(
                PORT,
                PROJECT,
                "tap77c1dc00-af",
                &["fa:16:3e:59:b5:10"],
                &["10.20.0.43", "2001:db8:20::2b"]
            ),
            found(
                other,
                PROJECT,
                "tapa3ca97e2-0c",
                &["fa:16:3e:10:20:30"],
                &["10.30.0.7"]
            ),
        ]
    );
    assert_eq!(import.notes.len(), 1);
    assert!(
        import.notes[0].contains("interface 3: left out: type hostdev"),
        "{import:?}"
    );
}

#[test]
fn a_guest_of_libvirt_alone_is_named_after_itself_and_its_mac() {
    let import = libvirt::read(PLAIN, "guest.xml", Some(&name("not-this-one"))).expect("a guest");
    assert_eq!(
        import.ports,
        [
            found(
                "B_ro_Rechner__alt_-5254006d9002",
                "globex",
                "vnet4",
                &["52:54:00:6d:90:02"],
                &["192.0.2.77", "2001:db8::77"]
            ),
            found(
                "B_ro_Rechner__alt_-5254006d9003",
                "globex",
                "veth-büro",
                &["52:54:00:6d:90:03"],
                &["192.0.2.78"]
            ),
        ]
    );
    assert!(import.notes[0].contains("type direct"), "{import:?}");
}

#[test]
fn the_api_and_the_client_and_the_guest_name_the_same_port() {
    let api = neutron::read(API, "ports.json", Some("compute-1"), None).expect("ports");
    assert_eq!(
        api.ports,
        [found(
            PORT,
            PROJECT,
            "tap77c1dc00-af",
            &["fa:16:3e:59:b5:10", "00:00:5e:00:01:0a"],
            &[
                "10.20.0.43",
                "2001:db8:20::2b",
                "10.20.0.200",
                "10.99.0.0/16"
            ]
        )]
    );
    assert!(
        api.notes[0].contains("port 2: left out: vif_type vhostuser"),
        "{api:?}"
    );

    let project = name(PROJECT);
    let client = neutron::read(CLIENT, "list.json", None, Some(&project)).expect("ports");
    assert_eq!(
        client.ports,
        [
            found(
                PORT,
                PROJECT,
                "tap77c1dc00-af",
                &["fa:16:3e:59:b5:10"],
                &["10.20.0.43"]
            ),
            found(
                "ec2fb9f9-a11b-4791-852d-eb1ab9b27a0e",
                PROJECT,
                "tapec2fb9f9-a1",
                &["fa:16:3e:a9:3e:1a"],
                &["10.20.0.61", "2001:db8:20::3d"]
            ),
        ]
    );
}

#[test]
fn what_has_no_address_is_left_out() {
    let plain = PLAIN.replace("<ip address='192.0.2.78' family='ipv4' prefix='24'/>", "");
    let import = libvirt::read(&plain, "guest.xml", None).expect("a guest");
    assert_eq!((import.ports.len(), import.notes.len()), (1, 2));
    assert!(
        import.notes[0].contains("interface 2: left out: no address"),
        "{import:?}"
    );
    let client = CLIENT
        .replace("10.20.0.43", "")
        .replace("\"ip_address\": \"\"", "\"x\": 1");
    assert!(neutron::read(&client, "l", None, Some(&name(PROJECT))).is_err());
    let none = r#"[{"id": "77c1dc00-af39", "device_owner": "compute:nova", "project": "p",
                    "mac_address": "fa:16:3e:59:b5:10", "fixed_ips": []}]"#;
    let import = neutron::read(none, "l", None, None).expect("ports");
    assert_eq!((import.ports.len(), import.notes.len()), (0, 1));
}

#[test]
fn what_is_wrong_is_said_with_where_and_what_to_write() {
    let guest = |from: &str, to: &str| {
        assert!(PLAIN.contains(from), "{from}");
        libvirt::read(&PLAIN.replacen(from, to, 1), "g.xml", None).expect_err("refused")
    };
    for (from, to, says) in [
        ("</domain>", "", "g.xml: "),
        (
            "<domain type='kvm' id='3'>",
            "<!DOCTYPE d [<!ENTITY a 'b'>]><domain>",
            "DTD",
        ),
        (">globex<", "> <", "the tenant: the name is empty"),
        (">globex<", "><", "nothing names its tenant"),
        (
            "<octroi:tenant xmlns:octroi=\"urn:octroi:libvirt:1\">globex</octroi:tenant>",
            "",
            "--tenant NAME",
        ),
        (
            "52:54:00:6d:90:02",
            "52:54:00:6d:90",
            "interface 1: `52:54:00:6d:90` is not a MAC",
        ),
        ("192.0.2.77", "192.0.2", "`192.0.2` is not an address"),
        (
            "<name>Büro Rechner (alt)</name>",
            "<name/>",
            "the domain has no <name>",
        ),
        ("vnet4", "an interface", "contains ` `"),
    ] {
        let said = guest(from, to);
        assert!(said.contains(says) && !said.contains('\n'), "{to}: {said}");
    }
    let list = |from: &str, to: &str, host: Option<&str>| {
        assert!(API.contains(from), "{from}");
        neutron::read(&API.replacen(from, to, 1), "p.json", host, None).expect_err("refused")
    };
    let host = Some("compute-1");
    for (from, to, host, says) in [
        (
            "compute-1",
            "compute-1",
            None,
            "ports of 2 hosts (compute-1, compute-2",
        ),
        (
            "compute-1",
            "compute-1",
            Some("compute-3"),
            "no port is bound to \"compute-3\"",
        ),
        (
            "\"ports\"",
            "\"port\"",
            host,
            "neither a list nor an object with a list",
        ),
        (
            "\"device_owner\"",
            "\"owner\"",
            host,
            "port 1: no device owner",
        ),
        (
            "10.20.0.43",
            "10.20.0.430",
            host,
            "port 1: `10.20.0.430` is not an address",
        ),
        (
            "\"mac_address\": \"fa:16:3e:59:b5:10\",\n",
            "",
            host,
            "port 1: no `mac_address`",
        ),
        ("[\n", "{\n", host, "not JSON"),
    ] {
        let said = list(from, to, host);
        assert!(said.contains(says) && !said.contains('\n'), "{to}: {said}");
    }
    let said = neutron::read(CLIENT, "list.json", None, None).expect_err("refused");
    assert!(said.contains("port 1: it names no project"), "{said}");
}

#[test]
fn tables_are_a_configuration_and_what_is_there_already_stays() {
    let mut ports = libvirt::read(NOVA, "guest.xml", None)
        .expect("a guest")
        .ports;
    ports.extend(
        libvirt::read(PLAIN, "guest.xml", None)
            .expect("a guest")
            .ports,
    );
    let (text, count) = output::tables(&ports, None, Some(7)).expect("tables");
    let config = config::parse(&format!("[host]\nname = \"h\"\n{text}"), "t").expect("legal");
    assert_eq!((count, config.ports.len()), (4, 4));
    // In the order of their names.
    assert_eq!(known_id(Some(&config), &name(PROJECT)), Some(7));
    assert_eq!(known_id(Some(&config), &name("globex")), Some(8));

    let (again, count) = output::tables(&ports, Some(&config), None).expect("tables");
    assert_eq!((again.as_str(), count), ("", 0));
    let mut more = ports.clone();
    more.push(found("x", "initech", "tap9", &["52:54:00:00:00:09"], &[]));
    let (text, count) = output::tables(&more, Some(&config), None).expect("tables");
    assert_eq!(count, 1);
    assert!(text.contains("id = 9"), "{text}");
    ports[0].interface = "tap-other".parse().expect("an interface");
    let said = output::tables(&ports, Some(&config), None).expect_err("another port");
    assert!(
        said.contains("interface tap77c1dc00-af there and tap-other here"),
        "{said}"
    );
    let last = output::tables(&more, None, Some(u32::MAX)).expect_err("numbers run out");
    assert!(last.contains("--first-tenant-id"), "{last}");
}

#[test]
fn a_line_is_what_port_add_takes() {
    for port in libvirt::read(PLAIN, "guest.xml", None)
        .expect("a guest")
        .ports
    {
        let line = output::line(&port);
        let text = config::port_toml(line).expect("TOML");
        let read = config::parse_port(&text, "line").expect("a port");
        assert_eq!((&read.name, &read.addresses), (&port.name, &port.addresses));
    }
    assert!(config::port_toml(" {\"name\": ".into()).is_err());
    assert_eq!(config::port_toml("name = 1".into()), Ok("name = 1".into()));
}

#[test]
fn depth_and_size_have_bounds() {
    let deep = format!(
        "{}{}",
        "<domain>".repeat(200_000),
        "</domain>".repeat(200_000)
    );
    assert!(libvirt::read(&deep, "deep", None).is_err());
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    assert!(neutron::read(&deep, "deep", None, None).is_err());
}

/// One of the fixtures with bytes taken out, put in, or doubled.
fn mutated(text: &'static str) -> impl Strategy<Value = String> {
    let change = (any::<prop::sample::Index>(), 0..60_usize, ".{0,6}");
    prop::collection::vec(change, 1..5).prop_map(move |changes| {
        let mut text: Vec<char> = text.chars().collect();
        for (at, length, new) in changes {
            let at = at.index(text.len().max(1)).min(text.len());
            let end = (at + length).min(text.len());
            if new.is_empty() {
                let copy = text[at..end].to_vec();
                text.splice(at..at, copy);
            } else {
                text.splice(at..end, new.chars());
            }
        }
        text.into_iter().collect()
    })
}

/// Whatever comes: an answer, and what is found can be written and read again.
fn holds(import: Result<Import, String>) -> Result<(), TestCaseError> {
    match import {
        Err(said) => prop_assert!(!said.is_empty()),
        Ok(import) => {
            for port in &import.ports {
                let text = config::port_toml(output::line(port)).expect("TOML");
                // That two MACs are there twice, or too many addresses, is the configuration's to refuse.
                let _ = config::parse_port(&text, "line");
            }
            let _ = output::tables(&import.ports, None, Some(1));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_xml_makes_it_panic(text in prop_oneof![mutated(NOVA), mutated(PLAIN), "\\PC{0,80}"]) {
        holds(libvirt::read(&text, "x", None))?;
    }

    #[test]
    fn no_json_makes_it_panic(text in prop_oneof![mutated(API), mutated(CLIENT), "\\PC{0,80}"]) {
        holds(neutron::read(&text, "x", Some("compute-1"), None))?;
    }
}
