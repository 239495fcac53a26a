//! Messages about what is asked of a tenant's packets.

use super::host;

#[test]
fn a_rule_names_what_there_is() {
    host(
        r##"
> [[tenant]]
> name = "acme"
> id = 17
> [[encryption]]
> tenant = "acmee"
> zones = ["internet", "other", "other"]
> mode = "enforced"
> profile = "anssi"
> min_evidence = "E4"
> direction = "in"
> midstream = "pass"
> fragments = "track"
c.toml:7:10: there is no tenant `acmee`; did you mean `acme`?
c.toml:8:10: there is no zone `internet`; add a [[zone]] of that name
c.toml:8:31: the zone `other` is named twice; keep one
c.toml:9:8: there is no mode `enforced`; write one of off observe enforce
c.toml:10:11: there is no profile `anssi`; write one of anssi-2026 anssi-pq nist-800-52r2 cnsa
c.toml:11:16: there is no evidence `E4`; write one of E1 E2 E3
c.toml:12:13: there is no direction `in`; write one of both from_tenant to_tenant
c.toml:13:13: there is no midstream `pass`; write one of drop relock
c.toml:14:13: there is no fragments `track`; write one of drop allow
> [[encryption]]
> mode = "enforce"
c.toml:3:1: [[encryption]] has no `tenant`; write tenant = "acme"
"##,
    );
}

#[test]
fn what_passes_in_clear_is_named_and_bounded() {
    host(
        r##"
> [[tenant]]
> name = "acme"
> id = 17
> [[encryption]]
> tenant = "acme"
> exempt = ["icmp", "dns:10", "arp"]
> starttls_ports = [25]
> starttls_bytes = 70000
> unverified_bytes = 1000
> unclassified_packets = 256
c.toml:8:11: nothing is exempt as `icmp`; write one of arp nd dhcp icmp-error icmp-echo dns ntp
c.toml:8:19: `10` has no unit; write a packet rate such as 10kpps
c.toml:9:19: this element of `starttls_ports` is an integer; write starttls_ports = ["25", "587"]
c.toml:10:18: `starttls_bytes` is 70000; write 0 to 65536
c.toml:11:20: `unverified_bytes` is 1000; write 65536 to 1073741824
c.toml:12:24: `unclassified_packets` is 256; write 0 to 255
"##,
    );
}

#[test]
fn conversations_fit_the_room_of_the_host() {
    host(
        r##"
> [[tenant]]
> name = "acme"
> id = 17
> [[tenant]]
> name = "globex"
> id = 18
> [[encryption]]
> tenant = "acme"
> conversations = 30000
> [[encryption]]
> tenant = "acme"
> conversations = 100
> [[encryption]]
> tenant = "globex"
> conversations = 32769
c.toml:17:17: with this rule of `globex`, 98304 conversations are asked for, in parts that are powers of two, and there is room for 65536; write fewer, or raise `conversations_max` in [host]
> [[tenant]]
> name = "acme"
> id = 17
> [[encryption]]
> tenant = "acme"
> conversations = 65536
accepted
"##,
    );
}
