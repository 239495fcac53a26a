//! The books of tenants' budgets: how much of each was had in its period, and so how much is left for the kernel to grant.
//!
//! Invariants (`tests/quota.rs`; decision 0055)
//! - What was had is what the ledger's records of the period add up to, as `octroi usage` says, whenever the kernel's count
//!   and the ledger speak of the same window: at the first window after a start, when a rule changes, and when a correction
//!   comes. From there on the kernel's count is added, window by window; it is the same number.
//! - The kernel's count is only read. A grant names a place on it: where it stood at a cut, and what was left then.
//! - A grant is made when it differs from what the kernel would do by itself, and not otherwise.

use super::clock;
use crate::{
    config::{Config, Quota, QuotaPeriod},
    loader::Gate,
    period::{self, Month},
};
use anyhow::{Context as _, Result};
use dataplane::quota::{Grant, Spent};
use jiff::tz::TimeZone;
use metering::{
    ledger::Reader,
    usage::{self, By, Query, Source},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A period's end may be so long ago, ns, before the kernel takes it that the daemon is away and grants the next one's
/// budget itself: a cut, a commit and a revision of ten thousand tenants.
const GRACE_NS: u64 = 10_000_000_000;
/// The wall clock may be slewed so far, ns, before the kernel is told when a period ends now.
const SLEW_NS: u64 = 1_000_000_000;

/// What `octroi quota` and `status` say of a tenant's budget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaStatus {
    /// The tenant's name.
    pub tenant: String,
    /// Its number.
    pub id: u32,
    /// Layer-2 bytes in a period.
    pub budget_bytes: u64,
    /// What was had of what counts, in this period: also what passed at the slower rate.
    pub spent_bytes: u64,
    /// What is left until the slower rate, or drops.
    pub left_bytes: u64,
    /// `day`, `month`, or a time.
    pub period: String,
    /// When the period began: UTC, ns since 1970.
    pub from_utc_ns: i64,
    /// When it ends.
    pub to_utc_ns: i64,
    /// `from_tenant`, `to_tenant` or `both`.
    pub direction: String,
    /// The zones that count; empty: all but `intra-host`.
    pub zones: Vec<String>,
    /// What happens when it is spent: a rate, or `drop`.
    pub then: String,
    /// What is in force: `budget`, `slower` or `drop`.
    pub in_force: String,
}

/// A budget, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    name: String,
    quota: Quota,
    /// The zones that count, a bit each.
    zones: u64,
    timezone: TimeZone,
}

impl Rule {
    /// Whether what was had by one is what was had by the other: a budget may be raised at any time.
    fn counts_as(&self, other: &Self) -> bool {
        self.quota.direction == other.quota.direction
            && self.zones == other.zones
            && self.quota.period == other.quota.period
            && self.timezone == other.timezone
    }

    /// The period that `utc_ns` is in: beginning and end.
    fn period(&self, utc_ns: i64) -> Result<(i64, i64)> {
        let day = period::day_of(utc_ns, &self.timezone)?;
        match self.quota.period {
            QuotaPeriod::Day => Ok((
                period::midnight(day, &self.timezone)?,
                period::midnight(day.tomorrow()?, &self.timezone)?,
            )),
            QuotaPeriod::Month => Month(day.first_of_month()).period(&self.timezone),
            QuotaPeriod::Every(ns) => {
                let ns = i64::try_from(ns).context("no period is as long as this")?;
                let from = utc_ns - utc_ns.rem_euclid(ns);
                Ok((from, from.saturating_add(ns)))
            }
        }
    }

    /// What the ledger has of a period, layer-2 bytes.
    fn had(&self, ledger: &Path, tenant: u32, (from, to): (i64, i64)) -> Result<u64> {
        if !ledger.exists() {
            return Ok(0);
        }
        let query = Query {
            bounds: vec![from, to],
            tenant: Some(tenant),
            by: By {
                direction: true,
                zone: true,
                ..By::default()
            },
            ..Query::default()
        };
        let sources = Source::open(&[ledger.to_owned()])?;
        let report = usage::read(&sources, &query, &[], |_| ())?;
        let directions = self.quota.direction.counts();
        let counts = |row: &&usage::Row| {
            let direction = row.group.direction.unwrap_or(0);
            // A correction of a total is of no zone: it is counted where all are.
            let zone = row.group.zone.flatten();
            let zone = zone.map_or(self.quota.zones.is_empty(), |zone| {
                self.zones >> (zone & 63) & 1 != 0
            });
            directions[usize::from(direction & 1)] && zone
        };
        let rows = report.rows.iter().filter(counts);
        let sum: i128 = rows.map(|row| row.kept.sum.l2_bytes()).sum();
        Ok(u64::try_from(sum.max(0)).unwrap_or(u64::MAX))
    }
}

/// What is known of a budget.
struct Kept {
    rule: Rule,
    period: (i64, i64),
    /// What was had in it.
    had: u64,
    /// The kernel's count at the cut of the window up to which `had` goes; `None`: none was cut since.
    at: Option<Spent>,
    /// What the kernel was told last.
    told: Option<Grant>,
}

impl Kept {
    fn left(&self) -> u64 {
        self.rule.quota.bytes.0.saturating_sub(self.had)
    }

    fn grant(&self, tenant: u32) -> Grant {
        let now = clock::now();
        let until = i128::from(self.period.1) - i128::from(now.utc_ns)
            + i128::from(now.mono_ns)
            + i128::from(GRACE_NS);
        let next = self.rule.period(self.period.1);
        let length = next.map_or(0, |(from, to)| to.abs_diff(from));
        Grant {
            tenant,
            left: self.left(),
            at: self.at.map(|at| at.within),
            // A period that is over has been for less than the grace, or nobody is late.
            until_ns: u64::try_from(until.max(1)).unwrap_or(u64::MAX),
            period_ns: length,
        }
    }
}

fn unread(rule: &Rule, error: &anyhow::Error) -> String {
    format!(
        "warning: what tenant {} had of its quota cannot be read: {error:#}",
        rule.name
    )
}

/// Would the kernel do the same by both grants, with its count at `within`?
fn same(told: &Grant, new: &Grant, within: u64) -> bool {
    let left = |grant: &Grant| {
        let at = grant.at.unwrap_or(within);
        at.saturating_add(grant.left).saturating_sub(within)
    };
    left(told) == left(new)
        && told.period_ns == new.period_ns
        && told.until_ns.abs_diff(new.until_ns) < SLEW_NS
}

/// The books.
#[derive(Default)]
pub struct Books {
    ledger: PathBuf,
    kept: BTreeMap<u32, Kept>,
    /// What the last cut read, by its window.
    cut: Option<(u64, Vec<Spent>)>,
}

impl Books {
    /// Takes the rules of a configuration that is about to be put in force, and returns the grants for it. What a new rule
    /// counts is read from the ledger. Also what could not be.
    pub fn configure(&mut self, config: &Config) -> (Vec<Grant>, Vec<String>) {
        let mut said = Vec::new();
        let ledger = config.meter.as_ref().map(|meter| meter.ledger.clone());
        self.ledger = ledger.unwrap_or_default();
        let mut before = std::mem::take(&mut self.kept);
        for tenant in &config.tenants {
            let Some(quota) = &tenant.quota else {
                continue;
            };
            let id = tenant.id.0;
            let rule = Rule {
                name: tenant.name.as_str().to_owned(),
                quota: quota.clone(),
                zones: quota.zone_bits(config),
                timezone: config.billing.timezone.get(),
            };
            let known = before.remove(&id);
            if let Some(known) = known.filter(|known| known.rule.counts_as(&rule)) {
                self.kept.insert(id, Kept { rule, ..known });
                continue;
            }
            let now = clock::utc_ns();
            let period = rule.period(now).unwrap_or((now, i64::MAX));
            // What cannot be read now is read with the first window that is in the ledger.
            let had = rule.had(&self.ledger, id, period).unwrap_or_else(|error| {
                said.push(unread(&rule, &error));
                0
            });
            let kept = Kept {
                rule,
                period,
                had,
                at: None,
                told: None,
            };
            self.kept.insert(id, kept);
        }
        (self.grants(|_, _| true), said)
    }

    /// They are in force.
    pub fn granted(&mut self, grants: &[Grant]) {
        for grant in grants {
            if let Some(kept) = self.kept.get_mut(&grant.tenant) {
                kept.told = Some(*grant);
            }
        }
    }

    fn grants(&self, which: impl Fn(&Kept, &Grant) -> bool) -> Vec<Grant> {
        let all = self.kept.iter();
        let all = all.map(|(tenant, kept)| (kept, kept.grant(*tenant)));
        let wanted = all.filter(|(kept, grant)| which(kept, grant));
        wanted.map(|(_, grant)| grant).collect()
    }

    /// A window was cut.
    pub fn cut(&mut self, window: u64, spent: Vec<Spent>) {
        self.cut = Some((window, spent));
    }

    /// A correction came: what was had is to be read again.
    pub fn corrected(&mut self) {
        for kept in self.kept.values_mut() {
            kept.at = None;
        }
    }

    /// A window is in the ledger. The kernel is told what changes by that. Returns what there is to say.
    pub fn committed(&mut self, gate: &mut Gate, window: u64) -> Vec<String> {
        let Some((_, spent)) = self.cut.take().filter(|(cut, _)| *cut == window) else {
            return Vec::new();
        };
        if self.kept.is_empty() {
            return Vec::new();
        }
        let mut said = Vec::new();
        // Up to where the meter is: a period is over when its last window is in the ledger.
        let end = Reader::open(&self.ledger)
            .and_then(|reader| reader.label_end(None, reader.size()?))
            .map(|end| end.unwrap_or_else(clock::utc_ns));
        match end {
            Ok(end) => said.extend(self.add(&spent, end)),
            Err(error) => said.push(format!("warning: quotas: {error}")),
        }
        let grants = self.grants(|kept, grant| {
            let within = kept.at.map_or(0, |at| at.within);
            let told = kept.told.filter(|told| told.at.is_some());
            kept.at.is_some() && told.is_none_or(|told| !same(&told, grant, within))
        });
        if grants.is_empty() {
            return said;
        }
        // A revision is of all tenants.
        let grants = self.grants(|_, _| true);
        match gate.grant(&grants) {
            Ok(_) => self.granted(&grants),
            Err(error) => said.push(format!("warning: quotas: {error}")),
        }
        said
    }

    /// Adds what a window brought. `end`: that of its label.
    fn add(&mut self, spent: &[Spent], end: i64) -> Vec<String> {
        let mut said = Vec::new();
        for now in spent {
            let Some(kept) = self.kept.get_mut(&now.tenant) else {
                continue;
            };
            let period = match kept.rule.period(end) {
                Ok(period) => period,
                Err(error) => {
                    said.push(format!("warning: quota of {}: {error:#}", kept.rule.name));
                    continue;
                }
            };
            let gained = kept.at.and_then(|at| {
                let within = now.within.checked_sub(at.within)?;
                let beyond = now.beyond.checked_sub(at.beyond)?;
                (at.account == now.account).then_some(within.saturating_add(beyond))
            });
            let had = match gained {
                Some(gained) if period == kept.period => Ok(kept.had.saturating_add(gained)),
                // The window ended with the period: nothing of it is in the next one.
                Some(_) if period.0 == end && period.0 == kept.period.1 => Ok(0),
                _ => kept.rule.had(&self.ledger, now.tenant, period),
            };
            match had {
                Ok(had) => (kept.had, kept.period, kept.at) = (had, period, Some(*now)),
                Err(error) => said.push(unread(&kept.rule, &error)),
            }
        }
        said
    }

    /// What there is to say of each, with the kernel's counts of now.
    pub fn status(&self, now: &[Spent]) -> Vec<QuotaStatus> {
        let of = |(tenant, kept): (&u32, &Kept)| {
            let quota = &kept.rule.quota;
            let live = now.iter().find(|live| live.tenant == *tenant);
            let since = live.zip(kept.at).map_or(0, |(live, at)| {
                let within = live.within.saturating_sub(at.within);
                within.saturating_add(live.beyond.saturating_sub(at.beyond))
            });
            let left = live.map_or(kept.left(), Spent::left);
            let slower = match quota.then.rate() {
                Some(_) => "slower",
                None => "drop",
            };
            QuotaStatus {
                tenant: kept.rule.name.clone(),
                id: *tenant,
                budget_bytes: quota.bytes.0,
                spent_bytes: kept.had.saturating_add(since),
                left_bytes: left,
                period: quota.period.to_string(),
                from_utc_ns: kept.period.0,
                to_utc_ns: kept.period.1,
                direction: quota.direction.as_str().into(),
                zones: quota.zones.iter().map(|zone| zone.to_string()).collect(),
                then: quota.then.to_string(),
                in_force: if left == 0 { slower } else { "budget" }.into(),
            }
        };
        self.kept.iter().map(of).collect()
    }
}
