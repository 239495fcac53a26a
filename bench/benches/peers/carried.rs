//! What is sent: a fixed list of datagrams, so many times, slowly enough that no queue overflows.

use anyhow::{Result, ensure};
use octroi::lab::{
    Site,
    site::{INSIDE, REMOTE, ipv4},
    traffic,
};
use std::{
    net::{IpAddr, UdpSocket},
    thread,
    time::Duration,
};

/// The port of what is measured; what is sent to [`FLUSH_PORT`] only pushes it out of capture buffers.
pub const PORT: u16 = 9;
pub const FLUSH_PORT: u16 = 10;
/// Payload bytes of the list, from the smallest frame to the largest.
const LIST: [usize; 8] = [18, 64, 100, 500, 1_000, 1_116, 1_400, 1_472];
/// With GSO: payload bytes of a send, and of each of its segments.
const GSO: (usize, u16) = (14_100, 1_400);
/// Bytes of headers.
const ETHERNET: u64 = 14;
const IP: u64 = 20;
const UDP: u64 = 8;
/// Packets that are sent to [`FLUSH_PORT`], and their payload bytes.
const FLUSH: (u64, usize) = (6_000, 1_400);
/// Bytes of their frames.
pub const FLUSHED_L2_BYTES: u64 = FLUSH.0 * (FLUSH.1 as u64 + ETHERNET + IP + UDP);
/// Flows that it is spread over.
const FLOWS: usize = 256;
/// Sends between two pauses.
const BURST: u64 = 64;

/// What went over the link.
pub struct Carried {
    pub frames: u64,
    pub l2_bytes: u64,
    pub l3_bytes: u64,
    /// CPU of the thread that sent it, ns; the way through the host is on it.
    pub sender_ns: u64,
}

/// Sends at least so many frames.
pub fn send(site: &Site, frames: u64, gso: bool) -> Result<Carried> {
    let sinks = [PORT, FLUSH_PORT].map(|port| traffic::udp_sink(&site.remote, port));
    let to: IpAddr = ipv4(REMOTE).parse()?;
    let before = site.tenants[0].counters(INSIDE)?;
    let sent = traffic::inside(site.tenants[0].open()?, move || list(to, frames, gso));
    let (carried, sends) = sent
        .join()
        .map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    let after = site.tenants[0].counters(INSIDE)?;
    ensure!(
        after[2] - before[2] == sends,
        "{sends} packets were sent and the interface says {}",
        after[2] - before[2]
    );
    thread::sleep(Duration::from_millis(300));
    let flush = traffic::inside(site.tenants[0].open()?, move || flush(to));
    flush
        .join()
        .map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    thread::sleep(Duration::from_secs(2));
    drop(sinks);
    Ok(carried)
}

fn list(to: IpAddr, frames: u64, gso: bool) -> Result<(Carried, u64)> {
    let socket = || -> Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((to, PORT))?;
        if gso {
            traffic::udp_segment(&socket, GSO.1)?;
        }
        Ok(socket)
    };
    let sockets = (0..FLOWS).map(|_| socket()).collect::<Result<Vec<_>>>()?;
    let (buffer, begun) = ([0x5A_u8; 16_384], cpu_ns());
    let mut carried = Carried {
        frames: 0,
        l2_bytes: 0,
        l3_bytes: 0,
        sender_ns: 0,
    };
    let mut sends = 0;
    while carried.frames < frames {
        let (payload, segment) = match gso {
            true => (GSO.0, usize::from(GSO.1)),
            false => (LIST[sends as usize % LIST.len()], usize::MAX),
        };
        // Every flow gets the whole list.
        let flow = sends as usize / LIST.len() % FLOWS;
        sockets[flow].send(&buffer[..payload])?;
        sends += 1;
        let segments = payload.div_ceil(segment) as u64;
        carried.frames += segments;
        carried.l3_bytes += payload as u64 + segments * (IP + UDP);
        carried.l2_bytes += payload as u64 + segments * (ETHERNET + IP + UDP);
        if sends % BURST == 0 {
            thread::sleep(Duration::from_micros(if gso { 3_000 } else { 500 }));
        }
    }
    carried.sender_ns = cpu_ns() - begun;
    Ok((carried, sends))
}

/// A capture buffer is handed over when it is full.
fn flush(to: IpAddr) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((to, FLUSH_PORT))?;
    for sends in 0..FLUSH.0 {
        socket.send(&[0; FLUSH.1])?;
        if sends % BURST == 0 {
            thread::sleep(Duration::from_micros(500));
        }
    }
    Ok(())
}

/// CPU time of this thread, ns.
fn cpu_ns() -> u64 {
    dataplane::host::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}
