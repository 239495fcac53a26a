//! `cargo xtask deb`: the Debian package, by dpkg-deb.
//!
//! The same program and commit make the same bytes: times are the commit's, owners root's. What goes where is
//! [`FILES`] and [`Tree::documents`]; what is said of the package is `[package.metadata.deb]` of the root manifest.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use toml_edit::{DocumentMut, Item};

use crate::{
    host::{self, say},
    sbom,
    setup::{self, Need},
};

/// Make the Debian package, and print its path.
#[derive(Args)]
pub struct Deb {
    /// The program; left out: it is built.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Version of the package; left out: the crate's.
    #[arg(long)]
    version: Option<String>,
    /// Where to; left out: `debian/` where cargo builds.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Larger, and quicker to make.
    #[arg(long)]
    uncompressed: bool,
}

/// From the repository to the package, with its mode.
const FILES: [(&str, &str, u32); 7] = [
    (
        "packaging/deb/lintian-overrides",
        "usr/share/lintian/overrides/octroi",
        0o644,
    ),
    (
        "packaging/octroi.sysusers",
        "usr/lib/sysusers.d/octroi.conf",
        0o644,
    ),
    (
        "packaging/octroi.service",
        "lib/systemd/system/octroi.service",
        0o644,
    ),
    ("src/config/example.toml", "etc/octroi/example.toml", 0o644),
    ("README.md", "usr/share/doc/octroi/README.md", 0o644),
    (
        "docs/openapi.json",
        "usr/share/doc/octroi/openapi.json",
        0o644,
    ),
    (
        "docs/alerts/octroi.rules.yml",
        "usr/share/doc/octroi/alerts/octroi.rules.yml",
        0o644,
    ),
];

/// Files of the operator: an upgrade asks before it replaces one that was changed.
const CONFFILES: &str = "/etc/octroi/example.toml\n";

/// Scripts and questions of the package, from `packaging/deb`.
const CONTROL: [(&str, u32); 5] = [
    ("config", 0o755),
    ("postinst", 0o755),
    ("postrm", 0o755),
    ("prerm", 0o755),
    ("templates", 0o644),
];

impl Deb {
    /// Runs the subcommand.
    pub fn run(self) -> Result<ExitCode> {
        if self.binary.is_none() {
            setup::run(Need::Build)?;
        }
        setup::deb()?;
        let binary = match &self.binary {
            Some(binary) => binary.clone(),
            None => {
                let mut cargo = host::cargo();
                // The list of what is in it, in a section of its own: scanners read it from what is installed.
                cargo.args(["auditable", "build", "--release", "--locked"]);
                host::run(cargo.args(["--package", "octroi"]))?;
                let binary = host::target_dir().join("release/octroi");
                ensure!(
                    sbom::is_auditable(&binary)?,
                    "{}: cargo auditable wrote no list into it",
                    binary.display()
                );
                binary
            }
        };
        let path = self.make(&fs::canonicalize(&binary).with_context(|| shown(&binary))?)?;
        println!("{}", path.display());
        Ok(ExitCode::SUCCESS)
    }

    fn make(&self, binary: &Path) -> Result<PathBuf> {
        let manifest: DocumentMut = read("Cargo.toml")?.parse()?;
        let version = match &self.version {
            Some(version) => version.clone(),
            None => word(&manifest["workspace"]["package"], "version")?.to_owned(),
        };
        let out = match &self.out {
            Some(out) => host::root().join(out),
            None => host::target_dir().join("debian"),
        };
        let architecture = host::output(Command::new("dpkg").arg("--print-architecture"))?;
        let package = format!("octroi_{version}_{architecture}");
        let tree = Tree {
            root: out.join(&package),
        };
        // What an earlier run left could be in the package, too.
        if tree.root.exists() {
            fs::remove_dir_all(&tree.root).with_context(|| shown(&tree.root))?;
        }
        tree.fill(binary, &version)?;
        tree.control(&manifest["package"], &version, &architecture)?;
        let path = out.join(package + ".deb");
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.args(["--root-owner-group", "--build"]);
        dpkg.arg(if self.uncompressed { "-Znone" } else { "-Zxz" });
        dpkg.env("SOURCE_DATE_EPOCH", commit_time()?);
        host::run(dpkg.arg(&tree.root).arg(&path))?;
        fs::remove_dir_all(&tree.root).with_context(|| shown(&tree.root))?;
        say(format!(
            "deb: {} bytes, octroi {version} for {architecture}",
            fs::metadata(&path)?.len()
        ));
        Ok(path)
    }
}

/// The package's files, before they are packed.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn put(&self, at: &str, content: &[u8], mode: u32) -> Result<PathBuf> {
        let path = self.root.join(at);
        let parent = path.parent().context("a path at the root")?;
        // The mode of directories would be that of whoever makes the package.
        let mut below = PathBuf::new();
        for part in parent.components() {
            below.push(part);
            if !below.exists() {
                fs::create_dir(&below).or_else(|_| fs::create_dir_all(&below))?;
                fs::set_permissions(&below, fs::Permissions::from_mode(0o755))?;
            }
        }
        fs::write(&path, content).with_context(|| shown(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(path)
    }

    /// As [`Tree::put`], for what Debian wants compressed: without name and time, so that it is the same each time.
    fn put_compressed(&self, at: &str, content: &[u8]) -> Result<()> {
        let path = self.put(at, content, 0o644)?;
        host::run(Command::new("gzip").args(["-9", "-n"]).arg(path))
    }

    fn fill(&self, binary: &Path, version: &str) -> Result<()> {
        let program = fs::read(binary).with_context(|| shown(binary))?;
        let program = self.put("usr/bin/octroi", &program, 0o755)?;
        host::run(Command::new("strip").arg("--strip-unneeded").arg(&program))?;
        for (from, to, mode) in FILES {
            self.put(to, read(from)?.as_bytes(), mode)?;
        }
        self.documents()?;
        let bill = sbom::make(&sbom::Subject {
            program: &program,
            version,
            time: &commit_date()?,
        })?;
        self.put(
            "usr/share/doc/octroi/octroi.cdx.json",
            bill.as_bytes(),
            0o644,
        )?;
        self.generated(binary)
    }

    /// Licences, the history, the pages of `docs/` and the examples.
    fn documents(&self) -> Result<()> {
        let doc = "usr/share/doc/octroi";
        let copyright = format!(
            "octroi is under either of two licences, as you like. One is Apache-2.0, which is in\n\
             /usr/share/common-licenses/Apache-2.0. The other:\n\n{}",
            read("LICENSE-MIT")?
        );
        self.put(&format!("{doc}/copyright"), copyright.as_bytes(), 0o644)?;
        let changelog = read("packaging/deb/changelog")?;
        self.put_compressed(&format!("{doc}/changelog"), changelog.as_bytes())?;
        for (name, content) in files_of("docs")? {
            if name.ends_with(".md") {
                self.put_compressed(&format!("{doc}/{name}"), &content)?;
            }
        }
        for (name, content) in files_of("packaging/examples")? {
            let mode = if content.starts_with(b"#!") {
                0o755
            } else {
                0o644
            };
            self.put(&format!("{doc}/examples/{name}"), &content, mode)?;
        }
        Ok(())
    }

    /// What the program knows of its own command line.
    fn generated(&self, binary: &Path) -> Result<()> {
        let generated = self.root.with_extension("generated");
        host::run(Command::new(binary).arg("generate").arg(&generated))?;
        for (name, content) in files_in(&generated.join("man"))? {
            // Pages of `octroi help …`, which says what the other pages say.
            if name.starts_with("octroi-help") {
                continue;
            }
            self.put_compressed(&format!("usr/share/man/man1/{name}"), &content)?;
        }
        for (shell, to) in [
            ("octroi.bash", "bash-completion/completions/octroi"),
            ("octroi.fish", "fish/vendor_completions.d/octroi.fish"),
            ("_octroi", "zsh/vendor-completions/_octroi"),
        ] {
            let from = generated.join("completions").join(shell);
            let content = fs::read(&from).with_context(|| shown(&from))?;
            self.put(&format!("usr/share/{to}"), &content, 0o644)?;
        }
        fs::remove_dir_all(&generated).with_context(|| shown(&generated))
    }

    fn control(&self, package: &Item, version: &str, architecture: &str) -> Result<()> {
        let sums = self.sums()?;
        let said = &package["metadata"]["deb"];
        let depends = said["depends"].as_array().context("no deb.depends")?;
        let depends = depends.iter().filter_map(|item| item.as_str());
        let mut depends: Vec<String> = depends.map(ToOwned::to_owned).collect();
        depends.extend(self.libraries(architecture)?);
        depends.sort();
        let long = word(said, "extended-description")?.trim();
        let long: String = long.lines().map(|line| format!(" {line}\n")).collect();
        let control = format!(
            "Package: octroi\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: {}\n\
             Installed-Size: {}\nDepends: {}\nSection: {}\nPriority: optional\nDescription: {}\n{long}",
            word(said, "maintainer")?,
            self.kibibytes()?,
            depends.join(", "),
            word(said, "section")?,
            word(said, "synopsis")?,
        );
        self.put("DEBIAN/control", control.as_bytes(), 0o644)?;
        self.put("DEBIAN/conffiles", CONFFILES.as_bytes(), 0o644)?;
        self.put("DEBIAN/md5sums", sums.as_bytes(), 0o644)?;
        for (name, mode) in CONTROL {
            let content = read(&format!("packaging/deb/{name}"))?;
            self.put(&format!("DEBIAN/{name}"), content.as_bytes(), mode)?;
        }
        Ok(())
    }

    /// The packages of the libraries that the program is linked with, with the versions whose symbols it uses.
    fn libraries(&self, architecture: &str) -> Result<Vec<String>> {
        // dpkg-shlibdeps wants to be called beside a source package's control file.
        let beside = self.root.with_extension("shlibdeps");
        fs::create_dir_all(beside.join("debian"))?;
        let control = format!("Source: octroi\n\nPackage: octroi\nArchitecture: {architecture}\n");
        fs::write(beside.join("debian/control"), control)?;
        let mut shlibdeps = Command::new("dpkg-shlibdeps");
        shlibdeps.arg("-O").arg(self.root.join("usr/bin/octroi"));
        let found = host::output(shlibdeps.current_dir(&beside))?;
        fs::remove_dir_all(&beside)?;
        let found = found.strip_prefix("shlibs:Depends=");
        let found = found.context("dpkg-shlibdeps names no libraries")?;
        Ok(found.split(", ").map(ToOwned::to_owned).collect())
    }

    /// `md5sums`: conffiles are left out, dpkg has those of its own.
    fn sums(&self) -> Result<String> {
        let mut find = Command::new("sh");
        find.args(["-c", "find usr lib -type f | LC_ALL=C sort | xargs md5sum"]);
        host::output(find.current_dir(&self.root)).map(|sums| sums + "\n")
    }

    fn kibibytes(&self) -> Result<String> {
        let sum = host::output(Command::new("du").arg("-sk").arg(&self.root))?;
        let number = sum.split_whitespace().next();
        number.map(ToOwned::to_owned).context("du prints no number")
    }
}

/// The commit's time, in UTC, as RFC 3339 has it.
fn commit_date() -> Result<String> {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "log", "-1"]);
    git.args(["--date=iso-strict-local", "--format=%cd"])
        .env("TZ", "UTC");
    host::output(git.current_dir(host::root()))
}

/// Seconds since 1970.
fn commit_time() -> Result<String> {
    let mut git = Command::new("git");
    // The files may be another user's: CI runs as root.
    git.args(["-c", "safe.directory=*", "log", "-1", "--format=%ct"]);
    host::output(git.current_dir(host::root()))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(host::root().join(path)).with_context(|| path.to_owned())
}

fn word<'a>(table: &'a Item, key: &str) -> Result<&'a str> {
    let value = table[key].as_str();
    value.with_context(|| format!("Cargo.toml says nothing of the package's {key}"))
}

fn files_of(directory: &str) -> Result<Vec<(String, Vec<u8>)>> {
    files_in(&host::root().join(directory))
}

/// Names and contents of the files of a directory, in the order of their names.
fn files_in(directory: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| shown(directory))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push((name, fs::read(entry.path())?));
        }
    }
    ensure!(!files.is_empty(), "{}: no files", directory.display());
    files.sort();
    Ok(files)
}
