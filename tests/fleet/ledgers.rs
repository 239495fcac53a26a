//! Ledgers as a daemon writes them, of hosts that are made up: real files, by the library's own writer, and beside them what
//! their ports carried, added up here.

use anyhow::{Result, ensure};
use metering::{
    ledger::{Addition, Anchor, Correct, Identity, Ledger},
    meter::{Cut, Epoch, Owner, Sums, Time},
    record::Clock,
    usage::SLOT_NS,
    window::Counts,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// 2026-03-01 and 2026-04-01, UTC.
pub const MARCH_NS: [i64; 2] = [1_772_323_200_000_000_000, 1_775_001_600_000_000_000];
pub const DAY_NS: i64 = 86_400_000_000_000;
/// Slots of two days: more than the twentieth of a month that no percentile sees.
const OF_MARCH: usize = 2 * 288;
/// Tenants.
pub const ACME: u32 = 7;
pub const BETA: u32 = 8;
/// Zones that registers have.
const ZONES: usize = 6;

/// A directory for ledgers, which goes with the test. A window is a sync: on a disk of memory it is none.
pub struct Shelf(pub PathBuf);

impl Shelf {
    pub fn new(name: &str) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let base = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        let directory = base.join(format!("octroi-ledgers-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory)?;
        Ok(Self(directory))
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A host that meters.
pub struct Metering {
    pub host: String,
    number: u8,
    pub path: PathBuf,
    ledger: Ledger,
    owners: Vec<Owner>,
    window: u64,
    time: Time,
    /// Bytes by tenant and direction since the beginning.
    pub carried: BTreeMap<(u32, usize), u64>,
}

fn none() -> Sums {
    Sums {
        zones: vec![Counts::default(); ZONES],
        drops: vec![[0; 2]; 32],
        evidence: vec![[0; 2]; 8],
        skbs: [0; 4],
    }
}

/// Whose ledger it is.
fn identity(host: &str, number: u8, now: Time) -> Identity {
    Identity {
        epoch: Epoch {
            host: host.into(),
            boot_id: [number; 16],
            map_generation: [number + 100; 16],
        },
        machine_id: host.into(),
        now,
    }
}

impl Metering {
    /// A ledger that begins at this time. `number`: tells its boot and maps from others.
    pub fn new(shelf: &Shelf, host: &str, number: u8, utc_ns: i64) -> Result<Self> {
        let path = shelf.0.join(host).join("ledger.db");
        std::fs::create_dir(shelf.0.join(host))?;
        let time = Time {
            boot_ns: 1_000_000_000_000,
            mono_ns: 1_000_000_000_000,
            utc_ns,
        };
        let identity = identity(host, number, time);
        let begun = Ledger::open(&path, &identity, &Anchor::default(), None)?;
        Ok(Self {
            host: host.into(),
            number,
            path,
            ledger: begun.ledger,
            owners: Vec::new(),
            window: 0,
            time,
            carried: BTreeMap::new(),
        })
    }

    /// A port that begins now; returns its index.
    pub fn port(&mut self, name: &str, tenant: u32) -> usize {
        self.owners.push(Owner {
            incarnation: self.owners.len() as u64 + 1,
            name: name.into(),
            tenant,
            live: true,
            since_ns: self.time.boot_ns,
            directions: Some([none(), none()]),
            ..Owner::default()
        });
        self.owners.len() - 1
    }

    /// A port carries bytes in one direction and zone.
    pub fn carry(&mut self, port: usize, direction: usize, zone: usize, bytes: u64) {
        let owner = &mut self.owners[port];
        *self.carried.entry((owner.tenant, direction)).or_default() += bytes;
        let directions = owner.directions.as_mut().expect("registers");
        let sums = &mut directions[direction];
        let counts = &mut sums.zones[zone];
        let packets = bytes.div_ceil(1_400);
        counts.packets += packets;
        counts.l2_bytes += bytes;
        counts.l3_bytes += bytes - bytes / 100;
        if zone == 4 {
            sums.evidence[5][0] += packets;
            sums.evidence[5][1] += bytes;
        }
    }

    /// Frames of a port are dropped.
    pub fn drop_frames(&mut self, port: usize, reason: usize, frames: u64) {
        if let Some(directions) = &mut self.owners[port].directions {
            directions[0].drops[reason][0] += frames;
            directions[0].drops[reason][1] += frames * 64;
        }
    }

    /// Five minutes pass.
    pub fn pass(&mut self) {
        self.time.boot_ns += SLOT_NS as u64;
        self.time.mono_ns += SLOT_NS as u64;
        self.time.utc_ns += SLOT_NS;
    }

    /// Somebody sets the wall clock.
    pub fn set_clock(&mut self, by_ns: i64) {
        self.time.utc_ns += by_ns;
    }

    /// Opens what lies at its path by now, as a meter does whose file was taken away. Returns what there is to say.
    pub fn open_again(&mut self) -> Result<Option<String>> {
        let identity = identity(&self.host, self.number, self.time);
        let remembered = self.ledger.anchor();
        let begun = Ledger::open(&self.path, &identity, &remembered, None)?;
        self.ledger = begun.ledger;
        Ok(begun.superseded)
    }

    pub fn size(&self) -> u64 {
        self.ledger.anchor().size
    }

    /// Closes the window; registers of `unread` cannot be right.
    pub fn cut(&mut self, unread: Option<usize>) -> Result<()> {
        let mut owners = self.owners.clone();
        if let Some(port) = unread {
            owners[port].directions = None;
        }
        let cut = Cut {
            window: self.window,
            revision: 1,
            time: self.time,
            nominal_ns: Some(self.time.utc_ns),
            window_ns: SLOT_NS as u64,
            clock: Clock::default(),
            owners,
            ..Cut::default()
        };
        self.ledger.commit(&cut, None)?;
        self.window += 1;
        self.owners.retain(|owner| owner.live);
        Ok(())
    }

    /// A port goes, the last one of them: the window that is closed next has its last record.
    pub fn end(&mut self, port: usize) {
        self.owners[port].live = false;
    }

    /// Takes this off, or adds it, to the last record of a tenant and zone that has so many bytes.
    pub fn correct(&mut self, tenant: u32, zone: u32, l2_bytes: i64) -> Result<()> {
        let db = rusqlite::Connection::open(&self.path)?;
        let seq: i64 = db.query_row(
            "SELECT max(seq) FROM record WHERE kind = 1 AND tenant = ?1 AND zone = ?2 AND direction = 0 AND l2_bytes > ?3",
            [i64::from(tenant), i64::from(zone), l2_bytes.abs()],
            |row| row.get(0),
        )?;
        ensure!(seq > 0);
        let correct = Correct {
            seq: seq as u64,
            l2_bytes,
            reason: "Ticket 4711: the probe's own traffic is not billed".into(),
            ..Correct::default()
        };
        let addition = Addition::Correct(correct);
        self.ledger.append(&addition, self.time.utc_ns)?;
        Ok(())
    }
}

/// What is written of each host, and what was taken off there.
pub struct Fleet {
    /// The ledgers go with it.
    _shelf: Shelf,
    pub hosts: Vec<Metering>,
    /// Bytes that ACME's and BETA's ports had carried when March was over, by direction.
    pub march: [[u64; 2]; 2],
}

/// Layer-2 bytes of a correction.
pub const CORRECTED: i64 = -60_000;

/// Three hosts. The first has a burst, a drop and a clock that is set back; the second falls silent; the third has a window
/// whose registers cannot be right, and one of three slots.
pub fn fleet(name: &str) -> Result<Fleet> {
    let shelf = Shelf::new(name)?;
    let begins = MARCH_NS[1] - 2 * DAY_NS;
    let mut hosts = Vec::new();
    let mut march = [[0_u64; 2]; 2];
    for (number, host) in (1..).zip(["par1", "par2", "par3"]) {
        let mut one = Metering::new(&shelf, host, number, begins)?;
        one.port("uplink", 0);
        let acme = one.port(&format!("acme-{host}"), ACME);
        let beta = one.port("beta", if number == 1 { BETA } else { 0 });
        // A port that goes is not missing afterwards.
        let gone = one.port(&format!("gone-{host}"), ACME);
        for slot in 0..OF_MARCH + 12 {
            if number == 2 && slot == 400 {
                break;
            }
            one.pass();
            // At night nothing is carried: a window without a zone's record.
            let is_night = slot % 288 < 40;
            let mut bytes = 700_000 + (slot * 7_919 * usize::from(number)) as u64 % 400_000;
            if number == 1 && slot % 288 > 200 && slot % 288 < 230 {
                bytes *= 40;
            }
            if !is_night {
                one.carry(acme, 0, 4, bytes);
                one.carry(acme, 0, 0, bytes / 3);
                one.carry(acme, 1, 4, bytes / 7);
                one.carry(beta, 0, 5, 5_000 + slot as u64);
            }
            if slot % 50 == 3 {
                one.drop_frames(acme, 3, 2);
            }
            if slot < 150 {
                one.carry(gone, 1, 1, 900);
            }
            if slot == 149 {
                one.end(gone);
            }
            if number == 1 && slot == 410 {
                one.set_clock(-2 * 3_600_000_000_000);
            }
            if number == 1 && slot == 420 {
                one.set_clock(2 * 3_600_000_000_000);
            }
            // Nobody cut: what follows covers it.
            if number == 3 && (450..452).contains(&slot) {
                continue;
            }
            one.cut((number == 3 && slot == 100).then_some(acme))?;
            if number == 1 && slot == 500 {
                one.correct(ACME, 4, CORRECTED)?;
            }
            if slot + 1 == OF_MARCH || number == 2 && slot == 399 {
                for (sums, tenant) in march.iter_mut().zip([ACME, BETA]) {
                    for (direction, sum) in sums.iter_mut().enumerate() {
                        let carried = one.carried.get(&(tenant, direction));
                        *sum += carried.copied().unwrap_or_default();
                    }
                }
            }
        }
        hosts.push(one);
    }
    Ok(Fleet {
        _shelf: shelf,
        hosts,
        march,
    })
}
