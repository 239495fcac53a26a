//! The uplink's guard: overlays that the host's own devices build do not leave in clear where the configuration says so;
//! what else leaves is untouched. Real devices in namespaces, and a sniffer on the uplink that looks for a canary.

#[path = "encryption/sniffer.rs"]
mod sniffer;
mod support;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::reason::DropReason;
use octroi::{
    daemon::control::Request,
    lab::{
        Namespace, Site,
        site::{INSIDE, REMOTE, UPLINK, ipv4, mac, mac_text},
    },
};
use sniffer::{CANARY, Sniffer};
use std::net::{SocketAddr, UdpSocket};
use support::{alone, can_run, octroi, tenant};

/// Somebody at the other end of an overlay, whom the tenant knows by these.
const FAR: &str = "10.77.0.60";
const FAR_MAC: &str = "02:0c:70:00:00:60";

/// A device that carries frames, whose port on the bridge leads to [`FAR`].
const FRAMES: [(&str, &str); 5] = [
    (
        "VXLAN",
        "vxlan id 7 local 203.0.113.1 remote 203.0.113.2 dstport 4789",
    ),
    (
        "VXLAN, Linux's own port",
        "vxlan id 7 local 203.0.113.1 remote 203.0.113.2 dstport 8472",
    ),
    (
        "VXLAN over IPv6",
        "vxlan id 7 local fd99::1 remote fd99::2 dstport 4789",
    ),
    ("Geneve", "geneve id 7 remote 203.0.113.2"),
    (
        "GRE, bridged",
        "gretap local 203.0.113.1 remote 203.0.113.2 key 7",
    ),
];
/// One that carries packets: the host itself sends by it.
const PACKETS: [(&str, &str); 3] = [
    ("GRE", "gre local 203.0.113.1 remote 203.0.113.2 key 7"),
    ("IP in IP", "ipip local 203.0.113.1 remote 203.0.113.2"),
    ("IPv6 in IPv4", "sit local 203.0.113.1 remote 203.0.113.2"),
];

struct Host {
    site: Site,
    sniffer: Sniffer,
}

impl Host {
    fn new(test: &str) -> Result<Option<Self>> {
        if !can_run(test) {
            return Ok(None);
        }
        let mut site = Site::new(&[tenant("a", false)])?;
        site.host
            .run(|| std::fs::write("/proc/sys/net/ipv6/conf/br0/disable_ipv6", "0"))??;
        // The tenant lets its packets be cut: what does not fit outside is cut there.
        site.tenants[0].run(|| std::fs::write("/proc/sys/net/ipv4/ip_no_pmtu_disc", "1"))??;
        for line in [
            // One that does not change with the ports: neighbours are forgotten with it, permanent ones too.
            "ip link set br0 address 02:0c:70:00:00:fe",
            // An underlay of the host's own, by the bridge that the uplink is on.
            "ip addr add 203.0.113.1/24 dev br0",
            "ip addr add fd99::1/64 dev br0 nodad",
            &format!(
                "ip neigh replace 203.0.113.2 lladdr {} dev br0",
                mac_text(mac(REMOTE))
            ),
            &format!(
                "ip neigh replace fd99::2 lladdr {} dev br0",
                mac_text(mac(REMOTE))
            ),
        ] {
            site.host.command(line)?;
        }
        site.tenants[0].command(&format!(
            "ip neigh replace {FAR} lladdr {FAR_MAC} dev {INSIDE}"
        ))?;
        site.write_config(&config(&site, "allow"))?;
        site.start(octroi())?;
        let sniffer = Sniffer::start(&site.host, UPLINK)?;
        Ok(Some(Self { site, sniffer }))
    }

    fn ask(&self, clear_overlays: &str) -> Result<()> {
        let config = config(&self.site, clear_overlays);
        self.site.write_config(&config)?;
        self.site.ask(&Request::Apply { config }).map(drop)
    }

    /// What the guard dropped for its reason, and what it would have.
    fn counted(&self) -> Result<(u64, u64)> {
        let report = self.site.report()?;
        let uplinks = report.uplinks.iter();
        let mut uplinks = uplinks.filter(|uplink| uplink.interface == UPLINK);
        let leaving = &uplinks.next().context("no uplink")?.leaving;
        let would = leaving.evidence.iter();
        let would = would.filter(|(class, _)| class == "would_drop");
        Ok((
            leaving.dropped_for(DropReason::ClearOverlay).packets,
            would.map(|(_, counts)| counts.packets).sum(),
        ))
    }

    /// Makes the device; false: this kernel has none.
    fn device(&self, device: &str, frames: bool) -> Result<bool> {
        let host = &self.site.host;
        if host
            .command(&format!("ip link add ov0 type {device}"))
            .is_err()
        {
            return Ok(false);
        }
        if frames {
            for line in [
                // So that packets of the tenant that fill its link are cut outside.
                "ip link set ov0 mtu 1500 master br0 up",
                "bridge link set dev ov0 learning off flood off",
                &format!("bridge fdb replace {FAR_MAC} dev ov0 master static"),
            ] {
                host.command(line)?;
            }
        } else {
            host.command("ip addr add 192.0.2.1/24 dev ov0")?;
            host.command("ip link set ov0 up")?;
            host.run(|| std::fs::write("/proc/sys/net/ipv6/conf/ov0/disable_ipv6", "0"))??;
            // Devices of IPv4 alone have no use for it.
            let _ = host.command("ip -6 addr add fd78::1/64 dev ov0 nodad");
        }
        Ok(true)
    }
}

/// Sends the canary behind `before` bytes of nothing, three times; how many frames with it leave by the uplink, or come
/// back in an answer.
fn leaves(sniffer: &mut Sniffer, from: &Namespace, to: &str, before: usize) -> Result<u64> {
    let to: SocketAddr = to.parse()?;
    let payload = [vec![0xA5; before], CANARY.as_bytes().to_vec()].concat();
    from.run(move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        for _ in 0..3 {
            // A path that is closed is what is asked for at times.
            let _ = socket.send_to(&payload, to);
        }
        anyhow::Ok(())
    })??;
    Ok(sniffer.seen())
}

fn config(site: &Site, clear_overlays: &str) -> String {
    let uplink = format!("[[uplink]]\ninterface = \"{UPLINK}\"\n");
    let asked = format!("{uplink}clear_overlays = \"{clear_overlays}\"\n");
    site.config("trusted_interfaces = [\"ov0\"]")
        .replacen(&uplink, &asked, 1)
}

#[test]
fn an_overlay_of_the_host_leaves_in_clear_only_where_it_may() -> Result<()> {
    const TEST: &str = "an_overlay_of_the_host_leaves_in_clear_only_where_it_may";
    let _alone = alone();
    let Some(mut host) = Host::new(TEST)? else {
        return Ok(());
    };
    let tunnels = FRAMES.iter().map(|one| (one, true));
    let tunnels = tunnels.chain(PACKETS.iter().map(|one| (one, false)));
    let mut shown = 0;
    for ((name, device), frames) in tunnels {
        if !host.device(device, frames)? {
            println!("SKIPPED: {TEST}: {name}: this kernel has no such device");
            continue;
        }
        let to = match (frames, *name) {
            (true, _) => format!("{FAR}:9"),
            (false, "IPv6 in IPv4") => "[fd78::2]:9".into(),
            (false, _) => "192.0.2.2:9".into(),
        };
        // What these carry may be cut outside; the others ask the tenant to send less.
        let cuts = frames && !name.contains("IPv6") && !name.contains("GRE");
        for mode in ["allow", "count", "drop"] {
            host.ask(mode)?;
            let before = host.counted()?;
            let sender = match frames {
                true => &host.site.tenants[0],
                false => &host.site.host,
            };
            let small = leaves(&mut host.sniffer, sender, &to, 0)?;
            // The canary is in the second fragment.
            let large = match cuts {
                true => leaves(&mut host.sniffer, sender, &to, 1_419)?,
                false => 0,
            };
            let after = host.counted()?;
            let (dropped, would) = (after.0 - before.0, after.1 - before.1);
            let leaves = mode != "drop";
            ensure!(
                (small > 0) == leaves && (!cuts || (large > 0) == leaves),
                "{name}, {mode}: {small} and {large} frames with the canary leave, {dropped} are dropped, {would} would be"
            );
            let as_asked = match mode {
                "allow" => dropped == 0 && would == 0,
                "count" => dropped == 0 && would >= 3,
                _ => dropped >= 3 && would == 0,
            };
            ensure!(
                as_asked,
                "{name}, {mode}: {dropped} dropped, {would} would be"
            );
        }
        host.site.host.command("ip link del ov0")?;
        shown += 1;
    }
    println!(
        "CASES: kinds of overlays of the host: {shown} of {}",
        FRAMES.len() + PACKETS.len()
    );
    ensure!(shown > 0, "no overlay could be made");
    Ok(())
}

#[test]
fn what_is_no_overlay_of_the_host_leaves_and_the_daemon_need_not_live() -> Result<()> {
    const TEST: &str = "what_is_no_overlay_of_the_host_leaves_and_the_daemon_need_not_live";
    let _alone = alone();
    let Some(mut host) = Host::new(TEST)? else {
        return Ok(());
    };
    host.ask("drop")?;
    let before = host.counted()?;
    let remote = format!("{}:9", ipv4(REMOTE));
    let overlay = format!("{}:4789", ipv4(REMOTE));
    // A tenant's own overlay has been judged by its port; nobody asks anything of this one. Of what is cut, the canary
    // is in the second fragment.
    for (what, own, to, before, passes) in [
        ("a tenant's clear text", false, remote.as_str(), 0, true),
        ("a tenant's own overlay", false, &overlay, 0, true),
        ("a tenant's fragments", false, &remote, 1_480, true),
        ("the host's own", true, "203.0.113.2:9", 0, true),
        ("the host's fragments", true, "203.0.113.2:9", 2_000, true),
        ("the host's of IPv6", true, "[fd99::2]:9", 2_000, true),
        ("to VXLAN's port", true, "203.0.113.2:4789", 0, false),
        (
            "to VXLAN's port, cut",
            true,
            "203.0.113.2:4789",
            2_000,
            false,
        ),
        (
            "to Geneve's port, cut",
            true,
            "[fd99::2]:6081",
            2_000,
            false,
        ),
    ] {
        let from = match own {
            true => &host.site.host,
            false => &host.site.tenants[0],
        };
        let seen = leaves(&mut host.sniffer, from, to, before)?;
        ensure!(
            (seen > 0) == passes,
            "{what}: {seen} frames with the canary leave"
        );
        if passes {
            ensure!(host.counted()? == (0, 0), "{what}: something is dropped");
        }
    }
    let after = host.counted()?;
    ensure!(
        after.0 >= before.0 + 9 && after.1 == before.1,
        "{before:?}, {after:?}"
    );

    ensure!(host.device(FRAMES[0].1, true)?, "this kernel has no VXLAN");
    host.site.kill()?;
    let far = format!("{FAR}:9");
    for (what, begins) in [("a dead daemon", false), ("the next one", true)] {
        if begins {
            host.site.start(octroi())?;
        }
        let seen = leaves(&mut host.sniffer, &host.site.tenants[0], &far, 0)?;
        ensure!(seen == 0, "{seen} frames leave behind {what}");
    }
    println!("CASES: what the guard lets out, and does not: 11");
    Ok(())
}
