//! What is in the program of a package: a bill of materials as CycloneDX 1.6 has it, in JSON.
//!
//! The list is Cargo's own resolution of the lock file (`cargo tree`), for the platform that the package is for. What is
//! linked is `required`; what only ran while it was built (macros, build scripts and what they use) is `excluded`. The BPF
//! object is a file of its own, with its hash and the crates in it; SQLite's C is named beside the crate that brings it.
//! `tests/package.rs` holds the list against what `cargo auditable` wrote into the program.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use toml_edit::DocumentMut;

use crate::host;

/// A package as Cargo tells it from others: name and version.
type Crate = (String, String);

/// The section that `cargo auditable` adds to a program.
pub const SECTION: &str = ".dep-v0";

/// What a bill is of.
pub struct Subject<'a> {
    /// The program as it is packed.
    pub program: &'a Path,
    /// Version of the package.
    pub version: &'a str,
    /// When, as in 2026-11-28T01:00:00+00:00.
    pub time: &'a str,
}

/// Crates of one build.
struct Build {
    metadata: Value,
    lock: BTreeMap<Crate, String>,
    /// What ends up in what is built.
    linked: BTreeSet<Crate>,
    /// What only runs meanwhile.
    ran: BTreeSet<Crate>,
}

impl Build {
    /// Of a package, in the workspace of a manifest.
    fn of(manifest: &str, package: &str, target: &str) -> Result<Self> {
        let at = host::root().join(manifest);
        let mut metadata = host::cargo();
        metadata.args(["metadata", "--format-version", "1", "--locked"]);
        metadata.arg("--manifest-path").arg(&at);
        metadata.args(["--filter-platform", target]);
        let metadata: Value = serde_json::from_str(&host::output(&mut metadata)?)?;
        let tree = |edges: &str| -> Result<BTreeSet<Crate>> {
            let mut tree = host::cargo();
            tree.args(["tree", "--locked", "--prefix", "none", "--edges", edges]);
            tree.arg("--manifest-path").arg(&at);
            tree.args(["--package", package, "--target", target]);
            tree.args(["--format", "{p}"]);
            let listed = host::output(&mut tree)?;
            listed
                .lines()
                .filter(|line| !line.is_empty())
                .map(named)
                .collect()
        };
        let all = tree("normal,build")?;
        let normal = tree("normal")?;
        let linked = linked(&metadata, package, &normal)?;
        let ran = all.difference(&linked).cloned().collect();
        Ok(Self {
            lock: checksums(&at.with_file_name("Cargo.lock"))?,
            metadata,
            linked,
            ran,
        })
    }

    fn package(&self, of: &Crate) -> Result<&Value> {
        let packages = self.metadata["packages"].as_array();
        let mut packages = packages.context("cargo metadata names no packages")?.iter();
        let found = packages.find(|package| key(package).as_ref() == Some(of));
        found.with_context(|| format!("cargo metadata does not know {} {}", of.0, of.1))
    }

    fn component(&self, of: &Crate, scope: &str) -> Result<Value> {
        let package = self.package(of)?;
        let mut component = json!({
            "type": "library", "bom-ref": reference(of), "name": of.0, "version": of.1, "scope": scope,
        });
        if let Some(licence) = package["license"].as_str() {
            // The old way to write OR.
            let expression = licence.replace('/', " OR ");
            component["licenses"] = json!([{ "expression": expression }]);
        }
        if let Some(sum) = self.lock.get(of) {
            component["purl"] = json!(reference(of));
            component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
        }
        Ok(component)
    }

    /// Who uses whom, among these.
    fn dependencies(&self, among: &BTreeSet<Crate>) -> Vec<Value> {
        let nodes = self.metadata["resolve"]["nodes"]
            .as_array()
            .into_iter()
            .flatten();
        let by_id = ids(&self.metadata);
        let of = nodes.filter_map(|node| {
            let from = by_id.get(node["id"].as_str()?)?;
            among.contains(from).then_some(())?;
            let to = node["deps"].as_array().into_iter().flatten();
            let to: BTreeSet<String> = to
                .filter(|dep| is(dep, "build") || is(dep, ""))
                .filter_map(|dep| by_id.get(dep["pkg"].as_str()?))
                .filter(|to| among.contains(*to))
                .map(reference)
                .collect();
            Some(json!({ "ref": reference(from), "dependsOn": to }))
        });
        of.collect()
    }
}

/// A line of `cargo tree`: `name v1.2.3 (proc-macro) (*)`.
fn named(line: &str) -> Result<Crate> {
    let mut words = line.split_whitespace();
    let name = words.next();
    let version = words.next().and_then(|word| word.strip_prefix('v'));
    let both = name.zip(version);
    let (name, version) = both.with_context(|| format!("`cargo tree` says `{line}`"))?;
    Ok((name.into(), version.into()))
}

fn key(package: &Value) -> Option<Crate> {
    let word = |key: &str| Some(package[key].as_str()?.to_owned());
    Some((word("name")?, word("version")?))
}

fn ids(metadata: &Value) -> BTreeMap<&str, Crate> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let ids = packages.filter_map(|package| Some((package["id"].as_str()?, key(package)?)));
    ids.collect()
}

/// Is it a dependency of this kind? Normal ones have none.
fn is(dependency: &Value, kind: &str) -> bool {
    let kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
    kinds
        .into_iter()
        .any(|one| one["kind"].as_str().unwrap_or("") == kind)
}

/// What is reached without going through a macro, whose code is the compiler's.
fn linked(metadata: &Value, root: &str, normal: &BTreeSet<Crate>) -> Result<BTreeSet<Crate>> {
    let by_id = ids(metadata);
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let is_macro = |package: &&Value| {
        let targets = package["targets"].as_array().into_iter().flatten();
        let mut kinds = targets.flat_map(|target| target["kind"].as_array().into_iter().flatten());
        kinds.any(|kind| kind == "proc-macro")
    };
    let macros: BTreeSet<Crate> = packages.filter(is_macro).filter_map(key).collect();
    let nodes = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten();
    let mut uses = BTreeMap::<&Crate, Vec<&Crate>>::new();
    for node in nodes {
        let Some(from) = node["id"].as_str().and_then(|id| by_id.get(id)) else {
            continue;
        };
        let to = node["deps"].as_array().into_iter().flatten();
        let to = to
            .filter(|dep| is(dep, ""))
            .filter_map(|dep| by_id.get(dep["pkg"].as_str()?))
            .filter(|to| normal.contains(*to) && !macros.contains(*to));
        uses.insert(from, to.collect());
    }
    let begin = normal.iter().find(|(name, _)| name == root);
    let mut waiting = vec![begin.with_context(|| format!("`cargo tree` does not name {root}"))?];
    let mut found = BTreeSet::new();
    while let Some(next) = waiting.pop() {
        if found.insert(next.clone()) {
            waiting.extend(uses.get(next).into_iter().flatten());
        }
    }
    Ok(found)
}

/// What the lock file says that each crate of the registry must be.
fn checksums(lock: &Path) -> Result<BTreeMap<Crate, String>> {
    let text = fs::read_to_string(lock).with_context(|| lock.display().to_string())?;
    let lock: DocumentMut = text.parse()?;
    let packages = lock["package"].as_array_of_tables();
    let packages = packages.context("Cargo.lock names no packages")?.iter();
    let word = |package: &toml_edit::Table, key: &str| Some(package.get(key)?.as_str()?.to_owned());
    let sums = packages.filter_map(|package| {
        let of = (word(package, "name")?, word(package, "version")?);
        Some((of, word(package, "checksum")?))
    });
    Ok(sums.collect())
}

fn reference(of: &Crate) -> String {
    format!("pkg:cargo/{}@{}", of.0, of.1)
}

/// The C of SQLite that a crate brings: it is in no lock file.
fn sqlite(build: &Build) -> Result<Option<Value>> {
    let Some(of) = build
        .linked
        .iter()
        .find(|(name, _)| name == "libsqlite3-sys")
    else {
        return Ok(None);
    };
    let manifest = build.package(of)?["manifest_path"].as_str();
    let header = Path::new(manifest.context("no path of libsqlite3-sys")?);
    let header = header.with_file_name("sqlite3").join("sqlite3.h");
    let text = fs::read_to_string(&header).with_context(|| header.display().to_string())?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("#define SQLITE_VERSION "));
    let version = version
        .context("SQLite says no version")?
        .trim()
        .trim_matches('"');
    let name = format!("pkg:generic/sqlite@{version}");
    Ok(Some(json!({
        "type": "library", "bom-ref": name, "name": "sqlite", "version": version, "scope": "required",
        "purl": name, "licenses": [{ "license": { "id": "blessing" } }],
        "description": "C source, compiled in by libsqlite3-sys",
    })))
}

/// Is the list in the program that `cargo auditable` writes?
pub fn is_auditable(program: &Path) -> Result<bool> {
    let sections = host::output(
        Command::new("objdump")
            .arg("--section-headers")
            .arg(program),
    )?;
    Ok(sections.contains(SECTION))
}

fn sha256(path: &Path) -> Result<String> {
    let said = host::output(Command::new("sha256sum").arg(path))?;
    let sum = said.split_whitespace().next().filter(|sum| sum.len() == 64);
    sum.map(ToOwned::to_owned).context("sha256sum says no hash")
}

/// The bill of a program, as JSON.
pub fn make(subject: &Subject<'_>) -> Result<String> {
    let rustc = host::output(Command::new("rustc").arg("-vV"))?;
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: "));
    let compiler = rustc.lines().next().unwrap_or_default();
    let program = Build::of("Cargo.toml", "octroi", host.context("rustc says no host")?)?;
    let object = Build::of(
        "dataplane-ebpf/Cargo.toml",
        "dataplane-ebpf",
        "bpfel-unknown-none",
    )?;
    let said = host::output(Command::new(subject.program).arg("--version"))?;
    let hash = said
        .lines()
        .find_map(|line| line.strip_prefix("BPF object sha256:"));
    let hash = hash.context("the program does not say which BPF object it has")?;

    let own = program.linked.iter().find(|(name, _)| name == "octroi");
    let own = own.context("octroi is not in it")?.clone();
    let mut components = Vec::new();
    let mut dependencies = Vec::new();
    let known = |of: &Crate| program.linked.contains(of) || program.ran.contains(of);
    for (build, of, scope) in [
        (&program, &program.linked, "required"),
        (&program, &program.ran, "excluded"),
        (&object, &object.linked, "required"),
        (&object, &object.ran, "excluded"),
    ] {
        for one in of {
            let first = std::ptr::eq(build, &program) || !known(one);
            if *one != own && first {
                components.push(build.component(one, scope)?);
            }
        }
    }
    let all: BTreeSet<Crate> = program.linked.union(&program.ran).cloned().collect();
    dependencies.extend(program.dependencies(&all));
    let in_object: BTreeSet<Crate> = object.linked.union(&object.ran).cloned().collect();
    let others = object.dependencies(&in_object);
    let new = |node: &Value| !all.iter().any(|of| node["ref"] == reference(of).as_str());
    dependencies.extend(others.into_iter().filter(new));
    let file = "octroi-bpf-object";
    components.push(json!({
        "type": "file", "bom-ref": file, "name": "octroi.bpf.o", "version": subject.version, "scope": "required",
        "description": "the eBPF programs, inside of the program; `octroi --version` says the same hash",
        "hashes": [{ "alg": "SHA-256", "content": hash }],
    }));
    let inside: Vec<String> = object.linked.iter().map(reference).collect();
    dependencies.push(json!({ "ref": file, "dependsOn": inside }));
    let sqlite = sqlite(&program)?;
    for node in &mut dependencies {
        let uses = match (node["ref"].as_str(), &sqlite) {
            (Some(name), _) if name == reference(&own) => json!(file),
            (Some(name), Some(component)) if name.starts_with("pkg:cargo/libsqlite3-sys@") => {
                component["bom-ref"].clone()
            }
            _ => continue,
        };
        let list = node["dependsOn"].as_array_mut();
        list.context("a list of dependencies")?.push(uses);
    }
    if let Some(component) = sqlite {
        dependencies.push(json!({ "ref": component["bom-ref"], "dependsOn": [] }));
        components.push(component);
    }
    ensure!(
        components.len() > 20,
        "only {} components",
        components.len()
    );
    let bill = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": {
            "timestamp": subject.time,
            "lifecycles": [{ "phase": "build" }],
            "tools": { "components": [{ "type": "application", "name": "cargo xtask deb" }] },
            "component": {
                "type": "application", "bom-ref": reference(&own), "name": "octroi", "version": subject.version,
                "licenses": [{ "expression": "MIT OR Apache-2.0" }],
                "hashes": [{ "alg": "SHA-256", "content": sha256(subject.program)? }],
            },
            "properties": [{ "name": "octroi:compiler", "value": compiler }],
        },
        "components": components,
        "dependencies": dependencies,
    });
    Ok(serde_json::to_string_pretty(&bill)? + "\n")
}
