//! Changes of a running configuration, and files that cannot be read.

use std::path::{Path, PathBuf};

use dataplane_common::units::{BitsPerSecond, Bytes};

use crate::config::{Config, EXAMPLE, Port, load, parse, parse_port};

fn example() -> Config {
    parse(EXAMPLE, "example.toml").expect("the example is legal")
}

fn port(name: &str, tenant: &str, interface: &str, mac: u8, address: &str) -> Port {
    let text = format!(
        "name = \"{name}\"\ntenant = \"{tenant}\"\ninterface = \"{interface}\"\n\
         macs = [\"52:54:00:00:00:{mac:02x}\"]\naddresses = [\"{address}\"]\n"
    );
    parse_port(&text, "port").expect("a legal port")
}

#[test]
fn a_port_is_added_replaced_and_removed() {
    let config = example();
    let added = port("acme-vm2", "acme", "tap9", 9, "10.0.0.9");
    let larger = config
        .with_port(added.clone())
        .expect("it goes with the others");
    assert_eq!(larger.ports.last(), Some(&added));
    let mut changed = added;
    changed.to_tenant.ceiling = Some(BitsPerSecond(1_000_000));
    let replaced = larger
        .with_port_replaced(changed.clone())
        .expect("it goes with the others");
    assert_eq!(replaced.port("acme-vm2"), Some(&changed));
    assert_eq!(replaced.without_port("acme-vm2"), Ok(config));
}

#[test]
fn a_port_that_does_not_go_with_the_others_is_refused_without_a_place() {
    let cases = [
        (
            port("acme-vm1", "acme", "tap9", 9, "10.0.0.9"),
            "there is a port `acme-vm1` already; choose another name",
        ),
        (
            port("new", "acne", "tap9", 9, "10.0.0.9"),
            "port `new` is of tenant `acne`, which is not there; did you mean `acme`?",
        ),
        (
            port("new", "acme", "tap0", 9, "10.0.0.9"),
            "port `new` and port `acme-vm1` are both on `tap0`; write another interface, or a \
             `vlan` for each",
        ),
        (
            port("new", "acme", "tap9", 1, "10.0.0.9"),
            "port `new` has 52:54:00:00:00:01, which port `acme-vm1` has; a MAC address belongs to \
             one port of a host",
        ),
        (
            port("new", "acme", "tap9", 9, "10.0.1.128/25"),
            "port `new` has 10.0.1.128/25, which is in 10.0.1.0/24 that port `acme-vm1` of the same \
             tenant has; an address belongs to one port",
        ),
        (
            port("new", "acme", "eth0", 9, "10.0.0.9"),
            "port `new` has `eth0`, which is an uplink; write the tenant's interface",
        ),
    ];
    for (port, message) in cases {
        let errors = example().with_port(port).unwrap_err();
        assert_eq!(errors.to_string(), message);
    }
}

#[test]
fn a_port_that_was_built_by_hand_is_checked_like_one_that_was_read() {
    let mut built = port("new", "acme", "tap9", 9, "10.0.0.9");
    built.macs.clear();
    built.from_tenant.burst = Some(Bytes(2_000));
    built.to_tenant.ceiling = Some(BitsPerSecond(0));
    let errors = example().with_port(built).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "port `new` has no `macs`; write macs = [\"52:54:00:00:00:01\"]\n\
         port `new` from_tenant: a burst needs a ceiling; write ceiling = \"200Mbit/s\" beside it\n\
         port `new` to_tenant: the ceiling is 0bit/s; write at least 1kbit/s, or leave it out for no \
         ceiling"
    );
}

#[test]
fn a_port_that_is_not_there_is_neither_removed_nor_replaced() {
    let errors = example().without_port("acme-vm2").unwrap_err();
    assert_eq!(
        errors.to_string(),
        "there is no port `acme-vm2`; did you mean `acme-vm1`?"
    );
    let errors = example()
        .with_port_replaced(port("x", "acme", "t", 9, "10.0.0.9"))
        .unwrap_err();
    assert_eq!(
        errors.to_string(),
        "there is no port `x`; `octroi status` lists the ports"
    );
}

/// A directory of one test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let name = format!("octroi-config-{}-{test}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory for the test");
        Self(directory)
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.join("c.toml");
        std::fs::write(&path, bytes).expect("a file for the test");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What is said of a file, without the directory.
fn load_says(path: &Path) -> String {
    let said = load(path).expect_err("the file is wrong").to_string();
    let directory = path.parent().map(|parent| format!("{}/", parent.display()));
    said.replacen(&directory.unwrap_or_default(), "", 1)
}

#[test]
fn a_file_is_loaded() {
    let scratch = Scratch::new("loaded");
    assert_eq!(load(&scratch.file(EXAMPLE.as_bytes())), Ok(example()));
}

#[test]
fn errors_of_a_file_have_its_name() {
    let scratch = Scratch::new("named");
    let said = load_says(&scratch.file(b"[host]\n"));
    assert_eq!(
        said,
        "c.toml:1:1: [host] has no `name`; write name = \"host-1\""
    );
}

#[test]
fn a_file_that_is_not_utf_8_is_refused_where_it_is_not() {
    let scratch = Scratch::new("utf8");
    let said = load_says(&scratch.file(b"[host]\nname = \"caf\xe9\"\n"));
    assert_eq!(
        said,
        "c.toml:2:12: byte 0xe9 is not UTF-8; save the file as UTF-8"
    );
    let said = load_says(
        &scratch.file(
            "\u{feff}"
                .encode_utf16()
                .next()
                .expect("one")
                .to_le_bytes()
                .as_slice(),
        ),
    );
    assert_eq!(
        said,
        "c.toml:1:1: byte 0xff is not UTF-8; save the file as UTF-8"
    );
}

#[test]
fn what_is_no_file_is_refused() {
    let scratch = Scratch::new("no-file");
    let missing = load_says(&scratch.0.join("missing.toml"));
    let expected = "missing.toml: there is no such file; write one, the example names every key";
    assert_eq!(missing, expected);
    let directory = load(&scratch.0).unwrap_err().to_string();
    assert!(
        directory.ends_with(": this is a directory; name the file in it"),
        "{directory}"
    );
    let device = load(Path::new("/dev/null")).unwrap_err().to_string();
    assert_eq!(
        device,
        "/dev/null: this is not a regular file; copy it to one"
    );
    let below_a_file = load_says(&scratch.file(b"").join("x"));
    assert!(
        below_a_file.contains(": the file cannot be read: "),
        "{below_a_file}"
    );
}

#[test]
fn a_file_of_more_than_64_mib_is_not_read() {
    let scratch = Scratch::new("large");
    let path = scratch.file(b"");
    let file = std::fs::File::options()
        .write(true)
        .open(&path)
        .expect("the file of the test");
    file.set_len((64 << 20) + 1).expect("a sparse file");
    let expected = "c.toml: the file is larger than 64MiB; this is no configuration";
    assert_eq!(load_says(&path), expected);
}
