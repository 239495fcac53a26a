//! `octroi statement`: a tenant's month, for whoever pays it and whoever doubts it.

use crate::{
    config, correct,
    daemon::control::Refusal,
    period::{self, Month, Step},
    usage::{Ledgers, Opened, class_name, reason_name, time},
};
use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use metering::{
    ledger::{self, Addition, Issue},
    note,
    record::{self, Record},
    statement::{self, Day, Lang, LedgerLine, Parts, Statement, Subject},
    usage::{self, By, HOUR_NS, Query, Report},
};
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

/// In which language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    /// English.
    En,
    /// French.
    Fr,
}

/// As what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One page that prints and asks nothing of any other.
    Html,
    /// A row for each day, port, direction and zone, with the column names of FOCUS.
    Csv,
    /// Everything; the ledger keeps the hash of this.
    Json,
}

/// `octroi statement`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    ledgers: Ledgers,
    /// Number of the tenant or, with --config, its name.
    #[arg(long)]
    tenant: String,
    /// As in 2026-11.
    #[arg(long)]
    month: Month,
    #[arg(long, value_enum, default_value = "en")]
    lang: Language,
    #[arg(long, value_enum, default_value = "html")]
    format: Format,
    /// Writes to this file; left out: to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Numbers it and writes its hash into the ledger: the month is over, and this is what is told.
    #[arg(long, conflicts_with = "store")]
    issue: bool,
    /// Issues it though something is missing, which is named in it.
    #[arg(long, requires = "issue")]
    incomplete: bool,
    /// Directory of the control socket: a daemon that runs writes into its ledger itself.
    #[arg(long, default_value = config::Host::RUN_DIR, value_name = "DIR")]
    run_dir: PathBuf,
}

/// `octroi statement`.
///
/// # Errors
/// When a ledger cannot be read or does not add up; when it cannot be issued.
pub fn run(options: &Options) -> Result<(), Refusal> {
    let mut month = Reckoned::new(options)?;
    let statement = if options.issue {
        month.issue(options)?
    } else {
        month.last()?
    };
    write(options, &statement)?;
    Ok(())
}

/// The month, and what was issued of it.
struct Reckoned {
    opened: Opened,
    tenant: u32,
    month: Month,
    bounds: Vec<i64>,
    issued: Vec<Record>,
}

impl Reckoned {
    fn new(options: &Options) -> Result<Self> {
        let mut opened = options.ledgers.open()?;
        let tenant = opened.tenant(&options.tenant)?;
        opened.only(tenant)?;
        Self::of(opened, tenant, options.month)
    }

    fn of(opened: Opened, tenant: u32, month: Month) -> Result<Self> {
        let period = month.period(&opened.zone)?;
        let bounds = period::bounds(period, Step::Day, &opened.zone)?;
        let first = opened.sources.first().context("no ledger")?;
        let issued = first.reader.statements(first.size)?;
        let issued = issued.into_iter().collect::<Result<Vec<_>, _>>();
        let issued = issued.map_err(|(seq, error)| anyhow::anyhow!("record {seq}: {error}"))?;
        Ok(Self {
            opened,
            tenant,
            month,
            bounds,
            issued,
        })
    }

    fn period(&self) -> (i64, i64) {
        let end = self.bounds.last().copied().unwrap_or_default();
        (self.bounds.first().copied().unwrap_or(end), end)
    }

    /// The statement as it was last issued, or a provisional one.
    fn last(&mut self) -> Result<Statement> {
        let (from, to) = self.period();
        let same = |record: &&Record| {
            (record.tenant, record.window_start, record.window_end) == (self.tenant, from, to)
        };
        let told = self
            .issued
            .iter()
            .filter(same)
            .filter_map(|record| record.statement);
        let Some(told) = told.max_by_key(|told| told.version) else {
            return self.reckon(None);
        };
        let sizes: Vec<u64> = self
            .opened
            .sources
            .iter()
            .map(|source| source.size)
            .collect();
        if let Some(first) = self.opened.sources.first_mut() {
            first.size = told.size;
        }
        let statement = self.reckon(Some(numbered(&told)))?;
        if statement.digest() == told.digest {
            return Ok(statement);
        }
        eprintln!(
            "octroi: statement {} version {} cannot be made again: other ledgers, names, classes or another \
             time zone were given; this one is provisional",
            told.number, told.version
        );
        for (source, size) in self.opened.sources.iter_mut().zip(sizes) {
            source.size = size;
        }
        self.reckon(None)
    }

    /// Issues the statement.
    fn issue(&mut self, options: &Options) -> Result<Statement, Refusal> {
        let (from, to) = self.period();
        let provisional = self.reckon(None)?;
        let end = usage::open_end(&self.opened.sources).map_err(anyhow::Error::from)?;
        if end.is_none_or(|end| end < to) {
            return Err(Refusal::system(format!(
                "{} is not over in {}: its last records end at {}",
                self.month,
                self.opened.zone_name,
                end.map_or_else(|| "no time".into(), time)
            )));
        }
        if !provisional.settled && !options.incomplete {
            let missing = provisional.missing.iter().take(5);
            let missing: Vec<String> = missing
                .map(|one| {
                    format!(
                        "{} {} from {} to {}: {}",
                        one.host, one.port, one.from, one.to, one.why
                    )
                })
                .collect();
            return Err(Refusal::system(format!(
                "{} is not settled ({}); write --incomplete to issue it all the same",
                self.month,
                missing.join("; ")
            )));
        }
        let now = i64::try_from(Timestamp::now().as_nanosecond());
        let now = now.map_err(|_| Refusal::system("the clock is past 2262"))?;
        let (number, version) = ledger::next_statement(&self.issued, self.tenant, (from, to));
        let mut told = record::Statement {
            number,
            version,
            issued: now,
            size: self.opened.sources.first().map_or(0, |first| first.size),
            ..record::Statement::default()
        };
        let statement = self.reckon(Some(numbered(&told)))?;
        if version > 1 && self.is_the_same(&statement)? {
            return Err(Refusal::system(format!(
                "nothing has changed since statement {number} version {}: it is not issued again",
                version - 1
            )));
        }
        let total = statement.total;
        let sums = [total.packets, total.l2_bytes, total.l3_bytes];
        let [packets, l2_bytes, l3_bytes] = sums.map(|sum| i64::try_from(sum.0));
        let fits = || anyhow::anyhow!("the sum is past 2^63; please report this");
        told.packets = packets.map_err(|_| fits())?;
        told.l2_bytes = l2_bytes.map_err(|_| fits())?;
        told.l3_bytes = l3_bytes.map_err(|_| fits())?;
        told.digest = statement.digest();
        let issue = Issue {
            tenant: self.tenant,
            from,
            to,
            statement: told,
        };
        let first = self.opened.sources.first();
        let path = first.and_then(|first| first.reader.path());
        let path = path.context(
            "a statement is issued by the host whose ledger keeps its hash: write --ledger, without --store",
        )?;
        let path = path.to_owned();
        let seq = correct::add(&options.run_dir, &path, &Addition::Issue(issue))?;
        eprintln!("octroi: statement {number} version {version} is record {seq}");
        Ok(statement)
    }

    /// Did the version before come to the same numbers and names?
    fn is_the_same(&mut self, statement: &Statement) -> Result<bool> {
        let plain = |statement: &Statement| {
            let mut plain = statement.clone();
            plain.issue = None;
            // More records that bill nothing here change nothing.
            plain.ledgers.clear();
            plain.percentiles.until.clear();
            plain.to_json()
        };
        let now: Vec<u64> = self
            .opened
            .sources
            .iter()
            .map(|source| source.size)
            .collect();
        let before = self.last()?;
        for (source, size) in self.opened.sources.iter_mut().zip(now) {
            source.size = size;
        }
        Ok(before.issue.is_some() && plain(&before) == plain(statement))
    }

    fn reckon(&self, issue: Option<statement::Issue>) -> Result<Statement> {
        let opened = &self.opened;
        let (from, to) = self.period();
        let mut query = Query {
            bounds: self.bounds.clone(),
            tenant: Some(self.tenant),
            by: By {
                port: true,
                direction: true,
                zone: true,
                host: false,
            },
            ..Query::default()
        };
        let usage = usage::read(&opened.sources, &query, &opened.hosts, |_| ())?;
        query.by = By::default();
        query.bounds = vec![from, to];
        query.percentile = true;
        let percentile = usage::read(&opened.sources, &query, &opened.hosts, |_| ())?;
        self.put_together(issue, &usage, &percentile)
    }

    fn put_together(
        &self,
        issue: Option<statement::Issue>,
        usage: &Report,
        percentile: &Report,
    ) -> Result<Statement> {
        let opened = &self.opened;
        let (from, to) = self.period();
        let mut days = Vec::new();
        for pair in self.bounds.windows(2) {
            let hours = (pair[1] - pair[0]) / HOUR_NS;
            days.push(Day {
                date: period::day_of(pair[0], &opened.zone)?.to_string(),
                from: time(pair[0]),
                to: time(pair[1]),
                hours: u64::try_from(hours).unwrap_or(0),
                charge_class: opened
                    .charge_classes(self.tenant, pair[0], pair[1])?
                    .join("+"),
            });
        }
        let mut ledgers = Vec::new();
        for source in &opened.sources {
            let last = source.size.checked_sub(1);
            let leaf = last.map(|last| source.reader.leaf(last)).transpose()?;
            ledgers.push(LedgerLine {
                host: source.reader.host()?,
                ledger_id: note::hex(&source.reader.id()?),
                records: source.size,
                leaf: note::hex(&leaf.flatten().unwrap_or_default()),
                head: source.reader.head(source.size)?,
            });
        }
        let statement = Statement::of(Parts {
            issue,
            subject: Subject {
                tenant: self.tenant,
                tenant_name: opened.tenant_name(self.tenant).unwrap_or_default().into(),
                month: self.month.to_string(),
                timezone: opened.zone_name.clone(),
                from: time(from),
                to: time(to),
            },
            days,
            usage,
            percentile,
            bounds: &self.bounds,
            ledgers,
            zone_name: &|zone| opened.zone_name(zone).unwrap_or_default().into(),
            reason_name: &reason_name,
            class_name: &class_name,
            time: &time,
        });
        Ok(statement?)
    }
}

/// A tenant's month as it was last issued, or a provisional one.
///
/// # Errors
/// When the ledger cannot be read or does not add up.
pub(crate) fn of_month(opened: Opened, tenant: u32, month: Month) -> Result<Statement> {
    Reckoned::of(opened, tenant, month)?.last()
}

/// What was issued, as the ledger has it: of a tenant, or of all.
///
/// # Errors
/// When the ledger cannot be read.
pub(crate) fn list(opened: &Opened, tenant: Option<u32>) -> Result<Vec<serde_json::Value>> {
    let first = opened.sources.first().context("no ledger")?;
    let mut found = Vec::new();
    for record in first.reader.statements(first.size)? {
        let record = record.map_err(|(seq, error)| anyhow::anyhow!("record {seq}: {error}"))?;
        let Some(told) = record.statement else {
            continue;
        };
        if tenant.is_some_and(|tenant| tenant != record.tenant) {
            continue;
        }
        let day = period::day_of(record.window_start, &opened.zone)?;
        found.push(serde_json::json!({
            "tenant": record.tenant,
            "month": Month(day.first_of_month()).to_string(),
            "number": told.number.to_string(),
            "version": told.version.to_string(),
            "issued": time(told.issued),
            "packets": told.packets.to_string(),
            "l2_bytes": told.l2_bytes.to_string(),
            "l3_bytes": told.l3_bytes.to_string(),
            "sha256": note::hex(&told.digest),
        }));
    }
    Ok(found)
}

/// A tenant's statements as they were last issued. One that comes to other bytes by now is provisional.
///
/// # Errors
/// When the ledger cannot be read or does not add up.
pub fn issued(ledgers: &Ledgers, tenant: u32) -> Result<Vec<Statement>> {
    let opened = ledgers.open()?;
    let first = opened.sources.first().context("no ledger")?;
    let mut months = BTreeSet::new();
    for record in first.reader.statements(first.size)? {
        let record = record.map_err(|(seq, error)| anyhow::anyhow!("record {seq}: {error}"))?;
        if record.tenant == tenant {
            months.insert(period::day_of(record.window_start, &opened.zone)?.first_of_month());
        }
    }
    let months = months.into_iter();
    months
        .map(|month| Reckoned::of(ledgers.open()?, tenant, Month(month))?.last())
        .collect()
}

fn numbered(told: &record::Statement) -> statement::Issue {
    statement::Issue {
        number: told.number,
        version: told.version,
        issued: time(told.issued),
    }
}

fn write(options: &Options, statement: &Statement) -> Result<()> {
    let lang = match options.lang {
        Language::En => Lang::En,
        Language::Fr => Lang::Fr,
    };
    let text = match options.format {
        Format::Html => statement::to_html(statement, lang),
        Format::Csv => statement::to_csv(statement),
        Format::Json => statement.to_json(),
    };
    if let Some(path) = &options.out {
        return fs::write(path, text).with_context(|| format!("{}", path.display()));
    }
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            bail!("standard output: {error}")
        }
        _ => Ok(()),
    }
}
