//! `octroi store`: the other end of a fleet. Takes what hosts sent out of a stream and brings it into one database, PostgreSQL
//! or ClickHouse.
//!
//! It keeps nothing, and may be killed and started anywhere: what it knows is in the database and in the stream.

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use metering::sink::{
    Backoff, Store,
    clickhouse::{self, ClickHouse},
    nats::{self, Done, Intake},
    postgres::{self, Postgres},
};
use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// How long to wait when the stream has nothing new.
const IDLE: Duration = Duration::from_millis(100);
/// How often it is said what was done.
const SAY: Duration = Duration::from_secs(60);

/// `octroi store`.
#[derive(Debug, Args)]
pub struct Options {
    /// Servers of the cluster, with commas between: tls://octroi@nats.example:4222.
    #[arg(long, value_name = "ADDRESS")]
    from: String,
    /// Name of the stream of records.
    #[arg(long, default_value = nats::Target::STREAM)]
    stream: String,
    /// Copies of the streams, 1, 3 or 5: they are made where there are none.
    #[arg(long)]
    replicas: Option<u8>,
    /// A file with the password of the cluster's user and nothing else.
    #[arg(long, value_name = "FILE")]
    from_password_file: Option<PathBuf>,
    /// A file with a token and nothing else, instead of a user.
    #[arg(long, value_name = "FILE")]
    from_token_file: Option<PathBuf>,
    /// Certificates, PEM, that the servers' must descend from.
    #[arg(long, value_name = "FILE")]
    from_ca_file: Option<PathBuf>,
    /// The database: postgres://octroi@billing.example/metering, or ClickHouse's HTTP interface: https://octroi@clickhouse.example:8443.
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// A file with the password of the database's user and nothing else.
    #[arg(long, value_name = "FILE")]
    to_password_file: Option<PathBuf>,
    /// Certificates, PEM, that the database's must descend from.
    #[arg(long, value_name = "FILE")]
    to_ca_file: Option<PathBuf>,
    /// Name of the durable consumer: another one for another database.
    #[arg(long, default_value = "store")]
    name: String,
    /// Seconds until a message that was not acknowledged comes again.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    ack_wait: u64,
    /// Ends when nothing is left in the stream that can be taken now.
    #[arg(long)]
    drain: bool,
}

/// A database that is a store.
pub(crate) struct Database {
    pub address: String,
    pub password_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
}

impl Database {
    /// The sink that it is; `option`: which option has its address.
    ///
    /// # Errors
    /// When that is the address of no database.
    pub fn open(self, option: &str) -> Result<Box<dyn Store + Send>> {
        if !self.is_clickhouse() {
            return Ok(Box::new(Postgres::new(self.target(option)?)));
        }
        let target = clickhouse::Target {
            url: self.address,
            password_file: self.password_file,
            ca_file: self.ca_file,
        };
        target
            .check()
            .map_err(|wrong| anyhow::anyhow!("{option}: {wrong}"))?;
        Ok(Box::new(ClickHouse::new(target)))
    }

    fn is_clickhouse(&self) -> bool {
        let is_of = |scheme: &str| self.address.starts_with(scheme);
        is_of("http://") || is_of("https://")
    }

    /// Where it is, of a PostgreSQL database: ClickHouse has no totals of windows, by which it is known which ones are missing.
    ///
    /// # Errors
    /// When that is the address of none.
    pub fn target(self, option: &str) -> Result<postgres::Target> {
        ensure!(
            !self.is_clickhouse(),
            "{option}: statements, usage and explanations are made from a PostgreSQL store or from ledgers: ClickHouse keeps no \
             totals of windows, by which missing ones are known; write postgres://… here, or --ledger; docs/CLICKHOUSE.md has \
             its own queries"
        );
        let target = postgres::Target {
            url: self.address,
            password_file: self.password_file,
            ca_file: self.ca_file,
        };
        target
            .check()
            .map_err(|wrong| anyhow::anyhow!("{option}: {wrong}"))?;
        Ok(target)
    }
}

impl Options {
    fn intake(&self) -> Result<Intake<Box<dyn Store + Send>>> {
        let from = nats::Target {
            url: self.from.clone(),
            stream: self.stream.clone(),
            replicas: self.replicas,
            password_file: self.from_password_file.clone(),
            token_file: self.from_token_file.clone(),
            ca_file: self.from_ca_file.clone(),
        };
        let said = |wrong: String| anyhow::anyhow!(wrong);
        from.check().map_err(said).context("--from")?;
        nats::Target::check_stream(&self.stream)
            .map_err(said)
            .context("--stream")?;
        if let Some(replicas) = self.replicas {
            nats::Target::check_replicas(replicas)
                .map_err(said)
                .context("--replicas")?;
        }
        nats::Target::check_stream(&self.name)
            .map_err(|_| anyhow::anyhow!("--name: write letters, digits, `-` and `_`"))?;
        let to = Database {
            address: self.to.clone(),
            password_file: self.to_password_file.clone(),
            ca_file: self.to_ca_file.clone(),
        };
        let to = to.open("--to")?;
        Ok(Intake::new(
            from,
            to,
            &self.name,
            Duration::from_secs(self.ack_wait),
        ))
    }
}

/// Runs until it is stopped or, with `--drain`, until nothing is left.
///
/// # Errors
/// When an address is none; with `--drain`, when the stream or the database does not answer.
pub fn run(options: &Options) -> Result<()> {
    let mut intake = options.intake()?;
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no random number: {error}"))?;
    let mut backoff = Backoff::new(u64::from_le_bytes(seed));
    let mut wrong: Option<String> = None;
    let (mut sum, mut since) = (Done::default(), Instant::now());
    loop {
        match intake.step() {
            Ok(done) => {
                if wrong.take().is_some() {
                    eprintln!("octroi: store: it goes on");
                }
                backoff.worked();
                for line in &done.said {
                    eprintln!("octroi: store: {line}");
                }
                let is_idle = done.messages == 0;
                add(&mut sum, &done);
                if is_idle && options.drain {
                    println!("{}", line(&sum));
                    return Ok(());
                }
                if is_idle {
                    thread::sleep(IDLE);
                }
            }
            Err(error) => {
                let said = error.to_string();
                ensure!(!options.drain, "{said}");
                if wrong.as_ref() != Some(&said) {
                    eprintln!("octroi: store: warning: {said}");
                }
                wrong = Some(said);
                thread::sleep(backoff.failed());
            }
        }
        if since.elapsed() >= SAY && !options.drain {
            if sum.messages > 0 {
                println!("{}", line(&sum));
            }
            (sum, since) = (Done::default(), Instant::now());
        }
    }
}

fn add(sum: &mut Done, done: &Done) {
    sum.messages += done.messages;
    sum.records += done.records;
    sum.again += done.again;
    sum.early += done.early;
    sum.asked += done.asked;
    sum.forks += done.forks;
}

fn line(done: &Done) -> String {
    format!(
        "{} messages: {} records taken, {} messages were there, {} came too early, {} were asked for again, {} forks",
        done.messages, done.records, done.again, done.early, done.asked, done.forks
    )
}
