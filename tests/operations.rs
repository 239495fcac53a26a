//! Nothing is lost by operations: kill -9, program replacements, revisions, interfaces that come, go
//! and take each other's index, hooks, and somebody who detaches our programs. Under traffic, against
//! counters that are not octroi's.

#[path = "support/load.rs"]
mod load;
mod support;

use anyhow::{Context as _, Result, ensure};
use dataplane::gate::PortState;
use dataplane_common::abi::ABI_VERSION;
use load::{Reading, Traffic, arrivals, compare};
use octroi::{
    daemon::control::Request,
    lab::{
        Site,
        site::{REMOTE, ipv4, ipv6, mac, mac_text},
        traffic::{self, Datagrams},
    },
};
use std::time::{Duration, Instant};
use support::{
    alone, between, by_level, can_run, octroi, pair, registers, running, settle, tenant,
};

fn read(site: &Site) -> Result<Reading> {
    load::read(site, &site.report()?)
}

const PAIR: [octroi::lab::TenantSpec; 2] = [tenant("alice", false), tenant("bob", false)];

#[test]
fn kill_9_and_program_replacements_lose_no_packet_and_no_byte() -> Result<()> {
    if !can_run("kill_9_and_program_replacements_lose_no_packet_and_no_byte") {
        return Ok(());
    }
    let _alone = alone();
    let mut site = running(&PAIR, "")?;
    let before = settle(|| read(&site))?;
    let traffic = Traffic::start(&site)?;
    let rounds = by_level(8, 100, 100);
    for _ in 0..rounds {
        // Each start loads the programs anew and puts them in the place of the old ones.
        site.kill()?;
        site.start(octroi())?;
    }
    let sent = traffic.stop()?;
    let after = settle(|| read(&site))?;
    ensure!(sent > 1_000_000, "only {sent} bytes of payload were sent");
    compare(&before, &after);
    ensure!(
        site.log().contains("adopted"),
        "the gate was made anew instead of adopted"
    );
    println!("CASES: kill -9 and program replacements under traffic: {rounds}");
    Ok(())
}

#[test]
fn policy_revisions_lose_no_packet_and_no_byte() -> Result<()> {
    if !can_run("policy_revisions_lose_no_packet_and_no_byte") {
        return Ok(());
    }
    let _alone = alone();
    let site = running(&PAIR, "")?;
    let before = settle(|| read(&site))?;
    let first = site.report()?.revision;
    let traffic = Traffic::start(&site)?;
    let revisions = by_level(40, 1_000, 1_000);
    let plain = site.config("");
    let other = format!(
        "{}\n[[zone]]\nname = \"elsewhere\"\ncidrs = [\"198.51.100.0/24\", \"2001:db8::/32\"]\n",
        plain
    );
    for number in 0..revisions {
        let config = if number % 2 == 0 { &other } else { &plain };
        site.ask(&Request::Apply {
            config: config.clone(),
        })?;
    }
    traffic.stop()?;
    let after = settle(|| read(&site))?;
    compare(&before, &after);
    assert_eq!(site.report()?.revision - first, revisions);
    println!("CASES: policy revisions under traffic: {revisions}");
    Ok(())
}

#[test]
fn an_interface_that_takes_anothers_index_is_closed_until_blessed_and_begins_at_zero() -> Result<()>
{
    const NAME: &str =
        "an_interface_that_takes_anothers_index_is_closed_until_blessed_and_begins_at_zero";
    if !can_run(NAME) {
        return Ok(());
    }
    let _alone = alone();
    let mut site = running(
        &[PAIR[0].clone(), PAIR[1].clone(), tenant("carol", false)],
        "",
    )?;
    let at_remote = traffic::udp_sink(&site.remote, 4000)?;
    let at_alice = traffic::udp_sink(&site.tenants[0], 4000)?;
    let sockets = [
        (&at_remote, ipv4(REMOTE).parse()?),
        (&at_alice, ipv4(1).parse()?),
    ];
    ensure!(
        arrivals(&site, 1, &sockets)? > 40,
        "bob's traffic passes at first"
    );

    let rounds = by_level(2, 5, 20);
    for round in 0..rounds {
        // The daemon is dead; bob's interface goes, and carol's takes its index.
        let index = site.host.interfaces()?.get("p-bob").context("p-bob")?.index;
        site.kill()?;
        site.host.command("ip link del p-bob")?;
        site.host.command("ip link del p-carol")?;
        site.connect_tenant_at(2, index)?;
        let carol = site
            .host
            .interfaces()?
            .get("p-carol")
            .context("p-carol")?
            .index;
        assert_eq!(carol, index, "round {round}: carol has bob's old index");
        assert_eq!(
            arrivals(&site, 2, &sockets)?,
            0,
            "not blessed: nothing leaves, nothing enters"
        );

        site.connect_tenant(1)?;
        site.start(octroi())?;
        let report = site.report()?;
        assert_eq!(octroi::status::blessed(&report), 3, "{}", site.log());
        let (from, to) = registers(&site, 2)?;
        let zero = pair(from.total()).0 + pair(to.total()).0;
        assert!(
            zero < 20,
            "carol begins at 0 and not with bob's counts, but has {zero} packets"
        );
        let bobs = report.ports.iter().filter(|port| port.tenant == 2);
        assert!(
            bobs.clone().any(|port| port.state == PortState::Retired),
            "bob's counts stay"
        );
        let before = settle(|| read(&site))?;
        ensure!(
            arrivals(&site, 2, &sockets)? > 40,
            "blessed: carol's traffic passes"
        );
        let after = settle(|| read(&site))?;
        let (inside, from) = (
            between(before.1[2], after.1[2]),
            after.0[2].0.since(&before.0[2].0),
        );
        assert_eq!(
            pair(from.total()),
            (inside[2], inside[3]),
            "carol, to the byte"
        );
    }
    println!("CASES: interfaces that take another's index: {rounds}");
    Ok(())
}

#[test]
fn an_interface_that_goes_and_comes_back_is_followed() -> Result<()> {
    if !can_run("an_interface_that_goes_and_comes_back_is_followed") {
        return Ok(());
    }
    let _alone = alone();
    let site = running(&PAIR, "")?;
    let rounds = by_level(3, 10, 50);
    for _ in 0..rounds {
        let old = registers_of(&site)?;
        site.host.command("ip link del p-bob")?;
        site.connect_tenant(1)?;
        wait(&site, |site| {
            Ok(registers_of(site)?.0 > old.0 && registers_of(site)?.1)
        })?;
        let before = settle(|| read(&site))?;
        site.tenants[1].run(|| {
            let how = Datagrams {
                size: 500,
                segment: None,
                gap: Duration::from_millis(1),
            };
            let to = (ipv4(REMOTE).parse()?, 7);
            traffic::udp_send(to, how, Instant::now() + Duration::from_millis(100))
        })??;
        let after = settle(|| read(&site))?;
        let inside = between(before.1[1], after.1[1]);
        // A guest that just came up also sends what the gate drops: its first words in IPv6.
        let since = after.0[1].0.since(&before.0[1].0);
        let (passed, dropped) = (since.total(), since.dropped());
        assert_eq!(
            (
                passed.packets + dropped.packets,
                passed.l2_bytes + dropped.l2_bytes
            ),
            (inside[2], inside[3])
        );
        assert!(passed.packets > 20);
    }
    println!("CASES: interfaces that go and come back: {rounds}");
    Ok(())
}

/// Incarnation of bob's newest port, and whether it is blessed.
fn registers_of(site: &Site) -> Result<(u64, bool)> {
    let ports = site.report()?.ports;
    let bob = ports
        .iter()
        .filter(|port| port.tenant == 2)
        .max_by_key(|port| port.incarnation);
    let bob = bob.context("bob has no port")?;
    Ok((bob.incarnation, bob.state == PortState::Blessed))
}

fn wait(site: &Site, done: impl Fn(&Site) -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !done(site)? {
        ensure!(
            begun.elapsed() < Duration::from_secs(10),
            "never happened:\n{}",
            site.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The body of a `[[port]]` for bob.
fn bobs_port(ceiling: &str) -> String {
    format!(
        "name = \"bob-hook\"\ntenant = \"bob\"\ninterface = \"p-bob\"\nmacs = [\"{}\"]\n\
         addresses = [\"{}\", \"{}\"]\n{ceiling}",
        mac_text(mac(2)),
        ipv4(2),
        ipv6(2)
    )
}

#[test]
fn a_port_that_a_hook_adds_is_closed_before_counted_after_and_survives_kill_9() -> Result<()> {
    const NAME: &str = "a_port_that_a_hook_adds_is_closed_before_counted_after_and_survives_kill_9";
    if !can_run(NAME) {
        return Ok(());
    }
    let _alone = alone();
    let mut site = Site::new(&PAIR)?;
    // The file has bob as a tenant, and not his port.
    let text = site.config("");
    let port = text
        .find("[[port]]\nname = \"bob-port\"")
        .context("bob's port")?;
    site.write_config(&text[..port])?;
    site.start(octroi())?;
    let at_remote = traffic::udp_sink(&site.remote, 4000)?;
    let at_alice = traffic::udp_sink(&site.tenants[0], 4000)?;
    let sockets = [
        (&at_remote, ipv4(REMOTE).parse()?),
        (&at_alice, ipv4(1).parse()?),
    ];
    assert_eq!(arrivals(&site, 1, &sockets)?, 0, "no port, no way");

    let answer = site.ask(&Request::PortAdd {
        port: bobs_port(""),
    })?;
    assert!(answer.contains("blessed"), "{answer}");
    assert!(
        arrivals(&site, 1, &sockets)? > 40,
        "the hook returned: the port is open"
    );
    site.ask(&Request::PortSet {
        port: bobs_port("from_tenant = { ceiling = \"50Mbit/s\" }"),
    })?;
    site.kill()?;
    site.start(octroi())?;
    assert!(
        arrivals(&site, 1, &sockets)? > 40,
        "a restart keeps what hooks added"
    );
    site.ask(&Request::PortRemove {
        name: "bob-hook".into(),
    })?;
    assert_eq!(arrivals(&site, 1, &sockets)?, 0, "removed: closed again");
    let wrong = site.ask(&Request::PortRemove {
        name: "alice-port".into(),
    });
    assert!(wrong.is_err(), "a port of the file is the file's to remove");
    println!("CASES: ports added, changed and removed by hooks: 1");
    Ok(())
}

#[test]
fn what_others_detach_is_put_back() -> Result<()> {
    if !can_run("what_others_detach_is_put_back") {
        return Ok(());
    }
    let _alone = alone();
    let site = running(&PAIR, "")?;
    if dataplane::attach::mechanism() != dataplane::attach::Mechanism::Tcx {
        site.host.command("tc qdisc del dev p-alice clsact")?;
    } else {
        let links = site.pin_dir().join(format!("v{ABI_VERSION}/links"));
        let index = site
            .host
            .interfaces()?
            .get("p-alice")
            .context("p-alice")?
            .index;
        for program in ["from_tenant", "to_tenant"] {
            let pin = links.join(format!("{index}-{program}"));
            site.host
                .command(&format!("bpftool link detach pinned {}", pin.display()))?;
        }
    }
    wait(
        &site,
        |site| Ok(site.log().matches("put back").count() >= 2),
    )?;
    let before = settle(|| read(&site))?;
    let traffic = Traffic::start(&site)?;
    std::thread::sleep(Duration::from_millis(300));
    traffic.stop()?;
    let after = settle(|| read(&site))?;
    compare(&before, &after);
    println!("CASES: programs detached by somebody and put back: 2");
    Ok(())
}
