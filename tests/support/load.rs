//! Traffic of all kinds that goes on while something happens to the gate, and what must be true afterwards.
#![allow(dead_code, reason = "each test uses its own part of this")]

use crate::support::{between, pair, registers_of};
use anyhow::Result;
use dataplane::registers::Direction;
use octroi::{
    lab::{
        Namespace, Site,
        site::{INSIDE, REMOTE, UPLINK, ipv4, ipv6},
        traffic::{self, Datagrams, Sink, inside},
    },
    status::Report,
};
use std::{
    fs,
    net::{IpAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Packets that may wait for a CPU between two interfaces. Where there is no more room the kernel drops them behind
/// the gate, after they were counted (`netif_rx`; `/proc/net/softnet_stat` has how many), and no comparison holds to the packet.
const BACKLOG: &str = "/proc/sys/net/core/netdev_max_backlog";

/// Room for all that is sent here; afterwards it is as it was.
struct Room(String);

impl Room {
    fn new() -> Result<Self> {
        let before = fs::read_to_string(BACKLOG)?;
        fs::write(BACKLOG, "100000")?;
        Ok(Self(before))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::write(BACKLOG, &self.0);
    }
}

/// Traffic that goes on until it is told to stop.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    senders: Vec<JoinHandle<Result<u64>>>,
    _sinks: Vec<Sink>,
    _room: Room,
}

impl Traffic {
    /// UDP small and GSO, TCP, v4 and v6, both ways between the tenants and the remote end.
    pub fn start(site: &Site) -> Result<Self> {
        let room = Room::new()?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut sinks = vec![Sink::tcp(&site.remote, 5001)?];
        let mut senders = Vec::new();
        for (index, namespace) in site.tenants.iter().enumerate() {
            sinks.push(Sink::tcp(namespace, 5001)?);
            let own = (ipv4(index + 1).parse()?, ipv6(index + 1).parse()?);
            let remote = (ipv4(REMOTE).parse()?, ipv6(REMOTE).parse()?);
            senders.push(Self::sender(namespace, remote, &stop)?);
            senders.push(Self::sender(&site.remote, own, &stop)?);
        }
        Ok(Self {
            stop,
            senders,
            _sinks: sinks,
            _room: room,
        })
    }

    fn sender(
        from: &Namespace,
        to: (IpAddr, IpAddr),
        stop: &Arc<AtomicBool>,
    ) -> Result<JoinHandle<Result<u64>>> {
        let (from, stop) = (from.open()?, stop.clone());
        Ok(inside(from, move || {
            let limit = Instant::now() + Duration::from_secs(1_200);
            let mut sent = 0;
            while !stop.load(Relaxed) && Instant::now() < limit {
                let soon = || Instant::now() + Duration::from_millis(15);
                let gap = Duration::from_micros(300);
                let small = Datagrams {
                    size: 40,
                    segment: None,
                    gap,
                };
                let large = Datagrams {
                    size: 14_000,
                    segment: Some(1_400),
                    gap,
                };
                sent += traffic::udp_send((to.0, 7), small, soon())?;
                sent += traffic::udp_send((to.1, 7), large, soon())?;
                sent += traffic::tcp_send((to.0, 5001), 1 << 14, soon())?;
            }
            Ok(sent)
        }))
    }

    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Relaxed);
        let mut sent = 0;
        for sender in self.senders {
            sent += sender
                .join()
                .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        // What is on its way arrives before there is less room again.
        thread::sleep(Duration::from_millis(300));
        Ok(sent)
    }
}

/// What the gate has counted by port, what the tenants' own interfaces have, and the uplink.
pub type Reading = (Vec<(Direction, Direction)>, Vec<[u64; 4]>, [u64; 4]);

/// Reads them; the report is the daemon's.
pub fn read(site: &Site, report: &Report) -> Result<Reading> {
    let ports = (0..site.tenants.len())
        .map(|index| registers_of(report, index))
        .collect::<Result<_>>()?;
    let tenants = site
        .tenants
        .iter()
        .map(|tenant| tenant.counters(INSIDE))
        .collect::<Result<_>>()?;
    Ok((ports, tenants, site.host.counters(UPLINK)?))
}

/// Everything between two readings: to the byte and packet, and nothing dropped by octroi.
pub fn compare(before: &Reading, after: &Reading) {
    let (mut bytes, mut packets) = (0, 0);
    for (index, (new, old)) in after.0.iter().zip(&before.0).enumerate() {
        let (from, to) = (new.0.since(&old.0), new.1.since(&old.1));
        let inside = between(before.1[index], after.1[index]);
        assert_eq!(
            from.dropped().packets + to.dropped().packets,
            0,
            "tenant {index}: {from:?}"
        );
        assert_eq!(
            pair(from.total()),
            (inside[2], inside[3]),
            "from tenant {index}"
        );
        assert_eq!(
            pair(to.total()),
            (inside[0], inside[1]),
            "to tenant {index}"
        );
        bytes += from.total().l2_bytes;
        packets += from.total().packets;
        assert!(inside[2] > 50, "tenant {index} hardly sent");
    }
    let uplink = between(before.2, after.2);
    assert_eq!(
        (packets, bytes),
        (uplink[2], uplink[3]),
        "the uplink sent what the ports let through"
    );
}

/// Sends from a tenant to the remote end and to another tenant, and counts what arrives.
pub fn arrivals(site: &Site, from: usize, sockets: &[(&UdpSocket, IpAddr)]) -> Result<usize> {
    let mut arrived = 0;
    for (socket, to) in sockets {
        socket.set_nonblocking(true)?;
        while socket.recv(&mut [0; 2048]).is_ok() {}
        let to = *to;
        site.tenants[from].run(move || {
            let how = Datagrams {
                size: 100,
                segment: None,
                gap: Duration::from_millis(2),
            };
            traffic::udp_send((to, 4000), how, Instant::now() + Duration::from_millis(100))
        })??;
        std::thread::sleep(Duration::from_millis(50));
        while socket.recv(&mut [0; 2048]).is_ok() {
            arrived += 1;
        }
    }
    Ok(arrived)
}
