//! A ledger as a daemon leaves it: two ports of two tenants, with flow detail, written by the library.

use metering::{
    flow::{Detail, FlowDelta},
    ledger::{Anchor, Identity, Ledger},
    meter::{Cut, Epoch, Owner, Sums, Time},
    record::Clock,
    window::Counts,
};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

const MINUTE_NS: u64 = 60_000_000_000;
/// 2026-11-24 23:30:00 UTC: the day ends within a test.
pub const BEGUN_NS: i64 = 1_795_563_000_000_000_000;

/// A directory that goes with the test.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("octroi-flows-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }

    pub fn ledger(&self) -> PathBuf {
        self.0.join("ledger.db")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Two ports of two tenants; window `n` has `n + 1` flows each of 2 packets, and a packet of none.
pub struct Host {
    window: u64,
    pub owners: Vec<Owner>,
    pub flows: u64,
    flow: fn(u64) -> FlowDelta,
}

impl Host {
    pub fn new() -> Self {
        let owner = |incarnation: u64| Owner {
            incarnation,
            name: format!("port-{incarnation}"),
            tenant: incarnation as u32,
            live: true,
            since_ns: 1,
            directions: Some([0, 1].map(|_| Sums {
                zones: vec![Counts::default(); 4],
                ..Sums::default()
            })),
            detail: Detail::Full,
            ..Owner::default()
        };
        Self {
            window: 0,
            owners: vec![owner(1), owner(2)],
            flows: 1,
            flow,
        }
    }

    /// The same with flows of both directions, of all that a flow can be of; of the second tenant prefixes are kept.
    #[allow(dead_code, reason = "of an exporter's test")]
    pub fn mixed() -> Self {
        let mut host = Self::new();
        host.owners[1].detail = Detail::Prefix;
        host.flow = mixed;
        host
    }

    fn time(&self) -> Time {
        let boot_ns = (self.window + 1) * MINUTE_NS;
        Time {
            boot_ns,
            mono_ns: boot_ns,
            utc_ns: BEGUN_NS + boot_ns as i64,
        }
    }

    pub fn cut(&mut self) -> Cut {
        for owner in &mut self.owners {
            owner.flows = (0..self.flows).map(self.flow).collect();
            let directions = owner.directions.as_mut().expect("it has registers");
            let of_none = Counts {
                packets: 1,
                l2_bytes: 100,
                l3_bytes: 86,
            };
            let flows = owner.flows.iter().map(|flow| (flow.direction, flow.counts));
            for (direction, counts) in flows.chain([(0, of_none)]) {
                let counted = &mut directions[usize::from(direction)].zones[1];
                counted.packets += counts.packets;
                counted.l2_bytes += counts.l2_bytes;
                counted.l3_bytes += counts.l3_bytes;
            }
        }
        let cut = Cut {
            window: self.window,
            revision: 1,
            time: self.time(),
            nominal_ns: None,
            window_ns: MINUTE_NS,
            clock: Clock::default(),
            owners: self.owners.clone(),
            ..Cut::default()
        };
        self.window += 1;
        self.flows += 1;
        cut
    }

    pub fn identity(&self) -> Identity {
        Identity {
            epoch: Epoch {
                host: "host".into(),
                boot_id: [1; 16],
                map_generation: [2; 16],
            },
            machine_id: "machine".into(),
            now: self.time(),
        }
    }
}

fn flow(number: u64) -> FlowDelta {
    let address = |first: u8| {
        let mut address = [0; 16];
        address[0] = first;
        address[1..4].copy_from_slice(&(number as u32).to_be_bytes()[1..]);
        address
    };
    FlowDelta {
        zone: 1,
        ethertype: 0x0800,
        protocol: 6,
        local: address(10),
        remote: address(198),
        local_port: 443,
        remote_port: 50_000 + (number % 10_000) as u16,
        first_ns: 1,
        last_ns: 2,
        counts: Counts {
            packets: 2,
            l2_bytes: 200,
            l3_bytes: 172,
        },
        tcp_flags: 0x1B,
        ..FlowDelta::default()
    }
}

/// IPv4, IPv6, ARP and IPv4 in a VLAN, by turns, of which two come to the tenant; some with drops.
fn mixed(number: u64) -> FlowDelta {
    let mut made = FlowDelta {
        first_ns: (number + 1) * 1_000_000,
        last_ns: (number + 1) * 2_000_000,
        ..flow(number)
    };
    match number % 4 {
        1 => {
            made.ethertype = 0x86DD;
            made.direction = 1;
            made.protocol = 17;
        }
        2 => {
            made.ethertype = 0x0806;
            made.protocol = 0;
            (made.local, made.remote) = ([0; 16], [0; 16]);
            (made.local_port, made.remote_port) = (0, 0);
            made.counts.l3_bytes = 0;
            made.tcp_flags = 0;
        }
        3 => {
            made.direction = 1;
            made.vlan = 100 + (number % 7) as u16;
        }
        _ => {}
    }
    if number.is_multiple_of(5) {
        made.drop_reasons = 1 << 2;
        made.drop_packets = 3;
    }
    made
}

/// The anchor that a daemon before left: here a file, which is written after the commit as the map is.
fn remembered(path: &Path) -> Anchor {
    let file = path.with_extension("anchor");
    let Ok(bytes) = fs::read(file) else {
        return Anchor::default();
    };
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    Anchor {
        ledger_id: bytes[..16].try_into().expect("16 bytes"),
        size: number(16),
        windows: number(24),
        head: bytes[32..].try_into().expect("32 bytes"),
    }
}

fn remember(path: &Path, anchor: &Anchor) {
    let bytes = [
        &anchor.ledger_id[..],
        &anchor.size.to_le_bytes(),
        &anchor.windows.to_le_bytes(),
        &anchor.head,
    ]
    .concat();
    let new = path.with_extension("anchor-new");
    fs::write(&new, bytes).expect("the anchor");
    fs::rename(new, path.with_extension("anchor")).expect("the anchor");
}

/// Opens the ledger and commits so many windows from where it stands; returns their records.
pub fn write(path: &Path, windows: u64) -> u64 {
    write_of(Host::new(), path, windows)
}

/// The same of another host.
pub fn write_of(mut host: Host, path: &Path, windows: u64) -> u64 {
    let begun = Ledger::open(path, &host.identity(), &remembered(path), None).expect("it opens");
    let mut ledger = begun.ledger;
    remember(path, &ledger.anchor());
    while host.window < ledger.state().windows() {
        host.cut();
    }
    let mut records = 0;
    for _ in 0..windows {
        let committed = ledger.commit(&host.cut(), None).expect("it is committed");
        assert_eq!(committed.alarms, [""; 0]);
        remember(path, &committed.anchor);
        records += committed.records;
    }
    records
}
