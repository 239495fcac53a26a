//! Network namespaces and what is done inside them.

use anyhow::{Context as _, Result, bail, ensure};
use dataplane::netlink::{self, Interface};
use std::{
    collections::BTreeMap,
    fs::File,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::PathBuf,
    process::Command,
};

/// Prefix of every namespace that a laboratory makes; the process's number follows.
const PREFIX: &str = "octroi-";

/// A network namespace that goes when this value goes.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// Runs a command and returns its standard output.
///
/// # Errors
/// What it printed on standard error.
pub fn command(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command")?;
    let output = Command::new(program)
        .args(words)
        .output()
        .with_context(|| format!("`{program}` is not installed; run `cargo xtask setup`"))?;
    ensure!(
        output.status.success(),
        "`{line}`: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Namespace {
    /// Makes `octroi-{pid}-{role}`, without IPv6 of its own making, so that nothing speaks unasked.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn new(role: &str) -> Result<Self> {
        Self::tagged(&std::process::id().to_string(), role)
    }

    /// The same as `octroi-{tag}-{role}`; the tag begins with this process's number.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn tagged(tag: &str, role: &str) -> Result<Self> {
        let name = format!("{PREFIX}{tag}-{role}");
        command(&format!("ip netns add {name}"))?;
        let namespace = Self { name };
        namespace.run(|| {
            for key in ["all", "default"] {
                // Where IPv6 is not compiled in there is nothing to switch off.
                let conf = format!("/proc/sys/net/ipv6/conf/{key}");
                let _ = std::fs::write(format!("{conf}/accept_dad"), "0");
                let _ = std::fs::write(format!("{conf}/router_solicitations"), "0");
                let _ = std::fs::write(format!("{conf}/autoconf"), "0");
            }
            // A report of a group's member is sent once, not again seconds later in the middle of a count.
            let _ = std::fs::write("/proc/sys/net/ipv6/mld_qrv", "1");
            command("ip link set lo up").map(drop)
        })??;
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Opens the namespace.
    ///
    /// # Errors
    /// When it is gone.
    pub fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("namespace {}", self.name))
    }

    /// Runs `work` on a thread of its own inside the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    enter(&file)?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|_| bail!("a thread in namespace {} panicked", self.name))
        })
    }

    /// Runs an `ip`, `tc` or other command inside.
    ///
    /// # Errors
    /// What it printed.
    pub fn command(&self, line: &str) -> Result<String> {
        self.run(|| command(line))?
    }

    /// A command that will start inside, and die with this process.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn prepare(&self, program: &std::path::Path) -> Result<Command> {
        let file = self.open()?;
        let mut command = Command::new(program);
        // SAFETY: both calls are async-signal-safe; the descriptor lives in the closure.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        Ok(command)
    }

    /// Its interfaces with their counters.
    ///
    /// # Errors
    /// What netlink said.
    pub fn interfaces(&self) -> Result<BTreeMap<String, Interface>> {
        Ok(self.run(netlink::interfaces)??)
    }

    /// rx packets, rx bytes, tx packets, tx bytes of one interface.
    ///
    /// # Errors
    /// When it is not there.
    pub fn counters(&self, interface: &str) -> Result<[u64; 4]> {
        let found = self.interfaces()?;
        let found = found
            .get(interface)
            .with_context(|| format!("no interface {interface}"))?;
        Ok(found.stats)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = command(&format!("ip netns del {}", self.name));
    }
}

/// Moves this thread into a namespace, for good.
///
/// # Errors
/// When that is not allowed.
pub fn enter(namespace: &File) -> Result<()> {
    // SAFETY: the descriptor is open.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        bail!(
            "setns: {}; this needs root",
            std::io::Error::last_os_error()
        );
    }
    Ok(())
}

/// Removes what laboratories of processes that are gone have left: kill -9 spares nobody.
pub fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if let Some(pid) = pid.and_then(|digits| digits.parse::<u32>().ok())
            && !PathBuf::from(format!("/proc/{pid}")).exists()
        {
            let _ = command(&format!("ip netns del {name}"));
        }
    }
    let Ok(entries) = std::fs::read_dir("/sys/fs/bpf") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next())
            .and_then(|digits| digits.parse::<u32>().ok());
        if let Some(pid) = pid
            && !PathBuf::from(format!("/proc/{pid}")).exists()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
