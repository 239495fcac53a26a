//! Reading closed files again, to hold them against their manifests and the ledger.

use super::{
    Line, digest, failed,
    manifest::{self, Manifest, changed},
};
use crate::{
    record::{Record, leaf_hash},
    sink::{Item, SinkError, Totals, text::unhex},
};
use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

/// Compares the files of one manifest with it, and returns the JSON lines. `all`: a file that is not there is a fault;
/// else it was moved away.
pub(super) fn files(
    directory: &Path,
    manifest: &Manifest,
    all: bool,
) -> Result<Option<(PathBuf, Vec<u8>)>, SinkError> {
    let mut lines = None;
    for file in &manifest.files {
        if file.name.contains('/') {
            return Err(changed(directory, "a manifest names a file elsewhere"));
        }
        let path = directory.join(&file.name);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !all => continue,
            bytes => bytes.map_err(failed(&path))?,
        };
        if bytes.len() as u64 != file.bytes || digest(&bytes) != file.sha256 {
            return Err(changed(&path, "it is not what its manifest says"));
        }
        if file.name.ends_with(".jsonl") {
            lines = Some((path, bytes));
        }
    }
    Ok(lines)
}

fn item(line: &[u8]) -> Option<Item> {
    let line: Line = serde_json::from_slice(line).ok()?;
    let canonical = unhex(&line.canonical)?;
    let record = Record::decode(&canonical).ok()?;
    Some(Item {
        seq: record.seq,
        leaf: leaf_hash(&canonical),
        record,
        canonical,
    })
}

/// Adds up what files say below a seq, by their canonical bytes, and checks each against its manifest, and each
/// manifest against the next.
pub(super) fn sums(
    directory: &Path,
    id: &[u8; 16],
    below: u64,
    without: &[Range<u64>],
) -> Result<Totals, SinkError> {
    let mut totals = Totals::default();
    let mut before: Option<String> = None;
    let mut next = 0;
    for first in manifest::all(directory)? {
        if first >= below {
            break;
        }
        if first != next {
            return Err(SinkError::Refused(format!(
                "{}: the files from record {next} to {} are not here; put them back to compare",
                directory.display(),
                first.saturating_sub(1)
            )));
        }
        let (manifest, digest) = manifest::load(directory, first)?;
        if manifest.previous != before {
            let path = directory.join(format!("{first:020}{}", manifest::MANIFEST));
            return Err(changed(&path, "it does not follow the manifest before"));
        }
        next = manifest.mark(directory)?.next;
        before = Some(digest);
        let lines = files(directory, &manifest, true)?;
        let (path, lines) = match lines {
            Some(lines) => lines,
            None if manifest.records == 0 => continue,
            None => return Err(changed(directory, "a manifest has no lines")),
        };
        let (mut records, mut own) = (0, Totals::default());
        for line in lines.split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            records += 1;
            let item = item(line).filter(|item| {
                item.record.ledger_id == *id && item.seq >= first && item.seq < next
            });
            let Some(item) = item else {
                return Err(changed(&path, "a line of it is no record of this ledger"));
            };
            own.add(&item);
            let is_gone = without.iter().any(|gone| gone.contains(&item.seq));
            if item.seq < below && !is_gone {
                totals.add(&item);
            }
        }
        if records != manifest.records || !manifest.adds_up(&own) {
            return Err(changed(
                &path,
                "its records are not those that its manifest adds up",
            ));
        }
    }
    if next < below {
        return Err(SinkError::Refused(format!(
            "{}: the files from record {next} on are not here; put them back to compare",
            directory.display()
        )));
    }
    Ok(totals)
}
