//! From a request to its answer.

use super::{
    Answer, Shared, change, detail, look,
    peer::{Peer, Role},
    problem::{Problem, ok, respond},
    route::{self, Action, Found, Query},
    statements, watch,
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode,
    body::{Body as _, Bytes, Incoming},
    header::CONTENT_TYPE,
};
use serde_json::Value;
use std::{rc::Rc, time::Duration};
use tokio::time::timeout;

/// The description that this serves.
pub const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// A request's body comes within this.
const BODY: Duration = Duration::from_secs(10);
/// A port has 64 MACs and 256 prefixes at most, bytes.
const PORT_BYTES_MAX: usize = 64 << 10;
/// A configuration of ten thousand ports, bytes.
const CONFIG_BYTES_MAX: usize = 16 << 20;

/// Answers one request.
pub async fn answer(request: Request<Incoming>, peer: Peer, shared: Rc<Shared>) -> Answer {
    let answered = act(request, &peer, &shared).await;
    answered.unwrap_or_else(Problem::answer)
}

async fn act(
    request: Request<Incoming>,
    peer: &Peer,
    shared: &Rc<Shared>,
) -> Result<Answer, Problem> {
    // Before anything else is said: a stranger learns nothing, not even which paths there are.
    let role = shared.role(peer).ok_or_else(|| {
        Problem::new(
            StatusCode::FORBIDDEN,
            format!(
                "{} has no role here; [api] read and policy name who has one",
                peer.called()
            ),
        )
    })?;
    let found = route::find(request.method(), request.uri())?;
    let route = found.route;
    if role < route.role {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            format!(
                "this takes the role {}, and {} has the role {}",
                route.role.name(),
                peer.called(),
                role.name()
            ),
        ));
    }
    let query = Query::of(request.uri(), route)?;
    let name = found.name.as_deref().unwrap_or_default();
    match route.action {
        Action::PortAdd => {
            let body = body(request, PORT_BYTES_MAX).await?;
            change::add(shared, peer, role, body).await
        }
        Action::PortSet => {
            let body = body(request, PORT_BYTES_MAX).await?;
            change::set(shared, peer, role, name, body).await
        }
        Action::PortRemove => change::remove(shared, peer, role, name).await,
        Action::Apply => {
            let body = body(request, CONFIG_BYTES_MAX).await?;
            change::apply(shared, peer, role, &body).await
        }
        Action::Correct => {
            let body = body(request, PORT_BYTES_MAX).await?;
            detail::correct(shared, (peer, role), body).await
        }
        _ => look_at(shared, (peer, role), &found, &query).await,
    }
}

/// Answers what only looks.
///
/// # Errors
/// Why not.
pub async fn look_at(
    shared: &Rc<Shared>,
    who: (&Peer, Role),
    found: &Found,
    query: &Query,
) -> Result<Answer, Problem> {
    let name = found.name.as_deref().unwrap_or_default();
    detail::noted(shared, who, found.route.action, query).await?;
    match found.route.action {
        Action::OpenApi => Ok(respond(StatusCode::OK, "application/json", OPENAPI)),
        Action::Status => Ok(ok(StatusCode::OK, &look::status(shared)?)),
        Action::Tenants => Ok(ok(StatusCode::OK, &look::tenants(shared))),
        Action::Ports => Ok(ok(StatusCode::OK, &look::ports(shared, query)?)),
        Action::Port => Ok(ok(StatusCode::OK, &look::port(shared, name)?)),
        Action::Records => Ok(ok(StatusCode::OK, &look::records(shared, query).await?)),
        Action::Flows => Ok(ok(
            StatusCode::OK,
            &detail::flows(shared, who, query).await?,
        )),
        Action::Usage => Ok(ok(StatusCode::OK, &look::usage(shared, query).await?)),
        Action::Overview => watch::overview(shared),
        Action::Ledger => Ok(ok(StatusCode::OK, &watch::ledger(shared).await?)),
        Action::Statements => Ok(ok(StatusCode::OK, &statements::list(shared, query).await?)),
        Action::Statement => statements::one(shared, query).await,
        Action::PortAdd
        | Action::PortSet
        | Action::PortRemove
        | Action::Apply
        | Action::Correct => Err(Problem::bad("this changes something")),
    }
}

/// A request's body, as JSON.
async fn body(request: Request<Incoming>, most: usize) -> Result<Value, Problem> {
    let kind = request.headers().get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "write the header content-type: application/json",
        ));
    }
    let too_large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("this takes {most} bytes at most"),
        )
    };
    if request.body().size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let read = Limited::new(request.into_body(), most).collect();
    let bytes: Bytes = match timeout(BODY, read).await {
        Ok(Ok(read)) => read.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => return Err(Problem::bad("the body broke off")),
        Err(_) => {
            return Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "the body did not come within 10 s",
            ));
        }
    };
    serde_json::from_slice(&bytes).map_err(|error| Problem::bad(format!("no JSON: {error}")))
}

/// What a role may be asked for beside its routes.
pub fn may_only(role: Role, needed: Role, what: &str) -> Result<(), Problem> {
    if role >= needed {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        format!(
            "{what} takes the role {}, and this is {}",
            needed.name(),
            role.name()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::api::route::ROUTES;
    use std::collections::BTreeSet;

    fn document() -> Value {
        serde_json::from_str(OPENAPI).expect("JSON")
    }

    #[test]
    fn every_route_and_parameter_is_in_the_document_and_nothing_else_is() {
        let document = document();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("methods") {
                if method == "parameters" {
                    continue;
                }
                let parameters = operation["parameters"].as_array();
                let query = parameters.into_iter().flatten();
                let query = query.filter(|parameter| parameter["in"] == "query");
                let query: BTreeSet<String> = query
                    .map(|parameter| parameter["name"].as_str().expect("a name").to_owned())
                    .collect();
                let role = operation["x-octroi-role"]
                    .as_str()
                    .expect("a role")
                    .to_owned();
                described.insert((method.to_uppercase(), path.clone(), role, query));
            }
        }
        let routes = ROUTES.iter().map(|route| {
            let query = route.query.iter().map(ToString::to_string).collect();
            let (path, role) = (route.path.to_owned(), route.role.name().to_owned());
            (route.method.to_string(), path, role, query)
        });
        assert_eq!(routes.collect::<BTreeSet<_>>(), described);
        assert_eq!(ROUTES.len(), described.len());
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        fn follow(at: &Value, document: &Value, seen: &mut usize) {
            if let Some(to) = at["$ref"].as_str() {
                let to = to.strip_prefix('#').expect("a reference within");
                assert!(document.pointer(to).is_some(), "{to}");
                *seen += 1;
            }
            let inside = at
                .as_object()
                .into_iter()
                .flat_map(|object| object.values());
            for value in inside.chain(at.as_array().into_iter().flatten()) {
                follow(value, document, seen);
            }
        }
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        let mut seen = 0;
        follow(&document, &document, &mut seen);
        assert!(seen > 20, "{seen}");
    }
}
