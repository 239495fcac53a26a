//! `octroi usage`: totals, roll-ups, percentiles and peaks from one ledger or many.

mod output;
mod peaks;

use crate::{
    config::{self, BillingZone, Config, Meter},
    period::{self, Moment, Month, Step},
    store::Database,
};
use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use jiff::{Timestamp, tz::TimeZone};
use metering::{
    sink::postgres::Books,
    usage::{self, By, Query, SLOT_NS, Source},
};
pub use output::{class_name, reason_name};
use peaks::Peaks;
use std::path::PathBuf;

/// Which ledgers, and what tenants and zones are called.
#[derive(Debug, Args)]
pub struct Ledgers {
    /// A ledger's file; several for a tenant on several hosts.
    #[arg(long, value_name = "FILE", default_value = Meter::LEDGER)]
    ledger: Vec<PathBuf>,
    /// Instead of ledgers, what the store of a fleet has of them: a PostgreSQL database, postgres://octroi@billing.example/metering.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "ledger")]
    store: Option<String>,
    /// A file with the password of the store's user and nothing else.
    #[arg(long, value_name = "FILE", requires = "store")]
    store_password_file: Option<PathBuf>,
    /// Certificates, PEM, that the store's must descend from.
    #[arg(long, value_name = "FILE", requires = "store")]
    store_ca_file: Option<PathBuf>,
    /// Takes the ledger, the time zone and the names of this configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Days and months are those of this place; left out: as [billing] says, or UTC.
    #[arg(long, value_name = "NAME")]
    timezone: Option<BillingZone>,
    /// A host that must have records in the period; several. One that has none is named.
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
}

/// The ledgers, opened.
pub struct Opened {
    /// The oldest first.
    pub sources: Vec<Source>,
    /// Names, charge classes and the ledger's path.
    pub config: Option<Config>,
    /// Name of the time zone.
    pub zone_name: String,
    /// The time zone.
    pub zone: TimeZone,
    /// Hosts that must have records.
    pub hosts: Vec<String>,
    /// Where the ledgers are read, if not from their files.
    pub store: Option<Books>,
}

impl Ledgers {
    /// One ledger, with the time zone and the names of a configuration.
    pub(crate) fn of(ledger: PathBuf, config: Option<PathBuf>) -> Self {
        Self {
            ledger: vec![ledger],
            store: None,
            store_password_file: None,
            store_ca_file: None,
            config,
            timezone: None,
            host: Vec::new(),
        }
    }

    /// Opens them all.
    ///
    /// # Errors
    /// When one cannot be read, or is there twice.
    pub fn open(&self) -> Result<Opened> {
        let config = self.config.as_deref().map(config::load).transpose()?;
        let of_config = config
            .as_ref()
            .map(|config| config.billing.timezone.clone());
        let named = self.timezone.clone().or(of_config).unwrap_or_default();
        let store = self.store()?;
        let sources = match &store {
            Some(books) => Source::of(books.ledgers(None).with_context(|| named_store(books))?)?,
            None => Source::open(&self.paths(config.as_ref())?)?,
        };
        Ok(Opened {
            sources,
            store,
            config,
            zone_name: named.to_string(),
            zone: named.get(),
            hosts: self.host.clone(),
        })
    }
}

impl Ledgers {
    /// The files: those of the configuration, unless others were named.
    fn paths(&self, config: Option<&Config>) -> Result<Vec<PathBuf>> {
        let is_named = self.ledger != [PathBuf::from(Meter::LEDGER)];
        let Some(config) = config.filter(|_| !is_named) else {
            return Ok(self.ledger.clone());
        };
        let meter = config.meter.as_ref();
        let meter = meter.context("there is no [meter]; write --ledger")?;
        Ok(vec![meter.ledger.clone()])
    }

    fn store(&self) -> Result<Option<Books>> {
        let Some(address) = &self.store else {
            return Ok(None);
        };
        let database = Database {
            address: address.clone(),
            password_file: self.store_password_file.clone(),
            ca_file: self.store_ca_file.clone(),
        };
        Ok(Some(Books::new(database.target("--store")?)))
    }
}

/// Which store an error is of.
fn named_store(store: &Books) -> String {
    format!("--store: {}", store.describe())
}

impl Opened {
    /// Of a store, leaves the ledgers that have something of this tenant, and the hosts that should.
    ///
    /// # Errors
    /// When the store cannot be read, or has nothing of this tenant.
    pub fn only(&mut self, tenant: u32) -> Result<()> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        let which = || named_store(store);
        self.sources = Source::of(store.ledgers(Some(tenant)).with_context(which)?)?;
        self.hosts
            .extend(store.expected(tenant).with_context(which)?);
        self.hosts.sort();
        self.hosts.dedup();
        ensure!(
            !self.sources.is_empty(),
            "--store: it has no record of tenant {tenant}"
        );
        Ok(())
    }

    /// A tenant by its number or, with a configuration, by its name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn tenant(&self, text: &str) -> Result<u32> {
        if let Ok(number) = text.parse() {
            return Ok(number);
        }
        let config = self.config.as_ref();
        let config = config.with_context(|| {
            format!("--tenant {text}: write its number, or --config FILE, which has the names")
        })?;
        let tenant = config.tenants.iter().find(|one| one.name.as_str() == text);
        let tenant = tenant.with_context(|| format!("there is no tenant {text}"))?;
        Ok(tenant.id.0)
    }

    /// A tenant's name, where it is known.
    pub fn tenant_name(&self, tenant: u32) -> Option<&str> {
        let tenants = self.config.iter().flat_map(|config| &config.tenants);
        let mut found = tenants.filter(|one| one.id.0 == tenant);
        found.next().map(|one| one.name.as_str())
    }

    /// A zone's name, where it is known.
    pub fn zone_name(&self, zone: u32) -> Option<&str> {
        if let Some(name) = config::BUILT_IN_ZONES.get(zone as usize) {
            return Some(name);
        }
        let zones = self.config.iter().flat_map(|config| &config.zones);
        let mut found = zones.filter(|one| u32::from(one.id) == zone);
        found.next().map(|one| one.name.as_str())
    }

    /// A zone by its number or its name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn zone(&self, text: &str) -> Result<u32> {
        if let Ok(number) = text.parse() {
            return Ok(number);
        }
        let known = (0..64).find(|zone| self.zone_name(*zone) == Some(text));
        known
            .with_context(|| format!("there is no zone {text}; write its number, or --config FILE"))
    }

    /// The classes that a tenant is charged by in a period, in order of time.
    ///
    /// # Errors
    /// When a day of the configuration is none that a record can have.
    pub fn charge_classes(&self, tenant: u32, from: i64, to: i64) -> Result<Vec<&'static str>> {
        let tenants = self.config.iter().flat_map(|config| &config.tenants);
        let Some(tenant) = tenants.into_iter().find(|one| one.id.0 == tenant) else {
            return Ok(Vec::new());
        };
        let mut classes = vec![tenant.charge_class.as_str()];
        for change in &tenant.charge_changes {
            let begins = period::midnight(change.from, &self.zone)?;
            if begins <= from {
                classes.clear();
            }
            let class = change.class.as_str();
            if begins < to && classes.last() != Some(&class) {
                classes.push(class);
            }
        }
        Ok(classes)
    }
}

/// What there is a row for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Host,
    Port,
    Direction,
    Zone,
    Slot,
    Hour,
    Day,
    Month,
}

/// How usage is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// A JSON object in each line, with what it is; numbers of bytes and packets are strings.
    Json,
    /// Rows with a line of names; with --p95 the percentiles.
    Csv,
}

/// Which part of a tenant's usage.
#[derive(Debug, Args)]
pub struct Wanted {
    /// Name of a port.
    #[arg(long)]
    port: Option<String>,
    /// Number or name of a zone.
    #[arg(long)]
    zone: Option<String>,
    /// `from` the tenant, or `to` the tenant.
    #[arg(long)]
    direction: Option<String>,
    /// Begins at this time, as in 2026-11-24T03:00:00Z, or with this day.
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,
    /// Ends at this time, or before this day.
    #[arg(long, value_name = "TIME")]
    to: Option<Moment>,
    /// All of a month, as in 2026-11.
    #[arg(long, value_name = "MONTH", conflicts_with_all = ["from", "to"])]
    month: Option<Month>,
}

impl Wanted {
    /// What it means for these ledgers.
    ///
    /// # Errors
    /// When it makes no sense, or a ledger cannot be read.
    pub fn query(
        &self,
        opened: &Opened,
        tenant: Option<&str>,
        step: Step,
        by: By,
    ) -> Result<Query> {
        let tenant = tenant.map(|text| opened.tenant(text)).transpose()?;
        let direction = match self.direction.as_deref() {
            None => None,
            Some("from") => Some(0),
            Some("to") => Some(1),
            Some(other) => bail!("--direction {other}: write from or to"),
        };
        let zone = self.zone.as_deref().map(|text| opened.zone(text));
        let period = self.period(opened, tenant)?;
        Ok(Query {
            bounds: period::bounds(period, step, &opened.zone)?,
            tenant,
            port: self.port.clone(),
            direction,
            zone: zone.transpose()?,
            by,
            percentile: false,
        })
    }

    fn period(&self, opened: &Opened, tenant: Option<u32>) -> Result<(i64, i64)> {
        if let Some(month) = self.month {
            return month.period(&opened.zone);
        }
        let time = |moment: Option<Moment>| moment.map(|at| at.utc_ns(&opened.zone)).transpose();
        let (from, to) = (time(self.from)?, time(self.to)?);
        if let (Some(from), Some(to)) = (from, to) {
            return Ok((from, to));
        }
        let mut all: Option<(i64, i64)> = None;
        for source in &opened.sources {
            if let Some((first, last)) = source.reader.extent(tenant)? {
                let known = all.unwrap_or((first, last));
                all = Some((known.0.min(first), known.1.max(last)));
            }
        }
        let (first, last) = all.context("the ledger has no record of this tenant yet")?;
        let first = first.div_euclid(SLOT_NS) * SLOT_NS;
        let last = (last.saturating_add(SLOT_NS - 1)).div_euclid(SLOT_NS) * SLOT_NS;
        Ok((
            from.unwrap_or(first),
            to.unwrap_or(last.max(first + SLOT_NS)),
        ))
    }
}

/// `octroi usage`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    ledgers: Ledgers,
    /// Number of a tenant or, with --config, its name; left out: all.
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    wanted: Wanted,
    /// A row for each of these, beside the tenant.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "port,direction,zone"
    )]
    by: Vec<Part>,
    /// The 95th percentile of five-minute slots, in both conventions.
    #[arg(long)]
    p95: bool,
    /// Rates of windows: for information.
    #[arg(long)]
    peaks: bool,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// `octroi usage`.
///
/// # Errors
/// When a ledger cannot be read, or does not add up.
pub fn show(options: &Options) -> Result<()> {
    let mut opened = options.ledgers.open()?;
    if let Some(tenant) = &options.tenant {
        opened.only(opened.tenant(tenant)?)?;
    }
    let has = |part: Part| options.by.contains(&part);
    let by = By {
        port: has(Part::Port),
        direction: has(Part::Direction),
        zone: has(Part::Zone),
        host: has(Part::Host),
    };
    let steps = [
        (Part::Slot, Step::Slot),
        (Part::Hour, Step::Hour),
        (Part::Day, Step::Day),
        (Part::Month, Step::Month),
    ];
    let mut steps = steps.into_iter().filter(|(part, _)| has(*part));
    let step = steps.next().map_or(Step::Whole, |(_, step)| step);
    if steps.next().is_some() {
        bail!("--by: write one of slot, hour, day and month");
    }
    let mut query = options
        .wanted
        .query(&opened, options.tenant.as_deref(), step, by)?;
    query.percentile = options.p95;
    let mut peaks = Peaks::default();
    let report = usage::read(&opened.sources, &query, &opened.hosts, |record| {
        if options.peaks {
            peaks.note(record, &query);
        }
    })?;
    let shown = output::Shown {
        opened: &opened,
        query: &query,
        report: &report,
        peaks: peaks.merged(by).rows(),
    };
    shown.write(options.format)
}

/// Usage as objects, as `octroi usage --format json` has it in lines.
///
/// # Errors
/// When a ledger cannot be read, or does not add up.
pub fn objects(opened: &Opened, query: &Query) -> Result<Vec<serde_json::Value>> {
    let report = usage::read(&opened.sources, query, &opened.hosts, |_| {})?;
    let shown = output::Shown {
        opened,
        query,
        report: &report,
        peaks: Vec::new(),
    };
    shown.objects()
}

/// A time as it is shown, UTC.
pub fn time(utc_ns: i64) -> String {
    Timestamp::from_nanosecond(i128::from(utc_ns))
        .map_or_else(|_| utc_ns.to_string(), |time| time.to_string())
}
