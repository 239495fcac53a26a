//! The two processes of a daemon, as the kernel describes them: the loader with three capabilities, the meter with
//! none, and what happens when one of them goes (decision 0041).

mod support;

use anyhow::{Context as _, Result, ensure};
use octroi::{
    daemon::{Confined, control::Request},
    lab::Site,
};
use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use support::{alone, can_run, octroi, tenant};

/// Exactly what loading and attaching take: CAP_NET_ADMIN (12), CAP_PERFMON (38), CAP_BPF (39).
const THREE: u64 = 1 << 12 | 1 << 38 | 1 << 39;

fn site(test: &str) -> Result<Option<Site>> {
    if !can_run(test) {
        return Ok(None);
    }
    let mut site = Site::new(&[tenant("alice", false)])?;
    let ledger = site.directory().join("ledger.db");
    let meter = format!(
        "\n[meter]\nledger = \"{}\"\nwindow = \"100ms\"\n",
        ledger.display()
    );
    site.write_config(&(site.config("") + &meter))?;
    site.start(octroi())?;
    Ok(Some(site))
}

fn confined(site: &Site) -> Result<Confined> {
    site.report()?
        .confined
        .context("a daemon says what holds it")
}

/// A line of `/proc/PID/status`.
fn word(pid: u32, key: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    Ok(line.context("no such line")?.trim().to_owned())
}

fn capabilities(pid: u32, set: &str) -> Result<u64> {
    Ok(u64::from_str_radix(&word(pid, set)?, 16)?)
}

fn soon(what: &str, done: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !done()? {
        ensure!(begun.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
        || word(pid, "State:").is_ok_and(|state| state.starts_with('Z'))
}

#[test]
fn the_loader_has_three_capabilities_and_the_meter_none() -> Result<()> {
    const TEST: &str = "the_loader_has_three_capabilities_and_the_meter_none";
    let _alone = alone();
    let Some(mut site) = site(TEST)? else {
        return Ok(());
    };
    let Confined {
        loader,
        meter,
        landlock,
        writes,
    } = confined(&site)?;
    assert_eq!(Some(loader), site.daemon_pid());
    assert_ne!(loader, meter);
    for set in ["CapEff:", "CapPrm:"] {
        assert_eq!(capabilities(loader, set)?, THREE, "{set}");
        assert_eq!(capabilities(meter, set)?, 0, "{set}");
    }
    // Every thread of it: the ledger's, a sink's, the reader's.
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{meter}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        for line in [
            "CapInh:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            ensure!(status.contains(line), "{line}: {status}");
        }
        threads += 1;
    }
    ensure!(threads > 1, "the ledger has a thread");
    assert_eq!(capabilities(loader, "CapBnd:")?, THREE);
    assert_eq!(word(loader, "NoNewPrivs:")?, "1");
    // The meter holds nothing of the kernel's: no map, no program, no link.
    for file in fs::read_dir(format!("/proc/{meter}/fd"))? {
        let target = fs::read_link(file?.path())?;
        ensure!(
            !target.to_string_lossy().contains("bpf"),
            "{}",
            target.display()
        );
    }
    ensure!(
        landlock == 0 || writes.iter().any(|path| path == site.directory()),
        "{writes:?}"
    );
    println!("CASES: threads of the meter without a capability: {threads}");
    site.stop();
    ensure!(is_gone(meter) && is_gone(loader), "something is left");
    Ok(())
}

/// The rules of Landlock hold the meter that runs: where it follows a link, it does not write at the other end.
#[test]
fn the_meter_writes_where_its_records_are_and_nowhere_else() -> Result<()> {
    const TEST: &str = "the_meter_writes_where_its_records_are_and_nowhere_else";
    let _alone = alone();
    let Some(mut site) = site(TEST)? else {
        return Ok(());
    };
    if confined(&site)?.landlock == 0 {
        println!("SKIPPED: {TEST}: this kernel has no Landlock, or does not use it");
        return Ok(());
    }
    let victim = Path::new(env!("CARGO_TARGET_TMPDIR")).join("octroi-privilege-victim");
    let _ = fs::remove_file(&victim);
    std::os::unix::fs::symlink(&victim, site.run_dir().join("ports.new"))?;
    let port = Request::PortAdd {
        port: "name = \"more\"\ntenant = \"alice\"\ninterface = \"p-more\"\nmacs = [\"02:00:00:00:00:77\"]\n\
               addresses = [\"10.77.0.77\"]"
            .into(),
    };
    let refused = site.ask(&port).expect_err("the file cannot be written");
    ensure!(
        format!("{refused:#}").contains("ports.toml: cannot be written"),
        "{refused:#}"
    );
    ensure!(!victim.exists(), "written through the link");
    fs::remove_file(site.run_dir().join("ports.new"))?;
    let waits = site.ask(&port).expect_err("its interface is not there");
    ensure!(
        format!("{waits:#}").contains("blessed as soon as"),
        "{waits:#}"
    );
    let beside = format!(
        "{}\n[[sink]]\nname = \"f\"\nkind = \"files\"\ndirectory = \"{}\"\n",
        fs::read_to_string(site.config_path())?,
        victim.display()
    );
    let apply = Request::Apply {
        config: beside.clone(),
    };
    let refused = site.ask(&apply).expect_err("a sink elsewhere");
    ensure!(
        format!("{refused:#}").contains("start it again"),
        "{refused:#}"
    );
    // What it takes is what is said.
    site.kill()?;
    site.write_config(&beside)?;
    site.start(octroi())?;
    ensure!(site.report()?.sinks.len() == 1, "the sink is there");
    site.stop();
    let _ = fs::remove_dir_all(&victim);
    Ok(())
}

/// The hash of the programs is what another program says of the object, everywhere where octroi says it.
#[test]
fn a_start_is_in_the_ledger_with_the_hash_of_the_programs() -> Result<()> {
    const TEST: &str = "a_start_is_in_the_ledger_with_the_hash_of_the_programs";
    let _alone = alone();
    let Some(mut site) = site(TEST)? else {
        return Ok(());
    };
    let file = site.directory().join("object");
    fs::write(&file, dataplane::object::OBJECT)?;
    let sum = Command::new("sha256sum").arg(&file).output()?;
    let sum = String::from_utf8(sum.stdout)?;
    let hash = sum.split(' ').next().filter(|hash| hash.len() == 64);
    let hash = hash.context("sha256sum says no hash")?.to_owned();
    assert_eq!(site.report()?.bpf_sha256, hash);
    let said = Command::new(octroi()).arg("--version").output()?;
    let said = String::from_utf8(said.stdout)?;
    ensure!(
        said.trim_end()
            .ends_with(&format!("BPF object sha256:{hash}")),
        "{said}"
    );
    let ledger = site.directory().join("ledger.db");
    let starts = || -> Result<Vec<String>> {
        let looks = metering::ledger::looks(&ledger).unwrap_or_default();
        let starts = looks
            .into_iter()
            .filter(|look| look.who.starts_with("octroi "));
        Ok(starts.map(|look| look.what).collect())
    };
    soon("an entry of the start", || Ok(starts()?.len() == 1))?;
    site.kill()?;
    site.start(octroi())?;
    soon("an entry of the next", || Ok(starts()?.len() == 2))?;
    let begins = format!("start: BPF object sha256:{hash}, revision ");
    let starts = starts()?;
    ensure!(
        starts.iter().all(|what| what.starts_with(&begins)),
        "{starts:?}"
    );
    site.stop();
    let verified = Command::new(octroi()).arg("verify").arg(&ledger).output()?;
    ensure!(verified.status.success(), "{verified:?}");
    println!("CASES: starts in the ledger: {}", starts.len());
    Ok(())
}

#[test]
fn the_meters_command_is_not_for_people() -> Result<()> {
    let output = Command::new(octroi())
        .args(["run-meter", "/dev/null"])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && said.contains("use that"),
        "{said}"
    );
    Ok(())
}

#[test]
fn neither_process_outlives_the_other_and_the_gate_outlives_both() -> Result<()> {
    const TEST: &str = "neither_process_outlives_the_other_and_the_gate_outlives_both";
    let _alone = alone();
    let Some(mut site) = site(TEST)? else {
        return Ok(());
    };
    for victim in [
        "the loader",
        "the meter",
        "the loader, stopped",
        "the meter, by SIGTERM",
    ] {
        let Confined { loader, meter, .. } = confined(&site)?;
        let pid = if victim.contains("loader") {
            loader
        } else {
            meter
        };
        let signal = if victim.contains("TERM") {
            libc::SIGTERM
        } else {
            libc::SIGKILL
        };
        if victim.contains("stopped") {
            // A meter that does nothing is ended all the same.
            // SAFETY: a signal to a process that this test has started.
            unsafe { libc::kill(meter as i32, libc::SIGSTOP) };
        }
        // SAFETY: as above.
        unsafe { libc::kill(pid as i32, signal) };
        ensure!(
            site.ends_within(Duration::from_secs(15))?,
            "{victim}: the daemon goes on"
        );
        soon(victim, || Ok(is_gone(meter) && is_gone(loader)))?;
        if victim == "the meter" {
            let log = site.log();
            ensure!(
                log.contains("the meter ended by signal 9; what was attached goes on"),
                "{log}"
            );
        }
        let pinned = dataplane::gate::read_pinned(&dataplane::pins::Pins::new(&site.pin_dir()))?;
        ensure!(
            pinned.ports.iter().any(|port| port.name == "alice-port"),
            "{victim}: the gate is gone"
        );
        // At once, as a service manager would.
        site.start(octroi())?;
    }
    site.ask(&Request::Detach)?;
    println!("CASES: a process of the daemon ended: 4");
    Ok(())
}
