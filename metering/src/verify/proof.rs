//! What `octroi prove` wrote, checked without the ledger.

use super::{Report, VerifyError};
use crate::{
    note::{Head, Note, Verifier, from_base64},
    proof::{CONSISTENCY, Claim, Continuation, Line, Opening, PROOF},
    record::{Record, leaf_hash},
    tree::{self, Hash},
};
use serde::{Serialize, de::DeserializeOwned};
use std::io::BufRead;

/// A longer line is none: 64 hashes, and a record of 2,048 bytes.
const LINE_BYTES_MAX: usize = 65_536 * 3;

/// Reads a line that is exactly what it would be written as.
fn parse<T: DeserializeOwned + Serialize>(line: &str) -> Option<T> {
    let read: T = serde_json::from_str(line).ok()?;
    (serde_json::to_string(&read).ok()? == line).then_some(read)
}

fn hashes(proof: &[String]) -> Option<Vec<Hash>> {
    let hash = |text: &String| from_base64(text)?.try_into().ok();
    proof.iter().map(hash).collect()
}

/// A note that has one signature, by a key of the keyring; `strict`: and no other one.
fn signed<'a>(
    note: &'a str,
    what: &'static str,
    keys: &[Verifier],
    strict: bool,
) -> Result<&'a str, VerifyError> {
    let read = Note::parse(note).and_then(|note| {
        note.signers(keys)?;
        let others = strict && note.signatures() != 1;
        if others {
            return Err(crate::note::NoteError::Malformed);
        }
        Ok(note.text)
    });
    read.map_err(|source| VerifyError::Note { what, source })
}

/// A head that somebody kept, by a key of the keyring.
///
/// # Errors
/// [`VerifyError::Note`].
pub fn kept(note: &str, keys: &[Verifier]) -> Result<Head, VerifyError> {
    let what = "the head that was kept";
    let text = signed(note, what, keys, false)?;
    Head::parse(text).map_err(|source| VerifyError::Note { what, source })
}

/// Verifies a tenant's proof: every record, the way to its root, and that none is left out.
///
/// # Errors
/// [`VerifyError::Unreadable`]; what is wrong with a proof that can be read is in the report.
pub fn proof(
    mut input: impl BufRead,
    keyring: &[Verifier],
    against: Option<(&Head, Option<&str>)>,
) -> Result<Report, VerifyError> {
    let mut report = Report::default();
    let mut next = || -> Result<Option<String>, VerifyError> {
        let mut line = Vec::new();
        let mut part = std::io::Read::take(&mut input, LINE_BYTES_MAX as u64);
        let read = part.read_until(b'\n', &mut line);
        read.map_err(|error| VerifyError::Unreadable {
            what: error.to_string(),
        })?;
        if line.is_empty() {
            return Ok(None);
        }
        // Without its newline a line was cut off: what it is without is no JSON either.
        let whole = line.pop() == Some(b'\n');
        let text = String::from_utf8(line).ok().filter(|_| whole);
        Ok(Some(text.unwrap_or_default()))
    };
    let opening = next()?.and_then(|line| parse::<Opening>(&line));
    let Some(opening) = opening.filter(|opening| opening.octroi == PROOF) else {
        report.file("line 1: this does not begin a proof");
        return Ok(report);
    };
    let (head, claim) = match begin(&opening, keyring) {
        Ok(both) => both,
        Err(error) => {
            report.file(format!("line 1: {error}"));
            return Ok(report);
        }
    };
    (report.origin, report.size, report.root) = (head.origin.clone(), head.size, head.root);
    report.heads = 1;
    let (mut tenant_seq, mut after, mut number) = (claim.tenant_seq.0, None, 1_u64);
    while let Some(line) = next()? {
        number += 1;
        match record(&line, &head, &claim) {
            Err((seq, what)) => {
                report.find(seq.map(|seq| (seq, seq)), format!("line {number}: {what}"));
            }
            Ok(record) => {
                let seq = record.seq;
                if after.is_some_and(|after| seq <= after) || record.tenant_seq < tenant_seq {
                    report.record(seq, format!("line {number}: not in order"));
                }
                after = Some(seq);
                tenant_seq = record.tenant_seq.saturating_add(1);
                report.verified += 1;
            }
        }
    }
    let claimed = claim.tenant_seq.1.saturating_sub(claim.tenant_seq.0);
    if number - 1 != claim.records || claim.records > claimed {
        report.file(format!(
            "{} records are claimed, and {} are here",
            claim.records,
            number - 1
        ));
    }
    report.pruned = claimed.saturating_sub(claim.records);
    if let Some((kept, continuation)) = against {
        against_head(kept, continuation, &head, keyring, &mut report)?;
    }
    Ok(report)
}

fn begin(opening: &Opening, keyring: &[Verifier]) -> Result<(Head, Claim), String> {
    let text = signed(&opening.checkpoint, "the checkpoint", keyring, true);
    let head = Head::parse(text.map_err(|error| error.to_string())?);
    let head = head.map_err(|error| error.to_string())?;
    let text = signed(&opening.claim, "the claim", keyring, true);
    let claim = Claim::parse(text.map_err(|error| error.to_string())?);
    let claim = claim.ok_or("the claim says nothing")?;
    if claim.origin != head.origin || claim.size != head.size {
        return Err("the claim is of another head than the checkpoint".into());
    }
    Ok((head, claim))
}

/// A record of a proof, or what is wrong with it.
fn record(line: &str, head: &Head, claim: &Claim) -> Result<Record, (Option<u64>, String)> {
    let line: Line = parse(line).ok_or((None, "this is no line of a proof".into()))?;
    let canonical = from_base64(&line.canonical);
    let canonical = canonical.ok_or((None, "its bytes are no base64".to_owned()))?;
    let record = Record::decode(&canonical)
        .map_err(|error| (None, format!("its bytes are no record: {error}")))?;
    let wrong = |what: &str| Err((Some(record.seq), what.to_owned()));
    let Some(proof) = hashes(&line.proof) else {
        return wrong("its proof has no hashes");
    };
    let root = tree::root_by_inclusion(leaf_hash(&canonical), record.seq, head.size, &proof);
    if root != Some(head.root) {
        return wrong("it is not in the tree");
    }
    let within = claim.tenant_seq.0..claim.tenant_seq.1;
    if !record.kind.is_of_a_tenant()
        || record.tenant != claim.tenant
        || !within.contains(&record.tenant_seq)
    {
        return wrong("it is not one of those that are claimed");
    }
    Ok(record)
}

/// The head of a proof, against one that somebody kept.
fn against_head(
    kept: &Head,
    continuation: Option<&str>,
    head: &Head,
    keyring: &[Verifier],
    report: &mut Report,
) -> Result<(), VerifyError> {
    if kept.origin == head.origin && kept.size == head.size {
        report.against(Some(kept), Some(head.root));
        return Ok(());
    }
    let Some(continuation) = continuation else {
        report.file("the head that was kept is of another size: a proof of consistency is needed");
        return Ok(());
    };
    match proof_of_consistency(continuation, keyring) {
        Err(what) => report.file(what),
        Ok((old, new)) => {
            // The older of the two may be either.
            if (&old, &new) != (kept, head) && (&old, &new) != (head, kept) {
                report.file("the proof of consistency is between other heads");
            }
        }
    }
    Ok(())
}

/// Checks that one tree continues another; returns their heads.
///
/// # Errors
/// What is wrong with it, in words.
pub fn proof_of_consistency(text: &str, keyring: &[Verifier]) -> Result<(Head, Head), String> {
    let line = text.strip_suffix('\n').and_then(parse::<Continuation>);
    let line = line.filter(|line| line.octroi == CONSISTENCY);
    let line = line.ok_or("this is no proof of consistency")?;
    let head = |note: &str, what, strict| {
        let text = signed(note, what, keyring, strict).map_err(|error| error.to_string())?;
        Head::parse(text).map_err(|error| format!("{what}: {error}"))
    };
    let old = head(&line.old, "the older head", false)?;
    let new = head(&line.new, "the newer head", true)?;
    let proof = hashes(&line.proof).ok_or("it has no hashes")?;
    let consistent = tree::is_consistent((old.size, old.root), (new.size, new.root), &proof);
    if old.origin != new.origin || !consistent {
        return Err("the newer head does not continue the older one".into());
    }
    Ok((old, new))
}
