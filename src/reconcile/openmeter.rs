//! What OpenMeter counted, held against the ledgers of a host: by tenant, direction and span of time (decision 0050).
//!
//! OpenMeter has no ledgers and no numbers of records, so all that the host delivered is added up here, below the marks, and held
//! against what its meters have of the host.
//!
//! Invariants
//! - What is less there than here is always told. What is more there is told where the ledgers know everything that was delivered:
//!   not where records are pruned, erased or of a ledger that is not here.
//! - What is on the way may be there or not: the ledger is read after OpenMeter, and of a cell of which more came since, the sum there
//!   must lie between the least and the most that it may be.

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use jiff::Timestamp;
use metering::sink::{
    Cell, Feed, Mark, Sink as _, Span,
    cloudevents::{CloudEvents, Measure, Meter},
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long to wait before OpenMeter is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Which spans are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Minutes.
    Minute,
    /// Hours.
    #[default]
    Hour,
    /// Days of UTC.
    Day,
}

impl By {
    const fn span(self) -> Span {
        match self {
            Self::Minute => Span::Minute,
            Self::Hour => Span::Hour,
            Self::Day => Span::Day,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// How to compare.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// In which spans.
    pub by: By,
    /// How long OpenMeter may need to count what it acknowledged.
    pub wait: Duration,
    /// JSON is printed.
    pub json: bool,
}

/// A ledger, and how far it was delivered.
struct Delivered {
    path: PathBuf,
    feed: Feed,
    mark: Mark,
    /// It is a copy from before the mark: of the rest nobody here knows what it billed.
    is_short: bool,
}

/// What was delivered, by cell.
#[derive(Default)]
struct Here {
    cells: BTreeMap<Cell, Place>,
    unsure: Vec<RangeInclusive<i64>>,
    gone: u64,
}

/// A cell of all ledgers, and where it begins.
struct Place {
    sums: [i128; 3],
    first: u64,
    ledger: usize,
}

impl Here {
    fn of(ledgers: &[Delivered], span: Span) -> Result<Self> {
        let mut here = Self::default();
        // Where the records are from that a short copy lacks: behind its own, and before those of the ledger that took its place.
        let mut lacks: Option<i64> = None;
        for (index, ledger) in ledgers.iter().enumerate() {
            let cells = ledger.feed.cells(0..ledger.mark.next, span)?;
            let starts = cells.billed.keys().map(|cell| cell.start);
            if let Some(first) = starts.clone().min() {
                let lacked = lacks.take().map(|from| from..=from.max(first));
                here.unsure.extend(lacked);
            }
            if ledger.is_short {
                let last = starts.max().unwrap_or(i64::MIN);
                lacks = Some(lacks.map_or(last, |from| from.min(last)));
            }
            here.gone += cells.gone;
            here.unsure.extend(cells.unsure);
            for (cell, billed) in cells.billed {
                let place = here.cells.entry(cell).or_insert(Place {
                    sums: [0; 3],
                    first: billed.first,
                    ledger: index,
                });
                for (at, sum) in place.sums.iter_mut().enumerate() {
                    *sum += billed.adds[at] + billed.takes_off[at];
                }
            }
        }
        here.unsure.extend(lacks.map(|from| from..=i64::MAX));
        Ok(here)
    }

    fn is_unsure(&self, start: i64) -> bool {
        self.unsure.iter().any(|spans| spans.contains(&start))
    }
}

/// A cell that is not the same.
struct Difference {
    cell: Cell,
    measure: Measure,
    here: i128,
    there: i128,
    /// The first record of it, and its ledger, to send again from.
    from: Option<(u64, usize)>,
}

/// What became of a comparison.
#[derive(Default)]
struct Outcome {
    compared: u64,
    on_the_way: u64,
    unknown: u64,
    before: u64,
    differences: Vec<Difference>,
}

/// Compares, and says what is not the same.
pub(super) fn reconcile(
    there: &mut CloudEvents,
    ledger: &Path,
    host: &str,
    sink: &str,
    how: How,
) -> Result<()> {
    let mut said = Vec::new();
    let meters = meters(there, &mut said)?;
    let (ledgers, is_whole) = ledgers(there, ledger, host, &mut said)?;
    let span = how.by.span();
    let mut here = Here::of(&ledgers, span)?;
    if !is_whole {
        here.unsure.push(i64::MIN..=i64::MAX);
    }
    let mut sum = Outcome::default();
    if let Some(starts) = range(here.cells.keys(), span) {
        for meter in &meters {
            let question = Question {
                meter,
                host,
                how,
                here: &here,
                ledgers: &ledgers,
            };
            let one = question.patient(there, starts.clone())?;
            sum.compared += one.compared;
            sum.on_the_way += one.on_the_way;
            sum.unknown += one.unknown;
            sum.before += one.before;
            sum.differences.extend(one.differences);
        }
    }
    for ledger in &ledgers {
        let (name, next) = (ledger.feed.name(), ledger.mark.next);
        said.push(format!("{name}: {next} records were acknowledged"));
    }
    let by = how.by.name();
    for (count, what) in [
        (here.gone, "records are pruned or erased here: what is more there is not told where they may have been".to_owned()),
        (sum.unknown, "sums are more there, where the ledgers here do not know all that was delivered: not compared".to_owned()),
        (sum.on_the_way, format!("sums of a {by} of which more is on the way: compared with the least and the most that may be there")),
        (sum.before, "sums of before a meter counts (its `eventFrom`): not compared".to_owned()),
    ] {
        if count != 0 {
            said.push(format!("{count} {what}"));
        }
    }
    tell(&sum, &ledgers, &said, how);
    ensure!(
        sum.differences.is_empty(),
        "{} sums of a tenant, a direction and a {by} at {sink} are not the ledger's",
        sum.differences.len()
    );
    Ok(())
}

/// The meters that are there; the bytes' must be.
fn meters(there: &mut CloudEvents, said: &mut Vec<String>) -> Result<Vec<Meter>> {
    let mut meters = Vec::new();
    for measure in Measure::ALL {
        match there.meter(measure)? {
            Some(meter) => meters.push(meter),
            None if measure == Measure::L2Bytes => bail!(
                "OpenMeter has no meter {}, by which it would tell the bytes that it has; make it: {}",
                measure.slug(),
                measure.definition()
            ),
            None => said.push(format!(
                "OpenMeter has no meter {}: {} are not compared; to compare them, make it: {}",
                measure.slug(),
                measure.name(),
                measure.definition()
            )),
        }
    }
    Ok(meters)
}

/// The host's ledgers, each once; `false`: one was delivered that is not here.
fn ledgers(
    there: &mut CloudEvents,
    ledger: &Path,
    host: &str,
    said: &mut Vec<String>,
) -> Result<(Vec<Delivered>, bool)> {
    let mut longest: Vec<(PathBuf, u64, Feed)> = Vec::new();
    for path in Feed::files(ledger) {
        if path == ledger && !path.exists() {
            continue;
        }
        let feed = Feed::open(&path)?;
        if feed.host() != host {
            continue;
        }
        let size = feed.size()?;
        match longest.iter_mut().find(|one| one.2.id() == feed.id()) {
            None => longest.push((path, size, feed)),
            Some(known) if known.1 < size => *known = (path, size, feed),
            Some(_) => {}
        }
    }
    let mut ledgers = Vec::new();
    for (path, size, feed) in longest {
        let mark = there.mark(feed.id(), host)?;
        let is_short = size < mark.next;
        if is_short {
            said.push(format!(
                "{}: this copy has {size} records of {}, and {} were delivered: what is more there is not told where the others may have been",
                path.display(),
                feed.name(),
                mark.next
            ));
        } else {
            feed.holds(&mark)?;
        }
        let mark = if is_short { feed.before(size)? } else { mark };
        ledgers.push(Delivered {
            path,
            feed,
            mark,
            is_short,
        });
    }
    let mut is_whole = true;
    for id in there.ledgers(host)? {
        if !ledgers.iter().any(|ledger| *ledger.feed.id() == id) {
            is_whole = false;
            said.push(format!(
                "{}: it was delivered and is not here: only what is missing there is told",
                metering::note::origin(host, &id)
            ));
        }
    }
    Ok((ledgers, is_whole))
}

/// From the first span to behind the last one; `None`: there is none.
fn range<'c>(mut cells: impl Iterator<Item = &'c Cell>, span: Span) -> Option<Range<i64>> {
    let first = cells.next()?.start;
    let (first, last) = cells.fold((first, first), |(first, last), cell| {
        (first.min(cell.start), last.max(cell.start))
    });
    Some(first..last.saturating_add(span.seconds()))
}

/// One meter, and what it is held against.
struct Question<'q> {
    meter: &'q Meter,
    host: &'q str,
    how: How,
    here: &'q Here,
    ledgers: &'q [Delivered],
}

impl Question<'_> {
    /// Compares; what differs is looked at again until the time is over, for what is acknowledged is counted later.
    fn patient(&self, there: &mut CloudEvents, starts: Range<i64>) -> Result<Outcome> {
        let until = Instant::now() + self.how.wait;
        let mut outcome = self.compare(there, starts)?;
        while !outcome.differences.is_empty() && Instant::now() < until {
            thread::sleep(AGAIN.min(until.saturating_duration_since(Instant::now())));
            let wrong = outcome
                .differences
                .iter()
                .map(|difference| &difference.cell);
            let Some(starts) = range(wrong, self.how.by.span()) else {
                break;
            };
            outcome.differences = self.compare(there, starts)?.differences;
        }
        Ok(outcome)
    }

    /// Compares in some spans.
    fn compare(&self, there: &mut CloudEvents, starts: Range<i64>) -> Result<Outcome> {
        let span = self.how.by.span();
        let since = match &self.meter.from {
            None => i64::MIN,
            Some(from) => {
                let from: Timestamp = from
                    .parse()
                    .with_context(|| format!("the meter's time {from}"))?;
                from.as_second()
                    .saturating_add(i64::from(from.subsec_nanosecond() > 0))
            }
        };
        let measure = self.meter.measure();
        let expected: Vec<Cell> = self
            .here
            .cells
            .keys()
            .filter(|cell| starts.contains(&cell.start))
            .copied()
            .collect();
        let counted = there.counted(self.meter, self.host, span, starts, &expected)?;
        // Read after it was asked: what it may have beyond the marks is in the ledgers by now.
        let mut on_the_way: BTreeMap<Cell, [i128; 2]> = BTreeMap::new();
        for ledger in self.ledgers {
            let size = ledger.feed.size()?;
            for (cell, billed) in ledger.feed.cells(ledger.mark.next..size, span)?.billed {
                let may = on_the_way.entry(cell).or_default();
                may[0] += billed.takes_off[measure as usize];
                may[1] += billed.adds[measure as usize];
            }
        }
        let mut outcome = Outcome::default();
        let cells: BTreeSet<Cell> = expected
            .into_iter()
            .chain(counted.keys().copied())
            .collect();
        for cell in cells {
            let place = self.here.cells.get(&cell);
            let ours = place.map_or(0, |place| place.sums[measure as usize]);
            let theirs = counted.get(&cell).copied().unwrap_or_default();
            let may = on_the_way.get(&cell).copied().unwrap_or_default();
            let right = ours + may[0]..=ours + may[1];
            if cell.start < since {
                outcome.before += 1;
            } else if *right.end() < theirs && self.here.is_unsure(cell.start) {
                outcome.unknown += 1;
            } else {
                outcome.compared += 1;
                outcome.on_the_way += u64::from(may != [0, 0]);
                if !right.contains(&theirs) {
                    outcome.differences.push(Difference {
                        cell,
                        measure,
                        here: ours,
                        there: theirs,
                        from: place.map(|place| (place.first, place.ledger)),
                    });
                }
            }
        }
        Ok(outcome)
    }
}

fn tell(sum: &Outcome, ledgers: &[Delivered], said: &[String], how: How) {
    let by = how.by.name();
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    for difference in &sum.differences {
        let Cell {
            start,
            tenant,
            direction,
        } = difference.cell;
        let (measure, here, there) = (difference.measure.name(), difference.here, difference.there);
        let time = Timestamp::from_second(start)
            .map_or_else(|_| format!("{start} s"), |time| time.to_string());
        let from = difference.from.filter(|_| there < here);
        let place = from.map(|(_, index)| &ledgers[index]);
        let ledger = place.map(|ledger| ledger.path.display().to_string());
        let mend = match (from, place, &ledger) {
            (Some((seq, _)), Some(place), Some(path)) => format!(
                "; its first record is {seq} of {}: `octroi replay --from {seq} --ledger {path}`",
                place.feed.name()
            ),
            _ => String::new(),
        };
        lines.push(format!(
            "tenant {tenant} direction {direction} {by} from {time}: {measure}: ledger {here}, sink {there}, difference {}{mend}",
            there - here
        ));
        rows.push(json!({
            "tenant": tenant, "direction": direction, "from": time, "seconds": how.by.span().seconds(), "measure": measure,
            "ledger": here.to_string(), "sink": there.to_string(), "difference": (there - here).to_string(),
            "replay_from": from.map(|(seq, _)| seq), "replay_ledger": ledger,
        }));
    }
    if how.json {
        println!(
            "{}",
            json!({
                "differences": rows.len(), "compared": sum.compared, "by": by, "windows": rows, "remarks": said,
            })
        );
        return;
    }
    for line in said.iter().chain(&lines) {
        println!("{line}");
    }
    println!(
        "{} sums of a tenant, a direction and a {by} are compared, {} are not the same",
        sum.compared,
        rows.len()
    );
}
