//! A question over HTTP/1.1, and what its answer means. A connection for each: a batch comes once a window.

use super::{SinkError, trust};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    body::Bytes,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::{path::Path, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// What is told of an answer, characters.
const TOLD_MAX: usize = 200;

/// An address in its parts.
#[derive(Debug)]
pub(super) struct Address {
    pub is_tls: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// As the header `Host` has it.
    pub authority: String,
    /// From the slash on.
    pub path: String,
}

impl Address {
    /// Of a service; `example`: one that is right, in quotes.
    ///
    /// # Errors
    /// A line for people: what is wrong, and what to write instead.
    pub fn of(url: &str, ca_file: Option<&Path>, example: &str) -> Result<Self, String> {
        let none = |why: String| format!("it is no address of a service ({why}); write {example}");
        let uri: Uri = url
            .parse()
            .map_err(|error: hyper::http::uri::InvalidUri| none(error.to_string()))?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(none("it begins neither with https nor with http".into())),
        };
        let authority = uri.authority().ok_or_else(|| none("no host".into()))?;
        if authority.as_str().contains('@') {
            return Err(
                "it has a name or a password; write a token into a file, and the file's name as `token_file`"
                    .into(),
            );
        }
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(none("no host".into()));
        }
        match (is_tls, ca_file) {
            (true, None) => {
                return Err(
                    "it is https; write `ca_file`, the certificates to trust, such as \
                            /etc/ssl/certs/ca-certificates.crt"
                        .into(),
                );
            }
            (false, Some(_)) => {
                return Err("it is http, and `ca_file` is for https; write https".into());
            }
            (false, None) if trust::is_far(host) => {
                return Err("its host is another machine; write https and `ca_file`, so that records are not sent in clear".into());
            }
            _ => {}
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            is_tls,
            host: host.to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if is_tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            path: path.to_owned(),
        })
    }
}

/// Whom to ask.
pub(super) struct Server<'a> {
    /// What it is called in messages.
    pub url: &'a str,
    pub address: Address,
    /// With TLS: certificates, PEM, that the server's must descend from.
    pub ca_file: Option<&'a Path>,
    pub token: Option<&'a str>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// As much as was to be read; empty where there was more.
    pub text: String,
}

impl Server<'_> {
    /// Asks, and reads at most `answer_bytes_max` of the answer. `body`: its content type, and its bytes.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`]: it does not answer; [`SinkError::Refused`]: it cannot be asked.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
        answer_bytes_max: usize,
    ) -> Result<Answer, SinkError> {
        let away = |error: &dyn std::fmt::Display| {
            SinkError::Unavailable(format!("{}: {error}", self.url))
        };
        let request = self.request(method, path, body)?;
        let stream = TcpStream::connect((self.address.host.as_str(), self.address.port))
            .await
            .map_err(|error| away(&error))?;
        match self.ca_file {
            Some(ca_file) if self.address.is_tls => {
                let tls = TlsConnector::from(Arc::new(trust::tls(ca_file)?));
                let name = ServerName::try_from(self.address.host.clone())
                    .map_err(|error| SinkError::Refused(format!("{}: {error}", self.url)))?;
                let stream = tls.connect(name, stream).await;
                exchange(
                    stream.map_err(|error| away(&error))?,
                    request,
                    answer_bytes_max,
                )
                .await
            }
            _ => exchange(stream, request, answer_bytes_max).await,
        }
        .map_err(|error| away(&error))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<Request<Full<Bytes>>, SinkError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.address.authority)
            .header(USER_AGENT, concat!("octroi/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
                SinkError::Refused("the token has characters that a header cannot carry".into())
            })?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let mut bytes = Vec::new();
        if let Some((kind, body)) = body {
            request = request.header(CONTENT_TYPE, kind);
            bytes = body;
        }
        request
            .body(Full::new(Bytes::from(bytes)))
            .map_err(|error| SinkError::Refused(format!("a request: {error}")))
    }

    /// An answer in a line for people.
    pub fn told(&self, answer: &Answer) -> String {
        let is_control = |c: char| c.is_control() || c.is_whitespace();
        let words: Vec<&str> = answer
            .text
            .split(is_control)
            .filter(|word| !word.is_empty())
            .collect();
        let said: String = words.join(" ").chars().take(TOLD_MAX).collect();
        if said.is_empty() {
            format!("{} answered {}", self.url, answer.status)
        } else {
            format!("{} answered {}: {said}", self.url, answer.status)
        }
    }

    /// Whether it took what it was sent.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`]: again with the same; [`SinkError::Refused`].
    pub fn judge(&self, answer: &Answer) -> Result<(), SinkError> {
        let answered = self.told(answer);
        match answer.status.as_u16() {
            200 | 201 | 202 | 204 => Ok(()),
            300..=399 => Err(SinkError::Refused(format!(
                "{answered}: no redirection is followed; write the address that it names as `url`"
            ))),
            401 | 403 => Err(SinkError::Refused(format!(
                "{answered}; write the token that it knows into `token_file`"
            ))),
            // Less is sent next time after 413.
            408 | 413 | 425 | 429 | 500..=599 => Err(SinkError::Unavailable(answered)),
            _ => Err(SinkError::Refused(answered)),
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    answer_bytes_max: usize,
) -> hyper::Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // What goes wrong with it is told to whoever waits for the answer.
    let connection = tokio::spawn(async move { drop(connection.await) });
    let answer = sender.send_request(request).await;
    let told = match answer {
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            let text = Limited::new(body, answer_bytes_max).collect().await;
            let text = text.map(|text| text.to_bytes()).unwrap_or_default();
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                text: String::from_utf8_lossy(&text).into_owned(),
            })
        }
        Err(error) => Err(error),
    };
    connection.abort();
    told
}
