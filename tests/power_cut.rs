//! The inside of a machine whose power is cut: the real daemon with its ledger on a disk, traffic, and a
//! witness that is no part of octroi.
//!
//! `cargo xtask power-cut` boots it, learns on the console what the witness has seen so far, kills the
//! machine, and compares with what the disk then says (`tests/verify/power_cut.py`). What is printed here is
//! true when it is printed: counters of interfaces that octroi does not own, and leaves of records of which
//! the daemon has said that they are committed. Outside of such a machine there is nothing to do.

mod support;

use anyhow::{Context as _, Result, ensure};
use octroi::lab::{
    Site, TenantSpec,
    site::{INSIDE, REMOTE, UPLINK, ipv4},
    traffic::{self, Datagrams, inside},
};
use rusqlite::{Connection, OpenFlags};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};
use support::{octroi, settle};

/// Where the disk is mounted.
const LEDGER: &str = "/disk/ledger.db";

/// Alice is far below her ceiling, bob above his: his bound is a tight one.
const TENANTS: [TenantSpec; 2] = [
    TenantSpec {
        name: "alice",
        offloads: false,
        limits: "from_tenant = { ceiling = \"20Mbit/s\" }\nto_tenant = { ceiling = \"20Mbit/s\" }",
    },
    TenantSpec {
        name: "bob",
        offloads: false,
        limits: "from_tenant = { ceiling = \"1Mbit/s\" }\nto_tenant = { ceiling = \"20Mbit/s\" }",
    },
];
const ALICE: usize = 0;
const BOB: usize = 1;

/// How often the witness looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long a machine waits to be cut off.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the last machine sends, whose power is not cut.
const LAST: Duration = Duration::from_secs(4);

/// A word of the kernel's command line.
fn word(name: &str) -> Result<String> {
    let line = fs::read_to_string("/proc/cmdline")?;
    let value = line.split_whitespace().find_map(|word| {
        let (found, value) = word.split_once('=')?;
        (found == format!("octroi.{name}")).then_some(value)
    });
    Ok(value
        .with_context(|| format!("no octroi.{name}"))?
        .to_owned())
}

fn boot_ns() -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills a plain struct.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Bytes that alice has sent, that bob got out by the uplink, and that bob has received.
fn carried(site: &Site) -> Result<[u64; 3]> {
    Ok([
        site.tenants[ALICE].counters(INSIDE)?[3],
        site.host.counters(UPLINK)?[3],
        site.tenants[BOB].counters(INSIDE)?[1],
    ])
}

fn say(kind: &str, words: &[String]) {
    println!("CUT {kind} {}", words.join(" "));
}

/// Says of each record that is committed by now which leaf it has, from `next` on.
fn say_committed(db: &Connection, site: &Site, next: &mut u64) -> Result<()> {
    let meter = site.report()?.meter.context("no meter")?;
    let select = "SELECT seq, hex(leaf) FROM record WHERE seq >= ?1 AND seq < ?2 ORDER BY seq";
    let mut select = db.prepare_cached(select)?;
    say("windows", &[meter.windows.to_string()]);
    let mut rows = select.query([*next as i64, meter.records as i64])?;
    while let Some(row) = rows.next()? {
        let (seq, leaf): (i64, String) = (row.get(0)?, row.get(1)?);
        say("committed", &[seq.to_string(), leaf.to_lowercase()]);
        *next = seq as u64 + 1;
    }
    ensure!(*next >= meter.records, "a committed record cannot be read");
    Ok(())
}

/// The ledger as another process reads it.
fn open_ledger() -> Result<Option<Connection>> {
    if !Path::new(LEDGER).exists() {
        return Ok(None);
    }
    let db = Connection::open_with_flags(LEDGER, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.busy_timeout(Duration::from_secs(5))?;
    Ok(Some(db))
}

fn send(site: &Site, from: usize, to: String, until: Instant) -> Result<()> {
    let how = Datagrams {
        size: 1_000,
        segment: None,
        gap: Duration::from_millis(3),
    };
    let namespace = site.tenants[from].open()?;
    drop(inside(namespace, move || {
        traffic::udp_send((to.parse()?, 7), how, until)
    }));
    Ok(())
}

#[test]
fn says_what_it_has_seen_until_its_power_is_cut() -> Result<()> {
    if std::env::var_os("OCTROI_VM").is_none() {
        println!(
            "SKIPPED: says_what_it_has_seen_until_its_power_is_cut: this is for a machine that may be \
             killed; run `cargo xtask power-cut`"
        );
        return Ok(());
    }
    println!();
    let last = word("last")? == "1";
    let mut next: u64 = word("next")?.parse()?;
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    say(
        "boot",
        &[boot_id.trim().replace('-', ""), boot_ns().to_string()],
    );

    let mut site = Site::new(&TENANTS)?;
    let section = format!(
        "\n[meter]\nledger = \"{LEDGER}\"\nwindow = \"{}\"\n",
        word("window")?
    );
    // Only what is meant for the uplink's other end goes there: it is bob's count.
    let quiet = format!("bridge link set dev {UPLINK} mcast_flood off");
    site.host.command(&quiet)?;
    site.write_config(&(site.config("shape = \"police\"") + &section))?;
    let _sinks = [
        traffic::udp_sink(&site.remote, 7)?,
        traffic::udp_sink(&site.tenants[BOB], 7)?,
    ];
    say("opening", &[boot_ns().to_string()]);
    site.start(octroi())?;

    let before = settle(|| carried(&site))?;
    say("before", &before.map(|bytes| bytes.to_string()));
    let until = Instant::now() + if last { LAST } else { PATIENCE };
    send(&site, ALICE, ipv4(BOB + 1), until)?;
    send(&site, BOB, ipv4(REMOTE), until)?;
    say("running", &[boot_ns().to_string()]);
    let mut db = None;
    while Instant::now() < until {
        let begun = boot_ns();
        let bytes = carried(&site)?;
        let mut words = vec![begun.to_string(), boot_ns().to_string()];
        words.extend(bytes.map(|bytes| bytes.to_string()));
        say("seen", &words);
        if db.is_none() {
            db = open_ledger()?;
        }
        if let Some(db) = &db {
            say_committed(db, &site, &mut next)?;
        }
        std::thread::sleep(LOOK);
    }
    ensure!(last, "nobody cut the power:\n{}", site.log());
    let end = settle(|| carried(&site))?;
    site.stop();
    say("end", &end.map(|bytes| bytes.to_string()));
    Ok(())
}
