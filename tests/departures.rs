//! Two tenants' ports on one uplink, on a kernel with fq: what is over a share waits in each direction in which every port that
//! shares has fq, and in none in which one port cannot have it. The real daemon; what is in force is read from the maps that
//! the programs read, and that packets waited from what fq counted of them.
//!
//! On a kernel without fq it is skipped: `cargo xtask test` runs it on Debian's 6.1 under QEMU, in virtual time.

mod support;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use dataplane::{maps::Raw, pins::Pins, shaping::abilities};
use dataplane_common::abi::{
    Epoch,
    share::{UplinkPolicy, uplink_index},
};
use octroi::lab::{
    Site,
    site::{REMOTE, UPLINK, ipv4},
    traffic::{self, Datagrams},
};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};
use support::{alone, can_run, octroi, tenant};

const UDP_PORT: u16 = 5_003;
/// What both share, and what each of them has of it at least.
const CAPACITY: &str = "10Mbit/s";
const GUARANTEE: &str = "3Mbit/s";
/// Two periods, of 32 full frames at such a rate, ns: no horizon is longer (decision 0057).
const HORIZON_MAX: u64 = 80_000_000;

fn can_wait(test: &str) -> bool {
    if let Err(reason) = &abilities().fq {
        println!("SKIPPED: {test}: {reason}");
        return false;
    }
    can_run(test)
}

/// Two tenants that share the uplink, with no queue but octroi's own.
fn site() -> Result<Site> {
    let mut site = Site::new(&[tenant("a", true), tenant("b", true)])?;
    for device in [UPLINK.to_owned(), site.port(0), site.port(1)] {
        site.host
            .command(&format!("tc qdisc del dev {device} root"))?;
    }
    let mut text = site.config("shape = \"auto\"").replace(
        "capacity = \"10Gbit/s\"",
        &format!("capacity = \"{CAPACITY}\""),
    );
    for id in ["\nid = 1\n", "\nid = 2\n"] {
        let share = format!("{{ guarantee = \"{GUARANTEE}\" }}");
        let keys = format!("{id}from_tenant = {share}\nto_tenant = {share}\n");
        ensure!(text.contains(id), "no {id:?} in:\n{text}");
        text = text.replacen(id, &keys, 1);
    }
    site.write_config(&text)?;
    site.start(octroi())?;
    Ok(site)
}

/// How long a packet over a share may wait, from tenants and to them, ns, as the set of policy in force has it.
fn horizons(site: &Site) -> Result<[u64; 2]> {
    let pin = |name: &str| {
        let path = Pins::new(&site.pin_dir()).root().join("maps").join(name);
        Ok::<_, anyhow::Error>(Map::from_map_data(MapData::from_pin(path)?)?)
    };
    let epoch: Array<MapData, u64> = pin("EPOCH")?.try_into()?;
    let uplinks: Array<MapData, Raw<UplinkPolicy>> = pin("UPLINKS")?.try_into()?;
    let set = Epoch(epoch.get(&0, 0)?).policy_set();
    let of = |direction| -> Result<UplinkPolicy> {
        Ok(uplinks.get(&uplink_index(set, 0, direction), 0)?.0)
    };
    let found = [of(0)?, of(1)?];
    // Without a rate nobody shares it, and no horizon would mean nothing.
    ensure!(found.iter().all(|uplink| uplink.rate > 0), "{found:?}");
    Ok(found.map(|uplink| uplink.horizon_ns))
}

/// Waits until packets wait in these directions alone, 20 s at most; returns the horizons.
fn wait_until_waiting(site: &Site, what: &str, wanted: [bool; 2]) -> Result<[u64; 2]> {
    let begun = Instant::now();
    loop {
        let found = horizons(site)?;
        if found.map(|horizon| horizon > 0) == wanted {
            println!("DEPARTURES: {what}: horizons {found:?} ns");
            return Ok(found);
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(20),
            "{what}: {found:?} ns, and should wait: {wanted:?}\n{}",
            site.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What `octroi status` says of both ports, by direction.
fn shapes(site: &Site) -> Result<Vec<[String; 2]>> {
    let ports = site.report()?.ports.into_iter();
    Ok(ports
        .map(|port| port.shape.map(|in_force| in_force.shape))
        .collect())
}

/// Packets that an interface's fq has held back until their time.
fn throttled(site: &Site, device: &str) -> Result<u64> {
    let shown = site
        .host
        .command(&format!("tc -s qdisc show dev {device} root"))?;
    let words: Vec<&str> = shown.split_whitespace().collect();
    // `throttled N`, but not the flows that are it now: `throttled N)`. Left out where it is 0.
    let mut pairs = words.windows(2).filter(|pair| pair[0] == "throttled");
    Ok(pairs.find_map(|pair| pair[1].parse().ok()).unwrap_or(0))
}

/// Tenant `a` sends, or is sent, twenty datagrams at once each 5 ms, for half a second: more than the link has.
fn flood(site: &Site, from_tenant: bool) -> Result<()> {
    let (from, towards, to) = if from_tenant {
        (&site.tenants[0], &site.remote, REMOTE)
    } else {
        (&site.remote, &site.tenants[0], 1)
    };
    let _sink = traffic::UdpSink::start(towards, UDP_PORT)?;
    let to: IpAddr = ipv4(to).parse()?;
    let how = Datagrams {
        size: 20_000,
        segment: Some(1_000),
        gap: Duration::from_millis(5),
    };
    let until = Instant::now() + Duration::from_millis(500);
    let sent = from.run(|| traffic::udp_send((to, UDP_PORT), how, until))??;
    ensure!(sent > 0);
    Ok(())
}

#[test]
fn two_ports_of_an_uplink_wait_and_none_where_one_cannot() -> Result<()> {
    if !can_wait("two_ports_of_an_uplink_wait_and_none_where_one_cannot") {
        return Ok(());
    }
    let _alone = alone();
    let site = site()?;
    let both = wait_until_waiting(&site, "both ports have fq", [true, true])?;
    ensure!(
        both.iter().all(|horizon| *horizon <= HORIZON_MAX),
        "{both:?}"
    );
    let shown = shapes(&site)?;
    ensure!(
        shown.len() == 2 && shown.iter().flatten().all(|shape| shape == "edt"),
        "{shown:?}"
    );
    let mut cases = 1;
    for (device, from_tenant) in [(UPLINK.to_owned(), true), (site.port(0), false)] {
        let before = throttled(&site, &device)?;
        flood(&site, from_tenant)?;
        let waited = throttled(&site, &device)? - before;
        println!("DEPARTURES: {waited} packets waited at {device}");
        ensure!(waited > 0, "nothing waited at {device}");
        cases += 1;
    }

    // Somebody's own queue at one port: nothing that goes to tenants waits, to neither of them; what comes from them does.
    let (a, b) = (site.port(0), site.port(1));
    let foreign = |device: &str| {
        site.host.command(&format!(
            "tc qdisc replace dev {device} root handle 7: prio"
        ))
    };
    let own = |device: &str| {
        site.host
            .command(&format!("tc qdisc del dev {device} root handle 7:"))
    };
    foreign(&b)?;
    wait_until_waiting(&site, "one port has a queue of somebody's", [true, false])?;
    own(&b)?;
    let again = wait_until_waiting(&site, "and has fq again", [true, true])?;
    ensure!(again == both, "{again:?}");
    // At the uplink: nothing that comes from tenants waits.
    foreign(UPLINK)?;
    wait_until_waiting(&site, "the uplink has a queue of somebody's", [false, true])?;
    own(UPLINK)?;
    wait_until_waiting(&site, "and has fq again", [true, true])?;
    cases += 4;

    // A port that goes, and comes again without fq.
    site.host.command(&format!("ip link del {a}"))?;
    site.connect_tenant(0).context("the port's link")?;
    wait_until_waiting(
        &site,
        "a port comes that has a queue already",
        [true, false],
    )?;
    site.host.command(&format!("tc qdisc del dev {a} root"))?;
    wait_until_waiting(&site, "and has none any more", [true, true])?;
    cases += 2;
    println!("CASES: ports of an uplink that wait, or cannot: {cases}");
    Ok(())
}
