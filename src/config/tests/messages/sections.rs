//! Messages about the file, its sections and its keys.

use super::{host, port, whole};

#[test]
fn an_empty_file_is_told_the_smallest_configuration() {
    whole(
        r##"
>
c.toml:1:1: the file says nothing; write at least [host] and on the next line name = "host-1"
> # only a comment
c.toml:1:1: the file says nothing; write at least [host] and on the next line name = "host-1"
"##,
    );
}

#[test]
fn what_is_not_toml_is_shown_where_it_is_not() {
    whole(
        r##"
> [host
> name = "h"
c.toml:1:6: this is not TOML: unclosed table, expected `]`
> [host]
> name = h
c.toml:2:8: `h` needs quotes; write `"h"`
> [host]
> name = "h
c.toml:2:10: this is not TOML: invalid basic string, expected `"`
> [host]
> name = "h"
> name = "i"
c.toml:3:1: `name` is written twice in the same table; keep one
> [host]
> name = "h"
> [host]
c.toml:3:2: `host` is written twice in the same table; keep one
> [[uplink]]
> capacity = 10Gbit/s
c.toml:2:12: `10Gbit/s` needs quotes; write `"10Gbit/s"`
> a = [[[[
c.toml:1:9: this is not TOML: unclosed array, expected `]`
> [host]
> name = "\q"
c.toml:2:10: this is not TOML: missing escaped value, expected `b`, `e`, `f`, `n`, `r`, `\`, `"`, `x`, `u`, `U`
> = 3
c.toml:1:1: this is not TOML: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`
> [host]
> name =
c.toml:2:7: there is no value; write one after the `=`
"##,
    );
}

#[test]
fn sections_are_written_with_the_right_brackets() {
    whole(
        r##"
> host = 3
c.toml:1:8: `host` is an integer; write [host] and its keys below
> [[host]]
> name = "h"
c.toml:1:1: `host` is a list; write [host] once
> [host]
> name = "h"
> [port]
> name = "vm"
c.toml:3:1: `port` is one table; write [[port]] above each of them
> port = 3
> [host]
> name = "h"
c.toml:1:8: `port` is an integer; write [[port]] and its keys below
> zone = [1]
> [host]
> name = "h"
c.toml:1:9: `zone` is an integer; write [[zone]] and its keys below
"##,
    );
}

#[test]
fn a_host_and_its_name_are_needed() {
    whole(
        r##"
> [[uplink]]
> interface = "eth0"
c.toml:1:1: there is no [host]; write at least [host] and on the next line name = "host-1"
> [host]
c.toml:1:1: [host] has no `name`; write name = "host-1"
"##,
    );
}

#[test]
fn an_unknown_key_is_told_the_nearest_and_all_others() {
    whole(
        r##"
> [hst]
> name = "h"
c.toml:1:2: unknown key `hst` in the file; did you mean `host`? The keys are host, meter, retention, billing, api, metrics, sink, uplink, zone, tenant, port, encryption, encryption_profile, provide
> ports = 3
> [host]
> name = "h"
c.toml:1:1: unknown key `ports` in the file; did you mean `port`? The keys are host, meter, retention, billing, api, metrics, sink, uplink, zone, tenant, port, encryption, encryption_profile, provide
> x = 1
> [host]
> name = "h"
c.toml:1:1: unknown key `x` in the file; the keys are host, meter, retention, billing, api, metrics, sink, uplink, zone, tenant, port, encryption, encryption_profile, provide
> [host]
> nam = "h"
c.toml:2:1: unknown key `nam` in [host]; did you mean `name`? The keys are name, pin_dir, run_dir, trusted_interfaces, shape, packet_price_bytes, ports_max, zones_max, flows_max, conversations_max
> [host]
> name = "h"
> ports-max = 3
c.toml:3:1: unknown key `ports-max` in [host]; did you mean `ports_max`? The keys are name, pin_dir, run_dir, trusted_interfaces, shape, packet_price_bytes, ports_max, zones_max, flows_max, conversations_max
> [host]
> name = "h"
> [[uplink]]
> interfce = "eth0"
> speed = 3
c.toml:4:1: unknown key `interfce` in [[uplink]]; did you mean `interface`? The keys are interface, capacity, overhead_bytes, xdp, clear_overlays
c.toml:5:1: unknown key `speed` in [[uplink]]; the keys are interface, capacity, overhead_bytes, xdp, clear_overlays
> [host]
> name = "h"
> [[zone]]
> name = "z"
> cidr = ["10.0.0.0/8"]
c.toml:5:1: unknown key `cidr` in [[zone]]; did you mean `cidrs`? The keys are name, id, cidrs
> [host]
> name = "h"
> [[tenant]]
> name = "t"
> ID = 1
c.toml:5:1: unknown key `ID` in [[tenant]]; did you mean `id`? The keys are name, id, flow_detail, charge_class, charge_changes, uplink, from_tenant, to_tenant, quota
> [host]
> name = "h"
> kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk = 1
c.toml:3:1: unknown key `kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk…` in [host]; the keys are name, pin_dir, run_dir, trusted_interfaces, shape, packet_price_bytes, ports_max, zones_max, flows_max, conversations_max
"##,
    );
}

#[test]
fn an_unknown_key_of_a_port_is_told_the_nearest() {
    port(
        r##"
> nonsense = 1
> adress = 3
c.toml:12:1: unknown key `nonsense` in [[port]]; the keys are name, tenant, interface, vlan, macs, addresses, from_tenant, to_tenant
c.toml:13:1: unknown key `adress` in [[port]]; did you mean `addresses`? The keys are name, tenant, interface, vlan, macs, addresses, from_tenant, to_tenant
> from_tenant = { celing = "8Mbit/s" }
c.toml:12:17: unknown key `celing` in `from_tenant`; did you mean `ceiling`? The keys are ceiling, burst, packet_rate
> to_tenant.brst = "10ms"
c.toml:12:11: unknown key `brst` in `to_tenant`; did you mean `burst`? The keys are ceiling, burst, packet_rate
"##,
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_told_the_right_one() {
    host(
        r##"
> pin_dir = 3
c.toml:3:11: `pin_dir` is an integer; write pin_dir = "/sys/fs/bpf/octroi"
> trusted_interfaces = "br0"
c.toml:3:22: `trusted_interfaces` is a string; write trusted_interfaces = ["br-mgmt"]
> trusted_interfaces = ["br0", 3]
c.toml:3:30: this element of `trusted_interfaces` is an integer; write trusted_interfaces = ["br-mgmt"]
> shape = true
c.toml:3:9: `shape` is a boolean; write shape = "auto"
> ports_max = "many"
c.toml:3:13: `ports_max` is a string; write ports_max = 1024
> zones_max = 16.0
c.toml:3:13: `zones_max` is a float; write zones_max = 16
> [[uplink]]
> interface = 1979-05-27
> xdp = 1
> overhead_bytes = []
> capacity = {}
c.toml:4:13: `interface` is a date; write interface = "eth0"
c.toml:5:7: `xdp` is an integer; write xdp = false
c.toml:6:18: `overhead_bytes` is a list; write overhead_bytes = 24
c.toml:7:12: `capacity` is a table; write capacity = "10Gbit/s"
"##,
    );
}

#[test]
fn numbers_of_the_host_have_ranges() {
    host(
        r##"
> ports_max = 0
c.toml:3:13: `ports_max` is 0; write 1 to 65535
> ports_max = 65536
c.toml:3:13: `ports_max` is 65536; write 1 to 65535
> ports_max = -1
c.toml:3:13: `ports_max` is -1; write 1 to 65535
> ports_max = 99999999999999999999999999
c.toml:3:13: `ports_max` is `99999999999999999999999999`; write 1 to 65535
> ports_max = 0x10000
c.toml:3:13: `ports_max` is 0x10000; write 1 to 65535
> zones_max = 7
c.toml:3:13: `zones_max` is 7; write 8 to 64
> zones_max = 65
c.toml:3:13: `zones_max` is 65; write 8 to 64
"##,
    );
}

#[test]
fn directories_are_absolute() {
    host(
        r##"
> pin_dir = "pins"
c.toml:3:11: `pins` is not absolute; start it with `/`
> run_dir = ""
c.toml:3:11: `` is not absolute; start it with `/`
> run_dir = "/run/../etc"
c.toml:3:11: `/run/../etc` contains `..`; write where it leads
> run_dir = "/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
c.toml:3:11: `/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…` is too long for the socket below it; write at most 80 bytes
> run_dir = "/run/a\nb"
c.toml:3:11: `/run/a\nb` contains a control character; write a path without
> run_dir = "/sys/fs/bpf/octroi/"
c.toml:3:11: `run_dir` is the same as `pin_dir`, which only holds pins; write another
"##,
    );
}

#[test]
fn there_are_four_shapes() {
    host(
        r##"
> shape = "tbf"
c.toml:3:9: there is no shape `tbf`; write auto, edt, htb or police
"##,
    );
}

#[test]
fn a_packet_has_a_price_in_bytes() {
    host(
        r##"
> packet_price_bytes = 65536
c.toml:3:22: `packet_price_bytes` is 65536; write 0 to 65535
> packet_price_bytes = -1
c.toml:3:22: `packet_price_bytes` is -1; write 0 to 65535
> packet_price_bytes = "1500B"
c.toml:3:22: `packet_price_bytes` is a string; write packet_price_bytes = 1500
> packet_price = 1500
c.toml:3:1: unknown key `packet_price` in [host]; did you mean `packet_price_bytes`? The keys are name, pin_dir, run_dir, trusted_interfaces, shape, packet_price_bytes, ports_max, zones_max, flows_max, conversations_max
"##,
    );
}

#[test]
fn trusted_interfaces_are_neither_ports_nor_uplinks() {
    host(
        r##"
> trusted_interfaces = ["br0", "br0"]
c.toml:3:30: `br0` is trusted twice; keep one
> trusted_interfaces = ["eth0"]
> [[uplink]]
> interface = "eth0"
c.toml:5:13: the uplink `eth0` is in `trusted_interfaces`; take it out there
"##,
    );
}

#[test]
fn uplinks_have_ranges_and_one_interface_each() {
    host(
        r##"
> [[uplink]]
c.toml:3:1: [[uplink]] has no `interface`; write interface = "eth0"
> [[uplink]]
> interface = "eth0"
> overhead_bytes = 257
c.toml:5:18: `overhead_bytes` is 257; write 0 to 256
> [[uplink]]
> interface = "eth0"
> capacity = "500Gbit/s"
c.toml:5:12: the capacity of `eth0` is 500Gbit/s; write at most 400Gbit/s, or leave it out for the link's own speed
> [[uplink]]
> interface = "eth0"
> capacity = "0bit/s"
c.toml:5:12: the capacity of `eth0` is 0bit/s; write at least 1kbit/s, or leave it out for the link's own speed
> [[uplink]]
> interface = "eth0"
> [[uplink]]
> interface = "eth0"
c.toml:6:13: `eth0` is an uplink already (line 4); keep one
"##,
    );
}

#[test]
fn retention_is_in_days_and_detail_has_three_words() {
    host(
        r##"
> [retention]
> flows = "7"
c.toml:4:9: `7` is no number of days, months or years; write such as 7d, 13mo or 10y
> [retention]
> flows = "0d"
c.toml:4:9: `0d` is less than a day; write at least 1d
> [retention]
> records = "13m"
c.toml:4:11: `13m` is no number of days, months or years; write such as 7d, 13mo or 10y
> [retention]
> rollups = "101y"
c.toml:4:11: `101y` is too long; write at most 100y
> [retention]
> rollups = "99999999999y"
c.toml:4:11: `99999999999y` is too long; write at most 100y
> [retention]
> flows = 7
c.toml:4:9: `flows` is an integer; write flows = "7d"
> [retention]
> flow = "7d"
c.toml:4:1: unknown key `flow` in [retention]; did you mean `flows`? The keys are flows, records, rollups
> [[tenant]]
> name = "t"
> id = 1
> flow_detail = "none"
c.toml:6:15: there is no detail `none`; write off, prefix or full
"##,
    );
}
