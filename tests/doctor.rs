//! `octroi doctor`: one object for machines, an exit status that means something, and no panic for
//! want of rights.

mod support;

use anyhow::{Context as _, Result, ensure};
use octroi::lab::Namespace;
use serde_json::Value;
use std::process::{Command, Output};
use support::{alone, can_run, octroi};

fn object(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout).context("no JSON")
}

/// The object has its fields, and its verdict is the exit status.
fn whole(output: &Output) -> Result<Value> {
    let report = object(output)?;
    let ok = report["ok"].as_bool().context("no ok")?;
    ensure!(output.status.code() == Some(i32::from(!ok)));
    ensure!(
        report["kernel"]
            .as_str()
            .is_some_and(|kernel| !kernel.is_empty())
    );
    for check in report["checks"].as_array().context("no checks")? {
        for field in ["name", "found", "cost", "do"] {
            ensure!(check[field].is_string(), "{check}");
        }
        let said = ["cost", "do"].map(|field| check[field] != "");
        let fine = check["ok"].as_bool().context("no ok")?;
        ensure!(
            said == [!fine; 2],
            "a cost where all is well, or none where not: {check}"
        );
    }
    ensure!(report["bypass"].is_array());
    Ok(report)
}

#[test]
fn root_learns_that_the_gate_can_run_here() -> Result<()> {
    if !can_run("root_learns_that_the_gate_can_run_here") {
        return Ok(());
    }
    let report = whole(&Command::new(octroi()).args(["doctor", "--json"]).output()?)?;
    ensure!(report["ok"] == true, "{report:#}");
    Ok(())
}

#[test]
fn without_rights_it_says_what_is_missing() -> Result<()> {
    if !can_run("without_rights_it_says_what_is_missing") {
        return Ok(());
    }
    // The binary may lie where nobody else may read.
    let copy = std::env::temp_dir().join(format!("octroi-doctor-{}", std::process::id()));
    std::fs::copy(octroi(), &copy)?;
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["doctor", "--json"])
        .output();
    std::fs::remove_file(&copy)?;
    let output = output.context("setpriv")?;
    let report = whole(&output)?;
    ensure!(report["ok"] == false);
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        said.contains("capabilities") && !said.contains("panicked"),
        "{said}"
    );
    Ok(())
}

#[test]
fn ways_past_the_gate_are_named() -> Result<()> {
    if !can_run("ways_past_the_gate_are_named") {
        return Ok(());
    }
    let _alone = alone();
    let (host, other) = (Namespace::new("host")?, Namespace::new("other")?);
    host.command("ip link add v0 type veth peer name v1")?;
    let macvlan = host.command("ip link add mv0 link v0 type macvlan").is_ok();
    let tap = other.command("ip tuntap add tap0 mode tap").is_ok();
    let output = host
        .prepare(octroi())?
        .args(["doctor", "--json"])
        .output()?;
    let bypass = whole(&output)?["bypass"].to_string();
    ensure!(!macvlan || bypass.contains("macvlan"), "{bypass}");
    ensure!(
        !tap || bypass.contains("another network namespace with tap0"),
        "{bypass}"
    );
    Ok(())
}
