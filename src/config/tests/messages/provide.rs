//! Messages about tunnels, and about what may leave by an uplink in clear.

use super::host;

#[test]
fn an_uplink_says_what_becomes_of_overlays() {
    host(
        r##"
> [[uplink]]
> interface = "eth0"
> clear_overlays = "deny"
c.toml:5:18: there is no clear_overlays `deny`; write one of allow count drop
"##,
    );
}

#[test]
fn a_tunnel_and_its_peers_are_whole() {
    host(
        r##"
> [[provide]]
> name = "f"
> device = "abcdefghijklmno"
> listen_port = 65535
> address = "127.0.0.1"
> rotate = "1m"
> [[provide.peers]]
> name = "two"
> endpoint = "host-2:51820"
> addresses = ["198.51.100.2/24"]
> keys = ["AAAA"]
c.toml:5:10: `abcdefghijklmno` leaves no room for the `a` and `b` of its two devices; write at most 14 bytes
c.toml:6:15: `listen_port` is 65535; write 1 to 65534
c.toml:7:11: `127.0.0.1` is no address that a host can have; write one such as 198.51.100.1
c.toml:8:10: `1m` is no time between two keys; write 60s to 366d, such as 24h
c.toml:11:12: `host-2:51820` is no endpoint; write an address and a port, 1 to 65534, such as 192.0.2.2:51820
c.toml:12:14: `198.51.100.2/24` has host bits set; write 198.51.100.0/24 for the network, or 198.51.100.2 for the one address
c.toml:13:9: this is no public key; write the 44 characters that `octroi provide` shows on the other host, or "" while it is not known
> [[provide]]
> name = "f"
> device = "wg"
> listen_port = 51820
> address = "198.51.100.1"
c.toml:3:1: this tunnel has no peers; add [[provide.peers]] behind it
"##,
    );
}

#[test]
fn tunnels_stand_beside_each_other_and_the_rest() {
    host(
        r##"
> [[uplink]]
> interface = "wga"
> [[provide]]
> name = "f"
> device = "wg"
> listen_port = 51820
> address = "198.51.100.1"
> [[provide.peers]]
> name = "two"
> endpoint = "198.51.100.9:51820"
> addresses = ["198.51.100.0/24", "2001:db8::1"]
> keys = ["JCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQ=", "JCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQ="]
c.toml:4:13: by the uplink `wga` what [[provide]] protects could leave in clear; write clear_overlays = "drop"
c.toml:7:10: the device `wga` would be made, and is an uplink; choose another
c.toml:13:14: `198.51.100.0/24` is this host's already; an underlay address leads to one host
c.toml:13:14: the endpoint of `two` is in its `addresses`: the tunnel would lead into itself; write the underlay's own addresses, which nothing else uses
c.toml:13:33: `2001:db8::1` is of another family than this host's `address`; use one of the two in a tunnel
c.toml:14:57: this key is written twice; each side of each host has its own
"##,
    );
}
