//! The page: who is let in, what a browser can be made to send, and what somebody sees who opens it. The real
//! daemon, real users, real packets, and Chromium.
//!
//! `OCTROI_REGENERATE=1` writes the pictures of `docs/images/` anew.

#[path = "page/browser.rs"]
mod browser;
#[path = "browser/chromium.rs"]
mod chromium;
#[path = "api/client.rs"]
#[allow(dead_code, reason = "the page has its own way to ask")]
mod client;
#[path = "page/compare.rs"]
mod compare;
#[path = "page/site.rs"]
mod site;
mod support;

use anyhow::{Result, ensure};
use client::{ROOT, User};
use metering::ledger;
use site::{MARK, PAGE, Served, exchange, text};
use std::net::TcpListener;
use support::{alone, can_run, octroi};

/// Of the groups that a process has, only those count that the host's directory gives to its user.
const GAMES: User = User {
    uid: 5,
    gid: 65_534,
    groups: &[],
};
const BACKUP: User = User {
    uid: 34,
    gid: 65_534,
    groups: &[],
};
const CLAIMS: User = User {
    uid: 12_001,
    gid: 60,
    groups: &[100],
};
const STRANGER: User = User {
    uid: 1,
    gid: 1,
    groups: &[],
};

const PATHS: [&str; 6] = [
    "/",
    "/page.js",
    "/v1/overview",
    "/v1/ledger",
    "/v1/openapi.json",
    "/v1/nothing",
];

#[test]
fn whom_the_kernel_names_may_look_and_nobody_may_change() -> Result<()> {
    if !can_run("whom_the_kernel_names_may_look_and_nobody_may_change") {
        return Ok(());
    }
    let _alone = alone();
    let mut served = Served::prepared("")?;

    // An address that somebody has is one clear line, and no daemon.
    let taken = served.site.host.run(|| TcpListener::bind(PAGE))??;
    let refused = served
        .site
        .start(octroi())
        .err()
        .map(|error| error.to_string());
    let said = refused.unwrap_or_default();
    let line = format!("{PAGE}: cannot listen; name another [api] page");
    ensure!(said.contains(&line), "{said}");
    drop(taken);
    served.start()?;
    let pid = served.site.daemon_pid();

    // It listens on that address and no other.
    let listens = served.site.host.command("ss -Hltn")?;
    let addresses = listens
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3));
    ensure!(addresses.collect::<Vec<_>>() == [PAGE], "{listens}");

    let mut asked = 0;
    for user in [STRANGER, CLAIMS] {
        for path in PATHS {
            let refused = served.get(user, path)?;
            ensure!(refused.status == 403, "{user:?} {path}: {refused:?}");
            let detail = refused.body["detail"].to_string();
            ensure!(detail.contains("has no role here"), "{refused:?}");
            asked += 1;
        }
    }
    for user in [ROOT, GAMES, BACKUP] {
        for path in PATHS {
            let status = if path == "/v1/nothing" { 404 } else { 200 };
            let reply = served.get(user, path)?;
            ensure!(reply.status == status, "{user:?} {path}: {reply:?}");
            asked += 1;
        }
    }
    // Whose end is closed has no user, and is not taken for root.
    for user in [STRANGER, ROOT] {
        let said = served.on_host(user, || exchange(b"", true))?;
        ensure!(said.is_empty() || text(&said)?.status == 403, "{said:?}");
        asked += 1;
    }
    println!("CASES: looks by five users of the page: {asked}");

    let asked = refusals(&served)?;
    println!("CASES: requests that the page refuses: {asked}");
    // A start, and who looked at whom: no change, and no flow detail.
    let looks = ledger::looks(&served.ledger)?;
    let known = ["start:", "records", "usage", "statement"];
    let kind = |what: &str| what.split(' ').next().map(ToOwned::to_owned);
    let other = looks
        .iter()
        .find(|look| !kind(&look.what).is_some_and(|kind| known.contains(&kind.as_str())));
    ensure!(other.is_none(), "{other:?}");
    ensure!(served.site.daemon_pid() == pid && served.site.report()?.daemon);
    let log = served.site.log();
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
}

/// What another site can make a browser send, what is no request, and what would change something.
fn refusals(served: &Served) -> Result<usize> {
    let line = |method: &str, path: &str, more: &str| {
        format!("{method} {path} HTTP/1.1\r\nhost: {PAGE}\r\nconnection: close\r\n{more}\r\n")
    };
    let named = |host: &str| format!("GET / HTTP/1.1\r\n{host}connection: close\r\n\r\n");
    let marked = |more: &str| line("GET", "/v1/overview", &format!("{MARK}{more}"));
    let statement = "/v1/statement?tenant=1&month=2026-11";
    let mut cases: Vec<(String, u16)> = vec![
        (named("host: evil.example:8787\r\n"), 421),
        (named("host: 10.77.0.1:8787\r\n"), 421),
        (named("host: localhost.evil.example\r\n"), 421),
        (named(""), 400),
        (named("host: localhost\r\nhost: evil.example\r\n"), 400),
        (marked("origin: http://evil.example\r\n"), 403),
        (marked("origin: http://127.0.0.1:9\r\n"), 403),
        (marked("origin: null\r\n"), 403),
        (marked("sec-fetch-site: cross-site\r\n"), 403),
        (marked("sec-fetch-site: same-site\r\n"), 403),
        (line("GET", "/v1/overview", ""), 403),
        (line("GET", statement, ""), 403),
        (marked("content-length: 4\r\n\r\nbody"), 413),
        (line("GET", "/../../etc/passwd", ""), 404),
        (line("GET", "/%2e%2e/ledger.key", ""), 404),
        (line("GET", "/page.js/", ""), 404),
        (line("GET", "/?a=1", ""), 400),
        (line("GET", "/v1/overview?a=1", MARK), 400),
        (line("GET", "/v1/statement", MARK), 400),
        (
            line("GET", "/v1/statement?tenant=1&month=2026-13", MARK),
            400,
        ),
        (
            line("GET", "/v1/statement?tenant=1&month=9999-01", MARK),
            400,
        ),
        (
            line("GET", "/v1/statement?tenant=no&month=2026-11", MARK),
            400,
        ),
        (line("GET", &format!("{statement}&format=exe"), MARK), 400),
        (line("GET", &format!("{statement}&lang=de"), MARK), 400),
        (
            line("GET", "/", &format!("x: {}\r\n", "a".repeat(400_000))),
            431,
        ),
        (line("GET", &format!("/{}", "a".repeat(400_000)), ""), 414),
        (line("GET", "/", &"x: y\r\n".repeat(100)), 431),
        ("GET\r\n\r\n".into(), 400),
        ("\u{0}\u{1}\u{2}\r\n\r\n".into(), 400),
        ("GET / HTTP/9.9\r\n\r\n".into(), 400),
    ];
    let port = "{\"name\":\"x\"}";
    let body = format!(
        "content-type: application/json\r\ncontent-length: {}\r\n{MARK}",
        port.len()
    );
    for (method, path) in [
        ("POST", "/v1/ports"),
        ("PUT", "/v1/ports/alice-port"),
        ("DELETE", "/v1/ports/alice-port"),
        ("PUT", "/v1/config"),
        ("PATCH", "/"),
        ("OPTIONS", "/v1/overview"),
        ("TRACE", "/"),
    ] {
        cases.push((line(method, path, &body) + port, 405));
    }
    for (request, status) in &cases {
        let bytes = served.raw(ROOT, request.as_bytes())?;
        let reply = text(&bytes)?;
        let begin: String = request.chars().take(100).collect();
        // hyper's own refusals differ between a line and a head that are too long.
        let fits = reply.status == *status || (*status >= 414 && reply.status == 431);
        ensure!(fits, "{begin:?}: {reply:?}, not {status}");
        let told = String::from_utf8_lossy(&bytes);
        let of_ours = reply.kind == "application/problem+json";
        ensure!(!of_ours || told.contains("default-src 'self'"), "{told}");
        ensure!(!told.contains("access-control-allow"), "{told}");
        if of_ours {
            let detail = reply.body["detail"].as_str().unwrap_or_default();
            ensure!(!detail.is_empty() && !detail.contains('\n'), "{reply:?}");
        }
    }
    Ok(cases.len())
}

#[test]
fn what_is_seen_in_chromium_is_what_octroi_says() -> Result<()> {
    browser::what_is_seen_is_what_octroi_says()
}
