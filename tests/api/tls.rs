//! The API over TCP: curl, with certificates that are right, wrong, expired, of somebody else, for a name without a role,
//! and without one.

use super::site::{Served, bobs_port};
use crate::support::{alone, can_run};
use anyhow::{Context as _, Result, ensure};
use metering::ledger;
use serde_json::{Value, json};
use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const LISTEN: &str = "127.0.0.1:8443";

/// Authorities and certificates of OpenSSL's, in a directory.
struct Issuer(PathBuf);

impl Issuer {
    fn openssl(&self, line: &str) -> Result<()> {
        let made = Command::new("openssl")
            .args(line.split_whitespace())
            .current_dir(&self.0)
            .output()?;
        let said = String::from_utf8_lossy(&made.stderr);
        ensure!(made.status.success(), "openssl {line}: {said}");
        Ok(())
    }

    fn authority(&self, name: &str) -> Result<()> {
        self.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={name} -keyout {name}.key -out {name}.pem"
        ))
    }

    fn certificate(&self, name: &str, by: &str, days: u32) -> Result<()> {
        let alternative = match name {
            "server" => "IP:127.0.0.1",
            name => &format!("DNS:{name}"),
        };
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a -addext subjectAltName={alternative} -keyout {name}.key -out {name}.csr"
        ))?;
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {by}.pem -CAkey {by}.key -copy_extensions copy -days {days} -out {name}.pem"
        ))
    }
}

/// What curl got: the status, and what came with it; `Err`: there was no answer.
type Got = std::result::Result<(u16, Value), String>;

fn curl(
    served: &Served,
    dir: &Path,
    client: Option<&str>,
    more: &[&str],
    path: &str,
) -> Result<Got> {
    let mut curl = served.site.host.prepare("curl".as_ref())?;
    curl.args([
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        "--cacert",
        "server-ca.pem",
    ]);
    if let Some(name) = client {
        curl.args([
            "--cert",
            &format!("{name}.pem"),
            "--key",
            &format!("{name}.key"),
        ]);
    }
    let url = match path.starts_with("http:") {
        true => path.to_owned(),
        false => format!("https://{LISTEN}{path}"),
    };
    curl.args(["--write-out", "\n%{http_code}"])
        .args(more)
        .arg(url);
    let output = curl.current_dir(dir).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Ok(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let (body, status) = said.rsplit_once('\n').context("a status")?;
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    Ok(Ok((status.parse()?, body)))
}

#[test]
fn other_machines_come_with_certificates_or_not_at_all() -> Result<()> {
    const TEST: &str = "other_machines_come_with_certificates_or_not_at_all";
    if !can_run(TEST) {
        return Ok(());
    }
    for tool in ["openssl", "curl"] {
        if Command::new(tool).arg("--help").output().is_err() {
            println!("SKIPPED: {TEST}: there is no {tool}");
            return Ok(());
        }
    }
    let _alone = alone();
    let mut served = Served::new(true)?;
    let dir = served.site.directory().to_owned();
    let issuer = Issuer(dir.clone());
    for name in ["server-ca", "clients-ca", "other-ca"] {
        issuer.authority(name)?;
    }
    issuer.certificate("server", "server-ca", 30)?;
    for (name, by, days) in [
        ("orchestrator.example", "clients-ca", 30),
        ("monitor.example", "clients-ca", 30),
        ("nobody.example", "clients-ca", 30),
        ("late.example", "clients-ca", 0),
        ("foreign.example", "other-ca", 30),
    ] {
        issuer.certificate(name, by, days)?;
    }
    let at = dir.display();
    let roles = format!(
        "listen = \"{LISTEN}\"\ncertificate = \"{at}/server.pem\"\nkey = \"{at}/server.key\"\nclient_ca = \"{at}/clients-ca.pem\"\n\
         read = [\"cert:monitor.example\", \"cert:late.example\", \"cert:foreign.example\"]\npolicy = [\"cert:orchestrator.example\"]"
    );
    served.site.kill()?;
    served.site.write_config(&served.config(&roles))?;
    served.site.start(crate::support::octroi())?;
    std::thread::sleep(Duration::from_millis(1_100));

    let post = bobs_port(&json!({})).to_string();
    let body = [
        "--header",
        "content-type: application/json",
        "--data",
        &post,
    ];
    let mut asked = 0;
    // Who, what else, where to, what comes, and a word of it.
    let cases: [(&str, &[&str], &str, u16, &str); 10] = [
        ("monitor.example", &[], "/v1/status", 200, "blessed"),
        (
            "monitor.example",
            &[],
            "/v1/usage?tenant=1&from=2020-01-01&to=2020-01-02",
            200,
            "timezone",
        ),
        (
            "monitor.example",
            &body,
            "/v1/ports",
            403,
            "takes the role policy, and certificate monitor.example has the role read",
        ),
        (
            "monitor.example",
            &["--header", "origin: https://evil.example"],
            "/v1/status",
            403,
            "for programs",
        ),
        (
            "monitor.example",
            &[],
            "/v1/flows",
            403,
            "takes the role admin",
        ),
        (
            "nobody.example",
            &[],
            "/v1/status",
            403,
            "for no name of [api]",
        ),
        (
            "nobody.example",
            &[],
            "/v1/nothing",
            403,
            "for no name of [api]",
        ),
        ("orchestrator.example", &[], "/v1/ports", 200, "alice-port"),
        ("orchestrator.example", &body, "/v1/ports", 201, "bob-hook"),
        (
            "orchestrator.example",
            &[],
            "/v1/flows",
            403,
            "takes the role admin",
        ),
    ];
    for (client, more, path, status, word) in cases {
        let got = curl(&served, &dir, Some(client), more, path)?;
        let (found, said) = got.map_err(|error| anyhow::anyhow!("{client} {path}: {error}"))?;
        ensure!(
            found == status && said.to_string().contains(word),
            "{client} {path}: {found} {said}"
        );
        asked += 1;
    }
    // No answer at all, not even a refusal that says something.
    let plain = format!("http://{LISTEN}/v1/status");
    let none: [(Option<&str>, &[&str], &str); 5] = [
        (None, &[], "/v1/status"),
        (Some("late.example"), &[], "/v1/status"),
        (Some("foreign.example"), &[], "/v1/status"),
        (Some("monitor.example"), &["--tls-max", "1.2"], "/v1/status"),
        (None, &[], &plain),
    ];
    for (client, more, path) in none {
        let got = curl(&served, &dir, client, more, path)?;
        ensure!(got.is_err(), "{client:?} {more:?}: {got:?}");
        asked += 1;
    }
    // Whoever comes without a certificate, and says nothing, keeps nobody out who comes from another address.
    let silent = served
        .site
        .host
        .run(|| -> std::io::Result<Vec<TcpStream>> {
            (0..100).map(|_| TcpStream::connect(LISTEN)).collect()
        })??;
    let begun = Instant::now();
    let beside = ["--interface", "127.0.0.2"];
    let got = curl(
        &served,
        &dir,
        Some("monitor.example"),
        &beside,
        "/v1/status",
    )?;
    ensure!(
        got.is_ok_and(|(status, _)| status == 200) && begun.elapsed() < Duration::from_secs(8),
        "beside a hundred that say nothing"
    );
    drop(silent);

    let looks = ledger::looks(&served.ledger)?;
    let has = |who: &str, what: &str| {
        let mut looks = looks.iter();
        looks.any(|look| look.who == who && look.what.starts_with(what))
    };
    ensure!(
        has(
            "certificate monitor.example, read, by the API",
            "usage --tenant 1"
        ),
        "{looks:?}"
    );
    ensure!(
        has(
            "certificate orchestrator.example, policy, by the API",
            "port add"
        ),
        "{looks:?}"
    );

    // Another authority takes the place of the one before, and nothing is started again.
    fs::copy(dir.join("other-ca.pem"), dir.join("clients-ca.pem"))?;
    let pid = served.site.daemon_pid().context("a daemon")?;
    // SAFETY: a signal to a process that this test has started.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGHUP) };
    served.wait(|served| {
        let got = curl(served, &dir, Some("foreign.example"), &[], "/v1/status")?;
        Ok(got.is_ok_and(|(status, _)| status == 200))
    })?;
    let got = curl(&served, &dir, Some("monitor.example"), &[], "/v1/status")?;
    ensure!(
        got.is_err(),
        "of an authority that is none any more: {got:?}"
    );
    let log = served.site.log();
    ensure!(!log.contains("panicked"), "{log}");
    println!(
        "CASES: requests over TLS with and without certificates: {}",
        asked + 3
    );
    Ok(())
}
