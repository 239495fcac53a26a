//! A sniffer, and what it looks for.

use anyhow::{Context as _, Result};
use octroi::lab::{Namespace, frames::RawSocket};
use std::time::Duration;

/// In every clear payload of the tests: nobody else says it.
pub const CANARY: &str = "GET /canary-7c1e94 HTTP/1.1\r\nHost: remote.example\r\n\r\n";

/// Sees every frame of an interface of the host, and counts those with the canary in them.
pub struct Sniffer(RawSocket);

impl Sniffer {
    /// Listens from now on.
    pub fn start(namespace: &Namespace, interface: &str) -> Result<Self> {
        let interfaces = namespace.interfaces()?;
        let index = interfaces
            .get(interface)
            .context("no such interface")?
            .index;
        let socket = namespace.run(|| {
            let mut socket = RawSocket::open(index)?;
            socket.listen()?;
            anyhow::Ok(socket)
        })??;
        Ok(Self(socket))
    }

    /// Frames with the canary since the last time.
    pub fn seen(&mut self) -> u64 {
        std::thread::sleep(Duration::from_millis(200));
        let canary = b"canary-7c1e94";
        let mut room = vec![0_u8; 1 << 17];
        let mut seen = 0;
        while let Some(frame) = self.0.receive(&mut room) {
            seen += u64::from(frame.windows(canary.len()).any(|window| window == canary));
        }
        seen
    }
}
