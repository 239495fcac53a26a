//! Records of every kind, with numbers at the edges of every encoding; never one that is illegal.

use super::super::*;
use proptest::{
    option,
    prelude::*,
    sample,
    test_runner::{Config, RngSeed, TestCaseError, TestRunner},
};
use std::time::{SystemTime, UNIX_EPOCH};

/// How much to try: one of three, by `OCTROI_TEST_LEVEL`.
pub fn level<T>(quick: T, normal: T, long: T) -> T {
    match std::env::var("OCTROI_TEST_LEVEL").as_deref() {
        Ok("quick") => quick,
        Ok("long") => long,
        _ => normal,
    }
}

/// The seed of this run.
fn seed() -> u64 {
    let given = std::env::var("OCTROI_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        since.as_nanos() as u64
    })
}

/// Tries a property on `cases` values of `strategy`, and says how many there were of `what`.
pub fn for_all<S: Strategy>(
    what: &str,
    cases: u32,
    strategy: &S,
    property: impl Fn(S::Value) -> Result<(), String>,
) {
    let seed = seed();
    println!("SEED: OCTROI_TEST_SEED={seed}");
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(strategy, |value| {
        property(value).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    println!("CASES: record {what}: {cases}");
}

/// Each width of the encoding is as likely as the next, and so are its ends.
fn number() -> impl Strategy<Value = u64> {
    const EDGES: [u64; 11] = [
        0,
        1,
        23,
        24,
        0xFF,
        0x100,
        0xFFFF,
        0x1_0000,
        0xFFFF_FFFF,
        0x1_0000_0000,
        u64::MAX,
    ];
    prop_oneof![
        sample::select(&EDGES[..]),
        (0..64_u32, any::<u64>()).prop_map(|(shift, bits)| bits >> shift),
    ]
}

fn signed() -> impl Strategy<Value = i64> {
    prop_oneof![
        number().prop_map(|bits| bits as i64),
        number().prop_map(|bits| !bits as i64),
    ]
}

fn word() -> impl Strategy<Value = u32> {
    number().prop_map(|bits| bits as u32)
}

/// Two values, the smaller one first.
fn pair<T: Ord + Clone + std::fmt::Debug>(
    one: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = [T; 2]> {
    [one.clone(), one].prop_map(|mut both| {
        both.sort();
        both
    })
}

/// `least..=most` bytes of text, with characters of one to four bytes.
fn text(least: u64, most: u64) -> impl Strategy<Value = String> {
    let character = any::<char>().prop_map(|c| if c.is_control() { ' ' } else { c });
    let characters = prop::collection::vec(character, least as usize..80);
    characters.prop_map(move |characters| {
        let mut text = String::new();
        for character in characters {
            if text.len() + character.len_utf8() <= most as usize {
                text.push(character);
            }
        }
        text
    })
}

fn counts([packets, l2_bytes, l3_bytes]: [u64; 3]) -> Counts {
    Counts {
        packets,
        l2_bytes,
        l3_bytes,
    }
}

prop_compose! {
    fn any_reading()(
        registers in [pair(number().boxed()), pair(number().boxed()), pair(number().boxed())],
        [cut_start_ns, cut_end_ns] in pair(number().boxed()),
        suspended_ns in number(),
        utc_offset_ns in signed(),
        step_ns in signed(),
        [revision_first, revision_last] in pair(word().boxed()),
        program_tag in option::of(any::<[u8; 8]>()),
    ) -> Reading {
        let between_ns = cut_end_ns - cut_start_ns;
        Reading {
            register_start: counts(registers.map(|[start, _]| start)),
            register_end: counts(registers.map(|[_, end]| end)),
            cut_start_ns,
            cut_end_ns,
            elapsed_ns: between_ns.saturating_sub(suspended_ns),
            utc_offset_ns,
            step_ns,
            revision_first,
            revision_last,
            program_tag,
        }
    }
}

fn skbs([delivered, delivered_len, dropped, dropped_len]: [u64; 4]) -> Skbs {
    Skbs {
        delivered,
        delivered_len,
        dropped,
        dropped_len,
    }
}

prop_compose! {
    /// What no flow accounts for is cut to what was counted by [`any_record`].
    fn any_total()(
        raw in prop::array::uniform4(pair(number().boxed())),
        drops in prop::collection::btree_map(1..32_u8, (number(), number()), 0..5),
        unattributed in [number(), number(), number()],
        state in any::<i32>(),
        [est_error_us, max_error_us] in [number(), number()],
        synchronised in any::<bool>(),
        post_meter_drops in option::of(number()),
        evidence in prop::collection::btree_map(0..8_u8, (number(), number()), 0..5),
    ) -> Total {
        let drops = drops.into_iter().map(|(reason, (packets, l2_bytes))| Dropped {
            reason,
            packets: packets.max(1),
            l2_bytes,
        });
        let evidence = evidence.into_iter().map(|(class, (packets, l2_bytes))| Classified {
            class,
            packets,
            l2_bytes,
        });
        Total {
            skbs_start: skbs(raw.map(|[start, _]| start)),
            skbs_end: skbs(raw.map(|[_, end]| end)),
            drops: drops.collect(),
            unattributed: counts(unattributed),
            clock: Clock { state, est_error_us, max_error_us, synchronised },
            post_meter_drops,
            evidence: evidence.collect(),
        }
    }
}

prop_compose! {
    fn any_correction()(
        ledger_id in any::<[u8; 16]>(),
        corrects in number(),
        [packets, l2_bytes, l3_bytes] in [signed(), signed(), signed()],
        reason in text(1, TEXT_BYTES_MAX),
    ) -> Correction {
        Correction { ledger_id, corrects, packets, l2_bytes, l3_bytes, reason }
    }
}

prop_compose! {
    fn any_statement()(
        [number, version, size] in [number(), number(), number()],
        issued in signed(),
        [packets, l2_bytes, l3_bytes] in [signed(), signed(), signed()],
        digest in any::<[u8; 32]>(),
    ) -> Statement {
        Statement {
            number: number.max(1),
            version: version.max(1),
            issued, size, packets, l2_bytes, l3_bytes, digest,
        }
    }
}

prop_compose! {
    /// All fields, of which each kind keeps its own.
    fn any_fields()(
        [ledger_id, salt, boot_id, map_generation] in any::<[[u8; 16]; 4]>(),
        [seq, stream_seq, tenant_seq] in [number(), number(), number()],
        host in text(1, HOST_BYTES_MAX),
        port_uid in text(0, PORT_BYTES_MAX),
        (incarnation, tenant, direction) in (number(), word(), 0..2_u8),
        zone in option::of(word()),
        [window_first, window_id] in pair(number().boxed()),
        [window_start, window_end] in pair(signed().boxed()),
        (reading, total) in (any_reading(), any_total()),
        (correction, statement) in (any_correction(), any_statement()),
        (flags, unmerged) in (0..=Flags::ALL.0, any::<bool>()),
        (flow_rows, root) in (option::of(number()), any::<[u8; 32]>()),
        bytes_max in option::of(number()),
        cause in option::of(text(1, TEXT_BYTES_MAX)),
    ) -> Record {
        Record {
            ledger_id, seq, stream_seq, tenant_seq, salt, kind: Kind::Meter, host,
            flags: Flags(flags), boot_id, map_generation, port_uid, incarnation, tenant,
            direction, zone, window_id,
            window_first: if unmerged { window_id } else { window_first },
            window_start, window_end, reading: Some(reading), total: Some(total),
            bytes_min: None, bytes_max, cause, correction: Some(correction), supersedes: None,
            rotation: None, erased: Vec::new(), erased_flows: None,
            flows: flow_rows.map(|rows| Flows { rows: rows.max(1), root }),
            statement: Some(statement),
        }
    }
}

/// A legal record of any kind.
pub fn any_record() -> impl Strategy<Value = Record> {
    let other = option::of((any::<[u8; 16]>(), number()));
    let strategy = (
        any_fields(),
        sample::select(&Kind::ALL[..]),
        any::<bool>(),
        other,
    );
    strategy.prop_map(|(fields, kind, measured, other)| legal(fields, kind, measured, other))
}

fn legal(mut record: Record, kind: Kind, measured: bool, other: Option<([u8; 16], u64)>) -> Record {
    record.kind = kind;
    record.flags.0 &= !(Flags::CORRECTION | Flags::NODATA).0;
    if record.window_first != record.window_id {
        record.flags |= Flags::MERGED;
    }
    let (correction, statement) = (record.correction.take(), record.statement.take());
    match kind {
        Kind::Meter => {}
        Kind::Checkpoint => {
            (record.seq, record.stream_seq, record.tenant_seq) = (0, 0, 0);
            record.salt = [0; 16];
        }
        Kind::Begin => {
            let supersedes = other.map(|(ledger_id, last_seq)| Supersedes {
                ledger_id,
                last_seq,
            });
            return Record {
                kind,
                ledger_id: record.ledger_id,
                salt: record.salt,
                host: record.host,
                boot_id: record.boot_id,
                map_generation: record.map_generation,
                window_start: record.window_end,
                window_end: record.window_end,
                cause: record.cause,
                supersedes: supersedes.filter(|old| old.ledger_id != record.ledger_id),
                ..Record::default()
            };
        }
        Kind::Statement => {
            return Record {
                kind,
                ledger_id: record.ledger_id,
                seq: record.seq,
                stream_seq: record.stream_seq,
                tenant_seq: record.tenant_seq,
                salt: record.salt,
                host: record.host,
                boot_id: record.boot_id,
                map_generation: record.map_generation,
                tenant: record.tenant,
                window_start: record.window_start,
                window_end: record.window_end,
                statement: statement.map(|statement| Statement {
                    size: statement.size.min(record.seq),
                    ..statement
                }),
                ..Record::default()
            };
        }
        Kind::Key | Kind::Erasure => {
            let key = kind == Kind::Key;
            let one = record.salt.first().copied().unwrap_or_default();
            let rotation = Rotation {
                public: [one; 32],
                by_old: [one ^ 1; 64],
                by_new: [one ^ 2; 64],
            };
            // As many ranges as there can be, where the seq has room for them.
            let seq = record.seq.max(10);
            let ranges = (0..u64::from(one % 64) + 1).map(|at| [1 + at * 5, 3 + at * 5]);
            let erased = ranges.filter(|range| range[1] < seq);
            // Records, flow detail, or both.
            let only_flows = measured && one % 2 == 0;
            return Record {
                kind,
                ledger_id: record.ledger_id,
                seq,
                stream_seq: record.stream_seq,
                salt: record.salt,
                host: record.host,
                boot_id: record.boot_id,
                map_generation: record.map_generation,
                window_start: record.window_end,
                window_end: record.window_end,
                rotation: key.then_some(rotation),
                erased: if key || only_flows {
                    Vec::new()
                } else {
                    erased.collect()
                },
                erased_flows: (!key && measured).then(|| ErasedFlows {
                    tenant: record.tenant,
                    records: u64::from(one) + 1,
                    rows: record.seq.saturating_add(u64::from(one) + 1),
                }),
                cause: record.cause.or((!key).then(|| "why".into())),
                ..Record::default()
            };
        }
        Kind::Correction => {
            record.flags |= Flags::CORRECTION;
            record.correction = correction;
            (record.reading, record.total) = (None, None);
            (record.bytes_max, record.cause, record.flows) = (None, None, None);
            return record;
        }
        Kind::Nodata => {
            record.flags |= Flags::NODATA;
            record.zone = None;
            (record.total, record.flows) = (None, None);
            record.reading = record.reading.filter(|_| measured);
            record.bytes_min = Some(0);
            record.cause.get_or_insert_with(|| "why".into());
            return record;
        }
    }
    let counted = record.counted().expect("registers are in order");
    let unseen = record.flags.any(Flags::PARTIAL | Flags::UNMETERED);
    if record.zone.is_some() {
        (record.total, record.flows) = (None, None);
        (record.bytes_max, record.cause) = (None, None);
    } else if unseen {
        record.bytes_min = Some(counted.l2_bytes);
        record.bytes_max = record.bytes_max.map(|most| most.max(counted.l2_bytes));
        record.cause.get_or_insert_with(|| "why".into());
    } else {
        record.bytes_max = None;
    }
    if let Some(total) = &mut record.total {
        let most = &mut total.unattributed;
        most.packets = most.packets.min(counted.packets);
        most.l2_bytes = most.l2_bytes.min(counted.l2_bytes);
        most.l3_bytes = most.l3_bytes.min(counted.l3_bytes);
        let mut rest = counted;
        for one in &mut total.evidence {
            one.packets = one.packets.min(rest.packets);
            one.l2_bytes = one.l2_bytes.min(rest.l2_bytes);
            rest.packets -= one.packets;
            rest.l2_bytes -= one.l2_bytes;
        }
        total.evidence.retain(|one| one.packets != 0);
    }
    record
}
