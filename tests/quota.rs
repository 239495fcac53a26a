//! Budgets of bytes, end to end: the real daemon, real traffic both ways, `octroi quota`, and the ledger.
//!
//! `alice` has a budget of what she sends and receives together in five minutes, after which nothing passes; `bob` has one of
//! what he sends, after which 1 Mbit/s passes. Both are flooded all the time. What is spent is held against the registers and
//! against the ledger's file, read by SQL: spent, raised, killed, rolled over to the next period, and taken out of the kernel.
//!
//! The daemon's wall clock begins shortly before a period's end (`own_clock`).

mod own_clock;
mod support;

use anyhow::{Context as _, Result, ensure};
use octroi::{
    daemon::{QuotaStatus, control::Request},
    lab::{
        Namespace, Site,
        site::{REMOTE, ipv4, ipv6},
        traffic::{self, Datagrams},
    },
};
use own_clock::OwnClock;
use std::{
    net::IpAddr,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use support::{alone, can_run, octroi, settle, tenant};

const PERIOD_NS: i64 = 300_000_000_000;
/// So long before its end the first period begins to be looked at: a busy machine takes a while to spend two budgets.
const BEFORE_END_NS: i64 = 75_000_000_000;

const ALICE: u64 = 3_000_000;
const ALICE_RAISED: u64 = 5_000_000;
const BOB: u64 = 1_000_000;
const BOB_THEN_BITS: u64 = 1_000_000;
/// The largest packet on the site: nobody here has offloads.
const LARGEST: u64 = 1_514;

/// Numbers of zones: what stays on the host, which nobody's budget counts, and the one that bob's counts.
const INTRA_HOST: u32 = 1;
const REMOTE_SITE: u32 = 4;

/// Does this tenant's budget count this zone? A namespace says a little by itself, to groups.
fn counts(tenant: u32, zone: u32) -> bool {
    match tenant {
        1 => zone != INTRA_HOST,
        _ => zone == REMOTE_SITE,
    }
}

/// Everybody sends to everybody else but each other, until told to stop.
struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Flood {
    fn start(site: &Site) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (index, tenant) in site.tenants.iter().enumerate() {
            let own: [IpAddr; 2] = [ipv4(index + 1).parse()?, ipv6(index + 1).parse()?];
            let remote: [IpAddr; 2] = [ipv4(REMOTE).parse()?, ipv6(REMOTE).parse()?];
            threads.push(Self::sender(tenant, remote, &stop)?);
            threads.push(Self::sender(&site.remote, own, &stop)?);
        }
        Ok(Self { stop, threads })
    }

    fn sender(
        from: &Namespace,
        to: [IpAddr; 2],
        stop: &Arc<AtomicBool>,
    ) -> Result<JoinHandle<Result<()>>> {
        let stop = Arc::clone(stop);
        Ok(traffic::inside(from.open()?, move || {
            let mut turn = 0;
            while !stop.load(Relaxed) {
                let how = Datagrams {
                    size: [40, 1_300][turn / 2 % 2],
                    segment: None,
                    gap: Duration::from_millis(2),
                };
                let soon = Instant::now() + Duration::from_millis(20);
                traffic::udp_send((to[turn % 2], 7), how, soon)?;
                turn += 1;
            }
            Ok(())
        }))
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        Ok(())
    }
}

struct Budgets {
    site: Site,
    ledger: PathBuf,
    clock: OwnClock,
}

impl Budgets {
    fn config(&self, alice: u64) -> String {
        let quotas = [
            format!("{{ bytes = \"{alice}B\", period = \"5min\", then = \"drop\" }}"),
            format!(
                "{{ bytes = \"{BOB}B\", period = \"5min\", direction = \"from_tenant\", zones = [\"remote-site\"], \
                 then = \"1Mbit/s\" }}"
            ),
        ];
        let mut text = self.site.config("shape = \"police\"");
        for (index, quota) in quotas.iter().enumerate() {
            let id = format!("\nid = {}\n", index + 1);
            text = text.replacen(&id, &format!("{id}quota = {quota}\n"), 1);
        }
        let ledger = self.ledger.display();
        text + &format!("\n[meter]\nledger = \"{ledger}\"\nwindow = \"100ms\"\n")
    }

    fn start(&mut self) -> Result<()> {
        self.site.start_with(octroi(), &self.clock.environment())
    }

    /// What `octroi quota --json` says of alice and bob.
    fn quotas(&self) -> Result<[QuotaStatus; 2]> {
        let run = Command::new(octroi())
            .args(["quota", "--json", "--run-dir"])
            .arg(self.site.run_dir())
            .arg("--pin-dir")
            .arg(self.site.pin_dir())
            .output()?;
        ensure!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
        let all: Vec<QuotaStatus> = serde_json::from_slice(&run.stdout)?;
        let all: Result<[QuotaStatus; 2], _> = all.try_into();
        all.map_err(|all| anyhow::anyhow!("{all:?}"))
    }

    /// Waits until they say so, 120 s at most.
    fn until(
        &self,
        what: &str,
        holds: impl Fn(&[QuotaStatus; 2]) -> bool,
    ) -> Result<[QuotaStatus; 2]> {
        let begun = Instant::now();
        loop {
            let quotas = self.quotas()?;
            if holds(&quotas) {
                return Ok(quotas);
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(120),
                "{what}: never happened: {quotas:?}\n{}",
                self.site.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Layer-2 bytes of zones that count that were delivered to and from a tenant, and dropped because its budget was spent: all its ports of
    /// these maps.
    fn registers(&self, tenant: u32) -> Result<([u64; 2], u64)> {
        let report = self.site.report()?;
        let (mut delivered, mut spent) = ([0; 2], 0);
        for port in report.ports.iter().filter(|port| port.tenant == tenant) {
            for (at, side) in [&port.from_tenant, &port.to_tenant].into_iter().enumerate() {
                let zones = side.zones.iter().filter(|(zone, _)| counts(tenant, *zone));
                delivered[at] += zones.map(|(_, sums)| sums.l2_bytes).sum::<u64>();
                let drops = side.drops.iter().filter(|(name, _)| name == "quota_spent");
                spent += drops.map(|(_, counts)| counts.l2_bytes).sum::<u64>();
            }
        }
        Ok((delivered, spent))
    }

    /// The same of the ledger's zone records of a period, by direction.
    fn records(&self, tenant: u32, (from, to): (i64, i64)) -> Result<[u64; 2]> {
        let db = rusqlite::Connection::open(&self.ledger)?;
        let mut select = db.prepare(
            "SELECT direction, zone, l2_bytes, window_start, window_end FROM record WHERE kind IN (1, 5) \
             AND zone >= 0 AND tenant = ?1 AND window_start < ?3 AND window_end > ?2",
        )?;
        let rows = select.query_map((tenant, from, to), |row| {
            let numbers = [row.get::<_, i64>(2)?, row.get(3)?, row.get(4)?];
            Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?, numbers))
        })?;
        let mut sums = [0; 2];
        for row in rows {
            let (direction, zone, [bytes, start, end]) = row?;
            // A window that a busy machine cut late is in two periods, by time (docs/METERING.md, M-16.5).
            let before = |time: i64| {
                let elapsed = i128::from(time.clamp(start, end) - start);
                i128::from(bytes) * elapsed / i128::from(end - start)
            };
            if counts(tenant, zone) {
                sums[direction as usize & 1] += u64::try_from(before(to) - before(from))?;
            }
        }
        Ok(sums)
    }

    /// Nobody sends any more: what is spent is what the records of the period are, to the byte.
    fn settled(&self) -> Result<[QuotaStatus; 2]> {
        let quotas = settle(|| self.quotas())?;
        // The last window that has something is in the ledger two windows later.
        std::thread::sleep(Duration::from_millis(500));
        for quota in &quotas {
            let records = self.records(quota.id, (quota.from_utc_ns, quota.to_utc_ns))?;
            let counted = match quota.direction.as_str() {
                "both" => records[0] + records[1],
                _ => records[0],
            };
            ensure!(
                quota.spent_bytes == counted,
                "{quota:?}; the records of the period have {records:?}\n{}",
                self.site.log()
            );
        }
        Ok(quotas)
    }
}

fn is_over(quota: &QuotaStatus) -> bool {
    quota.in_force != "budget"
}

#[test]
fn a_budget_is_spent_raised_and_rolled_over_to_the_byte() -> Result<()> {
    const TEST: &str = "a_budget_is_spent_raised_and_rolled_over_to_the_byte";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    let site = Site::new(&[tenant("alice", false), tenant("bob", false)])?;
    let Some(clock) = OwnClock::new(site.directory())? else {
        println!("SKIPPED: {TEST}: there is no rustc to make the clock with");
        return Ok(());
    };
    let end = clock.now() / PERIOD_NS * PERIOD_NS + PERIOD_NS;
    clock.set(end - BEFORE_END_NS)?;
    let ledger = site.directory().join("ledger.db");
    let mut budgets = Budgets {
        site,
        ledger,
        clock,
    };
    budgets.site.write_config(&budgets.config(ALICE))?;
    budgets.start()?;

    // Spent.
    let flood = Flood::start(&budgets.site)?;
    budgets.until("both are spent", |all| all.iter().all(is_over))?;
    flood.stop()?;
    let [alice, bob] = budgets.settled()?;
    ensure!(
        alice.to_utc_ns == end,
        "the period is not that of the clock: {alice:?}"
    );
    let over = ALICE..ALICE + LARGEST;
    ensure!(over.contains(&alice.spent_bytes), "{alice:?}");
    ensure!(
        bob.spent_bytes >= BOB && bob.in_force == "slower",
        "{bob:?}"
    );
    let (delivered, spent) = budgets.registers(1)?;
    ensure!(delivered[0] + delivered[1] == alice.spent_bytes && spent > 0);
    println!(
        "QUOTA: spent {} of {ALICE} B, then {spent} B dropped",
        alice.spent_bytes
    );

    // No daemon: the kernel goes on.
    budgets.site.kill()?;
    let flood = Flood::start(&budgets.site)?;
    std::thread::sleep(Duration::from_secs(2));
    budgets.start()?;
    std::thread::sleep(Duration::from_secs(1));
    let (still, _) = budgets.registers(1)?;
    ensure!(
        still == delivered,
        "bytes passed a spent budget through kill -9 and a start: {delivered:?}, {still:?}"
    );

    // Raised under traffic; what bob has after his is a rate.
    let before = (budgets.registers(2)?.0, Instant::now());
    let raised = budgets.config(ALICE_RAISED);
    budgets.site.write_config(&raised)?;
    budgets.site.ask(&Request::Apply { config: raised })?;
    budgets.until("alice's raised budget is spent", |[alice, _]| {
        is_over(alice)
    })?;
    std::thread::sleep(Duration::from_secs(3));
    let (after, took) = (budgets.registers(2)?.0, before.1.elapsed());
    flood.stop()?;
    let [alice, bob] = budgets.settled()?;
    let over = ALICE_RAISED..ALICE_RAISED + LARGEST;
    ensure!(over.contains(&alice.spent_bytes), "{alice:?}");
    let rate = ((after[0] - before.0[0]) * 8) as f64 / took.as_secs_f64();
    ensure!(
        (0.8..1.2).contains(&(rate / BOB_THEN_BITS as f64)),
        "{rate} bit/s passed after bob's budget, {BOB_THEN_BITS} should"
    );
    ensure!(
        after[1] - before.0[1] > (after[0] - before.0[0]) * 3 / 2,
        "what bob's budget does not count is slower too: {before:?} {after:?}"
    );
    println!("QUOTA: after his budget bob sends {rate:.0} bit/s");
    let db = rusqlite::Connection::open(&budgets.ledger)?;
    let entered: i64 = db.query_row(
        "SELECT count(*) FROM look WHERE what LIKE '%quota of tenant alice: 3MB%5MB%'",
        [],
        |row| row.get(0),
    )?;
    ensure!(entered == 1, "{entered} entries of the raise");
    drop(db);
    let first = (alice, bob);

    // The next period, under traffic.
    let flood = Flood::start(&budgets.site)?;
    budgets.until("the next period", |all| {
        all.iter().all(|quota| quota.from_utc_ns == end)
    })?;
    budgets.until("the next period's are spent", |all| {
        all.iter()
            .all(|quota| quota.from_utc_ns == end && is_over(quota))
    })?;
    flood.stop()?;
    let [alice, bob] = budgets.settled()?;
    let over = ALICE_RAISED..ALICE_RAISED + LARGEST;
    ensure!(over.contains(&alice.spent_bytes), "{alice:?}");
    // No byte is in both periods, or in neither.
    let (delivered, _) = budgets.registers(1)?;
    let both = first.0.spent_bytes + alice.spent_bytes;
    ensure!(
        delivered[0] + delivered[1] == both,
        "{delivered:?} were delivered in two periods; spent were {} and {}",
        first.0.spent_bytes,
        alice.spent_bytes
    );
    let (delivered, _) = budgets.registers(2)?;
    // While the period ended, bob went on at his slower rate: those bytes are in the first one's records.
    let closed = budgets.records(2, (first.1.from_utc_ns, end))?[0];
    ensure!(
        delivered[0] == closed + bob.spent_bytes && closed >= first.1.spent_bytes,
        "{delivered:?} were delivered; spent were {closed} and {}",
        bob.spent_bytes
    );
    println!(
        "QUOTA: the next period: {} and {} B spent",
        alice.spent_bytes, bob.spent_bytes
    );

    // The maps are gone, as after a reboot; the ledger is not.
    budgets.site.stop();
    budgets.start()?;
    let [again, bob_again] = budgets.quotas()?;
    ensure!(
        (again.spent_bytes, bob_again.spent_bytes) == (alice.spent_bytes, bob.spent_bytes)
            && is_over(&again)
            && is_over(&bob_again),
        "{again:?}, {bob_again:?} after {alice:?}, {bob:?}"
    );
    let flood = Flood::start(&budgets.site)?;
    std::thread::sleep(Duration::from_secs(2));
    flood.stop()?;
    let (delivered, spent) = budgets.registers(1)?;
    ensure!(
        delivered == [0, 0] && spent > 0,
        "{delivered:?} B passed a budget that was spent before the maps were made"
    );
    budgets.settled()?;
    println!("CASES: ends of budgets with the real daemon: 8");
    budgets.site.report().context("the daemon lives").map(drop)
}
