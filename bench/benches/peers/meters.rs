//! The meters: how each is started, ended and asked what it counted.

use super::carried::PORT;
use anyhow::{Context as _, Result, bail, ensure};
use aya::{programs::ProgramInfo, sys};
use octroi::lab::{Namespace, Site};
use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meter {
    /// For what the sender alone takes.
    Nothing,
    Octroi,
    /// It captures, and exports NetFlow v9 to nfcapd on the loopback.
    Softflowd,
    /// It collects what softflowd exports.
    Nfcapd,
    Pmacctd,
}

/// What a meter says, and what it took.
pub struct Seen {
    pub counted: u64,
    pub process_ns: u64,
    pub kernel_ns: Option<u64>,
    /// `l2` or `l3`: which bytes it counts.
    pub unit: &'static str,
}

/// A meter that runs.
pub struct Started {
    meter: Meter,
    directory: PathBuf,
    processes: Vec<Process>,
    /// Switches the kernel's measuring of programs on while it lives.
    stats: Option<OwnedFd>,
    before_ns: u64,
}

struct Process {
    child: Child,
    before_ns: u64,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Meter {
    pub const ALL: [Self; 5] = [
        Self::Nothing,
        Self::Octroi,
        Self::Softflowd,
        Self::Nfcapd,
        Self::Pmacctd,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "(none)",
            Self::Octroi => "octroi",
            Self::Softflowd => "softflowd",
            Self::Nfcapd => "nfcapd",
            Self::Pmacctd => "pmacctd",
        }
    }

    /// A program that it needs and that is not here.
    pub fn missing(self) -> Option<&'static str> {
        let needs: &[&str] = match self {
            Self::Nothing | Self::Octroi => &[],
            Self::Softflowd | Self::Nfcapd => &["softflowd", "softflowctl", "nfcapd", "nfdump"],
            Self::Pmacctd => &["pmacctd"],
        };
        needs.iter().copied().find(|name| find(name).is_none())
    }

    pub fn start(self, site: &mut Site, octroi: &Path) -> Result<Started> {
        let directory = site.directory().join(self.name().trim_matches(['(', ')']));
        fs::create_dir_all(directory.join("flows"))?;
        let mut started = Started {
            meter: self,
            directory,
            processes: Vec::new(),
            stats: None,
            before_ns: 0,
        };
        match self {
            Self::Nothing => {}
            Self::Octroi => started.octroi(site, octroi)?,
            Self::Softflowd | Self::Nfcapd => started.softflowd(&site.host, &site.port(0))?,
            Self::Pmacctd => started.pmacctd(&site.host, &site.port(0))?,
        }
        // What starting takes is not what metering takes.
        thread::sleep(Duration::from_secs(1));
        for process in &mut started.processes {
            process.before_ns = family_ns(process.child.id())?;
        }
        if let Some(pid) = site.daemon_pid() {
            started.before_ns = family_ns(pid)?;
        }
        Ok(started)
    }
}

impl Started {
    fn octroi(&mut self, site: &mut Site, octroi: &Path) -> Result<()> {
        ensure!(octroi.is_file(), "{}: build it first", octroi.display());
        let section = format!(
            "\n[meter]\nledger = \"{}\"\nwindow = \"10s\"\n",
            self.directory.join("ledger.db").display()
        );
        let config = site.config("shape = \"police\"") + &section;
        site.write_config(&config)?;
        site.start(octroi)?;
        self.stats = Some(sys::enable_stats(sys::Stats::RunTime).context("BPF statistics")?);
        Ok(())
    }

    fn softflowd(&mut self, host: &Namespace, interface: &str) -> Result<()> {
        let flows = self.directory.join("flows");
        let mut nfcapd = command(host, "nfcapd")?;
        nfcapd.arg("-w").arg(&flows).args([
            "-p",
            "9995",
            "-b",
            "127.0.0.1",
            "-t",
            "3600",
            "-B",
            "8388608",
        ]);
        self.spawn(nfcapd, "nfcapd")?;
        thread::sleep(Duration::from_millis(500));
        let mut softflowd = command(host, "softflowd")?;
        softflowd
            .args(["-d", "-i", interface, "-n", "127.0.0.1:9995", "-v", "9"])
            .args(["-B", "8388608", "-p"])
            .arg(self.directory.join("softflowd.pid"))
            .arg("-c")
            .arg(self.directory.join("softflowd.ctl"))
            .arg("udp");
        self.spawn(softflowd, "softflowd")
    }

    fn pmacctd(&mut self, host: &Namespace, interface: &str) -> Result<()> {
        let (config, output) = (self.directory.join("pmacctd.conf"), self.output());
        let text = format!(
            "daemonize: false\npcap_interface: {interface}\npcap_filter: udp\nplugins: print[all]\n\
             plugin_pipe_size[all]: 33554432\nplugin_buffer_size[all]: 65536\n\
             aggregate[all]: dst_port\nprint_refresh_time[all]: 60\nprint_output[all]: csv\n\
             print_output_file[all]: {}\nprint_output_file_append[all]: true\n",
            output.display()
        );
        fs::write(&config, text)?;
        let mut pmacctd = command(host, "pmacctd")?;
        pmacctd.arg("-f").arg(&config);
        self.spawn(pmacctd, "pmacctd")
    }

    fn output(&self) -> PathBuf {
        self.directory.join("pmacctd.csv")
    }

    fn spawn(&mut self, mut command: Command, name: &str) -> Result<()> {
        let log = File::create(self.directory.join(format!("{name}.log")))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{name} does not run"))?;
        let before_ns = 0;
        self.processes.push(Process { child, before_ns });
        Ok(())
    }

    /// Ends it, and returns what it counted of what was sent to [`PORT`].
    pub fn end(mut self, site: &mut Site) -> Result<Seen> {
        if matches!(self.meter, Meter::Softflowd | Meter::Nfcapd) {
            // Exporting and collecting is part of it.
            self.order(&site.host, "expire-all")?;
        }
        let process_ns = self.processes.iter().map(|process| {
            let now_ns = family_ns(process.child.id())?;
            Ok(now_ns.saturating_sub(process.before_ns))
        });
        let process_ns = process_ns.collect::<Result<Vec<u64>>>()?;
        let seen = |counted, process_ns| Seen {
            counted,
            process_ns,
            kernel_ns: None,
            unit: "l3",
        };
        match self.meter {
            Meter::Nothing => Ok(seen(0, 0)),
            Meter::Octroi => self.end_octroi(site),
            Meter::Softflowd | Meter::Nfcapd => {
                let counted = self.end_softflowd(&site.host)?;
                let at = usize::from(self.meter == Meter::Softflowd);
                Ok(seen(counted, process_ns[at]))
            }
            Meter::Pmacctd => {
                let process = self.processes.pop().context("pmacctd")?;
                end(process, libc::SIGINT)?;
                Ok(seen(self.pmacctd_counted()?, process_ns[0]))
            }
        }
    }

    fn end_octroi(&mut self, site: &mut Site) -> Result<Seen> {
        let pid = site.daemon_pid().context("the daemon is gone")?;
        let process_ns = family_ns(pid)?.saturating_sub(self.before_ns);
        let mut kernel_ns = 0;
        for version in fs::read_dir(site.pin_dir())? {
            for program in fs::read_dir(version?.path().join("programs"))? {
                kernel_ns += ProgramInfo::from_pin(program?.path())?
                    .run_time()
                    .as_nanos() as u64;
            }
        }
        self.stats = None;
        let ports = site.report()?.ports;
        let port = ports.first().context("no port")?;
        // All but what pushed it out of the buffers of the others, which is of one size.
        let flushed = super::carried::FLUSHED_L2_BYTES;
        let counted = port.from_tenant.total().l2_bytes;
        Ok(Seen {
            counted: counted.saturating_sub(flushed),
            process_ns,
            kernel_ns: Some(kernel_ns),
            unit: "l2",
        })
    }

    fn order(&self, host: &Namespace, order: &str) -> Result<()> {
        let mut ctl = command(host, "softflowctl")?;
        let control = self.directory.join("softflowd.ctl");
        let done = ctl.arg("-c").arg(control).arg(order).output()?;
        ensure!(done.status.success(), "softflowctl {order}: {done:?}");
        thread::sleep(Duration::from_secs(1));
        Ok(())
    }

    fn end_softflowd(&mut self, host: &Namespace) -> Result<u64> {
        self.order(host, "exit")?;
        let softflowd = self.processes.pop().context("softflowd")?;
        end(softflowd, libc::SIGTERM)?;
        let nfcapd = self.processes.pop().context("nfcapd")?;
        end(nfcapd, libc::SIGTERM)?;
        let mut nfdump = Command::new(find("nfdump").context("nfdump")?);
        let flows = self.directory.join("flows");
        let said = nfdump
            .arg("-R")
            .arg(flows)
            .args(["-q", "-N", "-o", "fmt:%byt"])
            .arg(format!("dst port {PORT}"))
            .output()?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        sum(text.lines().map(str::trim), "nfdump")
    }

    fn pmacctd_counted(&self) -> Result<u64> {
        let text = fs::read_to_string(self.output()).context("pmacctd wrote nothing")?;
        let rows = text.lines().filter_map(|line| {
            let mut fields = line.split(',');
            let ours = fields.next() == Some(&PORT.to_string());
            fields.next_back().filter(|_| ours)
        });
        sum(rows, "pmacctd")
    }
}

fn sum<'a>(rows: impl Iterator<Item = &'a str>, who: &str) -> Result<u64> {
    let rows = rows.filter(|row| !row.is_empty());
    let numbers = rows.map(|row| {
        row.parse::<u64>()
            .with_context(|| format!("{who} says {row:?}"))
    });
    numbers.sum()
}

/// Ends a process that this run started, by its number.
fn end(mut process: Process, signal: libc::c_int) -> Result<()> {
    let child = &mut process.child;
    // SAFETY: a signal to a child that was not waited for: the number is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, signal) };
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > Duration::from_secs(20) {
            bail!("process {} does not end", child.id());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

fn command(namespace: &Namespace, name: &str) -> Result<Command> {
    namespace.prepare(&find(name).with_context(|| format!("{name} is not installed"))?)
}

/// CPU of a process, its threads and its children, ns: schedstat's first number.
fn family_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
        let first = text.split_whitespace().next();
        sum += first.and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        let children = fs::read_to_string(task.join("children")).unwrap_or_default();
        for child in children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
        {
            sum += family_ns(child).unwrap_or(0);
        }
    }
    Ok(sum)
}
