//! `octroi privacy export`: everything that is kept of a tenant, in formats that need no octroi.

use super::tenant;
use crate::{
    flows::{self, who},
    records::{self, At, time},
    statement,
};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use jiff::Timestamp;
use metering::{
    ledger::{self, FlowFilter, Look, Reader, keys},
    note, proof,
    record::{Kind, Record},
    statement::{Lang, to_csv, to_html},
};
use serde::Serialize;
use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Write},
    ops::ControlFlow,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// `octroi privacy export`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    at: At,
    /// Number of the tenant or, with --config, its name.
    #[arg(long)]
    tenant: String,
    /// A directory that is made, readable for its owner alone.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// The directory, and what is in it so far.
struct Folder {
    path: PathBuf,
    /// Name, what it is, how much of it.
    files: Vec<(String, &'static str, u64)>,
}

impl Folder {
    fn make(path: &Path) -> Result<Self> {
        DirBuilder::new()
            .mode(0o700)
            .create(path)
            .with_context(|| format!("{}: a new directory is made here", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            files: Vec::new(),
        })
    }

    /// Writes a file by itself; `write` says how much there was.
    fn write(
        &mut self,
        name: &str,
        what: &'static str,
        write: impl FnOnce(&mut BufWriter<File>) -> Result<u64>,
    ) -> Result<()> {
        let path = self.path.join(name);
        let shown = || format!("{}", path.display());
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut out = BufWriter::new(options.open(&path).with_context(shown)?);
        let count = write(&mut out).with_context(shown)?;
        out.flush()
            .and_then(|()| out.get_ref().sync_all())
            .with_context(shown)?;
        self.files.push((name.to_owned(), what, count));
        Ok(())
    }
}

/// A flow row, and the bytes that the root of its record stands for.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    line: flows::Line,
    canonical: String,
}

/// Somebody looked.
#[derive(Serialize)]
struct Entry {
    at: String,
    who: String,
    what: String,
}

/// `octroi privacy export`.
///
/// # Errors
/// When the look cannot be entered, which comes first; when something cannot be read or written.
pub fn run(options: &Options) -> Result<()> {
    let ledger = options.at.path()?;
    let tenant = tenant(&options.at, &options.tenant)?;
    ensure!(
        !options.out.exists(),
        "{}: this exists; name a directory that does not",
        options.out.display()
    );
    let look = Look {
        at: i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
        who: who(),
        what: format!("privacy export --tenant {tenant}"),
    };
    ledger::enter(&ledger, &look)
        .context("nothing is handed over where the look cannot be entered in the ledger")?;
    let mut folder = Folder::make(&options.out)?;
    proofs(&mut folder, &ledger, tenant)?;
    records_and_corrections(&mut folder, &ledger, tenant)?;
    flow_rows(&mut folder, &ledger, tenant)?;
    looks(&mut folder, &ledger, tenant)?;
    statements(&mut folder, options, tenant)?;
    configuration(&mut folder, options, tenant)?;
    let readme = readme(&folder, &ledger, tenant, look.at)?;
    folder.write("README.txt", "this", |out| {
        out.write_all(readme.as_bytes())?;
        Ok(1)
    })?;
    for (name, what, count) in &folder.files {
        println!("{}: {count} {what}", folder.path.join(name).display());
    }
    Ok(())
}

fn proofs(folder: &mut Folder, ledger: &Path, tenant: u32) -> Result<()> {
    let key = keys::key_path(ledger);
    let signer = keys::read(&key)?;
    let signer = signer.with_context(|| format!("{}: there is no key", key.display()))?;
    let what = "records, each with the way to the signed head of the ledger";
    folder.write("records.proof", what, |out| {
        let proved = proof::prove(ledger, &signer, tenant, (None, None), out)?;
        Ok(proved.claim.records)
    })?;
    let keyring = std::fs::read_to_string(keys::keyring_path(ledger))
        .with_context(|| format!("{}", keys::keyring_path(ledger).display()))?;
    folder.write("ledger.pub", "public keys of the ledger", |out| {
        out.write_all(keyring.as_bytes())?;
        Ok(keyring.lines().count() as u64)
    })
}

fn records_and_corrections(folder: &mut Folder, ledger: &Path, tenant: u32) -> Result<()> {
    let reader = Reader::open(ledger)?;
    let what = "records and corrections as a table";
    folder.write("records.csv", what, |out| {
        let mut csv = csv::Writer::from_writer(out);
        let mut count = 0;
        let all = (i64::MIN, i64::MAX);
        reader.usage::<anyhow::Error>(Some(tenant), all, reader.size()?, |row| {
            let record: Record =
                row.map_err(|(seq, error)| anyhow::anyhow!("record {seq}: {error}"))?;
            csv.serialize(records::Line::of(&record))?;
            count += 1;
            Ok(())
        })?;
        csv.flush()?;
        Ok(count)
    })
}

fn flow_rows(folder: &mut Folder, ledger: &Path, tenant: u32) -> Result<()> {
    let filter = FlowFilter {
        tenant: Some(tenant),
        ..FlowFilter::default()
    };
    let what = "rows of flow detail, with their salts";
    folder.write("flows.jsonl", what, |out| {
        let (mut count, mut written) = (0, Ok(()));
        let faults = ledger::flows(ledger, &filter, &mut |line| {
            let row = Row {
                line: flows::Line::of(line),
                canonical: note::hex(&line.row.encode()),
            };
            written = serde_json::to_writer(&mut *out, &row)
                .map_err(io::Error::from)
                .and_then(|()| out.write_all(b"\n"));
            count += 1;
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        written?;
        if let Some(fault) = faults.first() {
            bail!("{fault}");
        }
        Ok(count)
    })
}

/// What was looked at: by name for this tenant, or for nobody by name, and then without what was asked, which may
/// be another tenant's. Changes by the API stand among the entries too, and are no looks.
fn of_tenant(look: Look, tenant: u32) -> Option<Entry> {
    let kind = look.what.split(' ').next().unwrap_or_default();
    if !["flows", "privacy", "records", "usage", "statement"].contains(&kind) {
        return None;
    }
    let mut words = look.what.split(' ');
    let named = words.find(|word| *word == "--tenant").and(words.next());
    let what = match named.map(str::parse::<u32>) {
        Some(Ok(number)) if number == tenant => look.what,
        Some(Ok(_)) => return None,
        _ => format!("{kind} of several tenants"),
    };
    Some(Entry {
        at: time(look.at),
        who: look.who,
        what,
    })
}

fn looks(folder: &mut Folder, ledger: &Path, tenant: u32) -> Result<()> {
    let entries = ledger::looks(ledger)?.into_iter();
    let entries = entries.filter_map(|look| of_tenant(look, tenant));
    folder.write("looks.csv", "looks at this, and erasures", |out| {
        let mut csv = csv::Writer::from_writer(out);
        let mut count = 0;
        for entry in entries {
            csv.serialize(entry)?;
            count += 1;
        }
        csv.flush()?;
        Ok(count)
    })
}

fn statements(folder: &mut Folder, options: &Options, tenant: u32) -> Result<()> {
    for statement in statement::issued(&options.at.ledgers()?, tenant)? {
        let state = if statement.issue.is_some() {
            "statement"
        } else {
            "provisional-statement"
        };
        let name = format!("{state}-{}", statement.subject.month);
        for (ending, what, text) in [
            ("json", "statement, as it was issued", statement.to_json()),
            ("csv", "statement as a table", to_csv(&statement)),
            (
                "html",
                "statement to be read and printed",
                to_html(&statement, Lang::En),
            ),
        ] {
            folder.write(&format!("{name}.{ending}"), what, |out| {
                out.write_all(text.as_bytes())?;
                Ok(1)
            })?;
        }
    }
    Ok(())
}

/// The sections of the configuration that are the tenant's.
fn configuration(folder: &mut Folder, options: &Options, tenant: u32) -> Result<()> {
    let Some(mut config) = options.at.config()? else {
        return Ok(());
    };
    config.tenants.retain(|one| one.id.0 == tenant);
    let names: Vec<_> = config.tenants.iter().map(|one| one.name.clone()).collect();
    config.ports.retain(|port| names.contains(&port.tenant));
    config
        .encryption
        .retain(|rule| names.contains(&rule.tenant));
    let text = config.to_toml();
    let blocks: Vec<&str> = text
        .split("\n\n")
        .filter(|block| {
            let sections = ["[[tenant]]", "[[port]]", "[[encryption]]"];
            sections.iter().any(|section| block.starts_with(section))
        })
        .collect();
    let what = "sections of the configuration";
    folder.write("configuration.toml", what, |out| {
        writeln!(out, "{}", blocks.join("\n\n").trim_end())?;
        Ok(blocks.len() as u64)
    })
}

fn readme(folder: &Folder, ledger: &Path, tenant: u32, at: i64) -> Result<String> {
    let reader = Reader::open(ledger)?;
    let mut text = format!(
        "What octroi keeps of tenant {tenant} in the ledger {} of host {}, as of {}.\n\n",
        note::hex(&reader.id()?),
        reader.host()?,
        time(at)
    );
    for (name, what, count) in &folder.files {
        text += &format!("{name}: {count} {what}\n");
    }
    let nodata = [Kind::Meter, Kind::Nodata, Kind::Correction, Kind::Statement];
    text += &format!(
        "
Times are UTC; numbers of bytes and packets are whole, and billed as they are. Direction `from` is from the
tenant, `to` is to the tenant. Kinds of records: {}. What each field means: METERING.md of octroi, sections M-5
(records), M-13 (flow detail) and M-17 (statements).

records.proof is the evidence; the tables say the same for people. `octroi verify records.proof` checks it with
ledger.pub, which should be the key that you already had: whoever could change the one could change the other.
Without octroi: a line has a record's bytes and the hashes to the root that the first line's note signs (M-15).

flows.jsonl: `canonical` is a row's bytes, in hexadecimal digits. The SHA-256 of 0x00 and these bytes are the
leaves of a tree (RFC 9162, 2.1), whose root is in the record with the same `seq` (M-13.6, M-13.7).

Not in here: other ledgers of this or another host (one export for each), copies that somebody made, what was
delivered to a billing system, and what was erased or pruned before. No contents of packets are ever kept.
",
        nodata.map(Kind::name).join(", ")
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_told_of_looks_at_it_and_of_no_change_that_somebody_made() {
        let told = |what: &str| {
            let look = Look {
                at: 0,
                who: "uid 0".into(),
                what: what.into(),
            };
            of_tenant(look, 17).map(|entry| entry.what)
        };
        for own in [
            "flows --tenant 17 --limit 5",
            "privacy export --tenant 17",
            "usage --tenant 17",
            "statement --tenant 17",
        ] {
            assert_eq!(told(own).as_deref(), Some(own));
        }
        assert_eq!(told("flows").as_deref(), Some("flows of several tenants"));
        assert_eq!(
            told("records").as_deref(),
            Some("records of several tenants")
        );
        for other in [
            "flows --tenant 18",
            "records --tenant 170",
            "start: BPF object sha256:00, revision 1",
            "correct {\"seq\":1}",
            "port add {\"name\":\"vm\",\"tenant\":\"globex\"}",
            "port remove vm",
            "apply changes tenant globex",
            "refused: port remove vm: there is no port vm",
        ] {
            assert_eq!(told(other), None, "{other}");
        }
    }
}
