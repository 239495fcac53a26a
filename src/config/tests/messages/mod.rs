//! Every message, literally.
//!
//! A table is a text: lines after `> ` are one input, the lines that follow are all its errors.

mod api;
mod encryption;
mod limits;
mod ports;
mod provide;
mod quotas;
mod sections;
mod shares;
mod sinks;
mod zones_tenants;

use crate::config::{Errors, parse, parse_port};

const HOST: &str = "[host]\nname = \"h\"\n";

/// A host with a tenant and, on lines 6 to 11, one port.
const PORT: &str = r#"[host]
name = "h"
[[tenant]]
name = "acme"
id = 17
[[port]]
name = "vm"
tenant = "acme"
interface = "tap0"
macs = ["52:54:00:00:00:01"]
addresses = ["10.0.0.5", "2001:db8::/64"]
"#;

/// The inputs are whole files.
fn whole(table: &str) {
    check(table, |input| parse(input, "c.toml").map(drop));
}

/// The inputs start on line 3, below a legal `[host]`.
fn host(table: &str) {
    check(table, |input| {
        parse(&format!("{HOST}{input}"), "c.toml").map(drop)
    });
}

/// The inputs start on line 12, below a legal port.
fn port(table: &str) {
    check(table, |input| {
        parse(&format!("{PORT}{input}"), "c.toml").map(drop)
    });
}

/// The inputs are limits of a legal port, on line 12 from column 17.
fn limit(table: &str) {
    check(table, |input| {
        parse(&format!("{PORT}from_tenant = {{ {input} }}\n"), "c.toml").map(drop)
    });
}

/// The inputs are given to `parse_port`.
fn port_alone(table: &str) {
    check(table, |input| parse_port(input, "c.toml").map(drop));
}

/// Compares what `read` says to each input of the table.
fn check(table: &str, read: impl Fn(&str) -> Result<(), Errors>) {
    let (mut said, mut cases) = (String::from("\n"), 0);
    let mut lines = table.trim().lines().peekable();
    while lines.peek().is_some() {
        let mut input = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with('>')) {
            said.push_str(&format!("{line}\n"));
            input.push(line[1..].strip_prefix(' ').unwrap_or(""));
        }
        while lines.next_if(|line| !line.starts_with('>')).is_some() {}
        match read(&input.join("\n")) {
            Ok(()) => said.push_str("accepted\n"),
            Err(errors) => said.push_str(&format!("{errors}\n")),
        }
        cases += 1;
    }
    assert_eq!(said, table, "of {cases} inputs; what was said:\n{said}");
}

#[test]
fn a_byte_order_mark_and_line_ends_of_windows_move_no_place() {
    let errors = parse("\u{feff}[host]\r\nname = \"h\"\r\nname2 = 3\r\n", "c.toml").unwrap_err();
    assert!(
        errors
            .to_string()
            .starts_with("c.toml:3:1: unknown key `name2`"),
        "{errors}"
    );
    let errors = parse("\u{feff}hst = 3", "c.toml").unwrap_err();
    assert!(
        errors
            .to_string()
            .starts_with("c.toml:1:1: unknown key `hst`"),
        "{errors}"
    );
    let errors = parse("\u{feff}", "c.toml").unwrap_err();
    assert!(
        errors
            .to_string()
            .starts_with("c.toml:1:1: the file says nothing;"),
        "{errors}"
    );
}

#[test]
fn a_deeply_nested_text_is_refused() {
    for (open, name) in [("[", "lists"), ("{b=", "tables")] {
        let errors = parse(&format!("a = {}", open.repeat(100_000)), "c.toml").unwrap_err();
        let message = "cannot recurse further; max recursion depth met";
        assert!(errors.to_string().contains(message), "{name}: {errors}");
    }
    let errors = parse(&format!("{} = 1", vec!["a"; 100_000].join(".")), "c.toml").unwrap_err();
    assert_eq!(
        errors.to_string(),
        "c.toml:1:1: this is not TOML: recursion limit"
    );
}

#[test]
fn lists_of_a_port_have_bounds() {
    let macs: Vec<String> = (0..65)
        .map(|last| format!("\"52:54:00:00:00:{last:02x}\""))
        .collect();
    let addresses: Vec<String> = (0..257)
        .map(|last| format!("\"10.0.{}.{}\"", last / 256, last % 256))
        .collect();
    let text = |macs: &[String], addresses: &[String]| {
        let (macs, addresses) = (macs.join(", "), addresses.join(", "));
        let names = "name = \"vm\"\ntenant = \"acme\"\ninterface = \"tap0\"";
        format!("{names}\nmacs = [{macs}]\naddresses = [{addresses}]\n")
    };
    let errors = parse_port(&text(&macs, &addresses), "c.toml").unwrap_err();
    let expected = "c.toml:4:8: port `vm` has 65 `macs`; write at most 64\n\
                    c.toml:5:13: port `vm` has 257 `addresses`; write at most 256";
    assert_eq!(errors.to_string(), expected);
    assert!(parse_port(&text(&macs[..64], &addresses[..256]), "c.toml").is_ok());
}

#[test]
fn the_hundred_and_first_error_and_all_after_it_are_counted() {
    let text = format!("{HOST}{}", "[[uplink]]\n".repeat(250));
    let errors = parse(&text, "c.toml").unwrap_err();
    assert_eq!(errors.0.len(), 101);
    assert_eq!(
        errors.0[100].to_string(),
        "150 more errors; correct these first"
    );
}
