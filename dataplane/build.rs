//! Builds the eBPF programs in `../dataplane-ebpf` and names the resulting ELF in `OCTROI_BPF_OBJECT`, its hash in
//! `OCTROI_BPF_SHA256`.
//!
//! That crate is a workspace of its own: it builds for another target, with another toolchain. The
//! toolchain is the first of these that can compile for BPF:
//!
//! 1. the rustc that the environment variable `OCTROI_BPF_RUSTC` names;
//! 2. Debian's `/usr/bin/rustc`, when `core` for BPF is installed beside it;
//! 3. a rustup nightly with `rust-src`, which builds `core` itself.
//!
//! `cargo xtask setup` installs the second one, and a `bpf-linker` with the same LLVM. With another compiler,
//! bpf-linker's LLVM must be as new as the compiler's, or it calls the bitcode an "invalid record".

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

const TARGET: &str = "bpfel-unknown-none";

/// BTF comes from the debug info; `v3` has the atomic instructions that return a value.
const RUSTFLAGS: &str = "-C debuginfo=2 -C link-arg=--btf -C target-cpu=v3";

/// What cargo, clippy or the user set for the host's build, and what would spoil the one for BPF.
const INHERITED: [&str; 9] = [
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_TARGET_DIR",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTUP_TOOLCHAIN",
];

fn main() {
    if let Err(error) = run() {
        println!("cargo::error={error:#}");
    }
}

fn run() -> Result<()> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let ebpf = manifest.with_file_name("dataplane-ebpf");
    let target_dir = PathBuf::from(env::var("OUT_DIR")?).join("bpf");

    println!("cargo::rerun-if-env-changed=OCTROI_BPF_RUSTC");
    // Relative, as cargo reads them: checkouts that share a target directory share this output.
    for input in ["src", "Cargo.toml", "common/src", "common/Cargo.toml"] {
        println!("cargo::rerun-if-changed=../dataplane-ebpf/{input}");
    }

    let toolchain = Toolchain::find()?;
    // An upgraded compiler must build again.
    println!("cargo::rerun-if-changed={}", toolchain.rustc.display());

    let object = toolchain.build(&ebpf, &target_dir)?;
    // Only now does it exist for certain: cargo takes a missing file for a changed one.
    println!("cargo::rerun-if-changed=../dataplane-ebpf/Cargo.lock");
    println!("cargo::rustc-env=OCTROI_BPF_OBJECT={}", object.display());
    let hash = Sha256::digest(fs::read(&object)?);
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("cargo::rustc-env=OCTROI_BPF_SHA256={digits}");
    Ok(())
}

/// A compiler that can build for BPF, and how.
struct Toolchain {
    rustc: PathBuf,
    sysroot: PathBuf,
    /// There is no `core` for BPF in the sysroot, but its source.
    build_std: bool,
}

impl Toolchain {
    fn find() -> Result<Self> {
        if let Some(rustc) = env::var_os("OCTROI_BPF_RUSTC") {
            return Self::probe(Path::new(&rustc)).with_context(|| {
                format!("OCTROI_BPF_RUSTC={rustc:?} has neither core for {TARGET} nor rust-src")
            });
        }
        let debian = Self::probe(Path::new("/usr/bin/rustc")).filter(|found| !found.build_std);
        debian
            .or_else(|| Self::probe(&rustup_nightly()?))
            .context("no Rust toolchain here can build for BPF: run `cargo xtask setup` as root")
    }

    /// `None` when this compiler does not run, or has nothing to build for BPF with.
    fn probe(rustc: &Path) -> Option<Self> {
        let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]))?;
        let rustlib = Path::new(&sysroot).join("lib/rustlib");
        let prebuilt = rustlib.join(TARGET).is_dir();
        let source = rustlib.join("src/rust/library/core").is_dir();
        (prebuilt || source).then(|| Self {
            rustc: rustc.to_owned(),
            sysroot: sysroot.into(),
            build_std: !prebuilt,
        })
    }

    /// Builds the crate, and returns the path of the ELF.
    fn build(&self, ebpf: &Path, target_dir: &Path) -> Result<PathBuf> {
        let mut cargo = Command::new(self.cargo()?);
        for name in INHERITED {
            cargo.env_remove(name);
        }
        // Captured, because cargo hides what a build script lets through.
        let output = cargo
            .current_dir(ebpf)
            .args([
                "build",
                "--quiet",
                "--release",
                "--bin",
                "octroi",
                "--target",
                TARGET,
            ])
            .args(self.build_std.then_some("-Zbuild-std=core"))
            .arg("--target-dir")
            .arg(target_dir)
            .env("PATH", path_with_linker()?)
            .env("RUSTC", &self.rustc)
            // The programs use `core_intrinsics`; Debian's compiler is a stable one.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", RUSTFLAGS)
            // Cut into units, the programs have larger stacks, and Linux 6.1 refuses them.
            .env("CARGO_INCREMENTAL", "0")
            .output()
            .context("cargo does not run")?;
        let built = output.status.success();
        let level = if built { "warning" } else { "error" };
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            println!("cargo::{level}={line}");
        }
        ensure!(built, "the eBPF programs do not build");

        let object = target_dir.join(TARGET).join("release/octroi");
        ensure!(object.is_file(), "{} was not built", object.display());
        Ok(object)
    }

    /// The cargo to call: with `build-std`, only the one of the same release fits.
    fn cargo(&self) -> Result<PathBuf> {
        let own = self.sysroot.join("bin/cargo");
        if self.build_std && own.is_file() {
            return Ok(own);
        }
        Ok(env::var("CARGO")?.into())
    }
}

/// `PATH` with bpf-linker on it. `cargo install` puts it where a cargo not run by rustup does not look.
fn path_with_linker() -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")));
    let installed = cargo_home.map(|home| home.join("bin"));
    let dirs: Vec<PathBuf> = env::split_paths(&path).chain(installed).collect();
    if !dirs.iter().any(|dir| dir.join("bpf-linker").is_file()) {
        bail!("bpf-linker is not installed: run `cargo xtask setup` as root");
    }
    Ok(env::join_paths(dirs)?)
}

/// The rustc of rustup's nightly, which must have been installed by hand.
fn rustup_nightly() -> Option<PathBuf> {
    let mut which = Command::new("rustup");
    output(which.args(["which", "--toolchain", "nightly", "rustc"])).map(PathBuf::from)
}

/// What a command prints, or `None` if it fails or does not exist.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
