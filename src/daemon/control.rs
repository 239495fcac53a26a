//! The control socket: one JSON object in a line each way.

use super::{
    change::{self, Change},
    live,
    state::{State, Step},
};
use crate::{
    config::{self, Errors},
    live::Subject,
    loader,
};
use metering::ledger::Addition;
use serde::{Deserialize, Serialize};
use std::{
    cell::RefCell,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream as StdStream,
    path::Path,
    rc::Rc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::{sleep, timeout},
};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "control.sock";
/// A request is not longer, bytes.
const REQUEST_MAX: u64 = 64 << 20;
/// A client that says nothing is let go after this.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer may take a revision of ten thousand ports, and a grace period.
const ANSWER: Duration = Duration::from_secs(60);

/// How long a record waits for the ledger.
const ADDITION: Duration = Duration::from_secs(30);
/// How often it looks whether the ledger is free.
const AGAIN: Duration = Duration::from_millis(20);

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are those of the commands")]
pub enum Request {
    Status,
    Apply {
        config: String,
    },
    PortAdd {
        port: String,
    },
    PortSet {
        port: String,
    },
    PortRemove {
        name: String,
    },
    Detach,
    Add {
        addition: Addition,
    },
    /// The flows that are in the table now. `look`: what the answer before said, 0 for a new look.
    Flows {
        subject: Subject,
        look: u64,
    },
}

/// Why not.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// True: the configuration or the command is wrong (exit status 2); false: the system refused.
    pub config: bool,
    /// What, where, what to do.
    pub message: String,
    /// True: it is done, and takes effect when an interface comes.
    #[serde(default)]
    pub waiting: bool,
    /// True: a daemon said so; false: none could be asked.
    #[serde(skip)]
    pub answered: bool,
}

impl Refusal {
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self {
            config: true,
            message: message.into(),
            waiting: false,
            answered: false,
        }
    }

    pub(crate) fn system(message: impl Into<String>) -> Self {
        Self {
            config: false,
            message: message.into(),
            waiting: false,
            answered: false,
        }
    }

    /// It is done, and takes effect when an interface comes.
    fn waiting(message: String) -> Self {
        Self {
            waiting: true,
            ..Self::system(message)
        }
    }
}

impl From<Errors> for Refusal {
    fn from(errors: Errors) -> Self {
        Self::config(errors.to_string())
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::system(format!("{error:#}"))
    }
}

impl From<loader::Error> for Refusal {
    fn from(error: loader::Error) -> Self {
        Self::system(error.to_string())
    }
}

/// Asks the daemon and returns its answer.
///
/// # Errors
/// Its refusal, or that none runs.
pub fn call(run_dir: &Path, request: &Request) -> Result<String, Refusal> {
    let path = run_dir.join(SOCKET);
    let failed = |error: std::io::Error| {
        Refusal::system(match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => format!(
                "{}: no daemon answers; start it with `octroi run --config FILE`",
                path.display()
            ),
            std::io::ErrorKind::PermissionDenied => {
                format!("{}: only root may ask the daemon; use sudo", path.display())
            }
            _ => format!("{}: {error}", path.display()),
        })
    };
    let mut stream = StdStream::connect(&path).map_err(failed)?;
    stream.set_read_timeout(Some(ANSWER)).map_err(failed)?;
    let mut line = serde_json::to_string(request).map_err(anyhow::Error::from)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .map_err(failed)?;
    let answer = serde_json::from_str::<Result<String, Refusal>>(&answer)
        .map_err(|_| Refusal::system(format!("{}: the daemon broke off", path.display())))?;
    answer.map_err(|refusal| Refusal {
        answered: true,
        ..refusal
    })
}

/// Serves one client: one request, one answer.
pub(super) async fn answer(stream: UnixStream, state: Rc<RefCell<State>>) {
    let peer = stream.peer_cred();
    let allowed = peer.as_ref().is_ok_and(|peer| peer.uid() == 0);
    let pid = peer.ok().and_then(|peer| peer.pid());
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader.take(REQUEST_MAX));
    let read = timeout(PATIENCE, reader.read_line(&mut line)).await;
    if !matches!(read, Ok(Ok(1..))) {
        return;
    }
    let request = if allowed {
        serde_json::from_str::<Request>(&line)
            .map_err(|error| Refusal::config(format!("not a request: {error}")))
    } else {
        Err(Refusal::system("only root may ask the daemon"))
    };
    let result = match request {
        Ok(request) => act(&state, request, pid).await,
        Err(refusal) => Err(refusal),
    };
    let mut text = serde_json::to_string(&result).unwrap_or_default();
    text.push('\n');
    let _ = timeout(PATIENCE, writer.write_all(text.as_bytes())).await;
}

/// Answers at once, or enters a change and makes it.
async fn act(
    state: &Rc<RefCell<State>>,
    request: Request,
    pid: Option<i32>,
) -> Result<String, Refusal> {
    let (what, step) = match request {
        Request::Status => return state.borrow_mut().status(),
        Request::Add { addition } => return add(state, &addition).await,
        Request::Flows { subject, look } => {
            return live::flows(state, &who(pid), &subject, look).await;
        }
        Request::Detach => return detach(state, &who(pid)).await,
        Request::Apply { config } => {
            let new = config::parse(&config, "config")?;
            let difference = change::difference(state.borrow().file(), &new);
            (format!("apply {difference}"), Step::Apply(new.into()))
        }
        Request::PortAdd { port } => (
            format!("port add {}", change::on_one_line(&port)?),
            Step::PortAdd(port),
        ),
        Request::PortSet { port } => (
            format!("port set {}", change::on_one_line(&port)?),
            Step::PortSet(port),
        ),
        Request::PortRemove { name } => (format!("port remove {name}"), Step::PortRemove(name)),
    };
    let who = who(pid);
    let change = Change { who, what, step };
    let made = change::make(state, change, |_, _| Ok::<(), Refusal>(())).await?;
    match made.waits {
        true => Err(Refusal::waiting(made.said)),
        false => Ok(made.said),
    }
}

/// Whoever takes the gate away must be able to, also with a full disk.
async fn detach(state: &Rc<RefCell<State>>, who: &str) -> Result<String, Refusal> {
    let changes = state.borrow().changes();
    let _turn = changes.lock().await;
    let ledger = state.borrow().ledger();
    if let Err(error) = change::enter(ledger, who, "detach".into()).await {
        eprintln!("octroi: warning: detached without an entry: {error}");
    }
    state.borrow_mut().detach()
}

/// Root, and who logged in before that: sudo does not change it.
fn who(pid: Option<i32>) -> String {
    let uid = uid(pid);
    format!("{uid}, by the control socket")
}

fn uid(pid: Option<i32>) -> String {
    let login = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok());
    match login.and_then(|login| login.trim().parse::<u32>().ok()) {
        Some(login) if login != u32::MAX => format!("uid 0, logged in as uid {login}"),
        _ => "uid 0".into(),
    }
}

/// Waits for the ledger's thread, and lets the daemon go on meanwhile.
pub(super) async fn add(state: &RefCell<State>, addition: &Addition) -> Result<String, Refusal> {
    let written = async {
        // Not while a window is written, and never with the state held over a wait.
        let ticket = loop {
            let ticket = state.borrow_mut().add(addition)?;
            match ticket {
                Some(ticket) => break ticket,
                None => sleep(AGAIN).await,
            }
        };
        loop {
            let answer = state.borrow_mut().answered(ticket);
            match answer {
                Some(Ok(seq)) => {
                    return Ok(seq.to_string());
                }
                Some(Err(why)) => return Err(Refusal::system(why)),
                None => sleep(AGAIN).await,
            }
        }
    };
    timeout(ADDITION, written).await.unwrap_or_else(|_| {
        Err(Refusal::system(
            "the ledger is not written: its disk is slow or full; `octroi status` says why, and \
             `octroi records` whether the record was written after all",
        ))
    })
}
