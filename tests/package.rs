//! The Debian package on a clean machine: debootstrap's root, systemd as process 1, a site's host as its network.
//! It is installed, runs, is upgraded under traffic, removed and purged; what is counted is held against the
//! interfaces, and what is left against a list.

#[path = "meter/bill.rs"]
#[allow(dead_code, reason = "other tests ask a bill for more")]
mod bill;
#[path = "support/load.rs"]
mod load;
#[path = "package/machine.rs"]
mod machine;
mod support;

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{MapInfo, loaded_maps},
    programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs},
};
use bill::Bill;
use load::{Reading, Traffic, compare, read};
use machine::{Machine, root};
use octroi::lab::{
    Site,
    site::{INSIDE, UPLINK},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use support::{alone, can_run, octroi, pair, settle, tenant};

const PAIR: [octroi::lab::TenantSpec; 2] = [tenant("alice", false), tenant("bob", false)];
const CONFIG: &str = "/etc/octroi/octroi.toml";
const LEDGER: &str = "/var/lib/octroi/ledger.db";

/// The package of a program and version, by the chore that makes the one for users.
fn package(binary: &Path, version: &str, directory: &str) -> Result<PathBuf> {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(directory);
    let made = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--package", "xtask", "--", "deb"])
        .args(["--uncompressed", "--version", version, "--binary"])
        .arg(binary)
        .arg("--out")
        .arg(&out)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    ensure!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let path = String::from_utf8(made.stdout)?;
    Ok(PathBuf::from(path.trim()))
}

/// The same program in a file of other bytes.
fn rebuilt() -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("octroi-rebuilt");
    // strip would take away what was appended: a note section stays.
    let done = Command::new("objcopy")
        .arg("--add-section=.note.rebuilt=/etc/os-release")
        .arg(octroi())
        .arg(&path)
        .status()?;
    ensure!(done.success(), "objcopy: {done}");
    Ok(path)
}

fn possible(test: &str) -> Option<PathBuf> {
    if !can_run(test) {
        return None;
    }
    match root() {
        Ok(root) => Some(root),
        Err(reason) => {
            println!("SKIPPED: {test}: {reason:#}");
            None
        }
    }
}

/// The site's configuration, with the paths that a package has.
fn config(site: &Site) -> String {
    let text = site.config("");
    let own = |line: &&str| !line.starts_with("pin_dir") && !line.starts_with("run_dir");
    let lines: Vec<&str> = text.lines().filter(own).collect();
    format!(
        "{}\n[meter]\nledger = \"{LEDGER}\"\nwindow = \"1s\"\n",
        lines.join("\n")
    )
}

/// Ids of programs and maps that are pinned in the machine.
fn pinned(machine: &Machine) -> Result<(BTreeSet<u32>, BTreeSet<u32>)> {
    let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
    for version in fs::read_dir(machine.at("/sys/fs/bpf/octroi"))? {
        let version = version?.path();
        for entry in fs::read_dir(version.join("programs"))? {
            programs.insert(ProgramInfo::from_pin(entry?.path())?.id());
        }
        for entry in fs::read_dir(version.join("maps"))? {
            maps.insert(MapInfo::from_pin(entry?.path())?.id());
        }
    }
    Ok((programs, maps))
}

/// Programs on the interfaces of the site's host.
fn attached(site: &Site) -> Result<usize> {
    site.host.run(|| {
        let mut found = 0;
        for interface in ["p-alice", "p-bob", UPLINK] {
            for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                found += SchedClassifier::query_tcx(interface, side)?.1.len();
            }
        }
        Ok(found)
    })?
}

fn queues(site: &Site) -> Result<String> {
    site.host.command("tc qdisc show")
}

/// The kernel takes things away a little after the last who held them.
fn soon(what: &str, done: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !done()? {
        ensure!(begun.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Exactly what loading and attaching take: CAP_NET_ADMIN (12), CAP_PERFMON (38), CAP_BPF (39).
const THREE: u64 = 1 << 12 | 1 << 38 | 1 << 39;

/// The loader is the unit's main process, and has the three; the meter is its child, and has none.
fn privileges(machine: &Machine) -> Result<()> {
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

/// The ledger with what belongs to it, where SQLite finds it: it resolves `/proc/PID/root` to the wrong root.
fn copied(machine: &Machine, site: &Site) -> Result<PathBuf> {
    let to = site.directory().join("copied");
    fs::create_dir_all(&to)?;
    for entry in fs::read_dir(machine.at("/var/lib/octroi"))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(to.join("ledger.db"))
}

/// Installed, nothing runs, and nothing is in the kernel.
fn is_installed_and_quiet(machine: &Machine, site: &Site) -> Result<()> {
    assert_eq!(machine.unit("ActiveState")?, "inactive");
    assert_eq!(machine.unit("UnitFileState")?, "enabled");
    assert_eq!(machine.unit("ConditionResult")?, "no");
    ensure!(!machine.at("/sys/fs/bpf/octroi").exists());
    assert_eq!(attached(site)?, 0);
    for path in [
        "/usr/share/man/man1/octroi-port.1.gz",
        "/usr/share/bash-completion/completions/octroi",
        "/usr/share/zsh/vendor-completions/_octroi",
        "/usr/share/doc/octroi/copyright",
        "/usr/share/doc/octroi/METERING.md.gz",
        "/usr/share/doc/octroi/examples/octroi-cni",
    ] {
        ensure!(machine.at(path).exists(), "{path} is missing");
    }
    machine.run("octroi check /etc/octroi/example.toml")?;
    let sums = machine.run("cd / && md5sum --quiet --check var/lib/dpkg/info/octroi.md5sums")?;
    assert_eq!(sums, "");
    let verify = machine
        .output("systemd-analyze verify --man=no /lib/systemd/system/octroi.service 2>&1")?;
    let said = String::from_utf8_lossy(&verify.stdout);
    ensure!(verify.status.success() && said.trim().is_empty(), "{said}");
    let security = machine
        .run("systemd-analyze security --offline=true /lib/systemd/system/octroi.service 2>&1")?;
    let overall = security.lines().find(|line| line.contains("Overall"));
    println!("SECURITY: {}", overall.context("no score")?.trim());
    Ok(())
}

/// The unit of before octroi had a user of its own: whatever it makes is root's.
const AS_ROOT: &str = include_str!("package/root.service");
const OVER: &str = "/etc/systemd/system/octroi.service";

/// A daemon of a package from before there was a user, with all that it leaves behind, and secrets that only root reads.
fn run_as_root(machine: &Machine) -> Result<()> {
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
fn all_is_the_daemons(machine: &Machine) -> Result<usize> {
    let places = "/var/lib/octroi /run/octroi /sys/fs/bpf/octroi";
    let others = machine.run(&format!("find {places} ! -user octroi -printf '%u %p\\n'"))?;
    ensure!(others.is_empty(), "not the daemon's: {others}");
    let all = machine.run(&format!("find {places}"))?;
    Ok(all.lines().count())
}

/// Root looks and changes, beside the daemon and without it; then the daemon opens everything again.
fn root_beside_the_daemon(machine: &Machine) -> Result<()> {
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

#[test]
fn the_package_installs_runs_upgrades_under_traffic_and_leaves_what_the_manual_says() -> Result<()>
{
    const NAME: &str =
        "the_package_installs_runs_upgrades_under_traffic_and_leaves_what_the_manual_says";
    let Some(root) = possible(NAME) else {
        return Ok(());
    };
    let _alone = alone();
    let first = package(octroi(), "0.1.0", "package-1")?;
    let second = package(&rebuilt()?, "0.1.1", "package-2")?;
    let site = Site::new(&PAIR)?;
    let machine = Machine::boot(&site, &root)?;
    let files = machine.files()?;

    let said = machine.install(&first)?;
    ensure!(said.contains("write /etc/octroi/octroi.toml"), "{said}");
    is_installed_and_quiet(&machine, &site)?;

    fs::write(machine.at(CONFIG), config(&site))?;
    run_as_root(&machine)?;
    assert_eq!(octroi::status::blessed(&machine.report()?), 2);

    let before = settle(|| read(&site, &machine.report()?))?;
    upgrade(&machine, &site, &second, &before)?;
    root_beside_the_daemon(&machine)?;
    refused_upgrade(&machine, &site, &first)?;
    remove(&machine, &site)?;
    everything_is_written(&machine, &site, &before)?;
    purge(&machine, &files, &first)?;
    println!("CASES: packages installed, upgraded under traffic, removed and purged: 1");
    Ok(())
}

/// With traffic before, while and after.
fn upgrade(machine: &Machine, site: &Site, package: &Path, before: &Reading) -> Result<()> {
    let pid = machine.unit("MainPID")?;
    let traffic = Traffic::start(site)?;
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    machine.install(package)?;
    let took = begun.elapsed();
    assert_eq!(machine.unit("ActiveState")?, "active");
    assert_ne!(machine.unit("MainPID")?, pid, "another daemon runs");
    std::thread::sleep(Duration::from_millis(500));
    let sent = traffic.stop()?;
    let after = settle(|| read(site, &machine.report()?))?;
    ensure!(sent > 1_000_000, "only {sent} bytes of payload were sent");
    compare(before, &after);
    privileges(machine)?;
    all_is_the_daemons(machine)?;
    let mode = machine.run("stat -c '%U:%G %a' /etc/octroi/octroi.toml")?;
    assert_eq!(mode.trim(), "root:octroi 640");
    let journal = machine.journal();
    ensure!(journal.contains("adopted"), "{journal}");
    println!("UPGRADE: {sent} bytes of payload while dpkg took {took:?}, 0 lost");
    Ok(())
}

/// A daemon that works is not taken away for one that would not start.
fn refused_upgrade(machine: &Machine, site: &Site, package: &Path) -> Result<()> {
    let pid = machine.unit("MainPID")?;
    let sink = "[[sink]]\nname = \"f\"\nkind = \"files\"\ndirectory = \"/srv/billing\"\n";
    machine.run("mkdir /srv/billing")?;
    for (wrong, why) in [
        (config(site) + sink, "/srv/billing: Permission denied"),
        (config(site).replace("id = 1", "id = 0"), "octroi.toml:"),
    ] {
        fs::write(machine.at(CONFIG), wrong)?;
        let said = machine.install(package)?;
        ensure!(
            said.contains("this version refuses") && said.contains(why),
            "{said}"
        );
        assert_eq!(machine.unit("MainPID")?, pid, "the daemon before runs on");
    }
    machine.run("rmdir /srv/billing")?;
    assert_eq!(octroi::status::blessed(&machine.report()?), 2);
    let reload = machine.output("systemctl reload octroi.service")?;
    ensure!(!reload.status.success(), "a wrong file is reloaded");
    Ok(())
}

/// Out of the kernel: programs, maps, links, pins, and a queue of octroi's own.
fn remove(machine: &Machine, site: &Site) -> Result<()> {
    site.host.command("tc qdisc del dev p-bob root")?;
    let before = queues(site)?;
    let limited = config(site).replace(
        "interface = \"p-bob\"",
        "interface = \"p-bob\"\nto_tenant = { ceiling = \"500Mbit/s\" }",
    );
    fs::write(machine.at(CONFIG), limited)?;
    machine
        .run("systemctl reload octroi.service")
        .with_context(|| machine.journal())?;
    ensure!(queues(site)? != before, "no queue was made");
    let (programs, maps) = pinned(machine)?;
    ensure!(programs.len() >= 3 && maps.len() > 20 && attached(site)? >= 5);
    // Bytes of the last window.
    let traffic = Traffic::start(site)?;
    std::thread::sleep(Duration::from_millis(300));
    traffic.stop()?;
    settle(|| read(site, &machine.report()?))?;

    machine.run("dpkg --remove octroi 2>&1")?;
    assert_eq!(attached(site)?, 0);
    assert_eq!(queues(site)?, before);
    ensure!(!machine.at("/sys/fs/bpf/octroi").exists(), "pins");
    ensure!(!machine.at("/run/octroi").exists(), "the run directory");
    soon("all programs are gone", || {
        let ids: BTreeSet<u32> = loaded_programs().flatten().map(|one| one.id()).collect();
        Ok(ids.is_disjoint(&programs))
    })?;
    soon("all maps are gone", || {
        let ids: BTreeSet<u32> = loaded_maps().flatten().map(|one| one.id()).collect();
        Ok(ids.is_disjoint(&maps))
    })
}

/// What the ledger says is what alice's own interface sent, from the first packet to the last.
fn everything_is_written(machine: &Machine, site: &Site, before: &Reading) -> Result<()> {
    let ledger = copied(machine, site)?;
    let verified = Command::new(octroi()).arg("verify").arg(&ledger).output()?;
    ensure!(verified.status.success(), "{verified:?}");
    let written = Bill::read(&ledger)?.sent_by("alice");
    let first = &before.0[0].0;
    let (first, dropped) = (pair(first.total()), first.dropped());
    let interface = support::between(before.1[0], site.tenants[0].counters(INSIDE)?);
    assert_eq!(
        (written.packets, written.l2_bytes),
        (
            first.0 + dropped.packets + interface[2],
            first.1 + dropped.l2_bytes + interface[3]
        ),
        "the ledger and alice's interface"
    );
    Ok(())
}

/// What belongs to dpkg, debconf, systemd and the journal, and not to the package.
const OTHERS: [&str; 6] = [
    "/var/lib/dpkg/",
    "/var/cache/debconf",
    "/var/lib/systemd",
    "/var/log",
    "/etc/machine-id",
    "/etc/.pwd.lock",
];

/// Files that were not there at first.
fn left(machine: &Machine, files: &[String]) -> Result<Vec<String>> {
    let before: BTreeSet<&String> = files.iter().collect();
    let now = machine.files()?;
    let new = now.into_iter().filter(|path| !before.contains(path));
    let own = new.filter(|path| !OTHERS.iter().any(|others| path.starts_with(others)));
    Ok(own.collect())
}

/// Purging keeps ledger, key and configuration, says so, and takes them when it was told to.
fn purge(machine: &Machine, files: &[String], package: &Path) -> Result<()> {
    let said = machine.run("dpkg --purge octroi 2>&1")?;
    for kept in ["/var/lib/octroi is kept", "/etc/octroi/octroi.toml is kept"] {
        ensure!(said.contains(kept), "{said}");
    }
    let left_then = left(machine, files)?;
    let is_kept = |path: &String| {
        path.starts_with("/var/lib/octroi") || ["/etc/octroi", CONFIG].contains(&path.as_str())
    };
    ensure!(left_then.iter().all(is_kept), "{left_then:#?}");
    ensure!(
        left_then.iter().any(|path| path == LEDGER),
        "{left_then:#?}"
    );

    machine.install(package)?;
    machine.run("systemctl stop octroi.service")?;
    machine.run("echo octroi octroi/purge-state boolean true | debconf-set-selections")?;
    machine.run("dpkg --purge octroi 2>&1")?;
    assert_eq!(left(machine, files)?, [""; 0]);
    Ok(())
}

#[test]
fn the_same_program_makes_the_same_package() -> Result<()> {
    const NAME: &str = "the_same_program_makes_the_same_package";
    if Command::new("dpkg-shlibdeps")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("SKIPPED: {NAME}: there is no dpkg-shlibdeps; install dpkg-dev");
        return Ok(());
    }
    let make = |directory| fs::read(package(octroi(), "0.1.0", directory)?).context("the package");
    ensure!(make("package-3")? == make("package-4")?, "they differ");
    let listed = Command::new("dpkg-deb")
        .arg("--info")
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("package-3/octroi_0.1.0_amd64.deb"))
        .output()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for word in ["libc6 (>= ", "iproute2", "conffiles", "postrm", "templates"] {
        ensure!(listed.contains(word), "no {word}: {listed}");
    }
    let version =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/deb/changelog"))?;
    let newest = version.lines().next().context("a version")?;
    let now = env!("CARGO_PKG_VERSION");
    ensure!(
        newest.contains(&format!("({now})")),
        "{newest}: the crate is {now}"
    );
    println!("CASES: packages made twice with the same bytes: 1");
    Ok(())
}
