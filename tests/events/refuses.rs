//! The fake's meters themselves: each of their refusals.

use crate::fake::{
    Service,
    meters::{self, Meter},
};
use anyhow::{Context as _, Result, ensure};
use metering::sink::cloudevents::Measure;
use serde_json::Value;
use std::net::TcpListener;

#[test]
fn the_fakes_meters_refuse_what_the_real_ones_refuse() -> Result<()> {
    let service = Service::new(TcpListener::bind("127.0.0.1:0")?, Some("t"))?;
    service.state().meters = vec![Meter::of(&Measure::L2Bytes.definition())?];
    let ask = |line: &str, head: &[&str], body: &str| {
        let mut lines = vec![format!("{line} HTTP/1.1")];
        lines.extend(head.iter().map(|line| (*line).to_owned()));
        meters::answer(&lines, body.as_bytes(), &mut service.state())
    };
    const AUTH: &str = "authorization: Bearer t";
    const JSON: &str = "content-type: application/json";
    const V1: &str = "GET /api/v1/meters/octroi_l2_bytes/query";
    let answer = ask("GET /api/v1/meters/octroi_l2_bytes", &[AUTH], "").context("a meter")?;
    let meter: Value =
        serde_json::from_str(&answer.map_err(|refused| anyhow::anyhow!(refused.1))?)?;
    let v3 = format!(
        "POST /api/v3/openmeter/meters/{}/query",
        meter["id"].as_str().context("an id")?
    );
    let mut cases = 0;
    let mut refused = |line: &str, head: &[&str], body: &str, status: &str| -> Result<()> {
        let answer = ask(line, head, body).context("nobody answers")?;
        let why = answer
            .err()
            .with_context(|| format!("{line} {body} was taken"))?;
        ensure!(why.0.starts_with(status), "{line} {body}: {why:?}");
        cases += 1;
        Ok(())
    };
    let times = "from=2026-03-01T00:00:00Z&to=2026-03-02T00:00:00Z";
    let asked = |more: &str| format!("{V1}?{times}&{more}");
    refused(&asked(""), &[], "", "401")?;
    refused(&asked(""), &["authorization: Bearer s"], "", "401")?;
    refused("GET /api/v1/meters/octroi_bytes", &[AUTH], "", "404")?;
    refused("GET /api/v1/meters/octroi_bytes/query", &[AUTH], "", "404")?;
    refused(
        "DELETE /api/v1/meters/octroi_l2_bytes/query",
        &[AUTH],
        "",
        "405",
    )?;
    for more in [
        "windowSize=SECOND",
        "windowSize=hour",
        "windowSize=PT1H",
        "windowTimeZone=Mars",
        "groupBy=ledger",
        "groupBy=customer_id",
        "groupBy=subject,direction",
        "filterGroupBy[zone]=1",
        "filterGroupBy%5Bsubject%5D=1",
        "granularity=PT1H",
        "from=yesterday",
        "from=2026-03-01",
        "to=1772323200",
        "to=2026-03-01T00:00:00Z",
        "to=2026-02-01T00:00:00Z",
    ] {
        refused(&asked(more), &[AUTH], "", "400")?;
    }
    refused(
        "POST /api/v3/openmeter/meters/octroi_l2_bytes/query",
        &[AUTH, JSON],
        "{}",
        "400",
    )?;
    refused(&v3.replace("01G65", "01G66"), &[AUTH, JSON], "{}", "404")?;
    refused(&v3.replace("POST", "GET"), &[AUTH, JSON], "{}", "405")?;
    refused(&v3, &[AUTH], "{}", "400")?;
    for body in [
        "",
        "[]",
        "{\"windowSize\": \"HOUR\"}",
        "{\"granularity\": \"HOUR\"}",
        "{\"granularity\": \"PT5M\"}",
        "{\"time_zone\": \"Mars\"}",
        "{\"from\": 1}",
        "{\"from\": \"2026-03-01T00:00:00Z\", \"to\": \"2026-03-01T00:00:00Z\"}",
        "{\"group_by_dimensions\": [\"zone\"]}",
        "{\"group_by_dimensions\": \"subject\"}",
        "{\"filters\": {\"host\": \"par1\"}}",
        "{\"filters\": {\"dimensions\": {\"host\": \"par1\"}}}",
        "{\"filters\": {\"dimensions\": {\"zone\": {\"eq\": \"1\"}}}}",
        "{\"filters\": {\"dimensions\": {\"host\": {\"like\": \"1\"}}}}",
    ] {
        refused(&v3, &[AUTH, JSON], body, "400")?;
    }
    // What is right is taken, and ends that are no windows' ends are counted.
    let right = "windowSize=HOUR&windowTimeZone=UTC&groupBy=subject&groupBy=direction&filterGroupBy%5Bhost%5D=par%201";
    ensure!(ask(&asked(right), &[AUTH], "").is_some_and(|it| it.is_ok()));
    ensure!(service.state().unaligned == 0);
    let crooked = asked(right).replace("T00:00:00Z&to", "T00:00:01Z&to");
    ensure!(ask(&crooked, &[AUTH], "").is_some_and(|it| it.is_ok()));
    ensure!(service.state().unaligned == 1);
    println!("CASES: questions that the fake's meters refuse: {cases}");
    Ok(())
}
