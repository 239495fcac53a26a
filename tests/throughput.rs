//! TCP through a port with the whole gate on, against the same port without a program: in turns, in
//! one run, because the machine's own speed changes from minute to minute.
//!
//! `THROUGHPUT: skbs with_mbit without_mbit percent`
//!
//! With `OCTROI_ACCEPT=1` the median of five is held against the target, 97 %, for a guest with TSO.
//! Without it every 1,514 bytes go through the programs alone: that is printed, and has no target.

mod support;

use anyhow::{Context as _, Result, ensure};
use octroi::lab::{
    Site, TenantSpec,
    site::{REMOTE, UPLINK, ipv4},
    traffic::{self, Sink},
};
use std::time::{Duration, Instant};
use support::{Level, alone, can_run, level, octroi, registers, running};

const PORT: u16 = 5_001;
const TARGET_PERCENT: f64 = 97.0;

/// Every stage has its work, and no limit is reached.
const LIMITS: &str = "from_tenant = { ceiling = \"400Gbit/s\", packet_rate = \"100Mpps\" }\n\
                      to_tenant = { ceiling = \"400Gbit/s\", packet_rate = \"100Mpps\" }";

fn accepting() -> bool {
    std::env::var_os("OCTROI_ACCEPT").is_some_and(|value| value != "0")
}

/// Mbit/s of TCP payload from the tenant to the remote end.
fn rate(site: &Site, sink: &Sink, time: Duration) -> Result<f64> {
    let to = (ipv4(REMOTE).parse().context("address")?, PORT);
    let (before, begun) = (sink.received(), Instant::now());
    traffic::inside(site.tenants[0].open()?, move || {
        traffic::tcp_send(to, 1 << 17, begun + time)
    })
    .join()
    .map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    let seconds = begun.elapsed().as_secs_f64();
    Ok((sink.received() - before) as f64 * 8e-6 / seconds)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(offloads: bool, runs: usize, time: Duration) -> Result<f64> {
    let spec = TenantSpec {
        limits: LIMITS,
        ..support::tenant("alice", offloads)
    };
    let mut site = running(&[spec], "shape = \"police\"")?;
    // Cutting in software costs more than all of the gate, and would hide it.
    site.host.command(&format!(
        "ethtool -K {UPLINK} tso on gso on tx-udp-segmentation on"
    ))?;
    // The site's uplink has 2 Gbit/s.
    site.host
        .command(&format!("tc qdisc del dev {UPLINK} root"))?;
    let sink = Sink::tcp(&site.remote, PORT)?;
    rate(&site, &sink, time / 4)?;
    let (mut with, mut without, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let before = registers(&site, 0)?.0.total().l2_bytes;
        with.push(rate(&site, &sink, time)?);
        let metered = registers(&site, 0)?.0.total().l2_bytes - before;
        ensure!(metered > 0, "nothing went through the gate");
        site.stop();
        without.push(rate(&site, &sink, time)?);
        site.start(octroi())?;
        ratios.push(with[with.len() - 1] / without[without.len() - 1]);
    }
    let percent = 100.0 * median(ratios);
    let skbs = if offloads {
        "of_64_kB"
    } else {
        "of_1514_bytes"
    };
    println!(
        "THROUGHPUT: {skbs} {:.0} {:.0} {percent:.1}",
        median(with),
        median(without)
    );
    Ok(percent)
}

#[test]
fn tcp_through_the_gate_against_tcp_without() -> Result<()> {
    const TEST: &str = "tcp_through_the_gate_against_tcp_without";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let (runs, time) = match level() {
        _ if accepting() => (5, Duration::from_secs(4)),
        Level::Long => (5, Duration::from_secs(4)),
        Level::Normal | Level::Quick => (1, Duration::from_millis(500)),
    };
    for offloads in [true, false] {
        let percent = compare(offloads, runs, time)?;
        if accepting() && offloads {
            ensure!(
                percent >= TARGET_PERCENT,
                "{percent:.1} % of what goes without the gate"
            );
        }
    }
    Ok(())
}
