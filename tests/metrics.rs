//! What Prometheus is told, by Prometheus' own tools where they are here: the format, the rules, and a section of the runbook for
//! each alert.

#[path = "metrics/dashboard.rs"]
mod dashboard;
#[path = "support/python.rs"]
mod python;
#[path = "metrics/scrape.rs"]
mod scrape;
mod support;

use anyhow::{Context as _, Result, ensure};
use octroi::{
    lab::{site::REMOTE, site::ipv4, traffic},
    metrics::FAMILIES,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use support::{alone, can_run, octroi, tenant};

const RULES: &str = "docs/alerts/octroi.rules.yml";
/// What makes each of them fire, and a host that is well.
const TESTS: &str = "docs/alerts/octroi.tests.yml";
const RUNBOOK: &str = "docs/RUNBOOK.md";

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn promtool() -> bool {
    Command::new("promtool").arg("--version").output().is_ok()
}

/// Values by name and labels; refuses what Prometheus refuses.
fn parse(text: &str) -> Result<BTreeMap<String, f64>> {
    let mut values = BTreeMap::new();
    let mut family = (String::new(), false);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let (what, rest) = rest.split_once(' ').context("a comment")?;
            let (name, said) = rest.split_once(' ').context("a family")?;
            let known = FAMILIES.iter().find(|known| known.0 == name);
            let known = known.with_context(|| format!("{name} is no family"))?;
            match what {
                "HELP" => {
                    ensure!(said == known.2, "{line}");
                    family = (name.to_owned(), false);
                }
                "TYPE" => {
                    ensure!(
                        said == known.1 && family == (name.to_owned(), false),
                        "{line}"
                    );
                    family.1 = true;
                }
                _ => anyhow::bail!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').context("no value")?;
        let name = series.split('{').next().unwrap_or_default();
        ensure!(
            family == (name.to_owned(), true),
            "{line}: not in its family"
        );
        let value = value.parse().with_context(|| line.to_owned())?;
        ensure!(
            values.insert(series.to_owned(), value).is_none(),
            "{line}: twice"
        );
    }
    Ok(values)
}

#[test]
fn the_parser_of_this_test_refuses_what_is_no_metric() {
    let head = "# HELP octroi_up 1: a daemon answers. 0: the kernel enforces and counts on, and nobody cuts windows\n";
    let right = format!("{head}# TYPE octroi_up gauge\nocrtoi_up 1\n").replace("ocrtoi", "octroi");
    assert!(parse(&right).is_ok());
    for wrong in [
        right.replace("gauge", "counter"),
        right.replace("octroi_up 1\n", "octroi_up one\n"),
        right.replace("octroi_up 1\n", "octroi_down 1\n"),
        format!("{right}octroi_up 1\n"),
        "octroi_up 1\n".to_owned(),
    ] {
        assert!(parse(&wrong).is_err(), "{wrong}");
    }
}

fn metrics(site: &octroi::lab::Site) -> Result<String> {
    let output = site
        .host
        .prepare(octroi())?
        .arg("metrics")
        .arg("--run-dir")
        .arg(site.run_dir())
        .arg("--pin-dir")
        .arg(site.pin_dir())
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// `promtool check metrics`, where it is.
fn check(text: &str) -> Result<()> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("stdin")?
        .write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

#[test]
fn a_daemon_with_traffic_and_one_that_is_gone_say_so_in_the_format_of_prometheus() -> Result<()> {
    const TEST: &str =
        "a_daemon_with_traffic_and_one_that_is_gone_say_so_in_the_format_of_prometheus";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let mut site = octroi::lab::Site::new(&[tenant("alice", false)])?;
    let export = site.directory().join("export");
    let config = site.config("shape = \"police\"")
        + &format!(
            "\n[meter]\nledger = \"{}\"\nwindow = \"100ms\"\n\
             \n[[sink]]\nname = \"export\"\nkind = \"files\"\ndirectory = \"{}\"\n",
            site.directory().join("ledger.db").display(),
            export.display()
        );
    site.write_config(&config)?;
    site.start(octroi())?;
    let to = (ipv4(REMOTE).parse()?, 7);
    let until = Instant::now() + Duration::from_millis(300);
    let how = traffic::Datagrams {
        size: 100,
        segment: None,
        gap: Duration::from_millis(1),
    };
    site.tenants[0].command("ip addr add 10.77.0.99/24 dev eth0")?;
    site.tenants[0].run(|| -> Result<()> {
        let lie = std::net::UdpSocket::bind("10.77.0.99:0")?;
        let _ = lie.send_to(b"I am somebody else", to);
        traffic::udp_send(to, how, until).map(drop)
    })??;
    let begun = Instant::now();
    // The directory is not there yet: the sink refuses.
    let text = loop {
        let text = metrics(&site)?;
        let values = parse(&text)?;
        let error = values.get("octroi_sink_error{sink=\"export\"}");
        if error == Some(&1.0) && values.contains_key("octroi_last_window_timestamp_seconds") {
            break text;
        }
        ensure!(begun.elapsed() < Duration::from_secs(20), "{text}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let values = parse(&text)?;
    let value = |name: &str| {
        values
            .get(name)
            .copied()
            .with_context(|| format!("no {name}\n{text}"))
    };
    ensure!(value("octroi_up")? == 1.0 && value("octroi_meter_up")? == 1.0);
    ensure!(value("octroi_window_seconds")? == 0.1 && value("octroi_windows_total")? > 0.0);
    ensure!(value("octroi_ports{state=\"blessed\"}")? == 1.0);
    let packets = "octroi_delivered_packets_total{tenant=\"alice\",direction=\"from\"}";
    ensure!(value(packets)? > 100.0, "{text}");
    ensure!(value("octroi_sink_fork{sink=\"export\"}")? == 0.0);
    ensure!(
        text.contains("octroi_sink_last_error_info{sink=\"export\",error=\""),
        "{text}"
    );
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let late = now.as_secs_f64() - value("octroi_last_window_timestamp_seconds")?;
    ensure!((-1.0..10.0).contains(&late), "{late} s");

    // With its directory it takes what waits, and the dashboard names what both of them said.
    fs::create_dir(&export)?;
    let begun = Instant::now();
    let taken = loop {
        let text = metrics(&site)?;
        if parse(&text)?.contains_key("octroi_sink_lag_records{sink=\"export\"}") {
            break text;
        }
        ensure!(begun.elapsed() < Duration::from_secs(20), "{text}");
        std::thread::sleep(Duration::from_millis(100));
    };
    dashboard::names_what_there_is(&[&text, &taken])?;

    site.kill()?;
    let gone = metrics(&site)?;
    let values = parse(&gone)?;
    ensure!(values.get("octroi_up") == Some(&0.0), "{gone}");
    ensure!(
        values
            .keys()
            .any(|name| name.starts_with("octroi_delivered_packets")),
        "{gone}"
    );
    ensure!(!gone.contains("octroi_sink"), "{gone}");
    if promtool() {
        check(&text)?;
        check(&gone)?;
        ensure!(check("octroi_up{ 1\n").is_err(), "promtool takes anything");
    } else {
        println!(
            "SKIPPED: promtool check metrics: there is no promtool; `apt-get install prometheus`"
        );
    }
    println!(
        "CASES: metrics of a host with traffic: {}",
        parse(&text)?.len()
    );
    site.stop();
    Ok(())
}

/// The names of the alerts, and their expressions.
fn alerts() -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(at(RULES))?;
    let mut alerts: Vec<(String, String)> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            alerts.push((name.to_owned(), String::new()));
        }
        if let (Some(expression), Some(last)) = (line.strip_prefix("expr: "), alerts.last_mut()) {
            last.1 = expression.to_owned();
        }
    }
    ensure!(alerts.len() > 10, "{} alerts", alerts.len());
    Ok(alerts)
}

#[test]
fn each_alert_has_its_section_and_names_metrics_that_there_are() -> Result<()> {
    let (runbook, rules) = (
        fs::read_to_string(at(RUNBOOK))?,
        fs::read_to_string(at(RULES))?,
    );
    let alerts = alerts()?;
    let names: BTreeSet<&str> = alerts.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(names.len() == alerts.len(), "an alert is there twice");
    let sections: BTreeSet<&str> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    ensure!(names == sections, "alerts {names:?}, sections {sections:?}");
    for part in runbook.split("\n## ").skip(1) {
        let name = part.lines().next().unwrap_or_default();
        for word in ["**Means.**", "**Look.**", "**Do.**"] {
            ensure!(part.contains(word), "{name} has no {word}");
        }
        let link = format!("{RUNBOOK}#{}", name.to_lowercase());
        ensure!(rules.contains(&link), "no alert points to {link}");
    }
    let known: BTreeSet<&str> = FAMILIES.iter().map(|family| family.0).collect();
    for (alert, expression) in &alerts {
        let words = expression.split(|c: char| !c.is_alphanumeric() && c != '_');
        let used: Vec<&str> = words.filter(|word| word.starts_with("octroi_")).collect();
        ensure!(!used.is_empty(), "{alert} watches nothing");
        for name in used {
            ensure!(known.contains(name), "{alert}: there is no metric {name}");
        }
    }
    let fired = fs::read_to_string(at(TESTS))?;
    for name in &names {
        let expected = format!("alertname=\"{name}\"");
        ensure!(fired.contains(&expected), "{TESTS} does not fire {name}");
    }
    if promtool() {
        for arguments in [["check", "rules", RULES], ["test", "rules", TESTS]] {
            let output = Command::new("promtool")
                .args(arguments)
                .current_dir(at(""))
                .output()?;
            ensure!(output.status.success(), "{output:?}");
        }
        println!("CASES: alerts that promtool saw fire: {}", names.len());
    } else {
        println!("SKIPPED: promtool: it is not here; `apt-get install prometheus`");
    }
    println!(
        "CASES: alerts with a section of the runbook: {}",
        alerts.len()
    );
    Ok(())
}

#[test]
fn every_command_of_the_runbook_exists() -> Result<()> {
    let runbook = fs::read_to_string(at(RUNBOOK))?.replace('\n', " ");
    let spans = runbook.split('`').skip(1).step_by(2);
    let mut commands = 0;
    for span in spans {
        let Some(rest) = span.strip_prefix("octroi ") else {
            continue;
        };
        let words: Vec<&str> = rest
            .split_whitespace()
            .take_while(|word| *word != ">")
            .collect();
        // Subcommands are words of small letters; what follows are their arguments.
        let is_name = |word: &&&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
        let path: Vec<&str> = words.iter().take_while(is_name).copied().collect();
        let help = Command::new(octroi()).args(&path).arg("--help").output()?;
        let said = String::from_utf8_lossy(&help.stdout).into_owned();
        ensure!(
            help.status.success() && !path.is_empty(),
            "`{span}`: there is no such command"
        );
        for option in words.iter().filter(|word| word.starts_with("--")) {
            ensure!(said.contains(option), "`{span}`: there is no {option}");
        }
        commands += 1;
    }
    ensure!(commands > 15, "{commands} commands");
    println!("CASES: commands of the runbook that exist: {commands}");
    Ok(())
}
