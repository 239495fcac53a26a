//! A ledger to tamper with, written by the library as the daemon has it written.

use metering::{
    flow::Detail,
    ledger::{Addition, Anchor, Identity, Issue, Ledger, Look, enter, keys},
    meter::{Cut, Epoch, Owner, Sums, Time},
    note::{Verifier, keyring},
    record::{Clock, Statement},
    window::Counts,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// 2026-11-24 02:00:00 UTC.
pub const HOUR_NS: i64 = 1_795_485_600_000_000_000;
pub const MINUTE_NS: u64 = 60_000_000_000;

/// How much to try, by `OCTROI_TEST_LEVEL`.
pub fn by_level<T>(quick: T, normal: T, long: T) -> T {
    match std::env::var("OCTROI_TEST_LEVEL").as_deref() {
        Ok("quick") => quick,
        Ok("long") => long,
        _ => normal,
    }
}

/// A directory that goes with the test.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let shm = Path::new("/dev/shm");
        let base = match shm.is_dir() {
            true => shm.to_owned(),
            false => std::env::temp_dir(),
        };
        let name = format!(
            "octroi-evidence-{}-{}",
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

/// A host with three ports, of the tenants 7, 8 and nobody.
pub struct Site {
    pub dir: Dir,
    pub ledger: Option<Ledger>,
    window: u64,
}

impl Site {
    /// A ledger of so many windows.
    pub fn new(windows: u64) -> Self {
        let dir = Dir::new();
        let mut site = Self {
            dir,
            ledger: None,
            window: 0,
        };
        site.open(&Anchor::default());
        let look = Look {
            at: HOUR_NS,
            who: "root".into(),
            what: "flows of web-1".into(),
        };
        enter(&site.path(), &look).expect("it can be entered");
        (0..windows).for_each(|_| site.cut());
        site
    }

    /// Opens the ledger, as a daemon does that knows so much of it.
    fn open(&mut self, remembered: &Anchor) {
        let identity = Identity {
            epoch: Epoch {
                host: "host-1".into(),
                boot_id: [1; 16],
                map_generation: [2; 16],
            },
            machine_id: "machine".into(),
            now: time(self.window),
        };
        let begun = Ledger::open(&self.path(), &identity, remembered, None);
        self.ledger = Some(begun.expect("a ledger can be opened").ledger);
    }

    /// The same ledger, as the next daemon has it.
    pub fn reopen(&mut self) {
        self.ledger = None;
        self.open(&Anchor::default());
    }

    pub fn path(&self) -> PathBuf {
        self.dir.0.join("ledger.db")
    }

    pub fn cut(&mut self) {
        let cut = cut(self.window);
        self.window += 1;
        let ledger = self.ledger.as_mut().expect("it is open");
        ledger.commit(&cut, None).expect("it can be written");
    }

    /// The tenant is told what it had.
    pub fn issue(&mut self, tenant: u32) {
        let ledger = self.ledger.as_mut().expect("it is open");
        let statement = Statement {
            number: 1,
            version: 1,
            size: ledger.anchor().size,
            ..Statement::default()
        };
        let (from, to) = (HOUR_NS, HOUR_NS + 1);
        let issue = Addition::Issue(Issue {
            tenant,
            from,
            to,
            statement,
        });
        ledger.append(&issue, to).expect("it can be written");
    }

    /// Nobody writes any more: one file is all of it.
    pub fn close(&mut self) {
        self.ledger = None;
    }

    pub fn keys(&self) -> Vec<Verifier> {
        let text = fs::read_to_string(keys::keyring_path(&self.path())).expect("a keyring");
        keyring(&text).expect("keys")
    }
}

fn time(window: u64) -> Time {
    let boot_ns = 5_000_000_000 + window * MINUTE_NS;
    Time {
        boot_ns,
        mono_ns: boot_ns,
        utc_ns: HOUR_NS + (window * MINUTE_NS) as i64,
    }
}

/// What a cut finds: registers that grow by numbers that nobody would guess by chance, and some by none.
fn cut(window: u64) -> Cut {
    let sums = |port: u64, direction: u64| Sums {
        zones: (0..3)
            .map(|zone| {
                let packets = (window + 1) * port * (zone % 2 + direction + 1);
                Counts {
                    packets,
                    l2_bytes: packets * (97 + 13 * zone),
                    l3_bytes: packets * (83 + 13 * zone),
                }
            })
            .collect(),
        drops: vec![[0; 2], [window + 1, 60 * (window + 1)]],
        // Every second port has a policy, and its first zone is classified.
        evidence: match (window + 1) * port * (direction + 1) {
            packets if port.is_multiple_of(2) => vec![[0; 2], [packets, packets * 97]],
            _ => vec![[0; 2]; 2],
        },
        skbs: [window + port; 4],
    };
    let owner = |(incarnation, name, tenant): (u64, &str, u32)| Owner {
        incarnation,
        name: name.into(),
        tenant,
        live: true,
        since_ns: 5_000_000_000,
        directions: Some([sums(incarnation, 0), sums(incarnation, 1)]),
        flows: Vec::new(),
        detail: Detail::default(),
    };
    Cut {
        window,
        revision: 3,
        time: time(window + 1),
        nominal_ns: Some(time(window + 1).utc_ns),
        window_ns: MINUTE_NS,
        clock: Clock::default(),
        owners: [(1, "web-1", 7), (2, "db-1", 8), (3, "up", 0)]
            .map(owner)
            .into(),
        ..Cut::default()
    }
}
