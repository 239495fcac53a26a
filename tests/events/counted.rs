//! What OpenMeter counted, against ledgers of a host that is made up: real files and the real command. The service answers as
//! OpenMeter's v1 and v3 do; what it adds up is what it took.

use crate::{
    batches::Dir,
    fake::{Mood, Service, meters::Meter},
    ledgers::{ACME, BETA, CORRECTED, MARCH_NS, Metering, Shelf},
    support::octroi,
};
use anyhow::{Context as _, Result, ensure};
use metering::sink::{
    Courier,
    cloudevents::{CloudEvents, Measure, Target},
};
use serde_json::Value;
use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

const HOST: &str = "par1";
const SINK: &str = "billing";
const HOUR: usize = 12;

/// A host, a service, and what binds them.
struct Scene {
    host: Metering,
    service: Service,
    url: String,
    token: PathBuf,
    config: PathBuf,
    shelf: Shelf,
    _dir: Dir,
}

/// How a command ended, and what it said.
struct Said {
    fine: bool,
    out: String,
    err: String,
}

impl Scene {
    /// `v3`: events and questions go to the third version of the interface.
    fn new(name: &str, v3: bool) -> Result<Self> {
        let shelf = Shelf::new(name)?;
        let dir = Dir::new(&format!("events-{name}"))?;
        let host = Metering::new(&shelf, HOST, 1, MARCH_NS[0])?;
        let service = Service::new(TcpListener::bind("127.0.0.1:0")?, Some("s3cret"))?;
        let url = match v3 {
            true => service.url.replace("/api/v1/", "/api/v3/openmeter/"),
            false => service.url.clone(),
        };
        let token = dir.write("token", "s3cret\n")?;
        let config = dir.write("octroi.toml", "")?;
        let scene = Self {
            host,
            service,
            url,
            token,
            config,
            shelf,
            _dir: dir,
        };
        scene.write(&scene.url)?;
        Ok(scene)
    }

    fn write(&self, url: &str) -> Result<()> {
        let text = format!(
            "[host]\nname = \"{HOST}\"\n\n[meter]\nledger = \"{}\"\nwindow = \"300s\"\n\n\
             [[sink]]\nname = \"{SINK}\"\nkind = \"cloudevents\"\nurl = \"{url}\"\ntoken_file = \"{}\"\n",
            self.host.path.display(),
            self.token.display(),
        );
        Ok(fs::write(&self.config, text)?)
    }

    fn sink(&self) -> CloudEvents {
        let target = Target {
            url: self.url.clone(),
            token_file: Some(self.token.clone()),
            ca_file: None,
        };
        CloudEvents::of(target, &self.host.path, SINK)
    }

    /// Delivers what there is.
    fn deliver(&self) -> Result<()> {
        let mut courier = Courier::new(self.sink(), &self.host.path, HOST, 1);
        let begun = Instant::now();
        loop {
            courier.step(Instant::now());
            let at = courier.progress();
            if at.lag == Some(0) && at.confirmed == self.host.size() {
                return Ok(());
            }
            ensure!(begun.elapsed() < Duration::from_secs(30), "{at:?}");
        }
    }

    fn define(&self, measures: &[Measure]) -> Result<()> {
        let meters: Result<Vec<Meter>> = measures
            .iter()
            .map(|measure| Meter::of(&measure.definition()))
            .collect();
        self.service.state().meters = meters?;
        Ok(())
    }

    fn octroi(&self, arguments: &[&str]) -> Result<Said> {
        let mut command = Command::new(octroi());
        command.args(arguments).args(["--sink", SINK, "--config"]);
        let output = command.arg(&self.config).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Said {
            fine: output.status.success(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        })
    }

    fn reconcile(&self, more: &[&str]) -> Result<Said> {
        let mut arguments = vec!["reconcile", "--wait", "0"];
        arguments.extend(more);
        self.octroi(&arguments)
    }

    /// It says that all is the same; returns how many sums were compared.
    fn is_same(&self, by: &str) -> Result<u64> {
        let said = self.reconcile(&["--json", "--by", by])?;
        ensure!(said.fine, "{by}: {} {}", said.out, said.err);
        let said: Value = serde_json::from_str(&said.out)?;
        ensure!(said["differences"] == 0, "{said}");
        said["compared"].as_u64().context("a number")
    }
}

/// So many windows of five minutes, in which two tenants carry.
fn windows(host: &mut Metering, ports: [usize; 2], count: usize) -> Result<()> {
    for at in 0..count {
        host.pass();
        host.carry(ports[0], 0, 4, 9_000_000 + at as u64 * 7_919);
        host.carry(ports[0], 1, 0, 40_000 + at as u64);
        host.carry(ports[1], 0, 5, 3_000 + at as u64 * 11);
        host.cut(None)?;
    }
    Ok(())
}

fn ports(host: &mut Metering) -> [usize; 2] {
    host.port("uplink", 0);
    [host.port("acme", ACME), host.port("beta", BETA)]
}

#[test]
fn openmeters_totals_are_the_ledgers_by_minute_hour_and_day() -> Result<()> {
    let mut cases = 0;
    for v3 in [false, true] {
        let mut scene = Scene::new(if v3 { "same-v3" } else { "same-v1" }, v3)?;
        let ports = ports(&mut scene.host);
        windows(&mut scene.host, ports, 5 * HOUR)?;
        scene.host.correct(ACME, 4, CORRECTED)?;
        // Over midnight, and with a clock that goes back: the same hours come again.
        scene.host.set_clock(-2 * 3_600_000_000_000);
        windows(&mut scene.host, ports, 20 * HOUR)?;
        scene.deliver()?;
        scene.define(&Measure::ALL)?;
        for by in ["minute", "hour", "day"] {
            cases += scene.is_same(by)?;
        }
        // Records that are not sent yet are none that are missing, and those of which the answer was lost are none too many.
        windows(&mut scene.host, ports, 2)?;
        cases += scene.is_same("hour")?;
        let before = scene.service.state().events.len();
        scene.service.state().moods = vec![Mood::TakesAndFails];
        let mut courier = Courier::new(scene.sink(), &scene.host.path, HOST, 1);
        courier.step(Instant::now());
        ensure!(
            courier.progress().error.is_some(),
            "an answer was to be lost"
        );
        ensure!(scene.service.state().events.len() > before);
        cases += scene.is_same("hour")?;
        let mut state = scene.service.state();
        ensure!(state.refused.is_empty(), "{:?}", state.refused);
        ensure!(state.unaligned == 0 && state.questions >= 15);
        // What it counts for another host, or of another kind, is not this host's.
        let (key, mut event) = state.events.pop_last().context("an event")?;
        state.events.insert(key.clone(), event.clone());
        event["data"]["host"] = "another".into();
        state.events.insert(format!("{key}-a"), event.clone());
        event["data"]["host"] = HOST.into();
        event["type"] = "another".into();
        state.events.insert(format!("{key}-b"), event);
        drop(state);
        cases += scene.is_same("hour")?;
    }
    println!("CASES: sums that OpenMeter and a ledger have the same: {cases}");
    Ok(())
}

#[test]
fn an_event_that_openmeter_lost_is_named_and_a_replay_mends_it() -> Result<()> {
    let mut cases = 0;
    for v3 in [false, true] {
        let mut scene = Scene::new(if v3 { "lost-v3" } else { "lost-v1" }, v3)?;
        let ports = ports(&mut scene.host);
        scene.define(&Measure::ALL)?;
        windows(&mut scene.host, ports, 2 * HOUR)?;
        scene.deliver()?;
        let from = scene.host.size();
        windows(&mut scene.host, ports, 1)?;
        scene.service.state().moods = vec![Mood::Loses];
        scene.deliver()?;
        windows(&mut scene.host, ports, HOUR)?;
        scene.deliver()?;
        ensure!(scene.service.ended("Loses") == 1);
        for (by, begins) in [("minute", "02:00"), ("hour", "02:00"), ("day", "00:00")] {
            let said = scene.reconcile(&["--by", by])?;
            ensure!(
                !said.fine && said.err.contains("are not the ledger's"),
                "{}",
                said.err
            );
            // ACME in two directions, BETA in one; packets, bytes and IP bytes.
            let missing = said
                .out
                .lines()
                .filter(|line| line.contains("difference -"));
            ensure!(missing.count() == 9, "{by}: {}", said.out);
            let begins = format!("{by} from 2026-03-01T{begins}:00Z: ");
            ensure!(said.out.contains(&begins), "{by}: {}", said.out);
        }
        let said = scene.reconcile(&["--json", "--by", "minute"])?;
        let said: Value = serde_json::from_str(&said.out)?;
        let rows = said["windows"].as_array().context("windows")?;
        let bytes = rows.iter().find(|row| {
            row["tenant"] == ACME && row["direction"] == 0 && row["measure"] == "l2_bytes"
        });
        let bytes = bytes.with_context(|| said.to_string())?;
        ensure!(
            bytes["difference"] == "-9000000" && bytes["sink"] == "0",
            "{bytes}"
        );
        let first = rows
            .iter()
            .filter_map(|row| row["replay_from"].as_u64())
            .min();
        let first = first.context("where to begin")?;
        ensure!(
            (from..from + 20).contains(&first),
            "{first}, not after {from}"
        );
        let replayed = scene.octroi(&["replay", "--from", &first.to_string()])?;
        ensure!(replayed.fine, "{}", replayed.err);
        for by in ["minute", "hour", "day"] {
            cases += scene.is_same(by)?;
        }
        ensure!(scene.service.state().again > 0);
    }
    println!("CASES: sums of what was lost, found and sent again: {cases}");
    Ok(())
}

#[test]
fn an_event_that_openmeter_counts_twice_is_named() -> Result<()> {
    let mut scene = Scene::new("twice", false)?;
    let ports = ports(&mut scene.host);
    scene.define(&[Measure::L2Bytes])?;
    windows(&mut scene.host, ports, HOUR)?;
    scene.deliver()?;
    windows(&mut scene.host, ports, 1)?;
    scene.service.state().moods = vec![Mood::TakesTwice];
    scene.deliver()?;
    let said = scene.reconcile(&[])?;
    ensure!(!said.fine, "{}", said.out);
    let line = said
        .out
        .lines()
        .find(|line| line.contains("tenant 7 direction 0"));
    let line = line.with_context(|| said.out.clone())?;
    ensure!(
        line.contains("difference 9000000") && !line.contains("replay"),
        "{line}"
    );
    // The two meters that nobody made are named, with how to make them.
    for slug in ["octroi_packets", "octroi_l3_bytes"] {
        ensure!(
            said.out.contains(slug) && said.out.contains("\"valueProperty\""),
            "{}",
            said.out
        );
    }
    Ok(())
}

#[test]
fn openmeter_may_count_later_what_it_acknowledged() -> Result<()> {
    let mut scene = Scene::new("later", false)?;
    let ports = ports(&mut scene.host);
    scene.define(&[Measure::L2Bytes])?;
    windows(&mut scene.host, ports, 3)?;
    scene.service.state().moods = vec![Mood::CountsLater];
    scene.deliver()?;
    ensure!(!scene.reconcile(&[])?.fine, "nothing is counted yet");
    let said = scene.octroi(&["reconcile", "--wait", "20"])?;
    ensure!(said.fine, "{} {}", said.out, said.err);
    Ok(())
}

#[test]
fn what_the_ledgers_do_not_know_is_not_told_as_a_difference() -> Result<()> {
    let mut scene = Scene::new("gone", false)?;
    let ports = ports(&mut scene.host);
    scene.define(&[Measure::L2Bytes])?;
    windows(&mut scene.host, ports, 3 * HOUR)?;
    scene.deliver()?;
    // The first hour's records are pruned: their leaves stay.
    let db = rusqlite::Connection::open(&scene.host.path)?;
    let pruned = db.execute("UPDATE record SET canonical = NULL WHERE seq < 60", [])?;
    ensure!(pruned == 60);
    let said = scene.reconcile(&[])?;
    ensure!(
        said.fine && said.out.contains("60 records are pruned"),
        "{} {}",
        said.out,
        said.err
    );
    ensure!(said.out.contains("not compared"), "{}", said.out);
    // What is missing there of the other hours is told nevertheless.
    let key = scene.service.state().events.keys().last().cloned();
    scene
        .service
        .state()
        .events
        .remove(&key.context("an event")?);
    ensure!(!scene.reconcile(&[])?.fine, "a missing event");
    // A cursor that knows a ledger that is not here: what is more there may be of that one.
    let cursor = PathBuf::from(format!("{}.sink-{SINK}", scene.host.path.display()));
    let text = fs::read_to_string(&cursor)?;
    let mut known: Value = serde_json::from_str(&text)?;
    let one = known["ledgers"]
        .as_object()
        .and_then(|it| it.values().next().cloned());
    known["ledgers"]["ab".repeat(16)] = one.context("a ledger")?;
    known["ledgers"]["ab".repeat(16)]["windows"] = serde_json::json!([]);
    fs::write(&cursor, known.to_string())?;
    let said = scene.reconcile(&[])?;
    ensure!(said.out.contains(&"ab".repeat(16)), "{}", said.out);
    Ok(())
}

#[test]
fn an_old_copy_that_was_put_back_excuses_what_it_lacks_and_nothing_else() -> Result<()> {
    let mut scene = Scene::new("short", false)?;
    let ports = ports(&mut scene.host);
    scene.define(&[Measure::L2Bytes])?;
    windows(&mut scene.host, ports, 2 * HOUR)?;
    let copy = scene.shelf.0.join("copy.db");
    rusqlite::Connection::open(&scene.host.path)?
        .execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
    windows(&mut scene.host, ports, HOUR)?;
    scene.deliver()?;
    for name in ["ledger.db-wal", "ledger.db-shm"] {
        let _ = fs::remove_file(scene.host.path.with_file_name(name));
    }
    fs::rename(&copy, &scene.host.path)?;
    ensure!(scene.host.open_again()?.is_some());
    windows(&mut scene.host, ports, 3 * HOUR)?;
    scene.deliver()?;
    let said = scene.reconcile(&[])?;
    ensure!(
        said.fine && said.out.contains("this copy has"),
        "{} {}",
        said.out,
        said.err
    );
    ensure!(said.out.contains("not compared"), "{}", said.out);
    // What its successor brought is compared as ever, both ways.
    windows(&mut scene.host, ports, 1)?;
    scene.service.state().moods = vec![Mood::TakesTwice];
    scene.deliver()?;
    let said = scene.reconcile(&[])?;
    ensure!(
        !said.fine && said.out.contains("difference 9000000"),
        "{}",
        said.out
    );
    scene.service.state().twice.clear();
    ensure!(scene.reconcile(&[])?.fine);
    Ok(())
}

#[test]
fn what_openmeter_refuses_or_lacks_is_said_with_what_to_do() -> Result<()> {
    let mut scene = Scene::new("refuses", false)?;
    let ports = ports(&mut scene.host);
    windows(&mut scene.host, ports, 2)?;
    scene.deliver()?;
    let mut cases = 0;
    let mut says = |scene: &Scene, words: &[&str]| -> Result<()> {
        let said = scene.reconcile(&[])?;
        ensure!(!said.fine, "{words:?}: {}", said.out);
        for word in words {
            ensure!(said.err.contains(word), "{word}: {}", said.err);
        }
        cases += 1;
        Ok(())
    };
    says(
        &scene,
        &[
            "no meter octroi_l2_bytes",
            "\"aggregation\":\"SUM\"",
            "$.l2_bytes",
        ],
    )?;
    let right = Meter::of(&Measure::L2Bytes.definition())?;
    type Spoil = fn(&mut Meter);
    let spoilt: [Spoil; 5] = [
        |meter| meter.event_type = "usage".into(),
        |meter| meter.aggregation = "MAX".into(),
        |meter| meter.value_property = "$.l3_bytes".into(),
        |meter| drop(meter.group_by.remove("host")),
        |meter| drop(meter.group_by.insert("direction".into(), "$.zone".into())),
    ];
    for spoil in spoilt {
        let mut meter = right.clone();
        spoil(&mut meter);
        scene.service.state().meters = vec![meter];
        says(
            &scene,
            &[
                "octroi_l2_bytes is not defined as it must be",
                "$.direction",
            ],
        )?;
    }
    // One that counts from a later time has less, and that is no loss.
    let mut later = right.clone();
    later.event_from = Some("2026-03-02T00:00:00Z".into());
    scene.service.state().meters = vec![later];
    let said = scene.reconcile(&[])?;
    ensure!(
        said.fine && said.out.contains("eventFrom"),
        "{} {}",
        said.out,
        said.err
    );
    scene.service.state().meters = vec![right];
    scene.is_same("hour")?;
    // A number that a double has rounded, and one that is none.
    for (bytes, words) in [
        ("9007199254740992", "2^53"),
        ("100000000000000000000000", "whole number"),
        ("0.5", "whole number"),
    ] {
        let mut state = scene.service.state();
        let (key, event) = state.events.pop_first().context("an event")?;
        let mut other = event.clone();
        other["data"]["l2_bytes"] = bytes.into();
        state.events.insert(key.clone(), other);
        drop(state);
        says(&scene, &[words])?;
        scene.service.state().events.insert(key, event);
    }
    let (key, event) = scene
        .service
        .state()
        .events
        .pop_first()
        .context("an event")?;
    let mut other = event.clone();
    other["subject"] = "a customer".into();
    scene.service.state().events.insert(key.clone(), other);
    says(&scene, &["a subject that is no tenant"])?;
    scene.service.state().events.insert(key, event);
    fs::write(&scene.token, "another")?;
    says(&scene, &["401", "token_file"])?;
    fs::write(&scene.token, "s3cret")?;
    scene.write("http://127.0.0.1:9/api/v1/events")?;
    says(&scene, &["127.0.0.1:9"])?;
    scene.write(&scene.url.replace("/api/v1/events", "/events"))?;
    says(&scene, &["only OpenMeter can be asked", "octroi replay"])?;
    println!("CASES: what OpenMeter refuses or lacks, said: {cases}");
    Ok(())
}
