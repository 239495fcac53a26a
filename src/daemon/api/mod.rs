//! The control API: HTTP and JSON on a unix socket (`docs/openapi.json`, decision 0025), the page beside it, and TLS for
//! other machines.
//!
//! Invariants (`tests/api.rs`)
//! - Whoever neither the kernel nor a certificate names as root or as holder of a role gets 403, and nothing else.
//! - A change is in the ledger before it is made, with who and what; one that cannot be written there is
//!   not made. What was refused after that is entered as refused.
//! - No request, however it looks and however slowly it comes, keeps the daemon's thread: whatever reads
//!   the ledger has a thread of its own, and everything has a bound.
//!
//! What it is not: a way for tenants to ask; a port of the network, unless `[api] listen` makes it one. The page only looks,
//! and on this host.

mod answer;
mod change;
mod detail;
mod look;
mod page;
mod peer;
mod problem;
mod route;
pub mod scrape;
mod statements;
mod tls;
mod watch;

pub(crate) use page::peer::uid as loopback_owner;

use super::state::State;
use crate::config::Api;
use anyhow::{Context as _, Result, bail};
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use peer::{Access, Peer, Role};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    convert::Infallible,
    fs,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
    sync::Semaphore,
    task,
    time::{sleep, timeout},
};

/// What a request is answered with.
type Answer = Response<Full<Bytes>>;

/// Connections at once.
const CONNECTIONS_MAX: usize = 256;
/// Of these all who are not root may have so many.
const OTHERS_MAX: usize = 240;
/// So many for one user who is not root.
const USER_MAX: usize = 128;
/// So many for all together who have no role, and are told so.
const STRANGERS_MAX: usize = 16;
/// A request's head comes within this, also after a request before it.
const HEAD: Duration = Duration::from_secs(10);
/// A connection is asked to end after this, and is ended after as long again.
const LIFE: Duration = Duration::from_secs(60);
/// How much of a head is kept, bytes.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Lines of a head.
const HEADERS_MAX: usize = 64;
/// Readers of the ledger at once.
const READERS_MAX: usize = 2;
/// What is said to whom there is no room for.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// When the system has no room for another connection.
const AGAIN: Duration = Duration::from_millis(100);

/// What all connections share.
struct Shared {
    state: Rc<RefCell<State>>,
    /// Of the configuration that was put in force so many times.
    access: RefCell<(Option<u64>, Access)>,
    connections: RefCell<Connections>,
    readers: Arc<Semaphore>,
    /// What the page sees of everything, as it was a moment ago.
    seen: RefCell<watch::Seen>,
    /// Who has looked at which tenant within the hour.
    looked: RefCell<detail::Looked>,
    /// Who opens the page.
    users: RefCell<page::Users>,
}

impl Shared {
    /// What somebody may do, by the configuration in force.
    fn role(&self, peer: &Peer) -> Option<Role> {
        let state = self.state.borrow();
        let mut access = self.access.borrow_mut();
        if access.0 != Some(state.applied()) {
            let found = match &state.file().api {
                None => Access::default(),
                Some(api) => {
                    let (found, unknown) = Access::of(api);
                    for holder in unknown {
                        eprintln!(
                            "octroi: warning: [api]: this host does not know {holder}; make it, and \
                             send SIGHUP"
                        );
                    }
                    found
                }
            };
            *access = (Some(state.applied()), found);
        }
        access.1.role(peer)
    }
}

/// Who is connected.
#[derive(Debug, Default)]
struct Connections {
    all: usize,
    others: usize,
    strangers: usize,
    by_user: BTreeMap<u32, usize>,
}

impl Connections {
    fn has_room(&self, uid: u32, role: Option<Role>) -> bool {
        let of_user = self.by_user.get(&uid).copied().unwrap_or_default();
        match role {
            _ if self.all >= CONNECTIONS_MAX => false,
            Some(Role::Admin) => true,
            Some(_) => self.others < OTHERS_MAX && of_user < USER_MAX,
            None => self.others < OTHERS_MAX && self.strangers < STRANGERS_MAX,
        }
    }

    fn count(&mut self, uid: u32, role: Option<Role>, more: bool) {
        let of_user = self.by_user.entry(uid).or_default();
        let counters = [&mut self.all, of_user];
        let others = (role != Some(Role::Admin)).then_some(&mut self.others);
        let strangers = role.is_none().then_some(&mut self.strangers);
        for counter in counters.into_iter().chain(others).chain(strangers) {
            *counter = if more {
                *counter + 1
            } else {
                counter.saturating_sub(1)
            };
        }
        if self.by_user.get(&uid) == Some(&0) {
            self.by_user.remove(&uid);
        }
    }
}

/// The socket, gone with this value.
pub struct Listening(PathBuf);

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens the socket and the page of the configuration and serves whoever comes, until the daemon ends. `None`: the
/// configuration has none. Wants to be called inside of a `LocalSet`.
///
/// # Errors
/// When one of them cannot be had.
pub fn start(state: &Rc<RefCell<State>>) -> Result<Option<Listening>> {
    let Some(Api {
        socket, page, tls, ..
    }) = state.borrow().file().api.clone()
    else {
        return Ok(None);
    };
    let listener = listen(&socket)?;
    let shared = Rc::new(Shared {
        state: Rc::clone(state),
        access: RefCell::default(),
        connections: RefCell::default(),
        readers: Arc::new(Semaphore::new(READERS_MAX)),
        seen: RefCell::default(),
        looked: RefCell::default(),
        users: RefCell::default(),
    });
    let listening = Listening(socket);
    if let Some(address) = page {
        page::start(address, &shared)?;
    }
    if let Some(tls) = tls {
        tls::start(&tls, &shared)?;
    }
    task::spawn_local(accept(listener, shared));
    Ok(Some(listening))
}

fn listen(socket: &Path) -> Result<UnixListener> {
    // What an earlier run left. Anything else of that name is somebody's.
    match fs::symlink_metadata(socket) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(socket)
            .with_context(|| format!("{}: cannot be removed", socket.display()))?,
        Ok(_) => bail!(
            "{}: this is no socket; name another [api] socket",
            socket.display()
        ),
        Err(_) => {}
    }
    let listener = UnixListener::bind(socket).with_context(|| {
        format!(
            "{}: cannot listen; name another [api] socket, in a directory that is there",
            socket.display()
        )
    })?;
    // Whoever may not do anything is told so: who that is, is for the peer's credentials to say.
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666))
        .with_context(|| format!("{}: cannot be opened to all", socket.display()))?;
    Ok(listener)
}

async fn accept(listener: UnixListener, shared: Rc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(AGAIN).await;
            continue;
        };
        let Ok(peer) = Peer::of(&stream) else {
            continue;
        };
        let role = shared.role(&peer);
        if !shared.connections.borrow().has_room(peer.uid, role) {
            let _ = stream.try_write(FULL);
            continue;
        }
        let counted = Counted::new(&shared, peer.uid, role);
        let answer = |request, peer, shared| answer::answer(request, peer, shared);
        task::spawn_local(serve(stream, peer, Rc::clone(&shared), counted, answer));
    }
}

/// A connection is counted as long as this lives.
struct Counted {
    shared: Rc<Shared>,
    uid: u32,
    role: Option<Role>,
}

impl Counted {
    fn new(shared: &Rc<Shared>, uid: u32, role: Option<Role>) -> Self {
        shared.connections.borrow_mut().count(uid, role, true);
        Self {
            shared: Rc::clone(shared),
            uid,
            role,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut connections = self.shared.connections.borrow_mut();
        connections.count(self.uid, self.role, false);
    }
}

/// Serves one connection.
async fn serve<A: Future<Output = Answer>>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    shared: Rc<Shared>,
    _counted: Counted,
    answer: impl Fn(Request<Incoming>, Peer, Rc<Shared>) -> A,
) {
    let service = service_fn(|request| {
        let answered = answer(request, peer.clone(), Rc::clone(&shared));
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            // Whoever has said everything may say so, and still wants the answer.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service)
    );
    // Whatever went wrong, it was the client's, who is told or gone.
    if timeout(LIFE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LIFE, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_takes_all_connections_and_strangers_take_few() {
        let mut connections = Connections::default();
        let mut admitted = |uid, role, tries: usize| {
            let mut count = 0;
            for _ in 0..tries {
                if connections.has_room(uid, role) {
                    connections.count(uid, role, true);
                    count += 1;
                }
            }
            count
        };
        assert_eq!(admitted(1_000, None, 300), STRANGERS_MAX);
        assert_eq!(admitted(1_001, None, 300), 0);
        assert_eq!(admitted(1_002, Some(Role::Read), 300), USER_MAX);
        let left = OTHERS_MAX - USER_MAX - STRANGERS_MAX;
        assert_eq!(admitted(1_003, Some(Role::Policy), 300), left);
        let kept = CONNECTIONS_MAX - OTHERS_MAX;
        assert_eq!(admitted(0, Some(Role::Admin), 300), kept);
        for _ in 0..STRANGERS_MAX {
            connections.count(1_000, None, false);
        }
        assert!(connections.has_room(1_001, None));
        assert!(!connections.by_user.contains_key(&1_000));
    }
}
