//! Congestion Experienced with real TCP (CUBIC): a tenant's flows behind a ceiling and behind a share, with and without ECN, v4 and
//! v6: what was retransmitted, timers that ran out, what arrived marked, and that no checksum was wrong.
//!
//! `ECN: shape, ecn, Mbit/s, …`

mod support;

use anyhow::{Context as _, Result, ensure};
use octroi::lab::{
    Namespace, Site, TenantSpec,
    site::{REMOTE, ipv4, ipv6},
    traffic::{self, Sink},
};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};
use support::{alone, by_level, can_run, octroi, registers};

const PORT: u16 = 5_007;
const FLOWS: usize = 8;
const CEILING_MBIT: u64 = 50;

/// Counters of a namespace's own stack: `/proc/net/snmp`, `netstat` and `snmp6`.
fn stack(namespace: &Namespace) -> Result<BTreeMap<String, u64>> {
    let read = || -> std::io::Result<[String; 3]> {
        Ok([
            std::fs::read_to_string("/proc/thread-self/net/snmp")?,
            std::fs::read_to_string("/proc/thread-self/net/netstat")?,
            std::fs::read_to_string("/proc/thread-self/net/snmp6")?,
        ])
    };
    let [snmp, netstat, six] = namespace.run(read)??;
    let mut all = BTreeMap::new();
    for text in [snmp, netstat] {
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.chunks_exact(2) {
            let table = pair[0].split(':').next().unwrap_or_default();
            let names = pair[0].split_whitespace().skip(1);
            for (name, value) in names.zip(pair[1].split_whitespace().skip(1)) {
                all.insert(format!("{table}{name}"), value.parse().unwrap_or(0));
            }
        }
    }
    for line in six.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(value)) = (words.next(), words.next()) {
            all.insert(name.to_owned(), value.parse().unwrap_or(0));
        }
    }
    Ok(all)
}

fn gained(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, name: &str) -> u64 {
    let of = |all: &BTreeMap<String, u64>| all.get(name).copied().unwrap_or(0);
    of(after).saturating_sub(of(before))
}

/// What one run came to.
#[derive(Debug)]
struct Run {
    retransmitted: u64,
    timeouts: u64,
    arrived_marked: u64,
    marked: u64,
    not_marked: u64,
    dropped: u64,
}

/// Flows of the tenant to the remote end.
fn run(site: &Site, what: &str, ecn: bool, time: Duration) -> Result<Run> {
    let tenant = &site.tenants[0];
    for namespace in [tenant, &site.remote] {
        let word = if ecn { "1" } else { "0" };
        namespace.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_ecn", word))??;
    }
    let sink = Sink::tcp(&site.remote, PORT)?;
    let before = (stack(tenant)?, stack(&site.remote)?, registers(site, 0)?);
    let until = Instant::now() + time;
    let threads: Vec<_> = (0..FLOWS)
        .map(|number| {
            let to: IpAddr = match number % 2 {
                0 => ipv4(REMOTE).parse()?,
                _ => ipv6(REMOTE).parse()?,
            };
            let send = move || traffic::cubic_send((to, PORT), until).map(drop);
            Ok(traffic::inside(tenant.open()?, send))
        })
        .collect::<Result<_>>()?;
    for thread in threads {
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
    }
    let received = sink.received();
    drop(sink);
    let after = (stack(tenant)?, stack(&site.remote)?, registers(site, 0)?);
    for name in [
        "TcpInCsumErrors",
        "TcpInErrs",
        "IpInHdrErrors",
        "Ip6InHdrErrors",
    ] {
        let wrong = gained(&before.1, &after.1, name);
        ensure!(wrong == 0, "{what}: {name} grew by {wrong} at the receiver");
    }
    let side = after.2.0.since(&before.2.0);
    let run = Run {
        retransmitted: gained(&before.0, &after.0, "TcpRetransSegs"),
        timeouts: gained(&before.0, &after.0, "TcpExtTCPTimeouts"),
        arrived_marked: gained(&before.1, &after.1, "IpExtInCEPkts")
            + gained(&before.1, &after.1, "Ip6InCEPkts"),
        marked: side.ecn.marked,
        not_marked: side.ecn.not_marked,
        dropped: side.dropped().packets,
    };
    println!(
        "ECN: {what}, tcp_ecn {}, {:.1} Mbit/s, {} retransmitted, {} timers ran out, {} dropped, {} marked, {} not",
        u8::from(ecn),
        received as f64 * 8.0 / time.as_secs_f64() / 1e6,
        run.retransmitted,
        run.timeouts,
        run.dropped,
        run.marked,
        run.not_marked
    );
    Ok(run)
}

fn both(site: &Site, what: &str) -> Result<u64> {
    let time = Duration::from_secs(by_level(3, 6, 20));
    let without = run(site, what, false, time)?;
    ensure!(
        without.marked == 0 && without.arrived_marked == 0 && without.not_marked > 0,
        "{what}: nobody listens: {without:?}"
    );
    let with = run(site, what, true, time)?;
    // GRO at the receiver may count several as one: fewer arrive than were marked, and not none.
    ensure!(
        with.marked > 0 && with.arrived_marked > 0 && with.arrived_marked <= with.marked,
        "{what}: {with:?}"
    );
    Ok(2)
}

fn site(limits: &'static str, host: &str, share: &str) -> Result<Site> {
    let spec = TenantSpec {
        name: "alice",
        offloads: true,
        limits,
    };
    let mut site = Site::new(&[spec])?;
    let config = site
        .config(host)
        .replacen("\nid = 1\n", &format!("\nid = 1\n{share}"), 1);
    site.write_config(&config)?;
    site.start(octroi())?;
    Ok(site)
}

#[test]
fn tcp_that_listens_is_told_and_no_checksum_breaks() -> Result<()> {
    const TEST: &str = "tcp_that_listens_is_told_and_no_checksum_breaks";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    const CEILING: &str = "from_tenant = { ceiling = \"50Mbit/s\" }";
    let share = format!("from_tenant = {{ ceiling = \"{CEILING_MBIT}Mbit/s\", weight = 1 }}\n");
    let mut runs = 0;
    for (what, limits, host, share) in [
        ("police", CEILING, "shape = \"police\"", ""),
        ("htb", CEILING, "shape = \"htb\"", ""),
        ("share", "", "shape = \"police\"", share.as_str()),
    ] {
        let site = match site(limits, host, share) {
            // A kernel without HTB says so when it is asked for.
            Err(error) if what == "htb" && format!("{error:#}").contains("htb") => {
                println!("SKIPPED: {TEST}: {what}: {error:#}");
                continue;
            }
            site => site.with_context(|| what.to_owned())?,
        };
        runs += both(&site, what)?;
    }
    println!("CASES: runs of TCP with and without ECN: {runs}");
    Ok(())
}
