//! A ledger with a month of one tenant, written as the daemon does: March 2026 in Paris, which has a day of 23
//! hours.

use metering::{
    ledger::{Addition, Anchor, Correct, Identity, Ledger},
    meter::{Cut, Epoch, Owner, Sums, Time},
    record::Clock,
    usage::SLOT_NS,
    window::Counts,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// 2026-02-28T23:00Z: midnight in Paris.
pub const FROM: i64 = 1_772_319_600_000_000_000;
/// 30 days of 288, and one of 276.
pub const SLOTS: i64 = 30 * 288 + 276;
pub const TENANT: u32 = 17;
/// Layer-2 bytes of the corrections of the month.
pub const CORRECTED: i128 = -90_000;

/// A file that goes with the test, unless it is to be kept.
pub struct File(pub PathBuf, pub bool);

impl File {
    pub fn new() -> Self {
        match std::env::var_os("OCTROI_TEST_MONTH") {
            Some(path) => Self(path.into(), true),
            None => {
                let name = format!("octroi-month-{}.db", std::process::id());
                // A month of windows is a month of syncs.
                let shm = Path::new("/dev/shm");
                let base = match shm.is_dir() {
                    true => shm.to_owned(),
                    false => std::env::temp_dir(),
                };
                Self(base.join(name), false)
            }
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if !self.1 {
            for suffix in ["", "-wal", "-shm"] {
                let mut name = self.0.clone().into_os_string();
                name.push(suffix);
                let _ = fs::remove_file(name);
            }
        }
    }
}

fn add(counts: &mut Counts, bytes: u64) {
    counts.packets += bytes / 900 + 1;
    counts.l2_bytes += bytes;
    counts.l3_bytes += bytes - 14;
}

/// What port `port` carries in a slot: a day's curve, a calm night, one burst.
pub fn carried(port: u64, slot: u64, zone: u64) -> u64 {
    let hour = slot / 12 % 24;
    let curve = [
        2, 1, 1, 1, 1, 2, 4, 9, 14, 18, 20, 21, 19, 20, 22, 21, 19, 17, 15, 13, 11, 8, 5, 3,
    ];
    let day = slot / 288;
    let weekend = if day.is_multiple_of(7) || day % 7 == 6 {
        2
    } else {
        5
    };
    let burst = if day == 11 && hour == 15 { 9 } else { 1 };
    let noise = (slot * 2_654_435_761 + port * 40_503 + zone * 7_919) % 1_000_003;
    let zone_share = [40, 3, 1, 0, 90, 25][zone as usize % 6];
    curve[hour as usize] * weekend * burst * zone_share * 9_000 + noise % 5_000 + 60
}

/// Writes a month of windows of five minutes, some of which were not cut, with drops; returns its records.
pub fn month(path: &Path, ports: u64) -> u64 {
    let _ = fs::remove_file(path);
    let mut time = Time {
        boot_ns: 1_000_000_000_000,
        mono_ns: 1_000_000_000_000,
        utc_ns: FROM,
    };
    let identity = Identity {
        epoch: Epoch {
            host: "par1-host-07".into(),
            boot_id: [7; 16],
            map_generation: [8; 16],
        },
        machine_id: "machine".into(),
        now: time,
    };
    let begun = Ledger::open(path, &identity, &Anchor::default(), None).expect("a ledger");
    let mut ledger = begun.ledger;
    let mut owners: Vec<Owner> = (0..ports)
        .map(|port| Owner {
            incarnation: port + 1,
            name: format!("acme-vm{}", port + 1),
            tenant: TENANT,
            live: true,
            since_ns: time.boot_ns,
            directions: Some([0, 1].map(|_| Sums {
                zones: vec![Counts::default(); 6],
                drops: vec![[0; 2]; 32],
                evidence: vec![[0; 2]; 8],
                skbs: [0; 4],
            })),
            ..Owner::default()
        })
        .collect();
    let mut window = 0;
    for slot in 0..SLOTS as u64 {
        time.boot_ns += SLOT_NS as u64;
        time.mono_ns += SLOT_NS as u64;
        time.utc_ns += SLOT_NS;
        for (port, owner) in owners.iter_mut().enumerate() {
            for (direction, sums) in owner.directions.iter_mut().flatten().enumerate() {
                for zone in [0_u64, 1, 4, 5] {
                    let bytes = carried(port as u64, slot, zone) * (1 + direction as u64 * 3) / 2;
                    add(&mut sums.zones[zone as usize], bytes);
                }
                if port == 0 {
                    // One of its zones is looked at.
                    let Counts {
                        packets, l2_bytes, ..
                    } = sums.zones[4];
                    sums.evidence[5] = [packets, l2_bytes];
                }
                if slot % 97 == 0 {
                    sums.drops[3][0] += 2;
                    sums.drops[3][1] += 128;
                }
                if slot % 30 == 0 && direction == 0 {
                    sums.drops[9][0] += 40;
                    sums.drops[9][1] += 60_560;
                }
            }
        }
        // Nobody cut: two nights, and what follows covers it.
        if (2_000..2_003).contains(&slot) || slot == 6_100 {
            continue;
        }
        let cut = Cut {
            window,
            revision: 1 + u32::from(slot > 3_000),
            time,
            nominal_ns: Some(time.utc_ns),
            window_ns: SLOT_NS as u64,
            clock: Clock::default(),
            owners: owners.clone(),
            ..Cut::default()
        };
        ledger.commit(&cut, None).expect("the disk works");
        window += 1;
        // A zone of the first window, and its total.
        for (seq, l2_bytes) in [(4, -60_000), (1, -30_000)] {
            let correct = Correct {
                seq,
                l2_bytes,
                reason: "Ticket 4711: the probe's own traffic is not billed".into(),
                ..Correct::default()
            };
            if slot == 5_000 {
                let addition = Addition::Correct(correct);
                ledger.append(&addition, time.utc_ns).expect("a correction");
            }
        }
    }
    ledger.anchor().size
}
