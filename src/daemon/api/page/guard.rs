//! Which requests come from the page itself, or from somebody who opens it; everything else that a browser can be
//! made to send by another site is refused.

use super::super::{Answer, problem::Problem};
use hyper::{
    HeaderMap, Method, StatusCode, Uri,
    header::{HOST, HeaderName, HeaderValue, ORIGIN},
    http::uri::Authority,
};
use std::net::IpAddr;

/// The page's own scripts send it with each request for data. No form, image or link can, and no script of another
/// site without asking first, which nothing here allows.
pub const MARK: HeaderName = HeaderName::from_static("octroi-page");
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// What is told to a browser with every answer.
const HEADERS: [(&str, &str); 8] = [
    (
        "content-security-policy",
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "permissions-policy",
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
    ("referrer-policy", "no-referrer"),
    ("vary", "origin, sec-fetch-site"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
];

/// Tells a browser what may not be done with an answer.
pub fn protect(answer: &mut Answer) {
    for (name, value) in HEADERS {
        answer.headers_mut().insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
}

/// Lets a request through.
///
/// # Errors
/// 405, 421 and 403, with the reason.
pub fn check(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let host = host(uri, headers)?;
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Problem::method("GET, HEAD".into()));
    }
    let forbidden = |detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, detail));
    for origin in headers.get_all(ORIGIN) {
        if origin.as_bytes() != format!("http://{host}").as_bytes() {
            return forbidden("this page answers no other origin; open it by its own address");
        }
    }
    let value = |name: &HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    let is_asked_for =
        uri.path() == "/" && value(&MODE) == Some(b"navigate") && value(&DEST) == Some(b"document");
    let of_other_site = match value(&SITE) {
        None | Some(b"same-origin" | b"none") => false,
        Some(_) => !is_asked_for,
    };
    if of_other_site {
        return forbidden("another site asked for this; open the page by its own address");
    }
    if uri.path().starts_with("/v1/") && value(&MARK) != Some(b"1") {
        return forbidden(
            "this is for the page's own scripts (header octroi-page: 1); programs use the socket of [api]",
        );
    }
    Ok(())
}

/// The name by which the page was called: a loopback one, so that no site's name can be made to mean this host. The
/// port may be another one: `ssh -L` has its own.
fn host(uri: &Uri, headers: &HeaderMap) -> Result<Authority, Problem> {
    let mut given = headers.get_all(HOST).iter();
    let (Some(host), None) = (given.next(), given.next()) else {
        return Err(Problem::bad("write the header host once"));
    };
    let misdirected = || {
        Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "this page is called localhost, 127.0.0.1 or [::1]; open it by one of these",
        )
    };
    let host: Authority = host.as_bytes().try_into().map_err(|_| misdirected())?;
    let name = host.host();
    let literal = name.trim_start_matches('[').trim_end_matches(']');
    let address = literal.parse::<IpAddr>();
    let is_own = name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback());
    let is_same = uri.authority().is_none_or(|named| *named == host);
    if !is_own || !is_same || host.as_str().contains('@') {
        return Err(misdirected());
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, uri: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                name.parse::<HeaderName>().expect("a name"),
                value.parse().expect("a value"),
            );
        }
        let method = method.parse().expect("a method");
        let refused = check(&method, &uri.parse().expect("a URI"), &map).err();
        refused.map(|problem| problem.status().as_u16())
    }

    #[test]
    fn only_loopback_names_are_answered() {
        let host = |host| asked("GET", "/", &[("host", host)]);
        for good in [
            "127.0.0.1:8787",
            "localhost:9000",
            "LOCALHOST",
            "[::1]:8787",
            "127.8.8.8:1",
        ] {
            assert_eq!(host(good), None, "{good}");
        }
        for bad in [
            "evil.example:8787",
            "localhost.example",
            "127.0.0.1.example",
            "10.0.0.1:8787",
            "[::]:8787",
            "0.0.0.0:8787",
            "a@localhost",
            "2130706433",
            "",
        ] {
            assert_eq!(host(bad), Some(421), "{bad}");
        }
        assert_eq!(asked("GET", "/", &[]), Some(400));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(asked("GET", "/", &twice), Some(400));
        let other = asked("GET", "http://evil.example/", &[("host", "localhost")]);
        assert_eq!(other, Some(421));
    }

    #[test]
    fn what_another_site_can_make_a_browser_send_is_refused() {
        let own = ("host", "localhost:8787");
        let with = |uri: &str, more: &[(&str, &str)]| asked("GET", uri, &[&[own], more].concat());
        let mark = ("octroi-page", "1");
        assert_eq!(with("/v1/status", &[mark]), None);
        assert_eq!(with("/v1/status", &[]), Some(403));
        assert_eq!(with("/v1/status", &[("octroi-page", "2")]), Some(403));
        let origin = ("origin", "http://localhost:8787");
        assert_eq!(with("/v1/status", &[mark, origin]), None);
        for foreign in [
            "http://localhost:8788",
            "https://localhost:8787",
            "http://evil.example",
            "null",
        ] {
            assert_eq!(
                with("/page.js", &[("origin", foreign)]),
                Some(403),
                "{foreign}"
            );
        }
        let site = |site| ("sec-fetch-site", site);
        assert_eq!(with("/page.js", &[site("same-origin")]), None);
        assert_eq!(with("/page.js", &[site("same-site")]), Some(403));
        assert_eq!(with("/", &[site("cross-site")]), Some(403));
        // A link in somebody's wiki.
        let link = [
            site("cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        assert_eq!(with("/", &link), None);
        assert_eq!(with("/page.js", &link), Some(403));
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT"] {
            assert_eq!(asked(method, "/", &[own]), Some(405), "{method}");
        }
        assert_eq!(asked("HEAD", "/", &[own]), None);
    }
}
