//! What the package says that it is made of, held against Cargo, the program itself, and the published schema.

use super::python;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A crate: name and version.
type Crate = (String, String);

/// Reads the section that `cargo auditable` writes, by the format of ELF alone: 64-bit, little endian.
const READER: &str = r#"
import struct, sys, zlib
elf = sys.stdin.buffer.read()
assert elf[:6] == b"\x7fELF\x02\x01", "no ELF of 64 bits, little endian"
at, = struct.unpack_from("<Q", elf, 0x28)
size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
head = lambda number: struct.unpack_from("<IIQQQQ", elf, at + number * size)
texts = head(names)[4]
for number in range(count):
    name, _, _, _, offset, length = head(number)
    if elf[texts + name:].split(b"\0", 1)[0] == b".dep-v0":
        print(zlib.decompress(elf[offset:offset + length]).decode())
        break
else:
    sys.exit("there is no section .dep-v0")
"#;

/// The publisher's own validator, with the strict schema.
const VALIDATOR: &str = r#"
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
text = sys.stdin.read()
wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
if wrong is not None:
    sys.exit(str(wrong))
print("valid")
"#;

/// What Cargo resolves, along some edges.
fn tree(arguments: &[&str]) -> Result<BTreeSet<Crate>> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--prefix", "none", "--format", "{p}"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    ensure!(tree.status.success(), "{tree:?}");
    let text = String::from_utf8(tree.stdout)?;
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().context("a name")?;
            let version = words.next().and_then(|word| word.strip_prefix('v'));
            Ok((name.to_owned(), version.context("a version")?.to_owned()))
        })
        .collect()
}

/// The platform that this machine builds for.
fn host() -> Result<String> {
    let said = Command::new("rustc").arg("-vV").output()?;
    let said = String::from_utf8(said.stdout)?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc says no host")?.to_owned())
}

fn crates<'v>(list: impl IntoIterator<Item = &'v Value>) -> BTreeSet<Crate> {
    let word = |value: &Value, key: &str| Some(value[key].as_str()?.to_owned());
    let both = |value: &Value| Some((word(value, "name")?, word(value, "version")?));
    list.into_iter().filter_map(both).collect()
}

fn list<'v>(value: &'v Value, key: &str) -> Result<&'v Vec<Value>> {
    value[key].as_array().with_context(|| format!("no {key}"))
}

/// What a package installs, in a directory of its own.
fn unpacked(package: &Path) -> Result<PathBuf> {
    let to = package.with_extension("unpacked");
    if to.exists() {
        fs::remove_dir_all(&to)?;
    }
    let done = Command::new("dpkg-deb")
        .arg("-x")
        .args([package, &to])
        .status()?;
    ensure!(done.success(), "dpkg-deb: {done}");
    Ok(to)
}

/// The bill of a package: right by its schema, Cargo's own list, and of exactly these bytes.
pub fn is_what_cargo_resolves(package: &Path) -> Result<usize> {
    let root = unpacked(package)?;
    let text = fs::read(root.join("usr/share/doc/octroi/octroi.cdx.json"))?;
    let bill: Value = serde_json::from_slice(&text)?;
    match python::python("cyclonedx.validation.json, jsonschema") {
        None => println!("SKIPPED: the schema of CycloneDX: run `cargo xtask setup`"),
        Some(python) => {
            let said = python::run(python, VALIDATOR, &[], &text)?;
            assert_eq!(said.trim(), "valid");
        }
    }
    let components = list(&bill, "components")?;
    let scope = |wanted: &'static str| {
        let is = move |one: &&Value| one["scope"] == wanted && one["type"] == "library";
        crates(components.iter().filter(is))
    };
    let host = host()?;
    let of = |edges, more: &[&str]| tree(&[&["--edges", edges], more].concat());
    let program = ["--package", "octroi", "--target", &host];
    let object = [
        "--manifest-path",
        "dataplane-ebpf/Cargo.toml",
        "--target",
        "bpfel-unknown-none",
    ];
    let own = ("octroi".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let mut all = of("normal,build", &program)?;
    all.extend(of("normal,build", &object)?);
    all.remove(&own);
    let (linked, ran) = (scope("required"), scope("excluded"));
    let sqlite = linked.iter().find(|(name, _)| name == "sqlite").cloned();
    let sqlite = sqlite.context("SQLite's C is not in it")?;
    ensure!(linked.is_disjoint(&ran));
    let mut named: BTreeSet<Crate> = linked.union(&ran).cloned().collect();
    named.remove(&sqlite);
    assert_eq!(named, all);
    // Linked is what is reached by normal edges; macros are not linked, whoever uses them.
    let mut normal = of("normal,no-proc-macro", &program)?;
    normal.extend(of("normal,no-proc-macro", &object)?);
    normal.remove(&own);
    let mut linked_crates = linked.clone();
    linked_crates.remove(&sqlite);
    assert_eq!(linked_crates, normal);

    let hashed = |path: &Path| -> Result<String> {
        let said = Command::new("sha256sum").arg(path).output()?;
        let said = String::from_utf8(said.stdout)?;
        Ok(said.split(' ').next().unwrap_or_default().to_owned())
    };
    let installed = root.join("usr/bin/octroi");
    assert_eq!(
        bill["metadata"]["component"]["hashes"][0]["content"],
        hashed(&installed)?
    );
    let object = root.join("object");
    fs::write(&object, dataplane::object::OBJECT)?;
    let file = components.iter().find(|one| one["type"] == "file");
    let file = file.context("the BPF object is not in it")?;
    assert_eq!(file["hashes"][0]["content"], hashed(&object)?);
    // Each of them is somewhere in the graph, and the graph names nothing else.
    let names: BTreeSet<&str> = components
        .iter()
        .filter_map(|one| one["bom-ref"].as_str())
        .collect();
    let mut nodes = BTreeSet::new();
    for node in list(&bill, "dependencies")? {
        nodes.extend(node["ref"].as_str());
        for used in list(node, "dependsOn")? {
            ensure!(
                names.contains(used.as_str().unwrap_or_default()),
                "{used} is no component"
            );
        }
    }
    let missing: Vec<_> = names.difference(&nodes).collect();
    ensure!(missing.is_empty(), "not in the graph: {missing:?}");
    Ok(components.len())
}

/// Names and versions in Cargo.lock.
fn locked() -> Result<BTreeSet<Crate>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock"))?;
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key));
        line.map(|quoted| quoted.trim_matches('"').to_owned())
    };
    let blocks = text.split("[[package]]\n").skip(1);
    let all: Option<BTreeSet<Crate>> = blocks
        .map(|block| Some((value(block, "name = ")?, value(block, "version = ")?)))
        .collect();
    all.context("Cargo.lock has a package without a name or a version")
}

/// What `cargo auditable` wrote into the program that is installed has all that Cargo resolves, and nothing that is not locked.
pub fn is_in_the_program(package: &Path) -> Result<usize> {
    let root = unpacked(package)?;
    let program = fs::read(root.join("usr/bin/octroi"))?;
    let python = python::python("zlib").context("python3")?;
    let text = python::run(python, READER, &[], &program)?;
    let found: Value = serde_json::from_str(&text)?;
    let packages = list(&found, "packages")?;
    let all = crates(packages);
    let target = &host()?;
    let resolved = tree(&[
        "--edges",
        "normal,build",
        "--package",
        "octroi",
        "--target",
        target,
    ])?;
    // The tool asks `cargo metadata`, which knows no features by target: it lists some crates that are locked and not built,
    // and may never leave out one that is.
    let missing: Vec<_> = resolved.difference(&all).collect();
    ensure!(missing.is_empty(), "not in the program's list: {missing:?}");
    let locked = locked()?;
    let foreign: Vec<_> = all.difference(&locked).collect();
    ensure!(foreign.is_empty(), "not in Cargo.lock: {foreign:?}");
    let beyond = all.difference(&resolved).count();
    println!("crates that the program lists and that are not built into it: {beyond}");
    ensure!(beyond * 10 < all.len(), "{beyond} of {}", all.len());
    let runs = |one: &&Value| one["kind"].as_str().unwrap_or("runtime") == "runtime";
    // What runs in the compiler (macros, and what they use) counts as built with.
    let normal = tree(&[
        "--edges",
        "normal,no-proc-macro",
        "--package",
        "octroi",
        "--target",
        target,
    ])?;
    let listed = crates(packages.iter().filter(runs));
    let missing: Vec<_> = normal.difference(&listed).collect();
    ensure!(missing.is_empty(), "not listed as running: {missing:?}");
    let roots: Vec<&Value> = packages.iter().filter(|one| one["root"] == true).collect();
    ensure!(
        roots.len() == 1 && roots[0]["name"] == "octroi",
        "{roots:?}"
    );
    Ok(all.len())
}
