//! Packets in fragments: whole ones of real sockets, and forged ones.

use super::{
    CANARY, FREE, LOOKS, NEIGHBOUR, REFUSES, Site, class, interface, raw, refused, sniffer::Sniffer,
};
use crate::{
    dice::Dice,
    fake::{Server, connect},
    support::{by_level, registers},
};
use anyhow::{Context as _, Result, ensure};
use octroi::lab::{
    frames::RawSocket,
    site::{REMOTE, UPLINK, ipv4, ipv6},
    traffic::inside,
};
use std::{
    io::Write as _,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

/// Ports of `raw::udp`.
const NEAR: u16 = 40_000;
const FAR: u16 = 443;
/// Bytes of a fragment: with extension headers it fits a link of 1,500.
const CUT: usize = 1_408;

/// A conversation of WireGuard, as far as anybody can tell: both ends' sockets.
struct Tunnel {
    near: UdpSocket,
    far: UdpSocket,
}

impl Tunnel {
    fn open(site: &Site, tenant: usize, v6: bool) -> Result<Self> {
        let (any, here, there): (&str, _, _) = if v6 {
            ("::", ipv6(tenant + 1), ipv6(REMOTE))
        } else {
            ("0.0.0.0", ipv4(tenant + 1), ipv4(REMOTE))
        };
        let near = site.tenants[tenant].run(|| UdpSocket::bind((any, NEAR)))??;
        let far = site.remote.run(|| UdpSocket::bind((any, FAR)))??;
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(Duration::from_millis(700)))?;
        }
        near.connect(SocketAddr::new(there.parse()?, FAR))?;
        far.connect(SocketAddr::new(here.parse()?, NEAR))?;
        let mut room = [0; 2_000];
        let mut dice = Dice::new(1, 1);
        near.send(&[&[1, 0, 0, 0, 9, 9, 9, 9][..], &dice.bytes(140)].concat())?;
        let _ = far.recv(&mut room).context("the initiation is lost")?;
        far.send(&[&[2, 0, 0, 0, 8, 8, 8, 8, 9, 9, 9, 9][..], &dice.bytes(80)].concat())?;
        let _ = near.recv(&mut room).context("the response is lost")?;
        Ok(Self { near, far })
    }

    /// What the other end hears of a datagram from the tenant.
    fn hears(&self, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut room = vec![0; 70_000];
        // Pieces that passed one by one may have made a datagram.
        self.far.set_nonblocking(true)?;
        while self.far.recv(&mut room).is_ok() {}
        self.far.set_nonblocking(false)?;
        self.near.send(bytes)?;
        match self.far.recv(&mut room) {
            Ok(len) => Ok(Some(room[..len].to_vec())),
            Err(_) => Ok(None),
        }
    }
}

/// A datagram of WireGuard's data around `content`.
fn data(content: &[u8]) -> Vec<u8> {
    [
        &[4, 0, 0, 0, 8, 8, 8, 8, 1, 0, 0, 0, 0, 0, 0, 0][..],
        content,
    ]
    .concat()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    Dice::new(7, seed).bytes(len)
}

fn canary(len: usize) -> Vec<u8> {
    CANARY.bytes().cycle().take(len).collect()
}

pub fn follow(site: &Site) -> Result<()> {
    let mut sniffer = Sniffer::start(&site.host, UPLINK)?;
    let mut passed = 0;
    for v6 in [false, true] {
        let tunnel = Tunnel::open(site, LOOKS, v6)?;
        let before = refused(site, LOOKS)?;
        for len in [
            1_450, 1_465, 1_500, 1_520, 2_945, 2_970, 5_000, 30_000, 64_000,
        ] {
            let said = data(&noise(len as u64, len));
            let heard = tunnel.hears(&said)?;
            ensure!(
                heard.as_ref() == Some(&said),
                "{len} bytes do not arrive, IPv6: {v6}"
            );
            passed += 1;
        }
        ensure!(
            refused(site, LOOKS)? == before,
            "an honest fragment is refused"
        );
        // Clear text that is longer than a packet: not a byte of it leaves.
        for at in [0, 700, CUT, 3_000, 4_900] {
            let said = data(&[noise(3, at), canary(5_000 - at)].concat());
            let before = refused(site, LOOKS)?;
            ensure!(
                tunnel.hears(&said)?.is_none(),
                "clear text from {at} on arrives whole"
            );
            ensure!(refused(site, LOOKS)? > before);
            let seen = sniffer.seen();
            ensure!(
                seen == 0,
                "{seen} frames with clear text from {at} on leave, IPv6: {v6}"
            );
        }
        drop(tunnel);
        // Without tracking none passes, and without a rule all do.
        let tunnel = Tunnel::open(site, REFUSES, v6)?;
        ensure!(tunnel.hears(&data(&noise(1, 100)))?.is_some());
        ensure!(tunnel.hears(&data(&noise(1, 5_000)))?.is_none());
        drop(tunnel);
        ensure!(sniffer.seen() == 0, "the canary leaves");
        let tunnel = Tunnel::open(site, FREE, v6)?;
        ensure!(tunnel.hears(&data(&canary(5_000)))?.is_some());
        ensure!(sniffer.seen() > 0, "the sniffer sees nothing");
    }
    ensure!(class(site, LOOKS, "E2")? > 200_000, "fragments are not E2");
    println!("CASES: datagrams in fragments that arrive: {passed}");
    Ok(())
}

/// A fragment: where it begins, whether more follow, and its bytes.
type Cut = (usize, bool, Vec<u8>);

/// Ways to get clear text out in fragments, in an open conversation.
fn ways() -> Vec<(&'static str, Vec<Cut>)> {
    let datagram = |whole: usize, content: Vec<u8>| {
        let mut bytes = raw::udp(&data(&content));
        bytes[4..6].copy_from_slice(&(whole as u16).to_be_bytes());
        bytes
    };
    // 8 bytes of UDP and 16 of WireGuard come first.
    let first = |whole: usize| datagram(whole, noise(1, CUT - 24));
    let good = |whole| (0, true, first(whole));
    vec![
        (
            "clear text behind a first of ciphertext",
            vec![good(2 * CUT), (CUT, false, canary(CUT))],
        ),
        (
            "clear text in a short last one",
            vec![
                good(2 * CUT + 200),
                (CUT, true, noise(2, CUT)),
                (2 * CUT, false, canary(200)),
            ],
        ),
        (
            "clear text in a last one below a window",
            vec![good(CUT + 60), (CUT, false, canary(54))],
        ),
        (
            "clear text before its first",
            vec![(CUT, false, canary(CUT)), good(2 * CUT)],
        ),
        (
            "clear text in the place of what came",
            vec![
                good(3 * CUT),
                (CUT, true, noise(2, CUT)),
                (CUT, true, canary(CUT)),
            ],
        ),
        (
            "clear text over the first",
            vec![good(2 * CUT), (64, true, canary(CUT))],
        ),
        (
            "clear text in a hole",
            vec![
                good(3 * CUT),
                (2 * CUT, false, noise(2, CUT)),
                (CUT, true, canary(CUT)),
            ],
        ),
        (
            "clear text in tiny ones",
            vec![
                good(CUT + 220),
                (CUT, true, canary(56)),
                (CUT + 56, true, canary(56)),
                (CUT + 112, true, canary(56)),
            ],
        ),
        (
            "clear text that nobody announced",
            vec![(CUT, false, canary(CUT))],
        ),
        (
            "clear text behind the datagram's end",
            vec![good(CUT), (CUT, false, canary(400))],
        ),
        (
            "clear text in the first",
            vec![
                (0, true, datagram(2 * CUT, canary(CUT - 24))),
                (CUT, false, noise(1, CUT)),
            ],
        ),
        (
            "clear text in a tiny first",
            vec![
                (0, true, datagram(200, canary(32))),
                (56, false, canary(144)),
            ],
        ),
        (
            "a first again, in clear",
            vec![
                good(2 * CUT),
                (0, true, datagram(2 * CUT, canary(CUT - 24))),
            ],
        ),
        (
            "one after the last",
            vec![
                good(2 * CUT),
                (CUT, false, noise(2, CUT)),
                (2 * CUT, false, canary(400)),
            ],
        ),
        (
            "past the longest packet",
            vec![good(65_535), (65_200, false, canary(400))],
        ),
    ]
}

pub fn carry_nothing_out(site: &Site) -> Result<()> {
    let mut sniffer = Sniffer::start(&site.host, UPLINK)?;
    let index = interface(&site.tenants[LOOKS])?;
    let send = |frame: &[u8]| -> Result<()> {
        site.tenants[LOOKS].run(|| RawSocket::open(index)?.send(frame))??;
        std::thread::sleep(Duration::from_millis(3));
        Ok(())
    };
    let dropped = || anyhow::Ok(registers(site, LOOKS)?.0.dropped().packets);
    let (mut id, mut tried) = (1_000_u16, 0);
    let mut attempt = |sniffer: &mut Sniffer, name: &str, frames: &[Vec<u8>]| -> Result<()> {
        let before = dropped()?;
        for frame in frames {
            send(frame)?;
        }
        let (now, seen) = (dropped()?, sniffer.seen());
        ensure!(now > before, "{name}: nothing is dropped");
        ensure!(seen == 0, "{name}: {seen} frames with the canary leave");
        tried += 1;
        Ok(())
    };
    for v6 in [false, true] {
        let tunnel = Tunnel::open(site, LOOKS, v6)?;
        for (name, cuts) in ways() {
            for behind in [false, true] {
                id += 1;
                let frames: Vec<Vec<u8>> = cuts
                    .iter()
                    .map(|cut| fragment(v6, behind, id, 17, cut))
                    .collect();
                attempt(&mut sniffer, name, &frames)?;
            }
        }
        if !v6 {
            id += 1;
            let cut = (CUT, false, canary(CUT));
            let good = ways().swap_remove(0).1.swap_remove(0);
            let frames = [
                fragment(v6, false, id, 17, &good),
                fragment(v6, false, id, 6, &cut),
            ];
            attempt(&mut sniffer, "behind another protocol's first", &frames)?;
        }
        // What is honest still passes, by the same numbers of ports.
        let said = data(&noise(9, 4_000));
        ensure!(tunnel.hears(&said)?.as_ref() == Some(&said), "IPv6: {v6}");
    }
    // An overlay in fragments, and fragments in an overlay.
    let inner = raw::ipv4(17, 0, &[], &raw::udp(&canary(2_000)));
    let mut overlay = raw::udp(&[&[8, 0, 0, 0, 0, 0, 7, 0][..], &inner].concat());
    overlay[2..4].copy_from_slice(&4_789_u16.to_be_bytes());
    let (first, rest) = overlay.split_at(CUT);
    let frames = [
        raw::ipv4_numbered(77, 17, 0x2000, &[], first),
        raw::ipv4_numbered(77, 17, (CUT / 8) as u16, &[], rest),
    ];
    attempt(&mut sniffer, "an overlay in fragments", &frames)?;
    let within = raw::ipv4(17, 0x2000, &[], &raw::udp(&canary(1_200)));
    let mut overlay = raw::udp(&[&[8, 0, 0, 0, 0, 0, 7, 0][..], &within].concat());
    overlay[2..4].copy_from_slice(&4_789_u16.to_be_bytes());
    let frames = [raw::ipv4(17, 0, &[], &overlay)];
    attempt(&mut sniffer, "a fragment in an overlay", &frames)?;
    println!("CASES: ways to carry clear text out in fragments, none of which does: {tried}");
    // The same for who has no rule is seen.
    let tunnel = Tunnel::open(site, FREE, false)?;
    tunnel.near.send(&data(&canary(5_000)))?;
    ensure!(sniffer.seen() > 0, "the sniffer sees nothing");
    Ok(())
}

/// The frame of a fragment, behind options or extension headers if `behind`.
fn fragment(v6: bool, behind: bool, id: u16, protocol: u8, (at, more, bytes): &Cut) -> Vec<u8> {
    if !v6 {
        let field = (*at / 8) as u16 | u16::from(*more) << 13;
        let options: &[u8] = if behind { &[1, 1, 1, 0] } else { &[] };
        return raw::ipv4_numbered(id, protocol, field, options, bytes);
    }
    let field = (*at as u16 | u16::from(*more)).to_be_bytes();
    let number = id.to_be_bytes();
    let header = [0, field[0], field[1], 0, 0, number[0], number[1]];
    let options: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    let mut extensions = vec![(44, &header[..])];
    if behind {
        extensions.insert(0, (60, options));
    }
    raw::ipv6(protocol, &extensions, bytes)
}

/// One tenant sends first fragments without end, another talks.
pub fn flood(site: &Site) -> Result<()> {
    const PORT: u16 = 4_433;
    let server = Server::start(&site.remote, PORT)?;
    let to = SocketAddr::new(ipv4(REMOTE).parse()?, PORT);
    let mut talk = connect(site, NEIGHBOUR, to)?;
    let tunnel = Tunnel::open(site, LOOKS, false)?;
    let packets: u64 = by_level(2_000, 20_000, 400_000);
    let index = interface(&site.tenants[LOOKS])?;
    let flood = inside(site.tenants[LOOKS].open()?, move || {
        let socket = RawSocket::open(index)?;
        let mut datagram = raw::udp(&data(&noise(1, CUT - 24)));
        datagram[4..6].copy_from_slice(&(2 * CUT as u16).to_be_bytes());
        for number in 0..packets {
            let id = number as u16;
            let place = if number & 1 == 0 {
                (0, true, datagram.clone())
            } else {
                (CUT, true, noise(number, CUT))
            };
            let id = if number & 1 == 0 {
                id
            } else {
                id.wrapping_add(7)
            };
            socket.send(&fragment(number & 2 != 0, false, id, 17, &place))?;
        }
        Ok(())
    });
    let before = registers(site, NEIGHBOUR)?.0.dropped().packets;
    let from = server.received();
    let (mut sent, mut rounds) = (0_u64, 0);
    while !flood.is_finished() || rounds < 30 {
        let record = [&[23, 3, 3, 4, 0][..], &Dice::new(3, rounds).bytes(1_024)].concat();
        talk.write_all(&record).context("the neighbour is cut")?;
        sent += record.len() as u64;
        rounds += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    flood.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    ensure!(
        server.receives(from + sent, Duration::from_secs(5)),
        "the neighbour loses bytes"
    );
    let after = registers(site, NEIGHBOUR)?.0.dropped().packets;
    ensure!(
        after == before,
        "the neighbour loses {} packets",
        after - before
    );
    let (flooded, _) = registers(site, LOOKS)?;
    let seen = flooded.total().packets + flooded.dropped().packets;
    ensure!(
        seen >= packets,
        "of {packets} fragments the gate has seen {seen}"
    );
    // Its own conversation, which opened, is still known. In one piece: the other end has no room left for others.
    let said = data(&noise(5, 1_000));
    ensure!(
        tunnel.hears(&said)?.as_ref() == Some(&said),
        "its own conversation is forgotten"
    );
    println!(
        "CASES: fragments that a neighbour sent meanwhile: {packets}; {sent} bytes of another tenant, none lost"
    );
    Ok(())
}
