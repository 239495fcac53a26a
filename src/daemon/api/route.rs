//! Which requests there are. `docs/openapi.json` has the same ones: a test holds them together.

use super::{peer::Role, problem::Problem};
use hyper::{Method, StatusCode, Uri};
use std::collections::BTreeMap;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The description of all this.
    OpenApi,
    /// What `octroi status` says, without the ports.
    Status,
    /// Who pays.
    Tenants,
    /// Ports, by pages.
    Ports,
    /// One port.
    Port,
    /// As `octroi port add`.
    PortAdd,
    /// As `octroi port set`.
    PortSet,
    /// As `octroi port remove`.
    PortRemove,
    /// As `octroi apply`.
    Apply,
    /// Meter records, by pages.
    Records,
    /// As `octroi flows`.
    Flows,
    /// As `octroi correct`.
    Correct,
    /// As `octroi usage`.
    Usage,
    /// Everything that changes from second to second, by tenant.
    Overview,
    /// The ledger and its head.
    Ledger,
    /// Which statements there are.
    Statements,
    /// As `octroi statement`, without issuing one.
    Statement,
}

/// One kind of request.
#[derive(Debug)]
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path; a part in braces is a name.
    pub path: &'static str,
    /// Who may.
    pub role: Role,
    /// What it does.
    pub action: Action,
    /// The names that its query may have.
    pub query: &'static [&'static str],
}

const fn route(
    method: Method,
    path: &'static str,
    role: Role,
    action: Action,
    query: &'static [&'static str],
) -> Route {
    Route {
        method,
        path,
        role,
        action,
        query,
    }
}

/// All of them.
pub static ROUTES: [Route; 17] = [
    route(
        Method::GET,
        "/v1/openapi.json",
        Role::Read,
        Action::OpenApi,
        &[],
    ),
    route(Method::GET, "/v1/status", Role::Read, Action::Status, &[]),
    route(Method::GET, "/v1/tenants", Role::Read, Action::Tenants, &[]),
    route(
        Method::GET,
        "/v1/ports",
        Role::Read,
        Action::Ports,
        &["tenant", "after", "limit"],
    ),
    route(
        Method::POST,
        "/v1/ports",
        Role::Policy,
        Action::PortAdd,
        &[],
    ),
    route(
        Method::GET,
        "/v1/ports/{name}",
        Role::Read,
        Action::Port,
        &[],
    ),
    route(
        Method::PUT,
        "/v1/ports/{name}",
        Role::Policy,
        Action::PortSet,
        &[],
    ),
    route(
        Method::DELETE,
        "/v1/ports/{name}",
        Role::Policy,
        Action::PortRemove,
        &[],
    ),
    route(Method::PUT, "/v1/config", Role::Policy, Action::Apply, &[]),
    route(
        Method::GET,
        "/v1/records",
        Role::Read,
        Action::Records,
        &[
            "tenant",
            "port",
            "direction",
            "zone",
            "from",
            "to",
            "after",
            "limit",
        ],
    ),
    route(
        Method::GET,
        "/v1/flows",
        Role::Admin,
        Action::Flows,
        &[
            "tenant",
            "port",
            "direction",
            "remote",
            "from",
            "to",
            "after",
            "limit",
        ],
    ),
    route(
        Method::POST,
        "/v1/corrections",
        Role::Admin,
        Action::Correct,
        &[],
    ),
    route(
        Method::GET,
        "/v1/usage",
        Role::Read,
        Action::Usage,
        &[
            "tenant",
            "port",
            "direction",
            "from",
            "to",
            "by",
            "step",
            "p95",
        ],
    ),
    route(
        Method::GET,
        "/v1/overview",
        Role::Read,
        Action::Overview,
        &[],
    ),
    route(Method::GET, "/v1/ledger", Role::Read, Action::Ledger, &[]),
    route(
        Method::GET,
        "/v1/statements",
        Role::Read,
        Action::Statements,
        &["tenant"],
    ),
    route(
        Method::GET,
        "/v1/statement",
        Role::Read,
        Action::Statement,
        &["tenant", "month", "format", "lang"],
    ),
];

/// A request that there is.
#[derive(Debug)]
pub struct Found {
    /// Which one.
    pub route: &'static Route,
    /// The name in its path.
    pub name: Option<String>,
}

/// Finds the route of a request.
///
/// # Errors
/// 404 and 405.
pub fn find(method: &Method, uri: &Uri) -> Result<Found, Problem> {
    // RFC 9110: whoever has GET has HEAD; hyper leaves the body out.
    let method = if method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let mut allow = Vec::new();
    for route in &ROUTES {
        let Some(name) = fits(route.path, uri.path())? else {
            continue;
        };
        if route.method == method {
            return Ok(Found { route, name });
        }
        allow.push(route.method.as_str());
    }
    if allow.is_empty() {
        let detail = "there is no such path; /v1/openapi.json names all";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    Err(Problem::method(allow.join(", ")))
}

/// The name that a path has where its route has braces; `None`: it is another route's.
fn fits(route: &str, path: &str) -> Result<Option<Option<String>>, Problem> {
    let Some((before, _)) = route.split_once('{') else {
        return Ok((route == path).then_some(None));
    };
    let Some(name) = path.strip_prefix(before) else {
        return Ok(None);
    };
    if name.is_empty() || name.contains('/') {
        return Ok(None);
    }
    let name = percent_encoding::percent_decode_str(name).decode_utf8();
    let name = name.map_err(|_| Problem::bad("the name in the path is not UTF-8"))?;
    Ok(Some(Some(name.into_owned())))
}

/// A query, of names that its route has, each at most once.
#[derive(Debug, Default)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads it.
    ///
    /// # Errors
    /// When it has a name that the route does not know, or one twice.
    pub fn of(uri: &Uri, route: &Route) -> Result<Self, Problem> {
        let mut found = BTreeMap::new();
        let text = uri.query().unwrap_or_default();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if !route.query.contains(&name.as_ref()) {
                let known = match route.query {
                    [] => "this path takes none".to_owned(),
                    names => format!("this path takes {}", names.join(", ")),
                };
                let name = name.escape_debug();
                return Err(Problem::bad(format!("unknown parameter `{name}`; {known}")));
            }
            if found.insert(name.to_string(), value.into_owned()).is_some() {
                return Err(Problem::bad(format!("`{name}` is there twice; keep one")));
            }
        }
        Ok(Self(found))
    }

    /// A value as it was written.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A value that `read` makes something of.
    ///
    /// # Errors
    /// When it cannot; `what` says what to write.
    pub fn read<T>(
        &self,
        name: &str,
        what: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let wrong = || Problem::bad(format!("`{name}`: write {what}"));
        read(text).map(Some).ok_or_else(wrong)
    }

    /// How many of a page, 1 to `most`.
    ///
    /// # Errors
    /// When it is another number.
    pub fn limit(&self, most: usize) -> Result<usize, Problem> {
        let number = self.read("limit", &format!("a number from 1 to {most}"), |text| {
            let number = text.parse().ok();
            number.filter(|number| (1..=most).contains(number))
        })?;
        Ok(number.unwrap_or(most.min(100)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, path: &str) -> Result<(Action, Option<String>), StatusCode> {
        find(&method, &path.parse().expect("a path"))
            .map(|found| (found.route.action, found.name))
            .map_err(|problem| problem.status())
    }

    #[test]
    fn a_path_is_one_route_by_its_method() {
        assert_eq!(found(Method::GET, "/v1/ports"), Ok((Action::Ports, None)));
        assert_eq!(
            found(Method::DELETE, "/v1/ports/a%2Db"),
            Ok((Action::PortRemove, Some("a-b".into())))
        );
        for (method, path, status) in [
            (Method::GET, "/v1/ports/", StatusCode::NOT_FOUND),
            (Method::GET, "/v1/ports/a/b", StatusCode::NOT_FOUND),
            (Method::GET, "/v2/ports", StatusCode::NOT_FOUND),
            (Method::PATCH, "/v1/ports", StatusCode::METHOD_NOT_ALLOWED),
            (Method::GET, "/v1/ports/%ff", StatusCode::BAD_REQUEST),
        ] {
            assert_eq!(found(method, path), Err(status), "{path}");
        }
    }

    #[test]
    fn a_parameter_that_nothing_obeys_is_refused() {
        let query = |text: &str| {
            let uri: Uri = text.parse().expect("a path");
            let route = find(&Method::GET, &uri).expect("a route").route;
            Query::of(&uri, route)
        };
        let good = query("/v1/ports?tenant=a%20b&limit=7").expect("a query");
        assert_eq!(
            (good.text("tenant"), good.limit(9).ok()),
            (Some("a b"), Some(7))
        );
        for bad in ["?x=1", "?limit=1&limit=1", "?tenants=a"] {
            let refused = query(&format!("/v1/ports{bad}")).expect_err("it is refused");
            assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{bad}");
        }
        for bad in ["0", "10", "", "-1", "1e3"] {
            let query = query(&format!("/v1/ports?limit={bad}")).expect("a query");
            assert!(query.limit(9).is_err(), "{bad}");
        }
    }
}
