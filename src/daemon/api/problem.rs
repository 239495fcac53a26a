//! Why not, as `application/problem+json` (RFC 9457).

use super::Answer;
use crate::{config::Errors, daemon::control::Refusal};
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use serde_json::{Value, json};

/// A refusal.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    /// What, where, what to do.
    detail: String,
    /// All that is wrong, when it is more than one thing.
    errors: Vec<String>,
    /// For 405.
    allow: Option<String>,
}

impl Problem {
    /// One thing is wrong.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            errors: Vec::new(),
            allow: None,
        }
    }

    /// The request makes no sense.
    pub fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The path is right, and its method is another.
    pub fn method(allow: String) -> Self {
        Self {
            allow: Some(allow.clone()),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("this path takes {allow}"),
            )
        }
    }

    /// The status.
    #[cfg(test)]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    fn lines(status: StatusCode, lines: Vec<String>) -> Self {
        let detail = lines.first().cloned().unwrap_or_default();
        Self {
            errors: if lines.len() > 1 { lines } else { Vec::new() },
            ..Self::new(status, detail)
        }
    }

    /// The answer.
    pub fn answer(self) -> Answer {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if !self.errors.is_empty() {
            body["errors"] = self.errors.into();
        }
        let mut answer = respond(self.status, "application/problem+json", body.to_string());
        if let Some(allow) = self.allow.and_then(|allow| allow.parse().ok()) {
            answer.headers_mut().insert(ALLOW, allow);
        }
        answer
    }
}

/// A request's JSON has no lines and columns: what is wrong is told without them.
impl From<Errors> for Problem {
    fn from(errors: Errors) -> Self {
        let lines = errors.0.into_iter().map(|error| error.message).collect();
        Self::lines(StatusCode::UNPROCESSABLE_ENTITY, lines)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = if refusal.config {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        Self::lines(status, refusal.message.lines().map(Into::into).collect())
    }
}

/// What was asked for.
pub fn ok(status: StatusCode, body: &Value) -> Answer {
    respond(status, "application/json", body.to_string())
}

/// An answer with a body of a kind.
pub fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
