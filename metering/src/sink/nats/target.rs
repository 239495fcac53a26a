//! Where a cluster is, and the way to it.

use crate::{
    note::hex,
    sink::{SinkError, trust, wait::whole},
};
use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr,
    jetstream::{Context, context::ContextBuilder},
};
use std::{path::PathBuf, time::Duration};
use tokio::sync::watch;

/// Until a server has taken the connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Until a server has answered.
const ANSWER: Duration = Duration::from_secs(10);
/// What the largest batch takes with its head: a server that takes less at once cannot be used.
const PAYLOAD_LEAST: usize = 1_000_000;
/// Longest name of a stream, characters.
const STREAM_MOST: usize = 64;

/// Where a cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Servers, with commas between: `tls://octroi@nats.example:4222`.
    pub url: String,
    /// Name of the stream of records; what the store answers is in one beside it.
    pub stream: String,
    /// Copies of the streams, 1, 3 or 5: they are made where there are none. `None`: they must be there.
    pub replicas: Option<u8>,
    /// A file with the password of the user in the address and nothing else.
    pub password_file: Option<PathBuf>,
    /// A file with a token and nothing else.
    pub token_file: Option<PathBuf>,
    /// Certificates, PEM, that the servers' must descend from; with `tls` only, and then it must be there.
    pub ca_file: Option<PathBuf>,
}

const EXAMPLE: &str = "\"tls://octroi@nats.example:4222\"";

impl Target {
    /// The stream's name when none is given.
    pub const STREAM: &str = "octroi";

    /// What is wrong with its address that can be told without asking anybody: what, and what to write instead.
    ///
    /// # Errors
    /// A line for people.
    pub fn check(&self) -> Result<(), String> {
        self.servers().map(drop)
    }

    /// Whether a stream may have this name, which is a part of subjects, too.
    ///
    /// # Errors
    /// A line for people.
    pub fn check_stream(name: &str) -> Result<(), String> {
        let is_legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if (1..=STREAM_MOST).contains(&name.len()) && name.chars().all(is_legal) {
            return Ok(());
        }
        Err(format!(
            "a stream has a name of 1 to {STREAM_MOST} letters, digits, `-` and `_`; write \"{}\"",
            Self::STREAM
        ))
    }

    /// Whether a stream may have so many copies.
    ///
    /// # Errors
    /// A line for people.
    pub fn check_replicas(replicas: u8) -> Result<(), String> {
        if [1, 3, 5].contains(&replicas) {
            return Ok(());
        }
        Err("a stream has 1, 3 or 5 copies; write replicas = 3".into())
    }

    /// What it is and where, in words; nothing secret.
    #[must_use]
    pub fn describe(&self) -> String {
        let hosts = self.servers().unwrap_or_default();
        let hosts: Vec<String> = hosts
            .iter()
            .map(|server| format!("{}:{}", server.host(), server.port()))
            .collect();
        let tls = if self.ca_file.is_some() {
            ", over TLS"
        } else {
            ""
        };
        format!(
            "the NATS stream {} at {}{tls}; confirmed when the store has it",
            self.stream,
            hosts.join(", ")
        )
    }

    /// Where a ledger's records are sent.
    pub(super) fn subject(&self, ledger_id: &[u8; 16]) -> String {
        format!("{}.record.{}", self.stream, hex(ledger_id))
    }

    /// Where the store answers of a ledger.
    pub(super) fn answer_subject(&self, ledger_id: &[u8; 16]) -> String {
        format!("{}.ack.{}", self.stream, hex(ledger_id))
    }

    fn servers(&self) -> Result<Vec<ServerAddr>, String> {
        let servers = self.url.split(',').map(|url| self.server(url.trim()));
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        let mut users = servers.iter().map(|server| server.username());
        let first = users.next().flatten();
        if users.any(|user| user != first) {
            return Err("its servers have different users; write the same for each".into());
        }
        match (first, &self.password_file, &self.token_file) {
            (Some(_), None, _) => Err(
                "it has a user; write `password_file`, a file with the password and nothing else"
                    .into(),
            ),
            (None, Some(_), _) => Err(format!(
                "it has no user whose password is in `password_file`; write {EXAMPLE}"
            )),
            (Some(_), Some(_), Some(_)) => {
                Err("it has a user, and `token_file` is for none; take one of them out".into())
            }
            _ => Ok(servers),
        }
    }

    fn server(&self, url: &str) -> Result<ServerAddr, String> {
        let none = |why: String| format!("it is no address of a server ({why}); write {EXAMPLE}");
        let is_tls = url.starts_with("tls://");
        if !is_tls && !url.starts_with("nats://") {
            return Err(none("it begins neither with tls nor with nats".into()));
        }
        let server: ServerAddr = url
            .parse()
            .map_err(|error: std::io::Error| none(error.to_string()))?;
        if server.password().is_some() {
            return Err(
                "it has a password; write that into a file, and the file's name as `password_file`"
                    .into(),
            );
        }
        if server.host().is_empty() {
            return Err(none("no host".into()));
        }
        match (is_tls, &self.ca_file) {
            (true, None) => Err(
                "it is tls; write `ca_file`, the certificates to trust, such as \
                 /etc/ssl/certs/ca-certificates.crt"
                    .into(),
            ),
            (false, Some(_)) => Err("it is nats, and `ca_file` is for tls; write tls".into()),
            (false, None) if trust::is_far(server.host()) => Err(
                "its host is another machine; write tls and `ca_file`, so that records are not sent in clear"
                    .into(),
            ),
            _ => Ok(server),
        }
    }

    /// Connects. The connection works while the runtime does, and ends with the client. When it breaks, what is asked
    /// gets no answer any more: the last value turns true.
    pub(super) async fn connect(
        &self,
    ) -> Result<(Client, Context, watch::Receiver<bool>), SinkError> {
        let servers = self.servers().map_err(SinkError::Refused)?;
        let (broken, is_broken) = watch::channel(false);
        let mut options = ConnectOptions::new()
            .name("octroi")
            .connection_timeout(CONNECT)
            .request_timeout(Some(ANSWER))
            .event_callback(move |event| {
                if matches!(event, Event::Disconnected | Event::Closed) {
                    broken.send_replace(true);
                }
                std::future::ready(())
            })
            // Whoever is written in the configuration, and nobody whom a server names.
            .ignore_discovered_servers();
        if let Some(path) = &self.password_file {
            let user = servers.first().and_then(|server| server.username());
            let user = user.unwrap_or_default().to_owned();
            options = options.user_and_password(user, trust::secret(path)?);
        } else if let Some(path) = &self.token_file {
            options = options.token(trust::secret(path)?);
        }
        if let Some(path) = &self.ca_file {
            options = options
                .require_tls(true)
                .tls_client_config(trust::tls(path)?);
        }
        let client = options.connect(servers).await.map_err(|error| {
            let told = whole(&error);
            match error.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                    SinkError::Refused(told)
                }
                _ => SinkError::Unavailable(told),
            }
        })?;
        let most = client.server_info().max_payload;
        if most < PAYLOAD_LEAST {
            return Err(SinkError::Refused(format!(
                "the server takes {most} bytes at once; set its max_payload to 1 MiB, which is what it is by default"
            )));
        }
        let context = ContextBuilder::new().timeout(ANSWER).ack_timeout(ANSWER);
        Ok((client.clone(), context.build(client), is_broken))
    }
}
