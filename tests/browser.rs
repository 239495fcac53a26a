//! A statement in a real browser: nothing leaves the page, its charts add up to what `octroi usage` says, it fits a
//! screen in both colour schemes, and prints.
//!
//! `OCTROI_REGENERATE=1` writes the pictures of `docs/images/` anew.

#[path = "browser/chromium.rs"]
mod chromium;
#[path = "../metering/tests/month/site.rs"]
#[allow(dead_code, reason = "written for metering/tests/month.rs")]
mod site;

use anyhow::{Context as _, Result, bail, ensure};
use chromium::{bright, chromium};
use serde_json::{Value, json};
use site::{CORRECTED, File, month};
use std::{
    collections::BTreeMap,
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("octroi-browser-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn octroi(arguments: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_octroi"))
        .args(arguments)
        .output()?;
    ensure!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// What every command is asked about.
const MONTH: [&str; 6] = [
    "--tenant",
    "17",
    "--month",
    "2026-03",
    "--timezone",
    "Europe/Paris",
];

/// Bytes by direction and zone, as `octroi usage` has them.
fn usage(ledger: &str) -> Result<BTreeMap<String, i128>> {
    let ask = [
        &["usage", "--ledger", ledger][..],
        &MONTH,
        &["--by", "direction,zone", "--format", "json"],
    ];
    let mut sums = BTreeMap::new();
    for line in octroi(&ask.concat())?.lines() {
        let row: Value = serde_json::from_str(line)?;
        if row["what"] == "usage" {
            let text = |name: &str| {
                row[name]
                    .as_str()
                    .map(str::to_owned)
                    .context(line.to_owned())
            };
            let key = format!("{} {}", text("direction")?, text("zone")?);
            sums.insert(key, text("l2_bytes")?.parse()?);
        }
    }
    Ok(sums)
}

/// Opens pages, and returns what they did by name.
fn look(chromium: &Path, wanted: &Value) -> Result<BTreeMap<String, Value>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/page.py");
    let mut child = Command::new("python3")
        .arg(script)
        .arg(chromium)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    input.write_all(wanted.to_string().as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "the script failed: {text}");
    let found = text.lines().map(|line| {
        let found: Value = serde_json::from_str(line)?;
        Ok((found["page"].as_str().unwrap_or_default().to_owned(), found))
    });
    found.collect()
}

fn holds(found: &Value, sums: &BTreeMap<String, i128>) -> Result<()> {
    ensure!(
        found["asked"] == 1 && found["requests"] == json!([]),
        "it asks for something: {found}"
    );
    ensure!(found["console"] == json!([]), "{found}");
    ensure!(
        found["fits"] == true,
        "it is wider than its window: {found}"
    );
    ensure!(
        found["pdf_pages"].as_u64() >= Some(2),
        "{}",
        found["pdf_pages"]
    );
    ensure!(
        found["bars"][0].as_u64() > Some(200) && found["bars"][1] == 0,
        "{}",
        found["bars"]
    );
    // What a correction took away and nothing was left to take from is in the tables alone.
    let positive = sums.iter().filter(|(_, sum)| **sum > 0);
    let mut shown: BTreeMap<&str, i128> = BTreeMap::new();
    for (key, sum) in found["sums"].as_object().context("no sums")? {
        shown.insert(key, sum.as_str().unwrap_or_default().parse()?);
    }
    let expected: BTreeMap<&str, i128> = positive.map(|(key, sum)| (key.as_str(), *sum)).collect();
    ensure!(
        shown == expected,
        "the charts say {shown:?}, and usage {expected:?}"
    );
    for (scheme, dark) in [("light", false), ("dark", true), ("print", false)] {
        let [page, ink] = [
            bright(&found[scheme][0])? / 3,
            bright(&found[scheme][1])? / 3,
        ];
        ensure!(
            (page < ink) == dark && page.abs_diff(ink) > 150,
            "{scheme}: {}",
            found[scheme]
        );
    }
    Ok(())
}

#[test]
fn a_statement_asks_nothing_adds_up_and_prints() -> Result<()> {
    const TEST: &str = "a_statement_asks_nothing_adds_up_and_prints";
    let Some(chromium) = chromium() else {
        println!(
            "SKIPPED: {TEST}: there is no Chromium; install it, or name it in OCTROI_CHROMIUM"
        );
        return Ok(());
    };
    if Command::new("python3").arg("--version").output().is_err() {
        println!("SKIPPED: {TEST}: there is no python3");
        return Ok(());
    }
    let dir = Dir::new()?;
    let file = File::new();
    month(&file.0, 2);
    let ledger = file.0.to_str().context("a name")?;
    let sums = usage(ledger)?;
    ensure!(sums.values().any(|sum| *sum > 1 << 40), "{sums:?}");
    // The total's correction is of no zone, and takes away more than there is of that.
    ensure!(
        sums.values().any(|sum| *sum < 0) && CORRECTED < 0,
        "{sums:?}"
    );
    let page = |name: &str, lang: &str, more: &[&str]| -> Result<Value> {
        let path = dir.0.join(format!("{name}.html"));
        let ask = [
            &["statement", "--ledger", ledger][..],
            &MONTH,
            &["--lang", lang],
            more,
        ];
        fs::write(&path, octroi(&ask.concat())?)?;
        Ok(json!({ "name": name, "file": path }))
    };
    let run_dir = dir.0.to_str().context("a name")?;
    let pages = vec![
        page("provisional", "en", &[])?,
        page(
            "en",
            "en",
            &["--issue", "--incomplete", "--run-dir", run_dir],
        )?,
        page("fr", "fr", &[])?,
    ];
    // One that would ask for something, to show that it would be seen.
    let asks = dir.0.join("asks.html");
    let html = fs::read_to_string(dir.0.join("en.html"))?;
    let (head, rest) = html.split_once("<meta http-equiv").context("no policy")?;
    let (_, rest) = rest.split_once('>').context("no policy")?;
    fs::write(
        &asks,
        format!("{head}{rest}<img src=\"http://localhost:9/x.png\">"),
    )?;
    let pages = [pages, vec![json!({ "name": "asks", "file": asks })]].concat();
    let found = look(&chromium, &json!({ "pages": pages, "out": dir.0 }))?;
    for (name, lang) in [("provisional", "en"), ("en", "en"), ("fr", "fr")] {
        let found = found.get(name).context(name)?;
        holds(found, &sums).with_context(|| name.to_owned())?;
        ensure!(found["lang"] == lang, "{found}");
    }
    let control = &found["asks"];
    ensure!(
        control["requests"] == json!(["http://localhost:9/x.png"]),
        "{control}"
    );
    pictures(&dir.0)?;
    println!("CASES: statements opened in Chromium: {}", found.len() - 1);
    println!(
        "CASES: sums of a chart compared with octroi usage: {}",
        3 * sums.len()
    );
    Ok(())
}

/// Writes the documentation's pictures where that is asked for.
fn pictures(from: &Path) -> Result<()> {
    if env::var_os("OCTROI_REGENERATE").is_none() {
        return Ok(());
    }
    let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    fs::create_dir_all(&to)?;
    for name in ["en-light", "en-dark", "en-print", "fr-light"] {
        let picture = from.join(format!("{name}.png"));
        if !picture.is_file() {
            bail!("there is no picture {name}");
        }
        fs::copy(picture, to.join(format!("statement-{name}.png")))?;
    }
    Ok(())
}
