//! The site of these tests: a tenant under each of two rules and one without, and what the gate says of them.

use anyhow::{Context as _, Result, ensure};
use dataplane_common::reason::DropReason;
use octroi::lab::{
    Site,
    ends::{self, Running},
    site::{REMOTE, UPLINK, ipv4, possible},
    traffic::inside,
};
use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use crate::{
    sniffer::{CANARY, Sniffer},
    support::{octroi, registers, tenant},
};

/// The tenant whose rule takes everything that is known: `anssi-2026`.
pub const ALL: usize = 0;
/// The tenant whose rule takes TLS alone: `nist-800-52r2`.
pub const TLS: usize = 1;
/// The tenant whose rule takes what is told by its shape, too.
pub const SHAPE: usize = 3;
/// The tenant without a rule: what does not work for it does not work here.
pub const NONE: usize = 2;

const RULES: &str = "
[[encryption]]
tenant = \"a\"
mode = \"enforce\"
profile = \"anssi-2026\"
starttls_ports = [\"2525\", \"5432\"]
midstream = \"drop\"

[[encryption]]
tenant = \"b\"
mode = \"enforce\"
profile = \"nist-800-52r2\"
midstream = \"drop\"

[[encryption_profile]]
name = \"shapes\"
based_on = \"anssi-2026\"
protocols = [\"tls\", \"ike\", \"esp\", \"openvpn\"]

[[encryption]]
tenant = \"d\"
mode = \"enforce\"
profile = \"shapes\"
min_evidence = \"E1\"
midstream = \"drop\"
";

/// A site with its daemon, and who listens at its uplink.
pub struct Place {
    pub site: Site,
    sniffer: Sniffer,
}

/// True when all `programs` are here; else says that `test` is skipped.
pub fn has(test: &str, programs: &[&str]) -> bool {
    for program in programs {
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .output();
        if !found.is_ok_and(|output| output.status.success()) {
            println!(
                "SKIPPED: {test}: there is no {program}; Debian's packages are openssh-server, openssl, curl, wireguard-go, wireguard-tools and openvpn"
            );
            return false;
        }
    }
    true
}

/// A Python that has `module`, as a command; `None`, and `test` is skipped: there is none. `OCTROI_PYTHON` may name one.
pub fn python_with(test: &str, module: &str) -> Option<Vec<String>> {
    let named = std::env::var("OCTROI_PYTHON").ok();
    let known = ["python3", "/usr/bin/python3"].map(str::to_owned);
    let mut commands: Vec<Vec<String>> = named
        .into_iter()
        .chain(known)
        .map(|python| vec![python])
        .collect();
    // What `cargo xtask setup` has from PyPI.
    let target = Path::new(env!("CARGO_BIN_EXE_octroi"))
        .parent()
        .and_then(Path::parent);
    if let Some(target) = target {
        let path = format!("PYTHONPATH={}", target.join("tools/python").display());
        commands.push(["env", &path, "python3"].map(str::to_owned).to_vec());
    }
    let found = commands.into_iter().find(|command| {
        let tried = Command::new(&command[0])
            .args(&command[1..])
            .args(["-c", &format!("import {module}")])
            .output();
        tried.is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        println!("SKIPPED: {test}: no Python here has {module}; OCTROI_PYTHON names one that has");
    }
    found
}

impl Place {
    /// `None`: no site can be made here, and `test` is skipped.
    pub fn new(test: &str) -> Result<Option<Self>> {
        if let Err(reason) = possible() {
            println!("SKIPPED: {test}: {reason}");
            return Ok(None);
        }
        let tenants = ["a", "b", "c", "d"].map(|name| tenant(name, true));
        let mut site = Site::new(&tenants)?;
        site.write_config(&(site.config("") + RULES))?;
        site.start(octroi())?;
        let sniffer = Sniffer::start(&site.host, UPLINK)?;
        Ok(Some(Self { site, sniffer }))
    }

    /// A program of the remote end, which listens on `port` over `protocol` (`"t"` or `"u"`).
    pub fn serve(
        &self,
        program: &str,
        args: &[&str],
        protocol: &str,
        port: u16,
    ) -> Result<Running> {
        self.serve_saying(program, args, protocol, port, "")
    }

    /// OpenSSL's server of the remote end, with a key and a certificate; `line` as of [`Place::serve_saying`].
    pub fn openssl(
        &self,
        (protocol, port): (&str, u16),
        (key, certificate): &(String, String),
        options: &[&str],
        line: &'static str,
    ) -> Result<Running> {
        let accept = port.to_string();
        let certified = [
            "s_server",
            "-accept",
            &accept,
            "-key",
            key,
            "-cert",
            certificate,
        ];
        let args = [&certified[..], options].concat();
        self.serve_saying("openssl", &args, protocol, port, line)
    }

    /// What a server of that port has printed.
    pub fn printed(&self, port: u16) -> String {
        let bytes = std::fs::read(self.log(port)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log(&self, port: u16) -> std::path::PathBuf {
        self.site.directory().join(format!("serves-{port}.log"))
    }

    /// The same, which is told `line` five times a second: OpenSSL's server hands it on to its client.
    pub fn serve_saying(
        &self,
        program: &str,
        args: &[&str],
        protocol: &str,
        port: u16,
        line: &'static str,
    ) -> Result<Running> {
        let log = self.log(port);
        let printed = std::fs::File::create(&log)?;
        let told = !line.is_empty();
        let mut child = self
            .site
            .remote
            .prepare(program.as_ref())?
            .args(args)
            .stdin(if told { Stdio::piped() } else { Stdio::null() })
            .stdout(printed.try_clone()?)
            .stderr(printed)
            .spawn()
            .with_context(|| program.to_owned())?;
        if let Some(mut stdin) = child.stdin.take() {
            std::thread::spawn(move || {
                while writeln!(stdin, "{line}").is_ok() {
                    std::thread::sleep(Duration::from_millis(200));
                }
            });
        }
        let running = Running(child);
        self.listens(protocol, port).with_context(|| {
            format!(
                "{program}: {}",
                std::fs::read_to_string(&log).unwrap_or_default()
            )
        })?;
        Ok(running)
    }

    /// Waits until somebody listens on a port of the remote end.
    pub fn listens(&self, protocol: &str, port: u16) -> Result<()> {
        let begun = Instant::now();
        let asked = format!("ss -Hl{protocol}n sport = :{port}");
        while self.site.remote.command(&asked)?.trim().is_empty() {
            ensure!(
                begun.elapsed() < Duration::from_secs(10),
                "nobody listens on {port}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Runs a program of a tenant for `seconds` at most, tells it `said`, and keeps its input open for `linger`.
    pub fn run(
        &self,
        tenant: usize,
        seconds: u32,
        command: &[&str],
        said: &[u8],
        linger: Duration,
    ) -> Result<Output> {
        let mut child = self.site.tenants[tenant]
            .prepare("timeout".as_ref())?
            .arg(seconds.to_string())
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| command.join(" "))?;
        let mut stdin = child.stdin.take().context("stdin")?;
        let said = said.to_vec();
        let talks = std::thread::spawn(move || {
            // It may have ended already, when it was cut.
            let _ = stdin.write_all(&said);
            let _ = stdin.flush();
            std::thread::sleep(linger);
        });
        let output = child.wait_with_output()?;
        talks.join().map_err(|_| anyhow::anyhow!("panicked"))?;
        Ok(output)
    }

    /// Packets of a tenant that its rule refused, both directions.
    pub fn refused(&self, tenant: usize) -> Result<u64> {
        let (from, to) = registers(&self.site, tenant)?;
        let reason = DropReason::EncryptionPolicy;
        Ok(from.dropped_for(reason).packets + to.dropped_for(reason).packets)
    }

    /// Bytes of a class, from a tenant and to it.
    pub fn class(&self, tenant: usize, name: &str) -> Result<[u64; 2]> {
        let (from, to) = registers(&self.site, tenant)?;
        Ok([from, to].map(|direction| {
            let mut classes = direction.evidence.iter();
            let found = classes.find(|(class, _)| class == name);
            found.map_or(0, |(_, counts)| counts.l2_bytes)
        }))
    }

    /// `talk` of a tenant comes about, and with it at least `bytes` of `class` in each direction; nothing is refused.
    pub fn passes(
        &self,
        tenant: usize,
        what: &str,
        (class, bytes): (&str, u64),
        talk: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let (refused, before) = (self.refused(tenant)?, self.class(tenant, class)?);
        talk().with_context(|| {
            let now = self.refused(tenant).unwrap_or(0);
            format!(
                "{what} is broken; refused: {} packets; {:?}",
                now - refused,
                self.why()
            )
        })?;
        let now = self.refused(tenant)?;
        ensure!(
            now == refused,
            "{what}: {} packets are refused: {:?}",
            now - refused,
            self.why()
        );
        let after = self.class(tenant, class)?;
        for direction in 0..2 {
            let grown = after[direction] - before[direction];
            ensure!(
                grown >= bytes,
                "{what}: {grown} bytes of {class} in direction {direction}"
            );
        }
        Ok(())
    }

    /// `talk` of a tenant does not come about, because of its rule; `talk` says whether it did.
    pub fn is_cut(
        &self,
        tenant: usize,
        what: &str,
        talk: impl FnOnce() -> Result<bool>,
    ) -> Result<()> {
        let refused = self.refused(tenant)?;
        ensure!(!talk()?, "{what} passes");
        ensure!(
            self.refused(tenant)? > refused,
            "{what} fails, but not by the rule"
        );
        Ok(())
    }

    /// What the gate says of conversations that are refused.
    fn why(&self) -> String {
        let asked = Command::new(octroi())
            .args(["encryption", "--pin-dir"])
            .arg(self.site.pin_dir())
            .output();
        asked.map_or_else(
            |error| error.to_string(),
            |said| String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned(),
        )
    }

    /// Where the remote end is.
    pub fn remote(&self) -> Result<IpAddr> {
        Ok(ipv4(REMOTE).parse()?)
    }

    /// Clear text of a tenant to a port never reaches the uplink; nor does its answer come.
    pub fn clear_text_is_cut(&mut self, tenant: usize, port: u16) -> Result<()> {
        self.sniffer.seen();
        let to = SocketAddr::new(self.remote()?, port);
        inside(self.site.tenants[tenant].open()?, move || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
            stream.write_all(CANARY.as_bytes())?;
            std::thread::sleep(Duration::from_millis(500));
            Ok(())
        })
        .join()
        .map_err(|_| anyhow::anyhow!("panicked"))??;
        self.no_canary()
    }

    /// Nothing with the canary in it reached the uplink since somebody looked last.
    pub fn no_canary(&mut self) -> Result<()> {
        ensure!(
            self.sniffer.seen() == 0,
            "a clear payload reached the uplink"
        );
        Ok(())
    }

    /// The canary that a tenant without a rule sends is seen: the sniffer works.
    pub fn canary_is_seen(&mut self) -> Result<()> {
        ensure!(
            self.sniffer.seen() > 0,
            "the sniffer sees nothing of what passes"
        );
        Ok(())
    }

    /// Key and certificate of the remote end, as texts.
    pub fn certificate(&self) -> Result<(String, String)> {
        let (key, certificate) = ends::certificate(&self.site)?;
        Ok((key.display().to_string(), certificate.display().to_string()))
    }

    /// All classes of each port with a rule together are what it was delivered.
    pub fn adds_up(&self) -> Result<()> {
        for index in [ALL, TLS] {
            let (from, to) = registers(&self.site, index)?;
            for direction in [from, to] {
                let sum: u64 = direction.evidence.iter().map(|one| one.1.l2_bytes).sum();
                let total = direction.total().l2_bytes;
                ensure!(sum == total, "classes have {sum} bytes, the port {total}");
            }
        }
        Ok(())
    }
}

/// Bytes that no compression and no luck makes alike.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x0C72_0CA1_u64;
    let bytes = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    bytes.flatten().take(len).collect()
}
