//! A connection over HTTP/1.1 that takes one request after the other, for what asks several questions at once.
//!
//! What it is not: it knows no status. What an answer means is the sink's to say.

use super::{SinkError, http::Address, trust};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{HeaderMap, Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::{path::Path, sync::Arc};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_rustls::TlsConnector;

/// What came back.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The body; why there is none where it did not come whole.
    pub body: Result<Bytes, String>,
}

impl Answer {
    /// The beginning of its body for people: one line.
    pub fn said(&self, characters_max: usize) -> String {
        let text = self.body.as_deref().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let words = text.split(|c: char| c.is_control() || c.is_whitespace());
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        words.join(" ").chars().take(characters_max).collect()
    }
}

/// A connection to a server; it ends with this value.
pub(super) struct Line {
    sender: http1::SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
}

impl Line {
    /// Connects, with TLS where the address says so; `url` is what errors name.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`] when nobody answers, or somebody who is not trusted; [`SinkError::Refused`] when nobody can
    /// be trusted.
    pub async fn open(
        url: &str,
        address: &Address,
        ca_file: Option<&Path>,
    ) -> Result<Self, SinkError> {
        let away =
            |error: &dyn std::fmt::Display| SinkError::Unavailable(format!("{url}: {error}"));
        let stream = TcpStream::connect((address.host.as_str(), address.port))
            .await
            .map_err(|error| away(&error))?;
        match ca_file {
            Some(ca_file) if address.is_tls => {
                let tls = TlsConnector::from(Arc::new(trust::tls(ca_file)?));
                let name = ServerName::try_from(address.host.clone())
                    .map_err(|error| SinkError::Refused(format!("{url}: {error}")))?;
                let stream = tls.connect(name, stream).await;
                let stream = stream.map_err(|error| away(&error))?;
                Self::over(TokioIo::new(stream)).await
            }
            _ => Self::over(TokioIo::new(stream)).await,
        }
        .map_err(|error| away(&error))
    }

    async fn over(
        stream: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    ) -> hyper::Result<Self> {
        let (sender, connection) = http1::handshake(stream).await?;
        // What goes wrong with it is told to whoever waits for the answer.
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, connection })
    }

    /// Asks, and reads at most so many bytes of the body.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
        body_bytes_max: usize,
    ) -> hyper::Result<Answer> {
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, body_bytes_max).collect().await;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body
                .map(|body| body.to_bytes())
                .map_err(|error| error.to_string()),
        })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
