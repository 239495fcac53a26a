//! `octroi top` in a terminal of its own: what is on the screen is what `octroi status` says, with the daemon
//! and without.

mod support;

use anyhow::{Context as _, Result, ensure};
use octroi::{
    lab::{
        command,
        site::{REMOTE, ipv4},
        traffic::{self, Datagrams},
    },
    status::Report,
};
use std::{
    process::Command,
    time::{Duration, Instant},
};
use support::{alone, can_run, octroi, running, settle, tenant};

const PAIR: [octroi::lab::TenantSpec; 2] = [tenant("alice", false), tenant("bob", false)];

/// A terminal, gone with this value.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn open(program: &str) -> Result<Self> {
        let terminal = Self {
            socket: format!("octroi-{}", std::process::id()),
        };
        let size = [
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "150",
            "-y",
            "40",
        ];
        terminal.tmux(&[&size[..], &[program]].concat())?;
        Ok(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("tmux")
            .args(["-L", &self.socket])
            .args(arguments)
            .output()
            .context("tmux")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "tmux {arguments:?}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(drop)
    }

    /// Waits for a screen that says so; 20 s at most.
    fn wait(&self, what: &str, done: impl Fn(&str) -> bool) -> Result<String> {
        let begun = Instant::now();
        loop {
            let screen = self.tmux(&["capture-pane", "-p"])?;
            if done(&screen) {
                return Ok(screen);
            }
            let late = begun.elapsed() > Duration::from_secs(20);
            ensure!(!late, "{what} was never on the screen:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

/// The numbers at the end of a row of the screen: bytes from, bytes to, drops.
fn numbers(screen: &str, name: &str) -> Option<[u64; 3]> {
    let screen = screen.replace('│', " ");
    let mut lines = screen.lines();
    let line = lines.find(|line| line.split_whitespace().any(|word| word == name))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let last = words.get(words.len().checked_sub(3)?..)?;
    let numbers: Vec<u64> = last.iter().filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().ok()
}

/// The same, of a tenant in `octroi status --json`.
fn of_status(report: &Report, tenant: u32) -> [u64; 3] {
    let ports = report.ports.iter().filter(|port| port.tenant == tenant);
    ports.fold([0; 3], |[from, to, drops], port| {
        let dropped = port.from_tenant.dropped().packets + port.to_tenant.dropped().packets;
        [
            from + port.from_tenant.total().l2_bytes,
            to + port.to_tenant.total().l2_bytes,
            drops + dropped,
        ]
    })
}

fn status(arguments: &str) -> Result<Report> {
    let said = command(&format!("{} status --json {arguments}", octroi().display()))?;
    Ok(serde_json::from_str(&said)?)
}

#[test]
fn the_screen_says_what_status_says_with_the_daemon_and_without() -> Result<()> {
    const NAME: &str = "the_screen_says_what_status_says_with_the_daemon_and_without";
    if !can_run(NAME) {
        return Ok(());
    }
    if let Err(error) = command("tmux -V") {
        println!("SKIPPED: {NAME}: {error:#}");
        return Ok(());
    }
    let _alone = alone();
    let mut site = running(&PAIR, "")?;
    let at = format!(
        "--run-dir {} --pin-dir {}",
        site.run_dir().display(),
        site.pin_dir().display()
    );
    let terminal = Terminal::open(&format!("{} top {at}", octroi().display()))?;
    terminal.wait("alice", |screen| screen.contains("alice"))?;

    // Both send for two seconds; alice also from an address that is not hers.
    site.tenants[0].command("ip addr add 10.77.0.99/24 dev eth0")?;
    std::thread::scope(|scope| -> Result<()> {
        let senders = [0, 1].map(|index| {
            let namespace = &site.tenants[index];
            scope.spawn(move || {
                namespace.run(move || {
                    let how = Datagrams {
                        size: 1_000,
                        segment: None,
                        gap: Duration::from_micros(500),
                    };
                    let until = Instant::now() + Duration::from_secs(2);
                    if index == 0 {
                        let lie = std::net::UdpSocket::bind("10.77.0.99:0")?;
                        for _ in 0..50 {
                            let _ = lie.send_to(&[0; 100], (ipv4(REMOTE), 7));
                        }
                    }
                    traffic::udp_send((ipv4(REMOTE).parse()?, 7), how, until)
                })?
            })
        });
        // While they send there are rates.
        terminal.wait("a rate", |screen| {
            let line = screen.lines().find(|line| line.contains("bob"));
            line.is_some_and(|line| line.contains('M') || line.contains('k'))
        })?;
        for sender in senders {
            sender
                .join()
                .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        Ok(())
    })?;
    let report =
        settle(|| Ok(serde_json::to_string(&status(&at)?.ports)?)).and_then(|_| status(&at))?;
    let expected = [1, 2].map(|tenant| of_status(&report, tenant));
    ensure!(
        expected[0][0] > 1_000_000 && expected[1][0] > 1_000_000,
        "{expected:?}"
    );
    ensure!(expected[0][2] >= 50, "{expected:?}");
    let same =
        |screen: &str| ["alice", "bob"].map(|name| numbers(screen, name)) == expected.map(Some);
    terminal.wait("what status says", |screen| {
        same(screen) && screen.contains("daemon runs")
    })?;

    // Down to alice's port, and why packets were dropped.
    terminal.press("/")?;
    terminal.tmux(&["send-keys", "-l", "alice"])?;
    terminal.press("Enter")?;
    terminal.wait("the filter", |screen| {
        screen.contains("1 tenants, with `alice`")
    })?;
    terminal.press("Enter")?;
    terminal.wait("alice's port", |screen| {
        screen.contains("ports of alice")
            && numbers(screen, "alice-port") == Some(expected[0])
            && screen.contains("spoofed_ipv4")
    })?;
    terminal.press("Escape")?;

    // The kernel goes on; the pins say the same.
    site.kill()?;
    terminal.wait("the pins", |screen| {
        same(screen) && screen.contains("no daemon")
    })?;
    let pinned = status(&at)?;
    ensure!(!pinned.daemon);
    ensure!([1, 2].map(|tenant| of_status(&pinned, tenant)) == expected);
    terminal.press("q")?;
    let ended = Instant::now();
    while terminal.tmux(&["has-session"]).is_ok() {
        ensure!(ended.elapsed() < Duration::from_secs(5), "q does not leave");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("CASES: screens of top that are what status says: 4");
    Ok(())
}
