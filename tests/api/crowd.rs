//! Many clients at once, and what is no request at all.

use super::{
    client::{ROOT, Reply, raw, reply},
    site::{NAMED, POLICY, READER, STRANGER, Served, bobs_port, waiting_port},
};
use crate::support::{alone, by_level, can_run, octroi};
use anyhow::{Context as _, Result, ensure};
use octroi::lab::command;
use serde_json::Value;
use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::{Duration, Instant},
};

#[test]
fn a_hundred_clients_at_once_are_all_answered() -> Result<()> {
    if !can_run("a_hundred_clients_at_once_are_all_answered") {
        return Ok(());
    }
    let _alone = alone();
    let served = Served::new(true)?;
    let pid = served.site.daemon_pid();
    const ADDED: usize = 20;
    let rounds = by_level(1, 2, 10);
    for round in 0..rounds {
        let replies: Vec<(usize, Reply)> = std::thread::scope(|scope| {
            let clients = (0..100).map(|number| {
                let served = &served;
                scope.spawn(move || {
                    let reply = match number {
                        0..ADDED => {
                            served.ask(POLICY, "POST", "/v1/ports", &waiting_port(number + 1))
                        }
                        20..40 => served.get(READER, "/v1/status"),
                        40..60 => served.get(NAMED, "/v1/ports?limit=1000"),
                        60..70 => served.get(READER, "/v1/records?limit=1000"),
                        70..80 => {
                            served.get(ROOT, "/v1/usage?from=2026-01-01&to=2027-01-01&step=day")
                        }
                        80..90 => served.get(ROOT, "/v1/tenants"),
                        _ => served.get(STRANGER, "/v1/status"),
                    };
                    reply.map(|reply| (number, reply))
                })
            });
            let clients: Vec<_> = clients.collect();
            let replies = clients.into_iter().map(|client| {
                client
                    .join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked")))
            });
            replies.collect::<Result<_>>()
        })?;
        for (number, reply) in replies {
            let expected = match number {
                // The second time they are there already, and still wait for their interfaces.
                0..ADDED => 202,
                20..90 => 200,
                _ => 403,
            };
            ensure!(
                reply.status == expected,
                "round {round}, client {number}: {reply:?}"
            );
        }
        let ports = served.status(ROOT)?["ports"]["waiting"].clone();
        ensure!(ports == ADDED, "{ports}");
    }
    ensure!(
        served.entries()?.len() == ADDED * rounds,
        "{:?}",
        served.entries()?
    );
    served.is_well(pid)?;
    println!("CASES: clients at once, all answered: {}", 100 * rounds);
    Ok(())
}

/// Splitmix64, always from the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

#[test]
fn what_is_no_request_neither_ends_nor_holds_up_the_daemon() -> Result<()> {
    if !can_run("what_is_no_request_neither_ends_nor_holds_up_the_daemon") {
        return Ok(());
    }
    let _alone = alone();
    let served = Served::new(true)?;
    let pid = served.site.daemon_pid();
    let head = "POST /v1/ports HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let post = |body: &str| format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let long = "x".repeat(100_000);
    let cases: Vec<(String, Option<u16>)> = vec![
        (String::new(), None),
        ("\r\n\r\n\r\n".into(), None),
        ("\0\0\0\0".into(), Some(400)),
        ("GET / HTTP/9.9\r\n\r\n".into(), Some(400)),
        (
            "GET /v1/status HTTP/1.1\r\nconnection: close\r\n\r\n".into(),
            Some(200),
        ),
        (
            "GET /v1/%00 HTTP/1.1\r\nconnection: close\r\n\r\n".into(),
            Some(404),
        ),
        (
            "GET /v1/ports/%ff%fe HTTP/1.1\r\nconnection: close\r\n\r\n".into(),
            Some(400),
        ),
        (
            "GET /v1/ports?limit=%ff HTTP/1.1\r\nconnection: close\r\n\r\n".into(),
            Some(400),
        ),
        (
            "OPTIONS * HTTP/1.1\r\nconnection: close\r\n\r\n".into(),
            Some(404),
        ),
        (
            format!("GET /{long} HTTP/1.1\r\nconnection: close\r\n\r\n"),
            Some(431),
        ),
        (format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"), Some(431)),
        (
            format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200)),
            Some(431),
        ),
        (format!("{head}content-length: -1\r\n\r\n"), Some(400)),
        (
            format!("{head}content-length: 99999999999999999999\r\n\r\n"),
            Some(400),
        ),
        (
            format!("{head}content-length: 99999999999\r\n\r\n{{}}"),
            Some(413),
        ),
        (
            format!("{head}content-length: 10\r\ncontent-length: 11\r\n\r\n"),
            Some(400),
        ),
        (
            format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n"),
            Some(400),
        ),
        (
            format!("{head}transfer-encoding: chunked\r\n\r\nfffffff0\r\n{long}"),
            Some(413),
        ),
        (post(""), Some(400)),
        (post("{"), Some(400)),
        (post("[]"), Some(400)),
        (post("null"), Some(400)),
        (post("{}"), Some(422)),
        (post("\u{feff}{}"), Some(400)),
        (post(&"[".repeat(60_000)), Some(400)),
        (post(&"{\"a\":".repeat(100)), Some(400)),
        (post("{\"name\": 18446744073709551615}"), Some(422)),
        (
            post("{\"name\": \"x\\u0000\", \"vlan\": -1, \"macs\": [[]], \"from_tenant\": 3}"),
            Some(422),
        ),
        (post(&format!("{{\"name\": \"{long}\"}}")), Some(413)),
        (
            post("{}").replace("application/json", "text/plain"),
            Some(415),
        ),
    ];
    let mut wrong = Vec::new();
    for (request, status) in &cases {
        let answer = raw(&served.socket, request.as_bytes());
        let reply = answer.ok().and_then(|bytes| reply(&bytes).ok());
        let found = reply.as_ref().map(|reply| reply.status);
        if found != *status {
            let shown: String = request.chars().take(200).collect();
            wrong.push(format!("{shown:?}: {reply:?}, not {status:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    served.is_well(pid)?;

    // Slow ones: heads and bodies that never end. Others do not wait for them.
    let half = post(&bobs_port(&Value::Null).to_string());
    let slow: Vec<_> = (0..60)
        .map(|number| {
            use std::io::Write as _;
            let mut stream = std::os::unix::net::UnixStream::connect(&served.socket)?;
            let cut = [10, head.len() + 2, half.len() - 3][number % 3];
            stream.write_all(&half.as_bytes()[..cut])?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    let begun = Instant::now();
    served.is_well(pid)?;
    ensure!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    drop(slow);

    // A right request with a few bytes that are not.
    let rounds = by_level(300, 3_000, 30_000);
    let mut dice = Dice(7);
    let valid = post(&waiting_port(1).to_string());
    for round in 0..rounds {
        let mut bytes = valid.clone().into_bytes();
        for _ in 0..=dice.below(4) {
            let at = dice.below(bytes.len());
            match dice.below(3) {
                0 => bytes[at] = dice.below(256) as u8,
                1 => bytes.truncate(at + 1),
                _ => bytes.insert(at, dice.below(256) as u8),
            }
        }
        // Whatever it says, it closes.
        let _ = raw(&served.socket, &bytes);
        if round % 500 == 0 {
            served.is_well(pid)?;
        }
    }
    served.is_well(pid)?;
    println!(
        "CASES: requests that are none: {}",
        cases.len() + rounds + 60
    );
    Ok(())
}

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_schemathesis_makes_of_the_document_finds_nothing() -> Result<()> {
    const NAME: &str = "what_schemathesis_makes_of_the_document_finds_nothing";
    if !can_run(NAME) {
        return Ok(());
    }
    let tools = octroi()
        .ancestors()
        .nth(2)
        .context("octroi is built somewhere")?;
    let tools = tools.join("tools/schemathesis");
    let program = tools.join("bin/schemathesis");
    if !program.exists() || command("socat -V").is_err() {
        println!("SKIPPED: {NAME}: no schemathesis or no socat; `cargo xtask setup` installs them");
        return Ok(());
    }
    let _alone = alone();
    let served = Served::new(true)?;
    let pid = served.site.daemon_pid();
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let _socat = Running(
        Command::new("socat")
            .arg(format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"))
            .arg(format!("UNIX-CONNECT:{}", served.socket.display()))
            .spawn()?,
    );
    let url = format!("http://localhost:{port}");
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(
            begun.elapsed() < Duration::from_secs(5),
            "socat does not listen"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let examples = by_level(5, 30, 200);
    // A legal port may still be one that does not go with the others: no schema says that.
    let output = Command::new("python3")
        .arg(&program)
        .env("PYTHONPATH", &tools)
        .args(["run", &format!("{url}/v1/openapi.json"), "--url", &url])
        .args([
            "--checks",
            "all",
            "--exclude-checks",
            "positive_data_acceptance",
        ])
        .args(["--max-examples", &examples.to_string(), "--seed", "7"])
        .args(["--continue-on-failure", "--no-color"])
        // It leaves a cache where it runs.
        .current_dir(served.site.directory())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}");
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    served.is_well(pid)?;
    println!("CASES: runs of schemathesis, examples of each operation: {examples}");
    Ok(())
}
