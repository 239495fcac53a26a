//! Real traffic: TCP and UDP through sockets, bounded in bytes and time.

use super::{
    namespace::{Namespace, enter},
    site::{REMOTE, ipv4, ipv6},
};
use anyhow::{Context as _, Result};
use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// A socket call gives up after this: longer than TCP needs to get a SYN through a flooded ceiling.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `work` on a thread inside a namespace that was opened before.
pub fn inside<T: Send + 'static>(
    namespace: File,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> thread::JoinHandle<Result<T>> {
    thread::spawn(move || {
        enter(&namespace)?;
        work()
    })
}

/// A TCP sink: takes every connection and reads until it ends.
#[derive(Debug)]
pub struct Sink {
    /// Port that it listens on.
    pub port: u16,
    stop: std::sync::Arc<AtomicBool>,
    received: std::sync::Arc<AtomicU64>,
}

impl Sink {
    /// Listens on all addresses of `namespace`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn tcp(namespace: &Namespace, port: u16) -> Result<Self> {
        let listener = namespace.run(|| TcpListener::bind(("::", port)))??;
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let received = std::sync::Arc::new(AtomicU64::new(0));
        let sink = Self {
            port,
            stop: stop.clone(),
            received: received.clone(),
        };
        listener.set_nonblocking(true)?;
        thread::spawn(move || {
            while !stop.load(Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drain(stream, received.clone()),
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Ok(sink)
    }

    /// Payload bytes that arrived.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn drain(mut stream: TcpStream, received: std::sync::Arc<AtomicU64>) {
    thread::spawn(move || {
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let mut buffer = vec![0; 1 << 18];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            received.fetch_add(count as u64, Relaxed);
        }
    });
}

/// Sends over TCP until `until`, in writes of `chunk` bytes, and returns the payload bytes sent.
///
/// # Errors
/// When the peer cannot be reached.
pub fn tcp_send(to: (IpAddr, u16), chunk: usize, until: Instant) -> Result<u64> {
    write_until(connect(to)?, chunk, until)
}

/// The same in writes of 64 KiB, by CUBIC, whatever the machine's default is: BBR looks at neither losses nor marks.
///
/// # Errors
/// As [`tcp_send`]; and where there is no CUBIC.
pub fn cubic_send(to: (IpAddr, u16), until: Instant) -> Result<u64> {
    let stream = connect(to)?;
    set_option(&stream, libc::IPPROTO_TCP, libc::TCP_CONGESTION, *b"cubic")?;
    write_until(stream, 1 << 16, until)
}

fn connect(to: (IpAddr, u16)) -> Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE)
        .with_context(|| format!("TCP to {}", to.0))
}

fn write_until(mut stream: TcpStream, chunk: usize, until: Instant) -> Result<u64> {
    // Short, so that a sender behind a ceiling still looks at the time.
    stream.set_write_timeout(Some(Duration::from_millis(200)))?;
    let buffer = vec![0x5A; chunk];
    let mut sent = 0;
    while Instant::now() < until {
        match stream.write(&buffer) {
            Ok(count) => sent += count as u64,
            // A ceiling far below what the buffers hold: the peer is alive, only slow.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("TCP write"),
        }
    }
    Ok(sent)
}

/// How UDP is sent.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams {
    /// Payload bytes of each `send`.
    pub size: usize,
    /// With `UDP_SEGMENT`: payload bytes of each segment.
    pub segment: Option<u16>,
    /// Pause after each `send`.
    pub gap: Duration,
}

/// Sends UDP until `until` and returns the payload bytes sent. Nobody needs to listen.
///
/// # Errors
/// When the socket refuses.
pub fn udp_send(to: (IpAddr, u16), how: Datagrams, until: Instant) -> Result<u64> {
    let from: IpAddr = if to.0.is_ipv4() {
        [0, 0, 0, 0].into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((from, 0))?;
    socket.set_broadcast(true)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    if let Some(segment) = how.segment {
        udp_segment(&socket, segment)?;
    }
    let buffer = vec![0xA5; how.size];
    let mut sent = 0;
    while Instant::now() < until {
        // A port that is closed over there answers with ICMP: not this sender's concern.
        if let Ok(count) = socket.send(&buffer) {
            sent += count as u64;
        }
        if !how.gap.is_zero() {
            thread::sleep(how.gap);
        }
    }
    Ok(sent)
}

/// From now on each `send` is a GSO packet, of segments with so many payload bytes.
///
/// # Errors
/// When the kernel has no `UDP_SEGMENT`.
pub fn udp_segment(socket: &UdpSocket, segment: u16) -> Result<()> {
    const UDP_SEGMENT: libc::c_int = 103;
    set_option(
        socket,
        libc::SOL_UDP,
        UDP_SEGMENT,
        libc::c_int::from(segment),
    )
}

/// Sets an option of a socket; `value` is of the option's own type.
///
/// # Errors
/// What the kernel says.
pub fn set_option<T: Copy>(
    socket: &impl AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: T,
) -> Result<()> {
    // SAFETY: the value lives through the call, and the length is its own.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    let error = std::io::Error::last_os_error();
    anyhow::ensure!(failed == 0, "setsockopt {option}: {error}");
    Ok(())
}

/// A UDP socket that takes what comes and says nothing, so that no ICMP answers.
///
/// # Errors
/// When it cannot bind.
pub fn udp_sink(namespace: &Namespace, port: u16) -> Result<UdpSocket> {
    Ok(namespace.run(|| UdpSocket::bind(("::", port)))??)
}

/// A UDP sink that counts what comes, with room for what comes while it is not looking.
#[derive(Debug)]
pub struct UdpSink {
    stop: std::sync::Arc<AtomicBool>,
    /// Datagrams, and their payload bytes.
    counts: std::sync::Arc<[AtomicU64; 2]>,
    reader: Option<thread::JoinHandle<()>>,
}

impl UdpSink {
    /// Listens on a port of `namespace`, until this value goes.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(namespace: &Namespace, port: u16) -> Result<Self> {
        let room_bytes: libc::c_int = 32 << 20;
        let socket = udp_sink(namespace, port)?;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, room_bytes)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let mut sink = Self {
            stop: std::sync::Arc::default(),
            counts: std::sync::Arc::default(),
            reader: None,
        };
        let (stop, counts) = (sink.stop.clone(), sink.counts.clone());
        sink.reader = Some(thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            while !stop.load(Relaxed) {
                if let Ok(payload) = socket.recv(&mut buffer) {
                    counts[0].fetch_add(1, Relaxed);
                    counts[1].fetch_add(payload as u64, Relaxed);
                }
            }
        }));
        Ok(sink)
    }

    /// Datagrams that arrived, and their payload bytes.
    pub fn received(&self) -> (u64, u64) {
        (self.counts[0].load(Relaxed), self.counts[1].load(Relaxed))
    }
}

impl Drop for UdpSink {
    /// The port is free when this returns.
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Answers every byte that comes over TCP with a byte: the far end of [`round_trips`].
///
/// # Errors
/// When it cannot listen.
pub fn echo(namespace: &Namespace, port: u16) -> Result<()> {
    let listener = namespace.run(|| TcpListener::bind(("::", port)))??;
    thread::spawn(move || {
        for stream in listener.incoming().take(64).flatten() {
            thread::spawn(move || {
                let mut stream = stream;
                let _ = stream.set_nodelay(true);
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
    Ok(())
}

/// Sends a byte and waits for it to come back, until `until`; every round trip in ns.
///
/// # Errors
/// When the peer cannot be reached.
pub fn round_trips(to: (IpAddr, u16), until: Instant) -> Result<hdrhistogram::Histogram<u64>> {
    let mut histogram = hdrhistogram::Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [1];
    while Instant::now() < until {
        let begun = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        histogram.saturating_record(begun.elapsed().as_nanos() as u64);
        thread::sleep(Duration::from_millis(1));
    }
    Ok(histogram)
}

/// What [`mixed`] sends until it is told to stop.
#[derive(Clone, Copy, Debug)]
pub struct Mixed {
    /// Between two datagrams.
    pub gap: Duration,
    /// In a row of one kind.
    pub turn: Duration,
    /// In all, whoever tells it to stop.
    pub limit: Duration,
}

/// Datagrams of a tenant in turns: small ones and GSO of 14,000 bytes over IPv6 to the remote end, and others to the
/// first tenant.
///
/// # Errors
/// When the namespace cannot be opened.
pub fn mixed(
    from: &Namespace,
    how: Mixed,
    stop: &Arc<AtomicBool>,
) -> Result<JoinHandle<Result<()>>> {
    let (from, stop) = (from.open()?, stop.clone());
    Ok(inside(from, move || {
        let limit = Instant::now() + how.limit;
        while !stop.load(Relaxed) && Instant::now() < limit {
            for (to, size, segment) in [
                (ipv4(REMOTE), 40, None),
                (ipv6(REMOTE), 14_000, Some(1_400)),
                (ipv4(1), 700, None),
            ] {
                let gap = how.gap;
                let datagrams = Datagrams { size, segment, gap };
                udp_send((to.parse()?, 7), datagrams, Instant::now() + how.turn)?;
            }
        }
        Ok(())
    }))
}

/// Fairness by Jain of what flows carried: 1 when all have the same, 1/n when one has everything (Jain, Chiu, Hawe 1984).
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 {
        return 0.0;
    }
    sum * sum / (shares.len() as f64 * squares)
}

/// Has this thread run on one processor.
pub fn pin(processor: usize) {
    // SAFETY: a plain bit set, for this thread only. Where it is refused, the scheduler chooses.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}
