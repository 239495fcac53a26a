//! A clean machine: debootstrap's root, a real systemd as process 1, in the network namespace of a site's host.

use anyhow::{Context as _, Result, bail, ensure};
use octroi::{daemon::control, lab::Site, status::Report};
use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Beside what debootstrap takes for its smallest variant. Whatever the package depends on must be among them, as
/// there is no network inside.
const PACKAGES: &str = "iproute2,systemd-sysv";

/// Where the root that all machines begin with is kept: making it takes a minute and a mirror.
fn cache() -> Result<PathBuf> {
    let suite = fs::read_to_string("/etc/os-release")?;
    let suite = suite
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = suite.context("/etc/os-release names no suite")?;
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    Ok(directory.join(format!("debootstrap-{suite}")))
}

/// The root, made when it is not there.
///
/// # Errors
/// Why it cannot be made here: the test is skipped then.
pub fn root() -> Result<PathBuf> {
    let known = fs::read_to_string("/proc/filesystems")?;
    for kind in ["cgroup2", "overlay", "bpf"] {
        ensure!(known.contains(kind), "the kernel has no {kind}");
    }
    let cache = cache()?;
    if cache.exists() {
        return Ok(cache);
    }
    let suite = cache.file_name().context("a name")?.to_string_lossy();
    let suite = suite.trim_start_matches("debootstrap-").to_owned();
    let new = cache.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    let mut debootstrap = Command::new("timeout");
    debootstrap.args(["600", "debootstrap", "--variant=minbase"]);
    debootstrap.arg(format!("--include={PACKAGES}"));
    let output = debootstrap.arg(suite).arg(&new).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "debootstrap: {}: {}",
        output.status,
        said.lines().last().unwrap_or("nothing said")
    );
    fs::rename(&new, &cache)?;
    Ok(cache)
}

/// A machine that runs.
pub struct Machine {
    child: Child,
    /// Process 1 of it, as it is numbered here.
    init: u32,
    name: String,
}

impl Machine {
    /// Boots it in the site's host, and returns when systemd is done.
    pub fn boot(site: &Site, root: &Path) -> Result<Self> {
        let name = format!("octroi-{}", std::process::id());
        let directory = site.directory().join("machine");
        fs::create_dir_all(&directory)?;
        let log = fs::File::create(site.directory().join("boot.log"))?;
        let mut command = site.host.prepare("unshare".as_ref())?;
        command
            .args(["--mount", "bash"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/package/boot.sh"))
            .args([root, &directory])
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // SAFETY: async-signal-safe. unshare ignores SIGTERM; with it dies process 1, and with that all of them.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut machine = Self {
            child: command.spawn().context("unshare")?,
            init: 0,
            name,
        };
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            if let Some(status) = machine.child.try_wait()? {
                let log = fs::read_to_string(site.directory().join("boot.log"))?;
                bail!("the machine ended with {status}: {log}");
            }
            machine.init = machine.first_child().unwrap_or_default();
            let state = machine.output("systemctl is-system-running");
            let state =
                state.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
            // Degraded: a unit that a smallest root has no use for has failed; ours is looked at by itself.
            if machine.init != 0 && matches!(state.as_deref(), Ok("running" | "degraded")) {
                return Ok(machine);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let failed = machine.run("systemctl --failed --no-pager");
        bail!("systemd is not done after a minute: {failed:?}")
    }

    fn first_child(&self) -> Option<u32> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// A path of the machine, as seen from here.
    pub fn at(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Runs a line of shell in it.
    pub fn output(&self, line: &str) -> Result<Output> {
        let init = self.init.to_string();
        Command::new("timeout")
            .args(["--signal=KILL", "120", "nsenter", "--target", &init])
            .args(["--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net"])
            .args(["--root", "--wdns=/", "--", "env", "-i", "LC_ALL=C.UTF-8"])
            .args(["DEBIAN_FRONTEND=noninteractive", "SYSTEMD_COLORS=0"])
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", line])
            .stdin(Stdio::null())
            .output()
            .context("nsenter")
    }

    /// The same; what it printed.
    ///
    /// # Errors
    /// All that it said, when it failed.
    pub fn run(&self, line: &str) -> Result<String> {
        let output = self.output(line)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "`{line}`: {}: {said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }

    /// Installs a package that lies here; what the scripts said.
    pub fn install(&self, package: &Path) -> Result<String> {
        fs::copy(package, self.at("/tmp/octroi.deb"))?;
        self.run("dpkg --install /tmp/octroi.deb 2>&1")
    }

    /// What its daemon reports.
    pub fn report(&self) -> Result<Report> {
        let answer = control::call(&self.at("/run/octroi"), &control::Request::Status);
        let answer = answer.map_err(|refusal| anyhow::anyhow!(refusal.message))?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// A property of the unit.
    pub fn unit(&self, property: &str) -> Result<String> {
        let line = format!("systemctl show --value --property={property} octroi.service");
        Ok(self.run(&line)?.trim().to_owned())
    }

    /// The journal of the unit.
    pub fn journal(&self) -> String {
        self.run("journalctl --no-pager --unit=octroi.service 2>&1")
            .unwrap_or_else(|error| format!("{error:#}"))
    }

    /// A copy of the ledger with what belongs to it, where SQLite finds it: it resolves `/proc/PID/root` to the wrong root.
    pub fn ledger(&self, to: &Path) -> Result<PathBuf> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(self.at("/var/lib/octroi"))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        Ok(to.join("ledger.db"))
    }

    /// Every file of its root, without what other file systems hold.
    pub fn files(&self) -> Result<Vec<String>> {
        let found = self.run("find / -xdev | LC_ALL=C sort")?;
        Ok(found.lines().map(ToOwned::to_owned).collect())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its control groups outlive its processes.
        let line = format!(
            "d=$(mktemp -d) && mount -t cgroup2 none $d && for i in 1 2 3 4 5; do \
             find $d/{} -depth -type d -exec rmdir {{}} + && break; sleep 0.2; done; umount $d; rmdir $d",
            self.name
        );
        let mut clean = Command::new("unshare");
        clean.args(["--mount", "sh", "-c", &line]);
        let _ = clean.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
