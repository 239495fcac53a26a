//! The page in Chromium: what it does, and what can be done with it.

use super::{
    compare::{same_numbers, statements},
    site::{PAGE, Served},
};
use crate::{
    chromium::{bright, chromium},
    support::{alone, can_run},
};
use anyhow::{Context as _, Result, bail, ensure};
use octroi::lab::{
    ends,
    site::{REMOTE, ipv4},
    traffic::{self, Datagrams},
};
use serde_json::{Value, json};
use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

const NAME: &str = "what_is_seen_in_chromium_is_what_octroi_says";
/// A picture of the documentation is not larger, bytes.
const PICTURE_MAX: u64 = 150_000;
const RULE: &str =
    "\n[[encryption]]\ntenant = \"alice\"\nmode = \"observe\"\nprofile = \"anssi-2026\"\n";

/// axe-core: `OCTROI_AXE`, or where `cargo xtask setup` puts it in the build's directory.
fn axe() -> Option<PathBuf> {
    let named = env::var_os("OCTROI_AXE").map(PathBuf::from);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    let installed = target.join("tools/axe/axe_playwright_python/axe.min.js");
    named
        .into_iter()
        .chain([installed])
        .find(|path| path.is_file())
}

pub fn what_is_seen_is_what_octroi_says() -> Result<()> {
    if !can_run(NAME) {
        return Ok(());
    }
    let Some(chromium) = chromium() else {
        println!(
            "SKIPPED: {NAME}: there is no Chromium; install it, or name it in OCTROI_CHROMIUM"
        );
        return Ok(());
    };
    let axe = axe();
    if axe.is_none() {
        println!(
            "SKIPPED: {NAME}: axe: there is no axe-core; run `cargo xtask setup`, or name axe.min.js in OCTROI_AXE"
        );
    }
    let _alone = alone();
    let files = env::temp_dir().join(format!("octroi-page-{}", std::process::id()));
    fs::create_dir_all(files.join("sink"))?;
    let done = look(&chromium, axe.as_deref(), &files);
    let _ = fs::remove_dir_all(&files);
    done
}

fn look(chromium: &Path, axe: Option<&Path>, files: &Path) -> Result<()> {
    let sink = files.join("sink");
    let more = format!(
        "\n[[sink]]\nname = \"export\"\nkind = \"files\"\ndirectory = \"{}\"\n{RULE}",
        sink.display()
    );
    let served = Served::new(&more)?;
    encrypted(&served)?;
    let wanted = json!({
        "url": format!("http://{PAGE}/"), "out": files, "axe": axe, "rebind": "rebound.example", "foreign": 9_999,
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/look.py");
    let mut child = served
        .site
        .host
        .prepare("python3".as_ref())?
        .arg(script)
        .arg(chromium)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("stdin")?;
    input.write_all(wanted.to_string().as_bytes())?;
    drop(input);
    let mut said = BufReader::new(child.stderr.take().context("stderr")?);
    let mut results = child.stdout.take().context("stdout")?;
    // They send until the browser has seen it.
    let (mut first, mut errors, mut found) = (String::new(), String::new(), Vec::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let sent = scope.spawn(|| send(&served, &stop));
        // Both at once: what axe finds may be more than a pipe holds, and who writes it would wait for ever.
        let results = scope.spawn(|| results.read_to_end(&mut found));
        said.read_line(&mut first)?;
        stop.store(true, Relaxed);
        said.read_to_string(&mut errors)?;
        let joined = |_| anyhow::anyhow!("a thread panicked");
        results.join().map_err(joined)??;
        sent.join().map_err(joined)?
    })?;
    let status = child.wait()?;
    ensure!(
        status.success(),
        "{status}: {first}{errors}\n{}",
        served.site.log()
    );
    let found: Value = serde_json::from_slice(&found)?;
    let compared = same_numbers(&served, &found)?;
    println!("CASES: numbers of the page that are what octroi says: {compared}");
    statements(&served, &found)?;
    used(&found)?;
    alone_and_closed(&found)?;
    accessible(&found, axe.is_some())?;
    pictures(files)
}

/// Bytes of alice in TLS, where there is an OpenSSL, and in clear.
fn encrypted(served: &Served) -> Result<()> {
    if !ends::openssl() {
        println!("SKIPPED: {NAME}: evidence: there is no openssl");
        return Ok(());
    }
    let _server = ends::s_server(&served.site, 4_433, &["-tls1_3"])?;
    let answer = ends::s_client(&served.site, 0, 4_433, &["-tls1_3"])?;
    ensure!(answer.contains(ends::PAGE), "{answer}");
    Ok(())
}

/// Both send, and alice also from an address that is not hers, until they are told to stop.
fn send(served: &Served, stop: &AtomicBool) -> Result<()> {
    let site = &served.site;
    site.tenants[0].command("ip addr add 10.77.0.99/24 dev eth0")?;
    let remote: IpAddr = ipv4(REMOTE).parse()?;
    let begun = Instant::now();
    while !stop.load(Relaxed) {
        ensure!(begun.elapsed() < Duration::from_secs(90), "nobody looked");
        for (index, size) in [(0, 1_200), (1, 300)] {
            site.tenants[index].run(|| -> Result<()> {
                if index == 0 {
                    let lie = UdpSocket::bind("10.77.0.99:0")?;
                    for _ in 0..20 {
                        let _ = lie.send_to(&[0; 100], (remote, 7));
                    }
                }
                let gap = Duration::from_micros(300);
                let how = Datagrams {
                    size,
                    segment: None,
                    gap,
                };
                traffic::udp_send(
                    (remote, 7),
                    how,
                    Instant::now() + Duration::from_millis(250),
                )?;
                Ok(())
            })??;
        }
    }
    Ok(())
}

/// The keyboard reaches everything, in its order; pause and filter do what they say.
fn used(found: &Value) -> Result<()> {
    ensure!(
        found["usable"]
            .as_array()
            .is_some_and(|all| all.len() >= 25),
        "{}",
        found["usable"]
    );
    ensure!(
        found["reached"] == found["usable"],
        "{} {}",
        found["reached"],
        found["usable"]
    );
    ensure!(found["paused"][0] == "true", "{}", found["paused"]);
    ensure!(
        found["paused"][1]
            .as_str()
            .is_some_and(|text| text.contains("Paused"))
    );
    ensure!(found["filtered"] == json!([1, 1]), "{}", found["filtered"]);
    ensure!(found["fits"] == json!([true, true]), "{}", found["fits"]);
    for (scheme, dark) in [("light", false), ("dark", true)] {
        let [paper, ink] = [0, 1].map(|at| bright(&found[scheme][at]));
        ensure!((paper? < ink?) == dark, "{scheme}: {}", found[scheme]);
    }
    println!(
        "CASES: elements that the keyboard reaches: {}",
        found["usable"].as_array().map_or(0, Vec::len)
    );
    Ok(())
}

/// It asks nobody but its daemon, breaks none of its own rules, and no other site gets anything of it.
fn alone_and_closed(found: &Value) -> Result<()> {
    let own = format!("http://{PAGE}/");
    let requests = found["requests"].as_array().context("requests")?;
    ensure!(requests.len() > 10, "{requests:?}");
    for request in requests {
        let url = request.as_str().unwrap_or_default();
        let of_itself = url.starts_with(&own) || url.starts_with(&format!("blob:{own}"));
        ensure!(of_itself, "it asks for {url}");
    }
    ensure!(found["console"] == json!([]), "{}", found["console"]);
    ensure!(found["broken"] == json!([]), "{}", found["broken"]);
    // The control: one that is not its own is stopped, and seen.
    let control = found["control"].to_string();
    ensure!(control.contains("localhost:9"), "{control}");
    let foreign = found["foreign"].as_object().context("foreign")?;
    ensure!(foreign.len() == 7, "{foreign:?}");
    for (attempt, outcome) in foreign {
        ensure!(outcome == "refused", "another site: {attempt}: {outcome}");
    }
    ensure!(found["rebound"] == json!([421]), "{}", found["rebound"]);
    println!(
        "CASES: ways of another site that lead nowhere: {}",
        foreign.len() + 1
    );
    Ok(())
}

fn accessible(found: &Value, tried: bool) -> Result<()> {
    if !tried {
        return Ok(());
    }
    for scheme in ["light", "dark"] {
        let axe = &found["axe"][scheme];
        ensure!(axe["passes"].as_u64() > Some(20), "{axe}");
        let all = axe["violations"].as_array().context("violations")?;
        let grave = all
            .iter()
            .filter(|one| one[1] == "serious" || one[1] == "critical");
        let grave: Vec<_> = grave.collect();
        ensure!(grave.is_empty(), "{scheme}: {grave:#?}");
        for one in all {
            println!("axe, {scheme}: {one}");
        }
    }
    println!("CASES: colour schemes without a serious finding of axe: 2");
    Ok(())
}

/// Writes the documentation's pictures where that is asked for.
fn pictures(from: &Path) -> Result<()> {
    for scheme in ["light", "dark"] {
        let name = format!("page-{scheme}.png");
        let size = fs::metadata(from.join(&name))?.len();
        if size > PICTURE_MAX {
            bail!("{name} has {size} bytes, and {PICTURE_MAX} are right");
        }
        if env::var_os("OCTROI_REGENERATE").is_some() {
            let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
            fs::copy(from.join(&name), to.join(&name))?;
        }
    }
    Ok(())
}
