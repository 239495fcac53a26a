//! What is held against the records of one ledger, in their order: M-4.4, M-5.6, M-6.1, M-7.6 and M-8.

use super::{
    auditor::{Auditor, Subject, subject},
    kernel::Counters,
};
use metering::{
    record::{Flags, Kind, Record},
    window::Counts,
};
use std::collections::{BTreeMap, BTreeSet};

/// Off by more than this, a cut is flagged, and a wall clock was set.
const MOMENT_NS: u64 = 500_000_000;

/// A ledger.
#[derive(Default)]
pub struct Book {
    pub rows: Vec<(Record, [u8; 32])>,
    /// Who has a record in it.
    subjects: BTreeSet<Subject>,
    streams: BTreeMap<u8, u64>,
    tenants: BTreeMap<u32, u64>,
}

/// Where a subject stands, in all ledgers together.
#[derive(Debug, Default)]
pub struct Stand {
    pub closed: bool,
    window: Option<u64>,
    /// Of `*` and of each zone.
    ends: BTreeMap<Option<u32>, Counts>,
    drops: BTreeMap<u8, [u64; 2]>,
    classes: BTreeMap<u8, [u64; 2]>,
    /// Some of it was in a ledger that is lost.
    lost: bool,
    /// CLOCK_BOOTTIME, offset and revision at the last cut.
    last: Option<(u64, i64, u32)>,
    /// The end of the last label that a cut gave.
    label_ns: Option<i64>,
}

fn counts([packets, l2_bytes, l3_bytes]: [u64; 3]) -> Counts {
    Counts {
        packets,
        l2_bytes,
        l3_bytes,
    }
}

/// Takes the records that were committed since the last look.
pub fn take(auditor: &mut Auditor, book: &mut Book, fresh: Vec<(Record, [u8; 32])>) {
    let mut windows = BTreeMap::<_, BTreeSet<u64>>::new();
    let mut sums = BTreeMap::<(Subject, u64), [Option<Counts>; 2]>::new();
    for (record, leaf) in fresh {
        numbers(book, &record);
        if record.kind != Kind::Begin {
            one(auditor, book, &record);
            let reading = record.kind == Kind::Meter;
            if reading {
                let counted = record.counted().expect("a reading goes forward");
                let sums = sums
                    .entry((subject(&record), record.window_id))
                    .or_default();
                let sum = &mut sums[usize::from(record.zone.is_some())];
                *sum = sum.unwrap_or_default().checked_add(counted);
            }
            let of = (subject(&record).0, record.window_id);
            let gone = is_gap(&record);
            if record.zone.is_none() && !gone {
                let both = windows.entry(of).or_default();
                both.insert(record.incarnation * 2 + u64::from(record.direction));
            }
        }
        book.rows.push((record, leaf));
    }
    for (key, [total, zones]) in sums {
        assert_eq!(total, Some(zones.unwrap_or_default()), "M-8.3: {key:?}");
    }
    // M-5.6: everybody who was handed over has a record in both directions.
    for ((epoch, window), found) in windows {
        let Some(cut) = auditor.cuts.get(&(epoch, window)) else {
            continue;
        };
        for member in &cut.members {
            let done = |direction: u64| found.contains(&(member * 2 + direction));
            let closed = |direction| {
                let stand = auditor.stands.get(&(epoch, *member, direction));
                stand.is_some_and(|stand| stand.closed)
            };
            assert!(
                (done(0) && done(1)) || (closed(0) && closed(1)),
                "M-5.6: window {window} has no record of {member}"
            );
        }
    }
}

/// Is it the last record of registers that are gone?
fn is_gap(record: &Record) -> bool {
    record.flags.has(Flags::RESET | Flags::PARTIAL)
}

/// M-8.8, M-5.7.
fn numbers(book: &mut Book, record: &Record) {
    assert_eq!(record.check(), Ok(()), "{record:?}");
    assert_eq!(record.seq, book.rows.len() as u64, "M-8.8");
    assert_eq!(record.kind == Kind::Begin, record.seq == 0, "M-5.7");
    let stream = book.streams.entry(record.kind as u8).or_default();
    assert_eq!(record.stream_seq, *stream, "M-8.8");
    *stream += 1;
    if record.kind != Kind::Begin {
        let tenant = book.tenants.entry(record.tenant).or_default();
        assert_eq!(record.tenant_seq, *tenant, "M-8.8");
        *tenant += 1;
    }
}

fn one(auditor: &mut Auditor, book: &mut Book, record: &Record) {
    let of = subject(record);
    let person = &auditor.people[&(of.0, of.1)];
    assert_eq!(
        (&record.port_uid, record.tenant),
        (&person.name, person.tenant),
        "M-3.4"
    );
    // What a ledger that is lost had of a subject, the next one may know less of, and says NODATA.
    let anew = book.subjects.insert(of) && record.kind == Kind::Nodata;
    let mut stand = auditor.stands.remove(&of).unwrap_or_default();
    place(&mut stand, record, anew);
    read(auditor, &mut stand, record, anew);
    auditor.stands.insert(of, stand);
}

/// M-8.4, M-8.6.
fn place(stand: &mut Stand, record: &Record, anew: bool) {
    if record.zone.is_some() {
        return;
    }
    assert!(anew || !stand.closed, "M-8.6: after RESET: {record:?}");
    if let (Some(window), false) = (stand.window, anew) {
        assert_eq!(record.window_first, window + 1, "M-8.4: {record:?}");
    }
    stand.window = Some(record.window_id);
    stand.closed |= record.flags.has(Flags::RESET);
}

/// What a record says of the registers is what they were.
fn read(auditor: &mut Auditor, stand: &mut Stand, record: &Record, anew: bool) {
    stand.lost |= record.kind == Kind::Nodata;
    let Some(reading) = record.reading else {
        return;
    };
    if record.kind == Kind::Nodata
        && let Some(truth) = auditor.truth_of(record)
    {
        // It is of all zones: each goes on from where it stands.
        let zones = truth[usize::from(record.direction)].zones;
        for (zone, now) in (0..).zip(zones) {
            stand.ends.insert(Some(zone), counts(now));
        }
    }
    let begins = stand.ends.insert(record.zone, reading.register_end);
    let begins = begins.unwrap_or_default();
    match anew {
        false => assert_eq!(reading.register_start, begins, "M-8.1: {record:?}"),
        true => assert!(
            begins.checked_sub(reading.register_start).is_some(),
            "M-7.18: {record:?}"
        ),
    }
    if record.zone.is_none() {
        if anew {
            stand.last = None;
            stand.label_ns = None;
        }
        times(auditor, stand, record);
    }
    if is_gap(record) {
        return gap(auditor, record);
    }
    let Some(truth) = auditor.truth_of(record) else {
        panic!("nobody cut this window: {record:?}");
    };
    let truth = truth[usize::from(record.direction)];
    let all = match record.zone {
        None => truth.total(),
        Some(zone) => truth.zones[zone as usize],
    };
    assert_eq!(reading.register_end, counts(all), "M-8.2: {record:?}");
    if record.zone.is_some() {
        assert_ne!(record.counted(), Some(Counts::default()), "M-5.6");
    }
    if let Some(total) = &record.total {
        let ends = total.skbs_end;
        let ends = [
            ends.delivered,
            ends.delivered_len,
            ends.dropped,
            ends.dropped_len,
        ];
        assert_eq!(ends, truth.skbs, "M-8.2: {record:?}");
        dropped(stand, record, &truth);
    }
}

/// All drops and classes of a subject's records together are its registers.
fn dropped(stand: &mut Stand, record: &Record, truth: &Counters) {
    for drop in record.total.iter().flat_map(|total| &total.drops) {
        let sums = stand.drops.entry(drop.reason).or_default();
        sums[0] += drop.packets;
        sums[1] += drop.l2_bytes;
    }
    for one in record.total.iter().flat_map(|total| &total.evidence) {
        let sums = stand.classes.entry(one.class).or_default();
        sums[0] += one.packets;
        sums[1] += one.l2_bytes;
    }
    if stand.lost {
        return;
    }
    for (reason, now) in (0..).zip(truth.drops) {
        let sums = stand.drops.get(&reason).copied().unwrap_or_default();
        assert_eq!(sums, now, "drops by reason {reason}: {record:?}");
    }
    for (class, now) in (0..).zip(truth.classes) {
        let sums = stand.classes.get(&class).copied().unwrap_or_default();
        assert_eq!(sums, now, "evidence of class {class}: {record:?}");
    }
}

/// M-8.5, M-4.4, M-6.1.
fn times(auditor: &Auditor, stand: &mut Stand, record: &Record) {
    let Some(reading) = record.reading else {
        return;
    };
    let (offset, step) = (reading.utc_offset_ns, reading.step_ns);
    if let Some((boot, last, revision)) = stand.last {
        assert_eq!(
            (reading.cut_start_ns, offset),
            (boot, last),
            "M-8.5: {record:?}"
        );
        assert!(reading.revision_first >= revision, "M-8.5");
    }
    let continues = stand.last.is_some();
    stand.last = Some((reading.cut_end_ns, offset + step, reading.revision_last));
    let (start, end) = (record.window_start, record.window_end);
    assert!(start <= end, "M-5.5: {record:?}");
    let several = record.window_first != record.window_id;
    let window = auditor.window_ns as i64;
    let spans = (start.div_euclid(window) + 1) * window < end;
    assert_eq!(
        record.flags.has(Flags::MERGED),
        several || spans,
        "M-6.1: {record:?}"
    );
    if is_gap(record) {
        return;
    }
    let epoch = subject(record).0;
    let cut = &auditor.cuts[&(epoch, record.window_id)];
    assert_eq!(reading.cut_end_ns, cut.time.boot_ns, "M-4.1");
    let meant = cut.nominal_ns.unwrap_or(cut.time.utc_ns);
    let off = meant.abs_diff(cut.time.utc_ns) > MOMENT_NS;
    assert_eq!(record.flags.has(Flags::MISALIGNED), off, "M-2.7");
    if let Some(expected) = stand.label_ns {
        assert_eq!(start, expected, "M-4.4: {record:?}");
    }
    stand.label_ns = Some(meant);
    if !continues {
        return;
    }
    let expected = if step.unsigned_abs() <= MOMENT_NS {
        meant
    } else {
        offset + reading.cut_end_ns as i64
    };
    assert_eq!(end, expected, "M-4.4: {record:?}");
}

/// M-7.6, M-6.12, M-6.13, and how much may be unseen.
fn gap(auditor: &mut Auditor, record: &Record) {
    let (of, at) = (subject(record), usize::from(record.direction));
    let reading = record.reading.expect("it has one");
    let Some(over) = auditor.over.get(&of.0) else {
        panic!("these registers are not gone: {record:?}");
    };
    assert!(record.flags.has(Flags::ESTIMATED), "M-7.7: {record:?}");
    let nothing = Counters::default();
    let truth = over.truth.get(&of.1).map_or(nothing, |both| both[at]);
    let zone = |counters: &Counters| match record.zone {
        None => counts(counters.total()),
        Some(zone) => counts(counters.zones[zone as usize]),
    };
    let within = |low: Counts, high: Counts| high.checked_sub(low).is_some();
    let noted = auditor.notes.get(&(of.0, reading.cut_end_ns));
    let of_note = |totals: &super::kernel::Totals| totals.get(&of.1).map(|both| zone(&both[at]));
    match noted.and_then(|(low, high)| Some((of_note(low)?, of_note(high)?))) {
        Some((low, high)) if reading.register_start != reading.register_end => {
            assert!(
                within(low, reading.register_end),
                "M-9.2: {record:?}, {low:?}"
            );
            assert!(
                within(reading.register_end, high),
                "M-9.2: {record:?}, {high:?}"
            );
        }
        _ => assert_eq!(
            reading.register_start, reading.register_end,
            "M-7.6: {record:?}"
        ),
    }
    assert!(
        within(reading.register_end, zone(&truth)),
        "more than was counted: {record:?}"
    );
    if record.zone.is_some() {
        return;
    }
    auditor.gaps += 1;
    let carried = zone(&truth).l2_bytes - reading.register_start.l2_bytes;
    let min = record.bytes_min.expect("M-6.11");
    assert!(min <= carried, "M-6.12: {carried}: {record:?}");
    // A wall clock that was set back since says less than the truth, and ESTIMATED says so.
    let set_back = over
        .set_back_boot_ns
        .is_some_and(|set| set >= reading.cut_end_ns);
    if let (Some(max), false) = (record.bytes_max, set_back) {
        auditor.bounded += 1;
        assert!(
            carried <= max,
            "M-6.13: {carried} bytes were carried: {record:?}"
        );
    }
    if let Some(most) = over.unseen_ns_max {
        let unseen = over.died_boot_ns - reading.cut_end_ns;
        assert!(unseen <= most, "M-9.1: {unseen} ns are unseen: {record:?}");
    }
}
