//! What holds for every configuration and every text.

use std::collections::HashMap;

use super::{Random, generate, seed};
use crate::config::{Cidr, Config, EXAMPLE, parse};

/// Tokens that a mutation puts into a text: legal ones, nearly legal ones, and nonsense.
const TOKENS: [&str; 48] = [
    "[host]",
    "[[port]]",
    "[[zone]]",
    "[[tenant]]",
    "[[uplink]]",
    "[port.from_tenant]",
    "[[port.x]]",
    "name",
    "vlan",
    "\"acme\"",
    "\"other\"",
    "\"globex\"",
    "\"tap0\"",
    "\"eth0\"",
    "\"br-mgmt\"",
    "\"\"",
    "\"10.0.0.5\"",
    "\"0.0.0.0/0\"",
    "\"::/0\"",
    "\"ff02::1\"",
    "\"10.0.1.7\"",
    "\"::ffff:1.2.3.4/127\"",
    "\"52:54:00:00:00:01\"",
    "\"01:00:00:00:00:00\"",
    "\"18446744073709551616Tbit/s\"",
    "\"1bit/s\"",
    "\"400Gbit/s\"",
    "\"1MB/s\"",
    "\"0.0000000000000000001s\"",
    "\"10s\"",
    "\"999999999999999999s\"",
    "\"1514B\"",
    "\"1Mbps\"",
    "\"7kpps\"",
    "0",
    "4",
    "64",
    "65536",
    "4294967296",
    "-1",
    "1e9",
    "inf",
    "0xffffffffffffffffff",
    "true",
    "[]",
    "{}",
    "1979-05-27",
    "\"\\u0000\u{202e}é\\n\"",
];

#[test]
fn a_configuration_that_is_written_is_read_the_same() {
    let mut random = Random(seed());
    let cases = 2_000;
    for case in 0..cases {
        let config = generate::config(&mut random);
        let text = config.to_toml();
        match parse(&text, "written.toml") {
            Ok(read) => assert_eq!(read, config, "case {case} of seed {}:\n{text}", seed()),
            Err(errors) => panic!("case {case} of seed {}: {errors}\n{text}", seed()),
        }
    }
    println!("CASES: config round trips: {cases}");
}

#[test]
fn a_port_that_is_taken_out_can_be_put_back() {
    let mut random = Random(seed() ^ 1);
    let mut cases = 0;
    while cases < 500 {
        let config = generate::config(&mut random);
        let Some(port) = config.ports.first().cloned() else {
            continue;
        };
        let without = config
            .without_port(port.name.as_str())
            .expect("there is such a port");
        let mut back = without
            .with_port(port.clone())
            .expect("it was legal before");
        back.ports.rotate_right(1);
        assert_eq!(back, config);
        assert_eq!(config.with_port_replaced(port), Ok(config));
        cases += 1;
    }
    println!("CASES: config port changes: {cases}");
}

#[test]
fn a_prefix_that_is_written_is_read_the_same() {
    let mut random = Random(seed() ^ 2);
    for _ in 0..20_000 {
        let cidr = generate::any_cidr(&mut random);
        assert_eq!(cidr.to_string().parse::<Cidr>(), Ok(cidr));
    }
    println!("CASES: config prefixes: 20000");
}

/// However a text is mangled: no panic, errors that each have one line and a place in the text, and
/// what is accepted can be written and read again.
#[test]
fn no_text_panics_and_every_error_has_a_place() {
    let mut random = Random(seed() ^ 3);
    let cases = 20_000;
    let mut outcomes: HashMap<&str, u32> = HashMap::new();
    let mut start = EXAMPLE.to_string();
    for case in 0..cases {
        if case % 16 == 0 {
            start = if random.one_in(2) {
                EXAMPLE.to_string()
            } else {
                generate::config(&mut random).to_toml()
            };
        }
        let text = mutated(&start, &mut random);
        let outcome = check(&text);
        *outcomes.entry(outcome).or_default() += 1;
    }
    println!("CASES: config mutations: {cases} ({outcomes:?})");
    for outcome in ["accepted", "refused", "no TOML"] {
        let count = outcomes.get(outcome).copied().unwrap_or(0);
        assert!(count > cases / 20, "only {count} of {cases} were {outcome}");
    }
}

/// Checks one text; what became of it.
fn check(text: &str) -> &'static str {
    match parse(text, "m.toml") {
        Ok(config) => {
            let again = parse(&config.to_toml(), "again.toml");
            assert_eq!(again.as_ref(), Ok::<&Config, _>(&config), "from {text}");
            "accepted"
        }
        Err(errors) => {
            assert!(!errors.0.is_empty());
            assert_eq!(
                errors.to_string().lines().count(),
                errors.0.len(),
                "from {text}"
            );
            for error in &errors.0 {
                let place = error.place.as_ref().and_then(|place| place.line_column);
                let Some((line, column)) = place else {
                    assert!(
                        error.message.ends_with("correct these first"),
                        "{error} from {text}"
                    );
                    continue;
                };
                let line = text.split('\n').nth(line - 1);
                let columns = line.map(|line| line.chars().count() + 1);
                assert!(
                    columns.is_some_and(|most| column <= most),
                    "{error} from {text}"
                );
                assert!(error.message.len() < 400, "{error} from {text}");
            }
            match errors.0.iter().any(|error| error.message.contains("TOML")) {
                true => "no TOML",
                false => "refused",
            }
        }
    }
}

/// `text` with one to four changes.
fn mutated(text: &str, random: &mut Random) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.below(4) {
        match random.below(3) {
            0 => mutate_bytes(&mut bytes, random),
            1 => mutate_lines(&mut bytes, random),
            _ => mutate_value(&mut bytes, random),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Flips, inserts, deletes or cuts off bytes.
fn mutate_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let token = random.pick(&TOKENS).bytes();
    match random.below(6) {
        0 => bytes.truncate(at),
        1 => drop(bytes.splice(at..at, token)),
        2 => drop(bytes.drain(at..(at + random.below(20)).min(bytes.len()))),
        3 => bytes.insert(at, random.next() as u8),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
}

/// Deletes, doubles, moves or joins lines.
fn mutate_lines(bytes: &mut Vec<u8>, random: &mut Random) {
    let mut lines: Vec<Vec<u8>> = bytes
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    let from = random.below(lines.len());
    let to = random.below(lines.len());
    match random.below(4) {
        0 => drop(lines.remove(from)),
        1 => lines.insert(to, lines[from].clone()),
        2 => lines.swap(from, to),
        _ => {
            let header = random.pick(&TOKENS[..7]).as_bytes().to_vec();
            lines.insert(to, header);
        }
    }
    *bytes = lines.join(&b'\n');
}

/// Puts another value in place of one.
fn mutate_value(bytes: &mut Vec<u8>, random: &mut Random) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let is_edge = |c: char| matches!(c, '=' | ',' | '[' | ']' | '{' | '}' | '\n' | '#');
    let mut at = 0;
    let mut values = Vec::new();
    for piece in text.split(is_edge) {
        let value = piece.trim();
        let start = at + piece.find(value).unwrap_or(0);
        let is_value = value.starts_with(|c: char| c == '"' || c.is_ascii_digit());
        if is_value || value == "true" || value == "false" {
            values.push(start..start + value.len());
        }
        at += piece.len() + 1;
    }
    if !values.is_empty() {
        let range = random.pick(&values).clone();
        let mut changed = text;
        let token: &str = random.pick::<&str>(&TOKENS[7..]);
        changed.replace_range(range, token);
        *bytes = changed.into_bytes();
    }
}
