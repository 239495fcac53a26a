//! A site that keeps a ledger and does not know bob's port, and those who bring it: the CNI plug-in, libvirt's hook.

use crate::{load, support::octroi};
use anyhow::{Context as _, Result, ensure};
use metering::ledger;
use octroi::lab::{
    Site,
    site::{REMOTE, ipv4, ipv6, mac, mac_text},
    traffic,
};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write as _,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

const PAIR: [octroi::lab::TenantSpec; 2] = [
    crate::support::tenant("alice", false),
    crate::support::tenant("bob", false),
];

/// Who calls the plug-in, as the runtime names it.
pub const CONTAINER: &str = "3c1f4e7a9b0d4c5e8f60718293a4b5c6";

pub struct Hooked {
    pub site: Site,
    pub ledger: PathBuf,
    at_remote: UdpSocket,
    at_alice: UdpSocket,
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging/examples")
        .join(name)
}

impl Hooked {
    pub fn new() -> Result<Self> {
        let mut site = Site::new(&PAIR)?;
        let ledger = site.directory().join("ledger.db");
        let text = site.config("");
        let port = text.find("[[port]]\nname = \"bob-port\"");
        let base = &text[..port.context("bob's port")?];
        site.write_config(&format!(
            "{base}\n[meter]\nledger = \"{}\"\nwindow = \"1s\"\n",
            ledger.display()
        ))?;
        site.start(octroi())?;
        let hooked = Self {
            at_remote: traffic::udp_sink(&site.remote, 4000)?,
            at_alice: traffic::udp_sink(&site.tenants[0], 4000)?,
            site,
            ledger,
        };
        hooked.wait("the first window", |hooked| {
            let meter = hooked.site.report()?.meter;
            Ok(meter.is_some_and(|meter| meter.windows != 0))
        })?;
        Ok(hooked)
    }

    pub fn wait(&self, what: &str, done: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let begun = Instant::now();
        while !done(self)? {
            let late = begun.elapsed() > Duration::from_secs(20);
            ensure!(!late, "{what} never came:\n{}", self.site.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// How many of some hundred datagrams of bob's arrive, at the remote end and at alice.
    pub fn arrivals(&self) -> Result<usize> {
        let sockets = [
            (&self.at_remote, ipv4(REMOTE).parse()?),
            (&self.at_alice, ipv4(1).parse()?),
        ];
        load::arrivals(&self.site, 1, &sockets)
    }

    /// What was entered in the ledger, the oldest first.
    pub fn entries(&self) -> Result<Vec<(String, String)>> {
        let looks = ledger::looks(&self.ledger)?.into_iter();
        // A daemon's start is its own entry.
        let looks = looks.filter(|look| !look.what.starts_with("start: "));
        Ok(looks.map(|look| (look.who, look.what)).collect())
    }

    /// Runs an example in the site's host.
    pub fn run(
        &self,
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        input: &str,
    ) -> Result<Output> {
        let mut child = self
            .site
            .host
            .prepare(&example(name))?
            .args(arguments)
            .env("OCTROI", octroi())
            .env("OCTROI_RUN_DIR", self.site.run_dir())
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| name.to_owned())?;
        // It may refuse before it reads.
        let _ = child
            .stdin
            .take()
            .context("stdin")?
            .write_all(input.as_bytes());
        Ok(child.wait_with_output()?)
    }

    /// The configuration that a runtime gives the plug-in, after `bridge` made bob's interface.
    pub fn cni_config(&self) -> Value {
        let sandbox = format!("/run/netns/{}", self.site.tenants[1].name());
        json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "octroi-cni",
            "tenants": { "team-b": "bob" },
            "runtimeConfig": { "bandwidth": {
                "ingressRate": 80_000_000, "ingressBurst": 8_000_001, "egressRate": 40_000_000,
            } },
            "prevResult": {
                "cniVersion": "1.0.0",
                "interfaces": [
                    { "name": "br0", "mac": "02:00:00:00:00:fe" },
                    { "name": "p-bob", "mac": "02:00:00:00:00:fd" },
                    { "name": "eth0", "mac": mac_text(mac(2)), "sandbox": sandbox },
                ],
                "ips": [
                    { "interface": 2, "address": format!("{}/24", ipv4(2)), "gateway": ipv4(REMOTE) },
                    { "interface": 2, "address": format!("{}/64", ipv6(2)) },
                ],
                "routes": [{ "dst": "0.0.0.0/0" }],
                "dns": {},
            },
        })
    }

    /// Calls the plug-in as the specification says. Its exit status, and the JSON that it printed.
    pub fn cni(&self, command: &str, config: &str, more: &[(&str, &str)]) -> Result<(bool, Value)> {
        let sandbox = format!("/run/netns/{}", self.site.tenants[1].name());
        let mut environment = vec![
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", CONTAINER),
            ("CNI_NETNS", &sandbox),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            (
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=team-b;K8S_POD_NAME=web-0",
            ),
        ];
        environment.extend(more);
        let output = self.run("octroi-cni", &[], &environment, config)?;
        let said = String::from_utf8(output.stdout)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(!errors.contains("Traceback"), "{errors}");
        let value = match said.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).with_context(|| text.to_owned())?,
        };
        Ok((output.status.success(), value))
    }

    /// The XML that libvirt gives its hook for a guest of bob's.
    pub fn guest(&self, tenant: &str) -> String {
        format!(
            "<domain type='kvm' id='3'><name>web 1</name><metadata>{tenant}</metadata><devices>\n\
             <interface type='bridge'><mac address='{}'/><source bridge='br0'/><target dev='p-bob'/>\n\
             <ip address='{}' family='ipv4'/><ip address='{}' family='ipv6'/></interface>\n\
             </devices></domain>\n",
            mac_text(mac(2)),
            ipv4(2),
            ipv6(2)
        )
    }

    /// Calls libvirt's hook; what it said on standard error.
    pub fn libvirt(&self, operation: &str, xml: &str) -> Result<(bool, String)> {
        let arguments = ["web 1", operation, "begin", "-"];
        let output = self.run("libvirt-hook-qemu", &arguments, &[], xml)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((output.status.success(), said))
    }

    /// `octroi` with the site's run directory.
    pub fn octroi(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.site.host.prepare(octroi())?;
        let command = command
            .args(arguments)
            .arg("--run-dir")
            .arg(self.site.run_dir());
        Ok(command.stdin(Stdio::null()).output()?)
    }

    pub fn read_config(&self) -> Result<String> {
        Ok(fs::read_to_string(self.site.config_path())?)
    }
}
