//! What a right file comes to.

use std::path::Path;

use dataplane_common::units::{BitsPerSecond, Bytes, PacketsPerSecond, TenantId};

use crate::config::{Config, EXAMPLE, Holder, Limits, Port, Shape, parse, parse_port};

fn accepted(text: &str) -> Config {
    parse(text, "c.toml").unwrap_or_else(|errors| panic!("{errors}"))
}

fn port(text: &str) -> Port {
    parse_port(text, "port").unwrap_or_else(|errors| panic!("{errors}"))
}

/// The body of a port, ended by `limits`.
fn limited(limits: &str) -> Limits {
    let body = r#"
        name = "vm"
        tenant = "acme"
        interface = "tap0"
        macs = ["52:54:00:00:00:01"]
        addresses = ["10.0.0.5"]
    "#;
    port(&format!("{body}\nto_tenant = {{ {limits} }}")).to_tenant
}

#[test]
fn the_example_is_legal_and_means_what_it_says() {
    let config = accepted(EXAMPLE);
    let host = &config.host;
    assert_eq!(host.name.as_str(), "host-1");
    assert_eq!(host.trusted_interfaces[0].as_str(), "br-mgmt");
    assert_eq!(config.uplinks[0].interface.as_str(), "eth0");
    assert_eq!(
        config.uplinks[0].capacity,
        Some(BitsPerSecond(10_000_000_000))
    );
    assert_eq!(
        (config.zones[0].name.as_str(), config.zones[0].id),
        ("internet-fr", 4)
    );
    let cidrs: Vec<String> = config.zones[0]
        .cidrs
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(cidrs, ["192.0.2.0/24", "2001:db8::/32"]);
    assert_eq!(config.tenants[0].id, TenantId(17));
    let vm1 = &config.ports[0];
    assert_eq!(config.tenant_of(vm1), Some(&config.tenants[0]));
    assert_eq!(config.port("acme-vm1"), Some(vm1));
    assert_eq!(vm1.vlan, None);
    assert_eq!(vm1.macs[0].octets(), [0x52, 0x54, 0, 0, 0, 1]);
    let addresses: Vec<String> = vm1.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.5", "10.0.1.0/24", "2001:db8::5"]);
    let from_tenant = Limits {
        ceiling: Some(BitsPerSecond(200_000_000)),
        burst: Some(Bytes(6_000_000)),
        packet_rate: Some(PacketsPerSecond(10_000)),
    };
    assert_eq!(vm1.from_tenant, from_tenant);
    assert_eq!(
        vm1.to_tenant.burst,
        Some(Bytes(6_250_000)),
        "250ms of 200Mbit/s"
    );
    assert_eq!(config.ports[1].vlan.map(|vlan| vlan.get()), Some(100));
    assert_eq!(config.ports[2].from_tenant, Limits::default());
}

#[test]
fn the_smallest_configuration_has_the_defaults() {
    let config = accepted("[host]\nname = \"host-1\"\n");
    assert_eq!(config.host.pin_dir, Path::new("/sys/fs/bpf/octroi"));
    assert_eq!(config.host.run_dir, Path::new("/run/octroi"));
    assert_eq!(config.host.trusted_interfaces, []);
    assert_eq!(config.host.shape, Shape::Auto);
    assert_eq!(config.host.packet_price_bytes, 0);
    assert_eq!((config.host.ports_max, config.host.zones_max), (1_024, 16));
    assert!(config.uplinks.is_empty() && config.zones.is_empty());
    assert!(config.tenants.is_empty() && config.ports.is_empty());
}

#[test]
fn an_api_has_its_socket_in_the_run_directory_and_nobody_but_root() {
    let host = "[host]\nname = \"h\"\nrun_dir = \"/run/gate\"\n";
    assert_eq!(accepted(host).api, None);
    let api = accepted(&format!("{host}[api]\n")).api.expect("an API");
    assert_eq!(api.socket, Path::new("/run/gate/api.sock"));
    assert!(api.read.is_empty() && api.policy.is_empty());
    assert_eq!(api.page, None);
    let api = accepted(EXAMPLE).api.expect("an API");
    assert_eq!(api.page, "127.0.0.1:8787".parse().ok());
    let user = "user:monitor".parse::<Holder>();
    assert_eq!(api.read.last(), user.as_ref().ok());
    assert_eq!(user.expect("a user"), Holder::User("monitor".into()));
}

#[test]
fn an_uplink_has_defaults() {
    let config = accepted("[host]\nname = \"h\"\n[[uplink]]\ninterface = \"eth0\"\n");
    let uplink = &config.uplinks[0];
    assert_eq!(
        (uplink.capacity, uplink.overhead_bytes, uplink.xdp),
        (None, 24, false)
    );
}

#[test]
fn every_value_of_the_example_that_is_a_default_is_one() {
    let lines = EXAMPLE.lines().filter(|line| !line.contains("default"));
    let shorter: Vec<&str> = lines.collect();
    assert!(shorter.len() < EXAMPLE.lines().count());
    assert_eq!(accepted(&shorter.join("\n")), accepted(EXAMPLE));
}

#[test]
fn zones_are_numbered_by_their_place_unless_they_have_an_id() {
    let zone = |name: &str, id: &str, net: u8| {
        format!("[[zone]]\nname = \"{name}\"\n{id}\ncidrs = [\"10.{net}.0.0/16\"]\n")
    };
    let zones = [zone("a", "", 1), zone("b", "id = 9", 2), zone("c", "", 3)].concat();
    let config = accepted(&format!("[host]\nname = \"h\"\n{zones}"));
    let ids: Vec<u8> = config.zones.iter().map(|zone| zone.id).collect();
    assert_eq!(ids, [4, 9, 6]);
}

#[test]
fn a_prefix_inside_one_of_another_zone_is_legal() {
    let zone =
        |name: &str, cidr: &str| format!("[[zone]]\nname = \"{name}\"\ncidrs = [\"{cidr}\"]\n");
    let zones = [
        zone("all", "0.0.0.0/0"),
        zone("ten", "10.0.0.0/8"),
        zone("one", "10.0.0.1"),
    ];
    assert_eq!(
        accepted(&format!("[host]\nname = \"h\"\n{}", zones.concat()))
            .zones
            .len(),
        3
    );
}

#[test]
fn two_tenants_may_have_the_same_addresses() {
    let config = accepted(EXAMPLE);
    assert_eq!(config.ports[0].addresses[0], config.ports[1].addresses[0]);
    assert_ne!(config.ports[0].tenant, config.ports[1].tenant);
}

#[test]
fn a_port_may_have_an_address_inside_a_prefix_of_its_own() {
    let body = "name = \"vm\"\ntenant = \"acme\"\ninterface = \"tap0\"\n\
                macs = [\"52:54:00:00:00:01\"]\naddresses = [\"10.0.0.0/24\", \"10.0.0.5\"]";
    let text =
        format!("[host]\nname = \"h\"\n[[tenant]]\nname = \"acme\"\nid = 1\n[[port]]\n{body}");
    assert_eq!(accepted(&text).ports, [port(body)]);
}

#[test]
fn a_burst_in_time_is_in_bytes_of_the_ceiling() {
    let burst = |limits: &str| limited(limits).burst;
    assert_eq!(
        burst("ceiling = \"200Mbit/s\", burst = \"250ms\""),
        Some(Bytes(6_250_000))
    );
    assert_eq!(
        burst("burst = \"10s\", ceiling = \"400Gbit/s\""),
        Some(Bytes(500_000_000_000))
    );
    assert_eq!(
        burst("ceiling = \"12.345Mbit/s\", burst = \"1ms\""),
        Some(Bytes(1_543))
    );
    assert_eq!(
        burst("ceiling = \"1kbit/s\", burst = \"1514B\""),
        Some(Bytes(1_514))
    );
    assert_eq!(burst("ceiling = \"1kbit/s\""), None);
}

#[test]
fn a_port_is_read_with_or_without_its_header() {
    let body = "name = \"vm\"\ntenant = \"acme\"\ninterface = \"tap0\"\nvlan = 4094\n\
                macs = [\"52:54:00:00:00:01\"]\naddresses = [\"10.0.0.5\"]\n";
    let limits = "from_tenant.ceiling = \"1Mbit/s\"\n";
    let bare = port(&format!("{body}{limits}"));
    assert_eq!(bare, port(&format!("[[port]]\n{body}{limits}")));
    let sub_table = "[port.from_tenant]\nceiling = \"1Mbit/s\"\n";
    assert_eq!(bare, port(&format!("[[port]]\n{body}{sub_table}")));
}
