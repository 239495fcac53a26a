//! Evidence: `octroi verify`, `octroi audit`, `octroi prove` and `octroi key`.

use crate::records::At;
use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use metering::{
    ledger::keys,
    note::{self, Verifier},
    proof,
    verify::{self, Report},
};
use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read as _},
    path::{Path, PathBuf},
};

/// The first bytes of every SQLite file.
const SQLITE: &[u8] = b"SQLite format 3\0";

/// `octroi verify`.
#[derive(Debug, Args)]
pub struct VerifyOptions {
    /// A ledger, or what `octroi prove` wrote.
    #[arg(value_name = "LEDGER|EXPORT")]
    file: PathBuf,
    /// A head that was kept elsewhere: the ledger must continue it.
    #[arg(long, value_name = "HEAD")]
    against: Option<PathBuf>,
    /// With --against, for an export of another size: what `octroi prove --since HEAD` wrote.
    #[arg(long, value_name = "FILE", requires = "against")]
    proof: Option<PathBuf>,
    /// Public keys that are trusted, one in a line; otherwise those beside the file, which whoever could
    /// change the file could change as well.
    #[arg(long, value_name = "FILE")]
    keyring: Option<PathBuf>,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// `octroi audit`.
#[derive(Debug, Args)]
pub struct AuditOptions {
    #[command(flatten)]
    at: At,
    /// A head that was kept elsewhere.
    #[arg(long, value_name = "HEAD")]
    against: Option<PathBuf>,
    /// Public keys that are trusted.
    #[arg(long, value_name = "FILE")]
    keyring: Option<PathBuf>,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// `octroi prove`.
#[derive(Debug, Args)]
pub struct ProveOptions {
    #[command(flatten)]
    at: At,
    /// Tenant's number: its records, with the way from each to the signed head.
    #[arg(long, required_unless_present = "since", conflicts_with = "since")]
    tenant: Option<u32>,
    /// Records of windows that end after this time, as in 2026-11-01T00:00:00Z.
    #[arg(long, value_name = "TIME", requires = "tenant")]
    from: Option<Timestamp>,
    /// Records of windows that begin before this time.
    #[arg(long, value_name = "TIME", requires = "tenant")]
    to: Option<Timestamp>,
    /// That the ledger continues this head, which was kept elsewhere.
    #[arg(long, value_name = "HEAD")]
    since: Option<PathBuf>,
    /// Where it is written; otherwise standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// `octroi key`.
#[derive(Debug, Subcommand)]
pub enum KeyAction {
    /// Make another key: it signs from the next window on, and a leaf that both have signed says so.
    Rotate {
        #[command(flatten)]
        at: At,
    },
    /// The public keys of a ledger: what `verify --keyring` takes.
    Show {
        #[command(flatten)]
        at: At,
    },
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("{}", path.display()))
}

/// The keys that are trusted: those that were given, or those beside the file.
fn keyring(given: Option<&Path>, file: &Path) -> Result<Vec<Verifier>> {
    let beside = [keys::keyring_path(file), file.with_file_name("ledger.pub")];
    let path = match given {
        Some(given) => given,
        None => beside.iter().find(|path| path.exists()).with_context(|| {
            format!(
                "{}: there is no keyring; name one with --keyring",
                beside[0].display()
            )
        })?,
    };
    note::keyring(&text(path)?).with_context(|| format!("{}", path.display()))
}

/// Says what was found, and fails when that is not nothing.
fn tell(file: &Path, report: &Report, json: bool) -> Result<()> {
    if json {
        let object = serde_json::json!({
            "file": file,
            "ok": report.is_sound(),
            "origin": report.origin,
            "size": report.size.to_string(),
            "root": note::hex(&report.root),
            "verified": report.verified.to_string(),
            "pruned": report.pruned.to_string(),
            "heads": report.heads.to_string(),
            "findings": report.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "more_findings": report.more.to_string(),
        });
        println!("{object}");
    } else {
        println!("{}: {}", file.display(), report.origin);
        println!(
            "{} verified, {} pruned, {} heads, tree of {} with root {}",
            report.verified,
            report.pruned,
            report.heads,
            report.size,
            note::hex(&report.root)
        );
        for finding in &report.findings {
            println!("{finding}");
        }
        if report.more != 0 {
            println!("and {} more", report.more);
        }
    }
    let count = report.findings.len() as u64 + report.more;
    ensure!(
        report.is_sound(),
        "{}: {count} findings: this is not what was signed",
        file.display()
    );
    Ok(())
}

/// `octroi verify`.
///
/// # Errors
/// When anything is not as it was signed, or cannot be read.
pub fn verify(options: &VerifyOptions) -> Result<()> {
    let file = &options.file;
    let name = || format!("{}", file.display());
    let keys = keyring(options.keyring.as_deref(), file)?;
    let kept = match &options.against {
        Some(path) => Some(verify::kept(&text(path)?, &keys)?),
        None => None,
    };
    let mut begins = Vec::new();
    let mut open = File::open(file).with_context(name)?;
    open.by_ref()
        .take(SQLITE.len() as u64)
        .read_to_end(&mut begins)
        .with_context(name)?;
    let report = if begins == SQLITE {
        verify::ledger(file, &keys, kept.as_ref())?
    } else {
        let continuation = options.proof.as_deref().map(text).transpose()?;
        let kept = kept.as_ref().map(|kept| (kept, continuation.as_deref()));
        let input = BufReader::new(File::open(file).with_context(name)?);
        verify::proof(input, &keys, kept)?
    };
    tell(file, &report, options.json)
}

/// `octroi audit`.
///
/// # Errors
/// When anything is not as it was signed, or does not add up.
pub fn audit(options: &AuditOptions) -> Result<()> {
    let file = options.at.path()?;
    let keys = keyring(options.keyring.as_deref(), &file)?;
    let kept = match &options.against {
        Some(path) => Some(verify::kept(&text(path)?, &keys)?),
        None => None,
    };
    let report = verify::audit(&file, &keys, kept.as_ref())?;
    tell(&file, &report, options.json)
}

/// `octroi prove`.
///
/// # Errors
/// When the ledger or its key cannot be read, or the leaves are not those that were signed.
pub fn prove(options: &ProveOptions) -> Result<()> {
    let path = options.at.path()?;
    let mut out: Box<dyn io::Write> = match &options.out {
        Some(out) => Box::new(BufWriter::new(
            File::create(out).with_context(|| format!("{}", out.display()))?,
        )),
        None => Box::new(BufWriter::new(io::stdout().lock())),
    };
    if let Some(since) = &options.since {
        let head = proof::prove_consistency(&path, &text(since)?, &mut out)?;
        eprintln!("{}: continued to {} records", head.origin, head.size);
        return Ok(());
    }
    let Some(tenant) = options.tenant else {
        bail!("give --tenant or --since");
    };
    let key = keys::key_path(&path);
    let signer = keys::read(&key)?;
    let signer = signer.with_context(|| format!("{}: there is no key", key.display()))?;
    let utc_ns = |time: &Timestamp| i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
    let period = (
        options.from.as_ref().map(utc_ns),
        options.to.as_ref().map(utc_ns),
    );
    let proved = proof::prove(&path, &signer, tenant, period, &mut out)?;
    eprintln!(
        "tenant {tenant}: {} records, in the tree of {} with {} records",
        proved.claim.records, proved.head.origin, proved.head.size
    );
    Ok(())
}

/// `octroi key …`.
///
/// # Errors
/// When there is no keyring.
pub fn key(action: &KeyAction) -> Result<()> {
    match action {
        KeyAction::Rotate { at } => rotate(&at.path()?),
        KeyAction::Show { at } => {
            print!("{}", text(&keys::keyring_path(&at.path()?))?);
            Ok(())
        }
    }
}

/// A key that waits for the next commit, which whoever writes the ledger makes.
fn rotate(path: &Path) -> Result<()> {
    let next = keys::next_key_path(path);
    let key = keys::key_path(path);
    ensure!(
        keys::read(&key)?.is_some(),
        "{}: there is no key to rotate",
        key.display()
    );
    ensure!(!next.exists(), "{}: a key waits already", next.display());
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    keys::make(&next, &seed)?;
    println!("{}: signs from the next window on", next.display());
    Ok(())
}
