//! The root file system of a test machine: busybox, modules, and programs of the host with their libraries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::kernel::Kernel;
use super::newc::Archive;
use crate::host::{self, find, say};

/// Above this, unpacking it in an emulated machine takes longer than what is to be tested.
const SIZE_MAX: usize = 60 << 20;

/// Loaded at boot, so that a probe for a feature sees it.
const MODULES_LOADED: [&str; 18] = [
    "8021q",
    "act_mirred",
    "bonding",
    "bridge",
    "cls_bpf",
    "dummy",
    "ifb",
    "ip6_gre",
    "ip_gre",
    "nf_tables",
    "sch_fq",
    "sch_htb",
    "sch_ingress",
    "sctp",
    "tcp_diag",
    "tun",
    "veth",
    "vxlan",
];

/// Loaded when somebody asks the kernel for them.
const MODULES_AT_HAND: [&str; 61] = [
    "act_bpf",
    "act_gact",
    "act_police",
    "act_skbedit",
    "act_vlan",
    "authenc",
    "br_netfilter",
    "ccm",
    "chacha20poly1305",
    "cls_flower",
    "cls_matchall",
    "cls_u32",
    "ctr",
    "echainiv",
    "esp4",
    "esp6",
    "ext4",
    "gcm",
    "geneve",
    "ghash_generic",
    "inet_diag",
    "ip6_tunnel",
    "ipip",
    "ipvlan",
    "macsec",
    "macvlan",
    "macvtap",
    "nf_conntrack",
    "nf_dup_netdev",
    "nf_log_syslog",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_dup_netdev",
    "nft_fib_inet",
    "nft_fwd_netdev",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_nat",
    "nft_quota",
    "nft_reject_inet",
    "nft_reject_netdev",
    "pktgen",
    "sch_cake",
    "sch_fq_codel",
    "sch_netem",
    "sch_prio",
    "sch_sfq",
    "sch_tbf",
    "sctp_diag",
    "seqiv",
    "sit",
    "tap",
    "tcp_diag",
    "tls",
    "udp_diag",
    "virtio_blk",
    "virtio_pci",
    "vrf",
    "wireguard",
];

/// What a site of the laboratory needs, with ports that police.
const LEAN_MODULES: [&str; 5] = ["bridge", "cls_bpf", "sch_ingress", "sch_tbf", "veth"];
const LEAN_TOOLS: [&str; 6] = ["bridge", "dash", "env", "ethtool", "ip", "tc"];

/// Loading a module must not create devices.
const MODPROBE_OPTIONS: &str =
    "options bonding max_bonds=0\noptions dummy numdummies=0\noptions ifb numifbs=0\n";

/// Programs of the host that tests call, as far as they are installed. The shells and those that run
/// another program are here because busybox's take its own `ip` and `tc` for it, whatever `PATH` says.
const TOOLS: [&str; 22] = [
    "bash", "bpftool", "bridge", "capsh", "dash", "env", "ethtool", "ip", "iperf3", "nft", "nice",
    "nohup", "nsenter", "ping", "setpriv", "ss", "taskset", "tc", "tcpdump", "timeout", "unshare",
    "xargs",
];

/// What `ip` and `tc` read at run time.
const DATA: [&str; 3] = ["/etc/iproute2", "/usr/share/iproute2", "/usr/lib/tc"];

/// What a machine is given, and what it shall do.
pub struct Content<'a> {
    /// Programs, each at its own path and in `/usr/bin`, with their libraries.
    pub programs: &'a [PathBuf],
    /// Files and directories, each at its own path.
    pub files: &'a [PathBuf],
    /// The shell script to run.
    pub script: &'a str,
    /// Only [`LEAN_MODULES`] and [`LEAN_TOOLS`].
    pub lean: bool,
}

/// Builds the archive, in memory; modules are staged in `cache`.
pub fn build(kernel: &Kernel, content: &Content, cache: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for (link, target) in [
        ("/bin", "usr/bin"),
        ("/sbin", "usr/sbin"),
        ("/lib", "usr/lib"),
        ("/lib64", "usr/lib64"),
        ("/usr/bin/sh", "dash"),
        ("/var/run", "../run"),
        ("/var/tmp", "../tmp"),
    ] {
        archive.symlink(link, target);
    }
    for dir in [
        "/dev",
        "/proc",
        "/sys",
        "/tmp",
        "/run",
        "/root",
        "/usr/lib64",
        "/usr/sbin",
    ] {
        archive.directory(dir);
    }
    archive.directory(&text(host::root())?);
    archive.file("/init", true, include_bytes!("init.sh"));
    archive.file("/vm/script", false, content.script.as_bytes());
    let loaded: &[&str] = if content.lean {
        &LEAN_MODULES
    } else {
        &MODULES_LOADED
    };
    let tools: &[&str] = if content.lean { &LEAN_TOOLS } else { &TOOLS };
    archive.file("/vm/modules", false, loaded.join("\n").as_bytes());
    archive.file(
        "/etc/modprobe.d/octroi.conf",
        false,
        MODPROBE_OPTIONS.as_bytes(),
    );
    archive.file(
        "/etc/passwd",
        false,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    );
    archive.file("/etc/group", false, b"root:x:0:\nnogroup:x:65534:\n");
    archive.file("/etc/hosts", false, b"127.0.0.1 localhost\n::1 localhost\n");

    for path in content.programs {
        program(&mut archive, path, cache)?;
    }
    for path in tools.iter().filter_map(|tool| find(tool)) {
        program(&mut archive, &path, cache)?;
    }
    for path in content.files {
        tree(&mut archive, path)?;
    }
    for path in DATA.map(Path::new).iter().filter(|path| path.exists()) {
        tree(&mut archive, path)?;
    }
    let stage = cache.join("modules");
    let names = [&MODULES_LOADED[..], &MODULES_AT_HAND].concat();
    kernel.install_modules(&names, &stage)?;
    tree_as(&mut archive, &stage.join("lib"), "/usr/lib")?;
    busybox(&mut archive)?;

    let bytes = archive.finish();
    if bytes.len() > SIZE_MAX {
        say(format!(
            "vm: the initramfs has {} MB: booting will be slow",
            bytes.len() >> 20
        ));
    }
    Ok(bytes)
}

/// A link for each of busybox's commands, but for those of which the host's own program is there.
fn busybox(archive: &mut Archive) -> Result<()> {
    let busybox = find("busybox").context("busybox is not installed")?;
    archive.file("/usr/bin/busybox", true, &fs::read(&busybox)?);
    for applet in host::output(Command::new(busybox).arg("--list"))?.lines() {
        if !archive.has(&format!("/usr/sbin/{applet}")) {
            archive.symlink(&format!("/usr/bin/{applet}"), "busybox");
        }
    }
    // The kernel calls it by this path when it wants a module.
    archive.symlink("/usr/sbin/modprobe", "../bin/busybox");
    Ok(())
}

/// Adds a program with the libraries that the dynamic linker would load for it.
fn program(archive: &mut Archive, path: &Path, cache: &Path) -> Result<()> {
    let own = text(path)?;
    archive.file(&own, true, &stripped(path, cache)?);
    let name = path.file_name().context("a program without a name")?;
    archive.symlink(&format!("/usr/bin/{}", name.display()), &own);
    // It fails for a static program, which needs nothing.
    let libraries = host::output(Command::new("ldd").arg(path)).unwrap_or_default();
    for library in libraries.lines().filter_map(library) {
        if !archive.has(library) {
            archive.file(library, true, &fs::read(library)?);
        }
    }
    Ok(())
}

/// The path in a line of ldd: `libc.so.6 => /lib/libc.so.6 (0x…)` or `/lib64/ld-linux.so.2 (0x…)`.
fn library(line: &str) -> Option<&str> {
    let file = line.split_once("=> ").map_or(line, |(_, file)| file);
    file.trim()
        .split(" (")
        .next()
        .filter(|path| path.starts_with('/'))
}

/// A program without its debug info, which is most of it.
fn stripped(path: &Path, cache: &Path) -> Result<Vec<u8>> {
    // strip seeks in what it writes: a pipe will not do.
    let stripped = cache.join(format!("stripped-{}", std::process::id()));
    let mut strip = Command::new("strip");
    strip
        .arg("--strip-debug")
        .arg("-o")
        .arg(&stripped)
        .arg(path);
    let done = host::output(&mut strip).and_then(|_| Ok(fs::read(&stripped)?));
    let _ = fs::remove_file(&stripped);
    match done {
        Ok(bytes) => Ok(bytes),
        Err(_) => fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Adds a file or a directory with all that is in it, at its own path.
fn tree(archive: &mut Archive, path: &Path) -> Result<()> {
    tree_as(archive, path, &text(path)?)
}

fn tree_as(archive: &mut Archive, path: &Path, name: &str) -> Result<()> {
    if path.is_file() {
        // A fixture may be a script.
        archive.file(name, true, &fs::read(path)?);
    } else if path.is_dir() {
        archive.directory(name);
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            let file = path.file_name().context("an entry without a name")?;
            tree_as(archive, &path, &format!("{name}/{}", file.display()))?;
        }
    } else {
        bail!("{} is not there", path.display());
    }
    Ok(())
}

fn text(path: &Path) -> Result<String> {
    ensure!(
        path.is_absolute(),
        "{} is not an absolute path",
        path.display()
    );
    let text = path.to_str().context("a path is not UTF-8")?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::library;

    #[test]
    fn reads_the_lines_of_ldd() {
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007ffe)"), None);
        assert_eq!(
            library("\tlibc.so.6 => /lib/libc.so.6 (0x7f)"),
            Some("/lib/libc.so.6")
        );
        assert_eq!(library("\t/lib64/ld.so.2 (0x7f)"), Some("/lib64/ld.so.2"));
        assert_eq!(library("\tlibx.so => not found"), None);
    }
}
