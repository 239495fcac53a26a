//! Messages about names, prefixes, zones and tenants.

use super::{host, whole};

#[test]
fn names_have_64_letters_digits_and_three_signs() {
    whole(
        r##"
> [host]
> name = ""
c.toml:2:8: the name is empty; write 1 to 64 of A-Z a-z 0-9 . _ -
> [host]
> name = "a b"
c.toml:2:8: the name `a b` contains ` `; write 1 to 64 of A-Z a-z 0-9 . _ -
> [host]
> name = "é"
c.toml:2:8: the name `é` contains `é`; write 1 to 64 of A-Z a-z 0-9 . _ -
> [host]
> name = "a\u0000"
c.toml:2:8: the name `a\0` contains `\0`; write 1 to 64 of A-Z a-z 0-9 . _ -
> [host]
> name = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
c.toml:2:8: the name `nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…` has 65 characters; write 1 to 64 of A-Z a-z 0-9 . _ -
> [host]
> name = "-x"
c.toml:2:8: the name `-x` starts with `-`; start it with a letter or a digit
> [host]
> name = ".."
c.toml:2:8: the name `..` starts with `.`; start it with a letter or a digit
"##,
    );
}

#[test]
fn interface_names_are_those_the_kernel_takes() {
    host(
        r##"
> [[uplink]]
> interface = ""
c.toml:4:13: the interface name is empty; write 1 to 15 bytes without `/`, `:` and blanks, as `ip link` shows it
> [[uplink]]
> interface = "tap0123456789012"
c.toml:4:13: the interface name `tap0123456789012` has 16 bytes; write 1 to 15 bytes without `/`, `:` and blanks, as `ip link` shows it
> [[uplink]]
> interface = "a/b"
c.toml:4:13: the interface name `a/b` contains `/`; write 1 to 15 bytes without `/`, `:` and blanks, as `ip link` shows it
> [[uplink]]
> interface = "a b"
c.toml:4:13: the interface name `a b` contains ` `; write 1 to 15 bytes without `/`, `:` and blanks, as `ip link` shows it
> [[uplink]]
> interface = "eth0:1"
c.toml:4:13: the interface name `eth0:1` contains `:`; write 1 to 15 bytes without `/`, `:` and blanks, as `ip link` shows it
> [[uplink]]
> interface = "."
c.toml:4:13: the kernel refuses `.` as an interface name; write 1 to 15 bytes without `/`, `:` and blanks, as `ip link` shows it
> [[uplink]]
> interface = "a\u007f"
c.toml:4:13: the interface name `a\u{7f}` contains `\u{7f}`; write 1 to 15 bytes without `/`, `:` and blanks, as `ip link` shows it
> [[uplink]]
> interface = "ééééééééé"
c.toml:4:13: the interface name `ééééééééé` has 18 bytes; write 1 to 15 bytes without `/`, `:` and blanks, as `ip link` shows it
"##,
    );
}

#[test]
fn built_in_zones_cannot_be_defined() {
    host(
        r##"
> [[zone]]
> name = "other"
> cidrs = ["10.0.0.0/8"]
c.toml:4:8: the zone `other` is built in; choose another name
> [[zone]]
> name = "intra-host"
> cidrs = ["10.0.0.0/8"]
c.toml:4:8: the zone `intra-host` is built in; choose another name
> [[zone]]
> name = "group"
> cidrs = ["10.0.0.0/8"]
c.toml:4:8: the zone `group` is built in; choose another name
> [[zone]]
> name = "link"
> cidrs = ["10.0.0.0/8"]
c.toml:4:8: the zone `link` is built in; choose another name
"##,
    );
}

#[test]
fn a_zone_needs_prefixes() {
    host(
        r##"
> [[zone]]
c.toml:3:1: [[zone]] has no `name`; write name = "internet-fr"
c.toml:3:1: [[zone]] has no `cidrs`; write cidrs = ["192.0.2.0/24"]
> [[zone]]
> name = "z"
c.toml:3:1: zone `z` has no `cidrs`; write cidrs = ["192.0.2.0/24"]
> [[zone]]
> name = "z"
> cidrs = []
c.toml:5:9: zone `z` has no `cidrs`; write cidrs = ["192.0.2.0/24"]
"##,
    );
}

#[test]
fn a_prefix_has_no_host_bits() {
    host(
        r##"
> [[zone]]
> name = "z"
> cidrs = ["10.0.0.5/24"]
c.toml:5:10: `10.0.0.5/24` has host bits set; write 10.0.0.0/24 for the network, or 10.0.0.5 for the one address
> [[zone]]
> name = "z"
> cidrs = ["2001:db8::5/32"]
c.toml:5:10: `2001:db8::5/32` has host bits set; write 2001:db8::/32 for the network, or 2001:db8::5 for the one address
> [[zone]]
> name = "z"
> cidrs = ["10.0.0.5/0"]
c.toml:5:10: `10.0.0.5/0` has host bits set; write 0.0.0.0/0 for the network, or 10.0.0.5 for the one address
"##,
    );
}

#[test]
fn a_prefix_is_an_address_and_a_length() {
    host(
        r##"
> [[zone]]
> name = "z"
> cidrs = [""]
c.toml:5:10: `` is not an address or prefix; write 10.0.0.5, 10.0.1.0/24 or 2001:db8::/32
> [[zone]]
> name = "z"
> cidrs = ["x"]
c.toml:5:10: `x` is not an address or prefix; write 10.0.0.5, 10.0.1.0/24 or 2001:db8::/32
> [[zone]]
> name = "z"
> cidrs = ["10.0.0"]
c.toml:5:10: `10.0.0` is not an address or prefix; write 10.0.0.5, 10.0.1.0/24 or 2001:db8::/32
> [[zone]]
> name = "z"
> cidrs = ["010.0.0.1"]
c.toml:5:10: `010.0.0.1` is not an address or prefix; write 10.0.0.5, 10.0.1.0/24 or 2001:db8::/32
> [[zone]]
> name = "z"
> cidrs = ["fe80::1%eth0"]
c.toml:5:10: `fe80::1%eth0` is not an address or prefix; write 10.0.0.5, 10.0.1.0/24 or 2001:db8::/32
> [[zone]]
> name = "z"
> cidrs = ["10.0.0.0/33"]
c.toml:5:10: `10.0.0.0/33` has no prefix length that IPv4 has; write 0 to 32 after the `/`
> [[zone]]
> name = "z"
> cidrs = ["2001:db8::/129"]
c.toml:5:10: `2001:db8::/129` has no prefix length that IPv6 has; write 0 to 128 after the `/`
> [[zone]]
> name = "z"
> cidrs = ["10.0.0.0/"]
c.toml:5:10: `10.0.0.0/` has no prefix length that IPv4 has; write 0 to 32 after the `/`
> [[zone]]
> name = "z"
> cidrs = ["10.0.0.0/+8"]
c.toml:5:10: `10.0.0.0/+8` has no prefix length that IPv4 has; write 0 to 32 after the `/`
> [[zone]]
> name = "z"
> cidrs = ["10.0.0.0/255.255.255.0"]
c.toml:5:10: `10.0.0.0/255.255.255.0` has no prefix length that IPv4 has; write 0 to 32 after the `/`
> [[zone]]
> name = "z"
> cidrs = ["::ffff:1.2.3.4"]
c.toml:5:10: `::ffff:1.2.3.4` is an IPv4 address inside IPv6; write 1.2.3.4
> [[zone]]
> name = "z"
> cidrs = ["::ffff:0:0/96"]
c.toml:5:10: `::ffff:0:0/96` is an IPv4 address inside IPv6; write 0.0.0.0/0
"##,
    );
}

#[test]
fn a_prefix_is_in_one_zone_only_once() {
    host(
        r##"
> [[zone]]
> name = "a"
> cidrs = ["10.0.0.0/8"]
> [[zone]]
> name = "b"
> cidrs = ["10.0.0.0/8"]
c.toml:8:10: zone `b` has 10.0.0.0/8, which is in zone `a` (line 5); keep one
> [[zone]]
> name = "a"
> cidrs = ["10.0.0.1", "10.0.0.1/32"]
c.toml:5:22: zone `a` has 10.0.0.1 twice; keep one
"##,
    );
}

#[test]
fn zones_have_different_names_and_numbers() {
    host(
        r##"
> [[zone]]
> name = "a"
> cidrs = ["10.0.0.0/8"]
> [[zone]]
> name = "a"
> cidrs = ["11.0.0.0/8"]
c.toml:7:8: there is a zone `a` already (line 4); choose another name
> [[zone]]
> name = "a"
> id = 5
> cidrs = ["10.0.0.0/8"]
> [[zone]]
> name = "b"
> cidrs = ["11.0.0.0/8"]
c.toml:7:1: zone `b` is number 5 by its place, which zone `a` (line 5) has; write an `id` for each zone
> [[zone]]
> name = "a"
> id = 7
> cidrs = ["10.0.0.0/8"]
> [[zone]]
> name = "b"
> id = 7
> cidrs = ["11.0.0.0/8"]
c.toml:9:6: zone `b` has the id 7 of zone `a` (line 5); write another
"##,
    );
}

#[test]
fn zone_numbers_fit_the_host() {
    host(
        r##"
> [[zone]]
> name = "a"
> id = 3
> cidrs = ["10.0.0.0/8"]
c.toml:5:6: `id` is 3; write 4 to 63
> [[zone]]
> name = "a"
> id = 64
> cidrs = ["10.0.0.0/8"]
c.toml:5:6: `id` is 64; write 4 to 63
> [[zone]]
> name = "a"
> id = 16
> cidrs = ["10.0.0.0/8"]
c.toml:5:6: zone `a` has the id 16; with `zones_max` = 16 write 4 to 15, or raise it in [host], up to 64
> zones_max = 8
> [[zone]]
> name = "z0"
> cidrs = ["10.0.0.0/16"]
> [[zone]]
> name = "z1"
> cidrs = ["10.1.0.0/16"]
> [[zone]]
> name = "z2"
> cidrs = ["10.2.0.0/16"]
> [[zone]]
> name = "z3"
> cidrs = ["10.3.0.0/16"]
> [[zone]]
> name = "z4"
> cidrs = ["10.4.0.0/16"]
> [[zone]]
> name = "z5"
> cidrs = ["10.5.0.0/16"]
c.toml:16:1: zone `z4` is number 5 of the file, and `zones_max` = 8 leaves 4 beside the built-in ones; raise it in [host], up to 64
"##,
    );
}

#[test]
fn tenants_have_a_name_and_a_number() {
    host(
        r##"
> [[tenant]]
c.toml:3:1: [[tenant]] has no `name`; write name = "acme"
c.toml:3:1: [[tenant]] has no `id`; write id = 17
> [[tenant]]
> name = "acme"
> id = 0
c.toml:5:6: `id` is 0; write 1 to 4294967295
> [[tenant]]
> name = "acme"
> id = 4294967296
c.toml:5:6: `id` is 4294967296; write 1 to 4294967295
> [[tenant]]
> name = "acme"
> id = "17"
c.toml:5:6: `id` is a string; write id = 17
"##,
    );
}

#[test]
fn a_charge_class_is_one_of_four_and_changes_in_order() {
    host(
        r##"
> [[tenant]]
> name = "acme"
> id = 17
> charge_class = "free"
c.toml:6:16: there is no charge class `free`; write standard, switching, parallel or credit
> [[tenant]]
> name = "acme"
> id = 17
> charge_changes = ["tomorrow", "20270112 switching", "2027-02-30 credit", "2027-01-12 free", "2027-01-12"]
c.toml:6:19: `tomorrow` is no change; write a day and a class, such as `2027-01-12 switching`
c.toml:6:31: `20270112 switching` is no change; write a day and a class, such as `2027-01-12 switching`
c.toml:6:53: `2027-02-30 credit` is no change; write a day and a class, such as `2027-01-12 switching`
c.toml:6:74: there is no charge class `free`; write standard, switching, parallel or credit
c.toml:6:93: `2027-01-12` is no change; write a day and a class, such as `2027-01-12 switching`
> [[tenant]]
> name = "acme"
> id = 17
> charge_changes = ["2027-01-12 switching", "2027-01-12 credit", "2026-01-01 standard"]
c.toml:6:43: tenant `acme` changes its charge class on 2027-01-12 after 2027-01-12; write each day once, the earliest first
c.toml:6:64: tenant `acme` changes its charge class on 2026-01-01 after 2027-01-12; write each day once, the earliest first
"##,
    );
}

#[test]
fn a_time_zone_is_one_that_exists() {
    host(
        r##"
> [billing]
> timezone = "Paris"
c.toml:4:12: there is no time zone `Paris`; write UTC, or a name such as Europe/Paris
> [billing]
> timezone = "+01:00"
c.toml:4:12: there is no time zone `+01:00`; write UTC, or a name such as Europe/Paris
> [billing]
> zone = "UTC"
c.toml:4:1: unknown key `zone` in [billing]; the keys are timezone
"##,
    );
}

#[test]
fn tenants_have_different_names_and_numbers() {
    host(
        r##"
> [[tenant]]
> name = "acme"
> id = 17
> [[tenant]]
> name = "acme"
> id = 18
> [[tenant]]
> name = "globex"
> id = 17
c.toml:7:8: there is a tenant `acme` already (line 4); choose another name
c.toml:11:6: tenant `globex` has the id 17 of tenant `acme` (line 5); write one that no tenant ever had
"##,
    );
}
