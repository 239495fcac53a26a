//! The page for a browser, on a loopback address (decision 0029): the API's reads, with files that show them.
//!
//! Invariants (`tests/page.rs`)
//! - Whoever the kernel does not name as holder of a role gets 403, and nothing else; so does whoever's end is closed
//!   before that could be asked.
//! - Nothing can be changed by it.
//! - No other site can read it, frame it or make a browser use it, and it asks no other host for anything.
//!
//! What it is not: a port of the network, and a way for tenants to look.

mod assets;
pub mod guard;
pub mod peer;

use super::{
    AGAIN, Answer, Counted, Shared, answer,
    peer::{Peer, Role},
    problem::{Problem, respond},
    route::{self, Query},
};
use anyhow::{Context as _, Result};
use hyper::{
    Request, StatusCode,
    body::{Body as _, Incoming},
    header::{CONNECTION, HeaderValue},
};
use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task,
    time::{sleep, timeout},
};

/// The host's directory is asked for a user's groups so long, and by so many at once.
const DIRECTORY: Duration = Duration::from_secs(5);
const LOOKUPS_MAX: usize = 2;
/// What it said is believed for so long, of so many users.
const BELIEVED: Duration = Duration::from_secs(60);
const USERS_MAX: usize = 1_024;

/// Users and their groups, as the directory last said.
pub struct Users {
    known: BTreeMap<u32, (Instant, Peer)>,
    lookups: Arc<Semaphore>,
}

impl Default for Users {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        }
    }
}

impl Users {
    fn known(&self, uid: u32) -> Option<Peer> {
        let (at, peer) = self.known.get(&uid)?;
        (at.elapsed() < BELIEVED).then(|| peer.clone())
    }

    fn learn(&mut self, peer: Peer) {
        if self.known.len() >= USERS_MAX {
            self.known.clear();
        }
        self.known.insert(peer.uid, (Instant::now(), peer));
    }
}

/// Serves the page until the daemon ends. Wants to be called inside of a `LocalSet`.
///
/// # Errors
/// When the address cannot be had, or this kernel does not tell who is at the other end.
pub fn start(address: SocketAddr, shared: &Rc<Shared>) -> Result<()> {
    let listener = StdListener::bind(address)
        .with_context(|| format!("{address}: cannot listen; name another [api] page"))?;
    peer::try_out(&listener).with_context(|| {
        format!("{address}: this kernel does not tell who asks (INET_DIAG); leave [api] page out")
    })?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    task::spawn_local(accept(listener, address, Rc::clone(shared)));
    eprintln!("octroi: page on http://{address}/");
    Ok(())
}

async fn accept(listener: TcpListener, address: SocketAddr, shared: Rc<Shared>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            sleep(AGAIN).await;
            continue;
        };
        // At once: as long as the other end is open, it is whose it was.
        let uid = peer::uid(from, address).ok();
        let known = uid.and_then(|uid| shared.users.borrow().known(uid));
        let role = known.as_ref().and_then(|peer| shared.role(peer));
        let uid = uid.unwrap_or(u32::MAX);
        if !shared.connections.borrow().has_room(uid, role) {
            let _ = stream.try_write(super::FULL);
            continue;
        }
        let counted = Counted::new(&shared, uid, role);
        task::spawn_local(serve(stream, uid, Rc::clone(&shared), counted));
    }
}

async fn serve(stream: TcpStream, uid: u32, shared: Rc<Shared>, counted: Counted) {
    let peer = who(&shared, uid).await;
    let role = shared.role(&peer);
    // It was counted as a stranger's until the directory had answered.
    drop(counted);
    if !shared.connections.borrow().has_room(uid, role) {
        let _ = stream.try_write(super::FULL);
        return;
    }
    let counted = Counted::new(&shared, uid, role);
    let answer = move |request, peer, shared| answered(request, peer, shared);
    super::serve(stream, peer, shared, counted, answer).await;
}

/// A user with his groups. Of whom the directory says nothing in time has none.
async fn who(shared: &Shared, uid: u32) -> Peer {
    let alone = Peer::user(uid, Vec::new());
    if uid == 0 || uid == u32::MAX {
        shared.users.borrow_mut().learn(alone.clone());
        return alone;
    }
    if let Some(known) = shared.users.borrow().known(uid) {
        return known;
    }
    let lookups = Arc::clone(&shared.users.borrow().lookups);
    let asked = async {
        let turn = lookups.acquire_owned().await.ok()?;
        // The turn is given back when the directory answers, not when nobody waits any more.
        let work = task::spawn_blocking(move || {
            let _turn = turn;
            peer::look_up(uid)
        });
        work.await.ok()
    };
    match timeout(DIRECTORY, asked).await {
        Ok(Some(found)) => {
            shared.users.borrow_mut().learn(found.clone());
            found
        }
        _ => alone,
    }
}

async fn answered(request: Request<Incoming>, peer: Peer, shared: Rc<Shared>) -> Answer {
    let mut answer = act(&request, &peer, &shared)
        .await
        .unwrap_or_else(Problem::answer);
    guard::protect(&mut answer);
    // What was not read of a request must not be taken for the next one.
    if !request.body().is_end_stream() {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    answer
}

async fn act(
    request: &Request<Incoming>,
    peer: &Peer,
    shared: &Rc<Shared>,
) -> Result<Answer, Problem> {
    let Some(role) = shared.role(peer) else {
        let detail = match peer.uid {
            u32::MAX => {
                "the kernel does not tell who asks: keep your end of the connection open".into()
            }
            uid => format!("uid {uid} has no role here; [api] read and policy name who has one"),
        };
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    };
    guard::check(request.method(), request.uri(), request.headers())?;
    if !request.body().is_end_stream() {
        let detail = "this takes no body";
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    if let Some((kind, text)) = assets::find(request.uri().path()) {
        if request.uri().query().is_some() {
            return Err(Problem::bad("this path takes no parameters"));
        }
        return Ok(respond(StatusCode::OK, kind, text));
    }
    let found = route::find(request.method(), request.uri())?;
    if found.route.role != Role::Read {
        return Err(Problem::bad("the page only shows"));
    }
    let query = Query::of(request.uri(), found.route)?;
    answer::look_at(shared, (peer, role), &found, &query).await
}
