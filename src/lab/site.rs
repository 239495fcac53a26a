//! A site: a host with a bridge, tenants behind veths, an uplink, and a remote end; and the real
//! daemon on it.
//!
//! ```text
//!  tenant "a"          host                              remote
//!  eth0 ──────── p-a ─┐
//!  tenant "b"         ├─ br0 ── up0 ──────────────────── eth0
//!  eth0 ──────── p-b ─┘
//! ```
//! The bridge learns and floods nothing: who is where is written into it, so that a frame has one
//! way and a count has one meaning.

use super::namespace::{Namespace, command, sweep};
use crate::{daemon::control, status};
use anyhow::{Context as _, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

/// A tenant of a site.
#[derive(Clone, Debug)]
pub struct TenantSpec {
    /// Name; its interface on the host is `p-{name}`.
    pub name: &'static str,
    /// Whether the tenant's own end segments by itself (off), or hands GSO packets over (on).
    pub offloads: bool,
    /// Body lines for its `[[port]]`: limits.
    pub limits: &'static str,
}

/// A site, with its daemon when that was started.
pub struct Site {
    /// The host's namespace.
    pub host: Namespace,
    /// The remote end.
    pub remote: Namespace,
    /// One namespace a tenant, in the order of the specs.
    pub tenants: Vec<Namespace>,
    specs: Vec<TenantSpec>,
    /// Tells it from other sites of this process: `{pid}`, or `{pid}-{name}`.
    tag: String,
    /// Name of the host in its configuration.
    name: String,
    directory: PathBuf,
    daemon: Option<Child>,
}

/// Interface names of the site.
pub const UPLINK: &str = "up0";
/// Every tenant's and the remote's interface inside its namespace.
pub const INSIDE: &str = "eth0";

/// MAC of number `index`: tenants count from 1, the remote is 254.
pub fn mac(index: usize) -> [u8; 6] {
    [0x02, 0, 0, 0, 0, index as u8]
}

/// A MAC as text.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// IPv4 address of number `index`.
pub fn ipv4(index: usize) -> String {
    format!("10.77.0.{index}")
}

/// IPv6 address of number `index`.
pub fn ipv6(index: usize) -> String {
    format!("fd77::{index:x}")
}

/// The remote end's number.
pub const REMOTE: usize = 254;

fn offloads(namespace: &Namespace, interface: &str, on: bool) -> Result<()> {
    let word = if on { "on" } else { "off" };
    // GRO stays off: with it a veth counts what it receives without Ethernet headers, on both ends.
    namespace
        .command(&format!(
            "ethtool -K {interface} gro off tso {word} gso {word} tx-udp-segmentation {word} \
             tx-gso-list {word} tx-sctp-segmentation {word}"
        ))
        .map(drop)
}

impl Site {
    /// Makes namespaces and links. The tenant ends keep their offloads as each spec says; the host's
    /// ends of ports and uplink have theirs off, so that their counters count real segments.
    ///
    /// # Errors
    /// When `ip`, `bridge` or `ethtool` refuse.
    pub fn new(specs: &[TenantSpec]) -> Result<Self> {
        sweep();
        Self::make(specs, std::process::id().to_string(), "demo")
    }

    /// One of several of this process: a host of this name.
    ///
    /// # Errors
    /// As [`Site::new`].
    pub fn named(specs: &[TenantSpec], name: &str) -> Result<Self> {
        sweep();
        Self::make(specs, format!("{}-{name}", std::process::id()), name)
    }

    fn make(specs: &[TenantSpec], tag: String, name: &str) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("octroi-{tag}"));
        std::fs::create_dir_all(&directory).with_context(|| format!("{}", directory.display()))?;
        let namespace = |role: &str| Namespace::tagged(&tag, role);
        let mut site = Self {
            host: namespace("host")?,
            remote: namespace("remote")?,
            tenants: Vec::new(),
            specs: specs.to_vec(),
            tag: tag.clone(),
            name: name.to_owned(),
            directory,
            daemon: None,
        };
        site.host.run(|| {
            // The host has no address of its own here: whatever moves was sent by somebody.
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").ok();
        })?;
        site.host
            .command("ip link add br0 type bridge mcast_snooping 0")?;
        site.host.command("ip link set br0 up")?;
        site.connect_remote()?;
        for (index, spec) in specs.iter().enumerate() {
            site.tenants.push(Namespace::tagged(&tag, spec.name)?);
            site.connect_tenant(index)?;
        }
        Ok(site)
    }

    fn connect_remote(&self) -> Result<()> {
        self.host.command(&format!(
            "ip link add {UPLINK} type veth peer name {INSIDE} netns {}",
            self.remote.name()
        ))?;
        self.plug(UPLINK, REMOTE)?;
        self.wire(UPLINK)?;
        self.address(&self.remote, REMOTE)
    }

    /// Makes (or makes again) the link of tenant `index`.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn connect_tenant(&self, index: usize) -> Result<()> {
        self.connect(index, "")
    }

    /// The same, with an interface index of one's choice on the host.
    ///
    /// # Errors
    /// When `ip` refuses, for instance because the index is taken.
    pub fn connect_tenant_at(&self, index: usize, ifindex: u32) -> Result<()> {
        self.connect(index, &format!("index {ifindex}"))
    }

    fn connect(&self, index: usize, at: &str) -> Result<()> {
        let (spec, namespace) = (&self.specs[index], &self.tenants[index]);
        let port = self.port(index);
        self.host.command(&format!(
            "ip link add {port} {at} type veth peer name {INSIDE} netns {}",
            namespace.name()
        ))?;
        self.plug(&port, index + 1)?;
        // A port with a ceiling gets its queue, if any, from octroi.
        if spec.limits.is_empty() {
            self.wire(&port)?;
        }
        self.address(namespace, index + 1)?;
        offloads(namespace, INSIDE, spec.offloads)
    }

    /// Gives an interface the speed of a wire, by a queue that loses nothing. Without one, a veth
    /// hands a burst over faster than its other end takes it, and what is lost there was already
    /// counted: true, but not what the site is there to compare.
    fn wire(&self, interface: &str) -> Result<()> {
        self.host
            .command(&format!(
                "tc qdisc add dev {interface} root tbf rate 2gbit burst 100kb limit 1gb"
            ))
            .map(drop)
    }

    /// Addresses, and a neighbour entry for everybody else: no ARP or ND has to happen.
    fn address(&self, namespace: &Namespace, index: usize) -> Result<()> {
        let own = mac_text(mac(index));
        let mut batch = vec![
            format!("ip link set {INSIDE} address {own} up"),
            format!("ip addr add {}/24 dev {INSIDE}", ipv4(index)),
            format!("ip -6 addr add {}/64 dev {INSIDE} nodad", ipv6(index)),
            format!("ip route add 224.0.0.0/4 dev {INSIDE}"),
        ];
        for other in (1..=self.specs.len())
            .chain([REMOTE])
            .filter(|other| *other != index)
        {
            let mac = mac_text(mac(other));
            for address in [ipv4(other), ipv6(other)] {
                batch.push(format!(
                    "ip neigh replace {address} lladdr {mac} dev {INSIDE}"
                ));
            }
        }
        batch
            .iter()
            .try_for_each(|line| namespace.command(line).map(drop))
    }

    /// Puts an interface of the host on the bridge and writes who is behind it.
    fn plug(&self, interface: &str, index: usize) -> Result<()> {
        offloads(&self.host, interface, false)?;
        self.host
            .command(&format!("ip link set {interface} master br0 up"))?;
        self.host.command(&format!(
            "bridge link set dev {interface} learning off flood off"
        ))?;
        let mac = mac_text(mac(index));
        self.host.command(&format!(
            "bridge fdb replace {mac} dev {interface} master static"
        ))?;
        Ok(())
    }

    /// Interface of tenant `index` on the host.
    pub fn port(&self, index: usize) -> String {
        format!("p-{}", self.specs[index].name)
    }

    /// Directory of the site's files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Path of the configuration.
    pub fn config_path(&self) -> PathBuf {
        self.directory.join("octroi.toml")
    }

    /// Directory of the pins.
    pub fn pin_dir(&self) -> PathBuf {
        PathBuf::from(format!("/sys/fs/bpf/octroi-{}", self.tag))
    }

    /// Directory of the control socket.
    pub fn run_dir(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// The configuration of this site; `extra` goes into `[host]`.
    pub fn config(&self, extra: &str) -> String {
        use std::fmt::Write as _;
        let mut text = format!(
            "[host]\nname = \"{}\"\npin_dir = \"{}\"\nrun_dir = \"{}\"\nports_max = 64\n{extra}\n\n\
             [[uplink]]\ninterface = \"{UPLINK}\"\ncapacity = \"10Gbit/s\"\n\n\
             [[zone]]\nname = \"remote-site\"\ncidrs = [\"{}/32\", \"{}/128\"]\n",
            self.name,
            self.pin_dir().display(),
            self.run_dir().display(),
            ipv4(REMOTE),
            ipv6(REMOTE),
        );
        for (index, spec) in self.specs.iter().enumerate() {
            let _ = write!(
                text,
                "\n[[tenant]]\nname = \"{0}\"\nid = {1}\n\n[[port]]\nname = \"{0}-port\"\n\
                 tenant = \"{0}\"\ninterface = \"{2}\"\nmacs = [\"{3}\"]\n\
                 addresses = [\"{4}\", \"{5}\"]\n{6}\n",
                spec.name,
                index + 1,
                self.port(index),
                mac_text(mac(index + 1)),
                ipv4(index + 1),
                ipv6(index + 1),
                spec.limits,
            );
        }
        text
    }

    /// Writes the configuration.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_config(&self, text: &str) -> Result<()> {
        std::fs::write(self.config_path(), text).context("configuration")
    }

    /// Starts the daemon and returns when it answers.
    ///
    /// # Errors
    /// When it ends instead, with what it printed.
    pub fn start(&mut self, octroi: &Path) -> Result<()> {
        self.start_with(octroi, &[])
    }

    /// The same, with more in its environment.
    ///
    /// # Errors
    /// When it ends instead, with what it printed.
    pub fn start_with(&mut self, octroi: &Path, environment: &[(&str, &str)]) -> Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("daemon.log"))?;
        let mut child = self
            .host
            .prepare(octroi)?
            .arg("run")
            .arg("--config")
            .arg(self.config_path())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{}", octroi.display()))?;
        let begun = Instant::now();
        // The verifier takes its time on an emulated machine.
        while begun.elapsed() < Duration::from_secs(240) {
            if let Some(status) = child.try_wait()? {
                bail!("the daemon ended with {status}:\n{}", self.log());
            }
            if self.ask(&control::Request::Status).is_ok() {
                self.daemon = Some(child);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        bail!("the daemon does not answer:\n{}", self.log())
    }

    /// What the daemon has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("daemon.log")).unwrap_or_default()
    }

    /// Asks the daemon.
    ///
    /// # Errors
    /// Its refusal.
    pub fn ask(&self, request: &control::Request) -> Result<String> {
        control::call(&self.run_dir(), request).map_err(|refusal| anyhow::anyhow!(refusal.message))
    }

    /// Its report.
    ///
    /// # Errors
    /// Its refusal.
    pub fn report(&self) -> Result<status::Report> {
        Ok(serde_json::from_str(&self.ask(&control::Request::Status)?)?)
    }

    /// Process number of the daemon.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// kill -9.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.daemon.take().context("no daemon")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits until the daemon ends by itself; false when it does not within `patience`.
    ///
    /// # Errors
    /// When there is none.
    pub fn ends_within(&mut self, patience: Duration) -> Result<bool> {
        let child = self.daemon.as_mut().context("no daemon")?;
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if child.try_wait()?.is_some() {
                self.daemon = None;
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(false)
    }

    /// Stops the daemon and takes everything out of the kernel.
    pub fn stop(&mut self) {
        let _ = self.ask(&control::Request::Detach);
        if let Some(mut child) = self.daemon.take() {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(5) {
                if matches!(child.try_wait(), Ok(Some(_))) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(self.pin_dir());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// True where a site can be made: root, `ip`, `bridge` and `ethtool`.
pub fn possible() -> Result<(), String> {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return Err("this needs root; run it with sudo".into());
    }
    for tool in ["ip -V", "bridge -V", "ethtool --version"] {
        command(tool).map_err(|error| format!("{error:#}"))?;
    }
    Ok(())
}
