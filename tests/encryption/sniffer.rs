//! A sniffer, and what it looks for.

use anyhow::{Context as _, Result};
use octroi::lab::{Namespace, traffic::inside};
use std::{
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

/// In every clear payload of the tests: nobody else says it.
pub const CANARY: &str = "GET /canary-7c1e94 HTTP/1.1\r\nHost: remote.example\r\n\r\n";

/// Sees every frame of an interface of the host, and counts those with the canary in them.
pub struct Sniffer(OwnedFd);

impl Sniffer {
    /// Listens from now on.
    pub fn start(namespace: &Namespace, interface: &str) -> Result<Self> {
        let index = namespace.interfaces()?;
        let index = index.get(interface).context("no such interface")?.index;
        let socket = inside(namespace.open()?, move || {
            let all = (libc::ETH_P_ALL as u16).to_be();
            // SAFETY: plain arguments; the result is checked.
            let fd = unsafe {
                libc::socket(
                    libc::AF_PACKET,
                    libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                    i32::from(all),
                )
            };
            anyhow::ensure!(fd >= 0, std::io::Error::last_os_error());
            // SAFETY: just made, and nobody else's.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: plain data.
            let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            to.sll_family = libc::AF_PACKET as u16;
            to.sll_protocol = all;
            to.sll_ifindex = index as i32;
            // SAFETY: `to` is as long as said.
            let bound = unsafe {
                libc::bind(
                    socket.as_raw_fd(),
                    (&raw const to).cast(),
                    size_of::<libc::sockaddr_ll>() as u32,
                )
            };
            anyhow::ensure!(bound == 0, std::io::Error::last_os_error());
            Ok(socket)
        });
        let socket = socket.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        Ok(Self(socket))
    }

    /// Frames with the canary since the last time.
    pub fn seen(&mut self) -> Result<u64> {
        std::thread::sleep(Duration::from_millis(200));
        let canary = b"canary-7c1e94";
        let mut frame = vec![0_u8; 1 << 17];
        let mut seen = 0;
        loop {
            // SAFETY: the buffer is as long as said.
            let read = unsafe {
                libc::recv(
                    self.0.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    0,
                )
            };
            let Ok(read) = usize::try_from(read) else {
                return Ok(seen);
            };
            if frame[..read.min(frame.len())]
                .windows(canary.len())
                .any(|window| window == canary)
            {
                seen += 1;
            }
        }
    }
}
