//! The byte contract, end to end: what the registers say is what an interface with its offloads off
//! sends, to the byte and to the packet, whatever the traffic and whatever the offloads before it.

mod support;

use anyhow::{Context as _, Result};
use octroi::lab::{
    Namespace,
    frames::{RawSocket, udp4},
    namespace::command,
    site::{INSIDE, REMOTE, UPLINK, ipv4, ipv6, mac},
    traffic::{self, Datagrams, Sink},
};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};
use support::{alone, between, by_level, can_run, pair, registers, running, settle, tenant};

/// Offloads of the sending end and of the receiving interface.
#[derive(Clone, Copy, Debug)]
struct Setting {
    tso: bool,
    gso: bool,
    gro: bool,
}

const SETTINGS: [Setting; 4] = [
    Setting {
        tso: true,
        gso: true,
        gro: false,
    },
    Setting {
        tso: false,
        gso: true,
        gro: true,
    },
    Setting {
        tso: true,
        gso: true,
        gro: true,
    },
    Setting {
        tso: false,
        gso: false,
        gro: false,
    },
];

fn word(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn set(namespace: &Namespace, interface: &str, feature: &str, on: bool) -> Result<()> {
    // A feature that this kernel does not have is not there to be wrong.
    let _ = namespace.command(&format!("ethtool -K {interface} {feature} {}", word(on)));
    Ok(())
}

/// All of it off: what passes is what a wire would carry.
fn plain(namespace: &Namespace, interface: &str) -> Result<()> {
    for feature in [
        "tso",
        "gso",
        "gro",
        "tx-udp-segmentation",
        "tx-gso-list",
        "tx-udp_tnl-segmentation",
        "tx-udp_tnl-csum-segmentation",
        "tx-gre-segmentation",
        "tx-gre-csum-segmentation",
        "tx-ipxip4-segmentation",
        "tx-ipxip6-segmentation",
        "tx-sctp-segmentation",
        "txvlan",
        "tx-vlan-stag-hw-insert",
    ] {
        set(namespace, interface, feature, false)?;
    }
    Ok(())
}

fn apply(setting: Setting, namespace: &Namespace, interface: &str) -> Result<()> {
    for feature in [
        "tso",
        "tx-udp-segmentation",
        "tx-udp_tnl-segmentation",
        "tx-gre-segmentation",
    ] {
        set(namespace, interface, feature, setting.tso)?;
    }
    set(namespace, interface, "gso", setting.gso)
}

/// One kind of traffic; sends from the namespace that it runs in to `to` for a short while.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    send: fn(to: &Peer) -> Result<u64>,
}

/// Who is sent to, and who sends.
#[derive(Clone)]
struct Peer {
    v4: IpAddr,
    v6: IpAddr,
    /// Inside the tenant's VXLAN.
    inner: IpAddr,
    own_mac: [u8; 6],
    own_v4: [u8; 4],
    peer_mac: [u8; 6],
    peer_v4: [u8; 4],
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(150)
}

fn udp(to: IpAddr, size: usize, segment: Option<u16>) -> Result<u64> {
    let how = Datagrams {
        size,
        segment,
        gap: Duration::from_millis(1),
    };
    traffic::udp_send((to, 7), how, soon())
}

fn raw(frames: impl Iterator<Item = Vec<u8>>) -> Result<u64> {
    let interfaces = dataplane::netlink::interfaces()?;
    let socket = RawSocket::open(interfaces.get(INSIDE).context("no interface")?.index)?;
    let mut sent = 0;
    for frame in frames {
        socket.send(&frame)?;
        sent += frame.len() as u64;
        if sent % 16 == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    Ok(sent)
}

fn frame(peer: &Peer, payload: usize) -> Vec<u8> {
    udp4(
        peer.own_mac,
        peer.peer_mac,
        peer.own_v4,
        peer.peer_v4,
        payload,
    )
}

/// Puts VLAN tags behind the MACs.
fn tagged(mut frame: Vec<u8>, tags: &[(u16, u16)]) -> Vec<u8> {
    for (tpid, vid) in tags.iter().rev() {
        frame.splice(
            12..12,
            tpid.to_be_bytes().into_iter().chain(vid.to_be_bytes()),
        );
    }
    frame
}

const KINDS: [Kind; 14] = [
    Kind {
        name: "TCP v4",
        send: |p| traffic::tcp_send((p.v4, 5001), 1 << 17, soon()),
    },
    Kind {
        name: "TCP v6",
        send: |p| traffic::tcp_send((p.v6, 5001), 1 << 17, soon()),
    },
    Kind {
        name: "UDP 64 B",
        send: |p| udp(p.v4, 22, None),
    },
    Kind {
        name: "UDP v6 full",
        send: |p| udp(p.v6, 1_440, None),
    },
    Kind {
        name: "UDP fragments v4",
        send: |p| udp(p.v4, 8_000, None),
    },
    Kind {
        name: "UDP fragments v6, 64 KB",
        send: |p| udp(p.v6, 60_000, None),
    },
    Kind {
        name: "UDP GSO v4",
        send: |p| udp(p.v4, 60_000, Some(1_400)),
    },
    Kind {
        name: "UDP GSO v6, odd tail",
        send: |p| udp(p.v6, 33_333, Some(1_111)),
    },
    Kind {
        name: "multicast",
        send: |_| udp(IpAddr::from([239, 7, 7, 7]), 500, None),
    },
    Kind {
        name: "broadcast",
        send: |_| udp(IpAddr::from([10, 77, 0, 255]), 90, None),
    },
    Kind {
        name: "VLAN, one tag",
        send: |p| raw((0..200).map(|n| tagged(frame(p, 18 + n * 7), &[(0x8100, 100)]))),
    },
    Kind {
        name: "VLAN, two tags",
        send: |p| raw((0..200).map(|n| tagged(frame(p, 18 + n * 7), &[(0x88A8, 5), (0x8100, 6)]))),
    },
    Kind {
        name: "VXLAN, TCP inside",
        send: |p| traffic::tcp_send((p.inner, 5001), 1 << 17, soon()),
    },
    Kind {
        name: "VXLAN, UDP GSO inside",
        send: |p| udp(p.inner, 50_000, Some(1_300)),
    },
];

/// A tenant's own VXLAN to the remote end.
fn vxlan(namespace: &Namespace, own: usize, peer: usize) -> Result<()> {
    namespace.command(&format!(
        "ip link add vx0 type vxlan id 7 local {} remote {} dstport 4789 dev {INSIDE}",
        ipv4(own),
        ipv4(peer)
    ))?;
    namespace.command(&format!("ip addr add 10.88.0.{own}/24 dev vx0"))?;
    namespace.command("ip link set vx0 up").map(drop)
}

fn peer(own: usize, other: usize) -> Result<Peer> {
    Ok(Peer {
        v4: ipv4(other).parse()?,
        v6: ipv6(other).parse()?,
        inner: format!("10.88.0.{other}").parse()?,
        own_mac: mac(own),
        own_v4: [10, 77, 0, own as u8],
        peer_mac: mac(other),
        peer_v4: [10, 77, 0, other as u8],
    })
}

/// From the tenant: registers against what the uplink sends, segmented. To the tenant: registers
/// against what its port sends, segmented.
#[test]
fn registers_equal_a_counter_behind_them_for_every_kind_of_traffic_and_offload() -> Result<()> {
    const NAME: &str =
        "registers_equal_a_counter_behind_them_for_every_kind_of_traffic_and_offload";
    if !can_run(NAME) {
        return Ok(());
    }
    let _alone = alone();
    let site = running(&[tenant("alice", true)], "")?;
    let port = site.port(0);
    for (namespace, interface) in [(&site.host, UPLINK), (&site.host, port.as_str())] {
        plain(namespace, interface)?;
    }
    vxlan(&site.tenants[0], 1, REMOTE)?;
    vxlan(&site.remote, REMOTE, 1)?;
    let _sinks = [
        Sink::tcp(&site.remote, 5001)?,
        Sink::tcp(&site.tenants[0], 5001)?,
    ];
    let settings = &SETTINGS[..by_level(2, 4, 4)];
    let mut cases = 0;
    for setting in settings {
        apply(*setting, &site.tenants[0], INSIDE)?;
        apply(*setting, &site.remote, INSIDE)?;
        for (from_tenant, sender, own, other) in [
            (true, &site.tenants[0], 1, REMOTE),
            (false, &site.remote, REMOTE, 1),
        ] {
            // GRO works where the frames arrive; the interface that counts has it off.
            let arrival = if from_tenant { port.as_str() } else { UPLINK };
            let counting = if from_tenant { UPLINK } else { port.as_str() };
            set(&site.host, counting, "gro", false)?;
            set(&site.host, arrival, "gro", setting.gro)?;
            let to = peer(own, other)?;
            for kind in KINDS {
                let read = || -> Result<_> {
                    let (from, to) = registers(&site, 0)?;
                    let direction = if from_tenant { from } else { to };
                    Ok((direction, site.host.counters(counting)?))
                };
                let before = settle(read)?;
                let to = to.clone();
                let sent = sender.run(move || (kind.send)(&to))?;
                let sent = sent.with_context(|| format!("{} {setting:?}", kind.name))?;
                let after = settle(read)?;
                let counted = between(before.1, after.1);
                let registers = after.0.since(&before.0);
                let what = format!(
                    "{} {} {setting:?}",
                    kind.name,
                    if from_tenant {
                        "from the tenant"
                    } else {
                        "to the tenant"
                    }
                );
                assert!(sent > 0 && counted[2] > 10, "{what}: nothing was sent");
                assert_eq!(pair(registers.total()), (counted[2], counted[3]), "{what}");
                cases += 1;
            }
        }
    }
    println!("CASES: exact, kinds of traffic × offloads × directions: {cases}");
    for missing in ["sctp", "ip_gre", "8021q"] {
        if command(&format!("modinfo -n {missing}")).is_err() {
            println!(
                "SKIPPED: exact {missing}: this kernel does not have it; `cargo xtask vm` does"
            );
        }
    }
    Ok(())
}

/// Frames that a receiver may coalesce: one TCP stream, in order, with right checksums.
fn stream(peer: &Peer, count: u32) -> Vec<Vec<u8>> {
    let mut sequence = 1_u32;
    (0..count)
        .map(|number| {
            let payload = if number % 10 == 9 { 400 } else { 1_200 };
            let frame = tcp4(peer, sequence, payload);
            sequence += payload as u32;
            frame
        })
        .collect()
}

fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

fn tcp4(peer: &Peer, sequence: u32, payload: usize) -> Vec<u8> {
    let mut frame = frame(peer, 12 + payload);
    frame[23] = 6;
    frame[24..26].fill(0);
    let ip = checksum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&ip.to_be_bytes());
    let tcp = &mut frame[34..];
    tcp[..20].fill(0);
    tcp[..4].copy_from_slice(&[0x30, 0x39, 0x30, 0x3A]);
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[8..12].copy_from_slice(&1_u32.to_be_bytes());
    tcp[12] = 0x50;
    tcp[13] = 0x10;
    tcp[14..16].copy_from_slice(&500_u16.to_be_bytes());
    let len = (20 + payload) as u16;
    let pseudo = [
        &peer.own_v4[..],
        &peer.peer_v4[..],
        &[0, 6],
        &len.to_be_bytes(),
    ]
    .concat();
    let sum = checksum(&[&pseudo, &frame[34..]]);
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn a_replayed_list_of_frames_gives_the_same_bill_with_and_without_gro() -> Result<()> {
    if !can_run("a_replayed_list_of_frames_gives_the_same_bill_with_and_without_gro") {
        return Ok(());
    }
    let _alone = alone();
    let site = running(&[tenant("alice", false)], "")?;
    let port = site.port(0);
    let to = peer(1, REMOTE)?;
    let list: Vec<Vec<u8>> = stream(&to, 2_000)
        .into_iter()
        .chain((0..300).map(|n| tagged(frame(&to, 18 + n * 4), &[(0x8100, 9)])))
        .collect();
    let truth = (
        list.len() as u64,
        list.iter().map(|frame| frame.len() as u64).sum::<u64>(),
    );
    // Nothing but the list: the tenant's own MLD reports would come in between.
    site.tenants[0].run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1"))??;
    // Each frame is its own interrupt here: GRO has to wait a little for the next.
    let path = format!("/sys/class/net/{port}/gro_flush_timeout");
    let status = std::process::Command::new("ip")
        .args([
            "netns",
            "exec",
            site.host.name(),
            "sh",
            "-c",
            &format!("echo 2000000 > {path}"),
        ])
        .status()?;
    anyhow::ensure!(status.success(), "{path} cannot be set");
    let mut coalesced = Vec::new();
    for gro in [false, true] {
        set(&site.host, &port, "gro", gro)?;
        let read = || registers(&site, 0);
        let before = settle(read)?.0;
        let frames = list.clone();
        site.tenants[0].run(move || raw(frames.into_iter()))??;
        let after = settle(read)?.0.since(&before);
        assert_eq!(pair(after.total()), truth, "GRO {}", word(gro));
        assert_eq!(after.dropped().packets, 0);
        coalesced.push(after.skbs.delivered);
    }
    println!("CASES: exact, frames replayed: {}", 2 * truth.0);
    println!(
        "skbs without GRO {}, with GRO {}",
        coalesced[0], coalesced[1]
    );
    assert!(
        coalesced[1] < coalesced[0],
        "GRO did not coalesce: the test proves nothing"
    );
    Ok(())
}

#[test]
fn raw_counters_equal_the_ports_own() -> Result<()> {
    if !can_run("raw_counters_equal_the_ports_own") {
        return Ok(());
    }
    let _alone = alone();
    let site = running(&[tenant("alice", true)], "")?;
    // Here the port's own end keeps its offloads: it counts skbs as they are, as octroi's raw ones.
    for feature in ["tso", "gso", "tx-udp-segmentation"] {
        set(&site.host, &site.port(0), feature, true)?;
    }
    let _sinks = [
        Sink::tcp(&site.remote, 5001)?,
        Sink::tcp(&site.tenants[0], 5001)?,
    ];
    let read = || -> Result<_> { Ok((registers(&site, 0)?, site.host.counters(&site.port(0))?)) };
    let before = settle(read)?;
    for (sender, own, other) in [(&site.tenants[0], 1, REMOTE), (&site.remote, REMOTE, 1)] {
        let to = peer(own, other)?;
        for kind in &KINDS[..8] {
            let (to, kind) = (to.clone(), *kind);
            sender.run(move || (kind.send)(&to))??;
        }
    }
    let after = settle(read)?;
    let counted = between(before.1, after.1);
    let (from, to) = (
        after.0.0.since(&before.0.0).skbs,
        after.0.1.since(&before.0.1).skbs,
    );
    assert_eq!(
        (
            from.delivered + from.dropped,
            from.delivered_len + from.dropped_len
        ),
        (counted[0], counted[1]),
        "from the tenant"
    );
    assert_eq!(
        (to.delivered, to.delivered_len),
        (counted[2], counted[3]),
        "to the tenant"
    );
    println!(
        "CASES: raw skbs compared with the port's own counter: {}",
        counted[0] + counted[2]
    );
    Ok(())
}
