//! What `octroi top` knows, and what its rows come to: no terminal, no clock.
//!
//! Invariants (tests below)
//! - Totals are those of `octroi status`, to the byte: a row is the sum of its ports, retired ones too.
//! - A rate is what came between two reports of the same incarnation. A port that was not there before began
//!   at 0, so that all of it came in between.

use super::flows::{FlowRow, Flows};
use crate::{live::Subject, status::Report};
use dataplane::{
    gate::{PortState, PortStatus},
    registers::Direction,
};
use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

/// What the rows are of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// A row for each tenant.
    #[default]
    Tenants,
    /// A row for each port: of this tenant, or of all.
    Ports(Option<u32>),
    /// A row for each flow that is there now; Esc leads to the rows before.
    Flows(Box<Level>),
}

/// What the rows are in the order of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Both rates together, the highest first.
    #[default]
    Rate,
    /// The rate from the tenant.
    From,
    /// The rate to the tenant.
    To,
    /// Dropped packets.
    Drops,
    /// The name, the lowest first.
    Name,
}

impl Sort {
    /// The next one.
    pub fn next(self) -> Self {
        match self {
            Self::Rate => Self::From,
            Self::From => Self::To,
            Self::To => Self::Drops,
            Self::Drops => Self::Name,
            Self::Name => Self::Rate,
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::From => "rate from",
            Self::To => "rate to",
            Self::Drops => "drops",
            Self::Name => "name",
        }
    }
}

/// Counts of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Delivered layer-2 bytes.
    pub bytes: u64,
    /// Delivered packets.
    pub packets: u64,
    /// Dropped packets.
    pub dropped: u64,
}

impl Sums {
    fn of(direction: &Direction) -> Self {
        let total = direction.total();
        Self {
            bytes: total.l2_bytes,
            packets: total.packets,
            dropped: direction.dropped().packets,
        }
    }

    fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.packets = self.packets.saturating_add(other.packets);
        self.dropped = self.dropped.saturating_add(other.dropped);
    }

    /// What came since.
    fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(before.bytes),
            packets: self.packets.saturating_sub(before.packets),
            dropped: self.dropped.saturating_sub(before.dropped),
        }
    }
}

/// A row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Name of the tenant or port.
    pub name: String,
    /// Number of the tenant.
    pub tenant: u32,
    /// Of a port: its tenant's name. Of a tenant: how many ports it has.
    pub of: String,
    /// Of a port: its interface and state.
    pub on: String,
    /// From the tenant, to the tenant.
    pub total: [Sums; 2],
    /// The same, between the last two reports.
    pub since: [Sums; 2],
    /// Dropped packets by reason, both directions.
    pub reasons: BTreeMap<String, u64>,
    /// Delivered layer-2 bytes by zone, both directions.
    pub zones: BTreeMap<u32, u64>,
}

impl Row {
    /// Dropped packets.
    pub fn dropped(&self) -> u64 {
        self.total[0].dropped.saturating_add(self.total[1].dropped)
    }

    fn add(&mut self, port: &PortStatus, before: Option<&PortStatus>) {
        let both = [&port.from_tenant, &port.to_tenant];
        let old = before.map_or_else(Default::default, |old| {
            [&old.from_tenant, &old.to_tenant].map(Sums::of)
        });
        for (way, direction) in both.into_iter().enumerate() {
            let now = Sums::of(direction);
            self.total[way].add(now);
            self.since[way].add(now.since(old[way]));
            for (reason, dropped) in &direction.drops {
                let sum = self.reasons.entry(reason.clone()).or_default();
                *sum = sum.saturating_add(dropped.packets);
            }
            for (zone, counts) in &direction.zones {
                let sum = self.zones.entry(*zone).or_default();
                *sum = sum.saturating_add(counts.l2_bytes);
            }
        }
    }
}

/// What is shown, and how.
#[derive(Debug)]
pub struct View {
    /// The last report.
    pub report: Report,
    /// The one before, and how long before.
    pub before: Option<(Report, Duration)>,
    /// Why there is no newer one.
    pub error: Option<String>,
    /// Rows of what.
    pub level: Level,
    /// In which order.
    pub sort: Sort,
    /// The other way round.
    pub reverse: bool,
    /// Only rows that have this in a name.
    pub filter: String,
    /// The filter is being written.
    pub typing: bool,
    /// Place of the row that is looked at.
    pub selected: usize,
    /// No new reports are taken.
    pub paused: bool,
    /// What is looked at on the level of flows.
    pub flows: Option<Flows>,
}

/// What to do after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Show.
    Go,
    /// Leave.
    Quit,
}

/// A key, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the keys are called so")]
pub enum Key {
    Char(char),
    Up,
    Down,
    Enter,
    Escape,
    Backspace,
}

impl View {
    /// Nothing came before.
    pub fn new(report: Report) -> Self {
        Self {
            report,
            before: None,
            error: None,
            level: Level::default(),
            sort: Sort::default(),
            reverse: false,
            filter: String::new(),
            typing: false,
            selected: 0,
            paused: false,
            flows: None,
        }
    }

    /// A report came, so long after the last one.
    pub fn take(&mut self, report: Report, elapsed: Duration) {
        // Names are the daemon's; they are known as long as they were once.
        let mut report = report;
        if !report.daemon {
            report.zones.extend(self.report.zones.clone());
            report.tenants.extend(self.report.tenants.clone());
        }
        let last = std::mem::replace(&mut self.report, report);
        self.before = Some((last, elapsed));
        self.error = None;
    }

    /// A key was pressed.
    pub fn press(&mut self, key: Key) -> After {
        if self.typing {
            match key {
                Key::Enter => self.typing = false,
                Key::Escape => {
                    self.typing = false;
                    self.filter.clear();
                }
                Key::Backspace => {
                    self.filter.pop();
                }
                Key::Char(letter) if self.filter.len() < 64 => self.filter.push(letter),
                Key::Char(_) | Key::Up | Key::Down => {}
            }
            self.selected = 0;
            return After::Go;
        }
        let rows = self.rows();
        let count = match self.level {
            Level::Flows(_) => self.flow_rows().len(),
            _ => rows.len(),
        };
        match key {
            Key::Char('q') => return After::Quit,
            Key::Down | Key::Char('j') => {
                self.selected = (self.selected + 1).min(count.saturating_sub(1));
            }
            Key::Up | Key::Char('k') => self.selected = self.selected.saturating_sub(1),
            Key::Char('s') => {
                self.sort = self.sort.next();
                // Of a flow nobody counts what is dropped for its sake.
                if self.flows.is_some() && self.sort == Sort::Drops {
                    self.sort = self.sort.next();
                }
            }
            Key::Char('r') => self.reverse = !self.reverse,
            Key::Char('/') => self.typing = true,
            Key::Char(' ') => self.paused = !self.paused,
            Key::Char('p') => self.go(Level::Ports(None)),
            Key::Char('t') => self.go(Level::Tenants),
            Key::Escape => match std::mem::take(&mut self.level) {
                Level::Flows(before) => self.go(*before),
                _ => self.go(Level::Tenants),
            },
            Key::Enter if self.level == Level::Tenants => {
                if let Some(row) = rows.get(self.selected) {
                    let tenant = row.tenant;
                    self.go(Level::Ports(Some(tenant)));
                }
            }
            Key::Enter | Key::Char('f') if self.flows.is_none() => {
                let of_port = self.level != Level::Tenants && key == Key::Enter;
                if let Some(row) = rows.get(self.selected) {
                    let subject = Subject {
                        tenant: row.tenant,
                        port: of_port.then(|| row.name.clone()),
                    };
                    let before = Box::new(self.level.clone());
                    self.go(Level::Flows(before));
                    self.flows = Some(Flows::new(subject));
                    if self.sort == Sort::Drops {
                        self.sort = Sort::Rate;
                    }
                }
            }
            Key::Enter | Key::Backspace | Key::Char(_) => {}
        }
        After::Go
    }

    fn go(&mut self, level: Level) {
        self.level = level;
        self.flows = None;
        self.filter.clear();
        self.selected = 0;
    }

    /// Name of a tenant, or its number.
    pub fn tenant_name(&self, tenant: u32) -> String {
        let name = self.report.tenants.get(&tenant).cloned();
        name.unwrap_or_else(|| tenant.to_string())
    }

    /// Name of a zone, or its number.
    pub fn zone_name(&self, zone: u32) -> String {
        let name = self.report.zones.get(&zone).cloned();
        name.unwrap_or_else(|| zone.to_string())
    }

    /// The rows of flows, in their order; none on other levels.
    pub fn flow_rows(&self) -> Vec<FlowRow> {
        let Some(flows) = &self.flows else {
            return Vec::new();
        };
        let mut rows = flows.rows(|zone| self.zone_name(zone), &self.filter, self.sort);
        if self.reverse {
            rows.reverse();
        }
        rows
    }

    /// The rows of tenants or ports, in their order; none on the level of flows.
    pub fn rows(&self) -> Vec<Row> {
        let before = self.before.iter().flat_map(|(before, _)| &before.ports);
        let before: BTreeMap<u64, &PortStatus> =
            before.map(|port| (port.incarnation, port)).collect();
        let ports = self.report.ports.iter();
        let mut rows = match self.level {
            Level::Tenants => {
                let mut tenants: BTreeMap<u32, (Row, usize)> = BTreeMap::new();
                for tenant in self.report.tenants.keys() {
                    tenants.entry(*tenant).or_default();
                }
                for port in ports {
                    let (row, live) = tenants.entry(port.tenant).or_default();
                    row.add(port, before.get(&port.incarnation).copied());
                    *live += usize::from(port.state != PortState::Retired);
                }
                let rows = tenants.into_iter().map(|(tenant, (row, live))| Row {
                    name: self.tenant_name(tenant),
                    tenant,
                    of: format!("{live} ports"),
                    ..row
                });
                rows.collect::<Vec<_>>()
            }
            Level::Ports(of) => {
                let wanted = ports.filter(|port| of.is_none_or(|tenant| port.tenant == tenant));
                let rows = wanted.map(|port| {
                    let mut row = Row {
                        name: port.name.clone(),
                        tenant: port.tenant,
                        of: self.tenant_name(port.tenant),
                        on: format!("{} {}", port.interface, state(port.state)),
                        ..Row::default()
                    };
                    row.add(port, before.get(&port.incarnation).copied());
                    row
                });
                rows.collect()
            }
            Level::Flows(_) => return Vec::new(),
        };
        rows.retain(|row| {
            [&row.name, &row.of, &row.on]
                .iter()
                .any(|text| text.contains(&self.filter))
        });
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        let [from, to] = [0, 1].map(|way| move |row: &Row| Reverse(row.since[way].bytes));
        match self.sort {
            Sort::Name => {}
            Sort::From => rows.sort_by_key(from),
            Sort::To => rows.sort_by_key(to),
            Sort::Drops => rows.sort_by_key(|row| Reverse(row.dropped())),
            Sort::Rate => rows
                .sort_by_key(|row| Reverse(row.since[0].bytes.saturating_add(row.since[1].bytes))),
        }
        if self.reverse {
            rows.reverse();
        }
        rows
    }

    /// So much in a second; `None` while there is one report only.
    pub fn per_second(&self, count: u64) -> Option<u64> {
        let (_, elapsed) = self.before.as_ref()?;
        let rate = u128::from(count) * 1_000_000_000 / elapsed.as_nanos().max(1);
        Some(u64::try_from(rate).unwrap_or(u64::MAX))
    }
}

fn state(state: PortState) -> &'static str {
    match state {
        PortState::Blessed => "blessed",
        PortState::Waiting => "waiting",
        PortState::Retired => "retired",
    }
}
