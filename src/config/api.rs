//! `[api]`: the socket of the control API, the page beside it, and who may do what by them.

use super::{
    draft::{DraftHost, Field, List},
    errors::Faults,
    file::{header, key},
    model::Host,
    paths::{file, path},
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
const LISTEN: Key = key("listen", "\"192.0.2.10:8443\"");
const CERTIFICATE: Key = key("certificate", "\"/etc/octroi/api.pem\"");
const PRIVATE_KEY: Key = key("key", "\"/etc/octroi/api.key\"");
const CLIENT_CA: Key = key("client_ca", "\"/etc/octroi/clients-ca.pem\"");
const KEYS: [Key; 8] = [
    SOCKET,
    PAGE,
    LISTEN,
    CERTIFICATE,
    PRIVATE_KEY,
    CLIENT_CA,
    READ,
    POLICY,
];

/// A socket's path has to fit into `sockaddr_un`, 108 bytes.
const SOCKET_BYTES_MAX: usize = 100;
/// Lower ports take a capability that the daemon does not keep.
const PAGE_PORT_MIN: u16 = 1_024;
/// `useradd` makes no longer name.
const HOLDER_BYTES_MAX: usize = 32;
/// RFC 1035 §2.3.4.
const DNS_BYTES_MAX: usize = 253;

/// `[api]`: the control API. Root may do everything by it, whatever is written here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The unix socket; absolute.
    pub socket: PathBuf,
    /// Where the page is served, a loopback address; `None`: nowhere.
    pub page: Option<SocketAddr>,
    /// TLS for clients with certificates; `None`: none is served.
    pub tls: Option<Tls>,
    /// Who may look.
    pub read: Vec<Holder>,
    /// Who may look, and change ports, tenants and zones.
    pub policy: Vec<Holder>,
}

/// Where the API is served to other machines, and how both ends say who they are. Files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Address and port.
    pub listen: SocketAddr,
    /// The daemon's certificate, and what leads from it to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities, of which one must have signed a client's certificate.
    pub client_ca: PathBuf,
}

impl Tls {
    /// The files that the daemon reads.
    pub fn reads(&self) -> [&Path; 3] {
        [&self.certificate, &self.key, &self.client_ca]
    }
}

impl Api {
    /// The socket of a file that names none: in the run directory.
    pub fn default_socket(run_dir: &Path) -> PathBuf {
        run_dir.join("api.sock")
    }
}

/// Who holds a role: a group of the host, with `user:` before it a user, with `cert:` a client's certificate that is valid
/// for a DNS name; prints as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// All members of a group.
    Group(String),
    /// One user.
    User(String),
    /// Whoever has the key of a certificate for this name.
    Certificate(String),
}

impl FromStr for Holder {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if let Some(name) = text.strip_prefix("cert:") {
            let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(legal);
            if name.len() > DNS_BYTES_MAX || !name.split('.').all(label) {
                return Err(ValueError(format!(
                    "{} is no certificate's name; write cert: and a DNS name in small letters, as in cert:billing.example",
                    shown(text)
                )));
            }
            return Ok(Self::Certificate(name.to_owned()));
        }
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
            Self::Certificate(name) => write!(f, "cert:{name}"),
        }
    }
}

/// `[api]` as the file has it.
pub(super) struct DraftApi {
    socket: Field<PathBuf>,
    page: Field<SocketAddr>,
    listen: Field<SocketAddr>,
    certificate: Field<PathBuf>,
    key: Field<PathBuf>,
    client_ca: Field<PathBuf>,
    read: List<Holder>,
    policy: List<Holder>,
}

impl DraftApi {
    /// One that was checked before.
    pub fn of(api: &Api) -> Self {
        Self {
            socket: Field::of(api.socket.clone()),
            page: Field::of_optional(api.page),
            listen: Field::of_optional(api.tls.as_ref().map(|tls| tls.listen)),
            certificate: Field::of_optional(api.tls.as_ref().map(|tls| tls.certificate.clone())),
            key: Field::of_optional(api.tls.as_ref().map(|tls| tls.key.clone())),
            client_ca: Field::of_optional(api.tls.as_ref().map(|tls| tls.client_ca.clone())),
            read: List::of(&api.read),
            policy: List::of(&api.policy),
        }
    }

    /// The section; `None` if a value of it was refused.
    pub fn build(self, run_dir: &Path) -> Option<Api> {
        let tls = match self.listen.optional()? {
            None => None,
            Some(listen) => Some(Tls {
                listen,
                certificate: self.certificate.required()?,
                key: self.key.required()?,
                client_ca: self.client_ca.required()?,
            }),
        };
        Some(Api {
            socket: self.socket.or(Api::default_socket(run_dir))?,
            page: self.page.optional()?,
            tls,
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
                listen: Field::Bad,
                certificate: Field::Bad,
                key: Field::Bad,
                client_ca: Field::Bad,
                read: List::of(&[]),
                policy: List::of(&[]),
            });
        }
    };
    let mut api = Reader::open(table, ("api", "[api]"), &KEYS, root.faults());
    Some(DraftApi {
        socket: api.text(SOCKET, socket),
        page: api.text(PAGE, page),
        listen: api.text(LISTEN, listen),
        certificate: api.text(CERTIFICATE, file),
        key: api.text(PRIVATE_KEY, file),
        client_ca: api.text(CLIENT_CA, file),
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

fn listen(text: &str) -> Result<SocketAddr, ValueError> {
    let address = text.parse::<SocketAddr>().map_err(|_| {
        ValueError(format!(
            "{} is no address with a port; write one of this host, as in 192.0.2.10:8443",
            shown(text)
        ))
    })?;
    if address.port() < PAGE_PORT_MIN {
        return Err(ValueError(format!(
            "{}: write a port from {PAGE_PORT_MIN} to 65535",
            shown(text)
        )));
    }
    Ok(address)
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
    if let Some(api) = api {
        check_tls(api, faults);
    }
    let Some(socket) = api.and_then(|api| api.socket.get()) else {
        return;
    };
    let run_dir = host.run_dir.clone().or(PathBuf::from(Host::RUN_DIR));
    if run_dir.is_some_and(|run_dir| socket.value == run_dir.join(crate::daemon::control::SOCKET)) {
        let message = "`socket`: this is the control socket; write another path";
        faults.add(socket.at, message.into());
    }
}

/// Reports what TLS lacks: without a certificate of its own and an authority for those of clients there is none.
fn check_tls(api: &DraftApi, faults: &mut Faults<'_>) {
    let files = [
        (CERTIFICATE, &api.certificate),
        (PRIVATE_KEY, &api.key),
        (CLIENT_CA, &api.client_ca),
    ];
    for (key, file) in files {
        match (&api.listen, file) {
            (Field::Is(listen), Field::Missing) => {
                let message = format!(
                    "`listen`: clients come with TLS and certificates; write {} = {}, too",
                    key.name, key.example
                );
                faults.add(listen.at, message);
            }
            (Field::Missing, Field::Is(file)) => {
                let message = format!(
                    "`{}`: nothing listens; write {} = {}, or leave this out",
                    key.name, LISTEN.name, LISTEN.example
                );
                faults.add(file.at, message);
            }
            _ => {}
        }
    }
    if !matches!(api.listen, Field::Missing) {
        return;
    }
    for holder in api.read.items.iter().chain(&api.policy.items) {
        if let Holder::Certificate(name) = &holder.value {
            let message = format!(
                "`cert:{name}` comes with TLS, and nothing listens; write {} = {}, or leave it out",
                LISTEN.name, LISTEN.example
            );
            faults.add(holder.at, message);
        }
    }
}
