//! A gate that enforces, the commands that are refused, and whether it enforces afterwards as before.

use anyhow::{Context as _, Result, ensure};
use dataplane::gate::{PortState, PortStatus};
use dataplane_common::{reason::DropReason, zone::FIRST_CONFIGURED};
use octroi::{
    lab::{
        Site,
        frames::{RawSocket, udp4},
        site::{INSIDE, REMOTE, ipv4, mac},
        traffic,
    },
    status::Report,
};
use std::{
    io::Read as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::{octroi, pair, running, tenant};

/// A command that neither ends nor fails within this hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a command said on standard error, and its exit status.
pub struct Said {
    pub status: Option<i32>,
    pub text: String,
}

impl Said {
    /// Runs `command` to its end.
    pub fn by(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                child.kill()?;
                break child.wait()?;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut text = String::new();
        child
            .stderr
            .take()
            .context("no standard error")?
            .read_to_string(&mut text)?;
        Ok(Self {
            status: status.code(),
            text,
        })
    }

    /// One line with all of `words` in this order, and this exit status.
    pub fn is(&self, status: i32, words: &[&str]) -> Result<()> {
        let Self {
            status: found,
            text,
        } = self;
        ensure!(
            *found == Some(status),
            "exit status {found:?}, not {status}, and said:\n{text}"
        );
        ensure!(text.lines().count() == 1, "this is not one line:\n{text}");
        let mut rest = text.as_str();
        for word in words {
            let (_, after) = rest
                .split_once(word)
                .with_context(|| format!("no {word:?} in its place in:\n{text}"))?;
            rest = after;
        }
        Ok(())
    }
}

/// Prints how many cases a test tried.
pub fn cases(count: usize) {
    println!("CASES: bad input: {count}");
}

/// A gate with two tenants, enforcing.
pub fn gate() -> Result<Site> {
    running(&[tenant("alice", false), tenant("bob", false)], "")
}

/// `octroi ARGUMENTS` in the site's host namespace.
pub fn command(site: &Site, arguments: &[&str]) -> Result<Command> {
    let mut command = site.host.prepare(octroi())?;
    command.args(arguments);
    Ok(command)
}

/// The same with the site's directories.
pub fn at(site: &Site, arguments: &[&str]) -> Result<Command> {
    let mut command = command(site, arguments)?;
    command
        .arg("--run-dir")
        .arg(site.run_dir())
        .arg("--pin-dir")
        .arg(site.pin_dir());
    Ok(command)
}

/// `octroi run` on the site's configuration.
pub fn run(site: &Site) -> Result<Command> {
    let mut command = command(site, &["run", "--config"])?;
    command.arg(site.config_path());
    Ok(command)
}

/// `octroi status --json`: of the daemon, or of the pins when none runs.
pub fn report(site: &Site) -> Result<Report> {
    let output = at(site, &["status", "--json"])?.output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

pub fn port(site: &Site, name: &str) -> Result<PortStatus> {
    let mut ports = report(site)?.ports.into_iter();
    let live = ports.find(|port| port.name == name && port.state != PortState::Retired);
    live.with_context(|| format!("no port {name}"))
}

/// Frames of each kind, and the UDP payload of each, bytes.
pub const FRAMES: u64 = 20;
const PAYLOAD: usize = 100;

/// What must not change, and the counts to go on from.
#[derive(Debug, PartialEq, Eq)]
pub struct Before {
    pub revision: u32,
    /// Alice's to the remote end: packets, bytes.
    pub delivered: (u64, u64),
    /// Alice's lies about her address.
    pub spoofed: u64,
}

impl Before {
    pub fn of(site: &Site) -> Result<Self> {
        let from_tenant = port(site, "alice-port")?.from_tenant;
        Ok(Self {
            revision: report(site)?.revision,
            delivered: pair(from_tenant.zone(FIRST_CONFIGURED)),
            spoofed: from_tenant.dropped_for(DropReason::SpoofedIpv4).packets,
        })
    }

    /// Sends honest frames and lies from alice's side, and compares what arrives and what is booked
    /// with what was sent, in the revision of before.
    pub fn still_holds(&self, site: &Site) -> Result<()> {
        let sink = traffic::udp_sink(&site.remote, 9)?;
        let index = site.tenants[0].interfaces()?[INSIDE].index;
        site.tenants[0].run(|| -> Result<()> {
            let socket = RawSocket::open(index)?;
            for source in [[10, 77, 0, 99], [10, 77, 0, 1]] {
                let frame = udp4(mac(1), mac(REMOTE), source, [10, 77, 0, 254], PAYLOAD);
                (0..FRAMES).try_for_each(|_| socket.send(&frame))?;
            }
            Ok(())
        })??;
        // In order: after the last honest frame, no lie is still on its way.
        sink.set_read_timeout(Some(Duration::from_secs(5)))?;
        for number in 0..FRAMES {
            let (_, from) = sink
                .recv_from(&mut [0; 2 * PAYLOAD])
                .with_context(|| format!("{number} of {FRAMES} honest frames arrived"))?;
            assert_eq!(
                from.ip().to_canonical().to_string(),
                ipv4(1),
                "only honest frames arrive"
            );
        }
        assert_eq!(Self::of(site)?, self.and(FRAMES));
        Ok(())
    }

    /// What is expected after `frames` more of each kind.
    pub fn and(&self, frames: u64) -> Self {
        let bytes = frames * (14 + 20 + 8 + PAYLOAD as u64);
        Self {
            revision: self.revision,
            delivered: (self.delivered.0 + frames, self.delivered.1 + bytes),
            spoofed: self.spoofed + frames,
        }
    }
}
