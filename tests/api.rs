//! The control API: who may do what, what is changed under traffic, what is entered in the ledger, and
//! what a client can send that is no request. The real daemon, real users, real packets.

#[path = "api/client.rs"]
mod client;
mod support;

use anyhow::{Context as _, Result, ensure};
use client::{ROOT, Reply, User, raw, reply};
use dataplane_common::reason::DropReason;
use metering::ledger;
use octroi::lab::{
    Site,
    site::{INSIDE, REMOTE, ipv4, ipv6, mac, mac_text},
    traffic::{self, inside},
};
use serde_json::{Value, json};
use std::{
    fs,
    net::UdpSocket,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use support::{alone, between, by_level, can_run, octroi, pair, registers, settle, tenant};

/// Groups that every Debian has: `games`, `users`, and `nogroup`, which has no role here.
const GAMES: u32 = 60;
const USERS: u32 = 100;
const NOGROUP: u32 = 65_534;

const STRANGER: User = User {
    uid: 12_000,
    gid: NOGROUP,
    groups: &[1, 2, 3],
};
const READER: User = User {
    uid: 12_001,
    gid: GAMES,
    groups: &[],
};
/// The user `backup` has a role by name.
const NAMED: User = User {
    uid: 34,
    gid: NOGROUP,
    groups: &[],
};
/// By a supplementary group.
const POLICY: User = User {
    uid: 12_002,
    gid: NOGROUP,
    groups: &[7, USERS, 8],
};

const PAIR: [octroi::lab::TenantSpec; 2] = [tenant("alice", false), tenant("bob", false)];

struct Served {
    site: Site,
    socket: PathBuf,
    ledger: PathBuf,
    /// The file without `[api]`, so that tests can write another one.
    base: String,
}

impl Served {
    /// A site whose daemon serves the API. `with_ledger`: and keeps records. The file has bob as a tenant, and
    /// not his port.
    fn new(with_ledger: bool) -> Result<Self> {
        let mut site = Site::new(&PAIR)?;
        fs::set_permissions(site.directory(), fs::Permissions::from_mode(0o755))?;
        let ledger = site.directory().join("ledger.db");
        let socket = site.directory().join("api.sock");
        let text = site.config("shape = \"police\"");
        let port = text.find("[[port]]\nname = \"bob-port\"");
        let mut base = text[..port.context("bob's port")?].to_owned();
        if with_ledger {
            base += &format!(
                "\n[meter]\nledger = \"{}\"\nwindow = \"1s\"\n",
                ledger.display()
            );
        }
        let mut served = Self {
            socket,
            ledger,
            base,
            site: {
                site.write_config("")?;
                site
            },
        };
        let config = served.config("read = [\"games\", \"user:backup\"]\npolicy = [\"users\"]");
        served.site.write_config(&config)?;
        served.site.start(octroi())?;
        if with_ledger {
            served.wait(|served| Ok(served.status(ROOT)?["meter"]["windows"] != 0))?;
        }
        Ok(served)
    }

    fn config(&self, roles: &str) -> String {
        format!(
            "{}\n[api]\nsocket = \"{}\"\n{roles}\n",
            self.base,
            self.socket.display()
        )
    }

    fn wait(&self, done: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let begun = Instant::now();
        while !done(self)? {
            let late = begun.elapsed() > Duration::from_secs(20);
            ensure!(!late, "never happened:\n{}", self.site.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn get(&self, user: User, path: &str) -> Result<Reply> {
        user.get(&self.socket, path)
    }

    fn status(&self, user: User) -> Result<Value> {
        let reply = self.get(user, "/v1/status")?;
        ensure!(reply.status == 200, "{reply:?}");
        Ok(reply.body)
    }

    fn ask(&self, user: User, method: &str, path: &str, body: &Value) -> Result<Reply> {
        user.ask(&self.socket, method, path, body)
    }

    /// What the API has entered in the ledger.
    fn entries(&self) -> Result<Vec<(String, String)>> {
        let looks = ledger::looks(&self.ledger)?.into_iter();
        Ok(looks.map(|look| (look.who, look.what)).collect())
    }

    /// The daemon is the one that was started, it answers, and nothing in it has failed.
    fn is_well(&self, pid: Option<u32>) -> Result<()> {
        ensure!(self.site.daemon_pid() == pid);
        ensure!(self.site.report()?.daemon);
        self.status(ROOT)?;
        let log = self.site.log();
        ensure!(!log.contains("panicked"), "{log}");
        Ok(())
    }
}

/// Bob's port, as a hook has it.
fn bobs_port(more: &Value) -> Value {
    let mut port = json!({
        "name": "bob-hook", "tenant": "bob", "interface": "p-bob",
        "macs": [mac_text(mac(2))], "addresses": [ipv4(2), ipv6(2)],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        port[key] = value.clone();
    }
    port
}

/// A port on an interface that is not there.
fn waiting_port(number: usize) -> Value {
    json!({
        "name": format!("w{number}"), "tenant": "bob", "interface": format!("none{number}"),
        "macs": [format!("02:00:00:00:01:{number:02x}")], "addresses": [format!("10.78.0.{number}")],
    })
}

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
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let bob = inside(served.site.tenants[1].open()?, move || {
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
    stop.store(true, Relaxed);
    bob.join().map_err(|_| anyhow::anyhow!("bob panicked"))??;
    let elapsed = begun.elapsed();
    let (left, (from, _)) = settle(|| {
        let now = served.site.remote.counters(INSIDE)?;
        Ok((between(before, now), registers(&served.site, 1)?))
    })?;
    // What arrived at the remote end is what bob's port let through: not a packet came before it was counted.
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
                .filter_map(|record| record["seq"].as_str()?.parse().ok()),
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
        (post("{\"name\": 18446744073709551615}"), Some(400)),
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
    for (request, status) in &cases {
        let answer = raw(&served.socket, request.as_bytes());
        let found = answer
            .ok()
            .and_then(|bytes| reply(&bytes).ok())
            .map(|reply| reply.status);
        let shown: String = request.chars().take(200).collect();
        ensure!(found == *status, "{shown:?}: {found:?}, not {status:?}");
    }
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
