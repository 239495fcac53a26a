//! The Debian package on a clean machine: debootstrap's root, systemd as process 1, a site's host as its network.
//! It is installed, runs, is upgraded under traffic, removed and purged; what is counted is held against the
//! interfaces, and what is left against a list.

#[path = "meter/bill.rs"]
#[allow(dead_code, reason = "other tests ask a bill for more")]
mod bill;
#[path = "pages/blocks.rs"]
mod blocks;
#[path = "support/load.rs"]
mod load;
#[path = "package/machine.rs"]
mod machine;
#[path = "package/materials.rs"]
mod materials;
#[path = "support/python.rs"]
mod python;
mod support;
#[path = "package/user.rs"]
mod user;

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
use user::{
    all_is_the_daemons, as_the_manual_says, block_with, installed_as_the_manual_says, privileges,
    root_beside_the_daemon, run_as_root, started_as_the_manual_says,
};

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
    // Whoever reads the manual answers apt's question.
    machine.run("echo 'APT::Get::Assume-Yes \"true\";' > /etc/apt/apt.conf.d/99answered")?;
    let files = machine.files()?;

    let said = installed_as_the_manual_says(&machine, &first)?;
    ensure!(said.contains("write /etc/octroi/octroi.toml"), "{said}");
    is_installed_and_quiet(&machine, &site)?;

    fs::write(machine.at(CONFIG), config(&site))?;
    run_as_root(&machine)?;
    assert_eq!(octroi::status::blessed(&machine.report()?), 2);

    let before = settle(|| read(&site, &machine.report()?))?;
    upgrade(&machine, &site, &second, &before)?;
    root_beside_the_daemon(&machine)?;
    started_as_the_manual_says(&machine)?;
    as_the_manual_says(&machine, &config(&site))?;
    refused_upgrade(&machine, &site, &first)?;
    remove(&machine, &site)?;
    everything_is_written(&machine, &site, &before)?;
    purge(&machine, &files, &first)?;
    println!("CASES: packages installed, upgraded under traffic, removed and purged: 1");
    println!("CASES: blocks of INSTALL that were run as they are: 4");
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
    let ledger = machine.ledger(&site.directory().join("copied"))?;
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

/// What belongs to dpkg, apt, debconf, systemd and the journal, and not to the package.
const OTHERS: [&str; 8] = [
    "/var/lib/dpkg/",
    "/var/lib/apt",
    "/var/cache/apt",
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
    machine.run(&block_with("apt purge")?)?;
    assert_eq!(left(machine, files)?, [""; 0]);
    Ok(())
}

/// True where `test` can make a package; else says that it is skipped.
fn can_pack(test: &str) -> bool {
    let has = Command::new("dpkg-shlibdeps").arg("--version").output();
    if has.is_err() {
        println!("SKIPPED: {test}: there is no dpkg-shlibdeps; install dpkg-dev");
    }
    has.is_ok()
}

#[test]
fn the_same_program_makes_the_same_package() -> Result<()> {
    const NAME: &str = "the_same_program_makes_the_same_package";
    if !can_pack(NAME) {
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

#[test]
fn the_bill_of_materials_is_what_cargo_resolves() -> Result<()> {
    const NAME: &str = "the_bill_of_materials_is_what_cargo_resolves";
    if !can_pack(NAME) {
        return Ok(());
    }
    let package = package(octroi(), "0.1.0", "package-5")?;
    let components = materials::is_what_cargo_resolves(&package)?;
    println!("CASES: components of the bill of materials: {components}");
    Ok(())
}

/// Built as for users: another build than the tests', which takes its time.
#[test]
fn the_list_in_the_installed_program_has_all_that_cargo_resolves() -> Result<()> {
    // It builds everything once more, which takes ten minutes.
    if std::env::var_os("OCTROI_ACCEPT").is_none() {
        println!(
            "SKIPPED: the_list_in_the_installed_program_has_all_that_cargo_resolves: it builds everything again; \
             OCTROI_ACCEPT=1 runs it"
        );
        return Ok(());
    }
    const NAME: &str = "the_list_in_the_installed_program_has_all_that_cargo_resolves";
    let auditable = Command::new("cargo-auditable").output();
    if auditable.is_err()
        || Command::new("dpkg-shlibdeps")
            .arg("--version")
            .output()
            .is_err()
    {
        println!(
            "SKIPPED: {NAME}: there is no cargo auditable, or no dpkg-shlibdeps; run `cargo xtask setup`"
        );
        return Ok(());
    }
    let made = Command::new(env!("CARGO"))
        .args([
            "run",
            "--quiet",
            "--package",
            "xtask",
            "--",
            "deb",
            "--uncompressed",
            "--out",
        ])
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("package-6"))
        .env("OCTROI_NO_SETUP", "1")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    ensure!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let path = String::from_utf8(made.stdout)?;
    let crates = materials::is_in_the_program(Path::new(path.trim()))?;
    println!("CASES: crates in the program that Cargo resolves: {crates}");
    Ok(())
}

/// What Debian's checker finds wrong; that this one is not compressed is so that the tests are quick.
#[test]
fn lintian_finds_nothing() -> Result<()> {
    const NAME: &str = "lintian_finds_nothing";
    if Command::new("lintian").arg("--version").output().is_err() {
        println!("SKIPPED: {NAME}: there is no lintian; run `cargo xtask setup`");
        return Ok(());
    }
    let package = package(octroi(), "0.1.0", "package-7")?;
    let looked = Command::new("lintian")
        .args([
            "--allow-root",
            "--fail-on",
            "error,warning",
            "--suppress-tags",
        ])
        .arg("uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball")
        .arg(&package)
        .output()?;
    let said = String::from_utf8_lossy(&looked.stdout);
    ensure!(looked.status.success() && said.trim().is_empty(), "{said}");
    println!("CASES: packages in which lintian finds nothing: 1");
    Ok(())
}
