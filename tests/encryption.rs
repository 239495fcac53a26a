//! The encryption policy on real clients and servers, through the loaded programs: what the rule allows passes, what it
//! does not never reaches the uplink, and the daemon's absence changes nothing.

#[path = "encryption/records.rs"]
mod records;
#[path = "encryption/sniffer.rs"]
mod sniffer;
mod support;

use anyhow::{Context as _, Result, ensure};
use dataplane::registers::Direction;
use octroi::lab::{
    Site,
    ends::{self, PAGE, ask_in_clear, clear_server, s_client, s_server},
    site::{REMOTE, UPLINK, ipv4},
    traffic::inside,
};
use sniffer::{CANARY, Sniffer};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use support::{alone, can_run, octroi, registers, tenant};

/// A rule for the first tenant; the second has none.
const ENFORCE: &str = "\n[[encryption]]\ntenant = \"a\"\nmode = \"enforce\"\nprofile = \"anssi-2026\"\n\
                       starttls_ports = [\"2525\"]\nmidstream = \"drop\"\n";

fn site(rule: &str) -> Result<Site> {
    let mut site = Site::new(&[tenant("a", true), tenant("b", true)])?;
    site.write_config(&(site.config("") + rule))?;
    site.start(octroi())?;
    Ok(site)
}

fn remote() -> Result<IpAddr> {
    Ok(ipv4(REMOTE).parse()?)
}

/// True when OpenSSL is here; else says that `test` is skipped.
fn openssl(test: &str) -> bool {
    let found = ends::openssl();
    if !found {
        println!("SKIPPED: {test}: there is no openssl");
    }
    found
}

fn class(direction: &Direction, name: &str) -> (u64, u64) {
    let mut classes = direction.evidence.iter();
    let found = classes.find(|(class, _)| class == name);
    found.map_or((0, 0), |(_, counts)| (counts.packets, counts.l2_bytes))
}

/// All classes of a port together are what it was delivered.
fn adds_up(site: &Site, index: usize) -> Result<()> {
    let (from, to) = registers(site, index)?;
    for direction in [from, to] {
        let sum: u64 = direction.evidence.iter().map(|one| one.1.l2_bytes).sum();
        ensure!(
            sum == direction.total().l2_bytes,
            "classes have {sum} bytes, the port {}",
            direction.total().l2_bytes
        );
    }
    Ok(())
}

#[test]
fn tls_passes_and_clear_text_never_reaches_the_uplink() -> Result<()> {
    let _alone = alone();
    if !can_run("encryption") || !openssl("encryption") {
        return Ok(());
    }
    let site = site(ENFORCE)?;
    let mut sniffer = Sniffer::start(&site.host, UPLINK)?;
    let _tls = s_server(&site, 4433, &["-tls1_2", "-tls1_3"])?;
    let _clear = clear_server(&site.remote, 8080)?;

    for version in ["-tls1_2", "-tls1_3"] {
        let said = s_client(&site, 0, 4433, &[version])?;
        ensure!(
            said.contains(PAGE),
            "{version} does not pass:\n{said}\n{}",
            site.log()
        );
    }
    let (from, to) = registers(&site, 0)?;
    ensure!(
        class(&from, "E3").1 > 0 && class(&to, "E3").1 > 0,
        "{from:?} {to:?}"
    );
    ensure!(
        from.dropped().packets == 0 && to.dropped().packets == 0,
        "{from:?} {to:?}"
    );

    // Clear text: to a port of TLS, to one of HTTP, and over UDP.
    for port in [4433, 8080] {
        let answer = ask_in_clear(&site, 0, port, CANARY.as_bytes())?;
        ensure!(answer.is_empty(), "clear text was answered: {answer:?}");
    }
    let to = SocketAddr::new(remote()?, 9_999);
    inside(site.tenants[0].open()?, move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for _ in 0..20 {
            socket.send_to(CANARY.as_bytes(), to)?;
        }
        Ok(())
    })
    .join()
    .map_err(|_| anyhow::anyhow!("panicked"))??;
    let (from, _) = registers(&site, 0)?;
    ensure!(
        from.dropped_for(dataplane_common::reason::DropReason::EncryptionPolicy)
            .packets
            >= 22,
        "{from:?}"
    );
    ensure!(
        sniffer.seen() == 0,
        "a clear payload of a tenant under enforce reached the uplink"
    );

    // The neighbour has no rule, and the sniffer works.
    let answer = ask_in_clear(&site, 1, 8080, CANARY.as_bytes())?;
    ensure!(!answer.is_empty(), "the neighbour without a rule is cut");
    ensure!(sniffer.seen() > 0, "the sniffer saw nothing of what passes");
    adds_up(&site, 0)
}

#[test]
fn a_version_below_the_rule_is_cut_at_the_hello_of_the_server() -> Result<()> {
    let _alone = alone();
    if !can_run("encryption_versions") || !openssl("encryption_versions") {
        return Ok(());
    }
    let site = site(ENFORCE)?;
    let old = ["-tls1", "-cipher", "ALL:@SECLEVEL=0"];
    let _tls = s_server(&site, 4434, &old)?;
    let said = s_client(&site, 0, 4434, &old)?;
    ensure!(!said.contains(PAGE), "TLS 1.0 passes:\n{said}");
    let (_, to) = registers(&site, 0)?;
    ensure!(
        to.dropped_for(dataplane_common::reason::DropReason::EncryptionPolicy)
            .packets
            > 0,
        "{to:?}"
    );
    // The same client and server, for who has no rule: it is the policy that cut it.
    let said = s_client(&site, 1, 4434, &old)?;
    ensure!(said.contains(PAGE), "TLS 1.0 does not work here:\n{said}");

    // A suite that is not in the profile: TLS 1.2 with CBC.
    let cbc = ["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256"];
    let _tls = s_server(&site, 4435, &cbc)?;
    let said = s_client(&site, 0, 4435, &cbc)?;
    ensure!(
        !said.contains(PAGE),
        "a suite that is not listed passes:\n{said}"
    );
    let said = s_client(&site, 1, 4435, &cbc)?;
    ensure!(said.contains(PAGE), "the suite does not work here:\n{said}");
    adds_up(&site, 0)
}

#[test]
fn a_clear_prefix_passes_where_the_rule_says_so_and_no_further() -> Result<()> {
    let _alone = alone();
    if !can_run("encryption_starttls") {
        return Ok(());
    }
    let site = site(ENFORCE)?;
    let _smtp = clear_server(&site.remote, 2525)?;
    let answer = ask_in_clear(&site, 0, 2525, b"EHLO tenant.example\r\n")?;
    ensure!(!answer.is_empty(), "the prefix is cut");
    let long: &'static [u8] = Box::leak(vec![b'x'; 4_000].into_boxed_slice());
    let answer = ask_in_clear(&site, 0, 2525, long)?;
    ensure!(
        answer.is_empty(),
        "4,000 clear bytes pass as a prefix of 2,048"
    );
    Ok(())
}

#[test]
fn observing_drops_nothing_and_counts_what_would_be() -> Result<()> {
    let _alone = alone();
    if !can_run("encryption_observe") {
        return Ok(());
    }
    let site = site(&ENFORCE.replace("enforce", "observe"))?;
    let _clear = clear_server(&site.remote, 8080)?;
    let answer = ask_in_clear(&site, 0, 8080, CANARY.as_bytes())?;
    ensure!(!answer.is_empty(), "observe drops");
    let (from, to) = registers(&site, 0)?;
    ensure!(
        class(&from, "would_drop").0 > 0 && class(&to, "would_drop").0 > 0,
        "{from:?} {to:?}"
    );
    ensure!(
        from.dropped().packets == 0 && to.dropped().packets == 0,
        "{from:?} {to:?}"
    );
    adds_up(&site, 0)
}

#[test]
fn the_policy_holds_while_the_daemon_is_dead_and_changes() -> Result<()> {
    let _alone = alone();
    if !can_run("encryption_death") || !openssl("encryption_death") {
        return Ok(());
    }
    let mut site = site(ENFORCE)?;
    let mut sniffer = Sniffer::start(&site.host, UPLINK)?;
    let _tls = s_server(&site, 4433, &["-tls1_3"])?;
    let _clear = clear_server(&site.remote, 8080)?;
    site.kill()?;
    let answer = ask_in_clear(&site, 0, 8080, CANARY.as_bytes())?;
    ensure!(answer.is_empty(), "clear text passes without a daemon");
    let said = s_client(&site, 0, 4433, &["-tls1_3"])?;
    ensure!(
        said.contains(PAGE),
        "TLS does not pass without a daemon:\n{said}"
    );
    site.start(octroi())?;
    let answer = ask_in_clear(&site, 0, 8080, CANARY.as_bytes())?;
    ensure!(answer.is_empty(), "clear text passes after a restart");
    // Revisions that have nothing to do with it, while the tenant tries.
    for round in 0..10 {
        site.ask(&octroi::daemon::control::Request::Apply {
            config: site.config("") + ENFORCE,
        })
        .context("apply")?;
        let answer = ask_in_clear(&site, 0, 8080, CANARY.as_bytes())?;
        ensure!(
            answer.is_empty(),
            "clear text passes after revision {round}"
        );
    }
    ensure!(sniffer.seen() == 0, "a clear payload reached the uplink");
    Ok(())
}
