//! The classifier on real captures, beside the labels of an independent one (nDPI).
//!
//! A label is a traffic classifier's guess, not a policy's verdict: each disagreement is printed with what we say and
//! why. `cargo xtask captures` prints the sums as JSON.

#[path = "captures/files.rs"]
mod files;
#[path = "encryption/labels.rs"]
mod labels;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::encryption::{Class, protocol};
use files::{captures, folder, read};
use labels::{Judged, Label, Verdict, judge, labels};
use std::collections::BTreeMap;

/// What nDPI calls the protocols that a profile can accept.
const ACCEPTED: [&str; 5] = ["TLS", "QUIC", "SSH", "WireGuard", "DTLS"];

#[test]
fn real_captures_are_judged_as_their_labels_say() -> Result<()> {
    const TEST: &str = "real_captures_are_judged_as_their_labels_say";
    let paths = captures()?;
    let known = labels(&folder().join("labels.tsv"))?;
    if paths.is_empty() || known.is_empty() {
        println!("SKIPPED: {TEST}: 0 captures in the folder that OCTROI_CAPTURES names");
        return Ok(());
    }
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    let mut disagreements = Vec::new();
    for path in &paths {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.context("a name")?;
        let Some(flows) = known.get(name) else {
            continue;
        };
        let frames = read(path).with_context(|| name.to_owned())?;
        let judged = judge(&labels::rule(), frames, flows);
        for (label, judged) in flows.iter().zip(&judged) {
            *sums.entry("flows").or_default() += 1;
            if let Some((sum, reason)) = compare(label, judged) {
                *sums.entry(sum).or_default() += 1;
                if let Some(reason) = reason {
                    disagreements.push(serde_json::json!({
                        "capture": name, "flow": label.to_string(), "label": label.what(),
                        "ours": judged.verdict.words(), "reason": reason,
                    }));
                }
            }
        }
    }
    let get = |name: &str| sums.get(name).copied().unwrap_or(0);
    let rejected = get("encrypted_rejected");
    let complete = get("encrypted_accepted") + get("encrypted_refused_by_rule") + rejected;
    let accepted = get("clear_accepted");
    let clear = get("clear_refused") + accepted;
    for one in &disagreements {
        println!("disagreement: {one}");
    }
    let mut whole = serde_json::json!({
        "flows": get("flows"), "encrypted_complete": complete, "encrypted_rejected": rejected,
        "encrypted_refused_by_rule": get("encrypted_refused_by_rule"),
        "encrypted_by_another_protocol": get("encrypted_other"),
        "clear": clear, "clear_accepted": accepted, "not_judged": get("not_judged"),
    });
    println!("SUMS: {whole}");
    whole["disagreements"] = disagreements.into();
    println!("CAPTURES: {whole}");
    println!("CASES: labelled flows of captures: {}", get("flows"));
    ensure!(
        complete >= 50 && clear >= 500,
        "{complete} encrypted flows, {clear} clear ones"
    );
    ensure!(accepted == 0, "{accepted} clear flows are accepted");
    ensure!(
        rejected * 200 <= complete,
        "{rejected} of {complete} complete encrypted flows are rejected"
    );
    Ok(())
}

/// IKE and OpenVPN over UDP, by their shape, under a rule that lets that be enough; nothing clear passes for it.
#[test]
fn captures_have_what_is_told_by_its_shape() -> Result<()> {
    const TEST: &str = "captures_have_what_is_told_by_its_shape";
    let paths = captures()?;
    let known = labels(&folder().join("labels.tsv"))?;
    if paths.is_empty() || known.is_empty() {
        println!("SKIPPED: {TEST}: 0 captures in the folder that OCTROI_CAPTURES names");
        return Ok(());
    }
    let (mut shaped, mut clear) = (Vec::new(), 0);
    for path in &paths {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.context("a name")?;
        let Some(flows) = known.get(name) else {
            continue;
        };
        let judged = judge(&labels::rule_of_shapes(), read(path)?, flows);
        for (label, judged) in flows.iter().zip(&judged) {
            let accepted = match judged.verdict {
                Verdict::Accepted(class) => Some(class),
                _ => None,
            };
            // A capture may end before there is data: then its handshake was told, and nothing of it was refused.
            let told = matches!(judged.speaks, Some(protocol::IKE | protocol::OPENVPN))
                && judged.verdict == Verdict::Open;
            if accepted == Some(Class::Shape) || told {
                println!("by its shape: {name}: {label}: {}", label.what());
                shaped.push((name.to_owned(), label.what()));
            }
            if label.by_content && !label.encrypted && judged.payload != 0 {
                clear += 1;
                ensure!(
                    accepted.is_none(),
                    "{name}: {label} is clear, and {accepted:?}"
                );
            }
        }
    }
    println!(
        "CASES: flows of captures told by their shape: {}, beside {clear} clear ones",
        shaped.len()
    );
    let has = |what: &str| shaped.iter().any(|(_, label)| label.contains(what));
    ensure!(has("IPSec") && has("OpenVPN"), "{shaped:?}");
    Ok(())
}

/// Under which sum a flow is counted, and why it disagrees with its label, if it does.
fn compare(label: &Label, judged: &Judged) -> Option<(&'static str, Option<String>)> {
    if !label.by_content || judged.payload == 0 {
        return Some(("not_judged", None));
    }
    let accepts = ACCEPTED.iter().any(|known| label.protocol_is(known));
    match (&judged.verdict, label.encrypted) {
        (Verdict::Accepted(_), true) => Some(("encrypted_accepted", None)),
        (Verdict::Accepted(class), false) => Some((
            "clear_accepted",
            Some(format!("it was taken for encrypted, {}", class.name())),
        )),
        (_, false) => Some(("clear_refused", None)),
        (_, true) if !accepts => Some(("encrypted_other", None)),
        (_, true) if !judged.complete => Some(("not_judged", None)),
        (Verdict::Refused(why), true) => Some((
            if why.is_of_the_rule() {
                "encrypted_refused_by_rule"
            } else {
                "encrypted_rejected"
            },
            Some(why.reason()),
        )),
        // Nothing of it was refused, and the capture ends before its keys are in use.
        (Verdict::Open, true) => Some(("not_judged", None)),
    }
}
