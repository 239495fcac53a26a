//! `[api]`: the socket of the control API, the page beside it, and who may do what by them.

use super::{
    draft::{DraftHost, Field, List},
    errors::Faults,
    file::{header, key},
    model::Host,
    paths::path,
    reader::{Key, Reader},
    values::{ValueError, shown},
};
use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

pub(super) const API: Key = header("api", "[api]");
const SOCKET: Key = key("socket", "\"/run/octroi/api.sock\"");
const PAGE: Key = key("page", "\"127.0.0.1:8787\"");
const READ: Key = key("read", "[\"octroi-read\", \"user:monitor\"]");
const POLICY: Key = key("policy", "[\"octroi-policy\"]");
const KEYS: [Key; 4] = [SOCKET, PAGE, READ, POLICY];

/// A socket's path has to fit into `sockaddr_un`, 108 bytes.
const SOCKET_BYTES_MAX: usize = 100;
/// Lower ports take a capability that the daemon does not keep.
const PAGE_PORT_MIN: u16 = 1_024;
/// `useradd` makes no longer name.
const HOLDER_BYTES_MAX: usize = 32;

/// `[api]`: the control API. Root may do everything by it, whatever is written here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The unix socket; absolute.
    pub socket: PathBuf,
    /// Where the page is served, a loopback address; `None`: nowhere.
    pub page: Option<SocketAddr>,
    /// Who may look.
    pub read: Vec<Holder>,
    /// Who may look, and change ports, tenants and zones.
    pub policy: Vec<Holder>,
}

impl Api {
    /// The socket of a file that names none: in the run directory.
    pub fn default_socket(run_dir: &Path) -> PathBuf {
        run_dir.join("api.sock")
    }
}

/// Who holds a role: a group of the host, or with `user:` before it a user; prints as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// All members of a group.
    Group(String),
    /// One user.
    User(String),
}

impl FromStr for Holder {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (name, make): (_, fn(String) -> Self) = match text.strip_prefix("user:") {
            Some(name) => (name, Self::User),
            None => (text, Self::Group),
        };
        let legal =
            |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, ':' | ',' | '/');
        if name.is_empty() || name.len() > HOLDER_BYTES_MAX || !name.chars().all(legal) {
            return Err(ValueError(format!(
                "{} is no group; write a group's name such as octroi-read, or user:NAME",
                shown(text)
            )));
        }
        Ok(make(name.to_owned()))
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(name) => f.write_str(name),
            Self::User(name) => write!(f, "user:{name}"),
        }
    }
}

/// `[api]` as the file has it.
pub(super) struct DraftApi {
    socket: Field<PathBuf>,
    page: Field<SocketAddr>,
    read: List<Holder>,
    policy: List<Holder>,
}

impl DraftApi {
    /// One that was checked before.
    pub fn of(api: &Api) -> Self {
        Self {
            socket: Field::of(api.socket.clone()),
            page: Field::of_optional(api.page),
            read: List::of(&api.read),
            policy: List::of(&api.policy),
        }
    }

    /// The section; `None` if a value of it was refused.
    pub fn build(self, run_dir: &Path) -> Option<Api> {
        Some(Api {
            socket: self.socket.or(Api::default_socket(run_dir))?,
            page: self.page.optional()?,
            read: self.read.values()?,
            policy: self.policy.values()?,
        })
    }
}

/// Reads the section; `None` when there is none.
pub(super) fn read(root: &mut Reader<'_, '_, '_>) -> Option<DraftApi> {
    let table = match root.table(API) {
        Ok(None) => return None,
        Ok(Some(table)) => table,
        Err(()) => {
            return Some(DraftApi {
                socket: Field::Bad,
                page: Field::Bad,
                read: List::of(&[]),
                policy: List::of(&[]),
            });
        }
    };
    let mut api = Reader::open(table, ("api", "[api]"), &KEYS, root.faults());
    Some(DraftApi {
        socket: api.text(SOCKET, socket),
        page: api.text(PAGE, page),
        read: api.texts(READ, Holder::from_str),
        policy: api.texts(POLICY, Holder::from_str),
    })
}

fn socket(text: &str) -> Result<PathBuf, ValueError> {
    let too_long = "is too long for a socket; write at most 100 bytes";
    let path = path(text, SOCKET_BYTES_MAX, too_long)?;
    if text.ends_with('/') || path.file_name().is_none() {
        return Err(ValueError(format!(
            "{} is a directory; write the name of a socket in it",
            shown(text)
        )));
    }
    Ok(path)
}

fn page(text: &str) -> Result<SocketAddr, ValueError> {
    loopback(text, 8_787, "reach it from elsewhere by `ssh -L`")
}

/// An address that only this host reaches. `port`: of the example; `how`: what to do about it.
pub(super) fn loopback(text: &str, port: u16, how: &str) -> Result<SocketAddr, ValueError> {
    let address = text.parse::<SocketAddr>().map_err(|_| {
        ValueError(format!(
            "{} is no address with a port; write 127.0.0.1:{port} or [::1]:{port}",
            shown(text)
        ))
    })?;
    // Whoever reaches it from elsewhere is unknown to this kernel.
    if !address.ip().is_loopback() {
        return Err(ValueError(format!(
            "{} is no loopback address; write 127.0.0.1 or [::1], and {how}",
            shown(text)
        )));
    }
    // The daemon has given up what binding to lower ports takes.
    if address.port() < PAGE_PORT_MIN {
        return Err(ValueError(format!(
            "{}: write a port from {PAGE_PORT_MIN} to 65535",
            shown(text)
        )));
    }
    Ok(address)
}

/// Reports a socket that is the other one.
pub(super) fn check(api: Option<&DraftApi>, host: &DraftHost, faults: &mut Faults<'_>) {
    let Some(socket) = api.and_then(|api| api.socket.get()) else {
        return;
    };
    let run_dir = host.run_dir.clone().or(PathBuf::from(Host::RUN_DIR));
    if run_dir.is_some_and(|run_dir| socket.value == run_dir.join(crate::daemon::control::SOCKET)) {
        let message = "`socket`: this is the control socket; write another path";
        faults.add(socket.at, message.into());
    }
}
