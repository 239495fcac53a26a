//! Evidence in the bill: what records, usage and explanations say of encryption is what the registers counted,
//! through a policy that comes in the middle of a window and a daemon that is killed.

use super::*;
use octroi::daemon::control::Request;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

/// By direction and class: packets and layer-2 bytes.
type Classes = BTreeMap<(String, String), [u64; 2]>;

/// Lines of JSON that octroi says of a ledger.
fn said(command: &str, ledger: &Path, tenant: &str, more: &[&str]) -> Result<Vec<Value>> {
    let out = Command::new(octroi())
        .args([command, "--ledger"])
        .arg(ledger)
        .args(["--tenant", tenant, "--format", "json"])
        .args(more)
        .output()?;
    ensure!(
        out.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let text = String::from_utf8(out.stdout)?;
    text.lines()
        .map(|line| serde_json::from_str(line).context("no JSON"))
        .collect()
}

fn number(value: &Value) -> Result<u64> {
    let digits = value.as_str().context("no digits")?;
    Ok(digits.parse()?)
}

fn add(classes: &mut Classes, direction: &Value, one: &Value) -> Result<()> {
    let word = |value: &Value| value.as_str().context("no word").map(str::to_owned);
    let sums = classes
        .entry((word(direction)?, word(&one["class"])?))
        .or_default();
    sums[0] += number(&one["packets"])?;
    sums[1] += number(&one["l2_bytes"])?;
    Ok(())
}

#[test]
fn records_usage_and_explanations_have_the_classes_that_the_registers_counted() -> Result<()> {
    let _alone = alone();
    if !can_run("encryption_records") || !openssl("encryption_records") {
        return Ok(());
    }
    let mut site = Site::new(&[tenant("a", true), tenant("b", true)])?;
    let ledger = site.directory().join("ledger.db");
    let meter = format!(
        "\n[meter]\nledger = \"{}\"\nwindow = \"1s\"\n",
        ledger.display()
    );
    let plain = site.config("") + &meter;
    site.write_config(&plain)?;
    site.start(octroi())?;
    let _tls = s_server(&site, 4433, &["-tls1_3"])?;
    let _clear = clear_server(&site.remote, 8080)?;

    // Before the rule: of this nobody says what it was.
    let answer = ask_in_clear(&site, 0, 8080, CANARY.as_bytes())?;
    ensure!(
        !answer.is_empty(),
        "clear text does not pass without a rule"
    );
    let config = plain.clone() + ENFORCE;
    site.write_config(&config)?;
    site.ask(&Request::Apply { config })?;
    let page = |site: &Site, index| -> Result<()> {
        let said = s_client(site, index, 4433, &["-tls1_3"])?;
        ensure!(said.contains(PAGE), "TLS does not pass:\n{said}");
        Ok(())
    };
    page(&site, 0)?;
    let answer = ask_in_clear(&site, 0, 8080, CANARY.as_bytes())?;
    ensure!(answer.is_empty(), "clear text passes under the rule");
    page(&site, 1)?;
    // Several windows, in one of which the daemon dies.
    site.kill()?;
    page(&site, 0)?;
    site.start(octroi())?;
    // Once more: flows of the window in which it died are nobody's.
    page(&site, 1)?;
    for _ in 0..3 {
        page(&site, 0)?;
        std::thread::sleep(Duration::from_millis(700));
    }
    // What is still on its way belongs to the windows, too.
    let (from, to) = support::settle(|| registers(&site, 0))?;
    let totals = from.total().l2_bytes + to.total().l2_bytes;
    let mut wanted = Classes::new();
    for (way, direction) in [("from", &from), ("to", &to)] {
        for (class, counts) in &direction.evidence {
            let key = (way.to_owned(), class.clone());
            wanted.insert(key, [counts.packets, counts.l2_bytes]);
        }
    }
    let begun = Instant::now();
    site.stop();
    ensure!(begun.elapsed() < Duration::from_secs(30), "it did not end");
    ensure!(
        wanted.keys().any(|(_, class)| class == "E3"),
        "nothing was E3: {wanted:?}"
    );

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let hour = |more: i64| -> Result<String> {
        let hours = i64::try_from(now.as_secs())? / 3_600 + more;
        Ok(jiff::Timestamp::from_second(hours * 3_600)?.to_string())
    };
    let period = [hour(-1)?, hour(2)?];
    let period = ["--from", period[0].as_str(), "--to", period[1].as_str()];

    let mut of_usage = Classes::new();
    for line in said("usage", &ledger, "1", &period)? {
        if line["what"] == "evidence" {
            add(&mut of_usage, &line["direction"], &line)?;
        }
    }
    ensure!(of_usage == wanted, "{of_usage:?}\n{wanted:?}");

    let (mut of_records, mut nobody, mut classified) = (Classes::new(), 0, 0);
    for line in said("explain", &ledger, "1", &period)? {
        match &line["evidence"] {
            Value::Array(classes) => {
                for one in classes {
                    add(&mut of_records, &line["direction"], one)?;
                    classified += number(&one["l2_bytes"])?;
                }
            }
            Value::String(word) if word == "NOT_CLASSIFIED" => nobody += 1,
            Value::Null => {}
            other => anyhow::bail!("evidence {other}"),
        }
    }
    ensure!(of_records == wanted, "{of_records:?}\n{wanted:?}");
    ensure!(
        nobody > 0,
        "all windows have evidence, also those before the rule"
    );
    ensure!(
        0 < classified && classified < totals,
        "{classified} of {totals} bytes are in a class, and the first of them were before the rule"
    );

    // The neighbour, about whom nobody asked.
    for line in said("explain", &ledger, "2", &period)? {
        let evidence = &line["evidence"];
        ensure!(
            evidence.is_null() || *evidence == "NOT_CLASSIFIED",
            "{line}"
        );
    }
    flows_say_it_too(&ledger)
}

/// A flow of TLS has its classes, and what its server chose; clear text has no E3, and who has no rule nothing.
fn flows_say_it_too(ledger: &Path) -> Result<()> {
    let rows = |tenant: &str| -> Result<Vec<Value>> {
        let rows = said("flows", ledger, tenant, &[])?;
        Ok(rows
            .into_iter()
            .filter(|row| row["protocol"] == 6)
            .collect())
    };
    let of_port = |rows: &[Value], port: u16| -> Vec<Value> {
        let rows = rows.iter().filter(|row| row["remote_port"] == port);
        rows.cloned().collect()
    };
    let has = |row: &Value, class: &str| {
        let classes = row["evidence"].as_str().unwrap_or_default();
        classes.split(' ').any(|word| word == class)
    };
    let ours = rows("1")?;
    let tls = of_port(&ours, 4433);
    ensure!(!tls.is_empty(), "no flow of TLS: {ours:?}");
    let checked = tls.iter().filter(|row| {
        has(row, "E3")
            && row["tls_version"] == "0x0304"
            && row["tls_suite"]
                .as_str()
                .is_some_and(|suite| suite.starts_with("0x13"))
    });
    let checked = checked.count();
    ensure!(
        checked >= 3,
        "{checked} rows of TLS have E3, version and suite: {tls:?}"
    );
    let clear = of_port(&ours, 8080);
    let e3 = clear
        .iter()
        .filter(|row| has(row, "E3") || row["tls_version"] != "");
    ensure!(e3.count() == 0, "clear text is E3: {clear:?}");
    let theirs = rows("2")?;
    ensure!(!theirs.is_empty(), "no flow of the neighbour");
    let theirs: Vec<Value> = theirs
        .into_iter()
        .filter(|row| row["evidence"] != "")
        .collect();
    ensure!(
        theirs.is_empty(),
        "who has no rule has evidence: {theirs:?}"
    );
    println!("CASES: flows of TLS with evidence, version and suite: {checked}");
    Ok(())
}
