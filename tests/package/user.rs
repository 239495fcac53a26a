//! Whose the daemon's processes and files are: a user of its own, also after an upgrade from a package whose daemon was
//! root, and while root calls `octroi` beside it (decision 0052).

use super::{LEDGER, blocks::blocks, machine::Machine};
use anyhow::{Context as _, Result, ensure};
use std::{fs, path::Path};

/// Exactly what loading and attaching take: CAP_NET_ADMIN (12), CAP_PERFMON (38), CAP_BPF (39).
const THREE: u64 = 1 << 12 | 1 << 38 | 1 << 39;

/// The loader is the unit's main process, and has the three; the meter is its child, and has none.
pub fn privileges(machine: &Machine) -> Result<()> {
    let loader = machine.unit("MainPID")?;
    let confined = machine.report()?.confined.context("what holds the meter")?;
    assert_eq!(loader, confined.loader.to_string());
    let ids = machine.run("id -u octroi; id -g octroi")?;
    let ids: Vec<&str> = ids.split_whitespace().collect();
    let [user, group] = ids[..] else {
        anyhow::bail!("{ids:?}");
    };
    ensure!(user != "0" && group != "0");
    let meter = machine.run(&format!("cat /proc/{loader}/task/{loader}/children"))?;
    assert_eq!(meter.trim(), confined.meter.to_string());
    for (pid, capabilities) in [(loader.as_str(), THREE), (meter.trim(), 0)] {
        let status = fs::read_to_string(machine.at(&format!("/proc/{pid}/status")))?;
        let word = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.map(str::trim).context("no such line")
        };
        let number = |set: &str| -> Result<u64> { Ok(u64::from_str_radix(word(set)?, 16)?) };
        for set in ["CapEff:", "CapPrm:"] {
            assert_eq!(number(set)?, capabilities, "{set} {status}");
        }
        assert_eq!(
            (number("CapBnd:")?, number("CapAmb:")?),
            (THREE, 0),
            "{status}"
        );
        // Real, effective, saved and of the file system; and no group besides.
        for (key, expected) in [("Uid:", user), ("Gid:", group)] {
            let found: Vec<&str> = word(key)?.split_whitespace().collect();
            assert_eq!(found, [expected; 4], "{key} {status}");
        }
        assert_eq!(word("Groups:")?, group);
        assert_eq!(word("NoNewPrivs:")?, "1");
        assert_eq!(word("Seccomp:")?, "2", "a filter of system calls");
        println!(
            "CAPABILITIES: {} of the {}, uid {user}",
            word("CapEff:")?,
            if pid == loader { "loader" } else { "meter" }
        );
    }
    // Sockets of the machine's other services are not there for either.
    for socket in ["/run/dbus", "/run/systemd/private"] {
        ensure!(
            !machine
                .at(&format!("/proc/{}/root{socket}", meter.trim()))
                .exists(),
            "{socket}"
        );
    }
    Ok(())
}

/// The unit of before octroi had a user of its own: whatever it makes is root's.
const AS_ROOT: &str = include_str!("root.service");
const OVER: &str = "/etc/systemd/system/octroi.service";

/// A daemon of a package from before there was a user, with all that it leaves behind, and secrets that only root reads.
pub fn run_as_root(machine: &Machine) -> Result<()> {
    fs::write(machine.at(OVER), AS_ROOT)?;
    let start = "userdel octroi && chmod 600 /etc/octroi/octroi.toml && systemctl daemon-reload && \
                 systemctl start octroi.service";
    machine.run(start).with_context(|| machine.journal())?;
    assert_eq!(machine.unit("ActiveState")?, "active");
    let loader = machine.unit("MainPID")?;
    assert_eq!(
        machine.run(&format!("stat -c %u /proc/{loader}"))?.trim(),
        "0"
    );
    for path in [
        "/sys/fs/bpf/octroi",
        "/var/lib/octroi/ledger.db",
        "/run/octroi/lock",
    ] {
        assert_eq!(
            machine.run(&format!("stat -c %U {path}"))?.trim(),
            "root",
            "{path}"
        );
    }
    // What the next package brings.
    fs::remove_file(machine.at(OVER))?;
    Ok(())
}

/// Everything that the daemon writes is its own, whoever called `octroi` beside it.
pub fn all_is_the_daemons(machine: &Machine) -> Result<usize> {
    let places = "/var/lib/octroi /run/octroi /sys/fs/bpf/octroi";
    let others = machine.run(&format!("find {places} ! -user octroi -printf '%u %p\\n'"))?;
    ensure!(others.is_empty(), "not the daemon's: {others}");
    let all = machine.run(&format!("find {places}"))?;
    Ok(all.lines().count())
}

/// Root looks and changes, beside the daemon and without it; then the daemon opens everything again.
pub fn root_beside_the_daemon(machine: &Machine) -> Result<()> {
    let ledger = format!("--ledger {LEDGER}");
    let looks = [
        format!("octroi records {ledger} --limit 1"),
        format!("octroi flows {ledger} --limit 1"),
        format!("octroi verify {LEDGER}"),
        format!("octroi ledger backup {ledger} /var/lib/octroi/copy-$(date +%N).db"),
        format!("octroi key show {ledger}"),
    ];
    let mut files = 0;
    for runs in [true, false] {
        if !runs {
            machine.run("systemctl stop octroi.service")?;
        }
        for line in &looks {
            machine.run(line)?;
        }
        if runs {
            machine.run(&format!("octroi key rotate {ledger}"))?;
        }
        files = all_is_the_daemons(machine)?;
    }
    machine
        .run("systemctl start octroi.service && rm /var/lib/octroi/copy-*")
        .with_context(|| machine.journal())?;
    // Who logged in before he was root is in the ledger, although the daemon is not root.
    let apply = "echo 4711 > /proc/self/loginuid && systemctl reload octroi.service && octroi apply /etc/octroi/octroi.toml";
    if machine.at("/proc/1/loginuid").exists() {
        machine.run(apply)?;
        let looks = machine.run(&format!("octroi ledger looks {ledger}"))?;
        ensure!(
            looks.contains("uid 0, logged in as uid 4711, by the control socket"),
            "{looks}"
        );
    } else {
        println!("SKIPPED: the login in the ledger: this kernel has no audit");
    }
    println!(
        "CASES: files that are the daemon's after root looked, beside it and without it: {files}"
    );
    Ok(())
}

const MANUAL: &str = include_str!("../../docs/INSTALL.md");

/// The one block of INSTALL in which this stands, as it is.
pub fn block_with(words: &str) -> Result<String> {
    let mut found = blocks(MANUAL)?;
    found.retain(|block| block.language == "sh" && block.text.contains(words));
    let block = found
        .pop()
        .with_context(|| format!("INSTALL has no commands with {words:?}"))?;
    ensure!(found.is_empty(), "INSTALL has {words:?} twice");
    Ok(block.text)
}

/// The package, by the line that a user types where it lies; what was said.
pub fn installed_as_the_manual_says(machine: &Machine, package: &Path) -> Result<String> {
    let block = block_with("cargo xtask deb")?;
    // Its first line made the package, with options for the test.
    let line = block.lines().find(|line| line.starts_with("apt install"));
    let line = line.context("INSTALL does not say how it is installed")?;
    let name = package.file_name().context("a name")?.to_string_lossy();
    ensure!(line.contains(&*name), "INSTALL names another file: {line}");
    fs::copy(package, machine.at("/tmp").join(&*name))?;
    machine.run(&format!("cd /tmp && {line} 2>&1"))
}

/// Checked, started and reloaded, as INSTALL says, once the configuration is written.
pub fn started_as_the_manual_says(machine: &Machine) -> Result<()> {
    machine.run("systemctl stop octroi")?;
    machine
        .run(&format!(
            "set -e\n{}",
            block_with("systemctl start octroi")?
        ))
        .with_context(|| machine.journal())?;
    assert_eq!(machine.unit("ActiveState")?, "active");
    Ok(())
}

/// What INSTALL says of files elsewhere, as it says it: before, `check --access` names them; afterwards it finds nothing.
pub fn as_the_manual_says(machine: &Machine, config: &str) -> Result<()> {
    let block = block_with("check --access")?;
    let sinks = "[[sink]]\nname = \"f\"\nkind = \"files\"\ndirectory = \"/srv/billing\"\n\
                 [[sink]]\nname = \"p\"\nkind = \"postgres\"\nurl = \"postgres://octroi@localhost/billing\"\n\
                 password_file = \"/srv/secrets/billing.password\"\n";
    let own = fs::read(machine.at("/etc/octroi/octroi.toml"))?;
    fs::write(
        machine.at("/etc/octroi/octroi.toml"),
        format!("{config}{sinks}"),
    )?;
    machine.run(
        "mkdir -p /srv/billing /srv/secrets && umask 077 && echo secret > /srv/secrets/billing.password",
    )?;
    let asked = "runuser -u octroi -- octroi check --access /etc/octroi/octroi.toml";
    let refused = machine.output(asked)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success(), "{said}");
    for path in [
        "/srv/billing: Permission denied",
        "/srv/secrets/billing.password: Permission denied",
    ] {
        ensure!(said.contains(path), "{said}");
    }
    machine.run(&format!("set -e\n{block}"))?;
    machine.run("rm -r /srv/billing /srv/secrets")?;
    fs::write(machine.at("/etc/octroi/octroi.toml"), own)?;
    Ok(())
}
