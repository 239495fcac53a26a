//! Ports that others bring: the examples of a CNI plug-in and of a libvirt hook in real namespaces, and what the
//! ledger says of every change that is made by the control socket or SIGHUP.

#[path = "support/load.rs"]
mod load;
#[path = "hooks/site.rs"]
mod site;
mod support;

use anyhow::{Context as _, Result, ensure};
use octroi::daemon::control::Request;
use serde_json::{Value, json};
use site::{CONTAINER, Hooked};
use std::{fs, process::Command};
use support::{alone, can_run, octroi};

/// What bob's port is called after his container.
fn port() -> String {
    format!("{CONTAINER}-eth0")
}

fn can_hook(test: &str) -> bool {
    if !can_run(test) {
        return false;
    }
    let found = Command::new("python3").arg("--version").output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIPPED: {test}: there is no python3");
    }
    found
}

#[test]
fn a_cni_plug_in_adds_checks_and_deletes_as_the_specification_says() -> Result<()> {
    if !can_hook("a_cni_plug_in_adds_checks_and_deletes_as_the_specification_says") {
        return Ok(());
    }
    let _alone = alone();
    let hooked = Hooked::new()?;
    let config = hooked.cni_config();
    let text = config.to_string();
    assert_eq!(hooked.arrivals()?, 0, "no port, no way");

    let (done, said) = hooked.cni("VERSION", "{\"cniVersion\": \"1.0.0\"}", &[])?;
    ensure!(
        done && said["supportedVersions"]
            .as_array()
            .is_some_and(|all| all.len() == 3)
    );
    refusals(&hooked, &config)?;
    assert_eq!(hooked.arrivals()?, 0, "refused: closed");
    // A DEL of what never was is done.
    assert_eq!(hooked.cni("DEL", &text, &[])?, (true, Value::Null));

    let (done, said) = hooked.cni("ADD", &text, &[])?;
    ensure!(done, "{said}");
    assert_eq!(said, config["prevResult"], "the result is handed on");
    ensure!(hooked.arrivals()? > 40, "added: the port is open");
    let status = hooked.octroi(&["status", "--json"])?;
    let status: Value = serde_json::from_slice(&status.stdout)?;
    let ports = status["ports"].as_array().context("ports")?;
    let bobs = ports.iter().find(|one| one["name"] == port().as_str());
    ensure!(bobs.context("bob's port")?["interface"] == "p-bob");
    assert_eq!(hooked.cni("CHECK", &text, &[])?, (true, Value::Null));

    // Without what it said at ADD, as the specification allows.
    let mut bare = config.clone();
    bare.as_object_mut()
        .context("an object")?
        .remove("prevResult");
    for _ in 0..2 {
        assert_eq!(
            hooked.cni("DEL", &bare.to_string(), &[("CNI_NETNS", "")])?,
            (true, Value::Null)
        );
        assert_eq!(hooked.arrivals()?, 0, "deleted: closed again");
    }
    let (done, said) = hooked.cni("CHECK", &text, &[])?;
    ensure!(!done && said["code"] == 100, "{said}");

    let entries = hooked.entries()?;
    let of_bob: Vec<&str> = entries.iter().map(|(_, what)| what.as_str()).collect();
    ensure!(of_bob.len() == 2, "{entries:?}");
    for said in [
        "\"ceiling\":\"40000000bit/s\"",
        "\"burst\":\"1000001B\"",
        "\"tenant\":\"bob\"",
    ] {
        ensure!(
            of_bob[0].starts_with("port add {") && of_bob[0].contains(said),
            "{of_bob:?}"
        );
    }
    assert_eq!(of_bob[1], format!("port remove {}", port()));
    println!("CASES: attachments of a CNI plug-in added, checked and deleted: 1");
    Ok(())
}

/// Each with the specification's code, and without a port.
fn refusals(hooked: &Hooked, config: &Value) -> Result<()> {
    let changed = |pointer: &str, value: Value| {
        let mut config = config.clone();
        if let Some(place) = config.pointer_mut(pointer) {
            *place = value;
        }
        config.to_string()
    };
    let text = config.to_string();
    let nobody = "K8S_POD_NAMESPACE=team-z";
    for (input, more, code) in [
        (changed("/cniVersion", json!("9.9.9")), vec![], 1),
        (text.clone(), vec![("CNI_CONTAINERID", "")], 4),
        (text.clone(), vec![("CNI_COMMAND", "ADDD")], 4),
        ("not JSON".into(), vec![], 6),
        ("[]".into(), vec![], 6),
        (text.clone(), vec![("CNI_ARGS", nobody)], 7),
        (changed("/prevResult", Value::Null), vec![], 7),
        (
            changed("/prevResult/interfaces/1/name", json!("up0")),
            vec![],
            7,
        ),
        (
            changed("/prevResult/interfaces/2/mac", json!("x")),
            vec![],
            7,
        ),
        (changed("/prevResult/ips", json!([])), vec![], 7),
        (changed("/prevResult/ips", json!([1])), vec![], 7),
        (
            changed("/tenants/team-b", json!("no-such-tenant")),
            vec![],
            7,
        ),
        (text, vec![("OCTROI_RUN_DIR", "/nonexistent")], 11),
    ] {
        let (done, said) = hooked.cni("ADD", &input, &more)?;
        ensure!(!done && said["code"] == code, "{code}: {more:?}: {said}");
        ensure!(
            said["msg"].as_str().is_some_and(|msg| !msg.is_empty()),
            "{said}"
        );
    }
    Ok(())
}

#[test]
fn a_libvirt_hook_brings_a_guests_ports_and_takes_them_away() -> Result<()> {
    if !can_run("a_libvirt_hook_brings_a_guests_ports_and_takes_them_away") {
        return Ok(());
    }
    let _alone = alone();
    let hooked = Hooked::new()?;
    let bobs = "<octroi:tenant xmlns:octroi='urn:octroi:libvirt:1'>bob</octroi:tenant>";
    let xml = hooked.guest(bobs);
    assert_eq!(hooked.arrivals()?, 0, "no port, no way");
    // Whoever starts nothing changes nothing.
    assert_eq!(hooked.libvirt("prepare", &xml)?, (true, String::new()));
    for (wrong, says) in [
        (hooked.guest(""), "nothing names its tenant"),
        (hooked.guest(&bobs.replace(">bob<", ">mallory<")), "mallory"),
        ("<domain>".to_owned(), "virsh dumpxml"),
    ] {
        let (done, said) = hooked.libvirt("started", &wrong)?;
        ensure!(!done && said.contains(says), "{said}");
    }
    assert_eq!(hooked.arrivals()?, 0, "refused: closed");

    for operation in ["started", "reconnect"] {
        let (done, said) = hooked.libvirt(operation, &xml)?;
        ensure!(done && said.contains("blessed on p-bob"), "{said}");
        ensure!(hooked.arrivals()? > 40, "{operation}: the port is open");
    }
    for _ in 0..2 {
        let (done, said) = hooked.libvirt("release", &xml)?;
        ensure!(done, "{said}");
        assert_eq!(hooked.arrivals()?, 0, "released: closed again");
    }
    println!("CASES: guests brought and taken away by a libvirt hook: 1");
    Ok(())
}

const BOBS: &str = "{\"name\": \"b\", \"tenant\": \"bob\", \"interface\": \"none0\", \"macs\": [\"02:00:00:00:00:02\"], \
                    \"addresses\": [\"10.77.0.2\"]}";

#[test]
fn every_change_is_in_the_ledger_before_it_is_made() -> Result<()> {
    if !can_run("every_change_is_in_the_ledger_before_it_is_made") {
        return Ok(());
    }
    let _alone = alone();
    let hooked = Hooked::new()?;
    let first = hooked.read_config()?;
    let zone = "\n[[zone]]\nname = \"elsewhere\"\ncidrs = [\"198.51.100.0/24\"]\n";

    // A port whose interface is not there is in force, and waits: exit status 1 says so.
    let added = hooked.octroi(&["port", "add", BOBS])?;
    assert_eq!(added.status.code(), Some(1), "{added:?}");
    let wrong = hooked.octroi(&["port", "remove", "nobody"])?;
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let removed = hooked.octroi(&["port", "remove", "b"])?;
    ensure!(removed.status.success(), "{removed:?}");
    let config = hooked.site.config_path();
    fs::write(&config, format!("{first}{zone}"))?;
    let pid = hooked.site.daemon_pid().context("a daemon")?.to_string();
    hooked.site.host.command(&format!("kill -HUP {pid}"))?;
    hooked.wait("the entry of SIGHUP", |hooked| {
        Ok(hooked.entries()?.len() == 3)
    })?;
    hooked.wait("the zone", |hooked| {
        Ok(hooked
            .site
            .report()?
            .zones
            .values()
            .any(|name| name == "elsewhere"))
    })?;
    fs::write(&config, &first)?;
    let applied = hooked.octroi(&["apply", &config.to_string_lossy()])?;
    ensure!(applied.status.success(), "{applied:?}");

    let entries = hooked.entries()?;
    let expected = [
        (
            "uid 0",
            "port add {\"addresses\":[\"10.77.0.2\"],\"interface\":\"none0\"",
        ),
        ("uid 0", "port remove b"),
        ("SIGHUP", "apply "),
        ("uid 0", "apply removes zone elsewhere"),
    ];
    ensure!(entries.len() == expected.len(), "{entries:?}");
    for ((who, what), (by, begins)) in entries.iter().zip(expected) {
        ensure!(
            who.starts_with(by) && what.starts_with(begins),
            "{entries:?}"
        );
    }
    ensure!(
        entries[0].0.ends_with("by the control socket"),
        "{entries:?}"
    );
    ensure!(
        entries[2].1.ends_with(": adds zone elsewhere"),
        "{entries:?}"
    );

    // What cannot be entered is not made, by nobody; a detach is.
    let key = hooked.ledger.with_extension("key");
    let aside = hooked.ledger.with_extension("aside");
    fs::rename(&key, &aside).context("the ledger's key")?;
    let revision = hooked.site.report()?.revision;
    let refused = hooked.octroi(&["port", "add", BOBS])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        refused.status.code() == Some(1) && said.contains("nothing is changed"),
        "{said}"
    );
    fs::write(&config, format!("{first}{zone}"))?;
    hooked.site.host.command(&format!("kill -HUP {pid}"))?;
    hooked.wait("the refusal of SIGHUP", |hooked| {
        Ok(hooked
            .site
            .log()
            .contains("the configuration before stays in force"))
    })?;
    assert_eq!(hooked.site.report()?.revision, revision);
    fs::rename(&aside, &key)?;
    let verified = Command::new(octroi())
        .arg("verify")
        .arg(&hooked.ledger)
        .output()?;
    ensure!(verified.status.success(), "{verified:?}");
    assert_eq!(hooked.site.ask(&Request::Detach)?, "detached");
    let entries = hooked.entries()?;
    assert_eq!(entries.last().context("an entry")?.1, "detach");
    println!("CASES: changes by the control socket and SIGHUP in the ledger: 5");
    Ok(())
}
