//! What Lago bills is what the tenants' interfaces sent: a batch with one event that it has is rolled back, and the rest goes again;
//! through answers that are lost, resets, 5xx, limits, a server that hangs, kill -9 of the daemon, and, by `octroi replay`,
//! acknowledgements of what was not kept, which `octroi reconcile` finds.

#[path = "events/batches.rs"]
#[allow(dead_code, reason = "each test of a service uses its own part of this")]
mod batches;
#[path = "meter/bill.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod bill;
#[path = "meter/delivered.rs"]
#[allow(dead_code, reason = "each test of a sink uses its own part of this")]
mod delivered;
#[path = "lago/fake.rs"]
mod fake;
#[path = "events/fake.rs"]
#[allow(dead_code, reason = "of a service of events only its HTTP")]
mod http;
#[path = "lago/refuses.rs"]
mod refuses;
#[path = "meter/site.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod site;
mod support;

use anyhow::{Context as _, Result, ensure};
use batches::{Dir, batch_of};
use delivered::caught_up;
use fake::{Mood, RESET, Service};
use metering::sink::{
    Batch, Mark, Sink as _, SinkError,
    lago::{Lago, Target},
};
use serde_json::json;
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
const KEY: &str = "s3cret";

fn service() -> Result<Service> {
    Service::new(TcpListener::bind("127.0.0.1:0")?, KEY)
}

fn sink(service: &Service, dir: &Dir, token_file: PathBuf) -> Lago {
    let target = Target {
        url: service.url.clone(),
        token_file,
        ca_file: None,
        code: "octroi_bytes".into(),
        subscriptions: vec!["7 sub_é/7".parse().expect("a subscription")],
    };
    target.check().expect("it is right");
    Lago::with_patience(target, dir.0.join("cursor"), Duration::from_millis(1_500))
}

/// Not taken, because of this.
fn refused(sink: &mut Lago, batch: &Batch) -> SinkError {
    let error = sink.deliver(batch).expect_err("it is not taken");
    assert!(!error.to_string().contains('\n'), "{error}");
    error
}

#[test]
fn a_batch_that_is_rolled_back_goes_again_without_what_is_there() -> Result<()> {
    let dir = Dir::new("lago-answers")?;
    let service = service()?;
    let token = dir.write("token", &format!("{KEY}\n"))?;
    let mut sink = sink(&service, &dir, token.clone());
    let first = batch_of(Mark::NONE, 0, 100);
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
        let error = refused(&mut sink, &first);
        // The second that takes it finds the first there, and is no failure: nothing is left to take.
        ensure!(
            matches!(error, SinkError::Unavailable(_)),
            "{mood:?}: {error}"
        );
        ensure!(
            begun.elapsed() < Duration::from_secs(3),
            "{mood:?}: {:?}",
            begun.elapsed()
        );
        ensure!(sink.mark(&[3; 16], &host)? == Mark::NONE, "{mood:?}");
    }
    // What came over the lost answer is there, and the cursor moves without it being taken twice.
    ensure!(sink.deliver(&first)? == first.to);
    ensure!(service.state().events.len() == 100 && service.state().rolled_back == (2, 200));

    // Some of a batch are there from before: the others go again, once.
    let half = batch_of(first.to, 100, 37);
    service.state().moods.push(Mood::TakesAndBreaks);
    refused(&mut sink, &half);
    let whole = batch_of(first.to, 100, 90);
    ensure!(sink.deliver(&whole)? == whole.to);
    ensure!(
        service.state().events.len() == 190,
        "{}",
        service.state().events.len()
    );
    ensure!(
        service.state().rolled_back == (3, 237),
        "{:?}",
        service.state().rolled_back
    );
    // All of it once more changes nothing.
    sink.replay(&batch_of(Mark::NONE, 0, 190))?;
    ensure!(service.state().events.len() == 190 && service.state().refused.is_empty());
    {
        let state = service.state();
        let ((subscription, name), event) = state.events.iter().next().context("one")?;
        ensure!(subscription == "sub_é/7" && *name == format!("{}-{:020}", "03".repeat(16), 0));
        ensure!(
            event["timestamp"] == "1795000000.000" && event["code"] == "octroi_bytes",
            "{event}"
        );
        ensure!(
            event["properties"]["l2_bytes"] == "18446744073709551615",
            "{event}"
        );
    }
    // What it has is read back, over two pages, and counts once.
    let sums = sink.sums(&[3; 16], 150, std::slice::from_ref(&(10..20)))?;
    let sums = sums.0.get(&(7, 0, 4)).context("the one series")?;
    ensure!(sums.records == 140 && sums.packets == 140, "{sums:?}");
    ensure!(sums.l2_bytes == 140 * i128::from(u64::MAX), "{sums:?}");
    println!("CASES: events that were rolled back and went again: 53");
    Ok(())
}

#[test]
fn limits_are_kept_and_what_no_later_try_makes_good_is_told() -> Result<()> {
    let dir = Dir::new("lago-refused")?;
    let service = service()?;
    let token = dir.write("token", KEY)?;
    let mut sink = sink(&service, &dir, token.clone());
    let first = batch_of(Mark::NONE, 0, 10);
    // 429: nobody is asked until it is over.
    service.state().moods.push(Mood::Limits);
    let begun = Instant::now();
    let error = refused(&mut sink, &first);
    ensure!(error.to_string().contains("429"), "{error}");
    let asked = service.state().requests;
    let mut told = String::new();
    while begun.elapsed() < Duration::from_secs(RESET) {
        match sink.deliver(&first) {
            Ok(_) => break,
            Err(error) => told = error.to_string(),
        }
        ensure!(begun.elapsed() >= Duration::from_secs(RESET) || service.state().requests == asked);
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(told.contains("limits how often"), "{told}");
    ensure!(
        begun.elapsed() > Duration::from_millis(RESET * 1_000 - 100),
        "it did not wait"
    );
    std::thread::sleep(Duration::from_millis(100));
    if sink.mark(&[3; 16], &first.host)? == Mark::NONE {
        sink.deliver(&first)?;
    }

    // Another record under a name that is there: a copy of this ledger that went on by itself.
    let next = batch_of(first.to, 10, 5);
    {
        let mut state = service.state();
        let mut other = state.events.values().next().context("one")?.clone();
        let name = format!("{}-{:020}", "03".repeat(16), 12);
        other["transaction_id"] = json!(name);
        state.events.insert(("sub_é/7".into(), name), other);
    }
    let error = refused(&mut sink, &next);
    ensure!(matches!(error, SinkError::Fork(_)), "{error}");
    // One that is there and is not shown: its metric was deleted. Nobody knows what it was.
    let name = (
        "sub_é/7".to_owned(),
        format!("{}-{:020}", "03".repeat(16), 12),
    );
    service.state().events.get_mut(&name).context("it")?["transaction_id"] = json!("gone");
    let error = refused(&mut sink, &next);
    ensure!(
        matches!(error, SinkError::Refused(_)) && error.to_string().contains("deleted"),
        "{error}"
    );
    service.state().events.remove(&name);

    // A tenant without a subscription is told, and nothing of the batch is sent.
    // The host's own is nobody's.
    let mut own = next.clone();
    own.items.iter_mut().for_each(|item| item.record.tenant = 0);
    let before = service.state().requests;
    sink.replay(&own)?;
    ensure!(service.state().requests == before && !sink.bills(0) && sink.bills(8));
    let mut other = next.clone();
    other.items[4].record.tenant = 8;
    let before = service.state().requests;
    let error = refused(&mut sink, &other).to_string();
    ensure!(
        error.contains("tenant 8 has no subscription") && service.state().requests == before,
        "{error}"
    );
    // What it refuses of an event is told with the event's name.
    let mut other = next.clone();
    other.items[2].record.window_start = -1;
    let error = refused(&mut sink, &other);
    let what = error.to_string();
    ensure!(
        matches!(error, SinkError::Refused(_)) && what.contains("-00000000000000000012"),
        "{what}"
    );
    ensure!(what.contains("invalid_format"), "{what}");
    // The key, and the address.
    fs::write(&token, "another")?;
    let error = refused(&mut sink, &next).to_string();
    ensure!(
        error.contains("401") && error.contains("token_file"),
        "{error}"
    );
    fs::write(&token, "")?;
    ensure!(refused(&mut sink, &next).to_string().contains("empty"));
    fs::write(&token, KEY)?;
    ensure!(sink.deliver(&next)? == next.to && service.state().events.len() == 15);
    println!("CASES: answers of Lago that are told: 8");
    Ok(())
}

/// The sink's section in the daemon's file; the daemon is not started yet.
fn deliver_to(metered: &Metered, service: &Service) -> Result<()> {
    let file = metered.site.directory().join("token");
    fs::write(&file, KEY)?;
    let config = metered.site.config("shape = \"police\"")
        + &format!(
            "\n[meter]\nledger = \"{}\"\nwindow = \"100ms\"\n\
             \n[[sink]]\nname = \"billing\"\nkind = \"lago\"\nurl = \"{}\"\ntoken_file = \"{}\"\ncode = \"octroi_bytes\"\n\
             subscriptions = [\"1 sub_alice\", \"2 sub_bob\", \"3 sub_carol\"]\n",
            metered.ledger.display(),
            service.url,
            file.display()
        );
    metered.site.write_config(&config)
}

/// An `octroi` command in the site's namespace, where the service is.
fn command(metered: &Metered, arguments: &[&str]) -> Result<(bool, String)> {
    let mut command = metered.site.host.prepare(octroi())?;
    command.args(arguments).arg("--config");
    let Output {
        status,
        stdout,
        stderr,
    } = command.arg(metered.site.config_path()).output()?;
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    Ok((status.success(), said))
}

#[test]
fn lago_bills_what_was_sent_through_lost_answers_kills_limits_and_replay() -> Result<()> {
    const TEST: &str = "lago_bills_what_was_sent_through_lost_answers_kills_limits_and_replay";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let mut metered = Metered::new("100ms", None)?;
    let listener = metered
        .site
        .host
        .run(|| TcpListener::bind("127.0.0.1:0"))??;
    let service = Service::new(listener, KEY)?;
    deliver_to(&metered, &service)?;
    service.state().seed = Some(2_026);
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    let kills = by_level(3, 10, 60);
    for round in 0..kills {
        std::thread::sleep(Duration::from_millis(600 + round * 137 % 500));
        // It has what nobody was told of when the daemon dies.
        service.state().moods.push(Mood::TakesAndBreaks);
        std::thread::sleep(Duration::from_millis(150));
        metered.site.kill()?;
        metered.site.start(octroi())?;
    }
    traffic.stop()?;
    metered.conserved()?;
    service.state().seed = None;
    metered.site.start(octroi())?;
    caught_up(&metered, PATIENCE)?;
    let (right, said) = command(&metered, &["reconcile", "--sink", "billing"])?;
    ensure!(right && said.contains("difference 0"), "{said}");

    // What it acknowledged and lost is found, and sent again from the beginning.
    {
        let mut state = service.state();
        let some: Vec<_> = state.events.keys().step_by(7).cloned().collect();
        state.events.retain(|key, _| !some.contains(key));
        ensure!(some.len() > 10, "{} events", some.len());
    }
    caught_up(&metered, PATIENCE)?;
    let (right, said) = command(&metered, &["reconcile", "--sink", "billing"])?;
    ensure!(!right && said.contains("are not the ledger's"), "{said}");
    let (right, said) = command(&metered, &["replay", "--sink", "billing", "--from", "0"])?;
    ensure!(right, "{said}");
    println!("{}", said.trim_end());
    caught_up(&metered, PATIENCE)?;
    let (right, said) = command(&metered, &["reconcile", "--sink", "billing"])?;
    ensure!(right, "{said}");
    metered.site.stop();

    for (index, tenant) in site::TENANTS.iter().take(site::SENDERS).enumerate() {
        let (mut packets, mut bytes) = (0, 0);
        for ((subscription, direction, _), sums) in service.totals()? {
            if subscription == format!("sub_{}", tenant.name) && direction == "from" {
                packets += sums.0;
                bytes += sums.1;
            }
        }
        let sent = bill::Bill::read(&metered.ledger)?.sent_by(tenant.name);
        ensure!(
            (packets, bytes) == (i128::from(sent.packets), i128::from(sent.l2_bytes)),
            "{index}: Lago has {packets} packets and {bytes} bytes, the ledger {sent:?}"
        );
    }
    let state = service.state();
    ensure!(state.refused.is_empty(), "{:?}", state.refused);
    ensure!(
        state.rolled_back.0 > 0,
        "nothing came twice: {:?}",
        state.ended
    );
    println!(
        "CASES: events that Lago has exactly once: {}",
        state.events.len()
    );
    println!(
        "CASES: batches that were rolled back, and went again without what was there: {}",
        state.rolled_back.0
    );
    println!("CASES: batches by how they ended: {:?}", state.ended);
    println!("CASES: kills of the daemon under delivery to Lago: {kills}");
    Ok(())
}
