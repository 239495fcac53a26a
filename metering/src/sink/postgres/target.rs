//! Where a database is, and the way to it.

use crate::sink::{SinkError, trust};
use rustls::ClientConfig;
use std::{path::PathBuf, time::Duration};
use tokio_postgres::{Client, Config, NoTls, config::Host, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

const CONNECT: Duration = Duration::from_secs(10);

/// Where a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As libpq writes it: `postgres://octroi@billing.example/metering`, or `host=/run/postgresql dbname=metering`.
    pub url: String,
    /// A file with the password and nothing else.
    pub password_file: Option<PathBuf>,
    /// Certificates, PEM, that the server's must descend from: TLS is then all that is spoken.
    pub ca_file: Option<PathBuf>,
}

impl Target {
    /// What is wrong with it that can be told without asking anybody: what, and what to write instead.
    ///
    /// # Errors
    /// A line for people.
    pub fn check(&self) -> Result<(), String> {
        self.parsed().map(drop)
    }

    /// What it is and where, in words; nothing secret.
    #[must_use]
    pub fn describe(&self) -> String {
        let Ok(config) = self.parsed() else {
            return "a PostgreSQL database".into();
        };
        let hosts = config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let tls = if self.ca_file.is_some() {
            ", over TLS"
        } else {
            ""
        };
        format!(
            "the PostgreSQL database {} at {}{tls}",
            config.get_dbname().unwrap_or("of the user's name"),
            hosts.collect::<Vec<_>>().join(", ")
        )
    }

    fn parsed(&self) -> Result<Config, String> {
        let config: Config = self
            .url
            .parse()
            .map_err(|error| format!("it is no address of a database ({error}); write \"postgres://octroi@billing.example/metering\""))?;
        if config.get_password().is_some() {
            return Err(
                "it has a password; write that into a file, and the file's name as `password_file`"
                    .into(),
            );
        }
        if config.get_hosts().is_empty() {
            return Err("it names no host; write \"postgres://octroi@billing.example/metering\" or \"host=/run/postgresql\"".into());
        }
        if self.ca_file.is_none() && config.get_hosts().iter().any(is_far) {
            return Err("its host is another machine; write `ca_file`, the certificates to trust, so that records are not sent in clear".into());
        }
        Ok(config)
    }

    fn config(&self, answer: Duration) -> Result<Config, SinkError> {
        let mut config = self.parsed().map_err(SinkError::Refused)?;
        if let Some(path) = &self.password_file {
            config.password(trust::secret(path)?);
        }
        config
            .application_name("octroi")
            .connect_timeout(CONNECT)
            .keepalives_idle(Duration::from_secs(20))
            .tcp_user_timeout(answer);
        Ok(config)
    }

    /// Connects. The connection works while the runtime does, and ends with the client.
    pub(super) async fn connect(&self, answer: Duration) -> Result<Client, SinkError> {
        let mut config = self.config(answer)?;
        let Some(path) = &self.ca_file else {
            let (client, connection) = config.connect(NoTls).await.map_err(super::told)?;
            // What goes wrong with it is told to whoever waits for an answer.
            tokio::spawn(async move { drop(connection.await) });
            return Ok(client);
        };
        let tls: ClientConfig = trust::tls(path)?;
        config.ssl_mode(SslMode::Require);
        let tls = MakeRustlsConnect::new(tls);
        let (client, connection) = config.connect(tls).await.map_err(super::told)?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }
}

fn is_far(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => trust::is_far(name),
        Host::Unix(_) => false,
    }
}
