//! What is inside and what follows: a tenant's overlays, whose inner conversations are judged, and packets in fragments,
//! each tied to its first. Through the loaded programs, in namespaces; what this kernel has no device for is in
//! `encryption_agree.rs` and `encryption_cheats.rs`, frame by frame.

#[path = "oracle/dice.rs"]
#[allow(dead_code, reason = "written for tests/parser.rs")]
mod dice;
#[path = "encryption/ends.rs"]
mod ends;
#[path = "encryption_cheats/fake.rs"]
mod fake;
#[path = "encryption_inside/fragments.rs"]
mod fragments;
#[path = "encryption/path.rs"]
#[allow(dead_code, reason = "written for tests/encryption_streams.rs")]
mod path;
#[path = "encryption_cheats/raw.rs"]
#[allow(dead_code, reason = "written for tests/encryption_cheats.rs")]
mod raw;
#[path = "encryption/sniffer.rs"]
mod sniffer;
mod support;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::reason::DropReason;
use dice::Dice;
use fake::{Server, connect};
use octroi::lab::{
    Namespace, Site,
    site::{INSIDE, REMOTE, UPLINK, ipv4},
    traffic::inside,
};
use sniffer::{CANARY, Sniffer};
use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    time::Duration,
};
use support::{alone, can_run, octroi, registers, tenant};

/// Tenants: under a rule that looks inside, under one that refuses overlays and fragments, without a rule, and a neighbour.
const LOOKS: usize = 0;
const REFUSES: usize = 1;
const FREE: usize = 2;
const NEIGHBOUR: usize = 3;

const RULES: &str = r#"
[[encryption_profile]]
name = "flat"
based_on = "anssi-2026"
overlays = "refuse"

[[encryption]]
tenant = "a"
mode = "enforce"
midstream = "drop"
fragments = "track"

[[encryption]]
tenant = "b"
mode = "enforce"
midstream = "drop"
profile = "flat"

[[encryption]]
tenant = "d"
mode = "enforce"
midstream = "drop"
"#;

fn site(test: &str) -> Result<Option<Site>> {
    if !can_run(test) {
        return Ok(None);
    }
    let mut site = Site::new(&["a", "b", "c", "d"].map(|name| tenant(name, true)))?;
    site.write_config(&(site.config("") + RULES))?;
    site.start(octroi())?;
    Ok(Some(site))
}

fn refused(site: &Site, tenant: usize) -> Result<u64> {
    let (from, to) = registers(site, tenant)?;
    let of = |side: &dataplane::registers::Direction| {
        side.dropped_for(DropReason::EncryptionPolicy).packets
    };
    Ok(of(&from) + of(&to))
}

/// Bytes of a class from the tenant.
fn class(site: &Site, tenant: usize, name: &str) -> Result<u64> {
    let (from, _) = registers(site, tenant)?;
    let mut classes = from.evidence.iter();
    let found = classes.find(|(class, _)| *class == name);
    Ok(found.map_or(0, |(_, counts)| counts.l2_bytes))
}

/// A kind of tunnel: what makes its device between two addresses.
const TUNNELS: [(&str, &str); 7] = [
    (
        "VXLAN",
        "vxlan id 7 local {near} remote {far} dstport 4789 dev eth0",
    ),
    ("Geneve", "geneve id 7 remote {far}"),
    ("GRE", "gre local {near} remote {far} key 7"),
    ("GRE, bridged", "gretap local {near} remote {far}"),
    ("IP in IP", "ipip local {near} remote {far}"),
    ("IPv6 in IPv4", "sit local {near} remote {far}"),
    (
        "VXLAN of another network",
        "vxlan id 8 local {near} remote {far} dstport 4789 dev eth0",
    ),
];

/// Makes both ends of a tunnel of `tenant`, in which it is 192.0.2.1 and the other end 192.0.2.2. False: this kernel has none.
fn tunnel(site: &Site, tenant: usize, device: &str) -> Result<bool> {
    let ends = [
        (&site.tenants[tenant], tenant + 1, REMOTE, 1),
        (&site.remote, REMOTE, tenant + 1, 2),
    ];
    for (namespace, near, far, number) in ends {
        let device = device
            .replace("{near}", &ipv4(near))
            .replace("{far}", &ipv4(far));
        if namespace
            .command(&format!("ip link add t0 type {device}"))
            .is_err()
        {
            return Ok(false);
        }
        let setup: &[String] = &[
            format!("ip addr add 192.0.2.{number}/24 dev t0"),
            format!("ip addr add fd78::{number}/64 dev t0 nodad"),
            "ip link set t0 up".into(),
        ];
        for line in setup {
            namespace.command(line)?;
        }
    }
    Ok(true)
}

fn remove(site: &Site, tenant: usize) {
    for namespace in [&site.tenants[tenant], &site.remote] {
        let _ = namespace.command("ip link del t0");
    }
}

const PORT: u16 = 4_433;

/// Who a tunnel's other end is.
fn other(device: &str) -> Result<SocketAddr> {
    let address = if device.starts_with("sit") {
        "fd78::2"
    } else {
        "192.0.2.2"
    };
    Ok(SocketAddr::new(address.parse()?, PORT))
}

/// Says `bytes` to `to` in clear; true when they arrive.
fn says(site: &Site, tenant: usize, to: SocketAddr, bytes: Vec<u8>) -> Result<bool> {
    let said = inside(site.tenants[tenant].open()?, move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
        stream.write_all(&bytes)?;
        std::thread::sleep(Duration::from_millis(250));
        Ok(())
    });
    Ok(said.join().is_ok_and(|said| said.is_ok()))
}

/// Frames with the canary that `tenant`'s clear text in a tunnel makes.
fn leaks(site: &Site, sniffer: &mut Sniffer, tenant: usize, to: SocketAddr) -> Result<u64> {
    says(site, tenant, to, CANARY.as_bytes().to_vec())?;
    Ok(sniffer.seen())
}

#[test]
fn the_conversation_inside_an_overlay_is_judged() -> Result<()> {
    const TEST: &str = "the_conversation_inside_an_overlay_is_judged";
    let _alone = alone();
    let Some(site) = site(TEST)? else {
        return Ok(());
    };
    // On all addresses, so also those that tunnels bring.
    let server = Server::start(&site.remote, PORT)?;
    let v6 = Server::start_at(&site.remote, "::", PORT)?;
    let mut sniffer = Sniffer::start(&site.host, UPLINK)?;
    let mut shown = 0;
    for (name, device) in TUNNELS {
        if !tunnel(&site, LOOKS, device)? {
            println!("SKIPPED: {TEST}: {name}: this kernel has no such device");
            remove(&site, LOOKS);
            continue;
        }
        let to = other(device)?;
        let heard = |bytes| {
            let server = if to.is_ipv4() { &server } else { &v6 };
            server.receives(bytes, Duration::from_secs(5))
        };
        let before = (
            server.received() + v6.received(),
            class(&site, LOOKS, "E3")?,
            refused(&site, LOOKS)?,
        );
        let base = if to.is_ipv4() {
            server.received()
        } else {
            v6.received()
        };
        let mut stream =
            connect(&site, LOOKS, to).with_context(|| format!("{name}: TLS is cut"))?;
        let mut sent = 0;
        for round in 0..60 {
            let record = [&[23, 3, 3, 0x20, 0][..], &Dice::new(1, round).bytes(0x2000)].concat();
            stream.write_all(&record)?;
            sent += record.len() as u64;
        }
        ensure!(
            heard(base + sent),
            "{name}: {sent} bytes of TLS do not arrive"
        );
        let checked = class(&site, LOOKS, "E3")? - before.1;
        ensure!(
            checked > sent,
            "{name}: {checked} bytes are E3, of {sent} said"
        );
        ensure!(
            refused(&site, LOOKS)? == before.2,
            "{name}: something of it is refused"
        );
        // Clear text behind it, and clear text alone.
        stream.write_all(&CANARY.repeat(40).into_bytes())?;
        std::thread::sleep(Duration::from_millis(200));
        let seen = leaks(&site, &mut sniffer, LOOKS, to)?;
        ensure!(seen == 0, "{name}: {seen} frames with the canary leave");
        ensure!(
            refused(&site, LOOKS)? > before.2,
            "{name}: nothing is refused"
        );
        drop(stream);
        remove(&site, LOOKS);

        // A rule that refuses overlays lets nothing of it through; without a rule the canary is seen.
        ensure!(tunnel(&site, REFUSES, device)?);
        let before = refused(&site, REFUSES)?;
        ensure!(
            connect(&site, REFUSES, to).is_err(),
            "{name}: a refused overlay passes"
        );
        ensure!(refused(&site, REFUSES)? > before && sniffer.seen() == 0);
        remove(&site, REFUSES);
        ensure!(tunnel(&site, FREE, device)?);
        let seen = leaks(&site, &mut sniffer, FREE, to)?;
        ensure!(
            seen > 0,
            "{name}: the sniffer sees nothing of who has no rule"
        );
        remove(&site, FREE);
        shown += 1;
    }
    println!(
        "CASES: kinds of tunnels looked into: {shown} of {}",
        TUNNELS.len()
    );
    ensure!(shown > 0, "no tunnel could be made");
    Ok(())
}

#[test]
fn a_packet_in_fragments_follows_its_first() -> Result<()> {
    let _alone = alone();
    match site("a_packet_in_fragments_follows_its_first")? {
        Some(site) => fragments::follow(&site),
        None => Ok(()),
    }
}

#[test]
fn no_fragment_carries_clear_text_out() -> Result<()> {
    let _alone = alone();
    match site("no_fragment_carries_clear_text_out")? {
        Some(site) => fragments::carry_nothing_out(&site),
        None => Ok(()),
    }
}

#[test]
fn a_flood_of_fragments_costs_its_tenant_alone() -> Result<()> {
    let _alone = alone();
    match site("a_flood_of_fragments_costs_its_tenant_alone")? {
        Some(site) => fragments::flood(&site),
        None => Ok(()),
    }
}

/// The interface of a tenant, by number.
fn interface(namespace: &Namespace) -> Result<u32> {
    let interfaces = namespace.interfaces()?;
    Ok(interfaces.get(INSIDE).context("no interface")?.index)
}
