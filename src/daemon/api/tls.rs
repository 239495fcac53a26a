//! The API for other machines: TCP, TLS 1.3, and a certificate at both ends (decision 0054). Off unless it is configured.
//!
//! Invariants (`tests/api.rs`)
//! - Without a certificate that an authority of `client_ca` has signed, and that is valid now, there is no connection.
//! - What a certificate may is what `[api]` gives to a name that it is valid for; never more than the role policy.
//! - Who has not shown a certificate keeps nobody out who comes from another address: handshakes have bounds of their own.

use super::{Answer, Counted, Shared, answer, peer::Peer, problem::Problem};
use crate::config::{Api, Holder, Tls};
use anyhow::{Context as _, Result};
use hyper::{Request, StatusCode, body::Incoming, header::ORIGIN};
use rustls::{
    RootCertStore, ServerConfig,
    client::verify_server_name,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::{ParsedCertificate, WebPkiClientVerifier},
    version::TLS13,
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    path::Path,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// Handshakes at once, and of these with one address.
const HANDSHAKES_MAX: usize = 256;
const OF_ADDRESS_MAX: usize = 16;
/// A handshake ends within this.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// When the system has no room for another connection.
const AGAIN: Duration = Duration::from_millis(100);

/// What is served with, as it was read when a configuration was put in force so many times.
struct Served {
    shared: Rc<Shared>,
    keys: RefCell<(u64, Arc<ServerConfig>)>,
    handshakes: RefCell<BTreeMap<IpAddr, usize>>,
}

/// A handshake is counted as long as this lives.
struct Handshake {
    served: Rc<Served>,
    with: IpAddr,
}

impl Handshake {
    /// `None`: there is no room for another.
    fn begin(served: &Rc<Served>, with: IpAddr) -> Option<Self> {
        let mut all = served.handshakes.borrow_mut();
        let room = all.values().sum::<usize>() < HANDSHAKES_MAX;
        let of_address = all.entry(with).or_default();
        if !room || *of_address >= OF_ADDRESS_MAX {
            if *of_address == 0 {
                all.remove(&with);
            }
            return None;
        }
        *of_address += 1;
        Some(Self {
            served: Rc::clone(served),
            with,
        })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut all = self.served.handshakes.borrow_mut();
        let left = all
            .get(&self.with)
            .map_or(0, |count| count.saturating_sub(1));
        match left {
            0 => drop(all.remove(&self.with)),
            left => drop(all.insert(self.with, left)),
        }
    }
}

/// Serves until the daemon ends. Wants to be called inside of a `LocalSet`.
///
/// # Errors
/// When the address cannot be had, or a file not be read, or is none.
pub fn start(tls: &Tls, shared: &Rc<Shared>) -> Result<()> {
    let keys = keys(tls)?;
    let address = tls.listen;
    let listener = StdListener::bind(address)
        .with_context(|| format!("{address}: cannot listen; name another [api] listen"))?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let applied = shared.state.borrow().applied();
    let served = Rc::new(Served {
        shared: Rc::clone(shared),
        keys: RefCell::new((applied, keys)),
        handshakes: RefCell::default(),
    });
    task::spawn_local(accept(listener, served));
    eprintln!("octroi: API on https://{address}/, for certificates");
    Ok(())
}

/// Certificate, key and authorities, of their files.
fn keys(tls: &Tls) -> Result<Arc<ServerConfig>> {
    let of = |path: &Path| path.display().to_string();
    let mut roots = RootCertStore::empty();
    for authority in certificates(&tls.client_ca)? {
        roots.add(authority).with_context(|| of(&tls.client_ca))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .with_context(|| of(&tls.client_ca))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .with_context(|| format!("{}: no private key can be read", of(&tls.key)))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(&tls.certificate)?, key)
        .with_context(|| format!("{}: not with this key", of(&tls.certificate)))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Whoever comes again shows its certificate again: one that has expired meanwhile is refused.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unread = || format!("{}: no certificate can be read", path.display());
    let found = CertificateDer::pem_file_iter(path).with_context(unread)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().with_context(unread)?;
    anyhow::ensure!(!found.is_empty(), "{}", unread());
    Ok(found)
}

impl Served {
    /// What to serve with. Files are read again when a configuration is put in force; what cannot be used is told, and
    /// what was used before goes on.
    fn keys(&self) -> Arc<ServerConfig> {
        let state = self.shared.state.borrow();
        let mut known = self.keys.borrow_mut();
        let applied = state.applied();
        let tls = state.file().api.as_ref().and_then(|api| api.tls.as_ref());
        if let Some(tls) = tls.filter(|_| known.0 != applied) {
            match keys(tls) {
                Ok(keys) => known.1 = keys,
                Err(error) => eprintln!(
                    "octroi: warning: [api] listen goes on with the certificates of before: {error:#}"
                ),
            }
            known.0 = applied;
        }
        Arc::clone(&known.1)
    }
}

async fn accept(listener: TcpListener, served: Rc<Served>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            sleep(AGAIN).await;
            continue;
        };
        // Without room the connection ends here: nobody was told anything yet.
        let Some(handshake) = Handshake::begin(&served, from.ip()) else {
            continue;
        };
        let shared = Rc::clone(&served.shared);
        let acceptor = TlsAcceptor::from(served.keys());
        task::spawn_local(async move {
            let shaken = timeout(HANDSHAKE, acceptor.accept(stream)).await;
            drop(handshake);
            if let Ok(Ok(stream)) = shaken {
                serve(stream, from, &shared).await;
            }
        });
    }
}

async fn serve(
    stream: tokio_rustls::server::TlsStream<TcpStream>,
    from: SocketAddr,
    shared: &Rc<Shared>,
) {
    let certificate = stream.get_ref().1.peer_certificates();
    // The handshake has asked for one.
    let Some(certificate) = certificate.and_then(|chain| chain.first()) else {
        return;
    };
    let name = {
        let state = shared.state.borrow();
        let api = state.file().api.as_ref();
        api.and_then(|api| name(certificate, api))
    };
    let peer = Peer::certified(name.unwrap_or_default());
    let role = shared.role(&peer);
    if !shared.connections.borrow().has_room(peer.uid, role) {
        eprintln!("octroi: warning: [api] listen: no room for another connection of {from}");
        return;
    }
    let counted = Counted::new(shared, peer.uid, role);
    super::serve(stream, peer, Rc::clone(shared), counted, answered).await;
}

/// The name for which a certificate is valid, of those that hold the highest role.
fn name(certificate: &CertificateDer<'_>, api: &Api) -> Option<String> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let holders = api.policy.iter().chain(&api.read);
    let mut names = holders.filter_map(|holder| match holder {
        Holder::Certificate(name) => Some(name),
        Holder::Group(_) | Holder::User(_) => None,
    });
    let is_for = |name: &&String| {
        ServerName::try_from(name.as_str())
            .is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
    };
    names.find(is_for).cloned()
}

/// As on the socket, but for browsers: one that has a certificate would send it for whatever site is open in it.
async fn answered(request: Request<Incoming>, peer: Peer, shared: Rc<Shared>) -> Answer {
    let site =
        request.headers().contains_key(ORIGIN) || request.headers().contains_key("sec-fetch-site");
    if site {
        let detail = "this is for programs; a browser has the page";
        return Problem::new(StatusCode::FORBIDDEN, detail).answer();
    }
    answer::answer(request, peer, shared).await
}
