//! One POST, and what its answer means. A connection for each: a batch comes once a window.

use super::{event::CONTENT_TYPE, target::Target};
use crate::sink::{SinkError, http::Address, trust};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE as TYPE, HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// What is read of an answer, bytes.
const ANSWER_MAX: usize = 64 << 10;
/// What is told of it, characters.
const TOLD_MAX: usize = 200;

/// Posts a batch.
///
/// # Errors
/// [`SinkError::Unavailable`]: again with the same events; [`SinkError::Refused`].
pub(super) async fn post(
    target: &Target,
    body: Vec<u8>,
    token: Option<&str>,
) -> Result<(), SinkError> {
    let address = target.address().map_err(SinkError::Refused)?;
    let away =
        |error: &dyn std::fmt::Display| SinkError::Unavailable(format!("{}: {error}", target.url));
    let stream = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(|error| away(&error))?;
    let request = request(&address, body, token)?;
    let (status, text) = match &target.ca_file {
        Some(ca_file) if address.is_tls => {
            let tls = TlsConnector::from(Arc::new(trust::tls(ca_file)?));
            let name = ServerName::try_from(address.host.clone())
                .map_err(|error| SinkError::Refused(format!("{}: {error}", target.url)))?;
            let stream = tls.connect(name, stream).await;
            ask(stream.map_err(|error| away(&error))?, request).await
        }
        _ => ask(stream, request).await,
    }
    .map_err(|error| away(&error))?;
    judge(target, status, &text)
}

fn request(
    address: &Address,
    body: Vec<u8>,
    token: Option<&str>,
) -> Result<Request<Full<Bytes>>, SinkError> {
    let refused = |error: &dyn std::fmt::Display| SinkError::Refused(format!("a request: {error}"));
    let mut request = Request::post(&address.path)
        .header(HOST, &address.authority)
        .header(TYPE, CONTENT_TYPE)
        .header(USER_AGENT, concat!("octroi/", env!("CARGO_PKG_VERSION")));
    if let Some(token) = token {
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
            SinkError::Refused("the token has characters that a header cannot carry".into())
        })?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| refused(&error))
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> hyper::Result<(StatusCode, String)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // What goes wrong with it is told to whoever waits for the answer.
    let connection = tokio::spawn(async move { drop(connection.await) });
    let answer = sender.send_request(request).await;
    let told = match answer {
        Ok(answer) => {
            let status = answer.status();
            let text = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
            let text = text.map(|text| text.to_bytes()).unwrap_or_default();
            Ok((status, String::from_utf8_lossy(&text).into_owned()))
        }
        Err(error) => Err(error),
    };
    connection.abort();
    told
}

fn judge(target: &Target, status: StatusCode, text: &str) -> Result<(), SinkError> {
    let is_control = |c: char| c.is_control() || c.is_whitespace();
    let words: Vec<&str> = text
        .split(is_control)
        .filter(|word| !word.is_empty())
        .collect();
    let said: String = words.join(" ").chars().take(TOLD_MAX).collect();
    let answered = if said.is_empty() {
        format!("{} answered {status}", target.url)
    } else {
        format!("{} answered {status}: {said}", target.url)
    };
    match status.as_u16() {
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
