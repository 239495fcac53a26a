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
> fragments = "follow"
c.toml:7:10: there is no tenant `acmee`; did you mean `acme`?
c.toml:8:10: there is no zone `internet`; add a [[zone]] of that name
c.toml:8:31: the zone `other` is named twice; keep one
c.toml:9:8: there is no mode `enforced`; write one of off observe enforce
c.toml:10:11: there is no profile `anssi`; write one of anssi-2026 anssi-pq nist-800-52r2 cnsa
c.toml:11:16: there is no evidence `E4`; write one of E1 E2 E3
c.toml:12:13: there is no direction `in`; write one of both from_tenant to_tenant
c.toml:13:13: there is no midstream `pass`; write one of drop relock
c.toml:14:13: there is no fragments `follow`; write one of drop track allow
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

#[test]
fn a_profile_of_ones_own_says_what_it_accepts() {
    host(
        r##"
> [[tenant]]
> name = "acme"
> id = 17
> [[encryption_profile]]
> name = "cnsa"
> based_on = "cnsa-2"
> suites = ["TLS_AES_256_GCM_SHA38", "TLS_RSA_WITH_NULL_SHA", "TLS_SHA256_SHA256", "AES"]
> groups = []
> protocols = ["tls", "telnet"]
> tls_min = "1.1"
> overlays = "pass"
c.toml:7:8: the profile `cnsa` is built in; choose another name
c.toml:8:12: there is no profile `cnsa-2`; write one of anssi-2026 anssi-pq nist-800-52r2 cnsa
c.toml:9:11: there is no suite `TLS_AES_256_GCM_SHA38`; did you mean `TLS_AES_256_GCM_SHA384`?
c.toml:9:36: `TLS_RSA_WITH_NULL_SHA` encrypts nothing, or proves no end: no profile may have it; leave it out
c.toml:9:61: `TLS_SHA256_SHA256` encrypts nothing, or proves no end: no profile may have it; leave it out
c.toml:9:82: there is no suite `AES`; write a name of IANA's registry that is known here, such as TLS_AES_128_GCM_SHA256
c.toml:10:10: `groups` is empty: nothing would pass; write groups = ["X25519MLKEM768"], or leave it out for those of `based_on`
c.toml:11:21: nobody can tell `telnet` here; write one of tls ssh wireguard quic-v1 quic-v2 dtls esp ike openvpn
c.toml:12:11: there is no version `1.1`; write one of 1.2 1.3
c.toml:13:12: there is no overlays `pass`; write one of inspect refuse
> [[tenant]]
> name = "acme"
> id = 17
> [[encryption_profile]]
> name = "partner"
> based_on = "anssi-2026"
> groups = ["x25519", "x25519"]
> [[encryption_profile]]
> name = "partner"
> [[encryption]]
> tenant = "acme"
> profile = "partners"
c.toml:9:21: `x25519` is named twice; keep one
c.toml:10:1: encryption_profile `partner` has no `based_on`; write based_on = "anssi-2026"
c.toml:11:8: there is a profile `partner` already (line 7); choose another name
c.toml:14:11: there is no profile `partners`; write one of anssi-2026 anssi-pq nist-800-52r2 cnsa partner partner
"##,
    );
}
