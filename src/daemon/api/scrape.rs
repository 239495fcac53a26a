//! `[metrics] listen`: what `octroi metrics` says, for a Prometheus on this host (decision 0040).
//!
//! Invariants (`tests/metrics/scrape.rs`)
//! - Whoever the kernel does not name as root or one of `users` gets 403, and nothing else: totals of all tenants are for nobody
//!   else on the host.
//! - Nothing can be changed by it, and no site can make a browser read it.
//! - Whoever asks often is answered from what was read a moment ago, and few at once are answered at all.

use super::{
    AGAIN, Answer, FULL, HEAD, HEAD_BYTES_MAX, HEADERS_MAX, State,
    page::{guard, peer},
    peer::user,
    problem::{Problem, respond},
};
use crate::{daemon::clock, metrics};
use anyhow::{Context as _, Result};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    header::ACCEPT,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    net::TcpListener as StdListener,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task,
    time::{sleep, timeout},
};

/// Connections at once, of those who may, and of others, who are only told that they may not: a Prometheus keeps one.
const CONNECTIONS_MAX: [usize; 2] = [16, 4];
/// A connection ends when nothing was asked for so long.
const LIFE: Duration = Duration::from_secs(600);
/// All who ask within this are told the same.
const FRESH: Duration = Duration::from_millis(500);

struct Shared {
    state: Rc<RefCell<State>>,
    /// Of those who may, and of others.
    connections: [Cell<usize>; 2],
    /// Numbers of `users`, of the configuration that was put in force so many times.
    users: RefCell<(Option<u64>, Vec<u32>)>,
    /// What was said last, in both formats.
    said: RefCell<Option<(Instant, [Bytes; 2])>>,
}

/// Serves the address of the configuration, if it has one, until the daemon ends. Wants to be called inside of a `LocalSet`.
///
/// # Errors
/// When the address cannot be had, or this kernel does not tell who is at the other end.
pub fn start(state: &Rc<RefCell<State>>) -> Result<()> {
    let Some(address) = state.borrow().file().metrics.as_ref().map(|it| it.listen) else {
        return Ok(());
    };
    let listener = StdListener::bind(address)
        .with_context(|| format!("{address}: cannot listen; name another [metrics] listen"))?;
    peer::try_out(&listener).with_context(|| {
        format!("{address}: this kernel does not tell who asks (INET_DIAG); leave [metrics] out")
    })?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let shared = Rc::new(Shared {
        state: Rc::clone(state),
        connections: Default::default(),
        users: RefCell::default(),
        said: RefCell::default(),
    });
    task::spawn_local(async move {
        loop {
            let Ok((stream, from)) = listener.accept().await else {
                sleep(AGAIN).await;
                continue;
            };
            // At once: as long as the other end is open, it is whose it was.
            let uid = peer::uid(from, address).unwrap_or(u32::MAX);
            let kind = usize::from(!shared.may(uid));
            if shared.connections[kind].get() >= CONNECTIONS_MAX[kind] {
                let _ = stream.try_write(FULL);
                continue;
            }
            task::spawn_local(serve(stream, uid, Counted::new(&shared, kind)));
        }
    });
    eprintln!("octroi: metrics on http://{address}/metrics");
    Ok(())
}

/// A connection is counted as long as this lives.
struct Counted(Rc<Shared>, usize);

impl Counted {
    fn new(shared: &Rc<Shared>, kind: usize) -> Self {
        let count = &shared.connections[kind];
        count.set(count.get() + 1);
        Self(Rc::clone(shared), kind)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let count = &self.0.connections[self.1];
        count.set(count.get().saturating_sub(1));
    }
}

async fn serve(stream: TcpStream, uid: u32, counted: Counted) {
    let shared = &counted.0;
    let service = service_fn(|request: Request<Incoming>| async move {
        let mut answer = shared.answer(&request, uid).unwrap_or_else(Problem::answer);
        guard::protect(&mut answer);
        Ok::<_, Infallible>(answer)
    });
    let is_stranger = counted.1 == 1;
    let life = if is_stranger { HEAD } else { LIFE };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(life)
        .keep_alive(!is_stranger)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    // Whatever went wrong, it was the client's, who is told or gone.
    let _ = timeout(life, connection).await;
}

impl Shared {
    fn answer(&self, request: &Request<Incoming>, uid: u32) -> Result<Answer, Problem> {
        if !self.may(uid) {
            let detail = match uid {
                u32::MAX => {
                    "the kernel does not tell who asks: keep your end of the connection open".into()
                }
                uid => format!("uid {uid} may not ask here; [metrics] users names who may"),
            };
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        guard::check(request.method(), request.uri(), request.headers())?;
        if request.uri().path() != "/metrics" {
            return Err(Problem::new(
                StatusCode::NOT_FOUND,
                "there is /metrics alone",
            ));
        }
        // Prometheus names OpenMetrics first, with a quality above that of the text format.
        let accepts = request.headers().get_all(ACCEPT);
        let is_open = accepts
            .iter()
            .any(|accept| accept.to_str().is_ok_and(|it| it.contains(metrics::OPEN)));
        let [text, open] = self.said()?;
        Ok(if is_open {
            respond(StatusCode::OK, metrics::OPEN_TYPE, open)
        } else {
            respond(StatusCode::OK, metrics::TEXT_TYPE, text)
        })
    }

    fn may(&self, uid: u32) -> bool {
        if uid == 0 {
            return true;
        }
        let state = self.state.borrow();
        let mut known = self.users.borrow_mut();
        if known.0 != Some(state.applied()) {
            let names = state.file().metrics.as_ref().map(|it| it.users.as_slice());
            let mut numbers = Vec::new();
            for name in names.unwrap_or_default() {
                match user(name) {
                    Some(number) => numbers.push(number),
                    None => eprintln!(
                        "octroi: warning: [metrics]: this host does not know the user {name}; make it, and send SIGHUP"
                    ),
                }
            }
            *known = (Some(state.applied()), numbers);
        }
        known.1.contains(&uid)
    }

    fn said(&self) -> Result<[Bytes; 2], Problem> {
        let mut said = self.said.borrow_mut();
        if let Some((at, texts)) = said.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(texts.clone());
        }
        let report = self.state.borrow_mut().report()?;
        let clock = clock::state();
        let texts = [metrics::Format::Text, metrics::Format::Open];
        let texts = texts.map(|format| Bytes::from(metrics::text(Some(&report), &clock, format)));
        *said = Some((Instant::now(), texts.clone()));
        Ok(texts)
    }
}
