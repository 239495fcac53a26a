//! Messages about ports, alone and together.

use super::{host, port, port_alone, whole};

#[test]
fn a_port_needs_five_keys() {
    port(
        r##"
> [[port]]
c.toml:12:1: [[port]] has no `name`; write name = "acme-vm1"
c.toml:12:1: [[port]] has no `tenant`; write tenant = "acme"
c.toml:12:1: [[port]] has no `interface`; write interface = "tap0"
c.toml:12:1: [[port]] has no `macs`; write macs = ["52:54:00:00:00:01"]
c.toml:12:1: [[port]] has no `addresses`; write addresses = ["10.0.0.5"]
"##,
    );
}

#[test]
fn a_port_needs_a_mac_address_and_an_address() {
    port(
        r##"
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = []
> addresses = []
c.toml:16:8: port `db` has no `macs`; write macs = ["52:54:00:00:00:01"]
c.toml:17:13: port `db` has no `addresses`; write addresses = ["10.0.0.5"]
"##,
    );
}

#[test]
fn macs_are_unicast() {
    port(
        r##"
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["01:00:5e:00:00:01"]
> addresses = ["10.0.0.6"]
c.toml:16:9: 01:00:5e:00:00:01 is a group address; write the MAC address of the tenant's interface
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["ff:ff:ff:ff:ff:ff"]
> addresses = ["10.0.0.6"]
c.toml:16:9: ff:ff:ff:ff:ff:ff is the broadcast address; write the MAC address of the tenant's interface
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["00:00:00:00:00:00"]
> addresses = ["10.0.0.6"]
c.toml:16:9: 00:00:00:00:00:00 is no address; write the MAC address of the tenant's interface
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52-54-00-00-00-01"]
> addresses = ["10.0.0.6"]
c.toml:16:9: `52-54-00-00-00-01` is not a MAC address; write six bytes such as 52:54:00:00:00:01
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00"]
> addresses = ["10.0.0.6"]
c.toml:16:9: `52:54:00:00:00` is not a MAC address; write six bytes such as 52:54:00:00:00:01
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:01:02"]
> addresses = ["10.0.0.6"]
c.toml:16:9: `52:54:00:00:00:01:02` is not a MAC address; write six bytes such as 52:54:00:00:00:01
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:+1"]
> addresses = ["10.0.0.6"]
c.toml:16:9: `52:54:00:00:00:+1` is not a MAC address; write six bytes such as 52:54:00:00:00:01
"##,
    );
}

#[test]
fn addresses_are_those_of_an_interface() {
    port(
        r##"
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["224.0.0.1"]
c.toml:17:14: port `db` cannot have 224.0.0.1, which is a multicast address; write the addresses of the tenant's interface
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["0.0.0.0/0"]
c.toml:17:14: port `db` cannot have 0.0.0.0/0, which contains the unspecified address; write the addresses of the tenant's interface
c.toml:17:14: port `db` has 0.0.0.0/0, which contains 10.0.0.5 that port `vm` (line 11) of the same tenant has; an address belongs to one port
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["0.0.0.0"]
c.toml:17:14: port `db` cannot have 0.0.0.0, which is the unspecified address; write the addresses of the tenant's interface
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["127.1.0.0/16"]
c.toml:17:14: port `db` cannot have 127.1.0.0/16, which is a loopback address; write the addresses of the tenant's interface
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["255.255.255.255"]
c.toml:17:14: port `db` cannot have 255.255.255.255, which is the broadcast address; write the addresses of the tenant's interface
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["192.0.0.0/2"]
c.toml:17:14: port `db` cannot have 192.0.0.0/2, which contains a multicast address; write the addresses of the tenant's interface
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["::"]
c.toml:17:14: port `db` cannot have ::, which is the unspecified address; write the addresses of the tenant's interface
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["::1"]
c.toml:17:14: port `db` cannot have ::1, which is a loopback address; write the addresses of the tenant's interface
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["ff02::1"]
c.toml:17:14: port `db` cannot have ff02::1, which is a multicast address; write the addresses of the tenant's interface
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["8000::/1"]
c.toml:17:14: port `db` cannot have 8000::/1, which contains a multicast address; write the addresses of the tenant's interface
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["10.0.0.6/24"]
c.toml:17:14: `10.0.0.6/24` has host bits set; write 10.0.0.0/24 for the network, or 10.0.0.6 for the one address
"##,
    );
}

#[test]
fn a_vlan_is_1_to_4094() {
    port(
        r##"
> vlan = 0
c.toml:12:8: `vlan` is 0; write 1 to 4094
> vlan = 4095
c.toml:12:8: `vlan` is 4095; write 1 to 4094
> vlan = "100"
c.toml:12:8: `vlan` is a string; write vlan = 100
"##,
    );
}

#[test]
fn nothing_is_written_twice_in_a_port() {
    port(
        r##"
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02", "52:54:00:00:00:02"]
> addresses = ["10.0.0.6", "10.0.0.6"]
c.toml:16:30: port `db` has 52:54:00:00:00:02 twice; keep one
c.toml:17:26: port `db` has 10.0.0.6 twice; keep one
"##,
    );
}

#[test]
fn ports_have_different_names() {
    port(
        r##"
> [[port]]
> name = "vm"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["10.0.0.6"]
c.toml:13:8: there is a port `vm` already (line 7); choose another name
"##,
    );
}

#[test]
fn a_port_is_of_a_tenant_of_the_file() {
    port(
        r##"
> [[port]]
> name = "db"
> tenant = "acmee"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["10.0.0.6"]
c.toml:14:10: port `db` is of tenant `acmee`, which is not there; did you mean `acme`?
> [[port]]
> name = "db"
> tenant = "globex"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["10.0.0.6"]
c.toml:14:10: port `db` is of tenant `globex`, which is not there; add [[tenant]] with name = "globex" and its id
"##,
    );
}

#[test]
fn an_interface_is_one_port_or_several_vlans() {
    port(
        r##"
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap0"
> macs = ["52:54:00:00:00:02"]
> addresses = ["10.0.0.6"]
c.toml:15:13: port `db` and port `vm` (line 9) are both on `tap0`; write another interface, or a `vlan` for each
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap0"
> vlan = 7
> macs = ["52:54:00:00:00:02"]
> addresses = ["10.0.0.6"]
c.toml:15:13: port `db` is a VLAN of `tap0`, all of which port `vm` (line 9) has; write a `vlan` for that port too
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> vlan = 7
> macs = ["52:54:00:00:00:02"]
> addresses = ["10.0.0.6"]
> [[port]]
> name = "ns"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:03"]
> addresses = ["10.0.0.7"]
c.toml:22:13: port `ns` has all of `tap1`, of which port `db` (line 15) is VLAN 7; write a `vlan` here too
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> vlan = 7
> macs = ["52:54:00:00:00:02"]
> addresses = ["10.0.0.6"]
> [[port]]
> name = "ns"
> tenant = "acme"
> interface = "tap1"
> vlan = 7
> macs = ["52:54:00:00:00:03"]
> addresses = ["10.0.0.7"]
c.toml:22:13: port `ns` and port `db` (line 15) are both VLAN 7 of `tap1`; write another VLAN
"##,
    );
}

#[test]
fn an_uplink_or_a_trusted_interface_is_no_port() {
    host(
        r##"
> trusted_interfaces = ["br0"]
> [[uplink]]
> interface = "eth0"
> [[tenant]]
> name = "acme"
> id = 17
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "eth0"
> macs = ["52:54:00:00:00:02"]
> addresses = ["10.0.0.6"]
> [[port]]
> name = "ns"
> tenant = "acme"
> interface = "br0"
> vlan = 3
> macs = ["52:54:00:00:00:03"]
> addresses = ["10.0.0.7"]
c.toml:12:13: port `db` has `eth0`, which is an uplink; write the tenant's interface
c.toml:18:13: port `ns` has `br0`, which is trusted; write the tenant's interface
"##,
    );
}

#[test]
fn a_mac_address_is_on_one_port() {
    port(
        r##"
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:01"]
> addresses = ["10.0.0.6"]
c.toml:16:9: port `db` has 52:54:00:00:00:01, which port `vm` (line 10) has; a MAC address belongs to one port of a host
"##,
    );
}

#[test]
fn an_address_is_on_one_port_of_a_tenant() {
    port(
        r##"
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["10.0.0.5"]
c.toml:17:14: port `db` has 10.0.0.5, which port `vm` (line 11) of the same tenant has; an address belongs to one port
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["10.0.0.0/24"]
c.toml:17:14: port `db` has 10.0.0.0/24, which contains 10.0.0.5 that port `vm` (line 11) of the same tenant has; an address belongs to one port
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["2001:db8::7"]
c.toml:17:14: port `db` has 2001:db8::7, which is in 2001:db8::/64 that port `vm` (line 11) of the same tenant has; an address belongs to one port
"##,
    );
}

#[test]
fn there_is_room_for_so_many_ports() {
    host(
        r##"
> ports_max = 1
> [[tenant]]
> name = "acme"
> id = 17
> [[port]]
> name = "vm"
> tenant = "acme"
> interface = "tap0"
> macs = ["52:54:00:00:00:01"]
> addresses = ["10.0.0.5", "2001:db8::/64"]
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap1"
> macs = ["52:54:00:00:00:02"]
> addresses = ["10.0.0.6"]
> [[port]]
> name = "ns"
> tenant = "acme"
> interface = "tap2"
> macs = ["52:54:00:00:00:03"]
> addresses = ["10.0.0.7"]
c.toml:13:1: port `db` is number 2 of 3, and `ports_max` = 1; raise it in [host], up to 65535
"##,
    );
}

#[test]
fn a_bad_value_is_one_error_though_others_depend_on_it() {
    port(
        r##"
> vlan = "x"
> [[port]]
> name = "db"
> tenant = "acme"
> interface = "tap0"
> macs = ["52:54:00:00:00:02"]
> addresses = ["10.0.0.6"]
c.toml:12:8: `vlan` is a string; write vlan = 100
> [[tenant]]
> name = 3
> id = 4
c.toml:13:8: `name` is an integer; write name = "acme"
"##,
    );
}

#[test]
fn everything_wrong_is_said_at_once() {
    whole(
        r##"
> [host]
> name = "a b"
> zones_max = 3
> [[zone]]
> name = "other"
> cidrs = ["10.0.0.5/24"]
> [[tenant]]
> name = "acme"
> id = 0
> [[port]]
> name = "vm"
> tenant = "acmee"
> interface = "tap 0"
> macs = ["x"]
> addresses = ["10.0.0.5"]
> to_tenant = { ceiling = "1Mbps" }
c.toml:2:8: the name `a b` contains ` `; write 1 to 64 of A-Z a-z 0-9 . _ -
c.toml:3:13: `zones_max` is 3; write 8 to 64
c.toml:5:8: the zone `other` is built in; choose another name
c.toml:6:10: `10.0.0.5/24` has host bits set; write 10.0.0.0/24 for the network, or 10.0.0.5 for the one address
c.toml:9:6: `id` is 0; write 1 to 4294967295
c.toml:12:10: port `vm` is of tenant `acmee`, which is not there; did you mean `acme`?
c.toml:13:13: the interface name `tap 0` contains ` `; write 1 to 15 bytes without `/`, `:` and blanks, as `ip link` shows it
c.toml:14:9: `x` is not a MAC address; write six bytes such as 52:54:00:00:00:01
c.toml:16:25: `1Mbps` can mean bits or bytes; write 1Mbit/s, or 8Mbit/s for 1MB/s
"##,
    );
}

#[test]
fn one_port_alone_is_read_with_the_same_messages() {
    port_alone(
        r##"
> [[port]]
> [[port]]
c.toml:2:1: this is a second port; write one
> port = 3
c.toml:1:8: `port` is an integer; write [[port]] and its keys below
> port = []
c.toml:1:1: there is no port; write its keys
> name = "vm"
c.toml:1:1: port `vm` has no `tenant`; write tenant = "acme"
c.toml:1:1: port `vm` has no `interface`; write interface = "tap0"
c.toml:1:1: port `vm` has no `macs`; write macs = ["52:54:00:00:00:01"]
c.toml:1:1: port `vm` has no `addresses`; write addresses = ["10.0.0.5"]
> nme = "vm"
c.toml:1:1: unknown key `nme` in [[port]]; did you mean `name`? The keys are name, tenant, interface, vlan, macs, addresses, from_tenant, to_tenant
c.toml:1:1: [[port]] has no `tenant`; write tenant = "acme"
c.toml:1:1: [[port]] has no `interface`; write interface = "tap0"
c.toml:1:1: [[port]] has no `macs`; write macs = ["52:54:00:00:00:01"]
c.toml:1:1: [[port]] has no `addresses`; write addresses = ["10.0.0.5"]
> x = [
c.toml:1:6: this is not TOML: unclosed array, expected `]`
> name = "vm"
> tenant = "acme"
> interface = "tap0"
> macs = ["52:54:00:00:00:01"]
> addresses = ["127.0.0.1"]
> from_tenant = { burst = "1ms" }
c.toml:5:14: port `vm` cannot have 127.0.0.1, which is a loopback address; write the addresses of the tenant's interface
c.toml:6:25: port `vm` from_tenant: a burst needs a ceiling; write ceiling = "200Mbit/s" beside it
"##,
    );
}
