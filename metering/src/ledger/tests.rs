//! A host to try the ledger on: a kernel whose registers only grow, the daemon's writer, and an archive of
//! everything that was ever committed, by whatever file.

mod audit;
mod correct;
mod detail;
mod faults;
mod forget;
mod forks;
mod late;
mod model;
mod restart;
mod retain;

use super::*;
use crate::{
    meter::{Owner, Sums, Time},
    record::{Clock, Kind},
    window::Counts,
};
use audit::Archive;
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

const ZONES: usize = 4;
const MINUTE_NS: u64 = 60_000_000_000;

/// Epoch and incarnation.
type Subject = (([u8; 16], [u8; 16]), u64);
/// What each subject's registers are, by direction.
type Registers = BTreeMap<Subject, [Sums; 2]>;
/// The bytes of a ledger and its journal, and what it has noted.
type Copy = (Vec<u8>, Option<Vec<u8>>, Option<Registers>);

fn by_level<T>(quick: T, normal: T, long: T) -> T {
    match std::env::var("OCTROI_TEST_LEVEL").as_deref() {
        Ok("quick") => quick,
        Ok("long") => long,
        _ => normal,
    }
}

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let shm = Path::new("/dev/shm");
        let base = match shm.is_dir() {
            true => shm.to_owned(),
            false => std::env::temp_dir(),
        };
        let name = format!(
            "octroi-ledger-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        let path = base.join(name);
        fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A host: its kernel, and the daemon's writer as `src/daemon/meter.rs` has it.
struct Host {
    dir: Dir,
    path: PathBuf,
    identity: Identity,
    owners: Vec<Owner>,
    window: u64,
    incarnations: Range<u64>,
    boots: u8,
    /// What the pinned map says, and what the process knows.
    kernel: Anchor,
    remembered: Anchor,
    memory: Option<State>,
    ledger: Option<Ledger>,
    archive: Archive,
    /// What must be accounted for: registers at the last commit, or in a checkpoint that was taken up.
    accounted: Registers,
    /// What the checkpoint in the file says, while it says something.
    noted: Option<Registers>,
    /// Ledgers that were begun because another could not be continued.
    superseded: Vec<String>,
    /// How often nothing remembered what a ledger that is lost had delivered.
    losses: u64,
    recovered: u64,
}

impl Host {
    fn new() -> Self {
        let dir = Dir::new();
        let path = dir.0.join("ledger.db");
        let mut host = Self {
            dir,
            path,
            identity: Identity {
                machine_id: "machine".into(),
                ..Identity::default()
            },
            owners: Vec::new(),
            window: 0,
            incarnations: 1..u64::MAX,
            boots: 0,
            kernel: Anchor::default(),
            remembered: Anchor::default(),
            memory: None,
            ledger: None,
            archive: Archive::default(),
            accounted: Registers::new(),
            noted: None,
            superseded: Vec::new(),
            losses: 0,
            recovered: 0,
        };
        host.identity.now.utc_ns = 1_800_000_000_000_000_000;
        host.boot(true);
        host.come();
        host
    }

    /// New maps; `host`: and a new boot.
    fn boot(&mut self, host: bool) {
        self.boots += 1;
        if host {
            self.identity.epoch.boot_id = [self.boots; 16];
            self.identity.now.boot_ns = 5_000_000_000;
            self.identity.now.mono_ns = 5_000_000_000;
        }
        self.identity.epoch.host = "host".into();
        self.identity.epoch.map_generation = [100 + self.boots; 16];
        self.owners.clear();
        self.window = 0;
        self.incarnations.start = 1;
        self.kernel = Anchor::default();
    }

    fn time(&mut self) -> &mut Time {
        &mut self.identity.now
    }

    fn wait(&mut self, ns: u64) {
        let time = self.time();
        time.boot_ns += ns;
        time.mono_ns += ns / 2; // suspended half of it
        time.utc_ns += ns as i64;
    }

    fn come(&mut self) {
        let sums = || Sums {
            zones: vec![Counts::default(); ZONES],
            drops: vec![[0; 2]; 32],
            evidence: vec![[0; 2]; 8],
            skbs: [0; 4],
        };
        let incarnation = self.incarnations.next().unwrap_or_default();
        self.owners.push(Owner {
            incarnation,
            name: format!("port-{}", incarnation % 3),
            tenant: (incarnation % 3) as u32,
            live: true,
            since_ns: self.identity.now.boot_ns,
            directions: Some([sums(), sums()]),
            ..Owner::default()
        });
    }

    fn go(&mut self, owner: usize) {
        let count = self.owners.len().max(1);
        if let Some(owner) = self.owners.get_mut(owner % count) {
            owner.live = false;
        }
    }

    fn carry(&mut self, owner: usize, direction: usize, zone: usize, packets: u64, bytes: u64) {
        let mut live: Vec<&mut Owner> = self.owners.iter_mut().filter(|one| one.live).collect();
        let count = live.len().max(1);
        let owner = live.get_mut(owner % count);
        let Some(directions) = owner.and_then(|owner| owner.directions.as_mut()) else {
            return;
        };
        let sums = &mut directions[direction];
        let counts = &mut sums.zones[zone];
        counts.packets += packets;
        counts.l2_bytes += packets * bytes;
        counts.l3_bytes += packets * (bytes - 14);
        sums.evidence[zone][0] += packets;
        sums.evidence[zone][1] += packets * bytes;
        sums.drops[zone + 1][0] += 1;
        sums.drops[zone + 1][1] += 64;
        sums.skbs[0] += packets;
        sums.skbs[1] += packets * bytes;
    }

    fn registers<'a>(&self, owners: impl IntoIterator<Item = &'a Owner>) -> Registers {
        let epoch = &self.identity.epoch;
        owners
            .into_iter()
            .map(|owner| {
                let subject = ((epoch.boot_id, epoch.map_generation), owner.incarnation);
                (subject, owner.directions.clone().unwrap_or_default())
            })
            .collect()
    }

    /// As the writer opens it, and the daemon hears of it.
    fn open(&mut self) -> Result<(), LedgerError> {
        if self.ledger.is_some() {
            return Ok(());
        }
        let memory = self.memory.as_ref();
        let begun = Ledger::open(&self.path, &self.identity, &self.remembered, memory)?;
        self.remembered = begun.ledger.anchor();
        self.kernel = self.remembered;
        if begun.superseded.is_some() {
            // The checkpoint was in the file that is not continued.
            self.noted = None;
            self.losses += u64::from(memory.is_none());
        }
        self.superseded.extend(begun.superseded);
        if let Some(recovered) = begun.recovered {
            self.recovered += recovered.records;
            self.accounted.extend(self.noted.take().unwrap_or_default());
        }
        self.ledger = Some(begun.ledger);
        Ok(())
    }

    /// A cut whose commit the daemon hears of; without `heard` the kernel is not told.
    fn cut(&mut self, heard: bool) -> Result<Committed, LedgerError> {
        let cut = Cut {
            window: self.window,
            revision: 1,
            time: self.identity.now,
            nominal_ns: None,
            window_ns: MINUTE_NS,
            clock: Clock::default(),
            owners: self.owners.clone(),
            interfaces: None,
            ..Cut::default()
        };
        self.window += 1;
        self.open()?;
        let registers = self.registers(&self.owners);
        let Some(ledger) = self.ledger.as_mut() else {
            unreachable!("it was opened");
        };
        let before = (ledger.state().clone(), ledger.anchor());
        let committed = ledger.commit(&cut, None);
        match &committed {
            Ok(committed) => {
                self.accounted.extend(registers);
                self.noted = None;
                self.remembered = committed.anchor;
                if heard {
                    self.kernel = committed.anchor;
                    let closed = &committed.closed;
                    self.owners
                        .retain(|owner| !closed.contains(&owner.incarnation));
                }
            }
            Err(error) => {
                assert_eq!(before, (ledger.state().clone(), ledger.anchor()));
                let (text, path) = (error.to_string(), self.path.display().to_string());
                assert!(text.contains(&path), "{text}");
            }
        }
        committed
    }

    /// As the writer does after any failure.
    fn forget(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            self.memory = Some(ledger.state().clone());
        }
    }

    fn checkpoint(&mut self) -> Result<(), LedgerError> {
        self.open()?;
        let live = || self.owners.iter().filter(|owner| owner.live);
        let registers = self.registers(live());
        let checkpoint = Checkpoint {
            window: self.window,
            revision: 1,
            time: self.identity.now,
            owners: live()
                .map(|owner| CheckpointOwner {
                    incarnation: owner.incarnation,
                    name: owner.name.clone(),
                    tenant: owner.tenant,
                    since_ns: owner.since_ns,
                    directions: owner.directions.clone().unwrap_or_default(),
                    ceilings: [Some((1_000_000_001, 7_000)), None],
                })
                .collect(),
        };
        if let Some(ledger) = self.ledger.as_mut() {
            ledger.checkpoint(&checkpoint)?;
            self.noted = Some(registers);
        }
        Ok(())
    }

    /// `kill -9`: what is in the journal stays there, and the process remembers nothing.
    fn crash(&mut self) {
        let copy = self.copy();
        self.ledger = None;
        if let Some(copy) = copy {
            self.put(&copy);
        }
        self.memory = None;
        self.remembered = self.kernel;
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        begin::beside(&self.path, suffix)
    }

    fn copy(&self) -> Option<Copy> {
        let whole = fs::read(&self.path).ok()?;
        let journal = fs::read(self.beside("wal")).ok();
        Some((whole, journal, self.noted.clone()))
    }

    fn put(&self, (whole, journal, _): &Copy) {
        self.delete(true);
        fs::write(&self.path, whole).expect("a copy can be written");
        if let Some(journal) = journal {
            fs::write(self.beside("wal"), journal).expect("a copy can be written");
        }
    }

    fn delete(&self, journal: bool) {
        let _ = fs::remove_file(&self.path);
        if journal {
            let _ = fs::remove_file(self.beside("wal"));
            let _ = fs::remove_file(self.beside("shm"));
        }
    }

    /// A restart of the host, or of the maps alone.
    fn restart(&mut self, host: bool) {
        self.crash();
        self.boot(host);
        self.remembered = Anchor::default();
    }

    /// Ledgers in the directory, those that were put aside too.
    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir.0).expect("the directory is there");
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let is_ledger = |path: &PathBuf| {
            let name = path.to_string_lossy();
            // A journal whose file was deleted has nothing to look at.
            !name.ends_with("-wal")
                && !name.ends_with("-shm")
                && !name.ends_with(".new")
                && !name.ends_with(".key")
                && !name.ends_with(".pub")
                && !name.contains(".flows-")
        };
        paths.filter(is_ledger).collect()
    }

    /// Reads the file at the path, and holds everything that was ever committed against the registers.
    fn audit(&mut self) {
        if self.path.exists() {
            self.archive.read(&self.path);
        }
        if let Some(ledger) = &self.ledger {
            self.archive.is_at(&ledger.anchor());
        }
        self.archive.accounts_for(&self.accounted);
    }

    /// The same for every file that was put aside, too.
    fn audit_all(&mut self) {
        self.ledger = None;
        for file in self.files() {
            self.archive.read(&file);
        }
        self.audit();
    }

    /// Of the ledger at the path.
    fn records(&self) -> Vec<Record> {
        let rows = query::records(&self.path, &Filter::default()).expect("it can be read");
        rows.into_iter().map(|row| row.expect("a record")).collect()
    }

    fn begin_record(&self) -> Record {
        self.records().swap_remove(0)
    }
}
