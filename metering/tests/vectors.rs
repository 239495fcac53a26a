//! The golden vectors of `docs/METERING.md`, M-11.7: what is in the file is what this library writes and
//! reads, and what a reader that knows the page alone makes of it.
//!
//! `OCTROI_REGENERATE=1` writes the file anew. A changed byte is a changed bill: it needs a new version of
//! the record, unless the version was never released.

#[path = "vectors/accepted.rs"]
mod accepted;
#[path = "vectors/fields.rs"]
mod fields;
#[path = "vectors/flows.rs"]
mod flows;
#[path = "vectors/refused.rs"]
mod refused;

use fields::hex;
use metering::record::{Record, leaf_hash};
use serde_json::{Value, json};
use std::{fs, io, path::PathBuf, process::Command};

/// The secret of the vectors' ledger.
const SECRET: [u8; 32] = *b"octroi golden vectors, no secret";

fn at(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

const FILE: &str = "vectors/records.json";

/// What the file has to say.
fn vectors() -> Value {
    let accepted = accepted::all().into_iter().map(|(name, record)| {
        assert_eq!(record.check(), Ok(()), "{name}");
        let bytes = record.encode();
        json!({
            "name": name,
            "fields": fields::of(&record),
            "hex": hex(&bytes),
            "leaf": hex(&leaf_hash(&bytes)),
        })
    });
    let refused = refused::all()
        .into_iter()
        .map(|(name, bytes, error)| json!({ "name": name, "hex": hex(&bytes), "error": error }));
    json!({
        "version": "1",
        "secret": hex(&SECRET),
        "accepted": accepted.collect::<Vec<_>>(),
        "refused": refused.collect::<Vec<_>>(),
    })
}

fn file() -> Value {
    let text = fs::read_to_string(at(FILE)).expect(FILE);
    serde_json::from_str(&text).expect(FILE)
}

fn bytes(hex: &Value) -> Vec<u8> {
    let digits = hex.as_str().expect("hex").as_bytes();
    let byte = |two: &[u8]| {
        let two = str::from_utf8(two).expect("ASCII");
        u8::from_str_radix(two, 16).expect("hex")
    };
    digits.chunks(2).map(byte).collect()
}

/// Each entry of a list: its name, its bytes, and all of it.
fn entries<'a>(file: &'a Value, list: &str) -> Vec<(&'a str, Vec<u8>, &'a Value)> {
    let entries = file[list].as_array().expect(list);
    let entry = |entry: &'a Value| {
        let name = entry["name"].as_str().expect("a name");
        (name, bytes(&entry["hex"]), entry)
    };
    entries.iter().map(entry).collect()
}

#[test]
fn the_vectors_are_what_this_library_writes() {
    let vectors = vectors();
    if std::env::var_os("OCTROI_REGENERATE").is_some() {
        let text = serde_json::to_string_pretty(&vectors).expect("it is JSON");
        fs::write(at(FILE), text + "\n").expect(FILE);
    }
    let file = file();
    for list in ["accepted", "refused"] {
        let (old, new) = (file[list].as_array(), vectors[list].as_array());
        let both = old.into_iter().flatten().zip(new.into_iter().flatten());
        for (old, new) in both {
            assert_eq!(new, old, "{list}: {}", old["name"]);
        }
    }
    assert_eq!(vectors, file);
}

#[test]
fn the_vectors_are_what_this_library_reads() {
    let file = file();
    let accepted = entries(&file, "accepted");
    for (name, bytes, entry) in &accepted {
        let record = Record::decode(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(fields::of(&record), entry["fields"], "{name}");
        assert_eq!(record.encode(), *bytes, "{name}");
        assert_eq!(hex(&leaf_hash(bytes)), entry["leaf"], "{name}");
    }
    let refused = entries(&file, "refused");
    for (name, bytes, entry) in &refused {
        let word = Record::decode(bytes).map_err(|error| error.word());
        assert_eq!(word.err(), entry["error"].as_str(), "{name}");
    }
    println!("CASES: record vectors accepted: {}", accepted.len());
    println!("CASES: record vectors refused: {}", refused.len());
}

/// The reader in Python knows the page, and nothing of this library.
#[test]
fn a_reader_written_from_the_page_alone_agrees() {
    const LINES_MAX: usize = 220;
    let reader = at("../tests/verify/record.py");
    let text = fs::read_to_string(&reader).expect("tests/verify/record.py");
    assert!(
        text.lines().count() <= LINES_MAX,
        "more than {LINES_MAX} lines"
    );
    let output = Command::new("python3").arg(reader).arg(at(FILE)).output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("SKIPPED: a_reader_written_from_the_page_alone_agrees: there is no python3");
            return;
        }
        output => output.expect("python3"),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    let file = file();
    let count = |list| entries(&file, list).len();
    let (accepted, refused) = (count("accepted"), count("refused"));
    assert_eq!(
        said.trim(),
        format!("{accepted} accepted, {refused} refused")
    );
    println!(
        "CASES: record vectors checked in Python: {}",
        accepted + refused
    );
}
