//! The control API: who may do what, what is changed under traffic, what is entered in the ledger, and
//! what a client can send that is no request. The real daemon, real users, real packets.

#[path = "api/client.rs"]
mod client;
#[path = "api/crowd.rs"]
mod crowd;
#[path = "api/detail.rs"]
mod detail;
#[path = "api/site.rs"]
mod site;
mod support;
#[path = "api/tls.rs"]
mod tls;

use anyhow::{Context as _, Result, ensure};
use client::{ROOT, User};
use dataplane_common::reason::DropReason;
use metering::ledger;
use octroi::lab::{
    site::{INSIDE, REMOTE, ipv4},
    traffic::{self, inside},
};
use serde_json::{Value, json};
use site::{NAMED, POLICY, READER, STRANGER, Served, bobs_port, waiting_port};
use std::{
    fs,
    net::UdpSocket,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use support::{alone, between, can_run, octroi, pair, registers, settle};

#[test]
fn each_role_does_what_it_may_and_no_more() -> Result<()> {
    if !can_run("each_role_does_what_it_may_and_no_more") {
        return Ok(());
    }
    let _alone = alone();
    let served = Served::new(true)?;
    let window = "from=2020-01-01&to=2020-01-02";
    let usage = format!("/v1/usage?tenant=1&{window}&step=hour&p95=true");
    let looks: [(&str, u16); 11] = [
        ("/v1/openapi.json", 200),
        ("/v1/status", 200),
        ("/v1/tenants", 200),
        ("/v1/ports", 200),
        ("/v1/ports/alice-port", 200),
        ("/v1/ports/nobodys", 404),
        ("/v1/records?tenant=alice&limit=3", 200),
        (&usage, 200),
        ("/v1/usage", 400),
        ("/v1/records?tenants=1", 400),
        ("/v1/nothing", 404),
    ];
    let toml = |text: String| json!({ "toml": text });
    let roles = "read = [\"games\", \"user:backup\"]\npolicy = [\"users\"]";
    let same = toml(served.config(roles));
    let other = toml(served.config(roles).replace("10Gbit/s", "9Gbit/s"));
    let host = toml(
        served
            .config(roles)
            .replace("name = \"demo\"", "name = \"other\""),
    );
    let bob = bobs_port(&Value::Null);
    // By reader, policy, admin.
    let changes: [(&str, &str, Value, [u16; 3]); 11] = [
        ("POST", "/v1/ports", bob.clone(), [403, 201, 200]),
        ("PUT", "/v1/ports/bob-hook", bob.clone(), [403, 200, 200]),
        (
            "PUT",
            "/v1/ports/alice-port",
            bobs_port(&json!({"name": "alice-port"})),
            [403, 409, 409],
        ),
        (
            "PUT",
            "/v1/ports/nobodys",
            bobs_port(&json!({"name": "nobodys"})),
            [403, 404, 404],
        ),
        (
            "PUT",
            "/v1/ports/bob-hook",
            bobs_port(&json!({"name": "x"})),
            [403, 422, 422],
        ),
        (
            "POST",
            "/v1/ports",
            bobs_port(&json!({"name": "y"})),
            [403, 422, 422],
        ),
        (
            "DELETE",
            "/v1/ports/alice-port",
            Value::Null,
            [403, 409, 409],
        ),
        ("PUT", "/v1/config", same, [403, 200, 200]),
        ("PUT", "/v1/config", other, [403, 403, 200]),
        ("PUT", "/v1/config", host, [403, 403, 200]),
        ("PATCH", "/v1/ports", bob, [405, 405, 405]),
    ];
    let mut asked = 0;
    let mut check = |user: User, method: &str, path: &str, body: &Value, status: u16| {
        let reply = served.ask(user, method, path, body)?;
        ensure!(
            reply.status == status,
            "{user:?} {method} {path}: {reply:?}, not {status}"
        );
        if status >= 400 {
            ensure!(reply.kind == "application/problem+json", "{reply:?}");
            ensure!(reply.body["status"] == status, "{reply:?}");
            let detail = reply.body["detail"].as_str().unwrap_or_default();
            ensure!(!detail.is_empty() && !detail.contains('\n'), "{reply:?}");
        } else {
            ensure!(reply.kind == "application/json", "{reply:?}");
        }
        asked += 1;
        Ok(reply.body)
    };
    for (path, status) in looks {
        let refused = check(STRANGER, "GET", path, &Value::Null, 403)?;
        let detail = refused["detail"].to_string();
        ensure!(detail.contains("no role"), "{refused}");
        for user in [READER, NAMED, POLICY, ROOT] {
            check(user, "GET", path, &Value::Null, status)?;
        }
    }
    for (method, path, body, [reader, policy, admin]) in &changes {
        check(STRANGER, method, path, body, 403)?;
        for (user, status) in [
            (READER, reader),
            (NAMED, reader),
            (POLICY, policy),
            (ROOT, admin),
        ] {
            check(user, method, path, body, *status)?;
        }
    }
    // A role that is taken away is gone at once, also for who is connected: it is asked for each request.
    let without = toml(served.config("read = [\"games\"]"));
    check(ROOT, "PUT", "/v1/config", &without, 200)?;
    check(POLICY, "GET", "/v1/status", &Value::Null, 403)?;
    check(NAMED, "GET", "/v1/status", &Value::Null, 403)?;
    check(READER, "GET", "/v1/status", &Value::Null, 200)?;
    // The socket is where it is as long as the daemon runs.
    let moved = toml(served.config("").replace("api.sock", "other.sock"));
    check(ROOT, "PUT", "/v1/config", &moved, 422)?;
    println!("CASES: requests by roles: {asked}");
    Ok(())
}

/// Bob sends as fast as he can, as himself and as somebody else.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Flood {
    fn start(served: &Served) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = inside(served.site.tenants[1].open()?, move || {
            let own = UdpSocket::bind((ipv4(2), 0))?;
            let lie = UdpSocket::bind("10.77.0.99:0")?;
            let limit = Instant::now() + Duration::from_secs(60);
            while !stopped.load(Relaxed) && Instant::now() < limit {
                let _ = own.send_to(&[1; 1_000], (ipv4(REMOTE), 4000));
                let _ = lie.send_to(&[2; 1_000], (ipv4(REMOTE), 4001));
                std::thread::sleep(Duration::from_micros(100));
            }
            Ok(())
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Relaxed);
        let ended = self.thread.join();
        ended.unwrap_or_else(|_| Err(anyhow::anyhow!("bob panicked")))
    }
}

#[test]
fn a_port_is_enforced_before_its_first_packet_and_every_change_is_in_the_ledger() -> Result<()> {
    const NAME: &str =
        "a_port_is_enforced_before_its_first_packet_and_every_change_is_in_the_ledger";
    if !can_run(NAME) {
        return Ok(());
    }
    let _alone = alone();
    let served = Served::new(true)?;
    // Bob floods, as himself and as somebody else, before, while and after his port is added.
    served.site.tenants[1].command(&format!("ip addr add 10.77.0.99/24 dev {INSIDE}"))?;
    let honest = traffic::udp_sink(&served.site.remote, 4000)?;
    let forged = traffic::udp_sink(&served.site.remote, 4001)?;
    let bob = Flood::start(&served)?;
    let arrived = |socket: &UdpSocket| -> Result<usize> {
        socket.set_nonblocking(true)?;
        let mut count = 0;
        while socket.recv(&mut [0; 2_048]).is_ok() {
            count += 1;
        }
        Ok(count)
    };
    std::thread::sleep(Duration::from_millis(500));
    ensure!(arrived(&honest)? == 0, "no port, no way");
    let before = served.site.remote.counters(INSIDE)?;

    const RATE: u64 = 2_000_000;
    const BURST: u64 = 20_000;
    let limits = json!({ "from_tenant": { "ceiling": "2Mbit/s", "burst": "20kB" } });
    let begun = Instant::now();
    let added = served.ask(POLICY, "POST", "/v1/ports", &bobs_port(&limits))?;
    ensure!(added.status == 201, "{added:?}");
    ensure!(added.body["status"]["state"] == "blessed", "{added:?}");
    ensure!(
        added.body["from_tenant"]["ceiling"] == "2Mbit/s",
        "{added:?}"
    );
    std::thread::sleep(Duration::from_millis(1_500));
    bob.stop()?;
    let elapsed = begun.elapsed();
    let read = || {
        let remote = served.site.remote.counters(INSIDE)?;
        Ok((remote, registers(&served.site, 1)?.0))
    };
    let (after, from) = settle(read)?;
    let left = between(before, after);
    // Not a packet came before it was counted, and none was counted that the guard dropped.
    ensure!(
        pair(from.total()) == (left[0], left[1]),
        "{from:?} {left:?}\n{}",
        served.site.log()
    );
    ensure!(arrived(&honest)? > 20, "blessed: it passes");
    ensure!(
        arrived(&forged)? == 0,
        "a packet with a forged source came through"
    );
    ensure!(
        from.dropped_for(DropReason::SpoofedIpv4).packets > 100,
        "{from:?}"
    );
    ensure!(
        from.dropped_for(DropReason::CeilingBytes).packets > 100,
        "{from:?}"
    );
    let most =
        u128::from(BURST) + 2 * 1_514 + u128::from(RATE / 8) * elapsed.as_nanos() / 1_000_000_000;
    let passed = u128::from(from.total().l2_bytes);
    ensure!(
        passed <= most,
        "{passed} bytes in {elapsed:?}, and {most} were allowed"
    );
    // From then on, to the byte.
    let bob = Flood::start(&served)?;
    std::thread::sleep(Duration::from_millis(300));
    bob.stop()?;
    let (later, now) = settle(read)?;
    let (left, since) = (between(after, later), now.since(&from));
    ensure!(
        left[0] > 10 && pair(since.total()) == (left[0], left[1]),
        "{since:?} {left:?}"
    );

    // The other changes, each with its entry; what is refused beforehand has none.
    let wider = bobs_port(&json!({ "from_tenant": { "ceiling": "50Mbit/s" } }));
    ensure!(
        served
            .ask(ROOT, "PUT", "/v1/ports/bob-hook", &wider)?
            .status
            == 200
    );
    let wrong = bobs_port(&json!({ "name": "bob2" }));
    let refused = served.ask(POLICY, "POST", "/v1/ports", &wrong)?;
    ensure!(refused.status == 422, "{refused:?}");
    let waits = served.ask(POLICY, "POST", "/v1/ports", &waiting_port(1))?;
    ensure!(
        waits.status == 202 && waits.body["status"]["state"] == "waiting",
        "{waits:?}"
    );
    ensure!(
        served
            .ask(POLICY, "DELETE", "/v1/ports/bob-hook", &Value::Null)?
            .status
            == 200
    );
    let entries = served.entries()?;
    let expected = [
        (POLICY.uid, "policy", "port add {"),
        (0, "admin", "port set {"),
        (POLICY.uid, "policy", "port add {"),
        (POLICY.uid, "policy", "port remove bob-hook"),
    ];
    ensure!(entries.len() == expected.len(), "{entries:?}");
    for ((who, what), (uid, role, begins)) in entries.iter().zip(expected) {
        ensure!(
            *who == format!("uid {uid}, {role}, by the API"),
            "{entries:?}"
        );
        ensure!(what.starts_with(begins), "{entries:?}");
    }
    ensure!(
        entries[0].1.contains("\"ceiling\":\"2Mbit/s\""),
        "{entries:?}"
    );

    // What the ledger has, and that it is whole with these entries in it.
    let run = |arguments: &[&str]| -> Result<String> {
        let ledger = served.ledger.display().to_string();
        let output = Command::new(octroi())
            .args(arguments)
            .arg(ledger)
            .output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let said = run(&["ledger", "looks", "--ledger"])?;
    ensure!(
        said.contains("uid 12002, policy, by the API: port remove bob-hook"),
        "{said}"
    );
    run(&["verify"])?;

    // Pages of records are the records.
    let mut after = String::new();
    let mut seqs = Vec::new();
    loop {
        let page = served
            .get(READER, &format!("/v1/records?tenant=bob&limit=2{after}"))?
            .body;
        let records = page["records"].as_array().context("records")?.clone();
        seqs.extend(
            records
                .iter()
                .filter_map(|record| record["seq"].as_str()?.parse::<u64>().ok()),
        );
        let Some(next) = page["next"].as_str() else {
            break;
        };
        ensure!(records.len() == 2, "{page}");
        after = format!("&after={next}");
    }
    let filter = ledger::Filter {
        tenant: Some(2),
        ..ledger::Filter::default()
    };
    let all: Vec<u64> = ledger::records(&served.ledger, &filter)?
        .into_iter()
        .map(|row| row.map(|record| record.seq).map_err(|(_, error)| error))
        .collect::<Result<_, _>>()?;
    ensure!(seqs.len() > 2 && all.starts_with(&seqs), "{seqs:?} {all:?}");
    println!("CASES: ports added by the API under traffic: 1");
    Ok(())
}

#[test]
fn a_change_that_cannot_be_entered_is_not_made() -> Result<()> {
    if !can_run("a_change_that_cannot_be_entered_is_not_made") {
        return Ok(());
    }
    let _alone = alone();
    let served = Served::new(true)?;
    let keys = fs::read_dir(served.site.directory())?.flatten();
    let mut keys = keys.map(|entry| entry.path());
    let key = keys.find(|path| path.to_string_lossy().ends_with(".key"));
    let key = key.context("the ledger's key")?;
    let aside = key.with_extension("aside");
    fs::rename(&key, &aside)?;
    let refused = served.ask(POLICY, "POST", "/v1/ports", &bobs_port(&Value::Null))?;
    ensure!(refused.status == 503, "{refused:?}");
    let detail = refused.body["detail"].to_string();
    ensure!(detail.contains("nothing is changed"), "{detail}");
    ensure!(served.get(ROOT, "/v1/ports/bob-hook")?.status == 404);
    ensure!(served.entries()?.is_empty());
    fs::rename(&aside, &key)?;
    let added = served.ask(POLICY, "POST", "/v1/ports", &bobs_port(&Value::Null))?;
    ensure!(added.status == 201, "{added:?}");
    drop(served);

    // Without a ledger there is only the log, and it has everything.
    let served = Served::new(false)?;
    let added = served.ask(POLICY, "POST", "/v1/ports", &bobs_port(&Value::Null))?;
    ensure!(added.status == 201, "{added:?}");
    let log = served.site.log();
    ensure!(
        log.contains("octroi: uid 12002, policy, by the API: port add {"),
        "{log}"
    );
    ensure!(served.get(READER, "/v1/records")?.status == 404);
    Ok(())
}
