//! Flow detail and corrections by the API, and who looked at whom.

use super::{
    client::{ROOT, Reply, User},
    site::{NAMED, POLICY, READER, Served},
};
use crate::support::{alone, can_run};
use anyhow::{Context as _, Result, ensure};
use metering::ledger::{self, FlowFilter, Network};
use octroi::lab::{
    site::{REMOTE, ipv4},
    traffic,
};
use serde_json::{Value, json};
use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    ops::ControlFlow,
};

/// Entries of those who looked, and of what.
fn entries(served: &Served, kind: &str) -> Result<Vec<(String, String)>> {
    let looks = ledger::looks(&served.ledger)?.into_iter();
    let of_kind = looks.filter(|look| look.what.split(' ').next() == Some(kind));
    Ok(of_kind.map(|look| (look.who, look.what)).collect())
}

/// Rows of alice's flow detail with the remote end, as the ledger has them.
fn rows(served: &Served) -> Result<usize> {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&ipv4(REMOTE).parse::<Ipv4Addr>()?.octets());
    let filter = FlowFilter {
        tenant: Some(1),
        remote: Some(Network {
            ethertype: 0x0800,
            address,
            bits: 32,
        }),
        ..FlowFilter::default()
    };
    let mut rows = 0;
    let faults = ledger::flows(&served.ledger, &filter, &mut |_| {
        rows += 1;
        ControlFlow::Continue(())
    })?;
    ensure!(faults.is_empty(), "{faults:?}");
    Ok(rows)
}

fn with_flows() -> Result<Served> {
    let served = Served::new(true)?;
    // Else the other end says that nobody is there, and that is a flow of its own.
    let open = |port| traffic::udp_sink(&served.site.remote, port);
    let _sinks = (4000..4005).map(open).collect::<Result<Vec<_>>>()?;
    served.site.tenants[0].run(|| -> Result<()> {
        let socket = UdpSocket::bind((ipv4(1), 0))?;
        for port in 4000..4005 {
            socket.send_to(&[7; 300], (ipv4(REMOTE), port))?;
        }
        Ok(())
    })??;
    // A day's file that is just being made cannot be read.
    served.wait(|served| Ok(rows(served).is_ok_and(|rows| rows >= 5)))?;
    Ok(served)
}

#[test]
fn whoever_looks_at_flow_detail_or_a_tenants_records_is_in_the_ledger() -> Result<()> {
    if !can_run("whoever_looks_at_flow_detail_or_a_tenants_records_is_in_the_ledger") {
        return Ok(());
    }
    let _alone = alone();
    let served = with_flows()?;
    let pid = served.site.daemon_pid();
    for user in [READER, NAMED, POLICY] {
        let refused = served.get(user, "/v1/flows?tenant=alice")?;
        ensure!(refused.status == 403, "{refused:?}");
    }
    for wrong in [
        "remote=nowhere",
        "remote=10.0.0.0/33",
        "after=7",
        "limit=0",
        "port=%0a",
        "tenant=nobody",
    ] {
        let refused = served.get(ROOT, &format!("/v1/flows?{wrong}"))?;
        ensure!(refused.status == 400, "{wrong}: {refused:?}");
    }
    ensure!(
        entries(&served, "flows")?.is_empty(),
        "nobody has seen anything"
    );

    let (mut seen, mut asked, mut after) = (Vec::new(), 0, String::new());
    loop {
        let page = served.get(
            ROOT,
            &format!(
                "/v1/flows?tenant=alice&remote={}&limit=2{after}",
                ipv4(REMOTE)
            ),
        )?;
        ensure!(
            page.status == 200 && page.body["faults"] == json!([]),
            "{page:?}"
        );
        asked += 1;
        seen.extend(page.body["flows"].as_array().context("rows")?.clone());
        let Some(next) = page.body["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    ensure!(seen.len() == rows(&served)?, "{seen:?}");
    let mut ports: Vec<u64> = seen
        .iter()
        .filter_map(|row| row["remote_port"].as_u64())
        .collect();
    ports.sort_unstable();
    ensure!(ports == [4000, 4001, 4002, 4003, 4004], "{ports:?}");
    ensure!(
        seen.iter()
            .all(|row| row["l2_bytes"] == "342" && row["tenant"] == 1),
        "{seen:?}"
    );
    let entered = entries(&served, "flows")?;
    ensure!(entered.len() == asked && asked >= 3, "{asked}: {entered:?}");
    let first = format!("flows --tenant 1 --remote {}", ipv4(REMOTE));
    ensure!(
        entered[0] == ("uid 0, admin, by the API".into(), first),
        "{entered:?}"
    );
    ensure!(entered[1].1.contains(" --after "), "{entered:?}");

    // Sums are entered once an hour for each user and tenant.
    let usage = "/v1/usage?from=2020-01-01&to=2020-01-02&tenant=";
    for _ in 0..3 {
        for (user, tenant) in [(READER, "alice"), (READER, "2"), (POLICY, "1")] {
            ensure!(served.get(user, &format!("{usage}{tenant}"))?.status == 200);
            ensure!(
                served
                    .get(user, &format!("/v1/records?limit=1&tenant={tenant}"))?
                    .status
                    == 200
            );
        }
        ensure!(served.get(READER, "/v1/records?limit=1")?.status == 200);
    }
    let who = |user: User, role: &str| format!("uid {}, {role}, by the API", user.uid);
    let of = |kind: &str| {
        vec![
            (who(READER, "read"), format!("{kind} --tenant 1")),
            (who(READER, "read"), format!("{kind} --tenant 2")),
            (who(POLICY, "policy"), format!("{kind} --tenant 1")),
        ]
    };
    ensure!(entries(&served, "usage")? == of("usage"));
    let mut records = of("records");
    records.push((who(READER, "read"), "records".into()));
    ensure!(entries(&served, "records")? == records);

    // What cannot be entered is not shown.
    let key = fs::read_dir(served.site.directory())?
        .flatten()
        .map(|entry| entry.path());
    let key = key
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with(".key"));
    let key = key.context("the ledger's key")?;
    let aside = key.with_extension("aside");
    fs::rename(&key, &aside)?;
    for path in ["/v1/flows?tenant=alice", &format!("{usage}7")] {
        let refused = served.get(ROOT, path)?;
        ensure!(
            refused.status == 503 && refused.body["flows"].is_null(),
            "{refused:?}"
        );
    }
    fs::rename(&aside, &key)?;
    ensure!(
        served.get(ROOT, &format!("{usage}7"))?.status == 200,
        "and then it is"
    );
    served.is_well(pid)?;
    println!(
        "CASES: looks by the API that are in the ledger: {}",
        asked + 7
    );
    Ok(())
}

#[test]
fn a_correction_by_the_api_is_a_record_with_its_reason_and_who_asked() -> Result<()> {
    if !can_run("a_correction_by_the_api_is_a_record_with_its_reason_and_who_asked") {
        return Ok(());
    }
    let _alone = alone();
    let served = with_flows()?;
    let pid = served.site.daemon_pid();
    let records = |more: &str| -> Result<Vec<Value>> {
        let page = served.get(ROOT, &format!("/v1/records?tenant=alice&limit=1000{more}"))?;
        Ok(page.body["records"].as_array().context("records")?.clone())
    };
    let billed = records("&direction=from")?;
    let billed = billed
        .iter()
        .find(|record| record["l2_bytes"] != "0" && record["zone"] != "*");
    let seq: u64 = billed.context("a record")?["seq"]
        .as_str()
        .context("a seq")?
        .parse()?;
    let correct = |seq: u64, l2_bytes: i64, increase: bool| json!({ "seq": seq, "packets": 0, "l2_bytes": l2_bytes, "l3_bytes": 0, "reason": "a test of ours", "increase": increase });
    let post = |user: User, body: &Value| -> Result<Reply> {
        served.ask(user, "POST", "/v1/corrections", body)
    };
    for user in [READER, POLICY] {
        ensure!(post(user, &correct(seq, -42, false))?.status == 403);
    }
    for (body, status) in [
        (correct(u64::MAX, -42, false), 409),
        (correct(seq, 42, false), 409),
        (correct(seq, 0, false), 409),
        (correct(seq, -1_000_000_000, false), 409),
        (json!({ "seq": seq }), 400),
        (json!([seq]), 400),
    ] {
        let refused = post(ROOT, &body)?;
        ensure!(refused.status == status, "{body}: {refused:?}");
    }
    let before = records("")?.len();
    let done = post(ROOT, &correct(seq, -42, false))?;
    ensure!(
        done.status == 201 && done.body["corrects"].as_str() == Some(&*seq.to_string()),
        "{done:?}"
    );
    let all = records("")?;
    let made = all.iter().find(|record| record["seq"] == done.body["seq"]);
    ensure!(
        made.is_some_and(|made| made["kind"] == "CORRECTION"),
        "{made:?}"
    );
    ensure!(
        all.iter()
            .filter(|record| record["kind"] == "CORRECTION")
            .count()
            == 1
            && all.len() > before
    );
    let entered = entries(&served, "correct")?;
    let last = entered.last().context("an entry")?;
    ensure!(
        last.0 == "uid 0, admin, by the API" && last.1.contains("a test of ours"),
        "{entered:?}"
    );
    served.is_well(pid)?;
    println!("CASES: corrections by the API: 1");
    Ok(())
}
