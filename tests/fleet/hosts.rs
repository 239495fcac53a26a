//! Three hosts with tenants, traffic and ledgers of their own, and what is compared of them and the store.

use crate::{
    bill::Bill,
    cluster::{Cluster, SERVERS, url},
    database::Database,
    support::{between, octroi, registers, settle, tenant},
    way::{self, Broken},
};
use anyhow::{Context as _, Result, ensure};
use octroi::{
    daemon::{MeterStatus, SinkStatus},
    lab::{
        Site, TenantSpec,
        site::INSIDE,
        traffic::{Mixed, mixed},
    },
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::AtomicBool},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// The same two tenants on every host.
pub const TENANTS: [TenantSpec; 2] = [tenant("alice", false), tenant("bob", false)];

/// A host of the fleet.
pub struct Host {
    pub site: Site,
    pub ledger: PathBuf,
    /// What the tenants' interfaces had sent that octroi did not see: before it was there.
    before: Vec<[u64; 4]>,
}

impl Host {
    /// Starts one whose records go to the cluster; the way there breaks now and then.
    pub fn new(name: &str, cluster: &Cluster, seed: u64, broken: &Broken) -> Result<Self> {
        let mut site = Site::named(&TENANTS, name)?;
        for (number, port) in (1..).zip(cluster.ports) {
            way::open(&site.host, port, seed * 31 + number, broken)?;
        }
        let ledger = site.directory().join("ledger.db");
        let config = site.config("shape = \"police\"")
            + &format!(
                "\n[meter]\nledger = \"{}\"\nwindow = \"250ms\"\n\n[[sink]]\nname = \"fleet\"\nkind = \"nats\"\n\
                 url = \"{}\"\nreplicas = {SERVERS}\npassword_file = \"{}\"\n",
                ledger.display(),
                url(&cluster.ports),
                cluster.password_file().display()
            );
        site.write_config(&config)?;
        site.start(octroi())?;
        let mut host = Self {
            site,
            ledger,
            before: Vec::new(),
        };
        let (mut before, seen) = settle(|| {
            let seen = (0..TENANTS.len()).map(|index| Ok(registers(&host.site, index)?.0));
            Ok((host.sent()?, seen.collect::<Result<Vec<_>>>()?))
        })?;
        for (sent, seen) in before.iter_mut().zip(seen) {
            sent[2] -= seen.total().packets + seen.dropped().packets;
            sent[3] -= seen.total().l2_bytes + seen.dropped().l2_bytes;
        }
        host.before = before;
        Ok(host)
    }

    pub fn meter(&self) -> Result<MeterStatus> {
        self.site.report()?.meter.context("no meter")
    }

    pub fn sink(&self) -> Result<SinkStatus> {
        self.site.report()?.sinks.pop().context("no sink")
    }

    /// What its tenants' interfaces have sent, frames and bytes.
    pub fn sent(&self) -> Result<Vec<[u64; 4]>> {
        let tenants = self.site.tenants.iter();
        tenants.map(|tenant| tenant.counters(INSIDE)).collect()
    }

    /// Datagrams small and large from both tenants, until told to stop.
    pub fn traffic(&self, stop: &Arc<AtomicBool>) -> Result<Vec<JoinHandle<Result<()>>>> {
        let mut threads = Vec::new();
        for namespace in &self.site.tenants {
            let how = Mixed {
                gap: Duration::from_millis(1),
                turn: Duration::from_millis(20),
                limit: Duration::from_secs(300),
            };
            threads.push(mixed(namespace, how, stop)?);
        }
        Ok(threads)
    }

    /// Waits until the store has confirmed every record that is there by now.
    pub fn caught_up(&self, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        let mut records = None;
        loop {
            let (meter, sink) = (self.meter()?, self.sink()?);
            // A daemon that has just begun does not know its ledger before the first window.
            if meter.windows > 0 {
                let records = *records.get_or_insert(meter.records);
                if sink.progress.confirmed >= records {
                    return Ok(());
                }
            }
            ensure!(
                begun.elapsed() < patience,
                "the store stays behind {records:?}: {sink:?}\n{}",
                self.site.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Stops the daemon with its last window written: by tenant, what the interfaces sent must be what the ledger has.
    /// Returns the bytes.
    pub fn conserved(&mut self) -> Result<u64> {
        let after = loop {
            let settled = settle(|| self.sent())?;
            self.site.stop();
            let after = self.sent()?;
            if after == settled {
                break after;
            }
            self.site.start(octroi())?;
        };
        let bill = Bill::read(&self.ledger)?;
        let mut bytes = 0;
        for ((spec, before), after) in TENANTS.iter().zip(&self.before).zip(after) {
            let sent = between(*before, after);
            let billed = bill.sent_by(spec.name);
            ensure!(
                (billed.packets, billed.l2_bytes) == (sent[2], sent[3]),
                "{}: its interface sent {} packets and {} bytes, its records have {billed:?}\n{}",
                spec.name,
                sent[2],
                sent[3],
                self.site.log()
            );
            ensure!(sent[2] > 100, "{} hardly sent", spec.name);
            bytes += sent[3];
        }
        Ok(bytes)
    }
}

/// `octroi store`, as a process.
pub struct Store(Option<Child>);

impl Store {
    pub fn start(cluster: &Cluster, database: &Database) -> Result<Self> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(cluster.directory.join("store.log"))?;
        let child = Command::new(octroi())
            .args(["store", "--from", &cluster.url(), "--from-password-file"])
            .arg(cluster.password_file())
            .args(["--replicas", &SERVERS.to_string(), "--to", &database.url()])
            .args(["--ack-wait", "2"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self(Some(child)))
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.0.take().context("no store")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.0.is_some() {
            let _ = self.kill();
        }
    }
}

/// (host, tenant, direction, zone, first and last moment of the window) → (records, packets, bytes).
type Rows = BTreeMap<String, (u64, u64, u64)>;

/// What was compared.
#[derive(Debug, Default)]
pub struct Compared {
    pub rows: u64,
    pub records: u64,
    pub bytes: u64,
    pub difference_bytes: u64,
    pub difference_packets: u64,
    pub missing: u64,
    pub duplicates: u64,
}

/// Ledgers as SQLite reads them against the store as PostgreSQL does, by host, tenant, direction, zone and window.
pub fn compare(hosts: &[Host], database: &Database) -> Result<Compared> {
    let mut ledgers = Rows::new();
    for host in hosts {
        let db = rusqlite::Connection::open(&host.ledger)?;
        let name: String = db.query_row(
            "SELECT hex(value) FROM about WHERE key = 'ledger_id'",
            [],
            |row| row.get(0),
        )?;
        let mut rows = db.prepare(
            "SELECT tenant, direction, zone, window_start, window_end, count(*), sum(packets), sum(l2_bytes) \
             FROM record WHERE kind = 1 AND zone >= 0 GROUP BY 1, 2, 3, 4, 5",
        )?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let number = |at: usize| row.get::<_, i64>(at);
            let key = [number(0)?, number(1)?, number(2)?, number(3)?, number(4)?];
            let key = key.map(|part| part.to_string()).join("|");
            let sums = (number(5)? as u64, number(6)? as u64, number(7)? as u64);
            ledgers.insert(format!("{}|{key}", name.to_lowercase()), sums);
        }
    }
    let text = database.ask(
        "SELECT encode(ledger_id, 'hex'), tenant, direction, zone, window_start, window_end, count(*), sum(packets), \
         sum(l2_bytes) FROM octroi.billed GROUP BY 1, 2, 3, 4, 5, 6",
    )?;
    let mut store = Rows::new();
    for line in text.lines() {
        let parts: Vec<&str> = line.split('|').collect();
        ensure!(parts.len() == 9, "{line}");
        let number = |at: usize| parts[at].parse::<u64>();
        store.insert(parts[..6].join("|"), (number(6)?, number(7)?, number(8)?));
    }
    let mut compared = Compared::default();
    let keys = ledgers.keys().chain(store.keys());
    let keys: std::collections::BTreeSet<&String> = keys.collect();
    for key in keys {
        let here = ledgers.get(key).copied().unwrap_or_default();
        let there = store.get(key).copied().unwrap_or_default();
        compared.rows += 1;
        compared.records += here.0;
        compared.bytes += here.2;
        compared.missing += here.0.saturating_sub(there.0);
        compared.duplicates += there.0.saturating_sub(here.0);
        compared.difference_packets += here.1.abs_diff(there.1);
        compared.difference_bytes += here.2.abs_diff(there.2);
    }
    let twice = database.ask(
        "SELECT count(*) FROM (SELECT 1 FROM octroi.record WHERE kind = 1 GROUP BY host, boot_id, map_generation, \
         port_uid, incarnation, direction, zone, window_id HAVING count(*) > 1) AS twice",
    )?;
    compared.duplicates += twice.parse::<u64>()?;
    Ok(compared)
}
