//! What drivers make of XDP: another program for long frames, and none at all.

use crate::{
    Flooded, config, ended, is_slow,
    support::{alone, by_level, registers},
    tcp_to,
};
use anyhow::{Context as _, Result, ensure};
use octroi::{
    daemon::control::Request,
    lab::{
        command,
        site::{UPLINK, ipv4, ipv6},
        traffic::{self, Datagrams},
    },
};
use std::time::{Duration, Instant};

/// A driver takes another program for frames that are longer than a page; a veth then hands GSO packets over whole.
#[test]
fn with_jumbo_frames_gso_packets_pass_and_floods_end() -> Result<()> {
    const TEST: &str = "with_jumbo_frames_gso_packets_pass_and_floods_end";
    let _alone = alone();
    let limits = "to_tenant = { ceiling = \"1Mbit/s\" }";
    let Some(flooded) = Flooded::with_mtu(TEST, limits, 9_000)? else {
        return Ok(());
    };
    let site = &flooded.site;
    let link = site
        .host
        .command(&format!("ip -details link show {UPLINK}"))?;
    ensure!(link.contains("name uplink_frags"), "{link}");
    let before = (flooded.to_alice()?, registers(site, 1)?.1);
    for to in [ipv4(2), ipv6(2)] {
        let got = tcp_to(site, (1, to.parse()?), 2, Duration::from_secs(1))?;
        ensure!(got > 100_000, "{got} bytes of TCP to {to}");
    }
    let sink = traffic::UdpSink::start(&site.tenants[1], 5_001)?;
    let how = Datagrams {
        size: 14_000,
        segment: Some(1_400),
        gap: Duration::from_millis(5),
    };
    for to in [ipv4(2), ipv6(2)] {
        let (to, until) = (
            (to.parse()?, 5_001),
            Instant::now() + Duration::from_millis(300),
        );
        let sent = site
            .remote
            .run(move || traffic::udp_send(to, how, until))??;
        ensure!(sent > 0, "nothing was sent");
    }
    std::thread::sleep(Duration::from_millis(200));
    ensure!(sink.received().0 > 100, "{:?} datagrams", sink.received());
    let (sent, took) = flooded.flood(Duration::from_millis(by_level(500, 1_000, 5_000)))?;
    if is_slow(TEST, (sent, took)) {
        return Ok(());
    }
    let alice = flooded.to_alice()?.since(&before.0);
    ensure!(
        ended(&alice).0 > sent / 2,
        "{:?} of {sent} frames ended",
        ended(&alice)
    );
    let bob = registers(site, 1)?.1.since(&before.1);
    ensure!(
        ended(&bob) == (0, 0),
        "{:?} of a neighbour's ended",
        ended(&bob)
    );
    let wrong: Vec<_> = bob
        .drops
        .iter()
        .filter(|(reason, _)| reason != "ceiling_bytes")
        .collect();
    ensure!(
        wrong.is_empty(),
        "a neighbour's packets are dropped: {wrong:?}"
    );
    println!("CASES: kinds of packets by an uplink with jumbo frames: 5");
    Ok(())
}

#[test]
fn a_driver_without_native_xdp_is_told_and_the_port_refuses_the_flood() -> Result<()> {
    const TEST: &str = "a_driver_without_native_xdp_is_told_and_the_port_refuses_the_flood";
    let _alone = alone();
    let limits = "to_tenant = { ceiling = \"1Mbit/s\" }";
    let Some(flooded) = Flooded::new(TEST, limits)? else {
        return Ok(());
    };
    let site = &flooded.site;
    site.host
        .command("ip link add mv type veth peer name mvx")?;
    if let Err(error) = site.host.command("ip link add mv0 link mv type macvlan") {
        println!("SKIPPED: {TEST}: no macvlan here: {error:#}");
        return Ok(());
    }
    // The uplink that can is not asked any more; one that cannot is.
    let config =
        config(site, &flooded.ledger, false) + "\n[[uplink]]\ninterface = \"mv0\"\nxdp = true\n";
    site.write_config(&config)?;
    site.ask(&Request::Apply { config })?;
    let modes: Vec<(String, String)> = site
        .report()?
        .uplinks
        .into_iter()
        .map(|uplink| (uplink.interface, uplink.xdp))
        .collect();
    let mode = |name: &str| {
        let found = modes.iter().find(|(interface, _)| interface == name);
        found
            .map(|(_, mode)| mode.as_str())
            .context("no such uplink")
    };
    ensure!(
        (mode(UPLINK)?, mode("mv0")?) == ("off", "refused"),
        "{modes:?}\n{}",
        site.log()
    );
    let interfaces = site.host.interfaces()?;
    ensure!(
        interfaces.values().all(|one| one.xdp == 0),
        "a program in generic mode"
    );
    let said = |what: &str| {
        command(&format!(
            "{} {what} --run-dir {}",
            crate::octroi().display(),
            site.run_dir().display()
        ))
    };
    let (status, metrics) = (said("status")?, said("metrics")?);
    ensure!(status.contains("XDP REFUSED"), "{status}");
    ensure!(
        metrics.contains("octroi_uplink_xdp{interface=\"mv0\"} 0"),
        "{metrics}"
    );
    let before = flooded.to_alice()?;
    let flood = flooded.flood(Duration::from_millis(300))?;
    if is_slow(TEST, flood) {
        return Ok(());
    }
    let to = flooded.to_alice()?.since(&before);
    ensure!(
        ended(&to) == (0, 0) && to.dropped().packets > 0,
        "{:?} ended, {:?} dropped",
        ended(&to),
        to.dropped()
    );
    println!("CASES: drivers without native XDP: 1");
    Ok(())
}
