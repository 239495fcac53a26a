//! The audit of every window, on a real host: what an interface carried while a program was off it is found,
//! in the windows in which it happened; and hundreds of windows of mixed traffic are no alarm
//! (`docs/METERING.md`, M-7.13, M-6.7, M-6.13, M-1.7).

#[path = "audit/site.rs"]
mod site;
mod support;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::abi::ABI_VERSION;
use metering::record::{Flags, Kind, Record};
use octroi::lab::site::INSIDE;
use site::{Audited, CEILING, CHURNED, Mixed, burst};
use std::time::{Duration, Instant};
use support::{alone, between, by_level, can_run, settle};

/// A port's `*` records in one direction.
fn all_zones(records: &[Record], port: &str, direction: u8) -> Vec<Record> {
    let of_it = |record: &&Record| {
        record.kind == Kind::Meter
            && record.zone.is_none()
            && record.port_uid == port
            && record.direction == direction
    };
    records.iter().filter(of_it).cloned().collect()
}

/// Takes octroi's programs off a tenant's interface, as somebody might.
fn detach(audited: &Audited, tenant: usize) -> Result<()> {
    let port = audited.site.port(tenant);
    if dataplane::attach::mechanism() != dataplane::attach::Mechanism::Tcx {
        let line = format!("tc qdisc del dev {port} clsact");
        return audited.site.host.command(&line).map(drop);
    }
    let links = audited.site.pin_dir().join(format!("v{ABI_VERSION}/links"));
    let interfaces = audited.site.host.interfaces()?;
    let interface = interfaces.get(&port).context("no such port")?;
    for program in ["from_tenant", "to_tenant"] {
        std::fs::remove_file(links.join(format!("{}-{program}", interface.index)))?;
    }
    // The kernel takes a link apart when it has time.
    let begun = Instant::now();
    while audited
        .site
        .host
        .run(|| dataplane::attach::any(interface))?
    {
        ensure!(begun.elapsed() < Duration::from_secs(10), "still attached");
        // A daemon that runs may have put it back meanwhile.
        if audited.site.log().contains("put back") {
            break;
        }
    }
    Ok(())
}

#[test]
fn what_passes_while_a_program_is_off_is_found_in_its_window() -> Result<()> {
    const TEST: &str = "what_passes_while_a_program_is_off_is_found_in_its_window";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let mut audited = Audited::new("1s", "police")?;
    audited.start()?;
    let rounds = by_level(2, 3, 6);
    let mut expected = Vec::<[u64; 4]>::new();
    for round in 0..rounds {
        // Windows in which everything is counted.
        burst(&audited.site, 0, 300)?;
        let now = audited.status()?.windows;
        audited.wait("windows", |status| status.windows > now + 1)?;
        // The daemon is not there to put it back at once, and counting goes on for everybody else.
        audited.site.kill()?;
        detach(&audited, 0)?;
        let before = audited.site.tenants[0].counters(INSIDE)?;
        burst(&audited.site, 0, 200 + 50 * round)?;
        let after = audited.site.tenants[0].counters(INSIDE)?;
        audited.site.start(support::octroi())?;
        audited.wait("an alarm", |status| status.audit.unmetered > 0)?;
        expected.push(between(before, after));
        burst(&audited.site, 0, 300)?;
        let now = audited.status()?.windows;
        audited.wait("windows", |status| status.windows > now + 1)?;
    }
    let log = audited.site.log();
    let alarms = log
        .matches("ALARM: UNMETERED: p-alice, from the tenant")
        .count();
    ensure!(
        alarms == expected.len(),
        "{alarms} alarms of {}\n{log}",
        expected.len()
    );
    let records = audited.finish()?;
    let mut flagged = Vec::new();
    for record in all_zones(&records, "alice-port", 0) {
        if record.flags.has(Flags::UNMETERED) {
            flagged.push(record);
        }
    }
    ensure!(flagged.len() == expected.len(), "{flagged:?}\n{log}");
    for (record, sent) in flagged.iter().zip(&expected) {
        let (min, max) = (record.bytes_min, record.bytes_max);
        let (min, max) = min.zip(max).context("no bounds")?;
        let counted = record.counted().context("no reading")?.l2_bytes;
        ensure!(min == counted, "{record:?}");
        ensure!(
            max >= min + sent[3],
            "its interface sent {sent:?}: {record:?}"
        );
        // And not everything is told as missing: what is counted beside it is at most doubled.
        ensure!(max <= min + 2 * sent[3] + (1 << 20), "{sent:?}: {record:?}");
        let zones = records.iter().filter(|other| {
            other.window_id == record.window_id
                && other.incarnation == record.incarnation
                && other.direction == 0
        });
        for zone in zones {
            ensure!(zone.flags == record.flags, "{zone:?}");
        }
    }
    // Nobody else is accused.
    for other in ["bob-port", "carol-port"] {
        for direction in 0..2 {
            let found = all_zones(&records, other, direction);
            ensure!(
                found
                    .iter()
                    .all(|record| !record.flags.has(Flags::UNMETERED))
            );
        }
    }
    println!(
        "CASES: times that programs were off an interface under traffic, each found in its window: {rounds}"
    );
    Ok(())
}

#[test]
fn a_program_that_is_put_back_within_a_second_was_missed_nevertheless() -> Result<()> {
    const TEST: &str = "a_program_that_is_put_back_within_a_second_was_missed_nevertheless";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let mut audited = Audited::new("1s", "police")?;
    audited.start()?;
    burst(&audited.site, 0, 300)?;
    let now = audited.status()?.windows;
    audited.wait("windows", |status| status.windows > now + 1)?;
    ensure!(
        audited.status()?.audit.unmetered == 0,
        "{:?}",
        audited.status()?
    );
    detach(&audited, 0)?;
    burst(&audited.site, 0, 300)?;
    let status = audited.wait("an alarm", |status| status.audit.unmetered > 0)?;
    let last = status.audit.last.clone().unwrap_or_default();
    ensure!(last.contains("p-alice"), "{last}");
    let table = audited.show_status()?;
    ensure!(table.contains("UNMETERED"), "{table}");
    println!("CASES: programs detached and put back within a second, and told: 1");
    Ok(())
}

/// Windows of mixed traffic under a shape; returns how many there were.
fn no_alarm(shape: &str, windows: u64) -> Result<u64> {
    let mut audited = Audited::new("100ms", shape)?;
    audited.start()?;
    let traffic = Mixed::start(&audited.site)?;
    let begun = Instant::now();
    let (mut churned, mut round) = (0, 0);
    while audited.status()?.windows < windows {
        ensure!(
            begun.elapsed() < Duration::from_secs(300),
            "{}",
            audited.site.log()
        );
        std::thread::sleep(Duration::from_millis(500));
        round += 1;
        if round % 8 == 3 {
            let port = audited.site.port(CHURNED);
            audited.site.host.command(&format!("ip link del {port}"))?;
            audited.site.connect_tenant(CHURNED)?;
            churned += 1;
        }
        if round == 10 {
            // The next daemon goes on with what the ledger kept.
            audited.site.kill()?;
            audited.site.start(support::octroi())?;
        }
    }
    traffic.stop()?;
    settle(|| audited.site.tenants[0].counters(INSIDE))?;
    let now = audited.status()?.windows;
    audited.wait("a quiet window", |status| status.windows > now + 2)?;
    let status = audited.status()?;
    let log = audited.site.log();
    let drops: u64 = audited
        .site
        .report()?
        .ports
        .iter()
        .filter(|port| port.name == "bob-port")
        .map(|port| port.from_tenant.dropped().packets + port.to_tenant.dropped().packets)
        .sum();
    let records = audited.finish()?;
    let false_alarms: Vec<&Record> = records
        .iter()
        .filter(|record| record.flags.has(Flags::UNMETERED))
        .collect();
    ensure!(
        false_alarms.is_empty() && !log.contains("ALARM") && status.audit.unmetered == 0,
        "{shape}: {false_alarms:?}\n{log}"
    );
    ensure!(status.audit.not_audited.is_empty(), "{:?}", status.audit);
    // Each window of each tenant's port was audited: the interface says what it lost.
    let told = all_zones(&records, "alice-port", 1)
        .iter()
        .filter(|record| {
            record
                .total
                .as_ref()
                .is_some_and(|total| total.post_meter_drops.is_some())
        })
        .count();
    ensure!(
        told as u64 >= windows / 2,
        "{told} windows with post_meter_drops"
    );
    ensure!(
        drops > 0,
        "{CEILING}: the ceiling dropped nothing under {shape}"
    );
    println!("CASES: ports that went and came during it, {shape}: {churned}");
    let mut ids: Vec<u64> = records.iter().map(|record| record.window_id).collect();
    ids.dedup();
    Ok(ids.len() as u64)
}

#[test]
fn windows_of_mixed_traffic_are_no_alarm() -> Result<()> {
    const TEST: &str = "windows_of_mixed_traffic_are_no_alarm";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let each = by_level(60, 120, 1_000);
    for shape in ["police", "htb"] {
        let windows = no_alarm(shape, each)?;
        println!("CASES: windows of mixed traffic without a false alarm, {shape}: {windows}");
    }
    Ok(())
}

#[test]
fn two_tenants_on_one_interface_are_audited_together() -> Result<()> {
    const TEST: &str = "two_tenants_on_one_interface_are_audited_together";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let mut audited = Audited::with_vlans("1s")?;
    audited.start()?;
    let ports = audited.send_tagged(500)?;
    let now = audited.status()?.windows;
    audited.wait("windows", |status| status.windows > now + 1)?;
    let status = audited.status()?;
    ensure!(status.audit.unmetered == 0, "{:?}", status.audit);
    ensure!(
        ports.iter().all(|skbs| *skbs > 0),
        "{ports:?}: nothing was counted"
    );
    let host = audited.site.port(0);
    let rx = audited.site.host.counters(&host)?[0];
    ensure!(rx >= 500, "{rx}");
    // And when the program is off, both are told.
    audited.site.kill()?;
    detach(&audited, 0)?;
    audited.send_raw(300)?;
    audited.site.start(support::octroi())?;
    audited.wait("an alarm", |status| status.audit.unmetered > 0)?;
    let records = audited.finish()?;
    for port in ["alice-port", "alice-2-port"] {
        let found = all_zones(&records, port, 0);
        let flagged = found
            .iter()
            .filter(|record| record.flags.has(Flags::UNMETERED))
            .count();
        ensure!(flagged == 1, "{port}: {flagged}: {found:?}");
    }
    println!("CASES: ports of VLANs that share an interface, audited together: 2");
    Ok(())
}
