//! What a manifest says, and where the newest is.

use super::{digest, failed};
use crate::{
    note::hex,
    sink::{Batch, Mark, SinkError, Sums, Totals, Windows, text::unhex_exact},
};
use serde::{Deserialize, Serialize};
use std::{fs, io, path::Path};

/// How a manifest's name ends, behind the first seq in 20 digits.
pub(super) const MANIFEST: &str = ".manifest.json";
/// How the name of a file ends that is being written.
pub(super) const TEMPORARY: &str = ".tmp";
/// How names of data end.
const DATA: [&str; 3] = [".jsonl", ".csv", ".parquet"];
const VERSION: u32 = 1;

/// What was closed with one commit. Numbers of 64 bits are decimal strings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Of this form: 1.
    pub version: u32,
    /// The ledger, in hexadecimal digits.
    pub ledger_id: String,
    /// The host that began it.
    pub host: String,
    /// The first seq that these files cover.
    pub first_seq: String,
    /// The first seq that they do not. Records that a bill does not need are in between and in no file (M-12.5).
    pub next_seq: String,
    /// Hash of the leaf before `next_seq`, in hexadecimal digits.
    pub leaf: String,
    /// Records in the JSON lines.
    pub records: u64,
    /// Those of them that a bill adds up, which are in the CSV.
    pub billed_records: u64,
    /// Their sum: frames.
    pub packets: String,
    /// Their sum: layer-2 bytes.
    pub l2_bytes: String,
    /// Their sum: IP bytes.
    pub l3_bytes: String,
    /// The signed head that covers them, if there was one by then.
    pub head: Option<String>,
    /// Windows of the ledger up to here.
    pub windows: Vec<Windows>,
    /// SHA-256 of the manifest before, in hexadecimal digits; `None`: it is the first.
    pub previous: Option<String>,
    /// What was closed.
    pub files: Vec<File>,
}

/// A closed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its name, beside the manifest.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its digest, in hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// Of a batch. `before`: the manifest before and its digest; `windows`: the batch's.
    pub(super) fn of(
        batch: &Batch,
        before: Option<&(Self, String)>,
        windows: Vec<Windows>,
        contents: &[(String, Vec<u8>)],
    ) -> Self {
        let mut totals = Totals::default();
        for item in &batch.items {
            totals.add(item);
        }
        let [packets, l2_bytes, l3_bytes] = billed(&totals);
        let records: i64 = totals.0.values().map(|sums| sums.records).sum();
        let mut all = before.map_or_else(Vec::new, |(manifest, _)| manifest.windows.clone());
        Windows::join(&mut all, windows);
        Self {
            version: VERSION,
            ledger_id: hex(&batch.ledger_id),
            host: batch.host.clone(),
            first_seq: batch.from.next.to_string(),
            next_seq: batch.to.next.to_string(),
            leaf: hex(&batch.to.leaf),
            records: batch.items.len() as u64,
            billed_records: u64::try_from(records).unwrap_or_default(),
            packets,
            l2_bytes,
            l3_bytes,
            head: batch.head.clone(),
            windows: all,
            previous: before.map(|(_, digest)| digest.clone()),
            files: contents
                .iter()
                .map(|(name, bytes)| File {
                    name: name.clone(),
                    bytes: bytes.len() as u64,
                    sha256: digest(bytes),
                })
                .collect(),
        }
    }

    pub(super) fn to_text(&self) -> Result<String, SinkError> {
        serde_json::to_string_pretty(self)
            .map(|text| text + "\n")
            .map_err(|error| SinkError::Refused(format!("a manifest: {error}")))
    }

    /// First seq, and where the sink stands behind it.
    pub(super) fn span(&self, at: &Path) -> Result<(u64, Mark), SinkError> {
        let first = self.first_seq.parse().ok();
        let next = self.next_seq.parse().ok();
        let leaf = unhex_exact(&self.leaf);
        match (first, next, leaf) {
            (Some(first), Some(next), Some(leaf)) if first < next => {
                Ok((first, Mark { next, leaf }))
            }
            _ => Err(changed(at, "its seqs or its leaf are none")),
        }
    }

    /// Whether its sums are those of its lines.
    pub(super) fn adds_up(&self, totals: &Totals) -> bool {
        let [packets, l2_bytes, l3_bytes] = billed(totals);
        packets == self.packets && l2_bytes == self.l2_bytes && l3_bytes == self.l3_bytes
    }

    /// Where the sink stands behind it.
    pub(super) fn mark(&self, at: &Path) -> Result<Mark, SinkError> {
        Ok(self.span(at)?.1)
    }
}

/// Frames, layer-2 bytes and IP bytes of all together, as a manifest has them.
fn billed(totals: &Totals) -> [String; 3] {
    let sum = |of: fn(&Sums) -> i128| {
        let all = totals.0.values().map(of);
        all.fold(0, i128::saturating_add).to_string()
    };
    [
        sum(|sums| sums.packets),
        sum(|sums| sums.l2_bytes),
        sum(|sums| sums.l3_bytes),
    ]
}

/// A file is not what was closed.
pub(super) fn changed(path: &Path, what: &str) -> SinkError {
    SinkError::Refused(format!(
        "{}: {what}: somebody changed it after it was closed; put the closed one back",
        path.display()
    ))
}

/// The first seqs of the manifests in a ledger's directory, ascending; empty where there is no directory.
pub(super) fn all(directory: &Path) -> Result<Vec<u64>, SinkError> {
    let mut found: Vec<u64> = names(directory)?
        .iter()
        .filter_map(|name| number(name, MANIFEST))
        .collect();
    found.sort_unstable();
    Ok(found)
}

fn names(directory: &Path) -> Result<Vec<String>, SinkError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed(directory))?,
    };
    entries
        .map(|entry| {
            let entry = entry.map_err(failed(directory))?;
            Ok(entry.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

/// The seq of a name: 20 digits and the ending.
fn number(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?;
    let is_whole = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_whole)
}

/// One manifest, and its digest.
pub(super) fn load(directory: &Path, first: u64) -> Result<(Manifest, String), SinkError> {
    let path = directory.join(format!("{first:020}{MANIFEST}"));
    let text = fs::read_to_string(&path).map_err(failed(&path))?;
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| changed(&path, &error.to_string()))?;
    let id = directory.file_name().unwrap_or_default().to_string_lossy();
    let is_its_own = manifest.version == VERSION
        && manifest.ledger_id == id
        && manifest.span(&path)?.0 == first
        && manifest.to_text()? == text;
    if is_its_own {
        Ok((manifest, digest(text.as_bytes())))
    } else {
        Err(changed(&path, "it is not the manifest that its name says"))
    }
}

/// The newest manifest of a ledger's directory, and its digest.
pub(super) fn newest(directory: &Path) -> Result<Option<(Manifest, String)>, SinkError> {
    let last = all(directory)?.pop();
    last.map(|first| load(directory, first)).transpose()
}

/// Removes what was begun and not finished: temporary files, and data from `next` on.
pub(super) fn clear(directory: &Path, next: u64) -> Result<(), SinkError> {
    for name in names(directory)? {
        let whole = name.strip_suffix(TEMPORARY);
        let data = DATA.iter().find_map(|ending| number(&name, ending));
        let is_ours = whole.is_some_and(|whole| {
            DATA.iter()
                .chain(&[MANIFEST])
                .any(|ending| number(whole, ending).is_some())
        });
        if is_ours || data.is_some_and(|first| first >= next) {
            let path = directory.join(&name);
            fs::remove_file(&path).map_err(failed(&path))?;
        }
    }
    Ok(())
}
