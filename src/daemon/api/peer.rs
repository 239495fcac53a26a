//! Who is at the other end of a connection, as the kernel says, and what that makes of him.
//!
//! Names are looked up when a configuration is put in force, not for each request: a directory service that
//! hangs must not hang the daemon.

use crate::config::{Api, Holder};
use std::{
    ffi::CString,
    io,
    mem::{MaybeUninit, size_of},
    os::fd::AsRawFd,
};

/// A look-up of a name needs no more memory than this, bytes.
const LOOKUP_BYTES_MAX: usize = 1 << 20;
/// `NGROUPS_MAX` of Linux.
const GROUPS_MAX: usize = 65_536;

/// What somebody may do; each may do what those before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Read,
    /// Change ports, tenants and zones.
    Policy,
    /// Everything: root.
    Admin,
}

impl Role {
    /// As it is written in the ledger and in refusals.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Policy => "policy",
            Self::Admin => "admin",
        }
    }
}

/// The other end, as it was when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Effective user.
    pub uid: u32,
    /// Effective group, and all others.
    pub groups: Vec<u32>,
    /// Of the names that hold a role, that for which the other end's certificate is valid; empty: it is valid for none of
    /// them. `None`: it has none, and is a user of this host.
    pub certificate: Option<String>,
}

impl Peer {
    /// A user of this host, with groups.
    pub fn user(uid: u32, groups: Vec<u32>) -> Self {
        Self {
            uid,
            groups,
            certificate: None,
        }
    }

    /// Whoever has the key of a certificate that is valid for this name. No user of this host.
    pub fn certified(name: String) -> Self {
        Self {
            certificate: Some(name),
            ..Self::user(u32::MAX, Vec::new())
        }
    }

    /// As it is written in the ledger and in refusals.
    pub fn called(&self) -> String {
        match self.certificate.as_deref() {
            None => format!("uid {}", self.uid),
            Some("") => "a certificate that is for no name of [api] read or policy".into(),
            Some(name) => format!("certificate {name}"),
        }
    }

    /// Asks the kernel.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn of(socket: &impl AsRawFd) -> io::Result<Self> {
        let mut peer = libc::ucred {
            pid: 0,
            uid: u32::MAX,
            gid: u32::MAX,
        };
        let length = size_of::<libc::ucred>();
        // SAFETY: plain numbers, of the length that is said.
        unsafe { option(socket, libc::SO_PEERCRED, (&raw mut peer).cast(), length) }?;
        let mut groups = vec![peer.gid];
        groups.extend(supplementary(socket)?);
        Ok(Self::user(peer.uid, groups))
    }
}

/// The supplementary groups of the other end.
fn supplementary(socket: &impl AsRawFd) -> io::Result<Vec<u32>> {
    let mut room = 64;
    loop {
        let mut groups = vec![0_u32; room];
        let bytes = room * size_of::<u32>();
        // SAFETY: the kernel writes whole group ids into the vector, at most so many bytes.
        let asked = unsafe {
            option(
                socket,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                bytes,
            )
        };
        match asked {
            Ok(bytes) => {
                groups.truncate(bytes / size_of::<u32>());
                return Ok(groups);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && room < GROUPS_MAX => {
                room = (room * 8).min(GROUPS_MAX);
            }
            Err(error) => return Err(error),
        }
    }
}

/// `getsockopt(SOL_SOCKET)`; returns how many bytes were written.
///
/// # Safety
/// `value` is good for `bytes` bytes, whatever they hold.
unsafe fn option(
    socket: &impl AsRawFd,
    name: libc::c_int,
    value: *mut libc::c_void,
    bytes: usize,
) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(bytes).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: as above; the descriptor is open as long as the socket lives.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            value,
            &raw mut length,
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(length as usize)
}

/// Who holds which role, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    read: Ids,
    policy: Ids,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ids {
    users: Vec<u32>,
    groups: Vec<u32>,
    certificates: Vec<String>,
}

impl Ids {
    fn hold(&self, peer: &Peer) -> bool {
        if let Some(name) = &peer.certificate {
            return self.certificates.contains(name);
        }
        self.users.contains(&peer.uid) || self.groups.iter().any(|id| peer.groups.contains(id))
    }
}

impl Access {
    /// Looks the names up; returns those that nobody has, too.
    pub fn of(api: &Api) -> (Self, Vec<&Holder>) {
        let mut unknown = Vec::new();
        let ids = |holders: &[Holder]| -> (Ids, Vec<usize>) {
            let mut ids = Ids::default();
            let mut missing = Vec::new();
            for (place, holder) in holders.iter().enumerate() {
                match holder {
                    Holder::Group(name) => match group(name) {
                        Some(id) => ids.groups.push(id),
                        None => missing.push(place),
                    },
                    Holder::Certificate(name) => ids.certificates.push(name.clone()),
                    Holder::User(name) => match user(name) {
                        Some(id) => ids.users.push(id),
                        None => missing.push(place),
                    },
                }
            }
            (ids, missing)
        };
        let (read, no_read) = ids(&api.read);
        let (policy, no_policy) = ids(&api.policy);
        unknown.extend(no_read.into_iter().map(|place| &api.read[place]));
        unknown.extend(no_policy.into_iter().map(|place| &api.policy[place]));
        (Self { read, policy }, unknown)
    }

    /// The highest role that somebody holds.
    pub fn role(&self, peer: &Peer) -> Option<Role> {
        if peer.uid == 0 && peer.certificate.is_none() {
            Some(Role::Admin)
        } else if self.policy.hold(peer) {
            Some(Role::Policy)
        } else if self.read.hold(peer) {
            Some(Role::Read)
        } else {
            None
        }
    }
}

/// A look-up of the C library that takes a name, an entry, a buffer and where it says that it found one.
type LookUp<T> = unsafe extern "C" fn(
    *const libc::c_char,
    *mut T,
    *mut libc::c_char,
    libc::size_t,
    *mut *mut T,
) -> libc::c_int;

/// Number of a group.
fn group(name: &str) -> Option<u32> {
    look_up(name, libc::getgrnam_r, |entry: &libc::group| entry.gr_gid)
}

/// Number of a user.
pub fn user(name: &str) -> Option<u32> {
    look_up(name, libc::getpwnam_r, |entry: &libc::passwd| entry.pw_uid)
}

fn look_up<T>(name: &str, ask: LookUp<T>, number: fn(&T) -> u32) -> Option<u32> {
    let name = CString::new(name).ok()?;
    let mut buffer: Vec<libc::c_char> = vec![0; 1_024];
    loop {
        let mut entry = MaybeUninit::<T>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: all five live through the call, and the buffer has the length that is said.
        let failed = unsafe {
            ask(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        if failed == libc::ERANGE && buffer.len() < LOOKUP_BYTES_MAX {
            buffer.resize(buffer.len() * 4, 0);
            continue;
        }
        if failed != 0 || found.is_null() {
            return None;
        }
        // SAFETY: the C library filled the entry: it says that it found one, there.
        return Some(number(unsafe { entry.assume_init_ref() }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, groups: &[u32]) -> Peer {
        Peer::user(uid, groups.to_vec())
    }

    #[test]
    fn the_highest_role_that_somebody_holds_counts() {
        let access = Access {
            read: Ids {
                users: vec![7],
                groups: vec![100, 200],
                certificates: vec!["a.example".into()],
            },
            policy: Ids {
                users: vec![],
                groups: vec![200],
                certificates: vec!["b.example".into()],
            },
        };
        for (peer, role) in [
            (peer(0, &[]), Some(Role::Admin)),
            (peer(1, &[1, 200]), Some(Role::Policy)),
            (peer(1, &[1, 100]), Some(Role::Read)),
            (peer(7, &[]), Some(Role::Read)),
            // Root's group is not root.
            (peer(1, &[0]), None),
            (peer(200, &[7]), None),
            (Peer::certified("a.example".into()), Some(Role::Read)),
            (Peer::certified("b.example".into()), Some(Role::Policy)),
            (Peer::certified("c.example".into()), None),
            (Peer::certified(String::new()), None),
        ] {
            assert_eq!(access.role(&peer), role, "{peer:?}");
        }
    }

    #[test]
    fn names_are_looked_up_and_those_of_nobody_are_told() {
        let holder = |text: &str| text.parse::<Holder>().expect("a holder");
        let api = Api {
            socket: "/s".into(),
            page: None,
            tls: None,
            read: vec![holder("root"), holder("user:no-such-user")],
            policy: vec![holder("user:root"), holder("no-such-group")],
        };
        let (access, unknown) = Access::of(&api);
        assert_eq!(access.read.groups, [0]);
        assert_eq!(access.policy.users, [0]);
        let unknown: Vec<String> = unknown.iter().map(ToString::to_string).collect();
        assert_eq!(unknown, ["user:no-such-user", "no-such-group"]);
    }

    #[test]
    fn the_kernel_names_the_other_end() {
        let (here, _there) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let peer = Peer::of(&here).expect("credentials");
        // SAFETY: both take nothing and cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        assert_eq!((peer.uid, peer.groups[0]), (uid, gid));
    }
}
