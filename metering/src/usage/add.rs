//! One record after the other.

use super::{
    Group, Late, Missing, Percentile, Query, Report, Row, SLOT_NS, Slots, SlotsKey, Span, Spread,
    Sum, Usage, UsageError,
    chain::{Chain, hour_end, hour_start},
    chain_of,
};
use crate::record::{Flags, Kind, Record};
use std::collections::BTreeMap;

impl Usage {
    /// Nothing added yet.
    ///
    /// # Errors
    /// [`UsageError::Period`].
    pub fn new(query: Query) -> Result<Self, UsageError> {
        query.check()?;
        Ok(Self {
            query,
            expected: BTreeMap::new(),
            rows: BTreeMap::new(),
            drops: BTreeMap::new(),
            evidence: BTreeMap::new(),
            slots: BTreeMap::new(),
            chains: BTreeMap::new(),
            open: BTreeMap::new(),
            hosts: Default::default(),
            ledger: String::new(),
            report: Report::default(),
        })
    }

    /// Is a percentile one of zones?
    fn zoned(&self) -> bool {
        self.query.by.zone || self.query.zone.is_some()
    }

    /// Notes what a correction adds to another record, so that percentiles have it where that record is.
    ///
    /// # Errors
    /// [`UsageError::Overflow`].
    pub fn expect(&mut self, record: &Record) -> Result<(), UsageError> {
        let Some(correction) = &record.correction else {
            return Ok(());
        };
        let (from, to) = self.query.period();
        let billed = (from..to).contains(&record.window_start);
        if !billed || !self.query.percentile || !self.query.wants(record) {
            return Ok(());
        }
        let key = (chain_of(record), record.window_id, record.zone);
        let sums = [correction.packets, correction.l2_bytes, correction.l3_bytes];
        let known = self.expected.entry(key).or_default();
        known.0 = known.0.plus(Sum(sums.map(i128::from)))?;
        known.1 = record.seq;
        Ok(())
    }

    /// The records that follow are of this ledger.
    pub fn begin(&mut self, ledger: &str, host: &str) {
        ledger.clone_into(&mut self.ledger);
        self.hosts.insert(host.to_owned());
    }

    /// Adds a record. `open`: of a LATE one, the end of the last label of its tenant that was written
    /// before it; the record is billed then (M-16.5).
    ///
    /// # Errors
    /// Any [`UsageError`] but those of a ledger.
    pub fn add(&mut self, record: &Record, open: Option<i64>) -> Result<(), UsageError> {
        if !self.query.wants(record) {
            return Ok(());
        }
        let late = open.filter(|_| record.flags.has(Flags::LATE));
        let billed = late.map_or_else(|| Span::carried(record), Span::at);
        match (record.kind, record.zone) {
            (Kind::Meter, None) => self.total(record, billed, late.is_some()),
            (Kind::Meter, Some(zone)) => self.zone(record, zone, billed, late.is_some()),
            (Kind::Nodata, _) => self.nodata(record),
            (Kind::Correction, _) => self.correction(record),
            // Neither bills anything, nor does one that is no leaf.
            (Kind::Begin | Kind::Checkpoint | Kind::Key | Kind::Erasure | Kind::Statement, _) => {
                Ok(())
            }
        }
    }

    fn group(&self, record: &Record) -> Group {
        let by = self.query.by;
        Group {
            tenant: record.tenant,
            host: by.host.then(|| record.host.clone()),
            port: by.port.then(|| record.port_uid.clone()),
            direction: by.direction.then_some(record.direction),
            zone: by.zone.then_some(record.zone),
        }
    }

    fn total(&mut self, record: &Record, billed: Span, late: bool) -> Result<(), UsageError> {
        if late {
            self.catch_up(record);
        } else {
            self.follow(record)?;
        }
        let counted = record.counted().unwrap_or_default();
        self.balance(record, Sum::from(counted))?;
        let (from, to) = self.query.period();
        if !billed.meets(from, to) {
            return Ok(());
        }
        let carried = Span::carried(record);
        let (first, last) = carried.slots();
        if last - first > 1 && counted.l2_bytes != 0 {
            self.report.spread.push(Spread {
                ledger: self.ledger.clone(),
                seq: record.seq,
                tenant: record.tenant,
                port: record.port_uid.clone(),
                direction: record.direction,
                from: carried.start,
                to: carried.end,
                l2_bytes: counted.l2_bytes,
            });
        }
        let share = |whole: u64| billed.share(whole, from, to);
        let total = record.total.iter();
        for dropped in total.clone().flat_map(|total| &total.drops) {
            let key = (record.tenant, record.direction, dropped.reason);
            let drops = self.drops.entry(key).or_default();
            drops.add(share(dropped.packets), share(dropped.l2_bytes))?;
        }
        for one in total.flat_map(|total| &total.evidence) {
            let key = (record.tenant, record.direction, one.class);
            let class = self.evidence.entry(key).or_default();
            class.add(share(one.packets), share(one.l2_bytes))?;
        }
        if self.zoned() {
            return Ok(());
        }
        // A 0 that was measured is a row.
        let group = self.group(record);
        for (bucket, ..) in self.query.buckets(billed) {
            self.rows.entry((bucket, group.clone())).or_default();
        }
        self.carry(record, carried, late, None)
    }

    fn zone(
        &mut self,
        record: &Record,
        zone: u32,
        billed: Span,
        late: bool,
    ) -> Result<(), UsageError> {
        let counted = record.counted().unwrap_or_default();
        let Sum(sums) = Sum::from(counted);
        self.balance(record, Sum(sums.map(|sum| -sum)))?;
        let (from, to) = self.query.period();
        let wanted = self.query.zone.is_none_or(|wanted| wanted == zone);
        if !wanted || !billed.meets(from, to) {
            return Ok(());
        }
        let (first, last) = Span::carried(record).slots();
        let group = self.group(record);
        let whole = [counted.packets, counted.l2_bytes, counted.l3_bytes];
        for (bucket, from, to) in self.query.buckets(billed) {
            let share = billed.share_of(whole, from, to);
            let kept = self.rows.entry((bucket, group.clone())).or_default();
            kept.sum = kept.sum.plus(share)?;
            if late {
                kept.late += share.l2_bytes();
            }
            if last - first > 1 {
                kept.spread += share.l2_bytes();
            }
        }
        if late {
            let sum = billed.share_of(whole, from, to);
            self.late(record, sum, None);
        }
        if self.zoned() {
            self.carry(record, Span::carried(record), late, Some(zone))?;
        }
        Ok(())
    }

    fn late(&mut self, record: &Record, sum: Sum, reason: Option<String>) {
        self.report.late.push(Late {
            ledger: self.ledger.clone(),
            seq: record.seq,
            tenant: record.tenant,
            port: record.port_uid.clone(),
            direction: record.direction,
            zone: record.zone,
            sum,
            reason,
        });
    }

    /// M-8.3: a window's zones are its total.
    fn balance(&mut self, record: &Record, part: Sum) -> Result<(), UsageError> {
        let key = (chain_of(record), record.window_id);
        let open = self.open.entry(key).or_default();
        *open = open.plus(part)?;
        if open.is_zero() {
            self.open.remove(&key);
        }
        Ok(())
    }

    fn follow(&mut self, record: &Record) -> Result<(), UsageError> {
        let key = chain_of(record);
        let Some(chain) = self.chains.get_mut(&key) else {
            self.chains.insert(key, Chain::begin(record, &self.ledger));
            return Ok(());
        };
        if let Some((from, to)) = chain.follow(record, &self.ledger)? {
            self.report.missing.push(Missing {
                host: record.host.clone(),
                port: Some(record.port_uid.clone()),
                direction: Some(record.direction),
                from,
                to,
                why: "a window has no record".into(),
            });
        }
        Ok(())
    }

    fn catch_up(&mut self, record: &Record) {
        if let Some(chain) = self.chains.get_mut(&chain_of(record)) {
            chain.catch_up(record);
        }
    }

    fn nodata(&mut self, record: &Record) -> Result<(), UsageError> {
        if record.flags.has(Flags::LATE) {
            self.catch_up(record);
        } else {
            self.follow(record)?;
        }
        let (from, to) = self.query.period();
        let span = Span::carried(record);
        if span.start == span.end || !span.meets(from, to) {
            return Ok(());
        }
        self.report.missing.push(Missing {
            host: record.host.clone(),
            port: Some(record.port_uid.clone()),
            direction: Some(record.direction),
            from: span.start,
            to: span.end,
            why: record.cause.clone().unwrap_or_default(),
        });
        if self.query.percentile {
            let (first, last) = span.slots();
            let slots = self.slots_of(record, None)?;
            let unknown = &mut slots.unknown[usize::from(record.direction & 1)];
            let origin = from / SLOT_NS;
            for slot in first.max(origin)..last.min(to / SLOT_NS) {
                if let Some(unknown) = unknown.get_mut((slot - origin) as usize) {
                    *unknown = true;
                }
            }
        }
        Ok(())
    }

    fn correction(&mut self, record: &Record) -> Result<(), UsageError> {
        let Some(correction) = &record.correction else {
            return Ok(());
        };
        let sums = [correction.packets, correction.l2_bytes, correction.l3_bytes];
        let sum = Sum(sums.map(i128::from));
        if self
            .query
            .zone
            .is_some_and(|zone| record.zone != Some(zone))
        {
            return Ok(());
        }
        let group = self.group(record);
        let at = Span::at(record.window_start);
        let bucket = self.query.buckets(at).next();
        let Some((bucket, ..)) = bucket else {
            return Ok(());
        };
        let kept = self.rows.entry((bucket, group)).or_default();
        kept.sum = kept.sum.plus(sum)?;
        kept.corrected += sum.l2_bytes();
        self.late(record, sum, Some(correction.reason.clone()));
        Ok(())
    }

    fn slots_of(&mut self, record: &Record, zone: Option<u32>) -> Result<&mut Slots, UsageError> {
        let (from, to) = self.query.period();
        let count = usize::try_from((to - from) / SLOT_NS).map_err(|_| UsageError::Overflow)?;
        let port = self.query.by.port.then(|| record.port_uid.clone());
        let key = (record.tenant, port, zone);
        Ok(self.slots.entry(key).or_insert_with(|| Slots::new(count)))
    }

    /// Puts a record, with its corrections, into the slots in which it was carried.
    fn carry(
        &mut self,
        record: &Record,
        span: Span,
        late: bool,
        zone: Option<u32>,
    ) -> Result<(), UsageError> {
        if !self.query.percentile {
            return Ok(());
        }
        let counted = record.counted().unwrap_or_default();
        let mut value = i128::from(counted.l2_bytes);
        let (chain, window) = (chain_of(record), record.window_id);
        // A total has its zones' corrections, too.
        let range = match zone {
            Some(zone) => (chain, window, Some(zone))..=(chain, window, Some(zone)),
            None => (chain, window, None)..=(chain, window, Some(u32::MAX)),
        };
        let found: Vec<_> = self.expected.range(range).map(|(key, _)| *key).collect();
        for key in found {
            let (sum, _) = self.expected.remove(&key).unwrap_or_default();
            value = value.saturating_add(sum.l2_bytes());
        }
        let value = u64::try_from(value).map_err(|_| UsageError::Record {
            ledger: self.ledger.clone(),
            seq: record.seq,
            what: "its corrections take it below 0".into(),
        })?;
        let (from, to) = self.query.period();
        if late && !span.meets(from, to) {
            self.report.in_no_slot.push(record.seq);
        }
        let origin = from / SLOT_NS;
        let (first, last) = span.slots();
        let direction = usize::from(record.direction & 1);
        let bytes = &mut self.slots_of(record, zone)?.bytes[direction];
        for slot in first.max(origin)..last.min(to / SLOT_NS) {
            let share = span.share(value, slot * SLOT_NS, (slot + 1) * SLOT_NS);
            if let Some(sum) = bytes.get_mut((slot - origin) as usize) {
                *sum = sum.checked_add(share).ok_or(UsageError::Overflow)?;
            }
        }
        Ok(())
    }

    /// A port of which no record was added is open, since this time.
    pub fn stands(&mut self, host: &str, since: i64) {
        let key = ([0; 16], [0; 16], self.chains.len() as u64, 2);
        let chain = Chain {
            host: host.to_owned(),
            end: since,
            ..Chain::default()
        };
        self.chains.insert(key, chain);
    }

    /// What it comes to. `now`: the end of the last label of all ledgers; `hosts`: those that should have
    /// records.
    ///
    /// # Errors
    /// [`UsageError::Zones`].
    pub fn finish(mut self, now: i64, hosts: &[String]) -> Result<Report, UsageError> {
        if let Some(((chain, window), _)) = self.open.first_key_value() {
            let chain = self.chains.get(chain);
            return Err(UsageError::Zones {
                ledger: self.ledger,
                port: chain.map_or_else(String::new, |chain| chain.port.clone()),
                window: *window,
            });
        }
        let (from, to) = self.query.period();
        for host in hosts.iter().filter(|host| !self.hosts.contains(*host)) {
            self.report.missing.push(Missing {
                host: host.clone(),
                port: None,
                direction: None,
                from,
                to,
                why: "no ledger of this host was given".into(),
            });
        }
        let holes = std::mem::take(&mut self.report.missing);
        let unsettled =
            |hole: &&Missing| hole.why == "a window has no record" || hole.port.is_none();
        let open: Vec<Span> = holes
            .iter()
            .filter(unsettled)
            .map(|hole| Span {
                start: hour_start(hole.from),
                end: hour_end(hole.to).max(hour_start(hole.from) + 1),
            })
            .collect();
        self.report.missing = holes;
        let mut settled_to = now;
        for chain in self.chains.values().filter(|chain| !chain.reset) {
            settled_to = settled_to.min(chain.end);
        }
        let settled = |from: i64, to: i64| {
            hour_end(to) <= settled_to && !open.iter().any(|open| open.meets(from, to))
        };
        self.report.settled = settled(from, to);
        self.standing(now.min(to));
        let bounds = &self.query.bounds;
        self.report.rows = std::mem::take(&mut self.rows)
            .into_iter()
            .map(|((bucket, group), kept)| Row {
                group,
                from: bounds[bucket],
                to: bounds[bucket + 1],
                kept,
                settled: settled(bounds[bucket], bounds[bucket + 1]),
            })
            .collect();
        self.report.drops = std::mem::take(&mut self.drops).into_iter().collect();
        self.report.evidence = std::mem::take(&mut self.evidence).into_iter().collect();
        self.report.slots_until = (now / SLOT_NS * SLOT_NS).clamp(from, to);
        let count = (self.report.slots_until - from) / SLOT_NS;
        self.percentiles(usize::try_from(count).unwrap_or(0));
        let unmet = self.expected.values().map(|(_, seq)| *seq);
        self.report.in_no_slot.extend(unmet);
        self.report.in_no_slot.sort_unstable();
        Ok(self.report)
    }

    /// Names hosts whose records end before `until` though their ports stand.
    fn standing(&mut self, until: i64) {
        let mut ends = BTreeMap::<String, i64>::new();
        for chain in self.chains.values() {
            if !chain.reset && chain.end < until {
                let end = ends.entry(chain.host.clone()).or_insert(chain.end);
                *end = chain.end.min(*end);
            }
        }
        for (host, end) in ends {
            self.report.missing.push(Missing {
                host,
                port: None,
                direction: None,
                from: end,
                to: until,
                why: "no record yet".into(),
            });
        }
    }

    fn percentiles(&mut self, count: usize) {
        let unknown: BTreeMap<SlotsKey, Slots> = if self.zoned() {
            let totals = self.slots.iter().filter(|(key, _)| key.2.is_none());
            totals
                .map(|(key, slots)| (key.clone(), slots.clone()))
                .collect()
        } else {
            BTreeMap::new()
        };
        for ((tenant, port, zone), mut slots) in std::mem::take(&mut self.slots) {
            if self.query.by.zone && zone.is_none() || self.query.zone.is_some() && zone.is_none() {
                continue;
            }
            // What is not known of a port is not known of any of its zones.
            if let Some(total) = unknown.get(&(tenant, port.clone(), None)) {
                slots.unknown.clone_from(&total.unknown);
            }
            self.report.percentiles.push(Percentile {
                tenant,
                port,
                zone,
                p95: slots.p95(count),
                slots,
            });
        }
    }
}
