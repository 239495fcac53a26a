//! A way from this machine's loopback to that of the demo's host, which is a network namespace: for a browser.
//!
//! The daemon sees this process at the other end, which is root's. So this asks the kernel in its place, and lets in
//! only root and whoever became root by sudo.

use crate::{daemon::loopback_owner, lab::Site};
use anyhow::{Context as _, Result};
use std::{
    env,
    fs::File,
    io::{self, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Where the page is, on both sides; when this machine's is taken, another one.
pub const PAGE: &str = "127.0.0.1:8787";
const AGAIN: Duration = Duration::from_millis(20);

/// The way, open as long as this lives.
pub struct Door {
    /// Where it begins.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Opens it.
    ///
    /// # Errors
    /// When nothing can listen here.
    pub fn open(site: &Site) -> Result<Self> {
        let listener = TcpListener::bind(PAGE).or_else(|_| TcpListener::bind("127.0.0.1:0"));
        let listener = listener.context("no port of 127.0.0.1")?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, namespace) = (Arc::clone(&stop), site.host.open()?);
        let thread = thread::spawn(move || {
            while !stopped.load(Relaxed) {
                match listener.accept() {
                    Ok((stream, from)) if may_enter(from, address) => through(stream, &namespace),
                    Ok((mut stream, _)) => {
                        let _ = stream.write_all(
                            b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                        );
                    }
                    Err(_) => thread::sleep(AGAIN),
                }
            }
        });
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn may_enter(from: SocketAddr, to: SocketAddr) -> bool {
    let by_sudo = env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
    loopback_owner(from, to).is_ok_and(|uid| uid == 0 || Some(uid) == by_sudo)
}

/// Copies both ways until either end is done.
fn through(near: TcpStream, namespace: &File) {
    let Ok(namespace) = namespace.try_clone() else {
        return;
    };
    thread::spawn(move || -> io::Result<()> {
        crate::lab::namespace::enter(&namespace).map_err(io::Error::other)?;
        let far = TcpStream::connect(PAGE)?;
        near.set_nonblocking(false)?;
        let (near_too, far_too) = (near.try_clone()?, far.try_clone()?);
        let back = thread::spawn(move || copy(far_too, near_too));
        copy(near, far);
        let _ = back.join();
        Ok(())
    });
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
