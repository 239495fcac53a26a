//! Who sends and who receives: one thread for all flows of a side, so that the scheduler of a small machine is
//! not what is measured.

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use octroi::lab::{
    Namespace,
    traffic::{self, UdpSink, set_option},
};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Connections are made and the last answer waited for, for so long.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of a write.
const CHUNK: usize = 65_536;
/// Bytes that a socket takes beyond what TCP may send: who pauses has little left.
const UNSENT: libc::c_int = 131_072;
/// Pause between two round trips.
const PAUSE: Duration = Duration::from_millis(1);
/// Headers of a UDP datagram, Ethernet's included, bytes.
pub const UDP_HEADERS: usize = 42;

/// Threads that go on until this value goes or is ended.
#[derive(Debug, Default)]
struct Crew {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Crew {
    fn spawn(
        &mut self,
        namespace: &Namespace,
        work: impl FnOnce(&AtomicBool) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let stop = Arc::clone(&self.stop);
        let thread = traffic::inside(namespace.open()?, move || work(&stop));
        self.threads.push(thread);
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            let ended = thread.join();
            ended.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// From where to where: the address is of the second namespace.
#[derive(Clone, Copy, Debug)]
pub struct Way<'s> {
    /// Who sends.
    pub from: &'s Namespace,
    /// Who receives.
    pub to: &'s Namespace,
    /// Of whom receives.
    pub address: IpAddr,
}

/// TCP flows with always something to send; CUBIC's, whatever this machine's default is.
#[derive(Debug)]
pub struct Bulk {
    crew: Crew,
    go: Arc<AtomicBool>,
    received: Arc<[AtomicU64]>,
}

impl Bulk {
    /// Connects them all; they send when told to.
    ///
    /// # Errors
    /// When they do not connect in time.
    pub fn connect(way: Way<'_>, port: u16, flows: usize) -> Result<Self> {
        let listener = way.to.run(|| TcpListener::bind(("0.0.0.0", port)))??;
        listener.set_nonblocking(true)?;
        let received: Arc<[AtomicU64]> = (0..flows).map(|_| AtomicU64::new(0)).collect();
        let mut bulk = Self {
            crew: Crew::default(),
            go: Arc::default(),
            received: Arc::clone(&received),
        };
        bulk.crew.spawn(way.to, move |stop| {
            receive(&accept(&listener, received.len(), stop)?, &received, stop)
        })?;
        let (told, connected) = mpsc::channel();
        let (go, to) = (Arc::clone(&bulk.go), SocketAddr::new(way.address, port));
        bulk.crew.spawn(way.from, move |stop| {
            let connect = || -> Result<TcpStream> {
                let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.set_nonblocking(true)?;
                // What is unsent at the end is given up, so that it is not the next cell's.
                let linger = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                set_option(&stream, libc::SOL_SOCKET, libc::SO_LINGER, linger)?;
                set_option(&stream, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT)?;
                set_option(&stream, libc::IPPROTO_TCP, libc::TCP_CONGESTION, *b"cubic")?;
                Ok(stream)
            };
            let streams = (0..flows).map(|_| connect()).collect::<Result<Vec<_>>>()?;
            let _ = told.send(());
            send(&streams, &go, stop)
        })?;
        if connected.recv_timeout(PATIENCE + PATIENCE).is_err() {
            bulk.crew.end()?;
            anyhow::bail!("{flows} flows do not connect");
        }
        Ok(bulk)
    }

    /// From now on they send, or they pause: what is on its way arrives still.
    pub fn go(&self, sends: bool) {
        self.go.store(sends, Relaxed);
    }

    /// Payload bytes that each flow has carried.
    pub fn received(&self) -> Vec<u64> {
        let counts = self.received.iter();
        counts.map(|count| count.load(Relaxed)).collect()
    }

    /// Of all flows together.
    pub fn total(&self) -> u64 {
        self.received().iter().sum()
    }

    /// Ends them.
    ///
    /// # Errors
    /// What a thread of it met.
    pub fn end(self) -> Result<()> {
        self.crew.end()
    }
}

fn accept(listener: &TcpListener, flows: usize, stop: &AtomicBool) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::new();
    while streams.len() < flows && !stop.load(Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                streams.push(stream);
            }
            Err(_) => thread::sleep(Duration::from_micros(500)),
        }
    }
    Ok(streams)
}

/// Waits until one is ready, 20 ms at most; returns which are.
fn ready(fds: &mut [libc::pollfd]) -> impl Iterator<Item = usize> + '_ {
    // SAFETY: the slice is as long as said.
    let _ = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 20) };
    let found = fds.iter().enumerate();
    found.filter_map(|(at, fd)| (fd.revents != 0).then_some(at))
}

fn polled(streams: &[TcpStream], events: libc::c_short) -> Vec<libc::pollfd> {
    let of = |stream: &TcpStream| libc::pollfd {
        fd: stream.as_raw_fd(),
        events,
        revents: 0,
    };
    streams.iter().map(of).collect()
}

fn send(streams: &[TcpStream], go: &AtomicBool, stop: &AtomicBool) -> Result<()> {
    let mut fds = polled(streams, libc::POLLOUT);
    let chunk = vec![0x5A; CHUNK];
    while !stop.load(Relaxed) {
        if !go.load(Relaxed) {
            thread::sleep(Duration::from_micros(200));
            continue;
        }
        for at in ready(&mut fds) {
            match (&streams[at]).write(&chunk) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The receiver may be the first to end.
                Err(_) if stop.load(Relaxed) => return Ok(()),
                Err(error) => return Err(error).context("TCP write"),
                Ok(_) => {}
            }
        }
    }
    Ok(())
}

fn receive(streams: &[TcpStream], counts: &[AtomicU64], stop: &AtomicBool) -> Result<()> {
    let mut fds = polled(streams, libc::POLLIN);
    let mut buffer = vec![0; 4 * CHUNK];
    while !stop.load(Relaxed) {
        let mut open = true;
        for at in ready(&mut fds) {
            match (&streams[at]).read(&mut buffer) {
                Ok(count @ 1..) => {
                    counts[at].fetch_add(count as u64, Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The other end is ending, too.
                _ => open = false,
            }
        }
        if !open {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// How long a request waited for its answer, and what TCP did for it.
#[derive(Debug)]
pub struct Answered {
    /// ns.
    pub times: Histogram<u64>,
    /// Timers of the requests that ran out; `None`: this kernel does not tell.
    pub timeouts: Option<u64>,
    /// Requests that were sent again, by a timer or by a tail loss probe, which waits for 200 ms where one packet alone is
    /// under way (`tcp_schedule_loss_probe`) and is no timer that ran out.
    pub again: Option<u64>,
}

impl Answered {
    /// A percentile, ms.
    pub fn ms(&self, percentile: f64) -> f64 {
        self.times.value_at_percentile(percentile) as f64 / 1e6
    }
}

/// One connection with a byte there and a byte back.
#[derive(Debug)]
pub struct RoundTrips {
    crew: Crew,
    result: mpsc::Receiver<Answered>,
}

impl RoundTrips {
    /// Starts it; requests between `from` and `until` are taken.
    ///
    /// # Errors
    /// When it does not connect.
    pub fn start(way: Way<'_>, port: u16, from: Instant, until: Instant) -> Result<Self> {
        let listener = way.to.run(|| TcpListener::bind(("0.0.0.0", port)))??;
        listener.set_nonblocking(true)?;
        let mut crew = Crew::default();
        crew.spawn(way.to, move |stop| {
            let Some(mut stream) = accept(&listener, 1, stop)?.pop() else {
                return Ok(());
            };
            stream.set_nonblocking(false)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_millis(200)))?;
            let mut byte = [0];
            while !stop.load(Relaxed) {
                match stream.read(&mut byte) {
                    Ok(1) => stream.write_all(&byte)?,
                    Ok(_) => break,
                    Err(_) => {}
                }
            }
            Ok(())
        })?;
        let to = SocketAddr::new(way.address, port);
        let stream = way
            .from
            .run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
        let (told, result) = mpsc::channel();
        crew.spawn(way.from, move |_| {
            let _ = told.send(ask(stream, from, until)?);
            Ok(())
        })?;
        Ok(Self { crew, result })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it broke.
    pub fn end(self) -> Result<Answered> {
        let result = self.result.recv();
        self.crew.end()?;
        result.context("no round trips")
    }
}

fn ask(mut stream: TcpStream, from: Instant, until: Instant) -> Result<Answered> {
    let mut times = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [1];
    let mut before = None;
    while Instant::now() < until {
        let begun = Instant::now();
        if begun >= from && before.is_none() {
            before = Some((timeouts(&stream), again(&stream)));
        }
        stream.write_all(&byte)?;
        match stream.read_exact(&mut byte) {
            Ok(()) => {}
            // It waited for that long at least.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("round trip"),
        }
        // One that was asked before and answered within the time is taken: it is the slowest that leave it.
        if Instant::now() >= from {
            times.saturating_record(begun.elapsed().as_nanos() as u64);
        }
        thread::sleep(PAUSE);
    }
    let since = |before: Option<u64>, after: Option<u64>| Some(after? - before?);
    let (timed_before, again_before) = before.unwrap_or_default();
    let timeouts = since(timed_before, timeouts(&stream));
    let again = since(again_before, again(&stream));
    Ok(Answered {
        times,
        timeouts,
        again,
    })
}

/// `tcpi_total_rto` of the socket, since Linux 6.7.
fn timeouts(stream: &TcpStream) -> Option<u64> {
    let [low, high] = info::<240, 2>(stream)?;
    Some(u64::from(u16::from_ne_bytes([low, high])))
}

/// `tcpi_total_retrans` of the socket.
fn again(stream: &TcpStream) -> Option<u64> {
    Some(u64::from(u32::from_ne_bytes(info::<100, 4>(stream)?)))
}

/// Bytes of `struct tcp_info` (include/uapi/linux/tcp.h) from `AT` on.
fn info<const AT: usize, const LEN: usize>(stream: &TcpStream) -> Option<[u8; LEN]> {
    let mut info = [0_u8; 512];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the buffer is as long as said, and so is the length.
    let failed = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let value = info[..length as usize].get(AT..AT + LEN)?;
    (failed == 0).then(|| value.try_into().ok())?
}

/// A sender of UDP that looks at nothing.
#[derive(Clone, Copy, Debug)]
pub struct Blast {
    /// Payload bytes of a datagram.
    pub payload: usize,
    /// Datagrams handed to the kernel at once, as one GSO packet; 1: without.
    pub at_once: usize,
    /// Mbit/s with headers, Ethernet's included.
    pub mbit: f64,
}

/// Seconds after the begin, from and to.
pub type Span = (f64, f64);

/// It sends until it is ended.
#[derive(Debug)]
pub struct Blasting(Crew);

impl Blast {
    /// Sends within these spans after `begin`. Somebody should listen, or ICMP answers.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn start(
        self,
        way: Way<'_>,
        port: u16,
        begin: Instant,
        spans: Vec<Span>,
    ) -> Result<Blasting> {
        let mut crew = Crew::default();
        let to = SocketAddr::new(way.address, port);
        crew.spawn(way.from, move |stop| {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.connect(to)?;
            // A queue on the way holds a sender up whose buffer is smaller: a flooder has the larger one.
            set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 64 << 20)?;
            if self.at_once > 1 {
                traffic::udp_segment(&socket, self.payload as u16)?;
            }
            for span in spans {
                self.send(&socket, begin, span, stop);
            }
            Ok(())
        })?;
        Ok(Blasting(crew))
    }

    fn send(self, socket: &UdpSocket, begin: Instant, (from, to): Span, stop: &AtomicBool) {
        let buffer = vec![0xA5; self.payload * self.at_once];
        let bits = ((self.payload + UDP_HEADERS) * self.at_once * 8) as f64;
        let gap = Duration::from_secs_f64(bits / (self.mbit * 1e6));
        let mut due = Duration::from_secs_f64(from);
        while !stop.load(Relaxed) {
            let since = begin.elapsed();
            if since.as_secs_f64() >= to {
                return;
            }
            if since < due {
                thread::sleep((due - since).min(Duration::from_millis(5)));
                continue;
            }
            // What the interface refuses, a flooder sends again, or not: no concern of his.
            let _ = socket.send(&buffer);
            // Who was late catches up for 5 ms, not for longer.
            due = (due + gap).max(since.saturating_sub(Duration::from_millis(5)));
        }
    }
}

impl Blasting {
    /// Ends it.
    ///
    /// # Errors
    /// What it met.
    pub fn end(self) -> Result<()> {
        self.0.end()
    }
}

/// Bytes of all frames of datagrams that a sink took.
pub fn frame_bytes(sink: &UdpSink) -> u64 {
    let (datagrams, payload) = sink.received();
    payload + datagrams * UDP_HEADERS as u64
}
