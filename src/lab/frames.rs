//! Raw frames through a packet socket: what no honest socket sends.

use super::traffic;
use anyhow::{Result, bail, ensure};
use std::{
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Instant,
};

/// A packet socket on one interface of this thread's namespace.
#[derive(Debug)]
pub struct RawSocket {
    socket: OwnedFd,
    address: libc::sockaddr_ll,
}

impl RawSocket {
    /// Opens it on the interface with this index.
    ///
    /// # Errors
    /// When this is not root.
    pub fn open(ifindex: u32) -> Result<Self> {
        // SAFETY: plain numbers.
        let socket =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        ensure!(
            socket >= 0,
            "packet socket: {}",
            std::io::Error::last_os_error()
        );
        // SAFETY: the descriptor was just made and is nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        // SAFETY: zero is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = ifindex as i32;
        Ok(Self { socket, address })
    }

    /// From now on it hears every frame of the interface, of both directions: see [`RawSocket::receive`].
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen(&mut self) -> Result<()> {
        self.address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: the address is as long as said.
        let bound = unsafe {
            libc::bind(
                self.socket.as_raw_fd(),
                (&raw const self.address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        ensure!(bound == 0, "listen: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// The next frame that it heard, as much as `frame` has room for; `None`: there is none by now.
    pub fn receive<'a>(&self, frame: &'a mut [u8]) -> Option<&'a [u8]> {
        // SAFETY: the buffer is as long as said.
        let read = unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
            )
        };
        frame.get(..usize::try_from(read).ok()?)
    }

    /// Sends a frame as it is.
    ///
    /// # Errors
    /// When the interface refuses it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: frame and address live through the call.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const self.address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        ensure!(
            sent == frame.len() as isize,
            "send: {}",
            std::io::Error::last_os_error()
        );
        Ok(())
    }

    /// Sends these frames by turns, as fast as one processor can, until `until`; how many. No queue is in between: what the
    /// other end does with a frame is done before the next one.
    ///
    /// # Errors
    /// When the interface refuses them.
    pub fn flood(&self, frames: &[Vec<u8>], until: Instant) -> Result<u64> {
        const BATCH: usize = 64;
        const PACKET_QDISC_BYPASS: libc::c_int = 20;
        traffic::set_option(&self.socket, libc::SOL_PACKET, PACKET_QDISC_BYPASS, 1)?;
        let mut parts: Vec<libc::iovec> = (0..BATCH)
            .filter_map(|number| frames.get(number % frames.len().max(1)))
            .map(|frame| libc::iovec {
                iov_base: frame.as_ptr().cast_mut().cast(),
                iov_len: frame.len(),
            })
            .collect();
        let mut address = self.address;
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: zero is a valid message.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_name = (&raw mut address).cast();
                message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let mut all = 0;
        while Instant::now() < until {
            // SAFETY: messages, their address, parts and frames live through the call; the kernel only reads frames.
            let sent = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    messages.as_mut_ptr(),
                    messages.len() as libc::c_uint,
                    0,
                )
            };
            match u64::try_from(sent) {
                Ok(sent) => all += sent,
                // Its ring is full for a moment.
                Err(_) if std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS) => {
                }
                Err(_) => bail!("flood: {}", std::io::Error::last_os_error()),
            }
        }
        Ok(all)
    }
}

/// An Ethernet, IPv4 and UDP frame with `payload` zero bytes. The UDP checksum is left out (0).
pub fn udp4(
    src_mac: [u8; 6],
    dst_mac: [u8; 6],
    src: [u8; 4],
    dst: [u8; 4],
    payload: usize,
) -> Vec<u8> {
    let total = (28 + payload) as u16;
    let mut frame = Vec::with_capacity(14 + usize::from(total));
    frame.extend_from_slice(&dst_mac);
    frame.extend_from_slice(&src_mac);
    frame.extend_from_slice(&[0x08, 0x00]);
    let mut header = [
        0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[12..16].copy_from_slice(&src);
    header[16..20].copy_from_slice(&dst);
    let sum: u32 = header
        .chunks_exact(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    let sum = !((sum & 0xFFFF) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(&9u16.to_be_bytes());
    frame.extend_from_slice(&9u16.to_be_bytes());
    frame.extend_from_slice(&((8 + payload) as u16).to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.resize(14 + usize::from(total), 0);
    frame
}
