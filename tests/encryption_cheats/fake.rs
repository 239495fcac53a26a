//! An end that only looks like TLS: hellos that the rule allows, and behind them whatever it likes.

use crate::path::{client_hello, server_hello};
use anyhow::{Context as _, Result, ensure};
use octroi::lab::{Namespace, Site, traffic::inside};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A server that answers a hello with one, and counts what comes behind it.
pub struct Server {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

impl Server {
    pub fn start(namespace: &Namespace, port: u16) -> Result<Self> {
        Self::start_at(namespace, "0.0.0.0", port)
    }

    /// The same at an address; `::` is that of IPv6 alone.
    pub fn start_at(namespace: &Namespace, address: &str, port: u16) -> Result<Self> {
        let listener = namespace.run(|| bind(address, port))??;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let server = Self {
            stop: stop.clone(),
            received: received.clone(),
        };
        std::thread::spawn(move || {
            while !stop.load(Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let received = received.clone();
                        std::thread::spawn(move || answer(stream, &received));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Ok(server)
    }

    /// Bytes behind hellos.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Waits until so many have come; false when they do not within `patience`.
    pub fn receives(&self, bytes: u64, patience: Duration) -> bool {
        let begun = Instant::now();
        while self.received() < bytes && begun.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.received() >= bytes
    }
}

fn bind(address: &str, port: u16) -> std::io::Result<TcpListener> {
    if address == "::" {
        // Of a namespace of the test's own: both families have their own socket.
        std::fs::write("/proc/sys/net/ipv6/bindv6only", "1")?;
    }
    TcpListener::bind((address, port))
}

fn answer(mut stream: TcpStream, received: &AtomicU64) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut hello = vec![0; client_hello(60).len()];
    stream.read_exact(&mut hello)?;
    stream.write_all(&server_hello(0x0304, 0x1302, Some(0x11EC)))?;
    let mut bytes = vec![0; 1 << 18];
    loop {
        let read = stream.read(&mut bytes)?;
        if read == 0 {
            return Ok(());
        }
        received.fetch_add(read as u64, Relaxed);
    }
}

/// Shakes hands from a tenant.
pub fn connect(site: &Site, tenant: usize, to: SocketAddr) -> Result<TcpStream> {
    inside(site.tenants[tenant].open()?, move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.set_write_timeout(Some(Duration::from_secs(3)))?;
        stream.write_all(&client_hello(60))?;
        let mut hello = vec![0; server_hello(0x0304, 0x1302, Some(0x11EC)).len()];
        stream
            .read_exact(&mut hello)
            .context("no hello came back")?;
        ensure!(hello[0] == 22);
        Ok(stream)
    })
    .join()
    .map_err(|_| anyhow::anyhow!("panicked"))?
}
