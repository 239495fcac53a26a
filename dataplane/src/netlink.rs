//! Interfaces of this network namespace: a list, and news of changes.

use crate::{Error, Result};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Index in this namespace; used again after the interface is gone.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Kind as the kernel names it (`veth`, `tun`, `bridge`…), empty for hardware.
    pub kind: String,
    /// Root qdisc.
    pub qdisc: String,
    /// Transmit queues.
    pub tx_queues: u32,
    /// Administratively up.
    pub up: bool,
    /// Program at its XDP hook; 0: none.
    pub xdp: u32,
    /// That program runs in generic mode: on an skb, linearised.
    pub xdp_generic: bool,
    /// rx packets, rx bytes, tx packets, tx bytes as the interface counts them: a GSO packet is one.
    pub stats: [u64; 4],
    /// rx, tx packets that it dropped: by itself, or the stack on its behalf.
    pub dropped: [u64; 2],
    /// Packets that each of its transmit queues may hold.
    pub tx_queue_len: u32,
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Netlink(error.to_string())
}

/// Every interface, by name.
///
/// # Errors
/// [`Error::Netlink`].
pub fn interfaces() -> Result<BTreeMap<String, Interface>> {
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
    socket.bind_auto().map_err(failed)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
    let mut request = NetlinkMessage::new(
        NetlinkHeader::default(),
        NetlinkPayload::from(RouteNetlinkMessage::GetLink(LinkMessage::default())),
    );
    request.header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    request.header.sequence_number = 1;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).map_err(failed)?;

    let mut found = BTreeMap::new();
    loop {
        let (packet, _) = socket.recv_from_full().map_err(failed)?;
        let mut rest = packet.as_slice();
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(failed)?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(failed(error)),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    let interface = interface(&link);
                    found.insert(interface.name.clone(), interface);
                }
                _ => {}
            }
            let len = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(len.max(16)..).unwrap_or_default();
        }
    }
}

/// Index of an interface in the namespace of this thread.
pub fn index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: the string is terminated and lives through the call.
    Some(unsafe { libc::if_nametoindex(name.as_ptr()) }).filter(|index| *index != 0)
}

fn interface(link: &LinkMessage) -> Interface {
    let mut interface = Interface {
        index: link.header.index,
        up: link.header.flags.contains(LinkFlags::Up),
        ..Interface::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Qdisc(name) => interface.qdisc.clone_from(name),
            LinkAttribute::NumTxQueues(count) => interface.tx_queues = *count,
            LinkAttribute::TxQueueLen(packets) => interface.tx_queue_len = *packets,
            LinkAttribute::Xdp(xdp) => {
                for attribute in xdp {
                    match attribute {
                        LinkXdp::ProgId(program) => interface.xdp = *program,
                        LinkXdp::Attached(XdpAttached::SocketBuffer) => {
                            interface.xdp_generic = true;
                        }
                        _ => {}
                    }
                }
            }
            LinkAttribute::Stats64(stats) => {
                interface.stats = [
                    stats.rx_packets,
                    stats.rx_bytes,
                    stats.tx_packets,
                    stats.tx_bytes,
                ];
                interface.dropped = [stats.rx_dropped, stats.tx_dropped];
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        interface.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    interface
}

/// News of interfaces and filters. It says *that* something changed; what it is now is read with
/// [`interfaces`], so that a lost message costs nothing.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// Listens from now on, in the namespace of this thread.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn new() -> Result<Self> {
        const RTNLGRP_LINK: u32 = 1;
        const RTNLGRP_TC: u32 = 4;
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.add_membership(RTNLGRP_LINK).map_err(failed)?;
        socket.add_membership(RTNLGRP_TC).map_err(failed)?;
        socket.set_non_blocking(true).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Takes everything that waits; true when there was something, or when news were lost.
    pub fn drain(&self) -> bool {
        let mut some = false;
        loop {
            match self.socket.recv_from_full() {
                Ok(_) => some = true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return some,
                // ENOBUFS: the kernel had more than fits. Looking at everything again is right.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => some = true,
                Err(_) => return true,
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket lives as long as self.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}
impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}
