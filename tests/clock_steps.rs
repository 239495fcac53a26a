//! The wall clock is set, slewed and given leap seconds, under traffic: no byte is lost or billed twice, no
//! window overlaps another by BOOTTIME, and every record says what was done to the clock.
//!
//! It sets the clock of the whole machine. So it runs in a virtual one, and nowhere else.

#[path = "meter/bill.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod bill;
#[path = "clock_steps/cbor.rs"]
mod cbor;
#[path = "clock_steps/clock.rs"]
mod clock;
#[path = "meter/site.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod site;
mod support;

use anyhow::{Result, ensure};
use cbor::{fields, number, number_in};
use clock::{Between, SECOND, offset_ns, timed};
use site::{Metered, Traffic};
use std::{path::Path, time::Duration};
use support::{alone, by_level, can_run};

/// The length of a window: longer than the daemon takes to notice a step.
const WINDOW_NS: i64 = 5 * SECOND;
/// A step cuts at once, but once a second at most. How late it was is printed: an emulated machine that others load
/// takes seconds. It fails where the cut might as well have been the next nominal one.
const NOTICED_NS: i64 = WINDOW_NS - SECOND / 2;
/// Two clocks are read one after the other, and something may come between.
const APART_NS: i64 = 20_000_000;
const MISALIGNED_NS: i64 = SECOND / 2;

const MISALIGNED: i64 = 256;

/// What was done to the clock.
#[derive(Debug)]
struct Done {
    what: &'static str,
    /// When.
    between: Between,
    /// What was added to the wall clock, ns.
    step_ns: i64,
}

/// A `*` record of alice's port, from the tenant.
#[derive(Debug)]
struct Window {
    first: i64,
    id: i64,
    flags: i64,
    label: (i64, i64),
    cuts: (i64, i64),
    elapsed_ns: i64,
    offset_ns: i64,
    step_ns: i64,
    registers: (i64, i64),
}

/// Read from the file and the page alone.
fn windows(ledger: &Path) -> Result<Vec<Window>> {
    let db = rusqlite::Connection::open(ledger)?;
    let mut select = db.prepare(
        "SELECT canonical FROM record WHERE kind = 1 AND zone = -1 AND direction = 0 \
         AND port_uid = 'alice-port' ORDER BY seq",
    )?;
    let rows = select.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|canonical| {
        let record = fields(&canonical?)?;
        let pair =
            |from, to| Ok::<_, anyhow::Error>((number(&record, from)?, number(&record, to)?));
        let id = number(&record, 16)?;
        Ok(Window {
            first: number(&record, 17).unwrap_or(id),
            id,
            flags: number(&record, 8)?,
            label: pair(18, 19)?,
            cuts: pair(20, 21)?,
            elapsed_ns: number(&record, 22)?,
            offset_ns: number(&record, 23)?,
            step_ns: number(&record, 24)?,
            registers: (number_in(&record, 27, 1)?, number_in(&record, 28, 1)?),
        })
    })
    .collect()
}

/// M-8 for windows: each goes on where the one before ended, whatever the wall clock did.
fn follow_each_other(windows: &[Window]) -> Result<()> {
    for pair in windows.windows(2) {
        let [before, after] = pair else {
            continue;
        };
        ensure!(after.first == before.id + 1, "a hole: {pair:?}");
        ensure!(after.cuts.0 == before.cuts.1, "not the same cut: {pair:?}");
        ensure!(after.registers.0 == before.registers.1, "bytes: {pair:?}");
        let offset_ns = before.offset_ns + before.step_ns;
        ensure!(after.offset_ns == offset_ns, "another clock: {pair:?}");
    }
    for window in windows {
        let length_ns = window.cuts.1 - window.cuts.0;
        ensure!(length_ns > 0, "{window:?}");
        // This machine never sleeps. Rates are reckoned from this.
        ensure!(
            (length_ns - APART_NS..=length_ns).contains(&window.elapsed_ns),
            "{window:?}"
        );
    }
    Ok(())
}

/// Every step is in the record of its window, and nowhere else (M-4.3, M-7.9).
fn tell_the_steps(windows: &[Window], done: &[Done]) -> Result<()> {
    for window in windows {
        let (begun, ended) = window.cuts;
        let inside = |done: &Done| begun <= done.between.0 && done.between.1 <= ended;
        // What was done while somebody cut may be in either window.
        let across = |done: &Done| {
            let outside = done.between.1 < begun || ended < done.between.0;
            !outside && !inside(done)
        };
        let sum = |of: &dyn Fn(&Done) -> bool| -> i64 {
            let steps = done.iter().filter(|done| of(done));
            steps.map(|done| done.step_ns).sum()
        };
        let (least, perhaps) = (sum(&inside), sum(&across));
        let is_it = |expected: i64| (window.step_ns - expected).abs() <= APART_NS;
        let names: Vec<_> = done.iter().filter(|done| inside(done)).collect();
        ensure!(
            is_it(least) || is_it(least + perhaps),
            "{least} ns were added by {names:?}: {window:?}"
        );
    }
    let all: i64 = windows.iter().map(|window| window.step_ns).sum();
    let expected: i64 = done.iter().map(|done| done.step_ns).sum();
    ensure!(
        (all - expected).abs() <= APART_NS,
        "{all} instead of {expected}"
    );
    Ok(())
}

/// A clock that is set cuts (M-7.9).
fn cut_at_steps(windows: &[Window], done: &[Done]) -> Result<u32> {
    let (mut cuts, mut latest_ns) = (0, 0);
    for step in done.iter().filter(|done| done.step_ns.abs() > APART_NS) {
        let cut = windows
            .iter()
            .find(|window| window.cuts.1 >= step.between.0);
        let late_ns = cut.map(|window| window.cuts.1 - step.between.1);
        ensure!(
            late_ns.is_some_and(|late_ns| late_ns <= NOTICED_NS),
            "{}: cut after {late_ns:?} ns",
            step.what
        );
        latest_ns = late_ns.unwrap_or_default().max(latest_ns);
        cuts += 1;
    }
    println!("MEASURED: latest cut after a step: {latest_ns} ns");
    Ok(cuts)
}

/// Labels are nominal, or what the clock of the first cut says (M-4.4).
fn are_labelled(windows: &[Window]) -> Result<u32> {
    let mut nominal = 0;
    for window in windows {
        let by_first = window.cuts.1 + window.offset_ns;
        let by_second = by_first + window.step_ns;
        let is_nominal = window.label.1 % WINDOW_NS == 0;
        let was_set = window.step_ns.abs() > MISALIGNED_NS;
        let expected = if was_set { by_first } else { by_second };
        let off_ns = (window.label.1 - expected).abs();
        ensure!(
            off_ns <= MISALIGNED_NS || is_nominal && window.flags & MISALIGNED != 0,
            "{off_ns} ns off: {window:?}"
        );
        let length_ns = window.label.1 - window.label.0;
        let between_ns = window.cuts.1 - window.cuts.0;
        ensure!(
            (length_ns - between_ns).abs() <= WINDOW_NS,
            "{length_ns} ns for {between_ns}: {window:?}"
        );
        nominal += u32::from(is_nominal);
    }
    for pair in windows.windows(2) {
        let [before, after] = pair else {
            continue;
        };
        if before.step_ns.abs() <= APART_NS && after.step_ns.abs() <= APART_NS {
            ensure!(after.label.0 == before.label.1, "a gap or twice: {pair:?}");
        }
    }
    Ok(nominal)
}

#[test]
fn a_clock_that_is_set_loses_no_byte_and_every_record_says_so() -> Result<()> {
    const TEST: &str = "a_clock_that_is_set_loses_no_byte_and_every_record_says_so";
    const DAY: i64 = 86_400 * SECOND;

    let _alone = alone();
    if std::env::var_os("OCTROI_VM").is_none() {
        println!(
            "SKIPPED: {TEST}: it sets the clock of the machine; run `cargo xtask vm --test clock_steps`"
        );
        return Ok(());
    }
    if !can_run(TEST) {
        return Ok(());
    }
    let mut metered = Metered::new("5s", None)?;
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    let mut done = Vec::new();
    let mut act = |what: &'static str, act: &dyn Fn() -> Result<Between>| {
        let before = offset_ns();
        done.push(Done {
            what,
            between: act()?,
            step_ns: offset_ns() - before,
        });
        Ok::<_, anyhow::Error>(())
    };
    // Not in step with the windows: steps come at all their places.
    let pause = |ms| std::thread::sleep(Duration::from_millis(ms));
    for round in 0..by_level(1, 1, 8) {
        pause(6_300 + round * 700);
        act("a day forward", &|| timed(|| clock::step(DAY)))?;
        pause(7_100);
        act("a day back", &|| timed(|| clock::step(-DAY)))?;
        pause(6_900);
        act("a little forward", &|| {
            timed(|| clock::step(SECOND * 7 / 10))
        })?;
        pause(5_700);
        act("a little back", &|| timed(|| clock::step(-SECOND * 3 / 10)))?;
        pause(4_700);
        act("slewed", &|| {
            timed(|| {
                clock::slew(500)?;
                std::thread::sleep(Duration::from_secs(6));
                clock::slew(0)
            })
        })?;
        for (what, status) in [
            ("a leap second", libc::STA_INS),
            ("a second left out", libc::STA_DEL),
        ] {
            act("to the end of the day", &|| timed(clock::before_midnight))?;
            act(what, &|| clock::leap(status))?;
            pause(6_000);
        }
        act("two days back", &|| timed(|| clock::step(-2 * DAY)))?;
    }
    pause(6_000);
    traffic.stop()?;
    let bill = metered.conserved()?;
    let windows = windows(&metered.ledger)?;
    follow_each_other(&windows)?;
    tell_the_steps(&windows, &done)?;
    let cuts = cut_at_steps(&windows, &done)?;
    let nominal = are_labelled(&windows)?;
    ensure!(
        nominal > 5 && cuts > 2,
        "{nominal} nominal cuts, {cuts} others"
    );
    println!(
        "CASES: changes of the wall clock under traffic: {}",
        done.len()
    );
    println!("CASES: cuts because the clock was set: {cuts}");
    println!(
        "CASES: windows while the clock was changed: {}",
        bill.windows()
    );
    Ok(())
}
