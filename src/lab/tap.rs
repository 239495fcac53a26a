//! A tap, and a guest behind it: frames with a `virtio_net_hdr`, as QEMU hands them to the kernel.

use anyhow::{Context as _, Result, ensure};
use std::{
    fs::{File, OpenOptions},
    io::{Error, Write as _},
    os::fd::AsRawFd as _,
};

/// How the guest says that a frame is to be cut (`VIRTIO_NET_HDR_GSO_*`).
pub mod gso {
    /// TCP over IPv4.
    pub const TCPV4: u8 = 1;
    /// UDP fragmentation of old guests.
    pub const UFO: u8 = 3;
    /// TCP over IPv6.
    pub const TCPV6: u8 = 4;
    /// UDP in segments.
    pub const UDP_L4: u8 = 5;
}

/// `struct virtio_net_hdr`, in the host's byte order, with a checksum that is left to the host.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// One of [`gso`].
    pub gso_type: u8,
    /// Bytes up to the end of the transport header.
    pub hdr_len: u16,
    /// Payload bytes of a segment.
    pub gso_size: u16,
    /// Where the transport header begins, and where its checksum stands in it.
    pub csum_start: u16,
    /// In bytes from there.
    pub csum_offset: u16,
}

/// The guest's end of a tap. The interface goes with it.
#[derive(Debug)]
pub struct Tap(File);

impl Tap {
    /// Makes the interface `name` in this thread's namespace.
    ///
    /// # Errors
    /// When this is not root, or there is no tun driver.
    pub fn new(name: &str) -> Result<Self> {
        const TUNSETIFF: libc::Ioctl = 0x4004_54CA;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .context("/dev/net/tun")?;
        // SAFETY: zero is a valid request.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        ensure!(name.len() < request.ifr_name.len(), "{name} is too long");
        for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *place = byte as libc::c_char;
        }
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        // SAFETY: the request lives through the call.
        let failed = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
        ensure!(failed == 0, "TUNSETIFF: {}", Error::last_os_error());
        Ok(Self(file))
    }

    /// Sends a frame; the host has taken it when this returns.
    ///
    /// # Errors
    /// When the interface is down.
    pub fn send(&mut self, header: &Header, frame: &[u8]) -> Result<()> {
        self.write(&packet(Some(header), frame))
    }

    /// Sends a [`packet`] again and again.
    ///
    /// # Errors
    /// As [`Tap::send`].
    pub fn write(&mut self, packet: &[u8]) -> Result<()> {
        let written = self.0.write(packet)?;
        ensure!(written == packet.len(), "the tap took {written} bytes");
        Ok(())
    }
}

/// A frame as the host takes it: whole, or with what is left to the host.
pub fn packet(header: Option<&Header>, frame: &[u8]) -> Vec<u8> {
    const VNET_HDR_LEN: usize = 10;
    let mut bytes = vec![0; VNET_HDR_LEN];
    if let Some(header) = header {
        const NEEDS_CSUM: u8 = 1;
        bytes[..2].copy_from_slice(&[NEEDS_CSUM, header.gso_type]);
        let fields = [
            header.hdr_len,
            header.gso_size,
            header.csum_start,
            header.csum_offset,
        ];
        for (place, field) in bytes[2..].chunks_exact_mut(2).zip(fields) {
            place.copy_from_slice(&field.to_ne_bytes());
        }
    }
    bytes.extend_from_slice(frame);
    bytes
}
