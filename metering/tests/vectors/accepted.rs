//! Records that are: one of each kind, and each edge of the page that shows in a record.

use crate::SECRET;
use dataplane_common::{
    abi::{FROM_TENANT, Skbs, TO_TENANT},
    encryption::Class,
    reason::DropReason,
    zone,
};
use metering::{
    record::{
        Classified, Clock, Correction, Dropped, ErasedFlows, Flags, Flows, Kind, Reading, Record,
        Rotation, Statement, Supersedes, Total, salt,
    },
    window::Counts,
};

/// 2026-11-24 02:00:00 UTC.
const HOUR_NS: i64 = 1_795_485_600_000_000_000;
const MINUTE_NS: i64 = 60_000_000_000;
/// BOOTTIME at that hour.
const UPTIME_NS: u64 = 86_400_000_000_000;

pub const fn counts(packets: u64, l2_bytes: u64, l3_bytes: u64) -> Counts {
    Counts {
        packets,
        l2_bytes,
        l3_bytes,
    }
}

/// A head with `seq` and its salt.
fn head(kind: Kind, seq: u64) -> Record {
    Record {
        ledger_id: [0x4C; 16],
        seq,
        stream_seq: seq.saturating_sub(1),
        tenant_seq: seq / 2,
        salt: salt(&SECRET, seq),
        kind,
        host: "host-1".into(),
        boot_id: *b"\x5e\x0c\x1d\xa2\x77\x3e\x4b\x61\x9c\x01\x42\x9d\xe6\xf3\x88\x10",
        map_generation: [0xA7; 16],
        ..Record::default()
    }
}

/// One minute of `web-1`, from the tenant, in the zone `other`.
pub fn zone_record() -> Record {
    Record {
        port_uid: "web-1".into(),
        incarnation: 3,
        tenant: 42,
        direction: FROM_TENANT as u8,
        zone: Some(zone::OTHER),
        window_id: 1_440,
        window_first: 1_440,
        window_start: HOUR_NS,
        window_end: HOUR_NS + MINUTE_NS,
        reading: Some(Reading {
            register_start: counts(1_000, 1_514_000, 1_500_000),
            register_end: counts(1_010, 1_529_140, 1_515_000),
            cut_start_ns: UPTIME_NS,
            cut_end_ns: UPTIME_NS + MINUTE_NS as u64,
            elapsed_ns: MINUTE_NS as u64,
            utc_offset_ns: HOUR_NS - UPTIME_NS as i64,
            step_ns: 0,
            revision_first: 7,
            revision_last: 7,
            program_tag: Some(*b"\x0f\x1e\x2d\x3c\x4b\x5a\x69\x78"),
        }),
        ..head(Kind::Meter, 17)
    }
}

/// The same minute in all zones, with drops.
pub fn total_record() -> Record {
    let drops = |reason, packets, l2_bytes| Dropped {
        reason: reason as u8,
        packets,
        l2_bytes,
    };
    let mut record = Record {
        seq: 18,
        salt: salt(&SECRET, 18),
        stream_seq: 17,
        zone: None,
        total: Some(Total {
            skbs_start: Skbs {
                delivered: 400,
                delivered_len: 1_510_000,
                dropped: 2,
                dropped_len: 120,
            },
            skbs_end: Skbs {
                delivered: 407,
                delivered_len: 1_526_000,
                dropped: 26,
                dropped_len: 33_276,
            },
            drops: vec![
                drops(DropReason::SpoofedIpv4, 3, 294),
                drops(DropReason::CeilingBytes, 21, 32_862),
            ],
            unattributed: counts(1, 42, 0),
            clock: Clock {
                state: 0,
                est_error_us: 12,
                max_error_us: 4_500,
                synchronised: true,
            },
            post_meter_drops: Some(1),
            evidence: Vec::new(),
        }),
        ..zone_record()
    };
    reading(&mut record).register_end = counts(1_011, 1_529_182, 1_515_000);
    record
}

/// The same minute under an encryption policy that began in it: a frame of 42 bytes was before.
pub fn classified() -> Record {
    let one = |class, packets, l2_bytes| Classified {
        class: class as u8,
        packets,
        l2_bytes,
    };
    let mut record = total_record();
    total(&mut record).evidence = vec![one(Class::Opening, 4, 620), one(Class::Records, 6, 14_520)];
    record
}

/// The reading of a record that has one.
pub fn reading(record: &mut Record) -> &mut Reading {
    record.reading.get_or_insert_default()
}

/// The total of a record that has one.
pub fn total(record: &mut Record) -> &mut Total {
    record.total.get_or_insert_default()
}

/// M-7.6: the host crashed; up to the last checkpoint.
pub fn crashed() -> Record {
    let mut record = Record {
        flags: Flags::RESET | Flags::PARTIAL | Flags::ESTIMATED,
        window_end: HOUR_NS + 47_123_456_789,
        bytes_min: Some(15_182),
        bytes_max: Some(9_412_345_678),
        cause: Some("host restarted".into()),
        ..total_record()
    };
    let reading = reading(&mut record);
    reading.cut_end_ns = UPTIME_NS + 40_000_000_123;
    reading.elapsed_ns = 40_000_000_123;
    total(&mut record).clock.synchronised = false;
    total(&mut record).clock.state = 5;
    record
}

/// M-7.3: nobody cut for three minutes, and two windows became one; the host slept, and the clock was
/// set back by 2 s.
pub fn merged() -> Record {
    let mut record = Record {
        flags: Flags::MERGED | Flags::LATE | Flags::MISALIGNED,
        window_id: 1_442,
        window_first: 1_441,
        window_start: HOUR_NS + MINUTE_NS,
        window_end: HOUR_NS + 4 * MINUTE_NS,
        cause: Some("ledger not writable".into()),
        ..total_record()
    };
    let reading = reading(&mut record);
    reading.cut_end_ns += 2 * MINUTE_NS as u64;
    reading.elapsed_ns = MINUTE_NS as u64 - 700_000_001;
    reading.step_ns = -2_000_000_000;
    reading.revision_last = 9;
    reading.program_tag = None;
    record
}

pub fn correction() -> Record {
    Record {
        seq: 1_000,
        stream_seq: 0,
        salt: salt(&SECRET, 1_000),
        kind: Kind::Correction,
        flags: Flags::CORRECTION,
        window_start: HOUR_NS + 60 * MINUTE_NS,
        window_end: HOUR_NS + 61 * MINUTE_NS,
        reading: None,
        correction: Some(Correction {
            ledger_id: [0x4C; 16],
            corrects: 17,
            packets: -2,
            l2_bytes: -3_028,
            l3_bytes: -3_000,
            reason: "maintenance traffic, ticket 4711".into(),
        }),
        ..zone_record()
    }
}

pub fn begin() -> Record {
    Record {
        window_start: HOUR_NS,
        window_end: HOUR_NS,
        ..head(Kind::Begin, 0)
    }
}

/// M-7.17.
pub fn superseding() -> Record {
    Record {
        ledger_id: [0x4D; 16],
        cause: Some("ledger behind the kernel's anchor".into()),
        supersedes: Some(Supersedes {
            ledger_id: [0x4C; 16],
            last_seq: 123_456,
        }),
        ..begin()
    }
}

/// M-17.6: what a tenant was told about November 2026, in Paris; the second version.
pub fn statement() -> Record {
    Record {
        seq: 130,
        stream_seq: 1,
        tenant_seq: 44,
        salt: salt(&SECRET, 130),
        tenant: 17,
        window_start: 1_793_487_600_000_000_000,
        window_end: 1_796_079_600_000_000_000,
        statement: Some(Statement {
            number: 1,
            version: 2,
            issued: 1_796_115_600_000_000_000,
            size: 130,
            packets: 12,
            l2_bytes: 9_007_199_254_740_993,
            l3_bytes: -1,
            digest: [0xD1; 32],
        }),
        ..head(Kind::Statement, 130)
    }
}

/// M-14.10: another key signs.
pub fn rotation() -> Record {
    Record {
        stream_seq: 0,
        tenant_seq: 0,
        window_start: HOUR_NS,
        window_end: HOUR_NS,
        rotation: Some(Rotation {
            public: [0xC0; 32],
            by_old: [0xC1; 64],
            by_new: [0xC2; 64],
        }),
        ..head(Kind::Key, 300)
    }
}

/// M-14.11: only the leaves of these are kept.
pub fn erasure() -> Record {
    Record {
        stream_seq: 2,
        tenant_seq: 0,
        window_start: HOUR_NS,
        window_end: HOUR_NS,
        erased: vec![[1, 1], [3, 17], [255, 299]],
        cause: Some("retention".into()),
        ..head(Kind::Erasure, 300)
    }
}

/// M-13.13: of a tenant's flow detail nothing is left.
pub fn erasure_of_flows() -> Record {
    Record {
        erased: Vec::new(),
        erased_flows: Some(ErasedFlows {
            tenant: 7,
            records: 20_160,
            rows: 70_000,
        }),
        cause: Some("uid 0, logged in as uid 1000: the tenant asked for it".into()),
        ..erasure()
    }
}

/// M-7.18: what the lost part of the ledger may have billed.
pub fn ledger_lost() -> Record {
    Record {
        ledger_id: [0x4D; 16],
        seq: 1,
        stream_seq: 0,
        tenant_seq: 0,
        salt: salt(&SECRET, 1),
        kind: Kind::Nodata,
        flags: Flags::NODATA | Flags::MERGED,
        zone: None,
        window_first: 1_200,
        bytes_min: Some(0),
        bytes_max: Some(15_140),
        cause: Some("ledger lost".into()),
        ..zone_record()
    }
}

/// M-7.12: there is nothing to read.
pub fn went_back() -> Record {
    Record {
        flags: Flags::NODATA | Flags::RESET,
        window_first: 1_440,
        reading: None,
        bytes_max: None,
        cause: Some("register went back".into()),
        ..ledger_lost()
    }
}

/// M-9: the open window, 10 s old.
pub fn checkpoint() -> Record {
    let mut record = Record {
        seq: 0,
        stream_seq: 0,
        tenant_seq: 0,
        salt: [0; 16],
        kind: Kind::Checkpoint,
        window_end: HOUR_NS + 10_000_000_000,
        ..total_record()
    };
    reading(&mut record).cut_end_ns = UPTIME_NS + 10_000_000_000;
    reading(&mut record).elapsed_ns = 10_000_000_000;
    record
}

/// M-7.13: somebody took the program off, and the interface went on counting.
pub fn unmetered() -> Record {
    Record {
        flags: Flags::UNMETERED,
        direction: TO_TENANT as u8,
        bytes_min: Some(15_182),
        bytes_max: None,
        cause: Some("the interface counted 100 skbs more".into()),
        ..total_record()
    }
}

/// Slot 0: no port, no tenant, a window in which nothing was carried.
pub fn nobody() -> Record {
    let mut record = Record {
        port_uid: String::new(),
        incarnation: 0,
        tenant: 0,
        ..total_record()
    };
    reading(&mut record).register_start = counts(0, 0, 0);
    reading(&mut record).register_end = counts(0, 0, 0);
    *total(&mut record) = Total::default();
    record
}

/// M-13.7: a tree over three rows of flow detail.
pub fn detailed() -> Record {
    Record {
        flows: Some(Flows {
            rows: 3,
            root: *b"a root of 32 bytes, of any rows.",
        }),
        ..total_record()
    }
}

/// Every number at the end of its range that the others allow.
pub fn most() -> Record {
    const MOST: u64 = u64::MAX;
    let most = counts(MOST, MOST, MOST);
    let mut record = Record {
        seq: MOST,
        stream_seq: MOST,
        tenant_seq: MOST,
        salt: salt(&SECRET, MOST),
        flags: Flags(Flags::ALL.0 & !(Flags::CORRECTION | Flags::NODATA).0),
        incarnation: MOST,
        tenant: u32::MAX,
        window_id: MOST,
        window_first: 0,
        window_start: i64::MIN,
        window_end: i64::MAX,
        bytes_min: Some(MOST),
        bytes_max: Some(MOST),
        cause: Some("x".repeat(256)),
        ..total_record()
    };
    *reading(&mut record) = Reading {
        register_start: counts(0, 0, 0),
        register_end: most,
        cut_start_ns: 0,
        cut_end_ns: MOST,
        elapsed_ns: MOST,
        utc_offset_ns: i64::MIN,
        step_ns: i64::MAX,
        revision_first: 0,
        revision_last: u32::MAX,
        program_tag: Some([0xFF; 8]),
    };
    let total = total(&mut record);
    total.unattributed = most;
    total.clock.state = i32::MIN;
    total.clock.max_error_us = MOST;
    total.post_meter_drops = Some(MOST);
    total.drops = vec![Dropped {
        reason: 31,
        packets: MOST,
        l2_bytes: MOST,
    }];
    record
}

/// The same, all of it in one class.
fn most_classified() -> Record {
    const MOST: u64 = u64::MAX;
    let mut record = most();
    total(&mut record).evidence = vec![Classified {
        class: 7,
        packets: MOST,
        l2_bytes: MOST,
    }];
    record
}

/// Every vector, by name.
pub fn all() -> Vec<(&'static str, Record)> {
    let named = Record {
        port_uid: "péage-東京-🛂".into(),
        host: "hôte".into(),
        zone: Some(63),
        ..zone_record()
    };
    vec![
        ("a zone", zone_record()),
        ("a total with drops", total_record()),
        ("a total with flow detail", detailed()),
        ("a total with evidence of encryption", classified()),
        ("a port's name that is not ASCII", named),
        ("merged, late, misaligned, the clock set back", merged()),
        ("the host crashed: reset, partial, bounds", crashed()),
        ("unmetered, without an upper bound", unmetered()),
        ("slot 0: an empty name, nothing carried", nobody()),
        ("every number at its end", most()),
        ("every number at its end, in one class", most_classified()),
        ("a checkpoint", checkpoint()),
        ("the first record of a ledger", begin()),
        ("the first record, taking another's place", superseding()),
        ("a correction", correction()),
        ("a statement", statement()),
        ("no data, with a reading", ledger_lost()),
        ("no data, without one", went_back()),
        ("another key", rotation()),
        ("an erasure", erasure()),
        ("an erasure of flow detail", erasure_of_flows()),
    ]
}
