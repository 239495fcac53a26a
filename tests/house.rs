//! The rules of the house, held by tests that read the repository: which crate may know which, what
//! the kernel and the daemon agree on, and what a file may look like.

#[path = "house/abi.rs"]
mod abi;
#[path = "house/tidy.rs"]
mod tidy;
#[path = "house/verifier.rs"]
mod verifier;

use anyhow::{Context as _, Result, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A path below the repository's root.
fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(at(path)).with_context(|| path.to_owned())
}

/// `cargo metadata` of the manifest at `path`.
fn metadata(path: &str, arguments: &[&str]) -> Result<serde_json::Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--offline",
            // What only other systems need was never fetched.
            "--filter-platform",
        ])
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .arg("--manifest-path")
        .arg(at(path))
        .args(arguments)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn text<'a>(value: &'a serde_json::Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a serde_json::Value, key: &str) -> &'a [serde_json::Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// The packages of this repository, and which of them each one names, for whatever purpose.
fn arrows() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut arrows = BTreeMap::new();
    for manifest in ["Cargo.toml", "dataplane-ebpf/Cargo.toml"] {
        let metadata = metadata(manifest, &["--no-deps"])?;
        for package in list(&metadata, "packages") {
            let name = text(package, "name");
            // That a package's tests ask for its own features is no arrow.
            let own = list(package, "dependencies")
                .iter()
                .filter(|one| !one["path"].is_null() && text(one, "name") != name);
            let own = own.map(|one| text(one, "name").to_owned()).collect();
            arrows.insert(name.to_owned(), own);
        }
    }
    Ok(arrows)
}

#[test]
fn each_crate_knows_only_whom_it_may_know() -> Result<()> {
    let may_know = [
        (
            "bench",
            &["dataplane", "dataplane-common", "metering", "octroi"][..],
        ),
        ("dataplane", &["dataplane-common"]),
        ("dataplane-common", &[]),
        ("dataplane-ebpf", &["dataplane-common"]),
        ("metering", &["dataplane-common"]),
        ("octroi", &["dataplane", "dataplane-common", "metering"]),
        // `xtask setup` installs what the others need to build.
        ("xtask", &[]),
    ];
    let mut arrows = arrows()?;
    for (name, may) in may_know {
        let knows = arrows
            .remove(name)
            .with_context(|| format!("there is no crate {name}"))?;
        let too_much: Vec<_> = knows
            .iter()
            .filter(|known| !may.contains(&known.as_str()))
            .collect();
        assert!(too_much.is_empty(), "{name} may not know {too_much:?}");
    }
    assert!(
        arrows.is_empty(),
        "say here whom these may know: {arrows:?}"
    );
    Ok(())
}

#[test]
fn the_meter_knows_no_kernel_and_the_shared_crate_none_either() -> Result<()> {
    let metadata = metadata("Cargo.toml", &[])?;
    let nodes: BTreeMap<&str, Vec<&str>> = list(&metadata["resolve"], "nodes")
        .iter()
        .map(|node| {
            let needed = list(node, "dependencies")
                .iter()
                .filter_map(|id| id.as_str());
            (text(node, "id"), needed.collect())
        })
        .collect();
    let names: BTreeMap<&str, &str> = list(&metadata, "packages")
        .iter()
        .map(|package| (text(package, "id"), text(package, "name")))
        .collect();
    for root in ["metering", "dataplane-common"] {
        let id = names
            .iter()
            .find(|(_, name)| **name == root)
            .context(root)?
            .0;
        let (mut seen, mut next) = (BTreeSet::new(), vec![*id]);
        while let Some(id) = next.pop() {
            if seen.insert(names[id]) {
                next.extend(&nodes[id]);
            }
        }
        let kernel: Vec<_> = seen
            .iter()
            .filter(|name| {
                name.starts_with("aya") || name.starts_with("netlink") || **name == "dataplane"
            })
            .collect();
        assert!(kernel.is_empty(), "{root} reaches {kernel:?}");
        assert!(seen.len() > 1, "{root} needs nothing at all?");
    }
    Ok(())
}

#[test]
fn what_the_kernel_and_the_daemon_share_has_the_layout_of_its_version() -> Result<()> {
    const GOLDEN: &str = "tests/golden/abi.txt";
    let now = abi::describe();
    let golden = fs::read_to_string(at(GOLDEN)).unwrap_or_default();
    let version = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let regenerate = std::env::var_os("OCTROI_REGENERATE").is_some();
    if regenerate && version(&golden) != version(&now) {
        return fs::write(at(GOLDEN), now).context(GOLDEN);
    }
    for (number, (old, new)) in (1..).zip(golden.lines().zip(now.lines())) {
        assert_eq!(new, old, "line {number} of {GOLDEN}: {ADVICE}");
    }
    assert_eq!(now, golden, "{ADVICE}");
    Ok(())
}

const ADVICE: &str = "the layout has changed: bump ABI_VERSION in dataplane-ebpf/common/src/abi.rs and \
    regenerate with `OCTROI_REGENERATE=1 cargo test --test house`; pins of the old version are then \
    refused, not misread";

/// The pages that the documentation says to begin with are read in half an hour, at 238 words a minute (silent reading of
/// English non-fiction: Brysbaert, J. Mem. Lang. 109, 2019), commands and tables included; and no page is left out of the list.
#[test]
fn the_documentation_begins_with_half_an_hour_and_lists_every_page() -> Result<()> {
    let index = read("docs/README.md")?;
    let (first, rest) = index.split_once("\n\n|").context("no table")?;
    let linked = |text: &str| -> BTreeSet<String> {
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        targets.map(ToOwned::to_owned).collect()
    };
    let path = linked(first);
    ensure!(path.len() == 4 && path.contains("TUTORIAL.md"), "{path:?}");
    let mut words = 0;
    for page in &path {
        words += read(&format!("docs/{page}"))?.split_whitespace().count();
    }
    ensure!(words <= 238 * 30, "{words} words");

    let linked = linked(rest);
    for target in &linked {
        ensure!(at("docs").join(target).exists(), "{target} is not there");
    }
    for entry in fs::read_dir(at("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_page = name.ends_with(".md") && name != "README.md";
        ensure!(
            !is_page || linked.contains(&name),
            "docs/README.md does not list {name}"
        );
    }
    println!(
        "CASES: words to begin with: {words}; pages in the list: {}",
        linked.len()
    );
    Ok(())
}

#[test]
fn the_readme_names_both_commands() -> Result<()> {
    let readme = read("README.md")?;
    for command in ["cargo xtask demo", "cargo xtask test"] {
        assert!(
            readme.lines().any(|line| line.trim() == command),
            "no line {command:?}"
        );
    }
    Ok(())
}

#[test]
fn the_architecture_names_every_drop_reason_and_every_map() -> Result<()> {
    let page = read("docs/ARCHITECTURE.md")?;
    let reasons = dataplane_common::reason::DropReason::ALL
        .iter()
        .map(|reason| reason.name());
    for name in reasons.chain(dataplane::maps::NAMES) {
        assert!(
            page.contains(&format!("`{name}`")),
            "docs/ARCHITECTURE.md does not name `{name}`"
        );
    }
    Ok(())
}
