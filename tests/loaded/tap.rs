//! A tap, and a guest behind it: frames with a `virtio_net_hdr`, as QEMU hands them to the kernel.

use anyhow::{Result, ensure};
use std::{
    fs::{File, OpenOptions},
    io::{Error, Write as _},
    os::fd::AsRawFd as _,
};

/// How the guest says that a frame is to be cut (`VIRTIO_NET_HDR_GSO_*`).
pub mod gso {
    pub const TCPV4: u8 = 1;
    pub const UFO: u8 = 3;
    pub const TCPV6: u8 = 4;
    pub const UDP_L4: u8 = 5;
}

/// `struct virtio_net_hdr`, in the host's byte order, with a checksum that is left to the host.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// One of [`gso`].
    pub gso_type: u8,
    /// Bytes up to the end of the transport header.
    pub hdr_len: u16,
    pub gso_size: u16,
    /// Where the transport header begins, and where its checksum stands in it.
    pub csum_start: u16,
    pub csum_offset: u16,
}

/// The guest's end of a tap. The interface goes with it.
pub struct Tap(File);

impl Tap {
    /// Makes the interface `name`.
    pub fn new(name: &str) -> Result<Self> {
        const TUNSETIFF: libc::Ioctl = 0x4004_54CA;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
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
    pub fn send(&mut self, header: &Header, frame: &[u8]) -> Result<()> {
        const NEEDS_CSUM: u8 = 1;
        let mut bytes = vec![NEEDS_CSUM, header.gso_type];
        for field in [
            header.hdr_len,
            header.gso_size,
            header.csum_start,
            header.csum_offset,
        ] {
            bytes.extend_from_slice(&field.to_ne_bytes());
        }
        bytes.extend_from_slice(frame);
        let written = self.0.write(&bytes)?;
        ensure!(written == bytes.len(), "the tap took {written} bytes");
        Ok(())
    }
}
