//! What a file may look like. Reads every file that is, or is about to be, in the repository.

use crate::{at, read};
use anyhow::{Context as _, Result, ensure};
use std::{collections::BTreeMap, fs, process::Command};

/// Lines of a file that a reader is asked to hold in mind.
const LINES_MAX: usize = 500;

/// Files that are longer, and why that is right. One that is short, or gone, leaves the list.
const LONGER: [(&str, &str); 2] = [
    (
        "docs/METERING.md",
        "whoever checks a bill needs this page and no other",
    ),
    (
        "tests/acceptance.toml",
        "a row for each clause, and a tool that reads them",
    ),
];

/// Endings of files that nobody reads from top to bottom.
const DATA: [&str; 8] = [
    ".lock", ".ndjson", ".pcap", ".pcapng", ".bin", ".hex", ".json", ".jsonl",
];

/// Hosts that a file may name in a URL: where sources and the kernel's and the formats' papers are, and namespaces of XML.
const HOSTS: [&str; 8] = [
    "github.com",
    "www.apache.org",
    "www.rfc-editor.org",
    // The name of SVG's elements.
    "www.w3.org",
    "docs.kernel.org",
    "deb.debian.org",
    "openstack.org",
    "snapshot.debian.org",
];

/// Paths and texts of the repository's files, without data.
fn files() -> Result<Vec<(String, String)>> {
    let output = Command::new("git")
        // The files may be another user's: CI runs as root.
        .args(["-c", "safe.directory=*"])
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ])
        .current_dir(at(""))
        .output()
        .context("git")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = String::from_utf8(output.stdout)?;
    let mut files = Vec::new();
    for name in names.split_terminator('\0') {
        // A file that is gone but still tracked, or is no text, is nothing to read.
        if !DATA.iter().any(|ending| name.ends_with(ending))
            && let Ok(text) = fs::read_to_string(at(name))
        {
            files.push((name.to_owned(), text));
        }
    }
    ensure!(files.len() > 50, "only {} files", files.len());
    Ok(files)
}

/// Every place in the repository's files that `is_bad` finds.
fn places(is_bad: impl Fn(&str, &str) -> bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (name, text) in files()? {
        for (number, line) in (1..).zip(text.lines()) {
            if is_bad(&name, line) {
                found.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    Ok(found)
}

#[test]
fn files_are_short_or_say_why_not() -> Result<()> {
    let files = files()?;
    let long = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX);
    let long: BTreeMap<&str, usize> = long.collect();
    let said: BTreeMap<&str, &str> = LONGER.into_iter().collect();
    let silent: Vec<_> = long
        .iter()
        .filter(|(name, _)| !said.contains_key(**name))
        .collect();
    let stale: Vec<_> = said
        .keys()
        .filter(|name| !long.contains_key(**name))
        .collect();
    assert!(
        silent.is_empty(),
        "split these, or say in LONGER why not: {silent:?}"
    );
    assert!(stale.is_empty(), "take these off LONGER: {stale:?}");
    Ok(())
}

#[test]
fn nothing_is_left_to_be_done_later() -> Result<()> {
    // In pieces, so that this file does not find itself.
    let marks = [
        ["to", "do!"],
        ["unimple", "mented!"],
        ["db", "g!"],
        ["FIX", "ME"],
        ["TO", "DO"],
    ];
    let marks = marks.map(|parts| parts.concat());
    let found = places(|_, line| marks.iter().any(|mark| line.contains(mark)))?;
    assert!(found.is_empty(), "{found:#?}");
    Ok(())
}

#[test]
fn no_file_names_a_machine_it_was_written_on() -> Result<()> {
    let homes = [
        ["/ho", "me/"],
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["/Use", "rs/"],
    ];
    let homes = homes.map(|parts| parts.concat());
    let found = places(|_, line| homes.iter().any(|home| line.contains(home)))?;
    assert!(found.is_empty(), "paths of a machine: {found:#?}");
    let found = places(|_, line| {
        line.split("://").skip(1).any(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !".-@:".contains(c));
            let authority = &rest[..end.unwrap_or(rest.len())];
            let host = authority.rsplit('@').next().unwrap_or_default();
            let host = host.split(':').next().unwrap_or_default();
            // RFC 2606 and RFC 5737: nobody's; and the reader's own.
            let address = host.parse::<std::net::Ipv4Addr>();
            let nobodys = host == "localhost"
                || host.ends_with(".example")
                || address.is_ok_and(|address| address.is_documentation() || address.is_loopback());
            !host.is_empty() && !nobodys && !HOSTS.contains(&host)
        })
    })?;
    assert!(found.is_empty(), "hosts that are not in HOSTS: {found:#?}");
    for lock in ["Cargo.lock", "dataplane-ebpf/Cargo.lock"] {
        let text = read(lock)?;
        for source in text.lines().filter(|line| line.starts_with("source")) {
            let public = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
            assert_eq!(source, public, "{lock}");
        }
    }
    Ok(())
}

#[test]
fn money_and_verdicts_are_reckoned_without_floats() -> Result<()> {
    let found = places(|name, line| {
        let code = line.split("//").next().unwrap_or_default();
        let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
        (name.starts_with("metering/") || name.starts_with("dataplane-ebpf/"))
            && name.contains("/src/")
            && words.any(|word| word.ends_with("f32") || word.ends_with("f64"))
    })?;
    assert!(found.is_empty(), "{found:#?}");
    Ok(())
}

#[test]
fn a_decision_is_a_page_with_context_decision_and_consequences() -> Result<()> {
    const PAGE: usize = 60;
    let mut pages = 0;
    for (name, text) in files()? {
        let Some(page) = name.strip_prefix("docs/decisions/") else {
            continue;
        };
        pages += 1;
        let lines = text.lines().count();
        assert!(lines <= PAGE, "{name} has {lines} lines; a page has {PAGE}");
        let number = page
            .get(..4)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let title = text.lines().next().unwrap_or_default();
        let begins = number.is_some_and(|number| title.starts_with(&format!("# {number}: ")));
        assert!(begins, "{name} begins with {title:?}, not with its number");
        for part in ["Context", "Decision", "Consequences"] {
            let marks = [format!("## {part}"), format!("**{part}.**")];
            let found = text
                .lines()
                .any(|line| marks.iter().any(|mark| line.starts_with(mark)));
            assert!(found, "{name} has no part {part:?}");
        }
    }
    assert!(pages > 0, "no pages");
    Ok(())
}

#[test]
fn links_between_pages_lead_somewhere() -> Result<()> {
    let mut wrong = Vec::new();
    for (name, text) in files()?.iter().filter(|(name, _)| name.ends_with(".md")) {
        let folder = at(name).parent().map(ToOwned::to_owned).unwrap_or_default();
        for rest in text.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                wrong.push(format!("{name}: {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
