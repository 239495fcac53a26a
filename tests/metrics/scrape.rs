//! The address that Prometheus asks: a real one scrapes it, its rules fire, and nobody asks whom the kernel does not name.

use super::{
    RULES, at, parse, promtool,
    python::{python, run},
};
use crate::support::{alone, can_run, octroi, tenant};
use anyhow::{Context as _, Result, ensure};
use octroi::lab::Site;
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const LISTEN: &str = "127.0.0.1:9464";
const PROMETHEUS: &str = "127.0.0.1:9090";

/// A program that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `curl` gets as a user: status, content type, and the body.
fn ask(site: &Site, uid: u32, path: &str, more: &[&str]) -> Result<(String, String, String)> {
    let output = site
        .host
        .prepare(Path::new("setpriv"))?
        .args([
            &format!("--reuid={uid}"),
            "--regid=65534",
            "--clear-groups",
            "curl",
            "-s",
        ])
        .args(["-m", "10", "-w", "\n%{http_code} %{content_type}"])
        .args(more)
        .arg(format!("http://{LISTEN}{path}"))
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    let (body, last) = text.rsplit_once('\n').context("a status")?;
    let (status, kind) = last.split_once(' ').context("a type")?;
    Ok((status.to_owned(), kind.to_owned(), body.to_owned()))
}

/// The site, with a sink whose directory is not there.
fn site() -> Result<Site> {
    let site = Site::new(&[tenant("alice", false)])?;
    let config = site.config("shape = \"police\"")
        + &format!(
            "\n[meter]\nledger = \"{}\"\nwindow = \"100ms\"\n\
             \n[metrics]\nlisten = \"{LISTEN}\"\nusers = [\"games\", \"nobody-of-this-name\"]\n\
             \n[[sink]]\nname = \"export\"\nkind = \"files\"\ndirectory = \"{}\"\n",
            site.directory().join("ledger.db").display(),
            site.directory().join("export").display()
        );
    site.write_config(&config)?;
    Ok(site)
}

#[test]
fn whom_the_kernel_names_is_answered_in_the_format_that_was_asked_for() -> Result<()> {
    const TEST: &str = "whom_the_kernel_names_is_answered_in_the_format_that_was_asked_for";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let mut site = site()?;
    site.start(octroi())?;
    // root, and `games` of every Debian.
    for uid in [0, 5] {
        let (status, kind, text) = ask(&site, uid, "/metrics", &[])?;
        ensure!(
            status == "200" && kind == "text/plain; version=0.0.4; charset=utf-8",
            "{uid}: {status} {kind}"
        );
        ensure!(parse(&text)?.get("octroi_up") == Some(&1.0), "{text}");
    }
    let open = "accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let (status, kind, text) = ask(&site, 5, "/metrics", &["-H", open])?;
    ensure!(
        status == "200" && kind == "application/openmetrics-text; version=1.0.0; charset=utf-8",
        "{kind}"
    );
    ensure!(
        text.trim_end().ends_with("# EOF") && text.contains("# TYPE octroi_windows counter"),
        "{text}"
    );
    match python("prometheus_client") {
        Some(python) => open_metrics(python, &text)?,
        None => println!(
            "SKIPPED: prometheus_client's parser of OpenMetrics: it is not here; `cargo xtask setup` installs it"
        ),
    }

    let mut cases = 0;
    for (uid, path, more, expected) in [
        (65_534, "/metrics", &[][..], "403"),
        (1, "/metrics", &[], "403"),
        (1, "/", &[], "403"),
        (5, "/", &[], "404"),
        (5, "/v1/status", &["-H", "octroi-page: 1"], "404"),
        (5, "/metrics", &["-X", "POST"], "405"),
        (5, "/metrics", &["-H", "host: metrics.example"], "421"),
        (
            5,
            "/metrics",
            &["-H", "origin: http://other.example"],
            "403",
        ),
        (5, "/metrics", &["-H", "sec-fetch-site: cross-site"], "403"),
    ] {
        let (status, _, body) = ask(&site, uid, path, more)?;
        ensure!(
            status == expected && !body.contains("alice"),
            "{uid} {path} {more:?}: {status} {body}"
        );
        cases += 1;
    }
    ensure!(
        site.log()
            .contains("does not know the user nobody-of-this-name"),
        "{}",
        site.log()
    );
    // It listens there and nowhere else, and the address is fixed.
    let listens = site.host.command("ss -Hltn")?;
    ensure!(
        listens.lines().count() == 1 && listens.contains(LISTEN),
        "{listens}"
    );
    // Strangers who stay do not keep others out.
    let mut strangers = Vec::new();
    for _ in 0..8 {
        let child = site
            .host
            .prepare(Path::new("setpriv"))?
            .args(["--reuid=1", "--regid=1", "--clear-groups", "bash", "-c"])
            .arg("exec 3<>/dev/tcp/127.0.0.1/9464; sleep 20")
            .spawn()?;
        strangers.push(Running(child));
    }
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..3 {
        ensure!(
            ask(&site, 5, "/metrics", &[])?.0 == "200",
            "strangers keep others out"
        );
    }
    println!("CASES: askers and questions that the metrics' address refuses: {cases}");
    drop(strangers);
    site.stop();
    Ok(())
}

/// A strict parser of OpenMetrics takes it, and not what has no end.
fn open_metrics(python: Command, text: &str) -> Result<()> {
    const PROGRAM: &str = r##"
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as families
text = sys.stdin.read()
print(len(list(families(text))))
try:
    list(families(text.replace("# EOF\n", "")))
    sys.exit("it takes a text without an end")
except ValueError:
    pass
"##;
    let families: usize = run(python, PROGRAM, &[], text.as_bytes())?.trim().parse()?;
    ensure!(families > 15, "{families} families");
    println!("CASES: families that a strict parser of OpenMetrics reads: {families}");
    Ok(())
}

/// The alerts that a Prometheus says are firing.
fn firing(site: &Site) -> Result<Vec<String>> {
    let output = site
        .host
        .prepare(Path::new("curl"))?
        .args([
            "-s",
            "-m",
            "5",
            &format!("http://{PROMETHEUS}/api/v1/alerts"),
        ])
        .output()?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let alerts = answer["data"]["alerts"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
    Ok(firing
        .filter_map(|alert| Some(alert["labels"]["alertname"].as_str()?.to_owned()))
        .collect())
}

/// Waits until an alert fires, or does not.
fn until(site: &Site, alert: &str, fires: bool) -> Result<()> {
    let begun = Instant::now();
    loop {
        let now = firing(site)?;
        if now.iter().any(|name| name == alert) == fires {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "{alert}: {fires} never was: {now:?}\n{}",
            site.log()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_prometheus_scrapes_it_and_its_alerts_fire_and_end() -> Result<()> {
    const TEST: &str = "a_prometheus_scrapes_it_and_its_alerts_fire_and_end";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    if !promtool() {
        println!("SKIPPED: {TEST}: there is no Prometheus; `cargo xtask setup` installs it");
        return Ok(());
    }
    let mut site = site()?;
    site.start(octroi())?;
    let directory = site.directory().join("prometheus");
    fs::create_dir(&directory)?;
    // The rules as they are, but for how long somebody has to wait.
    let mut rules = fs::read_to_string(at(RULES))?;
    for wait in ["2m", "5m", "15m", "30m", "1h"] {
        rules = rules.replace(&format!("for: {wait}\n"), "for: 1s\n");
    }
    ensure!(
        !rules
            .lines()
            .any(|line| line.trim().starts_with("for: ") && !line.ends_with("1s"))
    );
    fs::write(directory.join("rules.yml"), rules)?;
    fs::write(
        directory.join("prometheus.yml"),
        format!(
            "global: {{scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}}\nrule_files: [rules.yml]\n\
             scrape_configs: [{{job_name: octroi, static_configs: [{{targets: [\"{LISTEN}\"]}}]}}]\n"
        ),
    )?;
    let log = fs::File::create(directory.join("log"))?;
    let prometheus = site
        .host
        .prepare(Path::new("prometheus"))?
        .arg(format!(
            "--config.file={}",
            directory.join("prometheus.yml").display()
        ))
        .arg(format!(
            "--storage.tsdb.path={}",
            directory.join("data").display()
        ))
        .arg(format!("--web.listen-address={PROMETHEUS}"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    let prometheus = Running(prometheus);
    // A sink that refuses, because its directory is not there, and takes what waits when it is.
    until(&site, "OctroiSinkRefuses", true)?;
    ensure!(
        !firing(&site)?.iter().any(|name| name == "OctroiDown"),
        "{:?}",
        firing(&site)?
    );
    fs::create_dir(site.directory().join("export"))?;
    // A daemon that is gone: there is nobody to say so, and the alert fires all the same.
    site.kill()?;
    until(&site, "OctroiDown", true)?;
    site.start(octroi())?;
    until(&site, "OctroiDown", false)?;
    until(&site, "OctroiSinkRefuses", false)?;
    // What it stored is what was said.
    let output = site
        .host
        .prepare(Path::new("curl"))?
        .args([
            "-s",
            "-m",
            "5",
            &format!("http://{PROMETHEUS}/api/v1/query?query=octroi_ports"),
        ])
        .output()?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        answer.contains("\"state\":\"blessed\"") && answer.contains("\"job\":\"octroi\""),
        "{answer}"
    );
    drop(prometheus);
    println!("CASES: alerts that fired and ended at a real Prometheus: 2");
    site.stop();
    Ok(())
}
