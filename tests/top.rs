//! `octroi top` in a terminal of its own: what is on the screen is what `octroi status` says, with the daemon
//! and without.

mod support;

use anyhow::{Context as _, Result, ensure};
use octroi::{
    lab::{
        Site, command,
        site::{REMOTE, ipv4},
        traffic::{self, Datagrams},
    },
    status::Report,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
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
    fn wait(&self, what: &str, mut done: impl FnMut(&str) -> bool) -> Result<String> {
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

/// True where `test` can show a screen; else says that it is skipped.
fn can_show(test: &str) -> bool {
    if !can_run(test) {
        return false;
    }
    let terminal = command("tmux -V");
    if let Err(error) = &terminal {
        println!("SKIPPED: {test}: {error:#}");
    }
    terminal.is_ok()
}

/// Where the daemon and its pins are, as options.
fn places(site: &Site) -> String {
    format!(
        "--run-dir {} --pin-dir {}",
        site.run_dir().display(),
        site.pin_dir().display()
    )
}

#[test]
fn the_screen_says_what_status_says_with_the_daemon_and_without() -> Result<()> {
    const NAME: &str = "the_screen_says_what_status_says_with_the_daemon_and_without";
    if !can_show(NAME) {
        return Ok(());
    }
    let _alone = alone();
    let mut site = running(&PAIR, "")?;
    let at = places(&site);
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

/// Alice's flows are kept as they are, bob's as networks; of alice's somebody looks at the encryption.
fn with_detail() -> Result<Site> {
    let mut site = Site::new(&PAIR)?;
    let ledger = site.directory().join("ledger.db");
    let more = format!(
        "\n[[encryption]]\ntenant = \"alice\"\nmode = \"observe\"\nprofile = \"anssi-2026\"\n\
         \n[meter]\nledger = \"{}\"\nwindow = \"500ms\"\nflow_idle = \"600s\"\n",
        ledger.display()
    );
    let config = site.config("");
    let full = config.replace("id = 1\n", "id = 1\nflow_detail = \"full\"\n");
    ensure!(full != config, "alice is not in the configuration");
    site.write_config(&(full + &more))?;
    site.start(octroi())?;
    Ok(site)
}

/// A line of the screen as words, one space between them.
fn words(line: &str) -> String {
    let line = line.replace('│', " ");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What `octroi flows` says of a tenant, as the screen has it: the other end, this end, protocol, zone, evidence.
fn of_flows(site: &Site, tenant: u32, zones: &Report) -> Result<BTreeSet<String>> {
    let ledger = site.directory().join("ledger.db");
    let said = command(&format!(
        "{} flows --ledger {} --tenant {tenant} --format json",
        octroi().display(),
        ledger.display()
    ))?;
    // What is known of a flow's encryption grows: the last window has all of it.
    let mut rows = BTreeMap::new();
    for line in said.lines() {
        let row: Value = serde_json::from_str(line)?;
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| match row[key].as_u64() {
            None | Some(0) => String::new(),
            Some(number) => number.to_string(),
        };
        let protocol = match (row["protocol"].as_u64(), text("ethertype").as_str()) {
            (Some(1), "0x0800") => "icmp".into(),
            (Some(6), "0x0800" | "0x86dd") => "tcp".into(),
            (Some(17), "0x0800" | "0x86dd") => "udp".into(),
            (Some(58), "0x86dd") => "icmp6".into(),
            (Some(number), "0x0800" | "0x86dd") => number.to_string(),
            (_, other) => other.to_owned(),
        };
        let zone = row["zone"].as_u64().context("a zone")?;
        let zone = zones.zones.get(&u32::try_from(zone)?);
        let all = [
            text("remote"),
            number("remote_port"),
            text("local"),
            number("local_port"),
            protocol,
            zone.cloned().context("a zone's name")?,
        ];
        rows.insert(words(&all.join(" ")), text("evidence"));
    }
    let rows = rows.into_iter();
    Ok(rows
        .map(|(flow, evidence)| words(&format!("{flow} {evidence}")))
        .collect())
}

/// Rows in the title of the flows.
fn rows_of_flows(screen: &str) -> Option<usize> {
    let before = screen.split(" rows of flows of").next()?;
    before
        .split_whitespace()
        .next_back()?
        .trim_start_matches('┌')
        .parse()
        .ok()
}

/// Bits per second of what a number on the screen says.
fn rate(word: &str) -> Option<f64> {
    let (number, unit) = match word.char_indices().next_back()? {
        (at, 'k') => (&word[..at], 1e3),
        (at, 'M') => (&word[..at], 1e6),
        (at, 'G') => (&word[..at], 1e9),
        _ => (word, 1.0),
    };
    Some(number.parse::<f64>().ok()? * unit)
}

fn live_looks(site: &Site) -> Result<Vec<String>> {
    let looks = metering::ledger::looks(&site.directory().join("ledger.db"))?;
    let what = looks.into_iter().map(|look| look.what);
    Ok(what.filter(|what| what.starts_with("live flows")).collect())
}

#[test]
fn the_flows_on_the_screen_are_those_of_octroi_flows_and_whoever_looks_is_in_the_ledger()
-> Result<()> {
    const NAME: &str =
        "the_flows_on_the_screen_are_those_of_octroi_flows_and_whoever_looks_is_in_the_ledger";
    if !can_show(NAME) {
        return Ok(());
    }
    let _alone = alone();
    let mut site = with_detail()?;
    let at = places(&site);
    let terminal = Terminal::open(&format!("{} top {at}", octroi().display()))?;
    terminal.wait("alice", |screen| screen.contains("alice"))?;
    terminal.press("/")?;
    terminal.tmux(&["send-keys", "-l", "alice"])?;
    terminal.press("Enter")?;
    terminal.press("Enter")?;
    terminal.wait("alice's port", |screen| screen.contains("ports of alice"))?;
    ensure!(live_looks(&site)?.is_empty(), "nobody has looked at a flow");
    terminal.press("Enter")?;
    terminal.wait("a look that is entered", |screen| {
        screen.contains("rows of flows of port alice-port; this look is in the ledger")
    })?;
    assert_eq!(
        live_looks(&site)?,
        ["live flows --tenant 1 --port alice-port"]
    );

    // Two flows of alice and one of bob, for four seconds; rates of one of them as the screen has them.
    const SECONDS: u64 = 4;
    let (sent, rates) = std::thread::scope(|scope| -> Result<(u64, Vec<f64>)> {
        let senders = [(0, 7), (0, 9_000), (1, 7)].map(|(index, port)| {
            let namespace = &site.tenants[index];
            scope.spawn(move || {
                namespace.run(move || {
                    let how = Datagrams {
                        size: 1_000,
                        segment: None,
                        gap: Duration::from_millis(2),
                    };
                    let until = Instant::now() + Duration::from_secs(SECONDS);
                    traffic::udp_send((ipv4(REMOTE).parse()?, port), how, until)
                })?
            })
        });
        let begin = format!("{} 9000 {} ", ipv4(REMOTE), ipv4(1));
        let mut rates = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(SECONDS) {
            let screen = terminal.tmux(&["capture-pane", "-p"])?;
            let line = screen
                .lines()
                .map(words)
                .find(|line| line.starts_with(&begin));
            let line = line.unwrap_or_default();
            let from = line.split(' ').rev().nth(2).and_then(rate);
            rates.extend(from.filter(|rate| *rate > 0.0));
            std::thread::sleep(Duration::from_millis(200));
        }
        let mut sent = Vec::new();
        for sender in senders {
            let one = sender
                .join()
                .map_err(|_| anyhow::anyhow!("a sender panicked"))?;
            sent.push(one?);
        }
        Ok((sent[1], rates))
    })?;
    // 42 bytes before each datagram of 1,000.
    let average = (sent / 1_000 * 1_042 * 8) as f64 / SECONDS as f64;
    let fits = |rate: &f64| (average * 0.5..average * 2.0).contains(rate);
    ensure!(
        rates.iter().any(fits),
        "{average} bit/s were sent, the screen says {rates:?}"
    );

    // What is in the ledger when everything was carried is what is on the screen.
    let zones = status(&at)?;
    let mut compared = 0;
    for (tenant, name) in [(1, "alice"), (2, "bob")] {
        terminal.press("t")?;
        terminal.press("/")?;
        terminal.tmux(&["send-keys", "-l", name])?;
        terminal.press("Enter")?;
        terminal.wait("the filter", |screen| {
            screen.contains(&format!("1 tenants, with `{name}`"))
        })?;
        terminal.press("f")?;
        terminal.wait("the ledger's rows", |screen| {
            let lines: Vec<String> = screen.lines().map(words).collect();
            let rows = of_flows(&site, tenant, &zones).unwrap_or_default();
            let all = rows
                .iter()
                .all(|row| lines.iter().any(|line| line.starts_with(row)));
            let both = rows.iter().any(|row| row.contains("udp"));
            let same = all && both && rows_of_flows(screen) == Some(rows.len());
            if same {
                compared += rows.len();
            }
            same
        })?;
    }
    let screen = terminal.tmux(&["capture-pane", "-p"])?;
    ensure!(
        screen.contains(
            "networks only, as flow_detail of this tenant has it; this look is in the ledger"
        ),
        "{screen}"
    );
    ensure!(
        !screen.contains(&ipv4(REMOTE)) && !screen.contains(&ipv4(2)),
        "{screen}"
    );
    assert_eq!(
        live_looks(&site)?,
        [
            "live flows --tenant 1 --port alice-port",
            "live flows --tenant 1",
            "live flows --tenant 2"
        ],
        "once for each, however often the screen was drawn"
    );

    // Nobody says any more what may be seen.
    site.kill()?;
    terminal.press("t")?;
    terminal.wait("the pins", |screen| screen.contains("no daemon"))?;
    terminal.press("f")?;
    let screen = terminal.wait("flows from the pins", |screen| {
        screen.contains("networks only, as no daemon says what may be seen")
            && screen.contains("udp")
    })?;
    ensure!(!screen.contains(&ipv4(REMOTE)), "{screen}");
    terminal.press("q")?;
    println!("CASES: flows on the screen that are those of the ledger: {compared}");
    Ok(())
}
