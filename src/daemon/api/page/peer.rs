//! Whose socket is at the other end of a loopback connection.
//!
//! TCP has no `SO_PEERCRED`. But both ends of a loopback connection are sockets of this kernel, and its socket
//! diagnostics (`sock_diag(7)`) tell who made one, by its two addresses.
//!
//! The trap: a socket that was closed while its connection lives has no owner any more, and the kernel says
//! user 0 of it, root. So an answer counts only of a connection that is established and still has an inode, which
//! the kernel reads after the user.

use super::super::peer::Peer;
use std::{
    ffi::{CStr, CString},
    io::{self, Error, ErrorKind},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h and net/tcp_states.h.
const NETLINK_SOCK_DIAG: libc::c_int = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const ESTABLISHED: u8 = 1;
/// `struct nlmsghdr`, bytes.
const HEADER: usize = 16;
/// `struct inet_diag_sockid`, bytes.
const ID: usize = 48;
/// `struct inet_diag_req_v2`: family, protocol, two bytes, states, and the id.
const REQUEST: usize = 8 + ID;
/// `struct inet_diag_msg`: four bytes, the id, and five numbers, of which these are the last two.
const MESSAGE: usize = 4 + ID + 20;
const UID: usize = HEADER + 4 + ID + 12;
const INODE: usize = UID + 4;

/// Memory for the names of a user, bytes, and so many groups at most.
const LOOKUP_BYTES_MAX: usize = 1 << 20;
const GROUPS_MAX: usize = 65_536;

/// The user whose socket is bound to `client` and connected to `server`, both of this host and network namespace.
///
/// # Errors
/// When there is no such connection, its other end is closed or half closed, or the kernel does not tell.
pub fn uid(client: SocketAddr, server: SocketAddr) -> io::Result<u32> {
    // SAFETY: plain numbers; the descriptor is owned at once.
    let socket = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let descriptor = libc::socket(libc::AF_NETLINK, kind, NETLINK_SOCK_DIAG);
        if descriptor < 0 {
            return Err(Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    let id = id(client, server);
    let request = request(client, &id);
    let flags = libc::MSG_NOSIGNAL;
    // SAFETY: the bytes live through the call, and so many they are.
    let sent = unsafe {
        let (data, length) = (request.as_ptr().cast(), request.len());
        libc::send(socket.as_raw_fd(), data, length, flags)
    };
    if sent < 0 {
        return Err(Error::last_os_error());
    }
    // The kernel has answered when `send` returns.
    let mut answer = [0_u8; 1_024];
    // SAFETY: the buffer lives through the call and has the length that is said.
    let length = unsafe {
        let (data, length) = (answer.as_mut_ptr().cast(), answer.len());
        libc::recv(socket.as_raw_fd(), data, length, libc::MSG_DONTWAIT)
    };
    let length = usize::try_from(length).map_err(|_| Error::last_os_error())?;
    read(&answer[..length], &id)
}

/// `struct inet_diag_sockid`, without a cookie: ports and addresses as on the wire.
fn id(local: SocketAddr, remote: SocketAddr) -> [u8; ID] {
    let mut id = [0; ID];
    id[..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    for (at, address) in [(4, local.ip()), (20, remote.ip())] {
        match address {
            IpAddr::V4(address) => id[at..at + 4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => id[at..at + 16].copy_from_slice(&address.octets()),
        }
    }
    id[40..].fill(0xff);
    id
}

fn request(client: SocketAddr, id: &[u8; ID]) -> [u8; HEADER + REQUEST] {
    let mut request = [0; HEADER + REQUEST];
    let family = if client.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    request[..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request[HEADER] = family as u8;
    request[HEADER + 1] = libc::IPPROTO_TCP as u8;
    request[HEADER + 4..HEADER + 8].copy_from_slice(&u32::MAX.to_ne_bytes());
    request[HEADER + 8..].copy_from_slice(id);
    request
}

fn read(answer: &[u8], id: &[u8; ID]) -> io::Result<u32> {
    let short = || Error::new(ErrorKind::InvalidData, "socket diagnostics: a short answer");
    let word = |at: usize| -> io::Result<u32> {
        let bytes = answer.get(at..at + 4).ok_or_else(short)?;
        Ok(u32::from_ne_bytes(bytes.try_into().map_err(|_| short())?))
    };
    let kind = answer.get(4..6).ok_or_else(short)?;
    let kind = u16::from_ne_bytes([kind[0], kind[1]]);
    if i32::from(kind) == libc::NLMSG_ERROR {
        return Err(Error::from_raw_os_error(
            (word(HEADER)? as i32).wrapping_neg(),
        ));
    }
    if kind != SOCK_DIAG_BY_FAMILY || answer.len() < HEADER + MESSAGE {
        return Err(short());
    }
    let gone = || Error::new(ErrorKind::NotConnected, "the other end is closed");
    // Ports and addresses; interface and cookie are the kernel's to say.
    let same = answer[HEADER + 4..HEADER + 4 + 36] == id[..36];
    if !same || answer[HEADER + 1] != ESTABLISHED || word(INODE)? == 0 {
        return Err(gone());
    }
    word(UID)
}

/// Does this kernel tell? Asks it about a connection of one's own.
///
/// # Errors
/// When it does not, or says something else than is true.
pub fn try_out(listener: &TcpListener) -> io::Result<()> {
    let server = listener.local_addr()?;
    let client = TcpStream::connect(server)?;
    let found = uid(client.local_addr()?, server)?;
    // SAFETY: takes nothing, cannot fail.
    if found != unsafe { libc::geteuid() } {
        return Err(Error::other(format!(
            "it takes this process for user {found}"
        )));
    }
    Ok(())
}

/// A user with all groups that the host's directory gives him. May wait for that directory.
pub fn look_up(uid: u32) -> Peer {
    Peer::user(uid, groups(uid).unwrap_or_default())
}

fn groups(uid: u32) -> Option<Vec<u32>> {
    let (name, group) = user(uid)?;
    let mut room = 64;
    loop {
        let mut found: Vec<libc::gid_t> = vec![0; room];
        let mut count = libc::c_int::try_from(room).ok()?;
        // SAFETY: the name ends with zero, and the vector has the length that is said.
        let whole =
            unsafe { libc::getgrouplist(name.as_ptr(), group, found.as_mut_ptr(), &raw mut count) };
        let count = usize::try_from(count).ok()?;
        if whole >= 0 {
            found.truncate(count);
            return Some(found);
        }
        if room >= GROUPS_MAX {
            return None;
        }
        room = count.clamp(room * 2, GROUPS_MAX);
    }
}

/// Name and group of a user.
fn user(uid: u32) -> Option<(CString, u32)> {
    let mut buffer: Vec<libc::c_char> = vec![0; 1_024];
    loop {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: all of them live through the call, and the buffer has the length that is said.
        let failed = unsafe {
            let (data, length) = (buffer.as_mut_ptr(), buffer.len());
            libc::getpwuid_r(uid, entry.as_mut_ptr(), data, length, &raw mut found)
        };
        if failed == libc::ERANGE && buffer.len() < LOOKUP_BYTES_MAX {
            buffer.resize(buffer.len() * 4, 0);
            continue;
        }
        if failed != 0 || found.is_null() {
            return None;
        }
        // SAFETY: the C library filled the entry, whose name ends with zero within the buffer.
        return Some(unsafe {
            let entry = entry.assume_init_ref();
            (CStr::from_ptr(entry.pw_name).to_owned(), entry.pw_gid)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;

    fn pair(on: &str) -> (TcpStream, TcpStream, SocketAddr) {
        let listener = TcpListener::bind(on).expect("a port");
        let server = listener.local_addr().expect("an address");
        let client = TcpStream::connect(server).expect("a connection");
        let (taken, _) = listener.accept().expect("a connection");
        (client, taken, server)
    }

    #[test]
    fn the_kernel_names_who_made_the_other_end() {
        // SAFETY: takes nothing, cannot fail.
        let own = unsafe { libc::geteuid() };
        for on in ["127.0.0.1:0", "[::1]:0"] {
            let (client, taken, server) = pair(on);
            let from = taken.peer_addr().expect("an address");
            assert_eq!(uid(from, server).expect("a user"), own, "{on}");
            drop(client);
        }
    }

    #[test]
    fn an_end_that_is_closed_is_nobodys_and_not_roots() {
        for half in [false, true] {
            let (client, taken, server) = pair("127.0.0.1:0");
            let from = taken.peer_addr().expect("an address");
            if half {
                client.shutdown(Shutdown::Write).expect("shut down");
                assert!(uid(from, server).is_err());
            }
            drop(client);
            assert!(uid(from, server).is_err());
        }
        let nobody = "127.0.0.1:9".parse().expect("an address");
        assert!(uid(nobody, nobody).is_err());
    }

    #[test]
    fn an_answer_that_is_cut_off_is_none() {
        let id = [7; ID];
        let mut whole = vec![0_u8; HEADER + MESSAGE];
        whole[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        whole[HEADER + 1] = ESTABLISHED;
        whole[HEADER + 4..HEADER + 4 + ID].copy_from_slice(&id);
        whole[UID..UID + 4].copy_from_slice(&1_000_u32.to_ne_bytes());
        whole[INODE..INODE + 4].copy_from_slice(&5_u32.to_ne_bytes());
        assert_eq!(read(&whole, &id).expect("a user"), 1_000);
        for length in 0..whole.len() {
            assert!(read(&whole[..length], &id).is_err(), "{length}");
        }
        for (at, byte) in [(HEADER + 1, 5), (INODE, 0), (HEADER + 4, 0), (4, 2)] {
            let mut other = whole.clone();
            other[at] = byte;
            assert!(read(&other, &id).is_err(), "{at}");
        }
    }

    #[test]
    fn root_has_its_groups_and_nobody_has_none() {
        assert!(look_up(0).groups.contains(&0));
        assert!(look_up(4_000_000_001).groups.is_empty());
    }
}
