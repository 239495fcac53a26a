//! What a service of CloudEvents adds up is what the tenants' interfaces sent: through answers that are lost, resets,
//! 5xx, a server that hangs, kill -9 of the daemon, and, by `octroi replay`, acknowledgements of what was not kept.

#[path = "events/batches.rs"]
#[allow(dead_code, reason = "each test of a service uses its own part of this")]
mod batches;
#[path = "meter/bill.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod bill;
#[path = "support/certificate.rs"]
mod certificate;
#[path = "events/counted.rs"]
mod counted;
#[path = "meter/delivered.rs"]
#[allow(dead_code, reason = "each test of a sink uses its own part of this")]
mod delivered;
#[path = "events/fake.rs"]
mod fake;
#[path = "fleet/ledgers.rs"]
#[allow(dead_code, reason = "written for tests/fleet.rs")]
mod ledgers;
#[path = "events/put_back.rs"]
mod put_back;
#[path = "support/python.rs"]
mod python;
#[path = "events/refuses.rs"]
mod refuses;
#[path = "events/sdk.rs"]
mod sdk;
#[path = "meter/site.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod site;
mod support;
#[path = "events/tls.rs"]
mod tls;

use anyhow::{Context as _, Result, ensure};
use batches::{Dir, batch};
use delivered::caught_up;
use fake::{Mood, Service, check};
use metering::sink::{
    Mark, Sink as _, SinkError,
    cloudevents::{CloudEvents, Measure, Target},
};
use site::{Metered, Traffic};
use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::Output,
    time::{Duration, Instant},
};
use support::{alone, by_level, can_run, octroi};

/// How long a sink may stay behind.
const PATIENCE: Duration = Duration::from_secs(120);

fn service(token: Option<&str>) -> Result<Service> {
    Service::new(TcpListener::bind("127.0.0.1:0")?, token)
}

fn sink(service: &Service, dir: &Dir, token: Option<PathBuf>) -> CloudEvents {
    let target = Target {
        url: service.url.clone(),
        token_file: token,
        ca_file: None,
    };
    CloudEvents::with_patience(target, dir.0.join("cursor"), Duration::from_millis(400))
}

#[test]
fn the_fake_refuses_what_the_real_one_refuses() -> Result<()> {
    let head = |kind: &str, token: &str| {
        [
            "POST /api/v1/events HTTP/1.1",
            "host: localhost",
            &format!("Content-Type: {kind}"),
            &format!("authorization: Bearer {token}"),
        ]
        .map(str::to_owned)
    };
    const KIND: &str = "application/cloudevents-batch+json";
    let right = serde_json::json!([{
        "specversion": "1.0", "id": "00000000000000000012", "type": "octroi.usage", "subject": "7",
        "source": format!("//octroi/h/{}", "0".repeat(32)), "time": "2026-11-27T00:00:00.5Z",
        "datacontenttype": "application/json",
        "data": {"kind": "METER", "zone": 4, "packets": "1", "l2_bytes": "18446744073709551615", "l3_bytes": "0"},
    }]);
    let say = |kind: &str, token: &str, body: &serde_json::Value| {
        check(&head(kind, token), body.to_string().as_bytes(), Some("t")).err()
    };
    ensure!(say(KIND, "t", &right).is_none());
    for kind in [
        "application/cloudevents-batch+json; charset=utf-8",
        "application/cloudevents-batch+json;charset=UTF-8",
        "Application/CloudEvents-Batch+JSON",
        "application/cloudevents+json",
        "application/json",
        "",
    ] {
        let refused = say(kind, "t", &right).context(kind.to_owned())?;
        ensure!(refused.0.starts_with("415"), "{refused:?}");
    }
    ensure!(say(KIND, "other", &right).is_some_and(|refused| refused.0.starts_with("401")));
    let mut cases = 0;
    for (pointer, wrong) in [
        ("/0/id", serde_json::json!("12")),
        ("/0/id", serde_json::json!("-0000000000000000012")),
        ("/0/id", serde_json::json!(12)),
        ("/0/source", serde_json::json!("octroi")),
        ("/0/source", serde_json::json!("//octroi/h")),
        ("/0/time", serde_json::json!("yesterday")),
        ("/0/time", serde_json::json!(1)),
        ("/0/subject", serde_json::json!("")),
        ("/0/specversion", serde_json::json!("0.3")),
        ("/0/data/zone", serde_json::json!(null)),
        ("/0/data/zone", serde_json::json!("*")),
        ("/0/data/kind", serde_json::json!("BEGIN")),
        ("/0/data/l2_bytes", serde_json::json!(1)),
        ("/0/data/l2_bytes", serde_json::json!(1.5)),
        ("/0/data/packets", serde_json::json!("-1")),
        ("/0/data/packets", serde_json::json!("1.0")),
        ("/0", serde_json::json!({})),
    ] {
        let mut body = right.clone();
        *body.pointer_mut(pointer).context(pointer)? = wrong.clone();
        let refused = say(KIND, "t", &body);
        ensure!(
            refused.is_some_and(|refused| refused.0.starts_with("400")),
            "{pointer} {wrong}"
        );
        cases += 1;
    }
    for body in [
        serde_json::json!([]),
        serde_json::json!({}),
        right[0].clone(),
    ] {
        ensure!(say(KIND, "t", &body).is_some(), "{body}");
        cases += 1;
    }
    println!(
        "CASES: forms of a batch that the fake refuses: {}",
        cases + 7
    );
    Ok(())
}

#[test]
fn answers_mean_what_they_mean_and_the_cursor_moves_after_them_alone() -> Result<()> {
    let dir = Dir::new("events-answers")?;
    let service = service(Some("s3cret"))?;
    let token = dir.write("token", "s3cret\n")?;
    let mut sink = sink(&service, &dir, Some(token.clone()));
    let first = batch(Mark::NONE, 0);
    let host = first.host.clone();
    for mood in [
        Mood::Busy,
        Mood::Breaks,
        Mood::Hangs,
        Mood::TakesAndBreaks,
        Mood::TakesAndFails,
    ] {
        service.state().moods.push(mood);
        let begun = Instant::now();
        let error = sink.deliver(&first).expect_err("no acknowledgement");
        ensure!(
            matches!(error, SinkError::Unavailable(_)),
            "{mood:?}: {error}"
        );
        ensure!(!error.to_string().contains('\n'), "{error}");
        ensure!(
            begun.elapsed() < Duration::from_secs(3),
            "{mood:?}: {:?}",
            begun.elapsed()
        );
        ensure!(sink.mark(&[3; 16], &host)? == Mark::NONE, "{mood:?}");
    }
    let mark = sink.deliver(&first)?;
    ensure!(mark == first.to && sink.mark(&[3; 16], &host)? == mark);
    service.state().moods.push(Mood::TakesLater);
    let second = batch(mark, 1);
    sink.deliver(&second)?;
    {
        let state = service.state();
        ensure!(
            state.events.len() == 2 && state.again == 2,
            "{:?}",
            state.ended
        );
        ensure!(state.refused.is_empty(), "{:?}", state.refused);
        let event = state.events.values().next().context("one")?;
        ensure!(
            event["source"] == format!("//octroi/a%20host/{}", "03".repeat(16)),
            "{event}"
        );
        ensure!(
            event["id"] == "00000000000000000000" && event["time"] == "2026-11-18T11:06:40Z",
            "{event}"
        );
        ensure!(
            event["data"]["l2_bytes"] == "18446744073709551615",
            "{event}"
        );
    }
    // The cursor outlives the process, and is of one ledger and host.
    let again = self::sink(&service, &dir, None).mark(&[3; 16], &host)?;
    ensure!(again == second.to);
    let error = sink.mark(&[3; 16], "another").expect_err("another host's");
    ensure!(matches!(error, SinkError::Fork(_)), "{error}");
    let mut copy = batch(Mark::NONE, 0);
    copy.ledger_id = [4; 16];
    let error = sink.deliver(&copy).expect_err("a copy with another id");
    ensure!(matches!(error, SinkError::Fork(_)), "{error}");
    // A batch that is not where the cursor is.
    let error = sink.deliver(&first).expect_err("it moved");
    ensure!(matches!(error, SinkError::Unavailable(_)), "{error}");

    // What no later try makes good.
    fs::write(&token, "another")?;
    let third = batch(second.to, 2);
    let error = sink.deliver(&third).expect_err("401").to_string();
    ensure!(
        error.contains("401") && error.contains("token_file"),
        "{error}"
    );
    fs::write(&token, "")?;
    let error = sink.deliver(&third).expect_err("no token").to_string();
    ensure!(
        error.contains("token") && error.contains("empty"),
        "{error}"
    );
    fs::write(dir.0.join("cursor"), "{")?;
    let error = sink.deliver(&third).expect_err("no cursor").to_string();
    ensure!(
        error.contains("cursor") && error.contains("move it away"),
        "{error}"
    );
    drop(service);
    println!("CASES: answers of a service of events: 9");
    Ok(())
}

#[test]
fn a_server_that_is_not_trusted_gets_nothing() -> Result<()> {
    let dir = Dir::new("events-tls")?;
    let service = service(None)?;
    // TLS asked of a server that speaks none, with a certificate of somebody.
    let Some((ca, _)) = certificate::make(&dir.0, "ca")? else {
        println!("SKIPPED: a_server_that_is_not_trusted_gets_nothing: there is no openssl");
        return Ok(());
    };
    let (other, key) = certificate::make(&dir.0, "other")?.context("openssl")?;
    let secure = tls::service(&service, &other, &key)?;
    for (url, ca_file, works) in [
        (service.url.replace("http:", "https:"), &ca, false),
        (secure.clone(), &ca, false),
        (secure.replace("localhost", "127.0.0.1"), &other, false),
        (secure, &other, true),
    ] {
        let target = Target {
            url: url.clone(),
            token_file: None,
            ca_file: Some(ca_file.clone()),
        };
        let patience = Duration::from_secs(2);
        let mut sink = CloudEvents::with_patience(target, dir.0.join("cursor"), patience);
        let done = sink.deliver(&batch(Mark::NONE, 0));
        ensure!(done.is_ok() == works, "{url}: {done:?}");
        ensure!(service.state().events.is_empty() != works, "{url}");
    }
    Ok(())
}

/// The sink's section in the daemon's file; the daemon is not started yet.
fn deliver_to(metered: &Metered, service: &Service, token: &str) -> Result<()> {
    let file = metered.site.directory().join("token");
    fs::write(&file, token)?;
    let config = metered.site.config("shape = \"police\"")
        + &format!(
            "\n[meter]\nledger = \"{}\"\nwindow = \"100ms\"\n\
             \n[[sink]]\nname = \"billing\"\nkind = \"cloudevents\"\nurl = \"{}\"\ntoken_file = \"{}\"\n",
            metered.ledger.display(),
            service.url,
            file.display()
        );
    metered.site.write_config(&config)
}

/// An `octroi` command in the site's namespace, where the service is.
fn command(metered: &Metered, arguments: &[&str]) -> Result<Output> {
    let mut command = metered.site.host.prepare(octroi())?;
    command.args(arguments).arg("--config");
    Ok(command.arg(metered.site.config_path()).output()?)
}

#[test]
fn a_service_that_breaks_hangs_and_forgets_costs_no_byte_and_bills_none_twice() -> Result<()> {
    const TEST: &str = "a_service_that_breaks_hangs_and_forgets_costs_no_byte_and_bills_none_twice";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let mut metered = Metered::new("100ms", None)?;
    let listener = metered
        .site
        .host
        .run(|| TcpListener::bind("127.0.0.1:0"))??;
    let service = Service::new(listener, Some("s3cret"))?;
    deliver_to(&metered, &service, "s3cret")?;
    service.state().seed = Some(2_026);
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    let kills = by_level(2, 6, 40);
    for round in 0..kills {
        std::thread::sleep(Duration::from_millis(900 + round * 137 % 700));
        service.state().moods.push(Mood::Loses);
        std::thread::sleep(Duration::from_millis(400));
        metered.site.kill()?;
        metered.site.start(octroi())?;
    }
    // One that hangs is left after a time, and what it had not taken goes again.
    service.state().seed = None;
    service.state().moods = vec![Mood::Hangs];
    let begun = Instant::now();
    // In its log: of the status the next try, which succeeds, takes the error away at once.
    while !metered.site.log().contains("did not answer within") {
        ensure!(
            begun.elapsed() < Duration::from_secs(45),
            "{}",
            metered.site.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    traffic.stop()?;
    metered.conserved()?;
    metered.site.start(octroi())?;
    caught_up(&metered, PATIENCE)?;
    let lost = service.ended("Loses");
    let before: i128 = service.totals()?.values().map(|sums| sums.1).sum();

    // What it acknowledged and lost is seen in its sums, while records come, and is sent again.
    let reconcile = ["reconcile", "--sink", "billing", "--by", "minute", "--json"];
    let told = command(&metered, &[&reconcile[..], &["--wait", "0"]].concat())?;
    let missing = String::from_utf8_lossy(&told.stderr).into_owned();
    ensure!(missing.contains("no meter octroi_l2_bytes"), "{missing}");
    let meter = fake::meters::Meter::of(&Measure::L2Bytes.definition())?;
    service.state().meters = vec![meter];
    let told = command(&metered, &[&reconcile[..], &["--wait", "0"]].concat())?;
    ensure!(!told.status.success(), "{told:?}");
    let told: serde_json::Value = serde_json::from_slice(&told.stdout)?;
    let gone = told["windows"].as_array().context("windows")?;
    let gone = gone
        .iter()
        .filter_map(|row| row["difference"].as_str()?.parse::<i128>().ok());
    let gone: i128 = gone.sum();
    let replayed = command(&metered, &["replay", "--sink", "billing", "--from", "0"])?;
    ensure!(replayed.status.success(), "{replayed:?}");
    println!("{}", String::from_utf8_lossy(&replayed.stdout).trim_end());
    let beyond = command(
        &metered,
        &["replay", "--sink", "billing", "--from", "99999999"],
    )?;
    ensure!(!beyond.status.success(), "{beyond:?}");
    caught_up(&metered, PATIENCE)?;
    let told = command(&metered, &reconcile)?;
    ensure!(told.status.success(), "{told:?}");
    metered.site.stop();
    let after: i128 = service.totals()?.values().map(|sums| sums.1).sum();
    ensure!(
        lost != 0 && gone < 0 && before - after <= gone,
        "{lost} batches were lost, {before} became {after}, and {gone} was told"
    );

    for (index, tenant) in site::TENANTS.iter().take(site::SENDERS).enumerate() {
        let (mut packets, mut bytes) = (0, 0);
        for ((subject, direction, _), sums) in service.totals()? {
            if subject == (index + 1).to_string() && direction == "from" {
                packets += sums.0;
                bytes += sums.1;
            }
        }
        let sent = bill::Bill::read(&metered.ledger)?.sent_by(tenant.name);
        ensure!(
            (packets, bytes) == (i128::from(sent.packets), i128::from(sent.l2_bytes)),
            "{index}: the service has {packets} packets and {bytes} bytes, the ledger {sent:?}"
        );
    }
    let state = service.state();
    let refused = state.refused.iter();
    let refused: Vec<_> = refused
        .filter(|why| !why.starts_with("meter not found"))
        .collect();
    ensure!(refused.is_empty(), "{refused:?}");
    ensure!(state.again > 0, "nothing came twice: {:?}", state.ended);
    println!(
        "CASES: events that a service has exactly once: {}",
        state.events.len()
    );
    println!(
        "CASES: events that came again and were dropped: {}",
        state.again
    );
    println!("CASES: batches by how they ended: {:?}", state.ended);
    println!("CASES: kills of the daemon under delivery of events: {kills}");
    Ok(())
}
